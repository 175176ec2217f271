"""The restoration core: torch, numpy and scikit-image only, no viewer and no Qt."""

from .errors import DmspError
from .prior import Prior, available_priors, load_prior, mean_shift
from .restore import Job, Restoration, deblur, prepare_deblur, prepare_superres, run, superres
from .solvers import State

__all__ = [
    "DmspError",
    "Job",
    "Prior",
    "Restoration",
    "State",
    "available_priors",
    "deblur",
    "load_prior",
    "mean_shift",
    "prepare_deblur",
    "prepare_superres",
    "run",
    "superres",
]
