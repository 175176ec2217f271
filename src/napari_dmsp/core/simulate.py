"""Observations made from a known truth, for the demo, samples, tests and benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve

from ..errors import DmspError
from .psf import path_psf


def simulate_blur(
    truth: ArrayLike, psf: ArrayLike, noise_sigma: float = 0.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blur an image and add Gaussian noise.

    Parameters
    ----------
    truth : array_like
        (H, W) or (H, W, C).
    psf : array_like
        Point spread function (kh, kw), in the orientation of ``scipy.signal.convolve2d``.
    noise_sigma : float
        Standard deviation of the noise, in the units of ``truth``.
    seed : int
        Seed of the noise.

    Returns
    -------
    observed, truth : ndarray
        Both (H - kh + 1, W - kw + 1[, C]), float32: the valid part of the convolution, without
        clipping or rounding, and the part of the truth that lies under it.
    """
    sharp, kernel = np.asarray(truth, dtype=np.float64), np.asarray(psf, dtype=np.float64)
    if sharp.ndim not in (2, 3) or kernel.ndim != 2:
        raise DmspError(
            f"truth has shape {sharp.shape} and psf {kernel.shape}; expected (H, W[, C]) and 2-D."
        )
    kh, kw = kernel.shape
    height, width = sharp.shape[0] - kh + 1, sharp.shape[1] - kw + 1
    if height < 1 or width < 1:
        raise DmspError(f"psf of {kh} x {kw} pixels is larger than truth of shape {sharp.shape}.")
    if sharp.ndim == 3:
        kernel = kernel[..., None]
    noise = np.random.default_rng(seed).standard_normal((height, width, *sharp.shape[2:]))
    observed = fftconvolve(sharp, kernel, mode="valid", axes=(0, 1)) + noise_sigma * noise
    crop = sharp[kh // 2 : kh // 2 + height, kw // 2 : kw // 2 + width]
    return observed.astype(np.float32), crop.astype(np.float32)


def shake_psf(size: int, seed: int = 0) -> NDArray[np.float32]:
    """Simulate the point spread function of a camera that shook during the exposure.

    Parameters
    ----------
    size : int
        Side of the smallest square frame that holds it, in pixels; odd, at least 3.
    seed : int
        Seed of the path.

    Returns
    -------
    ndarray
        (size, size), float32, with sum 1.

    Notes
    -----
    The velocity is white noise, smoothed over an eighth of the exposure, with a drift.
    """
    if size < 3 or size % 2 != 1:
        raise DmspError(f"size={size} must be odd and at least 3.")
    rng, count = np.random.default_rng(seed), 64 * size
    velocity = gaussian_filter1d(rng.standard_normal((2, count)), count / 8, mode="wrap")
    velocity /= velocity.std()
    path = (velocity + 0.7 * rng.standard_normal((2, 1))).cumsum(1)
    low, high = path.min(1, keepdims=True), path.max(1, keepdims=True)
    path = (path - (low + high) / 2) * (size - 1) / (high - low).max()
    return path_psf(path[0], path[1], (size - 1) // 2)
