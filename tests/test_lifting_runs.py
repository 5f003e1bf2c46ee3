"""Tests of humr.lifting_runs: both systems from a configuration to rows, in a tiny world."""

from dataclasses import replace

import pytest
import torch

from humr import experiments, lifting_runs, shards
from humr.lifting import LiftingFlow
from humr.profiles import profile
from humr.propose import Propose
from humr.variant import changed

TINY = {"train": 6, "validation": 3, "test": 3, "transfer": 2, "shard": 6, "window": 96,
        "backgrounds": 1}  # fmt: skip


@pytest.fixture
def apart(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "DATA", tmp_path / "data")
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(experiments, "SHIPPED", tmp_path / "data" / "checkpoint" / "humr_open")
    return tmp_path


@pytest.mark.parametrize(("system", "kind"), [("lifting", LiftingFlow), ("propose", Propose)])
def test_a_run_is_trained_evaluated_and_shipped(apart, system, kind):
    chosen = profile("smoke")
    run = changed(getattr(chosen, system), world=TINY, training={"batch": 4})
    checkpoint = experiments.train(run, device="cpu")
    assert checkpoint.parent.name.startswith(system)
    model, about = experiments.load(checkpoint)
    assert isinstance(model, kind)
    assert about["system"] == system
    rows = experiments.evaluated(checkpoint, run.world, "rooms", hypotheses=4)
    assert len(rows) == 2
    assert set(rows["group"]) == {"rooms"}
    assert rows["energy_score"].notna().all()

    assert experiments.shipped_as(run) is None
    result = experiments.ship(run, replace(chosen, lifted=4))
    assert experiments.shipped_as(run) == apart / "data" / "checkpoint" / f"{system}_open"
    assert experiments.shipped_as(changed(run, training={"seed": 1})) is None
    shipped, about = experiments.shipped(system)
    assert about["test"] == result
    assert {"mpjpe_mode", "mpjpe_best", "energy_score", "cps_best"} <= result.keys()
    assert not any(name.startswith("drank") for name in result)
    for name, value in model.state_dict().items():
        assert torch.allclose(shipped.state_dict()[name], value, atol=1e-2), name


def test_a_likelihood_run_is_built_with_its_noise(apart):
    run = changed(
        profile("smoke").lifting, world=TINY, training={"batch": 4}, weights={"nll": 0.1}
    )
    model, _ = experiments.load(experiments.train(run, device="cpu"))
    assert model.std.shape == (32,)


def test_moments_are_read_where_the_run_says_so(apart):
    base = profile("smoke").lifting
    fit = lifting_runs.inputs(base)
    moments = lifting_runs.inputs(changed(base, rule={"gaussians": "moments", "doubled": False}))
    assert (fit.gaussians, fit.doubled) == ("fit", True)
    assert (moments.gaussians, moments.doubled) == ("moments", False)
