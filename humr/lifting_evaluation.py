"""Run a lifting system over records and measure it: one row per image, lengths in millimetres.

Hypotheses are random ones; the mode (z = 0) stands beside them and is none of them, as in the
lifting papers. Models that draw equally much noise per hypothesis get the same noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from humr import lifting_measures as measures
from humr.lifting_data import SHARP_PIXELS, LiftingBatch
from humr.lifting_losses import METRES_PER_PIXEL, target_covariance
from humr.lifting_measures import Forecast
from humr.metrics import best_of_first, expected_best_of
from humr.skeletons import CONDITION13, H36M17

POSES = 2**13  # hypotheses of all images that are held at once


@runtime_checkable
class Lifter(Protocol):
    """A system that turns a detector's 2D pose into 3D poses with the pelvis at the origin."""

    def sample(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Draw random hypotheses, in metres; noise comes from `generator`."""
        ...

    def mode(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3"]:
        """Return the single pose that stands for the distribution."""
        ...


@runtime_checkable
class Density(Protocol):
    """A lifter that knows the likelihood of a pose."""

    def log_prob(self, batch: LiftingBatch) -> Float[Tensor, " batch"]:
        """Return the log density of `batch.pose`, in nats."""
        ...


@runtime_checkable
class LiftingData(Protocol):
    """What is needed of `LiftingRecords`, and of the records of licensed data sets."""

    @property
    def action(self) -> Sequence[str]:
        """Name of what every image shows."""
        ...

    @property
    def subject(self) -> UInt8[Tensor, " images"]:
        """Who it is, among the subjects of this split."""
        ...

    @property
    def ambiguous(self) -> Bool[Tensor, " images"]:
        """Images with a wide Gaussian."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> "LiftingData":
        """Return some of the images."""
        ...

    def batch(self, *, gaussians: str, doubled: bool) -> LiftingBatch:
        """Return what lifting systems see."""
        ...


@dataclass(frozen=True)
class Inputs:
    """How a system was told to read the heatmaps (`LiftingRule` of its run)."""

    gaussians: str = "fit"
    doubled: bool = True


@torch.no_grad()
def evaluate(
    model: Lifter,
    data: LiftingData,
    *,
    hypotheses: int = 200,
    seed: int = 0,
    batch: int = 64,
    inputs: Inputs = Inputs(),
    clusters: Sequence[int] = (),
    group: str = "",
) -> pd.DataFrame:
    """Measure the distribution of every image by `hypotheses` random poses and the mode.

    Args:
        model: what is measured.
        data: a split.
        hypotheses: random poses per image; one is enough, then the spread is 0.
        seed: of the noise.
        batch: images at a time; fewer if there are very many hypotheses.
        inputs: as in training.
        clusters: numbers of K-means centres whose best counts too (columns `_kmeans<K>`).
        group: name of the part of the transfer set, for the column of that name.
    """
    rows = []
    noise = torch.Generator().manual_seed(seed)
    starts = torch.Generator().manual_seed(seed)  # so that clusters leave the noise as it is
    for part, seen in _parts(model, data, hypotheses, batch, inputs):
        drawn = _draw(model, seen, hypotheses, noise)
        columns = {
            **measures.accuracy(drawn),
            **measures.correctness(drawn),
            **measures.scores(drawn),
            **measures.spreads(drawn),
            **measures.reliability(drawn),
            **_density(model, seen),
        }
        for count in clusters:
            columns |= measures.clustered(drawn, count, generator=starts)
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        rows.append(pd.concat([_facts(part, group), frame], axis=1))
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "image", range(len(table)))
    table.insert(1, "hypotheses", hypotheses)
    return table


@torch.no_grad()
def curve(
    model: Lifter,
    data: LiftingData,
    counts: Sequence[int],
    *,
    hypotheses: int = 1000,
    seed: int = 0,
    batch: int = 64,
    inputs: Inputs = Inputs(),
) -> pd.DataFrame:
    """Measure the best of n hypotheses for every n in `counts`: one row per image and n.

    `_best` is among the first n (as in Fig. 5 of Wehrbein et al.); `_expected` averages over all
    choices of n among the `hypotheses`: the same quantity without the luck of the order.
    """
    if not counts or min(counts) < 1 or max(counts) > hypotheses:
        raise ValueError(f"counts must lie in 1..{hypotheses}, the hypotheses; got {list(counts)}")
    rows, start = [], 0
    noise = torch.Generator().manual_seed(seed)
    for _, seen in _parts(model, data, hypotheses, batch, inputs):
        found = _draw(model, seen, hypotheses, noise).errors
        for n in counts:
            columns = {"image": torch.arange(start, start + len(seen))}
            for name, error in found.items():
                columns[f"{name}_best"] = best_of_first(error, n)
                columns[f"{name}_expected"] = expected_best_of(error, n)
            frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
            frame.insert(1, "n", n)
            rows.append(frame)
        start += len(seen)
    return pd.concat(rows, ignore_index=True)


def by_action(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Mean of each metric per action, and in `average` the mean of these means.

    The papers' average: an action with many images counts no more than one with few, so that it
    differs from the mean over images. Rows of one model (several seeds are averaged).
    """
    missing = [name for name in ("action", *metrics) if name not in rows]
    if missing or rows.empty:
        why = f"they lack {missing[0]!r}" if missing else "they are empty"
        raise ValueError(f"rows of lifting_evaluation.evaluate expected; {why}")
    actions = sorted(rows["action"].unique())
    table = pd.DataFrame(
        {name: rows.loc[rows["action"] == name, list(metrics)].mean() for name in actions}
    )
    return table.assign(average=table.mean(axis=1)).rename_axis("metric")


# ------------------------------------------------------------------------- baseline


@dataclass(frozen=True)
class NoiseBaseline:
    """The mode with noise on every joint: what a distribution must beat (Wehrbein et al., Fig. 5).

    In the image plane the noise is that of the Gaussians in the condition, in metres as in the
    covariance loss; in depth, which no heatmap knows, it is the same everywhere. Joints are
    independent. The paper does not give `depth`; take the deviation of the system that is
    compared. Hips and nose have no Gaussian in the condition and get a sharp one.
    """

    lifter: Lifter
    depth: float  # metres
    doubled: bool = True  # as the condition was made

    def mode(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3"]:
        """Return the mode of the lifter."""
        return self.lifter.mode(batch)

    def sample(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Add noise to the mode."""
        mode = self.lifter.mode(batch)[:, None]
        where = mode.device if generator is None else generator.device
        noise = torch.randn(len(mode), count, 17, 3, generator=generator, device=where).to(mode)
        return mode + torch.einsum("bjkl,bnjl->bnjk", self.factor(batch), noise)

    def factor(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3 3"]:
        """Cholesky factor of every joint's covariance, zero for the pelvis."""
        metres = METRES_PER_PIXEL / (2 if self.doubled else 1)
        factor = batch.condition.new_zeros(len(batch), 17, 3, 3)
        sharp = SHARP_PIXELS * metres
        factor[:, 1:] = torch.diag(factor.new_tensor([sharp, sharp, self.depth]))
        joints = list(H36M17.indices(CONDITION13.names))
        xx, xy, yy = target_covariance(batch.condition, doubled=self.doubled).unbind(-1)
        factor[:, joints, 0, 0] = xx.sqrt()
        factor[:, joints, 1, 0] = xy / xx.sqrt()
        factor[:, joints, 1, 1] = (yy - xy.square() / xx).clamp_min(0).sqrt()
        return factor


# ------------------------------------------------------------------------- helpers


def _parts(
    model: Lifter, data: LiftingData, hypotheses: int, batch: int, inputs: Inputs
) -> Iterator[tuple[LiftingData, LiftingBatch]]:
    """Go through the data, the fewer images at a time the more hypotheses each has."""
    if hypotheses < 1:
        raise ValueError(f"hypotheses must be at least 1; got {hypotheses}")
    if not len(data):
        raise ValueError("there are no images to evaluate: the data are empty")
    batch = min(batch, max(1, POSES // hypotheses))
    for start in tqdm(range(0, len(data), batch), desc="evaluation", mininterval=2):
        part = data[start : start + batch]
        seen = part.batch(gaussians=inputs.gaussians, doubled=inputs.doubled)
        yield part, seen.to(device_of(model))


def device_of(model: Lifter) -> torch.device:
    """Where a lifter computes: on the device of its weights, if it has any."""
    inner = model.lifter if isinstance(model, NoiseBaseline) else model
    known = inner.parameters() if isinstance(inner, nn.Module) else ()
    return next((weight.device for weight in known), torch.device("cpu"))


def _draw(
    model: Lifter, seen: LiftingBatch, hypotheses: int, generator: torch.Generator
) -> Forecast:
    mode, samples = model.mode(seen), model.sample(seen, hypotheses, generator=generator)
    images, joints = len(seen), len(H36M17)
    for name, got, expected in (
        ("mode", mode, (images, joints, 3)),
        ("sample", samples, (images, hypotheses, joints, 3)),
    ):
        if got.shape != expected:
            raise ValueError(
                f"{name} must return poses of shape {expected}; got {tuple(got.shape)}. Did you "
                "forget to put the pelvis back (lifting_data.complete)?"
            )
        if not got.isfinite().all():
            raise ValueError(f"{name} must return finite poses; got NaN: did training diverge?")
    return Forecast(mode, samples, seen.target)


def _density(model: Lifter, seen: LiftingBatch) -> dict[str, Tensor]:
    """Negative log-likelihood of the true pose, nats per dimension, of models that have one."""
    if not isinstance(model, Density):
        return {}
    try:
        log_prob = model.log_prob(seen)
    except ValueError:  # a lifting flow whose 2D pose is exact; other causes were met in `_draw`
        return {}
    return {"nll": -log_prob / seen.pose[0].numel()}


def _facts(part: LiftingData, group: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "action": list(part.action),
            "subject": part.subject.cpu().numpy(),
            "group": group,
            "ambiguous": part.ambiguous.cpu().numpy(),
        }
    )
