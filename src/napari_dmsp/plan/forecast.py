"""What a plan will take: evaluations, pixels, memory, tiles. No torch: panels ask before a run."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np

from ..errors import DmspError
from ..priors import is_fluorescence
from ..search import search_work, with_extra
from ..settings import (
    BLURRED_EVALUATIONS,
    DESCENT_EVALUATIONS,
    FLUORESCENCE_EVALUATIONS,
    SHARP_EVALUATIONS,
    VOLUME_EVALUATIONS,
)
from ..windows import BASE_BYTES, CPU_TILE, MIN_SIDE, memory_bytes, spans, volume_bytes
from .parts import Plan

# Evaluations of the prior by task, where it leaves detail.
EVALUATIONS = {"superres": SHARP_EVALUATIONS}
# Side in pixels of what is looked at.
LOOKED_AT = 512


@dataclass(frozen=True)
class Forecast:
    """What a plan will take."""

    # Number of planes.
    planes: int
    # Size of the result, all planes together, margins that are restored too among them.
    megapixels: float
    # Evaluations of the prior for a plane, once the point spread function is known.
    evaluations: int
    # Pixels of all evaluations together in millions, those of a search too, with what they take
    # besides: time is in proportion.
    work: float
    # Greatest memory of a part, with torch, in bytes.
    memory: int
    # Number of tiles into which a part is cut for the prior.
    tiles: int


def forecast(plan: Plan) -> Forecast:
    """Return what a plan will take; it looks at the middle of a plane, if that is in memory."""
    task, planes = plan.task, len(plan.axes.planes)
    heights, widths = (
        [round(n * factor) for n in lines.lengths]
        for lines, factor in zip(
            (plan.grid.rows, plan.grid.columns), task.magnification, strict=True
        )
    )
    largest = max(heights), max(widths)
    tile = CPU_TILE if task.tile == "auto" else task.tile
    channels = 3 if task.makes_colour or plan.axes.colours is not None else 1
    depth = 1 if plan.axes.depth is None else plan.axes.shape[plan.axes.depth]
    if plan.axes.depth is None:
        memory = memory_bytes(largest, channels, tile)
    else:
        memory = volume_bytes((depth, *largest), np.shape(getattr(task, "psf", ()))[-3:])
    evaluations = (1 + task.uncertainty) * _count_evaluations(plan)
    pixels = sum(heights) * sum(widths) * depth
    work = evaluations * with_extra(pixels)
    if task.blind:
        # An image that is too small is refused when it is run.
        with contextlib.suppress(DmspError):
            work += sum(search_work(largest, getattr(task, "psf_size", None)))
    return Forecast(
        planes,
        pixels * planes / 1e6,
        evaluations,
        work * planes / 1e6,
        BASE_BYTES + memory,
        math.prod(len(spans(n, tile or n)) for n in largest),
    )


def _count_evaluations(plan: Plan) -> int:
    """Return how often the prior is evaluated for a plane, once its PSF is known."""
    task = plan.task
    if task.iterations is not None:
        return task.iterations
    if plan.axes.depth is not None:
        return VOLUME_EVALUATIONS
    if task.method == "sgd":
        return DESCENT_EVALUATIONS
    if task.finds_psf and plan.axes.colours is None and _looks_dark(plan):
        return FLUORESCENCE_EVALUATIONS
    return EVALUATIONS.get(task.task, BLURRED_EVALUATIONS)


def _looks_dark(plan: Plan) -> bool:
    """Whether the middle of the plane in the middle looks like fluorescence."""
    if not isinstance(getattr(plan.source, "data", None), np.ndarray):
        return False
    planes = plan.axes.planes
    rows, columns = (
        slice(max(0, (n - LOOKED_AT) // 2), (n + LOOKED_AT) // 2) for n in plan.axes.size
    )
    window = plan.axes.window(planes[len(planes) // 2], rows, columns)
    pixels = plan.axes.flatten(plan.source.reader(window)()).astype(np.float64)
    if min(pixels.shape) < MIN_SIDE or not np.isfinite(pixels).all():
        return False
    return is_fluorescence(pixels[None])
