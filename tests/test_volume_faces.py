"""Volumes in the walk over stacks, in files, in the shell and as lazy arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from napari_dmsp import deblur, scale
from napari_dmsp.cli import app
from napari_dmsp.core import focal_plane, microscope_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.files import describe, read_optics, read_psf
from napari_dmsp.plan import Axes, Plan, forecast, restore_array
from napari_dmsp.plan.parts import constant_pixel
from napari_dmsp.settings import Deblur

OPTIONS = {"iterations": 1, "device": "cpu"}
SIZES = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 100.0, "PhysicalSizeZ": 0.25}
SIZES |= {"PhysicalSizeYUnit": "nm"}
OPTICS = "na=1.4,wavelength=0.52"


def volume(seed=0, shape=(6, 16, 24)):
    random = np.random.default_rng(seed)
    light = gaussian_filter(random.random(shape) ** 20, (0.7, 1.2, 1.2))
    return random.poisson(200 * light / light.max() + 5).astype(np.uint16)


def kernel(shape=(5, 7, 9)):
    psf = np.zeros(shape)
    psf[tuple(n // 2 for n in shape)] = 1
    return gaussian_filter(psf, [n / 8 for n in shape]).astype(np.float32)


def shell(*arguments):
    return CliRunner().invoke(app, ["deblur", *map(str, arguments)])


@pytest.mark.parametrize("several", [False, True])
def test_every_volume_of_a_stack_is_restored_by_itself(several):
    data = np.stack([[volume(0), volume(1)], [volume(2), volume(3)]])
    psfs = np.stack([kernel(), kernel((5, 9, 9))[:, 1:-1]]) if several else kernel()
    task = Deblur(psf=psfs, prior="gray", **OPTIONS)
    axes = Axes.of(data.shape, names="tczyx", space=task.space)
    assert axes.planes == [(0, 0), (0, 1), (1, 0), (1, 1)]
    restored = restore_array(Plan.of(task, data, axes))
    for (t, c), _ in restored.planes.items():
        psf = psfs[c] if several else psfs
        alone = deblur(data[t, c], psf, prior="gray", **OPTIONS).image
        assert np.array_equal(restored.image[t, c], alone)
    # The public function takes stacks of volumes as well.
    assert np.array_equal(deblur(data, psfs, prior="gray", **OPTIONS).image, restored.image)


def test_axes_in_any_order_and_masks():
    data, gaps = np.stack([volume(0), volume(1)], axis=1), np.zeros((6, 16, 24), bool)
    gaps[2, 3:5, 6:8] = True
    task = Deblur(psf=kernel(), prior="gray", **OPTIONS)
    axes = Axes.of(data.shape, names="zcyx", space=3)
    restored = restore_array(Plan.of(task, data, axes, mask=gaps)).image
    alone = deblur(data[:, 1], kernel(), prior="gray", mask=gaps, **OPTIONS).image
    assert np.array_equal(restored[:, 1], alone)


def test_constant_volumes_are_kept():
    ramp = np.broadcast_to(np.arange(24), (6, 16, 24))
    assert constant_pixel(ramp, space=3) is None
    data = np.stack([volume(), np.full((6, 16, 24), 7, np.uint16)])
    task = Deblur(psf=kernel(), **OPTIONS)
    axes = Axes.of(data.shape, names="tzyx", space=3)
    restored = restore_array(Plan.of(task, data, axes, dtype="input"))
    assert (restored.image[1] == 7).all()
    assert restored.planes[(1,)] is None


def test_what_is_no_volume_is_explained():
    with pytest.raises(DmspError, match="focal plane"):
        Axes.of((16, 24), space=3)
    with pytest.raises(DmspError, match="focal plane"):
        Axes.of((5, 16, 24), names="tyx", space=3)
    task = Deblur(psf=np.stack([kernel()] * 3))
    with pytest.raises(DmspError, match="each of 2 channels"):
        Plan.of(task, np.zeros((2, 6, 16, 24)), Axes.of((2, 6, 16, 24), names="czyx", space=3))


def test_forecast_counts_all_planes():
    task = Deblur(psf=kernel())
    data = volume()
    made = forecast(Plan.of(task, data, Axes.of(data.shape, space=3)))
    assert made.planes == 1
    assert made.megapixels == pytest.approx(data.size / 1e6)
    assert made.evaluations == 10


def test_lazy_arrays_restore_volumes(monkeypatch):
    # Which newer processors have, and where another order makes a larger difference.
    monkeypatch.setattr("napari_dmsp.core.prior.supports_bf16", lambda _: False)
    data = np.stack([volume(0), volume(1)])
    lazy = scale.deblur(data, kernel(), prior="gray", **OPTIONS)
    assert lazy.chunks == ((1, 1), (6,), (16,), (24,))
    alone = deblur(data[1], kernel(), prior="gray", **OPTIONS).image
    # Threads of dask compute with one thread, which adds up in another order.
    assert np.abs(lazy[1].compute() - alone).max() < 1e-3 * np.ptp(data)


def test_large_volumes_are_cut():
    data = volume(shape=(4, 32, 224))
    task = Deblur(psf=kernel((3, 5, 5)), **OPTIONS)
    lazy = scale.restore(task, data, chunks=64, halo=16)
    assert lazy.chunks[0] == (4,)
    assert len(lazy.chunks[2]) > 1
    whole = deblur(data, kernel((3, 5, 5)), **OPTIONS).image
    assert np.abs(lazy.compute() - whole).mean() < 0.02 * np.ptp(whole)


def test_files_in_and_out(tmp_path):
    data = np.stack([volume(0), volume(1)])
    source, target, psf = (tmp_path / name for name in ("in.ome.tif", "out.ome.tif", "psf.tif"))
    tifffile.imwrite(source, data, ome=True, metadata={"axes": "CZYX"} | SIZES)
    tifffile.imwrite(psf, kernel())
    result = shell(source, target, "--psf", psf, "--iterations", 1, "--sidecar", "--device", "cpu")
    assert result.exit_code == 0, result.output
    with tifffile.TiffFile(target) as file:
        written = file.asarray()
        assert file.series[0].axes == "CZYX"
        assert 'PhysicalSizeZ="0.25"' in file.ome_metadata
    prior = json.loads((tmp_path / "out.ome.tif.json").read_text())["settings"]["prior"]
    names = [prior] * 2 if isinstance(prior, str) else prior
    for image, restored, name in zip(data, written, names, strict=True):
        alone = deblur(image, kernel(), prior=name, **OPTIONS).image
        assert np.array_equal(restored, np.round(alone).clip(0, 65535))
    lazy = shell(source, tmp_path / "out.zarr", "--psf", psf, "--iterations", 1)
    assert lazy.exit_code == 0, lazy.output
    assert scale.open_stack(tmp_path / "out.zarr").array.shape == data.shape


def test_psfs_are_read_with_their_axes(tmp_path):
    several = np.stack([kernel(), 2 * kernel()])
    tifffile.imwrite(tmp_path / "a.tif", kernel())
    np.save(tmp_path / "b.npy", several)
    tifffile.imwrite(tmp_path / "c.tif", several[:, :, None], metadata={"axes": "CZTYX"})
    assert np.array_equal(read_psf(tmp_path / "a.tif"), kernel())
    assert np.array_equal(read_psf(tmp_path / "b.npy"), several)
    assert np.array_equal(read_psf(tmp_path / "c.tif"), several)


def test_microscope_in_the_shell(tmp_path):
    source, target, psf = (tmp_path / name for name in ("in.ome.tif", "out.tif", "psf.npy"))
    tifffile.imwrite(source, volume(), ome=True, metadata={"axes": "ZYX"} | SIZES)
    names, shape, sizes = describe(source)
    assert (names, shape) == (["z", "y", "x"], (6, 16, 24))
    assert sizes == pytest.approx({"z": 0.25, "y": 0.1, "x": 0.1})
    options = ("--iterations", 1, "--save-psf", psf)
    result = shell(source, target, "--psf", f"widefield:{OPTICS}", *options)
    assert result.exit_code == 0, result.output
    found = np.load(psf)
    # As long as light comes from within the stack, and no wider than the image.
    assert found.shape == (11, 15, 23)
    made = microscope_psf(
        "widefield", na=1.4, wavelength=0.52, voxel_size=(0.25, 0.1, 0.1), shape=found.shape
    )
    assert np.abs(found - made.values).max() < 1e-6


def test_the_objective_of_the_file_is_known(tmp_path):
    source, psf = tmp_path / "in.ome.tif", tmp_path / "psf.npy"
    tifffile.imwrite(source, volume(), ome=True, metadata={"axes": "ZYX"} | SIZES)
    objective = '<Objective ID="Objective:0" LensNA="1.2" Immersion="Water"/>'
    instrument = f'<Instrument ID="Instrument:0">{objective}</Instrument>'
    lengths = 'EmissionWavelength="0.6" EmissionWavelengthUnit="µm" ExcitationWavelength="561"'
    text = tifffile.tiffcomment(source).replace("<Image ", f"{instrument}<Image ", 1)
    tifffile.tiffcomment(source, text.replace("<Channel ", f"<Channel {lengths} ", 1).encode())
    known = {"na": 1.2, "immersion_index": 1.33, "wavelength": 0.6, "excitation_wavelength": 0.561}
    assert read_optics(source) == pytest.approx(known)
    options = ("--psf", "confocal", "--iterations", 1, "--save-psf", psf)
    result = shell(source, tmp_path / "out.tif", *options)
    assert result.exit_code == 0, result.output
    made = microscope_psf("confocal", **known, voxel_size=(0.25, 0.1, 0.1), image_shape=(6, 16, 24))
    assert np.abs(np.load(psf) - made.values).max() < 1e-6


def test_files_that_tell_nothing_of_their_optics(tmp_path):
    tifffile.imwrite(tmp_path / "bare.tif", volume())
    channels = np.stack([volume()] * 2)
    metadata = {"axes": "CZYX", "Channel": {"EmissionWavelength": [500, 600]}}
    tifffile.imwrite(tmp_path / "two.ome.tif", channels, ome=True, metadata=metadata)
    assert read_optics(tmp_path / "bare.tif") == read_optics(tmp_path / "none.png") == {}
    assert read_optics(tmp_path / "two.ome.tif") == {}
    assert read_optics(tmp_path / "two.ome.tif", channel=1) == {"wavelength": 0.6}


def test_focal_plane_in_the_shell(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", volume()[3])
    tifffile.imwrite(tmp_path / "psf.tif", kernel())
    options = ("--iterations", 1, "--save-psf", tmp_path / "used.npy")
    whole = shell(tmp_path / "in.tif", tmp_path / "a.tif", "--psf", tmp_path / "psf.tif", *options)
    assert "focal:FILE" in whole.output
    text = f"focal:{tmp_path / 'psf.tif'}"
    result = shell(tmp_path / "in.tif", tmp_path / "a.tif", "--psf", text, *options)
    assert result.exit_code == 0, result.output
    plane = focal_plane(kernel())
    assert np.array_equal(plane, kernel()[2])
    assert np.abs(np.load(tmp_path / "used.npy") - plane / plane.sum()).max() < 1e-6


def test_microscope_of_a_plane_is_its_focus(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", volume()[3])
    psf = tmp_path / "psf.npy"
    options = ("--iterations", 1, "--save-psf", psf)
    text = f"confocal:{OPTICS},excitation=0.488,voxel=0.1/0.1"
    result = shell(tmp_path / "in.tif", tmp_path / "out.tif", "--psf", text, *options)
    assert result.exit_code == 0, result.output
    assert np.load(psf).ndim == 2


def test_beads_in_the_shell(tmp_path):
    blob = np.zeros((15, 31, 31))
    blob[7, 15, 15] = 1e5
    beads = gaussian_filter(blob, (1.5, 1.5, 1.5)) + 100
    metadata = {"axes": "ZYX"} | SIZES
    tifffile.imwrite(tmp_path / "b.ome.tif", beads.astype(np.float32), ome=True, metadata=metadata)
    tifffile.imwrite(tmp_path / "in.ome.tif", volume(), ome=True, metadata=metadata)
    text = f"bead:{tmp_path / 'b.ome.tif'}"
    result = shell(tmp_path / "in.ome.tif", tmp_path / "o.tif", "--psf", text, "--iterations", 1)
    assert result.exit_code == 0, result.output
    # What was done is no warning.
    assert "Averaged 1 of 1 beads" in result.stderr
    assert "Warning: Averaged" not in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("widefield:wavelength=0.52", "numerical aperture"),
        (f"widefield:{OPTICS},colour=1", "colour is unknown"),
        (f"widefield:{OPTICS}", "voxel=0.25/0.1/0.1"),
        ("widefield:na", "is not understood"),
        ("bead:nowhere.tif", "nowhere.tif"),
    ],
)
def test_bad_psfs_in_the_shell(tmp_path, text, said):
    tifffile.imwrite(tmp_path / "in.tif", volume())
    result = shell(tmp_path / "in.tif", tmp_path / "out.tif", "--psf", text)
    assert result.exit_code != 0
    assert said in result.output
    assert not (tmp_path / "out.tif").exists()
