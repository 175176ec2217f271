"""TIFF files of any program: one layout of a series serves reading at once and lazily."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC

from ..errors import DmspError
from . import tags as notes
from .stacks import MICROMETRES, READ, SPATIAL, Axis, Picture, Stack, named_unit

Pixels = NDArray[Any]

# Kinds of files that show grey values in colours: their palettes are no colours of the object.
MICROSCOPES = ["imagej", "ome", "lsm", "stk", "fluoview", "micromanager", "metaseries", "andor"]
# Scanners of slides, whose descriptions are of files with several images.
SCANNERS = ["svs", "scn", "ndpi", "bif", "qpi", "philips"]
# Names that tifffile gives to a scanner's pictures beside the image.
ASIDE = {"thumbnail", "preview", "label", "macro", "map", "overview"}
COLOURS = (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
# What is kept of ImageJ's metadata: sizes and names, and how channels are shown. The largest file
# that it reads, in bytes.
IMAGEJ = (
    *("unit", "yunit", "zunit", "tunit", "spacing", "xorigin", "yorigin", "zorigin"),
    *("finterval", "fps", "loop", "Labels", "Info"),
)
IMAGEJ_CHANNELS = ("mode", "LUTs", "Ranges")
IMAGEJ_BYTES = 2**32 - 2**25
# What is kept of the pixels and channels of OME.
OME_SIZES = ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "TimeIncrement")
OME_CHANNEL = ("Name", "Color", "Fluor", "EmissionWavelength", "ExcitationWavelength")
# Key of the JSON, in the description of an image, that says how the image was restored.
RECORD = "napari-dmsp"
# What OME calls wavelengths, and refractive indices of what it calls immersions.
WAVELENGTHS = {
    "wavelength": "EmissionWavelength",
    "excitation_wavelength": "ExcitationWavelength",
}
IMMERSIONS = {"Oil": 1.515, "Water": 1.33, "WaterDipping": 1.33, "Air": 1.0, "Glycerol": 1.47}
# Values of the tag Orientation for which rows and columns are exchanged, and which then run back.
TURNED, ROWS_BACK, COLUMNS_BACK = {5, 6, 7, 8}, {3, 4, 7, 8}, {2, 3, 6, 7}
ALPHA = ("assocalpha", "unassalpha")
# Number of the tag with the colour profile.
ICC_PROFILE = 34675


@dataclass(frozen=True, eq=False)
class Layout:
    """What the numbers of a series of pages mean, and how they become upright planes."""

    # Number of the series in the file.
    number: int
    # Letters of the axes before the rows of planes, in the order of the file.
    lead: str
    # The axes of the series: those of ``lead``, rows, columns, and samples if there are any.
    order: tuple[int, ...]
    # How many samples are along the last of these axes; 0 where there is none.
    samples: int = 0
    # Whether (the first) three samples, or what the table gives, are red, green and blue.
    colours: bool = False
    # How `tifffile` calls the last sample if that is transparency; else nothing.
    alpha: str = ""
    # Orientation as the tag has it, from 1 (upright) to 8.
    orientation: int = 1
    # What each number stands for: (N,), or (N, 3) for palettes.
    table: Pixels | None = None
    # The number that means black, where large ones are dark.
    white: int | None = None
    # Whether Pillow decodes pages: colours of fewer pixels than brightness.
    decoded: bool = False
    # What was left out, in sentences.
    warnings: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        """Axes of the picture as `tifffile.imwrite` takes them, alpha aside."""
        return f"{self.lead}YX{'S' if self.colours else ''}"

    def arrange(self, array: Any) -> Any:
        """Put the axes of a series, a NumPy or dask array, in order, and planes upright."""
        array = array.transpose(self.order)
        rows = len(self.lead)
        before = (slice(None),) * rows
        if self.orientation in TURNED:
            array = array.swapaxes(rows, rows + 1)
        if self.orientation in ROWS_BACK:
            array = array[(*before, slice(None, None, -1))]
        if self.orientation in COLUMNS_BACK:
            array = array[(*before, slice(None), slice(None, None, -1))]
        return array

    def convert(self, array: Pixels) -> Pixels:
        """Return intensities or colours in the order of bytes of this machine."""
        if self.table is not None:
            return np.take(self.table, array.astype(np.intp), axis=0, mode="clip")
        if self.white is not None:
            array = np.asarray(array.dtype.type(self.white) - array)
        return array.astype(self.dtype(array.dtype), copy=False)

    def converts(self, stored: np.dtype[Any]) -> bool:
        """Whether `convert` changes more than the order of bytes."""
        return self.table is not None or self.white is not None or stored == np.float16

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Type of the pixels, for that of the numbers in the file."""
        if self.table is not None:
            return self.table.dtype
        return np.dtype(np.float32) if stored == np.float16 else stored.newbyteorder("=")

    def split(self, array: Any) -> tuple[Any, Any]:
        """Part colours or intensities from transparency, which may be None."""
        if not self.samples:
            return array, None
        alpha = array[..., -1] if self.alpha else None
        return array[..., :3] if self.colours else array[..., 0], alpha


def read_tiff(path: Path) -> tuple[Pixels, Pixels | None, dict[str, Any], str, tuple[str, ...]]:
    """Read the image of a TIFF file at once, upright, black is zero: the fields of a `Picture`."""
    with tifffile.TiffFile(path) as file:
        series, layout = _describe(path, file)
        warnings = layout.warnings + _check_pages(path, series.pages)
        if layout.decoded:
            pages = [_decode(path, page.index) for page in series.pages if page is not None]
            array = np.stack(pages).reshape(series.shape)
        else:
            array = series.asarray()
        array, alpha = layout.split(layout.convert(layout.arrange(array)))
        warnings += _say_nodata(array, series.keyframe, layout.colours)
        return array, alpha, _tags(path, file, series, layout), layout.lead, warnings


def describe_tiff(path: Path) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """Return the axes of the image of a TIFF file and their lengths, without reading pixels."""
    with tifffile.TiffFile(path) as file:
        series, layout = _describe(path, file)
        axes = _axes(_tags(path, file, series, layout), layout.letters)
        shape = [series.shape[i] for i in layout.order]
        rows = len(layout.lead)
        if layout.orientation in TURNED:
            shape[rows : rows + 2] = shape[rows + 1], shape[rows]
        return axes, tuple(shape[: len(axes)])


def tiff_optics(path: Path, channel: int | None) -> dict[str, float]:
    """Return what OME's metadata say of the objective and the light, see `read_optics`."""
    with tifffile.TiffFile(path) as file:
        if not file.ome_metadata:
            return {}
        _, layout = _describe(path, file)
        root = ElementTree.fromstring(file.ome_metadata.encode())
    images = root.findall("{*}Image")
    if layout.number >= len(images):
        return {}
    image, found = images[layout.number], {}
    used = image.find("{*}ObjectiveSettings")
    objectives = {
        each.attrib.get("ID"): each for each in root.findall("{*}Instrument/{*}Objective")
    }
    objective = objectives.get(None if used is None else used.attrib.get("ID"))
    if objective is None and len(objectives) == 1:
        (objective,) = objectives.values()
    if objective is not None:
        if "LensNA" in objective.attrib:
            found["na"] = float(objective.attrib["LensNA"])
        if objective.attrib.get("Immersion") in IMMERSIONS:
            found["immersion_index"] = IMMERSIONS[objective.attrib["Immersion"]]
    if used is not None and "RefractiveIndex" in used.attrib:
        found["immersion_index"] = float(used.attrib["RefractiveIndex"])
    channels = image.findall("{*}Pixels/{*}Channel")
    for name, key in WAVELENGTHS.items():
        lengths = [_micrometres(each, key) for each in channels]
        if channel is not None:
            lengths = lengths[channel : channel + 1]
        if len(set(lengths)) == 1 and lengths[0] is not None:
            found[name] = lengths[0]
    return found


def open_tiff(path: Path) -> Stack:
    """Open the image of a TIFF file lazily; transparency is left out."""
    import dask.array as da
    from dask.base import tokenize

    with tifffile.TiffFile(path) as file:
        series, layout = _describe(path, file)
        shape, lead = series.shape, len(series.shape) - len(series.keyframe.shape)
        stored = series.dtype.newbyteorder("=")
        mapped = series.dataoffset is not None and series.keyframe.is_memmappable
        mapped = mapped and not layout.decoded
        tags = _tags(path, file, series, layout)
        axes = _axes(tags, layout.letters)
        channels = tuple(tags.get("metadata", {}).get("Channel", {}).get("Name", ()))
        record = _record(file.ome_metadata, layout.number)
        pages: list[Any] = [] if mapped else list(series.pages)
        places = tuple(part.index if layout.decoded else part.offset for part in pages)
        # Pages without a place of their own can only be read together.
        paged = len(set(places)) == prod(shape[:lead])
    changed = path.stat()
    name = f"tiff-{tokenize(str(path), changed.st_size, changed.st_mtime_ns)}"
    if mapped:
        source: Any = _Mapped(str(path), layout.number, shape, stored)
        sides = dict.fromkeys(layout.order[len(layout.lead) :], READ)
        chunks = tuple(min(n, sides.get(i, 1)) for i, n in enumerate(shape))
    else:
        lead = lead if paged else 0
        source = _Paged(str(path), layout, shape, stored, lead, places if paged else ())
        chunks = (*(1,) * lead, *shape[lead:])
    meta = np.empty((0,) * len(shape), stored)
    array = da.from_array(source, chunks=chunks, name=name, fancy=False, meta=meta)
    array = layout.arrange(array)
    dtype = layout.dtype(stored)
    if layout.converts(stored):
        options: dict[str, Any] = {"dtype": dtype, "name": f"{name}-converted"}
        if layout.table is not None and layout.table.ndim == 2:
            options |= {"new_axis": array.ndim, "chunks": (*array.chunks, (3,))}
        array = array.map_blocks(layout.convert, meta=np.empty(0, dtype), **options)
    array, alpha = layout.split(array)
    warnings = layout.warnings
    if alpha is not None:
        warnings += (f"{path} has transparency, which is left out.",)
    return Stack(
        array,
        axes,
        array.ndim - 1 if layout.colours else None,
        channels=channels,
        record=record,
        warnings=warnings,
    )


def write_tiff(path: Path, pixels: Pixels, picture: Picture) -> None:
    """Write pixels, transparency behind their colours, with the tags of a picture.

    The axes of a stack are written in the picture's order, rows, columns and colours last.
    """
    tags = dict(picture.tags)
    samples = pixels.ndim - len(picture.axes) == 3
    colour = picture.channel_axis is not None
    if tags.get("imagej") and not _fits_imagej(pixels, picture.axes):
        del tags["imagej"]
    if tags.get("ome") and not _fits_ome(pixels, picture.axes):
        del tags["ome"]
    if "metadata" in tags or picture.axes:
        axes = f"{picture.axes}YX{'S' if samples else ''}"
        channels = pixels.shape[axes.index("C")] if "C" in axes else 1
        names = tags.get("metadata", {}).get("Channel", {})
        dropped = {"Channel"} if any(len(each) != channels for each in names.values()) else set()
        dropped |= set(IMAGEJ_CHANNELS) if samples else set()
        dropped |= {f"Position{letter}" for letter in "XYZ"}
        kept = {k: v for k, v in tags.get("metadata", {}).items() if k not in dropped}
        planes = _planes(tags["metadata"], picture.axes, pixels.shape) if tags.get("ome") else {}
        tags["metadata"] = {**kept, **planes, "axes": axes}
    options: dict[str, Any] = {
        name: tags[name]
        for name in ("resolution", "resolutionunit", "imagej", "ome", "metadata")
        if name in tags
    }
    if picture.alpha is not None:
        options["extrasamples"] = [tags.get("extrasamples", "unassalpha")]
    if samples:
        options["planarconfig"] = "contig"
    elif "colormap" in tags and tags.get("imagej") and pixels.dtype == np.uint8:
        options["colormap"] = tags["colormap"]
    if "colormap" not in options:
        options["photometric"] = "rgb" if colour else "minisblack"
    if profile := notes.fitting_profile(tags, colour):
        options["iccprofile"] = profile
    directories: dict[int, Any] = {}
    if "exif" in tags:
        rows = len(picture.axes)
        extra, directories = notes.tiff_tags(notes.exif_for(pixels.shape[rows:], tags["exif"]))
        for code, name in ((notes.DESCRIPTION, "description"), (notes.SOFTWARE, "software")):
            text = [tag[3] for tag in extra if tag[0] == code]
            # ImageJ and OME have descriptions of their own.
            if text and (name == "software" or not (options.keys() & {"imagej", "ome"})):
                options[name] = text[0]
        options["extratags"] = [t for t in extra if t[0] not in (notes.DESCRIPTION, notes.SOFTWARE)]
    tifffile.imwrite(path, pixels, byteorder="<", **options)
    if directories and pixels.nbytes < IMAGEJ_BYTES:
        notes.add_directories(path, directories)


def _describe(path: Path, file: tifffile.TiffFile) -> tuple[tifffile.TiffPageSeries, Layout]:
    """Choose the series to restore, and describe it, or raise a `DmspError`."""
    number, warnings = _choose(path, file)
    series = file.series[number]
    _check_ends(path, file, series)
    page = series.keyframe
    if series.is_multifile or any(part is None for part in series.pages):
        raise DmspError(f"{path} is one of several files of a stack; save that to one file.")
    kind = page.photometric
    shown = kind == PHOTOMETRIC.PALETTE and any(getattr(file, f"is_{n}") for n in MICROSCOPES)
    if kind not in (*COLOURS, *GREY, PHOTOMETRIC.PALETTE):
        name = "CMYK" if kind == PHOTOMETRIC.SEPARATED else getattr(kind, "name", kind)
        raise DmspError(f"{path} has {name} colours; save it as grey or RGB.")
    dtype = series.dtype
    if dtype is None or dtype.kind not in "buif":
        raise DmspError(f"{path} has dtype {dtype}, not one real number per sample; convert it.")
    if kind == PHOTOMETRIC.PALETTE and (dtype.kind not in "bu" or dtype.itemsize > 2):
        raise DmspError(f"{path} has a palette for dtype {dtype}; save it as grey or RGB.")
    letters = series.axes
    if letters in ("QYX", "IYX") and series.shape[-1] in (3, 4):
        # Colours, which other programs do not always say.
        letters, kind = "YXS", PHOTOMETRIC.RGB
    if letters == "IYX" and file.is_imagej:
        # ImageJ takes images in no order for slices.
        letters = "ZYX"
    if "Y" not in letters or "X" not in letters:
        raise DmspError(f"{path} has axes {letters}; planes need the axes Y and X.")
    samples = series.shape[letters.index("S")] if "S" in letters else 0
    extra = [int(value) for value in page.extrasamples]
    alpha = ALPHA[extra[-1] - 1] if samples > 1 and extra and extra[-1] in (1, 2) else ""
    table, white = (None, None) if shown else _table(path, page, kind, dtype)
    if kind in COLOURS:
        alpha = alpha or ("unspecified" if samples == 4 else "")
        if samples not in (0, 3, 4) or samples - bool(alpha) not in (0, 3):
            raise DmspError(f"{path} has {samples} samples per pixel; expected 3, or 4 with alpha.")
    elif samples - bool(alpha) not in (0, 1, 3):
        if alpha:
            raise DmspError(f"{path} has {samples - 1} channels and alpha; drop the alpha channel.")
        # Bands, or the channels of a microscope.
        letters, samples = letters.replace("S", "Q" if "C" in letters else "C"), 0
    if (alpha and white is not None) or (samples and table is not None and table.ndim == 2):
        name = PHOTOMETRIC(page.photometric).name
        raise DmspError(f"{path} has {name} colours and alpha; save it as grey or RGB.")
    lead = [i for i, letter in enumerate(letters) if letter not in "YXS"]
    ends = [letters.index(letter) for letter in "YXS" if letter in letters]
    decoded = kind == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG
    if decoded and page.axes != "YXS":
        raise DmspError(f"{path} has YCBCR colours in planes; save it as RGB.")
    orientation = page.tags.valueof(274, 1)
    layout = Layout(
        number=number,
        lead="".join(letters[i] for i in lead),
        order=(*lead, *ends),
        samples=samples,
        colours=samples >= 3 or (table is not None and table.ndim == 2),
        alpha=alpha,
        # Pillow turns what it decodes.
        orientation=1 if decoded or orientation not in range(1, 9) else orientation,
        table=table,
        white=white,
        decoded=decoded,
        warnings=warnings,
    )
    return series, layout


def _choose(path: Path, file: tifffile.TiffFile) -> tuple[int, tuple[str, ...]]:
    """Return the number of the series to restore: the only one that is no preview of another."""
    full = [i for i, series in enumerate(file.series) if not _is_aside(series)]
    if len(full) > 1:
        largest = max(full, key=lambda i: prod(file.series[i].shape))
        full = [
            i for i in full if i == largest or not _is_copy(file.series[i], file.series[largest])
        ]
    # A file of nothing but a reduced image holds that.
    chosen = full or ([0] if len(file.series) == 1 else [])
    if len(chosen) == 1:
        count = len(file.series) - 1
        left = f"{path} also holds {count} smaller or auxiliary image{'s' * (count > 1)}, left out."
        return chosen[0], (left,) if count else ()
    held = ", ".join(
        f"{i}: {series.name or 'image'} {series.shape} {series.dtype}"
        for i, series in enumerate(file.series)
    )
    raise DmspError(
        f"{path} holds {len(file.series)} images ({held}); save the one to restore to a file."
    )


def _is_aside(series: tifffile.TiffPageSeries) -> bool:
    """Whether a series is marked as a reduced image, a mask or a picture beside the image."""
    page = series.keyframe
    return bool(page.is_reduced or page.is_mask or (series.name or "").lower() in ASIDE)


def _is_copy(small: tifffile.TiffPageSeries, large: tifffile.TiffPageSeries) -> bool:
    """Whether a series is one picture, with the proportions of ``large`` and at most half of it."""
    a, b = ((s.keyframe.imagelength, s.keyframe.imagewidth) for s in (small, large))
    if len(small.pages) > 1 or 2 * a[0] > b[0] + 1 or 2 * a[1] > b[1] + 1:
        return False
    # Sizes are rounded, by one pixel at most.
    return abs(a[0] * b[1] - a[1] * b[0]) < max(b)


def _table(
    path: Path, page: tifffile.TiffPage, kind: int, dtype: np.dtype[Any]
) -> tuple[Pixels | None, int | None]:
    """Return what numbers stand for, or the one that means black, where they are no intensities.

    Numbers of fewer than 8 bits are spread over 0..255, as they are shown; those of more keep their
    values, as instruments count.
    """
    bits = page.bitspersample
    # Masks of NumPy, which `tifffile` writes with True as 1, under the tag of white as 0.
    masks = bits == 1 and page.software.startswith("tifffile")
    inverted = kind == PHOTOMETRIC.MINISWHITE and not masks
    if kind == PHOTOMETRIC.PALETTE:
        palette = np.asarray(page.colormap).reshape(3, -1).T
        # Some programs write 8-bit colours, where 16 bits are the rule.
        return (palette if palette.max() < 256 else palette >> 8).astype(np.uint8), None
    if dtype.kind in "bu" and bits < 8:
        levels = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
        return levels[::-1] if inverted else levels, None
    if not inverted:
        return None, None
    if dtype.kind == "f":
        raise DmspError(f"{path} has floats of which the least is white; save it with black as 0.")
    return None, -1 if dtype.kind == "i" else 2**bits - 1


def _check_pages(path: Path, pages: Iterable[Any]) -> tuple[str, ...]:
    """Raise a `DmspError` where pixels lie beyond the end of the file; say where there are none."""
    size, gaps = path.stat().st_size, 0
    for page in pages:
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(map(sum, parts), default=0) > size:
            raise DmspError(f"{path} is truncated: pixels are missing; copy or save it again.")
        gaps += sum(not count for _, count in parts)
    return (f"{path} has {gaps} strips or tiles without data, which are 0.",) if gaps else ()


def _check_ends(path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Raise a `DmspError` where pages, or numbers that follow each other, lie beyond the end."""
    last, form = file.pages[-1], file.tiff
    with path.open("rb") as raw:
        raw.seek(last.offset)
        (count,) = struct.unpack(form.tagnoformat, raw.read(form.tagnosize))
        raw.seek(last.offset + form.tagnosize + count * form.tagsize)
        pointer = raw.read(form.offsetsize)
    follows = len(pointer) < form.offsetsize or struct.unpack(form.offsetformat, pointer)[0] > 0
    end = series.dataoffset or 0
    if end and series.keyframe.is_memmappable:
        end += prod(series.shape) * series.dtype.itemsize
    planes = prod(series.shape) // prod(series.keyframe.shape)
    # ImageJ may say how many planes follow the only directory.
    told = (file.imagej_metadata or {}).get("images", 0)
    if follows or end > path.stat().st_size or told > planes:
        raise DmspError(f"{path} is truncated: pages are missing; copy or save it again.")


def _decode(path: Path, number: int) -> Pixels:
    """Decode a page of a file with Pillow."""
    with Image.open(path) as image:
        image.seek(number)
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class _Mapped:
    """The pixels of an uncompressed series, mapped by whoever reads them."""

    path: str
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Pixels:
        mapped = tifffile.memmap(self.path, mode="r", series=self.number)
        return np.asarray(mapped.reshape(self.shape)[index], dtype=self.dtype)


@dataclass(frozen=True)
class _Paged:
    """The pixels of a series, decoded page by page along ``lead`` axes, or at once without places.

    Places are bytes of the file, or numbers of pages where Pillow decodes them.
    """

    path: str
    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lead: int
    places: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Pixels:
        if not self.places:
            with tifffile.TiffFile(self.path) as file:
                series = file.series[self.layout.number]
                _check_pages(Path(self.path), series.pages)
                return series.asarray().reshape(self.shape)[index].astype(self.dtype, copy=False)
        lead = self.lead
        numbers = np.arange(len(self.places)).reshape(self.shape[:lead])[index[:lead]]
        planes = [self._read(int(number)).reshape(self.shape[lead:]) for number in numbers.flat]
        stacked = np.stack(planes).reshape(*numbers.shape, *self.shape[lead:])
        return stacked[(..., *index[lead:])].astype(self.dtype, copy=False)

    def _read(self, number: int) -> Pixels:
        if self.layout.decoded:
            return _decode(Path(self.path), self.places[number])
        with tifffile.TiffFile(self.path) as file:
            # The series is not made again, for that reads all of its pages.
            file.filehandle.seek(self.places[number])
            page = tifffile.TiffPage(file, number)
            _check_pages(Path(self.path), [page])
            return page.asarray()


def _say_nodata(pixels: Pixels, page: tifffile.TiffPage, colours: bool) -> tuple[str, ...]:
    """Warn of pixels without data, as the tags of GDAL name them."""
    text = page.tags.valueof(42113)
    try:
        value = float(text)
    except (TypeError, ValueError):
        return ()
    gaps = pixels == value
    count = int(gaps.all(axis=-1).sum() if colours else gaps.sum())
    said = f"{count} pixels are {value:g}, the value for no data; name them with a mask."
    return (said,) if count else ()


def _tags(
    path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, layout: Layout
) -> dict[str, Any]:
    """Return the tags of the image, its pixel size among them, for upright planes."""
    page = series.keyframe
    ours = page.description == page.shaped_description
    own = ours or any(getattr(file, f"is_{kind}", False) for kind in ("ome", "imagej", *SCANNERS))
    tags: dict[str, Any] = {**notes.pack_tiff(path, page, "" if own else page.description)}
    if profile := page.tags.valueof(ICC_PROFILE):
        tags["iccprofile"] = profile
    if layout.alpha:
        tags["extrasamples"] = layout.alpha
    y, x = layout.order[len(layout.lead) : len(layout.lead) + 2]
    turned = (page.tags.valueof(274, 1) in TURNED) != (x < y)
    if "XResolution" in page.tags and "YResolution" in page.tags:
        tags["resolution"] = page.resolution[::-1] if turned else page.resolution
        tags["resolutionunit"] = page.resolutionunit
    if file.ome_metadata:
        metadata = _ome(file.ome_metadata, layout.number)
        if turned:
            x_, y_ = "PhysicalSizeX", "PhysicalSizeY"
            swapped = {x_: y_, y_: x_, f"{x_}Unit": f"{y_}Unit", f"{y_}Unit": f"{x_}Unit"}
            metadata = {swapped.get(name, name): value for name, value in metadata.items()}
        if layout.orientation != 1:
            # The first pixel is another one.
            metadata = {k: v for k, v in metadata.items() if not k.startswith("Position")}
        if any(name in metadata for name in OME_SIZES):
            # OME has sizes of its own.
            tags.pop("resolution", None)
        tags |= {"ome": True, "metadata": metadata}
    elif file.is_imagej:
        known = file.imagej_metadata or {}
        kept = {name: known[name] for name in IMAGEJ + IMAGEJ_CHANNELS if name in known}
        if "unit" in kept:
            # These files are ASCII; ImageJ writes a micro sign as \u00B5.
            kept["unit"] = "".join(c if c.isascii() else f"\\u{ord(c):04X}" for c in kept["unit"])
        tags |= {"imagej": True, "metadata": kept}
        if page.colormap is not None and page.colormap.shape == (3, 256):
            tags["colormap"] = page.colormap
    return tags


def _ome(text: str, number: int) -> dict[str, Any]:
    """Read sizes and channels of an image from OME's XML, as `tifffile.imwrite` takes them."""
    images = ElementTree.fromstring(text.encode()).findall("{*}Image")
    if number >= len(images) or (pixels := images[number].find("{*}Pixels")) is None:
        return {}
    metadata: dict[str, Any] = {}
    for name in OME_SIZES:
        if name in pixels.attrib:
            metadata[name] = float(pixels.attrib[name])
        if f"{name}Unit" in pixels.attrib:
            metadata[f"{name}Unit"] = pixels.attrib[f"{name}Unit"]
    first = [
        plane.attrib
        for plane in pixels.findall("{*}Plane")
        if all(plane.attrib.get(f"The{letter}") == "0" for letter in "ZCT")
    ]
    for letter in "XYZ" if first else "":
        metadata |= _position(letter, pixels.attrib, first[0])
    channels = [channel.attrib for channel in pixels.findall("{*}Channel")]
    for name in (*OME_CHANNEL, *(f"{name}Unit" for name in OME_CHANNEL)):
        if channels and all(name in channel for channel in channels):
            metadata.setdefault("Channel", {})[name] = [channel[name] for channel in channels]
    return metadata


def _position(letter: str, pixels: dict[str, str], plane: dict[str, str]) -> dict[str, float]:
    """Return where a plane lies along an axis, in the unit of its pixel size; nothing without."""
    name, size = f"Position{letter}", f"PhysicalSize{letter}"
    if name not in plane or size not in pixels:
        return {}
    # The defaults of the format.
    own = named_unit(plane.get(f"{name}Unit", "reference frame"))
    wanted = named_unit(pixels.get(f"{size}Unit", "µm"))
    if own != wanted and not {own, wanted} <= MICROMETRES.keys():
        return {}
    factor = 1.0 if own == wanted else MICROMETRES[own] / MICROMETRES[wanted]
    return {name: float(plane[name]) * factor}


def _planes(known: dict[str, Any], axes: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return where all planes lie as `tifffile.imwrite` takes it, from where the first one does."""
    lead = shape[: len(axes)]
    slices = np.indices(lead)[axes.index("Z")].ravel() if "Z" in axes else np.zeros(prod(lead))
    found: dict[str, list[Any]] = {}
    for letter in "XYZ":
        name, size = f"Position{letter}", f"PhysicalSize{letter}"
        if name in known:
            step = known[size] if letter == "Z" else 0.0
            found[name] = [float(known[name] + step * z) for z in slices]
            found[f"{name}Unit"] = [known.get(f"{size}Unit", "µm")] * len(slices)
    return {"Plane": found} if found else {}


def _record(text: str | None, number: int) -> dict[str, Any]:
    """Read how an image was restored from the description in OME's XML; empty if it was not."""
    images = [] if text is None else ElementTree.fromstring(text.encode()).findall("{*}Image")
    description = images[number].findtext("{*}Description") if number < len(images) else None
    try:
        record = json.loads(description or "")[RECORD]
    except (ValueError, TypeError, KeyError):
        return {}
    return record if isinstance(record, dict) else {}


def _micrometres(element: ElementTree.Element, name: str) -> float | None:
    """Return a length of OME's metadata, nanometres by default; None where there is none."""
    unit = named_unit(element.attrib.get(f"{name}Unit", "nm"))
    if name not in element.attrib or unit not in MICROMETRES:
        return None
    return float(element.attrib[name]) * MICROMETRES[unit]


def _axes(tags: dict[str, Any], letters: str) -> tuple[Axis, ...]:
    """Name axes, and tell the pixel size where OME's or ImageJ's metadata have one."""
    known, found = tags.get("metadata", {}), {}
    if tags.get("ome"):
        for name in SPATIAL:
            key = f"PhysicalSize{name.upper()}"
            if key in known:
                # The default of the format.
                unit, origin = (
                    known.get(f"{key}Unit", "µm"),
                    known.get(f"Position{name.upper()}", 0.0),
                )
                found[name] = Axis(name, named_unit(unit), known[key], origin)
        if "TimeIncrement" in known:
            unit = named_unit(known.get("TimeIncrementUnit", "s"))
            found["t"] = Axis("t", unit, known["TimeIncrement"])
    elif tags.get("imagej") and "unit" in known:
        x, y = tags.get("resolution", (0, 0))
        sizes = {"z": known.get("spacing"), "y": y and 1 / y, "x": x and 1 / x}
        unit = named_unit(known["unit"])
        found = {name: Axis(name, unit, float(size)) for name, size in sizes.items() if size}
    names = list(letters.lower().replace("s", "c"))
    # OME-Zarr wants every name once.
    unique = [n if n not in names[:i] else f"{n}{i}" for i, n in enumerate(names)]
    return tuple(found.get(name, Axis(name)) for name in unique)


def _fits_imagej(pixels: Pixels, axes: str) -> bool:
    if pixels.nbytes > IMAGEJ_BYTES or not re.fullmatch("T?Z?C?", axes):
        return False
    if pixels.ndim - len(axes) == 3:
        return pixels.dtype == np.uint8 and pixels.shape[-1] == 3
    return pixels.dtype in (np.uint8, np.uint16, np.int16, np.float32)


def _fits_ome(pixels: Pixels, axes: str) -> bool:
    known = set(axes) <= set("TZCAPRHEQ") and len(set(axes)) == len(axes)
    return known and (pixels.itemsize < 8 or pixels.dtype.kind == "f")
