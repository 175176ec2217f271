"""Golden figures: the PSNR of one small case per task, kept within 0.1 dB.

Thresholds such as "better than interpolation" let whole decibels slip; these do not. Float32 on the
CPU, so that every machine finds the same figures. A change that means to move one says so, and
writes the new figure here.
"""

from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve
from skimage.metrics import peak_signal_noise_ratio

from napari_dmsp import files
from napari_dmsp.core import prepare_deblur, prepare_demosaic, prepare_superres, prior, run
from napari_dmsp.core.job import Job
from napari_dmsp.core.mosaic import cfa_weights
from napari_dmsp.core.psf import gaussian_psf, motion_psf
from napari_dmsp.core.simulate import simulate_blur

Case = tuple[Job, NDArray[Any], float]
CPU = {"device": "cpu"}
# Greatest difference that is not a change, in dB.
TOLERANCE = 0.1


def sample(name: str, side: int) -> NDArray[np.float64]:
    """Cut the middle of a bundled picture."""
    with resources.as_file(resources.files("napari_dmsp") / "samples" / name) as path:
        image = files.read_image(path).pixels.astype(np.float64)
    top, left = (n // 2 - side // 2 for n in image.shape[:2])
    return image[top : top + side, left : left + side]


def city(side: int = 96) -> NDArray[np.float64]:
    return sample("city-lossless.png", side)


def dog(side: int = 96) -> NDArray[np.float64]:
    return sample("dog-lossless.png", side)


def with_noise(image: NDArray[Any], sigma: float) -> NDArray[np.float64]:
    return image + np.random.default_rng(0).normal(0, sigma, image.shape)


def mosaic_of(image: NDArray[Any]) -> NDArray[np.float64]:
    return (np.moveaxis(cfa_weights("RGGB", image.shape[:2]), 0, -1) * image).sum(-1)


def deblur_grey() -> Case:
    psf = motion_psf(9, 30)
    observed, truth = simulate_blur(city(), psf, 2.55)
    return prepare_deblur(observed, psf, **CPU), truth, 255


def deblur_colour() -> Case:
    psf = gaussian_psf(1.6)
    observed, truth = simulate_blur(dog(), psf, 5.1)
    return prepare_deblur(observed, psf, channel_axis=-1, **CPU), truth, 255


def deblur_photons() -> Case:
    image = sample("bbbc039_A09_s1.tif", 128)
    low, high = np.percentile(image, [0.1, 99.9])
    blurred, truth = simulate_blur((image - low) / (high - low), gaussian_psf(2.0))
    counts = np.random.default_rng(0).poisson(200 * blurred.clip(0))
    return prepare_deblur(with_noise(counts / 200, 0.01), gaussian_psf(2.0), **CPU), truth, 1


def deblur_blind() -> Case:
    observed, truth = simulate_blur(city(76), motion_psf(3, 20), 1.0)
    return prepare_deblur(observed, psf_size=5, **CPU), truth, 255


def deblur_mask() -> Case:
    psf = gaussian_psf(1.5)
    observed, truth = simulate_blur(city(), psf, 2.55)
    mask = np.random.default_rng(1).random(observed.shape) < 0.05
    mask[30:38, 40:52] = True
    return prepare_deblur(np.where(mask, np.nan, observed), psf, mask=mask, **CPU), truth, 255


def superres_x2() -> Case:
    truth = dog()
    small = truth.reshape(48, 2, 48, 2, 3).mean((1, 3))
    return prepare_superres(with_noise(small, 2.0), 2, channel_axis=-1, **CPU), truth, 255


def superres_psf() -> Case:
    truth, psf = city(), gaussian_psf(1.2)
    # The centres of blocks of 3 pixels are pixels.
    small = convolve(truth, psf.astype(float), mode="mirror")[1::3, 1::3]
    return prepare_superres(with_noise(small, 1.0), 3, psf=psf, **CPU), truth, 255


def demosaic_encoded() -> Case:
    return prepare_demosaic(with_noise(mosaic_of(dog()), 3.0), **CPU), dog(), 255


def demosaic_linear() -> Case:
    light = (dog() / 255) ** 2.2 * [0.5, 1, 0.7]
    counts = np.rint(60000 * with_noise(mosaic_of(light), 0.005).clip(0, 1)).astype(np.uint16)
    levels = {"background": 0, "white": 60000}
    return prepare_demosaic(counts, **levels, **CPU), 60000 * light, 60000


def demosaic_photons() -> Case:
    light = (dog(192) / 255) ** 2.2 * [0.5, 1, 0.7]
    light = light.reshape(96, 2, 96, 2, 3).mean((1, 3))
    counts = np.random.default_rng(0).poisson(4000 * mosaic_of(light))
    return prepare_demosaic(counts.astype(np.uint16), **CPU), 4000 * light, 4000


def deblur_sgd() -> Case:
    psf = gaussian_psf(1.2)
    observed, truth = simulate_blur(city(), psf, 2.55)
    return prepare_deblur(observed, psf, method="sgd", iterations=30, **CPU), truth, 255


GOLDEN = {
    deblur_grey: 26.89,
    deblur_colour: 33.10,
    deblur_photons: 36.98,
    deblur_blind: 31.76,
    deblur_mask: 26.73,
    superres_x2: 35.48,
    superres_psf: 23.92,
    demosaic_encoded: 36.95,
    demosaic_linear: 39.68,
    demosaic_photons: 39.52,
    deblur_sgd: 26.95,
}


@pytest.mark.parametrize(
    ("case", "expected"), GOLDEN.items(), ids=[case.__name__ for case in GOLDEN]
)
def test_figures_stay(
    case: Callable[[], Case], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "supports_bf16", lambda _: False)
    # More or fewer threads would add up in another order, and some machines have many.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        job, truth, peak = case()
        image = run(job).image.astype(np.float64)
    finally:
        torch.set_num_threads(threads)
    found = peak_signal_noise_ratio(np.asarray(truth, np.float64), image, data_range=peak)
    assert found == pytest.approx(expected, abs=TOLERANCE)
