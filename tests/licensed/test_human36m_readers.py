"""Tests of humr.licensed.human36m: the three kinds of files, and that they agree."""

import lifting_formats as formats
import numpy as np
import pytest
import torch

from humr.licensed import human36m
from humr.licensed.human36m import read_fits, read_heatmaps, read_keypoints
from humr.licensed.readers import read_npz
from humr.lifting.data import normalised
from humr.skeletons import MPII16

POSES = formats.people(8)
TEST = [5, 6, 7, 0, 1, 2, 3, 4]  # of them, in the official order: S9 before S11


def points_of(poses):
    return torch.from_numpy(formats.mpii(formats.seen(poses))).float()


# ------------------------------------------------------------------------ pickles


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_fits_of_the_test_split(tmp_path, protocol):
    formats.write_pickle(tmp_path, "test", POSES, protocol=protocol)
    found = read_fits("test", folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[TEST] / 1000, atol=1e-6)
    np.testing.assert_allclose(found.points, points_of(POSES[TEST]), rtol=1e-6)
    assert found.action == ("Directions",) * 6 + ("Sitting",) * 2
    assert found.subject.tolist() == [9] * 3 + [11] * 5
    fits = formats.official_fits(formats.mpii(formats.seen(POSES)))[TEST]
    np.testing.assert_allclose(found.fits[..., :3], fits[..., :3], rtol=1e-5)
    assert found.moments is None


def test_the_test_takes_every_16th_image_of_each_action(tmp_path):
    formats.write_pickle(tmp_path, "test", POSES)
    found = read_fits("test", stride=16, folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[[5, 3]] / 1000, atol=1e-6)
    # counted through both videos of Directions: images 0, 2 of S9 and the second of S11
    found = read_fits("test", stride=2, folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[[5, 7, 1, 3]] / 1000, atol=1e-6)


def test_the_ambiguous_subset_takes_every_stored_image(tmp_path):
    """H36MA: raw widths above 5 px in any joint, of all images, not of every 16th."""

    def widen(found):
        entry(found)["gaussfit"][1, 7 * 4 + 3] = 5.1
        found["S9"]["Directions"]["0"]["55011271"]["gaussfit"][2, 7 * 15 + 5] = 9.0

    formats.write_pickle(tmp_path, "test", POSES, changes=[widen])
    found = read_fits("test", folder=tmp_path)
    hard = found[found.ambiguous]
    np.testing.assert_allclose(hard.joints, POSES[[7, 4]] / 1000, atol=1e-6)
    assert not read_fits("test", stride=16, folder=tmp_path).ambiguous.any()


def test_training_pickles_have_other_subjects(tmp_path):
    formats.write_pickle(tmp_path, "train", POSES)
    found = read_fits("train", folder=tmp_path)
    assert found.subject.tolist() == [1] * 3 + [8] * 5


def test_poses_come_from_cdf_files_where_the_pickle_has_none(tmp_path, monkeypatch):
    formats.write_pickle(tmp_path, "test", POSES, with_3d=False)
    videos = formats.videos("test", POSES)
    monkeypatch.setattr(
        human36m, "cdf_files",
        lambda subject, folder: {v: v for v in human36m.sequences("test") if v.subject == subject},
    )  # fmt: skip
    longer = np.pad(POSES, ((0, 3), (0, 0), (0, 0)))  # a recording goes on after the last image
    monkeypatch.setattr(human36m, "read_cdf", lambda video: longer[videos[video].start :])
    found = read_fits("test", folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[TEST] / 1000, atol=1e-6)
    monkeypatch.setattr(human36m, "cdf_files", lambda *_: {})
    with pytest.raises(FileNotFoundError, match=r"no .cdf file of S9/Directions/0/55011271"):
        read_fits("test", folder=tmp_path)


def entry(found):
    return found["S11"]["Sitting"]["0"]["60457274"]


def old_name(found):  # what data_info.txt of the official code says
    entry(found)["p2d_hrnet"] = entry(found).pop("2d_hrnet")


def metres(found):
    for subject in found.values():
        for actions in subject.values():
            for cameras in actions.values():
                for one in cameras.values():
                    one["3d_gt"] = one["3d_gt"] / 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (old_name, "S11/Sitting/0/60457274 lacks 2d_hrnet; it has imgpath, gaussfit, 3d_gt, p2d"),
        (metres, r"joints lie 0\.000\d+ m from the pelvis .* another unit"),
        (lambda d: d.pop("S9"), r"has no S9; .* the file of the other split"),
        (lambda d: d["S9"]["Eating"].pop("1"), "has no S9/Eating/1;"),
        (lambda d: entry(d).update(gaussfit=np.zeros((2, 96))),
         r"gaussfit must have shape \(2, 112\); got \(2, 96\)"),
        (lambda d: entry(d)["imgpath"].append("x"), r"3d_gt must have shape \(3, 51\)"),
    ],
)  # fmt: skip
def test_wrong_pickles_are_refused(tmp_path, change, message):
    formats.write_pickle(tmp_path, "test", POSES, changes=[change])
    with pytest.raises(ValueError, match=message):
        read_fits("test", folder=tmp_path)


def stored_as(points):
    """Change the 2D poses of a pickle, given as (images, 16, 2), before they are stored."""

    def change(found):
        for subject in found.values():
            for takes in subject.values():
                for cameras in takes.values():
                    for one in cameras.values():
                        one["2d_hrnet"] = points(one["2d_hrnet"].reshape(-1, 2, 16).swapaxes(1, 2))

    return change


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (lambda p: p.reshape(-1, 32), "read joint after joint"),
        (lambda p: p[..., ::-1].reshape(-1, 32), "read joint after joint, y before x"),
        (lambda p: formats.by_axis(p[..., ::-1]), "with x and y exchanged"),
    ],
    ids=["interleaved", "interleaved y", "y first"],
)
@pytest.mark.parametrize("poses", [POSES, POSES[:6]], ids=["eight", "six"])
def test_2d_poses_in_another_order_are_refused(tmp_path, poses, points, message):
    formats.write_pickle(tmp_path, "test", poses, changes=[stored_as(points)])
    with pytest.raises(ValueError, match=rf"testset_h36m\.pickle: 2D .* but 0\.\d+ {message}\."):
        read_fits("test", folder=tmp_path)


def test_bad_2d_poses_are_not_taken_for_another_order(tmp_path, rng):
    def anywhere(points):
        return rng.uniform(0, 1000, (len(points), 32))

    formats.write_pickle(tmp_path, "test", POSES, changes=[stored_as(anywhere)])
    assert len(read_fits("test", folder=tmp_path)) == 8


def test_missing_pickles_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"testset_h36m.pickle or .*_without_3d.pickle"):
        read_fits("test", folder=tmp_path)


# ------------------------------------------------------------------------ heatmaps

COVARIANCE = np.array([[9.0, 3.0], [3.0, 4.0]])


def table(folder, poses=POSES, **changes):
    cells = 8 + np.floor(normalised(points_of(poses)).numpy() * [9, -9] + 23)
    heatmaps = formats.blobs(cells, COVARIANCE)
    peaks = heatmaps.reshape(len(poses), 16, -1).argmax(-1)
    rows = {
        "action": [b"Photo", b"WalkDog"] * (len(poses) // 2),
        "subject": [b"S11"] * 3 + [b"S9"] * (len(poses) - 3),
        "gt_3d": poses.swapaxes(1, 2),
        "argmax_2d": np.stack([peaks // 64, peaks % 64], 1) / 64,  # row, column
        "heatmap": heatmaps,
    }
    path = folder / "H36M_dataset_h36m_hrnet.h5"
    formats.write_table(path, "testset", {**rows, **changes})
    return cells


def test_heatmaps_of_a_table(tmp_path):
    cells = table(tmp_path)
    found = read_heatmaps("test", folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES / 1000, atol=1e-6)
    np.testing.assert_allclose(found.points, cells, atol=1e-5)
    assert found.action == ("Photo", "WalkDog") * 4
    assert found.subject.tolist() == [11] * 3 + [9] * 5
    np.testing.assert_allclose(found.gaussians().mean, cells, atol=1e-2)
    np.testing.assert_allclose(
        found.gaussians().covariance, np.broadcast_to(COVARIANCE, (8, 16, 2, 2)), rtol=1e-2
    )
    moments = found.gaussians("moments").covariance
    np.testing.assert_allclose(moments, np.broadcast_to(COVARIANCE, moments.shape), atol=0.5)
    condition = found.batch(doubled=False).condition
    assert torch.allclose(condition[..., 4], torch.tensor(-3 / 400), rtol=0.02)  # y up


def test_cells_of_a_table_are_stored_as_row_and_column(tmp_path):
    cells = table(tmp_path)
    (tmp_path / "H36M_dataset_h36m_hrnet.h5").unlink()
    table(tmp_path, argmax_2d=cells.swapaxes(1, 2) / 64)
    with pytest.raises(ValueError, match=r"_hrnet\.h5: 2D poses .* but 0\.\d+ with x and y exch"):
        read_heatmaps("test", folder=tmp_path)


def test_chosen_rows_of_a_table(tmp_path):
    table(tmp_path)
    found = read_heatmaps("test", stride=3, folder=tmp_path)
    np.testing.assert_allclose(found.joints, POSES[[0, 1, 6, 7]] / 1000, atol=1e-6)
    assert found.subject.tolist() == [11, 11, 9, 9]


def test_a_table_may_hold_other_people(tmp_path):
    table(tmp_path, subject=[b"S1", b"S9"] * 4)
    assert len(read_heatmaps("test", folder=tmp_path)) == 4
    other = tmp_path / "other"
    other.mkdir()
    table(other, subject=[b"S1"] * 8)
    with pytest.raises(ValueError, match="testset has no image of S9, S11; it has S1"):
        read_heatmaps("test", folder=other)


def test_wrong_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split must be one of train, test"):
        read_heatmaps("val", folder=tmp_path)
    broken = np.zeros((8, 16, 64, 64), np.float16)
    broken[3, 2, 1, 0] = np.inf
    table(tmp_path, heatmap=broken)
    with pytest.raises(ValueError, match=r"no data set 'dataset/trainset'"):
        read_heatmaps("train", folder=tmp_path)
    with pytest.raises(ValueError, match="heatmaps hold values that are not finite"):
        read_heatmaps("test", folder=tmp_path)


# ------------------------------------------------------------------------ VideoPose3D


@pytest.mark.parametrize("detector", ["cpn", "gt"])
def test_keypoints_of_videopose3d(tmp_path, detector):
    name = human36m.DETECTORS[detector]
    formats.write_videopose(tmp_path, POSES[:3], detector=name)
    found = read_keypoints("test", detector=detector, folder=tmp_path)
    assert len(found) == 2 * 4 * 3  # subjects, cameras, images
    assert set(found.action) == {"WalkDog"}
    mine = found[torch.tensor([6, 7, 8])]  # S9, camera 58860488
    np.testing.assert_allclose(mine.joints, POSES[:3] / 1000, atol=2e-5)
    np.testing.assert_allclose(mine.points, points_of(POSES[:3]), rtol=1e-5)
    assert mine.subject.tolist() == [9] * 3
    assert mine.points[0, MPII16.index("left_wrist"), 1] < mine.points[0, 9, 1]  # above the head
    assert not found.ambiguous.any()
    others = found[:3].points
    assert (others == 0).all()  # of camera 0, as the file has it


def test_keypoints_are_refused_if_files_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="detector must be one of gt, cpn; got 'hrnet'"):
        read_keypoints("test", detector="hrnet", folder=tmp_path)
    formats.write_videopose(tmp_path, POSES[:3])
    with pytest.raises(ValueError, match=r"data_3d_h36m.npz lacks S1; it has S9, S11"):
        read_keypoints("train", folder=tmp_path)
    with pytest.raises(ValueError, match="split must be one of"):
        read_keypoints("val", folder=tmp_path)
    path = tmp_path / "data_2d_h36m_cpn_ft_h36m_dbb.npz"
    whole = read_npz(path, ("positions_2d",))["positions_2d"].item()
    whole["S9"]["WalkDog 2"].pop()
    np.savez(path, positions_2d=whole)
    with pytest.raises(ValueError, match="must have 4 cameras for S9 WalkDog 2; got 3"):
        read_keypoints("test", folder=tmp_path)
    whole["S9"]["WalkDog 2"] = [np.zeros((5, 17, 2))] * 4
    np.savez(path, positions_2d=whole)
    with pytest.raises(ValueError, match=r"2D must have shape \(14, 17, 2\); got \(5, 17, 2\)"):
        read_keypoints("test", folder=tmp_path)
    np.savez(path, positions_2d=np.zeros((5, 17, 2)))
    with pytest.raises(ValueError, match=r"must be a dictionary by subject; got float64 of shape"):
        read_keypoints("test", folder=tmp_path)
    formats.write_videopose(tmp_path, POSES[:3], scale=1.0)
    with pytest.raises(ValueError, match="from the pelvis in a median pose"):
        read_keypoints("test", folder=tmp_path)


# ------------------------------------------------------------------------ all


def test_all_kinds_of_files_give_the_same_poses(tmp_path):
    """The same people as pickle, table and .npz: same targets, nothing swapped."""
    formats.write_pickle(tmp_path, "test", POSES)
    table(tmp_path)
    formats.write_videopose(tmp_path, POSES[:3])
    fits = read_fits("test", folder=tmp_path)[torch.tensor([3, 4, 5])].batch()
    heatmaps = read_heatmaps("test", folder=tmp_path)[:3].batch()
    keypoints = read_keypoints("test", folder=tmp_path)[6:9].batch()
    for other in (heatmaps, keypoints):
        torch.testing.assert_close(other.target, fits.target, atol=3e-5, rtol=0)
        torch.testing.assert_close(other.pose, fits.pose, atol=3e-5, rtol=0)
    torch.testing.assert_close(keypoints.points, fits.points, atol=1e-4, rtol=0)
    assert (heatmaps.points - fits.points).abs().max() < 0.15  # whole cells
