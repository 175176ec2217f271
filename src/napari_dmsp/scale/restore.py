"""Restorations of stacks as lazy arrays."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..cluster.lazy import DaskSource, make_lazy
from ..cluster.stacks import Source, as_dask, as_stack
from ..core.blind import MAX_SIZE
from ..core.inputs import check_psf, take_array
from ..errors import DmspError
from ..plan import Axes, Plan, magnification, try_settings
from ..plan.survey import period
from ..settings import TASKS, Settings
from ..windows import HALO, MIN_PART, PART, Grid, ratio

# Options of stacks, which settings do not have.
LAZY = ("mask", "chunks", "halo", "survey", "dtype")


def deblur(source: Source, psf: ArrayLike | None = None, **options: Any) -> da.Array:
    """Deblur every plane of a stack, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W): planes that are restored one by one; or with colours along ``channel_axis``. A
        path is opened by `open_stack`.
    psf : array_like, optional
        As for `napari_dmsp.deblur`; one for all planes, or found for every survey.
    channel_axis : int, optional
        Axis of one or three colours that are restored together; by default that of the `Stack`.
    mask : array_like or dask array, optional
        True where pixels are missing: (H, W) for all planes, or one per plane (..., H, W).
    chunks : int, optional
        About how many pixels of the result a part has on a side, by default 1024; planes up to half
        as large again are not cut. It is the chunk of the result. None cuts no plane.
    halo : int, optional
        Pixels of its neighbours that a part sees; by default 64 and half the point spread function.
        Rounded up.
    survey : {"plane", "stack"}
        Whether each plane has its own noise level, range and unknown point spread function, or all
        of a channel share those of some planes.
    dtype : dtype or "input", optional
        Of the result: float32, or an integer type to which values are rounded and clipped; "input"
        keeps integer types.
    **options
        All others of `napari_dmsp.deblur`.

    Returns
    -------
    dask.array.Array
        The shape and the units of the source, one chunk per part.

    Raises
    ------
    DmspError
        For input and options that suit no plane. What is wrong with the pixels of one plane shows
        when it is computed.

    Notes
    -----
    A plane that is one part is restored as `napari_dmsp.deblur` does it, but that all planes of a
    channel have the prior of its middle one. Of another one, a survey restores a window of 1024 x
    1024 pixels, and takes the range from an overview of all of it. Parts are cut without blending.
    With the default halo, those of a Gaussian blur differ from the restored whole by less than
    1/1000 of the range away from its edges; but where the point spread function suppresses some
    frequencies entirely, such as those of motion, by up to 1/40 (1/700 in the root mean square),
    and with ``method="sgd"``, which injects noise, by about 1/100. A larger ``halo`` helps: 192
    pixels gave 1/360 for motion of 21 pixels. ``chunks=None`` cuts nothing. Constant parts stay as
    they are.
    """
    return _restore("deblur", source, psf=psf, **options)


def superres(source: Source, scale: float, **options: Any) -> da.Array:
    """Raise the resolution of every plane of a stack, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W), or with colours along ``channel_axis``.
    scale : float
        Factor above 1 and up to 8. Where planes are cut into parts, a ratio of small numbers, such
        as 2 or 1.5, that gives whole numbers of pixels.
    **options
        As for `deblur` and `napari_dmsp.superres`; ``halo`` in pixels of the result.

    Returns
    -------
    dask.array.Array
        (..., round(H * scale), round(W * scale)), one chunk per part.

    Raises
    ------
    DmspError
        As for `deblur`.
    """
    return _restore("superres", source, scale=scale, **options)


def demosaic(source: Source, pattern: str | ArrayLike = "RGGB", **options: Any) -> da.Array:
    """Turn every raw mosaic of a stack into a colour image, lazily.

    Parameters
    ----------
    source : path, Stack, dask array, zarr array or group, or ndarray
        (..., H, W), one colour per pixel.
    pattern : str or array_like
        As for `napari_dmsp.demosaic`; it begins at the first pixel of every plane.
    **options
        As for `deblur` and `napari_dmsp.demosaic`.

    Returns
    -------
    dask.array.Array
        (..., H, W, 3), one chunk per part.

    Raises
    ------
    DmspError
        As for `deblur`.
    """
    return _restore("demosaic", source, pattern=pattern, **options)


def restore(
    task: Settings,
    source: Source,
    *,
    mask: ArrayLike | da.Array | None = None,
    chunks: int | None = PART,
    halo: int | None = None,
    survey: str = "plane",
    dtype: DTypeLike | None = None,
) -> da.Array:
    """Restore every plane of a stack, lazily, as settings say; the others are those of `deblur`."""
    stack = as_stack(source)
    axis = stack.channel_axis if task.channel_axis is None else task.channel_axis
    axes = Axes.of(stack.array.shape, axis, [axis.name for axis in stack.axes])
    mask = task.mask if mask is None else mask
    given = mask is None or isinstance(mask, str)
    try_settings(task.replace(mask=None, channel_axis=None), axes.colours is not None, "cpu")
    psf, scale = getattr(task, "psf", None), magnification(task)
    if psf is not None:
        psf = take_array(psf, "psf")
        task = task.replace(psf=psf)
    if halo is None:
        unknown = getattr(task, "psf_size", None) or MAX_SIZE if task.blind else 0
        halo = HALO + math.ceil((unknown if psf is None else max(np.shape(psf), default=0)) / 2)
    grid = Grid.cut(axes.size, chunks, halo, scale, period(task))
    smallest = grid.smallest
    if psf is not None:
        check_psf(psf, tuple(math.floor(n * ratio(scale)) for n in smallest))
    if task.blind and min(smallest) < MIN_PART:
        raise DmspError(
            f"windows of {smallest[0]} x {smallest[1]} pixels are too small to find a psf in; "
            f"give one, or planes and chunks of at least {MIN_PART} pixels."
        )
    gaps = mask if given else DaskSource(as_dask(mask))
    pixels = DaskSource(stack.array)
    return make_lazy(Plan.of(task, pixels, axes, grid=grid, mask=gaps, survey=survey, dtype=dtype))


def _restore(name: str, source: Source, **options: Any) -> da.Array:
    """Tell what is said of stacks from the settings of a task."""
    lazy = {key: options.pop(key) for key in LAZY if key in options}
    return restore(TASKS[name].of(**options), source, **lazy)
