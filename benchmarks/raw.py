"""Demosaicing of raw frames that are made from photographs, whose light is known.

python benchmarks/raw.py --data DIR [--subset N] [--csv FILE]  (needs colour-demosaicing)

Photographs become light by the inverse of sRGB's curve and are reduced by means of 4 x 4 pixels, so
that no trace of their own mosaic, noise and compression is left. The sensor sees less red and blue
than green; its electrons obey Poisson's law, and reading them adds Gaussian noise. Counts have 12
bits and a level of black. Scores are of colours under sRGB's curve, which all methods get after
they are done. Malvar and Menon are given levels and white balance; ours is told the pattern only,
or levels and noise as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import typer
from methods import Method, Outcome
from numpy.typing import NDArray
from protocol import Array, Case, filter_array, spread
from report import Row, report
from skimage import io
from tables import measure

from napari_dmsp import demosaic
from napari_dmsp.settings import Photons

# Folders of photographs.
SETS = {"mcm18": "eval/mcm18", "samples": "samples"}
REDUCTION = 4
PATTERN = "RGGB"
BLACK, WHITE = 256, 4095
# What the sensor sees of red, green and blue.
SENSOR = np.array([0.5, 1.0, 0.65])
# Electrons at white, None for no noise, and of the noise of reading.
ELECTRONS = {"no noise": None, "8000 e": 8000, "2500 e": 2500, "800 e": 800}
READ = 3.0

Light = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class RawCase(Case):
    """Counts (H, W) of a sensor; the truth is under sRGB's curve, on the 0..255 scale."""

    border: ClassVar[int] = 10
    noise: Photons | None


def to_light(image: NDArray[Any]) -> Light:
    """Undo the curve of sRGB, of 8 bits."""
    x = image / 255
    return np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)


def to_display(light: Light) -> Array:
    """Apply the curve of sRGB, to the 0..255 scale."""
    x = light.clip(0, 1)
    curved = 1.055 * x.clip(0.0031308) ** (1 / 2.4) - 0.055
    return (255 * np.where(x > 0.0031308, curved, 12.92 * x)).astype(np.float32)


def shrink(light: Light) -> Light:
    """Take means of blocks."""
    height, width = (n // REDUCTION * REDUCTION for n in light.shape[:2])
    blocks = light[:height, :width].reshape(
        height // REDUCTION, REDUCTION, width // REDUCTION, REDUCTION, 3
    )
    return blocks.mean((1, 3))


def expose(light: Light, electrons: int | None, seed: int) -> tuple[NDArray[np.uint16], Photons]:
    """Return the counts of a sensor, and the noise in their units."""
    seen = (light * SENSOR * filter_array(PATTERN, light.shape)).sum(-1)
    gain, read = 0.0, 0.0
    if electrons is not None:
        random = np.random.default_rng(seed)
        seen = (random.poisson(electrons * seen) + random.normal(0, READ, seen.shape)) / electrons
        gain, read = (WHITE - BLACK) / electrons, READ * (WHITE - BLACK) / electrons
    counts = np.rint(BLACK + (WHITE - BLACK) * seen).clip(0, WHITE).astype(np.uint16)
    return counts, Photons(gain, BLACK, read) if gain else None


def raw_cases(data: Path, name: str, condition: str, subset: int | None) -> list[RawCase]:
    """Raw frames of all photographs of a set, seeded."""
    files = sorted((data / SETS[name]).glob("*.png"))
    cases = []
    for seed, file in spread(list(enumerate(files, 1)), subset):
        light = shrink(to_light(io.imread(file)[..., :3]))
        counts, noise = expose(light, ELECTRONS[condition], seed)
        cases.append(RawCase(name=file.stem, observed=counts, truth=to_display(light), noise=noise))
    return cases


def methods() -> Iterator[Method]:
    """Two usual methods, and ours."""
    with warnings.catch_warnings(action="ignore"):
        from colour_demosaicing import (
            demosaicing_CFA_Bayer_Malvar2004,
            demosaicing_CFA_Bayer_Menon2007,
        )
    yield Method("Malvar", usual(demosaicing_CFA_Bayer_Malvar2004))
    yield Method("Menon", usual(demosaicing_CFA_Bayer_Menon2007))
    yield Method("ours, blind", lambda case: ours(case))
    yield Method("ours, all known", lambda case: ours(case, **known(case)))


def usual(interpolate: Callable[..., Light]) -> Callable[[RawCase], Outcome]:
    """Interpolate balanced light."""

    def run(case: RawCase) -> Outcome:
        gains = (filter_array(PATTERN, case.truth.shape) / SENSOR).sum(-1)
        light = (case.observed - float(BLACK)) / (WHITE - BLACK) * gains
        return Outcome(to_display(interpolate(light, PATTERN)))

    return run


def known(case: RawCase) -> dict[str, Any]:
    """Return what may be told of a frame; without noise, counts are rounded all the same."""
    noise = 12**-0.5 if case.noise is None else case.noise
    return {"background": BLACK, "white": WHITE, "linear": True, "noise": noise}


def ours(case: RawCase, **options: Any) -> Outcome:
    """Demosaic counts, by default with nothing but their pattern."""
    result = demosaic(case.observed, PATTERN, **options)
    light = (result.image.astype(float) - BLACK) / (WHITE - BLACK) / SENSOR
    return Outcome(to_display(light), result.evaluations, result.noise_sigma)


def rows(data: Path, sets: list[str], conditions: list[str], subset: int | None) -> Iterator[Row]:
    """Every photograph of every set and noise."""
    for name in sets:
        for condition in conditions:
            place = {"table": "Raw frames", "set": name, "condition": condition}
            yield from measure(place, raw_cases(data, name, condition, subset), list(methods()))


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help=f"{', '.join(SETS)}.")] = None,
    conditions: Annotated[
        list[str] | None, typer.Option("--noise", help=f"{', '.join(ELECTRONS)} at white.")
    ] = None,
    subset: Annotated[int | None, typer.Option(min=1, help="Images a set, spread evenly.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for all rows.")] = None,
) -> None:
    """Print mean PSNR and SSIM of every set and noise."""
    report(rows(data, sets or list(SETS), conditions or list(ELECTRONS), subset), csv)


if __name__ == "__main__":
    typer.run(main)
