"""Where to compute, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch

from .errors import DmspError

OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "ALLOC_FAILED",
    "nable to find an engine",
)


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
