"""Before and after: the layer that was restored, in the place of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

from psygnal import Signal

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Layer

# The key that compares while a result is the active layer; image layers have no other use for it.
KEY = "B"
# Blendings of images that let others shine through.
CLEAR = ("additive", "minimum", "multiplicative")


class Comparison:
    """Shows an image as it was before, without its result, and then all layers as they were.

    Only one comparison is shown at a time, of whichever panel. `changed` says whether it is.
    """

    changed = Signal(bool)
    _shown: ClassVar[Comparison | None] = None

    def __init__(self, viewer: napari.Viewer, before: Image, after: Image) -> None:
        self._viewer, self.after = viewer, after
        # A layer that was removed must not be kept by its result.
        self._before = ref(before)
        self._visible: dict[Layer, bool] = {}
        after.bind_key(KEY, self.toggle, overwrite=True)

    @property
    def before(self) -> Image | None:
        """The layer that was restored, if the viewer still has it."""
        layer = self._before()
        return layer if layer in self._viewer.layers else None

    @property
    def possible(self) -> bool:
        """Whether the viewer still has both layers."""
        return self.before is not None and self.after in self._viewer.layers

    @property
    def shown(self) -> bool:
        """Whether the image is shown as it was before."""
        return Comparison._shown is self

    def toggle(self, _: Any = None) -> None:
        """Show the image as it was before, or all layers as they were."""
        if self.shown:
            self.end()
        elif self.before is not None and self.possible:
            self._begin(self.before)

    def end(self) -> None:
        """Show all layers as they were, but for those that are gone."""
        if self.shown:
            Comparison._shown = None
            for layer, visible in self._visible.items():
                layer.visible = visible
            self._visible = {}
            self.changed.emit(False)

    def _begin(self, before: Image) -> None:
        if Comparison._shown is not None:
            Comparison._shown.end()
        Comparison._shown = self
        above = self._viewer.layers[self._viewer.layers.index(before) + 1 :]
        covers = [layer for layer in above if _covers(layer)]
        self._visible = {layer: layer.visible for layer in (before, self.after, *covers)}
        for layer in self._visible:
            layer.visible = layer is before
        self.changed.emit(True)


def _covers(layer: Layer) -> bool:
    """Whether a layer may hide those below."""
    from napari.layers import Image

    return isinstance(layer, Image) and layer.blending not in CLEAR
