"""Tests of humr.h36m: names, joints, frames, cameras, and pickles that are not trusted."""

import collections
import os
import pickle
import sys

import lifting_formats as formats
import numpy as np
import pytest

from humr import h36m
from humr.h36m import Video, read_object, read_plain
from humr.skeletons import H36M17

# ------------------------------------------------------------------------ names


def test_splits_and_videos():
    train, test = list(h36m.sequences("train")), list(h36m.sequences("test"))
    assert (len(train), len(test)) == (5 * 15 * 8 - 1, 2 * 15 * 8 - 1)
    assert {video.subject for video in train} == {"S1", "S5", "S6", "S7", "S8"}
    assert {video.subject for video in test} == {"S9", "S11"}
    assert test[0] == ("S9", "Directions", "0", "54138969")
    assert Video("S11", "Directions", "0", "54138969") not in test
    assert Video("S11", "Directions", "1", "54138969") in test
    assert Video("S5", "Waiting", "1", "55011271") not in train
    with pytest.raises(ValueError, match="split must be one of train, test; got 'val'"):
        list(h36m.sequences("val"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Walking", ("Walking", "")), ("WalkingDog 1", ("WalkDog", "1")),
     ("TakingPhoto", ("Photo", "")), ("SittingDown 2", ("SittingDown", "2"))],
)  # fmt: skip
def test_names_of_recordings(name, expected):
    assert h36m.split_name(name) == expected


@pytest.mark.parametrize(
    ("numbers", "first", "second"),
    # S9 Walking; S1 Eating; S6 Waiting; S5 Directions; S5 Discussion and S11 Phoning
    [("01", "", "1"), ("02", "", "2"), ("03", "", "3"), ("12", "2", "1"), ("23", "3", "2")],
)
def test_takes_are_numbered_as_in_the_official_code(numbers, first, second):
    numbers = [number.replace("0", "") for number in numbers]
    for order in (numbers, numbers[::-1], numbers * 4):
        assert h36m.subactions(order) == {first: "0", second: "1"}


def test_single_takes_and_too_many():
    assert h36m.subactions([""]) == {"": "0"}
    assert h36m.subactions(["1", "1"]) == {"1": "1"}
    with pytest.raises(ValueError, match="two takes"):
        h36m.subactions(["", "1", "2"])


def test_seventeen_of_32_joints():
    official = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    assert list(h36m.H36M17_FROM_32) == official
    poses = formats.people(3)
    rows = formats.mocap(poses).reshape(3, 96)
    np.testing.assert_array_equal(h36m.seventeen(rows), poses)
    assert rows[0, 3 * official[H36M17.index("left_wrist")] + 1] == poses[0, 13, 1]


def test_every_fourth_frame_from_the_fourth_on():
    assert h36m.stored(np.arange(12)).tolist() == [3, 7, 11]
    assert h36m.stored(np.arange(11)).tolist() == [3, 7]
    assert not len(h36m.stored(np.arange(3)))


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
    found = {video: path.stem for video, path in h36m.cdf_files("S11", tmp_path).items()}
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
        h36m.cdf_files("S9", tmp_path)


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
    np.testing.assert_allclose(h36m.read_cdf(tmp_path / "x.cdf"), poses, atol=1e-3)
    monkeypatch.setattr(Cdf, "values", frames[..., :64])
    with pytest.raises(ValueError, match=r"must have shape \(1, frames, 96\); got \(1, 10, 64\)"):
        h36m.read_cdf(tmp_path / "x.cdf")


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
    read = h36m.read_cdf(tmp_path / "Walking.54138969.cdf")
    np.testing.assert_allclose(read, poses, atol=1e-3)
    (tmp_path / "text.cdf").write_text("not found")
    with pytest.raises(ValueError, match=r"text.cdf is no readable .cdf file"):
        h36m.read_cdf(tmp_path / "text.cdf")


def test_cdf_files_need_a_package_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cdflib", None)
    with pytest.raises(ImportError, match=r"x.cdf: .* pip install cdflib"):
        h36m.read_cdf(tmp_path / "x.cdf")


# ------------------------------------------------------------------------ cameras


def test_cameras(tmp_path):
    expected = formats.write_metadata(tmp_path)
    found = h36m.read_cameras(tmp_path)
    assert found.keys() == expected.keys()
    for key, (rotation, position) in expected.items():
        np.testing.assert_allclose(found[key].rotation, rotation, atol=1e-12)
        np.testing.assert_array_equal(found[key].position, position)
    rotation, position = expected["S8", "55011271"]
    ahead = position + 2000 * rotation[2]  # two metres along the camera's axis
    np.testing.assert_allclose(found["S8", "55011271"].see(ahead), [0, 0, 2000], atol=1e-9)


def test_other_metadata_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metadata.xml"):
        h36m.read_cameras(tmp_path)
    formats.write_metadata(tmp_path, numbers=299)
    with pytest.raises(ValueError, match="must hold 300 numbers; got 299"):
        h36m.read_cameras(tmp_path)
    (tmp_path / "metadata.xml").write_text("<db/>")
    with pytest.raises(ValueError, match="must hold 300 numbers; got 0"):
        h36m.read_cameras(tmp_path)


# ------------------------------------------------------------------------ pickles

PLAIN = {
    "array": np.arange(6.0).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6, dtype="i2").reshape(2, 3)),
    "objects": np.array([{"a": [1]}, None], dtype=object),
    "words": ["x", ("y", b"z"), {"s", "t"}, None, True, 1.5, 2**70],
    "ordered": collections.OrderedDict(b=1, a=2),
    "number": np.float32(2.5),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_are_read_whatever_the_protocol(tmp_path, protocol):
    path = tmp_path / "plain.pickle"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    found = read_plain(path)
    assert found.keys() == PLAIN.keys()
    for key in ("array", "columns first"):
        np.testing.assert_array_equal(found[key], PLAIN[key])
        assert found[key].dtype == PLAIN[key].dtype
    assert found["objects"].tolist() == PLAIN["objects"].tolist()
    for key in ("words", "ordered", "number"):
        assert found[key] == PLAIN[key]


def test_pickles_of_old_numpy_and_python_2(tmp_path):
    path = tmp_path / "old.pickle"
    content = pickle.dumps({"x": np.arange(3)}, protocol=2)
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert b"cnumpy.core." in path.read_bytes()
    assert read_plain(path)["x"].tolist() == [0, 1, 2]
    path.write_bytes(b"\x80\x02U\x03\xe9t\xe9.")  # a byte string of Python 2
    assert read_plain(path) == "été"


class Trap:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [(os.system, ("echo",), "system"), (eval, ("1",), "eval"),
     (getattr, ("", "upper"), "getattr"), (np.fromfile, ("x",), "fromfile"),
     (pickle.loads, (b"N.",), "loads")],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_programs_are_refused(tmp_path, function, arguments, name, protocol):
    path = tmp_path / "trap.pickle"
    path.write_bytes(pickle.dumps([1, Trap(function, *arguments)], protocol=protocol))
    with pytest.raises(ValueError, match=rf"trap.pickle is refused: it asks for .*{name}"):
        read_plain(path)


def test_names_cannot_be_reached_through_dots(tmp_path):
    path = tmp_path / "dots.pickle"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")
    with pytest.raises(ValueError, match=r"asks for numpy.ndarray.__class__"):
        read_plain(path)


def test_only_one_codec_is_known(tmp_path):
    path = tmp_path / "codec.pickle"
    path.write_bytes(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.")
    with pytest.raises(ValueError, match="is refused: 'hex'"):
        read_plain(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04]", b"\x80\x63N.", b"X\xff\xff"])
def test_damaged_pickles_are_refused(tmp_path, content):
    path = tmp_path / "damaged.pickle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.pickle is refused"):
        read_plain(path)


def test_objects_of_other_packages_are_stand_ins(tmp_path):
    path = tmp_path / "objects.pickle"
    counter = collections.Counter("aab")
    path.write_bytes(pickle.dumps(counter))
    with pytest.raises(ValueError, match=r"asks for collections.Counter"):
        read_plain(path)
    path.write_bytes(b"\x80\x02cchumpy.ch\nCh\n)\x81}X\x01\x00\x00\x00xK\x07sb.")
    found = read_plain(path, stand_ins=("chumpy",))
    assert (found.kind, found.state) == ("chumpy.ch.Ch", {"x": 7})
    with pytest.raises(ValueError, match=r"asks for chumpy.ch.Ch"):
        read_plain(path, stand_ins=("chum",))
    assert "chumpy" not in sys.modules


def test_objects_of_npz_files(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, positions={"S1": [np.ones(2)]}, plain=np.ones(3))
    assert read_object(path, "positions")["S1"][0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="plain must be one object; got float64"):
        read_object(path, "plain")
    with pytest.raises(ValueError, match=r"some.npz is no .npz file with missing"):
        read_object(path, "missing")
    np.savez(path, positions=np.array(Trap(os.system, "echo"), dtype=object))
    with pytest.raises(ValueError, match="is refused: it asks for"):
        read_object(path, "positions")
    path.write_text("not found")
    with pytest.raises(ValueError, match=r"is no .npz file"):
        read_object(path, "positions")
