"""The solvers: functions of data, prior and schedule that yield one `State` per evaluation.

Images are tensors (B, C, *space) on a scale where 0..1 is the range of the prior's training images.
Another solver is one more function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..settings import (
    BLURRED_EVALUATIONS,
    FLUORESCENCE_EVALUATIONS,
    SHARP_EVALUATIONS,
)
from .data import MOST_STEPS, Fit, Gaussian
from .prior import Denoiser, mean_shift
from .uncertainty import draw_noise

DAE_SIGMA = 11 / 255
# Error of the fit to the data relative to the width of the smoothing; 0.01 costs 0.1 dB.
ACCURACY = 0.003
# Steps of an iterative fit in the first evaluation, the second, and all others. The first ones have
# no good guess to start from; from the third on, more than two gain less than 0.03 dB.
STEPS = (10, 5, 2)

# Times what white noise would add that the first fit adds at most, texture included: more in one
# of 160 photographs. And where and after how many times the level is raised no more.
MOST_ADDED, SETTLED, RAISES = 1.75, 1.4, 4
CORRELATED = (
    "The noise is not white: that of neighbouring pixels is alike, as after compression (JPEG) or "
    "interpolation, or along rows. A higher noise level was assumed."
)
# How a denoiser is shown an estimate: (denoiser, estimate, sigma, evaluation, generator).
View = Callable[[Denoiser, Tensor, float, int, torch.Generator | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Parameters of the solvers."""

    # Evaluations of the denoiser by `anneal`.
    iterations: int = BLURRED_EVALUATIONS
    # First smoothing width; the last is ``end_ratio`` times the noise level, at least `sigma_end`.
    sigma_start: float = 49 / 255
    sigma_end: float = 1 / 255
    end_ratio: float = 0.7
    # Weight of the prior: ``c = kappa / sigma^2``. Less than 1 makes up for a smoothing that is
    # wider than the error of the estimate.
    kappa: float = 0.3
    # Part of the last step by which the denoiser looks ahead (Nesterov): thin structures need many
    # steps to rise.
    momentum: float = 0.0
    # Whether the last step denoises at the noise level and leaves it at that: for images that are
    # smooth, as those of microscopes are, the data have nothing more to say then.
    denoise_last: bool = False
    # Steps of an iterative fit without weights in the first evaluation, the second, and so on; and
    # steps of any fit at most.
    steps: tuple[int, ...] = STEPS
    most_steps: int = MOST_STEPS
    # Whether fits begin at the estimate that was denoised, which is near to the data, rather than
    # at the denoised one with the last correction: where few steps are to do.
    resumed: bool = False
    # First and last noise level that `descend` assumes where none is given; by default it follows
    # eq. 21, which says nothing about operators that pass all detail.
    sgd_noise: tuple[float, float] | None = None
    # By how much the error is larger than what a replicate differs by, see `uncertainty`; and its
    # least part of the noise level: what is fainter than the noise may be missing anywhere.
    error_factor: float = 1.0
    error_floor: float = 0.0


BLURRED = Schedule(error_factor=3.2)
FLUORESCENCE = Schedule(
    iterations=FLUORESCENCE_EVALUATIONS,
    kappa=0.2,
    momentum=0.7,
    denoise_last=True,
    error_factor=1.85,
    error_floor=0.3,
)
# Where detail was left, the smoothing must stay wide enough to see the artefacts of sampling.
SHARP = Schedule(
    iterations=SHARP_EVALUATIONS,
    sigma_end=5 / 255,
    end_ratio=1.0,
    kappa=0.23,
    sgd_noise=(DAE_SIGMA, 0.0),
    error_factor=3.4,
)
# Most of the pixels are known: the noise is seen best by smoothing much less than it is wide.
MOSAIC = Schedule(
    sigma_start=20 / 255,
    sigma_end=0.7 / 255,
    end_ratio=0.3,
    kappa=0.2,
    sgd_noise=(2.5 / 255, 1 / 255),
    error_factor=1.4,
)
# The colours of light share their detail, and a wide smoothing removes the fringes of the start.
# Those of photographs that were made vivid share less, which would be lost to a wide smoothing.
RAW = replace(MOSAIC, sigma_start=40 / 255)


def _plain(x: Tensor) -> NDArray[np.float32]:
    return x.detach().cpu().float().numpy()


@dataclass(frozen=True)
class State:
    """One step of a restoration.

    Attributes
    ----------
    image : Tensor
        The estimate ``(B, C, *space)`` in the frame of the result.
    evaluation, total : int
        Evaluations of the denoiser so far, and planned.
    noise_sigma : float
        Noise level assumed in this step, given or estimated.
    residual : float
        Root mean square of ``A x - y``, weighted as the samples are.
    psf : Tensor, optional
        The point spread function, given or estimated so far, (kh, kw); None where there is none.
    whole : Tensor, optional
        The unknown image of the operator, of which ``image`` is the frame.
    error : Tensor, optional
        One standard deviation of the error of ``image``; None until it is known.
    stage : str
        What is being done, such as "restoring".
    done : float
        Part of all the work that is done, where evaluations differ in what they take.
    """

    image: Tensor
    evaluation: int
    total: int
    noise_sigma: float
    residual: float
    psf: Tensor | None = None
    whole: Tensor | None = field(default=None, repr=False)
    error: Tensor | None = field(default=None, repr=False)
    stage: str = "restoring"
    done: float = math.nan
    to_array: Callable[[Tensor], NDArray[np.float32]] = field(default=_plain, repr=False)

    @property
    def part(self) -> float:
        """Part of the work that is done, 0 to 1."""
        return self.evaluation / self.total if math.isnan(self.done) else self.done

    def array(self) -> NDArray[np.float32]:
        """Return the estimate in the layout and the units of the user's image."""
        return self.to_array(self.image)


def anneal(
    data: Gaussian,
    prior: Denoiser,
    schedule: Schedule,
    *,
    view: View | None = None,
    start: Tensor | None = None,
    least: float = -math.inf,
    generator: torch.Generator | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[State]:
    """Maximise the objective with an exact fit to the data and a smoothing that shrinks.

    Setting the gradient of eq. 7 to zero with the prior evaluated at the last estimate gives
    ``x = (A^T A / sigma_n^2 + c I)^-1 (A^T y / sigma_n^2 + c r(x))``: the fixed points of the
    paper's descent if ``kappa`` is 1, reached without a step length. The width of the smoothing
    falls geometrically to about the noise level, and every evaluation sees the image under another
    flip or rotation.

    Parameters
    ----------
    data : Gaussian
        The observation, its degradation and its noise.
    prior : callable
        ``prior(x, sigma)`` denoises for any sigma up to about 60/255.
    schedule : Schedule
        Widths of the smoothing and weights.
    view : callable, optional
        How the prior is shown estimates; by default under a random flip or rotation.
    start : Tensor, optional
        A first estimate; by default what the operator makes of the observation.
    least : float
        Least value of a denoised image.
    generator : torch.Generator, optional
        CPU generator of the flips.
    warn : callable, optional
        Takes a sentence for the user where the noise is not white, see `allow_correlation`; by
        default, that is not looked for.
    """
    view = view or _turned
    energy, count = data.operator.energy(data.y), schedule.iterations
    x = data.start() if start is None else start
    before, correction = x, None
    for evaluation in range(1, count + 1):
        end = max(schedule.end_ratio * data.sigma, schedule.sigma_end)
        sigma = geometric(max(schedule.sigma_start, end), end, evaluation - 1, count)
        last = schedule.denoise_last and evaluation == count > 1
        if last:
            sigma = max(data.sigma, schedule.sigma_end)
        # The first step leaves the start, and says nothing of where the next one goes.
        momentum = schedule.momentum if evaluation > 2 else 0.0
        ahead = x + momentum * (x - before) if momentum else x
        before = x
        x = view(prior, ahead, sigma, evaluation, generator)
        if math.isfinite(least) and not last:
            # Not the fits: what noise does to them has a mean of zero, unless it is cut.
            x = x.clamp(min=least)
        if schedule.resumed:
            correction = data.operator.analyse(ahead - x)
        if last:
            error = data.error(x)
        else:
            fit = partial(
                Gaussian.prox,
                c=schedule.kappa / sigma**2,
                # It changes slowly between evaluations: the last one is a good first guess.
                start=correction,
                tolerance=ACCURACY * sigma,
                rough=schedule.steps[min(evaluation, len(schedule.steps)) - 1],
                steps=schedule.most_steps,
            )
            found = fit(data, x)
            if evaluation == 1 and warn is not None:
                white = data
                data, found = allow_correlation(data, x, found, fit)
                if data is not white:
                    warn(CORRELATED)
            x, error, correction = found
        residual = data.residual(error)
        frame = data.operator.crop(x)
        state = State(frame, evaluation, count, data.sigma, residual, whole=x)
        data = data.updated(error, energy * sigma**2)
        # The next evaluation needs its memory.
        del error
        yield state


def allow_correlation(
    data: Gaussian, v: Tensor, found: Fit, fit: Callable[[Gaussian, Tensor], Fit]
) -> tuple[Gaussian, Fit]:
    """Return data with a higher noise level where their noise is not white, and the fit to them.

    Noise that is the same along a row, was interpolated, or is an artefact of compression has
    little of the finest details by which its level was estimated, but much of those that a fit
    amplifies. So a fit adds more to a denoised image than one to white noise adds to nothing; the
    level is raised as much, until it does not.

    Parameters
    ----------
    data : Gaussian
        The observation, its degradation and its noise; returned as it is where the level is known,
        where it has an upper bound, or where the noise is white.
    v : Tensor
        The denoised image.
    found : Fit
        The fit of that image to the data, ``fit(data, v)``.
    fit : callable
        Makes such a fit, see `Gaussian.prox`.
    """
    if math.isfinite(data.most):
        return data, found
    most, nothing = MOST_ADDED, torch.zeros_like(v)
    for _ in range(RAISES):
        noise = draw_noise(data, data.sigma, torch.Generator().manual_seed(0))
        white = fit(replace(data, y=noise), nothing)
        seen, expected = (
            data.operator.crop(added).abs().median() for added in (found.x - v, white.x)
        )
        ratio = float(seen / expected)
        if not ratio > most:
            break
        most = SETTLED
        data = replace(data, sigma=ratio * data.sigma, least=ratio * data.sigma)
        found = fit(data, v)
    return data, found


def descend(
    data: Gaussian,
    prior: Denoiser,
    schedule: Schedule,
    *,
    dae_sigma: float = DAE_SIGMA,
    step: float = 0.1,
    momentum: float = 0.9,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Stochastic gradient descent with momentum, as published: Table 1 (NB, NA) with eq. 19, 20.

    Parameters
    ----------
    data : Gaussian
        The observation, its degradation and its noise. Where the level is known (row NB), it falls
        to that from the first of ``schedule.sgd_noise``, and with it the weight of the prior, as
        the paper does it without noise; else it follows eq. 21 in every step (row NA).
    prior : callable
        ``prior(x, sigma)`` denoises, and was trained for ``dae_sigma``.
    schedule : Schedule
        Steps, each of which evaluates the denoiser once.
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
    operator, count = data.operator, schedule.iterations
    energy, norm = operator.energy(data.y), operator.norm(data.y)
    smoothing = math.sqrt(2) * dae_sigma
    end, start = data.sigma, max((schedule.sgd_noise or (0.0, 0.0))[0], data.sigma)
    x = data.start()
    velocity = torch.zeros_like(x)
    for evaluation in range(1, count + 1):
        shift = mean_shift(prior, x, smoothing, stochastic=True, generator=generator)
        error = data.error(x)
        if data.least < data.most:
            data = data.updated(error, energy * smoothing**2)
        else:
            data = replace(data, sigma=geometric(start, end, evaluation - 1, count))
        trust = 1 / data.sigma**2
        downhill = trust / norm * data.gradient(error) - shift
        velocity = momentum * velocity - step / (trust + 1 / dae_sigma**2) * downhill
        x = x + velocity
        if bounds is not None:
            x = x.clamp(*bounds)
        residual = data.residual(error)
        yield State(operator.crop(x), evaluation, count, data.sigma, residual)


def draw_turn(generator: torch.Generator | None) -> int:
    """Draw one of the 8 flips and rotations of a plane."""
    return int(torch.randint(8, (1,), generator=generator))


def _turned(
    denoiser: Denoiser, x: Tensor, sigma: float, _: int, generator: torch.Generator | None
) -> Tensor:
    """Denoise under a random flip or rotation."""
    return denoise_turned(denoiser, x, sigma, draw_turn(generator))


def denoise_turned(denoiser: Denoiser, x: Tensor, sigma: float, turn: int) -> Tensor:
    """Denoise under one of the 8 flips and rotations of the last two axes, and undo it."""
    turned = torch.rot90(x, turn % 4, (-2, -1))
    turned = turned.flip(-1) if turn >= 4 else turned
    result = denoiser(turned, sigma)
    result = result.flip(-1) if turn >= 4 else result
    return torch.rot90(result, -(turn % 4), (-2, -1))


def geometric(first: float, last: float, index: int, count: int) -> float:
    """Return value ``index`` of ``count`` that fall geometrically from ``first`` to ``last``."""
    fraction = index / max(count - 1, 1)
    return first ** (1 - fraction) * last**fraction
