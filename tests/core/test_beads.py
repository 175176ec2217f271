"""PSFs from synthetic beads, against the PSF that the beads were made with."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.fft import fftfreq, fftn, ifftn, ifftshift

from napari_dmsp.core.beads import bead_psf
from napari_dmsp.core.microscope import microscope_psf
from napari_dmsp.errors import DmspError

SIZE = (0.2, 0.08, 0.08)
WATER = {"na": 1.2, "immersion_index": 1.33, "wavelength": 0.52, "excitation_wavelength": 0.488}
SHAPE = (31, 110, 110)
# Voxels, between them; the distances are wider than the windows.
PLACES = [(15.3, 28.4, 28.6), (14.6, 81.1, 28.8), (15.5, 28.5, 80.5), (15.0, 81.7, 79.2)]


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def true_psf(kind, size, shape):
    return np.asarray(microscope_psf(kind, voxel_size=size, shape=shape, **WATER))


def beads(kind, places=PLACES, heights=None, diameter=None, size=SIZE, shape=SHAPE):
    """Beads of peaks near 1 at places between voxels, shifted by their phases."""
    large = tuple(2 * (2 * n // 3) + 1 for n in shape)
    psf = ifftshift(true_psf(kind, size, large).astype(np.float64))
    spectrum = fftn(psf / psf.max())
    cycles = np.meshgrid(*(fftfreq(n) for n in large), indexing="ij", sparse=True)
    if diameter:
        # A ball by its defining integral: the volume of its slices along one axis.
        frequency = np.sqrt(sum((f / d) ** 2 for f, d in zip(cycles, size, strict=True)))
        x, w = np.polynomial.legendre.leggauss(24)
        ball = sum(
            b * 0.75 * (1 - a**2) * np.cos(np.pi * diameter * frequency * a)
            for a, b in zip(x, w, strict=True)
        )
        spectrum *= ball
    phases = 0
    for place, height in zip(places, heights or [1] * len(places), strict=True):
        turns = sum(f * p for f, p in zip(cycles, place, strict=True))
        phases = phases + height * np.exp(-2j * np.pi * turns)
    return ifftn(spectrum * phases).real[tuple(slice(n) for n in shape)].clip(0)


def photographed(clean, photons, ground, seed=0):
    random = np.random.default_rng(seed)
    return random.poisson(clean * photons + ground) + random.normal(0, 2, clean.shape)


@pytest.fixture(scope="module")
def widefield():
    return beads("widefield", PLACES[::3])


@pytest.fixture(scope="module")
def confocal():
    return beads("confocal")


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("kind", ["widefield", "confocal"])
def test_beads_give_their_psf_back(kind, radial, request):
    image = photographed(request.getfixturevalue(kind), 6000, 100)
    psf = bead_psf(image, voxel_size=SIZE, radial=radial)
    assert distance(psf, true_psf(kind, SIZE, psf.values.shape)) < 0.05
    assert psf.values.dtype == np.float32
    assert_allclose(psf.values.sum(dtype=np.float64), 1, atol=1e-6)
    assert psf.values.min() >= 0
    assert np.unravel_index(psf.values.argmax(), psf.values.shape) == tuple(
        n // 2 for n in psf.values.shape
    )
    assert_allclose(psf.ground, 100, atol=1.5)
    nearest = [min(np.abs(np.array(p) - b).max() for p in PLACES) for b in psf.beads]
    assert max(nearest) < 0.05
    count = len(nearest)
    assert f"Averaged {count} of {count} beads" in psf.notes[0]


def test_radial_average_takes_away_noise(confocal):
    image = photographed(confocal, 4000, 100)
    plain, turned = (bead_psf(image, voxel_size=SIZE, radial=r, ground=100) for r in (False, True))
    truth = true_psf("confocal", SIZE, plain.values.shape)
    assert distance(turned, truth) < 0.7 * distance(plain, truth)
    assert_allclose(turned.values, turned.values.swapaxes(1, 2)[:, :, ::-1], atol=1e-6)


def test_size_of_beads_is_taken_out():
    image = 1000 * beads("confocal", diameter=0.25) + 100
    truth = true_psf("confocal", SIZE, (15, 41, 41))
    shape = truth.shape
    left = bead_psf(image, voxel_size=SIZE, shape=shape)
    gone = bead_psf(image, voxel_size=SIZE, shape=shape, bead_diameter=0.25)
    assert distance(left, truth) > 0.15
    assert distance(gone, truth) < 0.05


@pytest.mark.parametrize("target", [(0.2, 0.16, 0.16), (0.3, 0.1, 0.1), (0.2, 0.08, 0.13)])
def test_psf_has_the_images_voxels(confocal, target):
    psf = bead_psf(
        confocal * 1000 + 5, voxel_size=SIZE, target_voxel_size=target, shape=(9, 15, 15)
    )
    assert psf.voxel_size == target
    # Pixels that are integrated twice, by the beads' camera and by the sum, are the larger ones.
    assert distance(psf, true_psf("confocal", target, (9, 15, 15))) < 0.03


def test_smaller_voxels_are_said_to_be_interpolated(confocal):
    psf = bead_psf(confocal, voxel_size=SIZE, target_voxel_size=(0.1, 0.04, 0.04))
    assert "interpolated" in psf.warnings[0]
    assert distance(psf, true_psf("confocal", SIZE, psf.values.shape)) > 0.3


def test_beads_in_a_plane(widefield):
    plane = photographed(widefield[15], 3000, 50)
    psf = bead_psf(plane, voxel_size=SIZE[1:], shape=(21, 21))
    truth = np.asarray(microscope_psf("widefield", voxel_size=SIZE, shape=(1, 21, 21), **WATER))[0]
    assert psf.values.shape == (21, 21)
    # The beads lie up to half a plane out of focus.
    assert distance(psf, truth) < 0.15


def test_beads_that_mislead_are_left_out():
    places = [*PLACES, (15.0, 3.0, 55.0), (15.0, 55.0, 100.0), (15.0, 55.0, 108.0)]
    places += [(15.0, 90.0, 130.0), (15.0, 25.0, 130.0)]
    heights = [1, 1, 1, 1, 1, 1, 1, 3, 0.4]
    clean = beads("confocal", places, heights, shape=(31, 110, 150))
    image = photographed(clean, 2000, 100).clip(0, 4500)
    psf = bead_psf(image, voxel_size=SIZE, saturation=4500, shape=(15, 31, 31))
    assert psf.rejected == {
        "saturated": 1,
        "at the border": 1,
        "overlapping": 2,
        "of unusual height": 1,
    }
    assert len(psf.beads) == 4
    assert "2 overlapping" in psf.notes[0]


def test_a_full_well_is_seen_without_being_told(confocal):
    image = (confocal * 90_000 + 100).clip(0, 65535).astype(np.uint16)
    with pytest.raises(DmspError, match=r"4 saturated.*shape"):
        bead_psf(image, voxel_size=SIZE)


@pytest.mark.parametrize(
    ("image", "change", "words"),
    [
        (np.zeros(9), {}, r"\(9,\)"),
        (np.full((9, 9), np.nan), {}, "finite"),
        (np.zeros((9, 9, 9)), {"voxel_size": (0.1, 0.1)}, r"\(z, y, x\)"),
        (np.zeros((9, 9, 9)), {"bead_diameter": -1}, "bead_diameter=-1"),
        (np.zeros((9, 9, 9)), {"radial": True, "voxel_size": (0.2, 0.1, 0.2)}, "square"),
        (np.zeros((9, 9, 9)), {}, "No bead"),
        (np.random.default_rng(0).normal(size=(20, 40, 40)), {}, "No bead"),
    ],
)
def test_what_cannot_be_is_explained(image, change, words):
    with pytest.raises(DmspError, match=words):
        bead_psf(image, **({"voxel_size": SIZE} | change))
