"""Restore a blurred photograph and show it above the blurred one.

python examples/restore_and_show.py
"""

from __future__ import annotations

import napari
import numpy as np
from napari.components import ViewerModel

from napari_dmsp import Restoration, deblur
from napari_dmsp.demo import make_case


def main(viewer: ViewerModel, evaluations: int | None = None) -> Restoration:
    """Add a photograph and its restoration to a viewer, with a window or without."""
    case = make_case()
    result = deblur(case.observed, case.psf, channel_axis=-1, iterations=evaluations)
    viewer.add_image(case.observed, name="blurred")
    # As floats, the viewer would take colours for 0 to 1.
    viewer.add_image(np.clip(np.rint(result.image), 0, 255).astype(np.uint8), name="restored")
    print(f"noise {result.noise_sigma:.2f}, {result.seconds:.0f} s")
    return result


if __name__ == "__main__":
    main(napari.Viewer())
    napari.run()
