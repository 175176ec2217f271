"""The paper's evaluation, ours measured beside its published rows.

python benchmarks/paper.py deblur --data DIR [--subset N]
python benchmarks/paper.py superres --data DIR [--subset N]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from protocol import bicubic, blur_cases, print_table, psnr, spread, superres_cases
from tqdm import tqdm

from napari_dmsp import deblur as restore
from napari_dmsp import superres as enlarge

app = typer.Typer(add_completion=False, help=__doc__)

# Table 2 of the paper (arXiv:1709.03749), PSNR in dB by data set and noise level.
PAPER = {
    ("levin", "NB"): {2.55: 29.68, 5.1: 29.45, 7.65: 28.95, 10.2: 28.29},
    ("levin", "NA"): {2.55: 32.57, 5.1: 30.21, 7.65: 29.00, 10.2: 28.23},
    ("berkeley", "NB"): {2.55: 25.69, 5.1: 24.45, 7.65: 23.60, 10.2: 22.99},
    ("berkeley", "NA"): {2.55: 26.00, 5.1: 24.47, 7.65: 23.61, 10.2: 22.97},
}
# Table 3 of the paper, RGB PSNR in dB by data set and scale.
PAPER_SUPERRES = {
    "set5": {2: 35.16, 3: 31.38, 4: 29.16, 5: 27.38},
    "set14": {2: 30.99, 3: 27.90, 4: 26.22, 5: 25.01},
}
SUPERRES_BORDER = 12


@app.callback()
def main() -> None:
    """The paper's evaluation."""


@app.command()
def deblur(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    subset: Annotated[int | None, typer.Option(help="Cases a set, spread evenly.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set")] = None,
    sigmas: Annotated[list[float] | None, typer.Option("--sigma")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method")] = None,
    rows_wanted: Annotated[list[str] | None, typer.Option("--row", help="NB, NA or both.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Evaluations, both solvers.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name or file of a prior.")] = None,
) -> None:
    """Table 2: known kernel, noise level known (NB) and unknown (NA)."""
    for name in sets or ["levin", "berkeley"]:
        rows = []
        for sigma in sigmas or [2.55, 5.1, 7.65, 10.2]:
            cases = spread(list(blur_cases(data, name, sigma)), subset)
            axis = -1 if cases[0].truth.ndim == 3 else None
            for method in methods or ["annealed", "sgd"]:
                for row in rows_wanted or ["NB", "NA"]:
                    scores, levels = [], []
                    begin = time.perf_counter()
                    for case in tqdm(cases, desc=f"{name} {sigma} {method} {row}", leave=False):
                        result = restore(
                            case.observed,
                            case.psf,
                            noise_sigma=sigma if row == "NB" else None,
                            channel_axis=axis,
                            method=method,
                            iterations=iterations,
                            prior=prior,
                        )
                        scores.append(psnr(result.image, case.truth))
                        levels.append(result.noise_sigma)
                    seconds = (time.perf_counter() - begin) / len(cases)
                    blurred = np.mean([psnr(c.observed, c.truth) for c in cases])
                    rows.append(
                        [
                            f"{sigma:g} {row} {method}",
                            f"{blurred:.2f}",
                            f"{np.mean(scores):.2f}",
                            f"{PAPER[name, row][sigma]:.2f}",
                            f"{np.mean(levels):.2f}",
                            str(result.evaluations),
                            f"{seconds:.1f}",
                        ]
                    )
        header = ["sigma", "blurred", "ours", "paper", "est. sigma", "evals", "s/image"]
        print_table(f"Table 2, {name}, {len(cases)} cases, PSNR in dB", header, rows)


@app.command()
def superres(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    subset: Annotated[int | None, typer.Option(help="Images a set, spread evenly.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set")] = None,
    scales: Annotated[list[int] | None, typer.Option("--scale")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise level told to the solver.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Evaluations.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name or file of a prior.")] = None,
) -> None:
    """Table 3: bicubic reduction without noise; the noise level is unknown by default."""
    for name in sets or ["set5", "set14"]:
        rows = []
        for scale in scales or [2, 3, 4, 5]:
            cases = spread(list(superres_cases(data, name, scale)), subset)
            scores, baseline = [], []
            begin = time.perf_counter()
            for case in tqdm(cases, desc=f"{name} x{scale}", leave=False):
                result = enlarge(
                    case.small,
                    scale,
                    noise_sigma=noise,
                    channel_axis=-1,
                    iterations=iterations,
                    prior=prior,
                )
                scores.append(psnr(result.image, case.truth, SUPERRES_BORDER))
                enlarged = bicubic(case.small, case.truth.shape)
                baseline.append(psnr(enlarged, case.truth, SUPERRES_BORDER))
            rows.append(
                [
                    f"x{scale}",
                    f"{np.mean(baseline):.2f}",
                    f"{np.mean(scores):.2f}",
                    f"{PAPER_SUPERRES[name][scale]:.2f}",
                    str(result.evaluations),
                    f"{(time.perf_counter() - begin) / len(cases):.1f}",
                ]
            )
        header = ["scale", "bicubic", "ours", "paper", "evals", "s/image"]
        print_table(f"Table 3, {name}, {len(cases)} images, RGB PSNR in dB", header, rows)


if __name__ == "__main__":
    app()
