import numpy as np
import pytest
import torch

from napari_dmsp.core.operators import Resize, resize_matrix


def make(large, small):
    return Resize(large, small, dtype=torch.float64)


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
