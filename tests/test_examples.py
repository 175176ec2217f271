"""The examples run, and do what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

ViewerModel = pytest.importorskip("napari.components").ViewerModel

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_example_is_tested():
    tested = {"restore_and_show.py", "add_panels.py", "batch_layers.py"}
    assert {file.name for file in EXAMPLES.glob("*.py")} == tested


def test_restore_and_show(capsys):
    viewer = ViewerModel()
    result = load("restore_and_show.py")(viewer, evaluations=1)
    assert result.evaluations == 1
    assert capsys.readouterr().out.startswith("noise ")
    blurred, restored = viewer.layers
    assert restored.rgb
    assert restored.data.shape == blurred.data.shape


def test_add_panels(make_napari_viewer, qtbot, monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(tmp_path))
    viewer = make_napari_viewer()
    panel = load("add_panels.py")(viewer, evaluations=1)
    assert panel.running
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    about = viewer.layers["nuclei deblurred"].metadata["napari-dmsp"]
    assert about["evaluations"] == 1
    assert "nuclei PSF" in about["script"]


def test_batch_layers():
    viewer = load("batch_layers.py")(evaluations=1)
    for name in ("photograph", "halves"):
        before, after = viewer.layers[name], viewer.layers[f"{name} deblurred"]
        assert after.data.shape == before.data.shape
        assert after.data.dtype == (np.uint8 if after.rgb else np.float32)
        assert_allclose(after.extent.world, before.extent.world)
        assert after.units == before.units
