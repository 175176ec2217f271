"""Where the weights of the priors are. Loads neither torch nor the viewer."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from platformdirs import user_data_path

BUNDLED = Path(str(resources.files(__package__) / "weights"))
# Infix of files that hold an unfinished training.
STATE = ".state"


def priors_folder() -> Path:
    """Return the folder of the user's own priors; it need not exist.

    The environment variable ``NAPARI_DMSP_PRIORS`` names another one.
    """
    named = os.environ.get("NAPARI_DMSP_PRIORS")
    return Path(named) if named else user_data_path("napari-dmsp", appauthor=False) / "priors"


def prior_files() -> dict[str, Path]:
    """Return the weights files by their names: the bundled ones, then the user's own."""
    files = [p for f in (BUNDLED, priors_folder()) for p in sorted(f.glob("*.safetensors"))]
    named: dict[str, Path] = {}
    for file in files:
        if not file.stem.endswith(STATE):
            named.setdefault(file.stem, file)
    return named


def available_priors() -> list[str]:
    """Names of the priors that come with the package, then the user's own."""
    return list(prior_files())
