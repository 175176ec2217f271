"""The picture of the benchmarks: Figure 3, and PSNR against evaluations. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from published import BELOW, CASES
from report import CURVE, FIGURE_3, Row


def draw(rows: list[Row], file: Path) -> None:
    """Draw both panels from the rows of `report`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    ratios = [r["ratio"] for r in rows if r["table"] == FIGURE_3 and "ratio" in r]
    draw_ratios(left, ratios)
    draw_curves(right, [r for r in rows if r["table"] == CURVE])
    figure.savefig(file, dpi=150)


def draw_ratios(axes: Axes, ratios: list[float]) -> None:
    """Draw how many images lie below each error ratio."""
    edge = max(4.0, 1.05 * max(ratios))
    axes.step([0, *sorted(ratios), edge], [*range(len(ratios) + 1), len(ratios)], where="post")
    axes.lines[0].set_label(f"measured, {len(ratios)} images")
    if len(ratios) == CASES["levin"]:
        axes.plot(*zip(*BELOW.items(), strict=True), "k^", label="paper, quoted")
    axes.set(
        xlim=(0.5, edge),
        ylim=(0, len(ratios) + 1),
        xlabel="error ratio",
        ylabel="images below",
        title="Kernel and noise unknown, Levin et al.",
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def draw_curves(axes: Axes, rows: list[Row]) -> None:
    """Draw PSNR against evaluations, a point where only the end is known."""
    for method in dict.fromkeys(r["method"] for r in rows):
        points = [(r["evaluations"], r["psnr"]) for r in rows if r["method"] == method]
        axes.plot(*np.array(points).T, "-" if len(points) > 1 else "o", label=method)
    axes.set(
        xscale="log",
        xlabel="evaluations of the denoiser",
        ylabel="PSNR in dB",
        title=f"Deblurring, {rows[0]['set']}",
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend()
