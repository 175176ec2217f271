"""Runs restorations beside the viewer, and what all runs in other threads share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakMethod

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer
from superqt.utils import GeneratorWorker

from .. import plan
from ..plan import Begun, CancelledError, Kept, LeftOut, Step, Token, run
from .preferences import MIN_LIVE_SECONDS

if TYPE_CHECKING:
    from .script import Call

# What the estimates may take of a run's time where drawing is slow, and how soon they are drawn.
LIVE_SHARE = 0.02
DRAW_SECONDS = 0.01
# Until the next step of a new layer, in milliseconds; 0 would be in the same turn.
STEP = 10
# How long a run waits for a new layer at most, in seconds.
PATIENCE = 0.5


@dataclass(frozen=True)
class Progress:
    """A step of a running restoration."""

    # Number of the plane, from 0, and evaluations of the prior for it, so far and planned.
    plane: int
    evaluation: int
    total: int
    # Part of the work for the plane that is done, 0 to 1.
    part: float
    # Since the first evaluation of the first plane began.
    seconds: float
    # In the image's units.
    residual: float
    # What is being done, see `State`.
    stage: str
    # The plane so far, as it is to be shown; a few times a second only.
    estimate: NDArray[Any] | None


@dataclass(frozen=True)
class Done:
    """A plane whose restoration has ended."""

    # Number of the plane, from 0, and its pixels as they are to be shown, with all axes.
    plane: int
    block: NDArray[Any]
    # `Restoration.to_dict`; with "stopped", whether the user ended it early, and with "planned",
    # how many evaluations there were to be. None for a constant plane, which stays as it is.
    about: dict[str, Any] | None = None
    # The point spread function used or found.
    psf: NDArray[np.float32] | None = None
    # One standard deviation of the error of the plane, of colours together; None if not wanted.
    error: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: well or stopped, cancelled, or with an error."""

    cancelled: bool = False
    error: str | None = None
    # Planes among others that cannot be restored, and why.
    left_out: tuple[tuple[int, str], ...] = ()


@dataclass
class Request(Token):
    """What the user wants of a run. `WorkerBase.quit` would leave the iterator suspended.

    `drawn` says that the viewer has shown all estimates that were sent; `drawing` is how long it
    took for the last one.
    """

    drawn: threading.Event = field(default_factory=threading.Event)
    drawing: float = 0.0


class Controller:
    """The user's side of runs in another thread, one at a time; once closed, it reports nothing."""

    # While they run: whoever closes a runner must find it, even if its panel is gone already, and
    # an object of Qt must not be collected in another thread.
    _kept: ClassVar[set[Controller]] = set()

    def __init__(self) -> None:
        self._request: Request | None = None
        self.closed = False

    @property
    def running(self) -> bool:
        """Whether a run has not ended yet, be it cancelled."""
        return self._request is not None

    @property
    def ending(self) -> bool:
        """Whether the run ends as soon as it can."""
        return self._request is not None and (self._request.stop or self._request.cancel)

    @property
    def silent(self) -> bool:
        """Whether messages are dropped: they may still be queued when the user cancels."""
        return self.closed or self._request is None or self._request.cancel

    def stop(self) -> None:
        """End the run after the current step, and keep what was done."""
        if self._request is not None:
            self._request.stop = True

    def cancel(self) -> None:
        """End the run within the current step, and drop what was done."""
        if self._request is not None:
            self._request.cancel = True

    def leave(self) -> None:
        """End the run when nobody looks at it any more."""
        self.cancel()

    def close(self, *_: object) -> None:
        """Leave, and report no more: whoever listened is about to go."""
        self.closed = True
        self.leave()

    def close_with(self, widget: QObject) -> None:
        """Close when a widget is destroyed, which does not keep a runner that does not run."""
        # Not of the panel, which is half gone when this is called.
        close = WeakMethod(self.close)

        def close_if_alive() -> None:
            found = close()
            if found is not None:
                found()

        widget.destroyed.connect(close_if_alive)

    def _begin(self) -> Request | None:
        """Return the request of a new run; None while another one goes on, and once closed."""
        if self.running or self.closed:
            return None
        self._kept.add(self)
        self._request = Request()
        return self._request

    def _end(self) -> None:
        self._request = None
        self._kept.discard(self)


class Runner(Controller):
    """Runs the planes of one restoration at a time in another thread and reports to this one.

    The functions that it is given are called in the GUI thread: with every `Progress`, with the
    `Done` of every plane, and once a run with its `Outcome`.
    """

    def __init__(
        self,
        on_progress: Callable[[Progress], None],
        on_done: Callable[[Done], None],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._on_done = on_done
        self._on_outcome = on_outcome
        self._steps: list[Callable[[], object]] = []
        # Its libraries stop the viewer for 0.2 s and more: now, rather than during a run.
        threading.Thread(target=_load_torch, name="napari-dmsp loads torch").start()

    def start(self, call: Call, interval: float = MIN_LIVE_SECONDS) -> bool:
        """Run what was called for, with at least so many seconds between estimates.

        Returns False, and does nothing, while another run goes on.
        """
        request = self._begin()
        if request is None:
            return False
        worker = GeneratorWorker(_work, call, interval, request)
        worker.yielded.connect(self._yielded)
        worker.returned.connect(self._ended)
        worker.start()
        return True

    def in_turns(self, *steps: Callable[[], object]) -> None:
        """Take steps in the GUI thread, each in a turn of its own, so that none blocks it for long.

        All are taken before the next plane, or the end of the run, is reported; none once closed.
        """
        self._steps += steps
        QTimer.singleShot(STEP, self._take_step)

    def _take_step(self) -> None:
        if self._steps and not self.closed:
            self._steps.pop(0)()
            QTimer.singleShot(STEP, self._take_step)

    def _take_all_steps(self) -> None:
        while self._steps:
            self._steps.pop(0)()

    def _yielded(self, message: Progress | Done) -> None:
        if self.silent:
            return
        if isinstance(message, Done):
            self._take_all_steps()
            self._on_done(message)
            return
        begin = time.perf_counter()
        self._on_progress(message)
        if message.estimate is not None and self._request is not None:
            self._see_if_drawn(self._request, begin)

    def _see_if_drawn(self, request: Request, begin: float) -> None:
        def look() -> None:
            if self._steps and not self.closed:
                self._see_if_drawn(request, begin)
                return
            request.drawing = max(0.0, time.perf_counter() - begin - DRAW_SECONDS)
            request.drawn.set()

        # The layer is drawn after this; until then no timer gets its turn.
        QTimer.singleShot(round(1000 * DRAW_SECONDS), look)

    def _ended(self, outcome: Outcome) -> None:
        self._end()
        if not self.closed:
            self._take_all_steps()
            self._on_outcome(outcome)


Messages = Generator[Progress | Done, None, Outcome]


def _work(call: Call, interval: float, request: Request) -> Messages:
    # Nothing may be raised: the worker swallows every RuntimeError, and with it CUDA's
    # out-of-memory, and would never say that it ended.
    try:
        from ..core.device import explain_failures

        with explain_failures("auto"):
            return (yield from _run(call, interval, request))
    except CancelledError:
        return Outcome(cancelled=True)
    except Exception as error:
        logging.getLogger(__name__).debug("The restoration failed.", exc_info=True)
        return Outcome(error=explain(error))


def _run(call: Call, interval: float, request: Request) -> Messages:
    """Run a plan, and say what the viewer is to show of its events."""
    begin, shown, total, left_out = time.perf_counter(), -interval, 0, []
    request.drawn.set()
    for event in run(call.ready(), token=request):
        if isinstance(event, Begun):
            total = event.job.total
        if isinstance(event, Step):
            now = time.perf_counter() - begin
            pause = max(interval, request.drawing / LIVE_SHARE)
            show = now - shown >= pause and request.drawn.is_set()
            first = show and shown < 0
            if show:
                shown = now
                request.drawn.clear()
            yield Progress(
                event.part.number,
                event.state.evaluation,
                event.state.total,
                event.state.part,
                now,
                event.state.residual,
                event.state.stage,
                _shown(call, event.estimate(), event.job.settings) if show else None,
            )
            if first:
                # The viewer takes twice as long for a new layer while this thread computes.
                request.drawn.wait(PATIENCE)
                # New data are drawn in much less time than a new layer.
                request.drawing = 0.0
        elif isinstance(event, plan.Done):
            restoration, block = event.restoration, event.block
            assert block is not None
            about = restoration.to_dict() | {"stopped": event.stopped, "planned": total}
            block = _shown(call, block, restoration.settings)
            error = None
            if event.error is not None:
                error = call.convert_error(event.error, restoration.settings)
            yield Done(event.part.number, block, about, restoration.psf, error)
        elif isinstance(event, Kept):
            assert event.block is not None
            yield Done(event.part.number, _shown(call, event.block, None))
        elif isinstance(event, LeftOut):
            left_out.append((event.part.number, event.reason))
    return Outcome(left_out=tuple(left_out))


def _shown(call: Call, block: NDArray[Any], record: dict[str, Any] | None) -> NDArray[Any]:
    """Return a plane as it is to be shown, and make room for all of them: it may be large."""
    block = call.convert(block, record)
    call.frame(block)
    return block


def explain(error: Exception) -> str:
    """Say what happened."""
    # A DmspError is written for the user; of others the type says the most.
    expected = isinstance(error, ValueError) and str(error)
    return str(error) if expected else f"{type(error).__name__}: {error}"


def best_device() -> str | None:
    """Return the kind of device that "auto" stands for, once torch is loaded."""
    return _best[0] if _best else None


# What `best_device` returns, found in the thread that loads torch.
_best: list[str] = []


def _load_torch() -> None:
    # Whatever is wrong is said where it is needed.
    with suppress(Exception):
        from .. import restore  # noqa: F401
        from ..core.device import pick_device

        _best.append(pick_device().type)
