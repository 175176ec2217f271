"""What a run has come to, in sentences."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .script import Call, Steps

if TYPE_CHECKING:
    from .worker import Outcome


def tell(call: Call, done: dict[Steps, dict[str, Any] | None], outcome: Outcome) -> str:
    """Say what was done, and of a run that ended early, what was kept of which planes."""
    numbers = {steps: number for number, steps in enumerate(call.selection.planes, 1)}
    restored = {numbers[steps]: about for steps, about in done.items() if about is not None}
    left_out = {number + 1: reason for number, reason in outcome.left_out}
    constant = [numbers[steps] for steps, about in done.items() if about is None]
    missing = [n for steps, n in numbers.items() if steps not in done and n not in left_out]
    sentences = []
    for number, about in restored.items():
        if about["stopped"]:
            what = f"plane {number}" if len(numbers) > 1 else "the image"
            whole = [n for n in restored if n != number]
            others = f"; {_planes(whole)} {_are(whole)} whole" if whole else ""
            after = f"{about['evaluations']} of {about['planned']} evaluations"
            sentences.append(f"Stopped: {what} is kept as it was after {after}{others}.")
    if restored:
        abouts = restored.values()
        seconds = duration(sum(about["seconds"] for about in abouts))
        sigmas = sorted(about["noise_sigma"] for about in abouts)
        noise = f"{sigmas[0]:.3g}" + (f" to {sigmas[-1]:.3g}" if len(sigmas) > 1 else "")
        count = sum(about["evaluations"] for about in abouts)
        plural = "" if count == 1 else "s"
        sentences.append(f"{count} evaluation{plural} in {seconds}. Noise σ {noise}.")
    if constant:
        sentences.append(f"{_planes(constant, True)} {_are(constant)} constant, and kept.")
    if left_out:
        reason = next(iter(left_out.values()))
        sentences.append(f"{_planes(left_out, True)} could not be restored: {reason}")
    if missing:
        sentences.append(f"{_planes(missing, True)} {_are(missing)} not done, and transparent.")
    if outcome.error is not None:
        sentences.append(f"The run ended early: {outcome.error}")
    warnings = dict.fromkeys(text for about in restored.values() for text in about["warnings"])
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


def _are(numbers: Collection[int]) -> str:
    return "is" if len(numbers) == 1 else "are"


def _planes(numbers: Collection[int], first: bool = False) -> str:
    """Name planes by their numbers, those in a row together, perhaps first in a sentence."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    word = "Plane" if first else "plane"
    return f"{word}{'s' if len(numbers) > 1 else ''} {', '.join(texts)}"
