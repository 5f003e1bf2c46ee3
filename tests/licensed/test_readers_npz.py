"""Tests of humr.licensed.readers: .npz and .npy files."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from humr.licensed.readers import npz_shapes, read_npy, read_npz


class Malicious:
    def __reduce__(self):
        return os.system, ("exit 3",)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.npz"
    names = np.array(["x/1.png", "y/22.jpg"], object)
    np.savez(path, names=names, n=np.arange(6.0).reshape(2, 3), plain=names.astype(str))
    return path


def test_reads_what_is_asked_for(path):
    got = read_npz(path, ("n", "names"), optional=("plain", "absent"))
    assert set(got) == {"n", "names", "plain"}
    assert got["names"].tolist() == got["plain"].tolist() == ["x/1.png", "y/22.jpg"]
    np.testing.assert_array_equal(got["n"], np.arange(6.0).reshape(2, 3))


def test_compressed_and_streamed_files(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 70))
    np.savez_compressed(tmp_path / "c.npz", a=values, b=np.array([values, "x"], object))
    got = read_npz(tmp_path / "c.npz", ("a", "b"))
    np.testing.assert_array_equal(got["a"], values)
    np.testing.assert_array_equal(got["b"][0], values)


def test_shapes(path):
    assert npz_shapes(path) == {"names": (2,), "n": (2, 3), "plain": (2,)}


def test_objects_are_data(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, a=np.array([Malicious(), 1], object))
    with pytest.raises(ValueError, match=r"a in .*bad\.npz cannot .*system, which is refused"):
        read_npz(path, ("a",))
    with zipfile.ZipFile(path, "w") as archive:
        head = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        archive.writestr("a.npy", head.ljust(127) + b"\n" + pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"a in .*bad\.npz is no array but a list"):
        read_npz(path, ("a",))


def test_bad_files(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="it is licensed"):
        read_npz(tmp_path / "none.npz", ())
    with pytest.raises(ValueError, match=r"a\.npz lacks vitpose; it has names, n, plain"):
        read_npz(path, ("n", "vitpose"))
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match=r"is no \.npz file.*partial download"):
        npz_shapes(path)
    start = content.index(b"n.npy") + 200
    path.write_bytes(content[:start] + bytes(20) + content[start + 20 :])
    with pytest.raises(ValueError, match=r"n in .* cannot be read"):
        read_npz(path, ("n",))


def test_single_arrays(tmp_path):
    path = tmp_path / "r.npy"
    with pytest.raises(FileNotFoundError):
        read_npy(path)
    np.save(path, np.arange(3))
    assert read_npy(path).tolist() == [0, 1, 2]
    np.save(path, np.array([None]))
    with pytest.raises(ValueError, match=r"no \.npy file of numbers"):
        read_npy(path)


def written(path, header, data=b"", *, flags=0, method=None):
    """An archive with one array, of which the directory may say other things than are true."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n" + data)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= flags
    content[start + 10] = content[start + 10] if method is None else method
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("shape", "options"),
    [(b"(10000000000000000,)", {}), (b"(1,)", {"flags": 1}), (b"(1,)", {"method": 99}),
     (b"(-1,)", {}), (b"((", {})],
    ids=["more than any memory", "encrypted", "unknown compression", "negative", "no header"],
)  # fmt: skip
def test_whatever_a_broken_archive_raises_is_one_line_with_its_name(tmp_path, shape, options):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }"
    path = written(tmp_path / "bad.npz", header, bytes(8), **options)
    with pytest.raises(ValueError, match=r"^a in \S+bad\.npz cannot be read: [^\n]+$"):
        read_npz(path, ("a",))
