"""Noise as photographs have it: compression, rows, correlation, dead halves, hot pixels, clipping.

python benchmarks/noise.py --data DIR [--task TASK] [--images N] [--only TEXT] [--csv FILE]

Crops of CBSD68, every other one of its luminance, are blurred, reduced or mosaicked and then
damaged. The input is what a viewer would show without a restoration: the image itself, its bicubic
enlargement, or the interpolation of the mosaic by Malvar. "Told" is the same run with the root mean
square of what was added given as the noise level, and with damaged and clipped pixels masked.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from protocol import (
    Array,
    bicubic,
    denoising_images,
    filter_array,
    load_malvar,
    print_table,
    psnr,
    spread,
)
from report import write_rows
from scipy.ndimage import gaussian_filter

from napari_dmsp import deblur, demosaic, superres
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

SIDE, BORDER, PATTERN = 168, 10, "RGGB"
# White noise below all others, and the level of those that are not white, of 255.
WHITE, COLOURED = 1.5, 4.0
WIDTHS, SCALES = (1.0, 1.5, 2.5), (2, 3)
# By how much an exposure is too long.
OVEREXPOSED = 1.6

Random = np.random.Generator
Gaps = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Damaged:
    """An observation and what may be told of it; ``scored`` are the pixels that it still shows."""

    observed: Array
    gaps: Gaps | None = None
    scored: Gaps | None = None


Damage = Callable[[Array, Random], Damaged]


def white(clean: Array, random: Random) -> Array:
    """Add white noise, without which nothing is observed."""
    return (clean + random.normal(0, WHITE, clean.shape)).astype(np.float32)


def plain(clean: Array, random: Random) -> Damaged:
    """Nothing but white noise."""
    return Damaged(white(clean, random))


def jpeg(quality: int) -> Damage:
    """Compress, with halved colours below a quality of 90 as cameras do."""

    def damage(clean: Array, random: Random) -> Damaged:
        eight_bit = np.rint(white(clean, random)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        subsampling = {"subsampling": 2 if quality < 90 else 0} if clean.ndim == 3 else {}
        Image.fromarray(eight_bit).save(file, "JPEG", quality=quality, **subsampling)
        return Damaged(np.asarray(Image.open(file)).astype(np.float32))

    return damage


def striped(clean: Array, random: Random) -> Damaged:
    """Add noise that is the same along a row."""
    rows = random.normal(0, COLOURED, (len(clean), *(clean.ndim - 1) * (1,)))
    return Damaged((white(clean, random) + rows).astype(np.float32))


def correlated(clean: Array, random: Random) -> Damaged:
    """Add noise that was interpolated."""
    noise = gaussian_filter(random.normal(size=clean.shape), (0.8, 0.8, *(clean.ndim - 2) * (0,)))
    noise *= COLOURED / noise.std()
    return Damaged((white(clean, random) + noise).astype(np.float32))


def dead_half(clean: Array, random: Random) -> Damaged:
    """Lose the right half."""
    observed, gaps = white(clean, random), np.zeros(clean.shape[:2], bool)
    gaps[:, clean.shape[1] // 2 :] = True
    observed[gaps] = 0
    return Damaged(observed, gaps, ~gaps)


def hot(share: float) -> Damage:
    """Make single samples hot or dead."""

    def damage(clean: Array, random: Random) -> Damaged:
        observed = white(clean, random)
        count = max(1, round(share * clean.shape[0] * clean.shape[1]))
        places = random.choice(clean.shape[0] * clean.shape[1], count, replace=False)
        gaps = np.zeros(clean.shape[:2], bool)
        gaps.flat[places] = True
        level = np.where(random.random(count) < 0.7, random.uniform(400, 4000, count), 0.0)
        observed[gaps] = level if clean.ndim == 2 else level[:, None]
        return Damaged(observed, gaps)

    return damage


def clipped(clean: Array, random: Random) -> Damaged:
    """Expose for too long: highlights are cut, and nothing says how bright they were."""
    observed = white(clean, random)
    gaps = observed >= 255
    return Damaged(observed.clip(0, 255), gaps if clean.ndim == 2 else gaps.any(-1), ~gaps)


DAMAGES: dict[str, Damage] = {
    "white noise": plain,
    **{f"JPEG {quality}": jpeg(quality) for quality in (50, 75, 90)},
    "rows": striped,
    "correlated": correlated,
    "dead half": dead_half,
    **{f"hot {100 * share:g} %": hot(share) for share in (1e-4, 1e-3, 1e-2)},
    "clipped": clipped,
}


@dataclass(frozen=True, eq=False)
class Task:
    """A degradation of a truth, what shows its observation, and what restores it."""

    name: str
    degrade: Callable[[Array], tuple[Array, Array]]
    show: Callable[[Array, Array], Array]
    restore: Callable[..., Any]
    enlarge: Callable[[Gaps, Array], Gaps]
    damages: tuple[str, ...] = tuple(DAMAGES)


def tasks() -> Iterator[Task]:
    """Three blurs, two reductions and a mosaic."""

    def same(values: Any, truth: Array) -> Any:
        return values

    for width in WIDTHS:
        psf = gaussian_psf(width)
        yield Task(
            f"deblur, width {width:g}",
            lambda truth, psf=psf: simulate_blur(truth, psf),
            same,
            lambda y, psf=psf, **options: deblur(y, psf, **options),
            same,
        )
    for scale in SCALES:
        yield Task(
            f"superres x{scale}",
            lambda truth, scale=scale: (shrink(truth, scale), truth),
            lambda y, truth: enlarged(y, truth.shape),
            lambda y, scale=scale, **options: superres(y, scale, **options),
            lambda gaps, truth, scale=scale: gaps.repeat(scale, 0).repeat(scale, 1),
        )
    malvar = load_malvar()
    yield Task(
        "demosaic",
        lambda truth: ((truth * filter_array(PATTERN, truth.shape)).sum(-1), truth),
        lambda y, truth: malvar(y, PATTERN),
        lambda y, **options: demosaic(y, PATTERN, linear=False, **options),
        same,
        tuple(name for name in DAMAGES if not name.startswith("JPEG")),
    )


def shrink(truth: Array, scale: int) -> Array:
    """Reduce by an antialiased bicubic filter."""
    return enlarged(truth, tuple(n // scale for n in truth.shape[:2]))


def enlarged(image: Array, shape: tuple[int, ...]) -> Array:
    """Resize a grey or coloured image."""
    whole = image if image.ndim == 3 else image[..., None]
    return bicubic(whole, shape)[..., slice(None) if image.ndim == 3 else 0]


def truths(data: Path, count: int) -> Iterator[Array]:
    """Crops from the middle of photographs, in colour and in grey by turns."""
    colour, grey = (list(denoising_images(data, channels)) for channels in (3, 1))
    for i, k in enumerate(spread(list(range(len(colour))), count)):
        image = colour[k] if i % 2 == 0 else grey[k][..., 0]
        top, left = ((n - SIDE) // 2 for n in image.shape[:2])
        yield image[top : top + SIDE, left : left + SIDE]


def measure(task: Task, name: str, image: Array, seed: int) -> dict[str, float]:
    """Damage one photograph, and restore it with nothing and with all of the damage told."""
    if task.name == "demosaic" and image.ndim == 2:
        image = np.stack([image] * 3, -1)
    exposed = OVEREXPOSED * image if name == "clipped" else image
    clean, truth = task.degrade(exposed)
    damaged = DAMAGES[name](clean, np.random.default_rng(seed))
    y = damaged.observed
    told: dict[str, Any] = {"noise": WHITE}
    if damaged.gaps is None:
        told = {"noise": float(np.sqrt(np.mean((y - clean) ** 2)))}
    elif damaged.gaps.any():
        told["mask"] = damaged.gaps
    kept = None
    if damaged.scored is not None:
        kept = task.enlarge(damaged.scored, truth)

    def score(estimate: Array) -> float:
        if kept is not None:
            gone = (
                ~kept
                if kept.ndim == estimate.ndim
                else np.broadcast_to(~kept[..., None], estimate.shape)
            )
            estimate = np.where(gone, truth, estimate)
        return psnr(estimate, truth, BORDER)

    axis = {"channel_axis": -1} if y.ndim == 3 else {}
    blind, known = task.restore(y, **axis), task.restore(y, **axis, **told)
    return {
        "input": score(task.show(y, truth)),
        "unknown": score(blind.image),
        "told": score(known.image),
        "noise": blind.noise_sigma,
        "noise_told": told["noise"],
    }


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    images: Annotated[int, typer.Option(min=1, help="Photographs.")] = 4,
    task: Annotated[str, typer.Option(help="Only tasks with this in their name.")] = "",
    only: Annotated[str, typer.Option(help="Only damages with this in their name.")] = "",
    csv: Annotated[Path | None, typer.Option(help="File for all rows.")] = None,
) -> None:
    """Print means over the photographs, the least gain, and the most that being told brings."""
    every: list[dict[str, Any]] = []
    photographs = list(truths(data, images))
    for one in tasks():
        lines = []
        names = [name for name in one.damages if only in name] if task in one.name else []
        for name in names:
            rows = [measure(one, name, image, seed) for seed, image in enumerate(photographs)]
            every += [
                {"task": one.name, "damage": name, "image": i} | r for i, r in enumerate(rows)
            ]
            gains = [r["unknown"] - r["input"] for r in rows]
            lost = [r["told"] - r["unknown"] for r in rows]
            means = [f"{np.mean([r[k] for r in rows]):.2f}" for k in ("input", "unknown", "told")]
            lines.append([name, *means, f"{min(gains):+.2f}", f"{max(lost):+.2f}"])
            print(one.name, *lines[-1], flush=True)
        if lines:
            header = ["damage", "input", "unknown", "told", "least gain", "most that is lost"]
            print_table(f"{one.name}: PSNR in dB, {images} photographs", header, lines)
    below = sum(r["unknown"] < r["input"] for r in every)
    lost = sum(r["told"] - r["unknown"] > 1.5 for r in every)
    print(f"\n{len(every)} runs: {below} below the input, {lost} more than 1.5 dB below being told")
    write_rows(every, csv)


if __name__ == "__main__":
    typer.run(main)
