"""Training images in memory and random augmented patches from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..core import inputs
from ..core.noise import patch_sigma
from ..errors import DmspError
from ..files import SUFFIXES, images_among
from ..files import read_image as read_picture

# A file, or an array (H, W) or (H, W, 3).
Source = Path | NDArray[Any]

# Noise level, as a share of the range of an image, that is none of a sharp image without noise:
# of the images that the bundled priors were trained on, at most 2/255.
NOISY = 2.5 / 255
# Images whose noise is estimated, and how many of their pixels a side.
JUDGED, JUDGED_SIDE = 24, 512
# Less is said to be little.
FEW_PIXELS = 1_000_000
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


def doubts(images: Sequence[NDArray[Any]], from_scratch: bool = True) -> list[str]:
    """Say what makes images bad to train on: noise of their own, and that there are few of them.

    Parameters
    ----------
    images : sequence of array
        What `read_image` returns.
    from_scratch : bool
        Whether the training does not start from an existing prior.

    Returns
    -------
    list of str
        Sentences with the number and what to do about it; none for good images.
    """
    said, level = [], noise_level(images)
    if level > NOISY:
        said.append(
            f"The training images have noise of σ {level:.1%} of their range, which the prior will "
            "learn to keep. Average several exposures, or reduce the images to half their size."
        )
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    if pixels < FEW_PIXELS:
        one = len(images) == 1
        count = "1 image" if one else f"{len(images)} images"
        other = ", or start from an existing prior" * from_scratch
        seen = ", and the PSNR is of that same image" * one
        said.append(
            f"{count} with {pixels / 1e6:.2g} megapixels {'is' if one else 'are'} little to learn "
            f"from{seen}. Add images{other}."
        )
    return said


def noise_level(images: Sequence[NDArray[Any]]) -> float:
    """Return the noise level of sharp images as a share of their range: the median of some."""
    levels = []
    for image in images[:: -(-len(images) // JUDGED)]:
        top, left = (max(0, side - JUDGED_SIDE) // 2 for side in image.shape[:2])
        part = torch.from_numpy(image[top : top + JUDGED_SIDE, left : left + JUDGED_SIDE])
        scale = 255 if part.dtype == torch.uint8 else 1
        levels.append(patch_sigma(part.permute(2, 0, 1)[None].double() / scale))
    return float(np.median(levels))


class PatchSampler:
    """Random patches, flipped and rotated, gathered from all images at once on any device.

    Images are (H, W, C), uint8 or float32 in 0..1; those smaller than a patch are left out.

    A share of them, ``reduced``, is cut twice as large and averaged 2 x 2: sharper than the
    photographs, and free of their compression and noise.
    """

    def __init__(
        self,
        images: Sequence[NDArray[Any]],
        patch: int,
        device: torch.device,
        reduced: float = 0.0,
    ) -> None:
        usable = [im for im in images if min(im.shape[:2]) >= patch]
        if not usable:
            raise DmspError(f"no training image is as large as the {patch} pixel patch.")
        if len({im.dtype for im in usable}) > 1:
            usable = [im / np.float32(255) if im.dtype == np.uint8 else im for im in usable]
        self.scale = 1 / 255 if usable[0].dtype == np.uint8 else 1.0
        self.patch, self.reduced = patch, reduced
        self.pixels = torch.cat([torch.from_numpy(im.reshape(-1, im.shape[2])) for im in usable])
        self.pixels = self.pixels.to(device)
        sizes = torch.tensor([im.shape[:2] for im in usable])
        area = sizes.prod(1)
        self.sizes, self.starts = sizes, area.cumsum(0) - area
        self.weights = area.double()
        if reduced and not (sizes.amin(1) >= 2 * patch).any():
            raise DmspError(
                f"reduced={reduced:g} needs an image of at least {2 * patch} pixels a side; "
                "lower patch, or give reduced=0."
            )

    def __len__(self) -> int:
        return len(self.starts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` patches as float32 (count, C, patch, patch) in 0..1."""
        reduced = round(count * self.reduced)
        patches = self._cut(count - reduced, self.patch, generator)
        if not reduced:
            return patches
        large = self._cut(reduced, 2 * self.patch, generator)
        return torch.cat([patches, F.avg_pool2d(large, 2)])

    def _cut(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Cut patches of ``side`` pixels, in one of the 8 flips and rotations each."""
        weights = self.weights * (self.sizes.amin(1) >= side)
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        room = self.sizes[which] - side + 1
        top, left = (torch.rand(count, 2, generator=generator) * room).long().unbind(1)
        backward, mirrored, turned = torch.randint(2, (3, count), generator=generator).bool()
        # Steps in memory to the next row and column, and the pixel where the patch begins.
        row, column = self.sizes[which, 1], torch.ones_like(which)
        start = self.starts[which] + top * row + left
        start += (side - 1) * (backward * row + mirrored * column)
        row, column = torch.where(backward, -row, row), torch.where(mirrored, -column, column)
        row, column = torch.where(turned, column, row), torch.where(turned, row, column)
        place = torch.stack([start, row, column]).to(self.pixels.device)[:, :, None, None]
        step = torch.arange(side, device=self.pixels.device)
        index = place[0] + step[:, None] * place[1] + step * place[2]
        return self.pixels[index].permute(0, 3, 1, 2).float() * self.scale
