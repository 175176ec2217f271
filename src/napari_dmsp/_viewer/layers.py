"""From a napari layer to arrays, and from restored arrays to a layer. No Qt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DmspError

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Layer, Shapes

# Labels of axes along which colours may lie.
CHANNEL_LABELS = {"c", "ch", "channel", "channels", "color", "colors", "colour", "colours", "rgb"}

TIME_LABELS = {"t", "time"}

# Rows from, to; columns from, to.
Region = tuple[slice, slice]
# The axes of rows and of columns in the data of a layer.
Axes = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Selection:
    """What is to be restored of an image layer, plane by plane, and where the result belongs.

    Made in the GUI thread, where it computes nothing.
    """

    # The part of the layer's data: a rectangle in two axes, one or all steps of the others, of
    # volumes perhaps some planes, and of RGBA the colours only.
    index: tuple[slice, ...]
    axes: Axes
    # Whether the layer is in colour, and the axis of colours that are restored together.
    rgb: bool
    colours: int | None
    # The rectangle as read: with what surrounds it, as far as there is any.
    margin: Region
    # What a layer with the restored part takes over: transform, units, colormap and so on.
    layer_options: dict[str, Any]
    # The layer, which the user may rename or remove at any moment, and its data as they were.
    layer: Image = field(repr=False)
    data: Any = field(repr=False)
    # The axis along which planes are restored together, as a volume. What is said of planes then
    # holds for volumes.
    depth: int | None
    # A sentence if a slider is beyond the layer; the plane that is nearest to it is taken.
    beyond: str
    _to_physical: Callable[[Any], Any] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a plane."""
        return _size(self.index[self.axes[0]]), _size(self.index[self.axes[1]])

    @property
    def axis_labels(self) -> tuple[str, ...]:
        """Names of the layer's axes."""
        # An axis without a name is "-1" or, of earlier napari, "axis -1".
        labels = self.layer_options["axis_labels"]
        return tuple(label.removeprefix("axis ") for label in labels)

    @property
    def window(self) -> tuple[slice, ...]:
        """The part of the data that is read: with the margin."""
        around = dict(zip(self.axes, self.margin, strict=True))
        return tuple(around.get(axis, part) for axis, part in enumerate(self.index))

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns without the margin, from the margin's first on."""
        rows, columns = (
            slice(self.index[axis].start - around.start, self.index[axis].stop - around.start)
            for axis, around in zip(self.axes, self.margin, strict=True)
        )
        return rows, columns

    @property
    def restored_axes(self) -> tuple[int, ...]:
        """The axes that are restored together, colours aside: of volumes, depth first."""
        return self.axes if self.depth is None else (self.depth, *self.axes)

    @property
    def walked(self) -> list[int]:
        """The axes that a plane does not have."""
        others = (*self.axes, self.colours, self.depth)
        return [axis for axis in range(len(self.index)) if axis not in others]

    @cached_property
    def planes(self) -> list[tuple[int, ...]]:
        """The steps of the axes that a plane does not have, one entry a plane."""
        parts = (self.index[axis] for axis in self.walked)
        return list(product(*(range(part.start, part.stop) for part in parts)))

    @property
    def has_margin(self) -> bool:
        """Whether more is read than restored."""
        return any(self.index[a] != part for a, part in zip(self.axes, self.margin, strict=True))

    @property
    def channel_axis(self) -> int | None:
        """Where, in a plane as read, colours lie."""
        if self.colours is None:
            return None
        # Images in colour have their colours last, and are said to have them at -1.
        return -1 if self.rgb else sorted((*self.axes, self.colours)).index(self.colours)

    def source(self, steps: Sequence[Any]) -> tuple[Any, ...]:
        """Return the index of a plane with its margin in the layer's data.

        Steps may be names, for code.
        """
        known = dict(zip(self.walked, steps, strict=True))
        return tuple(known.get(axis, part) for axis, part in enumerate(self.window))

    def target(self, steps: Sequence[Any]) -> tuple[Any, ...]:
        """Return the index of a plane in the result, as `source` does."""
        known = dict(zip(self.walked, steps, strict=True))
        return tuple(
            _minus(known[axis], part.start) if axis in known else slice(None)
            for axis, part in enumerate(self.index)
        )

    def blank(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a transparent array for all planes, of which a restored one is ``block``.

        Several planes in colour have a fourth sample, which is zero; several grey ones are NaN, and
        float32 therefore.
        """
        shape = list(block.shape)
        for axis in self.walked:
            shape[axis] = _size(self.index[axis])
        if len(self.planes) == 1:
            return np.zeros(shape, block.dtype)
        if self.in_colour(block):
            return np.zeros((*shape[:-1], 4), block.dtype)
        return np.full(shape, np.nan, np.float32)

    def in_colour(self, block: NDArray[Any]) -> bool:
        """Whether a layer with such a restored plane is in colour."""
        return block.ndim > len(self.layer_options["scale"])

    def options_for(self, block: NDArray[Any]) -> dict[str, Any]:
        """Return `layer_options` for a result whose planes have any size and cover the part."""
        ndim = len(self.layer_options["scale"])
        start = np.array([float(part.start) for part in self.index[:ndim]])
        step = np.ones(ndim)
        for axis in self.axes:
            step[axis] = _size(self.index[axis]) / block.shape[axis]
        options = self.layer_options
        rgb = self.in_colour(block)
        if rgb:
            options = {k: v for k, v in options.items() if k not in GREY_OPTIONS}
        # Pixels are where their centres are: those of smaller ones lie nearer to the edge.
        return options | {
            "rgb": rgb,
            "scale": options["scale"] * step,
            "translate": self._to_physical(start + (step - 1) / 2),
        }


GREY_OPTIONS = ("colormap", "contrast_limits", "gamma")


def select(
    layer: Image,
    dims: Dims,
    *,
    axes: Axes | None = None,
    colours: int | None = None,
    depth: int | None = None,
    planes: slice | None = None,
    region: Region | None = None,
    along: Sequence[int] = (),
    margin: int = 0,
    align: int = 1,
) -> Selection:
    """Select what a viewer with ``dims`` shows of ``layer``, and more or less of it.

    A layer with several resolutions is taken at its finest.

    Parameters
    ----------
    axes : tuple of int, optional
        The two axes of a plane; those on screen by default, as in `plane_axes`.
    colours : int, optional
        Another axis, of length 3, along which a layer that is not in colour has colours.
    depth : int, optional
        The axis along which planes are restored together, as a volume.
    planes : slice, optional
        The planes of a volume; all of them by default.
    region : Region, optional
        Rectangle within the plane; all of it by default.
    along : sequence of int
        Other axes of which all steps are selected, and not only the one shown.
    margin, align : int
        Pixels around the region that are restored too, and cut off; and of how many it begins at
        multiples.
    """
    data = full_resolution(layer)
    axes = axes or plane_axes(layer, dims)
    position = np.rint(layer.world_to_data(dims.point))
    shown = [axis for axis in range(layer.ndim) if axis not in (*axes, *along, colours, depth)]
    index = [slice(0, size) for size in data.shape[: layer.ndim]]
    for axis in shown:
        start = int(np.clip(position[axis], 0, data.shape[axis] - 1))
        index[axis] = slice(start, start + 1)
    if depth is not None and planes is not None:
        index[depth] = planes
    around = [index[axis] for axis in axes]
    if region is not None:
        for i, (axis, part) in enumerate(zip(axes, region, strict=True)):
            size = data.shape[axis]
            start, stop = max(part.start, 0) // align * align, min(part.stop, size)
            if start >= stop:
                raise DmspError("The region lies outside the image; move it or choose another.")
            index[axis] = slice(start, stop)
            around[i] = slice(max(start - margin, 0) // align * align, min(stop + margin, size))
    to_physical = _physical_transform(layer)
    if layer.rgb:
        colours = layer.ndim
        index.append(slice(0, 3))
    return Selection(
        tuple(index),
        axes,
        layer.rgb,
        colours,
        (around[0], around[1]),
        _layer_options(layer),
        layer,
        data,
        depth,
        _beyond(layer, data.shape, position, shown),
        to_physical,
    )


def plane_axes(layer: Layer, dims: Dims) -> Axes:
    """Return the two axes of a layer that a viewer with ``dims`` shows, or would in 2-D view.

    In the order of the data, so that the plane and the PSF are oriented alike.
    """
    offset = dims.ndim - layer.ndim
    order = [axis - offset for axis in dims.order if axis >= offset]
    first, second = sorted(order[-2:])
    return first, second


def volume_axes(layer: Image, axes: Axes) -> tuple[int, int, int] | None:
    """Return depth, rows and columns of the volumes that a layer's planes with these axes make up.

    The depth is the axis labelled z, or else the last other one of some length that is neither
    labelled nor measured as time or channels. None for planes and for colours.
    """
    if layer.rgb:
        return None
    others = {
        axis: label.lower()
        for axis, label in long_axes(layer, without=axes).items()
        if label.lower() not in (*CHANNEL_LABELS, *TIME_LABELS)
        and not (1 * layer.units[axis]).check("[time]")
    }
    named = [axis for axis, label in others.items() if label == "z"]
    if not others:
        return None
    depth, rows, columns = sorted((*axes, (named or list(others))[-1]))
    return depth, rows, columns


def full_resolution(layer: Image) -> Any:
    """Return the data of a layer, without computing or copying it."""
    return layer.data[0] if layer.multiscale else layer.data


def visible_region(layer: Image, dims: Dims, axes: Axes, most: int | None = None) -> Region:
    """Return the part of a layer's plane that is on screen, its middle of ``most`` pixels a side.

    In 3-D view, and of an axis that is not on screen, all counts as visible.
    """
    shown = plane_axes(layer, dims) if dims.ndisplay == 2 else ()
    rows, columns = (_visible(layer, axis) if axis in shown else _all(layer, axis) for axis in axes)
    return (rows, columns) if most is None else (_middle(rows, most), _middle(columns, most))


def near_planes(layer: Image, dims: Dims, depth: int, most: int) -> slice:
    """Return at most so many planes of a volume, around the one where the slider is."""
    size = full_resolution(layer).shape[depth]
    at = int(np.clip(np.rint(layer.world_to_data(dims.point))[depth], 0, size - 1))
    begin = int(np.clip(at - most // 2, 0, max(0, size - most)))
    return slice(begin, min(size, begin + most))


def shape_region(shapes: Shapes, layer: Image, axes: Axes) -> Region:
    """Return the box, in a layer's plane, around the shape that is selected or was last drawn."""
    corners = np.array([_into(layer, shapes, vertex) for vertex in _drawn(shapes)])
    rows, columns = (
        slice(math.floor(at.min() + 0.5), math.floor(at.max() + 0.5) + 1)
        for at in (corners[:, axis] for axis in axes)
    )
    return rows, columns


def drawn_motion(shapes: Shapes, layer: Image, axes: Axes) -> tuple[float, float]:
    """Return length (pixels) and angle (degrees) from the first to the last point of a drawn line.

    The angle is counter-clockwise from the x axis as the image is displayed, as for `motion_psf`.
    """
    vertices = _drawn(shapes)
    begin, end = (_into(layer, shapes, vertex) for vertex in (vertices[0], vertices[-1]))
    down, right = ((end - begin)[axis] for axis in axes)
    length = math.hypot(down, right)
    if length < 1:
        raise DmspError(f"The line in {shapes.name!r} is shorter than a pixel; draw a longer one.")
    return length, math.degrees(math.atan2(-down, right))


def pixel_size(layer: Image, axes: Sequence[int]) -> tuple[float, ...]:
    """Return the sides of a layer's pixels in µm along some axes."""
    sizes = []
    for axis in axes:
        quantity = float(layer.scale[axis]) * layer.units[axis]
        if not quantity.check("[length]"):
            raise DmspError(
                f"{layer.name!r} has no pixel size: set scale and units of the layer, or use px."
            )
        sizes.append(float(quantity.to("um").magnitude))
    return tuple(sizes)


def long_axes(layer: Image, without: Collection[int] = (), least: int = 2) -> dict[int, str]:
    """Return the axes of some length at least, but for some, with their labels."""
    data = full_resolution(layer)
    return {
        axis: str(label)
        for axis, label in enumerate(layer.axis_labels)
        if axis not in without and data.shape[axis] >= least
    }


def colour_axes(layer: Image, without: Collection[int]) -> dict[int, str]:
    """Return the axes that may hold red, green and blue, with their labels.

    They are 3 long and labelled as channels, or first or last and not labelled. What is measured in
    units of time or length is neither.
    """
    shape = full_resolution(layer).shape
    return {
        axis: label
        for axis, label in long_axes(layer, without).items()
        if shape[axis] == 3
        and (
            label.lower() in CHANNEL_LABELS
            or (axis in (0, layer.ndim - 1) and re.fullmatch(r"(axis )?-?\d+", label))
        )
        and not any((1 * layer.units[axis]).check(kind) for kind in ("[time]", "[length]"))
    }


def renew(layer: Image, data: NDArray[Any], options: dict[str, Any]) -> bool:
    """Give a layer other data and options, which is quicker than to make another layer.

    False, and nothing is done, if it takes another layer: for colours instead of grey, for another
    type, or for other units (napari#8828).
    """
    old, new = (layer.rgb, layer.dtype, layer.units), (options["rgb"], data.dtype, options["units"])
    if old != new:
        return False
    layer.data = data
    now = _layer_options(layer) | {"translate": layer.translate}
    for name, value in options.items():
        # Each assignment draws the layer anew.
        if name not in now or not np.array_equal(now[name], value):
            setattr(layer, name, value)
    return True


def _all(layer: Image, axis: int) -> slice:
    return slice(0, full_resolution(layer).shape[axis])


def _visible(layer: Image, axis: int) -> slice:
    factor = layer.downsample_factors[layer.data_level][axis] if layer.multiscale else 1
    first, last = layer.corner_pixels[:, axis] * factor
    return slice(max(0, int(first)), min(_all(layer, axis).stop, int(last + factor)))


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _minus(step: Any, start: int) -> Any:
    """Count a step from another one; it may be a name."""
    if isinstance(step, str):
        return f"{step} - {start}" if start else step
    return step - start


def _middle(part: slice, most: int) -> slice:
    excess = max(0, _size(part) - most)
    return slice(part.start + excess // 2, part.stop - (excess - excess // 2))


def _drawn(shapes: Shapes) -> NDArray[Any]:
    if not len(shapes.data):
        raise DmspError(f"Nothing is drawn in {shapes.name!r}.")
    chosen = max(shapes.selected_data, default=len(shapes.data) - 1)
    vertices: NDArray[Any] = np.asarray(shapes.data[chosen])
    return vertices


def _into(layer: Image, shapes: Shapes, vertex: NDArray[Any]) -> NDArray[Any]:
    """From the coordinates of one layer to those of another."""
    point: NDArray[Any] = np.asarray(layer.world_to_data(shapes.data_to_world(vertex)))
    return point


def _beyond(layer: Image, shape: Sequence[int], position: Any, axes: Collection[int]) -> str:
    """Say which planes are taken where sliders are beyond a layer, as another one is longer."""
    ends = [
        f"its {'last' if position[axis] > 0 else 'first'} plane along {layer.axis_labels[axis]}, "
        f"number {shape[axis] if position[axis] > 0 else 1},"
        for axis in axes
        if not 0 <= position[axis] < shape[axis]
    ]
    verb = "is" if len(ends) == 1 else "are"
    return f"The slider is beyond the image: {' and '.join(ends)} {verb} taken." if ends else ""


def _physical_transform(layer: Image) -> Callable[[Any], Any]:
    """Return the transform from pixels of a layer to its units, without the layer's affine."""
    from napari.utils.transforms import Affine

    transform: Callable[[Any], Any] = Affine(
        scale=layer.scale, translate=layer.translate, rotate=layer.rotate, shear=layer.shear
    )
    return transform


def _layer_options(layer: Image) -> dict[str, Any]:
    """Collect what a layer takes over, but for the place of its first pixel.

    All at once: to assign scale and units of an existing layer can hang (napari#8828).
    """
    options = {
        "scale": layer.scale,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine.affine_matrix,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }
    if not layer.rgb:
        options |= {name: getattr(layer, name) for name in GREY_OPTIONS}
    return options
