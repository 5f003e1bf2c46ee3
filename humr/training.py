"""The training loop: steps, schedule, moving average, validation, checkpoints, resume.

Knows no system by name. An objective is a module whose `forward(batch, generator=...)` returns
named terms and whose `total(terms)` sums them; where batches come from is the caller's affair.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
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


OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
READ_EVERY = 20  # steps between two looks at the values on the device; bounds how late NaN shows
_UNFIT = (RuntimeError, ValueError, TypeError, LookupError)  # what loading a wrong state raises
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
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    log: list[dict[str, float | int]] = field(default_factory=list)

    @property
    def standing(self) -> dict[str, Any]:
        """Step and metrics, for the description of a checkpoint."""
        return {"step": self.step, "metrics": self.metrics}


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


class Ledger:
    """Values of the steps: they stay on the device and are read `READ_EVERY` steps at a time."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.rows: list[dict[str, float]] = []

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Note a step: scalars of any names, with "total" and "gradient_norm" among them."""
        self.pending.append((step, {name: value.detach() for name, value in values.items()}))
        if len(self.pending) >= READ_EVERY:
            self.read()

    def read(self) -> None:
        """Fetch what is pending, in one copy; the first step that is not finite is an error."""
        scalars = [value.float() for _, values in self.pending for value in values.values()]
        numbers = iter(torch.stack(scalars).tolist() if scalars else ())
        for step, values in self.pending:
            self.rows.append({name: next(numbers) for name in values})
            _refuse_nonfinite(step, self.rows[-1])
        self.pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of every name over the steps that had it, since the last call."""
        self.read()
        rows, self.rows = self.rows, []
        names = dict.fromkeys(name for row in rows for name in row)
        return {n: fmean(row[n] for row in rows if n in row) for n in names}


def _refuse_nonfinite(step: int, row: Mapping[str, float]) -> None:
    sums = ("total", "gradient_norm")
    bad = [name for name, value in row.items() if not (name in sums or math.isfinite(value))]
    if not math.isfinite(row["total"]):
        raise FloatingPointError(f"step {step}: {bad or ['total']} not finite; {_CAUSES}")
    if not math.isfinite(row["gradient_norm"]):
        raise FloatingPointError(f"step {step}: the gradient is not finite; {_CAUSES}")


def make_optimizer(parameters: Iterable[nn.Parameter], config: Training) -> torch.optim.Optimizer:
    """Return Adam, with one kernel for all parameters where their device has it.

    "adamw" shrinks the weights by `rate * decay` a step (official code); "adam" adds
    `decay * weight` to the gradient, an L2 penalty (the paper's words).
    """
    parameters, known = list(parameters), ("cpu", "cuda", "mps")
    fused = all(p.is_floating_point() and p.device.type in known for p in parameters)
    kind = OPTIMIZERS[config.optimizer]
    return kind(parameters, lr=config.rate, weight_decay=config.decay, fused=fused)


def make_fabric(config: Training, *, device: str = "auto") -> Fabric:
    """Return the engine: device, precision, and later several processes."""
    accelerator = "cuda" if device == "auto" and torch.cuda.is_available() else device
    accelerator = "cpu" if accelerator == "auto" else accelerator
    return Fabric(accelerator=accelerator, devices=1, precision=config.precision)  # pyright: ignore[reportArgumentType]


class _Engine:
    """What changes with a step."""

    def __init__(self, objective: Any, config: Training, fabric: Fabric) -> None:  # noqa: ANN401
        self.fabric, self.config, self.objective = fabric, config, objective
        self.model: nn.Module = objective.model
        optimizer: Any = make_optimizer(self.model.parameters(), config)
        self.wrapped, self.optimizer = fabric.setup(_Wrapper(objective), optimizer)
        self.average = Average(self.model, config.average)
        self.generator = torch.Generator().manual_seed(config.seed)


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
    """Train, or go on where the last run in `directory` stopped; leave the weights there.

    Args:
        objective: the module to train.
        draw: makes a batch from a generator.
        validate: returns metrics of the (averaged) model; "score" decides, lower is better.
        config: optimisation.
        directory: receives `state.pt` (to resume), the weights `best` and, at the end, `last`
            (`.safetensors` + `.json`, both averaged), and `log.jsonl`: a row for each validation
            with the terms' means since the one before, and the metrics under "val_<name>".
        fabric: engine.
        about: anything JSON that explains the result: configuration, data, profile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    about = {**about, **provenance(fabric.device)}  # of the code that runs, not of that at the end
    engine, ledger, state = _Engine(objective, config, fabric), Ledger(), directory / "state.pt"
    progress = _resume(state, engine) if state.exists() else Progress()
    began = time.perf_counter() - progress.seconds
    bar = tqdm(total=config.steps, initial=progress.step, desc="training", mininterval=2,
               smoothing=0, postfix=_scores(progress))  # fmt: skip
    with bar:
        while progress.step < config.steps and not _stale(progress, config):
            ledger.add(progress.step, _step(engine, draw, progress.step))
            progress.step += 1
            bar.update()
            if progress.step % config.validate_every == 0 or progress.step == config.steps:
                means = ledger.means()
                progress.seconds = time.perf_counter() - began
                _validated(engine, validate, progress, means, directory, about)
                _save_state(state, engine, progress)
                bar.set_postfix(_scores(progress))
    engine.average.swap(engine.model)
    save_model(directory / "last", engine.model, {**about, **progress.standing})
    engine.average.swap(engine.model)
    return progress


def _scores(progress: Progress) -> dict[str, str]:
    """Return what the progress bar says beside rate and time left."""
    values = {"score": progress.metrics["score"], "best": progress.best} if progress.log else {}
    return {name: f"{value:.4g}" for name, value in values.items()}


def _step(engine: _Engine, draw: Draw, step: int) -> dict[str, Tensor]:
    """One update; the values stay on the device."""
    config, fabric = engine.config, engine.fabric
    for group in engine.optimizer.param_groups:
        group["lr"] = config.rate * rate_factor(step, config)
    engine.objective.train()
    batch = draw(engine.generator).to(fabric.device)
    terms = engine.wrapped(lambda: batch, generator=engine.generator)
    total = engine.objective.total(terms)
    engine.optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    limit: Any = {"max_norm": config.clip or math.inf, "error_if_nonfinite": False}
    norm: Any = fabric.clip_gradients(engine.wrapped, engine.optimizer, **limit)
    engine.optimizer.step()
    engine.average.update(engine.model, step)
    return {"total": total, **terms, "gradient_norm": norm}


def _stale(progress: Progress, config: Training) -> bool:
    waited = progress.step - progress.best_step
    return config.patience > 0 and waited >= config.patience * config.validate_every


def _validated(
    engine: _Engine,
    validate: Validate,
    progress: Progress,
    means: dict[str, float],
    directory: Path,
    about: Mapping[str, Any],
) -> None:
    """Validate the averaged model, log, and keep it if it is the best so far."""
    engine.average.swap(engine.model)
    engine.objective.eval()
    progress.metrics = metrics = validate(engine.model)
    if not math.isfinite(metrics["score"]):
        raise FloatingPointError(f"step {progress.step}: validation is not finite; {_CAUSES}")
    row = {"step": progress.step, "seconds": progress.seconds, **means}
    progress.log.append(row | {f"val_{name}": value for name, value in metrics.items()})
    if metrics["score"] < progress.best:
        progress.best, progress.best_step = metrics["score"], progress.step
        save_model(directory / "best", engine.model, {**about, **progress.standing})
    engine.average.swap(engine.model)
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


def _save_state(path: Path, engine: _Engine, progress: Progress) -> None:
    device = engine.fabric.device
    state = {
        "model": engine.model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "average": engine.average.values,
        "generator": engine.generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "progress": vars(progress),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, engine: _Engine) -> Progress:
    """Bring everything back as it was, random numbers included."""
    again = "delete it to start this run again"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (*_UNFIT, OSError, EOFError, AttributeError, UnpicklingError) as error:
        raise ValueError(f"{path} is damaged; {again} ({error})") from error
    try:
        return _restore(state, engine)
    except _UNFIT as error:
        raise ValueError(f"{path} is of another configuration; {again} ({error})") from error


def _restore(state: dict[str, Any], engine: _Engine) -> Progress:
    engine.model.load_state_dict(state["model"])
    engine.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        engine.average.values[name].copy_(value)
    engine.generator.set_state(state["generator"])
    torch.set_rng_state(state["dropout"])
    if engine.fabric.device.type == "cuda" and state["dropout_cuda"] is not None:
        torch.cuda.set_rng_state(state["dropout_cuda"], engine.fabric.device)
    return Progress(**state["progress"])
