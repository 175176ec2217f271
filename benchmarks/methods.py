"""What is measured: our solvers, the peers with a denoiser of their own, and plain baselines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from protocol import Array, BlurCase, Case, MosaicCase, SuperresCase, bicubic, bilinear, load_malvar

from napari_dmsp import Restoration, deblur, demosaic, superres

SGD_ITERATIONS = 300


@dataclass(frozen=True)
class Setup:
    """What the user chose; None takes the defaults of the package.

    Attributes
    ----------
    rows : tuple of str
        NB tells the noise level, NA does not.
    peer_cases : int
        Cases for methods that take minutes each.
    """

    rows: tuple[str, ...] = ("NB", "NA")
    methods: tuple[str, ...] = ("annealed",)
    iterations: int | None = None
    prior: str | None = None
    peers: ModuleType | None = None
    peer_cases: int = 1
    subset: int | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """An estimate, the noise level assumed, and the evaluations of the denoiser."""

    image: Array
    evaluations: int = 0
    noise_sigma: float | None = None


@dataclass(frozen=True)
class Method:
    """A name for the tables and what it does; slow ones see a few cases only."""

    name: str
    run: Callable[[Any], Outcome]
    slow: bool = False


def load_peers(folder: Path | None) -> ModuleType | None:
    """Import ``peers.py`` with the published networks."""
    if folder is None:
        return None
    sys.path.insert(0, str(folder))
    return import_module("peers")


def deblur_methods(setup: Setup, colour: bool) -> Iterator[Method]:
    """Table 2."""
    yield Method("as observed", lambda case: Outcome(case.observed))
    for row in setup.rows:
        yield from _solvers(_deblur, row, told(row), setup, colour)
        if setup.peers is not None:
            yield literal_descent(setup, row)


def superres_methods(setup: Setup, noise: float | None) -> Iterator[Method]:
    """Table 3."""
    yield Method("bicubic", lambda case: Outcome(bicubic(case.observed, case.truth.shape)))
    row = "NA" if noise is None else f"told {noise:g}"
    yield from _solvers(_superres, row, lambda _: noise, setup, True)


def demosaic_baseline(pattern: str) -> Method:
    """Table 4, what needs no prior."""
    bayer = pattern != "X-Trans"
    baseline = load_malvar() if bayer else bilinear
    return Method(
        "Malvar" if bayer else "bilinear",
        lambda case: Outcome(baseline(case.observed, case.pattern)),
    )


def demosaic_methods(setup: Setup) -> Iterator[Method]:
    """Table 4."""
    for row in setup.rows:
        yield from _solvers(_demosaic, row, told(row), setup, True)


def told(row: str) -> Callable[[Case], float | None]:
    """Return what a solver is told of a case's noise level."""
    return (lambda case: case.noise_sigma) if row == "NB" else (lambda _: None)


def _solvers(
    solve: Callable[..., Restoration],
    row: str,
    noise: Callable[[Case], float | None],
    setup: Setup,
    colour: bool,
) -> Iterator[Method]:
    """Ours, and our annealed solver with a published denoiser."""
    chosen: list[tuple[str, str, Any]] = [(m, "our prior", setup.prior) for m in setup.methods]
    if setup.peers is not None:
        chosen.append(("annealed", "FDnCNN", setup.peers.fdncnn(colour)))
    for method, label, prior in chosen:

        def run(case: Case, method: str = method, prior: Any = prior) -> Outcome:
            result = solve(
                case,
                noise_sigma=noise(case),
                method=method,
                iterations=setup.iterations,
                prior=prior,
            )
            return Outcome(result.image, result.evaluations, result.noise_sigma)

        yield Method(f"{method} {row}, {label}", run)


def _deblur(case: BlurCase, **options: Any) -> Restoration:
    axis = -1 if case.observed.ndim == 3 else None
    return deblur(case.observed, case.psf, channel_axis=axis, **options)


def _superres(case: SuperresCase, **options: Any) -> Restoration:
    return superres(case.observed, case.scale, channel_axis=-1, **options)


def _demosaic(case: MosaicCase, **options: Any) -> Restoration:
    return demosaic(case.observed, case.pattern, white=255, background=0, **options)


def literal_descent(setup: Setup, row: str) -> Method:
    """The published descent with the authors' own network; it needs peers."""
    peers, iterations = setup.peers, setup.iterations or SGD_ITERATIONS
    network, noise = peers.authors_dae(), told(row)

    def run(case: BlurCase) -> Outcome:
        planes = np.moveaxis(np.atleast_3d(case.observed), -1, 0) / 255
        sigma = noise(case)
        estimate = peers.dmsp_reference(
            torch.from_numpy(planes[None].astype(np.float32)),
            case.psf,
            network,
            None if sigma is None else sigma / 255,
            iterations,
            generator=torch.Generator().manual_seed(0),
        )
        image = np.moveaxis(estimate[0].numpy(), 0, -1) * 255
        return Outcome(image.reshape(case.observed.shape), iterations, sigma)

    return Method(f"published descent {row}, authors' network", run, slow=True)
