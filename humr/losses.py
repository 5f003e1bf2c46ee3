r"""HuMR's training losses: pure functions of tensors, one value per batch element, no weights.

`objective` weights and sums them. Image points are in crop coordinates,
$u = 2 (p - \text{centre}) / \text{side}$, so the crop is $[-1, 1]^2$. Axes: batch, hypotheses |
samples, joints, 2.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.devices import full_precision

BANDWIDTHS = (0.05, 0.2, 0.9)  # HuMR section 4.5; in crop units
MASK_TOLERANCE = 0.71  # mask pixels; about half the diagonal of a pixel, sqrt(1/2)


def nll(log_prob: Float[Tensor, "*batch"], dim: int) -> Float[Tensor, "*batch"]:
    r"""Negative log-likelihood per dimension, $-\log p(x \mid c) / D$, in nats.

    The official code drops the constant $\frac12 \log 2\pi = 0.919$ and calls the rest `log_prob`.
    """
    return -log_prob / dim


def shape(
    predicted: Float[Tensor, "*batch betas"], target: Float[Tensor, "*batch betas"]
) -> Float[Tensor, "*batch"]:
    r"""Squared error of the body shape, $\sum_i (\beta_i - \hat\beta_i)^2$."""
    return (predicted - target).square().sum(-1)


def reprojection(
    projected: Float[Tensor, "*batch joints 2"],
    target: Float[Tensor, "*batch joints 2"],
    weight: Float[Tensor, "*batch joints"],
) -> Float[Tensor, "*batch"]:
    r"""L1 error of the mode's projection, $\sum_j w_j \|\pi(J_j(\theta^*, \beta)) - \hat p_j\|_1$.

    A sum, as in the official code, not a mean. Joints of weight 0 may hold any target, even NaN.
    """
    used = weight > 0
    error = (projected - target.where(used[..., None], projected.detach())).abs().sum(-1)
    return (weight * error.where(used, 0)).sum(-1)


@full_precision
def orthonormality(sixd: Float[Tensor, "*batch joints 6"]) -> Float[Tensor, "*batch"]:
    r"""Deviation of 6D rotations from two orthonormal rows, mean of $(A A^\top - I)^2$.

    $A$ (2x3) holds the first two rows of the rotation matrix; the mean is over joints and entries.
    """
    rows = sixd.unflatten(-1, (2, 3))
    gram = rows @ rows.transpose(-1, -2)
    identity = torch.eye(2, dtype=sixd.dtype, device=sixd.device)
    return (gram - identity).square().mean((-3, -2, -1))


def camera_scale(scale: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Keep the weak-perspective scale positive, $(e^{-10 s})^2$ (official code only)."""
    return (-20 * scale).exp()


# ------------------------------------------- heatmap loss: which joints follow what, and MMD


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the hypotheses' 2D projections are compared with, joint by joint."""

    samples: Float[Tensor, "batch samples joints 2"]  # of the heatmap, used where `uncertain`
    points: Float[Tensor, "batch joints 2"]  # true or detected keypoint, used where certain
    uncertain: Bool[Tensor, "batch joints"]  # compare with the samples
    valid: Bool[Tensor, "batch joints"]  # compare at all
    invisible: Bool[Tensor, "batch joints"]  # subject of the mask loss


def supervision_targets(
    samples: Float[Tensor, "batch samples joints 2"],
    points: Float[Tensor, "batch joints 2"],
    confidence: Float[Tensor, "batch joints"],
    articulated: Bool[Tensor, " joints"],
    *,
    certain_from: float = 0.7,
    visible_from: float = 0.5,
    floor: float = 0.0,
) -> Targets:
    """Decide which joints follow the heatmap, which a point, and which nothing (HuMR 4.2, 4.5).

    * uncertain: articulated (elbows, wrists, knees, ankles), `floor <= confidence < certain_from`
    * certain: the others, compared with the point
    * skipped: point outside the crop (or not finite), or not articulated and not visible
    * invisible (mask loss): not visible, or point outside the crop

    `points` are the ground truth, for unlabelled images the detector's keypoints; `confidence` is
    the heatmap's peak. The official code has a `floor` of 0.15: below it an articulated joint
    follows the point again.
    """
    inside = (points.abs() <= 1).all(-1)
    visible = confidence >= visible_from
    return Targets(
        samples=samples,
        points=points,
        uncertain=articulated & (confidence < certain_from) & (confidence >= floor) & inside,
        valid=inside & (articulated | visible),
        invisible=~visible | ~inside,
    )


def heatmap_mmd(
    projected: Float[Tensor, "batch hypotheses joints 2"], targets: Targets
) -> Float[Tensor, " batch"]:
    """Unbiased `mmd` between projected hypotheses and targets, mean over all joints.

    Joints that are not valid count as 0 and stay in the mean, as in the official code. Only
    uncertain joints are compared with sample sets; the others with one point.
    """
    by_joint = projected.transpose(1, 2)
    uncertain = targets.uncertain & targets.valid
    certain = targets.valid & ~uncertain
    value = projected.new_zeros(certain.shape)
    value = value.masked_scatter(certain, mmd_to_point(by_joint[certain], targets.points[certain]))
    samples = targets.samples.transpose(1, 2)[uncertain]
    return value.masked_scatter(uncertain, mmd(by_joint[uncertain], samples)).mean(-1)


def heatmap_mmd_biased(
    projected: Float[Tensor, "batch hypotheses joints 2"],
    targets: Targets,
    *,
    first_is_point: bool = True,
) -> Float[Tensor, " batch"]:
    """Biased version of `heatmap_mmd` as in the official code.

    There the first heatmap sample is always replaced by the ground truth (`first_is_point`), which
    the paper does not mention; with few samples this and the bias shrink the spread.
    """
    samples = targets.samples.where(targets.uncertain[:, None, :, None], targets.points[:, None])
    if first_is_point:
        samples = torch.cat((targets.points[:, None], samples[:, 1:]), 1)
    samples = samples.where(targets.valid[:, None, :, None], 0)
    value = mmd_biased(projected.transpose(1, 2), samples.transpose(1, 2))
    return value.where(targets.valid, 0).mean(-1)


def mmd(
    predicted: Float[Tensor, "*batch n dim"], target: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch"]:
    r"""Squared maximum mean discrepancy of two sets of samples, unbiased (HuMR equation 4).

    $$\frac{\sum_{i \ne j} k(x_i, x_j)}{n(n-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m(m-1)}
      - \frac{2}{nm} \sum_{i,j} k(x_i, y_j)$$

    Zero on average for equal distributions, hence also negative. A target of one sample stands
    for a point mass, whose self-term is the constant $k(0)$.
    """
    between = _kernel_matrix(predicted, target).mean((-2, -1))
    return _within(predicted, single=False) + _within(target, single=True) - 2 * between


def mmd_biased(
    predicted: Float[Tensor, "*batch n dim"], target: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch"]:
    r"""Squared maximum mean discrepancy, plain means over all pairs (what the official code runs).

    Never negative, but on average $\frac1n (k(0) - \mathbb{E} k(x, x'))$ too large: a penalty on
    the spread of the prediction, strong for few samples.
    """
    between = _kernel_matrix(predicted, target).mean((-2, -1))
    within_predicted = _kernel_matrix(predicted, predicted).mean((-2, -1))
    return within_predicted + _kernel_matrix(target, target).mean((-2, -1)) - 2 * between


def mmd_to_point(
    predicted: Float[Tensor, "*batch n dim"], point: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """Unbiased `mmd` to a point mass, without copies of the point."""
    to_point = kernel((predicted - point[..., None, :]).square().sum(-1)).mean(-1)
    return _within(predicted, single=False) + len(BANDWIDTHS) - 2 * to_point


def kernel(squared_distance: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Sum of inverse multiquadric kernels, $k(d) = \sum_a a^2 / (a^2 + d^2)$; $k(0) = 3$.

    The narrow kernel (0.05, 6 px of 224) sees shape, the wide one (0.9) pulls from afar.
    """
    total = torch.zeros_like(squared_distance)
    for bandwidth in BANDWIDTHS:
        total = total + bandwidth**2 / (bandwidth**2 + squared_distance)
    return total


def _kernel_matrix(
    x: Float[Tensor, "*batch n dim"], y: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch n m"]:
    return kernel((x[..., :, None, :] - y[..., None, :, :]).square().sum(-1))


def _within(x: Float[Tensor, "*batch n dim"], *, single: bool) -> Float[Tensor, "*batch"]:
    """Unbiased mean of k(x, x') over pairs of different samples."""
    count, peak = x.shape[-2], float(len(BANDWIDTHS))
    if count == 1 and single:
        return x.new_full(x.shape[:-2], peak)
    if count < 2:
        raise ValueError(f"the unbiased estimator needs two or more samples; got {count}")
    return (_kernel_matrix(x, x).sum((-2, -1)) - count * peak) / (count * (count - 1))


# ------------------------------------------------------- mask loss: invisible joints (HuMR 4.3)


def mask_loss(
    projected: Float[Tensor, "batch hypotheses joints 2"],
    mask: Bool[Tensor, "batch rows rows"],
    targets: Float[Tensor, "batch samples joints 2"],
    target_valid: Bool[Tensor, "batch samples joints"],
    invisible: Bool[Tensor, "batch joints"],
    *,
    any_joint: bool = False,
    beyond: bool = False,
    whole: bool = False,
) -> Float[Tensor, " batch"]:
    r"""Pull invisible joints that project off the person to their closest target (HuMR 4.3).

    $$\frac1S \sum_{s,j} [\text{penalised}_{sj}] \min_i \|p_{sj} - t_{ij}\|_1$$

    The minimum is over the *corresponding* joint's targets (the paper's words): its heatmap
    samples with `target_valid = inside_mask(samples, mask)`, plus the ground truth if it is
    appended. With `any_joint` it is over the targets of all joints, as the official code runs it:
    an elbow may then settle on a sample of the hip, and the loss asks for the silhouette only. A
    joint without a valid target contributes 0. Images without a mask: pass one that is True
    everywhere. `beyond`, `whole`: see `mask_penalised`.
    """
    if not targets.shape[1]:
        raise ValueError("the mask loss needs at least one target sample per joint; got none")
    penalised = mask_penalised(projected, mask, invisible, beyond=beyond, whole=whole)
    image, hypothesis, joint = penalised.nonzero(as_tuple=True)
    targets = targets.where(target_valid[..., None], 0)  # invalid ones may be NaN
    if any_joint:
        near, valid = targets.flatten(1, 2)[image], target_valid.flatten(1, 2)[image]
    else:
        near, valid = (t.transpose(1, 2)[image, joint] for t in (targets, target_valid))
    distance = (projected[image, hypothesis, joint][:, None] - near).abs().sum(-1)
    nearest = distance.masked_fill(~valid, torch.inf).amin(-1).where(valid.any(-1), 0)
    total = projected.new_zeros(len(projected)).index_add(0, image, nearest)
    return total / projected.shape[1]


def mask_penalised(
    projected: Float[Tensor, "batch hypotheses joints 2"],
    mask: Bool[Tensor, "batch rows rows"],
    invisible: Bool[Tensor, "batch joints"],
    *,
    beyond: bool = False,
    whole: bool = False,
) -> Bool[Tensor, "batch hypotheses joints"]:
    """Gate of the mask loss: invisible joints inside the crop but outside the mask.

    Joints that project outside the crop are let go (official code), since nothing is known there;
    `beyond` punishes them too. With `whole` the crop ends at its last pixel (`inside_mask`).
    """
    off = invisible[:, None] & ~inside_mask(projected, mask, whole=whole)
    place, last = projected.detach(), 1 - 2 / mask.shape[-1] if whole else 1.0
    return off if beyond else off & ((place >= -1) & (place <= last)).all(-1)


def inside_mask(
    points: Float[Tensor, "batch *points 2"],
    mask: Bool[Tensor, "batch rows rows"],
    *,
    whole: bool = False,
) -> Bool[Tensor, " batch *points"]:
    """Tell whether the centre of some mask pixel lies within 0.71 pixels of each point.

    Such a pixel can only be one of the four around the point, so four look-ups decide exactly
    what a distance to every mask pixel would. Points are in crop units, x before y. With `whole`
    pixels lie at whole numbers, half a pixel before their centres (official code).
    """
    size = mask.shape[-1]
    # in units of mask pixels, with pixel centres at integers; far and undefined points just miss
    first = 0.0 if whole else 0.5  # of the pixels
    position = ((points.detach() + 1) * (size / 2) - first).nan_to_num(-2.0).clamp(-2, size + 1)
    (x, y), (left, top) = position.unbind(-1), position.floor().unbind(-1)
    index = torch.arange(len(mask), device=mask.device).view(-1, *[1] * (points.ndim - 2))
    found = torch.zeros(points.shape[:-1], dtype=torch.bool, device=mask.device)
    for right, down in product((0, 1), repeat=2):
        u, v = left + right, top + down
        close = (x - u).square() + (y - v).square() <= MASK_TOLERANCE**2
        exists = (u >= 0) & (u < size) & (v >= 0) & (v < size)
        column, row = (place.long().clamp(0, size - 1) for place in (u, v))
        found = found | (close & exists & mask[index, row, column])
    return found


# ------------------------------------------------------------------ best of many hypotheses


def best_of(errors: Float[Tensor, "batch hypotheses"], count: int) -> Int[Tensor, "batch best"]:
    """Indices of the `count` hypotheses of least error, for the losses that move those alone."""
    if not 1 <= count <= errors.shape[1]:
        raise ValueError(
            f"best_of must lie in 1..{errors.shape[1]}, the number of hypotheses; got {count}"
        )
    return errors.topk(count, dim=1, largest=False).indices
