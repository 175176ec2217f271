"""Time to the paper's PSNR: the default solver against the published descent and network.

    python benchmarks/race.py --data DIR --peers DIR

``--peers`` holds ``peers.py`` with the authors' network (not part of this project; it needs h5py
and scipy). Both run on the same crop, kernel, noise and threads, one after the other.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from protocol import blur_cases, print_table, psnr

from napari_dmsp.core import prepare_deblur


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    peers: Annotated[Path, typer.Option(help="Folder with peers.py and the authors' network.")],
    size: Annotated[int, typer.Option(help="Side of the observation in pixels.")] = 256,
    sigma: Annotated[float, typer.Option(help="Noise level, 0..255 scale.")] = 2.55,
    case: Annotated[int, typer.Option(help="Which of the 50 Berkeley cases.")] = 0,
    iterations: Annotated[int, typer.Option(help="Steps of the published descent.")] = 300,
    repeats: Annotated[
        int, typer.Option(help="Runs of the default solver; the median counts.")
    ] = 3,
) -> None:
    """Print PSNR and seconds of both, and the ratio."""
    sys.path.insert(0, str(peers))
    from peers import authors_dae, dmsp_reference

    chosen = list(blur_cases(data, "berkeley", sigma))[case]
    observed, truth = chosen.observed[:size, :size], chosen.truth[:size, :size]

    times, evaluations, curve = [], [], []
    for _ in range(repeats):
        # Everything counts: checks, noise estimate and every evaluation.
        begin = time.perf_counter()
        job = prepare_deblur(observed, chosen.psf, channel_axis=-1)
        curve = []
        for state in job.states():
            curve.append((time.perf_counter() - begin, psnr(state.array(), truth)))
        times.append(curve[-1][0])
        evaluations.append(state.evaluation)
    ours = curve[-1][1]

    y = torch.from_numpy(np.ascontiguousarray(observed / 255)).permute(2, 0, 1)[None]
    network = authors_dae()
    begin = time.perf_counter()
    estimate = dmsp_reference(
        y.float(), chosen.psf, network, None, iterations, generator=torch.Generator().manual_seed(0)
    )
    seconds = time.perf_counter() - begin
    theirs = psnr(estimate[0].permute(1, 2, 0).numpy() * 255, truth)

    reached = [t for t, score in curve if score >= theirs]
    to_theirs = reached[0] if reached else float("nan")
    rows = [
        ["published descent, authors' network", str(iterations), f"{theirs:.2f}", f"{seconds:.1f}"],
        ["ours, whole run", str(evaluations[-1]), f"{ours:.2f}", f"{np.median(times):.2f}"],
        ["ours, to their PSNR", str(len(curve) - len(reached) + 1), "", f"{to_theirs:.2f}"],
    ]
    header = ["noise-blind", "evals", "PSNR", "seconds"]
    title = f"{size} x {size} colour, sigma {sigma:g}, {torch.get_num_threads()} threads"
    print_table(title, header, rows)
    print(f"\nwhole run {seconds / np.median(times):.0f} x faster, ", end="")
    print(f"to their PSNR {seconds / to_theirs:.0f} x faster")


if __name__ == "__main__":
    typer.run(main)
