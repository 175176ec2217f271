"""The panel Train a prior."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import (
    ComboBox,
    FileEdit,
    LineEdit,
    PushButton,
    Select,
    SpinBox,
    Widget,
)
from qtpy.QtWidgets import QSizePolicy

from ..priors import prior_files, priors_folder
from ..settings import DEVICES, reword
from .form import OpenChoice, Panel, form, row
from .layers import full_resolution
from .loss_plot import LossPlot
from .own_priors import prior_config, priors_changed
from .preferences import read_preferences
from .train_worker import Stack, Training, TrainOutcome, TrainRunner

if TYPE_CHECKING:
    import napari
    from napari.layers import Image

SCRATCH = "scratch"
CHANNELS = {"grey": 1, "colour": 3}


class TrainPanel(Panel):
    """Trains a prior on the user's own clean images, beside the viewer.

    What the user chooses is in ``inputs``, as ``panel.inputs.minutes.value``.
    """

    purpose = "Train a prior on sharp images of your own; the other panels then offer it."
    stopping = "Stopping, and saving the prior …"
    _runner: TrainRunner

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._runner = TrainRunner(self._show_progress, self._show_outcome)
        self._plot: LossPlot | None = None
        self._training: Training | None = None
        self._warnings: list[str] = []
        super().__init__(napari_viewer)
        # Else the list of layers would claim the rest of the height.
        self.inputs.native.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self._connect()
        self.refresh()

    def _make_widgets(self) -> list[Widget]:
        self.inputs = form(self._input_widgets())
        self._train_button = PushButton(
            text="Train", tooltip="Start the training; everything else can be used meanwhile."
        )
        buttons = row([self._train_button, self._stop_button, self._cancel_button])
        return [self._hint, self.inputs, buttons, self._plan, self._bar, self._report]

    def _input_widgets(self) -> list[Widget]:
        self._folder = FileEdit(
            name="folder",
            label="Folder",
            mode=FileDialogMode.EXISTING_DIRECTORY,
            nullable=True,
            tooltip="All images in it and below are used. They should be sharp and free of noise.",
        )
        self._folder.choose_btn.text = "…"
        self._folder.line_edit.native.setPlaceholderText("of clean images")
        self._layers = Select(
            name="layers",
            label="Layers",
            choices=self.image_layers,
            tooltip="All planes of the selected layers are used, beside the folder or alone.",
        )
        self._layers.native.setFixedHeight(80)
        self._colours = ComboBox(
            name="colours",
            label="Colours",
            choices=list(CHANNELS),
            tooltip="Whether the prior is for grey images or for red, green and blue.",
        )
        self._name = LineEdit(
            name="prior_name",
            label="Name",
            tooltip="What the prior is called where it can be chosen: letters, digits, - and _.",
        )
        self._name.native.setPlaceholderText("of the new prior")
        self._minutes = SpinBox(
            name="minutes",
            label="Minutes",
            value=60,
            min=1,
            max=10_000,
            tooltip="How long the training takes; without a GPU, an hour or more is needed.",
        )
        self._start = ComboBox(
            name="start",
            label="Start from",
            choices=self.starts,
            tooltip="Images like those of an existing prior need less time from there.",
        )
        self._device = OpenChoice(
            name="device",
            label="Device",
            choices=list(DEVICES),
            value=read_preferences().device,
            tooltip="Where to compute; auto takes a GPU where there is one.",
        )
        return [
            self._folder,
            self._layers,
            self._colours,
            self._name,
            self._minutes,
            self._start,
            self._device,
        ]

    def _connect(self) -> None:
        self._train_button.changed.connect(self.train)
        self._layers.changed.connect(self._follow_layers)
        self._colours.changed.connect(self._start.reset_choices)
        self.inputs.changed.connect(self.refresh)
        priors_changed.connect(self.reset_choices)
        self._viewer.events.theme.connect(self._paint_plot)

    # What can be chosen.

    def starts(self, _: object = None) -> list[str]:
        """Return the priors to start from: those for as many colours."""
        channels = CHANNELS[self._colours.value]
        files = prior_files().items()
        fitting = [name for name, file in files if prior_config(file).get("channels") == channels]
        return [SCRATCH, *fitting]

    # What the user does.

    def train(self) -> None:
        """Start a training, unless one goes on or something is missing."""
        from napari.utils.notifications import show_info

        if self.running:
            show_info("A training is running; stop or cancel it first.")
            return
        if self._problem():
            self.refresh()
            return
        files = prior_files()
        training = Training(
            folders=self._folders(),
            stacks=tuple(_stack(layer) for layer in self._layers.value),
            out=self._file(),
            channels=CHANNELS[self._colours.value],
            minutes=self._minutes.value,
            start=None if self._start.value == SCRATCH else files[self._start.value],
            device=self._device.value,
        )
        self._training, self._warnings = training, []
        self._bar.max, self._bar.value, self._bar.visible = 0, 0, True
        self._show_plot(training.minutes)
        self._runner.start(training)
        self._say("Loading the images …")

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers and the priors that there are now."""
        if not self._runner.closed:
            super().reset_choices()
            self.refresh()

    def refresh(self, *_: Any) -> None:
        """Say what Train will do, or why it cannot be pressed."""
        if self._runner.closed:
            return
        running = self.running
        problem = "" if running else self._problem()
        self._train_button.enabled = not running and not problem
        self._cancel_button.enabled = running and not self._runner.ending
        # While images are loaded there is nothing to keep.
        self._stop_button.enabled = self._cancel_button.enabled and self._bar.max > 0
        self._plan.value = "" if running else problem or self._describe()
        self._plan.visible = not running
        self._report.visible = bool(self._report.value)

    def _problem(self) -> str:
        folders, name = self._folders(), self._name.value
        if not folders and not self._layers.value:
            return "Choose a folder of clean images, or layers."
        if not all(folder.is_dir() for folder in folders):
            return f"There is no folder {folders[0]}."
        if CHANNELS[self._colours.value] == 3:
            for layer in self._layers.value:
                if not layer.rgb:
                    return f"Layer {layer.name!r} is grey, and cannot train a prior for colour."
        if not re.fullmatch(r"[\w-]+", name):
            return "Give the prior a name of letters, digits, - and _."
        if name in prior_files() or any(self._file().parent.glob(f"{name}.*")):
            return f"There is a prior {name!r} already; choose another name."
        return ""

    def _describe(self) -> str:
        sources = [f"the images in {folder}" for folder in self._folders()]
        planes = sum(math.prod(_stack(layer).leading) for layer in self._layers.value)
        if planes:
            sources.append(f"{planes} plane{'s' if planes > 1 else ''}")
        return f"Trains on {' and '.join(sources)}, and writes {self._file()}."

    def _folders(self) -> tuple[Path, ...]:
        folder = self._folder.value
        return (folder,) if isinstance(folder, Path) else ()

    def _file(self) -> Path:
        return priors_folder() / f"{self._name.value}.safetensors"

    def _follow_layers(self) -> None:
        layers = self._layers.value
        if layers:
            self._colours.value = "colour" if all(layer.rgb for layer in layers) else "grey"

    # What the training reports.

    def _show_progress(self, values: dict[str, Any]) -> None:
        if "images" in values:
            self._report.value = f"Loading the images: {values['images']:.0%}"
            return
        if "warnings" in values:
            self._warnings = values["warnings"]
            return
        assert self._training is not None
        assert self._plot is not None
        # In seconds, for the bar has whole numbers only. The last step may take longer.
        self._bar.max = 60 * self._training.minutes
        self._bar.value = min(round(60 * values["minutes"]), self._bar.max)
        line = (
            f"{values['minutes']:.1f} of {self._training.minutes} min, step {values['step']}, "
            f"loss {values['loss']:.3f}{_quality(values)}"
        )
        self._report.value = "\n".join([line, *self._warnings])
        self._plot.add(values)
        self.refresh()

    def _show_outcome(self, outcome: TrainOutcome) -> None:
        assert self._training is not None
        assert self._plot is not None
        self._bar.visible = False
        if outcome.card is None:
            fields = {"device": self._device.label, "minutes": self._minutes.label}
            self._report.value = reword(outcome.error or "Cancelled.", fields, "panel")
        else:
            training, scores = outcome.card["training"], outcome.card["validation_psnr"]
            line = (
                f"{self._training.out.stem!r} can be chosen as a prior now. It was trained for "
                f"{training['minutes']} min, {training['steps']} steps{_quality(scores)}."
            )
            self._report.value = "\n".join([line, *self._warnings])
            self._plot.add({"minutes": training["minutes"], **scores})
        self._plot.draw()
        self.refresh()
        priors_changed.emit()
        # That its name is taken now needs no word before another training is thought of.
        self._plan.visible = outcome.card is None

    def _show_plot(self, minutes: float) -> None:
        if self._plot is None:
            self._plot = LossPlot()
            layout = self.native.layout()
            layout.insertWidget(layout.indexOf(self._report.native) + 1, self._plot.native)
        self._paint_plot()
        self._plot.start(minutes)

    def _paint_plot(self, *_: object) -> None:
        from napari.utils.theme import get_theme

        if self._plot is not None and not self._runner.closed:
            self._plot.paint(get_theme(self._viewer.theme))


def _stack(layer: Image) -> Stack:
    return Stack(full_resolution(layer), layer.rgb)


def _quality(values: dict[str, float]) -> str:
    """Write down the PSNR that a training reports, if it does already."""
    scores = [
        # With spaces that no line is broken at.
        f"{value:.1f}\N{NO-BREAK SPACE}dB at σ\N{NO-BREAK SPACE}{name.removeprefix('psnr')}"
        for name, value in values.items()
        if name.startswith("psnr")
    ]
    return f", PSNR {', '.join(scores)}" if scores else ""
