"""Reduction of images, and the filling of gaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...errors import DmspError
from .base import Operator, Solver

# Rows of a band matrix that are multiplied at once.
BAND = 128


@dataclass(frozen=True, eq=False)
class Resize(Operator):
    """Antialiased bicubic reduction of an image, as MATLAB's ``imresize`` does it.

    The grids share their outer edges: pixel centres lie at ``(i + 0.5) * factor - 0.5``.

    Parameters
    ----------
    large, small : tuple of int
        Shape of the unknown image and of the observation, two or three axes.
    device : torch.device
        Where the images are.
    dtype : torch.dtype
        Of the images.

    Notes
    -----
    Reduction is separable, ``A = R1 (x) R2``, so its inverse is exact: by the Woodbury identity it
    needs the inverse of ``A A^T + c I`` only, which is diagonal in the product of the
    eigenvectors of ``R1 R1^T`` and ``R2 R2^T``. With weights, that is a preconditioner.

    References
    ----------
    .. [1] Keys, "Cubic convolution interpolation for digital image processing", 1981,
       DOI 10.1109/TASSP.1981.1163711.
    """

    large: tuple[int, ...]
    small: tuple[int, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.large) != len(self.small) or len(self.small) not in (2, 3):
            found = f"{tuple(self.large)} and {tuple(self.small)}"
            raise DmspError(f"shapes {found} are not those of planes or of volumes.")

    def forward(self, x: Tensor) -> Tensor:
        """Reduce (B, C, *large) to (B, C, *small)."""
        for axis, band in enumerate(self._bands, 2):
            x = band.along(x, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Spread (B, C, *small) over (B, C, *large)."""
        for axis, band in reversed(list(enumerate(self._bands, 2))):
            y = band.transposed.along(y, axis)
        return y

    def start(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Interpolate bicubically."""
        return resize(y, self.large)

    def norm(self, y: Tensor) -> float:
        """Largest product of the eigenvalues."""
        return float(self._power.max())

    def energy(self, y: Tensor) -> float:
        """Mean squared norm of a row of the reduction."""
        return float(np.prod([band.energy for band in self._bands]))

    def fine_gain(self, y: Tensor) -> float:
        """Return 1: a reduced image is sharp, its finest wavelets hold signal."""
        return 1.0

    def inverse(self, c: float, weights: Tensor | None) -> Solver:
        """Invert with as many data as there are, but everywhere."""
        density = 1.0 if weights is None else weights.mean()

        def divide(u: Tensor) -> Tensor:
            return (u - self.adjoint(self._divide(self.forward(u), density, c))) / c

        return divide

    def remainder(self, c: float, weights: Tensor | None) -> Solver | None:
        """Solve without weights."""
        return (lambda error: c * self._divide(error, 1.0, c)) if weights is None else None

    def _divide(self, y: Tensor, density: float | Tensor, c: float) -> Tensor:
        """Apply ``(A A^T + c / density I)^-1``."""
        for axis, modes in enumerate(self._modes, 2):
            y = _along(modes.mT, y, axis)
        y = y / (self._power + c / density)
        for axis, modes in enumerate(self._modes, 2):
            y = _along(modes, y, axis)
        return y

    @cached_property
    def _matrices(self) -> list[NDArray[np.float64]]:
        return [resize_matrix(a, b) for a, b in zip(self.large, self.small, strict=True)]

    @cached_property
    def _bands(self) -> list[_Band]:
        return [_Band(self._put(matrix)) for matrix in self._matrices]

    @cached_property
    def _eigen(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return [np.linalg.eigh(matrix @ matrix.T) for matrix in self._matrices]

    @cached_property
    def _modes(self) -> list[Tensor]:
        return [self._put(modes) for _, modes in self._eigen]

    @cached_property
    def _power(self) -> Tensor:
        """Eigenvalues of ``A A^T``, of the shape of the observation."""
        power = np.ones(())
        for values, _ in self._eigen:
            power = np.multiply.outer(power, values)
        return self._put(power)

    def _put(self, matrix: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(matrix).to(self.device, self.dtype)


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

    def along(self, x: Tensor, axis: int) -> Tensor:
        """Multiply along an axis."""
        blocks = (
            _along(block, x.narrow(axis, begin, block.shape[1]), axis)
            for begin, block in self._blocks
        )
        return torch.cat(list(blocks), axis)

    @cached_property
    def _blocks(self) -> list[tuple[int, Tensor]]:
        """Rows of the matrix, without the zeros before and after, and where they begin."""
        blocks = []
        for rows in torch.split(self.matrix, BAND):
            used = rows.any(0).nonzero()
            begin, end = int(used[0]), int(used[-1]) + 1
            blocks.append((begin, rows[:, begin:end].contiguous()))
        return blocks


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply a matrix by the vectors along an axis."""
    if axis == x.ndim - 1:
        return x @ matrix.mT
    if axis == x.ndim - 2:
        return matrix @ x
    return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)


def fill_gaps(y: Tensor, weights: Tensor | None) -> Tensor:
    """Replace what has no weight by the mean of what is near, coarse to fine.

    Images are (B, C, *space) of two or three axes, finite everywhere; weights are broadcast to
    them, and None keeps all.
    """
    if weights is None or bool(weights.all()):
        return y
    kept = (weights > 0).to(y).expand_as(y)
    if min(y.shape[2:]) < 2:
        return torch.where(kept > 0, y, (y * kept).sum() / kept.sum().clamp(min=1))
    pool, mode = (F.avg_pool2d, "bilinear") if y.ndim == 4 else (F.avg_pool3d, "trilinear")
    share = pool(kept, 2, ceil_mode=True)
    means = pool(y * kept, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = fill_gaps(means, share)
    near = F.interpolate(coarse, y.shape[2:], mode=mode, align_corners=False)
    return torch.where(kept > 0, y, near)


def resize(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize (B, C, *space) to a shape: bicubic, antialiased."""
    for axis, new in enumerate(shape, 2):
        matrix = torch.from_numpy(resize_matrix(y.shape[axis], new)).to(y)
        y = _Band(matrix).along(y, axis)
    return y


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
