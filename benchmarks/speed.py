"""What a restoration costs: seconds and memory, beside other methods and the paper's solver.

python benchmarks/speed.py --data DIR [--peers DIR] [--device cuda] [--csv FILE]
python benchmarks/speed.py --data DIR --part cost --megapixels 1 --threads 2 --all-tasks
python benchmarks/speed.py --data DIR --part memory --megapixels 16
python benchmarks/speed.py --data DIR --part race --peers DIR [--case N] [--size N]

cost: a photograph, mirrored up to the size, deblurred in colour with default settings, the noise
level unknown. ``--iterations N`` is for a quick look at the time of an evaluation: the median over
them, with all that comes between two. The network's part is that of the whole.
memory: the greatest in use at once, and before the restoration, beside our own estimate of the
difference. Without cost, a few evaluations show it. On a GPU, all of it is the GPU's memory.
peers: scikit-image on one grey image. Its functions assume something beyond the edge, and get the
image mirrored there; no method is scored near it.
race: the paper's solver and network, which is not part of this project (``--peers`` holds peers.py;
it needs h5py and scipy), against the default solver. Without ``--peers`` an untrained network of
the same size shows the time only.

Every run has a process of its own, so that threads and memory are its own too, and is preceded by
two evaluations of a small image. Scoring takes no part in the time. Where fewer cores were busy
than there are threads, other programs may have been.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self

import numpy as np
import torch
import typer
from methods import SGD_ITERATIONS, load_peers
from numpy.typing import NDArray
from protocol import Array, bicubic, blur_cases, filter_array, print_table, psnr
from report import MEASURED, Row, report
from skimage import io
from skimage.restoration import richardson_lucy, unsupervised_wiener
from torch import nn
from tqdm import tqdm

from napari_dmsp.core import prepare_deblur, prepare_demosaic, prepare_superres
from napari_dmsp.core.inputs import Reference, Units
from napari_dmsp.core.job import Job
from napari_dmsp.core.networks import DnCNN
from napari_dmsp.core.prior import Prior, load_prior
from napari_dmsp.core.psf import motion_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.training.data import LUMA
from napari_dmsp.windows import memory_bytes

COST, MEMORY, PEERS, RACE = "Cost", "Memory", "Peers", "Race"
MEGAPIXELS, THREADS = (0.25, 1.0, 4.0, 16.0), (1, 2)
NOISE = 2.55
# The first steps hold the most memory, and the third is like all others.
MEMORY_ITERATIONS = 3
# Pixels a side that peers see mirrored, and that no method is scored on: three times the reach of
# the PSF.
BORDER = 30
WARM_UP = 64
FILE = "case.npz"

app = typer.Typer(add_completion=False)


class Part(StrEnum):
    """What can be measured alone."""

    COST = "cost"
    MEMORY = "memory"
    PEERS = "peers"
    RACE = "race"


class Device(StrEnum):
    """Where to compute."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Run:
    """What a process is to do with the image in its folder.

    Attributes
    ----------
    method : str
        "annealed", "sgd" for the paper's solver, or one of `CLASSIC`.
    iterations : int, optional
        Evaluations; the default of the method by default.
    peers : str, optional
        Folder with the paper's network, for "sgd".
    curve : bool
        Whether to score every evaluation.
    """

    method: str = "annealed"
    task: str = "deblur"
    threads: int = 1
    device: str = "cpu"
    iterations: int | None = None
    peers: str | None = None
    border: int = 0
    curve: bool = False


@app.callback(invoke_without_command=True, help=__doc__)
def main(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Folder with the benchmark images.")
    ],
    parts: Annotated[
        list[Part] | None, typer.Option("--part", help="Only this; may be repeated.")
    ] = None,
    megapixels: Annotated[
        list[float] | None, typer.Option(help="Sizes of results; may be repeated.")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.CPU,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Evaluations, for a quick look at the cost of one.")
    ] = None,
    all_tasks: Annotated[
        bool, typer.Option("--all-tasks", help="Super-resolution and mosaics too.")
    ] = False,
    peers: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with peers.py, for the race."),
    ] = None,
    case: Annotated[int, typer.Option(help="Which of the 50 Berkeley cases, for the race.")] = 0,
    size: Annotated[
        int | None, typer.Option(help="Side of its crop in pixels; by default, all of it.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Of the paper's solver in the race.")
    ] = SGD_ITERATIONS,
    csv: Annotated[Path | None, typer.Option(help="File for all rows.")] = None,
) -> None:
    """Print tables of the chosen parts, all by default."""
    context.obj = data
    if context.invoked_subcommand is not None:
        return
    chosen = parts or list(Part)
    # On a GPU, the threads of the processor do next to nothing.
    counts = threads or (list(THREADS) if device == Device.CPU else [torch.get_num_threads()])
    runs = [Run(threads=n, device=device, iterations=iterations) for n in counts]

    def rows() -> Iterator[Row]:
        tasks = ("deblur", "superres", "demosaic") if all_tasks else ("deblur",)
        sizes = megapixels or list(MEGAPIXELS)
        if Part.COST in chosen or Part.MEMORY in chosen:
            yield from costs(data, tasks, sizes, runs, chosen)
        if Part.PEERS in chosen:
            yield from classics(data, min(1.0, *sizes) if megapixels else 1.0, runs)
        if Part.RACE in chosen:
            yield from race(data, case, size, runs, steps, peers)

    report(rows(), csv, PRINTERS)


@app.command(hidden=True)
def single(context: typer.Context, settings: str) -> None:
    """Do one run, and print a line of JSON."""
    print(json.dumps(measure(context.obj, Run(**json.loads(settings)))))


def start(folder: Path, run: Run) -> Row:
    """Do a run in a process of its own."""
    command = [sys.executable, __file__, "--data", str(folder), "single", json.dumps(asdict(run))]
    environment = os.environ | {"OMP_NUM_THREADS": str(run.threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def stored(**arrays: NDArray[Any]) -> Iterator[Path]:
    """Write what processes need into a folder, as long as they do."""
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / FILE, **arrays)
        yield Path(folder)


def make_case(
    data: Path, task: str, megapixels: float, colour: bool = True
) -> dict[str, NDArray[Any]]:
    """Degrade a photograph, mirrored until the result has so many pixels."""
    photograph = io.imread(min((data / "eval" / "mcm18").glob("*.png")))[..., :3]
    image = photograph if colour else photograph @ LUMA
    side, psf = 2 * round(500 * megapixels**0.5), motion_psf(20, 30)
    extended = side + psf.shape[0] - 1 if task == "deblur" else side
    missing = [(0, max(extended - n, 0)) for n in image.shape[:2]]
    truth = np.pad(image, [*missing, (0, 0)][: image.ndim], "symmetric")[:extended, :extended]
    truth = truth.astype(np.float32)
    if task == "deblur":
        observed, truth = simulate_blur(truth, psf, NOISE)
        return {"observed": observed, "truth": truth, "psf": psf}
    if task == "superres":
        observed = bicubic(truth, (side // 2, side // 2))
    else:
        observed = (truth * filter_array("RGGB", truth.shape)).sum(-1)
    noise = np.random.default_rng(0).standard_normal(observed.shape, np.float32)
    return {"observed": observed + NOISE * noise, "truth": truth, "psf": psf}


def costs(
    data: Path, tasks: tuple[str, ...], sizes: list[float], runs: list[Run], chosen: list[Part]
) -> Iterator[Row]:
    """Measure seconds and memory, by task, size and threads."""
    found = []
    for task, megapixels in product(tasks, sizes):
        with stored(**make_case(data, task, megapixels)) as folder:
            for run in tqdm(runs, desc=f"{task}, {megapixels:g} MP", leave=False, disable=None):
                limit = run.iterations or (None if Part.COST in chosen else MEMORY_ITERATIONS)
                settings = asdict(run) | {"task": task, "iterations": limit}
                place = _place(f"{task}, {run.device}", megapixels, run)
                found.append(place | start(folder, Run(**settings)))
    for part, table in ((Part.COST, COST), (Part.MEMORY, MEMORY)):
        if part in chosen:
            yield from ({"table": table} | row for row in found)


def classics(data: Path, megapixels: float, runs: list[Run]) -> Iterator[Row]:
    """Measure what scikit-image has, and ours beside it."""
    with stored(**make_case(data, "deblur", megapixels, colour=False)) as folder:
        for run, method in product(runs, (*CLASSIC, "annealed")):
            chosen = Run(**asdict(run) | {"method": method, "border": BORDER})
            name = CLASSIC[method][0] if method in CLASSIC else "annealed NA, our prior"
            place = _place("deblur, grey", megapixels, run) | {"table": PEERS, "method": name}
            yield place | start(folder, chosen)


def race(
    data: Path, index: int, size: int | None, runs: list[Run], steps: int, peers: Path | None
) -> Iterator[Row]:
    """Measure the paper's solver, and when ours first reaches the PSNR of its result."""
    case = next(islice(blur_cases(data, "berkeley", NOISE), index, None))
    observed, truth = case.observed[:size, :size], case.truth[:size, :size]
    megapixels = observed.shape[0] * observed.shape[1] / 1e6
    with stored(observed=observed, truth=truth, psf=case.psf) as folder:
        for run in runs:
            place = _place(f"berkeley {case.name}, {run.device}", megapixels, run) | {"table": RACE}
            network = "an untrained network" if peers is None else "authors' network"
            settings = {"method": "sgd", "iterations": steps, "curve": peers is not None}
            paper = Run(**asdict(run) | settings | {"peers": peers and str(peers)})
            theirs = start(folder, paper)
            ours = start(folder, Run(**asdict(run) | {"curve": True}))
            curve, goal = ours.pop("curve"), theirs.get("psnr")
            theirs.pop("curve")
            seconds = theirs["seconds"]
            yield place | theirs | {"method": f"sgd NA, {network}", "ratio": 1.0}
            yield place | ours | {"ratio": seconds / ours["seconds"]}
            reached = (n for n, (_, score) in enumerate(curve) if goal and score >= goal)
            if (first := next(reached, None)) is not None:
                spent, score = curve[first]
                point = {"evaluations": first + 1, "seconds": spent, "psnr": score}
                name = "annealed NA, our prior, first as good"
                yield place | point | {"method": name, "ratio": seconds / spent}


def _place(name: str, megapixels: float, run: Run) -> Row:
    threads = f"{run.threads} {'thread' if run.threads == 1 else 'threads'}"
    return {
        "set": name,
        "condition": f"{megapixels:.2g} MP, {threads}",
        "method": "annealed NA, our prior",
        "source": MEASURED,
        "case": name,
        "cases": 1,
        "megapixels": megapixels,
        "threads": run.threads,
    }


class Stopwatch:
    """Add up the seconds between starts and stops, with all that a GPU was told to do."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._sums, self._begin = np.zeros(2), np.zeros(2)

    @property
    def seconds(self) -> float:
        """How much time has passed."""
        return float(self._sums[0])

    def row(self) -> Row:
        """Return the time, and how many cores were busy in it: fewer where others need them."""
        return {"seconds": self.seconds, "cores": float(self._sums[1] / self._sums[0])}

    def start(self) -> None:
        """Begin to count."""
        self._begin = self._now()

    def stop(self) -> None:
        """Add what has passed."""
        self._sums += self._now() - self._begin

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _now(self) -> NDArray[np.float64]:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])


def measure(folder: Path, run: Run) -> Row:
    """Do a run in this process."""
    with np.load(folder / FILE) as case:
        observed, psf = case["observed"], case["psf"]
    score = partial(_score, folder, run.border)
    if run.method in CLASSIC:
        return _measure_classic(run, observed, psf, score)
    prior = make_prior(run, observed.ndim == 3 or run.task == "demosaic")
    small = prepare(run, observed[:WARM_UP, :WARM_UP], psf, prior)
    for _ in islice(small.states(), 2):
        pass
    inner = time_network(prior.denoiser, run.device)
    before, watch = memory(run.device), Stopwatch(run.device)
    if run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with watch:
        job = prepare(run, observed, psf, prior)
    states, ends, curve = job.states(), [watch.seconds], []
    while True:
        with watch:
            following = next(states, None)
        if following is None:
            break
        state = following
        ends.append(watch.seconds)
        if run.curve:
            curve.append((watch.seconds, score(state.array())))
    with watch:
        image = state.array()
    tile = job.settings["tile"]
    row = watch.row() | {
        "evaluations": state.evaluation,
        "evaluation": float(np.median(np.diff(ends))),
        "network": inner.seconds / watch.seconds,
        "memory": memory(run.device, peak=True),
        "before": before,
        "estimate": memory_bytes(image.shape[:2], prior.channels or 3, tile),
        "noise_sigma": state.noise_sigma,
    }
    # Weights that nobody trained give no image.
    untrained = {} if run.method == "sgd" and run.peers is None else {"psnr": score(image)}
    return row | untrained | ({"curve": curve} if run.curve or run.method == "sgd" else {})


def _measure_classic(
    run: Run, observed: Array, psf: NDArray[Any], score: Callable[[Array], float]
) -> Row:
    watch, (_, restore) = Stopwatch("cpu"), CLASSIC[run.method]
    before = memory("cpu")
    with watch:
        image = restore(np.pad(observed / 255, BORDER, "symmetric"), psf)
        image = 255 * image[BORDER:-BORDER, BORDER:-BORDER]
    row = watch.row() | {"memory": memory("cpu", peak=True), "before": before}
    return row | {"psnr": score(image)}


def _score(folder: Path, border: int, image: Array) -> float:
    with np.load(folder / FILE) as case:
        return psnr(image, case["truth"], border)


def prepare(run: Run, observed: Array, psf: NDArray[Any], prior: Prior) -> Job:
    """Check the input, and get ready."""
    axis = -1 if observed.ndim == 3 else None
    options: dict[str, Any] = {"prior": prior, "device": run.device, "iterations": run.iterations}
    if run.method == "sgd":
        # The network knows one noise level only, on the scale of 8 bits.
        units = Units(0.0, 255.0, (0.0, 1.0), axis, planes=False)
        options |= {"method": "sgd", "reference": Reference(units)}
    if run.task == "superres":
        return prepare_superres(observed, 2, channel_axis=axis, **options)
    if run.task == "demosaic":
        return prepare_demosaic(observed, "RGGB", white=255, background=0, **options)
    return prepare_deblur(observed, psf, channel_axis=axis, **options)


def make_prior(run: Run, colour: bool) -> Prior:
    """Load what the method has by default."""
    if run.method != "sgd":
        return load_prior("rgb" if colour else "gray")
    peers = load_peers(run.peers and Path(run.peers))
    network = DnCNN() if peers is None else peers.authors_dae()
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Prior(network, type(network).__name__)


def time_network(network: nn.Module, device: str) -> Stopwatch:
    """Measure the time in a network, and in its copies on other devices."""
    watch = Stopwatch(device)
    # A copy has its own copy of a method's object, but not of what a function refers to.
    network.register_forward_pre_hook(lambda *_: watch.start())
    network.register_forward_hook(lambda *_: watch.stop())
    return watch


def memory(device: str, peak: bool = False) -> int:
    """Return the bytes in use, or the most that were."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    try:
        # Linux hands the peak that getrusage reports down to new processes.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:" if peak else "VmRSS:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_costs(title: str, rows: list[Row]) -> list[Row]:
    """Print seconds."""
    lines = [
        [
            r["condition"],
            f"{r['psnr']:.2f}",
            f"{r['evaluations']:g}",
            f"{r['seconds']:.2f}",
            f"{r['seconds'] / r['megapixels']:.2f}",
            f"{r['evaluation']:.4g}",
            f"{r['network']:.0%}",
            f"{r['cores']:.2f}",
        ]
        for r in rows
    ]
    header = ["measured", "PSNR", "evaluations", "s", "s/MP", "s/evaluation", "network", "cores"]
    print_table(title, header, lines)
    return []


def print_memory(title: str, rows: list[Row]) -> list[Row]:
    """Print memory."""
    lines = []
    for r in rows:
        figures = r["memory"], r["before"], r["memory"] - r["before"], r["estimate"]
        per_pixel = figures[2] / r["megapixels"] / 1e6
        lines.append([r["condition"], *(f"{v / 1e6:.0f}" for v in figures), f"{per_pixel:.0f}"])
    header = ["measured, MB", "greatest", "before", "difference", "estimate", "bytes/pixel"]
    print_table(title, header, lines)
    return []


def print_times(title: str, rows: list[Row]) -> list[Row]:
    """Print methods side by side."""
    lines = [
        [
            f"{r['condition']}: {r['method']}",
            f"{r['psnr']:.2f}" if "psnr" in r else "-",
            f"{r['evaluations']:g}" if "evaluations" in r else "-",
            f"{r['seconds']:.2f}",
            f"{r['cores']:.2f}" if "cores" in r else "-",
            f"{r['ratio']:.1f}" if "ratio" in r else "-",
        ]
        for r in rows
    ]
    print_table(title, ["measured", "PSNR", "evaluations", "s", "cores", "times faster"], lines)
    return []


PRINTERS = {COST: print_costs, MEMORY: print_memory, PEERS: print_times, RACE: print_times}
CLASSIC: dict[str, tuple[str, Callable[[Array, NDArray[Any]], Array]]] = {
    "richardson_lucy": (
        "scikit-image, Richardson-Lucy, 30 iterations",
        lambda image, psf: richardson_lucy(image.clip(0), psf, num_iter=30, clip=False),
    ),
    "unsupervised_wiener": (
        "scikit-image, unsupervised Wiener",
        lambda image, psf: unsupervised_wiener(image, psf, clip=False, rng=0)[0],
    ),
}


if __name__ == "__main__":
    app()
