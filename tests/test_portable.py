"""What other systems do differently: processes that begin anew, and paths with drives."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from napari_dmsp import batch, deblur, demosaic, files, superres
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.errors import DmspError
from napari_dmsp.psf_text import bead_file, make_psf
from napari_dmsp.settings import Deblur

BACKSLASH = "C:\\my data\\psf, 2.tif"


@pytest.mark.parametrize("function", [deblur, demosaic, superres])
def test_functions_and_settings_travel(function):
    assert pickle.loads(pickle.dumps(function)) is function
    task = pickle.loads(pickle.dumps(Deblur(psf=gaussian_psf(1.0), iterations=2)))
    assert np.array_equal(task.psf, gaussian_psf(1.0))


def test_processes_may_be_spawned():
    # As on macOS and Windows: nothing is inherited, everything is imported again.
    psf = gaussian_psf(1.0)
    images = [np.random.default_rng(i).random((24, 32), np.float32) for i in range(2)]
    call = {"device": "cpu", "iterations": 2, "seed": 0}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = [pool.apply_async(deblur, (image, psf), call) for image in images]
        results = [result.get(timeout=240).image for result in there]
    for image, result in zip(images, results, strict=True):
        here = deblur(image, psf, **call).image
        assert np.abs(result - here).max() < 1e-5


def test_a_drive_is_not_a_form_of_psf(monkeypatch):
    asked = []
    monkeypatch.setattr(files, "read_psf", lambda path: asked.append(path) or gaussian_psf(1.0))
    make_psf(BACKSLASH, Path)
    make_psf("focal:C:\\psf.tif", Path)
    assert asked == [Path(BACKSLASH), Path("C:\\psf.tif")]
    assert bead_file("bead:C:\\beads.tif,diameter=0.1") == Path("C:\\beads.tif")


def test_a_missing_file_on_a_drive_is_named():
    with pytest.raises(DmspError, match=r"C:.*psf, 2\.tif"):
        make_psf(BACKSLASH, Path)


def test_folders_may_end_in_either_separator(monkeypatch):
    monkeypatch.setattr(os, "sep", "\\")
    monkeypatch.setattr(os, "altsep", "/")
    assert batch._is_folder("results\\")
    assert batch._is_folder("results/")
    assert not batch._is_folder("C:\\out.tif")
