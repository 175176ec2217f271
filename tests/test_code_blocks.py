"""Every block of code in README.md and docs/ runs, or says in a comment why it cannot.

Such a comment, which no reader sees, stands before the block: ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import typer
import zarr
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from napari_dmsp.cli import app
from napari_dmsp.core import load_prior

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their Python is run with what it must come to, in test_docs.py.
ELSEWHERE = {"index.md", "new_degradation.md"}
BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(python|bash)\n(.*?)^```", re.M | re.S)
SIZES = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.25}
RESTORING = ("deblur", "superres", "demosaic")


@dataclass(frozen=True)
class Block:
    """A block of code, and why it is not run."""

    page: str
    language: str
    code: str
    reason: str


def blocks(language):
    found = []
    for page in PAGES:
        for comments, kind, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            reason = re.search(r"not run: (.+) -->", comments)
            if kind == language:
                found.append(Block(page.name, kind, code, reason[1] if reason else ""))
    return found


def lines(page, run):
    """The lines of the shell on a page that are run, or all."""
    shown = [b for b in blocks("bash") if b.page == page and not (run and b.reason)]
    return [line for block in shown for line in block.code.splitlines()]


def test_reasons_are_few():
    """Nobody leaves blocks out for convenience."""
    python, bash = blocks("python"), blocks("bash")
    assert len(python) >= 19
    assert [block for block in python if block.reason] == []
    assert len(bash) >= 15
    assert sum(bool(block.reason) for block in bash) <= 7


# Python.


def picture(shape, seed=0):
    """Blurred points of light, counted, 16 bits."""
    random = np.random.default_rng(seed)
    blur = [0.7] * (len(shape) - 2) + [1.2, 1.2]
    light = gaussian_filter(random.random(shape) ** 20, blur)
    return random.poisson(500 * light / light.max() + 20).astype(np.uint16)


def sharp(shape=(64, 64)):
    """Squares of 8 pixels, 8 bits."""
    squares = np.random.default_rng(0).integers(20, 235, (8, 8, *shape[2:]))
    return squares.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


def names_of(page):
    """What the text of a page gives to its code by name."""
    colour = page == "README.md"
    return {
        "image": sharp((64, 64, 3)) if colour else picture((48, 48)),
        "psf": np.ones((3, 3)),
        "raw": picture((48, 48)) + np.uint16(64),
        "stack": picture((6, 32, 32)),
    }


def pages(language):
    return sorted({block.page for block in blocks(language)})


@pytest.mark.parametrize("page", set(pages("python")) - ELSEWHERE - {"napari.md"})
def test_python_runs_in_its_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = names_of(page)
    for block in blocks("python"):
        if block.page == page:
            exec(block.code, names)
    assert names.keys() > names_of(page).keys()


def test_the_code_for_a_viewer_runs(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(tmp_path))
    viewer = make_napari_viewer()
    viewer.add_image(picture((48, 48)), name="points")
    (code,) = (block.code for block in blocks("python") if block.page == "napari.md")
    names = {"viewer": viewer}
    exec(code, names)
    qtbot.waitUntil(lambda: not names["panel"].running, timeout=120_000)
    assert "points deblurred" in viewer.layers


# The shell.


def files_of(page, folder):
    """Write what the lines of a page read."""
    for name in ("in/deep", "more", "plate", "clean_images"):
        (folder / name).mkdir(parents=True)
    plane, stack = sharp(), picture((6, 32, 32))
    for name in ("in.tif", "in/b.tif", "in/deep/c.tif", "more/d.tif", "plate/A01.tif"):
        tifffile.imwrite(folder / name, plane)
    iio.imwrite(folder / "a.png", plane)
    iio.imwrite(folder / "photograph.jpg", np.stack([plane] * 3, -1))
    if page == "scale.md":
        tifffile.imwrite(folder / "in.tif", picture((2, 20, 32, 32)), metadata={"axes": "TZYX"})
    for name in ("in.zarr", "movie.zarr"):
        zarr.create_array(folder / name, data=stack)
    tifffile.imwrite(folder / "stack.tif", stack)
    bead = np.zeros((17, 49, 49))
    bead[8, 24, 24] = 1
    bead = gaussian_filter(bead, (1.5, 1.5, 1.5))
    tifffile.imwrite(folder / "psf.tif", bead[4:-4, 19:-19, 19:-19].astype(np.float32))
    beads = (5000 * bead / bead.max() + 100).astype(np.uint16)
    options = {"ome": True, "metadata": {"axes": "ZYX"} | SIZES}
    for name, data in (("cells", stack), ("stack", stack), ("beads", beads)):
        tifffile.imwrite(folder / f"{name}.ome.tif", data, **options)
    tifffile.imwrite(folder / "beads.tif", beads, **options)
    weights = ROOT / "src" / "napari_dmsp" / "weights"
    for name, bundled in (("mine", "gray"), ("gray", "gray"), ("trained", "microscopy")):
        (folder / f"{name}.safetensors").write_bytes(
            (weights / f"{bundled}.safetensors").read_bytes()
        )
    for name in ("iterates", "gpu"):
        (folder / f"{name}.safetensors").write_bytes((weights / "rgb.safetensors").read_bytes())


def commands(line):
    """The arguments of every call of this program in a line."""
    calls = [shlex.split(part, comments=True) for part in line.split("&&")]
    return [call[1:] for call in calls if call and Path(call[0]).name == "napari-dmsp"]


@pytest.mark.parametrize("page", pages("bash"))
def test_options_in_the_shell_are_known(page):
    for line in lines(page, run=False):
        for task, *arguments in commands(line):
            command = typer.main.get_command(app).commands[task]
            assert command.make_context(task, arguments).params


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in pages("bash") for line in lines(page, run=True)]
)
def test_lines_for_the_shell_run(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files_of(page, tmp_path)
    before = set(tmp_path.rglob("*"))
    if line.startswith("python -m "):
        # In a process of its own: here, others may have imported the module.
        subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)
    else:
        ((task, *arguments),) = commands(line)
        assert task in RESTORING
        quick = ["--iterations", "1"]
        if task == "deblur" and "--psf" not in arguments:
            quick += ["--psf-size", "5"]
        done = CliRunner().invoke(app, [task, *arguments, *quick])
        assert done.exit_code == 0, done.output
    assert set(tmp_path.rglob("*")) > before


def test_the_priors_that_are_written_for_the_shell_are_priors(tmp_path):
    files_of("priors.md", tmp_path)
    assert load_prior(str(tmp_path / "mine.safetensors")) is not None
