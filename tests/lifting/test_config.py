"""Tests of humr.lifting.config."""

import json

import pytest

from humr import config
from humr.lifting.config import (
    LiftingModel,
    LiftingRule,
    LiftingRun,
    LiftingWorld,
    ProposeModel,
    ProposeRule,
    ProposeRun,
)


@pytest.mark.parametrize("run", [LiftingRun(), ProposeRun()])
def test_runs_survive_json(run):
    text = json.dumps(config.to_dict(run))
    assert config.from_dict(type(run), json.loads(text)) == run


def test_sizes_of_the_transfer_groups():
    sizes = LiftingWorld(transfer=7, train=3).sizes
    assert sizes["studio"] == sizes["rooms"] == sizes["outdoor"] == 7
    assert sizes["train"] == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LiftingRule(best_of=6, hypotheses=5), "best_of must lie in 1..hypotheses"),
        (lambda: LiftingRule(estimator="u"), "estimator must be one of unbiased, biased"),
        (lambda: LiftingModel(coupling="nice"), "coupling must be one of"),
        (lambda: LiftingWorld(test=0), "must be positive"),
        (lambda: ProposeModel(std=0.0), "std and limit must be positive"),
        (lambda: ProposeRule(scheme="both"), "scheme must be one of alternate, end_to_end"),
        (lambda: ProposeRule(share=2.0), "share must lie in 0..1"),
    ],
)
def test_wrong_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
