import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from humr import evaluation, storage
from humr.config import Run, to_dict
from humr.experiments import runs, systems
from humr.experiments.ablations import changed
from humr.experiments.profiles import profile
from humr.model import Humr
from humr.storage import save_model


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Worlds and runs of this test in a folder of their own."""
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "data" / "checkpoint" / "humr_open")
    return tmp_path


def test_the_shipped_model_loads_and_says_what_it_is():
    model, about = runs.shipped()
    assert isinstance(model, Humr)
    assert about["system"] == "humr"
    assert about["git"]
    assert about["test"]["energy_score"] < about["test"]["mpjpe_mode"]
    log = runs.SHIPPED.parent / "training_log.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
    assert about["step"] in steps


def test_shipped_rows_give_the_shipped_summary():
    rows = pd.read_parquet(runs.SHIPPED.parent / "test_rows.parquet")
    about = json.loads(runs.SHIPPED.with_suffix(".json").read_text())
    assert len(rows) == about["test_images"]
    assert evaluation.summary(rows) == about["test"]


def test_training_makes_its_world_finishes_and_is_not_repeated(apart):
    chosen = profile("smoke")
    tiny = replace(
        chosen.run,
        world=replace(chosen.run.world, labelled=6, points=2, unlabelled=2, validation=2, test=3,
                      shard=6, window=96, backgrounds=1),
        training=replace(chosen.run.training, steps=4, batch=4, hypotheses=2, validate_every=2),
    )  # fmt: skip
    directory = runs.run_directory(tiny)
    directory.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        with FileLock(directory / "lock"):  # as if another process were at work on it
            waiting = pool.submit(runs.train, tiny, device="cpu")
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert not (directory / "log.jsonl").exists()
        checkpoint = waiting.result()
    before = checkpoint.with_suffix(".safetensors").stat().st_mtime_ns
    assert runs.train(tiny, device="cpu") == checkpoint
    assert checkpoint.with_suffix(".safetensors").stat().st_mtime_ns == before
    result = runs.ship(tiny, replace(chosen, run=tiny, hypotheses=3))
    assert runs.shipped()[1]["test"] == result
    rows = runs.evaluated(runs.SHIPPED, tiny.world, "test", hypotheses=3)
    assert evaluation.summary(rows) == result  # found, not made again
    assert len(list((apart / "runs" / "evaluations").iterdir())) == 1
    runs.evaluated(checkpoint, tiny.world, "test", hypotheses=3)  # other weights
    assert len(list((apart / "runs" / "evaluations").iterdir())) == 2


def test_rows_are_measured_on_the_device_of_choice(apart, monkeypatch):
    chosen = runs.SHIPPED.with_name("elsewhere")
    chosen.parent.mkdir(parents=True)
    about = {"system": "humr", "run": to_dict(profile("smoke").run)}
    save_model(chosen, systems.build_mesh(about), about)
    seen = []

    def measured(model, *_, **__):
        seen.append(model.flow.mean.device.type)
        return pd.DataFrame({"image": [0]})

    monkeypatch.setattr(runs, "pick_device", lambda: torch.device("meta"))
    system = replace(systems.SYSTEMS[Run], evaluate=measured)
    monkeypatch.setitem(systems.SYSTEMS, Run, system)
    runs.evaluated(chosen, profile("smoke").run.world, "test", hypotheses=3)
    assert seen == ["meta"]


def test_only_finished_runs_are_shipped(apart):
    chosen = profile("smoke")
    with pytest.raises(FileNotFoundError, match="is not finished"):
        runs.ship(chosen.run, chosen)


def test_more_labels_than_there_are_are_refused_before_any_work(apart):
    run = changed(
        profile("smoke").run,
        supervision={"poses": 3},
        training={"batch": 8, "labelled_share": 0.5},
    )
    with pytest.raises(
        ValueError, match="needs 4 different images with 3D labels, and there are 3"
    ):
        runs.train(run)
    assert not runs.run_directory(run).exists()


def test_a_configuration_for_other_features_is_refused_before_any_work(apart):
    with pytest.raises(
        ValueError, match="2016 features per image; this configuration expects 720"
    ):
        runs.train(Run())
    assert not list(apart.iterdir())


def test_checkpoints_of_other_systems_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a checkpoint of system 'humr'; got 'lifting'"):
        systems.build_mesh({"system": "lifting"})
    save_model(tmp_path / "best", nn.Linear(1, 1), {"system": "pose"})
    known = r"'humr', 'lifting', 'lifting_paper', 'paper', 'propose', 'propose_paper'"
    with pytest.raises(ValueError, match=rf"one of \[{known}\]; got 'pose'"):
        runs.load(tmp_path / "best")


def test_a_wrong_number_of_crops_is_said_in_a_line(monkeypatch, capsys):
    monkeypatch.setenv("HUMR_VARIANTS", "x")
    assert runs.main(["train", "paper"]) == 1
    assert capsys.readouterr().out.startswith("humr: HUMR_VARIANTS must be a number")
