"""The Deblur panel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, FloatSpinBox, Widget

from .layers import drawn_motion, full_resolution, pixel_size
from .panel import MARGIN, RunPanel, data_source, is_psf
from .script import LayerPsf, ShapedPsf

if TYPE_CHECKING:
    from napari.layers import Image

KINDS = ["layer", "Gaussian", "motion", "drawn line", "unknown"]


class DeblurPanel(RunPanel):
    """Removes blur from planes of an image layer."""

    task = "deblur"
    result_title = "deblurred"
    margin = MARGIN

    def task_widgets(self) -> list[Widget]:
        """Make the inputs of the point spread function."""
        self._psf = ComboBox(
            name="psf",
            label="PSF",
            choices=KINDS,
            tooltip="The point spread function: how the blur spreads a single point. "
            "An unknown one is found, which takes longer.",
        )
        self._psf_layer = ComboBox(name="psf_layer", label="PSF layer", choices=self._psf_layers)
        self._image.changed.connect(self._psf_layer.reset_choices)
        if not any(map(is_psf, self._psf_layer.choices)):
            self._psf.value = "Gaussian"
        self._sigma = FloatSpinBox(name="sigma", label="σ", value=2, min=0.01, max=1000, step=0.1)
        self._unit = ComboBox(
            name="unit",
            label="Unit of σ",
            choices=["px", "µm"],
            tooltip="µm takes the pixel size from the scale and the units of the layer.",
        )
        self._length = FloatSpinBox(
            name="length", label="Length", value=15, min=0.5, max=500, step=0.5
        )
        self._angle = FloatSpinBox(
            name="angle",
            label="Angle",
            min=-180,
            max=180,
            tooltip="Counter-clockwise from the x axis.",
        )
        self._line = ComboBox(
            name="line",
            label="Line",
            choices=lambda _: self.shapes_layers(),
            nullable=True,
            tooltip="A shapes layer: the line selected there, or drawn last, is the path of the "
            "motion.",
        )
        for size, unit in ((self._length, " px"), (self._angle, "°")):
            size.native.setSuffix(unit)
        return [
            self._psf,
            self._psf_layer,
            self._sigma,
            self._unit,
            self._length,
            self._angle,
            self._line,
        ]

    def task_arguments(self) -> dict[str, Any]:
        """Return nothing more than what all tasks have."""
        if self._psf.value == "unknown" and self._planes.value:
            raise ValueError(
                "Find the PSF on the plane shown; then choose it as the PSF layer for all planes."
            )
        return {}

    def remark(self) -> str:
        """Say what an unknown PSF costs."""
        if self._psf.value != "unknown":
            return ""
        return " Finding the PSF takes a minute or two more without a GPU."

    def refresh(self, *_: Any) -> None:
        """Show the inputs of the chosen kind of PSF only."""
        super().refresh()
        if self._runner.closed:
            return
        kind = self._psf.value
        self._psf_layer.visible = kind == "layer"
        self._sigma.visible = self._unit.visible = kind == "Gaussian"
        self._length.visible = self._angle.visible = kind == "motion"
        self._line.visible = kind == "drawn line"

    def psf(self) -> ShapedPsf | LayerPsf | None:
        """Return the point spread function, or None if it is unknown."""
        assert self.image is not None
        kind = self._psf.value
        if kind == "unknown":
            return None
        if kind == "Gaussian":
            size = pixel_size(self.image, self.axes) if self._unit.value == "µm" else (1.0, 1.0)
            height, width = (round(self._sigma.value / side, 6) for side in size)
            return ShapedPsf("gaussian_psf", ((height, width),))
        if kind == "motion":
            return ShapedPsf("motion_psf", (self._length.value, self._angle.value))
        if kind == "drawn line":
            if self._line.value is None:
                raise ValueError("Draw the path of the motion as a line in a shapes layer.")
            length, angle = drawn_motion(self._line.value, self.image, self.axes)
            return ShapedPsf("motion_psf", (round(length, 2), round(angle, 2)))
        return self._layer_psf()

    def _psf_layers(self, _: object = None) -> list[Image]:
        layers = [layer for layer in self.image_layers() if layer is not self.image]
        return sorted(layers, key=is_psf, reverse=True)

    def _layer_psf(self) -> LayerPsf:
        layer: Image | None = self._psf_layer.value
        if layer is None:
            raise ValueError("Open the PSF as another image layer, or choose its shape.")
        data = full_resolution(layer)
        if layer.rgb or sum(size > 1 for size in data.shape) > 2:
            raise ValueError(f"The PSF must be a 2-D grey image; {layer.name!r} is not.")
        return LayerPsf(data_source(layer), data)
