"""Average the weights of two priors, one trained from the other.

python -m napari_dmsp.training.average FIRST SECOND OUT --share 0.7

A prior that is trained further on other images forgets some of what it knew; between both lie
weights that are better than either where both know something.

References
----------
.. [1] Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022,
   DOI 10.1109/CVPR52688.2022.00780.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file

from ..core import load_prior
from ..errors import DmspError
from ..files import write_json
from .train import write_tensors


def average_priors(first: Path, second: Path, out: Path, share: float) -> dict[str, Any]:
    """Write ``share`` (0 to 1) of the first prior's weights plus the rest of the second's.

    Both are files of the trainer. Returns the card, which is written beside ``out``.

    Raises
    ------
    DmspError
        If the forms differ, or ``out`` exists.
    """
    if not 0 <= share <= 1:
        raise DmspError(f"share={share} must be from 0 to 1.")
    if out.exists():
        raise DmspError(f"{out} exists; give another name.")
    priors = [load_prior(path) for path in (first, second)]
    forms = []
    for path in (first, second):
        with safe_open(path, framework="pt") as file:
            forms.append(file.metadata())
    if forms[0] != forms[1]:
        raise DmspError(f"{first} and {second} are networks of different forms.")
    one, other = load_file(first), load_file(second)
    tensors = {name: torch.lerp(other[name], one[name], share) for name in one}
    write_tensors(tensors, out, forms[0])
    card = priors[1].card | {
        "average": {
            path.stem: {"share": part, "sha256": prior.sha256}
            for path, part, prior in zip(
                (first, second), (share, round(1 - share, 9)), priors, strict=True
            )
        },
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    write_json(out.with_suffix(".json"), card)
    return card


def main(first: Path, second: Path, out: Path, share: Annotated[float, typer.Option()]) -> None:
    """Average the weights of two priors."""
    average_priors(first, second, out, share)


if __name__ == "__main__":
    typer.run(main)
