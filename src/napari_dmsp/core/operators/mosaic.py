"""Colour filter arrays: every pixel sees one mixture of the channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import DmspError
from .base import Operator, Solver


@dataclass(frozen=True, eq=False)
class Mosaic(Operator):
    """A colour filter array: observations (B, 1, H, W) of images (B, C, H, W).

    Parameters
    ----------
    filters : Tensor
        Share (C, H, W) of every channel in every pixel: one 1 and zeros for a plain colour filter,
        several positive values for a panchromatic pixel, zeros only for a pixel without a filter.
    """

    filters: Tensor

    def __post_init__(self) -> None:
        if self.filters.ndim != 3 or not bool((self.filters >= 0).all()):
            raise DmspError("the weights of a mosaic are (channels, height, width), none negative.")

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels."""
        return (self.filters * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread pixels over the channels."""
        return self.filters * y

    def start(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Interpolate the most frequent channel, then the differences of the others from it.

        Only pixels with a weight count: what fills a gap is no colour's.
        """
        kept = (self._power > 0).to(y)[None]
        if weights is not None:
            kept = kept * (weights > 0)
        tiny = torch.finfo(y.dtype).tiny
        total = self.filters.sum(0).clamp_min(tiny)
        share, level = kept * self.filters / total, kept * y / total
        main = int(share.sum((0, 2, 3)).argmax())
        base = _interpolate(level, share[:, main])
        channels = range(self.filters.shape[0])
        x = torch.cat([base + _interpolate(level - base, share[:, i]) for i in channels], dim=1)
        error = (y - self.forward(x)) * kept
        return x + self.adjoint(error / self._power.clamp_min(tiny))

    def norm(self, y: Tensor) -> float:
        """Largest squared norm of the filters of a pixel."""
        return float(self._power.max())

    def energy(self, y: Tensor) -> float:
        """Mean squared norm of the filters of a pixel that has one."""
        return float(self._power[self._power > 0].mean())

    def fine_gain(self, y: Tensor) -> float:
        """Return 1: a mosaic is sharp, its finest details hold signal."""
        return 1.0

    def remainder(self, c: float, weights: Tensor | None) -> Solver:
        """Solve pixel by pixel: each has the identity and a matrix of rank one."""
        power = self._power if weights is None else weights * self._power
        return lambda error: error * (c / (power + c))

    @cached_property
    def _power(self) -> Tensor:
        return self.filters.square().sum(0, keepdim=True)


def _interpolate(values: Tensor, share: Tensor) -> Tensor:
    """Average (B, 1, H, W) over the nearest pixels with a share, by a tent that grows until any."""
    known = share.expand_as(values)
    result, missing = torch.zeros_like(values), torch.ones_like(values, dtype=torch.bool)
    for reach in range(2, max(values.shape[-2:]) + 2):
        total = _tent(known, reach)
        found = missing & (total > 0.1)
        mean = _tent(known * values, reach) / total.clamp_min(1e-6)
        result = torch.where(found, mean, result)
        missing &= ~found
        if not bool(missing.any()):
            break
    return result


def _tent(x: Tensor, reach: int) -> Tensor:
    ramp = 1 - torch.arange(1 - reach, reach, dtype=x.dtype, device=x.device).abs() / reach
    rows = F.conv2d(x, ramp[None, None, :, None], padding=(reach - 1, 0))
    return F.conv2d(rows, ramp[None, None, None, :], padding=(0, reach - 1))
