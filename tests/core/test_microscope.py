"""PSFs of microscopes against theory and against direct sums over plane waves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import fftconvolve
from scipy.special import j1

from napari_dmsp.core.microscope import microscope_psf, microscope_psf_shape, psf_shape
from napari_dmsp.errors import DmspError

OIL = {"na": 1.4, "wavelength": 0.52, "immersion_index": 1.515}
FINE = {"voxel_size": (0.2, 0.02, 0.02), "shape": (5, 61, 61)}


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def plane_waves(points, *, na, wavelength, immersion_index, sample_index, depth, count=401):
    """Focus of an unpolarised beam, summed over directions of Cartesian pupil coordinates."""
    k = 2 * np.pi / wavelength
    grid = (np.arange(count) - count // 2) / (count // 2) * na
    x, y = (g.ravel() for g in np.meshgrid(grid, grid))
    inside = np.hypot(x, y) < na
    x, y = x[inside], y[inside]
    rho, phi = np.hypot(x, y), np.arctan2(y, x)
    ci = np.sqrt(1 - (rho / immersion_index) ** 2)
    si = rho / sample_index
    cs = np.sqrt(1 - si**2 + 0j)
    ni, ns = immersion_index, sample_index
    s = 2 * ni * ci / (ni * ci + ns * cs)
    p = 2 * ni * ci / (ns * ci + ni * cs)
    # Cartesian pupil: d(solid angle) = dx dy / cos, and the aplanatic apodisation sqrt(cos).
    weight = np.sqrt(ci) / ci
    radial = np.stack([np.cos(phi) * cs, np.sin(phi) * cs, -si])
    azimuthal = np.stack([-np.sin(phi), np.cos(phi), np.zeros_like(phi)])
    total = []
    for px, focus in points:
        wave = weight * np.exp(1j * k * (x * px + depth * ns * cs - focus * ni * ci))
        value = 0.0
        for along, across in ((np.cos(phi), -np.sin(phi)), (np.sin(phi), np.cos(phi))):
            field = ((along * p * radial + across * s * azimuthal) * wave).sum(1)
            value += (np.abs(field) ** 2).sum()
        total.append(value)
    return np.array(total)


def test_low_aperture_is_airy_s():
    psf = microscope_psf(
        "widefield",
        na=0.1,
        wavelength=0.5,
        immersion_index=1.0,
        voxel_size=(10, 0.1, 0.1),
        shape=(7, 101, 101),
    ).values
    v = 2 * np.pi * 0.1 / 0.5 * np.hypot(*np.ogrid[-50:51, -50:51]) * 0.1
    airy = np.divide(2 * j1(v), v, out=np.ones_like(v), where=v > 0) ** 2
    focal = psf[3].astype(np.float64)
    assert distance(focal / focal.max(), airy) < 3e-3
    # On the axis: sinc², whose first zero is at 2 λ / NA².
    z = 10 * np.arange(-3, 4)
    assert_allclose(psf[:, 50, 50] / psf.max(), np.sinc(z * 0.1**2 / (2 * 0.5)) ** 2, atol=4e-3)


def test_focal_width():
    psf = microscope_psf(
        "widefield",
        na=0.3,
        wavelength=0.5,
        immersion_index=1.0,
        voxel_size=(1, 0.01, 0.01),
        shape=(1, 201, 201),
    ).values
    line = psf[0, 100, 100:]
    width = 2 * 0.01 * np.interp(-line.max() / 2, -line, np.arange(101))
    assert_allclose(width, 0.514 * 0.5 / 0.3, rtol=0.02)


@pytest.mark.parametrize(("sample", "depth"), [(1.515, 0), (1.47, 4), (1.33, 3), (1.33, 0.1)])
def test_is_the_sum_of_plane_waves(sample, depth):
    step = 0.15
    psf = microscope_psf(
        "widefield",
        **OIL,
        sample_index=sample,
        depth=depth,
        voxel_size=(step, 0.001, 0.05),
        shape=(9, 1, 21),
    )
    points = [(0, 4), (3, 4), (6, 4), (10, 4), (0, 0), (4, 2), (0, 8), (8, 7)]
    found = np.array([psf.values[z, 0, 10 + x] for x, z in points])
    # Pixels are integrated over 0.05 µm: Gauss' three nodes.
    nodes, weights = np.polynomial.legendre.leggauss(3)
    places = [
        (0.05 * (x + n / 2), depth + psf.shift + step * (z - 4)) for x, z in points for n in nodes
    ]
    waves = plane_waves(places, **OIL, sample_index=sample, depth=depth)
    expected = waves.reshape(-1, 3) @ weights
    assert_allclose(found / found[0], expected / expected[0], atol=2e-3)


@pytest.mark.parametrize("kind", ["widefield", "confocal", "two-photon", "light sheet"])
def test_sum_centre_and_symmetry(kind):
    psf = microscope_psf(
        kind,
        **OIL,
        voxel_size=(0.25, 0.1, 0.1),
        shape=(21, 33, 33),
        excitation_wavelength=0.488,
        sheet_thickness=1.0,
        depth=10,
    )
    values = np.asarray(psf)
    assert values.dtype == np.float32
    assert_allclose(values.sum(dtype=np.float64), 1, atol=1e-6)
    assert values.min() >= 0
    assert np.unravel_index(values.argmax(), values.shape) == (10, 16, 16)
    for other in (values[::-1], values[:, ::-1], values[:, :, ::-1], values.transpose(0, 2, 1)):
        assert_allclose(values, other, atol=1e-6 * values.max())
    assert psf.shift == 0


def test_widefield_light_is_the_same_in_every_plane():
    psf = microscope_psf("widefield", **OIL, voxel_size=(0.25, 0.09, 0.09), shape=(9, 201, 201))
    planes = psf.values.sum((1, 2))
    assert_allclose(planes / planes.mean(), 1, atol=0.02)
    assert not psf.warnings


def test_open_pinhole_is_the_excitation_alone():
    both = {"immersion_index": 1.515, "na": 1.4, **FINE}
    confocal = microscope_psf(
        "confocal", wavelength=0.6, excitation_wavelength=0.5, pinhole=math.inf, **both
    )
    assert_allclose(confocal, microscope_psf("widefield", wavelength=0.5, **both), rtol=1e-5)


def test_closed_pinhole_is_the_product():
    both = {"immersion_index": 1.515, "na": 1.4, **FINE}
    confocal = microscope_psf(
        "confocal", wavelength=0.6, excitation_wavelength=0.5, pinhole=0, **both
    )
    parts = [np.asarray(microscope_psf("widefield", wavelength=w, **both)) for w in (0.5, 0.6)]
    product = parts[0] * parts[1]
    assert distance(confocal, product / product.sum()) < 4e-3


@pytest.mark.parametrize("pinhole", [0.3, 1.0, 2.5])
def test_pinhole_is_a_disc_over_the_emission(pinhole):
    both = {"immersion_index": 1.515, "na": 1.4, "voxel_size": (0.3, 0.01, 0.01)}
    wide = microscope_psf("widefield", wavelength=0.6, shape=(3, 241, 241), **both).values
    lit = microscope_psf("widefield", wavelength=0.5, shape=(3, 81, 81), **both).values
    radius = pinhole * 1.22 * 0.6 / 1.4 / 2
    half = math.ceil(radius / 0.01)
    distances = np.hypot(*np.ogrid[-half : half + 1, -half : half + 1]) * 0.01
    disc = np.clip((radius - distances) / 0.01 + 0.5, 0, 1)
    through = np.stack([fftconvolve(p, disc, "same") for p in wide])[:, 80:161, 80:161]
    product = lit * through
    psf = microscope_psf(
        "confocal",
        wavelength=0.6,
        excitation_wavelength=0.5,
        pinhole=pinhole,
        shape=(3, 81, 81),
        **both,
    )
    assert distance(psf, product / product.sum()) < 3e-3


def test_two_photons_square_the_excitation():
    both = {"na": 1.2, "immersion_index": 1.33, **FINE}
    square = microscope_psf("widefield", wavelength=0.9, **both).values ** 2
    psf = microscope_psf("two-photon", excitation_wavelength=0.9, **both)
    assert distance(psf, square / square.sum()) < 2e-3


def test_light_sheet_has_its_thickness():
    both = {"na": 0.8, "immersion_index": 1.33, "wavelength": 0.52}
    size = {"voxel_size": (0.5, 0.1, 0.1), "shape": (7, 41, 41)}
    ratio = np.asarray(microscope_psf("light-sheet", sheet_thickness=3.0, **both, **size))
    ratio = ratio / np.asarray(microscope_psf("widefield", **both, **size))
    assert_allclose(ratio[0] / ratio[3], 0.5, rtol=1e-4)


def test_pixels_are_integrated():
    coarse = microscope_psf("widefield", **OIL, voxel_size=(0.3, 0.09, 0.12), shape=(3, 15, 11))
    fine = microscope_psf("widefield", **OIL, voxel_size=(0.3, 0.01, 0.01), shape=(3, 135, 133))
    # Eleven pixels of twelve steps: their edges lie in the middle of steps.
    edges = (fine.values[:, :, :-1] + fine.values[:, :, 1:]) / 2
    blocks = edges.reshape(3, 15, 9, 11, 12).sum((2, 4))
    assert distance(coarse, blocks / blocks.sum()) < 3e-3


def test_index_mismatch_moves_the_peak_as_rays_do():
    low = {"na": 0.2, "wavelength": 0.5, "immersion_index": 1.0, "voxel_size": (2, 0.5, 0.5)}
    psf = microscope_psf("widefield", **low, sample_index=1.4, depth=100, shape=(9, 9, 9))
    # Paraxial rays meet at depth n_immersion / n_sample.
    assert_allclose(psf.shift, 100 / 1.4 - 100, rtol=0.02)
    assert "higher" in psf.notes[0]
    assert psf.values.max() == psf.values[4, 4, 4]


def test_depth_is_aberration_along_z_only():
    psf = microscope_psf(
        "widefield",
        **OIL,
        sample_index=1.33,
        depth=10,
        voxel_size=(0.2, 0.09, 0.09),
        shape=(31, 33, 33),
    )
    line = psf.values[:, 16, 16]
    assert line.argmax() == 15
    assert not np.allclose(line, line[::-1], rtol=0.2)
    assert_allclose(psf.values, psf.values[:, ::-1], atol=1e-6 * line.max())
    assert psf.shift > 0


def test_shape_holds_the_cone():
    shape = psf_shape("widefield", **OIL, voxel_size=(0.2, 0.09, 0.09))
    psf = microscope_psf("widefield", **OIL, voxel_size=(0.2, 0.09, 0.09))
    assert psf.values.shape == shape
    assert not psf.warnings
    planes = psf.values.sum((1, 2))
    assert planes.min() > 0.95 * planes.max()


def test_shape_is_as_long_as_light_comes_from():
    shape = psf_shape("widefield", **OIL, voxel_size=(0.2, 0.1, 0.1), image_shape=(40, 64, 512))
    assert shape[0] == 79
    assert shape[1] == 127
    assert 79 * 0.1 * 2.4 / 0.1 < shape[2] < 1023


def test_psf_of_an_image():
    given = {**OIL, "voxel_size": (0.2, 0.1, 0.1)}
    shape = microscope_psf_shape("widefield", **given, image_shape=(6, 20, 31))
    assert shape == (11, 19, 31)
    psf = microscope_psf("widefield", **given, image_shape=(6, 20, 31))
    assert psf.values.shape == shape
    same = microscope_psf("widefield", **given, shape=shape)
    assert_allclose(psf.values, same.values)
    # Of a plane, what is in focus.
    flat = {**OIL, "voxel_size": (0.1, 0.1), "image_shape": (64, 64)}
    plane = microscope_psf("widefield", **flat)
    assert plane.values.shape == microscope_psf_shape("widefield", **flat)
    assert plane.values.sum() == pytest.approx(1)
    assert plane.voxel_size == (0.1, 0.1)
    side = plane.values.shape[0]
    deep = microscope_psf("widefield", **given, shape=(3, side, side)).values[1]
    assert_allclose(plane.values, deep / deep.sum(), atol=1e-7)


def test_cut_cone_and_coarse_voxels_are_said():
    psf = microscope_psf("widefield", **OIL, voxel_size=(0.5, 0.2, 0.2), shape=(21, 9, 9))
    text = " ".join(psf.warnings)
    assert "plane's step of 0.5" in text
    assert "pixel of 0.2 µm is coarser than Nyquist's limit of 0.093" in text
    assert "cone of light is wider" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "brightfield"}, "brightfield.*widefield"),
        ({"na": 1.6}, "na=1.6.*1.515"),
        ({"na": -1}, "na=-1"),
        ({"na": math.nan}, "na=nan"),
        ({"wavelength": 520}, "wavelength=520.*micrometres"),
        ({"wavelength": None}, "wavelength=None"),
        ({"voxel_size": (0.2, 0, 0.1)}, "positive"),
        ({"voxel_size": (0.1, 0.1)}, r"\(z, y, x\)"),
        ({"shape": (4, 5, 5)}, "odd"),
        ({"shape": (5, 99_999, 99_999)}, "smaller"),
        ({"depth": -1}, "depth=-1"),
        ({"sample_index": 133}, "sample_index=133"),
        ({"kind": "confocal"}, "excitation_wavelength=None"),
        ({"kind": "confocal", "excitation_wavelength": 0.5, "pinhole": 99}, "pinhole=99.*inf"),
        ({"kind": "light sheet"}, "sheet_thickness=None"),
    ],
)
def test_what_cannot_be_is_explained(change, words):
    given = {"kind": "widefield", "voxel_size": (0.2, 0.1, 0.1), "shape": (3, 9, 9), **OIL}
    with pytest.raises(DmspError, match=words):
        microscope_psf(**(given | change))


def test_agrees_with_psf_generator():
    psf_generator = pytest.importorskip("psf_generator")
    # Points instead of pixels, so small ones; both ends of its ranges are sampled.
    optics = {"wavelength": 520, "na": 1.4, "n_i": 1.515, "n_i0": 1.515}
    grid = {"n_pix_pupil": 401, "n_pix_psf": 81, "pix_size": 30, "defocus_step": 200}
    total = 0
    for polarisation in ({"e0x": 1.0, "e0y": 0.0}, {"e0x": 0.0, "e0y": 1.0}):
        propagator = psf_generator.VectorialSphericalPropagator(
            **optics, **grid, n_defocus=10, apod_factor=True, **polarisation
        )
        total = total + (np.abs(propagator.compute_focus_field().numpy()) ** 2).sum(1)
    z = np.linspace(-1, 1, 10)
    psf = microscope_psf(
        "widefield",
        **OIL,
        voxel_size=(float(z[1] - z[0]) / 2, 0.03 * 81 / 80, 0.03 * 81 / 80),
        shape=(19, 81, 81),
    ).values[::2]
    assert distance(psf / psf.sum(), total / total.sum()) < 0.01
