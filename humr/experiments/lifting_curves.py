r"""Error of the lifting flow against the number of hypotheses, for Figure 5 and Table 5.

Beside the best of the first n hypotheses stand the best of n draws of the noise baseline (the
mode with the noise of the heatmaps' Gaussians, and in depth as much as the system itself has),
and the best of n K-means centres of the hypotheses. Measured once per finished run, kept in
`runs/evaluations`, and stored in `data/results` by
``python -m humr.experiments.lifting_curves laptop``.
"""

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from humr.devices import pick_device
from humr.experiments import runs, studies, systems
from humr.experiments.ablations import Variant, variant
from humr.experiments.profiles import PROFILES
from humr.experiments.systems import Images
from humr.files import RUNS, code_digest, digest, say
from humr.lifting import evaluation
from humr.lifting.config import LiftingRun
from humr.lifting.evaluation import Inputs, Lifter, NoiseBaseline, deviation, device_of

PRODUCT, STUDY = "lifting_curves", "lifting"
MODELS = ("full",)  # of the study
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CLUSTERS = (5, 10)
CLUSTERED = 200  # hypotheses of which the clusters are
SIZES = {"smoke": 20, "paper-smoke": 20}  # hypotheses
SIZE = 1000  # in all other profiles
USUAL = Inputs()
NOISE = "noise_"  # columns of the baseline begin with it
MEASURED = ("mpjpe_best", "mpjpe_expected", "pa_mpjpe_best", "pa_mpjpe_expected")


def rows(profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per model, seed, ambiguous test image and number of hypotheses n.

    Finished runs and committed results are found, or made, as in `studies.rows`. Columns: those of
    `studies.rows` that say which run it is, those of `lifting_evaluation.curve` for the system
    and, as `noise_...`, for the baseline; where n is in `CLUSTERS`, `mpjpe_kmeans` and
    `pa_mpjpe_kmeans`, the best of n centres (elsewhere NaN).
    """
    items = [variant(STUDY, name, profile_name) for name in MODELS]
    return studies.gather(PRODUCT, STUDY, items, profile_name, measured, fresh=fresh)


def publish(profile_name: str) -> list[Path]:
    """Store the curves of all finished runs, with where they come from."""
    items = [variant(STUDY, name, profile_name) for name in MODELS]
    return studies.store(PRODUCT, studies.seeded(items, profile_name), profile_name, measured)


def measured(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run; measured once for the same weights, images and code."""
    hypotheses, run, checkpoint = SIZES.get(profile_name, SIZE), job.run, studies.checkpoint(job)
    assert isinstance(run, LiftingRun)
    parts = [checkpoint.with_suffix(".safetensors"), Path(__file__)]
    images = systems.evaluated_on(run.world)
    name = code_digest(*systems.EVALUATING_LIFTING) + "".join(map(digest, parts))
    name += f" {images} {hypotheses}"
    path = RUNS / "evaluations" / f"lifting-curve-{sha256(name.encode()).hexdigest()[:16]}.parquet"
    if not path.exists():
        model, _ = runs.load(checkpoint, pick_device())
        data = systems.records(run.world, run.world.hard)
        found = curve(model, data, hypotheses, inputs=systems.inputs(run))
        runs.write_rows(path, found)
    return studies.described(job, pd.read_parquet(path))


def curve(
    model: Lifter,
    records: Images,
    hypotheses: int,
    *,
    inputs: Inputs = USUAL,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure system, noise baseline and clusters on the ambiguous records (mm).

    `image` is the number in the whole split: of the test, or of H36MA (`hard` of the world).
    """
    chosen = records.ambiguous.nonzero()[:, 0]
    if not len(chosen):
        raise ValueError(f"none of the {len(records)} images is ambiguous: too few images?")
    data = records[chosen]
    counts = [n for n in COUNTS if n <= hypotheses]
    depth = depth_spread(model, data, hypotheses=min(hypotheses, CLUSTERED), inputs=inputs)
    noise = NoiseBaseline(model, depth, doubled=inputs.doubled)
    table, beside = (
        evaluation.curve(one, data, counts, hypotheses=hypotheses, inputs=inputs, seed=seed)
        for one in (model, noise)
    )
    beside = beside.rename(columns={name: NOISE + name for name in MEASURED})
    table = table.merge(beside, on=["image", "n"], validate="one_to_one")
    centres = _clustered(model, data, min(hypotheses, CLUSTERED), inputs, seed)
    table = table.merge(centres, on=["image", "n"], how="left", validate="one_to_one")
    return table.assign(image=chosen.numpy()[table["image"]])


@torch.no_grad()
def depth_spread(
    model: Lifter, records: Images, *, hypotheses: int = 200, inputs: Inputs = USUAL
) -> float:
    """Mean standard deviation along depth, metres, of the 16 joints besides the pelvis."""
    seen = records.batch(gaussians=inputs.gaussians, doubled=inputs.doubled).to(device_of(model))
    noise = torch.Generator().manual_seed(0)
    parts: list[Tensor] = [
        deviation(model.sample(seen[i : i + 1], hypotheses, generator=noise))[:, 1:, 2]
        for i in range(len(seen))
    ]
    return torch.cat(parts).mean().item()


def _clustered(
    model: Lifter, records: Images, hypotheses: int, inputs: Inputs, seed: int
) -> pd.DataFrame:
    """Best K-means centre of every image, one row for each number of centres."""
    clusters = [n for n in CLUSTERS if n <= hypotheses]
    found = evaluation.evaluate(
        model, records, hypotheses=hypotheses, seed=seed, inputs=inputs, clusters=clusters
    )
    columns = ("mpjpe_kmeans", "pa_mpjpe_kmeans")
    parts = [
        pd.DataFrame({"image": found["image"], "n": n} | {c: found[f"{c}{n}"] for c in columns})
        for n in clusters
    ]
    return pd.concat(parts, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and store the curves of all finished runs of a profile."""
    parser = argparse.ArgumentParser(
        prog="humr.experiments.lifting_curves", description=main.__doc__
    )
    parser.add_argument("profile", choices=list(PROFILES))
    for path in publish(parser.parse_args(arguments).profile):
        say(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
