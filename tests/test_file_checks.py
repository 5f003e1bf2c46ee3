"""Tests of humr.file_checks: what the inventory's tests do not reach."""

import numpy as np
import pytest
import scipy.io

from humr import file_checks as checks


def test_matlab_files(tmp_path):
    path = tmp_path / "annot.mat"
    scipy.io.savemat(path, {"annot2": np.zeros((14, 1)), "frames": np.zeros(3)})
    assert checks.mat_file(path, shapes={"annot2": (14, 1), "frames": (1, None)}) == "0.0 MB"
    with pytest.raises(ValueError, match=r"annot.mat lacks annot3; it has annot2, frames"):
        checks.mat_file(path, shapes={"annot3": (14, 1)})
    with pytest.raises(ValueError, match=r"annot2 must have shape \(12, any\); got \(14, 1\)"):
        checks.mat_file(path, shapes={"annot2": (12, None)})
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"annot.mat is no MATLAB file: .* a partial download"):
        checks.mat_file(path, shapes={})


def test_bare_arrays_and_folders(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    assert checks.npy_file(tmp_path / "a.npy", shape=(None, 3)) == "0.0 MB"
    with pytest.raises(ValueError, match=r"the array must have shape \(3\); got \(2, 3\)"):
        checks.npy_file(tmp_path / "a.npy", shape=(3,))
    assert checks.folder(tmp_path, pattern="*.npy") == "1 *.npy"
    with pytest.raises(ValueError, match=r"must hold 2 \*.npy or more; got 1"):
        checks.folder(tmp_path, pattern="*.npy", least=2)
