import json
from dataclasses import replace

import pytest

from humr import config


def test_every_profile_survives_json():
    for profile in config.PROFILES.values():
        text = json.dumps(config.to_dict(profile))
        assert config.from_dict(config.Profile, json.loads(text)) == profile


def test_hash_changes_with_any_value():
    run = config.Run()
    other = replace(run, weights=replace(run.weights, mask=0.2))
    assert config.config_hash(run) != config.config_hash(other)
    assert config.config_hash(run) == config.config_hash(config.Run())


def test_paper_profile_has_the_sizes_of_the_paper():
    run = config.profile("paper").run
    assert (run.model.blocks, run.model.hidden, run.training.batch) == (8, 1024, 64)
    assert run.model.features + run.model.pose_width + 3 == 979
    assert (run.training.steps, run.training.hypotheses) == (400_000, 25)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        config.profile("huge")
    with pytest.raises(ValueError, match="weight mask must not be negative"):
        config.Weights(mask=-1.0)
    with pytest.raises(ValueError, match="has no field"):
        config.from_dict(config.Weights, {"maks": 0.1})
    with pytest.raises(ValueError, match="shares must lie"):
        config.World(occluded=1.2)
