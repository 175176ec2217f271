"""Layers to arrays and back, on a viewer model without Qt."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from napari.components import ViewerModel
from numpy.testing import assert_allclose, assert_array_equal

from napari_dmsp._layers import visible_plane


@pytest.fixture
def viewer():
    return ViewerModel()


def add_result(viewer, layer, image=None, name="result"):
    plane = visible_plane(layer, viewer.dims)
    image = plane.read().astype(np.float32) if image is None else image
    return viewer.add_image(plane.place(image), name=name, **plane.layer_options)


def test_adapter_needs_no_qt():
    code = "import sys, napari_dmsp._layers; sys.exit('qtpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_grey_result_keeps_everything(viewer, grey_image):
    layer = viewer.add_image(
        grey_image,
        scale=(0.5, 0.25),
        translate=(3, -4),
        rotate=30,
        shear=[0.1],
        affine=[[1, 0.2, 5], [0, 1, 6], [0, 0, 1]],
        units=("um", "um"),
        axis_labels=("y", "x"),
        colormap="magma",
        contrast_limits=(10, 180),
        gamma=0.8,
    )
    result = add_result(viewer, layer)
    assert result.data.shape == grey_image.shape
    assert result.data.dtype == np.float32
    for name in ("scale", "translate", "rotate", "shear", "contrast_limits", "gamma"):
        assert_allclose(getattr(result, name), getattr(layer, name), err_msg=name)
    assert_allclose(result.affine.affine_matrix, layer.affine.affine_matrix)
    assert result.units == layer.units
    assert result.axis_labels == ("y", "x")
    assert result.colormap.name == "magma"
    for corner in ((0, 0), (5, 7), (63, 55)):
        assert_allclose(result.data_to_world(corner), layer.data_to_world(corner))


def test_changes_of_the_result_leave_the_input_alone(viewer, grey_image):
    layer = viewer.add_image(grey_image, affine=np.diag([2, 2, 1]))
    result = add_result(viewer, layer)
    result.scale, result.affine, result.contrast_limits = (3, 3), np.eye(3), (1, 2)
    assert_allclose(layer.scale, 1)
    assert_allclose(layer.affine.affine_matrix, np.diag([2, 2, 1]))
    assert tuple(layer.contrast_limits) != (1, 2)


def test_rgb_keeps_its_flag_and_dtype_even_if_small(viewer):
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    layer = viewer.add_image(image, rgb=True)
    plane = visible_plane(layer, viewer.dims)
    assert plane.channel_axis == -1
    assert_array_equal(plane.read(), image)
    result = add_result(viewer, layer, image.astype(np.float32) * 2 - 100)
    assert result.rgb
    assert result.data.dtype == np.uint8
    assert_array_equal(result.data, np.clip(image * 2.0 - 100, 0, 255))


def test_rgb_float_stays_float(viewer):
    layer = viewer.add_image(np.random.default_rng(0).random((12, 9, 3)), rgb=True)
    assert add_result(viewer, layer).data.dtype == np.float32


def test_rgba_loses_its_alpha(viewer):
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    layer = viewer.add_image(image, rgb=True)
    assert_array_equal(visible_plane(layer, viewer.dims).read(), image[..., :3])
    assert add_result(viewer, layer).data.shape == (12, 9, 3)


def test_multiscale_is_read_at_full_resolution(viewer, grey_image):
    layer = viewer.add_image([grey_image, grey_image[::2, ::2]], multiscale=True, scale=(2, 2))
    plane = visible_plane(layer, viewer.dims)
    assert_array_equal(plane.read(), grey_image)
    result = add_result(viewer, layer)
    assert not result.multiscale
    assert_allclose(result.scale, (2, 2))


def test_dask_is_computed_only_when_read(viewer):
    da = pytest.importorskip("dask.array")
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"][0])
        return np.full((1, 20, 30), computed[-1], np.uint16)

    data = da.map_blocks(
        block, chunks=((1,) * 4, (20,), (30,)), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16)
    )
    layer = viewer.add_image(data, contrast_limits=(0, 4))
    viewer.dims.set_current_step(0, 2)
    computed.clear()
    plane = visible_plane(layer, viewer.dims)
    assert computed == []
    assert_array_equal(plane.read(), np.full((20, 30), 2))
    assert computed == [2]


def test_plane_of_a_stack_lands_where_it_was(viewer):
    stack = np.random.default_rng(0).random((5, 20, 30))
    rotate = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    layer = viewer.add_image(stack, scale=(2, 0.5, 0.5), translate=(10, 1, 1), rotate=rotate)
    viewer.dims.set_current_step(0, 3)
    plane = visible_plane(layer, viewer.dims)
    step = plane.index[0].start
    assert plane.shape == (20, 30)
    assert_array_equal(plane.read(), stack[step])
    result = add_result(viewer, layer)
    assert result.data.shape == (1, 20, 30)
    for y, x in ((0, 0), (19, 29)):
        assert_allclose(result.data_to_world((0, y, x)), layer.data_to_world((step, y, x)))


@pytest.mark.parametrize("step", range(5))
def test_plane_is_the_one_on_screen(viewer, step):
    stack = np.arange(5)[:, None, None] * np.ones((1, 20, 30))
    layer = viewer.add_image(stack, scale=(0.3, 1, 1), translate=(-7, 0, 0))
    viewer.dims.set_current_step(0, step)
    assert_array_equal(visible_plane(layer, viewer.dims).read(), np.full((20, 30), step))


def test_plane_follows_the_order_of_the_axes(viewer):
    stack = np.random.default_rng(0).random((12, 20, 30))
    layer = viewer.add_image(stack)
    viewer.dims.order = (1, 2, 0)
    viewer.dims.set_current_step(1, 4)
    plane = visible_plane(layer, viewer.dims)
    assert plane.axes == (0, 2)
    assert_array_equal(plane.read(), stack[:, 4])
    assert add_result(viewer, layer).data.shape == (12, 1, 30)


def test_rgb_stack(viewer):
    stack = np.random.default_rng(0).integers(0, 256, (4, 12, 9, 3), dtype=np.uint8)
    layer = viewer.add_image(stack, rgb=True)
    viewer.dims.set_current_step(0, 1)
    assert_array_equal(visible_plane(layer, viewer.dims).read(), stack[1])
    assert add_result(viewer, layer).data.shape == (1, 12, 9, 3)


def test_flat_image_beside_a_stack(viewer, grey_image):
    viewer.add_image(np.random.default_rng(0).random((5, 20, 30)))
    layer = viewer.add_image(grey_image)
    viewer.dims.order = (1, 0, 2)
    assert_array_equal(visible_plane(layer, viewer.dims).read(), grey_image)


def test_slider_beyond_a_short_stack(viewer):
    short = np.random.default_rng(0).random((2, 20, 30))
    layer = viewer.add_image(short)
    viewer.add_image(np.zeros((9, 20, 30)))
    viewer.dims.set_current_step(0, 8)
    assert_array_equal(visible_plane(layer, viewer.dims).read(), short[1])


def test_3d_view_takes_the_plane_of_2d_view(viewer):
    stack = np.random.default_rng(0).random((5, 20, 30))
    layer = viewer.add_image(stack)
    viewer.dims.set_current_step(0, 3)
    viewer.dims.ndisplay = 3
    assert_array_equal(visible_plane(layer, viewer.dims).read(), stack[3])


def test_result_never_takes_the_name_of_a_layer(viewer, grey_image):
    layer = viewer.add_image(grey_image, name="cell")
    names = [add_result(viewer, layer, name="cell").name for _ in range(2)]
    assert len({"cell", *names}) == 3
    assert_array_equal(viewer.layers["cell"].data, grey_image)
