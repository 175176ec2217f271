"""Restorations, frozen: to be made in another thread, and written down as Python. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..settings import Settings
from .layers import Selection
from .masks import LayerMask

if TYPE_CHECKING:
    from napari.layers import Image, Layer

    from ..core import Job

Steps = tuple[int, ...]


@dataclass(frozen=True)
class ShapedPsf:
    """A point spread function of `napari_dmsp.core.psf`, by its name and its sizes."""

    function: str
    sizes: tuple[Any, ...]

    def make(self) -> NDArray[Any]:
        """Compute it, which takes no torch."""
        return _shaped(self)

    def code(self) -> str:
        """Write it down."""
        return f"{self.function}({', '.join(map(repr, self.sizes))})"


@cache
def _shaped(psf: ShapedPsf) -> NDArray[Any]:
    from ..core import psf as functions

    kernel: NDArray[Any] = getattr(functions, psf.function)(*psf.sizes)
    return kernel


@dataclass(frozen=True, eq=False)
class LayerPsf:
    """The point spread function in a layer, with its data as they were at the start."""

    layer: Image
    data: Any = field(repr=False)

    def make(self) -> NDArray[Any]:
        """Compute it."""
        # Leading axes of length 1 are dropped, but not those of a PSF that is one pixel wide.
        return np.asarray(self.data).reshape(self.data.shape[-2:])

    def code(self) -> str:
        """Write it down."""
        shape = tuple(map(int, self.data.shape[-2:]))
        return f"np.asarray({data_source(self.layer)}).reshape({shape})"


@dataclass(frozen=True, eq=False)
class Call:
    """The restoration of planes of a layer.

    Attributes
    ----------
    settings : Settings
        The task and its options; `ShapedPsf`, `LayerPsf` and `LayerMask` stand for the arrays that
        they make.
    selection : Selection
        The planes.
    same_dtype : bool
        Whether grey results get the type of the layer; otherwise they stay float32.
    developed : bool
        Whether the linear colours of a mosaic are balanced and encoded.
    """

    settings: Settings
    selection: Selection
    same_dtype: bool = False
    developed: bool = False

    @property
    def jobs(self) -> list[Callable[[], Job]]:
        """For every plane, a function that reads it and prepares its job."""
        return [partial(self._prepare, steps) for steps in self.selection.planes]

    @property
    def psf(self) -> ShapedPsf | LayerPsf | None:
        """The point spread function, if the task has one and it is known."""
        return getattr(self.settings, "psf", None)

    @property
    def factor(self) -> float:
        """How much longer the sides of the result are."""
        return float(getattr(self.settings, "scale", 1))

    @property
    def source(self) -> str:
        """The layer's data, as Python in the console of napari."""
        return data_source(self.selection.layer)

    def _prepare(self, steps: Steps) -> Job:
        # Imported in the thread that restores: to load torch takes seconds.
        from ..restore import prepare

        made: dict[str, Any] = {"prior": self._prior}
        if self.selection.channel_axis is not None:
            made["channel_axis"] = self.selection.channel_axis
        if self.psf is not None:
            made["psf"] = self.psf.make()
        image, mask = self.selection.read(steps), self.settings.mask
        if isinstance(mask, LayerMask):
            made["mask"] = mask.read(self.selection.source(steps), self.selection.axes)
        return prepare(self.settings.replace(**made), image)

    @cached_property
    def _prior(self) -> Any:
        """The prior for all planes, chosen by the one in the middle if the user chose none."""
        from ..core.inputs import default_prior, is_fluorescence

        planes, chosen = self.selection.planes, self.settings.prior
        coloured = self.settings.makes_colour or self.selection.colours is not None
        if chosen is not None or len(planes) == 1 or coloured:
            return chosen
        middle = self.selection.read(planes[len(planes) // 2])
        return default_prior(1, is_fluorescence(middle[None].astype(np.float64)))

    def convert(self, image: NDArray[np.float32], record: dict[str, Any]) -> NDArray[Any]:
        """Cut the margin off a restored plane and give it a type that the viewer shows rightly."""
        if self.selection.has_margin:
            image = image[self.selection.inner]
        if self.settings.makes_colour:
            # The viewer takes colours as 0..1, or as integers of full range.
            low, high = record["background"], record["white"]
            colours = np.clip((image - low) / (high - low), 0, 1)
            if not self.developed:
                return colours
            from ..core.mosaic import develop

            return develop(colours)
        if self.integers is not None:
            limits = self.integers
            return np.clip(np.rint(image), limits.min, limits.max).astype(limits.dtype)
        return image

    def conversion_code(self, record: dict[str, Any], result: NDArray[Any]) -> list[str]:
        """Write `convert` down, but for the type, which the array of the result gives."""
        lines = []
        if self.selection.has_margin:
            lines.append(f"image = image[{_write(self.selection.inner)}]")
        if self.settings.makes_colour:
            low, high = record["background"], record["white"]
            lines.append(f"image = np.clip((image - {low}) / ({high} - {low}), 0, 1)")
            if self.developed:
                lines.append("image = develop(image)")
        elif self.integers is not None:
            limits = self.integers
            lines.append(f"image = np.clip(np.rint(image), {limits.min}, {limits.max})")
        if self.has_alpha(result):
            opaque = opacity(result.dtype)
            lines.append(f"image = np.concatenate([image, 0 * image[..., :1] + {opaque}], axis=-1)")
        return lines

    def has_alpha(self, result: NDArray[Any]) -> bool:
        """Whether planes of a result in colour are transparent."""
        return result.ndim > self.selection.layer.ndim and result.shape[-1] == 4

    @property
    def integers(self) -> np.iinfo[Any] | None:
        """Limits of the layer's type, if results are to have it and it has no fractions."""
        dtype = self.selection.dtype
        wanted = self.selection.rgb or self.same_dtype
        return np.iinfo(dtype) if wanted and dtype.kind in "ui" else None


def data_source(layer: Layer) -> str:
    """Return the full data of a layer as Python in the console of napari."""
    finest = "[0]" if getattr(layer, "multiscale", False) else ""
    return f"viewer.layers[{layer.name!r}].data{finest}"


def opacity(dtype: np.dtype[Any]) -> int:
    """Return the fourth sample of colours that are not transparent."""
    return int(np.iinfo(dtype).max) if dtype.kind in "ui" else 1


def describe(call: Call, done: dict[Steps, dict[str, Any]], result: NDArray[Any]) -> dict[str, Any]:
    """Say how a result layer came about, as numbers and words.

    Parameters
    ----------
    call : Call
        What was asked for.
    done : dict
        `Restoration.to_dict` of the planes that were restored, by their steps; with "stopped",
        whether the user ended it early.
    result : ndarray
        The data of the layer.
    """
    # Imported late: to load torch takes seconds.
    from ..core.job import describe_planes

    about = describe_planes(list(done.values())) | {
        "source": call.source,
        "region": [[part.start, part.stop] for part in call.selection.index],
        "axes": list(call.selection.axes),
        "script": write_script(call, done, result),
    }
    if len(call.selection.planes) > 1:
        about["planes"] = [list(steps) for steps in done]
    return about


def write_script(call: Call, done: dict[Steps, dict[str, Any]], result: NDArray[Any]) -> str:
    """Write a run down as Python that gives the same array, called ``restored``.

    The parameters are those of `describe`.
    """
    record = next(iter(done.values()))["settings"]
    names = [f"i{number}" for number in range(len(call.selection.planes[0]))]
    task = call.settings.task
    head = [
        f"# {task} by napari-dmsp {record['version']} with the prior {record['prior']!r},",
        f"# sha256 {record['prior_sha256']}.",
        "# For the console of napari; elsewhere, read the layers from their files.",
        "import numpy as np",
        f"from napari_dmsp import {task}",
    ]
    if isinstance(call.psf, ShapedPsf):
        head.append(f"from napari_dmsp.core.psf import {call.psf.function}")
    if isinstance(call.settings.mask, LayerMask):
        head.append("from napari_dmsp._viewer.masks import LayerMask")
    if call.developed:
        head.append("from napari_dmsp.core.mosaic import develop")
    transparent = result.dtype.kind == "f" and not call.has_alpha(result)
    empty = "np.full({}, np.nan, {!r})" if transparent else "np.zeros({}, {!r})"
    head += [
        "",
        f"data = {call.source}",
        f"restored = {empty.format(result.shape, str(result.dtype))}",
    ]
    if isinstance(call.settings.mask, LayerMask):
        mask = call.settings.mask
        layers = (f"viewer.layers[{each.name!r}]" for each in (mask.layer, mask.image))
        head.append(f"mask = LayerMask.over({', '.join(layers)}, {tuple(mask.point)})")
    body = _write_body(call, done, names, result)
    if names:
        head.append(f"for {', '.join(names)}, in {list(done)}:")
        body = ["    " + line for line in body]
    return "\n".join(head + body) + "\n"


def _write_body(
    call: Call, done: dict[Steps, dict[str, Any]], names: list[str], result: NDArray[Any]
) -> list[str]:
    """Write down what happens to one plane, whose steps have ``names``."""
    selection = call.selection
    last, about = list(done.items())[-1]
    record, here = about["settings"], _write(selection.source(names))
    same = {name: record[name] for name in ("device", "tile")}
    if call.settings.prior is None:
        same["prior"] = record["prior"]
    arrays = {"mask": f"mask.read(np.s_[{here}], {selection.axes})"}
    if call.psf is not None:
        arrays["psf"] = call.psf.code()
    if not isinstance(call.settings.mask, LayerMask):
        del arrays["mask"]
    if isinstance(record.get("pattern"), list):
        arrays["pattern"] = repr(record["pattern"])
    if selection.channel_axis is not None:
        same["channel_axis"] = selection.channel_axis
    written = call.settings.replace(**same).code(**arrays)
    if about["stopped"]:
        plane = f"({', '.join(names)},) == {last} and " if names else ""
        written += f", callback=lambda state: {plane}state.evaluation == {about['evaluations']}"
    return [
        f"image = np.asarray(data[{here}])",
        f"image = {call.settings.task}(image, {written}).image",
        *call.conversion_code(record, result),
        f"restored[{_write(selection.target(names))}] = image",
    ]


def _write(index: Sequence[Any]) -> str:
    """Write an index down: slices, and what stands between commas as it is."""
    parts = (
        part
        if not isinstance(part, slice)
        else ":"
        if part == slice(None)
        else f"{part.start}:{part.stop}"
        for part in index
    )
    return ", ".join(map(str, parts))
