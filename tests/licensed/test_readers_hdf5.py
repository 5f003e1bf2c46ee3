"""Tests of humr.licensed.readers: HDF5 files."""

import h5py
import numpy as np
import pytest

from humr.licensed import readers


@pytest.fixture
def path(tmp_path):
    table = np.zeros(7, [("name", "S3"), ("value", "f4", (2,))])
    table["name"], table["value"] = b"abc", np.arange(14).reshape(7, 2)
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["group/table"] = table
        file["plain"] = np.arange(6).reshape(2, 3)
    return tmp_path / "some.h5"


def test_arrays_and_columns(path):
    assert readers.read_arrays(path, ["plain"])["plain"].tolist() == [[0, 1, 2], [3, 4, 5]]
    columns = readers.read_columns(path, "group/table", ["value", "name"])
    assert columns["name"].tolist() == [b"abc"] * 7
    assert columns["value"][6].tolist() == [12, 13]


def test_shapes_of_arrays_and_columns(path):
    assert readers.hdf5_shapes(path) == {
        "group/table": (7,), "group/table/name": (7,), "group/table/value": (7, 2),
        "plain": (2, 3),
    }  # fmt: skip


def test_rows_come_in_batches(path):
    parts = list(readers.read_rows(path, "group/table", "value", np.array([0, 2, 3, 6]), batch=3))
    assert [part[:, 0].tolist() for part in parts] == [[0, 4, 6], [12]]
    assert not list(readers.read_rows(path, "group/table", "value", np.array([], int)))


def test_what_is_missing_is_named(path):
    with pytest.raises(ValueError, match=r"some.h5 has no data set 'annot3'; it has group, plain"):
        readers.read_arrays(path, ["annot3"])
    with pytest.raises(ValueError, match="has no data set 'group'"):
        readers.read_arrays(path, ["group"])
    with pytest.raises(ValueError, match="table group/table lacks pose; it has name, value"):
        readers.read_columns(path, "group/table", ["name", "pose"])
    with pytest.raises(ValueError, match="table plain lacks pose; it has no columns"):
        readers.read_columns(path, "plain", ["pose"])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "text.mat"
    path.write_text("not found")
    with pytest.raises(ValueError, match=r"text.mat is no HDF5 file.*partial download"):
        readers.read_arrays(path, ["x"])


def test_damage_inside_a_file_is_named(tmp_path):
    path = tmp_path / "some.h5"
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).integers(0, 9, (50, 100))
        file.create_dataset("plain", data=values, compression="gzip", chunks=(50, 100))
    content = bytearray(path.read_bytes())
    content[-2000:-1000] = bytes(1000)
    path.write_bytes(content)
    assert readers.hdf5_shapes(path) == {"plain": (50, 100)}
    with pytest.raises(ValueError, match=r"^\S+some.h5 is no HDF5 file, or a broken one: [^\n]+$"):
        readers.read_arrays(path, ["plain"])
