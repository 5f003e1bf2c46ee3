"""Tests of experiments.systems: both systems from a configuration to rows, in a tiny world."""

import json
from dataclasses import replace

import lifting_formats as formats
import numpy as np
import pytest
import torch
from lifting_formats import WORLD

from humr import storage
from humr.experiments import runs, systems
from humr.experiments.ablations import Variant, changed
from humr.experiments.profiles import profile
from humr.licensed import lifting
from humr.licensed.datasets import LiftingPaperRun, ProposePaperRun
from humr.lifting import data
from humr.lifting.config import LiftingRun
from humr.lifting.flow import LiftingFlow
from humr.lifting.propose import Propose

TINY = {"train": 6, "validation": 3, "test": 3, "transfer": 2, "shard": 6, "window": 96,
        "backgrounds": 1}  # fmt: skip


@pytest.fixture
def apart(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "data" / "checkpoint" / "humr_open")
    return tmp_path


@pytest.mark.parametrize(("system", "kind"), [("lifting", LiftingFlow), ("propose", Propose)])
def test_a_run_is_trained_evaluated_and_shipped(apart, system, kind):
    chosen = profile("smoke")
    run = changed(getattr(chosen, system), world=TINY, training={"batch": 4})
    checkpoint = runs.train(run, device="cpu")
    assert checkpoint.parent.name.startswith(system)
    model, about = runs.load(checkpoint)
    assert isinstance(model, kind)
    assert about["system"] == system
    rows = runs.evaluated(checkpoint, run.world, "rooms", hypotheses=4)
    assert len(rows) == 2
    assert set(rows["group"]) == {"rooms"}
    assert rows["energy_score"].notna().all()

    assert runs.shipped_as(run) is None
    result = runs.ship(run, replace(chosen, lifted=4))
    assert runs.shipped_as(run) == apart / "data" / "checkpoint" / f"{system}_open"
    assert runs.shipped_as(changed(run, training={"seed": 1})) is None
    shipped, about = runs.shipped(system)
    assert about["test"] == result
    assert {"mpjpe_mode", "mpjpe_best", "energy_score", "cps_best"} <= result.keys()
    assert not any(name.startswith("drank") for name in result)
    for name, value in model.state_dict().items():
        assert torch.allclose(shipped.state_dict()[name], value, atol=1e-2), name


def test_a_likelihood_run_is_built_with_its_noise(apart):
    run = changed(
        profile("smoke").lifting, world=TINY, training={"batch": 4}, weights={"nll": 0.1}
    )
    model, _ = runs.load(runs.train(run, device="cpu"))
    assert model.std.shape == (32,)


def test_moments_are_read_where_the_run_says_so(apart):
    base = profile("smoke").lifting
    fit = systems.inputs(base.rule)
    moments = systems.inputs(replace(base.rule, gaussians="moments", doubled=False))
    assert (fit.gaussians, fit.doubled) == ("fit", True)
    assert (moments.gaussians, moments.doubled) == ("moments", False)


# ------------------------------------------------------------------------ licensed data


@pytest.fixture
def house(apart, licensed, monkeypatch):
    """Licensed files of this test; their sizes are not those of official ones."""
    monkeypatch.setattr(lifting, "ROOT", licensed)
    for kind in (LiftingPaperRun, ProposePaperRun):
        system = replace(systems.SYSTEMS[kind], check=lambda run: None)
        monkeypatch.setitem(systems.SYSTEMS, kind, system)
    systems._batch.cache_clear()
    yield apart
    systems._batch.cache_clear()


def tiny(system, **world):
    """The paper's run, small: other sizes and two steps."""
    small = getattr(profile("smoke"), system)
    run = getattr(profile("paper"), system)
    training = {"steps": 2, "batch": 4, "validate_every": 1}
    return changed(replace(run, model=small.model), rule={"hypotheses": 8}, training=training,
                   world={"test_stride": 2, **world})  # fmt: skip


KINDS = [
    ("lifting", "fits", LiftingFlow),
    ("lifting", "cpn", LiftingFlow),
    ("propose", "fits", Propose),
    ("propose", "cpn", Propose),
]


@pytest.mark.parametrize(("system", "poses", "kind"), KINDS)
def test_dry_run_on_licensed_files(house, system, poses, kind):
    """From the profile's run, small, to rows of every split."""
    run = tiny(system, poses=poses)
    checkpoint = runs.train(run, name="dry", device="cpu")
    assert checkpoint.parent.name.startswith(f"{system}_paper-")
    log = [json.loads(x) for x in checkpoint.with_name("log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() for row in log)
    model, about = runs.load(checkpoint)
    assert isinstance(model, kind)
    assert (about["system"], about["name"]) == (f"{system}_paper", "dry")
    assert about["run"]["world"]["poses"] == poses
    assert len(about["files"]) == (1 if poses == "fits" else 3)

    sizes = {"test": 4 if poses == "fits" else 2 * 2 * 4, "ambiguous": 3, "studio": 4,
             "rooms": 4, "outdoor": 4}  # fmt: skip
    actions = {"studio": {"TS1", "TS2"}, "rooms": {"TS3", "TS4"}, "outdoor": {"TS5", "TS6"}}
    for split in run.world.tested:
        rows = runs.evaluated(checkpoint, run.world, split, hypotheses=20)
        assert len(rows) == sizes[split], split
        assert set(rows["group"]) == {split}
        assert set(rows["action"]) <= actions.get(split, {"Directions", "Sitting"})
        hard = {"test": 1 if poses == "fits" else 0, "ambiguous": 3}
        assert np.sum(rows["ambiguous"]) == hard.get(split, 0)
        assert np.isfinite(rows.select_dtypes("number")).all(axis=None)
        assert {"mpjpe_mode", "mpjpe_best", "pa_mpjpe_best", "pck_best", "cps_best"} <= set(rows)


def test_studies_measure_all_splits(house):
    run = tiny("lifting")
    runs.train(run, device="cpu")
    job = Variant(name="full", label="full", run=run)
    rows = runs.image_rows(job, "smoke")
    assert rows["group"].unique().tolist() == ["test", "ambiguous", "studio", "rooms", "outdoor"]
    assert rows["image"].is_unique
    assert np.max(rows["image"]) == 4 * runs.SPLIT + 3


def test_rows_are_made_anew_for_other_files(house, tmp_path, monkeypatch):
    run = tiny("lifting")
    checkpoint = runs.train(run, device="cpu")
    first = runs.evaluated(checkpoint, run.world, "test", hypotheses=2)
    again = runs.evaluated(checkpoint, run.world, "test", hypotheses=2)
    assert first.equals(again)
    made = house / "runs" / "evaluations"
    assert len(list(made.iterdir())) == 1
    other = tmp_path / "other"
    formats.write_lifting_world(other)
    formats.write_pickle(other / "h36m", "test", formats.people(8, seed=9))
    monkeypatch.setattr(lifting, "ROOT", other)
    rows = runs.evaluated(checkpoint, run.world, "test", hypotheses=2)
    assert len(list(made.iterdir())) == 2
    assert not rows["mpjpe_mode"].equals(first["mpjpe_mode"])


def test_no_mirror_images_are_drawn(house, monkeypatch):
    seen = []
    draw = data.LiftingBatch.draw

    def noted(self, count, *, generator, mirror):
        seen.append(mirror)
        return draw(self, count, generator=generator, mirror=mirror)

    monkeypatch.setattr(data.LiftingBatch, "draw", noted)
    runs.train(tiny("propose", poses="fits"), device="cpu")
    assert set(seen) == {False}


def test_models_of_the_open_world_can_be_measured_on_licensed_images(house):
    """What names the rows is the images, whichever system looks at them."""
    run = changed(profile("smoke").lifting, world=TINY, training={"batch": 4})
    rows = systems.evaluate_lifting(
        LiftingFlow(run.model),
        {"system": "lifting", "run": {"rule": {}}},
        WORLD,
        "rooms",
        hypotheses=2,
        seed=0,
    )
    assert len(rows) == 4
    assert systems.lifting_data_name(WORLD) == lifting.evaluated_on(WORLD)
    folder = systems.lifting_store(run.world).directory.name
    assert systems.lifting_data_name(run.world) == folder


def test_runs_of_the_open_world_keep_their_folders():
    """Names of folders from before there was licensed data."""
    chosen = profile("laptop")
    names = {runs.run_directory(getattr(chosen, s)).name for s in ("lifting", "propose")}
    assert names == {"lifting-e84e8bcd8210-1", "propose-f736fc7c4bfa-1"}
    assert systems.SYSTEMS[LiftingRun].recipe == systems.store(chosen.lifting).recipe
