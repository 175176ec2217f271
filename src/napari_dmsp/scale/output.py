"""Arrays computed into zarr folders, chunk by chunk, here or by the workers of a cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import zarr
from dask import config
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.optimization import cull

from ..errors import DmspError
from ..files import check_folder, name_beside
from .stacks import (
    Axis,
    Pixels,
    Stack,
    ZarrFormat,
    ome_metadata,
    ome_order,
    open_stack,
    result_axes,
)
from .survey import Survey, find_surveys, with_surveys

CONNECT_SECONDS = 10


def write(
    array: da.Array,
    path: str | Path,
    *,
    like: Stack | str | Path | None = None,
    client: Any = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compute an array into a zarr folder, chunk by chunk; go on where a former call was stopped.

    Parameters
    ----------
    array : dask.array.Array
        From `deblur` and its like, or any other.
    path : str or Path
        The folder to write, ``*.zarr``. Beside it, ``*.zarr.progress`` holds the surveys and notes
        which chunks are done, until all are.
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

    Raises
    ------
    DmspError
        Where the output exists or cannot be written to, before any work; for a plane that cannot be
        restored, when it is its turn.
    """
    path = Path(path).absolute()
    if isinstance(like, str | Path):
        like = open_stack(like)
    if like is not None and like.path is not None and path in (like.path, *like.path.parents):
        raise DmspError(f"output {path} is the input; choose another name.")
    axes = () if like is None else result_axes(like, array.shape)
    if axes:
        order = ome_order(axes)
        array, axes = da.transpose(array, order), tuple(axes[i] for i in order)
    output = _Output(path, array)
    output.check(overwrite)
    if not output.begun:
        output.create(axes, 3 if like is None else like.zarr_format)
    output.fill(client, progress)
    output.finish()


@contextmanager
def connect(address: str | None) -> Iterator[Any]:
    """Give a client of a dask scheduler, to be used with ``with``; None without an address.

    Raises
    ------
    DmspError
        If nobody answers.
    """
    if address is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DmspError(f"no dask scheduler answers at {address}; check the address.") from error
    with client:
        yield client


@dataclass(frozen=True, eq=False)
class _Output:
    """A zarr folder that is being filled, and the notes beside it."""

    path: Path
    array: da.Array

    @property
    def notes(self) -> Path:
        return name_beside(self.path, ".progress")

    @property
    def _plan(self) -> Path:
        return self.notes / "plan.json"

    @property
    def _chunks(self) -> Path:
        return self.notes / "chunks"

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        # The names of dask arrays depend on all that was done, and to what.
        array = self.array
        form = {"shape": array.shape, "chunks": array.chunksize, "dtype": str(array.dtype)}
        return json.loads(json.dumps({"array": array.name, **form}))

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self._chunks.is_dir() and self.path.is_dir()

    def check(self, overwrite: bool) -> None:
        """Raise a `DmspError` unless the output can be written; remove what is to be replaced."""
        if self.path.suffix.lower() != ".zarr":
            raise DmspError(f"output {self.path} is no .zarr folder; choose a name like out.zarr.")
        check_folder(self.path.parent)
        if any(len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0] for sizes in self.array.chunks):
            raise DmspError(f"chunks {self.array.chunks} differ; make them alike with rechunk.")
        known = ("zarr.json", ".zarray", ".zgroup")
        ours = self.notes.is_dir() or any((self.path / name).is_file() for name in known)
        if self.path.exists() and not ours:
            raise DmspError(
                f"output {self.path} exists and is no zarr folder; choose another name."
            )
        if self._plan.is_file():
            if json.loads(self._plan.read_text(encoding="utf-8")) == self._fingerprint:
                return
            if not overwrite:
                raise DmspError(
                    f"output {self.path} is unfinished, from other input or settings; repeat the "
                    "same call to finish it, or give --overwrite (overwrite=True)."
                )
        elif self.path.exists() and not overwrite:
            raise DmspError(
                f"output {self.path} exists; give --overwrite (overwrite=True) to replace it."
            )
        for folder in (self.path, self.notes):
            if folder.exists():
                shutil.rmtree(folder)

    def create(self, axes: Sequence[Axis], zarr_format: ZarrFormat) -> None:
        """Make an empty array, in an OME-Zarr image where axes are known."""
        self.notes.mkdir(exist_ok=True)
        _write_text(self._plan, json.dumps(self._fingerprint))
        array, parent, name = self.array, zarr.storage.LocalStore(self.path), None
        extra: dict[str, Any] = {}
        if axes:
            attributes = ome_metadata(self.path.stem, axes, zarr_format)
            zarr.create_group(
                parent, overwrite=True, zarr_format=zarr_format, attributes=attributes
            )
            name = "0"
            if zarr_format == 3:
                extra["dimension_names"] = [axis.name for axis in axes]
        if zarr_format == 2:
            extra["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        zarr.create_array(
            parent,
            name=name,
            shape=array.shape,
            chunks=tuple(int(n) for n in array.chunksize),
            dtype=array.dtype,
            zarr_format=zarr_format,
            overwrite=True,
            **extra,
        )
        # Last: what a kill leaves before is made anew.
        self._chunks.mkdir()

    def fill(self, client: Any, progress: Callable[[int, int], None] | None) -> None:
        """Compute what is missing."""
        surveys = find_surveys(self.array)
        records = {} if surveys is None else self._records(surveys)
        writes = self._writes()
        total = len(records) + len(writes)
        missing = [key for key, write in writes.items() if not write.marker.exists()]
        unknown = [key for key, path in records.items() if not path.exists()]
        if not missing:
            unknown = []
        done = total - len(missing) - len(unknown)

        def count() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        if progress is not None:
            progress(done, total)
        if surveys is not None and unknown:
            (self.notes / "surveys").mkdir(exist_ok=True)
            _compute(surveys, {key: _Record(records[key]) for key in unknown}, client, count)
        array = self.array
        if surveys is not None and missing:
            array = with_surveys(array, surveys.name, records)
        _compute(array, {key: writes[key] for key in missing}, client, count)

    def finish(self) -> None:
        """Remove the notes, without which the output is finished."""
        self._plan.unlink()
        shutil.rmtree(self.notes)

    def _records(self, surveys: da.Array) -> dict[Any, Path]:
        folder = self.notes / "surveys"
        return {
            (surveys.name, *index): folder / f"{_dotted(index[:-3])}.json"
            for index in np.ndindex(surveys.numblocks)
        }

    def _writes(self) -> dict[Any, _Write]:
        target = zarr.open(self.path, mode="r+")
        if isinstance(target, zarr.Group):
            target = target["0"]
        array, writes = self.array, {}
        for index in np.ndindex(array.numblocks):
            region = tuple(
                slice(i * n, min((i + 1) * n, end))
                for i, n, end in zip(index, array.chunksize, array.shape, strict=True)
            )
            writes[(array.name, *index)] = _Write(target, region, self._chunks / _dotted(index))
        return writes


@dataclass(frozen=True, eq=False)
class _Write:
    """Writes a chunk, then notes it."""

    target: Any
    region: tuple[slice, ...]
    marker: Path

    def __call__(self, block: Pixels) -> None:
        self.target[self.region] = block
        self.marker.touch()


@dataclass(frozen=True)
class _Record:
    """Writes a survey down."""

    path: Path

    def __call__(self, survey: Survey | None) -> None:
        _write_text(self.path, "null" if survey is None else survey.to_json())


def _write_text(path: Path, text: str) -> None:
    """Write all of a file, or nothing."""
    partial = path.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _compute(
    array: da.Array,
    calls: Mapping[Any, Callable[[Any], None]],
    client: Any,
    count: Callable[[], None],
) -> None:
    """Call functions with blocks of an array, each as soon as its block is there.

    Parameters
    ----------
    calls : mapping
        From keys of blocks.
    client : distributed.Client or None
        Whose workers compute.
    count : callable
        Called after every call.
    """
    # No other name may be the same: what a cluster has done, it does not do again.
    name = f"dmsp-write-{uuid4().hex}"
    tasks: dict[Any, Any] = {f"{name}-{_dotted(key)}": (c, key) for key, c in calls.items()}
    if not tasks:
        return
    # Schedulers may compute all of a graph, also what is not needed.
    graph, _ = cull({**array.__dask_graph__(), **tasks}, list(tasks))
    wanted = [Delayed(key, graph) for key in tasks]
    if client is None and config.get("scheduler", None) in ("dask.distributed", "distributed"):
        from distributed import default_client

        client = default_client()
    if client is not None:
        _compute_remotely(wanted, client, count)
        return

    def finished(key: Any, *_: Any) -> None:
        if key in tasks:
            count()

    with Callback(posttask=finished):
        compute(*wanted, traverse=False, optimize_graph=False)


def _compute_remotely(wanted: Sequence[Delayed], client: Any, count: Callable[[], None]) -> None:
    from distributed import as_completed

    futures = client.compute(wanted, optimize_graph=False)
    try:
        for future in as_completed(futures, loop=client.loop):
            future.result()
            # What is forgotten is not made again when its worker dies.
            future.release()
            count()
    finally:
        client.cancel([future for future in futures if not future.done()])


def _dotted(index: Sequence[Any]) -> str:
    return ".".join(map(str, index)) or "0"
