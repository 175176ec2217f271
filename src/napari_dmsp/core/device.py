"""Where to compute, and in which precision."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch

from ..errors import DmspError

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
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DmspError(f"device={name!r} is unknown; use auto, cpu, cuda or mps.") from None
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
def explain_failures(
    device: torch.device, shape: Sequence[int], needed: int | None = None
) -> Iterator[None]:
    """Turn what the machine cannot do into a `DmspError` with a remedy; ``needed`` is in bytes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise DmspError(f"the restoration failed on {device}: {error}") from error
        estimate = "" if needed is None else f", which need about {needed / 1e9:.2g} GB"
        raise DmspError(
            f"out of memory on {device} for an image of {shape[0]} x {shape[1]} pixels{estimate}; "
            "restore a smaller region, give a smaller tile=, or choose another device; "
            "napari_dmsp.scale restores images of any size part by part."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device and in any of its libraries."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY
    )
