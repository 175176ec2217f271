"""Make the pictures of the documentation with the real viewer; takes minutes on a CPU.

Without a display: ``xvfb-run -a -s "-screen 0 1600x900x24" python docs/make_screenshots.py``
"""

from __future__ import annotations

from pathlib import Path

import napari
from qtpy.QtTest import QTest

IMAGES = Path(__file__).parent / "images"


def deblur_panel() -> None:
    """Save the Deblur panel beside the blurred and the restored sample."""
    viewer = napari.Viewer()
    viewer.window.resize(1400, 720)
    viewer.open_sample("napari-dmsp", "colour_photograph")
    # The other layers of the sample would take a cell of the grid each.
    del viewer.layers["dog truth"], viewer.layers["dog PSF"]
    grid = viewer.canvas.grid
    grid.enabled, grid.shape, grid.stride = True, (1, 2), 1
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    panel.inputs.psf.value = "motion"
    panel.inputs.angle.value = 30
    QTest.qWait(500)
    panel.run()
    while panel.running:
        QTest.qWait(100)
    viewer.layers.selection.clear()
    viewer.reset_view()
    QTest.qWait(1000)
    IMAGES.mkdir(exist_ok=True)
    viewer.screenshot(IMAGES / "deblur_panel.png", canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    deblur_panel()
