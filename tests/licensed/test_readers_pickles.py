"""Tests of licensed.readers: what official pickles hold comes back, everything else is refused."""

import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from formats import fake_chumpy, python2_pickle
from scipy import sparse

from humr.licensed.readers import read_dictionary, read_pickle, unpickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content, protocol=pickle.HIGHEST_PROTOCOL):
    return unpickle(io.BytesIO(pickle.dumps(content, protocol)), "it")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array(["é.png", "b"]),
        np.array([b"x", b"yz"]),
        np.array([True, False]),
        np.zeros((0, 4), np.float32),
        np.array(5.0),
        np.array(["a", None, 3, np.arange(2)], object),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back(array, protocol):
    got = read({"a": array}, protocol)["a"]
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    np.testing.assert_equal(got.tolist(), array.tolist())
    assert got.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_and_numbers_come_back(protocol):
    content = {"a": [1, 2.5, "text", b"bytes", None, True], "b": ({1, 2}, frozenset("x")),
               3: OrderedDict(x=1), "s": np.float32(2.5), "n": 2**70}  # fmt: skip
    assert read(content, protocol) == content


def test_shared_things_stay_shared():
    array = np.arange(3)
    got = read([array, array])
    assert got[0] is got[1]


def test_pickles_of_python_2():
    content = {"sequence": "courtyard", "poses": [np.arange(6.0).reshape(2, 3)], "n": 4}
    got = unpickle(io.BytesIO(python2_pickle(content)), "it")
    assert got["sequence"] == "courtyard"
    assert got["n"] == 4
    np.testing.assert_array_equal(got["poses"][0], content["poses"][0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_chumpy_and_sparse_become_arrays(protocol):
    values = np.arange(24.0).reshape(2, 3, 4)
    regressor = sparse.csc_matrix(np.array([[0, 1.5, 0], [2, 0, 0]]))
    chosen = np.array([5, 2, 7])
    with fake_chumpy() as (ch, select):
        content = {"v": ch(x=values, dirty=True), "r": regressor,
                   "s": select(a=ch(x=values), idxs=chosen, preferred_shape=(3, 1))}  # fmt: skip
        data = pickle.dumps(content, protocol)
    got = unpickle(io.BytesIO(data), "it")
    np.testing.assert_array_equal(got["v"], values)
    np.testing.assert_array_equal(got["s"], [[5.0], [2.0], [7.0]])
    np.testing.assert_array_equal(got["r"], regressor.toarray())


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_malicious_pickle_does_nothing(tmp_path, protocol):
    target = tmp_path / "made"
    with pytest.raises(ValueError, match=r"names \w+\.system, which is refused"):
        read([np.zeros(2), Malicious(os.system, f"touch {target}")], protocol)
    assert not target.exists()


@pytest.mark.parametrize(
    "function", [eval, getattr, __import__, np.load, np.fromfile, bytearray, type]
)
def test_other_names_are_refused(function):
    with pytest.raises(ValueError, match="is refused"):
        read(Malicious(function, "1"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "names numpy.ndarray.__class__"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "the encoding 'hex'"),
    ],
    ids=["a name behind a dot", "another codec"],
)
def test_nothing_is_reached_through_known_names(data, message):
    with pytest.raises(ValueError, match=message):
        unpickle(io.BytesIO(data), "it")


def test_a_sparse_matrix_that_lies_is_refused():
    matrix = sparse.csc_matrix(np.eye(3))
    matrix.indices[0] = 10_000
    with pytest.raises(ValueError, match=r"it cannot be read: index 10000 is out of bounds"):
        read({"matrix": matrix})


def crafted(state):
    """An array whose dtype has this state, and eight bytes."""
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8I00\nI01\ntR" + state + b"b"
    return (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntX\x01\x00\x00\x00btR"
            b"(I1\n(I1\nt" + dtype + b"I00\nC\x08" + struct.pack("<Q", 1) + b"tb.")  # fmt: skip


def test_addresses_cannot_pose_as_objects():
    fields = b"(I3\nX\x01\x00\x00\x00|N(X\x01\x00\x00\x00atNI8\nI1\nI0\nt"
    with pytest.raises(ValueError, match="array of type 'V8'"):
        unpickle(io.BytesIO(crafted(fields)), "it")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>not found</html>",
        pickle.dumps(np.zeros(9))[:-20],
        pickle.dumps(np.zeros(9)).replace(b"\x00" * 20, b""),
        pickle.dumps(np.ndarray),
        pickle.dumps(dict),
        pickle.dumps(np.zeros(2, "datetime64[s]")),
        pickle.dumps(np.zeros(2, [("a", "f8")])),
        b"cnumpy\nndarray\n}X\x01\x00\x00\x00ak.",
        b"]\x94h\x00a.",
    ],
    ids=range(10),
)
def test_damaged_or_foreign_pickles(data):
    with pytest.raises(ValueError, match=r"it cannot be read: .*Usual cause: a broken download"):
        unpickle(io.BytesIO(data), "it")


def test_files(tmp_path):
    path = tmp_path / "a.pkl"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.pkl; it is licensed"):
        read_pickle(path)
    path.write_bytes(pickle.dumps({"a": 1, "b": 2}))
    assert read_pickle(path) == {"a": 1, "b": 2}
    assert read_dictionary(path, ("a",))["b"] == 2
    with pytest.raises(ValueError, match=r"a\.pkl lacks c; expected .* got a, b"):
        read_dictionary(path, ("a", "c"))
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"got list"):
        read_dictionary(path, ("a",))
