r"""Losses of the lifting flow (Wehrbein et al. 2021, section 3): pure functions, no weights.

One value per batch element, but for `mmd_term`, which compares batches. Where the paper has L1
norms these are means over elements, as in the official code; the paper's weights belong to means.
The maximum mean discrepancy itself is that of `losses`, same kernels: $\sum_b b / (b + d^2)$ with
$b$ in 0.0025, 0.04, 0.81.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from humr import losses
from humr.devices import constant
from humr.lifting_data import CERTAIN, SIGMA_UNIT, complete
from humr.metrics import centre, mpjpe
from humr.skeletons import CONDITION13, POSE16, index_map

ESTIMATORS = {"unbiased": losses.mmd, "biased": losses.mmd_biased}
CONDITION_FROM_POSE = index_map(POSE16, CONDITION13)
METRES_PER_PIXEL = 0.01  # of the detector's heatmap (section 4.2)


def mean_l1(
    predicted: Float[Tensor, " batch *axes"], target: Float[Tensor, " batch *axes"]
) -> Float[Tensor, " batch"]:
    r"""Mean absolute difference: $L_{2D}$ of 2D poses (eq. 5), $L_{det}$ of 3D poses (eq. 7)."""
    return (predicted - target).abs().flatten(1).mean(-1)


def mmd_term(
    z: Float[Tensor, "batch latent"],
    points: Float[Tensor, "batch joints 2"],
    noise: Float[Tensor, "batch latent"],
    target: Float[Tensor, "batch joints 2"],
    *,
    estimator: str = "unbiased",
) -> Float[Tensor, ""]:
    r"""Discrepancy of $[\hat z, \hat y]$ and $[z, y]$, $z \sim \mathcal N(0, I)$ (eq. 6).

    It asks for latents that are normal and independent of the 2D pose. No gradient flows to
    $\hat y$. "unbiased" is the paper's U-statistic: it leaves out pairs of a sample with itself,
    is 0 on average for equal distributions and needs a batch of two; "biased", the official
    code's, takes the mean over all pairs. In training, both sets hold the 2D poses of one batch
    (official code), so that the first is a little below 0 even for the perfect flow.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {sorted(ESTIMATORS)}; got {estimator!r}")
    found = torch.cat([z, points.detach().flatten(1)], -1)
    wanted = torch.cat([noise, target.flatten(1)], -1)
    return ESTIMATORS[estimator](found, wanted)


def target_covariance(
    condition: Float[Tensor, "*batch 13 6"], *, doubled: bool = True
) -> Float[Tensor, "*batch 13 3"]:
    r"""Covariance (xx, xy, yy) in square metres that a condition asks for; y up, like poses.

    The paper counts a pixel of the heatmap as 10 mm. The condition holds covariances in units of
    (20 px)^2, so that 1 means (0.2 m)^2 = 0.04. The official code counts 5 mm, so that 1 means
    0.01, but its conditions hold `doubled` axes: those wider than 2.1 px get the paper's 10 mm,
    sharper ones 5.
    """
    metres = METRES_PER_PIXEL / 2 if doubled else METRES_PER_PIXEL
    return (metres * SIGMA_UNIT) ** 2 * condition[..., 3:]


def heatmap_covariance(
    hypotheses: Float[Tensor, "batch hypotheses 16 3"],
    condition: Float[Tensor, "batch 13 6"],
    *,
    doubled: bool = True,
) -> Float[Tensor, " batch"]:
    r"""$L_{HM}$: uncertain joints must spread at least as far as their heatmaps (eq. 3, 4).

    $$\frac{1}{13} \sum_j m_j \sqrt{\max(0, \Sigma_{xx} - \hat\Sigma_{xx})^2
      + \max(0, \Sigma_{yy} - \hat\Sigma_{yy})^2 + (\Sigma_{xy} - \hat\Sigma_{xy})^2}$$

    $\hat\Sigma$ is the unbiased covariance over hypotheses of x and y, relative to the middle of
    the hips; $\Sigma$ is `target_covariance`. A joint counts ($m_j = 1$) if $\Sigma_{xx}$ or
    $\Sigma_{yy}$ belongs to more than 2.1 px *in the condition's own scale*, whichever `doubled`
    says: 2.1 px of 5 or of 10 mm. Axes that are doubled then have over 4.2, so that both rules
    choose the same joints, except for oblique Gaussians whose longer axis alone is wide: doubling
    lifts their projections above the threshold a little earlier.
    """
    if hypotheses.shape[1] < 2:
        raise ValueError(
            f"a covariance needs two or more hypotheses; got {hypotheses.shape[1]} "
            "(raise hypotheses, or set the weight of the heatmap term to 0)"
        )
    found = covariance(hypotheses)
    target = target_covariance(condition, doubled=doubled)
    least = (CERTAIN / SIGMA_UNIT) ** 2
    uncertain = (condition[..., 3] > least) | (condition[..., 5] > least)
    missing = target - found
    missing = torch.stack(
        [missing[..., 0].relu(), missing[..., 1], missing[..., 2].relu()], -1
    ).square()
    return ((missing.sum(-1) + 1e-30).sqrt() * uncertain).mean(-1)  # 1e-30: gradient at 0


def covariance(
    hypotheses: Float[Tensor, "batch hypotheses 16 3"],
) -> Float[Tensor, "batch 13 3"]:
    """Covariance (xx, xy, yy) over hypotheses of the condition's joints, relative to the hips."""
    points = centre(hypotheses[..., :2], POSE16.indices(["right_hip", "left_hip"]))
    points = points[..., constant(CONDITION_FROM_POSE, points.device), :]
    x, y = (points - points.mean(1, keepdim=True)).unbind(-1)
    products = torch.stack([x * x, x * y, y * y], -1)
    return products.sum(1) / (points.shape[1] - 1)


def best_hypotheses(
    hypotheses: Float[Tensor, "batch hypotheses 16 3"],
    pose: Float[Tensor, "batch 16 3"],
    *,
    best_of: int = 5,
) -> Float[Tensor, " batch"]:
    r"""$L_{MB}$: L1 distance of the label to the mean of the `best_of` best hypotheses (eq. 8).

    Best by mean joint error of 17 joints, pelvis inserted between the hips and put at the origin.
    With 1 this is the best-of-M loss.
    """
    if not 1 <= best_of <= hypotheses.shape[1]:
        count = hypotheses.shape[1]
        raise ValueError(
            f"best_of must lie in 1..{count}, the number of hypotheses; got {best_of}"
        )
    hypotheses, target = complete(hypotheses), complete(pose)
    error = mpjpe(hypotheses.detach(), target[:, None])
    chosen = error.topk(best_of, dim=1, largest=False).indices
    best = hypotheses.take_along_dim(chosen[..., None, None], 1)
    return mean_l1(best.mean(1), target)


# ------------------------------------------------------------------------- critic

Scores = Callable[[Float[Tensor, "batch 16 3"]], Float[Tensor, " batch"]]


def critic_gap(
    critic: Scores, real: Float[Tensor, "batch 16 3"], fake: Float[Tensor, "batch 16 3"]
) -> Float[Tensor, " batch"]:
    """What the critic minimises: scores of hypotheses minus scores of labels (WGAN)."""
    return critic(fake) - critic(real)


def generator_score(critic: Scores, fake: Float[Tensor, "batch 16 3"]) -> Float[Tensor, " batch"]:
    """$L_{gen}$: what the flow minimises, the negated score of its hypotheses."""
    return -critic(fake)


def gradient_penalty(
    critic: Scores,
    real: Float[Tensor, "batch 16 3"],
    fake: Float[Tensor, "batch 16 3"],
    share: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    r"""$(\|\nabla D(\tilde x)\| - 1)^2$ at $\tilde x = u\,x + (1 - u)\,\hat x$ (Gulrajani 2017).

    The norm is that of all 48 numbers; `share` holds $u$, uniform in 0 to 1. Nothing flows back
    to the poses.
    """
    mixed = torch.lerp(fake.detach(), real.detach(), share[:, None, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=-1) - 1).square()
