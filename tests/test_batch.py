import json
import os
import signal
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_dmsp import deblur
from napari_dmsp.batch import Files, Task, _stack_psfs, find_images, is_batch, plan_batch
from napari_dmsp.cli import app
from napari_dmsp.core import tasks
from napari_dmsp.core.prior import _read_prior
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.dtypes import fit_dtype
from napari_dmsp.errors import DmspError
from napari_dmsp.plan import try_settings
from napari_dmsp.settings import Deblur, Demosaic, Superres

DEBLUR = ("deblur", "--psf", "gaussian:1", "--iterations", 1)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def touch(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def random_image(shape, dtype="u1", seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def written(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def images():
    """Two good images, and files that are none or not good."""
    Path("in").mkdir()
    iio.imwrite("in/a.png", random_image((16, 20, 3)))
    tifffile.imwrite("in/b.tif", random_image((16, 20), "u2"), resolution=(3, 2))
    iio.imwrite("in/constant.png", np.zeros((16, 20), np.uint8))
    Path("in/broken.tif").write_text("no image")
    touch("in/notes.txt", "in/.hidden.png", "in/below/c.png")


@pytest.fixture
def pair():
    Path("in").mkdir()
    for name in "ab":
        iio.imwrite(f"in/{name}.png", random_image((16, 20)))


def test_images_are_found():
    touch("in/b.png", "in/a.TIF", "in/.c.png", "in/d.txt", "in/below/e.jpg", "one[1].tif")
    folder = [Path("in/a.TIF"), Path("in/b.png")]
    assert find_images(["in"]) == find_images(["in/"]) == find_images(["in/*"]) == folder
    assert find_images(["in/**/*"]) == [folder[0], folder[1], Path("in/below/e.jpg")]
    # Names that exist are no patterns, and names that do not exist may be wrong.
    assert find_images(["one[1].tif", "missing.tif"]) == [Path("one[1].tif"), Path("missing.tif")]
    # Each once, in the order in which they were named.
    assert find_images(["in/b.png", "in", "./in/*"]) == folder[::-1]


@pytest.mark.parametrize("source", ["empty", "in/*.jpg", "missing/*"])
def test_no_images(source):
    Path("empty").mkdir()
    touch("in/a.tif")
    with pytest.raises(DmspError, match="no image"):
        find_images([source])


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        (["a.tif"], "b.tif", False),
        (["a[1].tif"], "b.tif", False),
        (["a.tif"], "folder", True),
        (["a.tif"], "new/", True),
        (["a.tif"], f"new{os.sep}", True),
        (["a.tif", "b.tif"], "new", True),
        (["folder"], "new", True),
        (["*.tif"], "new", True),
    ],
)
def test_what_is_a_batch(sources, target, expected):
    Path("folder").mkdir()
    touch("a[1].tif")
    assert is_batch(sources, target) is expected


def plan(sources, target="out", sidecar=False, psf=None, **options):
    kind = Demosaic if options.pop("mosaic", False) else Deblur
    return plan_batch(Task(kind(), **options), sources, target, sidecar, psf)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["a.tiff", "b.png", "c.JPG", "deep.png"]),
        ({"floats": True}, ["a.tiff", "b.tif", "c.tif", "deep.tif"]),
        ({"mosaic": True}, ["a.tiff", "b.png", "c.JPG", "deep.tif"]),
    ],
)
def test_outputs_have_a_suffix_that_holds_them(options, names):
    sources = ["a.tiff", "b.png", "c.JPG", "deep.png"]
    touch(*sources)
    iio.imwrite("b.png", random_image((8, 8)))
    iio.imwrite("deep.png", random_image((8, 8), "u2"))
    assert [files.image for files in plan(sources, **options)] == [Path("out", n) for n in names]


def test_sidecars_and_kernels_have_their_names():
    (files,) = plan(["in/a.png"], sidecar=True, psf=Path("kernels"))
    outputs = [Path("out/a.png"), Path("out/a.png.json"), Path("kernels/a.tif")]
    assert files == Files(Path("in/a.png"), *outputs)
    assert files.outputs == outputs


@pytest.mark.parametrize(
    ("sources", "target", "options", "message"),
    [
        (["a.png", "a.tif"], "out", {"floats": True}, "out/a.tif is wanted twice, for a.png and"),
        (["x/a.png", "y/A.png"], "out", {}, "wanted twice"),
        (["a.tif"], "out/", {"psf": Path("out")}, "wanted twice"),
        (["a.png"], ".", {}, "an input too"),
        (["x/a.png", "y/b.png"], "y", {}, "an input too"),
        (["x/mask.png"], "y", {"named": (Path("y/mask.png"),)}, "an input too"),
        (["a.png", "b.png"], "c.png", {}, "output c.png is a file"),
        (["a.png", "b.png"], "notes", {}, "output notes is a file"),
        (["a.png", "b.png"], "out", {"psf": Path("k.npy")}, "output k.npy is a file"),
    ],
)
def test_clashes_are_found_before_any_work(sources, target, options, message):
    touch("notes")
    with pytest.raises(DmspError, match=message.replace("/", r"[/\\]")):
        plan(sources, target, **options)


@pytest.mark.parametrize(
    "settings",
    [
        Deblur(psf=gaussian_psf(20)),
        Deblur(psf_size=101, background=1e4),
        Deblur(psf_size=1001),
        Deblur(prior="gray", noise=1e3),
        Superres(scale=8.0, prior="rgb"),
        Superres(scale=3.0, psf=gaussian_psf(9)),
        Demosaic(pattern="X-Trans", white=5.0, linear=True),
        Demosaic(background=64.0, white=1023.0),
    ],
)
def test_good_options_pass(settings):
    try_settings(settings, colour=True)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("deblur", ("--psf", "gaussian:x"), "write it like gaussian:1.5"),
        ("deblur", ("--psf", "missing.tif"), "not a file"),
        ("deblur", ("--psf-size", 4), "--psf-size 4"),
        ("deblur", ("--prior", "missing"), "--prior missing"),
        ("deblur", ("--device", "abacus"), "--device abacus"),
        ("deblur", ("--noise", "-1"), "--noise -1"),
        ("deblur", ("--iterations", "0"), "--iterations 0"),
        ("deblur", ("--background", "nan"), "--background nan"),
        ("deblur", ("--mask", "missing.png"), "not a file"),
        ("superres", ("--scale", 9), "--scale 9"),
        ("superres", ("--scale", 1.5, "--psf", "gaussian:1"), "whole number"),
        ("demosaic", ("--pattern", "plaid"), "--pattern plaid"),
        ("demosaic", ("--prior", "gray"), "--prior gray"),
        ("demosaic", ("--background", 5, "--white", 5), "--white 5"),
        ("demosaic", ("--background", 5, "--white", "nan"), "--white nan"),
    ],
)
def test_options_that_suit_no_image_fail_at_once(pair, command, options, message):
    result = run(command, "in", "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("out").exists()


def test_bad_images_do_not_stop_the_others(images):
    result = run(*DEBLUR, "in", "missing.tif", "new/out")
    assert result.exit_code == 1, result.output
    assert written("new/out") == ["a.png", "a.png.json", "b.tif", "b.tif.json"]
    bar, listed = result.stderr.split("Error: ")
    assert "5/5" in bar
    title, broken, *others = listed.splitlines()
    assert title == "3 images were not restored:"
    assert broken.startswith(f"  {Path('in/broken.tif')} cannot be read")
    assert others == [
        f"  {Path('in/constant.png')}: the image is constant (0): there is nothing to restore.",
        "  missing.tif is not a file; check the name.",
    ]
    for name in ("a.png", "b.tif"):
        assert f"{Path('new/out', name)}: noise" in result.stdout
    with tifffile.TiffFile("new/out/b.tif") as file:
        assert file.pages.first.resolution == (3, 2)
        assert file.asarray().dtype == np.uint16


def test_different_priors_of_a_batch_are_named():
    Path("in").mkdir()
    iio.imwrite("in/bright.png", random_image((32, 32)))
    dark = random_image((32, 32), "u2", seed=1) // 100
    dark[12:16, 12:16] += 3000
    tifffile.imwrite("in/dark.tif", dark)
    result = run(*DEBLUR, "in", "out")
    assert "(estimated), prior gray, 1 evaluations" in result.stdout
    assert "(estimated), prior microscopy, 1 evaluations" in result.stdout
    mixed = "different priors, 'gray' (1) and 'microscopy' (1), by how each looks"
    assert mixed in result.stderr
    assert "such as --prior gray." in result.stderr
    assert "different priors" not in run(*DEBLUR, "in", "out2", "--prior", "gray").stderr
    assert "different priors" not in run(*DEBLUR, "in/bright.png", "out3/").stderr


def test_existing_outputs_are_errors_of_their_images(pair):
    touch("out/a.png", "out/b.png.json")
    result = run(*DEBLUR, "in/*.png", "out")
    assert result.exit_code == 1
    assert result.stderr.count("give --overwrite") == 2
    assert written("out") == ["a.png", "b.png.json"]
    assert Path("out/a.png").stat().st_size == 0
    assert run(*DEBLUR, "in/*.png", "out", "--no-sidecar").exit_code == 1
    assert Path("out/b.png").stat().st_size
    assert run(*DEBLUR, "in/*.png", "out", "--overwrite").exit_code == 0
    assert all(path.stat().st_size for path in Path("out").iterdir())


def test_sidecar_says_how_to_repeat_the_run(working_directory, pair):
    np.save("psf.npy", gaussian_psf(1))
    iio.imwrite("mask.png", np.eye(16, 20, dtype=np.uint8))
    options = ("--psf", "psf.npy", "--mask", "mask.png", "--seed", 7, "--iterations", 1)
    result = run("deblur", "in/a.png", "a.tif", *options, "--sidecar", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("a.tif\na.tif.json\n")
    record = json.loads(Path("a.tif.json").read_text(encoding="utf-8"))
    assert (record["input"], record["output"]) == (str(Path("in/a.png")), "a.tif")
    assert record["working_directory"] == str(working_directory)
    assert record["options"] == {
        "psf": "psf.npy",
        "mask": "mask.png",
        "seed": "7",
        "iterations": "1",
        "dtype": "float32",
    }
    assert record["evaluations"] == 1
    given = {"task": "deblur", "seed": 7, "iterations": 1, "masked": 16, "noise_sigma": None}
    assert record["settings"].items() >= (given | {"version": version("napari-dmsp")}).items()

    assert run("deblur", "in/a.png", "b.tif", *options).exit_code == 0
    assert not Path("b.tif.json").exists()


def test_existing_sidecar_is_kept(pair):
    touch("a.png.json")
    result = run(*DEBLUR, "in/a.png", "a.png", "--sidecar")
    assert result.exit_code == 2
    assert "a.png.json exists; give --overwrite" in result.stderr
    assert not Path("a.png").exists()


@pytest.mark.parametrize("command", [("superres", "--scale", 2), ("demosaic",)])
def test_all_tasks_take_batches(pair, command):
    result = run(*command, "in/*.png", "out/", "--iterations", 1)
    assert result.exit_code == 0, result.output
    assert written("out") == ["a.png", "a.png.json", "b.png", "b.png.json"]
    expected = (32, 40) if command[0] == "superres" else (16, 20, 3)
    assert iio.imread("out/b.png").shape == expected


def test_mask_is_for_all_images_of_its_shape(pair):
    iio.imwrite("in/large.png", random_image((20, 20)))
    iio.imwrite("mask.png", np.eye(16, 20, dtype=np.uint8))
    result = run(*DEBLUR, "in", "out", "--mask", "mask.png")
    assert result.exit_code == 1
    assert "1 image was not restored" in result.stderr
    assert "large.png: mask has shape (16, 20); expected (20, 20)" in result.stderr
    assert json.loads(Path("out/a.png.json").read_text())["settings"]["masked"] == 16


def test_kernels_go_to_a_folder(pair):
    result = run(*DEBLUR, "in", "out", "--save-psf", "kernels")
    assert result.exit_code == 0, result.output
    assert written("kernels") == ["a.tif", "b.tif"]
    np.testing.assert_allclose(tifffile.imread("kernels/b.tif"), gaussian_psf(1), rtol=1e-6)


def test_each_prior_is_loaded_once():
    Path("in").mkdir()
    spots = np.zeros((32, 32), np.uint8)
    spots[8:12, 8:12] = 200
    for index in range(2):
        iio.imwrite(f"in/colour{index}.png", random_image((16, 20, 3)))
        iio.imwrite(f"in/grey{index}.png", random_image((16, 20)))
        iio.imwrite(f"in/dark{index}.png", spots)
    _read_prior.cache_clear()
    assert run(*DEBLUR, "in", "out").exit_code == 0
    assert _read_prior.cache_info().misses == 3
    sidecars = sorted(Path("out").glob("*.json"))
    names = [json.loads(path.read_text())["settings"]["prior"] for path in sidecars]
    assert names == ["rgb", "rgb", "microscopy", "microscopy", "gray", "gray"]
    _read_prior.cache_clear()
    assert run(*DEBLUR, "in", "named", "--prior", "gray").exit_code == 0
    assert _read_prior.cache_info().misses == 1


def spots(height):
    image = np.full((16, 20), 10, "u2")
    image[6:9, 8:12] = height
    return image


@pytest.fixture
def stack():
    """Four planes of two time points: fluorescence, but for a constant and a crowded one."""
    Path("in").mkdir()
    planes = [np.full((16, 20), 7, "u2"), spots(500), spots(700), random_image((16, 20), "u2")]
    pixels = np.stack(planes).reshape(2, 2, 16, 20)
    metadata = {"axes": "TZYX", "spacing": 0.5, "unit": "um", "finterval": 3.0}
    tifffile.imwrite("in/s.tif", pixels, imagej=True, resolution=(4, 2), metadata=metadata)
    return pixels


def test_planes_of_a_stack_are_restored_one_by_one(stack):
    iio.imwrite("in/photo.png", random_image((16, 20, 3)))
    result = run(*DEBLUR, "in", "out")
    assert result.exit_code == 0, result.output
    assert "s.tif: 3 planes, noise " in result.output
    with tifffile.TiffFile("out/s.tif") as file:
        assert file.series[0].axes == "TZYX"
        assert file.pages.first.resolution == (4, 2)
        expected = {"spacing": 0.5, "unit": "um", "finterval": 3.0}
        assert {name: file.imagej_metadata[name] for name in expected} == expected
        restored = file.asarray()
    assert restored.dtype == stack.dtype
    # A constant plane stays, and the one that looks like a photograph has the prior of the others.
    np.testing.assert_array_equal(restored[0, 0], stack[0, 0])
    for index in ((0, 1), (1, 0), (1, 1)):
        alone = deblur(stack[index], gaussian_psf(1), iterations=1, prior="microscopy")
        np.testing.assert_array_equal(restored[index], fit_dtype(alone.image, stack.dtype))
    about = json.loads(Path("out/s.tif.json").read_text())
    assert about["settings"]["prior"] == "microscopy"
    assert about["evaluations"] == [None, 1, 1, 1]
    assert about["settings"]["background"][0] is None
    assert about["settings"]["background"][3] == alone.settings["background"]
    assert about["noise_sigma"][3] == pytest.approx(alone.noise_sigma)


def test_noise_that_planes_share_is_estimated_all_the_same(stack):
    result = run("superres", "in/s.tif", "out.tif", "--scale", 2, "--iterations", 1, "--sidecar")
    shared = run(*DEBLUR, "in", "out", "--survey", "stack")
    given = run(*DEBLUR, "in", "known", "--survey", "stack", "--noise", 2)
    for each, kind in ((result, "estimated"), (shared, "estimated"), (given, "given")):
        assert f"({kind})" in each.output, each.output
    options = json.loads(Path("out/s.tif.json").read_text())["options"]
    assert options["survey"] == "stack"


def test_one_stack_to_a_file(stack):
    result = run("superres", "in/s.tif", "out.tif", "--scale", 2, "--iterations", 1)
    assert result.exit_code == 0, result.output
    with tifffile.TiffFile("out.tif") as file:
        assert file.series[0].axes == "TZYX"
        assert file.series[0].shape == (2, 2, 32, 40)
        assert file.pages.first.resolution == (8, 4)


def test_kernels_of_planes_are_a_stack(stack):
    big = np.random.default_rng(0).random((2, 80, 80)).astype("f4")
    tifffile.imwrite("in/s.tif", big)
    options = ("--psf-size", 7, "--method", "sgd", "--iterations", 1, "--save-psf", "k.tif")
    result = run("deblur", "in/s.tif", "out.tif", *options)
    assert result.exit_code == 0, result.output
    kernels = tifffile.imread("k.tif")
    assert kernels.shape == (2, 7, 7)
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, rtol=1e-5)
    # One that is given is one.
    run(*DEBLUR, "in/s.tif", "given.tif", "--save-psf", "g.tif")
    np.testing.assert_allclose(tifffile.imread("g.tif"), gaussian_psf(1), rtol=1e-6)


def test_kernels_of_other_sizes_are_padded():
    stack = _stack_psfs([np.ones((3, 1)), None, np.ones((3, 5)).tolist()])
    np.testing.assert_array_equal(stack[0], np.repeat([[0, 0, 1, 0, 0]], 3, 0))
    assert not stack[1].any()
    assert (stack[2] == 1).all()


def test_a_bad_plane_is_found_before_any_work(stack):
    bad = stack.astype("f4")
    bad[1, 1, 3, 3] = np.nan
    tifffile.imwrite("in/s.tif", bad)
    task, events = Task(Deblur(psf=gaussian_psf(1))), []
    with pytest.raises(DmspError, match=r"plane 1, 1: the image has 1 NaN"):
        task.restore(Files(Path("in/s.tif"), Path("out.tif")), lambda *event: events.append(event))
    assert not events
    assert not Path("out.tif").exists()


def test_a_channel_has_one_prior(stack):
    crowded = np.stack([random_image((16, 20), "u2", seed) for seed in range(2)])
    metadata = {"axes": "ZCYX"}
    pixels = np.stack([stack[1, 0], crowded[0], stack[0, 1], crowded[1]]).reshape(2, 2, 16, 20)
    tifffile.imwrite("in/s.tif", pixels, imagej=True, metadata=metadata)
    assert run(*DEBLUR, "in/s.tif", "out.tif", "--sidecar").exit_code == 0
    settings = json.loads(Path("out.tif.json").read_text())["settings"]
    assert settings["prior"] == ["microscopy", "gray", "microscopy", "gray"]
    assert settings["method"] == "annealed"


def test_planes_are_constant_where_they_are_seen(stack):
    pixels = stack.reshape(4, 16, 20)[:2].copy()
    pixels[0, 5, 5] = 60000
    mask = np.zeros((16, 20), bool)
    mask[5, 5] = True
    np.save("mask.npy", mask)
    tifffile.imwrite("in/s.tif", pixels)
    result = run(*DEBLUR, "in/s.tif", "out.tif", "--mask", "mask.npy")
    assert result.exit_code == 0, result.output
    assert (tifffile.imread("out.tif")[0] == 7).all()
    # A colour is constant where each of its channels is.
    colours = random_image((2, 16, 20, 3))
    colours[1] = 200, 0, 30
    tifffile.imwrite("in/s.tif", colours, photometric="rgb")
    assert run(*DEBLUR, "in/s.tif", "colours.tif").exit_code == 0
    np.testing.assert_array_equal(tifffile.imread("colours.tif")[1], colours[1])


def test_a_stack_is_no_photo(stack):
    result = run(*DEBLUR, "in/s.tif", "out.png")
    assert "cannot hold a stack" in result.output


def test_stacks_of_colours_and_of_mosaics(stack):
    colours = random_image((2, 16, 20, 3))
    tifffile.imwrite("in/s.tif", colours, photometric="rgb")
    assert run(*DEBLUR, "in/s.tif", "out.tif").exit_code == 0
    assert tifffile.imread("out.tif").shape == colours.shape
    tifffile.imwrite("in/s.tif", colours[..., 0])
    assert run("demosaic", "in/s.tif", "colours.tif", "--iterations", 1).exit_code == 0
    assert tifffile.imread("colours.tif").shape == colours.shape


def test_an_interrupt_keeps_what_is_whole(images, monkeypatch):
    write, pictures = tifffile.imwrite, []

    def interrupt(path, *arguments, **options):
        write(path, *arguments, **options)
        pictures.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", interrupt)
    result = run(*DEBLUR, "in/a.png", "in/constant.png", "in/b.tif", "in/broken.tif", "out")
    assert len(pictures) == 1
    assert result.exit_code not in (0, 2)
    assert written("out") == ["a.png", "a.png.json"]
    assert "1 image was not restored:\n  in" in result.stderr


@pytest.fixture
def ctrl_c(monkeypatch):
    """Let the user press Ctrl-C at an evaluation of the prior, counted from 1 over all planes."""

    def press(at):
        evaluations = []
        prepare = tasks.prepare_task

        def watched(*arguments, **options):
            job = prepare(*arguments, **options)

            def steps(generator):
                for state in job._steps(generator):
                    evaluations.append(state)
                    if len(evaluations) == at:
                        signal.raise_signal(signal.SIGINT)
                    yield state

            return replace(job, _steps=steps)

        monkeypatch.setattr(tasks, "prepare_task", watched)

    return press


def test_ctrl_c_keeps_the_estimate(pair, ctrl_c):
    expected = deblur(
        iio.imread("in/a.png"), gaussian_psf(1), callback=lambda state: state.evaluation == 3
    )
    ctrl_c(3)
    result = run("deblur", "in/a.png", "out.tif", "--psf", "gaussian:1", "--dtype", "float32")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].endswith(
        "Stopped after 3 evaluations: out.tif holds the estimate."
    )
    np.testing.assert_array_equal(tifffile.imread("out.tif"), expected.image)


def test_ctrl_c_keeps_the_planes_that_are_done(stack, ctrl_c):
    ctrl_c(2)
    arguments = ("--sidecar", "--dtype", "float32")
    result = run(*DEBLUR, "in/s.tif", "out.tif", *arguments)
    assert result.exit_code == 130
    assert "out.tif holds 3 of 4 planes, the last after 1 evaluations" in result.stderr
    found = tifffile.imread("out.tif")
    assert np.isnan(found[1, 1]).all()
    assert np.isfinite(found.reshape(4, 16, 20)[:3]).all()
    record = json.loads(Path("out.tif.json").read_text())
    assert record["stopped"] is True
    assert record["evaluations"] == [None, 1, 1, None]


def test_ctrl_c_ends_a_batch(pair, ctrl_c):
    ctrl_c(1)
    result = run(*DEBLUR, "in", "out")
    assert result.exit_code == 130
    assert "a.png holds the estimate" in result.stderr
    assert "0 of 2 images were restored before" in result.stderr
    assert written("out") == ["a.png", "a.png.json"]


def test_folders_that_cannot_be_made(pair):
    touch("notes")
    result = run(*DEBLUR, "in", "notes/out")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr


def test_one_file_needs_an_output(pair):
    result = run("deblur", "in/a.png")
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr
