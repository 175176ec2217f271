"""The runner, with jobs that do as they are told."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QWidget

from napari_dmsp._viewer.worker import Outcome, Runner
from napari_dmsp.core import tasks
from napari_dmsp.errors import DmspError
from napari_dmsp.plan import Axes, Plan
from napari_dmsp.settings import Deblur


@dataclass
class FakeState:
    evaluation: int
    total: int = 3
    residual: float = 2.0
    stage: str = "restoring"
    part: float = 0.5

    def array(self):
        return np.full((2, 2), self.evaluation)


@dataclass
class FakeResult:
    image: np.ndarray
    evaluations: int
    psf: np.ndarray | None = None
    error: np.ndarray | None = None
    settings: dict = field(default_factory=dict)

    def to_dict(self):
        return {"evaluations": self.evaluations}


class FakeJob:
    """Three states; waits before the second one for `go`, then raises `error` if there is one."""

    def __init__(self, error=None):
        self.error = error
        self.settings = {}
        self.total = 3
        self.go = threading.Event()
        self.started = threading.Event()
        self.closed = threading.Event()
        self.thread = None

    def states(self):
        self.thread = threading.get_ident()
        try:
            for evaluation in (1, 2, 3):
                if evaluation == 2:
                    self.started.set()
                    assert self.go.wait(30)
                    if self.error is not None:
                        raise self.error
                yield FakeState(evaluation)
        finally:
            self.closed.set()

    def result(self, state, seconds):
        return FakeResult(state.array(), state.evaluation)


@dataclass(frozen=True, kw_only=True, eq=False)
class FakeTask(Deblur):
    """Hands out one job after the other."""

    prepares: Any = ()

    def __post_init__(self):
        pass


class FakeCall:
    """A call for as many planes as there are jobs."""

    def __init__(self, *prepares, convert=lambda block, _: block):
        stack = np.arange(4.0 * len(prepares)).reshape(-1, 2, 2)
        self.plan = Plan.of(
            FakeTask(prior="fake", prepares=iter(prepares)), stack, Axes.of(stack.shape)
        )
        self.convert = convert

    def ready(self):
        return self.plan

    def frame(self, block):
        pass


class Log:
    def __init__(self):
        self.progress, self.done, self.outcomes, self.threads = [], [], [], set()
        self.runner = Runner(self.on_progress, self.on_done, self.on_outcome)

    def start(self, *prepares):
        return self.runner.start(FakeCall(*prepares))

    @property
    def results(self):
        return [done.about["evaluations"] for done in self.done]

    def on_done(self, done):
        self.threads.add(threading.get_ident())
        self.done.append(done)

    def on_progress(self, progress):
        self.threads.add(threading.get_ident())
        self.progress.append(progress)

    def on_outcome(self, outcome):
        self.threads.add(threading.get_ident())
        self.outcomes.append(outcome)


@pytest.fixture(autouse=True)
def fake_jobs(monkeypatch):
    monkeypatch.setattr(tasks, "prepare_task", lambda task, *_, **__: next(task.prepares)())


@pytest.fixture
def log(qapp):
    yield Log()
    assert QThreadPool.globalInstance().waitForDone(30_000), "a thread was left behind"


def wait_until_over(qtbot, log):
    qtbot.waitUntil(lambda: not log.runner.running, timeout=30_000)


def test_runs_in_a_thread_and_reports_in_this_one(qtbot, log):
    job = FakeJob()
    job.go.set()
    assert log.runner.start(FakeCall(lambda: job), interval=1e9)
    wait_until_over(qtbot, log)
    assert job.thread != threading.get_ident()
    assert log.threads == {threading.get_ident()}
    assert [p.evaluation for p in log.progress] == [1, 2, 3]
    assert {p.stage for p in log.progress} == {"restoring"}
    # Three steps within a moment: the image of the first is enough.
    assert [p.estimate is not None for p in log.progress] == [True, False, False]
    assert log.results == [3]
    assert log.outcomes == [Outcome()]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DmspError("the psf is odd."), "the psf is odd."),
        (RuntimeError("device-side assert"), "RuntimeError: device-side assert"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError("no room"), "out of memory"),
        (OSError("DLL load failed"), "OSError: DLL load failed"),
    ],
)
@pytest.mark.parametrize("preparing", [True, False])
def test_every_error_arrives_and_frees_the_runner(qtbot, log, error, message, preparing):
    def prepare():
        if preparing:
            raise error
        job = FakeJob(error)
        job.go.set()
        return job

    log.start(prepare)
    wait_until_over(qtbot, log)
    (outcome,) = log.outcomes
    assert log.results == []
    assert message in outcome.error
    good = FakeJob()
    good.go.set()
    assert log.start(lambda: good)
    wait_until_over(qtbot, log)
    assert log.results == [3]


def test_stop_keeps_the_estimate(qtbot, log):
    job = FakeJob()
    log.start(lambda: job)
    qtbot.waitUntil(job.started.is_set)
    log.runner.stop()
    job.go.set()
    wait_until_over(qtbot, log)
    assert log.results == [2]
    assert log.done[0].about["stopped"]
    assert job.closed.is_set()


def test_cancel_drops_it(qtbot, log):
    job = FakeJob()
    log.start(lambda: job)
    qtbot.waitUntil(job.started.is_set)
    log.runner.cancel()
    assert log.runner.running
    job.go.set()
    wait_until_over(qtbot, log)
    assert log.outcomes == [Outcome(cancelled=True)]
    assert log.results == []
    assert len(log.progress) <= 1
    assert job.closed.is_set()


def test_second_run_is_refused(qtbot, log):
    job = FakeJob()
    assert log.start(lambda: job)
    assert not log.start(lambda: pytest.fail("it was started"))
    job.go.set()
    wait_until_over(qtbot, log)
    assert len(log.outcomes) == 1


def test_closed_runner_keeps_silent(qtbot, log):
    job = FakeJob()
    log.start(lambda: job)
    qtbot.waitUntil(lambda: job.started.is_set() and len(log.progress) == 1)
    log.runner.close()
    job.go.set()
    wait_until_over(qtbot, log)
    assert job.closed.is_set()
    assert len(log.progress) == 1
    assert log.outcomes == []
    assert not log.start(lambda: job)


def quick_job():
    job = FakeJob()
    job.go.set()
    return job


def test_planes_one_after_the_other(qtbot, log):
    log.start(quick_job, quick_job, quick_job)
    wait_until_over(qtbot, log)
    assert [done.plane for done in log.done] == [0, 1, 2]
    assert [p.plane for p in log.progress] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_steps_are_taken_before_the_result(qtbot, log):
    def first():
        # The run waits for the steps.
        steps.append("first, too late" if job.started.is_set() else "first")

    def on_progress(progress):
        if progress.evaluation == 1:
            log.runner.in_turns(first, partial(steps.append, "second"))
        elif not steps:
            early.append(progress)

    steps, early = [], []
    log.runner = Runner(on_progress, lambda done: steps.append("done"), log.on_outcome)
    job = quick_job()
    log.start(lambda: job)
    wait_until_over(qtbot, log)
    assert steps == ["first", "second", "done"]
    assert early == []


def test_steps_left_at_the_end_are_taken(qtbot, log):
    steps = []
    log.runner = Runner(log.on_progress, log.on_done, lambda _: steps.append("end"))
    log.runner.start(FakeCall(quick_job))
    log.runner.in_turns(*(partial(steps.append, number) for number in range(50)))
    wait_until_over(qtbot, log)
    assert steps == [*range(50), "end"]
    log.runner.in_turns(partial(steps.append, "late"))
    log.runner.close()
    qtbot.wait(50)
    assert steps[-1] == "end"


def test_a_widget_that_goes_closes_the_runner_but_does_not_keep_it(qtbot):
    def ignore(_):
        pass

    widgets = [QWidget(), QWidget()]
    job = FakeJob()
    idle, busy = Runner(ignore, ignore, ignore), Runner(ignore, ignore, ignore)
    for runner, widget in zip((idle, busy), widgets, strict=True):
        runner.close_with(widget)
    busy.start(FakeCall(lambda: job))
    gone, kept = ref(idle), ref(busy)
    del idle, busy, runner
    gc.collect()
    assert gone() is None
    qtbot.waitUntil(job.started.is_set)
    for widget in widgets:
        widget.deleteLater()
    qtbot.waitUntil(lambda: kept().closed)
    job.go.set()
    qtbot.waitUntil(lambda: not Runner._kept)


def test_a_plane_that_cannot_be_restored_is_left_out(qtbot, log):
    def empty():
        raise DmspError("the image is constant.")

    log.start(quick_job, empty, quick_job)
    wait_until_over(qtbot, log)
    assert [done.plane for done in log.done] == [0, 2]
    assert log.outcomes[-1] == Outcome(left_out=((1, "the image is constant."),))
    log.start(empty, empty)
    wait_until_over(qtbot, log)
    assert log.outcomes[-1].error == "plane 0: the image is constant."


def test_stop_ends_the_planes_too(qtbot, log):
    job = FakeJob()
    log.start(lambda: job, quick_job)
    qtbot.waitUntil(job.started.is_set)
    log.runner.stop()
    job.go.set()
    wait_until_over(qtbot, log)
    assert [done.plane for done in log.done] == [0]


def test_images_are_converted_in_the_thread(qtbot, log):
    threads = set()

    def convert(block, settings):
        threads.add(threading.get_ident())
        return -block

    log.runner.start(FakeCall(quick_job, convert=convert))
    wait_until_over(qtbot, log)
    assert threading.get_ident() not in threads
    assert (log.done[0].block == -3).all()


def test_cancel_interrupts_an_evaluation(qtbot, log):
    """An evaluation is left between two operations of torch, in a network or not."""
    passed = []

    class Layer(torch.nn.Module):
        def forward(self, x):
            passed.append(x)
            if len(passed) == 2:
                log.runner.cancel()
            return x + 1

    class NetworkJob(FakeJob):
        def states(self):
            torch.nn.Sequential(*(Layer() for _ in range(5)))(torch.zeros(1))
            yield FakeState(1)

    log.start(NetworkJob)
    wait_until_over(qtbot, log)
    assert len(passed) == 2
    assert log.outcomes == [Outcome(cancelled=True)]
    # Networks of others are left alone, then and afterwards.
    torch.nn.Sequential(Layer())(torch.zeros(1))
    assert len(passed) == 3
