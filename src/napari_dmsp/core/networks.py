"""Denoising networks: a bias-free U-Net (the default) and the DnCNN of the paper."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x), inplace=True)).add_(x)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(width) for _ in range(count)))


class UNet(nn.Module):
    """Bias-free residual U-Net on a pixel-unshuffled image with a noise-level map.

    Without biases and with ReLU only, the network is scale equivariant,
    ``f(a * x, a * sigma) = a * f(x, sigma)`` for ``a > 0``, so images keep their own units.

    Parameters
    ----------
    channels : int
        Image channels, 1 or 3.
    widths : tuple of int
        Feature channels per level; every level halves the resolution.
    blocks : int
        Residual blocks per level.

    References
    ----------
    .. [1] Mohan et al., "Robust and interpretable blind image denoising via bias-free
       convolutional neural networks", ICLR 2020.
    .. [2] Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2022,
       DOI 10.1109/TPAMI.2021.3088914.
    """

    def __init__(
        self, channels: int = 3, widths: tuple[int, ...] = (48, 96, 192), blocks: int = 2
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": tuple(widths),
            "blocks": blocks,
        }
        self.channels = channels
        self.stride = 2 ** len(widths)
        pairs = list(pairwise(widths))
        self.head = nn.Conv2d(4 * channels + 1, widths[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(_blocks(w, blocks) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.bottom = _blocks(widths[-1], blocks)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in pairs)
        self.decoder = nn.ModuleList(_blocks(w, blocks) for w in widths[:-1])
        self.tail = nn.Conv2d(widths[0], 4 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise ``x`` (B, C, H, W) with noise of standard deviation ``sigma`` in the same units.

        ``sigma`` is a number, or a tensor of one value per image of the batch.
        """
        height, width = x.shape[-2:]
        padded = _pad_to_multiple(x, self.stride)
        features = F.pixel_unshuffle(padded, 2)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        level = level.expand(x.shape[0], 1, *features.shape[-2:])
        # The first layer stays in float32: an image in bfloat16 has eight bits, and that rounding
        # would make nine tenths of the error.
        with torch.autocast(x.device.type, enabled=False):
            features = self.head(torch.cat([features, level], dim=1))
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            features = encode(features)
            skips.append(features)
            features = down(features)
        features = self.bottom(features)
        for up, decode in reversed(list(zip(self.up, self.decoder, strict=True))):
            features = decode(up(features).add_(skips.pop()))
        # The residual is added in full precision, too.
        residual = F.pixel_shuffle(self.tail(features).to(x.dtype), 2)
        return x + residual[..., :height, :width]

    @property
    def bytes_per_pixel(self) -> int:
        """Greatest memory for the features of a pixel, measured: five maps of the first width."""
        return 5 * self.config["widths"][0]


class DnCNN(nn.Module):
    """The paper's denoiser: a chain of 3x3 convolutions trained for one noise level.

    Parameters
    ----------
    channels : int
        Image channels, 1 or 3.
    depth : int
        Number of convolutions, 17 to 20 in the literature.
    width : int
        Feature channels.

    References
    ----------
    .. [1] Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image
       denoising", TIP 2017, DOI 10.1109/TIP.2017.2662206.
    """

    def __init__(self, channels: int = 3, depth: int = 20, width: int = 64) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "depth": depth, "width": width}
        self.channels = channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise ``x`` (B, C, H, W); ``sigma`` is ignored, the level is fixed by training."""
        return x + self.body(x).to(x.dtype)

    @property
    def bytes_per_pixel(self) -> int:
        """Greatest memory for the features of a pixel, measured: two maps."""
        return 2 * 4 * self.config["width"]


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return x
    # Reflection is closest to an image, but cannot be wider than the image itself.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)


ARCHITECTURES: dict[str, type[nn.Module]] = {"unet": UNet, "dncnn": DnCNN}
