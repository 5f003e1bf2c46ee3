"""The training loop: steps, schedule, moving average, validation, checkpoints, resume.

Knows no system by name. An objective is a module with a `model` inside, the part that is
validated and saved; `forward(batch, generator=...)` returns named terms, `total(terms)` sums them.
Where networks take turns (a critic, alternating phases), the objective also has
`optimizer_groups() -> dict[str, OptimizerGroup]`, and `forward` takes `group=<name>`.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from humr.config import Training
from humr.devices import (
    Fabric,
    batch_generator,
    faster,
    noise_generator,
    random_states,
    restore_states,
)
from humr.files import in_place_of, provenance, reading, shown, write_text
from humr.storage import check_finite, save_model

READ_EVERY = 20  # steps between two looks at the values on the device; bounds how late NaN shows
SUMS = ("total", "gradient_norm")  # of a step, over all groups
CAUSES = (
    "the last good state is kept. Usual causes: NaN in the data, a learning rate that is "
    "too high, bf16 without a gradient clip"
)
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
Draw = Callable[[torch.Generator], Any]
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Validation:
    """Means over held-out batches, always with the same noise; the lowest `score` is the best."""

    batches: Sequence[Any]
    # Of network, batch and generator: one value per example, "nll" in nats, others in metres.
    measure: Callable[[Any, Any, torch.Generator], dict[str, Tensor]]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the means, lengths in millimetres."""
        generator = torch.Generator().manual_seed(1)
        device = next(model.parameters()).device
        found = [self.measure(model, batch.to(device), generator) for batch in self.batches]
        joined = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        units = {name: 1.0 if name == "nll" else 1e3 for name in joined}
        return {name: units[name] * values.mean().item() for name, values in joined.items()}


@dataclass(frozen=True, kw_only=True)
class OptimizerGroup:
    """Parameters with an optimiser of their own, which stand still in other groups' turns."""

    parameters: list[nn.Parameter]
    updates: int = 1  # per step, each with a batch of its own
    rate: float = 1.0  # times the run's
    clipped: list[nn.Parameter] = field(default_factory=list)  # to +-clip_value, one by one


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

    @property
    def scores(self) -> dict[str, str]:
        """What the progress bar says beside rate and time left."""
        values = {"score": self.metrics["score"], "best": self.best} if self.log else {}
        return {name: f"{value:.4g}" for name, value in values.items()}

    def stale(self, config: Training) -> bool:
        """Say whether validation has not improved for `config.patience` times."""
        waited = self.step - self.best_step
        return config.patience > 0 and waited >= config.patience * config.validate_every


def fit(
    objective: Any,  # noqa: ANN401 - a module with `model`, `total` and maybe `optimizer_groups`
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
        draw: makes a batch from a generator. If it works ahead, it has a method `start`, which
            gets the number of the first step.
        validate: returns metrics of the (averaged) model; "score" decides, lower is better.
        config: of the optimisation.
        directory: receives `state.pt` (to resume), the weights `best` and, at the end, `last`
            (`.safetensors` + `.json`, both averaged), and `log.jsonl`: a row for each validation
            with the terms' means since the one before, and the metrics under "val_<name>".
        fabric: devices and precision.
        about: anything JSON that explains the result: configuration, data, profile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    about = {**about, **provenance(fabric.device)}  # of the code that runs, not of that at the end
    engine, steps, state = _Engine(objective, config, fabric), StepLog(), directory / "state.pt"
    progress = _resume(state, engine) if state.exists() else Progress()
    if hasattr(draw, "start"):
        draw.start(progress.step)  # pyright: ignore[reportFunctionMemberAccess]
    began = time.perf_counter() - progress.seconds
    hidden: Any = {} if fabric.is_global_zero else {"disable": True}
    bar = tqdm(total=config.steps, initial=progress.step, desc="training", mininterval=2,
               smoothing=0, postfix=progress.scores, **hidden)  # fmt: skip
    flow = getattr(engine.model, "flow", None)
    with faster(config.fast, fabric.device, flow) as on, bar:
        about["fast"] = on  # as it is when a checkpoint is written
        while progress.step < config.steps and not progress.stale(config):
            steps.add(progress.step, engine.step(draw, progress.step))
            progress.step += 1
            bar.update()
            if progress.step % config.validate_every == 0 or progress.step == config.steps:
                means = steps.means()
                progress.seconds = time.perf_counter() - began
                _validated(engine, validate, progress, means, directory, about)
                _save_state(state, engine, progress)
                bar.set_postfix(progress.scores)
    engine.average.swap(engine.model)
    if fabric.is_global_zero:
        save_model(directory / "last", engine.model, {**about, **progress.standing})
    engine.average.swap(engine.model)
    fabric.barrier()
    return progress


class _Engine:
    """What changes with a step: weights, optimisers, average, random numbers."""

    def __init__(self, objective: Any, config: Training, fabric: Fabric) -> None:  # noqa: ANN401
        self.fabric, self.config, self.objective = fabric, config, objective
        self.model: nn.Module = objective.model
        self.single = not hasattr(objective, "optimizer_groups")
        if fabric.world_size > 1 and not self.single:
            raise ValueError("networks that take turns are trained in one process; got several")
        only = {"model": OptimizerGroup(parameters=list(self.model.parameters()))}
        groups = only if self.single else objective.optimizer_groups()
        self.groups: dict[str, OptimizerGroup] = groups
        made: Any = [make_optimizer(group.parameters, config) for group in groups.values()]
        self.wrapped, *made = fabric.setup(_Wrapper(objective), *made)
        self.optimizers: dict[str, Any] = dict(zip(groups, made, strict=True))
        self.average = Average(self.model, config.average)
        self.generator = batch_generator(config.seed, fabric)  # of batches
        self.noise = noise_generator(fabric, self.generator)

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """Parameters outside the model: critics."""
        named = self.objective.named_parameters()
        return {name: p for name, p in named if not name.startswith("model.")}

    def step(self, draw: Draw, step: int) -> dict[str, Tensor]:
        """One step; an error that names the setting if memory is too small for it."""
        try:
            return self.updates(draw, step)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise MemoryError(
                f"memory is too small for {self.config.batch} images of a step; choose a smaller "
                f"Training.batch ({reason})"
            ) from error

    def updates(self, draw: Draw, step: int) -> dict[str, Tensor]:
        """Every group's updates; the values (of the last ones) stay on the device."""
        self.objective.train()
        factor, row = rate_factor(step, self.config), {}
        for name, group in self.groups.items():
            for options in self.optimizers[name].param_groups:
                options["lr"] = self.config.rate * group.rate * factor
            done = [self.update(draw, name) for _ in range(group.updates)][-1]
            both = {key: row[key] + done[key] for key in SUMS if key in row}
            row |= done | both
        self.average.update(self.model, step)
        return row

    def update(self, draw: Draw, name: str) -> dict[str, Tensor]:
        """Change one group's parameters once."""
        config, fabric, group = self.config, self.fabric, self.groups[name]
        optimizer, turn = self.optimizers[name], self.turn(name)
        batch = draw(self.generator).to(fabric.device)
        terms = self.wrapped(lambda: batch, generator=self.noise, **turn)
        total = self.objective.total(terms)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(total)
        if config.clip_value is not None and group.clipped:
            nn.utils.clip_grad_value_(group.clipped, config.clip_value)
        limit: Any = {"max_norm": config.clip or math.inf, "error_if_nonfinite": False}
        norm: Any = fabric.clip_gradients(self.wrapped, optimizer, **limit)
        optimizer.step()
        return {"total": total.detach(), **terms, "gradient_norm": norm}

    def turn(self, name: str) -> dict[str, Any]:
        """Let one group's parameters move, and no others; return what `forward` gets."""
        if self.single:
            return {}
        self.objective.requires_grad_(requires_grad=False)
        for parameter in self.groups[name].parameters:
            parameter.requires_grad_()
        return {"group": name}


class _Wrapper(nn.Module):
    """What Fabric wraps; the batch comes in a function, as Fabric refuses frozen dataclasses."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(
        self, batch: Callable[[], Any], *, generator: torch.Generator, **turn: str
    ) -> dict[str, Tensor]:
        """Return the objective's terms."""
        return self.objective(batch(), generator=generator, **turn)


def is_memory_error(error: BaseException) -> bool:
    """Say whether an error means that memory is too small, on a CPU or on a CUDA device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def make_optimizer(parameters: Iterable[nn.Parameter], config: Training) -> torch.optim.Optimizer:
    """Return Adam, with one kernel for all parameters where their device has it.

    "adamw" shrinks the weights by `rate * decay` a step (official code); "adam" adds
    `decay * weight` to the gradient, an L2 penalty (the paper's words).
    """
    parameters, known = list(parameters), ("cpu", "cuda", "mps")
    fused = all(p.is_floating_point() and p.device.type in known for p in parameters)
    kind = OPTIMIZERS[config.optimizer]
    betas = (config.beta1, config.beta2)
    return kind(parameters, config.rate, betas, weight_decay=config.decay, fused=fused)


def rate_factor(step: int, config: Training) -> float:
    """Share of the learning rate at a step: warm-up; then constant, halved, or half a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.halve_at is not None and step >= config.halve_at * config.steps:
        warm /= 2
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


class StepLog:
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
            row: dict[str, float] = {name: next(numbers) for name in values}
            self.rows.append(row)
            if not math.isfinite(row["total"]):
                bad = [n for n, v in row.items() if n not in SUMS and not math.isfinite(v)]
                raise FloatingPointError(f"step {step}: {bad or ['total']} not finite; {CAUSES}")
            if not math.isfinite(row["gradient_norm"]):
                raise FloatingPointError(f"step {step}: the gradient is not finite; {CAUSES}")
        self.pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of every name over the steps that had it, since the last call."""
        self.read()
        rows, self.rows = self.rows, []
        names = dict.fromkeys(name for row in rows for name in row)
        return {n: fmean(row[n] for row in rows if n in row) for n in names}


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
    first = engine.fabric.is_global_zero
    metrics = validate(engine.model) if first else {}
    progress.metrics = metrics = engine.fabric.broadcast(metrics)  # the others wait for it
    if not math.isfinite(metrics["score"]):
        raise FloatingPointError(f"step {progress.step}: validation is not finite; {CAUSES}")
    row = {"step": progress.step, "seconds": progress.seconds, **means}
    progress.log.append(row | {f"val_{name}": value for name, value in metrics.items()})
    if metrics["score"] < progress.best:
        progress.best, progress.best_step = metrics["score"], progress.step
        if first:
            save_model(directory / "best", engine.model, {**about, **progress.standing})
    engine.average.swap(engine.model)
    if first:
        write_text(directory / "log.jsonl", "".join(json.dumps(r) + "\n" for r in progress.log))


def _save_state(path: Path, engine: _Engine, progress: Progress) -> None:
    random = random_states(engine.fabric, engine.generator)
    if not engine.fabric.is_global_zero:
        return
    state = {
        "model": engine.model.state_dict(),
        "others": {name: p.detach() for name, p in engine.others.items()},
        "optimizer": {name: o.state_dict() for name, o in engine.optimizers.items()},
        "average": engine.average.values,
        **random,
        "progress": vars(progress),
    }
    with in_place_of(path) as part:
        torch.save(state, part)


def _resume(path: Path, engine: _Engine) -> Progress:
    """Bring everything back as it was, random numbers included."""
    again = "Delete it to start this run again"
    with reading(f"{shown(path)} is damaged", again), warnings.catch_warnings(action="ignore"):
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except UnpicklingError as error:  # whose text says how to run code that a file brings
            raise ValueError("it is cut, or holds more than tensors and numbers") from error
    with reading(f"{shown(path)} is of another configuration", again):
        return _restore(state, engine)


def _restore(state: dict[str, Any], engine: _Engine) -> Progress:
    for part in ("model", "others", "average"):
        check_finite(state[part])
    engine.model.load_state_dict(state["model"])
    for name, optimizer in engine.optimizers.items():
        optimizer.load_state_dict(state["optimizer"][name])
    for values, saved in ((engine.others, "others"), (engine.average.values, "average")):
        for name, value in state[saved].items():
            if value.shape != values[name].shape:
                raise ValueError(f"{saved}.{name} has shape {tuple(value.shape)}")
            values[name].detach().copy_(value)
    restore_states(state, engine.fabric, engine.generator)
    progress = Progress(**state["progress"])
    if not 0 <= progress.step <= engine.config.steps:
        raise ValueError(f"it is of step {progress.step} of {engine.config.steps}")
    return progress
