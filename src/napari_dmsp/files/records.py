"""Names, checks of outputs, files written whole or not at all, and JSON records."""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DmspError

# How the names of files begin that are being written: then come the machine and the process.
PARTIAL = ".dmsp-"
# Seconds without a write after which such a file is nobody's, whatever machine began it.
ABANDONED_SECONDS = 3600
# Bytes that one name in a folder may have on nearly all disks.
NAME_BYTES = 255


def name_beside(path: Path, ending: str) -> Path:
    """Return ``path`` with ``ending`` after its name, shortened where that is longer than allowed.

    A checksum then stands for what was cut off, so that two names stay two.
    """
    name = os.fsencode(path.name + ending)
    if len(name) > NAME_BYTES:
        tail = f"~{zlib.crc32(os.fsencode(path.name)):08x}{ending}"
        head = os.fsencode(path.name)[: NAME_BYTES - len(os.fsencode(tail))]
        # What is cut within a letter is no letter.
        return path.with_name(head.decode("utf-8", "ignore") + tail)
    return path.with_name(path.name + ending)


def error_beside(path: Path, suffix: str) -> Path:
    """Return where the error of a result goes: ``out_uncertainty.tif`` of ``out.tif``."""
    return name_beside(path.with_name(path.stem), f"_uncertainty{suffix}")


def check_readable(path: Path) -> None:
    """Raise a `DmspError` unless ``path`` is a file; pipes and devices are none."""
    # Unlike those of paths, these functions take names of any length.
    if not os.path.isfile(path):
        raise DmspError(f"{path} is not a file; check the name.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file cannot be read: decoders raise all sorts of errors for broken files."""
    try:
        yield
    except (DmspError, MemoryError):
        raise
    except Exception as error:
        raise DmspError(f"{path} cannot be read, it may be damaged: {error}") from error


def check_writable(
    path: Path,
    overwrite: bool = False,
    inputs: Collection[Path] = (),
    others: Collection[Path] = (),
) -> None:
    """Raise a `DmspError` unless a file can be written at ``path``.

    It is none of the ``inputs``, and none of the ``others`` that will be written.
    """
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise DmspError(
            f"output {path} has a name of {len(os.fsencode(path.name))} bytes; at most "
            f"{NAME_BYTES} are allowed."
        )
    if any(_is_same(path, other) for other in inputs):
        raise DmspError(f"output {path} is an input too; choose another name.")
    if any(_is_same(path, other) for other in others):
        raise DmspError(f"output {path} is named twice; choose another name.")
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise DmspError(f"output {path} is a link to itself; choose another name.")
    if os.path.isdir(path):
        raise DmspError(f"output {path} is a folder; give a file name.")
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise DmspError(f"output {path} is a pipe or a device; give a file name.")
        if not overwrite:
            raise DmspError(f"output {path} exists; give --overwrite to replace it.")
        if not os.access(path, os.W_OK):
            raise DmspError(f"output {path} is write-protected; choose another name.")
    check_folder(target.parent)


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names are, or would be, those of one file."""
    if os.path.exists(path) and os.path.exists(other):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.path.realpath(other)


def make_folder(folder: Path) -> None:
    """Make a folder for files, or raise a `DmspError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DmspError(f"folder {folder} cannot be made: {error}") from error
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise a `DmspError` unless files can be written into ``folder``.

    What killed runs left half written there is removed.
    """
    if not os.path.isdir(folder):
        raise DmspError(f"folder {folder} does not exist; create it first.")
    try:
        # Permission bits do not tell all: only writing shows a read-only disk.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DmspError(f"folder {folder} cannot be written to: {error}") from error
    _remove_abandoned(folder.absolute())


def check_room(path: Path, size: int) -> None:
    """Raise a `DmspError` where the disk has no room for a file of so many bytes."""
    disk = shutil.disk_usage(path.parent)
    # Some network disks do not know how large they are.
    if disk.total and disk.free < size:
        raise DmspError(
            f"{path} cannot be written: it takes {size / 1e6:.3g} MB, and {disk.free / 1e6:.3g} MB "
            "are free; make room on the disk."
        )


@lru_cache(maxsize=100)
def _remove_abandoned(folder: Path) -> None:
    """Remove files that nobody writes any more; once, for a folder may have many."""
    # Others may remove them, too, or not allow it.
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        # On the clock of the disk, which may be another machine's.
        now = os.fstat(file.fileno()).st_mtime
        for path in folder.glob(f"{PARTIAL}*"):
            if now - path.stat().st_mtime > ABANDONED_SECONDS or _writer_is_gone(path.name):
                path.unlink(missing_ok=True)


def _writer_is_gone(name: str) -> bool:
    """Whether the process that began a partial file ran on this machine, and runs no more."""
    machine, process, *rest = [*name.removeprefix(PARTIAL).split("-"), ""]
    # Only POSIX has a signal that does nothing.
    if not rest or os.name != "posix" or machine != _machine() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


@cache
def _machine() -> str:
    """Return what tells machines apart, and containers that number processes anew."""
    numbers = Path("/proc/self/ns/pid")
    known = platform.node() + (os.readlink(numbers) if numbers.is_symlink() else "")
    return f"{zlib.crc32(known.encode()):08x}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give another name to write to: what is replaced stays whole until the new file is.

    Links stay links: the file that they lead to is replaced. It keeps its permissions.
    """
    target = Path(os.path.realpath(path))
    # Short, since the name of the target may be as long as names can be.
    begun = f"{PARTIAL}{_machine()}-{os.getpid()}-{secrets.token_hex(6)}"
    partial = target.with_name(begun + target.suffix)
    try:
        # A folder that vanished during a long run takes no result with it.
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except (OSError, ValueError) as error:
        # NumPy tells of a full disk without a number.
        full = isinstance(error, OSError) and error.errno in (None, errno.ENOSPC)
        hint = "; make room on the disk" if full else ""
        raise DmspError(f"{path} cannot be written: {error}{hint}") from error
    finally:
        # Left over if the user interrupts, too.
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, see `as_json`."""
    with written_whole(path) as partial:
        partial.write_text(as_json(values, indent=2) + "\n", encoding="utf-8")


def as_json(values: dict[str, Any], indent: int | None = None) -> str:
    """Return values as JSON, with null for the NaN and infinities that it does not know.

    Paths become text, and NumPy's numbers and arrays numbers and lists. Names that are no text in
    any encoding keep their bytes as lone surrogates, which the escapes of JSON can hold.
    """
    text = json.dumps(values, default=_plain)
    known = json.loads(text, parse_constant=lambda _: None)
    return json.dumps(known, indent=indent)


def _plain(value: Any) -> Any:
    """Return what JSON knows for what it does not know."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
