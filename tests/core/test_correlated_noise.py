"""Noise that is not white does not make results worse than what they were made of."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from napari_dmsp import deblur
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

SIDE = 128


def compressed(blurred, rng):
    noisy = blurred + rng.normal(0, 1.5, blurred.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def along_rows(blurred, rng):
    rows = rng.normal(0, 5, (len(blurred), 1))
    return blurred + rows + rng.normal(0, 1, blurred.shape)


def interpolated(blurred, rng):
    noise = gaussian_filter(rng.normal(size=blurred.shape), 0.8)
    return blurred + 5 / noise.std() * noise


def white(blurred, rng):
    return blurred + rng.normal(0, 2, blurred.shape)


def restored(spoil, **options):
    """Return the gain in dB of an image that is spoilt, and the result."""
    psf = gaussian_psf(1.5)
    big = data.camera()[80 : 92 + SIDE, 150 : 162 + SIDE].astype(float)
    blurred, truth = simulate_blur(big, psf)
    observed = spoil(blurred, np.random.default_rng(0))
    result = deblur(observed, psf, **options)
    inner = (slice(8, -8), slice(8, -8))
    before, after = (
        peak_signal_noise_ratio(truth[inner], image[inner].astype(float), data_range=255)
        for image in (observed, result.image)
    )
    return after - before, result


@pytest.mark.parametrize("spoil", [compressed, along_rows, interpolated])
def test_the_level_of_noise_that_is_not_white_is_raised(spoil):
    gain, result = restored(spoil)
    assert gain > 1
    assert sum("not white" in warning for warning in result.warnings) == 1


@pytest.mark.parametrize(("spoil", "options"), [(white, {}), (along_rows, {"noise": 7})])
def test_a_level_that_is_right_or_given_stays(spoil, options):
    gain, result = restored(spoil, **options)
    assert gain > 1
    assert not result.warnings
    assert result.noise_sigma == pytest.approx(options.get("noise", 2), rel=0.1)
