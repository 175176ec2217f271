"""The restoration core: torch, numpy and scikit-image only, no viewer and no Qt.

Its names are imported when they are asked for (PEP 562): torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .beads import BeadPsf, bead_psf
    from .inputs import Reference, read_input
    from .job import Job, Problem, Restoration, prepare, run
    from .microscope import Psf, microscope_psf, microscope_psf_shape, psf_shape
    from .prior import Prior, load_prior, mean_shift
    from .psf import focal_plane
    from .solvers import State
    from .tasks import prepare_deblur, prepare_demosaic, prepare_superres

# The modules in which the names are defined.
_ROOMS = {
    "beads": ("BeadPsf", "bead_psf"),
    "inputs": ("Reference", "read_input"),
    "job": ("Job", "Problem", "Restoration", "prepare", "run"),
    "microscope": ("Psf", "microscope_psf", "microscope_psf_shape", "psf_shape"),
    "prior": ("Prior", "load_prior", "mean_shift"),
    "psf": ("focal_plane",),
    "solvers": ("State",),
    "tasks": ("prepare_deblur", "prepare_demosaic", "prepare_superres"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BeadPsf",
    "Job",
    "Prior",
    "Problem",
    "Psf",
    "Reference",
    "Restoration",
    "State",
    "bead_psf",
    "focal_plane",
    "load_prior",
    "mean_shift",
    "microscope_psf",
    "microscope_psf_shape",
    "prepare",
    "prepare_deblur",
    "prepare_demosaic",
    "prepare_superres",
    "psf_shape",
    "read_input",
    "run",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would take any name for one that is here.
    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(f".{_HOME[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
