"""The rows of each table: one dictionary for every figure quoted and every image measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import published
from methods import (
    Method,
    Setup,
    deblur_methods,
    demosaic_baseline,
    demosaic_methods,
    literal_descent,
    superres_methods,
)
from protocol import (
    BlurCase,
    Case,
    blur_cases,
    mosaic_cases,
    psnr,
    spread,
    ssd,
    ssim,
    superres_cases,
)
from report import ALL, CURVE, FIGURE_3, MEASURED, Row, below
from tqdm import tqdm

from napari_dmsp import deblur
from napari_dmsp.core import prepare_deblur


def table2(data: Path, sets: Sequence[str], sigmas: Sequence[float], setup: Setup) -> Iterator[Row]:
    """Deblurring, by noise level."""
    for name in sets:
        for sigma in sigmas:
            place = {"table": "Table 2", "set": name, "condition": f"{sigma:g}"}
            column = _column(published.DEBLUR[name], published.SIGMAS, sigma)
            yield from quote(place, published.PAPER, column)
        methods = list(deblur_methods(setup, colour=name == "berkeley"))
        for sigma in sigmas:
            place = {"table": "Table 2", "set": name, "condition": f"{sigma:g}"}
            cases = list(blur_cases(data, name, sigma, setup.subset))
            yield from measure(place, cases, methods, setup.peer_cases)


def table3(
    data: Path, sets: Sequence[str], scales: Sequence[int], noise: float | None, setup: Setup
) -> Iterator[Row]:
    """Super-resolution, by scale."""
    methods = list(superres_methods(setup, noise))
    for name in sets:
        for scale in scales:
            place = {"table": "Table 3", "set": name, "condition": f"x{scale}"}
            column = _column(published.SUPERRES[name], published.SCALES, scale)
            yield from quote(place, published.PAPER, column)
        for scale in scales:
            place = {"table": "Table 3", "set": name, "condition": f"x{scale}"}
            yield from measure(
                place, list(superres_cases(data, name, scale, setup.subset)), methods
            )


def table4(
    data: Path, patterns: Sequence[str], sigmas: Sequence[float], setup: Setup
) -> Iterator[Row]:
    """Demosaicing, by pattern and noise level; the paper's own set for reference only."""
    place = {"table": "Table 4", "set": "panasonic", "condition": "RGGB, raw noise"}
    yield from quote(place, published.PAPER, published.PANASONIC)
    methods = list(demosaic_methods(setup))
    for pattern, sigma in product(patterns, sigmas):
        condition = f"{pattern}, noise {sigma:g}" if sigma else pattern
        place = {"table": "Table 4", "set": "mcm18", "condition": condition}
        if condition == "RGGB":
            yield from quote(place, published.DPIR, published.MCM)
        cases = list(mosaic_cases(data, pattern, sigma, setup.subset))
        yield from measure(place, cases, [demosaic_baseline(pattern), *methods])


def figure3(measured: Iterable[Row]) -> Iterator[Row]:
    """Error ratios with an unknown kernel, and what the paper's text says of its curve."""
    for threshold, images in published.BELOW.items():
        yield {
            "table": FIGURE_3,
            "set": "levin",
            "condition": below(threshold),
            "method": "Ours",
            "source": published.PAPER,
            "case": ALL,
            "cases": published.CASES["levin"],
            "images": images,
        }
    yield from measured


def error_ratios(data: Path, subset: int | None, psf_size: int | None, prior: str) -> Iterator[Row]:
    """Figure 3, measured."""
    files = spread(sorted((data / "eval" / "levin09").glob("im*_ker*.npz")), subset)
    for file in tqdm(files, desc="blind", leave=False, disable=None):
        yield error_ratio(file, psf_size, prior)


def error_ratio(file: Path, psf_size: int | None, prior: str) -> Row:
    """SSD with the kernel found, over SSD with the true kernel: noise level unknown in both."""
    observation = np.load(file)
    y, truth = observation["y"], observation["x"]
    found = deblur(y, psf_size=psf_size, prior=prior)
    true = deblur(y, np.rot90(observation["f"], 2), prior=prior)
    return {
        "table": FIGURE_3,
        "set": "levin",
        "condition": "kernel unknown",
        "method": "annealed, our prior",
        "source": MEASURED,
        "case": file.stem,
        "cases": 1,
        "ratio": ssd(found.image, truth) / ssd(true.image, truth),
        "evaluations": found.evaluations,
        "seconds": found.seconds,
    }


def curves(case: BlurCase, setup: Setup) -> Iterator[Row]:
    """PSNR after every evaluation, noise level unknown: the paper's solver and ours."""
    place = {
        "table": CURVE,
        "set": f"berkeley {case.name}, noise {case.noise_sigma:g}",
        "condition": f"{case.noise_sigma:g}",
        "source": MEASURED,
        "case": case.name,
        "cases": 1,
    }
    for method in setup.methods:
        job = prepare_deblur(
            case.observed,
            case.psf,
            channel_axis=-1,
            method=method,
            iterations=setup.iterations,
            prior=setup.prior,
        )
        name = f"{method} NA, our prior"
        for state in tqdm(job.states(), desc=name, total=job.total, leave=False, disable=None):
            score = psnr(state.array(), case.truth)
            yield place | {"method": name, "evaluations": state.evaluation, "psnr": score}
    if setup.peers is not None:
        peer = literal_descent(setup, "NA")
        outcome = peer.run(case)
        score = psnr(outcome.image, case.truth)
        yield place | {"method": peer.name, "evaluations": outcome.evaluations, "psnr": score}


def quote(place: Row, source: str, figures: dict[str, float]) -> Iterator[Row]:
    """Published PSNRs by method."""
    for method, figure in figures.items():
        yield place | {
            "method": method,
            "source": source,
            "case": ALL,
            "cases": published.CASES[place["set"]],
            "psnr": figure,
        }


def measure(
    place: Row, cases: Sequence[Case], methods: Sequence[Method], peer_cases: int = 1
) -> Iterator[Row]:
    """Run methods over cases, slow ones over a few of them."""
    for method in methods:
        chosen = spread(list(cases), peer_cases if method.slow else None)
        name = f"{place['set']} {place['condition']} {method.name}"
        for case in tqdm(chosen, desc=name, leave=False, disable=None):
            begin = time.perf_counter()
            outcome = method.run(case)
            yield place | {
                "method": method.name,
                "source": MEASURED,
                "case": case.name,
                "cases": 1,
                "seconds": time.perf_counter() - begin,
                "psnr": psnr(outcome.image, case.truth, case.border),
                "ssim": ssim(outcome.image, case.truth, case.border),
                "noise_sigma": outcome.noise_sigma,
                "evaluations": outcome.evaluations,
            }


def _column(
    table: dict[str, tuple[float, ...]], conditions: Sequence[Any], condition: Any
) -> dict[str, float]:
    """Figures by method under one condition, none if it was not published."""
    if condition not in conditions:
        return {}
    index = conditions.index(condition)
    return {method: figures[index] for method, figures in table.items()}
