"""How a panel is told the point spread function."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, LineEdit, PushButton, Widget

from ..errors import DmspError
from ..files import describe, read_optics
from ..plan.axes import CHANNEL_NAMES
from ..psf_text import MICROSCOPES, OPTICS
from .form import LayerChoice, Offers, number, read_number
from .layers import drawn_motion, full_resolution, pixel_size
from .psfs import BeadsPsf, GivenPsf, LayerPsf, MicroscopePsf, ShapedPsf

if TYPE_CHECKING:
    from napari.layers import Image

    from .layers import Selection

LAYER, MICROSCOPE, BEADS = "layer", "microscope", "beads"
GAUSSIAN, MOTION, LINE = "Gaussian", "motion", "drawn line"
UNKNOWN, NO_PSF = "unknown", "none (bicubic reduction)"
VOLUMES, PLANES = "volumes", "planes, by the PSF in focus"
# What other microscopes than these do not need.
ONLY = {
    "excitation": ("confocal", "two-photon"),
    "pinhole": ("confocal",),
    "sheet": ("light-sheet",),
    "wavelength": ("widefield", "confocal", "light-sheet"),
}
# Label, default and help of what is known of a microscope; empty is unknown.
ABOUT_OPTICS = {
    "na": ("NA", "", "Numerical aperture, as it stands on the objective."),
    "wavelength": ("Emission (µm)", "", "Wavelength of the light that is seen; green is 0.52."),
    "excitation": ("Excitation (µm)", "", "Wavelength of the laser, such as 0.488."),
    "pinhole": ("Pinhole (AU)", "1", "Diameter of the pinhole in Airy units; inf is open."),
    "sheet": ("Sheet (µm)", "", "Thickness of the light sheet, full width at half its maximum."),
    "immersion": ("Immersion", "1.515", "Refractive index: oil 1.515, water 1.33, air 1."),
    "sample": ("Sample", "", "Refractive index around the object; empty: the immersion's."),
    "depth": ("Depth (µm)", "0", "Distance of what is looked at from the cover glass."),
}


class PsfChoice:
    """The widgets for a point spread function, of a panel that has its image already."""

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        finds = panel.kind.finds_psf
        shapes = [LAYER, MICROSCOPE, BEADS, GAUSSIAN, MOTION, LINE]
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
            tooltip="A grey image of a single point, in pixels of the result: 2-D, or 3-D for "
            "volumes.",
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
        self.microscope = ComboBox(
            name="microscope", label="Microscope", choices=list(MICROSCOPES), tooltip="Its kind."
        )
        self.optics = {
            name: LineEdit(name=name, label=label, value=default, tooltip=text)
            for name, (label, default, text) in ABOUT_OPTICS.items()
        }
        self.beads = LayerChoice(
            self._layers,
            lambda layers: next((each for each in layers if "bead" in each.name.lower()), None),
            name="beads",
            label="Beads",
            tooltip="An image of small fluorescent beads, taken as the image was.",
        )
        panel.image_choice.changed.connect(self.beads.reset_choices)
        self.diameter = LineEdit(
            name="diameter",
            label="Diameter (µm)",
            tooltip="Diameter of the beads, whose size is then taken out; empty: they are points.",
        )
        self.voxel = LineEdit(
            name="voxel",
            label="Voxel (µm)",
            tooltip="Sides of a voxel of the image: z, y, x; of a plane y, x. Empty: those of the "
            "layer's scale and units.",
        )
        self.voxel.native.setPlaceholderText("from the layer")
        self.restore = ComboBox(
            name="restore",
            label="Restore",
            choices=[VOLUMES, PLANES],
            tooltip="Whether the planes of a stack are restored together, by all of the PSF, or "
            "each by itself, by the plane of the PSF that is in focus.",
        )
        self._kinds: dict[str, tuple[Widget, ...]] = {
            LAYER: (self.layer,),
            MICROSCOPE: (self.microscope, *self.optics.values()),
            BEADS: (self.beads, self.diameter),
            GAUSSIAN: (self.sigma, self.unit),
            MOTION: (self.length, self.angle),
            LINE: (self.line,),
        }
        self.shown = PushButton(
            name="show_psf",
            text="Show PSF",
            tooltip="Compute the PSF and add it as a layer, to be looked at or to be saved.",
        )
        self._filled: Any = None
        for choice in (self.kind, panel.image_choice):
            choice.changed.connect(self._fill_in)
        self._fill_in()

    @property
    def widgets(self) -> list[Widget]:
        """All of them, in their order."""
        own = chain.from_iterable(self._kinds.values())
        return [self.kind, *own, self.voxel, self.shown, self.restore]

    @property
    def chosen_layers(self) -> list[Any]:
        """The layers that are used."""
        used = self._kinds.get(self.kind.value, ())
        return [widget.value for widget in used if isinstance(widget, LayerChoice)]

    @property
    def is_unknown(self) -> bool:
        """Whether it is to be found."""
        return bool(self.kind.value == UNKNOWN)

    @property
    def is_made(self) -> bool:
        """Whether it is computed in a run, and worth a layer."""
        return self.kind.value in (MICROSCOPE, BEADS)

    @property
    def is_deep(self) -> bool:
        """Whether it has three axes where the image has volumes, which it can then restore."""
        if self._panel.volume_axes is None:
            return False
        if self.kind.value == MICROSCOPE:
            return True
        layer = {LAYER: self.layer, BEADS: self.beads}.get(self.kind.value)
        return layer is not None and layer.value is not None and len(_sides(layer.value)) == 3

    @property
    def restores_volumes(self) -> bool:
        """Whether the planes of a stack are restored together."""
        return self.is_deep and self.restore.value == VOLUMES

    def show(self) -> None:
        """Show the widgets of the chosen kind only."""
        for kind, widgets in self._kinds.items():
            for widget in widgets:
                widget.visible = kind == self.kind.value
        if self.kind.value == MICROSCOPE:
            for name, kinds in ONLY.items():
                self.optics[name].visible = self.microscope.value in kinds
        self.voxel.visible = self.shown.visible = self.is_made
        self.restore.visible = self.is_deep

    def read(self, selection: Selection) -> GivenPsf | None:
        """Return the point spread function in pixels of the result, or None without one."""
        kind = self.kind.value
        if kind in (UNKNOWN, NO_PSF):
            return None
        if kind == LAYER:
            return self._layer_psf(self.layer, "PSF", focal=not self.restores_volumes)
        if kind == BEADS:
            return self._beads_psf()
        shaped = self._microscope_psf(selection) if kind == MICROSCOPE else self._shaped_psf(kind)
        # It may be too large, or not a number.
        _ = shaped.shape
        return shaped

    def _shaped_psf(self, kind: str) -> ShapedPsf:
        panel = self._panel
        if kind == GAUSSIAN:
            sigma = read_number(self.sigma)
            sides = self._pixel_sizes(panel.axes) if self.unit.value == "µm" else (1.0, 1.0)
            height, width = (round(sigma / side, 6) for side in sides)
            return ShapedPsf("gaussian_psf", ((height, width),))
        if kind == MOTION:
            return ShapedPsf("motion_psf", (read_number(self.length), read_number(self.angle)))
        if self.line.value is None:
            raise DmspError("Draw the path of the motion as a line in a shapes layer.")
        assert panel.image is not None
        length, angle = drawn_motion(self.line.value, panel.image, panel.axes)
        longer = length * panel.magnification()
        return ShapedPsf("motion_psf", (round(longer, 2), round(angle, 2)))

    def _microscope_psf(self, selection: Selection) -> MicroscopePsf:
        kind = self.microscope.value
        given: dict[str, Any] = {}
        for name, edit in self.optics.items():
            used = kind in ONLY.get(name, MICROSCOPES)
            if used and edit.value.strip():
                given[OPTICS[name]] = read_number(edit)
            elif used and name not in ("sample", "depth", "immersion", "pinhole"):
                raise DmspError(f"Enter {edit.label} of the microscope.")
        axes = selection.restored_axes
        shape = [selection.window[axis].stop - selection.window[axis].start for axis in axes]
        longer = [1] * (len(axes) - 2) + [self._panel.magnification()] * 2
        given["voxel_size"] = self._voxel(axes)
        given["image_shape"] = tuple(round(n * f) for n, f in zip(shape, longer, strict=True))
        return MicroscopePsf(kind, tuple(given.items()))

    def _beads_psf(self) -> BeadsPsf:
        beads = self._layer_psf(self.beads, "beads")
        layer, ndim = beads.layer, beads.axes
        if ndim == 3 and not self.restores_volumes and self._panel.volume_axes is None:
            # Of a plane, the step is not used.
            own = self._own_voxel(layer, ndim)
            target = (own[0], *self._voxel(self._panel.axes))
        else:
            axes = self._panel.volume_axes if ndim == 3 else self._panel.axes
            own, target = self._own_voxel(layer, ndim), self._voxel(axes)
        options: dict[str, Any] = {"voxel_size": own, "target_voxel_size": target}
        if self.diameter.value.strip():
            options["bead_diameter"] = read_number(self.diameter)
        return BeadsPsf(beads, tuple(options.items()), ndim == 3 and not self.restores_volumes)

    def _layer_psf(self, choice: LayerChoice, what: str, focal: bool = False) -> LayerPsf:
        layer: Image | None = choice.value
        if layer is None:
            found = self._layers()
            how = f"Choose the {what} layer" if found else f"Open the {what} as an image layer"
            raise DmspError(f"{how}, or another kind of PSF.")
        axes = len(_sides(layer))
        if layer.rgb or axes > 3:
            raise DmspError(f"{layer.name!r} must be a grey image, 2-D or 3-D.")
        return LayerPsf(layer, full_resolution(layer), axes, focal and axes == 3)

    def _layers(self) -> Offers:
        layers = [layer for layer in self._panel.image_layers() if layer is not self._panel.image]
        return [(layer.name, layer) for layer in sorted(layers, key=is_psf, reverse=True)]

    def _voxel(self, axes: tuple[int, ...]) -> tuple[float, ...]:
        """Sides in µm of the voxels of the result along some axes, as typed or of the layer."""
        text = self.voxel.value.replace(",", " ").replace("/", " ").split()
        if not text:
            return self._pixel_sizes(axes)
        try:
            sizes = tuple(float(part) for part in text)
        except ValueError:
            sizes = ()
        if not len(axes) <= len(sizes) <= 3:
            letters = ", ".join("zyx"[-len(axes) :])
            raise DmspError(f"{self.voxel.label}: {self.voxel.value!r} must be {letters} in µm.")
        longer = self._panel.magnification()
        return (*sizes[-len(axes) : -2], *(side / longer for side in sizes[-2:]))

    def _own_voxel(self, layer: Image, ndim: int) -> tuple[float, ...]:
        """Sides in µm of the voxels of the beads: those of their layer, or the image's."""
        try:
            return pixel_size(layer, range(layer.ndim - ndim, layer.ndim))
        except DmspError:
            axes = self._panel.volume_axes if ndim == 3 else self._panel.axes
            if axes is None:
                raise
            return self._voxel(axes)

    def _pixel_sizes(self, axes: tuple[int, ...]) -> tuple[float, ...]:
        """Sides in µm of the pixels that the PSF has."""
        panel = self._panel
        if panel.image is None:
            raise DmspError("Open an image.")
        try:
            sizes = pixel_size(panel.image, axes)
        except DmspError as error:
            if not self.is_made:
                raise
            raise DmspError(
                f"{panel.image.name!r} has no size of its voxels: enter {self.voxel.label}, or set "
                "scale and units of the layer."
            ) from error
        return (*sizes[:-2], *(side / panel.magnification() for side in sizes[-2:]))

    def _convert(self, unit: str) -> None:
        """Keep the width of the Gaussian when its unit changes; of sides that differ, the mean."""
        before, self._unit = self._unit, unit
        if self._panel.image is None:
            return
        try:
            sizes = self._pixel_sizes(self._panel.axes)
            side, sigma = math.sqrt(math.prod(sizes)), read_number(self.sigma)
        except ValueError:
            # The panel says what is missing.
            return
        if before != unit:
            self.sigma.value = f"{sigma * side if unit == 'µm' else sigma / side:.6g}"

    def _fill_in(self, *_: object) -> None:
        """Fill in what the file of the image says of its microscope, once for each image."""
        image = self._panel.image
        path = None if image is None else image.source.path
        if not self.is_made or path is None or self._filled is image:
            return
        self._filled = image
        # Whatever is wrong with the file, napari has opened it.
        with suppress(Exception):
            file = Path(path)
            names, sides, sizes = describe(file)
            found = read_optics(file, self._channel(names, sides))
            for name, argument in OPTICS.items():
                if argument in found:
                    self.optics[name].value = f"{found[argument]:g}"
            if not (1 * image.units[-1]).check("[length]") and {"y", "x"} <= sizes.keys():
                known = [f"{sizes[name]:g}" for name in "zyx" if name in sizes]
                self.voxel.value = ", ".join(known)

    def _channel(self, names: list[str], sides: tuple[int, ...]) -> int | None:
        """Return the channel of the file that the image layer shows; None if that is not known."""
        image = self._panel.image
        channels = [n for n, name in zip(sides, names, strict=True) if name in CHANNEL_NAMES]
        if not channels or image.ndim >= len(sides):
            return None
        # napari splits channels into layers of one file, in their order.
        layers = [each for each in self._panel.image_layers() if each.source == image.source]
        return layers.index(image) if len(layers) == channels[0] else None


def is_psf(layer: Image) -> bool:
    """Whether a layer calls itself a point spread function."""
    return "psf" in layer.name.lower()


def _sides(layer: Image) -> tuple[int, ...]:
    """Lengths of a layer's axes without leading ones of length 1."""
    sides = tuple(map(int, full_resolution(layer).shape[: layer.ndim]))
    while len(sides) > 2 and sides[0] == 1:
        sides = sides[1:]
    return sides
