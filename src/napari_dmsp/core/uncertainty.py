"""How far to trust an estimate: what restoring it once more, from a new observation, changes.

An equivariant bootstrap with one replicate: the estimate, moved by a pixel, is taken for the truth,
observed anew with noise of the level that was found, and restored from scratch. Sparse samples and
filters thereby see other pixels of it than those that it was made from. What comes back differs by
as much as the data and the noise leave open; a factor makes up for the detail that the estimate has
no more. It is found with truths that are known, `benchmarks/uncertainty.py`.

References
----------
.. [1] Tachella, Pereyra, "Equivariant bootstrapping for uncertainty quantification in imaging
   inverse problems", AISTATS 2024, arXiv:2310.11838.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .data import Gaussian, PoissonGaussian

# Width in pixels over which the squares of one replicate are averaged.
SMOOTHING = 2.0


def shift(x: Tensor) -> Tensor:
    """Move (B, C, *space) by a pixel along every axis of space; the edge is repeated."""
    return _moved(x, (1, 0))


def shift_back(x: Tensor) -> Tensor:
    """Undo `shift`, but for the last pixels of every axis, which repeat those before them."""
    return _moved(x, (0, 1))


def _moved(x: Tensor, room: tuple[int, int]) -> Tensor:
    padded = F.pad(x, (x.ndim - 2) * room, mode="replicate")
    for axis in range(2, x.ndim):
        padded = padded.narrow(axis, room[1], x.shape[axis])
    return padded


def simulate(data: Gaussian, x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Observe an image as the data were observed; noise of photons is that of its own light.

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
    clean = data.operator.forward(x)
    if isinstance(data, PoissonGaussian):
        data = data.at(clean)
    return clean + draw_noise(data, sigma, generator)


def draw_noise(data: Gaussian, sigma: float, generator: torch.Generator) -> Tensor:
    """Draw noise of the level of every sample, sigma for those of weight 1; gaps have none."""
    noise = sigma * torch.randn(data.y.shape, generator=generator).to(data.y)
    if data.weights is not None:
        tiny = torch.finfo(noise.dtype).tiny
        gaps = (data.weights == 0).expand_as(noise)
        noise = (noise * data.weights.clamp(min=tiny).rsqrt()).masked_fill(gaps, 0.0)
    return noise


def deviation(difference: Tensor) -> Tensor:
    """Return the root of the mean square around every pixel of (B, C, *space)."""
    squares = difference.square().cpu().double().numpy()
    width = (0, 0, *(difference.ndim - 2) * (SMOOTHING,))
    return torch.from_numpy(gaussian_filter(squares, width)).clamp(min=0).sqrt().to(difference)
