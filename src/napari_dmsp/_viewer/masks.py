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


@dataclass(frozen=True, eq=False)
class Outline:
    """A shape in the coordinates of the image's data.

    Attributes
    ----------
    vertices : ndarray
        (n, ndim).
    filled : bool
        Whether what it encloses belongs to it; a line is one pixel wide.
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
    """A mask in a layer, as it lies over an image; made in the GUI thread and read anywhere.

    Attributes
    ----------
    layer, image : Layer
        Where it is, and the layer to restore.
    point : tuple of float
        Where the sliders were, for axes that the image does not have.
    outlines : tuple of Outline, or None
        The shapes of a Shapes layer.
    free : int
        How many leading axes of the image the shapes do not have: they lie in all planes there.
    labels : array_like or None
        Data of a Labels layer, not zero where a pixel is missing.
    mapping : ndarray
        (ndim of the labels, ndim of the image + 1): coordinates in the labels are
        ``mapping[:, :-1] @ p + mapping[:, -1]`` for coordinates ``p`` in the image.
    """

    layer: Labels | Shapes
    image: Image
    point: tuple[float, ...]
    outlines: tuple[Outline, ...] | None = None
    free: int = 0
    labels: Any = field(default=None, repr=False)
    mapping: NDArray[np.float64] | None = None

    @classmethod
    def over(cls, layer: Labels | Shapes, image: Image, point: Sequence[float]) -> LayerMask:
        """Freeze a layer as it lies over an image."""
        point = tuple(map(float, point))
        if hasattr(layer, "shape_type"):
            outlines = tuple(
                Outline(_into(image, layer, vertices), kind not in ("line", "path"))
                for vertices, kind in map(_corners, layer.data, layer.shape_type)
            )
            return cls(layer, image, point, outlines, max(0, image.ndim - layer.ndim))

        def place(at: NDArray[np.float64]) -> NDArray[np.float64]:
            world = np.array(point)
            world[-image.ndim :] = image.data_to_world(at)
            return np.asarray(layer.world_to_data(world), dtype=np.float64)

        origin = place(np.zeros(image.ndim))
        steps = [place(unit) - origin for unit in np.eye(image.ndim)]
        labels = layer.data[0] if layer.multiscale else layer.data
        return cls(layer, image, point, labels=labels, mapping=np.column_stack([*steps, origin]))

    def read(self, index: Sequence[int | slice], axes: Sequence[int]) -> NDArray[np.bool_]:
        """Return a part of the mask, True where a pixel is missing.

        Parameters
        ----------
        index : sequence of int or slice
            The part, in the data of the image.
        axes : sequence of int
            Rows and columns of planes.

        Returns
        -------
        ndarray
            Of the shape that the image has at this index.
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
    """A mask over a part of an image, as a `napari_dmsp.plan.Source`.

    Attributes
    ----------
    mask : LayerMask or None
        A layer; None finds the NaN, infinite and saturated pixels of ``data``.
    data : array_like
        Of the image.
    window : tuple of slice
        The part.
    axes : tuple of int
        Rows and columns of planes.
    """

    mask: LayerMask | None
    data: Any
    window: tuple[slice, ...]
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


def _corners(vertices: NDArray[Any], kind: str) -> tuple[NDArray[Any], str]:
    """Return the corners of a shape; those of an ellipse in napari are of the box around it."""
    corners = np.asarray(vertices, dtype=np.float64)
    if kind == "ellipse":
        along, across = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
        turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
        corners = corners.mean(0) + np.cos(turns) * along + np.sin(turns) * across
    return corners, kind


def _into(image: Image, layer: Shapes, vertices: NDArray[Any]) -> NDArray[np.float64]:
    """Take vertices from the coordinates of one layer to those of another."""
    return np.array([image.world_to_data(layer.data_to_world(vertex)) for vertex in vertices])
