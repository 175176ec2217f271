import json
import os
import re
import stat
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from napari_dmsp import deblur
from napari_dmsp.core import load_prior
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.priors import prior_files
from napari_dmsp.training.average import average_priors
from napari_dmsp.training.data import (
    PatchSampler,
    doubts,
    find_images,
    find_sources,
    noise_level,
    read_image,
)
from napari_dmsp.training.iterates import draw_iterates
from napari_dmsp.training.structures import draw_structures
from napari_dmsp.training.train import (
    Recipe,
    _hold_out,
    _rate,
    draw_sigmas,
    loss_weights,
    state_path,
    train,
)

CPU = torch.device("cpu")
TINY = Recipe(channels=3, widths=(8, 16), blocks=1, batch=2, patch=16, warmup_steps=1)
# One step: time is up after it.
INSTANT = 1e-6


def smooth_image(seed, shape=(24, 28, 3)):
    noise = np.random.default_rng(seed).random((4, 4, 3))
    rows, columns = (np.linspace(0, 3, n).round().astype(int) for n in shape[:2])
    return (noise[rows][:, columns] * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for index in range(3):
        iio.imwrite(path / f"{index}.png", smooth_image(index))
    return path


class Stop:
    """Stops a training after some reports."""

    def __init__(self, reports):
        self.left, self.values = reports, []

    def __call__(self, values):
        if "step" not in values:
            return False
        self.left -= 1
        self.values.append(values)
        return self.left <= 0


def test_find_images_skips_hidden_and_other_files(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.PNG", "a.jpg", "below/c.tiff", "._a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [f.name for f in find_images([tmp_path])] == ["a.jpg", "b.PNG", "c.tiff"]


def test_read_image(tmp_path):
    colour = smooth_image(0)
    iio.imwrite(tmp_path / "a.png", colour)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), colour)
    grey = read_image(tmp_path / "a.png", 1)
    assert (grey.shape, grey.dtype) == ((24, 28, 1), np.uint8)
    np.testing.assert_allclose(grey[..., 0], colour @ [0.299, 0.587, 0.114], atol=0.51)
    alpha = np.full((24, 28, 1), 9, np.uint8)
    iio.imwrite(tmp_path / "alpha.png", np.concatenate([colour, alpha], -1))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png", 3), colour)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_images_are_scaled(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", smooth_image(0)[..., 0].astype(dtype) * 7)
    image = read_image(tmp_path / "a.tif", 1)
    assert (image.shape, image.dtype) == ((24, 28, 1), np.float32)
    assert (image.min(), image.max()) == pytest.approx((0, 1), abs=1e-6)


def test_unusable_images(tmp_path):
    iio.imwrite(tmp_path / "grey.png", smooth_image(0)[..., 0])
    with pytest.raises(DmspError, match=r"grey\.png is grey"):
        read_image(tmp_path / "grey.png", 3)
    tifffile.imwrite(tmp_path / "nan.tif", np.full((24, 28), np.nan, np.float32))
    with pytest.raises(DmspError, match="NaN"):
        read_image(tmp_path / "nan.tif", 1)
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(DmspError, match=r"broken\.png cannot be read"):
        read_image(tmp_path / "broken.png", 3)


def test_arrays_are_read_like_files(tmp_path):
    colour = smooth_image(0)
    grey = colour[..., 0]
    for name, array, channels in [
        ("colour", colour, 3),
        ("luma", colour, 1),
        ("grey", grey, 1),
        ("deep", grey.astype(np.uint16) * 7, 1),
    ]:
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, array)
        np.testing.assert_array_equal(read_image(array, channels), read_image(path, channels))
    assert read_image(grey > 128, 1).max() == 1


@pytest.mark.parametrize(
    ("array", "channels", "message"),
    [
        (np.zeros((4, 5)), 3, r"of shape \(4, 5\) is grey"),
        (np.full((4, 5), np.nan), 1, "NaN"),
        (np.zeros((4, 5, 4)), 3, "give"),
        (np.zeros((2, 4, 5, 3)), 3, "give"),
        (np.zeros((4, 5), complex), 1, "complex128"),
    ],
)
def test_unusable_arrays(array, channels, message):
    with pytest.raises(DmspError, match=message):
        read_image(array, channels)


def test_folders_and_arrays_together(folder):
    array = smooth_image(3)
    *files, last = find_sources([folder, array])
    assert files == find_images([folder])
    assert last is array
    assert len(find_sources([array])) == 1
    with pytest.raises(DmspError, match="no images"):
        find_sources([])


def test_patches_come_from_the_images():
    images = [np.full((20, 30, 1), 50, np.uint8), np.full((16, 16, 1), 200, np.uint8)]
    sampler = PatchSampler([*images, np.zeros((4, 90, 1), np.uint8)], 16, CPU)
    assert len(sampler) == 2
    patches = sampler.draw(64, torch.Generator().manual_seed(0))
    assert patches.shape == (64, 1, 16, 16)
    means = patches.mean((1, 2, 3)) * 255
    assert {round(float(m)) for m in means} == {50, 200}
    assert (patches.std((1, 2, 3)) < 1e-6).all()


def test_patches_are_intact():
    image = np.arange(20 * 30, dtype=np.float32).reshape(20, 30, 1)
    patch = PatchSampler([image], 16, CPU).draw(1, torch.Generator().manual_seed(3))[0, 0]
    # Whatever the turn: neighbours differ by one along one axis and a row's length along the other.
    steps = {abs(float(patch[1, 0] - patch[0, 0])), abs(float(patch[0, 1] - patch[0, 0]))}
    assert steps == {1, 30}


def test_patches_of_mixed_depth():
    images = [np.full((16, 16, 1), 255, np.uint8), np.full((16, 16, 1), 1, np.float32)]
    assert (PatchSampler(images, 16, CPU).draw(8, torch.Generator()) == 1).all()


def test_too_small_images_are_refused():
    with pytest.raises(DmspError, match="17 pixel patch"):
        PatchSampler([np.zeros((16, 90, 1), np.uint8)], 17, CPU)


def test_patches_are_the_eight_flips_and_rotations():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    sampler = PatchSampler([image, image[::-1]], 8, torch.device("cpu"))
    drawn = sampler.draw(200, torch.Generator().manual_seed(0)) * 255
    expected = {
        np.rot90(flipped, turns).tobytes()
        for flipped in (image[..., 0], image[::-1, :, 0])
        for turns in range(4)
    }
    assert {p[0].round().to(torch.uint8).numpy().tobytes() for p in drawn} == expected


def test_patches_keep_their_place_in_images_of_several_sizes():
    """Every pixel says which image it is of, and where; steps inside a patch are all alike."""
    rng = np.random.default_rng(0)
    sizes = [(9, 14), (30, 8), (12, 12)]
    images = [
        np.stack(np.broadcast_arrays(n / 3, *(a / 32 for a in np.ogrid[:h, :w])), -1).astype(
            np.float32
        )
        for n, (h, w) in enumerate(sizes)
    ]
    sampler = PatchSampler(images, 8, torch.device("cpu"))
    drawn = sampler.draw(64, torch.Generator().manual_seed(int(rng.integers(99))))
    assert all(len(p[0].unique()) == 1 for p in drawn)
    assert {round(float(p[0, 0, 0]) * 3) for p in drawn} == {0, 1, 2}
    for patch in (drawn * 32).round()[:, 1:]:
        assert patch[0].unique().numel() == patch[1].unique().numel() == 8
        assert patch.amax((1, 2)).sub(patch.amin((1, 2))).tolist() == [7, 7]


def test_reduced_patches_are_averages_of_two_by_two_pixels():
    image = np.random.default_rng(1).random((16, 16, 1)).astype(np.float32)
    small = np.full((9, 9, 1), 2.0, np.float32)
    sampler = PatchSampler([image, small], 8, torch.device("cpu"), reduced=0.5)
    drawn = sampler.draw(4, torch.Generator().manual_seed(0))[2:]
    halved = np.sort(image.reshape(8, 2, 8, 2).mean((1, 3)).ravel())
    for patch in drawn:
        np.testing.assert_allclose(np.sort(patch.numpy().ravel()), halved, atol=1e-6)


def test_reduced_patches_need_a_large_enough_image():
    with pytest.raises(DmspError, match="at least 16 pixels"):
        PatchSampler([np.zeros((9, 9, 1), np.float32)], 8, torch.device("cpu"), reduced=0.5)


@pytest.mark.parametrize(
    ("total", "held"), [(1, 1), (2, 1), (13, 1), (25, 2), (120, 12), (500, 12)]
)
def test_few_images_are_held_out(total, held):
    images = [np.full((2, 2), index) for index in range(total)]
    kept, out = ({int(image[0, 0]) for image in part} for part in _hold_out(images))
    assert len(out) == held
    assert len(kept) == max(1, total - held)
    assert total == 1 or not kept & out


def test_noise_levels():
    sigmas = draw_sigmas(Recipe(), 1000, torch.Generator().manual_seed(0)) * 255
    assert 0.3 <= sigmas.min() < 1
    assert 59 < sigmas.max() <= 60
    assert (draw_sigmas(Recipe(noise_sigma=0.1), 5, torch.Generator()) == 0.1).all()
    assert (loss_weights(sigmas / 255).diff().sign() == -sigmas.clamp(min=1).diff().sign()).all()


def test_learning_rate_warms_up_and_falls():
    recipe = Recipe(warmup_steps=10)
    rates = [_rate(recipe, step, step, 100) for step in range(101)]
    assert rates[0] < rates[5] < rates[9]
    assert max(rates) <= recipe.learning_rate
    assert rates[-1] == pytest.approx(recipe.final_rate)


def test_training_writes_weights_state_and_card(tmp_path, folder):
    out = tmp_path / "new" / "tiny.safetensors"
    card = train([folder], out, recipe=TINY, minutes=INSTANT, device="cpu", note="CC0")
    assert json.loads(json.dumps(card)) == json.loads(out.with_suffix(".json").read_text())
    assert card["training"]["steps"] == 1
    assert card["data"]["note"] == "CC0"
    assert set(card["validation_psnr"]) == {"psnr5", "psnr25"}
    assert sorted(f.name for f in out.parent.iterdir()) == [
        "tiny.json",
        "tiny.safetensors",
        "tiny.state.safetensors",
    ]
    prior = load_prior(out)
    assert (prior.name, prior.channels, prior.noise_sigma) == ("tiny", 3, None)
    assert prior.sha256 == card["sha256"]
    assert prior.card["training"] == card["training"]
    image = smooth_image(9)
    restored = deblur(image, gaussian_psf(1), channel_axis=-1, prior=out, iterations=1).image
    assert restored.shape == image.shape


class Lazy:
    """An array that is computed when it is asked for."""

    def __init__(self, array):
        self.array, self.computed = array, 0

    def __array__(self, dtype=None, copy=None):
        self.computed += 1
        return self.array


def test_the_state_of_torch_neither_matters_nor_changes(tmp_path, folder):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    train([folder], one, recipe=TINY, minutes=INSTANT, device="cpu", precision="float32")
    torch.manual_seed(5)
    seeds = torch.get_rng_state().clone()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            train([folder], two, recipe=TINY, minutes=INSTANT, device="cpu", precision="float32")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), seeds)
    # Denormal numbers are not taken for zero.
    assert (np.array([1e-310]) * 0.5)[0] > 0
    torch.testing.assert_close(load_file(two), load_file(one), rtol=0, atol=0)


def test_training_on_arrays(tmp_path, folder):
    reports = []
    lazy = [Lazy(smooth_image(seed)) for seed in range(3)]
    card = train(
        lazy,
        tmp_path / "tiny.safetensors",
        recipe=TINY,
        minutes=INSTANT,
        device="cpu",
        progress=reports.append,
    )
    assert [image.computed for image in lazy] == [1, 1, 1]
    assert [report["images"] for report in reports if "images" in report] == [0.5, 1]
    files = train([folder], tmp_path / "b.safetensors", recipe=TINY, minutes=INSTANT, device="cpu")
    # The same images, so the same training.
    assert card["validation_psnr"] == files["validation_psnr"]
    assert card["data"]["pixels"] == files["data"]["pixels"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_others_may_read_the_weights(tmp_path, folder):
    out = tmp_path / "tiny.safetensors"
    train([folder], out, recipe=TINY, minutes=INSTANT, device="cpu")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_training_learns(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("napari_dmsp.training.train.REPORT_EVERY", 0)
    before = train([folder], tmp_path / "a.safetensors", recipe=TINY, minutes=INSTANT, device="cpu")
    stop = Stop(40)
    card = train(
        [folder], tmp_path / "b.safetensors", recipe=TINY, minutes=60, device="cpu", progress=stop
    )
    assert card["validation_psnr"]["psnr25"] > before["validation_psnr"]["psnr25"]
    assert card["training"]["steps"] == 40
    assert [v["step"] for v in stop.values] == list(range(1, 41))
    assert stop.values[-1]["loss"] < stop.values[0]["loss"]


def test_resume_continues(tmp_path, folder):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train([folder], first, recipe=TINY, minutes=INSTANT, device="cpu")
    with safe_open(state_path(first), framework="pt") as file:
        assert file.metadata()["step"] == "1"
    settings = {"recipe": TINY, "device": "cpu", "resume": state_path(first), "progress": Stop(1)}
    card = train([folder], second, minutes=60, **settings)
    assert card["training"]["steps"] == 2
    assert card["training"]["resumed_from"] == "first.state.safetensors"
    # The second step starts from the first one's weights and moments.
    one, two = load_file(state_path(first)), load_file(state_path(second))
    for key, value in one.items():
        if key.startswith("net."):
            assert (two[key] - value).abs().max() < 3 * TINY.learning_rate
        elif key.startswith("exp_avg_sq."):
            assert (two[key] >= 0.998 * value).all()


def test_start_from_weights_of_another_network(tmp_path, folder):
    colour, grey = tmp_path / "colour.safetensors", tmp_path / "grey.safetensors"
    train([folder], colour, recipe=TINY, minutes=INSTANT, device="cpu")
    recipe = Recipe(channels=1, widths=(8, 16), blocks=1, batch=2, patch=16)
    card = train([folder], grey, recipe=recipe, minutes=INSTANT, device="cpu", resume=colour)
    assert card["training"]["steps"] == 1
    shared = "bottom.0.conv1.weight"
    difference = load_file(colour)[shared] - load_file(grey)[shared]
    assert difference.abs().max() < 1e-3
    assert load_prior(grey).channels == 1


def test_resume_must_fit(tmp_path, folder):
    out = tmp_path / "a.safetensors"
    train([folder], out, recipe=TINY, minutes=INSTANT, device="cpu")
    settings = {"minutes": 1, "device": "cpu"}
    wider = Recipe(channels=3, widths=(16, 32), blocks=1, batch=2, patch=16)
    with pytest.raises(DmspError, match="another network"):
        train([folder], out, recipe=wider, resume=state_path(out), **settings)
    dncnn = Recipe(channels=3, architecture="dncnn", noise_sigma=0.1, batch=2, patch=16)
    with pytest.raises(DmspError, match="no layer in common"):
        train([folder], out, recipe=dncnn, resume=out, **settings)
    (tmp_path / "broken.safetensors").write_text("broken")
    for resume, message in [("broken", "cannot be continued"), ("none", "does not exist")]:
        path = tmp_path / f"{resume}.safetensors"
        with pytest.raises(DmspError, match=message):
            train([folder], out, recipe=TINY, resume=path, **settings)


def test_one_noise_level(tmp_path, folder):
    out = tmp_path / "level.safetensors"
    recipe = Recipe(channels=3, architecture="dncnn", noise_sigma=11 / 255, batch=1, patch=16)
    card = train([folder], out, recipe=recipe, minutes=INSTANT, device="cpu", precision="float32")
    assert set(card["validation_psnr"]) == {"psnr11"}
    assert load_prior(out).noise_sigma == pytest.approx(11 / 255)
    with pytest.raises(DmspError, match="method='sgd'"):
        deblur(smooth_image(0), gaussian_psf(1), channel_axis=-1, prior=out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels=2"),
        ({"architecture": "vit"}, "architecture='vit'"),
        ({"architecture": "dncnn"}, "give it as noise_sigma"),
        ({"noise_sigma": 0.0}, "noise_sigma=0"),
        ({"batch": 0}, "batch=0"),
        ({"patch": 4}, "patch=4"),
    ],
)
def test_bad_recipes(tmp_path, folder, changes, message):
    with pytest.raises(DmspError, match=message):
        train([folder], tmp_path / "a.safetensors", recipe=Recipe(**changes), minutes=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "a.pt"}, "must end in .safetensors"),
        ({"out": "file/a.safetensors"}, "cannot be made"),
        ({"out": "folder.safetensors"}, "is a folder"),
        ({"images": "missing"}, "missing does not exist"),
        ({"images": "empty"}, "no images"),
        ({"validation": "empty"}, "no images"),
        ({"minutes": 0}, "minutes=0"),
        ({"minutes": float("nan")}, "minutes=nan"),
        ({"precision": "float16"}, "precision='float16'"),
        ({"device": "abacus"}, "device='abacus'"),
    ],
)
def test_bad_arguments(tmp_path, folder, changes, message):
    (tmp_path / "file").touch()
    for name in ("empty", "folder.safetensors"):
        (tmp_path / name).mkdir()
    values = {"out": "a.safetensors", "minutes": 1, "images": folder} | changes
    images, out = tmp_path / values.pop("images"), tmp_path / values.pop("out")
    if "validation" in values:
        values["validation"] = tmp_path / values["validation"]
    with pytest.raises(DmspError, match=message):
        train([images], out, recipe=TINY, **values)


def test_unwritable_folder_is_noticed_first(tmp_path, folder, monkeypatch):
    def refuse(**_):
        raise PermissionError("no")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DmspError, match="cannot be written to"):
        train([folder], tmp_path / "a.safetensors", recipe=TINY, minutes=1)


def test_running_out_of_memory_is_explained(tmp_path, folder, monkeypatch):
    def exhaust(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("napari_dmsp.core.networks.UNet.forward", exhaust)
    with pytest.raises(DmspError, match="lower batch=2 or patch=16"):
        train([folder], tmp_path / "a.safetensors", recipe=TINY, minutes=1, device="cpu")


def test_resume_notices_another_recipe(tmp_path, folder):
    out = tmp_path / "one.safetensors"
    train([folder], out, recipe=replace(TINY, noise_sigma=11 / 255), minutes=INSTANT, device="cpu")
    with pytest.raises(DmspError, match="noise_sigma"):
        train([folder], out, recipe=TINY, minutes=1, resume=state_path(out), device="cpu")


def test_a_broken_card_does_no_harm(tmp_path, folder):
    out = tmp_path / "one.safetensors"
    train([folder], out, recipe=TINY, minutes=INSTANT, device="cpu")
    out.with_suffix(".json").write_text("{")
    assert load_prior(out).card == {}


def test_structures_are_repeatable_and_thin():
    drawn = [draw_structures(seed, size=192) for seed in range(4)]
    for image in drawn:
        assert image.shape == (192, 192)
        assert image.min() >= 0
        assert 0.3 < image.max() <= 1.52
    np.testing.assert_array_equal(drawn[2], draw_structures(2, size=192))
    assert np.median(drawn[0]) < 0.3 * drawn[0].max()


def test_averages_lie_between(tmp_path, folder):
    one, two, out = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "out"))
    for seed, path in enumerate((one, two)):
        train([folder], path, recipe=replace(TINY, seed=seed), minutes=INSTANT)
    card = average_priors(one, two, out, 0.25)
    weights = [load_file(path) for path in (one, two, out)]
    for name, mean in weights[2].items():
        torch.testing.assert_close(mean, 0.25 * weights[0][name] + 0.75 * weights[1][name])
    assert load_prior(out).sha256 == card["sha256"]
    assert card["average"]["one"] == {"share": 0.25, "sha256": load_prior(one).sha256}
    with pytest.raises(DmspError, match="exists"):
        average_priors(one, two, out, 0.25)
    with pytest.raises(DmspError, match="share=2"):
        average_priors(one, two, tmp_path / "new.safetensors", 2)
    with pytest.raises(DmspError, match="different forms"):
        average_priors(one, prior_files()["gray"], tmp_path / "new.safetensors", 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_iterates_are_degraded_patches_on_their_way_back(channels):
    image = np.concatenate([smooth_image(0, (64, 64, 3))] * 2)[:64, :, :channels]
    clean = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    shown = []

    def oracle(x, sigma):
        # The solver shows turned images; this one is the same from all sides.
        shown.append(sigma)
        return torch.full_like(x, 0.5)

    flat = torch.full_like(clean, 0.5)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        before = len(shown)
        x, sigma = draw_iterates(oracle, flat, generator)
        assert x.shape == clean.shape
        assert x.isfinite().all()
        assert 3 / 255 <= sigma <= 49 / 255
        widths = [*shown[before:], sigma]
        assert widths == sorted(widths, reverse=True)
        assert len(widths) <= 7
    again = [draw_iterates(oracle, clean, torch.Generator().manual_seed(1))[0] for _ in range(2)]
    torch.testing.assert_close(*again)
    assert (again[0] - clean).abs().max() > 0.01


def test_iterates_are_aligned_with_the_patches():
    points = torch.zeros(1, 1, 64, 64)
    points[..., 20:44:8, 20:44:8] = 1.0
    for seed in range(12):
        x, _ = draw_iterates(lambda x, _: x, points, torch.Generator().manual_seed(seed))
        # Noise is of no account beside nine points in one place.
        spectrum = torch.fft.fft2(x) * torch.fft.fft2(points).conj()
        peak = int(torch.fft.ifft2(spectrum).real.flatten().argmax())
        rows, columns = peak // 64, peak % 64
        assert min(rows, 64 - rows) <= 3
        assert min(columns, 64 - columns) <= 3


def test_training_on_iterates(folder, tmp_path):
    recipe = replace(TINY, iterates=0.5)
    with pytest.raises(DmspError, match=r"iterates=0\.5 needs patches of at least 48"):
        train([folder], tmp_path / "a.safetensors", recipe=recipe, minutes=INSTANT)
    for index in range(2):
        iio.imwrite(tmp_path / f"{index}.png", smooth_image(index, (64, 64, 3)))
    recipe = replace(recipe, patch=48)
    card = train([tmp_path], tmp_path / "a.safetensors", recipe=recipe, minutes=INSTANT)
    assert card["recipe"]["iterates"] == 0.5
    assert card["training"]["steps"] == 1
    with pytest.raises(DmspError, match="iterates=2 must be"):
        replace(recipe, iterates=2).check()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_noise_of_training_images_is_measured(dtype, channels):
    rng = np.random.default_rng(0)
    levels = []
    for sigma in (0, 5, 20):
        blocks = rng.integers(40, 200, (12, 12, channels)).repeat(12, 0).repeat(12, 1)
        image = (blocks + rng.normal(0, sigma, blocks.shape)).clip(0, 255)
        image = image.astype(np.uint8) if dtype == "uint8" else image.astype(np.float32) / 255
        levels.append(255 * noise_level([image, image]))
    assert levels[0] < 1
    assert levels[1:] == pytest.approx([5, 20], rel=0.15)


def test_what_is_wrong_with_the_images_is_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    blocks = rng.integers(40, 200, (12, 12)).repeat(10, 0).repeat(10, 1)
    noisy = (blocks + rng.normal(0, 10, blocks.shape)).astype(np.uint8)
    heard = []
    options = {"recipe": replace(TINY, channels=1), "minutes": INSTANT, "device": "cpu"}
    card = train([noisy], tmp_path / "a.safetensors", progress=heard.append, **options)
    noise, few = card["warnings"]
    assert re.search(r"noise of σ (3\.[5-9]|4\.[0-3])% of their range", noise)
    assert few.startswith("1 image with 0.014 megapixels")
    assert "little to learn from, and the PSNR is of that same image. Add images, or" in few
    assert {"warnings": [noise, few]} in heard
    assert json.loads((tmp_path / "a.json").read_text())["warnings"] == card["warnings"]
    # Who does not listen reads it beside the bar.
    train([noisy], tmp_path / "b.safetensors", resume=tmp_path / "a.safetensors", **options)
    told = capsys.readouterr().err
    assert f"Warning: {noise}" in told
    assert "the PSNR is of that same image. Add images." in told


def test_nothing_is_said_of_many_good_images():
    rng = np.random.default_rng(0)
    blocks = rng.integers(40, 200, (30, 30, 1), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    assert doubts([blocks] * 3) == []
    assert doubts([blocks] * 2) == [
        "2 images with 0.72 megapixels are little to learn from. Add images, or start from an "
        "existing prior."
    ]
