"""Stacks on disk: opened lazily, with the axes that OME-Zarr and TIFF files name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import DmspError
from .records import check_readable, reading

if TYPE_CHECKING:
    import dask.array as da

TIFF = {".tif", ".tiff"}
SPATIAL = ("z", "y", "x")
# Side of what is read at once from arrays in memory and uncompressed files.
READ = 2048
UNITS = {"µm": "micrometer", "um": "micrometer", "micron": "micrometer", "nm": "nanometer"}
MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}
UNITS |= {"microns": "micrometer", "mm": "millimeter", "s": "second", "sec": "second"}

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
    warnings : tuple of str
        Sentences for the user on what was left out.
    """

    array: da.Array
    axes: tuple[Axis, ...] = ()
    channel_axis: int | None = None
    zarr_format: ZarrFormat = 3
    path: Path | None = None
    warnings: tuple[str, ...] = ()

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
        if any(cut.step == 0 for cut in cuts):
            raise DmspError(f"planes={planes} has a step of 0; leave it out to take every plane.")
        array, axes = self.array[tuple(cuts)], list(self.axes)
        if 0 in array.shape:
            raise DmspError(f"planes={planes} is no part of a stack of shape {self.array.shape}.")
        for i, cut in enumerate(cuts if axes else []):
            begin, _, step = cut.indices(self.array.shape[i])
            axes[i] = axes[i].cut(begin, step)
        return replace(self, array=array, axes=tuple(axes))


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
            from .tiff import open_tiff

            return replace(open_tiff(path), path=path)
        from .zarr import open_zarr

        return replace(open_zarr(path), path=path)


def describe(path: Path) -> tuple[list[str], tuple[int, ...], dict[str, float]]:
    """Return the names and lengths of an image's axes, and the sizes of its pixels in micrometres.

    Sizes are of the axes whose size the file tells. TIFF files are not read for it.
    """
    from .pictures import read_image

    suffix = path.suffix.lower()
    if suffix in TIFF:
        from .tiff import describe_tiff

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


def named_unit(name: str) -> str:
    """Return OME-Zarr's name of a unit."""
    plain = name.replace("\\u00B5", "µ").replace("μ", "µ")
    return UNITS.get(plain, plain)
