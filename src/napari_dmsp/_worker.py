"""Runs a restoration beside the viewer: the only file that knows threads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from superqt.utils import GeneratorWorker

if TYPE_CHECKING:
    from .core import Job, Restoration

ESTIMATE_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """A step of a running restoration.

    Attributes
    ----------
    evaluation, total : int
        Evaluations of the denoiser so far, and planned.
    seconds : float
        Time since the first evaluation began.
    residual, noise_sigma : float
        In the image's units.
    estimate : ndarray or None
        The image so far; a few times a second only.
    """

    evaluation: int
    total: int
    seconds: float
    residual: float
    noise_sigma: float
    estimate: NDArray[np.float32] | None


@dataclass(frozen=True)
class Outcome:
    """How a restoration ended: with a result, an error, or neither if it was cancelled."""

    restoration: Restoration | None = None
    error: str | None = None


class Runner:
    """Runs one restoration at a time in another thread and reports to this one.

    Parameters
    ----------
    on_progress : callable
        Called in the GUI thread with every `Progress`.
    on_outcome : callable
        Called in the GUI thread once a run, with its `Outcome`.
    """

    def __init__(
        self, on_progress: Callable[[Progress], None], on_outcome: Callable[[Outcome], None]
    ) -> None:
        self._on_progress = on_progress
        self._on_outcome = on_outcome
        self._request: _Request | None = None
        self.closed = False

    @property
    def running(self) -> bool:
        """Whether a run has not ended yet, be it cancelled."""
        return self._request is not None

    @property
    def ending(self) -> bool:
        """Whether the current evaluation is the run's last."""
        return self._request is not None and (self._request.stop or self._request.cancel)

    def start(self, prepare: Callable[[], Job]) -> bool:
        """Call ``prepare`` and run its job in another thread.

        Returns
        -------
        bool
            False, and nothing was started, while another run goes on.
        """
        if self.running or self.closed:
            return False
        self._request = _Request()
        worker = GeneratorWorker(_work, prepare, self._request)
        worker.yielded.connect(self._progressed)
        worker.returned.connect(self._ended)
        worker.start()
        return True

    def stop(self) -> None:
        """End the run after the current evaluation, and keep the estimate."""
        if self._request is not None:
            self._request.stop = True

    def cancel(self) -> None:
        """End the run after the current evaluation, without a result."""
        if self._request is not None:
            self._request.cancel = True

    def close(self, *_: object) -> None:
        """Cancel, and report no more: whoever listened is about to go."""
        self.closed = True
        self.cancel()

    def _progressed(self, progress: Progress) -> None:
        # Messages may still be queued when the user cancels.
        if not self.closed and self._request is not None and not self._request.cancel:
            self._on_progress(progress)

    def _ended(self, outcome: Outcome) -> None:
        self._request = None
        if not self.closed:
            self._on_outcome(outcome)


@dataclass
class _Request:
    """What the user wants of a run. `WorkerBase.quit` would leave the iterator suspended."""

    stop: bool = False
    cancel: bool = False


def _work(prepare: Callable[[], Job], request: _Request) -> Generator[Progress, None, Outcome]:
    # Nothing may be raised: the worker swallows every RuntimeError, and with it CUDA's
    # out-of-memory, and would never say that it ended.
    try:
        return (yield from _run(prepare, request))
    except Exception as error:
        logging.getLogger(__name__).debug("The restoration failed.", exc_info=True)
        # A DmspError is written for the user; of others the type says the most.
        expected = isinstance(error, ValueError)
        return Outcome(error=str(error) if expected else f"{type(error).__name__}: {error}")


def _run(prepare: Callable[[], Job], request: _Request) -> Generator[Progress, None, Outcome]:
    if request.cancel:
        return Outcome()
    job = prepare()
    begin = time.perf_counter()
    shown = -ESTIMATE_SECONDS
    for state in job.states():
        if request.cancel:
            return Outcome()
        seconds = time.perf_counter() - begin
        show = seconds - shown >= ESTIMATE_SECONDS
        shown = seconds if show else shown
        yield Progress(
            state.evaluation,
            state.total,
            seconds,
            state.residual,
            state.noise_sigma,
            state.array() if show else None,
        )
        if request.stop:
            break
    if request.cancel:
        return Outcome()
    return Outcome(job.result(state, time.perf_counter() - begin))
