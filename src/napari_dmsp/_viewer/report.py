"""What a run has come to, in sentences."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .script import Call, Steps

if TYPE_CHECKING:
    from .worker import Outcome


def tell(call: Call, done: dict[Steps, dict[str, Any]], outcome: Outcome) -> str:
    """Say what was done, and of a run that ended early, what was kept of which planes.

    Parameters
    ----------
    call : Call
        What was asked for.
    done : dict
        What is known of the planes that were restored, by their steps.
    outcome : Outcome
        How the run ended.
    """
    planes, abouts = call.selection.planes, list(done.values())
    count = sum(about["evaluations"] for about in abouts)
    lowest, highest = (f(about["noise_sigma"] for about in abouts) for f in (min, max))
    noise = f"{lowest:.3g}" if len(done) == 1 else f"{lowest:.3g} to {highest:.3g}"
    seconds = duration(sum(about["seconds"] for about in abouts))
    sentences = [f"{_count(count, 'evaluation')} in {seconds}.", f"Noise σ {noise}."]
    stopped = [about for about in abouts if about["stopped"]]
    numbers = [planes.index(steps) + 1 for steps, about in done.items() if not about["stopped"]]
    of_plane = f" of plane {planes.index(list(done)[-1]) + 1}" if len(planes) > 1 else ""
    if stopped:
        whole = f" and {_planes(numbers)} whole" if numbers else ""
        kept = f"{_count(stopped[0]['evaluations'], 'evaluation')} of {stopped[0]['planned']}"
        sentences.insert(0, f"Stopped: kept after {kept}{of_plane}{whole}.")
    failed = dict(outcome.left_out)
    missing = {i + 1 for i, steps in enumerate(planes) if steps not in done} - {
        number + 1 for number in failed
    }
    if failed:
        reason = next(iter(failed.values()))
        names = _planes([number + 1 for number in failed])
        sentences.append(f"{names.capitalize()} could not be restored: {reason}")
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        sentences.append(f"{_planes(sorted(missing)).capitalize()} {verb} not done.")
    if outcome.error is not None:
        sentences.append(f"The run ended early: {outcome.error}")
    warnings = dict.fromkeys(text for about in abouts for text in about.get("warnings", ()))
    return "\n".join([" ".join(sentences), *warnings])


def duration(seconds: float) -> str:
    """Say a time in its largest unit."""
    if seconds < 1:
        return "under 1 s"
    if seconds > 1000 * 86400:
        return "more than 1000 days"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _planes(numbers: Collection[int]) -> str:
    """Name planes by their numbers, those in a row together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"plane{'s' if len(numbers) > 1 else ''} {', '.join(texts)}"
