"""The prior that is chosen where the user names none."""

import json
from importlib import resources

import numpy as np
import pytest
from safetensors.torch import save_file
from skimage import io

from napari_dmsp import priors
from napari_dmsp.core.inputs import LUMA, read_input
from napari_dmsp.core.networks import UNet
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.priors import is_fluorescence
from napari_dmsp.settings import Demosaic

SAMPLES = resources.files("napari_dmsp") / "samples"
PHOTOS = ["city-lossless.png", "dog-lossless.png"]


def read_sample(name):
    with resources.as_file(SAMPLES / name) as file:
        image = io.imread(file)
    return image.astype(np.float64) if image.ndim == 2 else image[..., :3] @ LUMA


@pytest.fixture
def nuclei():
    return read_sample("bbbc039_A09_s1.tif")


@pytest.fixture(autouse=True)
def bundled(tmp_path, monkeypatch):
    """Put a small prior where the bundled one may be missing, and no other of the user's."""
    net = UNet(1, (8, 8), 1)
    config = json.dumps({"architecture": "unet", **net.config})
    file = tmp_path / "microscopy.safetensors"
    save_file(net.state_dict(), file, metadata={"napari-dmsp": config})
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(tmp_path))


def chosen(image, **options):
    return read_input(image, options).model.name


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_blurred_and_noisy_nuclei_are_fluorescence(nuclei, noise):
    low, high = np.percentile(nuclei, [0.1, 99.9])
    observed, _ = simulate_blur((nuclei - low) / (high - low), gaussian_psf(2), noise)
    assert is_fluorescence(observed[None].astype(np.float64))
    assert chosen(observed) == "microscopy"


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_photographs_are_not_fluorescence(name, noise):
    observed, _ = simulate_blur(read_sample(name), gaussian_psf(2), noise)
    assert chosen(observed) == chosen(observed / 255) == "gray"
    assert chosen(observed.clip(0, 255).astype(np.uint8)) == "gray"
    assert chosen((observed.clip(0, 255) * 257).astype(np.uint16)) == "gray"


def test_units_and_depth_do_not_matter(nuclei):
    eight_bit = (nuclei / nuclei.max() * 255).astype(np.uint8)
    for image in (nuclei.astype(np.uint16), eight_bit, nuclei / 65535, 1e-3 * nuclei - 5):
        assert chosen(image) == "microscopy"


def test_a_name_or_a_colour_decides_before_the_look_of_the_image(nuclei):
    photo = read_sample(PHOTOS[0])
    assert chosen(nuclei, prior="gray") == "gray"
    assert chosen(photo, prior="microscopy") == "microscopy"
    assert chosen(np.stack([nuclei] * 3, -1), channel_axis=-1) == "rgb"
    assert read_input(nuclei, Demosaic()).model.name == "rgb"


def test_without_a_prior_for_microscopy_fluorescence_takes_the_one_for_photographs(
    nuclei, monkeypatch
):
    monkeypatch.setattr(priors, "available_priors", lambda: ["gray", "rgb"])
    assert chosen(nuclei) == "gray"


def test_the_smallest_image_has_a_prior():
    assert chosen(np.arange(64.0).reshape(8, 8)) == "gray"
