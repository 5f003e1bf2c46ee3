from dataclasses import replace

import pandas as pd
import pytest
import torch

from humr.benchmarks import bench, tasks, timing
from humr.bodies.body import load_body
from humr.config import Model, Run, Training, Weights

SMALL = Run(
    model=Model(features=30, pose_hidden=12, pose_width=8, blocks=2, hidden=16, head_hidden=16),
    training=Training(batch=3, hypotheses=25),
    supervision=tasks.OFFICIAL,
)


@pytest.fixture(scope="module")
def training():
    return tasks.training_works(SMALL, "cpu")


def test_every_part_of_a_step_can_be_run_again_in_both_forms(training):
    forms = {(work.name, work.form) for work in training}
    assert {name for name, form in forms if form == "plain"} <= {name for name, _ in forms}
    assert ("training step", "plain") in forms
    for work in training:
        work.run()
        work.run()


def test_terms_without_weight_are_in_neither_form():
    light = replace(SMALL, weights=Weights(camera=0.0, mask=0.0))
    assert ("training step", "plain") in {
        (w.name, w.form) for w in tasks.training_works(light, "cpu")
    }


def test_forms_that_differ_are_not_timed(monkeypatch):
    original = tasks.plain_form()
    terms = original.terms
    monkeypatch.setattr(
        original, "terms", lambda *a, **k: {**terms(*a, **k), "nll": torch.tensor(9.0)}
    )
    monkeypatch.setattr(tasks, "plain_form", lambda: original)
    with pytest.raises(ArithmeticError, match="training step: the forms differ"):
        tasks.training_works(SMALL, "cpu")


def test_without_the_tests_there_is_only_our_form(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "PLAIN", tmp_path / "plain.py")
    assert {work.form for work in tasks.training_works(SMALL, "cpu")} == {"humr"}


def test_the_evaluation_agrees_with_the_plain_form():
    works = tasks.evaluation_works(SMALL, "cpu")
    assert [(w.count, w.form) for w in works] == [(400, "humr"), (400, "plain"), (4000, "humr")]


def test_the_table_and_what_is_kept(training, tmp_path):
    chosen = [work for work in training if work.name in ("body", "optimiser")]
    seconds = timing.timed(chosen, repeats=2).assign(group="training")
    costs = timing.costs(chosen).assign(group="training")
    floor = timing.Peak(flops=1e12, bandwidth=1e10)
    shown = bench.table(seconds, costs, floor)
    assert list(shown.index) == ["body", "optimiser"]
    body = shown.loc["body"]
    assert body["per second"] == pytest.approx(3 / body["wall"])
    assert body["of floor"] > shown.loc["optimiser", "of floor"] == 0
    assert shown["wall_plain"].notna().tolist() == [True, False]
    path = tmp_path / "bench.parquet"
    bench.write(path, seconds, costs, {"floor": vars(floor), "device": "cpu"})
    again, about = bench.read(path)
    pd.testing.assert_frame_equal(again, shown)
    assert about["device"] == "cpu"


def test_a_step_lowers_the_loss():
    ours = tasks.training(replace(SMALL, training=replace(SMALL.training, rate=1e-2)))
    first = ours.step()
    for _ in range(5):
        last = ours.step()
    assert last < first


def test_latents_are_evaluated_without_data_on_disk():
    ours = tasks.evaluation(SMALL.model, images=2, hypotheses=3, body=load_body("small"))
    assert not ours.noise[:, 0].any()
    found = ours.run()
    assert found["mpjpe_best"].shape == (2,)
    assert (found["mpjpe_best"] <= found["mpjpe_mode"]).all()


def test_lifting_systems_take_steps():
    for work in tasks.lifting(SMALL, "cpu"):
        work.run()
