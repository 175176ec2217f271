"""The panel Train a prior in the real viewer."""

from __future__ import annotations

import threading
import time
from functools import partial

import imageio.v3 as iio
import numpy as np
import pytest

from napari_dmsp._viewer.own_priors import priors_changed
from napari_dmsp._viewer.train_worker import Stack, Training, TrainRunner
from napari_dmsp.core import load_prior
from napari_dmsp.errors import DmspError
from napari_dmsp.priors import prior_files
from napari_dmsp.training import train as trainer

CARD = {"training": {"minutes": 0.3, "steps": 40}, "validation_psnr": {"psnr25": 30.0}}


class FakeTrain:
    """Writes the files of a training and reports until it is told to end.

    With `error` it fails after the first report.
    """

    def __init__(self):
        self.calls = []
        self.thread = None
        self.error = None
        self.minutes = 0.1
        self.warnings = []
        self.done = threading.Event()
        self.load = threading.Event()
        self.load.set()

    def __call__(self, images, out, *, progress, **options):
        self.thread = threading.current_thread()
        self.calls.append({"images": images, "out": out} | options)
        progress({"images": 1.0})
        if self.warnings:
            progress({"warnings": self.warnings})
        assert self.load.wait(30)
        out.parent.mkdir(parents=True, exist_ok=True)
        for end in (".safetensors", ".json", ".state.safetensors", ".json.part"):
            (out.parent / (out.stem + end)).write_bytes(b"")
        minutes = self.minutes
        while not progress({"step": 20, "minutes": minutes, "loss": 0.5, "psnr25": 29.0}):
            if self.error is not None:
                raise self.error
            if self.done.wait(0.01):
                break
            minutes += 0.01
        return CARD


@pytest.fixture(autouse=True)
def priors(tmp_path, monkeypatch):
    """Return the user's folder of priors, which is not there yet."""
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(tmp_path / "priors"))
    return tmp_path / "priors"


@pytest.fixture
def fake(monkeypatch):
    fake = FakeTrain()
    monkeypatch.setattr(trainer, "train", fake)
    yield fake
    fake.load.set()
    if fake.thread is not None:
        fake.thread.join(30)
        assert not fake.thread.is_alive(), "a thread was left behind"


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clean"
    path.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        blocks = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        iio.imwrite(path / f"{index}.png", blocks.repeat(5, 0).repeat(5, 1))
    return path


def open_panel(viewer, **inputs):
    dock, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Train a prior")
    panel.dock = dock
    panel.inputs.device.value = "cpu"
    for name, value in inputs.items():
        panel.inputs[name].value = value
    return panel


def train(qtbot, panel, until_trained=True):
    panel._train_button.native.click()
    assert panel.running
    if until_trained:
        qtbot.waitUntil(lambda: panel._stop_button.enabled, timeout=60_000)


def wait_until_over(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)


def names(folder):
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_it_says_what_is_missing(viewer, folder, priors):
    grey = viewer.add_image(np.zeros((2, 9, 9)), name="cells")
    panel = open_panel(viewer)

    def problem():
        assert not panel._train_button.enabled
        return panel._plan.value

    assert "Choose a folder" in problem()
    panel.inputs.folder.value = folder / "none"
    assert "There is no folder" in problem()
    panel.inputs.folder.value = folder
    assert "a name" in problem()
    for name in ("a.state", "../a", "a b"):
        panel.inputs.prior_name.value = name
        assert "a name" in problem()
    panel.inputs.prior_name.value = "rgb"
    assert "already" in problem()
    priors.mkdir()
    for end in (".safetensors", ".json", ".state.safetensors"):
        (priors / f"taken{end}").touch()
        panel.inputs.prior_name.value = "taken"
        assert "already" in problem()
        (priors / f"taken{end}").unlink()
        panel.inputs.prior_name.value = ""
    panel.inputs.prior_name.value = "mine"
    assert panel._train_button.enabled
    assert f"images in {folder}" in panel._plan.value
    assert "mine.safetensors" in panel._plan.value
    panel.inputs.layers.value = [grey]
    assert "and 2 planes" in panel._plan.value
    panel.inputs.colours.value = "colour"
    assert "'cells' is grey" in problem()


def test_it_trains_on_a_folder(qtbot, viewer, folder, priors, monkeypatch):
    monkeypatch.setattr(trainer, "REPORT_EVERY", 0)
    tiny = partial(trainer.Recipe, widths=(8, 16), blocks=1, batch=2, patch=16, warmup_steps=1)
    monkeypatch.setattr(trainer, "Recipe", tiny)
    panel = open_panel(viewer, folder=folder, prior_name="mine", colours="colour")
    told = []
    tell = partial(told.append, 1)
    priors_changed.connect(tell)
    train(qtbot, panel)
    assert panel._bar.max == 3600
    panel._stop_button.native.click()
    assert not panel._stop_button.enabled
    assert "Stopping" in panel._report.value
    wait_until_over(qtbot, panel)
    assert names(priors) == ["mine.json", "mine.safetensors"]
    prior = load_prior(priors / "mine.safetensors")
    assert prior.channels == 3
    assert prior.card["training"]["steps"] >= 1
    assert prior.card["data"]["images"] == 2
    assert "'mine' can be chosen" in panel._report.value
    psnr = prior.card["validation_psnr"]["psnr25"]
    assert f"{psnr:.1f} dB at σ 25" in panel._report.value.replace("\N{NO-BREAK SPACE}", " ")
    priors_changed.disconnect(tell)
    assert told == [1]
    assert "already" in panel._plan.value
    # It can be trained further, where it fits.
    panel.inputs.colours.value = "grey"
    assert "mine" not in panel.inputs.start.choices
    panel.inputs.colours.value = "colour"
    assert panel.inputs.start.choices[-1] == "mine"
    panel.inputs.prior_name.value = "again"
    panel.inputs.start.value = "mine"
    train(qtbot, panel)
    panel.stop()
    wait_until_over(qtbot, panel)
    assert load_prior(priors / "again.safetensors").card["training"]["resumed_from"]


def test_it_trains_on_layers(qtbot, viewer, fake, priors):
    da = pytest.importorskip("dask.array")
    threads = set()

    def compute(block):
        threads.add(threading.get_ident())
        return block

    stack = np.arange(2 * 3 * 8 * 9).reshape(2, 3, 8, 9)
    lazy = da.from_array(stack, chunks=(1, 1, 8, 9)).map_blocks(compute, dtype=stack.dtype)
    cells = viewer.add_image(lazy, name="cells", contrast_limits=(0, 500))
    large = np.arange(16 * 18).reshape(16, 18)
    pyramid = viewer.add_image([large, large[::2, ::2]], name="pyramid", multiscale=True)
    viewer.add_labels(np.zeros((8, 9), int))
    threads.clear()
    panel = open_panel(viewer, layers=[cells, pyramid], prior_name="mine", minutes=3)
    assert panel.inputs.colours.value == "grey"
    assert [layer.name for layer in panel.inputs.layers.choices] == ["cells", "pyramid"]
    train(qtbot, panel)
    (call,) = fake.calls
    assert not threads
    assert not isinstance(call["images"][0], np.ndarray)
    assert [image.shape for image in call["images"]] == 6 * [(8, 9)] + [(16, 18)]
    np.testing.assert_array_equal(np.asarray(call["images"][4]), stack[1, 1])
    assert call["recipe"].channels == 1
    assert (call["minutes"], call["resume"], call["device"]) == (3, None, "cpu")
    assert call["save_every"] == 10
    assert fake.thread is not threading.main_thread()
    # More layers come and go, and those chosen stay chosen.
    viewer.add_image(large, name="other")
    assert panel.inputs.layers.value == [cells, pyramid]
    viewer.layers.remove(cells)
    assert panel.inputs.layers.value == [pyramid]
    fake.done.set()
    wait_until_over(qtbot, panel)
    assert names(priors) == ["mine.json", "mine.safetensors"]


def test_colour_layers_train_a_prior_for_colour(qtbot, viewer, fake):
    photos = viewer.add_image(np.zeros((2, 8, 9, 4), np.uint8), name="photos", rgb=True)
    panel = open_panel(viewer, layers=[photos], prior_name="mine")
    assert panel.inputs.colours.value == "colour"
    assert "2 planes" in panel._plan.value
    panel.inputs.start.value = "rgb"
    train(qtbot, panel)
    (call,) = fake.calls
    assert [image.shape for image in call["images"]] == [(8, 9, 3), (8, 9, 3)]
    assert call["recipe"].channels == 3
    assert call["resume"].name == "rgb.safetensors"
    panel.inputs.colours.value = "grey"
    assert panel.inputs.start.value == "scratch"
    panel.cancel()
    wait_until_over(qtbot, panel)


def test_cancel_removes_the_files(qtbot, viewer, fake, folder, priors):
    priors.mkdir()
    (priors / "mine2.safetensors").touch()
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel)
    assert "mine.safetensors" in names(priors)
    panel._cancel_button.native.click()
    assert not panel._cancel_button.enabled
    wait_until_over(qtbot, panel)
    assert names(priors) == ["mine2.safetensors"]
    assert panel._report.value == "Cancelled."
    assert panel._train_button.enabled
    assert not panel._bar.visible


def test_cancel_while_images_are_loaded(qtbot, viewer, fake, folder, priors):
    fake.load.clear()
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel, until_trained=False)
    qtbot.waitUntil(lambda: "100%" in panel._report.value)
    assert not panel._stop_button.enabled
    assert panel._cancel_button.enabled
    panel.cancel()
    fake.load.set()
    wait_until_over(qtbot, panel)
    assert panel._report.value == "Cancelled."
    assert names(priors) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DmspError("no images found."), "no images found."),
        (RuntimeError("CUDA is gone"), "RuntimeError: CUDA is gone."),
        (ValueError(), "ValueError: ."),
        (
            DmspError("out of memory; lower batch=12 or patch=80."),
            "out of memory; give fewer images, or choose another Device.",
        ),
    ],
)
def test_errors_are_shown(qtbot, viewer, fake, folder, priors, error, text):
    fake.error = error
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel, until_trained=False)
    wait_until_over(qtbot, panel)
    assert panel._report.value == f"{text} What had been saved is kept as 'mine'."
    assert names(priors) == ["mine.json", "mine.safetensors"]
    assert not panel._bar.visible
    assert "already" in panel._plan.value


def test_too_small_images_are_explained(qtbot, viewer, priors):
    layer = viewer.add_image(np.zeros((9, 9)), name="small")
    panel = open_panel(viewer, layers=[layer], prior_name="mine")
    train(qtbot, panel, until_trained=False)
    wait_until_over(qtbot, panel)
    assert panel._report.value == "no training image is as large as the 80 pixel patch."
    assert names(priors) == []


def test_what_is_wrong_with_the_images_stays_on_screen(qtbot, viewer, fake, folder):
    fake.warnings = ["The training images have noise.", "They are few."]
    told = "\nThe training images have noise.\nThey are few."
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel)
    qtbot.waitUntil(lambda: panel._report.value.endswith(told))
    assert panel._report.value.startswith("0.")
    panel.stop()
    wait_until_over(qtbot, panel)
    assert panel._report.value.startswith("'mine' can be chosen")
    assert panel._report.value.endswith(told)
    fake.warnings = []
    panel.inputs.prior_name.value = "yours"
    train(qtbot, panel)
    qtbot.waitUntil(lambda: panel._report.value.startswith("0."))
    assert "noise" not in panel._report.value
    panel.cancel()
    wait_until_over(qtbot, panel)


def test_the_last_step_may_take_longer(qtbot, viewer, fake, folder):
    fake.minutes = 1.1
    panel = open_panel(viewer, folder=folder, prior_name="mine", minutes=1)
    train(qtbot, panel)
    assert panel._bar.value == panel._bar.max == 60
    panel.cancel()
    wait_until_over(qtbot, panel)


def test_a_second_run_is_refused(qtbot, viewer, fake, folder):
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel)
    assert not panel._train_button.enabled
    panel.inputs.prior_name.value = "yours"
    assert not panel._train_button.enabled
    panel.train()
    assert not panel._runner.start(None)
    panel.stop()
    wait_until_over(qtbot, panel)
    assert len(fake.calls) == 1
    assert panel._train_button.enabled


@pytest.mark.parametrize("what", ["dock", "viewer"])
@pytest.mark.parametrize("saved", [True, False])
def test_closing_ends_and_keeps_what_was_saved(qtbot, viewer, fake, folder, priors, what, saved):
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    if not saved:
        fake.load.clear()
    train(qtbot, panel, until_trained=saved)
    qtbot.waitUntil(lambda: bool(fake.calls), timeout=60_000)
    runner = panel._runner
    if what == "dock":
        viewer.window.remove_dock_widget(panel.dock)
    else:
        viewer.close()
    fake.load.set()
    qtbot.waitUntil(lambda: not fake.thread.is_alive(), timeout=30_000)
    qtbot.waitUntil(lambda: not runner.running)
    assert names(priors) == (["mine.json", "mine.safetensors"] if saved else [])
    # Panels that are gone need not know.
    priors_changed.emit()


def test_quitting_cancels(qtbot, qapp, fake, tmp_path):
    outcomes = []
    runner = TrainRunner(lambda _: None, outcomes.append)
    runner.start(Training((), (), tmp_path / "mine.safetensors", 1, 60))
    qtbot.waitUntil(lambda: fake.thread is not None)
    qapp.aboutToQuit.emit()
    qtbot.waitUntil(lambda: not runner.running)
    assert outcomes == []
    assert not runner.start(Training((), (), tmp_path / "mine.safetensors", 1, 60))


def test_the_plot_is_drawn_twice_a_second_at_most(qtbot, viewer, fake, folder):
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    train(qtbot, panel)
    plot = panel._plot
    drawn = []
    plot._drawn = 0.0
    plot.draw = lambda draw=plot.draw: (drawn.append(time.perf_counter()), draw())
    qtbot.waitUntil(lambda: len(drawn) == 3)
    assert np.diff(drawn).min() >= 0.5
    fake.done.set()
    wait_until_over(qtbot, panel)
    loss, psnr = plot._loss.get_xydata(), plot._psnr.get_xydata()
    assert len(loss) > 20
    assert (np.diff(loss[:, 0]) > 0).all()
    # What was repeated is one point; the last one comes with the card.
    np.testing.assert_allclose(psnr, [(0.1, 29), (0.3, 30)])


def test_the_plot_follows_the_theme(qtbot, viewer, fake, folder):
    panel = open_panel(viewer, folder=folder, prior_name="mine")
    viewer.theme = "light"
    train(qtbot, panel)
    figure = panel._plot._figure
    light = figure.get_facecolor()
    viewer.theme = "dark"
    dark = figure.get_facecolor()
    assert sum(dark[:3]) < 1 < sum(light[:3])
    panel.cancel()
    wait_until_over(qtbot, panel)


def test_stacks_are_cut_into_planes():
    data = np.arange(2 * 4 * 5 * 4).reshape(2, 4, 5, 4)
    assert [plane.shape for plane in Stack(data, True).planes()] == [(4, 5, 3)] * 2
    assert len(list(Stack(data, False).planes())) == 8
    np.testing.assert_array_equal(next(Stack(data[0, 0], False).planes()), data[0, 0])


def test_states_are_not_priors(priors):
    priors.mkdir()
    for name in ("mine.safetensors", "mine.state.safetensors"):
        (priors / name).touch()
    assert list(prior_files())[-1] == "mine"
    assert "mine.state" not in prior_files()
