"""Run the ablations: train and evaluate every variant with every seed, gather one row per image.

``python -m humr study components few --workers 2`` runs what is missing, in several processes, and
goes on where it was stopped. `publish` stores the rows that are committed in `data/results`, so
that notebooks open with results; `rows` reads them unless this machine has runs of its own.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from humr.config import Run
from humr.experiments import results, runs, systems
from humr.experiments.ablations import STUDIES, Variant, home, variant, variants
from humr.experiments.profiles import PROFILES, profile
from humr.files import digest, provenance, say
from humr.licensed import training
from humr.licensed.datasets import PaperRun
from humr.licensed.evaluation import as_study

SPLIT = 100_000  # first image number of the second split, and so on
Measured = Callable[[Variant, str], pd.DataFrame]  # rows of one finished run, in a profile


def rows(study: str, profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per variant, seed and test image.

    Looks for finished runs in `runs/`, then among the committed results, where rows count only if
    their configuration is still the same. A variant without any seed is trained here and now, with
    all seeds; where only some seeds are there, this says how to make the others.

    Args:
        study: a name in `variants.STUDIES`.
        profile_name: decides sizes and seeds.
        fresh: ignore the committed results and train whatever is missing.
    """
    items = variants(study, profile_name)
    return gather(study, study, items, profile_name, evaluated, fresh=fresh)


def gather(
    product: str,
    study: str,
    items: Sequence[Variant],
    profile_name: str,
    measured: Measured,
    *,
    fresh: bool = False,
) -> pd.DataFrame:
    """Return what is measured of all variants and seeds; says how to make runs that are missing.

    Args:
        product: name of the committed results, e.g. that of a study.
        study: that makes the runs.
        items: variants; each with all seeds of the profile.
        profile_name: decides sizes and seeds.
        measured: makes the rows of one finished run; `evaluated`, or another measurement.
        fresh: as in `rows`, which also says when runs are trained.
    """
    published = None if fresh else results.read(product, profile_name)
    seeds, parts, missing = range(profile(profile_name).seeds), [], 0
    for item in items:
        jobs = [item.seeded(seed) for seed in seeds]
        found = {
            job.key: part
            for job in jobs
            if len(part := _found(job, profile_name, published, measured))
        }
        if fresh or not found:
            absent = [job for job in jobs if job.key not in found]
            found |= {job.key: measure(job, profile_name, measured) for job in absent}
        missing += len(jobs) - len(found)
        parts += [part.assign(variant=item.name) for part in found.values()]
    if missing:
        say(f"{product}: {missing} runs are missing; to make them: python3 -m humr study {study}")
    return pd.concat(parts, ignore_index=True)


def _found(
    job: Variant, profile_name: str, published: pd.DataFrame | None, measured: Measured
) -> pd.DataFrame:
    """Rows of a finished run or of the committed results; empty if there are none."""
    if is_done(job):
        return measured(job, profile_name)
    return pd.DataFrame() if published is None else published.loc[published["key"] == job.key]


def measure(job: Variant, profile_name: str, measured: Measured) -> pd.DataFrame:
    """Train and evaluate one variant with the seed that its run names."""
    runs.train(job.run, name=job.name)
    return measured(job, profile_name)


def model(study: str, name: str, profile_name: str, *, seed: int = 0) -> Any:  # noqa: ANN401
    """Return a trained variant: the shipped model if it is the same run, else trained here."""
    job = variant(study, name, profile_name).seeded(seed)
    ready = runs.shipped_as(job.run)
    if ready is None:
        runs.train(job.run, name=name)
    return runs.load(ready or checkpoint(job))[0]


def checkpoint(job: Variant) -> Path:
    """Name the weights of a variant, as `checkpoints.load_model` takes them."""
    return runs.run_directory(job.run) / job.checkpoint


def is_done(job: Variant) -> bool:
    """Say whether the run of a variant is finished on this machine."""
    return (runs.run_directory(job.run) / "done.json").exists()


def evaluated(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run: one per test image, with the transfer set for lifting.

    Those of licensed people are as `paper_rows` describes.
    """
    rows = measured_as_is(job, profile_name)
    return as_study(rows) if isinstance(job.run, PaperRun) else rows


def measured_as_is(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run with the columns of its own evaluation."""
    sizes, lifts = profile(profile_name), not isinstance(job.run, Run)
    splits = ("test",) if isinstance(job.run, Run) else job.run.world.tested
    parts = [
        runs.evaluated(
            checkpoint(job),
            job.run.world,
            split,
            hypotheses=sizes.lifted if lifts else sizes.hypotheses,
            default_focal=job.default_focal,
        )
        for split in splits
    ]
    return described(job, _numbered(parts) if lifts else parts[0])


def _numbered(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join splits; images get numbers that no other split has."""
    shifted = [part.assign(image=part["image"] + SPLIT * i) for i, part in enumerate(parts)]
    return pd.concat(shifted, ignore_index=True)


def published(profile_name: str) -> pd.DataFrame | None:
    """Rows of the model that readers can have without training, as variant "shipped", seed 0.

    In the open world that is the shipped model; on licensed people the official checkpoint, once
    converted to `data/licensed/ckpt/humr`, or None.
    """
    sizes = profile(profile_name)
    licensed = isinstance(sizes.run, PaperRun)
    checkpoint = training.official() if licensed else runs.SHIPPED
    if checkpoint is None:
        return None
    found = runs.evaluated(
        checkpoint,
        sizes.run.world,
        "test",
        hypotheses=sizes.hypotheses,
        default_focal=licensed,
    )
    found = found.assign(variant="shipped", seed=0)
    return as_study(found) if licensed else found


def described(job: Variant, found: pd.DataFrame) -> pd.DataFrame:
    """Put in front of rows which run they are of, and what it cost."""
    done = json.loads((runs.run_directory(job.run) / "done.json").read_text())
    about = {
        "variant": job.name,
        "seed": job.run.training.seed,
        "key": job.key,
        "seconds": done["seconds"],
        "steps": done["step"],
    }
    return pd.concat([pd.DataFrame(about, index=found.index), found], axis=1)


def publish(study: str, profile_name: str) -> list[Path]:
    """Store the rows of all finished jobs, in half precision, with where they come from."""
    return store(study, _all(study, profile_name), profile_name, evaluated)


def store(
    product: str, jobs: Sequence[Variant], profile_name: str, measured: Measured
) -> list[Path]:
    """Store what is measured of all finished jobs: `publish` for any measurement.

    Rows that are committed already, of jobs that this machine has not run, stay.
    """
    jobs = list({job.key: job for job in jobs}.values())
    done = [job for job in jobs if is_done(job)]
    if not done:
        raise FileNotFoundError(f"no run of study {product!r} is finished; run it first")
    kept = _kept(product, profile_name, [job for job in jobs if not is_done(job)])
    made = pd.concat([measured(job, profile_name) for job in done], ignore_index=True)
    table = pd.concat([kept, made], ignore_index=True)
    trained = {_trained(job) for job in done}
    if len(kept):
        trained |= set(results.record(product, profile_name)["trained"])
    runs = len(set(table["key"]))
    about = {
        **provenance(),
        "study": product,
        "profile": profile_name,
        "runs": runs,
        "missing": len(jobs) - runs,
        "hours of training": round(float(table.groupby("key").seconds.first().sum()) / 3600, 2),
        "world": digest(systems.store(done[0].run).directory / "manifest.json"),
        "trained": sorted(trained),
    }
    return results.write(product, profile_name, table, about)


def _kept(product: str, profile_name: str, jobs: Sequence[Variant]) -> pd.DataFrame:
    """Committed rows of some jobs."""
    published = results.read(product, profile_name)
    if published is None:
        return pd.DataFrame()
    return published.loc[published["key"].isin([job.key for job in jobs]), :]


def _trained(job: Variant) -> str:
    about = json.loads(checkpoint(job).with_suffix(".json").read_text())
    return f"git {about['git']}, {about['device']}"


def _all(study: str, profile_name: str) -> list[Variant]:
    return seeded(variants(study, profile_name), profile_name)


def seeded(items: Sequence[Variant], profile_name: str) -> list[Variant]:
    """List variants with every seed of the profile, seed by seed."""
    return [item.seeded(seed) for seed in range(profile(profile_name).seeds) for item in items]


def _jobs(studies: Iterable[str], profile_name: str) -> list[Variant]:
    """Every variant and seed once, seed by seed, even if several studies share it."""
    seeds = range(profile(profile_name).seeds)
    jobs = [
        v.seeded(seed)
        for seed in seeds
        for study in studies
        for v in variants(study, profile_name)
    ]
    return list({job.key: job for job in jobs}.values())


def run(studies: Sequence[str], profile_name: str, *, workers: int = 1) -> None:
    """Run what is missing of some studies, `workers` trainings at a time (0: in this process).

    Missing is what has neither been run here nor committed rows.
    """
    by_run: dict[str, list[Variant]] = {}
    published = [results.read(study, profile_name) for study in studies]
    known = {key for table in published if table is not None for key in table["key"]}
    for job in _jobs(studies, profile_name):
        if job.key in known:
            continue
        by_run.setdefault(str(runs.run_directory(job.run)), []).append(job)
        systems.store(job.run).generate()
    with tqdm(total=len(by_run), desc="studies", unit="run") as bar:
        if not workers:
            for jobs in by_run.values():
                _work(jobs, profile_name)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_quiet_worker) as pool:
            futures = [pool.submit(_work, jobs, profile_name) for jobs in by_run.values()]
            for future in as_completed(futures):
                future.result()
                bar.update()


def _quiet_worker() -> None:
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"


def _work(jobs: list[Variant], profile_name: str) -> None:
    for job in jobs:
        measure(job, profile_name, evaluated)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `study`."""
    parser = argparse.ArgumentParser(prog="humr study", description=__doc__)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], default=[])
    parser.add_argument("--profile", choices=list(PROFILES), default="laptop")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--publish", action="store_true", help="store rows in data/results")
    options = parser.parse_args(arguments)
    try:
        profile(options.profile)
    except ValueError as error:  # of a variable that changes it
        say(f"humr: {error}")
        return 1
    here = [study for study in STUDIES if home(study, options.profile) == options.profile]
    studies = options.studies or here
    if options.publish:
        for study in studies:
            publish(study, options.profile)
    else:
        run(studies, options.profile, workers=options.workers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
