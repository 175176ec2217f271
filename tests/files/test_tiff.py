"""Each kind of TIFF against another reader, Pillow, or tifffile's plain numbers."""

import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from napari_dmsp.errors import DmspError
from napari_dmsp.files import open_stack, read_image, read_mask, read_planes, write_image

GREY, RGB = (20, 30), (20, 30, 3)


def numbers(shape, dtype="u1", bits=None, seed=0):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    low, high = (0, 2**bits) if bits else (np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
    return rng.integers(low, high, shape, np.int64 if high < 2**62 else dtype).astype(dtype)


def read_both(path):
    """Read at once and lazily, which must agree."""
    picture, stack = read_planes(path), open_stack(path)
    np.testing.assert_array_equal(stack.array.compute(scheduler="synchronous"), picture.pixels)
    assert stack.array.dtype == picture.pixels.dtype
    assert picture.pixels.dtype.isnative
    assert (stack.channel_axis is None) == (picture.channel_axis is None)
    names = [axis.name for axis in stack.axes]
    assert "".join(names).rstrip("c") == f"{picture.axes}YX".lower()
    return picture


def refused(path, match):
    """Refuse at once and lazily, in one sentence."""
    for read in (read_planes, lambda path: open_stack(path).array.compute(scheduler="synchronous")):
        with pytest.raises(DmspError, match=match) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [GREY, RGB])
@pytest.mark.parametrize("kind", ["tiff_lzw", "zstd", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_compressions_of_libtiff(tmp_path, kind, shape):
    path = tmp_path / "in.tif"
    Image.fromarray(numbers(shape)).save(path, compression=kind)
    with Image.open(path) as image:
        expected = np.asarray(image)
    np.testing.assert_allclose(read_both(path).pixels, expected, atol=1 if kind == "jpeg" else 0)


@pytest.mark.parametrize("kind", ["group3", "group4", "packbits", "tiff_lzw"])
def test_bilevel_pages_of_scanners(tmp_path, kind):
    path = tmp_path / "in.tif"
    Image.fromarray(numbers(GREY) > 100).save(path, compression=kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(read_both(path).pixels, expected)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lerc", "webp", "png"])
@pytest.mark.parametrize("form", [{}, {"tile": (16, 16)}, {"rowsperstrip": 7}])
def test_other_compressions(tmp_path, compression, form):
    pixels = numbers(RGB)
    options = {"compressionargs": {"level": 100}} if compression == "webp" else {}
    tifffile.imwrite(
        tmp_path / "in.tif", pixels, photometric="rgb", compression=compression, **options, **form
    )
    expected = tifffile.imread(tmp_path / "in.tif")
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, expected)
    if compression != "webp":
        np.testing.assert_array_equal(expected, pixels)


@pytest.mark.parametrize(
    ("dtype", "predictor"), [("u1", 2), ("u2", 2), ("f4", 3), ("f2", 3), ("f8", 3)]
)
@pytest.mark.parametrize("byteorder", "<>")
def test_predictors(tmp_path, dtype, predictor, byteorder):
    pixels = numbers(GREY, dtype)
    options = {"compression": "zlib", "predictor": predictor, "byteorder": byteorder}
    tifffile.imwrite(tmp_path / "in.tif", pixels, bigtiff=True, **options)
    found = read_both(tmp_path / "in.tif").pixels
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == (np.float32 if dtype == "f2" else pixels.dtype)


def write_raw(path, data, shape, bits, photometric=1):
    """Write a classic TIFF of one strip by hand: other programs' own bytes."""
    samples = shape[2] if len(shape) == 3 else 1
    ifd = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\x08\0\0\0")
    ifd[256], ifd[257], ifd[258] = shape[1], shape[0], (bits,) * samples
    ifd[259], ifd[262], ifd[277], ifd[278] = 1, photometric, samples, shape[0]
    # Pillow adds where the directory ends.
    ifd[273], ifd[279] = 0, len(data)
    path.write_bytes(b"II*\0\x08\0\0\0" + ifd.tobytes(8) + data)


@pytest.mark.parametrize("shape", [GREY, RGB])
@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_packed_bits(tmp_path, bits, shape, white_is_zero):
    if white_is_zero and len(shape) == 3:
        pytest.skip("colours have no white that is zero")
    values = numbers(shape, "u2" if bits > 8 else "u1", bits)
    rows = values.reshape(shape[0], -1)
    shown = rows[..., None] >> np.arange(bits)[::-1] & 1
    data = np.packbits(shown.reshape(shape[0], -1).astype(np.uint8), axis=1).tobytes()
    kind = 2 if len(shape) == 3 else 0 if white_is_zero else 1
    write_raw(tmp_path / "in.tif", data, shape, bits, kind)
    top = 2**bits - 1
    expected = top - values.astype(int) if white_is_zero else values.astype(int)
    if bits < 8:
        # As shown: 0 is black and the largest number white.
        expected = np.rint(expected * 255 / top)
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, expected)
    if bits in (2, 4) and shape == GREY:
        with Image.open(tmp_path / "in.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
def test_white_is_zero(tmp_path, dtype):
    pixels = numbers(GREY, dtype)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="miniswhite")
    expected = ~pixels
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, expected)
    if dtype == "u1":
        with Image.open(tmp_path / "in.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), expected)
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.tif"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected)


def test_white_is_zero_of_floats_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", numbers(GREY, "f4"), photometric="miniswhite")
    refused(tmp_path / "in.tif", "least is white")


@pytest.mark.parametrize("colours", [2, 16, 200])
def test_palettes_become_colours(tmp_path, colours):
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[:200:20j, :250:30j], 77), -1).astype("u1")
    Image.fromarray(smooth).quantize(colours).save(tmp_path / "in.tif")
    with Image.open(tmp_path / "in.tif") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, expected)


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_of_other_kinds_are_refused(tmp_path, mode):
    Image.fromarray(numbers(RGB)).convert(mode).save(tmp_path / "in.tif")
    refused(tmp_path / "in.tif", f"{mode} colours; save it as grey or RGB")


@pytest.mark.parametrize("kind", ["raw", "tiff_lzw", "jpeg"])
def test_ycbcr(tmp_path, kind):
    if kind == "raw" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read the raw ones that it writes")
    smooth = np.stack(np.broadcast_arrays(*np.ogrid[:200:32j, :250:48j], 77), -1).astype("u1")
    path = tmp_path / "in.tif"
    Image.fromarray(smooth).convert("YCbCr").save(path, compression=kind)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(read_both(path).pixels, expected, atol=2)
    first, second = (Image.fromarray(part).convert("YCbCr") for part in (smooth, smooth[::-1]))
    first.save(path, compression=kind, save_all=True, append_images=[second])
    both = np.stack([expected, expected[::-1]])
    np.testing.assert_allclose(read_both(path).pixels, both, atol=32 if kind == "jpeg" else 2)


@pytest.mark.parametrize(
    "text", ['{"shape": [10, 8], "axes": "XY"}', '{"axes": "XY", "shape": [10, 8]}']
)
def test_axes_in_descriptions_of_tifffile_are_not_kept(tmp_path, text):
    pixels = numbers((10, 8))
    tifffile.imwrite(tmp_path / "in.tif", pixels, description=text, metadata=None)
    write_image(tmp_path / "out.tif", read_both(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert "XY" not in file.pages[0].description
        assert file.series[0].axes == "YX"
        np.testing.assert_array_equal(file.asarray(), pixels.T)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [GREY, RGB, (4, *GREY)])
def test_orientation(tmp_path, orientation, shape):
    pixels = numbers(shape)
    kind = "rgb" if shape == RGB else "minisblack"
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "in.tif", pixels, photometric=kind, extratags=tag, resolution=(4, 2)
    )
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels[0] if pixels.shape[0] == 4 else pixels).save(
        tmp_path / "in.png", exif=exif
    )
    with Image.open(tmp_path / "in.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = read_both(tmp_path / "in.tif")
    np.testing.assert_array_equal(picture.pixels[0] if picture.axes else picture.pixels, expected)
    write_image(tmp_path / "out.tif", picture)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.asarray(), picture.pixels)
        assert file.pages.first.tags.valueof(274, 1) == 1
        assert file.pages.first.resolution == ((2, 4) if orientation > 4 else (4, 2))


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("YXZ", "ZYX"),
        ("XYC", "CYX"),
        ("CYX", "CYX"),
        ("TZCYX", "TZCYX"),
        ("XYCZT", "CZTYX"),
        ("ZYXT", "ZTYX"),
        ("XY", "YX"),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_any_order_of_axes(tmp_path, axes, expected, compression):
    sizes = {"T": 2, "Z": 3, "C": 5, "Y": 8, "X": 10}
    pixels = numbers([sizes[axis] for axis in axes], "u2")
    options = {"metadata": {"axes": axes}, "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "in.tif", pixels, compression=compression, **options)
    picture = read_both(tmp_path / "in.tif")
    assert picture.axes == expected[:-2]
    upright = np.einsum(f"{axes.lower()}->{expected.lower()}", pixels)
    np.testing.assert_array_equal(picture.pixels, upright)
    write_image(tmp_path / "out.tif", picture)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.series[0].axes == expected
        np.testing.assert_array_equal(file.asarray(), upright)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_channels_that_are_samples_are_restored_one_by_one(tmp_path, planar, compression):
    pixels = numbers((5, *GREY), "u2")
    stored = pixels if planar == "separate" else np.moveaxis(pixels, 0, -1)
    options = {"photometric": "minisblack", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(tmp_path / "in.tif", stored, **options)
    picture = read_both(tmp_path / "in.tif")
    assert picture.axes == "C"
    np.testing.assert_array_equal(picture.pixels, pixels)


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_fourth_samples_stay_what_they_are(tmp_path, kind, planar):
    pixels = numbers((20, 30, 4))
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    options = {"photometric": "rgb", "planarconfig": planar, "extrasamples": [kind]}
    tifffile.imwrite(tmp_path / "in.tif", stored, **options)
    picture = read_both(tmp_path / "in.tif")
    np.testing.assert_array_equal(picture.alpha, pixels[..., 3])
    assert "transparency" in open_stack(tmp_path / "in.tif").warnings[0]
    write_image(tmp_path / "out.tif", picture)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert [e.name.lower() for e in file.pages.first.extrasamples] == [kind]
        np.testing.assert_array_equal(file.asarray(), pixels)


def test_premultiplied_colours_become_plain_in_png_files(tmp_path):
    pixels = numbers((20, 30, 4))
    pixels[..., 3] |= 1
    pixels[..., :3] = pixels[..., :3] * (pixels[..., 3:] / 255)
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(tmp_path / "in.tif", pixels, **options)
    write_image(tmp_path / "out.png", read_image(tmp_path / "in.tif"))
    with Image.open(tmp_path / "out.png") as image:
        again = np.asarray(image.convert("RGBa"))
    np.testing.assert_allclose(again, pixels, atol=1)


def test_previews_are_ignored(tmp_path):
    full, thumbnail = numbers((40, 60), "u2"), numbers((10, 15, 3))
    marked = {"photometric": "rgb", "subfiletype": 1}
    with tifffile.TiffWriter(tmp_path / "first.tif") as file:
        file.write(thumbnail, **marked)
        file.write(full)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for plane in (full, full + 1):
            file.write(plane, metadata=None)
            file.write(thumbnail, metadata=None, **marked)
    with tifffile.TiffWriter(tmp_path / "unmarked.tif") as file:
        file.write(full)
        file.write(thumbnail, photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "below.tif") as file:
        file.write(full, subifds=1)
        file.write(thumbnail, **marked)
    for name in ("first", "unmarked", "below"):
        picture = read_both(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(picture.pixels, full)
        assert "left out" in picture.warnings[0]
    np.testing.assert_array_equal(read_both(tmp_path / "pages.tif").pixels, [full, full + 1])


@pytest.mark.parametrize("ome", [False, True])
def test_full_resolution_of_pyramids(tmp_path, ome):
    full = numbers((64, 96), "u2")
    with tifffile.TiffWriter(tmp_path / "in.tif", ome=ome) as file:
        options = {"tile": (16, 16), "compression": "zlib"}
        file.write(full, subifds=2, **options)
        file.write(full[::2, ::2], subfiletype=1, **options)
        file.write(full[::4, ::4], subfiletype=1, **options)
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, full)


def test_several_images_are_listed(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        file.write(numbers(GREY), metadata={"Name": "cells"})
        file.write(numbers((10, 12), "u2"), metadata={"Name": "nuclei"})
    refused(tmp_path / "two.ome.tif", r"2 images \(0: cells \(20, 30\) uint8, 1: nuclei")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(64, 64), (5, 64, 64)])
def test_truncated_files(tmp_path, compression, shape):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, numbers(shape, "u2"), compression=compression, metadata=None)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, r"truncated|cannot be read")


def test_truncated_files_of_imagej(tmp_path):
    pixels = numbers((5, 64, 64), "u2")
    description = b"ImageJ=1.53t\nimages=5\nslices=5\n\0"
    tifffile.imwrite(tmp_path / "in.tif", pixels[0], description=description, metadata=None)
    whole = (tmp_path / "in.tif").read_bytes() + pixels[1:].tobytes()
    (tmp_path / "in.tif").write_bytes(whole)
    np.testing.assert_array_equal(read_both(tmp_path / "in.tif").pixels, pixels)
    (tmp_path / "in.tif").write_bytes(whole[:-100])
    refused(tmp_path / "in.tif", "truncated: pages are missing")


def test_missing_strips_are_said(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, numbers((64, 64)), compression="zlib", rowsperstrip=16, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages.first.databytecounts)
        counts[1] = 0
        file.pages.first.tags["StripByteCounts"].overwrite(counts)
    picture = read_both(path)
    assert (picture.pixels[16:32] == 0).all()
    assert "1 strips or tiles without data" in picture.warnings[0]


def test_pixels_without_data_are_said(tmp_path):
    pixels = numbers(GREY, "f4")
    pixels[3, :5] = -9999
    tag = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "in.tif", pixels, extratags=tag)
    assert read_planes(tmp_path / "in.tif").warnings[0].startswith("5 pixels are -9999")
    colours = numbers((*GREY, 3), "u1") // 2 + 1
    colours[3, :5], colours[4, 0, 0] = 0, 0
    tag = [(42113, "s", 0, "0", True)]
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb", extratags=tag)
    assert read_planes(tmp_path / "rgb.tif").warnings[0].startswith("5 pixels are 0")


@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_complex_numbers_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "in.tif", np.ones(GREY, dtype))
    refused(tmp_path / "in.tif", "dtype complex")


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8", "i1", "u4"])
def test_types_are_kept(tmp_path, dtype):
    pixels = numbers(GREY, dtype)
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    write_image(tmp_path / "out.tif", read_both(tmp_path / "in.tif"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pixels)


def test_large_imagej_files_are_read_lazily(tmp_path):
    """More than 4 GiB in one directory, as ImageJ writes them: nearly all of it a hole."""
    planes, side = 260, 4096 // 2
    description = f"ImageJ=1.53t\nimages={planes}\nslices={planes}\nloop=false\n\0".encode()
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, np.zeros((side, side), "u4"), description=description, metadata=None, byteorder=">"
    )
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[0]
    size = start + planes * side * side * 4
    assert size > 2**32
    last = numbers((side, side), "u4")
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(size - side * side * 4)
        file.write(last.astype(">u4").tobytes())
    stack = open_stack(path)
    assert stack.array.shape == (planes, side, side)
    np.testing.assert_array_equal(stack.array[-1].compute(scheduler="synchronous"), last)


def colour_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def described():
    """EXIF data with text, a rational, bytes, and a place."""
    exif = Image.Exif()
    exif[270], exif[305], exif[315] = "a caption", "SomeCamera 2", "someone"
    exif[271], exif[306], exif[33432] = "Maker", "2020:01:02 03:04:05", "(c) me"
    exif[0x8769] = {33434: TiffImagePlugin.IFDRational(1, 250), 34855: 400, 37510: b"ASCII\0\0\0x"}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif


def all_tags(path):
    """Read what a file says, with Pillow, but for the description of TIFF files.

    They have two of them, the second for tifffile, and Pillow before 13 takes the second.
    """
    with Image.open(path) as image:
        exif = image.getexif()
        plain = {code: exif.get(code) for code in (270, 271, 305, 306, 315, 33432)}
        parts = [exif.get_ifd(code) for code in (0x8769, 0x8825)]
        if path.suffix == ".tif":
            with tifffile.TiffFile(path) as file:
                plain[270] = file.pages[0].description
        details = {code: value for code, value in parts[0].items() if code in (33434, 34855, 37510)}
        return plain, details, parts[1], image.info.get("icc_profile"), exif.get(274, 1)


@pytest.mark.parametrize("source", ["png", "jpg", "tif"])
@pytest.mark.parametrize("target", ["png", "jpg", "tif"])
def test_what_files_say_is_kept(tmp_path, source, target):
    profile, exif = colour_profile(), described()
    exif[274] = 6
    given, made = tmp_path / f"in.{source}", tmp_path / f"out.{target}"
    options = {"icc_profile": profile, "exif": exif.tobytes(), "dpi": (300, 200)}
    Image.fromarray(numbers((20, 31, 3))).save(given, **options)
    expected = all_tags(given)
    assert expected[0][270] == "a caption"
    assert expected[1][34855] == 400
    write_image(made, read_image(given))
    assert all_tags(made) == (*expected[:4], 1)
    assert expected[3] == profile
    with Image.open(made) as image:
        assert image.size == (20, 31)
        # Pixels per metre are whole numbers in PNG files.
        np.testing.assert_allclose(np.float64(image.info["dpi"]), (200, 300), atol=0.1)


@pytest.mark.parametrize("target", ["tif", "jpg", "png"])
def test_sizes_in_exif_are_those_of_the_result(tmp_path, target):
    exif = Image.Exif()
    exif[0x8769] = {0xA002: 31, 0xA003: 20}
    Image.fromarray(numbers((20, 31, 3))).save(tmp_path / "in.jpg", exif=exif, dpi=(300, 300))
    finer = read_image(tmp_path / "in.jpg").with_pixels(numbers((40, 62, 3)))
    write_image(tmp_path / f"out.{target}", finer)
    with Image.open(tmp_path / f"out.{target}") as image:
        details = image.getexif().get_ifd(0x8769)
        assert (details[0xA002], details[0xA003]) == image.size == (62, 40)
        np.testing.assert_allclose(np.float64(image.info["dpi"]), 600, atol=0.1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_forms_of_png(tmp_path, mode):
    image = Image.fromarray(numbers((20, 30, 4)))
    image = Image.fromarray(numbers(GREY, "u2")) if mode == "I;16" else image
    image = image.convert("RGB").quantize(8) if mode == "P" else image
    image = image.convert(mode) if mode in ("1", "L", "LA", "RGB") else image
    clear = {"transparency": 3} if mode == "P" else {}
    image.save(tmp_path / "in.png", **clear)
    picture = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "in.png") as old, Image.open(tmp_path / "out.png") as new:
        wanted = {"P": "RGBA", "1": "L"}.get(mode, mode)
        assert new.mode == wanted
        expected = old if mode == "I;16" else old.convert(wanted)
        np.testing.assert_array_equal(np.asarray(new), np.asarray(expected))


def test_profiles_of_other_colours_are_not_kept(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, numbers(RGB), photometric="rgb", iccprofile=colour_profile())
    picture = read_image(path)
    grey = type(picture)(picture.pixels[..., 0], tags=picture.tags)
    for name in ("out.tif", "out.png"):
        write_image(tmp_path / name, grey)
        with Image.open(tmp_path / name) as image:
            assert "icc_profile" not in image.info


def test_text_of_png_and_comments_of_jpeg(tmp_path):
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Description", "cells, plate 3")
    Image.fromarray(numbers(GREY)).save(tmp_path / "in.png", pnginfo=text)
    write_image(tmp_path / "out.png", read_image(tmp_path / "in.png"))
    with Image.open(tmp_path / "out.png") as image:
        assert image.text == {"Description": "cells, plate 3"}
    Image.fromarray(numbers(GREY)).save(tmp_path / "in.jpg", comment="a note")
    write_image(tmp_path / "out.jpg", read_image(tmp_path / "in.jpg"))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.info["comment"] == b"a note"


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_descriptions_in_any_script(tmp_path, byteorder, bigtiff):
    options = {"byteorder": byteorder, "bigtiff": bigtiff, "software": "Scope 1.0"}
    tifffile.imwrite(
        tmp_path / "in.tif", numbers(GREY), description="5 µm 細胞".encode(), **options
    )
    write_image(tmp_path / "out.tif", read_image(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.description == "5 µm 細胞"
        assert file.pages.first.software == "Scope 1.0"


def test_colours_in_which_imagej_shows_grey_are_kept(tmp_path):
    green = np.zeros((3, 256), "u2")
    green[1] = np.arange(256) * 257
    tifffile.imwrite(tmp_path / "in.tif", numbers(GREY), imagej=True, colormap=green)
    write_image(tmp_path / "out.tif", read_both(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.pages.first.colormap, green)
        assert file.is_imagej


def test_16_bit_palette_of_a_microscope_is_no_colour(tmp_path):
    pixels = numbers(GREY, "u2")
    red = np.zeros((3, 65536), "u2")
    red[0] = np.arange(65536)
    tifffile.imwrite(tmp_path / "in.ome.tif", pixels, ome=True, photometric="palette", colormap=red)
    np.testing.assert_array_equal(read_both(tmp_path / "in.ome.tif").pixels, pixels)


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"ome": True}])
def test_a_boolean_mask_of_numpy_is_read_as_it_was(tmp_path, options):
    mask = np.random.default_rng(0).random((20, 30)) < 0.2
    tifffile.imwrite(tmp_path / "mask.tif", mask, **options)
    assert np.array_equal(read_mask(tmp_path / "mask.tif"), mask)
    # Other programs mean what the tag says.
    Image.fromarray(mask).save(tmp_path / "fax.tif", compression="group4")
    assert np.array_equal(read_mask(tmp_path / "fax.tif"), mask)
