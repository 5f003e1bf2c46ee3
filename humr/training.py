"""The training loop: steps, schedule, moving average, validation, checkpoints, resume.

Knows no system by name. An objective is a module whose `forward(batch, generator=...)` returns
named terms and whose `total(terms)` sums them; where batches come from is the caller's affair.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from humr.config import Training
from humr.files import write_text
from humr.provenance import provenance

Draw = Callable[[torch.Generator], Any]
Validate = Callable[[nn.Module], dict[str, float]]


class Objective(Protocol):
    """What `fit` trains: a module with a `model` inside."""

    model: nn.Module

    def __call__(self, batch: Any, *, generator: torch.Generator) -> dict[str, Tensor]: ...  # noqa: ANN401, D102

    def total(self, terms: dict[str, Tensor]) -> Tensor: ...  # noqa: D102


_CAUSES = (
    "the last good state is kept. Usual causes: NaN in the data, a learning rate that is "
    "too high, bf16 without a gradient clip"
)


class _Wrapper(nn.Module):
    """What Fabric wraps; the batch comes in a function, as Fabric refuses frozen dataclasses."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(
        self, batch: Callable[[], Any], *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the objective's terms."""
        return self.objective(batch(), generator=generator)


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float | int]] = field(default_factory=list)


def rate_factor(step: int, config: Training) -> float:
    """Share of the learning rate at a step: linear warm-up, then constant or half a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if not config.cosine:
        return warm
    done = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Average:
    """Exponential moving average of the parameters (decay 0: the parameters themselves)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the current parameters; early steps forget faster."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        mine = list(self.values.values())
        torch._foreach_lerp_(mine, [p.detach() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange averages and parameters."""
        for name, parameter in model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)


def make_fabric(config: Training, *, device: str = "auto") -> Fabric:
    """Return the engine: device, precision, and later several processes."""
    accelerator = "cuda" if device == "auto" and torch.cuda.is_available() else device
    accelerator = "cpu" if accelerator == "auto" else accelerator
    return Fabric(accelerator=accelerator, devices=1, precision=config.precision)  # pyright: ignore[reportArgumentType]


def fit(
    objective: Any,  # noqa: ANN401 - an `Objective` that is also a module
    draw: Draw,
    validate: Validate,
    config: Training,
    directory: Path,
    *,
    fabric: Fabric,
    about: Mapping[str, Any],
) -> Progress:
    """Train, or go on where the last run in `directory` stopped; leave the best weights there.

    Args:
        objective: the module to train.
        draw: makes a batch from a generator.
        validate: returns metrics of the (averaged) model; "score" decides, lower is better.
        config: optimisation.
        directory: receives `state.pt` (to resume), `best.safetensors` + `best.json`, and
            `log.jsonl` (mean terms since the last validation; a metric of validation replaces a
            term of the same name).
        fabric: engine.
        about: anything JSON that explains the result: configuration, data, profile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = objective.model
    about = {
        **about,
        **provenance(fabric.device),
    }  # of the code that runs, not of what is there at the end
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.rate, weight_decay=config.decay, fused=True
    )
    wrapped, optimizer = fabric.setup(_Wrapper(objective), optimizer)
    average, progress = Average(model, config.average), Progress()
    generator = torch.Generator().manual_seed(config.seed)
    if (directory / "state.pt").exists():
        progress = _resume(directory / "state.pt", model, optimizer, average, generator)
    began = time.perf_counter() - progress.seconds
    bar = tqdm(total=config.steps, initial=progress.step, desc="training", mininterval=2)
    sums: dict[str, float] = {}
    with bar:
        while progress.step < config.steps and not _stale(progress, config):
            terms = _step(
                wrapped, objective, optimizer, draw, config, progress.step, generator, fabric
            )
            average.update(model, progress.step)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            progress.step += 1
            bar.update()
            if progress.step % config.validate_every == 0 or progress.step == config.steps:
                count = (progress.step - 1) % config.validate_every + 1
                means = {name: value / count for name, value in sums.items()}
                sums = {}
                progress.seconds = time.perf_counter() - began
                _validated(objective, model, average, validate, progress, means, directory, about)
                _save_state(directory / "state.pt", model, optimizer, average, generator, progress)
                bar.set_postfix(score=f"{progress.log[-1]['score']:.4g}")
    return progress


def _step(
    wrapped: Any,  # noqa: ANN401
    objective: Any,  # noqa: ANN401
    optimizer: Any,  # noqa: ANN401
    draw: Draw,
    config: Training,
    step: int,
    generator: torch.Generator,
    fabric: Fabric,
) -> dict[str, float]:
    """One update; a value that is not finite stops the run and names its term."""
    for group in optimizer.param_groups:
        group["lr"] = config.rate * rate_factor(step, config)
    objective.train()
    batch = draw(generator).to(fabric.device)
    terms = wrapped(lambda: batch, generator=generator)
    total = objective.total(terms)
    if not total.isfinite():
        bad = [name for name, value in terms.items() if not value.isfinite()]
        raise FloatingPointError(f"step {step}: {bad} not finite; {_CAUSES}")
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    norm = fabric.clip_gradients(
        wrapped, optimizer, max_norm=config.clip or math.inf, error_if_nonfinite=False
    )
    if norm is not None and not norm.isfinite():
        raise FloatingPointError(f"step {step}: the gradient is not finite; {_CAUSES}")
    optimizer.step()
    values = torch.stack([total.detach(), *(t.detach() for t in terms.values())]).tolist()
    return dict(zip(["total", *terms], values, strict=True))


def _stale(progress: Progress, config: Training) -> bool:
    waited = progress.step - progress.best_step
    return config.patience > 0 and waited >= config.patience * config.validate_every


def _validated(
    objective: nn.Module,
    model: nn.Module,
    average: Average,
    validate: Validate,
    progress: Progress,
    means: dict[str, float],
    directory: Path,
    about: Mapping[str, Any],
) -> None:
    """Validate the averaged model, log, and keep it if it is the best so far."""
    average.swap(model)
    objective.eval()
    metrics = validate(model)
    if not math.isfinite(metrics["score"]):
        raise FloatingPointError(f"step {progress.step}: validation is not finite; {_CAUSES}")
    row = {"step": progress.step, "seconds": progress.seconds, **means, **metrics}
    progress.log.append(row)
    if metrics["score"] < progress.best:
        progress.best, progress.best_step = metrics["score"], progress.step
        save_model(directory / "best", model, {**about, "step": progress.step, "metrics": metrics})
    average.swap(model)
    write_text(directory / "log.jsonl", "".join(json.dumps(r) + "\n" for r in progress.log))


def save_model(stem: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write `stem.safetensors` and, last, `stem.json`: weights, and what they are."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    part = stem.with_suffix(".safetensors.part")
    save_file(tensors, part)
    part.replace(stem.with_suffix(".safetensors"))
    write_text(stem.with_suffix(".json"), json.dumps({**provenance(), **about}, indent=1) + "\n")


def load_model(stem: Path, build: Callable[[dict[str, Any]], nn.Module]) -> tuple[Any, dict]:
    """Build a model from its JSON and load its weights strictly; returns (model, description)."""
    weights, text = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    for path in (weights, text):
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint {path.name} in {path.parent}")
    about = json.loads(text.read_text())
    model = build(about)
    try:
        tensors = {
            n: t.float() if t.is_floating_point() else t for n, t in load_file(weights).items()
        }
        model.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights.name} does not fit its description: {error}") from error
    return model.eval(), about


def _save_state(
    path: Path,
    model: nn.Module,
    optimizer: Any,  # noqa: ANN401
    average: Average,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),  # dropout
        "progress": vars(progress),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(
    path: Path,
    model: nn.Module,
    optimizer: Any,  # noqa: ANN401
    average: Average,
    generator: torch.Generator,
) -> Progress:
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average.values[name].copy_(value)
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    return Progress(**state["progress"])
