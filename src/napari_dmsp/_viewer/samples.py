"""Sample data: photographs blurred on loading, and a picture with real blur. No download."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

LayerData = tuple[NDArray[Any], dict[str, Any], str]


def colour_photograph() -> list[LayerData]:
    """Return a colour photograph with motion blur and noise, the PSF and the truth."""
    return _blurred("dog", "dog-lossless.png", length=15, angle=30)


def grey_photograph() -> list[LayerData]:
    """Return a grey photograph with motion blur and noise, the PSF and the truth."""
    return _blurred("city", "city-lossless.png", length=11, angle=-50)


def nuclei() -> list[LayerData]:
    """Return a fluorescence image with the blur of its microscope, and a PSF close to it."""
    from ..core.psf import gaussian_psf

    return [
        (_read("bbbc039_A09_s1.tif"), {"name": "nuclei"}, "image"),
        (gaussian_psf(1.0), {"name": "nuclei PSF", "visible": False}, "image"),
    ]


def _blurred(name: str, file: str, length: float, angle: float) -> list[LayerData]:
    from ..core.psf import motion_psf
    from ..core.simulate import simulate_blur

    psf = motion_psf(length, angle)
    observed, truth = simulate_blur(_read(file), psf, noise_sigma=5)
    rgb = observed.ndim == 3
    # What is looked at comes first: the panel proposes it, and results go on top.
    return [
        (_to_8_bit(observed), {"name": name, "rgb": rgb}, "image"),
        (psf, {"name": f"{name} PSF", "visible": False}, "image"),
        (_to_8_bit(truth), {"name": f"{name} truth", "rgb": rgb, "visible": False}, "image"),
    ]


def _read(file: str) -> NDArray[Any]:
    from ..files import read_image

    with resources.as_file(resources.files("napari_dmsp") / "samples" / file) as path:
        return read_image(path).pixels


def _to_8_bit(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
