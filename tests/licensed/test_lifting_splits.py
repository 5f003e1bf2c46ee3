"""Tests of humr.licensed.lifting: what splits need, what is in them, what names them."""

from dataclasses import replace

import lifting_formats as formats
import numpy as np
import pytest
import torch
from lifting_formats import WORLD

from humr import storage
from humr.experiments import runs, systems
from humr.experiments.profiles import profile
from humr.licensed import human36m, inventory, lifting
from humr.licensed.datasets import Human36m, LiftingPaperRun, ProposePaperRun
from humr.lifting.data import normalised


@pytest.fixture
def root(licensed, tmp_path, monkeypatch):
    monkeypatch.setattr(lifting, "ROOT", licensed)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    return licensed


def paths(config, *splits):
    return {entry.paths[0] for entry in lifting.needed(config, splits)}


# ------------------------------------------------------------------------ what is needed


def test_every_kind_of_poses_needs_its_own_files():
    assert paths(Human36m(), "train", "validation") == {"h36m/trainset_h36m.pickle"}
    assert paths(Human36m(), "test", "ambiguous") == {"h36m/testset_h36m.pickle"}
    heatmaps = Human36m(poses="heatmaps")
    assert paths(heatmaps, *heatmaps.splits[:4]) == {"h36m/H36M_dataset_h36m_hrnet.h5"}
    for poses, detector in (("cpn", "cpn_ft_h36m_dbb"), ("gt", "gt")):
        assert paths(Human36m(poses=poses), "train", "test") == {
            "h36m/data_3d_h36m.npz", f"h36m/data_2d_h36m_{detector}.npz", "h36m/metadata.xml"
        }  # fmt: skip


def test_groups_need_two_sequences_each():
    found = [paths(Human36m(), group) for group in ("studio", "rooms", "outdoor")]
    for number, names in enumerate(found):
        first, second = 2 * number + 1, 2 * number + 2
        assert names == {
            f"mpi_inf_3dhp/mpi_inf_3dhp_test_set/TS{n}/annot_data.mat" for n in (first, second)
        }


def test_groups_with_heatmaps_need_their_table():
    config = Human36m(poses="heatmaps", transfer_poses="heatmaps")
    table = {"mpi_inf_3dhp/3DHP_dataset_h36m_hrnet.h5"}
    assert paths(config, "studio") == paths(config, "outdoor") == table


def test_absent_files_are_one_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lifting, "ROOT", tmp_path)
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    with pytest.raises(FileNotFoundError) as error:
        runs.train(profile("paper").lifting)
    text = str(error.value)
    assert "needs 2 files or folders that are missing or wrong" in text
    assert "trainset_h36m.pickle, " in text
    assert "testset_h36m.pickle. `python3 -m humr data licensed` lists them all" in text
    for system, name in (("lifting", "trainset_h36m.pickle"), ("propose", "data_3d_h36m.npz")):
        for command in ("world", "train"):
            assert runs.main([command, "paper", "--system", system]) == 1
            printed = capsys.readouterr()
            assert name in printed.out + printed.err
            assert (printed.out + printed.err).count("humr data licensed") == 1
    assert not list(tmp_path.iterdir())


def test_wrong_files_are_refused_with_their_remark(root):
    """Fixtures are far smaller than the official files."""
    with pytest.raises(FileNotFoundError, match=r"trainset_h36m.pickle.* MB"):
        lifting.check(LiftingPaperRun())
    with pytest.raises(FileNotFoundError, match=r"needs 1 files .*data_2d_h36m_gt.npz"):
        lifting.check(ProposePaperRun(world=Human36m(poses="gt")))
    lifting.check(ProposePaperRun())


# ------------------------------------------------------------------------ splits


def test_training_and_validation_share_no_recording(root):
    """Of S8 "Directions" (3 images) is held out, "Sitting" (2) is not; S1 has 7."""
    train, held = (lifting.records(WORLD, split) for split in ("train", "validation"))
    people = formats.people(12, seed=1) / 1000
    np.testing.assert_allclose(held.joints, people[:3], atol=1e-6)
    np.testing.assert_allclose(train.joints, people[[*range(5, 12), 3, 4]], atol=1e-6)
    assert held.subject.tolist() == [8] * 3
    assert set(held.action) == {"Directions"}
    few = lifting.records(replace(WORLD, validation=2), "validation")
    np.testing.assert_allclose(few.joints, people[[0, 2]], atol=1e-6)
    thin = lifting.records(replace(WORLD, stride=3), "train")  # of "Directions" 0, 3, 6, 9 count
    np.testing.assert_allclose(thin.joints, people[[5, 8, 11, 3]], atol=1e-6)


def test_few_images_of_every_tested_split(root):
    """They are spread from the first to the last; those of training stay all."""
    few, all_ = (
        replace(WORLD, tested_images=2),
        {s: lifting.records(WORLD, s) for s in WORLD.splits},
    )
    for split, images in all_.items():
        found, chosen = (
            lifting.records(few, split),
            [0, -1] if split in WORLD.tested else slice(None),
        )
        np.testing.assert_array_equal(found.joints, images.joints[chosen])
    assert len(lifting.records(replace(WORLD, tested_images=99), "test")) == 4
    assert lifting.evaluated_on(few) != lifting.evaluated_on(WORLD)


def test_something_must_be_held_out_and_something_left(root):
    with pytest.raises(ValueError, match=r"0 of 12 training images .* Eating of S8; .* Sitting"):
        lifting.records(replace(WORLD, held_out=("Eating",)), "train")


def test_the_test_is_thinned_and_the_ambiguous_images_are_not(root):
    people = formats.people(8, seed=2) / 1000
    test = lifting.records(WORLD, "test")
    np.testing.assert_allclose(test.joints, people[[5, 7, 1, 3]], atol=1e-6)
    assert test.ambiguous.tolist() == [False, False, True, False]
    hard = lifting.records(WORLD, "ambiguous")
    np.testing.assert_allclose(hard.joints, people[:3], atol=1e-6)
    assert hard.ambiguous.all()


def test_2d_poses_alone(root):
    world = Human36m(poses="cpn", test_stride=1)
    test = lifting.records(world, "test")
    assert len(test) == 2 * 2 * 4 * 2  # subjects, actions, cameras, images
    people = formats.people(2, seed=3)
    third = test.joints.unflatten(0, (2, 2, 4, 2))[:, :, 2]
    np.testing.assert_allclose(third, np.broadcast_to(people / 1000, third.shape), atol=1e-4)
    assert not test.ambiguous.any()
    with pytest.raises(ValueError, match="must be one of train, validation, test, studio, rooms"):
        lifting.records(world, "ambiguous")
    train, held = (lifting.records(world, split) for split in ("train", "validation"))
    assert (len(train), len(held)) == (5 * 16 - 8, 8)


def test_groups_of_the_transfer_set(root):
    found = {group: lifting.records(WORLD, group) for group in ("studio", "rooms", "outdoor")}
    assert {g: sorted(set(r.action)) for g, r in found.items()} == {
        "studio": ["TS1", "TS2"], "rooms": ["TS3", "TS4"], "outdoor": ["TS5", "TS6"]
    }  # fmt: skip
    expected = formats.people(3, seed=7)[[0, 2]] / 1000  # TS4
    np.testing.assert_allclose(found["rooms"].joints[2:], expected, atol=1e-6)
    with pytest.raises(ValueError, match="must be one of train, validation, test, ambiguous; got"):
        lifting.records(replace(WORLD, transfer=False), "studio")


def test_heatmaps(tmp_path, monkeypatch):
    """The table has all subjects; images of S8 in "Walking" are held out. Fits are kept."""
    monkeypatch.setattr(lifting, "ROOT", tmp_path)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    poses = formats.people(4)
    points = torch.from_numpy(formats.mpii(formats.seen(poses))).float()
    cells = 8 + np.floor(normalised(points).numpy() * [9, -9] + 23)
    for table, subjects in (("trainset", [b"S8", b"S1"]), ("testset", [b"S9", b"S11"])):
        covariance = np.array([[9.0, 3.0], [3.0, 4.0]]) * (1 if table == "trainset" else 4)
        rows = {
            "action": [b"Walking", b"Walking", b"Walking", b"Eating"],
            "subject": subjects * 2,
            "gt_3d": poses.swapaxes(1, 2),
            "argmax_2d": cells[..., ::-1].swapaxes(1, 2) / 64,
            "heatmap": formats.blobs(cells, covariance),
        }
        (tmp_path / "h36m").mkdir(exist_ok=True)
        formats.write_table(tmp_path / "h36m" / "H36M_dataset_h36m_hrnet.h5", table, rows)
    world = Human36m(poses="heatmaps", test_stride=4)
    sizes = {s: len(lifting.records(world, s)) for s in world.splits[:4]}
    assert sizes == {"train": 2, "validation": 2, "test": 2, "ambiguous": 4}
    train = lifting.records(world, "train")
    assert (train.subject.tolist(), train.action) == ([1, 1], ("Walking", "Eating"))
    np.testing.assert_allclose(train.joints, poses[[1, 3]] / 1000, atol=1e-6)

    kept = list((tmp_path / "data" / "lifting").glob("heatmaps-*.safetensors"))
    assert len(kept) == 3  # training, the test, and all of it
    direct = human36m.read_heatmaps("test", folder=tmp_path / "h36m")
    monkeypatch.setattr(human36m, "read_heatmaps", None)  # is not asked again
    again = lifting.records(replace(world, validation=1), "ambiguous")
    for name in ("joints", "points", "fits", "moments", "subject"):
        assert torch.equal(getattr(again, name), getattr(direct, name)), name
    assert again.action == direct.action == ("Walking",) * 3 + ("Eating",)


def test_groups_with_heatmaps(tmp_path, monkeypatch):
    """Moments are known then, too; fits are kept. The sequences TS1 to TS6 have an image each."""
    monkeypatch.setattr(lifting, "ROOT", tmp_path)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    (tmp_path / "mpi_inf_3dhp").mkdir()
    names = [f"TS{n}".encode() for n in range(1, 7)]
    poses = formats.people(6)
    cells = np.random.default_rng(0).integers(10, 50, (6, 16, 2)).astype(float)
    rows = {
        "action": names, "subject": names, "gt_3d_uni": poses.swapaxes(1, 2),
        "argmax_2d": cells[..., ::-1].swapaxes(1, 2) / 64,
        "heatmap": formats.blobs(cells, np.eye(2) * 9),
    }  # fmt: skip
    table = tmp_path / "mpi_inf_3dhp/3DHP_dataset_h36m_hrnet.h5"
    formats.write_table(table, "testset", rows, pose="gt_3d_uni")
    world = Human36m(transfer_poses="heatmaps")
    found = {group: lifting.records(world, group) for group in world.groups}
    assert {group: images.action for group, images in found.items()} == {
        "studio": ("TS1", "TS2"), "rooms": ("TS3", "TS4"), "outdoor": ("TS5", "TS6")
    }  # fmt: skip
    rooms = found["rooms"]
    np.testing.assert_allclose(rooms.joints, poses[2:4] / 1000, atol=1e-6)
    np.testing.assert_allclose(rooms.gaussians("moments").sigma, 3, atol=0.1)
    np.testing.assert_allclose(rooms.gaussians().mean, cells[2:4], atol=0.05)
    assert len(list((tmp_path / "data" / "lifting").glob("heatmaps-*.safetensors"))) == 3
    monkeypatch.setattr(lifting, "read_test_heatmaps", None)  # is not asked again
    assert torch.equal(lifting.records(world, "rooms").fits, rooms.fits)
    (name,) = lifting.digests(world, ["rooms"])
    assert name.endswith("mpi_inf_3dhp/3DHP_dataset_h36m_hrnet.h5")


# ------------------------------------------------------------------------ names, store


def test_the_name_of_the_images_follows_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lifting, "ROOT", tmp_path)
    (tmp_path / "h36m").mkdir()
    names = [lifting.evaluated_on(WORLD)]
    for split, poses in (("test", 8), ("train", 8), ("test", 9)):
        formats.write_pickle(tmp_path / "h36m", split, formats.people(poses))
        names.append(lifting.evaluated_on(WORLD))
    assert names[0] != names[1] == names[2] != names[3]  # training files do not count
    formats.write_test_sequence(tmp_path / "mpi_inf_3dhp", "TS6", formats.people(2), [1, 1])
    assert lifting.evaluated_on(WORLD) != names[3]
    assert lifting.evaluated_on(replace(WORLD, transfer=False)) != names[3]
    trained = lifting.digests(WORLD, ["train"])
    assert [name.rpartition("/")[2] for name in trained] == ["trainset_h36m.pickle"]
    (digest,) = trained.values()
    assert len(digest) == 64


def test_a_pickle_without_poses_is_hashed_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(lifting, "ROOT", tmp_path)
    (tmp_path / "h36m").mkdir()
    formats.write_pickle(tmp_path / "h36m", "test", formats.people(8), with_3d=False)
    (name,) = lifting.digests(WORLD, ["test"])
    assert name.endswith("testset_h36m_without_3d.pickle")
    for subject in ("S9", "S1"):  # the poses lie beside it; S1 is of the other split
        folder = human36m.cdf_folder(subject, tmp_path / "h36m")
        folder.mkdir(parents=True)
        (folder / "Walking.54138969.cdf").write_text("poses")
    assert [name.rpartition("h36m/")[2] for name in lifting.digests(WORLD, ["test"])] == [
        "testset_h36m_without_3d.pickle",
        "S9/MyPoseFeatures/D3_Positions_mono/Walking.54138969.cdf",
    ]
    before = lifting.evaluated_on(WORLD)
    (human36m.cdf_folder("S9", tmp_path / "h36m") / "Walking.54138969.cdf").write_text("others")
    assert lifting.evaluated_on(WORLD) != before


def test_the_store_makes_nothing(root, tmp_path):
    run = LiftingPaperRun(world=WORLD)
    store = systems.store(run)
    folder = store.generate()
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert folder.is_relative_to(tmp_path / "data" / "lifting")
    assert store.generate(splits=["test"], workers=2) == folder
    assert len(store.load("test")) == 4
    with pytest.raises(ValueError, match="there are no shards of them"):
        store.make(WORLD, "test", 0)


def test_files_are_found_by_their_first_path():
    first = {file.paths[0] for file in inventory.FILES}
    configs = [Human36m(poses=poses) for poses in ("fits", "heatmaps", "cpn", "gt")]
    for config in (*configs, Human36m(transfer_poses="heatmaps")):
        assert set().union(*(lifting._files(config, split) for split in config.splits)) <= first
