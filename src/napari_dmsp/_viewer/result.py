"""The layer that shows what is restored, while it is and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .layers import GREY_OPTIONS, renew
from .script import Call, Steps, opacity

if TYPE_CHECKING:
    import napari
    from napari.layers import Image


class Result:
    """A layer and its data, of which the user may rename, change or remove the layer at any moment.

    What takes the viewer long is done ``in_turns``, see `Runner.in_turns`; an ``old`` layer may be
    given the new data instead of a new one.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        call: Call,
        name: str,
        in_turns: Callable[..., None],
        old: Image | None = None,
    ) -> None:
        self._viewer, self._call, self.name = viewer, call, name
        self._in_turns, self._old = in_turns, old
        self._data: NDArray[Any] | None = None
        self._done: set[Steps] = set()
        self._errors: dict[int, NDArray[np.float32]] = {}
        self.layer: Image | None = None

    @property
    def shown(self) -> bool:
        """Whether the layer is in the viewer, with the data that it was given."""
        layer = self.layer
        return layer is not None and layer in self._viewer.layers and layer.data is self._data

    def show(self, plane: int, block: NDArray[Any], done: bool = False) -> None:
        """Show a plane, as it is so far or, if it is done, in any case.

        A layer that the user has removed is not made anew before a plane is done.
        """
        call, selection = self._call, self._call.selection
        steps = selection.planes[plane]
        first = self._data is None
        if self._data is None:
            self._data = call.frame(block)
        target = self._data[call.plan.parts[plane].target[: selection.layer.ndim]]
        if call.has_alpha(self._data):
            target[..., :3], target[..., 3] = block, opacity(self._data.dtype)
        else:
            target[...] = block
        if done:
            self._done.add(steps)
        if self.shown and self.layer is not None:
            self.layer.refresh()
        elif first or done:
            options = selection.options_for(block) | {"name": self.name}
            self.layer = self._renewed(options) or self._new(options)

    def keep_error(self, plane: int, error: NDArray[np.float32] | None) -> None:
        """Keep the error of a plane for `add_errors`."""
        if error is not None:
            self._errors[plane] = error

    def add_errors(self) -> None:
        """Add a hidden layer with the error of all planes where it is known."""
        if not self._errors or self._data is None:
            return
        call, ndim = self._call, self._call.selection.layer.ndim
        data = np.full(self._data.shape[:ndim], np.nan, np.float32)
        for plane, error in self._errors.items():
            data[call.plan.parts[plane].target[:ndim]] = error
        options = call.selection.options_for(error)
        options = {k: v for k, v in options.items() if k not in GREY_OPTIONS}
        active = self._viewer.layers.selection.active
        self._viewer.add_image(
            data, **options | {"name": f"{self.name} error", "visible": False, "rgb": False}
        )
        self._viewer.layers.selection.active = active

    def settle(self) -> Image | None:
        """Give the data their final type, once all planes are done; return the layer, if shown."""
        if not self.shown or self.layer is None or self._data is None:
            return None
        call, whole = self._call, len(self._done) == len(self._call.selection.planes)
        data = self._data
        if whole and call.has_alpha(data):
            data = np.ascontiguousarray(data[..., :3])
        elif whole:
            data = data.astype(call.plan.dtype, copy=False)
        if data is not self._data:
            self.layer.data = self._data = data
        if call.selection.depth is not None:
            # Light that is put back to where it came from is brighter than what was seen.
            low, high = self.layer.contrast_limits
            self.layer.contrast_limits = low, max(high, float(np.nanpercentile(data, 99.9)))
        return self.layer

    def remove(self) -> None:
        """Remove the layer."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def _renewed(self, options: dict[str, Any]) -> Image | None:
        old, self._old = self._old, None
        if old is None or old not in self._viewer.layers:
            return None
        assert self._data is not None
        if renew(old, self._data, options | {"visible": True}):
            return old
        self._viewer.layers.remove(old)
        return None

    def _new(self, options: dict[str, Any]) -> Image:
        from napari.layers import Image

        # To make a layer, to add it and to draw it takes napari too long at once.
        layer = Image(self._data, visible=False, **options)

        def add() -> None:
            # In 3-D view, napari cannot add a plane in colour that is hidden.
            layer.visible = self._viewer.dims.ndisplay == 3
            self._viewer.add_layer(layer)

        self._in_turns(add, partial(setattr, layer, "visible", True))
        return layer
