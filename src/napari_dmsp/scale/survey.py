"""Surveys: what the tiles of a plane share, found in samples of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from numpy.typing import NDArray

from ..core import Reference, run
from ..core.blind import BlindState
from ..core.inputs import Units
from ..core.noise import ShotLine
from ..core.tasks import KERNEL_NOISE
from .stacks import Pixels, layer
from .tasks import Task, say_plane
from .tiles import Grid, Span, block_key, contrast, cut, plane_of

# Side in pixels of the sample that is restored to find the noise level of a plane.
SAMPLE = 1024
# Windows from which the sample is chosen, and blocks of the overview, along either axis.
CANDIDATES = 3
BLOCKS, BLOCK = 8, 128
# Planes from which the survey of a whole stack takes them.
SURVEYED_PLANES = 3
SURVEY = "dmsp-survey-"


@dataclass(frozen=True, eq=False)
class Survey:
    """What the tiles of a plane share.

    Attributes
    ----------
    reference : Reference
        Black, the range, and what else follows from the whole plane.
    noise_sigma : float
        Noise level in the units of the plane.
    psf : ndarray or None
        The point spread function found, float32; None where it was given, or there is none.
    """

    reference: Reference
    noise_sigma: float
    psf: NDArray[np.float32] | None = None

    def to_json(self) -> str:
        """Write it down, exactly."""
        psf = None if self.psf is None else self.psf.tolist()
        values = {"reference": asdict(self.reference), "noise_sigma": self.noise_sigma, "psf": psf}
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Survey | None:
        """Undo `to_json`; "null" is the survey of a constant plane."""
        values = json.loads(text)
        if values is None:
            return None
        known = values["reference"]
        bounds = known["units"].pop("bounds")
        reference = Reference(
            Units(**known["units"], bounds=bounds and tuple(bounds)),
            known["fluorescence"],
            known["shot"] and ShotLine(**known["shot"]),
            known["encoding"] and tuple(known["encoding"]),
        )
        psf = values["psf"]
        return cls(
            reference, values["noise_sigma"], None if psf is None else np.array(psf, np.float32)
        )


@dataclass(frozen=True, eq=False)
class _Surveyor:
    """Makes the survey of a plane; called with lists of samples and of their masks."""

    task: Task
    where: str

    def __call__(
        self, samples: list[list[Pixels]], masks: list[list[Pixels]] | None
    ) -> Survey | None:
        """Survey the planes of which ``samples`` holds an overview and windows each."""
        overview, *rest = _merge(samples)
        gaps = [None] * (1 + len(rest)) if masks is None else _merge(masks)
        windows = list(zip(rest, gaps[1:], strict=True))
        window, mask = max(windows, key=lambda pair: contrast(*pair))
        with self.task.at_work(self.where):
            return _survey(self.task, (overview, gaps[0]), (window, mask))


def _survey(
    task: Task,
    overview: tuple[Pixels, Pixels | None],
    sample: tuple[Pixels, Pixels | None],
) -> Survey | None:
    """Find what tiles share: units in the overview, noise and kernel in the sample, (h, w, C)."""
    if contrast(*overview) == 0:
        overview = sample
    if contrast(*overview) == 0:
        return None
    known: dict[str, Any] = {}
    if task.blind:
        # The kernel is known from the first step of the restoration on.
        known["psf"] = run(task.job(*sample), lambda state: not isinstance(state, BlindState)).psf
    reference = task.job(*overview, **known).reference
    sigma = task.arguments.get("noise_sigma")
    if sigma is None:
        sigma = run(task.job(*sample, **known, reference=reference)).noise_sigma
        if task.blind:
            sigma = max(sigma, KERNEL_NOISE * reference.units.scale)
    return Survey(reference, sigma, known.get("psf"))


def make_surveys(
    source: da.Array, gaps: da.Array | None, task: Task, shared: bool, grid: Grid, token: str
) -> da.Array:
    """Return the surveys of all planes (..., 1, 1, 1), or one for all of them."""
    views = []
    for side, count in ((BLOCK, BLOCKS), (SAMPLE, CANDIDATES)):
        spans = [
            _spread(lines.size, side, count, step)
            for lines, step in zip((grid.rows, grid.columns), grid.steps, strict=True)
        ]
        views.append(spans)
    overview, windows = (cut(source, *spans) for spans in views)
    masks = None if gaps is None else tuple(cut(gaps, *spans) for spans in views)
    lead = source.ndim - 3
    planes = list(np.ndindex(source.shape[:lead]))
    if shared:
        chosen = np.linspace(0, len(planes) - 1, min(SURVEYED_PLANES, len(planes))).astype(int)
        groups = {(0,) * lead: [planes[i] for i in chosen]}
    else:
        groups = {plane: [plane] for plane in planes}
    name, tasks = f"{SURVEY}{token}", {}
    for index, members in groups.items():
        where = "stack" if shared else say_plane(index)
        tasks[(name, *index, 0, 0, 0)] = (
            _Surveyor(task, where),
            [_samples(overview, windows, plane) for plane in members],
            None if masks is None else [_samples(masks[0], masks[1], plane) for plane in members],
        )
    sizes = (1,) * lead if shared else source.shape[:lead]
    chunks = (*((1,) * n for n in sizes), (1,), (1,), (1,))
    needed = [overview, windows, *(masks or [])]
    return layer(name, tasks, needed, chunks, np.dtype(object))


def _spread(size: int, side: int, count: int, step: int) -> tuple[Span, ...]:
    """Spread at most ``count`` spans of about ``side`` pixels over an axis that has more."""
    if size <= SAMPLE:
        return ((0, size),)
    side = math.ceil(side / step) * step
    count = min(count, math.ceil(size / side))
    begins = np.linspace(0, size - side, count) // step * step
    return tuple((int(begin), int(begin) + side) for begin in begins)


def _samples(overview: da.Array, windows: da.Array, plane: Sequence[int]) -> list[Any]:
    """Keys of the blocks of a plane's overview, as rows of them, and those of its windows."""
    rows, columns = overview.numblocks[-3:-1]
    blocks = [[block_key(overview, (*plane, i, j, 0)) for j in range(columns)] for i in range(rows)]
    found = product(*(range(n) for n in windows.numblocks[-3:-1]))
    return [blocks, *(block_key(windows, (*plane, i, j, 0)) for i, j in found)]


def _merge(samples: list[list[Any]]) -> list[Pixels]:
    """One overview of all planes, below each other, and all windows; (h, w, C) each."""
    overviews = [
        np.concatenate([np.concatenate([plane_of(b) for b in row], 1) for row in blocks])
        for blocks, *_ in samples
    ]
    return [np.concatenate(overviews), *(plane_of(w) for _, *windows in samples for w in windows)]


def find_surveys(array: da.Array) -> da.Array | None:
    """Return the surveys on which an array depends."""
    graph = array.__dask_graph__()
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {}
    name = next((name for name in layers if name.startswith(SURVEY)), None)
    if name is None:
        return None
    indices = np.array([key[1:] for key in layers[name] if isinstance(key, tuple)])
    chunks = tuple((1,) * int(n) for n in indices.max(0) + 1)
    return da.Array(graph, name, chunks, dtype=object)


def with_surveys(array: da.Array, name: str, records: Mapping[Any, Path]) -> da.Array:
    """Replace the surveys of an array by recorded ones."""
    graph: Any = array.__dask_graph__()
    values = {key: Survey.from_json(path.read_text("utf-8")) for key, path in records.items()}
    layers = {**graph.layers, name: MaterializedLayer(values)}
    graph = HighLevelGraph(layers, {**graph.dependencies, name: set()})
    return da.Array(graph, array.name, array.chunks, dtype=array.dtype)
