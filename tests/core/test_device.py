import pytest

from napari_dmsp.core import device
from napari_dmsp.core.device import KEEPING, USUAL, freed_memory


class Library:
    """Writes down what the C library was told."""

    def __init__(self):
        self.told = []

    def mallopt(self, name, value):
        self.told.append((name, value))

    def malloc_trim(self, padding):
        self.told.append("trim")


def test_freed_memory_is_kept_until_the_last_is_done(monkeypatch):
    library = Library()
    monkeypatch.setattr(device, "_glibc", lambda: library)
    with freed_memory.kept():
        assert library.told == list(KEEPING.items())
        with pytest.raises(ValueError, match="inner"), freed_memory.kept():
            raise ValueError("inner")
        assert library.told == list(KEEPING.items())
    assert library.told == [*KEEPING.items(), *USUAL.items(), "trim"]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(device, "_glibc", lambda: None)
    with freed_memory.kept():
        pass
    with freed_memory.kept():
        assert freed_memory._users == 1
    assert freed_memory._users == 0
