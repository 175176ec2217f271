"""The curves of a training."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.utils.theme import Theme

DRAW_SECONDS = 0.5
PSNR_RANGE = 0.5
# Readable in the dark theme and in the light one.
LOSS_COLOR, PSNR_COLOR = "#4c9be8", "#e08e2b"


class LossPlot:
    """Loss and validation PSNR over the minutes; ``native`` is to be put into a layout."""

    def __init__(self) -> None:
        # Imported with the first training: nobody else needs it.
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        self._figure = Figure(layout="constrained")
        self.native: Any = FigureCanvasQTAgg(self._figure)  # type: ignore[no-untyped-call]
        self.native.setMinimumWidth(240)
        self.native.setFixedHeight(190)
        self.native.setToolTip(
            "At last the squared error is minimised instead of the absolute one: the loss jumps."
        )
        left = self._figure.add_subplot(xlabel="minutes")
        right = left.twinx()
        left.set_ylabel("loss", color=LOSS_COLOR)
        right.set_ylabel("PSNR at σ 25 (dB)", color=PSNR_COLOR)
        self._axes = left, right
        self._loss = left.plot([], [], color=LOSS_COLOR, linewidth=1)[0]
        self._psnr = right.plot([], [], color=PSNR_COLOR, linewidth=1, marker=".")[0]
        self._points: dict[str, list[tuple[float, float]]] = {}
        self._drawn = 0.0
        for axes in self._axes:
            axes.locator_params(nbins=5)
            axes.tick_params(labelsize=8)
            axes.xaxis.label.set_fontsize(8)
            axes.yaxis.label.set_fontsize(8)

    def start(self, minutes: float) -> None:
        """Make room for a new run."""
        self._points = {"loss": [], "psnr25": []}
        self._axes[0].set_xlim(0, minutes)
        self.draw()

    def add(self, values: dict[str, float]) -> None:
        """Add what a training reports; it is drawn at most twice a second."""
        for name, points in self._points.items():
            # The PSNR is repeated until there is a new one.
            if name in values and (name == "loss" or not points or points[-1][1] != values[name]):
                points.append((values["minutes"], values[name]))
        if time.perf_counter() - self._drawn >= DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw all points."""
        for points, line in zip(self._points.values(), (self._loss, self._psnr), strict=True):
            line.set_data([minutes for minutes, _ in points], [value for _, value in points])
        for axes in self._axes:
            axes.relim()
            axes.autoscale_view(scalex=False)
        self._widen_psnr()
        self._drawn = time.perf_counter()
        self.native.draw_idle()

    def _widen_psnr(self) -> None:
        """Leave differences small that nobody would see in an image."""
        axes = self._axes[1]
        low, high = axes.get_ylim()
        if high - low < PSNR_RANGE:
            middle = (low + high) / 2
            axes.set_ylim(middle - PSNR_RANGE / 2, middle + PSNR_RANGE / 2, auto=True)

    def paint(self, theme: Theme) -> None:
        """Take the colours of a theme of the viewer."""
        background, text, frame = (
            getattr(theme, name).as_hex() for name in ("background", "text", "secondary")
        )
        self._figure.set_facecolor(background)
        for axes in self._axes:
            axes.set_facecolor(background)
            axes.tick_params(color=frame, labelcolor=text)
            axes.xaxis.label.set_color(text)
            for spine in axes.spines.values():
                spine.set_color(frame)
        self.native.draw_idle()
