"""Deconvolution of fluorescence images with known truth: two priors beside the usual methods.

python benchmarks/microscopy.py --data DIR [--subset N] [--prior FILE] [--csv FILE]

The range of the truth, its 0.1 to 99.9 percentiles, becomes 0 to 1. It is blurred with a Gaussian
PSF of 2 pixels; then comes Gaussian noise of 2 % of the range, or Poisson noise with 200 photons at
its end and Gaussian noise of 1 %. Scores are of pixels that were observed, neither rounded nor
clipped. Our solver is told nothing of the noise. Richardson-Lucy stops where its PSNR is best, for
which it is shown the truth. It estimates the pixels beyond the edge as well, since they are in what
was observed; Wiener's filter sees the image mirrored at the edges, since it takes it for periodic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from methods import Method, Outcome
from numpy.typing import NDArray
from protocol import Array, BlurCase, spread
from report import MEASURED, Row, report
from scipy.signal import fftconvolve
from skimage import io
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import unsupervised_wiener
from tqdm import tqdm

from napari_dmsp import deblur
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.training.data import LUMA

SETS = ("bbbc039", "dsb2018", "hollow_bars")
PSF_SIGMA = 2.0
GAUSSIAN, POISSON = "Gaussian noise", "Poisson noise"
PHOTONS = 200
MOST_ITERATIONS = 100


def truths(data: Path, name: str) -> Iterator[tuple[str, Array]]:
    """Planes that show something, with their names."""
    for file in sorted((data / "eval" / "microscopy" / name).iterdir()):
        if name == "hollow_bars" and file.stem != "truth":
            continue
        image = io.imread(file)
        if name == "dsb2018" and image.ndim == 3:
            image = image[..., :3] @ LUMA
        for index, plane in enumerate(image if image.ndim == 3 else [image]):
            if plane.min() < plane.max():
                yield f"{file.stem} {index}", plane.astype(np.float32)


def microscopy_cases(
    data: Path, name: str, noise: str, subset: int | None = None
) -> Iterator[BlurCase]:
    """Blur and noise of all planes of a set, seeded."""
    psf = gaussian_psf(PSF_SIGMA)
    for seed, (label, plane) in spread(list(enumerate(truths(data, name))), subset):
        low, high = np.percentile(plane, [0.1, 99.9])
        blurred, truth = simulate_blur((plane - low) / (high - low), psf)
        random = np.random.default_rng(seed)
        if noise == POISSON:
            blurred = random.poisson(PHOTONS * blurred.clip(0)) / PHOTONS
        sigma = 0.01 if noise == POISSON else 0.02
        observed = blurred + random.normal(0, sigma, blurred.shape)
        yield BlurCase(name=label, observed=observed.astype(np.float32), truth=truth, psf=psf)


def richardson_lucy(observed: Array, psf: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Iterate, from a constant image; pixels beyond the edge are estimated, but not shown."""
    positive, turned = observed.clip(0), psf[::-1, ::-1]
    seen = fftconvolve(np.ones_like(positive), turned).clip(1e-3)
    x = np.full(seen.shape, positive.mean())
    frame = tuple(slice(k // 2, k // 2 + n) for k, n in zip(psf.shape, observed.shape, strict=True))
    for _ in range(MOST_ITERATIONS):
        ratio = positive / fftconvolve(x, psf, mode="valid").clip(1e-6)
        x = x * fftconvolve(ratio, turned).clip(0) / seen
        yield x[frame]


def best_richardson_lucy(case: BlurCase) -> Outcome:
    """Return the iterate of the best PSNR."""
    score = partial(peak_signal_noise_ratio, case.truth, data_range=1)
    best = max(enumerate(richardson_lucy(case.observed, case.psf), 1), key=lambda n: score(n[1]))
    return Outcome(best[1], best[0])


def wiener(case: BlurCase) -> Outcome:
    """Unsupervised, of the image mirrored to twice its size."""
    mirrored = np.pad(case.observed, [(0, n) for n in case.observed.shape], "symmetric")
    image, _ = unsupervised_wiener(mirrored, case.psf, clip=False, rng=0)
    return Outcome(image[: case.observed.shape[0], : case.observed.shape[1]])


def ours(prior: str) -> Callable[[BlurCase], Outcome]:
    """Deblur as by default, with a prior."""

    def run(case: BlurCase) -> Outcome:
        result = deblur(case.observed, case.psf, prior=prior)
        return Outcome(result.image, result.evaluations, result.noise_sigma)

    return run


def measure(place: Row, case: BlurCase, method: Method) -> Row:
    """Run a method on an image and score it on the range 1."""
    begin = time.perf_counter()
    outcome = method.run(case)
    seconds = time.perf_counter() - begin
    image = outcome.image.astype(np.float32)
    return place | {
        "method": method.name,
        "source": MEASURED,
        "case": case.name,
        "cases": 1,
        "seconds": seconds,
        "psnr": peak_signal_noise_ratio(case.truth, image, data_range=1),
        "ssim": structural_similarity(case.truth, image, data_range=1),
        "noise_sigma": outcome.noise_sigma,
        "evaluations": outcome.evaluations,
    }


def rows(data: Path, sets: list[str], subset: int | None, methods: list[Method]) -> Iterator[Row]:
    """Every image of every set, noise and method."""
    for name, noise in product(sets, (GAUSSIAN, POISSON)):
        place = {"table": "Microscopy", "set": name, "condition": noise}
        cases = list(microscopy_cases(data, name, noise, subset))
        for method in methods:
            title = f"{name} {noise} {method.name}"
            for case in tqdm(cases, desc=title, leave=False, disable=None):
                yield measure(place, case, method)


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help=f"{', '.join(SETS)}.")] = None,
    subset: Annotated[int | None, typer.Option(min=1, help="Images a set, spread evenly.")] = None,
    prior: Annotated[str, typer.Option(help="Name or file of the second prior.")] = "microscopy",
    csv: Annotated[Path | None, typer.Option(help="File for all rows.")] = None,
) -> None:
    """Print mean PSNR and SSIM of every set and noise."""
    methods = [
        Method("blurred", lambda case: Outcome(case.observed)),
        Method("Richardson-Lucy, best of 100", best_richardson_lucy),
        Method("unsupervised Wiener", wiener),
        *(Method(f"ours, {Path(p).stem}", ours(p)) for p in ("gray", prior)),
    ]
    report(rows(data, sets or list(SETS), subset, methods), csv)


if __name__ == "__main__":
    typer.run(main)
