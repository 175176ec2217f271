"""What users do at the wrong moment, or type into the wrong field, in the real viewer."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from qtpy.QtWidgets import QApplication
from superqt import QCollapsible

from napari_dmsp import deblur, superres
from napari_dmsp.core.job import Job
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.settings import Photons


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer):
    def opened(title="Deblur", **inputs):
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", title)
        panel.advanced.evaluations.value = "3"
        panel.advanced.device.value = "cpu"
        for name, value in inputs.items():
            panel.inputs[name].value = value
        return panel

    return opened


def finish(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)


def repeated(viewer, panel):
    panel.copy_script()
    names = {"viewer": viewer}
    exec(QApplication.clipboard().text(), names)
    return names["restored"]


def test_the_gui_thread_never_imports_torch():
    """Opening samples takes no torch; opening panels loads it in another thread."""
    code = """
import os, sys, threading
os.environ["QT_QPA_PLATFORM"] = "offscreen"
found = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            found.append(threading.current_thread() is threading.main_thread())
sys.meta_path.insert(0, Finder())
from napari._qt.qt_event_loop import get_qapp
from napari.components import ViewerModel
app = get_qapp()
from napari_dmsp._viewer import samples
viewer = ViewerModel()
for make in (samples.nuclei, samples.colour_photograph, samples.grey_photograph):
    for data, options, kind in make():
        viewer.add_image(data, **options)
assert not found and "torch" not in sys.modules
from napari_dmsp._viewer import train
from napari_dmsp._viewer.panel import panel_of
from napari_dmsp.settings import TASKS
panels = [*map(panel_of, TASKS), train.TrainPanel]
panels = [panel(viewer) for panel in panels]
panels[0].inputs.sigma.value = "3"
for thread in threading.enumerate():
    if thread.name == "napari-dmsp loads torch":
        thread.join()
assert found == [False], found
assert "torch" in sys.modules
panels[0].refresh()
assert "on the best device" not in panels[0]._plan.value, panels[0]._plan.value
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_the_result_is_removed_while_the_psf_is_sought(qtbot, viewer, fake_prior, open_panel):
    truth = np.zeros((64, 64))
    truth[20:44, 16:40] = 200
    viewer.add_image(truth + np.random.default_rng(0).normal(0, 2, truth.shape), name="step")
    panel = open_panel(psf="unknown")
    fake_prior.hold(after=1)
    panel.run()
    qtbot.waitUntil(lambda: "step deblurred" in viewer.layers, timeout=60_000)
    assert panel._report.value == "Looking whether it is blurred …"
    del viewer.layers["step deblurred"]
    fake_prior.release()
    finish(qtbot, panel)
    assert viewer.layers["step deblurred"].data.shape == truth.shape
    assert_allclose(viewer.layers["step deblurred PSF"].data.sum(), 1, rtol=1e-5)
    assert viewer.layers.selection.active is viewer.layers["step deblurred"]


def test_planes_that_were_shown_survive_a_removed_layer(
    qtbot, viewer, fake_prior, open_panel, grey_image
):
    viewer.add_image(np.stack([grey_image] * 3), name="stack")
    panel = open_panel(planes=(0,))
    # Two planes of three evaluations are done then.
    fake_prior.hold(after=6)
    panel.run()
    qtbot.waitUntil(lambda: fake_prior.entered.is_set() and len(panel._done) == 2, timeout=60_000)
    result = viewer.layers["stack deblurred"]
    assert np.isnan(result.data).all((1, 2)).tolist() == [False, False, True]
    viewer.layers.remove(result)
    fake_prior.release()
    finish(qtbot, panel)
    assert not np.isnan(viewer.layers["stack deblurred"].data).any()


def test_the_result_is_given_other_data_during_the_run(
    qtbot, viewer, fake_prior, open_panel, grey_image
):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    fake_prior.hold(after=1)
    panel.run()
    qtbot.waitUntil(lambda: "step deblurred" in viewer.layers, timeout=60_000)
    mine = viewer.layers["step deblurred"]
    mine.data = np.zeros((4, 5))
    fake_prior.release()
    finish(qtbot, panel)
    assert mine.data.shape == (4, 5)
    assert viewer.layers[-1].data.shape == grey_image.shape


def test_layers_renamed_during_the_run(qtbot, viewer, open_panel, grey_image):
    viewer.add_image(grey_image, name="step")
    viewer.add_image(gaussian_psf(1.0), name="my PSF", visible=False)
    panel = open_panel()
    panel.run()
    viewer.layers["step"].name, viewer.layers["my PSF"].name = "renamed", "bead"
    finish(qtbot, panel)
    result = viewer.layers["step deblurred"]
    assert_array_equal(repeated(viewer, panel), result.data)
    assert panel.image is viewer.layers["renamed"]
    assert panel.inputs.psf_layer.value is viewer.layers["bead"]


def test_what_lost_its_layer_stays_empty(viewer, open_panel, grey_image):
    square = [[[10, 10], [10, 45], [50, 45], [50, 10]]]
    viewer.add_image(grey_image, name="step")
    viewer.add_image(grey_image, name="other")
    psfs = [viewer.add_image(gaussian_psf(s), name=f"PSF {s}", visible=False) for s in (1, 2)]
    panel = open_panel(image=viewer.layers["step"])
    assert panel.inputs.psf_layer.value is psfs[0]
    psfs[0].name = "zero"
    assert panel.inputs.psf_layer.value is psfs[0]
    viewer.layers.remove(psfs[0])
    # Neither the other PSF nor one of the same name takes its place.
    viewer.add_image(gaussian_psf(3), name="zero", visible=False)
    assert panel.inputs.psf_layer.value is None
    assert panel._plan.value == "Choose the PSF layer, or another kind of PSF."
    assert not panel._run_button.enabled
    panel.inputs.psf_layer.value = psfs[1]
    shapes, labels = viewer.add_shapes(square), viewer.add_labels(np.zeros((72, 64), int))
    panel.inputs.region.value, panel.advanced.mask.value = shapes, labels
    assert panel._run_button.enabled
    viewer.layers.remove(shapes)
    assert panel._plan.value == "Choose a Region: its layer was removed."
    panel.inputs.region.value = "whole image"
    viewer.layers.remove(labels)
    assert panel._plan.value == "Choose a Mask: its layer was removed."
    panel.advanced.mask.value = "none"
    viewer.layers.remove("step")
    assert panel.image is None
    assert panel._plan.value == "Choose an image."
    viewer.layers.clear()
    assert panel._plan.value.startswith("Open an image")
    viewer.add_image(grey_image, name="next")
    assert panel.image is viewer.layers["next"]


def test_stopped_planes_are_told_and_the_others_are_transparent(
    qtbot, viewer, fake_prior, open_panel, rgb_image
):
    """In colour, whose integers have no NaN: a fourth sample says what is not done."""
    viewer.add_image(np.stack([rgb_image] * 4), name="film")
    panel = open_panel(planes=(0,))
    fake_prior.hold(after=4)
    panel.run()
    qtbot.waitUntil(lambda: fake_prior.entered.is_set() and len(panel._done) == 1, timeout=60_000)
    panel.stop()
    fake_prior.release()
    finish(qtbot, panel)
    text = panel._report.value
    assert "Stopped: plane 2 is kept as it was after 2 of 3 evaluations; plane 1 is whole." in text
    assert "Planes 3 to 4 are not done, and transparent." in text
    data = viewer.layers["film deblurred"].data
    assert data.dtype == np.uint8
    assert data.shape == (4, *rgb_image.shape[:2], 4)
    assert data[..., 3].min((1, 2)).tolist() == data[..., 3].max((1, 2)).tolist()
    assert data[:, 0, 0, 3].tolist() == [255, 255, 0, 0]
    assert viewer.layers["film deblurred"].metadata["napari-dmsp"]["planes"] == [[0], [1]]


def test_a_film_in_colour_that_is_done_has_no_fourth_sample(qtbot, viewer, open_panel, rgb_image):
    viewer.add_image(np.stack([rgb_image] * 2), name="film")
    panel = open_panel(planes=(0,), sigma=1)
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["film deblurred"]
    assert result.data.shape == (2, *rgb_image.shape)
    assert_array_equal(repeated(viewer, panel), result.data)


def test_the_width_of_a_gaussian_keeps_its_size(viewer, open_panel, grey_image):
    layer = viewer.add_image(grey_image, scale=(65, 65), units=("nm", "nm"), name="cell")
    panel = open_panel(sigma=2)
    panel.inputs.unit.value = "µm"
    assert float(panel.inputs.sigma.value) == pytest.approx(0.13)
    assert panel.psf().sizes == ((2, 2),)
    panel.inputs.unit.value = "px"
    assert float(panel.inputs.sigma.value) == 2
    # In pixels of the result, which are half as large.
    panel = open_panel("Super-resolution", psf="Gaussian", sigma=2, image=layer)
    panel.inputs.unit.value = "µm"
    assert float(panel.inputs.sigma.value) == pytest.approx(0.065)
    # Without a size of pixels, the number stays, and the panel says why it cannot be used.
    viewer.add_image(grey_image, name="bare")
    panel.inputs.image.value = viewer.layers["bare"]
    panel.inputs.unit.value = "px"
    panel.inputs.unit.value = "µm"
    assert "'bare' has no pixel size" in panel._plan.value


def test_stale_lines_go(qtbot, viewer, fake_prior, open_panel, grey_image):
    layer = viewer.add_image(grey_image, name="step")
    other = viewer.add_image(grey_image[:40], name="other")
    panel = open_panel(image=layer)
    panel.run()
    finish(qtbot, panel)
    assert "3 evaluations" in panel._report.value
    viewer.dims.ndisplay = 2
    panel.refresh()
    assert "3 evaluations" in panel._report.value
    panel.inputs.noise.value = "2"
    assert panel._report.value == ""
    panel.run()
    finish(qtbot, panel)
    panel.inputs.image.value = other
    assert panel._report.value == ""
    assert panel._plan.value.startswith("40 × 56")
    other.data = grey_image[:30]
    assert panel._plan.value.startswith("30 × 56")
    panel.inputs.region.value = viewer.add_shapes(ndim=2, name="drawn")
    assert panel._plan.value == "Nothing is drawn in 'drawn'."
    viewer.layers["drawn"].add_rectangles([[2, 3], [2, 22], [11, 22], [11, 3]])
    assert panel._plan.value.startswith("10 × 20")


def test_a_measured_speed_is_that_of_its_device(qtbot, viewer, fake_prior, open_panel, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    panel.run()
    finish(qtbot, panel)
    assert set(panel._measured) == {("cpu", 2)}
    panel._measured["cpu", 2] = 1e9
    panel.refresh()
    assert "days" in panel._plan.value
    panel.advanced.device.value = "cuda"
    assert "days" not in panel._plan.value


def test_a_slider_beyond_the_image_is_told(viewer, open_panel, grey_image):
    short = viewer.add_image(np.stack([grey_image] * 2), axis_labels=("t", "y", "x"))
    viewer.add_image(np.stack([grey_image] * 9), axis_labels=("t", "y", "x"))
    panel = open_panel(image=short)
    viewer.dims.set_current_step(0, 1)
    assert "slider" not in panel._plan.value
    viewer.dims.set_current_step(0, 7)
    told = "The slider is beyond the image: its last plane along t, number 2, is taken."
    assert told in panel._plan.value
    panel.inputs.planes.value = (0,)
    assert "slider" not in panel._plan.value


def test_the_advice_for_nan_can_be_followed(qtbot, viewer, open_panel, grey_image):
    broken = grey_image.astype(np.float32)
    broken[5, 6] = np.nan
    viewer.add_image(broken, name="broken", contrast_limits=(0, 255))
    panel = open_panel(sigma=1)
    panel.run()
    finish(qtbot, panel)
    assert "with 'NaN and saturated pixels' as Mask" in panel._report.value
    assert "mask=" not in panel._report.value
    texts = [text for text, _ in panel._masks()]
    panel.advanced.mask.value = dict(panel._masks())[texts[1]]
    assert texts[1] == "NaN and saturated pixels"
    panel.run()
    finish(qtbot, panel)
    assert np.isfinite(viewer.layers["broken deblurred"].data).all()


@pytest.mark.parametrize(
    ("labels", "units", "offered"),
    [
        (("t", "y", "x"), None, False),
        (("z", "y", "x"), None, False),
        (("c", "y", "x"), None, True),
        (("Channel", "y", "x"), None, True),
        (None, None, True),
        (None, ("s", "um", "um"), False),
        (("c", "y", "x"), ("um", "um", "um"), False),
    ],
)
def test_only_channels_are_offered_as_colours(
    viewer, open_panel, grey_image, labels, units, offered
):
    viewer.add_image(np.stack([grey_image] * 3), axis_labels=labels, units=units)
    panel = open_panel()
    assert panel.advanced.channels.choices == (((), (0,)) if offered else ((),))


def test_colours_in_a_3d_view(qtbot, viewer, fake_prior, open_panel, rgb_image):
    viewer.add_image(rgb_image, name="photo")
    viewer.add_image(np.zeros((3, 8, 8)), name="volume")
    viewer.dims.ndisplay = 3
    panel = open_panel(image=viewer.layers["photo"], sigma=1)
    panel.run()
    finish(qtbot, panel)
    assert viewer.layers["photo deblurred"].visible


def test_a_unit_without_an_image(viewer, open_panel, grey_image):
    viewer.add_image(grey_image, scale=(65, 65), units=("nm", "nm"))
    panel = open_panel(sigma=2)
    viewer.layers.clear()
    panel.inputs.unit.value = "µm"
    assert panel._plan.value.startswith("Open an image")
    assert float(panel.inputs.sigma.value) == 2


WRONG = {
    "noise": ["-1", "much", "nan", "inf", "1e999", "gain=", "gain=-2", "2,5", "1 2"],
    "evaluations": ["0", "-3", "2.5", "1e3", "9" * 400, "9" * 5000],
    "background": ["nan", "-inf", "dark"],
    "seed": ["-1", "1.5", "9" * 30, ""],
    "tile": ["wide", "-5", "2.5", "100"],
    "sigma": ["0", "-1", "nan", "1e9", "", "wide"],
    "scale": ["1", "0", "-2", "9", "nan", "inf", "", "twice"],
    "psf_size": ["-3", "1e2", "x"],
    "white": ["bright", "nan"],
    "length": ["0", "-5", "1e9", "nan"],
    "angle": ["inf", "north"],
    "pattern": ["RGBG", "", "0 1; 2"],
}
PLACES = {
    "scale": ("Super-resolution", {}),
    "white": ("Demosaic", {}),
    "pattern": ("Demosaic", {}),
    "psf_size": ("Deblur", {"psf": "unknown"}),
    "length": ("Deblur", {"psf": "motion"}),
    "angle": ("Deblur", {"psf": "motion"}),
}
PYTHON_WORDS = ("noise_sigma", "iterations", "psf_size", "scale=", "sigma=", "=", "None")


@pytest.mark.parametrize("field", WRONG)
def test_bad_values_give_a_sentence(qtbot, viewer, fake_prior, open_panel, grey_image, field):
    viewer.add_image(grey_image, name="step")
    title, inputs = PLACES.get(field, ("Deblur", {}))
    panel = open_panel(title, **inputs)
    part = panel.inputs if field in [widget.name for widget in panel.inputs] else panel.advanced
    label = part[field].label
    for value in WRONG[field]:
        part[field].value = value
        said = panel._plan.value
        if panel._run_button.enabled:
            panel.run()
            finish(qtbot, panel)
            said = panel._report.value
        assert "evaluations in" not in said, value
        assert label.split()[0].lower() in said.lower(), (value, said)
        words = said.replace("gain=G,offset=O,read=R", "").replace(value, "")
        assert not [word for word in PYTHON_WORDS if value and word in words], said
        assert len(viewer.layers) == 1


def test_warnings_are_shown_and_kept(
    monkeypatch, qtbot, viewer, fake_prior, open_panel, grey_image
):
    def result(job, state, seconds, of=Job.result):
        return replace(of(job, state, seconds), warnings=("The PSF touches its frame.",))

    monkeypatch.setattr(Job, "result", result)
    viewer.add_image(np.stack([grey_image] * 2), name="stack")
    panel = open_panel(planes=(0,))
    panel.run()
    finish(qtbot, panel)
    assert panel._report.value.splitlines()[1:] == ["The PSF touches its frame."]
    about = viewer.layers["stack deblurred"].metadata["napari-dmsp"]
    assert about["warnings"] == ["The PSF touches its frame."]


def test_noise_that_grows_with_light(qtbot, viewer, open_panel, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel(sigma=1, noise="gain=0.5, offset=10, read=2")
    panel.run()
    finish(qtbot, panel)
    known = Photons(0.5, 10, 2)
    right = deblur(grey_image, gaussian_psf(1.0), noise=known, iterations=3, device="cpu")
    assert_array_equal(viewer.layers["step deblurred"].data, right.image)
    assert_array_equal(repeated(viewer, panel), right.image)


def test_superres_with_a_psf(qtbot, viewer, open_panel, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel("Super-resolution", psf="Gaussian", sigma=1.2, scale=1.5)
    assert panel._plan.value == "Factor 1.5 must be a whole number where a psf is given."
    panel.inputs.scale.value = 2
    panel.run()
    finish(qtbot, panel)
    right = superres(grey_image, 2.0, psf=gaussian_psf(1.2), iterations=3, device="cpu")
    assert_array_equal(viewer.layers["step enlarged"].data, right.image)
    assert_array_equal(repeated(viewer, panel), right.image)


def test_an_unknown_psf_of_some_size_on_every_plane(qtbot, viewer, fake_prior, open_panel):
    truth = np.zeros((2, 64, 64))
    truth[0, 20:44, 16:40] = truth[1, 10:30, 30:50] = 200
    noisy = truth + np.random.default_rng(0).normal(0, 2, truth.shape)
    viewer.add_image(noisy, name="stack")
    panel = open_panel(psf="unknown", planes=(0,))
    panel.advanced.psf_size.value = "9"
    panel.run()
    finish(qtbot, panel)
    about = viewer.layers["stack deblurred"].metadata["napari-dmsp"]
    assert about["settings"]["psf_size"] == 9
    psfs = viewer.layers["stack deblurred PSF"].data
    assert psfs.shape[0] == 2
    assert max(psfs.shape[1:]) <= 9
    assert_allclose(psfs.sum((1, 2)), 1, rtol=1e-5)
    # A size that is hidden, since the PSF is known, does not matter.
    panel.inputs.psf.value = "Gaussian"
    assert not panel.advanced.psf_size.visible
    assert panel._run_button.enabled


def test_any_device_can_be_typed(qtbot, viewer, fake_prior, open_panel, grey_image):
    viewer.add_image(grey_image, name="step")
    panel = open_panel()
    box = panel.advanced.device.native
    box.lineEdit().setText("cuda:7")
    box.lineEdit().editingFinished.emit()
    assert panel.advanced.device.value == "cuda:7"
    assert "on the GPU" in panel._plan.value
    panel.run()
    finish(qtbot, panel)
    assert panel._report.value.startswith("Device cuda:7 ")


def test_two_panels_fit_a_small_screen(qtbot, viewer, fake_prior, open_panel, grey_image):
    viewer.add_image(np.stack([grey_image] * 2), name="stack")
    panels = [open_panel(), open_panel("Super-resolution")]
    # As large as the panels like to be at first, and then as the screen is.
    viewer.window.show()
    viewer.window.resize(1280, 720)
    window = viewer.window._qt_window

    def least():
        # What is hidden or shown is laid out in the turns after it.
        for _ in range(5):
            QApplication.processEvents()
        return [panel.native.minimumSizeHint().height() for panel in panels]

    def height():
        least()
        return max(window.height(), window.minimumSizeHint().height())

    closed = least()
    assert height() <= 720
    folds = [panel.native.findChild(QCollapsible) for panel in panels]
    for fold in folds:
        fold.expand(animate=False)
    assert height() <= 720
    assert all(panel.advanced.seed.native.isVisible() for panel in panels)
    for panel in panels:
        panel.inputs.sigma.value = 1
        panel.run()
        finish(qtbot, panel)
    assert height() <= 720
    for fold in folds:
        fold.collapse(animate=False)
    for panel in panels:
        panel.inputs.noise.value = "3"
    # Less than before the first run, of which there was a hint.
    assert all(now <= before for now, before in zip(least(), closed, strict=True))
    assert height() <= 720


def test_a_removed_image_is_not_kept(viewer, qtbot):
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    layer = viewer.add_image(np.eye(40), name="large")
    panel._say("About the large image.")
    gone = weakref.ref(layer)
    del layer
    viewer.layers.clear()
    assert panel._report.value == ""
    qtbot.wait(100)
    gc.collect()
    assert gone() is None
