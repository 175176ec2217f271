"""The documentation's examples run, and do what it says."""

import html
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from napari_dmsp.core.data import Gaussian

DOCS = Path(__file__).parents[1] / "docs"
GALLERY = runpy.run_path(str(DOCS / "make_gallery.py"))


def test_the_example_of_a_new_degradation(capsys):
    text = (DOCS / "new_degradation.md").read_text(encoding="utf-8")
    names = {"__name__": "example"}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert capsys.readouterr().out.startswith("(128, 128) noise ")
    scene, observed, result = names["scene"], names["observed"], names["result"].image
    repeated = np.repeat(observed, 2, axis=0)
    assert np.square(result - scene).mean() < 0.7 * np.square(repeated - scene).mean()

    even, speckled = names["unbin_rows"], names["speckled"].image
    rows = (scene[::2] + scene[1::2]) / 2 * names["speckle"]
    level = even(rows, background=0, noise=float((0.15 * rows).std())).image
    assert np.square(speckled - scene).mean() < np.square(level - scene).mean()

    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(1, 1, 8, 6, generator=rng), torch.rand(1, 1, 4, 6, generator=rng)
    weights = (torch.rand(1, 1, 4, 6, generator=rng) > 0.3).float()
    for name in ("RowBinning", "FastRowBinning"):
        op = names[name]()
        torch.testing.assert_close((op.forward(x) * y).sum(), (x * op.adjoint(y)).sum())
        for w in (None, weights):
            fit = Gaussian(operator=op, y=y, weights=w).prox(x, 0.2, tolerance=1e-7)
            error = (op.forward(fit.x) - y) * (1 if w is None else w)
            slope = op.adjoint(error) + 0.2 * (fit.x - x)
            torch.testing.assert_close(slope, torch.zeros_like(x), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_of_the_site_leads_to_its_place(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    places = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    links = 0
    for page, text in pages.items():
        for link in re.findall(r'<a [^>]*?href="([^"]+)"', text):
            address, _, place = unquote(html.unescape(link)).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / address).resolve() if address else page
            assert target.is_file(), f"{page.name}: {link}"
            if place and target in places:
                assert place in places[target], f"{page.name}: {link}"
            links += bool(place)
    assert links > 500


def test_every_link_of_the_readme_leads_to_its_place():
    root = DOCS.parent
    text = (root / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text)
    assert len(links) > 10
    for address, place in links:
        target = root / (address or "README.md")
        assert target.is_file(), address
        if place:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert place in slugs, f"{address}#{place}"


def test_the_reference_has_every_public_name(site):
    reference = (site / "api.html").read_text(encoding="utf-8")
    elsewhere = {"napari_dmsp.core.Restoration", "napari_dmsp.core.load_prior"}
    for module in ("napari_dmsp", "napari_dmsp.core", "napari_dmsp.scale"):
        for name in {f"{module}.{name}" for name in import_module(module).__all__} - elsewhere:
            assert f'id="{name}"' in reference, name


@pytest.mark.parametrize(
    ("name", "side", "gain"),
    [("shaken", 160, 3), ("nuclei", 96, 8), ("stack", 64, 2), ("raw", 64, 3), ("small", 96, 1)],
)
def test_the_lines_of_the_gallery_restore_what_is_shown(name, side, gain):
    scene = GALLERY["SCENES"][name](side)
    restored = GALLERY["restore"](name, scene)
    assert scene.psnr(restored) > scene.psnr(scene.before) + gain
    assert len(GALLERY["SCENES"]) == 5


def test_the_lines_for_scripters_run(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "tutorials.md").read_text("utf-8"), re.S)
    names = {"image": np.random.default_rng(0).random((48, 48)), "psf": np.ones((3, 3))}
    exec(code, names)
    assert names["result"].evaluations == names["record"]["evaluations"] == 12
