"""Tests of humr.strict_weights; tests/test_official.py has more of them on whole networks."""

import os
from collections import OrderedDict

import pytest
import torch
from torch import nn

from humr.paths import DATA
from humr.strict_weights import check, fill, label, load

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def saved(path, content):
    torch.save(content, path)
    return path


def test_labels():
    assert label(DATA / "ckpt" / "x.pth").replace("\\", "/") == "ckpt/x.pth"
    assert label(DATA.parent / "x.pth") == "x.pth"


@pytest.mark.parametrize("extra", [{}, {"meta": {"epoch": 3}}, {"meta": 1, "optimizer": {}}])
def test_weights_and_what_may_lie_beside_them(path, extra):
    saved(path, {"state_dict": OrderedDict(STATE), **extra})
    content = load(path, "state_dict", {"meta", "optimizer"})
    assert content.keys() == {"state_dict", *extra}
    assert torch.equal(content["state_dict"]["a.weight"], STATE["a.weight"])


def test_bare_weights_only_where_they_are_taken(path):
    saved(path, STATE)
    content = load(path, "state_dict", {"meta"}, bare=True)
    assert content.keys() == {"state_dict"}
    assert content["state_dict"].keys() == STATE.keys()
    with pytest.raises(ValueError, match=r"got \['a.bias', 'a.weight'\]\. .*, or bare weights"):
        load(path, "state_dict", {"meta"})


@pytest.mark.parametrize(
    "content",
    [{}, {"model": STATE}, {"state_dict": STATE, "ema": {}}, {"state_dict": [1]}, [1, 2],
     {**STATE, "epoch": 3}],
    ids=["empty", "model", "ema", "list", "no names", "mixed"],
)  # fmt: skip
@pytest.mark.parametrize("bare", [False, True])
def test_another_top_level_is_refused(path, content, bare):
    saved(path, content)
    with pytest.raises(
        ValueError, match=r"net\.pth: expected 'state_dict' and at most \['meta'\]"
    ):
        load(path, "state_dict", {"meta"}, bare=bare)


class Call:
    """Makes a folder when somebody careless reads it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_file_is_run(path, tmp_path):
    saved(path, {"state_dict": STATE, "meta": Call(tmp_path / "made")})
    with pytest.raises(ValueError, match=r"mkdir beside .*torch\.save\(\{'state_dict': \.\.\.\}"):
        load(path, "state_dict", {"meta"}, bare=True)
    assert not (tmp_path / "made").exists()


def test_missing_and_broken_files(path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint net\.pth: download"):
        load(path, "state_dict", set())
    for data in (b"", b"<html>", saved(path, STATE).read_bytes()[:400]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"net\.pth cannot be read as a file of torch: .*par"):
            load(path, "state_dict", set())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, r"1 missing \(a\.bias\)"),
        ({"b": torch.ones(1)}, r"1 unknown \(b\)"),
        ({"a.bias": torch.ones(3)}, r"1 of another shape \(a\.bias \(3,\), expected \(2,\)\)"),
        ({"a.bias": "text"}, r"1 of another shape \(a\.bias \(\), expected \(2,\)\)"),
        ({f"b{n}": torch.ones(1) for n in range(7)}, r"7 unknown \(b0, b1, b2, b3, b4, \.\.\.\)"),
    ],
)
def test_faults_are_counted_and_named(change, message):
    state = {key: value for key, value in (STATE | change).items() if value is not None}
    with pytest.raises(ValueError, match=rf"^net is not the network .* {message}"):
        check("net", state, STATE)
    check("net", STATE, STATE)


def test_permutations_must_fit_their_inverses():
    order = torch.tensor([2, 0, 1])
    state = {"x.perm": order, "x.perm_inv": order.argsort()}
    check("net", state, state)
    for wrong in ({"x.perm_inv": order}, {"x.perm": torch.tensor([2, 2, 1])}):
        with pytest.raises(ValueError, match=r"1 no permutation and its inverse \(x\.perm\)"):
            check("net", state | wrong, state)


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2],
)
def test_filling_keeps_precision_and_what_is_not_given(stored, kept):
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 1)}).train()
    before = model.state_dict()["b.weight"].clone()
    fill(model, {key: value.to(stored) for key, value in STATE.items()})
    found = model.state_dict()
    assert found["a.weight"].dtype == kept
    assert torch.equal(found["a.weight"].float(), STATE["a.weight"])
    assert torch.equal(found["b.weight"].float(), before)
    assert not model.training
