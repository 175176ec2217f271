"""The public functions, made from the settings of the tasks: arrays in, a `Restoration` out."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING
from functools import cache
from typing import Any

from numpy.typing import NDArray

from .core.device import explain_failures
from .core.inputs import take_array
from .core.job import Restoration, run
from .core.tasks import prepare_task as prepare
from .plan import Axes, Plan, restore_array
from .settings import TASKS, Settings, options

_CALLBACK = "Called with every `State`; returns True to stop and keep the estimate."
_RAISES = """Raises
------
DmspError
    For input that cannot be restored; the message says what to change."""
_REFERENCES = """References
----------
.. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
   NIPS 2017, arXiv:1709.03749."""
# A public function, whose options are those of its task's settings.
Restore = Callable[..., Restoration]


@cache
def _public(task: str) -> Restore:
    """Make the function of a task, with the signature and the documentation of its settings."""
    kind = TASKS[task]
    signature = _signature(kind)

    def restore(*arguments: Any, callback: Any = None, **options: Any) -> Restoration:
        with explain_failures(options.get("device", "auto")):
            return restored(arguments, callback, options)

    def restored(arguments: Any, callback: Any, options: Any) -> Restoration:
        # The other name of the noise is not shown: there is one way to write it down.
        noise = {k: options.pop(k) for k in ("noise_sigma",) if k in options}
        bound = signature.bind(*arguments, **options).arguments
        array = take_array(bound.pop(kind.takes[0]), "image")
        settings = kind.of(**bound, **noise)
        if _is_stack(settings, array.shape):
            return _restore_stack(settings, array, callback)
        # A plane, or the core has a sentence that says why it is none.
        return run(prepare(settings, array), callback)

    restore.__name__ = restore.__qualname__ = kind.task
    restore.__doc__ = _document(kind)
    restore.__signature__ = signature  # type: ignore[attr-defined]
    return restore


def _is_stack(settings: Settings, shape: tuple[int, ...]) -> bool:
    """Whether this is the shape of planes or volumes, and not of what may be colours or a mosaic.

    Mosaics are given as (1, H, W), too.
    """
    axes = settings.space + (settings.channel_axis is not None)
    least = 3 if settings.makes_colour and shape[:1] == (1,) else axes
    return len(shape) > least and (settings.channel_axis is not None or shape[-1] not in (1, 3, 4))


def _restore_stack(settings: Settings, stack: NDArray[Any], callback: Any) -> Restoration:
    """Restore a stack plane by plane, or volume by volume, as all faces do."""
    named = settings.space == 3 and stack.ndim <= 5 and stack.shape[-3] > 1
    names = "tczyx"[-stack.ndim :] if named else ""
    axes = Axes.of(stack.shape, settings.channel_axis, names, settings.space)
    plan = Plan.of(settings, stack, axes)
    restored = restore_array(plan, callback)
    planes = [restored.planes.get(plane) for plane in plan.axes.planes]
    shared = not settings.blind
    return Restoration.of_planes(restored.image, planes, shared, restored.error)


def _signature(kind: type[Settings]) -> inspect.Signature:
    """Return the image, the option that needs no name, the others, and the callback."""
    make = inspect.Parameter
    parameters = [make(kind.takes[0], make.POSITIONAL_OR_KEYWORD)]
    listed = [each for each, _ in options(kind)]
    for each in sorted(listed, key=lambda each: each.name != kind.positional):
        form = make.POSITIONAL_OR_KEYWORD if each.name == kind.positional else make.KEYWORD_ONLY
        default = make.empty if each.default is MISSING else each.default
        parameters.append(make(each.name, form, default=default))
    parameters.append(make("callback", make.KEYWORD_ONLY, default=None))
    return inspect.Signature(parameters, return_annotation=Restoration)


def _document(kind: type[Settings]) -> str:
    """Put the options into the docstring of a task, as parameters."""
    summary, *others = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    parameters = [(kind.takes[0], "array_like", kind.takes[1])]
    for each, about in options(kind):
        parameters.append((each.name, about.kind, f"{about.explain('By default')} {about.more}"))
    parameters.append(("callback", "callable, optional", _CALLBACK))
    listed = "\n".join(
        f"{name} : {form}\n{textwrap.indent(textwrap.fill(about, 88), ' ' * 4)}"
        for name, form, about in parameters
    )
    parts = [f"Parameters\n----------\n{listed}", *others[:1], _RAISES, *others[1:], _REFERENCES]
    return "\n\n".join([summary, *parts]) + "\n"


def __getattr__(name: str) -> Restore:
    if name in TASKS:
        return _public(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
