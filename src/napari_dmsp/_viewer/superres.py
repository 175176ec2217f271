"""The Super-resolution panel."""

from __future__ import annotations

from typing import Any, ClassVar

from magicgui.widgets import FloatSpinBox, Widget

from .panel import RunPanel


class SuperresPanel(RunPanel):
    """Raises the resolution of planes of an image layer."""

    task = "superres"
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

    def task_arguments(self) -> dict[str, Any]:
        """Return the factor."""
        return {"scale": self._scale.value}

    def magnification(self) -> float:
        """Return the factor."""
        return float(self._scale.value)
