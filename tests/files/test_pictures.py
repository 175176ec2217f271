import json
from xml.etree import ElementTree

import imagecodecs
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dmsp.dtypes import fit_dtype
from napari_dmsp.errors import DmspError
from napari_dmsp.files import (
    Picture,
    check_output,
    check_psf_output,
    open_stack,
    read_image,
    read_mask,
    read_planes,
    read_psf,
    write_image,
    write_json,
    write_psf,
)

GREY, RGB, RGBA, GREY_ALPHA = (20, 30), (20, 30, 3), (20, 30, 4), (20, 30, 2)


def random_image(shape, dtype, seed=0):
    dtype = np.dtype(dtype)
    top = 1 if dtype.kind == "f" else min(np.iinfo(dtype).max, 2**31)
    return (np.random.default_rng(seed).random(shape) * top).astype(dtype)


def split(array):
    """Make the picture that an array with samples along its last axis stands for."""
    if array.ndim == 2:
        return Picture(array)
    if array.shape[-1] == 2:
        return Picture(array[..., 0], array[..., 1])
    return Picture(array[..., :3], array[..., 3] if array.shape[-1] == 4 else None)


@pytest.mark.parametrize("suffix", [".tif", ".TIFF"])
@pytest.mark.parametrize("shape", [GREY, RGB, RGBA, GREY_ALPHA])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4", "f4"])
def test_tiff_round_trip(tmp_path, shape, dtype, suffix):
    path, image = tmp_path / f"image{suffix}", random_image(shape, dtype)
    write_image(path, split(image))
    picture = read_image(path)
    assert picture.pixels.dtype == image.dtype
    np.testing.assert_array_equal(picture.pixels, split(image).pixels)
    np.testing.assert_equal(picture.alpha, split(image).alpha)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(GREY, "u1"), (RGB, "u1"), (RGBA, "u1"), (GREY_ALPHA, "u1"), (GREY, "u2")],
)
def test_png_round_trip(tmp_path, shape, dtype):
    path, image = tmp_path / "image.png", random_image(shape, dtype)
    picture = split(image)
    check_output(path, picture, image.dtype, [tmp_path / "other.png"])
    write_image(path, picture)
    np.testing.assert_array_equal(iio.imread(path), image)
    assert read_image(path).channel_axis == picture.channel_axis


@pytest.mark.parametrize("shape", [GREY, RGB])
def test_jpeg_round_trip(tmp_path, shape):
    path = tmp_path / "image.jpg"
    image = np.full(shape, 120, np.uint8)
    write_image(path, Picture(image))
    assert read_image(path).pixels.shape == shape
    np.testing.assert_allclose(read_image(path).pixels, image, atol=2)


def test_planar_and_big_endian_tiff(tmp_path):
    image = random_image(RGB, "u2")
    path = tmp_path / "planar.tif"
    tifffile.imwrite(
        path, np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate", byteorder=">"
    )
    picture = read_image(path)
    np.testing.assert_array_equal(picture.pixels, image)
    assert picture.pixels.dtype.isnative


def test_one_bit_becomes_8_bits(tmp_path):
    Image.fromarray(random_image(GREY, "u1") > 100).save(tmp_path / "mask.png")
    assert set(np.unique(read_image(tmp_path / "mask.png").pixels)) == {0, 255}


def test_jpeg_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_image(RGB, "u1")).save(tmp_path / "phone.jpg", exif=exif)
    assert read_image(tmp_path / "phone.jpg").pixels.shape == (30, 20, 3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "i4"])
def test_resolution_is_kept(tmp_path, dtype):
    image = random_image(GREY, dtype)
    tifffile.imwrite(tmp_path / "in.tif", image, resolution=(3.5, 2), resolutionunit="CENTIMETER")
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.resolution == (3.5, 2)
        assert file.pages.first.resolutionunit == tifffile.RESUNIT.CENTIMETER


@pytest.mark.parametrize("output", ["u2", "f4"])
def test_imagej_unit_is_kept(tmp_path, output):
    image = random_image(GREY, "u2")
    metadata = {"unit": "micron", "axes": "YX"}
    tifffile.imwrite(
        tmp_path / "in.tif", image, imagej=True, resolution=(3.5, 2), metadata=metadata
    )
    picture = read_image(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", Picture(image.astype(output), None, picture.tags))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.resolution == (3.5, 2)
        assert file.imagej_metadata["unit"] == "micron"


def test_imagej_unit_with_a_micro_sign_is_kept(tmp_path):
    # As old versions wrote it; new ones write \u00B5m.
    description = b"ImageJ=1.43c\nunit=\xb5m\n\0"
    image = random_image(GREY, "u1")
    tifffile.imwrite(
        tmp_path / "in.tif", image, resolution=(5, 5), description=description, metadata=None
    )
    for source, target in (("in", "out"), ("out", "again")):
        write_image(tmp_path / f"{target}.tif", read_image(tmp_path / f"{source}.tif"))
        with tifffile.TiffFile(tmp_path / f"{target}.tif") as file:
            assert file.imagej_metadata["unit"] == r"\u00B5m"
            assert file.pages.first.resolution == (5, 5)


def test_resolution_of_ome_files_without_pixel_size_is_kept(tmp_path):
    image = random_image(GREY, "u1")
    tifffile.imwrite(tmp_path / "in.ome.tif", image, ome=True, resolution=(5, 4))
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.ome.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.resolution == (5, 4)


def test_ome_pixel_size_is_kept(tmp_path):
    sizes = {
        "PhysicalSizeX": 0.1,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.2,
        "PhysicalSizeYUnit": "µm",
    }
    image = random_image(GREY, "u2")
    tifffile.imwrite(tmp_path / "in.ome.tif", image, metadata={**sizes, "axes": "YX"}, ome=True)
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.ome.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        for key, value in sizes.items():
            assert f'{key}="{value}"' in file.ome_metadata


def test_ome_positions_follow_the_grid(tmp_path):
    path, out = tmp_path / "in.tif", tmp_path / "out.tif"
    stack = random_image((2, 3, 20, 30), "u2")
    metadata = {"axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.75, "PhysicalSizeZ": 2.0}
    places = {"PositionX": [1.5] * 6, "PositionXUnit": ["mm"] * 6}
    places |= {"PositionY": [-8.0] * 6, "PositionYUnit": ["µm"] * 6}
    places |= {"PositionZ": [10.0, 12.0, 14.0] * 2, "PositionZUnit": ["µm"] * 6}
    tifffile.imwrite(path, stack, ome=True, metadata={**metadata, "Plane": places})
    assert [axis.origin for axis in open_stack(path).axes] == [0, 10, -8, 1500]
    # Three times the rows, twice the columns: the first pixel lies nearer to the edge.
    write_image(out, read_planes(path).with_pixels(random_image((2, 3, 60, 60), "u2")))
    assert [axis.origin for axis in open_stack(out).axes] == [0, 10, -8.25, 1499.875]
    with tifffile.TiffFile(out) as file:
        last = ElementTree.fromstring(file.ome_metadata).findall(".//{*}Plane")[-1]
    assert [last.attrib[f"The{name}"] for name in "CZT"] == ["1", "2", "0"]
    assert (last.attrib["PositionZ"], last.attrib["PositionZUnit"]) == ("14.0", "µm")


def test_positions_without_a_length_are_left_out(tmp_path):
    metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    places = {"PositionX": [3.0], "PositionY": [4.0], "PositionYUnit": ["reference frame"]}
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, random_image(GREY, "u2"), ome=True, metadata={**metadata, "Plane": places}
    )
    assert [axis.origin for axis in open_stack(path).axes] == [0, 0]


@pytest.mark.parametrize("kind", ["plain", "imagej", "ome"])
def test_pixel_size_follows_the_grid(tmp_path, kind):
    path, out = tmp_path / "in.tif", tmp_path / "out.tif"
    image = random_image(GREY, "u2")
    if kind == "ome":
        sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.75}
        tifffile.imwrite(path, image, ome=True, metadata={**sizes, "axes": "YX"})
    else:
        metadata = {"unit": "micron", "axes": "YX"} if kind == "imagej" else None
        tifffile.imwrite(
            path, image, imagej=kind == "imagej", resolution=(3.5, 2), metadata=metadata
        )
    # Three times the rows, twice the columns.
    picture = read_image(path).with_pixels(random_image((60, 60), "u2"))
    write_image(out, picture)
    with tifffile.TiffFile(out) as file:
        if kind == "ome":
            assert 'PhysicalSizeX="0.25"' in file.ome_metadata
            assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata
            assert 'PhysicalSizeY="0.25"' in file.ome_metadata
        else:
            assert file.pages.first.resolution == (7, 6)
        if kind == "imagej":
            assert file.imagej_metadata["unit"] == "micron"
    again = picture.with_pixels(picture.pixels)
    assert again.tags == picture.tags


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_transparency_follows_the_grid(dtype):
    # Bilinear interpolation leaves a plane where it is, but for the outermost pixels.
    rows, columns = np.indices(GREY)
    alpha = (8 * rows + 2 * columns).astype(dtype)
    finer = Picture(random_image(GREY, dtype), alpha).with_pixels(np.zeros((40, 45), dtype)).alpha
    assert finer.shape == (40, 45)
    assert finer.dtype == alpha.dtype
    y, x = (np.arange(40) + 0.5) / 2 - 0.5, (np.arange(45) + 0.5) / 1.5 - 0.5
    plane = 8 * y[:, None] + 2 * x
    # Integers are rounded.
    np.testing.assert_allclose(finer[1:-1, 1:-1], plane[1:-1, 1:-1], atol=0.501)


def test_stack_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", random_image((5, 20, 30), "u1"))
    with pytest.raises(DmspError, match=r"shape \(5, 20, 30\).*one by one"):
        read_image(tmp_path / "stack.tif")


@pytest.mark.parametrize(
    ("shape", "axes", "kind"),
    [
        ((5, 20, 30), "Q", {}),
        ((3, 20, 30, 3), "Q", {"photometric": "rgb"}),
        ((3, 20, 30, 4), "Q", {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        ((2, 3, 20, 30), "TC", {"imagej": True, "metadata": {"axes": "TCYX", "mode": "color"}}),
        ((2, 3, 20, 30), "CZ", {"ome": True, "metadata": {"axes": "CZYX", "PhysicalSizeZ": 0.7}}),
    ],
)
def test_stacks_are_read_and_written(tmp_path, shape, axes, kind):
    pixels = random_image(shape, "u1")
    tifffile.imwrite(tmp_path / "in.tif", pixels, resolution=(4, 2), **kind)
    picture = read_planes(tmp_path / "in.tif")
    assert picture.axes == axes
    single = split(pixels[(0,) * len(axes)])
    assert picture.channel_axis == single.channel_axis
    assert (picture.alpha is None) == (single.alpha is None)
    write_image(tmp_path / "out.tif", picture)
    with (
        tifffile.TiffFile(tmp_path / "in.tif") as old,
        tifffile.TiffFile(tmp_path / "out.tif") as new,
    ):
        np.testing.assert_array_equal(new.asarray(), pixels)
        assert new.series[0].axes == old.series[0].axes
        # OME has sizes of its own.
        assert new.pages.first.resolution == ((1, 1) if "ome" in kind else (4, 2))
        if "imagej" in kind:
            assert new.imagej_metadata["mode"] == "color"
        if "ome" in kind:
            assert 'PhysicalSizeZ="0.7"' in new.ome_metadata
    finer = picture.with_pixels(
        np.repeat(np.repeat(picture.pixels, 2, len(axes)), 2, len(axes) + 1)
    )
    if picture.alpha is not None:
        assert finer.alpha.shape == finer.pixels.shape[:-1]


def written_like(tmp_path, pixels, **kind):
    """Write a file, read it, write what was read, and open that."""
    tifffile.imwrite(tmp_path / "in.tif", pixels, **kind)
    picture = read_planes(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pixels)
    return picture, tifffile.TiffFile(tmp_path / "out.tif")


def test_imagej_stacks_stay_what_they_are(tmp_path):
    pixels = random_image((2, 3, 20, 30), "u2")
    known = {"tunit": "min", "finterval": 2.0, "mode": "composite", "Labels": list("abcdef")}
    metadata = known | {"axes": "TCYX"}
    _, file = written_like(tmp_path, pixels, imagej=True, metadata=metadata)
    with file:
        assert {name: file.imagej_metadata[name] for name in known} == known
    # Also without any size, and of signed numbers.
    metadata = {"axes": "TCYX"}
    _, file = written_like(tmp_path, pixels.astype("i2"), imagej=True, metadata=metadata)
    with file:
        assert file.imagej_metadata["channels"] == 3


@pytest.mark.parametrize(
    ("text", "axes", "imagej"),
    [("images=5\nunit=um", "Z", True), ("images=6\nchannels=3\nframes=2\norder=tzc", "CT", False)],
)
def test_imagej_files_in_another_order(tmp_path, text, axes, imagej):
    pixels = random_image((int(text[7]), 20, 30), "u2")
    description = f"ImageJ=1.28u\n{text}\n\0".encode()
    tifffile.imwrite(tmp_path / "in.tif", pixels, description=description, metadata=None)
    picture = read_planes(tmp_path / "in.tif")
    assert picture.axes == axes
    write_image(tmp_path / "out.tif", picture)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.is_imagej is imagej
        np.testing.assert_array_equal(file.asarray(), picture.pixels)


def test_ome_channels_keep_their_names(tmp_path):
    pixels = random_image((2, 20, 30), "u2")
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "a & b"]}}
    _, file = written_like(tmp_path, pixels, ome=True, metadata=metadata, resolution=(5, 4))
    with file:
        assert file.series[0].axes == "CYX"
        assert 'Name="DAPI"' in file.ome_metadata
        assert 'Name="a &amp; b"' in file.ome_metadata
        assert file.pages.first.resolution == (5, 4)


def test_narrow_planes_of_named_axes_are_no_colours(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", random_image((6, 20, 4), "u1"), metadata={"axes": "CYX"})
    assert read_planes(tmp_path / "in.tif").axes == "C"


def test_parts_of_a_stack_of_several_files_are_refused(tmp_path):
    names = ["a.ome.tif", "b.ome.tif"]
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(2)]
    parts = "".join(
        f'<TiffData FirstT="{i}" IFD="0" PlaneCount="1"><UUID FileName="{names[i]}">{ids[i]}</UUID>'
        "</TiffData>"
        for i in range(2)
    )
    for name, identifier in zip(names, ids, strict=True):
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{identifier}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            'Type="uint16" SizeX="30" SizeY="20" SizeZ="1" SizeC="1" SizeT="2">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            tmp_path / name, random_image(GREY, "u2"), description=text.encode(), metadata=None
        )
    for path in (tmp_path / name for name in names):
        with pytest.raises(DmspError, match="one of several files"):
            read_planes(path)
    # Also where the others are missing.
    (tmp_path / names[1]).unlink()
    with pytest.raises(DmspError, match="one of several files"):
        read_planes(tmp_path / names[0])


def test_grey_values_that_imagej_shows_in_colours(tmp_path):
    pixels = random_image((3, 20, 30), "u1")
    green = np.zeros((3, 256), "u2")
    green[1] = np.arange(256) * 257
    tifffile.imwrite(tmp_path / "in.tif", pixels, imagej=True, colormap=green)
    picture = read_planes(tmp_path / "in.tif")
    np.testing.assert_array_equal(picture.pixels, pixels)


def test_one_page_is_one_image(tmp_path):
    psf = np.ones((1, 5, 5), "f4")
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    assert read_psf(tmp_path / "psf.tif").shape == (5, 5)


def test_a_mask_is_for_all_planes(tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros((6, 20, 30), bool))
    with pytest.raises(DmspError, match=r"shape \(6, 20, 30\).*all planes"):
        read_mask(tmp_path / "mask.npy")


def test_several_images_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(random_image(GREY, "u1"))
        file.write(random_image((10, 12), "u2"))
    with pytest.raises(DmspError, match="holds 2 images"):
        read_image(tmp_path / "two.tif")


def test_cmyk_is_refused(tmp_path):
    Image.fromarray(random_image(RGB, "u1")).convert("CMYK").save(tmp_path / "in.jpg")
    with pytest.raises(DmspError, match="CMYK"):
        read_image(tmp_path / "in.jpg")


def test_16_bit_colour_png_is_refused(tmp_path):
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(random_image(RGB, "u2")))
    with pytest.raises(DmspError, match="16 bits"):
        read_image(tmp_path / "in.png")


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_unsupported_dtypes_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "in.tif", np.ones(GREY, dtype))
    with pytest.raises(DmspError, match="dtype"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_broken_file(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(DmspError, match="cannot be read"):
        read_image(path)


def test_missing_or_unknown_file(tmp_path):
    with pytest.raises(DmspError, match="is not a file"):
        read_image(tmp_path / "missing.tif")
    (tmp_path / "text.txt").touch()
    with pytest.raises(DmspError, match="unknown kind"):
        read_image(tmp_path / "text.txt")


def test_psf_files(tmp_path):
    psf = random_image((5, 7), "u1")
    iio.imwrite(tmp_path / "grey.png", psf)
    iio.imwrite(tmp_path / "colour.png", np.stack([psf] * 3, -1))
    tifffile.imwrite(tmp_path / "psf.tif", psf)
    np.save(tmp_path / "psf.npy", psf)
    for name in ("grey.png", "colour.png", "psf.tif", "psf.npy"):
        np.testing.assert_array_equal(read_psf(tmp_path / name), psf)


def test_written_psf_is_read_again(tmp_path):
    psf = random_image((5, 7), "f4")
    for name in ("psf.npy", "psf.NPY", "psf.tif"):
        write_psf(tmp_path / name, psf)
        np.testing.assert_array_equal(read_psf(tmp_path / name), psf)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("psf.png", "unknown kind"),
        ("old.npy", "--overwrite"),
        ("out.npy", "named twice"),
        ("missing/psf.npy", "does not exist"),
    ],
)
def test_psf_output_is_checked(tmp_path, name, message):
    (tmp_path / "old.npy").touch()
    with pytest.raises(DmspError, match=message):
        check_psf_output(tmp_path / name, [], others=[tmp_path / "out.npy"])


def test_mask_files(tmp_path):
    mask = random_image(GREY, "u1") > 200
    Image.fromarray(mask).save(tmp_path / "bits.png")
    iio.imwrite(tmp_path / "grey.png", mask.astype(np.uint8))
    iio.imwrite(tmp_path / "red.png", mask[..., None] * np.uint8([255, 0, 0]))
    tifffile.imwrite(tmp_path / "labels.tif", mask * np.uint16(700))
    np.save(tmp_path / "mask.npy", mask)
    for name in ("bits.png", "grey.png", "red.png", "labels.tif", "mask.npy"):
        read = read_mask(tmp_path / name)
        assert read.dtype == bool
        np.testing.assert_array_equal(read, mask)
    iio.imwrite(tmp_path / "mask.jpg", mask.astype(np.uint8))
    with pytest.raises(DmspError, match="unknown kind"):
        read_mask(tmp_path / "mask.jpg")


def test_bad_psf_files(tmp_path):
    iio.imwrite(tmp_path / "colour.png", random_image(RGB, "u1"))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    for name, message in [
        ("colour.png", "in colour"),
        ("broken.npy", "cannot be read"),
        ("object.npy", "cannot be read"),
        ("missing.npy", "is not a file"),
    ]:
        with pytest.raises(DmspError, match=message):
            read_psf(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("out.bmp", GREY, "u1", "unknown kind"),
        ("out", GREY, "u1", "unknown kind"),
        ("out.png", GREY, "f4", "float32"),
        ("out.png", GREY, "u4", "uint32"),
        ("out.png", RGB, "u2", "in grey"),
        ("out.png", GREY_ALPHA, "u2", "in grey"),
        ("out.jpg", GREY, "u2", "uint16"),
        ("out.jpg", RGBA, "u1", "transparency"),
        ("missing/out.tif", GREY, "u1", "does not exist"),
        ("in.tif", GREY, "u1", "an input too"),
        ("old.tif", GREY, "u1", "--overwrite"),
        ("folder.tif", GREY, "u1", "is a folder"),
    ],
)
def test_output_is_checked(tmp_path, name, shape, dtype, message):
    source = tmp_path / "in.tif"
    source.touch()
    (tmp_path / "old.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(DmspError, match=message):
        check_output(tmp_path / name, split(np.ones(shape, dtype)), np.dtype(dtype), [source])


def test_unwritable_folder(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError("no")

    # Permissions do not bind the superuser, who may run the tests.
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DmspError, match="cannot be written to"):
        check_output(tmp_path / "out.tif", Picture(np.ones(GREY)), np.dtype("u1"), [])


def test_fit_dtype_rounds_and_clips():
    values = np.float32([-1.4, -0.4, 1.5, 2.6, 3e9, 1e10])
    assert fit_dtype(values, np.dtype("u1")).tolist() == [0, 0, 2, 3, 255, 255]
    assert fit_dtype(values, np.dtype("i4")).tolist() == [-1, 0, 2, 3, 2**31 - 1, 2**31 - 1]
    assert fit_dtype(values, np.dtype("u4")).tolist()[-2:] == [3_000_000_000, 2**32 - 1]
    np.testing.assert_array_equal(fit_dtype(values, np.dtype("f4")), values)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(DmspError, match="disk full"):
        write_image(path, Picture(np.zeros((4, 4), np.uint8)))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(path, *args, **options):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "out.tif", Picture(np.zeros((4, 4), np.uint8)))
    assert not list(tmp_path.iterdir())


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1, float("inf")], "c": "NaN"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1, None], "c": "NaN"}


def test_escaped_ome_units_are_read(tmp_path):
    plain, escaped, copy = (tmp_path / f"{n}.ome.tif" for n in ("plain", "escaped", "copy"))
    image = random_image(GREY, "u1")
    metadata = {"PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm", "axes": "YX"}
    tifffile.imwrite(plain, image, ome=True, metadata=metadata)
    with tifffile.TiffFile(plain) as file:
        text = file.ome_metadata.replace("µm", "&#181;m")
    assert "&#181;m" in text
    tifffile.imwrite(escaped, image, description=text.encode(), metadata=None)
    write_image(copy, read_image(escaped))
    with tifffile.TiffFile(copy) as file:
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata
