"""Forward kinematics and linear blend skinning of any tree of joints, for any number of bodies."""

from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from humr.skeletons import BODY22


def _levels(parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Joints grouped by their distance from the root."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    levels = tuple(
        tuple(j for j, d in enumerate(depth) if d == level) for level in range(max(depth) + 1)
    )
    if sum(levels, ()) != tuple(range(len(parents))):
        raise ValueError(f"joints must be numbered level by level, the root first; got {parents}")
    return levels


@cache
def _steps(
    parents: tuple[int, ...], device: torch.device
) -> tuple[tuple[slice, Tensor, Tensor], ...]:
    """For each tree level: its joints, their parents, and the parents' places in their level.

    Kept per device, so that no call copies indices to it.
    """
    steps = []
    with torch.inference_mode(mode=False):  # an inference tensor could not serve in training later
        for above, level in pairwise(_levels(parents)):
            over = [parents[j] for j in level]
            places = torch.tensor([above.index(p) for p in over], device=device)
            here = slice(level[0], level[-1] + 1)
            steps.append((here, torch.tensor(over, device=device), places))
    return tuple(steps)


def forward_kinematics(
    rotations: Float[Tensor, "*#batch joints 3 3"],
    rest_joints: Float[Tensor, "*#batch joints 3"],
    parents: tuple[int, ...] = BODY22.parents,
) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
    """Turn local rotations into world rotations and joint positions, one tree level at a time.

    R_j = R_parent L_j and p_j = p_parent + R_parent (J_j - J_parent); the root stays at J_0.
    """
    batch = torch.broadcast_shapes(rotations.shape[:-3], rest_joints.shape[:-2])
    turned = [rotations[..., :1, :, :].expand(*batch, 1, 3, 3)]
    placed = [rest_joints[..., :1, :].expand(*batch, 1, 3)]
    for here, over, among_parents in _steps(parents, rotations.device):
        parent_turned = turned[-1].index_select(-3, among_parents)
        parent_placed = placed[-1].index_select(-2, among_parents)
        offsets = rest_joints[..., here, :] - rest_joints.index_select(-2, over)
        turned.append(parent_turned @ rotations[..., here, :, :])
        placed.append(parent_placed + (parent_turned @ offsets[..., None])[..., 0])
    return torch.cat(turned, dim=-3), torch.cat(placed, dim=-2)


def skinning_transforms(
    rotations: Float[Tensor, "*#batch joints 3 3"],
    rest_joints: Float[Tensor, "*#batch joints 3"],
    parents: tuple[int, ...] = BODY22.parents,
) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
    """Return the transforms x -> A_k x + a_k of the joints: A_k and a_k = p_k - A_k J_k."""
    turned, placed = forward_kinematics(rotations, rest_joints, parents)
    return turned, placed - (turned @ rest_joints[..., None])[..., 0]


def skin(
    points: Float[Tensor, "*#batch points 3"],
    weights: Float[Tensor, "points joints"],
    linear: Float[Tensor, "*#batch joints 3 3"],
    shift: Float[Tensor, "*#batch joints 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Move points with the joints: v -> sum_k W_vk (A_k v + a_k)."""
    transforms = torch.cat([linear, shift[..., None]], dim=-1).flatten(-2)
    blended = (weights @ transforms).unflatten(-1, (3, 4))
    return (blended[..., :3] @ points[..., None])[..., 0] + blended[..., 3]


def pose_features(
    rotations: Float[Tensor, "*batch joints 3 3"],
) -> Float[Tensor, "*batch features"]:
    """Return R - I of the joints below the root, row by row: what pose correctives multiply."""
    eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return (rotations[..., 1:, :, :] - eye).flatten(-3)


def combine(
    directions: Float[Tensor, "points 3 columns"], values: Float[Tensor, "*batch columns"]
) -> Float[Tensor, "*batch points 3"]:
    """Return the sum of the directions, each times its value."""
    return (values @ directions.flatten(0, 1).T).unflatten(-1, directions.shape[:2])


def blend(
    template: Float[Tensor, "points 3"],
    directions: Float[Tensor, "points 3 betas"],
    betas: Float[Tensor, "*batch betas"],
) -> Float[Tensor, "*batch points 3"]:
    """Return the points of shaped bodies at rest: template + directions b."""
    return template + combine(directions, betas)
