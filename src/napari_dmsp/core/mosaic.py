"""Colour filter arrays: their patterns, and the encoding of linear values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import DmspError
from ..settings import PATTERNS
from .inputs import take_array

_COLOURS = "RGB"
_BAYER = {"RGGB": "RG/GB", "BGGR": "BG/GR", "GRBG": "GR/BG", "GBRG": "GB/RG"}
_XTRANS = "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG"

# The curve of video (ITU-R BT.709) is a line up to here. That of sRGB is three times as steep there
# and raises the noise of the dark. No colour is amplified more than by the gain.
KNEE, SLOPE = 0.018, 4.5
MAX_GAIN = 8.0


def cfa_weights(pattern: str | ArrayLike, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the filters (C, H, W) of a colour filter array, see `operators.Mosaic`.

    The pattern is one of `PATTERNS`, where "quad" doubles every pixel of a Bayer pattern on both
    axes; or one period of another one: channel numbers (h, w), -1 for a pixel without data, or
    weights (h, w, 3). It begins at the first pixel of the image, which is of this shape (H, W).
    """
    tile = cfa_tile(pattern)
    height, width = tile.shape[1:]
    repeats = 1, -(-shape[0] // height), -(-shape[1] // width)
    return np.ascontiguousarray(np.tile(tile, repeats)[:, : shape[0], : shape[1]])


def cfa_tile(pattern: str | ArrayLike) -> NDArray[np.float32]:
    """Return one period (C, h, w) of a colour filter array, as for `cfa_weights`."""
    tile = _named_tile(pattern) if isinstance(pattern, str) else take_array(pattern, "pattern")
    if tile.ndim == 2 and tile.size and tile.dtype.kind in "iu":
        if tile.min() < -1 or tile.max() > 3:
            raise DmspError(
                "a colour filter array of channel numbers holds 0, 1, 2 for red, green, blue, 3 "
                "for a second green, or -1."
            )
        weights = np.where(tile == 3, 1, tile) == np.arange(3)[:, None, None]
    else:
        weights = np.moveaxis(tile, -1, 0) if tile.ndim == 3 else tile
    if weights.ndim != 3 or weights.shape[0] != 3 or weights.dtype.kind not in "biuf":
        raise DmspError(
            f"a colour filter array has shape {tile.shape}; expected channel numbers (h, w) or "
            "weights (h, w, 3)."
        )
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise DmspError("the weights of a colour filter array must be finite and not negative.")
    for colour, share in zip(("red", "green", "blue"), weights, strict=True):
        if not share.any():
            raise DmspError(f"the colour filter array has no pixel of {colour}.")
    return weights.astype(np.float32)


def cfa_channels(pattern: str | ArrayLike) -> NDArray[np.int_]:
    """Return one period (h, w) of a colour filter array as numbers of channels, -1 for none.

    They are those of LibRaw: 0 red, 1 green, 2 blue, 3 the green in rows without red.
    """
    weights = cfa_tile(pattern)
    if not ((weights == 0) | (weights == 1)).all() or weights.sum(0).max() > 1:
        raise DmspError("filters with levels of their own see one colour each; give one level.")
    channels = np.where(weights.any(0), weights.argmax(0), -1)
    numbers = np.asarray(pattern)
    second = ~(channels == 0).any(1, keepdims=True)
    if numbers.dtype.kind in "iu" and (numbers == 3).any():
        second = numbers == 3
    return np.where((channels == 1) & second, 3, channels)


def _named_tile(name: str) -> NDArray[np.int_]:
    known = {p.lower(): p for p in PATTERNS}
    if name.lower() not in known:
        raise DmspError(f"pattern={name!r} is unknown; use one of {', '.join(PATTERNS)}.")
    name = known[name.lower()]
    letters = _XTRANS if name == "X-Trans" else _BAYER[name.removeprefix("quad-")]
    tile = np.array([[_COLOURS.index(c) for c in row] for row in letters.split("/")])
    return np.kron(tile, np.ones((2, 2), int)) if name.startswith("quad-") else tile


@dataclass(frozen=True)
class Encoding:
    """White balance and the curve of video, so that linear raw values look like a photograph's.

    The prior knows photographs, which are encoded; under the curve, shot noise is also about as
    strong in the dark as in the light. A pointwise curve commutes with a plain colour filter.
    """

    # Factors (3, 1, 1) of red, green and blue.
    gains: Tensor
    # How much larger noise becomes: root mean square of the derivative.
    slope: float

    @classmethod
    def of(cls, y: Tensor, filters: Tensor, kept: Tensor | None = None) -> Encoding:
        """Balance a mosaic (B, 1, H, W) on 0..1 for a grey world: equal means of all colours.

        ``kept`` is 0 in gaps, which do not count.
        """
        shares = (filters if kept is None else kept * filters).expand(len(y), -1, -1, -1)
        means = (shares * y).sum((0, 2, 3)) / shares.sum((0, 2, 3)).clamp_min(1)
        gains = (means.max() / means.clamp_min(1e-3)).clamp(max=MAX_GAIN)
        encoding, step = cls(gains[:, None, None], 1.0), 1e-3
        change = (encoding.encode(y + step, filters) - encoding.encode(y, filters)).square()
        seen = shares.sum(1, keepdim=True)
        return replace(encoding, slope=float((seen * change).sum() / seen.sum()) ** 0.5 / step)

    def encode(self, y: Tensor, filters: Tensor) -> Tensor:
        """Encode a mosaic."""
        balanced = y * (filters * self.gains).sum(0)
        curved = 1.099 * balanced.clamp_min(KNEE) ** 0.45 - 0.099
        return torch.where(balanced > KNEE, curved, SLOPE * balanced)

    def decode(self, x: Tensor) -> Tensor:
        """Undo it for colours (B, 3, H, W)."""
        return _straightened(x) / self.gains

    def variance(self, line: Callable[[Tensor], Tensor], filters: Tensor, y: Tensor) -> Tensor:
        """Return the variance of an encoded mosaic ``y``, given that of linear values."""
        gains = (filters * self.gains).sum(0)
        balanced = _straightened(y)
        steep = 0.45 * 1.099 * balanced.clamp_min(KNEE) ** -0.55
        steep = gains * torch.where(balanced > KNEE, steep, SLOPE)
        # Pixels without a filter have no gain.
        return line(balanced / gains.clamp_min(1e-6)) * steep.square().clamp_min(1e-6)


def _straightened(x: Tensor) -> Tensor:
    """Undo the curve."""
    curved = ((x.clamp_min(SLOPE * KNEE) + 0.099) / 1.099) ** (1 / 0.45)
    return torch.where(x > SLOPE * KNEE, curved, x / SLOPE)
