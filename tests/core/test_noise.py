"""Noise from observed samples only, and noise of photons that is known."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from napari_dmsp import Photons, deblur, demosaic, superres
from napari_dmsp.core import tasks
from napari_dmsp.core.data import PoissonGaussian
from napari_dmsp.core.mosaic import Encoding, cfa_tile, cfa_weights
from napari_dmsp.core.noise import ShotLine, patch_sigma, sharp_line, shot_line, wavelet_sigma
from napari_dmsp.core.operators import Convolution
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

SIDE = 160
PHOTO = data.camera()[80 : 80 + SIDE, 150 : 150 + SIDE].astype(float)


def masks():
    """Yield gaps of many shapes and shares."""
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2 + 0.5
    draw = np.random.default_rng(5).random((SIDE, SIDE))
    yield "beyond a circle", np.hypot(rows, columns) > 0.36 * SIDE
    yield "half, as blocks", (rows // 16 + columns // 16) % 2 == 0
    yield "stripes", np.broadcast_to(rows % 8 < 6, (SIDE, SIDE))
    yield "a tenth, scattered", draw < 0.1
    yield "half, scattered", draw < 0.5
    yield "most, scattered", draw < 0.96
    yield "all but a corner", (rows > -48) | (columns > -48)


MASKS = [pytest.param(mask, id=name) for name, mask in masks()]


def tensor(image):
    return torch.from_numpy(image)[None, None]


def kept(gaps):
    return tensor((~gaps).astype(float))


@pytest.mark.parametrize("gaps", MASKS)
@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_the_level_of_flat_images_is_found_beside_gaps(gaps, sigma):
    noise = np.random.default_rng(0).normal(0, sigma, (SIDE, SIDE))
    # What fills gaps has no noise at all.
    y = tensor(np.where(gaps, 0.0, noise))
    assert wavelet_sigma(y, kept(gaps)) == pytest.approx(sigma, rel=0.15)
    assert patch_sigma(y, None, kept(gaps)) == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("pattern", ["RGGB", "X-Trans"])
def test_gaps_of_mosaics_do_not_count(pattern):
    gaps = dict(masks())["half, as blocks"]
    weights = cfa_weights(pattern, (SIDE, SIDE))
    mosaic = (weights * np.array([10.0, 200.0, 100.0])[:, None, None]).sum(0)
    noisy = mosaic + np.random.default_rng(0).normal(0, 4, mosaic.shape)
    found = patch_sigma(
        tensor(np.where(gaps, 100, noisy)), cfa_tile(pattern).sum(0) > 0, kept(gaps)
    )
    assert found == pytest.approx(4, rel=0.2)


def test_gaps_do_not_count_in_the_line_of_photons():
    light = gaussian_light()
    rng = np.random.default_rng(0)
    noisy = rng.poisson(100 * light) / 100
    gaps = rng.random(light.shape) < 0.4
    gaps[:, : SIDE // 4] = True
    line = shot_line(tensor(np.where(gaps, 0.5, noisy)), kept(gaps))
    assert line is not None
    assert line.slope == pytest.approx(0.01, rel=0.3)
    assert shot_line(tensor(noisy), kept(np.ones_like(gaps))) is None


def gaussian_light():
    """Return a smooth scene from 0.02 to 1."""
    rows, columns = np.indices((SIDE, SIDE)) / SIDE * 12
    return 0.51 + 0.49 * np.sin(rows) * np.cos(columns)


def test_colours_share_their_line():
    light = np.stack([gaussian_light(), gaussian_light()[::-1], 0.5 * gaussian_light()])
    noisy = np.random.default_rng(0).poisson(100 * light) / 100
    line = shot_line(torch.from_numpy(noisy)[None])
    assert line is not None
    assert line.slope == pytest.approx(0.01, rel=0.15)
    assert abs(line.offset) < 1e-3


def test_gaps_do_not_change_the_balance_of_colours():
    filters = torch.from_numpy(cfa_weights("RGGB", (8, 8)))
    light = filters.new_tensor([0.2, 0.4, 0.1])[:, None, None]
    y = (filters * light).sum(0)[None, None]
    gaps = torch.zeros(1, 1, 8, 8)
    gaps[..., :5, :] = 1
    whole, part = Encoding.of(y, filters), Encoding.of(y + 0.5 * gaps, filters, 1 - gaps)
    torch.testing.assert_close(part.gains, whole.gains)
    torch.testing.assert_close(whole.gains.flatten(), torch.tensor([2.0, 1.0, 4.0]))


@pytest.mark.parametrize("share", ["beyond a circle", "half, scattered", "most, scattered"])
def test_masked_images_are_not_made_worse(share):
    gaps = dict(masks())[share]
    psf = gaussian_psf(1.5)
    big = data.camera()[80 - 6 : 80 + SIDE + 6, 150 - 6 : 150 + SIDE + 6].astype(float)
    observed, truth = simulate_blur(big, psf, 5.0)
    result = deblur(np.where(gaps, np.nan, observed), psf, mask=gaps)
    error, before = (np.square(image - truth)[~gaps].mean() for image in (result.image, observed))
    # Of the last mask, one pixel in 25 is left: too few to undo the blur as well.
    assert error < (1.15 if gaps.mean() > 0.9 else 0.8) * before
    assert 3 < result.noise_sigma < 12


@pytest.mark.parametrize("task", ["superres", "demosaic"])
def test_the_noise_of_sharp_images_is_found_beside_gaps(task):
    noise = np.random.default_rng(0).normal(0, 5, (SIDE, SIDE))
    gaps = dict(masks())["beyond a circle"]
    options = {"background": 0, "iterations": 8}
    if task == "demosaic":
        options["white"] = 255
    restore = demosaic if task == "demosaic" else lambda y, **o: superres(y, 2, **o)
    found = restore(PHOTO + noise, mask=gaps, **options).noise_sigma
    assert found == pytest.approx(5, rel=0.3)


def test_known_photons_on_the_scale_of_the_prior():
    photons = Photons(gain=2.0, offset=100.0, read_noise=3.0)
    line = ShotLine.of(photons, low=150.0, scale=400.0)
    light = torch.tensor([0.0, 0.25, 1.0, -0.5])
    counts = 150 + 400 * light.double().numpy()
    expected = np.maximum(2 * (counts - 100) + 9, 9) / 400**2
    torch.testing.assert_close(line.variance(light).double(), torch.from_numpy(expected))


def test_the_curve_of_raw_values_carries_the_variance():
    filters = torch.from_numpy(cfa_weights("RGGB", (64, 64)))
    rng = np.random.default_rng(0)
    light = (filters * filters.new_tensor([0.3, 0.5, 0.2])[:, None, None]).sum(0)[None, None]
    light = light * torch.linspace(0.05, 1.5, 64)
    encoding = Encoding.of(light, filters)
    line = ShotLine(1e-4, 1e-6, 1e-9)
    draws = torch.from_numpy(rng.standard_normal((400, 1, 64, 64))).float()
    noisy = light + draws * line.variance(light).sqrt()
    measured = encoding.encode(noisy, filters).var(0)
    told = encoding.variance(line.variance, filters, encoding.encode(light, filters))[0]
    # 400 draws know a variance to 7 %.
    assert ((measured / told).log().mean()).abs() < 0.02
    assert (measured / told - 1).abs().mean() < 0.08


COLOURS = data.astronaut()[:256, :256] / 255


@pytest.mark.parametrize("pattern", [None, "RGGB"])
def test_the_line_of_photons_is_found_in_sharp_images(pattern):
    image, rng = np.moveaxis(COLOURS, -1, 0), np.random.default_rng(0)
    period = (1, 1)
    if pattern is not None:
        image = (cfa_weights(pattern, image.shape[1:]) * image).sum(0, keepdims=True)
        period = cfa_tile(pattern).shape[1:]
    photons = torch.from_numpy(rng.poisson(100 * image) / 100)[None]
    line = sharp_line(photons, None, period)
    assert line is not None
    assert line.slope == pytest.approx(0.01, rel=0.25)
    # Noise that is the same everywhere, and detail, are no line.
    even = torch.from_numpy(image + rng.normal(0, 0.05, image.shape))[None]
    assert sharp_line(even, None, period) is None
    assert sharp_line(torch.from_numpy(image)[None], None, period) is None
    assert sharp_line(photons[..., :16, :16], None, period) is None


def test_noise_of_raw_frames_begins_at_black():
    light = np.tile(np.linspace(0.12, 1, 128), (128, 1))
    for begin, raw, found in ((-0.05, True, True), (0.1, True, False), (0.1, False, True)):
        deviation = np.sqrt(0.01 * (light - begin))
        noisy = light + np.random.default_rng(0).normal(0, deviation)
        assert (sharp_line(tensor(noisy), None, (2, 2), raw) is not None) == found


def test_weights_follow_the_light():
    operator, y = Convolution(torch.ones(1, 1), (4, 5)), torch.full((1, 1, 4, 5), 0.4)
    kept = torch.ones(1, 1, 4, 5)
    kept[..., 0] = 0
    line = ShotLine(0.02, 0.001, 1e-4)
    light = torch.linspace(0, 1, 20).reshape(1, 1, 4, 5)
    data_term = PoissonGaussian.of(operator, y, kept, line.variance, light)
    seen = kept > 0
    # The variance of a sample is sigma^2 over its weight, and the mean weight is 1.
    told = data_term.sigma**2 / data_term.weights[seen]
    torch.testing.assert_close(told, (0.02 * light + 0.001)[seen])
    assert float(data_term.weights[seen].mean()) == pytest.approx(1)
    assert (data_term.weights[~seen] == 0).all()
    assert torch.equal(data_term.updated(y - 2 * light, 0.0).weights, data_term.weights)
    # The error y - A x says what A x is.
    after = replace(data_term, reweighted=True).updated(y - 2 * light, 0.0)
    told = data_term.scale**2 / after.weights[seen]
    torch.testing.assert_close(told, (0.04 * light + 0.001)[seen])


@pytest.mark.parametrize("task", ["superres", "demosaic"])
def test_photons_of_photographs_are_worth_weighing(task, monkeypatch):
    truth, rng = COLOURS[:192, :192] * 0.98, np.random.default_rng(0)
    options = {"background": 0, "iterations": 8}
    if task == "superres":
        observed = truth.reshape(96, 2, 96, 2, 3).mean((1, 3))
        restore = partial(superres, scale=2, channel_axis=-1)
    else:
        observed = (np.moveaxis(cfa_weights("RGGB", (192, 192)), 0, -1) * truth).sum(-1)
        restore, options = demosaic, options | {"white": 1, "linear": False}
    observed = rng.poisson(100 * observed) / 100
    noises = [Photons(0.01), None]
    monkeypatch.setattr(tasks, "sharp_line", lambda *_, **__: None)
    known, even = (restore(observed, noise=noise, **options).image for noise in noises)
    scores = [peak_signal_noise_ratio(truth, image, data_range=1) for image in (known, even)]
    assert scores[0] > scores[1] + 1


@pytest.mark.parametrize("noise", [Photons(0.02, 0, 0.01)])
def test_known_photons_are_used(noise):
    truth = data.astronaut()[40:104, 170:234] / 255
    rng = np.random.default_rng(0)
    psf = gaussian_psf(1.0)
    blurred, sharp = simulate_blur(truth, psf)
    dark = blurred * np.linspace(0.02, 1, blurred.shape[1])[:, None]
    sharp = sharp * np.linspace(0.02, 1, blurred.shape[1])[:, None]
    observed = rng.poisson(dark.clip(0) / noise.gain) * noise.gain
    observed = observed + rng.normal(0, noise.read_noise, observed.shape)
    level = float(np.sqrt(noise.gain * dark.mean() + noise.read_noise**2))
    scores = [
        peak_signal_noise_ratio(
            sharp,
            deblur(observed, psf, channel_axis=-1, noise=n, background=0).image,
            data_range=1,
        )
        for n in (noise, level)
    ]
    assert scores[0] > scores[1] + 0.3
