"""Degradations as linear operators: forward, adjoint and the exact data step.

An operator is built for one image size and knows nothing of priors or solvers. All act on
tensors (B, C, H, W). Where samples are missing, the operator and the observation are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F

from ..errors import DmspError
from ..windows import STRIDE

# Part of an image along its border, where periodic and true blur differ, up to which half the steps
# of a data step cost about 0.02 dB or less.
NARROW = 0.05
# Rows of a band matrix that are multiplied at once.
BAND = 128


class Fit(NamedTuple):
    """What a data step found.

    Attributes
    ----------
    x : Tensor
        The image (B, C, H, W).
    misfit : float
        ``|A x - y|^2``.
    correction : Tensor, optional
        ``x - prior`` in a form that the operator likes, for the next data step to begin with;
        None where it needs no such thing.
    """

    x: Tensor
    misfit: float
    correction: Tensor | None = None


class Operator(Protocol):
    """What the solvers ask of a degradation ``y = A x + n``."""

    @property
    def energy(self) -> float:
        """Mean squared norm of a row of A: ``|k|^2`` for a blur (eq. 9)."""

    @property
    def fine_gain(self) -> float:
        """Mean power that A passes in the finest diagonal wavelet band, 1 for the identity."""

    @property
    def norm(self) -> float:
        """Largest eigenvalue of ``A^T A``, or a bound: what limits the step of a descent."""

    @property
    def coverage(self) -> float:
        """Part of the observation that was observed: 1 without missing samples."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply A."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of A."""

    def fit(
        self,
        y: Tensor,
        prior: Tensor,
        c: float,
        start: Tensor | None = None,
        tolerance: float = 1e-5,
        max_steps: int | None = None,
    ) -> Fit:
        """Minimise ``|A x - y|^2 + c |x - prior|^2``: the proximal map of the data.

        An iterative method begins with the correction ``start`` of a similar problem and stops at
        a root mean square error of ``tolerance``, or after ``max_steps`` where samples are missing
        at the border only.
        """

    def start(self, y: Tensor) -> Tensor:
        """Return a first estimate of the unknown image."""

    def crop(self, x: Tensor) -> Tensor:
        """Cut the unknown image to the frame that the user sees."""


@dataclass(frozen=True, eq=False)
class Blur:
    """Valid part of the true convolution with a point spread function.

    The unknown image is larger than the observation by the support of the PSF, so nothing is
    assumed beyond the border. Orientation is that of
    ``scipy.signal.convolve2d(x, psf, mode="valid")``.

    Parameters
    ----------
    psf : Tensor
        Kernel (kh, kw), any size, odd or even.
    shape : tuple of int
        Height and width of the observation.
    mask : Tensor, optional
        1 where the observation has a sample and 0 where it has none, (H, W) or (B, C, H, W), sizes
        of 1 allowed. Other weights, with a mean square of 1 where there is a sample, belong to an
        observation that is weighted alike, so that its noise is the same everywhere.
    max_steps : int
        Most conjugate-gradient steps of one `fit`.

    Attributes
    ----------
    extended_shape : tuple of int
        Height and width of the unknown image: at least ``H + kh - 1`` and ``W + kw - 1``, enlarged
        to sizes with a fast FFT. What lies beyond has no data and follows the prior.

    Notes
    -----
    `fit` runs conjugate gradients on the Fourier coefficients, preconditioned by the periodic
    operator, which is diagonal there. Both differ along the border only, so few steps do, of two
    transforms each.
    """

    psf: Tensor
    shape: tuple[int, int]
    mask: Tensor | None = None
    max_steps: int = 50
    extended_shape: tuple[int, int] = field(init=False)
    _transfer: Tensor = field(init=False, repr=False)
    _conjugate: Tensor = field(init=False, repr=False)
    _power: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.psf.ndim != 2 or self.psf.numel() == 0:
            raise DmspError(f"psf has shape {tuple(self.psf.shape)}; expected (height, width).")
        kh, kw = self.psf.shape
        size = _fast_size(self.shape[0] + kh - 1), _fast_size(self.shape[1] + kw - 1)
        object.__setattr__(self, "extended_shape", size)
        transfer = torch.fft.rfft2(self.psf, s=size)
        object.__setattr__(self, "_transfer", transfer)
        object.__setattr__(self, "_conjugate", torch.conj_physical(transfer))
        object.__setattr__(self, "_power", transfer.real.square() + transfer.imag.square())

    @property
    def energy(self) -> float:
        """Squared norm of the PSF."""
        return float(self.psf.square().sum())

    @property
    def fine_gain(self) -> float:
        """Mean squared transfer above a quarter of the sampling frequency on both axes."""
        height, width = self.extended_shape
        rows = torch.fft.fftfreq(height).abs() >= 0.25
        columns = torch.fft.rfftfreq(width) >= 0.25
        power = self._power.cpu()
        return float(power[rows][:, columns].mean())

    @property
    def norm(self) -> float:
        """Largest squared transfer."""
        return float(self._power.max())

    @property
    def coverage(self) -> float:
        """Part of the samples that the mask keeps."""
        return _coverage(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """Blur an extended image to (B, C, H, W)."""

        def blur(mask: Tensor | None, plane: Tensor) -> tuple[Tensor]:
            return (self._valid(self._blur(mask, torch.fft.rfft2(plane))),)

        return self._each_plane(blur, x)[0]

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlate (B, C, H, W) to an extended image."""

        def correlate(mask: Tensor | None, plane: Tensor) -> tuple[Tensor]:
            spectrum = self._correlate(mask, self._extend(plane))
            return (torch.fft.irfft2(spectrum, s=self.extended_shape),)

        return self._each_plane(correlate, y)[0]

    def fit(
        self,
        y: Tensor,
        prior: Tensor,
        c: float,
        start: Tensor | None = None,
        tolerance: float = 1e-5,
        max_steps: int | None = None,
    ) -> Fit:
        """Fit on the extended domain; half of ``max_steps`` do where the border is narrow."""
        inverse = 1 / (self.coverage * self._power + c)
        limit = self.max_steps
        if max_steps is not None and self.mask is None:
            limit = max_steps if self._border > NARROW else -(-max_steps // 2)

        def fit_plane(
            mask: Tensor | None, y: Tensor, prior: Tensor, start: Tensor | None = None
        ) -> tuple[Tensor, Tensor, Tensor]:
            spectrum = torch.fft.rfft2(prior)
            correction = torch.zeros_like(spectrum) if start is None else start.clone()
            error = self._extend(y) - self._blur(mask, spectrum + correction)
            # The residual's product is at least c |error of x|^2.
            target = tolerance**2 * c * prior.numel()
            conjugate_gradients(
                partial(self._blur, mask),
                partial(self._correlate, mask),
                c,
                lambda r: inverse * r,
                self._dot,
                correction,
                error,
                target,
                limit,
            )
            x = torch.fft.irfft2(spectrum.add_(correction), s=self.extended_shape)
            return x, error.square().sum((-2, -1), keepdim=True), correction

        images = (y, prior) if start is None else (y, prior, start)
        x, misfits, correction = self._each_plane(fit_plane, *images)
        return Fit(x, float(misfits.sum()), correction)

    def start(self, y: Tensor) -> Tensor:
        """Continue the observation by its edge, and fill its gaps."""
        if self.mask is not None:
            y = fill_gaps(y / torch.where(self.mask > 0, self.mask, 1), self.mask)
        (top, left), (height, width) = self._corner, self.extended_shape
        bottom, right = height - top - self.shape[0], width - left - self.shape[1]
        return F.pad(y, (left, right, top, bottom), mode="replicate")

    def crop(self, x: Tensor) -> Tensor:
        """Cut to the part that lies under the observation."""
        top, left = self._corner
        return x[..., top : top + self.shape[0], left : left + self.shape[1]]

    @property
    def _border(self) -> float:
        """Part of the unknown image that lies beyond the observation."""
        (kh, kw), (height, width) = self.psf.shape, self.shape
        return 1 - height * width / ((height + kh - 1) * (width + kw - 1))

    @property
    def _corner(self) -> tuple[int, int]:
        # The centre of a PSF is pixel (size - 1) // 2, as for convolve2d(..., mode="same").
        return self.psf.shape[0] // 2, self.psf.shape[1] // 2

    def _blur(self, mask: Tensor | None, spectrum: Tensor) -> Tensor:
        """Apply A to a spectrum: an extended image, zero where nothing was observed."""
        blurred = torch.fft.irfft2(spectrum * self._transfer, s=self.extended_shape)
        top, left = (k - 1 for k in self.psf.shape)
        bottom, right = top + self.shape[0], left + self.shape[1]
        blurred[..., :top, :] = 0
        blurred[..., bottom:, :] = 0
        blurred[..., :left] = 0
        blurred[..., right:] = 0
        if mask is not None:
            blurred[..., top:bottom, left:right] *= mask
        return blurred

    def _correlate(self, mask: Tensor | None, extended: Tensor) -> Tensor:
        """Apply the transpose of A to what `_blur` returns."""
        if mask is not None:
            extended = self._extend(mask * self._valid(extended))
        return torch.fft.rfft2(extended).mul_(self._conjugate)

    def _extend(self, y: Tensor) -> Tensor:
        """Put an observation at its place, among zeros."""
        (kh, kw), (height, width) = self.psf.shape, self.extended_shape
        frame = kw - 1, width - kw + 1 - self.shape[1], kh - 1, height - kh + 1 - self.shape[0]
        return F.pad(y, frame)

    def _valid(self, extended: Tensor) -> Tensor:
        """Cut out what was observed."""
        top, left = (k - 1 for k in self.psf.shape)
        return extended[..., top : top + self.shape[0], left : left + self.shape[1]]

    def _dot(self, u: Tensor, v: Tensor) -> Tensor:
        """Inner product of the images of two half spectra."""

        def part(a: Tensor, b: Tensor) -> Tensor:
            return torch.vdot(a.flatten(), b.flatten()).real

        # The other half repeats all columns but those of frequency 0 and of the highest.
        total = 2 * part(u, v) - part(u[..., 0], v[..., 0])
        height, width = self.extended_shape
        if width % 2 == 0:
            total -= part(u[..., -1], v[..., -1])
        return total / (height * width)

    def _each_plane(
        self, function: Callable[..., tuple[Tensor, ...]], *images: Tensor
    ) -> list[Tensor]:
        """Apply ``function(mask, *planes)`` to images (B, C, H, W), plane by plane on a processor.

        One plane stays in its caches: FFTs of three at once take two to three times as long.
        """
        if images[0].device.type != "cpu":
            return list(function(self.mask, *images))
        batch, channels = images[0].shape[:2]
        results: list[Tensor] = []
        for i, j in product(range(batch), range(channels)):
            mask = self.mask
            if mask is not None:
                mask = mask.expand(batch, channels, *self.shape)[i : i + 1, j : j + 1]
            planes = function(mask, *(image[i : i + 1, j : j + 1] for image in images))
            if not results:
                results = [p.new_empty(batch, channels, *p.shape[-2:]) for p in planes]
            for result, plane in zip(results, planes, strict=True):
                result[i, j] = plane[0, 0]
        return results


@dataclass(frozen=True, eq=False)
class Resize:
    """Antialiased bicubic reduction of an image, as MATLAB's ``imresize`` does it.

    The grids share their outer edges: pixel centres lie at ``(i + 0.5) * factor - 0.5``.

    Parameters
    ----------
    large, small : tuple of int
        Height and width of the unknown image and of the observation.
    mask : Tensor, optional
        As for `Blur`.
    device : torch.device
        Where the images are.
    max_steps : int
        Most conjugate-gradient steps of one `fit`, which only a mask needs.

    Notes
    -----
    Reduction is separable, ``A = R1 (x) R2``, so `fit` is exact: by the Woodbury identity it
    needs the inverse of ``A A^T + c I`` only, which is diagonal in the product of the
    eigenvectors of ``R1 R1^T`` and ``R2 R2^T``. With a mask, it preconditions conjugate gradients.

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", 1981,
       DOI 10.1109/TASSP.1981.1163711.
    """

    large: tuple[int, int]
    small: tuple[int, int]
    mask: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    max_steps: int = 50
    _rows: _Band = field(init=False, repr=False)
    _columns: _Band = field(init=False, repr=False)
    _modes: tuple[Tensor, Tensor] = field(init=False, repr=False)
    _power: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows, columns = (resize_matrix(a, b) for a, b in zip(self.large, self.small, strict=True))
        (row_power, row_modes), (column_power, column_modes) = (
            np.linalg.eigh(m @ m.T) for m in (rows, columns)
        )

        def put(matrix: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(matrix).to(self.device, self.dtype)

        object.__setattr__(self, "_rows", _Band(put(rows)))
        object.__setattr__(self, "_columns", _Band(put(columns)))
        object.__setattr__(self, "_modes", (put(row_modes), put(column_modes)))
        object.__setattr__(self, "_power", put(np.outer(row_power, column_power)))

    @property
    def energy(self) -> float:
        """Mean squared norm of a row of the reduction."""
        return self._rows.energy * self._columns.energy

    @property
    def fine_gain(self) -> float:
        """A reduced image is sharp: its finest wavelets hold signal."""
        return 1.0

    @property
    def norm(self) -> float:
        """Largest product of the eigenvalues."""
        return float(self._power.max())

    @property
    def coverage(self) -> float:
        """Part of the samples that the mask keeps."""
        return _coverage(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce (B, C, *large) to (B, C, *small)."""
        reduced = self._reduce(x)
        return reduced if self.mask is None else self.mask * reduced

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread (B, C, *small) over (B, C, *large)."""
        return self._spread(y if self.mask is None else self.mask * y)

    def fit(
        self,
        y: Tensor,
        prior: Tensor,
        c: float,
        start: Tensor | None = None,
        tolerance: float = 1e-5,
        max_steps: int | None = None,
    ) -> Fit:
        """Fit exactly; without a mask ``start`` and what follows are not needed."""
        error = y - self.forward(prior)
        if self.mask is None:
            inner = self._divide(error, 1.0, c)
            return Fit(prior + self.adjoint(inner), c**2 * float(inner.square().sum()))
        correction = torch.zeros_like(prior)
        if start is not None:
            correction, error = start.clone(), error - self.forward(start)
        conjugate_gradients(
            self.forward,
            self.adjoint,
            c,
            partial(self._precondition, c),
            lambda u, v: (u * v).sum(),
            correction,
            error,
            tolerance**2 * c * prior.numel(),
            self.max_steps,
        )
        return Fit(prior + correction, float(error.square().sum()), correction)

    def _reduce(self, x: Tensor) -> Tensor:
        """Apply A, as if nothing were missing."""
        return self._columns.of_columns(self._rows.of_rows(x))

    def _spread(self, y: Tensor) -> Tensor:
        """Apply the transpose of A, as if nothing were missing."""
        return self._rows.transposed.of_rows(self._columns.transposed.of_columns(y))

    def _divide(self, y: Tensor, lam: float, c: float) -> Tensor:
        """Apply ``(lam A A^T + c I)^-1``, as if nothing were missing."""
        left, right = self._modes
        return left @ ((left.mT @ y @ right) / (lam * self._power + c)) @ right.mT

    def _precondition(self, c: float, b: Tensor) -> Tensor:
        """Apply ``(lam A^T A + c I)^-1`` with as much data as there are, but everywhere."""
        inner = self._divide(self._reduce(b), self.coverage, c)
        return (b - self.coverage * self._spread(inner)) / c

    def start(self, y: Tensor) -> Tensor:
        """Interpolate bicubically."""
        return resize(fill_gaps(y, self.mask), self.large)

    def crop(self, x: Tensor) -> Tensor:
        """Return the whole image: reduction loses no border."""
        return x


@dataclass(frozen=True, eq=False)
class _Band:
    """A matrix whose values are near its diagonal, multiplied block by block.

    All of it would take a time that grows faster than the image: half of that of a network's at 16
    megapixels.
    """

    matrix: Tensor

    @property
    def energy(self) -> float:
        """Mean squared norm of a row."""
        return float(self.matrix.square().sum(1).mean())

    @cached_property
    def transposed(self) -> _Band:
        """The transpose, which is a band too."""
        return _Band(self.matrix.mT)

    def of_rows(self, x: Tensor) -> Tensor:
        """Multiply by (..., H, W) from the left."""
        return torch.cat([block @ x[..., span, :] for span, block in self._blocks], -2)

    def of_columns(self, x: Tensor) -> Tensor:
        """Multiply by the transpose from the right."""
        return torch.cat([x[..., span] @ block.mT for span, block in self._blocks], -1)

    @cached_property
    def _blocks(self) -> list[tuple[slice, Tensor]]:
        """Rows of the matrix, without the zeros before and after."""
        blocks = []
        for rows in torch.split(self.matrix, BAND):
            used = rows.any(0).nonzero()
            span = slice(int(used[0]), int(used[-1]) + 1)
            blocks.append((span, rows[:, span].contiguous()))
        return blocks


def fill_gaps(y: Tensor, mask: Tensor | None) -> Tensor:
    """Replace what the mask leaves out by the mean of what is near, coarse to fine.

    Parameters
    ----------
    y : Tensor
        Images (B, C, H, W).
    mask : Tensor or None
        1 to keep and 0 to replace; broadcast to ``y``. None keeps all.
    """
    if mask is None or bool(mask.all()):
        return y
    kept = mask.to(y).expand_as(y)
    if min(y.shape[-2:]) < 2:
        return torch.where(kept > 0, y, (y * kept).sum() / kept.sum().clamp(min=1))
    share = F.avg_pool2d(kept, 2, ceil_mode=True)
    means = F.avg_pool2d(y * kept, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = fill_gaps(means, (share > 0).to(y))
    near = F.interpolate(coarse, y.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(kept > 0, y, near)


def resize(y: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to a height and width: bicubic, antialiased."""
    rows, columns = (
        _Band(torch.from_numpy(resize_matrix(a, b)).to(y))
        for a, b in zip(y.shape[-2:], shape, strict=True)
    )
    return columns.of_columns(rows.of_rows(y))


def resize_matrix(old: int, new: int) -> NDArray[np.float64]:
    """Return weights (new, old) of bicubic resizing, antialiased, mirrored at the ends."""
    factor = new / old
    support = min(factor, 1.0)
    centre = (np.arange(new) + 0.5) / factor - 0.5
    reach = int(np.ceil(4 / support)) + 2
    taps = np.floor(centre - 2 / support).astype(int)[:, None] + np.arange(reach)
    weights = _cubic((centre[:, None] - taps) * support)
    weights /= weights.sum(1, keepdims=True)
    mirrored = taps % (2 * old)
    mirrored = np.minimum(mirrored, 2 * old - 1 - mirrored)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], mirrored), weights)
    return matrix


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


def _fast_size(size: int) -> int:
    """Next multiple of the stride of networks with a fast FFT."""
    return STRIDE * int(next_fast_len(-(-size // STRIDE)))


def _coverage(mask: Tensor | None) -> float:
    return 1.0 if mask is None else float(mask.square().mean())


def conjugate_gradients(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    c: float,
    precondition: Callable[[Tensor], Tensor],
    dot: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    error: Tensor,
    target: float,
    max_steps: int,
) -> None:
    """Minimise ``|y - A x|^2 + c |x|^2`` from ``x``, whose ``y - A x`` is ``error``; change both.

    Ends as soon as the preconditioned square of the residual is at most ``target``.
    """
    residual = adjoint(error).sub_(x, alpha=c)
    preconditioned = precondition(residual)
    direction, product = preconditioned, float(dot(residual, preconditioned))
    for step in range(1, max_steps + 1):
        if product <= target:
            return
        change = forward(direction)
        energy = torch.dot(change.flatten(), change.flatten()) + c * dot(direction, direction)
        length = product / float(energy)
        x.add_(direction, alpha=length)
        error.sub_(change, alpha=length)
        if step == max_steps:
            return
        # Not in place: what preconditions may return what it was given.
        residual = residual.sub(adjoint(change).add_(direction, alpha=c), alpha=length)
        preconditioned = precondition(residual)
        previous, product = product, float(dot(residual, preconditioned))
        direction = preconditioned.add(direction, alpha=product / previous)
