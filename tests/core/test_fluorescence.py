"""Deconvolution where few photons make the noise."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from napari_dmsp import Photons, deblur
from napari_dmsp.core import tasks
from napari_dmsp.core.noise import shot_line, smooth
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.files import read_image

PHOTONS = 200


@pytest.fixture(scope="module")
def nuclei():
    """Return what a microscope sees without noise, and the truth, black at 0 and white at 1."""
    with resources.as_file(resources.files("napari_dmsp") / "samples/bbbc039_A09_s1.tif") as path:
        image = read_image(path).pixels[:160, :160].astype(np.float64)
    low, high = np.percentile(image, [0.1, 99.9])
    blurred, truth = simulate_blur((image - low) / (high - low), gaussian_psf(2.0), 0.0)
    return np.clip(blurred, 0, None), truth


def with_shot_noise(blurred):
    rng = np.random.default_rng(0)
    return rng.poisson(blurred * PHOTONS) / PHOTONS + rng.normal(0, 0.01, blurred.shape)


def test_weights_follow_the_photons(nuclei):
    blurred, _ = nuclei
    observed = torch.from_numpy(with_shot_noise(blurred))[None, None]
    line = shot_line(observed)
    assert line is not None
    weights = line.variance(smooth(observed)).rsqrt()
    expected = 1 / np.sqrt(blurred / PHOTONS + 1e-4)
    ratio = weights[0, 0].numpy() / expected
    # They need only be right up to a common factor.
    assert np.std(ratio) < 0.15 * np.mean(ratio)


def test_noise_of_a_known_light_is_found_below_detail():
    random = np.random.default_rng(0)
    light = np.where(random.random((256, 256)) < 0.02, 200.0, 0.0)
    light = gaussian_filter(light, 0.6)
    y = torch.from_numpy(random.poisson(light) + random.normal(0, 2, light.shape))[None, None]
    line = shot_line(y, light=torch.from_numpy(light)[None, None])
    assert line.slope == pytest.approx(1, rel=0.1)
    assert line.offset == pytest.approx(4, rel=0.2)
    blind = shot_line(y)
    assert blind is None or abs(blind.slope - 1) > 0.3


def test_even_noise_has_no_weights(nuclei):
    blurred, _ = nuclei
    noise = np.random.default_rng(0).normal(0, 0.02, blurred.shape)
    assert shot_line(torch.from_numpy(blurred + noise)[None, None]) is None
    assert shot_line(torch.rand(1, 1, 9, 9)) is None


def test_photons_are_worth_weighing(nuclei, monkeypatch):
    blurred, truth = nuclei
    observed, psf = with_shot_noise(blurred), gaussian_psf(2.0)
    with_weights = deblur(observed, psf, iterations=12).image
    monkeypatch.setattr(tasks, "shot_line", lambda *_: None)
    without = deblur(observed, psf, iterations=12).image
    scores = [peak_signal_noise_ratio(truth, x, data_range=1) for x in (with_weights, without)]
    assert scores[0] > scores[1] + 1


@pytest.mark.parametrize(("photons", "most"), [(20, 1.0), (5, 3.0)])
def test_few_photons_are_seen(nuclei, photons, most):
    blurred, truth = nuclei
    counts = np.random.default_rng(0).poisson(photons * blurred) / photons
    found = deblur(counts, gaussian_psf(2.0), iterations=12).image
    known = deblur(counts, gaussian_psf(2.0), iterations=12, noise=Photons(1 / photons)).image
    scores = [peak_signal_noise_ratio(truth, x, data_range=1) for x in (found, known)]
    assert scores[0] > scores[1] - most


def test_weights_go_with_gaps(nuclei):
    blurred, truth = nuclei
    observed = with_shot_noise(blurred)
    dead = np.random.default_rng(1).random(observed.shape) < 0.02
    observed[dead] = np.nan
    image = deblur(observed, gaussian_psf(2.0), mask=dead, iterations=12).image
    assert peak_signal_noise_ratio(truth, image, data_range=1) > 30


def test_a_given_noise_level_holds_everywhere(nuclei, monkeypatch):
    blurred, _ = nuclei
    monkeypatch.setattr(tasks, "shot_line", lambda *_: pytest.fail("it was estimated"))
    observed = with_shot_noise(blurred)
    assert deblur(observed, gaussian_psf(2.0), noise_sigma=0.03, iterations=2).noise_sigma == 0.03
