"""Layers of any kind, whose parts are restored or refused with a sentence."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, note
from hypothesis import strategies as st
from napari.components import ViewerModel

from napari_dmsp._viewer.layers import full_resolution, plane_axes, select
from napari_dmsp._viewer.psfs import ShapedPsf
from napari_dmsp._viewer.result import Result
from napari_dmsp._viewer.script import Call
from napari_dmsp._viewer.worker import Done, Request, _work
from napari_dmsp.errors import DmspError
from napari_dmsp.settings import TASKS

SHAPES = [
    *[
        (12, 13),
        (12, 13),
        (2, 12, 13),
        (1, 1),
        (1, 20),
        (20, 1),
        (8, 8),
        (3, 9, 10),
        (1, 9, 10),
        (9, 10, 1),
        (4, 9, 10),
    ],
    *[(2, 3, 9, 10), (1, 1, 9, 10), (2, 1, 2, 9, 8), (9, 10, 3), (2, 9, 10, 3), (9, 10, 4)],
]
DTYPES = [*3 * ["f4"], "?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2"]
FILLS = ["noise", "constant", "nan", "one nan", "negative", "large"]
LABELS = [None, "tzyxc", "czyxt", "yxyxy"]


def unchanged(x, sigma):
    """Denoise nothing, as a prior that needs no weights."""
    return x


def pixels(shape, dtype, fill, seed):
    values = np.random.default_rng(seed).normal(60, 20, shape).clip(0, 120)
    if fill in ("constant", "nan"):
        values[:] = 5.0 if fill == "constant" else np.nan
    elif fill == "one nan":
        values.flat[values.size // 2] = np.nan
    elif fill in ("negative", "large"):
        values *= -1 if fill == "negative" else 1e37
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def make_layer(viewer, choose, seed):
    """Add a layer of any type, form and place."""
    shape, dtype = choose(SHAPES), choose(DTYPES)
    fill = choose(["noise", "noise", *FILLS])
    data = pixels(shape, dtype, fill, seed)
    # The viewer itself has no such colours.
    rgb = (
        fill != "large"
        and len(shape) > 2
        and shape[-1] in (3, 4)
        and dtype in ("u1", "f4")
        and choose([True, False])
    )
    ndim = len(shape) - rgb
    labels = choose(LABELS)
    return viewer.add_image(
        [data, data[..., ::2, ::2]] if choose([False] * 9 + [not rgb and min(shape) > 3]) else data,
        rgb=bool(rgb),
        scale=[choose([1.0, -2.0, 1e-9, 1e9]) for _ in range(ndim)],
        translate=[choose([0.0, 1e6, -3.5]) for _ in range(ndim)],
        axis_labels=None if labels is None else tuple(labels[-ndim:]),
        contrast_limits=(0, 255),
    )


def make_selection(viewer, layer, choose):
    """Select a part of a layer as the panels do, or with limits that reach beyond it."""
    drawn = [(2, 11, 0, 9), (-9, 99, -9, 99), (50, 60, 0, 5), (3, 3, 3, 3)]
    region = choose([None, None, *((slice(a, b), slice(c, d)) for a, b, c, d in drawn)])
    axes = plane_axes(layer, viewer.dims)
    others = [a for a in range(layer.ndim) if a not in axes]
    return select(
        layer,
        viewer.dims,
        axes=axes,
        region=region,
        along=choose([(), others]),
        margin=choose([0, 3, 1000]),
        align=choose([1, 8]),
    )


def layer_case(choose, seed):
    """Restore a part of a layer; return the layer, what was shown of it, and how the run ended."""
    viewer = ViewerModel()
    layer = make_layer(viewer, choose, seed)
    kind = TASKS[choose(["deblur", "deblur", "superres", "demosaic"])]
    viewer.dims.ndisplay = choose([2, 2, 3])
    before = np.array(full_resolution(layer))
    try:
        selection = make_selection(viewer, layer, choose)
        needed = {"deblur": {"psf": ShapedPsf("gaussian_psf", (0.7,))}, "superres": {"scale": 2}}
        usual = {"prior": unchanged, "iterations": 1, "device": "cpu"}
        call = Call(kind.of(**usual, **needed.get(kind.task, {})), selection, choose([True, False]))
        result = Result(viewer, call, "result", lambda *steps: [step() for step in steps])
        run = _work(call, 0.0, Request())
    except DmspError as error:
        return layer, None, str(error)
    while True:
        try:
            message = next(run)
        except StopIteration as end:
            outcome = end.value
            break
        if isinstance(message, Done):
            result.show(message.plane, message.block, done=True)
    assert full_resolution(layer).tobytes() == before.tobytes()
    said = [outcome.error] if outcome.error else [reason for _, reason in outcome.left_out]
    return selection, result.settle(), " ".join(said)


def check_layer(selection, shown, said):
    """A layer, or a sentence that is no message of a library."""
    assert not re.match(r"\w+(Error|Warning|Exception): ", said), said
    if not said:
        assert shown is not None
        finite = (
            np.isfinite(shown.data).all()
            or not np.isfinite(np.asarray(selection.data, float)).all()
        )
        assert finite
        assert np.isfinite(shown.scale).all()
        assert np.isfinite(shown.translate).all()
    else:
        assert len(said) > 20


def test_layers(cases):
    @cases(25)
    @given(data=st.data(), seed=st.integers(0, 99))
    def check(data, seed):
        case = layer_case(lambda among: data.draw(st.sampled_from(among)), seed)
        note(case[2])
        check_layer(*case)

    check()


def test_memory_may_run_out_on_any_line(memory_out):
    def run():
        viewer = ViewerModel()
        layer = viewer.add_image(pixels((2, 24, 25), "u1", "noise", 0))
        selection = select(layer, viewer.dims, axes=(1, 2), along=[0])
        psf = ShapedPsf("gaussian_psf", (0.7,))
        task = TASKS["deblur"].of(prior=unchanged, iterations=1, device="cpu", psf=psf)
        messages = _work(Call(task, selection, True), 0.0, Request())
        while True:
            try:
                next(messages)
            except StopIteration as end:
                return end.value

    assert run().error is None
    for place, out in memory_out(run, 20):
        # What comes before is the viewer's own thread.
        if not place[0].endswith(("layers.py", "psfs.py", "settings.py", "script.py")):
            with out:
                said = run().error
            assert said is None or "out of memory" in said, (place, said)
    assert run().error is None
