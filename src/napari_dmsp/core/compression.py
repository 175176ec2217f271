"""The noise that JPEG compression made, read from the steps of its cosine coefficients."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

# Side of the blocks, and the steps of luminance at a quality of 50 in rows of frequencies across:
# the example of the standard (ITU-T T.81, table K.1), which nearly all programs scale.
SIDE = 8
STEPS = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61),
        *(12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56),
        *(14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77),
        *(24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101),
        *(72, 92, 95, 98, 112, 100, 103, 99),
    ]
)
# Qualities that are looked for: above these, rounding to integers makes as much noise. By how many
# standard deviations multiples of the steps must be hit more often than by chance, how many
# coefficients must be larger than half a step, and the least mean of the cosines of their phases.
QUALITIES, SURE, LEAST_COUNT, LEAST_COSINE = range(5, 96), 8.0, 30, 0.4

# Rows and columns that are looked at.
MOST = 64 * SIDE

Plane = NDArray[np.float64]


def compression_sigma(plane: Plane) -> float:
    """Estimate the root mean square error that compression made.

    Parameters
    ----------
    plane : ndarray
        Luminance (H, W) on the scale 0..255, where compression rounds its results to integers.

    Returns
    -------
    float
        0 where the coefficients are no multiples of the standard's steps at any quality up to 95.

    Notes
    -----
    Coefficients of one frequency follow Laplace's law, whose width is known by the share of those
    that are not zero. These err uniformly, and the zeros by what they were.

    References
    ----------
    .. [1] Z. Fan, R. de Queiroz, "Identification of bitmap compression history: JPEG detection and
       quantizer estimation", TIP 2003, DOI 10.1109/TIP.2002.807361.
    """
    if min(plane.shape) < 4 * SIDE:
        return 0.0
    # Images that were not cut begin with a block.
    grids = {(0, 0), (_edge(plane, 0), _edge(plane, 1))}
    found = [
        (_hits(large, s), large, s) for large in map(partial(_large, plane), grids) for s in LEVELS
    ]
    best, large, steps = max(found, key=lambda one: one[0])
    if best < SURE:
        return 0.0
    beyond = (large > steps[:, None] / 2).mean(1)
    widths = _widths(beyond, large.shape[1], steps)
    # In units of half a step: the moment of what is left of the law below, and what errs uniformly.
    below = 2 * widths**2 - np.exp(-1 / widths) * (1 + 2 * widths + 2 * widths**2)
    return float(np.sqrt(np.mean(steps**2 * (below / 4 + beyond / 12))))


def _widths(beyond: Plane, count: int, steps: Plane) -> Plane:
    """Return the widths of Laplace's laws in units of half a step, by the share beyond that.

    Where nearly nothing is beyond, it is what other frequencies say, and at most what half a
    coefficient would.
    """
    widths = -1 / np.log(beyond.clip(0.5 / count, 0.99))
    u, v = np.divmod(np.arange(SIDE**2), SIDE)
    radius = np.log(np.hypot(u, v).clip(min=1))
    told = (beyond * count >= 5) & (radius > 0)
    if told.sum() >= 3:
        line = np.polyfit(radius[told], np.log(widths * steps)[told], 1)
        widths = np.where(
            told, widths, np.minimum(widths, np.exp(np.polyval(line, radius)) / steps)
        )
    return widths.clip(min=1e-3)


def _steps(quality: int) -> Plane:
    """Return the steps (64,) of a quality, scaled as the library of the standard's authors does."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.floor((STEPS * scale + 50) / 100).clip(1, 255)


LEVELS = [_steps(quality) for quality in QUALITIES]


def _hits(large: Plane, steps: Plane) -> float:
    """Return how much more often than by chance coefficients are multiples of their steps."""
    # Without the mean of blocks, which is the same in all of an even image.
    share, steps = large[1:] / steps[1:, None], steps[1:, None]
    # Periods that are whole: coefficients without steps have no phase.
    share = share[(share > 0.5) & (steps > 1)]
    if len(share) < LEAST_COUNT:
        return 0.0
    mean = float(np.cos(2 * np.pi * share).mean())
    return mean * np.sqrt(2 * len(share)) if mean > LEAST_COSINE else 0.0


def _large(plane: Plane, grid: tuple[int, int]) -> Plane:
    """Return the sizes of the coefficients (64, blocks) of a grid of blocks."""
    part = plane[grid[0] : grid[0] + MOST, grid[1] : grid[1] + MOST]
    rows, columns = (n // SIDE for n in part.shape)
    blocks = part[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE)
    found = dctn(blocks.transpose(0, 2, 1, 3), axes=(2, 3), norm="ortho")
    whole: Plane = np.abs(found.reshape(rows * columns, SIDE**2).T)
    return whole


def _edge(plane: Plane, axis: int) -> int:
    """Return where the first block begins: steps between blocks are larger than those beside."""
    lines = np.moveaxis(plane, axis, 0)
    step = np.abs(np.diff(lines, axis=0)).mean(1)
    rise = step[1:-1] - (step[:-2] + step[2:]) / 2
    # ``rise[k]`` is of the step between the lines k + 1 and k + 2.
    return (int(np.argmax([rise[k::SIDE].mean() for k in range(SIDE)])) + 2) % SIDE
