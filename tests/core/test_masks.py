"""Missing samples, in all operators and tasks."""

import numpy as np
import pytest
import torch
from skimage import data

from napari_dmsp import DmspError, deblur, superres
from napari_dmsp.core.operators import fill_gaps
from napari_dmsp.core.psf import align_psf, gaussian_psf

RNG = np.random.default_rng(0)
KEPT = torch.from_numpy((RNG.random((1, 1, 12, 10)) > 0.3).astype(float))
PHOTO = data.astronaut()[40:104, 170:234, 0].astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 9), (8, 8), (1, 5), (64, 3), (4, 7, 6), (1, 8, 8)])
def test_gaps_are_filled_from_around(shape):
    y = torch.full((1, 2, *shape), 0.7)
    kept = torch.zeros(shape)
    kept.view(-1)[3] = 1
    torch.testing.assert_close(fill_gaps(y * kept, kept), y)


def test_what_is_kept_stays():
    y = torch.rand(1, 1, 12, 10, dtype=torch.float64)
    filled = fill_gaps(y, KEPT)
    assert torch.equal(filled[KEPT > 0], y[KEPT > 0])
    assert filled.min() >= y.min()
    assert fill_gaps(y, None) is y


@pytest.mark.parametrize("channel_axis", [None, -1])
def test_dead_pixels_do_no_harm(channel_axis):
    image, mask = PHOTO.copy(), np.zeros(PHOTO.shape, bool)
    mask[RNG.integers(0, 64, 60), RNG.integers(0, 64, 60)] = True
    image[mask] = np.nan
    if channel_axis is not None:
        image = np.stack([image] * 3, axis=-1)
    delta = np.ones((1, 1))
    result = deblur(image, delta, mask=mask, channel_axis=channel_axis, iterations=8).image
    truth = PHOTO if channel_axis is None else np.stack([PHOTO] * 3, axis=-1)
    assert np.sqrt(np.mean((result - truth)[mask] ** 2)) < 10
    assert np.sqrt(np.mean((result - truth)[~mask] ** 2)) < 6


def test_the_value_of_a_masked_pixel_does_not_matter():
    mask = np.zeros(PHOTO.shape, bool)
    mask[10:14, 20:22] = True
    psf = gaussian_psf(0.7)
    images = [np.where(mask, value, PHOTO) for value in (0, 5000)]
    first, second = (deblur(i, psf, mask=mask, iterations=3).image for i in images)
    np.testing.assert_array_equal(first, second)


def test_superresolution_takes_a_mask():
    mask = np.zeros((64, 64), bool)
    mask[30:33, 40:43] = True
    image = np.where(mask, 1e4, PHOTO)
    result = superres(image, 2, mask=mask, iterations=6)
    assert result.image.max() < 400
    assert result.settings["masked"] == 9


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, 3), bool), r"mask has shape \(3, 3\); expected \(64, 64\)"),
        (np.ones((64, 64), bool), "leaves no pixel"),
        (np.full((64, 64), 0.5), "boolean"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(DmspError, match=message):
        deblur(PHOTO, gaussian_psf(1), mask=mask)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [5, 6])
def test_a_psf_is_aligned_with_the_blocks(scale, size):
    profile = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / 1.2) ** 2)
    psf = align_psf(np.outer(profile, profile), scale)
    assert all((n - scale) % 2 == 0 for n in psf.shape)
    rows = np.arange(psf.shape[0]) - (psf.shape[0] - 1) / 2
    assert (psf.sum(1) * rows).sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 3])
def test_superresolution_with_a_psf_lands_right(scale):
    # Block centres of a ramp: blur keeps it, so the result must be the ramp on the finer grid.
    psf = gaussian_psf(0.6 * scale)
    small = np.add.outer(np.arange(20.0), 2 * np.arange(24.0))
    result = superres(small, scale, psf=psf, noise_sigma=0)
    rows, columns = ((np.arange(n * scale) + 0.5) / scale - 0.5 for n in small.shape)
    truth = np.add.outer(rows, 2 * columns)
    inner = slice(4 * scale, -4 * scale)
    assert np.abs(result.image - truth)[inner, inner].max() < 0.5


def test_superresolution_with_a_psf_needs_a_whole_factor():
    with pytest.raises(DmspError, match=r"scale=2\.5 must be a whole number"):
        superres(PHOTO, 2.5, psf=gaussian_psf(1))
