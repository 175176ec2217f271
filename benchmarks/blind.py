"""Figure 3: kernel and noise level unknown, on the 32 observations of Levin et al.

python benchmarks/blind.py --data DIR
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from protocol import Array, print_table, spread

from napari_dmsp import deblur
from napari_dmsp.core import load_prior
from napari_dmsp.core.blind import iterate_blind

CUT, REACH = 15, 5
# Errors of the kernel are noise to the last restoration: the same level for both kernels.
NOISE = 2 / 255


def ssd(estimate: Array, truth: Array) -> float:
    """Least sum of squares over shifts up to 5 pixels in quarter steps, on the 0..255 scale."""
    height, width = truth.shape
    reference = truth[CUT:-CUT, CUT:-CUT]
    best = np.inf
    for down in np.arange(-REACH, REACH + 0.25, 0.25):
        for right in np.arange(-REACH, REACH + 0.25, 0.25):
            row, column = int(np.floor(down)), int(np.floor(right))
            window = estimate[CUT + row : height - CUT + row + 1, CUT + column :][
                :, : width - 2 * CUT + 1
            ]
            a, b = down - row, right - column
            window = (1 - a) * window[:-1] + a * window[1:]
            window = (1 - b) * window[:, :-1] + b * window[:, 1:]
            best = min(best, float(np.square(window - reference, dtype=np.float64).sum()))
    return best * 255**2


def find_kernel(y: Array, size: int | None, prior: str) -> NDArray[np.float32]:
    """Estimate the kernel of an observation."""
    tensor = torch.from_numpy(y)[None, None]
    generator = torch.Generator().manual_seed(0)
    *_, last = (s.psf for s in iterate_blind(tensor, size, load_prior(prior), generator=generator))
    return last.numpy()


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    subset: Annotated[int | None, typer.Option(help="Cases, spread evenly.")] = None,
    psf_size: Annotated[int | None, typer.Option(help="Bound of the kernel's side.")] = None,
    prior: Annotated[str, typer.Option(help="Name or file of a prior.")] = "gray",
) -> None:
    """Error ratio: SSD with the kernel found, over SSD with the true kernel, same solver."""
    files = spread(sorted((data / "eval" / "levin09").glob("im*_ker*.npz")), subset)
    rows, ratios = [], []
    for file in files:
        case = np.load(file)
        y, x = case["y"], case["x"]
        begin = time.perf_counter()
        psf = find_kernel(y, psf_size, prior)
        blind = ssd(deblur(y, psf, noise_sigma=NOISE, prior=prior).image, x)
        seconds = time.perf_counter() - begin
        true = ssd(deblur(y, np.rot90(case["f"], 2), noise_sigma=NOISE, prior=prior).image, x)
        ratios.append(blind / true)
        cells = [f"{v:.3g}" for v in (blind / 1e6, true / 1e6, ratios[-1], seconds)]
        print(file.stem, *cells, flush=True)
        rows.append([file.stem, *cells])
    print_table("Figure 3", ["case", "SSD/1e6", "true f", "ratio", "s"], rows)
    counts = ", ".join(f"{np.sum(np.array(ratios) < t)} below {t:g}" for t in (2, 3, 3.5))
    print(f"{len(ratios)} cases: {counts}; median {np.median(ratios):.2f}, worst {max(ratios):.2f}")


if __name__ == "__main__":
    typer.run(main)
