"""Tests of humr.storage: checkpoints."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from humr import storage
from humr.config import Model, from_dict, to_dict
from humr.files import BrokenFile
from humr.flows import FixedPermutation


def test_wrong_or_missing_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint best\.safetensors"):
        storage.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    storage.save_model(tmp_path / "best", nn.Linear(1, 1), {})
    with pytest.raises(ValueError, match="does not fit its description"):
        storage.load_model(tmp_path / "best", lambda _: nn.Linear(2, 1))
    assert "git" in json.loads((tmp_path / "best.json").read_text())


class Small(nn.Module):
    """As much as a checkpoint can hold: weights, a permutation, a count of layers."""

    def __init__(self, config):
        super().__init__()
        layers = [nn.Linear(config.hidden, config.hidden) for _ in range(config.blocks)]
        self.layers = nn.Sequential(*layers)
        self.mix = FixedPermutation(config.hidden, generator=torch.Generator().manual_seed(1))


def build(about):
    return Small(from_dict(Model, about["run"]["model"]))


@pytest.fixture
def kept(tmp_path):
    config = Model(hidden=16, blocks=2)
    storage.save_model(tmp_path / "best", Small(config), {"run": {"model": to_dict(config)}})
    assert isinstance(storage.load_model(tmp_path / "best", build)[0], Small)
    return tmp_path / "best"


WEIGHT, ORDER, INVERSE = "layers.0.weight", "mix.permutation", "mix.inverse"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (WEIGHT, lambda t: t * torch.nan),
        (WEIGHT, lambda t: t.half() / 0),
        (WEIGHT, lambda t: t.long()),
        (WEIGHT, lambda t: t > 0),
        (WEIGHT, lambda t: t.to(torch.uint8)),
        (WEIGHT, lambda t: t.to(torch.complex64)),
        (WEIGHT, lambda t: t[:, :5].clone()),
        (WEIGHT, lambda t: t[None]),
        (WEIGHT, lambda t: t.new_zeros(0)),
        (ORDER, lambda t: t + 1),
        (ORDER, lambda t: t * 0),
        (ORDER, lambda t: -t),
        (ORDER, lambda t: t.float()),
        (ORDER, lambda t: t.int()),
        (ORDER, lambda t: t.flip(0)),
        (INVERSE, lambda t: t * 10**12),
        (INVERSE, lambda t: t.flip(0)),
        ("layers.1.bias", None),
        ("another", lambda _: torch.zeros(2)),
    ],
)
def test_weights_are_not_believed(kept, name, change):
    path = kept.with_suffix(".safetensors")
    tensors = load_file(path)
    value = None if change is None else change(tensors.get(name)).contiguous()
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), path)
    with pytest.raises(BrokenFile, match=r"best\.safetensors [^\n]* Get both files"):
        storage.load_model(kept, build)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\xff" * 8, (10**11).to_bytes(8, "little") + b"{}", None,
     b"\x50\x00\x00\x00\x00\x00\x00\x00"
     + b'{"layers.0.weight":{"dtype":"F32","shape":[200000000000],"data_offsets":[0,4]}}  ' * 1],
)  # fmt: skip
def test_weights_that_are_something_else_are_named(kept, content):
    path = kept.with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(BrokenFile, match=r"best\.safetensors cannot be read: .* Get both files"):
        storage.load_model(kept, build)


@pytest.mark.parametrize(
    "about",
    [[], [1, 2], "text", None, 3, {}, {"run": None}, {"run": []}, {"run": "a"}, {"run": {}},
     {"run": {"model": None}}, {"run": {"model": [1]}}],
)  # fmt: skip
def test_descriptions_are_not_believed(kept, about):
    kept.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(BrokenFile, match=r"best\.(json|safetensors) [^\n]* Get both files"):
        storage.load_model(kept, build)


def test_a_cut_description_is_named(kept):
    path = kept.with_suffix(".json")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BrokenFile, match=r"best\.json cannot be read: .* Get both files"):
        storage.load_model(kept, build)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", 100_000), ("blocks", 0), ("blocks", 2.0), ("blocks", True), ("blocks", None),
        ("blocks", 10**30), ("hidden", -5), ("hidden", "abc"), ("hidden", 200_000),
        ("hidden", 10**18), ("hidden", [16]), ("hidden", {}), ("dropout", float("nan")),
        ("dropout", "0.5"), ("flow", 3), ("flow", "spline"), ("pose", 1), ("unknown", 1),
    ],
)  # fmt: skip
def test_sizes_are_checked_before_anything_is_allocated(kept, field, value):
    about = json.loads(kept.with_suffix(".json").read_text())
    about["run"]["model"][field] = value
    kept.with_suffix(".json").write_text(json.dumps(about))
    made = []

    def counted(module, *_):
        made.append(module)

    hook = nn.modules.module.register_module_parameter_registration_hook(counted)
    try:
        with pytest.raises(BrokenFile, match=r"best\.safetensors does not fit [^\n]* Get both"):
            storage.load_model(kept, build)
    finally:
        hook.remove()
    assert len(made) < 20
    assert nn.Linear(300, 300).weight.isfinite().all()  # the limit ended with the reading


def test_half_precision_is_made_single(kept):
    path = kept.with_suffix(".safetensors")
    tensors = {n: t.half() if t.is_floating_point() else t for n, t in load_file(path).items()}
    save_file(tensors, path)
    model, _ = storage.load_model(kept, build)
    assert model.layers[0].weight.dtype == torch.float32
    np.testing.assert_array_equal(model.mix.permutation, tensors[ORDER])
