"""Tests of humr.storage: a data set of squares."""

import json
import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import save_file

from humr import storage
from humr.files import BrokenFile
from tests import stops as stops_at


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
    monkeypatch.setattr(storage.Store, "_write_manifest", lambda *_: None)
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


@pytest.fixture
def same_time(monkeypatch):
    monkeypatch.setattr(storage.time, "strftime", lambda _: "now")


@pytest.mark.parametrize("splits", [None, ["train"]])
def test_the_next_start_repairs_what_a_kill_at_any_write_leaves(splits, same_time):
    data = store()

    def work():
        shutil.rmtree(data.directory, ignore_errors=True)
        data.generate(splits=["test"])
        data.paths("test")[0].unlink()
        data.generate(splits=splits)
        return data.generate()

    whole = {path.name: path.read_bytes() for path in work().iterdir()}
    stops = 0
    for stops in stops_at.at_each_write(work):  # noqa: B007
        data.generate()
        assert {path.name: path.read_bytes() for path in data.directory.iterdir()} == whole
        assert len(data.load("train")) == 7
        assert len(data.load("test")) == 3
    assert stops >= 10


def test_a_shard_made_again_by_a_killed_process_is_not_called_damaged(monkeypatch):
    """Other processors round otherwise: the manifest must not speak of a shard that was."""
    data = store()
    data.generate()
    data.paths("test")[0].unlink()
    other = replace(data, make=lambda *job: Squares(make(*job).values + 1e-3))
    for _ in stops_at.at_each_write(lambda: other.generate()):
        data.generate()
        assert len(data.load("test")) == 3
        data.paths("test")[0].unlink()


@pytest.mark.parametrize("text", ["", "{", '{"shards": {', "[]", "null", "text"])
def test_a_cut_manifest_is_named_and_made_again(text):
    data = store()
    data.generate()
    data.manifest.write_text(text)
    with pytest.raises(BrokenFile, match=r"manifest\.json cannot be read: .* humr world"):
        data.load("train")
    data.generate()
    assert len(data.load("train")) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"world": {"factor": 3.0}}, {"world": {"factor": "2"}}, {"world": None}, {"world": []},
        {"world": {"another": 1}}, {"recipe": 2}, {"recipe": None}, {"shards": None},
        {"shards": 3},
    ],
)  # fmt: skip
def test_a_manifest_of_another_configuration_is_refused(change):
    data = store()
    data.generate()
    data.manifest.write_text(json.dumps(json.loads(data.manifest.read_text()) | change))
    for use in (lambda: data.load("train"), data.generate):
        with pytest.raises(BrokenFile, match=r"is of another configuration: .* Delete its folder"):
            use()


@dataclass(frozen=True)
class Shaped(storage.TensorRecord):
    values: Float[torch.Tensor, "images 2"]
    count: Int[torch.Tensor, " images"]
    seen: Bool[torch.Tensor, "images joints"]
    mask: UInt8[torch.Tensor, "images joints"]


GOOD = {
    "values": torch.zeros(3, 2), "count": torch.zeros(3, dtype=torch.int16),
    "seen": torch.zeros(3, 4, dtype=torch.bool), "mask": torch.zeros(3, 4, dtype=torch.uint8),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("values", torch.full((3, 2), torch.nan)),
        ("values", torch.full((3, 2), -torch.inf)),
        ("values", torch.zeros(3, 2, dtype=torch.long)),
        ("values", torch.zeros(3, 2, dtype=torch.bool)),
        ("values", torch.zeros(3, 2, dtype=torch.complex64)),
        ("values", torch.zeros(3, 5)),
        ("values", torch.zeros(6)),
        ("values", torch.zeros(4, 2)),
        ("values", torch.zeros(0, 2)),
        ("count", torch.zeros(3)),
        ("count", torch.zeros((), dtype=torch.int16)),
        ("seen", torch.zeros(3, 4)),
        ("seen", torch.zeros(3, 5, dtype=torch.bool)),
        ("mask", torch.zeros(3, 4, dtype=torch.int16)),
        ("mask", torch.zeros(2, 4, dtype=torch.uint8)),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path, name, value):
    path = tmp_path / "shard.safetensors"
    save_file(GOOD, path)
    assert len(Shaped.read(path)) == 3
    save_file(GOOD | {name: value}, path)
    with pytest.raises(BrokenFile, match=r"shard\.safetensors is not [^\n]* Delete it"):
        Shaped.read(path)


def test_a_shard_of_another_length_is_refused():
    data = store()
    data.generate()
    path = data.paths("train")[1]
    Squares(torch.zeros(2)).write(path)
    listed = json.loads(data.manifest.read_text())
    listed["shards"][path.name] = storage.digest(path)
    data.manifest.write_text(json.dumps(listed))
    with pytest.raises(BrokenFile, match=r"train-00001\.safetensors has 2 rows, not 3; delete it"):
        data.load("train")
