"""What a plan will take: evaluations, pixels, memory, tiles. No torch: panels ask before a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..settings import Settings
from ..windows import BASE_BYTES, CPU_TILE, memory_bytes, spans
from .parts import Plan, magnification

# Evaluations of the prior by task; of fluorescence that is deblurred, and of the published descent.
EVALUATIONS = {"deblur": 24, "superres": 30, "demosaic": 24}
FLUORESCENCE_EVALUATIONS, DESCENT_EVALUATIONS = 36, 300


@dataclass(frozen=True)
class Forecast:
    """What a plan will take.

    Attributes
    ----------
    planes : int
        How many there are.
    megapixels : float
        Of the result, margins that are restored too among them, all planes together.
    evaluations : int
        Of the prior, for a plane, once the point spread function is known.
    memory : int
        Greatest memory of a part, with torch, in bytes.
    tiles : int
        Into which a part is cut for the prior.
    """

    planes: int
    megapixels: float
    evaluations: int
    memory: int
    tiles: int


def forecast(plan: Plan, fluorescence: bool = False) -> Forecast:
    """Return what a plan will take.

    Parameters
    ----------
    plan : Plan
        What is to be restored.
    fluorescence : bool
        Whether its planes look like fluorescence.
    """
    task, grid, scale = plan.task, plan.grid, magnification(plan.task)
    height, width = (round(n * scale) for n in grid.largest)
    tile = CPU_TILE if task.tile == "auto" else task.tile
    channels = 3 if task.makes_colour or plan.axes.colours is not None else 1
    pixels = sum(
        math.prod(round((b - a) * scale) for a, b in (rows, columns))
        for rows in grid.rows.windows
        for columns in grid.columns.windows
    )
    return Forecast(
        len(plan.axes.planes),
        pixels * len(plan.axes.planes) / 1e6,
        count_evaluations(task, fluorescence),
        BASE_BYTES + memory_bytes((height, width), channels, tile),
        math.prod(len(spans(n, tile or n)) for n in (height, width)),
    )


def count_evaluations(task: Settings, fluorescence: bool = False) -> int:
    """Return how often the prior is evaluated for a plane, once its PSF is known.

    Parameters
    ----------
    task : Settings
        The task and its options.
    fluorescence : bool
        Whether the image looks like fluorescence.
    """
    if task.iterations is not None:
        return task.iterations
    if task.method == "sgd":
        return DESCENT_EVALUATIONS
    if task.finds_psf and fluorescence:
        return FLUORESCENCE_EVALUATIONS
    return EVALUATIONS.get(task.task, EVALUATIONS["deblur"])
