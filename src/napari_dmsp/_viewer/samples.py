"""Sample data: blurred on loading, and a picture with real blur. No download.

The image to restore comes last: napari makes the last layer of a sample the active one.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

LayerData = tuple[NDArray[Any], dict[str, Any], str]

# The stack: planes, rows, columns; sides of its voxels in micrometres; optics of its microscope;
# photons in the brightest voxel, and the noise of reading.
STACK, VOXEL = (32, 128, 128), (0.25, 0.1, 0.1)
OPTICS: dict[str, Any] = {"na": 1.2, "wavelength": 0.52, "immersion_index": 1.33}
PHOTONS, READ_NOISE = 200, 2.0


def colour_photograph() -> list[LayerData]:
    """Return a colour photograph with motion blur and noise, after its PSF and its truth."""
    return _blurred("dog", "dog-lossless.png", length=15, angle=30)


def grey_photograph() -> list[LayerData]:
    """Return a grey photograph with motion blur and noise, after its PSF and its truth."""
    return _blurred("city", "city-lossless.png", length=11, angle=-50)


def nuclei() -> list[LayerData]:
    """Return a fluorescence image with the blur of its microscope, after a PSF close to it."""
    from ..core.psf import gaussian_psf

    return [
        (gaussian_psf(1.0), {"name": "nuclei PSF", "visible": False}, "image"),
        (_read("bbbc039_A09_s1.tif"), {"name": "nuclei"}, "image"),
    ]


def cells() -> list[LayerData]:
    """Return a simulated widefield stack of cells, after beads by its microscope and the truth."""
    from scipy.ndimage import gaussian_filter
    from scipy.signal import fftconvolve

    from ..core.microscope import microscope_psf

    psf = microscope_psf("widefield", voxel_size=VOXEL, shape=(31, 65, 65), **OPTICS).values
    random = np.random.default_rng(0)
    whole = tuple(n + k - 1 for n, k in zip(STACK, psf.shape, strict=True))
    scene = np.zeros(whole)
    for _ in range(60):
        centre, radius = random.random(3) * whole * VOXEL, random.uniform(0.8, 2)
        sides = zip(centre, whole, VOXEL, strict=True)
        lines = [np.arange(n) * d - c for c, n, d in sides]
        near = [np.flatnonzero(np.abs(line) < radius + 0.6) for line in lines]
        z, y, x = np.ix_(*(line[i] for line, i in zip(lines, near, strict=True)))
        away = np.sqrt(z**2 + y**2 + x**2) - radius
        # A membrane, and less inside of it.
        inside = 0.15 / (1 + np.exp((away / 0.05).clip(-50, 50)))
        scene[np.ix_(*near)] += np.exp(-((away / 0.15) ** 2)) + inside
    blurred = fftconvolve(scene, psf, "valid").clip(0)
    factor = PHOTONS / blurred.max()
    frame = tuple(slice(k // 2, k // 2 + n) for n, k in zip(STACK, psf.shape, strict=True))
    points = np.zeros(STACK)
    points[16, 32:128:64, 32:128:64] = 1
    beads = gaussian_filter(fftconvolve(points, psf, "same").clip(0), 0.5)

    def counted(light: NDArray[Any]) -> NDArray[Any]:
        values = random.poisson(light) + random.normal(100, READ_NOISE, light.shape)
        return np.rint(values).clip(0).astype(np.uint16)

    observed, bright = counted(factor * blurred), counted(5000 * beads / beads.max())
    place = {"scale": VOXEL, "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    hidden = place | {"visible": False}
    return [
        (bright, hidden | {"name": "beads"}, "image"),
        ((factor * scene[frame]).astype(np.float32), hidden | {"name": "cells truth"}, "image"),
        (observed, place | {"name": "cells"}, "image"),
    ]


def _blurred(name: str, file: str, length: float, angle: float) -> list[LayerData]:
    from ..core.psf import motion_psf
    from ..core.simulate import simulate_blur

    psf = motion_psf(length, angle)
    observed, truth = simulate_blur(_read(file), psf, noise_sigma=5)
    rgb = observed.ndim == 3
    return [
        (psf, {"name": f"{name} PSF", "visible": False}, "image"),
        (_to_8_bit(truth), {"name": f"{name} truth", "rgb": rgb, "visible": False}, "image"),
        (_to_8_bit(observed), {"name": name, "rgb": rgb}, "image"),
    ]


def _read(file: str) -> NDArray[Any]:
    from ..files import read_image

    with resources.as_file(resources.files("napari_dmsp") / "samples" / file) as path:
        return read_image(path).pixels


def _to_8_bit(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
