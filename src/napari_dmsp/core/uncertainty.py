"""How far to trust an estimate: what restoring it once more, from a new observation, changes.

A parametric bootstrap with one replicate: the estimate is taken for the truth, observed anew with
noise of the level that was found, and restored from scratch. What comes back differs from it by as
much as the data and the noise leave open; a factor makes up for the detail that the estimate has
no more. It is found with truths that are known, `benchmarks/uncertainty.py`.

References
----------
.. [1] Tachella, Pereyra, "Equivariant bootstrapping for uncertainty quantification in imaging
   inverse problems", AISTATS 2024, arXiv:2310.11838.
"""

from __future__ import annotations

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .data import Gaussian

# Width in pixels over which the squares of one replicate are averaged.
SMOOTHING = 2.0


def simulate(data: Gaussian, x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Observe an image as the data were observed.

    Parameters
    ----------
    data : Gaussian
        Degradation, weights and gaps of the observation.
    x : Tensor
        The unknown image (B, C, *space) of the operator.
    sigma : float
        Noise level of samples of weight 1.
    generator : torch.Generator
        CPU generator of the noise.
    """
    noise = sigma * torch.randn(data.y.shape, generator=generator).to(data.y)
    if data.weights is not None:
        tiny = torch.finfo(noise.dtype).tiny
        gaps = (data.weights == 0).expand_as(noise)
        noise = (noise * data.weights.clamp(min=tiny).rsqrt()).masked_fill(gaps, 0.0)
    return data.operator.forward(x) + noise


def deviation(difference: Tensor) -> Tensor:
    """Return the root of the mean square around every pixel of (B, C, *space)."""
    squares = difference.square().cpu().double().numpy()
    width = (0, 0, *(difference.ndim - 2) * (SMOOTHING,))
    return torch.from_numpy(gaussian_filter(squares, width)).clamp(min=0).sqrt().to(difference)
