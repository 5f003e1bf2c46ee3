r"""What ProPose's latents know: the instance Gaussian's mean $\mu_{3D}$, image by image.

The flow learns to find $\mu_{3D}$, which knows the 3D label, from the 2D pose alone. Three numbers
say how hard that is and how much it is worth:

- `excess`: negative log-likelihood of $w \sim S_{3D}$ minus its least possible value, the entropy
  of the noise ($\frac d2 \log 2 \pi e s^2$), in nats per dimension. Near 0 nothing is left to be
  found out: the latent is a function of the 2D pose, and knows no depth.
- `found`: distance of $\mu_{3D}$ from the latent that the mode of the base becomes; `spread`: its
  distance from the mean over images; both root mean squares over dimensions, in units of $s$.
- `rebuilt`: error of the pose that the decoder makes of $\mu_{3D}$, MPJPE in mm: what a latent
  that knows the label is worth. A latent that forgot depth does no better than the mode.

Measured once per finished run and kept in `runs/evaluations`;
``python -m humr.experiments.propose_latents laptop`` stores the rows in `data/results`.
"""

import argparse
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from humr.devices import normal
from humr.experiments import runs, studies, systems
from humr.experiments.ablations import Variant, variants
from humr.experiments.profiles import PROFILES
from humr.experiments.systems import Images
from humr.files import RUNS, code_digest, digest, say
from humr.lifting.config import ProposeRun
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.evaluation import Inputs
from humr.lifting.propose import Propose, latent_entropy, latent_nll
from humr.metrics import mpjpe

PRODUCT, STUDY = "latents", "propose"
SCORES, SEARCH = "validation_scores", "propose_sizes"
DRAWS = 16  # samples of S_3D per image
CODE = ("humr/lifting/propose.py", "humr/lifting/data.py")


def rows(profile_name: str, *, fresh: bool = False) -> pd.DataFrame:
    """Return one row per variant with instance Gaussians, seed and test image."""
    items = _items(profile_name)
    return studies.gather(PRODUCT, STUDY, items, profile_name, measured, fresh=fresh)


def publish(profile_name: str) -> list[Path]:
    """Store the rows of all finished runs, with where they come from."""
    jobs = studies.seeded(_items(profile_name), profile_name)
    return studies.store(PRODUCT, jobs, profile_name, measured)


def _items(profile_name: str) -> list[Variant]:
    """Variants whose latents are instance Gaussians (not the variational control)."""
    found = variants(STUDY, profile_name)
    return [
        item
        for item in found
        if isinstance(item.run, ProposeRun) and item.run.model.instance == "learned"
    ]


def measured(job: Variant, profile_name: str) -> pd.DataFrame:
    """Rows of one finished run; measured once for the same weights, images and code."""
    checkpoint = studies.checkpoint(job)
    files = [checkpoint.with_suffix(".safetensors"), Path(__file__)]
    assert isinstance(job.run, ProposeRun)
    name = code_digest(*CODE) + "".join(map(digest, files)) + systems.evaluated_on(job.run.world)
    path = RUNS / "evaluations" / f"latents-{sha256(name.encode()).hexdigest()[:16]}.parquet"
    if not path.exists():
        model, _ = runs.load(checkpoint)
        runs.write_rows(path, facts(model, images_of(job)))
    return studies.described(job, pd.read_parquet(path))


def images_of(job: Variant) -> Images:
    """Return the test images of a variant's world, making them if need be."""
    assert isinstance(job.run, ProposeRun)
    return systems.records(job.run.world, "test")


def seen(records: Images) -> LiftingBatch:
    """All images as ProPose sees them."""
    return records.batch(gaussians=Inputs().gaussians, doubled=Inputs().doubled)


@torch.no_grad()
def facts(model: Propose, records: Images, *, seed: int = 0) -> pd.DataFrame:
    """Measure the latents of every image."""
    batch, config = seen(records), model.config
    gaussian = model.latent(batch)
    noise = normal(
        (len(batch), DRAWS, config.width), batch.points, torch.Generator().manual_seed(seed)
    )
    image, log_det = model.flow.normalize(
        gaussian.at(noise), model.flow.project(batch.points.flatten(1))
    )
    nll = latent_nll(image, log_det, model.base(batch.points))
    reached = model.reach(torch.zeros_like(noise[:, :1]), batch.points)[:, 0]
    rebuilt = complete(model.instance.decode(gaussian.mean[:, None], batch.points)[:, 0])
    mean = gaussian.mean
    columns = {
        "excess": (nll - latent_entropy(config.width, config.std)) / config.width,
        "found": (mean - reached).square().mean(-1).sqrt() / config.std,
        "spread": (mean - mean.mean(0)).square().mean(-1).sqrt() / config.std,
        "rebuilt": 1e3 * mpjpe(rebuilt, batch.target),
    }
    table = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
    table.insert(0, "action", list(records.action))
    table.insert(0, "image", range(len(table)))
    return table


def principal(
    values: Float[Tensor, "images dim"], count: int = 2
) -> tuple[Float[Tensor, "images count"], Float[Tensor, " dim"]]:
    """First principal components of the rows, and the share of the variance of all of them.

    A component's sign is chosen so that its largest weight is positive: pictures repeat.
    """
    centred = values - values.mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    first = directions[:count]
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    return centred @ (first * largest.sign()).mT, sizes.square() / sizes.square().sum()


def searched(profile_name: str) -> pd.DataFrame:
    """Best validation score of every run of the size search; test images play no part.

    Columns: those that say which run it is and what it cost, `score` (energy score on the
    validation set, mm), and `best_step`, after which it was reached.
    """
    items = variants(SEARCH, profile_name)
    return studies.gather(SCORES, SEARCH, items, profile_name, validated)


def validated(job: Variant, profile_name: str) -> pd.DataFrame:
    """One row: the best validation score of a finished run."""
    done = json.loads((runs.run_directory(job.run) / "done.json").read_text())
    row = {"score": [done["best"]], "best_step": [done["best_step"]]}
    return studies.described(job, pd.DataFrame(row))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and store the latents and the validation scores of all finished runs."""
    parser = argparse.ArgumentParser(
        prog="humr.experiments.propose_latents", description=main.__doc__
    )
    parser.add_argument("profile", choices=list(PROFILES))
    chosen = parser.parse_args(arguments).profile
    jobs = studies.seeded(variants(SEARCH, chosen), chosen)
    written = publish(chosen) + studies.store(SCORES, jobs, chosen, validated)
    for path in written:
        say(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
