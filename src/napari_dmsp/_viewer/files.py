"""Image layers as OME-TIFF files, with pixel size, axes, name and how they were restored. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DmspError
from ..files import RECORD, Picture, as_json, check_output, open_stack, write_image
from .layers import CHANNEL_LABELS, TIME_LABELS

# Letters of OME for axes that no label names, the innermost first.
FREE = "ZTQAPRHEC"
# Bytes up to which a file is read at once rather than plane by plane.
AT_ONCE = 2**30

LayerData = tuple[Any, dict[str, Any], str]


def write_layer(path: str, data: Any, options: dict[str, Any]) -> list[str]:
    """Write an image layer to a .tif file with the metadata of OME.

    Parameters
    ----------
    path : str
        The file, which is replaced if it exists.
    data : array, or list of them
        Pixels; of several resolutions the first is written.
    options : dict
        What `napari.layers.Image` takes.

    Returns
    -------
    list of str
        The file.

    Raises
    ------
    RuntimeError
        For types of pixels that OME has no name for, and files that cannot be written. A ValueError
        would tell the viewer to look for another writer, and its words would be lost.
    """
    try:
        picture = _picture(data, options)
        check_output(Path(path), picture, picture.pixels.dtype, (), overwrite=True)
        write_image(Path(path), picture)
    except DmspError as error:
        raise RuntimeError(str(error)) from error
    return [path]


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the function that reads an OME-TIFF file; None for several files."""
    return read_layers if isinstance(path, str) else None


def read_layers(path: str | list[str]) -> list[LayerData]:
    """Read the image of an OME-TIFF file, as `write_layer` writes it or another program does.

    Returns
    -------
    list of tuple
        Data, options and kind of one layer: with scale, units, labels of axes and, in its metadata,
        how it was restored. Channels are steps of an axis.
    """
    from napari.utils.notifications import show_info

    stack = open_stack(str(path))
    for text in stack.warnings:
        show_info(text)
    rgb = stack.channel_axis is not None
    axes = stack.axes[:-1] if rgb else stack.axes
    name = stack.channels[0] if len(stack.channels) == 1 else Path(str(path)).name.split(".")[0]
    options = {
        "name": name,
        "rgb": rgb,
        "scale": [axis.spacing for axis in axes],
        "translate": [axis.origin for axis in axes],
        "units": [axis.unit or "pixel" for axis in axes],
        "axis_labels": [axis.name for axis in axes],
        "metadata": {RECORD: stack.record} if stack.record else {},
    }
    small = stack.array.nbytes <= AT_ONCE
    return [(np.asarray(stack.array) if small else stack.array, options, "image")]


def _picture(data: Any, options: dict[str, Any]) -> Picture:
    """Return the pixels of a layer, rows and columns last, with what OME says of them."""
    pixels = np.asarray(data[0] if options.get("multiscale") else data)
    rgb = bool(options.get("rgb"))
    ndim = pixels.ndim - rgb
    labels = [str(label).lower() for label in options.get("axis_labels") or range(ndim)]
    units = [1 * unit for unit in options.get("units") or ()]
    scale = [float(size) for size in options.get("scale", np.ones(ndim))]
    place = [float(origin) for origin in options.get("translate", np.zeros(ndim))]
    plane = [ndim - 2, ndim - 1]
    if {"y", "x"} <= set(labels):
        plane = [labels.index("y"), labels.index("x")]
    lead = [axis for axis in range(ndim) if axis not in plane]
    letters = _letters([labels[axis] for axis in lead], [_is(units, axis, "time") for axis in lead])
    order = [*lead, *plane]
    metadata: dict[str, Any] = {"Name": options["name"], "Channel": {"Name": [options["name"]]}}
    for axis, letter in zip(order, [*letters, "Y", "X"], strict=True):
        metadata |= _size(letter, scale[axis], place[axis], units, axis)
    if record := options.get("metadata", {}).get(RECORD):
        metadata["Description"] = as_json({RECORD: record})
    pixels = _fitting(pixels.transpose([*order, *range(ndim, pixels.ndim)]), options["name"])
    alpha = pixels[..., 3] if rgb and pixels.shape[-1] == 4 else None
    tags = {"ome": True, "metadata": metadata}
    return Picture(pixels[..., :3] if rgb else pixels, alpha, tags, "".join(letters))


def _letters(labels: Sequence[str], times: Sequence[bool]) -> list[str]:
    """Return OME's letters of the axes before rows and columns, each of them once."""
    letters = []
    for label, time in zip(labels, times, strict=True):
        letter = "T" if time or label in TIME_LABELS else "C" if label in CHANNEL_LABELS else ""
        letter = "Z" if label == "z" else letter
        letters.append(letter if letter not in letters else "")
    free = iter([letter for letter in FREE if letter not in letters])
    return [letter or next(free) for letter in letters[::-1]][::-1]


def _is(units: Sequence[Any], axis: int, what: str) -> bool:
    return bool(units) and units[axis].check(f"[{what}]")


def _size(
    letter: str, size: float, origin: float, units: Sequence[Any], axis: int
) -> dict[str, Any]:
    """Return the distance of pixels along an axis, and where the first one lies, as OME has it.

    Nothing if it is not known.
    """
    if letter == "T":
        known = _is(units, axis, "time")
        unit = f"{units[axis].units:~}"
        return {"TimeIncrement": size, "TimeIncrementUnit": unit} if known else {}
    if letter not in "ZYX":
        return {}
    unit = f"{units[axis].units:~}" if _is(units, axis, "length") else "pixel"
    if unit == "pixel" and size == 1 and not origin:
        return {}
    name = f"PhysicalSize{letter}"
    return {name: size, f"{name}Unit": unit} | ({f"Position{letter}": origin} if origin else {})


def _fitting(pixels: Any, name: str) -> Any:
    """Return pixels of a type that OME knows."""
    if pixels.dtype == np.float16:
        return pixels.astype(np.float32)
    whole = pixels.dtype.kind in "bui" and pixels.itemsize < 8
    if whole or pixels.dtype in (np.float32, np.float64):
        return pixels
    raise DmspError(
        f"{name!r} has pixels of type {pixels.dtype}, which OME-TIFF does not know; convert its "
        "data, or save it with napari's own writer."
    )
