import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest

import napari_dmsp

ROOT = Path(__file__).parents[1]


def test_the_package_brings_its_data():
    package = resources.files("napari_dmsp")
    assert (package / "napari.yaml").is_file()
    assert (package / "py.typed").is_file()
    names = {f.name for f in (package / "weights").iterdir()}
    assert {"rgb.safetensors", "rgb.json", "gray.safetensors", "gray.json"} <= names
    assert len([f for f in (package / "samples").iterdir() if f.name.endswith("png")]) >= 2


def test_public_names_are_there():
    assert dir(napari_dmsp) == sorted(napari_dmsp.__all__)
    for name in napari_dmsp.__all__:
        assert callable(getattr(napari_dmsp, name))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_the_wheel_has_the_whole_package_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    tracked = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert names == {name.removeprefix("src/") for name in tracked.stdout.split()}
    for name in ("gray", "rgb", "microscopy"):
        assert {f"napari_dmsp/weights/{name}.{kind}" for kind in ("safetensors", "json")} <= names


def test_the_sdist_builds_and_tests_itself(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "constraints.txt"}
    assert wanted | {"tests/test_package.py", "docs/conf.py", "docs/images/gallery.jpg"} <= names
    assert not any(name.startswith((".ci", "data", ".venv")) for name in names)


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert headings[0] == version
