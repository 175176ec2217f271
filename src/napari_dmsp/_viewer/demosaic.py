"""The Demosaic panel."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox, Widget

from .panel import MARGIN, RunPanel, optional_number, read_number

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
PATTERNS = [*BAYER, *(f"quad-{order}" for order in BAYER), "X-Trans"]
DEVELOPED = "developed"
LINEAR = {"auto": None, "linear": True, "encoded": False}


class DemosaicPanel(RunPanel):
    """Turns raw mosaics into colour images."""

    task = "demosaic"
    result_title = "demosaiced"
    # A multiple of the periods of all patterns: 2, 4 and 6.
    margin, align = MARGIN, 12
    colours = False

    def task_widgets(self) -> list[Widget]:
        """Make the inputs of the colour filter array and the levels of the sensor."""
        self._pattern = ComboBox(
            name="pattern",
            label="Pattern",
            choices=PATTERNS,
            tooltip="Colours of the first pixels, row by row.",
        )
        self._white = optional_number("white", "White", "Intensity of white in the image's units.")
        self._linear = ComboBox(
            name="values",
            label="Values",
            choices=list(LINEAR),
            tooltip="Whether values are proportional to light, as in raw files; auto takes "
            "integers of more than 8 bits for linear.",
        )
        self._colours = ComboBox(
            name="colours",
            label="Colours",
            choices=["as measured", DEVELOPED],
            tooltip="As the sensor saw them, proportional to light; or developed for the eye: "
            "balanced for a grey world, and brightened by the curve of photographs.",
        )
        return [self._pattern, self._white, self._linear, self._colours]

    def result_options(self) -> dict[str, bool]:
        """Say whether the colours are developed."""
        return {"developed": self._colours.value == DEVELOPED}

    def task_arguments(self) -> dict[str, Any]:
        """Return pattern and levels."""
        assert self.image is not None
        if self.image.rgb:
            raise ValueError(f"{self.image.name!r} has colours already; a mosaic is grey.")
        return {
            "pattern": self._pattern.value,
            "white": read_number(self._white),
            "linear": LINEAR[self._linear.value],
        }
