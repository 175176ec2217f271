"""Image files and stacks in, restored files out: one, or many in a batch."""

from __future__ import annotations

import glob
import math
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import Job, Restoration, State, run
from .core.device import explain_failures
from .core.job import describe_planes
from .errors import DmspError, on_one_line
from .files import (
    NUMPY,
    SUFFIXES,
    Picture,
    check_output,
    check_psf_output,
    check_room,
    check_writable,
    error_beside,
    fitting_suffix,
    images_among,
    make_folder,
    name_beside,
    read_planes,
    write_image,
    write_json,
    write_psf,
)
from .plan import Axes, Begun, Done, Event, Plan, Restored, Step, Token, restore_array, try_settings
from .settings import Settings, in_words

ZARR = ".zarr"
# Formats that hold real numbers.
FLOATS = {ZARR, ".npy", ".tif", ".tiff"}

Watch = Callable[[Plan, Event], None]


@dataclass(frozen=True)
class Files:
    """The files of one restoration."""

    # The image to restore.
    source: Path
    # Where the result goes.
    image: Path
    # Where the record of the run goes, as JSON.
    sidecar: Path | None = None
    # Where the point spread function goes; those found in the planes of a stack as a stack.
    psf: Path | None = None
    # Where the error of the result goes.
    error: Path | None = None

    @classmethod
    def of(
        cls,
        source: Path,
        image: Path,
        sidecar: bool,
        psf: Path | None = None,
        uncertainty: bool = False,
    ) -> Files:
        """Name the sidecar and the error after the image."""
        record = name_beside(image, ".json") if sidecar else None
        # Errors are no whole numbers, which is all that most formats hold.
        suffix = image.suffix if image.suffix.lower() in FLOATS else ".tif"
        error = error_beside(image, suffix) if uncertainty else None
        return cls(source, image, record, psf, error)

    @property
    def outputs(self) -> list[Path]:
        """All that is written."""
        found = (self.image, self.error, self.sidecar, self.psf)
        return [path for path in found if path is not None]


@dataclass(frozen=True, eq=False)
class Task:
    """A restoration as the user wants it, for any image."""

    # The task and its options; a mask (H, W) is for all planes.
    settings: Settings
    # Whether results are float32 rather than of the input's type.
    floats: bool = False
    # What has a range, a noise level and an unknown point spread function of its own.
    survey: str = "plane"
    # Whether existing outputs are replaced.
    overwrite: bool = False
    # Files that the user named: never overwritten.
    named: tuple[Path, ...] = ()
    # What `Restoration.to_dict` does not know, for the sidecar.
    record: dict[str, Any] = field(default_factory=dict)

    def restore(self, files: Files, watch: Watch) -> list[Restoration]:
        """Read one image or the planes of a stack, check what will be written, run, and write.

        Of several planes, constant ones stay as they are, and are not among the restorations.

        Raises
        ------
        DmspError
            Saying what is wrong with the image or its outputs.
        KeyboardInterrupt
            Where the user stopped it, saying what was written.
        """
        picture = read_planes(files.source)
        pixels, names = picture.pixels, [*picture.axes.lower(), "y", "x", "s"]
        dtype, space = np.float32 if self.floats else "input", self.settings.space
        with _named(files.source):
            axes = Axes.of(pixels.shape, picture.channel_axis, names[: pixels.ndim], space)
            work = Plan.of(self.settings, pixels, axes, survey=self.survey, dtype=dtype)
        self._check_outputs(files, picture, work.dtype)
        if files.image.suffix.lower() in FLOATS:
            # These are not compressed.
            each = work.dtype.itemsize + (0 if files.error is None else 4)
            check_room(files.image, each * math.prod(work.shape))
        token = Token()
        with _named(files.source), stopping(token):
            restored = restore_array(work, watch=partial(watch, work), token=token)
        found = [restored.planes.get(plane) for plane in work.axes.planes]
        results = [r and replace(r, warnings=(*picture.warnings, *r.warnings)) for r in found]
        if restored.stopped and not restored.planes:
            raise KeyboardInterrupt("Stopped before anything was restored: nothing was written.")
        write_image(files.image, picture.with_pixels(restored.image))
        if files.error is not None and restored.error is not None:
            write_image(files.error, picture.with_pixels(restored.error))
        if files.sidecar is not None:
            about = describe_planes([None if r is None else r.to_dict() for r in results])
            stopped = {"stopped": True} if restored.stopped else {}
            write_json(files.sidecar, self.about(files) | about | stopped)
        done = [result for result in results if result is not None]
        if files.psf is not None and done and done[0].psf is not None:
            one = not work.axes.walked or not work.task.blind
            psfs = [None if result is None else result.psf for result in results]
            write_psf(files.psf, _stack_psfs(done[0].psf if one else psfs))
        if restored.stopped:
            raise KeyboardInterrupt(_say_stopped(files.image, work, restored))
        return done

    def say(self, text: str) -> str:
        """Say an error or a warning in the words of the shell."""
        return in_words(text, type(self.settings), "shell")

    def about(self, files: Files) -> dict[str, Any]:
        """Return what a record says beside the restoration."""
        return {"input": str(files.source), "output": str(files.image)} | self.record

    def _check_outputs(self, files: Files, picture: Picture, dtype: np.dtype[Any]) -> None:
        form = picture
        if self.settings.makes_colour:
            colours = np.broadcast_to(picture.pixels[..., None], (*picture.pixels.shape, 3))
            form = replace(picture, pixels=colours)
        inputs = [files.source, *self.named]
        missing = [path for path in files.outputs if not os.path.exists(path)]
        if os.path.exists(files.image) and missing and not self.overwrite:
            raise DmspError(
                f"output {files.image} exists, {missing[0].name} does not, as after a run that was "
                "cut off; give --overwrite to replace it."
            )
        check_output(files.image, form, dtype, inputs, self.overwrite)
        if files.error is not None:
            floats = np.dtype(np.float32)
            check_output(files.error, form, floats, inputs, self.overwrite, [files.image])
        self.check_extra(files)

    def check_extra(self, files: Files) -> None:
        """Make sure that what goes beside the image can be written."""
        inputs = [files.source, *self.named]
        if files.psf is not None:
            others = [path for path in files.outputs if path is not files.psf]
            check_psf_output(files.psf, inputs, self.overwrite, others)
        if files.sidecar is not None:
            check_writable(files.sidecar, self.overwrite, inputs)


def is_batch(sources: Sequence[str], target: str) -> bool:
    """Whether several images may be meant, or their results go to a folder."""
    return len(sources) > 1 or _is_folder(target) or os.path.isdir(sources[0]) or _is_glob(*sources)


def find_images(sources: Iterable[str]) -> list[Path]:
    """Find the images that files, folders and glob patterns mean, each once."""
    found = (path for source in sources for path in _find(source))
    return list({os.path.abspath(path): path for path in found}.values())


def first_image(sources: Sequence[str], target: str) -> Path:
    """Return the image, or the first one, that sources mean."""
    return Path(sources[0]) if is_stack(sources, target) else find_images(sources)[0]


def plan_batch(
    task: Task, sources: Sequence[str], target: str, sidecar: bool, psf: Path | None = None
) -> list[Files]:
    """Name the outputs of a batch: in the folder ``target``, and PSFs in the folder ``psf``.

    Raises
    ------
    DmspError
        Where two outputs, or an output and an input, would be one file.
    """
    folder = _as_folder(target)
    kernels = None if psf is None else _as_folder(str(psf))
    batch = []
    for source in find_images(sources):
        suffix = fitting_suffix(source, task.floats, task.settings.makes_colour)
        kernel = None if kernels is None else kernels / f"{source.stem}.tif"
        image = folder / f"{source.stem}{suffix}"
        batch.append(Files.of(source, image, sidecar, kernel, task.settings.uncertainty))
    _check_distinct(batch, task.named)
    return batch


def restore_batch(task: Task, batch: Sequence[Files]) -> int:
    """Restore images with one bar, and return how many of them cannot be restored.

    What went wrong is printed at the end, be it that the user interrupts.

    Raises
    ------
    DmspError
        For options that suit no image, and folders that cannot be written to.
    """
    from tqdm import tqdm

    try_settings(task.settings, colour=True)
    for folder in {path.parent for files in batch for path in files.outputs}:
        make_folder(folder)
    failures: list[str] = []
    chosen: dict[str, int] = {}
    # Only mininterval limits how often the evaluations are shown.
    with _listed(failures), tqdm(total=len(batch), unit="image", miniters=0, smoothing=0) as bar:
        for files in batch:
            try:
                name = on_one_line(files.source.name)
                with explain_failures(task.settings.device):
                    results = task.restore(files, partial(_show_within, bar, name))
            except KeyboardInterrupt as stop:
                done = f"{bar.n} of {len(batch)} images were restored before"
                told = f"{stop} {done}" if str(stop) else f"Stopped: {done}"
                raise KeyboardInterrupt(f"{told}; the same command goes on.") from None
            except DmspError as error:
                text, name = on_one_line(task.say(str(error))), on_one_line(files.source)
                failures.append(text if text.startswith(name) else f"{name}: {text}")
            else:
                said = summarize(results, task.settings.noise is not None, task.say)
                bar.write(f"{on_one_line(files.image)}: {said}")
                for name in _priors(results):
                    chosen[name] = chosen.get(name, 0) + 1
            bar.update()
        bar.set_postfix_str("")
    # Colour has a prior of its own; grey images are told apart by how they look.
    grey = {name: count for name, count in chosen.items() if name != "rgb"}
    if task.settings.prior is None and len(grey) > 1:
        most = max(grey, key=lambda name: grey[name])
        counts = " and ".join(f"{name!r} ({count})" for name, count in sorted(grey.items()))
        print(
            f"Warning: images were restored with different priors, {counts}, by how each looks; "
            f"give one to all that are to be compared, such as --prior {most}.",
            file=sys.stderr,
        )
    return len(failures)


def _priors(results: Sequence[Restoration]) -> list[str]:
    """Return the names of the priors that restored the planes of an image, each once."""
    return list(dict.fromkeys(result.settings["prior"] for result in results))


def is_stack(sources: Sequence[str], target: str) -> bool:
    """Whether a stack is meant, for which `napari_dmsp.scale` is."""
    inside = [part for source in sources for part in (Path(source), *Path(source).parents)]
    return any(path.suffix.lower() == ZARR for path in (Path(target), *inside))


def restore_stack(
    task: Task, files: Files, scheduler: str | None, planes: str | None, chunks: int
) -> None:
    """Restore a stack with a bar over its parts; the same call again finishes it if interrupted.

    The workers of a dask ``scheduler`` compute; ``planes`` are indices such as "0,10:20".

    Raises
    ------
    DmspError
        Saying what is wrong with the input, the output or the options, or that dask is missing.
    KeyboardInterrupt
        Where the user stopped it, saying what was done.
    """
    from tqdm import tqdm

    from . import scale

    if files.image.suffix.lower() != ZARR:
        raise DmspError(f"output {files.image} is no .zarr folder; stacks are written to one.")
    task.check_extra(files)
    stack = scale.open_stack(files.source)
    if planes is not None:
        stack = stack.select(_parse_planes(planes))
    dtype = None if task.floats else "input"
    with _named(files.source):
        result = scale.restore(task.settings, stack, survey=task.survey, chunks=chunks, dtype=dtype)
    bar = tqdm(unit="part", smoothing=0, delay=0.1)

    def show(done: int, total: int) -> None:
        # What was shown is ended with its line.
        bar.delay, bar.total, bar.n = 0, total, done
        bar.refresh()

    with _named(files.source), scale.connect(scheduler) as client, bar:
        record = scale.write(
            result,
            files.image,
            like=stack,
            client=client,
            overwrite=task.overwrite,
            progress=show,
            about=task.about(files),
        )
    told = record.get("warnings") or []
    lists = [told] if all(isinstance(text, str) for text in told) else told
    for text in dict.fromkeys(text for each in lists if each for text in each):
        print(f"Warning: {on_one_line(task.say(text))}", file=sys.stderr)
    if files.sidecar is not None:
        write_json(files.sidecar, record)
    given = getattr(task.settings, "psf", None)
    found = given if record.get("psf") is None else record["psf"]
    if files.psf is not None and found is not None:
        write_psf(files.psf, _stack_psfs(found))


class Bar:
    """A bar over the evaluations of every plane; `show` watches a plan."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, plan: Plan, event: Event) -> None:
        """Show what happened."""
        if isinstance(event, Begun):
            self.open(event.job, _say_part(plan, event))
        elif isinstance(event, Step):
            self.count(event.state)
        elif isinstance(event, Done):
            self._bar.close()

    def open(self, job: Job, where: str = "") -> None:
        """Begin a bar for a job."""
        from tqdm import tqdm

        # Evaluations differ in what they take: what is left follows from the work that is done.
        shape = "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(
            total=1.0, desc=where or None, bar_format=shape, smoothing=0, leave=not where
        )

    def count(self, state: State) -> None:
        """Count an evaluation."""
        text = f"{state.evaluation} of {state.total}, {state.stage}, residual={state.residual:.3g}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(state.part - self._bar.n)


def run_with_bar(job: Job) -> Restoration:
    """Run one job with a bar over its evaluations."""
    bar = Bar()
    bar.open(job)
    return run(job, bar.count)


def summarize(
    results: Sequence[Restoration], noise_given: bool = False, say: Callable[[str], str] = str
) -> str:
    """Tell in a line how an image, or the planes of a stack, went; warnings follow in lines.

    ``say`` puts warnings into the words of the shell.
    """
    if not results:
        return "all is constant and stays as it is"
    kind = "given" if noise_given else "estimated"
    levels = [f"{level([r.noise_sigma for r in results]):.3g}" for level in (min, max)]
    noise = " to ".join(dict.fromkeys(levels))
    planes = "" if len(results) == 1 else f"{len(results)} planes, "
    line = (
        f"{planes}noise {noise} ({kind}), prior {' and '.join(_priors(results))}, "
        f"{sum(r.evaluations for r in results)} evaluations, "
        f"{sum(r.seconds for r in results):.1f} s"
    )
    warnings = dict.fromkeys(text for result in results for text in result.warnings)
    return "\n".join([line, *(f"Warning: {on_one_line(say(text))}" for text in warnings)])


def _stack_psfs(found: Any) -> NDArray[np.float32]:
    """Stack the point spread functions of planes, with zeros around small ones; one stays one.

    Planes that have none are None.
    """
    if not any(psf is None or np.ndim(psf[0]) for psf in found):
        return np.asarray(found, np.float32)
    psfs = [np.zeros((1, 1), np.float32) if psf is None else np.asarray(psf) for psf in found]
    height, width = (max(psf.shape[axis] for psf in psfs) for axis in (0, 1))
    stack = np.zeros((len(psfs), height, width), np.float32)
    for plane, psf in zip(stack, psfs, strict=True):
        top, left = (height - psf.shape[0]) // 2, (width - psf.shape[1]) // 2
        plane[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return stack


def _show_within(bar: Any, name: str, plan: Plan, event: Event) -> None:
    """Show the evaluations of an image of a batch behind the bar."""
    if isinstance(event, Step):
        label = f"{name} {_say_part(plan, event)}".rstrip()
        state = event.state
        text = f"{label} {state.stage} {state.evaluation}/{state.total}"
        bar.set_postfix_str(text, refresh=False)
        bar.update(0)


def _say_part(plan: Plan, event: Begun | Step) -> str:
    """Count the planes of a stack; nothing for a single image."""
    return f"plane {event.part.number + 1}/{len(plan.parts)}" if event.part.plane else ""


def _say_stopped(image: Path, plan: Plan, restored: Restored) -> str:
    """Say what was kept of an image."""
    last = [result for result in restored.planes.values() if result is not None][-1:]
    count = last[0].evaluations if last else 0
    if len(plan.parts) == 1:
        return f"Stopped after {count} evaluations: {image} holds the estimate."
    return (
        f"Stopped: {image} holds {len(restored.planes)} of {len(plan.parts)} planes, the last "
        f"after {count} evaluations; the others are empty."
    )


@contextmanager
def stopping(token: Token) -> Iterator[None]:
    """Let the first Ctrl-C stop a run and keep what was done; the second drops it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        if token.stop:
            raise KeyboardInterrupt
        token.stop = True
        print("\nStopping after this evaluation; Ctrl-C again drops it.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _named(source: Path) -> Iterator[None]:
    """Say which image could not be restored; what is wrong with an output names that."""
    try:
        yield
    except DmspError as error:
        text, name = str(error), on_one_line(source)
        own = text.startswith(("output ", name))
        raise DmspError(text if own else f"{name}: {text}") from error


@contextmanager
def _listed(failures: list[str]) -> Iterator[None]:
    """List at the end what went wrong until then, however it ends."""
    try:
        yield
    finally:
        if failures:
            count = "1 image was" if len(failures) == 1 else f"{len(failures)} images were"
            print(f"Error: {count} not restored:", *failures, sep="\n  ", file=sys.stderr)


def _find(source: str) -> list[Path]:
    path = Path(source)
    if not os.path.isdir(source) and not _is_glob(source):
        # Also a missing one: one name that is wrong does not stop the others.
        return [path]
    try:
        inside = path.iterdir() if os.path.isdir(source) else glob.iglob(source, recursive=True)
        found = images_among(map(Path, inside))
    except OSError as error:
        raise DmspError(f"{source} cannot be looked into: {error}") from error
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DmspError(f"there is no image ({kinds}) in {source}; check the name.")
    return found


def _is_glob(source: str) -> bool:
    """Whether this is a pattern, and not the name of a file that has such characters."""
    return glob.has_magic(source) and not os.path.exists(source)


def _is_folder(name: str) -> bool:
    separators = (os.sep, os.altsep or os.sep)
    return os.path.isdir(name) or name.endswith(separators)


def _parse_planes(text: str) -> list[int | slice]:
    """Read indices like those of NumPy."""
    try:
        return [
            slice(*(int(n) if n else None for n in part.split(":"))) if ":" in part else int(part)
            for part in text.split(",")
        ]
    except (TypeError, ValueError):
        raise DmspError(
            f"planes={text} is not understood; write it like 3, 0:20 or 0,10:20."
        ) from None


def _as_folder(name: str) -> Path:
    path = Path(name)
    if os.path.isfile(path) or (path.suffix.lower() in SUFFIXES | NUMPY and not _is_folder(name)):
        raise DmspError(f"output {name} is a file; several images need a folder, such as results/.")
    return path


def _check_distinct(batch: Sequence[Files], named: Iterable[Path]) -> None:
    inputs = {_identity(path) for path in (*named, *(files.source for files in batch))}
    makers: dict[str, Path] = {}
    for files in batch:
        for path in files.outputs:
            if _identity(path) in inputs:
                raise DmspError(f"output {path} is an input too; choose another folder.")
            if _identity(path) in makers:
                raise DmspError(
                    f"output {path} is wanted twice, for {makers[_identity(path)]} and "
                    f"{files.source}; use different folders."
                )
            makers[_identity(path)] = files.source


def _identity(path: Path) -> str:
    """Return what is equal for two names of one file; on many disks case makes no difference.

    Nor does it there whether an accent is a letter of its own.
    """
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
