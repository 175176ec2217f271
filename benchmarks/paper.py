"""The paper's evaluation: what is measured here beside what is published.

python benchmarks/paper.py deblur --data DIR [--subset N] [--peers DIR] [--csv FILE]
python benchmarks/paper.py superres --data DIR ...
python benchmarks/paper.py demosaic --data DIR ...  (needs colour-demosaicing)
python benchmarks/paper.py blind --data DIR ...
python benchmarks/paper.py picture --data DIR --picture FILE.png ...  (needs matplotlib)

Quoted figures say so. A folder given by --peers holds peers.py with published networks, which are
no part of this project (they need h5py and scipy); they are measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import published
import typer
from methods import Setup, load_peers
from protocol import PATTERNS, blur_cases
from report import FIGURE_3, read_cases, report
from tables import curves, error_ratios, figure3, table2, table3, table4

app = typer.Typer(add_completion=False, help=__doc__)


def one_of(*names: str) -> Callable[[list[str] | None], list[str] | None]:
    """Check the values of an option that may be given several times."""

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or []:
            if value not in names:
                raise typer.BadParameter(f"{value} is not one of {', '.join(names)}")
        return values

    return check


Data = Annotated[
    Path, typer.Option(exists=True, file_okay=False, help="Folder with the benchmark images.")
]
Subset = Annotated[int | None, typer.Option(min=1, help="Cases a set, spread evenly.")]
BlurSets = Annotated[
    list[str] | None,
    typer.Option("--set", callback=one_of(*published.DEBLUR), help="levin, berkeley."),
]
SuperresSets = Annotated[
    list[str] | None,
    typer.Option("--set", callback=one_of(*published.SUPERRES), help="set5, set14."),
]
Sigmas = Annotated[list[float] | None, typer.Option("--sigma", help="Noise, 0..255 scale.")]
Patterns = Annotated[
    list[str] | None,
    typer.Option("--pattern", callback=one_of(*PATTERNS), help=f"{', '.join(PATTERNS)}."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", callback=one_of("annealed", "sgd"), help="annealed, sgd."),
]
NoiseRows = Annotated[
    list[str] | None,
    typer.Option("--row", callback=one_of("NB", "NA"), help="NB: noise level told. NA: not."),
]
Iterations = Annotated[int | None, typer.Option(min=1, help="Evaluations, all solvers.")]
PriorName = Annotated[str | None, typer.Option(help="Name or file of a prior.")]
Peers = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder with peers.py: measured as well."),
]
Csv = Annotated[Path | None, typer.Option(help="File for all rows.")]
PsfSize = Annotated[int | None, typer.Option(help="Bound of the kernel's side.")]


@app.callback()
def main() -> None:
    """The paper's evaluation."""


@app.command()
def deblur(
    data: Data,
    subset: Subset = None,
    sets: BlurSets = None,
    sigmas: Sigmas = None,
    methods: Methods = None,
    rows: NoiseRows = None,
    iterations: Iterations = None,
    prior: PriorName = None,
    peers: Peers = None,
    peer_cases: Annotated[
        int, typer.Option(min=1, help="Cases a set for the peers that take minutes each.")
    ] = 1,
    csv: Csv = None,
) -> None:
    """Table 2: known kernel, noise level known (NB) and unknown (NA)."""
    setup = Setup(
        rows=tuple(rows or ["NB", "NA"]),
        methods=tuple(methods or ["annealed", "sgd"]),
        iterations=iterations,
        prior=prior,
        peers=load_peers(peers),
        peer_cases=peer_cases,
        subset=subset,
    )
    report(table2(data, sets or ["levin", "berkeley"], sigmas or published.SIGMAS, setup), csv)


@app.command()
def superres(
    data: Data,
    subset: Subset = None,
    sets: SuperresSets = None,
    scales: Annotated[list[int] | None, typer.Option("--scale")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise level told to the solver.")] = None,
    methods: Methods = None,
    iterations: Iterations = None,
    prior: PriorName = None,
    peers: Peers = None,
    csv: Csv = None,
) -> None:
    """Table 3: bicubic reduction without noise; the noise level is unknown by default."""
    setup = Setup(
        methods=tuple(methods or ["annealed"]),
        iterations=iterations,
        prior=prior,
        peers=load_peers(peers),
        subset=subset,
    )
    report(table3(data, sets or ["set5", "set14"], scales or published.SCALES, noise, setup), csv)


@app.command()
def demosaic(
    data: Data,
    subset: Subset = None,
    patterns: Patterns = None,
    sigmas: Sigmas = None,
    methods: Methods = None,
    rows: NoiseRows = None,
    iterations: Iterations = None,
    prior: PriorName = None,
    peers: Peers = None,
    csv: Csv = None,
) -> None:
    """Table 4 on McM: without noise (--sigma 0, the default) or with; level unknown (NA)."""
    setup = Setup(
        rows=tuple(rows or ["NA"]),
        methods=tuple(methods or ["annealed"]),
        iterations=iterations,
        prior=prior,
        peers=load_peers(peers),
        subset=subset,
    )
    report(table4(data, patterns or list(PATTERNS), sigmas or [0.0], setup), csv)


@app.command()
def blind(
    data: Data,
    subset: Subset = None,
    psf_size: PsfSize = 31,
    prior: PriorName = "gray",
    csv: Csv = None,
) -> None:
    """Figure 3: kernel and noise level unknown, on the 32 observations of Levin et al."""
    report(figure3(error_ratios(data, subset, psf_size, prior)), csv)


@app.command()
def picture(
    data: Data,
    file: Annotated[Path, typer.Option("--picture", help="PNG file to write.")],
    subset: Subset = None,
    psf_size: PsfSize = 31,
    blind_csv: Annotated[
        Path | None, typer.Option(help="What `blind --csv` measured, instead of a new run.")
    ] = None,
    case: Annotated[int, typer.Option(help="Which of the 50 Berkeley cases.")] = 0,
    sigma: Annotated[float, typer.Option(help="Its noise level, 0..255 scale.")] = 2.55,
    iterations: Iterations = None,
    prior: PriorName = None,
    peers: Peers = None,
    csv: Csv = None,
) -> None:
    """Draw Figure 3, and PSNR against evaluations on one Berkeley case."""
    from picture import draw

    if blind_csv is None:
        ratios = error_ratios(data, subset, psf_size, "gray")
    else:
        ratios = iter(read_cases(blind_csv, FIGURE_3))
    setup = Setup(
        methods=("sgd", "annealed"), iterations=iterations, prior=prior, peers=load_peers(peers)
    )
    chosen = next(islice(blur_cases(data, "berkeley", sigma), case, None))
    draw(report(chain(figure3(ratios), curves(chosen, setup)), csv), file)


if __name__ == "__main__":
    app()
