r"""Curves over the number of hypotheses: best of N and energy score, for Figure S1.

The best of N falls with N whatever the model; the energy score (of `metrics.energy_score`) does
not depend on N, apart from noise. Both are measured once per finished run, kept in
`runs/evaluations`, and stored by ``python -m humr.experiments.curves laptop`` in `data/results`
beside the rows of the studies, so that the notebook opens with them.
"""

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch

from humr import evaluation
from humr.bodies.body import Body, load_body
from humr.config import Run
from humr.devices import pick_device
from humr.experiments import runs, studies, systems
from humr.experiments.ablations import Variant, variant
from humr.experiments.profiles import PROFILES
from humr.files import RUNS, code_digest, digest, say
from humr.licensed import training
from humr.licensed.datasets import PaperRun
from humr.model import Humr
from humr.world import generate
from humr.world.records import Records

PRODUCT, STUDY = "curves", "components"
MODELS = ("prohmr", "realnvp", "mask")  # of the study: the baseline, its better flow, all of HuMR
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SIZES = {"smoke": (4, 20), "paper-smoke": (4, 20)}  # test images, hypotheses
SIZE = (200, 1000)  # in all other profiles
ENERGY_BATCH = 10  # images whose hypotheses are held at once


def rows(profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per model, seed, test image and number of hypotheses n.

    Finished runs and committed results are found, or made, as in `studies.rows`. Columns: those of
    `studies.rows` that say which run it is, those of `evaluation.curve`, and `energy_score`.
    """
    items = [variant(STUDY, name, profile_name) for name in MODELS]
    return studies.gather(PRODUCT, STUDY, items, profile_name, measured, fresh=fresh)


def publish(profile_name: str) -> list[Path]:
    """Store the curves of all finished runs, with where they come from."""
    items = [variant(STUDY, name, profile_name) for name in MODELS]
    return studies.store(PRODUCT, studies.seeded(items, profile_name), profile_name, measured)


def measured(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run; measured once for the same weights, world and code."""
    images, hypotheses = SIZES.get(profile_name, SIZE)
    checkpoint, run = studies.checkpoint(job), job.run
    assert isinstance(run, Run)
    system = systems.SYSTEMS[type(run)]
    parts = [checkpoint.with_suffix(".safetensors"), Path(__file__)]
    name = (
        code_digest(*system.code)
        + "".join(map(digest, parts))
        + f" {systems.data_name(run)} {images} {hypotheses}"
    )
    path = RUNS / "evaluations" / f"curve-{sha256(name.encode()).hexdigest()[:16]}.parquet"
    if not path.exists():
        model, _ = runs.load(checkpoint, pick_device())
        counts = [n for n in COUNTS if n <= hypotheses]
        runs.write_rows(path, _measured(model, run, images, counts))
    return studies.described(job, pd.read_parquet(path))


def _measured(model: Humr, run: Run, images: int, counts: Sequence[int]) -> pd.DataFrame:
    """Curves on the first images of the open world, or on licensed people, evenly spread."""
    if isinstance(run, PaperRun):
        return training.curves(model, run.world, images, counts)
    records = generate.store(run.world).make_and_load("test")[slice(0, images)]
    return curve(model, load_body("small"), records, counts)


def curve(
    model: Humr, body: Body, records: Records, counts: Sequence[int], *, seed: int = 0
) -> pd.DataFrame:
    """Measure best of n and energy score (mm) for every n in `counts`: a row per image and n."""
    best = evaluation.curve(model, body, records, counts, seed=seed)
    energy = energy_by_count(model, body, records, counts, seed=seed)
    return best.merge(energy, on=["image", "n"], validate="one_to_one")


@torch.no_grad()
def energy_by_count(
    model: Humr, body: Body, records: Records, counts: Sequence[int], *, seed: int = 0
) -> pd.DataFrame:
    """Measure the energy score of n hypotheses, the mode and n - 1 random ones; mm.

    As in the other tables the mode does not count unless it is alone: then it is a point forecast,
    whose energy score is its MPJPE. For n = 2 the score of a single random hypothesis says nothing
    about the distribution: NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.flow.mean.device
    body, parts = body.to(device), []
    for start in range(0, len(records), ENERGY_BATCH):
        some = records[slice(start, start + ENERGY_BATCH)]
        batch = some.batch(samples=max(1, model.heatmap_samples), generator=generator).to(device)
        drawn = model.sample(batch, max(max(counts) - 1, 1), generator=generator)
        for n in counts:
            chosen = type(drawn)(drawn.mode, drawn.samples[:, : max(n - 1, 1)])
            score, error = evaluation.energy_of(chosen, batch, body)
            value = error if n == 1 else score if n > 2 else torch.full_like(score, torch.nan)
            image = range(start, start + len(value))
            parts.append(pd.DataFrame({"image": image, "n": n, "energy_score": 1e3 * value.cpu()}))
    return pd.concat(parts, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and store the curves of all finished runs of a profile."""
    parser = argparse.ArgumentParser(prog="humr.experiments.curves", description=main.__doc__)
    parser.add_argument("profile", choices=list(PROFILES))
    for path in publish(parser.parse_args(arguments).profile):
        say(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
