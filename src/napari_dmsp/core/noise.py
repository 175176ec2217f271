"""Estimates of the noise from the observation alone: one level, or one that grows with light.

Only what was observed counts: what fills gaps is smooth, and has no noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pywt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial import cKDTree
from scipy.stats import chi2, halfnorm
from torch import Tensor

from ..settings import Photons
from .data import FLOOR, Gaussian
from .operators import Operator

# Operators that let more than this power of the finest details through leave observations sharp.
SHARP_GAIN = 0.05
# Patches: their sides, larger ones first, how many are used, which part of their principal
# components holds noise and not image, and the rank of the patch that stands for one without
# texture.
PATCHES = (8, 6, 4)
MOST_PATCHES = 65_536
WEAKEST = 0.25
QUIETEST = 0.04
# Share of pixels that may be gaps without a notice of patches.
FEW_GAPS = 0.02
# Detail of photographs that the patches take for noise, on the scale of the prior.
PATCH_BIAS = 2 / 255

# Wavelets of constants, relative to them.
ROUNDING = 1e-12
# Median of |N(0, 1)|, and the least number of values of which a median is taken.
MAD, LEAST_VALUES = 0.6745, 64
# Most pixels whose nearest neighbours are compared.
MOST_PAIRS = 65_536
# Noise that is not white: by how much coarser details are larger where they are fewest, the side of
# the windows in which they are counted, the parts of these that are compared, and by how much those
# may differ.
MORE_COARSE, COARSE_WINDOW, FEWEST_DETAILS, EVEN = 1.6, 6, (0.02, 0.05, 0.2), 1.38
# Noise that grows with light: the least ratio of variances that matters, bins of the intensity, the
# least pixels in one, and the width of the blur that leaves the light of a pixel, in pixels.
SHOT_RATIO = 3.0
SHOT_BINS, SHOT_PIXELS = 64, 32
SHOT_SMOOTHING = 1.5
# Of fewer photons in a pixel, which are 0, 1 or 2, medians tell little.
FEW_PHOTONS = 8
# The same in sharp images: bins of the patches, the least patches in one, the greatest noise level
# that may be detail, and which part of the bins must be how near to the line.
LINE_BINS, LINE_PATCHES = 16, 64
LEAST_SHOT = 4 / 255
AGREE, NEAR = 0.8, 0.25
# The same part for raw frames, which are counts of photons, and the light at which their noise must
# be more than nothing: texture that grows with light is often less.
RAW_AGREE = 0.5
NO_LIGHT = 5 / 255
# Steps that find the line, and that find it below what has texture.
LINE_STEPS, TEXTURED_STEPS = 5, 20
# A filter that adds up the samples under one coefficient of the wavelets.
_SUM = pywt.Wavelet("sum", filter_bank=4 * [4 * [1.0]])

Plane = NDArray[np.float64]
Gaps = NDArray[np.bool_]


def wavelet_sigma(y: Tensor, weights: Tensor | None = None) -> float:
    """Robust estimate of the noise level of (B, C, H, W), in its units.

    The median absolute deviation of the finest diagonal wavelets. Blur removes the signal from
    that band, so for blurred images it is nearly exact.

    Weights are 0 in gaps: wavelets that touch one are left out. Where too few are left, diagonal
    differences of four neighbours stand for them, and then differences of nearest neighbours, which
    hold some of the image as well.

    References
    ----------
    .. [1] Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994,
       DOI 10.1093/biomet/81.3.425.
    """
    planes, gaps = _planes(y, weights)
    if gaps is not None:
        return _mean_level([_gappy_sigma(*pair) for pair in zip(planes, gaps, strict=True)])
    if min(planes.shape[1:]) < 8:
        return FLOOR
    return _mean_level([_plane_sigma(plane) for plane in planes])


def coarse_sigma(y: Tensor) -> float | None:
    """Noise level of details twice as coarse as the finest, if it is higher: noise is not white.

    Blur and texture leave more of such details, too, but not as much everywhere as noise does:
    where they are fewest, their size must hardly vary. None where noise is white, or it cannot be
    told. Images are (B, C, H, W).
    """
    planes, _ = _planes(y, None)
    if min(planes.shape[1:]) < 8 * COARSE_WINDOW:
        return None
    levels = []
    for plane in planes:
        details = pywt.dwtn(plane, "db2")
        fine, coarse = _deviation(details["dd"]), pywt.dwtn(details["aa"], "db2")["dd"]
        inner = slice(COARSE_WINDOW // 2, -(COARSE_WINDOW // 2))
        energy = uniform_filter(np.square(coarse), COARSE_WINDOW)[inner, inner]
        least, few, more = np.sqrt(np.quantile(energy.clip(0), FEWEST_DETAILS))
        if few > MORE_COARSE * fine and more < EVEN * least:
            levels.append(float(few))
    return _mean_level(levels) if len(levels) == len(planes) else None


def _plane_sigma(plane: Plane) -> float:
    """Noise level of a plane without gaps; dead regions, which are constant, do not count."""
    wavelets = pywt.dwtn(plane, "db2")["dd"]
    rounding = ROUNDING * np.abs(plane).max()
    return _deviation(wavelets[np.abs(wavelets) > rounding])


def _gappy_sigma(plane: Plane, gaps: Gaps) -> float:
    """Noise level of a plane by the finest differences of pixels that were observed."""
    if min(plane.shape) >= 8:
        wavelets = pywt.dwtn(plane, "db2")["dd"]
        touched = pywt.dwtn(gaps.astype(float), _SUM)["aa"] > 0.5
        if (~touched).sum() >= LEAST_VALUES:
            return _deviation(wavelets[~touched])
    touched = sliding_window_view(gaps, (2, 2)).any((2, 3))
    if (~touched).sum() >= LEAST_VALUES:
        a, b, c, d = (plane[i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1))
        return _deviation((a - b - c + d)[~touched] / 2)
    return _neighbour_sigma(plane, gaps)


def _neighbour_sigma(plane: Plane, gaps: Gaps) -> float:
    """Noise level by the differences of nearest neighbours, wherever they are."""
    places = np.argwhere(~gaps)
    if len(places) < 2:
        return FLOOR
    some = places[:: -(-len(places) // MOST_PAIRS)]
    _, nearest = cKDTree(places).query(some, k=2)
    values = plane[tuple(places.T)]
    differences = (plane[tuple(some.T)] - values[nearest[:, 1]]) / math.sqrt(2)
    # The smaller half has less of the image.
    return _deviation(differences, 0.25)


def _deviation(values: NDArray[np.float64], rank: float = 0.5) -> float:
    """Robust standard deviation of values about zero; those that are exactly zero are clipped."""
    values = np.abs(values[np.nonzero(values)])
    return float(np.quantile(values, rank) / halfnorm.ppf(rank)) if values.size else 0.0


def _mean_level(sigmas: list[float] | NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(sigmas))))


def _planes(y: Tensor, weights: Tensor | None) -> tuple[Plane, NDArray[np.bool_] | None]:
    """Return the planes of (B, C, H, W), and where they have gaps; None without any."""
    planes = y.detach().cpu().double().numpy().reshape(-1, *y.shape[-2:])
    if weights is None or bool((weights > 0).all()):
        return planes, None
    gaps = (weights <= 0).expand_as(y).cpu().numpy().reshape(planes.shape)
    return planes, gaps


def patch_sigma(
    y: Tensor, observed: NDArray[np.bool_] | None = None, weights: Tensor | None = None
) -> float:
    """Noise level of sharp images (B, C, H, W) or mosaics, in their units.

    Patches that begin at the same place of the period are like each other: few principal components
    hold most of the image. Where there is little texture, the others hold noise only. The
    components are found twice, the second time from the quieter half.

    ``observed`` is one period (h, w) of a mosaic, False where it has no pixel; weights are 0 in
    gaps, and patches that touch one are left out. Where gaps leave no patches, nearest neighbours
    of one place of the period are compared: more than the noise.

    The estimate is never less than `FLOOR`. For mosaics of photographs on a scale of 255 it is, on
    average, 1.1 to 1.4 at no noise, 2.5 to 2.7 at 2, 5.2 to 5.4 at 5, 9.7 to 10.1 at 10.

    References
    ----------
    .. [1] Pyatykh, Hesser, Zheng, "Image noise level estimation by principal component analysis",
       TIP 2013, DOI 10.1109/TIP.2012.2221728.
    """
    observed = np.ones((1, 1), bool) if observed is None else observed
    planes, gaps = _planes(y, weights)
    found = _patch_sigma(planes, observed, gaps)
    return max(_phase_sigma(planes, observed, gaps) if found is None else found, FLOOR)


def _patch_sigma(planes: Plane, observed: Gaps, gaps: Gaps | None) -> float | None:
    """Return the level by the largest patches of which there are enough; None without any."""
    if gaps is not None and gaps.mean() < FEW_GAPS:
        # Patches that touch one are not the quietest.
        gaps = None
    for side in PATCHES:
        if min(planes.shape[1:]) < side:
            continue
        patches = _patches(planes, observed, gaps, side)
        if len(patches) >= 4 * patches.shape[1]:
            level = _quiet_sigma(patches)
            if gaps is None:
                return level
            # The components of few patches adapt to their noise: as much as to white noise.
            white = np.random.default_rng(0).standard_normal(planes.shape)
            return level / _quiet_sigma(_patches(white, observed, gaps, side))
    return None


def _quiet_sigma(patches: NDArray[np.float64]) -> float:
    energy, _ = _weak_energy(patches)
    energy, freedom = _weak_energy(patches[energy <= np.median(energy)])
    return float(np.sqrt(np.quantile(energy, QUIETEST) / chi2.ppf(QUIETEST, freedom)))


def _phase_sigma(planes: Plane, observed: Gaps, gaps: Gaps | None) -> float:
    """Return the level by nearest neighbours at the same place of the period."""
    missing = np.zeros(planes.shape, bool) if gaps is None else gaps
    height, width = observed.shape
    return _mean_level(
        [
            _neighbour_sigma(plane[i::height, j::width], gap[i::height, j::width])
            for plane, gap in zip(planes, missing, strict=True)
            for i, j in np.argwhere(observed)
        ]
    )


def _weak_energy(
    patches: NDArray[np.float64], among: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], int]:
    """Return every patch's energy in the weakest principal components, and how many they are.

    The components are those of the patches ``among`` them, by default all.
    """
    among = patches if among is None else among
    centred = among - among.mean(0)
    _, components = np.linalg.eigh(centred.T @ centred)
    weakest = max(int(patches.shape[1] * WEAKEST), 1)
    energy = np.square((patches - among.mean(0)) @ components[:, :weakest]).sum(1)
    return energy, weakest


def _patches(planes: Plane, observed: Gaps, gaps: Gaps | None, side: int) -> NDArray[np.float64]:
    """Return patches (n, pixels) at one phase of the period, without gaps and not clipped."""
    height, width = observed.shape
    repeats = -(-side // height), -(-side // width)
    kept = np.tile(observed, repeats)[:side, :side].ravel()

    def cut(image: NDArray[Any]) -> NDArray[Any]:
        windows = sliding_window_view(image, (side, side))[::height, ::width]
        count = windows.shape[0] * windows.shape[1] * len(planes)
        step = math.ceil(math.sqrt(count / MOST_PATCHES))
        return windows[::step, ::step].reshape(-1, side**2)[:, kept]

    found = []
    for i, plane in enumerate(planes):
        patches, known = cut(plane), plane
        if gaps is not None:
            patches, known = patches[~cut(gaps[i]).any(1)], plane[~gaps[i]]
        inside = (patches.min(1) > known.min()) & (patches.max(1) < known.max())
        found.append(patches[inside] if inside.sum() >= 4 * patches.shape[1] else patches)
    return np.concatenate(found)


def noise_bounds(data: Gaussian) -> tuple[float, float]:
    """Return the least and the greatest noise level of samples of weight 1.

    Blur leaves only noise in the finest wavelets, which then give the least possible level. In a
    sharp observation they hold detail too, and patches without texture give the greatest.
    """
    y, weights = data.y, data.weights
    if weights is not None:
        y = y * weights.sqrt()
    if not is_sharp(data.operator, y):
        return wavelet_sigma(y, weights), math.inf
    # Neighbours that are far from each other hold too much of the image for a lower bound.
    planes, gaps = _planes(y, weights)
    patches = _patch_sigma(planes, np.ones((1, 1), bool), gaps)
    wavelets = wavelet_sigma(y, weights)
    if patches is None:
        return 0.0, max(wavelets, FLOOR)
    return patch_bounds(min(max(patches, FLOOR), wavelets))


def patch_bounds(sigma: float) -> tuple[float, float]:
    """Return the least and the greatest noise level of photographs, given that of the patches."""
    return math.sqrt(max(sigma**2 - PATCH_BIAS**2, 0.0)), sigma


@dataclass(frozen=True)
class ShotLine:
    """Noise that grows with light, as photons make it: variance ``slope * light + offset``.

    All numbers are on the scale of the samples.
    """

    slope: float
    offset: float
    # Least variance.
    floor: float
    # Noise level of samples of weight 1; None where the weights are not known yet.
    scale: float | None = None

    @classmethod
    def of(cls, photons: Photons, low: float, scale: float) -> ShotLine:
        """Put known noise on the scale of the prior, black at ``low`` and white ``scale`` above.

        What has no light is not without noise: it has that of half a photon, at least.
        """
        gain, read = photons.gain / scale, photons.read_noise / scale
        offset = gain * (low - photons.offset) / scale + read**2
        return cls(gain, offset, max(read**2, gain**2 / 2, FLOOR**2))

    def variance(self, light: Tensor) -> Tensor:
        """Return the variance of samples by the light that they have on average."""
        return (self.slope * light + self.offset).clamp(min=self.floor)

    def divided(self, factor: float) -> ShotLine:
        """Return the line of samples that are divided by a factor."""
        scale = None if self.scale is None else self.scale / factor
        squared = factor**2
        return ShotLine(self.slope / factor, self.offset / squared, self.floor / squared, scale)


def smooth(y: Tensor) -> Tensor:
    """Return the light of every sample, nearly without noise."""
    planes = y.detach().cpu().double().numpy()
    width = (0, 0, *(y.ndim - 2) * (SHOT_SMOOTHING,))
    return torch.from_numpy(gaussian_filter(planes, width)).to(y)


def shot_line(
    y: Tensor,
    weights: Tensor | None = None,
    ratio: float = SHOT_RATIO,
    light: Tensor | None = None,
) -> ShotLine | None:
    """Fit the straight line of the intensity that the variance of photons is.

    The finest diagonal differences of a blurred image hold noise only: their median size in bins of
    pixels with like surroundings gives the variance. Images are (B, C, H, W), weights 0 in gaps.
    Where the ``light`` is known, of the same shape, details are those of what it leaves, and pixels
    with like light are compared. None if the variance differs by less than the ratio.

    References
    ----------
    .. [1] Foi, Trimeche, Katkovnik, Egiazarian, "Practical Poissonian-Gaussian noise modeling and
       fitting for single-image raw-data", TIP 2008, DOI 10.1109/TIP.2008.2001399.
    """
    planes, gaps = _planes(y, weights)
    if min(planes.shape[1:]) < 2 * PATCHES[0]:
        return None
    height, width = (size // 2 * 2 for size in planes.shape[1:])
    corners = [(slice(i, height, 2), slice(j, width, 2)) for i in (0, 1) for j in (0, 1)]
    # Only light that is not known has noise to be averaged.
    known, blur = (planes, 1) if light is None else (_planes(light, None)[0], 0)
    mean = sum(known[:, rows, columns] for rows, columns in corners) / 4
    left = planes if light is None else planes - known
    a, b, c, d = (left[:, rows, columns] for rows, columns in corners)
    detail, around = np.abs(a - b - c + d) / 2, partial(gaussian_filter, sigma=(0, blur, blur))
    if gaps is None:
        mean = around(mean)
    else:
        clear = ~np.any([gaps[:, rows, columns] for rows, columns in corners], axis=0)
        share = around(clear.astype(float))
        detail, mean = detail[clear], around(clear * mean)[clear] / share[clear]
    if detail.size < 2 * SHOT_PIXELS:
        return None
    return _fit_line(detail.ravel(), mean.ravel(), ratio)


def _fit_line(
    detail: NDArray[np.float64], mean: NDArray[np.float64], ratio: float
) -> ShotLine | None:
    """Fit variance = slope * mean + offset to the details of pixels and to their surroundings."""
    bins = np.array_split(np.argsort(mean), min(SHOT_BINS, max(2, mean.size // SHOT_PIXELS)))
    means = np.array([mean[pixels].mean() for pixels in bins])
    medians = np.array([np.median(detail[pixels]) / MAD for pixels in bins]) ** 2
    squares = np.array([np.square(detail[pixels]).mean() for pixels in bins])
    if not squares.any():
        return None
    # Medians leave out edges, but do not know what a few photons make.
    few = means < FEW_PHOTONS * _line_through(means, squares)[0]
    slope, offset, _ = _line_through(means, np.where(few, squares, medians))
    # What has no light is not without noise, see `ShotLine.of`.
    floor = slope**2 / 2
    least, greatest = slope * means[0] + offset, slope * means[-1] + offset
    if greatest <= 0 or -offset > slope * (means[0] + NO_LIGHT * (means[-1] - means[0])):
        return None
    if greatest < ratio * max(least, floor):
        return None
    # Noise pulls some pixels below the darkest mean: not all that far.
    return ShotLine(slope, offset, max(float(least) / 2, floor))


def _line_through(
    light: NDArray[np.float64], variances: NDArray[np.float64], textured: bool = False
) -> tuple[float, float, NDArray[np.float64]]:
    """Fit slope and offset to variances, some of which texture may have raised; also their fit."""
    fitted, trust = np.full_like(variances, variances.mean()), np.ones_like(variances)
    for _ in range(TEXTURED_STEPS if textured else LINE_STEPS):
        # The error of a variance is proportional to it.
        slope, offset = np.polyfit(light, variances, 1, w=trust / fitted)
        fitted = np.maximum(slope * light + offset, variances.max() * 1e-3)
        if textured:
            above = variances / fitted - 1
            trust = np.where(above > 0, 1 / (1 + np.square(above / 0.1)), 1)
    return float(slope), float(offset), fitted


def sharp_line(
    y: Tensor,
    weights: Tensor | None = None,
    period: tuple[int, int] = (1, 1),
    raw: bool = False,
) -> ShotLine | None:
    """Fit the line of `shot_line` to images that hold detail, or to mosaics.

    In bins of patches with like means, the least textured ones tell the variance, as they do in
    `patch_sigma`; most of the bins must be near the line, since detail grows with light as well:
    fewer of them in raw frames, whose line begins at black. Each place of the period of a mosaic is
    an image. None also where the variance may be that of detail.
    """
    planes, gaps = _planes(y, weights)
    planes, gaps = _phases(planes, period), None if gaps is None else _phases(gaps, period)
    one = np.ones((1, 1), bool)
    for side in PATCHES:
        if min(planes.shape[1:]) < side:
            continue
        patches = _patches(planes, one, gaps, side)
        if len(patches) >= LINE_BINS * LINE_PATCHES:
            return _agreed_line(patches, raw)
    return None


def _phases(planes: NDArray[Any], period: tuple[int, int]) -> NDArray[Any]:
    """Return every place of the period as a plane."""
    (height, width), (rows, columns) = planes.shape[1:], period
    whole = planes[:, : height // rows * rows, : width // columns * columns]
    return np.concatenate([whole[:, i::rows, j::columns] for i, j in np.ndindex(period)])


def _agreed_line(patches: NDArray[np.float64], raw: bool) -> ShotLine | None:
    """Fit a line below the variances of bins of patches; None where they do not agree."""
    energy, _ = _weak_energy(patches)
    energy, freedom = _weak_energy(patches, patches[energy <= np.median(energy)])
    means = patches.mean(1)
    bins = np.array_split(np.argsort(means), LINE_BINS)
    quiet = np.array([np.quantile(energy[group], QUIETEST) for group in bins])
    variances = quiet / chi2.ppf(QUIETEST, freedom)
    if not variances.any():
        return None
    light = np.array([means[group].mean() for group in bins])
    slope, offset, fitted = _line_through(light, variances, textured=True)
    least, greatest = fitted[0], slope * light[-1] + offset
    agreed = np.mean(np.abs(variances / fitted - 1) < NEAR) >= (RAW_AGREE if raw else AGREE)
    if raw and slope * NO_LIGHT + offset <= 0:
        return None
    if not agreed or greatest < max(SHOT_RATIO * least, LEAST_SHOT**2):
        return None
    return ShotLine(slope, offset, float(least) / 2)


def is_sharp(operator: Operator, y: Tensor) -> bool:
    """Whether an operator passes detail at the scale of a pixel of its observation ``y``."""
    return operator.fine_gain(y) >= SHARP_GAIN
