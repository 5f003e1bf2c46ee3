"""Tests of licensed.pw3d on files as 3DPW's: two persons, invalid frames, pickles of Python 2."""

import numpy as np
import pytest
import torch
from formats import write_3dpw
from scipy.spatial.transform import Rotation

from humr.licensed.pw3d import joints_in_camera, read_3dpw, sequences

CLOSE = {"rtol": 0, "atol": 1e-5}
VALID = ([0, 2, 3, 4], [0, 1, 2, 4])


@pytest.fixture
def files(tmp_path):
    return write_3dpw(tmp_path)


def test_persons_and_their_valid_frames(files):
    path, stored = files
    persons = read_3dpw(path)
    assert [p.gender for p in persons] == ["male", "female"]
    assert [p.frame.tolist() for p in persons] == list(VALID)
    assert persons[0].image[1] == "imageFiles/downtown_x_00/image_00002.jpg"
    for index, (person, valid) in enumerate(zip(persons, VALID, strict=True)):
        assert len(person) == 4
        np.testing.assert_allclose(person.betas, stored["betas"][index][:10], **CLOSE)
        np.testing.assert_allclose(
            person.rotvec[:, 1:].flatten(1), stored["poses"][index][valid, 3:], **CLOSE
        )
        expected = stored["cam_poses"][valid][:, :3, :3] @ (
            Rotation.from_rotvec(stored["poses"][index][valid, :3]).as_matrix()
        )
        got = Rotation.from_rotvec(person.rotvec[:, 0].numpy()).as_matrix()
        np.testing.assert_allclose(got, expected, **CLOSE)
        np.testing.assert_allclose(
            person.translation_world, stored["trans"][index][valid], **CLOSE
        )
        np.testing.assert_allclose(person.intrinsics, stored["cam_intrinsics"], atol=1e-3)


def test_lists_may_be_arrays(tmp_path, files):
    _, stored = files
    path, _ = write_3dpw(tmp_path, sequence="x", poses=np.stack(stored["poses"]))
    assert torch.equal(read_3dpw(path)[1].rotvec, read_3dpw(files[0])[1].rotvec)


def test_keypoints_and_boxes(files):
    path, stored = files
    first, second = read_3dpw(path)
    x, y, confidence = stored["poses2d"][0][2]
    np.testing.assert_allclose(first.keypoints[1, :, 0], x, atol=1e-4)
    np.testing.assert_allclose(first.keypoints[1, :, 2], confidence, atol=1e-4)
    side = 1.2 * max(np.ptp(x), np.ptp(y))
    expected = [(x.min() + x.max()) / 2, (y.min() + y.max()) / 2, side]
    np.testing.assert_allclose(first.box[1], expected, atol=1e-3)
    x, y, _ = stored["poses2d"][1][0][:, :9]  # the others have confidence 0
    np.testing.assert_allclose(second.box[0, 2], 1.2 * max(np.ptp(x), np.ptp(y)), atol=1e-3)
    assert second.box[:3].isfinite().all()
    assert second.box[3].isnan().all()


def test_joints_in_the_camera(files):
    path, stored = files
    joints = joints_in_camera(path)
    assert [each.shape for each in joints] == [(4, 24, 3)] * 2
    world, camera = stored["jointPositions"][1][4].reshape(24, 3), stored["cam_poses"][4]
    homogeneous = np.concatenate([world, np.ones((24, 1))], 1)
    np.testing.assert_allclose(joints[1][3], (homogeneous @ camera.T)[:, :3], **CLOSE)


def test_lists_the_files_of_a_split(tmp_path):
    assert sequences("test", root=tmp_path) == []
    for name in ("b", "a"):
        write_3dpw(tmp_path, sequence=name)
    write_3dpw(tmp_path, "train", sequence="c")
    assert [p.stem for p in sequences("test", root=tmp_path)] == ["a", "b"]
    with pytest.raises(ValueError, match="one of train, validation, test; got 'val'"):
        sequences("val", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cam_poses": None}, r"downtown_x_00\.pkl lacks cam_poses"),
        ({"poses": [np.zeros((5, 66))] * 2}, r"poses\[0\] must be .* \(5, 72\); got \(5, 66\)"),
        ({"cam_poses": np.zeros((4, 4, 4))}, r"cam_poses must be numbers of shape \(5, 4, 4\)"),
        ({"poses2d": [np.zeros((5, 18, 3))] * 2}, r"poses2d\[0\] must be .* \(5, 3, 18\)"),
        ({"genders": ["m", "x"]}, "genders must be m or f; got 'x'"),
        ({"genders": ["m", ["f"]]}, r"genders must be m or f; got \['f'\]"),
        ({"betas": [np.zeros(10)]}, "betas has 1 entries for 2 persons"),
        ({"betas": [1.0, 2.0]}, r"betas must be numbers of shape \(any\); got \(\)"),
        ({"poses": 7.0}, r"pkl: poses must be a list with an entry per person; got float\. Usual"),
        ({"poses": [1, 2]}, r"poses\[0\] must be numbers of shape \(5, 72\); got \(\)"),
        ({"campose_valid": 1}, "campose_valid must be a list with an entry per person; got int"),
        ({"trans": "none"}, "trans must be a list with an entry per person; got str"),
        ({"cam_poses": 1}, r"cam_poses must be numbers of shape \(5, 4, 4\); got \(\)"),
        ({"betas": [np.zeros(8)] * 2}, r"betas must be numbers of shape \(10\); got \(8,\)"),
    ],
)
def test_refuses_wrong_files(tmp_path, changes, message):
    path, _ = write_3dpw(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_3dpw(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jointPositions": 1}, "jointPositions must be a list with an entry per person; got int"),
        ({"campose_valid": [np.ones(5)]}, "campose_valid has 1 entries for 2 persons"),
        ({"cam_poses": 1}, r"cam_poses must be numbers of shape \(5, 4, 4\); got \(\)"),
        ({"jointPositions": [1, 2]}, r"jointPositions\[0\] must be .* \(5, 72\); got \(\)"),
    ],
)
def test_refuses_wrong_joints(tmp_path, changes, message):
    path, _ = write_3dpw(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        joints_in_camera(path)
