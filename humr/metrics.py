r"""Metrics of poses and of sets of hypotheses: one value per image, in the unit of the input.

Averages over images, millimetres and tables are `evaluation`'s business. Every function takes any
leading batch axes; compare hypotheses with a target as `mpjpe(hypotheses, target[:, None])`.
An image that has nothing to measure (no visible joint, no mask) gets NaN.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom
from torch import Tensor

from humr.devices import constant
from humr.geometry import similarity_align
from humr.losses import inside_mask

PAIRS = 2**20  # distances that are held at a time
FloatArray = Float[np.ndarray, " points"]

# ------------------------------------------------------------------------- poses


def centre(
    points: Float[Tensor, "*batch points dim"], roots: Sequence[int]
) -> Float[Tensor, "*batch points dim"]:
    """Move the mean of the `roots` (the pelvis, or both hips) to the origin."""
    index = constant(tuple(roots), points.device)
    return points - points[..., index, :].mean(-2, keepdim=True)


def joint_distance(
    predicted: Float[Tensor, "*batch joints dim"], target: Float[Tensor, "*#batch joints dim"]
) -> Float[Tensor, "*batch joints"]:
    """Euclidean distance of every joint or vertex."""
    return torch.linalg.vector_norm(predicted - target, dim=-1)


def mpjpe(
    predicted: Float[Tensor, "*batch joints dim"], target: Float[Tensor, "*#batch joints dim"]
) -> Float[Tensor, "*batch"]:
    """Mean per-joint position error; no alignment (see `centre`)."""
    return joint_distance(predicted, target).mean(-1)


def pa_mpjpe(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """`mpjpe` after the best similarity (scale, rotation without reflection, translation)."""
    target = target.expand_as(predicted)
    return mpjpe(similarity_align(predicted, target), target)


def pve(
    predicted: Float[Tensor, "*batch vertices 3"], target: Float[Tensor, "*#batch vertices 3"]
) -> Float[Tensor, "*batch"]:
    """Mean per-vertex error: every vertex counts the same, so that dense hands weigh most."""
    return joint_distance(predicted, target).mean(-1)


def pck(
    predicted: Float[Tensor, "*batch joints dim"],
    target: Float[Tensor, "*#batch joints dim"],
    threshold: float = 0.15,
) -> Float[Tensor, "*batch"]:
    """Share of joints at most `threshold` (150 mm in 3DHP) from the target, in 0..1."""
    distance = joint_distance(predicted, target)
    return (distance <= threshold).to(distance.dtype).mean(-1)


def auc(
    predicted: Float[Tensor, "*batch joints dim"],
    target: Float[Tensor, "*#batch joints dim"],
    limit: float = 0.15,
) -> Float[Tensor, "*batch"]:
    """Mean `pck` over the 31 thresholds 0, limit/30, ..., limit (3DHP: 0 to 150 mm)."""
    distance = joint_distance(predicted, target)
    thresholds = torch.linspace(0, limit, 31, dtype=distance.dtype, device=distance.device)
    return (distance[..., None] <= thresholds).to(distance.dtype).mean((-2, -1))


# -------------------------------------------------------- selecting among hypotheses


def best_of_first(error: Float[Tensor, "*batch hypotheses"], n: int) -> Float[Tensor, "*batch"]:
    """Smallest error among the first `n` hypotheses, as in the papers (HuMR: the mode is first).

    Taken for every metric by itself, so "best MPJPE" and "best PVE" may be different bodies.
    """
    _check_count(n, error.shape[-1])
    return error[..., :n].amin(-1)


def expected_best_of(error: Float[Tensor, "*batch hypotheses"], n: int) -> Float[Tensor, "*batch"]:
    r"""Expected smallest error among `n` hypotheses drawn without replacement.

    With errors sorted as $e_1 \le \dots \le e_H$, $e_i$ is the minimum of a random subset of size
    $n$ with probability $\binom{H - i}{n - 1} / \binom{H}{n}$. Unlike "the first n" this uses
    every hypothesis and does not depend on their order.
    """
    total = error.shape[-1]
    _check_count(n, total)
    order = torch.arange(total - 1, dtype=torch.float64)  # each weight from the one before
    ratios = ((total - n - order) / (total - 1 - order)).clamp_min(0)
    weights = torch.cat([ratios.new_tensor([n / total]), ratios]).cumprod(0)
    return error.sort(-1).values @ weights.to(error)


def mean_pose(
    hypotheses: Float[Tensor, "*batch hypotheses joints dim"],
) -> Float[Tensor, "*batch joints dim"]:
    """Mean of the hypotheses' points; minimises squared error, may have shortened limbs."""
    return hypotheses.mean(-3)


def medoid(hypotheses: Float[Tensor, "*batch hypotheses joints dim"]) -> Int[Tensor, "*batch"]:
    r"""Index of the hypothesis nearest to all others, $\arg\min_i \sum_k d(x_i, x_k)$.

    $d$ is the mean joint distance. Tables call it the median, which it is in one dimension.
    """
    return _distance_sums(hypotheses).sum(-1).argmin(-1)


# --------------------------------------------------------- distributions of poses


def spread(
    hypotheses: Float[Tensor, "*batch hypotheses joints dim"],
) -> Float[Tensor, "*batch joints"]:
    """Mean distance of each joint to its mean over the hypotheses (HuMR's 3DKP spread)."""
    return joint_distance(hypotheses, hypotheses.mean(-3, keepdim=True)).mean(-2)


def energy_score(
    hypotheses: Float[Tensor, "*batch hypotheses joints dim"],
    target: Float[Tensor, "*batch joints dim"],
) -> Float[Tensor, "*batch"]:
    r"""Energy score with the mean joint distance $d$: proper, and equal to MPJPE for a point.

    $$\frac1H \sum_i d(x_i, y) - \frac{1}{2 H (H-1)} \sum_{i \ne j} d(x_i, x_j)$$

    Smallest on average for the true posterior (of each joint: the dependence between joints is
    not seen, see `joint_energy_score`). Unbiased in the number of hypotheses. One hypothesis, or
    equal ones, give the `mpjpe`.
    """
    return energy_score_by_joint(hypotheses, target).mean(-1)


def energy_score_by_joint(
    hypotheses: Float[Tensor, "*batch hypotheses joints dim"],
    target: Float[Tensor, "*batch joints dim"],
) -> Float[Tensor, "*batch joints"]:
    """Energy score of every joint by itself: `energy_score` is their mean."""
    count = hypotheses.shape[-3]
    error = joint_distance(hypotheses, target[..., None, :, :]).mean(-2)
    if count == 1:
        return error
    return error - _distance_sums(hypotheses).sum(-2) / (2 * count * (count - 1))


def joint_energy_score(
    hypotheses: Float[Tensor, "*batch hypotheses joints dim"],
    target: Float[Tensor, "*batch joints dim"],
) -> Float[Tensor, "*batch"]:
    """Energy score with the norm of the whole pose: sees the dependence between joints."""
    return energy_score(hypotheses.flatten(-2)[..., None, :], target.flatten(-2)[..., None, :])


# ----------------------------------------------------------- agreement with the image


def masked_mean(
    values: Float[Tensor, "*batch joints"], used: Bool[Tensor, "*#batch joints"]
) -> Float[Tensor, "*batch"]:
    """Mean over the used joints; NaN where there is none (take `nanmean` over images)."""
    used = used.expand_as(values)
    return values.where(used, 0).sum(-1) / used.sum(-1)


def mask_distance(
    points: Float[Tensor, "batch *points 2"], mask: Bool[Tensor, "batch rows rows"]
) -> Float[Tensor, " batch *points"]:
    """Exact distance in mask pixels from points (crop units) to the nearest mask pixel's centre.

    Distances up to 0.71 count as 0 (on the mask). Points outside the crop have their full
    distance. NaN for images with an empty mask. Only missed points are compared, and only with
    edge pixels: an inner pixel always has a neighbour that is nearer.
    """
    missed = ~inside_mask(points, mask)
    result = torch.zeros_like(points[..., 0])
    inner = torch.nn.functional.avg_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0] > 0.99
    edge = mask & ~inner
    scaled = (points + 1) * (mask.shape[-1] / 2)
    for image in range(len(mask)):
        row, column = edge[image].nonzero(as_tuple=True)
        pixels = torch.stack((column, row), -1).to(points.dtype) + 0.5
        result[image, missed[image]] = _nearest(scaled[image][missed[image]], pixels)
    return result


def _nearest(points: Tensor, pixels: Tensor) -> Tensor:
    """Distance of every point to the nearest pixel, NaN if there is none; in bounded memory."""
    if not len(pixels):
        return points.new_full((len(points),), torch.nan)
    rows, nearest = max(1, PAIRS // len(pixels)), torch.empty_like(points[:, 0])
    for start in range(0, len(points), rows):
        here = slice(start, start + rows)
        nearest[here] = _distances(points[here], pixels).amin(-1)
    return nearest


def percent_inside(
    distance: Float[Tensor, "*batch hypotheses joints"], invisible: Bool[Tensor, "*batch joints"]
) -> Float[Tensor, "*batch"]:
    """Percentage of (hypothesis, invisible joint) pairs on the mask: PercIn of `mask_distance`."""
    on_mask = (distance == 0).to(distance.dtype).where(~distance.isnan(), torch.nan)
    return 100 * masked_mean(on_mask.mean(-2), invisible)


def minimum_distance(
    distance: Float[Tensor, "*batch hypotheses joints"], invisible: Bool[Tensor, "*batch joints"]
) -> Float[Tensor, "*batch"]:
    """Mean of `mask_distance` over hypotheses and invisible joints: MinDist, in mask pixels."""
    return masked_mean(distance.mean(-2), invisible)


def _distance_sums(points: Tensor) -> Tensor:
    """Sum of every hypothesis's distances to all others, joint by joint: (*batch, n, joints).

    A bounded number of distances is held at a time, whatever the number of hypotheses.
    """
    by_joint = points.transpose(-3, -2).contiguous()
    rows = max(1, PAIRS // max(by_joint[..., 0].numel(), 1))
    sums = torch.empty_like(by_joint[..., 0])  # at once: pieces in between fragment the memory
    for start in range(0, sums.shape[-1], rows):
        here = slice(start, start + rows)
        sums[..., here] = _distances(by_joint[..., here, :], by_joint).sum(-1)
    return sums.mT


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """All pairs, by differences: the matrix form that torch prefers is inexact for near points."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _check_count(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise ValueError(f"n must lie in 1..{total}, the number of hypotheses; got {n}")


# --------------------------------- calibration: does the truth look like one of the samples?
#
# If the truth $\theta^*$ and the samples come from the same posterior, every rank statistic is
# uniform (Talts et al. 2018) and every credible region holds the truth as often as it says.
# Images are the first axis, samples the second.


def rank(
    samples: Float[Tensor, "images samples *values"], truth: Float[Tensor, " images *values"]
) -> Int[Tensor, " images *values"]:
    """Count the samples below the truth, 0..n: uniform for a calibrated posterior (SBC)."""
    return (samples < truth[:, None]).sum(1)


def pit(
    samples: Float[Tensor, "images samples *values"], truth: Float[Tensor, " images *values"]
) -> Float[Tensor, " images *values"]:
    """Probability integral transform from `rank`, at the middle of its step: in (0, 1)."""
    return (rank(samples, truth) + 0.5).to(truth.dtype) / (samples.shape[1] + 1)


def latent_pit(z: Float[Tensor, "images dim"]) -> Float[Tensor, " images"]:
    r"""Transform of $\|z\|^2 \sim \chi^2_D$ for the truth's noise $z$ under a flow.

    Uniform if the flow is calibrated; near 1 if the truth lies in its tails (overconfident).
    """
    half = 0.5 * z.square().sum(-1)
    return torch.special.gammainc(torch.full_like(half, z.shape[-1] / 2), half)


def quantile(
    samples: Float[Tensor, "images samples *values"], level: float
) -> Float[Tensor, " images *values"]:
    """Quantile at position `level * (n + 1)` of the sorted samples ("Weibull").

    Unlike the usual one, a new draw lies below it with probability `level` also for few samples.
    """
    position = min(max(level * (samples.shape[1] + 1) - 1, 0.0), samples.shape[1] - 1.0)
    ordered = samples.sort(1).values
    below = int(position)
    above = min(below + 1, samples.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], position - below)


def inside_central_interval(
    samples: Float[Tensor, "images samples *values"],
    truth: Float[Tensor, " images *values"],
    level: float,
) -> Bool[Tensor, " images *values"]:
    """Tell for each value whether the truth lies in the central interval of probability `level`.

    The mean over images is the coverage. Needs `2 / (1 - level) - 1` samples or more: the interval
    cannot reach beyond the extreme samples.
    """
    _check_level(level)
    needed = 2 / (1 - level) - 1
    if samples.shape[1] < needed - 1e-9:
        raise ValueError(
            f"a {level:.0%} interval needs at least {needed:.0f} samples; got {samples.shape[1]}"
        )
    low, high = quantile(samples, (1 - level) / 2), quantile(samples, (1 + level) / 2)
    return (low <= truth) & (truth <= high)


def density_rank(
    log_prob_samples: Float[Tensor, "images samples"], log_prob_truth: Float[Tensor, " images"]
) -> Float[Tensor, " images"]:
    """Smallest highest-density region that holds the truth, as a probability.

    The share of samples that are more probable than the truth; uniform for a calibrated
    posterior, and `coverage` of it is the coverage of highest-density regions (Hermans 2022).
    """
    return (log_prob_samples > log_prob_truth[:, None]).to(log_prob_truth.dtype).mean(1)


def coverage(
    smallest_region: Float[Tensor, " images *values"], levels: Sequence[float]
) -> Float[Tensor, " levels *values"]:
    """Share of images whose truth lies inside the region, per level."""
    return torch.stack([(smallest_region <= q).to(torch.float64).mean(0) for q in levels])


def distance_rank(
    samples: Float[Tensor, "images samples joints dim"],
    truth: Float[Tensor, "images joints dim"],
) -> Float[Tensor, "images joints"]:
    """Share of samples that lie nearer to the median pose than the truth does, per joint."""
    median = quantile(samples, 0.5)
    of_samples = joint_distance(samples, median[:, None])
    of_truth = joint_distance(truth, median)
    return (of_samples < of_truth[:, None]).to(truth.dtype).mean(1)


def expected_calibration_error(
    samples: Float[Tensor, "images samples joints dim"],
    truth: Float[Tensor, "images joints dim"],
) -> Float[Tensor, ""]:
    r"""ECE of Pierzchlewicz et al. (2022), one number per test set.

    Around each joint's median, the ball that holds a share $q$ of the samples should hold the
    truth in a share $q$ of the images: mean over $q = 0, 0.05, \dots, 1$ of
    $|\mathrm{median}_j(\text{coverage}_j(q)) - q|$. 0 is best; 0.25 or more is a point estimate.
    """
    levels = np.linspace(0, 1, 21)
    covered = coverage(distance_rank(samples, truth), levels.tolist())
    return (covered.quantile(0.5, dim=1) - covered.new_tensor(levels)).abs().mean()


def ecdf_band(
    count: int,
    points: FloatArray,
    *,
    level: float = 0.95,
    simulations: int = 2000,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Simultaneous band for the empirical distribution of `count` uniform values.

    With probability `level` the whole curve, seen at `points`, stays inside (Säilynoja et al.
    2022): pointwise binomial bands, widened until simulated curves leave them rarely enough.
    """
    _check_level(level)
    uniform = rng.random((simulations, count))
    below = np.stack([(uniform <= point).sum(1) for point in points], 1)
    tail = np.minimum(
        binom.cdf(below, count, points), 1 - binom.cdf(below - 1, count, points)
    )  # of each simulated curve at each point
    gamma = np.quantile(2 * tail.min(1), 1 - level)
    lower = binom.ppf(gamma / 2, count, points) / count
    return lower, binom.ppf(1 - gamma / 2, count, points) / count


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), a probability such as 0.9; got {level}")
