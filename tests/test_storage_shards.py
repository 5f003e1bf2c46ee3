"""Tests of humr.storage: a data set of squares."""

import json
from dataclasses import dataclass, replace

import pytest
import torch

from humr import storage


@dataclass(frozen=True)
class Config:
    factor: float = 2.0


@dataclass(frozen=True)
class Squares:
    values: torch.Tensor

    @classmethod
    def read(cls, path):
        return cls(**storage.read_tensors(path, {"values"}))

    @classmethod
    def join(cls, parts):
        return cls(torch.cat([part.values for part in parts]))


def make(config, split, number):
    count = 3 if number < 2 else 1
    start = 100.0 * (split == "test") + 3 * number
    return Squares(config.factor * torch.arange(start, start + count) ** 2)


def store(config=None, recipe=1):
    return storage.Store(
        name="squares", config=config or Config(), sizes={"train": 7, "test": 3}, shard=3,
        recipe=recipe, make=make, read=Squares.read, join=Squares.join,
    )  # fmt: skip


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
        storage.read_tensors(path, {"values"})
    storage.write(path, Squares(torch.zeros(2)))
    with pytest.raises(ValueError, match=r"missing \['cubes'\], unknown \['values'\]"):
        storage.read_tensors(path, {"cubes"})
