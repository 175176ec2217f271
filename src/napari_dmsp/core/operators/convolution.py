"""Blur: the valid part of a true convolution, whole or sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from ...errors import DmspError
from ...windows import STRIDE
from .base import Operator, Solver
from .resample import fill_gaps

# Part of an image along its border, where periodic and true blur differ, up to which half the steps
# of a fit cost about 0.02 dB or less.
NARROW = 0.05


@dataclass(frozen=True, eq=False)
class Convolution(Operator):
    """Valid part of the true convolution with a point spread function, in two or three axes.

    The unknown image is larger than the observation by the support of the PSF, so nothing is
    assumed beyond the border. Orientation is that of
    ``scipy.signal.convolve(x, psf, mode="valid")``.

    Parameters
    ----------
    psf : Tensor
        Point spread function (kh, kw) or (kd, kh, kw), any size, odd or even.
    shape : tuple of int
        Height and width, or depth, height and width, of the observation.
    stride : int
        Sides of the blocks of pixels at whose centres the blurred image is sampled; 1 keeps all.

    Notes
    -----
    Coefficients are those of Fourier. The preconditioner is the inverse of the periodic operator,
    which is diagonal there. Both differ along the border only, so few steps do, of two transforms
    each.
    """

    psf: Tensor
    shape: tuple[int, ...]
    stride: int = 1
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.psf.ndim not in (2, 3) or self.psf.numel() == 0:
            raise DmspError(f"psf has shape {tuple(self.psf.shape)}; expected 2 or 3 axes.")
        if len(self.shape) != self.psf.ndim:
            raise DmspError(
                f"psf of {self.psf.ndim} axes does not fit an image of {len(self.shape)}."
            )

    @cached_property
    def extended_shape(self) -> tuple[int, ...]:
        """Shape of the unknown image: at least that of the scene that was seen.

        Enlarged to sizes with a fast FFT. What lies beyond has no data and follows the prior.
        """
        sizes = zip(self._fine, self.psf.shape, strict=True)
        return tuple(_fast_size(n + k - 1) for n, k in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Blur an extended image, and sample it."""
        return self.apply(self.analyse(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlate an observation to an extended image."""
        return self.synthesise(self.spread(y))

    def start(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Continue the observation by its edge, after filling what lies between the samples."""
        if self.stride > 1:
            sparse, sites = y.new_zeros(*y.shape[:2], *self._fine), y.new_zeros(self._fine)
            sparse[self._sites], sites[self._sites] = y, 1
            y = fill_gaps(sparse, sites)
        frame = []
        for corner, n, size in zip(self._corner, self._fine, self.extended_shape, strict=True):
            frame += [size - corner - n, corner]
        return F.pad(y, frame[::-1], mode="replicate")

    def crop(self, x: Tensor) -> Tensor:
        """Cut to the part that lies under the observation."""
        return self.frame(x, (0,) * self.psf.ndim)

    def frame(self, x: Tensor, room: tuple[int, ...]) -> Tensor:
        """Return a view of that part, and of so many pixels around it along each axis."""
        sides = zip(self._corner, self._fine, room, strict=True)
        for axis, (begin, n, more) in enumerate(sides, 2):
            x = x.narrow(axis, begin - more, n + 2 * more)
        return x

    def norm(self, y: Tensor) -> float:
        """Largest squared transfer; a bound where only some pixels are sampled."""
        return float(self._power.max())

    def energy(self, y: Tensor) -> float:
        """Squared norm of the PSF."""
        return float(self.psf.square().sum())

    def fine_gain(self, y: Tensor) -> float:
        """Mean squared transfer above a quarter of the sampling frequency on all axes."""
        if self.stride > 1:
            return 1.0
        *sizes, last = self.extended_shape
        power = self._power.cpu()
        power = power[..., torch.fft.rfftfreq(last) >= 0.25]
        for axis, size in enumerate(sizes):
            fine = torch.fft.fftfreq(size).abs() >= 0.25
            power = power.index_select(axis, fine.nonzero().flatten())
        return float(power.mean())

    def analyse(self, x: Tensor) -> Tensor:
        """Half of the Fourier coefficients: the others are their conjugates."""
        return torch.fft.rfftn(x, dim=self._axes)

    def synthesise(self, u: Tensor) -> Tensor:
        """Undo `analyse`."""
        return torch.fft.irfftn(u, s=self.extended_shape, dim=self._axes)

    def dot(self, u: Tensor, v: Tensor) -> Tensor:
        """Inner product of the images of two half spectra."""

        def part(a: Tensor, b: Tensor) -> Tensor:
            return torch.vdot(a.flatten(), b.flatten()).real

        # The other half repeats all columns but those of frequency 0 and of the highest.
        total = 2 * part(u, v) - part(u[..., 0], v[..., 0])
        if self.extended_shape[-1] % 2 == 0:
            total -= part(u[..., -1], v[..., -1])
        return total / math.prod(self.extended_shape)

    def apply(self, u: Tensor) -> Tensor:
        """Blur the image of a spectrum, and look at what was observed."""
        return self.synthesise(u * self._transfer)[self._seen]

    def spread(self, y: Tensor) -> Tensor:
        """Correlate an observation to a spectrum."""
        extended = y.new_zeros(*y.shape[: -self.psf.ndim], *self.extended_shape)
        extended[self._seen] = y
        return self.analyse(extended).mul_(self._conjugate)

    def inverse(self, c: float, weights: Tensor | None) -> Solver:
        """Invert the periodic operator, with as many data as there are, but everywhere."""
        density = (1.0 if weights is None else weights.mean()) / self.stride**self.psf.ndim
        factor = (density * self._power).add_(c).reciprocal_()
        return lambda u: u * factor

    def rough_steps(self, steps: int) -> int | None:
        """Half of them where the border is narrow; samples need as many as it takes."""
        if self.stride > 1:
            return None
        sides = zip(self.shape, self.psf.shape, strict=True)
        border = 1 - math.prod(self.shape) / math.prod(n + k - 1 for n, k in sides)
        return steps if border > NARROW else -(-steps // 2)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.psf.ndim, 0))

    @cached_property
    def _fine(self) -> tuple[int, ...]:
        """Shape of the frame that the user sees."""
        return tuple(n * self.stride for n in self.shape)

    @property
    def _corner(self) -> tuple[int, ...]:
        """First pixel of that frame: the centre of a PSF is pixel (size - 1) // 2 of each axis."""
        return tuple(k // 2 for k in self.psf.shape)

    @property
    def _sites(self) -> tuple[Any, ...]:
        """Pixels of that frame that are sampled."""
        return (..., *(slice(self.stride // 2, n, self.stride) for n in self._fine))

    @cached_property
    def _seen(self) -> tuple[Any, ...]:
        """Pixels of the blurred extended image that are observed."""
        first = zip(self._fine, self.psf.shape, strict=True)
        half, step = self.stride // 2, self.stride
        return (..., *(slice(k - 1 + half, k - 1 + n, step) for n, k in first))

    @cached_property
    def _transfer(self) -> Tensor:
        return torch.fft.rfftn(self.psf, s=self.extended_shape)

    @cached_property
    def _conjugate(self) -> Tensor:
        return torch.conj_physical(self._transfer)

    @cached_property
    def _power(self) -> Tensor:
        return self._transfer.real.square() + self._transfer.imag.square()


def _fast_size(size: int) -> int:
    """Next multiple of the stride of networks with a fast FFT."""
    return STRIDE * int(next_fast_len(-(-size // STRIDE)))
