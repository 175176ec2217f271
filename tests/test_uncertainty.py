"""The error map in files, in zarr arrays and in the shell."""

import numpy as np
import pytest
import tifffile
import zarr
from skimage import data
from typer.testing import CliRunner

from napari_dmsp import deblur, scale
from napari_dmsp.cli import app
from napari_dmsp.core.psf import gaussian_psf

IMAGE = data.camera()[100:164, 180:244]
OPTIONS = ("--psf", "gaussian:1", "--iterations", "2", "--device", "cpu")


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def stack(tmp_path):
    path = tmp_path / "in.tif"
    planes = np.stack([IMAGE, IMAGE[::-1], np.full_like(IMAGE, 9)])
    tifffile.imwrite(path, planes, metadata={"axes": "TYX"}, imagej=True)
    return path, planes


def expected(plane):
    return deblur(plane, gaussian_psf(1), iterations=2, device="cpu", uncertainty=True)


def test_the_shell_writes_it_beside_the_result(stack, tmp_path):
    path, planes = stack
    out, errors = tmp_path / "out.tif", tmp_path / "out_uncertainty.tif"
    result = run_cli("deblur", path, out, *OPTIONS, "--uncertainty", "--sidecar")
    assert result.exit_code == 0, result.output
    assert str(errors) in result.output.replace("\n", "")
    found = tifffile.imread(errors)
    assert found.shape == planes.shape
    assert found.dtype == np.float32
    assert tifffile.imread(out).dtype == np.uint8
    np.testing.assert_allclose(found[1], expected(planes[1]).error, rtol=1e-5, atol=1e-4)
    assert not found[2].any()
    again = run_cli("deblur", path, tmp_path / "other.tif", *OPTIONS)
    assert again.exit_code == 0
    assert not (tmp_path / "other_uncertainty.tif").exists()


def test_formats_of_whole_numbers_get_a_tiff_and_nothing_is_overwritten(tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", IMAGE)
    errors = tmp_path / "out_uncertainty.tif"
    errors.write_bytes(b"mine")
    command = ("deblur", tmp_path / "one.tif", tmp_path / "out.png", *OPTIONS, "--uncertainty")
    result = run_cli(*command)
    assert result.exit_code == 2
    assert "out_uncertainty.tif exists" in result.output.replace("\n", " ")
    assert errors.read_bytes() == b"mine"
    assert run_cli(*command, "--overwrite").exit_code == 0
    assert tifffile.imread(errors).shape == IMAGE.shape


def test_a_batch_has_one_for_every_image(stack, tmp_path):
    _, planes = stack
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(2):
        tifffile.imwrite(folder / f"{index}.tif", planes[index])
    result = run_cli("deblur", folder, f"{tmp_path / 'results'}/", *OPTIONS, "--uncertainty")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "results").glob("*.tif")}
    assert names == {"0.tif", "1.tif", "0_uncertainty.tif", "1_uncertainty.tif"}


def test_stacks_in_zarr(stack, tmp_path):
    _, planes = stack
    lazy = scale.deblur(planes, gaussian_psf(1), iterations=2, device="cpu", uncertainty=True)
    out = tmp_path / "out.zarr"
    scale.write(lazy, out)
    errors = zarr.open(tmp_path / "out_uncertainty.zarr", mode="r")
    assert errors.shape == planes.shape
    assert errors.dtype == np.float32
    np.testing.assert_allclose(errors[0], expected(planes[0]).error, rtol=1e-4, atol=1e-3)
    assert not errors[2].any()
    assert not list(tmp_path.glob("*.progress"))
    assert errors.attrs["napari-dmsp"] == zarr.open(out, mode="r").attrs["napari-dmsp"]


def test_an_interrupted_stack_goes_on_with_both(stack, tmp_path):
    _, planes = stack
    make = {"iterations": 2, "device": "cpu", "uncertainty": True, "dtype": "input"}
    lazy = scale.deblur(planes, gaussian_psf(1), **make)
    out = tmp_path / "out.zarr"

    def interrupt(done, total):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="goes on"):
        scale.write(lazy, out, progress=interrupt)
    scale.write(scale.deblur(planes, gaussian_psf(1), **make), out)
    errors = zarr.open(tmp_path / "out_uncertainty.zarr", mode="r")
    for index in range(2):
        assert (errors[index] > 0).all()
