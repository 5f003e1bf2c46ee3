"""Tests of humr.licensed.features on a tiny folder of licensed files and a backbone of width 2."""

import json
from dataclasses import fields, replace

import pytest
import torch
from licensed_world import write_networks, write_world

from humr import storage
from humr.batches import Batch
from humr.licensed import checkpoints, datasets
from humr.licensed.checkpoints import read_backbone
from humr.licensed.datasets import Licensed
from humr.licensed.features import (
    AS_ANNOTATED,
    CachedFeatures,
    CachedPool,
    LicensedImages,
    backbone,
    check_origin,
    device_of,
    features,
    loaded,
    people,
    store,
)
from humr.licensed.people import batch_of

CPU = torch.device("cpu")
SETS = ("static-gym", "closeup-gym")
CONFIG = Licensed(
    train=SETS, variants=2, heatmap_samples=10, validation=2, shard=2, mask_side=112
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("licensed")
    write_world(folder, SETS, 3)
    return folder


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The whole cache."""
    patch = pytest.MonkeyPatch()
    patch.setattr(storage, "DATA", tmp_path_factory.mktemp("data"))
    cache = store(CONFIG, root)
    cache.generate(workers=1)
    yield cache
    patch.undo()


def seeded():
    return torch.Generator().manual_seed(5)


def test_splits_and_shards(made):
    assert dict(made.sizes) == {"train": 4, "validation": 2}
    train, held = made.load("train"), made.load("validation")
    assert [len(shard) for shard in made.shards("train")] == [2, 2]
    assert train.features.shape == (4, 2, 30)
    assert train.features.dtype == torch.float16
    assert held.features.shape == (2, 1, 30)
    assert train.mask.shape == (4, 2, 112 * 112 // 8)
    assert train.points.shape == (4, 10, 17, 2)
    assert json.loads((made.directory / "manifest.json").read_text())["world"]["variants"] == 2


def test_a_cached_batch_is_the_batch_of_the_same_variants(made, root):
    """Within half precision of the features; everything else is the same."""
    sets, _ = people(CONFIG, root)
    images = LicensedImages(sets, CONFIG, root=root)
    pool, index, variant = CachedPool(made.shards("train")), [3, 0, 2], [0, 1, 1]
    rows = pool.rows(torch.tensor(index))
    crops = rows.crops(torch.tensor(variant))
    cached = batch_of(rows.persons, crops, samples=4, generator=seeded())
    ((persons, crops),) = loaded(images, [list(zip(index, variant, strict=True))], 0)
    found = features(backbone(root, CPU), crops.image)
    fresh = batch_of(persons, crops.encoded(found), samples=4, generator=seeded())
    for field in fields(Batch):
        mine, other = getattr(cached, field.name), getattr(fresh, field.name)
        if field.name == "features":
            scale = other.abs().max()
            assert (mine - other).abs().max() < 2e-3 * scale
            assert (mine[0] - other[1]).abs().max() > 1e-2 * scale
        elif field.name == "given":
            for each in fields(mine):
                assert torch.equal(getattr(mine, each.name), getattr(other, each.name))
        else:
            assert torch.equal(mine, other), field.name


def test_people_who_are_validated_on_are_shown_as_annotated(made, root):
    _, held = people(CONFIG, root)
    images = LicensedImages(held, CONFIG, root=root)
    cached = made.load("validation")
    for i in range(2):
        crops = images.crops(i, AS_ANNOTATED)
        assert torch.equal(cached.crop_box[i], images.person(i).box)
        assert torch.equal(cached.mask[i], crops.mask)


def test_what_is_there_is_not_made_again(made, root):
    first, second = made.paths("train")
    kept, before = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    made.generate(workers=1)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == before  # the same again
    assert not list(made.directory.glob("*.part"))


def test_draws_are_of_all_people_and_variants(made):
    pool = CachedPool(made.shards("train"))
    generator = seeded()
    seen = torch.cat([pool.draw(8, samples=3, generator=generator).box for _ in range(8)])
    boxes = made.load("train").crop_box.flatten(0, 1)
    found = {tuple(row) for row in seen.tolist()}
    assert found == {tuple(row) for row in boxes.tolist()}
    one, other = (pool.draw(5, samples=3, generator=seeded()) for _ in range(2))
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.samples, other.samples)
    assert len(pool) == 4


def test_without_variants_only_validation_is_kept(root, made):
    cache = store(replace(CONFIG, variants=0), root)
    assert dict(cache.sizes) == {"validation": 2}
    assert list(cache.sizes) == ["validation"]
    assert cache.directory != made.directory


def test_files_of_other_origin_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    root = tmp_path / "licensed"
    write_world(root, SETS[:1], 2)
    config = replace(CONFIG, train=SETS[:1])
    check_origin(config, root)
    folder = store(config, root).directory
    origin = json.loads((folder / "origin.json").read_text())
    assert set(origin) == {checkpoints.BACKBONE, "annotations/" + datasets.data_set(
        "static-gym").annotations}  # fmt: skip
    write_networks(root, width=1)
    check_origin.cache_clear()
    with pytest.raises(ValueError, match=r"backbone\.pth changed since .* was made; delete that"):
        check_origin(config, root)


def test_the_backbone_is_read_strictly(tmp_path):
    path = tmp_path / "backbone.pth"
    with pytest.raises(FileNotFoundError, match=r"backbone.pth; it is licensed"):
        read_backbone(path)
    write_networks(tmp_path, width=1)
    state = torch.load(tmp_path / checkpoints.BACKBONE, weights_only=True)
    torch.save(state, path)
    network = read_backbone(path)
    assert network.features == 15
    assert torch.equal(network.state_dict()["conv1.weight"], state["conv1.weight"])
    torch.save({"state_dict": state}, path)
    assert torch.equal(read_backbone(path).state_dict()["conv1.weight"], state["conv1.weight"])
    torch.save({"head.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"expected the weights of HRNet by name"):
        read_backbone(path)
    torch.save({**state, "more": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"1 unknown \(more\)"):
        read_backbone(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"backbone.pth cannot be read as a file of torch"):
        read_backbone(path)


def test_shards_go_to_the_devices_in_turn(monkeypatch):
    monkeypatch.setenv("HUMR_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of(n).index for n in range(3)] == [0, 1, 0]
    monkeypatch.setenv("HUMR_DEVICE", "cpu")
    assert device_of(3) == CPU


def test_a_shard_survives_the_disk(made):
    whole = made.load("train")
    assert isinstance(whole, CachedFeatures)
    assert isinstance(CachedFeatures.join([whole, whole[slice(0, 1)]]), CachedFeatures)
    path = made.directory / "without.crops"
    whole.persons.write(path)
    with pytest.raises(ValueError, match=r"missing \['crop_box', 'features', 'mask'\]"):
        CachedFeatures.read(path)
