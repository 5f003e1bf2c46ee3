"""Tests of experiments.systems: the same questions to the open world and to licensed files."""

import math

import lifting_formats as formats
import numpy as np
import pytest
import torch
from lifting_formats import WORLD
from notebook_code import functions

from humr import storage
from humr.experiments import systems
from humr.licensed import lifting
from humr.licensed.datasets import Human36m
from humr.lifting.config import GROUPS, LiftingWorld
from humr.lifting.data import AMBIGUOUS
from humr.world.poses import TEMPLATE_NAMES
from tests.lifting.test_data import lifting_records

OPEN = LiftingWorld(train=4, validation=3, test=3, transfer=3, shard=4, window=96, backgrounds=1)
ALONE = Human36m(poses="cpn", test_stride=1)


@pytest.fixture
def made(licensed, tmp_path, monkeypatch, generator):
    """Records of the open world without its renderer, and licensed files; returns the records."""
    monkeypatch.setattr(lifting, "ROOT", licensed)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    records = lifting_records(3, generator)
    monkeypatch.setattr(storage.Store, "generate", lambda self, **_: self.directory)
    monkeypatch.setattr(storage.Store, "load", lambda self, split: records)
    return records


def test_splits_are_read(made):
    assert systems.records(OPEN, "test") is made
    found = systems.records(WORLD, "test")
    people = formats.people(8, seed=2) / 1000
    np.testing.assert_allclose(found.joints, people[[5, 7, 1, 3]], atol=1e-6)


def test_missing_shards_are_made(tmp_path, monkeypatch):
    asked = []

    def generate(self, *, splits):
        asked.extend(splits)

    monkeypatch.setattr(storage, "DATA", tmp_path)
    monkeypatch.setattr(storage.Store, "generate", generate)
    with pytest.raises(FileNotFoundError, match="'rooms'"):
        systems.records(OPEN, "rooms")
    assert asked == ["rooms"]


def test_ambiguous_images(made):
    """H36MA is more than the hard images of the test set; 2D poses alone are never hard."""
    made.fits[:, :, 3:] = torch.tensor([1.0, 0, 1])
    made.fits[1, 9, 3] = 1e3
    assert systems.records(OPEN, OPEN.hard).ambiguous.nonzero().tolist() == [[1]]
    assert systems.records(WORLD, "test").ambiguous.sum() == 1
    hard = systems.records(WORLD, WORLD.hard)
    joints = hard[hard.ambiguous].joints
    np.testing.assert_allclose(joints, formats.people(8, seed=2)[:3] / 1000, atol=1e-6)
    assert not systems.records(ALONE, ALONE.hard).ambiguous.any()


def test_true_points(made):
    (true_points,) = functions("27", "true_points")
    exact = true_points(OPEN, "test")
    assert torch.equal(exact.keypoints, made.true_keypoints)
    assert torch.equal(exact.fits, made.fits)
    same = true_points(WORLD, "outdoor")
    poses = np.concatenate([formats.people(3, seed=3 + n)[[0, 2]] for n in (5, 6)])
    np.testing.assert_allclose(same.points, formats.mpii(formats.seen(poses)), rtol=1e-5)


def test_actions_are_those_of_training_in_the_order_of_the_world():
    known = systems.actions(OPEN)
    assert list(known) == [name for name in TEMPLATE_NAMES if name in known]
    assert len(known) == len(systems.actions(WORLD)) == 15
    assert systems.actions(WORLD)[0] == "Directions"


@pytest.mark.parametrize("config", [OPEN, WORLD, ALONE])
def test_nobody_is_in_two_tested_splits(made, config):
    (people,) = functions("22", "people")
    seen = [people(config, split) for split in ("test", *GROUPS)]
    assert all(seen)
    assert len(set().union(*seen)) == sum(map(len, seen))


def test_people_have_the_name_of_their_data_set(made):
    (people,) = functions("22", "people")
    assert people(WORLD, "test") == {("Human3.6M", 9), ("Human3.6M", 11)}
    assert people(WORLD, "rooms") == {("MPI-INF-3DHP", 3), ("MPI-INF-3DHP", 4)}
    assert len(people(OPEN, "test")) == OPEN.subjects


def test_widths_are_of_the_larger_axis(made):
    (widths,) = functions("21", "widths")
    for images in (made, systems.records(WORLD, "ambiguous")):
        width = widths(images)
        assert width.shape == (3, 16)
        assert torch.equal((width > AMBIGUOUS).any(1), images.ambiguous)
    values = systems.records(WORLD, "ambiguous").fits[0, 0, 3:]
    matrix = np.array([[values[0], values[1]], [values[1], values[2]]])
    expected = np.sqrt(np.linalg.eigvalsh(matrix).max())
    np.testing.assert_allclose(width[0, 0], expected, rtol=1e-5)


def test_facts(made):
    """Counted one by one; what only the open world knows is NaN elsewhere."""
    errors = [
        64 * math.dist(made.keypoints[i, j], made.true_keypoints[i, j]) / made.window[i, 2].item()
        for i in range(3)
        for j in range(17)
    ]
    (facts,) = functions("22", "facts")
    found = facts(made)
    assert found == {
        "images": 3,
        "ambiguous (%)": round(100 * sum(made.ambiguous.tolist()) / 3),
        "2D error, median (cells)": pytest.approx(np.median(errors), abs=0.006),
        "focal / image side": 1.25,
    }
    licensed = facts(systems.records(WORLD, "test"))
    assert list(licensed) == list(found)
    assert list(licensed.values())[:2] == [4, 25]
    assert np.isnan(list(licensed.values())[2:]).all()


def test_rows_are_named_by_the_images_they_are_of(made):
    assert systems.lifting_data_name(OPEN) == systems.lifting_store(OPEN).directory.name
    assert systems.lifting_data_name(WORLD) == lifting.evaluated_on(WORLD)
