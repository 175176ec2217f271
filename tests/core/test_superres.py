import numpy as np
import pytest
from skimage import data

from napari_dmsp import DmspError, superres
from napari_dmsp.core.operators import resize_matrix

TRUTH = data.astronaut()[40:112, 170:242].astype(np.float64)


def reduce(image, small):
    rows, columns = (resize_matrix(a, small) for a in image.shape[:2])
    return np.einsum("ij,jkc->ikc", rows, np.einsum("lk,jkc->jlc", columns, image))


def error(a, b):
    return float(np.sqrt(np.mean((np.asarray(a, float) - b)[6:-6, 6:-6] ** 2)))


def bicubic(image, large):
    rows, columns = (resize_matrix(a, large) for a in image.shape[:2])
    return np.einsum("ij,jkc->ikc", rows, np.einsum("lk,jkc->jlc", columns, image))


@pytest.mark.parametrize("small", [36, 24])
def test_better_than_bicubic(small):
    image = np.rint(reduce(TRUTH, small))
    result = superres(image.astype(np.float32), 72 / small, channel_axis=-1)
    assert result.image.shape == TRUTH.shape
    assert error(result.image, TRUTH) < 0.95 * error(bicubic(image, 72), TRUTH)


@pytest.mark.parametrize("scale", [1.5, 2, 2.7])
def test_the_result_reduces_to_the_image(scale):
    image = reduce(TRUTH, 36)[..., 0]
    result = superres(image, scale, iterations=6, noise_sigma=0)
    large = round(36 * scale)
    assert result.image.shape == (large, large)
    back = resize_matrix(large, 36) @ result.image @ resize_matrix(large, 36).T
    assert np.sqrt(np.mean((back - image) ** 2)) < 2


def test_a_point_stays_in_place():
    image = np.zeros((15, 15))
    image[5, 9] = 1
    y, x = np.unravel_index(superres(image, 3, iterations=4).image.argmax(), (45, 45))
    assert (y, x) == (3 * 5 + 1, 3 * 9 + 1)


def test_a_slight_enlargement_does_no_harm():
    image = reduce(TRUTH, 66)
    noisy = image + np.random.default_rng(0).normal(0, 2.55, image.shape)
    result = superres(noisy, 72 / 66, channel_axis=-1)
    assert error(result.image, TRUTH) < error(bicubic(noisy, 72), TRUTH)


@pytest.mark.parametrize("scale", [0, 1, -2, 9, float("nan")])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(DmspError, match="scale="):
        superres(TRUTH[..., 0], scale)


def test_the_published_descent():
    image = np.rint(reduce(TRUTH, 36)).astype(np.uint8)
    result = superres(image, 2, channel_axis=-1, method="sgd", iterations=60)
    assert error(result.image, TRUTH) < error(bicubic(image.astype(float), 72), TRUTH)
    assert result.image.min() >= 0
    assert result.image.max() <= 255


@pytest.mark.parametrize("noise", [0, 2, 6])
def test_the_noise_level_is_found(noise):
    truth = data.astronaut()[:256, :256].astype(float)
    image = np.rint(reduce(truth, 128)) + np.random.default_rng(0).normal(0, noise, (128, 128, 3))
    found = superres(image, 2, channel_axis=-1, background=0, iterations=12).noise_sigma
    assert abs(found - noise) < 1.5
