"""The Super-resolution panel, and the PSF that is looked for, in the real viewer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


def run(qtbot, viewer, title, **inputs):
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", title)
    panel.advanced.evaluations.value = "2"
    panel.advanced.device.value = "cpu"
    for name, value in inputs.items():
        panel.inputs[name].value = value
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    return panel


@pytest.mark.parametrize("rotate", [0, 30])
def test_the_result_covers_the_image(qtbot, viewer, fake_prior, grey_image, rotate):
    stack = np.stack([grey_image, grey_image[::-1]])
    layer = viewer.add_image(
        stack, name="cells", scale=(5, 2, 3), translate=(1, 10, 20), rotate=(0, 0, rotate)
    )
    viewer.dims.set_current_step(0, 1)
    run(qtbot, viewer, "Super-resolution", scale=2.5)
    result = viewer.layers["cells enlarged"]
    height, width = grey_image.shape
    assert result.data.shape == (1, round(2.5 * height), round(2.5 * width))
    # The outer corners of both are the same points of the scene.
    for corner in ((0, 0), (1, 1)):
        old = [1, *(c * n - 0.5 for c, n in zip(corner, (height, width), strict=True))]
        new = [0, *(c * n - 0.5 for c, n in zip(corner, result.data.shape[1:], strict=True))]
        assert_allclose(result.data_to_world(new), layer.data_to_world(old), atol=1e-6)
    assert result.metadata["napari-dmsp"]["settings"]["scale"] == 2.5


def test_colours_stay_colours(qtbot, viewer, fake_prior, rgb_image):
    viewer.add_image(rgb_image, name="photo")
    run(qtbot, viewer, "Super-resolution", scale=2)
    result = viewer.layers["photo enlarged"]
    assert result.rgb
    assert result.data.shape == (2 * rgb_image.shape[0], 2 * rgb_image.shape[1], 3)
    assert result.data.dtype == np.uint8


def test_an_unknown_psf_is_looked_for(qtbot, viewer, fake_prior):
    truth = np.zeros((64, 64))
    truth[20:44, 16:40] = 200
    viewer.add_image(truth + np.random.default_rng(0).normal(0, 2, truth.shape), name="step")
    panel = run(qtbot, viewer, "Deblur", psf="unknown")
    assert "step deblurred" in viewer.layers
    assert not panel.inputs.sigma.visible
