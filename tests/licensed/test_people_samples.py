"""Tests of humr.licensed.people."""

import gzip

import numpy as np
import pytest
import torch
from formats import heatmap_samples, write_heatmap_samples

from humr.licensed.people import read_file, read_samples, sample_path, write_file


@pytest.fixture
def samples(tmp_path):
    for row, dtype in ((0, np.float32), (3, np.float64), (12, np.float16)):
        write_heatmap_samples(tmp_path, "agora-bfh", row, dtype=dtype)
    return read_samples("agora-bfh", torch.tensor([3, 0]), root=tmp_path)


def test_the_name_is_the_row_of_the_unfiltered_file(tmp_path):
    path = sample_path("agora-bfh", 1234567, root=tmp_path)
    assert path == tmp_path / "heatmap_samples" / "agora-bfh" / "1234567.npy.gz"
    assert sample_path("agora-bfh", 12).name == "0000012.npy.gz"


def test_values_find_their_place(samples):
    stored = torch.from_numpy(np.stack([heatmap_samples(3), heatmap_samples(0)])).float()
    assert torch.equal(samples.points, stored[..., :2])
    assert torch.equal(samples.confidence, stored[..., 2])
    assert torch.equal(samples.distance, stored[..., 3])
    assert samples.points[0, 7, 2, 0] == 3007
    assert torch.equal(samples.peak, stored[..., 2].max(1).values)


def test_bad_files(tmp_path):
    path = write_heatmap_samples(tmp_path, "agora-bfh", 5)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-4], b"<html>", b"", gzip.compress(b"no array")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"0000005\.npy\.gz cannot be read: .*partial"):
            read_file(path)
    with pytest.raises(FileNotFoundError, match=r"0000006\.npy\.gz; it is licensed"):
        read_file(path.with_name("0000006.npy.gz"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((150, 17, 3)), r"expected \(150, 17, 4\) .* got \(150, 17, 3\)"),
        (np.zeros((17, 64, 48)), r"whole heatmaps instead of samples"),
        (np.zeros((150, 17, 4), int), r"of floats"),
        (np.full((150, 17, 4), np.inf), r"not finite"),
        (np.zeros((150, 17, 40, 4)), r"cannot be read"),
    ],
)
def test_wrong_contents(tmp_path, values, message):
    path = tmp_path / "0000000.npy.gz"
    with gzip.open(path, "wb") as file:
        np.save(file, values)
    with pytest.raises(ValueError, match=message):
        read_file(path)


def test_written_files_are_read_and_always_the_same(tmp_path):
    first, second = (sample_path("agora-bfh", row, root=tmp_path) for row in (3, 4))
    values = heatmap_samples(3)
    write_file(first, values)
    write_file(second, values)
    np.testing.assert_array_equal(read_file(first), values.astype(np.float32))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time
    with gzip.open(first) as file:
        assert np.load(file).dtype == np.float32
    assert len(list(first.parent.iterdir())) == 2


def test_what_is_not_finite_is_not_written(tmp_path):
    values = heatmap_samples(3)
    values[7, 2, 1] = np.nan
    path = sample_path("agora-bfh", 3, root=tmp_path)
    with pytest.raises(ValueError, match=r"0000003\.npy\.gz: samples must be finite numbers"):
        write_file(path, values)
    assert not path.exists()
