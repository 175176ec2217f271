"""Generated input of any kind: a right result, or a `DmspError` that says what to change."""

from __future__ import annotations

import json
import math
import re
import uuid
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import tifffile
from hypothesis import given, note
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from napari_dmsp import deblur, demosaic, load_prior, superres
from napari_dmsp.cli import app
from napari_dmsp.core import bead_psf, microscope_psf
from napari_dmsp.core.networks import UNet
from napari_dmsp.core.psf import gaussian_psf, motion_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.settings import TASKS, Photons, options

stacks = pytest.importorskip("napari_dmsp.scale")

DTYPES = [
    *["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "g", ">u2", ">f4"],
    *["c8", "c16", "O", "U3", "M8[s]", "V4"],
]
SHAPES = [
    *[(), (0,), (7,), (0, 12), (12, 0), (1, 1), (1, 30), (30, 1), (7, 12), (8, 8), (12, 13)],
    *[(3, 12, 12), (12, 12, 3), (12, 12, 4), (4, 12, 12), (12, 1, 12), (1, 12, 12), (0, 12, 12)],
    *[(2, 9, 10, 3), (2, 2, 9, 10), (1, 1, 1, 12, 12), (2, 1, 2, 9, 8)],
]
FILLS = ["ramp", "noise", "constant", "negative", "nan", "inf", "one nan", "huge", "tiny", "alike"]
NUMBERS = [0, 1, -1, 0.5, 7, 1e300, -1e300, 1e-320, math.nan, math.inf, -math.inf, 10**400]
ODD = [*NUMBERS, True, "much", "", "3", b"3", [1], [], (1, 2), {}, 1j, object(), np.array(2.0)]
ODD = [*ODD, np.ones(3), np.float32(2), np.datetime64("2020-01-01"), np.ma.masked, range(2)]
PSFS = [
    None,
    gaussian_psf(0.7),
    np.ones((4, 4)),
    np.ones((1, 1)),
    np.zeros((3, 3)),
    -np.ones((3, 3)),
    np.full((3, 3), np.nan),
    np.array([[0, np.inf, 0]]),
    np.array([[1, -1.0]]),
    np.eye(3) - 0.2,
    np.ones((40, 40)),
    np.ones((3, 3, 3)),
    np.ones((2, 3, 3)) * [[[1, 2, 1]]],
    np.ones((3, 3, 3, 3)),
    np.ones(3),
    np.ones((0, 3)),
    np.ones((3, 3), bool),
    np.ones((3, 3), complex),
    np.full((3, 3), 1e308),
    np.full((3, 3), 1e-320),
    np.full((3, 3), 10**300, object),
    "gaussian:2",
    3.0,
    [[1, 2], [3]],
]


def unchanged(x, sigma):
    """Denoise nothing, as a prior that needs no weights."""
    return x


def filled(shape, dtype, fill, seed):
    """Return an array of any type, whose values are of a kind."""
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 20, shape)
    if fill == "ramp":
        values = np.broadcast_to(np.arange(values.size).reshape(shape), shape).astype(float)
    elif fill in ("constant", "huge", "tiny"):
        values *= {"constant": 0, "huge": 1e305, "tiny": 1e-322}[fill]
    elif fill == "negative":
        values = -values
    elif fill == "alike":
        values = 1e9 + rng.random(shape) * 1e-3
    elif fill == "one nan" and values.size:
        values.flat[values.size // 2] = np.nan
    elif fill in ("nan", "inf"):
        values = np.full(shape, float(fill))
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(values, np.float64).astype(dtype))


@st.composite
def images(draw):
    """Arrays of which most have one fault, if any."""
    shape, dtype, fill = (12, 13), "f4", "noise"
    faults = draw(st.sets(st.sampled_from(["shape", "dtype", "fill"]), max_size=2))
    if "shape" in faults:
        shape = draw(st.sampled_from(SHAPES))
    if "dtype" in faults:
        dtype = draw(st.sampled_from(DTYPES))
    if "fill" in faults:
        fill = draw(st.sampled_from(FILLS))
    if np.dtype(dtype).kind in "MV":
        fill = "ramp"
    image = filled(
        shape, "f8" if dtype in ("V4", "M8[s]") else dtype, fill, draw(st.integers(0, 9))
    )
    if dtype in ("V4", "M8[s]"):
        image = np.zeros(shape, dtype)
    if draw(st.integers(0, 5)) == 0:
        image = np.ma.array(image, mask=draw(st.sampled_from([False, True])))
    return image


MASKS = [None, "auto", "none", np.zeros((12, 13), bool), np.eye(12, 13, dtype=bool)]
MASKS += [np.ones((12, 13)), np.zeros((5, 5)), np.full((12, 13), 7), np.full((12, 13), np.nan), 3.0]
MASKS += [np.eye(12, 13)[..., None], "auto ", np.array([]), [[True]], np.eye(12, 13, dtype=complex)]
SHARED = {
    "mask": MASKS,
    "noise": [None, 0, 2.0, Photons(0.5), Photons(1e-300), Photons(1e300, 1e300, 1e300), *ODD],
    "noise_sigma": ODD,
    "channel_axis": [0, -1, 1, 2, 5, -9, *ODD],
    "iterations": [0, 3, 1.5, *ODD],
    "background": ODD,
    "seed": [2**63, -5, *ODD],
    "device": ["cpu", "cuda:99", "tpu", "meta", "", None, 3],
    "tile": [192, 8, 191, 2**70, None, "whole", *ODD],
    "method": ["sgd", "annealed", "newton", None, 3, [], {}],
    "uncertainty": [True, False, *ODD],
    "prior": ["gray", "no such prior", "", "../../etc/passwd", "/", "a\0b", 3, [], b"gray", None],
}
OWN = {
    deblur: {"psf": PSFS, "psf_size": [3, 4, 1, 10**9, *ODD]},
    superres: {"scale": [1, 2, 1.5, 1.001, 8, 9, -2, *ODD], "psf": PSFS},
    demosaic: {
        "pattern": [
            *["RGGB", "X-Trans", "quad-BGGR", "RGBG", "", "rggb", "0,1/1,2", None, 3, b"RGGB"],
            *[[[0, 1], [1, 2]], [[0, 1], [1, 9]], [[0]], [], [[0, 1], [2]], np.full((2, 2), -1)],
            *[np.full((2, 2), np.nan), np.ones((2, 2, 3)) / 3, np.zeros((2, 2, 3))],
            *[np.full((2, 2, 3), np.inf), -np.ones((2, 2, 3)), np.full((99, 99), 1), [["R"]]],
        ],
        "white": [255, 1e-9, [1, 2, 3], [200, 210, 220, 230], *ODD],
        "linear": [True, False, None, *ODD],
        "developed": [True, *ODD],
    },
}
NEEDED = {deblur: {"psf": gaussian_psf(0.7)}, superres: {"scale": 2}, demosaic: {}}


def expected_shape(task, image, options):
    """Return the shape of a right result."""
    if task is demosaic:
        shape = image.shape
        if len(shape) == 3:
            # A mosaic may have an axis of length 1, which is not that of a stack.
            shape = shape[:-1] if shape[-1] == 1 else shape[1:] if shape[0] == 1 else shape
        return (*shape, 3)
    if task is deblur:
        return image.shape
    axis, sides = options.get("channel_axis"), list(image.shape)
    spatial = [i for i in range(image.ndim) if axis is None or i != axis % image.ndim][-2:]
    for i in spatial:
        sides[i] = round(sides[i] * float(options["scale"]))
    return tuple(sides)


def plain(array):
    return np.ma.getdata(array).copy()


def right_or_refused(task, image, options):
    """Restore, and check the result or the refusal."""
    before = plain(image)
    try:
        result = task(image, **options)
    except DmspError as error:
        note(str(error))
        check_sentence(str(error))
    else:
        assert result.image.dtype == np.float32
        assert result.image.shape == expected_shape(task, image, options)
        assert np.isfinite(result.image).all()
    assert plain(image).tobytes() == before.tobytes() or before.dtype == object


def check_sentence(text):
    """A refusal names what is wrong in words: not in those of another library."""
    assert len(text) > 20
    assert re.search(
        r"image|psf|mask|mosaic|[a-z_]+=|source|background|white|colour filter|pattern", text
    ), text


BEAD = 1000 * np.exp(-0.5 * np.square(np.indices((41, 41)) - 20).sum(0) / 4)
BEAD += np.random.default_rng(0).normal(10, 1, BEAD.shape)


@pytest.mark.parametrize("shape", [(12, 13), (2, 12, 13)])
def test_a_psf_whose_rows_differ(shape):
    image = filled(shape, "f4", "noise", 0)
    with pytest.raises(DmspError, match="psf of type list is not an array"):
        superres(image, 2, psf=[[1, 2], [3]], prior=unchanged, device="cpu")


MICROSCOPE = {"na": 1.2, "wavelength": 0.5, "voxel_size": (0.2, 0.1, 0.1), "shape": (3, 5, 5)}
FUNCTIONS = {
    gaussian_psf: {"sigma": 1.0},
    motion_psf: {"length": 3.0, "angle": 10.0},
    partial(microscope_psf, "widefield"): {
        **{"immersion_index": 1.5, "sample_index": 1.4, "depth": 1.0, "image_shape": None},
        **MICROSCOPE,
    },
    partial(bead_psf, BEAD): {
        "voxel_size": (0.1, 0.1),
        "bead_diameter": 0.1,
        "shape": (15, 15),
    },
    partial(Photons, gain=1.0): {"offset": 0.0, "read_noise": 1.0},
    partial(stacks.deblur, filled((2, 70, 70), "f4", "noise", 0), prior=unchanged): {
        **{"psf": np.ones((3, 3)), "chunks": 64, "survey": "plane", "dtype": "float32", "halo": 8},
    },
    load_prior: {"prior": "gray"},
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: getattr(f, "func", f).__name__)
def test_functions(function):
    """Every argument in turn is of any kind; what is refused is so in words of this package."""
    function(**FUNCTIONS[function])
    good = FUNCTIONS[function]
    for name in good:
        for value in [*ODD, "", "a" * 5000, "a\0b", (1.0, 2.0, 3.0), np.eye(2, dtype=complex)]:
            with suppress(DmspError):
                function(**(good | {name: value}))


@pytest.mark.parametrize("task", [deblur, superres, demosaic])
def test_python(task, cases):
    choices = {**SHARED, **OWN[task]}
    if task is demosaic:
        del choices["channel_axis"]

    @cases(25)
    @given(image=images(), data=st.data())
    def check(image, data):
        names = data.draw(st.lists(st.sampled_from(sorted(choices)), max_size=2, unique=True))
        options = {name: data.draw(st.sampled_from(choices[name]), name) for name in names}
        if "noise" in options and "noise_sigma" in options:
            del options["noise"]
        usual = {"prior": unchanged, "iterations": 1, "device": "cpu"}
        right_or_refused(task, image, NEEDED[task] | usual | options)

    check()


TEXTS = [
    *[
        "",
        " ",
        "0",
        "-1",
        "1",
        "2",
        "3",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "9" * 400,
        "9" * 5000,
    ],
    *[
        "much",
        "1,2",
        "1 2",
        "0x10",
        "1_0",
        "\u0661",
        "½",
        "\u2028",
        "a\0b",
        "=",
        ",",
        "/",
        "gain=1",
        "%s",
    ],
    *["--", "gain=", "gain=nan", "gain=1,gain=2,offset", "gain=1,read=-1", "auto", "whole", "none"],
    *["RGGB", "0,1/1,2", "0,1/1", "9,9/9,9", "annealed", "sgd", "cpu", "cuda:9", "gray", "rgb"],
    *["gaussian:", "gaussian:1", "gaussian:-1", "gaussian:nan", "gaussian:1,2,3", "motion:3,45"],
    *["motion:3", "motion:1e9,0", "motion:inf,nan", "widefield:na=9,wavelength=500", "widefield:"],
    *["bead:", "bead:in.tif", "focal:in.tif", "in.tif", "none.tif", ".", "/", "bad.tif", "psf.npy"],
    *["psf.npy:1", "0:2", "::0", "5", "-1", "0:0", "1:2:3:4", "0" * 100],
]


def text_options(kind):
    """Return the options of a command that take text."""
    flags = [about.flag for _, about in options(kind) if about.flag and "/" not in about.flag]
    return [*flags, "--dtype", "--planes", "--chunks", "--survey", "--save-psf", "--nonsense"]


@pytest.fixture(scope="module")
def small_prior(tmp_path_factory):
    """A file of weights that take no time."""
    made = {}
    for channels in (1, 3):
        net = UNet(channels, (4, 4), 1)
        config = json.dumps({"architecture": "unet", **net.config})
        made[channels] = tmp_path_factory.mktemp("prior") / f"small{channels}.safetensors"
        save_file(net.state_dict(), made[channels], metadata={"napari-dmsp": config})
    return made


def write_source(path, image, form, seed):
    """Write an image file, perhaps a broken one."""
    rng = np.random.default_rng(seed)
    if form == "folder":
        path.mkdir()
    elif form == "text":
        path.write_text("no image")
    elif form == "empty":
        path.write_bytes(b"")
    elif form != "missing":
        tifffile.imwrite(path, image, photometric="minisblack")
        content = bytearray(path.read_bytes())
        if form == "truncated":
            content = content[: int(rng.integers(1, len(content)))]
        elif form == "damaged":
            for at in rng.integers(4, len(content), 6):
                content[at] = rng.integers(256)
        path.write_bytes(content)


FORMS = ["tif", "tif", "tif", "truncated", "damaged", "text", "empty", "folder", "missing"]
TIFF_DTYPES = ["?", "u1", "u2", "u4", "u8", "i2", "i8", "f2", "f4", "f8", "c8"]


def shell_case(kind, folder, prior, choose, seed):
    """Run a command on a file that may be bad, with options that may be bad; return the result."""
    shape = choose([(12, 13), (12, 13), *[s for s in SHAPES if len(s) > 1 and 0 not in s]])
    dtype, fill = choose(["f4", "u2", *TIFF_DTYPES]), choose(["noise", "noise", *FILLS])
    folder.mkdir()
    write_source(folder / "in.tif", filled(shape, dtype, fill, seed), choose(FORMS), seed)
    (folder / "bad.tif").write_bytes(b"II*\0\x08\0\0\0")
    np.save(folder / "psf.npy", np.ones((3, 3)))
    arguments = [
        kind.task,
        "in.tif",
        choose(["out.tif", "out.tif", "out.png", "out.jpg", "out.zarr", "out/", "o\0"]),
    ]
    usual = {"--iterations": "1", "--device": "cpu", "--prior": str(prior)}
    usual |= {"deblur": {"--psf": "gaussian:0.7"}, "superres": {"--scale": "2"}}.get(kind.task, {})
    for _ in range(choose([0, 1, 1, 2])):
        usual[choose(text_options(kind))] = choose(TEXTS)
    # A wrong number of evaluations must not be an excuse for a long run.
    arguments += [part for pair in usual.items() for part in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return arguments, CliRunner().invoke(app, arguments)


def check_shell(folder, arguments, result):
    """An exit code of 0 and a file, or a sentence and none."""
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    made = [folder / name for name in ("out.tif", "out.png", "out.jpg", "out.zarr", "out/in.tif")]
    outputs = [path for path in made if path.exists()]
    if result.exit_code == 0:
        assert outputs, result.output
        for path in outputs:
            if path.suffix == ".tif":
                assert np.isfinite(tifffile.imread(path)).all()
        return
    assert result.exit_code in (1, 2), result.output
    assert len(result.stderr) > 20
    assert "Traceback" not in result.output
    assert not outputs, outputs


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_shell(tmp_path, small_prior, kind, cases):
    @cases(12)
    @given(data=st.data(), seed=st.integers(0, 99))
    def check(data, seed):
        folder = tmp_path / uuid.uuid4().hex
        prior = small_prior[3 if kind.makes_colour else 1]
        choose = lambda among: data.draw(st.sampled_from(among))  # noqa: E731
        arguments, result = shell_case(kind, folder, prior, choose, seed)
        note(f"{arguments}\n{result.output}")
        check_shell(folder, arguments, result)

    check()
