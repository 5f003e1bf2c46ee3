"""Few poses for many hypotheses: the centres of their clusters (Wehrbein et al. 2021, Table 5)."""

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 100  # of Lloyd's algorithm, which ends long before


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
    for _ in range(STEPS):
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
