"""The noise level: from the observation alone, and from the residual (eq. 21)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import chi2
from skimage.restoration import estimate_sigma
from torch import Tensor

from .data import FLOOR, Gaussian
from .operators import Operator

# Operators that let more than this power of the finest details through leave observations sharp.
SHARP_GAIN = 0.05
# Patches: their side, how many are used, which part of their principal components holds noise and
# not image, and the rank of the patch that stands for one without texture.
PATCH = 8
MOST_PATCHES = 65_536
WEAKEST = 0.25
QUIETEST = 0.04
# Detail of photographs that the patches take for noise, on the scale of the prior.
PATCH_BIAS = 2 / 255

# Noise that grows with light: the least ratio of variances that matters, bins of the intensity, the
# least pixels in one, the blur that leaves the light of a pixel, and the median of |N(0, 1)|.
SHOT_RATIO = 3.0
SHOT_BINS, SHOT_PIXELS = 64, 32
SHOT_SMOOTHING = 1.5
MAD = 0.6745


def wavelet_sigma(y: Tensor) -> float:
    """Robust estimate of the noise level of (B, C, H, W), in its units.

    The median absolute deviation of the finest diagonal wavelets. Blur removes the signal from
    that band, so for blurred images it is nearly exact.

    References
    ----------
    .. [1] Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994,
       DOI 10.1093/biomet/81.3.425.
    """
    planes = y.detach().cpu().numpy().reshape(-1, *y.shape[-2:])
    if min(planes.shape[1:]) < 8:
        return float(FLOOR)
    sigmas = estimate_sigma(planes, channel_axis=0)
    return float(np.sqrt(np.mean(np.square(np.nan_to_num(sigmas)))))


def patch_sigma(y: Tensor, observed: NDArray[np.bool_] | None = None) -> float:
    """Noise level of sharp images (B, C, H, W) or mosaics, in their units.

    Patches that begin at the same place of the period are like each other: few principal components
    hold most of the image. Where there is little texture, the others hold noise only. The
    components are found twice, the second time from the quieter half.

    Parameters
    ----------
    y : Tensor
        Images with the same noise level everywhere.
    observed : ndarray, optional
        One period (h, w) of a mosaic, False where it has no pixel.

    Returns
    -------
    float
        Never less than `FLOOR`. For mosaics of photographs on a scale of 255 the average estimate
        is 1.1 to 1.4 at no noise, 2.5 to 2.7 at 2, 5.2 to 5.4 at 5, 9.7 to 10.1 at 10.

    References
    ----------
    .. [1] Pyatykh, Hesser, Zheng, "Image noise level estimation by principal component analysis",
       TIP 2013, DOI 10.1109/TIP.2012.2221728.
    """
    planes = y.detach().cpu().double().numpy().reshape(-1, *y.shape[-2:])
    if min(planes.shape[1:]) < PATCH:
        return FLOOR
    observed = np.ones((1, 1), bool) if observed is None else observed
    patches = np.concatenate([_aligned_patches(plane, observed, len(planes)) for plane in planes])
    if len(patches) < 4 * patches.shape[1]:
        return FLOOR
    energy, _ = _weak_energy(patches)
    energy, freedom = _weak_energy(patches[energy <= np.median(energy)])
    variance = np.quantile(energy, QUIETEST) / chi2.ppf(QUIETEST, freedom)
    return float(max(np.sqrt(variance), FLOOR))


def _weak_energy(patches: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return every patch's energy in the weakest principal components, and how many they are."""
    centred = patches - patches.mean(0)
    _, components = np.linalg.eigh(centred.T @ centred)
    weakest = max(int(patches.shape[1] * WEAKEST), 1)
    return np.square(centred @ components[:, :weakest]).sum(1), weakest


def _aligned_patches(
    plane: NDArray[np.float64], observed: NDArray[np.bool_], planes: int
) -> NDArray[np.float64]:
    """Return patches (n, pixels) at one phase of the period, observed and not clipped."""
    height, width = observed.shape
    repeats = -(-PATCH // height), -(-PATCH // width)
    kept = np.tile(observed, repeats)[:PATCH, :PATCH].ravel()
    windows = sliding_window_view(plane, (PATCH, PATCH))[::height, ::width]
    count = windows.shape[0] * windows.shape[1] * planes
    step = math.ceil(math.sqrt(count / MOST_PATCHES))
    patches = windows[::step, ::step].reshape(-1, PATCH**2)[:, kept]
    if not patches.size:
        return np.empty((0, int(kept.sum())))
    inside = (patches.min(1) > plane.min()) & (patches.max(1) < plane.max())
    return patches[inside] if inside.sum() >= 4 * patches.shape[1] else patches


def noise_bounds(data: Gaussian) -> tuple[float, float]:
    """Return the least and the greatest noise level of an observation.

    Blur leaves only noise in the finest wavelets, which then give the least possible level. In a
    sharp observation they hold detail too, and patches without texture give the greatest.
    """
    sharp = is_sharp(data.operator, data.y)
    return sharp_bounds(data.y) if sharp else (wavelet_sigma(data.y), math.inf)


def sharp_bounds(y: Tensor) -> tuple[float, float]:
    """Return the least and the greatest noise level of sharp images."""
    most = min(patch_sigma(y), wavelet_sigma(y))
    return math.sqrt(max(most**2 - PATCH_BIAS**2, 0.0)), most


def shot_line(y: Tensor) -> ShotLine | None:
    """Fit the straight line of the intensity that the variance of photons is.

    The finest diagonal differences of a blurred image hold noise only: their median size in bins of
    pixels with like surroundings gives the variance.

    Parameters
    ----------
    y : Tensor
        Grey image (1, 1, H, W), blurred.

    Returns
    -------
    ShotLine or None
        None if the variance differs by less than `SHOT_RATIO`.

    References
    ----------
    .. [1] Foi, Trimeche, Katkovnik, Egiazarian, "Practical Poissonian-Gaussian noise modeling and
       fitting for single-image raw-data", TIP 2008, DOI 10.1109/TIP.2008.2001399.
    """
    plane = y[0, 0].detach().cpu().double().numpy()
    if min(plane.shape) < 2 * PATCH:
        return None
    slope, offset, darkest, lightest = _noise_line(plane)
    least = slope * darkest + offset
    if least <= 0 or slope * lightest + offset < SHOT_RATIO * least:
        return None
    line = ShotLine(slope, offset, least)
    return replace(line, scale=float(line.weights(y).square().mean().rsqrt()))


@dataclass(frozen=True)
class ShotLine:
    """Variance as ``slope * intensity + offset``, at least half of ``least``."""

    slope: float
    offset: float
    least: float
    scale: float = 1.0

    def weights(self, y: Tensor) -> Tensor:
        """Weights of a grey image (1, 1, H, W) that make its noise alike.

        Their mean square is 1 in the image that the line was fitted to.
        """
        light = gaussian_filter(y[0, 0].detach().cpu().double().numpy(), SHOT_SMOOTHING)
        # Noise pulls some pixels below the darkest mean: not all that far.
        variance = np.maximum(self.slope * light + self.offset, self.least / 2)
        return torch.from_numpy(self.scale / np.sqrt(variance)).to(y)[None, None]


def _noise_line(plane: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Fit variance = slope * mean + offset; return both, and the least and the greatest mean."""
    height, width = (size // 2 * 2 for size in plane.shape)
    a, b, c, d = (plane[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    detail, mean = (
        np.abs(a - b - c + d).ravel() / 2,
        gaussian_filter((a + b + c + d) / 4, 1).ravel(),
    )
    bins = np.array_split(np.argsort(mean), min(SHOT_BINS, max(2, mean.size // SHOT_PIXELS)))
    means = np.array([mean[pixels].mean() for pixels in bins])
    variances = np.array([np.median(detail[pixels]) / MAD for pixels in bins]) ** 2
    slope, offset = 0.0, 0.0
    fitted = np.full_like(variances, variances.mean())
    # The error of a variance is proportional to it.
    for _ in range(5 if variances.any() else 0):
        slope, offset = np.polyfit(means, variances, 1, w=1 / fitted)
        fitted = np.maximum(slope * means + offset, variances.max() * 1e-3)
    return float(slope), float(offset), float(means[0]), float(means[-1])


def is_sharp(operator: Operator, y: Tensor) -> bool:
    """Whether an operator passes detail at the scale of a pixel of its observation ``y``."""
    return operator.fine_gain(y) >= SHARP_GAIN
