"""Kernel-blind deblurring: the point spread function from the blurred image alone.

Coarse to fine. On every level the image and the kernel are estimated in turns. The coarse levels
are cheap and decide everything, so several starts are followed there, and those that explain the
observation with the most probable image go on. What is found is then used like a known kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .errors import DmspError
from .kernel import centre_psf, normalise_psf, resize_psf
from .noise import wavelet_sigma
from .operators import Blur, resize_matrix
from .prior import Denoiser
from .solvers import State

MIN_SIDE = 64
MAX_SIZE = 31
# Between the levels of the pyramid.
FACTOR = math.sqrt(2)
# Kernel updates on a level, and evaluations of the denoiser for each.
UPDATES = 6
EVALUATIONS = 4
# First and last value within one update, on the scale 0..1: smoothing width and assumed noise.
SIGMAS = (30 / 255, 10 / 255)
NOISE = (8 / 255, 2 / 255)
# Injected noise, as for `iterate_annealed`: it keeps wrong kernels from being self-consistent.
GAMMA = 0.5
ACCURACY = 0.01
# What part of the gradients enters the kernel, the strongest ones, and kappa of
# `iterate_annealed`. The first lead a wrong kernel to the right one, the second make a nearly right
# one exact: the starts take the first, finer levels try both.
WAYS = ((0.1, 0.23), (0.2, 1.0))
# Weight of |k|^2 against gradients of an image of full size, and kernel values that are kept.
RIDGE = 5.0
THRESHOLD = 0.05
# Starts: one kernel of two pixels in each direction, on each of the coarsest levels.
BEGINS = 3
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
# How many candidates go on from a level, by its distance from the finest.
KEEP = {4: 3, 3: 2, 2: 1, 1: 1, 0: 1}
# Widths of the smoothing and of the assumed noise when candidates are compared.
JUDGE_SIGMA = 20 / 255
JUDGE_NOISE = 4 / 255


@dataclass(frozen=True, kw_only=True)
class BlindState(State):
    """One step of a kernel estimation.

    Attributes
    ----------
    psf : Tensor
        The kernel so far, (size, size), sum 1, on the scale of the observation.
    """

    psf: Tensor


@dataclass
class _Candidate:
    kernel: NDArray[np.float64]
    begin: int
    way: tuple[float, float] = WAYS[0]
    energy: float = math.inf


@dataclass(frozen=True)
class _Level:
    """The observation on one level; ``noise`` is the least that is assumed."""

    y: Tensor
    scale: float
    side: int
    noise: float

    def blur(self, kernel: NDArray[np.float64]) -> Blur:
        return Blur(torch.from_numpy(kernel).to(self.y), (self.y.shape[-2], self.y.shape[-1]))


def iterate_blind(
    y: Tensor,
    psf_size: int | None,
    denoiser: Denoiser,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[BlindState]:
    """Estimate the point spread function: one state per evaluation, the last holds the result.

    Parameters
    ----------
    y : Tensor
        Observation (1, 1, H, W), on a scale where 0..1 is the range of the prior's images.
    psf_size : int, optional
        Side of the kernel's frame, odd: an upper bound. None takes `default_size`.
    denoiser : callable
        ``denoiser(x, sigma)``, for any sigma up to about 35/255.
    generator : torch.Generator, optional
        CPU generator of the injected noise.

    Raises
    ------
    DmspError
        If the image is too small, or the size does not fit.

    Notes
    -----
    A kernel update restarts from the observation: a few steps of `iterate_annealed` with injected
    noise sharpen it, then the kernel is the ridge solution (the paper's ``M sigma^2 |k|^2``) for
    the strongest gradients. Candidates are compared by the paper's objective, with
    ``x^T (x - r(x)) / (2 sigma^2)`` for minus the log of the smoothed prior, which it is for
    denoisers that are linear near ``x``.

    References
    ----------
    .. [1] Cho and Lee, "Fast motion deblurring", 2009, DOI 10.1145/1618452.1618491.
    """
    if y.ndim != 4 or y.shape[:2] != (1, 1):
        raise DmspError(f"the observation has shape {tuple(y.shape)}; expected (1, 1, H, W).")
    size = psf_size if psf_size is not None else default_size(y.shape[-2:])
    _check_size(size, y.shape[-2:])
    sizes = level_sizes(size)
    total = _count(len(sizes))
    for evaluation, (x, level, noise, kernel) in enumerate(
        _search(y, sizes, denoiser, generator), 1
    ):
        operator = level.blur(kernel)
        residual = float((operator.forward(x) - level.y).square().mean().sqrt())
        preview = F.interpolate(operator.crop(x), y.shape[-2:], mode="bilinear")
        psf = torch.from_numpy(resize_psf(kernel, 1 / level.scale, size)).to(y)
        yield BlindState(preview, evaluation, total, noise, residual, psf=psf)


def default_size(shape: tuple[int, ...]) -> int:
    """Return the side of the largest kernel that is looked for in an image of this shape."""
    return min(MAX_SIZE, (min(shape) // 4 - 1) // 2 * 2 + 1)


def level_sizes(size: int) -> list[int]:
    """Return the odd sides of the kernel's frame, from the coarsest level to the finest.

    There is one level more than it takes to come down to 3, and levels enough to compare the
    starts on a coarse one.
    """
    sizes = [size]
    while sizes[0] > 3 or len(sizes) <= max(KEEP):
        side = size / FACTOR ** len(sizes)
        sizes.insert(0, max(3, 2 * round((side - 1) / 2) + 1))
    return [3, *sizes]


def estimate_kernel(x: Tensor, y: Tensor, size: int, ridge: float, steps: int = 50) -> Tensor:
    """Minimise ``|x * k - y|^2 + ridge |k|^2`` over the valid domain, by conjugate gradients.

    Parameters
    ----------
    x : Tensor
        Sharp images (B, C, H + size - 1, W + size - 1).
    y : Tensor
        Blurred images (B, C, H, W).
    size : int
        Side of the kernel.
    ridge : float
        Weight of the kernel's energy.
    steps : int
        Most steps.

    Returns
    -------
    Tensor
        (size, size), float64, on the CPU.
    """
    shape, border = x.shape[-2:], size - 1
    spectrum = torch.fft.rfft2(x.double().cpu())

    def adjoint(v: Tensor) -> Tensor:
        padded = F.pad(v, (border, 0, border, 0))
        products = (spectrum.conj() * torch.fft.rfft2(padded)).sum((0, 1))
        return torch.fft.irfft2(products, s=shape)[:size, :size]

    def normal(k: Tensor) -> Tensor:
        blurred = torch.fft.irfft2(spectrum * torch.fft.rfft2(k, s=shape), s=shape)
        return adjoint(blurred[..., border:, border:]) + ridge * k

    residual = adjoint(y.double().cpu())
    k = torch.zeros_like(residual)
    direction, product = residual, residual.square().sum()
    target = 1e-8 * product
    for _ in range(steps):
        if product <= target:
            break
        image = normal(direction)
        length = product / (direction * image).sum()
        k = k + length * direction
        residual = residual - length * image
        previous, product = product, residual.square().sum()
        direction = residual + (product / previous) * direction
    return k


_Step = tuple[Tensor, _Level, float, NDArray[np.float64]]


def _search(
    y: Tensor, sizes: list[int], denoiser: Denoiser, generator: torch.Generator | None
) -> Iterator[_Step]:
    """Follow the candidates up the pyramid; one step per evaluation."""
    candidates = _starts()
    noise = wavelet_sigma(y)
    for index, side in enumerate(sizes):
        distance = len(sizes) - 1 - index
        scale = FACTOR**-distance
        # Antialiased reduction averages the noise.
        level = _Level(_reduced(y, scale), scale, side, noise * scale)
        if distance < max(KEEP):
            candidates = [replace(c, way=way) for c in candidates for way in WAYS]
        for candidate in candidates:
            if index >= candidate.begin:
                factor = FACTOR if index > candidate.begin else 1.0
                candidate.kernel = centre_psf(resize_psf(candidate.kernel, factor, side))
                yield from _refine(candidate, level, denoiser, generator)
        if distance in KEEP:
            for candidate in candidates:
                yield from _judge(candidate, level, denoiser)
            candidates = sorted(candidates, key=lambda c: c.energy)[: KEEP[distance]]


def _starts() -> list[_Candidate]:
    candidates = []
    for begin in range(BEGINS):
        for row, column in DIRECTIONS:
            kernel = np.zeros((3, 3))
            kernel[1, 1] = kernel[1 + row, 1 + column] = 0.5
            candidates.append(_Candidate(kernel, begin))
    return candidates


def count_evaluations(shape: tuple[int, ...], psf_size: int | None = None) -> int:
    """Count the evaluations of `iterate_blind`, or raise as it does."""
    size = psf_size if psf_size is not None else default_size(shape)
    _check_size(size, shape)
    return _count(len(level_sizes(size)))


def _count(levels: int) -> int:
    """Count the evaluations of the whole search."""
    total, begins = 0, [c.begin for c in _starts()]
    for index in range(levels):
        distance = levels - 1 - index
        begins *= len(WAYS) if distance < max(KEEP) else 1
        total += UPDATES * EVALUATIONS * sum(begin <= index for begin in begins)
        if distance in KEEP:
            total += (EVALUATIONS + 1) * len(begins)
            begins = begins[: KEEP[distance]]
    return total


def _refine(
    candidate: _Candidate, level: _Level, denoiser: Denoiser, generator: torch.Generator | None
) -> Iterator[_Step]:
    """Update a candidate's kernel on one level."""
    edges, kappa = candidate.way
    for _ in range(UPDATES):
        steps = _sharpen(level, candidate.kernel, denoiser, kappa, GAMMA, generator)
        for i, (x, noise) in enumerate(steps, 1):
            if i == EVALUATIONS:
                candidate.kernel = _update(x, level, edges)
            yield x, level, noise, candidate.kernel


def _judge(candidate: _Candidate, level: _Level, denoiser: Denoiser) -> Iterator[_Step]:
    """Set a candidate's energy: the objective at a deblurred image."""
    operator = level.blur(candidate.kernel)
    for x, noise in _sharpen(level, candidate.kernel, denoiser, WAYS[0][1], 0.0, None):
        yield x, level, noise, candidate.kernel
    data = (operator.forward(x) - level.y).square().sum() / max(JUDGE_NOISE, level.noise) ** 2
    improbable = operator.crop(x) * operator.crop(x - denoiser(x, JUDGE_SIGMA))
    candidate.energy = float(data + improbable.sum() / JUDGE_SIGMA**2) / 2
    yield x, level, noise, candidate.kernel


def _sharpen(
    level: _Level,
    kernel: NDArray[np.float64],
    denoiser: Denoiser,
    kappa: float,
    gamma: float,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, float]]:
    """Deblur from scratch in a few annealed steps: extended images and the noise assumed."""
    operator = level.blur(kernel)
    x = operator.start(level.y)
    backprojected = operator.adjoint(level.y)
    for i in range(EVALUATIONS):
        fraction = i / (EVALUATIONS - 1)
        sigma = SIGMAS[0] ** (1 - fraction) * SIGMAS[1] ** fraction
        noise = max(NOISE[0] ** (1 - fraction) * NOISE[1] ** fraction, level.noise)
        if gamma:
            normal = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            x = x + gamma * sigma * normal
        prior = denoiser(x, sigma * math.sqrt(1 + gamma**2))
        weight = kappa * noise**2 / sigma**2
        x = operator.solve(backprojected + weight * prior, 1.0, weight, prior, ACCURACY * sigma)
        yield x, noise


def _update(x: Tensor, level: _Level, part: float) -> NDArray[np.float64]:
    """Estimate the kernel from the strongest gradients of an extended image."""
    height, width = (n + level.side - 1 for n in level.y.shape[-2:])
    sharp, blurred = _gradients(x[..., :height, :width]), _gradients(level.y)
    strength = sharp.square().sum(1, keepdim=True)
    count = max(1, round(part * strength.numel()))
    edges = strength >= strength.flatten().topk(count).values[-1]
    k = estimate_kernel(sharp * edges, blurred, level.side, RIDGE * level.scale**2)
    return centre_psf(normalise_psf(k.numpy(), THRESHOLD))


def _gradients(x: Tensor) -> Tensor:
    """(1, 1, H, W) to its forward differences (1, 2, H - 1, W - 1)."""
    corner = x[..., :-1, :-1]
    return torch.cat([x[..., :-1, 1:] - corner, x[..., 1:, :-1] - corner], 1)


def _reduced(y: Tensor, scale: float) -> Tensor:
    """Resize, antialiased."""
    if scale == 1:
        return y
    rows, columns = (
        torch.from_numpy(resize_matrix(n, round(n * scale))).to(y) for n in y.shape[-2:]
    )
    return rows @ y @ columns.mT


def _check_size(size: int, shape: tuple[int, ...]) -> None:
    if min(shape) < MIN_SIDE:
        raise DmspError(
            f"the image is {shape[0]} x {shape[1]} pixels; at least {MIN_SIDE} x {MIN_SIDE} are "
            "needed to find an unknown point spread function."
        )
    if size < 3 or size % 2 == 0 or size > min(shape) // 4:
        raise DmspError(
            f"psf_size={size} must be odd, at least 3, and at most a quarter of the image's "
            f"shorter side of {min(shape)} pixels."
        )


def iterate_sgd_blind(
    y: Tensor,
    psf_size: int | None,
    denoiser: Denoiser,
    *,
    iterations: int = 1000,
    dae_sigma: float = 11 / 255,
    generator: torch.Generator | None = None,
) -> Iterator[BlindState]:
    """Descend as published."""
    raise NotImplementedError
