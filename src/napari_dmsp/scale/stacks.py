"""Stacks on disk and in memory: opened lazily, with the axes that OME-Zarr and TIFF files name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dask.array as da
import numpy as np
import tifffile
import zarr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from ..errors import DmspError
from ..files import TIFF
from ..windows import STRIDE

# Side of what is read at once from arrays in memory and uncompressed files.
READ = 2048
SPATIAL = ("z", "y", "x")
KINDS = {"t": "time", "c": "channel"} | dict.fromkeys(SPATIAL, "space")
UNITS = {"µm": "micrometer", "um": "micrometer", "micron": "micrometer", "nm": "nanometer"}

Pixels: TypeAlias = NDArray[Any]
ZarrFormat: TypeAlias = Literal[2, 3]


@dataclass(frozen=True)
class Axis:
    """An axis of a stack.

    Attributes
    ----------
    name : str
        One letter: "t", "c", "z", "y", "x" or another.
    unit : str or None
        As OME-Zarr names it, such as "micrometer".
    spacing, origin : float
        Distance of pixels, and where the first one lies, in that unit.
    """

    name: str
    unit: str | None = None
    spacing: float = 1.0
    origin: float = 0.0

    def cut(self, begin: int, step: int) -> Axis:
        """Return the axis of every ``step``-th pixel from ``begin`` on."""
        return replace(self, spacing=self.spacing * step, origin=self.origin + begin * self.spacing)

    def refine(self, factor: float) -> Axis:
        """Return the axis of ``factor`` times as many pixels between the same outer edges."""
        spacing = self.spacing / factor
        return replace(self, spacing=spacing, origin=self.origin + (spacing - self.spacing) / 2)


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes on disk, read where they are needed.

    Attributes
    ----------
    array : dask.array.Array
        (..., H, W), or (..., H, W, 3) and the like, see ``channel_axis``.
    axes : tuple of Axis
        One per axis of the array; none where the file does not name them.
    channel_axis : int or None
        Axis of the red, green and blue of photographs. None for grey planes, those of the channels
        of a microscope among them.
    zarr_format : int
        For a result like it.
    path : Path or None
        What was opened.
    """

    array: da.Array
    axes: tuple[Axis, ...] = ()
    channel_axis: int | None = None
    zarr_format: ZarrFormat = 3
    path: Path | None = None

    def select(self, planes: Sequence[int | slice]) -> Stack:
        """Cut the first axes, like NumPy's indices, but for keeping axes where one plane is left.

        Raises
        ------
        DmspError
            Where nothing is left, or more is cut than leading axes.
        """
        lead = self.array.ndim - 2 - (self.channel_axis is not None)
        if len(planes) > lead:
            raise DmspError(f"planes={planes} cut {len(planes)} axes; there are {lead}.")
        cuts = [p if isinstance(p, slice) else slice(p, p + 1 or None) for p in planes]
        array, axes = self.array[tuple(cuts)], list(self.axes)
        if 0 in array.shape:
            raise DmspError(f"planes={planes} is no part of a stack of shape {self.array.shape}.")
        for i, cut in enumerate(cuts if axes else []):
            begin, _, step = cut.indices(self.array.shape[i])
            axes[i] = axes[i].cut(begin, step)
        return replace(self, array=array, axes=tuple(axes))


Source: TypeAlias = "Stack | da.Array | zarr.Array[Any] | zarr.Group | NDArray[Any] | str | Path"


def open_stack(path: str | Path) -> Stack:
    """Open a zarr array, the full resolution of an OME-Zarr image, or a TIFF file, lazily.

    Parameters
    ----------
    path : str or Path
        A zarr folder, also an array in it, or a .tif file: uncompressed ones are mapped to memory,
        others are read page by page.

    Raises
    ------
    DmspError
        For what is neither, or holds several images.
    """
    # Workers may run elsewhere.
    path = Path(path).absolute()
    if not path.exists():
        raise DmspError(f"{path} does not exist; check the name.")
    try:
        tiff = path.suffix.lower() in TIFF
        stack = _open_tiff(path) if tiff else _open_zarr(zarr.open(path, mode="r"))
        return replace(stack, path=path)
    except DmspError:
        raise
    # Decoders raise all sorts of errors for broken files.
    except Exception as error:
        raise DmspError(
            f"{path} cannot be read ({error}); expected a zarr array, an OME-Zarr image or a .tif "
            "file."
        ) from error


def as_stack(source: Source, channel_axis: int | None) -> Stack:
    """Return what a caller gave as a stack, or raise a `DmspError` where it cannot be restored."""
    if isinstance(source, Stack):
        stack = source
    elif isinstance(source, str | Path):
        stack = open_stack(source)
    elif isinstance(source, zarr.Array | zarr.Group):
        stack = _open_zarr(source)
    else:
        stack = Stack(source if isinstance(source, da.Array) else from_numpy(np.asarray(source)))
    if channel_axis is not None:
        stack = replace(stack, channel_axis=channel_axis)
    array, axis = stack.array, stack.channel_axis
    if array.ndim < 2 + (axis is not None) or 0 in array.shape:
        raise DmspError(f"a source of shape {array.shape} has no planes.")
    if array.dtype.kind not in "buif":
        raise DmspError(f"dtype {array.dtype} is not a real number; convert it first.")
    if axis is not None and not -array.ndim <= axis < array.ndim:
        raise DmspError(f"channel_axis={axis} is not an axis of shape {array.shape}.")
    if axis is not None and array.shape[axis] not in (1, 3):
        raise DmspError(
            f"the source has {array.shape[axis]} channels along axis {axis}; 1 or 3 can be "
            "restored together: drop an alpha channel, and restore other channels one by one."
        )
    return stack


def from_numpy(array: Pixels) -> da.Array:
    """Make a dask array of one in memory."""
    return da.from_array(array, chunks=_reading_chunks(array.shape))


def _reading_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of one plane, or parts of it; a last axis of few pixels is one of colours."""
    planes = len(shape) - (3 if len(shape) > 2 and shape[-1] < STRIDE else 2)
    return tuple(1 if i < planes else min(n, READ) for i, n in enumerate(shape))


def layer(
    name: str,
    tasks: dict[Any, Any],
    needed: Sequence[da.Array | None],
    chunks: tuple[tuple[int, ...], ...],
    dtype: np.dtype[Any],
) -> da.Array:
    """Make an array of tasks; blockwise ones would be fused, and surveys made for every tile."""
    arrays: list[Any] = [array for array in needed if array is not None]
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=arrays)
    return da.Array(graph, name, chunks, dtype=dtype)


def _open_zarr(node: Any) -> Stack:
    """Take an array, or what the first image of a group names as its full resolution."""
    attributes: Any = {}
    if isinstance(node, zarr.Group):
        attributes = node.attrs.get("ome", node.attrs)
        images = attributes.get("multiscales")
        arrays = sorted(name for name, _ in node.arrays())
        if not images and len(arrays) != 1:
            held = f"the arrays {', '.join(arrays)}" if arrays else "no array"
            raise DmspError(f"the zarr group {node.store_path} holds {held}; name one of them.")
        node = node[images[0]["datasets"][0]["path"] if images else arrays[0]]
    name = f"zarr-{tokenize(str(node.store_path), node.shape, _modified(node))}"
    array = da.from_array(node, chunks=node.chunks, name=name, fancy=False)
    colour = array.ndim > 2 and array.shape[-1] == 3
    if not attributes.get("multiscales"):
        return Stack(array, channel_axis=-1 if colour else None, zarr_format=_format(node))
    axes = _read_axes(attributes["multiscales"][0], array.ndim)
    # Red, green and blue cannot be told from the channels of a microscope.
    return Stack(array, axes, -1 if colour and axes[-1].name == "c" else None, _format(node))


def _format(node: Any) -> ZarrFormat:
    return 2 if node.metadata.zarr_format == 2 else 3


def _modified(node: Any) -> int:
    """When an array was made, for one of the same name is not the same."""
    folder = Path(str(getattr(node.store, "root", "."))) / node.path
    files = [folder / name for name in ("zarr.json", ".zarray")]
    return next((file.stat().st_mtime_ns for file in files if file.is_file()), 0)


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


@dataclass(frozen=True)
class _Mapped:
    """The pixels of an uncompressed TIFF file, mapped by whoever reads them."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Pixels:
        return np.asarray(tifffile.memmap(self.path, mode="r")[index], dtype=self.dtype)


def _open_tiff(path: Path) -> Stack:
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise DmspError(f"{path} holds {len(file.series)} images; save the one to restore.")
        series = file.series[0]
        shape, dtype, page = series.shape, series.dtype.newbyteorder("="), series.keyframe.shape
        mapped = series.dataoffset is not None and series.keyframe.is_memmappable
        axes = _tiff_axes(file, series.axes)
    changed = path.stat()
    token = tokenize(str(path), changed.st_size, changed.st_mtime_ns)
    name = f"tiff-{token}"
    if mapped:
        file_array = _Mapped(str(path), shape, dtype)
        array = da.from_array(file_array, chunks=_reading_chunks(shape), name=name, fancy=False)
    else:
        lead = shape[: len(shape) - len(page)]
        tasks = {
            (name, *index, *(0 for _ in page)): (_read_page, str(path), i, len(lead))
            for i, index in enumerate(np.ndindex(lead))
        }
        chunks = (*((1,) * n for n in lead), *((n,) for n in page))
        array = layer(name, tasks, [], chunks, dtype)
    samples = [i for i, axis in enumerate(axes) if axis.name == "s"]
    channel = samples[0] if samples else None
    named = tuple(replace(axis, name="c") if axis.name == "s" else axis for axis in axes)
    return Stack(array, named, channel)


def _read_page(path: str, number: int, lead: int) -> Pixels:
    page = tifffile.imread(path, series=0, key=number)
    return page.astype(page.dtype.newbyteorder("="), copy=False)[(None,) * lead]


def _tiff_axes(file: tifffile.TiffFile, names: str) -> tuple[Axis, ...]:
    """Name the axes and find the pixel size, in OME's or ImageJ's metadata."""
    found: dict[str, Axis] = {}
    if file.ome_metadata:
        for name in SPATIAL:
            size = re.search(rf'PhysicalSize{name.upper()}="([^"]*)"', file.ome_metadata)
            given = re.search(rf'PhysicalSize{name.upper()}Unit="([^"]*)"', file.ome_metadata)
            if size:
                # The default of the format.
                found[name] = Axis(name, _unit(given[1] if given else "µm"), float(size[1]))
    elif file.imagej_metadata and "unit" in file.imagej_metadata:
        unit = _unit(file.imagej_metadata["unit"])
        x, y = file.pages.first.resolution
        sizes = {"z": file.imagej_metadata.get("spacing"), "y": y and 1 / y, "x": x and 1 / x}
        found = {name: Axis(name, unit, float(size)) for name, size in sizes.items() if size}
    return tuple(found.get(name, Axis(name)) for name in names.lower())


def _unit(name: str) -> str:
    plain = name.replace("\\u00B5", "µ").replace("μ", "µ")
    return UNITS.get(plain, plain)


def result_axes(like: Stack, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of a result of this shape; none where those of the source are unknown."""
    old, axes = like.array.shape, like.axes
    if len(shape) == len(old) + 1 and shape[-1] == 3:
        old, axes = (*old, 3), (*axes, Axis("c")) if axes else ()
    if len(shape) != len(old):
        raise DmspError(f"an array of shape {shape} is not like a source of shape {old}.")
    ratios = [after / before for after, before in zip(shape, old, strict=True)]
    return tuple(axis.refine(ratio) for axis, ratio in zip(axes, ratios, strict=False))


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
