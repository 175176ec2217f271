from importlib import resources

import napari_dmsp


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
