"""Tests of humr.licensed.inventory: what the inventory's tests do not reach."""

import pickle

import numpy as np
import pytest
import scipy.io

from humr.licensed import inventory


def test_matlab_files(tmp_path):
    path = tmp_path / "annot.mat"
    scipy.io.savemat(path, {"annot2": np.zeros((14, 1)), "frames": np.zeros(3)})
    assert inventory.mat_file(path, shapes={"annot2": (14, 1), "frames": (1, None)}) == "0.0 MB"
    with pytest.raises(ValueError, match=r"annot.mat lacks annot3; it has annot2, frames"):
        inventory.mat_file(path, shapes={"annot3": (14, 1)})
    with pytest.raises(ValueError, match=r"annot2 must have shape \(12, any\); got \(14, 1\)"):
        inventory.mat_file(path, shapes={"annot2": (12, None)})
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"annot.mat is no MATLAB file: .* a partial download"):
        inventory.mat_file(path, shapes={})


def test_bare_arrays_and_folders(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    assert inventory.npy_file(tmp_path / "a.npy", shape=(None, 3)) == "0.0 MB"
    with pytest.raises(ValueError, match=r"the array must have shape \(3\); got \(2, 3\)"):
        inventory.npy_file(tmp_path / "a.npy", shape=(3,))
    assert inventory.folder(tmp_path, pattern="*.npy") == "1 *.npy"
    with pytest.raises(ValueError, match=r"must hold 2 \*.npy or more; got 1"):
        inventory.folder(tmp_path, pattern="*.npy", least=2)


def test_large_pickles_are_looked_at_at_both_ends(tmp_path):
    path = tmp_path / "trainset_h36m.pickle"
    whole = pickle.dumps(np.arange(2**18), 4)
    path.write_bytes(whole)
    assert inventory.large_pickle(path, least=1) == "2.0 MB"
    with pytest.raises(ValueError, match=r"must have 3 MB or more; got 2.0 MB. Usual cause"):
        inventory.large_pickle(path, least=3)
    for content in (bytes(len(whole)), whole[:-1], b"<" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"must begin with b'.x80' and end with b'.'; got b'"):
            inventory.large_pickle(path, least=1)
