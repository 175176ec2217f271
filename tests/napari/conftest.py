"""A prior that needs no weights, and can be held up."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool

from napari_dmsp.core import tasks
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur


class FakePrior:
    """A denoiser that changes nothing; `hold` makes it wait for `release`.

    With `error` it fails.
    """

    __name__ = "fake"

    def __init__(self):
        self.entered = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.free_calls = 0
        self.error = None
        self.threads = set()

    def hold(self, after=0):
        self.free_calls = after
        self.open.clear()

    def release(self):
        self.open.set()

    def __call__(self, x, sigma):
        self.threads.add(threading.get_ident())
        if self.free_calls:
            self.free_calls -= 1
        else:
            self.entered.set()
            assert self.open.wait(30), "nobody released the prior"
        if self.error is not None:
            raise self.error
        return x


@pytest.fixture(autouse=True)
def no_own_priors(monkeypatch, tmp_path):
    """Whoever runs the tests may have trained some."""
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(tmp_path / "priors"))


@pytest.fixture
def fake_prior(monkeypatch):
    """Make every restoration use a `FakePrior`, which is returned."""
    prior = FakePrior()
    prepare = tasks.prepare_task

    def with_fake(task, image, **known):
        return prepare(task, image, **(known | {"prior": prior}))

    monkeypatch.setattr(tasks, "prepare_task", with_fake)
    yield prior
    prior.release()
    assert QThreadPool.globalInstance().waitForDone(30_000), "a thread was left behind"


@pytest.fixture(scope="session")
def grey_image():
    """A blurred and noisy step, 8-bit."""
    truth = np.full((72, 64), 40.0)
    truth[20:50, 15:40] = 200
    observed, _ = simulate_blur(truth, gaussian_psf(1.0), noise_sigma=3)
    return np.clip(np.rint(observed), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def rgb_image(grey_image):
    return np.stack([grey_image, grey_image[::-1], 255 - grey_image], axis=-1)
