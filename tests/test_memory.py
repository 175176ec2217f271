"""Memory that runs out on any line of a run: a sentence, nothing half done, and the next run works.

Lines are drawn from all those that a run takes; with --times 100, all of them are.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from napari_dmsp import deblur, demosaic, superres
from napari_dmsp.cli import app
from napari_dmsp.core import device
from napari_dmsp.core.networks import UNet
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.errors import DmspError, OutOfMemoryError
from napari_dmsp.settings import Photons
from napari_dmsp.training.train import Recipe, state_path, train

zarr = pytest.importorskip("zarr")
dask = pytest.importorskip("dask")
COUNT = 10


def unchanged(x, sigma):
    """Denoise nothing, as a prior that needs no weights."""
    return x


def observed(*shape):
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def small_prior(tmp_path_factory):
    """A file of weights that take no time."""
    net = UNet(1, (4, 4), 1)
    path = tmp_path_factory.mktemp("prior") / "small.safetensors"
    config = json.dumps({"architecture": "unet", **net.config})
    save_file(net.state_dict(), path, metadata={"napari-dmsp": config})
    return path


QUICK = {"prior": unchanged, "iterations": 2, "device": "cpu"}
PSF = gaussian_psf(0.7)
STEP = np.pad(np.full((30, 34), 200.0), 17) + np.random.default_rng(0).normal(0, 2, (64, 68))
VOLUME = np.random.default_rng(0).poisson(50, (4, 20, 20)).astype(np.float32)
RUNS = {
    "deblur": (deblur, observed(24, 25), {"psf": PSF}),
    "in colour": (deblur, observed(24, 25, 3), {"psf": PSF, "channel_axis": -1}),
    "photons": (deblur, observed(24, 25), {"psf": PSF, "noise": Photons(0.5)}),
    "descent": (deblur, observed(24, 25), {"psf": PSF, "method": "sgd"}),
    "unknown psf": (deblur, STEP, {"psf_size": 5}),
    "uncertainty": (deblur, observed(24, 25), {"psf": PSF, "uncertainty": True}),
    "planes": (deblur, observed(2, 24, 25), {"psf": PSF}),
    "volume": (deblur, VOLUME, {"psf": PSF[None].repeat(3, 0)}),
    "superres": (superres, observed(24, 25), {"scale": 1.5}),
    "superres with a psf": (superres, observed(24, 25), {"scale": 2, "psf": PSF}),
    "demosaic": (demosaic, observed(24, 25), {}),
    "tiles": (deblur, observed(12, 270), {"psf": PSF, "tile": 192}),
}


@pytest.mark.parametrize("name", RUNS)
def test_python(memory_out, small_prior, name):
    task, image, options = RUNS[name]
    options = QUICK | options | ({"prior": small_prior} if name == "tiles" else {})
    right = task(image, **options)
    for place, out in memory_out(lambda: task(image, **options), COUNT if image is not STEP else 2):
        # Or it does with smaller tiles, or without something that was tried.
        with suppress(OutOfMemoryError), out:
            assert np.isfinite(task(image, **options).image).all(), place
    assert_array_equal(task(image, **options).image, right.image)
    assert not device._process.users
    assert not device.freed_memory._users


def run_shell(*arguments):
    # In this thread, which is where memory runs out.
    with dask.config.set(scheduler="synchronous"):
        return CliRunner().invoke(app, list(map(str, arguments)))


def check_folder(found, whole):
    """What has a name is as whole as without a lack of memory, and nothing else is there."""
    for path in found.iterdir():
        assert (whole / path.name).exists(), path
        if path.suffix == ".tif":
            assert_array_equal(tifffile.imread(path), tifffile.imread(whole / path.name))
        elif path.suffix == ".json":
            json.loads(path.read_text())


SHELL = {
    "deblur": ("in/a.tif", "out.tif", "--sidecar", "--save-psf", "psf.tif", "--uncertainty"),
    "batch": ("in", "out/"),
}


@pytest.mark.parametrize("name", SHELL)
def test_shell(tmp_path, monkeypatch, memory_out, small_prior, name):
    for path in ("in/a.tif", "in/b.tif"):
        (tmp_path / "in").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / path, observed(24, 25))
    source, *others = SHELL[name]
    quick = ("--psf", "gaussian:0.7", "--iterations", 1, "--device", "cpu", "--prior", small_prior)
    command = ("deblur", f"../{source}", *others, *quick)
    folders = [tmp_path / "whole", tmp_path / "found"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    assert run_shell(*command).exit_code == 0
    monkeypatch.chdir(folders[1])
    for place, out in memory_out(lambda: run_shell(*command), COUNT):
        shutil.rmtree(folders[1])
        folders[1].mkdir()
        monkeypatch.chdir(folders[1])
        with out:
            done = run_shell(*command)
        assert isinstance(done.exception, SystemExit | None), (place, done.exception)
        if done.exit_code:
            assert "out of memory" in done.stderr, (place, done.stderr)
        for folder in [folders[1], *folders[1].glob("*/")]:
            check_folder(folder, folders[0] / folder.relative_to(folders[1]))
    assert run_shell(*command, "--overwrite").exit_code == 0
    assert {p.name for p in folders[1].rglob("*")} == {p.name for p in folders[0].rglob("*")}


def test_stacks_go_on(tmp_path, monkeypatch, memory_out, small_prior):
    """The same command finishes what was begun: no lack of memory is remembered."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("stack.tif", observed(2, 40, 130), metadata={"axes": "ZYX"})
    quick = ("--psf", "gaussian:0.7", "--iterations", 1, "--device", "cpu", "--prior", small_prior)
    command = ("deblur", "stack.tif", "out.zarr", "--chunks", 64, *quick)
    assert run_shell(*command).exit_code == 0
    right = zarr.open("out.zarr", mode="r")["0"][:]
    for place, out in memory_out(lambda: run_shell(*command, "--overwrite"), COUNT // 2):
        shutil.rmtree("out.zarr", ignore_errors=True)
        with out:
            done = run_shell(*command)
        assert isinstance(done.exception, SystemExit | None), (place, done.exception)
        if done.exit_code:
            assert "out of memory" in done.stderr, (place, done.stderr)
            # Unless it was finished, and only the report of it was not.
            finished = Path("out.zarr").exists() and not Path("out.zarr.progress").exists()
            done = run_shell(*command)
            assert finished or done.exit_code == 0, (place, done.stderr)
        assert_array_equal(zarr.open("out.zarr", mode="r")["0"][:], right)


def test_training(tmp_path, memory_out):
    recipe = Recipe(channels=1, widths=(4, 4), blocks=1, batch=1, patch=8)
    images, out = [observed(24, 25) for _ in range(3)], tmp_path / "one.safetensors"
    about = {"recipe": recipe, "device": "cpu", "progress": lambda values: True}
    train(images, out, minutes=1, **about)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def run():
        return train(images, out, minutes=1, resume=state_path(out), **about)

    for place, without in memory_out(run, COUNT):
        for name, content in before.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DmspError, match="out of memory"), without:
            run()
        assert {path.name for path in tmp_path.iterdir()} == before.keys(), place
        for path in (out, state_path(out)):
            assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert run()["training"]["steps"] == 2
