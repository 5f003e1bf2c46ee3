"""HuMR on licensed data, as in the paper: check, train, validate, build from a checkpoint."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from humr import metrics, training
from humr.batches import Batch
from humr.bodies.body import Body, load_body
from humr.config import Model, config_hash, from_dict, to_dict
from humr.files import digest, find
from humr.geometry import matrix_to_sixd
from humr.licensed import evaluation, features, inventory
from humr.licensed.checkpoints import BACKBONE
from humr.licensed.datasets import (
    LICENSED,
    OCCLUDED,
    SMPLX_BODY,
    TRAINING,
    Licensed,
    PaperRun,
    data_set,
)
from humr.licensed.evaluation import load_evaluator
from humr.licensed.features import (
    TRAIN,
    VALIDATION,
    CachedFeatures,
    CachedPool,
    ImageStream,
    LicensedImages,
    workers,
)
from humr.licensed.people import batch_of
from humr.licensed.smpl import read_mean_parameters
from humr.licensed.vitpose import keypoints_path
from humr.model import JOINTS, Humr
from humr.objective import HumrObjective
from humr.skeletons import BODY22
from humr.storage import Store

EVALUATING = ("humr/licensed/evaluation.py", "humr/licensed/features.py", "humr/model.py")
MEANS = "utils/smpl_mean_params.npz"
HIPS = BODY22.indices(("left_hip", "right_hip"))
ROOT = LICENSED  # where the files lie
AT_ONCE = 100  # people that are validated together


def store(config: Licensed) -> Store[CachedFeatures]:
    """Features of a configuration's people, made or not."""
    return features.store(config, ROOT)


# --------------------------------------------------------------------- what is needed


def check(run: PaperRun) -> None:
    """Refuse to train without the files of training, or samples that evaluation will read."""
    lacking = [each for each in inventory.inspect(ROOT, files=needed(run)) if each.state != "ok"]
    if lacking:
        raise FileNotFoundError(inventory.refusal(lacking))
    if run.model.heatmap_samples:
        for name in run.world.test:
            features.require_samples(name, ROOT)


def needed(run: PaperRun) -> list[inventory.LicensedFile]:
    """Files of the inventory without which a run cannot be trained."""
    parts = {"training", "masks"} if run.world.masks else {"training"}
    own = set().union(*map(_files, run.world.train))
    others = set().union(*map(_files, TRAINING)) - own
    return [
        file for file in inventory.FILES if parts & set(file.parts) and file.paths[0] not in others
    ]


def _files(name: str) -> set[str]:
    """Where the inventory looks for what belongs to a data set."""
    described = data_set(name)
    scene = Path(described.images).parent.name
    photographs = {described.images, f"{described.images}/imageFiles"}
    masks = {f"env_masks/{scene if described.source == 'BEDLAM' else 'images'}"}
    found = {f"annotations/{described.annotations}", f"heatmap_samples/{name}"} | photographs
    return found if described.source == "3DPW" else found | masks


# --------------------------------------------------------------------------- training


def fit(run: PaperRun, name: str, fabric: training.Fabric, directory: Path) -> training.Progress:
    """Train HuMR in a folder, or go on there."""
    _prepare(run.world, fabric)
    torch.manual_seed(run.training.seed)
    model = Humr(run.model)
    mean = read_mean_parameters(find(ROOT, MEANS))
    model.head.start_at(torch.nn.functional.pad(mean.betas, (0, 1)).float(), mean.camera.float())
    body = load_body(find(ROOT, *SMPLX_BODY)).to(fabric.device)
    objective = HumrObjective(model, body, run.weights, run.supervision, run.training.hypotheses)
    held_out = store(run.world).load(VALIDATION)
    about = {
        "system": "paper",
        "name": name,
        "run": to_dict(run),
        "recipe": features.DATA_VERSION,
        "backbone": digest(ROOT / BACKBONE),
        "processes": fabric.world_size,
    }
    return training.fit(
        objective,
        _draw(run, fabric),
        validation(held_out, body, samples=model.heatmap_samples),
        run.training,
        directory,
        fabric=fabric,
        about=about,
    )


def _prepare(config: Licensed, fabric: training.Fabric) -> None:
    """Make features that are missing; several processes do not wait for hours of that."""
    made = store(config)
    missing = [path for split in made.sizes for path in made.paths(split) if not path.exists()]
    if missing and fabric.world_size > 1:
        raise FileNotFoundError(
            f"{len(missing)} shards of features are not there yet; make them before several "
            "processes start: python3 -m humr world paper"
        )
    features.check_origin(config, ROOT)
    made.generate()


def _draw(run: PaperRun, fabric: training.Fabric) -> training.Draw:
    """Return what makes batches: from the features, or from the photographs."""
    batch = run.training.batch
    samples = max(run.supervision.heatmap_samples, run.model.heatmap_samples)
    if not run.world.variants:
        sets, _ = features.people(run.world, ROOT)
        return ImageStream(
            LicensedImages(sets, run.world, root=ROOT),
            features.backbone(ROOT, fabric.device),
            batch=batch,
            samples=samples,
            rank=fabric.global_rank,
            processes=workers(),
        )
    pool = CachedPool(store(run.world).shards(TRAIN))

    def draw(generator: torch.Generator) -> Batch:
        return pool.draw(batch, samples=samples, generator=generator)

    return draw


def validation(
    people: CachedFeatures, body: Body, *, hypotheses: int = 16, samples: int = 0
) -> training.Validation:
    """Energy score (the score that decides), error of the mode, likelihood per dimension.

    Of the 22 joints of SMPL-X, relative to the middle of the hips, on people of the training sets
    who are not trained on. (The official code keeps the epoch of the lowest *training* loss.)
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.zeros(len(people), dtype=torch.long)
    known, crops = people.persons, people.crops(first)
    batches = [
        batch_of(known[part], crops[part], samples=max(samples, 1), generator=generator)
        for part in (slice(i, i + AT_ONCE) for i in range(0, len(people), AT_ONCE))
    ]

    def measure(model: Humr, batch: Batch, noise: torch.Generator) -> dict[str, torch.Tensor]:
        drawn = model.sample(batch, hypotheses, generator=noise)
        target = _centred(body.joints(batch.rotations, batch.betas))
        sixd = matrix_to_sixd(batch.rotations)[:, None]
        return {
            "score": metrics.energy_score(_centred(drawn.samples.joints(body)), target),
            "mpjpe_mode": metrics.mpjpe(_centred(drawn.mode.joints(body)), target),
            "nll": -model.log_prob(batch, sixd)[:, 0] / model.flow.dim,
        }

    return training.Validation(batches, measure)


def _centred(joints: torch.Tensor) -> torch.Tensor:
    return metrics.centre(joints[..., :JOINTS, :], HIPS)


# ------------------------------------------------------------------------- afterwards


def official() -> Path | None:
    """Name the official checkpoint, if it is there and converted (``humr convert``)."""
    checkpoint = ROOT / "ckpt" / "humr"
    return checkpoint if checkpoint.with_suffix(".safetensors").exists() else None


def build(about: dict[str, Any]) -> Humr:
    """Build the network that a checkpoint's description asks for."""
    if about.get("system") != "paper":
        raise ValueError(f"expected a checkpoint of system 'paper'; got {about.get('system')!r}")
    return Humr(from_dict(Model, about["run"]["model"]))


def evaluate(
    model: Humr,
    about: dict[str, Any],
    config: Licensed,
    split: str,
    *,
    hypotheses: int,
    seed: int,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Measure a model on a test set, or on all of them ("test"): one row per person.

    With `default_focal` the network and the camera take the photograph's diagonal, as in the
    official code. A checkpoint whose own backbone is another than that of the features is refused.
    """
    if about.get("backbone") == "another":
        raise ValueError(
            f"{about['official']} was trained with another backbone than {BACKBONE}, whose "
            "features are evaluated; its results would be wrong"
        )
    focal = "diagonal" if default_focal else "given"
    measure = partial(evaluation.evaluate, hypotheses=hypotheses, seed=seed, focal=focal)
    return _measured(model, config.test if split == "test" else (split,), config.tested, measure)


def curves(
    model: Humr, config: Licensed, people: int, counts: Sequence[int], *, seed: int = 0
) -> pd.DataFrame:
    """Curves over the number of hypotheses on some people of every test set."""
    names = [name for name in config.test if name != OCCLUDED]
    return _measured(model, names, people, partial(evaluation.curve, counts=counts, seed=seed))


def _measured(
    model: Humr, names: Sequence[str], people: int, measure: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    """Rows of some people (0: all) of every test set."""
    model, evaluator = model.eval(), load_evaluator(root=ROOT)
    parts = []
    for name in names:
        pairs = features.batches(name, ROOT, people, samples=model.heatmap_samples > 0)
        parts.append(measure(model, pairs, evaluator, root=ROOT))
    return pd.concat(parts, ignore_index=True)


def evaluated_on(config: Licensed) -> str:
    """Name what rows of a run's test sets depend on beside the model and the code.

    Samples of their heatmaps are known by the keypoints that were written with them.
    """
    sets = (features.described(name, ROOT, config.tested) for name in config.test)
    seen = [keypoints_path(name, root=ROOT) for name in config.test]
    return "-".join([*map(config_hash, sets), *(digest(path) for path in seen if path.exists())])


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over people, of what is known of them."""
    numeric = rows.drop(columns=["image", "row"]).select_dtypes("number")
    return {str(n): round(float(value), 4) for n, value in numeric.mean().dropna().items()}
