import json
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from napari_dmsp.dtypes import fit_dtype
from napari_dmsp.errors import DmspError, on_one_line
from napari_dmsp.files import (
    Picture,
    check_output,
    check_writable,
    error_beside,
    name_beside,
    read_image,
    records,
    write_image,
    write_json,
)

GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)
posix = pytest.mark.skipif(os.name != "posix", reason="links and permissions of POSIX")


def save(path, pixels=GREY):
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, format="png")
    return path


def read(path):
    with path.open("rb") as file, Image.open(file) as image:
        return np.asarray(image)


NAMES = ["y" * 251 + ".png", "ü日本🎉.png", "a\nb.png", "-x.png", "..png.png", " .png", "[a]*.png"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff\xfe.png")])
def test_names_of_any_length_and_script(tmp_path, name):
    try:
        path = save(tmp_path / name)
    except OSError:
        pytest.skip("this disk has no such names")
    picture = read_image(path)
    check_output(path, picture, picture.pixels.dtype, [], overwrite=True)
    write_image(path, Picture(255 - GREY))
    np.testing.assert_array_equal(read(path), 255 - GREY)
    record = name_beside(path, ".json")
    write_json(record, {"input": str(path)})
    assert json.loads(record.read_text(encoding="utf-8"))["input"] == str(path)
    assert len(list(tmp_path.iterdir())) == 2


def test_too_long_names_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / ("y" * 252 + ".png")
    with pytest.raises(DmspError, match="256 bytes"):
        check_writable(path)
    with pytest.raises(DmspError, match="is not a file"):
        read_image(path)


def test_shortened_names_stay_different_and_legal(tmp_path):
    names = [tmp_path / ("é" * 120 + letter + "x" * 14) for letter in "ab"]
    records = [name_beside(name, ".json") for name in names]
    assert len(set(records)) == 2
    for record in records:
        assert len(os.fsencode(record.name)) <= 255
        write_json(record, {})


def test_names_are_shown_on_one_line():
    assert on_one_line("a\nb\x1b[0m") == r"a\nb\x1b[0m"
    assert on_one_line("細胞 é.tif") == "細胞 é.tif"
    on_one_line(os.fsdecode(b"\xff")).encode("utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_reports_in_any_encoding(tmp_path, encoding):
    (tmp_path / "in").mkdir()
    names = ["ü日本🎉.png", "x" * 251 + ".png", "a\nb.png", os.fsdecode(b"\xff.png")]
    # Other systems have shorter names, or only text.
    names = names if sys.platform == "linux" else names[:1]
    for name in names:
        save(tmp_path / "in" / name, np.kron(GREY, np.ones((2, 2), np.uint8)))
    code = "import napari_dmsp.cli; napari_dmsp.cli.app()"
    command = [sys.executable, "-c", code, "deblur", "in", "out/", "--psf", "gaussian:1"]
    result = subprocess.run(
        [*command, "--iterations", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stdout.count(b"evaluations") == len(names)
    assert {p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".png"} == set(names)


@posix
@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_written_through(tmp_path, dangling):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.png", tmp_path / "link.png"
    if not dangling:
        save(target)
    link.symlink_to("far/real.png")
    check_writable(link, overwrite=True)
    write_image(link, Picture(255 - GREY))
    assert link.is_symlink()
    assert not target.is_symlink()
    np.testing.assert_array_equal(read(target), 255 - GREY)
    assert [p.name for p in target.parent.iterdir()] == ["real.png"]
    with pytest.raises(DmspError, match="an input too"):
        check_writable(link, overwrite=True, inputs=[target])
    with pytest.raises(DmspError, match="named twice"):
        check_writable(link, overwrite=True, others=[target])


@posix
def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(DmspError, match="link to itself"):
        check_writable(tmp_path / "a.png", overwrite=True)
    (tmp_path / "b.png").symlink_to("missing/b.png")
    with pytest.raises(DmspError, match="missing does not exist"):
        check_writable(tmp_path / "b.png", overwrite=True)


@posix
def test_other_names_of_a_replaced_file_keep_the_old_one(tmp_path):
    first, second = save(tmp_path / "a.png"), tmp_path / "b.png"
    second.hardlink_to(first)
    with pytest.raises(DmspError, match="an input too"):
        check_writable(second, overwrite=True, inputs=[first])
    write_image(second, Picture(255 - GREY))
    np.testing.assert_array_equal(read(first), GREY)
    np.testing.assert_array_equal(read(second), 255 - GREY)


@posix
def test_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_image(tmp_path / "new.png", Picture(GREY))
        path = save(tmp_path / "old.png")
        path.chmod(0o604)
        write_image(path, Picture(255 - GREY))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new.png").stat().st_mode) == 0o640
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@posix
def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DmspError, match="pipe or a device"):
        check_writable(tmp_path / "pipe.png", overwrite=True)
    with pytest.raises(DmspError, match="is not a file"):
        read_image(tmp_path / "pipe.png")


def test_json_knows_what_numpy_and_paths_are(tmp_path):
    values = {"a": np.float32(0.5), "b": np.arange(3), "c": tmp_path, "d": np.float64("nan")}
    write_json(tmp_path / "a.json", values | {"name": "\udcff"})
    found = json.loads(
        (tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    expected = {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path), "d": None, "name": "\udcff"}
    assert found == expected


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8"])
def test_large_integers_saturate(dtype):
    limits = np.iinfo(dtype)
    values = np.float32([limits.max, limits.min, 1e30, -1e30, 12, 0])
    expected = [limits.max, limits.min, limits.max, limits.min, 12, 0]
    for kind in (np.float32, np.float64):
        assert fit_dtype(values.astype(kind), np.dtype(dtype)).tolist() == expected


def test_errors_are_beside_results_of_any_name(tmp_path):
    assert error_beside(tmp_path / "a.b.tif", ".tif") == tmp_path / "a.b_uncertainty.tif"
    long = error_beside(tmp_path / ("y" * 251 + ".png"), ".tif")
    assert long.suffix == ".tif"
    assert "_uncertainty" in long.name
    save(long)


@posix
def test_what_nobody_writes_any_more_is_removed(tmp_path):
    """But not what a living process writes, or another machine within the hour."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with records.written_whole(tmp_path / "a.tif") as mine:
        mine.touch()
        machine, process = mine.name.removeprefix(records.PARTIAL).split("-")[:2]
        assert process == str(os.getpid())
        dead, living = f".dmsp-{machine}-{gone.pid}-0.tif", f".dmsp-{machine}-{os.getpid()}-0.tif"
        others, old, odd = ".dmsp-0-1-0.tif", ".dmsp-0-2-0.tif", ".dmsp-x.tif"
        for name in (dead, living, others, old, odd, "a.tif"):
            (tmp_path / name).touch()
        long_ago = time.time() - records.ABANDONED_SECONDS - 60
        os.utime(tmp_path / old, (long_ago, long_ago))
        os.utime(tmp_path / "a.tif", (long_ago, long_ago))
        records.check_folder(tmp_path)
        left = {mine.name, living, others, odd, "a.tif"}
        assert {path.name for path in tmp_path.iterdir()} == left
