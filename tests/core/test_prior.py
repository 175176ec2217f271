import functools
import json
import math
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage import data

from napari_dmsp.core.identity import fingerprint
from napari_dmsp.core.networks import DnCNN, UNet
from napari_dmsp.core.prior import load_prior, mean_shift
from napari_dmsp.errors import DmspError
from napari_dmsp.priors import available_priors, priors_folder

MEANS = torch.tensor([0.2, 0.7], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
SPREADS = torch.tensor([0.05, 0.1], dtype=torch.float64)


def log_density(x, sigma):
    """Log of the mixture smoothed by a Gaussian, per pixel, in closed form."""
    variance = SPREADS**2 + sigma**2
    exponent = -((x[..., None] - MEANS) ** 2) / (2 * variance)
    return torch.logsumexp(exponent + torch.log(WEIGHTS / (2 * math.pi * variance).sqrt()), -1)


def mixture_denoiser(x, sigma):
    """Posterior mean of the mixture under Gaussian noise."""
    variance = SPREADS**2 + sigma**2
    exponent = -((x[..., None] - MEANS) ** 2) / (2 * variance)
    posterior = torch.softmax(exponent + torch.log(WEIGHTS / variance.sqrt()), -1)
    mean = (SPREADS**2 * x[..., None] + sigma**2 * MEANS) / variance
    return (posterior * mean).sum(-1)


@pytest.mark.parametrize("sigma", [0.03, 0.2])
def test_mean_shift_is_the_gradient_of_the_smoothed_log_density(sigma):
    x = torch.linspace(-0.2, 1.2, 64, dtype=torch.float64).reshape(1, 1, 8, 8).requires_grad_()
    (expected,) = torch.autograd.grad(log_density(x, sigma).sum(), x)
    result = mean_shift(mixture_denoiser, x.detach(), sigma)
    torch.testing.assert_close(result, expected)


def test_stochastic_mean_shift_averages_to_the_gradient_of_the_bound():
    sigma, half = 0.2, 0.2 / math.sqrt(2)
    x = torch.full((1, 1, 400, 400), 0.35, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    result = mean_shift(mixture_denoiser, x, sigma, stochastic=True, generator=generator)
    # Eq. 17 by quadrature: the expected log density, smoothed with the other half of the variance.
    point = torch.tensor(0.35, dtype=torch.float64, requires_grad=True)
    offsets = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    gauss = torch.softmax(-(offsets**2) / 2, 0)
    bound = (gauss * log_density(point + half * offsets, half)).sum()
    (expected,) = torch.autograd.grad(bound, point)
    error = result.std() / math.sqrt(result.numel())
    assert abs(result.mean() - expected) < 5 * error


def test_bundled_priors_load_with_their_card():
    assert {"rgb", "gray"} <= set(available_priors())
    for name, channels in (("rgb", 3), ("gray", 1)):
        prior = load_prior(name)
        assert (prior.channels, prior.noise_sigma) == (channels, None)
        assert prior.card["sha256"] == prior.sha256


def save_unet(path, channels=1):
    net = UNet(channels, (8, 8), 1)
    config = json.dumps({"architecture": "unet", **net.config})
    save_file(net.state_dict(), path, metadata={"napari-dmsp": config})
    return net


def test_the_users_own_priors_come_after_the_bundled_ones(tmp_path, monkeypatch):
    folder = tmp_path / "priors"
    monkeypatch.setenv("NAPARI_DMSP_PRIORS", str(folder))
    assert priors_folder() == folder
    bundled = available_priors()
    folder.mkdir()
    net = save_unet(folder / "a mine.safetensors")
    # Neither a state of training, nor a file with the name of a bundled prior.
    save_unet(folder / "a mine.state.safetensors")
    save_unet(folder / "gray.safetensors")
    assert available_priors() == [*bundled, "a mine"]
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        prior = replace(load_prior("a mine"), autocast=False)
        torch.testing.assert_close(prior(x, 0.1), net(x, 0.1))
    assert load_prior("gray").card["sha256"] == load_prior("gray").sha256


def test_the_users_folder_is_where_the_system_keeps_data(monkeypatch):
    monkeypatch.delenv("NAPARI_DMSP_PRIORS", raising=False)
    assert priors_folder().parts[-2:] == ("napari-dmsp", "priors")
    assert priors_folder().is_absolute()


@pytest.mark.parametrize(("name", "channels", "gain"), [("rgb", 3, 6), ("gray", 1, 6)])
def test_bundled_priors_remove_noise(name, channels, gain):
    ramp = torch.linspace(0.1, 0.9, 96)
    clean = (ramp[:, None] * ramp).expand(1, channels, 96, 96)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    before, after = (noisy - clean).square().mean(), (load_prior(name)(noisy, 0.1) - clean).square()
    assert 10 * torch.log10(before / after.mean()) > gain


def test_any_callable_is_a_prior():
    prior = load_prior(mixture_denoiser)
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(prior(x, 0.1), mixture_denoiser(x, 0.1))
    assert (prior.name, prior.channels) == ("mixture_denoiser", None)
    assert load_prior(prior) is prior


@pytest.mark.parametrize(
    ("net", "architecture", "sigma"),
    [(UNet(1, (8, 8), 1), "unet", None), (DnCNN(3, 3, 8), "dncnn", 0.04)],
)
def test_weights_files_load(tmp_path, net, architecture, sigma):
    config = {"architecture": architecture, **net.config}
    if sigma is not None:
        config["noise_sigma"] = sigma
    path = tmp_path / "mine.safetensors"
    save_file(net.state_dict(), path, metadata={"napari-dmsp": json.dumps(config)})
    prior = load_prior(path)
    assert (prior.name, prior.noise_sigma) == ("mine", sigma)
    x = torch.rand(1, net.channels, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(replace(prior, autocast=False)(x, 0.1), net(x, 0.1))


def test_fast_arithmetic_costs_next_to_nothing():
    prior = load_prior("rgb")
    photo = torch.from_numpy(data.astronaut()[40:120, 170:250] / np.float32(255))
    clean = photo.permute(2, 0, 1)[None]
    for sigma in (0.01, 0.05, 0.2):
        noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        fast, exact = prior(noisy, sigma), prior.denoiser(noisy, sigma)
        assert fast.dtype == torch.float32
        assert (fast - exact).square().mean() < 0.005 * (exact - clean).square().mean()


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(DmspError, match="neither a file nor one of"):
        load_prior("nonsense")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    with pytest.raises(DmspError, match="trainer"):
        load_prior(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(3)}, foreign)
    with pytest.raises(DmspError, match="trainer"):
        load_prior(foreign)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widths": [8, 8], "blocks": 10**9}, "1000000000 is no size"),
        ({"widths": [10**7, 8]}, "10000000 is no size"),
        ({"widths": [64000, 64000]}, "has shape"),
        ({"widths": [8, 8], "channels": 3}, "has shape"),
        ({"widths": [8, 8], "blocks": True}, "no size"),
        ({"widths": 8}, "trainer"),
        ({"architecture": "transformer"}, "transformer"),
        ({"widths": [8, 8], "depth": 4}, "trainer"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_memory_is_taken(tmp_path, config, message):
    path = tmp_path / "odd.safetensors"
    config = {"architecture": "unet", "channels": 1, "widths": [8, 8], "blocks": 1} | config
    weights = UNet(1, (8, 8), 1).state_dict()
    save_file(weights, path, metadata={"napari-dmsp": json.dumps(config)})
    with pytest.raises(DmspError, match=message):
        load_prior(path)


def test_weights_of_other_types(tmp_path):
    net, path = UNet(1, (8, 8), 1), tmp_path / "mine.safetensors"
    about = {"napari-dmsp": json.dumps({"architecture": "unet", **net.config})}
    save_file({k: v.double() for k, v in net.state_dict().items()}, path, metadata=about)
    torch.testing.assert_close(load_prior(path).denoiser.state_dict(), net.state_dict())
    broken = {k: v * torch.nan for k, v in net.state_dict().items()}
    save_file(broken, tmp_path / "nan.safetensors", metadata=about)
    with pytest.raises(DmspError, match="not finite"):
        load_prior(tmp_path / "nan.safetensors")


def test_a_prior_is_loaded_without_a_trace(tmp_path):
    save_unet(tmp_path / "mine.safetensors")
    seeds = torch.get_rng_state().clone()
    with torch.inference_mode(), torch.device("meta"):
        prior = load_prior(tmp_path / "mine.safetensors")
    assert torch.equal(torch.get_rng_state(), seeds)
    weights = [*prior.denoiser.parameters()]
    assert not any(weight.is_inference() or weight.is_meta for weight in weights)


GAIN = 2.0


def times_gain(x, sigma):
    return GAIN * x


def denoiser_of(gain, plus=0.0):
    return lambda x, sigma: gain * x + plus


class Times:
    def __init__(self, gain):
        self.gain, self.me = gain, self

    def __call__(self, x, sigma):
        return self.gain * x


def test_callables_that_differ_have_other_hashes(monkeypatch):
    net = UNet(1, (8, 8), 1)
    same = [
        (denoiser_of(2.0), denoiser_of(2.0)),
        (Times(2.0), Times(2.0)),
        (net, net),
        (functools.partial(net, sigma=1), functools.partial(net, sigma=1)),
        (denoiser_of({"a", "b"}), denoiser_of({"b", "a"})),
    ]
    for one, two in same:
        assert load_prior(one).sha256 == load_prior(two).sha256
    other = [
        denoiser_of(2.0),
        denoiser_of(2.5),
        denoiser_of(2.0, plus=1.0),
        denoiser_of(np.ones(3)),
        denoiser_of(np.zeros(3)),
        denoiser_of(torch.zeros(3)),
        Times(2.0),
        Times(3.0),
        net,
        UNet(1, (8, 8), 2),
        lambda x, sigma: x - sigma,
        lambda x, sigma: x + sigma,
        times_gain,
        torch.relu,
    ]
    hashes = [load_prior(each).sha256 for each in other]
    assert len({*hashes}) == len(other)
    before = load_prior(net).sha256
    with torch.no_grad():
        net.head.weight[0, 0, 0, 0] += 1e-6
    assert load_prior(net).sha256 != before
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert load_prior(times_gain).sha256 != hashes[-2]


def test_what_cannot_be_looked_into_equals_nothing():
    lock = threading.Lock()

    def locked(x, sigma):
        with lock:
            return x

    assert load_prior(locked).sha256 != load_prior(locked).sha256


SCRIPT = """
import torch
from napari_dmsp.core.identity import fingerprint
from napari_dmsp.core.networks import UNet
torch.manual_seed(0)
names, net = {"red", "green", "blue"}, UNet(1, (8, 8), 1)
print(fingerprint(lambda x, sigma: net(x, sigma) if len(names) == 3 else x))
"""


def test_a_hash_is_the_same_in_every_process():
    run = [sys.executable, "-c", SCRIPT]
    one, two = (subprocess.run(run, capture_output=True, check=True).stdout for _ in range(2))
    assert one == two
    assert len(one.strip()) == len(fingerprint(None)) == 64


HELPERS = """
import functools

STRENGTH = {strength}


@functools.lru_cache
def times(x, sigma):
    return x * {factor}
"""
USERS = """
import helpers

def by_name(x, sigma):
    return helpers.times(x, sigma) * helpers.STRENGTH

def inside(x, sigma):
    from helpers import STRENGTH, times
    return times(x, sigma) * STRENGTH

def attribute(x, sigma):
    return x * attribute.strength
attribute.strength = helpers.STRENGTH
"""


@pytest.mark.parametrize("name", ["by_name", "inside", "attribute"])
def test_what_a_prior_takes_from_modules_is_a_part_of_it(name, tmp_path):
    def of(strength, factor):
        (tmp_path / "helpers.py").write_text(HELPERS.format(strength=strength, factor=factor))
        show = f"from napari_dmsp.core.identity import fingerprint\nprint(fingerprint({name}))"
        run = [sys.executable, "-B", "-c", f"{USERS}\n{show}"]
        return subprocess.run(run, capture_output=True, check=True, cwd=tmp_path).stdout

    first = of(1.0, 2.0)
    assert of(1.0, 2.0) == first
    assert of(1.5, 2.0) != first
    assert name == "attribute" or of(1.0, 2.5) != first


ABSURD = [
    *[None, True, 0, -1, 2, 0.5, 1e300, 10**400, "much", "../../etc", [], {}, [[]], ["8", 8]],
    *[[0, 0], [-8, 8], [8, 2**40], [8] * 5000, float("nan"), float("inf"), "\ud800", "a\0"],
]


def damage(path, rng):
    """Change some bytes of a file, of its header most of all, or cut its end off."""
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    kind = rng.integers(4)
    if kind == 0:
        content = content[: rng.integers(len(content))]
    elif kind == 1:
        content[:8] = int(rng.choice([0, 1, 2**31, 2**63 - 1, header * 2])).to_bytes(8, "little")
    else:
        for at in rng.integers(8 if kind == 2 else 0, header, 3):
            content[at] = rng.choice(list(b'0123456789"[]{},:-e\xff'))
    path.write_bytes(content)


def weights_case(path, rng, choose):
    """Write a weights file with something absurd in it, and a card; say whether it may be read."""
    net = UNet(1, (4, 4), 1)
    config = {"architecture": "unet", **net.config}
    weights = net.state_dict()
    kind = choose(["config", "config", "tensor", "name", "bytes", "bytes", "card"])
    name = choose(sorted(weights))
    if kind == "config":
        config[choose([*config, "noise_sigma", "depth", "width", "__class__"])] = choose(ABSURD)
    elif kind == "tensor":
        dtype = choose([torch.int64, torch.bool, torch.float64, torch.complex64, torch.float16])
        changed = [weights[name].to(dtype), weights[name] * torch.inf, weights[name][:0]]
        weights[name] = choose([*changed, torch.zeros(1, 2, 3, 4, 5, 6), torch.tensor(1.0)])
    elif kind == "name":
        weights[choose(["../../up", "/etc/passwd", "", "a" * 5000, "head.weight\0"])] = weights[
            name
        ].clone()
    text = json.dumps(config)
    if kind == "card":
        text = choose([text, text[:-1], "[" * 100_000, "null", "[]", "1", '"unet"', ""])
    save_file(weights, path, metadata={"napari-dmsp": text})
    if kind == "bytes":
        damage(path, rng)
    cards = ["{}", "[" * 100_000, "1e999", '{"recipe": {"channels": -1}}', "\0", "{", "9" * 5000]
    path.with_suffix(".json").write_text(choose(cards))


@pytest.mark.parametrize("seed", range(40))
def test_absurd_files_are_refused_or_work(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / "absurd.safetensors"
    weights_case(path, rng, lambda among: among[rng.integers(len(among))])
    try:
        prior = load_prior(path)
    except DmspError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert prior.noise_sigma is None or 0 < prior.noise_sigma <= 1
    assert prior(torch.zeros(1, prior.channels, 8, 8), 0.1).shape == (1, prior.channels, 8, 8)
