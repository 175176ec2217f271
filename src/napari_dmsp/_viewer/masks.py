"""Masks of planes that the user paints in a Labels layer or draws in a Shapes layer. No Qt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import line, polygon2mask

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Shapes

# Corners of the polygon that stands for an ellipse.
CORNERS = 128
FILLED = ("ellipse", "polygon", "rectangle")


@dataclass(frozen=True, eq=False)
class Outline:
    """A shape in the coordinates of the image's data, (n, ndim).

    If it is ``filled``, what it encloses belongs to it; a line is one pixel wide.
    """

    vertices: NDArray[np.float64]
    filled: bool

    def reaches(self, steps: dict[int, int]) -> bool:
        """Whether it lies in a plane, which has one step in each of some axes."""
        return all(
            math.floor(self.vertices[:, axis].min() + 0.5) <= step
            and step <= math.floor(self.vertices[:, axis].max() + 0.5)
            for axis, step in steps.items()
        )

    def paint(self, mask: NDArray[np.bool_], rows: int, columns: int, start: Sequence[int]) -> None:
        """Set its pixels in a mask (H, W) of a plane that begins at ``start``."""
        points = self.vertices[:, (rows, columns)] - start
        if self.filled:
            mask |= polygon2mask(mask.shape, points)
            return
        whole = np.rint(points).astype(int)
        for begin, end in pairwise(whole):
            at = np.array(line(*begin, *end))
            inside = ((at >= 0) & (at < np.array(mask.shape)[:, None])).all(0)
            mask[tuple(at[:, inside])] = True


@dataclass(frozen=True, eq=False)
class LayerMask:
    """A mask in a layer, as it lies over an image; made in the GUI thread and read anywhere."""

    layer: Labels | Shapes
    image: Image
    # Where the sliders were, for axes that the image does not have.
    point: tuple[float, ...]
    # The shapes of a Shapes layer, and how many leading axes of the image they do not have: they
    # lie in all planes there.
    outlines: tuple[Outline, ...] | None = None
    free: int = 0
    # Data of a Labels layer, not zero where a pixel is missing. Coordinates in it are
    # ``mapping[:, :-1] @ p + mapping[:, -1]`` for coordinates ``p`` in the image.
    labels: Any = field(default=None, repr=False)
    mapping: NDArray[np.float64] | None = None

    @classmethod
    def over(cls, layer: Labels | Shapes, image: Image, point: Sequence[float]) -> LayerMask:
        """Freeze a layer as it lies over an image."""
        point = tuple(map(float, point))
        if hasattr(layer, "shape_type"):

            def back(at: NDArray[np.float64]) -> Any:
                return image.world_to_data(layer.data_to_world(at))

            matrix = _matrix(back, layer.ndim)
            outlines = tuple(
                Outline(_corners(vertices, kind) @ matrix[:, :-1].T + matrix[:, -1], kind in FILLED)
                for vertices, kind in zip(layer.data, layer.shape_type, strict=True)
            )
            return cls(layer, image, point, outlines, max(0, image.ndim - layer.ndim))

        def there(at: NDArray[np.float64]) -> Any:
            world = np.array(point)
            world[-image.ndim :] = image.data_to_world(at)
            return layer.world_to_data(world)

        labels = layer.data[0] if layer.multiscale else layer.data
        return cls(layer, image, point, labels=labels, mapping=_matrix(there, image.ndim))

    def read(self, index: Sequence[int | slice], axes: Sequence[int]) -> NDArray[np.bool_]:
        """Return what lies over a part of the image's data, True where a pixel is missing.

        ``axes`` are the rows and columns of planes.
        """
        index = index[: self.image.ndim]
        window = [part if isinstance(part, slice) else slice(part, part + 1) for part in index]
        rows, columns = (window[axis] for axis in axes)
        mask = np.zeros([part.stop - part.start for part in window], dtype=bool)
        others = [axis for axis in range(len(window)) if axis not in axes]
        for steps in product(*(range(window[axis].start, window[axis].stop) for axis in others)):
            known = dict(zip(others, steps, strict=True))
            at = tuple(
                known[axis] - part.start if axis in known else slice(None)
                for axis, part in enumerate(window)
            )
            paint = self._painted if self.outlines is None else self._drawn
            mask[at] = paint(known, dict(zip(axes, (rows, columns), strict=True)))
        return mask[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)]

    def _drawn(self, steps: dict[int, int], plane: dict[int, slice]) -> NDArray[np.bool_]:
        (rows, down), (columns, right) = plane.items()
        mask = np.zeros((down.stop - down.start, right.stop - right.start), dtype=bool)
        fixed = {axis: step for axis, step in steps.items() if axis >= self.free}
        for outline in self.outlines or ():
            if outline.reaches(fixed):
                outline.paint(mask, rows, columns, (down.start, right.start))
        return mask

    def _painted(self, steps: dict[int, int], plane: dict[int, slice]) -> NDArray[np.bool_]:
        assert self.mapping is not None
        # Coordinates along rows and columns that are broadcast: few where nothing is turned.
        down, right = (np.arange(part.start, part.stop) for part in plane.values())
        rows, columns = plane
        grid = steps | {rows: down[:, None], columns: right[None]}
        shape = (len(down), len(right))
        inside, where, box = np.ones((1, 1), dtype=bool), [], []
        for size, (*factors, offset) in zip(self.labels.shape, self.mapping, strict=True):
            at = np.full((1, 1), offset)
            for axis, factor in enumerate(factors):
                if abs(factor) > 1e-9:
                    at = at + factor * grid[axis]
            whole = np.floor(at + 0.5).astype(np.int64)
            inside = inside & (whole >= 0) & (whole < size)
            whole = whole.clip(0, size - 1)
            low, high = int(whole.min()), int(whole.max())
            where.append(whole - low)
            box.append(slice(low, high + 1))
        if not inside.any():
            return np.zeros(shape, dtype=bool)
        found = np.asarray(self.labels[tuple(box)])[tuple(where)] != 0
        return np.broadcast_to(found & inside, shape)


@dataclass(frozen=True, eq=False)
class MaskSource:
    """A mask over a part of an image, as a `napari_dmsp.plan.Source`."""

    # A layer; None finds the NaN, infinite and saturated pixels of the image's data.
    mask: LayerMask | None
    data: Any
    window: tuple[slice, ...]
    # Rows and columns of planes.
    axes: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes; a layer has none for colours that are no axis of the viewer."""
        window = self.window if self.mask is None else self.window[: self.mask.image.ndim]
        return tuple(part.stop - part.start for part in window)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a mask."""
        return np.dtype(bool)

    def reader(self, window: tuple[slice, ...]) -> Callable[[], NDArray[np.bool_]]:
        """Return a function that reads a part of the mask."""
        inside = [
            slice(base.start + part.start, base.start + part.stop)
            for base, part in zip(self.window, window, strict=False)
        ]
        return partial(self._read, inside)

    def _read(self, inside: list[slice]) -> NDArray[np.bool_]:
        if self.mask is not None:
            return self.mask.read(inside, self.axes)
        from ..core.inputs import bad_pixels

        return bad_pixels(np.asarray(self.data[tuple(inside)]))


def _matrix(place: Callable[[NDArray[np.float64]], Any], ndim: int) -> NDArray[np.float64]:
    """Return an affine map of ``ndim`` coordinates as a matrix, with the shift as last column."""
    origin = np.asarray(place(np.zeros(ndim)), dtype=np.float64)
    return np.column_stack([*(place(unit) - origin for unit in np.eye(ndim)), origin])


def _corners(vertices: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """Return the corners of a shape; those of an ellipse in napari are of the box around it."""
    corners = np.asarray(vertices, dtype=np.float64)
    if kind != "ellipse":
        return corners
    along, across = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    middle: NDArray[np.float64] = corners.mean(0)
    return middle + np.cos(turns) * along + np.sin(turns) * across
