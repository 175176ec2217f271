"""Zarr folders that are filled part by part, and finished where a former run was stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr

from ..core.device import explain_failures
from ..core.job import describe_planes
from ..errors import DmspError, OutOfMemoryError
from ..files import check_folder, error_beside, name_beside
from ..files.pictures import open_stack
from ..files.stacks import Axis, Stack, ZarrFormat
from ..files.zarr import ome_metadata, ome_order
from ..plan import Done, Kept, LeftOut, Pixels, Plan, Plane, Surveyed, run_on
from ..plan.survey import Survey, groups
from ..windows import Window
from .lazy import plan_of
from .workers import workers

# Attribute that says how the pixels came about.
RECORD = "napari-dmsp"
# How many of the parts that cannot be restored are named.
SAID = 5


def write(
    array: da.Array,
    path: str | Path,
    *,
    like: Stack | str | Path | None = None,
    client: Any = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute an array into a zarr folder, chunk by chunk; go on where a former call was stopped.

    Parameters
    ----------
    array : dask.array.Array
        From `deblur` and its like; or any other, which is written at once.
    path : str or Path
        The folder to write, ``*.zarr``; with ``uncertainty=True``, the error of ``out.zarr`` goes
        to ``out_uncertainty.zarr``. Beside it, ``*.zarr.progress`` notes what is done, until
        all is.
    like : Stack or path, optional
        The source, whose axes and pixel size the result gets as OME-Zarr; pixels are smaller where
        there are more of them. Colours are then written before the axes of space, as OME-Zarr wants
        it. None writes a plain array.
    client : distributed.Client, optional
        Whose workers compute; they must see ``path`` and the source under the same names. By
        default the scheduler that dask is set to: threads of this process.
    overwrite : bool
        Whether to replace an existing array, and an unfinished one of other input or settings.
    progress : callable, optional
        Called with how many surveys and chunks are done, and how many there are.
    about : dict, optional
        What the record says beside settings, noise levels and the point spread functions found.

    Returns
    -------
    dict
        The record, which is the attribute "napari-dmsp" of the array or the OME-Zarr image.

    Raises
    ------
    DmspError
        Where the output exists or cannot be written to, before any work; for planes that cannot be
        restored, when all others are.
    KeyboardInterrupt
        Where the user stops it, saying what was done.
    """
    # Links stay: what they lead to is written.
    path = Path(path).resolve()
    if isinstance(like, str | Path):
        like = open_stack(like)
    source = None if like is None or like.path is None else like.path.resolve()
    if source is not None and path in (source, *source.parents):
        raise DmspError(f"output {path} is the input; choose another name.")
    axes = () if like is None else _result_axes(like, array.shape)
    order = ome_order(axes) if axes else list(range(array.ndim))
    axes = tuple(axes[i] for i in order) if axes else ()
    output = _Output(path, array, tuple(order), axes, 3 if like is None else like.zarr_format)
    plan = plan_of(array)
    # The result is the last: what it notes as done, the error has too.
    outputs = [output.of_error()] if plan is not None and plan.task.uncertainty else []
    outputs.append(output)
    for each in outputs:
        each.check(overwrite)
    for each in outputs:
        if not each.begun:
            with _told(each.path):
                each.create()
    if plan is None:
        whole = da.transpose(array, order)
        da.store(whole, output.target, **({} if client is None else {"scheduler": client}))
        record = about or {}
    else:
        with _told(path):
            notes = _Notes(output.notes, plan)
        try:
            _fill(plan, outputs, notes, client, progress)
        except DmspError:
            if not notes.begun:
                for each in outputs:
                    each.remove()
            raise
        record = (about or {}) | notes.record(() if like is None else like.warnings)
    record = json.loads(json.dumps(record), parse_constant=lambda _: None)
    for each in outputs:
        with _told(each.path):
            each.finish(record)
    return record


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which output cannot be written where the system refuses."""
    try:
        yield
    except OSError as error:
        raise DmspError(f"output {path} cannot be written: {error}; mend that first.") from error


def _result_axes(like: Stack, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the axes of a result of this shape; none where those of the source are unknown."""
    old, axes = like.array.shape, like.axes
    if len(shape) == len(old) + 1 and shape[-1] == 3:
        old, axes = (*old, 3), (*axes, Axis("c")) if axes else ()
    if len(shape) != len(old):
        raise DmspError(f"an array of shape {shape} is not like a source of shape {old}.")
    ratios = [after / before for after, before in zip(shape, old, strict=True)]
    return tuple(axis.refine(ratio) for axis, ratio in zip(axes, ratios, strict=False))


def _fill(
    plan: Plan,
    outputs: Sequence[_Output],
    notes: _Notes,
    client: Any,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Restore what is missing."""
    total = len(groups(plan)) + len(plan.parts)
    *error, output = outputs
    sink = ZarrSink(output.target, output.order, *(each.target for each in error))
    left_out: list[LeftOut] = []

    def show() -> None:
        if progress is not None:
            progress(len(notes) + len(notes.parts), total)

    try:
        show()
        # Closed before the executor, which would wait for all that was submitted.
        with (
            workers(client, len(plan.parts) - len(notes.parts)) as executor,
            explain_failures(plan.task.device),
            closing(run_on(plan, executor, sink=sink, done=set(notes.parts), surveys=notes)) as run,
        ):
            for event in run:
                if isinstance(event, LeftOut):
                    left_out.append(event)
                    continue
                if not isinstance(event, Surveyed):
                    notes.add(event)
                show()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped: {len(notes.parts)} of {len(plan.parts)} parts are restored and kept in "
            f"{output.path}; the same call goes on."
        ) from None
    except (OSError, OutOfMemoryError) as error:
        if not output.notes.exists():
            for each in outputs:
                each.remove()
            raise DmspError(
                f"output {output.path} was removed while it was written; the same call begins anew."
            ) from error
        raise DmspError(
            f"output {output.path} cannot be finished: {error}. {len(notes.parts)} of "
            f"{len(plan.parts)} parts are kept; once that is mended, the same call goes on."
        ) from error
    if left_out:
        missing = " ".join(map(str, left_out[:SAID]))
        unfinished = f", and {output.path} is unfinished" if notes.begun else ""
        raise DmspError(
            f"{len(left_out)} of {len(plan.parts)} parts cannot be restored{unfinished}: {missing}"
        )


@dataclass(frozen=True, eq=False)
class ZarrSink:
    """A zarr array whose axes have another ``order``, and one for its error where it is wanted."""

    target: Any
    order: tuple[int, ...]
    error: Any = None

    def write(self, window: Window, block: Pixels, error: Pixels | None = None) -> None:
        """Write a window."""
        place = tuple(window[i] for i in self.order)
        # The error first: what is in the result is whole.
        if self.error is not None and error is not None:
            self.error[place] = error.transpose(self.order)
        self.target[place] = block.transpose(self.order)


@dataclass(frozen=True, eq=False)
class _Output:
    """A zarr folder that is being filled, and the notes beside it."""

    path: Path
    array: da.Array
    order: tuple[int, ...]
    axes: Sequence[Axis]
    zarr_format: ZarrFormat

    def of_error(self) -> _Output:
        """Return where the error of the result goes: beside it, OUT_uncertainty.zarr."""
        path = error_beside(self.path, self.path.suffix)
        return replace(self, path=path, array=self.array.astype(np.float32))

    @property
    def notes(self) -> Path:
        return name_beside(self.path, ".progress")

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self.path.is_dir() and bool(self.noted) and self.noted[-1] is not None

    @property
    def noted(self) -> list[str | None]:
        """The names of the array in the notes: None as long as it is not whole."""
        lines = _lines(self.notes) if self.notes.is_file() else ()
        return [line["array"] for line in lines if "array" in line]

    @property
    def target(self) -> Any:
        """The array to write."""
        node = zarr.open(self.path, mode="r+")
        return node["0"] if isinstance(node, zarr.Group) else node

    def check(self, overwrite: bool) -> None:
        """Raise a `DmspError` unless the output can be written; remove what is to be replaced."""
        if self.path.suffix.lower() != ".zarr":
            raise DmspError(f"output {self.path} is no .zarr folder; choose a name like out.zarr.")
        check_folder(self.path.parent)
        if any(len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0] for sizes in self.array.chunks):
            raise DmspError(f"chunks {self.array.chunks} differ; make them alike with rechunk.")
        known = ("zarr.json", ".zarray", ".zgroup")
        ours = self.notes.exists() or any((self.path / name).is_file() for name in known)
        if self.path.exists() and not ours:
            raise DmspError(
                f"output {self.path} exists and is no zarr folder; choose another name."
            )
        if self.begun:
            # The names of dask arrays depend on all that was done, and to what.
            if self.noted[-1] == self.array.name:
                return
            if not overwrite:
                raise DmspError(
                    f"output {self.path} is unfinished, from other input or settings; repeat the "
                    "same call to finish it, or give --overwrite (overwrite=True)."
                )
        elif self.path.exists() and not self.noted and not overwrite:
            raise DmspError(
                f"output {self.path} exists; give --overwrite (overwrite=True) to replace it."
            )
        self.remove()

    def remove(self) -> None:
        """Remove the array and its notes, or what is in their place."""
        if self.notes.is_file():
            # What a kill leaves is made anew; a full disk does not keep anything from going.
            with suppress(OSError):
                self._note(None)
        for old in (self.path, self.notes):
            if old.is_dir():
                shutil.rmtree(old)
            old.unlink(missing_ok=True)

    def create(self) -> None:
        """Make an empty array, in an OME-Zarr image where axes are known."""
        # What a kill leaves before the array is whole is made anew.
        self._note(None)
        array, parent, name = self.array, zarr.storage.LocalStore(self.path), None
        extra: dict[str, Any] = {}
        if self.axes:
            attributes = ome_metadata(self.path.stem, self.axes, self.zarr_format)
            zarr.create_group(
                parent, overwrite=True, zarr_format=self.zarr_format, attributes=attributes
            )
            name = "0"
            if self.zarr_format == 3:
                extra["dimension_names"] = [axis.name for axis in self.axes]
        if self.zarr_format == 2:
            extra["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        zarr.create_array(
            parent,
            name=name,
            shape=tuple(int(array.shape[i]) for i in self.order),
            chunks=tuple(int(array.chunksize[i]) for i in self.order),
            # Of two names of the same integers, zarr knows the usual one.
            dtype=np.dtype(array.dtype.str),
            zarr_format=self.zarr_format,
            overwrite=True,
            **extra,
        )
        self._note(self.array.name)

    def _note(self, name: str | None) -> None:
        """Note the name of the array, once it is whole."""
        with self.notes.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"array": name}) + "\n")

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record down and remove the notes, without which the output is finished."""
        # Chunks that a killed run left half written.
        for path in self.path.rglob("*.partial"):
            path.unlink(missing_ok=True)
        zarr.open(self.path, mode="r+").attrs[RECORD] = record
        self.notes.unlink()


class _Notes(dict[Plane, Survey]):
    """What is known of a run: its surveys, and the parts that are done; a file of JSON lines."""

    def __init__(self, path: Path, plan: Plan) -> None:
        super().__init__()
        self.parts: dict[str, dict[str, Any] | None] = {}
        self._path, self._plan = path, plan
        for line in _lines(path):
            if "survey" in line:
                super().__setitem__(tuple(line["planes"]), Survey.from_json(line["survey"]))
            elif "part" in line:
                self.parts[line["part"]] = line["about"]

    @property
    def begun(self) -> bool:
        """Whether there is anything that need not be done again."""
        return bool(self or self.parts)

    def __setitem__(self, plane: Plane, survey: Survey) -> None:
        super().__setitem__(plane, survey)
        self._write({"planes": plane, "survey": survey.to_json()})

    def add(self, event: Done | Kept) -> None:
        """Note a part that is done."""
        about = None
        if isinstance(event, Done):
            psf = event.restoration.psf if self._plan.task.blind else None
            about = event.restoration.to_dict() | {"psf": None if psf is None else psf.tolist()}
        self.parts[event.part.name] = about
        self._write({"part": event.part.name, "about": about})

    def record(self, warnings: Sequence[str] = ()) -> dict[str, Any]:
        """Describe the restoration: settings, noise levels, point spread functions found.

        ``warnings`` are those of the source.
        """
        planes: dict[Plane, dict[str, Any] | None] = dict.fromkeys(self._plan.axes.planes)
        for part in self._plan.parts:
            about, known = self.parts[part.name], planes[part.plane]
            if about is None:
                continue
            told = [*warnings, *about["warnings"]]
            if known is not None:
                told = [*known["warnings"], *told]
                about = known | {
                    name: known[name] + about[name] for name in ("evaluations", "seconds")
                }
            planes[part.plane] = about | {"warnings": list(dict.fromkeys(told))}
        return describe_planes(list(planes.values()))

    def _write(self, line: dict[str, Any]) -> None:
        # Not made again where it vanished, and all that is noted there with it.
        with self._path.open("r+", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            # On a line of its own, though the one before may not have been written to its end.
            file.write("\n" + json.dumps(line) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read lines of JSON, but for those that were not written to their ends."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            yield json.loads(line)
