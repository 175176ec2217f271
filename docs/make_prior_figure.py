"""What does a prior consider likely? Ascend it alone, from noise, a flat image and a photograph.

    python docs/make_prior_figure.py [OUT.png]

Three priors, each in steps of its own mean shift or proximal map, with the same width of smoothing:
total variation, a kernel density of image patches, and the deep mean-shift prior (eq. 19).
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor
from torch.nn import functional as F

from napari_dmsp.core import load_prior, mean_shift
from napari_dmsp.core.inputs import LUMA

SIGMA = 25 / 255
STEPS = 12
SIDE = 96
PATCH, PATCHES = 8, 1500
CHOSEN = "city-lossless.png", (slice(200, 200 + SIDE), slice(160, 160 + SIDE))
Array = NDArray[np.float32]


def photograph(name: str) -> Array:
    """Grey version of a bundled photograph, on 0..1."""
    data = (resources.files("napari_dmsp") / "samples" / name).read_bytes()
    image = iio.imread(data, plugin="pillow")
    grey = image @ np.array(LUMA) if image.ndim == 3 else image
    return (grey / 255).astype(np.float32)


def starts() -> dict[str, Array]:
    """Where the ascents begin."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    name, crop = CHOSEN
    return {
        "noise": 0.5 + 0.25 * noise,
        "nearly flat": 0.5 + 0.02 * noise,
        "photograph": photograph(name)[crop],
    }


def ascend_tv(x: Array) -> Array:
    """Take steps of the proximal map of total variation, of the same size in all."""
    for _ in range(STEPS):
        x = denoise_tv_chambolle(x, weight=SIGMA / STEPS * 4)
    return x


def ascend_patches(x: Array) -> Array:
    """Shift all patches to the mean of similar ones, and average where they overlap."""
    known = patch_samples()
    image = torch.from_numpy(x)[None, None]
    cover = F.fold(F.unfold(torch.ones_like(image), PATCH), image.shape[-2:], PATCH)
    for _ in range(STEPS):
        patches = F.unfold(image, PATCH)[0].T
        mean = patches.mean(1, keepdim=True)
        distance = torch.cdist(patches - mean, known).square()
        shifted = torch.softmax(-distance / (2 * SIGMA**2), dim=1) @ known + mean
        image = F.fold(shifted.T[None], image.shape[-2:], PATCH) / cover
    return image[0, 0].numpy()


def patch_samples() -> Tensor:
    """Patches of the other bundled photographs, without their mean."""
    rng = np.random.default_rng(1)
    folder = resources.files("napari_dmsp") / "samples"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith("lossless.png"))
    views = []
    for name in set(names) - {CHOSEN[0]}:
        windows = np.lib.stride_tricks.sliding_window_view(photograph(name), (PATCH, PATCH))
        rows, columns = (rng.integers(0, n, PATCHES // (len(names) - 1)) for n in windows.shape[:2])
        views.append(windows[rows, columns].reshape(-1, PATCH**2))
    patches = torch.from_numpy(np.concatenate(views))
    return patches - patches.mean(1, keepdim=True)


def ascend_deep(x: Array) -> Array:
    """Follow the mean-shift vector of the bundled prior, sampled as in eq. 19."""
    prior, generator = load_prior("gray"), torch.Generator().manual_seed(0)
    image = torch.from_numpy(x)[None, None]
    for _ in range(STEPS):
        shift = mean_shift(prior, image, SIGMA, stochastic=True, generator=generator)
        image = image + SIGMA**2 / 2 * shift
    return image[0, 0].numpy()


def main() -> None:
    """Write the picture."""
    ascents = {
        "total variation": ascend_tv,
        "patches": ascend_patches,
        "deep mean-shift": ascend_deep,
    }
    zoom, margin, strip = 2, 8, 24
    width, height = (len(ascents) + 1) * (SIDE * zoom + margin), 3 * (SIDE * zoom + strip) + margin
    sheet = Image.new("L", (width + margin, height), 255)
    pen = ImageDraw.Draw(sheet)
    for row, (name, start) in enumerate(starts().items()):
        panels = {f"start: {name}": start} | {k: ascend(start) for k, ascend in ascents.items()}
        for column, (caption, panel) in enumerate(panels.items()):
            left, top = margin + column * (SIDE * zoom + margin), row * (SIDE * zoom + strip)
            pen.text((left, top + strip // 2), caption, fill=0, anchor="lm", font_size=14)
            pixels = (panel.clip(0, 1) * 255).round().astype(np.uint8)
            large = Image.fromarray(pixels).resize((SIDE * zoom,) * 2, Image.Resampling.NEAREST)
            sheet.paste(large, (left, top + strip))
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images/priors.png"
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main()
