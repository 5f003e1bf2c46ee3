import warnings

import pytest
import torch

from humr import devices
from humr.benchmarks import tasks
from tests.benchmarks.test_bench import SMALL


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch):
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
def test_every_form_does_the_same_work(group):
    forms = ["products", "compiled", "bf16"]
    works = tasks.works(group, SMALL, "cpu", forms)
    assert [work.form for work in works] == forms
    before = Traced.calls
    for work in works:
        work.run()
    assert Traced.calls > before
    assert len({(work.name, work.count) for work in works}) == 1


def test_the_switch_is_on_during_the_work_only(monkeypatch):
    seen = []
    monkeypatch.setattr(
        tasks.Training,
        "gradients",
        lambda self: seen.append(devices._ONEDNN.fp32_precision) or torch.zeros(()),
    )
    before = devices._ONEDNN.fp32_precision
    tasks.works("training", SMALL, "cpu", ["products"])
    assert seen == ["bf16", before]  # in the form, and in the usual one


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(Traced, "__call__", lambda self, x, c, rev: (x + 1, x.sum(-1)))
    with pytest.raises(ArithmeticError, match="training step, compiled: the forms differ"):
        tasks.works("training", SMALL, "cpu", ["compiled"])


def test_other_groups_have_no_further_forms():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tasks.works("photo", SMALL, "cpu", ["products"]) == []
