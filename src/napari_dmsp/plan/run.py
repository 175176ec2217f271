"""The one loop over the parts of a plan: events out, stop and cancel in, here or on workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Generator, Iterator, MutableMapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import fit_dtype
from ..errors import DmspError, OutOfMemoryError
from ..settings import Settings
from ..windows import Window
from .axes import Pixels, Plane, Sink, plane_named, say_plane
from .parts import Part, Plan, Readers, constant_pixel, for_channel, prepare

if TYPE_CHECKING:
    from ..core import Job, Restoration, State
    from .survey import Survey

# Parts that are sent to an executor before the first of them is done.
AHEAD = 64
# How often a run on an executor looks at its token.
POLL_SECONDS = 0.5


class CancelledError(Exception):
    """The user wants no more, and nothing of what was done."""


@dataclass
class Token:
    """What the user wants of a run; set in any thread."""

    # End after the current evaluation, and keep the estimate.
    stop: bool = False
    # End within the current evaluation, and drop it.
    cancel: bool = False

    def check(self) -> None:
        """Leave if the user wants no more."""
        if self.cancel:
            raise CancelledError


@dataclass(frozen=True)
class Begun:
    """The restoration of a part begins: its job is prepared."""

    part: Part
    job: Job


@dataclass(frozen=True)
class Step:
    """An evaluation of the prior. `estimate` is the part so far."""

    part: Part
    job: Job
    state: State
    _work: Work = field(repr=False)

    def estimate(self) -> Pixels:
        """Return the part so far, as it would be written."""
        return self._work.block(self.state.array())


@dataclass(frozen=True)
class Done:
    """A part is restored, and written if there is where."""

    part: Part
    # How it went; ``image`` is the restored window, float32, and empty where another process has
    # it.
    restoration: Restoration
    # What is written; None where another process has written it.
    block: Pixels | None = None
    # Whether the user ended it early.
    stopped: bool = False
    # The error of the block; None where it is not wanted, or the user ended it before.
    error: Pixels | None = None


@dataclass(frozen=True)
class Kept:
    """A constant part stays as it is, and is written."""

    part: Part
    block: Pixels | None = None


@dataclass(frozen=True)
class LeftOut:
    """A part that cannot be restored: nothing is written."""

    part: Part
    reason: str

    def __str__(self) -> str:
        return f"{say_plane(self.part.plane)}: {self.reason}"


@dataclass(frozen=True)
class Surveyed:
    """What the parts of a plane share was found, or what the planes of a channel share."""

    plane: Plane


Ended = Done | Kept | LeftOut
Event = Begun | Step | Ended | Surveyed


def run(plan: Plan, *, sink: Sink | None = None, token: Token | None = None) -> Iterator[Event]:
    """Restore the parts of a plan, one after the other, in this thread.

    Yields `Begun`, a `Step` for each evaluation and `Done` of every part; or `Kept`, or `LeftOut`.
    The token is looked at before each evaluation and, for its ``cancel``, before everything that
    this thread asks of torch.

    Raises
    ------
    DmspError
        For a plan of which nothing can be restored; where memory runs out.
    CancelledError
        When the user cancels.
    """
    from .survey import Shared

    shared, left_out = Shared(plan), list[str]()
    for part in plan.parts:
        if token is not None and token.stop:
            break
        with interruptible(token):
            survey = shared.of(part.plane)
        for event in restore_part(Work.of(plan, part, survey, sink), token):
            if isinstance(event, LeftOut):
                left_out.append(str(event))
            if len(left_out) == len(plan.parts):
                raise DmspError(left_out[0])
            yield event


@dataclass(frozen=True, eq=False)
class Work:
    """All that is needed to restore a part; it may be sent to another process."""

    task: Settings
    part: Part
    read: Readers
    survey: Survey
    dtype: np.dtype[Any]
    lone: bool
    sink: Sink | None

    @classmethod
    def of(cls, plan: Plan, part: Part, survey: Survey, sink: Sink | None = None) -> Work:
        """Take from a plan what a part needs."""
        read = plan.readers(part.window)
        task = for_channel(plan.task, plan.axes.channel(part.plane))
        return cls(task, part, read, survey, plan.dtype, plan.is_lone, sink)

    def block(self, image: Pixels) -> Pixels:
        """Return the part of a restored window as it is written."""
        inner = image[self.part.crop]
        return self.read.axes.unflatten(fit_dtype(inner, self.dtype))

    def error_block(self, error: Pixels | None) -> Pixels | None:
        """Return the part of a window's error as it is written."""
        return None if error is None else self.read.axes.unflatten(error[self.part.crop])

    def constant_block(self, value: Pixels) -> Pixels:
        """Return a part all of whose pixels are alike, of which nothing is to be restored."""
        axes = self.read.axes
        size = [piece.stop - piece.start for piece in self.part.crop[-2:]]
        if axes.depth is not None:
            size.insert(0, axes.shape[axes.depth])
        if self.task.makes_colour:
            size.append(3)
        elif axes.colours is not None:
            size.append(value.size)
        plane = np.broadcast_to(value if len(size) > axes.space else value[0], size)
        return self.read.axes.unflatten(fit_dtype(plane.astype(np.float64), self.dtype))

    def written(self, block: Pixels, error: Pixels | None = None) -> Pixels:
        """Write a block and its error, if there is where, and return the block."""
        if self.sink is not None:
            self.sink.write(self.part.target, block, error)
        return block


def restore_part(work: Work, token: Token | None = None) -> Iterator[Begun | Step | Ended]:
    """Restore a part, and write it; the events are those of `run`."""
    part, survey = work.part, work.survey
    try:
        with interruptible(token):
            if survey.problem is not None:
                raise DmspError(survey.problem)
            pixels, mask = work.read()
            space = work.read.axes.space
            value = None if work.lone else constant_pixel(pixels, mask, space)
            if value is None and survey.reference is not None and mask is not None and mask.all():
                # Nothing of this part of the plane was seen.
                colours = 1 if pixels.ndim == space else pixels.shape[2]
                value = np.full(colours, survey.reference.units.low)
            job = prepare(work.task, pixels, mask, **survey.known) if value is None else None
    except DmspError as error:
        if work.lone or isinstance(error, OutOfMemoryError):
            raise
        yield LeftOut(part, str(error))
        return
    if job is None:
        assert value is not None
        block = work.constant_block(value)
        exact = np.zeros(block.shape, np.float32) if work.task.uncertainty else None
        yield Kept(part, work.written(block, exact))
        return
    yield Begun(part, job)
    begin, states, state, stopped = time.perf_counter(), job.states(), None, False
    while True:
        with interruptible(token), plane_named(part.plane if not work.lone else ()):
            following = next(states, None)
        if following is None:
            break
        state = following
        yield Step(part, job, state, work)
        if token is not None and token.stop:
            stopped = state.evaluation < state.total
            break
    assert state is not None
    if token is not None:
        token.check()
    restoration = job.result(state, time.perf_counter() - begin)
    block, widths = work.block(restoration.image), work.error_block(restoration.error)
    yield Done(part, restoration, work.written(block, widths), stopped, widths)


def run_on(
    plan: Plan,
    executor: Executor,
    *,
    sink: Sink | None = None,
    token: Token | None = None,
    done: Container[str] = (),
    surveys: MutableMapping[Plane, Survey] | None = None,
) -> Generator[Surveyed | Ended, None, None]:
    """Restore the parts of a plan wherever an executor computes, and say how they end.

    Whoever restores a part writes it. Parts that are not done when the user stops are dropped;
    those whose names are among ``done`` were done before. New surveys are added to ``surveys``,
    which has those found before by their first plane.
    """
    from .survey import Shared

    token, shared = token or Token(), Shared(plan, surveys)
    missing = [part for part in plan.parts if part.name not in done]
    planes = [part.plane for part in missing]
    for channel, prior in _submitted(executor, shared.prior_calls(planes), token):
        shared.priors[channel] = prior
    for key, survey in _submitted(executor, shared.survey_calls(planes), token):
        shared.surveys[key] = survey
        yield Surveyed(key)
    calls = (
        (None, _finish, Work.of(plan, part, shared.of(part.plane), sink), token) for part in missing
    )
    for _, event in _submitted(executor, calls, token):
        yield event


def _finish(work: Work, token: Token) -> Ended:
    """Restore a part to its end, and forget its pixels, which were written."""
    for event in restore_part(work, token):
        ended = event
    if isinstance(ended, Done):
        bare = ended.restoration.without_arrays()
        if work.sink is not None:
            return replace(ended, restoration=bare, block=None, error=None)
        return replace(ended, restoration=bare)
    if isinstance(ended, Kept) and work.sink is not None:
        return replace(ended, block=None)
    assert isinstance(ended, Kept | LeftOut)
    return ended


def _submitted(
    executor: Executor, calls: Iterator[tuple[Any, ...]], token: Token
) -> Iterator[tuple[Any, Any]]:
    """Submit calls (key, function, *arguments), and yield keys and results as they come."""
    pending: dict[Future[Any], Any] = {}
    ahead = max(AHEAD, getattr(executor, "ahead", 0))
    try:
        while not token.stop:
            token.check()
            for key, *call in calls:
                future = executor.submit(*call)
                pending[future] = key
                if len(pending) >= ahead or future.done():
                    break
            if not pending:
                return
            for future in wait(pending, POLL_SECONDS, FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    finally:
        if pending:
            # Threads look at it; what other processes compute is cancelled.
            token.cancel = True
        for future in pending:
            future.cancel()


@contextmanager
def interruptible(token: Token | None) -> Iterator[None]:
    """Look for the user's cancel before everything that this thread asks of torch."""
    if token is None:
        yield
        return
    from ..core.device import Watch

    token.check()
    # Hooks of the networks would not do: the data step of a large image, which evaluates none,
    # takes seconds too.
    with Watch(token.check):
        yield


@dataclass(frozen=True, eq=False)
class ArraySink:
    """An array in memory that is written, and one for its error where that is wanted."""

    array: Pixels
    error: Pixels | None = None

    def write(self, window: Window, block: Pixels, error: Pixels | None = None) -> None:
        """Write a window."""
        self.array[window] = block
        if self.error is not None and error is not None:
            self.error[window] = error


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored array."""

    # Pixels, of the shape and the type that the plan says.
    image: Pixels
    # Restorations without their images by the steps of the walked axes, in their order; None for
    # constant planes, which stay as they are.
    planes: dict[Plane, Restoration | None]
    # Whether the user ended it early; what was not restored is then missing in ``planes``.
    stopped: bool = False
    # One standard deviation of the error of the image, float32, NaN where it is not known; None
    # where it is not wanted.
    error: Pixels | None = None


def restore_array(
    plan: Plan,
    callback: Callable[[State], bool | None] | None = None,
    watch: Callable[[Event], None] | None = None,
    token: Token | None = None,
) -> Restored:
    """Restore an array in memory, whose planes are not cut.

    ``watch`` is called with every event, ``callback`` with every state; it returns True to stop and
    keep the estimate.

    Raises
    ------
    DmspError
        For a plane that cannot be restored, before any work.
    """
    check_planes(plan)
    token = token or Token()
    image = np.zeros(plan.shape, plan.dtype)
    error = np.full(plan.shape, np.nan, np.float32) if plan.task.uncertainty else None
    planes: dict[Plane, Restoration | None] = {}
    for event in run(plan, sink=ArraySink(image, error), token=token):
        if isinstance(event, Step) and callback is not None and callback(event.state):
            token.stop = True
        elif isinstance(event, Done):
            # Those of all planes would take more memory than the stack.
            planes[event.part.plane] = event.restoration.without_arrays()
        elif isinstance(event, Kept):
            planes[event.part.plane] = None
        elif isinstance(event, LeftOut):
            raise DmspError(str(event))
        if watch is not None:
            watch(event)
    for part in plan.parts:
        if part.plane not in planes and plan.dtype.kind == "f":
            image[part.target] = np.nan
    return Restored(image, planes, token.stop, error)


def check_planes(plan: Plan) -> None:
    """Make sure that every plane can be restored, or is constant; a lone one says so itself."""
    from ..core.inputs import check_image, check_mask

    rows, columns = (slice(0, n) for n in plan.axes.size)
    for plane in [] if plan.is_lone else plan.axes.planes:
        with plane_named(plane):
            pixels, mask = plan.read(plane, rows, columns)
            space = plan.axes.space
            axis = None if pixels.ndim == space else -1
            gaps = check_mask(mask, pixels, axis, space)
            check_image(pixels, axis, gaps, constant=True, space=space)
