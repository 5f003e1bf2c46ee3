"""Tests of humr.licensed.inventory: checks of single files and plain folders."""

import pickle

import numpy as np
import pytest

from humr.licensed import inventory


def test_bare_arrays_and_folders(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3)))
    assert inventory.arrays(path, kind="npy", shapes={"the array": ["any", 3]}) == "0.0 MB"
    with pytest.raises(ValueError, match=r"the array must have shape \(3\); got \(2, 3\)"):
        inventory.arrays(path, kind="npy", shapes={"the array": [3]})
    assert inventory.folder(tmp_path, pattern="*.npy") == "1 *.npy"
    with pytest.raises(ValueError, match=r"must hold 2 \*.npy or more; got 1"):
        inventory.folder(tmp_path, pattern="*.npy", least=2)


def test_large_pickles_are_looked_at_at_both_ends(tmp_path):
    path = tmp_path / "trainset_h36m.pickle"
    whole = pickle.dumps(np.arange(2**18), 4)
    path.write_bytes(whole)
    assert inventory.fits(path, split="train", least=1) == "2.0 MB"
    with pytest.raises(ValueError, match=r"must have 3 MB or more; got 2.0 MB. Usual cause"):
        inventory.fits(path, split="train", least=3)
    for content in (bytes(len(whole)), whole[:-1], b"<" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"must begin with b'.x80' and end with b'.'; got b'"):
            inventory.fits(path, split="train", least=1)
