r"""What is measured of finished runs beside the rows of their studies, and the command `study`.

``python -m humr study components few --workers 2`` trains and evaluates what is missing of some
studies, and goes on where it was stopped; ``--publish`` stores their rows in `data/results`. So
does ``python -m humr study --measure NAME`` for a measurement of all runs that are finished:

- `curves`: best of N and energy score against the number of hypotheses N (HuMR, Figure S1). The
  best of N falls with N whatever the model; the energy score does not depend on N, but for noise.
- `lifting_curves`: error of the lifting flow against the number of hypotheses n (Wehrbein et al.,
  Figure 5 and Table 5). Beside the best of the first n stand the best of n draws of the noise
  baseline (the mode with the noise of the heatmaps' Gaussians, and in depth as much as the system
  itself has), and the best of n K-means centres of the hypotheses.
- `latents`: what ProPose's latents know, image by image. The flow learns to find the instance
  Gaussian's mean $\mu_{3D}$, which knows the 3D label, from the 2D pose alone.
  `excess`: negative log-likelihood of $w \sim S_{3D}$ minus its least possible value, the entropy
  of the noise ($\frac d2 \log 2 \pi e s^2$), in nats per dimension. Near 0 nothing is left to be
  found out: the latent is a function of the 2D pose, and knows no depth.
  `found`: distance of $\mu_{3D}$ from the latent that the mode of the base becomes; `spread`: its
  distance from the mean over images; both root mean squares over dimensions, in units of $s$.
  `rebuilt`: error of the pose that the decoder makes of $\mu_{3D}$, MPJPE in mm: what a latent
  that knows the label is worth. A latent that forgot depth does no better than the mode.
- `validation_scores`: best validation score of every run of the size search (energy score, mm),
  and `best_step`, after which it was reached; test images play no part.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from humr import evaluation
from humr.bodies.body import Body, load_body
from humr.config import Run
from humr.devices import normal, pick_device
from humr.experiments import runs, systems
from humr.experiments.ablations import STUDIES, Variant, home
from humr.experiments.profiles import PROFILES, profile
from humr.experiments.runs import Measurement
from humr.experiments.systems import Images
from humr.files import digest, say
from humr.licensed import training as licensed_training
from humr.licensed.datasets import PaperRun
from humr.lifting import evaluation as lifting_evaluation
from humr.lifting.config import LiftingRun, ProposeRun
from humr.lifting.data import complete
from humr.lifting.evaluation import Inputs, Lifter, NoiseBaseline, deviation, device_of
from humr.lifting.propose import Propose, latent_entropy, latent_nll
from humr.metrics import mpjpe
from humr.model import Humr
from humr.world import generate
from humr.world.records import Records

SMALL = ("smoke", "paper-smoke")  # profiles that measure little
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of hypotheses


def _once(
    job: Variant, product: str, asked: str, make: Callable[[Any], pd.DataFrame]
) -> pd.DataFrame:
    """Rows of one finished run, measured once for the same weights, data, question and code."""
    weights = runs.checkpoint(job)
    parts = [*runs.origin(weights, job.run.world), asked, digest(Path(__file__))]
    found = runs.kept(product, parts, lambda: make(runs.load(weights, pick_device())[0]))
    return runs.described(job, found)


# ------------------------------------------------------------------------ HuMR: curves over N

ENERGY_BATCH = 10  # images whose hypotheses are held at once


def _curves(job: Variant, profile_name: str) -> pd.DataFrame:
    """Measure the first images of the open world, or licensed people, evenly spread."""
    run = job.run
    images, hypotheses = (4, 20) if profile_name in SMALL else (200, 1000)
    counts = [n for n in COUNTS if n <= hypotheses]

    def make(model: Humr) -> pd.DataFrame:
        if isinstance(run, PaperRun):
            return licensed_training.curves(model, run.world, images, counts)
        assert isinstance(run, Run)
        records = generate.store(run.world).make_and_load("test")[slice(0, images)]
        return mesh_curve(model, load_body("small"), records, counts)

    return _once(job, "curves", f"{images} {hypotheses}", make)


def mesh_curve(
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


# ------------------------------------------------------------------------ lifting: curves over n

CLUSTERS = (5, 10)
CLUSTERED = 200  # hypotheses of which the clusters are
LIFTED = ("mpjpe_best", "mpjpe_expected", "pa_mpjpe_best", "pa_mpjpe_expected")
NOISE = "noise_"  # columns of the baseline begin with it
USUAL = Inputs()


def _lifting_curves(job: Variant, profile_name: str) -> pd.DataFrame:
    run = job.run
    assert isinstance(run, LiftingRun)
    hypotheses = 20 if profile_name in SMALL else 1000

    def make(model: Lifter) -> pd.DataFrame:
        images = systems.records(run.world, run.world.hard)
        return lifting_curve(model, images, hypotheses, inputs=systems.inputs(run.rule))

    return _once(job, "lifting_curves", str(hypotheses), make)


def lifting_curve(
    model: Lifter, images: Images, hypotheses: int, *, inputs: Inputs = USUAL, seed: int = 0
) -> pd.DataFrame:
    """Measure system, noise baseline and clusters on the ambiguous images: a row per image and n.

    Columns (mm): `LIFTED`, the same of the baseline as `noise_...`, and where n is in `CLUSTERS`
    `mpjpe_kmeans` and `pa_mpjpe_kmeans`, the best of n centres (elsewhere NaN). `image` is the
    number in the whole split: of the test, or of H36MA (`hard` of the world).
    """
    chosen = images.ambiguous.nonzero()[:, 0]
    if not len(chosen):
        raise ValueError(f"none of the {len(images)} images is ambiguous: too few images?")
    data, few = images[chosen], min(hypotheses, CLUSTERED)
    counts = [n for n in COUNTS if n <= hypotheses]
    depth = depth_spread(model, data, hypotheses=few, inputs=inputs)
    noise = NoiseBaseline(model, depth, doubled=inputs.doubled)
    table, beside = (
        lifting_evaluation.curve(
            one, data, counts, hypotheses=hypotheses, inputs=inputs, seed=seed
        )
        for one in (model, noise)
    )
    beside = beside.rename(columns={name: NOISE + name for name in LIFTED})
    table = table.merge(beside, on=["image", "n"], validate="one_to_one")
    clusters = [n for n in CLUSTERS if n <= few]
    found = lifting_evaluation.evaluate(
        model, data, hypotheses=few, seed=seed, inputs=inputs, clusters=clusters
    )
    kinds = ("mpjpe_kmeans", "pa_mpjpe_kmeans")
    centres = [
        pd.DataFrame({"image": found["image"], "n": n} | {c: found[f"{c}{n}"] for c in kinds})
        for n in clusters
    ]
    table = table.merge(
        pd.concat(centres, ignore_index=True),
        on=["image", "n"],
        how="left",
        validate="one_to_one",
    )
    return table.assign(image=chosen.numpy()[table["image"]])


@torch.no_grad()
def depth_spread(
    model: Lifter, images: Images, *, hypotheses: int = 200, inputs: Inputs = USUAL
) -> float:
    """Mean standard deviation along depth, metres, of the 16 joints besides the pelvis."""
    seen = images.batch(gaussians=inputs.gaussians, doubled=inputs.doubled).to(device_of(model))
    noise = torch.Generator().manual_seed(0)
    parts: list[Tensor] = [
        deviation(model.sample(seen[i : i + 1], hypotheses, generator=noise))[:, 1:, 2]
        for i in range(len(seen))
    ]
    return torch.cat(parts).mean().item()


# ------------------------------------------------------------------------ ProPose: latents

DRAWS = 16  # samples of S_3D per image


def _latents(job: Variant, profile_name: str) -> pd.DataFrame:
    run = job.run
    assert isinstance(run, ProposeRun)
    del profile_name

    def make(model: Propose) -> pd.DataFrame:
        return latents(model.cpu(), systems.records(run.world, "test"))

    return _once(job, "latents", "test", make)


@torch.no_grad()
def latents(model: Propose, images: Images, *, seed: int = 0) -> pd.DataFrame:
    """Measure the latents of every image; what the columns are stands above."""
    batch, config = images.batch(), model.config
    gaussian = model.latent(batch)
    generator = torch.Generator().manual_seed(seed)
    noise = normal((len(batch), DRAWS, config.width), batch.points, generator)
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
    about = {"image": range(len(mean)), "action": list(images.action)}
    return pd.DataFrame(about | {name: value.numpy() for name, value in columns.items()})


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


def _validation_score(job: Variant, profile_name: str) -> pd.DataFrame:
    del profile_name
    done = json.loads((runs.run_directory(job.run) / "done.json").read_text())
    row = {"score": [done["best"]], "best_step": [done["best_step"]]}
    return runs.described(job, pd.DataFrame(row))


# ------------------------------------------------------------------------ all of them

CURVES = Measurement(
    product="curves",
    study="components",
    models=("prohmr", "realnvp", "mask"),  # the baseline, its better flow, all of HuMR
    measure=_curves,
)
LIFTING_CURVES = Measurement(
    product="lifting_curves", study="lifting", models=("full",), measure=_lifting_curves
)
LATENTS = Measurement(
    product="latents",
    study="propose",
    # all with instance Gaussians: not "instance", the variational control
    models=(
        "full",
        "adaptive",
        "end_to_end",
        "no_mode",
        "no_bidirectional",
        "no_nll",
        "no_critic",
    ),
    measure=_latents,
)
VALIDATION_SCORES = Measurement(
    product="validation_scores", study="propose_sizes", measure=_validation_score
)
MEASUREMENTS = {
    each.product: each for each in (CURVES, LIFTING_CURVES, LATENTS, VALIDATION_SCORES)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `study`."""
    about = "Train and evaluate what is missing of some studies; goes on where it was stopped."
    parser = argparse.ArgumentParser(prog="humr study", description=about)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], default=[])
    parser.add_argument("--profile", choices=list(PROFILES), default="laptop")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--publish", action="store_true", help="store rows in data/results")
    parser.add_argument(
        "--measure", choices=list(MEASUREMENTS), help="measure finished runs, store rows"
    )
    options = parser.parse_args(arguments)
    try:
        profile(options.profile)
    except ValueError as error:  # of a variable that changes it
        say(f"humr: {error}")
        return 1
    here = [study for study in STUDIES if home(study, options.profile) == options.profile]
    studies = options.studies or here
    if options.measure:
        chosen = [MEASUREMENTS[options.measure]]
    elif options.publish:
        chosen = [runs.of_study(study) for study in studies]
    else:
        runs.make_missing(studies, options.profile, workers=options.workers)
        return 0
    for path in (path for each in chosen for path in each.publish(options.profile)):
        say(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
