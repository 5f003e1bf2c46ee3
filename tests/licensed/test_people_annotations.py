"""Tests of humr.licensed.people on files with the keys, types and orders of the official ones."""

import numpy as np
import pytest
import torch
from formats import write_annotations

from humr.licensed.datasets import SETS
from humr.licensed.people import OPENPOSE25, read_annotations, read_boxes, size_of, well_detected
from humr.skeletons import COCO17, index_map

KINDS = ("3dpw-train-smplx", "agora-bfh", "static-gym", "closeup-gym", "3dpw-test-cam", "emdb-p1",
         "emdb-p1-occl")  # fmt: skip


def test_openpose_gives_the_official_coco_order():
    official = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
    assert index_map(OPENPOSE25, COCO17) == official


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_reads_what_is_in_the_file(tmp_path, name, objects):
    arrays = write_annotations(tmp_path, name, objects=objects)
    people = read_annotations(name, root=tmp_path)
    train = SETS[name].split == "train"
    assert len(people) == 5
    assert people.image.tolist() == arrays["imgname"].tolist()
    assert people.row.tolist() == [0, 1, 2, 3, 4]
    close = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(people.box[:, :2], arrays["center"], **close)
    np.testing.assert_allclose(people.box[:, 2], 200 * arrays["scale"], **close)
    np.testing.assert_allclose(people.keypoints[..., 0], arrays["vitpose"][..., 1], **close)
    np.testing.assert_allclose(people.keypoints[..., 1], arrays["vitpose"][..., 0], **close)
    confidence = arrays["vitpose"][..., 2]
    assert confidence.max() > 1
    np.testing.assert_allclose(people.keypoints[..., 2], confidence.clip(0, 1), **close)
    wrist = OPENPOSE25.index("left_wrist")
    np.testing.assert_allclose(
        people.true_keypoints[:, COCO17.index("left_wrist")],
        arrays["gt_coco_25j"][:, wrist],
        **close,
    )
    assert people.pose.shape == ((5, 22, 3) if train else (5, 24, 3))
    np.testing.assert_allclose(people.pose[:, 1], arrays["pose_cam"][:, 3:6], **close)
    assert people.betas.shape == ((5, 11) if train else (5, 10))
    assert people.intrinsics is not None
    assert people.intrinsics[0, 1, 2] == 360


def test_what_differs_between_sets(tmp_path):
    for name in KINDS:
        write_annotations(tmp_path, name)
    people = {name: read_annotations(name, root=tmp_path) for name in KINDS}
    masks = {name: each.mask_valid.tolist() for name, each in people.items()}
    assert masks["agora-bfh"] == masks["closeup-gym"] == [True, False, True, True, False]
    assert masks["emdb-p1-occl"] == [False, True, False, True, True]
    assert not any(masks["3dpw-train-smplx"] + masks["3dpw-test-cam"] + masks["emdb-p1"])
    sizes = {k: None if p.image_size is None else p.image_size[0].tolist()
             for k, p in people.items()}  # fmt: skip
    assert sizes["3dpw-train-smplx"] == [1080, 1920]  # stored as height, width
    assert sizes["static-gym"] == [1280, 720]
    assert sizes["closeup-gym"] == [720, 1280]
    assert sizes["emdb-p1"] == sizes["emdb-p1-occl"] == [1440, 1920]
    assert people["emdb-p1"].gender.tolist() == ["male", "female", "female", "male", "female"]
    assert set(people["static-gym"].gender) == {"unknown"}
    assert people["static-gym"].joints is not None
    assert people["emdb-p1"].joints is None


def test_rows_keep_their_number(tmp_path):
    arrays = write_annotations(tmp_path, "static-gym")
    people = read_annotations("static-gym", root=tmp_path)
    chosen = people[torch.tensor([False, True, False, False, True])]
    assert chosen.row.tolist() == [1, 4]
    assert chosen.image.tolist() == arrays["imgname"][[1, 4]].tolist()
    assert chosen[1:].row.tolist() == [4]
    assert people[torch.tensor([3, 0])].image[0] == arrays["imgname"][3]
    assert chosen.name == "static-gym"


def filtered(tmp_path, name, **changes):
    write_annotations(tmp_path, name, **changes)
    return well_detected(read_annotations(name, root=tmp_path)).tolist()


@pytest.fixture
def vitpose(tmp_path):
    return write_annotations(tmp_path, "static-gym")["vitpose"]


def test_the_filter_keeps_good_detections(tmp_path):
    for name in ("static-gym", "closeup-gym", "3dpw-train-smplx"):
        assert filtered(tmp_path, name) == [True] * 5


def test_the_filter_drops_far_detections(tmp_path, vitpose):
    vitpose[1, :, 0] += 30  # all y, by 30 px: 12 to 20 px per unit of scale
    vitpose[2, :, 0] += 30
    scale = np.array([2, 2.2, 2.4, 2, 2], np.float32)
    assert filtered(tmp_path, "static-gym", vitpose=vitpose, scale=scale) == [1, 0, 1, 1, 1]


def test_unsure_joints_do_not_count_as_far(tmp_path, vitpose):
    vitpose[0, :6, :2] += 90
    vitpose[0, :6, 2] = 0.1
    vitpose[1, :6, :2] += 90
    assert filtered(tmp_path, "static-gym", vitpose=vitpose) == [1, 0, 1, 1, 1]


def test_the_filter_wants_nine_seen_joints(tmp_path, vitpose):
    vitpose[0, 8:, 2] = 0.5
    vitpose[3, 9:, 2] = 0.5
    assert filtered(tmp_path, "static-gym", vitpose=vitpose) == [0, 1, 1, 1, 1]


def test_detections_lie_near_the_photograph_except_in_3dpw(tmp_path, vitpose):
    vitpose[0, 4] = [815, 300, 0.1]  # y, x, confidence: too low for 720, not for 1280
    vitpose[1, 4] = [300, 1375, 0.1]
    vitpose[2, 4] = [300, 1385, 0.1]
    vitpose[3, 4] = [-101, 300, 0.1]
    assert filtered(tmp_path, "static-gym", vitpose=vitpose) == [1, 1, 0, 0, 1]
    vitpose[0, 4, 0] = 825
    assert filtered(tmp_path, "static-gym", vitpose=vitpose) == [0, 1, 0, 0, 1]
    assert filtered(tmp_path, "closeup-gym", vitpose=vitpose) == [1, 0, 0, 0, 1]
    assert filtered(tmp_path, "3dpw-train-smplx", vitpose=vitpose) == [1] * 5


def test_only_training_sets_are_filtered(tmp_path):
    with pytest.raises(ValueError, match="only training sets are filtered; emdb-p1 is"):
        filtered(tmp_path, "emdb-p1")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("static-gym", {"vitpose": None}, r"lacks vitpose; it has imgname"),
        (
            "static-gym",
            {"object_occlusion": None},
            r"object_occlusion.*BEDLAM or AGORA themselves",
        ),
        ("3dpw-train-smplx", {"orig_shape": None}, "lacks orig_shape"),
        ("emdb-p1-occl", {"valid_emdb_mask": None}, "lacks valid_emdb_mask"),
        ("static-gym", {"shape": np.zeros((5, 10))}, r"shape must be .* \(5, 11\).*padded to 11"),
        ("emdb-p1", {"shape": np.zeros((5, 11))}, r"\(5, 10\); got float64 of \(5, 11\)"),
        ("static-gym", {"vitpose": np.zeros((5, 17, 2))}, r"vitpose must be .*\(5, 17, 3\)"),
        ("static-gym", {"scale": np.ones(4)}, r"scale must be numbers of shape \(5\); got"),
        ("static-gym", {"scale": np.full(5, np.nan)}, "scale holds values that are not finite"),
        ("static-gym", {"scale": np.array([1, 1, 0, 1, 1.0])}, "scale must be above 0.* got 0"),
        ("static-gym", {"object_occlusion": np.zeros(4, bool)}, r"object_occlusion .* \(5\); got"),
        ("static-gym", {"pose_cam": np.zeros((5, 63))}, "must have 66 columns; got 63"),
        ("emdb-p1", {"pose_cam": np.zeros((5, 165))}, "must have 72 columns; got 165"),
        ("static-gym", {"gtkps": np.zeros((5, 22, 2))}, "must have 24 joints or more"),
        ("static-gym", {"gtkps": np.zeros((5, 24, 3))}, "joints whose confidence is not 1"),
        ("emdb-p1", {"gender": np.array(["m", "x", "f", "f", "f"])}, "beginning with f, m, x"),
        ("emdb-p1", {"center": np.array(["a"] * 5)}, "center must be numbers of shape"),
    ],
)
def test_refuses_wrong_files(tmp_path, name, changes, message):
    write_annotations(tmp_path, name, **changes)
    with pytest.raises(ValueError, match=message):
        read_annotations(name, root=tmp_path)


def exchanged(arrays):
    return arrays["vitpose"][..., [1, 0, 2]]


@pytest.mark.parametrize("name", KINDS)
def test_detections_stored_as_x_and_y_are_refused(tmp_path, name):
    vitpose = exchanged(write_annotations(tmp_path, name))
    write_annotations(tmp_path, name, vitpose=vitpose)
    message = r"\.npz: vitpose must hold \(y, x, confidence\) .* sides, and 0\.00\d+ with x and y"
    with pytest.raises(ValueError, match=message):
        read_annotations(name, root=tmp_path)


def test_the_order_is_judged_by_the_seen_joints_of_all_people(tmp_path):
    arrays = write_annotations(tmp_path, "emdb-p1", count=5)
    vitpose = exchanged(arrays)
    vitpose[3:] = arrays["vitpose"][3:]
    write_annotations(tmp_path, "emdb-p1", vitpose=vitpose)
    with pytest.raises(ValueError, match="x and y exchanged"):  # 51 joints of 85
        read_annotations("emdb-p1", root=tmp_path)
    vitpose[:3, 6:, 2] = 0.4  # 18 of 52
    write_annotations(tmp_path, "emdb-p1", vitpose=vitpose)
    assert len(read_annotations("emdb-p1", root=tmp_path)) == 5


def test_the_order_of_few_or_wrong_detections_is_not_judged(tmp_path):
    arrays = write_annotations(tmp_path, "emdb-p1", count=1)
    vitpose = exchanged(arrays)
    vitpose[0, 8:, 2] = 0.5
    write_annotations(tmp_path, "emdb-p1", count=1, vitpose=vitpose)  # eight joints are seen
    assert len(read_annotations("emdb-p1", root=tmp_path)) == 1
    vitpose[0, 8, 2] = 0.51
    write_annotations(tmp_path, "emdb-p1", count=1, vitpose=vitpose)
    with pytest.raises(ValueError, match="x and y exchanged"):
        read_annotations("emdb-p1", root=tmp_path)
    vitpose = arrays["vitpose"].copy()
    vitpose[..., :2] = 2000 - vitpose[..., :2]  # somewhere else, in either order
    write_annotations(tmp_path, "emdb-p1", count=1, vitpose=vitpose)
    assert len(read_annotations("emdb-p1", root=tmp_path)) == 1


def test_missing_files_and_sets(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*annotations/agora-bfh\.npz; it is"):
        read_annotations("agora-bfh", root=tmp_path)
    with pytest.raises(ValueError, match="no data set 'agora'"):
        read_annotations("agora", root=tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_boxes_are_those_of_the_annotations(tmp_path, name):
    write_annotations(tmp_path, name)
    people, boxes = read_annotations(name, root=tmp_path), read_boxes(name, root=tmp_path)
    assert len(boxes) == 5
    assert boxes.name == name
    assert boxes.image.tolist() == people.image.tolist()
    assert torch.equal(boxes.box, people.box)
    assert torch.equal(boxes.mask_valid, people.mask_valid)
    size = size_of(boxes, 3)
    assert size is not None
    assert torch.equal(size, size_of(people, 3))
    assert size.tolist() == (people.image_size[3].tolist())


def test_the_size_of_a_photograph_may_be_unknown(tmp_path):
    write_annotations(tmp_path, "3dpw-test-cam", orig_shape=None)
    assert size_of(read_boxes("3dpw-test-cam", root=tmp_path), 0) is None
    assert size_of(read_annotations("3dpw-test-cam", root=tmp_path), 0) is None


def test_boxes_need_neither_detections_nor_labels(tmp_path):
    bare = dict.fromkeys(("vitpose", "pose_cam", "shape", "gtkps", "gt_coco_25j"))
    arrays = write_annotations(tmp_path, "static-gym", **bare, object_occlusion=None)
    boxes = read_boxes("static-gym", root=tmp_path)
    np.testing.assert_allclose(boxes.box[:, 2], 200 * arrays["scale"], atol=1e-4)
    assert not boxes.mask_valid.any()
    write_annotations(tmp_path, "static-gym", **bare, scale=np.zeros(5))
    with pytest.raises(ValueError, match="scale must be above 0"):
        read_boxes("static-gym", root=tmp_path)
    write_annotations(tmp_path, "static-gym", center=None)
    with pytest.raises(ValueError, match="lacks center"):
        read_boxes("static-gym", root=tmp_path)
