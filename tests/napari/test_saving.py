"""Image layers that are saved as OME-TIFF and opened again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal

from napari_dmsp.files import open_stack


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def reopened(viewer, tmp_path):
    """Save a layer, forget it, and open the file."""

    def again(layer, name="saved.dmsp.tif"):
        path = str(tmp_path / name)
        assert layer.save(path, plugin="napari-dmsp") == [path]
        return viewer.open(path, plugin="napari-dmsp")[0]

    return again


PLACES = {
    "plane": (
        (6, 7),
        {
            "scale": (0.2, 0.1),
            "translate": (30.0, -4.0),
            "units": ("um", "um"),
            "axis_labels": ("y", "x"),
        },
    ),
    "volume": (
        (4, 6, 7),
        {
            "translate": (-700, 5000.5, 0.25),
            "scale": (500, 90, 80),
            "units": ("nm",) * 3,
            "axis_labels": ("z", "y", "x"),
        },
    ),
    "time": (
        (3, 6, 7),
        {"scale": (2.5, 0.2, 0.1), "units": ("s", "mm", "mm"), "axis_labels": ("t", "y", "x")},
    ),
    "all": (
        (2, 3, 4, 6, 7),
        {
            "scale": (60, 1, 2, 0.5, 0.5),
            "units": ("s", "pixel", "um", "um", "um"),
            "axis_labels": ("t", "c", "z", "y", "x"),
        },
    ),
    "moved": ((4, 6, 7), {"translate": (1, 0, 2.5), "axis_labels": ("z", "y", "x")}),
    "plain": ((4, 6, 7), {"axis_labels": ("z", "y", "x")}),
    "pixels": ((6, 7), {"scale": (2, 3), "axis_labels": ("y", "x")}),
}


@pytest.mark.parametrize("place", PLACES)
def test_pixels_and_their_place_are_kept(viewer, reopened, place):
    shape, options = PLACES[place]
    for number, dtype in enumerate(("uint8", "uint16", "int16", "float32", "float64")):
        data = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
        layer = viewer.add_image(data, name=f"DAPI {number}", **options)
        again = reopened(layer, f"{dtype}.dmsp.tif")
        assert_array_equal(again.data, data)
        assert again.data.dtype == dtype
        assert_allclose(again.scale, layer.scale)
        assert_allclose(again.translate, layer.translate)
        assert again.units == layer.units
        assert again.axis_labels == layer.axis_labels
        assert not again.rgb
        # The name of a channel, where there is only one.
        assert again.name == (dtype if "c" in layer.axis_labels else f"DAPI {number} [1]")


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_colours_are_kept(viewer, reopened, lead):
    labels = ("t", "z", "y", "x")[2 - len(lead) :]
    for samples in (3, 4):
        data = np.random.default_rng(0).integers(0, 255, (*lead, 6, 7, samples), dtype=np.uint8)
        layer = viewer.add_image(data, scale=(3.0,) * len(labels), axis_labels=labels, rgb=True)
        again = reopened(layer, f"{samples}.dmsp.tif")
        assert again.rgb
        assert_array_equal(again.data, data[..., :3])
        assert_allclose(again.scale[-2:], (3, 3))
        assert again.axis_labels == labels


def test_how_it_was_restored_is_kept(viewer, reopened, fake_prior, grey_image, qtbot, tmp_path):
    viewer.add_image(np.stack([grey_image] * 2), name="step", axis_labels=("t", "y", "x"))
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    panel.advanced.evaluations.value, panel.inputs.planes.value = "2", (0,)
    panel.run()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    result = viewer.layers["step deblurred"]
    again = reopened(result)
    assert_array_equal(again.data, result.data)
    about = again.metadata["napari-dmsp"]
    assert about == json.loads(json.dumps(result.metadata["napari-dmsp"]))
    assert about["script"] == panel.script
    assert about["evaluations"] == [2, 2]
    # The image that was restored has no record.
    assert reopened(viewer.layers["step"], "step.dmsp.tif").metadata == {}
    # Nor do others see more than a description.
    assert open_stack(tmp_path / "saved.dmsp.tif").record == about


@pytest.mark.parametrize(
    ("labels", "order"),
    [(("y", "t", "c", "x"), (1, 2, 0, 3)), (("x", "y", "z", "c"), (2, 3, 1, 0))],
)
def test_rows_and_columns_become_the_last_axes(viewer, reopened, labels, order):
    data = np.arange(4 * 5 * 6 * 7).reshape(4, 5, 6, 7).astype(np.uint16)
    layer = viewer.add_image(data, axis_labels=labels, scale=(2, 3, 4, 5), rgb=False)
    again = reopened(layer)
    assert_array_equal(again.data, data.transpose(order))
    assert again.axis_labels == tuple(labels[i] for i in order)


def test_axes_without_labels_get_letters(viewer, reopened):
    data = np.random.default_rng(0).random((2, 3, 2, 5, 6)).astype(np.float32)
    layer = viewer.add_image(data, scale=(1, 1, 2, 3, 4), multiscale=False)
    again = reopened(layer)
    assert_array_equal(again.data, data)
    assert again.axis_labels == ("q", "t", "z", "y", "x")
    assert_allclose(again.scale, layer.scale)


def test_other_types_and_resolutions(viewer, reopened):
    data = np.random.default_rng(0).random((32, 32))
    levels = viewer.add_image([data, data[::2, ::2]], multiscale=True)
    assert_array_equal(reopened(levels, "levels.dmsp.tif").data, data)
    half = viewer.add_image(data.astype(np.float16))
    assert reopened(half, "half.dmsp.tif").data.dtype == np.float32
    counts = viewer.add_image((9 * data).astype(np.int64), name="counts")
    with pytest.raises(RuntimeError, match="'counts' has pixels of type int64"):
        reopened(counts)


def test_files_of_others_open_with_their_sizes(viewer, tmp_path):
    path = tmp_path / "two.channels.dmsp.tif"
    metadata = {"axes": "CYX", "PhysicalSizeX": 65, "PhysicalSizeXUnit": "nm"}
    metadata |= {"Channel": {"Name": ["DAPI", "GFP"]}, "Description": '["not ours"]'}
    tifffile.imwrite(path, np.zeros((2, 5, 6), np.uint8), ome=True, metadata=metadata)
    (layer,) = viewer.open(str(path), plugin="napari-dmsp")
    assert layer.name == "two"
    assert_allclose(layer.scale, (1, 1, 65))
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel", "nanometer"]
    assert layer.metadata == {}


def test_the_writer_is_for_ome_files_first():
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manager.discover()
    assert manager.get_writer("a.ome.tif", ["image"])[0].command == "napari-dmsp.write"
    assert manager.get_writer("a.tif", ["image"], "napari-dmsp")[0].command == "napari-dmsp.write"
    # Files of others are opened as they were before this plugin came.
    readers = {reader.plugin_name for reader in manager.iter_compatible_readers(["a.ome.tif"])}
    assert "napari-dmsp" not in readers
