"""Noise that is the same along a row or a column, as sensors that are read line by line make it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

from .noise import MAD, wavelet_sigma

# Lines: the least ratio of their noise to what white noise leaves of it in the mean of a line, the
# least level on the scale of the prior, and how alike the parts of a line must be.
LEAST_RATIO, LEAST_LEVEL, ALIKE, PARTS = 4.0, 0.5 / 255, 0.6, 4
# Cosines that tell how strong the image is, and the least power that blur leaves of those.
LOW, LEAST_POWER = 16, 0.3
# Median of the square of N(0, 1).
MEDIAN_SQUARE = MAD**2


def remove_stripes(
    y: Tensor, psf: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, float, float]:
    """Subtract from a blurred image what rows and columns have in common and blur rules out.

    The mean of a row is that of the image, which has lost its fine details to the blur, and an
    offset. A Wiener filter of these means, for an image whose power falls with the square of the
    frequency, tells one from the other; what the filter keeps is left in the image.

    Parameters
    ----------
    y : Tensor
        Observation (B, C, H, W), plausible in gaps.
    psf : Tensor
        Point spread function (kh, kw).
    weights : Tensor, optional
        0 in gaps, else 1.

    Returns
    -------
    Tensor
        The observation without what was found; the same object where nothing was.
    rows, columns : float
        Noise levels of the offsets, on the scale of ``y``; 0 where there is no such noise.
    """
    levels = []
    for axis in (-2, -1):
        # The lines first, the pixels of each last.
        lines, profile = y.transpose(axis, -2), psf.sum(-1 if axis == -2 else 0)
        kept = None if weights is None else weights.expand_as(y).transpose(axis, -2)
        found, level = _offsets(lines, profile.cpu().double().numpy(), kept)
        levels.append(level)
        if found is not None:
            y = (lines - found).transpose(axis, -2)
    return y, levels[0], levels[1]


def _offsets(
    lines: Tensor, profile: NDArray[np.float64], kept: Tensor | None
) -> tuple[Tensor | None, float]:
    """Return the offsets (B, C, H, 1) of lines, and their level."""
    *_, height, width = lines.shape
    if min(height, width) < 4 * LOW:
        return None, 0.0
    blur = np.abs(np.fft.rfft(profile, 2 * height))[:height] ** 2
    white = wavelet_sigma(lines, kept) ** 2 / width
    found = torch.zeros(*lines.shape[:3], 1, dtype=torch.float64)
    squares = []
    for place in np.ndindex(*lines.shape[:2]):
        plane = lines[place].cpu().double().numpy()
        gaps = np.zeros(plane.shape, bool) if kept is None else kept[place].cpu().numpy() == 0
        power = _common_power(plane, gaps)
        if power > max(LEAST_RATIO**2 * white, LEAST_LEVEL**2):
            offsets = _wiener(_means(plane, gaps), blur, power)
            found[place] = torch.from_numpy(offsets)[:, None]
            squares.append(power)
    if not squares:
        return None, 0.0
    return found.to(lines), float(np.mean(squares)) ** 0.5


def _means(plane: NDArray[np.float64], gaps: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of every line; gaps are filled with what is around them."""
    count = (~gaps).sum(1)
    means = np.where(gaps, 0, plane).sum(1) / np.maximum(count, 1)
    return np.where(count > 0, means, plane.mean(1))


def _common_power(plane: NDArray[np.float64], gaps: NDArray[np.bool_]) -> float:
    """Return the variance of offsets by the fine half of the cosines; 0 unless parts agree."""
    fine = [
        dct(_means(*pair), norm="ortho")[len(plane) // 2 :]
        for pair in zip(
            np.array_split(plane, PARTS, 1), np.array_split(gaps, PARTS, 1), strict=True
        )
        if not pair[1].all()
    ]
    if len(fine) < 2 or not all(part.std() for part in fine):
        return 0.0
    alike = np.corrcoef(fine)
    if np.mean(alike[~np.eye(len(fine), dtype=bool)]) < ALIKE:
        return 0.0
    return float(np.median(np.square(np.mean(fine, 0))) / MEDIAN_SQUARE)


def _wiener(
    means: NDArray[np.float64], blur: NDArray[np.float64], power: float
) -> NDArray[np.float64]:
    """Return the offsets in the means of lines, of a variance, given the power of the blur."""
    cosines, frequency = dct(means, norm="ortho"), np.arange(1, len(means))
    low = (frequency <= LOW) & (blur[1:] > LEAST_POWER)
    strength = 0.0
    if low.any():
        image = np.maximum(np.square(cosines[1:]) - power, 0) * frequency**2 / blur[1:]
        strength = float(np.median(image[low])) / MEDIAN_SQUARE
    signal = strength * blur[1:] / frequency**2
    cosines[0] = 0
    cosines[1:] *= power / (signal + power)
    offsets: NDArray[np.float64] = idct(cosines, norm="ortho")
    return offsets
