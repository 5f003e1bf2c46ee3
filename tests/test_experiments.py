import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from humr import experiments, mesh_runs, shards
from humr.checkpoints import save_model
from humr.config import Run, to_dict
from humr.mesh import Humr
from humr.profiles import profile
from humr.variant import changed


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Worlds and runs of this test in a folder of their own."""
    monkeypatch.setattr(shards, "DATA", tmp_path / "data")
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(experiments, "SHIPPED", tmp_path / "data" / "checkpoint" / "humr_open")
    return tmp_path


def test_the_shipped_model_loads_and_says_what_it_is():
    model, about = experiments.shipped()
    assert isinstance(model, Humr)
    assert about["system"] == "humr"
    assert about["git"]
    assert about["test"]["energy_score"] < about["test"]["mpjpe_mode"]
    log = experiments.SHIPPED.parent / "training_log.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
    assert about["step"] in steps


def test_shipped_rows_give_the_shipped_summary():
    rows = pd.read_parquet(experiments.SHIPPED.parent / "test_rows.parquet")
    about = json.loads(experiments.SHIPPED.with_suffix(".json").read_text())
    assert len(rows) == about["test_images"]
    assert experiments.summary(rows) == about["test"]


def test_training_makes_its_world_finishes_and_is_not_repeated(apart):
    chosen = profile("smoke")
    tiny = replace(
        chosen.run,
        world=replace(chosen.run.world, labelled=6, points=2, unlabelled=2, validation=2, test=3,
                      shard=6, window=96, backgrounds=1),
        training=replace(chosen.run.training, steps=4, batch=4, hypotheses=2, validate_every=2),
    )  # fmt: skip
    directory = experiments.run_directory(tiny)
    directory.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        with FileLock(directory / "lock"):  # as if another process were at work on it
            waiting = pool.submit(experiments.train, tiny, device="cpu")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert not (directory / "log.jsonl").exists()
        checkpoint = waiting.result()
    before = checkpoint.with_suffix(".safetensors").stat().st_mtime_ns
    assert experiments.train(tiny, device="cpu") == checkpoint
    assert checkpoint.with_suffix(".safetensors").stat().st_mtime_ns == before
    result = experiments.ship(tiny, replace(chosen, run=tiny, hypotheses=3))
    assert experiments.shipped()[1]["test"] == result
    rows = experiments.evaluated(experiments.SHIPPED, tiny.world, "test", hypotheses=3)
    assert experiments.summary(rows) == result  # found, not made again
    assert len(list((apart / "runs" / "evaluations").iterdir())) == 1
    experiments.evaluated(checkpoint, tiny.world, "test", hypotheses=3)  # other weights
    assert len(list((apart / "runs" / "evaluations").iterdir())) == 2


def test_rows_are_measured_on_the_device_of_choice(apart, monkeypatch):
    chosen = experiments.SHIPPED.with_name("elsewhere")
    chosen.parent.mkdir(parents=True)
    about = {"system": "humr", "run": to_dict(profile("smoke").run)}
    save_model(chosen, mesh_runs.build(about), about)
    seen = []

    def measured(model, *_, **__):
        seen.append(model.flow.mean.device.type)
        return pd.DataFrame({"image": [0]})

    monkeypatch.setattr(experiments, "pick_device", lambda: torch.device("meta"))
    system = replace(experiments.SYSTEMS[Run], evaluate=measured)
    monkeypatch.setitem(experiments.SYSTEMS, Run, system)
    experiments.evaluated(chosen, profile("smoke").run.world, "test", hypotheses=3)
    assert seen == ["meta"]


def test_only_finished_runs_are_shipped(apart):
    chosen = profile("smoke")
    with pytest.raises(FileNotFoundError, match="is not finished"):
        experiments.ship(chosen.run, chosen)


def test_more_labels_than_there_are_are_refused_before_any_work(apart):
    run = changed(
        profile("smoke").run,
        supervision={"poses": 3},
        training={"batch": 8, "labelled_share": 0.5},
    )
    with pytest.raises(
        ValueError, match="needs 4 different images with 3D labels, and there are 3"
    ):
        experiments.train(run)
    assert not experiments.run_directory(run).exists()


def test_a_configuration_for_other_features_is_refused_before_any_work(apart):
    with pytest.raises(
        ValueError, match="2016 features per image; this configuration expects 720"
    ):
        experiments.train(Run())
    assert not list(apart.iterdir())


def test_checkpoints_of_other_systems_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a checkpoint of system 'humr'; got 'lifting'"):
        mesh_runs.build({"system": "lifting"})
    save_model(tmp_path / "best", nn.Linear(1, 1), {"system": "pose"})
    known = r"'humr', 'lifting', 'lifting_paper', 'paper', 'propose', 'propose_paper'"
    with pytest.raises(ValueError, match=rf"one of \[{known}\]; got 'pose'"):
        experiments.load(tmp_path / "best")


def test_a_wrong_number_of_crops_is_said_in_a_line(monkeypatch, capsys):
    monkeypatch.setenv("HUMR_VARIANTS", "x")
    assert experiments.main(["train", "paper"]) == 1
    assert capsys.readouterr().out.startswith("humr: HUMR_VARIANTS must be a number")
