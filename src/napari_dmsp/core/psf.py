"""Point spread functions: of known shape, and the hygiene of estimated ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform

from ..errors import DmspError

# A mistyped size must not fill the memory; no image that can be restored needs a wider kernel.
MAX_RADIUS = 500


def gaussian_psf(sigma: float | tuple[float, float]) -> NDArray[np.float32]:
    """Gaussian, cut off at four standard deviations.

    Parameters
    ----------
    sigma : float or (float, float)
        Standard deviation in pixels; along the rows' axis and the columns' axis, where they differ.

    Returns
    -------
    ndarray
        (2 r + 1, 2 s + 1), float32, with sum 1.
    """
    down, right = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    profiles = []
    for size in (down, right):
        if not 0 < 4 * size <= MAX_RADIUS:
            raise DmspError(f"sigma={size:g} px must be above 0 and at most {MAX_RADIUS / 4:g}.")
        radius = math.ceil(4 * size)
        profiles.append(np.exp(-0.5 * (np.arange(-radius, radius + 1) / size) ** 2))
    psf = np.outer(*profiles)
    return (psf / psf.sum()).astype(np.float32)


def motion_psf(length: float, angle: float) -> NDArray[np.float32]:
    """Straight, uniform motion: an anti-aliased line through the centre.

    Parameters
    ----------
    length : float
        Length of the path in pixels.
    angle : float
        Direction in degrees, counter-clockwise from the x axis as the image is displayed.

    Returns
    -------
    ndarray
        (2 r + 1, 2 r + 1), float32, with sum 1.
    """
    if not 0 < length <= 2 * MAX_RADIUS:
        raise DmspError(f"length={length:g} px must be above 0 and at most {2 * MAX_RADIUS}.")
    if not math.isfinite(angle):
        raise DmspError(f"angle={angle} must be a finite number of degrees.")
    radius = math.ceil(length / 2)
    psf = np.zeros((2 * radius + 1, 2 * radius + 1))
    # Many points along the path, each shared bilinearly among its four pixels.
    count = 16 * (radius + 1)
    steps = ((np.arange(count) + 0.5) / count - 0.5) * length
    theta = math.radians(angle)
    # Rows count downwards, angles upwards.
    rows, columns = radius - steps * math.sin(theta), radius + steps * math.cos(theta)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = rows - top, columns - left
    for row, y in ((top, 1 - down), (top + 1, down)):
        for column, x in ((left, 1 - right), (left + 1, right)):
            # A point on the last pixel has no neighbour beyond it, and nothing to share with it.
            inside = (row <= 2 * radius) & (column <= 2 * radius)
            np.add.at(psf, (row[inside], column[inside]), (y * x)[inside])
    return (psf / psf.sum()).astype(np.float32)


def normalise_psf(psf: NDArray[np.floating[Any]], threshold: float = 0.0) -> NDArray[np.float64]:
    """Remove what a kernel cannot be, and scale it to sum 1.

    Parameters
    ----------
    psf : ndarray
        Estimate (kh, kw).
    threshold : float
        Values below this part of the maximum become zero; negative ones always do.

    Returns
    -------
    ndarray
        (kh, kw), float64. A single central pixel where nothing positive is left.
    """
    kept = np.where(psf >= threshold * psf.max(), psf, 0.0).clip(min=0.0)
    if not kept.sum() > 0:
        kept = np.zeros(psf.shape)
        kept[(psf.shape[0] - 1) // 2, (psf.shape[1] - 1) // 2] = 1.0
    return np.asarray(kept / kept.sum(), dtype=np.float64)


def centre_psf(psf: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Shift by whole pixels until the centre of mass is nearest to the centre.

    Parameters
    ----------
    psf : ndarray
        Non-negative kernel (kh, kw) with odd sides.

    Returns
    -------
    ndarray
        (kh, kw) with sum 1. What would leave the frame is cut off.
    """
    height, width = psf.shape
    rows, columns = np.indices(psf.shape)
    down = round((height - 1) / 2 - float((rows * psf).sum() / psf.sum()))
    right = round((width - 1) / 2 - float((columns * psf).sum() / psf.sum()))
    shifted = np.zeros(psf.shape)
    target = shifted[max(down, 0) : height + down, max(right, 0) : width + right]
    target[:] = psf[max(-down, 0) : height - down, max(-right, 0) : width - right]
    return normalise_psf(shifted)


def crop_psf(psf: NDArray[np.floating[Any]], threshold: float = 0.0) -> NDArray[np.float64]:
    """Cut off the empty border, evenly, so that sides stay odd and the centre in place.

    Parameters
    ----------
    psf : ndarray
        Kernel (kh, kw) with odd sides.
    threshold : float
        Values up to this part of the maximum count as empty.

    Returns
    -------
    ndarray
        Kernel of odd sides with sum 1.
    """
    rows, columns = np.nonzero(psf > threshold * psf.max())
    middle = (psf.shape[0] - 1) // 2, (psf.shape[1] - 1) // 2
    reach = [int(np.abs(i - m).max()) for i, m in zip((rows, columns), middle, strict=True)]
    window = tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))
    return normalise_psf(psf[window])


def resize_psf(psf: NDArray[np.floating[Any]], factor: float, size: int) -> NDArray[np.float64]:
    """Magnify about the centre and fit into a square frame.

    Parameters
    ----------
    psf : ndarray
        Kernel (kh, kw) with odd sides.
    factor : float
        Magnification.
    size : int
        Side of the result, odd.

    Returns
    -------
    ndarray
        (size, size) with sum 1.
    """
    offset = [(n - 1) / 2 - (size - 1) / 2 / factor for n in psf.shape]
    large = affine_transform(
        psf.astype(np.float64), [1 / factor] * 2, offset, (size, size), order=3, mode="constant"
    )
    return normalise_psf(large)


def align_psf(psf: ArrayLike, scale: int) -> NDArray[np.float64]:
    """Move the centre of a PSF between pixels, or onto one, as blocks of ``scale`` pixels have it.

    Parameters
    ----------
    psf : array_like
        Kernel (kh, kw).
    scale : int
        Side of the blocks.

    Returns
    -------
    ndarray
        Sides are even if ``scale`` is even, and odd if it is odd. A shift by half a pixel is a
        cubic interpolation.
    """
    kernel = np.asarray(psf, dtype=np.float64)
    for axis in range(kernel.ndim):
        if (kernel.shape[axis] - scale) % 2:
            taps = np.array([-1, 9, 9, -1]) / 16
            kernel = np.apply_along_axis(np.convolve, axis, kernel, taps)
    return kernel
