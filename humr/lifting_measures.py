"""What is measured of an image's poses: every function returns columns, a value per image.

Hypotheses are random; the mode is none of them. Joints are those of H36M17 with the pelvis at the
origin. Lengths are in millimetres, shares of joints in percent, coverage in 0..1.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from humr import calibration, metrics, selection
from humr import lifting_metrics as lifting
from humr.skeletons import H36M17

FIRST = (1, 5, 10, 50, 200, 1000)  # hypotheses of which the papers report the best
COVERED = {50: 3, 90: 19}  # central intervals in percent, and the hypotheses that they need


@dataclass(frozen=True)
class Forecast:
    """A batch's hypotheses and labels, H36M17, metres, pelvis at the origin."""

    mode: Float[Tensor, "batch 17 3"]
    samples: Float[Tensor, "batch hypotheses 17 3"]
    target: Float[Tensor, "batch 17 3"]

    @cached_property
    def aligned(self) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Hypotheses after Procrustes."""
        return lifting.aligned(self.samples, self.target[:, None])

    @cached_property
    def errors(self) -> dict[str, Float[Tensor, "batch hypotheses"]]:
        """Both errors of every hypothesis, mm."""
        target = self.target[:, None]
        return {
            "mpjpe": 1e3 * metrics.mpjpe(self.samples, target),
            "pa_mpjpe": 1e3 * metrics.mpjpe(self.aligned, target),
        }


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

    `cps_best` is what the official code reports, see `lifting_metrics.correct_poses_score`;
    `cps_pose` is of the one hypothesis with the lowest PA-MPJPE, `_unaligned` without Procrustes.
    """
    target = drawn.target[:, None]
    mode, samples = drawn.mode[:, None], drawn.samples
    result = {}
    for name, share in (("pck", lifting.pck14), ("auc", lifting.auc14)):
        values = 100 * share(samples, target)
        result[f"{name}_mode"] = 100 * share(mode, target)[:, 0]
        result[f"{name}_best"] = values.amax(-1)
        result[f"{name}_sample"] = values.mean(-1)
    worst = lifting.largest_error(drawn.aligned, target)
    nearest = drawn.errors["pa_mpjpe"].argmin(-1, keepdim=True)
    largest = {
        "cps_mode": lifting.largest_error(lifting.aligned(mode, target), target)[:, 0],
        "cps_best": worst.amin(-1),
        "cps_pose": worst.gather(1, nearest)[:, 0],
        "cps_best_unaligned": lifting.largest_error(samples, target).amin(-1),
    }
    return result | {n: 1e3 * lifting.correct_poses_score(e) for n, e in largest.items()}


def scores(drawn: Forecast) -> dict[str, Tensor]:
    """Energy scores: of the joints one by one, equal to MPJPE for a point, and of whole poses."""
    return {
        "energy_score": 1e3 * metrics.energy_score(drawn.samples, drawn.target),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(drawn.samples, drawn.target),
    }


def spreads(drawn: Forecast) -> dict[str, Tensor]:
    """Standard deviation along each axis, mean over 17 joints; and of each joint in space."""
    deviation = 1e3 * lifting.deviation(drawn.samples)
    axes = deviation.mean(1).unbind(-1)
    joints = torch.linalg.vector_norm(deviation, dim=-1).unbind(-1)
    result = {f"spread_{axis}": value for axis, value in zip("xyz", axes, strict=True)}
    return result | {f"spread_{n}": v for n, v in zip(H36M17.names, joints, strict=True)}


def reliability(drawn: Forecast) -> dict[str, Tensor]:
    """Coverage of central intervals per axis, and distance ranks for `lifting_metrics.ece`.

    `cover`: share of the 16 joints besides the pelvis inside the central 50 and 90 % (ideal: .5,
    .9); NaN with fewer than 3 and 19 hypotheses. `drank`: how many hypotheses are nearer to the
    joint's median than the truth.
    """
    samples, target = drawn.samples[:, :, 1:], drawn.target[:, 1:]
    count = samples.shape[1]
    ranks = (count * calibration.distance_rank(samples, target)).round().short()
    result = {f"drank_{n}": v for n, v in zip(lifting.BODY_JOINTS, ranks.unbind(-1), strict=True)}
    for percent, needed in COVERED.items():
        share = torch.full_like(target[:, 0], torch.nan)
        if count >= needed:
            inside = calibration.inside_central_interval(samples, target, percent / 100)
            share = inside.to(target.dtype).mean(1)
        axes = zip("xyz", share.unbind(-1), strict=True)
        result |= {f"cover{percent}_{axis}": value for axis, value in axes}
    return result


def clustered(drawn: Forecast, clusters: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Errors of the best K-means centre, chosen for each error by itself (Table 5)."""
    centres = selection.cluster_centres(drawn.samples, clusters, generator=generator)
    found = Forecast(drawn.mode, centres, drawn.target).errors
    return {f"{name}_kmeans{clusters}": error.amin(-1) for name, error in found.items()}
