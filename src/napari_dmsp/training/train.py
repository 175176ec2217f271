"""Train a denoising prior within a time budget, on CPU or GPU, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from ..core.device import (
    explain_memory,
    flushed_denormals,
    own_state,
    pick_device,
    supports_bf16,
)
from ..core.networks import ARCHITECTURES
from ..errors import DmspError
from ..files import check_room, check_writable, make_folder, write_json, written_whole
from ..priors import STATE, read_header
from .data import PatchSampler, Source, doubts, find_sources, read_image
from .iterates import LEAST_PATCH, draw_iterates

MAX_SIGMA = 60 / 255
VALIDATION_SIGMAS = (5 / 255, 25 / 255)
MIN_PATCH = 8
# Estimates of a solver err by about so much at least, whatever the width of the smoothing.
LEAST_ERROR = 12 / 255
REPORT_EVERY = 0.5
BAR = "{l_bar}{bar}| {n:.1f}/{total:.1f} min{postfix}"
PRECISIONS = ("auto", "bf16", "float32")


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how. Noise levels are on the 0..1 scale of the images.

    The posterior mean minimises the squared error, but a few hard patches dominate it. The absolute
    error comes close in fewer steps; the squared one ends the training, from the part
    ``squared_from`` of its time.

    The learning rate follows a cosine over the whole time. Where ``decay_minutes`` is given it
    stays constant until so long before the end, and then falls to nothing in a straight line,
    with the squared error: a long run that is resumed with a budget a little above its time
    branches into weights that can be used, while its own state goes on at the constant rate.

    ``reduced`` is the share of patches that are cut twice as large and averaged 2 x 2, and
    ``iterates`` that of those that are shown as a solver's estimates, see `draw_iterates`.
    """

    channels: int = 3
    architecture: str = "unet"
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 2
    noise_sigma: float | None = None
    batch: int = 12
    patch: int = 80
    learning_rate: float = 1e-3
    final_rate: float = 1e-6
    warmup_steps: int = 500
    ema: float = 0.999
    clip: float = 1.0
    squared_from: float = 0.8
    decay_minutes: float | None = None
    reduced: float = 0.0
    iterates: float = 0.0
    seed: int = 0

    def build(self) -> nn.Module:
        """Make the untrained network."""
        if self.architecture == "unet":
            return ARCHITECTURES["unet"](self.channels, self.widths, self.blocks)
        return ARCHITECTURES[self.architecture](self.channels)

    def check(self) -> None:
        """Raise a `DmspError` for settings that cannot be trained."""
        if self.channels not in (1, 3):
            raise DmspError(f"channels={self.channels} must be 1 or 3.")
        if self.architecture not in ARCHITECTURES:
            raise DmspError(
                f"architecture={self.architecture!r} is unknown; use {' or '.join(ARCHITECTURES)}."
            )
        if self.noise_sigma is None and self.architecture == "dncnn":
            raise DmspError("architecture='dncnn' learns one noise level; give it as noise_sigma=.")
        if self.noise_sigma is not None and not 0 < self.noise_sigma <= 1:
            raise DmspError(
                f"noise_sigma={self.noise_sigma:g} must be above 0 and at most 1, as images are."
            )
        if self.batch < 1 or self.patch < MIN_PATCH:
            raise DmspError(
                f"batch={self.batch} must be at least 1, patch={self.patch} at least {MIN_PATCH}."
            )
        if not 0 <= self.reduced <= 1:
            raise DmspError(f"reduced={self.reduced:g} must be between 0 and 1.")
        if not 0 <= self.iterates <= 1:
            raise DmspError(f"iterates={self.iterates:g} must be between 0 and 1.")
        if self.iterates and self.patch < LEAST_PATCH:
            raise DmspError(
                f"iterates={self.iterates:g} needs patches of at least {LEAST_PATCH} pixels to "
                f"degrade; raise patch={self.patch}, or give iterates=0."
            )
        if self.decay_minutes is not None and not 0 < self.decay_minutes < math.inf:
            raise DmspError(f"decay_minutes={self.decay_minutes:g} must be positive.")


def draw_sigmas(recipe: Recipe, count: int, generator: torch.Generator) -> Tensor:
    """Noise levels of a batch: fixed, or up to 60/255 and denser where they are small."""
    if recipe.noise_sigma is not None:
        return torch.full((count,), recipe.noise_sigma)
    uniform = torch.rand(count, generator=generator)
    return (0.3 / 255 + (MAX_SIGMA - 0.3 / 255) * uniform**2).float()


def loss_weights(sigma: Tensor) -> Tensor:
    """Weights that give every noise level about the same share of the squared error.

    The error of a good denoiser grows like sigma^1.2 over this range. Weights per level leave the
    minimiser, the posterior mean that eq. 14 needs, as it is.
    """
    return (sigma.clamp(min=1 / 255) * (255 / 25)) ** -1.2 * 255.0


def state_path(out: Path) -> Path:
    """Where the state that resumes the training of ``out`` is kept."""
    return out.with_suffix(f"{STATE}.safetensors")


@explain_memory(lambda: "; give fewer or smaller images, or choose another device.")
@own_state(gradients=True)
@flushed_denormals(True)
def train(
    images: Sequence[str | Path | NDArray[Any]],
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    minutes: float = 90.0,
    validation: str | Path | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[dict[str, Any]], bool | None] | None = None,
    save_every: float = 120.0,
    note: str = "",
) -> dict[str, Any]:
    """Train a prior and write it as safetensors with a card beside it.

    Parameters
    ----------
    images : sequence of path or array
        Folders of clean images, and clean images (H, W) or (H, W, 3) themselves; lazy arrays are
        computed one by one.
    out : path
        The weights file, ``*.safetensors``; ``*.state.safetensors`` beside it resumes.
    recipe : Recipe, optional
        Network and optimiser settings.
    minutes : float
        Training time in all, earlier parts of a resumed run included. The learning rate follows
        a cosine over this budget.
    validation : path, optional
        Folder of clean images for the PSNR shown; by default up to 12 training images are held out.
    resume : path, optional
        A ``*.state.safetensors`` to continue, or plain weights to start from (a network with
        another number of channels gives all layers but the first and the last).
    device : {"auto", "cpu", "cuda", "mps"}
        Where to train.
    precision : {"auto", "bf16", "float32"}
        Arithmetic of the network; weights and optimiser stay float32.
    progress : callable, optional
        Called with ``images``, the share read so far, while they are read; then with ``warnings``,
        what is wrong with them in sentences, if anything is. Then with step, minutes, loss and,
        once there is one, psnr; may return True then to stop and save. Without it, warnings are
        printed.
    save_every : float
        Seconds between saved states.
    note : str
        Free text for the card, such as the licence of the data.

    Returns
    -------
    dict
        The card, with ``warnings`` among its entries.

    Raises
    ------
    DmspError
        For missing folders, unusable images, or a state that does not fit the recipe.
    """
    recipe = recipe or Recipe()
    recipe.check()
    out = Path(out)
    if out.suffix != ".safetensors":
        raise DmspError(f"out={str(out)!r} must end in .safetensors.")
    if not minutes > 0:
        raise DmspError(f"minutes={minutes} must be positive.")
    if precision not in PRECISIONS:
        raise DmspError(f"precision={precision!r} is unknown; use {', '.join(PRECISIONS)}.")
    make_folder(out.parent)
    check_writable(out, overwrite=True)
    target = pick_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and supports_bf16(target))

    sources = find_sources(images)
    if validation is None:
        sources, held = _hold_out(sources)
    else:
        held = find_sources([validation])
    pixels = _read_all(sources, recipe.channels, progress)
    sampler = PatchSampler(pixels, recipe.patch, target, recipe.reduced)
    noisy = _validation_set(held, recipe)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        net = recipe.build()
    # Of float32: the weights, and in the state the network, its average and two moments.
    check_room(out, 5 * 4 * sum(parameter.numel() for parameter in net.parameters()))
    net = net.to(target).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(net)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=recipe.learning_rate, weight_decay=1e-4, fused=target.type == "cuda"
    )
    step, elapsed = 0, 0.0
    if resume is not None:
        step, elapsed = _restore(Path(resume), recipe, net, average, optimizer)
    if elapsed >= minutes * 60:
        raise DmspError(
            f"this run has been trained for {elapsed / 60:.1f} minutes; "
            f"give more than minutes={minutes:g}."
        )
    usable = [image for image in pixels if min(image.shape[:2]) >= recipe.patch]
    warnings = doubts(usable, resume is None)
    _tell(warnings, progress)
    generator = torch.Generator().manual_seed(recipe.seed + step)
    noise_generator = torch.Generator(target).manual_seed(recipe.seed + step + 1)
    psnr: dict[str, float] = {}

    def checkpoint() -> dict[str, Any]:
        psnr.update(_validate(average, noisy, target))
        _save_state(out, recipe, net, average, optimizer, step, elapsed)
        _save_weights(out, recipe, average)
        card = {
            "recipe": asdict(recipe),
            "data": {"images": len(sampler), "pixels": len(sampler.pixels), "note": note},
            "warnings": warnings,
            "training": {
                "minutes": round(elapsed / 60, 1),
                "steps": step,
                "device": _device_name(target),
                "threads": torch.get_num_threads() if target.type == "cpu" else None,
                "precision": "bf16" if bf16 else "float32",
                "resumed_from": None if resume is None else Path(resume).name,
            },
            "validation_psnr": dict(psnr),
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        }
        write_json(out.with_suffix(".json"), card)
        return card

    running = 0.0
    next_save, next_report = elapsed + save_every, elapsed
    tick = time.perf_counter()
    with tqdm(
        total=minutes,
        initial=elapsed / 60,
        mininterval=2,
        bar_format=BAR,
        # Who listens shows it too; and applications without a console have nowhere to print.
        disable=progress is not None,
    ) as bar:
        while elapsed < minutes * 60:
            rate = _rate(recipe, step, elapsed / 60, minutes)
            for group in optimizer.param_groups:
                group["lr"] = rate
            clean = sampler.draw(recipe.batch, generator)
            clean = clean.contiguous(memory_format=torch.channels_last)
            power = 2 if _is_ending(recipe, elapsed / 60, minutes) else 1
            with explain_memory(lambda: f"; lower batch={recipe.batch} or patch={recipe.patch}."):
                shown = _corrupt(recipe, clean, average, generator, noise_generator, bf16)
                loss = _descend(net, optimizer, clean, *shown, power, recipe.clip, bf16)
            decay = min(recipe.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
            step += 1
            now = time.perf_counter()
            # A process paused and continued later has not trained in between.
            elapsed += min(now - tick, 60.0)
            tick = now
            bar.update(min(elapsed / 60, minutes) - bar.n)
            if elapsed >= next_report:
                next_report = elapsed + REPORT_EVERY
                running = 0.9 * running + 0.1 * loss.item() if running else loss.item()
                bar.set_postfix(
                    step=step, loss=f"{running:.3f}", lr=f"{rate:.1e}", **psnr, refresh=False
                )
                values = {"step": step, "minutes": elapsed / 60, "loss": running, **psnr}
                if progress is not None and progress(values):
                    break
            if elapsed >= next_save:
                checkpoint()
                next_save = elapsed + save_every
    return checkpoint()


def _corrupt(
    recipe: Recipe,
    clean: Tensor,
    denoiser: nn.Module,
    generator: torch.Generator,
    noise_generator: torch.Generator,
    bf16: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the network is shown of a batch, the noise level it is told, and its error's.

    The first patches are the estimates of a solver that uses the average of the network so far.
    """
    sigma = draw_sigmas(recipe, recipe.batch, generator).to(clean)
    noise = torch.randn(clean.shape, generator=noise_generator, device=clean.device)
    noisy, level = clean + noise.mul_(sigma[:, None, None, None]), sigma.clone()
    count = round(recipe.batch * recipe.iterates)
    if count:
        denoise = partial(_evaluate, denoiser, bf16=bf16)
        noisy[:count], sigma[:count] = draw_iterates(denoise, clean[:count], generator)
        level[:count] = sigma[:count].clamp(min=LEAST_ERROR)
    return noisy, sigma, level


def _evaluate(net: nn.Module, noisy: Tensor, sigma: float | Tensor, bf16: bool) -> Tensor:
    """Denoise a batch, where wanted in bfloat16."""
    # What is cast without gradients must not be kept for where they are needed.
    cast = torch.autocast(noisy.device.type, torch.bfloat16, cache_enabled=torch.is_grad_enabled())
    with cast if bf16 else nullcontext():
        restored: Tensor = net(noisy, sigma)
    return restored.float()


def _descend(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    clean: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    level: Tensor,
    power: int,
    clip: float,
    bf16: bool,
) -> Tensor:
    """Take one step of the optimiser on a batch of patches and return the loss."""
    error = (_evaluate(net, noisy, sigma, bf16) - clean).abs().pow(power).mean((1, 2, 3))
    loss = (loss_weights(level).pow(power / 2) * error).mean()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(net.parameters(), clip)
    optimizer.step()
    return loss.detach()


def _hold_out(sources: list[Source]) -> tuple[list[Source], list[Source]]:
    """Split off a tenth, 1 to 12 images, for validation; a single one serves for both."""
    count = min(12, max(1, len(sources) // 10))
    held = range(0, len(sources), len(sources) // count)[:count]
    kept = [source for index, source in enumerate(sources) if index not in held]
    return kept or sources, [sources[index] for index in held]


def _read_all(
    sources: list[Source], channels: int, progress: Callable[[dict[str, Any]], Any] | None
) -> list[NDArray[Any]]:
    images: list[NDArray[Any]] = []
    for source in sources:
        images.append(read_image(source, channels))
        if progress is not None:
            progress({"images": len(images) / len(sources)})
    return images


def _tell(warnings: list[str], progress: Callable[[dict[str, Any]], Any] | None) -> None:
    """Tell who listens, or who looks at the bar."""
    if progress is None:
        for text in warnings:
            tqdm.write(f"Warning: {text}", file=sys.stderr)
    elif warnings:
        progress({"warnings": warnings})


def _rate(recipe: Recipe, step: int, elapsed: float, minutes: float) -> float:
    """Learning rate of a step after ``elapsed`` of ``minutes``."""
    if recipe.decay_minutes is None:
        share = 0.5 * (1 + math.cos(math.pi * min(elapsed / minutes, 1.0)))
    else:
        share = min(max((minutes - elapsed) / recipe.decay_minutes, 0.0), 1.0)
    rate = recipe.final_rate + (recipe.learning_rate - recipe.final_rate) * share
    return rate * min(1.0, (step + 1) / recipe.warmup_steps)


def _is_ending(recipe: Recipe, elapsed: float, minutes: float) -> bool:
    """Whether the squared error has taken over from the absolute one."""
    if recipe.decay_minutes is None:
        return elapsed >= recipe.squared_from * minutes
    return minutes - elapsed <= recipe.decay_minutes


def _validation_set(
    sources: Sequence[Source], recipe: Recipe
) -> list[tuple[Tensor, Tensor, float]]:
    """Make fixed noisy crops of the held-out images, one list entry an image and noise level."""
    sigmas = VALIDATION_SIGMAS if recipe.noise_sigma is None else (recipe.noise_sigma,)
    generator = torch.Generator().manual_seed(12345)
    cases = []
    for source in sources:
        image = torch.from_numpy(read_image(source, recipe.channels))
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        height, width = image.shape[:2]
        top, left = max(0, height - 160) // 2, max(0, width - 160) // 2
        clean = image[top : top + 160, left : left + 160].permute(2, 0, 1)[None]
        cases += [
            (clean, clean + s * torch.randn(clean.shape, generator=generator), s) for s in sigmas
        ]
    return cases


@torch.no_grad()
def _validate(
    net: nn.Module, cases: list[tuple[Tensor, Tensor, float]], device: torch.device
) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for clean, noisy, sigma in cases:
        error = (net(noisy.to(device), sigma).cpu() - clean).square().mean().item()
        scores.setdefault(f"psnr{sigma * 255:.0f}", []).append(-10 * math.log10(error))
    return {name: round(sum(s) / len(s), 2) for name, s in scores.items()}


def _moments(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in net.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state[parameter]:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    return tensors


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors; a kill never leaves half a file."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with written_whole(path) as partial:
        # Not save_file, which lets nobody else read the file.
        partial.write_bytes(save(plain, metadata))


def _save_weights(out: Path, recipe: Recipe, average: nn.Module) -> None:
    config: dict[str, Any] = {"architecture": recipe.architecture, **average.config}  # type: ignore[dict-item]
    if recipe.noise_sigma is not None:
        config["noise_sigma"] = recipe.noise_sigma
    write_tensors(average.state_dict(), out, {"napari-dmsp": json.dumps(config)})


def _save_state(
    out: Path,
    recipe: Recipe,
    net: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    elapsed: float,
) -> None:
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= _moments(optimizer, net)
    metadata = {"step": str(step), "elapsed": str(elapsed), "recipe": json.dumps(asdict(recipe))}
    write_tensors(tensors, state_path(out), metadata)


def _restore(
    path: Path,
    recipe: Recipe,
    net: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, float]:
    """Load a training state, or start from the weights of another network."""
    if not path.is_file():
        raise DmspError(f"resume={str(path)!r} does not exist.")
    try:
        metadata, _ = read_header(path)
        tensors = load_file(path)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("its numbers are not finite")
        before = json.loads(metadata.get("recipe", "{}"))
        step, elapsed = int(metadata.get("step", 0)), float(metadata.get("elapsed", 0))
        if step < 0 or not 0 <= elapsed < math.inf:
            raise ValueError(f"it ends after {step} steps and {elapsed} seconds")
    except (SafetensorError, TypeError, ValueError, RecursionError, OSError) as error:
        raise DmspError(f"resume={str(path)!r} cannot be continued ({error}).") from error
    if "step" not in metadata:
        for target in (net, average):
            _load_matching(target, tensors, path)
        return 0, 0.0
    for name in ("channels", "architecture", "noise_sigma"):
        known = before.get(name) if isinstance(before, dict) else None
        if known != getattr(recipe, name):
            raise DmspError(f"{path} was trained with {name}={known}, not {getattr(recipe, name)}.")
    _load_strictly(net, tensors, "net.", path)
    _load_strictly(average, tensors, "average.", path)
    for name, parameter in net.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            found = tensors.get(f"{moment}.{name}")
            if found is None or found.shape != parameter.shape:
                raise DmspError(f"{path} has no {moment} of {name}: it cannot be continued.")
        optimizer.state[parameter] = {
            # The fused optimiser of a GPU counts there, the others in the main memory.
            "step": torch.tensor(float(step)).to(parameter.device if parameter.is_cuda else "cpu"),
            "exp_avg": tensors[f"exp_avg.{name}"].to(parameter),
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter),
        }
    return step, elapsed


def _load_strictly(net: nn.Module, tensors: dict[str, Tensor], prefix: str, path: Path) -> None:
    part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        net.load_state_dict(part)
    except RuntimeError as error:
        raise DmspError(
            f"{path} was trained with another network than asked for: {error}"
        ) from None


def _load_matching(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Take every layer of the same shape; the rest keeps its random start."""
    own = net.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise DmspError(f"{path} has no layer in common with the network to be trained.")
    net.load_state_dict(own | fitting)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
