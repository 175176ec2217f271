"""The error map: what it is, where it is, and that it holds what it says."""

import numpy as np
import pytest
import torch
from skimage import data

from napari_dmsp import Photons, deblur, demosaic, superres
from napari_dmsp.core.data import Gaussian, PoissonGaussian
from napari_dmsp.core.operators import Mosaic, Resize
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.core.uncertainty import deviation, shift, shift_back, simulate
from napari_dmsp.errors import DmspError

PSF = gaussian_psf(1.2)
BIG = data.camera()[100:190, 180:270].astype(float)
OBSERVED, TRUTH = simulate_blur(BIG, PSF, 3)
FEW = {"iterations": 3, "device": "cpu", "uncertainty": True}


def test_errors_are_where_they_are_predicted():
    result = deblur(OBSERVED, PSF, uncertainty=True, device="cpu")
    plain = deblur(OBSERVED, PSF, device="cpu")
    np.testing.assert_array_equal(result.image, plain.image)
    assert plain.error is None
    assert result.evaluations == 2 * plain.evaluations
    assert result.error.shape == result.image.shape
    assert result.error.dtype == np.float32
    error = np.abs(result.image - TRUTH)
    assert 0.85 < np.mean(error <= 2 * result.error) < 0.995
    # Where more is predicted, there is more.
    high = result.error > np.median(result.error)
    assert error[high].mean() > 1.5 * error[~high].mean()


def test_errors_of_enlarged_images_are_where_they_are_predicted():
    image = data.camera()[100:196, 180:276].astype(float)
    large = torch.tensor(image, dtype=torch.float32)[None, None]
    small = Resize((96, 96), (48, 48)).forward(large)[0, 0].numpy()
    result = superres(small, 2, uncertainty=True, device="cpu")
    error = np.abs(result.image - image)
    assert 0.8 < np.mean(error <= 2 * result.error) < 0.995
    high = result.error > np.median(result.error)
    assert error[high].mean() > 1.5 * error[~high].mean()


def test_units_seeds_and_record():
    first, again, other = (deblur(OBSERVED, PSF, **FEW, seed=seed).error for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    large = deblur(10 * OBSERVED + 500, PSF, **FEW, background=500)
    small = deblur(OBSERVED, PSF, **FEW, background=0)
    np.testing.assert_allclose(large.error, 10 * small.error, rtol=0.02, atol=0.1)
    assert large.settings["uncertainty"] is True
    assert large.settings["iterations"] == 3
    assert "error" not in large.to_dict()


def test_every_task_has_one():
    colour = data.astronaut()[100:164, 100:164].astype(np.float32)
    small = superres(colour[::2, ::2], 2, channel_axis=-1, **FEW)
    assert small.error.shape == small.image.shape == (64, 64, 3)
    mosaic = demosaic(colour[..., 1].astype(np.uint16), **FEW)
    assert mosaic.error.shape == mosaic.image.shape == (64, 64, 3)
    linear = demosaic(colour[..., 1], linear=True, developed=True, **FEW)
    for result in (small, mosaic, linear):
        assert np.isfinite(result.error).all()
        assert (result.error >= 0).all()
        assert result.error.mean() > 0


def test_volumes_stacks_and_gaps():
    rng = np.random.default_rng(0)
    volume = rng.poisson(rng.random((12, 20, 24)) ** 8 * 300).astype(np.float32)
    cube = np.einsum("i,j,k->ijk", *[gaussian_psf(1.0)[3]] * 3)
    result = deblur(volume, cube / cube.sum(), **FEW)
    assert result.error.shape == volume.shape
    stack = np.stack([OBSERVED, np.full_like(OBSERVED, 7), OBSERVED[::-1]])
    mask = np.zeros(OBSERVED.shape, bool)
    mask[30:40, 30:40] = True
    photons = Photons(0.1, 0, 3)
    result = deblur(stack, PSF, mask=mask, noise=photons, **FEW)
    assert result.error.shape == stack.shape
    # What is constant stays as it is.
    assert not result.error[1].any()
    assert result.planes[0].error is None
    assert (result.error[[0, 2]] > 0).all()


def test_who_stops_gets_no_map():
    result = deblur(OBSERVED, PSF, **FEW, callback=lambda state: state.evaluation == 4)
    assert result.error is None
    assert "stopped before the error map" in result.warnings[-1]
    totals = {(state.evaluation, state.total) for state in _states()}
    assert totals == {(i, 6) for i in range(1, 7)}


def _states():
    states = []
    deblur(OBSERVED, PSF, **FEW, callback=states.append)
    return states


def test_the_published_descent_has_none():
    with pytest.raises(DmspError, match=r"uncertainty=True is not for method='sgd'"):
        deblur(OBSERVED, PSF, method="sgd", uncertainty=True)


def test_new_observations_have_the_noise_of_the_old_one():
    y = torch.zeros(1, 1, 64, 64)
    weights = torch.ones_like(y)
    weights[..., :32] = 0.25
    weights[..., :8, :] = 0
    data_ = Gaussian(operator=Resize((64, 64), (64, 64)), y=y, weights=weights)
    noisy = simulate(data_, y, 0.1, torch.Generator().manual_seed(0))[0, 0]
    assert not noisy[:8].any()
    assert noisy[8:, :32].std() == pytest.approx(0.2, rel=0.05)
    assert noisy[8:, 32:].std() == pytest.approx(0.1, rel=0.05)
    mosaic = Mosaic(torch.ones(3, 64, 64))
    plain = Gaussian(operator=mosaic, y=y)
    clean = simulate(plain, torch.ones(1, 3, 64, 64), 0.0, torch.Generator())
    torch.testing.assert_close(clean, torch.full_like(y, 3.0))


def test_noise_of_photons_follows_the_estimate():
    y = torch.zeros(1, 1, 64, 64)
    light = torch.ones_like(y)
    data_ = PoissonGaussian.of(
        Resize((64, 64), (64, 64)), y, None, lambda light: 0.01 * light, light, 0.1
    )
    bright = torch.full_like(y, 9.0)
    noise = simulate(data_, bright, 0.1, torch.Generator().manual_seed(0)) - bright
    assert noise.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 3, 6, 7), (1, 1, 4, 5, 6)])
def test_a_shift_moves_by_a_pixel_and_is_undone(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    moved, inner = shift(x), (..., *(len(shape) - 2) * (slice(-1),))
    corner = (0, 0, *(len(shape) - 2) * (1,))
    assert moved.shape == x.shape
    assert moved[corner] == x[(0, 0, *(len(shape) - 2) * (0,))]
    torch.testing.assert_close(shift_back(moved)[inner], x[inner])
    torch.testing.assert_close(shift_back(x)[..., -1], shift_back(x)[..., -2])


def test_deviations_are_local_and_never_negative():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 16, 16] = 1
    found = deviation(x)
    assert (found >= 0).all()
    assert found[0, 0, 16, 16] == found.max()
    assert found[0, 0, 0, 0] == 0
    torch.testing.assert_close(deviation(torch.ones(1, 2, 8, 9, 10)), torch.ones(1, 2, 8, 9, 10))
