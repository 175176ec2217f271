"""Kernel-blind estimation, and the hygiene of estimated kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter, shift
from scipy.signal import convolve2d

from napari_dmsp import deblur
from napari_dmsp.core import blind, load_prior, prepare_deblur, tasks
from napari_dmsp.core.blind import (
    BlindState,
    descend_blind,
    estimate_kernel,
    is_one_pixel,
    probe_sharpness,
    search_blind,
)
from napari_dmsp.core.psf import (
    centre_psf,
    crop_psf,
    gaussian_psf,
    motion_psf,
    normalise_psf,
    resize_psf,
)
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.errors import DmspError
from napari_dmsp.search import (
    EVALUATIONS,
    EXACT_EVALUATIONS,
    EXACT_ROUNDS,
    PROBE_EVALUATIONS,
    count_evaluations,
    default_size,
    level_sizes,
    make_stages,
    search_work,
)


def centre_of_mass(psf):
    return (np.indices(psf.shape) * psf).sum((1, 2)) / psf.sum()


def smooth(x, sigma):
    """A denoiser of sorts, for what does not depend on a good one."""
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, 0.5, 0.5)))


def squares(side=108, seed=3):
    """Overlapping rectangles: an image of edges."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 0.5)
    for _ in range(60):
        top, left = rng.integers(0, side, 2)
        height, width = rng.integers(8, side // 3, 2)
        image[top : top + height, left : left + width] = rng.uniform(0.1, 0.9)
    return image


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_normalise_drops_negative_and_small_values():
    psf = normalise_psf(np.array([[-3.0, 1.0, 0.04], [0.0, 0.95, 0.05]]), 0.05)
    assert_allclose(psf, np.array([[0, 1, 0], [0, 0.95, 0.05]]) / 2)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_normalise_of_nothing_is_no_blur(value):
    psf = normalise_psf(np.full((3, 5), value))
    assert psf[1, 2] == psf.sum() == 1


@pytest.mark.parametrize("shape", [(9, 9), (7, 11)])
def test_centring_moves_by_whole_pixels(shape, rng):
    psf = np.zeros(shape)
    patch = rng.uniform(size=(3, 4))
    psf[:3, :4] = patch
    centred = centre_psf(psf)
    middle = (np.array(shape) - 1) / 2
    assert np.abs(centre_of_mass(centred) - middle).max() <= 0.5
    assert_allclose(np.sort(centred[centred > 0]), np.sort((patch / patch.sum()).ravel()))
    assert_allclose(centre_psf(centred), centred)


def test_crop_keeps_the_centre():
    psf = np.zeros((11, 9))
    psf[5, 4], psf[3, 4], psf[5, 5] = 0.5, 0.3, 0.2
    small = crop_psf(psf)
    assert small.shape == (5, 3)
    assert_allclose(small, psf[3:8, 3:6])
    assert crop_psf(small, 0.5).shape == (5, 1)
    assert crop_psf(small, 0.7).shape == (1, 1)


def test_resize_is_about_the_centre():
    psf = motion_psf(6, 30).astype(np.float64)
    assert_allclose(resize_psf(psf, 1.0, psf.shape[0]), psf, atol=1e-7)
    large = resize_psf(psf, 2.0, 17)
    assert large.shape == (17, 17)
    assert_allclose(large.sum(), 1)
    assert_allclose(centre_of_mass(large), 8, atol=0.05)

    def spread(k):
        grid = np.indices(k.shape) - (np.array(k.shape) - 1)[:, None, None] / 2
        return (grid**2 * k).sum()

    assert_allclose(spread(large), 4 * spread(psf), rtol=0.1)


@pytest.mark.parametrize("size", [3, 13, 27, 31])
def test_level_sizes_rise_from_three(size):
    sizes = level_sizes(size)
    assert sizes[0] == 3
    assert sizes[-1] == size
    assert sizes == sorted(sizes)
    assert all(side % 2 for side in sizes)


@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (100, 79), (2000, 1000)])
def test_default_size_is_allowed(shape):
    size = default_size(shape)
    assert size % 2 == 1
    assert 3 <= size <= min(shape) // 4


def test_ridge_solution_is_the_dense_one(rng):
    size, ridge = 5, 0.7
    x = rng.standard_normal((1, 2, 20, 17))
    y = rng.standard_normal((1, 2, 16, 13))
    rows = []
    for pixel in range(size * size):
        k = np.zeros((size, size))
        k.flat[pixel] = 1
        rows.append(np.concatenate([convolve2d(c, k, "valid").ravel() for c in x[0]]))
    matrix = np.array(rows).T
    normal = matrix.T @ matrix + ridge * np.eye(size * size)
    dense = np.linalg.solve(normal, matrix.T @ y.ravel()).reshape(size, size)
    k = estimate_kernel(torch.from_numpy(x), torch.from_numpy(y), size, ridge)
    assert_allclose(k.numpy(), dense, atol=1e-4 * np.abs(dense).max())


def test_ridge_solution_finds_the_kernel_of_a_known_image(rng):
    psf = rng.uniform(size=(7, 7))
    x = rng.standard_normal((50, 60))
    y = convolve2d(x, psf, "valid")
    k = estimate_kernel(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None], 7, 1e-9)
    assert_allclose(k.numpy(), psf, atol=1e-3)


def test_states_are_counted_and_reproducible(rng):
    y = torch.from_numpy(gaussian_filter(squares(64), 1.5).astype(np.float32))[None, None]

    def run():
        return list(search_blind(y, 7, smooth, generator=torch.Generator().manual_seed(1)))

    states = run()
    assert [s.evaluation for s in states] == list(range(1, len(states) + 1))
    planned = count_evaluations((64, 64), 7)
    assert {s.total for s in states} == {planned} == {len(search_work((64, 64), 7))}
    spared = planned - len(states)
    assert 0 <= spared < EXACT_ROUNDS * (EXACT_EVALUATIONS + EVALUATIONS + 1)
    for state in states:
        assert state.image.shape == y.shape
        assert state.psf.shape == (7, 7)
        assert state.psf.min() >= 0
        assert_allclose(state.psf.sum(), 1, rtol=1e-5)
    psf = states[-1].psf.numpy()
    assert np.abs(centre_of_mass(psf) - 3).max() <= 0.5 + 1e-6
    assert_allclose(run()[-1].psf, psf)


@pytest.mark.parametrize("angle", [0, 60])
def test_finds_a_motion_blur(angle):
    psf = motion_psf(6, angle).astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 1 / 255, (100, 100))
    y = convolve2d(squares(), np.pad(psf, (9 - psf.shape[0]) // 2), "valid") + noise
    tensor = torch.from_numpy(y.astype(np.float32))[None, None]
    generator = torch.Generator().manual_seed(0)
    *_, last = search_blind(tensor, 9, load_prior("gray"), generator=generator)
    found = last.psf.numpy()
    true = np.pad(psf, (9 - psf.shape[0]) // 2)
    # Where the kernel lies within a pixel is undetermined: it is the image that moves instead.
    moves = np.linspace(-0.75, 0.75, 7)
    moved = [shift(true, (row, column), order=1) for row in moves for column in moves]
    similarity = max((found * k).sum() / np.linalg.norm(found) / np.linalg.norm(k) for k in moved)
    assert similarity > 0.85


def test_a_kernel_is_made_exact_where_that_makes_the_image_more_probable():
    true = motion_psf(9, 30).astype(np.float64)
    observed, _ = simulate_blur(squares(128), true, 1 / 255)
    y, prior = torch.from_numpy(observed)[None, None], load_prior("gray")
    wide = normalise_psf(gaussian_filter(resize_psf(true, 1, 15), 0.7))

    def distance(kernel):
        return np.linalg.norm(kernel - resize_psf(true, 1, 15))

    level = blind._level(y, None, make_stages(15, False)[-1], 128)
    begun, exact = (blind._Candidate(centre_psf(k)) for k in (wide, wide))
    for candidate in (begun, exact):
        list(blind._judge(candidate, level, prior))
    list(blind._make_exact(exact, level, prior, torch.Generator().manual_seed(0)))
    assert exact.energy < begun.energy
    assert distance(exact.kernel) < 0.8 * distance(begun.kernel)
    # Kernels follow strong noise.
    noisy = replace(level, noise=4 / 255)
    assert not list(blind._make_exact(exact, noisy, prior, None))


def test_the_true_kernel_is_better_than_no_blur_and_a_wide_one():
    true = motion_psf(9, 30)
    observed, _ = simulate_blur(squares(128), true, 1 / 255)
    y, prior = torch.from_numpy(observed)[None, None], load_prior("gray")
    level = blind._level(y, None, make_stages(21, False)[-1], 128)

    def energy(length):
        candidate = blind._Candidate(resize_psf(motion_psf(length, 30), 1, 21))
        list(blind._judge(candidate, level, prior))
        return blind._weighed(candidate, level)

    assert energy(9) < min(energy(1), energy(17))


@pytest.mark.parametrize("doubtful", [True, False])
def test_who_gets_a_kernel_in_doubt_is_told(doubtful, monkeypatch):
    told = iter([1.0 + doubtful, 1.5])
    monkeypatch.setattr(blind, "_weighed", lambda *_: next(told))
    y, _ = simulate_blur(squares(80), motion_psf(5, 30), 1 / 255)
    result = deblur(y, psf_size=7, iterations=2)
    assert any("no better than none" in text for text in result.warnings) == doubtful


def test_the_part_of_the_work_that_is_done_grows_with_the_pixels():
    y, _ = simulate_blur(squares(80), motion_psf(5, 30), 1 / 255)
    parts = []
    deblur(y, psf_size=7, iterations=2, callback=lambda state: parts.append(state.part))
    steps = np.diff([0, *parts])
    assert parts[-1] == pytest.approx(1)
    assert (steps > 0).all()
    # The coarsest level has few pixels, the image all.
    assert steps[0] < steps[-1]


def test_the_size_of_a_kernel_is_found():
    psf = motion_psf(8, 60).astype(np.float64)
    y, _ = simulate_blur(squares(140), psf, 1 / 255)
    tensor = torch.from_numpy(y)[None, None]
    assert default_size(y.shape) > 3 * len(psf)
    states = search_blind(tensor, None, load_prior("gray"), generator=torch.Generator())
    *_, last = states
    assert last.evaluation <= last.total == count_evaluations(y.shape)
    found = crop_psf(last.psf.numpy())
    assert max(found.shape) < 2 * len(psf)
    true = np.pad(psf, 6)
    moved = [
        shift(true, move, order=1) for move in np.random.default_rng(0).uniform(-1, 1, (99, 2))
    ]
    pads = [(n - k) // 2 for n, k in zip(true.shape, found.shape, strict=True)]
    found = np.pad(found, [(p, p) for p in pads])
    similarity = max((found * k).sum() / np.linalg.norm(found) / np.linalg.norm(k) for k in moved)
    assert similarity > 0.85


def test_gaps_have_no_part_in_a_search():
    rng = np.random.default_rng(0)
    kept = torch.ones(1, 1, 64, 64)
    kept[..., 20:30, 30:40] = 0
    y = torch.from_numpy(gaussian_filter(squares(64), 1.5).astype(np.float32))[None, None]
    x, weights = torch.from_numpy(rng.standard_normal((1, 1, 68, 68))).float(), kept
    kernels = [
        estimate_kernel(x, y * weights + value * (1 - weights), 5, 0.7, weights) for value in (0, 9)
    ]
    assert_allclose(kernels[0], kernels[1], atol=1e-6)
    *_, last = search_blind(y, 5, smooth, kept=kept)
    assert last.psf.shape == (5, 5)


def test_a_large_image_is_searched_where_it_has_detail():
    image = np.full((400, 420), 0.5)
    image[16:, 36:] = squares(384)
    y = torch.from_numpy(gaussian_filter(image, 1).astype(np.float32))[None, None]
    states = search_blind(y, 3, smooth)
    assert torch.equal(next(states).image, y)
    last = next(state for state in states if not torch.equal(state.image, y))
    assert last.image.shape == y.shape
    changed = (last.image != y)[0, 0].numpy()
    assert_allclose(last.image[0, 0, :16], y[0, 0, :16])
    assert changed[20:-20, 40:-20].mean() > 0.9


@pytest.mark.parametrize(("length", "sharp"), [(0, True), (6, False)])
def test_a_sharp_image_is_told_from_a_blurred_one(length, sharp):
    psf = motion_psf(length, 30) if length else np.ones((1, 1))
    observed, _ = simulate_blur(squares(128), psf, 2 / 255)
    y = torch.from_numpy(observed)[None, None]
    states = list(probe_sharpness(y, load_prior("gray"), generator=torch.Generator()))
    assert len(states) == PROBE_EVALUATIONS
    assert all(torch.equal(state.image, y) for state in states)
    assert is_one_pixel(states[-1].psf.numpy()) == sharp


def test_a_sharp_photograph_comes_back_as_it_is():
    image = simulate_blur(squares(128)[..., None] * [0.9, 0.6, 0.3], np.ones((1, 1)), 2 / 255)[0]
    result = deblur(image, channel_axis=-1, uncertainty=True)
    assert_allclose(result.image, image, atol=1e-6)
    assert result.psf.shape == (1, 1)
    assert result.evaluations == PROBE_EVALUATIONS
    assert "psf_size" in result.warnings[0]
    assert PROBE_EVALUATIONS + count_evaluations(image.shape[:2]) == len(search_work((128, 128)))
    assert_allclose(result.error, result.noise_sigma, rtol=1e-4)


@pytest.mark.parametrize("wrong", [True, False])
def test_an_image_that_rings_comes_back_as_it_is(wrong, monkeypatch):
    psf = gaussian_psf(1.5)
    observed, _ = simulate_blur(squares(108), psf, 1 / 255)
    kernel = torch.from_numpy(motion_psf(9, 0) if wrong else psf)
    y = torch.from_numpy(observed)[None, None]
    found = BlindState(y, 1, 1, 0.01, 0.01, psf=kernel)
    monkeypatch.setattr(tasks, "search_blind", lambda *_, **__: iter([found]))
    monkeypatch.setattr(tasks, "is_one_pixel", lambda _: False)
    result = deblur(observed)
    assert np.array_equal(result.psf, np.ones((1, 1))) == wrong
    assert any("not one kernel" in text for text in result.warnings) == wrong
    assert np.allclose(result.image, observed, atol=1e-6) == wrong
    # As it is of a photograph whose highlights are clipped.
    clipped = deblur(observed.clip(None, np.quantile(observed, 0.99)))
    assert np.array_equal(clipped.psf, np.ones((1, 1))) == wrong
    # Who says how large it is gets what was found.
    assert not np.allclose(deblur(observed, psf_size=9).image, observed, atol=1e-3)


def test_the_search_keeps_colours():
    image = gaussian_filter(np.stack([squares(72)] * 3, -1) * [0.9, 0.6, 0.3], (1.5, 1.5, 0))
    job = prepare_deblur(image, psf_size=3, channel_axis=-1, iterations=1)
    states = [state for state in job.states() if isinstance(state, BlindState)]
    assert_allclose(states[0].array(), image, atol=1e-5)
    sharper = states[-1].array()
    assert np.abs(sharper - image).max() > 0.01
    # The same is added to all of them.
    assert_allclose(np.ptp(sharper - image, axis=-1), 0, atol=1e-5)


def test_published_descent_lowers_the_residual():
    y = torch.from_numpy(gaussian_filter(squares(64), 1.0).astype(np.float32))[None, None]
    states = list(
        descend_blind(y, 5, smooth, iterations=30, generator=torch.Generator().manual_seed(0))
    )
    assert [s.evaluation for s in states] == list(range(1, 31))
    for state in states:
        assert state.image.shape == y.shape
        assert state.psf.min() >= 0
        assert_allclose(state.psf.sum(), 1, rtol=1e-5)
    assert states[-1].residual < 0.8 * states[0].residual
    assert not torch.allclose(states[-1].psf, states[0].psf)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 3, 100, 100), 9),
        ((1, 1, 40, 100), 5),
        ((1, 1, 100, 100), 8),
        ((1, 1, 100, 100), 1),
        ((1, 1, 100, 100), 27),
    ],
)
def test_what_does_not_fit_is_refused(shape, size):
    with pytest.raises(DmspError):
        next(search_blind(torch.rand(shape), size, smooth))


def test_every_step_says_its_stage():
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    stages = []
    deblur(image, psf_size=3, uncertainty=True, callback=lambda state: stages.append(state.stage))
    order = list(dict.fromkeys(stages))
    levels = [stage for stage in order if stage.startswith("finding the PSF")]
    assert levels == [
        f"finding the PSF, level {n + 1} of {len(levels)}" for n in range(len(levels))
    ]
    assert order == [*levels, "restoring", "estimating the error"]
