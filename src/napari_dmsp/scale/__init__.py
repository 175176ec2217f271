"""Restoration of arrays larger than memory, plane by plane and part by part, with dask.

A plane that is cut into parts keeps one noise level, one range and one point spread function: its
`Survey`, which a sample of the plane gives. All is lazy until `write` or ``compute``.
"""

from __future__ import annotations

from typing import Any

from ..errors import DmspError
from ..settings import TASKS

try:
    from ..cluster.output import write
    from ..cluster.workers import connect, pick_worker_device
    from ..files import Axis, Stack, open_stack
    from ..plan.survey import Survey
    from .restore import lazy_function, restore
except ImportError as error:
    raise DmspError(
        f"restoring stacks needs the package {error.name!r}; install it: "
        'pip install "napari-dmsp[scale]".'
    ) from error

__all__ = [
    "Axis",
    "Stack",
    "Survey",
    "connect",
    "deblur",
    "demosaic",
    "open_stack",
    "pick_worker_device",
    "restore",
    "superres",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in TASKS:
        return lazy_function(TASKS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
