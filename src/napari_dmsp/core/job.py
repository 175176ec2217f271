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

from ..settings import DESCENT_EVALUATIONS, Photons
from ..windows import memory_bytes, volume_bytes
from .data import Gaussian, PoissonGaussian
from .device import explain_failures, own_state
from .inputs import Input, Reference
from .noise import ShotLine, is_sharp, noise_bounds, smooth
from .operators import Operator
from .solvers import (
    BLURRED,
    DAE_SIGMA,
    SHARP,
    Schedule,
    State,
    View,
    anneal,
    descend,
)
from .tiling import Tiled, bytes_per_pixel
from .uncertainty import deviation, shift, shift_back, simulate


@dataclass(frozen=True, eq=False)
class Problem:
    """A degradation and what it has left: all in which the tasks differ."""

    # The observation, its degradation, and what is known of its noise.
    data: Gaussian
    schedule: Schedule
    # Estimates the least and the greatest noise level on the scale of ``data.y``. It is not called
    # where it is known, or the solver has no use for it. By default see `noise.noise_bounds`.
    noise_bounds: Callable[[], tuple[float, float]] | None = None
    # Least noise level of an estimate: errors of the degradation itself act like noise.
    doubt: float = 0.0
    # Whether the degradation was found: its errors look like noise that is not white.
    searched: bool = False
    # The point spread function, if there is one.
    psf: Tensor | None = None
    # From estimates to images on the scale of the user's, where the samples are encoded; how much
    # larger their noise is then than that of the user's image; and the gains of their colours.
    decode: Callable[[Tensor], Tensor] | None = None
    slope: float = 1.0
    gains: tuple[float, float, float] | None = None
    # How the noise grows with light, if the samples are weighted for it.
    shot: ShotLine | None = None
    # How the prior is shown estimates, the first and the least value of them, see `anneal`.
    view: View | None = None
    start: Tensor | None = None
    least: float = -math.inf
    # Makes such a first estimate for another observation.
    restart: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(
        cls,
        given: Input,
        operator: Operator,
        schedule: Schedule | None = None,
        line: ShotLine | None = None,
        light: Tensor | None = None,
        beyond: Tensor | None = None,
    ) -> Problem:
        """State the problem of an operator that makes an image like the user's.

        Parameters
        ----------
        given : Input
            The user's image.
        operator : Operator
            The degradation.
        schedule : Schedule, optional
            By default one for what the operator does to details.
        line : ShotLine, optional
            How the noise grows with light; by default as the user says.
        light : Tensor, optional
            A first guess of the light of every sample; by default the smoothed observation.
        beyond : Tensor, optional
            Light that was subtracted from the samples, and makes noise all the same.
        """
        y, kept, sharp = given.observed, given.kept, is_sharp(operator, given.observed)
        schedule = schedule or (SHARP if sharp else BLURRED)
        if line is None and isinstance(given.noise, ShotLine):
            line = given.noise
        if line is None:
            return cls(Gaussian(operator=operator, y=y, weights=kept, kept=kept), schedule)
        light = smooth(y) if light is None else light
        variance = line.variance if beyond is None else partial(_with_light, line, beyond)
        data = PoissonGaussian.of(operator, y, kept, variance, light, line.scale)
        data = replace(data, reweighted=not sharp)
        return cls(data, schedule, shot=replace(line, scale=data.scale))

    def reference(self, given: Input) -> Reference:
        """Return what parts of the image must share."""
        encoding = None if self.gains is None else (*self.gains, self.slope)
        return Reference(given.units, given.fluorescence, self.shot, encoding)

    def states(self, given: Input, generator: torch.Generator) -> Iterator[State]:
        """Run the solver that the user chose; then once more for the error, if it is wanted."""
        schedule = replace(self.schedule, iterations=evaluations(given, self.schedule))
        if not given.options.uncertainty:
            yield from self._solve(given, schedule, self._data(given), generator)
            return
        total = 2 * schedule.iterations
        for state in self._solve(given, schedule, self._data(given), generator):
            yield replace(state, total=total)
        assert state.whole is not None
        sigma = state.noise_sigma * self.slope
        y = simulate(self.data, shift(state.whole), sigma, generator)
        start = None if self.restart is None else self.restart(y)
        again = replace(self, data=replace(self.data, y=y), start=start)
        data = again.data.within(sigma, sigma)
        # What is shown stays the estimate.
        for replicate in again._solve(given, schedule, data, generator):
            evaluation = schedule.iterations + replicate.evaluation
            yield replace(state, evaluation=evaluation, total=total, stage="estimating the error")
        difference = shift_back(replicate.image - shift(state.image))
        error = torch.hypot(
            schedule.error_factor * deviation(difference),
            torch.tensor(schedule.error_floor * state.noise_sigma).to(state.image),
        )
        yield replace(state, evaluation=total, total=total, error=error)

    def _solve(
        self, given: Input, schedule: Schedule, data: Gaussian, generator: torch.Generator
    ) -> Iterator[State]:
        """Run the solver that the user chose, once."""
        if given.literal:
            level = given.model.noise_sigma or DAE_SIGMA
            bounds = given.units.bounds
            found = descend(
                data, given.model, schedule, dae_sigma=level, bounds=bounds, generator=generator
            )
        else:
            found = anneal(
                data,
                given.model,
                schedule,
                view=self.view,
                start=self.start,
                least=self.least,
                generator=generator,
                warn=None if self.searched else given.warnings.append,
            )
        for state in found:
            image = state.image if self.decode is None else self.decode(state.image)
            noise, residual = state.noise_sigma / self.slope, state.residual / self.slope
            yield replace(state, image=image, noise_sigma=noise, residual=residual, psf=self.psf)

    def _data(self, given: Input) -> Gaussian:
        """Return the data term with the noise level as far as it is known."""
        known = given.noise
        if known is not None:
            known = self.data.sigma if isinstance(known, ShotLine) else known * self.slope
            return self.data.within(known, known)
        if given.literal:
            descent = self.schedule.sgd_noise
            return self.data.within(*((0.0, math.inf) if descent is None else 2 * descent[1:]))
        estimate = self.noise_bounds or partial(noise_bounds, self.data)
        least, most = (max(level, self.doubt) for level in estimate())
        return self.data.within(least, most)


def _with_light(line: ShotLine, beyond: Tensor, light: Tensor) -> Tensor:
    return line.variance(light + beyond)


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
        Noise level in the image's units, given or estimated; of a stack, the root mean square.
    evaluations : int
        Evaluations of the prior.
    seconds : float
        Wall-clock time.
    settings : dict
        Everything needed to repeat the run.
    warnings : tuple of str
        Sentences for the user: what was doubtful, and what was done about it.
    planes : tuple
        Of a stack, the restorations of its planes without their images, the last axis fastest; None
        for constant planes, which stay as they are, and for those not reached. Of a plane, nothing.
    error : ndarray or None
        One standard deviation of the error of every pixel of the image, in its units, float32, if
        ``uncertainty`` was asked for.
    """

    image: NDArray[np.float32]
    psf: NDArray[np.float32] | None
    noise_sigma: float
    evaluations: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    planes: tuple[Restoration | None, ...] = ()
    error: NDArray[np.float32] | None = None

    @classmethod
    def of_planes(
        cls,
        image: NDArray[np.float32],
        planes: Sequence[Restoration | None],
        shared_psf: bool,
        error: NDArray[np.float32] | None = None,
    ) -> Restoration:
        """Put the restorations of planes together to that of a stack."""
        found = [plane for plane in planes if plane is not None]
        about = describe_planes([None if p is None else p.to_dict() for p in planes])
        squares = [plane.noise_sigma**2 for plane in found]
        return cls(
            image,
            found[0].psf if found and shared_psf else None,
            math.sqrt(sum(squares) / len(squares)) if squares else 0.0,
            sum(plane.evaluations for plane in found),
            sum(plane.seconds for plane in found),
            about["settings"],
            tuple(dict.fromkeys(text for plane in found for text in plane.warnings)),
            tuple(planes),
            error,
        )

    def without_arrays(self) -> Restoration:
        """Return the same without the image and its error."""
        return replace(self, image=np.empty(0, np.float32), error=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        if self.planes:
            return describe_planes([None if p is None else p.to_dict() for p in self.planes])
        values = asdict(replace(self.without_arrays(), psf=None))
        kept = {k: v for k, v in values.items() if k not in ("image", "psf", "planes", "error")}
        return kept | {"warnings": list(self.warnings)}


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

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user; preparing and running the job append to them."""
        return self._input.warnings

    def states(self) -> Iterator[State]:
        """Run, one state per evaluation; close the iterator at any time to stop.

        Raises
        ------
        DmspError
            When memory runs out.
        """
        units = self._input.units
        steps = self._steps(torch.Generator("cpu").manual_seed(self.settings["seed"]))
        needed = estimate_memory(self.settings, self._input)
        device = self._input.observed.device
        while True:
            # Left before the state is given away: the caller keeps his own state of torch.
            with explain_failures(device, self._input.shape, needed), own_state():
                state = next(steps, None)
            if state is None:
                return
            yield replace(
                state,
                noise_sigma=state.noise_sigma * units.scale,
                residual=state.residual * units.scale,
                to_array=units.to_array,
            )

    @own_state()
    def result(self, state: State, seconds: float) -> Restoration:
        """Make the result of the run's last, or latest, state."""
        denoiser, tile = self._input.model.denoiser, self._input.tile
        if isinstance(denoiser, Tiled) and denoiser.tile != tile:
            tile = denoiser.tile
            self.warnings.append(f"Memory ran out: the prior took tiles of {tile} pixels.")
        error = None if state.error is None else self._input.units.to_widths(state.error)
        if error is None and self.settings["uncertainty"]:
            self.warnings.append("The run was stopped before the error map was made.")
        return Restoration(
            image=state.array(),
            psf=None if state.psf is None else state.psf.cpu().float().numpy(),
            noise_sigma=state.noise_sigma,
            evaluations=state.evaluation,
            seconds=seconds,
            settings=self.settings | {"tile": tile},
            warnings=tuple(dict.fromkeys(self.warnings)),
            error=error,
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
    count = evaluations(given, problem.schedule)
    return Job(
        (1 + given.options.uncertainty) * count,
        settings | describe(given, count),
        problem.reference(given),
        given,
        partial(problem.states, given),
    )


def estimate_memory(settings: dict[str, Any], given: Input) -> int:
    """Return the bytes that a run takes, besides torch itself."""
    if len(given.shape) == 3:
        return volume_bytes(given.shape, tuple(settings["psf_shape"]))
    scale = settings.get("scale", 1)
    height, width = (round(n * scale) for n in given.shape)
    channels = 3 if settings["task"] == "demosaic" else math.prod(given.observed.shape[:2])
    return memory_bytes(
        (height, width), channels, given.tile, bytes_per_pixel(given.model.denoiser)
    )


def evaluations(given: Input, schedule: Schedule) -> int:
    """Return how often the chosen solver evaluates the denoiser."""
    default = DESCENT_EVALUATIONS if given.literal else schedule.iterations
    return int(given.options.iterations or default)


def describe(given: Input, iterations: int) -> dict[str, Any]:
    """Return the settings that all tasks share, as numbers and words."""
    options, model, noise = given.options, given.model, given.options.noise
    return {
        "channel_axis": options.channel_axis,
        "noise_sigma": asdict(noise) if isinstance(noise, Photons) else noise,
        "masked": 0 if given.kept is None else int((given.kept == 0).sum()),
        "method": options.method,
        "uncertainty": options.uncertainty,
        "iterations": iterations,
        "background": given.units.low,
        "seed": options.seed,
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
