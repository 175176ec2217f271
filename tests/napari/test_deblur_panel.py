"""The Deblur panel in the real viewer, opened through the manifest."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtCore import QTimer

from napari_dmsp.core.psf import gaussian_psf


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer, fake_prior):
    def opened():
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
        panel.advanced.evaluations.value = "3"
        panel.advanced.device.value = "cpu"
        return panel

    return opened


def finish(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)


def report(panel):
    return panel._report.value


def test_rgb_run_with_a_psf_layer(qtbot, viewer, open_panel, rgb_image):
    layer = viewer.add_image(rgb_image, name="photo", scale=(2, 3), units=("um", "um"))
    viewer.add_image(gaussian_psf(1.0), name="my PSF", visible=False)
    panel = open_panel()
    assert panel.image is layer
    assert panel.inputs.psf.value == "layer"
    assert panel.inputs.psf_layer.value.name == "my PSF"
    assert "64 × 56 colour" in panel._plan.value
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["photo deblurred"]
    assert result.rgb
    assert result.data.shape == rgb_image.shape
    assert result.data.dtype == np.uint8
    assert_allclose(result.scale, (2, 3))
    assert result.units == layer.units
    assert_array_equal(layer.data, rgb_image)
    about = result.metadata["napari-dmsp"]
    assert about["evaluations"] == 3
    assert about["settings"]["channel_axis"] == -1
    assert "Noise σ" in report(panel)
    assert panel._run_button.enabled
    # The next run restores the input again, under another name.
    assert panel.image is layer
    panel.run()
    finish(qtbot, panel)
    assert len(viewer.layers) == 4


@pytest.mark.parametrize("kind", ["Gaussian", "motion"])
def test_grey_run_with_a_psf_of_known_shape(qtbot, viewer, open_panel, grey_image, kind):
    viewer.add_image(grey_image, name="step", colormap="green")
    panel = open_panel()
    panel.inputs.psf.value = kind
    panel.inputs.sigma.value = 1.0
    panel.inputs.length.value = 3
    panel.inputs.noise.value = "3.5"
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["step deblurred"]
    assert result.data.dtype == np.float32
    assert result.colormap.name == "green"
    assert np.ptp(result.data) > np.ptp(grey_image) - 60
    settings = result.metadata["napari-dmsp"]["settings"]
    assert settings["noise_sigma"] == 3.5
    assert settings["psf_shape"] == ((9, 9) if kind == "Gaussian" else (5, 5))


def test_stack_restores_the_visible_plane(qtbot, viewer, open_panel, grey_image):
    stack = np.stack([grey_image, grey_image[::-1], grey_image // 2])
    viewer.add_image(stack, name="stack", scale=(4, 1, 1))
    viewer.dims.set_current_step(0, 1)
    panel = open_panel()
    assert "Planes in axes -2, -1: 64 × 56" in panel._plan.value
    # There is no other pair of axes that are long enough.
    assert panel.advanced.axes.native.isHidden()
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["stack deblurred"]
    assert result.data.shape == (1, *grey_image.shape)
    assert_allclose(result.translate, (4, 0, 0))


def test_the_gui_stays_alive_and_nothing_is_computed_in_it(
    qtbot, viewer, open_panel, fake_prior, grey_image
):
    da = pytest.importorskip("dask.array")
    readers = set()

    def block():
        readers.add(threading.get_ident())
        return grey_image

    lazy = da.map_blocks(
        block,
        chunks=((grey_image.shape[0],), (grey_image.shape[1],)),
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    viewer.add_image(lazy, name="lazy", contrast_limits=(0, 255))
    panel = open_panel()
    readers.clear()
    fake_prior.hold()
    panel.run()
    qtbot.waitUntil(fake_prior.entered.is_set, timeout=60_000)
    assert threading.get_ident() not in readers | fake_prior.threads
    ticks = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(panel._bar.visible))
    timer.start(1)
    qtbot.waitUntil(lambda: len(ticks) > 5)
    timer.stop()
    assert panel.running
    fake_prior.release()
    finish(qtbot, panel)


def test_the_end_of_a_run_is_told(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    ends = []
    panel.finished.connect(ends.append)
    panel.run()
    finish(qtbot, panel)
    assert ends == [viewer.layers["step deblurred"]]
    fake_prior.hold()
    panel.run()
    panel.cancel()
    fake_prior.release()
    finish(qtbot, panel)
    assert ends[1:] == [None]


def test_second_run_is_refused_politely(qtbot, viewer, open_panel, fake_prior, grey_image):
    from napari.utils.notifications import notification_manager

    viewer.add_image(grey_image)
    panel = open_panel()
    fake_prior.hold()
    panel.run()
    assert not panel._run_button.enabled
    panel.run()
    assert "running" in notification_manager.records[-1].message
    fake_prior.release()
    finish(qtbot, panel)
    assert len(viewer.layers) == 2


def test_stop_keeps_the_estimate(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    fake_prior.hold()
    panel.run()
    qtbot.waitUntil(fake_prior.entered.is_set, timeout=60_000)
    panel._stop_button.native.click()
    panel.refresh()
    assert not panel._stop_button.enabled
    fake_prior.release()
    finish(qtbot, panel)
    assert viewer.layers["step deblurred"].metadata["napari-dmsp"]["evaluations"] == 1
    assert "Stopped: the image is kept as it was after 1 of 3 evaluations." in report(panel)


def test_cancel_leaves_no_layer(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image)
    panel = open_panel()
    fake_prior.hold(after=1)
    panel.run()
    # The estimate so far is shown.
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    # A third of the bar.
    assert panel._bar.value == round(panel._bar.max / 3)
    assert panel._bar.native.format().startswith("1 of 3, ")
    assert report(panel) == "Restoring …"
    panel._cancel_button.native.click()
    fake_prior.release()
    finish(qtbot, panel)
    assert len(viewer.layers) == 1
    assert report(panel) == "Cancelled."
    assert panel._run_button.enabled


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("something odd"), "something odd"),
        (RuntimeError("not enough memory: you tried to allocate 8 GB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (KeyError("weight"), "KeyError"),
    ],
)
def test_errors_are_shown_and_free_the_button(
    qtbot, viewer, open_panel, fake_prior, grey_image, error, message
):
    viewer.add_image(grey_image)
    panel = open_panel()
    fake_prior.error = error
    panel.run()
    finish(qtbot, panel)
    assert message in report(panel)
    assert panel._run_button.enabled
    assert not panel._bar.visible
    assert len(viewer.layers) == 1


def test_errors_of_the_core_are_shown(qtbot, viewer, open_panel):
    viewer.add_image(np.full((40, 40), 7, np.uint8))
    panel = open_panel()
    panel.run()
    finish(qtbot, panel)
    assert "the image is constant" in report(panel)


def test_both_layers_deleted_during_the_run(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    fake_prior.hold()
    panel.run()
    qtbot.waitUntil(fake_prior.entered.is_set, timeout=60_000)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: panel._plan.value.startswith("Open an image"))
    fake_prior.release()
    finish(qtbot, panel)
    assert [layer.name for layer in viewer.layers] == ["step deblurred"]


def test_live_layer_deleted_during_the_run(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    fake_prior.hold(after=1)
    panel.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    del viewer.layers["step deblurred"]
    fake_prior.release()
    finish(qtbot, panel)
    assert "step deblurred" in viewer.layers


def test_closing_the_panel_cancels(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image)
    panel = open_panel()
    fake_prior.hold()
    panel.run()
    qtbot.waitUntil(fake_prior.entered.is_set, timeout=60_000)
    viewer.window.remove_dock_widget(panel.native)
    fake_prior.release()
    finish(qtbot, panel)
    assert len(viewer.layers) == 1
    # What the panel listened to may change without it.
    viewer.add_image(np.stack([grey_image] * 3))
    viewer.dims.set_current_step(0, 2)


def test_closing_the_viewer_cancels(qtbot, viewer, open_panel, fake_prior, grey_image):
    viewer.add_image(grey_image)
    panel = open_panel()
    runner = panel._runner
    fake_prior.hold()
    panel.run()
    qtbot.waitUntil(fake_prior.entered.is_set, timeout=60_000)
    del panel
    viewer.close()
    qtbot.waitUntil(lambda: runner.closed)
    fake_prior.release()
    qtbot.waitUntil(lambda: not runner.running, timeout=60_000)


def test_reasons_why_run_is_disabled(viewer, open_panel, grey_image, rgb_image):
    panel = open_panel()
    assert not panel._run_button.enabled
    assert panel._plan.value.startswith("Open an image")
    viewer.add_image(grey_image, name="step")
    assert panel._run_button.enabled
    panel.inputs.psf.value = "layer"
    assert not panel._run_button.enabled
    assert "PSF" in panel._plan.value
    other = viewer.add_image(rgb_image, name="other")
    panel.inputs.psf_layer.value = other
    assert "grey image, 2-D or 3-D" in panel._plan.value
    viewer.layers.remove("other")
    viewer.add_image(gaussian_psf(1)[None], name="psf")
    assert panel._run_button.enabled
    panel.inputs.noise.value = "much"
    assert "Noise σ much is not" in panel._plan.value
    panel.inputs.noise.value = ""
    panel.advanced.evaluations.value = "2.5"
    assert "whole number" in panel._plan.value
    panel.run()
    assert not panel.running


def test_sample_is_proposed_as_it_should_be(viewer, open_panel):
    panel = open_panel()
    viewer.open_sample("napari-dmsp", "nuclei")
    assert panel.image.name == "nuclei"
    assert panel.inputs.psf_layer.value.name == "nuclei PSF"
