from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage import data

from napari_dmsp import deblur, demosaic, load_prior, superres
from napari_dmsp.core import Prior, prepare_deblur, prior
from napari_dmsp.core.psf import motion_psf
from napari_dmsp.core.simulate import simulate_blur
from napari_dmsp.core.tiling import Tiled, bytes_per_pixel, pick_tile
from napari_dmsp.errors import DmspError
from napari_dmsp.windows import (
    CPU_TILE,
    FEATURE_BYTES,
    MIN_TILE,
    OVERLAP,
    STRIDE,
    memory_bytes,
    spans,
)

PSF = motion_psf(7, 30)


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:260, :230].astype(np.float32)


@pytest.fixture
def exact(monkeypatch):
    """Full precision: in bfloat16 another cut rounds otherwise, which is no matter of tiles."""
    monkeypatch.setattr(prior, "supports_bf16", lambda device: False)


TASKS = {
    "colour": lambda x, tile: deblur(
        simulate_blur(x, PSF, 2.55)[0], PSF, channel_axis=-1, tile=tile, iterations=4
    ),
    "grey": lambda x, tile: deblur(
        simulate_blur(x[..., 1], PSF, 2.55)[0], PSF, tile=tile, iterations=4
    ),
    "superres": lambda x, tile: superres(x[::2, ::2], 2, channel_axis=-1, tile=tile, iterations=4),
    "demosaic": lambda x, tile: demosaic(x[..., 1], tile=tile, iterations=4),
}


@pytest.mark.parametrize("task", TASKS)
def test_tiles_change_nothing(task, photo, exact):
    whole, tiled = (TASKS[task](photo, tile) for tile in (None, 192))
    limit = 1e-3 * np.ptp(whole.image)
    assert 0 < np.abs(whole.image - tiled.image).max() < limit
    assert tiled.noise_sigma == pytest.approx(whole.noise_sigma, rel=1e-3)
    assert tiled.settings["tile"] == 192


@pytest.mark.parametrize("size", [8, 191, 192, 193, 300, 1000, 1537, 4096, 30001])
@pytest.mark.parametrize("tile", [MIN_TILE, 200, 512, CPU_TILE])
def test_spans_cover_and_overlap(size, tile):
    parts = spans(size, tile)
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(end - begin <= tile for begin, end in parts)
    assert all(begin % STRIDE == 0 for begin, _ in parts)
    for (_, end), (begin, _) in pairwise(parts):
        assert end - begin >= OVERLAP
    # No more than needed, but for the multiples of the stride.
    assert len(parts) <= np.ceil(size / (tile - OVERLAP - STRIDE))


@pytest.mark.parametrize("shape", [(192, 700), (515, 333), (900, 8)])
def test_blending_weights_sum_to_one(shape):
    x = torch.rand(2, 3, *shape)
    torch.testing.assert_close(Tiled(lambda x, _: x, 200)(x, 0.1), x)


def test_a_small_image_is_taken_whole():
    seen = []
    Tiled(lambda x, _: seen.append(x.shape) or x, 200)(torch.rand(1, 1, 200, 120), 0.1)
    assert seen == [(1, 1, 200, 120)]


@pytest.mark.parametrize("tile", [None, 800])
def test_tiles_are_halved_where_memory_runs_out(tile):
    sides = []

    def small_machine(x, sigma):
        sides.append(max(x.shape[-2:]))
        if sides[-1] > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    tiled, x = Tiled(small_machine, tile), torch.rand(1, 1, 900, 400)
    torch.testing.assert_close(tiled(x, 0.1), x)
    failures = sum(side > 256 for side in sides)
    tiled(x, 0.1)
    # The smaller tile is remembered.
    assert sum(side > 256 for side in sides) == failures <= 2


def test_the_record_names_the_tile_that_was_used(photo):
    def small_machine(x, sigma):
        if max(x.shape[-2:]) > 250:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    image = np.tile(photo[..., 0], (2, 2))
    result = deblur(image, PSF, prior=small_machine, iterations=2, tile=None)
    # Half of what the prior sees: the image and what lies beyond its edge.
    assert result.settings["tile"] == (max(image.shape) + max(PSF.shape) - 1) // 2
    assert any("Memory ran out" in text for text in result.warnings)
    assert deblur(image, PSF, prior=lambda x, _: x, iterations=1).settings["tile"] is None


def test_other_errors_are_not_retried():
    def broken(x, sigma):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        Tiled(broken, 200)(torch.rand(1, 1, 300, 300), 0.1)


def test_too_little_memory_for_any_tile_says_what_was_needed(photo):
    def hungry(x, sigma):
        raise MemoryError

    job = prepare_deblur(photo[..., 0], PSF, prior=Prior(hungry, "hungry", channels=1))
    with pytest.raises(
        DmspError, match=r"260 x 230 pixels, which need about 0.0[0-9]+ GB; .*tile="
    ):
        list(job.states())


@pytest.mark.parametrize("tile", [0, -8, 100, 250.5, "large"])
def test_wrong_tiles(tile, photo):
    with pytest.raises(DmspError, match="tile="):
        deblur(photo[..., 0], PSF, tile=tile)


def test_automatic_tiles():
    network, cpu = load_prior("gray").denoiser, torch.device("cpu")
    assert pick_tile("auto", network, cpu) == CPU_TILE
    assert pick_tile("auto", lambda x, _: x, cpu) is None
    assert pick_tile(None, network, cpu) is None
    assert pick_tile(203, network, cpu) == 200


def test_panels_know_the_memory_of_the_bundled_networks():
    assert {bytes_per_pixel(load_prior(n).denoiser) for n in ("rgb", "gray")} == {FEATURE_BYTES}


def test_memory_grows_with_pixels_channels_and_tiles():
    network = bytes_per_pixel(load_prior("gray").denoiser)
    base = memory_bytes((4096, 4096), 1, 512, network)
    assert memory_bytes((8192, 4096), 1, 512, network) == pytest.approx(2 * base, rel=0.1)
    assert memory_bytes((4096, 4096), 3, 512, network) > 1.5 * base
    assert memory_bytes((4096, 4096), 1, None, network) > 2 * base
    assert memory_bytes((4096, 4096), 3, CPU_TILE, network) < 3.6 * 2**30
