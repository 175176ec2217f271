"""The public functions: arrays in, a `Restoration` out.

`prepare_deblur` checks everything and returns a `Job`, whose `states` is the iterator that
scripts, the command line and the viewer share. `deblur` drains it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from .inputs import METHODS, Units, check_image, check_options, check_psf
from .operators import Blur, Operator, Resize
from .prior import Denoiser, Prior, load_prior
from .solvers import DAE_SIGMA, State, iterate_annealed, iterate_sgd

MAX_SCALE = 8


@dataclass(frozen=True)
class Restoration:
    """A restored image and how it came about.

    Attributes
    ----------
    image : ndarray
        In the intensity units of the input, float32.
    psf : ndarray or None
        The point spread function used, normalised to sum 1; None where there is none.
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
    _units: Units = field(repr=False)
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
        with _explain_failures(settings["device"], self._observed.shape[-2:]):
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
        the 0.1 percentile for others, dim 8-bit images among them.
    seed : int
        Seed of what is drawn: flips of the image and, for "sgd", injected noise.
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


def superres(
    image: ArrayLike,
    scale: float,
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
    """Raise the resolution of an image; the noise level may be unknown.

    Parameters
    ----------
    image : array_like
        (H, W), or colour with three channels along ``channel_axis``; any real dtype.
    scale : float
        Factor above 1 and up to 8, not necessarily an integer.
    noise_sigma, channel_axis, prior, method, iterations, background, seed, device, callback
        As for `deblur`.

    Returns
    -------
    Restoration
        ``image`` is (round(H * scale), round(W * scale)), in the units of the input, float32. Both
        grids share their outer edges: row ``i`` of the H' rows of the result lies at
        ``(i + 0.5) * H / H' - 0.5`` of the input.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.

    Notes
    -----
    The image is taken for an antialiased bicubic reduction of the result, see
    `napari_dmsp.core.operators.Resize`.

    References
    ----------
    .. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
       NIPS 2017, arXiv:1709.03749.
    """
    job = prepare_superres(
        image,
        scale,
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
    values = check_image(image, channel_axis)
    shape = values.shape[1], values.shape[2]
    kernel = check_psf(psf, shape)
    check_options(method, iterations, noise_sigma, background, seed)
    target = pick_device(device)
    model = _pick_prior(prior, values.shape[0], method)
    units = Units.of(np.asarray(image).dtype, values, channel_axis, background, model.channels == 1)
    settings = {
        "task": "deblur",
        "psf_shape": kernel.shape,
        "channel_axis": channel_axis,
        "noise_sigma": noise_sigma,
        "method": method,
        "iterations": iterations or METHODS[method],
        "background": units.low,
        "seed": seed,
    }
    with _explain_failures(str(target), shape):
        operator = Blur(torch.from_numpy(kernel).to(target), shape)
        observed = units.to_tensor(values).to(target)
        return _make_job(settings, observed, operator, model.to(target), units, kernel)


def prepare_superres(
    image: ArrayLike,
    scale: float,
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
    """Check the input of `superres`, with the same parameters, and return the job to run."""
    if not 1 < scale <= MAX_SCALE:
        raise DmspError(f"scale={scale} must be above 1 and at most {MAX_SCALE}.")
    values = check_image(image, channel_axis)
    check_options(method, iterations, noise_sigma, background, seed)
    target = pick_device(device)
    model = _pick_prior(prior, values.shape[0], method)
    units = Units.of(np.asarray(image).dtype, values, channel_axis, background, model.channels == 1)
    small = values.shape[1], values.shape[2]
    large = round(small[0] * scale), round(small[1] * scale)
    settings = {
        "task": "superres",
        "scale": scale,
        "channel_axis": channel_axis,
        "noise_sigma": noise_sigma,
        "method": method,
        "iterations": iterations or METHODS[method],
        "background": units.low,
        "seed": seed,
    }
    with _explain_failures(str(target), large):
        operator = Resize(large, small, target)
        observed = units.to_tensor(values).to(target)
        return _make_job(settings, observed, operator, model.to(target), units, None)


def _make_job(
    settings: dict[str, Any],
    observed: Tensor,
    operator: Operator,
    model: Prior,
    units: Units,
    psf: NDArray[np.float32] | None,
) -> Job:
    origin = {
        "prior": model.name,
        "prior_sha256": model.sha256,
        "device": str(observed.device),
        "version": version("napari-dmsp"),
    }
    return Job(settings["iterations"], settings | origin, observed, operator, model, units, psf)


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


@contextmanager
def _explain_failures(device: str, shape: Sequence[int]) -> Iterator[None]:
    """Turn what the machine cannot do into a `DmspError` with a remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise DmspError(f"the restoration failed on {device}: {error}") from error
        raise DmspError(
            f"out of memory on {device} for an image of {shape[0]} x {shape[1]} pixels; "
            "restore a smaller region, or choose another device."
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "not enough memory" in str(error) or "can't allocate memory" in str(error)
    )
