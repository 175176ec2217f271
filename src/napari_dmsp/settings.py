"""What the user may choose: one class a task, every option once. No torch.

The public functions, the shell's options, the panels' widgets, records and *Copy as Python* are all
made from these classes; a task that stands in `TASKS` has every face.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

from .errors import DmspError
from .windows import MIN_TILE

METHODS = ("annealed", "sgd")
DEVICES = ("auto", "cpu", "cuda", "mps")
PATTERNS = (
    *("RGGB", "BGGR", "GRBG", "GBRG"),
    *("quad-RGGB", "quad-BGGR", "quad-GRBG", "quad-GBRG"),
    "X-Trans",
)
MAX_SCALE, MAX_ITERATIONS = 8, 1_000_000
# Evaluations of the prior by default: where A leaves detail, where it does not, for fluorescence,
# for volumes, and by the published descent.
SHARP_EVALUATIONS, BLURRED_EVALUATIONS, FLUORESCENCE_EVALUATIONS = 30, 24, 36
VOLUME_EVALUATIONS, DESCENT_EVALUATIONS = 10, 300
# The mask that is made from the image itself: NaN, infinite and saturated pixels.
AUTO_MASK = "auto"
# Words for no limit of the tiles, in the shell and in the panels; Python says None.
WHOLE = "whole"


@dataclass(frozen=True)
class Photons:
    """Noise that grows with light: variance ``gain * (intensity - offset) + read_noise**2``.

    Attributes
    ----------
    gain : float
        Variance per intensity, in the image's units: intensity units per photo-electron.
    offset : float
        Intensity without light, in the image's units.
    read_noise : float
        Standard deviation without light, in the image's units.
    """

    gain: float
    offset: float = 0.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(**asdict(self))
        if not 0 < self.gain < math.inf:
            raise DmspError(f"gain={self.gain} of the noise must be positive and finite.")
        if not math.isfinite(self.offset):
            raise DmspError(f"offset={self.offset} of the noise must be finite.")
        if not 0 <= self.read_noise < math.inf:
            raise DmspError(f"read_noise={self.read_noise} must be zero or positive.")


Noise = float | Photons | None


def parse_noise(text: str) -> Noise:
    """Read noise: ``2.5``, or ``gain=2,offset=100,read=1.6``."""
    if "=" not in text:
        return float(text)
    pairs = (part.split("=") for part in text.replace(" ", "").split(","))
    values = {name: float(number) for name, number in pairs}
    if "read" in values:
        values["read_noise"] = values.pop("read")
    if not {"gain"} <= set(values) <= {"gain", "offset", "read_noise"}:
        raise ValueError("noise has gain, and may have offset and read")
    return Photons(**values)


def parse_tile(text: str) -> int | str | None:
    """Read a tile: a number of pixels, ``auto`` or ``whole``."""
    return None if text.split()[:1] == [WHOLE] else text if text == "auto" else int(text)


def parse_levels(text: str) -> float | list[float]:
    """Read the level of black or white: a number, or one for every filter, with commas."""
    levels = [float(number) for number in text.split(",")]
    return levels if len(levels) > 1 else levels[0]


def parse_pattern(text: str) -> Any:
    """Read a colour filter array: a name, or channel numbers, row by row, like ``0,1/1,2``."""
    if not re.fullmatch(r"[-\d\s,;/]+", text):
        return text
    rows = [[int(n) for n in re.findall(r"-?\d+", row)] for row in re.split("[/;]", text)]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of a colour filter array are alike in length")
    return rows


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the faces must know of an option, beside its name and its default."""

    # Help in a sentence or two, without the default.
    help: str
    # Type in words, as numpydoc has it.
    kind: str
    # Name in a panel.
    label: str = ""
    # Name in the shell; nothing where the shell has no such option.
    flag: str = ""
    # What None stands for, in words: the end of "by default".
    auto: str = ""
    # Unit of a number, such as "px".
    unit: str = ""
    # All values, or those that are offered beside what is typed.
    choices: tuple[str, ...] = ()
    # What the shell shows for a value.
    metavar: str = ""
    # Further sentences for Python.
    more: str = ""
    # Whether a panel shows it only among its further options.
    folded: bool = True
    # Least and greatest value of a number.
    limits: tuple[float, float] = (-math.inf, math.inf)
    # Reads a value as it is typed in the shell or into a panel; raises a ValueError.
    parse: Callable[[str], Any] = str

    def explain(self, default: str) -> str:
        """Return the help with what happens ``default``, such as "By default" or "Empty"."""
        return f"{self.help} {default} {self.auto}." if self.auto else self.help


def option(default: Any, help: str, kind: str, **rest: Any) -> Any:
    """Make the field of an option."""
    about = {"option": Option(help=help, kind=kind, **rest)}
    return field(metadata=about) if default is MISSING else field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """Options that all tasks share; a task is a subclass.

    A subclass is documented like a function, and its docstring becomes that of the public function,
    with the options as parameters, and what all of them raise and refer to.
    """

    # Name of the task, and of the public function, the command and the panel.
    task: ClassVar[str]
    # Name in menus; what the name of a result gets behind that of the image.
    title: ClassVar[str]
    suffix: ClassVar[str]
    # Name and description of the image, and the option that Python takes without its name.
    takes: ClassVar[tuple[str, str]] = (
        "image",
        "(H, W), or colour with three channels along ``channel_axis``; any real dtype. Further "
        "axes are those of a stack, which is restored plane by plane: each has a noise level and "
        "a range of its own, all have the prior that suits the one in the middle.",
    )
    positional: ClassVar[str] = "noise"
    # Pixels around a region that are restored with it, and multiples of pixels that it begins at.
    margin: ClassVar[int] = 24
    align: ClassVar[int] = 1
    # Whether an image of one channel becomes one of three.
    makes_colour: ClassVar[bool] = False
    # Whether an unknown point spread function is looked for.
    finds_psf: ClassVar[bool] = False
    # Whether planes may be restored together, as a volume.
    restores_volumes: ClassVar[bool] = False
    # Shared options that the task does not have.
    unused: ClassVar[tuple[str, ...]] = ()
    # What None stands for in the task, by the names of options that others have another way.
    autos: ClassVar[Mapping[str, str]] = {}

    noise: Noise = option(
        None,
        "Standard deviation of the noise, in the image's units; or gain, offset and read noise, "
        "where the variance is gain x (intensity - offset) + read noise squared.",
        "float or Photons, optional",
        label="Noise σ",
        flag="--noise",
        auto="estimated",
        metavar="SIGMA|gain=G,offset=O,read=R",
        parse=parse_noise,
        more="``noise_sigma`` is another name for it.",
        folded=False,
    )
    mask: Any = option(
        None,
        "Pixels that are missing or unreliable, such as dead ones: they are not looked at, and "
        "restored from what surrounds them.",
        'array_like of bool or "auto", optional',
        label="Mask",
        flag="--mask",
        metavar="FILE|auto",
        more="True means missing; (H, W) or of the shape of the image. "
        '"auto" takes NaN, infinite and saturated pixels.',
    )
    channel_axis: int | None = option(
        None,
        "Axis of the colour channels; None for a grey image.",
        "int, optional",
    )
    prior: Any = option(
        None,
        "What images look like: a bundled prior, or one from `train`.",
        "str, path or callable, optional",
        label="Prior",
        flag="--prior",
        auto='"rgb" for colour, "gray" for grey images, "microscopy" for fluorescence',
        metavar="NAME|FILE",
        more="See `load_prior`.",
    )
    method: str = option(
        "annealed",
        "The fast solver, or the paper's own descent.",
        '{"annealed", "sgd"}',
        label="Method",
        flag="--method",
        choices=METHODS,
        metavar="annealed|sgd",
    )
    uncertainty: bool = option(
        False,
        "Whether to say how far to trust the result: one standard deviation of the error of every "
        "pixel. It takes twice the time.",
        "bool",
        label="Error map",
        flag="--uncertainty/--no-uncertainty",
        more="It is the ``error`` of the result.",
        folded=False,
    )
    iterations: int | None = option(
        None,
        "Evaluations of the prior; the time grows with it.",
        "int, optional",
        label="Evaluations",
        flag="--iterations",
        auto=f"{BLURRED_EVALUATIONS}; {DESCENT_EVALUATIONS} for sgd",
        parse=int,
        limits=(1, MAX_ITERATIONS),
    )
    background: Any = option(
        None,
        "Intensity of black, in the image's units: subtracted first, added at the end.",
        "float, optional; for mosaics also one for each filter",
        label="Background",
        flag="--background",
        auto="0 for 8 bits, else the 0.1 percentile",
        metavar="LEVEL",
        parse=parse_levels,
    )
    seed: int = option(
        0,
        "Seed of what is drawn at random.",
        "int",
        label="Seed",
        flag="--seed",
        parse=int,
        limits=(0, 2**32 - 1),
    )
    device: str = option(
        "auto",
        "Where to compute: auto, cpu, cuda, cuda:1, mps.",
        "str",
        label="Device",
        flag="--device",
        choices=DEVICES,
    )
    tile: Any = option(
        "auto",
        "Greatest side in pixels of what the prior takes at once, at least 192; less needs less "
        "memory.",
        'int, "auto" or None',
        label="Tile",
        flag="--tile",
        choices=("auto", "512", "1024", "2048", WHOLE),
        metavar="N|auto|whole",
        parse=parse_tile,
        limits=(MIN_TILE, math.inf),
        more="None takes the whole image. Only memory and speed depend on it: tiles overlap and "
        "are blended, and noise and PSF are those of the whole image.",
    )

    def __post_init__(self) -> None:
        """Raise a `DmspError` for values that suit no image."""
        if self.method not in METHODS:
            raise DmspError(f"method={self.method!r} is unknown; use one of {', '.join(METHODS)}.")
        flags = {name: getattr(self, name, None) for name in ("uncertainty", "linear", "developed")}
        for name, value in flags.items():
            if value is not None and not (is_number(value) and value in (0, 1)):
                raise DmspError(f"{name}={value!r} must be True or False.")
        if self.uncertainty and self.method == "sgd":
            raise DmspError(
                f"uncertainty={self.uncertainty} is not for method='sgd'; use 'annealed'."
            )
        count = self.iterations
        if count is not None and not (_is_whole(count) and 1 <= count <= MAX_ITERATIONS):
            raise DmspError(
                f"iterations={count} must be a whole number, at least 1 and at most "
                f"{MAX_ITERATIONS}."
            )
        if not _is_integer(self.seed) or not -(2**63) <= self.seed < 2**63:
            raise DmspError(f"seed={self.seed} must be a whole number of at most 64 bits.")
        if self.channel_axis is not None and not _is_integer(self.channel_axis):
            raise DmspError(
                f"channel_axis={self.channel_axis!r} must be the number of an axis, such as -1."
            )
        if not (self.tile is None or isinstance(self.tile, str) or is_number(self.tile)):
            raise DmspError(f"tile={self.tile!r} must be a number of pixels, 'auto' or None.")
        noise, black = None if isinstance(self.noise, Photons) else self.noise, self.background
        # Of mosaics, every filter may have a level of its own.
        check_numbers(noise=noise, background=None if self.makes_colour else black)
        if noise is not None and not 0 <= noise < math.inf:
            raise DmspError(f"noise={noise} must be zero or positive; leave it out to estimate it.")
        if is_number(black) and not math.isfinite(black):
            raise DmspError(f"background={black} must be a finite number.")

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Make settings of Python's arguments, ``noise_sigma`` among them."""
        if "noise_sigma" in options:
            if options.get("noise") is not None:
                raise DmspError("noise and noise_sigma are one option; give one of them.")
            options["noise"] = options.pop("noise_sigma")
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise TypeError(f"{cls.__name__} got unexpected arguments: {', '.join(unknown)}")
        return cls(**options)

    @property
    def magnification(self) -> tuple[float, float]:
        """Rows and columns of the result for one of the image."""
        return 1.0, 1.0

    @property
    def blind(self) -> bool:
        """Whether the point spread function is unknown, and is to be found."""
        return self.finds_psf and getattr(self, "psf", None) is None

    @property
    def space(self) -> int:
        """How many axes of an image are restored together: 2, or 3 for volumes."""
        return 2

    def replace(self, **changes: Any) -> Self:
        """Return settings with some changed."""
        return replace(self, **changes)

    def arguments(self) -> dict[str, Any]:
        """All options by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def given(self) -> dict[str, Any]:
        """Only the options that differ from their defaults."""
        defaults = {each.name: each.default for each in fields(self)}
        return {k: v for k, v in self.arguments().items() if v is not defaults[k]}

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON knows them; of arrays, shape, type and hash."""
        return {"task": self.task} | {k: _plain(v) for k, v in self.arguments().items()}

    def code(self, **instead: str) -> str:
        """Write them down as arguments of the public function, with names ``instead`` of arrays."""
        written = {name: repr(value) for name, value in self.given().items()} | instead
        return ", ".join(f"{name}={text}" for name, text in written.items())


def is_number(value: Any) -> bool:
    """Whether a value is one real number that a float can hold, of Python or of any library."""
    real = getattr(getattr(value, "dtype", None), "kind", "f") in "buif"
    # What is masked is no number, even where a float stands behind it.
    if not real or not hasattr(value, "__float__") or hasattr(value, "mask"):
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return getattr(value, "ndim", 0) == 0


def check_numbers(**values: Any) -> None:
    """Raise a `DmspError` for values that are no numbers; None is not given."""
    for name, value in values.items():
        if value is not None and not is_number(value):
            raise DmspError(f"{name}={value!r} must be one number.")


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number, perhaps as a float; True and False are none."""
    return not isinstance(value, bool) and is_number(value) and float(value).is_integer()


def _is_integer(value: Any) -> bool:
    """Whether a value is a whole number by its type."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    import numpy as np  # Late: the shell's help must come at once.

    if isinstance(value, Photons):
        return asdict(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    array = np.ascontiguousarray(value)
    if array.size <= 64 and array.dtype.kind in "biufU":
        return array.tolist()
    about = {"shape": list(array.shape), "dtype": str(array.dtype)}
    return about | {"sha256": hashlib.sha256(array.tobytes()).hexdigest()}


def _psf(help: str, auto: str) -> Any:
    return option(
        None,
        help,
        "array_like, optional",
        label="PSF",
        flag="--psf",
        auto=auto,
        metavar="FILE | gaussian:S | motion:L,A | widefield:na=N,... | bead:FILE | focal:FILE",
        more="In the orientation of ``scipy.signal.convolve2d``; normalised to sum 1. The origin "
        "is the central pixel, of even sides the central one that is nearest to the mass; one in "
        "the first pixel is moved there. A background is subtracted, and said in the warnings.",
        folded=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Deblur(Settings):
    """Undo the blur of motion, focus or optics; point spread function and noise may be unknown.

    With a point spread function of three axes, an image (Z, Y, X) is restored as a volume.

    Returns
    -------
    Restoration
        ``image`` has the shape and the units of the input, float32; ``psf`` is the one given or
        found.

    Examples
    --------
    >>> from napari_dmsp import deblur
    >>> result = deblur(photo, psf, channel_axis=-1)  # doctest: +SKIP
    >>> result.image.shape == photo.shape  # doctest: +SKIP
    True
    """

    task = "deblur"
    title = "Deblur"
    suffix = "deblurred"
    positional = "psf"
    finds_psf = True
    restores_volumes = True
    autos: ClassVar = {
        "iterations": f"{BLURRED_EVALUATIONS}, {SHARP_EVALUATIONS} where the PSF is narrow, "
        f"{FLUORESCENCE_EVALUATIONS} for fluorescence, {VOLUME_EVALUATIONS} for volumes; "
        f"{DESCENT_EVALUATIONS} for sgd"
    }

    psf: Any = _psf(
        "Point spread function, of any size up to the image's; or with three axes, (Z, Y, X), to "
        "restore volumes, and with four, one for each channel.",
        "found in the image, which must be at least 64 x 64 pixels",
    )
    psf_size: int | None = option(
        None,
        "Where the PSF is unknown, an upper bound of its side in pixels, odd.",
        "int, optional",
        label="Size of the PSF",
        flag="--psf-size",
        auto="found, up to 91 or a quarter of a smaller image",
        unit="px",
        metavar="N",
        parse=int,
        limits=(3, math.inf),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.psf_size
        if self.psf is not None and size is not None:
            raise DmspError(f"psf_size={size} is for an unknown PSF; give it or psf=, not both.")
        if size is not None and not (is_number(size) and size >= 3):
            raise DmspError(f"psf_size={size!r} must be an odd whole number, at least 3.")

    @property
    def space(self) -> int:
        """3 where the PSF is a volume, or one for each channel."""
        import numpy as np  # Late: the shell's help must come at once.

        try:
            return 2 if self.psf is None or np.ndim(self.psf) < 3 else 3
        except ValueError:
            # Of lists that are no array, the check of the PSF says what is wrong.
            return 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Superres(Settings):
    """Raise the resolution of an image; the noise level may be unknown.

    Returns
    -------
    Restoration
        ``image`` is (round(H * scale), round(W * scale)), in the units of the input, float32. Both
        grids share their outer edges: row ``i`` of the H' rows of the result lies at
        ``(i + 0.5) * H / H' - 0.5`` of the input.

    Notes
    -----
    Without a PSF, the image is taken for an antialiased bicubic reduction of the result; with one,
    for the samples of the blurred result at the centres of blocks of ``scale`` pixels, a whole
    number.
    """

    task = "superres"
    title = "Super-resolution"
    suffix = "enlarged"
    positional = "scale"
    margin = 0
    autos: ClassVar = {"iterations": f"{SHARP_EVALUATIONS}; {DESCENT_EVALUATIONS} for sgd"}

    scale: float = option(
        MISSING,
        "How many times more pixels along each side: above 1 and up to 8, like 2 or 1.5.",
        "float",
        label="Factor",
        flag="--scale",
        metavar="S",
        parse=float,
        folded=False,
        limits=(1.0, MAX_SCALE),
    )
    psf: Any = _psf("Point spread function in pixels of the result.", "a bicubic reduction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.scale) or not 1 < self.scale <= MAX_SCALE:
            raise DmspError(f"scale={self.scale} must be above 1 and at most {MAX_SCALE}.")
        if self.psf is not None and self.scale != int(self.scale):
            raise DmspError(f"scale={self.scale} must be a whole number where a psf is given.")

    @property
    def magnification(self) -> tuple[float, float]:
        """Rows and columns of the result for one of the image."""
        return float(self.scale), float(self.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class Demosaic(Settings):
    """Turn a raw mosaic into a colour image; the noise level may be unknown.

    Returns
    -------
    Restoration
        ``image`` is (H, W, 3) in the units of the mosaic, float32, background included. Colours are
        those of the sensor, without white balance and gamma, unless they are developed: then black
        is the background, and white is white.
    """

    task = "demosaic"
    title = "Demosaic"
    suffix = "demosaiced"
    takes = ("mosaic", "(H, W), one colour per pixel, or a stack (..., H, W); any real dtype.")
    positional = "pattern"
    # A multiple of the periods of all named patterns: 2, 4 and 6.
    align = 12
    makes_colour = True
    unused = ("channel_axis",)
    autos: ClassVar = {"prior": '"rgb"'}

    pattern: Any = option(
        "RGGB",
        "Colour filter array from the first pixel on: RGGB, BGGR, GRBG, GBRG; quad-RGGB and so on "
        "(every filter over 2 x 2 pixels); X-Trans; or one period of another one as numbers of "
        "channels, row by row, like 0,1/1,2.",
        "str or array_like",
        label="Pattern",
        flag="--pattern",
        choices=PATTERNS,
        metavar="NAME|NUMBERS",
        parse=parse_pattern,
        more="An array holds channel numbers (h, w), -1 where there is no filter and 3 for a "
        "second green, or weights (h, w, 3).",
        folded=False,
    )
    white: Any = option(
        None,
        "Intensity of white, in the image's units.",
        "float, or one for each filter, optional",
        label="White",
        flag="--white",
        auto="255 for 8 bits, else the 99.9 percentile",
        metavar="LEVEL",
        parse=parse_levels,
    )
    linear: bool | None = option(
        None,
        "Whether values are proportional to light, as those of raw frames.",
        "bool, optional",
        label="Linear",
        flag="--linear/--no-linear",
        auto="linear above 8 bits; floats by how they are spaced, or look",
        more="What was chosen is in the record, with a warning where it is close. Linear values "
        "are restored under the curve of photographs. Arrays of mixing weights are never encoded.",
    )
    developed: bool = option(
        False,
        "Whether colours are balanced for a grey world and brightened by the curve of photographs, "
        "to be looked at; else they are as the sensor saw them.",
        "bool",
        label="Developed",
        flag="--developed/--as-measured",
    )


TASKS: Mapping[str, type[Settings]] = {kind.task: kind for kind in (Deblur, Superres, Demosaic)}


def options(kind: type[Settings]) -> Iterator[tuple[Field[Any], Option]]:
    """Yield the fields of a task and what the faces must know of them, its own options first."""
    shared = {each.name for each in fields(Settings)}
    for each in sorted(fields(kind), key=lambda each: each.name in shared):
        if each.name not in kind.unused:
            about = each.metadata["option"]
            yield each, replace(about, auto=kind.autos.get(each.name, about.auto))


def parse(kind: type[Settings], name: str, text: str) -> Any:
    """Read the value of an option as it is typed in the shell or into a panel."""
    about = next(about for each, about in options(kind) if each.name == name)
    try:
        return about.parse(text)
    except DmspError:
        raise
    except ValueError:
        forms: dict[Any, str] = {int: "a whole number", float: "a number"}
        form = forms.get(about.parse, f"understood; write {about.metavar.replace('|', ' or ')}")
        raise DmspError(f"{name}={text} is not {form}.") from None


# Patterns of Python's remedies, and what the shell and the panels say in their stead.
REMEDIES = {
    r"with mask=.*?(?=, or)": (
        "with --mask auto or --mask FILE",
        "with 'NaN and saturated pixels' as Mask",
    ),
    r"mask leaves no pixel.*": (
        "--mask leaves no pixel of the image; give another one.",
        "Mask leaves no pixel of the image; choose another one.",
    ),
    r"focal plane only: focal_plane.*FILE": (
        "focal plane only: --psf focal:FILE",
        "focal plane only: 'planes, by the PSF in focus'",
    ),
    r"napari_dmsp\.scale restores images of any size part by part": (
        "images of any size are restored part by part to an OUT like out.zarr",
        "the command napari-dmsp restores images of any size part by part, to zarr",
    ),
    r"\bchunks=None": ("--chunks as large as the image", "the whole image"),
    r", or None\.": (".", "."),
    r" \(overwrite=True\)": ("", ""),
    r"\bthe same call\b": ("the same command", "the same run"),
    r"lower batch=\d+ or patch=\d+": (r"\g<0>", "give fewer images, or choose another Device"),
}
# Options that only the shell has, for large stacks.
SHELL_ONLY = {"chunks": "--chunks", "planes": "--planes", "survey": "--survey"}


def in_words(text: str, kind: type[Settings], face: str) -> str:
    """Say an error or a warning in the words of a face, "shell" or "panel".

    Messages call options as in Python, such as ``iterations=0``.
    """
    shell = face == "shell"
    names = {each.name: about.flag if shell else about.label for each, about in options(kind)}
    if shell:
        names |= SHELL_ONLY
    return reword(text, names | {"noise_sigma": names["noise"]}, face)


def reword(text: str, names: Mapping[str, str], face: str) -> str:
    """Say a message with the remedies of a face and its names of options."""
    for pattern, words in REMEDIES.items():
        text = re.sub(pattern, words[0] if face == "shell" else words[1], text)

    def say(match: re.Match[str]) -> str:
        value = match[2].strip("'\"") if match[2] else ""
        name = names.get(match[1])
        if not name:
            return match[0]
        if "/" in name:
            # A flag for yes and one for no.
            name, value = name.split("/")[value == "False"], ""
        elif value in ("True", "False"):
            value = "yes" if value == "True" else "no"
        return f"{name} {value}".strip()

    return re.sub(r"(?<![\w/\\])([a-z_]+)=('[^']*'|\"[^\"]*\"|[^\s;,]*[^\s;,.:])?", say, text)
