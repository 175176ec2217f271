"""Deconvolution of stacks with a PSF of three axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from skimage.restoration import richardson_lucy

from napari_dmsp import Photons, deblur
from napari_dmsp.core.microscope import microscope_psf
from napari_dmsp.core.operators import Convolution, WideConvolution
from napari_dmsp.core.volumes import choose_operator, far_light
from napari_dmsp.errors import DmspError
from napari_dmsp.windows import is_wide

VOXEL = (0.25, 0.1, 0.1)
SHAPE = (24, 40, 40)
PHOTONS, READ = 200, 2.0


def scene(shape, seed=0):
    """Draw shells and bent filaments, brighter than their surroundings, in voxels of VOXEL."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) * np.reshape(
        VOXEL, (3, 1, 1, 1)
    )
    size, volume = np.array(shape) * VOXEL, np.zeros(shape)
    for _ in range(7):
        centre, radius = random.uniform(0, size), random.uniform(0.5, 1.2)
        distance = np.sqrt(((grid.T - centre) ** 2).sum(-1)).T - radius
        volume += np.exp(-((distance / 0.12) ** 2)) + 0.1 / (1 + np.exp(distance / 0.05))
    for _ in range(9):
        point, direction = random.uniform(0, size), random.normal(size=3)
        for _ in range(60):
            direction += 0.2 * random.normal(size=3)
            direction /= np.linalg.norm(direction)
            point = point + 0.08 * direction
            place = tuple(np.floor(point / VOXEL).astype(int))
            if all(0 <= i < n for i, n in zip(place, shape, strict=True)):
                volume[place] += 1.0
    return gaussian_filter(volume, (0.4, 0.8, 0.8))


def observe(psf, shape=SHAPE, photons=PHOTONS, seed=0):
    """Blur a scene that is larger than the frame; return what is counted, and the truth."""
    whole = scene(tuple(n + k - 1 for n, k in zip(shape, psf.shape, strict=True)), seed)
    blurred = fftconvolve(whole, psf, "valid").clip(0)
    factor = photons / blurred.max()
    random = np.random.default_rng(seed)
    counted = random.poisson(blurred * factor) + random.normal(0, READ, blurred.shape)
    corner = [k // 2 for k in psf.shape]
    frame = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
    return counted.astype(np.float32), factor * whole[frame]


def psnr(image, truth):
    return 10 * np.log10(np.percentile(truth, 99.9) ** 2 / np.mean((image - truth) ** 2))


@pytest.fixture(scope="module")
def psf():
    optics = {"na": 1.4, "wavelength": 0.52, "immersion_index": 1.515}
    return microscope_psf("widefield", voxel_size=VOXEL, shape=(17, 17, 17), **optics).values


@pytest.fixture(scope="module")
def case(psf):
    return observe(psf)


@pytest.fixture(scope="module")
def restored(case, psf):
    return deblur(case[0], psf, device="cpu")


def test_better_than_richardson_lucy_at_its_best(case, psf, restored):
    observed, truth = case
    scale = observed.max()
    positive = observed.clip(1e-3) / scale
    counts = (2, 5, 10, 20, 40, 80)
    theirs = [richardson_lucy(positive, psf, n, clip=False) * scale for n in counts]
    assert restored.image.shape == observed.shape
    assert restored.image.dtype == np.float32
    assert psnr(restored.image, truth) > max(psnr(image, truth) for image in theirs) + 1
    # The rim, too, where light comes from beyond the frame.
    rim = np.ones(SHAPE, bool)
    rim[tuple(slice(5, -5) for _ in SHAPE)] = False
    best = max(psnr(image[rim], truth[rim]) for image in theirs)
    assert psnr(restored.image[rim], truth[rim]) > best + 1


def test_light_is_kept(psf, restored):
    errors = []
    for seed in range(3):
        observed, truth = observe(psf, seed=seed)
        image = deblur(observed, psf, device="cpu").image if seed else restored.image
        errors.append(abs(image.sum() / truth.sum() - 1))
    # In the first scene, as much light as half of its own comes from beyond the frame.
    assert max(errors) < 0.25
    assert np.median(errors) < 0.06
    assert not restored.warnings
    assert restored.settings["psf_shape"] == (17, 17, 17)
    assert restored.evaluations == 10


def test_dark_stacks_stay_dark(psf):
    truth = np.zeros(SHAPE)
    truth[12, 18:22, 10:30] = 500
    whole = np.pad(truth, [(k // 2, k // 2) for k in psf.shape])
    blurred = fftconvolve(whole, psf, "valid").clip(0)
    observed = np.random.default_rng(0).poisson(blurred) + np.random.default_rng(1).normal(
        0, READ, SHAPE
    )
    result = deblur(observed, psf, noise=Photons(1, 0, READ), background=0, device="cpu").image
    far = gaussian_filter(truth, 3) < 1e-3
    # Noise has a mean of zero, and is not cut at zero to make light of it.
    assert abs(result[far].mean()) < 0.1
    assert result.sum() == pytest.approx(truth.sum(), rel=0.05)


@pytest.fixture(scope="module")
def wide_psf():
    # Its cone ends within the frame.
    optics = {"na": 0.9, "wavelength": 0.52, "immersion_index": 1.33}
    return microscope_psf("widefield", voxel_size=VOXEL, image_shape=(20, 96, 112), **optics).values


def test_a_wide_psf_takes_a_smaller_volume(wide_psf):
    shape = (20, 96, 112)
    assert is_wide((64, 512, 512), (127, 511, 511))
    assert not is_wide((64, 512, 512), (17, 17, 17))
    assert not is_wide(shape, wide_psf.shape)
    psf = torch.from_numpy(wide_psf)
    operator, whole = WideConvolution.split(psf, shape), Convolution(psf, shape)
    assert math.prod(whole.extended_shape) > 1.5 * math.prod(operator.extended_shape)
    near = torch.from_numpy(scene(operator.extended_shape).astype(np.float32))[None, None]
    # The near volume lies in the middle of the whole one, which is empty elsewhere.
    x = torch.zeros(1, 1, *whole.extended_shape)
    corners = [a - b for a, b in zip(whole._corner, operator._corner, strict=True)]
    sides = [k - 1 + n for k, n in zip(operator.psf.shape, shape, strict=True)]
    at = tuple(slice(c, c + n) for c, n in zip(corners, sides, strict=True))
    for axis, n in enumerate(sides, 2):
        near.narrow(axis, n, near.shape[axis] - n).zero_()
    x[(..., *at)] = near[(..., *(slice(n) for n in sides))]
    exact, found = whole.forward(x), operator.forward(near)
    assert float((found - exact).square().mean().sqrt() / exact.std()) < 0.02
    assert float(found.sum() / exact.sum()) == pytest.approx(1, abs=1e-3)


def test_the_wide_operator_is_consistent(wide_psf):
    operator = WideConvolution.split(torch.from_numpy(wide_psf), (20, 96, 112))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, *operator.extended_shape, generator=generator)
    y = torch.randn(1, 1, 20, 96, 112, generator=generator)
    forth, back = (operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert float(forth) == pytest.approx(float(back), rel=1e-4)
    assert float(operator.crop(operator.start(y)).sub(y).abs().max()) == 0
    assert operator.energy(y) == pytest.approx(float(np.square(wide_psf).sum()), rel=0.2)


def test_light_from_afar_is_known(wide_psf, monkeypatch):
    shape = (20, 96, 112)
    observed, truth = observe(wide_psf, shape)
    psf, y = torch.from_numpy(wide_psf), torch.from_numpy(observed)[None, None]
    operator = WideConvolution.split(psf, shape)
    light = far_light(operator, psf, y, None, None)
    assert light.shape == y.shape
    assert 0.05 < float(light.sum() / y.sum()) < 0.9
    assert float(light.min()) >= 0
    assert far_light(Convolution(psf, shape), psf, y, None, None) is None
    monkeypatch.setattr("napari_dmsp.windows.LARGE", 0)
    assert isinstance(choose_operator(psf, shape), WideConvolution)
    restored = deblur(observed, wide_psf, device="cpu")
    assert any("coarse grid" in text for text in restored.warnings)
    assert psnr(restored.image, truth) > psnr(observed, truth) + 1.5


def test_noise_is_found_in_the_stack(case, psf, restored):
    known = deblur(case[0], psf, noise=Photons(1, 0, READ), background=0, device="cpu")
    assert restored.noise_sigma == pytest.approx(known.noise_sigma, rel=0.15)
    assert psnr(restored.image, case[1]) > psnr(known.image, case[1]) - 0.5


def test_one_level_of_noise_is_enough(case, psf):
    result = deblur(case[0], psf, noise=8.0, device="cpu")
    assert result.noise_sigma == pytest.approx(8.0)
    assert psnr(result.image, case[1]) > psnr(case[0], case[1]) + 1


def test_psf_longer_than_the_stack(psf):
    observed, truth = observe(psf, (9, 32, 32))
    result = deblur(observed, psf, device="cpu")
    assert result.image.shape == (9, 32, 32)
    assert psnr(result.image, truth) > psnr(observed, truth) + 1


def test_axes_are_not_mixed_up():
    # A delta that is moved along one axis at a time must move the image the same way.
    volume = gaussian_filter(np.random.default_rng(0).random((16, 24, 32)), 1.5) * 1000
    for axis in range(3):
        psf = np.zeros((5, 5, 5))
        psf[2, 2, 2] = 0.6
        psf[tuple(3 if a == axis else 2 for a in range(3))] = 0.4
        whole = np.pad(volume, 2, "reflect")
        blurred = fftconvolve(whole, psf, "valid")
        result = deblur(blurred, psf, noise=0.5, device="cpu").image
        inner = tuple(slice(3, -3) for _ in range(3))
        before = np.abs(blurred - volume)[inner].mean()
        assert np.abs(result - volume)[inner].mean() < 0.5 * before


@pytest.mark.parametrize("flat", [False, True])
def test_gaps_are_not_looked_at(case, psf, flat):
    observed = case[0].copy()
    gaps = np.zeros(SHAPE, bool)
    gaps[..., 10:12, 20:22] = True
    if not flat:
        gaps[:12] = False
    observed[gaps] = 1e4
    mask = gaps[0] if flat else gaps
    result = deblur(observed, psf, mask=mask, device="cpu")
    assert psnr(result.image, case[1]) > psnr(case[0], case[1]) + 1
    assert result.image.max() < 3 * case[1].max()
    assert result.settings["masked"] == gaps.sum()


def test_bad_voxels_are_found(case, psf):
    observed = case[0].copy()
    observed[5, 6, 7] = np.nan
    with pytest.raises(DmspError, match="NaN"):
        deblur(observed, psf)
    result = deblur(observed, psf, mask="auto", iterations=2, device="cpu")
    assert np.isfinite(result.image).all()


def test_hot_pixels_are_masked(case, psf, restored):
    observed = case[0].copy()
    hot = np.random.default_rng(0).choice(observed.size, 20, replace=False)
    observed.flat[hot] += 1.5 * observed.max()
    result = deblur(observed, psf, device="cpu")
    assert result.settings["masked"] == 20
    assert any("20 pixels were masked" in text for text in result.warnings)
    assert psnr(result.image, case[1]) > psnr(restored.image, case[1]) - 0.2


def test_same_seed_same_result(case, psf):
    first, again, other = (
        deblur(case[0], psf, iterations=3, seed=seed, device="cpu").image for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_stops_when_told(case, psf):
    seen = []

    def watch(state):
        seen.append(state.array().shape)
        return len(seen) == 2

    result = deblur(case[0], psf, callback=watch, device="cpu")
    assert seen == [SHAPE, SHAPE]
    assert result.evaluations == 2


def test_units_are_kept(case, psf):
    counts = np.round(case[0]).clip(-100) + 100
    a = deblur(counts.astype(np.uint16), psf, iterations=3, device="cpu")
    b = deblur(counts / 256, psf, iterations=3, device="cpu")
    assert np.abs(a.image / 256 - b.image).max() < 1e-3 * b.image.max()


def test_wrong_dimensions_are_explained(case, psf):
    with pytest.raises(DmspError, match=r"focal_plane\(psf\)"):
        deblur(case[0][0], psf)
    with pytest.raises(DmspError, match="annealed"):
        deblur(case[0], psf, method="sgd")
    deblur(case[0][12], psf[8], iterations=1, device="cpu")


@pytest.mark.parametrize("side", [3, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sides_of_a_psf_may_be_even(axis, side):
    """Also where no pixel is left over: 13 + 4 - 1 is a size with a fast transform."""
    shape = [5, 13, 13]
    shape[axis] = 17 - side
    stack = gaussian_filter(np.random.default_rng(0).normal(100, 20, shape), 0.5)
    psf = np.ones([side if a == axis else 1 for a in range(3)])
    found = deblur(stack, psf, iterations=2, device="cpu", prior=lambda x, sigma: x)
    assert found.image.shape == stack.shape
    assert np.isfinite(found.image).all()
