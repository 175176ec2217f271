"""What raw frames bring along: levels of black and white, and whether values follow the light."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DmspError
from .inputs import take_array
from .mosaic import cfa_channels

# The greatest number of steps between the values of a raw frame: 16 bits and a little more.
MOST_STEPS = 70_000
# Steps of averages of a few 8-bit values: up to so many in one of theirs.
AVERAGED = 64
# Weights of the green cast and of the dark pixels, and what they are compared with: the logarithm
# of the odds that values follow the light. Darker than a tenth of the range is dark.
GREEN, DARK, ODDS = 7.0, 10.0, -3.7
DARKNESS = 0.1


def read_mosaic(mosaic: ArrayLike) -> NDArray[Any]:
    """Return a mosaic as (H, W), which may be given as (H, W, 1) or (1, H, W)."""
    array = take_array(mosaic, "mosaic")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    if array.ndim != 2:
        raise DmspError(f"mosaic of shape {array.shape} is not (H, W), one value per pixel.")
    return array


def level_mosaic(
    mosaic: NDArray[Any], pattern: str | ArrayLike, background: Any, white: Any
) -> tuple[NDArray[Any], float | None, float | None]:
    """Give all filters of a mosaic (H, W) the same levels of black and white, and return all three.

    Background and white are one level, or those of red, green and blue, or of four filters in the
    order of LibRaw and rawpy: red, green in the rows of red, blue, the other green. Where there are
    several, the mosaic becomes float64, with their means over the pixels as levels.
    """
    black, light = _read_levels(background, "background"), _read_levels(white, "white")
    if all(levels is None or levels.size == 1 for levels in (black, light)) or mosaic.ndim != 2:
        first = [None if levels is None else float(levels[0]) for levels in (black, light)]
        return mosaic, first[0], first[1]
    if black is None:
        raise DmspError("white has a level for each filter; give background=, too.")
    channels = cfa_channels(pattern)
    low, bottom = _spread(black, channels, mosaic.shape)
    values = mosaic.astype(np.float64) - low
    if light is None:
        return values + bottom, bottom, None
    high, top = _spread(light, channels, mosaic.shape)
    if not (high > low).all():
        raise DmspError(f"white={white} must be above background={background} for each filter.")
    return values / (high - low) * (top - bottom) + bottom, bottom, top


def _read_levels(levels: Any, name: str) -> NDArray[np.float64] | None:
    """Return one level, or one for each of four filters."""
    if levels is None:
        return None
    values = np.ma.getdata(take_array(levels, name)).ravel()
    real = values.dtype.kind in "buif" and values.size in (1, 3, 4)
    if not real or not np.isfinite(values).all():
        raise DmspError(
            f"{name}={levels} must be a finite number, or one for each filter: red, green, blue, "
            "and a second green if there is one."
        )
    values = values.astype(np.float64)
    if values.size == 3:
        values = values[[0, 1, 2, 1]]
    return values[:1] if (values == values[0]).all() else values


def _spread(
    levels: NDArray[np.float64], channels: NDArray[np.int_], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], float]:
    """Return the level of each pixel, and their mean over those that have a filter."""
    levels = levels if levels.size > 1 else levels.repeat(4)
    mean = float(levels[channels[channels >= 0]].mean())
    tile = np.where(channels < 0, mean, levels[channels])
    repeats = [-(-n // side) for n, side in zip(shape, tile.shape, strict=True)]
    return np.tile(tile, repeats)[: shape[0], : shape[1]], mean


def guess_linear(
    mosaic: NDArray[Any],
    values: NDArray[np.floating[Any]],
    weights: NDArray[np.float32],
    scale: float = 0.0,
) -> tuple[bool, bool]:
    """Guess whether the values of a mosaic are proportional to light, as those of raw frames.

    It is (H, W) as given; its values have black at 0 and white at 1, the weights (3, H, W) say
    which filter each pixel has, and the scale is white less black in the mosaic's units, if known.
    Also returns whether that is sure.

    Integers are linear above 8 bits. So are floats that are evenly spaced with more than 256 steps:
    they were such integers; with 256 steps in 0..1 or 0..255 they are not. Others, which noise was
    added to or which were resized, are taken for encoded. They are compared with what light looks
    like before it is encoded: it is green, for sensors see most green, and most of it is dark. That
    is wrong for one in ten, McM's colours among them, so it only makes the guess less than sure.

    Evenly spaced values are told apart without error from 12 bits on; of frames of 10 bits without
    a known white 1.5 % are too dark for it.
    """
    if mosaic.dtype.kind != "f":
        return mosaic.dtype.itemsize > 1 and mosaic.dtype.kind in "iu", True
    step = _spacing(mosaic)
    if step is not None:
        low, high = float(np.nanmin(mosaic)), float(np.nanmax(mosaic))
        unit = 1 / 255 if high <= 1 else 1.0
        ratio = unit / step
        eight_bit = low >= 0 and max(high, scale) <= 255 * unit * 1.001
        averaged = eight_bit and ratio < AVERAGED and abs(ratio - round(ratio)) < 1e-3
        if averaged and round(ratio) == 1:
            return False, True
        if not averaged and max(high - low, scale) / step > 256:
            return True, True
    means = [np.average(values, weights=share) for share in weights]
    red, green, blue = (math.log(max(float(mean), 1e-3)) for mean in means)
    dark = float((values < DARKNESS).mean())
    odds = GREEN * (green - (red + blue) / 2) + DARK * dark + ODDS
    return False, odds <= 0


def _spacing(mosaic: NDArray[Any]) -> float | None:
    """Return the step of which all values are multiples, but for a constant; None without one."""
    part = mosaic[tuple(slice(max(0, (n - 512) // 2), (n + 512) // 2) for n in mosaic.shape)]
    found = np.unique(part[np.isfinite(part)].astype(np.float64))
    gaps = np.diff(found)
    if not gaps.size:
        return None
    least = gaps.min()
    if (found[-1] - found[0]) / least > MOST_STEPS:
        return None
    step = np.median(gaps[gaps < 1.5 * least])
    counts = np.rint(gaps / step).cumsum()
    step = (found[-1] - found[0]) / counts[-1]
    return float(step) if np.abs((found - found[0])[1:] / step - counts).max() < 0.2 else None
