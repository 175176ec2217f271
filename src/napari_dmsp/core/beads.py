"""Point spread functions from images of fluorescent beads. All lengths are micrometres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from ..errors import DmspError
from ..settings import check_numbers
from .inputs import take_array
from .microscope import Array, Psf, check_sides, check_voxels, lookup

# Largest diameter of beads in µm.
WIDEST_BEAD = 1000
# Heights of beads that count as alike, as a part of their median.
ALIKE = 0.5, 2.0
# Another peak of this part of a bead's height within its window makes the two overlap.
OVERLAP = 0.2


@dataclass(frozen=True, eq=False)
class BeadPsf(Psf):
    """A PSF that was measured.

    Attributes
    ----------
    beads : ndarray
        Where the averaged beads are, in voxels of their image: (n, 3) or (n, 2).
    rejected : dict
        How many beads were left out, by the reason.
    ground : float
        What was subtracted, the mean over the beads.
    """

    beads: Array | None = None
    rejected: dict[str, int] | None = None
    ground: float = 0.0


def bead_psf(
    image: ArrayLike,
    *,
    voxel_size: tuple[float, ...],
    target_voxel_size: tuple[float, ...] | None = None,
    bead_diameter: float | None = None,
    radial: bool = False,
    ground: float | None = None,
    saturation: float | None = None,
    shape: tuple[int, ...] | None = None,
) -> BeadPsf:
    """PSF from an image of fluorescent beads: found, centred, averaged and freed of the ground.

    Left out are beads whose window leaves the image, that are saturated, that have another in
    their window, and that are less than half or more than twice as bright as is usual there.

    Parameters
    ----------
    image : array_like
        (Z, Y, X) or (Y, X), with one bead or many, in any unit.
    voxel_size : tuple of float
        Size of its voxels in micrometres, (z, y, x) or (y, x).
    target_voxel_size : tuple of float, optional
        Voxels of the image that is to be restored, in micrometres; the beads' if not given.
    bead_diameter : float, optional
        In micrometres: the sphere is divided out (Wiener's filter, by the noise that is found).
    radial : bool
        Average around the axis of the light as well. Removes noise, and with it astigmatism and
        coma. Needs square pixels.
    ground : float, optional
        Value where there is no bead, in the image's unit. If it is not given, it is found around
        each bead, where the bead's own light is least.
    saturation : float, optional
        Value from which on a bead is saturated, in the image's unit. If it is not given: the end
        of an integer type, and the highest value if four voxels or more have it.
    shape : tuple of int, optional
        Odd sides of the PSF in voxels of the target. If it is not given: eight widths of the beads
        (full, at half the maximum) to either side, four along z, or as far as the image goes.

    Returns
    -------
    BeadPsf
        Resampled by splines, and integrated over pixels that are larger than the beads'.

    Raises
    ------
    DmspError
        If no bead can be used, or a value cannot be.
    """
    given = np.ma.getdata(take_array(image, "image"))
    if given.dtype.kind not in "buif":
        raise DmspError(f"image dtype {given.dtype} is not a real number; convert it first.")
    check_numbers(bead_diameter=bead_diameter, ground=ground, saturation=saturation)
    volume = given.astype(np.float64)
    if volume.ndim not in (2, 3):
        raise DmspError(f"The image of beads has shape {volume.shape}: give (Z, Y, X) or (Y, X).")
    if not np.isfinite(volume).all():
        raise DmspError("The image of beads has values that are not finite; replace them first.")
    size = check_voxels(voxel_size, volume.ndim)
    target = size if target_voxel_size is None else check_voxels(target_voxel_size, volume.ndim)
    if bead_diameter is not None and not 0 < bead_diameter <= WIDEST_BEAD:
        raise DmspError(
            f"bead_diameter={bead_diameter} must be above 0 and at most {WIDEST_BEAD} µm."
        )
    if radial and not (math.isclose(*size[-2:]) and math.isclose(*target[-2:])):
        raise DmspError(
            f"radial=True needs square pixels; they are {size[-2]:g} × {size[-1]:g} µm."
        )
    saturation = _saturation(given) if saturation is None else saturation

    peaks, heights = _find_peaks(volume)
    widths = _widths(volume, peaks)
    peaks, heights = _drop_lobes(peaks, heights, widths)
    asked = None
    if shape is not None:
        asked = [
            math.ceil(n // 2 * b / a)
            for n, a, b in zip(check_sides(shape, volume.ndim), size, target, strict=True)
        ]
    half = asked or _window(volume.shape, peaks, widths)
    chosen, rejected = _choose(volume, peaks, heights, half, widths, saturation)
    tally = ", ".join(f"{n} {why}" for why, n in rejected.items() if n)
    if not len(chosen):
        window = " × ".join(str(2 * h + 1) for h in half)
        raise DmspError(
            f"No bead can be used, within a window of {window} voxels: {tally}."
            " Give a smaller shape, or an image with beads that stand alone."
        )
    windows, centres, grounds = [], [], []
    for peak in chosen:
        base = _ground_around(volume, peak, half) if ground is None else ground
        # Splines and shifts reach a little further than the window.
        start = np.maximum(peak - half - np.ceil(widths).astype(int) - 6, 0)
        ends = peak + half + np.ceil(widths).astype(int) + 7
        part = volume[tuple(slice(a, b) for a, b in zip(start, ends, strict=True))] - base
        centre = _centre(part, (peak - start).astype(np.float64), widths)
        windows.append(_resample(part, centre, half, np.ones(volume.ndim)))
        centres.append(centre + start)
        grounds.append(base)
    mean = np.mean(windows, axis=0)
    middle = np.array(half, dtype=np.float64)
    drift = np.abs(_centre(mean, middle, widths) - middle).max()
    noise = _noise(volume) / math.sqrt(len(chosen))
    if radial:
        mean = _turn(mean)
    # What a voxel's noise is worth after the mean around the axis, and after smoothing.
    radius = np.hypot(*np.ogrid[tuple(slice(-h, h + 1) for h in half[-2:])])
    circle = np.maximum(math.pi * radius, 1) if radial else np.ones_like(radius)
    keep = _stands_out(mean, noise / np.sqrt(np.maximum(circle / 5, 1)))
    power = float((keep * noise**2 / circle).sum())
    values = np.where(keep, _restore(keep * mean, size, bead_diameter or 0.0, power), 0.0).clip(0)
    if shape is not None or target != size:
        sides = (
            check_sides(shape, volume.ndim)
            if shape is not None
            else tuple(
                2 * math.floor(h * a / b) + 1 for h, a, b in zip(half, size, target, strict=True)
            )
        )
        ratio = np.array(target) / size
        values = _resample(values, middle, [n // 2 for n in sides], ratio, blur=True).clip(0)
    if not values.sum() > 0:
        raise DmspError(
            "Nothing of the beads stands out of the noise: check voxel_size= and bead_diameter=, "
            "or give an image with brighter beads."
        )
    values /= values.sum()

    level = float(np.mean(grounds))
    notes = [
        f"Averaged {len(chosen)} of {len(chosen) + sum(rejected.values())} beads"
        + (f" (left out: {tally})" if tally else "")
        + f" and subtracted a ground of {level:g}."
    ]
    warnings = []
    if drift > 0.25:
        warnings.append(f"The beads differ: their mean is {drift:.2f} voxels off the centre.")
    if any(b < 0.99 * a for a, b in zip(size, target, strict=True)):
        warnings.append("The image's voxels are smaller than the beads': the PSF is interpolated.")
    return BeadPsf(
        values.astype(np.float32),
        target,
        tuple(notes),
        tuple(warnings),
        0.0,
        np.array(centres),
        rejected,
        level,
    )


def _saturation(image: NDArray[Any]) -> float:
    """Guess from which value on an image is saturated."""
    if np.count_nonzero(image == image.max()) > 8:
        return float(image.max())
    return float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else math.inf


def _noise(values: Array) -> float:
    """Estimate the standard deviation of white noise from voxels less their neighbours' mean."""
    taps = ndimage.generate_binary_structure(values.ndim, 1) / (-2.0 * values.ndim)
    taps[(1,) * values.ndim] = 1.0
    residual = ndimage.convolve(values, taps, mode="nearest")
    spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    return spread / math.sqrt(1 + 1 / (2 * values.ndim))


def _smooth_noise(ndim: int, sigma: float) -> float:
    """Part of white noise's standard deviation that a Gaussian filter leaves."""
    return (2 * math.sqrt(math.pi) * sigma) ** (-ndim / 2)


def _find_peaks(volume: Array) -> tuple[NDArray[np.int64], Array]:
    """Local maxima above the noise, (n, ndim), the brightest first, and their heights.

    Those below a tenth of the brightest are rings and lobes rather than beads.
    """
    smooth = ndimage.gaussian_filter(volume, 1.0)
    base = float(np.percentile(volume, 25))
    least = 8 * _noise(volume) * _smooth_noise(volume.ndim, 1.0)
    floor = base + max(least, 0.1 * (smooth.max() - base))
    top = (ndimage.maximum_filter(smooth, 5) == smooth) & (smooth > floor)
    # A plateau is one peak.
    labels, count = ndimage.label(top, ndimage.generate_binary_structure(volume.ndim, volume.ndim))
    if not count:
        raise DmspError("No bead stands out of the noise: give an image with brighter beads.")
    peaks = np.array(ndimage.maximum_position(smooth, labels, np.arange(1, count + 1)))
    heights = smooth[tuple(peaks.T)] - base
    order = np.argsort(-heights, kind="stable")
    return peaks[order], heights[order]


def _widths(volume: Array, peaks: NDArray[np.int64]) -> Array:
    """Full widths at half the maximum along each axis, in voxels: the median of some peaks."""
    base = float(np.percentile(volume, 25))
    found = []
    for peak in peaks[:25]:
        row = []
        for axis, middle in enumerate(peak):
            line = volume[tuple(slice(None) if a == axis else p for a, p in enumerate(peak))] - base
            sides = []
            for side in (line[middle:], line[middle::-1]):
                below = np.flatnonzero(side < line[middle] / 2)
                i = int(below[0]) if below.size else len(side)
                part = 0.0
                if below.size:
                    part = float((side[i - 1] - line[middle] / 2) / (side[i - 1] - side[i]))
                sides.append(i - 1 + part)
            row.append(sum(sides))
        found.append(row)
    return np.maximum(np.median(found, axis=0), 1.0)


def _drop_lobes(
    peaks: NDArray[np.int64], heights: Array, widths: Array
) -> tuple[NDArray[np.int64], Array]:
    """Leave out peaks on the axis of a brighter one near by: they are its own."""
    keep: list[int] = []
    for i, peak in enumerate(peaks):
        apart = np.abs(peaks[keep] - peak) / widths if keep else np.full((1, len(peak)), np.inf)
        lobe = (apart[:, -2:].max(1) < 1) & (apart.max(1) < 4)
        if not lobe.any():
            keep.append(i)
    return peaks[keep], heights[keep]


def _window(limits: tuple[int, ...], peaks: NDArray[np.int64], widths: Array) -> list[int]:
    """Half sides of the window around a bead, in voxels of its image; see `bead_psf`."""
    reach = np.ceil(widths * ([4, 8, 8] if len(limits) == 3 else [8, 8]))
    room = np.minimum(peaks, np.array(limits) - 1 - peaks)
    return [int(v) for v in np.maximum(np.minimum(reach, np.median(room, axis=0)), np.ceil(widths))]


def _choose(
    volume: Array,
    peaks: NDArray[np.int64],
    heights: Array,
    half: list[int],
    widths: Array,
    saturation: float,
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Take the beads that can be used, and count the others by what speaks against them."""
    rejected = dict.fromkeys(("saturated", "at the border", "overlapping", "of unusual height"), 0)
    kept: list[int] = []
    core = np.ceil(widths).astype(int)
    typical = float(np.median(heights))
    for i, (peak, height) in enumerate(zip(peaks, heights, strict=True)):
        inside = (np.abs(peaks - peak) <= half).all(1) & (heights >= OVERLAP * height)
        around = tuple(slice(max(p - c, 0), p + c + 1) for p, c in zip(peak, core, strict=True))
        if volume[around].max() >= saturation:
            rejected["saturated"] += 1
        elif (peak < half).any() or (peak + half >= volume.shape).any():
            rejected["at the border"] += 1
        elif inside.sum() > 1:
            rejected["overlapping"] += 1
        elif not ALIKE[0] * typical <= height <= ALIKE[1] * typical:
            rejected["of unusual height"] += 1
        else:
            kept.append(i)
    return peaks[kept], rejected


def _ground_around(volume: Array, peak: NDArray[np.int64], half: list[int]) -> float:
    """Ground at the rim of the window, of the planes where a bead's cone of light is narrow."""
    window = volume[tuple(slice(p - h, p + h + 1) for p, h in zip(peak, half, strict=True))]
    y, x = (np.arange(-h, h + 1) / max(h, 1) for h in half[-2:])
    rim = window[..., np.hypot(y[:, None], x) >= 0.8]
    rim = rim.reshape(-1, rim.shape[-1])
    planes = np.median(rim, axis=1)
    middle = float(np.percentile(planes, 10))
    spread = 1.4826 * float(np.median(np.abs(rim - planes[:, None])))
    # Planes that are as dark as the darkest, but for the error of their medians.
    dark = rim[planes <= middle + 3 * spread / math.sqrt(rim.shape[1])]
    # Noise of photons is skew: its mean is above its median.
    return float(dark[np.abs(dark - np.median(dark)) <= 4 * spread].mean())


def _centre(values: Array, start: Array, widths: Array) -> Array:
    """Sub-voxel centre of a bead: the centre of mass under a Gaussian of its width around it."""
    centre = start.astype(np.float64)
    sigma = widths / 2.355
    for _ in range(30):
        low = np.maximum(np.floor(centre - 4 * sigma), 0).astype(int)
        high = np.minimum(np.ceil(centre + 4 * sigma) + 1, values.shape).astype(int)
        weighted = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        for axis, c, s in zip(axes, centre, sigma, strict=True):
            weighted = weighted * np.exp(-0.5 * ((axis - c) / s) ** 2)
        mass = weighted.sum()
        mean = np.array([float((weighted * axis).sum() / mass) for axis in axes])
        # The weight halves the step of a bead that is a Gaussian itself.
        centre = np.clip(centre + 2 * (mean - centre), start - widths, start + widths)
    return centre


def _resample(
    values: Array, centre: Array, half: list[int], ratio: Array, blur: bool = False
) -> Array:
    """Sample around a centre, with steps of ``ratio`` voxels, by splines of the fifth order.

    With ``blur``, values are integrated over pixels (the last two axes) that are larger. The
    points' variance is what the smaller pixels' integral lacks.
    """
    coefficients = ndimage.spline_filter(values, order=5)
    nodes = []
    for axis, r in enumerate(ratio):
        if not blur or axis < values.ndim - 2 or r <= 1:
            nodes.append([(0.0, 1.0)])
        else:
            x, w = np.polynomial.legendre.leggauss(math.ceil(r))
            nodes.append(list(zip(x / 2 * math.sqrt(r**2 - 1), w / 2, strict=True)))
    shape = tuple(2 * h + 1 for h in half)
    total = np.zeros(shape)
    for points in product(*nodes):
        offset = centre + [p for p, _ in points] - np.array(half) * ratio
        total += math.prod(w for _, w in points) * ndimage.affine_transform(
            coefficients, ratio, offset, shape, order=5, mode="nearest", prefilter=False
        )
    return total


def _restore(values: Array, size: tuple[float, ...], diameter: float, noise: float) -> Array:
    """Divide the spectrum by a sphere's, and take out what does not exceed the noise's power."""
    spectrum = fft.fftn(values)
    axes = [fft.fftfreq(n, d) for n, d in zip(values.shape, size, strict=True)]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True)))
    u = np.maximum(math.pi * diameter * frequency, 1e-3)
    sphere = 3 * (np.sin(u) - u * np.cos(u)) / u**3
    power = ndimage.uniform_filter(np.abs(spectrum) ** 2, 3, mode="wrap")
    # The mean of 27 powers of noise alone is seldom above one and a half of what is expected.
    signal = (1 - 1.5 * noise / np.maximum(power, 1e-300)).clip(0)
    return fft.ifftn(spectrum * signal * 1.01 * sphere / (sphere**2 + 0.01)).real


def _turn(values: Array) -> Array:
    """Average around the axis through the centre: the nearest function of the radius alone."""
    planes = values.reshape(-1, values.shape[-2] * values.shape[-1])
    y, x = (np.arange(n) - n // 2 for n in values.shape[-2:])
    radius = np.hypot(y[:, None], x).reshape(-1, 1)
    # Two values a pixel, those between pixels are free; what is read are the pixels' own.
    table = lookup(2 * radius, np.ones(1), int(2 * radius.max()) + 4).toarray()
    profile = np.linalg.lstsq(table, planes.T, rcond=1e-9)[0]
    return (table @ profile).T.reshape(values.shape)


def _stands_out(values: Array, noise: Array) -> NDArray[np.bool_]:
    """Find where smoothed values exceed three times their noise."""
    least = 3 * noise * _smooth_noise(values.ndim, 1.5)
    return np.asarray(ndimage.gaussian_filter(values, 1.5) > least)
