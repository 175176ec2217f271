"""What the parts of a plane, and the planes of a stack, share: one policy for all faces.

Every channel has one prior, that of its middle plane. Every plane has a range, a noise level and,
where that is unknown, a point spread function of its own; or all planes share those of some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DmspError, OutOfMemoryError
from ..priors import default_prior, is_fluorescence
from ..settings import Settings
from ..windows import Span, steps
from .axes import Pixels, Plane, plane_named
from .parts import Plan, constant_pixel, for_channel, prepare

if TYPE_CHECKING:
    from ..core import Reference

# Side in pixels of the sample that is restored to find the noise level of a plane.
SAMPLE = 1024
# Windows from which the sample is chosen, and blocks of the overview, along either axis.
CANDIDATES = 3
BLOCKS, BLOCK = 8, 128
# Planes from which the survey of a whole stack takes them.
SURVEYED_PLANES = 3

View = tuple[Pixels, Pixels | None]


@dataclass(frozen=True, eq=False)
class Survey:
    """What is shared; None stands for what each restoration finds by itself.

    Attributes
    ----------
    prior : str or None
        The name of the prior.
    reference : Reference or None
        Black, the range, and what else follows from a whole plane.
    noise_sigma : float or None
        Noise level in the units of the plane.
    psf : ndarray or None
        The point spread function found, float32.
    problem : str or None
        Why the planes cannot be restored.
    """

    prior: str | None = None
    reference: Reference | None = None
    noise_sigma: float | None = None
    psf: NDArray[np.float32] | None = field(default=None, repr=False)
    problem: str | None = None

    @property
    def known(self) -> dict[str, Any]:
        """As arguments of `prepare`."""
        values = {"noise": self.noise_sigma} | {
            name: getattr(self, name) for name in ("prior", "reference", "psf")
        }
        known = {name: value for name, value in values.items() if value is not None}
        # A size is for what is unknown.
        return known if self.psf is None else known | {"psf_size": None}

    def to_json(self) -> str:
        """Write it down, exactly."""
        reference = None if self.reference is None else asdict(self.reference)
        psf = None if self.psf is None else self.psf.tolist()
        names = ("prior", "noise_sigma", "problem")
        known = {name: getattr(self, name) for name in names}
        return json.dumps(known | {"reference": reference, "psf": psf})

    @classmethod
    def from_json(cls, text: str) -> Survey:
        """Undo `to_json`."""
        from ..core import Reference
        from ..core.inputs import Units
        from ..core.noise import ShotLine

        values = json.loads(text)
        known, psf = values.pop("reference"), values.pop("psf")
        if known is not None:
            bounds = known["units"].pop("bounds")
            values["reference"] = Reference(
                Units(**known["units"], bounds=bounds and tuple(bounds)),
                known["fluorescence"],
                known["shot"] and ShotLine(**known["shot"]),
                known["encoding"] and tuple(known["encoding"]),
            )
        return cls(**values, psf=None if psf is None else np.array(psf, np.float32))


def channels(plan: Plan) -> dict[int, list[Plane]]:
    """Return the planes of every channel for which a prior is to be chosen."""
    if plan.task.prior is not None or len(plan.axes.planes) == 1:
        return {}
    if plan.task.makes_colour or plan.axes.colours is not None:
        return {}
    return _by_channel(plan)


def choose_prior(plan: Plan, planes: Sequence[Plane]) -> str | None:
    """Return the name of the prior for planes: what suits the middle one.

    Of planes that are constant or cannot be restored, the nearest to the middle takes its place;
    None without any.
    """
    from ..core.inputs import check_image, check_mask

    middle = len(planes) // 2
    for index in sorted(range(len(planes)), key=lambda i: abs(i - middle)):
        pixels, mask = _overview(plan, planes[index])
        try:
            space = plan.axes.space
            gaps = check_mask(mask, pixels, None, space)
            values = check_image(pixels, None, gaps, space=space)
        except DmspError:
            continue
        if constant_pixel(pixels, mask, space) is None:
            return default_prior(1, is_fluorescence(values))
    return None


def groups(plan: Plan) -> dict[Plane, list[Plane]]:
    """Return the planes from which every survey is made; none where planes need none.

    There is one for each plane, or for each channel of a stack.
    """
    if not plan.needs_surveys:
        return {}
    if plan.survey == "plane":
        return {plane: [plane] for plane in plan.axes.planes}
    found = {}
    for alike in _by_channel(plan).values():
        chosen = np.linspace(0, len(alike) - 1, min(SURVEYED_PLANES, len(alike))).astype(int)
        found[alike[0]] = [alike[i] for i in chosen]
    return found


def _by_channel(plan: Plan) -> dict[int, list[Plane]]:
    found: dict[int, list[Plane]] = {}
    for plane in plan.axes.planes:
        found.setdefault(plan.axes.channel(plane), []).append(plane)
    return found


class Shared:
    """What the parts of a plan share, each found when it is first asked for.

    Surveys that are known, by their first plane, may be given; new ones are added to them.
    """

    def __init__(self, plan: Plan, surveys: MutableMapping[Plane, Survey] | None = None) -> None:
        self.plan = plan
        self.priors: dict[int, str | None] = {}
        self.surveys = {} if surveys is None else surveys
        self.groups = groups(plan)
        self._channels = channels(plan)
        self._keys = {plan.axes.channel(key): key for key in self.groups}

    def key(self, plane: Plane) -> Plane | None:
        """Return which of `groups` holds for a plane; None where planes need none."""
        if not self.groups or self.plan.survey == "plane":
            return plane if self.groups else None
        return self._keys[self.plan.axes.channel(plane)]

    def prior_calls(self, planes: Iterable[Plane]) -> Iterator[tuple[Any, ...]]:
        """Yield (channel, function, *arguments) for every prior that planes still need."""
        for channel in dict.fromkeys(map(self.plan.axes.channel, planes)):
            if channel in self._channels and channel not in self.priors:
                yield channel, choose_prior, self.plan, self._channels[channel]

    def survey_calls(self, planes: Iterable[Plane]) -> Iterator[tuple[Any, ...]]:
        """Yield (key, function, *arguments) for every survey that planes still need."""
        for key in dict.fromkeys(map(self.key, planes)):
            if key is not None and key not in self.surveys:
                prior = self.priors.get(self.plan.axes.channel(key))
                yield key, make_survey, self.plan, self.groups[key], prior

    def of(self, plane: Plane) -> Survey:
        """Return what the parts of a plane share."""
        for channel, function, *arguments in self.prior_calls([plane]):
            self.priors[channel] = function(*arguments)
        for key, function, *arguments in self.survey_calls([plane]):
            self.surveys[key] = function(*arguments)
        known = self.key(plane)
        if known is not None:
            return self.surveys[known]
        return Survey(self.priors.get(self.plan.axes.channel(plane)))


def make_survey(plan: Plan, planes: Sequence[Plane], prior: str | None) -> Survey:
    """Find what planes, or the parts of one, share: units in overviews, the rest in a sample.

    What cannot be restored has a survey that says why.
    """
    try:
        with plane_named(planes[0]):
            return _survey(plan, planes, prior)
    except OutOfMemoryError:
        # There may be more the next time.
        raise
    except DmspError as error:
        return Survey(prior, problem=str(error.__cause__ or error))


def _survey(plan: Plan, planes: Sequence[Plane], prior: str | None) -> Survey:
    from ..core import run
    from ..core.blind import BlindState
    from ..core.tasks import KERNEL_NOISE

    task = for_channel(plan.task, plan.axes.channel(planes[0]))
    task = task.replace(uncertainty=False)
    task = task if prior is None else task.replace(prior=prior)
    sample = max((view for plane in planes for view in _candidates(plan, plane)), key=_contrast)
    overview = _joined([_overview(plan, plane) for plane in planes], 0)
    if _contrast(overview) == 0:
        overview = sample
    if _contrast(overview) == 0:
        return Survey(prior)
    psf = None
    if task.blind:
        # The PSF is known from the first step of the restoration on.
        found = run(prepare(task, *sample), lambda state: not isinstance(state, BlindState))
        psf = found.psf
    known = Survey(psf=psf).known
    reference = prepare(task, *overview, **known).reference
    sigma = None
    if task.noise is None:
        sigma = run(prepare(task, *sample, **known, reference=reference)).noise_sigma
        if task.blind:
            sigma = max(sigma, KERNEL_NOISE * reference.units.scale)
    return Survey(prior, reference, sigma, psf)


def _overview(plan: Plan, plane: Plane) -> View:
    """Read a plane, or blocks all over it as one image if it is large and cut."""
    if not plan.needs_surveys:
        return plan.read(plane, slice(0, plan.axes.size[0]), slice(0, plan.axes.size[1]))
    rows, columns = _spread(plan, BLOCK, BLOCKS)
    read = [[plan.read(plane, slice(*r), slice(*c)) for c in columns] for r in rows]
    across = plan.axes.space - 1
    return _joined([_joined(line, across) for line in read], across - 1)


def _candidates(plan: Plan, plane: Plane) -> Iterator[View]:
    """Read the windows of a plane from which the sample is chosen."""
    rows, columns = _spread(plan, SAMPLE, CANDIDATES)
    for r, c in product(rows, columns):
        yield plan.read(plane, slice(*r), slice(*c))


def _joined(views: Sequence[View], axis: int) -> View:
    masks = [mask for _, mask in views if mask is not None]
    pixels = np.concatenate([pixels for pixels, _ in views], axis)
    return pixels, np.concatenate(masks, axis) if masks else None


def _contrast(view: View) -> float:
    """Return the standard deviation of what was observed; exactly 0 where that is constant."""
    pixels, mask = view
    if mask is not None:
        if pixels.ndim == 3 and mask.shape == pixels.shape[1:]:
            mask = np.broadcast_to(mask, pixels.shape)
        pixels = pixels[~mask]
    if not pixels.size or pixels.min() == pixels.max():
        return 0.0
    return float(np.std(pixels, dtype=np.float64))


def _spread(plan: Plan, side: int, count: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Spread at most ``count`` spans of about ``side`` pixels over axes that have more."""
    each = steps(plan.task.magnification, period(plan.task))
    rows, columns = (
        _spans(n, side, count, step) for n, step in zip(plan.axes.size, each, strict=True)
    )
    return rows, columns


def _spans(size: int, side: int, count: int, step: int) -> tuple[Span, ...]:
    if size <= SAMPLE:
        return ((0, size),)
    side = math.ceil(side / step) * step
    count = min(count, math.ceil(size / side))
    begins = np.linspace(0, size - side, count) // step * step
    return tuple((int(begin), int(begin) + side) for begin in begins)


def period(task: Settings) -> tuple[int, int]:
    """Return the pixels after which colour filters repeat, along both axes."""
    if not task.makes_colour:
        return 1, 1
    from ..core.mosaic import cfa_tile

    _, height, width = cfa_tile(getattr(task, "pattern", "RGGB")).shape
    return height, width
