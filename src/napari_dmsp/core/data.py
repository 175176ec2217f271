"""The data term: what an observation says of the unknown image, given its degradation and noise.

The noise of a sample has the variance ``sigma^2 / w``: weights ``w`` are 0 in gaps, and less than
others where light makes the noise stronger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .operators import Operator, fill_gaps

# Noise is never assumed to be less than this part of the range: rounding to 8 bits gives 0.3/255.
FLOOR = 0.2 / 255
# Most conjugate-gradient steps of one `Gaussian.prox`.
MOST_STEPS = 50


class Fit(NamedTuple):
    """What `Gaussian.prox` found."""

    x: Tensor
    # ``y - A x``, of the shape of the observation.
    error: Tensor
    # Coefficients of ``x - v``, for the next fit to begin with; None where a closed form needs no
    # such thing.
    correction: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Gaussian:
    """Gaussian noise of one level: ``-2 log p(y | x) = sum w (A x - y)^2 / sigma^2``."""

    # The degradation A, and the observation (B, C, *space), with plausible values in its gaps.
    operator: Operator
    y: Tensor
    # 0 where ``y`` has no sample, else 1; sizes of 1 are broadcast. None is 1 everywhere.
    weights: Tensor | None = None
    # 0 where ``y`` has no sample, else 1; and 1 where a sample is the most that a sensor can tell,
    # so that the light may be more. From these, weights follow the estimate.
    kept: Tensor | None = None
    clipped: Tensor | None = None
    # Noise level of samples of weight 1, and its bounds: the same where it is known.
    sigma: float = 1.0
    least: float = 0.0
    most: float = math.inf

    def within(self, least: float, most: float) -> Self:
        """Return the same with a noise level between bounds; it begins with the greatest."""
        sigma = max(most if math.isfinite(most) else least, FLOOR)
        return replace(self, sigma=sigma, least=least, most=most)

    def start(self) -> Tensor:
        """Return a first estimate of the unknown image."""
        return self.operator.start(fill_gaps(self.y, self.weights), self.weights)

    def error(self, x: Tensor) -> Tensor:
        """Return ``y - A x``."""
        return self.y - self.operator.forward(x)

    def residual(self, error: Tensor) -> float:
        """Return the weighted root mean square of an error, on the scale of ``sigma``."""
        if self.weights is None:
            return float(error.square().mean().sqrt())
        weights = self.weights.expand_as(error)
        return float(((weights * error.square()).sum() / weights.sum()).sqrt())

    def gradient(self, error: Tensor) -> Tensor:
        """Return the gradient of ``-log p``, without its factor of ``1 / sigma^2``."""
        return self.operator.adjoint(_weighed(error, self.weights)).neg()

    def updated(self, error: Tensor, spread: float) -> Self:
        """Return the same with the noise that the current estimate says, eq. 21.

        The error is ``y - A x`` of the estimate, the spread what the width of the smoothing adds to
        its variance: ``|k|^2 sigma^2``.
        """
        data = self._with_noise(error, spread)
        return data if self.clipped is None else replace(data, weights=self._told(self.kept, error))

    def saturated(self, clipped: Tensor) -> Self:
        """Return the same with samples that are clipped, and tell nothing of a first estimate."""
        data = replace(self, clipped=clipped.to(self.y))
        return replace(data, weights=data._told(self.weights, torch.full_like(self.y, -1.0)))

    def _told(self, weights: Tensor | None, error: Tensor) -> Tensor | None:
        """Return weights that are 0 where samples are clipped, and an estimate is above them."""
        if self.clipped is None:
            return weights
        return _weighed(1 - self.clipped * (error < 0), weights)

    def _with_noise(self, error: Tensor, spread: float) -> Self:
        """Return the same with another noise level, unless it is known."""
        if self.least >= self.most:
            return self
        if math.isfinite(self.most):
            # Sharp data say more than the prior, and narrow it.
            spread *= self.sigma**2 / (self.sigma**2 + spread)
        variance = min(self.residual(error) ** 2 + spread, self.most**2)
        return replace(self, sigma=max(math.sqrt(variance), self.least, FLOOR))

    def prox(
        self,
        v: Tensor,
        c: float,
        start: Tensor | None = None,
        tolerance: float = 1e-5,
        rough: int | None = None,
        steps: int = MOST_STEPS,
    ) -> Fit:
        """Minimise ``sum w (A x - y)^2 / sigma^2 + c |x - v|^2`` by conjugate gradients.

        They start from the ``correction`` of a similar fit, and stop within the tolerance, a root
        mean square error of the image ``(B, C, *space)``, after ``rough`` steps where
        `Operator.rough_steps` agrees, or after the most steps.
        """
        operator, weights = self.operator, self.weights
        c = c * self.sigma**2
        remainder = operator.remainder(c, weights)
        if remainder is not None:
            error = remainder(self.error(v))
            return Fit(v + operator.adjoint(_weighed(error, weights)) / c, error)
        if rough is not None and weights is None:
            steps = operator.rough_steps(rough) or steps
        precondition = operator.inverse(c, weights)

        def fit(y: Tensor, v: Tensor, weights: Tensor | None, start: Tensor | None) -> list[Tensor]:
            base = operator.analyse(v)
            correction = torch.zeros_like(base) if start is None else start.clone()
            error = y - operator.apply(base + correction)
            # The residual's product is at least c |error of x|^2.
            target = tolerance**2 * c * v.numel()
            conjugate_gradients(
                operator, weights, c, precondition, correction, error, target, steps
            )
            return [operator.synthesise(base + correction), error, correction]

        # One plane stays in the caches of a processor: FFTs of three at once take two to three
        # times as long.
        if not operator.separable or v.device.type != "cpu":
            return Fit(*fit(self.y, v, weights, start))
        if weights is not None:
            weights = weights.expand_as(self.y)
        parts: list[Tensor] = []
        for plane in _planes(v):
            here = None if weights is None else weights[plane]
            found = fit(self.y[plane], v[plane], here, None if start is None else start[plane])
            if not parts:
                parts = [part.new_empty(*v.shape[:2], *part.shape[2:]) for part in found]
            for whole, part in zip(parts, found, strict=True):
                whole[plane] = part
        return Fit(*parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class PoissonGaussian(Gaussian):
    """Noise that grows with light, as that of photons does: weights follow from the light."""

    # Variance of samples by the value that they have on average.
    variance: Callable[[Tensor], Tensor]
    # Noise level of samples of weight 1, from which ``sigma`` begins.
    scale: float = 1.0
    # Whether weights follow the estimate as it improves. That helps where A blurs; where it does
    # not, the estimate follows the noise of single samples.
    reweighted: bool = False

    @classmethod
    def of(
        cls,
        operator: Operator,
        y: Tensor,
        kept: Tensor | None,
        variance: Callable[[Tensor], Tensor],
        light: Tensor,
        scale: float | None = None,
    ) -> Self:
        """Return the data term of a first guess of the light.

        The mean weight is 1, unless ``scale`` is given.
        """
        if scale is None:
            trust = _weighed(1 / variance(light), kept)
            count = trust.numel() if kept is None else float(kept.expand_as(trust).sum())
            scale = math.sqrt(count / float(trust.sum()))
        data = cls(operator=operator, y=y, variance=variance, scale=scale, sigma=scale, kept=kept)
        return data.at(light)

    def at(self, light: Tensor) -> Self:
        """Return the same with the weights of a light, of the shape of the observation."""
        weights = self.scale**2 / self.variance(light)
        return replace(self, weights=_weighed(weights, self.kept))

    def updated(self, error: Tensor, spread: float) -> Self:
        """Return the same with the noise that the current estimate says."""
        data = self._with_noise(error, spread)
        if not self.reweighted:
            return data
        return replace(data, weights=self._told(self.at(self.y - error).weights, error))


def conjugate_gradients(
    operator: Operator,
    weights: Tensor | None,
    c: float,
    precondition: Callable[[Tensor], Tensor],
    u: Tensor,
    error: Tensor,
    target: float,
    steps: int,
) -> None:
    """Minimise ``sum w (y - A u)^2 + c |u|^2`` from ``u``, whose ``y - A u`` is ``error``.

    Changes both. Ends as soon as the preconditioned square of the residual is at most ``target``.
    """
    residual = operator.spread(_weighed(error, weights)).sub_(u, alpha=c)
    preconditioned = precondition(residual)
    direction, product = preconditioned, float(operator.dot(residual, preconditioned))
    for step in range(1, steps + 1):
        if product <= target:
            return
        change = operator.apply(direction)
        weighed = _weighed(change, weights)
        curvature = (weighed * change).sum() + c * operator.dot(direction, direction)
        # A tensor: a number would have to wait for the device.
        length = product / curvature
        u.addcmul_(direction, length)
        error.addcmul_(change, length, value=-1)
        if step == steps:
            return
        # Not in place: what preconditions may return what it was given.
        uphill = operator.spread(weighed).add_(direction, alpha=c)
        residual = torch.addcmul(residual, uphill, length, value=-1)
        preconditioned = precondition(residual)
        previous, product = product, float(operator.dot(residual, preconditioned))
        direction = preconditioned.add(direction, alpha=product / previous)


def _weighed(y: Tensor, weights: Tensor | None) -> Tensor:
    return y if weights is None else weights * y


def _planes(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield the place of every plane of (B, C, *space)."""
    for i, j in product(*map(range, x.shape[:2])):
        yield slice(i, i + 1), slice(j, j + 1)
