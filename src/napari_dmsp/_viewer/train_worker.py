"""Runs a training beside the viewer: in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QCoreApplication, QObject
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]

from ..plan import CancelledError
from .worker import Controller, Request, explain


@dataclass(frozen=True, eq=False)
class Stack:
    """Data of an image layer: planes along its last two axes, before the colours if it has any."""

    data: Any = field(repr=False)
    rgb: bool

    @property
    def leading(self) -> tuple[int, ...]:
        """Sizes of the other axes."""
        shape: tuple[int, ...] = self.data.shape[: -3 if self.rgb else -2]
        return shape

    def planes(self) -> Iterator[Any]:
        """Give every plane, (H, W) or (H, W, 3), without computing it."""
        for index in np.ndindex(self.leading):
            yield self.data[(*index, ..., slice(3))] if self.rgb else self.data[index]


@dataclass(frozen=True, eq=False)
class Training:
    """What the user asked for."""

    # Where the clean images are.
    folders: tuple[Path, ...]
    stacks: tuple[Stack, ...]
    # The weights to write, for 1 or 3 channels.
    out: Path
    channels: int
    minutes: int
    # The weights to start from.
    start: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class TrainOutcome:
    """How a training ended: with the prior's card, an error, or neither if it was cancelled."""

    card: dict[str, Any] | None = None
    error: str | None = None


class TrainRunner(Controller):
    """Runs one training at a time in another thread and reports to this one.

    The functions that it is given are called in the GUI thread: with what `training.train.train`
    reports, and once a run with its `TrainOutcome`.
    """

    def __init__(
        self,
        on_progress: Callable[[dict[str, Any]], None],
        on_outcome: Callable[[TrainOutcome], None],
    ) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._on_outcome = on_outcome
        self._out: Path | None = None
        self._messages = _Messages()
        self._messages.progressed.connect(self._progressed)
        self._messages.ended.connect(self._ended)
        # Python waits for threads when it ends.
        application = QCoreApplication.instance()
        assert application is not None
        application.aboutToQuit.connect(self.close)

    def start(self, training: Training) -> bool:
        """Start a training; return False, and do nothing, while another one goes on."""
        request = self._begin()
        if request is None:
            return False
        self._out = training.out
        # Not one of Qt's few pooled threads: restorations would wait for hours for the next.
        threading.Thread(
            target=_work, args=(training, request, self._messages), name="napari-dmsp training"
        ).start()
        return True

    def leave(self) -> None:
        """End the run; keep the prior if it was saved before, for it may have taken hours."""
        if self._out is not None and self._out.exists():
            self.stop()
        else:
            self.cancel()

    def _progressed(self, values: dict[str, Any]) -> None:
        if not self.silent:
            self._on_progress(values)

    def _ended(self, outcome: TrainOutcome) -> None:
        self._end()
        if not self.closed:
            self._on_outcome(outcome)


class _Messages(QObject):
    progressed = QtSignal(object)
    ended = QtSignal(object)


def _work(training: Training, request: Request, messages: _Messages) -> None:
    try:
        outcome = TrainOutcome(_train(training, request, messages))
    except CancelledError:
        outcome = TrainOutcome()
    except Exception as error:
        logging.getLogger(__name__).debug("The training failed.", exc_info=True)
        outcome = TrainOutcome(error=_explain(error, training.out))
    # The last step may be too late to be told.
    if request.cancel:
        outcome = TrainOutcome()
    _clean_up(training.out, keep=not request.cancel)
    messages.ended.emit(outcome)


def _train(training: Training, request: Request, messages: _Messages) -> dict[str, Any]:
    def progress(values: dict[str, Any]) -> bool:
        request.check()
        messages.progressed.emit(values)
        return request.stop

    # Imported in the thread that trains: to load torch takes seconds.
    from ..training.train import Recipe, train

    planes = [plane for stack in training.stacks for plane in stack.planes()]
    return train(
        [*training.folders, *planes],
        training.out,
        recipe=Recipe(channels=training.channels),
        minutes=training.minutes,
        resume=training.start,
        device=training.device,
        progress=progress,
        # About twenty points for the plot; each takes a few seconds.
        save_every=min(max(10.0, 3 * training.minutes), 120.0),
    )


def _explain(error: Exception, out: Path) -> str:
    kept = f"What had been saved is kept as {out.stem!r}."
    text = explain(error)
    return f"{text.removesuffix('.')}. {kept}" if out.exists() else text


def _clean_up(out: Path, keep: bool) -> None:
    """Remove the files of a run, but for the prior and its card if they are to be kept."""
    kept = (out, out.with_suffix(".json")) if keep else ()
    for path in out.parent.glob(f"{out.stem}.*"):
        if path not in kept:
            with suppress(OSError):
                path.unlink()
