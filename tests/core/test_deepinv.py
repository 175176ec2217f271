"""Denoisers of deepinv are priors here, and priors are denoisers there; where it is installed."""

import numpy as np
import pytest
import torch
from skimage import data

from napari_dmsp import deblur
from napari_dmsp.core import load_prior
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur

deepinv = pytest.importorskip("deepinv", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("default")
SHARP = data.camera()[100:206, 200:306] / np.float32(255)
PSF = gaussian_psf(1.5)


def psnr(image, truth):
    return -10 * np.log10(np.mean((np.asarray(image) - truth) ** 2))


def test_their_denoiser_is_a_prior():
    blurred = simulate_blur(SHARP, PSF, 0.01)[0]
    border = PSF.shape[0] // 2
    truth = SHARP[border:-border, border:-border]
    result = deblur(blurred, PSF, prior=deepinv.models.TVDenoiser(), device="cpu", seed=0)
    assert psnr(result.image, truth) > psnr(blurred, truth) + 1


def test_a_prior_is_their_denoiser():
    truth = torch.from_numpy(SHARP)[None, None]
    physics = deepinv.physics.BlurFFT(
        (1, *SHARP.shape),
        filter=torch.from_numpy(PSF)[None, None],
        noise_model=deepinv.physics.GaussianNoise(0.01),
    )
    y = physics(truth)
    model = deepinv.optim.HQS(
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        prior=deepinv.optim.prior.PnP(denoiser=load_prior("gray")),
        stepsize=9.0,
        sigma_denoiser=0.03,
        max_iter=10,
    )
    with torch.no_grad():
        result = model(y, physics)
    assert psnr(result, SHARP) > psnr(y, SHARP) + 3
