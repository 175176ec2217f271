"""The restoration core: torch, numpy and scikit-image only, no viewer and no Qt."""

from .._weights import priors_folder
from .errors import DmspError
from .inputs import Reference, read_input
from .job import Job, Problem, Restoration, prepare, run
from .prior import Prior, available_priors, load_prior, mean_shift
from .restore import (
    deblur,
    demosaic,
    prepare_deblur,
    prepare_demosaic,
    prepare_superres,
    superres,
)
from .solvers import State

__all__ = [
    "DmspError",
    "Job",
    "Prior",
    "Problem",
    "Reference",
    "Restoration",
    "State",
    "available_priors",
    "deblur",
    "demosaic",
    "load_prior",
    "mean_shift",
    "prepare",
    "prepare_deblur",
    "prepare_demosaic",
    "prepare_superres",
    "priors_folder",
    "read_input",
    "run",
    "superres",
]
