"""What a plan will take: evaluations, pixels, memory, tiles. No torch: panels ask before a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..priors import is_fluorescence
from ..windows import BASE_BYTES, CPU_TILE, MIN_SIDE, memory_bytes, spans
from .parts import Plan

# Evaluations of the prior by task; of fluorescence that is deblurred, of the published descent, and
# of volumes.
EVALUATIONS = {"deblur": 24, "superres": 30, "demosaic": 24}
FLUORESCENCE_EVALUATIONS, DESCENT_EVALUATIONS, VOLUME_EVALUATIONS = 36, 300, 10
# Side in pixels of what is looked at.
LOOKED_AT = 512


@dataclass(frozen=True)
class Forecast:
    """What a plan will take.

    Attributes
    ----------
    planes : int
        How many there are.
    megapixels : float
        Of the result, margins that are restored too among them, all planes together.
    evaluations : int
        Of the prior, for a plane, once the point spread function is known.
    memory : int
        Greatest memory of a part, with torch, in bytes.
    tiles : int
        Into which a part is cut for the prior.
    """

    planes: int
    megapixels: float
    evaluations: int
    memory: int
    tiles: int


def forecast(plan: Plan) -> Forecast:
    """Return what a plan will take; it looks at the middle of a plane, if that is in memory."""
    task, grid, factors = plan.task, plan.grid, plan.task.magnification
    height, width = (round(n * f) for n, f in zip(grid.largest, factors, strict=True))
    tile = CPU_TILE if task.tile == "auto" else task.tile
    channels = 3 if task.makes_colour or plan.axes.colours is not None else 1
    depth = 1 if plan.axes.depth is None else plan.axes.shape[plan.axes.depth]
    pixels = sum(
        math.prod(round((b - a) * f) for (a, b), f in zip((rows, columns), factors, strict=True))
        for rows in grid.rows.windows
        for columns in grid.columns.windows
    )
    return Forecast(
        len(plan.axes.planes),
        pixels * depth * len(plan.axes.planes) / 1e6,
        _count_evaluations(plan),
        BASE_BYTES + memory_bytes((height, width), channels * depth, tile),
        math.prod(len(spans(n, tile or n)) for n in (height, width)),
    )


def _count_evaluations(plan: Plan) -> int:
    """Return how often the prior is evaluated for a plane, once its PSF is known."""
    task, usual = plan.task, EVALUATIONS["deblur"]
    if task.iterations is not None:
        return task.iterations
    if plan.axes.depth is not None:
        return VOLUME_EVALUATIONS
    if task.method == "sgd":
        return DESCENT_EVALUATIONS
    if task.finds_psf and not task.blind and plan.axes.colours is None and _looks_dark(plan):
        return FLUORESCENCE_EVALUATIONS
    return EVALUATIONS.get(task.task, usual)


def _looks_dark(plan: Plan) -> bool:
    """Whether the middle of the plane in the middle looks like fluorescence."""
    if not isinstance(getattr(plan.source, "data", None), np.ndarray):
        return False
    planes = plan.axes.planes
    rows, columns = (
        slice(max(0, (n - LOOKED_AT) // 2), (n + LOOKED_AT) // 2) for n in plan.axes.size
    )
    window = plan.axes.window(planes[len(planes) // 2], rows, columns)
    pixels = plan.axes.flatten(plan.source.reader(window)()).astype(np.float64)
    if min(pixels.shape) < MIN_SIDE or not np.isfinite(pixels).all():
        return False
    return is_fluorescence(pixels[None])
