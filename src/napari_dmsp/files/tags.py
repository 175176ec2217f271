"""What files say beside the pixels: colour profile, EXIF, description, resolution, pixel size.

The tags of a `Picture` are a dictionary for all kinds of files: ``resolution`` (x, y) in pixels per
``resolutionunit``, ``iccprofile``, and ``exif``, a block as JPEG files have it, with the
description, software, author and the like. TIFF files add ``ome`` or ``imagej`` with the
``metadata`` that `tifffile.imwrite` takes, PNG files ``text``, JPEG files ``comment``.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF, GPS = 0x8769, 0x8825
DESCRIPTION, SOFTWARE = 270, 305
# Of the tags of an image, those that stay true for another one of the same object: names, authors,
# camera and time, IPTC, XMP. Not its form, and not its orientation, which is applied.
KEPT = {269, DESCRIPTION, 271, 272, 285, SOFTWARE, 306, 315, 316, 700, 33432, 33723, EXIF, GPS}
# Sizes of the image, among the tags of EXIF.
SIZES = {40962: 1, 40963: 0}
INCH, CENTIMETER = 2, 3
# Classic TIFF, little-endian, with its first directory at byte 8.
HEAD = b"II*\0\x08\0\0\0"


def pack_exif(exif: Image.Exif) -> dict[str, bytes]:
    """Return the tag ``exif`` with what is worth keeping; nothing if that is nothing."""
    return _pack({c: exif.get_ifd(c) if c in (EXIF, GPS) else exif.get(c) for c in KEPT})


def pack_tiff(path: Path, page: tifffile.TiffPage, description: str) -> dict[str, bytes]:
    """Return the tag ``exif`` of a page of a TIFF file, with this description."""
    directories: dict[int, Any] = {}
    if not page.parent.is_bigtiff:
        # Pillow reads directories of tags, tifffile none but its own.
        exif = Image.Exif()
        exif.endian = page.parent.byteorder
        with path.open("rb") as file:
            exif.load_from_fp(file, page.offset)
            directories = {code: exif.get_ifd(code) for code in (EXIF, GPS)}
    plain = {code: page.tags.valueof(code) for code in KEPT - {EXIF, GPS}}
    plain[DESCRIPTION] = description
    if str(plain[SOFTWARE]).startswith("tifffile"):
        del plain[SOFTWARE]
    texts = {code: v.encode() if isinstance(v, str) else v for code, v in plain.items()}
    return _pack({c: v for c, v in texts.items() if isinstance(v, bytes)} | directories)


def _pack(values: dict[int, Any]) -> dict[str, bytes]:
    kept = Image.Exif()
    for code, value in values.items():
        if value:
            kept[code] = _as_bytes(value)
    return {"exif": kept.tobytes()} if len(kept) else {}


def exif_for(shape: tuple[int, ...], block: bytes) -> Image.Exif:
    """Unpack a block for an image (H, W, ...)."""
    exif = Image.Exif()
    exif.load(block)
    if (details := exif.get_ifd(EXIF)) and SIZES.keys() & details.keys():
        exif[EXIF] = details | {code: shape[axis] for code, axis in SIZES.items()}
    return exif


def tiff_tags(exif: Image.Exif) -> tuple[list[tuple[Any, ...]], dict[int, dict[int, Any]]]:
    """Return what `tifffile.imwrite` takes as ``extratags``, and directories for `add_directories`.

    `tifffile` writes no directories of tags: places are held for them, by the codes before theirs.
    """
    tags: list[tuple[Any, ...]] = []
    directories = {}
    for code, value in sorted(exif.items()):
        if code in (EXIF, GPS):
            if directory := value if isinstance(value, dict) else exif.get_ifd(code):
                directories[code] = directory
                tags.append((code - 1, "I", 1, 0, True))
        else:
            # XMP and IPTC are bytes; all others are text.
            data = _as_bytes(value)
            kind = "B" if code in (700, 33723) else "s"
            tags.append((code, kind, len(data) if kind == "B" else 0, data, True))
    return tags, directories


def add_directories(path: Path, directories: dict[int, dict[int, Any]]) -> None:
    """Append directories of tags to a classic, little-endian TIFF file that has places for them."""
    with tifffile.TiffFile(path) as file:
        held = file.pages.first.tags
        places = {code: (held[code - 1].offset, held[code - 1].valueoffset) for code in directories}
    with path.open("r+b") as raw:
        for code, values in directories.items():
            directory = ImageFileDirectory_v2(ifh=HEAD)
            for key, value in values.items():
                directory[key] = _as_bytes(value)
            end = raw.seek(0, os.SEEK_END)
            raw.write(b"\0" * (end % 2))
            raw.write(directory.tobytes(end + end % 2))
            for place, form, number in zip(
                places[code], ("<H", "<I"), (code, end + end % 2), strict=True
            ):
                raw.seek(place)
                raw.write(struct.pack(form, number))


def fitting_profile(tags: dict[str, Any], colour: bool) -> bytes | None:
    """Return the colour profile, unless it is for another kind of colours."""
    profile: bytes | None = tags.get("iccprofile")
    kind = b"RGB " if colour else b"GRAY"
    return profile if profile is not None and profile[16:20] == kind else None


def dots_per_inch(tags: dict[str, Any]) -> tuple[float, float] | None:
    """Return the resolution as PNG and JPEG files have it; None where no length is known."""
    factor = {INCH: 1.0, CENTIMETER: 2.54}.get(int(tags.get("resolutionunit", 1)))
    if factor is None or "resolution" not in tags:
        return None
    x, y = tags["resolution"]
    return float(x) * factor, float(y) * factor


def refine(tags: dict[str, Any], down: float, right: float) -> dict[str, Any]:
    """Divide the pixel size, where there are ``down`` and ``right`` times as many pixels.

    Both grids share their outer edges: the first of the smaller pixels lies nearer to them.
    """
    tags = dict(tags)
    if "resolution" in tags:
        x, y = tags["resolution"]
        tags["resolution"] = x * right, y * down
    known = dict(tags.get("metadata", {}))
    for letter, factor in (("X", right), ("Y", down)):
        size, place, origin = (
            f"PhysicalSize{letter}",
            f"Position{letter}",
            f"{letter.lower()}origin",
        )
        if tags.get("ome") and size in known:
            known[size] /= factor
            if place in known:
                known[place] += known[size] * (1 - factor) / 2
        if tags.get("imagej") and origin in known:
            # Of the corner of the first pixel, in pixels.
            known[origin] *= factor
    return tags | ({"metadata": known} if known else {})


def _as_bytes(value: Any) -> Any:
    """Return text as the bytes that it was read from: Pillow reads Latin-1, but writes ASCII."""
    if isinstance(value, dict):
        return {code: _as_bytes(part) for code, part in value.items()}
    if isinstance(value, str) and not value.isascii():
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            return value.encode()
    return value
