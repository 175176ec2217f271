"""How a panel is told the point spread function."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Widget

from ..errors import DmspError
from .form import LayerChoice, Offers, number, read_number
from .layers import drawn_motion, full_resolution, pixel_size
from .script import LayerPsf, ShapedPsf

if TYPE_CHECKING:
    from napari.layers import Image

LAYER, GAUSSIAN, MOTION, LINE = "layer", "Gaussian", "motion", "drawn line"
UNKNOWN, NO_PSF = "unknown", "none (bicubic reduction)"


class PsfChoice:
    """The widgets for a point spread function, of a panel that has its image already."""

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        finds = panel.kind.finds_psf
        shapes = [LAYER, GAUSSIAN, MOTION, LINE]
        self.kind = ComboBox(
            name="psf",
            label="PSF",
            choices=[*shapes, UNKNOWN] if finds else [NO_PSF, *shapes],
            tooltip="The point spread function: how the blur spreads a single point"
            + (". An unknown one is found, which takes longer." if finds else ", in the result."),
        )
        self.layer = LayerChoice(
            self._layers,
            lambda layers: next(filter(is_psf, layers), None),
            name="psf_layer",
            label="PSF layer",
        )
        panel.image_choice.changed.connect(self.layer.reset_choices)
        if finds and self.layer.value is None:
            self.kind.value = GAUSSIAN
        self.sigma = number("sigma", "σ", 2, "Standard deviation.")
        self.unit = ComboBox(
            name="unit",
            label="Unit of σ",
            choices=["px", "µm"],
            tooltip="µm takes the pixel size from the scale and the units of the layer.",
        )
        self._unit = self.unit.value
        self.unit.changed.connect(self._convert)
        self.length = number("length", "Length (px)", 15, "Path of the motion in pixels.")
        self.angle = number(
            "angle", "Angle (°)", 0, "Direction in degrees, counter-clockwise from the x axis."
        )
        self.line = LayerChoice(
            panel.shapes_layers,
            lambda _: None,
            name="line",
            label="Line",
            tooltip="A shapes layer: the line selected there, or drawn last, is the path of the "
            "motion.",
        )
        self._kinds: dict[str, tuple[Widget, ...]] = {
            LAYER: (self.layer,),
            GAUSSIAN: (self.sigma, self.unit),
            MOTION: (self.length, self.angle),
            LINE: (self.line,),
        }

    @property
    def widgets(self) -> list[Widget]:
        """All of them, in their order."""
        return [self.kind, *chain.from_iterable(self._kinds.values())]

    @property
    def chosen_layers(self) -> list[Any]:
        """The layers that are used."""
        used = self._kinds.get(self.kind.value, ())
        return [widget.value for widget in used if isinstance(widget, LayerChoice)]

    @property
    def is_unknown(self) -> bool:
        """Whether it is to be found."""
        return bool(self.kind.value == UNKNOWN)

    def show(self) -> None:
        """Show the widgets of the chosen kind only."""
        for kind, widgets in self._kinds.items():
            for widget in widgets:
                widget.visible = kind == self.kind.value

    def read(self) -> ShapedPsf | LayerPsf | None:
        """Return the point spread function in pixels of the result, or None without one."""
        kind, panel = self.kind.value, self._panel
        if kind in (UNKNOWN, NO_PSF):
            return None
        if kind == LAYER:
            return self._layer_psf()
        if kind == GAUSSIAN:
            sigma = read_number(self.sigma)
            sides = self._pixel_sizes() if self.unit.value == "µm" else (1.0, 1.0)
            height, width = (round(sigma / side, 6) for side in sides)
            shaped = ShapedPsf("gaussian_psf", ((height, width),))
        elif kind == MOTION:
            shaped = ShapedPsf("motion_psf", (read_number(self.length), read_number(self.angle)))
        else:
            if self.line.value is None:
                raise DmspError("Draw the path of the motion as a line in a shapes layer.")
            assert panel.image is not None
            length, angle = drawn_motion(self.line.value, panel.image, panel.axes)
            longer = length * panel.magnification()
            shaped = ShapedPsf("motion_psf", (round(longer, 2), round(angle, 2)))
        # It may be too large, or not a number.
        shaped.make()
        return shaped

    def _layer_psf(self) -> LayerPsf:
        layer: Image | None = self.layer.value
        if layer is None:
            what = "Choose the PSF layer" if self._layers() else "Open the PSF as an image layer"
            raise DmspError(f"{what}, or another kind of PSF.")
        data = full_resolution(layer)
        if layer.rgb or sum(size > 1 for size in data.shape) > 2:
            raise DmspError(f"The PSF must be a 2-D grey image; {layer.name!r} is not.")
        return LayerPsf(layer, data)

    def _layers(self) -> Offers:
        layers = [layer for layer in self._panel.image_layers() if layer is not self._panel.image]
        return [(layer.name, layer) for layer in sorted(layers, key=is_psf, reverse=True)]

    def _pixel_sizes(self) -> tuple[float, float]:
        """Height and width in µm of the pixels that the PSF has."""
        panel = self._panel
        if panel.image is None:
            raise DmspError("Open an image.")
        height, width = pixel_size(panel.image, panel.axes)
        return height / panel.magnification(), width / panel.magnification()

    def _convert(self, unit: str) -> None:
        """Keep the width of the Gaussian when its unit changes; of sides that differ, the mean."""
        before, self._unit = self._unit, unit
        try:
            side, sigma = math.sqrt(math.prod(self._pixel_sizes())), read_number(self.sigma)
        except ValueError:
            # The panel says what is missing.
            return
        if before != unit:
            self.sigma.value = f"{sigma * side if unit == 'µm' else sigma / side:.6g}"


def is_psf(layer: Image) -> bool:
    """Whether a layer calls itself a point spread function."""
    return "psf" in layer.name.lower()
