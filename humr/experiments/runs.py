"""Runs by configuration: make what is missing, find what is there, load the shipped models.

Commands: ``python -m humr world laptop``, ``python -m humr train laptop``, each also with
``--system lifting`` or ``propose``; maintainers have also
``python -m humr.experiments.runs ship laptop``, which makes the shipped checkpoint of a finished
run. ``train`` takes ``--devices`` and ``--nodes`` (see `devices`).
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from humr.config import Run, World, config_hash, from_dict
from humr.devices import SWITCHES, make_fabric, pick_device, run_lock
from humr.experiments.profiles import PROFILES, Profile, profile
from humr.experiments.systems import SYSTEMS, AnyRun, System, data_folder, store
from humr.files import (
    DATA,
    RUNS,
    code_digest,
    digest,
    in_place_of,
    provenance,
    say,
    write_text,
)
from humr.licensed.datasets import Human36m, Licensed
from humr.lifting.config import LiftingWorld
from humr.storage import load_model, save_model

SHIPPED = DATA / "checkpoint" / "humr_open"

_PARTS = {"humr": "run", "lifting": "lifting", "propose": "propose"}  # of a profile


def run_directory(run: AnyRun) -> Path:
    """Where a run lives: one folder for each configuration."""
    system = SYSTEMS[type(run)]
    return RUNS / "models" / f"{system.name}-{config_hash(run)}-{system.recipe}"


def train(
    run: AnyRun, *, name: str = "run", device: str = "auto", devices: int = 1, nodes: int = 1
) -> Path:
    """Train a system as configured, or go on, or do nothing if it is done; returns the checkpoint.

    A run that finds another process at work on it waits. Devices and nodes: `ranks.make_fabric`.
    """
    directory, system = run_directory(run), SYSTEMS[type(run)]
    system.check(run)
    if (directory / "done.json").exists():
        return directory / "best"
    directory.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(run.training, device=device, devices=devices, nodes=nodes)
    with run_lock(directory / "lock", fabric):
        fabric.barrier()
        if not (directory / "done.json").exists():
            progress = system.fit(run, name, fabric, directory)
            done = {
                "step": progress.step,
                "best_step": progress.best_step,
                "best": progress.best,
                "seconds": progress.seconds,
            }
            if fabric.is_global_zero:
                write_text(directory / "done.json", json.dumps(done))
    return directory / "best"


def load(checkpoint: Path, device: torch.device | str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint of any system: the model, and what its description says."""
    model, about = load_model(checkpoint, lambda about: _system(about).build(about))
    return model.to(device), about


def _system(about: dict[str, Any]) -> System:
    known = {system.name: system for system in SYSTEMS.values()}
    name = about.get("system")
    if name not in known:
        raise ValueError(f"expected a checkpoint of one of {sorted(known)}; got {name!r}")
    return known[name]


def shipped(system: str = "humr") -> tuple[Any, dict[str, Any]]:
    """Load the checkpoint of a system that comes with the repository."""
    return load(_shipped(system))


def shipped_as(run: AnyRun) -> Path | None:
    """Return the shipped checkpoint if it comes from just this run, or None."""
    path = _shipped(SYSTEMS[type(run)].name)
    description = path.with_suffix(".json")
    if not description.exists():
        return None
    made = json.loads(description.read_text())["run"]  # perhaps before some fields existed
    return path if from_dict(type(run), made) == run else None


def _shipped(system: str) -> Path:
    return SHIPPED.with_name(SHIPPED.name.replace("humr", system))


def evaluated(
    checkpoint: Path,
    config: World | LiftingWorld | Licensed | Human36m,
    split: str,
    *,
    hypotheses: int,
    seed: int = 0,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Evaluate a checkpoint on a split of a world, once; rows are kept in `runs/evaluations`.

    Their name holds the hash of the weights, of the world, and of the code that evaluates. With
    `default_focal` a mesh model is not told the focal length.
    """
    system = _system(json.loads(checkpoint.with_suffix(".json").read_text()))
    of_code = code_digest(*system.code)
    weights = checkpoint.with_suffix(".safetensors")
    name = f"{[digest(weights), data_folder(system, config), of_code]} {split} {hypotheses} {seed}"
    name = sha256((name + " focal" * default_focal).encode()).hexdigest()[:16]
    path = RUNS / "evaluations" / f"{checkpoint.name}-{name}.parquet"
    if not path.exists():
        model, about = load(checkpoint, pick_device())
        options = {"default_focal": True} if default_focal else {}
        rows = system.evaluate(
            model, about, config, split, hypotheses=hypotheses, seed=seed, **options
        )
        write_rows(path, rows)
    return pd.read_parquet(path)


def write_rows(path: Path, rows: pd.DataFrame) -> None:
    """Write a table so that it is either whole or absent."""
    with in_place_of(path) as part:
        rows.to_parquet(part)


def ship(run: AnyRun, chosen: Profile) -> dict[str, float]:
    """Store a finished run as the shipped model, in half precision, and measure what is stored."""
    source, system = run_directory(run), SYSTEMS[type(run)]
    if not (source / "done.json").exists():
        raise FileNotFoundError(f"{source.name} is not finished; train {chosen.name} to its end")
    target = _shipped(system.name)
    hypotheses = chosen.hypotheses if isinstance(run, Run) else chosen.lifted
    model, about = load(source / "best")
    target.parent.mkdir(parents=True, exist_ok=True)
    about |= {"profile": chosen.name, "hypotheses": hypotheses}
    about["data"] = digest(store(run).directory / "manifest.json")
    save_model(target, model.half(), about)
    rows = evaluated(target, run.world, "test", hypotheses=hypotheses)
    result = system.summary(rows)
    if target == SHIPPED:
        write_rows(target.parent / "test_rows.parquet", rows)
    log = "training_log" if target == SHIPPED else f"{target.name}_log"
    write_text(target.with_name(f"{log}.jsonl"), (source / "log.jsonl").read_text())
    about |= {"test": result, "test_images": len(rows), "evaluated": provenance(pick_device())}
    write_text(target.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `world`, `train` and `ship`."""
    parser = argparse.ArgumentParser(prog="humr")
    parser.add_argument("command", choices=("world", "train", "ship"))
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument("--workers", type=int, help="processes that make the world")
    parser.add_argument("--system", choices=list(_PARTS), default="humr", help="default: humr")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--devices", type=int, default=1, help="of this machine, to train on")
    parser.add_argument("--nodes", type=int, default=1, help="machines to train on")
    parser.add_argument("--fast", nargs="+", default=[], choices=SWITCHES, help="see acceleration")
    options = parser.parse_args(arguments)
    try:
        chosen = profile(options.profile)
        run = getattr(chosen, _PARTS[options.system])
        run = replace(run, training=replace(run.training, fast=tuple(options.fast)))
        SYSTEMS[type(run)].check(run)
    except (FileNotFoundError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    if options.command == "world":
        store(run).generate(workers=options.workers)
    elif options.command == "train":
        many = {"devices": options.devices, "nodes": options.nodes}
        train(run, name=options.profile, device=options.device, **many)
    else:
        ship(run, chosen)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
