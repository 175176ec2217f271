"""Observations made from a known truth, for the demo, samples, tests and benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import fftconvolve

from ..errors import DmspError


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
