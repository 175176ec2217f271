"""How planes are cut into tiles, and the windows of the source that these see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import dask.array as da
import numpy as np

from ..core.blind import MIN_SIDE
from ..errors import DmspError
from ..windows import STRIDE
from .stacks import Pixels
from .tasks import Task

Span: TypeAlias = tuple[int, int]


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

    def lengths(self, scale: float) -> tuple[int, ...]:
        """Return the lengths of the tiles of the result."""
        ends = [round(end * scale) for _, end in self.tiles]
        return tuple(np.diff([0, *ends]).tolist())

    def parts(self, task: Task) -> list[slice]:
        """Return where the tiles of the result lie in those of their windows."""
        begins = [
            int((tile[0] - window[0]) * task.factor)
            for tile, window in zip(self.tiles, self.windows, strict=True)
        ]
        return [slice(b, b + n) for b, n in zip(begins, self.lengths(task.scale), strict=True)]


@dataclass(frozen=True)
class Grid:
    """How planes are cut."""

    rows: _Lines
    columns: _Lines
    steps: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, ...], task: Task, tile: int | None, halo: int) -> Grid:
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
        grid = cls(lines[0], lines[1], (steps[0], steps[1]))
        if grid.cut:
            _check_ratio(task.scale, factor, plane)
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


def cut(array: da.Array, rows: Sequence[Span], columns: Sequence[Span]) -> da.Array:
    """Return an array whose blocks are spans of the planes (..., H, W, C), overlaps repeated."""
    for axis, spans in ((array.ndim - 3, rows), (array.ndim - 2, columns)):
        before = (slice(None),) * axis
        parts = [array[(*before, slice(*span))].rechunk({axis: -1}) for span in spans]
        array = da.concatenate(parts, axis)
    return array


def block_key(array: da.Array, index: Sequence[int]) -> tuple[Any, ...]:
    """Key of a block; axes with one block are broadcast."""
    return (array.name, *(0 if n == 1 else i for i, n in zip(index, array.numblocks, strict=True)))


def plane_of(block: Pixels) -> Pixels:
    """(1, ..., h, w, C) to (h, w, C)."""
    return block.reshape(block.shape[-3:])


def contrast(pixels: Pixels, mask: Pixels | None) -> float:
    """Return the standard deviation of what was observed; exactly 0 where that is constant."""
    seen = pixels if mask is None else pixels[~mask[..., 0]]
    if not seen.size or seen.min() == seen.max():
        return 0.0
    return float(np.std(seen, dtype=np.float64))
