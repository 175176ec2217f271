"""One picture, every face: the same pixels, whoever asks for them.

Equal to the bit on one device with one thread: sums round otherwise with another number of threads,
and where planes are cut into parts, which are restored like the whole to 1/1000 (test_scale.py).
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
import torch
import zarr
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from napari_dmsp import deblur, scale
from napari_dmsp.cli import app
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.plan import Axes, Begun, Plan, forecast, restore_array, run
from napari_dmsp.settings import Deblur, Demosaic, Superres

SIDE = 64


@dataclass(frozen=True)
class Case:
    """A picture, its axes as letters, and what is known of it."""

    pixels: np.ndarray
    axes: str
    mask: np.ndarray | None = None
    psf: bool = True
    options: dict = field(default_factory=lambda: {"iterations": 2})

    @property
    def colours(self):
        return -1 if self.axes.endswith("s") else None

    @property
    def planes(self):
        """Indices of the planes."""
        return list(np.ndindex(self.pixels.shape[: self.axes.index("y")]))

    @property
    def known(self):
        """As arguments of Python's functions."""
        return self.options | ({"psf": gaussian_psf(1)} if self.psf else {})

    @property
    def flags(self):
        """As options of the shell."""
        given = [("--psf", "gaussian:1")] if self.psf else []
        given += [(f"--{name.replace('_', '-')}", value) for name, value in self.options.items()]
        return [str(part) for pair in given for part in pair]


def crowded(seed):
    """Noise of two scales, as a photograph that is everywhere bright."""
    rng = np.random.default_rng(seed)
    fine, coarse = (gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (1.5, 6))
    image = 500 + 60 * fine / fine.std() + 80 * coarse / coarse.std()
    return (image + rng.normal(0, 5, image.shape)).astype(np.float32)


def spots(seed):
    """A few bright spots on an empty ground, as fluorescence."""
    rng = np.random.default_rng(seed)
    light = np.zeros((SIDE, SIDE))
    light[tuple(rng.integers(4, SIDE - 4, (2, 12)))] = 1
    light = gaussian_filter(light, 2) * 2e4
    return (light + 100 + rng.normal(0, 5, light.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def cases():
    """All pictures."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:24, 30:33] = True
    times = np.stack([crowded(0), spots(1), spots(2), spots(3)])
    empty = np.stack([spots(0), crowded(1), np.full((SIDE, SIDE), 7, np.float32), spots(3)])
    holes = np.where(mask, np.float32(3e4), times[:2])
    colours = np.stack([crowded(seed) for seed in range(3)], axis=-1)
    return {
        "2-D": Case(crowded(0), "yx"),
        "2-D, fluorescence": Case(spots(0), "yx"),
        "T-Y-X": Case(times, "tyx"),
        "C-Y-X": Case(np.stack([spots(0), crowded(1)]), "cyx"),
        "T-C-Y-X": Case(np.stack([[spots(0), crowded(1)], [spots(2), crowded(3)]]), "tcyx"),
        "RGB": Case(colours, "yxs"),
        "T-RGB": Case(np.stack([colours, colours[::-1]]), "tyxs"),
        "an empty plane": Case(empty, "tyx"),
        "a mask": Case(holes, "tyx", mask),
        # The quicker of the two searches.
        "PSF unknown": Case(
            times[:2],
            "tyx",
            psf=False,
            options={"iterations": 2, "psf_size": 3, "method": "sgd"},
        ),
    }


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_loop(case, folder):
    """Restore plane by plane, as the policy says."""
    lead = case.axes.index("y")
    named = dict(zip(case.axes, range(lead), strict=False))
    result = case.pixels.copy()
    for channel in range(case.pixels.shape[named["c"]] if "c" in named else 1):
        alike = [i for i in case.planes if "c" not in named or i[named["c"]] == channel]
        varied = [i for i in alike if np.ptp(case.pixels[i]) > 0]
        middle = min(varied, key=lambda i: abs(alike.index(i) - len(alike) // 2))
        options = case.known | {"mask": case.mask, "channel_axis": case.colours}
        prior = deblur(case.pixels[middle], **options | {"iterations": 1}).settings["prior"]
        for i in varied:
            result[i] = deblur(case.pixels[i], **options, prior=prior).image
    return result


def by_plan(case, folder):
    axes = Axes.of(case.pixels.shape, case.colours, case.axes)
    plan = Plan.of(Deblur(**case.known), case.pixels, axes, mask=case.mask)
    return restore_array(plan).image


def run_shell(case, folder, source, target):
    flags = case.flags
    if case.mask is not None:
        np.save(folder / "mask.npy", case.mask)
        flags += ["--mask", str(folder / "mask.npy")]
    result = CliRunner().invoke(app, ["deblur", str(source), str(target), *flags])
    assert result.exit_code == 0, result.output


def by_tiff(case, folder):
    kind = "rgb" if case.colours else "minisblack"
    axes = case.axes.upper()
    tifffile.imwrite(
        folder / "in.tif", case.pixels, photometric=kind, ome=True, metadata={"axes": axes}
    )
    run_shell(case, folder, folder / "in.tif", folder / "out.tif")
    return tifffile.imread(folder / "out.tif")


def write_zarr(case, folder):
    names = case.axes.replace("s", "c")
    scales = [{"type": "scale", "scale": [1.0] * len(names)}]
    image = {
        "axes": [{"name": name} for name in names],
        "datasets": [{"path": "0", "coordinateTransformations": scales}],
    }
    group = zarr.create_group(
        folder / "in.zarr", attributes={"ome": {"version": "0.5", "multiscales": [image]}}
    )
    array = group.create_array("0", shape=case.pixels.shape, dtype=case.pixels.dtype)
    array[...] = case.pixels
    return folder / "in.zarr"


def read_zarr(case, path):
    pixels = zarr.open(path, mode="r")["0"][:]
    # OME-Zarr has colours before the axes of space.
    return np.moveaxis(pixels, -3, -1) if case.colours else pixels


def by_zarr(case, folder):
    run_shell(case, folder, write_zarr(case, folder), folder / "out.zarr")
    return read_zarr(case, folder / "out.zarr")


def by_zarr_from_tiff(case, folder):
    by_tiff(case, folder)
    run_shell(case, folder, folder / "in.tif", folder / "out.zarr")
    return read_zarr(case, folder / "out.zarr")


def by_lazy_array(case, folder):
    lazy = scale.deblur(write_zarr(case, folder), mask=case.mask, **case.known)
    return lazy.compute(scheduler="synchronous")


FACES = [by_plan, by_tiff, by_zarr, by_zarr_from_tiff, by_lazy_array]
NAMES = [
    *("2-D", "2-D, fluorescence", "T-Y-X", "C-Y-X", "T-C-Y-X", "RGB", "T-RGB"),
    *("an empty plane", "a mask", "PSF unknown"),
]


@pytest.fixture(scope="module")
def expected(cases):
    """What every picture must become, made when it is first asked for."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = by_loop(cases[name], None)
        return made[name]

    return make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("face", FACES)
def test_every_face_gives_the_same_pixels(cases, expected, name, face, tmp_path):
    found = face(cases[name], tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected(name))


def test_integers_stay_integers_in_files_only(cases, tmp_path):
    case = cases["T-Y-X"]
    whole = Case(case.pixels.clip(0).astype("u2"), case.axes, options={"iterations": 1})
    floats = by_plan(whole, tmp_path)
    assert floats.dtype == by_lazy_array(whole, tmp_path).dtype == np.float32
    for face in (by_tiff, by_zarr_from_tiff):
        found = face(whole, tmp_path)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, np.rint(floats).clip(0, 65535))
        for path in (tmp_path / "out.tif", tmp_path / "in.tif"):
            path.unlink()


@pytest.mark.parametrize("face", FACES)
def test_planes_that_cannot_be_restored_are_named(cases, face, tmp_path):
    pixels = cases["T-Y-X"].pixels.copy()
    pixels[2, 5, 6] = np.nan
    with pytest.raises((DmspError, AssertionError), match=r"plane 2: the image has 1 NaN"):
        face(Case(pixels, "tyx", options={"iterations": 1}), tmp_path)


@pytest.mark.parametrize("task", ["superres", "demosaic"])
def test_constant_planes_have_their_value_in_any_shape(task, tmp_path):
    pixels = np.stack([np.full((16, 20), 7), spots(0)[:16, :20]]).astype("u2")
    settings = Superres(scale=2, iterations=1) if task == "superres" else Demosaic(iterations=1)
    plan = Plan.of(settings, pixels, Axes.of(pixels.shape), dtype="input")
    expected = restore_array(plan).image
    assert expected.shape[1:] == ((32, 40) if task == "superres" else (16, 20, 3))
    assert (expected[0] == 7).all()
    flags = ["--scale", "2"] if task == "superres" else []
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack")
    for name in ("out.tif", "out.zarr"):
        paths = [str(tmp_path / "in.tif"), str(tmp_path / name)]
        result = CliRunner().invoke(app, [task, *paths, *flags, "--iterations", "1"])
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected)
    written = scale.open_stack(tmp_path / "out.zarr")
    found = written.array.compute()
    np.testing.assert_array_equal(
        np.moveaxis(found, 1, -1) if task == "demosaic" else found, expected
    )


@pytest.fixture
def in_panel(make_napari_viewer, qtbot):
    """Restore a picture in the Deblur panel of a viewer."""

    def restore(case):
        viewer = make_napari_viewer()
        rgb = case.colours is not None
        axes = case.axes.removesuffix("s")
        viewer.add_image(case.pixels, name="image", rgb=rgb, axis_labels=tuple(axes))
        if case.mask is not None:
            viewer.add_labels(case.mask.astype("u1"), name="mask")
        _, panel = viewer.window.add_plugin_dock_widget("napari-dmsp", "Deblur")
        panel.inputs.image.value = viewer.layers["image"]
        panel.inputs.psf.value = "Gaussian" if case.psf else "unknown"
        panel.inputs.sigma.value = 1
        if len(axes) > 2:
            panel.inputs.planes.value = tuple(range(len(axes) - 2))
        panel.advanced.device.value = "cpu"
        panel.advanced.mask.value = "none" if case.mask is None else viewer.layers["mask"]
        known = {"iterations": "evaluations"}
        for name, value in case.options.items():
            getattr(panel.advanced, known.get(name, name)).value = str(value)
        panel.run()
        qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
        assert "image deblurred" in viewer.layers, panel._report.value
        return viewer.layers["image deblurred"].data

    return restore


@pytest.mark.parametrize("name", NAMES)
def test_the_panel_gives_the_same_pixels(cases, expected, name, in_panel):
    found = in_panel(cases[name])
    assert found.dtype == np.float32
    if cases[name].colours is not None:
        found = found[..., :3]
    np.testing.assert_array_equal(found, expected(name))


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        (Deblur(psf=gaussian_psf(1)), crowded(0)),
        (Deblur(psf=gaussian_psf(2)), spots(0)),
        (Deblur(psf=gaussian_psf(2), method="sgd"), spots(0)),
        (Deblur(psf=gaussian_psf(2), iterations=5), spots(0)),
        (Superres(scale=2), spots(0)),
        (Demosaic(), crowded(0)),
    ],
)
def test_forecasts_count_what_runs_take(settings, pixels):
    plan = Plan.of(settings, pixels, Axes.of(pixels.shape))
    begun = next(event for event in run(plan) if isinstance(event, Begun))
    assert forecast(plan).evaluations == begun.job.total


def test_a_search_is_ahead_where_the_psf_is_unknown():
    pixels = crowded(0)
    known, unknown = (
        forecast(Plan.of(Deblur(psf=psf), pixels, Axes.of(pixels.shape)))
        for psf in (gaussian_psf(1), None)
    )
    assert known.evaluations == unknown.evaluations
    assert unknown.work > 5 * known.work
    small = pixels[:40, :40]
    assert forecast(Plan.of(Deblur(psf=None), small, Axes.of(small.shape))).work > 0
