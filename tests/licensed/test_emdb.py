"""Tests of humr.licensed.emdb on files as EMDB's, with a frame that is not good."""

import numpy as np
import pytest
from formats import emdb_sequence, write_emdb
from scipy.spatial.transform import Rotation

from humr.licensed.emdb import is_part_1, read_emdb, sequences

CLOSE = {"rtol": 0, "atol": 1e-5}
GOOD = [0, 1, 3, 4]


def test_good_frames_in_the_camera(tmp_path):
    path, stored = write_emdb(tmp_path)
    frames = read_emdb(path)
    assert frames.sequence == "P1_14_outdoor_climb"
    assert frames.gender == "female"
    assert frames.frame.tolist() == GOOD
    assert frames.image[2] == "P1/14_outdoor_climb/images/00003.jpg"
    smpl, camera = stored["smpl"], stored["camera"]
    np.testing.assert_allclose(frames.rotvec[:, 1:].flatten(1), smpl["poses_body"][GOOD], **CLOSE)
    expected = camera["extrinsics"][GOOD][:, :3, :3] @ (
        Rotation.from_rotvec(smpl["poses_root"][GOOD]).as_matrix()
    )
    got = Rotation.from_rotvec(frames.rotvec[:, 0].numpy()).as_matrix()
    np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_allclose(frames.betas, smpl["betas"], **CLOSE)
    np.testing.assert_allclose(frames.translation_world, smpl["trans"][GOOD], **CLOSE)
    np.testing.assert_allclose(frames.intrinsics, camera["intrinsics"], **CLOSE)
    np.testing.assert_allclose(frames.keypoints[..., :2], stored["kp2d"][GOOD], atol=1e-3)
    assert (frames.keypoints[..., 2] == 1).all()


def test_boxes_are_square_around_the_same_middle(tmp_path):
    path, stored = write_emdb(tmp_path)
    x0, y0, x1, y1 = stored["bboxes"]["bboxes"][3]
    expected = [(x0 + x1) / 2, (y0 + y1) / 2, y1 - y0]
    np.testing.assert_allclose(read_emdb(path).box[2], expected, atol=1e-3)
    np.testing.assert_allclose(read_emdb(path, margin=1.2).box[2, 2], 1.2 * (y1 - y0), rtol=1e-5)


def test_good_frames_may_lack_a_box(tmp_path):
    path, _ = write_emdb(tmp_path, good_frames_mask=np.ones(5, bool), kp2d=np.ones((5, 24, 2)))
    frames = read_emdb(path)
    assert len(frames) == 5
    assert frames.box[:, 0].isnan().tolist() == [False, False, True, False, False]
    boxes = emdb_sequence()["bboxes"]
    path, _ = write_emdb(tmp_path, bboxes={**boxes, "invalid_idxs": np.array([2, 4])})
    assert read_emdb(path).box[:, 0].isnan().tolist() == [False, False, False, True]
    path, _ = write_emdb(tmp_path, n_frames=np.int64(5), bboxes={**boxes, "invalid_idxs": []})
    assert read_emdb(path).box.isfinite().all()


def test_sequences_and_parts(tmp_path):
    assert sequences(root=tmp_path) == []
    second, _ = write_emdb(tmp_path, "P2", "19_indoor", emdb1=False, emdb2=True)
    first, _ = write_emdb(tmp_path)
    assert sequences(root=tmp_path) == [first, second]
    assert [is_part_1(path) for path in (first, second)] == [True, False]


def test_the_part_is_a_truth_value(tmp_path):
    path, _ = write_emdb(tmp_path, emdb1=np.zeros(1, bool)[0])
    assert not is_part_1(path)
    path, _ = write_emdb(tmp_path, emdb1=np.array([True, False]))
    with pytest.raises(ValueError, match=r"data\.pkl: emdb1 must be True or False; got ndarray"):
        is_part_1(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smpl": None}, r"P1_14_outdoor_climb_data\.pkl lacks smpl"),
        ({"camera": {"intrinsics": np.eye(3)}}, "camera lacks extrinsics"),
        ({"camera": 1.5}, r"camera lacks intrinsics, extrinsics; .*; got float\. Usual cause"),
        ({"kp2d": 10**400}, r"kp2d must be numbers of shape \(5, 24, 2\); got \(\)"),
        ({"bboxes": [1, 2]}, "bboxes lacks bboxes, invalid_idxs; .*; got list"),
        ({"gender": "x"}, "gender must be one of male, female, neutral; got 'x'"),
        ({"gender": ["male"]}, r"gender must be one of .*; got \['male'\]"),
        ({"n_frames": "many"}, r"n_frames must be a whole number; got 'many'\. Usual cause"),
        ({"n_frames": 6}, r"good_frames_mask must be numbers of shape \(6\); got \(5,\)"),
        ({"kp2d": np.zeros((5, 17, 2))}, r"kp2d must be numbers of shape \(5, 24, 2\)"),
        ({"bboxes": {"bboxes": np.full((5, 4), np.nan), "invalid_idxs": np.array([2])}},
         r"bboxes\.bboxes must be .*; got values that are not finite"),
        ({"bboxes": {"bboxes": np.ones((5, 4)), "invalid_idxs": np.array([2, 5])}},
         r"bboxes\.invalid_idxs must be frames, 0 to 4; got 5\. Usual cause"),
        ({"bboxes": {"bboxes": np.ones((5, 4)), "invalid_idxs": np.array([-1])}}, "got -1"),
        ({"bboxes": {"bboxes": np.ones((5, 4)), "invalid_idxs": np.array([0.5])}}, r"got 0\.5"),
        ({"bboxes": {"bboxes": "none", "invalid_idxs": []}},
         r"bboxes\.bboxes must be numbers of shape \(5, 4\); got \(\)"),
        ({"bboxes": {"bboxes": np.ones((4, 4)), "invalid_idxs": [4]}}, r"\(5, 4\); got \(4, 4\)"),
    ],
)  # fmt: skip
def test_refuses_wrong_files(tmp_path, changes, message):
    path, _ = write_emdb(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_emdb(path)
