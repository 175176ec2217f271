"""What a volume costs: time a voxel, the network's part of it, and what cutting it changes.

python benchmarks/volume_cost.py [--side 64 --side 128 ...] [--depth 32] [--device cuda]
python benchmarks/volume_cost.py --cut

Simulated cells under a widefield microscope, 200 photons, noise unknown, a PSF of 23 voxels a
side. Where fewer cores were busy than there are threads, other programs may have been; the time of
the cores a voxel depends less on them. ``--cut`` restores 16 × 64 × 448
voxels whole and in parts of a fourth, and compares more than 8 voxels away from where was cut.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer
from protocol import print_table
from speed import Device, Stopwatch, memory, time_network
from volumes import READ_NOISE, Volume, blur, drawn, make_psf

from napari_dmsp import deblur, scale
from napari_dmsp.core.prior import load_prior
from napari_dmsp.settings import Deblur

PSF_SIDE, PHOTONS, AWAY = 23, 200, 8
CUT, CHUNKS = (16, 64, 448), 128


def main(
    sides: Annotated[list[int] | None, typer.Option("--side", help="Of planes, voxels.")] = None,
    depth: Annotated[int, typer.Option(help="Planes.")] = 32,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.CPU,
    cut: Annotated[bool, typer.Option("--cut", help="Compare parts with the whole.")] = False,
) -> None:
    """Print the tables."""
    psf = make_psf("widefield", PSF_SIDE, {})
    if cut:
        compare(psf)
        return
    rows = [cost((depth, side, side), psf, device) for side in sides or (64, 128, 192, 256)]
    header = ["voxels", "s", "cores", "µs of a core a voxel", "network", "memory, GB"]
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
    observed, prior = observe(shape, psf), load_prior("gray").to(device)
    deblur(observed[:16, :64, :64], psf, prior=prior, device=device)
    network, watch = time_network(prior.denoiser, device), Stopwatch(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with watch:
        deblur(observed, psf, prior=prior, device=device)
    row = watch.row()
    return [
        " × ".join(map(str, shape)),
        f"{row['seconds']:.1f}",
        f"{row['cores']:.1f}",
        f"{1e6 * row['seconds'] * row['cores'] / observed.size:.1f}",
        f"{network.seconds / watch.seconds:.0%}",
        f"{memory(device, peak=True) / 1e9:.1f}",
    ]


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
