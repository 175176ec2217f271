"""Unknown kernels of any size: photographs that were shaken, and sharp ones.

python benchmarks/blind.py --data DIR [--cases N] [--csv FILE]

Twenty photographs that no prior was trained on, blurred by simulated shakes whose frames are 9 to
61 pixels wide, with noise of 1/255; the size is not told. A kernel that is found may be shifted,
and with it the image: the score is the best over shifts of up to a third of the kernel, of the part
that all of them leave. Sharp photographs must come back as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from protocol import Array, print_table, psnr, spread
from report import write_rows
from scipy.ndimage import shift
from skimage import io

from napari_dmsp import deblur
from napari_dmsp.core.simulate import shake_psf, simulate_blur

NOISE, MOST, SHARP = 1.0, 480, 4
SIZES = np.rint(np.linspace(9, 61, 20)).astype(int) // 2 * 2 + 1
# Folders of photographs.
SETS = ("samples", "eval/mcm18", "eval/set14", "eval/cbsd68")


def photographs(data: Path) -> list[Path]:
    """Five of each set, by turns."""
    sets = [spread(sorted((data / name).glob("*.png")), 5) for name in SETS]
    return [file for group in zip(*sets, strict=True) for file in group]


def read(file: Path) -> Array:
    """Read the middle of a photograph."""
    image = io.imread(file)
    image = image[..., :3] if image.ndim == 3 else image
    top, left = (max(0, (n - MOST) // 2) for n in image.shape[:2])
    return image[top : top + MOST, left : left + MOST].astype(np.float32)


def aligned(estimate: Array, truth: Array, reach: int) -> float:
    """Return the PSNR at the best shift, first by whole pixels, then by quarters."""
    border = reach + 2

    def score(down: float, right: float) -> float:
        axes = (down, right, *(estimate.ndim - 2) * (0,))
        moved = shift(estimate, axes, order=1, mode="nearest") if down or right else estimate
        return psnr(moved, truth, border)

    spectrum = np.fft.rfft2(grey(estimate)).conj() * np.fft.rfft2(grey(truth))
    peaks = np.fft.irfft2(spectrum / np.maximum(np.abs(spectrum), 1e-9), grey(truth).shape)
    near = np.fft.fftshift(peaks)
    middle = np.array(near.shape) // 2
    window = near[
        middle[0] - reach : middle[0] + reach + 1, middle[1] - reach : middle[1] + reach + 1
    ]
    down, right = np.array(np.unravel_index(np.argmax(window), window.shape)) - reach
    quarters = np.arange(-0.75, 1, 0.25)
    return max(
        score(0, 0), *(score(float(down) + a, float(right) + b) for a in quarters for b in quarters)
    )


def grey(image: Array) -> Array:
    """Return the mean over the colours, without its mean."""
    plane = image.mean(-1) if image.ndim == 3 else image
    return plane - plane.mean()


def rows(data: Path, cases: int | None) -> Iterator[dict[str, Any]]:
    """Restore every case with the kernel unknown and known."""
    pairs = list(enumerate(zip(photographs(data), SIZES, strict=True)))
    for seed, (file, size) in spread(pairs, cases):
        psf = shake_psf(int(size), seed)
        observed, truth = simulate_blur(read(file), psf, NOISE, seed)
        axis = {"channel_axis": -1} if truth.ndim == 3 else {}
        blind, known = deblur(observed, **axis), deblur(observed, psf, **axis)
        assert blind.psf is not None
        reach = int(size) // 3 + 1
        yield {
            "case": f"{file.stem[:16]}, {size} pixels",
            "input": aligned(observed, truth, reach),
            "unknown": aligned(blind.image, truth, reach),
            "known": aligned(known.image, truth, reach),
            "frame": blind.psf.shape[0],
            "seconds": blind.seconds,
        }


def sharp_rows(data: Path) -> Iterator[dict[str, Any]]:
    """Restore photographs that are sharp."""
    for seed, file in enumerate(spread(photographs(data), SHARP)):
        image = read(file)
        observed = image + np.random.default_rng(seed).normal(0, NOISE, image.shape)
        axis = {"channel_axis": -1} if image.ndim == 3 else {}
        result = deblur(observed.astype(np.float32), **axis)
        assert result.psf is not None
        yield {
            "case": f"{file.stem[:16]}, sharp",
            "input": psnr(observed, image, 10),
            "unknown": psnr(result.image, image, 10),
            "known": psnr(observed, image, 10),
            "frame": result.psf.shape[0],
            "seconds": result.seconds,
        }


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    cases: Annotated[int | None, typer.Option(min=1, help="Cases, spread evenly.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for all rows.")] = None,
) -> None:
    """Print every case, and how many come near the known kernel."""
    shaken, sharp = [], []
    for found, group in ((shaken, rows(data, cases)), (sharp, sharp_rows(data))):
        for row in group:
            found.append(row)
            print(*(f"{v:.2f}" if isinstance(v, float) else v for v in row.values()), flush=True)
    lines = [
        [
            r["case"],
            *(f"{r[k]:.2f}" for k in ("input", "unknown", "known")),
            f"{r['frame']}",
            f"{r['seconds']:.0f}",
        ]
        for r in (*shaken, *sharp)
    ]
    header = ["PSNR in dB", "input", "kernel unknown", "known", "frame found", "s"]
    print_table(f"Unknown kernels, noise {NOISE:g}", header, lines)
    near = sum(r["unknown"] > r["known"] - 4 for r in shaken)
    below = sum(r["unknown"] < r["input"] - 0.005 for r in shaken)
    print(f"{len(shaken)} shaken: {near} within 4 dB of the known kernel, {below} below the input")
    print(f"{len(sharp)} sharp: {sum(r['frame'] == 1 for r in sharp)} returned as they are")
    write_rows([*shaken, *sharp], csv)


if __name__ == "__main__":
    typer.run(main)
