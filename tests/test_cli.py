import json
import re
import subprocess
import sys
from importlib.metadata import version

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import typer
import zarr
from rich.emoji import Emoji
from typer.testing import CliRunner

from napari_dmsp.cli import app
from napari_dmsp.core import prepare_deblur
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import simulate_blur


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def fails(*arguments):
    """Run, expect exit code 2 and one line on stderr, and return that line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def make_image(shape, dtype):
    """A blurred checkerboard over half the range of an integer dtype, or 0..1."""
    rows, columns = np.indices((shape[0] + 8, shape[1] + 8)) // 6
    board = ((rows + columns) % 2).astype(np.float32)
    if len(shape) == 3:
        board = board[..., None] * np.float32([1, 0.7, 0.4, 1])[: shape[2]]
    observed, _ = simulate_blur(board, gaussian_psf(1), 0.01)
    dtype = np.dtype(dtype)
    scale = np.iinfo(dtype).max / 2 if dtype.kind in "ui" else 1
    offset = scale / 4 if dtype.kind in "ui" else 0
    return (observed * scale + offset).astype(dtype)


def write(path, image):
    if path.suffix == ".tif":
        colour = image.ndim == 3
        tifffile.imwrite(path, image, photometric="rgb" if colour else "minisblack")
    else:
        iio.imwrite(path, image)
    return path


def test_help_has_no_emoji():
    commands = typer.main.get_command(app).commands.values()
    texts = [getattr(each, "help", "") or "" for task in commands for each in task.params]
    assert len(texts) > 50
    for text in texts:
        assert Emoji.replace(text) == text


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.tif", make_image((32, 40), np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(3):
        rng = np.random.default_rng(index)
        iio.imwrite(folder / f"{index}.png", rng.integers(0, 256, (24, 28, 3), np.uint8))
    return folder


def test_import_is_light():
    code = (
        "import sys, napari_dmsp.cli\n"
        "heavy = {'torch', 'numpy', 'skimage', 'napari', 'qtpy', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version():
    assert run("--version").stdout == f"napari-dmsp {version('napari-dmsp')}\n"


@pytest.mark.parametrize("command", ["deblur", "superres", "demosaic", "train", "demo"])
def test_help(command):
    assert command in run("--help").stdout
    assert run(command, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("suffix", "shape", "dtype"),
    [
        (".tif", (32, 40), "u1"),
        (".tif", (32, 40), "u2"),
        (".tif", (32, 40), "u4"),
        (".tif", (32, 40), "f4"),
        (".tif", (32, 40, 3), "u2"),
        (".tif", (32, 40, 3), "f4"),
        (".png", (32, 40), "u2"),
        (".png", (32, 40, 3), "u1"),
        (".png", (32, 40, 4), "u1"),
        (".jpg", (32, 40), "u1"),
        (".jpg", (32, 40, 3), "u1"),
    ],
)
def test_deblur_keeps_form_and_sharpens(tmp_path, suffix, shape, dtype):
    image = make_image(shape, dtype)
    source, target = write(tmp_path / f"in{suffix}", image), tmp_path / f"out{suffix}"
    result = run("deblur", source, target, "--psf", "gaussian:1", "--iterations", 3)
    assert result.exit_code == 0, result.output
    prior = "gray" if len(shape) == 2 else "rgb"
    told = rf"noise \S+ \(estimated\), prior {prior}, 3 evaluations, \d+\.\d s"
    assert re.search(told, result.stdout)
    assert str(target) in result.stdout
    assert "restoring, residual=" in result.stderr
    restored = tifffile.imread(target) if suffix == ".tif" else iio.imread(target)
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    if len(shape) == 3 and shape[-1] == 4:
        np.testing.assert_array_equal(restored[..., 3], image[..., 3])
        restored, image = restored[..., :3], image[..., :3]
    assert restored.astype(float).std() > 1.1 * image.astype(float).std()


def test_float_output(tmp_path, source):
    target = tmp_path / "out.tif"
    arguments = ("deblur", source, target, "--psf", "gaussian:1", "--iterations", 1)
    assert run(*arguments, "--dtype", "float32").exit_code == 0
    restored = tifffile.imread(target)
    assert restored.dtype == np.float32
    assert (restored != np.rint(restored)).any()


def test_existing_output_is_kept_unless_told(tmp_path, source):
    target = tmp_path / "out.tif"
    target.write_text("precious")
    arguments = ("deblur", source, target, "--psf", "gaussian:1", "--iterations", 1)
    assert "--overwrite" in fails(*arguments)
    assert target.read_text() == "precious"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert tifffile.imread(target).shape == (32, 40)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_psf_file(tmp_path, source, suffix):
    psf = (gaussian_psf(1) * 1000).astype(np.uint8)
    path = tmp_path / f"psf{suffix}"
    if suffix == ".npy":
        np.save(path, psf)
    else:
        write(path, psf)
    target = tmp_path / "out.png"
    result = run("deblur", source, target, "--psf", path, "--iterations", 1, "--noise", 2)
    assert result.exit_code == 0, result.output
    assert "noise 2 (given)" in result.stdout


def test_same_seed_same_result(tmp_path, source):
    arguments = ("--psf", "motion:5,30", "--iterations", 2, "--method", "sgd", "--seed")
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert run("deblur", source, tmp_path / f"{name}.png", *arguments, seed).exit_code == 0
    first, again, other = (iio.imread(tmp_path / f"{n}.png") for n in "abc")
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_tiles_of_an_image_and_of_a_stack(tmp_path):
    source = write(tmp_path / "in.tif", make_image((200, 230), np.uint16))
    arguments = ("--psf", "gaussian:1", "--iterations", 1, "--noise", 300, "--tile", 192)
    result = run("deblur", source, tmp_path / "out.tif", *arguments, "--sidecar")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.tif.json").read_text())["settings"]["tile"] == 192
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.stack([make_image((200, 230), np.uint16)] * 2))
    result = run("deblur", stack, tmp_path / "out.zarr", *arguments, "--chunks", 100)
    assert result.exit_code == 0, result.output
    written = zarr.open(tmp_path / "out.zarr", mode="r")
    assert written["0"].chunks[-2:] == (104, 120)
    assert written.attrs["napari-dmsp"]["settings"]["tile"] == 192


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--psf", "gaussian:-1"), "--psf gaussian:-1: sigma=-1"),
        (("--psf", "gaussian:x"), "write it like gaussian:1.5"),
        (("--psf", "gaussian:1,2"), "write it like gaussian:1.5"),
        (("--psf", "gaussian"), "write it like gaussian:1.5"),
        (("--psf", "bead:"), "write it like gaussian:1.5"),
        (("--psf", "motion:20"), "write it like gaussian:1.5, motion:20,45"),
        (("--psf", "motion:0,3"), "--psf motion:0,3: length=0"),
        (("--psf", "missing.tif"), "missing.tif is not a file"),
        (("--psf", "gaussian:20"), "larger than the image"),
        (("--noise", "-1"), "--noise -1"),
        (("--noise", "nan"), "--noise nan"),
        (("--iterations", "0"), "--iterations 0"),
        (("--prior", "missing"), "--prior missing"),
        (("--prior", "rgb"), "use --prior gray"),
        (("--device", "abacus"), "--device abacus"),
        (("--tile", "64"), "in.tif: --tile 64"),
        (("--psf", "widefield:na=3,wavelength=1,voxel=1/1"), "give the immersion that"),
        (("--background", "1e9"), "background"),
    ],
)
def test_bad_options(tmp_path, options, message):
    source = write(tmp_path / "in.tif", make_image((32, 40), np.uint16))
    psf = () if "--psf" in options else ("--psf", "gaussian:1")
    assert message in fails("deblur", source, tmp_path / "out.tif", *psf, *options)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    "twice",
    [("--psf", "gaussian:1", "--psf=gaussian:2"), ("--uncertainty", "--no-uncertainty")],
)
def test_options_that_are_given_twice(tmp_path, source, twice):
    result = run("deblur", source, tmp_path / "out.tif", *twice)
    assert result.exit_code == 2, result.output
    assert f"{twice[0]} is given twice; give it once." in result.stderr
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 40), np.uint8), "constant"),
        (np.ones((4, 4), np.uint8), "pixels"),
        (
            np.full((32, 40), np.nan, np.float32),
            "in.tif: the image has 1280 NaN or infinite pixels",
        ),
        (np.full((32, 40), np.nan, np.float32), "too, with --mask auto or --mask FILE, or replace"),
    ],
)
def test_bad_images(tmp_path, image, message):
    source = write(tmp_path / "in.tif", image)
    assert message in fails("deblur", source, tmp_path / "out.tif", "--psf", "gaussian:1")


def test_a_stack_without_anything_to_restore(tmp_path):
    stack = np.arange(5, dtype=np.uint8)[:, None, None] + np.zeros((5, 32, 40), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack")
    arguments = ("--psf", "gaussian:1", "--sidecar")
    result = run("deblur", tmp_path / "in.tif", tmp_path / "out.tif", *arguments)
    assert result.exit_code == 0, result.output
    assert "all is constant and stays as it is" in result.stdout
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), stack)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.bmp", "unknown kind"),
        ("missing/out.tif", "does not exist"),
        ("in.tif", "in.tif is an input too; choose another name"),
        ("out.png", "cannot hold float32"),
    ],
)
def test_bad_outputs(tmp_path, source, target, message):
    arguments = ("--psf", "gaussian:1", "--dtype", "float32", "--overwrite")
    assert message in fails("deblur", source, tmp_path / target, *arguments)


def test_unknown_kernel_is_written(tmp_path, source, monkeypatch):
    found = gaussian_psf(1)

    def search(image, psf=None, *, psf_size=None, **options):
        assert psf is not None or psf_size == 9
        return prepare_deblur(image, found if psf is None else psf, **options)

    # A real search takes hundreds of evaluations.
    monkeypatch.setattr("napari_dmsp.core.tasks.prepare_deblur", search)
    first, second, third = (tmp_path / n for n in ("psf.npy", "again.tif", "drawn.tif"))
    target = tmp_path / "out.tif"
    arguments = ("deblur", source, target, "--iterations", 1, "--overwrite")
    result = run(*arguments, "--psf-size", 9, "--save-psf", first)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{target}\n{first}\n")
    assert run(*arguments, "--psf", first, "--save-psf", second).exit_code == 0
    assert run(*arguments, "--psf", "gaussian:1", "--save-psf", third).exit_code == 0
    np.testing.assert_allclose(np.load(first), found, rtol=1e-6)
    for path in (second, third):
        np.testing.assert_allclose(tifffile.imread(path), found, rtol=1e-6)
    fresh = ("deblur", source, tmp_path / "new.tif", "--psf", first, "--save-psf", second)
    assert "give --overwrite" in fails(*fresh)
    assert not (tmp_path / "new.tif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--psf-size", 4), "--psf-size 4"),
        (("--psf-size", 5, "--psf", "gaussian:1"), "not both"),
        (("--save-psf", "psf.png"), "unknown kind"),
        (("--save-psf", "missing/psf.npy"), "does not exist"),
        (("--save-psf", "out.tif"), "named twice"),
        (("--save-psf", "in.tif", "--overwrite"), "an input too"),
    ],
)
def test_bad_kernel_options(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.tif", make_image((64, 72), np.uint8))
    assert message in fails("deblur", "in.tif", "out.tif", *options)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


def test_unknown_kernel_needs_more_pixels(tmp_path, source):
    assert "at least 64 x 64" in fails("deblur", source, tmp_path / "out.tif")


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "size"),
    [
        ((16, 20), "u2", ("--scale", 2), (32, 40)),
        ((16, 20), "f4", ("--scale", 1.5), (24, 30)),
        ((16, 20, 4), "u1", ("--scale", 2, "--psf", "gaussian:0.8"), (32, 40)),
    ],
)
def test_superres(tmp_path, shape, dtype, options, size):
    image, source, target = make_image(shape, dtype), tmp_path / "in.tif", tmp_path / "out.tif"
    colour = {"photometric": "rgb", "extrasamples": ["unassalpha"]} if len(shape) == 3 else {}
    tifffile.imwrite(source, image, resolution=(3, 2), **colour)
    result = run("superres", source, target, *options, "--iterations", 2)
    assert result.exit_code == 0, result.output
    assert "2 evaluations" in result.stdout
    with tifffile.TiffFile(target) as file:
        assert file.pages.first.resolution == (3 * options[1], 2 * options[1])
        restored = file.asarray()
    assert (restored.shape, restored.dtype) == (size + shape[2:], image.dtype)
    # The same units: what differs is detail.
    assert restored.mean() == pytest.approx(image.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scale", 1), "--scale 1"),
        (("--scale", "nan"), "--scale nan"),
        (("--scale", 1.5, "--psf", "gaussian:1"), "whole number"),
        (("--scale", 2, "--psf", "gaussian:x"), "write it like gaussian:1.5"),
    ],
)
def test_bad_superres_options(tmp_path, source, options, message):
    assert message in fails("superres", source, tmp_path / "out.tif", *options)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_demosaic(tmp_path, dtype):
    scene = make_image((24, 28, 3), dtype)
    mosaic = scene[..., 1].copy()
    mosaic[::2, 1::2], mosaic[1::2, ::2] = scene[::2, 1::2, 2], scene[1::2, ::2, 0]
    # That is the second row of RGGB first, here above a black level.
    mosaic += np.array(20, mosaic.dtype)
    source, target = write(tmp_path / "in.tif", mosaic), tmp_path / "out.tif"
    levels = ("--background", 20, "--white", np.iinfo(mosaic.dtype).max)
    arguments = ("demosaic", source, target, "--pattern", "GBRG", *levels, "--iterations", 2)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "2 evaluations" in result.stdout
    restored = tifffile.imread(target)
    assert (restored.shape, restored.dtype) == (scene.shape, mosaic.dtype)
    # Each channel has its own mean, and black stays in.
    expected = scene.mean((0, 1)) + 20
    np.testing.assert_allclose(restored.mean((0, 1)), expected, rtol=0.1)


def test_demosaic_needs_one_channel_and_a_fitting_output(tmp_path):
    colour = write(tmp_path / "colour.png", make_image((24, 28, 3), np.uint8))
    assert "one channel" in fails("demosaic", colour, tmp_path / "out.png")
    deep = write(tmp_path / "deep.png", make_image((24, 28), np.uint16))
    assert "only be written in grey" in fails("demosaic", deep, tmp_path / "out.png")
    grey = write(tmp_path / "grey.png", make_image((24, 28), np.uint8))
    assert "pattern" in fails("demosaic", grey, tmp_path / "out.png", "--pattern", "plaid")
    levels = ("--background", 200, "--white", 100)
    fails("demosaic", grey, tmp_path / "out.png", *levels)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    "command", [("deblur", "--psf", "gaussian:1"), ("superres", "--scale", 2), ("demosaic",)]
)
def test_what_the_mask_marks_is_not_looked_at(tmp_path, command):
    name, *options = command
    image, marks = make_image((24, 28), np.uint8), np.zeros((24, 28), np.uint8)
    marks[10:12, 5] = marks[3, 20] = 1
    mask = write(tmp_path / "mask.png", marks)
    for index, value in enumerate((0, 255)):
        image[marks > 0] = value
        source, target = write(tmp_path / f"{index}.tif", image), tmp_path / f"out{index}.tif"
        result = run(name, source, target, *options, "--mask", mask, "--iterations", 1)
        assert result.exit_code == 0, result.output
    first, second = (tifffile.imread(tmp_path / f"out{i}.tif") for i in range(2))
    np.testing.assert_array_equal(first, second)


def test_bad_masks(tmp_path, source):
    target, psf = tmp_path / "out.png", ("--psf", "gaussian:1", "--mask")
    small = write(tmp_path / "small.png", np.zeros((5, 5), np.uint8))
    assert "mask has shape (5, 5)" in fails("deblur", source, target, *psf, small)
    full = write(tmp_path / "full.png", np.ones((32, 40), np.uint8))
    assert "leaves no pixel" in fails("deblur", source, target, *psf, full)
    assert "not a file" in fails("deblur", source, target, *psf, tmp_path / "missing.png")
    assert "an input too" in fails("deblur", source, full, *psf, full, "--overwrite")


def test_other_errors_are_not_hidden(tmp_path, source, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("napari_dmsp.core.tasks.prepare_deblur", fail)
    result = run("deblur", source, tmp_path / "out.tif", "--psf", "gaussian:1")
    assert isinstance(result.exception, ZeroDivisionError)


def test_train_resume_and_deblur(tmp_path, photographs):
    out = tmp_path / "tiny.safetensors"
    # No time at all is one step, which is all that is needed here.
    options = ("train", "--images", photographs, "--channels", 3, "--out", out)
    small = ("--batch", 1, "--patch", 16, "--precision", "float32", "--note", "noise", "--minutes")
    result = run(*options, *small, "1e-6")
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    assert "psnr5" in result.stdout

    assert "--resume" in fails(*options, *small, "1")
    state = tmp_path / "tiny.state.safetensors"
    assert "give more than --minutes" in fails(*options, *small, "1e-6", "--resume", state)
    result = run(*options, *small, "10", "--resume", tmp_path / "none")
    assert result.exit_code == 2
    assert run(*options, *small, "1e-6", "--resume", out, "--overwrite").exit_code == 0

    source = write(tmp_path / "in.png", make_image((16, 20, 3), np.uint8))
    arguments = ("--psf", "gaussian:1", "--iterations", 1, "--prior", out)
    assert run("deblur", source, tmp_path / "out.png", *arguments).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--minutes", "0"), "--minutes 0"),
        (("--out", "weights.pt"), "must end in .safetensors"),
        (("--noise-sigma", "-3"), "--noise-sigma -3 must be above 0 and at most 255"),
        (("--architecture", "dncnn"), "give it as --noise-sigma"),
        (("--patch", "50"), "50 pixel patch"),
        (("--device", "abacus"), "--device abacus"),
        (("--images", "missing"), "does not exist"),
        (("--validation", "missing"), "does not exist"),
    ],
)
def test_bad_training_options(tmp_path, photographs, options, message):
    defaults = {
        "--images": photographs,
        "--channels": 3,
        "--out": tmp_path / "a.safetensors",
        "--minutes": 1,
        "--patch": 16,
    }
    given = defaults | dict([options])
    assert message in fails("train", *(v for pair in given.items() for v in pair))


def test_demo_improves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A few evaluations of a part of the photograph show what the whole demo does.
    monkeypatch.setattr("napari_dmsp.demo.CROP", (slice(200, 300), slice(150, 250)))
    for _ in range(2):
        result = run("demo", "--iterations", 4)
        assert result.exit_code == 0, result.output
    before, after = map(float, re.findall(r"(\d+\.\d+) dB", result.stdout))
    assert after > before + 1
    assert "4 evaluations" in result.stdout
    assert "napari-dmsp-demo.png" in result.stdout
    height, width, _ = iio.imread(tmp_path / "napari-dmsp-demo.png").shape
    assert width > 3 * height / 2


def test_demo_output_is_checked(tmp_path):
    (tmp_path / "mine.png").touch()
    assert "exists" in fails("demo", "--out", tmp_path / "mine.png")
    assert "must end in .png" in fails("demo", "--out", tmp_path / "demo.jpg")
    assert "does not exist" in fails("demo", "--out", tmp_path / "missing" / "demo.png")


def test_demo_explains_missing_viewer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    out = tmp_path / "demo.png"
    assert "needs napari" in fails("demo", "--viewer", "--out", out)
    assert not out.exists()
