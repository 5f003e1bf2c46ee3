"""Tests of humr.licensed.smpl: SMPL without chumpy, regressors, means, the way from SMPL-X."""

import pickle
import sys

import lifting_formats as formats
import numpy as np
import pytest
import scipy.sparse
import torch

from humr.licensed.smpl import (
    read_h36m_regressor,
    read_mean_parameters,
    read_smpl,
    read_transfer,
)
from humr.skeletons import H36M17, SPIN17

V = 30


@pytest.fixture
def arrays():
    return formats.smpl(V)


def same(found, arrays):
    np.testing.assert_array_equal(found.template, arrays["v_template"])
    np.testing.assert_array_equal(found.faces, arrays["f"])
    np.testing.assert_array_equal(found.shape_directions, arrays["shapedirs"][..., :10])
    np.testing.assert_array_equal(found.pose_directions, arrays["posedirs"])
    np.testing.assert_array_equal(found.weights, arrays["weights"])
    np.testing.assert_array_equal(found.joint_regressor, arrays["J_regressor"])
    assert found.template.dtype == torch.float64
    assert found.faces.dtype == torch.int64


def test_smpl_from_python_2_with_chumpy(tmp_path, arrays):
    path = formats.write_smpl_pickle(tmp_path / "SMPL_NEUTRAL.pkl", arrays)
    same(read_smpl(path, vertices=V), arrays)
    assert "chumpy" not in sys.modules


def test_smpl_without_chumpy_and_as_npz(tmp_path, arrays):
    path = tmp_path / "SMPL_MALE.pkl"
    path.write_bytes(pickle.dumps(arrays))
    same(read_smpl(path, vertices=V), arrays)
    np.savez(tmp_path / "SMPL_MALE.npz", **{**arrays, "shapedirs": arrays["shapedirs"][..., :10]})
    same(read_smpl(tmp_path / "SMPL_MALE.npz", vertices=V), arrays)


def with_nan(values):
    values = values.copy()
    values.flat[3] = np.nan
    return values


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("weights", None, "lacks weights; expected a dictionary with v_template"),
        ("v_template", lambda x: x[:-1], r"v_template must have shape \(30, 3\); got \(29, 3\)"),
        ("weights", lambda x: np.pad(x, ((0, 0), (0, 31))), r"got \(30, 55\).*SMPL-X 55"),
        ("weights", lambda x: 2 * x, "rows of weights must sum to 1; got 2 to 2"),
        ("J_regressor", lambda x: x + 0.01, "rows of J_regressor must sum to 1"),
        ("posedirs", with_nan, "posedirs holds values that are not finite"),
        ("shapedirs", lambda x: x[..., :8], r"shapedirs must have shape \(30, 3, 10\)"),
        ("f", lambda x: x + 1000, "faces name vertices outside 0..29"),
        ("f", lambda x: x[:0], r"f must have shape \(1, 3\); got \(0, 3\)"),
        ("f", lambda _: np.array(5), r"f must have shape \(1, 3\); got \(\)"),
        ("kintree_table", lambda x: x[:, ::-1], "is not the tree of SMPL's 24 joints"),
        ("kintree_table", lambda x: x[0], r"kintree_table must have shape \(2, 24\)"),
        ("shapedirs", lambda _: np.array(1.0), r"shapedirs must have shape \(30, 3, 10\)"),
        ("J_regressor", lambda _: "dense", "J_regressor must hold numbers; got str"),
    ],
)
def test_wrong_bodies_are_refused(tmp_path, arrays, key, change, message):
    arrays[key] = None if change is None else change(arrays[key])
    path = tmp_path / "SMPL.pkl"
    path.write_bytes(pickle.dumps({k: v for k, v in arrays.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        read_smpl(path, vertices=V)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "SMPL.npz"
    path.write_text("not found")
    with pytest.raises(ValueError, match=r"SMPL.npz is no .npz file"):
        read_smpl(path)
    path = tmp_path / "SMPL.pkl"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"lacks v_template, .* got list"):
        read_smpl(path)


# ------------------------------------------------------------------------ regressors


def test_the_h36m_regressor_gets_the_order_of_h36m(tmp_path):
    rows = np.eye(17, V)  # row i takes vertex i
    np.save(tmp_path / "J_regressor_h36m.npy", rows.astype(np.float32))
    found = read_h36m_regressor(tmp_path / "J_regressor_h36m.npy", vertices=V)
    assert found.argmax(1).tolist() == list(SPIN17.indices(H36M17.names))
    assert found.argmax(1).tolist()[:7] == [0, 4, 5, 6, 1, 2, 3]


def test_regressors_are_checked(tmp_path):
    path = tmp_path / "J_regressor_h36m.npy"
    rows = np.random.default_rng(0).random((17, V))
    rows /= rows.sum(1, keepdims=True)
    np.save(path, rows)
    assert read_h36m_regressor(path, vertices=V).dtype == torch.float64
    with pytest.raises(ValueError, match=r"must have shape \(17, 6890\); got \(17, 30\)"):
        read_h36m_regressor(path)
    np.save(path, 2 * rows)
    with pytest.raises(ValueError, match="rows of the regressor must sum to 1"):
        read_h36m_regressor(path, vertices=V)
    np.save(path, rows.astype(str))
    with pytest.raises(ValueError, match="the regressor must hold numbers; got <U"):
        read_h36m_regressor(path, vertices=V)
    path.write_text("not found")
    with pytest.raises(ValueError, match=r"is no .npy file of numbers"):
        read_h36m_regressor(path, vertices=V)


def test_mean_parameters(tmp_path):
    path = tmp_path / "smpl_mean_params.npz"
    values = {"pose": np.arange(144.0), "shape": np.arange(10.0), "cam": np.array([0.9, 0, 0])}
    np.savez(path, **{key: value.astype(np.float32) for key, value in values.items()})
    found = read_mean_parameters(path)
    assert found.pose.tolist() == list(range(144))
    assert found.betas.tolist() == list(range(10))
    assert found.camera[0] == pytest.approx(0.9)
    np.savez(path, pose=np.zeros(72), shape=np.zeros(10), cam=np.zeros(3))
    with pytest.raises(ValueError, match=r"pose must have shape \(144,\); got \(72,\)"):
        read_mean_parameters(path)
    np.savez(path, pose=np.zeros(144))
    with pytest.raises(ValueError, match="lacks shape, cam; it has pose"):
        read_mean_parameters(path)


# ------------------------------------------------------------------------ from SMPL-X


def transfer(rng):
    """Every vertex of SMPL in a triangle of SMPL-X."""
    matrix = np.zeros((V, 50), dtype=np.float32)
    for row in matrix:
        share = rng.random(3)
        row[rng.choice(50, 3, replace=False)] = share / share.sum()
    return matrix


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csc_matrix])
def test_the_matrix_from_smplx_is_sparse(tmp_path, rng, kind):
    matrix, path = transfer(rng), tmp_path / "smplx2smpl.pkl"
    path.write_bytes(pickle.dumps({"matrix": kind(matrix)}))
    found = read_transfer(path, vertices=V, smplx_vertices=50)
    assert found.is_sparse
    assert found._nnz() == 3 * V
    np.testing.assert_array_equal(found.to_dense(), matrix)
    points = rng.normal(size=(50, 3))
    np.testing.assert_allclose(found @ torch.from_numpy(points), matrix @ points, atol=1e-6)


def test_wrong_matrices_are_refused(tmp_path, rng):
    path, matrix = tmp_path / "smplx2smpl.pkl", transfer(rng)
    for content, message in (
        ({"matrix": matrix.T}, r"matrix must have shape \(30, 50\); got \(50, 30\)"),
        ({"matrix": 1.1 * matrix}, "rows of matrix must sum to 1"),
        ({"matrix": with_nan(matrix)}, "matrix holds values that are not finite"),
        ({"weights": matrix}, "lacks matrix; .* got weights"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_transfer(path, vertices=V, smplx_vertices=50)
