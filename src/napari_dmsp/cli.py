"""The command line: ``napari-dmsp deblur``, ``superres``, ``demosaic``, ``train`` and ``demo``.

What takes long to import is imported in the commands, so that ``--help`` comes at once.
"""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .errors import DmspError, on_one_line
from .psf_text import bead_file, make_psf
from .settings import AUTO_MASK, TASKS, Settings, in_words, options, parse, reword
from .windows import PART

app = typer.Typer(
    help="Restore images with deep mean-shift priors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Command(TyperCommand):
    """A command whose options are given once each, but for those that make a list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse options that are given twice, of which click takes the last."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param in order:
            if param.param_type_name == "option" and not param.multiple and order.count(param) > 1:
                ctx.fail(f"{param.opts[0]} is given twice; give it once.")
        return super().parse_args(ctx, args)


# What typer offers as choices.
OutputDtype = StrEnum("OutputDtype", ["input", "float32"])
Survey = StrEnum("Survey", ["plane", "stack"])
Channels = StrEnum("Channels", {"gray": "1", "rgb": "3"})
Architecture = StrEnum("Architecture", ["unet", "dncnn"])
Precision = StrEnum("Precision", ["auto", "bf16", "float32"])

SOURCES = typer.Argument(
    metavar="IN",
    help="Grey or colour images, .tif, .png or .jpg, and .tif stacks, plane by plane: files, "
    "folders, or patterns like 'in/**/*.tif'. One stack, .zarr or .tif, where OUT is .zarr.",
    show_default=False,
)
TARGET = typer.Argument(
    metavar="OUT",
    help="Where to write: a file; for several images a folder, which is made if missing. A "
    "name that ends with / is a folder's, one that ends with .zarr is a stack's.",
    show_default=False,
)
SAVE_PSF = typer.Option(
    metavar="FILE",
    help="Where to write the point spread function: .tif, .npy; a folder where OUT is one.",
    show_default=False,
)
DTYPE = typer.Option(help="Pixel type of the output; float32 needs .tif.")
SIDECAR = typer.Option(
    "--sidecar/--no-sidecar",
    help="Whether to write how each result OUT came about, to OUT.json.",
    show_default="where OUT is a folder",
)
SCHEDULER = typer.Option(
    metavar="ADDRESS",
    help="Restore a stack on the workers of a dask scheduler, such as tcp://host:8786.",
    show_default=False,
)
PLANES = typer.Option(
    metavar="INDICES",
    help="Part of a stack: an index or start:stop:step for each first axis, like 0,10:20.",
    show_default="all",
)
CHUNKS = typer.Option(
    help="About how many pixels of the result the parts have on a side into which planes are cut; "
    "those of OUT.zarr.",
)
SURVEY = typer.Option(
    help="Whether each plane of a stack has its own noise level, range and unknown point spread "
    "function, or all share those of some planes.",
    show_default="plane",
)
OVERWRITE = typer.Option("--overwrite", help="Replace existing outputs.")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-dmsp {version('napari-dmsp')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Restore images with deep mean-shift priors (Bigdeli et al., NIPS 2017)."""
    for stream in (sys.stdout, sys.stderr):
        # Names may have letters that the terminal does not: escapes are better than no report.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _command(kind: type[Settings]) -> Callable[..., None]:
    """Make the command of a task, with the options of its settings."""
    parameters = [_parameter("sources", list[str], SOURCES), _parameter("target", str, TARGET)]
    for each, about in options(kind):
        if not about.flag:
            continue
        shown = about.auto or (False if each.default in (None, MISSING) else str(each.default))
        help = about.help[:1].upper() + about.help[1:]
        form: Any = bool if "/" in about.flag else str
        metavar = None if form is bool else about.metavar or each.name.upper()
        typed = typer.Option(about.flag, metavar=metavar, help=help, show_default=shown)
        # None is what was not given: the settings have the default.
        required = each.default is MISSING
        default = inspect.Parameter.empty if required else None
        parameters.append(_parameter(each.name, form if required else form | None, typed, default))
    if kind.finds_psf:
        parameters.append(_parameter("save_psf", Path | None, SAVE_PSF, None))
    parameters += [
        _parameter("dtype", OutputDtype, DTYPE, OutputDtype.input),
        _parameter("sidecar", bool | None, SIDECAR, None),
        _parameter("scheduler", str | None, SCHEDULER, None),
        _parameter("planes", str | None, PLANES, None),
        _parameter("chunks", int, CHUNKS, PART),
        _parameter("survey", Survey | None, SURVEY, None),
        _parameter("overwrite", bool, OVERWRITE, False),
    ]

    def command(**values: Any) -> None:
        with _one_line_errors(partial(in_words, kind=kind, face="shell")):
            from .core.device import freed_memory

            # The process is the command's own.
            with freed_memory.kept():
                _restore(kind, **values)

    command.__name__ = kind.task
    command.__doc__ = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _parameter(
    name: str, form: Any, typed: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    """Make a parameter that typer understands."""
    any_order = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, any_order, default=default, annotation=Annotated[form, typed])


for _kind in TASKS.values():
    app.command(cls=Command)(_command(_kind))


@app.command(cls=Command)
def train(
    images: Annotated[
        list[Path],
        typer.Option(help="Folder of clean images; repeat for several.", show_default=False),
    ],
    channels: Annotated[
        Channels, typer.Option(help="1 for grey, 3 for colour images.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(help="Weights file to write, *.safetensors.", show_default=False)
    ],
    minutes: Annotated[
        float,
        typer.Option(help="Training time in all, with that before --resume.", show_default=False),
    ],
    resume: Annotated[
        Path | None,
        typer.Option(help="*.state.safetensors to continue, or weights to start from."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Folder of clean images for the PSNR shown.", show_default="some of --images"
        ),
    ] = None,
    noise_sigma: Annotated[
        float | None,
        typer.Option(
            help="One fixed noise level, for images of 0 to 255.", show_default="all up to 60"
        ),
    ] = None,
    architecture: Annotated[
        Architecture, typer.Option(help="The default, or the paper's; it needs --noise-sigma.")
    ] = Architecture.unet,
    batch: Annotated[int, typer.Option(min=1, help="Patches per step.")] = 12,
    patch: Annotated[int, typer.Option(min=8, help="Side of the patches in pixels.")] = 80,
    precision: Annotated[
        Precision, typer.Option(help="Arithmetic of the network.")
    ] = Precision.auto,
    note: Annotated[str, typer.Option(help="Text for the card, as the data's licence.")] = "",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace an existing --out that --resume does not continue."
        ),
    ] = False,
) -> None:
    """Train a prior on a folder of clean images.

    Writes the weights, a card (*.json) and a state (*.state.safetensors) for --resume.
    """
    with _one_line_errors(_train_words):
        from .training.train import Recipe, state_path
        from .training.train import train as run_training

        if noise_sigma is not None and not 0 < noise_sigma <= 255:
            raise DmspError(f"noise_sigma={noise_sigma:g} must be above 0 and at most 255.")
        continued = resume is not None and resume.resolve() == state_path(out).resolve()
        for path in (out, state_path(out), out.with_suffix(".json")):
            if path.exists() and not (continued or overwrite):
                raise DmspError(
                    f"{path} exists; continue it with --resume {state_path(out)}, or give "
                    "--overwrite."
                )
        card = run_training(
            images,
            out,
            recipe=Recipe(
                channels=int(channels.value),
                architecture=architecture.value,
                noise_sigma=None if noise_sigma is None else noise_sigma / 255,
                batch=batch,
                patch=patch,
            ),
            minutes=minutes,
            validation=validation,
            resume=resume,
            device=device,
            precision=precision.value,
            note=note,
        )
        scores = ", ".join(f"{k} {v:.2f} dB" for k, v in card["validation_psnr"].items())
        typer.echo(f"{card['training']['steps']} steps, validation {scores}\n{on_one_line(out)}")


@app.command(cls=Command)
def demo(
    out: Annotated[
        Path | None, typer.Option(help="PNG file to write.", show_default="napari-dmsp-demo.png")
    ] = None,
    viewer: Annotated[bool, typer.Option("--viewer", help="Show the layers in napari.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise and the run.")] = 0,
    iterations: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Blur a photograph, restore it, and write both beside the truth."""
    with _one_line_errors():
        from . import demo as example
        from .batch import run_with_bar, summarize

        show = example.import_viewer() if viewer else None
        path = example.check_path(out)
        case = example.make_case(seed)
        result = run_with_bar(example.prepare(case, iterations, seed))
        before, after = example.write_comparison(path, case, result.image)
        typer.echo(f"PSNR {before:.2f} dB before, {after:.2f} dB after")
        typer.echo(f"{summarize([result])}\n{on_one_line(path)}")
        if show is not None:
            show(case, result)


def _train_words(text: str) -> str:
    """Call Python's arguments of a training by its options."""
    names = inspect.signature(train).parameters
    return reword(text, {name: f"--{name.replace('_', '-')}" for name in names}, "shell")


@contextmanager
def _one_line_errors(say: Callable[[str], str] = str) -> Iterator[None]:
    """Turn the errors that users can mend, and Ctrl-C, into one line and exit codes 2 and 130."""
    from .core.device import explain_failures

    try:
        with explain_failures("auto"):
            yield
    except KeyboardInterrupt as stop:
        # A bar may stand on the line.
        typer.echo(f"\n{on_one_line(say(str(stop)) or 'Stopped: nothing was kept.')}", err=True)
        raise typer.Exit(130) from None
    except DmspError as error:
        text = on_one_line(" ".join(str(error).split()))
        typer.echo(f"Error: {say(text)}", err=True)
        raise typer.Exit(2) from None


def _restore(
    kind: type[Settings],
    *,
    sources: Sequence[str],
    target: str,
    dtype: OutputDtype,
    sidecar: bool | None,
    scheduler: str | None,
    planes: str | None,
    chunks: int,
    survey: Survey | None,
    overwrite: bool,
    save_psf: Path | None = None,
    **typed: Any,
) -> None:
    """Restore what ``sources`` mean, and report; options not ``typed`` by the user are None."""
    from . import batch
    from .files import read_mask

    given = {name: text for name, text in typed.items() if text is not None}
    values: dict[str, Any] = {
        name: text if isinstance(text, bool) else parse(kind, name, text)
        for name, text in given.items()
    }
    others = {"dtype": dtype, "survey": survey, "planes": planes}
    record = {name: str(text) for name, text in others.items() if text is not None} | given
    named = [Path(given[name]) for name in ("mask", "psf") if name in given]
    if beads := bead_file(given.get("psf", "")):
        named.append(beads)
    if values.get("mask") not in (None, AUTO_MASK):
        values["mask"] = read_mask(Path(values["mask"]))
    if "psf" in values:
        psf, said = make_psf(values["psf"], lambda: batch.first_image(sources, target))
        values["psf"] = psf
        for text in said:
            typer.echo(on_one_line(text), err=True)
    task = batch.Task(
        kind.of(**values),
        floats=dtype is OutputDtype.float32,
        survey="plane" if survey is None else survey.value,
        overwrite=overwrite,
        named=tuple(path for path in named if path.is_file()),
        record={"working_directory": str(Path.cwd()), "options": record},
    )
    files_of = partial(batch.Files.of, uncertainty=task.settings.uncertainty)
    if batch.is_stack(sources, target):
        if len(sources) > 1:
            raise DmspError(f"{target} is for one stack, not for {len(sources)} inputs.")
        files = files_of(Path(sources[0]), Path(target), bool(sidecar), save_psf)
        batch.restore_stack(task, files, scheduler, planes, chunks)
        typer.echo("\n".join(map(on_one_line, files.outputs)))
        return
    if scheduler or planes or chunks != PART:
        raise DmspError(
            "--scheduler, --planes and --chunks are for stacks that are written to an OUT like "
            "out.zarr."
        )
    if batch.is_batch(sources, target):
        plan = batch.plan_batch(task, sources, target, sidecar is not False, save_psf)
        if batch.restore_batch(task, plan):
            raise typer.Exit(1)
        return
    files = files_of(Path(sources[0]), Path(target), bool(sidecar), save_psf)
    results = task.restore(files, batch.Bar().show)
    said = batch.summarize(results, task.settings.noise is not None, task.say)
    typer.echo("\n".join([said, *map(on_one_line, files.outputs)]))
