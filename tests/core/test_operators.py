"""Operators and the data term, in planes and in volumes, against dense matrices and scipy."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve

from napari_dmsp.core.data import Gaussian
from napari_dmsp.core.mosaic import cfa_weights
from napari_dmsp.core.operators import Convolution, Mosaic, Operator, Resize
from napari_dmsp.errors import DmspError

SHAPES = [
    ((12, 17), (3, 3)),
    ((16, 11), (4, 6)),
    ((13, 13), (1, 5)),
    ((20, 9), (7, 2)),
    ((5, 8, 7), (3, 4, 2)),
]


def make(shape, psf_shape, stride=1, seed=0):
    psf = torch.from_numpy(np.random.default_rng(seed).random(psf_shape))
    return Convolution(psf / psf.sum(), shape, stride)


def small_operators():
    """One of every kind, with the shapes (C, *space) of unknown image and observation."""
    blurs = [(make(*case), case[0]) for case in SHAPES]
    blurs += [(make((4, 3), (4, 5), 3), (4, 3)), (make((2, 3, 2), (2, 2, 3), 2), (2, 3, 2))]
    yield from ((op, (1, *op.extended_shape), (1, *shape)) for op, shape in blurs)
    for large, small in (((12, 11), (5, 7)), ((8, 9, 7), (4, 3, 7))):
        yield Resize(large, small, dtype=torch.float64), (1, *large), (1, *small)
    filters = torch.from_numpy(cfa_weights("RGGB", (5, 6)).astype(float))
    yield Mosaic(filters), (3, 5, 6), (1, 5, 6)


OPERATORS = [pytest.param(*case, id=f"{type(case[0]).__name__}-{i}")
             for i, case in enumerate(small_operators())]  # fmt: skip


def dense(op, unknown):
    """Return the matrix of an operator, column by column."""
    size = int(np.prod(unknown))
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *unknown)
    return op.forward(basis).reshape(size, -1).T


@pytest.mark.parametrize(("op", "unknown", "observed"), OPERATORS)
def test_adjoint_is_exact(op, unknown, observed):
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.standard_normal((2, *shape))) for shape in (unknown, observed))
    left, right = (op.forward(x) * y).sum(), (x * op.adjoint(y)).sum()
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize(("op", "unknown", "observed"), OPERATORS)
def test_coefficients_are_those_of_images(op, unknown, observed):
    rng = np.random.default_rng(2)
    x, z = (torch.from_numpy(rng.standard_normal((1, *unknown))) for _ in range(2))
    y = torch.from_numpy(rng.standard_normal((1, *observed)))
    u, v = op.analyse(x), op.analyse(z)
    torch.testing.assert_close(op.synthesise(u), x)
    torch.testing.assert_close(op.dot(u, v), (x * z).sum())
    torch.testing.assert_close(op.apply(u), op.forward(x))
    torch.testing.assert_close(op.synthesise(op.spread(y)), op.adjoint(y))


@pytest.mark.parametrize(("op", "unknown", "observed"), OPERATORS)
def test_figures_are_those_of_the_dense_matrix(op, unknown, observed):
    matrix, y = dense(op, unknown), torch.zeros(1, *observed, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    rows = matrix.square().sum(1)
    energy = float(rows[rows > 0].mean())
    assert norm <= op.norm(y) * (1 + 1e-9)
    assert op.energy(y) == pytest.approx(energy, rel=1e-6)
    # What operators get that do not say: an estimate.
    assert Operator.norm(op, y) == pytest.approx(norm, rel=0.05)
    assert Operator.energy(op, y) == pytest.approx(energy, rel=0.3)


def test_fine_details_pass_or_do_not():
    y = torch.zeros(1, 1, 64, 64)
    profile = np.exp(-0.5 * (np.arange(-8, 9) / 2) ** 2)
    soft = Convolution(torch.from_numpy(np.outer(profile, profile)).float() / profile.sum() ** 2,
                       (64, 64))  # fmt: skip
    for sharp in (Convolution(torch.ones(1, 1), (64, 64)), Resize((128, 128), (64, 64))):
        assert sharp.fine_gain(y) == pytest.approx(1)
        assert Operator.fine_gain(sharp, y) > 0.3
    assert soft.fine_gain(y) < 1e-3
    assert Operator.fine_gain(soft, y) < 1e-3


@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES)
def test_orientation_is_that_of_scipy(shape, psf_shape):
    op = make(shape, psf_shape)
    x = np.random.default_rng(2).standard_normal(op.extended_shape)
    domain = x[tuple(slice(n + k - 1) for n, k in zip(shape, psf_shape, strict=True))]
    expected = convolve(domain, op.psf.numpy(), mode="valid", method="direct")
    result = op.forward(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_strides_sample_the_centres_of_blocks():
    whole, sampled = make((12, 9), (4, 5)), make((4, 3), (4, 5), 3)
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 2, *whole.extended_shape)))
    assert whole.extended_shape == sampled.extended_shape
    torch.testing.assert_close(sampled.forward(x), whole.forward(x)[..., 1::3, 1::3])


@pytest.mark.parametrize("psf_shape", [(5, 5), (4, 4), (3, 6)])
def test_start_and_crop_keep_a_point_in_place(psf_shape):
    psf = torch.zeros(psf_shape, dtype=torch.float64)
    psf[(psf_shape[0] - 1) // 2, (psf_shape[1] - 1) // 2] = 1
    op = Convolution(psf, (15, 14))
    y = torch.zeros(1, 1, 15, 14, dtype=torch.float64)
    y[..., 6, 9] = 1
    torch.testing.assert_close(op.crop(op.start(y)), y)
    x = Gaussian(operator=op, y=y).prox(torch.zeros_like(op.start(y)), 1e-6, tolerance=1e-9).x
    torch.testing.assert_close(op.crop(x), y, rtol=0, atol=1e-5)


def test_blur_as_scipy_same_is_undone_in_place():
    psf = np.outer([1, 2, 1, 0], [1, 3, 3, 1, 0]) / 32
    x = np.zeros((24, 25))
    x[11, 13] = 1
    y = torch.from_numpy(convolve(x, psf, mode="same"))[None, None]
    data = Gaussian(operator=Convolution(torch.from_numpy(psf), (24, 25)), y=y)
    fit = data.prox(torch.zeros_like(data.start()), 1e-4, tolerance=1e-7, steps=500)
    x = data.operator.crop(fit.x).numpy()
    assert np.unravel_index(x.argmax(), x.shape)[2:] == (11, 13)


def test_colour_channels_are_independent():
    op = make((10, 12), (3, 4))
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 3, *op.extended_shape)))
    joint = op.forward(x)
    single = torch.cat([op.forward(x[:, [i]]) for i in range(3)], dim=1)
    torch.testing.assert_close(joint, single)


@pytest.mark.parametrize(
    ("psf", "shape", "message"),
    [((3,), (8,), r"\(3,\)"), ((3, 3), (4, 8, 8), "psf of 2 axes"), ((0, 3), (8, 8), r"\(0, 3\)")],
)
def test_a_psf_must_fit_its_space(psf, shape, message):
    with pytest.raises(DmspError, match=message):
        Convolution(torch.ones(psf), shape)


def test_a_reduction_is_of_planes_or_volumes():
    with pytest.raises(DmspError, match=r"\(8, 8\) and \(4,\)"):
        Resize((8, 8), (4,))


class Pairs(Operator):
    """Means of pairs of rows, and nothing else that an operator may say."""

    def forward(self, x):
        return (x[..., ::2, :] + x[..., 1::2, :]) / 2

    def adjoint(self, y):
        return y.repeat_interleave(2, dim=-2) / 2


def test_forward_and_adjoint_are_enough():
    y = torch.rand(1, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    op = Pairs()
    torch.testing.assert_close(op.start(y), y.repeat_interleave(2, dim=-2))
    assert op.crop(y) is y
    assert op.norm(y) == pytest.approx(0.5, rel=0.03)
    assert op.energy(y) == pytest.approx(0.5)
    assert op.fine_gain(y) == pytest.approx(1, rel=0.03)


RNG = np.random.default_rng(0)


def weights_of(kind, shape):
    """Return none, gaps in a plane, gaps in everything, or gaps and weights."""
    rng = np.random.default_rng(7)
    if kind == "none":
        return None
    kept = (rng.random((1, *shape)) > 0.3).astype(float)
    return torch.from_numpy(kept if kind == "gaps" else kept * rng.uniform(0.2, 3, kept.shape))


PAIRS = pytest.param(Pairs(), (1, 8, 5), (1, 4, 5), id="Pairs")


@pytest.mark.parametrize("kind", ["none", "gaps", "weights"])
@pytest.mark.parametrize("c", [0.1, 4e-3])
@pytest.mark.parametrize(("op", "unknown", "observed"), [*OPERATORS, PAIRS])
def test_fit_agrees_with_a_dense_matrix(op, unknown, observed, c, kind):
    matrix, weights = dense(op, unknown), weights_of(kind, observed)
    rng, sigma = np.random.default_rng(3), 1.7
    y, v = (torch.from_numpy(rng.standard_normal((2, *n))) for n in (observed, unknown))
    w = torch.ones(matrix.shape[0], dtype=torch.float64) if weights is None else weights.ravel()
    normal = (matrix.T * w / sigma**2) @ matrix + c * torch.eye(matrix.shape[1]).double()
    right = (matrix.T * w / sigma**2) @ y.flatten(1).T + c * v.flatten(1).T
    expected = torch.linalg.solve(normal, right).T
    data = Gaussian(operator=op, y=y, weights=weights, sigma=sigma)
    x, error, correction = data.prox(v, c, tolerance=1e-9, steps=1000)
    torch.testing.assert_close(x.flatten(1), expected, rtol=0, atol=1e-7)
    seen = slice(None) if weights is None else (weights > 0).expand_as(error)
    torch.testing.assert_close(error[seen], (y - op.forward(x))[seen])
    # With its own correction to start from, there is nothing left to do.
    again = data.prox(v, c, correction, tolerance=1e-7, steps=0)
    torch.testing.assert_close(again.x, x)


def test_planes_may_differ_in_their_gaps():
    op = make((9, 8), (3, 4))
    kept = torch.from_numpy((RNG.random((1, 3, 9, 8)) > 0.3).astype(float))
    y, v = torch.from_numpy(RNG.random((1, 3, 9, 8))), torch.zeros(1, 3, *op.extended_shape)
    joint = Gaussian(operator=op, y=y, weights=kept).prox(v.double(), 0.1, tolerance=1e-9)
    for i in range(3):
        data = Gaussian(operator=op, y=y[:, [i]], weights=kept[:, [i]])
        single = data.prox(v[:, [i]].double(), 0.1, tolerance=1e-9)
        torch.testing.assert_close(single.x, joint.x[:, [i]], rtol=0, atol=1e-6)


def test_a_fit_keeps_within_its_tolerance():
    op = make((40, 40), (9, 9))
    y, v = (
        torch.from_numpy(RNG.standard_normal((1, 1, *n))) for n in (op.shape, op.extended_shape)
    )
    data = Gaussian(operator=op, y=y)
    exact = data.prox(v, 0.01, tolerance=1e-12, steps=1000).x
    rough = data.prox(v, 0.01, tolerance=1e-2).x
    assert (rough - exact).square().mean().sqrt() <= 2e-2


def test_narrow_borders_take_half_the_steps():
    found = []
    for shape in ((40, 40), (200, 200)):
        op = make(shape, (5, 5))
        y, v = (
            torch.from_numpy(RNG.standard_normal((1, 1, *n))) for n in (shape, op.extended_shape)
        )
        data = Gaussian(operator=op, y=y)
        fits = [data.prox(v, 0.01, tolerance=0, rough=n).x for n in (2, 3, 4)]
        found.append([torch.equal(a, fits[-1]) for a in fits])
    # Of 200 x 200 pixels, 3 and 4 steps are both 2.
    assert found == [[False, False, True], [False, True, True]]


@pytest.mark.parametrize(("op", "unknown", "observed"), OPERATORS)
def test_gradient_is_that_of_the_misfit(op, unknown, observed):
    weights = weights_of("weights", observed)
    y = torch.from_numpy(RNG.random((1, *observed)))
    x = torch.from_numpy(RNG.random((1, *unknown))).requires_grad_()
    data = Gaussian(operator=op, y=y, weights=weights)
    (weights * data.error(x).square()).sum().div(2).backward()
    torch.testing.assert_close(data.gradient(data.error(x.detach())), x.grad)


def test_gaps_count_neither_in_the_residual_nor_in_the_start():
    op = make((8, 9), (3, 3))
    kept = torch.ones(1, 1, 8, 9, dtype=torch.float64)
    kept[..., 2:4, 3:6] = 0
    y = torch.full((1, 1, 8, 9), 0.5, dtype=torch.float64)
    data = Gaussian(operator=op, y=torch.where(kept > 0, y, 9), weights=kept)
    torch.testing.assert_close(data.start(), torch.full_like(data.start(), 0.5))
    assert data.residual(data.error(data.start()) + 0.25) == pytest.approx(0.25)


def test_the_noise_level_stays_within_its_bounds():
    y = torch.zeros(1, 1, 8, 8)
    data = Gaussian(operator=make((8, 8), (1, 1)), y=y)
    assert data.within(0.1, 0.1).updated(y + 0.5, 0.1).sigma == 0.1
    assert data.within(0.1, 0.2).sigma == 0.2
    assert data.within(0.1, 0.2).updated(y, 0.0).sigma == pytest.approx(0.1)
    # Eq. 21: the residual, and what the smoothing adds.
    free = data.within(0.1, np.inf)
    assert free.sigma == 0.1
    assert free.updated(y + 0.3, 0.16).sigma == pytest.approx(0.5)
