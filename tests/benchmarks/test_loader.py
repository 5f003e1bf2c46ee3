"""Tests of humr.benchmarks.loader: what is timed is what it says; no times."""

import gc

import pytest
import torch

from humr.batches import unpack_mask
from humr.benchmarks import bench, loader, tasks
from humr.config import Run
from humr.detector import load_image
from humr.licensed.datasets import data_set
from humr.licensed.features import AS_ANNOTATED


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(loader, "IMAGES", 2)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photographs_have_the_official_size_and_are_of_one_kind(tmp_path, suffix):
    images = loader.photographs(tmp_path, suffix)
    files = sorted((tmp_path / data_set(loader.SET).images).iterdir())
    assert [path.suffix for path in files] == [suffix] * 2
    first, second = (load_image(path) for path in files)
    assert first.shape == (720, 1280, 3)
    assert (first != second).mean() > 0.5
    assert first.std() > 20
    assert 50_000 < files[0].stat().st_size < 3_000_000
    assert len(images) == 2
    low, high = loader.SIDES
    sides = [images.person(i).box[0, 2].item() for i in range(2)]
    assert all(low <= side <= high for side in sides)
    assert sides[0] != sides[1]


def test_the_mask_is_read(tmp_path):
    images = loader.photographs(tmp_path, ".jpg")
    mask = unpack_mask(images.crops(0, AS_ANNOTATED).mask)
    assert 0.1 < mask.double().mean() < 0.99


def test_every_work_counts_images_and_can_be_run_again():
    works = loader.loader(Run(), "cpu")
    assert [work.name for work in works] == [
        f"{kind}, {what}"
        for kind in ("JPEG", "PNG")
        for what in ("decoded", "annotated crop", "varied crop")
    ]
    assert {work.count for work in works} == {2}
    results = {work.name: (work.run(), work.run()) for work in works}
    decoded = results["PNG, decoded"][0]
    assert [photo.shape for photo in decoded] == [(720, 1280, 3)] * 2
    first, second = results["JPEG, annotated crop"]
    assert torch.equal(first[1].image, second[1].image)
    first, second = results["JPEG, varied crop"]
    assert not torch.equal(first[1].image, second[1].image)  # another variant each time


def test_folders_end_with_their_works(tmp_path, monkeypatch):
    monkeypatch.setattr(loader.tempfile, "mkdtemp", lambda: str(next(names)))
    folders = [tmp_path / "a", tmp_path / "b"]
    names = iter(folders)
    works = loader.loader(Run(), "cpu")
    assert all(folder.exists() for folder in folders)
    del works
    gc.collect()
    assert not any(folder.exists() for folder in folders)


def test_bench_knows_the_group():
    assert bench.GROUPS["loader"] is loader.loader
    assert bench.GROUPS.keys() - tasks.GROUPS.keys() == {"scaling", "loader"}
