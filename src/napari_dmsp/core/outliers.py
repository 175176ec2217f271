"""Hot and dead pixels: single samples that differ more from those around than blur allows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import rank_filter
from scipy.stats import chi2

from .data import FLOOR
from .noise import MAD, wavelet_sigma

# Least height of an outlier, in units of the noise, the most of the pixels that are some, and how
# often they are looked for.
LEAST_HEIGHT, MOST_OUTLIERS, PASSES = 7.0, 0.02, 3
# The same in units of how much the ground around it varies.
LEAST_SPREADS = 2.0
# Point spread functions that are sharper leave nothing to tell outliers by.
MOST_SHARPNESS = 0.7
# Pixels on either side by which the ground below an outlier is known.
REACH = 2
# Least light by which it is told how noise grows with light, in units of the noise in the dark.
LEAST_LIGHT = 2.0
# The same where the noise of a few photons shows, and hot pixels do not yet.
QUANTILE = 0.75
# The neighbours of a pixel, and the rank of the third brightest of them: two may be hot as well.
NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
THIRD = 5

Plane = NDArray[np.float64]


def find_outliers(values: Plane, psf: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find hot and dead pixels of a blurred image.

    A pixel is one where it rises from its neighbours more sharply than the image of a point does,
    by much more than the noise. Where these are more than 2 % of the pixels, the point spread
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
    # Few photons make single pixels bright.
    slope = _photon_slope(values, sigma)
    outliers, rest = none.copy(), values.copy()
    # Those beside others show once these are gone.
    for _ in range(PASSES):
        noise, before = np.sqrt(sigma**2 + slope * rest.clip(0)), outliers.sum()
        for plane, level, found in zip(rest, noise, outliers, strict=True):
            new = _hot(plane, level, sharpness) | _hot(-plane, level, sharpness)
            if new.any():
                plane[new] = _heights(plane, np.argwhere(new))[1]
                found |= new
        if outliers.sum() == before:
            break
    # A lone point is all that an image may have.
    alone = not np.ptp(values[~outliers])
    return none if alone or outliers.mean() > MOST_OUTLIERS else outliers


def _photon_slope(values: Plane, sigma: float) -> float:
    """Return by how much light makes the variance of the noise grow, where there is light."""
    height, width = (size // 2 * 2 for size in values.shape[1:])
    a, b, c, d = (values[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    light = (a + b + c + d) / 4
    lit = light > LEAST_LIGHT * sigma
    if not lit.any():
        return 0.0
    share = (a - b - c + d)[lit] ** 2 / 4 / light[lit]
    return float(np.quantile(share, QUANTILE) / chi2.ppf(QUANTILE, 1))


def _hot(plane: Plane, sigma: Plane, sharpness: float) -> NDArray[np.bool_]:
    """Find pixels that are too bright."""
    hot = plane - _third(plane) > LEAST_HEIGHT * sigma
    places = np.argwhere(hot)
    if not len(places):
        return hot
    height, ground, spread = _heights(plane, places)
    least = (1 + sharpness) / 2 * (plane[hot] - ground)
    hot[hot] = (height > least) & (height > LEAST_SPREADS * spread)
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
