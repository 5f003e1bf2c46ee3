"""Tests of benchmarks.people: what is made up can be trained, evaluated and read."""

from dataclasses import replace

import pytest

from humr.batches import unpack_mask
from humr.benchmarks import people
from humr.bodies.body import load_body
from humr.config import Model, Run, Training
from humr.detector import load_image
from humr.licensed.datasets import data_set
from humr.licensed.features import AS_ANNOTATED

SMALL = Run(
    model=Model(features=30, pose_hidden=12, pose_width=8, blocks=2, hidden=16, head_hidden=16),
    training=Training(batch=3, hypotheses=25),
    supervision=people.OFFICIAL,
)


def test_a_step_lowers_the_loss():
    ours = people.training(replace(SMALL, training=replace(SMALL.training, rate=1e-2)))
    first = ours.step()
    for _ in range(5):
        last = ours.step()
    assert last < first


def test_latents_are_evaluated_without_data_on_disk():
    ours = people.evaluation(SMALL.model, images=2, hypotheses=3, body=load_body("small"))
    assert not ours.noise[:, 0].any()
    found = ours.run()
    assert found["mpjpe_best"].shape == (2,)
    assert (found["mpjpe_best"] <= found["mpjpe_mode"]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photographs_have_the_official_size_and_are_of_one_kind(few, tmp_path, suffix):
    images = people.photographs(tmp_path, suffix)
    files = sorted((tmp_path / data_set(people.SET).images).iterdir())
    assert [path.suffix for path in files] == [suffix] * 2
    first, second = (load_image(path) for path in files)
    assert first.shape == (720, 1280, 3)
    assert (first != second).mean() > 0.5
    assert first.std() > 20
    assert 50_000 < files[0].stat().st_size < 3_000_000
    assert len(images) == 2
    low, high = people.SIDES
    sides = [images.person(i).box[0, 2].item() for i in range(2)]
    assert all(low <= side <= high for side in sides)
    assert sides[0] != sides[1]


def test_the_mask_is_read(few, tmp_path):
    images = people.photographs(tmp_path, ".jpg")
    mask = unpack_mask(images.crops(0, AS_ANNOTATED).mask)
    assert 0.1 < mask.double().mean() < 0.99
