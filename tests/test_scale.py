import json
import subprocess
import sys
import threading
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import zarr
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import napari_dmsp
from napari_dmsp import core, scale
from napari_dmsp.cli import app
from napari_dmsp.cluster import output
from napari_dmsp.cluster.lazy import plan_of
from napari_dmsp.core import tasks
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.plan import Axes, Plan, restore_array
from napari_dmsp.plan.survey import groups, make_survey
from napari_dmsp.scale import Axis, Survey
from napari_dmsp.scale.restore import as_stack
from napari_dmsp.settings import Deblur
from napari_dmsp.windows import Lines

PSF = gaussian_psf(1)
FAST = {"iterations": 1, "noise_sigma": 0.02}


def texture(shape, seed=0):
    """Noise of two scales and noise of pixels, about 0..1."""
    rng = np.random.default_rng(seed)
    fine, coarse = (gaussian_filter(rng.normal(size=shape), s) for s in (1.5, 6))
    image = 0.5 + fine / fine.std() / 8 + coarse / coarse.std() / 6
    return (image + rng.normal(0, 0.01, shape)).astype(np.float32)


def smooth(x, sigma):
    """A denoiser that takes no time."""
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Counter:
    """A denoiser that counts its calls, and stops the run at one of them."""

    def __init__(self, stop=None):
        self.calls, self.stop, self.lock = 0, stop, threading.Lock()
        self.__name__ = "counter"

    def __call__(self, x, sigma):
        with self.lock:
            self.calls += 1
            if self.calls == self.stop:
                raise RuntimeError("stopped")
        return smooth(x, sigma)

    def __getstate__(self):
        # What it counts does not make it another denoiser.
        return {"denoiser": smooth}


@pytest.fixture
def exact(monkeypatch):
    """Compute in float32, whatever the machine has: tiles may choose differently."""
    monkeypatch.setattr("napari_dmsp.core.prior.supports_bf16", lambda device: False)


@pytest.fixture
def big(monkeypatch):
    """Let planes of 200 pixels be large: samples and overviews are smaller than they are."""
    monkeypatch.setattr("napari_dmsp.plan.survey.SAMPLE", 96)
    monkeypatch.setattr("napari_dmsp.plan.survey.BLOCK", 24)


@pytest.fixture
def ome(tmp_path):
    """An OME-Zarr image (t, z, y, x) of 2 x 3 planes."""
    pixels = (texture((2, 3, 40, 48)) * 1000).clip(0).astype("u2")
    names = [("t", "second"), ("z", "micrometer"), ("y", "micrometer"), ("x", "micrometer")]
    image = {
        "axes": [{"name": name, "unit": unit} for name, unit in names],
        "datasets": [
            {
                "path": "full",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, 2.0, 0.5, 0.5]},
                    {"type": "translation", "translation": [0.0, 10.0, 1.0, 0.0]},
                ],
            }
        ],
    }

    def make(zarr_format=3):
        path = tmp_path / f"in{zarr_format}.zarr"
        attributes = {"multiscales": [image]}
        if zarr_format == 3:
            attributes = {"ome": {"version": "0.5", **attributes}}
        group = zarr.create_group(path, zarr_format=zarr_format, attributes=attributes)
        array = group.create_array("full", shape=pixels.shape, chunks=(1, 2, 32, 32), dtype="u2")
        array[:] = pixels
        group.create_array("half", shape=(2, 3, 20, 24), dtype="u2")
        return path, pixels

    return make


def differ_most(tiled, whole, border=0):
    inside = slice(border, whole.shape[0] - border), slice(border, whole.shape[1] - border)
    return np.abs(tiled - whole)[inside].max() / np.ptp(whole)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_tiles_are_deblurred_like_the_whole(axis):
    image = (
        texture((300, 290))
        if axis is None
        else np.stack([texture((300, 290), seed) for seed in range(3)], axis)
    )
    options = {"channel_axis": axis, "iterations": 3, "noise_sigma": 0.01}
    whole = napari_dmsp.deblur(image, PSF, **options).image
    tiled = scale.deblur(image, PSF, chunks=140, **options)
    assert tiled.numblocks == ((2, 2) if axis is None else (1, 2, 2) if axis == 0 else (2, 2, 1))
    tiled = tiled.compute()
    if axis == 0:
        tiled, whole = (np.moveaxis(a, 0, -1) for a in (tiled, whole))
    # What is beyond the edge of the plane is guessed, from more or less of it.
    assert differ_most(tiled, whole, border=16) < 1e-3


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("factor", [2, 1.5])
def test_tiles_are_enlarged_like_the_whole(factor):
    image = texture((150, 146))
    options = {"iterations": 3, "noise_sigma": 0.01}
    whole = napari_dmsp.superres(image, factor, **options).image
    tiled = scale.superres(image, factor, chunks=110, **options)
    assert tiled.shape == whole.shape
    assert tiled.numblocks > (1, 1)
    assert differ_most(tiled.compute(), whole) < 1e-3


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("pattern", ["GRBG", "X-Trans", np.array([[0, 1, 2], [1, 1, 0]])])
def test_tiles_are_demosaiced_like_the_whole(pattern):
    mosaic = texture((300, 286))
    options = {"iterations": 3, "noise_sigma": 0.01}
    whole = napari_dmsp.demosaic(mosaic, pattern, **options).image
    tiled = scale.demosaic(mosaic, pattern, chunks=140, **options)
    assert tiled.numblocks == (2, 2, 1)
    assert differ_most(tiled.compute(), whole) < 1e-3


@pytest.mark.parametrize("size", [8, 65, 100, 300, 1027])
@pytest.mark.parametrize("step", [4, 8, 24, 40])
@pytest.mark.parametrize("halo", [0, 10, 64])
def test_windows_lie_on_the_grid(size, step, halo):
    lines = Lines.cut(size, 70, halo, step)
    assert [a for a, _ in lines.parts] == [0, *(b for _, b in lines.parts[:-1])]
    assert lines.parts[-1][1] == size
    lengths = {b - a for a, b in lines.parts[:-1]}
    assert len(lengths) <= 1
    for (begin, end), (first, last) in zip(lines.parts, lines.windows, strict=True):
        assert 0 <= first <= begin < end <= last <= size
        assert first % step == 0
        assert (size - last) % step == 0
        assert first == 0 or begin - first >= halo
        assert last == size or last - end >= halo


def test_planes_of_one_tile_are_restored_as_usual():
    stack = np.stack([texture((40, 48), seed) for seed in range(6)]).reshape(2, 3, 40, 48)
    result = scale.deblur(stack, PSF, iterations=2)
    assert result.chunks == ((1, 1), (1, 1, 1), (40,), (48,))
    assert not groups(plan_of(result))
    found = result.compute(scheduler="synchronous")
    for index in ((0, 0), (1, 2)):
        expected = napari_dmsp.deblur(stack[index], PSF, iterations=2).image
        np.testing.assert_array_equal(found[index], expected)
    assert found.dtype == np.float32


def test_kernels_are_found_per_plane():
    image = gaussian_filter(texture((64, 70)), 1)
    result = scale.deblur(image, psf_size=3, prior=smooth, iterations=1).compute()
    assert result.shape == image.shape


def test_one_kernel_and_noise_level_for_the_tiles_of_a_plane(monkeypatch):
    monkeypatch.setattr("napari_dmsp.plan.survey.SAMPLE", 64)
    monkeypatch.setattr("napari_dmsp.plan.survey.BLOCK", 16)
    image = texture((200, 130))
    # With such a halo, all tiles see the whole plane.
    lazy = scale.deblur(image[None], psf_size=3, chunks=80, halo=200, prior=smooth, iterations=1)
    plan = plan_of(lazy)
    assert groups(plan) == {(0,): [(0,)]}
    survey = make_survey(plan, [(0,)], None)
    assert max(survey.psf.shape) <= 3
    # What is wrong with the kernel acts like noise.
    assert survey.noise_sigma >= 2 / 255 * survey.reference.units.scale
    options = {"noise_sigma": survey.noise_sigma, "prior": smooth, "iterations": 1}
    job = tasks.prepare_deblur(image, survey.psf, reference=survey.reference, **options)
    found = lazy[0].compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, core.run(job).image)


@pytest.mark.usefixtures("big")
def test_one_survey_for_a_stack():
    stack = np.stack([texture((40, 48), seed) * (seed + 1) for seed in range(4)])
    lazy = scale.deblur(stack, PSF, survey="stack", iterations=1)
    plan = plan_of(lazy)
    assert groups(plan) == {(0,): [(0,), (1,), (3,)]}
    survey = make_survey(plan, [(0,), (1,), (3,)], "gray")
    chosen = stack[[0, 1, 3]]
    assert survey.reference.units.scale == pytest.approx(
        np.subtract(*np.percentile(chosen, [99.9, 0.1]))
    )
    options = {"noise_sigma": survey.noise_sigma, "iterations": 1}
    job = tasks.prepare_deblur(stack[2], PSF, prior="gray", reference=survey.reference, **options)
    np.testing.assert_array_equal(lazy[2].compute(scheduler="synchronous"), core.run(job).image)


def test_surveys_are_written_down_exactly():
    rng = np.random.default_rng(0)
    grey = gaussian_filter(rng.poisson(gaussian_filter(rng.random((64, 64)), 3) ** 9 * 1e5), 1.0)
    mosaic = (texture((32, 32)) * 9000).clip(0).astype("u2")
    jobs = [
        tasks.prepare_deblur(grey.astype(float), PSF),
        tasks.prepare_deblur((texture((32, 32)) * 200).clip(0).astype("u1"), PSF),
        tasks.prepare_demosaic(mosaic),
    ]
    assert jobs[2].reference.encoding
    assert jobs[1].reference.units.bounds
    for job in jobs:
        survey = Survey(None, job.reference, 0.1, PSF)
        copy = Survey.from_json(survey.to_json())
        assert copy.reference == survey.reference
        assert copy.noise_sigma == survey.noise_sigma
        np.testing.assert_array_equal(copy.psf, PSF)
        assert copy.psf.dtype == np.float32


def test_nothing_is_read_before_it_is_needed():
    def read():
        raise AssertionError

    source = da.from_delayed(dask.delayed(read)(), (10, 5000, 4000), np.float32)
    assert scale.deblur(source, PSF, chunks=500).shape == source.shape
    assert scale.superres(source, 1.5).shape == (10, 7500, 6000)
    assert scale.demosaic(source, mask=np.zeros((5000, 4000))).chunksize == (1, 1000, 1000, 3)


def test_what_is_constant_stays():
    stack = np.stack([np.full((200, 90), 7), np.zeros((200, 90))]).astype("u2")
    options = {"chunks": 80, "prior": smooth, **FAST}
    for array in (
        scale.deblur(stack, PSF, **options),
        scale.superres(stack, 2, **options),
        scale.demosaic(stack, **options),
        scale.deblur(stack, PSF, survey="stack", dtype="u1", **options),
    ):
        first, second = array.compute()
        assert (first == 7).all()
        assert (second == 0).all()


def test_integers_are_rounded_and_clipped():
    image = (texture((40, 48)) * 400 - 100).clip(0, 255).astype("u1")
    floats, integers = (
        scale.deblur(image, PSF, dtype=dtype, iterations=1).compute(scheduler="synchronous")
        for dtype in (np.float32, np.uint8)
    )
    np.testing.assert_array_equal(integers, np.rint(floats).clip(0, 255))
    assert integers.dtype == np.uint8


@pytest.mark.usefixtures("big")
def test_masks():
    stack = np.stack([texture((200, 120)), texture((200, 120), 1)])
    bad = np.zeros((200, 120), bool)
    bad[50:53, 60], bad[:, 100:] = True, True
    broken = np.where(bad, np.nan, stack)
    options = {"chunks": 80, "prior": smooth, "iterations": 1}
    one = scale.deblur(broken, PSF, mask=bad, **options).compute()
    each = scale.deblur(broken, PSF, mask=da.from_array(np.isnan(broken)), **options).compute()
    np.testing.assert_array_equal(one, each)
    assert np.isfinite(one).all()
    # Nothing is seen in the last tiles.
    hidden = np.zeros((200, 120), bool)
    hidden[72:] = True
    assert np.isfinite(scale.deblur(stack, PSF, mask=hidden, halo=8, **options).compute()).all()


def test_sources(tmp_path, ome):
    pixels = (texture((3, 40, 48)) * 1000).clip(0).astype("u2")
    plain = zarr.create_array(
        tmp_path / "a.zarr", shape=pixels.shape, chunks=(2, 32, 32), dtype="u2"
    )
    plain[:] = pixels
    tifffile.imwrite(tmp_path / "mapped.tif", pixels, photometric="minisblack")
    tifffile.imwrite(tmp_path / "big.tif", pixels, photometric="minisblack", byteorder=">")
    tifffile.imwrite(tmp_path / "packed.tif", pixels, photometric="minisblack", compression="zlib")
    sources = [
        pixels,
        da.from_array(pixels, chunks=16),
        plain,
        *(tmp_path / name for name in ("a.zarr", "mapped.tif", "big.tif", "packed.tif")),
        str(tmp_path / "a.zarr"),
    ]
    expected, *others = (
        scale.deblur(s, PSF, prior=smooth, **FAST).compute(scheduler="synchronous") for s in sources
    )
    for other in others:
        np.testing.assert_array_equal(other, expected)
    path, held = ome(2)
    for source in (path, path / "full", zarr.open(path, mode="r")):
        stack = as_stack(source)
        assert (stack.array == held).all().compute()


def test_colours_of_tiff_files(tmp_path):
    colours = (texture((2, 40, 48, 3)) * 200).clip(0).astype("u1")
    tifffile.imwrite(tmp_path / "in.tif", colours, photometric="rgb")
    stack = scale.open_stack(tmp_path / "in.tif")
    assert stack.channel_axis == 3
    result = scale.deblur(stack, PSF, prior=smooth, **FAST)
    scale.write(result, tmp_path / "out.zarr", like=stack)
    written = scale.open_stack(tmp_path / "out.zarr")
    assert [axis.name for axis in written.axes][1:] == ["c", "y", "x"]
    np.testing.assert_array_equal(np.moveaxis(written.array.compute(), 1, -1), result.compute())


@pytest.mark.parametrize(
    ("options", "axes"),
    [
        (
            {"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "unit": "um"}},
            (Axis("z"), Axis("y", "micrometer", 0.5), Axis("x", "micrometer", 0.25)),
        ),
        (
            {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 3, "PhysicalSizeZ": 2}},
            (Axis("z", "micrometer", 2), Axis("y"), Axis("x", "micrometer", 3)),
        ),
    ],
)
def test_pixel_sizes_of_tiff_files(tmp_path, options, axes):
    path = tmp_path / "in.ome.tif" if "ome" in options else tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((2, 16, 20), "u2"), photometric="minisblack", **options)
    assert scale.open_stack(path).axes == axes


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_of_ome_zarr(tmp_path, ome, zarr_format):
    path, pixels = ome(zarr_format)
    stack = scale.open_stack(path)
    assert stack.axes[1:3] == (
        Axis("z", "micrometer", 2.0, 10.0),
        Axis("y", "micrometer", 0.5, 1.0),
    )
    part = stack.select([1, slice(None, None, 2)])
    np.testing.assert_array_equal(part.array.compute(), pixels[1:, ::2])
    out = tmp_path / "out.zarr"
    scale.write(scale.superres(part, 2, prior=smooth, **FAST), out, like=part)
    result = scale.open_stack(out)
    assert result.array.shape == (1, 2, 80, 96)
    assert result.zarr_format == zarr_format
    # Both grids share their outer edges.
    assert result.axes == (
        Axis("t", "second", 1.0, 1.0),
        Axis("z", "micrometer", 4.0, 10.0),
        Axis("y", "micrometer", 0.25, 0.875),
        Axis("x", "micrometer", 0.25, -0.125),
    )
    scale.write(scale.demosaic(stack, prior=smooth, **FAST), out, like=stack, overwrite=True)
    assert [axis.name for axis in scale.open_stack(out).axes] == ["t", "c", "z", "y", "x"]


def test_torch_has_one_thread_in_each_of_dasks(monkeypatch):
    before, seen, caller = torch.get_num_threads(), [], set()

    def denoiser(x, sigma):
        seen.append(torch.get_num_threads())
        caller.add(threading.current_thread() is threading.main_thread())
        return smooth(x, sigma)

    lazy = scale.deblur(
        np.stack([texture((40, 48), s) for s in range(8)]), PSF, prior=denoiser, **FAST
    )
    torch.set_num_threads(3)
    try:
        for _ in range(2):
            lazy.compute(scheduler="threads", num_workers=4)
        assert seen == [1] * 16
        assert torch.get_num_threads() == 3
        fresh = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert fresh == [3]
        # Alone, a task may use all.
        seen.clear()
        lazy.compute(scheduler="synchronous")
        assert set(seen) == {3}
    finally:
        torch.set_num_threads(before)


def test_every_worker_has_a_gpu(monkeypatch):
    assert scale.pick_worker_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    # Not within a worker.
    assert scale.pick_worker_device("auto") == "auto"
    for name, device in ((0, 0), (5, 1), ("node-7", 3), ("tcp://10.0.0.1:40002", 2)):
        worker = type("Worker", (), {"name": name})
        monkeypatch.setattr("distributed.get_worker", lambda worker=worker: worker)
        assert scale.pick_worker_device("auto") == f"cuda:{device}"
        assert scale.pick_worker_device("cuda:0") == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert scale.pick_worker_device("auto") == "auto"


@pytest.mark.usefixtures("big")
def test_a_stopped_run_goes_on(tmp_path):
    stack, out = np.stack([texture((200, 90), s) for s in range(3)]), tmp_path / "out.zarr"

    def make(denoiser):
        return scale.deblur(stack, PSF, chunks=100, prior=denoiser, iterations=1)

    counts = []
    # Three surveys, then six tiles.
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(RuntimeError, match="stopped") as failure:
            scale.write(make(Counter(stop=6)), out)
        assert failure.value.__notes__ == ["In plane 1."]
        notes = (tmp_path / "out.zarr.progress").read_text().splitlines()
        done = sum('"part"' in line for line in notes)
        # One tile may have been restored, but not written.
        assert done in (1, 2)
        other = scale.deblur(stack, PSF, chunks=100, prior=Counter(), iterations=2)
        with pytest.raises(DmspError, match="other input or settings"):
            scale.write(other, out)
        rest = Counter()
        scale.write(make(rest), out, progress=lambda *state: counts.append(state))
    assert rest.calls == 6 - done
    assert counts == [(n, 9) for n in range(3 + done, 10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]
    expected = make(Counter()).compute(scheduler="synchronous")
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], expected)


def test_denoisers_of_one_name_are_told_apart():
    stack = texture((40, 48))[None]

    def name_of(gain):
        return scale.deblur(stack, PSF, prior=lambda x, sigma: gain * smooth(x, sigma)).name

    assert name_of(1.0) == name_of(1.0)
    assert name_of(1.0) != name_of(0.9)


def test_an_interrupt_keeps_what_is_done(tmp_path):
    stack, out = np.stack([texture((40, 48), s) for s in range(4)]), tmp_path / "out.zarr"
    lazy = scale.deblur(stack, PSF, prior=smooth, **FAST)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(KeyboardInterrupt, match="2 of 4 parts are restored and kept in"):
            scale.write(lazy, out, progress=interrupt)
        counts = []
        scale.write(lazy, out, progress=lambda *state: counts.append(state))
    assert counts[0] == (2, 4)
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], lazy.compute())


def test_an_interrupt_does_not_wait_for_the_parts_in_line(tmp_path):
    stack, counter = np.stack([texture((40, 48), s) for s in range(40)]), Counter()

    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    lazy = scale.deblur(stack, PSF, prior=counter, **FAST)
    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(KeyboardInterrupt, match="1 of 40 parts"),
    ):
        scale.write(lazy, tmp_path / "out.zarr", progress=interrupt)
    assert counter.calls < 20


def test_masked_arrays_bring_their_mask(tmp_path):
    stack = np.stack([texture((40, 48), s) for s in range(2)])
    hidden = np.zeros(stack.shape, bool)
    hidden[:, 4:7, 9] = True
    masked = np.ma.array(np.where(hidden, 9, stack), mask=hidden)
    found = scale.deblur(masked, PSF, prior=smooth, **FAST).compute()
    expected = scale.deblur(stack, PSF, mask=hidden, prior=smooth, **FAST).compute()
    np.testing.assert_array_equal(found, expected)
    plan = Plan.of(
        Deblur(psf=PSF, prior=smooth, iterations=1, noise=0.02), masked, Axes.of((2, 40, 48))
    )
    np.testing.assert_array_equal(restore_array(plan).image, expected)


def test_another_denoiser_is_another_setting(tmp_path):
    """Two denoisers of one name must never be mixed."""
    stack, out = np.stack([texture((40, 48), s) for s in range(2)]), tmp_path / "out.zarr"

    def denoiser(width):
        return lambda x, sigma: torch.nn.functional.avg_pool2d(x, width, 1, width // 2)

    def interrupt(done, total):
        if done == 1:
            raise KeyboardInterrupt

    first, second = (scale.deblur(stack, PSF, prior=denoiser(n), **FAST) for n in (3, 5))
    with pytest.raises(KeyboardInterrupt):
        scale.write(first, out, progress=interrupt)
    with pytest.raises(DmspError, match="other input or settings"):
        scale.write(second, out)
    scale.write(first, out)
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], first.compute())


def test_the_record_stays_with_the_pixels(tmp_path):
    stack = np.stack([texture((70, 64), 0), np.full((70, 64), 3, "f4"), texture((70, 64), 1)])
    out = tmp_path / "out.zarr"
    options = {"psf_size": 3, "method": "sgd", "iterations": 1, "prior": smooth}
    returned = scale.write(scale.deblur(stack, **options), out, about={"input": "a.tif"})
    record = zarr.open(out, mode="r").attrs["napari-dmsp"]
    assert record == returned
    alone = [napari_dmsp.deblur(stack[i], **options) for i in (0, 2)]
    assert record["noise_sigma"] == [alone[0].noise_sigma, None, alone[1].noise_sigma]
    assert record["settings"]["task"] == "deblur"
    assert record["evaluations"] == [1, None, 1]
    np.testing.assert_array_equal(np.float32(record["psf"][2]), alone[1].psf)
    assert record["psf"][1] is None
    assert record["input"] == "a.tif"
    assert record["warnings"] is not None


@pytest.mark.usefixtures("big")
def test_the_record_of_a_plane_of_parts(tmp_path):
    lazy = scale.deblur(texture((200, 90)), PSF, chunks=100, prior=smooth, iterations=2)
    record = scale.write(lazy, tmp_path / "out.zarr")
    assert record["evaluations"] == 2 * 2
    # Sums of threads are rounded in any order.
    level = make_survey(plan_of(lazy), [()], None).noise_sigma
    assert record["noise_sigma"] == pytest.approx(level, rel=1e-6)


def test_outputs_are_safe(tmp_path, ome):
    path, _ = ome()
    array = scale.deblur(path, PSF, prior=smooth, **FAST)
    with pytest.raises(DmspError, match="is the input"):
        scale.write(array, path, like=path, overwrite=True)
    with pytest.raises(DmspError, match=r"no \.zarr folder"):
        scale.write(array, tmp_path / "out.tif")
    with pytest.raises(DmspError, match="does not exist"):
        scale.write(array, tmp_path / "missing" / "out.zarr")
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(DmspError, match="is no zarr folder"):
        scale.write(array, tmp_path / "mine.zarr", overwrite=True)
    with pytest.raises(DmspError, match="rechunk"):
        scale.write(array.rechunk({3: (20, 28)}), tmp_path / "out.zarr")
    scale.write(array, tmp_path / "out.zarr")
    with pytest.raises(DmspError, match="exists; give --overwrite"):
        scale.write(array, tmp_path / "out.zarr")
    scale.write(array[:1] + 1, tmp_path / "out.zarr", overwrite=True)
    assert zarr.open(tmp_path / "out.zarr", mode="r").shape == (1, 3, 40, 48)
    # A run may be stopped before there is anything to go on with.
    (tmp_path / "out.zarr.progress").touch()
    with pytest.raises(DmspError, match="exists; give --overwrite"):
        scale.write(array, tmp_path / "out.zarr")


def test_a_plane_that_cannot_be_restored_is_named(tmp_path):
    stack = np.stack([texture((40, 48), s) for s in range(3)])
    stack[1, 3, 4] = np.nan
    with pytest.raises(DmspError, match="plane 1: the image has 1 NaN"):
        scale.write(scale.deblur(stack, PSF, **FAST), tmp_path / "out.zarr")


STACK = np.zeros((2, 300, 200), np.float32)
LARGE = da.zeros((2000, 2000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale.deblur(STACK[0, 0], PSF), "no planes"),
        (lambda: scale.deblur(STACK.astype(complex), PSF), "not a real number"),
        (lambda: scale.deblur(STACK, PSF, channel_axis=0), "2 channels"),
        (lambda: scale.deblur(STACK, PSF, channel_axis=5), "not an axis"),
        (lambda: scale.deblur(STACK, PSF, iterations=0), "iterations=0"),
        (lambda: scale.deblur(STACK, PSF, prior="none"), "prior='none'"),
        (lambda: scale.deblur(STACK, PSF, chunks=10), "chunks=10"),
        (lambda: scale.deblur(STACK, PSF, chunks=np.inf), "chunks=inf"),
        (lambda: scale.deblur(STACK, PSF, halo=-1), "halo=-1"),
        (lambda: scale.deblur(STACK, PSF, halo=np.nan), "halo=nan"),
        (lambda: scale.deblur(STACK, PSF, halo=np.inf), "halo=inf"),
        (lambda: scale.deblur(STACK, PSF, dtype=float), "dtype=float64"),
        (lambda: scale.deblur(STACK, PSF, survey="all"), "survey='all'"),
        (lambda: scale.deblur(STACK, PSF, mask=STACK[0, :9]), "mask has shape"),
        (lambda: scale.deblur(STACK, np.ones((301, 1))), "larger than the image"),
        (lambda: scale.deblur(STACK[:, :40]), "too small to find a psf"),
        (lambda: scale.superres(STACK, 9), "scale=9"),
        (lambda: scale.superres(STACK, 0), "scale=0"),
        (lambda: scale.superres(LARGE, 1.2345678, chunks=500), "no ratio of small numbers"),
        (lambda: scale.superres(STACK, 1.3, chunks=100).shape, None),
        (lambda: scale.superres(STACK[:, 1:], 1.3, chunks=100), "multiples of 10"),
        (lambda: scale.demosaic(STACK, "RGB"), "pattern='RGB'"),
        (lambda: scale.open_stack("missing.zarr"), "does not exist"),
        (lambda: scale.open_stack(__file__), "cannot be read"),
    ],
)
def test_bad_calls(call, message):
    if message is None:
        call()
        return
    with pytest.raises(DmspError, match=message):
        call()


def test_groups_of_several_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "in.zarr")
    with pytest.raises(DmspError, match="no array"):
        scale.open_stack(tmp_path / "in.zarr")
    for name in "ab":
        group.create_array(name, shape=(8, 8), dtype="u1")
    with pytest.raises(DmspError, match="the arrays a, b"):
        scale.open_stack(tmp_path / "in.zarr")
    assert scale.open_stack(tmp_path / "in.zarr" / "a").array.shape == (8, 8)


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_line_restores_stacks(tmp_path, ome):
    path, pixels = ome()
    out = tmp_path / "out.zarr"
    options = ("--psf", "gaussian:1", "--iterations", 1)
    result = run_cli("deblur", path, out, *options, "--planes", "1,0:2")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    written = scale.open_stack(out)
    assert written.array.shape == (1, 2, 40, 48)
    expected = scale.deblur(pixels[1:, :2], gaussian_psf(1), iterations=1, dtype="u2").compute()
    np.testing.assert_array_equal(written.array.compute(), expected)
    again = run_cli("deblur", path, out, *options)
    assert again.exit_code == 2
    assert again.stderr.count("\n") == 1
    assert "--overwrite" in again.stderr
    shared = run_cli("deblur", path, out, *options, "--survey", "stack", "--overwrite")
    assert shared.exit_code == 0, shared.output
    written = scale.open_stack(out).array.compute()
    expected = scale.deblur(pixels, gaussian_psf(1), iterations=1, dtype="u2", survey="stack")
    np.testing.assert_array_equal(written, expected.compute())
    arguments = ("--scale", 1.5, "--iterations", 1, "--overwrite", "--dtype", "float32")
    assert run_cli("superres", path, out, *arguments).exit_code == 0
    assert scale.open_stack(out).array.shape == (2, 3, 60, 72)
    assert run_cli("demosaic", path, out, "--iterations", 1, "--overwrite").exit_code == 0
    assert scale.open_stack(out).array.dtype == np.uint16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in3.zarr", "out.tif"), "no .zarr folder"),
        (("in3.zarr", "b.tif", "out.zarr"), "not for 2 inputs"),
        (("in3.zarr", "out.zarr", "--planes", "x"), "planes x"),
        (("in3.zarr", "out.zarr", "--planes", "9"), "no part of a stack"),
        (("in3.zarr", "out.zarr", "--planes", "0,0,0"), "--planes cuts 3 axes"),
        (("in3.zarr", "out.zarr", "--planes", "0:2:0"), "step of 0"),
        (("a.tif", "b.tif", "--planes", "0"), "are for stacks"),
        (("a.tif", "b.tif", "--chunks", "100"), "are for stacks"),
        (("missing.zarr", "out.zarr"), "does not exist"),
    ],
)
def test_bad_command_lines(tmp_path, monkeypatch, ome, arguments, message):
    ome()
    monkeypatch.chdir(tmp_path)
    result = run_cli("deblur", *arguments, "--psf", "gaussian:1")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("out.zarr").exists()


def test_beside_a_stack(tmp_path, ome):
    path, _ = ome()
    out, psf = tmp_path / "out.zarr", tmp_path / "psf.tif"
    arguments = ("--psf", "gaussian:1", "--iterations", 1, "--sidecar", "--save-psf", psf)
    result = run_cli("deblur", path, out, *arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out.zarr.json").read_text())
    assert record == zarr.open(out, mode="r").attrs["napari-dmsp"]
    assert record["options"]["psf"] == "gaussian:1"
    assert len(record["noise_sigma"]) == 6
    np.testing.assert_allclose(tifffile.imread(psf), gaussian_psf(1), rtol=1e-6)
    assert run_cli("deblur", path, out, *arguments, "--overwrite").exit_code == 0


def test_the_shell_says_what_it_keeps_of_a_stack(tmp_path, ome, monkeypatch):
    path, _ = ome()
    out, write = tmp_path / "out.zarr", output.ZarrSink.write

    def interrupt(sink, window, *blocks):
        if window[1].start == 2:
            raise KeyboardInterrupt
        write(sink, window, *blocks)

    monkeypatch.setattr(output.ZarrSink, "write", interrupt)
    arguments = ("--psf", "gaussian:1", "--iterations", 1)
    with dask.config.set(scheduler="synchronous"):
        result = run_cli("deblur", path, out, *arguments)
    assert result.exit_code == 130
    (told,) = [line for line in result.stderr.splitlines() if "Stopped" in line]
    assert "2 of 6 parts are restored and kept" in told
    monkeypatch.undo()
    assert run_cli("deblur", path, out, *arguments).exit_code == 0


def test_only_stacks_need_dask(tmp_path, ome):
    ome()
    code = (
        "import sys, napari_dmsp.cli, napari_dmsp.batch\n"
        "assert not {'dask', 'distributed', 'zarr'} & set(sys.modules)\n"
        "sys.modules['dask'] = None\n"
        "sys.argv = ['napari-dmsp', 'deblur', 'in3.zarr', 'out.zarr', '--psf', 'gaussian:1']\n"
        "napari_dmsp.cli.app()"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert 'pip install "napari-dmsp[scale]"' in result.stderr


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    code = text.split("<!-- example -->\n```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    written = zarr.open("restored.zarr", mode="r")[:]
    assert written.shape == (3, 64, 80)
    np.testing.assert_array_equal(written[0], names["first"])


def test_links_lead_to_the_same_zarr_folder(tmp_path):
    planes = np.random.default_rng(0).random((2, 24, 20), dtype=np.float32)
    source, link, out = (tmp_path / f"{name}.zarr" for name in ("in", "link", "out"))
    zarr.create_array(source, data=planes)
    link.symlink_to(source)
    for one, two in ((source, link), (link, source)):
        stack = scale.open_stack(one)
        lazy = scale.deblur(stack, gaussian_psf(1), iterations=1)
        with pytest.raises(DmspError, match="is the input"):
            scale.write(lazy, two, like=stack, overwrite=True)
    assert_array_equal(zarr.open(source)[:], planes)
    out.mkdir()
    zarr.create_array(out, data=planes[:1], overwrite=True)
    (tmp_path / "to_out.zarr").symlink_to(out)
    scale.write(lazy, tmp_path / "to_out.zarr", overwrite=True)
    assert (tmp_path / "to_out.zarr").is_symlink()
    assert zarr.open(out).shape == planes.shape
