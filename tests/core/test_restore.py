import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from skimage import data

from napari_dmsp import deblur
from napari_dmsp.core import Prior, load_prior, prepare_deblur, run
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.errors import DmspError
from napari_dmsp.search import EVALUATIONS, EXACT_EVALUATIONS, EXACT_ROUNDS

PSF = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


@pytest.fixture(scope="module")
def photo():
    """A colour photograph on 0..255, its blurred observation first."""
    return simulate_blur(data.astronaut()[40:112, 170:250], PSF, 2.0, seed=1)


def error(a, b):
    return float(np.sqrt(np.mean((np.asarray(a, float) - b) ** 2)))


def test_colour_image_gets_sharper_noise_blind(photo):
    observed, truth = photo
    result = deblur(observed, PSF, channel_axis=-1)
    assert error(result.image, truth) < 0.8 * error(observed, truth)
    assert result.image.shape == observed.shape
    assert result.image.dtype == np.float32
    assert result.noise_sigma == pytest.approx(2.0, rel=0.2)
    assert result.evaluations == 24
    np.testing.assert_allclose(result.psf, PSF, rtol=1e-6)


def test_grey_image_gets_sharper(photo):
    observed, truth = photo[0][..., 1], photo[1][..., 1]
    result = deblur(observed, PSF, iterations=12)
    assert error(result.image, truth) < 0.8 * error(observed, truth)


def test_channel_axis_may_be_anywhere(photo):
    observed = photo[0][:32, :40]
    last = deblur(observed, PSF, channel_axis=-1, iterations=2)
    first = deblur(np.moveaxis(observed, -1, 0), PSF, channel_axis=0, iterations=2)
    assert_array_equal(np.moveaxis(first.image, 0, -1), last.image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_any_real_dtype_keeps_its_units(photo, dtype):
    observed = photo[0][:40, :40, 0].clip(0, 255).astype(dtype)
    result = deblur(observed, PSF, iterations=4)
    assert result.image.dtype == np.float32
    assert abs(result.image.mean() - observed.mean()) < 2


def test_units_and_offset_do_not_matter(photo):
    observed = photo[0][:40, :40, 0]
    plain = deblur(observed, PSF, iterations=4).image
    scaled = deblur(300 * observed - 5000, PSF, iterations=4).image
    # Rounding differs where the network runs in bfloat16.
    assert error((scaled + 5000) / 300, plain) < 0.4


def test_background_is_subtracted_and_restored(photo):
    observed = photo[0][:40, :40, 0]
    result = deblur(observed + 100, PSF, iterations=4, background=100)
    assert result.settings["background"] == 100
    assert abs(result.image.mean() - observed.mean() - 100) < 2
    with pytest.raises(DmspError, match="background=1000"):
        deblur(observed, PSF, background=1000)


def test_negative_values_are_kept(photo):
    observed = photo[0][:40, :40, 0] - 128
    assert deblur(observed, PSF, iterations=4).image.min() < -20


def test_a_psf_is_normalised(photo):
    observed = photo[0][:32, :32, 0]
    one, many = (deblur(observed, s * PSF, iterations=2).image for s in (1, 37))
    np.testing.assert_allclose(one, many, atol=1e-3)


def test_grey_prior_restores_colour_plane_by_plane(photo):
    observed = photo[0][:32, :40]
    result = deblur(observed, PSF, channel_axis=-1, prior="gray", iterations=2)
    assert result.image.shape == observed.shape


def test_paper_method_runs(photo):
    observed, truth = photo[0][:40, :40], photo[1][:40, :40]
    result = deblur(observed, PSF, channel_axis=-1, method="sgd", iterations=40)
    assert error(result.image, truth) < error(observed, truth)


def test_callback_sees_every_state_and_stops(photo):
    observed, seen = photo[0][:32, :32, 0], []

    def callback(state):
        seen.append((state.evaluation, state.total, state.array().shape))
        return state.evaluation == 3

    result = deblur(observed, PSF, callback=callback)
    assert seen == [(i, 24, (32, 32)) for i in (1, 2, 3)]
    assert result.evaluations == 3


def test_results_repeat_and_say_how(photo):
    observed = photo[0][:32, :32, 0]
    first, second = (deblur(observed, PSF, iterations=3, seed=5) for _ in range(2))
    assert_array_equal(first.image, second.image)
    values = first.to_dict()
    assert values["settings"]["seed"] == 5
    assert values["settings"]["prior_sha256"] == load_prior("gray").sha256
    assert "image" not in values


def test_dask_like_and_list_input(photo):
    observed = photo[0][:16, :16, 0]
    assert_array_equal(
        deblur(observed.tolist(), PSF.tolist(), iterations=1).image,
        deblur(observed.astype(float), PSF, iterations=1).image,
    )


def test_input_is_left_alone(photo):
    observed = photo[0][:32, :32].copy()
    before = observed.copy()
    deblur(observed, PSF, channel_axis=-1, iterations=2)
    assert_array_equal(observed, before)


NAN = np.full((16, 16), 1.0)
NAN[3, 4] = np.nan
RAMP = np.arange(256.0).reshape(16, 16)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((0, 5)), {}, r"empty.*\(0, 5\)"),
        (NAN, {}, "1 NaN or infinite"),
        (np.where(np.isnan(NAN), np.inf, RAMP), {}, "1 NaN or infinite"),
        (np.full((16, 16), 7), {}, r"constant \(7\)"),
        (np.ones((1, 1)), {}, "1 x 1"),
        (RAMP.astype(complex), {}, "complex128"),
        (np.zeros((16, 16, 3)), {}, "channel_axis=-1"),
        (np.zeros((2, 16, 16, 3)), {"channel_axis": -1}, "4 axes"),
        (np.zeros((16, 16, 2)), {"channel_axis": -1}, "2 channels"),
        (np.zeros((4, 16, 16)), {"channel_axis": 0}, "4 channels"),
        (np.zeros((16, 16, 3)), {"channel_axis": 5}, "channel_axis=5"),
        (RAMP, {"psf": None}, "16 x 16 pixels; at least 64 x 64"),
        (RAMP, {"psf": np.ones((17, 3))}, "17 x 3.*larger.*16 x 16"),
        (RAMP, {"psf": -PSF}, "sums to -1"),
        (RAMP, {"psf": 0 * PSF}, "sums to 0"),
        (RAMP, {"psf": np.full((3, 3), np.nan)}, "psf has NaN"),
        (RAMP, {"psf": np.ones(3)}, r"psf has shape \(3,\)"),
        (RAMP, {"noise_sigma": -1}, "noise=-1"),
        (RAMP, {"noise_sigma": np.nan}, "noise=nan"),
        (RAMP, {"iterations": 0}, "iterations=0"),
        (RAMP, {"iterations": 2.5}, "iterations=2.5"),
        (RAMP, {"seed": 2**70}, "seed="),
        (RAMP, {"method": "magic"}, "method='magic'"),
        (RAMP, {"prior": "rgb"}, "prior='gray'"),
        (RAMP, {"prior": "nonsense"}, "nonsense"),
        (RAMP, {"device": "warp"}, "device='warp'"),
        (RAMP, {"background": np.inf}, "background=inf"),
    ],
)
def test_bad_input_is_refused_before_the_work(image, options, message):
    with pytest.raises(DmspError, match=message):
        prepare_deblur(image, **{"psf": PSF, **options})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory on cpu.*16 x 16"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "smaller region"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "smaller tile="),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_failures_of_the_machine_are_explained(fault, message):
    def broken(x, sigma):
        raise fault

    with pytest.raises(DmspError, match=message):
        run(prepare_deblur(RAMP, PSF, prior=broken, device="cpu"))


def test_errors_of_programs_keep_their_type():
    fault = RuntimeError("device-side assert")

    def broken(x, sigma):
        raise fault

    with pytest.raises(RuntimeError) as caught:
        run(prepare_deblur(RAMP, PSF, prior=broken, device="cpu"))
    assert caught.value is fault
    assert caught.traceback[-1].name == "broken"


def test_memory_may_run_out_before_the_first_evaluation(monkeypatch):
    def full(prior, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Prior, "to", full)
    with pytest.raises(DmspError, match="out of memory on cpu"):
        prepare_deblur(RAMP, PSF, device="cpu")


@pytest.mark.parametrize("width", [0.15, 0.4])
def test_hardly_any_blur_does_no_harm(photo, width):
    truth = photo[1]
    psf = gaussian_psf(width)
    observed, truth = simulate_blur(truth, psf, 2.55, seed=2)
    result = deblur(observed, psf, channel_axis=-1)
    assert error(result.image, truth) < error(observed, truth)


def test_dim_8_bit_images_are_like_any_other(photo):
    dim = (photo[0][:40, :40, 0].clip(0, 255) // 8).astype(np.uint8)
    plain = deblur(dim, PSF, iterations=3)
    assert_array_equal(plain.image, deblur(dim.astype(np.uint16), PSF, iterations=3).image)


def test_the_clamp_of_the_paper_knows_the_background(photo):
    observed = photo[0][:32, :32, 0].clip(0, 255).astype(np.uint8)
    result = deblur(observed, PSF, background=100, method="sgd", iterations=5)
    assert observed.min() < 90
    assert result.image.min() < 95


def test_a_background_above_most_of_a_sparse_image(photo):
    image = np.zeros((40, 40), np.uint16)
    image[::2] = 1
    image[20, 20] = 60000
    assert np.isfinite(deblur(image, PSF, background=2, iterations=1).image).all()


def test_zero_noise_is_allowed(photo):
    observed = photo[0][:32, :32, 0]
    result = deblur(observed, PSF, noise_sigma=0, iterations=4)
    assert np.isfinite(result.image).all()


def test_tiny_and_huge_intensities(photo):
    observed = photo[0][:32, :32, 0].astype(np.float64)
    plain = deblur(observed, PSF, iterations=3).image
    for scale in (1e-20, 1e20):
        result = deblur(scale * observed, PSF, iterations=3).image
        assert error(result / scale, plain) < 0.4


def shrink(x, sigma):
    """A quick denoiser."""
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def on_a_dark_ground(photograph):
    """Keep what is light: an image like those of fluorescence."""
    grey = photograph[..., 0]
    return np.where(grey > np.percentile(grey, 75), grey, 0)


@pytest.mark.parametrize("kind", ["grey", "colour", "fluorescence"])
def test_the_psf_is_found_and_can_be_fed_back(kind):
    truth = data.astronaut()[40:108, 170:238]
    kinds = {"grey": truth[..., 0], "colour": truth, "fluorescence": on_a_dark_ground(truth)}
    observed, _ = simulate_blur(kinds[kind], np.full((1, 5), 0.2), 1.0)
    axis = -1 if kind == "colour" else None
    job = prepare_deblur(observed, psf_size=5, channel_axis=axis, prior=shrink)
    states = list(job.states())
    # A search spares the rounds that would not make its kernel better.
    total = states[-1].total
    assert [s.evaluation for s in states] == list(range(1, total + 1))
    assert {s.total for s in states} == {job.total, total}
    assert 0 <= job.total - total < EXACT_ROUNDS * (EXACT_EVALUATIONS + EVALUATIONS + 1)
    assert all(s.array().shape == observed.shape for s in states[:: job.total // 5])
    result = job.result(states[-1], 0.0)
    assert result.psf.sum() == pytest.approx(1, abs=1e-5)
    assert max(result.psf.shape) <= 5
    # What is wrong with the PSF acts like noise of 2/255 of the range.
    assert result.noise_sigma >= 2 / 255 * 0.9 * np.ptp(observed)
    again = deblur(
        observed, result.psf, noise_sigma=result.noise_sigma, channel_axis=axis, prior=shrink
    )
    assert error(again.image, result.image) < 2.5


@pytest.mark.parametrize("colour", [False, True])
def test_the_published_descent_finds_a_psf_too(colour):
    observed = simulate_blur(data.astronaut()[40:108, 170:238], np.full((1, 5), 0.2), 1.0)[0]
    observed = observed if colour else observed[..., 0]
    result = deblur(
        observed,
        psf_size=5,
        method="sgd",
        iterations=3,
        channel_axis=-1 if colour else None,
        prior=shrink,
    )
    assert result.evaluations == (6 if colour else 3)
    assert result.psf.sum() == pytest.approx(1, abs=1e-5)


def test_stopping_the_search_keeps_its_state():
    observed = simulate_blur(data.astronaut()[40:108, 170:238, 0], np.full((1, 5), 0.2), 1.0)[0]
    result = deblur(observed, psf_size=5, prior=shrink, callback=lambda s: s.evaluation == 7)
    assert result.evaluations == 7
    assert result.image.shape == observed.shape
    assert result.psf.shape == (5, 5)


def test_a_stack_is_restored_plane_by_plane():
    stack = np.stack([data.camera()[100:140, 200:244], np.full((40, 44), 7, np.uint8)] * 2)
    stack[2] //= 2
    stack = stack.reshape(2, 2, 40, 44)
    psf = gaussian_psf(1)
    result = deblur(stack, psf, iterations=2)
    assert result.image.shape == stack.shape
    assert [plane is None for plane in result.planes] == [False, True, False, True]
    assert (result.image[:, 1] == 7).all()
    alone = [deblur(stack[i, 0], psf, iterations=2, prior="gray") for i in (0, 1)]
    for i, plane in enumerate(alone):
        np.testing.assert_array_equal(result.image[i, 0], plane.image)
    levels = [plane.noise_sigma for plane in alone]
    assert result.noise_sigma == pytest.approx(np.sqrt(np.mean(np.square(levels))))
    assert result.to_dict()["noise_sigma"] == [levels[0], None, levels[1], None]
    assert result.evaluations == 4
    np.testing.assert_array_equal(result.psf, alone[0].psf)


@pytest.mark.parametrize("lead", [(1,), (1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("colours", [0, 1, 3])
def test_axes_of_length_1_stay(lead, colours):
    plane = data.camera()[100:140, 200:244]
    plane = np.stack([plane] * colours, axis=-1) if colours else plane
    stack = np.broadcast_to(plane, (*lead, *plane.shape))
    options = {"prior": shrink, "iterations": 1, "channel_axis": -1 if colours else None}
    alone = deblur(plane, gaussian_psf(1), **options).image
    result = deblur(stack, gaussian_psf(1), **options).image
    np.testing.assert_array_equal(result, np.broadcast_to(alone, stack.shape))


def test_a_depth_of_1_is_no_volume():
    stack = np.stack([data.camera()[100:140, 200:244]] * 3)
    psf = np.multiply.outer([0.25, 0.5, 0.25], gaussian_psf(1))
    options = {"prior": shrink, "iterations": 1}
    restored = deblur(stack[None], psf, **options).image
    np.testing.assert_array_equal(restored, deblur(stack, psf, **options).image[None])
    with pytest.raises(DmspError, match=r"depth of a source of shape \(3, 1, 40, 44\) is 1"):
        deblur(stack[:, None], psf, **options)


def test_a_stack_can_be_stopped():
    stack = np.stack([data.camera()[100:140, 200:244]] * 3)
    result = deblur(stack, gaussian_psf(1), callback=lambda state: state.evaluation == 3)
    assert result.evaluations == 3
    assert [plane is None for plane in result.planes] == [False, True, True]
    assert np.isnan(result.image[1:]).all()


def test_colours_are_no_stack():
    with pytest.raises(DmspError, match="give channel_axis=-1 for colour"):
        deblur(np.zeros((40, 44, 3)), gaussian_psf(1))
    with pytest.raises(DmspError, match="4 axes, expected 2; give channel_axis=-1 for colour"):
        deblur(np.zeros((2, 40, 44, 3)), gaussian_psf(1))
