"""The demo: a bundled photograph blurred with known motion, restored, and beside its truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.metrics import peak_signal_noise_ratio

from .core import Job, Restoration, prepare_deblur
from .core.psf import motion_psf
from .core.simulate import simulate_blur
from .dtypes import fit_dtype
from .errors import DmspError
from .files import check_writable, written_whole

DEFAULT_NAME = "napari-dmsp-demo.png"
PHOTOGRAPH = "dog-lossless.png"
# The head: small enough to be restored within a minute on a laptop.
CROP = (slice(130, 450), slice(90, 410))
MOTION = (20.0, -45.0)
NOISE_SIGMA = 2.55
UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class Case:
    """A blurred photograph, 8-bit like a camera's, with its PSF and its truth."""

    observed: NDArray[np.uint8]
    psf: NDArray[np.float32]
    truth: NDArray[np.uint8]


def make_case(seed: int = 0) -> Case:
    """Blur the photograph, with noise from ``seed``."""
    file = resources.files(__package__) / "samples" / PHOTOGRAPH
    photograph = iio.imread(file.read_bytes(), plugin="pillow")[CROP]
    psf = motion_psf(*MOTION)
    observed, truth = simulate_blur(photograph, psf, NOISE_SIGMA, seed)
    return Case(fit_dtype(observed, UINT8), psf, fit_dtype(truth, UINT8))


def prepare(case: Case, iterations: int | None = None, seed: int = 0) -> Job:
    """Prepare the restoration, which is not told the noise level."""
    return prepare_deblur(
        case.observed, case.psf, channel_axis=-1, iterations=iterations, seed=seed
    )


def check_path(out: Path | None) -> Path:
    """Return the PNG file to write; only the demo's own default may exist already."""
    path = Path(DEFAULT_NAME) if out is None else out
    if path.suffix.lower() != ".png":
        raise DmspError(f"out {path} must end in .png.")
    if out is not None and path.exists():
        raise DmspError(f"out {path} exists; choose another name.")
    check_writable(path, overwrite=True)
    return path


def write_comparison(path: Path, case: Case, restored: NDArray[np.float32]) -> tuple[float, float]:
    """Write before, after and truth side by side; return the PSNR before and after in dB."""
    result = fit_dtype(restored, UINT8)
    before, after = _psnr(case.truth, case.observed), _psnr(case.truth, result)
    panels = {
        f"blurred and noisy, {before:.1f} dB": case.observed,
        f"restored, {after:.1f} dB": result,
        "truth": case.truth,
    }
    height, width = case.truth.shape[:2]
    margin, strip = 8, 24
    size = (3 * width + 4 * margin, height + strip + margin)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, (caption, panel) in enumerate(panels.items()):
        left = margin + index * (width + margin)
        pen.text((left, strip // 2), caption, fill="black", anchor="lm", font_size=14)
        sheet.paste(Image.fromarray(panel), (left, strip))
    with written_whole(path) as partial:
        sheet.save(partial)
    return before, after


def import_viewer() -> Callable[[Case, Restoration], None]:
    """Return a function that shows the layers in napari, or say that napari is missing."""
    try:
        import napari  # noqa: TID251 - only where the viewer is asked for
        import qtpy.QtCore  # noqa: F401, TID251 - napari alone has no windows
    except ImportError as error:
        raise DmspError(
            f"--viewer needs napari with Qt ({error}); install it with pip install "
            '"napari-dmsp[all]".'
        ) from error

    def show(case: Case, result: Restoration) -> None:
        viewer: Any = napari.Viewer()
        for name, image in (
            ("truth", case.truth),
            ("blurred", case.observed),
            ("restored", fit_dtype(result.image, UINT8)),
        ):
            viewer.add_image(image, name=name, rgb=True)
        napari.run()

    return show


def _psnr(truth: NDArray[np.uint8], image: NDArray[Any]) -> float:
    return float(peak_signal_noise_ratio(truth, image, data_range=255))
