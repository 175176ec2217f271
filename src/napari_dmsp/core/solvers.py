"""The solvers: generators that yield one `State` per evaluation of the denoiser.

Images are tensors (B, C, H, W) on a scale where 0..1 is the range of the prior's training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .noise import FLOOR, residual_variance
from .operators import Operator
from .prior import Denoiser, draw_normal

DAE_SIGMA = 11 / 255
# Error of the data step relative to the width of the smoothing; 0.01 costs 0.1 dB.
ACCURACY = 0.003
# Steps of the iterative data step. The first ones have no good guess to start from; from the third
# on, more than two gain less than 0.03 dB.
STEPS = (10, 5, 2)


def _plain(x: Tensor) -> NDArray[np.float32]:
    return x.detach().cpu().float().numpy()


@dataclass(frozen=True)
class State:
    """One step of a restoration.

    Attributes
    ----------
    image : Tensor
        The estimate (B, C, H, W) in the frame of the result.
    evaluation, total : int
        Evaluations of the denoiser so far, and planned.
    noise_sigma : float
        Noise level assumed in this step, given or estimated.
    residual : float
        Root mean square of ``A x - y``.
    psf : Tensor, optional
        The point spread function, given or estimated so far, (kh, kw); None where there is none.
    """

    image: Tensor
    evaluation: int
    total: int
    noise_sigma: float
    residual: float
    psf: Tensor | None = None
    to_array: Callable[[Tensor], NDArray[np.float32]] = field(default=_plain, repr=False)

    def array(self) -> NDArray[np.float32]:
        """Return the estimate in the layout and the units of the user's image."""
        return self.to_array(self.image)


def iterate_sgd(
    y: Tensor,
    operator: Operator,
    denoiser: Denoiser,
    *,
    noise_sigma: float | None = None,
    noise_start: float | None = None,
    iterations: int = 300,
    dae_sigma: float = DAE_SIGMA,
    step: float = 0.1,
    momentum: float = 0.9,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Stochastic gradient descent with momentum, as published: Table 1 (NB, NA) with eq. 19, 20.

    Parameters
    ----------
    y : Tensor
        Observation (B, C, H, W).
    operator : Operator
        The degradation A.
    denoiser : callable
        ``denoiser(x, sigma)``, trained for ``dae_sigma``.
    noise_sigma : float, optional
        Known noise level (row NB); None estimates it with eq. 21 in every step (row NA).
    noise_start : float, optional
        Noise level assumed first, where it is known: it falls geometrically, and with it the weight
        of the prior, as the paper does it without noise.
    iterations : int
        Steps; each evaluates the denoiser once.
    dae_sigma : float
        Standard deviation of the injected noise, the paper's sigma_1; sigma^2 is twice its square.
    step, momentum : float
        The paper's alpha and mu.
    bounds : tuple of float, optional
        The estimate is clamped to this range after every step.
    generator : torch.Generator, optional
        CPU generator of the injected noise.

    Notes
    -----
    The weights of data and prior are normalised to sum 1, and the gradient of the data by the norm
    of the operator; with the raw weights of Table 1 the published step length diverges.
    """
    x = operator.start(y)
    velocity = torch.zeros_like(x)
    prior_weight, norm = 1 / dae_sigma**2, operator.norm
    for evaluation in range(1, iterations + 1):
        prior = x - denoiser(x + dae_sigma * draw_normal(x, generator), dae_sigma)
        error = operator.forward(x) - y
        mean = float(error.square().mean()) / operator.coverage
        if noise_sigma is None:
            variance = residual_variance(mean, math.sqrt(2) * dae_sigma, operator.energy)
        else:
            end = max(noise_sigma, FLOOR)
            start = max(noise_start or 0, end)
            variance = geometric(start, end, evaluation - 1, iterations) ** 2
        weight = 1 / (1 + prior_weight * variance)
        update = weight / norm * operator.adjoint(error) + (1 - weight) * prior
        velocity = momentum * velocity - step * update
        x = x + velocity
        if bounds is not None:
            x = x.clamp(*bounds)
        yield State(operator.crop(x), evaluation, iterations, math.sqrt(variance), math.sqrt(mean))


def iterate_annealed(
    y: Tensor,
    operator: Operator,
    denoiser: Denoiser,
    *,
    noise_sigma: float | None = None,
    noise_bounds: tuple[float, float] = (0.0, math.inf),
    iterations: int = 24,
    sigma_start: float = 49 / 255,
    sigma_end: float = 1 / 255,
    end_ratio: float = 1.0,
    kappa: float = 0.4,
    gamma: float = 0.0,
    momentum: float = 0.0,
    symmetries: bool = True,
    denoise_last: bool = False,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Maximise the same objective with an exact data step and a smoothing that shrinks.

    Setting the gradient of eq. 7 to zero with the prior evaluated at the last estimate gives
    ``x = (lam A^T A + c I)^-1 (lam A^T y + c r(x))``: the fixed points of the paper's descent if
    ``kappa`` is 1, reached without a step length. The width of the smoothing falls geometrically
    from ``sigma_start`` to about the noise level.

    Parameters
    ----------
    y, operator, noise_sigma, generator
        As for `iterate_sgd`. A noise level of None follows eq. 21 with the current smoothing.
    noise_bounds : tuple of float
        Least and greatest noise level of that estimate, see `noise.noise_bounds`.
    denoiser : callable
        ``denoiser(x, sigma)`` for any sigma up to about 60/255.
    iterations : int
        Evaluations of the denoiser.
    sigma_start : float
        First smoothing width.
    sigma_end, end_ratio : float
        The last smoothing width is ``end_ratio`` times the noise level, but at least ``sigma_end``.
    kappa : float
        Weight of the prior: ``c = kappa / sigma^2``. Less than 1 makes up for a smoothing that is
        wider than the error of the estimate.
    gamma : float
        Injected noise relative to sigma (eq. 19).
    momentum : float
        Part of the last step by which the denoiser looks ahead (Nesterov): thin structures need
        many steps to rise.
    symmetries : bool
        Evaluate the denoiser under a random flip or rotation in every step.
    denoise_last : bool
        Whether the last step denoises at the noise level and leaves it at that: for images that
        are smooth, as those of microscopes are, the data have nothing more to say then.
    """
    least, most = noise_bounds if noise_sigma is None else (noise_sigma, noise_sigma)
    variance = max(most if math.isfinite(most) else least, FLOOR) ** 2
    x = operator.start(y)
    before, correction = x, None
    for evaluation in range(1, iterations + 1):
        end = max(end_ratio * math.sqrt(variance), sigma_end)
        sigma = geometric(max(sigma_start, end), end, evaluation - 1, iterations)
        turn = int(torch.randint(8, (1,), generator=generator)) if symmetries else 0
        last = denoise_last and evaluation == iterations > 1
        if last:
            sigma = max(math.sqrt(variance), sigma_end)
        # The first step leaves the start, and says nothing of where the next one goes.
        ahead = x + momentum * (x - before) if momentum and evaluation > 2 else x
        before = x
        noisy = ahead + gamma * sigma * draw_normal(x, generator) if gamma else ahead
        prior = _turned(denoiser, noisy, sigma * math.sqrt(1 + gamma**2), turn)
        if last:
            x, misfit = prior, float((operator.forward(prior) - y).square().sum())
        else:
            # It changes slowly between evaluations: the last one is a good first guess.
            x, misfit, correction = operator.fit(
                y,
                prior,
                kappa * variance / sigma**2,
                correction,
                ACCURACY * sigma,
                STEPS[min(evaluation, len(STEPS)) - 1],
            )
        residual = math.sqrt(misfit / y.numel() / operator.coverage)
        yield State(operator.crop(x), evaluation, iterations, math.sqrt(variance), residual)
        if least < most:
            spread = operator.energy * sigma**2
            if math.isfinite(most):
                # Sharp data say more than the prior, and narrow it.
                spread *= variance / (variance + spread)
            variance = max(min(residual**2 + spread, most**2), least**2, FLOOR**2)


def _turned(denoiser: Denoiser, x: Tensor, sigma: float, turn: int) -> Tensor:
    """Denoise under one of the 8 flips and rotations, and undo it."""
    turned = torch.rot90(x, turn % 4, (-2, -1))
    turned = turned.flip(-1) if turn >= 4 else turned
    result = denoiser(turned, sigma)
    result = result.flip(-1) if turn >= 4 else result
    return torch.rot90(result, -(turn % 4), (-2, -1))


def geometric(first: float, last: float, index: int, count: int) -> float:
    """Return value ``index`` of ``count`` that fall geometrically from ``first`` to ``last``."""
    fraction = index / max(count - 1, 1)
    return first ** (1 - fraction) * last**fraction
