"""The Deblur panel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, FloatSpinBox, Widget
from numpy.typing import NDArray

from .._layers import full_resolution
from ._panel import RunPanel, is_psf

if TYPE_CHECKING:
    from napari.layers import Image

    from ..core import Job


class DeblurPanel(RunPanel):
    """Removes blur from the visible plane of an image layer."""

    result_title = "deblurred"

    def task_widgets(self) -> list[Widget]:
        """Make the inputs of the point spread function."""
        self._psf = ComboBox(
            name="psf",
            label="PSF",
            choices=["layer", "Gaussian", "motion", "unknown"],
            tooltip="The point spread function: how the blur spreads a single point. "
            "An unknown one is found, which takes longer.",
        )
        self._psf_layer = ComboBox(name="psf_layer", label="PSF layer", choices=self._psf_layers)
        self._image.changed.connect(self._psf_layer.reset_choices)
        if not any(map(is_psf, self._psf_layer.choices)):
            self._psf.value = "Gaussian"
        self._sigma = FloatSpinBox(name="sigma", label="σ", value=2, min=0.1, max=100, step=0.1)
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
        for size, unit in ((self._sigma, " px"), (self._length, " px"), (self._angle, "°")):
            size.native.setSuffix(unit)
        return [self._psf, self._psf_layer, self._sigma, self._length, self._angle]

    def request(self) -> Callable[[NDArray[Any], int | None], Job]:
        """Freeze the choices; see `RunPanel.request`."""
        return partial(_prepare, psf=self._make_psf(), **self.shared_options())

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
        self._sigma.visible = kind == "Gaussian"
        self._length.visible = self._angle.visible = kind == "motion"

    def _psf_layers(self, _: object = None) -> list[Image]:
        layers = [layer for layer in self.image_layers() if layer is not self.image]
        return sorted(layers, key=is_psf, reverse=True)

    def _make_psf(self) -> Callable[[], NDArray[Any] | None]:
        if self._psf.value == "unknown":
            return _no_psf
        if self._psf.value == "Gaussian":
            return partial(_shaped_psf, "gaussian_psf", self._sigma.value)
        if self._psf.value == "motion":
            return partial(_shaped_psf, "motion_psf", self._length.value, self._angle.value)
        layer: Image | None = self._psf_layer.value
        if layer is None:
            raise ValueError("Open the PSF as another image layer, or choose its shape.")
        data = full_resolution(layer)
        if layer.rgb or sum(size > 1 for size in data.shape) > 2:
            raise ValueError(f"The PSF must be a 2-D grey image; {layer.name!r} is not.")
        return partial(_read_psf, data)


def _prepare(
    image: NDArray[Any],
    channel_axis: int | None,
    *,
    psf: Callable[[], NDArray[Any] | None],
    **options: Any,
) -> Job:
    # Imported in the thread that restores: to load torch takes seconds.
    from ..core import prepare_deblur

    return prepare_deblur(image, psf(), channel_axis=channel_axis, **options)


def _no_psf() -> None:
    return None


def _shaped_psf(shape: str, *sizes: float) -> NDArray[Any]:
    from ..core import kernel

    psf: NDArray[Any] = getattr(kernel, shape)(*sizes)
    return psf


def _read_psf(data: Any) -> NDArray[Any]:
    # Leading axes of length 1 are dropped, but not those of a PSF that is one pixel wide.
    return np.asarray(data).reshape(data.shape[-2:])
