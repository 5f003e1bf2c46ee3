"""Tests of humr.licensed.datasets: runs of HuMR on licensed people."""

import json
from dataclasses import replace

import pytest

from humr.config import Model, Run, Supervision, Weights, config_hash, from_dict, to_dict
from humr.experiments.profiles import profile
from humr.licensed.datasets import TEST, TRAINING, Licensed, PaperRun


def test_defaults_are_the_papers():
    run = profile("paper").run
    assert isinstance(run, PaperRun)
    assert (run.world.train, run.world.test) == (TRAINING, TEST)
    assert len(run.world.train) == 29
    assert run.world.heatmap_samples == 150
    assert run.world.variants == 0  # every step sees new crops
    weights = run.weights
    assert (weights.nll, weights.shape, weights.keypoints) == (0.1, 5e-4, 1e-2)
    assert (weights.heatmap, weights.mask, weights.orthonormal_mode) == (5e-2, 0.1, 0.1)
    assert (run.training.optimizer, run.training.rate, run.training.decay) == ("adamw", 1e-4, 1e-4)
    assert profile("paper").study.weights.mask == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"train": ()}, "at least one data set"),
        ({"train": ("emdb-p1",)}, "no sets of the split 'train': emdb-p1"),
        ({"test": ("agora-bfh",)}, "no sets of the split 'test': agora-bfh"),
        ({"train": ("bedlam",)}, "no data set 'bedlam'"),
        ({"variants": -1}, "must not be negative"),
        ({"heatmap_samples": 151}, r"must lie in 1\.\.150; got 151"),
        ({"mask_side": 100}, "mask_side must be one of 224, 112, 56; got 100"),
        ({"precision": "16"}, "precision must be one of float32, bfloat16"),
        ({"held_out": 0.0}, "held_out must lie between 0 and 1"),
        ({"validation": 0}, "must be positive"),
    ],
)
def test_worlds_that_cannot_be_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        Licensed(**change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"world": Licensed(masks=False)}, "a mask loss needs masks"),
        ({"supervision": Supervision(poses=10)}, "must be None"),
        ({"supervision": Supervision(heatmaps="gaussian")}, "no moments of the heatmaps"),
        ({"model": Model(normalise=True)}, "belong to the open world's detector"),
        ({"model": Model(window_info=True)}, "belong to the open world's detector"),
        ({"model": Model(features=700)}, "features must be 15 widths; got 700"),
        ({"world": Licensed(heatmap_samples=20)}, "stores 20 heatmap samples; 25 are asked for"),
    ],
)
def test_runs_that_cannot_be_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        PaperRun(**change)


def test_a_field_may_hold_the_subclass_that_has_its_fields():
    run = PaperRun(world=Licensed(train=("agora-bfh", "static-gym"), variants=3))
    text = json.loads(json.dumps(to_dict(run)))
    assert from_dict(Run, text) == from_dict(PaperRun, text) == run
    assert type(from_dict(Run, to_dict(Run()))) is Run
    with pytest.raises(ValueError, match=r"World has no field \['shards'\]"):
        from_dict(Run, {"world": {"shards": 3}})


def test_the_window_counts_only_where_it_is_used():
    run = PaperRun(weights=Weights(mask=0.0))
    ruled = replace(run, supervision=Supervision(window=True))
    assert config_hash(ruled) != config_hash(run)
    # computed before the field existed
    assert config_hash(Supervision()) == "aa3be0432a5b"
