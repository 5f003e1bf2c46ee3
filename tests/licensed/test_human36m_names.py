"""Tests of humr.licensed.human36m: names, joints, frames, .cdf files, cameras."""

import sys

import lifting_formats as formats
import numpy as np
import pytest

from humr.licensed import human36m
from humr.licensed.human36m import Video
from humr.skeletons import H36M17

# ------------------------------------------------------------------------ names


def test_splits_and_videos():
    train, test = list(human36m.sequences("train")), list(human36m.sequences("test"))
    assert (len(train), len(test)) == (5 * 15 * 8 - 1, 2 * 15 * 8 - 1)
    assert {video.subject for video in train} == {"S1", "S5", "S6", "S7", "S8"}
    assert {video.subject for video in test} == {"S9", "S11"}
    assert test[0] == ("S9", "Directions", "0", "54138969")
    assert Video("S11", "Directions", "0", "54138969") not in test
    assert Video("S11", "Directions", "1", "54138969") in test
    assert Video("S5", "Waiting", "1", "55011271") not in train
    with pytest.raises(ValueError, match="split must be one of train, test; got 'val'"):
        list(human36m.sequences("val"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Walking", ("Walking", "")), ("WalkingDog 1", ("WalkDog", "1")),
     ("TakingPhoto", ("Photo", "")), ("SittingDown 2", ("SittingDown", "2"))],
)  # fmt: skip
def test_names_of_recordings(name, expected):
    assert human36m.split_name(name) == expected


@pytest.mark.parametrize(
    ("numbers", "first", "second"),
    # S9 Walking; S1 Eating; S6 Waiting; S5 Directions; S5 Discussion and S11 Phoning
    [("01", "", "1"), ("02", "", "2"), ("03", "", "3"), ("12", "2", "1"), ("23", "3", "2")],
)
def test_takes_are_numbered_as_in_the_official_code(numbers, first, second):
    numbers = [number.replace("0", "") for number in numbers]
    for order in (numbers, numbers[::-1], numbers * 4):
        assert human36m.subactions(order) == {first: "0", second: "1"}


def test_single_takes_and_too_many():
    assert human36m.subactions([""]) == {"": "0"}
    assert human36m.subactions(["1", "1"]) == {"1": "1"}
    with pytest.raises(ValueError, match="two takes"):
        human36m.subactions(["", "1", "2"])


def test_seventeen_of_32_joints():
    official = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    assert list(human36m.H36M17_FROM_32) == official
    poses = formats.people(3)
    rows = formats.mocap(poses).reshape(3, 96)
    np.testing.assert_array_equal(human36m.seventeen(rows), poses)
    assert rows[0, 3 * official[H36M17.index("left_wrist")] + 1] == poses[0, 13, 1]


def test_every_fourth_frame_from_the_fourth_on():
    assert human36m.stored(np.arange(12)).tolist() == [3, 7, 11]
    assert human36m.stored(np.arange(11)).tolist() == [3, 7]
    assert not len(human36m.stored(np.arange(3)))


# ------------------------------------------------------------------------ cdf


def write_names(folder, names):
    for name in names:
        (folder / f"{name}.cdf").touch()


def test_cdf_files_by_video(tmp_path):
    folder = tmp_path / "S11" / "MyPoseFeatures" / "D3_Positions_mono"
    folder.mkdir(parents=True)
    write_names(folder, [f"{name}.{camera}" for name in (
        "Directions", "Directions 1", "Phoning 2", "Phoning 3", "TakingPhoto 1", "TakingPhoto",
        "_ALL", "_ALL 1") for camera in ("54138969", "60457274")])  # fmt: skip
    found = {video: path.stem for video, path in human36m.cdf_files("S11", tmp_path).items()}
    assert found == {
        ("S11", "Directions", "0", "60457274"): "Directions.60457274",  # the other is skipped
        ("S11", "Directions", "1", "54138969"): "Directions 1.54138969",
        ("S11", "Directions", "1", "60457274"): "Directions 1.60457274",
        ("S11", "Phoning", "0", "54138969"): "Phoning 3.54138969",
        ("S11", "Phoning", "0", "60457274"): "Phoning 3.60457274",
        ("S11", "Phoning", "1", "54138969"): "Phoning 2.54138969",
        ("S11", "Phoning", "1", "60457274"): "Phoning 2.60457274",
        ("S11", "Photo", "0", "54138969"): "TakingPhoto.54138969",
        ("S11", "Photo", "0", "60457274"): "TakingPhoto.60457274",
        ("S11", "Photo", "1", "54138969"): "TakingPhoto 1.54138969",
        ("S11", "Photo", "1", "60457274"): "TakingPhoto 1.60457274",
    }
    with pytest.raises(FileNotFoundError, match=r"no .cdf file in .*Poses_D3_Positions_mono_S9"):
        human36m.cdf_files("S9", tmp_path)


class Cdf:
    """The part of the package cdflib that is used."""

    values = np.zeros(0)

    def __init__(self, path):
        assert path.suffix == ".cdf"

    def varget(self, name):
        if name != "Pose":
            raise ValueError(name)
        return self.values


def test_cdf_poses(tmp_path, monkeypatch):
    poses = formats.people(2)
    monkeypatch.setitem(sys.modules, "cdflib", type("cdflib", (), {"CDF": Cdf}))
    frames = formats.mocap(formats.at_full_rate(poses)).reshape(1, -1, 96)
    monkeypatch.setattr(Cdf, "values", frames.astype(np.float32))
    np.testing.assert_allclose(human36m.read_cdf(tmp_path / "x.cdf"), poses, atol=1e-3)
    monkeypatch.setattr(Cdf, "values", frames[..., :64])
    with pytest.raises(ValueError, match=r"must have shape \(1, frames, 96\); got \(1, 10, 64\)"):
        human36m.read_cdf(tmp_path / "x.cdf")


def test_cdf_files_with_the_package(tmp_path):
    """Where cdflib is installed, a file that it wrote."""
    writer = pytest.importorskip("cdflib.cdfwrite")
    poses = formats.people(2)
    values = formats.mocap(formats.at_full_rate(poses)).reshape(1, -1, 96).astype(np.float32)
    file = writer.CDF(tmp_path / "Walking.54138969.cdf")
    file.write_var(
        {"Variable": "Pose", "Data_Type": 21, "Num_Elements": 1, "Rec_Vary": True,
         "Dim_Sizes": list(values.shape[1:])}, var_data=values,
    )  # fmt: skip
    file.close()
    read = human36m.read_cdf(tmp_path / "Walking.54138969.cdf")
    np.testing.assert_allclose(read, poses, atol=1e-3)
    (tmp_path / "text.cdf").write_text("not found")
    with pytest.raises(ValueError, match=r"text.cdf is no readable .cdf file"):
        human36m.read_cdf(tmp_path / "text.cdf")


def test_cdf_files_need_a_package_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(ImportError, match=r"x.cdf: .* pip install cdflib"):
        human36m.read_cdf(tmp_path / "x.cdf")


# ------------------------------------------------------------------------ cameras


def test_cameras(tmp_path):
    expected = formats.write_metadata(tmp_path)
    found = human36m.read_cameras(tmp_path)
    assert found.keys() == expected.keys()
    for key, (rotation, position) in expected.items():
        np.testing.assert_allclose(found[key].rotation, rotation, atol=1e-12)
        np.testing.assert_array_equal(found[key].position, position)
    rotation, position = expected["S8", "55011271"]
    ahead = position + 2000 * rotation[2]  # two metres along the camera's axis
    np.testing.assert_allclose(found["S8", "55011271"].see(ahead), [0, 0, 2000], atol=1e-9)


def test_other_metadata_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metadata.xml"):
        human36m.read_cameras(tmp_path)
    formats.write_metadata(tmp_path, numbers=299)
    with pytest.raises(ValueError, match="must hold 300 numbers; got 299"):
        human36m.read_cameras(tmp_path)
    (tmp_path / "metadata.xml").write_text("<db/>")
    with pytest.raises(ValueError, match="must hold 300 numbers; got 0"):
        human36m.read_cameras(tmp_path)
