"""Masks in layers: painted or drawn, moved, scaled, turned, for one plane or for all."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes
from numpy.testing import assert_array_equal
from scipy.ndimage import map_coordinates

from napari_dmsp import deblur, demosaic
from napari_dmsp._viewer.masks import LayerMask
from napari_dmsp.core.psf import gaussian_psf


@pytest.fixture
def viewer():
    return ViewerModel()


def read(viewer, layer, image, index, axes=(0, 1)):
    return LayerMask.over(layer, image, viewer.dims.point).read(index, axes)


WHOLE = (slice(0, 40), slice(0, 50))


def test_labels_over_the_image_as_they_are(viewer):
    painted = np.zeros((40, 50), int)
    painted[5:9, 10:20], painted[30, 30] = 3, 1
    image = viewer.add_image(np.zeros((40, 50)), scale=(2, 2), translate=(5, 5))
    labels = viewer.add_labels(painted, scale=(2, 2), translate=(5, 5))
    assert_array_equal(read(viewer, labels, image, WHOLE), painted != 0)
    part = (slice(3, 35), slice(8, 40))
    assert_array_equal(read(viewer, labels, image, part), painted[part] != 0)


def test_labels_in_another_frame(viewer):
    """The right value is a nearest-neighbour interpolation with a matrix that is written down."""
    rng = np.random.default_rng(0)
    painted = (rng.random((30, 30)) < 0.3).astype(int)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    image = viewer.add_image(np.zeros((40, 50)), scale=(0.5, 0.25), translate=(1, 2))
    labels = viewer.add_labels(painted, scale=(0.7, 0.7), translate=(3.01, 1.02), rotate=turn)
    rows, columns = np.indices((40, 50))
    world = np.stack([rows * 0.5 + 1, columns * 0.25 + 2]) - np.array([3.01, 1.02])[:, None, None]
    inside = np.tensordot(np.linalg.inv(turn * 0.7), world, 1)
    right = map_coordinates(painted, np.rint(inside), order=0, mode="constant", cval=0)
    assert right.any()
    assert_array_equal(read(viewer, labels, image, WHOLE), right != 0)


def test_labels_plane_by_plane_and_for_all_planes(viewer):
    painted = np.random.default_rng(0).random((4, 40, 50)) < 0.1
    stack = viewer.add_image(np.zeros((4, 40, 50)))
    labels = viewer.add_labels(painted.astype(int))
    assert_array_equal(read(viewer, labels, stack, (2, *WHOLE), (1, 2)), painted[2])
    every = read(viewer, labels, stack, (slice(1, 3), *WHOLE), (1, 2))
    assert_array_equal(every, painted[1:3])
    flat = viewer.add_labels(painted[3].astype(int))
    assert_array_equal(read(viewer, flat, stack, (0, *WHOLE), (1, 2)), painted[3])
    # Of what has more axes than the image, the step is taken that the slider shows.
    image = viewer.add_image(np.zeros((40, 50)))
    viewer.dims.set_current_step(0, 1)
    assert_array_equal(read(viewer, labels, image, WHOLE), painted[1])


def test_lazy_labels_are_read_in_part(viewer):
    da = pytest.importorskip("dask.array")
    read_blocks = []

    def block(block_info=None):
        read_blocks.append(block_info[None]["chunk-location"][0])
        return np.ones((1, 40, 50), int)

    data = da.map_blocks(block, chunks=((1,) * 5, (40,), (50,)), meta=np.empty((0, 0, 0), int))
    stack = viewer.add_image(np.zeros((5, 40, 50)))
    labels = viewer.add_labels(data)
    read_blocks.clear()
    assert read(viewer, labels, stack, (3, *WHOLE), (1, 2)).all()
    assert set(read_blocks) == {3}


@pytest.mark.parametrize("affine", [False, True])
def test_drawn_shapes_are_rasterised_where_they_lie(viewer, affine):
    """Inside of a triangle is what lies on the same side of all its edges, in the world."""
    corners = np.array([[4.13, 3.27], [17.4, 6.1], [12.2, 11.9]])
    shear = np.array([[1, 0.3, 2], [0.1, 1, -1], [0, 0, 1]]) if affine else np.eye(3)
    image = viewer.add_image(np.zeros((40, 50)), scale=(0.5, 0.25))
    shapes = viewer.add_shapes([corners], shape_type="polygon", affine=shear, translate=(0, 1))
    world = (corners + np.array([0, 1])) @ shear[:2, :2].T + shear[:2, 2]
    pixels = np.stack(np.indices((40, 50)), -1).reshape(-1, 2) * (0.5, 0.25)
    sides = [
        np.sign(edge[0] * (pixels - corner)[:, 1] - edge[1] * (pixels - corner)[:, 0])
        for corner, edge in zip(world, np.roll(world, -1, 0) - world, strict=True)
    ]
    right = (np.abs(np.sum(sides, 0)) == 3).reshape(40, 50)
    assert right.sum() > 100
    assert_array_equal(read(viewer, shapes, image, WHOLE), right)


def test_ellipses_and_lines(viewer):
    image = viewer.add_image(np.zeros((40, 50)), scale=(1, 2))
    box = np.array([[5.5, 20.6], [5.5, 60.6], [25.5, 60.6], [25.5, 20.6]])
    shapes = viewer.add_shapes([box], shape_type="ellipse")
    rows, columns = np.indices((40, 50))
    reach = ((rows - 15.5) / 10) ** 2 + ((2 * columns - 40.6) / 20) ** 2
    mask = read(viewer, shapes, image, WHOLE)
    assert mask[reach < 0.98].all()
    assert not mask[reach > 1].any()
    # As napari does where both grids are the same; what leaves the image is cut off.
    line = Shapes([[[3, 4], [30, 90]]], shape_type="line")
    right = line.to_masks((40, 100))[0]
    square = viewer.add_image(np.zeros((40, 50)))
    assert_array_equal(read(viewer, line, square, WHOLE), right[:, :50])


def test_shapes_belong_to_their_planes(viewer):
    stack = viewer.add_image(np.zeros((3, 40, 50)))
    square = np.array([[5, 5], [5, 15], [15, 15], [15, 5]])
    at_1 = np.insert(square, 0, 1, axis=1)
    shapes = viewer.add_shapes([at_1], shape_type="polygon")
    found = read(viewer, shapes, stack, (slice(0, 3), *WHOLE), (1, 2))
    assert found.any((1, 2)).tolist() == [False, True, False]
    flat = viewer.add_shapes([square], shape_type="polygon")
    found = read(viewer, flat, stack, (slice(0, 3), *WHOLE), (1, 2))
    assert found.any((1, 2)).all()


@pytest.fixture
def restore(qtbot, make_napari_viewer):
    """Run a panel in the real viewer with the real prior."""
    viewer = make_napari_viewer()

    def restored(title, fill, *, advanced=(), **inputs):
        fill(viewer)
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", title)
        known = {"evaluations": "2", "device": "cpu"} | dict(advanced)
        for part, values in ((panel.advanced, known), (panel.inputs, inputs)):
            for name, value in values.items():
                layer = isinstance(value, str) and value in viewer.layers
                part[name].value = viewer.layers[value] if layer else value
        panel.run()
        qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
        names = {"viewer": viewer}
        exec(panel.script, names)
        result = viewer.layers[-1]
        assert_array_equal(names["restored"], result.data)
        return result

    return restored


def test_a_masked_region_is_what_python_gives(restore, grey_image):
    """The region, with its margin, is the whole image here: the mask must lie where it was."""
    painted = np.zeros(grey_image.shape, int)
    painted[20:24, 30:36] = 1
    broken = grey_image.copy()
    broken[painted == 1] = 255

    def fill(viewer):
        viewer.add_image(broken, name="step")
        viewer.add_labels(painted, name="dead")
        viewer.add_shapes([[[10, 10], [10, 45], [50, 45], [50, 10]]], name="here")

    known = {"mask": "dead"}
    result = restore("Deblur", fill, advanced=known, psf="Gaussian", sigma=1, region="here")
    right = deblur(broken, gaussian_psf(1.0), mask=painted == 1, iterations=2, device="cpu")
    assert_array_equal(result.data, right.image[10:51, 10:46])


def test_nan_and_saturated_pixels_of_a_stack(restore, grey_image):
    stack = np.stack([grey_image, grey_image[::-1]]).astype(np.float32)
    stack[0, 30, 30] = stack[1, 10, 12] = np.nan

    def fill(viewer):
        viewer.add_image(stack, name="stack", contrast_limits=(0, 255))

    result = restore("Deblur", fill, advanced={"mask": "auto"}, planes=(0,), sigma=1)
    assert result.metadata["napari-dmsp"]["settings"]["masked"] == 1
    for plane, restored in zip(stack, result.data, strict=True):
        right = deblur(plane, gaussian_psf(1.0), mask=np.isnan(plane), iterations=2)
        assert_array_equal(restored, right.image)


@pytest.mark.parametrize("rgb", [True, False])
def test_masks_of_colours(restore, rgb_image, rgb):
    painted = np.zeros(rgb_image.shape[:2], int)
    painted[20:24, 30:36] = 1

    def fill(viewer):
        if rgb:
            viewer.add_image(rgb_image, name="photo")
        else:
            labels = ("c", "y", "x")
            viewer.add_image(np.moveaxis(rgb_image, -1, 0), axis_labels=labels, name="photo")
        viewer.add_labels(painted, name="dead")

    known = {"mask": "dead"} | ({} if rgb else {"channels": (0,)})
    result = restore("Deblur", fill, advanced=known, image="photo", psf="Gaussian", sigma=1)
    right = deblur(rgb_image, gaussian_psf(1.0), mask=painted == 1, channel_axis=-1, iterations=2)
    if rgb:
        assert_array_equal(result.data, np.clip(np.rint(right.image), 0, 255))
    else:
        assert_array_equal(np.moveaxis(result.data, 0, -1), right.image)


def test_a_mask_of_a_mosaic_with_its_own_filters(restore, rgb_image):
    """Columns of filters of period 3, as text; the region begins at a multiple of it."""
    pattern = np.array([[0, 1, 2], [1, 2, 0]])
    rows, columns = np.indices(rgb_image.shape[:2])
    mosaic = np.take_along_axis(rgb_image, pattern[rows % 2, columns % 3][..., None], -1)[..., 0]
    painted = np.zeros(mosaic.shape, int)
    painted[20:24, 30:36] = 1

    def fill(viewer):
        viewer.add_image(mosaic, name="raw")
        viewer.add_labels(painted, name="dead")

    known = {"mask": "dead", "background": "0", "white": "255"}
    result = restore("Demosaic", fill, advanced=known, pattern="0 1 2; 1 2 0")
    right = demosaic(
        mosaic, pattern, mask=painted == 1, background=0, white=255, iterations=2, device="cpu"
    )
    assert_array_equal(result.data, np.clip(right.image / np.float32(255), 0, 1))
