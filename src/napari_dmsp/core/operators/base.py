"""What the data term and the solvers ask of a degradation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

# Steps of the power iteration that finds the norm of an operator, and the margin it is given.
POWER_STEPS, MARGIN = 30, 1.02

Solver = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A linear degradation ``A``; only `forward` and `adjoint` have to be written.

    What else the solvers ask has a default here, which any operator may replace by something
    faster or more exact. Those that take ``y``, an observation ``(B, C, *space)``, look at its
    shape, dtype and device only.

    Normal equations are solved on *coefficients* of images: whatever makes ``A`` cheap, as Fourier
    coefficients do for convolutions, and by default the images themselves.

    Attributes
    ----------
    separable : bool
        Whether channels do not mix, so that the planes of a batch may be solved one by one.
    """

    separable: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Apply A: an unknown image to an observation."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of A: an observation to an unknown image."""

    def start(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return a first estimate of the unknown image.

        ``y`` holds plausible values where its ``weights`` are zero.
        """
        spread = self.adjoint(y)
        share = self.adjoint(self.forward(torch.ones_like(spread)))
        seen = share.abs() > 1e-3 * share.abs().max()
        return torch.where(seen, spread / torch.where(seen, share, 1), y.mean())

    def crop(self, x: Tensor) -> Tensor:
        """Cut the unknown image to the frame that the user sees."""
        return x

    def norm(self, y: Tensor) -> float:
        """Largest eigenvalue of ``A^T A``, or a bound: what limits the step of a descent."""
        x = self.adjoint(_random(y))
        for _ in range(POWER_STEPS):
            x = x / x.norm()
            x = self.adjoint(self.forward(x))
        return MARGIN * float(x.norm())

    def energy(self, y: Tensor) -> float:
        """Mean squared norm of a row of A: ``|k|^2`` for a blur (eq. 9)."""
        signs = torch.where(_random(y) < 0, -1.0, 1.0).to(y)
        return float(self.adjoint(signs).square().sum()) / y.numel()

    def fine_gain(self, y: Tensor) -> float:
        """Part of the power of the finest diagonal details of an observation that A lets through.

        1 for the identity and what leaves observations as sharp, about 0 for a blur.
        """
        fine = _random(y)
        for axis in range(2, y.ndim):
            fine = fine - fine.roll(1, axis)
        passed = float(self.adjoint(fine).square().sum() / fine.square().sum())
        return passed / self.norm(y)

    def analyse(self, x: Tensor) -> Tensor:
        """Return the coefficients of an unknown image."""
        return x

    def synthesise(self, u: Tensor) -> Tensor:
        """Return the image of coefficients."""
        return u

    def dot(self, u: Tensor, v: Tensor) -> Tensor:
        """Inner product of the images of two coefficients."""
        return torch.dot(u.flatten(), v.flatten())

    def apply(self, u: Tensor) -> Tensor:
        """Apply A to the image of coefficients."""
        return self.forward(self.synthesise(u))

    def spread(self, y: Tensor) -> Tensor:
        """Return the coefficients of ``A^T y``, in memory of their own."""
        return self.analyse(self.adjoint(y))

    def inverse(self, c: float, weights: Tensor | None) -> Solver:
        """Return a function on coefficients like ``(A^T W A + c I)^-1``: the preconditioner.

        Weights W belong to the observation, None is 1. What is returned here makes the tolerance
        of a fit hold for any operator.
        """
        return lambda u: u / c

    def remainder(self, c: float, weights: Tensor | None) -> Solver | None:
        """Return ``c (A A^T W + c I)^-1``: from ``y - A v`` to the error that the exact fit leaves.

        None where there is no closed form, and a fit takes the steps of an iteration.
        """
        return None

    def rough_steps(self, steps: int) -> int | None:
        """Return how many of ``steps`` do for a rough fit without weights.

        None where a fit must go on until it is within its tolerance, as those without a good
        `inverse` must.
        """
        return None


def _random(y: Tensor) -> Tensor:
    """Draw the same numbers every time, like ``y``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
