"""What the panels of all tasks share: the image, Run, progress, Stop, Cancel and the result."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QLabel, QSizePolicy
from superqt import QCollapsible

from .._layers import Plane, visible_plane
from .._worker import Outcome, Progress, Runner

if TYPE_CHECKING:
    import napari
    from napari.layers import Image

    from ..core import Job

# One evaluation of a megapixel on a few CPU cores; the first run measures better.
SECONDS_PER_MEGAPIXEL = 2.5

LABEL_WIDTH = 88


class RunPanel(Container[Widget]):
    """Chooses an image, runs a task on it beside the viewer and shows the result as a layer.

    A task derives from it and defines `result_title`, `task_widgets` and `request`; `evaluations`,
    `magnification` and `remark` serve the forecast.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Where the image layers are; napari passes it by this name.

    Attributes
    ----------
    inputs, advanced : Container
        What the user chooses, as ``panel.inputs.noise.value``.
    """

    result_title: str
    # By method, as in `core.job`, which cannot be asked without loading torch.
    evaluations: ClassVar[dict[str, int]] = {"annealed": 24, "sgd": 300}

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        # Plugins get a proxy, whose layers are proxies too and never identical to themselves.
        self._viewer: napari.Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._runner = Runner(self._show_progress, self._show_outcome)
        self._plane: Plane | None = None
        self._layer: Image | None = None
        self._name = ""
        self._seconds_per_megapixel: float | None = None

        self._image = ComboBox(name="image", label="Image", choices=self.image_layers)
        self._noise = _optional_number(
            "noise",
            "Noise σ",
            "Standard deviation of the noise in the image's units; empty estimates it.",
        )
        self.inputs = _form([self._image, *self.task_widgets(), self._noise])
        self.advanced = _form(self._advanced_widgets())
        self._run_button = PushButton(text="Run")
        self._stop_button = PushButton(text="Stop and keep", enabled=False)
        self._cancel_button = PushButton(text="Cancel", enabled=False)
        buttons = Container(
            widgets=[self._run_button, self._stop_button, self._cancel_button],
            layout="horizontal",
            labels=False,
        )
        self._plan, self._report = _text_line(), _text_line()
        self._bar = ProgressBar(visible=False)
        buttons.margins = (0, 0, 0, 0)
        super().__init__(
            widgets=[self.inputs, buttons, self._plan, self._bar, self._report], labels=False
        )
        self.native.layout().addWidget(_fold("Advanced", self.advanced))

        active = self._viewer.layers.selection.active
        if active in self._image.choices and active.visible:
            self._image.value = active
        self._connect()
        self.refresh()

    def _advanced_widgets(self) -> list[Widget]:
        self._prior = FileEdit(
            name="prior",
            label="Prior",
            nullable=True,
            filter="*.safetensors",
            tooltip="A prior written by the trainer; empty takes the one for grey or colour.",
        )
        self._prior.choose_btn.text = "…"
        self._prior.line_edit.native.setPlaceholderText("auto")
        self._method = ComboBox(name="method", label="Method", choices=list(self.evaluations))
        self._evaluations = _optional_number(
            "evaluations",
            "Evaluations",
            "How often the prior is evaluated; the time grows with it.",
        )
        self._seed = SpinBox(name="seed", label="Seed", max=2**31 - 1)
        self._device = ComboBox(
            name="device", label="Device", choices=["auto", "cpu", "cuda", "mps"]
        )
        self._background = _optional_number(
            "background", "Background", "Intensity of black in the image's units."
        )
        return [
            self._prior,
            self._method,
            self._evaluations,
            self._seed,
            self._device,
            self._background,
        ]

    def _connect(self) -> None:
        self._run_button.changed.connect(self.run)
        self._stop_button.changed.connect(self.stop)
        self._cancel_button.changed.connect(self.cancel)
        for part in (self.inputs, self.advanced):
            part.changed.connect(self.refresh)
        dims = self._viewer.dims.events
        for event in (dims.current_step, dims.order):
            event.connect(self.refresh)
        self.native_parent_changed.connect(self._cancel_without_dock)
        # Called when the panel is half gone, so this must neither need it nor keep it alive.
        self.native.destroyed.connect(lambda _=None, runner=self._runner: runner.close())

    # What a task says.

    def task_widgets(self) -> list[Widget]:
        """Make the inputs of the task, once."""
        raise NotImplementedError

    def request(self) -> Callable[[NDArray[Any], int | None], Job]:
        """Freeze the choices into ``prepare(image, channel_axis)``, to be called in a thread.

        Raises
        ------
        ValueError
            If the task cannot be run; the message says what to choose.
        """
        raise NotImplementedError

    def magnification(self) -> float:
        """Return how much longer the sides of the result are."""
        return 1.0

    def remark(self) -> str:
        """Return a sentence for the forecast, or nothing."""
        return ""

    def shared_options(self) -> dict[str, Any]:
        """Return the choices that all tasks share, as arguments of the core."""
        return {
            "noise_sigma": _read_number(self._noise),
            "prior": self._prior.value,
            "method": self._method.value,
            "iterations": _read_number(self._evaluations, int),
            "background": _read_number(self._background),
            "seed": self._seed.value,
            "device": self._device.value,
        }

    # What the user does.

    def image_layers(self, _: object = None) -> list[Image]:
        """Return the image layers of the viewer, point spread functions last."""
        from napari.layers import Image

        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        return sorted(layers, key=is_psf)

    @property
    def image(self) -> Image | None:
        """The layer to restore."""
        layer: Image | None = self._image.value
        return layer

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._runner.running

    def run(self) -> None:
        """Start a run, unless one goes on or something is missing."""
        from napari.utils.notifications import show_info

        if self.running:
            show_info("A restoration is running; stop or cancel it first.")
            return
        if self.image is None or self._problem():
            self.refresh()
            return
        prepare, plane = self.request(), visible_plane(self.image, self._viewer.dims)
        self._plane, self._layer = plane, None
        self._name = f"{self.image.name} {self.result_title}"
        self._bar.value, self._bar.visible = 0, True
        # Until the first evaluation the bar only says that something is going on.
        self._bar.max = 0
        self._report.value = "Loading the image and the prior …"
        self._runner.start(lambda: prepare(plane.read(), plane.channel_axis))
        self.refresh()

    def stop(self) -> None:
        """End the run after the current evaluation and keep its estimate."""
        self._runner.stop()
        self._report.value = "Stopping after this evaluation …"
        self.refresh()

    def cancel(self) -> None:
        """End the run after the current evaluation and drop its estimate."""
        self._runner.cancel()
        self._report.value = "Cancelling after this evaluation …"
        self.refresh()

    def reset_choices(self, *_: Any) -> None:
        """Offer the layers that the viewer has now."""
        super().reset_choices()
        self.refresh()

    def refresh(self, *_: Any) -> None:
        """Say what Run will do, or why it cannot be pressed."""
        if self._runner.closed:
            return
        running, problem = self.running, self._problem()
        self._run_button.enabled = not running and not problem
        self._stop_button.enabled = self._cancel_button.enabled = (
            running and not self._runner.ending
        )
        self._plan.value = problem or self._describe()
        self._report.visible = bool(self._report.value)

    def _problem(self) -> str:
        if self.image is None:
            return "Open an image."
        try:
            self.request()
        except ValueError as error:
            return str(error)
        return ""

    def _describe(self) -> str:
        assert self.image is not None
        plane = visible_plane(self.image, self._viewer.dims)
        megapixels = math.prod(plane.shape) * self.magnification() ** 2 / 1e6
        measured = self._seconds_per_megapixel
        evaluations = _read_number(self._evaluations) or self.evaluations[self._method.value]
        seconds = (measured or SECONDS_PER_MEGAPIXEL) * megapixels * evaluations
        text = f"{plane.shape[0]} × {plane.shape[1]} {'colour' if plane.rgb else 'grey'} pixels, "
        text += f"about {_duration(seconds)}{'' if measured else ' without a GPU'}."
        text += self.remark()
        if self.image.ndim > 2:
            text += " Only the visible plane is restored."
        return text

    def _cancel_without_dock(self, parent: object) -> None:
        if parent is None and self.running:
            self.cancel()

    # What the run reports.

    def _show_progress(self, progress: Progress) -> None:
        self._bar.max, self._bar.value = progress.total, progress.evaluation
        left = progress.seconds / progress.evaluation * (progress.total - progress.evaluation)
        self._report.value = (
            f"{progress.evaluation} of {progress.total}, {_duration(left)} left, "
            f"residual {progress.residual:.3g}, noise σ {progress.noise_sigma:.3g}"
        )
        if progress.estimate is not None:
            self._show_image(progress.estimate)

    def _show_outcome(self, outcome: Outcome) -> None:
        self._bar.visible = False
        try:
            self._show_result(outcome)
        finally:
            self._plane = self._layer = None
            self.refresh()

    def _show_result(self, outcome: Outcome) -> None:
        result = outcome.restoration
        if result is None:
            self._remove_layer()
            self._report.value = outcome.error or "Cancelled."
        else:
            if self._layer not in self._viewer.layers:
                self._layer = None
            self._show_image(result.image)
            assert self._layer is not None
            assert self._plane is not None
            self._layer.metadata = {"napari-dmsp": result.to_dict()}
            # A search for the PSF has quicker evaluations than the restoration.
            if "psf_size" not in result.settings:
                megapixels = math.prod(result.image.shape[:2]) / 1e6
                self._seconds_per_megapixel = result.seconds / result.evaluations / megapixels
            self._report.value = (
                f"{result.evaluations} evaluations in {_duration(result.seconds)}. "
                f"Noise σ {result.noise_sigma:.3g}."
            )

    def _show_image(self, image: NDArray[Any]) -> None:
        assert self._plane is not None
        data = self._plane.place(image)
        if self._layer is None:
            options = self._plane.options_for(image)
            self._layer = self._viewer.add_image(data, name=self._name, **options)
        elif self._layer in self._viewer.layers:
            self._layer.data = data

    def _remove_layer(self) -> None:
        if self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)


def is_psf(layer: Image) -> bool:
    """Whether a layer calls itself a point spread function."""
    return "psf" in layer.name.lower()


def _optional_number(name: str, label: str, tooltip: str) -> LineEdit:
    """Make an input for a number, where nothing means that it is chosen automatically."""
    edit = LineEdit(name=name, label=label, tooltip=tooltip)
    edit.native.setPlaceholderText("auto")
    return edit


def _read_number(edit: LineEdit, kind: type[float] = float) -> float | None:
    """Return the number in an `_optional_number`, or None."""
    text = edit.value.strip()
    if text in ("", "auto"):
        return None
    try:
        return kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{edit.label}: {text!r} is not a {what}; empty means auto.") from None


def _form(widgets: list[Widget]) -> Container[Widget]:
    form: Container[Widget] = Container()
    form.margins = (0, 0, 0, 0)
    form.extend(widgets)
    # magicgui measures the labels before the viewer's style makes them wider.
    for label in form.native.findChildren(QLabel):
        label.setMinimumWidth(LABEL_WIDTH)
    return form


def _fold(title: str, content: Container[Widget]) -> QCollapsible:
    # The arrow is part of the text: the icon would be black in the dark theme too.
    fold = QCollapsible(f"▸ {title}", expandedIcon=QIcon(), collapsedIcon=QIcon())
    fold.toggled.connect(lambda opened: fold.setText(f"{'▾' if opened else '▸'} {title}"))
    fold.addWidget(content.native)
    layout = fold.layout()
    assert layout is not None
    layout.setContentsMargins(0, 0, 0, 0)
    return fold


def _text_line() -> Label:
    label = Label(value="")
    label.native.setWordWrap(True)
    label.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
