"""What the panels of all tasks share: image, region, Run, progress, Stop, Cancel and the result."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import Field
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import numpy as np
from magicgui.widgets import ComboBox, FileEdit, Label, PushButton, Widget
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtWidgets import QApplication

from ..errors import DmspError
from ..plan import forecast
from ..priors import prior_files
from ..settings import AUTO_MASK, TASKS, Option, Settings, options
from ..windows import MIN_SIDE
from .compare import KEY, Comparison
from .form import (
    AUTO,
    LayerChoice,
    Offers,
    Panel,
    Scroll,
    fold,
    form,
    in_panel_words,
    option_widget,
    read_option,
    row,
    show_picture,
)
from .layers import (
    Axes,
    Region,
    colour_axes,
    long_axes,
    near_planes,
    plane_axes,
    select,
    shape_region,
    visible_region,
    volume_axes,
)
from .masks import LayerMask
from .own_priors import priors_changed
from .preferences import OUTPUTS, read_preferences
from .psf import PsfChoice, is_psf
from .psfs import BeadsPsf, GivenPsf, MicroscopePsf
from .report import duration, tell
from .result import Result
from .script import Call, Steps, describe
from .worker import Done, Outcome, Progress, Runner, best_device, explain

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Layer

    from ..core import Psf

# One evaluation of a megapixel on a few CPU cores; the first run measures better.
SECONDS_PER_MEGAPIXEL = 1.5
# Until the bar moves without a new estimate.
TELL_SECONDS = 2.0
# Sides of what Preview restores at most, and sides and planes of volumes: a few seconds' work.
PREVIEW, VOLUME_PREVIEW, PREVIEW_PLANES = 512, 256, 32
# Steps of the bar: Qt counts to 2**31 only.
BAR = 1000

# What is said before the first run.
FIRST = "Try Preview first."
NO_IMAGE = "Open an image, or a sample: File ▸ Open Sample ▸ Deep Mean-Shift Restoration."
WHOLE, VISIBLE = "whole image", "visible area"
NO_MASK, BAD_PIXELS = "none", "NaN and saturated pixels"
OWN_PRIOR = "from a file"
# Options whose widgets are more than a text or a choice.
SPECIAL = ("mask", "prior", "psf")
# Events of a chosen layer that change the plan.
LAYER_EVENTS = ("data", "name", "scale", "translate", "affine", "units", "axis_labels")

# The text of a choice of axes, and the axes of the layer that it stands for.
AxesChoice = tuple[str, tuple[int, ...]]


class RunPanel(Panel):
    """Chooses an image, runs a task on it beside the viewer and shows the result as a layer.

    `panel_of` derives that of a task, from whose settings most widgets are made. What the user
    chooses is in ``inputs`` and ``advanced``, as ``panel.inputs.noise.value``; ``script`` is Python
    that gives the last result once more.
    """

    # Emitted at the end of every run with its result, an image layer, or with None.
    finished = Signal(object)
    kind: ClassVar[type[Settings]]
    stopping = "Stopping after this evaluation …"
    _runner: Runner

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._preferences = read_preferences()
        self._runner = Runner(self._show_progress, self._show_done, self._show_outcome)
        self._call: Call | None = None
        self._result: Result | None = None
        self._done: dict[Steps, dict[str, Any] | None] = {}
        self._psfs: list[NDArray[np.float32]] = []
        self._previews = self._tried = False
        self._preview_layer: Image | None = None
        self._comparison: Comparison | None = None
        self._told = 0.0
        self._reported: tuple[Any, ...] = ()
        self._followed: set[Layer] = set()
        # Seconds per megapixel and evaluation, as measured, by the device and the axes that are
        # restored together.
        self._measured: dict[tuple[str, int], float] = {}
        self.script = ""
        super().__init__(napari_viewer)
        layout = self.native.layout()
        choices = [self._hint.native, self.inputs.native, fold("Advanced", self.advanced.native)]
        layout.insertWidget(0, Scroll(choices))
        layout.setSpacing(4)
        active = self._viewer.layers.selection.active
        if active in self.image_layers() and active.visible:
            self._image.value = active
        self._connect()
        self.refresh()

    def _make_widgets(self) -> list[Widget]:
        self.inputs = form(self._input_widgets())
        self.advanced = form(self._advanced_widgets())
        self._preview_button = PushButton(
            text="Preview",
            tooltip=f"Restore the middle of the visible area, {PREVIEW} pixels wide; of volumes, "
            f"{VOLUME_PREVIEW} pixels and the {PREVIEW_PLANES} planes around the one shown.",
        )
        self._run_button = PushButton(
            text="Run", tooltip="Restore the image, or the region of it, as a new layer."
        )
        self._script_button = PushButton(
            text="Copy as Python",
            tooltip="Copy a script that gives the last result once more.",
        )
        self._compare_button = PushButton(
            text="Compare",
            tooltip="Show the image as it was before, and press once more for the result; or press "
            f"the key {KEY} while the result is the active layer.",
        )
        self._compare_button.native.setCheckable(True)
        self._bar.max = BAR
        idle = [self._preview_button, self._run_button, self._compare_button, self._script_button]
        buttons = row([*idle, self._stop_button, self._cancel_button])
        self._psf_picture = Label(visible=False, tooltip="The PSF that was found.")
        return [buttons, self._plan, self._bar, self._report, self._psf_picture]

    def _input_widgets(self) -> list[Widget]:
        self._image = LayerChoice(
            self._images,
            # A hidden layer, such as a PSF, is hardly what is to be restored.
            lambda layers: next((layer for layer in layers if layer.visible), None),
            name="image",
            label="Image",
            tooltip="The layer to restore; it is not changed.",
        )
        self._options = {
            each.name: (each, about, self._option_widget(each, about))
            for each, about in options(self.kind)
            if about.label and each.name not in SPECIAL
        }
        self._psf = PsfChoice(self) if hasattr(self.kind, "psf") else None
        self._region = LayerChoice(
            self._regions,
            name="region",
            label="Region",
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
        psf = self._psf.widgets if self._psf is not None else ()
        for choice in (self._image, self._axes, self._channels, *psf):
            choice.changed.connect(self._offer_axes)
        own = self._option_widgets(folded=False)
        return [self._image, *psf, *own, self._region, self._planes]

    def _advanced_widgets(self) -> list[Widget]:
        self._mask = LayerChoice(
            self._masks,
            name="mask",
            label="Mask",
            tooltip="Pixels that are missing or unreliable, painted in a labels layer or drawn in "
            "a shapes layer: they are restored from what surrounds them.",
        )
        self._prior = ComboBox(
            name="prior",
            label="Prior",
            choices=lambda _: [AUTO, *prior_files(), OWN_PRIOR],
            tooltip="What the image should look like; auto chooses by its colours and its look.",
        )
        self._prior_file = FileEdit(
            name="prior_file",
            label="File",
            filter="*.safetensors",
            tooltip="The weights of the prior, as a training writes them.",
        )
        self._prior_file.choose_btn.text = "…"
        self._output = ComboBox(
            name="output",
            label="Output",
            choices=list(OUTPUTS),
            value=self._preferences.output,
            tooltip="Type of the pixels of grey results; colours always keep theirs.",
        )
        return [
            self._mask,
            self._axes,
            self._channels,
            self._prior,
            self._prior_file,
            *self._option_widgets(folded=True),
            self._output,
        ]

    def _option_widget(self, each: Field[Any], about: Option) -> Any:
        widget: Any = option_widget(each, about)
        if each.name in ("device", "tile"):
            widget.value = getattr(self._preferences, each.name)
        elif each.name == "scale":
            widget.value = 2
        return widget

    def _option_widgets(self, folded: bool) -> list[Widget]:
        return [widget for _, about, widget in self._options.values() if about.folded == folded]

    def _connect(self) -> None:
        self._preview_button.changed.connect(self.preview)
        self._run_button.changed.connect(self.run)
        self._script_button.changed.connect(self.copy_script)
        self._compare_button.changed.connect(self.compare)
        if self._psf is not None:
            self._psf.shown.changed.connect(self.show_psf)
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

    # What the user does.

    def image_layers(self, _: object = None) -> list[Image]:
        """Return the image layers of the viewer, point spread functions last."""
        return sorted(super().image_layers(), key=is_psf)

    def shapes_layers(self) -> Offers:
        """Return the names and the layers in which something can be drawn."""
        from napari.layers import Shapes

        return [(layer.name, layer) for layer in self._viewer.layers if isinstance(layer, Shapes)]

    @property
    def image_choice(self) -> LayerChoice:
        """The widget of the layer to restore."""
        return self._image

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
    def volume_axes(self) -> tuple[int, int, int] | None:
        """Depth, rows and columns of the volumes that the layer may be restored as; else None."""
        if self.image is None or not self.kind.restores_volumes or self._channels.value:
            return None
        return volume_axes(self.image, self.axes)

    @property
    def restored_axes(self) -> tuple[int, ...]:
        """The axes that are restored together: those of a plane, or `volume_axes`."""
        if self._psf is not None and self._psf.restores_volumes:
            assert self.volume_axes is not None
            return self.volume_axes
        return self.axes

    def psf(self) -> GivenPsf | None:
        """Return the point spread function, or None if it is unknown or there is none."""
        return self._make_call(preview=False).psf

    def magnification(self) -> float:
        """Return how much longer the sides of the result are."""
        return float(self._read("scale")) if "scale" in self._options else 1.0

    def show_psf(self) -> None:
        """Compute the point spread function of a microscope or of beads, and add it as a layer."""
        from superqt.utils import create_worker

        try:
            call = self._make_call(preview=False)
        except ValueError:
            self.refresh()
            return
        name = f"{call.selection.layer.name} PSF"

        def added(made: Psf) -> None:
            self._runner.in_turns(partial(self._show_psf, name, made))

        def failed(error: Exception) -> None:
            self._runner.in_turns(partial(self._say, in_panel_words(explain(error), self.kind)))

        self._say("Computing the PSF …")
        create_worker(
            lambda: call.made, _connect={"returned": added, "errored": failed}, _start_thread=True
        )

    def run(self) -> None:
        """Start a run, unless one goes on or something is missing."""
        self._start(preview=False)

    def preview(self) -> None:
        """Start a run for the middle of what is on screen, of the plane that is shown."""
        self._start(preview=True)

    def copy_script(self) -> None:
        """Copy the script of the last result to the clipboard."""
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(self.script)
        self._say("Copied: a script that gives the last result once more.")

    def compare(self, *_: Any) -> None:
        """Show the image as it was before instead of the last result, or the result again."""
        if self._comparison is not None:
            self._comparison.toggle()
        self.refresh()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that the viewer has now."""
        if self.running:
            # Perhaps in the very turn in which napari takes long enough to show the result.
            self._runner.in_turns(self._offer_layers)
        else:
            self._offer_layers()

    def _offer_layers(self) -> None:
        if not self._runner.closed:
            for part in (self.inputs, self.advanced):
                part.reset_choices()
            self.refresh()

    def refresh(self, *_: Any) -> None:
        """Say what Run will do, or why it cannot be pressed."""
        if self._runner.closed:
            return
        running, ahead, problem = self.running, "", ""
        try:
            ahead = self._forecast(self._make_call(preview=False))
        except ValueError as error:
            problem = in_panel_words(str(error), self.kind)
        if not running and self._report.value and self._reported != self._choices():
            # It is about an image or choices that were.
            self._report.value = ""
        self._run_button.enabled = self._preview_button.enabled = not running and not problem
        self._stop_button.enabled = self._cancel_button.enabled = (
            running and not self._runner.ending
        )
        for button in (self._run_button, self._preview_button):
            button.visible = not running
        for button in (self._stop_button, self._cancel_button):
            button.visible = running
        first = "" if self._tried else FIRST
        self._plan.value, self._plan.visible = problem or f"{ahead} {first}".strip(), not running
        self._report.visible = bool(self._report.value)
        found = not self._psf_picture.native.pixmap().isNull()
        self._psf_picture.visible = found and bool(self._report.value)
        self._show_after()
        for choice in (self._axes, self._channels, self._planes):
            choice.visible = len(choice.choices) > 1
        self._prior_file.visible = self._prior.value == OWN_PRIOR
        if self._psf is not None:
            self._psf.show()
            self._psf.shown.enabled = not running and not problem
        if "psf_size" in self._options:
            self._options["psf_size"][2].visible = self._psf_is_unknown()
        self._follow_layers()

    def _show_after(self) -> None:
        """Offer what can be done with the last result."""
        comparison, idle = self._comparison, not self.running
        if comparison is not None and not comparison.possible:
            comparison.end()
            self._comparison = comparison = None
        self._compare_button.visible = comparison is not None and idle
        self._compare_button.native.setChecked(comparison is not None and comparison.shown)
        self._script_button.visible = bool(self.script) and idle

    def _say(self, text: str) -> None:
        """Report about the choices as they are."""
        self._reported = self._choices()
        super()._say(text)

    def _choices(self) -> tuple[Any, ...]:
        """Return what is chosen, of layers references that do not keep them."""
        from napari.layers import Layer

        values = (
            widget.value
            for part in (self.inputs, self.advanced)
            for widget in part
            if hasattr(widget, "value")
        )
        return tuple(ref(value) if isinstance(value, Layer) else value for value in values)

    def _follow_layers(self) -> None:
        """Look again when the user changes one of the chosen layers."""
        chosen = [self._image.value, self._region.value, self._mask.value]
        chosen += self._psf.chosen_layers if self._psf is not None else []
        layers = {layer for layer in chosen if hasattr(layer, "events")}
        for layer in layers ^ self._followed:
            for name in LAYER_EVENTS:
                event = getattr(layer.events, name, None)
                if event is not None:
                    connect = event.connect if layer in layers else event.disconnect
                    connect(self.reset_choices)
        self._followed = layers

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
        self._end_comparison()
        self._done, self._psfs, self._previews, self._tried = {}, [], preview, True
        self._psf_picture.native.clear()
        name = f"{self.image.name} {'preview' if preview else self.kind.suffix}"
        old = self._preview_layer if preview else None
        self._result = Result(self._viewer, self._call, name, self._runner.in_turns, old)
        self._bar.native.setFormat("")
        # Not a busy bar: every frame of it makes the canvas be composed anew, too.
        self._bar.value, self._bar.visible = 0, True
        self._runner.start(self._call, self._preferences.live_seconds)
        self._say("Loading the image and the prior …")

    def _make_call(self, preview: bool) -> Call:
        """Freeze the choices, or raise a ValueError that says what is missing."""
        layer, dims = self.image, self._viewer.dims
        if layer is None:
            raise DmspError("Choose an image." if self.image_layers() else NO_IMAGE)
        if layer.rgb and self.kind.makes_colour:
            raise DmspError(f"{layer.name!r} has colours already; a mosaic is grey.")
        (colours,) = self._channels.value or (None,)
        settings = self._settings()
        *depths, rows, columns = self.restored_axes
        axes, depth = (rows, columns), depths[0] if depths else None
        near = None
        if preview and depth is not None:
            near = near_planes(layer, dims, depth, PREVIEW_PLANES)
        most = PREVIEW if depth is None else VOLUME_PREVIEW
        selection = select(
            layer,
            dims,
            axes=axes,
            colours=colours,
            depth=depth,
            planes=near,
            region=self._visible_region(axes, most) if preview else self._chosen_region(axes),
            along=() if preview or self._planes.value is None else self._planes.value,
            margin=self.kind.margin,
            align=self._align(settings),
        )
        if self._psf is not None:
            settings = settings.replace(psf=self._psf.read(selection))
        return Call(settings, selection, self._output.value != OUTPUTS[0])

    def _settings(self) -> Settings:
        """Return what is chosen, but for the point spread function."""
        values = {name: self._read(name) for name in self._options}
        values |= {"prior": self._chosen_prior(), "mask": self._chosen_mask()}
        if not self._psf_is_unknown():
            values.pop("psf_size", None)
        return self.kind.of(**values)

    def _read(self, name: str) -> Any:
        each, about, widget = self._options[name]
        return read_option(self.kind, each, about, widget)

    def _psf_is_unknown(self) -> bool:
        return self._psf is not None and self.kind.finds_psf and self._psf.is_unknown

    def _align(self, settings: Settings) -> int:
        """Return of what a region's first row and column must be multiples."""
        pattern = getattr(settings, "pattern", None)
        periods = (len(pattern), len(pattern[0])) if isinstance(pattern, list) else ()
        return math.lcm(self.kind.align, *periods)

    def _chosen_prior(self) -> str | None:
        if self._prior.value == OWN_PRIOR:
            file = str(self._prior_file.value or "")
            if not Path(file).is_file():
                raise DmspError("Choose the file of the prior, or another prior.")
            return file
        return None if self._prior.value == AUTO else str(self._prior.value)

    def _chosen_mask(self) -> Any:
        mask = self._mask.value
        if mask is None:
            raise DmspError("Choose a Mask: its layer was removed.")
        if mask in (NO_MASK, AUTO_MASK):
            return None if mask == NO_MASK else AUTO_MASK
        assert self.image is not None
        return LayerMask.over(mask, self.image, self._viewer.dims.point)

    def _chosen_region(self, axes: Axes) -> Region | None:
        assert self.image is not None
        if self._region.value is None:
            raise DmspError("Choose a Region: its layer was removed.")
        if self._region.value == WHOLE:
            return None
        if self._region.value == VISIBLE:
            return self._visible_region(axes)
        return shape_region(self._region.value, self.image, axes)

    def _visible_region(self, axes: Axes, most: int | None = None) -> Region:
        assert self.image is not None
        return visible_region(self.image, self._viewer.dims, axes, most)

    # What there is to choose.

    def _images(self) -> Offers:
        return [(layer.name, layer) for layer in self.image_layers()]

    def _regions(self) -> Offers:
        return [(WHOLE, WHOLE), (VISIBLE, VISIBLE), *self.shapes_layers()]

    def _masks(self) -> Offers:
        from napari.layers import Labels

        labels = [(layer.name, layer) for layer in self._viewer.layers if isinstance(layer, Labels)]
        return [(NO_MASK, NO_MASK), (BAD_PIXELS, AUTO_MASK), *labels, *self.shapes_layers()]

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
        if layer is None or layer.rgb or self.kind.makes_colour:
            return [separate]
        axes = colour_axes(layer, without=self.axes).items()
        return [separate, *((f"colours along {label}", (axis,)) for axis, label in axes)]

    def _plane_choices(self, _: object = None) -> list[AxesChoice]:
        if self.image is None:
            return [("the one shown", ())]
        restored = self.restored_axes
        axes = long_axes(self.image, without=(*restored, *(self._channels.value or ())))
        single = [(f"all along {label}", (axis,)) for axis, label in axes.items()]
        every = [("all", tuple(axes))] if len(axes) > 1 else []
        return [("the one shown", ()), *single, *every]

    def _offer_axes(self, *_: object) -> None:
        """Offer the axes of the image; each choice is of those that the ones before leave."""
        if self._runner.closed:
            return
        for choice in (self._axes, self._channels, self._planes):
            choice.reset_choices()

    # What a run will take.

    def _forecast(self, call: Call) -> str:
        selection, settings, ahead = call.selection, call.settings, forecast(call.plan)
        kind = "grey" if selection.colours is None else "colour"
        measured = self._measured.get((settings.device, settings.space))
        seconds = (measured or SECONDS_PER_MEGAPIXEL) * ahead.work
        what, pixels = ("plane", "pixels") if selection.depth is None else ("volume", "voxels")
        several = ahead.planes > 1
        count, in_all = (f"{ahead.planes} {what}s of ", " in all") if several else ("", "")
        labels, axes = selection.axis_labels, selection.restored_axes
        if len(labels) > 2:
            names = ", ".join(labels[axis] for axis in axes)
            along = ""
            if selection.colours is not None and not selection.rgb:
                along = f", colours along {labels[selection.colours]}"
            count = f"{what.capitalize()}s in axes {names}{along}: {count}"
        sides = [part.stop - part.start for part in (selection.index[axis] for axis in axes)]
        larger = call.plan.grid.shape
        output = f" to {larger[0]} × {larger[1]}" if larger != selection.shape else ""
        device = self._device_name(settings.device)
        tiles = f" in {ahead.tiles} tiles" if ahead.tiles > 1 else ""
        text = (
            f"{count}{' × '.join(map(str, sides))} {kind} {pixels}{output}, "
            f"{ahead.megapixels:.2g} mega{pixels}{in_all}: {duration(seconds)}"
            f"{'' if measured or device == 'the GPU' else ' without a GPU'} and "
            f"{ahead.memory / 1e9:.1f} GB{tiles} on {device}."
        )
        if getattr(call.psf, "focal", False):
            text += " Of the PSF, the plane in focus is used."
        return f"{text} {selection.beyond}".strip()

    def _device_name(self, name: str) -> str:
        if name == AUTO:
            name = best_device() or "best"
        return {"best": "the best device", "cpu": "the CPU"}.get(name, "the GPU")

    def _follow_camera(self, *_: object) -> None:
        if self._region.value == VISIBLE:
            self.refresh()

    # What the run reports.

    def _show_progress(self, progress: Progress) -> None:
        assert self._call is not None
        assert self._result is not None
        now = time.monotonic()
        if progress.estimate is not None:
            self._result.show(progress.plane, progress.estimate)
        elif now - self._told < TELL_SECONDS:
            return
        self._told = now
        planes = len(self._call.selection.planes)
        part = (progress.plane + progress.part) / planes
        left = progress.seconds / part * (1 - part)
        # In the bar, which has its size: a label of another text makes the window lay itself
        # out, and every change the canvas be composed anew, which may take long.
        self._bar.native.setFormat(
            f"{progress.evaluation} of {progress.total}, {duration(left)} left, "
            f"residual {progress.residual:.3g}"
        )
        self._bar.value = round(BAR * part)
        if not self._runner.ending:
            which = f"Plane {progress.plane + 1} of {planes}: " if planes > 1 else ""
            text = which + progress.stage
            self._report.value = f"{text[0].upper()}{text[1:]} …"

    def _show_done(self, done: Done) -> None:
        assert self._call is not None
        assert self._result is not None
        self._result.show(done.plane, done.block, done=True)
        self._result.keep_error(done.plane, done.error)
        self._done[self._call.selection.planes[done.plane]] = done.about
        if done.about is None:
            return
        if "psf_size" in done.about["settings"]:
            assert done.psf is not None
            self._psfs.append(done.psf)
        # A sharp image ends long before the work that was ahead, a search may spare some rounds.
        if not done.about["stopped"] and done.about["evaluations"] > done.about["planned"] / 2:
            ahead = forecast(self._call.plan)
            settings = self._call.settings
            self._measured[settings.device, settings.space] = (
                done.about["seconds"] / ahead.work * ahead.planes
            )

    def _show_outcome(self, outcome: Outcome) -> None:
        self._bar.visible = False
        layer = None
        try:
            layer = self._show_result(outcome)
        finally:
            self._call = self._result = None
            self.refresh()
        self.finished.emit(layer)

    def _show_result(self, outcome: Outcome) -> Image | None:
        assert self._call is not None
        assert self._result is not None
        if outcome.cancelled or not self._done:
            self._result.remove()
            self._say(in_panel_words(outcome.error or "Cancelled.", self.kind))
            return None
        layer = self._result.settle()
        self._result.add_errors()
        if self._psfs:
            self._add_psf(f"{self._result.name} PSF", _stacked(self._psfs), layer)
            show_picture(self._psf_picture, self._psfs[0])
        report = [tell(self._call, self._done, outcome)]
        if isinstance(self._call.psf, MicroscopePsf | BeadsPsf):
            made = self._call.made
            report += [*made.notes, *made.warnings]
        if self._psfs:
            which = "" if len(self._psfs) == 1 else " of the first plane"
            size = " × ".join(map(str, self._psfs[0].shape))
            report.append(f"The PSF that was found{which}, {size} pixels:")
        self._say(in_panel_words("\n".join(report), self.kind))
        if layer is not None:
            about = describe(self._call, self._done, layer.data)
            layer.metadata = {"napari-dmsp": about}
            self.script = about["script"]
            if self._previews:
                self._preview_layer = layer
            self._comparison = Comparison(self._viewer, self._call.selection.layer, layer)
            self._comparison.changed.connect(self.refresh)
            self.refresh()
        return layer

    def _end_comparison(self) -> None:
        if self._comparison is not None:
            self._comparison.end()

    def _leave_without_dock(self, parent: object) -> None:
        if parent is None:
            self._end_comparison()
        super()._leave_without_dock(parent)

    def _show_psf(self, name: str, made: Psf) -> None:
        """Add a hidden layer of a PSF that was computed, which lies where it is looked at best."""
        sides = len(made.voxel_size)
        options = {"scale": made.voxel_size, "units": ["um"] * sides}
        self._add_psf(name, made.values, None, axis_labels=list("zyx"[-sides:]), **options)
        self._say("\n".join(["The PSF is a layer.", *made.notes, *made.warnings]))

    def _add_psf(
        self, name: str, psf: NDArray[np.float32], result: Image | None, **options: Any
    ) -> None:
        active = self._viewer.layers.selection.active
        self._viewer.add_image(psf, name=name, visible=False, **options)
        self._viewer.layers.selection.active = result or active


@cache
def panel_of(task: str) -> type[RunPanel]:
    """Make the panel of a task."""
    kind = TASKS[task]
    about = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    known = {"kind": kind, "purpose": about, "__doc__": about, "__module__": __name__}
    return type(f"{kind.__name__}Panel", (RunPanel,), known)


def __getattr__(name: str) -> type[RunPanel]:
    for kind in TASKS.values():
        if name == f"{kind.__name__}Panel":
            return panel_of(kind.task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _stacked(psfs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the only one, or all in frames of one size about their centres."""
    if len(psfs) == 1:
        return psfs[0]
    frame = np.max([psf.shape for psf in psfs], axis=0)
    stack = np.zeros((len(psfs), *frame), np.float32)
    for plane, psf in zip(stack, psfs, strict=True):
        top, left = (frame - psf.shape) // 2
        plane[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return stack
