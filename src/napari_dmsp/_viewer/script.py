"""Calls of the core, frozen: to be made in another thread, and written down as Python. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .layers import Selection

if TYPE_CHECKING:
    from ..core import Job

Steps = tuple[int, ...]


@dataclass(frozen=True)
class ShapedPsf:
    """A point spread function of `napari_dmsp.core.psf`, by its name and its sizes."""

    function: str
    sizes: tuple[Any, ...]

    def make(self) -> NDArray[Any]:
        """Compute it."""
        from ..core import psf

        kernel: NDArray[Any] = getattr(psf, self.function)(*self.sizes)
        return kernel

    def code(self) -> str:
        """Write it down."""
        return f"{self.function}({', '.join(map(repr, self.sizes))})"


@dataclass(frozen=True, eq=False)
class LayerPsf:
    """The point spread function in the data of a layer, which ``source`` gives in the console."""

    source: str
    data: Any = field(repr=False)

    def make(self) -> NDArray[Any]:
        """Compute it."""
        # Leading axes of length 1 are dropped, but not those of a PSF that is one pixel wide.
        return np.asarray(self.data).reshape(self.data.shape[-2:])

    def code(self) -> str:
        """Write it down."""
        return f"np.asarray({self.source}).reshape({tuple(map(int, self.data.shape[-2:]))})"


@dataclass(frozen=True, eq=False)
class Call:
    """A call of `deblur`, `superres` or `demosaic` for the planes of a layer.

    Attributes
    ----------
    task : str
        Which of them.
    arguments : dict
        Plain values by name, without the image.
    selection : Selection
        The planes.
    source : str
        The layer's data, as Python in the console of napari.
    psf : ShapedPsf or LayerPsf, optional
        The point spread function; None finds it, where the task has one.
    same_dtype : bool
        Whether grey results get the type of the layer; otherwise they stay float32.
    developed : bool
        Whether the linear colours of a mosaic are balanced and encoded.
    """

    task: str
    arguments: dict[str, Any]
    selection: Selection
    source: str
    psf: ShapedPsf | LayerPsf | None = None
    same_dtype: bool = False
    developed: bool = False

    @property
    def jobs(self) -> list[Callable[[], Job]]:
        """For every plane, a function that reads it and prepares its job."""
        return [partial(self._prepare, steps) for steps in self.selection.planes]

    def _prepare(self, steps: Steps) -> Job:
        # Imported in the thread that restores: to load torch takes seconds.
        from .. import core

        arguments = self.arguments | {"prior": self._prior}
        if self.selection.channel_axis is not None:
            arguments["channel_axis"] = self.selection.channel_axis
        if self.psf is not None:
            arguments["psf"] = self.psf.make()
        job: Job = getattr(core, f"prepare_{self.task}")(self.selection.read(steps), **arguments)
        return job

    @cached_property
    def _prior(self) -> str | None:
        """The prior for all planes, chosen by the one in the middle if the user chose none."""
        from ..core.inputs import default_prior, is_fluorescence

        planes, chosen = self.selection.planes, self.arguments["prior"]
        coloured = self._is_mosaic or self.selection.colours is not None
        if chosen is not None or len(planes) == 1 or coloured:
            return chosen
        middle = self.selection.read(planes[len(planes) // 2])
        return default_prior(1, is_fluorescence(middle[None].astype(np.float64)))

    def convert(self, image: NDArray[np.float32], settings: dict[str, Any]) -> NDArray[Any]:
        """Cut the margin off a restored plane and give it a type that the viewer shows rightly."""
        if self.selection.has_margin:
            image = image[self.selection.inner]
        if self._is_mosaic:
            # The viewer takes colours as 0..1, or as integers of full range.
            low, high = settings["background"], settings["white"]
            colours = np.clip((image - low) / (high - low), 0, 1)
            if not self.developed:
                return colours
            from ..core.mosaic import develop

            return develop(colours)
        if self._integers is not None:
            limits = self._integers
            return np.clip(np.rint(image), limits.min, limits.max).astype(limits.dtype)
        return image

    def conversion_code(self, settings: dict[str, Any]) -> list[str]:
        """Write `convert` down, but for the type, which the array gives."""
        lines = []
        if self.selection.has_margin:
            lines.append(f"image = image[{_write(self.selection.inner)}]")
        if self._is_mosaic:
            low, high = settings["background"], settings["white"]
            lines.append(f"image = np.clip((image - {low}) / ({high} - {low}), 0, 1)")
            if self.developed:
                lines.append("image = develop(image)")
        elif self._integers is not None:
            limits = self._integers
            lines.append(f"image = np.clip(np.rint(image), {limits.min}, {limits.max})")
        return lines

    @property
    def _integers(self) -> np.iinfo[Any] | None:
        """Limits of the layer's type, if results are to have it and it has no fractions."""
        dtype = self.selection.dtype
        wanted = self.selection.rgb or self.same_dtype
        return np.iinfo(dtype) if wanted and dtype.kind in "ui" else None

    @property
    def _is_mosaic(self) -> bool:
        return self.task == "demosaic"


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
    settings = next(iter(done.values()))["settings"]
    names = [f"i{number}" for number in range(len(call.selection.planes[0]))]
    head = [
        f"# {call.task} by napari-dmsp {settings['version']} with the prior {settings['prior']!r},",
        f"# sha256 {settings['prior_sha256']}.",
        "# For the console of napari; elsewhere, read the layers from their files.",
        "import numpy as np",
        f"from napari_dmsp import {call.task}",
    ]
    if isinstance(call.psf, ShapedPsf):
        head.append(f"from napari_dmsp.core.psf import {call.psf.function}")
    if call.developed:
        head.append("from napari_dmsp.core.mosaic import develop")
    head += [
        "",
        f"data = {call.source}",
        f"restored = np.zeros({result.shape}, {str(result.dtype)!r})",
    ]
    body = _write_body(call, done, names)
    if names:
        head.append(f"for {', '.join(names)}, in {list(done)}:")
        body = ["    " + line for line in body]
    return "\n".join(head + body) + "\n"


def _write_body(call: Call, done: dict[Steps, dict[str, Any]], names: list[str]) -> list[str]:
    """Write down what happens to one plane, whose steps have ``names``."""
    last, about = list(done.items())[-1]
    settings = about["settings"]
    arguments = call.arguments | {name: settings[name] for name in ("device", "tile")}
    if arguments["prior"] is None:
        arguments["prior"] = settings["prior"]
    # None is what all others have by default.
    written = [f"{k}={v!r}" for k, v in arguments.items() if v is not None or k == "tile"]
    if call.selection.channel_axis is not None:
        written.append(f"channel_axis={call.selection.channel_axis}")
    if call.psf is not None:
        written.append(f"psf={call.psf.code()}")
    if about["stopped"]:
        here = f"({', '.join(names)},) == {last} and " if names else ""
        written.append(f"callback=lambda state: {here}state.evaluation == {about['evaluations']}")
    return [
        f"image = np.asarray(data[{_write(call.selection.source(names))}])",
        f"image = {call.task}(image, {', '.join(written)}).image",
        *call.conversion_code(settings),
        f"restored[{_write(call.selection.target(names))}] = image",
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
