"""Tests of humr.licensed.inventory: found, missing and wrong files, each by name."""

import pickle
import subprocess
import zipfile
from dataclasses import replace
from functools import partial

import lifting_formats as lifting
import numpy as np
import pytest
from formats import person, write_annotations, write_heatmap_samples, write_mask
from scipy import sparse

from humr.files import ROOT
from humr.licensed import datasets, inventory
from humr.licensed.datasets import SETS
from humr.licensed.human36m import cdf_folder, sequences
from humr.licensed.inventory import FILES, PARTS, PUBLISHERS, inspect, lacking, main, report


def files(group):
    return [file for file in FILES if file.group == group]


def state(root, path):
    found = [f for f in inspect(root) if f.path.relative_to(root).as_posix() == path]
    assert len(found) == 1, path
    return found[0]


def test_everything_is_listed_once():
    paths = [path for file in FILES for path in file.paths]
    assert len(set(paths)) == len(paths)
    for each in SETS.values():
        assert f"annotations/{each.annotations}" in paths
        if each.split == "train":
            assert f"heatmap_samples/{each.name}" in paths
    assert {file.publisher for file in FILES} == set(PUBLISHERS)
    publishers = {file.group: file.publisher for file in FILES}
    assert all(publishers[file.group] == file.publisher for file in FILES)
    assert {part for file in FILES for part in file.parts} == set(PARTS)


def test_nothing_is_there(tmp_path):
    checks = inspect(tmp_path)
    assert {each.state for each in checks} == {"missing"}
    text = report(checks)
    assert "annotations, training: 0 of 29\n" in text
    for each in checks:  # one by one, each with its own line
        assert text.count(f"  missing  {each.path}\n") >= 1
    assert text.count("  missing  ") == len(FILES)
    assert "from     smpl-x.is.tue.mpg.de (version 1.1)\n  licence  own licence: research" in text
    assert "for      3DPW, EMDB, plausibility, training" in text
    assert "training: lacks " in text
    assert not lacking([], "training")


def test_found_files(tmp_path):
    write_annotations(tmp_path, "emdb-p1-occl", objects=True)
    write_heatmap_samples(tmp_path, "agora-bfh", 2)
    write_mask(tmp_path, "static-gym-hair", "seq_000002/x.png", person(8, 9))
    write_mask(tmp_path, "emdb-p1", "P1/a/images/00003.jpg", person(8, 9))
    found = {f.path.relative_to(tmp_path).as_posix(): f for f in inspect(tmp_path)}
    good = {path: each.remark for path, each in found.items() if each.state == "ok"}
    hair = "20221024_3-10_100_batch01handhair_static_highSchoolGym_6fps"
    assert good == {
        "annotations/emdb_p1_occl.npz": "0.0 MB, 10 arrays",
        "heatmap_samples/agora-bfh": "1 *.npy.gz; not compared: no annotations",
        f"env_masks/{hair}": "1 seq_*; not compared: no annotations",
    }
    assert "must hold 5 masks; 3 are missing" in found["test_images/EMDB/masks"].remark
    text = report(inspect(tmp_path))
    assert "annotations, test: 1 of 3\n" in text
    assert "lacks" in text


def test_the_report_has_one_line_per_file(tmp_path):
    group = files("annotations, test")
    write_annotations(tmp_path, "3dpw-test-cam")
    write_annotations(tmp_path, "emdb-p1", vitpose=None)
    folder = tmp_path / "annotations"
    wrong = f"{folder}/emdb_p1.npz lacks vitpose; it has imgname, center, scale"
    lines = report(inspect(tmp_path, files=group)).splitlines()
    assert lines[:2] == [
        "annotations, test: 1 of 3",
        f"  ok       {folder}/3dpw_test_w_cam.npz  0.0 MB, 10 arrays",
    ]
    assert lines[2].startswith(f"  wrong    {wrong}")
    assert lines[3] == f"  missing  {folder}/emdb_p1_occl.npz"
    assert [line.split()[0] for line in lines[4:7]] == ["from", "licence", "for"]
    assert lines[6] == "  for      EMDB, plausibility"
    ok, other = inspect(tmp_path, files=group[:1]), replace(group[0], paths=("a", "bb"))
    short = report([*ok, *ok, replace(ok[0], path=tmp_path / "bb", file=other)]).splitlines()
    assert short[3] == f"  ok       {tmp_path / 'bb'!s:<{len(str(ok[0].path))}}  0.0 MB, 10 arrays"
    assert "from     " not in "".join(short)
    bare = replace(ok[0], state="wrong", remark="Permission denied")
    assert f"  wrong    {ok[0].path}  Permission denied\n" in report([bare])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("emdb-p1", {"vitpose": None}, r"emdb_p1.npz lacks vitpose; it has imgname"),
        ("emdb-p1", {"shape": np.zeros((5, 11))}, "shape must have shape (any, 10); got (5, 11)"),
        ("static-gym", {"shape": np.zeros((5, 10))}, "shape must have shape (any, 11)"),
        ("static-gym", {"object_occlusion": None}, "lacks object_occlusion"),
        ("emdb-p1", {"pose_cam": np.zeros((5, 165))}, "must have shape (any, 72); got (5, 165)"),
    ],
)
def test_wrong_annotations(tmp_path, name, changes, message):
    write_annotations(tmp_path, name, **changes)
    found = state(tmp_path, f"annotations/{SETS[name].annotations}")
    assert found.state == "wrong"
    assert message in found.remark
    assert message in report([found])


def test_wrong_folders_and_files(tmp_path):
    path = write_heatmap_samples(tmp_path, "agora-bfh", 2)
    path.write_bytes(path.read_bytes()[:100])
    assert "partial download" in state(tmp_path, "heatmap_samples/agora-bfh").remark
    path.unlink()
    assert state(tmp_path, "heatmap_samples/agora-bfh").state == "wrong"
    remark = state(tmp_path, "heatmap_samples/agora-bfh").remark
    assert "must hold 1 *.npy.gz or more; got 0" in remark
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt/humr_best.ckpt").write_text("<html>not found</html>")
    assert "is no file of torch: it must" in state(tmp_path, "ckpt/humr_best.ckpt").remark
    (tmp_path / "test_images/EMDB/P1/14_outdoor_climb/images").mkdir(parents=True)
    found = state(tmp_path, "test_images/EMDB")
    assert "must hold 17 P*/*/images or more; got 1" in found.remark


def test_weights_of_vitpose_may_have_other_names(tmp_path):
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt/vitpose-h.pth").write_text("<html>not found</html>")
    assert "is no file of torch: it must" in state(tmp_path, "ckpt/vitpose-h.pth").remark
    (tmp_path / "ckpt/vitpose-h.pth").unlink()
    assert state(tmp_path, "ckpt/vitpose-h-multi-coco.pth").state == "missing"


def smpl(**changes):
    regressor = sparse.csc_matrix(([1.0], ([3], [6000])), shape=(24, 6890))
    content = {"v_template": np.zeros((6890, 3)), "J_regressor": regressor,
               "weights": np.zeros((6890, 24))}  # fmt: skip
    return pickle.dumps(content | changes, 2)


@pytest.mark.parametrize(
    "place",
    [
        "body_models/smpl/SMPL_MALE.pkl",
        "body_models/SMPL_python_v.1.1.0/smpl/models/SMPL_MALE.pkl",
        "body_models/SMPL_python_v.1.1.0/smpl/models/basicmodel_m_lbs_10_207_0_v1.1.0.pkl",
    ],
)
def test_bodies_are_found_where_downloads_put_them(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(smpl())
    assert state(tmp_path, place).state == "ok"
    path.write_bytes(smpl(v_template=np.zeros((6891, 3))))
    assert "v_template must have shape (6890, 3); got (6891, 3)" in state(tmp_path, place).remark
    path.write_bytes(pickle.dumps(subprocess.run))
    assert "subprocess.run, which is refused" in state(tmp_path, place).remark


def test_arrays(tmp_path):
    (tmp_path / "utils").mkdir()
    path = tmp_path / "utils/J_regressor_h36m.npy"
    np.save(path, np.zeros((17, 6890)))
    assert state(tmp_path, "utils/J_regressor_h36m.npy").remark == "0.9 MB"
    np.save(path, np.zeros((17, 6891)))
    assert "got (17, 6891)" in state(tmp_path, "utils/J_regressor_h36m.npy").remark
    np.savez(tmp_path / "utils/smpl_mean_params.npz", pose=np.zeros(144), shape=np.zeros(10),
             cam=np.zeros(3))  # fmt: skip
    assert state(tmp_path, "utils/smpl_mean_params.npz").state == "ok"


def test_lifting_files(tmp_path):
    h36m, poses = tmp_path / "h36m", lifting.people(3)
    h36m.mkdir()
    lifting.write_videopose(h36m, poses)
    lifting.write_pickle(h36m, "test", poses, with_3d=False)
    rows = {"action": [b"Photo"] * 3, "subject": [b"S9"] * 3, "gt_3d": poses.swapaxes(1, 2),
            "argmax_2d": np.zeros((3, 2, 16)), "heatmap": np.zeros((3, 16, 64, 64))}  # fmt: skip
    for table in ("trainset", "testset"):
        lifting.write_table(h36m / "H36M_dataset_h36m_hrnet.h5", table, rows)
    lifting.write_table(h36m / "H36M_dataset_orig_hrnet.h5", "testset", rows)
    folder = tmp_path / "mpi_inf_3dhp"
    lifting.write_test_sequence(folder, "TS3", poses, [1, 0, 1])
    checks = {f.path.relative_to(tmp_path).as_posix(): f for f in inspect(tmp_path)}
    assert {path for path, found in checks.items() if found.state == "ok"} == {
        "h36m/data_3d_h36m.npz", "h36m/data_2d_h36m_cpn_ft_h36m_dbb.npz", "h36m/metadata.xml",
        "h36m/H36M_dataset_h36m_hrnet.h5",
        "mpi_inf_3dhp/mpi_inf_3dhp_test_set/TS3/annot_data.mat",
    }  # fmt: skip
    assert checks["h36m/metadata.xml"].remark == "44 positions of cameras"
    wrong = checks["h36m/H36M_dataset_orig_hrnet.h5"].remark
    assert "lacks dataset/trainset/gt_3d, dataset/trainset/argmax_2d" in wrong
    remark = checks["h36m/testset_h36m_without_3d.pickle"].remark
    assert "must have 50 MB or more" in remark
    assert len(lacking(checks.values(), "lifting transfer")) == 5


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("h36m/trainset_h36m.pickle", "github.com/twehrbein/Probabilistic-"),
        ("ckpt/model.pt", "github.com/twehrbein/Probabilistic-"),
        ("h36m/H36M_dataset_orig_hrnet.h5", "Zenodo record 20367108"),
        ("mpi_inf_3dhp/3DHP_dataset_h36m_hrnet.h5", "github.com/cuongle1206/FMPose"),
        ("h36m/data_3d_h36m.npz", "github.com/facebookresearch/VideoPose3D"),
        ("h36m/data_2d_h36m_gt.npz", "github.com/facebookresearch/VideoPose3D"),
        ("h36m/metadata.xml", "vision.imar.ro"),
        ("h36m/S11/MyPoseFeatures/D3_Positions_mono", "vision.imar.ro"),
        ("mpi_inf_3dhp/mpi_inf_3dhp_test_set/TS1/annot_data.mat", "vcai.mpi-inf.mpg.de"),
        ("ckpt/humr_best.ckpt", "cloud.tnt.uni-hannover.de"),
    ],
)
def test_files_come_from_those_who_publish_them(tmp_path, path, site):
    text = report(inspect(tmp_path, files=[f for f in FILES if path in f.paths]))
    (line,) = [line for line in text.splitlines() if line.startswith("  from     ")]
    assert site in line


def write_cdf(h36m, split):
    """Empty .cdf files of a split, named as those of Human3.6M are."""
    for subject, action, take, camera in sequences(split):
        folder = cdf_folder(subject, h36m)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{action}{' 1' if take == '1' else ''}.{camera}.cdf").touch()


def test_3d_poses_beside_fits(tmp_path):
    """Large enough to be official: a pickle of fits without 3D poses needs the .cdf files."""
    h36m, folder = tmp_path / "h36m", "h36m/S9/MyPoseFeatures/D3_Positions_mono"
    h36m.mkdir()
    name = "h36m/testset_h36m_without_3d.pickle"
    (tmp_path / name).write_bytes(pickle.dumps(bytes(50 * 2**20), 4))
    assert "no .cdf file in" in state(tmp_path, name).remark
    write_cdf(h36m, "test")
    assert state(tmp_path, name).remark == "50.0 MB, 3D poses beside it"
    assert state(tmp_path, folder).remark == "120 .cdf files"
    assert state(tmp_path, folder.replace("S9", "S11")).remark == "119 .cdf files"
    assert state(tmp_path, folder.replace("S9", "S1")).state == "missing"
    (tmp_path / folder / "Eating 1.60457274.cdf").unlink()
    wrong = "S9/MyPoseFeatures/D3_Positions_mono must hold 120 .cdf files; 1 are missing, that of "
    for path in (folder, name):
        assert f"{wrong}S9/Eating/1/60457274 the first" in state(tmp_path, path).remark
    (tmp_path / name).rename(h36m / "testset_h36m.pickle")
    assert state(tmp_path, "h36m/testset_h36m.pickle").remark == "50.0 MB"


def test_heatmaps_of_the_transfer_set(tmp_path):
    folder, name = tmp_path / "mpi_inf_3dhp", "3DHP_dataset_h36m_hrnet.h5"
    folder.mkdir()
    rows = {"action": [b"TS1"], "subject": [b"TS1"]}
    lifting.write_table(folder / name, "testset", rows, pose="gt_3d_uni")
    found = state(tmp_path, f"mpi_inf_3dhp/{name}")
    assert found.state == "ok"
    assert found.file.parts == ("transfer heatmaps",)
    (folder / name).unlink()
    lifting.write_table(folder / name, "testset", rows)
    assert "lacks dataset/testset/gt_3d_uni" in state(tmp_path, f"mpi_inf_3dhp/{name}").remark


def test_parts_are_complete_when_all_their_files_are(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").touch()
    check = partial(inventory.folder, pattern="*")
    first = replace(FILES[0], paths=("a",), check=check, parts=("weights",))
    second = replace(first, paths=("b",), parts=("masks",))
    checks = inspect(tmp_path, files=[first, second])
    assert lacking(checks, "weights") == []
    assert [f.path.name for f in lacking(checks, "masks")] == ["b"]
    text = report(checks)
    assert "weights: complete (the official weights)" in text
    assert "masks: lacks 1 (the mask loss)" in text
    with pytest.raises(ValueError, match="part must be one of training, masks"):
        lacking(checks, "everything")


def test_every_file_that_the_inventory_knows_is_ignored_by_git():
    paths = [f"data/licensed/{path}" for file in FILES for path in file.paths]
    result = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        input="\n".join(paths), capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert len(result.stdout.split()) == len(paths)


def test_the_command_prints_the_report(capsys):
    assert main() == 0
    assert report(inspect()) in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), MemoryError(), zipfile.BadZipFile("odd"), SystemError("odd")]
)
def test_a_broken_file_never_ends_the_list(tmp_path, error):
    def broken(path):
        raise error

    (tmp_path / "a").touch()
    first = replace(FILES[0], paths=("a",), check=broken)
    checks = inspect(tmp_path, files=[first, replace(first, paths=("b",))])
    assert [each.state for each in checks] == ["wrong", "missing"]
    assert f"  wrong    {tmp_path / 'a'} cannot be read: {error!r}\n" in report(checks)


def test_readers_look_where_the_inventory_does():
    for paths in (*datasets.SMPL_BODIES.values(), datasets.SMPLX_BODY):
        assert paths in [file.paths for file in FILES]
    assert [f"ckpt/{name}" for name in datasets.VITPOSE] in [list(file.paths) for file in FILES]
