"""What callers pass, and the state of torch that they are in."""

import os
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from napari_dmsp.core import prepare_deblur, run
from napari_dmsp.core.device import Watch, flushed_denormals, own_state
from napari_dmsp.core.inputs import bad_pixels, check_image, check_mask, take_array
from napari_dmsp.core.networks import UNet
from napari_dmsp.errors import DmspError
from napari_dmsp.search import count_evaluations

RNG = np.random.default_rng(0)
IMAGE = gaussian_filter(RNG.random((24, 20)), 1.5) * 400 + 10
PSF = np.outer([1, 2, 1], [1, 2, 1]) / 16
NET = UNet(1, (4, 4), 1).eval()


def smooth(x, sigma):
    """Denoise a little, as a prior that needs no weights."""
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def restored(image=IMAGE, psf=PSF, prior=smooth, **options):
    return run(prepare_deblur(image, psf, prior=prior, iterations=2, device="cpu", **options))


class Gives:
    """Has nothing but what NumPy asks for."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


WHOLE = np.rint(IMAGE)
READ_ONLY = WHOLE.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "given",
    [
        WHOLE.tolist(),
        READ_ONLY,
        WHOLE[::-1, ::-1].copy()[::-1, ::-1],
        np.asfortranarray(WHOLE),
        WHOLE.astype(">f8"),
        WHOLE.astype(">u2"),
        WHOLE.astype(np.int64),
        WHOLE.astype(np.float16),
        WHOLE.astype(np.longdouble),
        WHOLE.astype(object),
        [[Fraction(v) for v in row] for row in WHOLE.tolist()],
        Gives(WHOLE),
        np.ma.array(WHOLE),
        torch.from_numpy(WHOLE).requires_grad_(),
        torch.from_numpy(WHOLE).requires_grad_() * 1,
        torch.from_numpy(WHOLE.T.copy()).T,
        torch.from_numpy(WHOLE.astype(np.int32)),
        torch.complex(torch.zeros(WHOLE.shape).double(), -torch.from_numpy(WHOLE)).conj().imag,
        torch.from_numpy(WHOLE).to_sparse(),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_arrays_of_any_kind_are_read(given):
    assert_array_equal(check_image(given, None)[0], WHOLE)
    assert_array_equal(restored(given).image, restored(WHOLE).image)


def test_bfloat16_is_read_as_it_is():
    tensor = torch.from_numpy(IMAGE).bfloat16()
    assert_array_equal(take_array(tensor, "image"), tensor.float().numpy())


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "image.npy", WHOLE)
    given = np.load(tmp_path / "image.npy", mmap_mode="r")
    assert_array_equal(restored(given).image, restored(WHOLE).image)


def test_a_lazy_array_is_computed_with_its_mask():
    da = pytest.importorskip("dask.array")
    masked = np.ma.array(WHOLE, mask=WHOLE > 210)
    found = take_array(da.from_array(masked, chunks=8), "image")
    assert_array_equal(found.mask, masked.mask)
    assert_array_equal(take_array(da.from_array(WHOLE, chunks=8), "image"), WHOLE)


def test_the_magnitude_of_a_quantity_counts():
    pint = pytest.importorskip("pint")
    quantity = pint.UnitRegistry().Quantity(WHOLE, "volt")
    assert_array_equal(take_array(quantity, "image"), WHOLE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3.0, "0 axes"),
        ("image.tif", "image dtype <U9 is not a real number"),
        ([[1, 2], [3]], "image of type list is not an array of numbers.*numpy.asarray"),
        (np.array([["a", None]] * 16, object), "not an array of numbers"),
        (WHOLE + 1j, "complex128 is not a real number"),
        (torch.zeros(24, 20, device="meta"), "image of type Tensor"),
        (IMAGE * 1e300, "do not fit float32"),
        (IMAGE * 1e-43, "do not fit float32"),
        (np.ma.array(IMAGE, mask=True), "leaves no pixel"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(DmspError, match=message):
        prepare_deblur(given, PSF, prior=smooth)


def test_the_mask_of_a_masked_array_is_honoured():
    gaps = RNG.random(IMAGE.shape) < 0.1
    broken = np.where(gaps, 60000.0, IMAGE)
    broken[gaps.nonzero()[0][0], gaps.nonzero()[1][0]] = np.nan
    expected = restored(broken, mask=gaps)
    assert expected.settings["masked"] == gaps.sum()
    assert_array_equal(restored(np.ma.array(broken, mask=gaps)).image, expected.image)
    one, two = gaps.copy(), gaps.copy()
    one[:12], two[12:] = False, False
    both = restored(np.ma.array(broken, mask=one), mask=two)
    assert_array_equal(both.image, expected.image)
    colour = np.ma.array(np.stack([broken] * 3), mask=np.stack([gaps] * 3))
    assert_array_equal(check_mask(None, colour, 0), np.stack([gaps] * 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda gaps: gaps.tolist(),
        lambda gaps: gaps.astype(np.uint8),
        lambda gaps: gaps.astype(float),
        torch.from_numpy,
        lambda gaps: np.ma.array(np.zeros_like(gaps), mask=gaps),
    ],
)
def test_masks_of_any_kind_are_read(make):
    gaps = RNG.random(IMAGE.shape) < 0.1
    assert_array_equal(check_mask(make(gaps), IMAGE, None), gaps[None])


def test_a_mask_of_0_and_255_says_what_is_expected():
    mask = np.where(IMAGE > 200, 255, 0)
    with pytest.raises(DmspError, match=r"holds \[0, 255\].*mask != 0.*mask == 0"):
        check_mask(mask, IMAGE, None)
    with pytest.raises(DmspError, match="mask='automatic'"):
        check_mask("automatic", IMAGE, None)


def test_masked_values_of_a_psf_are_zero():
    broken = np.pad(PSF, 1)
    broken[0, 0] = 1e6
    masked = np.ma.array(broken, mask=broken == 1e6)
    assert_array_equal(restored(psf=masked).psf, restored(psf=np.pad(PSF, 1)).psf)


def test_whole_numbers_may_be_floats():
    whole = run(prepare_deblur(IMAGE, PSF, prior=smooth, iterations=np.float64(2), device="cpu"))
    assert_array_equal(whole.image, restored().image)
    assert count_evaluations((64, 64), 7.0) == count_evaluations((64, 64), 7)
    with pytest.raises(DmspError, match=r"psf_size=7\.5 must be odd"):
        count_evaluations((64, 64), 7.5)


def test_psf_and_psf_size_are_not_for_one_call():
    with pytest.raises(DmspError, match="psf_size=5"):
        prepare_deblur(IMAGE, PSF, psf_size=5)


def test_saturated_pixels_are_found():
    light = gaussian_filter(RNG.random((64, 64)), 3) * 20000
    clipped = light > np.quantile(light, 0.97)
    twelve_bits = np.where(clipped, 4095, light / light[~clipped].max() * 4000)
    for full, top in ((twelve_bits, 4095), (twelve_bits / 4095, 1.0)):
        assert_array_equal(bad_pixels(full), full == top)
    assert_array_equal(bad_pixels(twelve_bits.astype(np.uint16)), clipped)
    one = light.astype(np.uint8)
    one[one == 255], one[3, 4] = 254, 255
    assert np.argwhere(bad_pixels(one)).tolist() == [[3, 4]]
    holes = light.copy()
    holes[:2, :2] = [[np.nan, np.inf], [-np.inf, 5]]
    assert np.argwhere(bad_pixels(holes)).tolist() == [[0, 0], [0, 1], [1, 0]]
    for good in (light, light.astype(np.uint16), np.eye(8), np.eye(8, dtype=bool)):
        assert not bad_pixels(good).any()
    assert_array_equal(check_mask("auto", holes, None)[0], bad_pixels(holes))


def test_values_that_float32_rounds_are_told():
    assert not restored().warnings
    (said,) = restored(IMAGE + 1e9).warnings
    assert "multiples of 64" in said
    assert restored(IMAGE + 1e9).to_dict()["warnings"] == [said]


class Double(TorchFunctionMode):
    """Spoils what is computed under it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result * 2 if isinstance(result, torch.Tensor) else result


class Spoil(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError("the caller's mode was asked")


class Dtype:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_):
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_dtype(torch.float32)


class Precision:
    def __enter__(self):
        torch.set_float32_matmul_precision("medium")

    def __exit__(self, *_):
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")


class Deterministic:
    def __enter__(self):
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_):
        assert torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "state",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: flushed_denormals(True),
        Double,
        Spoil,
        Dtype,
        Precision,
        Deterministic,
    ],
)
def test_the_state_of_torch_neither_matters_nor_changes(state):
    expected, seen = restored(prior=NET), []

    def callback(_):
        seen.append(look())

    def look():
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_device(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            (np.array([1e-310]) * 0.5)[0] > 0,
        )

    seeds = torch.get_rng_state().clone()
    with state():
        before = look()
        job = prepare_deblur(IMAGE, PSF, prior=NET, iterations=2, device="cpu")
        found = run(job, callback)
        assert seen == [before, before]
        assert look() == before
    assert_array_equal(found.image, expected.image)
    assert torch.equal(torch.get_rng_state(), seeds)


def test_inside_a_transform():
    expected, images = restored(prior=NET).image, []

    def inside(x):
        images.append(restored(prior=NET).image)
        with pytest.raises(DmspError, match="image of type Tensor"):
            restored(x)
        return x

    torch.func.vmap(inside)(torch.zeros(2, 24, 20))
    assert_array_equal(images[0], expected)


def test_a_watch_ends_what_is_computed():
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError), Watch(stop):
        restored()
    with own_state():
        assert torch.get_default_device().type == "cpu"


FORK = """
import os, sys
import numpy as np
import torch
torch.set_num_threads(2)
from napari_dmsp import deblur
image = np.add.outer(np.arange(100.0), np.arange(90.0) ** 1.1)
restore = lambda: deblur(image, np.ones((3, 3)), iterations=2, device="cpu").image
restore()
torch.set_num_threads(1)
one = restore()
torch.set_num_threads(2)
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(restore(), one) and torch.get_num_threads() == 1 else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_can_restore():
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], env=environment, timeout=200, check=False
    )
    assert done.returncode == 0


def test_nothing_is_warned_of_by_python():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            restored(np.pad(IMAGE, 4, mode="edge"), np.pad(PSF, ((0, 1), (0, 1)))).psf is not None
        )


def test_numpy_settings_of_the_caller_do_not_matter():
    before = restored().image
    with np.errstate(all="raise"):
        assert_array_equal(restored().image, before)
        assert np.geterr()["under"] == "raise"
