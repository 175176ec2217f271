"""Deconvolution of simulated stacks with known truth: ours beside the usual programs.

python benchmarks/volumes.py --quick [--data DIR]
python benchmarks/volumes.py --data DIR [--known] [--size 64] [--csv FILE] [--picture FILE]
python benchmarks/volumes.py --data DIR --scene pollen --psf confocal --photons 20 --seed 0 --wrong

A scene larger than the frame is blurred with a PSF of a microscope (NA 1.4, oil, 520 nm; confocal:
488 nm, one Airy unit) in voxels of 0.25 × 0.1 × 0.1 µm and cut to the frame, so that light from
without comes in and light from within gets lost. The brightest voxel then has so many photons, and
each 2 electrons of read noise. ``--wrong`` adds rows where the methods are given another PSF: NA
too low by 0.1, the immersion's index too high by 0.02, and one without the spherical aberration
of 5 µm of a sample of index 1.45. ``--quick`` takes three minutes: small frames, one seed, wrong
PSFs for shells only.

Scores: PSNR, where the peak is the 99.9th percentile of the truth, of the whole frame, of its inner
58 % a side, and of the rim around that. Intensities: the error of the sum over the frame, of the
mean over bright objects, which are all within 0.3 µm of where the truth is above half the peak, and
of the mean over those peaks alone. Methods that are not ours are shown the truth: the best of their
settings counts, for each column anew, after a common factor that fits best (the errors of
intensities are without it). Ours is told neither the noise nor the range.

Peers are measured where they can be imported:
pip install RedLionfish==0.10 sdeconv==1.0.4 (with --no-deps, they run without GPUs' libraries)
pip install ci-deconvolve==3.1.0 (Python 3.12; on 3.11 unpack its wheel and add it to PYTHONPATH)
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from protocol import print_table
from report import writing
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.restoration import richardson_lucy
from tifffile import imread

import napari_dmsp
from napari_dmsp.core.microscope import microscope_psf
from napari_dmsp.errors import DmspError

Volume = NDArray[np.float32]
Row = dict[str, Any]
VOXEL = (0.25, 0.1, 0.1)
OPTICS = {"na": 1.4, "wavelength": 0.52, "immersion_index": 1.515}
CONFOCAL = {"excitation_wavelength": 0.488, "pinhole": 1.0}
# Objects that are drawn, and how many in 2000 cubic micrometres where there are all three; alone,
# twice as many. Scenes that are measured need ``--data``.
DRAWN = {"shells": 10, "filaments": 30, "puncta": 60}
MEASURED = ("pollen", "bars")
READ_NOISE = 2.0
INNER = 0.58
# What is blurred with, and what the methods are told: changes of the optics.
WRONG: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "NA - 0.1": ({}, {"na": 1.3}),
    "index + 0.02": ({}, {"immersion_index": 1.535}),
    "aberration": ({"sample_index": 1.45, "depth": 5.0}, {}),
}
# Half sides of the box that is around a bright voxel, 0.25 to 0.3 µm.
AROUND = (1, 3, 3)
SCORES, INTENSITIES = ("whole", "inner", "rim"), ("sum_error", "bright_error", "peak_error")
FIELDS = (
    *("scene", "psf", "told", "photons", "seed", "method", "setting"),
    *(*SCORES, "fitted_whole", "fitted_inner", "fitted_rim", *INTENSITIES),
    "seconds",
)


@dataclass(frozen=True, eq=False)
class Case:
    """One observed stack, its truth in the frame, both in photons, and the PSF that is told."""

    scene: str
    kind: str
    told: str
    photons: int
    seed: int
    truth: Volume
    observed: Volume
    psf: Volume


@dataclass(frozen=True)
class Method:
    """A deconvolution (observed, psf, setting), and the settings that it is tried with."""

    name: str
    run: Callable[[Volume, Volume, Any], Any]
    settings: tuple[Any, ...] = (None,)
    ours: bool = False


def drawn(scene: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Draw shells with a faint content, bent filaments, puncta, or all of them ("structures").

    They are about 0.1 µm wide.
    """
    random = np.random.default_rng(seed)
    size = np.array(shape) * VOXEL
    volume = np.zeros(shape)
    grid = [np.arange(n) * d for n, d in zip(shape, VOXEL, strict=True)]
    many = float(np.prod(size)) / 2000

    def place(centre: NDArray[np.float64], reach: float) -> tuple[Any, NDArray[np.float64]]:
        """Give the window within reach of a point, and the offsets of its voxels (3, ...)."""
        window = tuple(
            slice(*np.searchsorted(g, (c - reach, c + reach)))
            for g, c in zip(grid, centre, strict=True)
        )
        axes = [g[w] - c for g, w, c in zip(grid, window, centre, strict=True)]
        return window, np.stack(np.meshgrid(*axes, indexing="ij"))

    def shell() -> None:
        radii = random.uniform(0.6, 2.0) * random.uniform(0.8, 1.25, 3)
        window, offset = place(random.uniform(0, size), 1.3 * radii.max())
        distance = (np.sqrt(((offset.T / radii) ** 2).sum(-1)).T - 1) * radii.mean()
        wall = random.uniform(0.3, 0.9) * np.exp(-((distance / 0.1) ** 2))
        volume[window] += wall + random.uniform(0.02, 0.25) / (1 + np.exp(distance / 0.05))

    def filament() -> None:
        point, direction = random.uniform(0, size), random.normal(size=3)
        height, bend = random.uniform(0.4, 1.0), random.uniform(0.05, 0.2)
        for _ in range(200):
            direction += bend * random.normal(size=3)
            direction /= np.linalg.norm(direction)
            point = point + 0.05 * direction
            window, offset = place(point, 0.35)
            dot = height * np.exp(-(offset**2).sum(0) / 0.1**2)
            volume[window] = np.maximum(volume[window], dot)

    def punctum() -> None:
        window, offset = place(random.uniform(0, size), 0.5)
        volume[window] += random.uniform(0.5, 1.5) * np.exp(-(offset**2).sum(0) / 0.12**2)

    for kind, draw_one in zip(DRAWN, (shell, filament, punctum), strict=True):
        share = {"structures": 1, kind: 2}.get(scene, 0)
        for _ in range(round(share * DRAWN[kind] * many)):
            draw_one()
    return volume


def measured(data: Path, name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Cut a part of a stack that is known; beyond its ends it is mirrored once, then empty."""
    folder = {"pollen": "pollen", "bars": "hollow_bars"}[name]
    volume = imread(data / "eval" / "microscopy" / folder / "truth.tif").astype(np.float64)
    random = np.random.default_rng(seed)
    if name == "pollen":
        # A part off the centre, along z as it is.
        starts = [
            0,
            *(
                int(random.integers(0, n - s + 1))
                for n, s in zip(volume.shape[1:], shape[1:], strict=True)
            ),
        ]
        volume = volume[tuple(slice(a, a + s) for a, s in zip(starts, shape, strict=True))]
    margins = [max(s - n, 0) for n, s in zip(volume.shape, shape, strict=True)]
    near = [min(m // 2, n - 1) for m, n in zip(margins, volume.shape, strict=True)]
    volume = np.pad(volume, [(n, n) for n in near], "reflect")
    rest = [s - n for n, s in zip(volume.shape, shape, strict=True)]
    return np.pad(volume, [(max(r, 0) // 2, max(r, 0) - max(r, 0) // 2) for r in rest])[
        tuple(slice(s) for s in shape)
    ]


def blur(scene: NDArray[np.float64], psf: NDArray[Any]) -> NDArray[np.float64]:
    """Convolve and keep what depends on nothing beyond the scene."""
    fast = [next_fast_len(n, True) for n in scene.shape]
    product_ = rfftn(scene, fast) * rfftn(psf.astype(np.float64), fast)
    valid = tuple(slice(k - 1, n) for k, n in zip(psf.shape, scene.shape, strict=True))
    return irfftn(product_, fast)[valid]


def make_psf(kind: str, side: int, change: dict[str, float]) -> Volume:
    """Compute the PSF of one of the microscopes, on its whole cube of voxels."""
    extra = CONFOCAL if kind == "confocal" else {}
    psf = microscope_psf(
        kind, voxel_size=VOXEL, shape=(side, side, side), **(OPTICS | extra | change)
    )
    return psf.values


def make_case(
    data: Path | None,
    scene: str,
    kind: str,
    told: str,
    photons: int,
    seed: int,
    size: int,
    side: int,
) -> Case:
    """Simulate one observation."""
    world, given = WRONG.get(told, ({}, {}))
    shape = (size + side - 1,) * 3
    if scene in MEASURED:
        if data is None:
            raise SystemExit(f"The scene {scene} needs --data.")
        whole = measured(data, scene, shape, seed)
    else:
        whole = drawn(scene, shape, seed)
    blurred = blur(whole, make_psf(kind, side, world)).clip(0)
    scale = photons / blurred.max()
    random = np.random.default_rng(1000 + seed)
    observed = random.poisson(blurred * scale) + random.normal(0, READ_NOISE, blurred.shape)
    truth = whole[(slice(side // 2, side // 2 + size),) * 3] * scale
    return Case(
        scene,
        kind,
        told,
        photons,
        seed,
        truth.astype(np.float32),
        observed.astype(np.float32),
        make_psf(kind, side, given),
    )


def positive(observed: Volume) -> Volume:
    """What Poisson's methods can take."""
    return np.clip(observed, 1e-3, None)


def peers() -> Iterator[Method]:
    """Those that can be imported, each with a range of settings around its best."""
    counts = (5, 10, 20, 40, 80)
    yield Method("observed", lambda y, k, _: y)
    yield Method(
        "Gaussian blur",
        lambda y, k, width: gaussian_filter(y, (width * VOXEL[1] / VOXEL[0], width, width)),
        (0.7, 1.0, 1.5, 2.0, 3.0),
    )
    yield Method(
        "scikit-image RL",
        lambda y, k, n: richardson_lucy(positive(y) / y.max(), k, n, clip=False) * y.max(),
        counts,
    )
    if module := optional("RedLionfishDeconv"):
        yield Method(
            "RedLionfish",
            lambda y, k, n: module.doRLDeconvolutionFromNpArrays(
                positive(y), k, niter=n, method="cpu"
            ),
            counts,
        )
    if importlib.util.find_spec("torchvision") is None:
        # Only a network of sdeconv's, which is not measured, needs it.
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].v2 = types.SimpleNamespace(Transform=object)
    if sdeconv := optional("sdeconv.deconv"):
        yield Method(
            "sdeconv RL",
            lambda y, k, n: sdeconv.SRichardsonLucy(*padded(y, k), n, pads(y))(tensor(y)).numpy(),
            counts,
        )
        yield Method(
            "sdeconv Wiener",
            lambda y, k, b: sdeconv.SWiener(*padded(y, k), b, pads(y))(tensor(y)).numpy(),
            (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        )
    if ci := optional("core.deconvolve_ci"):
        fixed = {"convergence": "fixed", "background": 0.0, "offset": 0.0, "device": "cpu"}
        yield Method(
            "ci-deconvolve",
            lambda y, k, n: ci.ci_rl_deconvolve(
                positive(y), k, **({"niter": n, **fixed} if n else {"device": "cpu"})
            )["result"],
            (None, 5, 10, 20, 40),
        )


def optional(name: str) -> Any:
    """Import a peer, or say that it is left out."""
    try:
        with quiet():
            return importlib.import_module(name)
    except Exception as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def tensor(observed: Volume) -> torch.Tensor:
    """Return what sdeconv takes."""
    return torch.from_numpy(positive(observed))


def padded(observed: Volume, psf: Volume) -> tuple[torch.Tensor]:
    """Put the PSF into the middle of a frame of the observation's shape."""
    room = np.zeros(observed.shape, np.float32)
    cuts = tuple(
        slice(max(k - n, 0) // 2, max(k - n, 0) // 2 + min(k, n))
        for k, n in zip(psf.shape, room.shape, strict=True)
    )
    part = psf[cuts]
    room[
        tuple(
            slice(n // 2 - k // 2, n // 2 - k // 2 + k)
            for n, k in zip(room.shape, part.shape, strict=True)
        )
    ] = part
    return (torch.from_numpy(room),)


def pads(observed: Volume) -> tuple[int, ...]:
    """Mirror so many voxels at each end, as sdeconv's examples do."""
    return tuple(min(13, n - 1) for n in observed.shape)


def ours(prior: str | None, known: bool) -> Method:
    """Our own, which is told nothing but what `known` noise is."""
    told = {"noise": napari_dmsp.Photons(1.0, 0.0, READ_NOISE), "background": 0.0} if known else {}

    def run(observed: Volume, psf: Volume, _: None) -> Any:
        try:
            return napari_dmsp.deblur(observed, psf, prior=prior, **told).image
        except DmspError as error:
            raise SystemExit(
                f"This version of napari-dmsp does not restore volumes: {error}"
            ) from None

    return Method("ours", run, ours=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence programs that print as they go."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def score(case: Case, image: NDArray[Any]) -> dict[str, float]:
    """PSNR in each part of the frame, as it is and with the best factor; errors of intensities."""
    truth = case.truth.astype(np.float64)
    image = np.nan_to_num(np.asarray(image, np.float64))
    peak = np.percentile(truth, 99.9)
    inner = np.zeros(truth.shape, bool)
    inner[
        tuple(
            slice(round(n * (1 - INNER) / 2), n - round(n * (1 - INNER) / 2)) for n in truth.shape
        )
    ] = True
    parts = {"whole": np.ones_like(inner), "inner": inner, "rim": ~inner}
    factor = float((image * truth).sum() / max(float((image**2).sum()), 1e-30))
    peaks = truth > peak / 2
    bright = binary_dilation(peaks, np.ones([2 * n + 1 for n in AROUND]))
    found = {}
    for prefix, f in (("", 1.0), ("fitted_", factor)):
        for name, part in parts.items():
            error = float(np.mean((f * image[part] - truth[part]) ** 2))
            found[prefix + name] = 10 * np.log10(peak**2 / max(error, 1e-30))
    found["sum_error"] = float(image.sum() / truth.sum() - 1)
    for name, part in (("bright_error", bright), ("peak_error", peaks)):
        found[name] = float(image[part].mean() / truth[part].mean() - 1)
    return found


def measure(case: Case, methods: list[Method], keep: dict[str, Any]) -> Iterator[Row]:
    """Run every method with every setting; ``keep`` gets the best image of each."""
    for method in methods:
        best = -np.inf
        for setting in method.settings:
            start = time.perf_counter()
            with quiet():
                image = method.run(case.observed, case.psf, setting)
            seconds = time.perf_counter() - start
            row = score(case, image) | {"method": method.name, "setting": setting}
            row |= {"scene": case.scene, "psf": case.kind, "told": case.told, "seconds": seconds}
            row |= {"photons": case.photons, "seed": case.seed}
            if row["fitted_whole"] > best:
                best, keep[method.name] = row["fitted_whole"], np.asarray(image)
            yield row


def best_of(rows: list[Row], own: bool) -> list[dict[str, float]]:
    """One row for each case: the best setting of each column; intensities of the best whole."""
    found = []
    for _, group in groupby(sorted(rows, key=_case), _case):
        tries = list(group)
        prefix = "" if own else "fitted_"
        best = {s: max(t[prefix + s] for t in tries) for s in SCORES}
        chosen = max(tries, key=lambda t: t[prefix + "whole"])
        found.append(best | {k: chosen[k] for k in (*INTENSITIES, "seconds")})
    return found


def _case(row: Row) -> tuple[str, ...]:
    return tuple(str(row[k]) for k in ("scene", "psf", "told", "photons", "seed"))


def tables(rows: list[Row], own: set[str]) -> None:
    """Print means over scenes, microscopes and seeds for each number of photons and told PSF.

    Then what ours is better by than the best of the others, case by case: mean and least.
    """
    others = {r["method"] for r in rows} - own - {"observed"}
    for told, photons in dict.fromkeys((r["told"], r["photons"]) for r in rows):
        part = [r for r in rows if (r["told"], r["photons"]) == (told, photons)]
        lines = [
            _line(name, best_of([r for r in part if r["method"] == name], name in own))
            for name in dict.fromkeys(r["method"] for r in part)
        ]
        header = ["", *SCORES, "sum", "bright", "peaks", "s", "cases"]
        print_table(f"PSF {told}, {photons} photons, PSNR in dB, errors, seconds", header, lines)
        if not own or not others:
            continue
        lines = []
        for scene, psf in [*dict.fromkeys((r["scene"], r["psf"]) for r in part), ("all", "")]:
            here = [r for r in part if scene == "all" or (r["scene"], r["psf"]) == (scene, psf)]
            ours_ = best_of([r for r in here if r["method"] in own], True)
            best = best_of([r for r in here if r["method"] in others], False)
            gain = {s: [a[s] - b[s] for a, b in zip(ours_, best, strict=True)] for s in SCORES}
            lines.append(
                [
                    f"{scene} {psf}",
                    *(f"{np.mean([b[s] for b in best]):.2f}" for s in SCORES),
                    *(f"{np.mean([a[s] for a in ours_]):.2f}" for s in SCORES),
                    *(f"{np.mean(gain[s]):+.2f}" for s in SCORES),
                    f"{min(gain['whole']):+.2f}",
                ]
            )
        header = ["", *SCORES, *(f"ours {s}" for s in SCORES), *(f"+ {s}" for s in SCORES), "least"]
        print_table(f"PSF {told}, {photons} photons: best of the others, ours", header, lines)


def _line(name: str, cases: list[dict[str, float]]) -> list[str]:
    """Means of one method."""
    mean = {k: np.mean([c[k] for c in cases]) for k in (*SCORES, "seconds")}
    errors = [np.mean(np.abs([c[k] for c in cases])) for k in INTENSITIES]
    return [
        name,
        *(f"{mean[s]:.2f}" for s in SCORES),
        *(f"{100 * e:.1f} %" for e in errors),
        f"{mean['seconds']:.1f}",
        str(len(cases)),
    ]


def draw(case: Case, images: dict[str, Any], file: Path) -> None:
    """Draw xz and yz cuts, where the truth is brightest, of the truth and of every result."""
    shown = {"truth": case.truth} | images
    figure = Figure(figsize=(2.2 * len(shown), 5), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    peak = float(np.percentile(case.truth, 99.9))
    row, across = (int(case.truth.sum(axis).argmax()) for axis in ((0, 2), (0, 1)))
    for column, (name, image) in zip(axes.T, shown.items(), strict=True):
        for ax, cut, label in zip(
            column, (image[:, row, :], image[:, :, across]), ("xz", "yz"), strict=True
        ):
            ax.imshow(cut, "gray", vmin=0, vmax=peak, aspect=VOXEL[0] / VOXEL[1])
            ax.set(xticks=[], yticks=[], title=f"{name}, {label}")
    figure.savefig(file, dpi=150)


def plan(scenes: tuple[str, ...], wrong: bool, quick: bool) -> Iterator[tuple[str, str]]:
    """Yield what the methods are told of the PSF, and of which scene."""
    for told in ("exact", *(WRONG if wrong or quick else ())):
        yield from ((told, s) for s in (scenes[:1] if quick and told != "exact" else scenes))


def main(
    data: Annotated[Path | None, typer.Option(help="Folder with measured scenes.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Three minutes.")] = False,
    own: Annotated[bool, typer.Option("--ours/--no-ours", help="Run napari_dmsp.")] = True,
    peer: Annotated[bool, typer.Option("--peers/--no-peers", help="Run the others.")] = True,
    wrong: Annotated[bool, typer.Option("--wrong", help="Tell wrong PSFs as well.")] = False,
    scene: Annotated[list[str] | None, typer.Option(help="Of the scenes, or structures.")] = None,
    psf: Annotated[list[str] | None, typer.Option(help="widefield, confocal or both.")] = None,
    photons: Annotated[list[int] | None, typer.Option(help="In the brightest voxel.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of scene and noise.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the frame, 64 voxels.")] = None,
    psf_side: Annotated[int | None, typer.Option(help="Side of the PSF, 31 voxels, odd.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name or file of our prior.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Tell ours noise and ground.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Every run, one a row.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the first case's cuts.")] = None,
) -> None:
    """Measure, print tables of means, and write every row as it comes."""
    methods = [*(peers() if peer else ()), *([ours(prior, known)] if own else ())]
    if data is None and not scene:
        print("pollen and bars are left out: they need --data", file=sys.stderr)
    scenes = tuple(scene or (*DRAWN, *(MEASURED if data else ())))
    cases = product(
        plan(scenes, wrong, quick),
        photons or (200, 20),
        psf or ("widefield", "confocal"),
        seed or ((0,) if quick else (0, 1, 2)),
    )
    size, psf_side = size or (32 if quick else 64), psf_side or (23 if quick else 31)
    rows: list[Row] = []
    with writing(csv_file, FIELDS) as write:
        for number, ((told, name), light, kind, s) in enumerate(cases):
            case = make_case(data, name, kind, told, light, s, size, psf_side)
            images: dict[str, Any] = {}
            for row in measure(case, methods, images):
                rows.append(row)
                write(row)
            if number == 0 and picture:
                draw(case, images, picture)
    tables(rows, {m.name for m in methods if m.ours})


if __name__ == "__main__":
    typer.run(main)
