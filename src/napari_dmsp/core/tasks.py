"""One function a task: from what the user gives to a `Problem`, and from that to a `Job`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..errors import DmspError
from ..search import search_work, with_extra
from ..settings import Deblur, Demosaic, Settings, Superres
from ..windows import CORE
from .blind import (
    BlindState,
    descend_blind,
    is_one_pixel,
    leaves_range,
    probe_sharpness,
    search_blind,
)
from .compression import compression_sigma
from .data import Gaussian, PoissonGaussian
from .device import explain_failures, own_state
from .inputs import (
    LUMA,
    Input,
    Reference,
    check_mask,
    check_psf,
    read_input,
    saturated_pixels,
    take_array,
)
from .job import Job, Problem, describe, evaluations, prepare
from .mosaic import Encoding, cfa_tile, cfa_weights
from .noise import (
    ShotLine,
    coarse_sigma,
    is_sharp,
    patch_bounds,
    patch_sigma,
    sharp_line,
    shot_line,
    smooth,
    wavelet_sigma,
)
from .operators import Convolution, Mosaic, Resize
from .outliers import find_hot_pixels, find_outliers
from .prior import load_prior
from .psf import crop_psf, focal_plane
from .raw import guess_linear, level_mosaic, read_mosaic
from .solvers import (
    BLURRED,
    CORRELATED,
    DAE_SIGMA,
    FLUORESCENCE,
    MOSAIC,
    RAW,
    SHARP,
    Schedule,
    State,
)
from .stripes import remove_stripes
from .volumes import HEADROOM, VOLUME, Slices, choose_operator, far_light, first_estimate

_S = TypeVar("_S", bound=State)

# Steps of the published descent where the PSF is unknown.
SGD_BLIND = 1000
# What is wrong with an estimated PSF acts like noise of this level, on the scale of the prior.
KERNEL_NOISE = 2 / 255
# Errors of compression are least where coefficients are fine: those that a fit amplifies are more.
MORE_COMPRESSION = 1.5
# Volumes have so many samples that a small growth of their noise with light is seen, and matters.
VOLUME_RATIO = 1.2
# Why an image is returned as it is.
SHARP_IMAGE = (
    "No blur wider than about 3 pixels was found: the image is returned as it is. If it is "
    "blurred, give psf_size=, and its PSF is looked for."
)
NOT_ONE = (
    "The blur is probably not one kernel: with the best that was found, the image left its range, "
    "so it is returned as it is. Give a part that is blurred evenly, the psf, or a psf_size= "
    "near the blur."
)
IN_DOUBT = (
    "The PSF that was found explains the image no better than none would: compare the result "
    "with the image before you use it. Give a part with more detail, the psf, or a psf_size= near "
    "the blur."
)
# What large volumes are restored with.
NEAR_ONLY = (
    f"The stack and its PSF are large: light from more than {CORE[0]} planes or {CORE[1]} pixels "
    "beyond the stack was estimated on a coarse grid only, which costs some accuracy at its ends."
)
# Values that are this near to integers were some, before they were scaled.
ROUNDED = 0.02


def prepare_task(settings: Settings, image: ArrayLike, **known: Any) -> Job:
    """Check an image and the settings of its restoration, and return the job to run.

    Parameters
    ----------
    settings : Settings
        The task and its options.
    image : array_like
        What is restored.
    **known : optional
        Replaces options; or ``reference``, what the image shares with others of which it is a part.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.
    """
    prepare: Callable[..., Job] = globals()[f"prepare_{settings.task}"]
    with explain_failures(settings.device, getattr(image, "shape", ())):
        return prepare(image, **(settings.arguments() | known))


@own_state()
def prepare_deblur(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    reference: Reference | None = None,
    **options: Any,
) -> Job:
    """Check the input of `deblur`, with the same parameters, and return the job to run."""
    task = Deblur.of(psf=psf, **options)
    given = read_input(image, task, reference)
    if psf is None:
        return _prepare_blind(given, image, task.psf_size)
    kernel = check_psf(psf, given.shape, given.warnings)
    if task.space == 3:
        return _prepare_volume(given, image, kernel)
    doubt, blur = _doubt(given), _convolution(given, kernel)
    if not given.literal:
        find = partial(find_outliers, psf=kernel, least=doubt)
        given = _without_outliers(given, image, find, "blur allows")
        given = _without_stripes(given, blur)
    problem = _blur_problem(given, blur, doubt, _saturated(given, image))
    return prepare({"task": "deblur", "psf_shape": kernel.shape}, given, problem)


@own_state()
def prepare_superres(
    image: ArrayLike,
    scale: float,
    *,
    psf: ArrayLike | None = None,
    reference: Reference | None = None,
    **options: Any,
) -> Job:
    """Check the input of `superres`, with the same parameters, and return the job to run."""
    given = read_input(image, Superres.of(scale=scale, psf=psf, **options), reference)
    doubt = _compression(given)
    if not given.literal:
        find = partial(find_hot_pixels, least=doubt)
        given = _without_outliers(given, image, find, "a lens makes points")
    large = round(given.shape[0] * scale), round(given.shape[1] * scale)
    settings = {"task": "superres", "scale": scale}
    if psf is None:
        operator = Resize(large, given.shape, given.observed.device)
        line = _line(given, sharp_line)
        problem = Problem.of(given, operator, line=line)
        return prepare(settings, given, replace(problem, doubt=doubt))
    kernel = check_psf(psf, large, given.warnings, int(scale))
    problem = replace(_sampled_problem(given, kernel, int(scale)), doubt=doubt)
    return prepare(settings | {"psf_shape": kernel.shape}, given, problem)


@own_state()
def prepare_demosaic(
    mosaic: ArrayLike,
    pattern: str | ArrayLike = "RGGB",
    *,
    reference: Reference | None = None,
    **options: Any,
) -> Job:
    """Check the input of `demosaic`, with the same parameters, and return the job to run."""
    task = Demosaic.of(pattern=pattern, **options)
    if task.channel_axis is not None:
        raise DmspError(f"channel_axis={task.channel_axis}: a mosaic has no channel axis.")
    raw, mask, linear = read_mosaic(mosaic), task.mask, task.linear
    levels = {"background": task.background, "white": task.white}
    if isinstance(mask, str):
        gaps = check_mask(mask, raw, None)
        mask = None if gaps is None else gaps[0]
    array, black, white = level_mosaic(raw, pattern, **levels)
    given = read_input(array, task.replace(mask=mask, background=black), reference, white)
    height, width = given.shape
    if not given.literal:
        find = partial(find_hot_pixels, period=cfa_tile(pattern).shape[1:])
        given = _without_outliers(given, array, find, "a lens makes points", white)
    filters = torch.from_numpy(cfa_weights(pattern, (height, width))).to(given.observed)
    plain = bool(((filters == 0) | (filters == 1)).all())
    if linear is None:
        linear = _guess_linear(given, raw, filters)
    encoding = _encoding(given, filters) if linear and plain else None
    problem = _mosaic_problem(given, filters, cfa_tile(pattern), encoding)
    if task.developed:
        # Under the curve they are what is to be looked at.
        problem = replace(problem, decode=partial(torch.clamp, min=0.0, max=1.0))
    name = pattern if isinstance(pattern, str) else np.asarray(pattern).tolist()
    white = given.units.low + given.units.scale
    settings = {"task": "demosaic", "pattern": name, "white": white, "linear": linear}
    settings["developed"] = task.developed
    # Levels of single filters, from which those for all were made.
    found = {k: np.ravel(take_array(v, k)) for k, v in levels.items() if v is not None}
    several = {f"{k}_levels": v.tolist() for k, v in found.items() if v.size > 1}
    return prepare(settings | several, given, problem)


def _without_outliers(
    given: Input,
    image: ArrayLike,
    find: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    sharper: str,
    white: float | None = None,
) -> Input:
    """Return the input with its hot and dead pixels masked, and warn of them."""
    planes = given.observed.cpu().double().numpy().reshape(-1, *given.shape)
    outliers = find(planes)
    if given.kept is not None:
        outliers &= given.kept.expand_as(given.observed).cpu().numpy().reshape(planes.shape) > 0
    count = int(outliers.sum())
    if not count:
        return given
    warnings = given.warnings
    given = read_input(image, given.options, given.reference, white, outliers)
    hot = "1 pixel was" if count == 1 else f"{count} pixels were"
    warnings.append(f"{hot} masked: hot or dead, since sharper than {sharper}.")
    return replace(given, warnings=list(dict.fromkeys(given.warnings + warnings)))


def _convolution(given: Input, kernel: NDArray[np.float32], stride: int = 1) -> Convolution:
    return Convolution(torch.from_numpy(kernel).to(given.observed), given.shape, stride)


def _without_stripes(given: Input, blur: Convolution) -> Input:
    """Return the input without noise that is the same along rows or columns, and warn of it."""
    if is_sharp(blur, given.observed):
        return given
    observed, *levels = remove_stripes(given.observed, blur.psf, given.kept)
    for name, level in zip(("rows", "columns"), levels, strict=True):
        if level:
            given.warnings.append(
                f"Noise of {level * given.units.scale:.3g} that is the same along {name} was "
                "subtracted."
            )
    return given if observed is given.observed else replace(given, observed=observed)


def _saturated(given: Input, image: ArrayLike) -> Tensor | None:
    """Return where samples (B, C, H, W) are saturated, so that light may be more; None without."""
    if given.literal:
        return None
    array = take_array(image, "image")
    clipped = saturated_pixels(np.ma.getdata(array), np.ma.getmaskarray(array))
    if not clipped.any():
        return None
    axis = given.options.channel_axis
    planes = clipped if axis is None else np.moveaxis(clipped, axis, 0)
    return torch.from_numpy(planes.copy()).to(given.observed).reshape(given.observed.shape)


def _doubt(given: Input) -> float:
    """Return the least noise level of a blurred image, by what is not white."""
    return max(_compression(given), _correlation(given))


def _compression(given: Input) -> float:
    """Return the error that compression made, on the scale of the prior, and warn of it."""
    if given.noise is not None or given.literal:
        return 0.0
    units = given.units
    values = given.observed.cpu().double().numpy() * units.scale + units.low
    step = 1 / 255 if values.max() <= 1 else 1.0
    values /= step
    whole = values.max() < 255.5 and np.abs(values - np.rint(values)).max() < ROUNDED
    if not whole or values.shape[1] not in (1, 3):
        return 0.0
    sigma = step * compression_sigma(_luminance(torch.from_numpy(values))[0, 0].numpy())
    if sigma:
        given.warnings.append(
            f"The image was compressed (JPEG): noise of at least {sigma:.2g} was assumed."
        )
    return MORE_COMPRESSION * sigma / units.scale


def _correlation(given: Input) -> float:
    """Return the level of noise that is not white where blur says nothing, and warn of it."""
    if given.noise is not None or given.literal or given.fluorescence:
        return 0.0
    level = coarse_sigma(given.observed)
    if level is None:
        return 0.0
    given.warnings.append(CORRELATED)
    return level


def _guess_linear(given: Input, raw: NDArray[Any], weights: Tensor) -> bool:
    """Guess whether a mosaic is linear, and warn where that is not sure; parts do as the whole."""
    if given.reference is not None:
        return given.reference.encoding is not None
    plane, shares = given.observed[0, 0].cpu().numpy(), weights.cpu().numpy()
    linear, sure = guess_linear(np.ma.getdata(raw), plane, shares, given.units.scale)
    if not sure:
        given.warnings.append(
            "The mosaic's values were taken for encoded, but look proportional to light; if they "
            "are, give linear=True."
        )
    return linear


def _mosaic_problem(
    given: Input, filters: Tensor, tile: NDArray[np.float32], encoding: Encoding | None
) -> Problem:
    """State the problem of a mosaic, with the noise of the values as encoded."""
    y, operator = given.observed, Mosaic(filters)
    kept = (filters.sum(0) > 0).to(y)[None, None]
    kept = kept if given.kept is None else kept * given.kept
    raw = encoding is not None
    line = _line(given, partial(sharp_line, period=tile.shape[1:], raw=raw), kept)
    curve: dict[str, Any] = {}
    if encoding is not None:
        y = encoding.encode(y, filters)
        red, green, blue = encoding.gains.flatten().tolist()
        curve = {"decode": encoding.decode, "slope": encoding.slope, "gains": (red, green, blue)}
    if line is None:
        data = Gaussian(operator=operator, y=y, weights=kept)
    else:
        variance: Callable[[Tensor], Tensor] = line.variance
        if encoding is not None:
            variance = partial(encoding.variance, variance, filters)
        light = operator.forward(smooth(operator.start(y, kept)))
        data = PoissonGaussian.of(operator, y, kept, variance, light, line.scale)
        line = replace(line, scale=data.sigma)

    def bounds() -> tuple[float, float]:
        weights = data.weights
        white = y if line is None or weights is None else y * weights.sqrt()
        sigma = patch_sigma(white, tile.sum(0) > 0, kept)
        # Raw frames have more noise than what detail adds to it, and are followed too readily.
        return (sigma, sigma) if raw else patch_bounds(sigma)

    return Problem(data, RAW if raw else MOSAIC, bounds, shot=line, **curve)


def _line(
    given: Input,
    estimate: Callable[[Tensor, Tensor | None], ShotLine | None],
    kept: Tensor | None = None,
) -> ShotLine | None:
    """Return how the noise grows with light: as the user says, as the whole image, or estimated."""
    if isinstance(given.noise, ShotLine):
        return given.noise
    if given.reference is not None:
        return given.reference.shot
    if given.noise is not None or given.literal:
        return None
    return estimate(given.observed, given.kept if kept is None else kept)


def _encoding(given: Input, filters: Tensor) -> Encoding:
    if given.reference is None or given.reference.encoding is None:
        return Encoding.of(given.observed, filters, given.kept)
    *gains, slope = given.reference.encoding
    return Encoding(given.observed.new_tensor(gains)[:, None, None], slope)


def _blur_problem(
    given: Input,
    blur: Convolution,
    doubt: float,
    clipped: Tensor | None,
    schedule: Schedule | None = None,
) -> Problem:
    """State the problem of a blur, with the least noise level and what is saturated."""
    # Blur along a line leaves detail in the finest differences of photographs.
    estimate: Callable[..., ShotLine | None] = sharp_line
    if given.fluorescence and not given.literal and not is_sharp(blur, given.observed):
        schedule, estimate = FLUORESCENCE, shot_line
    line = _line(given, estimate)
    problem = Problem.of(given, blur, schedule, line)
    data = problem.data if clipped is None else problem.data.saturated(clipped)
    return replace(problem, data=data, psf=blur.psf, doubt=doubt)


def _prepare_volume(given: Input, image: ArrayLike, kernel: NDArray[np.float32]) -> Job:
    """Prepare the restoration of a volume, on a scale that a first estimate of it gives."""
    if given.literal:
        raise DmspError("method='sgd' is for planes; use 'annealed' to restore a volume.")
    find = partial(_find_in_planes, psf=focal_plane(kernel))
    given = _without_outliers(given, image, find, "blur allows")
    psf = torch.from_numpy(kernel).to(given.observed)
    operator = choose_operator(psf, given.shape)
    line = _line(given, partial(shot_line, ratio=VOLUME_RATIO))
    seen = given.observed
    beyond = far_light(operator, psf, seen, given.kept, line)
    if beyond is not None:
        given.warnings.append(NEAR_ONLY)
        given = replace(given, observed=seen - beyond)
    start = first_estimate(operator, given.observed, given.kept, line, beyond)
    if line is None and given.noise is None and given.reference is None:
        light = operator.forward(start)
        line = _volume_line(seen, given.kept, light if beyond is None else light + beyond)
    if given.reference is None:
        range_ = HEADROOM * float(np.percentile(operator.crop(start).cpu().numpy(), 99.9))
        given, start = given.divided(range_), start / range_
        line = None if line is None else line.divided(range_)
        beyond = None if beyond is None else beyond / range_
    light = operator.forward(start)
    problem = Problem.of(given, operator, VOLUME, line, light, beyond)
    problem = replace(
        problem,
        noise_bounds=partial(_volume_noise, problem.data),
        psf=psf,
        view=Slices(operator),
        start=start,
        restart=partial(first_estimate, operator, kept=given.kept, line=line, beyond=beyond),
        least=given.least,
    )
    return prepare({"task": "deblur", "psf_shape": kernel.shape}, given, problem)


def _find_in_planes(volumes: NDArray[np.float64], psf: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find hot and dead pixels of (1, Z, Y, X): none is sharper than what is in focus."""
    return find_outliers(volumes[0], psf)[None]


def _volume_line(observed: Tensor, kept: Tensor | None, light: Tensor) -> ShotLine | None:
    """Return how the noise grows with light, by what an estimate of the light leaves.

    Of a sparse scene that is hardly blurred, the finest differences hold more than noise. Where
    the noise is strong, an estimate follows it, and leaves less than they show: None then.
    """
    line = shot_line(observed, kept, VOLUME_RATIO, light)
    if line is None:
        return None
    seen = wavelet_sigma(observed, kept)
    return line if float(line.variance(smooth(observed)).mean()) > seen**2 else None


def _volume_noise(data: Gaussian) -> tuple[float, float]:
    """Return the noise level twice: blur leaves nothing else in the finest wavelets."""
    if isinstance(data, PoissonGaussian):
        return data.scale, data.scale
    sigma = wavelet_sigma(data.y, data.weights)
    return sigma, sigma


def _sampled_problem(given: Input, kernel: NDArray[np.float32], scale: int) -> Problem:
    """State the problem of a blurred image sampled at the centres of blocks."""
    blur = _convolution(given, kernel, scale)
    problem = Problem.of(given, blur, SHARP, _line(given, sharp_line))
    return replace(problem, psf=blur.psf)


def _prepare_blind(given: Input, image: ArrayLike, psf_size: int | None) -> Job:
    """Prepare a search for the PSF in the luminance, and the restoration with what it finds."""
    schedule = FLUORESCENCE if given.fluorescence else BLURRED
    work, finish = search_work(given.shape, psf_size), evaluations(given, schedule)
    whole = with_extra(given.observed[:, 0].numel())
    if given.literal:
        # The published descent ends with both; only colours need a second one.
        work = int(given.options.iterations or SGD_BLIND) * [whole]
        finish = finish if given.observed.shape[1] == 3 else 0
    begin = len(work)
    done = np.cumsum(work + (1 + given.options.uncertainty) * finish * [whole])
    done, total = done / done[-1], len(done)
    grey, kept = _luminance(given.observed), given.kept
    clipped = _saturated(given, image)
    if clipped is not None:
        kept = 1 - clipped if kept is None else kept * (1 - clipped)
    if kept is not None:
        kept = kept.amin((0, 1), keepdim=True)
    doubt, model = _doubt(given), given.model
    if model.channels == 3:
        model = load_prior("gray").to(grey.device).tiled(given.tile)

    def counted(state: _S, before: int, spared: int = 0) -> _S:
        """Count the evaluations of a state among all, of which a search may spare some."""
        count = before + state.evaluation
        part = float(done[count + spared - 1])
        return replace(state, evaluation=count, total=total - spared, done=part)

    def shown(state: BlindState, before: int = 0) -> BlindState:
        """Give the luminance of a search back its colours."""
        return counted(replace(state, image=given.observed + (state.image - grey)), before)

    def steps(generator: torch.Generator) -> Iterator[State]:
        before = 0
        if psf_size is None and not given.literal:
            for state in probe_sharpness(grey, model, kept=kept, generator=generator):
                yield shown(state)
            if is_one_pixel(state.psf.cpu().numpy()):
                yield _unblurred(given, shown(state))
                return
            before = state.total
        if given.literal:
            level = model.noise_sigma or DAE_SIGMA
            found = descend_blind(
                grey, psf_size, model, iterations=begin, dae_sigma=level, generator=generator
            )
        else:
            found = search_blind(grey, psf_size, model, kept=kept, generator=generator)
        for state in found:
            yield shown(state, before)
        spared = state.total - state.evaluation
        if finish:
            kernel = crop_psf(state.psf.cpu().numpy()).astype(np.float32)
            doubts = max(KERNEL_NOISE, doubt)
            blur = _convolution(given, kernel)
            problem = _blur_problem(given, blur, doubts, clipped, BLURRED)
            # A PSF that leaves detail changes the schedule, but not what was planned.
            planned = replace(problem.schedule, iterations=finish)
            problem = replace(problem, schedule=planned, searched=True)
            for step in problem.states(given, generator):
                step = counted(step, begin - spared, spared)
                if step.evaluation == step.total and not given.fluorescence:
                    judged = psf_size is None
                    if judged and leaves_range(step.image, given.observed, clipped is None):
                        step = _as_it_is(given, step, NOT_ONE)
                    elif state.doubtful:
                        given.warnings.append(IN_DOUBT)
                yield step

    settings = {"task": "deblur", "psf_size": psf_size} | describe(given, finish or begin)
    return Job(total, settings, Reference(given.units, given.fluorescence), given, steps)


def _unblurred(given: Input, state: State) -> State:
    """Return the image as it is, since it is not blurred."""
    return replace(_as_it_is(given, state, SHARP_IMAGE), total=state.evaluation, done=1.0)


def _as_it_is(given: Input, state: State, why: str) -> State:
    """Return the image as it is, and say why: its error is its noise."""
    given.warnings.append(why)
    noise = wavelet_sigma(given.observed, given.kept)
    error = torch.full_like(given.observed, noise) if given.options.uncertainty else None
    psf = given.observed.new_ones(1, 1)
    return replace(state, image=given.observed, psf=psf, noise_sigma=noise, error=error)


def _luminance(observed: Tensor) -> Tensor:
    """(B, C, H, W) to (1, 1, H, W): one point spread function is looked for."""
    weights = observed.new_tensor(LUMA if observed.shape[1] == 3 else [1.0])
    return (observed * weights[:, None, None]).sum(1, keepdim=True).mean(0, keepdim=True)
