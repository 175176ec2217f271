"""Point spread functions, frozen: made in another thread, and written down as Python. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Image, Layer

    from ..core import Psf

FOCAL_IMPORT = "from napari_dmsp.core import focal_plane"


class GivenPsf(Protocol):
    """A point spread function that is made when it is needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is made: two axes, or three for volumes; of beads an upper bound."""

    @property
    def ndim(self) -> int:
        """Number of its axes."""

    @property
    def imports(self) -> Sequence[str]:
        """What `code` needs, as lines of Python."""

    def make(self) -> Any:
        """Return an array, or a `napari_dmsp.core.Psf`."""

    def code(self) -> str:
        """Write it down."""


@dataclass(frozen=True)
class ShapedPsf:
    """What a function of `napari_dmsp.core.psf` makes of sizes."""

    function: str
    sizes: tuple[Any, ...]
    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array; raises a `DmspError` for sizes that cannot be."""
        return self.make().shape

    @property
    def imports(self) -> Sequence[str]:
        """Where the function is."""
        return (f"from napari_dmsp.core.psf import {self.function}",)

    def make(self) -> NDArray[Any]:
        """Compute it, which takes neither torch nor time."""
        return _shaped(self)

    def code(self) -> str:
        """Write it down."""
        return f"{self.function}({', '.join(map(repr, self.sizes))})"


@lru_cache(8)
def _shaped(psf: ShapedPsf) -> NDArray[Any]:
    from ..core import psf as functions

    kernel: NDArray[Any] = getattr(functions, psf.function)(*psf.sizes)
    return kernel


@dataclass(frozen=True, eq=False)
class LayerPsf:
    """What is in a layer, with its data as they were at the start."""

    layer: Image
    data: Any = field(repr=False)
    # Leading axes of length 1 are dropped, but not those of a PSF that is one pixel wide.
    axes: int = 2
    # Whether only its plane in focus is used.
    focal: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is used."""
        return tuple(map(int, self.data.shape[-self.ndim :]))

    @property
    def ndim(self) -> int:
        """Axes of what is used."""
        return 2 if self.focal else self.axes

    @property
    def imports(self) -> Sequence[str]:
        """Only the focal plane needs one."""
        return (FOCAL_IMPORT,) if self.focal else ()

    def make(self) -> NDArray[Any]:
        """Compute it."""
        values = np.asarray(self.data).reshape(self.data.shape[-self.axes :])
        return _focal_plane(values) if self.focal else values

    def code(self) -> str:
        """Write it down."""
        shape = tuple(map(int, self.data.shape[-self.axes :]))
        code = f"np.asarray({data_source(self.layer)}).reshape({shape})"
        return f"focal_plane({code})" if self.focal else code


@dataclass(frozen=True)
class MicroscopePsf:
    """What `microscope_psf` makes of its arguments, among them the shape of the image."""

    kind: str
    optics: tuple[tuple[str, Any], ...]
    imports: ClassVar[Sequence[str]] = ("from napari_dmsp.core import microscope_psf",)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array; raises a `DmspError` for optics that cannot be."""
        from ..core.microscope import microscope_psf_shape

        return microscope_psf_shape(self.kind, **dict(self.optics))

    @property
    def ndim(self) -> int:
        """Axes of what is restored."""
        return len(dict(self.optics)["image_shape"])

    def make(self) -> Psf:
        """Compute it, which takes seconds where it is large."""
        return _of_microscope(self)

    def code(self) -> str:
        """Write it down."""
        return f"microscope_psf({self.kind!r}, {_written(self.optics)})"


@lru_cache(2)
def _of_microscope(psf: MicroscopePsf) -> Psf:
    from ..core.microscope import microscope_psf

    return microscope_psf(psf.kind, **dict(psf.optics))


@dataclass(frozen=True, eq=False)
class BeadsPsf:
    """What `bead_psf` finds in a layer."""

    beads: LayerPsf
    # Arguments of `bead_psf`.
    options: tuple[tuple[str, Any], ...]
    # Whether only its plane in focus is used.
    focal: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the image of the beads, in voxels of the image to restore."""
        given = dict(self.options)
        ratios = [
            a / b for a, b in zip(given["voxel_size"], given["target_voxel_size"], strict=True)
        ]
        sides = [max(1, round(n * f)) for n, f in zip(self.beads.shape, ratios, strict=True)]
        return tuple(sides[-self.ndim :])

    @property
    def ndim(self) -> int:
        """Axes of what is used."""
        return 2 if self.focal else self.beads.ndim

    @property
    def imports(self) -> Sequence[str]:
        """Where the functions are."""
        focal = [FOCAL_IMPORT] if self.focal else []
        return ["from napari_dmsp.core import bead_psf", *focal]

    def make(self) -> Psf:
        """Find and average the beads."""
        from ..core.beads import bead_psf

        found = bead_psf(self.beads.make(), **dict(self.options))
        if not self.focal:
            return found
        return replace(found, values=_focal_plane(found), voxel_size=found.voxel_size[-2:])

    def code(self) -> str:
        """Write it down."""
        code = f"bead_psf({self.beads.code()}, {_written(self.options)})"
        return f"focal_plane({code})" if self.focal else code


def data_source(layer: Layer) -> str:
    """Return the full data of a layer as Python in the console of napari."""
    finest = "[0]" if getattr(layer, "multiscale", False) else ""
    return f"viewer.layers[{layer.name!r}].data{finest}"


def _focal_plane(psf: Any) -> NDArray[Any]:
    from ..core.psf import focal_plane

    return focal_plane(psf)


def _written(options: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options)
