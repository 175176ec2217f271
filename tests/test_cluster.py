"""Workers of a cluster restore what one process restores, also where one of them dies."""

import os
import signal
from collections import Counter

import numpy as np
import pytest
import zarr

from napari_dmsp import scale
from napari_dmsp.cli import app
from napari_dmsp.core.psf import gaussian_psf

distributed = pytest.importorskip("distributed")
PSF = gaussian_psf(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two worker processes of one thread."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        local_directory=tmp_path_factory.mktemp("dask"),
        silence_logs=50,
    ) as cluster:
        yield cluster


@pytest.fixture
def source(tmp_path):
    """A zarr array of four planes, which are cut into four tiles each."""
    pixels = np.random.default_rng(0).integers(0, 999, (4, 128, 136)).astype("u2")
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=pixels.shape, chunks=(1, 64, 64), dtype="u2"
    )
    array[:] = pixels
    return tmp_path / "in.zarr"


def noting_denoiser(folder):
    """Return a denoiser that notes its calls in a folder; a closure, so that workers get it."""

    def denoiser(x, sigma):
        import os
        import uuid

        from torch.nn import functional as F

        (folder / f"{os.getpid()}-{uuid.uuid4().hex}").touch()
        return F.avg_pool2d(x, 3, 1, 1)

    return denoiser


def test_a_worker_may_be_killed(cluster, source, tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()
    denoiser = noting_denoiser(calls)
    lazy = scale.deblur(source, PSF, chunks=64, halo=8, prior=denoiser, iterations=1)
    tasks = 4 + 16
    killed = []

    def kill(done, total):
        assert total == tasks
        workers = {name.name.split("-")[0] for name in calls.iterdir()}
        # Once it has done something, and there is still something to do.
        alive = [w.pid for w in cluster.workers.values() if str(w.pid) in workers]
        if not killed and alive and done > 5:
            os.kill(alive[0], signal.SIGKILL)
            killed.append(done)

    with distributed.Client(cluster) as client:
        scale.write(lazy, tmp_path / "many.zarr", client=client, progress=kill)
    assert killed
    assert killed[0] < tasks
    found = zarr.open(tmp_path / "many.zarr", mode="r")[:]
    workers = Counter(name.name.split("-")[0] for name in calls.iterdir())
    assert len(workers) >= 2
    # What was written is not done again, but for surveys and tiles that only the victim held.
    assert tasks <= sum(workers.values()) < 2 * tasks
    scale.write(lazy, tmp_path / "one.zarr")
    np.testing.assert_array_equal(found, zarr.open(tmp_path / "one.zarr", mode="r")[:])
    assert not (tmp_path / "many.zarr.progress").exists()


def test_the_command_line_uses_a_scheduler(cluster, source, tmp_path):
    from typer.testing import CliRunner

    out = tmp_path / "out.zarr"
    arguments = ["deblur", source, out, "--psf", "gaussian:1", "--iterations", 1]
    result = CliRunner().invoke(
        app, [*map(str, arguments), "--scheduler", cluster.scheduler_address]
    )
    assert result.exit_code == 0, result.output
    expected = scale.deblur(source, PSF, iterations=1, dtype="u2")
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], expected.compute())


def test_clients_that_dask_knows_are_used(cluster, source, tmp_path):
    calls = tmp_path / "calls"
    calls.mkdir()
    lazy = scale.deblur(source, PSF, prior=noting_denoiser(calls), iterations=1)
    with distributed.Client(cluster):
        scale.write(lazy, tmp_path / "out.zarr")
    pids = {int(name.name.split("-")[0]) for name in calls.iterdir()}
    assert pids <= {worker.pid for worker in cluster.workers.values()}


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("napari_dmsp.cluster.workers.CONNECT_SECONDS", 0.2)
    with (
        pytest.raises(scale.DmspError, match="no dask scheduler answers"),
        scale.connect("tcp://127.0.0.1:9"),
    ):
        pass
