"""Run a lifting system over images and measure it: one row per image, lengths in millimetres.

Poses have the 17 joints of H36M17, the pelvis at the origin. Hypotheses are random ones; the mode
(z = 0) stands beside them and is none of them, as in the lifting papers. Models that draw equally
much noise per hypothesis get the same noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from humr import metrics
from humr.devices import normal
from humr.evaluation import parts_of, table
from humr.geometry import similarity_align
from humr.lifting.data import SHARP_PIXELS, LiftingBatch
from humr.lifting.flow import METRES_PER_PIXEL, target_covariance
from humr.skeletons import CONDITION13, H36M17

POSES = 2**13  # hypotheses of all images that are held at once
FIRST = (1, 5, 10, 50, 200, 1000)  # hypotheses of which the papers report the best
COVERED = {50: 3, 90: 19}  # central intervals in percent, and the hypotheses that they need
# Official code of Wehrbein et al. (2021): all joints but the spine, and the 14 of MPI-INF-3DHP.
CPS_JOINTS = H36M17.indices([name for name in H36M17.names if name != "spine"])
PCK_JOINTS = H36M17.indices([n for n in H36M17.names if n not in ("pelvis", "spine", "nose")])
BODY_JOINTS = H36M17.names[1:]  # whatever can be wrong: the pelvis is at the origin by definition
STEPS = 300  # thresholds of the correct poses score: 1, 2, ..., 300 mm
LEVELS = 21  # of the calibration error: 0, 0.05, ..., 1
LLOYD_STEPS = 100  # of Lloyd's algorithm, which ends long before

Poses = Float[Tensor, "*batch joints 3"]
Targets = Float[Tensor, "*#batch points 3"]


@runtime_checkable
class Lifter(Protocol):
    """A system that turns a detector's 2D pose into 3D poses with the pelvis at the origin.

    With a `log_prob(batch)` it knows the log density of `batch.pose` as well, in nats.
    """

    def sample(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Draw random hypotheses, in metres; noise comes from `generator`."""
        ...

    def mode(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3"]:
        """Return the single pose that stands for the distribution."""
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
    """How a system reads the heatmaps, as the `LiftingRule` of its run says."""

    gaussians: str = "fit"
    doubled: bool = True


@dataclass(frozen=True)
class Forecast:
    """A batch's hypotheses and labels, H36M17, metres, pelvis at the origin."""

    mode: Float[Tensor, "batch 17 3"]
    samples: Float[Tensor, "batch hypotheses 17 3"]
    target: Float[Tensor, "batch 17 3"]

    @cached_property
    def aligned(self) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Hypotheses after Procrustes."""
        return aligned(self.samples, self.target[:, None])

    @cached_property
    def errors(self) -> dict[str, Float[Tensor, "batch hypotheses"]]:
        """Both errors of every hypothesis, mm."""
        target = self.target[:, None]
        return {
            "mpjpe": 1e3 * metrics.mpjpe(self.samples, target),
            "pa_mpjpe": 1e3 * metrics.mpjpe(self.aligned, target),
        }


# ---- rows


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

    `clusters`: numbers of K-means centres whose best counts too (columns `_kmeans<K>`). `group`:
    name of the part of the transfer set. Many hypotheses come with fewer images than `batch`.
    """
    starts = torch.Generator().manual_seed(seed)  # so that clusters leave the noise as it is
    parts = []
    for here, part, seen, drawn in _forecasts(model, data, hypotheses, seed, batch, inputs):
        columns = {
            "image": here,
            "hypotheses": hypotheses,
            "action": part.action,
            "subject": part.subject,
            "group": group,
            "ambiguous": part.ambiguous,
            **measures(drawn),
            **_density(model, seen),
        }
        for count in clusters:
            columns |= clustered(drawn, count, generator=starts)
        parts.append(columns)
    return table(parts)


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
    parts = []
    for here, _, _, drawn in _forecasts(model, data, hypotheses, seed, batch, inputs):
        for n in counts:
            columns = {"image": here, "n": n}
            for name, error in drawn.errors.items():
                columns[f"{name}_best"] = metrics.best_of_first(error, n)
                columns[f"{name}_expected"] = metrics.expected_best_of(error, n)
            parts.append(columns)
    return table(parts)


def _forecasts(
    model: Lifter, data: LiftingData, hypotheses: int, seed: int, batch: int, inputs: Inputs
) -> Iterator[tuple[range, LiftingData, LiftingBatch, Forecast]]:
    """Draw the hypotheses of a few images at a time; the first is their numbers."""
    noise, device = torch.Generator().manual_seed(seed), device_of(model)
    for here in parts_of(len(data), hypotheses, batch=batch, held=POSES):
        part = data[here.start : here.stop]
        seen = part.batch(gaussians=inputs.gaussians, doubled=inputs.doubled).to(device)
        yield here, part, seen, forecast(model, seen, hypotheses, generator=noise)


@torch.no_grad()
def forecast(
    model: Lifter, seen: LiftingBatch, hypotheses: int, *, generator: torch.Generator
) -> Forecast:
    """Draw the mode and random hypotheses, and check that they are poses."""
    mode, samples = model.mode(seen), model.sample(seen, hypotheses, generator=generator)
    for name, got, count in (("mode", mode, ()), ("sample", samples, (hypotheses,))):
        expected = (len(seen), *count, len(H36M17), 3)
        if got.shape != expected:
            raise ValueError(
                f"{name} must return poses of shape {expected}; got {tuple(got.shape)}. Did you "
                "forget to put the pelvis back (lifting.data.complete)?"
            )
        if not got.isfinite().all():
            raise ValueError(f"{name} must return finite poses; got NaN: did training diverge?")
    return Forecast(mode, samples, seen.target)


def _density(model: Lifter, seen: LiftingBatch) -> dict[str, Tensor]:
    """Negative log-likelihood of the true pose, nats per dimension, of models that have one."""
    if (log_prob := getattr(model, "log_prob", None)) is None:
        return {}
    try:
        return {"nll": -log_prob(seen) / seen.pose[0].numel()}
    except ValueError:  # a lifting flow whose 2D pose is exact; `forecast` met other causes
        return {}


def device_of(model: Lifter) -> torch.device:
    """Where a lifter computes: on the device of its weights, if it has any."""
    inner = model.lifter if isinstance(model, NoiseBaseline) else model
    known = inner.parameters() if isinstance(inner, nn.Module) else ()
    return next((weight.device for weight in known), torch.device("cpu"))


def by_action(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean of each column per action, and in `average` the mean of these means.

    The papers' average: an action with many images counts no more than one with few, so that it
    differs from the mean over images. Rows of one model (several seeds are averaged).
    """
    missing = [name for name in ("action", *columns) if name not in rows]
    if missing or rows.empty:
        why = f"they lack {missing[0]!r}" if missing else "they are empty"
        raise ValueError(f"rows of lifting.evaluation.evaluate expected; {why}")
    actions = sorted(rows["action"].unique())
    means = {name: rows.loc[rows["action"] == name, list(columns)].mean() for name in actions}
    found = pd.DataFrame(means)
    return found.assign(average=found.mean(axis=1)).rename_axis("metric")


# ---- what is measured of hypotheses: columns, a value per image


def measures(drawn: Forecast) -> dict[str, Tensor]:
    """Everything that is measured of any system."""
    parts = (accuracy, correctness, scores, spreads, reliability)
    return {name: value for part in parts for name, value in part(drawn).items()}


def accuracy(drawn: Forecast) -> dict[str, Tensor]:
    """Errors of the mode, of the best of the first n and of all, of single ones, of their middle.

    The best and the worst are chosen for each error by itself. `sample` is the mean error over
    hypotheses (the official code calls it mean), `mean` the error of the mean pose, `median` that
    of the hypothesis nearest to all others (`metrics.medoid`).
    """
    middle = metrics.medoid(drawn.samples)[:, None]
    mean = metrics.mean_pose(drawn.samples)
    result = {}
    for name, error in drawn.errors.items():
        one = metrics.mpjpe if name == "mpjpe" else metrics.pa_mpjpe
        result[f"{name}_mode"] = 1e3 * one(drawn.mode, drawn.target)
        for n in (n for n in FIRST if n <= error.shape[1]):
            result[f"{name}_best{n}"] = metrics.best_of_first(error, n)
        result[f"{name}_best"] = error.amin(-1)
        result[f"{name}_sample"] = error.mean(-1)
        result[f"{name}_mean"] = 1e3 * one(mean, drawn.target)
        result[f"{name}_median"] = error.gather(1, middle)[:, 0]
        result[f"{name}_worst"] = error.amax(-1)
    return result


def correctness(drawn: Forecast) -> dict[str, Tensor]:
    """Correct joints (14, in percent) and correct poses (area in mm, at most 299).

    `cps_best` is what the official code reports, see `correct_poses_score`;
    `cps_pose` is of the one hypothesis with the lowest PA-MPJPE, `_unaligned` without Procrustes.
    """
    target = drawn.target[:, None]
    mode, samples = drawn.mode[:, None], drawn.samples
    result = {}
    for name, share in (("pck", pck14), ("auc", auc14)):
        values = 100 * share(samples, target)
        result[f"{name}_mode"] = 100 * share(mode, target)[:, 0]
        result[f"{name}_best"] = values.amax(-1)
        result[f"{name}_sample"] = values.mean(-1)
    worst = largest_error(drawn.aligned, target)
    nearest = drawn.errors["pa_mpjpe"].argmin(-1, keepdim=True)
    largest = {
        "cps_mode": largest_error(aligned(mode, target), target)[:, 0],
        "cps_best": worst.amin(-1),
        "cps_pose": worst.gather(1, nearest)[:, 0],
        "cps_best_unaligned": largest_error(samples, target).amin(-1),
    }
    return result | {n: 1e3 * correct_poses_score(e) for n, e in largest.items()}


def scores(drawn: Forecast) -> dict[str, Tensor]:
    """Energy scores: of the joints one by one, equal to MPJPE for a point, and of whole poses."""
    return {
        "energy_score": 1e3 * metrics.energy_score(drawn.samples, drawn.target),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(drawn.samples, drawn.target),
    }


def spreads(drawn: Forecast) -> dict[str, Tensor]:
    """Standard deviation along each axis, mean over 17 joints; and of each joint in space."""
    spread = 1e3 * deviation(drawn.samples)
    axes = spread.mean(1).unbind(-1)
    joints = torch.linalg.vector_norm(spread, dim=-1).unbind(-1)
    result = {f"spread_{axis}": value for axis, value in zip("xyz", axes, strict=True)}
    return result | {f"spread_{n}": v for n, v in zip(H36M17.names, joints, strict=True)}


def reliability(drawn: Forecast) -> dict[str, Tensor]:
    """Coverage of central intervals per axis, and distance ranks for `ece`.

    `cover`: share of the 16 joints besides the pelvis inside the central 50 and 90 % (ideal: .5,
    .9); NaN with fewer than 3 and 19 hypotheses. `drank`: how many hypotheses are nearer to the
    joint's median than the truth.
    """
    samples, target = drawn.samples[:, :, 1:], drawn.target[:, 1:]
    count = samples.shape[1]
    ranks = (count * metrics.distance_rank(samples, target)).round().short()
    result = {f"drank_{n}": v for n, v in zip(BODY_JOINTS, ranks.unbind(-1), strict=True)}
    for percent, needed in COVERED.items():
        share = torch.full_like(target[:, 0], torch.nan)
        if count >= needed:
            inside = metrics.inside_central_interval(samples, target, percent / 100)
            share = inside.to(target.dtype).mean(1)
        axes = zip("xyz", share.unbind(-1), strict=True)
        result |= {f"cover{percent}_{axis}": value for axis, value in axes}
    return result


def clustered(drawn: Forecast, clusters: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Errors of the best K-means centre, chosen for each error by itself (Table 5)."""
    centres = cluster_centres(drawn.samples, clusters, generator=generator)
    found = Forecast(drawn.mode, centres, drawn.target).errors
    return {f"{name}_kmeans{clusters}": error.amin(-1) for name, error in found.items()}


# ---- metrics of poses that only the lifting papers have; metres, any leading axes


def largest_error(predicted: Poses, target: Targets) -> Float[Tensor, "*batch"]:
    """Error of the worst joint, the spine aside: a pose is correct below this threshold."""
    return metrics.joint_distance(*_chosen(predicted, target, CPS_JOINTS)).amax(-1)


def correct_poses_score(largest: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Area under the share of correct poses over thresholds (CPS of Wandt et al. 2021).

    $$\int_{1\,\mathrm{mm}}^{300\,\mathrm{mm}} [e < t] \,\mathrm{d}t$$ by trapezoids of 1 mm, at
    most 0.299 m, of the `largest_error` $e$ of one pose. The mean over images is the published
    number: averaging and integrating commute.

    What the papers leave open is decided by what is passed:

    - official code: the smallest `largest_error` of the image's hypotheses after alignment.
      It counts an image as correct at $t$ if *any* hypothesis is, chosen for each $t$ anew; that
      is $\min_h e_h < t$, so it is always the same pose.
    - one pose: `largest_error` of the mode, or of the hypothesis with the lowest PA-MPJPE.
    - without alignment: of poses that are not passed through `aligned`.
    """
    limit = torch.arange(1, STEPS + 1, dtype=largest.dtype, device=largest.device) / 1000
    correct = (largest[..., None] < limit).to(largest.dtype)
    return torch.trapezoid(correct, limit)


def aligned(predicted: Poses, target: Targets) -> Float[Tensor, "*batch joints 3"]:
    """Move every pose onto the target by its best similarity, all 17 joints counting alike."""
    return similarity_align(predicted, target.expand_as(predicted))


def pck14(predicted: Poses, target: Targets) -> Float[Tensor, "*batch"]:
    """Share of the 14 joints of MPI-INF-3DHP within 150 mm; without alignment."""
    return metrics.pck(*_chosen(predicted, target, PCK_JOINTS))


def auc14(predicted: Poses, target: Targets) -> Float[Tensor, "*batch"]:
    """Mean of the share of correct joints over 31 thresholds from 0 to 150 mm, as `pck14`."""
    return metrics.auc(*_chosen(predicted, target, PCK_JOINTS))


def _chosen(predicted: Tensor, target: Tensor, joints: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Some joints of both; refuse poses of other skeletons."""
    got = predicted.shape[-2], target.shape[-2]
    if set(got) != {len(H36M17)}:
        raise ValueError(
            f"poses must have the {len(H36M17)} joints of {H36M17.name}; got {got[0]} predicted "
            f"and {got[1]} true ones. Did you forget to put the pelvis back "
            "(lifting.data.complete)?"
        )
    return predicted[..., list(joints), :], target[..., list(joints), :]


def deviation(
    hypotheses: Float[Tensor, "*batch hypotheses joints 3"],
) -> Float[Tensor, "*batch joints 3"]:
    """Standard deviation of each coordinate over the hypotheses (unbiased variance); 0 for one.

    Its mean over all 17 joints, the pelvis with its 0 included, is the spread that Wehrbein et
    al. (2021), section 4.5, report: 18.3, 17.3 and 42.4 mm along x, y and depth.
    """
    return hypotheses.std(-3, correction=min(1, hypotheses.shape[-3] - 1))


def ece(rows: pd.DataFrame) -> float:
    """Calibration error of rows from `evaluate`, all with as many hypotheses.

    Over the 16 joints besides the pelvis. 0 is best, 0.45 is a point estimate.
    """
    columns = [f"drank_{name}" for name in BODY_JOINTS]
    missing = [name for name in (*columns, "hypotheses") if name not in rows]
    if missing:
        raise ValueError(f"rows of lifting.evaluation.evaluate expected; {missing[0]} is missing")
    counts = rows["hypotheses"].unique()
    if len(counts) != 1:
        raise ValueError(
            f"one number of hypotheses expected in all rows; got {sorted(counts.tolist())}: an "
            "empty selection, or several evaluations at once"
        )
    ranks = torch.tensor(rows[columns].to_numpy(np.int64))
    return calibration_error(ranks, int(counts[0]))


def calibration_error(ranks: Int[Tensor, "images joints"], hypotheses: int) -> float:
    r"""ECE of Pierzchlewicz et al. (2022) from ranks among so many hypotheses.

    A rank is the number of hypotheses nearer to the joint's median than the truth is,
    0..hypotheses (`metrics.distance_rank` in whole numbers).
    """
    if not ranks.numel():
        raise ValueError(f"ranks must hold images and joints; got shape {tuple(ranks.shape)}")
    level = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    covered = (ranks[..., None] <= level * hypotheses + 1e-6).double().mean(0)
    return float((covered.quantile(0.5, dim=0) - level).abs().mean())


# ---- few poses for many hypotheses: the centres of their clusters (Wehrbein et al., Table 5)


def cluster_centres(
    hypotheses: Float[Tensor, "batch hypotheses joints dim"],
    clusters: int,
    *,
    generator: torch.Generator,
    restarts: int = 20,
) -> Float[Tensor, "batch clusters joints dim"]:
    """K-means of every image's hypotheses as long vectors; of several starts the tightest.

    A start takes `clusters` of the hypotheses. As in scipy, which the official code calls with 20
    starts, tight means a small mean distance of the hypotheses to their nearest centre.
    """
    total = hypotheses.shape[1]
    if not 1 <= clusters <= total:
        raise ValueError(f"clusters must lie in 1..{total}, the hypotheses; got {clusters}")
    points = hypotheses.flatten(2)
    origin = points.mean(1, keepdim=True)  # near it float32 can tell hypotheses apart
    points = points - origin
    order = torch.rand(len(points), restarts, total, generator=generator).argsort(-1)
    chosen = order[..., :clusters].to(points.device)
    tightest = []
    for one, starts in zip(points, chosen, strict=True):  # one by one, each stops by itself
        centres = lloyd(one, one[starts])
        tightest.append(centres[distortion(one, centres).argmin()])
    return (torch.stack(tightest) + origin).unflatten(-1, hypotheses.shape[2:])


def lloyd(
    points: Float[Tensor, "points dim"], centres: Float[Tensor, "starts clusters dim"]
) -> Float[Tensor, "starts clusters dim"]:
    """Move centres to the mean of the points nearest to them until nothing changes.

    A centre that no point is nearest to stays where it is; a point that is equally near to several
    centres counts for each.
    """
    before = None
    for _ in range(LLOYD_STEPS):
        scores = _scores(points, centres)
        member = scores == scores.amax(1, keepdim=True)
        if before is not None and torch.equal(member, before):
            break
        before, weights = member, member.to(points.dtype)
        count = weights.sum(-1, keepdim=True)
        centres = torch.where(count > 0, weights @ points / count.clamp_min(1), centres)
    return centres


def distortion(
    points: Float[Tensor, "points dim"], centres: Float[Tensor, "starts clusters dim"]
) -> Float[Tensor, " starts"]:
    """Mean distance of the points to their nearest centre."""
    squared = points.square().sum(-1) - 2 * _scores(points, centres).amax(1)
    return squared.clamp_min(0).sqrt().mean(-1)


def _scores(points: Tensor, centres: Tensor) -> Tensor:
    """Score every centre, highest for the nearest: (starts, clusters, points)."""
    return centres @ points.T - centres.square().sum(-1, keepdim=True) / 2


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
        noise = normal((len(mode), count, 17, 3), mode, generator)
        return mode + torch.einsum("bjkl,bnjl->bnjk", self.factor(batch), noise)

    def factor(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3 3"]:
        """Cholesky factor of every joint's covariance, zero for the pelvis."""
        sharp = SHARP_PIXELS * METRES_PER_PIXEL / (2 if self.doubled else 1)
        factor = batch.condition.new_zeros(len(batch), 17, 3, 3)
        factor[:, 1:] = torch.diag(factor.new_tensor([sharp, sharp, self.depth]))
        joints = list(H36M17.indices(CONDITION13.names))
        xx, xy, yy = target_covariance(batch.condition, doubled=self.doubled).unbind(-1)
        factor[:, joints, 0, 0] = xx.sqrt()
        factor[:, joints, 1, 0] = xy / xx.sqrt()
        factor[:, joints, 1, 1] = (yy - xy.square() / xx).clamp_min(0).sqrt()
        return factor
