"""Restorations as lazy dask arrays, one chunk for each part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import optimize
from dask.highlevelgraph import HighLevelGraph

from ..errors import DmspError
from ..plan import Done, Kept, LeftOut, Pixels, Plan, fingerprint
from ..plan.run import Work, restore_part
from ..plan.survey import Shared, Survey, make_survey
from ..windows import Window
from .workers import at_work, on_worker


@dataclass(frozen=True, eq=False)
class DaskSource:
    """A dask array, of which each window is computed by whoever needs it."""

    array: da.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(int, self.array.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return np.dtype(self.array.dtype)

    def reader(self, window: Window) -> Callable[[], Pixels]:
        """Return a function that computes a window; it holds no more of the graph than that."""
        (part,) = optimize(self.array[window])
        return _Computed(part)


@dataclass(frozen=True, eq=False)
class _Computed:
    array: da.Array

    def __call__(self) -> Pixels:
        # Whoever asks is one of dask's workers already.
        return np.asarray(self.array.compute(scheduler="synchronous"))


def make_lazy(plan: Plan) -> da.Array:
    """Return the result of a plan as a lazy array; its source must be a `DaskSource`."""
    assert isinstance(plan.source, DaskSource)
    name = f"dmsp-{plan.task.task}-{identity(plan)}"
    held = _held(name)
    tasks: dict[Any, Any] = {held: plan}
    shared, chunks = Shared(plan), part_chunks(plan)
    for channel, function, _, planes in shared.prior_calls(plan.axes.planes):
        shared.priors[channel] = f"{name}-prior-{channel}"
        tasks[shared.priors[channel]] = (function, held, planes)
    keys = {}
    for number, (key, _, _, *arguments) in enumerate(shared.survey_calls(plan.axes.planes)):
        keys[key] = f"{name}-survey-{number}"
        tasks[keys[key]] = (_survey, held, *arguments)
    for part in plan.parts:
        key = shared.key(part.plane)
        known = shared.priors.get(plan.axes.channel(part.plane)) if key is None else keys[key]
        places = zip(part.target, chunks, strict=True)
        index = [window.start // sizes[0] for window, sizes in places]
        tasks[(name, *index)] = (_block, held, part.number, known)
    graph = HighLevelGraph({name: tasks}, {name: set()})
    return da.Array(graph, name, chunks, dtype=plan.dtype)


def plan_of(array: da.Array) -> Plan | None:
    """Return the plan of a lazy array; None for any other, and for parts of one."""
    graph = array.__dask_graph__()
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {}
    tasks: Any = layers.get(array.name, {})
    plan = tasks.get(_held(array.name))
    return plan if isinstance(plan, Plan) else None


def identity(plan: Plan) -> str:
    """Return a hash of all that the result of a plan depends on."""
    sources = [source for source in (plan.source, plan.mask) if source is not None]
    names = [s.array.name for s in sources if isinstance(s, DaskSource)]
    return fingerprint(plan, " ".join(names))


def part_chunks(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return the lengths of the parts along all axes of the result."""
    cut = {plan.axes.rows: plan.grid.rows, plan.axes.columns: plan.grid.columns}
    return tuple(
        tuple(end - begin for begin, end in cut[axis].targets)
        if axis in cut
        else (1,) * size
        if axis in plan.axes.walked
        else (size,)
        for axis, size in enumerate(plan.shape)
    )


def _held(name: str) -> str:
    """Return the key under which the graph of a lazy array holds its plan."""
    return f"{name}-plan"


def _survey(plan: Plan, planes: list[tuple[int, ...]], prior: str | None) -> Survey:
    with at_work(plan.task.device):
        return make_survey(on_worker(plan), planes, prior)


def _block(plan: Plan, number: int, known: Survey | str | None) -> Pixels:
    """Restore a part with what it shares with others."""
    survey = known if isinstance(known, Survey) else Survey(known)
    work = on_worker(Work.of(plan, plan.parts[number], survey))
    with at_work(work.task.device):
        for event in restore_part(work):
            ended = event
    if isinstance(ended, LeftOut):
        raise DmspError(str(ended))
    assert isinstance(ended, Done | Kept)
    assert ended.block is not None
    return ended.block
