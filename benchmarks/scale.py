"""A stack larger than one would restore by hand: one worker against two, of one thread each.

python benchmarks/scale.py --data DIR [--planes N] [--size N] [--iterations N] [--folder DIR]

A micrograph of DIR/eval/microscopy, mirrored to the size, is blurred with a Gaussian PSF of 2
pixels; every plane gets noise of 2 % of the range. Both results must be equal, bit for bit.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
import typer
import zarr
from distributed import Client, LocalCluster
from scipy.signal import fftconvolve
from skimage import io
from tqdm import tqdm

from napari_dmsp import scale
from napari_dmsp.core.psf import gaussian_psf

PSF_SIGMA, NOISE, WHITE = 2.0, 0.02, 4000


def make_stack(data: Path, path: Path, planes: int, size: int) -> None:
    """Write a uint16 zarr array (planes, size, size), one chunk per plane."""
    source = sorted((data / "eval" / "microscopy" / "bbbc039").iterdir())[0]
    image = io.imread(source).astype(np.float64)
    low, high = np.percentile(image, [0.1, 99.9])
    padding = [(0, max(size - n, 0)) for n in image.shape]
    plane = np.pad((image - low) / (high - low), padding, mode="symmetric")[:size, :size]
    blurred = fftconvolve(plane, gaussian_psf(PSF_SIGMA), mode="same")
    array = zarr.create_array(path, shape=(planes, size, size), chunks=(1, size, size), dtype="u2")
    for i in range(planes):
        noise = np.random.default_rng(i).normal(0, NOISE, plane.shape)
        array[i] = np.rint((blurred + noise + 0.1) * WHITE).clip(0, 65535)


def restore(source: Path, target: Path, workers: int, iterations: int | None) -> float:
    """Restore the stack, and return the seconds that took, without the start of the workers."""
    lazy = scale.deblur(source, gaussian_psf(PSF_SIGMA), iterations=iterations, dtype="u2")
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        tqdm(unit="tile", desc=f"workers {workers}") as bar,
    ):
        # Imports take as long as some tiles.
        client.run(torch.get_num_threads)

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        begin = time.perf_counter()
        scale.write(lazy, target, client=client, progress=show)
        return time.perf_counter() - begin


def main(
    data: Annotated[Path, typer.Option(help="Folder that has eval/microscopy.")],
    planes: int = 20,
    size: int = 2048,
    iterations: int | None = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work.")] = None,
) -> None:
    """Time one worker and two, and compare their results."""
    with TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        make_stack(data, work / "in.zarr", planes, size)
        seconds = [restore(work / "in.zarr", work / f"out{n}.zarr", n, iterations) for n in (1, 2)]
        first, second = (zarr.open(work / f"out{n}.zarr", mode="r") for n in (1, 2))
        equal = all(np.array_equal(first[i], second[i]) for i in range(planes))
    print(f"{planes} planes of {size} x {size} pixels")
    print(f"one worker {seconds[0]:.1f} s, two {seconds[1]:.1f} s: {seconds[0] / seconds[1]:.2f} x")
    print(f"results are {'equal' if equal else 'NOT equal'}")
    if not equal:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
