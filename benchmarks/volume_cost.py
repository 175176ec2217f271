"""What a volume costs: time a voxel, the network's part of it, and what cutting it changes.

python benchmarks/volume_cost.py [--side 64 --side 128 ...] [--depth 32] [--device cuda]
python benchmarks/volume_cost.py --cut

Simulated cells under a widefield microscope, 200 photons, noise unknown, a PSF of 23 voxels a
side. Times are those of all threads of the processor, which other programs lengthen less than they
do those of a clock; with ``--device cuda``, those of a clock. ``--cut`` restores 16 × 64 × 448
voxels whole and in parts of a fourth, and compares more than 8 voxels away from where was cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import numpy as np
import torch
import typer
from protocol import print_table
from volumes import READ_NOISE, Volume, blur, drawn, make_psf

from napari_dmsp import deblur, scale
from napari_dmsp.core.prior import Prior
from napari_dmsp.settings import Deblur

PSF_SIDE, PHOTONS, AWAY = 23, 200, 8
CUT, CHUNKS = (16, 64, 448), 128


def main(
    sides: Annotated[list[int] | None, typer.Option("--side", help="Of planes, voxels.")] = None,
    depth: Annotated[int, typer.Option(help="Planes.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    cut: Annotated[bool, typer.Option("--cut", help="Compare parts with the whole.")] = False,
) -> None:
    """Print the tables."""
    psf = make_psf("widefield", PSF_SIDE, {})
    if cut:
        compare(psf)
        return
    rows = [cost((depth, side, side), psf, device) for side in sides or (64, 128, 192, 256)]
    header = ["voxels", "s", "µs a voxel", "network", "GPU memory, GB"]
    print_table("Cost of a volume", header, rows)


def observe(shape: tuple[int, ...], psf: Volume) -> Volume:
    """Simulate a volume whose scene goes on beyond it."""
    whole = drawn("shells", tuple(n + PSF_SIDE - 1 for n in shape), 0)
    blurred = blur(whole, psf).clip(0)
    random = np.random.default_rng(0)
    photons = random.poisson(blurred * (PHOTONS / blurred.max()))
    return (photons + random.normal(0, READ_NOISE, shape)).astype(np.float32)


def cost(shape: tuple[int, ...], psf: Volume, device: str) -> list[str]:
    """Restore a volume, and return a row."""
    observed, cuda = observe(shape, psf), device == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        deblur(observed[:16, :64, :64], psf, device=device)
        torch.cuda.reset_peak_memory_stats()
    with Stopwatch(clock, cuda) as network:
        start = clock()
        deblur(observed, psf, device=device)
        seconds = clock() - start
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if cuda else "-"
    share = f"{network.seconds / seconds:.0%}"
    name = " × ".join(map(str, shape))
    return [name, f"{seconds:.1f}", f"{1e6 * seconds / observed.size:.1f}", share, memory]


class Stopwatch:
    """Adds up what evaluations of priors take."""

    def __init__(self, clock: Callable[[], float], cuda: bool) -> None:
        self.clock, self.cuda, self.seconds, self.call = clock, cuda, 0.0, Prior.__call__

    def __enter__(self) -> Stopwatch:
        call = self.call

        @wraps(call)
        def timed(*arguments: Any) -> torch.Tensor:
            start = self.now()
            result = call(*arguments)
            self.seconds += self.now() - start
            return result

        Prior.__call__ = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Prior.__call__ = self.call  # type: ignore[method-assign]

    def now(self) -> float:
        """Return the time when all that was asked of the device is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return self.clock()


def compare(psf: Volume) -> None:
    """Print how parts differ from the whole, in shares of its range."""
    observed = observe(CUT, psf)
    whole = deblur(observed, psf, device="cpu").image
    lazy = scale.restore(Deblur(psf=psf, device="cpu"), observed, chunks=CHUNKS)
    seams = np.cumsum(lazy.chunks[2])[:-1]
    places = np.arange(CUT[2]) + 0.5
    away = np.abs(places[:, None] - seams).min(1) > AWAY
    found = (np.abs(lazy.compute() - whole) / np.ptp(whole))[..., away]
    values = [np.sqrt(np.mean(found**2)), *np.percentile(found, (99, 99.9)), found.max()]
    header = ["parts", "root mean square", "99 %", "99.9 %", "greatest"]
    row = [" + ".join(map(str, lazy.chunks[2])), *(f"{value:.1e}" for value in values)]
    print_table("Parts beside the whole, as shares of its range", header, [row])


if __name__ == "__main__":
    typer.run(main)
