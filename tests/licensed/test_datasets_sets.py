"""Tests of humr.licensed.datasets: data sets and where they lie."""

import pytest

from humr.files import DATA, existing, find
from humr.licensed import datasets
from humr.licensed.datasets import SETS, TEST, TRAINING, data_set, image_path


def test_the_sets_are_those_of_the_paper():
    assert len(TRAINING) == 29
    assert sum(SETS[name].source == "BEDLAM" for name in TRAINING) == 26
    assert TEST == ("3dpw-test-cam", "emdb-p1", "emdb-p1-occl")
    assert len({SETS[name].annotations for name in SETS}) == len(SETS)
    rotated = [name for name, each in SETS.items() if each.rotated]
    assert len(rotated) == 7
    assert all("_closeup_" in SETS[name].images for name in rotated)


def test_sizes_are_width_and_height_of_upright_photographs():
    assert data_set("closeup-gym").image_size == (720, 1280)
    assert data_set("zoom-gym").image_size == data_set("agora-bfh").image_size == (1280, 720)
    assert data_set("emdb-p1").image_size == data_set("emdb-p1-occl").image_size == (1440, 1920)
    assert data_set("3dpw-test-cam").image_size is None  # some are upright, some are not


def test_paths(tmp_path):
    folder = tmp_path / "training_images/20221012_3-10_500_batch01hand_zoom_highSchoolGym_6fps"
    photo = folder / "png" / "seq_000001" / "seq_000001_0005.jpg"
    with pytest.raises(
        FileNotFoundError, match=r"_0005\.png or \S+_0005\.jpg; it is licensed and not part of"
    ):
        image_path("zoom-gym", "seq_000001/seq_000001_0005.png", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file \S+00003\.jpg; it is licensed"):
        image_path("emdb-p1", "P1/a/images/00003.jpg", root=tmp_path)
    photo.parent.mkdir(parents=True)
    photo.touch()
    assert image_path("zoom-gym", "seq_000001/seq_000001_0005.png", root=tmp_path) == photo
    assert existing(photo) == photo


def test_the_first_file_that_is_there(tmp_path):
    (tmp_path / "b").touch()
    assert find(tmp_path, "a", "b") == tmp_path / "b"
    (tmp_path / "a").touch()
    assert find(tmp_path, "a", "b") == tmp_path / "a"
    with pytest.raises(
        FileNotFoundError, match=r"no file licensed/h36m/c or licensed/h36m/d; it is licensed"
    ):
        find(datasets.LICENSED / "h36m", "c", "d")


def test_refuses_unknown_sets():
    with pytest.raises(ValueError, match=r"no data set 'coco'; HuMR's are 3dpw-train-smplx,"):
        data_set("coco")


def test_everything_licensed_lies_where_git_does_not_look():
    ignored = (DATA.parent / ".gitignore").read_text().splitlines()
    assert f"data/{datasets.LICENSED.name}" in ignored  # a folder or, without the slash, a link
