import json

import pandas as pd
import pytest

from humr import storage
from humr.experiments import ablations, runs
from humr.experiments.profiles import profile
from humr.model import Humr

TINY = {"labelled": 6, "points": 2, "unlabelled": 2, "validation": 2, "test": 3, "shard": 6,
        "window": 96, "backgrounds": 1}  # fmt: skip


SMALL = {f"world.{name}": value for name, value in TINY.items()}
SMALL |= {"training.batch": 4, "training.hypotheses": 2}
ROWS = [
    ("one", "One", SMALL),
    ("last", "One, last", SMALL | {"checkpoint": "last"}),
    ("focal", "One, focal unknown", SMALL | {"default_focal": True}),
    ("other", "Other", SMALL | {"weights.heatmap": 0.0}),
]


@pytest.fixture
def apart(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(ablations.STUDIES, "tiny", ("study", ROWS))
    return tmp_path


def trainings(folder):
    return sorted(p.name for p in (folder / "runs" / "models").glob("*/done.json"))


def test_rows_come_from_runs_or_from_committed_results_of_the_same_configuration(
    apart, monkeypatch
):
    rows = runs.rows("tiny", "smoke")
    assert list(rows.groupby("variant", sort=False).size().items()) == [
        ("one", 3), ("last", 3), ("focal", 3), ("other", 3)]  # fmt: skip
    assert rows.groupby("key").ngroups == 4
    assert len(list((apart / "runs" / "models").iterdir())) == 2  # three rows share a training
    one = rows[rows.variant == "one"].reset_index()
    focal = rows[rows.variant == "focal"].reset_index()
    assert (one.energy_score != focal.energy_score).any()

    (path,) = runs.of_study("tiny").publish("smoke")  # one seed
    about = json.loads((path.parent / "smoke-tiny.json").read_text())
    assert (about["runs"], about["missing"]) == (4, 0)
    monkeypatch.setattr(runs, "RUNS", apart / "nowhere")
    again = runs.rows("tiny", "smoke")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False, rtol=2e-3, atol=1e-2)
    assert not (apart / "nowhere").exists()

    table = pd.read_parquet(path)
    table.loc[table.variant == "other", "key"] = "changed since"
    table.to_parquet(path)
    assert len(runs.rows("tiny", "smoke")) == len(rows)
    assert len(list((apart / "nowhere" / "models").iterdir())) == 1  # that one was made again


def test_a_grid_runs_what_is_missing_and_a_model_can_be_had(apart):
    chosen = profile("smoke").study
    runs.make_missing(["tiny"], "smoke", workers=0)
    made = {p: p.stat().st_mtime_ns for p in (apart / "runs").rglob("*.safetensors")}
    assert len(made) == 4  # two runs, best and last
    runs.make_missing(["tiny"], "smoke", workers=0)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    model = runs.model("tiny", "other", "smoke")
    assert isinstance(model, Humr)
    assert model.encoder.width == Humr(chosen.model).encoder.width


def test_nothing_is_published_before_a_run_is_finished(apart):
    with pytest.raises(FileNotFoundError, match="no run of study 'tiny' is finished"):
        runs.of_study("tiny").publish("smoke")


def test_publishing_keeps_the_committed_rows_of_runs_that_are_not_here(apart, monkeypatch):
    before = runs.rows("tiny", "smoke")
    (path,) = runs.of_study("tiny").publish("smoke")
    monkeypatch.setattr(runs, "RUNS", apart / "elsewhere")
    runs.of_study("tiny").made(ablations.variant("tiny", "other", "smoke"), "smoke")
    assert runs.of_study("tiny").publish("smoke") == [path]
    about = json.loads((path.parent / "smoke-tiny.json").read_text())
    assert (about["runs"], about["missing"]) == (4, 0)
    after, before = (t.drop(columns="seconds") for t in (runs.rows("tiny", "smoke"), before))
    pd.testing.assert_frame_equal(after, before, check_dtype=False, rtol=2e-3, atol=1e-2)


def test_a_grid_leaves_out_what_has_committed_rows(apart, monkeypatch):
    runs.make_missing(["tiny"], "smoke", workers=0)
    (path,) = runs.of_study("tiny").publish("smoke")
    monkeypatch.setattr(runs, "RUNS", apart / "elsewhere")
    runs.make_missing(["tiny"], "smoke", workers=0)
    assert not (apart / "elsewhere").exists()
    table = pd.read_parquet(path)
    table[table["variant"] != "other"].to_parquet(path)
    runs.make_missing(["tiny"], "smoke", workers=0)
    assert len(list((apart / "elsewhere" / "models").iterdir())) == 1
