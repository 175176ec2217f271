"""What the panels of all tasks share: image, region, Run, progress, Stop, Cancel and the result."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
    SpinBox,
    Widget,
)
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QApplication, QLabel, QSizePolicy
from superqt import QCollapsible

from ..priors import prior_files
from ..windows import BASE_BYTES, CPU_TILE, MIN_SIDE, memory_bytes, spans
from .layers import (
    Axes,
    Region,
    full_resolution,
    long_axes,
    plane_axes,
    renew,
    select,
    shape_region,
    visible_region,
)
from .own_priors import priors_changed
from .preferences import DEVICES, OUTPUTS, TILES, read_preferences
from .script import Call, LayerPsf, ShapedPsf, Steps, describe
from .worker import Done, Outcome, Progress, Runner

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Layer

# One evaluation of a megapixel on a few CPU cores; the first run measures better.
SECONDS_PER_MEGAPIXEL = 1.5
# Until the bar moves without a new estimate.
TELL_SECONDS = 2.0
# Sides of what Preview restores at most: a few seconds' work.
PREVIEW = 512
# What surrounds a region restores its edges as well as its middle.
MARGIN = 24

WHOLE, VISIBLE = "whole image", "visible area"
OWN_PRIOR = "from a file"
LABEL_WIDTH = 88

# What is shown, and axes of a layer.
AxesChoice = tuple[str, tuple[int, ...]]


class RunPanel(Container[Widget]):
    """Chooses an image, runs a task on it beside the viewer and shows the result as a layer.

    A task derives from it and defines `task`, `result_title`, `task_widgets` and
    `task_arguments`; the others of the first section serve the forecast and the region.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Where the image layers are; napari passes it by this name.

    Attributes
    ----------
    inputs, advanced : Container
        What the user chooses, as ``panel.inputs.noise.value``.
    script : str
        Python that gives the last result once more.
    finished : Signal
        Emitted at the end of every run with its result, an image layer, or with None.
    """

    finished = Signal(object)
    task: ClassVar[str]
    result_title: ClassVar[str]
    # By method, as in `core.job`, which cannot be asked without loading torch.
    evaluations: ClassVar[dict[str, int]] = {"annealed": 24, "sgd": 300}
    # Pixels around a region; multiples of pixels that a region begins at.
    margin: ClassVar[int] = 0
    align: ClassVar[int] = 1
    # Whether it can restore colours.
    colours: ClassVar[bool] = True

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        # Plugins get a proxy, whose layers are proxies too and never identical to themselves.
        self._viewer: napari.Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._preferences = read_preferences()
        self._runner = Runner(self._show_progress, self._show_done, self._show_outcome)
        self._call: Call | None = None
        self._done: dict[Steps, dict[str, Any]] = {}
        self._layer: Image | None = None
        self._previews = False
        self._preview_layer: Image | None = None
        self._name = ""
        self._told = 0.0
        self._seconds_per_megapixel: float | None = None
        self.script = ""

        self.inputs = form(self._input_widgets())
        self.advanced = form(self._advanced_widgets())
        self._preview_button = PushButton(
            text="Preview",
            tooltip=f"Restore the middle of the visible area, {PREVIEW} pixels wide.",
        )
        self._run_button = PushButton(text="Run")
        self._stop_button = PushButton(text="Stop and keep", enabled=False)
        self._cancel_button = PushButton(text="Cancel", enabled=False)
        self._script_button = PushButton(
            text="Copy as Python",
            tooltip="Copy a script that gives the last result once more.",
            visible=False,
        )
        self._plan, self._report = text_line(), text_line()
        self._bar = ProgressBar(visible=False)
        super().__init__(
            widgets=[
                self.inputs,
                row([self._preview_button, self._run_button]),
                row([self._stop_button, self._cancel_button]),
                self._plan,
                self._bar,
                self._report,
                self._script_button,
            ],
            labels=False,
        )
        self.native.layout().addWidget(_fold("Advanced", self.advanced))

        active = self._viewer.layers.selection.active
        if active in self._image.choices and active.visible:
            self._image.value = active
        self._connect()
        self.refresh()

    def _input_widgets(self) -> list[Widget]:
        self._image = ComboBox(name="image", label="Image", choices=self.image_layers)
        self._noise = optional_number(
            "noise",
            "Noise σ",
            "Standard deviation of the noise in the image's units; empty estimates it.",
        )
        self._region = ComboBox(
            name="region",
            label="Region",
            choices=self._regions,
            tooltip="All of the image, what is on screen, or the rectangle drawn in a shapes "
            "layer that is selected there or was drawn last.",
        )
        self._axes = ComboBox(
            name="axes",
            label="Axes",
            choices=self._axes_choices,
            tooltip="The axes of a plane, its rows and its columns.",
        )
        self._channels = ComboBox(
            name="channels",
            label="Channels",
            choices=self._channel_choices,
            tooltip="Whether the steps of an axis of length 3 are separate planes, or red, green "
            "and blue of a plane.",
        )
        self._planes = ComboBox(
            name="planes",
            label="Planes",
            choices=self._plane_choices,
            tooltip="Every plane is restored by itself, with its own noise level.",
        )
        # Here, so that it is before `refresh`, which is called for all that is returned.
        for choice in (self._image, self._axes, self._channels):
            choice.changed.connect(self._offer_axes)
        choices = [self._region, self._axes, self._channels, self._planes]
        return [self._image, *self.task_widgets(), self._noise, *choices]

    def _advanced_widgets(self) -> list[Widget]:
        self._prior = ComboBox(
            name="prior",
            label="Prior",
            choices=lambda _: ["auto", *prior_files(), OWN_PRIOR],
            tooltip="What the image should look like; auto chooses by its colours and its look.",
        )
        self._prior_file = FileEdit(name="prior_file", label="File", filter="*.safetensors")
        self._prior_file.choose_btn.text = "…"
        self._method = ComboBox(name="method", label="Method", choices=list(self.evaluations))
        self._evaluations = optional_number(
            "evaluations",
            "Evaluations",
            "How often the prior is evaluated; the time grows with it.",
        )
        self._seed = SpinBox(name="seed", label="Seed", max=2**31 - 1)
        self._device = ComboBox(
            name="device",
            label="Device",
            choices=list(DEVICES),
            value=self._preferences.device,
        )
        self._tile = ComboBox(
            name="tile",
            label="Tile",
            choices=list(TILES),
            value=self._preferences.tile,
            tooltip="Side in pixels of what the network takes at once; less needs less memory.",
        )
        self._background = optional_number(
            "background", "Background", "Intensity of black in the image's units."
        )
        self._output = ComboBox(
            name="output",
            label="Output",
            choices=list(OUTPUTS),
            value=self._preferences.output,
            tooltip="Type of the pixels of grey results; colours always keep theirs.",
        )
        return [
            self._prior,
            self._prior_file,
            self._method,
            self._evaluations,
            self._seed,
            self._device,
            self._tile,
            self._background,
            self._output,
        ]

    def _connect(self) -> None:
        self._preview_button.changed.connect(self.preview)
        self._run_button.changed.connect(self.run)
        self._stop_button.changed.connect(self.stop)
        self._cancel_button.changed.connect(self.cancel)
        self._script_button.changed.connect(self.copy_script)
        for part in (self.inputs, self.advanced):
            part.changed.connect(self.refresh)
        dims = self._viewer.dims.events
        dims.order.connect(self._offer_axes)
        for event in (dims.current_step, dims.order):
            event.connect(self.refresh)
        # Since napari 0.9 the camera belongs to the scene.
        camera = getattr(self._viewer, "scene", self._viewer).camera
        camera.events.connect(self._follow_camera)
        priors_changed.connect(self._prior.reset_choices)
        self.native_parent_changed.connect(self._cancel_without_dock)
        self._runner.close_with(self.native)

    # What a task says.

    def task_widgets(self) -> list[Widget]:
        """Make the inputs of the task, once."""
        raise NotImplementedError

    def task_arguments(self) -> dict[str, Any]:
        """Return the choices that only this task has, as arguments of the core.

        Raises
        ------
        ValueError
            If the task cannot be run; the message says what to choose.
        """
        raise NotImplementedError

    def psf(self) -> ShapedPsf | LayerPsf | None:
        """Return the point spread function, if the task has one and it is known."""
        return None

    def result_options(self) -> dict[str, bool]:
        """Return what else the `Call` must know of how the result is shown."""
        return {}

    def magnification(self) -> float:
        """Return how much longer the sides of the result are."""
        return 1.0

    def remark(self) -> str:
        """Return a sentence for the forecast, or nothing."""
        return ""

    # What the user does.

    def image_layers(self, _: object = None) -> list[Image]:
        """Return the image layers of the viewer, point spread functions last."""
        from napari.layers import Image

        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        return sorted(layers, key=is_psf)

    def shapes_layers(self) -> list[tuple[str, Layer]]:
        """Return the names and the layers in which something can be drawn."""
        from napari.layers import Shapes

        return [(layer.name, layer) for layer in self._viewer.layers if isinstance(layer, Shapes)]

    @property
    def image(self) -> Image | None:
        """The layer to restore."""
        layer: Image | None = self._image.value
        return layer

    @property
    def axes(self) -> Axes:
        """The axes of a plane in the layer to restore: those on screen, or those chosen."""
        assert self.image is not None
        return self._axes.value or plane_axes(self.image, self._viewer.dims)

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._runner.running

    def run(self) -> None:
        """Start a run, unless one goes on or something is missing."""
        self._start(preview=False)

    def preview(self) -> None:
        """Start a run for the middle of what is on screen, of the plane that is shown."""
        self._start(preview=True)

    def stop(self) -> None:
        """End the run after the current evaluation and keep its estimate."""
        self._runner.stop()
        self._report.value = "Stopping after this evaluation …"
        self.refresh()

    def cancel(self) -> None:
        """End the run within the current evaluation and drop its estimate."""
        self._runner.cancel()
        self._report.value = "Cancelling …"
        self.refresh()

    def copy_script(self) -> None:
        """Copy the script of the last result to the clipboard."""
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.script)
        self._report.value = "Copied: a script that gives the last result once more."

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that the viewer has now."""
        if self.running:
            # Perhaps in the very turn in which napari takes long enough to show the result.
            self._runner.in_turns(self._offer_layers)
        else:
            self._offer_layers()

    def _offer_layers(self) -> None:
        super().reset_choices()
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Say what Run will do, or why it cannot be pressed."""
        if self._runner.closed:
            return
        running, forecast, problem = self.running, "", ""
        try:
            forecast = self._forecast(self._make_call(preview=False))
        except ValueError as error:
            problem = str(error)
        self._run_button.enabled = self._preview_button.enabled = not running and not problem
        self._stop_button.enabled = self._cancel_button.enabled = (
            running and not self._runner.ending
        )
        self._plan.value = problem or forecast
        self._report.visible = bool(self._report.value)
        self._script_button.visible = bool(self.script)
        for choice in (self._axes, self._channels, self._planes):
            choice.visible = len(choice.choices) > 1
        self._prior_file.visible = self._prior.value == OWN_PRIOR

    def _start(self, preview: bool) -> None:
        from napari.utils.notifications import show_info

        if self.running:
            show_info("A restoration is running; stop or cancel it first.")
            return
        try:
            self._call = self._make_call(preview)
        except ValueError:
            self.refresh()
            return
        assert self.image is not None
        self._done, self._layer, self._previews = {}, None, preview
        self._name = f"{self.image.name} {'preview' if preview else self.result_title}"
        self._bar.native.setFormat("")
        self._bar.value, self._bar.visible = 0, True
        # Not a busy bar: every frame of it makes the canvas be composed anew, too.
        self._bar.max = 1
        self._report.value = "Loading the image and the prior …"
        self._runner.start(self._call.jobs, self._call.convert, self._preferences.live_seconds)
        self.refresh()

    def _make_call(self, preview: bool) -> Call:
        """Freeze the choices, or raise a ValueError that says what is missing."""
        layer, dims = self.image, self._viewer.dims
        if layer is None:
            raise ValueError("Open an image.")
        (colours,) = self._channels.value or (None,)
        psf = self.psf()
        arguments = self.task_arguments() | {
            "noise_sigma": read_number(self._noise),
            "prior": self._chosen_prior(),
            "method": self._method.value,
            "iterations": read_number(self._evaluations, int),
            "background": read_number(self._background),
            "seed": self._seed.value,
            "device": self._device.value,
            "tile": TILES[self._tile.value],
        }
        selection = select(
            layer,
            dims,
            axes=self.axes,
            colours=colours,
            region=self._visible_region(PREVIEW) if preview else self._chosen_region(),
            along=() if preview or self._planes.value is None else self._planes.value,
            margin=self.margin,
            align=self.align,
        )
        same = self._output.value != OUTPUTS[0]
        source, options = data_source(layer), self.result_options()
        return Call(self.task, arguments, selection, source, psf, same, **options)

    def _chosen_prior(self) -> str | None:
        if self._prior.value == OWN_PRIOR:
            file = str(self._prior_file.value or "")
            if not Path(file).is_file():
                raise ValueError("Choose the file of the prior, or another prior.")
            return file
        return None if self._prior.value == "auto" else str(self._prior.value)

    def _chosen_region(self) -> Region | None:
        assert self.image is not None
        if self._region.value == WHOLE:
            return None
        if self._region.value == VISIBLE:
            return self._visible_region()
        return shape_region(self._region.value, self.image, self.axes)

    def _visible_region(self, most: int | None = None) -> Region:
        assert self.image is not None
        return visible_region(self.image, self._viewer.dims, self.axes, most)

    def _regions(self, _: object = None) -> list[tuple[str, Any]]:
        return [(WHOLE, WHOLE), (VISIBLE, VISIBLE), *self.shapes_layers()]

    def _axes_choices(self, _: object = None) -> list[AxesChoice]:
        if self.image is None:
            return [("as displayed", ())]
        labels = long_axes(self.image, least=MIN_SIDE)
        pairs = list(combinations(labels, 2))
        if pairs == [plane_axes(self.image, self._viewer.dims)]:
            pairs = []
        return [("as displayed", ()), *((f"{labels[a]}, {labels[b]}", (a, b)) for a, b in pairs)]

    def _channel_choices(self, _: object = None) -> list[AxesChoice]:
        layer, separate = self.image, ("separate planes", ())
        if layer is None or layer.rgb or not self.colours:
            return [separate]
        others = long_axes(layer, without=self.axes).items()
        sizes = full_resolution(layer).shape
        threes = [(f"colours along {label}", (a,)) for a, label in others if sizes[a] == 3]
        return [separate, *threes]

    def _plane_choices(self, _: object = None) -> list[AxesChoice]:
        if self.image is None:
            return [("the one shown", ())]
        axes = long_axes(self.image, without=(*self.axes, *(self._channels.value or ())))
        single = [(f"all along {label}", (axis,)) for axis, label in axes.items()]
        every = [("all", tuple(axes))] if len(axes) > 1 else []
        return [("the one shown", ()), *single, *every]

    def _offer_axes(self, *_: object) -> None:
        """Offer the axes of the image; each choice is of those that the ones before leave."""
        for choice in (self._axes, self._channels, self._planes):
            choice.reset_choices()

    def _forecast(self, call: Call) -> str:
        selection = call.selection
        kind = "grey" if selection.colours is None else "colour"
        planes = len(selection.planes)
        megapixels = math.prod(selection.read_shape) * self.magnification() ** 2 / 1e6
        evaluations = call.arguments["iterations"] or self.evaluations[self._method.value]
        measured = self._seconds_per_megapixel
        seconds = (measured or SECONDS_PER_MEGAPIXEL) * megapixels * evaluations * planes
        count, in_all = (f"{planes} planes of ", " in all") if planes > 1 else ("", "")
        labels = selection.axis_labels
        if len(labels) > 2:
            rows, columns = (labels[axis] for axis in selection.axes)
            along = ""
            if selection.colours is not None and not selection.rgb:
                along = f", colours along {labels[selection.colours]}"
            count = f"Planes in axes {rows}, {columns}{along}: {count}"
        device = self._device_name()
        text = (
            f"{count}{selection.shape[0]} × {selection.shape[1]} {kind} pixels, "
            f"{megapixels * planes:.2g} megapixels{in_all}: {_duration(seconds)}"
            f"{'' if measured or device == 'the GPU' else ' without a GPU'} and "
            f"{self._memory(call)} on {device}."
        )
        return text + self.remark()

    def _memory(self, call: Call) -> str:
        """Say how much memory a plane takes, and in which tiles."""
        rows, columns = (round(n * self.magnification()) for n in call.selection.read_shape[:2])
        wanted = call.arguments["tile"]
        tile = CPU_TILE if wanted == "auto" else wanted
        channels = 1 if call.selection.colours is None and call.task != "demosaic" else 3
        needed = BASE_BYTES + memory_bytes((rows, columns), channels, tile)
        count = math.prod(len(spans(n, tile or n)) for n in (rows, columns))
        return f"{needed / 1e9:.1f} GB{f' in {count} tiles' if count > 1 else ''}"

    def _device_name(self) -> str:
        name: str = self._device.value
        if name == "auto":
            # To load torch takes seconds, so it is not waited for.
            core = sys.modules.get("napari_dmsp.core.device")
            if core is None:
                return "the best device"
            name = core.pick_device().type
        return "the CPU" if name == "cpu" else "the GPU"

    def _follow_camera(self, *_: object) -> None:
        if self._region.value == VISIBLE:
            self.refresh()

    def _cancel_without_dock(self, parent: object) -> None:
        if parent is None and self.running:
            self.cancel()

    # What the run reports.

    def _show_progress(self, progress: Progress) -> None:
        assert self._call is not None
        now = time.monotonic()
        if progress.estimate is not None:
            self._show_plane(progress.plane, progress.estimate)
        elif now - self._told < TELL_SECONDS:
            return
        self._told = now
        planes = len(self._call.selection.planes)
        evaluation = progress.plane * progress.total + progress.evaluation
        total = planes * progress.total
        left = progress.seconds / evaluation * (total - evaluation)
        # In the bar, which has its size: a label of another text makes the window lay itself
        # out, and every change the canvas be composed anew, which may take long.
        self._bar.native.setFormat(
            f"{progress.evaluation} of {progress.total}, {_duration(left)} left, "
            f"residual {progress.residual:.3g}"
        )
        self._bar.max, self._bar.value = total, evaluation
        which = f"plane {progress.plane + 1} of {planes} " if planes > 1 else ""
        self._report.value = f"Restoring {which}…"

    def _show_done(self, done: Done) -> None:
        assert self._call is not None
        if self._layer is not None and self._layer not in self._viewer.layers:
            # The user removed the estimate, but not the wish for the result.
            self._layer = None
        self._show_plane(done.plane, done.image)
        self._done[self._call.selection.planes[done.plane]] = done.about
        settings = done.about["settings"]
        if "psf_size" in settings:
            assert done.psf is not None
            name = f"{self._name} PSF"
            self._viewer.add_image(done.psf, name=name, visible=False)
            self._viewer.layers.selection.active = self._layer
        else:
            # A search for the PSF has quicker evaluations than the restoration.
            size = math.prod(self._call.selection.read_shape) * self.magnification() ** 2
            each = done.about["seconds"] / done.about["evaluations"]
            self._seconds_per_megapixel = each / size * 1e6

    def _show_outcome(self, outcome: Outcome) -> None:
        self._bar.visible = False
        result = None
        try:
            self._show_result(outcome)
            result = self._layer if self._layer in self._viewer.layers else None
        finally:
            self._call = self._layer = None
            self.refresh()
        self.finished.emit(result)

    def _show_result(self, outcome: Outcome) -> None:
        kept = self._layer is not None and self._layer in self._viewer.layers
        if outcome.cancelled or not self._done:
            if kept:
                self._viewer.layers.remove(self._layer)
            self._report.value = outcome.error or "Cancelled."
            return
        assert self._call is not None
        done = list(self._done.values())
        count = sum(about["evaluations"] for about in done)
        lowest, highest = (f(about["noise_sigma"] for about in done) for f in (min, max))
        noise = f"{lowest:.3g}" if len(done) == 1 else f"{lowest:.3g} to {highest:.3g}"
        plural = "" if count == 1 else "s"
        seconds = sum(about["seconds"] for about in done)
        text = f"{count} evaluation{plural} in {_duration(seconds)}. Noise σ {noise}."
        if outcome.left_out:
            text += f" {len(outcome.left_out)} planes were left empty: {outcome.left_out[0][1]}"
        if outcome.error is not None:
            text += f" Not all planes were restored: {outcome.error}"
        self._report.value = text
        if self._layer is not None and kept:
            about = describe(self._call, self._done, self._layer.data)
            self._layer.metadata = {"napari-dmsp": about}
            self.script = about["script"]

    def _show_plane(self, plane: int, image: NDArray[Any]) -> None:
        assert self._call is not None
        selection = self._call.selection
        target = selection.target(selection.planes[plane])
        if self._layer is None:
            data = selection.blank(image)
            data[target] = image
            options = selection.options_for(image) | {"name": self._name}
            self._layer = self._show_preview(data, options) or self._show_new(data, options)
        elif self._layer in self._viewer.layers:
            self._layer.data[target] = image
            self._layer.refresh()

    def _show_preview(self, data: NDArray[Any], options: dict[str, Any]) -> Image | None:
        """Show a preview in the layer of the last one, if it can be."""
        layer = self._preview_layer
        if not self._previews or layer not in self._viewer.layers:
            return None
        if renew(layer, data, options | {"visible": True}):
            return layer
        self._viewer.layers.remove(layer)
        return None

    def _show_new(self, data: NDArray[Any], options: dict[str, Any]) -> Image:
        from napari.layers import Image

        # To make a layer, to add it and to draw it takes napari too long at once.
        layer = Image(data, visible=False, **options)
        self._runner.in_turns(
            partial(self._viewer.add_layer, layer), partial(setattr, layer, "visible", True)
        )
        if self._previews:
            self._preview_layer = layer
        return layer


def is_psf(layer: Image) -> bool:
    """Whether a layer calls itself a point spread function."""
    return "psf" in layer.name.lower()


def data_source(layer: Image) -> str:
    """Return the full data of a layer as Python in the console of napari."""
    return f"viewer.layers[{layer.name!r}].data{'[0]' if layer.multiscale else ''}"


def optional_number(name: str, label: str, tooltip: str) -> LineEdit:
    """Make an input for a number, where nothing means that it is chosen automatically."""
    edit = LineEdit(name=name, label=label, tooltip=tooltip)
    edit.native.setPlaceholderText("auto")
    return edit


def read_number(edit: LineEdit, kind: type[float] = float) -> float | None:
    """Return the number in an `optional_number`, or None; raise a ValueError for anything else."""
    text = edit.value.strip()
    if text in ("", "auto"):
        return None
    try:
        return kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{edit.label}: {text!r} is not a {what}; empty means auto.") from None


def form(widgets: Sequence[Widget]) -> Container[Widget]:
    """Make a column of widgets with their labels."""
    form: Container[Widget] = Container()
    form.margins = (0, 0, 0, 0)
    form.extend(widgets)
    # magicgui measures the labels before the viewer's style makes them wider.
    for label in form.native.findChildren(QLabel):
        label.setMinimumWidth(LABEL_WIDTH)
    return form


def row(widgets: Sequence[Widget]) -> Container[Widget]:
    """Make a row of widgets without labels."""
    row: Container[Widget] = Container(widgets=widgets, layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def _fold(title: str, content: Container[Widget]) -> QCollapsible:
    # The arrow is part of the text: the icon would be black in the dark theme too.
    fold = QCollapsible(f"▸ {title}", expandedIcon=QIcon(), collapsedIcon=QIcon())
    fold.toggled.connect(lambda opened: fold.setText(f"{'▾' if opened else '▸'} {title}"))
    fold.addWidget(content.native)
    layout = fold.layout()
    assert layout is not None
    layout.setContentsMargins(0, 0, 0, 0)
    return fold


def text_line() -> Label:
    """Make a line that breaks where the panel ends."""
    label = Label(value="")
    label.native.setWordWrap(True)
    label.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
