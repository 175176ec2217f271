"""The data sets and scores of the published evaluations. Images are on the 0..255 scale."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve
from skimage import io
from skimage.metrics import structural_similarity

from napari_dmsp.core.operators import resize_matrix
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.training.data import LUMA

# Figure 3: pixels cut per side, and the greatest shift.
SSD_CUT, SSD_REACH = 15, 5

Array = NDArray[np.float32]
Item = TypeVar("Item")

# Colour filter arrays from the top left corner, one row of the period after the other.
PATTERNS = {
    "RGGB": "RG/GB",
    "GRBG": "GR/BG",
    "GBRG": "GB/RG",
    "BGGR": "BG/GR",
    "X-Trans": "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A truth and its observation; ``border`` pixels a side are left out of the scores."""

    border: ClassVar[int] = 0
    name: str
    observed: Array
    truth: Array
    noise_sigma: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class BlurCase(Case):
    """Table 2."""

    psf: NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SuperresCase(Case):
    """Table 3."""

    border: ClassVar[int] = 12
    scale: int


@dataclass(frozen=True, eq=False, kw_only=True)
class MosaicCase(Case):
    """Table 4."""

    border: ClassVar[int] = 10
    pattern: str


def psnr(estimate: Array, truth: Array, border: int = 0) -> float:
    """PSNR after rounding both to 8 bits, over all channels, without ``border`` pixels a side."""
    difference = _eight_bit(estimate, border) - _eight_bit(truth, border)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def ssd(estimate: Array, truth: Array) -> float:
    """Least sum of squares over shifts up to 5 pixels in quarter steps, on the 0..255 scale."""
    height, width = truth.shape
    reference = truth[SSD_CUT:-SSD_CUT, SSD_CUT:-SSD_CUT]
    best = np.inf
    for down in np.arange(-SSD_REACH, SSD_REACH + 0.25, 0.25):
        for right in np.arange(-SSD_REACH, SSD_REACH + 0.25, 0.25):
            row, column = int(np.floor(down)), int(np.floor(right))
            window = estimate[SSD_CUT + row : height - SSD_CUT + row + 1, SSD_CUT + column :][
                :, : width - 2 * SSD_CUT + 1
            ]
            a, b = down - row, right - column
            window = (1 - a) * window[:-1] + a * window[1:]
            window = (1 - b) * window[:, :-1] + b * window[:, 1:]
            best = min(best, float(np.square(window - reference, dtype=np.float64).sum()))
    return best * 255**2


def ssim(estimate: Array, truth: Array, border: int = 0) -> float:
    """SSIM of scikit-image, of the same pixels as `psnr`, mean over the channels."""
    return float(
        structural_similarity(
            _eight_bit(estimate, border),
            _eight_bit(truth, border),
            data_range=255,
            channel_axis=-1 if truth.ndim == 3 else None,
        )
    )


def _eight_bit(image: Array, border: int) -> NDArray[np.float64]:
    inner = slice(border, -border or None)
    return np.clip(np.rint(image[inner, inner]), 0, 255).astype(np.float64)


def blur_cases(
    data: Path, name: str, noise_sigma: float, subset: int | None = None
) -> Iterator[BlurCase]:
    """Table 2: truths blurred with the kernels turned by 180 degrees, seeded noise.

    ``name`` is "berkeley" (colour, 10 images x 5 kernels) or "levin" (grey, 4 x 8).
    """
    if name == "berkeley":
        folder = data / "eval" / "berkeley10"
        files, kernels = sorted(folder.glob("*.jpg")), np.load(folder / "kernels5.npz")
    else:
        folder = data / "eval" / "levin09"
        files, kernels = sorted(folder.glob("truth*.png")), np.load(folder / "kernels8.npz")
    pairs = [(i, j) for i in range(len(files)) for j in range(len(kernels.files))]
    for i, j in spread(pairs, subset):
        truth = io.imread(files[i]).astype(np.float32)
        psf = np.rot90(kernels[f"k{j + 1}"].astype(np.float64), 2)
        psf = psf / psf.sum()
        seed = 1000 * (i + 1) + j + 1
        observed, crop = simulate_blur(truth, psf, noise_sigma, seed=seed)
        yield BlurCase(
            name=f"{files[i].stem}, kernel {j + 1}",
            observed=observed,
            truth=crop,
            psf=psf,
            noise_sigma=noise_sigma,
        )


def denoising_images(data: Path, channels: int) -> Iterator[Array]:
    """CBSD68, or its luminance (BSD68)."""
    for file in sorted((data / "eval" / "cbsd68").glob("*.png")):
        image = io.imread(file)[..., :3]
        grey = np.rint(image @ LUMA)[..., None]
        yield (image if channels == 3 else grey).astype(np.float32)


def superres_cases(
    data: Path, name: str, scale: int, subset: int | None = None
) -> Iterator[SuperresCase]:
    """Table 3: antialiased bicubic reduction, rounded to 8 bits; ``name`` is "set5" or "set14"."""
    for file in spread(sorted((data / "eval" / name).iterdir()), subset):
        image = io.imread(file).astype(np.float32)
        image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
        height, width = (n // scale * scale for n in image.shape[:2])
        truth = image[:height, :width]
        small = np.clip(np.rint(bicubic(truth, (height // scale, width // scale))), 0, 255)
        yield SuperresCase(name=file.stem, observed=small, truth=truth, scale=scale)


def mosaic_cases(
    data: Path, pattern: str, noise_sigma: float, subset: int | None = None
) -> Iterator[MosaicCase]:
    """Table 4 on McM: one colour a pixel, seeded noise added to the mosaic, not clipped."""
    files = sorted((data / "eval" / "mcm18").glob("*.png"))
    for i, file in spread(list(enumerate(files, 1)), subset):
        truth = io.imread(file)[..., :3].astype(np.float32)
        clean = (truth * filter_array(pattern, truth.shape)).sum(-1)
        noise = np.random.default_rng(1000 * i).normal(0, noise_sigma, clean.shape)
        yield MosaicCase(
            name=file.stem,
            observed=(clean + noise).astype(np.float32),
            truth=truth,
            pattern=pattern,
            noise_sigma=noise_sigma,
        )


def filter_array(pattern: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (H, W, 3), True where a pixel has the colour."""
    period = np.array(["RGB".index(c) for c in PATTERNS[pattern].replace("/", "")])
    period = period.reshape(PATTERNS[pattern].count("/") + 1, -1)
    repeats = [-(-n // m) for n, m in zip(shape[:2], period.shape, strict=True)]
    return np.tile(period, repeats)[: shape[0], : shape[1], None] == np.arange(3)


def bicubic(image: Array, shape: tuple[int, ...]) -> Array:
    """Resize to ``shape``; the baseline of Table 3."""
    rows, columns = (resize_matrix(a, b) for a, b in zip(image.shape[:2], shape[:2], strict=True))
    resized = np.moveaxis(rows @ np.moveaxis(image, -1, 0) @ columns.T, 0, -1)
    return resized.astype(np.float32)


def load_malvar() -> Callable[[Array, str], Array]:
    """Malvar, He and Cutler, 2004: the baseline of Table 4 for Bayer patterns."""
    with warnings.catch_warnings(action="ignore"):
        from colour_demosaicing import demosaicing_CFA_Bayer_Malvar2004

    return lambda mosaic, pattern: demosaicing_CFA_Bayer_Malvar2004(mosaic, pattern).astype(
        np.float32
    )


def bilinear(mosaic: Array, pattern: str) -> Array:
    """Normalised convolution with a tent: the baseline of Table 4 for any pattern.

    A corner without a sample of a colour stays black there, outside of what is scored.
    """
    masks = filter_array(pattern, mosaic.shape)
    tent = np.outer([1, 2, 1], [1, 2, 1])
    planes = []
    for kept in np.moveaxis(masks, -1, 0).astype(np.float64):
        sums, weights = (convolve(v, tent, mode="constant") for v in (kept * mosaic, kept))
        planes.append(np.where(kept == 1, mosaic, sums / np.maximum(weights, 1)))
    return np.stack(planes, axis=-1).astype(np.float32)


def spread(items: list[Item], count: int | None) -> list[Item]:
    """A subset that covers images and kernels evenly."""
    if count is None or count >= len(items):
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print aligned columns, names to the left and figures to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    print(f"\n{title}")
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells), flush=True)
