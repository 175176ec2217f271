"""Degradations as linear operators: what A does, and nothing of data, noise, priors or solvers.

All act on tensors ``(B, C, *space)`` of two or three spatial axes.
"""

from .base import Operator
from .convolution import Convolution
from .mosaic import Mosaic
from .resample import Resize, fill_gaps, resize, resize_matrix
from .wide import WideConvolution, coarse_psf

__all__ = [
    "Convolution",
    "Mosaic",
    "Operator",
    "Resize",
    "WideConvolution",
    "coarse_psf",
    "fill_gaps",
    "resize",
    "resize_matrix",
]
