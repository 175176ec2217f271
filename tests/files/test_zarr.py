import shutil

import numpy as np
import pytest
import zarr

from napari_dmsp.errors import DmspError
from napari_dmsp.files import open_stack

PIXELS = np.random.default_rng(0).integers(0, 60000, (2, 3, 20, 30), np.uint16)


def multiscales(names="czyx", paths=("0",), units=None):
    scales = [1.0, 2.0, 0.5, 0.25][-len(names) :]
    axes = [{"name": name} | ({"unit": units} if units else {}) for name in names]
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [s * 2**i for s in scales]},
            ],
        }
        for i, path in enumerate(paths)
    ]
    return [{"axes": axes, "datasets": datasets}]


def make_group(path, attributes, zarr_format):
    if zarr_format == 3:
        attributes = {"ome": {"version": "0.5", **attributes}}
    return zarr.create_group(path, zarr_format=zarr_format, attributes=attributes)


def make_image(path, pixels=PIXELS, zarr_format=3, names="czyx", **extra):
    attributes = {"multiscales": multiscales(names, ("0", "1"))} | extra
    group = make_group(path, attributes, zarr_format)
    for name, level in (("0", pixels), ("1", pixels[..., ::2, ::2])):
        array = group.create_array(name, shape=level.shape, chunks=level.shape, dtype=level.dtype)
        array[:] = level
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_images_and_their_levels(tmp_path, zarr_format):
    path = make_image(tmp_path / "in.zarr", zarr_format=zarr_format)
    stack = open_stack(path)
    np.testing.assert_array_equal(stack.array.compute(), PIXELS)
    assert [(axis.name, axis.spacing) for axis in stack.axes] == list(
        zip("czyx", [1.0, 2.0, 0.5, 0.25], strict=True)
    )
    assert stack.zarr_format == zarr_format
    level = open_stack(path / "1")
    np.testing.assert_array_equal(level.array.compute(), PIXELS[..., ::2, ::2])
    assert [axis.spacing for axis in level.axes][-2:] == [1.0, 0.5]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata(tmp_path, zarr_format):
    path = make_image(tmp_path / "in.zarr", zarr_format=zarr_format)
    with pytest.MonkeyPatch.context() as patch:
        # Zarr says that it is not part of its format 3.
        patch.setattr("warnings.warn", lambda *_, **__: None)
        zarr.consolidate_metadata(path)
    np.testing.assert_array_equal(open_stack(path).array.compute(), PIXELS)


@pytest.mark.parametrize("names", ["czyx", "yxzc", "xyzc", "zyxt", "zxyc"])
def test_planes_are_rows_and_columns(tmp_path, names):
    path = make_image(tmp_path / "in.zarr", names=names)
    stack = open_stack(path)
    assert [axis.name for axis in stack.axes][-2:] == ["y", "x"]
    order = "".join(axis.name for axis in stack.axes)
    np.testing.assert_array_equal(stack.array.compute(), np.einsum(f"{names}->{order}", PIXELS))


def test_colours_behind_rows_and_columns(tmp_path):
    path = make_image(tmp_path / "in.zarr", PIXELS[:, :, :, :3], names="zxyc")
    stack = open_stack(path)
    assert stack.channel_axis == -1
    assert [axis.name for axis in stack.axes] == list("zyxc")
    np.testing.assert_array_equal(stack.array.compute(), PIXELS[..., :3].swapaxes(1, 2))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_arrays_may_name_their_axes(tmp_path, zarr_format):
    names = ["y", "x", "z", "t"]
    options = {"dimension_names": names} if zarr_format == 3 else {}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=PIXELS.shape, dtype="u2", zarr_format=zarr_format, **options
    )
    array[:] = PIXELS
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = names
    stack = open_stack(tmp_path / "a.zarr")
    assert [axis.name for axis in stack.axes] == ["z", "t", "y", "x"]
    np.testing.assert_array_equal(stack.array.compute(), PIXELS.transpose(2, 3, 0, 1))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_folders_of_bioformats2raw_say_what_to_name(tmp_path, zarr_format):
    path = tmp_path / "in.zarr"
    make_group(path, {"bioformats2raw.layout": 3}, zarr_format)
    make_group(path / "OME", {"series": ["0", "1", "10"]}, zarr_format)
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>", encoding="utf-8")
    for name in ("0", "10", "1"):
        make_image(path / name, zarr_format=zarr_format)
    with pytest.raises(DmspError, match=r"the images 0, 1, 10; name one of them.*in\.zarr.0\."):
        open_stack(path)
    np.testing.assert_array_equal(open_stack(path / "10").array.compute(), PIXELS)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plates_and_wells_say_what_to_name(tmp_path, zarr_format):
    path, wells = tmp_path / "plate.zarr", ["A/1", "B/2"]
    make_group(path, {"plate": {"wells": [{"path": well} for well in wells]}}, zarr_format)
    for well in wells:
        make_group(path / well[0], {}, zarr_format)
        make_group(path / well, {"well": {"images": [{"path": "0"}, {"path": "1"}]}}, zarr_format)
        for field in "01":
            make_image(path / well / field, zarr_format=zarr_format)
    with pytest.raises(DmspError, match=r"the images A/1/0, A/1/1, B/2/0, B/2/1; name one"):
        open_stack(path)
    with pytest.raises(DmspError, match=r"the images 0, 1; name one of them"):
        open_stack(path / "A" / "1")
    with pytest.raises(DmspError, match=r"the images 1/0, 1/1; name one"):
        open_stack(path / "A")
    np.testing.assert_array_equal(open_stack(path / "A" / "1" / "0").array.compute(), PIXELS)


def test_labels_are_no_images(tmp_path):
    path = make_image(tmp_path / "in.zarr")
    make_group(path / "labels", {"labels": ["nuclei"]}, 3)
    make_image(path / "labels" / "nuclei", **{"image-label": {}})
    np.testing.assert_array_equal(open_stack(path).array.compute(), PIXELS)
    for name in (path / "labels", path / "labels" / "nuclei"):
        with pytest.raises(DmspError, match="labels, not intensities"):
            open_stack(name)


def test_archives_and_empty_groups_are_refused(tmp_path):
    path = make_image(tmp_path / "in.zarr")
    shutil.make_archive(str(tmp_path / "in"), "zip", path)
    (tmp_path / "in.zip").rename(tmp_path / "packed.zarr")
    with pytest.raises(DmspError, match="Unpack archives first"):
        open_stack(tmp_path / "packed.zarr")
    zarr.create_group(tmp_path / "empty.zarr")
    with pytest.raises(DmspError, match="no array and no image"):
        open_stack(tmp_path / "empty.zarr")


def test_transparency_is_no_row_of_planes(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(20, 30, 4), dtype="u1")
    with pytest.raises(DmspError, match="as with transparency"):
        open_stack(tmp_path / "a.zarr")


def test_read_only_folders_are_read(tmp_path):
    path = make_image(tmp_path / "in.zarr")
    for part in (*path.rglob("*"), path):
        part.chmod(0o555 if part.is_dir() else 0o444)
    try:
        np.testing.assert_array_equal(open_stack(path).array.compute(), PIXELS)
    finally:
        for part in (path, *path.rglob("*")):
            part.chmod(0o755)
