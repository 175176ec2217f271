"""The command line: ``napari-dmsp deblur``, ``superres``, ``demosaic``, ``train`` and ``demo``.

What takes long to import is imported in the commands, so that ``--help`` comes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .windows import PART

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .core import Job

app = typer.Typer(
    help="Restore images with deep mean-shift priors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Method(StrEnum):
    """Solvers."""

    annealed = "annealed"
    sgd = "sgd"


class OutputDtype(StrEnum):
    """Pixel types of the output."""

    input = "input"
    float32 = "float32"


class Survey(StrEnum):
    """What planes of a stack share."""

    plane = "plane"
    stack = "stack"


class Channels(StrEnum):
    """Colour channels of a prior."""

    gray = "1"
    rgb = "3"


class Architecture(StrEnum):
    """Networks."""

    unet = "unet"
    dncnn = "dncnn"


class Precision(StrEnum):
    """Arithmetic of training."""

    auto = "auto"
    bf16 = "bf16"
    float32 = "float32"


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IN",
        help="Grey or colour images, .tif, .png or .jpg, and .tif stacks, plane by plane: files, "
        "folders, or patterns like 'in/**/*.tif'. One stack, .zarr or .tif, where OUT is .zarr.",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="Where to write: a file; for several images a folder, which is made if missing. A "
        "name that ends with / is a folder's, one that ends with .zarr is a stack's.",
        show_default=False,
    ),
]
Psf = Annotated[
    str | None,
    typer.Option(
        metavar="PSF",
        help="Point spread function in pixels of the result: an image or .npy file; gaussian:S of "
        "S pixels standard deviation; motion:L,A over L pixels at A degrees, counter-clockwise "
        "from the x axis.",
        show_default=False,
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Image whose non-zero pixels are missing in IN: .tif, .png, .npy.",
        show_default=False,
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        help="Standard deviation of the noise in the image's units.", show_default="estimated"
    ),
]
Solver = Annotated[Method, typer.Option(help="The fast solver, or the paper's own descent.")]
Iterations = Annotated[
    int | None,
    typer.Option(
        help="Evaluations of the denoiser.",
        show_default="24, 36 for fluorescence, 30 for superres; 300 for sgd",
    ),
]
PriorName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="A bundled prior, or one from `train`.",
        show_default="rgb or gray, like the result",
    ),
]
Background = Annotated[
    float | None,
    typer.Option(help="Intensity of black.", show_default="0 for 8 bits, else the 0.1 percentile"),
]
PixelType = Annotated[
    OutputDtype, typer.Option(help="Pixel type of the output; float32 needs .tif.")
]
Sidecar = Annotated[
    bool | None,
    typer.Option(
        "--sidecar/--no-sidecar",
        help="Whether to write how each result OUT came about, to OUT.json.",
        show_default="where OUT is a folder",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Restore a stack on the workers of a dask scheduler, such as tcp://host:8786.",
        show_default=False,
    ),
]
Planes = Annotated[
    str | None,
    typer.Option(
        metavar="INDICES",
        help="Part of a stack: an index or begin:end:step for each first axis, like 0,10:20.",
        show_default="all",
    ),
]
Chunks = Annotated[
    int,
    typer.Option(
        help="About how many pixels of the result the parts have on a side into which the planes "
        "of a stack are cut; those of OUT.zarr.",
    ),
]
Surveys = Annotated[
    Survey | None,
    typer.Option(
        help="Whether each plane of a stack has its own noise level, range and unknown kernel, or "
        "all share those of some planes.",
        show_default="plane",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
Tile = Annotated[
    int | None,
    typer.Option(
        help="Greatest side in pixels of what the prior takes at once, to save memory.",
        show_default="2152, by memory on a GPU",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")]


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


@app.command()
def deblur(
    sources: Sources,
    target: Target,
    psf: Psf = None,
    psf_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Greatest side of an unknown kernel in pixels, odd.",
            show_default="31, or a quarter of a smaller image",
        ),
    ] = None,
    save_psf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the kernel: .tif, .npy; a folder where OUT is one.",
            show_default=False,
        ),
    ] = None,
    mask: Mask = None,
    noise: Noise = None,
    method: Solver = Method.annealed,
    iterations: Iterations = None,
    prior: PriorName = None,
    seed: Seed = 0,
    device: Device = "auto",
    tile: Tile = None,
    background: Background = None,
    dtype: PixelType = OutputDtype.input,
    sidecar: Sidecar = None,
    scheduler: Scheduler = None,
    planes: Planes = None,
    chunks: Chunks = PART,
    survey: Surveys = None,
    overwrite: Overwrite = False,
) -> None:
    """Deblur an image; the point spread function and the noise level may be unknown.

    Without --psf the kernel is found first, in an image of at least 64 x 64 pixels.
    The result has the size and the intensity units of the image, and its pixel type if integer.
    """
    with _one_line_errors():
        from .core import prepare_deblur
        from .errors import DmspError

        if psf is not None and psf_size is not None:
            raise DmspError("--psf-size is for an unknown kernel; give it or --psf, not both.")
        _restore(
            prepare_deblur,
            sources,
            target,
            psf=psf,
            psf_size=psf_size,
            save_psf=save_psf,
            mask=mask,
            noise_sigma=noise,
            method=method,
            iterations=iterations,
            prior=prior,
            seed=seed,
            device=device,
            tile=tile,
            background=background,
            dtype=dtype,
            sidecar=sidecar,
            scheduler=scheduler,
            planes=planes,
            chunks=chunks,
            survey=survey,
            overwrite=overwrite,
        )


@app.command()
def superres(
    sources: Sources,
    target: Target,
    scale: Annotated[
        float,
        typer.Option(metavar="S", help="Above 1 and up to 8, like 2 or 1.5.", show_default=False),
    ],
    psf: Psf = None,
    mask: Mask = None,
    noise: Noise = None,
    method: Solver = Method.annealed,
    iterations: Iterations = None,
    prior: PriorName = None,
    seed: Seed = 0,
    device: Device = "auto",
    tile: Tile = None,
    background: Background = None,
    dtype: PixelType = OutputDtype.input,
    sidecar: Sidecar = None,
    scheduler: Scheduler = None,
    planes: Planes = None,
    chunks: Chunks = PART,
    survey: Surveys = None,
    overwrite: Overwrite = False,
) -> None:
    """Raise the resolution of an image; the noise level may be unknown.

    Without --psf the image is taken for a bicubic reduction of the result.
    The result has the intensity units of the image, and its pixel type if integer.
    """
    with _one_line_errors():
        from .core import prepare_superres

        _restore(
            prepare_superres,
            sources,
            target,
            scale=scale,
            psf=psf,
            mask=mask,
            noise_sigma=noise,
            method=method,
            iterations=iterations,
            prior=prior,
            seed=seed,
            device=device,
            tile=tile,
            background=background,
            dtype=dtype,
            sidecar=sidecar,
            scheduler=scheduler,
            planes=planes,
            chunks=chunks,
            survey=survey,
            overwrite=overwrite,
        )


@app.command()
def demosaic(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Mosaics of one channel as a sensor records them, .tif, also stacks, or .png: "
            "files, folders, or patterns like 'in/**/*.tif'.",
            show_default=False,
        ),
    ],
    target: Target,
    pattern: Annotated[
        str,
        typer.Option(
            help="Filters from the first pixel on: RGGB, BGGR, GRBG, GBRG; quad-RGGB and so on; "
            "X-Trans."
        ),
    ] = "RGGB",
    black: Background = None,
    linear: Annotated[
        bool | None,
        typer.Option(
            "--linear/--no-linear",
            help="Whether values are proportional to light.",
            show_default="linear above 8 bits",
        ),
    ] = None,
    white: Annotated[
        float | None,
        typer.Option(
            help="Intensity of white.", show_default="255 for 8 bits, else the 99.9 percentile"
        ),
    ] = None,
    mask: Mask = None,
    noise: Noise = None,
    method: Solver = Method.annealed,
    iterations: Iterations = None,
    prior: PriorName = None,
    seed: Seed = 0,
    device: Device = "auto",
    tile: Tile = None,
    dtype: PixelType = OutputDtype.input,
    sidecar: Sidecar = None,
    scheduler: Scheduler = None,
    planes: Planes = None,
    chunks: Chunks = PART,
    survey: Surveys = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn the mosaic of a colour sensor into a colour image; the noise level may be unknown.

    The result has the size and the intensity units of the mosaic, black included, and its pixel
    type if integer.
    """
    with _one_line_errors():
        from .core import prepare_demosaic

        _restore(
            prepare_demosaic,
            sources,
            target,
            mosaic=True,
            pattern=pattern,
            white=white,
            linear=linear,
            mask=mask,
            noise_sigma=noise,
            method=method,
            iterations=iterations,
            prior=prior,
            seed=seed,
            device=device,
            tile=tile,
            background=black,
            dtype=dtype,
            sidecar=sidecar,
            scheduler=scheduler,
            planes=planes,
            chunks=chunks,
            survey=survey,
            overwrite=overwrite,
        )


@app.command()
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
    device: Device = "auto",
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
    with _one_line_errors():
        from .errors import DmspError
        from .training.train import Recipe, state_path
        from .training.train import train as run_training

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
        typer.echo(f"{card['training']['steps']} steps, validation {scores}\n{out}")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="PNG file to write.", show_default="napari-dmsp-demo.png")
    ] = None,
    viewer: Annotated[bool, typer.Option("--viewer", help="Show the layers in napari.")] = False,
    seed: Seed = 0,
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
        typer.echo(f"{summarize([result])}\n{path}")
        if show is not None:
            show(case, result)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn the errors that users can mend, and Ctrl-C, into one line and exit codes 2 and 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "Stopped: nothing was kept.", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        from .errors import DmspError

        if not isinstance(error, DmspError):
            raise
        typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None


def _restore(
    prepare: Callable[..., Job],
    sources: Sequence[str],
    target: str,
    *,
    psf: str | None = None,
    save_psf: Path | None = None,
    mask: Path | None,
    prior: str | None,
    method: Method,
    tile: int | None,
    dtype: OutputDtype,
    sidecar: bool | None,
    scheduler: str | None,
    planes: str | None,
    chunks: int,
    survey: Survey | None,
    overwrite: bool,
    mosaic: bool = False,
    **options: Any,
) -> None:
    """Restore the images that ``sources`` mean, and report.

    Parameters
    ----------
    prepare : callable
        Makes the job of the image, ``mask``, ``prior``, ``method``, ``channel_axis``, ``options``
        and, if it is given, ``psf``.
    mosaic : bool
        Whether an image is a plane that becomes a colour image.
    """
    from . import batch, io
    from .errors import DmspError

    options |= {"prior": prior, "method": method.value}
    if tile is not None:
        options["tile"] = tile
    if psf is not None:
        options["psf"] = _make_psf(psf)
    named = [path for path in (mask, psf and Path(psf)) if path and path.is_file()]
    task = batch.Task(
        prepare,
        options,
        mask=None if mask is None else io.read_mask(mask),
        mosaic=mosaic,
        floats=dtype is OutputDtype.float32,
        survey="plane" if survey is None else survey.value,
        overwrite=overwrite,
        named=tuple(named),
        record=_record(psf=psf, mask=mask, prior=prior, dtype=dtype),
    )
    if batch.is_stack(sources, target):
        if len(sources) > 1:
            raise DmspError(f"{target} is for one stack, not for {len(sources)} inputs.")
        files = batch.Files.of(Path(sources[0]), Path(target), bool(sidecar), save_psf)
        batch.restore_stack(task, files, scheduler, planes, chunks)
        typer.echo("\n".join(map(str, files.outputs)))
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
    single = batch.Files.of(Path(sources[0]), Path(target), bool(sidecar), save_psf)
    results = task.restore(single, batch.Bar().show)
    typer.echo("\n".join([batch.summarize(results), *map(str, single.outputs)]))


def _record(**options: object) -> dict[str, Any]:
    """Note the options that a `Restoration` describes only, and where relative names begin."""
    given = {name: None if value is None else str(value) for name, value in options.items()}
    return {"working_directory": str(Path.cwd()), "options": given}


def _make_psf(text: str) -> NDArray[np.floating[Any]]:
    """Make the PSF that ``--psf`` asks for."""
    from .core.psf import gaussian_psf, motion_psf
    from .errors import DmspError
    from .io import read_psf

    shape, _, numbers = text.partition(":")
    if shape not in ("gaussian", "motion") or not numbers:
        return read_psf(Path(text))
    try:
        values = [float(n) for n in numbers.split(",")]
        if shape == "gaussian":
            (sigma,) = values
            return gaussian_psf(sigma)
        length, angle = values
        return motion_psf(length, angle)
    except DmspError as error:
        raise DmspError(f"psf {text}: {error}") from None
    except ValueError:
        raise DmspError(
            f"psf {text} is not understood; write it like gaussian:1.5 or motion:20,45."
        ) from None
