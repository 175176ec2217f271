"""Checks of what callers give, and the way between their units and those of the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import DmspError
from ..priors import block_means, default_prior, is_fluorescence
from ..settings import AUTO_MASK, Photons, Settings
from ..windows import MIN_SIDE
from .device import explain_failures, is_out_of_memory, own_state, pick_device
from .noise import ShotLine
from .operators import fill_gaps
from .prior import Prior, load_prior
from .psf import align_psf, clean_psf
from .tiling import pick_tile

# Rec. 601, what "grey" means in the published benchmarks.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Units:
    """Between the user's array and the tensor (B, C, H, W) on the scale of the prior, and back."""

    low: float
    scale: float
    bounds: tuple[float, float] | None
    axis: int | None
    planes: bool

    @classmethod
    def of(
        cls,
        dtype: np.dtype[Any],
        values: NDArray[np.float64],
        axis: int | None,
        background: float | None,
        planes: bool,
        white: float | None = None,
        fluorescence: bool = False,
    ) -> Units:
        """Take the full range of 8-bit images, and the 0.1 to 99.9 percentiles of others.

        An 8-bit image that leaves the upper half of its range empty is not a photograph's. The
        ground of fluorescence is black, its noise is not.
        """
        eight_bit = dtype == np.uint8 and values.max() > 127
        low, high = (0, 255) if eight_bit else np.percentile(values, [0.1, 99.9])
        if fluorescence and not eight_bit:
            low = np.percentile(block_means(values[0]), 0.1)
        low = low if background is None else background
        if white is not None:
            high = white
            if not low < white < np.inf:
                raise DmspError(f"white={white} must be above the black level of {low:g}.")
        if not high > low:
            low, high = (values.min() if background is None else low), values.max()
        if not high > low:
            raise DmspError(f"background={background} is above the image, which ends at {high:g}.")
        bounds = (-low / (high - low), (255 - low) / (high - low)) if eight_bit else None
        return cls(float(low), float(high - low), bounds, axis, planes)

    def to_tensor(self, values: NDArray[np.float64]) -> Tensor:
        """(C, H, W) to (1, C, H, W), or (C, 1, H, W) for a prior of one channel."""
        tensor = torch.from_numpy(((values - self.low) / self.scale).astype(np.float32))
        return tensor[:, None] if self.planes else tensor[None]

    @own_state()
    def to_array(self, x: Tensor) -> NDArray[np.float32]:
        """Undo `to_tensor`, in the input's layout."""
        values = x.detach().cpu().numpy().astype(np.float64)
        values = (values[:, 0] if self.planes else values[0]) * self.scale + self.low
        array = values[0] if self.axis is None else np.moveaxis(values, 0, self.axis)
        return np.ascontiguousarray(array, dtype=np.float32)

    def to_widths(self, x: Tensor) -> NDArray[np.float32]:
        """Do the same for differences, such as errors, which no black is added to."""
        return replace(self, low=0.0).to_array(x)


@dataclass(frozen=True)
class Reference:
    """What an image says that its parts must share, so that they can be restored one by one."""

    # Black and the range.
    units: Units
    # Whether it looks like fluorescence, see `is_fluorescence`.
    fluorescence: bool = False
    # How its noise grows with light.
    shot: ShotLine | None = None
    # Gains of red, green and blue, and the slope of the curve, of a linear mosaic.
    encoding: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Input:
    """What the user gave, checked and on the scale of the prior."""

    # The image (B, C, H, W), gaps filled.
    observed: Tensor
    # 1 where there is a sample, 0 in gaps; of the shape of ``observed``. None without gaps.
    kept: Tensor | None
    units: Units
    model: Prior
    options: Settings
    # What the image must share with others, if it is a part of something.
    reference: Reference | None = None
    # Greatest side of what the denoiser takes at once.
    tile: int | None = None
    # Whether the image looks like fluorescence, see `is_fluorescence`.
    fluorescence: bool = False
    # Sentences for the user: what is doubtful, and what was done about it.
    warnings: list[str] = field(default_factory=list)

    @property
    def samples(self) -> Tensor:
        """The observation with zeros in its gaps, as operators give it."""
        return self.observed if self.kept is None else self.kept * self.observed

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width, or depth, height and width."""
        return tuple(self.observed.shape[2:])

    @property
    def literal(self) -> bool:
        """Whether the user wants the published descent."""
        return self.options.method == "sgd"

    @property
    def noise(self) -> float | ShotLine | None:
        """The noise on the scale of the prior, if given."""
        noise = self.options.noise
        if isinstance(noise, Photons):
            return ShotLine.of(noise, self.units.low, self.units.scale)
        return None if noise is None else noise / self.units.scale

    @property
    def least(self) -> float:
        """Least value of what is not negative in the user's units, on the scale of the prior."""
        given = self.options.background
        return ((0.0 if given is None else given) - self.units.low) / self.units.scale

    def divided(self, factor: float) -> Input:
        """Return the same on a scale where the range is ``factor`` times as large."""
        units = replace(self.units, scale=self.units.scale * factor)
        return replace(self, observed=self.observed / factor, units=units)


def read_input(
    image: ArrayLike,
    options: Settings | Mapping[str, Any],
    reference: Reference | None = None,
    white: float | None = None,
    outliers: NDArray[np.bool_] | None = None,
) -> Input:
    """Check an image, and the options that all tasks share.

    Parameters
    ----------
    image : array_like
        (H, W), or (H, W, C) with colours along the channel axis of the options; a volume is
        (Z, Y, X).
    options : Settings or dict
        Those of a task, or some of the shared ones by name. Where the task makes colours, the image
        is a mosaic; where its space has three axes, a volume.
    reference : Reference, optional
        What the image shares with others of which it is a part.
    white : float, optional
        Intensity of white.
    outliers : ndarray of bool, optional
        (C, H, W), True for pixels that are gaps as well.
    """
    options = options if isinstance(options, Settings) else Settings.of(**options)
    axis, mosaic, space = options.channel_axis, options.makes_colour, options.space
    image = take_array(image, "image")
    mask = check_mask(options.mask, image, axis, space)
    if outliers is not None:
        mask = outliers if mask is None else mask | outliers
    values = check_image(image, axis, mask, constant=reference is not None, space=space)
    target = pick_device(options.device)
    if reference is not None:
        fluorescence = reference.fluorescence
    else:
        fluorescence = not mosaic and is_fluorescence(values)
    model = _pick_prior(options, 3 if mosaic else len(values), fluorescence)
    if mosaic and model.channels == 1:
        raise DmspError(f"prior={model.name!r} is for grey images; a mosaic needs one for colour.")
    tile = pick_tile(options.tile, model.denoiser, target)
    if reference is not None:
        units = reference.units
    else:
        axis, black, planes = -1 if mosaic else axis, options.background, model.channels == 1
        dark = fluorescence or space == 3
        units = Units.of(image.dtype, values, axis, black, planes, white, dark)
        _check_levels(values, units)
    warnings = _check_precision(values, units)
    _check_noise(options.noise, units)
    with explain_failures(target, values.shape[1:]):
        observed = units.to_tensor(values).to(target)
        kept = None
        if mask is not None:
            plane = torch.from_numpy(~mask).to(observed)
            kept = plane[:, None] if units.planes else plane[None]
        model = model.to(target).tiled(tile)
        return Input(observed, kept, units, model, options, reference, tile, fluorescence, warnings)


def _pick_prior(options: Settings, channels: int, fluorescence: bool) -> Prior:
    """Load the prior for an image of so many channels, or raise a `DmspError`."""
    prior, method = options.prior, options.method
    model = load_prior(default_prior(channels, fluorescence) if prior is None else prior)
    if model.channels == 3 and channels == 1:
        raise DmspError(f"prior={model.name!r} is for colour, the image is grey; use prior='gray'.")
    if model.noise_sigma is not None and method != "sgd":
        raise DmspError(
            f"prior={model.name!r} was trained for one noise level, {method!r} needs all; "
            "use method='sgd' or another prior."
        )
    return model


def take_array(values: Any, name: str) -> NDArray[Any]:
    """Return what a caller gave as an array of NumPy; a masked array where it carries a mask.

    Taken are nested lists, arrays of any library that gives them to NumPy, tensors of torch on any
    device, lazy arrays of dask, and quantities, whose magnitudes count. The array is in native byte
    order; tensors of bfloat16 and the like become float32, objects that are numbers float64. Errors
    call it by its name.
    """
    if type(values) is np.ndarray and values.dtype.kind in "buif" and values.dtype.isnative:
        return values
    if hasattr(type(values), "magnitude"):
        values = values.magnitude
    if hasattr(values, "__dask_graph__"):
        values = values.compute()
    # A property of the class: those of single objects may mean anything.
    mask = getattr(values, "mask", None) if hasattr(type(values), "mask") else None
    try:
        if isinstance(values, Tensor):
            values = _tensor_to_numpy(values)
        array = np.ma.getdata(values) if isinstance(values, np.ma.MaskedArray) else values
        array = np.asarray(array)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise DmspError(
            f"{name} of type {type(values).__name__} is not an array of numbers ({error}); "
            "convert it with numpy.asarray first."
        ) from error
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if mask is None or mask is np.ma.nomask or callable(mask):
        return array
    return np.ma.MaskedArray(array, np.asarray(mask, bool))


def _tensor_to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Copy a tensor of any layout, on any device, that may be a part of a graph."""
    with torch.no_grad():
        plain = tensor.detach().cpu()
        plain = plain.dequantize() if plain.is_quantized else plain
        plain = (plain if plain.layout == torch.strided else plain.to_dense()).resolve_conj()
        known = plain.dtype in (torch.float16, torch.float32, torch.float64)
        plain = plain if known or not plain.is_floating_point() else plain.float()
        return plain.resolve_neg().numpy()


# How many times the range of an image noise may be: more is a mistake of units.
MOST_NOISE = 1000
# The same of black and white: float32 holds the image between them no more.
MOST_RANGE = 100_000

# Values of a point spread function beyond this, or below one part of it, are scaled first.
PSF_UNIT = 1e100

# What counts as a plateau at the maximum of an image: the least pixels, the part of the range
# below it that holds fewer, and the least number of different intensities.
PLATEAU, NEAR, LEVELS = 4, 0.02, 32


def bad_pixels(image: ArrayLike) -> NDArray[np.bool_]:
    """Find NaN, infinite and saturated pixels; what a masked array masks is bad, too.

    Integers are saturated at the greatest value of their type. Sensors may clip below, at 4095 of
    16 bits: the maximum of an image is saturated where a plateau of pixels has it, at least 4, more
    than all that come within 2 % of the range below it; if there are 32 different intensities.
    Black pixels, though clipped as well, are nearly right.
    """
    given = take_array(image, "image")
    values = np.ma.getdata(given)
    if values.dtype.kind not in "buif":
        raise DmspError(f"image dtype {values.dtype} is not a real number; convert it first.")
    bad = ~np.isfinite(values) | np.ma.getmaskarray(given)
    return bad | saturated_pixels(values, bad)


def saturated_pixels(values: NDArray[Any], bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the pixels of an array that are saturated, see `bad_pixels`, among those not bad."""
    good, none = values[~bad], np.zeros(values.shape, bool)
    if not good.size or values.dtype.kind == "b":
        return none
    top, low = good.max(), good.min()
    full = values.dtype.kind in "iu" and top == np.iinfo(values.dtype).max
    near = good > float(top) - NEAR * (float(top) - float(low))
    count = int((good == top).sum())
    plateau = count >= PLATEAU and count > int(near.sum()) - count
    return values == top if full or (plateau and np.unique(good).size >= LEVELS) else none


def check_mask(
    mask: ArrayLike | str | None, image: ArrayLike, channel_axis: int | None, space: int = 2
) -> NDArray[np.bool_] | None:
    """Return the mask as (C, *space), True in gaps; None without gaps.

    Those that a masked array brings along are gaps, too; "auto" stands for `bad_pixels`.
    """
    image = take_array(image, "image")
    gaps = None
    if isinstance(mask, str):
        if mask != AUTO_MASK:
            raise DmspError(f"mask={mask!r} is unknown; give an array, or 'auto'.")
        gaps = _move_channels(bad_pixels(image), channel_axis, space)
    elif mask is not None:
        gaps = _read_mask(mask, image, channel_axis, space)
    if isinstance(image, np.ma.MaskedArray):
        hidden = _move_channels(np.ma.getmaskarray(image), channel_axis, space)
        gaps = hidden if gaps is None else gaps | hidden
    if gaps is None or not gaps.any():
        return None
    if gaps.all(axis=tuple(range(1, gaps.ndim))).any():
        raise DmspError("mask leaves no pixel of the image; True means missing.")
    return gaps


def _read_mask(
    mask: ArrayLike, image: NDArray[Any], channel_axis: int | None, space: int
) -> NDArray[np.bool_]:
    """Return a mask that is given as an array, of the image or of a plane of it, as (C, *space)."""
    given = take_array(mask, "mask")
    # What is masked in a mask is not known to be good.
    marks = np.ma.getdata(given)
    if marks.dtype.kind not in "buif" or not np.isin(marks, (0, 1)).all():
        held = np.unique(marks)[:3].tolist() if marks.dtype.kind in "buif" else marks.dtype
        raise DmspError(
            f"mask must be boolean, True or 1 where a pixel is missing; it holds {held}. Give "
            "mask != 0 if other numbers mark missing pixels, mask == 0 if they mark good ones."
        )
    gaps = marks.astype(bool) | np.ma.getmaskarray(given)
    if gaps.shape == image.shape and channel_axis is not None:
        return _move_channels(gaps, channel_axis, space)
    plane = list(image.shape)
    if channel_axis is not None and -len(plane) <= channel_axis < len(plane):
        del plane[channel_axis]
    if space == 3 and gaps.shape == tuple(plane[1:]):
        gaps = np.broadcast_to(gaps, plane)
    if gaps.shape != tuple(plane):
        fitting = " or ".join(dict.fromkeys(map(str, (tuple(plane), image.shape))))
        raise DmspError(f"mask has shape {gaps.shape}; expected {fitting}.")
    channels = 1 if channel_axis is None else image.shape[channel_axis]
    return np.broadcast_to(gaps, (channels, *plane))


def _move_channels(array: NDArray[Any], channel_axis: int | None, space: int = 2) -> NDArray[Any]:
    """Return an image as (C, *space), or raise a `DmspError` for other shapes."""
    if array.size == 0:
        raise DmspError(f"the image is empty, its shape is {array.shape}.")
    if space == 3:
        return _check_volume(array, channel_axis)
    expected = 2 if channel_axis is None else 3
    if array.ndim != expected:
        hint = ""
        if channel_axis is None and array.ndim > 2:
            hint = "; give channel_axis=-1 for colour"
            hint += ", or a psf with three axes to restore a volume" * (array.shape[-1] > 4)
        raise DmspError(
            f"image shape {array.shape} has {array.ndim} axes, expected {expected}{hint}."
        )
    if channel_axis is None:
        return array[None]
    if not -3 <= channel_axis < 3:
        raise DmspError(f"channel_axis={channel_axis} is not an axis of shape {array.shape}.")
    array = np.moveaxis(array, channel_axis, 0)
    if array.shape[0] not in (1, 3):
        raise DmspError(
            f"the image has {array.shape[0]} channels along axis {channel_axis}; 1 or 3 can be "
            "restored together: drop an alpha channel, and restore other channels one by one."
        )
    return array


def _check_volume(array: NDArray[Any], channel_axis: int | None) -> NDArray[Any]:
    """Return (Z, Y, X) as (1, Z, Y, X), or raise a `DmspError` that says what to do."""
    if array.ndim == 2:
        raise DmspError(
            f"the psf has three axes, the image of shape {array.shape} is a plane; give the "
            "whole stack, or the focal plane only: focal_plane(psf), in the shell focal:FILE."
        )
    if array.ndim != 3 or channel_axis is not None:
        raise DmspError(
            f"image shape {array.shape} is not (Z, Y, X) as a psf with three axes needs it; "
            "restore channels and time points one by one."
        )
    return array[None]


def check_image(
    image: ArrayLike,
    channel_axis: int | None,
    mask: NDArray[np.bool_] | None = None,
    constant: bool = False,
    space: int = 2,
) -> NDArray[np.float64]:
    """Return the image as (C, *space) float64, with the gaps that the mask marks filled.

    ``constant`` says whether all pixels may be the same.
    """
    array = np.ma.getdata(take_array(image, "image"))
    if array.dtype.kind not in "buif":
        raise DmspError(f"image dtype {array.dtype} is not a real number; convert it first.")
    array = _move_channels(array, channel_axis, space)
    if min(array.shape[-2:]) < MIN_SIDE:
        raise DmspError(
            f"the image is {array.shape[-2]} x {array.shape[-1]} pixels; at least "
            f"{MIN_SIDE} x {MIN_SIDE} are needed."
        )
    with np.errstate(over="ignore"):
        values = array.astype(np.float64)
    if mask is not None:
        zeroed = torch.from_numpy(np.where(mask, 0, values))[None]
        values = fill_gaps(zeroed, torch.from_numpy(~mask)[None])[0].numpy()
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise DmspError(
            f"the image has {bad} NaN or infinite pixels; restore them too, with "
            "mask=~np.isfinite(image) or mask='auto', or replace them first."
        )
    low, high = float(values.min()), float(values.max())
    if not constant and low == high:
        raise DmspError(f"the image is constant ({low:g}): there is nothing to restore.")
    if max(-low, high) > float(np.finfo(np.float32).max):
        raise DmspError(
            f"the image's values, {low:g} to {high:g}, do not fit float32, the type of results; "
            "divide them by a power of ten."
        )
    return values


def _check_precision(values: NDArray[np.float64], units: Units) -> list[str]:
    """Make sure that float32, the type of results, can hold the image; warn if it rounds much."""
    greatest = float(np.abs(values).max())
    if units.scale < float(np.finfo(np.float32).tiny):
        raise DmspError(
            f"the image's values, with a range of {units.scale:g}, do not fit float32, the type of "
            "results; multiply them by a power of ten."
        )
    step = float(np.spacing(np.float32(greatest)))
    if step < units.scale / 1000:
        return []
    return [
        f"Results are float32: near {greatest:g} they are multiples of {step:g}, and the image's "
        f"range is {units.scale:g}. Subtract a constant from the image first."
    ]


def _check_levels(values: NDArray[np.float64], units: Units) -> None:
    """Make sure that black and white are in the units of the image."""
    low, high = float(values.min()), float(values.max())
    if units.scale > MOST_RANGE * (high - low):
        raise DmspError(
            f"background={units.low:g} and white={units.low + units.scale:g} are more than "
            f"{MOST_RANGE} times as far apart as the image's values, {low:g} to {high:g}; give "
            "them in the image's units, or leave them out."
        )


def _check_noise(noise: float | Photons | None, units: Units) -> None:
    """Make sure that noise is in the units of the image."""
    if noise is None:
        return
    if isinstance(noise, Photons):
        level = max(noise.gain, noise.read_noise, abs(noise.offset) / MOST_NOISE)
    else:
        level = noise
    if level > MOST_NOISE * units.scale:
        raise DmspError(
            f"noise={noise} is more than {MOST_NOISE} times the range of the image, "
            f"{units.scale:g}; give it in the image's units, or leave it out to estimate it."
        )


def check_psf(
    psf: ArrayLike,
    shape: tuple[int, ...],
    warnings: list[str] | None = None,
    scale: int | None = None,
) -> NDArray[np.float32]:
    """Return a PSF as the operators take it: float32, with sum 1 and its origin in the middle.

    It is (kh, kw) or (kd, kh, kw), see `clean_psf`, for a restored image of this shape, of which
    the centres of blocks of ``scale`` pixels may be seen, see `align_psf`; along the depth, it may
    be longer. What a masked array masks counts as 0. The warnings get sentences for the user.
    """
    given = take_array(psf, "psf")
    kernel = np.ma.getdata(given)
    if kernel.ndim != len(shape) or kernel.size == 0 or kernel.dtype.kind not in "buif":
        raise DmspError(
            f"psf has shape {kernel.shape} and dtype {kernel.dtype}; expected {len(shape)}-D real "
            "numbers."
        )
    kernel = np.where(np.ma.getmaskarray(given), 0, kernel).astype(np.float64)
    if len(shape) == 2 and (kernel.shape[0] > shape[0] or kernel.shape[1] > shape[1]):
        raise DmspError(
            f"psf of {kernel.shape[0]} x {kernel.shape[1]} pixels is larger than the image of "
            f"{shape[0]} x {shape[1]}; crop the psf or use a larger image."
        )
    if not np.isfinite(kernel).all():
        raise DmspError("the psf has NaN or infinite values; replace them first.")
    highest = float(np.abs(kernel).max())
    if highest > 0 and not 1 / PSF_UNIT < highest < PSF_UNIT:
        # Its unit does not matter, but squares of it must be floats.
        kernel = kernel / highest
    kernel, said = clean_psf(kernel, between=scale is not None)
    if warnings is not None:
        warnings += said
    if scale is not None:
        kernel = align_psf(kernel, scale)
    if not kernel.sum() > 0:
        raise DmspError(f"the psf sums to {kernel.sum():g}; its sum must be positive.")
    return (kernel / kernel.sum()).astype(np.float32)
