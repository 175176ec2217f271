"""Point spread functions of known shape."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .errors import DmspError

# A mistyped size must not fill the memory; no image that can be restored needs a wider kernel.
MAX_RADIUS = 500


def gaussian_psf(sigma: float) -> NDArray[np.float32]:
    """Isotropic Gaussian, cut off at four standard deviations.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    ndarray
        (2 r + 1, 2 r + 1), float32, with sum 1.
    """
    if not 0 < 4 * sigma <= MAX_RADIUS:
        raise DmspError(f"sigma={sigma:g} px must be above 0 and at most {MAX_RADIUS / 4:g}.")
    radius = math.ceil(4 * sigma)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    psf = np.outer(profile, profile)
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
