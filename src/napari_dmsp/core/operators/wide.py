"""Blur whose point spread function is as wide as the volume itself, such as a widefield cone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ...windows import COARSE, CORE
from .convolution import Convolution

# Part of the core up to which it is untapered.
INNER = 0.5


@dataclass(frozen=True, eq=False)
class WideConvolution(Convolution):
    """Valid part of a convolution with a wide PSF, without most of what lies beyond the frame.

    The PSF is the sum of a core and of a smooth rest, which is convolved on a grid four times as
    coarse along rows and columns. The unknown volume reaches only as far beyond the frame as the
    core does; light from farther away has to be known.

    Parameters
    ----------
    psf : Tensor
        The core (kd, kh, kw), with odd sides.
    shape : tuple of int
        Depth, height and width of the observation.
    rest : Tensor, optional
        What the PSF has besides, sampled at every fourth pixel along rows and columns, times 16:
        (d, h, w), odd sides, with its origin in the middle.

    Notes
    -----
    Coefficients are those of Fourier, as for `Convolution`; the coarse grid takes those of low
    frequencies, so nothing has to be resampled.
    """

    rest: Tensor | None = None

    @classmethod
    def split(cls, psf: Tensor, shape: tuple[int, ...]) -> WideConvolution:
        """Split a PSF (kd, kh, kw), with odd sides and its origin in the middle."""
        taper = torch.ones_like(psf)
        for axis, (k, half) in enumerate(zip(psf.shape, CORE, strict=True)):
            distance = (torch.arange(k, device=psf.device) - k // 2).abs() / (half + 1)
            ramp = ((1 - distance) / (1 - INNER)).clamp(0, 1)
            sides = [1, 1, 1]
            sides[axis] = k
            taper = taper * (0.5 - 0.5 * torch.cos(math.pi * ramp)).to(psf).reshape(sides)
        inner = [min(half, k // 2) for k, half in zip(psf.shape, CORE, strict=True)]
        middle = tuple(
            slice(k // 2 - h, k // 2 + h + 1) for k, h in zip(psf.shape, inner, strict=True)
        )
        return cls((psf * taper)[middle], shape, rest=coarse_psf(psf * (1 - taper)))

    def apply(self, u: Tensor) -> Tensor:
        """Blur the volume of a spectrum, and look at what was observed."""
        rest = self._spread_out(self._lowered(u), self._rest).mul_(self._window)
        return self.synthesise(u * self._transfer + self._raised(rest))[self._seen]

    def spread(self, y: Tensor) -> Tensor:
        """Correlate an observation to a spectrum."""
        extended = y.new_zeros(*y.shape[:-3], *self.extended_shape)
        extended[self._seen] = y
        u = self.analyse(extended)
        rest = self._lowered(u).mul_(self._window)
        rest = self._spread_out(rest, torch.conj_physical(self._rest))
        return self._raised(rest).add_(u.mul_(self._conjugate))

    def energy(self, y: Tensor) -> float:
        """Squared norm of the PSF, nearly."""
        assert self.rest is not None
        return float(self.psf.square().sum() + self.rest.square().sum() / COARSE**2)

    @property
    def _seen(self) -> tuple[Any, ...]:
        """The frame: the PSF has its origin in the first voxel."""
        frame = zip(self._corner, self.shape, strict=True)
        return (..., *(slice(begin, begin + n) for begin, n in frame))

    @cached_property
    def _transfer(self) -> Tensor:
        return torch.fft.rfftn(_first(self.psf, self.extended_shape))

    @cached_property
    def _power(self) -> Tensor:
        """Of the periodic operator that is nearest, see T. Chan 1988: light that leaves is lost."""
        assert self.rest is not None
        rest = self.rest
        for axis, n in enumerate(self._coarse_shape):
            k = rest.shape[axis]
            share = 1 - (torch.arange(k, device=rest.device) - k // 2).abs() / n
            sides = [1, 1, 1]
            sides[axis] = k
            rest = rest * share.clamp(min=0).reshape(sides)
        rest = _first(rest, self._coarse_shape)
        whole = self._transfer + self._raised(rest) / COARSE**2
        return whole.real.square() + whole.imag.square()

    @property
    def _coarse_shape(self) -> tuple[int, ...]:
        depth, height, width = self.extended_shape
        return depth, height // COARSE, width // COARSE

    @cached_property
    def _room(self) -> tuple[int, ...]:
        """Sides in which the rest is convolved without coming back from the other end."""
        assert self.rest is not None
        sides = zip(self._coarse_shape, self.rest.shape, strict=True)
        return tuple(int(next_fast_len(n + min(k // 2, n - 1), real=True)) for n, k in sides)

    @cached_property
    def _rest(self) -> Tensor:
        """Transfer of the rest within that room."""
        assert self.rest is not None
        rest = self.rest
        for axis, n in enumerate(self._coarse_shape):
            k = rest.shape[axis]
            keep = min(k // 2, n - 1)
            rest = rest.narrow(axis, k // 2 - keep, 2 * keep + 1)
        return torch.fft.rfftn(_first(rest, self._room))

    @cached_property
    def _window(self) -> Tensor:
        """1 in the frame, falling to 0 at the ends: what differs there would ring in the frame."""
        window = self.psf.new_ones(())
        for n, corner, length in zip(
            self._coarse_shape[1:], self._corner[1:], self.shape[1:], strict=True
        ):
            at = COARSE * torch.arange(n).to(self.psf)
            outside = torch.maximum(corner - at, at - (corner + length - 1)).clamp(min=0)
            side = 0.5 + 0.5 * torch.cos(math.pi * (outside / max(corner, 1)).clamp(max=1))
            window = window[..., None] * side
        return window

    def _spread_out(self, x: Tensor, transfer: Tensor) -> Tensor:
        """Convolve a coarse volume with the rest, as in empty space."""
        u = torch.fft.rfftn(x, s=self._room, dim=self._axes)
        x = torch.fft.irfftn(u.mul_(transfer), s=self._room, dim=self._axes)
        inside: tuple[Any, ...] = (..., *(slice(n) for n in self._coarse_shape))
        return x[inside]

    def _lowered(self, u: Tensor) -> Tensor:
        """Return every fourth pixel of the volume of a spectrum, without fine details."""
        _, height, width = self._coarse_shape
        low = u.new_zeros(*u.shape[:-2], height, width // 2 + 1)
        for rows, columns in self._low(height, width, u.shape[-2]):
            low[..., rows[0], columns] = u[..., rows[1], columns]
        return torch.fft.irfftn(low, s=self._coarse_shape, dim=self._axes).div_(COARSE**2)

    def _raised(self, x: Tensor) -> Tensor:
        """Return the spectrum of a smooth volume between its coarse pixels; undoes `_lowered`."""
        _, height, width = self._coarse_shape
        full, last = self.extended_shape[1], self.extended_shape[2] // 2 + 1
        low = torch.fft.rfftn(x, dim=self._axes)
        u = low.new_zeros(*low.shape[:-2], full, last)
        for rows, columns in self._low(height, width, full):
            u[..., rows[1], columns] = low[..., rows[0], columns]
        return u.mul_(COARSE**2)

    @staticmethod
    def _low(height: int, width: int, full: int) -> Iterator[tuple[tuple[slice, slice], slice]]:
        """Yield where low frequencies lie: rows of the coarse and the full spectrum, columns."""
        rows, columns = (height - 1) // 2, slice((width - 1) // 2 + 1)
        yield (slice(rows + 1), slice(rows + 1)), columns
        yield (slice(height - rows, height), slice(full - rows, full)), columns


def coarse_psf(psf: Tensor) -> Tensor:
    """Return a PSF (d, h, w) without fine details at every fourth pixel of its planes, times 16.

    Sides are odd, and the origin stays in the middle.
    """
    # Odd on the coarse grid too.
    height, width = (2 * math.ceil((k / COARSE - 1) / 2) + 1 for k in psf.shape[1:])
    sides = height * COARSE, width * COARSE
    planes = torch.fft.rfft2(_first(psf, (psf.shape[0], *sides), axes=(1, 2)))
    rows = (height - 1) // 2
    low = planes.new_zeros(psf.shape[0], height, width // 2 + 1)
    low[:, : rows + 1] = planes[:, : rows + 1, : width // 2 + 1]
    low[:, rows + 1 :] = planes[:, sides[0] - rows :, : width // 2 + 1]
    return torch.fft.fftshift(torch.fft.irfft2(low, s=(height, width)), dim=(1, 2))


def _first(psf: Tensor, shape: tuple[int, ...], axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Lay the middle of a PSF with odd sides into the first voxel of a larger or smaller frame."""
    for axis in axes:
        k, n = psf.shape[axis], shape[axis]
        laid = psf.new_zeros([n if a == axis else m for a, m in enumerate(psf.shape)])
        places = (torch.arange(k, device=psf.device) - k // 2) % n
        psf = laid.index_add_(axis, places, psf)
    return psf
