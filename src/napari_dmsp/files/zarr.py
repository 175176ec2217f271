"""Zarr folders: arrays and OME-Zarr images, opened lazily, and the metadata of new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DmspError
from .stacks import SPATIAL, Axis, Stack, ZarrFormat

KINDS = {"t": "time", "c": "channel"} | dict.fromkeys(SPATIAL, "space")
# Images that an error names, at most.
NAMED = 12


def open_zarr(source: Any) -> Stack:
    """Open an array, or what an OME-Zarr image names as its full resolution.

    Parameters
    ----------
    source : Path, zarr.Array or zarr.Group
        A folder, or what is open already.

    Returns
    -------
    Stack
        With rows and columns last, and after them three colours if the last axis has those.

    Raises
    ------
    DmspError
        For groups of several images, which are named, for labels, and for archives.
    """
    import zarr

    if isinstance(source, Path):
        if source.is_file():
            raise DmspError(
                f"{source} cannot be read as a stack: that is a zarr folder or a .tif file. Unpack "
                "archives first."
            )
        node: Any = zarr.open(source, mode="r")
    else:
        node = source
    if isinstance(node, zarr.Group):
        attributes = _attributes(node)
        if "image-label" in attributes:
            raise DmspError(f"{_place(node)} holds labels, not intensities; name an image.")
        image = _image(attributes)
        if image is None:
            return _wrap(_only_array(node), None)
        return _wrap(node[image["datasets"][0]["path"]], image)
    return _wrap(node, _image_around(node))


def ome_order(axes: Sequence[Axis]) -> list[int]:
    """Return the order that OME-Zarr demands: time, channels and the like, space."""

    def rank(i: int) -> int:
        return {"time": 0, "space": 2}.get(KINDS.get(axes[i].name, ""), 1)

    return sorted(range(len(axes)), key=rank)


def ome_metadata(name: str, axes: Sequence[Axis], zarr_format: ZarrFormat) -> dict[str, Any]:
    """Describe an image whose full resolution is the array "0"."""
    described = []
    for axis in axes:
        kind = {"type": KINDS[axis.name]} if axis.name in KINDS else {}
        unit = {"unit": axis.unit} if axis.unit else {}
        described.append({"name": axis.name, **kind, **unit})
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": [axis.spacing for axis in axes]}]
    if any(axis.origin for axis in axes):
        steps.append({"type": "translation", "translation": [axis.origin for axis in axes]})
    image = {
        "name": name,
        "axes": described,
        "datasets": [{"path": "0", "coordinateTransformations": steps}],
    }
    if zarr_format == 2:
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _attributes(group: Any) -> Mapping[str, Any]:
    """Return OME's attributes of a group, which lie deeper since version 0.5."""
    attributes: Mapping[str, Any] = group.attrs.asdict()
    return attributes.get("ome", attributes)


def _image(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    images = attributes.get("multiscales")
    return images[0] if images else None


def _place(node: Any) -> str:
    """Return the name under which a group or an array can be opened again."""
    root = getattr(node.store, "root", None)
    return str(Path(root) / node.path) if root is not None else str(node.store_path)


def _only_array(group: Any) -> Any:
    """Return the array of a group without images, or raise an error that says what to name."""
    arrays = sorted(name for name, _ in group.arrays())
    if len(arrays) == 1:
        return group[arrays[0]]
    place, attributes = _place(group), _attributes(group)
    kind, found = "images", _find_images(group, attributes)
    if arrays:
        kind, found = "arrays", arrays
    elif "labels" in attributes:
        raise DmspError(f"{place} holds labels, not intensities; name an image.")
    if not found:
        raise DmspError(f"the zarr group {place} holds no array and no image; name one that does.")
    listed = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
    raise DmspError(
        f"the zarr group {place} holds the {kind} {listed}; name one of them, such as "
        f"{Path(place) / found[0]}."
    )


def _find_images(group: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Return the paths of the images of a plate, of a well, of bioformats2raw or of any group."""
    if "plate" in attributes:
        wells = [well["path"] for well in attributes["plate"].get("wells", [])]
        fields = [(well, _attributes(group[well])) for well in wells[:NAMED] if well in group]
        named = [f"{well}/{image}" for well, inside in fields for image in _fields(inside)]
        return named + wells[NAMED:]
    if "well" in attributes:
        return _fields(attributes)
    found = []
    for name, inside in sorted(group.groups(), key=lambda item: _natural(item[0])):
        attributes = _attributes(inside)
        if "image-label" not in attributes and _image(attributes):
            found.append(name)
        elif "labels" not in attributes and name != "OME":
            found += [f"{name}/{path}" for path in _find_images(inside, attributes)]
    return found


def _fields(attributes: Mapping[str, Any]) -> list[str]:
    return [image["path"] for image in attributes.get("well", {}).get("images", [])]


def _natural(name: str) -> tuple[int, str]:
    """Sort numbers by their value."""
    return (int(name) if name.isdecimal() else -1, name)


def _image_around(array: Any) -> dict[str, Any] | None:
    """Return the image of which an array is a level, with that level as its only one."""
    import zarr

    root = getattr(array.store, "root", None)
    if root is None:
        return None
    place = Path(root) / array.path
    # Levels may lie deeper than their image, but hardly ever do.
    try:
        group = zarr.open_group(place.parent, mode="r")
    except (OSError, ValueError, KeyError):
        return None
    image = _image(_attributes(group))
    levels = [] if image is None else [d for d in image["datasets"] if d["path"] == place.name]
    return image | {"datasets": levels} if image is not None and levels else None


def _wrap(node: Any, image: dict[str, Any] | None) -> Stack:
    """Make a stack of an array, whose axes the image or the array itself may name."""
    import dask.array as da
    from dask.base import tokenize

    zarr_format: ZarrFormat = 2 if node.metadata.zarr_format == 2 else 3
    name = f"zarr-{tokenize(str(node.store_path), node.shape, _modified(node))}"
    array = da.from_array(node, chunks=node.chunks, name=name, fancy=False)
    if image is not None:
        axes = _read_axes(image, array.ndim)
    else:
        names = getattr(node.metadata, "dimension_names", None)
        axes = _plain_axes(names or node.attrs.get("_ARRAY_DIMENSIONS"), array.ndim)
    colour = array.ndim > 2 and array.shape[-1] == 3
    if not axes:
        if array.ndim > 2 and array.shape[-1] in (2, 4):
            raise DmspError(
                f"{_place(node)} has shape {array.shape}, as with transparency; planes need rows "
                "and columns as the last axes, or three colours behind them."
            )
        return Stack(array, channel_axis=-1 if colour else None, zarr_format=zarr_format)
    letters = [axis.name for axis in axes]
    if not {"y", "x"} <= set(letters):
        raise DmspError(f"{_place(node)} has axes {', '.join(letters)}; planes need y and x.")
    # Red, green and blue cannot be told from the channels of a microscope, but by their place.
    colour = colour and letters[-1] == "c"
    last = [letters.index("y"), letters.index("x"), *([len(letters) - 1] if colour else [])]
    order = [i for i in range(len(letters)) if i not in last] + last
    if order != sorted(order):
        array, axes = array.transpose(order), tuple(axes[i] for i in order)
    return Stack(array, axes, -1 if colour else None, zarr_format)


def _modified(node: Any) -> int:
    """When an array was made, for one of the same name is not the same."""
    folder = Path(str(getattr(node.store, "root", "."))) / node.path
    files = [folder / name for name in ("zarr.json", ".zarray")]
    return next((file.stat().st_mtime_ns for file in files if file.is_file()), 0)


def _plain_axes(names: Any, ndim: int) -> tuple[Axis, ...]:
    """Return the axes that a plain array names, if those are letters as in OME-Zarr."""
    known = [str(name).lower() for name in names or ()]
    named = len(known) == ndim == len(set(known)) and {"y", "x"} <= set(known)
    return tuple(Axis(name) for name in known) if named else ()


def _read_axes(image: Mapping[str, Any], ndim: int) -> tuple[Axis, ...]:
    """Read the axes of an OME-Zarr image; transformations of the image follow the dataset's."""
    # Before version 0.4, axes were names, and before 0.3 there were always five.
    axes = image.get("axes") or list("tczyx")
    axes = [{"name": a} if isinstance(a, str) else a for a in axes]
    if len(axes) != ndim:
        raise DmspError(f"the image has {ndim} axes, but its metadata name {len(axes)}.")
    spacing, origin = np.ones(ndim), np.zeros(ndim)
    steps = image["datasets"][0].get("coordinateTransformations", [])
    for step in [*steps, *image.get("coordinateTransformations", [])]:
        if "scale" in step:
            spacing, origin = spacing * step["scale"], origin * step["scale"]
        if "translation" in step:
            origin = origin + step["translation"]
    return tuple(
        Axis(axis["name"], axis.get("unit"), float(distance), float(first))
        for axis, distance, first in zip(axes, spacing, origin, strict=True)
    )
