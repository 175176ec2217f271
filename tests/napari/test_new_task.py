"""A degradation that is described once works in every face, as docs/new_degradation.md says."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import tifffile
import typer
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import napari_dmsp
from napari_dmsp import cli, scale, settings
from napari_dmsp.core import Problem, prepare, read_input, tasks
from napari_dmsp.core.device import own_state
from napari_dmsp.core.operators import Operator

pytestmark = pytest.mark.usefixtures("unbin_rows")

SCENE = gaussian_filter(np.random.default_rng(0).random((48, 40)), 2) * 2000
STACK = np.float32([(SCENE[::2] + SCENE[1::2]) / 2, (SCENE[1::2] + SCENE[::2])])


class RowBinning(Operator):
    """The mean of pairs of rows."""

    def forward(self, x):
        return (x[..., ::2, :] + x[..., 1::2, :]) / 2

    def adjoint(self, y):
        return y.repeat_interleave(2, dim=-2) / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class UnbinRows(settings.Settings):
    """Restore the rows of an image that was read out in pairs."""

    task = "unbin_rows"
    title = "Unbin rows"
    suffix = "unbinned"
    unused = ("method",)

    @property
    def magnification(self):
        """Rows and columns of the result for one of the image."""
        return 2.0, 1.0


@own_state()
def prepare_unbin_rows(image, *, reference=None, **options):
    given = read_input(image, UnbinRows.of(**options), reference)
    return prepare({"task": "unbin_rows"}, given, Problem.of(given, RowBinning()))


@pytest.fixture
def unbin_rows(monkeypatch):
    monkeypatch.setitem(settings.TASKS, "unbin_rows", UnbinRows)
    monkeypatch.setattr(tasks, "prepare_unbin_rows", prepare_unbin_rows, raising=False)


def test_python_and_lazy_arrays():
    restored = napari_dmsp.unbin_rows(STACK[0], iterations=2)
    assert restored.image.shape == SCENE.shape
    # The pairs of rows are those that were seen.
    again = restored.image.reshape(24, 2, 40).mean(1)
    assert np.abs(again - STACK[0]).max() < 0.02 * np.ptp(STACK[0])
    lazy = scale.unbin_rows(STACK, iterations=2)
    assert lazy.shape == (2, 48, 40)
    assert_array_equal(lazy[0].compute(), restored.image)


def test_parts_of_large_images():
    large = np.float32(gaussian_filter(np.random.default_rng(0).random((400, 300)), 2) * 2000)
    parts = scale.unbin_rows(large, iterations=2, chunks=256, noise=1)
    assert parts.numblocks == (3, 1)
    whole = napari_dmsp.unbin_rows(large, iterations=2, noise=1).image
    assert np.abs(parts.compute() - whole).max() < 0.02 * np.ptp(large)


def test_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"imagej": True, "resolution": (4, 4), "metadata": {"axes": "TYX", "unit": "um"}}
    tifffile.imwrite("in.tif", STACK, **options)
    app = typer.Typer()
    app.command()(cli._command(UnbinRows))
    for out in ("out.tif", "out.zarr"):
        run = CliRunner().invoke(app, ["in.tif", out, "--iterations", "2", "--sidecar"])
        assert run.exit_code == 0, run.output
        assert (
            json.loads((tmp_path / f"{out}.json").read_text())["settings"]["task"] == "unbin_rows"
        )
    with tifffile.TiffFile("out.tif") as file:
        # Twice as many rows per micrometer.
        assert file.pages[0].resolution == (4, 8)
        restored = file.asarray()
    stack = scale.open_stack("out.zarr")
    assert [axis.spacing for axis in stack.axes][1:] == [0.125, 0.25]
    assert_array_equal(stack.array.compute(), restored)


def test_panel(make_napari_viewer, qtbot):
    from napari_dmsp._viewer import panel as panels

    viewer = make_napari_viewer()
    viewer.add_image(STACK[0], name="frame", scale=(2, 1))
    panel = panels.UnbinRowsPanel(viewer)
    panel.inputs.noise.value = "1"
    panel.advanced.evaluations.value = "2"
    with qtbot.waitSignal(panel.finished, timeout=20_000) as finished:
        panel.run()
    layer = finished.args[0]
    assert layer.name == "frame unbinned"
    assert_array_equal(layer.scale, (1, 1))
    assert_array_equal(layer.data, napari_dmsp.unbin_rows(STACK[0], noise=1, iterations=2).image)
    scope = {"viewer": viewer}
    exec(panel.script, scope)
    assert_array_equal(scope["restored"], layer.data)
