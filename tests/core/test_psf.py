"""Point spread functions of known shape."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from napari_dmsp.core.psf import gaussian_psf, motion_psf
from napari_dmsp.errors import DmspError


def spread(psf):
    """Centre (y, x) and covariance of a PSF."""
    grid = np.moveaxis(np.indices(psf.shape) - (np.array(psf.shape) // 2)[:, None, None], 0, -1)
    centre = (psf[..., None] * grid).sum((0, 1))
    return centre, np.einsum("ij,ijk,ijl->kl", psf, grid, grid)


@pytest.mark.parametrize("sigma", [0.8, 1.0, 2.7])
def test_gaussian_has_its_width(sigma):
    psf = gaussian_psf(sigma)
    assert psf.dtype == np.float32
    assert psf.shape[0] == psf.shape[1]
    assert psf.shape[0] % 2 == 1
    assert_allclose(psf.sum(), 1, rtol=1e-6)
    centre, covariance = spread(psf)
    assert_allclose(centre, 0, atol=1e-6)
    assert_allclose(covariance, sigma**2 * np.eye(2), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135, 180, -50, 400])
@pytest.mark.parametrize("length", [1.0, 6.0, 14.5])
def test_motion_has_its_length_and_direction(length, angle):
    psf = motion_psf(length, angle)
    assert psf.dtype == np.float32
    assert psf.shape[0] % 2 == 1
    assert_allclose(psf.sum(), 1, rtol=1e-6)
    centre, covariance = spread(psf)
    assert_allclose(centre, 0, atol=1e-5)
    theta = np.radians(angle)
    # Rows count downwards; sharing a point among four pixels widens by at most 1/4 px^2.
    along, across = (-np.sin(theta), np.cos(theta)), (np.cos(theta), np.sin(theta))
    assert 0 <= along @ covariance @ along - length**2 / 12 < 0.26
    assert 0 <= across @ covariance @ across < 0.26


def test_angle_is_counter_clockwise_as_displayed():
    psf = motion_psf(9, 45)
    assert psf[1:4, 6:].sum() > 0.2
    assert psf[:4, :4].sum() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian_psf(0),
        lambda: gaussian_psf(-1),
        lambda: gaussian_psf(float("nan")),
        lambda: gaussian_psf(1e6),
        lambda: motion_psf(0, 0),
        lambda: motion_psf(float("inf"), 0),
        lambda: motion_psf(5, float("nan")),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(DmspError):
        make()
