"""What callers give as stacks, and the axes of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from ..errors import DmspError
from ..files.stacks import READ, Axis, Stack, open_stack
from ..files.zarr import open_zarr
from ..windows import MIN_SIDE

Source: TypeAlias = "Stack | da.Array | zarr.Array[Any] | zarr.Group | NDArray[Any] | str | Path"


def as_stack(source: Source) -> Stack:
    """Return what a caller gave as a stack."""
    if isinstance(source, Stack):
        return source
    if isinstance(source, str | Path):
        return open_stack(source)
    if isinstance(source, zarr.Array | zarr.Group):
        return open_zarr(source)
    return Stack(as_dask(source))


def as_dask(array: ArrayLike | da.Array) -> da.Array:
    """Make a dask array of one in memory, of chunks that are quick to cut."""
    if isinstance(array, da.Array):
        return array
    held = np.asarray(array)
    planes = held.ndim - (3 if held.ndim > 2 and held.shape[-1] < MIN_SIDE else 2)
    chunks = tuple(1 if i < planes else min(n, READ) for i, n in enumerate(held.shape))
    return da.from_array(held, chunks=chunks)


def result_axes(like: Stack, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of a result of this shape; none where those of the source are unknown."""
    old, axes = like.array.shape, like.axes
    if len(shape) == len(old) + 1 and shape[-1] == 3:
        old, axes = (*old, 3), (*axes, Axis("c")) if axes else ()
    if len(shape) != len(old):
        raise DmspError(f"an array of shape {shape} is not like a source of shape {old}.")
    ratios = [after / before for after, before in zip(shape, old, strict=True)]
    return tuple(axis.refine(ratio) for axis, ratio in zip(axes, ratios, strict=False))
