"""The pictures of the gallery: observations, and what the lines in docs/index.md make of them.

    python docs/make_gallery.py [NAME ...]

Each writes docs/images/gallery_NAME.jpg, before beside after, and prints their PSNR. The picture
above README.md is cut from those that lie there, before above after.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve
from scipy.signal import fftconvolve
from skimage.transform import resize

from napari_dmsp.core import microscope_psf
from napari_dmsp.core.operators import resize_matrix
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.simulate import shake_psf, simulate_blur

DOCS = Path(__file__).parent
# Micrometres, z/y/x.
VOXEL = (0.25, 0.1, 0.1)
BLACK, WHITE = 256, 4095
# What a sensor sees of red, green and blue, and the colours of its first pixels.
SENSOR, RGGB = np.array([0.5, 1.0, 0.65]), np.array([[0, 1], [1, 2]])
# Between panels, and the side of the parts in the picture above README.md, in pixels.
GAP, PART = 8, 200
# The upper left corners of those parts in the panels of the gallery.
CORNERS = {"shaken": (60, 100), "nuclei": (60, 60), "stack": (0, 0), "raw": (44, 16)}
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """What the code of the gallery is given by name, and what its result is compared with.

    Attributes
    ----------
    given : dict
        Names of the code, and their values.
    before : ndarray
        The observation, with as many pixels as the result.
    truth : ndarray
        What a perfect result is.
    show : callable
        Makes 8-bit pixels of the observation, the result or the truth.
    scale : callable
        Brings them to 0..255 where they are compared.
    shifts : int
        Pixels by which the result may lie elsewhere: a kernel that was found has no fixed centre.
    """

    given: dict[str, Any]
    before: Array
    truth: Array
    show: Callable[[Array], NDArray[np.uint8]]
    scale: Callable[[Array], Array]
    shifts: int = 0

    def psnr(self, image: Array) -> float:
        """Compare with the truth, in dB."""
        scaled, truth = self.scale(image).astype(float), self.scale(self.truth).astype(float)
        reach = range(-self.shifts, self.shifts + 1)
        inner = (slice(self.shifts, -self.shifts or None),) * 2
        moved = (np.roll(scaled, (i, j), (0, 1)) for i in reach for j in reach)
        return float(10 * np.log10(255**2 / min(np.square(m - truth)[inner].mean() for m in moved)))


def read(name: str) -> Array:
    """Read a bundled sample picture."""
    data = (resources.files("napari_dmsp") / "samples" / name).read_bytes()
    return iio.imread(data, extension=name[name.rindex(".") :])


def to_bytes(image: Array) -> NDArray[np.uint8]:
    """Round and clip to 8 bits."""
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def shaken(side: int = 320) -> Scene:
    """Shake a camera: an unknown kernel of 15 pixels, and noise of two grey levels."""
    part = slice(100, 100 + side + 14)
    blurred, truth = simulate_blur(read("city-lossless.png")[part, part], shake_psf(15, 1), 2)
    photograph = to_bytes(blurred)
    return Scene({"photograph": photograph}, photograph, truth, to_bytes, to_bytes, shifts=4)


def nuclei(side: int = 320) -> Scene:
    """Count photons, 20 at most, of nuclei under a blur of two pixels."""
    psf = gaussian_psf(2)
    part = slice(20, 20 + side + len(psf) - 1)
    sharp = read("bbbc039_A09_s1.tif")[part, part].astype(float)
    low, high = np.percentile(sharp, (0.1, 99.9))
    light, truth = simulate_blur(20 * ((sharp - low) / (high - low)).clip(0), psf)
    photons = np.random.default_rng(0).poisson(light.clip(0))
    given = {"photons": photons, "psf": psf}
    return Scene(given, photons, truth, lambda x: to_bytes(255 / 20 * x), lambda x: 255 / 20 * x)


def shells(shape: tuple[int, ...], count: int, seed: int) -> Array:
    """Draw hollow spheres with a faint content and a bright spot each."""
    random, size = np.random.default_rng(seed), np.multiply(shape, VOXEL)
    volume = np.zeros(shape)
    for _ in range(count):
        centre, radius = random.uniform(0, size), random.uniform(0.5, 1.4)
        low, high = (np.array(centre + way * (radius + 0.5)) / VOXEL for way in (-1, 1))
        window = tuple(slice(int(max(a, 0)), int(b) + 1) for a, b in zip(low, high, strict=True))
        part = volume[window]
        places = [np.arange(s.start, s.start + n) for s, n in zip(window, part.shape, strict=True)]
        grid = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1) * VOXEL
        distance = np.linalg.norm(grid - centre, axis=-1) - radius
        spot = centre + random.uniform(-0.4, 0.4, 3) * radius
        part += np.exp(-((distance / 0.12) ** 2)) + 0.1 * (distance < 0)
        part += 2 * np.exp(-np.square(grid - spot).sum(-1) / 0.12**2)
    return volume


def stack(side: int = 112) -> Scene:
    """Take a stack and one of beads with a widefield microscope, 200 photons in a voxel at most."""
    depth, random = side // 4, np.random.default_rng(0)
    optics = {"na": 1.4, "wavelength": 0.52, "voxel_size": VOXEL}
    psf = microscope_psf("widefield", **optics, shape=(2 * depth - 1, 63, 63)).values
    shape = tuple(n + k - 1 for n, k in zip((depth, side, side), psf.shape, strict=True))
    scene = shells(shape, int(np.prod(shape)) // 8000, seed=3)
    light = fftconvolve(scene, psf, mode="valid").clip(0)
    factor = 200 / light.max()
    observed = random.poisson(factor * light) + random.normal(0, 2, light.shape)
    inside = tuple(slice(k // 2, k // 2 + n) for n, k in zip(light.shape, psf.shape, strict=True))
    truth = factor * scene[inside]

    beads = np.zeros((len(psf), 160, 160))
    beads[depth - 1, 40::80, 40::80] = 1
    beads = fftconvolve(beads, psf, mode="same").clip(0)
    beads = random.poisson(2000 * beads / beads.max() + 10)
    peak = np.percentile(truth, 99.9)
    return Scene(
        {"stack": observed, "beads": beads}, observed, truth, cuts, lambda v: 255 / peak * v
    )


def cuts(volume: Array) -> NDArray[np.uint8]:
    """Show the middle plane above the middle xz cut, in a scale of its own."""
    shown = 255 / np.percentile(volume, 99.7) * volume.clip(0)
    _, height, width = volume.shape
    cut = resize(shown[:, height // 2], (round(len(volume) * VOXEL[0] / VOXEL[1]), width), order=1)
    gap = np.full((4, width), 255.0)
    return to_bytes(np.concatenate([shown[len(volume) // 2], gap, cut]))


def raw(side: int = 144) -> Scene:
    """Read out a sensor of 12 bits under a filter array, 800 electrons at white."""
    part = slice(110, 110 + 2 * side), slice(80, 80 + 2 * side)
    sharp = read("dog-lossless.png")[part] / 255
    light = np.where(sharp > 0.04045, ((sharp + 0.055) / 1.055) ** 2.4, sharp / 12.92)
    rows, columns = light.shape[0] // 2, light.shape[1] // 2
    light = light.reshape(rows, 2, columns, 2, 3).mean((1, 3)) * SENSOR
    filters = np.tile(RGGB, (rows // 2, columns // 2))[..., None] == np.arange(3)
    random = np.random.default_rng(0)
    seen = random.poisson(800 * (light * filters).sum(-1)) + random.normal(0, 3, light.shape[:2])
    counts = np.rint(BLACK + (WHITE - BLACK) * seen / 800).clip(0, WHITE).astype(np.uint16)
    weights = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])[..., None]
    values, kept = (
        convolve(x.astype(float), weights) for x in (counts[..., None] * filters, filters)
    )
    truth = BLACK + (WHITE - BLACK) * light
    return Scene({"raw": counts}, values / kept, truth, developed, developed)


def developed(counts: Array) -> NDArray[np.uint8]:
    """Balance colours and apply the curve of sRGB."""
    light = ((counts - BLACK) / (WHITE - BLACK) / SENSOR).clip(0, 1)
    curved = 1.055 * light.clip(0.0031308) ** (1 / 2.4) - 0.055
    return to_bytes(255 * np.where(light > 0.0031308, curved, 12.92 * light))


def small(side: int = 320) -> Scene:
    """Reduce a photograph three times, as programs do."""
    side = side // 3 * 3
    truth = read("city-lossless.png")[190 : 190 + side, 100 : 100 + side].astype(np.float32)
    down, up = resize_matrix(side, side // 3), resize_matrix(side // 3, side)
    photograph = to_bytes(down @ truth @ down.T)
    before = up @ photograph @ up.T
    return Scene({"photograph": photograph}, before, truth, to_bytes, to_bytes)


SCENES = {"shaken": shaken, "nuclei": nuclei, "stack": stack, "raw": raw, "small": small}


def code(name: str) -> str:
    """Return the lines below a picture of the gallery."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    return re.findall(rf"images/gallery_{name}\..*?```python\n(.*?)```", text, re.DOTALL)[0]


def restore(name: str, scene: Scene) -> Array:
    """Run the lines of the gallery."""
    names = dict(scene.given)
    exec(code(name), names)
    return names["result"].image


def main() -> None:
    """Write the pictures."""
    for name in sys.argv[1:] or SCENES:
        scene = SCENES[name]()
        after = restore(name, scene)
        print(f"{name}: {scene.psnr(scene.before):.1f} dB, {scene.psnr(after):.1f} dB")
        write(name, join([enlarge(scene.show(image)) for image in (scene.before, after)], axis=1))
    pairs = []
    for name, (row, column) in CORNERS.items():
        sheet = iio.imread(picture(name), mode="RGB")
        right = column + (sheet.shape[1] + GAP) // 2
        parts = [sheet[row : row + PART, left : left + PART] for left in (column, right)]
        pairs.append(join(parts, axis=0))
    write("", join(pairs, axis=1))


def picture(name: str) -> Path:
    """Say where a picture lies."""
    return DOCS / f"images/gallery{'_' * bool(name)}{name}.jpg"


def join(panels: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Put panels of one size beside each other, with white between them."""
    shape = list(panels[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([p for panel in panels for p in (panel, gap)][:-1], axis)


def enlarge(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the pixels of small panels."""
    factor = max(1, 300 // panel.shape[1])
    return panel.repeat(factor, axis=0).repeat(factor, axis=1)


def write(name: str, image: NDArray[np.uint8]) -> None:
    """Write a picture."""
    Image.fromarray(image).save(picture(name), quality=92, subsampling=0)


if __name__ == "__main__":
    main()
