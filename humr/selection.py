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
    chosen = order[..., :clusters].flatten(1).to(points.device)
    starts = points.take_along_dim(chosen[..., None], 1)
    centres = lloyd(points, starts.unflatten(1, (restarts, clusters)))
    best = distortion(points, centres).argmin(1)
    tightest = centres[torch.arange(len(points), device=best.device), best]
    return (tightest + origin).unflatten(-1, hypotheses.shape[2:])


def lloyd(
    points: Float[Tensor, "batch points dim"],
    centres: Float[Tensor, "batch starts clusters dim"],
) -> Float[Tensor, "batch starts clusters dim"]:
    """Move centres to the mean of the points nearest to them until nothing changes.

    All images and starts at once. A centre that no point is nearest to stays where it is.
    """
    nearest = None
    for _ in range(STEPS):
        now = _nearest(points, centres)
        if nearest is not None and torch.equal(now, nearest):
            break
        nearest = now
        centres = _means(points, centres, nearest)
    return centres


def distortion(
    points: Float[Tensor, "batch points dim"],
    centres: Float[Tensor, "batch starts clusters dim"],
) -> Float[Tensor, "batch starts"]:
    """Mean distance of the points to their nearest centre."""
    chosen = centres.take_along_dim(_nearest(points, centres)[..., None], 2)
    return torch.linalg.vector_norm(points[:, None] - chosen, dim=-1).mean(-1)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre nearest to every point: (batch, starts, points)."""
    products = points @ centres.flatten(1, 2).mT  # batch, points, starts * clusters
    half = centres.square().sum(-1) / 2
    scores = products.unflatten(-1, centres.shape[1:3]) - half[:, None]
    return scores.argmax(-1).mT


def _means(points: Tensor, centres: Tensor, nearest: Tensor) -> Tensor:
    clusters = torch.arange(centres.shape[2], device=nearest.device)
    member = (nearest[:, :, None] == clusters[:, None]).to(points.dtype)
    count = member.sum(-1, keepdim=True)
    total = (member.flatten(1, 2) @ points).unflatten(1, centres.shape[1:3])
    return torch.where(count > 0, total / count.clamp_min(1), centres)
