"""Tests of licensed.inventory: every file that annotations name, and no other, must be there."""

from functools import partial

import numpy as np
import pytest
from formats import annotation_arrays, write_annotations, write_heatmap_samples

from humr.licensed import inventory
from humr.licensed.datasets import SETS, image_path
from humr.licensed.images import mask_path
from humr.licensed.inventory import FILES
from humr.licensed.people import read_annotations


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def put_photographs(root, name, images):
    """Files of photographs, every second as .jpg; their content is not looked at."""
    for number, image in enumerate(images):
        path = root / SETS[name].images / image
        put(path.with_suffix(".jpg") if number % 2 else path)
        assert image_path(name, image, root=root).is_file()


def put_masks(root, name, images):
    for image in images:
        put(mask_path(name, image, root=root))


def photographs(root, *names):
    """Look at the photographs of data sets that share a folder, as the inventory does."""
    below = SETS[names[0]].images
    return inventory.pictures(
        root / below, kind="photographs", below=below, names=names, pattern="*"
    )


def file_of(group, part):
    """The file of a group whose path has this part."""
    (found,) = [f for f in FILES if f.group == group and part in f.paths[0]]
    return found


def unseen(name, row):
    """Detections that leave a person out of training."""
    detected = annotation_arrays(name)["vitpose"]
    detected[row, :, 2] = 0.1
    return detected


# ------------------------------------------------------------------------ photographs


@pytest.mark.parametrize("name", ["static-gym", "agora-body", "3dpw-test-cam", "emdb-p1"])
def test_every_photograph_is_looked_for(tmp_path, name):
    images = write_annotations(tmp_path, name)["imgname"].tolist()
    put_photographs(tmp_path, name, images)
    assert photographs(tmp_path, name) == "5 photographs, as annotated"
    for count, image in enumerate(images[3:1:-1], start=1):
        image_path(name, image, root=tmp_path).unlink()
        with pytest.raises(ValueError, match="must hold 5 photographs") as error:
            photographs(tmp_path, name)
        first = tmp_path / SETS[name].images / image
        assert f"; {count} are missing, {first} the first" in str(error.value)


def test_a_photograph_of_two_people_counts_once(tmp_path):
    images = annotation_arrays("agora-bfh")["imgname"][[0, 1, 1, 0, 2]]
    write_annotations(tmp_path, "agora-bfh", imgname=images)
    put_photographs(tmp_path, "agora-bfh", images.tolist())
    assert photographs(tmp_path, "agora-bfh") == "3 photographs, as annotated"


def test_sets_that_share_a_folder(tmp_path):
    first = write_annotations(tmp_path, "agora-bfh")["imgname"].tolist()
    others = np.array([f"b_{image}" for image in first])
    put_photographs(tmp_path, "agora-bfh", first)
    both = partial(photographs, tmp_path, "agora-bfh", "agora-body")
    half = "5 photographs, as annotated; those of agora-body not compared: no annotations"
    assert both() == half
    write_annotations(tmp_path, "agora-body", imgname=others)
    with pytest.raises(ValueError, match=r"hold 10 photographs; 5 are missing.*/b_ag_x_00000"):
        both()
    put_photographs(tmp_path, "agora-body", others.tolist())
    assert both() == "10 photographs, as annotated"


def test_without_annotations_the_plain_check_remains(tmp_path):
    put_photographs(tmp_path, "static-gym", ["seq_000001/a.png"])
    alone = "1 *; not compared: no annotations"
    assert photographs(tmp_path, "static-gym") == alone
    path = tmp_path / "annotations" / SETS["static-gym"].annotations
    put(path)  # empty; its own line says so
    assert photographs(tmp_path, "static-gym") == alone
    write_annotations(tmp_path, "static-gym")
    with pytest.raises(ValueError, match="must hold 5 photographs; 5 are missing"):
        photographs(tmp_path, "static-gym")


def test_people_who_are_not_trained_on_need_no_photograph(tmp_path):
    arrays = write_annotations(tmp_path, "static-gym", vitpose=unseen("static-gym", 2))
    images = arrays["imgname"].tolist()
    put_photographs(tmp_path, "static-gym", [*images[:2], *images[3:]])
    found = photographs(tmp_path, "static-gym")
    assert found == "4 photographs, as annotated but for 1 that nobody reads"
    write_annotations(tmp_path, "static-gym", vitpose=None)  # now nobody knows
    with pytest.raises(ValueError, match=r"1 are missing, .*seq_000001_0010.png the first"):
        photographs(tmp_path, "static-gym")
    twice = np.array([images[2], *images[1:]])  # somebody else is in it, too
    write_annotations(tmp_path, "static-gym", vitpose=arrays["vitpose"], imgname=twice)
    with pytest.raises(ValueError, match=r"must hold 4 photographs; 1 are missing"):
        photographs(tmp_path, "static-gym")


def test_everybody_in_a_test_set_is_needed(tmp_path):
    arrays = write_annotations(tmp_path, "emdb-p1", vitpose=unseen("emdb-p1", 2))
    put_photographs(tmp_path, "emdb-p1", np.delete(arrays["imgname"], 2).tolist())
    with pytest.raises(ValueError, match="must hold 5 photographs; 1 are missing"):
        photographs(tmp_path, "emdb-p1")


@pytest.mark.parametrize("name", ["3dpw-train-smplx", "emdb-p1", "agora-bfh", "zoom-gym-bmi"])
def test_the_inventory_compares_photographs(tmp_path, name):
    found = file_of(f"photographs of {SETS[name].source}", SETS[name].images)
    images = write_annotations(tmp_path, name)["imgname"].tolist()
    put_photographs(tmp_path, name, images)
    assert found.check(tmp_path / found.paths[0]).startswith("5 photographs, as annotated")
    image_path(name, images[4], root=tmp_path).unlink()
    with pytest.raises(ValueError, match="must hold 5 photographs; 1 are missing"):
        found.check(tmp_path / found.paths[0])


# ------------------------------------------------------------------------ masks


@pytest.mark.parametrize(
    ("name", "part"),
    [("static-gym", SETS["static-gym"].images.split("/")[1]), ("agora-bfh", "images"),
     ("static-gym-hair", "static_highSchoolGym_30fps")],
)  # fmt: skip
def test_masks_of_people_behind_an_object_are_not_needed(tmp_path, name, part):
    images = write_annotations(tmp_path, name)["imgname"].tolist()
    hidden = read_annotations(name, root=tmp_path).mask_valid.logical_not().nonzero().flatten()
    assert hidden.tolist() == [1, 4]
    put_masks(tmp_path, name, [images[0], *images[2:4]])
    found = file_of(f"masks of {SETS[name].source}", part)
    (path,) = [tmp_path / each for each in found.paths if (tmp_path / each).exists()]
    assert found.check(path).startswith("3 masks, as annotated but for 2 that nobody reads")
    put_masks(tmp_path, name, images)
    assert found.check(path).startswith("5 masks, as annotated")
    mask_path(name, images[3], root=tmp_path).unlink()
    with pytest.raises(ValueError, match=r"must hold 5 masks; 1 are missing") as error:
        found.check(path)
    assert str(mask_path(name, images[3], root=tmp_path)) in str(error.value)


def test_masks_under_their_own_names_are_missing(tmp_path):
    images = write_annotations(tmp_path, "agora-bfh")["imgname"].tolist()
    for image in images:
        put(tmp_path / "env_masks/images" / image.replace("_1280", "_mask_00000_00000_1280"))
    with pytest.raises(ValueError, match=r"3 are missing.*the preparation of data/README.md"):
        file_of("masks of AGORA", "images").check(tmp_path / "env_masks/images")


def test_masks_of_emdb_belong_to_the_people_whose_mask_is_good(tmp_path):
    images = write_annotations(tmp_path, "emdb-p1-occl")["imgname"].tolist()
    found = file_of("masks of EMDB", "EMDB/masks")
    path = tmp_path / found.paths[0]
    put_masks(tmp_path, "emdb-p1-occl", [images[1], *images[3:]])
    assert found.check(path) == "3 masks, as annotated but for 2 that nobody reads"
    mask_path("emdb-p1-occl", images[1], root=tmp_path).unlink()
    with pytest.raises(ValueError, match=r"must hold 5 masks; 1 are missing, .*/00005.png"):
        found.check(path)


# ------------------------------------------------------------------------ samples


def test_everybody_needs_samples(tmp_path):
    folder = tmp_path / "heatmap_samples/static-gym"
    for row in (0, 1, 3, 4):
        write_heatmap_samples(tmp_path, "static-gym", row)
    assert inventory.samples(folder) == "4 *.npy.gz; not compared: no annotations"
    write_annotations(tmp_path, "static-gym")
    with pytest.raises(ValueError, match=r"hold 5 \*.npy.gz; 1 are missing, 0000002.npy.gz the"):
        inventory.samples(folder)
    write_annotations(tmp_path, "static-gym", vitpose=unseen("static-gym", 2))
    found = inventory.samples(folder)
    assert found == "4 *.npy.gz, as annotated but for 1 that nobody reads"
    write_annotations(tmp_path, "static-gym", vitpose=None)
    with pytest.raises(ValueError, match="data samples static-gym` makes what is missing"):
        inventory.samples(folder)
    write_heatmap_samples(tmp_path, "static-gym", 2)
    assert inventory.samples(folder) == "5 *.npy.gz, as annotated"


@pytest.mark.parametrize("row", [0, 4])
def test_samples_at_both_ends_are_read(tmp_path, row):
    for each in range(5):
        write_heatmap_samples(tmp_path, "static-gym", each)
    path = tmp_path / f"heatmap_samples/static-gym/{row:07d}.npy.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="partial download"):
        inventory.samples(path.parent)


def test_other_files_are_no_samples(tmp_path):
    put(tmp_path / "heatmap_samples/static-gym/keypoints.npz")
    with pytest.raises(ValueError, match=r"must hold 1 \*.npy.gz or more; got 0"):
        inventory.samples(tmp_path / "heatmap_samples/static-gym")
