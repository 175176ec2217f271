"""One picture in the panel: the same pixels as from the other faces, see `test_faces.py`."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tests.test_faces import by_loop, cases  # noqa: F401


@pytest.mark.parametrize(
    "name", ["2-D", "T-C-Y-X", "RGB", "T-RGB", "an empty plane", "a mask", "PSF unknown"]
)
def test_the_panel_gives_the_same_pixels(qtbot, make_napari_viewer, cases, name):  # noqa: F811
    case, viewer = cases[name], make_napari_viewer()
    rgb = case.colours is not None
    labels = tuple(case.axes.removesuffix("s"))
    layer = viewer.add_image(case.pixels, rgb=rgb, axis_labels=labels)
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    panel.inputs.image.value = layer
    panel.inputs.psf.value, panel.inputs.sigma.value = "Gaussian" if case.psf else "unknown", 1
    known = {"evaluations": case.options["iterations"]} | case.options
    for widget in panel.advanced:
        if widget.name in known:
            widget.value = known[widget.name]
    panel.inputs.planes.value = panel.inputs.planes.choices[-1]
    if case.mask is not None:
        panel.advanced.mask.value = viewer.add_labels(case.mask.astype(np.uint8))
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    assert_array_equal(viewer.layers[f"{layer.name} deblurred"].data, by_loop(case, None))
