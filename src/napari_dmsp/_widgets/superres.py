"""The Super-resolution panel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.widgets import FloatSpinBox, Widget
from numpy.typing import NDArray

from ._panel import RunPanel

if TYPE_CHECKING:
    from ..core import Job


class SuperresPanel(RunPanel):
    """Raises the resolution of the visible plane of an image layer."""

    result_title = "enlarged"
    evaluations: ClassVar[dict[str, int]] = RunPanel.evaluations | {"annealed": 30}

    def task_widgets(self) -> list[Widget]:
        """Make the input of the factor."""
        self._scale = FloatSpinBox(
            name="scale",
            label="Factor",
            value=2,
            min=1.1,
            max=8,
            step=0.1,
            tooltip="How many times more pixels along each side.",
        )
        return [self._scale]

    def request(self) -> Callable[[NDArray[Any], int | None], Job]:
        """Freeze the choices; see `RunPanel.request`."""
        return partial(_prepare, scale=self._scale.value, **self.shared_options())

    def magnification(self) -> float:
        """Return the factor."""
        return float(self._scale.value)


def _prepare(image: NDArray[Any], channel_axis: int | None, **options: Any) -> Job:
    # Imported in the thread that restores: to load torch takes seconds.
    from ..core import prepare_superres

    return prepare_superres(image, channel_axis=channel_axis, **options)
