"""The same numbers on a GPU as on the processor, but for rounding; `-m gpu` runs what needs one.

Tolerances are derived, not tuned. They are for root mean squares, relative to that of the result
or of what a network takes away. Every comparison also runs with the processor on both sides: it
tells little of the devices, but that tests of code that changes still run.
"""

import math
import warnings
from collections import deque
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from napari_dmsp.core import prepare_deblur, prepare_demosaic, prepare_superres
from napari_dmsp.core.data import Gaussian
from napari_dmsp.core.device import supports_bf16
from napari_dmsp.core.mosaic import cfa_weights
from napari_dmsp.core.networks import DnCNN, UNet
from napari_dmsp.core.operators import Convolution, Mosaic, Resize
from napari_dmsp.core.prior import draw_normal, load_prior
from napari_dmsp.core.psf import motion_psf
from napari_dmsp.core.solvers import ACCURACY, BLURRED, DAE_SIGMA, MOSAIC, SHARP
from napari_dmsp.core.tiling import Tiled
from napari_dmsp.errors import DmspError

# Unit roundoff, 2^-p for p bits of precision.
FLOAT32, TF32, BFLOAT16 = 2.0**-24, 2.0**-11, 2.0**-8
# Both sides round, and constants of fast algorithms (FFT, Winograd) are above one.
SAFETY = 4.0
SHAPE, EVALUATIONS = (48, 56), 3

NEEDS = pytest.mark.skipif
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, NEEDS(not torch.cuda.is_available(), reason="no CUDA")]
    ),
    pytest.param(
        "mps",
        marks=[pytest.mark.gpu, NEEDS(not torch.backends.mps.is_available(), reason="no MPS")],
    ),
]
on_devices = pytest.mark.parametrize("device", DEVICES)
cuda = [pytest.mark.gpu, NEEDS(not torch.cuda.is_available(), reason="no CUDA")]


def rounding(terms, depth, unit=FLOAT32):
    """Relative error of ``depth`` steps one after the other, each a sum of so many terms.

    Roundings are independent: errors grow with the root of their number. Arithmetic of less
    precision sums in float32 and rounds once a step.
    """
    return SAFETY * unit * math.sqrt((terms if unit == FLOAT32 else 1) * depth)


def network_rounding(network, unit=FLOAT32):
    """Relative error of what a network takes away: all its convolutions follow each other."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    terms = max(m.in_channels * math.prod(m.kernel_size) for m in layers)
    return rounding(terms, len(layers), unit)


def rms(x):
    return float(x.detach().cpu().double().square().mean().sqrt())


def assert_near(result, expected, tolerance):
    """Compare tensors of any device; the tolerance is for the root mean square."""
    error = rms(result.detach().cpu().double() - expected.detach().cpu().double())
    # Anything not finite fails, too.
    assert error <= tolerance, f"{error:.3g} is above {tolerance:.3g}"


@contextmanager
def tf32(allowed):
    """Whether convolutions and products of matrices on CUDA may round to TF32."""
    flags = [torch.backends.cudnn, torch.backends.cuda.matmul]
    with warnings.catch_warnings():
        # Recent releases of torch have other names for it.
        warnings.simplefilter("ignore")
        before = [flag.allow_tf32 for flag in flags]
        for flag in flags:
            flag.allow_tf32 = allowed
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for flag, value in zip(flags, before, strict=True):
                flag.allow_tf32 = value


@pytest.fixture(autouse=True)
def full_precision():
    with tf32(False):
        yield


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blur(device):
    return Convolution(torch.from_numpy(motion_psf(9, 30)).to(device), SHAPE)


def kept(device):
    return (normal(*SHAPE, seed=9) > -1).float().to(device)


def reduction(device):
    return Resize((SHAPE[0] * 2, SHAPE[1] * 2), SHAPE, device=torch.device(device))


def mosaic(device):
    return Mosaic(torch.from_numpy(cfa_weights("RGGB", SHAPE)).to(device))


# Steps of two terms of the two transforms of a blur; terms of the two products of a reduction.
FFT_DEPTH = 2 * math.log2(64 * 72)
OPERATORS = [
    (blur, rounding(2, FFT_DEPTH)),
    (reduction, rounding(2 * SHAPE[1], 2)),
    (mosaic, rounding(3, 1)),
]


def unknown_of(operator):
    """Draw what an operator is applied to."""
    large = getattr(operator, "large", SHAPE)
    return normal(1, 3, *getattr(operator, "extended_shape", large), seed=1)


@on_devices
@pytest.mark.parametrize(("make", "tolerance"), OPERATORS)
def test_operators_are_the_same(make, tolerance, device):
    here, there = make("cpu"), make(device)
    x = unknown_of(here)
    y = here.forward(x)
    assert_near(there.forward(x.to(device)), y, tolerance * rms(y))
    back = here.adjoint(y)
    assert_near(there.adjoint(y.to(device)), back, tolerance * rms(back))
    first = here.start(y)
    assert_near(there.start(y.to(device)), first, rounding(64, 4) * rms(first))
    for name in ("energy", "norm", "fine_gain"):
        expected = pytest.approx(getattr(here, name)(y), rel=2 * tolerance, abs=2 * tolerance)
        assert getattr(there, name)(y.to(device)) == expected


@on_devices
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("make", "tolerance"), OPERATORS)
def test_solutions_are_the_same(make, tolerance, gaps, device):
    here, there = make("cpu"), make(device)
    x, c, accuracy = unknown_of(here), 0.05, 1e-4
    y, prior = here.forward(x), x.flip(-1)
    expected, result = (
        Gaussian(operator=op, y=y.to(where), weights=kept(where) if gaps else None)
        .prox(prior.to(where), c, tolerance=accuracy, steps=500)
        .x
        for op, where in ((here, "cpu"), (there, device))
    )
    # Rounding is amplified by the condition; an iteration stops anywhere within its accuracy.
    condition = (here.norm(y) + c) / c
    closed = isinstance(here, Mosaic) or (isinstance(here, Resize) and not gaps)
    steps = 0.0 if closed else 2 * accuracy
    assert_near(result, expected, steps + 2 * condition * tolerance * rms(expected))


def make_network(kind):
    torch.manual_seed(0)
    if kind == "unet":
        return load_prior("rgb").denoiser
    return DnCNN().eval().requires_grad_(False)


def noisy_photograph(sigma, size=64):
    crop = torch.from_numpy(data.astronaut()[40 : 40 + size, 170 : 170 + size] / np.float32(255))
    clean = crop.permute(2, 0, 1)[None]
    return clean + sigma * normal(*clean.shape, seed=2)


@on_devices
@pytest.mark.parametrize("kind", ["unet", "dncnn"])
def test_networks_are_the_same(kind, device):
    network, x = make_network(kind), noisy_photograph(0.1)
    expected = network(x, 0.1)
    result = type(network)(**network.config)
    result.load_state_dict(network.state_dict())
    result.to(device).requires_grad_(False)
    tolerance = network_rounding(network) * rms(expected - x)
    assert_near(result(x.to(device), 0.1), expected, tolerance)


@pytest.mark.parametrize("device", DEVICES[1:2])
def test_tf32_is_within_its_own_rounding(device):
    prior = replace(load_prior("rgb"), autocast=False)
    x = noisy_photograph(0.1)
    expected = prior(x, 0.1)
    with tf32(True):
        result = prior.to(device)(x.to(device), 0.1)
    tolerance = network_rounding(prior.denoiser, TF32)
    assert_near(result, expected, tolerance * rms(expected - x))


@on_devices
def test_bfloat16_is_within_its_own_rounding(device):
    if not supports_bf16(torch.device(device)):
        pytest.skip("no bfloat16")
    prior = load_prior("rgb")
    x = noisy_photograph(0.1)
    expected = replace(prior, autocast=False)(x, 0.1)
    result = prior.to(device)(x.to(device), 0.1)
    # That it was used at all: float32 is a thousand times as near.
    assert rms(result.cpu() - expected) > network_rounding(prior.denoiser) * rms(expected - x)
    tolerance = network_rounding(prior.denoiser, BFLOAT16)
    assert_near(result, expected, tolerance * rms(expected - x))


@on_devices
def test_a_seed_draws_the_same_noise(device):
    x = torch.zeros(1, 3, 20, 30)
    drawn = [
        draw_normal(image, torch.Generator().manual_seed(3)).cpu() for image in (x, x.to(device))
    ]
    assert torch.equal(*drawn)


def prepare(task, **options):
    """Prepare a task for an image of 64 x 64 pixels or less, on the scale 0..1."""
    image = noisy_photograph(0.02)[0].permute(1, 2, 0).numpy()
    if task == "superres":
        return prepare_superres(image[:32, :32], 2, channel_axis=-1, **options)
    if task == "demosaic":
        return prepare_demosaic(image[..., 1], white=1, background=0, **options)
    return prepare_deblur(image, motion_psf(9, 30), channel_axis=-1, **options)


def drain(job):
    return deque(job.states(), maxlen=1)[0]


def end_to_end_tolerance(task, state, unit=FLOAT32):
    """Add up what evaluations may differ by, on the scale of the prior.

    A network takes away about the noise that it is told, and errs in that. A data step does not
    enlarge errors of what the prior gives, but has its own: it rounds, which its condition
    amplifies, and where it is an iteration, it stops anywhere within its accuracy.
    """
    schedule = {"deblur": BLURRED, "superres": SHARP, "demosaic": MOSAIC}[task]
    operator = {"deblur": blur, "superres": reduction, "demosaic": mosaic}[task]
    prior = network_rounding(load_prior("rgb").denoiser, unit)
    accuracy = 2 * ACCURACY if task == "deblur" else 0.0
    condition = 1 + schedule.sigma_start**2 / (schedule.kappa * state.noise_sigma**2)
    data_step = condition * dict(OPERATORS)[operator] * rms(state.image)
    return EVALUATIONS * (schedule.sigma_start * (prior + accuracy) + data_step)


@on_devices
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("task", ["deblur", "superres", "demosaic"])
def test_restorations_are_the_same(task, fast, device):
    exact = replace(load_prior("rgb"), autocast=False)
    job = prepare(task, iterations=EVALUATIONS, prior=exact, device="cpu")
    prior = load_prior("rgb") if fast else exact
    expected = drain(job)
    result = drain(prepare(task, iterations=EVALUATIONS, prior=prior, device=device))
    unit = BFLOAT16 if fast and supports_bf16(torch.device(device)) else FLOAT32
    tolerance = end_to_end_tolerance(task, expected, unit)
    assert_near(result.image, expected.image, tolerance)
    # The noise is estimated from the residual, which is nowhere further off than the image.
    tolerance *= job.reference.units.scale
    assert result.noise_sigma == pytest.approx(expected.noise_sigma, abs=tolerance)


@on_devices
def test_the_published_descent_is_the_same(device):
    torch.manual_seed(0)
    options = {"method": "sgd", "iterations": EVALUATIONS, "prior": DnCNN(depth=3, width=8).eval()}
    expected = drain(prepare("deblur", device="cpu", **options))
    result = drain(prepare("deblur", device=device, **options))
    # A step moves by a tenth of the prior's part, and by a tenth of the residual; with momentum,
    # all of it stays. Other noise would show: it is injected at DAE_SIGMA.
    step = rounding(9 * 8, 3) + rounding(2, FFT_DEPTH)
    assert_near(result.image, expected.image, EVALUATIONS**2 * step * rms(expected.image))
    other = drain(prepare("deblur", device=device, seed=1, **options))
    assert rms(other.image.cpu() - expected.image) > 0.01 * DAE_SIGMA


class TestTheComparison:
    """What differs must fail, with either side on the processor."""

    @pytest.mark.parametrize("unit", [FLOAT32, TF32, BFLOAT16])
    def test_other_weights_fail(self, unit):
        network, x = make_network("unet"), noisy_photograph(0.1)
        tolerance = network_rounding(network, unit)
        expected, other = network(x, 0.1), UNet(**network.config)
        other.load_state_dict(network.state_dict())
        with torch.no_grad():
            other.tail.weight *= 1 + 1.5 * tolerance
            result = other(x, 0.1)
        with pytest.raises(AssertionError, match="above"):
            assert_near(result, expected, tolerance * rms(expected - x))

    @pytest.mark.parametrize(("make", "tolerance"), OPERATORS[:1])
    def test_another_kernel_fails(self, make, tolerance):
        right = make("cpu")
        wrong, x = replace(right, psf=right.psf.flip(0)), unknown_of(right)
        with pytest.raises(AssertionError, match="above"):
            assert_near(wrong.forward(x), right.forward(x), tolerance * rms(right.forward(x)))

    @pytest.mark.parametrize("task", ["deblur", "superres", "demosaic"])
    def test_another_restoration_fails(self, task):
        exact = replace(load_prior("rgb"), autocast=False)
        first, second = (
            drain(prepare(task, iterations=n, prior=exact, device="cpu"))
            for n in (EVALUATIONS, EVALUATIONS + 1)
        )
        tolerance = end_to_end_tolerance(task, second)
        with pytest.raises(AssertionError, match="above"):
            assert_near(first.image, second.image, tolerance)

    def test_nothing_but_numbers_passes(self):
        with pytest.raises(AssertionError, match="above"):
            assert_near(torch.tensor([math.nan]), torch.tensor([1.0]), 1.0)


@pytest.fixture
def limit_memory():
    """Return what allows this process so many bytes more on the GPU than it has now."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(extra):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        allowed = torch.cuda.memory_reserved() + extra
        torch.cuda.set_per_process_memory_fraction(allowed / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


class TestMemory:
    """Where the GPU has too little memory."""

    pytestmark = cuda

    def test_tiles_are_halved(self, limit_memory):
        prior = replace(load_prior("rgb"), autocast=False).to("cuda")
        side = 1536
        x = nn.functional.interpolate(noisy_photograph(0.1), side).cuda()
        expected = prior(x, 0.1).cpu()
        # The features of a quarter of the image, twice: convolutions need room to work.
        limit_memory(side**2 * prior.denoiser.bytes_per_pixel // 2 + 4 * x.nbytes)
        tiled = Tiled(prior.denoiser, None)
        with torch.no_grad():
            result = tiled(x, 0.1).cpu()
        assert tiled.tile is not None
        assert tiled.tile < side
        # What a tile does not see of its surroundings hardly matters.
        assert_near(result, expected, 0.01 * rms(expected - x.cpu()))

    def test_what_never_fits_is_explained(self, limit_memory):
        image = np.random.default_rng(0).random((1024, 1024), np.float32)
        job = prepare_deblur(image, motion_psf(9, 30), iterations=1, device="cuda")
        # Neither a copy of the image nor anything computed from it has room.
        limit_memory(2**21)
        with pytest.raises(DmspError, match="out of memory"):
            drain(job)
        with pytest.raises(DmspError, match="out of memory"):
            prepare_deblur(image, motion_psf(9, 30), iterations=1, device="cuda")
