"""Runs during which the user does anything, at any moment: nothing breaks, and nothing stays."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import QThreadPool

from napari_dmsp.core.psf import gaussian_psf

TITLES = ["Deblur", "Super-resolution", "Demosaic"]


class Slowly(threading.Event):
    """Takes a few milliseconds, so that there is time to do something."""

    def wait(self, timeout=None):
        time.sleep(0.003)
        return super().wait(timeout)


class User:
    """Has a viewer with a stack and panels, and does at random what `acts` names."""

    def __init__(self, viewer, seed):
        self.viewer, self.rng = viewer, random.Random(seed)
        self.panels, self.done = [], []
        self.add_stack()
        viewer.add_image(gaussian_psf(0.8), name="PSF", visible=False)
        viewer.add_labels(np.zeros((24, 25), int), name="mask", visible=False)
        viewer.layers.selection.active = viewer.layers[0]
        self.open_panel(self.rng.choice(TITLES))

    def add_stack(self):
        shape = self.rng.choice([(24, 25), (4, 24, 25), (3, 24, 25), (2, 3, 24, 25)])
        values = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        return self.viewer.add_image(values, name="stack")

    def open_panel(self, title=None):
        title = title or self.rng.choice(TITLES)
        _, panel = self.viewer.window.add_plugin_dock_widget("napari-dmsp", title)
        panel.advanced.evaluations.value = "4"
        panel.advanced.device.value = "cpu"
        if panel not in self.panels:
            self.panels.append(panel)
        return panel

    def close_panel(self):
        if self.panels:
            panel = self.panels.pop(self.rng.randrange(len(self.panels)))
            self.viewer.window.remove_dock_widget(panel.native)

    def press(self):
        if self.panels:
            panel = self.rng.choice(self.panels)
            names = ["run", "run", "preview", "stop", "cancel", "copy_script", "compare", "refresh"]
            getattr(panel, self.rng.choice(names))()

    def change_choice(self):
        if self.panels:
            panel = self.rng.choice(self.panels)
            parts = [widget for part in (panel.inputs, panel.advanced) for widget in part]
            lists = [
                w for w in parts if getattr(w, "choices", ()) and w.name not in ("psf", "prior")
            ]
            widget = self.rng.choice(lists)
            widget.value = self.rng.choice(widget.choices)
            panel.advanced.device.value = "cpu"

    def delete_layer(self):
        if self.viewer.layers:
            self.viewer.layers.remove(self.rng.choice(list(self.viewer.layers)))

    def clear(self):
        self.viewer.layers.clear()

    def replace_data(self):
        layers = [each for each in self.viewer.layers if not getattr(each, "rgb", False)]
        if layers:
            layer = self.rng.choice(layers)
            shape = [max(1, n - self.rng.choice([0, 1, 7])) for n in layer.data.shape]
            layer.data = np.ones(shape, layer.data.dtype)

    def change_layer(self):
        if self.viewer.layers:
            layer = self.rng.choice(list(self.viewer.layers))
            name = self.rng.choice(["name", "visible", "scale", "translate"])
            number = self.rng.choice([0.5, 3.0])
            values = {"name": "other", "visible": self.rng.random() < 0.5}
            setattr(layer, name, values.get(name, [number] * layer.ndim))

    def move_dims(self):
        dims = self.viewer.dims
        match self.rng.randrange(4):
            case 0:
                dims.ndisplay = 5 - dims.ndisplay
            case 1:
                dims.roll()
            case 2:
                dims.transpose()
            case _:
                dims.set_current_step(0, self.rng.randrange(5))

    def select(self):
        if self.viewer.layers:
            self.viewer.layers.selection.active = self.rng.choice(list(self.viewer.layers))
            self.viewer.layers.move(0, len(self.viewer.layers))

    def act(self):
        often = [self.press, self.press, self.delete_layer, self.replace_data, self.move_dims]
        acts = [*often, self.change_choice, self.change_layer, self.select, self.add_stack]
        rare = [self.clear, self.open_panel, self.close_panel]
        act = self.rng.choice(acts if self.rng.random() < 0.9 else rare)
        self.done.append(act.__name__)
        act()


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        first, times = map(metafunc.config.getoption, ("first_seed", "times"))
        metafunc.parametrize("seed", range(first, first + 10 * times))


def test_anything_at_any_moment(qtbot, make_napari_viewer, fake_prior, seed):
    fake_prior.open = Slowly()
    fake_prior.release()
    begun, told = set(threading.enumerate()), len(notification_manager.records)
    viewer = make_napari_viewer()
    user = User(viewer, seed)
    user.panels[0].run()
    for _ in range(user.rng.randrange(3, 16)):
        qtbot.wait(user.rng.choice([1, 5, 30]))
        user.act()
    if user.rng.random() < 0.3:
        viewer.close()
        left = list(viewer.layers)
        assert QThreadPool.globalInstance().waitForDone(30_000), user.done
        qtbot.wait(50)
        assert list(viewer.layers) == left, user.done
    else:
        qtbot.waitUntil(lambda: not any(p.running for p in user.panels), timeout=30_000)
        check_that_it_still_works(qtbot, viewer, user)
    records = notification_manager.records[told:]
    said = [each for each in records if each.severity >= NotificationSeverity.WARNING]
    assert not said, (said, user.done)
    assert QThreadPool.globalInstance().waitForDone(30_000), user.done
    ours = [t for t in set(threading.enumerate()) - begun if "dmsp" in t.name]
    for thread in ours:
        thread.join(30)
        assert not thread.is_alive(), user.done


def check_that_it_still_works(qtbot, viewer, user):
    """Whatever was done to a panel: it restores another image."""
    panel = user.open_panel()
    viewer.dims.ndisplay = 2
    image = np.random.default_rng(1).integers(0, 255, (24, 25)).astype(np.uint8)
    layer = viewer.add_image(image, name="at last")
    panel.inputs.image.value = layer
    panel.inputs.region.value = "whole image"
    panel.advanced.mask.value = "none"
    panel.advanced.axes.value = ()
    panel.inputs.planes.value = ()
    if "psf" in [widget.name for widget in panel.inputs]:
        kinds = panel.inputs.psf.choices
        panel.inputs.psf.value = "Gaussian" if "Gaussian" in kinds else kinds[0]
        if "sigma" in [widget.name for widget in panel.inputs]:
            panel.inputs.sigma.value = 1
    before = set(viewer.layers)
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=30_000)
    added = set(viewer.layers) - before
    assert added, (panel._plan.value, panel._report.value, user.done)
    assert all(np.isfinite(each.data).all() for each in added)
