import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["napari_dmsp", "napari_dmsp.core", "napari_dmsp.training.train"]
)
def test_core_brings_neither_viewer_nor_qt(module):
    code = (
        f"import sys, {module}\n"
        "from napari_dmsp import deblur\n"
        "heavy = {'napari', 'qtpy', 'PyQt6', 'PySide6', 'magicgui', 'dask'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_costs_nothing():
    code = "import sys, napari_dmsp; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
