"""Noise that is not white: compression, rows, interpolation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_dmsp import deblur, superres
from napari_dmsp.core.compression import compression_sigma
from napari_dmsp.core.noise import coarse_sigma
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.core.stripes import remove_stripes

PSF = gaussian_psf(1.5)
BLURRED, TRUTH = simulate_blur(data.camera()[80:230, 150:300].astype(float), PSF)
RANDOM = np.random.default_rng(0)
WHITE = BLURRED + RANDOM.normal(0, 1.5, BLURRED.shape)


def compressed(image=WHITE, quality=50):
    file = io.BytesIO()
    whole = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    Image.fromarray(whole).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def in_rows():
    return WHITE + RANDOM.normal(0, 3, (len(WHITE), 1))


def interpolated():
    noise = gaussian_filter(RANDOM.normal(0, 1, BLURRED.shape), 1.2)
    return BLURRED + 4 * noise / noise.std()


def error(image):
    return np.square(np.asarray(image, float) - TRUTH)[8:-8, 8:-8].mean()


def is_told(result, what="The noise is not white"):
    return any(what in text for text in result.warnings)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (compressed, "The image was compressed (JPEG)"),
        (in_rows, "is the same along rows was subtracted"),
        (interpolated, "The noise is not white"),
    ],
)
def test_results_are_better_than_the_image(make, what):
    image = make()
    result = deblur(image, PSF, background=0)
    assert error(result.image) < 0.75 * error(image)
    assert is_told(result, what)


@pytest.mark.parametrize("quality", [30, 50, 75])
def test_the_error_of_compression_is_known(quality):
    sharp = data.camera()[80:230, 150:300]
    for truth in (BLURRED, sharp):
        image = compressed(truth, quality).astype(float)
        level = np.sqrt(np.square(image - truth).mean())
        assert 0.7 * level < compression_sigma(image) < 1.8 * level
        # A part of it, which begins anywhere.
        assert compression_sigma(image[5:, 3:]) == pytest.approx(compression_sigma(image), rel=0.2)


def test_what_was_not_compressed_has_no_such_error():
    for image in (BLURRED, WHITE, data.camera()[80:230, 150:300]):
        assert compression_sigma(np.rint(image)) == 0
    even = np.random.default_rng(0).normal(100, 3, (128, 128))
    assert compression_sigma(np.rint(even)) == 0
    assert compression_sigma(np.zeros((64, 64))) == 0
    assert compression_sigma(np.zeros((20, 64))) == 0


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_enlargements_of_compressed_images_take_their_error_for_noise(scale):
    image = compressed(data.camera()[80:176, 150:246], 50) * np.float64(scale)
    result = superres(image, 2, iterations=1)
    assert is_told(result, "The image was compressed (JPEG)")
    assert result.noise_sigma > 4 * scale
    assert not superres(image, 2, iterations=1, noise=2 * scale).warnings


@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_of_lines_are_subtracted(axis):
    offsets = np.random.default_rng(1).normal(0, 4, len(WHITE))
    striped = torch.from_numpy(WHITE + np.expand_dims(offsets, 1 - axis))[None, None] / 255
    kept = torch.ones_like(striped)
    kept[..., 60:64, :] = 0
    for weights in (None, kept):
        found, *levels = remove_stripes(striped, torch.from_numpy(PSF), weights)
        assert 255 * levels[axis] == pytest.approx(4, rel=0.25)
        assert levels[1 - axis] == 0
        left = 255 * found[0, 0].numpy() - WHITE
        assert left.mean(1 - axis)[5:-5].std() < 2


def test_images_without_stripes_stay():
    for image in (WHITE, BLURRED, WHITE[:40]):
        y = torch.from_numpy(image)[None, None] / 255
        assert remove_stripes(y, torch.from_numpy(PSF)) == (y, 0.0, 0.0)


def test_white_noise_and_given_noise_are_taken_as_they_are():
    result = deblur(WHITE, PSF)
    assert not is_told(result)
    assert result.noise_sigma == pytest.approx(1.5, rel=0.2)
    given = deblur(interpolated(), PSF, noise=3, iterations=2)
    assert not is_told(given)
    assert given.noise_sigma == pytest.approx(3)


def test_weak_blur_hides_no_correlation():
    big = gaussian_filter(data.camera()[:200, :200].astype(float), 1)
    random = np.random.default_rng(2)
    noise = gaussian_filter(random.normal(0, 1, big.shape), 0.8)
    for image, correlated in (
        (big + 4 * noise / noise.std(), True),
        (big + random.normal(0, 2, big.shape), False),
    ):
        result = deblur(image, gaussian_psf(1), iterations=1)
        assert is_told(result) == correlated
        assert (result.noise_sigma > 3.2) == correlated
    assert coarse_sigma(torch.zeros(1, 1, 32, 96)) is None


def test_photons_are_no_correlation():
    light = np.zeros((128, 128))
    light[40:80, 30:90] = 1
    counts = np.random.default_rng(0).poisson(200 * gaussian_filter(light, 2)) / 200
    noisy = counts + np.random.default_rng(1).normal(0, 0.01, counts.shape)
    assert not is_told(deblur(noisy, gaussian_psf(2), iterations=2))
