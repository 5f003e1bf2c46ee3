"""Tests of humr.licensed.people against plain loops over the files' arrays."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from formats import annotation_arrays, write_annotations
from licensed_world import COCO, samples, write_set

from humr.batches import pack_mask
from humr.licensed.people import (
    CropFeatures,
    Persons,
    batch_of,
    focal_of,
    persons_of,
    read_annotations,
    unlabelled_batch,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("licensed")


@pytest.fixture(scope="module")
def arrays(root):
    return write_set(root, "static-gym")


@pytest.fixture(scope="module")
def people(root, arrays):
    return read_annotations("static-gym", root=root)


@pytest.fixture(scope="module")
def persons(root, people):
    return persons_of(people, samples=150, root=root)


@pytest.fixture
def crops(people):
    """Crops to the lower right of the annotated boxes, and smaller; masks differ."""
    box = people.box * torch.tensor([1.0, 1.0, 0.8]) + torch.tensor([7.0, 3.0, 0.0])
    mask = torch.zeros(5, 56, 56, dtype=torch.bool)
    for i in range(4):
        mask[i, : 10 + i, 5:] = True
    return CropFeatures(
        box, pack_mask(mask), torch.arange(30.0).expand(5, 30) + torch.arange(5.0)[:, None]
    )


def seeded():
    return torch.Generator().manual_seed(7)


def plain(points, box):
    """Points (n, 2) of a photograph in a box, in numbers."""
    return np.array([[2 * (x - box[0]) / box[2], 2 * (y - box[1]) / box[2]] for x, y in points])


def whole(u):
    """Whole pixels of 224, as the official code makes them."""
    return np.array([[2 * (int((a + 1) * 112) + 1) / 224 - 1 for a in row] for row in u])


def test_points_find_their_place_in_the_crop(arrays, persons, crops):
    batch = batch_of(persons, crops, samples=150, generator=seeded())
    given = batch.given
    close = {"rtol": 0, "atol": 2e-4}
    for i in range(5):
        box = crops.box[i].tolist()
        detected = arrays["vitpose"][i][:, [1, 0]]
        np.testing.assert_allclose(batch.keypoints[i, :, :2], whole(plain(detected, box)), **close)
        true = whole(plain(arrays["gt_coco_25j"][i][COCO], box))
        np.testing.assert_allclose(given.keypoints[i], true, **close)
        joints = plain(arrays["gtkps"][i, :24, :2], box)
        np.testing.assert_allclose(given.joints[i], joints, **close)
        stored = np.stack([plain(p, box) for p in samples(arrays, i)[..., :2]])
        distance = abs(stored[:, None] - batch.samples[i].numpy()).max((2, 3))
        assert (distance.min(1) < 5e-3).all()  # kept in half precision
        assert len(set(distance.argmin(1))) == 150
        confidence = samples(arrays, i)[..., 2].max(0)
        np.testing.assert_allclose(given.peak[i], confidence, **close)
    assert batch.has_points.all()
    np.testing.assert_allclose(batch.betas, arrays["shape"], **close)
    assert (batch.focal == 900).all()
    assert batch.image_size[0].tolist() == [1280, 720]
    u = batch.box_info[0] * 900
    x, y, side = crops.box[0].tolist()
    np.testing.assert_allclose(u, [x - 640, y - 360, side], rtol=0, atol=1e-2)


def test_drawn_samples_keep_their_values_together(arrays, persons, crops):
    batch = batch_of(persons, crops, samples=20, generator=seeded())
    assert batch.samples.shape == (5, 20, 17, 2)
    for i in range(5):
        values = samples(arrays, i)
        points = np.stack([plain(p, crops.box[i].tolist()) for p in values[..., :2]])
        rows = set()
        for n in range(20):
            row = int(abs(points - batch.samples[i, n].numpy()).max((1, 2)).argmin())
            rows.add(row)
            expected = values[row, :, 2] / values[..., 2].max(0)
            np.testing.assert_allclose(batch.density[i, n], expected, rtol=2e-3, atol=2e-3)
            on = (values[row, :, 3] <= 0.71) & (i % 3 != 1)  # an object hides each third person
            assert batch.given.on_mask[i, n].tolist() == on.tolist()
        assert len(rows) == 20  # without replacement
    other = batch_of(persons, crops, samples=20, generator=torch.Generator().manual_seed(8))
    assert not torch.equal(batch.samples, other.samples)


def test_a_mask_counts_if_no_object_hides_the_person_and_it_is_not_empty(persons, crops):
    given = batch_of(persons, crops, samples=1, generator=seeded()).given
    assert given.mask_valid.tolist() == [True, False, True, True, False]  # 1, 4: objects; 4: empty
    full = replace(crops, mask=torch.full_like(crops.mask, 255))
    given = batch_of(persons, full, samples=1, generator=seeded()).given
    assert given.mask_valid.tolist() == [True, False, True, True, False]
    clear = replace(persons, mask_valid=torch.ones(5, dtype=torch.bool))
    given = batch_of(clear, crops, samples=1, generator=seeded()).given
    assert given.mask_valid.tolist() == [True, True, True, True, False]


def test_the_window_is_that_of_the_annotated_box(arrays, people, persons, crops):
    given = batch_of(persons, crops, samples=1, generator=seeded()).given
    expected = []
    for i in range(5):
        u = whole(plain(arrays["gt_coco_25j"][i][COCO], people.box[i].tolist()))
        expected.append([abs(x) <= 0.75 and abs(y) <= 1 for x, y in u])
    assert given.in_window.tolist() == expected
    assert 0 < np.mean(expected) < 1


def test_fewer_samples_can_be_kept_but_the_peak_is_of_all(root, people, persons, crops):
    few = persons_of(people, samples=30, root=root)
    assert few.points.shape == (5, 30, 17, 2)
    assert torch.equal(few.peak, persons.peak)
    assert (few.density.amax(1) < 0.5 * few.peak).all()  # the surest samples come last
    with pytest.raises(ValueError, match=r"samples must lie in 1\.\.30, the stored ones; got 31"):
        batch_of(few, crops, samples=31, generator=seeded())


def test_rows_are_chosen_and_joined(persons):
    parts = [persons[slice(0, 2)], persons[torch.tensor([2, 4])]]
    joined = Persons.join(parts)
    for field in fields(persons):
        whole, picked = getattr(persons, field.name), getattr(joined, field.name)
        assert torch.equal(picked, whole[[0, 1, 2, 4]]), field.name
    assert len(joined) == 4


def test_focal_lengths(people):
    size = torch.tensor([[1280.0, 720.0]]).expand(5, 2)
    assert focal_of(people, size).tolist() == [900.0] * 5
    diagonal = pytest.approx([(1280**2 + 720**2) ** 0.5] * 5)
    assert focal_of(replace(people, intrinsics=None), size).tolist() == diagonal


def test_test_sets_are_refused_and_make_batches_without_labels(tmp_path):
    write_annotations(tmp_path, "emdb-p1")
    people = read_annotations("emdb-p1", root=tmp_path)
    with pytest.raises(ValueError, match="emdb-p1 has no labels for training"):
        persons_of(people, samples=150, root=tmp_path)
    crops = CropFeatures(
        people.box, torch.full((5, 392), 255, dtype=torch.uint8), torch.zeros(5, 30)
    )
    size = torch.tensor([[1440.0, 1920.0]]).expand(5, 2)
    batch = unlabelled_batch(people, crops, size)
    assert batch.given is None
    assert not batch.has_pose.any()
    assert not batch.has_points.any()
    assert batch.focal.tolist() == [900.0] * 5
    detected = annotation_arrays("emdb-p1")["vitpose"][2][:, [1, 0]]
    expected = whole(plain(detected, people.box[2].tolist()))
    np.testing.assert_allclose(batch.keypoints[2, :, :2], expected, rtol=0, atol=1e-4)
    assert torch.equal(batch.samples[:, 0], batch.keypoints[..., :2])
