"""The public functions, made from the settings of the tasks: arrays in, a `Restoration` out."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING
from functools import cache, partial
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from .core.inputs import take_array
from .core.job import Restoration, run
from .core.solvers import State
from .core.tasks import prepare_task as prepare
from .plan import Axes, Plan, restore_array
from .settings import TASKS, Settings, options

_CALLBACK = "Called with every `State`; returns True to stop and keep the estimate."


class Restore(Protocol):
    """A public function, whose options are those of its task's settings."""

    def __call__(
        self,
        image: ArrayLike,
        *arguments: Any,
        callback: Callable[[State], bool | None] | None = None,
        **options: Any,
    ) -> Restoration:
        """Restore an image."""


@cache
def _public(task: str) -> Restore:
    """Make the function of a task, with the signature and the documentation of its settings."""
    kind = TASKS[task]
    signature = _signature(kind)

    def restore(*arguments: Any, callback: Any = None, **options: Any) -> Restoration:
        # The other name of the noise is not shown: there is one way to write it down.
        noise = {k: options.pop(k) for k in ("noise_sigma",) if k in options}
        bound = signature.bind(*arguments, **options).arguments
        array = take_array(bound.pop(kind.takes[0]), "image")
        settings = kind.of(**bound, **noise)
        axes = 2 + (settings.channel_axis is not None)
        # What is no stack is a plane, or has a core's sentence that says why it is none.
        if array.ndim <= axes or 1 in array.shape or array.shape[-1] in (3, 4):
            return run(prepare(settings, array), callback)
        return _restore_stack(settings, array, callback)

    restore.__name__ = restore.__qualname__ = kind.task
    restore.__doc__ = _document(kind)
    restore.__signature__ = signature  # type: ignore[attr-defined]
    return restore


def _restore_stack(settings: Settings, stack: NDArray[Any], callback: Any) -> Restoration:
    """Restore a stack plane by plane, as all faces do."""
    plan = Plan.of(settings, stack, Axes.of(stack.shape, settings.channel_axis))
    restored = restore_array(plan, callback)
    planes = [restored.planes.get(plane) for plane in plan.axes.planes]
    return Restoration.of_planes(restored.image, planes, not settings.blind)


def _signature(kind: type[Settings]) -> inspect.Signature:
    """Return the image, the option that needs no name, the others, and the callback."""
    anywhere, named = (
        partial(inspect.Parameter, kind=form)
        for form in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
    )
    parameters = [anywhere(kind.takes[0])]
    listed = [each for each, _ in options(kind)]
    for each in sorted(listed, key=lambda each: each.name != kind.positional):
        make = anywhere if each.name == kind.positional else named
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        parameters.append(make(each.name, default=default))
    parameters.append(named("callback", default=None))
    return inspect.Signature(parameters, return_annotation=Restoration)


def _document(kind: type[Settings]) -> str:
    """Put the options into the docstring of a task, as parameters."""
    text = inspect.cleandoc(kind.__doc__ or "")
    summary, _, rest = text.partition("\n\n")
    name, form = kind.takes
    parameters = [(name, "array_like", form)]
    for each, about in options(kind):
        parameters.append((each.name, about.kind, f"{about.explain('By default')} {about.more}"))
    parameters.append(("callback", "callable, optional", _CALLBACK))
    lines = [
        f"{name} : {form}\n" + textwrap.fill(about, 92, initial_indent=tab, subsequent_indent=tab)
        for tab in (" " * 4,)
        for name, form, about in parameters
    ]
    return f"{summary}\n\nParameters\n----------\n" + "\n".join(lines) + f"\n\n{rest}\n"


def __getattr__(name: str) -> Restore:
    if name in TASKS:
        return _public(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
