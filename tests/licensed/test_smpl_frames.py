"""Tests of humr.licensed.smpl_frames: the change of frames, and boxes."""

import numpy as np
import pytest
import torch
from formats import cameras
from scipy.spatial.transform import Rotation

from humr.licensed.smpl_frames import SmplFrames, around, into_camera, squares, tensor

PELVIS = torch.tensor([0.02, -0.3, 0.05], dtype=torch.float64)


def body(points, rotvec, translation):
    """SMPL without limbs: turned about its rest pelvis, then moved."""
    turn = Rotation.from_rotvec(rotvec).as_matrix()
    return (points - PELVIS.numpy()) @ turn.T + PELVIS.numpy() + translation


def test_the_body_stays_where_it_is(rng):
    frames, points = 3, rng.normal(size=(7, 3))
    pose, translation = rng.normal(size=(frames, 24, 3)), rng.normal(size=(frames, 3))
    camera = cameras(rng, frames)
    turned = into_camera(torch.from_numpy(pose), torch.from_numpy(camera))
    assert np.array_equal(turned[:, 1:], pose[:, 1:])
    empty = torch.zeros(frames, 0, 3)
    all_frames = SmplFrames(
        "x", "male", ("a", "b", "c"), torch.arange(frames), turned, torch.zeros(10),
        torch.from_numpy(translation), torch.from_numpy(camera), torch.eye(3), empty,
        torch.zeros(frames, 3),
    )  # fmt: skip
    moved = all_frames.translation(PELVIS)
    for i in range(frames):
        world = body(points, pose[i, 0], translation[i])
        expected = world @ camera[i, :3, :3].T + camera[i, :3, 3]
        got = body(points, turned[i, 0].numpy(), moved[i].numpy())
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_boxes_around_seen_points():
    points = torch.tensor(
        [[[0.0, 0], [10, 40], [30, 20], [99, 99]], [[1.0, 1], [2, 2], [3, 3], [4, 4]]]
    )
    seen = torch.tensor([[True, True, True, False], [False] * 4])
    boxes = around(points, seen, 1.2)
    assert boxes[0].tolist() == [15, 20, 48]
    assert boxes[1].isnan().all()


def test_squares_keep_the_middle():
    boxes = squares(torch.tensor([[10.0, 20, 30, 80], [5.0, 5, 5, 5]]), 1.5)
    assert boxes[0].tolist() == [20, 50, 90]
    assert boxes[1].isnan().all()


def test_only_chosen_rows_must_be_finite():
    values = np.array([[1.0, 2], [np.nan, 3], [4, 5]])
    rows = torch.tensor([True, False, True])
    assert tensor(values, (3, 2), "poses", "x.pkl", rows).tolist() == [[1, 2], [4, 5]]
    with pytest.raises(ValueError, match="not finite"):
        tensor(values, (3, 2), "poses", "x.pkl", ~rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 4)), r"x\.pkl: poses must be numbers of shape \(any, 3\); got \(2, 4\)"),
        (np.full((2, 3), np.nan), "got values that are not finite"),
        ([[1, 2], [3]], r"got \(\)"),
        (None, r"got \(\)"),
    ],
)
def test_refuses_other_shapes(values, message):
    with pytest.raises(ValueError, match=message):
        tensor(values, (None, 3), "poses", "x.pkl")
