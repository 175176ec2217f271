"""Checks of what the user gives, and the way between the user's units and those of the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .errors import DmspError

METHODS = {"annealed": 24, "sgd": 300}
MIN_SIDE = 8


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
    ) -> Units:
        """Take the full range of 8-bit images, and the 0.1 to 99.9 percentiles of others.

        An 8-bit image that leaves the upper half of its range empty is not a photograph's.
        """
        eight_bit = dtype == np.uint8 and values.max() > 127
        low, high = (0, 255) if eight_bit else np.percentile(values, [0.1, 99.9])
        if background is not None:
            low = background
        if not high > low:
            low, high = (values.min() if background is None else low), values.max()
        if not high > low:
            raise DmspError(f"background={background} is above the image, which ends at {high:g}.")
        bounds = (-low / (high - low), 1.0) if eight_bit else None
        return cls(float(low), float(high - low), bounds, axis, planes)

    def to_tensor(self, values: NDArray[np.float64]) -> Tensor:
        """(C, H, W) to (1, C, H, W), or (C, 1, H, W) for a prior of one channel."""
        tensor = torch.from_numpy(((values - self.low) / self.scale).astype(np.float32))
        return tensor[:, None] if self.planes else tensor[None]

    def to_array(self, x: Tensor) -> NDArray[np.float32]:
        """Undo `to_tensor`, in the input's layout."""
        values = x.detach().cpu().numpy().astype(np.float64)
        values = (values[:, 0] if self.planes else values[0]) * self.scale + self.low
        array = values[0] if self.axis is None else np.moveaxis(values, 0, self.axis)
        return np.ascontiguousarray(array, dtype=np.float32)


def check_image(image: ArrayLike, channel_axis: int | None) -> NDArray[np.float64]:
    """Return the image as (C, H, W) float64."""
    array = np.asarray(image)
    if array.size == 0:
        raise DmspError(f"the image is empty, its shape is {array.shape}.")
    if array.dtype.kind not in "buif":
        raise DmspError(f"image dtype {array.dtype} is not a real number; convert it first.")
    expected = 2 if channel_axis is None else 3
    if array.ndim != expected:
        hint = "; give channel_axis=-1 for colour" if array.ndim == 3 else ""
        raise DmspError(
            f"image shape {array.shape} has {array.ndim} axes, expected {expected}{hint}."
        )
    if channel_axis is not None:
        if not -3 <= channel_axis < 3:
            raise DmspError(f"channel_axis={channel_axis} is not an axis of shape {array.shape}.")
        array = np.moveaxis(array, channel_axis, 0)
        if array.shape[0] not in (1, 3):
            raise DmspError(
                f"the image has {array.shape[0]} channels along axis {channel_axis}; 1 or 3 can be "
                "restored together: drop an alpha channel, and restore other channels one by one."
            )
    else:
        array = array[None]
    if min(array.shape[1:]) < MIN_SIDE:
        raise DmspError(
            f"the image is {array.shape[1]} x {array.shape[2]} pixels; at least "
            f"{MIN_SIDE} x {MIN_SIDE} are needed."
        )
    values = array.astype(np.float64)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise DmspError(f"the image has {bad} NaN or infinite pixels; replace them first.")
    if values.min() == values.max():
        raise DmspError(f"the image is constant ({values.min():g}): there is nothing to restore.")
    return values


def check_psf(psf: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the PSF as float32 with sum 1."""
    kernel = np.asarray(psf)
    if kernel.ndim != 2 or kernel.size == 0 or kernel.dtype.kind not in "buif":
        raise DmspError(
            f"psf has shape {kernel.shape} and dtype {kernel.dtype}; expected 2-D real numbers."
        )
    kernel = kernel.astype(np.float64)
    if kernel.shape[0] > shape[0] or kernel.shape[1] > shape[1]:
        raise DmspError(
            f"psf of {kernel.shape[0]} x {kernel.shape[1]} pixels is larger than the image of "
            f"{shape[0]} x {shape[1]}; crop the psf or use a larger image."
        )
    if not np.isfinite(kernel).all():
        raise DmspError("the psf has NaN or infinite values; replace them first.")
    if not kernel.sum() > 0:
        raise DmspError(f"the psf sums to {kernel.sum():g}; its sum must be positive.")
    return (kernel / kernel.sum()).astype(np.float32)


def check_options(
    method: str,
    iterations: int | None,
    noise_sigma: float | None,
    background: float | None,
    seed: int,
) -> None:
    """Check the options that all tasks share."""
    if method not in METHODS:
        raise DmspError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}.")
    if iterations is not None and (iterations < 1 or int(iterations) != iterations):
        raise DmspError(f"iterations={iterations} must be a whole number, at least 1.")
    if not -(2**63) <= seed < 2**63:
        raise DmspError(f"seed={seed} must fit into 64 bits.")
    if noise_sigma is not None and not 0 <= noise_sigma < np.inf:
        raise DmspError(f"noise_sigma={noise_sigma} must be zero or positive; None estimates it.")
    if background is not None and not np.isfinite(background):
        raise DmspError(f"background={background} must be a finite number.")
