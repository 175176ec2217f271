"""Open the panels from code, choose an image and start a run.

python examples/add_panels.py
"""

from __future__ import annotations

from typing import Any

import napari

PANELS = ("Deblur", "Super-resolution", "Demosaic")


def main(viewer: napari.Viewer, evaluations: int | None = None) -> Any:
    """Return the Deblur panel, which restores in the background."""
    psf, image = viewer.open_sample("napari-dmsp", "nuclei")
    panels = {
        name: viewer.window.add_plugin_dock_widget("napari-dmsp", name, tabify=True)[1]
        for name in PANELS
    }
    deblur = panels["Deblur"]
    deblur.inputs.image.value = image
    deblur.inputs.psf.value = "layer"
    deblur.inputs.psf_layer.value = psf
    if evaluations is not None:
        deblur.advanced.evaluations.value = str(evaluations)
    # Returns at once; `deblur.running` says whether the run goes on.
    deblur.run()
    return deblur


if __name__ == "__main__":
    main(napari.Viewer())
    napari.run()
