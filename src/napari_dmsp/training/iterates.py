"""What the solvers show a denoiser: estimates whose errors are no white noise.

A denoiser that only ever saw noise takes the errors of an estimate, blur and the traces of
sampling, for detail. So some patches are degraded, and given to it as the solver would give them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.data import Gaussian
from ..core.mosaic import cfa_weights
from ..core.operators import Convolution, Mosaic, Operator, Resize
from ..core.prior import Denoiser
from ..core.psf import path_psf
from ..core.solvers import BLURRED, MOSAIC, SHARP, denoise_turned, draw_turn

# Reductions of super-resolution; widths of blurs in pixels, and sides of their frames; greatest
# noise of an observation; least width of a smoothing, and evaluations before the one that is
# trained: bounds of what is drawn.
REDUCTIONS, WIDTHS, SIDES = (1.5, 5.2), (0.5, 3.0), (7, 21)
MOST_NOISE, LEAST_SIGMA, MOST_PASSES = 12 / 255, 3 / 255, 6
# Patches must be larger than the frames of blurs.
LEAST_PATCH = 48
# Points of the path of a camera, and how much of its direction it keeps from one to the next.
PATH, PERSISTENCE = 64, 0.9

Draw = Callable[[], float]


@torch.no_grad()
def draw_iterates(
    denoiser: Denoiser, clean: Tensor, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Degrade patches, and begin to restore them with a denoiser that is being trained.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, sigma)``.
    clean : Tensor
        Patches (B, C, P, P) on a scale of 0..1.
    generator : torch.Generator
        CPU generator of all that is drawn.

    Returns
    -------
    estimates : Tensor
        (B, C, P, P), aligned with the patches.
    sigma : float
        Width of the smoothing at which a solver would show them to the denoiser.
    """
    tasks = [(_reduction, SHARP.kappa), (_blur, BLURRED.kappa), (_mosaic, MOSAIC.kappa)]

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    which = int(draw() * (3 if clean.shape[1] == 3 else 2))
    make, kappa = tasks[which]
    operator = make(clean, draw)
    noise = MOST_NOISE * draw() ** 2
    y = operator.forward(clean)
    y = y + noise * torch.randn(y.shape, generator=generator).to(y)
    data = Gaussian(operator=operator, y=y).within(noise, noise)
    passes = int(draw() * (MOST_PASSES + 1))
    least = math.log(max(LEAST_SIGMA, noise / 2))
    spread = math.log(SHARP.sigma_start) - least
    widths = sorted((math.exp(least + spread * draw()) for _ in range(passes + 1)), reverse=True)
    x = data.start()
    for sigma in widths[:-1]:
        x = denoise_turned(denoiser, x, sigma, draw_turn(generator))
        x = data.prox(x, kappa / sigma**2, None, sigma / 100, 5).x
    return x, widths[-1]


def _reduction(clean: Tensor, draw: Draw) -> Operator:
    """Antialiased bicubic reduction by any factor."""
    low, high = REDUCTIONS
    shape = tuple(clean.shape[2:])
    small = round(shape[0] / (low + (high - low) * draw()))
    return Resize(shape, (small, small), clean.device)


def _blur(clean: Tensor, draw: Draw) -> Operator:
    """Blur of a lens or of a shaken camera."""
    low, high = SIDES
    side = low + 2 * int(draw() * ((high - low) // 2 + 1))
    psf = _gaussian(side, draw) if draw() < 0.5 else _path(side, draw)
    rows, columns = clean.shape[2:]
    return Convolution(psf.to(clean), (rows - side + 1, columns - side + 1))


def _mosaic(clean: Tensor, draw: Draw) -> Operator:
    """Bayer pattern that begins with any of its pixels."""
    name = ("RGGB", "GRBG", "GBRG", "BGGR")[int(4 * draw())]
    rows, columns = clean.shape[2:]
    return Mosaic(torch.from_numpy(cfa_weights(name, (rows, columns))).to(clean))


def _gaussian(side: int, draw: Draw) -> Tensor:
    """Gaussian of any width that fits its frame."""
    low, high = WIDTHS
    width = low + (min(high, side / 5) - low) * draw()
    line = torch.exp(-0.5 * (torch.arange(side) - side // 2).square() / width**2)
    return torch.outer(line, line) / line.sum() ** 2


def _path(side: int, draw: Draw) -> Tensor:
    """Path of a camera that keeps some of its direction: a smoothed random walk in its frame."""
    velocity, points, place = [0.0, 0.0], [], [0.0, 0.0]
    for _ in range(PATH):
        velocity = [PERSISTENCE * v + draw() - 0.5 for v in velocity]
        place = [p + v for p, v in zip(place, velocity, strict=True)]
        points.append(place)
    path = np.array(points)
    path -= path.min(0)
    path *= (side - 3) / path.max()
    path -= path.max(0) / 2
    return torch.from_numpy(path_psf(path[:, 0], path[:, 1], side // 2))
