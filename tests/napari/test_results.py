"""What becomes of a run: regions, planes, kernels, metadata, and the script that repeats it."""

from __future__ import annotations

import resource
import sys
import threading
from itertools import count

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtWidgets import QApplication

from napari_dmsp._viewer.result import Result
from napari_dmsp.core.prior import Prior
from napari_dmsp.core.psf import gaussian_psf, motion_psf


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def restore(qtbot, viewer):
    """Open the panel of a task, choose, press Run or Preview, and wait for the end."""

    def restored(title, *, preview=False, advanced=None, **inputs):
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", title)
        for name, value in ({"evaluations": "2", "device": "cpu"} | (advanced or {})).items():
            panel.advanced[name].value = value
        for name, value in inputs.items():
            panel.inputs[name].value = value
        (panel.preview if preview else panel.run)()
        qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
        return panel

    return restored


def repeated(viewer, panel):
    """Run the script of the panel's last result."""
    panel.copy_script()
    names = {"viewer": viewer}
    exec(QApplication.clipboard().text(), names)
    return names["restored"]


def test_preview_restores_the_middle_of_what_is_visible(viewer, restore, fake_prior, qtbot):
    image = np.random.default_rng(0).integers(0, 255, (900, 1100), dtype=np.uint8)
    layer = viewer.add_image(image, name="large", scale=(2, 2))
    layer.corner_pixels = np.array([[100, 200], [799, 899]])
    restore("Deblur", preview=True)
    result = viewer.layers["large preview"]
    assert result.data.shape == (512, 512)
    middle = layer.data_to_world((449.5, 549.5))
    assert_allclose(result.data_to_world((255.5, 255.5)), middle, atol=2.1)


def test_the_next_preview_takes_the_layer_of_the_last(viewer, restore, fake_prior, qtbot):
    def preview():
        panel.preview()
        qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
        return panel._preview_layer

    image = np.random.default_rng(0).integers(0, 255, (90, 110), dtype=np.uint8)
    layer = viewer.add_image(image, name="small", scale=(2, 2))
    # Not a preview, though called one.
    viewer.add_image(image, name="small preview", visible=False)
    panel = restore("Deblur", preview=True, image=layer)
    first = panel._preview_layer
    assert first.name == "small preview [1]"
    first.name, first.visible = "mine", False
    layer.corner_pixels = np.array([[10, 20], [49, 69]])
    assert preview() is first
    assert first.visible
    assert first.data.shape == (40, 50)
    assert_allclose(first.translate, (20, 40))
    assert first.metadata["napari-dmsp"]["region"] == [[10, 50], [20, 70]]
    # Another type takes another layer, and so does one that was removed.
    panel.advanced.output.value = "same as input"
    second = preview()
    assert second is not first
    assert len(viewer.layers) == 3
    viewer.layers.remove(second)
    assert preview() is viewer.layers[-1]
    assert len(viewer.layers) == 3


@pytest.mark.parametrize("what", ["nothing", "layer removed", "viewer closed"])
def test_a_new_layer_is_made_in_turns(viewer, restore, fake_prior, grey_image, qtbot, what):
    viewer.add_image(grey_image, name="step")
    panel = restore("Deblur")
    assert viewer.layers["step deblurred"].visible
    call = panel._make_call(preview=False)
    result = Result(viewer, call, "other", panel._runner.in_turns)
    result.show(0, grey_image.astype(np.float32))
    layer = result.layer
    assert layer not in viewer.layers
    if what == "viewer closed":
        viewer.close()
        qtbot.wait(100)
        assert layer not in viewer.layers
        return
    between = []

    def look():
        between.append((layer in viewer.layers, layer.visible))
        if what == "layer removed":
            viewer.layers.remove(layer)

    # A turn after that of the layer: from outside, both may have passed before one can look.
    panel._runner._steps.insert(1, look)
    qtbot.waitUntil(lambda: layer.visible)
    assert between == [(True, False)]
    assert len(viewer.layers) == (2 if what == "layer removed" else 3)


def test_region_of_a_shape_and_its_script(viewer, restore, grey_image):
    viewer.add_image(grey_image, name="step")
    shapes = viewer.add_shapes([[[30, 5], [30, 30], [50, 30], [50, 5]]], name="here")
    panel = restore("Deblur", region=shapes, sigma=1.0)
    result = viewer.layers["step deblurred"]
    assert result.data.shape == (21, 26)
    assert_allclose(result.translate, (30, 5))
    about = result.metadata["napari-dmsp"]
    assert about["region"] == [[30, 51], [5, 31]]
    assert_array_equal(repeated(viewer, panel), result.data)


def test_every_plane_with_its_own_noise(viewer, restore, fake_prior, grey_image):
    rng = np.random.default_rng(0)
    stack = np.stack([grey_image + rng.normal(0, s, grey_image.shape) for s in (0, 20)])
    viewer.add_image(stack[:, None], name="stack", axis_labels=("t", "z", "y", "x"))
    panel = restore("Deblur", planes=(0,), sigma=1.0)
    assert "2 planes" in panel._plan.value
    result = viewer.layers["stack deblurred"]
    assert result.data.shape == (2, 1, *grey_image.shape)
    assert np.ptp(result.data, axis=(2, 3)).min() > 50
    about = result.metadata["napari-dmsp"]
    assert about["planes"] == [[0, 0], [1, 0]]
    assert about["noise_sigma"][1] > 1.5 * about["noise_sigma"][0]
    # What differs is said for every plane, what does not once.
    backgrounds = about["settings"]["background"]
    assert backgrounds[1] < backgrounds[0]
    assert about["settings"]["task"] == "deblur"
    assert about["stopped"] is False


def test_script_of_a_stack_in_another_order(viewer, restore, grey_image):
    stack = np.stack([grey_image, grey_image[::-1], 255 - grey_image]).transpose(1, 0, 2)
    viewer.add_image(stack, name="stack")
    viewer.dims.order = (1, 0, 2)
    panel = restore("Deblur", planes=(1,), sigma=1.0, noise="3")
    result = viewer.layers["stack deblurred"]
    assert result.data.shape == stack.shape
    assert_array_equal(repeated(viewer, panel), result.data)


def test_axes_can_be_chosen(viewer, restore, grey_image, qtbot):
    stack = np.stack([grey_image, grey_image[::-1], 255 - grey_image]).transpose(1, 0, 2)[:, None]
    viewer.add_image(grey_image, name="flat")
    panel = restore("Deblur")
    assert panel.advanced.axes.native.isHidden()
    assert panel.advanced.channels.native.isHidden()
    layer = viewer.add_image(
        stack, name="stack", scale=(2, 9, 3, 4), axis_labels=("y", "t", "c", "x"), rgb=False
    )
    panel.inputs.image.value = layer
    assert not panel.advanced.axes.native.isHidden()
    assert panel._plan.value.startswith("Planes in axes c, x: 3 ×")
    assert panel.advanced.axes.choices == ((), (0, 3))
    assert panel.advanced.channels.native.isHidden()
    panel.advanced.axes.value = (0, 3)
    assert panel.advanced.channels.choices == ((), (2,))
    assert panel.inputs.planes.choices == ((), (2,))
    assert panel._plan.value.startswith("Planes in axes y, x: 64 × 56 grey")
    panel.inputs.planes.value = (2,)
    for channels, text in ((), "3 planes"), ((2,), "y, x, colours along c: 64 × 56 colour"):
        panel.advanced.channels.value = channels
        assert text in panel._plan.value
        assert panel.inputs.planes.native.isHidden() == bool(channels)
        panel.run()
        qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
        result = viewer.layers[-1]
        assert result.data.shape == stack.shape
        assert not result.rgb
        assert_allclose(result.extent.world, layer.extent.world)
        assert result.axis_labels == layer.axis_labels
        settings = result.metadata["napari-dmsp"]["settings"]
        assert settings["channel_axis"] == (-1 if channels else None)
        assert_array_equal(repeated(viewer, panel), result.data)
    viewer.layers["stack"].data = np.zeros((64, 9, 3, 56))
    panel.reset_choices()
    assert sorted(panel.advanced.axes.choices) == [(), (0, 1), (0, 3), (1, 3)]
    # What another image does not have is not chosen any more.
    panel.inputs.image.value = viewer.layers["flat"]
    assert panel.advanced.axes.value == panel.advanced.channels.value == ()
    assert panel.advanced.axes.native.isHidden()


def test_script_of_a_run_that_was_stopped(monkeypatch, qtbot, viewer, grey_image):
    def denoise_and_stop(prior, x, sigma, denoise=Prior.__call__):
        if next(calls) == 10:
            panel._runner.stop()
        return denoise(prior, x, sigma)

    calls = count(1)
    monkeypatch.setattr(Prior, "__call__", denoise_and_stop)
    viewer.add_image(np.stack([grey_image] * 3), name="stack")
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    panel.advanced.device.value, panel.advanced.evaluations.value = "cpu", "8"
    panel.inputs.planes.value = (0,)
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    result = viewer.layers["stack deblurred"]
    about = result.metadata["napari-dmsp"]
    assert about["stopped"]
    assert about["evaluations"] == [8, 2]
    assert_array_equal(repeated(viewer, panel), result.data)


@pytest.mark.parametrize("output", ["float32", "same as input"])
def test_script_of_colours_and_types(viewer, restore, rgb_image, grey_image, output):
    viewer.add_image(rgb_image, name="photo")
    psf = viewer.add_image(motion_psf(4, 30)[None], name="psf", visible=False)
    panel = restore("Deblur", psf_layer=psf)
    assert_array_equal(repeated(viewer, panel), viewer.layers["photo deblurred"].data)
    grey = viewer.add_image(grey_image.astype(np.uint16) * 100, name="step")
    panel = restore("Super-resolution", image=grey, scale=1.5, advanced={"output": output})
    result = viewer.layers["step enlarged"]
    assert result.data.dtype == ("float32" if output == "float32" else "uint16")
    assert_array_equal(repeated(viewer, panel), result.data)


@pytest.mark.parametrize("developed", [False, True])
def test_raw_mosaic_becomes_colours(viewer, restore, rgb_image, developed):
    image = rgb_image.astype(np.uint16) * 3 + 64
    mosaic = image[..., 0].copy()
    mosaic[0::2, 1::2], mosaic[1::2, 0::2] = image[0::2, 1::2, 1], image[1::2, 0::2, 1]
    mosaic[1::2, 1::2] = image[1::2, 1::2, 2]
    viewer.add_image(mosaic, name="raw", colormap="viridis")
    levels = {"background": "64", "evaluations": "6", "white": "829"} | {
        "linear": False,
        "developed": developed,
    }
    panel = restore("Demosaic", advanced=levels)
    result = viewer.layers["raw demosaiced"]
    assert result.rgb
    assert result.data.shape == image.shape
    error = np.abs(result.data[10:-10, 10:-10] - (image[10:-10, 10:-10] - 64.0) / 765)
    assert error.mean() < 0.03
    assert_array_equal(repeated(viewer, panel), result.data)


def test_a_mosaic_has_no_colours(viewer, restore, rgb_image):
    viewer.add_image(rgb_image, name="photo")
    panel = restore("Demosaic")
    assert panel._plan.value == "'photo' has colours already; a mosaic is grey."
    assert not panel._run_button.enabled


def test_a_constant_plane_is_kept(viewer, restore, grey_image):
    viewer.add_image(np.stack([grey_image, np.full_like(grey_image, 7)]), name="stack")
    panel = restore("Deblur", planes=(0,))
    assert "Plane 2 is constant, and kept." in panel._report.value
    result = viewer.layers["stack deblurred"]
    about = result.metadata["napari-dmsp"]
    assert about["planes"] == [[0], [1]]
    assert about["kept"] == [[1]]
    assert (result.data[1] == 7).all()
    assert_array_equal(repeated(viewer, panel), result.data)


def test_a_plane_that_cannot_be_restored_is_transparent(viewer, restore, fake_prior, grey_image):
    stack = np.stack([grey_image, grey_image]).astype(np.float32)
    stack[1, 3, 4] = np.nan
    viewer.add_image(stack, name="stack", contrast_limits=(0, 255))
    panel = restore("Deblur", planes=(0,))
    assert "Plane 2 could not be restored: the image has 1 NaN" in panel._report.value
    result = viewer.layers["stack deblurred"]
    assert result.metadata["napari-dmsp"]["planes"] == [[0]]
    assert np.isnan(result.data[1]).all()


def test_gaussian_in_micrometres(viewer, restore, fake_prior, grey_image):
    viewer.add_image(grey_image, name="bare")
    panel = restore("Deblur", sigma=0.2, unit="µm")
    assert "'bare' has no pixel size" in panel._plan.value
    layer = viewer.add_image(grey_image, name="cell", scale=(100, 200), units=("nm", "nm"))
    panel.inputs.image.value = layer
    assert panel.psf().sizes == ((2, 1),)


def test_motion_drawn_on_the_image(viewer, restore, fake_prior, grey_image):
    viewer.add_image(grey_image, name="step", scale=(0.5, 0.5))
    panel = restore("Deblur", psf="drawn line")
    assert "Draw the path" in panel._plan.value
    viewer.add_shapes([[[10, 10], [8.5, 12]]], shape_type="line", name="path")
    assert panel.inputs.line.value is None
    panel.inputs.line.value = viewer.layers["path"]
    assert panel.psf().function == "motion_psf"
    assert_allclose(panel.psf().sizes, (5, 36.87))


def test_the_psf_found_arrives_and_can_be_chosen(qtbot, viewer, restore, fake_prior):
    truth = np.zeros((64, 64))
    truth[20:44, 16:40] = 200
    image = truth + np.random.default_rng(0).normal(0, 2, truth.shape)
    viewer.add_image(np.stack([image] * 2), name="step")
    panel = restore("Deblur", psf="unknown")
    psf = viewer.layers["step deblurred PSF"]
    assert_allclose(psf.data.sum(), 1, rtol=1e-5)
    assert not psf.visible
    # A picture of it is beside the report, and goes with that.
    picture = panel._psf_picture.native
    assert not picture.isHidden()
    sides = " × ".join(map(str, psf.data.shape))
    assert panel._report.value.endswith(f"The PSF that was found, {sides} pixels:")
    zoom = picture.pixmap().width() // psf.data.shape[1]
    assert 48 < picture.pixmap().width() == zoom * psf.data.shape[1] <= 96
    pixels = picture.pixmap().toImage()
    at = np.array(np.unravel_index(psf.data.argmax(), psf.data.shape)) * zoom
    assert pixels.pixelColor(int(at[1]), int(at[0])).red() == 255
    panel.inputs.planes.value = (0,)
    assert picture.isHidden()
    panel.inputs.psf.value = "layer"
    panel.inputs.psf_layer.value = psf
    assert panel._run_button.enabled
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    assert viewer.layers[-1].data.shape == (2, 64, 64)


def test_dask_and_resolutions(viewer, restore, fake_prior, grey_image):
    da = pytest.importorskip("dask.array")
    stack = da.from_array(np.stack([grey_image, grey_image[::-1]]), chunks=(1, -1, -1))
    viewer.add_image([stack, stack[:, ::2, ::2]], multiscale=True, contrast_limits=(0, 255))
    viewer.layers[0].name = "lazy"
    restore("Deblur", planes=(0,), sigma=0.3)
    result = viewer.layers["lazy deblurred"]
    assert not result.multiscale
    assert result.data.shape == (2, *grey_image.shape)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_many_runs_leave_nothing_behind(qtbot, viewer, fake_prior, grey_image):
    layer = viewer.add_image(grey_image[:16, :16], name="step")
    viewer.add_image(gaussian_psf(0.5), name="psf", visible=False)
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    panel.advanced.evaluations.value = "1"
    panel.advanced.device.value = "cpu"
    levels = []
    for number in range(30):
        panel.run()
        qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
        viewer.layers.remove(viewer.layers[-1])
        if number in (11, 29):
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            levels.append((threading.active_count(), memory))
    assert panel.image is layer
    (threads, before), (threads_after, after) = levels
    assert threads_after <= threads
    # In kilobytes; in bytes on macOS.
    assert after - before < 20_000 * (1024 if sys.platform == "darwin" else 1)


def test_error_map_is_a_hidden_layer_in_the_place_of_the_result(viewer, restore, fake_prior):
    planes = np.random.default_rng(0).random((3, 40, 48)).astype(np.float32)
    layer = viewer.add_image(planes, name="stack", scale=(3, 2, 2), translate=(0, 5, 5))
    panel = restore("Deblur", error_map=True, planes=(0,))
    result, errors = viewer.layers["stack deblurred"], viewer.layers["stack deblurred error"]
    assert not errors.visible
    assert errors.data.shape == result.data.shape == planes.shape
    assert errors.data.dtype == np.float32
    assert np.isfinite(errors.data).all()
    assert_array_equal(errors.scale, result.scale)
    assert_array_equal(errors.translate, result.translate)
    assert viewer.layers.selection.active is not errors
    assert "uncertainty=True" in panel.script
    assert layer.data is planes


def test_error_map_of_colours_is_grey(viewer, restore, fake_prior):
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    viewer.add_image(image, name="photo", rgb=True)
    restore("Super-resolution", error_map=True)
    errors = viewer.layers["photo enlarged error"]
    assert errors.data.shape == (80, 96)
    assert not errors.rgb
    assert_array_equal(errors.scale, viewer.layers["photo enlarged"].scale)
    viewer.add_image(image[..., 0].astype(float), name="raw")
    restore("Demosaic", error_map=True)
    assert viewer.layers["raw demosaiced error"].data.shape == (40, 48)
