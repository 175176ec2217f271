"""All of a restoration happens on the device that was asked for, and rarely waits for it.

No GPU is needed: in a process of its own, a device that torch knows by name only computes on the
processor. It refuses what CUDA or MPS refuse, operands of two devices and float64, and counts how
often the processor waits for it.
"""

import json
import subprocess
import sys
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
import torch
from skimage import data
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

SETUP = "_setup_privateuseone_for_python_backend"
NAME = "far"
# Evaluations after which a restoration is stopped, for those of an unknown PSF are many.
LONGEST = 24
# What brings numbers to the processor: it waits until they have been computed.
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique"}


class Far(torch.Tensor):
    """A tensor of that device, whose values the processor keeps."""

    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, near):
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class Everything(TorchDispatchMode):
    """Sees what makes tensors out of nothing, too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


waits = Counter()


def is_far(device):
    return device is not None and torch.device(device).type == NAME


def compute(function, args, kwargs):
    """Compute on the processor what was asked of either device."""
    values = tree_flatten((args, kwargs))[0]
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    name = function.overloadpacket.__name__
    there = [isinstance(t, Far) for t in tensors]
    copies = name in ("_to_copy", "copy_", "_copy_from")
    if any(there) and not copies:
        strangers = [t for t, f in zip(tensors, there, strict=True) if not f and t.ndim]
        assert not strangers, f"{name} has operands of two devices"
    target = kwargs.get("device")
    far = is_far(target) if target is not None else any(there[:1] if copies else there)
    if (name == "copy_" and there == [False, True]) or (any(there) and not far):
        waits["copies to the processor"] += 1
    if any(there) and name in WAITS:
        waits[name] += 1
    if (
        any(there)
        and any(t.dtype == torch.bool and t.ndim for t in tensors[1:])
        and (name in ("index", "index_put_", "_index_put_impl_"))
    ):
        waits[name] += 1
    near = tree_map(lambda v: v.near if isinstance(v, Far) else v, (args, kwargs))
    if target is not None:
        near[1]["device"] = torch.device("cpu")
    result = function(*near[0], **near[1])
    if not far:
        return result
    if (name.endswith("_") and not name.startswith("_")) or "out" in kwargs:
        return kwargs.get("out", args[0])
    return tree_map(lambda v: Far(checked(v, name)) if isinstance(v, torch.Tensor) else v, result)


def checked(tensor, name):
    """Return a tensor of the device, which has no double precision."""
    assert tensor.dtype not in (torch.float64, torch.complex128), f"{name} made float64"
    return tensor


def register():
    """Make torch know the device, and what it calls out of sight of modes."""
    module = backend_registration._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    getattr(backend_registration, SETUP)(NAME, module)
    library = torch.library.Library("aten", "IMPL")

    def empty_strided(size, stride, **options):
        near = torch.empty_strided(size, stride, dtype=options.get("dtype") or torch.float32)
        return Far(checked(near, "empty_strided"))

    def empty(size, **options):
        return Far(checked(torch.empty(size, dtype=options.get("dtype")), "empty"))

    def copy(source, target, non_blocking=False):
        if isinstance(source, Far):
            waits["copies to the processor"] += 1
        near = [t.near if isinstance(t, Far) else t for t in (source, target)]
        near[1].copy_(near[0])
        return target

    for name, function in (
        ("empty_strided", empty_strided),
        ("empty.memory_format", empty),
        ("_copy_from", copy),
    ):
        library.impl(name, function, "PrivateUse1")
    return library


def main():
    """Restore on that device, and print how often was waited in each evaluation, and the error."""
    library = register()
    from napari_dmsp import Photons, deblur, demosaic, superres
    from napari_dmsp.core import inputs, prior
    from napari_dmsp.core.psf import gaussian_psf
    from napari_dmsp.core.simulate import simulate_blur

    random = np.random.default_rng(0)
    sharp = data.camera()[100:178, 200:286] / 255
    psf = gaussian_psf(1.0)
    plane = simulate_blur(sharp, psf, 0.02)[0]
    stack = random.poisson(20 + 10 * random.random((12, 40, 40))).astype(np.float32)
    line = np.exp(-(np.arange(-2.0, 3) ** 2))
    ball = line[:, None, None] * line[:, None] * line
    tasks = {
        "deblur": lambda **o: deblur(plane, psf, **o),
        "noise known": lambda **o: deblur(plane, psf, noise=0.02, **o),
        "saturated": lambda **o: deblur(plane.clip(0, 0.5), psf, **o),
        "photons": lambda **o: deblur(stack[0], psf, noise=Photons(1.0), **o),
        "superres": lambda **o: superres(plane, 2, **o),
        "demosaic": lambda **o: demosaic(plane, "RGGB", **o),
        "volume": lambda **o: deblur(stack, ball / ball.sum(), **o),
        "psf unknown": lambda **o: deblur(plane, psf_size=5, **o),
    }
    found = {}
    for name, run in tasks.items():
        counts = []

        def count(state, counts=counts):
            counts.append(waits.total())
            return len(counts) == LONGEST

        # The processor may have bfloat16, which that device has not.
        with patch.object(prior, "supports_bf16", lambda _: False):
            here = run(seed=0, callback=count)
        counts.clear()
        with patch.object(inputs, "pick_device", lambda _: torch.device(NAME, 0)), Everything():
            waits.clear()
            there = run(seed=0, callback=count)
        each = np.diff(counts).tolist()
        error = float(np.abs(there.image - here.image).max() / np.ptp(here.image))
        found[name] = {"waits": each, "error": error, "kinds": dict(waits)}
    del library
    print(json.dumps(found))


# Waits in an evaluation at most: for the noise level, and as often as a fit asks whether it is
# done. Where samples differ in weight, or a kernel is fitted, that is after every step.
MOST = {
    "deblur": 5,
    "noise known": 3,
    "saturated": 12,
    "photons": 6,
    "superres": 3,
    "demosaic": 3,
    "volume": 7,
    "psf unknown": 70,
}


@pytest.fixture(scope="module")
def found():
    if not hasattr(backend_registration, SETUP):
        pytest.skip("this torch knows no device by name only")
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("task", MOST)
def test_results_are_those_of_the_processor(found, task):
    assert found[task]["error"] < 1e-5


@pytest.mark.parametrize("task", MOST)
def test_the_processor_seldom_waits(found, task):
    # The first evaluation has no good guess to start from.
    assert max(found[task]["waits"][1:]) <= MOST[task], found[task]


if __name__ == "__main__":
    main()
