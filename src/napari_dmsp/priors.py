"""Where the weights of the priors are, and which suits an image. Loads neither torch nor viewer."""

from __future__ import annotations

import math
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_data_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUNDLED = Path(str(resources.files(__package__) / "weights"))
# Infix of files that hold an unfinished training.
STATE = ".state"
# Most bytes of a weights file's header and of a card, and most numbers of a network: far more than
# any has that is trained here.
MOST_HEADER, MOST_CARD, MOST_WEIGHTS = 2**20, 2**24, 2**28
# What `is_fluorescence` calls dark, as a part of the range, and the side of its blocks.
DARK, BLOCK = 0.1, 4


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


def read_header(file: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Return the metadata of a weights file and the shapes of its tensors, without reading these.

    Raises
    ------
    ValueError
        For what no training writes: other numbers than floats, or more than fits any memory.
    SafetensorError
        For what is no safetensors file.
    """
    from safetensors import safe_open

    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"its header has {length} bytes")
    with safe_open(file, framework="np") as opened:
        tensors = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        kinds = {tensor.get_dtype() for tensor in tensors.values()}
        shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
        metadata = opened.metadata() or {}
    if not kinds <= {"BF16", "F16", "F32", "F64"}:
        raise ValueError(f"its weights are {', '.join(sorted(kinds))}")
    count = sum(map(math.prod, shapes.values()))
    if count > MOST_WEIGHTS:
        raise ValueError(f"it has {count} weights, more than {MOST_WEIGHTS}")
    return metadata, shapes


def default_prior(channels: int, fluorescence: bool) -> str:
    """Return the name of the prior for images of a kind."""
    if channels == 3:
        return "rgb"
    return "microscopy" if fluorescence and "microscopy" in available_priors() else "gray"


def is_fluorescence(values: NDArray[Any]) -> bool:
    """Guess from an image (C, H, W) whether it shows fluorescence and is not a photograph.

    Fluorescence is objects that shine on an empty ground: most pixels of its one channel are dark.
    So are those of night photographs, some 3 % of all; of fluorescence images 5 to 10 % are too
    crowded. No dtype tells them apart: both are kept as 8 and 16 bits and as numbers from 0 to 1.
    """
    if len(values) != 1:
        return False
    import numpy as np  # Late: names of priors must come at once.

    low, median, high = np.percentile(block_means(values[0]), [0.1, 50, 99.9])
    return bool(median - low < DARK * (high - low))


def block_means(plane: NDArray[Any]) -> NDArray[Any]:
    """Average (..., H, W) over blocks of pixels that blur makes alike: noise widens the range."""
    height, width = (n // BLOCK for n in plane.shape[-2:])
    cut = plane[..., : height * BLOCK, : width * BLOCK]
    blocks = cut.reshape(*plane.shape[:-2], height, BLOCK, width, BLOCK)
    means: NDArray[Any] = blocks.mean((-3, -1))
    return means
