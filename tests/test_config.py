"""Tests of humr.config."""

import json
from dataclasses import replace

import pytest

from humr import config
from humr.experiments.profiles import PROFILES, Profile


def test_every_profile_survives_json():
    for profile in PROFILES.values():
        text = json.dumps(config.to_dict(profile))
        assert config.from_dict(Profile, json.loads(text)) == profile


def test_hash_changes_with_any_value():
    run = config.Run()
    other = replace(run, weights=replace(run.weights, mask=0.2))
    assert config.config_hash(run) != config.config_hash(other)
    assert config.config_hash(run) == config.config_hash(config.Run())


def test_fields_that_came_later_count_only_where_they_are_used():
    training = {"beta1": 0.5}
    assert config.config_hash(config.Training(**training)) != config.config_hash(config.Training())
    # computed before these fields existed: committed results bear such names
    assert config.config_hash(config.Training()) == "c7811823e554"


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="weight mask must not be negative"):
        config.Weights(mask=-1.0)
    with pytest.raises(ValueError, match="has no field"):
        config.from_dict(config.Weights, {"maks": 0.1})
    with pytest.raises(ValueError, match="shares must lie"):
        config.World(occluded=1.2)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: config.Model(flow="nice"), "flow must be one of realnvp, glow; got 'nice'"),
        (lambda: config.Supervision(follow="me"), "follow must be one of heatmaps"),
        (lambda: config.Supervision(heatmap_samples=0), "heatmap_samples must be positive"),
        (lambda: config.Supervision(first_is_point=True), "belongs to the biased estimator"),
        (lambda: config.Training(hypotheses=1), "2 or more hypotheses; got 1"),
        (lambda: config.Training(labelled_share=1.5), "labelled_share must lie in"),
        (lambda: config.Training(optimizer="sgd"), "optimizer must be one of adamw, adam"),
        (lambda: config.Run(world=config.World(heatmap_samples=10)), "stores 10 heatmap samples"),
    ],
)
def test_values_that_no_code_understands_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()
