"""The preferences, as the manifest declares them and as they are read."""

from __future__ import annotations

import sys

import pytest
from npe2 import PluginManifest

from napari_dmsp._viewer.preferences import MIN_LIVE_SECONDS, OUTPUTS, TILES, Preferences
from napari_dmsp._viewer.preferences import read_preferences as read
from napari_dmsp.settings import DEVICES

pytest.importorskip("napari.settings._plugin_config_generator", reason="new in napari 0.9")


@pytest.fixture
def settings(plugin_settings, npe2pm):
    """Return what writes the preferences, as the dialog does."""
    from napari.settings import get_plugin_settings

    npe2pm.register(PluginManifest.from_distribution("napari-dmsp"))
    return get_plugin_settings("napari-dmsp").restoration


def test_the_manifest_declares_them(settings):
    properties = type(settings).model_json_schema()["properties"]
    assert set(properties) == set(Preferences.__dataclass_fields__)
    assert tuple(properties["device"]["enum"]) == DEVICES
    assert tuple(properties["tile"]["enum"]) == tuple(TILES)
    assert tuple(properties["output"]["enum"]) == OUTPUTS
    assert properties["live_seconds"]["minimum"] == MIN_LIVE_SECONDS
    assert read() == Preferences(**settings.model_dump()) == Preferences()


def test_they_are_read(settings):
    settings.device, settings.tile, settings.output = "cpu", "512", "same as input"
    settings.live_seconds = 2
    assert read() == Preferences("cpu", "512", "same as input", 2.0)


def test_they_are_kept(settings, tmp_path):
    from napari import settings as napari_settings

    settings.device = "cpu"
    napari_settings._clear_plugin_settings_cache()
    assert read() == Preferences("cpu")


@pytest.mark.parametrize(
    "text", ["restoration: {device: abacus, live_seconds: 0.01}", "restoration: 3", "{", ""]
)
def test_a_damaged_file_gives_defaults(settings, tmp_path, text):
    from napari import settings as napari_settings

    (tmp_path / "napari-dmsp.yaml").write_text(text)
    napari_settings._clear_plugin_settings_cache()
    assert read() == Preferences()


class Group:
    """What a wrong group of settings may hold."""

    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Preferences()),
        ({"device": "abacus", "tile": 512, "output": 8, "live_seconds": "often"}, Preferences()),
        ({"device": "cuda", "live_seconds": 0.1}, Preferences("cuda")),
        ({"live_seconds": float("nan")}, Preferences()),
        ({"live_seconds": float("inf")}, Preferences()),
    ],
)
def test_wrong_values_have_defaults(monkeypatch, values, expected):
    group = Group(restoration=Group(**values))
    monkeypatch.setattr("napari.settings.get_plugin_settings", lambda _: group)
    assert read() == expected


@pytest.mark.parametrize("known", [{}, {"napari-dmsp": Group()}])
def test_an_unknown_plugin_has_defaults(monkeypatch, known):
    monkeypatch.setattr("napari.settings.get_plugin_settings", known.__getitem__)
    assert read() == Preferences()


def test_other_viewers_have_defaults(monkeypatch):
    monkeypatch.delattr("napari.settings.get_plugin_settings")
    assert read() == Preferences()
    monkeypatch.setitem(sys.modules, "napari.settings", None)
    assert read() == Preferences()
