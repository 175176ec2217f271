"""The public functions: arrays in, a `Restoration` out.

`prepare_deblur` checks everything and returns a `Job`, whose `states` is the iterator that
scripts, the command line and the viewer share. `deblur` drains it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .device import pick_device
from .errors import DmspError
from .operators import Blur, Operator
from .prior import Denoiser, Prior, load_prior
from .solvers import DAE_SIGMA, State, iterate_annealed, iterate_sgd

METHODS = {"annealed": 24, "sgd": 300}
MIN_SIDE = 8


@dataclass(frozen=True)
class Restoration:
    """A restored image and how it came about.

    Attributes
    ----------
    image : ndarray
        Same shape and intensity units as the input, float32.
    psf : ndarray or None
        The point spread function used, normalised to sum 1.
    noise_sigma : float
        Noise level in the image's units, given or estimated.
    evaluations : int
        Evaluations of the denoiser.
    seconds : float
        Wall-clock time.
    settings : dict
        Everything needed to repeat the run.
    """

    image: NDArray[np.float32]
    psf: NDArray[np.float32] | None
    noise_sigma: float
    evaluations: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        values = asdict(replace(self, image=np.empty(0, np.float32), psf=None))
        return {k: v for k, v in values.items() if k not in ("image", "psf")}


@dataclass(frozen=True, eq=False)
class Job:
    """A checked restoration, ready to run; made by `prepare_deblur`.

    Attributes
    ----------
    total : int
        Evaluations of the denoiser that a full run takes.
    settings : dict
        Everything needed to repeat the run.
    """

    total: int
    settings: dict[str, Any]
    _observed: Tensor = field(repr=False)
    _operator: Operator = field(repr=False)
    _prior: Prior = field(repr=False)
    _units: _Units = field(repr=False)
    _psf: NDArray[np.float32] | None = field(repr=False)

    def states(self) -> Iterator[State]:
        """Run, one state per evaluation; close the iterator at any time to stop.

        Raises
        ------
        DmspError
            When memory runs out.
        """
        settings, units = self.settings, self._units
        sigma = settings["noise_sigma"]
        common: dict[str, Any] = {
            "noise_sigma": None if sigma is None else sigma / units.scale,
            "iterations": self.total,
            "generator": torch.Generator().manual_seed(settings["seed"]),
        }
        try:
            if settings["method"] == "sgd":
                level = self._prior.noise_sigma or DAE_SIGMA
                steps = iterate_sgd(
                    self._observed,
                    self._operator,
                    self._prior,
                    dae_sigma=level,
                    bounds=units.bounds,
                    **common,
                )
            else:
                steps = iterate_annealed(self._observed, self._operator, self._prior, **common)
            for state in steps:
                yield replace(
                    state,
                    noise_sigma=state.noise_sigma * units.scale,
                    residual=state.residual * units.scale,
                    to_array=units.to_array,
                )
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise DmspError(
                    f"the restoration failed on {settings['device']}: {error}"
                ) from error
            height, width = self._observed.shape[-2:]
            raise DmspError(
                f"out of memory on {settings['device']} for an image of {height} x {width} pixels; "
                "restore a smaller region, or choose another device."
            ) from error

    def result(self, state: State, seconds: float) -> Restoration:
        """Make the result of the run's last, or latest, state."""
        return Restoration(
            image=state.array(),
            psf=self._psf,
            noise_sigma=state.noise_sigma,
            evaluations=state.evaluation,
            seconds=seconds,
            settings=self.settings,
        )


def deblur(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    noise_sigma: float | None = None,
    channel_axis: int | None = None,
    prior: str | Path | Denoiser | Prior | None = None,
    method: str = "annealed",
    iterations: int | None = None,
    background: float | None = None,
    seed: int = 0,
    device: str = "auto",
    callback: Callable[[State], bool | None] | None = None,
) -> Restoration:
    """Deblur an image with a known point spread function; the noise level may be unknown.

    Parameters
    ----------
    image : array_like
        (H, W), or colour with three channels along ``channel_axis``; any real dtype.
    psf : array_like
        Point spread function (kh, kw) of any size up to the image's, in the orientation of
        ``scipy.signal.convolve2d``; normalised to sum 1.
    noise_sigma : float, optional
        Standard deviation of the noise in the image's units. None estimates it.
    channel_axis : int, optional
        Axis of the colour channels; None for a grey image.
    prior : str, path or callable, optional
        See `load_prior`. By default "rgb" for colour and "gray" for grey images.
    method : {"annealed", "sgd"}
        The fast solver, or the paper's own descent.
    iterations : int, optional
        Evaluations of the denoiser; by default 24, or 300 for "sgd".
    background : float, optional
        Intensity of black: subtracted first, added at the end. By default 0 for 8-bit images and
        the 0.1 percentile for others.
    seed : int
        Seed of the injected noise.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    callback : callable, optional
        Called with every `State`; returns True to stop and keep the estimate.

    Returns
    -------
    Restoration
        ``image`` has the shape and the units of the input, float32.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.

    References
    ----------
    .. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
       NIPS 2017, arXiv:1709.03749.

    Examples
    --------
    >>> from napari_dmsp import deblur
    >>> result = deblur(photo, psf, channel_axis=-1)  # doctest: +SKIP
    >>> result.image.shape == photo.shape  # doctest: +SKIP
    True
    """
    job = prepare_deblur(
        image,
        psf,
        noise_sigma=noise_sigma,
        channel_axis=channel_axis,
        prior=prior,
        method=method,
        iterations=iterations,
        background=background,
        seed=seed,
        device=device,
    )
    return run(job, callback)


def run(job: Job, callback: Callable[[State], bool | None] | None = None) -> Restoration:
    """Run a job to its end, or until ``callback`` returns True."""
    begin = time.perf_counter()
    for state in job.states():
        if callback is not None and callback(state):
            break
    return job.result(state, time.perf_counter() - begin)


def prepare_deblur(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    noise_sigma: float | None = None,
    channel_axis: int | None = None,
    prior: str | Path | Denoiser | Prior | None = None,
    method: str = "annealed",
    iterations: int | None = None,
    background: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Job:
    """Check the input of `deblur`, with the same parameters, and return the job to run."""
    if psf is None:
        raise DmspError("psf=None: give the point spread function as a 2-D array.")
    values, axis = _check_image(image, channel_axis)
    kernel = _check_psf(psf, values.shape[-2:])
    _check_options(method, iterations, noise_sigma, background)
    target = pick_device(device)
    model = _pick_prior(prior, values.shape[0], method).to(target)
    units = _Units.of(np.asarray(image), values, axis, background, planes=model.channels == 1)
    return Job(
        total=iterations or METHODS[method],
        settings={
            "task": "deblur",
            "method": method,
            "iterations": iterations or METHODS[method],
            "noise_sigma": noise_sigma,
            "background": units.low,
            "seed": seed,
            "prior": model.name,
            "prior_sha256": model.sha256,
            "device": str(target),
            "psf_shape": kernel.shape,
            "channel_axis": channel_axis,
            "version": version("napari-dmsp"),
        },
        _observed=units.to_tensor(values).to(target),
        _operator=Blur(torch.from_numpy(kernel).to(target), values.shape[-2:]),
        _prior=model,
        _units=units,
        _psf=kernel,
    )


@dataclass(frozen=True)
class _Units:
    """Between the user's array and the tensor (B, C, H, W) on the scale of the prior, and back."""

    low: float
    scale: float
    bounds: tuple[float, float] | None
    axis: int | None
    planes: bool

    @classmethod
    def of(
        cls,
        image: NDArray[Any],
        values: NDArray[np.float64],
        axis: int | None,
        background: float | None,
        planes: bool,
    ) -> _Units:
        if image.dtype == np.uint8:
            low, high, bounds = background or 0.0, 255.0, (0.0, 1.0)
            return cls(low, high - low, bounds, axis, planes)
        low, high = np.percentile(values, [0.1, 99.9])
        if not high > low:
            low, high = values.min(), values.max()
        if background is not None:
            low = background
        if not high > low:
            raise DmspError(f"background={background} is above the image, which ends at {high:g}.")
        return cls(float(low), float(high - low), None, axis, planes)

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


def _check_image(
    image: ArrayLike, channel_axis: int | None
) -> tuple[NDArray[np.float64], int | None]:
    """Return the image as (C, H, W) float64, and its checked channel axis."""
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
    return values, channel_axis


def _check_psf(psf: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
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


def _check_options(
    method: str, iterations: int | None, noise_sigma: float | None, background: float | None
) -> None:
    if method not in METHODS:
        raise DmspError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}.")
    if iterations is not None and iterations < 1:
        raise DmspError(f"iterations={iterations} must be at least 1.")
    if noise_sigma is not None and not 0 <= noise_sigma < np.inf:
        raise DmspError(f"noise_sigma={noise_sigma} must be zero or positive; None estimates it.")
    if background is not None and not np.isfinite(background):
        raise DmspError(f"background={background} must be a finite number.")


def _pick_prior(prior: str | Path | Denoiser | Prior | None, channels: int, method: str) -> Prior:
    model = load_prior(prior if prior is not None else ("rgb" if channels == 3 else "gray"))
    if model.channels == 3 and channels == 1:
        raise DmspError(f"prior={model.name!r} is for colour, the image is grey; use prior='gray'.")
    if model.noise_sigma is not None and method != "sgd":
        raise DmspError(
            f"prior={model.name!r} was trained for one noise level, {method!r} needs all; "
            "use method='sgd' or another prior."
        )
    return model


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "not enough memory" in str(error) or "can't allocate memory" in str(error)
    )
