"""Point spread functions of microscopes, from their optics.

All lengths are micrometres. Axes are (z, y, x); z grows as the focus moves into the sample, away
from the cover glass: flip the PSF along z for a stack that was taken the other way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array
from scipy.special import j0, j1

from ..errors import DmspError
from ..settings import check_numbers, is_number

KINDS = ("widefield", "confocal", "two-photon", "light sheet")
# Largest PSF that is computed, in voxels: 1 GiB of float32.
MOST_VOXELS = 2**28
# Least numerical aperture of an objective; the largest voxel in µm, and one over the smallest.
LEAST_NA, WIDEST_VOXEL = 0.01, 1e4
# Largest pinhole in Airy units that is integrated; a wider one is as good as open.
WIDEST_PINHOLE = 20.0
# Steps of the radial tables within the finest period of an intensity, λ / (2 NA).
TABLE_STEPS = 32
# Reach of a PSF of no given shape, in depths of field λ n / NA², to either side along z.
REACH = {"widefield": 8.0, "confocal": 4.0, "two-photon": 4.0, "light sheet": 8.0}
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Psf:
    """A PSF and what is to be known about it; numpy takes it for the array of its values.

    Attributes
    ----------
    values : ndarray
        (nz, ny, nx), or (ny, nx) from beads in a plane. Odd sides, float32, not negative, sum 1;
        the peak is in the central voxel.
    voxel_size : tuple of float
        Size of its voxels along each axis.
    notes : tuple of str
        What was done to get it.
    warnings : tuple of str
        What the user should think about.
    shift : float
        How much deeper than it is a point appears, by the focus' position. The PSF is recentred:
        restored images keep this shift.
    """

    values: NDArray[np.float32]
    voxel_size: tuple[float, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    shift: float = 0.0

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)


@dataclass(frozen=True)
class Optics:
    """An aplanatic objective, focused through the cover glass to a point at some depth.

    Attributes
    ----------
    na, immersion_index, sample_index : float
        Numerical aperture and refractive indices. The cover glass is as the objective expects.
    depth : float
        Distance of the point from the cover glass.
    """

    na: float
    immersion_index: float
    sample_index: float
    depth: float

    @property
    def half_angle(self) -> float:
        """Half the opening angle in the immersion, in radians."""
        return math.asin(self.na / self.immersion_index)

    def delay(self, theta: Array, focus: Array) -> NDArray[np.complex128]:
        """Return the optical path (angles, positions of the focus) of a point at `depth`.

        Imaginary parts are of rays that reach the objective from the point's near field only.
        """
        inside = _refract(theta, self.immersion_index, self.sample_index)
        path = self.depth * self.sample_index * inside[:, None]
        return path - self.immersion_index * np.outer(np.cos(theta), focus)

    def nodes(self, phase: float) -> tuple[Array, Array]:
        """Gauss-Legendre angles and weights; ``phase`` is the integrand's range in radians."""
        ends = [0.0, self.half_angle]
        if self.na > self.sample_index:
            ends.insert(1, math.asin(self.sample_index / self.immersion_index))
        # A polynomial of N nodes follows N half periods; the rest is for the amplitudes.
        x, w = np.polynomial.legendre.leggauss(math.ceil(phase / math.pi) + 48)
        pieces = list(pairwise(ends))
        theta = np.concatenate([a + (b - a) * (x + 1) / 2 for a, b in pieces])
        return theta, np.concatenate([w * (b - a) / 2 for a, b in pieces])

    def intensity(self, radius: Array, focus: Array, wavelength: float) -> Array:
        """Intensity (radii, positions of the focus), the mean over a dipole's orientations.

        It is that of an unpolarised beam in the focus, by reciprocity. References: B. Richards and
        E. Wolf 1959; P. Török, P. Varga, Z. Laczik, G. R. Booker 1995 for the two media;
        S. F. Gibson and F. Lanni 1992 for depth and focus.
        """
        k = 2 * math.pi / wavelength
        coarse = np.linspace(0, self.half_angle, 512)
        swing = np.abs(np.diff(self.delay(coarse, focus[[0, -1]]).real, axis=0)).sum(0).max()
        theta, weight = self.nodes(k * (swing + self.na * float(radius.max(initial=0.0))))
        outside, sine = np.cos(theta), np.sin(theta)
        inside = _refract(theta, self.immersion_index, self.sample_index)
        ni, ns = self.immersion_index, self.sample_index
        # Fresnel's transmission of both polarisations.
        across = 2 * ni * outside / (ni * outside + ns * inside)
        along = 2 * ni * outside / (ns * outside + ni * inside)
        wave = np.exp(1j * k * self.delay(theta, focus))
        wave *= (weight * np.sqrt(outside) * sine)[:, None]
        u = k * self.na / math.sin(self.half_angle) * np.outer(radius, sine)
        zeroth, first = j0(u), j1(u)
        second = np.divide(2 * first, u, out=np.zeros_like(u), where=u > 1e-9)
        second -= np.where(u > 1e-9, zeroth, 0.0)
        parts = (
            (1, zeroth, across + along * inside),
            (2, first, along * sine * ni / ns),
            (1, second, across - along * inside),
        )
        total = np.zeros((radius.size, focus.size))
        for count, bessel, amplitude in parts:
            field = amplitude[:, None] * wave
            total += count * ((bessel @ field.real) ** 2 + (bessel @ field.imag) ** 2)
        return total

    def best_focus(self, wavelengths: tuple[float, ...]) -> float:
        """Find the focus' position that a point at `depth` is brightest at."""
        if self.depth == 0 or self.sample_index == self.immersion_index:
            return self.depth
        # Where rays of each angle cross the axis.
        theta = np.linspace(1e-3, self.half_angle, 256)
        sine = np.sin(theta) * self.immersion_index / self.sample_index
        theta, sine = theta[sine < 0.98], sine[sine < 0.98]
        foci = self.depth * np.tan(np.arcsin(sine)) / np.tan(theta)
        field_depth = min(wavelengths) * self.immersion_index / self.na**2
        low, high = foci.min() - 2 * field_depth, foci.max() + 2 * field_depth
        focus = np.linspace(low, high, math.ceil(20 * (high - low) / field_depth) + 2)
        bright = np.prod([self.intensity(np.zeros(1), focus, w)[0] for w in wavelengths], axis=0)
        i = int(np.clip(bright.argmax(), 1, focus.size - 2))
        before, top, after = bright[i - 1 : i + 2]
        part = 0.5 * (before - after) / (before - 2 * top + after)
        return float(focus[i] + part * (focus[1] - focus[0]))


def microscope_psf(
    kind: str,
    *,
    na: float,
    voxel_size: tuple[float, ...],
    wavelength: float | None = None,
    excitation_wavelength: float | None = None,
    immersion_index: float = 1.515,
    sample_index: float | None = None,
    depth: float = 0.0,
    pinhole: float = 1.0,
    sheet_thickness: float | None = None,
    shape: tuple[int, ...] | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> Psf:
    """PSF of an ideal microscope, in focus at the cover glass or at a depth in the sample.

    Vectorial, the mean over the orientations of a fluorophore, integrated over the pixels' area.
    A point that is deeper than the cover glass, in a sample whose index is not the immersion's,
    is aberrated and appears elsewhere; the PSF is centred on its peak all the same.

    Parameters
    ----------
    kind : str
        ``widefield``; ``confocal``, excitation × (emission ∗ pinhole); ``two-photon``,
        excitation²; ``light sheet``, emission × a Gaussian sheet.
    na : float
        Numerical aperture, below the index of the immersion.
    voxel_size : (float, float, float) or (float, float)
        Step of the focus or stage, height and width of a pixel in the sample, in micrometres; of
        a plane, without the step.
    wavelength : float, optional
        Emission in micrometres; needed for all but two-photon microscopes.
    excitation_wavelength : float, optional
        In micrometres; needed for confocal and two-photon microscopes.
    immersion_index, sample_index : float
        Refractive indices: oil 1.515, glycerol 1.47, water 1.33, air 1. The sample's is the
        immersion's if it is not given.
    depth : float
        Distance of what is looked at from the cover glass, in micrometres.
    pinhole : float
        Diameter in Airy units, 1.22 ``wavelength`` / ``na`` in the sample; inf is open.
    sheet_thickness : float, optional
        Full width at half the maximum of a light sheet, in micrometres.
    shape : (int, int, int), optional
        Odd sides in voxels; that of `psf_shape` if it is not given. The PSF of a widefield
        microscope has no end: give 2 n - 1 planes for a stack of n, or ``image_shape``.
    image_shape : (int, int, int) or (int, int), optional
        Shape of what is restored, (Z, Y, X) or (Y, X), instead of ``shape``: the PSF gets the sides
        of `psf_shape`, but is no wider than the image; that of a plane is the one in focus.

    Returns
    -------
    Psf
        (nz, ny, nx), or (ny, nx) for a plane; sum 1 within the shape.

    Raises
    ------
    DmspError
        If a value cannot be.
    """
    # The arguments are the only local names so far.
    return _Setup.of(**locals()).psf()


def microscope_psf_shape(kind: str, **optics: Any) -> tuple[int, ...]:
    """Return the shape of what `microscope_psf` returns, without computing it.

    Parameters
    ----------
    kind, **optics
        As in `microscope_psf`.

    Raises
    ------
    DmspError
        If a value cannot be.
    """
    defaults = microscope_psf.__kwdefaults__ or {}
    setup = _Setup.of(kind, **defaults | optics)
    return setup.sides[1:] if setup.flat else setup.sides


@dataclass(frozen=True)
class _Setup:
    """What `microscope_psf` is given, checked; wavelengths are 0 where they do not matter."""

    kind: str
    optics: Optics
    size: tuple[float, ...]
    emission: float
    excitation: float
    # Diameter in Airy units, and thickness.
    pinhole: float
    sheet: float | None
    # Sides of the PSF, and whether only its plane in focus is wanted.
    sides: tuple[int, ...]
    flat: bool

    @classmethod
    def of(
        cls,
        kind: str,
        *,
        na: float,
        voxel_size: tuple[float, ...],
        wavelength: float | None,
        excitation_wavelength: float | None,
        immersion_index: float,
        sample_index: float | None,
        depth: float,
        pinhole: float,
        sheet_thickness: float | None,
        shape: tuple[int, ...] | None,
        image_shape: tuple[int, ...] | None,
    ) -> _Setup:
        """Check the arguments of `microscope_psf`."""
        kind = _kind(kind)
        check_numbers(
            na=na,
            wavelength=wavelength,
            excitation_wavelength=excitation_wavelength,
            immersion_index=immersion_index,
            sample_index=sample_index,
            depth=depth,
            pinhole=pinhole,
            sheet_thickness=sheet_thickness,
        )
        sample_index = immersion_index if sample_index is None else sample_index
        optics = _optics(na, immersion_index, sample_index, depth)
        frame = () if image_shape is None else _sides(image_shape)
        if image_shape is not None and len(frame) not in (2, 3):
            raise DmspError(f"image_shape={image_shape} must be that of an image, (Z, Y, X).")
        flat = len(frame) == 2
        size = check_voxels(voxel_size, 2 if flat else 3)
        if flat:
            # The step is not used.
            size = (size[0], *size)
        emission = excitation = 0.0
        if kind != "two-photon":
            emission = _wavelength("wavelength", wavelength)
        if kind in ("confocal", "two-photon"):
            excitation = _wavelength("excitation_wavelength", excitation_wavelength)
        if not (0 <= pinhole <= WIDEST_PINHOLE or pinhole == math.inf):
            raise DmspError(
                f"pinhole={pinhole:g} Airy units must be 0 to {WIDEST_PINHOLE:g}, or inf for open."
            )
        if kind == "light sheet" and not (sheet_thickness and 0 < sheet_thickness < math.inf):
            raise DmspError(f"sheet_thickness={sheet_thickness} must be a positive number of µm.")
        frame = (1, *frame)[-3:]
        if shape is None:
            shape = psf_shape(
                kind,
                na=na,
                voxel_size=size,
                wavelength=max(emission, excitation),
                immersion_index=immersion_index,
                image_shape=frame if image_shape is not None else None,
            )
            if image_shape is not None:
                # Wider than the image, it would make volumes of many times its size.
                widest = ((n - 1) // 2 * 2 + 1 for n in frame[1:])
                shape = (shape[0], *map(min, shape[1:], widest))
        sides = check_sides(shape, 3)
        return cls(kind, optics, size, emission, excitation, pinhole, sheet_thickness, sides, flat)

    @property
    def used(self) -> tuple[float, ...]:
        """The wavelengths that matter, excitation first."""
        return tuple(w for w in (self.excitation, self.emission) if w)

    def psf(self) -> Psf:
        """Compute the PSF."""
        optics, sides, size, used = self.optics, self.sides, self.size, self.used
        kind, na, depth = self.kind, self.optics.na, self.optics.depth
        best = optics.best_focus(used)
        z = best + size[0] * np.arange(-(sides[0] // 2), sides[0] // 2 + 1, dtype=np.float64)
        step = min(used) / (2 * na) / TABLE_STEPS
        reach = math.hypot(*((n // 2 + 1) * d for n, d in zip(sides[1:], size[1:], strict=True)))
        hole = self.pinhole * 0.61 * self.emission / na
        if kind == "confocal" and hole < math.inf:
            table = optics.intensity(np.arange(0, reach + hole + 4 * step, step), z, self.emission)
            radius = np.arange(0, reach + 4 * step, step)
            finest = self.emission / (2 * na)
            table = _through_hole(radius, hole, step, len(table), finest) @ table
            table *= optics.intensity(radius, z, self.excitation)
        else:
            radius = np.arange(0, reach + 4 * step, step)
            table = optics.intensity(radius, z, used[0])
        if kind == "two-photon":
            table **= 2
        if kind == "light sheet" and self.sheet:
            table *= np.exp(-4 * math.log(2) * ((z - best) / self.sheet) ** 2)
        values = _pixels(table, step, sides, size, min(used) / (2 * na))
        planes = values.sum((1, 2))
        values /= planes.sum()

        notes, warnings = [], list(_sampling_warnings(optics, kind, used, size))
        shift = best - depth
        if shift:
            where = "deeper" if shift > 0 else "higher"
            notes.append(
                f"A point {depth:g} µm deep appears {abs(shift):.2f} µm {where} than it is;"
                " the PSF is centred on its peak."
            )
        if kind == "widefield" and planes.min() < 0.9 * planes.max():
            lost = 100 * (1 - planes.min() / planes.max())
            warnings.append(
                f"The cone of light is wider than the PSF of {sides[1]} × {sides[2]} pixels:"
                f" its outermost plane lacks {lost:.0f} % of the light. Take more pixels or fewer"
                " planes."
            )
        if self.flat:
            values, size = values[sides[0] // 2], size[1:]
            values /= values.sum()
        return Psf(values.astype(np.float32), size, tuple(notes), tuple(warnings), shift)


def psf_shape(
    kind: str,
    *,
    na: float,
    voxel_size: tuple[float, ...],
    wavelength: float,
    immersion_index: float = 1.515,
    image_shape: tuple[int, ...] | None = None,
) -> tuple[int, int, int]:
    """Choose the sides of a PSF: the planes that matter, and the cone of light at the farthest.

    Parameters
    ----------
    kind, na, voxel_size, wavelength, immersion_index
        As in `microscope_psf`.
    image_shape : (int, int, int), optional
        Shape of the stack that is to be restored: the PSF becomes as long as light can come from
        afar within it, 2 n - 1 planes, and no wider than 2 n - 1 pixels. Without it, the PSF
        reaches 8 depths of field (λ n / NA²) to either side, and 4 where the excitation is
        confined too.

    Returns
    -------
    (int, int, int)
        Odd sides.
    """
    kind = _kind(kind)
    optics = _optics(na, immersion_index, immersion_index, 0.0)
    size = check_voxels(voxel_size, 3)
    field_depth = _wavelength("wavelength", wavelength) * immersion_index / na**2
    if image_shape is not None and kind == "widefield":
        planes = image_shape[0] - 1
    else:
        planes = math.ceil(REACH[kind] * field_depth / size[0])
        planes = planes if image_shape is None else min(planes, image_shape[0] - 1)
    # Three Airy radii beyond the rays, where the far field's rings have faded.
    cone = planes * size[0] * math.tan(optics.half_angle) + 3 * 0.61 * wavelength / na
    half = [planes, *(math.ceil(cone / d) for d in size[1:])]
    if image_shape is not None:
        half = [min(h, n - 1) for h, n in zip(half, image_shape, strict=True)]
    depth, height, width = (2 * h + 1 for h in half)
    return depth, height, width


def _kind(kind: str) -> str:
    """Check a microscope's name; a hyphen is as good as a space."""
    found = {k.replace("-", " "): k for k in KINDS}.get(str(kind).lower().replace("-", " "))
    if found is None:
        raise DmspError(f"kind={kind!r} is no microscope: give {', '.join(KINDS)}.")
    return found


def _optics(na: float, immersion: float, sample: float, depth: float) -> Optics:
    """Check what the objective and the sample are."""
    for name, index in (("immersion_index", immersion), ("sample_index", sample)):
        if not 1 <= index <= 2.5:
            raise DmspError(f"{name}={index:g} must be 1 (air) to 2.5: oil has 1.515, water 1.33.")
    if not LEAST_NA <= na < immersion:
        raise DmspError(
            f"na={na:g} must be at least {LEAST_NA} and below the immersion's index of "
            f"{immersion:g}: give the immersion_index that the objective is made for."
        )
    if not 0 <= depth <= 1000:
        raise DmspError(f"depth={depth:g} µm must be 0 to 1000.")
    return Optics(float(na), float(immersion), float(sample), float(depth))


def _wavelength(name: str, value: float | None) -> float:
    """Check that a wavelength is one of light, in micrometres."""
    if value is None or not 0.1 <= value <= 5:
        raise DmspError(f"{name}={value} must be 0.1 to 5 micrometres: green is 0.52.")
    return float(value)


def check_voxels(size: tuple[float, ...], axes: int) -> tuple[float, ...]:
    """Check a voxel's size in micrometres."""
    given = np.ravel(np.asarray(size, dtype=object)).tolist()
    sides = tuple(float(s) if is_number(s) else math.nan for s in given)
    if len(sides) != axes or not all(1 / WIDEST_VOXEL <= s <= WIDEST_VOXEL for s in sides):
        names = "(z, y, x)" if axes == 3 else "(y, x)"
        raise DmspError(
            f"A voxel size of {size} must be {axes} positive numbers of µm, {names}, "
            f"{1 / WIDEST_VOXEL:g} to {WIDEST_VOXEL:g}."
        )
    return sides


def check_sides(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Check the shape of a PSF."""
    sides = _sides(shape)
    if len(sides) != axes or not all(n % 2 for n in sides):
        raise DmspError(f"shape={shape} must be {axes} odd numbers of voxels.")
    if math.prod(shape) > MOST_VOXELS:
        raise DmspError(
            f"shape={tuple(shape)} has more than {MOST_VOXELS:,} voxels: give a smaller one."
        )
    return sides


def _sides(shape: Any) -> tuple[int, ...]:
    """Return sides that are whole numbers above 0; none for what is no shape."""
    sides = tuple(shape) if isinstance(shape, tuple | list) or np.ndim(shape) == 1 else ()
    if not all(is_number(n) and n >= 1 and float(n).is_integer() for n in sides):
        return ()
    return tuple(int(n) for n in sides)


def _sampling_warnings(
    optics: Optics, kind: str, wavelengths: tuple[float, ...], size: tuple[float, ...]
) -> list[str]:
    """Say where voxels are coarser than Nyquist's: half the finest period that the light carries.

    A confocal microscope's is taken for that of its excitation alone: what is finer is faint.
    """
    light = min(wavelengths) / (2 if kind == "two-photon" else 1)
    n = optics.immersion_index
    limits = [
        ("plane's step", size[0], light / (2 * (n - math.sqrt(n**2 - optics.na**2)))),
        ("pixel", max(size[1:]), light / (4 * optics.na)),
    ]
    return [
        f"A {name} of {given:g} µm is coarser than Nyquist's limit of {limit:.3f} µm:"
        " details between the samples are lost, and may show as others."
        for name, given, limit in limits
        if given > 1.1 * limit
    ]


def _refract(theta: Array, outside: float, inside: float) -> NDArray[np.complex128]:
    """Cosine of the angle in the other medium; imaginary beyond total reflection."""
    return np.sqrt(1 - (np.sin(theta) * outside / inside).astype(np.complex128) ** 2)


def lookup(position: Array, weight: Array, count: int) -> csr_array:
    """Matrix (rows, count) of weighted sums of values between those of an even table.

    ``position`` (rows, points) is in steps of the table, ``weight`` is broadcast to it. Cubic
    polynomials through four neighbours; the table is even about its start.
    """
    base = np.clip(np.floor(position).astype(np.int64), 0, count - 3)
    t = position - base
    cubic = [
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    ]
    data = np.stack([c * weight for c in cubic])
    columns = np.stack([np.abs(base + i) for i in (-1, 0, 1, 2)])
    rows = np.broadcast_to(np.arange(len(position))[:, None], columns.shape)
    entries = data.ravel(), (rows.ravel(), columns.ravel())
    return csr_array(entries, shape=(len(position), count))


def _through_hole(radius: Array, hole: float, step: float, count: int, period: float) -> csr_array:
    """Matrix (radii, count): mean of a radial table over a disc around a point at each radius.

    A circle around the axis lies in the disc whole, or with an arc of its own half angle. The
    arcs' circles are spaced as cosines, which takes away the roots at both ends.
    """
    if hole < step / 16:
        return lookup((radius / step)[:, None], np.ones(1), count)
    x, w = np.polynomial.legendre.leggauss(16 + math.ceil(4 * hole / period))
    whole = (hole - radius).clip(0)[:, None]
    circles, full = whole * (x + 1) / 2, whole * w / 2 * math.pi
    low, high = np.abs(hole - radius)[:, None], (hole + radius)[:, None]
    turn = math.pi * (x + 1) / 2
    arcs = (low + high) / 2 - (high - low) / 2 * np.cos(turn)
    width = (high - low) / 2 * np.sin(turn) * w * math.pi / 2
    r = np.maximum(radius, 1e-12)[:, None]
    cosine = (arcs**2 + r**2 - hole**2) / np.maximum(2 * arcs * r, 1e-300)
    part = width * np.arccos(cosine.clip(-1, 1))
    points = np.concatenate([circles, arcs], 1)
    weights = np.concatenate([full, part], 1) * 2 * points / (math.pi * hole**2)
    return lookup(points / step, weights, count)


def _pixels(
    table: Array, step: float, shape: tuple[int, ...], size: tuple[float, ...], period: float
) -> Array:
    """Integrate a radial table (radii, planes) over pixels: (planes, rows, columns)."""
    places, weights = [], []
    for n, d in zip(shape[1:], size[1:], strict=True):
        x, w = np.polynomial.legendre.leggauss(3 + math.ceil(2 * d / period))
        places.append((np.arange(n // 2 + 1)[:, None] + x / 2) * d)
        weights.append(w / 2)
    (y, x), (wy, wx) = places, weights
    radius = np.hypot(y[:, None, :, None], x[None, :, None, :]).reshape(len(y) * len(x), -1)
    quadrant = lookup(radius / step, np.outer(wy, wx).ravel(), len(table)) @ table
    quadrant = quadrant.T.reshape(-1, len(y), len(x))
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in shape[1:])
    return quadrant[:, rows[:, None], columns]
