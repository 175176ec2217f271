"""Point spread functions as they are written in the shell."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DmspError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .core import Psf

FORMS = (
    "gaussian:1.5, motion:20,45, widefield:na=1.4,wavelength=0.52, "
    "confocal:na=1.4,wavelength=0.52,excitation=0.488, bead:FILE,diameter=0.1, or focal:FILE"
)
MICROSCOPES = ("widefield", "confocal", "two-photon", "light-sheet")
# What is written, and the argument that it is; lengths in micrometres.
OPTICS = {
    "na": "na",
    "wavelength": "wavelength",
    "excitation": "excitation_wavelength",
    "immersion": "immersion_index",
    "sample": "sample_index",
    "depth": "depth",
    "pinhole": "pinhole",
    "sheet": "sheet_thickness",
}
# The same with those of beads.
SHORT = OPTICS | {"diameter": "bead_diameter", "voxel": "voxel_size"}


def make_psf(text: str, find_image: Callable[[], Path]) -> tuple[NDArray[Any], Sequence[str]]:
    """Make the PSF that is written as a file's name or as numbers.

    Parameters
    ----------
    text : str
        A file; or like one of `FORMS`.
    find_image : callable
        Returns the image that is to be restored: PSFs of microscopes are for its voxels.

    Returns
    -------
    psf : ndarray
        (kh, kw), or (kd, kh, kw) for volumes, or with channels before.
    said : sequence of str
        Sentences for the user, warnings with that word before them.

    Raises
    ------
    DmspError
        For what is not understood.
    """
    from .core.psf import focal_plane, gaussian_psf, motion_psf
    from .files import read_psf

    form, _, rest = text.partition(":")
    known = ("gaussian", "motion", "bead", "focal", *MICROSCOPES)
    if form not in known:
        return read_psf(Path(text)), ()
    try:
        if not (rest or form in MICROSCOPES):
            raise ValueError(text)
        if form in MICROSCOPES:
            return _told(_microscope(form, _pairs(rest.split(",") if rest else ()), find_image))
        if form == "focal":
            return focal_plane(read_psf(Path(rest))), ()
        if form == "bead":
            name, *others = rest.split(",")
            return _told(_bead(Path(name), _pairs(others), find_image))
        values = [float(n) for n in rest.split(",")]
        if form == "gaussian":
            (sigma,) = values
            return gaussian_psf(sigma), ()
        length, angle = values
        return motion_psf(length, angle), ()
    except DmspError as error:
        said = str(error)
        for short, name in SHORT.items():
            said = re.sub(rf"\b{name}\b", short, said)
        raise DmspError(f"psf={text}: {said}") from None
    except ValueError:
        raise DmspError(f"psf={text} is not understood; write it like {FORMS}.") from None


def bead_file(text: str) -> Path | None:
    """Return the file of beads that a text names; None without any."""
    form, _, rest = text.partition(":")
    return Path(rest.split(",")[0]) if form == "bead" and rest else None


def _told(psf: Psf) -> tuple[NDArray[Any], Sequence[str]]:
    """Return the values of a PSF, and what is to be said of it."""
    return psf.values, (*psf.notes, *(f"Warning: {text}" for text in psf.warnings))


def _pairs(parts: Sequence[str]) -> dict[str, str]:
    return {name.strip(): value for name, value in (part.split("=") for part in parts)}


def _microscope(kind: str, given: dict[str, str], find_image: Callable[[], Path]) -> Psf:
    """Compute a PSF for the voxels and the size of an image; of a plane, only that in focus."""
    from .core import microscope_psf
    from .files import read_optics

    voxel, shape = given.pop("voxel", None), given.pop("shape", None)
    if unknown := sorted(given.keys() - OPTICS.keys()):
        names = ", ".join([*OPTICS, "voxel", "shape"])
        raise DmspError(f"{', '.join(unknown)} is unknown; there are {names}.")
    image = find_image()
    optics: dict[str, Any] = {OPTICS[name]: float(value) for name, value in given.items()}
    optics = read_optics(image) | optics
    if "na" not in optics:
        raise DmspError("the numerical aperture is missing, like na=1.4.")
    size, sides = _image(image, voxel)
    if shape is None:
        return microscope_psf(kind, voxel_size=size, image_shape=sides, **optics)
    odd = tuple(int(n) for n in shape.split("/"))
    if len(size) == 3:
        return microscope_psf(kind, voxel_size=size, shape=odd, **optics)
    found = microscope_psf(kind, voxel_size=(size[0], *size), shape=(1, *odd[-2:]), **optics)
    return replace(found, values=found.values[0])


def _bead(file: Path, given: dict[str, str], find_image: Callable[[], Path]) -> Psf:
    """Make a PSF of an image of beads, resampled to the voxels of an image."""
    from .core import bead_psf
    from .files import read_psf

    voxel, diameter = given.pop("voxel", None), given.pop("diameter", None)
    if given:
        raise DmspError(f"{', '.join(given)} is unknown; there are diameter and voxel.")
    size, _ = _image(file, voxel)
    target, _ = _image(find_image(), None) if voxel is None else (size, None)
    return bead_psf(
        read_psf(file),
        voxel_size=size,
        target_voxel_size=target[-len(size) :],
        bead_diameter=None if diameter is None else float(diameter),
    )


def _image(path: Path, voxel: str | None) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the size in micrometres and the number of the voxels of an image along z, y and x.

    Without z for a plane. ``voxel`` is the size as the user writes it down.
    """
    from .files import describe

    names, sides, steps = describe(path)
    lead = [n for n in names if n not in ("y", "x", "c", "t", "s")]
    depth = "z" if "z" in lead else lead[-1] if lead and voxel else None
    wanted = ["y", "x"] if depth is None else [depth, "y", "x"]
    if voxel is not None:
        size = tuple(float(n) for n in voxel.split("/"))
        size = size[-len(wanted) :]
    else:
        if missing := [name for name in wanted if name not in steps]:
            raise DmspError(
                f"{path} does not tell the size of its voxels along {', '.join(missing)}; write it "
                "down in micrometres, z/y/x, like voxel=0.25/0.1/0.1."
            )
        size = tuple(steps[name] for name in wanted)
    return size, tuple(sides[names.index(name)] for name in wanted)
