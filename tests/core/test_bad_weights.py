"""Files that pretend to be weights: refused before any memory is taken for them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_dmsp import load_prior
from napari_dmsp.core.networks import UNet
from napari_dmsp.errors import DmspError
from napari_dmsp.priors import MOST_CARD, MOST_HEADER
from napari_dmsp.training.train import Recipe, state_path, train

BYTES = {"F32": 4, "I64": 8, "C64": 8, "BOOL": 1}
CONFIG = {"architecture": "unet", "channels": 1, "widths": [8, 8], "blocks": 1}


def write(path, config=CONFIG, dtype="F32", about=None, begin=0, length=None):
    """Write a file as large as a network needs, of which the disk holds the header only."""
    with torch.device("meta"):
        net = UNet(1, tuple(config["widths"]), 1)
    about = {"napari-dmsp": json.dumps(config)} if about is None else about
    header, end = {"__metadata__": about}, begin
    for name, tensor in sorted(net.state_dict().items()):
        size = tensor.numel() * BYTES[dtype]
        header[name] = {
            **{"dtype": dtype, "shape": list(tensor.shape)},
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end - begin)


BAD = {
    "huge": {"config": CONFIG | {"widths": [2**13, 2**13]}},
    "whole numbers": {"dtype": "I64"},
    "complex numbers": {"dtype": "C64"},
    "truth values": {"dtype": "BOOL"},
    "beyond the end": {"begin": 2**50},
    "a lie of its length": {"length": 2**60},
    "all of it header": {"length": 2**25},
    "long": {"about": {"napari-dmsp": " " * 2**25}},
    "deep": {"about": {"napari-dmsp": "[" * (MOST_HEADER // 2)}},
    "many": {"config": CONFIG | {"blocks": 10**9}},
    "a path": {"config": CONFIG | {"architecture": "../../unet"}},
    "a card": {"about": {"napari-dmsp": "[]"}},
    "nothing": {"about": {}},
}
# In a process of its own, whose memory nothing else takes.
GROWTH = """
import resource, sys
from pathlib import Path
from napari_dmsp import load_prior
from napari_dmsp._viewer.own_priors import prior_config
from napari_dmsp.errors import DmspError
load_prior("gray")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in map(Path, sys.argv[1:]):
    prior_config(path)
    try:
        load_prior(path)
    except DmspError as error:
        assert str(path) in str(error)
    else:
        sys.exit(f"{path} was taken for a prior")
print(peak() - before)
"""


@pytest.mark.skipif(os.name != "posix", reason="sparse files, and memory in kilobytes")
def test_refused_before_memory_is_taken(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in BAD]
    for path, about in zip(paths, BAD.values(), strict=True):
        write(path, **about)
    command = [sys.executable, "-c", GROWTH, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 30_000


def test_weights_that_are_not_finite(tmp_path):
    path, about = tmp_path / "a.safetensors", {"napari-dmsp": json.dumps(CONFIG)}
    for value in (torch.nan, torch.inf):
        weights = {k: v * value for k, v in UNet(1, (8, 8), 1).state_dict().items()}
        save_file(weights, path, metadata=about)
        with pytest.raises(DmspError, match="not finite"):
            load_prior(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_cards_without_an_end(tmp_path):
    write(tmp_path / "a.safetensors")
    card = tmp_path / "a.json"
    card.write_text('{"note": "short"}')
    assert load_prior(tmp_path / "a.safetensors").card == {"note": "short"}
    for make in (
        lambda: card.write_text("[" * 10**6),
        lambda: os.truncate(card, MOST_CARD + 1),
        lambda: (card.unlink(), os.mkfifo(card)),
        lambda: (card.unlink(), card.symlink_to("/dev/zero")),
    ):
        make()
        os.utime(tmp_path / "a.safetensors")
        assert load_prior(tmp_path / "a.safetensors").card == {}


def test_states_that_cannot_be_continued(tmp_path):
    recipe = Recipe(channels=1, widths=(8, 8), blocks=1, batch=1, patch=8)
    image, out = np.arange(900.0).reshape(30, 30) / 900, tmp_path / "a.safetensors"
    options = {"recipe": recipe, "device": "cpu", "progress": lambda values: True}
    train([image], out, **options)
    good, state = state_path(out).read_bytes(), state_path(out)
    about = {"step": "1", "elapsed": "1", "recipe": '{"channels": 1}'}
    for change in (
        {"about": about},
        *({"about": about | {name: text}} for name in about for text in ("", "[", "nan", "-1")),
        {"dtype": "I64"},
        {"config": CONFIG | {"widths": [2**13, 2**13]}, "about": about},
        {"length": 2**40},
    ):
        write(state, **change)
        with pytest.raises(DmspError, match=r"a\.state\.safetensors"):
            train([image], out, resume=state, **options)
    state.write_bytes(good.replace(b"exp_avg.", b"exp_bad."))
    with pytest.raises(DmspError, match="cannot be continued"):
        train([image], out, resume=state, **options)
    state.write_bytes(good)
    assert train([image], out, resume=state, **options)["training"]["steps"] == 2
