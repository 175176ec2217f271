"""The runner, with jobs that do as they are told."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from qtpy.QtCore import QThreadPool

from napari_dmsp import _worker
from napari_dmsp._worker import Runner
from napari_dmsp.core import DmspError


@dataclass
class FakeState:
    evaluation: int
    total: int = 3
    residual: float = 2.0
    noise_sigma: float = 5.0

    def array(self):
        return np.full((2, 2), self.evaluation)


class FakeJob:
    """Three states; waits before the second one for `go`, then raises `error` if there is one."""

    def __init__(self, error=None):
        self.error = error
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
        return state.evaluation


class Log:
    def __init__(self):
        self.progress, self.outcomes, self.threads = [], [], set()
        self.runner = Runner(self.on_progress, self.on_outcome)

    def on_progress(self, progress):
        self.threads.add(threading.get_ident())
        self.progress.append(progress)

    def on_outcome(self, outcome):
        self.threads.add(threading.get_ident())
        self.outcomes.append(outcome)


@pytest.fixture
def log(qapp):
    yield Log()
    assert QThreadPool.globalInstance().waitForDone(30_000), "a thread was left behind"


def wait_until_over(qtbot, log):
    qtbot.waitUntil(lambda: not log.runner.running, timeout=30_000)


def test_runs_in_a_thread_and_reports_in_this_one(qtbot, log, monkeypatch):
    monkeypatch.setattr(_worker, "ESTIMATE_SECONDS", 1e9)
    job = FakeJob()
    job.go.set()
    assert log.runner.start(lambda: job)
    wait_until_over(qtbot, log)
    assert job.thread != threading.get_ident()
    assert log.threads == {threading.get_ident()}
    assert [p.evaluation for p in log.progress] == [1, 2, 3]
    # Three steps within a moment: the image of the first is enough.
    assert [p.estimate is not None for p in log.progress] == [True, False, False]
    (outcome,) = log.outcomes
    assert outcome.restoration == 3
    assert outcome.error is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DmspError("the psf is odd."), "the psf is odd."),
        (RuntimeError("device-side assert"), "RuntimeError: device-side assert"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError("no room"), "MemoryError: no room"),
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

    log.runner.start(prepare)
    wait_until_over(qtbot, log)
    (outcome,) = log.outcomes
    assert outcome.restoration is None
    assert message in outcome.error
    good = FakeJob()
    good.go.set()
    assert log.runner.start(lambda: good)
    wait_until_over(qtbot, log)
    assert log.outcomes[-1].restoration == 3


def test_stop_keeps_the_estimate(qtbot, log):
    job = FakeJob()
    log.runner.start(lambda: job)
    qtbot.waitUntil(job.started.is_set)
    log.runner.stop()
    job.go.set()
    wait_until_over(qtbot, log)
    assert [o.restoration for o in log.outcomes] == [2]
    assert job.closed.is_set()


def test_cancel_drops_it(qtbot, log):
    job = FakeJob()
    log.runner.start(lambda: job)
    qtbot.waitUntil(job.started.is_set)
    log.runner.cancel()
    assert log.runner.running
    job.go.set()
    wait_until_over(qtbot, log)
    (outcome,) = log.outcomes
    assert outcome.restoration is None
    assert outcome.error is None
    assert len(log.progress) <= 1
    assert job.closed.is_set()


def test_second_run_is_refused(qtbot, log):
    job = FakeJob()
    assert log.runner.start(lambda: job)
    assert not log.runner.start(lambda: pytest.fail("it was started"))
    job.go.set()
    wait_until_over(qtbot, log)
    assert len(log.outcomes) == 1


def test_closed_runner_keeps_silent(qtbot, log):
    job = FakeJob()
    log.runner.start(lambda: job)
    qtbot.waitUntil(lambda: job.started.is_set() and len(log.progress) == 1)
    log.runner.close()
    job.go.set()
    wait_until_over(qtbot, log)
    assert job.closed.is_set()
    assert len(log.progress) == 1
    assert log.outcomes == []
    assert not log.runner.start(lambda: job)
