"""A plan: what is restored, how, and in which parts. No torch before a job is prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..dtypes import output_dtype
from ..errors import DmspError
from ..settings import AUTO_MASK, Settings
from ..windows import Grid, Window
from .axes import ArraySource, Axes, Pixels, Plane, Source

if TYPE_CHECKING:
    from ..core import Job

SURVEYS = ("plane", "stack")
# Sides of the image on which options are tried: enough to look for a PSF in it, and few enough to
# take no time.
PROBE_SIDE, LARGEST_PROBE = 64, 1024


def prepare(task: Settings, pixels: Pixels, mask: Any = None, **known: Any) -> Job:
    """Prepare the restoration of a plane (h, w) or (h, w, colours), or of a volume (d, h, w).

    ``known`` replaces options.
    """
    from ..core.tasks import prepare_task

    axis = None if pixels.ndim == task.space else -1
    return prepare_task(task, pixels, channel_axis=axis, mask=mask, **known)


def try_settings(task: Settings, colour: bool, device: str | None = None) -> None:
    """Try settings on an image that suits all good ones, to find bad ones at once.

    In ``colour``, priors of either kind fit.
    """
    # Noise may be anything in the units of an image that is not known yet.
    task = task.replace(noise=None)
    psf, psf_size = getattr(task, "psf", None), getattr(task, "psf_size", None)
    volume = task.space == 3
    # Of volumes, a PSF may be as large as it likes.
    sides = () if psf is None or volume else np.shape(psf)
    side = max(PROBE_SIDE, 4 * (psf_size or 0), *sides)
    if side > LARGEST_PROBE:
        return
    ramp = _make_ramp(side, task.background, getattr(task, "white", None))
    if volume:
        task, image = for_channel(task, 0), np.stack([ramp] * 2)
    else:
        image = np.stack([ramp] * 3, axis=-1) if colour and not task.makes_colour else ramp
    prepare(task, image, device=device or task.device)


def for_channel(task: Settings, channel: int) -> Settings:
    """Take the PSF of a channel, where there is one for each."""
    psf: Any = getattr(task, "psf", None)
    return (
        task if task.space < 3 or np.ndim(psf) < 4 else task.replace(psf=np.asarray(psf)[channel])
    )


@dataclass(frozen=True)
class Part:
    """A part of a plane, or all of it."""

    # Place among the parts, from 0.
    number: int
    # Steps of the walked axes.
    plane: Plane
    # Row and column in the grid.
    index: tuple[int, int]
    # What is read of the source.
    window: Window
    # What is written of the result.
    target: Window
    # Rows and columns of the restored window that are the part, of volumes all planes first.
    crop: Window

    @property
    def name(self) -> str:
        """Indices with points between them, for names of files."""
        return ".".join(map(str, (*self.plane, *self.index)))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is restored, how, and in which parts."""

    # The restoration; how it takes channels and masks is said here.
    task: Settings
    # What is restored.
    source: Source
    # Axes of the source.
    axes: Axes
    # How planes are cut: not at all, into parts, or to a region.
    grid: Grid
    # True where pixels are missing: (rows, columns) for all planes; or of the shape of the source,
    # with or without its colours.
    mask: Source | None = None
    # Whether every plane has a range, a noise level and an unknown point spread function of its
    # own, or all share those of some planes.
    survey: str = "plane"
    # Type of the pixels of the result.
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(
        cls,
        task: Settings,
        data: Any,
        axes: Axes,
        *,
        grid: Grid | None = None,
        mask: Any = None,
        survey: str = "plane",
        dtype: Any = None,
    ) -> Plan:
        """Plan the restoration of an array, or of another `Source`.

        By default planes are not cut, and the mask is that of the settings. The dtype may be
        "input", see `output_dtype`.

        Raises
        ------
        DmspError
            For what cannot be restored, whatever its pixels are.
        """
        if not isinstance(survey, str) or survey not in SURVEYS:
            raise DmspError(f"survey={survey!r} is unknown; use 'plane' or 'stack'.")
        if isinstance(data, np.ma.MaskedArray) and mask is None and task.mask is None:
            data, mask = data.data, np.ma.getmaskarray(data)
        source = _as_source(data)
        psfs: tuple[int, ...] = np.shape(getattr(task, "psf", ())) if task.space == 3 else ()
        steps = 1 if axes.channels is None else axes.shape[axes.channels]
        if len(psfs) > 4 or (len(psfs) == 4 and psfs[0] != steps):
            raise DmspError(
                f"psf has shape {psfs}; expected (Z, Y, X), or one for each of {steps} channels."
            )
        if source.dtype.kind not in "buif":
            raise DmspError(f"image dtype {source.dtype} is not a real number; convert it first.")
        if task.makes_colour and axes.colours is not None:
            raise DmspError(
                f"a source of shape {axes.shape} is in colour already; a mosaic has one channel."
            )
        mask = task.mask if mask is None else mask
        automatic = isinstance(mask, str)
        if automatic and mask != AUTO_MASK:
            raise DmspError(f"mask={mask!r} is unknown; give an array, or 'auto'.")
        gaps = None if mask is None or automatic else _as_source(mask)
        if gaps is not None:
            # One for each step, one for all, and of volumes also one plane for all.
            volume = [] if axes.depth is None else [(axes.shape[axes.depth], *axes.size)]
            forms = [*volume, axes.size, _without(axes.shape, axes.colours), axes.shape]
            if gaps.shape not in forms:
                shapes = " or ".join(map(str, dict.fromkeys(forms)))
                raise DmspError(f"mask has shape {gaps.shape}; expected {shapes}.")
        grid = grid or Grid.whole(axes.size, task.magnification)
        task = task.replace(mask=AUTO_MASK if automatic else None, channel_axis=None)
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
                window, target, inner = ((slice(*down), slice(*right)) for down, right in spans)
                written = self.axes.window(plane, *target)
                if self.task.makes_colour:
                    written = (*written, slice(0, 3))
                read = self.axes.window(plane, *window)
                crop = inner if self.axes.depth is None else (slice(None), *inner)
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
            return Readers(self.axes, pixels, automatic=self.task.mask == AUTO_MASK)
        axes, shape = self.axes, self.mask.shape
        shared = shape == axes.size or (axes.depth is not None and len(shape) < len(axes.shape))
        if shared:
            space = [axis for axis in axes.last if axis != axes.colours]
            window = tuple(window[axis] for axis in space[-len(shape) :])
        elif len(shape) < len(axes.shape):
            window = _without(window, axes.colours)
        return Readers(axes, pixels, self.mask.reader(window), shared)

    def read(self, plane: Plane, rows: slice, columns: slice) -> tuple[Pixels, Pixels | None]:
        """Read a part of a plane (h, w) or (h, w, colours), and its mask."""
        return self.readers(self.axes.window(plane, rows, columns))()


@dataclass(frozen=True, eq=False)
class Readers:
    """Reads a window and its mask as a plane or a volume; it may be sent to another process.

    ``shared`` says that the mask is one for all of them, ``automatic`` that it
    marks what is bad in the pixels themselves.
    """

    axes: Axes
    pixels: Callable[[], Pixels]
    mask: Callable[[], Pixels] | None = None
    shared: bool = False
    automatic: bool = False

    def __call__(self) -> tuple[Pixels, Pixels | None]:
        """Return the pixels (h, w) or (h, w, colours), and where they are missing."""
        plane = self.axes.flatten(self.pixels())
        if self.automatic:
            from ..core.inputs import bad_pixels

            return plane, bad_pixels(plane)
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


def constant_pixel(pixels: Pixels, mask: Pixels | None = None, space: int = 2) -> Pixels | None:
    """Return the value of every colour of (h, w) or (h, w, colours) where each has one value only.

    The mask is of ``space`` axes too, or of the shape of the pixels. None for all else.
    """
    if space == 3:
        mask = None if mask is None else np.broadcast_to(mask, pixels.shape).reshape(-1, 1)
        pixels = pixels.reshape(-1, 1)
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
    from ..core import load_prior

    prior = plan.task.prior
    if prior is not None:
        model = load_prior(prior)
        prior = [model.name, model.sha256]
    grid = [list(lines.windows) for lines in (plan.grid.rows, plan.grid.columns)]
    form = [plan.shape, str(plan.dtype), plan.survey, grid, version("napari-dmsp")]
    # Devices differ a little only.
    known = plan.task.replace(device="").record() | {"prior": prior}
    text = json.dumps([known, source, form], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _make_ramp(side: int, low: Any, high: Any) -> NDArray[np.float64]:
    """Make an image from black to white where those are sensible; else let others complain."""
    # There may be one for each filter.
    low, high = (None if level is None else float(np.mean(level)) for level in (low, high))
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
