"""Restorations as workers make them: what they are sent, and the devices and threads they take."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from ..core import Job, load_prior
from ..core.blind import MIN_SIDE
from ..core.device import freed_memory
from ..core.inputs import check_psf
from ..core.mosaic import cfa_tile
from ..errors import DmspError
from .stacks import Pixels


@dataclass(frozen=True, eq=False)
class Task:
    """A restoration of windows (h, w, channels), ready to be sent to workers.

    ``arguments`` are those of ``prepare``. ``channel_axis`` is that of the source.
    """

    name: str
    prepare: Callable[..., Job]
    arguments: dict[str, Any]
    dtype: np.dtype[Any]
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if self.dtype.kind not in "ui" and self.dtype != np.float32:
            raise DmspError(f"dtype={self.dtype} must be float32 or an integer type.")

    @property
    def blind(self) -> bool:
        """Whether the point spread function is unknown."""
        return self.name == "deblur" and self.arguments["psf"] is None

    @property
    def colour(self) -> bool:
        """Whether a grey source gives a result in colour."""
        return self.name == "demosaic"

    @property
    def device(self) -> str:
        """Where to compute, as the user gave it."""
        return self.arguments.get("device", "auto")

    @property
    def scale(self) -> float:
        """Pixels of the result per pixel of the source, along one axis."""
        return self.arguments.get("scale", 1)

    @property
    def factor(self) -> Fraction:
        """The scale as a ratio of small numbers, as near as can be."""
        return Fraction(self.scale).limit_denominator(64)

    @property
    def period(self) -> tuple[int, int]:
        """Pixels after which the colour filters repeat, along both axes."""
        if not self.colour:
            return 1, 1
        _, height, width = cfa_tile(self.arguments["pattern"]).shape
        return height, width

    @property
    def token(self) -> dict[str, Any]:
        """All that the result depends on; floats differ a little between devices, no more."""
        prior = self.arguments.get("prior")
        if prior is not None:
            model = load_prior(prior)
            prior = model.name, model.sha256
        known = self.arguments | {"prior": prior, "device": None, "task": self.name}
        return known | {"dtype": str(self.dtype), "version": version("napari-dmsp")}

    def job(self, pixels: Pixels, mask: Pixels | None = None, **known: Any) -> Job:
        """Prepare the restoration of a window (h, w, channels); ``known`` replaces arguments."""
        axis = -1 if self.channel_axis is not None else None
        picture = pixels if axis == -1 else pixels[..., 0]
        gaps = None if mask is None else mask[..., 0]
        arguments = {"device": pick_worker_device(self.device)} | known
        return self.prepare(picture, channel_axis=axis, mask=gaps, **(self.arguments | arguments))

    @contextmanager
    def at_work(self, where: str) -> Iterator[None]:
        """Share the machine with other tasks, and say ``where`` a restoration failed."""
        try:
            with _one_thread(), _alone(self.device), freed_memory.kept():
                yield
        except DmspError as error:
            raise DmspError(f"{where}: {error}") from error

    def check(self) -> None:
        """Try the arguments on an image, to find those that suit none before any work."""
        psf = self.arguments.get("psf")
        side = max(2 * MIN_SIDE, 0 if psf is None else max(psf.shape, default=0))
        low, high = self.arguments.get("background"), self.arguments.get("white")
        # There may be one for each filter.
        low = 0.0 if low is None else float(np.mean(low))
        high = low + 1 if high is None else float(np.mean(high))
        ramp = np.linspace(low, high, side * side).reshape(side, side, 1)
        self.job(ramp if self.channel_axis is None else np.repeat(ramp, 3, -1), device="cpu")

    def check_window(self, smallest: tuple[int, int]) -> None:
        """Make sure that windows of this height and width can be restored."""
        psf = self.arguments.get("psf")
        if psf is not None:
            check_psf(psf, tuple(math.floor(n * self.factor) for n in smallest))
        if self.blind and min(smallest) < MIN_SIDE:
            raise DmspError(
                f"windows of {smallest[0]} x {smallest[1]} pixels are too small to find a psf in; "
                f"give one, or planes and tiles of at least {MIN_SIDE} pixels."
            )


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


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let one thread at a time use the GPUs: each would take all of their memory."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if name == "cpu" or not gpu:
        yield
        return
    with _device_lock:
        yield


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


def say_plane(index: Sequence[int]) -> str:
    """Name a plane in messages."""
    return f"plane {', '.join(map(str, index))}" if len(index) else "the plane"
