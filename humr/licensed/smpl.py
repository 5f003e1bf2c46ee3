r"""SMPL bodies: vertices and joints from 24 rotations and 10 betas, one gender or a mixture.

The equations are those of `bodies`, with SMPL's own tree and pose correctives:
$v = \sum_k W_{vk} (A_k (t_v + S_v \beta + P_v f) + a_k)$, $f$ the entries of $R - I$ of 23 joints.
Axes as there: x to the left, y up, z to the front; metres; no translation is added.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from humr.bodies.body import blend, combine, forward_kinematics, pose_features, skin
from humr.bodies.body import skinning_transforms as transforms
from humr.files import find, shown
from humr.licensed.datasets import LICENSED, SMPL_BODIES
from humr.licensed.readers import read_dictionary, read_npy, read_npz
from humr.skeletons import BODY22, COCO17, H36M_FROM_SPIN, SMPLX55, Skeleton, index_map

# Files around SMPL: the model, key-point regressors, mean parameters, the way from SMPL-X.
#
# SMPL-X itself is read by `bodies.load_body`; here is what evaluation on 3DPW and EMDB needs
# beside it. Pickles go through `unpickle`, so that neither chumpy nor scipy objects are
# imported.


VERTICES, SMPLX_VERTICES = 6890, 10475
SHAPES = 10  # shape directions that SMPL data sets use; newer files hold up to 300
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
_SIDES = ("left", "right")

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
    joints, arrays = len(SMPL24), _arrays(path)
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
    sizes = {"pose": 144, "shape": 10, "cam": 3}
    data, found = read_npz(path, sizes), {}
    for key, size in sizes.items():
        _expect(path, key, data[key], (size,))
        found[key] = _tensor(data[key])
    return MeanParameters(pose=found["pose"], betas=found["shape"], camera=found["cam"])


def read_transfer(
    path: Path, *, vertices: int = VERTICES, smplx_vertices: int = SMPLX_VERTICES
) -> Float[Tensor, "vertices smplx_vertices"]:
    """Read the matrix of `smplx2smpl.pkl`, sparse: it takes vertices of SMPL-X to SMPL's."""
    dense = _numbers(path, "matrix", read_dictionary(path, ("matrix",))["matrix"])
    _expect(path, "matrix", dense, (vertices, smplx_vertices))
    _sum_to_one(path, "matrix", dense, 1e-2)
    matrix = scipy.sparse.coo_array(dense)
    places = torch.from_numpy(np.stack(matrix.coords).astype(np.int64))
    values = _tensor(matrix.data)
    return torch.sparse_coo_tensor(places, values, matrix.shape, check_invariants=True).coalesce()


# ------------------------------------------------------------------------ reading


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a model, from a pickle or an .npz file."""
    found = read_dictionary(path, _KEYS) if path.suffix == ".pkl" else read_npz(path, _KEYS)
    return {key: _numbers(path, key, found[key]) for key in _KEYS}


def _regressor(path: Path, shape: tuple[int, int]) -> Tensor:
    values = read_npy(path)
    _expect(path, "the regressor", values, shape)
    _sum_to_one(path, "the regressor", values, 0.1)
    return _tensor(values)


def _numbers(path: Path, key: str, value: Any) -> np.ndarray:  # noqa: ANN401
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return value
    kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
    raise ValueError(f"{shown(path)}: {key} must hold numbers; got {kind}")


# ------------------------------------------------------------------------ checking


def _expect(path: Path, key: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(
            f"{shown(path)}: {key} must have shape {shape}; got {values.shape}. Usual cause: a "
            "file of another body model (SMPL has 24 joints and 6890 vertices, SMPL-H 52 joints, "
            "SMPL-X 55 and 10475)"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)}: {key} holds values that are not finite")


def _sum_to_one(path: Path, key: str, matrix: np.ndarray, tolerance: float) -> None:
    sums = matrix.sum(1, dtype=np.float64)
    if np.abs(sums - 1).max() > tolerance:
        raise ValueError(
            f"{shown(path)}: rows of {key} must sum to 1; got {sums.min():.4g} to "
            f"{sums.max():.4g}. Usual cause: a damaged or rescaled file"
        )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


GENDERS = tuple(SMPL_BODIES)


class SmplBody(nn.Module):
    """One SMPL model; the tensors follow `.to(device, dtype)`."""

    template: Tensor
    shape_directions: Tensor
    pose_directions: Tensor
    weights: Tensor
    joint_regressor: Tensor
    joint_template: Tensor
    joint_directions: Tensor

    def __init__(self, smpl: Smpl) -> None:
        super().__init__()
        regressor = smpl.joint_regressor
        tensors = {
            "template": smpl.template,
            "shape_directions": smpl.shape_directions,
            "pose_directions": smpl.pose_directions,
            "weights": smpl.weights,
            "joint_regressor": regressor,
            "joint_template": regressor @ smpl.template,
            "joint_directions": torch.einsum("jv,vck->jck", regressor, smpl.shape_directions),
        }
        for key, tensor in tensors.items():
            self.register_buffer(key, tensor, persistent=False)

    def rest_joints(self, betas: Float[Tensor, "*batch betas"]) -> Float[Tensor, "*batch 24 3"]:
        """Return the joints of shaped bodies in the T-pose; linear in the betas."""
        if betas.shape[-1] != SHAPES:
            raise ValueError(
                f"betas of SMPL must have {SHAPES} columns; got {betas.shape[-1]}. Usual cause: "
                "betas of SMPL-X, which belong to another body"
            )
        return blend(self.joint_template, self.joint_directions, betas)

    def joints(
        self,
        rotations: Float[Tensor, "*#batch 24 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch 24 3"]:
        """Return the posed joints, without any vertices."""
        return forward_kinematics(rotations, self.rest_joints(betas), SMPL24.parents)[1]

    def vertices(
        self,
        rotations: Float[Tensor, "*#batch 24 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch vertices 3"]:
        """Return the skinned vertices."""
        moved = transforms(rotations, self.rest_joints(betas), SMPL24.parents)
        rest = blend(self.template, self.shape_directions, betas)
        rest = rest + combine(self.pose_directions, pose_features(rotations))
        return skin(rest, self.weights, *moved)

    def regressed(
        self,
        regressor: Float[Tensor, "outputs vertices"],
        rotations: Float[Tensor, "*#batch 24 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch outputs 3"]:
        """Return points that a regressor takes from the posed vertices.

        With the body's own `joint_regressor` these are not `joints`: that one is for the T-pose.
        """
        return regressor @ self.vertices(rotations, betas)


class SmplBodies(nn.Module):
    """SMPL's neutral, male and female model, for people of any genders at once."""

    def __init__(self, neutral: Smpl, male: Smpl, female: Smpl) -> None:
        super().__init__()
        sizes = [len(each.template) for each in (neutral, male, female)]
        if len(set(sizes)) != 1:
            raise ValueError(f"the genders must have the same number of vertices; got {sizes}")
        models = zip(GENDERS, (neutral, male, female), strict=True)
        self.models = nn.ModuleDict({gender: SmplBody(smpl) for gender, smpl in models})

    def of(self, gender: str) -> SmplBody:
        """Return the model of a gender; the neutral one if it is "unknown"."""
        known = "neutral" if gender == "unknown" else gender
        model = dict(self.models.items()).get(known)
        if not isinstance(model, SmplBody):
            raise ValueError(
                f"gender must be unknown or one of {', '.join(GENDERS)}; got {gender!r}"
            )
        return model

    def posed(
        self,
        gender: np.ndarray,
        rotations: Float[Tensor, "people 24 3 3"],
        betas: Float[Tensor, "people 10"],
    ) -> tuple[Float[Tensor, "people vertices 3"], Float[Tensor, "people 24 3"]]:
        """Return vertices and joints of people, each with the model of their gender."""
        if len(gender) != len(rotations):
            raise ValueError(
                f"need a gender for each of {len(rotations)} people; got {len(gender)}"
            )
        neutral = self.of("neutral")
        vertices = rotations.new_empty(len(rotations), *neutral.template.shape)
        joints = rotations.new_empty(len(rotations), len(SMPL24), 3)
        for name in dict.fromkeys(gender.tolist()):
            model, here = self.of(name), torch.from_numpy(np.flatnonzero(gender == name))
            here = here.to(rotations.device)
            vertices[here] = model.vertices(rotations[here], betas[here])
            joints[here] = model.joints(rotations[here], betas[here])
        return vertices, joints


def load_smpl(gender: str, *, root: Path = LICENSED, vertices: int = VERTICES) -> Smpl:
    """Read the file of a gender from the licensed folder."""
    if gender not in SMPL_BODIES:
        raise ValueError(f"gender must be one of {', '.join(GENDERS)}; got {gender!r}")
    return read_smpl(find(root, *SMPL_BODIES[gender]), vertices=vertices)


def load_bodies(
    *, root: Path = LICENSED, vertices: int = VERTICES, dtype: torch.dtype = torch.float32
) -> SmplBodies:
    """Read all three from the licensed folder."""
    neutral, male, female = (load_smpl(name, root=root, vertices=vertices) for name in GENDERS)
    return SmplBodies(neutral, male, female).to(dtype)
