"""Restorations of stacks as lazy arrays of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import ArrayLike, DTypeLike

from ..core import prepare_deblur, prepare_demosaic, prepare_superres, run
from ..core.blind import MAX_SIZE
from ..core.inputs import take_array
from ..errors import DmspError
from ..files import fit_dtype
from .stacks import Pixels, Source, Stack, as_stack, from_numpy, layer
from .survey import Survey, make_surveys
from .tasks import Task, say_plane
from .tiles import Grid, block_key, contrast, cut, plane_of

# What a tile sees of its neighbours, beside half the point spread function: with less than 48
# pixels, results differ by more than 1/1000 of the range from those of whole planes.
HALO = 64


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
    Tiles are cut without blending. With the default halo, those of a Gaussian blur differ from the
    restored whole by less than 1/1000 of the range away from its edges; but where the point spread
    function suppresses some frequencies entirely, such as those of motion, by up to 1/40 (1/700 in
    the root mean square), and with ``method="sgd"``, which injects noise, by about 1/100. A larger
    ``halo`` helps: 192 pixels gave 1/360 for motion of 21 pixels. ``tile=None`` cuts nothing.
    Constant tiles stay as they are.
    """
    stack = as_stack(source, channel_axis)
    given = None if psf is None else take_array(psf, "psf")
    largest = psf_size or MAX_SIZE if given is None else max(given.shape, default=0)
    arguments = {"psf": given, "psf_size": psf_size} | options
    task = Task("deblur", prepare_deblur, arguments, np.dtype(dtype), stack.channel_axis)
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
    stack = as_stack(source, channel_axis)
    given = None if psf is None else take_array(psf, "psf")
    arguments = {"scale": scale, "psf": given} | options
    task = Task("superres", prepare_superres, arguments, np.dtype(dtype), stack.channel_axis)
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
    stack = as_stack(source, None)
    if stack.channel_axis is not None:
        raise DmspError(f"a source of shape {stack.array.shape} is in colour already.")
    name = pattern if isinstance(pattern, str) else np.asarray(pattern)
    arguments = {"pattern": name, "white": white, "linear": linear} | options
    task = Task("demosaic", prepare_demosaic, arguments, np.dtype(dtype))
    return _restore(stack, task, mask, survey, tile, HALO if halo is None else halo)


@dataclass(frozen=True, eq=False)
class _Restorer:
    """Restores one tile: ``part`` of the result of its window."""

    task: Task
    part: tuple[slice, slice]
    shape: tuple[int, int]
    where: str

    def __call__(self, pixels: Pixels, survey: Survey | None, mask: Pixels | None) -> Pixels:
        """Restore a window (1, ..., h, w, channels); returns (1, ..., H, W, channels')."""
        window, gaps = plane_of(pixels), None if mask is None else plane_of(mask)
        with self.task.at_work(self.where):
            image = self._image(window, gaps, survey)
        return image.reshape(pixels.shape[:-3] + image.shape)

    def _image(self, window: Pixels, gaps: Pixels | None, survey: Survey | None) -> Pixels:
        dtype = self.task.dtype
        channels = 3 if self.task.colour else window.shape[-1]
        seen = window if gaps is None else window[~gaps[..., 0]]
        if contrast(window, gaps) == 0 and np.isfinite(seen).all():
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
    task: Task,
    mask: ArrayLike | da.Array | None,
    survey: str,
    tile: int | None,
    halo: int,
) -> da.Array:
    """Build the graph: windows, surveys where planes are cut, and tiles."""
    if survey not in ("plane", "stack"):
        raise DmspError(f"survey={survey!r} is unknown; use 'plane' or 'stack'.")
    task.check()
    grid = Grid.of(stack.array.shape, task, tile, halo)
    task.check_window(grid.smallest)
    source = _as_planes(stack.array, task.channel_axis)
    gaps = None if mask is None else _as_masks(mask, source.shape[:-1])
    token = tokenize(source.name, None if gaps is None else gaps.name, task.token, survey, grid)
    shared = survey == "stack"
    surveys = make_surveys(source, gaps, task, shared, grid, token) if grid.cut or shared else None
    spans = grid.rows.windows, grid.columns.windows
    windows, masks = cut(source, *spans), None if gaps is None else cut(gaps, *spans)
    heights, widths = (lines.lengths(task.scale) for lines in (grid.rows, grid.columns))
    parts = grid.rows.parts(task), grid.columns.parts(task)
    tasks: dict[Any, Any] = {}
    name = f"dmsp-{task.name}-{token}"
    for index in np.ndindex(windows.numblocks):
        *plane, row, column, _ = index
        part, shape = (parts[0][row], parts[1][column]), (heights[row], widths[column])
        restorer = _Restorer(task, part, shape, say_plane(plane))
        tasks[(name, *index)] = (
            restorer,
            block_key(windows, index),
            None if surveys is None else block_key(surveys, index),
            None if masks is None else block_key(masks, index),
        )
    channels = 3 if task.colour else source.shape[-1]
    chunks = (*source.chunks[:-3], heights, widths, (channels,))
    result = layer(name, tasks, [windows, surveys, masks], chunks, task.dtype)
    if task.colour:
        return result
    if task.channel_axis is None:
        return result[..., 0]
    return da.moveaxis(result, -1, task.channel_axis)


def _as_planes(array: da.Array, channel_axis: int | None) -> da.Array:
    """(..., H, W, C) with one plane per chunk at most."""
    array = array[..., None] if channel_axis is None else da.moveaxis(array, channel_axis, -1)
    single = dict.fromkeys(range(array.ndim - 3), 1)
    return array.rechunk(single | {array.ndim - 1: -1})


def _as_masks(mask: ArrayLike | da.Array, shape: tuple[int, ...]) -> da.Array:
    """(..., H, W, 1), with axes of 1 where all planes have the same mask."""
    gaps = mask if isinstance(mask, da.Array) else from_numpy(np.asarray(mask))
    if gaps.shape not in (shape, shape[-2:]):
        raise DmspError(f"mask has shape {gaps.shape}; expected {shape[-2:]} or {shape}.")
    if gaps.ndim < len(shape):
        gaps = gaps[(None,) * (len(shape) - 2)]
    return _as_planes(gaps.astype(bool), None)
