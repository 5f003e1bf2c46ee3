"""Evaluate HuMR on 3DPW and EMDB as the official code does: one row per person.

`paper_tables` turns the rows into the paper's tables. What is measured is in `official_measures`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from humr import metrics, official_scores
from humr import official_measures as official
from humr.annotations import Annotations
from humr.cameras import box_info, default_focal
from humr.datasets import Batch
from humr.evaluation import BODIES, expected, log_volume, stream
from humr.licensed import LICENSED, data_set
from humr.mesh import Humr, Observation
from humr.official_measures import Forecast, Truth, Yardstick

FOCAL = ("diagonal", "given")
SAME = 1e-2  # px by which the boxes of a batch may differ from those of its annotations


@torch.no_grad()
def evaluate(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    yardstick: Yardstick,
    *,
    hypotheses: int = 100,
    seed: int = 0,
    include_z0: bool = True,
    focal: str = "diagonal",
    root: Path = LICENSED,
) -> pd.DataFrame:
    """Measure the posterior of every person of a test set.

    Args:
        model: in evaluation mode; everything happens on its device.
        pairs: what the network sees, and the labels of the same people.
        yardstick: from `official_measures.load_yardstick`.
        hypotheses: among which the best is looked for.
        seed: of the random hypotheses.
        include_z0: whether the mode is one of the hypotheses (official); else all are random.
        focal: "diagonal" takes the photograph's diagonal whatever is known (official), "given"
            the batch's focal length.
        root: the licensed folder, for masks of people (`emdb-p1-occl`).

    Returns:
        `data_set`, `image` (row in the annotations: unique, unlike photographs), `photograph`,
        `hypotheses`, and the columns of `official_measures.accuracy`, `.consistency` and of
        `official_scores`; `log_det` as in `evaluation.density`.
    """
    rows = []
    options = {"include_z0": include_z0, "focal": focal, "root": root}
    for drawn, truth, observation, people in _forecasts(
        model, pairs, yardstick, hypotheses, seed, **options
    ):
        columns = {
            **official.accuracy(drawn, truth),
            **official.consistency(drawn, truth),
            **official_scores.scores(drawn, truth),
            **official_scores.calibration(drawn, truth),
            "log_det": log_volume(model, observation),
        }
        frame = _framed(columns, people)
        frame.insert(3, "hypotheses", hypotheses)
        rows.append(frame)
    return _joined(rows)


@torch.no_grad()
def curve(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    yardstick: Yardstick,
    counts: Sequence[int],
    *,
    seed: int = 0,
    focal: str = "diagonal",
    root: Path = LICENSED,
) -> pd.DataFrame:
    """Measure the best of n and the energy score for every n in `counts`, as `humr.curves` does.

    One row per person and n: `data_set`, `image`, `photograph`, `n`, and of every error of
    `official_measures.KINDS` `_best` and `_expected`, mm.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be positive numbers of hypotheses; got {list(counts)}")
    rows = []
    options = {"include_z0": True, "focal": focal, "root": root}
    for drawn, truth, _, people in _forecasts(
        model, pairs, yardstick, max(counts), seed, **options
    ):
        errors = 1e3 * drawn.errors.mT
        for n in counts:
            found = {"best": metrics.best_of_first(errors, n), "expected": expected(errors, n)}
            columns = {
                f"{kind}_{how}": value[:, i]
                for how, value in found.items()
                for i, kind in enumerate(official.KINDS)
            }
            columns["energy_score"] = _energy(drawn, truth, n)
            rows.append(_framed(columns, people).assign(n=n))
    return _joined(rows)


def _energy(drawn: Forecast, truth: Truth, n: int) -> Tensor:
    """Energy score of n hypotheses without the mode, which stands alone for n = 1; mm."""
    if n == 1:
        return 1e3 * drawn.errors[:, 0, 0]
    if n == 2:
        return torch.full_like(drawn.errors[:, 0, 0], torch.nan)
    return 1e3 * metrics.energy_score(drawn.joints[:, 1:n], truth.joints)


def _forecasts(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    yardstick: Yardstick,
    hypotheses: int,
    seed: int,
    *,
    include_z0: bool,
    focal: str,
    root: Path,
) -> Iterator[tuple[Forecast, Truth, Observation, Annotations]]:
    """Draw and measure the hypotheses of some people at a time."""
    _check(model, hypotheses, focal)
    device = model.flow.mean.device
    generator, yardstick = torch.Generator().manual_seed(seed), yardstick.to(device)
    for batch, people in _parts(pairs, hypotheses):
        _check_pair(model, batch, people)
        seen = (with_diagonal(batch) if focal == "diagonal" else batch).to(device)
        masks = official.evaluation_masks(people, root=root)
        truth = official.truth_of(people, seen, yardstick, masks)
        observation = model.observe(seen)
        pieces = stream(model, observation, hypotheses + (not include_z0), generator)
        drawn = official.forecast(pieces, truth, yardstick, include_z0=include_z0)
        yield drawn, truth, observation, people


def _framed(columns: dict[str, Tensor], people: Annotations) -> pd.DataFrame:
    frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
    frame.insert(0, "data_set", people.name)
    frame.insert(1, "image", people.row.numpy())
    frame.insert(2, "photograph", people.image)
    return frame


def _joined(rows: list[pd.DataFrame]) -> pd.DataFrame:
    if not rows:
        raise ValueError("there is nobody to evaluate: no batch came")
    return pd.concat(rows, ignore_index=True)


def _parts(
    pairs: Iterable[tuple[Batch, Annotations]], hypotheses: int
) -> Iterator[tuple[Batch, Annotations]]:
    """Cut batches, the shorter the more hypotheses each image has."""
    size = max(1, BODIES // hypotheses)
    for batch, people in tqdm(pairs, desc="evaluation", mininterval=2):
        if len(batch) != len(people):
            raise ValueError(
                f"a batch and its annotations must be of the same people; got {len(batch)} and "
                f"{len(people)}"
            )
        for start in range(0, len(batch), size):
            here = slice(start, start + size)
            yield batch[here], people[here]


def with_diagonal(batch: Batch) -> Batch:
    """Show the network and the camera the photograph's diagonal as focal length."""
    focal, box = default_focal(batch.image_size), batch.box
    info = box_info(box[:, :2], box[:, 2], focal, batch.image_size)
    return replace(batch, focal=focal, box_info=info)


def _check(model: Humr, hypotheses: int, focal: str) -> None:
    if hypotheses < 1:
        raise ValueError(f"hypotheses must be at least 1; got {hypotheses}")
    if focal not in FOCAL:
        raise ValueError(f"focal must be one of {', '.join(FOCAL)}; got {focal!r}")
    if model.training:
        raise ValueError("the network is in training mode, its dropout is on: call model.eval()")


def _check_pair(model: Humr, batch: Batch, people: Annotations) -> None:
    if data_set(people.name).split != "test":
        raise ValueError(f"{people.name} is for training; only test sets have SMPL's labels")
    distance = (batch.box.cpu() - people.box).abs().max()
    if distance > SAME:
        raise ValueError(
            f"boxes of the batch and of its annotations must agree; they differ by {distance:.3g} "
            "px. Usual cause: boxes that were varied for training, or rows in another order"
        )
    expected, got = len(model.encoder.feature_mean), batch.features.shape[1]
    if expected != got:
        raise ValueError(f"the network reads {expected} image features; the batch holds {got}")
