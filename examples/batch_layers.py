"""Restore every plane of all image layers of a session; no window is needed.

python examples/batch_layers.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from numpy.typing import NDArray

from napari_dmsp import deblur
from napari_dmsp.demo import make_case

# What says where a layer is, and how it looks.
PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
LOOK = ("colormap", "contrast_limits", "gamma")


def restore(layer: Image, psf: NDArray[Any], evaluations: int | None = None) -> Image:
    """Return a layer at the same place, with every plane restored on its own."""
    axis = -1 if layer.rgb else None
    planes = layer.data.reshape(-1, *layer.data.shape[-3 if layer.rgb else -2 :])
    results = [deblur(plane, psf, channel_axis=axis, iterations=evaluations) for plane in planes]
    data = np.reshape([result.image for result in results], layer.data.shape)
    if layer.rgb and layer.data.dtype == np.uint8:
        # As floats, the viewer would take colours for 0 to 1.
        data = np.clip(np.rint(data), 0, 255).astype(np.uint8)
    kept = {name: getattr(layer, name) for name in (PLACE if layer.rgb else PLACE + LOOK)}
    return Image(data, name=f"{layer.name} deblurred", rgb=layer.rgb, **kept)


def main(evaluations: int | None = None) -> ViewerModel:
    """Make a session with a photograph and a grey stack of its halves, and restore both."""
    case = make_case()
    viewer = ViewerModel()
    photograph = viewer.add_image(case.observed, name="photograph", rotate=30)
    halves = np.stack(np.split(case.observed.mean(-1), 2))
    stack = viewer.add_image(
        halves, name="halves", scale=(2, 0.5, 0.5), translate=(0, 10, 20), units=("um",) * 3
    )
    for layer in (photograph, stack):
        viewer.add_layer(restore(layer, case.psf, evaluations))
    return viewer


if __name__ == "__main__":
    print(*main().layers, sep="\n")
