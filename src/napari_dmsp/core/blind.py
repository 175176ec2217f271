"""Kernel-blind deblurring: the point spread function from the blurred image alone.

Coarse to fine. On every level the image and the kernel are estimated in turns. The coarse levels
are cheap and decide everything, so several starts are followed there, and those that explain the
observation with the most probable image go on. The finest level makes the kernel exact. What is
found is then used like a known kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional as F

from ..errors import DmspError
from ..search import (
    COARSE_EDGES,
    DIRECTIONS,
    EVALUATIONS,
    EXACT_EVALUATIONS,
    EXACT_ROUNDS,
    FACTOR,
    MAX_WINDOW,
    PROBE_EDGES,
    PROBE_EVALUATIONS,
    PROBE_SIDE,
    WINDOW,
    WINDOW_SIZES,
    Stage,
    checked_size,
    count_evaluations,
    make_stages,
)
from .data import Gaussian
from .noise import wavelet_sigma
from .operators import Convolution, Operator, resize
from .prior import Denoiser, draw_normal, mean_shift
from .psf import centre_psf, crop_psf, normalise_psf, resize_psf
from .solvers import BLURRED, DAE_SIGMA, State, anneal, geometric

# First and last value within one update, on the scale 0..1: smoothing width and assumed noise.
SIGMAS = (30 / 255, 10 / 255)
NOISE = (8 / 255, 2 / 255)
# Injected noise, relative to the smoothing (eq. 19): wrong kernels must not be self-consistent.
GAMMA = 0.5
ACCURACY = 0.01
# Weight of the prior, as for `Schedule`. A stronger one makes wrong kernels self-consistent.
KAPPA = 0.23
# Weight of |k|^2 against gradients of an image of full size.
RIDGE = 5.0
# What is kept of a kernel: values above a part of the greatest, in connected pieces of some mass.
THRESHOLD = 0.05
TRACES = 0.01
LEAST_PIECE = 0.01
# Mass in the outermost pixels of a frame above which it is too small, and the part of its side by
# which it grows then. Frames that fit leave up to 0.03 there, those too small 0.07 to 0.19.
TOUCHES, GROWTH = 0.04, 0.1
# Least scale of the levels that are shown.
SHOWN = 0.7
# Part of a kernel that stays in the middle 3 x 3 pixels where an image is sharp. Motion of 4 pixels
# leaves 0.85.
STAYS = 0.98
# Restorations that go beyond the range of the blurred image by more, root mean square, are wrong.
MOST_BEYOND = 0.025
# Part of a reduced pixel that was observed, above which it is no gap.
WHOLE = 0.999
# Where a kernel is made exact: the part of the gradients, the least noise of a restoration, and the
# part of the energy that a round must save. What saves less follows the noise; above some level,
# all does.
EXACT_EDGES, EXACT_NOISE, LEAST_SAVED, MOST_NOISE = 0.2, 2 / 255, 0.03, 3 / 255
# Widths of the smoothing and of the assumed noise when candidates are compared.
JUDGE_SIGMA = 20 / 255
JUDGE_NOISE = 4 / 255
# Spectrum of images, which bounds the volume of those that explain an observation: power of a
# sample at one cycle per pixel.
SPECTRUM = 1e-4
# The published step lengths and momenta of the descent, for the image and for the kernel.
SGD_STEP, SGD_MOMENTUM = 0.3, 0.7
SGD_PSF_STEP, SGD_PSF_MOMENTUM = 0.005, 0.995


@dataclass(frozen=True, kw_only=True)
class BlindState(State):
    """One step of a search: ``psf`` is the kernel so far, (size, size), sum 1.

    Of the last, ``doubtful`` is whether the kernel explains the image no better than none.
    """

    psf: Tensor
    doubtful: bool = False


@dataclass
class _Candidate:
    kernel: NDArray[np.float64]
    energy: float = math.inf
    doubtful: bool = False


@dataclass(frozen=True)
class _Level:
    """The observation on one level: a window of the image, reduced."""

    y: Tensor
    stage: Stage
    # The least that is assumed.
    noise: float
    # 0 in gaps, else 1.
    weights: Tensor | None = None
    window: tuple[Any, ...] = (...,)

    def data(self, kernel: NDArray[np.float64]) -> Gaussian:
        """Return the data term of a kernel."""
        psf, shape = torch.from_numpy(kernel).to(self.y), tuple(self.y.shape[-2:])
        return Gaussian(operator=Convolution(psf, shape), y=self.y, weights=self.weights)


def search_blind(
    y: Tensor,
    psf_size: int | None,
    denoiser: Denoiser,
    *,
    kept: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[BlindState]:
    """Estimate the point spread function: one state per evaluation, the last holds the result.

    The last may come before the total, where no more makes the kernel better.

    Parameters
    ----------
    y : Tensor
        Observation (1, 1, H, W), on a scale where 0..1 is the range of the prior's images.
    psf_size : int, optional
        Side of the kernel's frame, odd: an upper bound. Without one the size is found, too, up to
        `search.default_size`.
    denoiser : callable
        ``denoiser(x, sigma)``, for any sigma up to about 35/255.
    kept : Tensor, optional
        (1, 1, H, W), 0 in gaps such as saturated pixels, else 1. Gaps must hold plausible values.
    generator : torch.Generator, optional
        CPU generator of the injected noise.

    Raises
    ------
    DmspError
        If the image is too small, or the size does not fit.

    Notes
    -----
    A kernel update restarts from the observation: a few steps as those of `anneal` with injected
    noise sharpen it, then the kernel is the ridge solution (the paper's ``M sigma^2 |k|^2``) for
    the strongest gradients, without its faint values and specks. Candidates are compared by the
    paper's objective, with ``x^T (x - r(x)) / (2 sigma^2)`` for minus the log of the smoothed
    prior, which it is for denoisers that are linear near ``x``.

    At last a whole restoration with the kernel gives another, as long as that lowers the objective,
    and the kernel is compared with no blur. That is the most probable kernel of all, but explains
    an observation in few ways: the objective is multiplied by the volume of the images that do.

    Where no size is given, starts on every level but the finest stand for kernels of every size,
    and the frame follows its kernel: it grows while the kernel touches it, and from level to level
    keeps one empty pixel around it.

    Large images are searched in the window that holds the most detail; the states show the rest
    unchanged, and all of it while several candidates are followed on coarse levels.

    References
    ----------
    .. [1] Cho and Lee, "Fast motion deblurring", 2009, DOI 10.1145/1618452.1618491.
    """
    _check_shape(y)
    size = checked_size(psf_size, y.shape[-2:])
    total = count_evaluations(y.shape[-2:], psf_size)
    stages = make_stages(size, psf_size is None)
    steps = _search(y, kept, stages, denoiser, generator)
    for evaluation, (x, level, noise, candidate) in enumerate(steps, 1):
        kernel = candidate.kernel
        data = level.data(kernel)
        residual, sharp = data.residual(data.error(x)), data.operator.crop(x)
        image = y.clone()
        # Coarse candidates are mostly wrong: they are not worth a look.
        if level.stage.scale >= SHOWN:
            shape = y[level.window].shape[-2:]
            image[level.window] = F.interpolate(sharp, shape, mode="bilinear")
        frame = size if psf_size else min(size, _odd(len(kernel) / level.stage.scale))
        # Interpolation leaves traces all over the frame.
        found = normalise_psf(resize_psf(kernel, 1 / level.stage.scale, frame), TRACES)
        psf = torch.from_numpy(found).to(y)
        doing = f"finding the PSF, level {len(stages) - level.stage.distance} of {len(stages)}"
        yield BlindState(
            image,
            evaluation,
            total,
            noise,
            residual,
            stage=doing,
            psf=psf,
            doubtful=candidate.doubtful,
        )


def probe_sharpness(
    y: Tensor,
    denoiser: Denoiser,
    *,
    kept: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[BlindState]:
    """Look whether an image is blurred at all: `search.PROBE_EVALUATIONS` states.

    Takes and raises what `search_blind` does. The states show the image as it is; their kernel
    begins as one pixel, and in blurred images it does not stay one, see `is_one_pixel`.
    """
    _check_shape(y)
    checked_size(None, y.shape[-2:])
    stage = Stage(0, PROBE_SIDE, False, PROBE_EDGES, False, None)
    level = _level(y, kept, stage, WINDOW)
    kernel = normalise_psf(np.zeros((PROBE_SIDE, PROBE_SIDE)))
    steps = _refine(_Candidate(kernel), level, stage.edges, denoiser, generator)
    for evaluation, (x, _, noise, found) in enumerate(steps, 1):
        data = level.data(found.kernel)
        residual, psf = data.residual(data.error(x)), torch.from_numpy(found.kernel).to(y)
        count, doing = PROBE_EVALUATIONS, "looking whether it is blurred"
        yield BlindState(y, evaluation, count, noise, residual, psf=psf, stage=doing)


def is_one_pixel(psf: NDArray[np.floating[Any]]) -> bool:
    """Whether a kernel that `probe_sharpness` found is no blur."""
    middle = tuple(slice((n - 3) // 2, (n + 3) // 2) for n in psf.shape)
    return bool(psf[middle].sum() >= STAYS * psf.sum())


def leaves_range(x: Tensor, y: Tensor, above: bool) -> bool:
    """Whether a restoration goes so far beyond the range of the blurred image that it is wrong.

    A wrong kernel makes an image ring. Blur takes from the range, but not much from that of a
    photograph; ``above`` is False where its highlights were clipped, and may be restored. Images
    are (B, C, H, W).
    """
    low, high = y.aminmax()
    beyond = (low - x).clamp(min=0).square()
    beyond = beyond + (x - high).clamp(min=0).square() if above else 2 * beyond
    return float(beyond.mean().sqrt()) > MOST_BEYOND * float(high - low)


def descend_blind(
    y: Tensor,
    psf_size: int | None,
    denoiser: Denoiser,
    *,
    iterations: int,
    dae_sigma: float = DAE_SIGMA,
    generator: torch.Generator | None = None,
) -> Iterator[BlindState]:
    """Descend on image and kernel together, as published: Table 1, rows NA and KE.

    For study. It has no coarse levels, so it finds small kernels at best; `search_blind` is what
    to use.

    Takes and raises what `search_blind` does; every one of the iterations evaluates the denoiser
    once, which was trained for noise of ``dae_sigma``.

    Notes
    -----
    The paper leaves open where the kernel starts and in which units its gradient is. Here the start
    is a flat kernel, the weights are normalised as in `descend`, and the kernel's gradient is
    divided by ``|x|^2``, which bounds its curvature.
    """
    _check_shape(y)
    shape = (y.shape[-2], y.shape[-1])
    size = checked_size(psf_size, shape)
    k = torch.full((size, size), size**-2.0, dtype=y.dtype, device=y.device)
    x = Convolution(k, shape).start(y)
    x_velocity, k_velocity = torch.zeros_like(x), torch.zeros_like(k)
    smoothing = math.sqrt(2) * dae_sigma
    for evaluation in range(1, iterations + 1):
        operator = Convolution(k, shape)
        data = Gaussian(operator=operator, y=y).within(0.0, math.inf)
        shift = mean_shift(denoiser, x, smoothing, stochastic=True, generator=generator)
        error = data.error(x)
        residual = data.residual(error)
        data = data.updated(error, operator.energy(y) * smoothing**2)
        trust = 1 / data.sigma**2
        scale = trust + 1 / dae_sigma**2
        ridge = y.numel() * smoothing**2
        k_update = trust / scale * (ridge * k - _correlation(x, error, size)) / x.square().sum()
        x_velocity = SGD_MOMENTUM * x_velocity - SGD_STEP / scale * (
            trust * data.gradient(error) - shift
        )
        k_velocity = SGD_PSF_MOMENTUM * k_velocity - SGD_PSF_STEP * k_update
        x = (x + x_velocity).clamp(0, 1)
        k = (k + k_velocity).clamp(min=0)
        k = k / k.sum()
        image = Convolution(k, shape).crop(x)
        sigma, doing = data.sigma, "finding the PSF"
        yield BlindState(image, evaluation, iterations, sigma, residual, psf=k, stage=doing)


def estimate_kernel(
    x: Tensor, y: Tensor, size: int, ridge: float, weights: Tensor | None = None, steps: int = 50
) -> Tensor:
    """Minimise ``w |x * k - y|^2 + ridge |k|^2`` over the valid domain, by conjugate gradients.

    Sharp images are (B, C, H + size - 1, W + size - 1), blurred ones and their weights
    (B, C, H, W); the kernel is (size, size), float64, on the CPU.
    """
    kernels = _Kernels(x, tuple(y.shape[-2:]), size)
    known = y if weights is None else weights * y
    energy = float(kernels.adjoint(known).square().sum())
    # Until the square of the residual is a small part of what it was.
    tolerance = math.sqrt(1e-7 * energy) / size / ridge
    nothing = y.new_zeros(1, 1, size, size)
    data = Gaussian(operator=kernels, y=y, weights=weights)
    k = data.prox(nothing, ridge, tolerance=tolerance, steps=steps).x
    return k[0, 0].cpu().double()


@dataclass(frozen=True, eq=False)
class _Kernels(Operator):
    """Valid part of the convolution of known images with an unknown kernel (1, 1, size, size)."""

    images: Tensor
    shape: tuple[int, ...]
    size: int

    def forward(self, x: Tensor) -> Tensor:
        blurred = torch.fft.irfft2(self._spectra * self._spectrum(x), s=self._frame)
        begin, (height, width) = self.size - 1, self.shape
        return blurred[..., begin : begin + height, begin : begin + width]

    def adjoint(self, y: Tensor) -> Tensor:
        spectra = self._spectrum(F.pad(y, (self.size - 1, 0) * 2))
        products = (self._spectra.conj() * spectra).sum((0, 1), keepdim=True)
        return torch.fft.irfft2(products, s=self._frame)[..., : self.size, : self.size]

    @cached_property
    def _frame(self) -> list[int]:
        return [next_fast_len(n, real=True) for n in self.images.shape[-2:]]

    @cached_property
    def _spectra(self) -> Tensor:
        return self._spectrum(self.images)

    def _spectrum(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, s=self._frame)


_Step = tuple[Tensor, _Level, float, _Candidate]


def _search(
    y: Tensor,
    kept: Tensor | None,
    stages: list[Stage],
    denoiser: Denoiser,
    generator: torch.Generator | None,
) -> Iterator[_Step]:
    """Follow the candidates up the pyramid; one step per evaluation."""
    candidates: list[_Candidate] = []
    for stage in stages:
        for candidate in candidates:
            candidate.kernel = _framed(candidate.kernel, FACTOR, stage)
        if stage.begins:
            candidates += _starts(stage)
        largest = max(len(candidate.kernel) for candidate in candidates) / stage.scale
        level = _level(y, kept, stage, WINDOW_SIZES * largest)
        rested = [replace(candidate) for candidate in candidates] if stage.rests else []
        for candidate in candidates:
            yield from _refine(candidate, level, stage.edges, denoiser, generator)
        candidates += rested
        if stage.keep is not None:
            for candidate in candidates:
                yield from _judge(candidate, level, denoiser)
            candidates = sorted(candidates, key=lambda c: c.energy)[: stage.keep]
    best = candidates[0]
    yield from _make_exact(best, level, denoiser, generator)
    none = _Candidate(normalise_psf(np.zeros_like(best.kernel)))
    yield from _judge(none, level, denoiser)
    best.doubtful = _weighed(best, level) > _weighed(none, level)
    # What is given away last is what was chosen.
    for x, noise in _sharpen(level, best.kernel, denoiser, 0.0, None):
        yield x, level, noise, best


def _starts(stage: Stage) -> list[_Candidate]:
    """Return one kernel of two pixels in each direction."""
    candidates, middle = [], stage.side // 2
    for row, column in DIRECTIONS:
        kernel = np.zeros((stage.side, stage.side))
        kernel[middle, middle] = kernel[middle + row, middle + column] = 0.5
        candidates.append(_Candidate(_framed(kernel, 1.0, stage)))
    return candidates


def _framed(kernel: NDArray[np.float64], factor: float, stage: Stage) -> NDArray[np.float64]:
    """Magnify a kernel into its frame on a level."""
    side = stage.side
    if stage.follows:
        # One empty pixel around what there is of it.
        side = min(side, _odd(factor * (max(crop_psf(kernel).shape) - 1) + 3))
    return centre_psf(resize_psf(kernel, factor, side))


def _level(y: Tensor, kept: Tensor | None, stage: Stage, window: float) -> _Level:
    """Reduce the most telling window of an image, at least so many pixels a side, for a level."""
    place = _busiest(y, min(MAX_WINDOW, max(WINDOW, round(window))))
    part, weights = y[place], None if kept is None else kept[place]
    # Antialiased reduction averages the noise.
    noise = wavelet_sigma(part, weights) * stage.scale
    if stage.distance:
        small = tuple(round(n * stage.scale) for n in part.shape[-2:])
        part = resize(part, small)
        weights = None if weights is None else (resize(weights, small) > WHOLE).to(part)
    return _Level(part, stage, noise, weights, place)


def _refine(
    candidate: _Candidate,
    level: _Level,
    edges: tuple[float, ...],
    denoiser: Denoiser,
    generator: torch.Generator | None,
) -> Iterator[_Step]:
    """Update a candidate's kernel on one level, once for each part of the gradients."""
    for part in edges:
        if level.stage.follows:
            candidate.kernel = _grown(candidate.kernel, level.stage.side)
        steps = _sharpen(level, candidate.kernel, denoiser, GAMMA, generator)
        for i, (x, noise) in enumerate(steps, 1):
            if i == EVALUATIONS:
                candidate.kernel = _update(x, level, len(candidate.kernel), part)
            yield x, level, noise, candidate


def _make_exact(
    candidate: _Candidate, level: _Level, denoiser: Denoiser, generator: torch.Generator | None
) -> Iterator[_Step]:
    """Update a judged candidate from whole restorations, as long as its energy falls."""
    if level.noise > MOST_NOISE:
        return
    schedule, least = replace(BLURRED, iterations=EXACT_EVALUATIONS), max(EXACT_NOISE, level.noise)
    for _ in range(EXACT_ROUNDS):
        data = level.data(candidate.kernel).within(least, math.inf)
        for state in anneal(data, denoiser, schedule, generator=generator):
            assert state.whole is not None
            x = state.whole
            yield x, level, state.noise_sigma, candidate
        if leaves_range(data.operator.crop(x), level.y, level.weights is None):
            # Of a wrong kernel, another would only hide the ringing by which it is known.
            return
        better = _Candidate(_update(x, level, len(candidate.kernel), EXACT_EDGES))
        yield from _judge(better, level, denoiser)
        if better.energy > (1 - LEAST_SAVED) * candidate.energy:
            return
        candidate.kernel, candidate.energy = better.kernel, better.energy


def _grown(kernel: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Widen the frame of a kernel that touches it, up to a side of the most."""
    side = len(kernel)
    if 1 - kernel[1:-1, 1:-1].sum() <= TOUCHES:
        return kernel
    return np.pad(kernel, min(max(1, round(GROWTH * side)), (most - side) // 2))


def _odd(size: float) -> int:
    """Round up to an odd number."""
    return 2 * math.ceil((size - 1) / 2) + 1


def _judge(candidate: _Candidate, level: _Level, denoiser: Denoiser) -> Iterator[_Step]:
    """Set a candidate's energy: the objective at a deblurred image."""
    data = level.data(candidate.kernel)
    for x, noise in _sharpen(level, candidate.kernel, denoiser, 0.0, None):
        yield x, level, noise, candidate
    error = data.error(x).square()
    error = error if level.weights is None else level.weights * error
    misfit = error.sum() / max(JUDGE_NOISE, level.noise) ** 2
    crop = data.operator.crop
    improbable = crop(x) * crop(x - denoiser(x, JUDGE_SIGMA))
    candidate.energy = float(misfit + improbable.sum() / JUDGE_SIGMA**2) / 2
    yield x, level, noise, candidate


def _weighed(candidate: _Candidate, level: _Level) -> float:
    """Return the energy times how well samples of the image are fixed, mean over frequencies."""
    kernel = candidate.kernel
    rows, columns = (max(len(kernel), n) for n in level.y.shape[-2:])
    power = np.abs(np.fft.rfft2(kernel, (rows, columns))) ** 2
    down, right = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)
    spectrum = SPECTRUM / np.maximum(down**2 + right**2, 1 / (rows * columns))
    noise = max(JUDGE_NOISE, level.noise) ** 2
    fixed = np.sqrt(power / noise + 1 / (spectrum + JUDGE_SIGMA**2))
    return float(candidate.energy * np.exp(np.log(fixed).mean()))


def _sharpen(
    level: _Level,
    kernel: NDArray[np.float64],
    denoiser: Denoiser,
    gamma: float,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, float]]:
    """Deblur from scratch in a few annealed steps: extended images and the noise assumed."""
    data = level.data(kernel)
    x = data.start()
    for i in range(EVALUATIONS):
        sigma = geometric(*SIGMAS, i, EVALUATIONS)
        noise = max(geometric(*NOISE, i, EVALUATIONS), level.noise)
        if gamma:
            x = x + gamma * sigma * draw_normal(x, generator)
        prior = denoiser(x, sigma * math.sqrt(1 + gamma**2))
        data = data.within(noise, noise)
        x = data.prox(prior, KAPPA / sigma**2, tolerance=ACCURACY * sigma).x
        yield x, noise


def _update(x: Tensor, level: _Level, side: int, part: float) -> NDArray[np.float64]:
    """Estimate the kernel from the strongest gradients of an extended image."""
    height, width = (n + side - 1 for n in level.y.shape[-2:])
    sharp, blurred = _gradients(x[..., :height, :width]), _gradients(level.y)
    strength = sharp.square().sum(1, keepdim=True)
    if level.stage.follows:
        part = min(
            max(part, COARSE_EDGES[0]), part * (WINDOW * level.stage.scale) ** 2 / level.y.numel()
        )
    count = max(1, round(part * strength.numel()))
    edges = strength >= strength.flatten().topk(count).values[-1]
    ridge = RIDGE * level.stage.scale**2
    k = estimate_kernel(sharp * edges, blurred, side, ridge, _known_gradients(level.weights))
    return centre_psf(_without_specks(normalise_psf(k.numpy(), THRESHOLD)))


def _without_specks(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove connected pieces that hold next to nothing; pixels touch at corners, too."""
    pieces, _ = label(psf > 0, np.ones((3, 3)))
    mass = np.bincount(pieces.ravel(), psf.ravel())
    return psf * (mass >= min(LEAST_PIECE, mass.max()))[pieces]


def _gradients(x: Tensor) -> Tensor:
    """(1, 1, H, W) to its forward differences (1, 2, H - 1, W - 1)."""
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., :-1, 1:] - corner, x[..., 1:, :-1] - corner], 1)


def _known_gradients(weights: Tensor | None) -> Tensor | None:
    """Return weights (1, 2, H - 1, W - 1) of the gradients between samples of weights."""
    if weights is None:
        return None
    corner = weights[..., :-1, :-1]
    return torch.cat([weights[..., :-1, 1:] * corner, weights[..., 1:, :-1] * corner], 1)


def _correlation(x: Tensor, error: Tensor, size: int) -> Tensor:
    """Gradient of ``|x * k - y|^2 / 2`` by the kernel, from the error ``x * k - y``."""
    height, width = error.shape[-2:]
    used = x[..., : height + size - 1, : width + size - 1]
    return F.conv2d(used, error)[0, 0].flip(0, 1)


def _busiest(y: Tensor, side: int) -> tuple[Any, ...]:
    """Choose the window with the largest sum of absolute gradients."""
    height, width = (min(n, side) for n in y.shape[-2:])
    if (height, width) == tuple(y.shape[-2:]):
        return (...,)
    strength = F.avg_pool2d(_gradients(y).abs().sum(1), (height - 1, width - 1), stride=8)[0]
    row, column = divmod(int(strength.argmax()), strength.shape[1])
    return (..., slice(8 * row, 8 * row + height), slice(8 * column, 8 * column + width))


def _check_shape(y: Tensor) -> None:
    if y.ndim != 4 or y.shape[:2] != (1, 1):
        raise DmspError(f"the observation has shape {tuple(y.shape)}; expected (1, 1, H, W).")
