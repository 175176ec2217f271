"""Image files and TIFF stacks in, the same kinds out, checked before any long work."""

from __future__ import annotations

import html
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import zoom

from ..errors import DmspError

TIFF, PNG, JPEG = {".tif", ".tiff"}, {".png"}, {".jpg", ".jpeg"}
SUFFIXES = TIFF | PNG | JPEG
NUMPY = {".npy"}
# What is kept of ImageJ's metadata: sizes and names, and how channels are shown. The largest file
# that it reads, in bytes.
IMAGEJ = (
    *("unit", "yunit", "zunit", "tunit", "spacing", "xorigin", "yorigin", "zorigin"),
    *("finterval", "fps", "loop", "Labels", "Info"),
)
IMAGEJ_CHANNELS = ("mode", "LUTs", "Ranges")
IMAGEJ_BYTES = 2**32 - 2**25


@dataclass(frozen=True, eq=False)
class Picture:
    """One image from a file, or the planes of a stack.

    Attributes
    ----------
    pixels : ndarray
        (..., H, W), or (..., H, W, 3) for colour.
    alpha : ndarray or None
        (..., H, W) transparency, which no restoration touches.
    tags : dict
        What `tifffile.imwrite` needs to keep the pixel size.
    axes : str
        Letters of the axes of planes as TIFF has them, such as "TZ"; none for one image.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    axes: str = ""

    @property
    def channel_axis(self) -> int | None:
        """Axis of the colour channels; None for a grey image."""
        return -1 if self.pixels.ndim - len(self.axes) == 3 else None

    def with_pixels(self, pixels: NDArray[Any]) -> Picture:
        """Put other pixels into the same frame, of any number: a finer image of the same object.

        Parameters
        ----------
        pixels : ndarray
            As many planes. Transparency and pixel size follow the new H and W.
        """
        lead = len(self.axes)
        shape, old = pixels.shape[lead : lead + 2], self.pixels.shape[lead : lead + 2]
        if shape == old:
            return replace(self, pixels=pixels)
        down, right = shape[0] / old[0], shape[1] / old[1]
        alpha = self.alpha
        if alpha is not None:
            # Both grids share their outer edges, like those of a restoration.
            factors = (*((1,) * lead), down, right)
            smooth = zoom(
                alpha.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True
            )
            alpha = fit_dtype(smooth, alpha.dtype)
        return Picture(pixels, alpha, _refine(self.tags, down, right), self.axes)


def read_image(path: Path) -> Picture:
    """Read a grey or colour image.

    Raises
    ------
    DmspError
        For a missing or broken file, and for stacks.
    """
    picture = read_planes(path)
    lead = len(picture.axes)
    if set(picture.pixels.shape[:lead]) == {1}:
        index, alpha = (0,) * lead, picture.alpha
        alpha = None if alpha is None else alpha[index]
        picture = Picture(picture.pixels[index], alpha, picture.tags)
    if picture.axes:
        raise DmspError(
            f"{path} has shape {picture.pixels.shape}; expected (H, W), or (H, W, 3) for colour. "
            "Save the planes of a stack, or its channels, one by one."
        )
    return picture


def read_planes(path: Path) -> Picture:
    """Read a grey or colour image, or a stack of them from a TIFF file.

    Raises
    ------
    DmspError
        For a missing or broken file.
    """
    suffix = _check_readable(path, SUFFIXES)
    try:
        array, tags, axes = _read_tiff(path) if suffix in TIFF else (_read_photo(path), {}, "")
    except DmspError:
        raise
    # Decoders raise all sorts of errors for broken files.
    except Exception as error:
        raise DmspError(f"{path} cannot be read: {error}") from error
    samples = array.shape[len(axes) + 2 :]
    if array.ndim < len(axes) + 2 or samples not in ((), (1,), (2,), (3,), (4,)):
        raise DmspError(f"{path} has shape {array.shape}; expected (..., H, W) or (..., H, W, 3).")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif" or (array.dtype.kind in "ui" and array.itemsize > 4):
        raise DmspError(f"{path} has dtype {array.dtype}; convert it to 8, 16 or 32 bits.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not samples:
        return Picture(array, None, tags, axes)
    colours = 3 if array.shape[-1] >= 3 else 1
    alpha = array[..., colours] if array.shape[-1] > colours else None
    return Picture(array[..., :3] if colours == 3 else array[..., 0], alpha, tags, axes)


def read_psf(path: Path) -> NDArray[Any]:
    """Read a point spread function (kh, kw) from an image or a NumPy file."""
    if _check_readable(path, SUFFIXES | NUMPY) in NUMPY:
        return _read_numpy(path)
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


def check_output(
    path: Path,
    picture: Picture,
    dtype: np.dtype[Any],
    named: Collection[Path],
    overwrite: bool = False,
) -> None:
    """Make sure that `write_image` will be able to write ``path``.

    Parameters
    ----------
    path : Path
        The output.
    picture : Picture
        Of the form that the output will have.
    dtype : dtype
        Of the output's pixels.
    named : collection of Path
        The inputs, and other outputs: never overwritten.
    overwrite : bool
        Whether another existing file may be replaced.

    Raises
    ------
    DmspError
        Saying what stands in the way.
    """
    suffix = _check_suffix(path, SUFFIXES)
    check_writable(path, overwrite, named)
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

    Parameters
    ----------
    source : Path
        An image file; no more than its header is read.
    floats : bool
        Whether the pixels become float32.
    colour : bool
        Whether a grey image becomes one in colour.
    """
    photo = source.suffix.lower() not in TIFF
    lost = floats or (colour and _png_form(source)[0] == 16)
    return ".tif" if photo and lost else source.suffix


def check_psf_output(path: Path, named: Collection[Path], overwrite: bool = False) -> None:
    """Make sure that `write_psf` will be able to write ``path``, as `check_output` does."""
    _check_suffix(path, TIFF | NUMPY)
    check_writable(path, overwrite, named)


def check_writable(path: Path, overwrite: bool = False, named: Collection[Path] = ()) -> None:
    """Raise a `DmspError` unless a file can be written at ``path`` that is none of ``named``."""
    for other in named:
        both = path.exists() and other.exists()
        if path.samefile(other) if both else path.resolve() == other.resolve():
            raise DmspError(f"output {path} is named twice; choose another name.")
    if path.is_dir():
        raise DmspError(f"output {path} is a folder; give a file name.")
    if path.exists() and not overwrite:
        raise DmspError(f"output {path} exists; give --overwrite to replace it.")
    if path.exists() and not os.access(path, os.W_OK):
        raise DmspError(f"output {path} is write-protected; choose another name.")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raise a `DmspError` unless files can be written into ``folder``."""
    if not folder.is_dir():
        raise DmspError(f"folder {folder} does not exist; create it first.")
    try:
        # Permission bits do not tell all: only writing shows a read-only disk.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DmspError(f"folder {folder} cannot be written to: {error}") from error


def write_image(path: Path, picture: Picture) -> None:
    """Write a picture; `check_output` says beforehand whether that will work."""
    pixels = picture.pixels
    if picture.alpha is not None:
        colours = pixels[..., None] if picture.channel_axis is None else pixels
        alpha = picture.alpha.astype(pixels.dtype)[..., None]
        pixels = np.concatenate([colours, alpha], axis=-1)
    suffix = _check_suffix(path, SUFFIXES)
    with _written_whole(path) as partial:
        if suffix in TIFF:
            _write_tiff(partial, pixels, picture)
        elif suffix in PNG:
            iio.imwrite(partial, pixels, plugin="pillow")
        else:
            # Least loss: a restored image should not gain new artefacts here.
            iio.imwrite(partial, pixels, plugin="pillow", quality=95, subsampling=0)


def write_psf(path: Path, psf: NDArray[np.float32]) -> None:
    """Write a point spread function for `read_psf`, or a stack of them.

    `check_psf_output` says if that will work.
    """
    if _check_suffix(path, TIFF | NUMPY) in TIFF:
        write_image(path, Picture(psf, axes="Z" * (psf.ndim - 2)))
        return
    with _written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, psf)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, with null for the NaN and infinities that it does not know."""
    known = json.loads(json.dumps(values), parse_constant=lambda _: None)
    with _written_whole(path) as partial:
        partial.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def fit_dtype(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert to ``dtype``, rounded and clipped if that is an integer type."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    # In float64, for float32 cannot tell the largest 32-bit integers apart.
    whole = np.rint(values.astype(np.float64))
    return np.clip(whole, limits.min, limits.max).astype(dtype)


def _check_suffix(path: Path, suffixes: set[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise DmspError(f"{path} is of unknown kind; use one of {', '.join(sorted(suffixes))}.")
    return suffix


def _check_readable(path: Path, suffixes: set[str]) -> str:
    if not path.is_file():
        raise DmspError(f"{path} is not a file; check the name.")
    return _check_suffix(path, suffixes)


def _read_numpy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DmspError(f"{path} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DmspError(f"{path} is an archive; save one array with numpy.save.")
    return array


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Give another name to write to: what is replaced stays whole until the new file is."""
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, ValueError) as error:
        raise DmspError(f"{path} cannot be written: {error}") from error
    finally:
        # Left over if the user interrupts, too.
        partial.unlink(missing_ok=True)


def _read_photo(path: Path) -> NDArray[Any]:
    """Read a PNG or JPEG, turned as its EXIF data say, since those are not written again."""
    bits, form = _png_form(path)
    if bits == 16 and form in (2, 4, 6):
        raise DmspError(
            f"{path} has 16 bits and colour or transparency, which would be read as 8 bits; "
            "save it as TIFF."
        )
    array = np.asarray(iio.imread(path, plugin="pillow", rotate=True))
    if path.suffix.lower() in JPEG and array.ndim == 3 and array.shape[-1] == 4:
        raise DmspError(f"{path} has CMYK colours; save it as RGB.")
    return array


def _png_form(path: Path) -> tuple[int, int]:
    """Return the bits per sample and the colour type of a PNG file; zeros if it is none."""
    if path.suffix.lower() not in PNG:
        return 0, 0
    try:
        with path.open("rb") as file:
            bits, form = file.read(26)[24:]
    except (OSError, ValueError):
        return 0, 0
    return bits, form


def _read_tiff(path: Path) -> tuple[NDArray[Any], dict[str, Any], str]:
    """Read pixels (..., H, W) or (..., H, W, S), tags, and the letters of the axes before H."""
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise DmspError(f"{path} holds {len(file.series)} images; save the one to restore.")
        page, series = file.pages.first, file.series[0]
        if series.is_multifile or any(part is None for part in series.pages):
            raise DmspError(f"{path} is one of several files of a stack; save that to one file.")
        known = {
            tifffile.PHOTOMETRIC.MINISBLACK,
            tifffile.PHOTOMETRIC.RGB,
            tifffile.PHOTOMETRIC.YCBCR,
        }
        # ImageJ shows grey values in colours.
        if page.photometric not in known and not (
            file.is_imagej and page.photometric == tifffile.PHOTOMETRIC.PALETTE
        ):
            kind = getattr(page.photometric, "name", page.photometric)
            raise DmspError(f"{path} has {kind} colours; save it as grey or RGB.")
        array, axes = series.asarray(), series.axes
        if "S" in axes:
            array = np.moveaxis(array, axes.index("S"), -1)
        elif axes in ("QYX", "IYX") and array.shape[-1] <= 4:
            # Colours, which other programs do not always say.
            axes = "YXS"
        axes = axes.replace("S", "")
        if not axes.endswith("YX"):
            raise DmspError(f"{path} has axes {axes}; save it with planes of Y and X as the last.")
        # ImageJ takes images in no order for slices.
        lead = "Z" if file.is_imagej and axes == "IYX" else axes[:-2]
        return array, _pixel_size(file), lead


def _pixel_size(file: tifffile.TiffFile) -> dict[str, Any]:
    """Arguments of `tifffile.imwrite` that repeat the pixel size of ``file``, and names."""
    page = file.pages.first
    tags: dict[str, Any] = {}
    if "XResolution" in page.tags and "YResolution" in page.tags:
        tags = {"resolution": page.resolution, "resolutionunit": page.resolutionunit}
    if file.ome_metadata:
        sizes = re.findall(
            r'((?:PhysicalSize[XYZ]|TimeIncrement)(?:Unit)?)="([^"]*)"', file.ome_metadata
        )
        metadata: dict[str, Any] = {
            k: html.unescape(v) if k.endswith("Unit") else float(v) for k, v in sizes
        }
        channels = re.findall(r"<Channel[^>]*>", file.ome_metadata)
        names = [re.search(r'Name="([^"]*)"', channel) for channel in channels]
        if names and all(names):
            metadata["Channel"] = {"Name": [html.unescape(name[1]) for name in names if name]}
        tags |= {"ome": True, "metadata": metadata}
        return {name: tags[name] for name in ("ome", "metadata")} if sizes else tags
    known = file.imagej_metadata or {}
    kept = {name: known[name] for name in IMAGEJ + IMAGEJ_CHANNELS if name in known}
    if "unit" in kept:
        # These files are ASCII; ImageJ writes a micro sign as \u00B5.
        kept["unit"] = "".join(c if c.isascii() else f"\\u{ord(c):04X}" for c in kept["unit"])
    if file.is_imagej:
        tags |= {"imagej": True, "metadata": kept}
    return tags


def _refine(tags: dict[str, Any], down: float, right: float) -> dict[str, Any]:
    """Divide the pixel size of `_pixel_size`'s arguments."""
    tags = dict(tags)
    if "resolution" in tags:
        x, y = tags["resolution"]
        tags["resolution"] = x * right, y * down
    if tags.get("ome"):
        factors = {"PhysicalSizeX": right, "PhysicalSizeY": down}
        sizes = tags["metadata"]
        tags["metadata"] = {k: v / factors[k] if k in factors else v for k, v in sizes.items()}
    return tags


def _write_tiff(path: Path, pixels: NDArray[Any], picture: Picture) -> None:
    tags = dict(picture.tags)
    samples = pixels.ndim - len(picture.axes) == 3
    if tags.get("imagej") and not _fits_imagej(pixels, picture.axes):
        del tags["imagej"]
    if "metadata" in tags or picture.axes:
        axes = f"{picture.axes}YX{'S' if samples else ''}"
        dropped = {"Channel"} if "C" not in axes else set()
        dropped |= set(IMAGEJ_CHANNELS) if samples else set()
        kept = {k: v for k, v in tags.get("metadata", {}).items() if k not in dropped}
        tags["metadata"] = {**kept, "axes": axes}
    if picture.alpha is not None:
        tags["extrasamples"] = ["unassalpha"]
    if samples:
        tags["planarconfig"] = "contig"
    kind = "minisblack" if picture.channel_axis is None else "rgb"
    tifffile.imwrite(path, pixels, photometric=kind, **tags)


def _fits_imagej(pixels: NDArray[Any], axes: str) -> bool:
    if pixels.nbytes > IMAGEJ_BYTES or not re.fullmatch("T?Z?C?", axes):
        return False
    if pixels.ndim - len(axes) == 3:
        return pixels.dtype == np.uint8 and pixels.shape[-1] == 3
    return pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32)
