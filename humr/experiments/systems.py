"""What is particular to one system: its data, how it is trained, built and evaluated.

HuMR, the lifting flow and ProPose, each on the open world and on licensed data. HuMR's training on
licensed data is in `licensed.training`; the lifting systems read other images, and no more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from humr import evaluation, training
from humr.batches import Batch
from humr.bodies.body import Body, load_body
from humr.config import Model, Run, World, from_dict, to_dict
from humr.devices import Fabric
from humr.experiments import tables
from humr.files import ROOT, code_digest, digest
from humr.geometry import matrix_to_sixd
from humr.licensed import features, human36m, lifting
from humr.licensed import training as licensed_training
from humr.licensed.datasets import (
    DATASETS,
    FIRST,
    OCCLUDED,
    TEST,
    Human36m,
    Licensed,
    LiftingPaperRun,
    PaperRun,
    ProposePaperRun,
)
from humr.licensed.evaluation import with_diagonal
from humr.licensed.human36m import LicensedLifting
from humr.lifting import evaluation as lifting_evaluation
from humr.lifting import world
from humr.lifting.config import (
    LiftingModel,
    LiftingRule,
    LiftingRun,
    LiftingWeights,
    LiftingWorld,
    ProposeModel,
    ProposeRun,
)
from humr.lifting.data import LiftingBatch
from humr.lifting.evaluation import Inputs, Lifter
from humr.lifting.flow import Critic, LiftingFlow, LiftingObjective
from humr.lifting.propose import Propose, ProposeObjective
from humr.lifting.world import LiftingRecords
from humr.metrics import energy_score, mpjpe
from humr.model import Humr
from humr.objective import HumrObjective
from humr.storage import Store
from humr.training import Progress, Validation
from humr.world import generate
from humr.world.records import Pool

LiftedWorld = LiftingWorld | Human36m
AnyWorld = World | LiftedWorld | Licensed
AnyRun = Run | LiftingRun | ProposeRun
Images = LiftingRecords | LicensedLifting


@dataclass(frozen=True, kw_only=True)
class System:
    """What is particular to one system."""

    name: str  # of its folders and in its checkpoints
    store: Callable[[Any], Store[Any]]  # data of a world's configuration
    recipe: int  # of that data
    fit: Callable[[Any, str, Fabric, Path], Progress]  # run, name, engine, folder
    build: Callable[[dict[str, Any]], nn.Module]  # from a checkpoint's description
    evaluate: Callable[..., pd.DataFrame]  # one row per image of a split
    summary: Callable[[pd.DataFrame], dict[str, float]]  # of rows
    code: Sequence[str]  # files that rows depend on, with all that they import
    glue: Sequence[str]  # and files of which only their own lines count: they train and make, too
    check: Callable[[Any], None] = lambda run: None  # refuses runs before any work
    # Names what rows depend on, of a world's configuration; None: the folder of its data.
    evaluated_on: Callable[[Any], str] | None = None


def store(run: AnyRun) -> Store[Any]:
    """Data that a run is trained and tested on."""
    return SYSTEMS[type(run)].store(run.world)


def data_name(system: System, config: AnyWorld) -> str:
    """Name the data that rows on a world depend on."""
    if system.evaluated_on is None:
        return system.store(config).directory.name
    return system.evaluated_on(config)


def code_names(system: System) -> list[str]:
    """Name the code that rows depend on."""
    return _digests(tuple(system.code), tuple(system.glue))


@cache
def _digests(code: tuple[str, ...], glue: tuple[str, ...]) -> list[str]:
    return [code_digest(*code), *(digest(ROOT / path) for path in glue)]


# ------------------------------------------------------------------------ HuMR, open world


def check_mesh(run: Run) -> None:
    """Refuse what cannot be trained on the open world."""
    if run.model.features != generate.FEATURES:
        raise ValueError(
            f"the open world has {generate.FEATURES} features per image; this configuration "
            f"expects {run.model.features}. Usual cause: sizes of the paper's backbone, which "
            "belong to a run on licensed data (PaperRun)"
        )
    drawn, poses = round(run.training.labelled_share * run.training.batch), run.supervision.poses
    labelled = run.world.labelled if poses is None else poses
    if drawn > labelled:
        raise ValueError(
            f"every batch needs {drawn} different images with 3D labels, and there are "
            f"{labelled}; take a smaller batch or labelled_share"
        )


def fit_mesh(run: Run, name: str, fabric: Fabric, directory: Path) -> Progress:
    """Train HuMR in a folder, or go on there."""
    if fabric.is_global_zero:
        generate.store(run.world).generate()
    fabric.barrier()
    torch.manual_seed(run.training.seed)
    rule, config = run.supervision, run.training
    pool = _pool(run.world).showing(poses=rule.poses, points=rule.points)
    model = Humr(run.model)
    model.fit_statistics(pool.records.features, pool.labelled())
    body = load_body("small").to(fabric.device)
    pool = pool.to(fabric.device)

    def draw(generator: torch.Generator) -> Batch:
        return pool.draw(
            config.batch,
            samples=max(rule.heatmap_samples, model.heatmap_samples),
            generator=generator,
            labelled=config.labelled_share,
            gaussian=rule.heatmaps == "gaussian",
        )

    return training.fit(
        HumrObjective(model, body, run.weights, rule, config.hypotheses),
        draw,
        _mesh_validation(run, body),
        config,
        directory,
        fabric=fabric,
        about={
            "system": "humr",
            "name": name,
            "run": to_dict(run),
            "recipe": generate.DATA_VERSION,
        },
    )


@lru_cache(maxsize=1)
def _pool(config: World) -> Pool:
    """Load the training images of a world; kept, since many runs of a study share one."""
    shards = generate.store(config)
    return Pool.of({s: shards.load(s) for s in ("labelled", "points", "unlabelled")})


def _mesh_validation(run: Run, body: Body) -> Validation:
    """Energy score (the score that decides), error of the mode, likelihood per dimension."""
    records, generator = generate.store(run.world).load("validation"), torch.Generator()
    generator.manual_seed(0)
    samples = max(run.model.heatmap_samples, 1)
    batches = [
        records[slice(i, i + 100)].batch(samples=samples, generator=generator)
        for i in range(0, len(records), 100)
    ]

    def measure(model: Humr, batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        drawn = model.sample(batch, 16, generator=noise)
        score, error = evaluation.energy_of(drawn, batch, body)
        nll = -model.log_prob(batch, matrix_to_sixd(batch.rotations)[:, None])[:, 0]
        return {"score": score, "mpjpe_mode": error, "nll": nll / model.flow.dim}

    return Validation(batches, measure)


def build_mesh(about: dict[str, Any]) -> Humr:
    """Build the network that a checkpoint's description asks for."""
    if about.get("system") != "humr":
        raise ValueError(f"expected a checkpoint of system 'humr'; got {about.get('system')!r}")
    return Humr(from_dict(Model, about["run"]["model"]))


def evaluate_mesh(
    model: Humr,
    about: dict[str, Any],
    config: World,
    split: str,
    **options: Any,  # noqa: ANN401
) -> pd.DataFrame:
    """Measure a model on a split; options as of `evaluation.evaluate`."""
    del about
    images = generate.store(config).make_and_load(split)
    return evaluation.evaluate(model, load_body("small"), images, **options)


# ------------------------------------------------------------------------ lifting


def lifting_store(config: LiftedWorld) -> Store[LiftingRecords] | Store[LicensedLifting]:
    """Return the splits of a world."""
    return lifting.store(config) if isinstance(config, Human36m) else world.store(config)


def lifting_data_name(config: LiftedWorld) -> str:
    """Name the images that rows depend on."""
    if isinstance(config, Human36m):
        return lifting.evaluated_on(config)
    return lifting_store(config).directory.name


def records(config: LiftedWorld, split: str) -> Images:
    """Read a split; the open world's is made if need be."""
    return lifting_store(config).make_and_load(split)


def actions(config: LiftedWorld) -> tuple[str, ...]:
    """Names of the actions of training and test."""
    return human36m.ACTIONS if isinstance(config, Human36m) else world.ACTIONS


def fit_flow(run: LiftingRun, name: str, fabric: Fabric, directory: Path) -> Progress:
    """Train the lifting flow in a folder, or go on there."""
    torch.manual_seed(run.training.seed)
    model = LiftingFlow(run.model, noisy=run.weights.nll > 0)
    if run.model.normalise:
        model.flow.standardize(_batch(run.world, "train", inputs(run.rule)).pose.flatten(1))
    sizes = {"hidden": run.model.critic, "bones_hidden": run.model.critic_bones}
    critic = Critic(**sizes) if run.weights.adversarial > 0 else None
    objective = LiftingObjective(model, run.weights, run.rule, critic=critic)
    return _fit_lifting(objective, run, inputs(run.rule), name, fabric, directory)


def fit_propose(run: ProposeRun, name: str, fabric: Fabric, directory: Path) -> Progress:
    """Train ProPose in a folder, or go on there."""
    torch.manual_seed(run.training.seed)
    objective = ProposeObjective(Propose(run.model), run.weights, run.rule)
    return _fit_lifting(objective, run, Inputs(), name, fabric, directory)


def _fit_lifting(
    objective: nn.Module,
    run: LiftingRun | ProposeRun,
    seen: Inputs,
    name: str,
    fabric: Fabric,
    directory: Path,
) -> Progress:
    pool, held_out = (_batch(run.world, split, seen) for split in ("train", "validation"))
    pool = pool.to(fabric.device)
    system = SYSTEMS[type(run)]
    about = {"system": system.name, "name": name, "run": to_dict(run), "recipe": system.recipe}
    if isinstance(run.world, Human36m):
        about["files"] = lifting.digests(run.world, ("train", "validation"))

    def draw(generator: torch.Generator) -> LiftingBatch:
        return pool.draw(run.training.batch, generator=generator, mirror=run.rule.mirror)

    validation = Validation([held_out], _lifting_errors)
    return training.fit(
        objective, draw, validation, run.training, directory, fabric=fabric, about=about
    )


def _lifting_errors(
    model: LiftingFlow | Propose, batch: LiftingBatch, noise: torch.Generator
) -> dict[str, Tensor]:
    """Energy score (the score that decides) and errors of mode and best."""
    drawn = model.sample(batch, 25, generator=noise)
    return {
        "score": energy_score(drawn, batch.target),
        "mpjpe_mode": mpjpe(model.mode(batch), batch.target),
        "mpjpe_best": mpjpe(drawn, batch.target[:, None]).amin(1),
    }


def inputs(rule: LiftingRule) -> Inputs:
    """How a run of the lifting flow reads the heatmaps."""
    return Inputs(gaussians=rule.gaussians, doubled=rule.doubled)


@lru_cache(maxsize=4)
def _batch(config: LiftedWorld, split: str, seen: Inputs) -> LiftingBatch:
    """Make a whole split as systems see it; kept, since many runs of a study share one."""
    return records(config, split).batch(gaussians=seen.gaussians, doubled=seen.doubled)


def build_flow(about: dict[str, Any]) -> LiftingFlow:
    """Build the lifting flow that a checkpoint's description asks for."""
    weights = from_dict(LiftingWeights, about["run"]["weights"])
    return LiftingFlow(from_dict(LiftingModel, about["run"]["model"]), noisy=weights.nll > 0)


def build_propose(about: dict[str, Any]) -> Propose:
    """Build ProPose as a checkpoint's description asks for it."""
    return Propose(from_dict(ProposeModel, about["run"]["model"]))


def evaluate_lifting(
    model: Lifter,
    about: dict[str, Any],
    config: LiftedWorld,
    split: str,
    *,
    hypotheses: int,
    seed: int,
) -> pd.DataFrame:
    """Measure a model on a split: one row per image."""
    seen = Inputs()
    if about["system"].startswith("lifting"):
        seen = inputs(from_dict(LiftingRule, about["run"]["rule"]))
    images = records(config, split)
    return lifting_evaluation.evaluate(
        model, images, hypotheses=hypotheses, seed=seed, inputs=seen, group=split
    )


def lifting_summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over images of errors, scores and coverage, less what is of single joints."""
    more = ("cover", "ambiguous")
    kept = [n for n in map(str, rows) if tables.metric(n).direction or n.startswith(more)]
    return {str(name): round(float(v), 4) for name, v in rows[kept].mean().dropna().items()}


# ------------------------------------------------------------------------ all of them

_HERE = "humr/experiments/systems.py"
_LIFTERS = ("lifting/evaluation", "lifting/flow", "lifting/propose")
_LIFTING: dict[str, Any] = {
    "store": lifting_store,
    "evaluate": evaluate_lifting,
    "summary": lifting_summary,
    "code": [f"humr/{name}.py" for name in (*_LIFTERS, "heatmaps")],
    "glue": [_HERE, "humr/lifting/world.py"],
    "evaluated_on": lifting_data_name,
}
_FLOW = _LIFTING | {"fit": fit_flow, "build": build_flow}
_PROPOSE = _LIFTING | {"fit": fit_propose, "build": build_propose}
_OPEN: dict[str, Any] = {"recipe": world.DATA_VERSION}
_PAPER: dict[str, Any] = {"recipe": lifting.DATA_VERSION, "check": lifting.check}
SYSTEMS: dict[type, System] = {
    Run: System(
        name="humr",
        store=generate.store,
        recipe=generate.DATA_VERSION,
        fit=fit_mesh,
        build=build_mesh,
        evaluate=evaluate_mesh,
        summary=evaluation.summary,
        code=["humr/evaluation.py", "humr/model.py", "humr/world/records.py"],
        glue=[_HERE, "humr/world/generate.py"],
        check=check_mesh,
    ),
    PaperRun: System(
        name="paper",
        store=licensed_training.store,
        recipe=features.DATA_VERSION,
        fit=licensed_training.fit,
        build=licensed_training.build,
        evaluate=licensed_training.evaluate,
        summary=licensed_training.summary,
        code=licensed_training.EVALUATING,
        glue=[_HERE, "humr/licensed/training.py"],
        check=licensed_training.check,
        evaluated_on=licensed_training.evaluated_on,
    ),
    LiftingRun: System(name="lifting", **_OPEN, **_FLOW),
    LiftingPaperRun: System(name="lifting_paper", **_PAPER, **_FLOW),
    ProposeRun: System(name="propose", **_OPEN, **_PROPOSE),
    ProposePaperRun: System(name="propose_paper", **_PAPER, **_PROPOSE),
}


# ------------------------------------------------------------------------ a few tested people


@dataclass(frozen=True)
class Tested:
    """Some people, and which rows of results are theirs."""

    image: list[int]  # as in `runs.rows`
    batch: Batch


def tested_people(run: Run, count: int, *, dataset: str, generator: torch.Generator) -> Tested:
    """Return at most `count` people: the first of the open world, or evenly spread licensed ones.

    Args:
        run: of the profile.
        count: of people.
        dataset: licensed ones are of this test set, "3DPW" or "EMDB". Their focal length is the
            photograph's diagonal, as in the official code.
        generator: for the draws of heatmap samples.
    """
    if isinstance(run, PaperRun):
        return _licensed(run, count, dataset)
    images = generate.store(run.world).make_and_load("test")[slice(0, count)]
    samples = max(1, run.model.heatmap_samples)
    return Tested(list(range(len(images))), images.batch(samples=samples, generator=generator))


def _licensed(run: PaperRun, count: int, dataset: str) -> Tested:
    known = {DATASETS[name]: name for name in run.world.test if name != OCCLUDED}
    if dataset not in known:
        raise ValueError(f"dataset must be one of {', '.join(known)}; got {dataset!r}")
    name = known[dataset]
    count = min(count, run.world.tested or count)
    image, parts = [], []
    reads = run.model.heatmap_samples > 0
    for batch, people in features.batches(name, licensed_training.ROOT, count, samples=reads):
        image += (people.row + FIRST * TEST.index(name)).tolist()
        parts.append(with_diagonal(batch))
    return Tested(image, Batch.join(parts))
