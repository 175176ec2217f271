"""Where to compute, in which precision, and in which state of torch and of the C library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _pop_mode_temporarily,
)
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import DmspError, OutOfMemoryError

OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "ALLOC_FAILED",
    "nable to find an engine",
)

# Parameters of glibc's malloc, and the greatest values that it gives them by itself. Threads other
# than the first give pieces of 64 MB back as soon as these are empty, but for the padding, and
# never keep larger ones.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
USUAL = {TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10, MMAP_THRESHOLD: 32 << 20}
KEEPING = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 << 20, MMAP_THRESHOLD: 2**31 - 1}


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; "auto" prefers CUDA, then MPS, then the CPU.

    Raises
    ------
    DmspError
        If the device is unknown or not present.
    """
    if name == "auto":
        if torch.cuda.is_available() and not torch.cuda._is_in_bad_fork():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise DmspError(f"device={name!r} is unknown; use auto, cpu, cuda or mps.") from None
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise DmspError(
            f"device={name!r} cannot be used in a process that was forked from one that used it; "
            "start processes by 'spawn', or use device='cpu'."
        )
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise DmspError(f"device={name!r} is not available here; use device='auto' or 'cpu'.")
    return device


@cache
def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are native, hence faster than float32, on ``device``."""
    if device.type == "cuda":
        # Older cards only emulate it.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        # Older releases of torch cannot tell.
        if not hasattr(torch.cpu, "get_capabilities"):
            return False
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


class Watch(TorchFunctionMode):
    """Calls ``check`` before everything that this thread asks of torch; `own_state` keeps it.

    Parameters
    ----------
    check : callable
        Raises an error to end what is computed.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self.check = check

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Check, and go on."""
        self.check()
        return function(*args, **(kwargs or {}))


class _Process:
    """Settings of torch that hold for all threads: usual ones as long as any thread computes."""

    def __init__(self) -> None:
        self.lock, self.users, self.forked = Lock(), 0, False
        self.found: list[tuple[Callable[[Any], None], Any]] = []

    def enter(self) -> None:
        """Set them, and remember what was found; the first of several users does."""
        with self.lock:
            self.users += 1
            if self.users > 1:
                return
            self.found = []
            dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
            if dtype != torch.float32:
                self.found.append((torch.set_default_dtype, dtype))
                torch.set_default_dtype(torch.float32)
            if precision != "highest":
                self.found.append((torch.set_float32_matmul_precision, precision))
                torch.set_float32_matmul_precision("highest")

    def leave(self) -> None:
        """Set again what was found; the last of several users does."""
        with self.lock:
            self.users -= 1
            for restore, value in () if self.users else self.found:
                restore(value)


_process = _Process()


def _begin_child() -> None:
    """Forget threads that a forked process does not have: those of other runs, and of OpenMP."""
    global _process
    _process = _Process()
    _process.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)


@contextmanager
def own_state(gradients: bool = False) -> Iterator[None]:
    """Compute alike whatever state of torch the caller is in, and leave him that state.

    Neither the caller's default device and dtype, gradient and inference mode, autocast, precision
    of products, treatment of denormal numbers, nor the modes and transforms (``torch.func``) around
    the call matter within, nor do NumPy's errors. Seeds, the number of threads and the choice of
    deterministic algorithms stay as they are: nothing here draws from the common generators. In a
    forked process, torch computes with one thread from now on: the others stayed in the parent, and
    it would wait for them for ever.

    Parameters
    ----------
    gradients : bool
        Whether gradients are recorded.
    """
    process = _process
    if process.forked:
        torch.set_num_threads(1)
        process.forked = False
    with ExitStack() as stack:
        process.enter()
        stack.callback(process.leave)
        # NumPy's own defaults.
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        watches = []
        # The default device is such a mode, too.
        while (mode := _get_current_function_mode()) is not None:  # type: ignore[no-untyped-call]
            watches += [mode] if isinstance(mode, Watch) else []
            stack.enter_context(_pop_mode_temporarily())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(flushed_denormals(False))
        for watch in watches:
            stack.enter_context(watch)
        yield


@contextmanager
def flushed_denormals(wanted: bool) -> Iterator[None]:
    """Let this thread take denormal numbers for zero, or not; then as before."""
    before = not (np.array([1e-310]) * 0.5)[0] > 0
    torch.set_flush_denormal(wanted)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _FreedMemory:
    """Lets the C library keep what is freed, as long as anything runs; glibc only.

    It returns large blocks to the system at once, and writing to new ones takes a fifth of the time
    of a network on a processor: the system clears every page. Used again, they cost nothing.
    """

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep it until the last of those who want that is done; then return all of it."""
        self._enter(1, KEEPING)
        try:
            yield
        finally:
            self._enter(-1, USUAL)

    def _enter(self, change: int, limits: dict[int, int]) -> None:
        with self._lock:
            self._users += change
            if self._users != max(change, 0):
                return
            library = _glibc()
            if library is None:
                return
            for name, value in limits.items():
                library.mallopt(name, value)
            if not self._users:
                library.malloc_trim(0)


freed_memory = _FreedMemory()


@cache
def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


@contextmanager
def explain_memory(say: Callable[[], str]) -> Iterator[None]:
    """Turn a lack of memory into an `OutOfMemoryError` of what ``say`` returns, if it is none."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory{say()}") from error


def explain_failures(
    device: torch.device | str, shape: Sequence[int] = (), needed: int | None = None
) -> AbstractContextManager[None]:
    """Turn a lack of memory into a `DmspError` with a remedy; ``needed`` is in bytes."""

    def say() -> str:
        where = pick_device(device) if isinstance(device, str) else device
        image = f" for an image of {' x '.join(map(str, shape))} pixels" if shape else ""
        estimate = "" if needed is None else f", which need about {needed / 1e9:.2g} GB"
        return (
            f" on {where}{image}{estimate}; restore a smaller region, give a smaller "
            "tile=, or choose another device; napari_dmsp.scale restores images of any size part "
            "by part."
        )

    return explain_memory(say)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device and in any of its libraries."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY
    )
