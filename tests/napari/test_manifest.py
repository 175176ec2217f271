"""What the plugin contributes, and its samples through the manifest."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from napari._app_model.constants import MenuId
from npe2 import PluginManifest

SAMPLES = {
    "colour_photograph": {"dog": (496, 496, 3), "dog PSF": (17, 17), "dog truth": (496, 496, 3)},
    "grey_photograph": {"city": (500, 500), "city PSF": (13, 13), "city truth": (500, 500)},
    "nuclei": {"nuclei": (384, 384), "nuclei PSF": (9, 9)},
    "cells": dict.fromkeys(("cells", "beads", "cells truth"), (32, 128, 128)),
}


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_distribution("napari-dmsp")


def test_manifest_is_valid_and_its_commands_exist(manifest):
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name))


def test_menus_are_ours_or_open_to_plugins(manifest):
    contributions = manifest.contributions
    ours = {submenu.id for submenu in contributions.submenus}
    assert ours == {"napari-dmsp.restore"}
    open_to_plugins = {str(menu) for menu in MenuId.contributables()}
    assert set(contributions.menus) == ours | {"napari/layers/filter"}
    assert set(contributions.menus) - ours <= open_to_plugins


def test_action_is_in_the_menu(make_napari_viewer):
    from napari._app_model import get_app_model

    make_napari_viewer()
    menus = get_app_model().menus
    assert "napari-dmsp.restore" in [
        getattr(item, "submenu", "") for item in menus.get_menu("napari/layers/filter")
    ]
    titles = [item.command.title for item in menus.get_menu("napari-dmsp.restore")]
    assert any("Deblur" in title for title in titles)


@pytest.mark.parametrize("key", SAMPLES)
def test_samples_open(make_napari_viewer, key):
    viewer = make_napari_viewer()
    viewer.open_sample("napari-dmsp", key)
    assert {layer.name: layer.data.shape for layer in viewer.layers} == SAMPLES[key]
    first, *_, last = viewer.layers
    assert [layer for layer in viewer.layers if layer.visible] == [last]
    assert viewer.layers.selection.active is last
    assert last.rgb == (key == "colour_photograph")
    assert first.name == "beads" or np.isclose(first.data.sum(), 1)


def test_sample_noise_is_the_same_every_time():
    from napari_dmsp._viewer.samples import grey_photograph

    first, second = grey_photograph(), grey_photograph()
    (_, truth, observed), again = ([layer[0] for layer in each] for each in (first, second))
    assert np.array_equal(observed, again[-1])
    difference = observed.astype(float) - truth
    assert 5 < difference.std() < 60
