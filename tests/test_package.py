import re
import runpy
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


LINK = re.compile(r"\]\(([^)]*)\)")


def test_the_readme_of_the_wheel_has_no_link_that_leads_nowhere(dist):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown" in metadata
    _, _, readme = metadata.partition("\n\n")
    assert readme.startswith("# napari-dmsp")
    assert "## Licence" in readme
    links = LINK.findall(readme)
    assert len(links) >= 3
    assert [link for link in links if not link.startswith("https://")] == []


def test_with_a_repository_the_links_of_the_readme_lead_there():
    readme_for_index = runpy.run_path(str(ROOT / "hatch_build.py"))["readme_for_index"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    at = "https://example.org/somebody/napari-dmsp"
    made = readme_for_index(text, at)
    assert f"]({at}/raw/HEAD/docs/images/gallery.jpg)" in made
    assert f"]({at}/blob/HEAD/docs/volumes.md#measured)" in made
    assert f"]({at}/blob/HEAD/README.md#pytorch)" in made
    assert len(LINK.findall(made)) == len(LINK.findall(text))
    assert all(link.startswith("https://") for link in LINK.findall(made))
    without = readme_for_index(text)
    assert "gallery.jpg" not in without
    assert "Above what was observed" not in without
    assert "see PyTorch for" in re.sub(r"\s+", " ", without)


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert headings[0] == version
