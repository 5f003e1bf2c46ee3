"""Tests of humr.licensed.images on files that mark persons as their sources do."""

import numpy as np
import pytest
import torch
from formats import person, write_mask
from PIL import Image

from humr.licensed.datasets import SETS
from humr.licensed.images import evaluation_crop, has_mask, mask_path, read_mask, training_crop

IMAGES = {
    "static-gym": "seq_000001/seq_000001_0005.png",
    "closeup-gym": "seq_000001/seq_000001_0005.png",
    "static-gym-hair": "seq_000002/seq_000002_0010.png",
    "agora-body": "ag_trainset_x_5_10_cam00_00000_1280x720.png",
    "emdb-p1-occl": "P1/14_outdoor_climb/images/00007.jpg",
}


def whole(name):
    width, height = SETS[name].image_size
    return person(height, width)


@pytest.mark.parametrize(("name", "image"), IMAGES.items())
def test_persons_are_true(tmp_path, name, image):
    shape = whole(name)
    assert not has_mask(name, image, root=tmp_path)
    write_mask(tmp_path, name, image, shape)
    assert has_mask(name, image, root=tmp_path)
    mask = read_mask(name, image, root=tmp_path)
    np.testing.assert_array_equal(mask, shape)


@pytest.mark.parametrize(("name", "image"), IMAGES.items())
def test_masks_have_the_size_of_their_photograph(tmp_path, name, image):
    for wrong in (whole(name)[:-1], whole(name).T):
        path = write_mask(tmp_path, name, image, wrong)
        height, width = wrong.shape
        expected = rf"{path.name} must have the \S+ \S+ px .*upright; got \({width}, {height}\)\."
        with pytest.raises(ValueError, match=expected):
            read_mask(name, image, root=tmp_path)


def test_places(tmp_path):
    def place(name):
        path = mask_path(name, IMAGES[name], root=tmp_path)
        return path.relative_to(tmp_path).as_posix()

    scene = "20221013_3-10_500_batch01hand_static_highSchoolGym_6fps"
    assert place("static-gym") == f"env_masks/{scene}/seq_000001/seq_000001_0005_env.png"
    assert place("agora-body") == (
        "env_masks/images/ag_trainset_x_5_10_cam00_00000_1280x720_all_person.png"
    )
    assert place("emdb-p1-occl") == "test_images/EMDB/masks/P1/14_outdoor_climb/masks/00007.png"
    hair = "20221024_3-10_100_batch01handhair_static_highSchoolGym_6fps"
    assert place("static-gym-hair") == f"env_masks/{hair}/seq_000002/seq_000002_0010_env.png"


def test_scenes_of_30_hz_may_keep_their_name(tmp_path):
    scene = "20221024_3-10_100_batch01handhair_static_highSchoolGym_30fps"
    (tmp_path / "env_masks" / scene).mkdir(parents=True)
    path = mask_path("static-gym-hair", IMAGES["static-gym-hair"], root=tmp_path)
    assert path.parent.parent.name == scene


def test_stored_closeups_lie_on_their_side(tmp_path):
    path = write_mask(tmp_path, "closeup-gym", IMAGES["closeup-gym"], person(24, 40))
    with Image.open(path) as file:
        assert file.size == (24, 40)


def test_crops_for_training():
    mask = np.zeros((40, 40), bool)
    mask[10:14, 20:22] = True
    crop = training_crop(mask, torch.tensor([20.0, 20.0, 40.0]), size=40)
    expected = np.zeros((40, 40), bool)
    expected[7:17, 17:25] = True  # three times a pixel on every side
    np.testing.assert_array_equal(crop, expected)
    crop = training_crop(mask, torch.tensor([5.0, 30.0, 40.0]), size=40)
    assert crop[:, :18].all()  # 15 px beyond the left border are possible, and 3 more
    assert crop[27:].all()
    assert not crop[3, 19]


def test_crops_for_evaluation():
    mask = np.zeros((40, 40), bool)
    mask[10, 20] = True
    crop = evaluation_crop(mask, torch.tensor([20.0, 20.0, 40.0]), size=10)
    assert np.argwhere(crop).tolist() == [[2, 5]]  # a sixteenth of a pixel is enough
    assert not training_crop(mask, torch.tensor([20.0, 20.0, 40.0]), size=10).any()
    assert evaluation_crop(mask, torch.tensor([5.0, 30.0, 40.0]), size=10).sum() == 1


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="3dpw-train-smplx has no masks; BEDLAM, AGORA and EMDB"):
        mask_path("3dpw-train-smplx", "imageFiles/x/image_00000.jpg")
    assert not has_mask("3dpw-train-smplx", "imageFiles/x/image_00000.jpg")
    with pytest.raises(FileNotFoundError, match=r"_env\.png; it is licensed"):
        read_mask("static-gym", IMAGES["static-gym"], root=tmp_path)
    path = write_mask(tmp_path, "static-gym", IMAGES["static-gym"], person(24, 40))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"_env\.png is no readable image: .*partial download"):
        read_mask("static-gym", IMAGES["static-gym"], root=tmp_path)
