"""What raw frames bring along, as rawpy and others give it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from skimage import data

from napari_dmsp import DmspError, demosaic
from napari_dmsp.core import prepare_demosaic
from napari_dmsp.core.mosaic import cfa_channels, cfa_tile, cfa_weights
from napari_dmsp.core.raw import guess_linear, level_mosaic

# As rawpy has them: raw_pattern, black_level_per_channel, camera_white_level_per_channel.
PATTERN = np.array([[0, 1], [3, 2]], np.uint8)
BLACK, WHITE = [500, 520, 510, 480], [15000, 15800, 15200, 15900]
PHOTO = data.astronaut()[40:104, 170:234] / 255.0
LIGHT = PHOTO**2.2 * [0.5, 1, 0.65]


def mosaic_of(image, pattern="RGGB"):
    return (cfa_weights(pattern, image.shape[:2]) * np.moveaxis(image, -1, 0)).sum(0)


def counts(black=BLACK, white=WHITE):
    """A raw frame whose filters differ: what the sensor has made of the same light."""
    low, high = (np.tile(np.take(v, PATTERN), (32, 32)) for v in (black, white))
    return np.rint(low + mosaic_of(LIGHT) * (high - low)).astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("RGGB", [[0, 1], [3, 2]]),
        ("BGGR", [[2, 3], [1, 0]]),
        ("GRBG", [[1, 0], [2, 3]]),
        ("GBRG", [[3, 2], [0, 1]]),
    ],
)
def test_channels_are_numbered_as_libraw_does(name, numbers):
    assert cfa_channels(name).tolist() == numbers
    assert_array_equal(cfa_tile(np.array(numbers, np.uint8)), cfa_tile(name))


def test_x_trans_has_one_green():
    assert set(np.unique(cfa_channels("X-Trans"))) == {0, 1, 2}


@pytest.mark.parametrize("pattern", ["RGGB", PATTERN, PATTERN.tolist()])
def test_levels_of_filters_become_one(pattern):
    found, black, white = level_mosaic(counts(), pattern, BLACK, WHITE)
    assert black == np.mean(BLACK)
    assert white == np.mean(WHITE)
    # Rounded to whole counts of about 15 000 levels.
    assert_allclose((found - black) / (white - black), mosaic_of(LIGHT), atol=4e-5)
    shifted, black, white = level_mosaic(counts(), pattern, BLACK, None)
    assert white is None
    expected = counts() - np.tile(np.take(BLACK, PATTERN), (32, 32)) + np.mean(BLACK)
    assert_allclose(shifted, expected)


def test_levels_of_filters_give_the_same_colours():
    options = {"prior": lambda x, _: x, "iterations": 2, "device": "cpu"}
    raw = demosaic(counts(), PATTERN, background=BLACK, white=WHITE, **options)
    plain = demosaic(counts([500] * 4, [15500] * 4), background=500, white=15500, **options)
    low, high = raw.settings["background"], raw.settings["white"]
    assert (low, high) == (np.mean(BLACK), np.mean(WHITE))
    assert raw.settings["background_levels"] == BLACK
    assert raw.settings["white_levels"] == WHITE
    tensors = {"background": torch.tensor(BLACK), "white": torch.tensor(WHITE)}
    assert prepare_demosaic(counts(), PATTERN, **tensors).settings["white_levels"] == WHITE
    expected = (plain.image - 500) / 15000
    assert_allclose((raw.image - low) / (high - low), expected, atol=3e-3)


@pytest.mark.parametrize("shape", [(64, 64, 1), (1, 64, 64)])
def test_an_axis_of_length_1_is_no_colour(shape):
    job = prepare_demosaic(counts().reshape(shape), prior=lambda x, _: x)
    assert job._input.shape == (64, 64)


def test_a_masked_frame_and_saturation():
    raw = counts()
    raw[10:12, 20:24] = 65535
    options = {"background": BLACK, "white": WHITE, "prior": lambda x, _: x}
    gaps = raw == 65535
    for given in ({"mask": "auto"}, {"mask": gaps}):
        assert prepare_demosaic(raw, **given, **options).settings["masked"] == 8
    assert prepare_demosaic(np.ma.array(raw, mask=gaps), **options).settings["masked"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": [1, 2]}, r"background=\[1, 2\]"),
        ({"background": [1, 2, 3, np.nan]}, "finite"),
        ({"white": WHITE}, "give background"),
        ({"background": BLACK, "white": BLACK}, "must be above"),
        ({"background": BLACK, "pattern": np.full((2, 2, 3), 0.3)}, "one colour each"),
    ],
)
def test_impossible_levels_are_refused(options, message):
    with pytest.raises(DmspError, match=message):
        prepare_demosaic(counts(), prior=lambda x, _: x, **options)


def scaled(values):
    low, high = np.percentile(values, [0.1, 99.9])
    return (values - low) / (high - low)


RAW = counts([512] * 4, [16383] * 4)


@pytest.mark.parametrize(
    ("values", "linear"),
    [
        (RAW, True),
        (RAW.astype(np.float32), True),
        ((RAW - 512.0) / 15871, True),
        (((RAW - 512.0) / 15871).astype(np.float32), True),
        ((RAW / 16383).astype(np.float32), True),
        ((RAW // 16) / 1023, True),
        (np.rint(mosaic_of(PHOTO) * 255).astype(np.uint8), False),
        (np.rint(mosaic_of(PHOTO) * 255), False),
        (np.rint(mosaic_of(PHOTO) * 255).astype(np.float32) / 255, False),
    ],
)
def test_evenly_spaced_values_say_what_they_were(values, linear):
    weights = cfa_weights("RGGB", values.shape)
    assert guess_linear(values, scaled(values), weights) == (linear, True)


@pytest.mark.parametrize("unit", [1, 1 / 959])
def test_a_known_white_tells_dark_frames_from_8_bits(unit):
    dark = np.rint(mosaic_of(LIGHT) * 200)
    weights = cfa_weights("RGGB", dark.shape)
    assert guess_linear(dark * unit, dark / 959, weights, 959 * unit) == (True, True)


@pytest.mark.parametrize("photo", [data.astronaut, data.coffee, data.cat])
def test_others_are_judged_by_what_light_looks_like(photo):
    image = photo()[:200, :200] / 255.0
    noise = np.random.default_rng(0).normal(0, 0.01, image.shape[:2])
    weights = cfa_weights("RGGB", image.shape[:2])
    for values, linear in (
        (mosaic_of(image), False),
        (mosaic_of(image**2.2 * [0.5, 1, 0.6]), True),
    ):
        found = guess_linear(values + noise, scaled(values + noise), weights)
        assert found == (False, not linear)


def test_the_record_and_a_warning_say_what_was_guessed():
    rng = np.random.default_rng(0)
    options = {"prior": lambda x, _: x, "background": 0, "white": 1}
    light = mosaic_of(PHOTO**2.2 * [0.5, 1, 0.6]) + rng.normal(0, 0.01, (64, 64))
    job = prepare_demosaic(light, **options)
    assert not job.settings["linear"]
    assert "linear=True" in job.warnings[0]
    assert not prepare_demosaic(light, linear=True, **options).warnings
    sure = prepare_demosaic((RAW - 512.0) / 15871, **options)
    assert sure.settings["linear"]
    assert not sure.warnings
