"""The noise level: from the finest wavelets of the observation, and from the residual (eq. 21)."""

from __future__ import annotations

import math

import numpy as np
from skimage.restoration import estimate_sigma
from torch import Tensor

from .operators import Operator

# Noise is never assumed to be less than this part of the range: rounding to 8 bits gives 0.3/255.
FLOOR = 0.2 / 255
# Operators that pass more than this power in the finest wavelets leave the observation sharp.
SHARP_GAIN = 0.05


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


def noise_bounds(y: Tensor, operator: Operator) -> tuple[float, float]:
    """Return the least and the greatest noise level of an observation without gaps.

    Blur leaves only noise in the finest wavelets, which then give the least possible level. In a
    sharp observation they hold detail too, and give the greatest.
    """
    wavelet = wavelet_sigma(y)
    return (0.0, wavelet) if is_sharp(operator) else (wavelet, math.inf)


def is_sharp(operator: Operator) -> bool:
    """Whether an operator passes detail at the scale of a pixel."""
    return operator.fine_gain >= SHARP_GAIN


def residual_variance(mean_square: float, sigma: float, energy: float) -> float:
    """Noise variance that maximises the objective for the current estimate, eq. 21.

    Parameters
    ----------
    mean_square : float
        Mean square of the residual ``A x - y``.
    sigma : float
        Width of the smoothing of the prior, in the units of the residual.
    energy : float
        ``|k|^2`` of the operator.
    """
    return mean_square + sigma**2 * energy
