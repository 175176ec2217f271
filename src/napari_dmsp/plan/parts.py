"""A plan: what is restored, how, and in which parts. No torch before a job is prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DmspError
from ..windows import Grid, Window, ratio
from .axes import ArraySource, Axes, Pixels, Plane, Source, output_dtype, say_plane

if TYPE_CHECKING:
    from fractions import Fraction

    from ..core import Job

SURVEYS = ("plane", "stack")
# Sides of the image on which options are tried: enough to look for a PSF in it, and few enough to
# take no time.
PROBE_SIDE, LARGEST_PROBE = 64, 1024


@dataclass(frozen=True, eq=False)
class Task:
    """A restoration as the user wants it, for any plane; it may be sent to workers.

    Attributes
    ----------
    name : str
        "deblur", "superres" or "demosaic".
    options : dict
        Arguments of ``core.prepare_deblur`` and its like, but image, mask and channel axis.
    """

    name: str
    options: dict[str, Any]

    @property
    def blind(self) -> bool:
        """Whether the point spread function is unknown."""
        return self.name == "deblur" and self.options.get("psf") is None

    @property
    def makes_colour(self) -> bool:
        """Whether a grey source gives a result in colour."""
        return self.name == "demosaic"

    @property
    def scale(self) -> float:
        """Pixels of the result per pixel of the source, along one axis."""
        scale: float = self.options.get("scale", 1)
        return scale

    @property
    def factor(self) -> Fraction:
        """The scale as a ratio of small numbers, as near as can be."""
        return ratio(self.scale)

    @property
    def device(self) -> str:
        """Where to compute, as the user gave it."""
        device: str = self.options.get("device", "auto")
        return device

    def replace(self, **options: Any) -> Task:
        """Return a task with some options changed."""
        return replace(self, options=self.options | options)

    def job(self, pixels: Pixels, mask: Pixels | None = None, **known: Any) -> Job:
        """Prepare the restoration of a plane (h, w) or (h, w, colours).

        ``known`` replaces options.
        """
        from .. import core

        prepare = getattr(core, f"prepare_{self.name}")
        axis = None if pixels.ndim == 2 else -1
        job: Job = prepare(pixels, channel_axis=axis, mask=mask, **(self.options | known))
        return job

    def check(self, colour: bool, device: str | None = None) -> None:
        """Try the options on an image that suits all good ones, to find a bad one at once.

        Parameters
        ----------
        colour : bool
            Whether images may be in colour, which priors of either kind fit.
        device : str, optional
            Where to try them; that of the options by default.
        """
        psf, psf_size = self.options.get("psf"), self.options.get("psf_size")
        side = max(PROBE_SIDE, 4 * (psf_size or 0), *np.shape(() if psf is None else psf))
        if side > LARGEST_PROBE:
            return
        ramp = _make_ramp(side, self.options.get("background"), self.options.get("white"))
        task = self if device is None else self.replace(device=device)
        task.job(np.stack([ramp] * 3, axis=-1) if colour else ramp)

    def record(self) -> dict[str, Any]:
        """Return all that a result depends on, as JSON knows it; devices differ a little only."""
        from ..core import load_prior

        prior = self.options.get("prior")
        if prior is not None:
            model = load_prior(prior)
            prior = [model.name, model.sha256]
        known = self.options | {"prior": prior, "device": None}
        plain = {name: _plain(value) for name, value in sorted(known.items())}
        return {"task": self.name, "options": plain, "version": version("napari-dmsp")}


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; of arrays, what tells them apart."""
    if value is None or isinstance(value, str | bool | int | float | list):
        return value
    array = np.ascontiguousarray(value)
    about = {"shape": list(array.shape), "dtype": str(array.dtype)}
    return about | {"sha256": hashlib.sha256(array.tobytes()).hexdigest()}


@dataclass(frozen=True)
class Part:
    """A part of a plane, or all of it.

    Attributes
    ----------
    number : int
        Its place among the parts, from 0.
    plane : tuple of int
        Steps of the walked axes.
    index : tuple of int
        Row and column in the grid.
    window : tuple of slice
        What is read of the source.
    target : tuple of slice
        What is written of the result.
    crop : tuple of slice
        Rows and columns of the restored window that are the part.
    """

    number: int
    plane: Plane
    index: tuple[int, int]
    window: Window
    target: Window
    crop: tuple[slice, slice]

    @property
    def name(self) -> str:
        """Indices with points between them, for names of files."""
        return ".".join(map(str, (*self.plane, *self.index)))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is restored, how, and in which parts.

    Attributes
    ----------
    task : Task
        The restoration.
    source : Source
        What is restored.
    axes : Axes
        Of the source.
    grid : Grid
        How planes are cut: not at all, into parts, or to a region.
    mask : Source or None
        True where pixels are missing: (rows, columns) for all planes; or of the shape of the
        source, with or without its colours.
    survey : {"plane", "stack"}
        Whether every plane has a range, a noise level and an unknown point spread function of its
        own, or all share those of some planes.
    dtype : dtype
        Of the result.
    """

    task: Task
    source: Source
    axes: Axes
    grid: Grid
    mask: Source | None = None
    survey: str = "plane"
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(
        cls,
        task: Task,
        data: Any,
        axes: Axes,
        *,
        grid: Grid | None = None,
        mask: Any = None,
        survey: str = "plane",
        dtype: Any = None,
    ) -> Plan:
        """Plan the restoration of an array, or of another `Source`.

        Parameters
        ----------
        task : Task
            The restoration.
        data : array_like or Source
            What is restored.
        axes : Axes
            Of the data.
        grid : Grid, optional
            By default planes are not cut.
        mask : array_like or Source, optional
            True where pixels are missing.
        survey : {"plane", "stack"}
            What planes share.
        dtype : dtype or "input", optional
            See `output_dtype`.

        Raises
        ------
        DmspError
            For what cannot be restored, whatever its pixels are.
        """
        if survey not in SURVEYS:
            raise DmspError(f"survey={survey!r} is unknown; use 'plane' or 'stack'.")
        source = _as_source(data)
        if source.dtype.kind not in "buif":
            raise DmspError(f"dtype {source.dtype} is not a real number; convert it first.")
        if task.makes_colour and axes.colours is not None:
            raise DmspError(
                f"a source of shape {axes.shape} is in colour already; a mosaic has one channel."
            )
        gaps = None if mask is None else _as_source(mask)
        if gaps is not None:
            forms = [axes.size, _without(axes.shape, axes.colours), axes.shape]
            if gaps.shape not in forms:
                shapes = " or ".join(map(str, dict.fromkeys(forms)))
                raise DmspError(f"mask has shape {gaps.shape}; expected {shapes}.")
        grid = grid or Grid.whole(axes.size, task.scale)
        return cls(task, source, axes, grid, gaps, survey, output_dtype(source.dtype, dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result: that of the source, with a new last axis for new colours."""
        return self.axes.resized(self.grid.shape, 3 if self.task.makes_colour else None)

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, plane by plane."""
        rows, columns = self.grid.rows, self.grid.columns
        found: list[Part] = []
        for plane in self.axes.planes:
            for i, j in self.grid.indices:
                spans = zip(
                    (rows.windows[i], rows.targets[i], rows.crops[i]),
                    (columns.windows[j], columns.targets[j], columns.crops[j]),
                    strict=True,
                )
                window, target, crop = ((slice(*down), slice(*right)) for down, right in spans)
                written = self.axes.window(plane, *target)
                if self.task.makes_colour:
                    written = (*written, slice(0, 3))
                read = self.axes.window(plane, *window)
                found.append(Part(len(found), plane, (i, j), read, written, crop))
        return found

    @property
    def is_lone(self) -> bool:
        """Whether there is one plane, in one part: what cannot be restored of it is an error."""
        return len(self.axes.planes) * len(self.grid) == 1

    @property
    def needs_surveys(self) -> bool:
        """Whether parts must share what none of them shows alone."""
        return self.grid.is_cut or (self.survey == "stack" and len(self.axes.planes) > 1)

    def readers(self, window: Window) -> Readers:
        """Return what reads the pixels of a window, and its mask."""
        pixels = self.source.reader(window)
        if self.mask is None:
            return Readers(self.axes, pixels)
        axes, shape = self.axes, self.mask.shape
        shared = shape == axes.size
        if shared:
            window = window[axes.rows], window[axes.columns]
        elif len(shape) < len(axes.shape):
            window = _without(window, axes.colours)
        return Readers(axes, pixels, self.mask.reader(window), shared)

    def read(self, plane: Plane, rows: slice, columns: slice) -> tuple[Pixels, Pixels | None]:
        """Read a part of a plane (h, w) or (h, w, colours), and its mask."""
        return self.readers(self.axes.window(plane, rows, columns))()


@dataclass(frozen=True, eq=False)
class Readers:
    """Reads a window and its mask as a plane; it may be sent to another process.

    ``shared`` says that the mask is one of rows and columns for all planes.
    """

    axes: Axes
    pixels: Callable[[], Pixels]
    mask: Callable[[], Pixels] | None = None
    shared: bool = False

    def __call__(self) -> tuple[Pixels, Pixels | None]:
        """Return the pixels (h, w) or (h, w, colours), and where they are missing."""
        plane = self.axes.flatten(self.pixels())
        if self.mask is None:
            return plane, None
        gaps = self.mask()
        if gaps.dtype != bool and not np.isin(gaps, (0, 1)).all():
            raise DmspError("mask must be boolean: True where a pixel is missing or unreliable.")
        gaps, ndim = gaps.astype(bool), len(self.axes.shape)
        if self.shared:
            return plane, gaps
        if gaps.ndim == ndim:
            return plane, self.axes.flatten(gaps)
        assert self.axes.colours is not None
        return plane, self.axes.flatten(np.expand_dims(gaps, self.axes.colours))[..., 0]


def constant_pixel(pixels: Pixels, mask: Pixels | None = None) -> Pixels | None:
    """Return the value of every colour where each has one value only; None for all else.

    Parameters
    ----------
    pixels : ndarray
        (h, w), or (h, w, colours).
    mask : ndarray, optional
        True where pixels are missing; (h, w), or of the shape of the pixels.
    """
    colours = pixels.reshape(*pixels.shape[:2], -1)
    gaps = (
        None if mask is None else np.broadcast_to(mask.reshape(*mask.shape[:2], -1), colours.shape)
    )
    values = []
    for k in range(colours.shape[-1]):
        seen = colours[..., k] if gaps is None else colours[..., k][~gaps[..., k]]
        if not seen.size or not np.isfinite(seen.flat[0]) or (seen != seen.flat[0]).any():
            return None
        values.append(seen.flat[0])
    return np.array(values)


def fingerprint(plan: Plan, source: str) -> str:
    """Return a hash of all that a result depends on: settings, prior, ``source``, form."""
    grid = [list(lines.windows) for lines in (plan.grid.rows, plan.grid.columns)]
    form = {"shape": plan.shape, "dtype": str(plan.dtype), "survey": plan.survey, "grid": grid}
    known = plan.task.record() | {"source": source, "form": form}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _make_ramp(side: int, low: float | None, high: float | None) -> NDArray[np.float64]:
    """Make an image from black to white where those are sensible; else let others complain."""
    if low is None:
        low = 0.0 if high is None else high - 1
    if high is None:
        high = low + 1
    if not -np.inf < low < high < np.inf:
        low, high = 0.0, 1.0
    return np.linspace(low, high, side * side).reshape(side, side)


def _as_source(data: Any) -> Source:
    if hasattr(data, "reader"):
        source: Source = data
        return source
    known = all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__"))
    return ArraySource.of(data if known else np.asarray(data))


def _without(values: tuple[Any, ...], axis: int | None) -> tuple[Any, ...]:
    return tuple(value for i, value in enumerate(values) if i != axis)


__all__ = ["Part", "Plan", "Readers", "Task", "constant_pixel", "fingerprint", "say_plane"]
