"""Tests of experiments.systems in the open world; licensed people: test_paper_tables_command."""

import pytest
import torch

from humr import storage
from humr.experiments import systems
from humr.experiments.ablations import changed
from humr.experiments.profiles import profile
from humr.world import generate

TINY = {"labelled": 2, "points": 1, "unlabelled": 1, "validation": 1, "test": 4, "shard": 4,
        "window": 96, "backgrounds": 1}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path)
    return changed(profile("smoke").run, world=TINY)


def test_the_first_images_come_with_their_numbers(run, generator):
    found = systems.tested_people(run, 3, dataset="", generator=generator)
    records = generate.store(run.world).load("test")
    assert found.image == [0, 1, 2]
    assert torch.equal(found.batch.features, records[:3].features.float())
    assert found.batch.samples.shape[1] == 1
    everybody = systems.tested_people(run, 1000, dataset="", generator=generator)
    assert everybody.image == [0, 1, 2, 3]


def test_networks_that_read_samples_get_them(run, generator):
    reads = changed(run, model={"embedding": True, "embedding_samples": 7})
    assert (
        systems.tested_people(reads, 2, dataset="", generator=generator).batch.samples.shape[1]
        == 7
    )
