"""Tests of humr.bodies.body: chains of homogeneous matrices, points one by one, any tree."""

import pytest
import torch

from humr.bodies import body
from humr.bodies.body import blend, forward_kinematics, pose_features, skin, skinning_transforms
from humr.geometry import rotvec_to_matrix
from humr.licensed.smpl import SMPL24
from humr.skeletons import BODY22

DOUBLE = torch.float64


def rotations(*shape, generator):
    return rotvec_to_matrix(0.6 * torch.randn(*shape, 3, generator=generator, dtype=DOUBLE))


def chain(local, rest, parents):
    """Homogeneous matrices of all joints, one after the other."""
    world = []
    for j, parent in enumerate(parents):
        matrix = torch.eye(4, dtype=DOUBLE)
        matrix[:3, :3] = local[j]
        matrix[:3, 3] = rest[j] - (rest[parent] if parent >= 0 else 0)
        world.append(matrix if parent < 0 else world[parent] @ matrix)
    return torch.stack(world)


@pytest.mark.parametrize("parents", [BODY22.parents, SMPL24.parents, (-1, 0, 0, 2, 2, 3)])
def test_forward_kinematics_against_a_chain_of_homogeneous_matrices(parents, generator):
    local = rotations(2, len(parents), generator=generator)
    rest = torch.randn(len(parents), 3, generator=generator, dtype=DOUBLE)
    turned, placed = forward_kinematics(local, rest, parents)
    linear, shift = skinning_transforms(local, rest, parents)
    for i in range(2):
        world = chain(local[i], rest, parents)
        torch.testing.assert_close(turned[i], world[:, :3, :3])
        torch.testing.assert_close(placed[i], world[:, :3, 3])
        back = torch.eye(4, dtype=DOUBLE).repeat(len(parents), 1, 1)
        back[:, :3, 3] = -rest
        torch.testing.assert_close(linear[i], (world @ back)[:, :3, :3])
        torch.testing.assert_close(shift[i], (world @ back)[:, :3, 3])


def test_a_body_of_22_joints_is_the_default(generator):
    local, rest = rotations(22, generator=generator), torch.randn(22, 3, dtype=DOUBLE)
    same = forward_kinematics(local, rest, BODY22.parents)
    assert all(map(torch.equal, forward_kinematics(local, rest), same))


def test_skin_moves_every_point_by_its_own_mixture(generator):
    linear, shift = rotations(2, 3, generator=generator), torch.randn(2, 3, 3, dtype=DOUBLE)
    points, weights = torch.randn(5, 3, dtype=DOUBLE), torch.rand(5, 3, dtype=DOUBLE)
    found = skin(points, weights, linear, shift)
    for i in range(2):
        for v in range(5):
            parts = [weights[v, k] * (linear[i, k] @ points[v] + shift[i, k]) for k in range(3)]
            torch.testing.assert_close(found[i, v], sum(parts))


def test_blend_adds_directions(generator):
    template, directions = torch.randn(4, 3), torch.randn(4, 3, 2)
    found = blend(template, directions, torch.tensor([[0.5, -2.0], [0.0, 0.0]]))
    torch.testing.assert_close(
        found[0], template + 0.5 * directions[..., 0] - 2 * directions[..., 1]
    )
    assert torch.equal(found[1], template)


def test_pose_features_by_hand():
    local = torch.eye(3).repeat(24, 1, 1)
    local[0], local[1, 0, 2], local[23, 2, 1] = 7.0, 5.0, -4.0  # the root has no features
    features = pose_features(local)
    assert features.shape == (207,)
    assert {i: float(features[i]) for i in features.nonzero()[:, 0].tolist()} == {2: 5, 205: -4}


def test_other_trees_are_refused():
    with pytest.raises(ValueError, match=r"level by level, the root first; got \(-1, 0, 1, 0\)"):
        forward_kinematics(torch.eye(3).repeat(4, 1, 1), torch.zeros(4, 3), (-1, 0, 1, 0))


def test_inference_first_does_not_spoil_training(generator):
    body._steps.cache_clear()
    local = rotations(22, generator=generator).requires_grad_()
    rest = torch.randn(22, 3, generator=generator, dtype=DOUBLE)
    with torch.inference_mode():
        forward_kinematics(local, rest)
    placed = forward_kinematics(local, rest)[1]
    assert torch.autograd.grad(placed.sum(), local)[0].abs().max() > 0
