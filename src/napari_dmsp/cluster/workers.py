"""Who computes: threads of this process, or workers of a cluster; their devices and threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from dask import config
from dask.system import CPU_COUNT

from ..core.device import freed_memory
from ..errors import DmspError
from ..plan import Plan
from ..plan.run import Work

CONNECT_SECONDS = 10

T = TypeVar("T")


@contextmanager
def connect(address: str | None) -> Iterator[Any]:
    """Give a client of a dask scheduler, to be used with ``with``; None without an address.

    Raises
    ------
    DmspError
        If nobody answers.
    """
    if address is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DmspError(f"no dask scheduler answers at {address}; check the address.") from error
    with client:
        yield client


@contextmanager
def workers(client: Any, calls: int) -> Iterator[Executor]:
    """Give an executor, to be used with ``with``.

    The workers of the client compute; without one, what dask is set to, by default threads of this
    process. A single call is made in this thread, and may use all cores.
    """
    scheduler = config.get("scheduler", None)
    if client is None and scheduler in ("dask.distributed", "distributed"):
        from distributed import default_client

        client = default_client()
    if client is not None:
        # Workers that die are no reason to give a call up; a call has no result but what it wrote.
        with client.get_executor(pure=False) as executor:
            yield Limited(executor, 2 * sum(client.nthreads().values()))
    elif calls <= 1 or scheduler in ("synchronous", "single-threaded", "sync"):
        yield Inline()
    else:
        count = config.get("num_workers", None) or CPU_COUNT
        with ThreadPoolExecutor(count) as executor:
            yield Limited(executor)


@dataclass(eq=False)
class Limited(Executor):
    """Makes every call share its machine with others.

    ``ahead`` says how many calls are submitted before the first is done, at least.
    """

    executor: Executor
    ahead: int = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Let the executor make a call."""
        return self.executor.submit(_limited, fn, *args, **kwargs)


class Inline(Executor):
    """Makes every call at once, in this thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Make a call; what it raises is raised here."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _limited(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    here = [on_worker(value) if isinstance(value, Plan | Work) else value for value in args]
    device = next((v.task.device for v in here if isinstance(v, Plan | Work)), "auto")
    with at_work(device):
        return function(*here, **kwargs)


W = TypeVar("W", bound=Plan | Work)


def on_worker(work: W) -> W:
    """Return a plan or a work for the device that computes here."""
    device = pick_worker_device(work.task.device)
    return replace(work, task=work.task.replace(device=device))


@contextmanager
def at_work(device: str) -> Iterator[None]:
    """Share the machine with other calls."""
    with _one_thread(), _alone(device), freed_memory.kept():
        yield


def pick_worker_device(name: str = "auto") -> str:
    """Return where a task computes: each worker of a cluster on its own, of several GPUs.

    Parameters
    ----------
    name : str
        As the user gave it; all but "auto" stays.
    """
    if name != "auto" or not torch.cuda.is_available() or torch.cuda.device_count() < 2:
        return name
    try:
        from distributed import get_worker

        worker = get_worker()
    except (ImportError, ValueError):
        return name
    # Names of workers end with their number, or the port of their address.
    digits = re.search(r"\d+$", str(worker.name))
    return f"cuda:{int(digits[0]) % torch.cuda.device_count()}" if digits else name


_device_lock = threading.Lock()


def _alone(name: str) -> AbstractContextManager[Any]:
    """Let one thread at a time use the GPUs: each would take all of their memory."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return _device_lock if gpu and name != "cpu" else nullcontext()


@dataclass
class _Threads:
    """How many threads torch had before tasks ran, and how many tasks run."""

    before: int = 1
    tasks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_threads = _Threads()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread in each of the threads that dask has.

    A task in the main thread is the only one, and may use all. Torch keeps the number per thread,
    and beside it that of the last call for threads that are new to it: both are restored.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    with _threads.lock:
        # Asking also lets torch initialise this thread, which would undo what is set here.
        number = torch.get_num_threads()
        if not _threads.tasks:
            _threads.before = number
        _threads.tasks += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _threads.lock:
            _threads.tasks -= 1
            torch.set_num_threads(_threads.before)
