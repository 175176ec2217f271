"""What the panels say of themselves: a purpose, a tooltip on every widget, what to do first."""

from __future__ import annotations

import pytest
from magicgui.widgets import Container, FileEdit

from napari_dmsp._viewer.form import TIP_WIDTH
from napari_dmsp._viewer.panel import FIRST, NO_IMAGE

RESTORE = ("Deblur", "Super-resolution", "Demosaic")


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


def opened(viewer, title):
    return viewer.window.add_plugin_dock_widget("napari-dmsp", title)[1]


def widgets_of(container):
    """Give all widgets in a container, those of other containers too."""
    for widget in container:
        if isinstance(widget, Container) and not isinstance(widget, FileEdit):
            yield from widgets_of(widget)
        else:
            yield widget


@pytest.mark.parametrize("title", [*RESTORE, "Train a prior"])
def test_every_widget_has_a_tooltip(viewer, title):
    panel = opened(viewer, title)
    parts = [panel, panel.inputs, *([panel.advanced] if title in RESTORE else [])]
    widgets = {panel._hint, *(widget for part in parts for widget in widgets_of(part))}
    assert len(widgets) > 12
    assert [widget for widget in widgets if not widget.tooltip] == []
    lines = [line for widget in widgets for line in widget.tooltip.splitlines()]
    assert max(map(len, lines)) <= TIP_WIDTH


@pytest.mark.parametrize("title", [*RESTORE, "Train a prior"])
def test_the_first_line_says_what_the_panel_is_for(viewer, title):
    panel = opened(viewer, title)
    first = panel.native.layout().itemAt(0).widget()
    shown = first if title == "Train a prior" else first.widget().layout().itemAt(0).widget()
    assert shown.text() == panel._hint.value
    assert panel._hint.value.endswith(".")
    assert panel.purpose.startswith(panel._hint.value[:-1])


def test_what_to_do_first(viewer, fake_prior, grey_image, qtbot):
    panel = opened(viewer, "Deblur")
    assert panel._plan.value == NO_IMAGE
    viewer.add_image(grey_image, name="step")
    assert panel._plan.value.endswith(f"CPU. {FIRST}")
    panel.advanced.evaluations.value = "2"
    panel.preview()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert FIRST not in panel._plan.value
