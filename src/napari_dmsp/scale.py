"""Restoration of arrays larger than memory, plane by plane and tile by tile, with dask.

A plane that is cut into tiles keeps one noise level, one range and one point spread function: its
`Survey`, which a sample of the plane gives. All is lazy until `write` or ``compute``.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import numpy as np
import tifffile
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._tiles import STRIDE
from .core import (
    DmspError,
    Job,
    Reference,
    load_prior,
    prepare_deblur,
    prepare_demosaic,
    prepare_superres,
    run,
)
from .core.blind import MAX_SIZE, MIN_SIDE, BlindState
from .core.inputs import Units, check_psf
from .core.mosaic import cfa_tile
from .core.noise import ShotLine
from .core.restore import KERNEL_NOISE
from .io import TIFF, check_folder, fit_dtype

try:
    import dask.array as da
    import zarr
    from dask import config
    from dask.base import compute, tokenize
    from dask.callbacks import Callback
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
    from dask.optimization import cull
except ImportError as error:
    raise DmspError(
        f"restoring stacks needs the package {error.name!r}; install it: "
        'pip install "napari-dmsp[scale]".'
    ) from error

# What a tile sees of its neighbours, beside half the point spread function: with less than 48
# pixels, results differ by more than 1/1000 of the range from those of whole planes.
HALO = 64
# Side in pixels of the sample that is restored to find the noise level of a plane.
SAMPLE = 1024
# Windows from which the sample is chosen, and blocks of the overview, along either axis.
CANDIDATES = 3
BLOCKS, BLOCK = 8, 128
# Planes from which the survey of a whole stack takes them.
SURVEYED_PLANES = 3
# Side of what is read at once from arrays in memory and uncompressed files.
READ = 2048
SURVEY = "dmsp-survey-"
CONNECT_SECONDS = 10
SPATIAL = ("z", "y", "x")
KINDS = {"t": "time", "c": "channel"} | dict.fromkeys(SPATIAL, "space")
UNITS = {"µm": "micrometer", "um": "micrometer", "micron": "micrometer", "nm": "nanometer"}

Span: TypeAlias = tuple[int, int]
Pixels: TypeAlias = NDArray[Any]
ZarrFormat: TypeAlias = Literal[2, 3]


@dataclass(frozen=True)
class Axis:
    """An axis of a stack.

    Attributes
    ----------
    name : str
        One letter: "t", "c", "z", "y", "x" or another.
    unit : str or None
        As OME-Zarr names it, such as "micrometer".
    spacing, origin : float
        Distance of pixels, and where the first one lies, in that unit.
    """

    name: str
    unit: str | None = None
    spacing: float = 1.0
    origin: float = 0.0

    def cut(self, begin: int, step: int) -> Axis:
        """Return the axis of every ``step``-th pixel from ``begin`` on."""
        return replace(self, spacing=self.spacing * step, origin=self.origin + begin * self.spacing)

    def refine(self, factor: float) -> Axis:
        """Return the axis of ``factor`` times as many pixels between the same outer edges."""
        spacing = self.spacing / factor
        return replace(self, spacing=spacing, origin=self.origin + (spacing - self.spacing) / 2)


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes on disk, read where they are needed.

    Attributes
    ----------
    array : dask.array.Array
        (..., H, W), or (..., H, W, 3) and the like, see ``channel_axis``.
    axes : tuple of Axis
        One per axis of the array; none where the file does not name them.
    channel_axis : int or None
        Axis of the red, green and blue of photographs. None for grey planes, those of the channels
        of a microscope among them.
    zarr_format : int
        For a result like it.
    path : Path or None
        What was opened.
    """

    array: da.Array
    axes: tuple[Axis, ...] = ()
    channel_axis: int | None = None
    zarr_format: ZarrFormat = 3
    path: Path | None = None

    def select(self, planes: Sequence[int | slice]) -> Stack:
        """Cut the first axes, like NumPy's indices, but for keeping axes where one plane is left.

        Raises
        ------
        DmspError
            Where nothing is left, or more is cut than leading axes.
        """
        lead = self.array.ndim - 2 - (self.channel_axis is not None)
        if len(planes) > lead:
            raise DmspError(f"planes={planes} cut {len(planes)} axes; there are {lead}.")
        cuts = [p if isinstance(p, slice) else slice(p, p + 1 or None) for p in planes]
        array, axes = self.array[tuple(cuts)], list(self.axes)
        if 0 in array.shape:
            raise DmspError(f"planes={planes} is no part of a stack of shape {self.array.shape}.")
        for i, cut in enumerate(cuts if axes else []):
            begin, _, step = cut.indices(self.array.shape[i])
            axes[i] = axes[i].cut(begin, step)
        return replace(self, array=array, axes=tuple(axes))


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


Source: TypeAlias = "Stack | da.Array | zarr.Array[Any] | zarr.Group | NDArray[Any] | str | Path"


def deblur(
    source: Source,
    psf: ArrayLike | None = None,
    *,
    psf_size: int | None = None,
    channel_axis: int | None = None,
    mask: ArrayLike | da.Array | None = None,
    tile: int | None = 1024,
    halo: int | None = None,
    survey: str = "plane",
    dtype: DTypeLike = np.float32,
    **options: Any,
) -> da.Array:
    """Deblur every plane of a stack, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W): planes that are restored one by one; or with colours along ``channel_axis``. A
        path is opened by `open_stack`.
    psf, psf_size
        As for `napari_dmsp.deblur`; one for all planes, or found for every survey.
    channel_axis : int, optional
        Axis of one or three colours that are restored together; by default that of the `Stack`.
    mask : array_like or dask array, optional
        True where pixels are missing: (H, W) for all planes, or one per plane (..., H, W).
    tile : int, optional
        About how many pixels of the result a tile has on a side; planes up to half as large again
        are not cut. It is the chunk of the result. None cuts no plane.
    halo : int, optional
        Pixels of its neighbours that a tile sees; by default 64 and half the point spread function.
        Rounded up.
    survey : {"plane", "stack"}
        Whether each plane has its own noise level, range and unknown point spread function, or all
        share those of some planes.
    dtype : dtype
        Of the result: float32, or an integer type to which values are rounded and clipped.
    **options
        ``noise_sigma``, ``prior``, ``method``, ``iterations``, ``background``, ``seed`` and
        ``device`` of `napari_dmsp.deblur`.

    Returns
    -------
    dask.array.Array
        The shape and the units of the source, one chunk per tile.

    Raises
    ------
    DmspError
        For input and options that suit no plane. What is wrong with the pixels of one plane shows
        when it is computed.

    Notes
    -----
    A plane that is one tile is restored as `napari_dmsp.deblur` does it. Of another one, a survey
    restores a window of 1024 x 1024 pixels, and takes the range from an overview of all of it.
    Tiles are cut without blending: with the default halo they differ from the restored whole by
    about 1/10000 of the range, but by about 1/100 for point spread functions that suppress some
    frequencies entirely, such as those of motion, and for ``method="sgd"``, which injects noise.
    Constant tiles stay as they are.
    """
    stack = _as_stack(source, channel_axis)
    given = None if psf is None else np.asarray(psf)
    largest = psf_size or MAX_SIZE if given is None else max(given.shape, default=0)
    arguments = {"psf": given, "psf_size": psf_size} | options
    task = _Task("deblur", prepare_deblur, arguments, np.dtype(dtype), stack.channel_axis)
    if halo is None:
        halo = HALO + math.ceil(largest / 2)
    return _restore(stack, task, mask, survey, tile, halo)


def superres(
    source: Source,
    scale: float,
    *,
    psf: ArrayLike | None = None,
    channel_axis: int | None = None,
    mask: ArrayLike | da.Array | None = None,
    tile: int | None = 1024,
    halo: int | None = None,
    survey: str = "plane",
    dtype: DTypeLike = np.float32,
    **options: Any,
) -> da.Array:
    """Raise the resolution of every plane of a stack, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W), or with colours along ``channel_axis``.
    scale : float
        Factor above 1 and up to 8. Where planes are cut into tiles, a ratio of small numbers, such
        as 2 or 1.5, that gives whole numbers of pixels.
    psf
        As for `napari_dmsp.superres`.
    halo : int, optional
        In pixels of the result.
    channel_axis, mask, tile, survey, dtype, **options
        As for `deblur`.

    Returns
    -------
    dask.array.Array
        (..., round(H * scale), round(W * scale)), one chunk per tile.

    Raises
    ------
    DmspError
        As for `deblur`.
    """
    stack = _as_stack(source, channel_axis)
    given = None if psf is None else np.asarray(psf)
    arguments = {"scale": scale, "psf": given} | options
    task = _Task("superres", prepare_superres, arguments, np.dtype(dtype), stack.channel_axis)
    if halo is None:
        halo = HALO + (0 if given is None else math.ceil(max(given.shape, default=0) / 2))
    return _restore(stack, task, mask, survey, tile, halo)


def demosaic(
    source: Source,
    pattern: str | ArrayLike = "RGGB",
    *,
    white: float | None = None,
    linear: bool | None = None,
    mask: ArrayLike | da.Array | None = None,
    tile: int | None = 1024,
    halo: int | None = None,
    survey: str = "plane",
    dtype: DTypeLike = np.float32,
    **options: Any,
) -> da.Array:
    """Turn every raw mosaic of a stack into a colour image, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W), one colour per pixel.
    pattern, white, linear
        As for `napari_dmsp.demosaic`; the pattern begins at the first pixel of every plane.
    mask, tile, halo, survey, dtype, **options
        As for `deblur`.

    Returns
    -------
    dask.array.Array
        (..., H, W, 3), one chunk per tile.

    Raises
    ------
    DmspError
        As for `deblur`.
    """
    stack = _as_stack(source, None)
    if stack.channel_axis is not None:
        raise DmspError(f"a source of shape {stack.array.shape} is in colour already.")
    name = pattern if isinstance(pattern, str) else np.asarray(pattern)
    arguments = {"pattern": name, "white": white, "linear": linear} | options
    task = _Task("demosaic", prepare_demosaic, arguments, np.dtype(dtype))
    return _restore(stack, task, mask, survey, tile, HALO if halo is None else halo)


def open_stack(path: str | Path) -> Stack:
    """Open a zarr array, the full resolution of an OME-Zarr image, or a TIFF file, lazily.

    Parameters
    ----------
    path : str or Path
        A zarr folder, also an array in it, or a .tif file: uncompressed ones are mapped to memory,
        others are read page by page.

    Raises
    ------
    DmspError
        For what is neither, or holds several images.
    """
    # Workers may run elsewhere.
    path = Path(path).absolute()
    if not path.exists():
        raise DmspError(f"{path} does not exist; check the name.")
    try:
        tiff = path.suffix.lower() in TIFF
        stack = _open_tiff(path) if tiff else _open_zarr(zarr.open(path, mode="r"))
        return replace(stack, path=path)
    except DmspError:
        raise
    # Decoders raise all sorts of errors for broken files.
    except Exception as error:
        raise DmspError(
            f"{path} cannot be read ({error}); expected a zarr array, an OME-Zarr image or a .tif "
            "file."
        ) from error


def write(
    array: da.Array,
    path: str | Path,
    *,
    like: Stack | str | Path | None = None,
    client: Any = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compute an array into a zarr folder, chunk by chunk; go on where a former call was stopped.

    Parameters
    ----------
    array : dask.array.Array
        From `deblur` and its like, or any other.
    path : str or Path
        The folder to write, ``*.zarr``. Beside it, ``*.zarr.progress`` holds the surveys and notes
        which chunks are done, until all are.
    like : Stack or path, optional
        The source, whose axes and pixel size the result gets as OME-Zarr; pixels are smaller where
        there are more of them. Colours are then written before the axes of space, as OME-Zarr wants
        it. None writes a plain array.
    client : distributed.Client, optional
        Whose workers compute; they must see ``path`` and the source under the same names. By
        default the scheduler that dask is set to: threads of this process.
    overwrite : bool
        Whether to replace an existing array, and an unfinished one of other input or settings.
    progress : callable, optional
        Called with how many surveys and chunks are done, and how many there are.

    Raises
    ------
    DmspError
        Where the output exists or cannot be written to, before any work; for a plane that cannot be
        restored, when it is its turn.
    """
    path = Path(path).absolute()
    if isinstance(like, str | Path):
        like = open_stack(like)
    if like is not None and like.path is not None and path in (like.path, *like.path.parents):
        raise DmspError(f"output {path} is the input; choose another name.")
    axes = () if like is None else _result_axes(like, array.shape)
    if axes:
        order = _ome_order(axes)
        array, axes = da.transpose(array, order), tuple(axes[i] for i in order)
    output = _Output(path, array)
    output.check(overwrite)
    if not output.begun:
        output.create(axes, 3 if like is None else like.zarr_format)
    output.fill(client, progress)
    output.finish()


@contextmanager
def connect(address: str | None) -> Iterator[Any]:
    """Give a client of a dask scheduler, to be used with ``with``; None without an address.

    Raises
    ------
    DmspError
        If nobody answers.
    """
    if address is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DmspError(f"no dask scheduler answers at {address}; check the address.") from error
    with client:
        yield client


@dataclass(frozen=True, eq=False)
class _Task:
    """A restoration of windows (h, w, channels), ready to be sent to workers.

    ``arguments`` are those of ``prepare``. ``channel_axis`` is that of the source.
    """

    name: str
    prepare: Callable[..., Job]
    arguments: dict[str, Any]
    dtype: np.dtype[Any]
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if self.dtype.kind not in "ui" and self.dtype != np.float32:
            raise DmspError(f"dtype={self.dtype} must be float32 or an integer type.")

    @property
    def blind(self) -> bool:
        """Whether the point spread function is unknown."""
        return self.name == "deblur" and self.arguments["psf"] is None

    @property
    def factor(self) -> Fraction:
        """Pixels of the result per pixel of the source, along one axis."""
        return Fraction(self.arguments.get("scale", 1)).limit_denominator(64)

    @property
    def period(self) -> tuple[int, int]:
        """Pixels after which the colour filters repeat, along both axes."""
        if self.name != "demosaic":
            return 1, 1
        _, height, width = cfa_tile(self.arguments["pattern"]).shape
        return height, width

    @property
    def token(self) -> dict[str, Any]:
        """All that the result depends on; floats differ a little between devices, no more."""
        prior = self.arguments.get("prior")
        if prior is not None:
            model = load_prior(prior)
            prior = model.name, model.sha256
        known = self.arguments | {"prior": prior, "device": None, "task": self.name}
        return known | {"dtype": str(self.dtype), "version": version("napari-dmsp")}

    def job(self, pixels: Pixels, mask: Pixels | None = None, **known: Any) -> Job:
        """Prepare the restoration of a window (h, w, channels); ``known`` replaces arguments."""
        axis = -1 if self.channel_axis is not None else None
        picture = pixels if axis == -1 else pixels[..., 0]
        gaps = None if mask is None else mask[..., 0]
        arguments = {"device": pick_worker_device(self.arguments.get("device", "auto"))} | known
        return self.prepare(picture, channel_axis=axis, mask=gaps, **(self.arguments | arguments))

    def check(self) -> None:
        """Try the arguments on an image, to find those that suit none before any work."""
        psf = self.arguments.get("psf")
        side = max(2 * MIN_SIDE, 0 if psf is None else max(psf.shape, default=0))
        low = _or(self.arguments.get("background"), 0.0)
        high = _or(self.arguments.get("white"), low + 1)
        ramp = np.linspace(low, high, side * side).reshape(side, side, 1)
        self.job(ramp if self.channel_axis is None else np.repeat(ramp, 3, -1), device="cpu")

    def check_window(self, smallest: tuple[int, int]) -> None:
        """Make sure that windows of this height and width can be restored."""
        psf = self.arguments.get("psf")
        if psf is not None:
            check_psf(psf, tuple(math.floor(n * self.factor) for n in smallest))
        if self.blind and min(smallest) < MIN_SIDE:
            raise DmspError(
                f"windows of {smallest[0]} x {smallest[1]} pixels are too small to find a psf in; "
                f"give one, or planes and tiles of at least {MIN_SIDE} pixels."
            )


@dataclass(frozen=True)
class _Lines:
    """How one axis of the planes is cut, in pixels of the source.

    Tiles ``tiles[i]`` are restored as parts of ``windows[i]``.
    """

    size: int
    tiles: tuple[Span, ...]
    windows: tuple[Span, ...]

    @classmethod
    def of(cls, size: int, tile: Any, halo: Any, step: int) -> _Lines:
        """Cut ``size`` pixels into about equal tiles.

        Windows begin at multiples of ``step``, and end so far from the end of the plane: networks
        then see the same grid as in the plane, also from behind, when the image is flipped.
        """
        count = max(1, round(size / tile))
        length = math.ceil(size / count / step) * step
        reach = math.ceil(halo / step) * step
        tiles = [(begin, min(begin + length, size)) for begin in range(0, size, length)]
        windows = [
            (max(begin - reach, 0), size - max(0, (size - end - reach) // step * step))
            for begin, end in tiles
        ]
        return cls(size, tuple(tiles), tuple(windows))

    def spread(self, side: int, count: int, step: int) -> tuple[Span, ...]:
        """Spread at most ``count`` spans of about ``side`` pixels over an axis that has more."""
        if self.size <= SAMPLE:
            return ((0, self.size),)
        side = math.ceil(side / step) * step
        count = min(count, math.ceil(self.size / side))
        begins = np.linspace(0, self.size - side, count) // step * step
        return tuple((int(begin), int(begin) + side) for begin in begins)


@dataclass(frozen=True)
class _Grid:
    """How planes are cut. ``factor`` is exact where there is more than one tile."""

    rows: _Lines
    columns: _Lines
    steps: tuple[int, int]
    factor: Fraction

    @classmethod
    def of(cls, shape: tuple[int, ...], task: _Task, tile: int | None, halo: int) -> _Grid:
        """Cut planes of a source with this shape, or raise a `DmspError`."""
        if tile is not None and (tile < MIN_SIDE or int(tile) != tile):
            raise DmspError(f"tile={tile} must be a whole number, at least {MIN_SIDE}, or None.")
        if halo < 0:
            raise DmspError(f"halo={halo} must not be negative.")
        axis, factor = task.channel_axis, task.factor
        plane = [n for i, n in enumerate(shape) if axis is None or i != axis % len(shape)][-2:]
        base = STRIDE * factor.denominator
        base //= math.gcd(factor.numerator, base)
        steps = tuple(math.lcm(base, period) for period in task.period)
        lines = [
            _Lines.of(n, math.inf if tile is None else tile / factor, halo / factor, step)
            for n, step in zip(plane, steps, strict=True)
        ]
        grid = cls(lines[0], lines[1], (steps[0], steps[1]), factor)
        if grid.cut and "scale" in task.arguments:
            _check_ratio(task.arguments["scale"], factor, plane)
        return grid

    @property
    def cut(self) -> bool:
        """Whether planes have more than one tile."""
        return len(self.rows.tiles) > 1 or len(self.columns.tiles) > 1

    @property
    def smallest(self) -> tuple[int, int]:
        """Least height and width of windows."""
        heights, widths = ([b - a for a, b in x.windows] for x in (self.rows, self.columns))
        return min(heights), min(widths)

    def part(self, lines: _Lines, i: int, length: int) -> slice:
        """Return where a tile of the result lies in that of its window."""
        begin = int((lines.tiles[i][0] - lines.windows[i][0]) * self.factor)
        return slice(begin, begin + length)

    def lengths(self, lines: _Lines, scale: float) -> tuple[int, ...]:
        """Return the lengths of the tiles of the result."""
        ends = [round(end * scale) for _, end in lines.tiles]
        return tuple(np.diff([0, *ends]).tolist())


@dataclass(frozen=True, eq=False)
class _Surveyor:
    """Makes the survey of a plane; called with lists of samples and of their masks."""

    task: _Task
    where: str

    def __call__(
        self, samples: list[list[Pixels]], masks: list[list[Pixels]] | None
    ) -> Survey | None:
        """Survey the planes of which ``samples`` holds an overview and windows each."""
        overview, *rest = _merge(samples)
        gaps = [None] * (1 + len(rest)) if masks is None else _merge(masks)
        windows = list(zip(rest, gaps[1:], strict=True))
        window, mask = max(windows, key=lambda pair: _contrast(*pair))
        with _failures_named(self.where), _one_thread(), _alone(self.task):
            return _survey(self.task, (overview, gaps[0]), (window, mask))


def _survey(
    task: _Task,
    overview: tuple[Pixels, Pixels | None],
    sample: tuple[Pixels, Pixels | None],
) -> Survey | None:
    """Find what tiles share: units in the overview, noise and kernel in the sample, (h, w, C)."""
    if _contrast(*overview) == 0:
        overview = sample
    if _contrast(*overview) == 0:
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


@dataclass(frozen=True, eq=False)
class _Restorer:
    """Restores one tile: ``part`` of the result of its window."""

    task: _Task
    part: tuple[slice, slice]
    shape: tuple[int, int]
    where: str

    def __call__(self, pixels: Pixels, survey: Survey | None, mask: Pixels | None) -> Pixels:
        """Restore a window (1, ..., h, w, channels); returns (1, ..., H, W, channels')."""
        window, gaps = _plane(pixels), None if mask is None else _plane(mask)
        with _failures_named(self.where), _one_thread(), _alone(self.task):
            image = self._image(window, gaps, survey)
        return image.reshape(pixels.shape[:-3] + image.shape)

    def _image(self, window: Pixels, gaps: Pixels | None, survey: Survey | None) -> Pixels:
        dtype = self.task.dtype
        channels = 3 if self.task.name == "demosaic" else window.shape[-1]
        seen = window if gaps is None else window[~gaps[..., 0]]
        if _contrast(window, gaps) == 0 and np.isfinite(seen).all():
            # Nothing to restore; where nothing was seen, there is black.
            low = 0.0 if survey is None else survey.reference.units.low
            value = seen.flat[0] if seen.size else low
            return np.full((*self.shape, channels), fit_dtype(np.array(value, float), dtype))
        known: dict[str, Any] = {}
        if survey is not None:
            known = {"noise_sigma": survey.noise_sigma, "reference": survey.reference}
            known |= {} if survey.psf is None else {"psf": survey.psf}
        image = run(self.task.job(window, gaps, **known)).image[self.part]
        return fit_dtype(image.reshape(*self.shape, channels), dtype)


def _restore(
    stack: Stack,
    task: _Task,
    mask: ArrayLike | da.Array | None,
    survey: str,
    tile: int | None,
    halo: int,
) -> da.Array:
    """Build the graph: windows, surveys where planes are cut, and tiles."""
    if survey not in ("plane", "stack"):
        raise DmspError(f"survey={survey!r} is unknown; use 'plane' or 'stack'.")
    task.check()
    grid = _Grid.of(stack.array.shape, task, tile, halo)
    task.check_window(grid.smallest)
    source = _as_planes(stack.array, task.channel_axis)
    gaps = None if mask is None else _as_masks(mask, source.shape[:-1])
    token = tokenize(source.name, None if gaps is None else gaps.name, task.token, survey, grid)
    shared = survey == "stack"
    surveys = _surveys(source, gaps, task, shared, grid, token) if grid.cut or shared else None
    spans = grid.rows.windows, grid.columns.windows
    windows, masks = _cut(source, *spans), None if gaps is None else _cut(gaps, *spans)
    scale = task.arguments.get("scale", 1)
    heights, widths = (grid.lengths(lines, scale) for lines in (grid.rows, grid.columns))
    tasks: dict[Any, Any] = {}
    name = f"dmsp-{task.name}-{token}"
    for index in np.ndindex(windows.numblocks):
        *plane, row, column, _ = index
        parts = (
            grid.part(grid.rows, row, heights[row]),
            grid.part(grid.columns, column, widths[column]),
        )
        shape = heights[row], widths[column]
        restorer = _Restorer(task, parts, shape, _say_plane(plane))
        tasks[(name, *index)] = (
            restorer,
            _key(windows, index),
            None if surveys is None else _key(surveys, index),
            None if masks is None else _key(masks, index),
        )
    channels = 3 if task.name == "demosaic" else source.shape[-1]
    chunks = (*source.chunks[:-3], heights, widths, (channels,))
    result = _layer(name, tasks, [windows, surveys, masks], chunks, task.dtype)
    if task.name == "demosaic":
        return result
    if task.channel_axis is None:
        return result[..., 0]
    return da.moveaxis(result, -1, task.channel_axis)


def _surveys(
    source: da.Array, gaps: da.Array | None, task: _Task, shared: bool, grid: _Grid, token: str
) -> da.Array:
    """Return the surveys of all planes (..., 1, 1, 1), or one for all of them."""
    views = []
    for side, count in ((BLOCK, BLOCKS), (SAMPLE, CANDIDATES)):
        spans = [
            lines.spread(side, count, step)
            for lines, step in zip((grid.rows, grid.columns), grid.steps, strict=True)
        ]
        views.append(spans)
    overview, windows = (_cut(source, *spans) for spans in views)
    masks = None if gaps is None else tuple(_cut(gaps, *spans) for spans in views)
    lead = source.ndim - 3
    planes = list(np.ndindex(source.shape[:lead]))
    if shared:
        chosen = np.linspace(0, len(planes) - 1, min(SURVEYED_PLANES, len(planes))).astype(int)
        groups = {(0,) * lead: [planes[i] for i in chosen]}
    else:
        groups = {plane: [plane] for plane in planes}
    name, tasks = f"{SURVEY}{token}", {}
    for index, members in groups.items():
        where = "stack" if shared else _say_plane(index)
        tasks[(name, *index, 0, 0, 0)] = (
            _Surveyor(task, where),
            [_samples(overview, windows, plane) for plane in members],
            None if masks is None else [_samples(masks[0], masks[1], plane) for plane in members],
        )
    sizes = (1,) * lead if shared else source.shape[:lead]
    chunks = (*((1,) * n for n in sizes), (1,), (1,), (1,))
    needed = [overview, windows, *(masks or [])]
    return _layer(name, tasks, needed, chunks, np.dtype(object))


def _samples(overview: da.Array, windows: da.Array, plane: Sequence[int]) -> list[Any]:
    """Keys of the blocks of a plane's overview, as rows of them, and those of its windows."""
    rows, columns = overview.numblocks[-3:-1]
    blocks = [[_key(overview, (*plane, i, j, 0)) for j in range(columns)] for i in range(rows)]
    found = product(*(range(n) for n in windows.numblocks[-3:-1]))
    return [blocks, *(_key(windows, (*plane, i, j, 0)) for i, j in found)]


def _merge(samples: list[list[Any]]) -> list[Pixels]:
    """One overview of all planes, below each other, and all windows; (h, w, C) each."""
    overviews = [
        np.concatenate([np.concatenate([_plane(b) for b in row], 1) for row in blocks])
        for blocks, *_ in samples
    ]
    return [np.concatenate(overviews), *(_plane(w) for _, *windows in samples for w in windows)]


def _cut(array: da.Array, rows: Sequence[Span], columns: Sequence[Span]) -> da.Array:
    """Return an array whose blocks are spans of the planes (..., H, W, C), overlaps repeated."""
    for axis, spans in ((array.ndim - 3, rows), (array.ndim - 2, columns)):
        before = (slice(None),) * axis
        parts = [array[(*before, slice(*span))].rechunk({axis: -1}) for span in spans]
        array = da.concatenate(parts, axis)
    return array


def _key(array: da.Array, index: Sequence[int]) -> tuple[Any, ...]:
    """Key of a block; axes with one block are broadcast."""
    return (array.name, *(0 if n == 1 else i for i, n in zip(index, array.numblocks, strict=True)))


def _layer(
    name: str,
    tasks: dict[Any, Any],
    needed: Sequence[da.Array | None],
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
) -> da.Array:
    """Make an array of tasks; blockwise ones would be fused, and surveys made for every tile."""
    arrays: list[Any] = [array for array in needed if array is not None]
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=arrays)
    return da.Array(graph, name, chunks, dtype=dtype)


def _as_planes(array: da.Array, channel_axis: int | None) -> da.Array:
    """(..., H, W, C) with one plane per chunk at most."""
    array = array[..., None] if channel_axis is None else da.moveaxis(array, channel_axis, -1)
    single = dict.fromkeys(range(array.ndim - 3), 1)
    return array.rechunk(single | {array.ndim - 1: -1})


def _as_masks(mask: ArrayLike | da.Array, shape: tuple[int, ...]) -> da.Array:
    """(..., H, W, 1), with axes of 1 where all planes have the same mask."""
    gaps = mask if isinstance(mask, da.Array) else _from_numpy(np.asarray(mask))
    if gaps.shape not in (shape, shape[-2:]):
        raise DmspError(f"mask has shape {gaps.shape}; expected {shape[-2:]} or {shape}.")
    if gaps.ndim < len(shape):
        gaps = gaps[(None,) * (len(shape) - 2)]
    return _as_planes(gaps.astype(bool), None)


def _as_stack(source: Source, channel_axis: int | None) -> Stack:
    if isinstance(source, Stack):
        stack = source
    elif isinstance(source, str | Path):
        stack = open_stack(source)
    elif isinstance(source, zarr.Array | zarr.Group):
        stack = _open_zarr(source)
    else:
        stack = Stack(source if isinstance(source, da.Array) else _from_numpy(np.asarray(source)))
    if channel_axis is not None:
        stack = replace(stack, channel_axis=channel_axis)
    array, axis = stack.array, stack.channel_axis
    if array.ndim < 2 + (axis is not None) or 0 in array.shape:
        raise DmspError(f"a source of shape {array.shape} has no planes.")
    if array.dtype.kind not in "buif":
        raise DmspError(f"dtype {array.dtype} is not a real number; convert it first.")
    if axis is not None and not -array.ndim <= axis < array.ndim:
        raise DmspError(f"channel_axis={axis} is not an axis of shape {array.shape}.")
    if axis is not None and array.shape[axis] not in (1, 3):
        raise DmspError(
            f"the source has {array.shape[axis]} channels along axis {axis}; 1 or 3 can be "
            "restored together: drop an alpha channel, and restore other channels one by one."
        )
    return stack


def _from_numpy(array: Pixels) -> da.Array:
    return da.from_array(array, chunks=_reading_chunks(array.shape))


def _reading_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of one plane, or parts of it; a last axis of few pixels is one of colours."""
    planes = len(shape) - (3 if len(shape) > 2 and shape[-1] < STRIDE else 2)
    return tuple(1 if i < planes else min(n, READ) for i, n in enumerate(shape))


def _open_zarr(node: Any) -> Stack:
    """Take an array, or what the first image of a group names as its full resolution."""
    attributes: Any = {}
    if isinstance(node, zarr.Group):
        attributes = node.attrs.get("ome", node.attrs)
        images = attributes.get("multiscales")
        arrays = sorted(name for name, _ in node.arrays())
        if not images and len(arrays) != 1:
            held = f"the arrays {', '.join(arrays)}" if arrays else "no array"
            raise DmspError(f"the zarr group {node.store_path} holds {held}; name one of them.")
        node = node[images[0]["datasets"][0]["path"] if images else arrays[0]]
    name = f"zarr-{tokenize(str(node.store_path), node.shape, _modified(node))}"
    array = da.from_array(node, chunks=node.chunks, name=name, fancy=False)
    colour = array.ndim > 2 and array.shape[-1] == 3
    if not attributes.get("multiscales"):
        return Stack(array, channel_axis=-1 if colour else None, zarr_format=_format(node))
    axes = _read_axes(attributes["multiscales"][0], array.ndim)
    # Red, green and blue cannot be told from the channels of a microscope.
    return Stack(array, axes, -1 if colour and axes[-1].name == "c" else None, _format(node))


def _format(node: Any) -> ZarrFormat:
    return 2 if node.metadata.zarr_format == 2 else 3


def _modified(node: Any) -> int:
    """When an array was made, for one of the same name is not the same."""
    folder = Path(str(getattr(node.store, "root", "."))) / node.path
    files = [folder / name for name in ("zarr.json", ".zarray")]
    return next((file.stat().st_mtime_ns for file in files if file.is_file()), 0)


def _read_axes(image: Mapping[str, Any], ndim: int) -> tuple[Axis, ...]:
    """Read the axes of an OME-Zarr image; transformations of the image follow the dataset's."""
    # Before version 0.4, axes were names, and before 0.3 there were always five.
    axes = image.get("axes") or list("tczyx")
    axes = [{"name": a} if isinstance(a, str) else a for a in axes]
    if len(axes) != ndim:
        raise DmspError(f"the image has {ndim} axes, but its metadata name {len(axes)}.")
    spacing, origin = np.ones(ndim), np.zeros(ndim)
    steps = image["datasets"][0].get("coordinateTransformations", [])
    for step in [*steps, *image.get("coordinateTransformations", [])]:
        if "scale" in step:
            spacing, origin = spacing * step["scale"], origin * step["scale"]
        if "translation" in step:
            origin = origin + step["translation"]
    return tuple(
        Axis(axis["name"], axis.get("unit"), float(distance), float(first))
        for axis, distance, first in zip(axes, spacing, origin, strict=True)
    )


@dataclass(frozen=True)
class _Mapped:
    """The pixels of an uncompressed TIFF file, mapped by whoever reads them."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Pixels:
        return np.asarray(tifffile.memmap(self.path, mode="r")[index], dtype=self.dtype)


def _open_tiff(path: Path) -> Stack:
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise DmspError(f"{path} holds {len(file.series)} images; save the one to restore.")
        series = file.series[0]
        shape, dtype, page = series.shape, series.dtype.newbyteorder("="), series.keyframe.shape
        mapped = series.dataoffset is not None and series.keyframe.is_memmappable
        axes = _tiff_axes(file, series.axes)
    changed = path.stat()
    token = tokenize(str(path), changed.st_size, changed.st_mtime_ns)
    name = f"tiff-{token}"
    if mapped:
        file_array = _Mapped(str(path), shape, dtype)
        array = da.from_array(file_array, chunks=_reading_chunks(shape), name=name, fancy=False)
    else:
        lead = shape[: len(shape) - len(page)]
        tasks = {
            (name, *index, *(0 for _ in page)): (_read_page, str(path), i, len(lead))
            for i, index in enumerate(np.ndindex(lead))
        }
        chunks = (*((1,) * n for n in lead), *((n,) for n in page))
        array = _layer(name, tasks, [], chunks, dtype)
    samples = [i for i, axis in enumerate(axes) if axis.name == "s"]
    channel = samples[0] if samples else None
    named = tuple(replace(axis, name="c") if axis.name == "s" else axis for axis in axes)
    return Stack(array, named, channel)


def _read_page(path: str, number: int, lead: int) -> Pixels:
    page = tifffile.imread(path, series=0, key=number)
    return page.astype(page.dtype.newbyteorder("="), copy=False)[(None,) * lead]


def _tiff_axes(file: tifffile.TiffFile, names: str) -> tuple[Axis, ...]:
    """Name the axes and find the pixel size, in OME's or ImageJ's metadata."""
    found: dict[str, Axis] = {}
    if file.ome_metadata:
        for name in SPATIAL:
            size = re.search(rf'PhysicalSize{name.upper()}="([^"]*)"', file.ome_metadata)
            given = re.search(rf'PhysicalSize{name.upper()}Unit="([^"]*)"', file.ome_metadata)
            if size:
                # The default of the format.
                found[name] = Axis(name, _unit(given[1] if given else "µm"), float(size[1]))
    elif file.imagej_metadata and "unit" in file.imagej_metadata:
        unit = _unit(file.imagej_metadata["unit"])
        x, y = file.pages.first.resolution
        sizes = {"z": file.imagej_metadata.get("spacing"), "y": y and 1 / y, "x": x and 1 / x}
        found = {name: Axis(name, unit, float(size)) for name, size in sizes.items() if size}
    return tuple(found.get(name, Axis(name)) for name in names.lower())


def _unit(name: str) -> str:
    plain = name.replace("\\u00B5", "µ").replace("μ", "µ")
    return UNITS.get(plain, plain)


def _result_axes(like: Stack, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of a result of this shape; none where those of the source are unknown."""
    old, axes = like.array.shape, like.axes
    if len(shape) == len(old) + 1 and shape[-1] == 3:
        old, axes = (*old, 3), (*axes, Axis("c")) if axes else ()
    if len(shape) != len(old):
        raise DmspError(f"an array of shape {shape} is not like a source of shape {old}.")
    ratios = [after / before for after, before in zip(shape, old, strict=True)]
    return tuple(axis.refine(ratio) for axis, ratio in zip(axes, ratios, strict=False))


def _ome_order(axes: Sequence[Axis]) -> list[int]:
    """Return the order that OME-Zarr demands: time, channels and the like, space."""

    def rank(i: int) -> int:
        return {"time": 0, "space": 2}.get(KINDS.get(axes[i].name, ""), 1)

    return sorted(range(len(axes)), key=rank)


def _ome_metadata(name: str, axes: Sequence[Axis], zarr_format: ZarrFormat) -> dict[str, Any]:
    described = []
    for axis in axes:
        kind = {"type": KINDS[axis.name]} if axis.name in KINDS else {}
        unit = {"unit": axis.unit} if axis.unit else {}
        described.append({"name": axis.name, **kind, **unit})
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": [axis.spacing for axis in axes]}]
    if any(axis.origin for axis in axes):
        steps.append({"type": "translation", "translation": [axis.origin for axis in axes]})
    image = {
        "name": name,
        "axes": described,
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    if zarr_format == 2:
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


@dataclass(frozen=True, eq=False)
class _Output:
    """A zarr folder that is being filled, and the notes beside it."""

    path: Path
    array: da.Array

    @property
    def notes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.progress")

    @property
    def _plan(self) -> Path:
        return self.notes / "plan.json"

    @property
    def _chunks(self) -> Path:
        return self.notes / "chunks"

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        # The names of dask arrays depend on all that was done, and to what.
        array = self.array
        form = {"shape": array.shape, "chunks": array.chunksize, "dtype": str(array.dtype)}
        return json.loads(json.dumps({"array": array.name, **form}))

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self._chunks.is_dir() and self.path.is_dir()

    def check(self, overwrite: bool) -> None:
        """Raise a `DmspError` unless the output can be written; remove what is to be replaced."""
        if self.path.suffix.lower() != ".zarr":
            raise DmspError(f"output {self.path} is no .zarr folder; choose a name like out.zarr.")
        check_folder(self.path.parent)
        if any(len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0] for sizes in self.array.chunks):
            raise DmspError(f"chunks {self.array.chunks} differ; make them alike with rechunk.")
        known = ("zarr.json", ".zarray", ".zgroup")
        ours = self.notes.is_dir() or any((self.path / name).is_file() for name in known)
        if self.path.exists() and not ours:
            raise DmspError(
                f"output {self.path} exists and is no zarr folder; choose another name."
            )
        if self._plan.is_file():
            if json.loads(self._plan.read_text(encoding="utf-8")) == self._fingerprint:
                return
            if not overwrite:
                raise DmspError(
                    f"output {self.path} is unfinished, from other input or settings; repeat the "
                    "same call to finish it, or give --overwrite (overwrite=True)."
                )
        elif self.path.exists() and not overwrite:
            raise DmspError(
                f"output {self.path} exists; give --overwrite (overwrite=True) to replace it."
            )
        for folder in (self.path, self.notes):
            if folder.exists():
                shutil.rmtree(folder)

    def create(self, axes: Sequence[Axis], zarr_format: ZarrFormat) -> None:
        """Make an empty array, in an OME-Zarr image where axes are known."""
        self.notes.mkdir(exist_ok=True)
        _write_text(self._plan, json.dumps(self._fingerprint))
        array, parent, name = self.array, zarr.storage.LocalStore(self.path), None
        extra: dict[str, Any] = {}
        if axes:
            attributes = _ome_metadata(self.path.stem, axes, zarr_format)
            zarr.create_group(
                parent, overwrite=True, zarr_format=zarr_format, attributes=attributes
            )
            name = "0"
            if zarr_format == 3:
                extra["dimension_names"] = [axis.name for axis in axes]
        if zarr_format == 2:
            extra["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        zarr.create_array(
            parent,
            name=name,
            shape=array.shape,
            chunks=tuple(int(n) for n in array.chunksize),
            dtype=array.dtype,
            zarr_format=zarr_format,
            overwrite=True,
            **extra,
        )
        # Last: what a kill leaves before is made anew.
        self._chunks.mkdir()

    def fill(self, client: Any, progress: Callable[[int, int], None] | None) -> None:
        """Compute what is missing."""
        surveys = _find_surveys(self.array)
        records = {} if surveys is None else self._records(surveys)
        writes = self._writes(self.array)
        total = len(records) + len(writes)
        missing = [key for key, write in writes.items() if not write.marker.exists()]
        unknown = [key for key, path in records.items() if not path.exists()]
        if not missing:
            unknown = []
        done = total - len(missing) - len(unknown)

        def count() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        if progress is not None:
            progress(done, total)
        if surveys is not None and unknown:
            (self.notes / "surveys").mkdir(exist_ok=True)
            _compute(surveys, {key: _Record(records[key]) for key in unknown}, client, count)
        array = self.array
        if surveys is not None and missing:
            array = _with_surveys(array, surveys.name, records)
        _compute(array, {key: writes[key] for key in missing}, client, count)

    def finish(self) -> None:
        """Remove the notes, without which the output is finished."""
        self._plan.unlink()
        shutil.rmtree(self.notes)

    def _records(self, surveys: da.Array) -> dict[Any, Path]:
        folder = self.notes / "surveys"
        return {
            (surveys.name, *index): folder / f"{_dotted(index[:-3])}.json"
            for index in np.ndindex(surveys.numblocks)
        }

    def _writes(self, array: da.Array) -> dict[Any, _Write]:
        target = zarr.open(self.path, mode="r+")
        if isinstance(target, zarr.Group):
            target = target["0"]
        size = array.chunksize
        writes = {}
        for index in np.ndindex(array.numblocks):
            region = tuple(
                slice(i * n, min((i + 1) * n, end))
                for i, n, end in zip(index, size, array.shape, strict=True)
            )
            writes[(array.name, *index)] = _Write(target, region, self._chunks / _dotted(index))
        return writes


@dataclass(frozen=True, eq=False)
class _Write:
    """Writes a chunk, then notes it."""

    target: Any
    region: tuple[slice, ...]
    marker: Path

    def __call__(self, block: Pixels) -> None:
        self.target[self.region] = block
        self.marker.touch()


@dataclass(frozen=True)
class _Record:
    """Writes a survey down."""

    path: Path

    def __call__(self, survey: Survey | None) -> None:
        _write_text(self.path, "null" if survey is None else survey.to_json())


def _write_text(path: Path, text: str) -> None:
    """Write all of a file, or nothing."""
    partial = path.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _find_surveys(array: da.Array) -> da.Array | None:
    """Return the surveys on which an array depends."""
    graph = array.__dask_graph__()
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {}
    name = next((name for name in layers if name.startswith(SURVEY)), None)
    if name is None:
        return None
    indices = np.array([key[1:] for key in layers[name] if isinstance(key, tuple)])
    chunks = tuple((1,) * int(n) for n in indices.max(0) + 1)
    return da.Array(graph, name, chunks, dtype=object)


def _with_surveys(array: da.Array, name: str, records: Mapping[Any, Path]) -> da.Array:
    """Replace the surveys of an array by recorded ones."""
    graph: Any = array.__dask_graph__()
    values = {key: Survey.from_json(path.read_text("utf-8")) for key, path in records.items()}
    layers = {**graph.layers, name: MaterializedLayer(values)}
    graph = HighLevelGraph(layers, {**graph.dependencies, name: set()})
    return da.Array(graph, array.name, array.chunks, dtype=array.dtype)


def _compute(
    array: da.Array,
    calls: Mapping[Any, Callable[[Any], None]],
    client: Any,
    count: Callable[[], None],
) -> None:
    """Call functions with blocks of an array, each as soon as its block is there.

    Parameters
    ----------
    calls : mapping
        From keys of blocks.
    client : distributed.Client or None
        Whose workers compute.
    count : callable
        Called after every call.
    """
    # No other name may be the same: what a cluster has done, it does not do again.
    name = f"dmsp-write-{uuid4().hex}"
    tasks: dict[Any, Any] = {f"{name}-{_dotted(key)}": (c, key) for key, c in calls.items()}
    if not tasks:
        return
    # Schedulers may compute all of a graph, also what is not needed.
    graph, _ = cull({**array.__dask_graph__(), **tasks}, list(tasks))
    wanted = [Delayed(key, graph) for key in tasks]
    if client is None and config.get("scheduler", None) in ("dask.distributed", "distributed"):
        from distributed import default_client

        client = default_client()
    if client is not None:
        _compute_remotely(wanted, client, count)
        return

    def finished(key: Any, *_: Any) -> None:
        if key in tasks:
            count()

    with Callback(posttask=finished):
        compute(*wanted, traverse=False, optimize_graph=False)


def _compute_remotely(wanted: Sequence[Delayed], client: Any, count: Callable[[], None]) -> None:
    from distributed import as_completed

    futures = client.compute(wanted, optimize_graph=False)
    try:
        for future in as_completed(futures, loop=client.loop):
            future.result()
            # What is forgotten is not made again when its worker dies.
            future.release()
            count()
    finally:
        client.cancel([future for future in futures if not future.done()])


def pick_worker_device(name: str = "auto") -> str:
    """Return where a task computes: each worker of a cluster on its own, of several GPUs.

    Parameters
    ----------
    name : str
        As the user gave it; all but "auto" stays.
    """
    if name != "auto" or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return name
    try:
        from distributed import get_worker

        worker = get_worker()
    except (ImportError, ValueError):
        return name
    # Names of workers end with their number, or the port of their address.
    digits = re.search(r"\d+$", str(worker.name))
    return f"cuda:{int(digits[0]) % torch.cuda.device_count()}" if digits else name


_device_lock = threading.Lock()


@contextmanager
def _alone(task: _Task) -> Iterator[None]:
    """Let one thread at a time use the GPUs: each would take all of their memory."""
    name = task.arguments.get("device", "auto")
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if name == "cpu" or not gpu:
        yield
        return
    with _device_lock:
        yield


@dataclass
class _Threads:
    """How many threads torch had before tasks ran, and how many tasks run."""

    before: int = 1
    tasks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_threads = _Threads()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread in each of the threads that dask has.

    A task in the main thread is the only one, and may use all. Torch keeps the number per thread,
    and beside it that of the last call for threads that are new to it: both are restored.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    with _threads.lock:
        # Asking also lets torch initialise this thread, which would undo what is set here.
        number = torch.get_num_threads()
        if not _threads.tasks:
            _threads.before = number
        _threads.tasks += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _threads.lock:
            _threads.tasks -= 1
            torch.set_num_threads(_threads.before)


@contextmanager
def _failures_named(where: str) -> Iterator[None]:
    """Say which plane could not be restored."""
    try:
        yield
    except DmspError as error:
        raise DmspError(f"{where}: {error}") from error


def _say_plane(index: Sequence[int]) -> str:
    return f"plane {', '.join(map(str, index))}" if len(index) else "the plane"


def _dotted(index: Sequence[Any]) -> str:
    return ".".join(map(str, index)) or "0"


def _plane(block: Pixels) -> Pixels:
    """(1, ..., h, w, C) to (h, w, C)."""
    return block.reshape(block.shape[-3:])


def _contrast(pixels: Pixels, mask: Pixels | None) -> float:
    """Return the standard deviation of what was observed; exactly 0 where that is constant."""
    seen = pixels if mask is None else pixels[~mask[..., 0]]
    if not seen.size or seen.min() == seen.max():
        return 0.0
    return float(np.std(seen, dtype=np.float64))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _check_ratio(scale: float, factor: Fraction, plane: Sequence[int]) -> None:
    """Make sure that tiles begin and end between pixels of both grids."""
    if not math.isclose(factor, scale, rel_tol=1e-9):
        raise DmspError(
            f"scale={scale} is no ratio of small numbers, so planes cannot be cut into tiles; take "
            "one like 2 or 1.5, or tile=None."
        )
    if any(n * factor % 1 for n in plane):
        n = factor.denominator
        raise DmspError(
            f"scale={scale} does not give whole pixels for planes of {plane[0]} x {plane[1]}; crop "
            f"them to multiples of {n}, or take tile=None."
        )


__all__ = [
    "Axis",
    "Stack",
    "Survey",
    "connect",
    "deblur",
    "demosaic",
    "open_stack",
    "pick_worker_device",
    "superres",
    "write",
]
