"""Image files and stacks in, restored files out: one, or many in a batch."""

from __future__ import annotations

import glob
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .core import (
    Job,
    Restoration,
    State,
    prepare_deblur,
    prepare_demosaic,
    prepare_superres,
    run,
)
from .core.inputs import check_image, check_mask
from .core.job import describe_planes
from .errors import DmspError, on_one_line
from .files import (
    NUMPY,
    SUFFIXES,
    Picture,
    check_folder,
    check_output,
    check_psf_output,
    check_writable,
    fit_dtype,
    fitting_suffix,
    name_beside,
    read_planes,
    write_image,
    write_json,
    write_psf,
)

# Sides of the image on which the options of a batch are tried: enough to look for a PSF in it, and
# few enough to take no time.
PROBE_SIDE, LARGEST_PROBE = 64, 1024
ZARR = ".zarr"

Execute = Callable[[Job, str], Restoration]


@dataclass(frozen=True)
class Files:
    """The files of one restoration.

    Attributes
    ----------
    source : Path
        The image to restore.
    image : Path
        Where the result goes.
    sidecar : Path or None
        Where the record of the run goes, as JSON.
    psf : Path or None
        Where the point spread function goes; those found in the planes of a stack as a stack.
    """

    source: Path
    image: Path
    sidecar: Path | None = None
    psf: Path | None = None

    @classmethod
    def of(cls, source: Path, image: Path, sidecar: bool, psf: Path | None = None) -> Files:
        """Name the sidecar after the image."""
        record = name_beside(image, ".json") if sidecar else None
        return cls(source, image, record, psf)

    @property
    def outputs(self) -> list[Path]:
        """All that is written."""
        return [path for path in (self.image, self.sidecar, self.psf) if path is not None]


@dataclass(frozen=True, eq=False)
class Task:
    """A restoration as the user wants it, for any image.

    Attributes
    ----------
    prepare : callable
        Makes the job of an image, such as `prepare_deblur`.
    options : dict
        Arguments of ``prepare``, "prior" among them, but the channel axis.
    mask : ndarray or None
        (H, W), True where a pixel is missing.
    mosaic : bool
        Whether an image is a plane that becomes a colour image.
    floats : bool
        Whether results are float32 rather than of the input's type.
    overwrite : bool
        Whether existing outputs are replaced.
    named : tuple of Path
        Files that the user named: never overwritten.
    record : dict
        What `Restoration.to_dict` does not know, for the sidecar.
    """

    prepare: Callable[..., Job]
    options: dict[str, Any]
    mask: NDArray[np.bool_] | None = None
    mosaic: bool = False
    floats: bool = False
    overwrite: bool = False
    named: tuple[Path, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)

    def restore(self, files: Files, execute: Execute) -> list[Restoration]:
        """Read one image or the planes of a stack, check what will be written, run, and write.

        Parameters
        ----------
        files : Files
            What to read and to write.
        execute : callable
            Runs the job of a plane, whose number it gets in words; nothing for a single image.

        Returns
        -------
        list of Restoration
            One for every plane; constant ones among others stay as they are, and have none.

        Raises
        ------
        DmspError
            Saying what is wrong with the image or its outputs.
        """
        picture = read_planes(files.source)
        if self.mosaic and picture.channel_axis is not None:
            raise DmspError(f"{files.source} is in colour already; a mosaic has one channel.")
        dtype = self._output_dtype(picture)
        self._check_outputs(files, picture, dtype)
        results, pixels = self._restore_planes(picture, dtype, execute)
        write_image(files.image, picture.with_pixels(pixels))
        if files.sidecar is not None:
            names = {"input": str(files.source), "output": str(files.image)}
            planes = [None if result is None else result.to_dict() for result in results]
            write_json(files.sidecar, names | self.record | describe_planes(planes))
        done = [result for result in results if result is not None]
        if files.psf is not None and done[0].psf is not None:
            shared = not picture.axes or self.options.get("psf") is not None
            write_psf(files.psf, done[0].psf if shared else _stack_kernels(results))
        return done

    def _restore_planes(
        self, picture: Picture, dtype: np.dtype[Any], execute: Execute
    ) -> tuple[list[Restoration | None], NDArray[Any]]:
        """Restore every plane that is not constant; returns what was found, and all pixels."""
        lead = picture.pixels.shape[: len(picture.axes)]
        planes = list(np.ndindex(lead))
        varied = self._check_planes(picture, planes)
        priors = self._pick_priors(picture, varied) if picture.axes else {}
        pixels = np.empty(0, dtype)
        found: dict[tuple[int, ...], Restoration] = {}
        for index in varied:
            where = f"plane {planes.index(index) + 1}/{len(planes)}" if index else ""
            with _failures_named(index):
                plane, axis = picture.pixels[index], picture.channel_axis
                job = self._job(plane, axis, self.mask, priors.get(index))
                result = execute(job, where)
            if not found:
                pixels = np.empty((*lead, *result.image.shape), dtype)
            pixels[index] = fit_dtype(result.image, dtype)
            # Those of all planes would take more memory than the stack.
            found[index] = replace(result, image=np.empty(0, np.float32))
        for index in set(planes) - set(varied):
            pixels[index] = self._seen(picture.pixels[index])[0]
        return [found.get(index) for index in planes], pixels

    def _check_planes(
        self, picture: Picture, planes: list[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        """Make sure that all planes can be restored, and return those that are not constant."""
        varied = []
        for index in planes:
            plane, axis = picture.pixels[index], picture.channel_axis
            with _failures_named(index):
                check_image(plane, axis, check_mask(self.mask, plane, axis), constant=True)
            seen = self._seen(plane)
            if (seen != seen[0]).any():
                varied.append(index)
        return varied or planes

    def _seen(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels of a plane that are not missing, one after the other."""
        pixels = plane.reshape(-1, *plane.shape[2:])
        return pixels if self.mask is None else pixels[~self.mask.ravel()]

    def _pick_priors(
        self, picture: Picture, planes: list[tuple[int, ...]]
    ) -> dict[tuple[int, ...], str]:
        """Return the prior of every plane: what suits the middle one of its channel, for all."""
        if self.options["prior"] is not None:
            return {}
        channel = picture.axes.find("C")

        def kind(index: tuple[int, ...]) -> int:
            return index[channel] if channel >= 0 else 0

        chosen: dict[tuple[int, ...], str] = {}
        for value in {kind(index) for index in planes}:
            alike = [index for index in planes if kind(index) == value]
            middle = alike[len(alike) // 2]
            with _failures_named(middle):
                job = self._job(picture.pixels[middle], picture.channel_axis, self.mask)
            chosen |= dict.fromkeys(alike, job.settings["prior"])
        return chosen

    def check(self) -> None:
        """Try the options on an image that suits all good ones, to find a bad one at once."""
        psf, psf_size = self.options.get("psf"), self.options.get("psf_size")
        side = max(PROBE_SIDE, 4 * (psf_size or 0), *np.shape(() if psf is None else psf))
        if side > LARGEST_PROBE:
            return
        levels = (self.options.get(name) for name in ("background", "white"))
        # There may be one for each filter.
        ramp = _make_ramp(side, *(v if v is None else float(np.mean(v)) for v in levels))
        if self.mosaic:
            self._job(ramp, None)
        else:
            # Priors of either kind fit colour.
            self._job(np.stack([ramp] * 3, axis=-1), -1)

    def _job(
        self,
        pixels: NDArray[Any],
        axis: int | None,
        mask: NDArray[np.bool_] | None = None,
        prior: str | None = None,
    ) -> Job:
        options = self.options if prior is None else self.options | {"prior": prior}
        return self.prepare(pixels, channel_axis=axis, mask=mask, **options)

    def _output_dtype(self, picture: Picture) -> np.dtype[Any]:
        keep = picture.pixels.dtype.kind in "ui" and not self.floats
        return picture.pixels.dtype if keep else np.dtype(np.float32)

    def _check_outputs(self, files: Files, picture: Picture, dtype: np.dtype[Any]) -> None:
        form = picture
        if self.mosaic:
            colours = np.broadcast_to(picture.pixels[..., None], (*picture.pixels.shape, 3))
            form = replace(picture, pixels=colours)
        named = [files.source, *self.named]
        check_output(files.image, form, dtype, named, self.overwrite)
        if files.psf is not None:
            check_psf_output(files.psf, [*named, files.image], self.overwrite)
        if files.sidecar is not None:
            check_writable(files.sidecar, self.overwrite, named)


def is_batch(sources: Sequence[str], target: str) -> bool:
    """Whether several images may be meant, or their results go to a folder."""
    return len(sources) > 1 or _is_folder(target) or os.path.isdir(sources[0]) or _is_glob(*sources)


def find_images(sources: Iterable[str]) -> list[Path]:
    """Find the images that files, folders and glob patterns mean, each once.

    Raises
    ------
    DmspError
        For a folder or a pattern without images.
    """
    found = (path for source in sources for path in _find(source))
    return list({os.path.abspath(path): path for path in found}.values())


def plan_batch(
    task: Task, sources: Sequence[str], target: str, sidecar: bool, psf: Path | None = None
) -> list[Files]:
    """Name the outputs of a batch.

    Parameters
    ----------
    task : Task
        What is to be done.
    sources : sequence of str
        Files, folders and glob patterns.
    target : str
        The folder for the results.
    sidecar : bool
        Whether each result gets a record.
    psf : Path or None
        The folder for the point spread functions.

    Returns
    -------
    list of Files

    Raises
    ------
    DmspError
        Where two outputs, or an output and an input, would be one file.
    """
    folder = _as_folder(target)
    kernels = None if psf is None else _as_folder(str(psf))
    batch = []
    for source in find_images(sources):
        suffix = fitting_suffix(source, task.floats, task.mosaic)
        kernel = None if kernels is None else kernels / f"{source.stem}.tif"
        batch.append(Files.of(source, folder / f"{source.stem}{suffix}", sidecar, kernel))
    _check_distinct(batch, task.named)
    return batch


def restore_batch(task: Task, batch: Sequence[Files]) -> int:
    """Restore images with one bar, and go on after those that cannot be restored.

    What went wrong is printed at the end, be it that the user interrupts.

    Parameters
    ----------
    task : Task
        What is to be done; its options are tried before any work.
    batch : sequence of Files
        From `plan_batch`.

    Returns
    -------
    int
        How many images were not restored.

    Raises
    ------
    DmspError
        For options that suit no image, and folders that cannot be written to.
    """
    from tqdm import tqdm

    task.check()
    _make_folders(batch)
    failures: list[str] = []
    # Only mininterval limits how often the evaluations are shown.
    with _listed(failures), tqdm(total=len(batch), unit="image", miniters=0, smoothing=0) as bar:
        for files in batch:
            try:
                name = on_one_line(files.source.name)
                results = task.restore(files, partial(_run_within, bar, name))
            except (DmspError, MemoryError) as error:
                text, name = on_one_line(error), on_one_line(files.source)
                failures.append(text if text.startswith(name) else f"{name}: {text}")
            else:
                bar.write(f"{on_one_line(files.image)}: {summarize(results)}")
            bar.update()
        bar.set_postfix_str("")
    return len(failures)


def is_stack(sources: Sequence[str], target: str) -> bool:
    """Whether a stack is meant, for which `napari_dmsp.scale` is."""
    inside = [part for source in sources for part in (Path(source), *Path(source).parents)]
    return any(path.suffix.lower() == ZARR for path in (Path(target), *inside))


def restore_stack(
    task: Task,
    sources: Sequence[str],
    target: str,
    scheduler: str | None,
    planes: str | None,
    survey: str = "plane",
) -> None:
    """Restore a stack with a bar over its tiles; the same call again finishes it if interrupted.

    Parameters
    ----------
    task : Task
        What is to be done.
    sources : sequence of str
        One zarr folder or TIFF file.
    target : str
        The zarr folder to write.
    scheduler : str or None
        Address of a dask scheduler, whose workers compute.
    planes : str or None
        Indices of the first axes, such as "0,10:20".
    survey : {"plane", "stack"}
        What has a noise level, a range and an unknown point spread function of its own.

    Raises
    ------
    DmspError
        Saying what is wrong with the input, the output or the options, or that dask is missing.
    """
    from tqdm import tqdm

    from . import scale

    if len(sources) > 1:
        raise DmspError(f"{target} is for one stack, not for {len(sources)} inputs.")
    if Path(target).suffix.lower() != ZARR:
        raise DmspError(f"output {target} is no .zarr folder; stacks are written to one.")
    functions: dict[Callable[..., Job], Callable[..., Any]] = {
        prepare_deblur: scale.deblur,
        prepare_superres: scale.superres,
        prepare_demosaic: scale.demosaic,
    }
    stack = scale.open_stack(sources[0])
    if planes is not None:
        stack = stack.select(_parse_planes(planes))
    keep = stack.array.dtype.kind in "ui" and not task.floats
    dtype = stack.array.dtype if keep else np.float32
    options = task.options | {"mask": task.mask, "dtype": dtype, "survey": survey}
    result = functions[task.prepare](stack, **options)
    with scale.connect(scheduler) as client, tqdm(unit="tile", smoothing=0, delay=0.1) as bar:

        def show(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        scale.write(
            result, target, like=stack, client=client, overwrite=task.overwrite, progress=show
        )


def run_with_bar(job: Job, where: str = "") -> Restoration:
    """Run one job with a bar over its evaluations."""
    from tqdm import tqdm

    with tqdm(total=job.total, desc=where or None, unit="evaluation", leave=not where) as bar:

        def show(state: State) -> None:
            bar.set_postfix(residual=f"{state.residual:.3g}", refresh=False)
            bar.update()

        return run(job, show)


def summarize(results: Sequence[Restoration]) -> str:
    """Say in a line how the restoration of an image, or of the planes of a stack, went."""
    kind = "estimated" if results[0].settings["noise_sigma"] is None else "given"
    levels = [f"{level([r.noise_sigma for r in results]):.3g}" for level in (min, max)]
    noise = " to ".join(dict.fromkeys(levels))
    planes = "" if len(results) == 1 else f"{len(results)} planes, "
    return (
        f"{planes}noise {noise} ({kind}), {sum(r.evaluations for r in results)} evaluations, "
        f"{sum(r.seconds for r in results):.1f} s"
    )


def _stack_kernels(results: Sequence[Restoration | None]) -> NDArray[np.float32]:
    """Stack the point spread functions of planes, with zeros around small ones."""
    found = [None if result is None else result.psf for result in results]
    sides = [psf.shape for psf in found if psf is not None]
    height, width = (max(side[axis] for side in sides) for axis in (0, 1))
    stack = np.zeros((len(found), height, width), np.float32)
    for plane, psf in zip(stack, found, strict=True):
        if psf is not None:
            top, left = (height - psf.shape[0]) // 2, (width - psf.shape[1]) // 2
            plane[top : top + psf.shape[0], left : left + psf.shape[1]] = psf
    return stack


def _run_within(bar: Any, name: str, job: Job, where: str) -> Restoration:
    """Run one job of a batch, and show its evaluations behind the bar."""
    label = f"{name} {where}".rstrip()

    def show(state: State) -> None:
        bar.set_postfix_str(f"{label} {state.evaluation}/{job.total}", refresh=False)
        bar.update(0)

    return run(job, show)


def _say_plane(index: tuple[int, ...]) -> str:
    """Name a plane of a stack; nothing for a single image."""
    return f"plane {', '.join(map(str, index))}" if index else ""


@contextmanager
def _failures_named(index: tuple[int, ...]) -> Iterator[None]:
    """Say which plane of a stack could not be restored."""
    try:
        yield
    except DmspError as error:
        if not index:
            raise
        raise DmspError(f"{_say_plane(index)}: {error}") from error


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
    candidates = (
        path.iterdir() if os.path.isdir(source) else map(Path, glob.glob(source, recursive=True))
    )
    # Hidden files are other programs' notes on images.
    found = sorted(
        p
        for p in candidates
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
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
            f"planes {text} is not understood; write it like 3, 0:20 or 0,10:20."
        ) from None


def _as_folder(name: str) -> Path:
    path = Path(name)
    if os.path.isfile(path) or (path.suffix.lower() in SUFFIXES | NUMPY and not _is_folder(name)):
        raise DmspError(f"output {name} is a file; several images need a folder, such as results/.")
    return path


def _make_folders(batch: Sequence[Files]) -> None:
    for folder in {path.parent for files in batch for path in files.outputs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DmspError(f"folder {folder} cannot be made: {error}") from error
        check_folder(folder)


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


def _make_ramp(side: int, low: float | None, high: float | None) -> NDArray[np.float64]:
    """Make an image from black to white where those are sensible; else let others complain."""
    if low is None:
        low = 0.0 if high is None else high - 1
    if high is None:
        high = low + 1
    if not -np.inf < low < high < np.inf:
        low, high = 0.0, 1.0
    return np.linspace(low, high, side * side).reshape(side, side)
