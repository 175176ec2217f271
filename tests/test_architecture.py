"""Arrows go down only: what a module imports lies on a lower floor, or in its own room."""

import ast
from pathlib import Path

import pytest

import napari_dmsp

ROOT = Path(napari_dmsp.__file__).parent
# From the ground up; rooms on one floor do not know each other.
FLOORS = [
    {"errors"},
    {"windows", "priors", "dtypes", "search"},
    {"settings"},
    {"core", "files"},
    {"plan", "training"},
    {"cluster", "restore"},
    {"scale", "demo", "psf_text"},
    {"batch"},
    {"cli", "_viewer"},
]
# What a room may not import from outside.
HEAVY = {
    "errors": {"numpy", "torch", "dask", "napari", "qtpy", "magicgui"},
    "settings": {"torch", "dask", "napari", "qtpy", "magicgui"},
    "windows": {"torch", "dask", "napari", "qtpy", "magicgui"},
    "search": {"torch", "dask", "napari", "qtpy", "magicgui"},
    "priors": {"torch", "dask", "napari", "qtpy", "magicgui"},
    "files": {"torch", "napari", "qtpy", "magicgui"},
    "core": {"dask", "distributed", "zarr", "tifffile", "napari", "qtpy", "magicgui"},
    "plan": {"dask", "distributed", "zarr", "tifffile", "napari", "qtpy", "magicgui"},
    "training": {"dask", "distributed", "napari", "qtpy", "magicgui"},
}


def floor_of(room):
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports(path):
    """Yield what a file imports, as (room of the package or None, package outside)."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            names = (node.module or "").split(".") if node.module else []
            target = (*base, *names)
            if target:
                yield target[0], None
            else:
                yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield None, node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem[0] != "_"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_down(path):
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    for inner, outer in imports(path):
        if inner is not None and inner != room:
            assert floor_of(inner) < floor_of(room), f"{room} imports {inner}"
        assert outer not in HEAVY.get(room, ()), f"{room} imports {outer}"
