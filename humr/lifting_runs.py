"""The lifting systems, on the open world and on licensed data: train, validate, evaluate."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from humr import lifting_paper_data, training
from humr.config import from_dict, to_dict
from humr.lifting import Critic, LiftingFlow
from humr.lifting_config import (
    LiftingModel,
    LiftingRule,
    LiftingRun,
    LiftingWeights,
    ProposeModel,
    ProposeRun,
)
from humr.lifting_data import LiftingBatch
from humr.lifting_evaluation import Inputs, Lifter
from humr.lifting_evaluation import evaluate as measured
from humr.lifting_images import World, records, store
from humr.lifting_objective import LiftingObjective
from humr.lifting_paper_config import Human36m
from humr.metrics import energy_score, mpjpe
from humr.propose import Propose
from humr.propose_objective import ProposeObjective

EVALUATING = ("lifting_evaluation", "lifting_measures", "lifting_metrics", "metrics",
              "calibration", "selection", "lifting_data", "lifting", "propose")  # fmt: skip
TRAINING = ("train", "validation")
SUMMED = ("mpjpe", "pa_mpjpe", "pck", "auc", "cps", "energy", "joint_energy", "cover", "ambiguous")


def fit_flow(
    run: LiftingRun, name: str, fabric: training.Fabric, directory: Path
) -> training.Progress:
    """Train the lifting flow in a folder, or go on there."""
    torch.manual_seed(run.training.seed)
    model = LiftingFlow(run.model, noisy=run.weights.nll > 0)
    if run.model.normalise:
        model.flow.standardize(_batch(run.world, "train", inputs(run)).pose.flatten(1))
    sizes = {"hidden": run.model.critic, "bones_hidden": run.model.critic_bones}
    critic = Critic(**sizes) if run.weights.adversarial > 0 else None
    objective = LiftingObjective(model, run.weights, run.rule, critic=critic)
    about = {"system": _system("lifting", run), "name": name, "run": to_dict(run)}
    return _fit(objective, run, inputs(run), fabric, directory, about)


def fit_propose(
    run: ProposeRun, name: str, fabric: training.Fabric, directory: Path
) -> training.Progress:
    """Train ProPose in a folder, or go on there."""
    torch.manual_seed(run.training.seed)
    objective = ProposeObjective(Propose(run.model), run.weights, run.rule)
    about = {"system": _system("propose", run), "name": name, "run": to_dict(run)}
    return _fit(objective, run, Inputs(), fabric, directory, about)


def _fit(
    objective: nn.Module,
    run: LiftingRun | ProposeRun,
    seen: Inputs,
    fabric: training.Fabric,
    directory: Path,
    about: dict[str, Any],
) -> training.Progress:
    pool, held_out = (_batch(run.world, split, seen) for split in TRAINING)
    pool = pool.to(fabric.device)

    def draw(generator: torch.Generator) -> LiftingBatch:
        return pool.draw(run.training.batch, generator=generator, mirror=run.rule.mirror)

    return training.fit(
        objective,
        draw,
        Validation(held_out),
        run.training,
        directory,
        fabric=fabric,
        about={**about, **_origin(run.world)},
    )


def _system(name: str, run: LiftingRun | ProposeRun) -> str:
    return f"{name}_paper" if isinstance(run.world, Human36m) else name


def _origin(config: World) -> dict[str, Any]:
    """What a checkpoint says of its data."""
    about: dict[str, Any] = {"recipe": store(config).recipe}
    if isinstance(config, Human36m):
        about["files"] = lifting_paper_data.digests(config, TRAINING)
    return about


def inputs(run: LiftingRun) -> Inputs:
    """How a run reads the heatmaps."""
    return Inputs(gaussians=run.rule.gaussians, doubled=run.rule.doubled)


@lru_cache(maxsize=4)
def _batch(config: World, split: str, seen: Inputs) -> LiftingBatch:
    """Make a whole split as systems see it; kept, since many runs of a study share one."""
    found = records(config, split)
    return found.batch(gaussians=seen.gaussians, doubled=seen.doubled)


class Validation:
    """Energy score (the score that decides) and errors of mode and best, on fixed noise."""

    def __init__(self, data: LiftingBatch, *, hypotheses: int = 25) -> None:
        self.data, self.hypotheses = data, hypotheses

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics in millimetres."""
        assert isinstance(model, LiftingFlow | Propose)
        data = self.data.to(next(model.parameters()).device)
        generator = torch.Generator().manual_seed(1)
        drawn = model.sample(data, self.hypotheses, generator=generator)
        errors = mpjpe(drawn, data.target[:, None])
        return {
            "score": 1e3 * energy_score(drawn, data.target).mean().item(),
            "mpjpe_mode": 1e3 * mpjpe(model.mode(data), data.target).mean().item(),
            "mpjpe_best": 1e3 * errors.amin(1).mean().item(),
        }


def build_flow(about: dict[str, Any]) -> LiftingFlow:
    """Build the lifting flow that a checkpoint's description asks for."""
    weights = from_dict(LiftingWeights, about["run"]["weights"])
    return LiftingFlow(from_dict(LiftingModel, about["run"]["model"]), noisy=weights.nll > 0)


def build_propose(about: dict[str, Any]) -> Propose:
    """Build ProPose as a checkpoint's description asks for it."""
    return Propose(from_dict(ProposeModel, about["run"]["model"]))


def evaluate(
    model: Lifter,
    about: dict[str, Any],
    config: World,
    split: str,
    *,
    hypotheses: int,
    seed: int,
    clusters: Sequence[int] = (),
) -> pd.DataFrame:
    """Measure a model on a split: one row per image."""
    seen = Inputs()
    if about["system"].startswith("lifting"):
        rule = from_dict(LiftingRule, about["run"]["rule"])
        seen = Inputs(gaussians=rule.gaussians, doubled=rule.doubled)
    return measured(
        model,
        records(config, split),
        hypotheses=hypotheses,
        seed=seed,
        inputs=seen,
        clusters=clusters,
        group=split,
    )


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over images of what is measured once per image, not per joint."""
    kept = [name for name in rows if str(name).startswith(SUMMED)]
    return {str(name): round(float(v), 4) for name, v in rows[kept].mean().dropna().items()}
