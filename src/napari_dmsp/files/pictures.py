"""Pictures: images and stacks from files, checked and written as the same kinds of files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from ..dtypes import fit_dtype
from ..errors import DmspError
from . import tags as notes
from .records import check_readable, check_writable, reading, written_whole
from .stacks import MICROMETRES, TIFF, Axis, Picture, Stack
from .tiff import describe_tiff, open_tiff, read_tiff, tiff_optics, write_tiff

PNG, JPEG = {".png"}, {".jpg", ".jpeg"}
SUFFIXES = TIFF | PNG | JPEG
NUMPY = {".npy"}


def read_image(path: Path) -> Picture:
    """Read a grey or colour image; a `DmspError` says what is wrong, also with stacks."""
    picture = read_planes(path)
    lead = len(picture.axes)
    if set(picture.pixels.shape[:lead]) == {1}:
        index, alpha = (0,) * lead, picture.alpha
        alpha = None if alpha is None else alpha[index]
        picture = replace(picture, pixels=picture.pixels[index], alpha=alpha, axes="")
    if picture.axes:
        raise DmspError(
            f"{path} has shape {picture.pixels.shape}; expected (H, W), or (H, W, 3) for colour. "
            "Save the planes of a stack, or its channels, one by one."
        )
    return picture


def read_planes(path: Path) -> Picture:
    """Read a grey or colour image, or a stack of them from a TIFF file."""
    suffix = _check_readable(path, SUFFIXES)
    with reading(path):
        picture = Picture(*read_tiff(path)) if suffix in TIFF else _read_photo(path)
    lead = len(picture.axes)
    pixels = picture.pixels
    if pixels.ndim < lead + 2 or pixels.shape[lead + 2 :] not in ((), (3,)) or 0 in pixels.shape:
        raise DmspError(f"{path} has shape {pixels.shape}; expected (..., H, W) or (..., H, W, 3).")
    return picture


def open_stack(path: str | Path) -> Stack:
    """Open a zarr array, the full resolution of an OME-Zarr image, or a TIFF file, lazily.

    Parameters
    ----------
    path : str or Path
        A zarr folder, also an array in it, or a .tif file: uncompressed ones are mapped to memory,
        others are read page by page.

    Returns
    -------
    Stack
        With the rows and columns of planes as the last axes, but for colours.

    Raises
    ------
    DmspError
        For what is neither, or holds several images, which are then named.
    """
    # Workers may run elsewhere.
    path = Path(path).absolute()
    if not os.path.exists(path):
        raise DmspError(f"{path} does not exist; check the name.")
    with reading(path):
        if path.suffix.lower() in TIFF:
            return replace(open_tiff(path), path=path)
        from .zarr import open_zarr

        return replace(open_zarr(path), path=path)


def describe(path: Path) -> tuple[list[str], tuple[int, ...], dict[str, float]]:
    """Return the names and lengths of an image's axes, and the sizes of its pixels in micrometres.

    Sizes are of the axes whose size the file tells. TIFF files are not read for it.
    """
    suffix = path.suffix.lower()
    if suffix in TIFF:
        check_readable(path)
        with reading(path):
            axes, shape = describe_tiff(path)
    elif any(part.suffix.lower() == ".zarr" for part in (path, *path.parents)):
        stack = open_stack(path)
        axes, shape = stack.axes, stack.array.shape
    else:
        shape = read_image(path).pixels.shape
        axes = tuple(Axis(name) for name in "yxs"[: len(shape)])
    if not axes:
        axes = tuple(Axis(name) for name in "tczyx"[-len(shape) :])
    sizes = {a.name: a.spacing * MICROMETRES[a.unit] for a in axes if a.unit in MICROMETRES}
    return [axis.name for axis in axes], shape, sizes


def read_optics(path: Path, channel: int | None = None) -> dict[str, float]:
    """Return what the metadata of a file say of its microscope, as `microscope_psf` takes it.

    Parameters
    ----------
    path : Path
        An image; only OME-TIFF tells anything.
    channel : int, optional
        Whose wavelengths are told; by default those that all channels share.

    Returns
    -------
    dict
        ``na``, ``immersion_index``, ``wavelength`` and ``excitation_wavelength`` in micrometres, as
        far as they are known.
    """
    if path.suffix.lower() not in TIFF:
        return {}
    check_readable(path)
    with reading(path):
        return tiff_optics(path, channel)


def read_psf(path: Path) -> NDArray[Any]:
    """Read a point spread function (kh, kw) from an image or a NumPy file.

    A TIFF with one axis of planes, or an array of three axes, is one of a volume (kd, kh, kw); one
    with two holds one for each channel.
    """
    if _check_readable(path, SUFFIXES | NUMPY) in NUMPY:
        return _read_numpy(path)
    picture = read_planes(path)
    if picture.channel_axis is None:
        psf, lead = picture.pixels, picture.axes
        # Files may have axes of one step, and channels after the depth.
        order = sorted(range(len(lead)), key=lambda i: lead[i] != "C")
        psf = psf.transpose([*order, -2, -1])
        return psf.squeeze(tuple(i for i in range(len(lead)) if psf.shape[i] == 1))
    psf = read_image(path).pixels
    if psf.ndim == 3:
        # Drawing programs save grey as colour.
        if (psf != psf[..., :1]).any():
            raise DmspError(f"psf {path} is in colour; save it as a grey image.")
        psf = psf[..., 0]
    return psf


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask (H, W) from an image or a NumPy file: True where a pixel is not zero."""
    # JPEG does not keep zeros.
    if _check_readable(path, TIFF | PNG | NUMPY) in NUMPY:
        mask = _read_numpy(path)
    else:
        mask = read_image(path).pixels
    if mask.ndim == 3 and mask.shape[-1] <= 4:
        mask = np.asarray(mask.any(axis=-1))
    if mask.ndim != 2:
        raise DmspError(f"{path} has shape {mask.shape}; one mask (H, W) is for all planes.")
    return np.asarray(mask, dtype=bool)


def images_among(paths: Iterable[Path]) -> list[Path]:
    """Return the images among paths, sorted; hidden files are other programs' notes on images."""
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def check_output(
    path: Path,
    picture: Picture,
    dtype: np.dtype[Any],
    inputs: Collection[Path],
    overwrite: bool = False,
    others: Collection[Path] = (),
) -> None:
    """Raise a `DmspError` unless `write_image` will be able to write ``path``.

    ``picture`` is of the form that the output will have; ``inputs`` and the ``others`` that will be
    written are never overwritten.
    """
    suffix = _check_suffix(path, SUFFIXES)
    check_writable(path, overwrite, inputs, others)
    if suffix in TIFF:
        return
    if picture.axes:
        raise DmspError(f"{suffix} files cannot hold a stack; write a .tif file.")
    if dtype != np.uint8 and not (suffix in PNG and dtype == np.uint16):
        raise DmspError(f"{suffix} files cannot hold {dtype} pixels; write a .tif file.")
    if suffix in PNG and dtype == np.uint16 and (picture.channel_axis or picture.alpha is not None):
        raise DmspError("16-bit .png files can only be written in grey; write a .tif file.")
    if suffix in JPEG and picture.alpha is not None:
        raise DmspError(f"{suffix} files cannot hold transparency; write a .png or .tif file.")


def fitting_suffix(source: Path, floats: bool = False, colour: bool = False) -> str:
    """Return the suffix for a result: the one of ``source``, or .tif where that cannot hold it.

    The pixels may become ``floats``, and a grey image one in ``colour``; of the source, no more
    than the header is read.
    """
    suffix = source.suffix.lower()
    if suffix in TIFF or not (floats or (colour and suffix in PNG)):
        return source.suffix
    try:
        with Image.open(source) as image:
            lost = floats or image.mode.startswith("I")
    except (OSError, ValueError):
        # What is wrong is said when it is its turn.
        lost = floats
    return ".tif" if lost else source.suffix


def check_psf_output(
    path: Path,
    inputs: Collection[Path],
    overwrite: bool = False,
    others: Collection[Path] = (),
) -> None:
    """Make sure that `write_psf` will be able to write ``path``, as `check_output` does."""
    _check_suffix(path, TIFF | NUMPY)
    check_writable(path, overwrite, inputs, others)


def write_image(path: Path, picture: Picture) -> None:
    """Write a picture; `check_output` says beforehand whether that will work."""
    pixels = picture.pixels
    suffix = _check_suffix(path, SUFFIXES)
    if suffix in PNG and picture.tags.get("extrasamples") == "assocalpha":
        pixels = _divide(pixels, picture.alpha)
    if picture.alpha is not None:
        colours = pixels[..., None] if picture.channel_axis is None else pixels
        alpha = picture.alpha.astype(pixels.dtype)[..., None]
        pixels = np.concatenate([colours, alpha], axis=-1)
    with written_whole(path) as partial:
        if suffix in TIFF:
            write_tiff(partial, pixels, picture)
        else:
            _write_photo(partial, pixels, picture)


def write_psf(path: Path, psf: NDArray[np.float32]) -> None:
    """Write a point spread function for `read_psf`, or a stack of them.

    `check_psf_output` says if that will work.
    """
    if _check_suffix(path, TIFF | NUMPY) in TIFF:
        write_image(path, Picture(psf, axes="Z" * (psf.ndim - 2)))
        return
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, psf)


def _check_suffix(path: Path, suffixes: set[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise DmspError(f"{path} is of unknown kind; use one of {', '.join(sorted(suffixes))}.")
    return suffix


def _check_readable(path: Path, suffixes: set[str]) -> str:
    check_readable(path)
    return _check_suffix(path, suffixes)


def _read_numpy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DmspError(f"{path} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DmspError(f"{path} is an archive; save one array with numpy.save.")
    return array


def _read_photo(path: Path) -> Picture:
    """Read a PNG or JPEG, turned as its EXIF data say."""
    with Image.open(path) as image:
        count = getattr(image, "n_frames", 1)
        if count > 1 and path.suffix.lower() in PNG:
            raise DmspError(f"{path} holds {count} images; save the one to restore.")
        if image.mode == "CMYK":
            raise DmspError(f"{path} has CMYK colours; save it as RGB.")
        # The mode of the decoder tells the bits, of which Pillow's mode may have fewer.
        coded = str(image.tile[0][3]) if image.tile else ""
        if ";16" in coded and not image.mode.startswith("I"):
            raise DmspError(
                f"{path} has 16 bits and colour or transparency, which would be read as 8 bits; "
                "save it as TIFF."
            )
        tags = _photo_tags(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("P", "PA") or "transparency" in upright.info:
            clear = upright.mode == "PA" or "transparency" in upright.info
            grey = upright.mode in ("1", "L")
            upright = upright.convert(("LA" if grey else "RGBA") if clear else "RGB")
        elif upright.mode == "1":
            upright = upright.convert("L")
        pixels = np.asarray(upright)
    if pixels.dtype == np.int32:
        # Pillow's type for 16 bits in some versions.
        pixels = pixels.astype(np.uint16)
    if pixels.ndim == 2:
        return Picture(pixels, None, tags)
    colours = 3 if pixels.shape[-1] >= 3 else 1
    alpha = pixels[..., colours] if pixels.shape[-1] > colours else None
    return Picture(pixels[..., :3] if colours == 3 else pixels[..., 0], alpha, tags)


def _photo_tags(image: Image.Image) -> dict[str, Any]:
    """Return the tags of a PNG or JPEG file."""
    exif = image.getexif()
    turned = exif.get(0x0112, 1) in (5, 6, 7, 8)
    tags: dict[str, Any] = {**notes.pack_exif(exif)}
    if image.info.get("icc_profile"):
        tags["iccprofile"] = image.info["icc_profile"]
    if all(image.info.get("dpi", (0,))):
        x, y = image.info["dpi"]
        tags["resolution"] = (float(y), float(x)) if turned else (float(x), float(y))
        tags["resolutionunit"] = notes.INCH
    if "comment" in image.info:
        tags["comment"] = image.info["comment"]
    if text := getattr(image, "text", None):
        tags["text"] = {key: str(value) for key, value in text.items()}
    return tags


def _write_photo(path: Path, pixels: NDArray[Any], picture: Picture) -> None:
    """Write a PNG or JPEG with the tags of a picture."""
    tags = picture.tags
    options: dict[str, Any] = {}
    if profile := notes.fitting_profile(tags, picture.channel_axis is not None):
        options["icc_profile"] = profile
    if "exif" in tags:
        options["exif"] = notes.exif_for(pixels.shape, tags["exif"])
    if dpi := notes.dots_per_inch(tags):
        options["dpi"] = dpi
    if path.suffix.lower() in JPEG:
        # Least loss: a restored image should not gain new artefacts here.
        options |= {"quality": 95, "subsampling": 0}
        options |= {"comment": tags["comment"]} if "comment" in tags else {}
    else:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, value in tags.get("text", {}).items():
            options["pnginfo"].add_itxt(key, value)
    Image.fromarray(pixels).save(path, **options)


def _divide(pixels: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    """Return colours that are not multiplied by their transparency."""
    if alpha is None:
        return pixels
    top = np.iinfo(pixels.dtype).max
    part = np.maximum(alpha, 1) / top
    divided = pixels / (part[..., None] if pixels.ndim > alpha.ndim else part)
    return fit_dtype(divided, pixels.dtype)
