"""Runs by configuration: make what is missing, find what is there, load the shipped model.

Commands: ``python -m humr world laptop``, ``python -m humr train laptop``; maintainers also have
``python -m humr.experiments ship laptop``, which makes the shipped checkpoint of a finished run.
"""

import argparse
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import nn

from humr import checkpoints, training, world
from humr.bodies import Body, load_body
from humr.config import Model, Run, World, config_hash, from_dict, to_dict
from humr.datasets import Batch, Pool, Records
from humr.evaluation import energy_of, evaluate, summary
from humr.files import digest, write_text
from humr.mesh import Humr
from humr.objective import HumrObjective
from humr.paths import DATA, ROOT, RUNS
from humr.profiles import PROFILES, Profile, profile
from humr.provenance import provenance
from humr.rotations import matrix_to_sixd

EVALUATING = ("evaluation", "measures", "metrics", "surface", "mesh")  # what rows depend on
SHIPPED = DATA / "checkpoint" / "humr_open"


def run_directory(run: Run) -> Path:
    """Where a run lives: one folder for each configuration."""
    return RUNS / "models" / f"humr-{config_hash(run)}-{world.RECIPE}"


def train(run: Run, *, name: str = "run", device: str = "auto") -> Path:
    """Train HuMR as configured, or go on, or do nothing if it is done; returns the checkpoint.

    A process that finds another one at work on the same run waits for it.
    """
    directory = run_directory(run)
    if run.model.features != world.FEATURES:
        raise ValueError(
            f"the open world has {world.FEATURES} features per image; this configuration expects "
            f"{run.model.features} (profile paper needs licensed data, which have no reader yet)"
        )
    if (directory / "done.json").exists():
        return directory / "best"
    world.generate(run.world)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "lock"):
        if not (directory / "done.json").exists():
            progress = _fit(run, name, device, directory)
            done = {
                "step": progress.step,
                "best_step": progress.best_step,
                "best": progress.best,
                "seconds": progress.seconds,
            }
            write_text(directory / "done.json", json.dumps(done))
    return directory / "best"


def _fit(run: Run, name: str, device: str, directory: Path) -> training.Progress:
    torch.manual_seed(run.training.seed)
    fabric = training.make_fabric(run.training, device=device)
    rule, config = run.supervision, run.training
    pool = _pool(run.world).showing(poses=rule.poses, points=rule.points)
    model = Humr(run.model)
    model.fit_statistics(pool)
    body = load_body("small").to(fabric.device)
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


def shipped() -> tuple[Humr, dict[str, Any]]:
    """Load the checkpoint that comes with the repository."""
    return checkpoints.load_model(SHIPPED, build)


def evaluated(
    checkpoint: Path,
    config: World,
    split: str,
    *,
    hypotheses: int,
    seed: int = 0,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Evaluate a checkpoint on a split of a world, once; rows are kept in `runs/evaluations`.

    Their name holds the hash of the weights, of the world, and of the code that evaluates. With
    `default_focal` the model is not told the focal length.
    """
    of_code = "".join(digest(ROOT / "humr" / f"{m}.py") for m in EVALUATING)
    key = [digest(checkpoint.with_suffix(".safetensors")), world.directory(config).name, of_code]
    name = f"{key} {split} {hypotheses} {seed}" + " focal" * default_focal
    name = sha256(name.encode()).hexdigest()[:16]
    path = RUNS / "evaluations" / f"{checkpoint.name}-{name}.parquet"
    if not path.exists():
        model, _ = checkpoints.load_model(checkpoint, build)
        world.generate(config, splits=[split])
        records = world.load(config, split)
        rows = evaluate(
            model,
            load_body("small"),
            records,
            hypotheses=hypotheses,
            seed=seed,
            default_focal=default_focal,
        )
        write_rows(path, rows)
    return pd.read_parquet(path)


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a table so that it is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    rows.to_parquet(part)
    part.replace(path)


def ship(run: Run, chosen: Profile) -> dict[str, float]:
    """Store a finished run as the shipped model, in half precision, and measure what is stored."""
    source = run_directory(run)
    if not (source / "done.json").exists():
        raise FileNotFoundError(f"{source.name} is not finished; train {chosen.name} to its end")
    model, about = checkpoints.load_model(source / "best", build)
    SHIPPED.parent.mkdir(parents=True, exist_ok=True)
    about |= {"profile": chosen.name, "hypotheses": chosen.hypotheses}
    about["data"] = digest(world.directory(run.world) / "manifest.json")
    checkpoints.save_model(SHIPPED, model.half(), about)
    rows = evaluated(SHIPPED, run.world, "test", hypotheses=chosen.hypotheses)
    result = summary(rows)
    write_rows(SHIPPED.parent / "test_rows.parquet", rows)
    write_text(SHIPPED.parent / "training_log.jsonl", (source / "log.jsonl").read_text())
    about |= {"test": result, "test_images": len(rows), "evaluated": provenance()}
    write_text(SHIPPED.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `world`, `train` and `ship`."""
    parser = argparse.ArgumentParser(prog="humr")
    parser.add_argument("command", choices=("world", "train", "ship"))
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument("--workers", type=int, help="processes that make the world")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    options = parser.parse_args(arguments)
    chosen = profile(options.profile)
    if options.command == "world":
        world.generate(chosen.run.world, workers=options.workers)
    elif options.command == "train":
        train(chosen.run, name=options.profile, device=options.device)
    else:
        ship(chosen.run, chosen)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
