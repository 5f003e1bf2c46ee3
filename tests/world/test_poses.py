import numpy as np
import torch

from humr.geometry import rotvec_to_matrix
from humr.skeletons import BODY22
from humr.world import poses


def test_poses_are_deterministic_and_of_every_template():
    a = poses.sample_poses(2000, rng=np.random.default_rng(3))
    b = poses.sample_poses(2000, rng=np.random.default_rng(3))
    torch.testing.assert_close(a.rotvec, b.rotvec, rtol=0, atol=0)
    assert set(a.template.tolist()) == set(range(len(poses.TEMPLATES)))
    assert a.rotvec.isfinite().all()


def test_root_is_identity_and_knees_bend_backwards_only(rng):
    drawn = poses.sample_poses(500, rng=rng).rotvec
    assert (drawn[:, 0] == 0).all()
    knees = drawn[:, BODY22.indices(["left_knee", "right_knee"])]
    assert (knees[..., 0] > -0.1).all()
    assert knees[..., 0].max() > 1.2


def test_mirror_is_a_reflection_of_the_rotations(rng):
    degrees = rng.normal(scale=40, size=(5, 22, 4))
    rotations = rotvec_to_matrix(poses.euler_to_rotvec(degrees))
    mirrored = rotvec_to_matrix(poses.euler_to_rotvec(poses.mirror(degrees)))
    reflect = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    expected = reflect @ rotations[:, list(BODY22.mirrored)] @ reflect
    torch.testing.assert_close(mirrored, expected, atol=1e-5, rtol=0)


def test_limits_of_the_two_sides_mirror_each_other():
    low, high = poses._limit_table()
    assert (low <= high).all()
    np.testing.assert_allclose(low[:, 0], low[list(BODY22.mirrored), 0])
    np.testing.assert_allclose(low[:, 1], -high[list(BODY22.mirrored), 1])
    np.testing.assert_allclose(low[:, 2], -high[list(BODY22.mirrored), 2])


def test_keys_lie_within_the_limits():
    low, high = poses._limit_table()
    keys = poses._key_table()
    assert ((keys >= low - 1e-9) & (keys <= high + 1e-9)).all()


def test_sides_are_balanced(rng):
    drawn = poses.sample_poses(4000, rng=rng).rotvec
    left, right = drawn[:, BODY22.index("left_hip"), 0], drawn[:, BODY22.index("right_hip"), 0]
    assert abs(left.mean() - right.mean()) < 0.05
