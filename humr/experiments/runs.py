"""Runs by configuration: train what is missing, load, evaluate once, publish rows.

A run is found by the hash of its configuration. Its rows (one per test image) are measured once
and kept in `runs/evaluations`. The rows of whole studies are committed in `data/results`, so that
notebooks open with them; runs of this machine go before.

Commands: ``python -m humr world laptop``, ``python -m humr train laptop``, each also with
``--system lifting`` or ``propose``; ``train`` takes ``--devices`` and ``--nodes`` (see `devices`).
Maintainers have also ``python -m humr.experiments.runs ship laptop``, which makes the shipped
checkpoint of a finished run. ``python -m humr study`` is in `measurements`.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyarrow import parquet
from tqdm import tqdm

from humr.config import Run, config_hash, from_dict
from humr.devices import SWITCHES, make_fabric, pick_device, run_lock
from humr.experiments.ablations import Variant, variant, variants
from humr.experiments.profiles import PROFILES, Profile, profile
from humr.experiments.systems import (
    SYSTEMS,
    AnyRun,
    AnyWorld,
    System,
    code_names,
    data_name,
    store,
)
from humr.files import (
    DATA,
    RUNS,
    BrokenFile,
    digest,
    in_place_of,
    provenance,
    reading,
    say,
    shown,
    write_text,
)
from humr.licensed import training as licensed_training
from humr.licensed.datasets import PaperRun
from humr.licensed.evaluation import merge_occluded
from humr.storage import load_model, save_model

SHIPPED = DATA / "checkpoint" / "humr_open"
RESULTS = DATA / "results"
SPLIT = 100_000  # first image number of the second split, and so on

# ------------------------------------------------------------------------ training, weights


def run_directory(run: AnyRun) -> Path:
    """Where a run lives: one folder for each configuration."""
    system = SYSTEMS[type(run)]
    return RUNS / "models" / f"{system.name}-{config_hash(run)}-{system.recipe}"


def train(
    run: AnyRun, *, name: str = "run", device: str = "auto", devices: int = 1, nodes: int = 1
) -> Path:
    """Train a system as configured, or go on, or do nothing if it is done; returns the checkpoint.

    A run that finds another process at work on it waits. Devices and nodes: `make_fabric`.
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
                key: getattr(progress, key) for key in ("step", "best_step", "best", "seconds")
            }
            if fabric.is_global_zero:
                write_text(directory / "done.json", json.dumps(done))
    return directory / "best"


def load(checkpoint: Path, device: torch.device | str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint of any system: the model, and what its description says."""
    model, about = load_model(checkpoint, lambda about: _system(about).build(about))
    return model.to(device), about


def _system(about: Mapping[str, Any]) -> System:
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


def model(study: str, name: str, profile_name: str, *, seed: int = 0) -> Any:  # noqa: ANN401
    """Return a trained variant: the shipped model if it is the same run, else trained here."""
    job = variant(study, name, profile_name).seeded(seed)
    ready = shipped_as(job.run)
    if ready is None:
        train(job.run, name=name)
    return load(ready or checkpoint(job))[0]


def checkpoint(job: Variant) -> Path:
    """Name the weights of a variant, as `load` takes them."""
    return run_directory(job.run) / job.checkpoint


def is_done(job: Variant) -> bool:
    """Say whether the run of a variant is finished on this machine."""
    return (run_directory(job.run) / "done.json").exists()


# ------------------------------------------------------------------------ rows, measured once


def kept(stem: str, parts: Iterable[str], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return rows that are made once and kept in `runs/evaluations`.

    Their file is named by `stem` and the hash of `parts`, which must name all that the rows
    depend on: `origin`, and what is asked.
    """
    name = sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
    path = RUNS / "evaluations" / f"{stem}-{name}.parquet"
    if not path.exists():
        write_rows(path, make())
    return read_rows(path, "Delete it; it is measured again")


def origin(checkpoint: Path, config: AnyWorld) -> list[str]:
    """Name weights, data and code that rows of a checkpoint on a world depend on."""
    system = _system(json.loads(checkpoint.with_suffix(".json").read_text()))
    weights = digest(checkpoint.with_suffix(".safetensors"))
    return [weights, data_name(system, config), *code_names(system)]


def evaluated(
    checkpoint: Path,
    config: AnyWorld,
    split: str,
    *,
    hypotheses: int,
    seed: int = 0,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Evaluate a checkpoint on a split of a world, once: one row per image.

    With `default_focal` a mesh model does not know the focal length.
    """

    def make() -> pd.DataFrame:
        model, about = load(checkpoint, pick_device())
        options = {"default_focal": True} if default_focal else {}
        return _system(about).evaluate(
            model, about, config, split, hypotheses=hypotheses, seed=seed, **options
        )

    asked = [split, str(hypotheses), str(seed), "focal" if default_focal else ""]
    return kept(checkpoint.name, [*origin(checkpoint, config), *asked], make)


def read_rows(path: Path, hint: str) -> pd.DataFrame:
    """Read a table; the error over a broken file says how to get it again."""
    with reading(f"{shown(path)} cannot be read", hint):
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


# ------------------------------------------------------------------------ rows of studies


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of every finished run of a study."""

    product: str  # names the committed results
    study: str  # makes the runs
    measure: Callable[[Variant, str], pd.DataFrame]  # rows of one finished run, in a profile
    models: tuple[str, ...] = ()  # variants of the study; none named: all

    def variants(self, profile_name: str) -> list[Variant]:
        """List the variants that are measured, seed 0."""
        if not self.models:
            return variants(self.study, profile_name)
        return [variant(self.study, name, profile_name) for name in self.models]

    def rows(self, profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
        """Return the rows of all variants, with every seed of the profile.

        They are of finished runs in `runs/`, or else among the committed results, where they count
        only if their configuration is still the same. A variant without any seed is trained here
        and now, with all seeds; where some seeds are there, this says how to make the others. With
        `fresh` committed results do not count, and whatever is missing is trained.
        """
        published = None if fresh else read_results(self.product, profile_name)
        parts, missing = [], 0
        for item in self.variants(profile_name):
            jobs = [item.seeded(seed) for seed in range(profile(profile_name).seeds)]
            found = [self._found(job, profile_name, published) for job in jobs]
            if fresh or not any(map(len, found)):
                pairs = zip(jobs, found, strict=True)
                found = [
                    part if len(part) else self.made(job, profile_name) for job, part in pairs
                ]
            missing += sum(not len(part) for part in found)
            parts += [part.assign(variant=item.name) for part in found if len(part)]
        if missing:
            command = f"python3 -m humr study {self.study}"
            say(f"{self.product}: {missing} runs are missing; to make them: {command}")
        return pd.concat(parts, ignore_index=True)

    def _found(
        self, job: Variant, profile_name: str, published: pd.DataFrame | None
    ) -> pd.DataFrame:
        """Rows of a finished run, or those that are committed; empty if there are none."""
        if is_done(job):
            return self.measure(job, profile_name)
        return pd.DataFrame() if published is None else published.loc[published["key"] == job.key]

    def made(self, job: Variant, profile_name: str) -> pd.DataFrame:
        """Train one variant with the seed that its run names, and measure it."""
        train(job.run, name=job.name)
        return self.measure(job, profile_name)

    def publish(self, profile_name: str) -> list[Path]:
        """Store the rows of all finished runs in `data/results`, with where they come from.

        Rows that are committed already, of runs that this machine has not, stay.
        """
        jobs = {job.key: job for job in seeded(self.variants(profile_name), profile_name)}
        done = [job for job in jobs.values() if is_done(job)]
        if not done:
            raise FileNotFoundError(f"no run of study {self.product!r} is finished; run it first")
        parts = [self.measure(job, profile_name) for job in done]
        trained = {_trained(job) for job in done}
        published = read_results(self.product, profile_name)
        if published is not None:
            others = [key for key, job in jobs.items() if not is_done(job)]
            stay = published.loc[published["key"].isin(others)]
            if len(stay):
                parts.insert(0, stay)
                trained |= set(read_record(self.product, profile_name)["trained"])
        table = pd.concat(parts, ignore_index=True)
        runs = table.groupby("key")
        about = {
            **provenance(),
            "study": self.product,
            "profile": profile_name,
            "runs": runs.ngroups,
            "missing": len(jobs) - runs.ngroups,
            "hours of training": round(float(runs.seconds.first().sum()) / 3600, 2),
            "world": digest(store(done[0].run).directory / "manifest.json"),
            "trained": sorted(trained),
        }
        return write_results(self.product, profile_name, table, about)


def of_study(name: str) -> Measurement:
    """Return what the tables of a study need: one row per test image."""
    return Measurement(product=name, study=name, measure=image_rows)


def rows(study: str, profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per variant, seed and test image; see `Measurement.rows`."""
    return of_study(study).rows(profile_name, fresh=fresh)


def image_rows(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run: one per test image, with the transfer set for lifting.

    EMDB's occluded people are among all of EMDB (`licensed.evaluation.merge_occluded`).
    """
    run, sizes = job.run, profile(profile_name)
    meshes = isinstance(run, Run)
    parts = [
        evaluated(
            checkpoint(job),
            run.world,
            split,
            hypotheses=sizes.hypotheses if meshes else sizes.lifted,
            default_focal=job.default_focal,
        )
        for split in (("test",) if isinstance(run, Run) else run.world.tested)
    ]
    if not meshes:  # every image gets a number of its own
        parts = [part.assign(image=part["image"] + SPLIT * i) for i, part in enumerate(parts)]
    found = described(job, pd.concat(parts, ignore_index=True))
    return merge_occluded(found) if isinstance(job.run, PaperRun) else found


def published(profile_name: str) -> pd.DataFrame | None:
    """Rows of the model that readers can have without training, as variant "shipped", seed 0.

    In the open world that is the shipped model; on licensed people the official checkpoint, once
    converted to `data/licensed/ckpt/humr`, or None.
    """
    sizes = profile(profile_name)
    licensed = isinstance(sizes.run, PaperRun)
    weights = licensed_training.official() if licensed else SHIPPED
    if weights is None:
        return None
    config, hypotheses = sizes.run.world, sizes.hypotheses
    found = evaluated(weights, config, "test", hypotheses=hypotheses, default_focal=licensed)
    found = found.assign(variant="shipped", seed=0)
    return merge_occluded(found) if licensed else found


def described(job: Variant, found: pd.DataFrame) -> pd.DataFrame:
    """Put in front of rows which run they are of, and what it cost."""
    done = json.loads((run_directory(job.run) / "done.json").read_text())
    about = {
        "variant": job.name,
        "seed": job.run.training.seed,
        "key": job.key,
        "seconds": done["seconds"],
        "steps": done["step"],
    }
    return pd.concat([pd.DataFrame(about, index=found.index), found], axis=1)


def _trained(job: Variant) -> str:
    about = json.loads(checkpoint(job).with_suffix(".json").read_text())
    return f"git {about['git']}, {about['device']}"


def seeded(items: Sequence[Variant], profile_name: str) -> list[Variant]:
    """List variants with every seed of the profile, seed by seed."""
    return [item.seeded(seed) for seed in range(profile(profile_name).seeds) for item in items]


def make_missing(studies: Sequence[str], profile_name: str, *, workers: int = 1) -> None:
    """Train and evaluate what is missing of some studies, several runs at a time.

    Missing is what has neither been run here nor committed rows. A run that several studies share
    is made once. Without `workers` all happens in this process.
    """
    published = [read_results(study, profile_name) for study in studies]
    known = {key for table in published if table is not None for key in table["key"]}
    items = [item for study in studies for item in variants(study, profile_name)]
    by_run: dict[Path, dict[str, Variant]] = {}
    for job in seeded(items, profile_name):
        if job.key not in known:
            by_run.setdefault(run_directory(job.run), {})[job.key] = job
            store(job.run).generate()
    work = [list(jobs.values()) for jobs in by_run.values()]
    if not workers:
        for jobs in tqdm(work, desc="studies", unit="run"):
            _make(jobs, profile_name)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_quiet_worker) as pool:
        futures = [pool.submit(_make, jobs, profile_name) for jobs in work]
        for future in tqdm(as_completed(futures), total=len(work), desc="studies", unit="run"):
            future.result()


def _quiet_worker() -> None:
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"


def _make(jobs: Sequence[Variant], profile_name: str) -> None:
    for job in jobs:
        train(job.run, name=job.name)
        image_rows(job, profile_name)


# ------------------------------------------------------------------------ committed results

KEYS = ["variant", "seed", "key", "seconds", "steps"]  # which run, and what it cost
PRECISE = ["log_det", "nll"]  # columns that stay in single precision


def read_results(product: str, profile_name: str) -> pd.DataFrame | None:
    """Return the committed rows of a product, such as a study; None if there are none."""
    paths = sorted(RESULTS.glob(f"{profile_name}-{product}-*.parquet"))
    if not paths:
        return None
    hint = "To bring it back: git checkout data/results"
    table = pd.concat([read_rows(path, hint) for path in paths], ignore_index=True)
    halves = table.select_dtypes("float16").columns
    return table.astype(dict.fromkeys(halves, "float32"))


def read_record(product: str, profile_name: str) -> dict[str, Any]:
    """Return what is said of a product's rows: where they come from."""
    return json.loads((RESULTS / f"{profile_name}-{product}.json").read_text())


def write_results(
    product: str, profile_name: str, table: pd.DataFrame, about: Mapping[str, Any]
) -> list[Path]:
    """Store rows (columns `KEYS`, then measurements) in half precision, and a record of them.

    Each seed has a file of its own, which does not change when other seeds are added later.
    """
    paths = []
    for seed, rows in table.groupby("seed"):
        floats = rows.select_dtypes("float").columns.difference([*KEYS, *PRECISE])
        short = {str(name): _shortened(rows[name].to_numpy()) for name in floats}
        packing: dict[str, Any] = {  # high and low bytes apart compress better
            "compression": "zstd",
            "compression_level": 19,
            "use_dictionary": [name for name in rows if name not in short],
            "column_encoding": dict.fromkeys(short, "BYTE_STREAM_SPLIT"),
        }
        packed = pa.Table.from_pandas(rows.assign(**short), preserve_index=False)
        paths.append(RESULTS / f"{profile_name}-{product}-{seed}.parquet")
        with in_place_of(paths[-1]) as part:
            parquet.write_table(packed, part, **packing)
    record = RESULTS / f"{profile_name}-{product}.json"
    write_text(record, json.dumps(dict(about), indent=1) + "\n")
    return paths


def _shortened(values: np.ndarray) -> np.ndarray:
    """Keep 11 significant bits: in half precision, or in single where numbers are too large.

    (Some hypotheses lie kilometres off.)
    """
    if not np.nanmax(np.abs(values), initial=0) >= np.finfo(np.float16).max:
        return values.astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


# ------------------------------------------------------------------------ commands

_PARTS = {"humr": "run", "lifting": "lifting", "propose": "propose"}  # of a profile


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
    parser.add_argument("--fast", nargs="+", default=[], choices=SWITCHES, help="see `devices`")
    options = parser.parse_args(arguments)
    try:
        chosen = profile(options.profile)
        run = getattr(chosen, _PARTS[options.system])
        run = replace(run, training=replace(run.training, fast=tuple(options.fast)))
        SYSTEMS[type(run)].check(run)
    except (FileNotFoundError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    try:
        if options.command == "world":
            store(run).generate(workers=options.workers)
        elif options.command == "train":
            many = {"devices": options.devices, "nodes": options.nodes}
            train(run, name=options.profile, device=options.device, **many)
        else:
            ship(run, chosen)
    except BrokenFile as error:
        say(f"humr: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
