"""Synthetic thin structures for training: what cameras see little of, and microscopes much.

python -m napari_dmsp.training.structures FOLDER [--count N]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tifffile
import typer
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.draw import disk, polygon

SIZE = 448
# Structures are drawn finer, then averaged.
FINER = 2

Canvas = NDArray[np.float32]


def draw_structures(seed: int, size: int = SIZE) -> NDArray[np.floating[Any]]:
    """Draw filaments, ellipses, bars or beads, by turns, on an empty ground of ``size`` pixels.

    The seed chooses the kind, and all that is random. 0.1 % of the pixels are brighter than 1, at
    most 1.5.
    """
    rng = np.random.default_rng(seed)
    image = np.zeros((size * FINER, size * FINER), np.float32)
    drawn = (_filaments, _ellipses, _bars, _beads)[seed % 4](image, rng)
    image = drawn.reshape(size, FINER, size, FINER).mean((1, 3))
    blur = rng.choice([0, 0.4, 0.7, 1.0])
    if blur:
        image = gaussian_filter(image, blur)
    image /= max(np.percentile(image, 99.9), 1e-3)
    return image.clip(0, 1.5) + rng.choice([0, 0, 0.02])


def _filaments(image: Canvas, rng: np.random.Generator) -> Canvas:
    """Lines that turn a little with every pixel."""
    side = len(image)
    for _ in range(rng.integers(10, 60)):
        begin, angle = rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi)
        length, width = int(rng.uniform(100, 1500)), rng.uniform(0.5, 3.0)
        turn = rng.normal(0, 0.02, length).cumsum() * rng.uniform(0, 0.3) + angle
        path = begin + np.stack([np.sin(turn), np.cos(turn)], 1).cumsum(0)
        points = path.round().astype(int)
        points = points[((points >= 0) & (points < side)).all(1)]
        if not len(points):
            continue
        low, high = np.maximum(points.min(0) - 12, 0), points.max(0) + 13
        window = np.s_[low[0] : high[0], low[1] : high[1]]
        line = np.zeros_like(image[window])
        rows, columns = (points - low).T
        line[rows, columns] = 1
        line = gaussian_filter(line, width)
        image[window] += rng.uniform(0.2, 1) * line / max(line.max(), 1e-6)
    return image


def _ellipses(image: Canvas, rng: np.random.Generator) -> Canvas:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return _outlines(image, rng, lambda a, b: np.stack([a * np.cos(angles), b * np.sin(angles)], 1))


def _bars(image: Canvas, rng: np.random.Generator) -> Canvas:
    return _outlines(image, rng, lambda a, b: np.array([[a, b], [-a, b], [-a, -b], [a, -b]]))


def _outlines(
    image: Canvas,
    rng: np.random.Generator,
    corners: Callable[[float, float], NDArray[np.float64]],
) -> Canvas:
    """Hollow or filled shapes with the half axes that ``corners`` takes."""
    for _ in range(rng.integers(6, 60)):
        centre = rng.uniform(0, len(image), 2)
        angle = rng.uniform(0, np.pi) * (rng.random() < 0.8)
        long, short = rng.uniform(6, 200) * FINER / 2, rng.uniform(2, 30) * FINER / 2
        shape = corners(long, short)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        thick, value = rng.uniform(0.8, 3) * FINER, rng.uniform(0.2, 1)
        drawn = np.zeros_like(image)
        _fill(drawn, shape @ turn.T + centre, value)
        if min(long, short) > thick:
            inner = shape * (1 - thick / np.array([long, short]))
            _fill(drawn, inner @ turn.T + centre, rng.choice([0, 0, 0.1 * value, 0.3 * value]))
        image = np.maximum(image, drawn) if rng.random() < 0.5 else image + drawn
    return image


def _fill(image: Canvas, corners: NDArray[np.float64], value: float) -> None:
    rows, columns = polygon(corners[:, 0], corners[:, 1], image.shape)
    image[rows, columns] = value


def _beads(image: Canvas, rng: np.random.Generator) -> Canvas:
    for _ in range(rng.integers(30, 600)):
        centre = rng.uniform(0, len(image), 2)
        rows, columns = disk(centre, rng.uniform(0.7, 5) * FINER, shape=image.shape)
        image[rows, columns] += rng.uniform(0.1, 1)
    return image


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write 16-bit TIFF files.")],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 72,
) -> None:
    """Write the images that the microscopy prior was trained on, beside real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        pixels = (draw_structures(seed) * 40_000).round().clip(0, 65_535).astype(np.uint16)
        tifffile.imwrite(folder / f"structures_{seed:03d}.tif", pixels)


if __name__ == "__main__":
    typer.run(main)
