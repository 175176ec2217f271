"""Training images in memory and random augmented patches from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import inputs
from ..errors import DmspError
from ..files import SUFFIXES, images_among
from ..files import read_image as read_picture

# A file, or an array (H, W) or (H, W, 3).
Source = Path | NDArray[Any]

LUMA = np.array(inputs.LUMA, dtype=np.float32)


def find_images(folders: Iterable[str | Path]) -> list[Path]:
    """List the image files below ``folders``, sorted, so that a seed means the same everywhere."""
    files: list[Path] = []
    paths = [Path(f) for f in folders]
    for folder in paths:
        if not folder.is_dir():
            raise DmspError(f"training folder {folder} does not exist; give an existing folder.")
        files += images_among(folder.rglob("*"))
    if not files:
        names = ", ".join(str(f) for f in paths)
        raise DmspError(f"no images ({', '.join(sorted(SUFFIXES))}) found below {names or '-'}.")
    return files


def find_sources(images: Iterable[str | Path | NDArray[Any]]) -> list[Source]:
    """List the image files below the folders among ``images``, and then the arrays among them."""
    folders = [image for image in images if isinstance(image, str | Path)]
    arrays = [image for image in images if not isinstance(image, str | Path)]
    return [*(find_images(folders) if folders or not arrays else []), *arrays]


def read_image(source: Source, channels: int) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Read a file or an array as (H, W, channels).

    8-bit data stays uint8. Anything else becomes float32 in 0..1, scaled by its 0.1 to 99.9
    percentile range, since detectors rarely fill their range.
    """
    if isinstance(source, Path):
        name, image = str(source), read_picture(source).pixels
    else:
        image = np.asarray(source)
        name = f"the image of shape {image.shape}"
        if image.dtype.kind not in "buif":
            raise DmspError(f"{name} has dtype {image.dtype}, which is not a real number.")
        if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] == 3):
            raise DmspError(f"{name} cannot be trained on; give (H, W), or (H, W, 3) for colour.")
    if not np.isfinite(image).all():
        raise DmspError(f"{name} has NaN or infinite pixels; replace them, or take it away.")
    if image.ndim == 2 and channels == 3:
        raise DmspError(
            f"{name} is grey, but a 3-channel prior is to be trained; use colour images."
        )
    if image.ndim == 3 and channels == 1:
        grey = image @ LUMA
        image = np.rint(grey).astype(np.uint8) if image.dtype == np.uint8 else grey
    image = image.reshape(*image.shape[:2], channels)
    if image.dtype == np.uint8:
        # Decoders may give arrays that nobody may write to, of which torch makes no tensors.
        return np.require(image, requirements=["C", "W"])
    values = image.astype(np.float32)
    low, high = np.percentile(values, [0.1, 99.9])
    if not high > low:
        # A few bright pixels on an empty ground.
        low, high = values.min(), values.max()
    scaled: NDArray[np.float32] = (values - np.float32(low)) / np.float32(max(high - low, 1e-12))
    return scaled


class PatchSampler:
    """Random patches, flipped and rotated, gathered from all images at once on any device.

    Images are (H, W, C), uint8 or float32 in 0..1; those smaller than a patch are left out.
    """

    def __init__(self, images: Sequence[NDArray[Any]], patch: int, device: torch.device) -> None:
        usable = [im for im in images if min(im.shape[:2]) >= patch]
        if not usable:
            raise DmspError(f"no training image is as large as the {patch} pixel patch.")
        if len({im.dtype for im in usable}) > 1:
            usable = [im / np.float32(255) if im.dtype == np.uint8 else im for im in usable]
        self.scale = 1 / 255 if usable[0].dtype == np.uint8 else 1.0
        self.patch = patch
        self.pixels = torch.cat([torch.from_numpy(im.reshape(-1, im.shape[2])) for im in usable])
        self.pixels = self.pixels.to(device)
        sizes = torch.tensor([im.shape[:2] for im in usable])
        area = sizes.prod(1)
        self.weights = area.double() / area.sum()
        self.sizes, self.starts = sizes, area.cumsum(0) - area

    def __len__(self) -> int:
        return len(self.starts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` patches as float32 (count, C, patch, patch) in 0..1."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        room = self.sizes[which] - self.patch + 1
        corner = (torch.rand(count, 2, generator=generator) * room).long()
        step = torch.arange(self.patch)
        rows, columns = corner[:, :1] + step, corner[:, 1:] + step
        width = self.sizes[which, 1]
        index = self.starts[which, None] + rows * width[:, None]
        index = (index[:, :, None] + columns[:, None, :]).to(self.pixels.device)
        patches = self.pixels[index].permute(0, 3, 1, 2).float() * self.scale
        turns = torch.randint(8, (count,), generator=generator).tolist()
        return torch.stack([augment(p, t) for p, t in zip(patches, turns, strict=True)])


def augment(image: Tensor, turn: int) -> Tensor:
    """One of the 8 flips and rotations of (..., H, W)."""
    image = torch.rot90(image, turn % 4, (-2, -1))
    return image.flip(-1) if turn >= 4 else image
