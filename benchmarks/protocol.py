"""The data sets and scores of the published evaluations. Figures in dB are PSNR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from skimage import io

from napari_dmsp.core.operators import resize_matrix
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.training.data import LUMA

Array = NDArray[np.float32]
Case = TypeVar("Case")


@dataclass(frozen=True)
class BlurCase:
    """A truth and its observation, both on the 0..255 scale."""

    image: int
    kernel: int
    observed: Array
    truth: Array
    psf: NDArray[np.float64]


def psnr(estimate: Array, truth: Array, border: int = 0) -> float:
    """PSNR after rounding both to 8 bits, over all channels, without ``border`` pixels a side."""
    inner = slice(border, -border or None)
    estimate, truth = estimate[inner, inner], truth[inner, inner]
    difference = np.clip(np.rint(estimate), 0, 255) - np.clip(np.rint(truth), 0, 255)
    return float(10 * np.log10(255**2 / np.mean(difference.astype(np.float64) ** 2)))


def blur_cases(data: Path, name: str, noise_sigma: float) -> Iterator[BlurCase]:
    """Table 2: truths blurred with the kernels turned by 180 degrees, seeded noise.

    ``name`` is "berkeley" (colour, 10 images x 5 kernels) or "levin" (grey, 4 x 8).
    """
    if name == "berkeley":
        folder = data / "eval" / "berkeley10"
        files, kernels = sorted(folder.glob("*.jpg")), np.load(folder / "kernels5.npz")
    else:
        folder = data / "eval" / "levin09"
        files, kernels = sorted(folder.glob("truth*.png")), np.load(folder / "kernels8.npz")
    for i, file in enumerate(files, 1):
        truth = io.imread(file).astype(np.float32)
        for j in range(1, len(kernels.files) + 1):
            psf = np.rot90(kernels[f"k{j}"].astype(np.float64), 2)
            psf = psf / psf.sum()
            observed, crop = simulate_blur(truth, psf, noise_sigma, seed=1000 * i + j)
            yield BlurCase(i, j, observed, crop, psf)


def denoising_images(data: Path, channels: int) -> Iterator[Array]:
    """CBSD68, or its luminance (BSD68), on the 0..255 scale."""
    for file in sorted((data / "eval" / "cbsd68").glob("*.png")):
        image = io.imread(file)[..., :3]
        grey = np.rint(image @ LUMA)[..., None]
        yield (image if channels == 3 else grey).astype(np.float32)


@dataclass(frozen=True)
class SuperresCase:
    """A truth and its 8-bit reduction, both on the 0..255 scale, colour."""

    small: Array
    truth: Array


def superres_cases(data: Path, name: str, scale: int) -> Iterator[SuperresCase]:
    """Table 3: antialiased bicubic reduction, rounded to 8 bits; ``name`` is "set5" or "set14"."""
    for file in sorted((data / "eval" / name).iterdir()):
        image = io.imread(file).astype(np.float32)
        image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
        height, width = (n // scale * scale for n in image.shape[:2])
        truth = image[:height, :width]
        rows, columns = (resize_matrix(n, n // scale) for n in (height, width))
        small = np.moveaxis(rows @ np.moveaxis(truth, -1, 0) @ columns.T, 0, -1)
        yield SuperresCase(np.clip(np.rint(small), 0, 255).astype(np.float32), truth)


def bicubic(image: Array, shape: tuple[int, ...]) -> Array:
    """Enlarge to ``shape``, the baseline of Table 3."""
    rows, columns = (resize_matrix(a, b) for a, b in zip(image.shape[:2], shape[:2], strict=True))
    large = np.moveaxis(rows @ np.moveaxis(image, -1, 0) @ columns.T, 0, -1)
    return large.astype(np.float32)


def spread(cases: list[Case], count: int | None) -> list[Case]:
    """A subset that covers images and kernels evenly."""
    if count is None or count >= len(cases):
        return cases
    return [cases[round(i)] for i in np.linspace(0, len(cases) - 1, count)]


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print aligned columns, names to the left and figures to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    print(f"\n{title}")
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells), flush=True)
