"""Hot and dead pixels that nobody masked."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dmsp import deblur, demosaic, superres
from napari_dmsp.core.mosaic import cfa_weights
from napari_dmsp.core.noise import wavelet_sigma
from napari_dmsp.core.outliers import find_hot_pixels, find_outliers
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

SIDE, PSF = 128, gaussian_psf(1.5).astype(np.float32)
BIG = data.camera()[80 : 92 + SIDE, 150 : 162 + SIDE].astype(float)
BLURRED, TRUTH = simulate_blur(BIG, PSF)
NOISY = BLURRED + np.random.default_rng(0).normal(0, 2, BLURRED.shape)


def error(image):
    return np.square(image - TRUTH)[8:-8, 8:-8].mean()


@pytest.mark.parametrize("value", [4000, -500])
def test_hot_and_dead_pixels_are_masked(value):
    bad = np.random.default_rng(1).random(NOISY.shape) < 0.002
    result = deblur(np.where(bad, value, NOISY), PSF)
    assert error(result.image) < 0.5 * error(NOISY)
    assert f"{bad.sum()} pixels were masked" in result.warnings[0]
    assert result.settings["masked"] == bad.sum()
    assert result.noise_sigma == pytest.approx(2, rel=0.2)


def test_saturated_hot_pixels_beside_edges_and_each_other_are_masked():
    bad = np.random.default_rng(1).random(NOISY.shape) < 0.003
    bad[60, 60:62] = True
    found = find_outliers(np.where(bad, 255, NOISY)[None] / 255, PSF)[0]
    assert not (found & ~bad).any()
    # On a ground that is nearly as bright, they do not show, and do no harm.
    assert (found[bad & (NOISY < 200)]).mean() > 0.95


def test_pixels_that_the_user_masks_are_not_counted():
    bad = np.zeros(NOISY.shape, bool)
    bad[40, 50] = bad[90, 20] = True
    image = np.where(bad, 4000, NOISY)
    assert not deblur(image, PSF, mask=bad, iterations=2).warnings
    mask = bad.copy()
    mask[90, 20] = False
    result = deblur(image, PSF, mask=mask, iterations=2)
    assert "1 pixel was masked" in result.warnings[0]
    assert result.settings["masked"] == 2


def test_points_noise_and_photons_are_no_outliers():
    rng, stars = np.random.default_rng(0), np.zeros((SIDE, SIDE))
    stars[rng.random(stars.shape) < 0.005] = 20
    stars, _ = simulate_blur(stars, PSF)
    noisy = stars + rng.normal(0, 0.01, stars.shape)
    photons = rng.poisson(100 * stars.clip(0)) / 100
    for image in (NOISY / 255, BLURRED / 255, stars, noisy, photons):
        assert not find_outliers(image[None], PSF).any()


def test_few_photons_are_no_outliers():
    rng, points = np.random.default_rng(0), np.zeros((256, 256))
    points[tuple(rng.integers(0, 256, (2, 60)))] = rng.uniform(0.2, 1, 60)
    points, _ = simulate_blur(points, PSF)
    for photons, most in ((5, 1), (20, 0)):
        counts = rng.poisson(photons * points.clip(0) / points.max()) / photons
        noisy = counts + rng.normal(0, 0.3 / photons, counts.shape)
        result = deblur(noisy, PSF, iterations=1)
        assert result.settings["masked"] <= most
        noisy[40, 50] = 40
        assert deblur(noisy, PSF, iterations=1).settings["masked"] == result.settings["masked"] + 1


def test_what_cannot_be_told_from_outliers_stays():
    point = np.zeros((1, 32, 32))
    point[0, 16, 16] = 1
    assert not find_outliers(point, PSF).any()
    scattered = np.random.default_rng(0).random(NOISY.shape) < 0.03
    assert not find_outliers((BLURRED / 255 + 9 * scattered)[None], PSF).any()
    line = np.full((1, 9), 1 / 9, np.float32)
    hot = NOISY[None] / 255
    hot[0, 40, 40] = 9
    assert not find_outliers(hot, line).any()
    assert find_outliers(hot, PSF).sum() == 1


def test_dead_regions_are_masked():
    dead = np.zeros(NOISY.shape, bool)
    dead[:, SIDE * 2 // 3 :] = dead[20:32, 30:50] = True
    image = np.where(dead, 0, NOISY)
    result = deblur(image, PSF)
    assert f"{dead.sum()} pixels were masked" in result.warnings[0]
    told = deblur(image, PSF, mask=dead)
    np.testing.assert_array_equal(result.image, told.image)


def test_black_ground_and_clipped_light_are_not_dead():
    light = np.zeros((1, 96, 96))
    light[0, 30:60, 40:70] = 2
    blurred = gaussian_filter(light, (0, 1.5, 1.5))
    noisy = blurred + np.random.default_rng(0).normal(0, 0.02, blurred.shape)
    halves = np.zeros((1, 96, 96))
    halves[..., 40:] = 1
    rounded = np.rint(50 * noisy.clip(0, 1)) / 50
    for image in (blurred.clip(0, 1), noisy.clip(0, 1), rounded, halves, np.zeros((1, 40, 40))):
        assert not find_outliers(image, PSF).any()


def hot_image(ground):
    random = np.random.default_rng(3)
    bad = random.random(ground.shape) < 0.002
    return np.where(bad, random.uniform(500, 4000, ground.shape), ground), bad


def test_hot_pixels_of_small_images_are_masked():
    small = data.camera()[80:208, 150:278] + np.random.default_rng(0).normal(0, 2, (128, 128))
    image, bad = hot_image(small)
    result = superres(image, 2, iterations=1)
    assert result.settings["masked"] >= 0.95 * bad.sum()
    assert "hot or dead" in result.warnings[0]
    assert abs(result.noise_sigma - superres(small, 2, iterations=1).noise_sigma) < 1
    assert not superres(small, 2, iterations=1).warnings
    assert superres(image, 2, iterations=1, method="sgd").settings["masked"] == 0


def test_hot_and_dead_pixels_of_mosaics_are_masked():
    colours = data.astronaut()[40:168, 150:278].astype(float)
    clean = (colours * cfa_weights("RGGB", colours.shape[:2]).transpose(1, 2, 0)).sum(-1)
    image, bad = hot_image(clean)
    image[50, 61:63] = image[90, 40] = 0
    result = demosaic(image, "RGGB", linear=False, iterations=1)
    assert result.settings["masked"] >= 0.9 * bad.sum()
    assert not demosaic(clean, "RGGB", linear=False, iterations=1).warnings
    assert find_hot_pixels(image[None] / 255, (2, 2))[0, 90, 40] == (clean[90, 40] > 60)


def test_points_text_and_highlights_of_sharp_images_stay():
    random = np.random.default_rng(0)
    stars = random.normal(0, 0.01, (1, 96, 96))
    for row, column in random.uniform(5, 90, (30, 2)):
        rows, columns = np.mgrid[:96, :96]
        # A lens makes no smaller spots: their full width at half maximum is 1.2 pixels.
        stars[0] += 2 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 0.5**2))
    text = np.ones((1, 96, 96))
    text[0, 10:80:7, 5:90:5] = 0
    clipped = gaussian_filter(random.normal(0.5, 1, (1, 96, 96)), (0, 0.7, 0.7)).clip(0, 1)
    photons = random.poisson(0.05, (1, 96, 96)) / 3.0
    for image in (stars, text, clipped, photons):
        for period in ((1, 1), (2, 2)):
            assert not find_hot_pixels(image, period).any()
    assert not find_hot_pixels(random.random((1, 6, 6)), (2, 2)).any()


def test_dead_regions_do_not_lower_the_noise_level():
    noise = np.random.default_rng(0).normal(0.3, 0.05, (SIDE, SIDE))
    noise[: SIDE * 3 // 4] = 0.1
    assert wavelet_sigma(torch.from_numpy(noise)[None, None]) == pytest.approx(0.05, rel=0.1)
