"""Noise that is not white: compression, rows, interpolation."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dmsp import deblur
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

PSF = gaussian_psf(1.5)
BLURRED, TRUTH = simulate_blur(data.camera()[80:230, 150:300].astype(float), PSF)
RANDOM = np.random.default_rng(0)
WHITE = BLURRED + RANDOM.normal(0, 1.5, BLURRED.shape)


def compressed():
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(WHITE), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def in_rows():
    return WHITE + RANDOM.normal(0, 3, (len(WHITE), 1))


def interpolated():
    noise = gaussian_filter(RANDOM.normal(0, 1, BLURRED.shape), 1.2)
    return BLURRED + 4 * noise / noise.std()


def error(image):
    return np.square(np.asarray(image, float) - TRUTH)[8:-8, 8:-8].mean()


def is_told(result):
    return any("The noise is not white" in text for text in result.warnings)


@pytest.mark.parametrize("make", [compressed, in_rows, interpolated])
def test_results_are_better_than_the_image(make):
    image = make()
    result = deblur(image, PSF, background=0)
    assert error(result.image) < 0.75 * error(image)
    assert is_told(result)


def test_white_noise_and_given_noise_are_taken_as_they_are():
    result = deblur(WHITE, PSF)
    assert not is_told(result)
    assert result.noise_sigma == pytest.approx(1.5, rel=0.2)
    given = deblur(in_rows(), PSF, noise=3, iterations=2)
    assert not is_told(given)
    assert given.noise_sigma == pytest.approx(3)


def test_photons_are_no_correlation():
    light = np.zeros((128, 128))
    light[40:80, 30:90] = 1
    counts = np.random.default_rng(0).poisson(200 * gaussian_filter(light, 2)) / 200
    noisy = counts + np.random.default_rng(1).normal(0, 0.01, counts.shape)
    assert not is_told(deblur(noisy, gaussian_psf(2), iterations=2))
