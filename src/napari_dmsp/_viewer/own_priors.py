"""The priors that the panels offer, without loading torch for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psygnal import SignalInstance
from safetensors import SafetensorError

from ..priors import read_header

# Emitted when the user's folder of priors has changed.
priors_changed = SignalInstance()


def prior_config(file: Path) -> dict[str, Any]:
    """Return the architecture that a weights file names, or nothing if it is not one of ours."""
    try:
        config = json.loads(read_header(file)[0]["napari-dmsp"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
