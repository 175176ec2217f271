"""Image restoration with deep mean-shift priors, in napari, Python and the terminal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.job import Restoration
    from .core.prior import load_prior
    from .errors import DmspError
    from .priors import available_priors
    from .restore import Restore
    from .settings import Photons

    deblur: Restore
    demosaic: Restore
    superres: Restore

# Where all names but the tasks are defined: torch takes seconds to import, so that they are
# imported when they are asked for (PEP 562).
_HOME = {
    "DmspError": ".errors",
    "Photons": ".settings",
    "Restoration": ".core.job",
    "available_priors": ".priors",
    "load_prior": ".core.prior",
}

__all__ = [
    "DmspError",
    "Photons",
    "Restoration",
    "available_priors",
    "deblur",
    "demosaic",
    "load_prior",
    "superres",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would take any name for one that is here.
    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(_HOME[name], __name__), name)
        if name in import_module(".settings", __name__).TASKS:
            return getattr(import_module(".restore", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
