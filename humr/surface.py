"""Errors of whole surfaces for any number of hypotheses: no mesh outlives its own image."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from humr.bodies import Body
from humr.metrics import vertex_areas
from humr.skinning import pose_features

TILE = 512  # vertices that are skinned at once


def vertex_weights(body: Body) -> Float[Tensor, "vertices 2"]:
    """Return weights of the vertices, sums 1: all equal (PVE), and by the template's areas."""
    area = vertex_areas(body.template, body.faces)
    equal = torch.full_like(area, 1 / len(area))
    return torch.stack([equal, area / area.sum()], -1)


def posed_planes(
    body: Body,
    rotations: Float[Tensor, "hypotheses 22 3 3"],
    betas: Float[Tensor, " betas"],
    shift: Float[Tensor, "hypotheses 3"],
) -> Float[Tensor, "3 hypotheses vertices"]:
    r"""Return the vertices of one shape in many poses: a plane of x, one of y, one of z.

    Vertex $v$ moves to $\sum_k w_{vk} (A_k v + a_k)$. For one shape this is a product of two
    matrices, $[A_k, a_k]$ of every pose and $w_{vk} (v, 1)$ of every vertex, which is much faster
    than one small product per vertex. Pose correctives change the shape with the pose, so bodies
    that have them go the general way.
    """
    if body.pose_directions is not None:
        return (body.vertices(rotations, betas) + shift[:, None]).permute(2, 0, 1).contiguous()
    rest = torch.nn.functional.pad(body.rest_vertices(betas), (0, 1), value=1.0)
    by_vertex = (body.weights[:, :, None] * rest[:, None]).flatten(1)
    linear, offset = body.skinning_transforms(rotations, betas)
    transforms = torch.cat([linear, (offset + shift[:, None])[..., None]], -1)
    by_pose = transforms.permute(2, 0, 1, 3).flatten(2)
    return by_pose @ by_vertex.T


def surface_errors(
    body: Body,
    rotations: Float[Tensor, "batch hypotheses 22 3 3"],
    betas: Float[Tensor, "batch betas"],
    shift: Float[Tensor, "batch hypotheses 3"],
    target: Float[Tensor, "batch vertices 3"],
    weights: Float[Tensor, "vertices kinds"],
) -> tuple[Float[Tensor, "batch hypotheses kinds"], Float[Tensor, "batch vertices 3"]]:
    """Return the weighted mean distances to the target, and the sum of all hypotheses' surfaces.

    One image after the other: memory is that of `hypotheses` meshes, so pass them in pieces.
    """
    errors, totals = [], []
    for index in range(len(target)):
        planes = posed_planes(body, rotations[index], betas[index], shift[index])
        totals.append(planes.sum(1).T)
        planes -= target[index].T[:, None]
        errors.append(planes.square_().sum(0).sqrt_() @ weights)
    return torch.stack(errors), torch.stack(totals)


def vertex_major(
    body: Body,
    rotations: Float[Tensor, "hypotheses 22 3 3"],
    betas: Float[Tensor, " betas"],
    chosen: Int[Tensor, " chosen"],
) -> Float[Tensor, "chosen 3 hypotheses"]:
    """Return chosen vertices of one shape in many poses, hypotheses last.

    A tile of vertices at a time: correctives and transforms are products of matrices, and nothing
    but the result is as large as all vertices.
    """
    linear, offset = body.skinning_transforms(rotations, betas)
    transforms = torch.cat([linear, offset[..., None]], -1).permute(1, 2, 3, 0).flatten(1)
    features = pose_features(rotations).T
    rest = body.rest_vertices(betas)
    result = rest.new_empty(len(chosen), 3, len(rotations))
    for start in range(0, len(chosen), TILE):
        tile = chosen[start : start + TILE]
        points = rest[tile][..., None]
        if body.pose_directions is not None:
            added = body.pose_directions[tile].flatten(0, 1) @ features
            points = points + added.unflatten(0, (len(tile), 3))
        planes = (body.weights[tile] @ transforms).unflatten(1, (3, 4, len(rotations)))
        moved = (planes[:, :, :3] * points[:, None]).sum(2)
        result[start : start + TILE] = moved + planes[:, :, 3]
    return result


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
    vertices = vertex_major(body, rotations, betas, chosen).flatten(1)
    others = torch.sparse.mm(transfer, vertices).unflatten(1, (3, len(rotations))) + shift.T
    total = others.sum(-1)
    others -= target[..., None]
    return others.square_().sum(1).sqrt_().mean(0), total
