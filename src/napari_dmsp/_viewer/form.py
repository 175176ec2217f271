"""Widgets of the panels, and how they are laid out. Options become widgets here, once."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
    Widget,
)
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QLabel, QScrollArea, QScrollBar, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

from ..errors import DmspError
from ..settings import Option, Settings, in_words, parse

if TYPE_CHECKING:
    import napari
    from napari.layers import Image

    from .worker import Controller

LABEL_WIDTH = 112
# Longest side in screen pixels of a small picture; larger images are shown as they are.
PICTURE = 96
# Letters in a line of a tooltip: Qt shows plain text in one line, however long it is.
TIP_WIDTH = 64
# Height in pixels to which the choices of a panel can be squeezed; the rest of them is scrolled to.
LEAST_HEIGHT = 140
AUTO = "auto"
YES_OR_NO = {AUTO: None, "yes": True, "no": False}
# Text of a choice that waits for the user.
CHOOSE = "choose …"
# Names of widgets that are not those of their options in Python.
NAMES = {"iterations": "evaluations", "uncertainty": "error_map"}

# Patterns of sentences of the core, and what a panel says in their stead.
WORDS = {
    r"\bsigma=": "σ ",
    r"\blength=": "Length ",
    r"\bangle=": "Angle ",
    r"\bna=": "NA ",
    r"\bexcitation_wavelength=": "Excitation ",
    r"\bwavelength=": "Emission ",
    r"\bimmersion_index=": "Immersion ",
    r"\bimmersion_index\b": "Immersion",
    r"\bsample_index=": "Sample ",
    r"\bdepth=": "Depth ",
    r"\bpinhole=": "Pinhole ",
    r"\bsheet_thickness=": "Sheet ",
    r"\bbead_diameter=(?=,)": "Diameter",
    r"\bbead_diameter=": "Diameter ",
    r"\bvoxel_size=": "Voxel (µm)",
    r"\bleave it out(?= to estimate)": "leave it empty",
}

Offers = list[tuple[str, Any]]


class Panel(Container[Widget]):
    """What the panels share: a viewer, the end of a run, lines of text and a bar."""

    # One sentence at the top: what the panel is for.
    purpose: ClassVar[str]
    # What is said when the user stops a run.
    stopping: ClassVar[str]
    _runner: Controller

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        # Plugins get a proxy, whose layers are proxies too and never identical to themselves.
        self._viewer: napari.Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._stop_button = PushButton(
            text="Stop and keep", tooltip="End the run, and keep what there is by then."
        )
        self._cancel_button = PushButton(text="Cancel", tooltip="End the run, and drop its result.")
        self._plan = text_line(tooltip="What a run will take, or what it waits for.")
        self._report = text_line(tooltip="What the last run has come to.")
        self._bar = ProgressBar(visible=False, tooltip="How far the run is.")
        # In one line: labels that break make a column that is scrolled higher than it says it is.
        self._hint = Label(value=self.purpose.partition(";")[0].removesuffix(".") + ".")
        self._hint.tooltip = textwrap.fill(self.purpose, TIP_WIDTH)
        super().__init__(widgets=self._make_widgets(), labels=False)
        self._stop_button.changed.connect(self.stop)
        self._cancel_button.changed.connect(self.cancel)
        self.native_parent_changed.connect(self._leave_without_dock)
        self._runner.close_with(self.native)

    def _make_widgets(self) -> list[Widget]:
        raise NotImplementedError

    def image_layers(self, _: object = None) -> list[Image]:
        """Return the image layers of the viewer."""
        from napari.layers import Image

        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self._runner.running

    def stop(self) -> None:
        """End the run after its current step, and keep what was done."""
        self._runner.stop()
        self._say(self.stopping)

    def cancel(self) -> None:
        """End the run within its current step, and drop what was done."""
        self._runner.cancel()
        self._say("Cancelling …")

    def refresh(self, *_: Any) -> None:
        """Say what a run will do, or why there can be none."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        self._report.value = text
        self.refresh()

    def _leave_without_dock(self, parent: object) -> None:
        if parent is None:
            self._runner.leave()


class OpenChoice(ComboBox):
    """Some texts to choose from, beside which others can be typed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.native.setEditable(True)
        self.native.setInsertPolicy(self.native.InsertPolicy.NoInsert)
        self.native.lineEdit().editingFinished.connect(self._take_text)

    @property
    def value(self) -> str:
        """The text."""
        return str(self.get_value())

    @value.setter
    def value(self, value: object) -> None:
        text = str(value)
        if text not in self.choices:
            self.set_choice(text, text)
        self.set_value(text)

    def _take_text(self) -> None:
        self.value = self.native.currentText().strip()


class LayerChoice(ComboBox):
    """Layers to choose from, perhaps beside other things: what ``offers`` returns.

    When the layer that was chosen goes, nothing is chosen until the user does: no other layer takes
    its place in silence. For a user who has not chosen yet, ``propose`` picks a value, or None.
    """

    def __init__(
        self,
        offers: Callable[[], Offers],
        propose: Callable[[Sequence[Any]], Any] = lambda values: next(iter(values), None),
        **options: Any,
    ) -> None:
        self._offers, self._propose = offers, propose
        self._wanted: Any = None
        self._lost = False
        super().__init__(choices=self._listed, **options)

    def reset_choices(self, *_: Any) -> None:
        """Offer what there is now."""
        before = self.get_value()
        values = [value for _, value in self._offers()]
        if before in values:
            self._wanted = before
        else:
            self._lost = bool(values) and (self._lost or before is not None)
            self._wanted = None if self._lost else self._propose(values)
        # While its choices are replaced, the box shows the first of them for a moment.
        with self.changed.blocked():
            super().reset_choices()
            self.set_value(self._wanted)
        if self._wanted is not before:
            self.changed.emit(self._wanted)

    def _listed(self, _: object) -> Offers:
        return [*([] if self._wanted is not None else [(CHOOSE, None)]), *self._offers()]


def option_widget(each: Field[Any], about: Option) -> Widget:
    """Make the widget of an option: a choice, or a text that is read as in the shell."""
    default = each.default
    known: dict[str, Any] = {
        "name": NAMES.get(each.name, each.name),
        "label": about.label,
        "tooltip": about.explain("Empty:" if default is None else ""),
    }
    if about.choices:
        # The name of a method stands for code; a device or a side may be any.
        closed = each.type == "str" and about.parse is str and AUTO not in about.choices
        kind = ComboBox if closed else OpenChoice
        return kind(choices=list(about.choices), value=str(default), **known)
    if each.type == "bool":
        return CheckBox(value=bool(default), **known)
    if each.type == "bool | None":
        return ComboBox(choices=list(YES_OR_NO.items()), **known)
    edit = LineEdit(value="" if default in (None, MISSING) else str(default), **known)
    if default is None:
        edit.native.setPlaceholderText(AUTO)
    return edit


def read_option(kind: type[Settings], each: Field[Any], about: Option, widget: Any) -> Any:
    """Return the value of an option that the user chose or typed."""
    if not isinstance(widget, OpenChoice | LineEdit):
        return widget.value
    text = str(widget.value).strip()
    if each.default is None and text in ("", AUTO):
        return None
    value = parse(kind, each.name, text)
    low, high = about.limits
    if isinstance(value, int | float) and not low <= value <= high:
        most = f" and at most {high}" if high < math.inf else ""
        raise DmspError(f"{each.name}={text} must be at least {low}{most}.")
    return value


def number(name: str, label: str, value: float, tooltip: str) -> LineEdit:
    """Make an input for a number that no option has, such as the width of a Gaussian."""
    return LineEdit(name=name, label=label, value=f"{value:g}", tooltip=tooltip)


def read_number(edit: LineEdit) -> float:
    """Return the number in an input of `number`."""
    try:
        return float(edit.value)
    except ValueError:
        raise DmspError(f"{edit.label}: {edit.value!r} is not a number.") from None


def in_panel_words(text: str, kind: type[Settings]) -> str:
    """Say an error of the core in the words of a panel, which has other remedies than Python."""
    for pattern, words in WORDS.items():
        text = re.sub(pattern, words, text)
    return in_words(text, kind, "panel")


def form(widgets: Sequence[Widget]) -> Container[Widget]:
    """Make a column of widgets with their labels."""
    form: Container[Widget] = Container()
    form.margins = (0, 0, 0, 0)
    _fold_tooltips(widgets)
    form.native.layout().setSpacing(2)
    form.extend(widgets)
    # magicgui measures the labels before the viewer's style makes them wider.
    for label in form.native.findChildren(QLabel):
        label.setMinimumWidth(LABEL_WIDTH)
    return form


def row(widgets: Sequence[Widget]) -> Container[Widget]:
    """Make a row of widgets without labels."""
    _fold_tooltips(widgets)
    row: Container[Widget] = Container(widgets=widgets, layout="horizontal", labels=False)
    row.margins = (0, 0, 0, 0)
    return row


def _fold_tooltips(widgets: Sequence[Widget]) -> None:
    for widget in widgets:
        widget.tooltip = textwrap.fill(widget.tooltip or "", TIP_WIDTH)


def text_line(text: str = "", tooltip: str = "") -> Label:
    """Make a line that breaks where the panel ends."""
    label = Label(value=text, tooltip=tooltip)
    label.native.setWordWrap(True)
    label.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def show_picture(label: Label, image: NDArray[Any]) -> None:
    """Show a small picture (H, W), bright where the image is, with square pixels."""
    grey = np.clip(255 * np.sqrt(np.clip(image, 0, None) / (image.max() or 1)), 0, 255)
    zoom = max(1, PICTURE // max(image.shape))
    pixels = grey.astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
    height, width = pixels.shape
    shown = QImage(pixels.data, width, height, width, QImage.Format.Format_Grayscale8)
    # As far from the edge as text.
    label.native.setContentsMargins(4, 0, 0, 0)
    label.native.setPixmap(QPixmap.fromImage(shown))


def fold(title: str, content: QWidget) -> QCollapsible:
    """Make a fold, closed at first."""
    # The arrow is part of the text: the icon would be black in the dark theme too. A null icon is
    # false in PySide6, and QCollapsible leaves out what is false.
    blank = QPixmap(1, 1)
    blank.fill(Qt.GlobalColor.transparent)
    icon = QIcon(blank)
    fold = QCollapsible(f"▸ {title}", expandedIcon=icon, collapsedIcon=icon)
    fold.toggled.connect(lambda opened: fold.setText(f"{'▾' if opened else '▸'} {title}"))
    fold.setToolTip("What is seldom changed.")
    fold.setDuration(0)
    fold.addWidget(content)
    layout = fold.layout()
    assert layout is not None
    layout.setContentsMargins(0, 0, 0, 0)
    return fold


class Scroll(QScrollArea):
    """A column of widgets, as high as they are where there is room, and scrolled elsewhere."""

    def __init__(self, widgets: Sequence[QWidget]) -> None:
        super().__init__()
        self._content, self._bar = QWidget(), QScrollBar()
        layout = QVBoxLayout(self._content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in widgets:
            layout.addWidget(widget)
        layout.addStretch()
        self.setWidget(self._content)
        self.setVerticalScrollBar(self._bar)
        self.setWidgetResizable(True)
        # The viewer's style has a border, for which there would be a scroll bar.
        self.setStyleSheet("QScrollArea { border: 0px; padding: 0px; }")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self._content.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Follow the height of what is shown, which a fold or a choice changes."""
        if event.type() == event.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def sizeHint(self) -> QSize:
        """Return the size of all widgets."""
        return self._beside_bar(self._content.sizeHint())

    def minimumSizeHint(self) -> QSize:
        """Return the least size: what is scrolled takes no room."""
        least = self._beside_bar(self._content.minimumSizeHint())
        return QSize(least.width(), min(LEAST_HEIGHT, self.sizeHint().height()))

    def _beside_bar(self, size: QSize) -> QSize:
        return size + QSize(self._bar.sizeHint().width(), 0)
