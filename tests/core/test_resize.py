import numpy as np
import pytest
import torch

from napari_dmsp.core.operators import Resize, resize_matrix

SIZES = [((24, 30), (12, 10)), ((21, 22), (7, 9)), ((16, 16), (15, 11))]


def make(large, small):
    return Resize(large, small, dtype=torch.float64)


@pytest.mark.parametrize(("large", "small"), SIZES)
def test_adjoint_is_exact(large, small):
    op = make(large, small)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((2, 3, *large)))
    y = torch.from_numpy(rng.standard_normal((2, 3, *small)))
    left, right = (op.forward(x) * y).sum(), (x * op.adjoint(y)).sum()
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize(("large", "small"), SIZES)
def test_fit_agrees_with_a_dense_matrix(large, small):
    op = make(large, small)
    size = large[0] * large[1]
    basis = torch.eye(size, dtype=torch.float64).reshape(size, 1, *large)
    matrix = op.forward(basis).reshape(size, -1).T
    rng, c = np.random.default_rng(1), 1.5e-3
    y, prior = (torch.from_numpy(rng.standard_normal((1, 1, *n))) for n in (small, large))
    normal = matrix.T @ matrix + c * torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.solve(normal, matrix.T @ y.ravel() + c * prior.ravel())
    x, misfit, _ = op.fit(y, prior, c)
    torch.testing.assert_close(x.ravel(), expected, rtol=0, atol=1e-9)
    assert misfit == pytest.approx(float((op.forward(x) - y).square().sum()))


def test_halving_uses_the_stretched_cubic_kernel():
    # Taps at +-0.25, 0.75, 1.25, 1.75 of the cubic with a = -1/2, as imresize has them.
    row = resize_matrix(20, 10)[5]
    expected = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    np.testing.assert_allclose(row[7:15], expected, atol=1e-12)
    assert np.count_nonzero(np.abs(row) > 1e-12) == 8


@pytest.mark.parametrize("new", [5, 13, 20, 37])
def test_resizing_keeps_a_constant_and_the_centre_of_a_ramp(new):
    matrix = resize_matrix(20, new)
    np.testing.assert_allclose(matrix.sum(1), 1)
    centres = (np.arange(new) + 0.5) * 20 / new - 0.5
    inside = (centres > 6) & (centres < 13)
    np.testing.assert_allclose((matrix @ np.arange(20.0))[inside], centres[inside], atol=0.01)


def test_start_interpolates():
    op = make((24, 30), (12, 10))
    y = torch.rand(1, 3, 12, 10, dtype=torch.float64)
    assert op.start(y).shape == (1, 3, 24, 30)
    flat = torch.full_like(y, 0.3)
    torch.testing.assert_close(op.start(flat), torch.full_like(op.start(y), 0.3))
