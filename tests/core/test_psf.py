"""Point spread functions of known shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from napari_dmsp.core import prepare_deblur, run
from napari_dmsp.core.inputs import check_psf
from napari_dmsp.core.operators import Convolution
from napari_dmsp.core.psf import align_psf, clean_psf, gaussian_psf, motion_psf
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


def blurred(truth, psf, origin):
    """Blur by a sum of explicit shifts, weighted by the PSF, about a stated origin."""
    return sum(
        weight * np.roll(truth, (row - origin[0], column - origin[1]), (0, 1))
        for (row, column), weight in np.ndenumerate(psf)
    )


def framed(psf, shape, origin):
    """Put a PSF of odd sides into an empty frame, its centre at ``origin``."""
    frame = np.zeros(shape)
    top, left = (o - n // 2 for o, n in zip(origin, psf.shape, strict=True))
    frame[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return frame


TRUTH = gaussian_filter(np.random.default_rng(1).random((64, 64)), 2) * 1000
GAUSS = gaussian_psf(1.2)
# Asymmetric, so that a mirror would show.
BENT = np.array([[0, 0, 0, 1, 0], [0, 0, 2, 2, 0], [0, 1, 9, 3, 0], [0, 0, 4, 0, 0], [0] * 5]) / 22


def modelled(psf, truth=TRUTH, **options):
    """Blur by the PSF as it is really used, in the frame of the truth."""
    cleaned = check_psf(psf, truth.shape, **options)
    operator = Convolution(torch.from_numpy(cleaned).double(), (24, 24))
    top, left = operator._corner
    part = truth[20 - top :, 20 - left :][: operator.extended_shape[0]]
    extended = torch.from_numpy(part[:, : operator.extended_shape[1]].copy())[None, None]
    return operator.forward(extended)[0, 0].numpy()


@pytest.mark.parametrize("psf", [GAUSS, BENT], ids=["Gaussian", "bent"])
@pytest.mark.parametrize(
    ("shape", "origin"),
    [
        ((20, 20), (9, 9)),
        ((20, 20), (10, 10)),
        ((20, 17), (10, 8)),
        ((17, 20), (8, 9)),
        ((16, 20), (7, 10)),
        ((17, 15), (8, 7)),
    ],
)
def test_the_origin_of_even_sides_is_where_the_mass_is(psf, shape, origin):
    frame, said = framed(psf, shape, origin), []
    expected = blurred(TRUTH, psf, (psf.shape[0] // 2, psf.shape[1] // 2))[20:44, 20:44]
    assert_allclose(modelled(frame, warnings=said), expected, rtol=1e-5)
    later = any(o == n // 2 for o, n in zip(origin, shape, strict=True) if n % 2 == 0)
    assert len(said) == later
    assert not later or f"({origin[0]}, {origin[1]})" in said[0]


@pytest.mark.parametrize("shape", [(24, 24), (23, 25), (24, 21)])
def test_a_psf_about_the_first_pixel_is_rolled(shape):
    # As it comes from a transfer function, by the inverse transform.
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    wrapped = np.fft.ifft2(np.exp(-2 * (np.pi * 1.7) ** 2 * (rows**2 + columns**2))).real
    said = []
    found = modelled(wrapped, warnings=said)
    assert_allclose(found, gaussian_filter(TRUTH, 1.7, truncate=6)[20:44, 20:44], rtol=1e-4)
    assert "first pixel" in said[0]


def test_a_motion_that_begins_at_the_corner_is_not_rolled():
    for psf in (np.eye(9), np.fliplr(np.eye(9)), np.array([[6.0, 0, 0, 0, 0, 0, 0, 0, 4]])):
        assert_array_equal(check_psf(psf, (64, 64)), (psf / psf.sum()).astype(np.float32))


@pytest.mark.parametrize("noise", [0, 3])
def test_the_background_under_a_bead_is_subtracted(noise):
    height, ground = 2000, 210
    y, x = np.mgrid[-16:17, -16:17]
    # Moffat: a halo that falls like 1/r^3.
    bead = height * (1 + (x**2 + y**2) / 4) ** -1.5
    measured = bead + ground + noise * np.random.default_rng(0).standard_normal(bead.shape)
    found, said = clean_psf(measured)
    assert f"A background of {ground}" in said[0] or "A background of 20" in said[0]
    assert np.mean(measured - found) == pytest.approx(ground, abs=3)
    used = run(prepare_deblur(TRUTH, measured, prior=lambda x, _: x, iterations=1)).psf
    assert used.max() == pytest.approx(bead.max() / bead.sum(), rel=0.15)
    assert used.max() > 3 * measured.max() / measured.sum()


@pytest.mark.parametrize(
    "psf",
    [
        *(gaussian_psf(sigma) for sigma in (0.5, 1, 3)),
        motion_psf(14, 30),
        motion_psf(8, 0),
        np.ones((11, 11)),
        np.ones((1, 9)),
        np.hypot(*np.mgrid[-8:9, -8:9]) <= 8,
        *((1 + np.square(np.mgrid[-20:21, -20:21]).sum(0) / 9) ** -power for power in (1, 1.5)),
    ],
)
def test_well_formed_psfs_stay_as_they_are(psf):
    found, said = clean_psf(psf.astype(float))
    assert_array_equal(found, psf)
    assert not [text for text in said if "border" not in text]


def test_negative_lobes_are_kept_and_said():
    lobes = 1.5 * framed(GAUSS, (21, 21), (10, 10)) - 0.5 * framed(
        gaussian_psf(2), (21, 21), (10, 10)
    )
    said = []
    expected = convolve2d(TRUTH, lobes, mode="same")[20:44, 20:44]
    assert_allclose(modelled(lobes, warnings=said), expected, rtol=1e-5)
    assert len(said) == 1
    assert "negative" in said[0]


def test_a_psf_that_its_frame_cuts_off_is_said():
    distance = np.square(np.mgrid[-4:5, -4:5]).sum(0)
    assert "border" in clean_psf(np.exp(-distance / 32))[1][0]
    assert not clean_psf(np.exp(-distance / 2))[1]


def test_a_psf_that_moves_the_image_is_said_and_stays():
    psf = framed(GAUSS, (21, 21), (12, 9))
    found, said = clean_psf(psf)
    assert_array_equal(found, psf)
    assert "(+2.0, -1.0)" in said[0]


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize(("shape", "origin"), [((20, 20), (10, 9)), ((19, 20), (9, 10))])
def test_superres_takes_the_same_origin(scale, shape, origin):
    odd = align_psf(GAUSS, scale)
    found = check_psf(framed(GAUSS, shape, origin), (64, 64), None, scale)
    middle = [(n - 1) / 2 for n in found.shape]
    grid = np.indices(found.shape).reshape(2, -1)
    assert_allclose((grid * found.ravel()).sum(1), middle, atol=1e-3)
    inner = tuple(
        slice((n - m) // 2, (n + m) // 2) for n, m in zip(found.shape, odd.shape, strict=True)
    )
    assert_allclose(found[inner], odd / odd.sum(), atol=1e-6)


def test_a_middle_between_two_pixels_is_said():
    profile = np.exp(-0.5 * (np.arange(12) - 5.5) ** 2 / 2.0**2)
    even, odd = np.outer(profile, profile), gaussian_psf(2.0)
    assert any("half a pixel off" in text for text in clean_psf(even)[1])
    assert not any("half a pixel" in text for text in clean_psf(odd)[1])
