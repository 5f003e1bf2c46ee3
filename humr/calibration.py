r"""Calibration: does the truth look like one of the samples?

If the truth $\theta^*$ and the samples come from the same posterior, every rank statistic is
uniform (Talts et al. 2018) and every credible region holds the truth as often as it says. These
functions give the statistics; images are the first axis, samples the second.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom
from torch import Tensor

from humr.metrics import joint_distance

FloatArray = Float[np.ndarray, " points"]


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
