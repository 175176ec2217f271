import numpy as np
import pytest
import torch
from skimage import data

from napari_dmsp import DmspError, demosaic
from napari_dmsp.core.data import Gaussian
from napari_dmsp.core.mosaic import PATTERNS, Encoding, cfa_tile, cfa_weights
from napari_dmsp.core.noise import patch_sigma
from napari_dmsp.core.operators import Mosaic

PHOTO = data.astronaut()[40:112, 170:242].astype(np.float32)
MIXED = np.random.default_rng(0).random((2, 3, 3))
MIXED[1, 1] = 0


def mosaic_of(image, pattern):
    return (cfa_weights(pattern, image.shape[:2]) * np.moveaxis(image, -1, 0)).sum(0)


def error(a, b):
    return float(np.sqrt(np.mean((np.asarray(a, float) - b)[6:-6, 6:-6] ** 2)))


@pytest.mark.parametrize("pattern", ["RGGB", "X-Trans", "quad-BGGR", MIXED])
def test_operator_agrees_with_a_dense_matrix(pattern):
    op = Mosaic(torch.from_numpy(cfa_weights(pattern, (7, 8)).astype(np.float64)))
    size = 3 * 7 * 8
    basis = torch.eye(size, dtype=torch.float64).reshape(size, 3, 7, 8)
    matrix = op.forward(basis).reshape(size, -1).T
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, c, 7, 8, dtype=torch.float64, generator=rng) for c in (3, 1))
    torch.testing.assert_close(op.adjoint(y).ravel(), matrix.T @ y.ravel())
    normal = matrix.T @ matrix + 7e-4 * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.solve(normal, matrix.T @ y.ravel() + 7e-4 * x.ravel())
    fit = Gaussian(operator=op, y=y).prox(x, 7e-4)
    torch.testing.assert_close(fit.x.ravel(), expected)
    torch.testing.assert_close(fit.error, y - op.forward(fit.x))
    assert torch.linalg.matrix_norm(matrix, 2) ** 2 == pytest.approx(op.norm(y))
    rows = matrix.square().sum(1)
    assert rows[rows > 0].mean() == pytest.approx(op.energy(y), rel=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_named_patterns_have_twice_as_much_green(pattern):
    tile = cfa_tile(pattern)
    assert (tile.sum(0) == 1).all()
    red, green, blue = tile.mean((1, 2))
    assert red == pytest.approx(blue)
    assert green == pytest.approx(5 / 9 if pattern == "X-Trans" else 1 / 2)


def test_bayer_patterns_begin_where_their_name_says():
    assert cfa_tile("GBRG").argmax(0).tolist() == [[1, 2], [0, 1]]
    assert cfa_tile("quad-gbrg").argmax(0)[:, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("pattern", ["RGGB", "X-Trans", "quad-RGGB", [[0, 1], [2, -1]]])
def test_start_keeps_the_samples_and_a_grey_image(pattern):
    op = Mosaic(
        torch.from_numpy(
            cfa_weights(np.array(pattern) if isinstance(pattern, list) else pattern, (20, 22))
        )
    )
    grey = torch.linspace(0.2, 0.8, 22).expand(1, 3, 20, 22)
    estimate = op.start(op.forward(grey))
    torch.testing.assert_close(op.forward(estimate), op.forward(grey))
    assert (estimate - grey)[..., 4:-4, 4:-4].abs().max() < 0.02


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG", "X-Trans", "quad-RGGB"])
def test_better_than_interpolation(pattern):
    mosaic = mosaic_of(PHOTO, pattern)
    result = demosaic(mosaic.astype(np.uint8), pattern)
    weights = torch.from_numpy(cfa_weights(pattern, mosaic.shape))
    start = Mosaic(weights).start(torch.from_numpy(mosaic)[None, None])[0].permute(1, 2, 0)
    assert result.image.shape == PHOTO.shape
    assert error(result.image, PHOTO) < 0.9 * error(start.numpy(), PHOTO)


@pytest.mark.parametrize("noise", [5, 15])
@pytest.mark.parametrize("pattern", ["RGGB", "X-Trans"])
def test_noise_is_found_in_the_mosaic(noise, pattern):
    image = data.astronaut().astype(np.float32)
    mosaic = mosaic_of(image, pattern)
    noisy = mosaic + np.random.default_rng(0).normal(0, noise, mosaic.shape)
    y = torch.from_numpy(noisy)[None, None]
    found = patch_sigma(y, cfa_tile(pattern).sum(0) > 0)
    assert found == pytest.approx(noise, rel=0.25)


def test_black_and_white_level_of_raw_counts():
    mosaic = mosaic_of(PHOTO, "BGGR")
    counts = np.rint(64 + mosaic * (1023 - 64) / 255).astype(np.uint16)
    plain = demosaic(mosaic, "BGGR", background=0, white=255, iterations=4).image
    levels = {"background": 64, "white": 1023, "linear": False}
    raw = demosaic(counts, "BGGR", **levels, iterations=4).image
    assert error((raw - 64) * 255 / (1023 - 64), plain) < 0.5


def test_linear_counts_are_restored_under_the_curve_of_photographs():
    light = 60000 * (PHOTO / 255) ** 2.2 * [0.5, 1, 0.7]
    rng = np.random.default_rng(0)
    counts = (mosaic_of(light, "RGGB") + rng.normal(0, 200, PHOTO.shape[:2])).clip(0, 65535)
    options = {"background": 0, "white": 65535}
    curved = demosaic(counts.astype(np.uint16), **options)
    plain = demosaic(counts.astype(np.uint16), **options, linear=False)
    assert curved.settings["linear"]

    def seen(image):
        return 255 * (np.clip(image, 0, None) / 60000) ** (1 / 2.2)

    assert error(seen(curved.image), seen(light)) < 0.9 * error(seen(plain.image), seen(light))
    assert abs(curved.image.mean() / light.mean() - 1) < 0.03
    assert 50 < curved.noise_sigma < 600


def test_encoding_is_undone():
    weights = torch.from_numpy(cfa_weights("RGGB", (8, 8)))
    y = torch.linspace(-0.01, 1.2, 64).reshape(1, 1, 8, 8)
    encoding = Encoding.of(y, weights)
    x = torch.rand(1, 3, 8, 8)
    back = encoding.decode(
        encoding.encode((weights * x).sum(1, keepdim=True), weights).expand(-1, 3, -1, -1)
    )
    torch.testing.assert_close((weights * back).sum(1), (weights * x).sum(1))


def test_dead_pixels_are_restored():
    mosaic = mosaic_of(PHOTO, "RGGB")
    mask = np.random.default_rng(1).random(mosaic.shape) < 0.03
    broken = np.where(mask, np.nan, mosaic)
    result = demosaic(broken, mask=mask, background=0, white=255)
    assert error(result.image, PHOTO) < 1.5 * error(
        demosaic(mosaic, background=0, white=255).image, PHOTO
    )


def test_the_published_descent():
    mosaic = mosaic_of(PHOTO[:32, :32], "RGGB")
    result = demosaic(mosaic, method="sgd", iterations=3)
    assert result.evaluations == 3
    assert np.isfinite(result.image).all()


@pytest.mark.parametrize(
    ("mosaic", "options", "message"),
    [
        (PHOTO, {}, "one value per pixel"),
        (PHOTO[..., 0], {"pattern": "RGBW"}, "pattern='RGBW' is unknown; use one of RGGB"),
        (PHOTO[..., 0], {"pattern": [[0, 4]]}, "0, 1, 2"),
        (PHOTO[..., 0], {"pattern": [[0, 1]]}, "blue"),
        (PHOTO[..., 0], {"pattern": np.full((2, 2, 3), np.nan)}, "finite"),
        (PHOTO[..., 0], {"pattern": np.ones(3)}, r"shape \(3,\)"),
        (PHOTO[..., 0], {"prior": "gray"}, "colour"),
        (PHOTO[..., 0], {"background": 5, "white": 4}, "white=4"),
    ],
)
def test_bad_input_is_refused(mosaic, options, message):
    with pytest.raises(DmspError, match=message):
        demosaic(mosaic, **options)


def test_developed_colours_are_balanced_and_brightened():
    linear = PHOTO.astype(float)[:64, :64] ** 2.2 / 255**2.2 * [0.5, 1.0, 0.65]
    raw = np.rint(64 + 959 * mosaic_of(linear, "RGGB")).astype(np.uint16)
    options = {"background": 64, "white": 1023, "iterations": 6}
    measured, shown = (
        (demosaic(raw, developed=developed, **options).image.astype(float) - 64) / 959
        for developed in (False, True)
    )
    means = [
        linear[0::2, 0::2, 0].mean(),
        np.mean([linear[0::2, 1::2, 1].mean(), linear[1::2, 0::2, 1].mean()]),
        linear[1::2, 1::2, 2].mean(),
    ]
    # The curve of ITU-R BT.709, of what is balanced for a grey world.
    balanced = measured * (max(means) / np.array(means))
    curved = np.where(
        balanced < 0.018, 4.5 * balanced, 1.099 * np.maximum(balanced, 0.018) ** 0.45 - 0.099
    )
    np.testing.assert_allclose(shown, np.clip(curved, 0, 1), atol=5e-3)
    assert shown.mean() > 1.5 * measured.mean()
