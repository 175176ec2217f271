import numpy as np
import pytest
from scipy.signal import convolve2d

from napari_dmsp.core.simulate import shake_psf, simulate_blur
from napari_dmsp.errors import DmspError


@pytest.mark.parametrize("kernel_shape", [(3, 5), (4, 6), (1, 1)])
def test_is_a_valid_true_convolution(kernel_shape):
    rng = np.random.default_rng(0)
    truth, psf = rng.random((20, 25, 3)), rng.random(kernel_shape)
    observed, crop = simulate_blur(truth, psf)
    expected = [convolve2d(truth[..., c], psf, mode="valid") for c in range(3)]
    np.testing.assert_allclose(observed, np.stack(expected, -1), rtol=1e-5)
    assert crop.shape == observed.shape
    assert observed.dtype == crop.dtype == np.float32


@pytest.mark.parametrize("size", [5, 6])
def test_truth_lies_under_the_observation(size):
    truth = np.random.default_rng(0).random((20, 25)).astype(np.float32)
    psf = np.zeros((size, size))
    psf[(size - 1) // 2, (size - 1) // 2] = 1
    observed, crop = simulate_blur(truth, psf)
    np.testing.assert_allclose(observed, crop, atol=1e-6)


def test_noise_has_its_level_and_seed():
    truth, psf = np.full((200, 200), 100.0), np.ones((1, 1))
    first, again, other = (simulate_blur(truth, psf, 5, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first - 100).std() == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize(("truth", "psf"), [((4, 9), (5, 5)), ((9,), (3, 3)), ((9, 9), (3,))])
def test_bad_shapes(truth, psf):
    with pytest.raises(DmspError, match="psf"):
        simulate_blur(np.ones(truth), np.ones(psf))


@pytest.mark.parametrize("size", [3, 9, 61])
def test_shake_fills_its_frame(size):
    psf = shake_psf(size, seed=3)
    assert psf.shape == (size, size)
    assert psf.min() >= 0
    np.testing.assert_allclose(psf.sum(), 1, rtol=1e-5)
    rows, columns = np.nonzero(psf)
    assert max(np.ptp(rows), np.ptp(columns)) == size - 1
    np.testing.assert_array_equal(psf, shake_psf(size, seed=3))
    assert not np.array_equal(psf, shake_psf(size, seed=4))


@pytest.mark.parametrize("size", [1, 4])
def test_shake_needs_an_odd_side(size):
    with pytest.raises(DmspError, match=f"size={size}"):
        shake_psf(size)
