"""Volumes: a prior for planes that sees slices of all three orientations, and a first estimate."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import VOLUME_EVALUATIONS
from ..windows import COARSE, MIN_SIDE, is_wide
from .noise import ShotLine
from .operators import Convolution, WideConvolution, coarse_psf, fill_gaps
from .prior import Denoiser
from .solvers import Schedule, denoise_turned, draw_turn

# Voxels around the frame that are denoised with it; what lies beyond is left to the data.
MARGIN = 8
# Pixels of the slices that a prior takes at once: few stay in the caches of a processor.
CPU_PIXELS, GPU_PIXELS = 2**16, 2**22
# Steps of Richardson and Lucy for a first estimate, and the greatest change of a voxel in one.
FIRST_STEPS, GREATEST_CHANGE = 40, 20.0
# The range of the prior is so many times the 99.9th percentile of the first estimate: contrast
# still rises from there.
HEADROOM = 3.0

VOLUME = Schedule(
    iterations=VOLUME_EVALUATIONS,
    kappa=0.2,
    momentum=0.7,
    denoise_last=True,
    steps=(5,),
    most_steps=5,
    resumed=True,
    error_factor=1.8,
    error_floor=0.65,
)


@dataclass(frozen=True, eq=False)
class Slices:
    """Shows a prior for planes the slices of a volume, another orientation in each evaluation.

    Attributes
    ----------
    operator : Convolution
        The degradation, whose unknown volumes are larger than the frame.
    """

    operator: Convolution
    _axes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        shape = self.operator.shape
        # Slices across an axis have the other two for sides.
        axes = [a for a in range(3) if min(n for b, n in enumerate(shape) if b != a) >= MIN_SIDE]
        object.__setattr__(self, "_axes", tuple(axes))

    def __call__(
        self,
        prior: Denoiser,
        x: Tensor,
        sigma: float,
        evaluation: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Denoise the frame of (1, 1, *space) and a margin."""
        axis = self._axes[(evaluation - 1) % len(self._axes)]
        turn = draw_turn(generator)
        # Of an even side, one end has a pixel less.
        room = tuple(min(MARGIN, (k - 1) // 2) for k in self.operator.psf.shape)
        result = x.clone()
        slices = self.operator.frame(result, room)[0, 0].movedim(axis, 0)[:, None]
        most = GPU_PIXELS if x.is_cuda else CPU_PIXELS
        count = max(1, most // (slices.shape[-2] * slices.shape[-1]))
        for begin in range(0, len(slices), count):
            some = slices[begin : begin + count]
            some.copy_(denoise_turned(prior, some.contiguous(), sigma, turn))
        return result


def choose_operator(psf: Tensor, shape: tuple[int, ...]) -> Convolution:
    """Return the blur of a volume: of a wide PSF, one that leaves out what is far from the frame.

    Parameters
    ----------
    psf : Tensor
        Point spread function (kd, kh, kw).
    shape : tuple of int
        Depth, height and width of the observation.
    """
    odd = all(k % 2 for k in psf.shape)
    return (WideConvolution.split if odd and is_wide(shape, psf.shape) else Convolution)(psf, shape)


def far_light(
    operator: Convolution, psf: Tensor, y: Tensor, kept: Tensor | None, line: ShotLine | None
) -> Tensor | None:
    """Return the light in an observation that comes from beyond the volume of its operator.

    It is what a first estimate of a much larger volume sends, on the coarse grid of
    `WideConvolution`: so little of it is sharp that more would not be seen.

    Parameters
    ----------
    operator : Convolution
        What `choose_operator` returned; None is returned unless it leaves something out.
    psf : Tensor
        All of the PSF (kd, kh, kw).
    y, kept, line
        As for `first_estimate`.
    """
    if not isinstance(operator, WideConvolution):
        return None
    *_, height, width = y.shape
    whole = F.pad(fill_gaps(y, kept), (0, -width % COARSE, 0, -height % COARSE, 0, 0), "replicate")
    step = (1, COARSE, COARSE)
    small = F.avg_pool3d(whole, step)
    coarse = Convolution(coarse_psf(psf), tuple(small.shape[2:]))
    x = first_estimate(coarse, small, None, line)
    near = (k // 2 // s for k, s in zip(operator.psf.shape, step, strict=True))
    room = tuple(min(r, (k - 1) // 2) for r, k in zip(near, coarse.psf.shape, strict=True))
    coarse.frame(x, room).zero_()
    light = F.interpolate(coarse.forward(x), scale_factor=step, mode="trilinear")
    return light[..., :height, :width].clamp(min=0)


def first_estimate(
    operator: Convolution,
    y: Tensor,
    kept: Tensor | None,
    line: ShotLine | None,
    beyond: Tensor | None = None,
) -> Tensor:
    """Return what a few steps of Richardson and Lucy find, as if nothing lay beyond the data.

    Parameters
    ----------
    operator : Convolution
        The degradation.
    y : Tensor
        Observation (1, 1, *space), zero where there is no light.
    kept : Tensor, optional
        0 in gaps, else 1.
    line : ShotLine, optional
        The noise of reading makes as much noise as some more light.
    beyond : Tensor, optional
        Light that was subtracted from the observation, see `far_light`.

    References
    ----------
    .. [1] M. Bertero, P. Boccacci, "A simple method for the reduction of boundary effects in the
       Richardson-Lucy approach to image deconvolution", A&A 2005, DOI 10.1051/0004-6361:20052717.
    """
    kept = torch.ones_like(y) if kept is None else kept.expand_as(y)
    extra = torch.zeros_like(y) if beyond is None else beyond
    if line is not None:
        extra = extra + max(line.offset / line.slope, 0.0)
    seen = operator.adjoint(kept)
    floor = 1e-6 * float(y.abs().max())
    light = kept * (y + extra).clamp(min=floor)
    x = torch.full_like(seen, max(float(y.mean()), floor))
    for _ in range(FIRST_STEPS):
        ratio = light / (operator.forward(x) + extra).clamp(min=floor)
        change = operator.adjoint(ratio) / seen.clamp(min=1e-2)
        x = x * change.clamp(0, GREATEST_CHANGE)
    return x
