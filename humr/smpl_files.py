"""Files around SMPL: the model, key-point regressors, mean parameters, the way from SMPL-X.

SMPL-X itself is read by `bodies.load_body`; here is what evaluation on 3DPW and EMDB needs beside
it. Pickles go through `h36m.read_plain`, so that neither chumpy nor scipy objects are imported.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from numpy.lib.npyio import NpzFile
from torch import Tensor

from humr.h36m import StandIn, read_plain
from humr.licensed_paths import shown
from humr.mpi3dhp import H36M_FROM_SPIN
from humr.skeletons import BODY22, COCO17, SMPLX55, Skeleton, index_map

VERTICES, SMPLX_VERTICES = 6890, 10475
SHAPES = 10  # shape directions that SMPL data sets use; newer files hold up to 300
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
_PACKAGES = ("chumpy", "scipy.sparse")
_SIDES = ("left", "right")
Sparse = scipy.sparse.coo_array | scipy.sparse.csc_array | scipy.sparse.csr_array

SMPL24 = Skeleton(
    "smpl24",
    (*BODY22.names, "left_hand", "right_hand"),
    (*BODY22.parents, BODY22.index("left_wrist"), BODY22.index("right_wrist")),
)
# Vertices that the package smplx adds to the joints, in its order.
_VERTICES21 = (
    "nose", "right_eye", "left_eye", "right_ear", "left_ear",
    *(f"{side}_{part}" for side in _SIDES for part in ("big_toe", "small_toe", "heel")),
    *(f"{side}_{finger}_tip" for side in _SIDES
      for finger in ("thumb", "index", "middle", "ring", "pinky")),
)  # fmt: skip
_COCO25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
    *(f"{side}_{part}" for side in _SIDES for part in ("big_toe", "small_toe", "heel")),
)  # fmt: skip


def _points(name: str, names: tuple[str, ...]) -> Skeleton:
    return Skeleton(name, names, (-1,) * len(names))


COCO25 = _points("coco25", _COCO25)  # the order of OpenPose
SMPL45 = _points("smpl45", (*SMPL24.names, *_VERTICES21))
# The first 76 of the 127 points of the package smplx; 51 landmarks of the face follow. The joints
# of the eyes lie inside the head.
SMPLX76 = _points(
    "smplx76",
    (*(f"{n}ball" if n.endswith("_eye") else n for n in SMPLX55.names), *_VERTICES21),
)
# Rows of J_regressor_extra.npy: hips, neck, head top as in LSP, pelvis and thorax as in MPII, the
# rest as in Human3.6M.
EXTRA9 = _points(
    "extra9",
    ("right_hip", "left_hip", "neck", "head_top", "pelvis", "thorax", "spine", "jaw", "head"),
)
COCO25_FROM_SMPL45 = index_map(SMPL45, COCO25)
COCO25_FROM_SMPLX = index_map(SMPLX76, COCO25)
COCO17_FROM_COCO25 = index_map(COCO25, COCO17)


@dataclass(frozen=True)
class Smpl:
    """The arrays of an SMPL file, as float64 tensors."""

    faces: Int[Tensor, "faces 3"]
    template: Float[Tensor, "vertices 3"]  # metres, y up
    shape_directions: Float[Tensor, "vertices 3 10"]
    pose_directions: Float[Tensor, "vertices 3 207"]  # times R - I of 23 joints, row by row
    weights: Float[Tensor, "vertices 24"]
    joint_regressor: Float[Tensor, "24 vertices"]  # SMPL24


@dataclass(frozen=True)
class MeanParameters:
    """Where iterative regressors of SMPL start."""

    pose: Float[Tensor, " 144"]  # 24 x 6D; (3, 2) matrices, the first two *columns* of R
    betas: Float[Tensor, " 10"]
    camera: Float[Tensor, " 3"]  # weak perspective: scale, x, y


def read_smpl(path: Path, *, vertices: int = VERTICES) -> Smpl:
    """Read `SMPL_NEUTRAL.pkl` (or MALE, FEMALE, or an .npz with the same keys)."""
    data = _dictionary(path) if path.suffix == ".pkl" else _npz(path)
    if missing := [key for key in _KEYS if key not in data]:
        raise ValueError(
            f"{shown(path)} lacks {', '.join(missing)}; it has {', '.join(map(str, data))}. "
            "Usual cause: parameters of a pose instead of a model"
        )
    joints, arrays = len(SMPL24), {key: _array(path, key, data[key]) for key in _KEYS}
    shapes = {
        "v_template": (vertices, 3),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "weights": (vertices, joints),
        "J_regressor": (joints, vertices),
    }
    for key, shape in shapes.items():
        _expect(path, key, arrays[key], shape)
    faces, directions = arrays["f"].astype(np.int64), arrays["shapedirs"]
    _expect(path, "f", faces, (len(faces), 3))
    _expect(path, "shapedirs", directions[..., :SHAPES], (vertices, 3, SHAPES))
    if faces.min() < 0 or faces.max() >= vertices:
        raise ValueError(f"{shown(path)}: faces name vertices outside 0..{vertices - 1}")
    parents = arrays["kintree_table"][0, 1:].astype(np.int64)
    if tuple(parents.tolist()) != SMPL24.parents[1:]:
        raise ValueError(f"{shown(path)}: kintree_table is not the tree of SMPL's 24 joints")
    _sum_to_one(path, "weights", arrays["weights"], 1e-3)
    _sum_to_one(path, "J_regressor", arrays["J_regressor"], 1e-3)
    return Smpl(
        faces=torch.from_numpy(faces),
        template=_tensor(arrays["v_template"]),
        shape_directions=_tensor(directions[..., :SHAPES]),
        pose_directions=_tensor(arrays["posedirs"]),
        weights=_tensor(arrays["weights"]),
        joint_regressor=_tensor(arrays["J_regressor"]),
    )


def read_h36m_regressor(path: Path, *, vertices: int = VERTICES) -> Float[Tensor, "17 vertices"]:
    """Read `J_regressor_h36m.npy`, in the order of H36M17: the file has the left leg first."""
    return _regressor(path, (17, vertices))[list(H36M_FROM_SPIN)]


def read_extra_regressor(path: Path, *, vertices: int = VERTICES) -> Float[Tensor, "9 vertices"]:
    """Read `J_regressor_extra.npy` of SPIN; rows are `EXTRA9`."""
    return _regressor(path, (9, vertices))


def read_mean_parameters(path: Path) -> MeanParameters:
    """Read `smpl_mean_params.npz`."""
    data, found = _npz(path), {}
    for key, size in (("pose", 144), ("shape", 10), ("cam", 3)):
        if key not in data:
            raise ValueError(f"{shown(path)} lacks {key}; it has {', '.join(data)}")
        _expect(path, key, data[key], (size,))
        found[key] = _tensor(data[key])
    return MeanParameters(pose=found["pose"], betas=found["shape"], camera=found["cam"])


def read_transfer(
    path: Path, *, vertices: int = VERTICES, smplx_vertices: int = SMPLX_VERTICES
) -> Float[Tensor, "vertices smplx_vertices"]:
    """Read the matrix of `smplx2smpl.pkl`, sparse: it takes vertices of SMPL-X to SMPL's."""
    data = _dictionary(path)
    if "matrix" not in data:
        raise ValueError(f"{shown(path)} lacks matrix; it has {', '.join(map(str, data))}")
    matrix = scipy.sparse.coo_array(_numbers(path, "matrix", data["matrix"]))
    _expect(path, "matrix", matrix, (vertices, smplx_vertices))
    _sum_to_one(path, "matrix", matrix, 1e-2)
    places = torch.from_numpy(np.stack(matrix.coords).astype(np.int64))
    values = _tensor(matrix.data)
    return torch.sparse_coo_tensor(places, values, matrix.shape, check_invariants=True).coalesce()


# ------------------------------------------------------------------------ reading


def _dictionary(path: Path) -> Mapping[str, Any]:
    data = read_plain(path, stand_ins=_PACKAGES)
    if not isinstance(data, dict):
        raise ValueError(f"{shown(path)} must hold a dictionary; got {type(data).__name__}")
    return data


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, NpzFile):
            with data:
                return dict(data)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{shown(path)} is no readable .npz file: {error}") from error
    raise ValueError(f"{shown(path)} is no .npz file: it holds one bare array")


def _regressor(path: Path, shape: tuple[int, int]) -> Tensor:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{shown(path)} is no readable .npy file: {error}") from error
    _expect(path, "the regressor", values, shape)
    _sum_to_one(path, "the regressor", values, 0.1)
    return _tensor(values)


def _array(path: Path, key: str, value: Any) -> np.ndarray:  # noqa: ANN401
    numbers = _numbers(path, key, value)
    return numbers if isinstance(numbers, np.ndarray) else numbers.toarray()


def _numbers(path: Path, key: str, value: Any) -> np.ndarray | Sparse:  # noqa: ANN401
    """Return what an array, a chumpy object or a sparse matrix holds."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return value
    if isinstance(value, StandIn) and isinstance(value.state, dict):
        try:
            return _sparse(value) if value.kind.startswith("scipy") else _of_chumpy(value.state)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{shown(path)}: {key}, a {value.kind}, cannot be read: {error!r}"
            ) from error
    kind = getattr(value, "kind", type(value).__name__)
    raise ValueError(f"{shown(path)}: {key} must hold numbers; got {kind}")


def _sparse(value: StandIn) -> Sparse:
    """Compressed columns or rows, checked: wrong indices would read beyond the arrays."""
    state, kind = value.state, value.kind.rpartition(".")[2].partition("_")[0]
    arrays = (state["data"], state["indices"], state["indptr"])
    build = {"csc": scipy.sparse.csc_array, "csr": scipy.sparse.csr_array}[kind]
    matrix = build(arrays, shape=state["_shape"])
    matrix.check_format(full_check=True)
    return matrix


def _of_chumpy(state: dict[str, Any]) -> np.ndarray:
    """Numbers of a `chumpy.Ch` (x), or of a selection of another's (a.ravel()[idxs])."""
    if "x" in state:
        return np.asarray(state["x"], dtype=np.float64)
    whole = state["a"]
    values = whole if isinstance(whole, np.ndarray) else _of_chumpy(whole.state)
    return values.ravel()[state["idxs"]].reshape(state["preferred_shape"])


# ------------------------------------------------------------------------ checking


def _expect(path: Path, key: str, values: np.ndarray | Sparse, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(
            f"{shown(path)}: {key} must have shape {shape}; got {values.shape}. Usual cause: a "
            "file of another body model (SMPL has 24 joints and 6890 vertices, SMPL-H 52 joints, "
            "SMPL-X 55 and 10475)"
        )
    if not np.isfinite(values if isinstance(values, np.ndarray) else values.data).all():
        raise ValueError(f"{shown(path)}: {key} holds values that are not finite")


def _sum_to_one(path: Path, key: str, matrix: np.ndarray | Sparse, tolerance: float) -> None:
    sums = matrix.sum(1, dtype=np.float64)
    if np.abs(sums - 1).max() > tolerance:
        raise ValueError(
            f"{shown(path)}: rows of {key} must sum to 1; got {sums.min():.4g} to "
            f"{sums.max():.4g}. Usual cause: a damaged or rescaled file"
        )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
