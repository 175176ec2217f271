"""Stacks on disk and in memory as dask arrays, and the axes of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import zarr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from ..errors import DmspError
from ..files.stacks import READ, Axis, Stack, ZarrFormat, open_stack
from ..files.zarr import ome_metadata, ome_order, open_zarr
from ..windows import STRIDE

__all__ = ["Axis", "Stack", "ZarrFormat", "as_stack", "ome_metadata", "ome_order", "open_stack"]

Pixels: TypeAlias = NDArray[Any]
Source: TypeAlias = "Stack | da.Array | zarr.Array[Any] | zarr.Group | NDArray[Any] | str | Path"


def as_stack(source: Source, channel_axis: int | None) -> Stack:
    """Return what a caller gave as a stack, or raise a `DmspError` where it cannot be restored."""
    if isinstance(source, Stack):
        stack = source
    elif isinstance(source, str | Path):
        stack = open_stack(source)
    elif isinstance(source, zarr.Array | zarr.Group):
        stack = open_zarr(source)
    else:
        stack = Stack(source if isinstance(source, da.Array) else from_numpy(np.asarray(source)))
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


def from_numpy(array: Pixels) -> da.Array:
    """Make a dask array of one in memory."""
    return da.from_array(array, chunks=_reading_chunks(array.shape))


def _reading_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of one plane, or parts of it; a last axis of few pixels is one of colours."""
    planes = len(shape) - (3 if len(shape) > 2 and shape[-1] < STRIDE else 2)
    return tuple(1 if i < planes else min(n, READ) for i, n in enumerate(shape))


def layer(
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


def result_axes(like: Stack, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of a result of this shape; none where those of the source are unknown."""
    old, axes = like.array.shape, like.axes
    if len(shape) == len(old) + 1 and shape[-1] == 3:
        old, axes = (*old, 3), (*axes, Axis("c")) if axes else ()
    if len(shape) != len(old):
        raise DmspError(f"an array of shape {shape} is not like a source of shape {old}.")
    ratios = [after / before for after, before in zip(shape, old, strict=True)]
    return tuple(axis.refine(ratio) for axis, ratio in zip(axes, ratios, strict=False))
