"""Tests of humr.devices: switches for faster kernels."""

import copy
import warnings
from functools import partial

import jaxtyping
import pytest
import torch

from humr import devices
from humr.devices import Compiled, faster
from humr.flows import ConditionalFlow


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return ConditionalFlow(12, 5, blocks=2, hidden=16)


@pytest.fixture
def given(generator):
    return torch.randn(3, 4, 12, generator=generator), torch.randn(3, 5, generator=generator)


def drawn(flow, given):
    """What a flow makes of noise, its log-determinants, and the gradients of both."""
    noise, context = given
    flow.zero_grad()
    x, log_det = flow.generate(noise, flow.project(context))
    (x.square().sum() + log_det.sum()).backward()
    return [x, log_det, *(p.grad for p in flow.parameters())]


def turned_on(switches):
    """What is on in truth, and the precision of products meanwhile."""
    with faster(switches) as on:
        return on, precision()


def precision():
    return devices._ONEDNN.fp32_precision


@pytest.fixture
def _untyped():
    """Without the check of array shapes, which torch.compile cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", value=True)
    yield
    jaxtyping.config.update("jaxtyping_disable", value=False)


@pytest.mark.usefixtures("_untyped")
def test_the_compiled_flow_is_the_flow(flow, given, monkeypatch):
    traced = partial(Compiled, backend="aot_eager")  # all of torch.compile but the C++ compiler
    monkeypatch.setattr(devices, "Compiled", traced)
    expected = drawn(copy.deepcopy(flow), given)
    plain = flow._transform
    with faster(["compiled"], flow=flow) as on:
        assert on == ["compiled"]
        assert flow._transform is not plain
        for ours, theirs in zip(drawn(flow, given), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert "_transform" not in vars(flow)
    assert flow.state_dict().keys() == copy.deepcopy(flow).state_dict().keys()


def test_a_failing_compiler_costs_one_warning_and_no_result(flow, given, monkeypatch):
    def refuses(graph, inputs):
        raise RuntimeError("no compiler on this machine\nsecond line")

    monkeypatch.setattr(devices, "Compiled", partial(Compiled, backend=refuses))
    expected = drawn(copy.deepcopy(flow), given)
    with faster(["compiled"], flow=flow) as on, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert on == ["compiled"]
        first, second = drawn(flow, given), drawn(flow, given)
        assert on == []
    assert len([w for w in caught if "going on without it" in str(w.message)]) == 1
    for ours, again, theirs in zip(first, second, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(again, theirs)


def test_graphs_are_for_cuda(flow, monkeypatch):
    monkeypatch.setattr(devices, "Compiled", partial(Compiled, backend="aot_eager"))
    with faster(["graphs"], "cpu", flow) as on:
        assert on == ["compiled"]


def test_errors_of_the_function_itself_are_not_hidden():
    def refuses(x):
        raise ValueError(f"wrong shape {tuple(x.shape)}")

    with pytest.raises(ValueError, match="wrong shape"):
        Compiled(refuses, backend="eager")(torch.zeros(2))

    def hungry(x):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Compiled(hungry, backend="eager")(torch.zeros(2))


def test_other_products_are_taken_only_where_they_pay(flow, given, monkeypatch):
    before = precision()
    monkeypatch.setattr(devices, "other_products_pay", lambda: True)
    with faster(["products"]) as on:
        assert on == ["products"]
        assert precision() == "bf16"
    assert precision() == before
    monkeypatch.setattr(devices, "other_products_pay", lambda: False)
    with pytest.warns(UserWarning, match="no gain"):
        entered = turned_on(["products"])
    assert entered == ([], before)


def test_the_flag_is_lifted_after_an_error(monkeypatch):
    before = precision()
    monkeypatch.setattr(devices, "other_products_pay", lambda: True)
    with pytest.raises(KeyError), faster(["products"]):
        raise KeyError
    assert precision() == before


@pytest.mark.parametrize(
    ("seconds", "limit", "expected"),
    [((2.0, 1.0), 1e-5, True), ((1.0, 1.0), 1e-5, False), ((2.0, 1.0), 1e-12, False)],
    ids=["exact and faster", "no faster", "not exact"],
)
def test_the_test_of_itself(monkeypatch, seconds, limit, expected):
    times = iter(seconds)
    monkeypatch.setattr(devices, "_seconds", lambda run, repeats: next(times))
    monkeypatch.setattr(devices, "EXACT", limit)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    # a product in full precision, whatever this processor does with the flag
    monkeypatch.setattr(devices, "_flag", lambda *a: warnings.catch_warnings())
    assert devices.other_products_pay.__wrapped__() is expected


def test_without_the_library_there_are_no_other_products(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert devices.other_products_pay.__wrapped__() is False


def test_tf32_is_for_cuda():
    with pytest.warns(UserWarning, match="this is cpu"):
        assert turned_on(["tf32"])[0] == []


@pytest.mark.parametrize(
    ("switches", "match"),
    [
        (["turbo"], "no switch turbo; expected some of products"),
        (["compiled", "graphs"], "choose either"),
        (["compiled"], "about a flow; got none"),
    ],
)
def test_wrong_switches(switches, match):
    with pytest.raises(ValueError, match=match), faster(switches):
        pass


def test_nothing_chosen_changes_nothing(flow, given):
    expected = drawn(copy.deepcopy(flow), given)
    with faster([], flow=flow) as on:
        assert on == []
        assert all(torch.equal(a, b) for a, b in zip(drawn(flow, given), expected, strict=True))
