"""A restoration that is ready to run, and its result: what all tasks share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..windows import memory_bytes
from .device import explain_failures, freed_memory
from .inputs import Input, Reference
from .noise import ShotLine, is_sharp, noise_bounds
from .operators import Operator
from .solvers import DAE_SIGMA, State, iterate_annealed, iterate_sgd
from .tiling import bytes_per_pixel

SGD_ITERATIONS = 300


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Parameters of the solvers.

    Attributes
    ----------
    iterations : int
        Evaluations of the denoiser by `iterate_annealed`.
    sigma_start, sigma_end, end_ratio, kappa : float
        As for `iterate_annealed`.
    momentum, denoise_last : float, bool
        As for `iterate_annealed`.
    sgd_noise : tuple of float, optional
        First and last noise level that `iterate_sgd` assumes where none is given; by default it
        follows eq. 21, which says nothing about operators that pass all detail.
    """

    iterations: int = 24
    sigma_start: float = 49 / 255
    sigma_end: float = 1 / 255
    end_ratio: float = 0.7
    kappa: float = 0.3
    momentum: float = 0.0
    denoise_last: bool = False
    sgd_noise: tuple[float, float] | None = None


BLURRED = Schedule()
FLUORESCENCE = Schedule(iterations=36, kappa=0.2, momentum=0.7, denoise_last=True)
# Where detail was left, the smoothing must stay wide enough to see the artefacts of sampling.
SHARP = Schedule(
    iterations=30, sigma_end=5 / 255, end_ratio=1.0, kappa=0.23, sgd_noise=(DAE_SIGMA, 0.0)
)
# Most of the pixels are known: the noise is seen best by smoothing less than it is wide.
MOSAIC = Schedule(sigma_start=12 / 255, end_ratio=0.5, kappa=0.23, sgd_noise=(2.5 / 255, 1 / 255))


@dataclass(frozen=True, eq=False)
class Problem:
    """A degradation and what it has left: all in which the tasks differ.

    Attributes
    ----------
    operator : Operator
        The degradation.
    samples : Tensor
        The observation in the frame of the operator, zero where there is none.
    noise_bounds : callable
        Estimates the least and the greatest noise level on the scale of the prior; not called where
        the level is given, or the solver has no use for it.
    schedule : Schedule
        Parameters of the solvers.
    psf : Tensor, optional
        The point spread function, if there is one.
    decode : callable, optional
        From estimates to images on the scale of the user's, where the samples are encoded.
    slope : float
        How much larger their noise is then than that of the user's image.
    shot : ShotLine, optional
        How the noise grows with light, if the samples are weighted for it.
    gains : tuple of float, optional
        Of the colours of the samples, where they are encoded.
    """

    operator: Operator
    samples: Tensor
    noise_bounds: Callable[[], tuple[float, float]]
    schedule: Schedule
    psf: Tensor | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    slope: float = 1.0
    shot: ShotLine | None = None
    gains: tuple[float, float, float] | None = None

    def reference(self, given: Input) -> Reference:
        """Return what parts of the image must share."""
        encoding = None if self.gains is None else (*self.gains, self.slope)
        return Reference(given.units, given.fluorescence, self.shot, encoding)

    @classmethod
    def of(
        cls,
        given: Input,
        operator: Operator,
        psf: Tensor | None = None,
        schedule: Schedule | None = None,
    ) -> Problem:
        """State the problem of an operator that gives an image like the user's."""
        schedule = schedule or (SHARP if is_sharp(operator) else BLURRED)
        bounds = partial(noise_bounds, given.observed, operator)
        return cls(operator, given.samples, bounds, schedule, psf)

    def states(self, given: Input, generator: torch.Generator) -> Iterator[State]:
        """Run the solver that the user chose."""
        schedule, known = self.schedule, given.noise_sigma
        known = None if known is None else known * self.slope
        common: dict[str, Any] = {
            "iterations": evaluations(given, schedule),
            "generator": generator,
        }
        if given.literal:
            start, end = schedule.sgd_noise or (0.0, None)
            found = iterate_sgd(
                self.samples,
                self.operator,
                given.model,
                noise_sigma=end if known is None else known,
                noise_start=start,
                dae_sigma=given.model.noise_sigma or DAE_SIGMA,
                bounds=given.units.bounds,
                **common,
            )
        else:
            found = iterate_annealed(
                self.samples,
                self.operator,
                given.model,
                noise_sigma=known,
                noise_bounds=self.noise_bounds() if known is None else (known, known),
                sigma_start=schedule.sigma_start,
                sigma_end=schedule.sigma_end,
                end_ratio=schedule.end_ratio,
                kappa=schedule.kappa,
                momentum=schedule.momentum,
                denoise_last=schedule.denoise_last,
                **common,
            )
        for state in found:
            image = state.image if self.decode is None else self.decode(state.image)
            noise, residual = state.noise_sigma / self.slope, state.residual / self.slope
            yield replace(state, image=image, noise_sigma=noise, residual=residual, psf=self.psf)


@dataclass(frozen=True)
class Restoration:
    """A restored image and how it came about.

    Attributes
    ----------
    image : ndarray
        In the intensity units of the input, float32.
    psf : ndarray or None
        The point spread function used, normalised to sum 1; None where there is none.
    noise_sigma : float
        Noise level in the image's units, given or estimated.
    evaluations : int
        Evaluations of the denoiser.
    seconds : float
        Wall-clock time.
    settings : dict
        Everything needed to repeat the run.
    """

    image: NDArray[np.float32]
    psf: NDArray[np.float32] | None
    noise_sigma: float
    evaluations: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        values = asdict(replace(self, image=np.empty(0, np.float32), psf=None))
        return {k: v for k, v in values.items() if k not in ("image", "psf")}


def describe_planes(planes: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Describe the restoration of a stack, or of its only plane.

    Parameters
    ----------
    planes : sequence of dict or None
        `Restoration.to_dict`, with what else is known of every plane; None for those that were left
        as they are.

    Returns
    -------
    dict
        Settings that differ, and the noise levels, evaluations and seconds of several planes, as
        lists; what is the same for all as it is.
    """

    def gather(values: Sequence[dict[str, Any] | None], listed: tuple[str, ...]) -> dict[str, Any]:
        found = [value for value in values if value is not None]
        return {
            name: first
            if name not in listed and all(value[name] == first for value in found)
            else [value and value[name] for value in values]
            for name, first in (found[0] if found else {}).items()
        }

    measured = ("noise_sigma", "evaluations", "seconds") if len(planes) > 1 else ()
    settings = gather([plane and plane["settings"] for plane in planes], ())
    return gather(planes, measured) | {"settings": settings}


@dataclass(frozen=True, eq=False)
class Job:
    """A checked restoration, ready to run; made by `prepare`.

    Attributes
    ----------
    total : int
        Evaluations of the denoiser that a full run takes.
    settings : dict
        Everything needed to repeat the run.
    reference : Reference
        What parts of the image must share, to be restored one by one.
    """

    total: int
    settings: dict[str, Any]
    reference: Reference
    _input: Input = field(repr=False)
    _steps: Callable[[torch.Generator], Iterator[State]] = field(repr=False)

    def states(self) -> Iterator[State]:
        """Run, one state per evaluation; close the iterator at any time to stop.

        Raises
        ------
        DmspError
            When memory runs out.
        """
        units = self._input.units
        generator = torch.Generator().manual_seed(self.settings["seed"])
        needed = estimate_memory(self.settings, self._input)
        device = self._input.observed.device
        with explain_failures(device, self._input.shape, needed), freed_memory.kept():
            for state in self._steps(generator):
                yield replace(
                    state,
                    noise_sigma=state.noise_sigma * units.scale,
                    residual=state.residual * units.scale,
                    to_array=units.to_array,
                )

    def result(self, state: State, seconds: float) -> Restoration:
        """Make the result of the run's last, or latest, state."""
        return Restoration(
            image=state.array(),
            psf=None if state.psf is None else state.psf.cpu().float().numpy(),
            noise_sigma=state.noise_sigma,
            evaluations=state.evaluation,
            seconds=seconds,
            settings=self.settings,
        )


def prepare(settings: dict[str, Any], given: Input, problem: Problem) -> Job:
    """Make the job that solves a problem.

    Parameters
    ----------
    settings : dict
        The task's name and its own settings.
    given : Input
        What `read_input` made of the image and the options.
    problem : Problem
        The degradation.
    """
    total = evaluations(given, problem.schedule)
    return Job(
        total,
        settings | describe(given, total),
        problem.reference(given),
        given,
        partial(problem.states, given),
    )


def estimate_memory(settings: dict[str, Any], given: Input) -> int:
    """Return the bytes that a run takes, besides torch itself."""
    scale = settings.get("scale", 1)
    shape = round(given.shape[0] * scale), round(given.shape[1] * scale)
    channels = 3 if settings["task"] == "demosaic" else math.prod(given.observed.shape[:2])
    return memory_bytes(shape, channels, given.tile, bytes_per_pixel(given.model.denoiser))


def evaluations(given: Input, schedule: Schedule) -> int:
    """Return how often the chosen solver evaluates the denoiser."""
    default = SGD_ITERATIONS if given.literal else schedule.iterations
    return given.options["iterations"] or default


def describe(given: Input, iterations: int) -> dict[str, Any]:
    """Return the settings that all tasks share, as numbers and words."""
    options, model = given.options, given.model
    return {
        "channel_axis": options["channel_axis"],
        "noise_sigma": options["noise_sigma"],
        "masked": 0 if given.kept is None else int((given.kept == 0).sum()),
        "method": options["method"],
        "iterations": iterations,
        "background": given.units.low,
        "seed": options["seed"],
        "prior": model.name,
        "prior_sha256": model.sha256,
        "device": str(given.observed.device),
        "tile": given.tile,
        "version": version("napari-dmsp"),
    }


def run(job: Job, callback: Callable[[State], bool | None] | None = None) -> Restoration:
    """Run a job to its end, or until ``callback`` returns True."""
    begin = time.perf_counter()
    for state in job.states():
        if callback is not None and callback(state):
            break
    return job.result(state, time.perf_counter() - begin)
