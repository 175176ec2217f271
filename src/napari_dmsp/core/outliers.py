"""Hot and dead pixels: single samples that differ more from those around than blur allows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import rank_filter

from .data import FLOOR
from .noise import MAD, wavelet_sigma

# Least height of an outlier, in units of the noise, and the most of the pixels that are some.
LEAST_HEIGHT, MOST_OUTLIERS = 8.0, 0.01
# Point spread functions that are sharper leave nothing to tell outliers by.
MOST_SHARPNESS = 0.7
# Pixels on either side by which the ground below an outlier is known.
REACH = 2
# The neighbours of a pixel, and the rank of the third brightest of them: two may be hot as well.
NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
THIRD = 5

Plane = NDArray[np.float64]


def find_outliers(values: Plane, psf: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find hot and dead pixels of a blurred image.

    A pixel is one where it rises from its neighbours more sharply than the image of a point does,
    by much more than the noise. Where these are more than 1 % of the pixels, the point spread
    function is wrong rather than the pixels, and there are none.

    Parameters
    ----------
    values : ndarray
        (C, H, W) on the scale of the prior.
    psf : ndarray
        (kh, kw).

    Returns
    -------
    ndarray of bool
        (C, H, W), True for outliers.
    """
    none = np.zeros(values.shape, bool)
    point = np.pad(psf.astype(float), REACH + 1)
    peak = np.unravel_index(np.argmax(point), point.shape)
    height, ground, _ = _heights(point, np.array([peak]))
    sharpness = float(height[0] / (point[peak] - ground[0]))
    if sharpness > MOST_SHARPNESS:
        return none
    sigma = max(wavelet_sigma(torch.from_numpy(values)[None]), FLOOR)
    found = [_hot(plane, sigma, sharpness) | _hot(-plane, sigma, sharpness) for plane in values]
    outliers = np.stack(found)
    # A lone point is all that an image may have.
    alone = not np.ptp(values[~outliers])
    return none if alone or outliers.mean() > MOST_OUTLIERS else outliers


def _hot(plane: Plane, sigma: float, sharpness: float) -> NDArray[np.bool_]:
    """Find pixels that are too bright."""
    hot = plane - _third(plane) > LEAST_HEIGHT * sigma
    places = np.argwhere(hot)
    if not len(places):
        return hot
    height, ground, spread = _heights(plane, places)
    least = (1 + sharpness) / 2 * (plane[hot] - ground)
    hot[hot] = (height > least) & (height > LEAST_HEIGHT * spread)
    return hot


def _heights(plane: Plane, places: NDArray[np.int_]) -> tuple[Plane, Plane, Plane]:
    """Return the heights of pixels above their neighbours, and the ground there and its spread."""
    rows, columns = places.T
    side = 2 * REACH + 1
    windows = sliding_window_view(np.pad(plane, REACH, "symmetric"), (side, side))[rows, columns]
    ground = np.median(windows, (1, 2))
    spread = np.median(np.abs(windows - ground[:, None, None]), (1, 2)) / MAD
    return plane[rows, columns] - _third(plane)[rows, columns], ground, spread


def _third(plane: Plane) -> Plane:
    """Return the third brightest neighbour of every pixel."""
    third: Plane = rank_filter(plane, THIRD, footprint=NEIGHBOURS, mode="reflect")
    return third
