from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import save_file

from humr.batches import pack_mask, unpack_mask
from humr.geometry import Crop
from humr.heatmaps import GRID
from humr.world.records import Pool, Records


def as_tensors(records):
    return {f.name: getattr(records, f.name).contiguous() for f in fields(records)}


def test_masks_survive_packing(generator):
    mask = torch.rand(3, 112, 112, generator=generator) < 0.4
    packed = pack_mask(mask)
    assert packed.shape == (3, 112 * 112 // 8)
    assert torch.equal(unpack_mask(packed), mask)


def test_shard_round_trip(tmp_path, records):
    save_file(as_tensors(records), tmp_path / "shard.safetensors")
    again = Records.read(tmp_path / "shard.safetensors")
    for name, tensor in as_tensors(records).items():
        assert torch.equal(getattr(again, name), tensor)


def test_corrupt_and_foreign_shards_are_refused(tmp_path, records):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x10" * 40)
    with pytest.raises(ValueError, match=r"broken\.safetensors is not a readable shard"):
        Records.read(path)
    tensors = as_tensors(records)
    tensors["depth"] = tensors.pop("focal")
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"missing \['focal'\], unknown \['depth'\]"):
        Records.read(tmp_path / "other.safetensors")


def test_samples_lie_in_their_cells(records, generator):
    batch = records.batch(samples=64, generator=generator)
    image = records.crop.to_image(batch.samples.flatten(1, 2))
    window = records.detector_window.to_crop(image).unflatten(1, (64, 17))
    column_row = GRID.from_crop(window).round().long()
    found = (column_row[..., 1] * 64 + column_row[..., 0]).sort(1).values
    expected = records.cells.long().sort(1).values
    assert (found == expected).float().mean() > 0.999  # float32 at cell borders


def test_batch_is_in_crop_coordinates(records, generator):
    batch = records.batch(samples=5, generator=generator)
    assert batch.samples.shape == (16, 5, 17, 2)
    back = Crop.upright(batch.box[:, :2], batch.box[:, 2]).to_image(batch.keypoints[..., :2])
    torch.testing.assert_close(back, records.keypoints)
    with pytest.raises(ValueError, match=r"samples must lie in 1\.\.64"):
        records.batch(samples=65, generator=generator)


def test_what_the_detector_cannot_judge_is_possible(records):
    mask = records.possible_mask()
    assert (mask >= unpack_mask(records.mask)).all()
    far = replace(records, window=records.window * torch.tensor([1.0, 1.0, 0.01, 1.0]))
    assert far.possible_mask().float().mean() > 0.99
    aside = replace(records, image_size=records.image_size * 0 + 1)
    assert aside.possible_mask().all()


def test_pool_knows_what_each_split_may_teach(records, generator):
    pool = Pool.of({"labelled": records[:4], "points": records[4:8], "unlabelled": records[8:]})
    assert pool.has_pose.tolist() == [True] * 4 + [False] * 12
    assert pool.has_points.tolist() == [True] * 8 + [False] * 8
    batch = pool.draw(16, samples=3, generator=generator)
    assert int(batch.has_pose.sum()) == 4
    with pytest.raises(ValueError, match="cannot train on"):
        Pool.of({"test": records})


def test_a_pool_may_show_fewer_labels_than_its_splits(records, generator):
    pool = Pool.of({"labelled": records})
    few = pool.showing(poses=2, points=6)
    assert few.has_pose.tolist() == [True] * 2 + [False] * 14
    assert few.has_points.tolist() == [True] * 6 + [False] * 10
    batch = few.draw(8, samples=3, generator=generator, labelled=0.25)
    assert batch.has_pose[:2].all()
    diagonal = batch.image_size.norm(dim=-1)
    assert torch.equal(batch.focal == diagonal, ~batch.has_points)  # nothing of the renderer
    assert not (pool.draw(8, samples=3, generator=generator).focal == diagonal[0]).any()
    with pytest.raises(ValueError, match="images with 3D labels have 2D labels too"):
        pool.showing(poses=5, points=2)


def test_a_pool_on_a_device_makes_its_batches_there(records, device):
    pool = Pool.of({"labelled": records[:10], "points": records[10:]})
    options = {"samples": 3, "labelled": 0.25}
    here = pool.draw(8, generator=torch.Generator().manual_seed(1), **options)
    there = pool.to(device).draw(8, generator=torch.Generator().manual_seed(1), **options)
    for name, value in vars(here).items():
        torch.testing.assert_close(getattr(there.to("cpu"), name), value)
    elsewhere = pool.to("meta").draw(8, samples=3, generator=torch.Generator(), gaussian=False)
    assert {value.device.type for value in vars(elsewhere).values() if value is not None} == {
        "meta"
    }


def test_gaussian_samples_have_the_moments_of_the_heatmaps(records, generator):
    batch = records.batch(samples=64, generator=generator, gaussian=True)
    image = records.crop.to_image(batch.samples.flatten(1, 2))
    cells = GRID.from_crop(records.detector_window.to_crop(image)).unflatten(1, (64, 17))
    offset = cells - records.moments[:, None, :, :2]
    assert offset.mean((0, 1, 2)).abs().max() < 0.1
    covariance = torch.einsum("bnjx,bnjy->xy", offset, offset) / offset[..., 0].numel()
    expected = torch.tensor([[9.0, 3.0], [3.0, 4.0]])
    torch.testing.assert_close(covariance, expected, atol=0.3, rtol=0)
