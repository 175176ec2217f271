"""The documentation's examples run, and do what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_a_new_degradation(capsys):
    text = (DOCS / "new_degradation.md").read_text(encoding="utf-8")
    names = {"__name__": "example"}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert capsys.readouterr().out.startswith("(128, 128) noise ")
    scene, observed, result = names["scene"], names["observed"], names["result"].image
    repeated = np.repeat(observed, 2, axis=0)
    assert np.square(result - scene).mean() < 0.7 * np.square(repeated - scene).mean()

    op, rng = names["RowBinning"](), torch.Generator().manual_seed(0)
    x, y = torch.rand(1, 1, 8, 6, generator=rng), torch.rand(1, 1, 4, 6, generator=rng)
    torch.testing.assert_close((op.forward(x) * y).sum(), (x * op.adjoint(y)).sum())
    fitted, misfit, _ = op.fit(y, x, 0.2)
    error = op.forward(fitted) - y
    assert misfit == pytest.approx(float(error.square().sum()))
    torch.testing.assert_close(op.adjoint(error) + 0.2 * (fitted - x), torch.zeros_like(x))
