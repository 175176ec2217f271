import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from napari_dmsp.core.operators import Blur
from napari_dmsp.errors import DmspError

SHAPES = [((12, 17), (3, 3)), ((16, 11), (4, 6)), ((13, 13), (1, 5)), ((20, 9), (7, 2))]


def make(shape, kernel_shape, seed=0):
    psf = torch.from_numpy(np.random.default_rng(seed).random(kernel_shape))
    return Blur(psf / psf.sum(), shape)


@pytest.mark.parametrize(("shape", "kernel_shape"), SHAPES)
def test_adjoint_is_exact(shape, kernel_shape):
    op = make(shape, kernel_shape)
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((2, 3, *op.extended_shape)))
    y = torch.from_numpy(rng.standard_normal((2, 3, *shape)))
    left, right = (op.forward(x) * y).sum(), (x * op.adjoint(y)).sum()
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize(("shape", "kernel_shape"), SHAPES)
def test_orientation_is_that_of_scipy(shape, kernel_shape):
    op = make(shape, kernel_shape)
    x = np.random.default_rng(2).standard_normal(op.extended_shape)
    kh, kw = kernel_shape
    domain = x[: shape[0] + kh - 1, : shape[1] + kw - 1]
    expected = convolve2d(domain, op.psf.numpy(), mode="valid")
    result = op.forward(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize(("shape", "kernel_shape"), SHAPES)
@pytest.mark.parametrize("c", [0.1, 4e-4])
def test_fit_agrees_with_a_dense_matrix(shape, kernel_shape, c):
    op = make(shape, kernel_shape)
    size = op.extended_shape[0] * op.extended_shape[1]
    basis = torch.eye(size, dtype=torch.float64).reshape(size, 1, *op.extended_shape)
    matrix = op.forward(basis).reshape(size, -1).T
    rng = np.random.default_rng(3)
    y, prior = (
        torch.from_numpy(rng.standard_normal((1, 1, *n))) for n in (shape, op.extended_shape)
    )
    expected = torch.linalg.solve(
        matrix.T @ matrix + c * torch.eye(size, dtype=torch.float64),
        matrix.T @ y.ravel() + c * prior.ravel(),
    )
    exact = Blur(op.psf, shape, max_steps=1000)
    x, misfit, correction = exact.fit(y, prior, c, tolerance=1e-10)
    torch.testing.assert_close(x.ravel(), expected, rtol=0, atol=1e-7)
    assert misfit == pytest.approx(float((op.forward(x) - y).square().sum()))
    # With its own correction to start from, there is nothing left to do.
    again = op.fit(y, prior, c, correction, max_steps=0)
    torch.testing.assert_close(again.x, x)
    assert again.misfit == pytest.approx(misfit)


def test_fit_keeps_within_its_tolerance():
    op = make((40, 40), (9, 9))
    rng = np.random.default_rng(4)
    y, prior = (
        torch.from_numpy(rng.standard_normal((1, 1, *n))) for n in (op.shape, op.extended_shape)
    )
    exact = Blur(op.psf, op.shape, max_steps=1000).fit(y, prior, 0.01, tolerance=1e-12).x
    rough = op.fit(y, prior, 0.01, tolerance=1e-2).x
    assert (rough - exact).square().mean().sqrt() <= 2e-2


@pytest.mark.parametrize("kernel_shape", [(5, 5), (4, 4), (3, 6)])
def test_start_and_crop_keep_a_point_in_place(kernel_shape):
    psf = torch.zeros(kernel_shape, dtype=torch.float64)
    psf[(kernel_shape[0] - 1) // 2, (kernel_shape[1] - 1) // 2] = 1
    op = Blur(psf, (15, 14))
    y = torch.zeros(1, 1, 15, 14, dtype=torch.float64)
    y[..., 6, 9] = 1
    torch.testing.assert_close(op.crop(op.start(y)), y)
    x = op.fit(y, torch.zeros_like(op.start(y)), 1e-6, tolerance=1e-9).x
    torch.testing.assert_close(op.crop(x), y, rtol=0, atol=1e-5)


def test_blur_as_scipy_same_is_undone_in_place():
    psf = np.outer([1, 2, 1, 0], [1, 3, 3, 1, 0]) / 32
    x = np.zeros((24, 25))
    x[11, 13] = 1
    y = torch.from_numpy(convolve2d(x, psf, mode="same"))[None, None]
    op = Blur(torch.from_numpy(psf), (24, 25), max_steps=500)
    x = op.crop(op.fit(y, torch.zeros_like(op.start(y)), 1e-4, tolerance=1e-7).x)
    assert np.unravel_index(x.numpy().argmax(), x.shape)[2:] == (11, 13)


def test_colour_channels_are_independent():
    op = make((10, 12), (3, 4))
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 3, *op.extended_shape)))
    joint = op.forward(x)
    single = torch.cat([op.forward(x[:, [i]]) for i in range(3)], dim=1)
    torch.testing.assert_close(joint, single)


def test_a_psf_must_be_two_dimensional():
    with pytest.raises(DmspError, match=r"\(3,\)"):
        Blur(torch.ones(3), (8, 8))


def test_narrow_borders_take_half_the_steps():
    psf, rng = torch.full((5, 5), 0.04, dtype=torch.float64), np.random.default_rng(6)
    found = []
    for shape in ((40, 40), (200, 200)):
        op = Blur(psf, shape)
        y, prior = (
            torch.from_numpy(rng.standard_normal((1, 1, *n))) for n in (shape, op.extended_shape)
        )
        fits = [op.fit(y, prior, 0.01, tolerance=0, max_steps=n).x for n in (2, 3, 4)]
        found.append([torch.equal(a, fits[-1]) for a in fits])
    # Of 200 x 200 pixels, 3 and 4 steps are both 2.
    assert found == [[False, False, True], [False, True, True]]
