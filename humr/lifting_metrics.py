r"""Metrics of 17-joint poses (H36M, the pelvis at the origin) and of sets of them; metres.

What the two lifting papers measure beyond `metrics`: correct poses, correct joints, spread along
the axes, and the calibration error from stored ranks. As there, every function takes any leading
batch axes and returns one value per pose or image in the unit of its input.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from humr import metrics
from humr.rotations import similarity_align
from humr.skeletons import H36M17

# Official code of Wehrbein et al. (2021): all joints but the spine, and the 14 of MPI-INF-3DHP.
CPS_JOINTS = H36M17.indices([name for name in H36M17.names if name != "spine"])
PCK_JOINTS = H36M17.indices([n for n in H36M17.names if n not in ("pelvis", "spine", "nose")])
BODY_JOINTS = H36M17.names[1:]  # whatever can be wrong: the pelvis is at the origin by definition
STEPS = 300  # thresholds of the correct poses score: 1, 2, ..., 300 mm
LEVELS = 21  # of the calibration error: 0, 0.05, ..., 1


# ------------------------------------------------------------------------- poses


def largest_error(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch"]:
    """Error of the worst joint, the spine aside: a pose is correct below this threshold."""
    return _distance(predicted, target, CPS_JOINTS).amax(-1)


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


def aligned(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch joints 3"]
) -> Float[Tensor, "*batch joints 3"]:
    """Move every pose onto the target by its best similarity, all 17 joints counting alike."""
    return similarity_align(predicted, target.expand_as(predicted))


def pck14(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch"]:
    """Share of the 14 joints of MPI-INF-3DHP within 150 mm; without alignment."""
    _check(predicted, target)
    joints = list(PCK_JOINTS)
    return metrics.pck(predicted[..., joints, :], target[..., joints, :])


def auc14(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch"]:
    """Mean of the share of correct joints over 31 thresholds from 0 to 150 mm, as `pck14`."""
    _check(predicted, target)
    joints = list(PCK_JOINTS)
    return metrics.auc(predicted[..., joints, :], target[..., joints, :])


# ----------------------------------------------------------------- sets of hypotheses


def deviation(
    hypotheses: Float[Tensor, "*batch hypotheses joints 3"],
) -> Float[Tensor, "*batch joints 3"]:
    """Standard deviation of each coordinate over the hypotheses (unbiased variance); 0 for one.

    Its mean over all 17 joints, the pelvis with its 0 included, is the spread that Wehrbein et
    al. (2021), section 4.5, report: 18.3, 17.3 and 42.4 mm along x, y and depth.
    """
    return hypotheses.std(-3, correction=min(1, hypotheses.shape[-3] - 1))


def calibration_error(ranks: Int[Tensor, "images joints"], hypotheses: int) -> float:
    r"""ECE of Pierzchlewicz et al. (2022) from ranks: `calibration.expected_calibration_error`.

    Args:
        ranks: number of hypotheses nearer to each joint's median than the truth is, 0..hypotheses
            (`calibration.distance_rank` in whole numbers).
        hypotheses: how many there were.
    """
    if not ranks.numel():
        raise ValueError(f"ranks must hold images and joints; got shape {tuple(ranks.shape)}")
    level = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    covered = (ranks[..., None] <= level * hypotheses + 1e-6).double().mean(0)
    return float((covered.quantile(0.5, dim=0) - level).abs().mean())


def ece(rows: pd.DataFrame) -> float:
    """Calibration error of rows from `lifting_evaluation.evaluate`, all with as many hypotheses.

    Over the 16 joints besides the pelvis. 0 is best, 0.45 is a point estimate.
    """
    columns = [f"drank_{name}" for name in BODY_JOINTS]
    missing = [name for name in (*columns, "hypotheses") if name not in rows]
    if missing:
        raise ValueError(f"rows of lifting_evaluation.evaluate expected; {missing[0]} is missing")
    counts = rows["hypotheses"].unique()
    if len(counts) != 1:
        raise ValueError(
            f"one number of hypotheses expected in all rows; got {sorted(counts.tolist())}: an "
            "empty selection, or several evaluations at once"
        )
    ranks = torch.tensor(rows[columns].to_numpy(np.int64))
    return calibration_error(ranks, int(counts[0]))


# ------------------------------------------------------------------------- helpers


def _distance(predicted: Tensor, target: Tensor, joints: tuple[int, ...]) -> Tensor:
    _check(predicted, target)
    chosen = list(joints)
    return metrics.joint_distance(predicted[..., chosen, :], target[..., chosen, :])


def _check(predicted: Tensor, target: Tensor) -> None:
    got = predicted.shape[-2], target.shape[-2]
    if set(got) != {len(H36M17)}:
        raise ValueError(
            f"poses must have the {len(H36M17)} joints of {H36M17.name}; got {got[0]} predicted "
            f"and {got[1]} true ones. Did you forget to put the pelvis back "
            "(lifting_data.complete)?"
        )
