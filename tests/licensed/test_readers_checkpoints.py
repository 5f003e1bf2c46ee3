"""Tests of licensed.readers: weights; test_checkpoints_official.py has more, of whole networks."""

import contextlib
import io
import os
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from humr.licensed.readers import check, fill, load

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def saved(path, content):
    torch.save(content, path)
    return path


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
    with pytest.raises(FileNotFoundError, match=r"no checkpoint \S*net\.pth: download"):
        load(path, "state_dict", set())


WHOLE = io.BytesIO()
torch.save({"state_dict": STATE}, WHOLE)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 18, 30, 400])
def test_files_that_end_too_early(path, size):
    path.write_bytes(WHOLE.getvalue()[:size])
    with pytest.raises(ValueError, match=r"net\.pth cannot be read as a file of torch: .*par"):
        load(path, "state_dict", set())


@pytest.mark.parametrize(
    "content",
    [b"abc", b"<html>Sign in</html>", b"version https://git-lfs.github.com/spec/v1",
     b"\x80\x04\x95", pickle.dumps({"state_dict": {"a": 1}}, protocol=4), b"\x89PNG"],
    ids=["text", "page", "pointer", "start", "pickle", "image"],
)  # fmt: skip
def test_files_of_other_kinds(path, content):
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"net\.pth cannot be read as a file of torch: "
    ) as caught:
        load(path, "state_dict", set())
    assert caught.value.__suppress_context__  # torch advises to run what is in the file
    assert not re.search("weights_only|Re-running|arbitrary", str(caught.value))


def test_damaged_bytes_are_refused_whatever_torch_says_of_them(path):
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(WHOLE.getvalue())
        for place in rng.integers(len(content), size=3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(ValueError):  # some damage does not show
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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_must_be_finite(value):
    state = STATE | {"a.bias": torch.tensor([1.0, value])}
    with pytest.raises(
        ValueError,
        match=r"^net must hold finite weights; got .* 1 of 2 tensors \(a\.bias\)\. Usual",
    ):
        check("net", state, STATE)
    counts = {"n": torch.tensor(3), "half": torch.tensor([1.0]).half()}
    check("net", counts, counts)


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
