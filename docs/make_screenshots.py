"""Make the pictures of the documentation with the real viewer; takes minutes on a CPU.

Without a display: ``xvfb-run -a -s "-screen 0 1920x1080x24" python docs/make_screenshots.py``

Names of pictures as arguments make only those, as in ``make_screenshots.py superres_panel``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import napari
import numpy as np
from qtpy.QtTest import QTest

IMAGES = Path(__file__).parent / "images"


def deblur_panel(viewer: napari.Viewer) -> Any:
    """Remove motion blur from the sample."""
    viewer.open_sample("napari-dmsp", "colour_photograph")
    # The other layers of the sample would take a cell of the grid each.
    del viewer.layers["dog truth"], viewer.layers["dog PSF"]
    panel = open_panel(viewer, "Deblur")
    panel.inputs.psf.value = "motion"
    panel.inputs.angle.value = 30
    return run(panel)


def superres_panel(viewer: napari.Viewer) -> Any:
    """Enlarge a piece of the colour sample."""
    # Means of 3 x 3 pixels: a small picture whose noise cannot be seen.
    truth = sample(viewer, "colour_photograph", "dog truth")[60:420, 60:420]
    small = truth.reshape(120, 3, 120, 3, 3).mean((1, 3))
    viewer.add_image(np.rint(small).astype(np.uint8), name="dog")
    panel = open_panel(viewer, "Super-resolution")
    panel.inputs.scale.value = 3
    return run(panel)


def volume_panel(viewer: napari.Viewer) -> Any:
    """Restore the sample stack with the PSF of its microscope."""
    viewer.open_sample("napari-dmsp", "cells")
    del viewer.layers["cells truth"], viewer.layers["beads"]
    viewer.dims.set_current_step(0, 16)
    panel = open_panel(viewer, "Deblur")
    panel.inputs.psf.value = "microscope"
    for name, value in {"na": 1.2, "wavelength": 0.52, "immersion": 1.33}.items():
        panel.inputs[name].value = str(value)
    return run(panel)


def demosaic_panel(viewer: napari.Viewer) -> Any:
    """Turn one colour a pixel of the colour sample into all three."""
    truth = sample(viewer, "colour_photograph", "dog truth")[100:340, 60:300]
    mosaic = truth[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = truth[::2, ::2, 0], truth[1::2, 1::2, 2]
    viewer.add_image(mosaic, name="raw")
    return run(open_panel(viewer, "Demosaic"))


def train_panel(viewer: napari.Viewer) -> Any:
    """Train on the nuclei, most of a minute."""
    viewer.open_sample("napari-dmsp", "nuclei")
    del viewer.layers["nuclei PSF"]
    panel = open_panel(viewer, "Train a prior")
    panel.inputs.layers.value = [viewer.layers["nuclei"]]
    panel.inputs.prior_name.value = "my_nuclei"
    panel.inputs.start.value = "gray"
    panel.inputs.minutes.value = 1
    panel.train()
    QTest.qWait(55_000)
    return panel


PICTURES: dict[str, Callable[[napari.Viewer], Any]] = {
    make.__name__: make
    for make in (deblur_panel, volume_panel, superres_panel, demosaic_panel, train_panel)
}


def save(name: str) -> None:
    """Make one picture in a viewer of its own."""
    viewer = napari.Viewer()
    viewer.window.resize(1400, 720)
    panel = PICTURES[name](viewer)
    if len(viewer.layers) > 1:
        viewer.canvas.grid.enabled = True
        viewer.canvas.grid.shape = (1, 2)
    viewer.layers.selection.active = viewer.layers[-1]
    QTest.qWait(500)
    viewer.fit_to_view()
    viewer.status = ""
    QTest.qWait(1000)
    viewer.screenshot(IMAGES / f"{name}.png", canvas_only=False, flash=False)
    panel.cancel()
    wait(panel)
    viewer.close()


def sample(viewer: napari.Viewer, key: str, name: str) -> Any:
    """Return the data of a layer of a sample, and leave the viewer empty."""
    viewer.open_sample("napari-dmsp", key)
    data = viewer.layers[name].data
    viewer.layers.clear()
    return data


def open_panel(viewer: napari.Viewer, name: str) -> Any:
    """Open a panel beside the canvas."""
    panel = viewer.window.add_plugin_dock_widget("napari-dmsp", name)[1]
    QTest.qWait(500)
    return panel


def run(panel: Any) -> Any:
    """Press Run and wait for the result."""
    panel.run()
    wait(panel)
    return panel


def wait(panel: Any) -> None:
    """Wait until nothing runs."""
    while panel.running:
        QTest.qWait(100)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    # Neither show nor change what whoever runs this has trained.
    with TemporaryDirectory() as folder:
        os.environ["NAPARI_DMSP_PRIORS"] = folder
        for name in sys.argv[1:] or PICTURES:
            save(name)
