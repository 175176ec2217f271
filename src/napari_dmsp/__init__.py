"""Image restoration with deep mean-shift priors, in napari, Python and the terminal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core import DmspError, Restoration, deblur, demosaic, load_prior, superres

__all__ = ["DmspError", "Restoration", "deblur", "demosaic", "load_prior", "superres"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: only once something is asked for (PEP 562).
    if name in __all__:
        return getattr(import_module(".core", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
