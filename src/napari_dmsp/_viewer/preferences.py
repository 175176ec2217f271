"""What the user prefers, as set in the viewer's preferences. No Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..settings import DEVICES, Settings, options

OUTPUTS = ("float32", "same as input")
MIN_LIVE_SECONDS = 0.25
TILES = {each.name: about.choices for each, about in options(Settings)}["tile"]


@dataclass(frozen=True)
class Preferences:
    """Defaults of the panels, as they are typed or chosen there."""

    device: str = "auto"
    tile: str = "auto"
    output: str = OUTPUTS[0]
    # Time between two live estimates.
    live_seconds: float = MIN_LIVE_SECONDS


def read_preferences() -> Preferences:
    """Read the preferences; what the viewer does not know, or is not valid, has its default."""
    try:
        # Since napari 0.9.
        from napari.settings import get_plugin_settings

        settings: Any = get_plugin_settings("napari-dmsp").restoration
    # Without them nothing is lost, so none of the ways to fail may stop a panel.
    except Exception:
        return Preferences()
    device, tile, output, seconds = (
        getattr(settings, name, None) for name in ("device", "tile", "output", "live_seconds")
    )
    if not isinstance(seconds, int | float) or not MIN_LIVE_SECONDS <= seconds < math.inf:
        seconds = MIN_LIVE_SECONDS
    return Preferences(
        device if device in DEVICES else "auto",
        tile if tile in TILES else "auto",
        output if output in OUTPUTS else OUTPUTS[0],
        float(seconds),
    )
