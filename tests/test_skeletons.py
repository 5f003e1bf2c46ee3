import pytest

from humr.skeletons import (
    ARTICULATED,
    BLAZEPOSE33,
    BODY22,
    COCO17,
    COCO17_FROM_BLAZEPOSE,
    SKELETONS,
    SMPLX55,
    Skeleton,
    index_map,
)


def test_sizes_and_first_joints_of_smplx_agree_with_the_body():
    assert (len(SMPLX55), len(BODY22), len(COCO17), len(BLAZEPOSE33)) == (55, 22, 17, 33)
    assert SMPLX55.names[:22] == BODY22.names
    assert SMPLX55.parents[25:40] == (20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38)


def test_blazepose_map_is_the_published_one():
    assert COCO17_FROM_BLAZEPOSE == (
        0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28,
    )  # fmt: skip


@pytest.mark.parametrize("skeleton", [s for n, s in SKELETONS.items() if n != "blazepose33"])
def test_mirror_is_an_involution_and_every_skeleton_has_one_root(skeleton):
    mirrored = skeleton.mirrored
    assert [mirrored[i] for i in mirrored] == list(range(len(skeleton)))
    assert mirrored != tuple(range(len(skeleton)))
    assert sum(parent < 0 for parent in skeleton.parents) == 1
    assert len(skeleton.bones) == len(skeleton) - 1


def test_index_map_moves_names():
    assert [COCO17.names[i] for i in index_map(COCO17, COCO17)] == list(COCO17.names)
    assert {COCO17.names[i].split("_")[1] for i in ARTICULATED} == {
        "elbow",
        "wrist",
        "knee",
        "ankle",
    }


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="no joint 'tail'"):
        COCO17.index("tail")
    with pytest.raises(ValueError, match="unique names"):
        Skeleton("twice", ("a", "a"), (-1, 0))
