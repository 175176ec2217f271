"""From a napari layer to an array, and from a restored array to a layer. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image


@dataclass(frozen=True, eq=False)
class Plane:
    """The 2-D plane of an image layer that the viewer shows, and where its restoration belongs.

    Made in the GUI thread, where it computes nothing; `read` may run anywhere.

    Attributes
    ----------
    index : tuple of slice
        The plane in the layer's data: all of two axes, one step of the others, and of RGBA the
        colours only.
    axes : tuple of int
        The two axes of the plane.
    rgb : bool
        Whether colours lie along the last axis.
    layer_options : dict
        What a layer with the restored plane takes over: transform, units, colormap and so on.
    """

    index: tuple[slice, ...]
    axes: tuple[int, int]
    rgb: bool
    layer_options: dict[str, Any]
    _data: Any = field(repr=False)
    _to_physical: Callable[[Any], Any] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = (self.index[axis].stop for axis in self.axes)
        return height, width

    @property
    def channel_axis(self) -> int | None:
        """Axis of the colours in the array that `read` returns."""
        return -1 if self.rgb else None

    def read(self) -> NDArray[Any]:
        """Compute the plane, (H, W) or (H, W, 3)."""
        shape = (*self.shape, 3) if self.rgb else self.shape
        return np.asarray(self._data[self.index]).reshape(shape)

    def place(self, image: NDArray[np.float32]) -> NDArray[Any]:
        """Give a restored plane the axes of the layer, for a layer with `layer_options`."""
        values: NDArray[Any] = image
        if self.rgb and np.issubdtype(self._data.dtype, np.integer):
            # The viewer takes colours as integers of full range or as 0..1, unlike grey values.
            limits = np.iinfo(self._data.dtype)
            values = np.clip(np.rint(image), limits.min, limits.max).astype(self._data.dtype)
        shape = [part.stop - part.start for part in self.index]
        for axis, size in zip(self.axes, image.shape[:2], strict=True):
            shape[axis] = size
        return values.reshape(shape)

    def options_for(self, image: NDArray[np.float32]) -> dict[str, Any]:
        """Return `layer_options` for a result of any size that covers the plane."""
        ndim = len(self.layer_options["scale"])
        start = np.array([float(part.start) for part in self.index[:ndim]])
        step = np.ones(ndim)
        for axis, old, new in zip(self.axes, self.shape, image.shape[:2], strict=True):
            step[axis] = old / new
        # Pixels are where their centres are: those of smaller ones lie nearer to the edge.
        return self.layer_options | {
            "scale": self.layer_options["scale"] * step,
            "translate": self._to_physical(start + (step - 1) / 2),
        }


def visible_plane(layer: Image, dims: Dims) -> Plane:
    """Find the plane of ``layer`` that a viewer with ``dims`` shows.

    In 3-D view it is the plane that 2-D view would show. A layer with several resolutions is
    taken at its finest.
    """
    data = full_resolution(layer)
    offset = dims.ndim - layer.ndim
    order = [axis - offset for axis in dims.order if axis >= offset]
    # Axes in the order of the data, so that the plane and the PSF are oriented alike.
    first, second = sorted(order[-2:])
    position = np.rint(layer.world_to_data(dims.point))
    index = [
        slice(0, size) if axis in (first, second) else _step(position[axis], size)
        for axis, size in enumerate(data.shape[: layer.ndim])
    ]
    to_physical = _physical_transform(layer)
    options = _layer_options(layer) | {"translate": to_physical([part.start for part in index])}
    if layer.rgb:
        index.append(slice(0, 3))
    return Plane(tuple(index), (first, second), layer.rgb, options, data, to_physical)


def full_resolution(layer: Image) -> Any:
    """Return the data of a layer, without computing or copying it."""
    return layer.data[0] if layer.multiscale else layer.data


def _step(position: float, size: int) -> slice:
    # A slider may stand beyond a layer that is shorter than another one.
    start = int(np.clip(position, 0, size - 1))
    return slice(start, start + 1)


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
        "rgb": layer.rgb,
        "scale": layer.scale,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine.affine_matrix,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }
    if not layer.rgb:
        options |= {
            "colormap": layer.colormap,
            "contrast_limits": layer.contrast_limits,
            "gamma": layer.gamma,
        }
    return options
