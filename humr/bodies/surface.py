"""Errors of whole surfaces for any number of hypotheses: no mesh outlives its own image."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from humr.bodies.body import Body, pose_features

TILE = 512  # vertices at a time: what is computed of them stays in the processor's cache


def surface_errors(
    body: Body,
    rotations: Float[Tensor, "batch hypotheses 22 3 3"],
    betas: Float[Tensor, "batch betas"],
    shift: Float[Tensor, "batch hypotheses 3"],
    target: Float[Tensor, "batch vertices 3"],
    weights: Float[Tensor, "vertices kinds"],
) -> tuple[Float[Tensor, "batch hypotheses kinds"], Float[Tensor, "batch vertices 3"]]:
    """Return the weighted mean distances to the target, and the sum of all hypotheses' surfaces.

    One image after the other, a tile of the vertices after the other: memory is that of a tile.
    """
    errors, totals = [], []
    for index in range(len(target)):
        planes = posed_planes(body, rotations[index], betas[index], shift[index])
        tiles = zip(planes, target[index].split(TILE), weights.split(TILE), strict=True)
        parts = [_of_tile(*tile) for tile in tiles]
        errors.append(torch.stack([error for error, _ in parts]).sum(0))
        totals.append(torch.cat([total for _, total in parts]))
    return torch.stack(errors), torch.stack(totals)


def _of_tile(planes: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted distances of some vertices, and the sum of all hypotheses' vertices."""
    total = planes.sum(1).T
    planes -= target.T[:, None]
    return planes.square_().sum(0).sqrt_() @ weights, total


def transferred_errors(
    body: Body,
    transfer: Float[Tensor, "others chosen"],
    chosen: Int[Tensor, " chosen"],
    rotations: Float[Tensor, "hypotheses 22 3 3"],
    betas: Float[Tensor, " betas"],
    shift: Float[Tensor, "hypotheses 3"],
    target: Float[Tensor, "others 3"],
) -> tuple[Float[Tensor, " hypotheses"], Float[Tensor, "others 3"]]:
    """Return mean distances on another body's mesh, and the sum of all hypotheses' meshes there.

    A sparse matrix takes the chosen vertices of this body to the vertices of the other one. The
    hypotheses are of one image; memory is that of their meshes, so pass them in pieces.
    """
    vertices = torch.cat(list(_tiles(body, rotations, betas, chosen))).flatten(1)
    others = torch.sparse.mm(transfer, vertices).unflatten(1, (3, len(rotations))) + shift.T
    total = others.sum(-1)
    others -= target[..., None]
    return others.square_().sum(1).sqrt_().mean(0), total


def vertex_weights(body: Body) -> Float[Tensor, "vertices 2"]:
    """Return weights of the vertices, sums 1: all equal (PVE), and by the template's areas."""
    area = vertex_areas(body.template, body.faces)
    equal = torch.full_like(area, 1 / len(area))
    return torch.stack([equal, area / area.sum()], -1)


def vertex_areas(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, " vertices"]:
    """Give every vertex a third of the area of each triangle it belongs to."""
    first, second, third = vertices[faces].unbind(1)
    normal = torch.linalg.cross(second - first, third - first)
    share = torch.linalg.vector_norm(normal, dim=-1) / 6
    return vertices.new_zeros(len(vertices)).index_add(
        0, faces.flatten(), share.repeat_interleave(3)
    )


def posed_planes(
    body: Body,
    rotations: Float[Tensor, "hypotheses 22 3 3"],
    betas: Float[Tensor, " betas"],
    shift: Float[Tensor, "hypotheses 3"],
) -> Iterator[Float[Tensor, "3 hypotheses tile"]]:
    r"""Yield the vertices of one shape in many poses, `TILE` at a time: planes of x, of y, of z.

    Vertex $v$ moves to $\sum_k w_{vk} (A_k v + a_k)$. For one shape this is a product of two
    matrices, $[A_k, a_k]$ of every pose and $w_{vk} (v, 1)$ of every vertex. Pose correctives
    change $v$ with the pose; then $\sum_k w_{vk} [A_k, a_k]$ comes first.
    """
    if body.pose_directions is not None:
        everything = torch.arange(len(body.template), device=shift.device)
        for tile in _tiles(body, rotations, betas, everything):
            yield tile.permute(1, 2, 0) + shift.T[..., None]
        return
    rest = body.rest_vertices(betas)
    linear, offset = body.skinning_transforms(rotations, betas)
    transforms = torch.cat([linear, (offset + shift[:, None])[..., None]], -1)
    by_pose = transforms.permute(2, 0, 1, 3).flatten(2)
    for weights, points in zip(body.weights.split(TILE), rest.split(TILE), strict=True):
        points = torch.nn.functional.pad(points, (0, 1), value=1.0)
        yield by_pose @ (weights[:, :, None] * points[:, None]).flatten(1).T


def _tiles(
    body: Body, rotations: Tensor, betas: Tensor, chosen: Tensor
) -> Iterator[Float[Tensor, "tile 3 hypotheses"]]:
    """Yield chosen vertices, `TILE` at a time: correctives and transforms are matrix products."""
    linear, offset = body.skinning_transforms(rotations, betas)
    transforms = torch.cat([linear, offset[..., None]], -1).permute(1, 2, 3, 0).flatten(1)
    features = pose_features(rotations).T
    rest = body.rest_vertices(betas)
    for tile in chosen.split(TILE):
        points = rest[tile][..., None]
        if body.pose_directions is not None:
            added = body.pose_directions[tile].flatten(0, 1) @ features
            points = points + added.unflatten(0, (len(tile), 3))
        planes = (body.weights[tile] @ transforms).unflatten(1, (3, 4, len(rotations)))
        yield (planes[:, :, :3] * points[:, None]).sum(2) + planes[:, :, 3]
