"""Every option stands once, and all faces have it from there."""

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import napari_dmsp
from napari_dmsp.cli import app
from napari_dmsp.core.psf import gaussian_psf
from napari_dmsp.core.tasks import prepare_task
from napari_dmsp.errors import DmspError
from napari_dmsp.settings import (
    TASKS,
    Deblur,
    Demosaic,
    Photons,
    Superres,
    in_words,
    options,
    parse,
)


@pytest.fixture(params=TASKS.values(), ids=TASKS)
def kind(request):
    return request.param


def minimal(kind, **given):
    return kind.of(**({"scale": 2.0} if kind is Superres else {}) | given)


def test_settings_are_light():
    code = (
        "import sys, napari_dmsp.settings\n"
        "heavy = {'torch', 'numpy', 'skimage'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_have_all_options_and_say_what_they_are(kind):
    function = getattr(napari_dmsp, kind.task)
    parameters = inspect.signature(function).parameters
    names = [each.name for each, _ in options(kind)]
    assert set(parameters) == {kind.takes[0], "callback", *names}
    assert list(parameters)[:2] == [kind.takes[0], kind.positional]
    section = function.__doc__.split("Returns\n-------")[0]
    for name in parameters:
        assert f"\n{name} : " in section
    assert function.__name__ == kind.task
    assert function.__doc__.startswith(kind.__doc__.splitlines()[0])


def test_the_shell_has_all_options(kind):
    text = CliRunner().invoke(app, [kind.task, "--help"], env={"COLUMNS": "300"}).output
    flags = [flag for _, about in options(kind) if about.flag for flag in about.flag.split("/")]
    assert flags
    assert [flag for flag in flags if flag not in text] == []


def test_what_is_said_of_none_is_what_runs_take(kind):
    said = {each.name: about.auto for each, about in options(kind)}
    settings = minimal(kind, **({"psf": gaussian_psf(2)} if kind is Deblur else {}))
    image = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    taken = prepare_task(settings, image).settings
    assert f'"{taken["prior"]}"' in said["prior"]
    # Mosaics are never grey.
    assert ("gray" in said["prior"]) == (not kind.makes_colour)
    assert re.match(r"\d+", said["iterations"])[0] == str(taken["iterations"])


def test_unknown_arguments_are_named(kind):
    function = getattr(napari_dmsp, kind.task)
    with pytest.raises(TypeError, match="sharpness"):
        function(np.zeros((9, 9)), **({"scale": 2} if kind is Superres else {}), sharpness=3)
    with pytest.raises(TypeError, match="sharpness"):
        minimal(kind, sharpness=3)


def test_two_names_of_the_noise():
    assert Deblur.of(noise_sigma=2.0).noise == 2.0
    with pytest.raises(DmspError, match="one option"):
        Deblur.of(noise_sigma=2.0, noise=3.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 10**12}, "iterations=1000000000000 must be a whole number.*1000000"),
        ({"method": "magic"}, "method='magic' is unknown; use one of annealed, sgd"),
        ({"iterations": 0}, "iterations=0"),
        ({"iterations": 2.5}, "iterations=2.5"),
        ({"iterations": True}, "iterations=True"),
        ({"iterations": float("inf")}, "iterations=inf"),
        ({"iterations": float("nan")}, "iterations=nan"),
        ({"seed": 2**64}, "at most 64 bits"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": "a"}, "seed=a"),
        ({"noise": -1}, "noise=-1"),
        ({"noise": "3"}, "noise='3'"),
        ({"noise": [1.0, 2.0]}, "noise=\\[1.0, 2.0\\]"),
        ({"background": np.float32("inf")}, "background=inf"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"background": float("inf")}, "background=inf"),
        ({"psf": np.ones((3, 3)), "psf_size": 9}, "psf_size=9"),
    ],
)
def test_bad_values(given, message):
    with pytest.raises(DmspError, match=message):
        Deblur(**given)


@pytest.mark.parametrize(
    "values",
    [
        {"gain": 0},
        {"gain": -1},
        {"gain": np.inf},
        {"gain": 1, "read_noise": -1},
        {"gain": 1, "offset": np.nan},
    ],
)
def test_bad_photons(values):
    with pytest.raises(DmspError, match="must be"):
        Photons(**values)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("noise", "2.5", 2.5),
        ("noise", "gain=2", Photons(2.0)),
        ("noise", "gain=2, offset=100, read=1.5", Photons(2.0, 100.0, 1.5)),
        ("tile", "auto", "auto"),
        ("tile", "whole", None),
        ("tile", "512", 512),
        ("iterations", "7", 7),
        ("background", "3", 3.0),
        ("background", "1,2,3,4", [1.0, 2.0, 3.0, 4.0]),
        ("pattern", "X-Trans", "X-Trans"),
        ("pattern", "0,1/1,2", [[0, 1], [1, 2]]),
        ("pattern", "0 -1; 3 2", [[0, -1], [3, 2]]),
    ],
)
def test_typed_values(name, text, value):
    assert parse(Demosaic, name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("noise", "much"),
        ("noise", "gain=x"),
        ("noise", "offset=3"),
        ("noise", "gain=1,gamma=2"),
        ("tile", "large"),
        ("iterations", "2.5"),
        ("white", "a,b"),
    ],
)
def test_what_is_typed_wrongly_is_named(name, text):
    with pytest.raises(DmspError, match=f"{name}={text} is not"):
        parse(Demosaic, name, text)


def test_records_are_json(kind):
    psf = np.arange(100.0).reshape(10, 10)
    given = {"noise": Photons(2.0, 1.0), "background": np.float32(3)}
    given |= {"psf": psf} if kind is not Demosaic else {"pattern": np.array([[0, 1], [1, 2]])}
    record = json.loads(json.dumps(minimal(kind, **given).record()))
    assert record["task"] == kind.task
    assert record["noise"] == {"gain": 2.0, "offset": 1.0, "read_noise": 0.0}
    assert record["background"] == 3
    if kind is Demosaic:
        assert record["pattern"] == [[0, 1], [1, 2]]
    else:
        assert (record["psf"]["shape"], record["psf"]["dtype"]) == ([10, 10], "float64")
        other = minimal(kind, **given | {"psf": psf.T.copy()}).record()
        assert other["psf"]["sha256"] != record["psf"]["sha256"]


def test_code_makes_the_settings_again():
    settings = Superres.of(scale=3, noise=Photons(2.0), seed=5, psf=np.ones((3, 3)), tile=None)
    code = settings.code(psf="kernel")
    again = eval(f"Superres.of({code})", {"Superres": Superres, "Photons": Photons, "kernel": 1})
    assert again.given() == settings.given() | {"psf": 1}
    assert "method" not in code


@pytest.mark.parametrize(
    ("face", "text", "said"),
    [
        ("shell", "iterations=0 must be a whole number", "--iterations 0 must be a whole number"),
        ("panel", "iterations=0 must be a whole number", "Evaluations 0 must be a whole number"),
        ("panel", "noise_sigma=-1 must be zero or positive", "Noise σ -1 must be zero or positive"),
        ("shell", "it is grey; use prior='gray'.", "it is grey; use --prior gray."),
        ("shell", "give channel_axis=-1 for colour", "give channel_axis=-1 for colour"),
        ("panel", "use tile=512, or device='cpu'.", "use Tile 512, or Device cpu."),
        ("shell", "linear=True was chosen", "--linear was chosen"),
        ("shell", "give psf_size=, and", "give --psf-size, and"),
        ("panel", "a psf_size= near the blur", "a Size of the PSF near the blur"),
        ("shell", "give linear=False.", "give --no-linear."),
        ("panel", "give linear=True.", "give Linear yes."),
        ("shell", "chunks=3 must be at least 64, or None.", "--chunks 3 must be at least 64."),
        ("shell", "give overwrite (overwrite=True) to it", "give overwrite to it"),
        ("shell", "runs/noise=2/a.tif is no file", "runs/noise=2/a.tif is no file"),
    ],
)
def test_errors_are_said_in_the_words_of_the_face(face, text, said):
    assert in_words(text, Demosaic if "linear" in text else Deblur, face) == said
