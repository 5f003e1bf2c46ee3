"""Tests of humr.storage: a data set of squares."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from humr import storage


@dataclass(frozen=True)
class Config:
    factor: float = 2.0


@dataclass(frozen=True)
class Squares(storage.TensorRecord):
    values: torch.Tensor


def make(config, split, number):
    count = 3 if number < 2 else 1
    start = 100.0 * (split == "test") + 3 * number
    return Squares(config.factor * torch.arange(start, start + count) ** 2)


def store(config=None, recipe=1):
    return storage.Store(
        name="squares", config=config or Config(), sizes={"train": 7, "test": 3}, shard=3,
        recipe=recipe, make=make, kind=Squares,
    )  # fmt: skip


@dataclass(frozen=True)
class Cubes(storage.TensorRecord):
    cubes: torch.Tensor


@dataclass(frozen=True)
class Boxes(storage.TensorRecord):
    side: torch.Tensor
    name: str = "boxes"
    squares: Squares | None = None
    heights: torch.Tensor | None = None
    actions: tuple[str, ...] = tuple("abcd")
    images: np.ndarray = field(default_factory=lambda: np.array(list("wxyz")))


def test_rows_of_a_record():
    boxes = Boxes(torch.arange(4.0), "some", Squares(torch.arange(4.0) ** 2))
    for index in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False])):
        chosen = boxes[index]
        assert len(chosen) == 2
        assert chosen.side.tolist() == [1, 2]
        assert chosen.squares.values.tolist() == [1, 4]
        assert (chosen.name, chosen.heights, chosen.actions) == ("some", None, ("b", "c"))
        assert chosen.images.tolist() == ["x", "y"]
    joined = Boxes.join([boxes[slice(2, 4)], boxes])
    assert joined.side.tolist() == [2, 3, 0, 1, 2, 3]
    assert joined.squares.values.tolist() == [4, 9, 0, 1, 4, 9]
    assert (joined.name, joined.heights) == ("some", None)
    assert joined.actions == (*"cd", *"abcd")
    assert joined.images.tolist() == [*"yz", *"wxyz"]


def test_a_record_moves_with_those_in_it():
    there = Boxes(torch.zeros(2), squares=Squares(torch.zeros(2))).to("meta")
    assert there.side.device.type == there.squares.values.device.type == "meta"
    assert there.heights is None


@pytest.mark.parametrize(("target", "ahead"), [("cuda", True), ("cpu", False)])
def test_only_copies_to_cuda_are_not_waited_for(target, ahead, monkeypatch):
    seen = []
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, _, *, non_blocking: seen.append(non_blocking) or self
    )
    Squares(torch.zeros(2)).to(target)
    assert seen == [ahead]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path)


def test_generates_what_is_missing_and_loads_it():
    data = store()
    assert [path.name for path in data.paths("train")] == [
        f"train-0000{i}.safetensors" for i in range(3)
    ]
    data.generate(splits=["train"])
    assert torch.equal(data.load("train").values, 2 * torch.arange(7.0) ** 2)
    kept = data.paths("train")[1].stat().st_mtime_ns
    data.paths("train")[2].unlink()
    data.generate(workers=1)
    assert data.paths("train")[1].stat().st_mtime_ns == kept
    assert len(data.load("train").values) == 7
    assert len(json.loads((data.directory / "manifest.json").read_text())["shards"]) == 4
    assert not list(data.directory.glob("*.part"))


def test_enough_work_goes_to_several_processes(monkeypatch):
    jobs = []
    monkeypatch.setattr(
        storage.Store, "_run", lambda _, todo, workers: jobs.append((todo, workers))
    )
    monkeypatch.setattr(storage.Store, "_write_manifest", lambda _: None)
    store().generate(workers=2)
    monkeypatch.setattr(storage, "WORTH_A_PROCESS", 0)
    store().generate(workers=2)
    replace(store(), workers=3).generate()
    replace(store(), workers=3).generate(workers=2)
    todo = [("train", 0), ("train", 1), ("train", 2), ("test", 0)]
    assert jobs == [(todo, 1), (todo, 2), (todo, 3), (todo, 2)]


def test_folders_differ_by_configuration_and_recipe():
    folders = {store().directory, store(Config(3.0)).directory, store(recipe=2).directory}
    assert len(folders) == 3


def test_a_changed_byte_is_noticed():
    store().generate()
    path = store().paths("train")[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not what the manifest says"):
        store().load("train")


def test_missing_shards_and_unknown_splits_are_named():
    with pytest.raises(FileNotFoundError, match="3 of 3 shards of 'train' are not there yet"):
        store().load("train")
    with pytest.raises(ValueError, match="unknown split 'val'; expected one of train, test"):
        store().paths("val")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no shard")
    with pytest.raises(ValueError, match=r"broken\.safetensors is not a readable shard"):
        Squares.read(path)
    Squares(torch.zeros(2)).write(path)
    with pytest.raises(ValueError, match=r"missing \['cubes'\], unknown \['values'\]"):
        Cubes.read(path)
