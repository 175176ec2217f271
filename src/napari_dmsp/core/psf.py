"""Point spread functions: of known shape, and the hygiene of measured and estimated ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform

from ..errors import DmspError
from ..settings import check_numbers

# A mistyped size must not fill the memory; no image that can be restored needs a wider kernel.
MAX_RADIUS = 500


def gaussian_psf(sigma: float | tuple[float, float]) -> NDArray[np.float32]:
    """Gaussian, cut off at four standard deviations.

    Parameters
    ----------
    sigma : float or (float, float)
        Standard deviation in pixels; along the rows' axis and the columns' axis, where they differ.

    Returns
    -------
    ndarray
        (2 r + 1, 2 s + 1), float32, with sum 1.
    """
    sizes = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    if len(sizes) != 2:
        raise DmspError(f"sigma={sigma} must be one number, or two: along rows and columns.")
    profiles = []
    for size in sizes:
        check_numbers(sigma=size)
        if not 0 < 4 * size <= MAX_RADIUS:
            raise DmspError(f"sigma={size:g} px must be above 0 and at most {MAX_RADIUS / 4:g}.")
        radius = math.ceil(4 * size)
        with np.errstate(over="ignore"):
            profiles.append(np.exp(-0.5 * (np.arange(-radius, radius + 1) / size) ** 2))
    psf = np.outer(*profiles)
    return (psf / psf.sum()).astype(np.float32)


def motion_psf(length: float, angle: float) -> NDArray[np.float32]:
    """Straight, uniform motion: an anti-aliased line through the centre.

    Parameters
    ----------
    length : float
        Length of the path in pixels.
    angle : float
        Direction in degrees, counter-clockwise from the x axis as the image is displayed.

    Returns
    -------
    ndarray
        (2 r + 1, 2 r + 1), float32, with sum 1.
    """
    check_numbers(length=length, angle=angle)
    if not 0 < length <= 2 * MAX_RADIUS:
        raise DmspError(f"length={length:g} px must be above 0 and at most {2 * MAX_RADIUS}.")
    if not math.isfinite(angle):
        raise DmspError(f"angle={angle} must be a finite number of degrees.")
    radius = math.ceil(length / 2)
    # Many points along the path.
    count = 16 * (radius + 1)
    steps = ((np.arange(count) + 0.5) / count - 0.5) * length
    theta = math.radians(angle)
    # Rows count downwards, angles upwards.
    return path_psf(-steps * math.sin(theta), steps * math.cos(theta), radius)


def path_psf(
    rows: NDArray[np.float64], columns: NDArray[np.float64], radius: int
) -> NDArray[np.float32]:
    """Draw points of a path, equally long at each, into a frame of ``2 radius + 1`` pixels a side.

    Coordinates are in pixels from the middle of the frame; every point is shared bilinearly among
    its four pixels. The sum is 1.
    """
    psf = np.zeros((2 * radius + 1, 2 * radius + 1))
    rows, columns = radius + rows, radius + columns
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = rows - top, columns - left
    for row, y in ((top, 1 - down), (top + 1, down)):
        for column, x in ((left, 1 - right), (left + 1, right)):
            # A point on the last pixel has no neighbour beyond it, and nothing to share with it.
            inside = (row <= 2 * radius) & (column <= 2 * radius)
            np.add.at(psf, (row[inside], column[inside]), (y * x)[inside])
    return (psf / psf.sum()).astype(np.float32)


def focal_plane(psf: ArrayLike) -> NDArray[Any]:
    """Return the plane of a PSF of three axes that has its highest value; one of two axes stays.

    Parameters
    ----------
    psf : array_like
        (kd, kh, kw) or (kh, kw), any real dtype.

    Returns
    -------
    ndarray
        (kh, kw), for restoring planes where only the PSF of volumes is known.
    """
    values = np.asarray(psf)
    if values.ndim < 3:
        return values
    return values[int(values.max((-2, -1)).argmax())]


def normalise_psf(psf: NDArray[np.floating[Any]], threshold: float = 0.0) -> NDArray[np.float64]:
    """Remove what a kernel cannot be, and scale it to sum 1.

    Values below the threshold, a part of the maximum, become zero; negative ones always do. Where
    nothing positive is left, a single central pixel is.
    """
    kept = np.where(psf >= threshold * psf.max(), psf, 0.0).clip(min=0.0)
    if not kept.sum() > 0:
        kept = np.zeros(psf.shape)
        kept[(psf.shape[0] - 1) // 2, (psf.shape[1] - 1) // 2] = 1.0
    return np.asarray(kept / kept.sum(), dtype=np.float64)


def centre_psf(psf: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Shift a non-negative kernel of odd sides until its centre of mass is nearest to the centre.

    It is shifted by whole pixels; what would leave the frame is cut off. The sum is 1.
    """
    height, width = psf.shape
    rows, columns = np.indices(psf.shape)
    down = round((height - 1) / 2 - float((rows * psf).sum() / psf.sum()))
    right = round((width - 1) / 2 - float((columns * psf).sum() / psf.sum()))
    shifted = np.zeros(psf.shape)
    target = shifted[max(down, 0) : height + down, max(right, 0) : width + right]
    target[:] = psf[max(-down, 0) : height - down, max(-right, 0) : width - right]
    return normalise_psf(shifted)


def crop_psf(psf: NDArray[np.floating[Any]], threshold: float = 0.0) -> NDArray[np.float64]:
    """Cut off the empty border, evenly, so that sides stay odd and the centre in place.

    Values up to the threshold, a part of the maximum, count as empty. The sum is 1.
    """
    rows, columns = np.nonzero(psf > threshold * psf.max())
    middle = (psf.shape[0] - 1) // 2, (psf.shape[1] - 1) // 2
    reach = [int(np.abs(i - m).max()) for i, m in zip((rows, columns), middle, strict=True)]
    window = tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))
    return normalise_psf(psf[window])


def resize_psf(psf: NDArray[np.floating[Any]], factor: float, size: int) -> NDArray[np.float64]:
    """Magnify a kernel about its centre, and fit it into a frame (size, size); sides are odd."""
    offset = [(n - 1) / 2 - (size - 1) / 2 / factor for n in psf.shape]
    large = affine_transform(
        psf.astype(np.float64), [1 / factor] * 2, offset, (size, size), order=3, mode="constant"
    )
    return normalise_psf(large)


# A background under a PSF, in parts: how much more the border may hold, which part of the peak's
# height half of the pixels stay below, and which part of the sum it must be.
FLAT, LOW, AT_STAKE = 0.5, 0.15, 0.01
# Values below this part of the greatest say nothing of where a PSF is: noise and halos.
FAINT = 0.05
# Part of the sum that the outermost pixels, or negative ones, hold at most without a warning; and
# the least side in pixels of a PSF whose border is looked at.
CUT_OFF, NEGATIVE, SMALL = 0.02, 0.01, 7


def clean_psf(
    psf: NDArray[np.float64], between: bool = False
) -> tuple[NDArray[np.float64], list[str]]:
    """Bring a PSF, as measured or computed by any program, into the form of this package.

    Parameters
    ----------
    psf : ndarray
        Any number of axes, finite, float64.
    between : bool
        Whether the origin of an axis of even length may lie between its two central pixels.

    Returns
    -------
    psf : ndarray
        One of odd sides that has neither a background nor its origin in a corner stays as
        it is. Its origin is pixel ``(n - 1) // 2`` of each axis of n pixels.
    warnings : list of str
        What was done, and what is doubtful, for the user.

    Notes
    -----
    - *Corner*: where the peak is the first pixel, the pixels to both sides of it are alike if the
      array is taken as periodic, and rolling it to the middle halves its variance, the origin
      was the first pixel, as Fourier transforms have it; the PSF is rolled.
    - *Background*: the median of the pixels at the corners, c, and that of those at the middles of
      the sides, e, tell a constant from a halo: one that falls like 1/r^2, or faster, has
      ``d c <= e`` in d dimensions. What is left, ``(d c - e) / (d - 1)``, is subtracted if it is
      more than half of e, half of the pixels are at most 15 % of the peak above it, and it holds
      more than 1 % of the sum. It is no more than the darkest twentieth of the pixels allow; in
      volumes, no more than that of the focal plane, too.
    - *Even sides*: the origin is one of the two central pixels, the first unless the centre of
      mass, or else the peak, is nearer to the other one, as that of ``fftshift`` is.
    - Negative values are kept: noise around zero has no bias that way, and lobes may be real.
    - Odd sides have one centre. A PSF whose mass is elsewhere moves the image; it may be motion.
    """
    said: list[str] = []
    if _is_wrapped(psf):
        psf = np.roll(psf, [(n - 1) // 2 for n in psf.shape], range(psf.ndim))
        said.append("The psf has its peak in the first pixel: its origin was moved to the middle.")
    background = _background(psf)
    if background:
        psf = psf - background
        said.append(f"A background of {background:.4g} was subtracted from the psf.")
    if not psf.sum() > 0:
        return psf, said
    cut = _is_cut_off(psf)
    psf, centred = _centre_even(psf, between)
    said += centred
    negative = -psf.clip(max=0).sum() / psf.sum()
    if negative > NEGATIVE and not background:
        said.append(
            f"The psf has negative values, {negative:.1%} of its sum. They are kept; if they are "
            "noise, give psf.clip(0)."
        )
    if cut:
        said.append(
            "The psf reaches the border of its frame: if it goes on there, a larger frame, or a "
            "background that is subtracted, restores better."
        )
    away = _centre_of_mass(psf) - [(n - 1) // 2 for n in psf.shape]
    # A peak between two pixels is not nearer to either of them.
    if (np.abs(away) > 0.5 + 0.01).any():
        where = ", ".join(f"{d:+.1f}" for d in away)
        said.append(
            f"The psf has its centre of mass ({where}) pixels from its origin: the result is "
            "shifted against the image. That is right for motion that begins at the origin."
        )
    return psf, said


def _is_wrapped(psf: NDArray[np.float64]) -> bool:
    """Whether the origin is the first pixel, and what lies before it is at the end of each axis."""
    axes = [axis for axis, n in enumerate(psf.shape) if n > 2]
    if not axes or psf.argmax() != 0:
        return False
    for axis in axes:
        line = np.moveaxis(psf, axis, 0).reshape(psf.shape[axis], -1)[:, 0]
        after, before = line[1], line[-1]
        if not 0 < max(after, before) <= 2 * min(after, before):
            return False
    rolled = np.roll(psf, [(n - 1) // 2 for n in psf.shape], range(psf.ndim))
    return _variance(rolled) < 0.5 * _variance(psf)


def _background(psf: NDArray[np.float64]) -> float:
    """Return the constant that a PSF stands on; 0 where there is none to speak of."""
    sides = [n for n in psf.shape if n > 1]
    if len(sides) < 2 or min(sides) < 9:
        return 0.0
    psf = psf.squeeze()
    # Of each axis: 1 at its ends, 0 in its middle third, and neither in between.
    place = []
    for n in sides:
        away = np.abs(np.arange(n) - (n - 1) / 2) / (n / 2)
        place.append(np.where(away >= 0.75, 1.0, np.where(away <= 1 / 3, 0.0, np.nan)))
    ends = sum(np.meshgrid(*place, indexing="ij"), np.zeros(psf.shape))
    corners, middles = psf[ends == len(sides)], psf[ends == 1]
    corner, middle, dimensions = np.median(corners), np.median(middles), len(sides)
    level = (dimensions * corner - middle) / (dimensions - 1)
    noise = 1.4826 * np.median(np.abs(corners - corner))
    level = min(level, np.percentile(psf, 5) + 1.645 * noise)
    height, typical = psf.max() - level, np.median(psf) - level
    if abs(middle - level) > FLAT * abs(middle) or not typical < LOW * height:
        return 0.0
    certain = abs(level) > 4 * noise / math.sqrt(corners.size)
    matters = abs(level) * psf.size > AT_STAKE * abs(psf.sum())
    if not (certain and matters):
        return 0.0
    if dimensions == 3:
        # Light out of focus is as even as a background; the plane in focus has none of it.
        focal = _background(psf[(sides[0] - 1) // 2])
        level = min(level, focal) if focal > 0 else 0.0
    return float(level)


def _centre_even(psf: NDArray[np.float64], between: bool) -> tuple[NDArray[np.float64], list[str]]:
    """Add an empty line to each axis of even length whose origin is not where it should be."""
    mass, peak = _centre_of_mass(psf), np.unravel_index(psf.argmax(), psf.shape)
    pads, moved, halfway = [], False, False
    for n, centre, top in zip(psf.shape, mass, peak, strict=True):
        middle = (n - 1) / 2
        # The mass decides if it is near, the peak if it is not.
        off = (centre if abs(centre - middle) < 1 else float(top)) - middle
        off = off if abs(off) < 1 else 0.0
        later = n % 2 == 0 and off > (0.25 if between else 0.1)
        earlier = n % 2 == 0 and between and off < -0.25
        pads.append((int(earlier), int(later)))
        moved |= later
        halfway |= n > 2 and n % 2 == 0 and not between and abs(centre - middle) <= 0.1
    said = []
    place = ", ".join(str((n - 1) // 2 + pad[1]) for n, pad in zip(psf.shape, pads, strict=True))
    if halfway:
        said.append(
            f"The psf of {' x '.join(map(str, psf.shape))} pixels has its middle between two "
            f"pixels: pixel ({place}), counted from 0, was taken for its origin, and the result "
            "lies half a pixel off; give a psf of odd sides."
        )
    elif moved:
        said.append(
            f"The psf of {' x '.join(map(str, psf.shape))} pixels has an even side: pixel "
            f"({place}), counted from 0, was taken for its origin, where its mass is."
        )
    return np.pad(psf, pads), said


def _is_cut_off(psf: NDArray[np.float64]) -> bool:
    """Whether a PSF that falls towards the border does not reach zero there.

    Lines, disks and squares may fill their frames: those touch it with few pixels, or do not fall.
    So do small ones that are typed by hand.
    """
    inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in psf.shape)
    ring = np.ones(psf.shape, bool)
    ring[inner] = False
    if max(psf.shape) < SMALL or not ring.any():
        return False
    border = psf[ring]
    return bool(
        border.sum() > CUT_OFF * psf.sum()
        and (border > 0.01 * psf.max()).mean() > 0.5
        and border.mean() < 0.75 * psf[inner].mean()
    )


def _centre_of_mass(psf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centre of what is not faint, in pixels from the first one."""
    weights = np.where(psf >= FAINT * psf.max(), psf, 0.0)
    return np.array([(grid * weights).sum() for grid in np.indices(psf.shape)]) / weights.sum()


def _variance(psf: NDArray[np.float64]) -> float:
    """Return the second moment about the centre of mass, in square pixels."""
    weights = np.where(psf >= FAINT * psf.max(), psf, 0.0)
    centre = _centre_of_mass(psf).reshape(-1, *[1] * psf.ndim)
    distances = np.square(np.indices(psf.shape) - centre).sum(0)
    return float((distances * weights).sum() / weights.sum())


def align_psf(psf: ArrayLike, scale: int) -> NDArray[np.float64]:
    """Move the centre of a PSF between pixels, or onto one, as blocks of ``scale`` pixels have it.

    Sides become even if the scale is even, and odd if it is odd. A shift by half a pixel is a cubic
    interpolation.
    """
    kernel = np.asarray(psf, dtype=np.float64)
    for axis in range(kernel.ndim):
        if (kernel.shape[axis] - scale) % 2:
            taps = np.array([-1, 9, 9, -1]) / 16
            kernel = np.apply_along_axis(np.convolve, axis, kernel, taps)
    return kernel
