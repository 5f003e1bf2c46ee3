import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from humr.benchmarks import timing
from humr.benchmarks.timing import Task


def test_every_work_is_run_in_turn():
    done = []
    works = [Task(name=n, run=lambda n=n: (done.append(n), spin())) for n in "ab"]
    table = timing.timed(works, repeats=3)
    assert list(table["name"]) == list("ababab")
    assert list(table["repeat"]) == [0, 0, 1, 1, 2, 2]
    assert (table["wall"] > 0).all()
    assert set(done) == {"a", "b"}


def spin():
    return torch.ones(64, 64) @ torch.ones(64, 64)


@pytest.mark.parametrize(("seconds", "expected"), [(1e-4, 200), (0.02, 1), (3.0, 1)])
def test_short_works_are_repeated(monkeypatch, seconds, expected):
    monkeypatch.setattr(timing, "_once", lambda *_: {"wall": seconds, "user": seconds})
    assert timing._times(Task(name="x", run=spin), "cpu") == expected


def test_operations_are_those_of_the_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert timing.operations(Task(name="ab", run=lambda: a @ b)) == 2 * 3 * 5 * 7
    both = timing.operations(Task(name="ab", run=lambda: (a @ b).sum().backward()))
    assert both == 2 * 2 * 3 * 5 * 7  # the gradient of b is one more product


def test_ratios_are_of_neighbouring_repeats():
    """A machine that is ten times slower in the second repeat changes no ratio."""
    times = [(0, "humr", 1.0), (0, "plain", 4.0), (1, "humr", 10.0), (1, "plain", 40.0)]
    rows = [
        {"name": "x", "form": form, "count": 6, "repeat": repeat, "wall": t, "user": t / 2}
        for repeat, form, t in times
    ]
    found = timing.compared(pd.DataFrame(rows)).loc["x"]
    assert (found["wall"], found["user"], found["count"]) == (5.5, 2.75, 6)
    assert found["wall_plain"] == found["user_plain"] == 4


def test_a_form_that_was_not_timed():
    table = timing.timed([Task(name="x", run=spin, form="plain")], repeats=1)
    with pytest.raises(ValueError, match="no times of form 'humr'"):
        timing.compared(table)
    with pytest.raises(ValueError, match="at least 1"):
        timing.timed([], repeats=0)


def test_the_peak_is_two_rates(device):
    found = timing.peak(device)
    assert found.flops > 1e8
    assert found.bandwidth > 1e8


def test_costs(device):
    table = timing.costs([Task(name="x", run=lambda: spin().sum())], device=device)
    assert table.loc[0, "operations"] == 2 * 64**3
    assert table.loc[0, "memory"] >= 0


@pytest.mark.parametrize("inference", [False, True])
def test_counts_like_torchs_own_counter(inference):
    layers = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    x = torch.randn(4, 5)

    def forward():
        return layers(x).sum() if inference else layers(x).sum().backward()

    with torch.inference_mode(inference), FlopCounterMode(display=False) as theirs:
        forward()
    with torch.inference_mode(inference):
        counted = timing.operations(Task(name="layers", run=forward))
    assert counted == theirs.get_total_flops()
    assert counted >= 2 * 4 * (5 * 7 + 7 * 3)


def test_counts_gradients_of_gradients():
    layer = torch.nn.Linear(5, 1)
    x = torch.randn(4, 5, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    # forward, gradient, and of the second pass: through the gradient to weight and layer's output
    assert timing.operations(Task(name="penalty", run=penalty)) >= 4 * 2 * 4 * 5
