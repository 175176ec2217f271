"""Both solvers against the closed form that a Gaussian prior has."""

from collections import deque

import numpy as np
import pytest
import torch

from napari_dmsp.core.noise import noise_bounds, wavelet_sigma
from napari_dmsp.core.operators import Blur
from napari_dmsp.core.solvers import iterate_annealed, iterate_sgd

MEAN, SPREAD = 0.5, 0.15


def gaussian_denoiser(x, sigma):
    """Posterior mean for pixels that are independent N(MEAN, SPREAD^2)."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def observe(noise_sigma, shape=(28, 30), seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    profile = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    psf = np.outer(profile, profile)
    op = Blur(torch.from_numpy((psf / psf.sum()).astype(dtype)), shape, max_steps=500)
    truth = MEAN + SPREAD * rng.standard_normal((1, 1, *op.extended_shape))
    clean = op.forward(torch.from_numpy(truth.astype(dtype)))
    noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(dtype))
    return op, clean + noise_sigma * noise


def posterior_mean(op, y, noise_sigma, smoothing):
    """Maximiser of eq. 7 for the Gaussian prior smoothed by ``smoothing``."""
    c = noise_sigma**2 / (SPREAD**2 + smoothing**2)
    return op.crop(op.fit(y, torch.full_like(op.start(y), MEAN), c, tolerance=1e-9).x)


def last(states):
    return deque(states, maxlen=1)[0]


def test_annealed_reaches_the_posterior_mean():
    noise = 0.05
    op, y = observe(noise)
    state = last(
        iterate_annealed(
            y, op, gaussian_denoiser, noise_sigma=noise, sigma_start=noise, kappa=1.0, gamma=0.0,
            iterations=300, symmetries=False,
        )
    )  # fmt: skip
    expected = posterior_mean(op, y, noise, noise)
    error = state.image - expected
    assert error.square().mean().sqrt() < 0.02 * expected.std()


def test_sgd_reaches_the_posterior_mean():
    noise = 0.05
    op, y = observe(noise)
    states = iterate_sgd(
        y.expand(16, -1, -1, -1), op, gaussian_denoiser, noise_sigma=noise, dae_sigma=noise,
        iterations=2000, generator=torch.Generator().manual_seed(0), bounds=None,
    )  # fmt: skip
    # The injected noise keeps the iterates moving around the solution: average them, over time
    # and over 16 runs at once.
    images = [s.image.mean(0) for s in states if s.evaluation > 500]
    expected = posterior_mean(op, y, noise, noise)
    error = torch.stack(images).mean(0) - expected[0]
    assert error.square().mean().sqrt() < 0.1 * expected.std()


# At lower levels the finest wavelets show some of this scene, which is white noise itself.
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.08])
def test_annealed_recovers_the_noise_level(noise):
    op, y = observe(noise, shape=(96, 96), dtype=np.float32)
    generator, bounds = torch.Generator().manual_seed(0), noise_bounds(y, op)
    state = last(
        iterate_annealed(y, op, gaussian_denoiser, noise_bounds=bounds, generator=generator)
    )
    assert state.noise_sigma == pytest.approx(noise, rel=0.05)


def test_states_count_the_evaluations():
    calls = []

    def denoiser(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    op, y = observe(0.05)
    states = list(iterate_annealed(y, op, denoiser, iterations=7))
    assert [(s.evaluation, s.total) for s in states] == [(i, 7) for i in range(1, 8)]
    assert len(calls) == 7
    assert calls == sorted(calls, reverse=True)
    assert all(s.image.shape == y.shape for s in states)


def test_same_seed_same_result():
    op, y = observe(0.01, dtype=np.float32)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        states = iterate_annealed(
            y, op, gaussian_denoiser, iterations=4, gamma=0.5, generator=generator
        )
        return last(states)

    assert torch.equal(run(3).image, run(3).image)
    assert not torch.equal(run(3).image, run(4).image)


def test_sgd_clamps_to_its_bounds():
    op, y = observe(0.05)
    states = iterate_sgd(y * 3 - 1, op, gaussian_denoiser, iterations=20, bounds=(0.2, 0.8))
    image = last(states).image
    assert image.min() >= 0.2
    assert image.max() <= 0.8


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.1])
def test_wavelet_estimate_of_pure_noise(noise):
    y = 0.5 + noise * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    assert wavelet_sigma(y) == pytest.approx(noise, rel=0.05)
