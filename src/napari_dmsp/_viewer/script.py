"""Restorations, frozen: to be made in another thread, and written down as Python. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..plan.axes import CHANNEL_NAMES, ArraySource, Axes
from ..plan.parts import Plan
from ..settings import Photons, Settings
from ..windows import Grid
from .layers import Selection
from .masks import LayerMask, MaskSource
from .psfs import GivenPsf, data_source

Steps = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """The restoration of planes of a layer."""

    # The task and its options; a `GivenPsf` and a `LayerMask` stand for what they make.
    settings: Settings
    selection: Selection
    # Whether grey results get the type of the layer; otherwise they stay float32.
    same_dtype: bool = False
    _frame: list[NDArray[Any]] = field(default_factory=list, repr=False)

    @property
    def psf(self) -> GivenPsf | None:
        """The point spread function, if the task has one and it is known."""
        return getattr(self.settings, "psf", None)

    @property
    def source(self) -> str:
        """The layer's data, as Python in the console of napari."""
        return data_source(self.selection.layer)

    @cached_property
    def plan(self) -> Plan:
        """The plan, but for the point spread function, which `ready` computes."""
        selection, settings = self.selection, self.settings
        source = ArraySource.of(selection.data, selection.window)
        named = [
            axis
            for axis in selection.walked
            if selection.axis_labels[axis].lower() in CHANNEL_NAMES
        ]
        axes = Axes(
            source.shape,
            *selection.axes,
            selection.colours,
            channels=named[0] if named else None,
            depth=selection.depth,
        )
        mask = None
        if settings.mask is not None:
            layer = settings.mask if isinstance(settings.mask, LayerMask) else None
            mask = MaskSource(layer, selection.data, selection.window, selection.axes)
        same = selection.rgb or self.same_dtype
        return Plan.of(
            settings.replace(mask=None),
            source,
            axes,
            grid=Grid.inner(axes.size, selection.inner, settings.magnification),
            mask=mask,
            dtype="input" if same and not settings.makes_colour else None,
        )

    def ready(self) -> Plan:
        """Return the plan as it is run; not in the GUI thread, for it may compute."""
        if self.psf is None:
            return self.plan
        return replace(self.plan, task=self.plan.task.replace(psf=np.asarray(self.made)))

    @cached_property
    def made(self) -> Any:
        """What the point spread function makes; not in the GUI thread before a run has ended."""
        assert self.psf is not None
        return self.psf.make()

    def frame(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return the array of all planes, made by the first call, which had better not block."""
        if not self._frame:
            self._frame.append(self.selection.blank(block))
        return self._frame[0]

    def convert(self, block: NDArray[Any], record: dict[str, Any] | None) -> NDArray[Any]:
        """Give colours of a mosaic the range that the viewer shows: 0 to 1.

        The record is that of the restoration; None for a plane that was left as it is.
        """
        if not self.settings.makes_colour:
            return block
        if record is None:
            return np.zeros_like(block)
        low, high = record["background"], record["white"]
        return np.clip((block - low) / (high - low), 0, 1)

    def convert_error(self, error: NDArray[Any], record: dict[str, Any]) -> NDArray[np.float32]:
        """Return the error of a converted plane; of colours, the root of their mean square."""
        if self.settings.makes_colour:
            error = error / (record["white"] - record["background"])
        if self.selection.in_colour(error):
            error = np.sqrt(np.square(error).mean(-1))
        return error.astype(np.float32)

    def conversion_code(self, record: dict[str, Any], result: NDArray[Any]) -> list[str]:
        """Write down what becomes of a restored plane; the array of the result gives the type."""
        lines, selection = [], self.selection
        if selection.has_margin:
            crop = dict(zip(selection.axes, self.plan.parts[0].crop[-2:], strict=True))
            read = [axis for axis in range(len(selection.index)) if axis not in selection.walked]
            inner = _write([crop.get(axis, slice(None)) for axis in read])
            lines.append(f"image = image[{inner}]")
        if self.settings.makes_colour:
            low, high = record["background"], record["white"]
            lines.append(f"image = np.clip((image - {low}) / ({high} - {low}), 0, 1)")
        elif result.dtype.kind in "ui":
            lines.append("image = fit_dtype(image, restored.dtype)")
        if self.has_alpha(result):
            opaque = opacity(result.dtype)
            lines.append(f"image = np.concatenate([image, 0 * image[..., :1] + {opaque}], axis=-1)")
        return lines

    def has_alpha(self, result: NDArray[Any]) -> bool:
        """Whether planes of a result in colour are transparent."""
        return self.selection.in_colour(result) and result.shape[-1] == 4


def opacity(dtype: np.dtype[Any]) -> int:
    """Return the fourth sample of colours that are not transparent."""
    return int(np.iinfo(dtype).max) if dtype.kind in "ui" else 1


def describe(
    call: Call, done: dict[Steps, dict[str, Any] | None], result: NDArray[Any]
) -> dict[str, Any]:
    """Say how a result layer came about, as numbers and words.

    What was done is that of `Done` by the steps of the planes; the result is the layer's data.
    """
    # Imported late: to load torch takes seconds.
    from ..core.job import describe_planes

    about = {} if not any(done.values()) else describe_planes(list(done.values()))
    about |= {
        "source": call.source,
        "region": [[part.start, part.stop] for part in call.selection.index],
        "axes": list(call.selection.axes),
        "script": write_script(call, done, result),
    }
    if len(call.selection.planes) > 1:
        about["planes"] = [list(steps) for steps in done]
        about["kept"] = [list(steps) for steps, plane in done.items() if plane is None]
    return about


def write_script(call: Call, done: dict[Steps, dict[str, Any] | None], result: NDArray[Any]) -> str:
    """Write a run down as Python that gives the same array, called ``restored``."""
    restored = {steps: about for steps, about in done.items() if about is not None}
    transparent = result.dtype.kind == "f" and not call.has_alpha(result)
    empty = "np.full({}, np.nan, {!r})" if transparent else "np.zeros({}, {!r})"
    body = [
        "",
        f"data = {call.source}",
        f"restored = {empty.format(result.shape, str(result.dtype))}",
    ]
    for steps in (steps for steps in done if steps not in restored):
        # A constant plane: the value of its first pixel.
        where = call.selection.target(steps)
        first = tuple(
            slice(0, 1) if axis in call.selection.axes else part for axis, part in enumerate(where)
        )
        body.append(f"restored[{_write(where)}] = {result[first].tolist()}")
    if not restored:
        return "\n".join(["import numpy as np", *body]) + "\n"
    record = next(iter(restored.values()))["settings"]
    task, mask = call.settings.task, call.settings.mask
    head = [
        f"# {task} by napari-dmsp {record['version']} with the prior {record['prior']!r},",
        f"# sha256 {record['prior_sha256']}.",
        "# For the console of napari; elsewhere, read the layers from their files.",
        "import numpy as np",
        f"from napari_dmsp import {task}",
    ]
    if isinstance(call.settings.noise, Photons):
        head.append("from napari_dmsp.settings import Photons")
    if call.psf is not None:
        head += call.psf.imports
        body.append(f"psf = {call.psf.code()}")
    if isinstance(mask, LayerMask):
        head.append("from napari_dmsp._viewer.masks import LayerMask")
        layers = (f"viewer.layers[{each.name!r}]" for each in (mask.layer, mask.image))
        body.append(f"mask = LayerMask.over({', '.join(layers)}, {mask.point})")
    if result.dtype.kind in "ui":
        head.append("from napari_dmsp.dtypes import fit_dtype")
    names = [f"i{number}" for number in range(len(call.selection.walked))]
    for alike in _alike(restored):
        lines = _write_plane(call, {steps: restored[steps] for steps in alike}, names, result)
        if names:
            body.append(f"for {', '.join(names)}, in {alike}:")
            lines = ["    " + line for line in lines]
        body += lines
    return "\n".join(head + body) + "\n"


def _alike(restored: dict[Steps, dict[str, Any]]) -> list[list[Steps]]:
    """Group planes that had the same prior and, if mosaics, the same levels."""
    groups: dict[tuple[Any, ...], list[Steps]] = {}
    for steps, about in restored.items():
        record = about["settings"]
        levels = (record["background"], record["white"]) if "white" in record else ()
        groups.setdefault((record["prior"], *levels), []).append(steps)
    return list(groups.values())


def _write_plane(
    call: Call,
    restored: dict[Steps, dict[str, Any]],
    names: list[str],
    result: NDArray[Any],
) -> list[str]:
    """Write down what happens to planes that are alike, whose steps have ``names``."""
    selection, settings = call.selection, call.settings
    last, about = list(restored.items())[-1]
    record, here = about["settings"], _write(selection.source(names))
    same = {name: record[name] for name in ("device", "tile")}
    if settings.prior is None:
        same["prior"] = record["prior"]
    if selection.channel_axis is not None:
        same["channel_axis"] = selection.channel_axis
    arrays = {}
    if call.psf is not None:
        arrays["psf"] = "psf"
    if isinstance(settings.mask, LayerMask):
        arrays["mask"] = f"mask.read(np.s_[{here}], {selection.axes})"
    written = settings.replace(**same).code(**arrays)
    if about["stopped"]:
        plane = f"({', '.join(names)},) == {last} and " if names else ""
        written += f", callback=lambda state: {plane}state.evaluation == {about['evaluations']}"
    return [
        f"image = np.asarray(data[{here}])",
        f"image = {settings.task}(image, {written}).image",
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
