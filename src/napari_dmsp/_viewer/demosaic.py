"""The Demosaic panel."""

from __future__ import annotations

from magicgui.widgets import ComboBox, Widget

from ..settings import Demosaic
from .panel import RunPanel

DEVELOPED = "developed"


class DemosaicPanel(RunPanel):
    """Turns raw mosaics into colour images."""

    kind = Demosaic

    def more_widgets(self) -> list[Widget]:
        """Make the choice of how colours are shown."""
        self._colours = ComboBox(
            name="colours",
            label="Colours",
            choices=["as measured", DEVELOPED],
            tooltip="As the sensor saw them, proportional to light; or developed for the eye: "
            "balanced for a grey world, and brightened by the curve of photographs.",
        )
        return [self._colours]

    @property
    def developed(self) -> bool:
        """Whether the colours are developed."""
        return bool(self._colours.value == DEVELOPED)
