"""How many cases the tests make up, and with which seed.

The suite is short: of what the tests generate (bad input, runs in the viewer, moments at which
memory runs out or a process is killed) it tries a few. Ten times as many, and others::

    xvfb-run -a pytest --times 10 --first-seed 1 --timeout 0 tests/test_bad_input.py \
        tests/napari/test_bad_layers.py tests/napari/test_random_runs.py tests/test_killed.py \
        tests/test_memory.py

One thread computes: on a busy machine, two that wait for each other take many times as long for the
small images of the tests.
"""

from __future__ import annotations

import os
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import napari_dmsp

# Before torch is loaded; programs that tests start have it, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--times", type=int, default=1, help="how many times as many cases")
    parser.addoption("--first-seed", type=int, default=0, help="seed of the first case")


@pytest.fixture(scope="session")
def times(pytestconfig):
    """How many times as many cases are wanted as the suite has."""
    return pytestconfig.getoption("times")


@pytest.fixture(scope="session")
def cases(pytestconfig, times):
    """Return what makes a test of hypothesis try so many cases, or more with --times."""
    from hypothesis import HealthCheck, seed, settings

    def wanted(count):
        about = settings(
            max_examples=count * times,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return lambda test: seed(pytestconfig.getoption("first_seed"))(about(test))

    return wanted


PACKAGE = str(Path(napari_dmsp.__file__).parent) + os.sep
# Setting the state of torch and back takes no memory, nor does reading a command line.
SAFE = (os.path.join("core", "device.py"), "cli.py")


@contextmanager
def traced(see):
    """Call `see` with the frame of every line of the package that this thread runs."""

    def trace(frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.endswith(SAFE):
            return None
        if event == "line":
            see(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def memory_out_at(place):
    """Let memory run out where a line is run for the first time, as NumPy or torch say so."""

    def see(frame):
        if place == (frame.f_code.co_filename, frame.f_lineno):
            if "torch" in frame.f_globals:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
            raise MemoryError

    with traced(see):
        yield


@pytest.fixture
def memory_out(pytestconfig, times):
    """Return what yields, for some lines of a run, their place and a context without memory.

    The first line is not among them: it is the one that sees to the errors of the others.
    """

    def moments(run, count):
        seen = {}
        with traced(lambda f: seen.setdefault((f.f_code.co_filename, f.f_lineno))):
            run()
        rng, places = random.Random(pytestconfig.getoption("first_seed")), list(seen)[1:]
        for place in rng.sample(places, min(len(places), count * times)):
            yield place, memory_out_at(place)

    return moments
