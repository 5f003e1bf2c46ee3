"""Tests of humr.licensed.vitpose: what is stored, and when a run may go on with it."""

import numpy as np
import pytest
import torch
from formats import write_annotations

from humr.licensed.people import read_annotations
from humr.licensed.vitpose import Keypoints, keypoints_path

SETTINGS = {"weights": "x.pth", "seed": 0}


@pytest.fixture
def path(tmp_path):
    return keypoints_path("static-gym", root=tmp_path)


@pytest.fixture
def some(generator):
    """Keypoints of the people 3 and 1."""
    points = 500 * torch.rand(2, 17, 2, generator=generator)
    return torch.tensor([3, 1]), points, torch.rand(2, 17, generator=generator)


def test_the_place(path, tmp_path):
    assert path == tmp_path / "heatmap_samples/static-gym/keypoints.npz"


def test_keypoints_are_stored_by_row_as_in_annotation_files(path, some):
    row, points, confidence = some
    keypoints = Keypoints(path, 5, SETTINGS)
    assert keypoints.missing().tolist() == [True] * 5
    keypoints.put(row, points, confidence)
    assert keypoints.missing().tolist() == [True, False, True, False, True]
    keypoints.save()
    with np.load(path) as stored:
        values = stored["vitpose"]
    assert values.dtype == np.float32
    assert values.shape == (5, 17, 3)
    np.testing.assert_array_equal(values[3, :, 0], points[0, :, 1])  # y first
    np.testing.assert_array_equal(values[1, :, 1], points[1, :, 0])
    np.testing.assert_array_equal(values[3, :, 2], confidence[0])
    assert np.isnan(values[[0, 2, 4]]).all()


def test_an_annotation_file_can_be_completed(tmp_path, path, generator):
    arrays = write_annotations(tmp_path, "static-gym", vitpose=None)
    points = 500 * torch.rand(5, 17, 2, generator=generator)
    keypoints = Keypoints(path, 5, SETTINGS)
    keypoints.put(torch.arange(5), points, torch.full((5, 17), 0.25))
    keypoints.save()
    with np.load(path) as stored:
        write_annotations(tmp_path, "static-gym", **arrays, vitpose=stored["vitpose"])
    read = read_annotations("static-gym", root=tmp_path)
    assert torch.equal(read.keypoints[..., :2], points)
    assert (read.keypoints[..., 2] == 0.25).all()


def test_another_run_goes_on(path, some):
    first = Keypoints(path, 5, SETTINGS)
    first.put(*some)
    first.save()
    second = Keypoints(path, 5, SETTINGS)
    np.testing.assert_array_equal(second.values, first.values)
    second.put(torch.tensor([0]), some[1][:1], some[2][:1])
    second.save()
    assert Keypoints(path, 5, SETTINGS).missing().tolist() == [False, False, True, False, True]


def test_nothing_new_is_not_written(path, some):
    keypoints = Keypoints(path, 5, SETTINGS)
    keypoints.save()
    assert not path.exists()
    keypoints.put(*some)
    assert keypoints.unsaved == 2
    keypoints.save()
    assert keypoints.unsaved == 0
    path.unlink()
    keypoints.save()
    assert not path.exists()


@pytest.mark.parametrize(
    ("people", "settings"), [(5, SETTINGS | {"seed": 1}), (6, SETTINGS), (5, {})]
)
def test_other_settings_or_people_are_refused(path, some, people, settings):
    keypoints = Keypoints(path, 5, SETTINGS)
    keypoints.put(*some)
    keypoints.save()
    with pytest.raises(
        ValueError, match=r"keypoints\.npz: to go on, expected .* got \(5, 17, 3\)"
    ):
        Keypoints(path, people, settings)


def test_broken_files_are_named(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"keypoints\.npz is no \.npz file"):
        Keypoints(path, 5, SETTINGS)
    np.savez(path, vitpose=np.zeros((5, 17, 3)))
    with pytest.raises(ValueError, match=r"keypoints\.npz lacks settings"):
        Keypoints(path, 5, SETTINGS)
