"""Tests of benchmarks.tasks: what is timed is what it says, the same in every form; no times."""

import gc
from dataclasses import replace

import pandas as pd
import pytest
import torch

from humr import devices
from humr.benchmarks import people, tasks, timing
from humr.config import Run, Weights
from tests.benchmarks.test_people import SMALL


@pytest.fixture(scope="module")
def training():
    return tasks.training_tasks(SMALL, "cpu")


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
        (w.name, w.form) for w in tasks.training_tasks(light, "cpu")
    }


def test_forms_that_differ_are_not_timed(monkeypatch):
    original = tasks.plain_form()
    terms = original.terms
    monkeypatch.setattr(
        original, "terms", lambda *a, **k: {**terms(*a, **k), "nll": torch.tensor(9.0)}
    )
    monkeypatch.setattr(tasks, "plain_form", lambda: original)
    with pytest.raises(ArithmeticError, match="training step: the forms differ"):
        tasks.training_tasks(SMALL, "cpu")


def test_without_the_tests_there_is_only_our_form(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "PLAIN", tmp_path / "plain.py")
    assert {work.form for work in tasks.training_tasks(SMALL, "cpu")} == {"humr"}


def test_the_evaluation_agrees_with_the_plain_form():
    works = tasks.evaluation_tasks(SMALL, "cpu")
    assert [(w.count, w.form) for w in works] == [(400, "humr"), (400, "plain"), (4000, "humr")]


def test_the_table_and_what_is_kept(training, tmp_path):
    chosen = [work for work in training if work.name in ("body", "optimiser")]
    seconds = timing.timed(chosen, repeats=2).assign(group="training")
    costs = timing.costs(chosen).assign(group="training")
    peak = timing.Peak(flops=1e12, bandwidth=1e10)
    shown = timing.table(seconds, costs, peak)
    assert list(shown.index) == ["body", "optimiser"]
    body = shown.loc["body"]
    assert body["per second"] == pytest.approx(3 / body["wall"])
    assert body["of floor"] > shown.loc["optimiser", "of floor"] == 0
    assert shown["wall_plain"].notna().tolist() == [True, False]
    path = tmp_path / "bench.parquet"
    timing.write(path, seconds, costs, {"floor": vars(peak), "device": "cpu"})
    again, about = timing.read(path)
    pd.testing.assert_frame_equal(again, shown)
    assert about["device"] == "cpu"


def test_lifting_systems_take_steps():
    for work in tasks.lifting_tasks(SMALL, "cpu"):
        work.run()


# Photographs


def test_every_task_of_the_loader_counts_images_and_can_be_run_again(few):
    works = tasks.loader_tasks(Run(), "cpu")
    assert [work.name for work in works] == [
        f"{kind}, {what}"
        for kind in ("JPEG", "PNG")
        for what in ("decoded", "annotated crop", "varied crop")
    ]
    assert {work.count for work in works} == {2}
    results = {work.name: (work.run(), work.run()) for work in works}
    decoded = results["PNG, decoded"][0]
    assert [photo.shape for photo in decoded] == [(720, 1280, 3)] * 2
    first, second = results["JPEG, annotated crop"]
    assert torch.equal(first[1].image, second[1].image)
    first, second = results["JPEG, varied crop"]
    assert not torch.equal(first[1].image, second[1].image)  # another variant each time


def test_folders_end_with_their_tasks(few, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.tempfile, "mkdtemp", lambda: str(next(names)))
    folders = [tmp_path / "a", tmp_path / "b"]
    names = iter(folders)
    works = tasks.loader_tasks(Run(), "cpu")
    assert all(folder.exists() for folder in folders)
    del works
    gc.collect()
    assert not any(folder.exists() for folder in folders)


# More and more of something


@pytest.fixture(scope="module")
def scaled():
    axes = {"hypotheses": (1, 3), "images": (1, 2), "joints": (2, 3), "context": (4, 6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "AXES", axes)
        return tasks.scaling_tasks(SMALL, "cpu")


def test_every_axis_has_its_values(scaled):
    ours = [work.name for work in scaled if work.form == "humr"]
    assert ours == [
        "hypotheses: 1", "hypotheses: 3", "images: 1", "images: 2", "joints: 2", "joints: 3",
        "context: 4", "context: 6",
    ]  # fmt: skip
    assert [work.name for work in scaled if work.form == "plain"] == ["context: 4", "context: 6"]


def test_each_can_be_done_again(scaled):
    for work in scaled:
        work.run()
        work.run()


def test_counts_say_how_much_is_made(scaled):
    counts = {work.name: work.count for work in scaled}
    assert counts["hypotheses: 3"] == 3
    assert counts["images: 2"] == 2
    assert counts["joints: 2"] == counts["context: 6"] == 400


def test_both_forms_of_a_flow_draw_the_same(scaled):
    ours, plain = (work.run() for work in scaled if work.name == "context: 6")
    assert (ours - plain).abs().max() < 1e-4


# Further forms


@pytest.fixture
def everywhere(monkeypatch):
    """Let the other products be taken on any processor, and do without a C++ compiler."""
    monkeypatch.setattr(devices, "other_products_pay", lambda: True)
    monkeypatch.setattr(devices, "Compiled", Traced)


class Traced:
    """Stands for a compiled function, and says that it was called."""

    calls = 0

    def __init__(self, function, **options):
        self.function = function

    def __call__(self, *arguments, **named):
        Traced.calls += 1
        return self.function(*arguments, **named)


@pytest.mark.parametrize("group", ["training", "evaluation"])
def test_every_form_does_the_same_work(everywhere, group):
    forms = ["products", "compiled", "bf16"]
    works = [work for work in tasks.GROUPS[group](SMALL, "cpu", forms) if work.form in forms]
    assert [work.form for work in works] == forms
    before = Traced.calls
    for work in works:
        work.run()
    assert Traced.calls > before
    assert len({(work.name, work.count) for work in works}) == 1


def test_the_switch_is_on_during_the_work_only(everywhere, monkeypatch):
    seen = []
    monkeypatch.setattr(
        people.Training,
        "gradients",
        lambda self: seen.append(devices._ONEDNN.fp32_precision) or torch.zeros(()),
    )
    before = devices._ONEDNN.fp32_precision
    tasks._switched_training(SMALL, "cpu", "products")
    assert seen == ["bf16", before]  # in the form, and in the usual one


def test_a_form_that_computes_something_else_is_not_timed(everywhere, monkeypatch):
    monkeypatch.setattr(Traced, "__call__", lambda self, x, c, rev: (x + 1, x.sum(-1)))
    with pytest.raises(ArithmeticError, match="training step, compiled: the forms differ"):
        tasks._switched_training(SMALL, "cpu", "compiled")
