"""The denoiser on overlapping tiles: only there do large images need much memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from ..errors import DmspError
from ..windows import CPU_TILE, MIN_TILE, STRIDE, spans
from .device import is_out_of_memory

Tile = int | str | None
# Part of a GPU's memory for the features of a tile.
GPU_SHARE = 0.4
# Bytes a pixel of a network that does not say: two feature maps of 64 channels.
UNKNOWN_BYTES = 512


@dataclass(eq=False)
class Tiled:
    """A denoiser that is applied to tiles, and to smaller ones where memory runs out."""

    denoiser: Callable[[Tensor, float], Tensor]
    # Greatest side of a tile in pixels; None takes images whole.
    tile: int | None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise ``x``; tiles are halved as often as memory demands."""
        while True:
            try:
                return self._denoise(x, sigma)
            except (RuntimeError, MemoryError) as error:
                side = min(self.tile or max(x.shape[-2:]), max(x.shape[-2:])) // 2
                if not is_out_of_memory(error) or side < MIN_TILE:
                    raise
                self.tile = side
            # Outside of the handler, where the failed call's tensors are gone.
            if x.is_cuda:
                torch.cuda.empty_cache()

    def _denoise(self, x: Tensor, sigma: float) -> Tensor:
        height, width = x.shape[-2:]
        if self.tile is None or max(height, width) <= self.tile:
            return self.denoiser(x, sigma)
        result = torch.zeros_like(x)
        rows, columns = (spans(n, self.tile) for n in (height, width))
        for (top, bottom, down), (left, right, across) in product(
            _ramps(rows, x), _ramps(columns, x)
        ):
            part = self.denoiser(x[..., top:bottom, left:right], sigma)
            result[..., top:bottom, left:right] += part * (down[:, None] * across)
        return result


def _ramps(parts: list[tuple[int, int]], like: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield every span with weights that rise and fall in the middle half of what it shares."""
    shares = [0, *(a[1] - b[0] for a, b in pairwise(parts)), 0]
    for (begin, end), before, after in zip(parts, shares, shares[1:], strict=False):
        weights = like.new_ones(end - begin)
        if before:
            weights[:before] = _rise(before, like)
        if after:
            weights[-after:] = 1 - _rise(after, like)
        yield begin, end, weights


def _rise(length: int, like: Tensor) -> Tensor:
    positions = torch.arange(length, dtype=like.dtype, device=like.device)
    return ((positions + 0.5) / length * 2 - 0.5).clamp(0, 1)


def pick_tile(tile: Tile, network: object, device: torch.device) -> int | None:
    """Return the greatest side of a tile; None for whole images.

    "auto" takes what is fast on a processor, and what fits into the memory of a GPU, however much
    of it is free: a run can be repeated. Denoisers that are no networks see how far they like, and
    get whole images.
    """
    if tile is None:
        return None
    if tile == "auto":
        if not isinstance(network, nn.Module):
            return None
        if device.type != "cuda":
            return CPU_TILE
        total = torch.cuda.get_device_properties(device).total_memory
        side = math.isqrt(int(GPU_SHARE * total / bytes_per_pixel(network)))
        return max(side // STRIDE * STRIDE, MIN_TILE)
    if isinstance(tile, str) or tile < MIN_TILE or tile % 1:
        raise DmspError(f"tile={tile!r} must be at least {MIN_TILE} pixels; 'auto' suits all.")
    return int(tile) // STRIDE * STRIDE


def bytes_per_pixel(network: object) -> int:
    """Return what the features of a pixel take; a guess for networks of others."""
    inner = network.denoiser if isinstance(network, Tiled) else network
    return int(getattr(inner, "bytes_per_pixel", UNKNOWN_BYTES))
