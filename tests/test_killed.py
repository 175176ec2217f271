"""Runs that are killed at any moment of their writing: what is done is whole, the rest is made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from napari_dmsp import batch, load_prior
from napari_dmsp.batch import find_images
from napari_dmsp.cli import app
from napari_dmsp.errors import DmspError

dask = pytest.importorskip("dask")
zarr = pytest.importorskip("zarr")
scale = pytest.importorskip("napari_dmsp.scale")
output = pytest.importorskip("napari_dmsp.cluster.output")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

# Runs a job in children that are forked once all is imported, and kills some of them: each before
# another one of the times that it makes, writes, renames or removes a file in its folder OUT.
HARNESS = """
import json, os, shutil, signal, sys, warnings
warnings.simplefilter("ignore")
import torch, zarr, napari_dmsp.batch, napari_dmsp.scale, napari_dmsp.training.train
from napari_dmsp.cli import app
torch.set_num_threads(1)
folder, count, *arguments = sys.argv[1:]
os.chdir(folder)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(out, stop):
    seen = [0]
    def hook(event, args):
        if event == "open":
            path, mode, flags = args
            ours = isinstance(path, (str, os.PathLike)) and (
                any(c in (mode or "") for c in "wxa+") or (mode is None and flags & WRITES)
            )
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            path, ours = args[0], True
        else:
            return
        if ours and out in os.path.abspath(os.fspath(path)).split(os.sep):
            if seen[0] == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
    sys.addaudithook(hook)
    return seen

def run(out, stop=-1, more=()):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        seen, code = watch(out, stop), 0
        with open(out + ".log", "a") as log:
            os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        try:
            app([each.replace("OUT", out) for each in [*arguments, *more]])
        except SystemExit as end:
            code = end.code or 0
        os.write(write, str(seen[0]).encode())
        os._exit(code)
    os.close(write)
    seen = os.read(read, 99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, int(seen or 0)

os.mkdir("whole"), os.mkdir("again")
status, events = run("whole")
assert not status, open("whole.log").read()
moments = [round(i * (events - 1) / (int(count) - 1)) for i in range(int(count))]
killed = []
for number, moment in enumerate(moments):
    out = f"out{number}"
    os.mkdir(out)
    status, _ = run(out, moment)
    assert status == -signal.SIGKILL, (status, moment, open(out + ".log").read())
    shutil.copytree(out, f"killed{number}", symlinks=True)
    more = []
    if arguments[0] == "train" and os.path.exists(f"{out}/one.state.safetensors"):
        more = ["--resume", f"{out}/one.state.safetensors"]
    status, _ = run(out, more=more)
    killed.append([out, f"killed{number}", status])
print(json.dumps(killed))
"""


def killed_runs(folder: Path, count: int, *arguments: object) -> list[tuple[Path, Path, int]]:
    """Kill a run at so many moments; return what each left, what the same command then made of it.

    The folder ``whole`` has what a run makes that nobody kills.
    """
    command = [sys.executable, "-c", HARNESS, str(folder), str(count), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == count
    return [(folder / after, folder / left, status) for after, left, status in found]


def unchanged(x, sigma):
    return x


def observed(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 25)).astype(np.uint8)


QUICK = ("--psf", "gaussian:0.7", "--iterations", 1, "--device", "cpu")


def check_batch(folder: Path, count: int) -> None:
    (folder / "in").mkdir()
    for name in "abc":
        tifffile.imwrite(folder / "in" / f"{name}.tif", observed(ord(name)))
    for after, left, status in killed_runs(folder, count, "deblur", "in", "OUT/", *QUICK):
        # What a kill left half written is gone after the next run.
        assert not list(after.glob(".*"))
        existed = {path.name for path in left.glob("*.tif") if path.name[0] != "."}
        assert status == (1 if existed else 0)
        for name in "abc":
            image = tifffile.imread(folder / "whole" / f"{name}.tif")
            np.testing.assert_array_equal(tifffile.imread(after / f"{name}.tif"), image)
            record = after / f"{name}.tif.json"
            if record.exists():
                assert json.loads(record.read_text())["noise_sigma"] > 0
            else:
                # Killed between the two; the next run says so.
                assert f"{name}.tif.json does not" in (folder / f"{after.name}.log").read_text()
        # What a kill leaves half done is no image to anyone.
        if existed:
            assert [path.name for path in find_images([str(left)])] == sorted(existed)


def check_stack(folder: Path, count: int) -> None:
    stack = np.stack([observed(i) for i in range(4)])
    tifffile.imwrite(folder / "in.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    runs = killed_runs(folder, count, "deblur", "in.tif", "OUT/a.zarr", *QUICK)
    whole = zarr.open(folder / "whole" / "a.zarr", mode="r")
    for after, left, status in runs:
        assert status == 0, (folder / f"{after.name}.log").read_text()
        found = zarr.open(after / "a.zarr", mode="r")
        np.testing.assert_array_equal(found["0"][:], whole["0"][:])
        records = [dict(each.attrs["napari-dmsp"]) for each in (found, whole)]
        assert records[0]["noise_sigma"] == records[1]["noise_sigma"]
        assert [path.name for path in after.iterdir()] == ["a.zarr"]
        assert not list(after.rglob("*.partial"))
        # Parts that were noted as done are not made anew.
        notes = left / "a.zarr.progress"
        for line in notes.read_text().splitlines()[1:] if notes.exists() else []:
            if '"part"' in line and line.endswith("}"):
                plane = int(json.loads(line)["part"].split(".")[0])
                kept = zarr.open(left / "a.zarr", mode="r")["0"][plane]
                np.testing.assert_array_equal(kept, whole["0"][plane])


def check_training(folder: Path, count: int) -> None:
    (folder / "in").mkdir()
    for name in "abc":
        tifffile.imwrite(folder / "in" / f"{name}.tif", observed(ord(name)))
    options = ("--images", "in", "--channels", 1, "--minutes", 1e-9, "--device", "cpu")
    size = ("--batch", 1, "--patch", 8, "--out", "OUT/one.safetensors")
    for after, left, status in killed_runs(folder, count, "train", *options, *size):
        state = left / "one.state.safetensors"
        if state.exists():
            with safe_open(state, framework="np") as file:
                assert int(file.metadata()["step"]) == 1
        for file in left.glob("[!.]*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values())
        # A state of the whole time needs no more: the weights may be missing then.
        log = (folder / f"{after.name}.log").read_text()
        assert status == 0 or "give more than --minutes" in log, log
        if status == 0:
            assert load_prior(after / "one.safetensors").card["training"]["steps"] >= 1


@pytest.mark.parametrize("check", [check_batch, check_stack, check_training])
def test_killed(tmp_path, check, times):
    check(tmp_path, times * (2 if check is check_training else 3))


def test_what_was_cut_off_between_two_files_is_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", observed(0))
    arguments = ["deblur", str(tmp_path / "a.tif"), f"{tmp_path / 'out'}/", *map(str, QUICK)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (tmp_path / "out" / "a.tif.json").unlink()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "a.tif exists, a.tif.json does not" in again.stderr


def test_a_stack_that_was_not_begun_is_made_anew(tmp_path):
    """Killed before the empty array was whole: neither finished nor foreign."""
    stack = np.stack([observed(i) for i in range(2)])
    lazy = scale.deblur(stack, np.ones((3, 3)), iterations=1, device="cpu", prior=unchanged)
    (tmp_path / "a.zarr" / "0").mkdir(parents=True)
    (tmp_path / "a.zarr.progress").write_text('{"array": null}\n')
    scale.write(lazy, tmp_path / "a.zarr")
    assert zarr.open(tmp_path / "a.zarr", mode="r").shape == stack.shape


def test_a_stack_on_a_full_disk(tmp_path, monkeypatch):
    stack = np.stack([observed(i) for i in range(4)])
    lazy = scale.deblur(stack, np.ones((3, 3)), iterations=1, device="cpu", prior=unchanged)
    path, write, room = tmp_path / "a.zarr", output.ZarrSink.write, [2]

    def write_until_full(self, window, block, error=None):
        room[0] -= 1
        if room[0] < 0:
            with (tmp_path / "a.zarr.progress").open("a") as notes:
                notes.write('{"part": "2.0.0", "ab')
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, window, block, error)

    monkeypatch.setattr(output.ZarrSink, "write", write_until_full)
    with pytest.raises(DmspError, match=r"No space left on device.* \d of 4 parts are kept"):
        scale.write(lazy, path)
    # Once more, with room for one more part, and then with enough: parts are made once.
    room[0] = 1
    with pytest.raises(DmspError, match=r"No space left on device.* \d of 4 parts are kept"):
        scale.write(lazy, path)
    done = [line for line in (tmp_path / "a.zarr.progress").read_text().splitlines() if line]
    kept = {json.loads(line)["part"] for line in done if '"part"' in line and line.endswith("}")}
    room[0] = 4 - len(kept)
    scale.write(lazy, path)
    assert room == [0]
    monkeypatch.undo()
    np.testing.assert_array_equal(zarr.open(path, mode="r")[:], lazy.compute())


def test_a_folder_that_vanishes(tmp_path, monkeypatch):
    stack = np.stack([observed(i) for i in range(2)])
    lazy = scale.deblur(stack, np.ones((3, 3)), iterations=1, device="cpu", prior=unchanged)
    (tmp_path / "out").mkdir()
    create = output._Output.create

    def create_and_lose(self):
        create(self)
        shutil.rmtree(tmp_path / "out")

    monkeypatch.setattr(output._Output, "create", create_and_lose)
    with pytest.raises(DmspError, match=r"out.a\.zarr cannot be"):
        scale.write(lazy, tmp_path / "out" / "a.zarr")


def test_disk_full(tmp_path, monkeypatch):
    """What is written is kept, what is not is told at once, and nothing half done has a name."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", observed(ord(name)))
    arguments = ["deblur", str(tmp_path / "in"), f"{tmp_path / 'out'}/", *map(str, QUICK)]
    replace, full = os.replace, [False]

    def replace_until_full(source, target):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)
        full[0] = target.name == "a.tif.json"

    monkeypatch.setattr(os, "replace", replace_until_full)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "b.tif cannot be written: [Errno 28] No space left" in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "a.tif.json"]
    monkeypatch.undo()
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_disk_without_room_is_told_before_the_work(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", observed(0))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=24 * 25 * 8 - 1))
    arguments = ["deblur", str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), *map(str, QUICK)]
    done = CliRunner().invoke(app, [*arguments, "--uncertainty", "--dtype", "float32"])
    assert done.exit_code == 2
    assert "it takes 0.0048 MB, and 0.0048 MB are free; make room" in done.stderr
    assert "evaluation" not in done.stderr
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_folder_that_vanishes_takes_no_result_with_it(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", observed(ord(name)))
    restore = batch.restore_array

    def restore_and_lose(*arguments, **options):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return restore(*arguments, **options)

    monkeypatch.setattr(batch, "restore_array", restore_and_lose)
    arguments = ["deblur", str(tmp_path / "in"), f"{tmp_path / 'out'}/", *map(str, QUICK)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.tif", "b.tif.json"]


def test_a_stack_that_vanishes_is_told_at_once_and_made_anew(tmp_path, monkeypatch):
    stack = np.stack([observed(i) for i in range(4)])
    options = {"iterations": 1, "device": "cpu", "prior": unchanged}
    lazy, done = scale.deblur(stack, np.ones((3, 3)), **options), []

    def lose(count, total):
        done.append(count)
        if count == 2:
            shutil.rmtree(tmp_path / "a.zarr")
            (tmp_path / "a.zarr.progress").unlink()

    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(DmspError, match="removed while it was written"):
            scale.write(lazy, tmp_path / "a.zarr", progress=lose)
        assert max(done) == 2
        assert not list(tmp_path.iterdir())
        scale.write(lazy, tmp_path / "a.zarr")
    np.testing.assert_array_equal(zarr.open(tmp_path / "a.zarr", mode="r")[:], lazy.compute())
