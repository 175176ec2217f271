"""How images are cut into windows and tiles, and what memory they take. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import TypeAlias

from .errors import DmspError

# One slice for each axis of an array; begin and end along one axis.
Window: TypeAlias = tuple[slice, ...]
Span: TypeAlias = tuple[int, int]
# Rows and columns of a result for one of the source.
Factors: TypeAlias = tuple[float, float]

# Shortest side in pixels of an image that can be restored.
MIN_SIDE = 8
# Pixels that neighbouring tiles share: a prior sees up to 84 pixels far, but what is further than
# 40 away hardly changes it.
OVERLAP = 96
# Networks halve the resolution three times: what lies on their grid needs no padding, and tiles on
# it give what the whole image gives.
STRIDE = 8
MIN_TILE = 2 * OVERLAP
# Side whose features take 1 GB on a processor: frames of 2048 pixels, and what lies beyond their
# edge, need no tiles, and those of 4096 need four.
CPU_TILE = 2152
# Bytes of the data step, for a pixel of the result and for a channel of it, and the part of them
# that stays while the network runs; of the network, for a pixel; of all else, as torch. Measured.
PIXEL_BYTES, CHANNEL_BYTES, STAYS = 63, 40, 0.7
FEATURE_BYTES = 240
# The same of volumes, for a voxel of all that light came from.
VOXEL_BYTES = 100
BASE_BYTES = 350_000_000
# Half sides in voxels of the core of a wide point spread function, z, y, x; the step in pixels of
# the coarse grid of the rest, along rows and columns. Volumes of more voxels than so many, beyond
# the frame too, are cut to what the core reaches, if that makes them so many times smaller.
CORE, COARSE = (8, 24, 24), 4
LARGE, LEAST_SAVED = 2**24, 1.5
# Side of the parts into which the planes of zarr arrays are cut, and the least of it, in pixels of
# the result. What a part sees of its neighbours, beside half the point spread function: with less
# than 48 pixels, results differ by more than 1/1000 of the range from those of whole planes.
PART, MIN_PART, HALO = 1024, 64, 64


def spans(size: int, tile: int) -> list[Span]:
    """Cover ``size`` pixels with as few tiles as can be, about alike, that overlap.

    All but the last begin and end at multiples of `STRIDE`, neighbours share at least `OVERLAP`
    pixels, and none is longer than ``tile``.
    """
    if size <= tile:
        return [(0, size)]
    count = math.ceil((size - OVERLAP) / (tile - OVERLAP))
    while True:
        step = -(-(size - OVERLAP) // (count * STRIDE)) * STRIDE
        if step + OVERLAP <= tile:
            break
        count += 1
    begins = range(0, size - OVERLAP, step)
    return [(begin, min(begin + step + OVERLAP, size)) for begin in begins]


def is_wide(shape: Sequence[int], psf_shape: Sequence[int]) -> bool:
    """Whether a volume must reach only as far beyond the frame as `CORE`, lest it be too large."""
    whole = math.prod(n + k - 1 for n, k in zip(shape, psf_shape, strict=True))
    return whole > LARGE and whole > LEAST_SAVED * _near_voxels(shape, psf_shape)


def volume_bytes(shape: tuple[int, ...], psf_shape: tuple[int, ...]) -> int:
    """Estimate the greatest memory of the restoration of a volume, besides `BASE_BYTES`."""
    whole = math.prod(n + k - 1 for n, k in zip(shape, psf_shape, strict=True))
    near = _near_voxels(shape, psf_shape) if is_wide(shape, psf_shape) else whole
    # Light from afar is estimated on the coarse grid, before all else.
    return VOXEL_BYTES * max(near, whole // COARSE**2 if near < whole else 0)


def _near_voxels(shape: Sequence[int], psf_shape: Sequence[int]) -> int:
    sides = zip(shape, psf_shape, CORE, strict=True)
    return math.prod(n + min(k - 1, 2 * half) for n, k, half in sides)


def memory_bytes(
    shape: tuple[int, int], channels: int, tile: int | None, features: int = FEATURE_BYTES
) -> int:
    """Estimate the greatest memory of a restoration in bytes, besides `BASE_BYTES`.

    ``shape`` and ``channels`` are those of the result; the network takes ``features`` bytes for a
    pixel of a tile.
    """
    state = math.prod(shape) * (PIXEL_BYTES + CHANNEL_BYTES * channels)
    sides = (max(end - begin for begin, end in spans(n, tile or n)) for n in shape)
    return max(state, int(STAYS * state) + math.prod(sides) * features)


@dataclass(frozen=True)
class Lines:
    """How one axis of the planes is cut, in pixels of the source."""

    # What is restored, side by side.
    parts: tuple[Span, ...]
    # What is read for each: the part and what surrounds it.
    windows: tuple[Span, ...]
    # Pixels of the result per pixel of the source.
    scale: float = 1.0

    @classmethod
    def cut(cls, size: int, part: float, halo: float, step: int, scale: float = 1.0) -> Lines:
        """Cut ``size`` pixels into parts of about equal length.

        Windows begin at multiples of ``step``, and end so far from the end of the plane: networks
        then see the same grid as in the plane, also from behind, when the image is flipped.
        """
        count = max(1, round(size / part))
        length = math.ceil(size / count / step) * step
        reach = math.ceil(halo / step) * step
        parts = [(begin, min(begin + length, size)) for begin in range(0, size, length)]
        windows = [
            (max(begin - reach, 0), size - max(0, (size - end - reach) // step * step))
            for begin, end in parts
        ]
        return cls(tuple(parts), tuple(windows), scale)

    @property
    def lengths(self) -> list[int]:
        """Lengths of the windows."""
        return [end - begin for begin, end in self.windows]

    @property
    def targets(self) -> list[Span]:
        """Begin and end of the parts in the result."""
        first = round(self.parts[0][0] * self.scale)
        edges = [0, *(round(end * self.scale) - first for _, end in self.parts)]
        return list(pairwise(edges))

    @property
    def crops(self) -> list[Span]:
        """Begin and end of the parts in the restored windows."""
        crops = []
        for part, window, target in zip(self.parts, self.windows, self.targets, strict=True):
            begin = int((part[0] - window[0]) * ratio(self.scale))
            crops.append((begin, begin + target[1] - target[0]))
        return crops


@dataclass(frozen=True)
class Grid:
    """How planes are cut."""

    rows: Lines
    columns: Lines

    @classmethod
    def whole(cls, shape: tuple[int, int], factors: Factors = (1.0, 1.0)) -> Grid:
        """Take planes of this height and width whole."""
        return cls.inner(shape, (slice(0, shape[0]), slice(0, shape[1])), factors)

    @classmethod
    def inner(
        cls, shape: tuple[int, int], part: tuple[slice, slice], factors: Factors = (1.0, 1.0)
    ) -> Grid:
        """Take one part of planes, with all that surrounds it."""
        rows, columns = (
            Lines(((piece.start, piece.stop),), ((0, n),), factor)
            for n, piece, factor in zip(shape, part, factors, strict=True)
        )
        return cls(rows, columns)

    @classmethod
    def cut(
        cls,
        shape: tuple[int, int],
        part: int | None,
        halo: float,
        factors: Factors = (1.0, 1.0),
        period: tuple[int, int] = (1, 1),
    ) -> Grid:
        """Cut planes into parts of about ``part`` pixels of the result a side.

        Parameters
        ----------
        shape : tuple of int
            Height and width of the planes.
        part : int or None
            Planes up to half as large again are not cut; with None, none is.
        halo : float
            What parts see of their neighbours, in pixels of the result.
        factors : (float, float)
            Rows and columns of the result for one of the planes.
        period : tuple of int
            Pixels after which the colour filters of a mosaic repeat, along both axes.

        Raises
        ------
        DmspError
            Where planes cannot be cut so.
        """
        if part is not None and (part < MIN_PART or part % 1):
            raise DmspError(f"chunks={part} must be a whole number, at least {MIN_PART}, or None.")
        if not 0 <= halo < math.inf:
            raise DmspError(f"halo={halo} must be zero or positive, and finite.")
        length = math.inf if part is None else part
        rows, columns = (
            Lines.cut(n, float(length / ratio(f)), float(halo / ratio(f)), step, f)
            for n, f, step in zip(shape, factors, steps(factors, period), strict=True)
        )
        grid = cls(rows, columns)
        if grid.is_cut:
            for n, f in zip(shape, factors, strict=True):
                _check_ratio(f, n, shape)
        return grid

    @property
    def is_cut(self) -> bool:
        """Whether planes have more than one part."""
        return len(self) > 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.rows.targets[-1][1], self.columns.targets[-1][1]

    def __len__(self) -> int:
        return len(self.rows.parts) * len(self.columns.parts)

    @property
    def indices(self) -> list[tuple[int, int]]:
        """Row and column of every part."""
        return list(product(range(len(self.rows.parts)), range(len(self.columns.parts))))


def steps(factors: Factors, period: Sequence[int]) -> tuple[int, int]:
    """Return the pixels of the source, along both axes, to multiples of which windows are moved."""
    bases = (STRIDE * f.denominator // math.gcd(f.numerator, STRIDE) for f in map(ratio, factors))
    rows, columns = map(math.lcm, bases, period)
    return rows, columns


def ratio(scale: float) -> Fraction:
    """Return a scale as a ratio of small numbers, as near as can be."""
    return Fraction(scale).limit_denominator(64)


def _check_ratio(scale: float, size: int, shape: Sequence[int]) -> None:
    """Make sure that parts begin and end between pixels of both grids."""
    factor = ratio(scale)
    if not math.isclose(factor, scale, rel_tol=1e-9):
        raise DmspError(
            f"scale={scale} is no ratio of small numbers, so planes cannot be cut into parts; take "
            "one like 2 or 1.5, or chunks=None."
        )
    if size * factor % 1:
        n = factor.denominator
        raise DmspError(
            f"scale={scale} does not give whole pixels for planes of {shape[0]} x {shape[1]}; crop "
            f"them to multiples of {n}, or take chunks=None."
        )
