"""Whether the error map says what the error is: coverage, and predicted beside true errors.

python benchmarks/uncertainty.py --data DIR [--task deblur] [--calibrate]

Every task restores simulated observations with ``uncertainty=True``, noise unknown. Printed are the
share of pixels whose error is at most one and two of the predicted standard deviations, and for the
pixels of each tenth of the predictions the true over the predicted error (root mean squares).
``--calibrate`` takes other images, and prints by how much the predictions, and so
``Schedule.error_factor`` and ``error_floor`` of the task, would have to be multiplied for two
standard deviations to hold 95.5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import microscopy
import numpy as np
import typer
import volumes
from numpy.typing import NDArray
from protocol import Array, bicubic, denoising_images, filter_array, print_table

from napari_dmsp import Restoration, deblur, demosaic, superres
from napari_dmsp.core.psf import gaussian_psf, motion_psf
from napari_dmsp.core.simulate import simulate_blur

SIDE, IMAGES = 192, 8
# Share of a normal distribution within two standard deviations.
TWO_SIGMA = 0.9545


class Outcome(NamedTuple):
    """An error and its prediction, both of the shape of the truth."""

    error: NDArray[Any]
    predicted: NDArray[Any]


def photographs(data: Path, calibrate: bool) -> Iterator[Array]:
    """Crops of CBSD68; those to calibrate with are others than those that are reported."""
    every = 68 // (2 * IMAGES)
    for index, image in enumerate(denoising_images(data, 3)):
        if index % every == 0 and (index // every) % 2 == calibrate:
            rows, columns = ((n - SIDE) // 2 for n in image.shape[:2])
            yield image[rows : rows + SIDE, columns : columns + SIDE]


def outcome(result: Restoration, truth: Array) -> Outcome:
    """Compare a result with the truth."""
    assert result.error is not None
    return Outcome(np.abs(result.image - truth), result.error)


def deblurring(data: Path, calibrate: bool) -> Iterator[Outcome]:
    """Gaussian and motion blur, two levels of noise."""
    for index, image in enumerate(photographs(data, calibrate)):
        psf = gaussian_psf(1.6) if index % 2 else motion_psf(11, 30)
        observed, truth = simulate_blur(image, psf, (2.55, 7.65)[index // 2 % 2], seed=index)
        yield outcome(deblur(observed, psf, channel_axis=-1, uncertainty=True), truth)


def enlarging(data: Path, calibrate: bool) -> Iterator[Outcome]:
    """Bicubic reduction by 2 and 3, rounded."""
    for index, image in enumerate(photographs(data, calibrate)):
        scale = 2 + index % 2
        small = np.clip(np.rint(bicubic(image, (SIDE // scale, SIDE // scale))), 0, 255)
        yield outcome(superres(small, scale, channel_axis=-1, uncertainty=True), image)


def demosaicking(data: Path, calibrate: bool) -> Iterator[Outcome]:
    """RGGB, without noise and with a level of 5."""
    for index, image in enumerate(photographs(data, calibrate)):
        noise = np.random.default_rng(index).normal(0, 5 * (index % 2), image.shape[:2])
        mosaic = (image * filter_array("RGGB", image.shape)).sum(-1) + noise
        levels = {"background": 0, "white": 255, "linear": False}
        yield outcome(demosaic(mosaic.astype(np.float32), uncertainty=True, **levels), image)


def fluorescence(data: Path, calibrate: bool) -> Iterator[Outcome]:
    """Nuclei behind a Gaussian blur of 2 pixels; Gaussian noise, and photons."""
    name = "bbbc039" if calibrate else "dsb2018"
    for noise in (microscopy.GAUSSIAN, microscopy.POISSON):
        for case in microscopy.microscopy_cases(data, name, noise, IMAGES // 2):
            rows, columns = ((n - min(n, SIDE)) // 2 for n in case.truth.shape)
            part = np.s_[rows : rows + SIDE, columns : columns + SIDE]
            result = deblur(case.observed[part], case.psf, uncertainty=True)
            yield outcome(result, case.truth[part])


def stacks(data: Path, calibrate: bool) -> Iterator[Outcome]:
    """Simulated volumes of `volumes`: 200 and 20 photons, widefield and confocal."""
    seeds = (7, 8) if calibrate else (3, 11)
    for seed, kind, photons in product(seeds, ("widefield", "confocal"), (200, 20)):
        case = volumes.make_case(data, "structures", kind, "", photons, seed, 32, 31)
        yield outcome(deblur(case.observed, case.psf, uncertainty=True), case.truth)


TASKS: dict[str, Callable[[Path, bool], Iterator[Outcome]]] = {
    "deblur": deblurring,
    "superres": enlarging,
    "demosaic": demosaicking,
    "fluorescence": fluorescence,
    "volumes": stacks,
}


def describe(outcomes: Sequence[Outcome]) -> list[str]:
    """Return coverage, and the range of true over predicted errors in the tenths."""
    error = np.concatenate([each.error.ravel() for each in outcomes])
    predicted = np.concatenate([each.predicted.ravel() for each in outcomes])
    tenths = np.array_split(np.argsort(predicted), 10)
    ratios = [np.sqrt(np.mean(error[some] ** 2) / np.mean(predicted[some] ** 2)) for some in tenths]
    inside = [np.mean(error <= count * predicted) for count in (1, 2)]
    return [*(f"{share:.3f}" for share in inside), " ".join(f"{ratio:.2f}" for ratio in ratios)]


def change(outcomes: Sequence[Outcome]) -> float:
    """Return the factor with which two standard deviations hold what they should."""
    ratios = [each.error / np.maximum(each.predicted, 1e-9) for each in outcomes]
    return float(np.quantile(np.concatenate([r.ravel() for r in ratios]), TWO_SIGMA)) / 2


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    task: Annotated[list[str] | None, typer.Option(help=f"{', '.join(TASKS)}.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Find the factors.")] = False,
) -> None:
    """Measure the error maps."""
    rows = []
    for name in task or TASKS:
        outcomes = list(TASKS[name](data, calibrate))
        extra = [f"{change(outcomes):.3f}"] if calibrate else []
        rows.append([name, str(len(outcomes)), *describe(outcomes), *extra])
        print_table(
            "Error maps",
            ["task", "images", "1 sigma", "2 sigma", "true / predicted by tenths"]
            + ["factor times"] * calibrate,
            rows,
        )


if __name__ == "__main__":
    typer.run(main)
