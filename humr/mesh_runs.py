"""HuMR on the open world: train a configured run, validate, build from a checkpoint, evaluate."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from humr import training, world
from humr.bodies import Body, load_body
from humr.config import Model, Run, World, from_dict, to_dict
from humr.datasets import Batch, Pool, Records
from humr.evaluation import energy_of
from humr.evaluation import evaluate as measured
from humr.mesh import Humr
from humr.objective import HumrObjective
from humr.rotations import matrix_to_sixd

EVALUATING = ("evaluation", "measures", "metrics", "calibration", "surface", "skinning", "bodies",
              "mesh", "flows", "glow")  # fmt: skip  # what rows depend on


def check(run: Run) -> None:
    """Refuse what cannot be trained on the open world."""
    if run.model.features != world.FEATURES:
        raise ValueError(
            f"the open world has {world.FEATURES} features per image; this configuration expects "
            f"{run.model.features}. Usual cause: sizes of the paper's backbone, which belong to a "
            "run on licensed data (paper_config.PaperRun)"
        )
    drawn, poses = round(run.training.labelled_share * run.training.batch), run.supervision.poses
    labelled = run.world.labelled if poses is None else poses
    if drawn > labelled:
        raise ValueError(
            f"every batch needs {drawn} different images with 3D labels, and there are "
            f"{labelled}; take a smaller batch or labelled_share"
        )


def fit(run: Run, name: str, fabric: training.Fabric, directory: Path) -> training.Progress:
    """Train HuMR in a folder, or go on there."""
    if fabric.is_global_zero:
        world.generate(run.world)
    fabric.barrier()
    torch.manual_seed(run.training.seed)
    rule, config = run.supervision, run.training
    pool = _pool(run.world).showing(poses=rule.poses, points=rule.points)
    model = Humr(run.model)
    model.fit_statistics(pool)
    body = load_body("small").to(fabric.device)
    pool = pool.to(fabric.device)
    objective = HumrObjective(model, body, run.weights, rule, config.hypotheses)

    def draw(generator: torch.Generator) -> Batch:
        return pool.draw(
            config.batch,
            samples=max(rule.heatmap_samples, model.heatmap_samples),
            generator=generator,
            labelled=config.labelled_share,
            gaussian=rule.heatmaps == "gaussian",
        )

    return training.fit(
        objective,
        draw,
        Validation(world.load(run.world, "validation"), body, samples=model.heatmap_samples),
        config,
        directory,
        fabric=fabric,
        about={"system": "humr", "name": name, "run": to_dict(run), "recipe": world.RECIPE},
    )


@lru_cache(maxsize=1)
def _pool(config: World) -> Pool:
    """Load the training images of a world; kept, since many runs of a study share one."""
    return Pool.of({s: world.load(config, s) for s in ("labelled", "points", "unlabelled")})


class Validation:
    """Energy score (the score that decides), error of the mode, likelihood, on fixed noise."""

    def __init__(
        self, records: Records, body: Body, *, hypotheses: int = 16, samples: int = 0
    ) -> None:
        self.body, self.hypotheses = body, hypotheses
        generator = torch.Generator().manual_seed(0)
        self.parts = [
            records[slice(i, i + 100)].batch(samples=max(samples, 1), generator=generator)
            for i in range(0, len(records), 100)
        ]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics in mm (likelihood in nats per dimension)."""
        assert isinstance(model, Humr)
        generator = torch.Generator().manual_seed(1)
        device = model.flow.mean.device
        scores, errors, likelihoods = [], [], []
        for part in self.parts:
            batch = part.to(device)
            drawn = model.sample(batch, self.hypotheses, generator=generator)
            score, error = energy_of(drawn, batch, self.body)
            sixd = matrix_to_sixd(batch.rotations)[:, None]
            likelihoods.append(-model.log_prob(batch, sixd)[:, 0] / model.flow.dim)
            scores.append(score)
            errors.append(error)
        return {
            "score": 1e3 * torch.cat(scores).mean().item(),
            "mpjpe_mode": 1e3 * torch.cat(errors).mean().item(),
            "nll": torch.cat(likelihoods).mean().item(),
        }


def build(about: dict[str, Any]) -> Humr:
    """Build the network that a checkpoint's description asks for."""
    if about.get("system") != "humr":
        raise ValueError(f"expected a checkpoint of system 'humr'; got {about.get('system')!r}")
    return Humr(from_dict(Model, about["run"]["model"]))


def evaluate(
    model: Humr,
    about: dict[str, Any],
    config: World,
    split: str,
    *,
    hypotheses: int,
    seed: int,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Measure a model on a split: one row per image."""
    del about
    world.generate(config, splits=[split])
    records = world.load(config, split)
    return measured(
        model,
        load_body("small"),
        records,
        hypotheses=hypotheses,
        seed=seed,
        default_focal=default_focal,
    )
