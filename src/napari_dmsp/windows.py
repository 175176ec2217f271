"""How large images are cut into tiles, and what memory they take. No torch: panels ask too."""

from __future__ import annotations

import math

# Shortest side in pixels of an image that can be restored.
MIN_SIDE = 8
# Pixels that neighbouring tiles share: a prior sees up to 84 pixels far, but what is further than
# 40 away hardly changes it.
OVERLAP = 96
# Networks halve the resolution three times: what lies on their grid needs no padding, and tiles on
# it give what the whole image gives.
STRIDE = 8
MIN_TILE = 2 * OVERLAP
# Side whose features take 1 GB on a processor: frames of 2048 pixels, and what lies beyond their
# edge, need no tiles, and those of 4096 need four.
CPU_TILE = 2152
# Bytes of the data step, for a pixel of the result and for a channel of it, and the part of them
# that stays while the network runs; of the network, for a pixel; of all else, as torch. Measured.
PIXEL_BYTES, CHANNEL_BYTES, STAYS = 63, 40, 0.7
FEATURE_BYTES = 240
BASE_BYTES = 350_000_000


def spans(size: int, tile: int) -> list[tuple[int, int]]:
    """Cover ``size`` pixels with as few tiles as can be, about alike, that overlap.

    Returns
    -------
    list of tuple of int
        Begin and end of each. All but the last begin and end at multiples of `STRIDE`, neighbours
        share at least `OVERLAP` pixels, and none is longer than ``tile``.
    """
    if size <= tile:
        return [(0, size)]
    count = math.ceil((size - OVERLAP) / (tile - OVERLAP))
    while True:
        step = -(-(size - OVERLAP) // (count * STRIDE)) * STRIDE
        if step + OVERLAP <= tile:
            break
        count += 1
    begins = range(0, size - OVERLAP, step)
    return [(begin, min(begin + step + OVERLAP, size)) for begin in begins]


def memory_bytes(
    shape: tuple[int, int], channels: int, tile: int | None, features: int = FEATURE_BYTES
) -> int:
    """Estimate the greatest memory of a restoration, besides `BASE_BYTES`.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the result.
    channels : int
        Of the result.
    tile : int or None
        Greatest side of a tile.
    features : int
        Bytes that the network takes for a pixel.
    """
    state = math.prod(shape) * (PIXEL_BYTES + CHANNEL_BYTES * channels)
    sides = (max(end - begin for begin, end in spans(n, tile or n)) for n in shape)
    return max(state, int(STAYS * state) + math.prod(sides) * features)
