"""Both solvers against the closed form that a Gaussian prior has."""

from collections import deque

import numpy as np
import pytest
import torch

from napari_dmsp.core.data import Gaussian
from napari_dmsp.core.noise import noise_bounds, wavelet_sigma
from napari_dmsp.core.operators import Convolution
from napari_dmsp.core.solvers import Schedule, anneal, descend

MEAN, SPREAD = 0.5, 0.15


def gaussian_denoiser(x, sigma):
    """Posterior mean for pixels that are independent N(MEAN, SPREAD^2)."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def observe(noise_sigma, shape=(28, 30), seed=0, dtype=np.float64):
    """Return the data term of a blurred and noisy scene, noise level unknown."""
    rng = np.random.default_rng(seed)
    profile = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    psf = np.outer(profile, profile)
    op = Convolution(torch.from_numpy((psf / psf.sum()).astype(dtype)), shape)
    truth = MEAN + SPREAD * rng.standard_normal((1, 1, *op.extended_shape))
    clean = op.forward(torch.from_numpy(truth.astype(dtype)))
    noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(dtype))
    return Gaussian(operator=op, y=clean + noise_sigma * noise).within(0, np.inf)


def posterior_mean(data, noise_sigma, smoothing):
    """Maximiser of eq. 7 for the Gaussian prior smoothed by ``smoothing``."""
    c = noise_sigma**2 / (SPREAD**2 + smoothing**2)
    plain = Gaussian(operator=data.operator, y=data.y)
    mean = torch.full_like(data.start(), MEAN)
    return data.operator.crop(plain.prox(mean, c, tolerance=1e-9, steps=500).x)


def last(states):
    return deque(states, maxlen=1)[0]


def test_annealed_reaches_the_posterior_mean():
    noise = 0.05
    data = observe(noise).within(noise, noise)
    schedule = Schedule(iterations=300, sigma_start=noise, end_ratio=1.0, kappa=1.0)
    state = last(anneal(data, gaussian_denoiser, schedule))
    expected = posterior_mean(data, noise, noise)
    error = state.image - expected
    assert error.square().mean().sqrt() < 0.02 * expected.std()


def test_sgd_reaches_the_posterior_mean():
    noise = 0.05
    data = observe(noise).within(noise, noise)
    expected = posterior_mean(data, noise, noise)
    many = Gaussian(operator=data.operator, y=data.y.expand(16, -1, -1, -1)).within(noise, noise)
    states = descend(
        many, gaussian_denoiser, Schedule(iterations=2000), dae_sigma=noise, bounds=None,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    # The injected noise keeps the iterates moving around the solution: average them, over time
    # and over 16 runs at once.
    images = [s.image.mean(0) for s in states if s.evaluation > 500]
    error = torch.stack(images).mean(0) - expected[0]
    assert error.square().mean().sqrt() < 0.1 * expected.std()


# At lower levels the finest wavelets show some of this scene, which is white noise itself.
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.08])
def test_annealed_recovers_the_noise_level(noise):
    data = observe(noise, shape=(96, 96), dtype=np.float32)
    data = data.within(*noise_bounds(data))
    generator = torch.Generator().manual_seed(0)
    schedule = Schedule(end_ratio=1.0, kappa=0.4)
    state = last(anneal(data, gaussian_denoiser, schedule, generator=generator))
    assert state.noise_sigma == pytest.approx(noise, rel=0.05)


def test_states_count_the_evaluations():
    calls = []

    def denoiser(x, sigma):
        calls.append(sigma)
        return gaussian_denoiser(x, sigma)

    data = observe(0.05)
    states = list(anneal(data, denoiser, Schedule(iterations=7)))
    assert [(s.evaluation, s.total) for s in states] == [(i, 7) for i in range(1, 8)]
    assert len(calls) == 7
    assert calls == sorted(calls, reverse=True)
    assert all(s.image.shape == data.y.shape for s in states)


def test_same_seed_same_result():
    data = observe(0.01, dtype=np.float32).within(0.01, 0.01)

    def shift(x, sigma):
        return gaussian_denoiser(x.roll(1, -1), sigma)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return last(anneal(data, shift, Schedule(iterations=4), generator=generator)).image

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(5))


def test_sgd_clamps_to_its_bounds():
    data = observe(0.05)
    bright = Gaussian(operator=data.operator, y=data.y * 3 - 1).within(0, np.inf)
    states = descend(bright, gaussian_denoiser, Schedule(iterations=20), bounds=(0.2, 0.8))
    image = last(states).image
    assert image.min() >= 0.2
    assert image.max() <= 0.8


@pytest.mark.parametrize("solver", [anneal, descend])
def test_volumes_are_solved_too(solver):
    rng, noise = np.random.default_rng(0), 0.05
    op = Convolution(torch.full((3, 3, 3), 1 / 27, dtype=torch.float64), (6, 9, 8))
    truth = torch.from_numpy(MEAN + SPREAD * rng.standard_normal((1, 1, *op.extended_shape)))
    y = op.forward(truth)
    y = y + noise * torch.from_numpy(rng.standard_normal(y.shape))
    data = Gaussian(operator=op, y=y).within(noise, noise)
    schedule = Schedule(iterations=300, sigma_start=noise, end_ratio=1.0, kappa=1.0)
    generator = torch.Generator().manual_seed(0)
    many = Gaussian(operator=op, y=y.expand(16, -1, -1, -1, -1)).within(noise, noise)
    states = solver(many, gaussian_denoiser, schedule, generator=generator)
    # The descent moves around the solution.
    images = [state.image.mean(0) for state in states if state.evaluation > 100]
    error = torch.stack(images).mean(0) - posterior_mean(data, noise, noise)[0]
    assert error.shape == y.shape[1:]
    assert error.square().mean().sqrt() < 0.2 * y.std()


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.1])
def test_wavelet_estimate_of_pure_noise(noise):
    y = 0.5 + noise * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    assert wavelet_sigma(y) == pytest.approx(noise, rel=0.05)
