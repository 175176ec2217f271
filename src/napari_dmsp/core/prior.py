"""The prior: a denoiser, its mean-shift vector, and where trained ones come from."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import DmspError
from ..priors import MOST_CARD, prior_files, read_header
from .device import is_out_of_memory, own_state, supports_bf16
from .identity import fingerprint
from .networks import ARCHITECTURES
from .tiling import Tiled

# Greatest noise level that a prior can be for, where images are 0 to 1.
MOST_SIGMA = 1.0

Denoiser = Callable[[Tensor, float], Tensor]


def mean_shift(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    *,
    stochastic: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gradient of the log of the Gaussian-smoothed image density at ``x``.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, sigma)``, the posterior mean under Gaussian noise.
    x : Tensor
        Images (B, C, H, W).
    sigma : float
        Width of the smoothing in the units of ``x``.
    stochastic : bool
        Sample eq. 19 instead of evaluating eq. 14: noise of half the variance is added before the
        denoiser, and not subtracted afterwards.
    generator : torch.Generator, optional
        CPU generator of that noise.

    Returns
    -------
    Tensor
        ``(r(x) - x) / sigma^2`` (eq. 14) or ``2 (r(x + n) - x) / sigma^2`` (eq. 19).
    """
    if not stochastic:
        return (denoiser(x, sigma) - x) / sigma**2
    half = sigma / math.sqrt(2)
    return (denoiser(x + half * draw_normal(x, generator), half) - x) / half**2


def draw_normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw noise like ``x``, on the CPU: a seed means the same on any device."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


@dataclass(frozen=True, eq=False)
class Prior:
    """A denoiser with what a restoration must know about it.

    Attributes
    ----------
    denoiser : callable
        ``denoiser(x, sigma) -> x`` on (B, C, H, W), same units for both.
    name : str
        As shown to the user.
    channels : int or None
        Channels that the denoiser takes; None means any.
    noise_sigma : float or None
        The one level it was trained for; None means any.
    sha256 : str or None
        Hash of the weights file; of other callables, `fingerprint`, see `load_prior`.
    autocast : bool
        Whether the denoiser may compute in bfloat16 where that is faster and does no harm.
    card : dict
        How it was trained.
    """

    denoiser: Denoiser
    name: str
    channels: int | None = None
    noise_sigma: float | None = None
    sha256: str | None = None
    autocast: bool = False
    card: dict[str, Any] = field(default_factory=dict, repr=False)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Denoise ``x``."""
        fast = self.autocast and supports_bf16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16) if fast else nullcontext():
            return self.denoiser(x, sigma)

    def to(self, device: torch.device | str) -> Prior:
        """Put a network on ``device``; other callables stay as they are."""
        network, device = self.denoiser, torch.device(device)
        if not isinstance(network, torch.nn.Module):
            return self
        if all(parameter.device == device for parameter in network.parameters()):
            return self
        # Others may use the network where it is.
        return replace(self, denoiser=copy.deepcopy(network).to(device))

    def tiled(self, tile: int | None) -> Prior:
        """Denoise tiles of at most ``tile`` pixels a side, or whole images."""
        return replace(self, denoiser=Tiled(self.denoiser, tile))


def load_prior(prior: str | Path | Denoiser | Prior = "rgb") -> Prior:
    """Load a denoising prior.

    Parameters
    ----------
    prior : str, path or callable
        One of `available_priors`, such as "rgb" and "gray"; a safetensors file written by the
        trainer; or any ``denoiser(x, sigma)`` on tensors (B, C, H, W).

    Returns
    -------
    Prior
        With ``sha256``: that of the file, or what tells a callable from others, so that a run that
        is resumed never mixes two. It is random for one that cannot be looked into.

    Raises
    ------
    DmspError
        If there is no such prior, or the file was not written by the trainer.
    """
    if not isinstance(prior, Prior) and callable(prior):
        prior = Prior(prior, getattr(prior, "__name__", type(prior).__name__))
    if isinstance(prior, Prior):
        about = prior.denoiser, prior.channels, prior.noise_sigma
        return prior if prior.sha256 else replace(prior, sha256=fingerprint(about))
    if not isinstance(prior, str | os.PathLike):
        raise DmspError(f"prior={prior!r} must be a name, a file, or a denoiser(x, sigma).")
    files = prior_files()
    path = files.get(str(prior), Path(prior))
    try:
        found = path.is_file()
    except OSError:
        # Such as a name that is too long for the system.
        found = False
    if not found:
        raise DmspError(f"prior={str(prior)!r} is neither a file nor one of {', '.join(files)}.")
    return _read_prior(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
@own_state()
def _read_prior(path: Path, changed: int) -> Prior:
    """Read a file, once as long as it is not ``changed``."""
    try:
        metadata, found = read_header(path)
        config = json.loads(metadata["napari-dmsp"])
        if not isinstance(config, dict):
            raise ValueError("it describes no network")
        sigma = config.pop("noise_sigma", None)
        if sigma is not None and not (type(sigma) is float and 0 < sigma <= MOST_SIGMA):
            raise ValueError(f"noise_sigma={sigma!r} is no noise level")
        channels = config["channels"]
        net = _build(config, found)
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise ValueError("its weights are not finite")
        net.load_state_dict(weights, assign=True)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise DmspError(
            f"{path} is not a prior written by this package's trainer ({error})."
        ) from error
    net.eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Prior(
        net,
        path.stem,
        channels=channels,
        noise_sigma=sigma,
        autocast=True,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        card=_read_card(path.with_suffix(".json")),
    )


def _build(config: dict[str, Any], found: dict[str, tuple[int, ...]]) -> torch.nn.Module:
    """Make the network of a configuration without memory, and compare it with what a file has."""
    # No number of layers is greater than that of the tensors, and no width than 2^16.
    layers = [config.get("blocks", 1), config.get("depth", 1), len(config.get("widths", ()))]
    widths = [config.get("width", 1), *config.get("widths", ())]
    if config["channels"] not in (1, 3):
        raise ValueError(f"channels={config['channels']!r} are neither grey nor colour")
    sizes = [(n, 0, len(found) + 2) for n in layers] + [(n, 1, 2**16) for n in widths]
    for number, least, most in sizes:
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"{number!r} is no size of its network")
    with torch.device("meta"):
        net = ARCHITECTURES[config.pop("architecture")](**config)
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if found != expected:
        name = next(n for n in (*expected, *found) if expected.get(n) != found.get(n))
        raise ValueError(f"{name} has shape {found.get(name)}, expected {expected.get(name)}")
    return net


def _read_card(path: Path) -> dict[str, Any]:
    """Read the card; a prior works without, and another file may have its name."""
    try:
        # Nothing is read of pipes and devices, which may have no end.
        fits = path.is_file() and path.stat().st_size <= MOST_CARD
        card = json.loads(path.read_text(encoding="utf-8")) if fits else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}
