"""Layers to arrays and back, on a viewer model without Qt."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from napari.components import ViewerModel
from numpy.testing import assert_allclose, assert_array_equal

from napari_dmsp._viewer.layers import (
    drawn_motion,
    long_axes,
    pixel_size,
    renew,
    select,
    shape_region,
    visible_region,
)
from napari_dmsp._viewer.result import Result
from napari_dmsp._viewer.script import Call
from napari_dmsp.dtypes import fit_dtype
from napari_dmsp.settings import TASKS, Deblur


@pytest.fixture
def viewer():
    return ViewerModel()


def plane_of(selection, steps=None):
    """Return a plane as it is restored, the first by default: with its margin."""
    steps = selection.planes[0] if steps is None else steps
    return np.asarray(selection.data[selection.source(steps)])


def read(viewer, layer, **options):
    return plane_of(select(layer, viewer.dims, **options))


def add_result(viewer, layer, image=None, name="result", task="deblur", **options):
    """Add what the restoration of a plane by ``image``, or by itself, would become."""
    selection = select(layer, viewer.dims, **options)
    call = Call(TASKS[task](), selection)
    result = Result(viewer, call, name, lambda *steps: [step() for step in steps])
    image = plane_of(selection).astype(np.float32) if image is None else image
    axes, crop = call.plan.axes, call.plan.parts[0].crop
    if selection.channel_axis is not None:
        image = np.moveaxis(image, selection.channel_axis, -1)
    block = axes.unflatten(fit_dtype(image[crop], call.plan.dtype))
    block = call.convert(block, {"background": 0, "white": 100})
    for number in range(len(selection.planes)):
        result.show(number, block, done=True)
    return result.settle()


def test_adapter_needs_no_qt():
    code = "import sys, napari_dmsp._viewer.layers; sys.exit('qtpy' in sys.modules)"
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
    assert select(layer, viewer.dims).rgb
    assert_array_equal(read(viewer, layer), image)
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
    assert_array_equal(read(viewer, layer), image[..., :3])
    assert add_result(viewer, layer).data.shape == (12, 9, 3)


def test_multiscale_is_read_at_full_resolution(viewer, grey_image):
    layer = viewer.add_image([grey_image, grey_image[::2, ::2]], multiscale=True, scale=(2, 2))
    assert_array_equal(read(viewer, layer), grey_image)
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
    selection = select(layer, viewer.dims)
    assert computed == []
    assert_array_equal(plane_of(selection, (2,)), np.full((20, 30), 2))
    assert computed == [2]


def test_plane_of_a_stack_lands_where_it_was(viewer):
    stack = np.random.default_rng(0).random((5, 20, 30))
    rotate = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    layer = viewer.add_image(stack, scale=(2, 0.5, 0.5), translate=(10, 1, 1), rotate=rotate)
    viewer.dims.set_current_step(0, 3)
    selection = select(layer, viewer.dims)
    ((step,),) = selection.planes
    assert selection.shape == (20, 30)
    assert_array_equal(plane_of(selection, (step,)), stack[step])
    result = add_result(viewer, layer)
    assert result.data.shape == (1, 20, 30)
    for y, x in ((0, 0), (19, 29)):
        assert_allclose(result.data_to_world((0, y, x)), layer.data_to_world((step, y, x)))


@pytest.mark.parametrize("step", range(5))
def test_plane_is_the_one_on_screen(viewer, step):
    stack = np.arange(5)[:, None, None] * np.ones((1, 20, 30))
    layer = viewer.add_image(stack, scale=(0.3, 1, 1), translate=(-7, 0, 0))
    viewer.dims.set_current_step(0, step)
    assert_array_equal(read(viewer, layer), np.full((20, 30), step))


def test_plane_follows_the_order_of_the_axes(viewer):
    stack = np.random.default_rng(0).random((12, 20, 30))
    layer = viewer.add_image(stack)
    viewer.dims.order = (1, 2, 0)
    viewer.dims.set_current_step(1, 4)
    assert select(layer, viewer.dims).axes == (0, 2)
    assert_array_equal(read(viewer, layer), stack[:, 4])
    assert add_result(viewer, layer).data.shape == (12, 1, 30)


@pytest.mark.parametrize("axes", [(0, 1), (0, 3), (1, 2)])
def test_plane_in_other_axes_than_those_on_screen(viewer, axes):
    stack = np.random.default_rng(0).random((4, 5, 6, 7)).astype(np.float32)
    layer = viewer.add_image(stack, scale=(2, 3, 4, 5), translate=(1, 1, 1, 1))
    others = tuple(axis for axis in range(4) if axis not in axes)
    selection = select(layer, viewer.dims, axes=axes, along=others)
    assert selection.shape == tuple(stack.shape[axis] for axis in axes)
    plan = Call(Deblur(), selection).plan
    result = np.full(plan.shape, np.nan, np.float32)
    for part, steps in zip(plan.parts, selection.planes, strict=True):
        result[part.target] = plan.axes.unflatten(plane_of(selection, steps))
    assert_array_equal(result, stack)
    # One plane of them lands where it was.
    viewer.dims.point = layer.data_to_world((3, 2, 1, 4))
    result = add_result(viewer, layer, axes=axes)
    first = [0 if axis in axes else step for axis, step in enumerate((3, 2, 1, 4))]
    assert_allclose(result.data_to_world((0,) * 4), layer.data_to_world(first))
    index = tuple(slice(None) if a in axes else slice(f, f + 1) for a, f in enumerate(first))
    assert_array_equal(result.data, stack[index])


@pytest.mark.parametrize("colours", [0, 1, 2])
def test_colours_along_an_axis_of_a_grey_layer(viewer, colours):
    image = np.random.default_rng(0).integers(0, 256, (2, 12, 9, 3), dtype=np.uint8)
    data = np.moveaxis(image, -1, colours)
    layer = viewer.add_image(data, rgb=False, colormap="green", contrast_limits=(0, 9))
    stack, *axes = (axis for axis in range(4) if axis != colours)
    region = slice(2, 8), slice(3, 9)
    options = {"axes": tuple(axes), "colours": colours, "along": (stack,), "region": region}
    selection = select(layer, viewer.dims, margin=1, **options)
    assert selection.planes == [(0,), (1,)]
    plane = np.moveaxis(plane_of(selection, (1,)), selection.channel_axis, -1)
    assert_array_equal(plane, image[1, 1:9, 2:9])
    result = add_result(viewer, layer, margin=1, **options)
    assert not result.rgb
    assert result.colormap.name == "green"
    expected = np.moveaxis(np.broadcast_to(image[:1, 2:8, 3:9], (2, 6, 6, 3)), -1, colours)
    assert_array_equal(result.data, expected)
    start = [region[axes.index(axis)].start if axis in axes else 0 for axis in range(4)]
    assert_allclose(result.translate, start)
    # Twice as many pixels in the same place.
    wide = data[:1].repeat(2, axes[0]) if stack == 0 else data[:, :1].repeat(2, axes[0])
    assert_allclose(selection.options_for(wide)["scale"][axes[0]], 6 / 24)


def test_rgb_stack(viewer):
    stack = np.random.default_rng(0).integers(0, 256, (4, 12, 9, 3), dtype=np.uint8)
    layer = viewer.add_image(stack, rgb=True)
    viewer.dims.set_current_step(0, 1)
    assert_array_equal(read(viewer, layer), stack[1])
    assert add_result(viewer, layer).data.shape == (1, 12, 9, 3)


def test_flat_image_beside_a_stack(viewer, grey_image):
    viewer.add_image(np.random.default_rng(0).random((5, 20, 30)))
    layer = viewer.add_image(grey_image)
    viewer.dims.order = (1, 0, 2)
    assert_array_equal(read(viewer, layer), grey_image)


def test_slider_beyond_a_short_stack(viewer):
    short = np.random.default_rng(0).random((2, 20, 30))
    layer = viewer.add_image(short)
    viewer.add_image(np.zeros((9, 20, 30)))
    viewer.dims.set_current_step(0, 8)
    assert_array_equal(read(viewer, layer), short[1])


def test_3d_view_takes_the_plane_of_2d_view(viewer):
    stack = np.random.default_rng(0).random((5, 20, 30))
    layer = viewer.add_image(stack)
    viewer.dims.set_current_step(0, 3)
    viewer.dims.ndisplay = 3
    assert_array_equal(read(viewer, layer), stack[3])


def test_result_never_takes_the_name_of_a_layer(viewer, grey_image):
    layer = viewer.add_image(grey_image, name="cell")
    names = [add_result(viewer, layer, name="cell").name for _ in range(2)]
    assert len({"cell", *names}) == 3
    assert_array_equal(viewer.layers["cell"].data, grey_image)


def test_all_planes_of_an_axis(viewer):
    stack = np.random.default_rng(0).random((3, 4, 20, 30))
    layer = viewer.add_image(stack, scale=(5, 2, 1, 1), axis_labels=("t", "z", "y", "x"))
    viewer.dims.set_current_step(0, 2)
    assert long_axes(layer, without=(2, 3)) == {0: "t", 1: "z"}
    selection = select(layer, viewer.dims, along=(1,))
    assert selection.planes == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert_array_equal(plane_of(selection, (2, 3)), stack[2, 3])
    result = add_result(viewer, layer, along=(1,))
    assert result.data.shape == (1, 4, 20, 30)
    assert_allclose(result.data_to_world((0, 0, 0, 0)), layer.data_to_world((2, 0, 0, 0)))
    assert len(select(layer, viewer.dims, along=(0, 1)).planes) == 12


def test_region_with_a_margin_lands_where_it_was(viewer):
    image = np.random.default_rng(0).random((40, 50))
    layer = viewer.add_image(image, scale=(2, 3), rotate=20, translate=(5, 6))
    region = slice(10, 25), slice(0, 20)
    selection = select(layer, viewer.dims, region=region, margin=4)
    assert selection.shape == (15, 20)
    assert selection.margin == (slice(6, 29), slice(0, 24))
    assert_array_equal(plane_of(selection, ()), image[6:29, :24])
    result = add_result(viewer, layer, region=region, margin=4)
    assert_allclose(result.data, image[region].astype(np.float32))
    for y, x in ((0, 0), (14, 19)):
        assert_allclose(result.data_to_world((y, x)), layer.data_to_world((y + 10, x)))


def test_region_of_a_mosaic_begins_with_the_pattern(viewer):
    layer = viewer.add_image(np.zeros((60, 60), np.uint16))
    selection = select(
        layer, viewer.dims, region=(slice(31, 50), slice(29, 50)), margin=24, align=12
    )
    assert [part.start for part in selection.index] == [24, 24]
    assert [part.start for part in selection.margin] == [0, 0]


def test_region_outside_the_image(viewer):
    layer = viewer.add_image(np.zeros((60, 60)))
    with pytest.raises(ValueError, match="outside"):
        select(layer, viewer.dims, region=(slice(70, 90), slice(0, 9)))


def test_mosaic_becomes_colours_from_black_to_white(viewer):
    layer = viewer.add_image(np.zeros((12, 12), np.uint16), colormap="green")
    image = np.linspace(-10, 110, 12 * 12 * 3, dtype=np.float32).reshape(12, 12, 3)
    result = add_result(viewer, layer, image, task="demosaic")
    assert result.rgb
    assert_allclose(result.data, np.clip(image / 100, 0, 1), atol=1e-6)


def test_grey_result_of_the_type_of_the_layer(viewer):
    layer = viewer.add_image(np.zeros((12, 12), np.uint16))
    image = np.linspace(-10, 70_000, 144, dtype=np.float32).reshape(12, 12)
    stack = viewer.add_image(np.zeros((2, 12, 12), np.uint16))
    for each, along, dtype in ((layer, (), "uint16"), (stack, (0,), "float32")):
        call = Call(Deblur(), select(each, viewer.dims, along=along), same_dtype=True)
        result = Result(viewer, call, "result", lambda *steps: [step() for step in steps])
        block = call.plan.axes.unflatten(fit_dtype(image, call.plan.dtype))
        result.show(0, block, done=True)
        # A plane that is not done is transparent, which no integer is.
        assert result.layer.data.dtype == dtype
        result.show(len(along), block, done=True)
        data = result.settle().data
        assert data.dtype == np.uint16
        assert_array_equal(data[-1] if along else data, np.clip(np.rint(image), 0, 65535))


def test_visible_region_of_a_layer_with_resolutions(viewer):
    data = np.zeros((100, 80))
    layer = viewer.add_image([data, data[::2, ::2]], multiscale=True)
    layer.data_level = 1
    layer.corner_pixels = np.array([[5, 10], [24, 29]])
    assert visible_region(layer, viewer.dims, (0, 1)) == (slice(10, 50), slice(20, 60))
    assert visible_region(layer, viewer.dims, (0, 1), most=10) == (slice(25, 35), slice(35, 45))
    viewer.dims.ndisplay = 3
    assert visible_region(layer, viewer.dims, (0, 1)) == (slice(0, 100), slice(0, 80))


def test_all_of_an_axis_that_is_not_on_screen_counts_as_visible(viewer):
    layer = viewer.add_image(np.zeros((9, 40, 50)))
    layer.corner_pixels = np.array([[0, 5, 10], [0, 24, 29]])
    assert visible_region(layer, viewer.dims, (1, 2)) == (slice(5, 25), slice(10, 30))
    assert visible_region(layer, viewer.dims, (0, 2)) == (slice(0, 9), slice(10, 30))


def test_a_layer_with_other_data_in_another_place(viewer, grey_image):
    source = viewer.add_image(grey_image, scale=(2, 2), colormap="green")
    layer = add_result(viewer, source, region=(slice(0, 20), slice(0, 20)))
    renewed = []
    layer.events.set_data.connect(renewed.append)
    selection = select(source, viewer.dims, region=(slice(30, 50), slice(10, 40)))
    data = plane_of(selection, ()).astype(np.float32)
    options = selection.options_for(data)
    assert renew(layer, data, options | {"name": "other"})
    # For the data, and for the place; all else is as it was.
    assert len(renewed) == 2
    assert layer.data is data
    assert layer.name == "other"
    assert_allclose(layer.translate, (60, 20))
    for other in ({"rgb": True}, {"units": ("um", "um")}):
        assert not renew(layer, data, options | other)
    assert not renew(layer, grey_image, options)


def test_region_of_a_drawn_rectangle(viewer):
    layer = viewer.add_image(np.zeros((3, 40, 50)), scale=(1, 2, 2), translate=(0, 10, 0))
    shapes, axes = viewer.add_shapes(ndim=2), (1, 2)
    with pytest.raises(ValueError, match="Nothing is drawn"):
        shape_region(shapes, layer, axes)
    shapes.add_rectangles([[20, 8], [20, 20], [40, 20], [40, 8]])
    assert shape_region(shapes, layer, axes) == (slice(5, 16), slice(4, 11))
    shapes.add_rectangles([[10, 0], [10, 4], [14, 4], [14, 0]])
    assert shape_region(shapes, layer, axes) == (slice(0, 3), slice(0, 3))
    shapes.selected_data = {0}
    assert shape_region(shapes, layer, axes) == (slice(5, 16), slice(4, 11))


def test_motion_from_a_drawn_line(viewer):
    layer = viewer.add_image(np.zeros((40, 50)), scale=(2, 2))
    shapes = viewer.add_shapes([[[20, 10], [8, 26]]], shape_type="line")
    length, angle = drawn_motion(shapes, layer, (0, 1))
    assert_allclose(length, 10)
    assert_allclose(angle, np.degrees(np.arctan2(6, 8)))
    shapes.add_lines([[3, 3], [3.1, 3]])
    with pytest.raises(ValueError, match="shorter than a pixel"):
        drawn_motion(shapes, layer, (0, 1))


def test_pixel_size(viewer):
    layer = viewer.add_image(np.zeros((9, 9)), scale=(50, 100), units=("nm", "nm"), name="cell")
    assert_allclose(pixel_size(layer, (0, 1)), (0.05, 0.1))
    with pytest.raises(ValueError, match="'bare' has no pixel size"):
        pixel_size(viewer.add_image(np.zeros((9, 9)), name="bare"), (0, 1))
