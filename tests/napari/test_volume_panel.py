"""Stacks in the Deblur panel: volumes, PSFs of microscopes and of beads, the focal plane."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from napari_dmsp.core import bead_psf, focal_plane, microscope_psf

OPTICS = {"na": "1.2", "wavelength": "0.52", "immersion": "1.33"}
VOXEL = (0.3, 0.12, 0.12)


@pytest.fixture(scope="module")
def stack():
    light = np.random.default_rng(0).random((10, 24, 32)) ** 30
    light = gaussian_filter(light, (1, 1.5, 1.5))
    return np.random.default_rng(1).poisson(200 * light / light.max() + 5).astype(np.uint16)


@pytest.fixture(scope="module")
def beads():
    light = np.zeros((15, 21, 23))
    light[7, 10, 11] = 1
    light = gaussian_filter(light, (1.5, 1, 1))
    return (1000 * light / light.max() + 10).astype(np.float32)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def open_panel(viewer, fake_prior):
    def opened(**values):
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
        panel.advanced.evaluations.value = "2"
        panel.advanced.device.value = "cpu"
        for name, value in values.items():
            panel.inputs[name].value = value
        return panel

    return opened


def add_stack(viewer, data, name="cells", **options):
    labels = ["t", "c", "z", "y", "x"][-data.ndim :]
    scale = (1,) * (data.ndim - 3) + VOXEL
    units = ["pixel"] * (data.ndim - 3) + ["um"] * 3
    options = {"scale": scale, "units": units, "axis_labels": labels, "name": name} | options
    return viewer.add_image(data, **options)


def finish(qtbot, panel):
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)


def plan(panel):
    return panel._plan.value


def test_a_microscope_restores_a_volume(qtbot, viewer, open_panel, stack):
    add_stack(viewer, stack)
    panel = open_panel(psf="microscope")
    assert plan(panel) == "Enter NA of the microscope."
    for name, value in OPTICS.items():
        panel.inputs[name].value = value
    assert "Volumes in axes z, y, x: 10 × 24 × 32 grey voxels" in plan(panel)
    # Only what a widefield microscope needs is asked.
    assert panel.inputs.pinhole.native.isHidden()
    assert panel.inputs.planes.native.isHidden()
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["cells deblurred"]
    assert result.data.shape == stack.shape
    assert_allclose(result.scale, VOXEL)
    settings = result.metadata["napari-dmsp"]["settings"]
    psf = microscope_psf(
        *("widefield",),
        **{"na": 1.2, "wavelength": 0.52, "immersion_index": 1.33},
        **{"voxel_size": VOXEL, "image_shape": stack.shape},
    )
    assert tuple(settings["psf_shape"]) == psf.values.shape
    assert "microscope_psf('widefield'" in panel.script
    assert "coarser than Nyquist" in panel._report.value
    # No PSF in the way of the sliders.
    assert [layer.name for layer in viewer.layers] == ["cells", "cells deblurred"]


@pytest.mark.parametrize(
    ("psf", "restore"),
    [("microscope", 0), ("microscope", 1), ("beads", 0), ("beads", 1), ("layer", 0), ("layer", 1)],
)
def test_scripts_repeat_the_result(qtbot, viewer, stack, beads, psf, restore):
    add_stack(viewer, stack)
    add_stack(viewer, beads, "beads PSF", visible=False)
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    known = {"evaluations": "1", "device": "cpu", "prior": "gray"}
    for name, value in known.items():
        panel.advanced[name].value = value
    for name, value in (OPTICS | {"psf": psf}).items():
        panel.inputs[name].value = value
    panel.inputs.restore.value = panel.inputs.restore.choices[restore]
    panel.run()
    finish(qtbot, panel)
    result, names = viewer.layers["cells deblurred"], {"viewer": viewer}
    assert len(result.data) == (1 if restore else len(stack))
    exec(panel.script, names)
    assert_array_equal(names["restored"], result.data)


def test_the_psf_is_shown_when_asked(qtbot, viewer, open_panel, stack):
    add_stack(viewer, stack)
    panel = open_panel(psf="microscope", **OPTICS)
    panel.show_psf()
    qtbot.waitUntil(lambda: "cells PSF" in viewer.layers, timeout=30_000)
    layer = viewer.layers["cells PSF"]
    assert layer.data.sum() == pytest.approx(1, rel=1e-3)
    assert_allclose(layer.scale, VOXEL)
    assert layer.axis_labels == ("z", "y", "x")
    assert not layer.visible
    # It can be used like any other.
    panel.inputs.psf.value = "layer"
    assert "10 × 24 × 32 grey voxels" in plan(panel)


def test_only_the_focal_plane_is_one_click_away(qtbot, viewer, open_panel, stack, beads):
    add_stack(viewer, stack)
    psf = viewer.add_image(beads / beads.sum(), name="psf", visible=False)
    viewer.dims.set_current_step(0, 4)
    panel = open_panel()
    assert "Volumes" in plan(panel)
    panel.inputs.restore.value = "planes, by the PSF in focus"
    assert "Planes in axes y, x: 24 × 32" in plan(panel)
    assert "the plane in focus is used" in plan(panel)
    panel.inputs.planes.value = (0,)
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["cells deblurred"]
    assert result.data.shape == stack.shape
    assert result.metadata["napari-dmsp"]["settings"]["psf_shape"] == focal_plane(psf.data).shape
    assert "focal_plane(np.asarray(viewer.layers['psf']" in panel.script


def test_a_plane_takes_the_focal_plane(qtbot, viewer, open_panel, stack, beads):
    viewer.add_image(stack[4], name="plane")
    viewer.add_image(beads, name="psf", visible=False)
    panel = open_panel()
    assert panel.inputs.restore.native.isHidden()
    assert "24 × 32 grey pixels" in plan(panel)
    panel.inputs.psf.value = "microscope"
    assert "Enter Voxel" not in plan(panel)
    for name, value in OPTICS.items():
        panel.inputs[name].value = value
    assert "enter Voxel" in plan(panel)
    panel.inputs.voxel.value = "0.3, 0.12, 0.12"
    assert "24 × 32 grey pixels" in plan(panel)
    panel.inputs.voxel.value = "0.12"
    assert "must be y, x in µm" in plan(panel)


def test_beads_are_averaged(qtbot, viewer, open_panel, stack, beads):
    add_stack(viewer, stack)
    add_stack(viewer, beads, "beads", visible=False)
    panel = open_panel(psf="beads")
    assert panel.inputs.beads.value.name == "beads"
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["cells deblurred"]
    expected = bead_psf(beads, voxel_size=VOXEL).values
    assert tuple(result.metadata["napari-dmsp"]["settings"]["psf_shape"]) == expected.shape
    assert "bead_psf(np.asarray(viewer.layers['beads'].data)" in panel.script
    panel.inputs.restore.value = "planes, by the PSF in focus"
    assert "Planes in axes y, x" in plan(panel)


@pytest.mark.parametrize("early", [False, True])
def test_the_sample_is_ready_to_be_restored(viewer, open_panel, early):
    panel = open_panel() if early else None
    viewer.open_sample("napari-dmsp", "cells")
    panel = panel or open_panel()
    panel.inputs.psf.value = "beads"
    assert panel.image.name == "cells"
    assert panel.inputs.beads.value.name == "beads"
    assert "Volumes in axes z, y, x: 32 × 128 × 128 grey voxels" in plan(panel)


def test_preview_is_a_part_of_the_volume(qtbot, viewer, open_panel, beads):
    tall = np.random.default_rng(0).poisson(20, (50, 24, 300)).astype(np.uint16)
    add_stack(viewer, tall)
    viewer.add_image(beads, name="psf", visible=False)
    panel = open_panel()
    viewer.dims.set_current_step(0, 45)
    panel.preview()
    finish(qtbot, panel)
    preview = viewer.layers["cells preview"]
    assert preview.data.shape == (32, 24, 256)
    assert_allclose(preview.translate, (18 * 0.3, 0, 22 * 0.12))


def test_regions_and_masks_of_volumes(qtbot, viewer, open_panel, stack, beads):
    add_stack(viewer, stack)
    viewer.add_image(beads, name="psf", visible=False)
    gaps = np.zeros(stack.shape, np.uint8)
    gaps[3, 5:8, 6:9] = 1
    viewer.add_labels(gaps, name="gaps", scale=VOXEL)
    corners = np.array([[0, 2, 4], [0, 2, 19], [0, 17, 19], [0, 17, 4]]) * VOXEL
    viewer.add_shapes([corners], name="here")
    panel = open_panel()
    panel.inputs.region.value = viewer.layers["here"]
    panel.advanced.mask.value = viewer.layers["gaps"]
    assert "10 × 16 × 16 grey voxels" in plan(panel)
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["cells deblurred"]
    assert result.data.shape == (10, 16, 16)
    assert_allclose(result.translate, (0, 2 * 0.12, 4 * 0.12))


def test_every_volume_of_a_series(qtbot, viewer, open_panel, stack, beads):
    series = np.stack([np.stack([stack, stack[::-1]])] * 2)
    add_stack(viewer, series)
    viewer.add_image(beads, name="psf", visible=False)
    # Shown from the side: volumes have the order of the data all the same.
    panel = open_panel()
    viewer.dims.order = (0, 1, 3, 2, 4)
    assert "Volumes in axes z, y, x" in plan(panel)
    assert panel.inputs.planes.choices == ((), (0,), (1,), (0, 1))
    panel.inputs.planes.value = (0, 1)
    assert "4 volumes of 10 × 24 × 32" in plan(panel)
    panel.run()
    finish(qtbot, panel)
    result = viewer.layers["cells deblurred"]
    assert result.data.shape == series.shape
    assert_array_equal(result.data[0], result.data[1])
    assert not np.isnan(result.data).any()


def test_metadata_of_the_file_are_filled_in(viewer, open_panel, stack, tmp_path):
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"}, ome=True)
    sizes = 'PhysicalSizeZ="0.3" PhysicalSizeY="120" PhysicalSizeYUnit="nm" PhysicalSizeX="0.12"'
    text = tifffile.tiffcomment(path).replace("<Pixels ", f"<Pixels {sizes} ", 1)
    text = text.replace("<Channel ", '<Channel EmissionWavelength="520" ', 1)
    objective = '<Objective ID="Objective:0" LensNA="1.2" Immersion="Water"/>'
    instrument = f'<Instrument ID="Instrument:0">{objective}</Instrument>'
    text = text.replace("<Image ", f"{instrument}<Image ", 1)
    tifffile.tiffcomment(path, text.encode())
    viewer.open(path, plugin="napari")
    panel = open_panel(psf="microscope")
    values = {name: panel.inputs[name].value for name in OPTICS}
    assert values == OPTICS
    assert panel.inputs.voxel.value == "0.3, 0.12, 0.12"
    assert "10 × 24 × 32 grey voxels" in plan(panel)


def test_what_is_missing_or_wrong_is_said(viewer, open_panel, stack):
    add_stack(viewer, stack)
    panel = open_panel(psf="beads")
    assert plan(panel) == "Open the beads as an image layer, or another kind of PSF."
    panel.inputs.psf.value = "microscope"
    for name, value in OPTICS.items():
        panel.inputs[name].value = value
    panel.inputs.na.value = "1.5"
    assert "NA 1.5 must be at least 0.01 and below" in plan(panel)
    assert not panel._run_button.enabled
    panel.inputs.na.value = "wide"
    assert plan(panel) == "NA: 'wide' is not a number."
    panel.inputs.na.value = "1.2"
    panel.inputs.microscope.value = "confocal"
    assert plan(panel) == "Enter Excitation (µm) of the microscope."
    panel.inputs.microscope.value = "light-sheet"
    assert plan(panel) == "Enter Sheet (µm) of the microscope."
