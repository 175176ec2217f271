"""How the viewer feels during restorations: blocks of the GUI, Cancel, Preview, overhead, leaks.

python benchmarks/viewer.py [--part blocks]

Without a display: ``xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/viewer.py``. There
OpenGL is done in software, which takes time too: the rows of napari alone say how much. A block
longer than the GUI thread's own work is waiting: for the other threads, or other programs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from threading import Thread
from typing import Annotated, Any

import napari
import numpy as np
import psutil
import typer
from numpy.typing import NDArray
from qtpy.QtCore import QEventLoop, Qt, QThreadPool, QTimer
from scipy.ndimage import gaussian_filter

# Nothing that loads torch: the panel does that when it is opened.

# Fine enough to see blocks; that alone takes a twentieth of a core, so durations get a coarse one.
TICK, COARSE = 0.005, 0.05
# After a run the viewer still draws its result.
SETTLE = 1.0
GOALS = {"block": 0.1, "cancel": 2.0, "preview": 15.0, "overhead": 0.05}
Row = list[str]


class Part(StrEnum):
    """What can be measured alone."""

    BLOCKS = "blocks"
    CANCEL = "cancel"
    PREVIEW = "preview"
    OVERHEAD = "overhead"
    LEAKS = "leaks"


def main(
    part: Annotated[list[Part] | None, typer.Option(help="Only this; may be repeated.")] = None,
    evaluations: Annotated[int, typer.Option(help="Of the restorations but for Preview's.")] = 4,
    size: Annotated[int, typer.Option(help="Side of the image for blocks and cancel.")] = 2048,
    repeats: Annotated[int, typer.Option(help="Pairs of runs for the overhead.")] = 3,
    runs: Annotated[int, typer.Option(help="Runs of the leak check.")] = 100,
) -> None:
    """Print tables of the chosen parts, all by default."""
    measure: dict[Part, Callable[[], list[Row]]] = {
        Part.BLOCKS: lambda: blocks(size, evaluations),
        Part.CANCEL: lambda: cancel(size),
        Part.PREVIEW: lambda: preview(size),
        Part.OVERHEAD: lambda: overhead(size // 2, evaluations, repeats),
        Part.LEAKS: lambda: leaks(runs),
    }
    for chosen in part or Part:
        rows = measure[chosen]()
        # Only now, for it loads torch.
        from protocol import print_table

        print_table(chosen, ["", "measured", "goal"], rows)


def blocks(size: int, evaluations: int) -> list[Row]:
    """Measure how long the GUI thread was not available."""
    panel = open_panel(size)
    viewer, estimate = panel._viewer, np.zeros((size, size), np.float32)
    rows = []

    def add() -> None:
        viewer.add_image(estimate, name="estimate", contrast_limits=(0, 65535))

    def renew() -> None:
        viewer.layers["estimate"].data[:] += 1
        viewer.layers["estimate"].refresh()

    # What napari itself needs to show results, with nothing computed beside it.
    rows.append(_gaps("napari alone, new layer", watch(SETTLE, add)))
    renewed = np.concatenate([watch(0.25, renew) for _ in range(8)])
    rows.append(_gaps("napari alone, new data every 0.25 s", renewed))
    removed = watch(SETTLE, lambda: viewer.layers.remove("estimate"))
    rows.append(_gaps("napari alone, layer removed", removed))
    panel.advanced.evaluations.value = str(evaluations)
    for name in ("first", "second"):
        gaps = np.concatenate([watch(lambda: not panel.running, panel.run), watch(SETTLE)])
        rows.append(_gaps(f"{name} run, {size}²", gaps, GOALS["block"]))
        remove_results(panel)
    close(panel)
    return rows


def cancel(size: int) -> list[Row]:
    """Measure the end of a run after Cancel, at moments of the preparation and an evaluation."""
    panel = open_panel(size)
    panel.advanced.evaluations.value = "1"
    duration = run(panel)
    remove_results(panel)
    seconds = []
    for moment in np.linspace(0.05, 0.95, 7):
        panel.run()
        watch(moment * duration)
        seconds.append(run(panel, panel.cancel))
    close(panel)
    name = f"Cancel, {size}², longest and median of {len(seconds)} moments in {duration:.1f} s"
    return [[name, f"{max(seconds):.2f} s, {np.median(seconds):.2f} s", f"{GOALS['cancel']:g} s"]]


def preview(size: int) -> list[Row]:
    """Measure Preview with the default settings where 512 pixels a side are visible."""
    panel = open_panel(size)
    # Part of the scene since napari 0.9.
    getattr(panel._viewer, "scene", panel._viewer).camera.zoom *= size / 512
    watch(SETTLE)
    rows = []
    for name in ("first", "second"):
        seconds = run(panel, panel.preview)
        rows.append([f"Preview of 512², {name}", f"{seconds:.1f} s", f"{GOALS['preview']:g} s"])
    close(panel)
    return rows


def overhead(size: int, evaluations: int, repeats: int) -> list[Row]:
    """Compare runs in the viewer, estimates shown, with the core alone, by turns."""
    from napari_dmsp import deblur
    from napari_dmsp.core.psf import gaussian_psf

    panel = open_panel(size)
    panel.advanced.evaluations.value = str(evaluations)
    deblur_alone = partial(deblur, panel.image.data, gaussian_psf(2.0), iterations=evaluations)
    # OpenMP is slower with the threads of two callers, so that none may outlive its run.
    QThreadPool.globalInstance().setExpiryTimeout(0)
    run(panel)
    remove_results(panel)
    bare: list[float] = []
    viewer: list[float] = []

    def alone() -> None:
        thread = Thread(target=deblur_alone)
        begin = time.perf_counter()
        thread.start()
        thread.join()
        bare.append(time.perf_counter() - begin)

    def shown() -> None:
        viewer.append(run(panel))
        remove_results(panel)

    for number in range(repeats):
        # Other programs slow down whatever runs, so only neighbours are compared.
        for measure in (alone, shown) if number % 2 else (shown, alone):
            measure()
    close(panel)
    ratio = np.median(np.divide(viewer, bare)) - 1
    name = f"Overhead, {size}², {evaluations} evaluations, {np.median(bare):.1f} s alone"
    return [[name, f"{ratio:+.1%}", f"{GOALS['overhead']:.0%}"]]


def leaks(runs: int) -> list[Row]:
    """Count threads and memory after many short runs."""
    panel = open_panel(64)
    panel.advanced.evaluations.value = "1"
    process, rows = psutil.Process(), []
    for number in range(1, runs + 1):
        run(panel)
        remove_results(panel)
        if number in (min(20, runs), runs):
            memory = process.memory_info().rss / 2**20
            found = f"{process.num_threads()} threads, {memory:.0f} MB"
            rows.append([f"After {number} runs", found, ""])
    close(panel)
    return rows


def open_panel(size: int) -> Any:
    """Open a viewer with an image, 16-bit and grey, and the Deblur panel."""
    viewer = napari.Viewer()
    viewer.add_image(blurred_spots(size), name="spots")
    _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
    watch(SETTLE)
    return panel


def blurred_spots(size: int) -> NDArray[np.uint16]:
    """Simulate a micrograph."""
    rng = np.random.default_rng(0)
    spots = gaussian_filter((rng.random((size, size)) > 0.99).astype(np.float32), 2.0)
    noisy = 500 + 30000 * spots + 20 * rng.standard_normal((size, size), np.float32)
    return noisy.clip(0, 65535).astype(np.uint16)


def run(panel: Any, start: Callable[[], None] | None = None) -> float:
    """Run until the end, and return the seconds."""
    begin = time.perf_counter()
    watch(lambda: not panel.running, start or panel.run, COARSE)
    return time.perf_counter() - begin


def watch(
    until: Callable[[], bool] | float,
    begin: Callable[[], object] | None = None,
    period: float = TICK,
) -> NDArray[np.float64]:
    """Run the event loop until something holds, or for some seconds.

    Returns, for every tick of a timer in the GUI thread, the seconds since the one before, and how
    many of them the thread was at work. What ``begin`` does counts.
    """
    loop, timer = QEventLoop(), QTimer()
    ticks = [(time.perf_counter(), time.thread_time())]

    def tick() -> None:
        ticks.append((time.perf_counter(), time.thread_time()))
        if until() if callable(until) else ticks[-1][0] - ticks[0][0] >= until:
            loop.quit()

    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    timer.start(round(1000 * period))
    if begin is not None:
        begin()
    loop.exec()
    timer.stop()
    return np.diff(ticks, axis=0)


def remove_results(panel: Any) -> None:
    """Remove all layers but the image."""
    for layer in list(panel._viewer.layers):
        if layer is not panel.image:
            panel._viewer.layers.remove(layer)


def close(panel: Any) -> None:
    """Close the viewer and let Qt delete what it had."""
    panel._viewer.close()
    watch(SETTLE)


def _gaps(name: str, gaps: NDArray[np.float64], goal: float | None = None) -> Row:
    (longest, work), usual = 1000 * gaps.max(0), 1000 * np.percentile(gaps[:, 0], 99)
    count = np.count_nonzero(gaps[:, 0] > GOALS["block"])
    found = f"{longest:.0f} ms, 99 % {usual:.0f} ms, {count} above; own work {work:.0f} ms"
    return [f"GUI blocked: {name}", found, "" if goal is None else f"{1000 * goal:.0f} ms"]


if __name__ == "__main__":
    typer.run(main)
