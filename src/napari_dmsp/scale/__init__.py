"""Restoration of arrays larger than memory, plane by plane and tile by tile, with dask.

A plane that is cut into tiles keeps one noise level, one range and one point spread function: its
`Survey`, which a sample of the plane gives. All is lazy until `write` or ``compute``.
"""

from __future__ import annotations

from ..errors import DmspError

try:
    from .output import connect, write
    from .restore import deblur, demosaic, superres
    from .stacks import Axis, Stack, open_stack
    from .survey import Survey
    from .tasks import pick_worker_device
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
    "superres",
    "write",
]
