"""What files hold: pictures, and stacks that are read lazily, with the axes that files name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from ..dtypes import fit_dtype
from ..errors import DmspError
from . import tags as notes

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
    channels : tuple of str
        Names of the channels, as far as the file tells them.
    record : dict
        How the image was restored, as its description says.
    warnings : tuple of str
        Sentences for the user on what was left out.
    """

    array: da.Array
    axes: tuple[Axis, ...] = ()
    channel_axis: int | None = None
    zarr_format: ZarrFormat = 3
    path: Path | None = None
    channels: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
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
            raise DmspError(f"planes= cuts {len(planes)} axes; there are {lead}.")
        cuts = [p if isinstance(p, slice) else slice(p, p + 1 or None) for p in planes]
        if any(cut.step == 0 for cut in cuts):
            raise DmspError("planes= has a step of 0; leave it out to take every plane.")
        array, axes = self.array[tuple(cuts)], list(self.axes)
        if 0 in array.shape:
            raise DmspError(f"planes= is no part of a stack of shape {self.array.shape}.")
        for i, cut in enumerate(cuts if axes else []):
            begin, _, step = cut.indices(self.array.shape[i])
            axes[i] = axes[i].cut(begin, step)
        return replace(self, array=array, axes=tuple(axes))


@dataclass(frozen=True, eq=False)
class Picture:
    """One image from a file, or the planes of a stack."""

    # (..., H, W), or (..., H, W, 3) for colour.
    pixels: NDArray[Any]
    # (..., H, W) transparency, which no restoration touches.
    alpha: NDArray[Any] | None = None
    # What else the file says, see `napari_dmsp.files.tags`.
    tags: dict[str, Any] = field(default_factory=dict)
    # Letters of the axes of planes as TIFF has them, such as "TZ"; none for one image.
    axes: str = ""
    # Sentences for the user on what is doubtful or was left out.
    warnings: tuple[str, ...] = ()

    @property
    def channel_axis(self) -> int | None:
        """Axis of the colour channels; None for a grey image."""
        return -1 if self.pixels.ndim - len(self.axes) == 3 else None

    def with_pixels(self, pixels: NDArray[Any]) -> Picture:
        """Put other pixels of as many planes into the same frame: a finer image of the same object.

        Transparency and pixel size follow the new H and W.
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
        tags = notes.refine(self.tags, down, right)
        return replace(self, pixels=pixels, alpha=alpha, tags=tags)


def named_unit(name: str) -> str:
    """Return OME-Zarr's name of a unit."""
    plain = name.replace("\\u00B5", "µ").replace("μ", "µ")
    return UNITS.get(plain, plain)
