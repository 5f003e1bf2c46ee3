"""Tests of humr.licensed.lifting: orders of joints, valid frames, groups."""

import h5py
import lifting_formats as formats
import numpy as np
import pytest
import scipy.io
import torch

from humr.licensed import lifting
from humr.licensed.lifting import read_test, read_test_heatmaps
from humr.skeletons import H36M17, H36M_FROM_SPIN, MPII16, SPIN17, index_map

POSES = formats.people(6)
SPIN_FROM_TEST = index_map(lifting.TEST17, SPIN17)


# ------------------------------------------------------------------------ orders


def test_orders_are_the_published_ones():
    spin = [14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]
    assert list(lifting.H36M_FROM_TEST) == formats.TEST_ORDER
    assert list(SPIN_FROM_TEST) == spin


def test_spins_order_swaps_the_legs_and_an_asymmetric_pose_shows_it():
    theirs = np.empty((17, 3))
    theirs[formats.TEST_ORDER] = POSES[0]
    right, wrong = theirs[list(lifting.H36M_FROM_TEST)], theirs[list(SPIN_FROM_TEST)]
    np.testing.assert_array_equal(right, POSES[0])
    errors = dict(zip(H36M17.names, np.linalg.norm(right - wrong, axis=-1), strict=True))
    for name, error in errors.items():
        leg = name.endswith(("hip", "knee", "ankle"))
        assert (error > 250) if leg else (error == 0)
    # a pose that is its own mirror image does not: why fixtures are asymmetric
    twin = theirs.copy()
    for leg in ("hip", "knee", "ankle"):
        left, other = (lifting.TEST17.index(f"{side}_{leg}") for side in ("left", "right"))
        twin[left, 1:] = twin[other, 1:]
    depth = twin[list(SPIN_FROM_TEST), 1:] - twin[list(lifting.H36M_FROM_TEST), 1:]
    assert (depth == 0).all()
    np.testing.assert_array_equal(wrong[list(H36M_FROM_SPIN)], right)


# ------------------------------------------------------------------------ test set


def test_valid_frames_of_a_group(tmp_path):
    formats.write_test_sequence(tmp_path, "TS3", POSES[:3], [1, 0, 1])
    formats.write_test_sequence(tmp_path, "TS4", POSES[3:], [0, 0, 1])
    found = read_test("noGS", folder=tmp_path)
    kept = POSES[[0, 2, 5]]
    np.testing.assert_allclose(found.joints, kept / 1000, atol=1e-6)
    np.testing.assert_allclose(found.points, formats.mpii(formats.seen(kept)), rtol=1e-6)
    assert found.action == ("TS3", "TS3", "TS4")
    assert found.subject.tolist() == [3, 3, 4]
    batch = found.batch()
    head, wrist = H36M17.index("head_top"), H36M17.index("left_wrist")
    assert (batch.target[:, wrist, 1] > batch.target[:, head, 1]).all()
    assert (batch.target[:, H36M17.index("right_ankle"), 2] > 0.5).all()
    assert (batch.points[:, MPII16.index("left_wrist"), 1] > batch.points[:, 9, 1]).all()
    assert torch.allclose(batch.condition[..., 3], torch.tensor(0.01))


def test_poses_are_of_universal_size(tmp_path):
    for name in ("TS5", "TS6"):
        formats.write_test_sequence(tmp_path, name, POSES, [1] * 6)
    found = read_test("Outdoor", folder=tmp_path)
    np.testing.assert_allclose(found.joints[:6], POSES / 1000, atol=1e-6)
    assert set(lifting.SEQUENCES) == {"GS", "noGS", "Outdoor"}


def test_the_test_set_with_heatmaps(tmp_path):
    cells = np.random.default_rng(0).integers(10, 50, (6, 16, 2)).astype(float)
    rows = {
        "action": [b"TS1", b"TS2", b"TS3"] * 2,
        "subject": [b"TS1", b"TS2", b"TS3"] * 2,
        "gt_3d_uni": POSES.swapaxes(1, 2),
        "argmax_2d": cells[..., ::-1].swapaxes(1, 2) / 64,
        "heatmap": formats.blobs(cells, np.eye(2) * 4),
    }
    formats.write_table(tmp_path / "3DHP_dataset_h36m_hrnet.h5", "testset", rows, pose="gt_3d_uni")
    found = read_test_heatmaps("GS", folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[[0, 1, 3, 4]] / 1000, atol=1e-6)
    np.testing.assert_allclose(found.points, cells[[0, 1, 3, 4]], atol=1e-5)
    assert found.action == ("TS1", "TS2") * 2
    assert found.subject.tolist() == [1, 2, 1, 2]


def test_wrong_test_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="group must be one of GS, noGS, Outdoor; got 'TS1'"):
        read_test("TS1", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"TS1/annot_data.mat"):
        read_test("GS", folder=tmp_path)
    path = formats.write_test_sequence(tmp_path, "TS1", POSES, [1] * 6)
    with h5py.File(path, "a") as file:
        del file["univ_annot3"]
        file["univ_annot3"] = np.zeros((6, 1, 28, 3))
    with pytest.raises(ValueError, match=r"univ_annot3 must have shape \(6, 1, 17, 3\)"):
        read_test("GS", folder=tmp_path)
    scipy.io.savemat(path, {"annot2": np.zeros(3)})
    with pytest.raises(ValueError, match=r"annot_data.mat is no HDF5 file"):
        read_test("GS", folder=tmp_path)
