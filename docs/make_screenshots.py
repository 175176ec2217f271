"""Make the pictures of the documentation with the real viewer; takes minutes on a CPU.

Without a display: ``xvfb-run -a -s "-screen 0 1920x1080x24" python docs/make_screenshots.py``

Names of pictures, or of tutorials with several, as arguments make only those, as in
``make_screenshots.py superres_panel stack``.
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
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest

IMAGES = Path(__file__).parent / "images"
# White between parts of a picture, in pixels.
GAP = 8


def deblur_panel(viewer: napari.Viewer) -> Any:
    """Remove motion blur from the sample."""
    open_photograph(viewer, "colour_photograph")
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


def stack(viewer: napari.Viewer) -> None:
    """Deconvolve the sample stack with its beads, from opening it to the error map."""
    viewer.open_sample("napari-dmsp", "cells")
    del viewer.layers["cells truth"]
    cells = viewer.layers["cells"]
    cells.blending = "translucent"
    viewer.dims.set_current_step(0, 16)
    panel = open_panel(viewer, "Deblur")
    panel.inputs.psf.value = "beads"
    save_row("stack_open", [shot(viewer)])

    panel.show_psf()
    while "cells PSF" not in viewer.layers:
        QTest.qWait(100)
    psf = viewer.layers["cells PSF"]
    cells.visible, psf.visible, psf.gamma = False, True, 0.5
    viewer.window.resize(1150, 560)
    viewer.dims.roll()
    viewer.dims.set_current_step(2, psf.data.shape[2] // 2)
    look_at(viewer, (3, 2.3), 70)
    save_row("stack_psf", [shot(viewer, canvas_of(viewer), panel.native)])

    cells.visible, psf.visible = True, False
    viewer.dims.order = (0, 1, 2)
    viewer.dims.set_current_step(0, 16)
    look_at(viewer, (10.2, 9.4), 80)
    panel.preview()
    wait(panel)
    save_row("stack_preview", [shot(viewer, canvas_of(viewer), panel.native)])

    del viewer.layers["cells preview"]
    viewer.fit_to_view()
    panel.inputs.error_map.value = True
    run(panel)
    compared = [shot(viewer, canvas_of(viewer))]
    panel.compare()
    compared.insert(0, shot(viewer, canvas_of(viewer)))
    panel.compare()
    save_row("stack_compare", compared)
    viewer.layers["cells deblurred error"].visible = True
    save_row("stack_error", [compared[1], shot(viewer, canvas_of(viewer))])


def photograph(viewer: napari.Viewer) -> None:
    """Find the shake of a photograph in a part of it."""
    open_photograph(viewer, "grey_photograph")
    panel = open_panel(viewer, "Deblur")
    panel.inputs.psf.value = "unknown"
    viewer.window.resize(1150, 640)
    look_at(viewer, (220, 260), 1.6)
    panel.preview()
    wait(panel)
    save_row("photograph_found", [shot(viewer, canvas_of(viewer), panel.native)])
    compared = [shot(viewer, canvas_of(viewer))]
    panel.compare()
    save_row("photograph_compare", [shot(viewer, canvas_of(viewer)), *compared])


def drawn_line(viewer: napari.Viewer) -> None:
    """Draw the shake of a photograph along the trace of a light."""
    open_photograph(viewer, "grey_photograph")
    line = viewer.add_shapes(
        [[[358, 350], [366, 357]]], shape_type="line", edge_color="red", edge_width=1, name="trace"
    )
    panel = open_panel(viewer, "Deblur")
    panel.inputs.psf.value = "drawn line"
    panel.inputs.line.value = line
    viewer.window.resize(1150, 640)
    look_at(viewer, (335, 310), 2.6)
    panel.preview()
    wait(panel)
    panel.compare()
    drawn = shot(viewer, canvas_of(viewer))
    panel.compare()
    line.visible = False
    save_row("photograph_line", [drawn, shot(viewer, canvas_of(viewer))])


# Each makes pictures of a page.
TUTORIALS: dict[str, Callable[[napari.Viewer], None]] = {
    make.__name__: make for make in (stack, photograph, drawn_line)
}
PICTURES: dict[str, Callable[[napari.Viewer], Any]] = {
    make.__name__: make
    for make in (deblur_panel, volume_panel, superres_panel, demosaic_panel, train_panel)
}


def save(name: str) -> None:
    """Make one picture, or those of a tutorial, in a viewer of its own."""
    viewer = napari.Viewer()
    viewer.window.resize(1400, 720)
    if name in TUTORIALS:
        TUTORIALS[name](viewer)
        viewer.close()
        return
    panel = PICTURES[name](viewer)
    if len(viewer.layers) > 1:
        viewer.canvas.grid.enabled = True
        viewer.canvas.grid.shape = (1, 2)
    viewer.layers.selection.active = viewer.layers[-1]
    QTest.qWait(500)
    viewer.fit_to_view()
    viewer.status = ""
    QTest.qWait(1000)
    whole = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    Image.fromarray(whole).save(IMAGES / f"{name}.png", optimize=True)
    panel.cancel()
    wait(panel)
    viewer.close()


def shot(viewer: napari.Viewer, *widgets: Any) -> NDArray[np.uint8]:
    """Take a picture of the window, cut to some widgets that lie beside each other."""
    viewer.status = ""
    QTest.qWait(1000)
    whole = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    window = viewer.window._qt_window
    corners = [(each.mapTo(window, QPoint(0, 0)), each) for each in widgets or [window]]
    left, top = (min(getattr(p, axis)() for p, _ in corners) for axis in "xy")
    # The last digit of a slider lies at the very edge of the canvas.
    right = max(p.x() + each.width() for p, each in corners) + 4
    bottom = max(p.y() + each.height() for p, each in corners)
    return whole[top:bottom, left:right]


def save_row(name: str, parts: list[NDArray[np.uint8]]) -> None:
    """Write pictures of one height beside each other."""
    gap = np.full((len(parts[0]), GAP, 3), 255, np.uint8)
    row = np.concatenate([each for part in parts for each in (part, gap)][:-1], axis=1)
    Image.fromarray(row).save(IMAGES / f"{name}.png", optimize=True)


def canvas_of(viewer: napari.Viewer) -> Any:
    """Return the widget of the canvas and the sliders."""
    return viewer.window._qt_viewer


def look_at(viewer: napari.Viewer, centre: tuple[float, float], zoom: float) -> None:
    """Move what is on screen."""
    # Since napari 0.9 the camera belongs to the scene.
    camera = getattr(viewer, "scene", viewer).camera
    camera.center, camera.zoom = centre, zoom
    # Until it is drawn, the visible area is what it was.
    QTest.qWait(500)


def open_photograph(viewer: napari.Viewer, key: str) -> None:
    """Open a sample without its truth and its kernel, which would take a cell of the grid each."""
    viewer.open_sample("napari-dmsp", key)
    for layer in list(viewer.layers):
        if layer.name.endswith(("truth", "PSF")):
            viewer.layers.remove(layer)


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
        for name in sys.argv[1:] or (*PICTURES, *TUTORIALS):
            save(name)
