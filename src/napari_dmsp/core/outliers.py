"""Hot and dead pixels and dead regions: they differ more from what is around than light does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_dilation,
    find_objects,
    label,
    maximum_filter,
    median_filter,
    minimum_filter,
    minimum_filter1d,
    uniform_filter,
)
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
# Rank of the third brightest neighbour of a pixel: two may be hot as well.
THIRD = 5

# Sharp images: the sharpness of the smallest spot that a lens makes, how far outliers stand out
# from what is around them, by how much neighbours may, and the least height in units of the range.
SPOT, SHARP_SPREADS, SHARP_REST, SHARP_HEIGHT = 0.92, 8.0, 2.0, 1.05
# Mosaics: the same, the least height in units of the range, and how many pixels near each other are
# a highlight that is clipped; the same for dead pixels, and what is black.
MOSAIC_SPREADS, MOSAIC_HEIGHT, CLIPPED = 12.0, 0.6, 3
DEAD_SPREADS, DEAD_HEIGHT, BLACK = 8.0, 0.2, 0.02
# Share of outliers from which on more are looked for, and by how much more readily.
MANY, FARTHER = 2e-4, 3.0
# Dead regions: the least size, the step at their border in units of the slope behind it, the least
# slope that counts, and the part of the pixels around that may have the same value.
LEAST_REGION, STEP, LEAST_STEP, SAME = 9, 4.0, 2 / 255, 0.05
AROUND = np.ones((3, 3), bool)

Plane = NDArray[np.float64]
Gaps = NDArray[np.bool_]


def find_outliers(values: Plane, psf: NDArray[np.float32], least: float = FLOOR) -> Gaps:
    """Find hot and dead pixels of a blurred image, and dead regions.

    A pixel is one where it rises from its neighbours more sharply than the image of a point does,
    by much more than the noise. Where these are more than 2 % of the pixels, the point spread
    function is wrong rather than the pixels, and there are none.

    Parameters
    ----------
    values : ndarray
        (C, H, W) on the scale of the prior.
    psf : ndarray
        (kh, kw).
    least : float
        Least noise level.

    Returns
    -------
    ndarray of bool
        (C, H, W), True for outliers.
    """
    point = np.pad(psf.astype(float), REACH + 1)
    peak = np.unravel_index(np.argmax(point), point.shape)
    height, ground, _ = _heights(point, np.array([peak]))
    sharpness = float(height[0] / (point[peak] - ground[0]))
    if sharpness > MOST_SHARPNESS:
        return np.zeros(values.shape, bool)
    dead = np.array([_dead_regions(plane) for plane in values])
    if dead.all() or not np.ptp(values[~dead]):
        # Of two regions that are constant, neither is dead.
        dead[:] = False
    good = torch.from_numpy(~dead)[None] if dead.any() else None
    sigma = max(wavelet_sigma(torch.from_numpy(values)[None], good), least, FLOOR)
    # Few photons make single pixels bright.
    slope = _photon_slope(values, sigma)
    return dead | _find(values, Peaks(sharpness, LEAST_SPREADS, slope=slope), sigma)


def find_hot_pixels(values: Plane, period: tuple[int, int] = (1, 1), least: float = FLOOR) -> Gaps:
    """Find hot and dead pixels of a sharp image, or of a mosaic.

    Detail may be as fine as they are. So they must rise from the smallest spot that a lens makes,
    stand out from all that is around them, and in mosaics by much of the image's range.

    Parameters
    ----------
    values : ndarray
        (C, H, W) on the scale of the prior.
    period : (int, int)
        That of a mosaic.
    least : float
        Least noise level of a sharp image.

    Returns
    -------
    ndarray of bool
        (C, H, W), True for outliers.
    """
    if np.median(values) == values.min() or min(values.shape[1:]) < 4 * max(period):
        # Where most pixels have no photon, all others are alone.
        return np.zeros(values.shape, bool)
    if period != (1, 1):
        return _find_in_mosaic(values, period)
    sigma = max(wavelet_sigma(torch.from_numpy(values)[None]), least, FLOOR)
    low, high = np.percentile(median_filter(values, (1, 3, 3), mode="nearest"), (0.1, 99.9))
    height, slope = SHARP_HEIGHT * (high - low), _photon_slope(values, sigma)
    peaks = Peaks(SPOT, SHARP_SPREADS, SHARP_REST, height, slope)
    found = _find(values, peaks, sigma)
    # Where there are many, there are others, which could be detail elsewhere.
    return (
        _find(values, replace(peaks, least=height / FARTHER), sigma)
        if found.mean() > MANY
        else found
    )


def _find_in_mosaic(values: Plane, period: tuple[int, int]) -> Gaps:
    """Find outliers of a mosaic."""
    # Without the colours that single filters see; what is left of a point is a point.
    rest = values.copy()
    for i, j in np.ndindex(period):
        place = (slice(None), slice(i, None, period[0]), slice(j, None, period[1]))
        rest[place] -= median_filter(values[place], (1, 3, 3), mode="nearest")
    sigma = max(wavelet_sigma(torch.from_numpy(rest)[None]), FLOOR)
    white = float(np.percentile(values - rest, 99.9))
    hot = _find(rest, Peaks(SPOT, MOSAIC_SPREADS, SHARP_REST, MOSAIC_HEIGHT * white), sigma)
    dead = _find(rest, Peaks(SPOT, DEAD_SPREADS, SHARP_REST, DEAD_HEIGHT * white), sigma)
    # Highlights that are clipped have many pixels of the same brightness.
    side = 2 * REACH + 1
    beside = uniform_filter((values == values.max()).astype(float), (1, side, side))
    return (hot | dead & (values < BLACK * white)) & (beside * side**2 < CLIPPED - 0.5)


@dataclass(frozen=True)
class Peaks:
    """What makes a pixel an outlier.

    Attributes
    ----------
    sharpness : float
        Part of the height of a point's image by which it is above its third brightest neighbour.
    spreads, least : float
        Least height above the neighbours: in units of how much the ground varies, and on the scale
        of the image.
    rest : float
        Height of neighbours above the ground that is always allowed, in units of how much it
        varies.
    slope : float
        By how much light makes the variance of the noise grow.
    """

    sharpness: float
    spreads: float
    rest: float = 0.0
    least: float = 0.0
    slope: float = 0.0


def _find(values: Plane, peaks: Peaks, sigma: float) -> Gaps:
    """Find pixels that are too bright or too dark, again until none is new."""
    outliers, rest = np.zeros(values.shape, bool), values.copy()
    # Those beside others show once these are gone.
    for _ in range(PASSES):
        noise, before = np.sqrt(sigma**2 + peaks.slope * rest.clip(0)), outliers.sum()
        for plane, level, found in zip(rest, noise, outliers, strict=True):
            new = _hot(plane, level, peaks) | _hot(-plane, level, peaks)
            if new.any():
                plane[new] = _heights(plane, np.argwhere(new))[1]
                found |= new
        if outliers.sum() == before:
            break
    # A lone point is all that an image may have.
    alone = not np.ptp(values[~outliers])
    return outliers & (not alone and outliers.mean() <= MOST_OUTLIERS)


def _dead_regions(plane: Plane) -> Gaps:
    """Find regions of one value that end in a step, which blur does not leave.

    Where light begins or an exposure is clipped, the pixels around differ from such a region by
    about as little as they differ from those one farther away.
    """
    flat = maximum_filter(plane, 3) == minimum_filter(plane, 3)
    regions, count = label(flat)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    dead = np.zeros(plane.shape, bool)
    for region, place in enumerate(find_objects(regions), 1):
        if sizes[region] < LEAST_REGION:
            continue
        box = tuple(slice(max(side.start - 3, 0), side.stop + 3) for side in place)
        inside = binary_dilation(regions[box] == region, AROUND)
        near = binary_dilation(inside, AROUND) & ~inside
        far = binary_dilation(inside, AROUND, 2) & ~inside & ~near
        if far.any() and _ends_in_step(plane[box], inside, near, far):
            dead[box] |= inside
    return dead


def _ends_in_step(plane: Plane, inside: Gaps, near: Gaps, far: Gaps) -> bool:
    """Whether the pixels near a region differ more from it than those farther away from them."""
    value, beside, beyond = plane[inside][0], plane[near], plane[far].mean()
    if np.mean(beside == value) > SAME:
        # No photon came there.
        return False
    doubt = beside.std() / math.sqrt(beside.size)
    slope = max(abs(beyond - beside.mean()), doubt, LEAST_STEP)
    return bool(abs(beside.mean() - value) > STEP * slope)


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


def _hot(plane: Plane, sigma: Plane, peaks: Peaks) -> Gaps:
    """Find pixels that are too bright."""
    least = np.maximum(LEAST_HEIGHT * sigma, peaks.least)
    # The third brightest neighbour is at least as bright as some pixel of each of the four sides.
    hot: Gaps = plane - _darkest_of_sides(plane) > least
    hot[hot] = plane[hot] - _third(plane, np.argwhere(hot)) > least[hot]
    places = np.argwhere(hot)
    if not len(places):
        return hot
    height, ground, spread = _heights(plane, places)
    rise = plane[hot] - ground
    neighbours = np.maximum((1 - peaks.sharpness) / 2 * rise, peaks.rest * spread)
    hot[hot] = (rise - height < neighbours) & (height > peaks.spreads * spread)
    return hot


def _heights(plane: Plane, places: NDArray[np.int_]) -> tuple[Plane, Plane, Plane]:
    """Return the heights of pixels above their neighbours, and the ground there and its spread."""
    windows = _windows(plane, places, REACH)
    ground = np.median(windows, 1)
    spread = np.median(np.abs(windows - ground[:, None]), 1) / MAD
    return plane[tuple(places.T)] - _third(plane, places), ground, spread


def _third(plane: Plane, places: NDArray[np.int_]) -> Plane:
    """Return the third brightest neighbours of pixels."""
    neighbours = np.delete(_windows(plane, places, 1), 4, axis=1)
    third: Plane = np.partition(neighbours, THIRD, axis=1)[:, THIRD]
    return third


def _darkest_of_sides(plane: Plane) -> Plane:
    """Return for every pixel the brightest of the darkest neighbours on its four sides."""
    wide = np.pad(plane, 1, "symmetric")
    rows, columns = (minimum_filter1d(wide, 3, axis=axis) for axis in (1, 0))
    sides = rows[:-2, 1:-1], rows[2:, 1:-1], columns[1:-1, :-2], columns[1:-1, 2:]
    darkest: Plane = np.maximum.reduce(sides)
    return darkest


def _windows(plane: Plane, places: NDArray[np.int_], reach: int) -> Plane:
    """Return what is around pixels, and themselves: (N, (2 reach + 1)²), mirrored at the edges."""
    side = 2 * reach + 1
    windows = sliding_window_view(np.pad(plane, reach, "symmetric"), (side, side))
    found: Plane = windows[tuple(places.T)].reshape(len(places), side**2)
    return found
