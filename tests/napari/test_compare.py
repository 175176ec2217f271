"""Before and after: the image in place of its result, and everything else as it was."""

from __future__ import annotations

import gc
from weakref import ref

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from numpy.testing import assert_allclose

from napari_dmsp._viewer.compare import KEY, Comparison


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def restore(qtbot, viewer, fake_prior):
    """Open the panel of a task, choose, press Run and wait for the end."""

    def restored(title, **inputs):
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", title)
        panel.advanced.evaluations.value, panel.advanced.device.value = "2", "cpu"
        for name, value in inputs.items():
            panel.inputs[name].value = value
        panel.run()
        qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
        return panel

    return restored


def visible(viewer):
    return {layer.name for layer in viewer.layers if layer.visible}


def press_key(layer):
    layer.keymap[next(key for key in layer.keymap if str(key) == KEY)](layer)


def test_the_button_is_there_with_a_result_only(viewer, restore, grey_image, qtbot):
    viewer.add_image(grey_image, name="step")
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    assert panel._compare_button.native.isHidden()
    panel.compare()
    assert visible(viewer) == {"step"}
    panel = restore("Deblur")
    assert not panel._compare_button.native.isHidden()
    assert not panel._compare_button.native.isChecked()


def test_everything_else_becomes_as_it_was(viewer, restore, grey_image):
    viewer.add_image(grey_image, name="below")
    image = viewer.add_image(grey_image, name="step", visible=False)
    viewer.add_image(grey_image, name="between")
    viewer.add_image(grey_image, name="light", blending="additive")
    viewer.add_image(grey_image, name="hidden", visible=False)
    viewer.add_points([[3, 4]], name="points")
    panel = restore("Deblur", image=image)
    before = visible(viewer)
    assert before == {"below", "between", "light", "points", "step deblurred"}
    panel._compare_button.native.click()
    assert visible(viewer) == {"below", "light", "points", "step"}
    assert panel._compare_button.native.isChecked()
    panel._compare_button.native.click()
    assert visible(viewer) == before
    assert not panel._compare_button.native.isChecked()


def test_colours_twice_as_large_are_in_the_same_place(viewer, restore, rgb_image):
    layer = viewer.add_image(rgb_image, name="photo", scale=(0.5, 0.5), translate=(3, 4))
    panel = restore("Super-resolution")
    result = viewer.layers["photo enlarged"]
    # The outer corner of the first pixel.
    assert_allclose(result.data_to_world((-0.5, -0.5)), layer.data_to_world((-0.5, -0.5)))
    panel.compare()
    assert visible(viewer) == {"photo"}
    panel.compare()
    assert visible(viewer) == {"photo", "photo enlarged"}


def test_volumes(viewer, restore, grey_image):
    stack = np.stack([grey_image] * 4)
    viewer.add_image(stack, name="stack")
    viewer.add_image(np.full((3, 3, 3), 1 / 27), name="PSF", visible=False)
    viewer.dims.set_point(0, 2)
    panel = restore("Deblur", psf="layer")
    assert viewer.layers["stack deblurred"].data.shape == stack.shape
    panel.compare()
    assert visible(viewer) == {"stack"}
    assert viewer.dims.point[0] == 2
    panel.compare()
    assert visible(viewer) == {"stack", "stack deblurred"}


@pytest.mark.parametrize("removed", ["step", "step deblurred", "other"])
def test_layers_may_go_meanwhile(viewer, restore, grey_image, removed):
    viewer.add_image(grey_image, name="step")
    viewer.add_image(grey_image, name="other")
    panel = restore("Deblur", image=viewer.layers["step"])
    result = viewer.layers["step deblurred"]
    panel.compare()
    del viewer.layers[removed]
    if removed == "other":
        panel.compare()
    assert visible(viewer) == {"step", "other", "step deblurred"} - {removed}
    assert panel._compare_button.native.isHidden() == (removed != "other")
    press_key(result)
    assert visible(viewer) == ({"step"} if removed == "other" else visible(viewer))


def test_one_result_at_a_time_by_key(viewer, restore, grey_image):
    viewer.add_image(grey_image, name="step")
    panel, other = restore("Deblur"), restore("Super-resolution", image=viewer.layers["step"])
    first, second = viewer.layers["step deblurred"], viewer.layers["step enlarged"]
    second.visible = False
    press_key(first)
    assert panel._compare_button.native.isChecked()
    assert visible(viewer) == {"step"}
    press_key(second)
    assert visible(viewer) == {"step"}
    assert not panel._compare_button.native.isChecked()
    assert other._compare_button.native.isChecked()
    press_key(second)
    assert visible(viewer) == {"step", "step deblurred"}
    assert Comparison._shown is None


def test_a_removed_image_is_not_kept(grey_image):
    # The viewer's window keeps layers for a while with PySide6, whoever made them.
    viewer = ViewerModel()
    before, after = (Image(grey_image, name=name) for name in ("before", "after"))
    viewer.layers.extend([before, after])
    comparison, alive = Comparison(viewer, before, after), ref(before)
    viewer.layers.remove(before)
    comparison.toggle()
    assert comparison.before is None
    assert visible(viewer) == {"after"}
    del before
    gc.collect()
    assert alive() is None


def test_a_run_and_a_closed_panel_end_it(viewer, restore, grey_image, qtbot):
    viewer.add_image(grey_image, name="step")
    panel = restore("Deblur")
    panel.compare()
    panel.run()
    assert viewer.layers["step deblurred"].visible
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    panel.compare()
    viewer.window.remove_dock_widget(panel.native)
    assert viewer.layers["step deblurred [1]"].visible
