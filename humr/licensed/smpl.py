r"""SMPL bodies and the files around them: models, regressors, means, the way from SMPL-X.

A body has vertices and joints from 24 rotations and 10 betas. The equations are those of
`bodies.body`, with SMPL's own tree and pose correctives:
$v = \sum_k W_{vk} (A_k (t_v + S_v \beta + P_v f) + a_k)$, $f$ the entries of $R - I$ of 23 joints.
Axes as there: x to the left, y up, z to the front; metres; no translation is added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from humr.bodies.body import (
    blend,
    combine,
    forward_kinematics,
    pose_features,
    skin,
    skinning_transforms,
)
from humr.files import find, shown
from humr.licensed.datasets import LICENSED, SMPL_BODIES
from humr.licensed.readers import read_dictionary, read_npy, read_npz
from humr.skeletons import BODY22, H36M_FROM_SPIN, Skeleton

VERTICES, SMPLX_VERTICES = 6890, 10475
SHAPES = 10  # shape directions that SMPL data sets use; newer files hold up to 300
GENDERS = tuple(SMPL_BODIES)
SMPL24 = Skeleton(
    "smpl24",
    (*BODY22.names, "left_hand", "right_hand"),
    (*BODY22.parents, BODY22.index("left_wrist"), BODY22.index("right_wrist")),
)
_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")


# ------------------------------------------------------------------------ bodies


class SmplBody(nn.Module):
    """One SMPL model; the tensors follow `.to(device, dtype)`."""

    faces: Int[Tensor, "faces 3"]
    template: Float[Tensor, "vertices 3"]  # metres, y up
    shape_directions: Float[Tensor, "vertices 3 10"]
    pose_directions: Float[Tensor, "vertices 3 207"]  # times R - I of 23 joints, row by row
    weights: Float[Tensor, "vertices 24"]
    joint_regressor: Float[Tensor, "24 vertices"]  # of the T-pose; of posed bodies not `joints`
    joint_template: Float[Tensor, "24 3"]
    joint_directions: Float[Tensor, "24 3 10"]

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the arrays of a file, which `read_smpl` has checked."""
        super().__init__()
        regressor, template = (_tensor(arrays[key]) for key in ("J_regressor", "v_template"))
        directions = _tensor(arrays["shapedirs"])
        tensors = {
            "faces": torch.from_numpy(arrays["f"].astype(np.int64)),
            "template": template,
            "shape_directions": directions,
            "pose_directions": _tensor(arrays["posedirs"]),
            "weights": _tensor(arrays["weights"]),
            "joint_regressor": regressor,
            "joint_template": regressor @ template,
            "joint_directions": torch.einsum("jv,vck->jck", regressor, directions),
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
        self, rotations: Float[Tensor, "*#batch 24 3 3"], betas: Float[Tensor, "*#batch betas"]
    ) -> Float[Tensor, "*batch 24 3"]:
        """Return the posed joints, without any vertices."""
        return forward_kinematics(rotations, self.rest_joints(betas), SMPL24.parents)[1]

    def vertices(
        self, rotations: Float[Tensor, "*#batch 24 3 3"], betas: Float[Tensor, "*#batch betas"]
    ) -> Float[Tensor, "*batch vertices 3"]:
        """Return the skinned vertices."""
        transforms = skinning_transforms(rotations, self.rest_joints(betas), SMPL24.parents)
        rest = blend(self.template, self.shape_directions, betas)
        rest = rest + combine(self.pose_directions, pose_features(rotations))
        return skin(rest, self.weights, *transforms)


class SmplBodies(nn.Module):
    """SMPL's neutral, male and female model, for people of any genders at once."""

    def __init__(self, neutral: SmplBody, male: SmplBody, female: SmplBody) -> None:
        super().__init__()
        bodies = dict(zip(GENDERS, (neutral, male, female), strict=True))
        sizes = [len(body.template) for body in bodies.values()]
        if len(set(sizes)) != 1:
            raise ValueError(f"the genders must have the same number of vertices; got {sizes}")
        self.models = nn.ModuleDict(bodies)

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
            model = self.of(name)
            here = torch.from_numpy(np.flatnonzero(gender == name)).to(rotations.device)
            vertices[here] = model.vertices(rotations[here], betas[here])
            joints[here] = model.joints(rotations[here], betas[here])
        return vertices, joints


def load_bodies(
    *, root: Path = LICENSED, vertices: int = VERTICES, dtype: torch.dtype = torch.float32
) -> SmplBodies:
    """Read all three from the licensed folder."""
    paths = [find(root, *SMPL_BODIES[gender]) for gender in GENDERS]
    return SmplBodies(*(read_smpl(path, vertices=vertices) for path in paths)).to(dtype)


# ------------------------------------------------------------------------ files


def read_smpl(path: Path, *, vertices: int = VERTICES) -> SmplBody:
    """Read `SMPL_NEUTRAL.pkl` (or MALE, FEMALE, or an .npz with the same keys), in float64."""
    found = read_dictionary(path, _KEYS) if path.suffix == ".pkl" else read_npz(path, _KEYS)
    arrays = {key: _numbers(path, key, found[key]) for key in _KEYS}
    if arrays["shapedirs"].ndim == 3:
        arrays["shapedirs"] = arrays["shapedirs"][..., :SHAPES]
    joints = len(SMPL24)
    shapes = {
        "v_template": (vertices, 3),
        "f": (max(arrays["f"].size // 3, 1), 3),
        "shapedirs": (vertices, 3, SHAPES),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
        "weights": (vertices, joints),
    }
    for key, shape in shapes.items():
        _expect(path, key, arrays[key], shape)
    if arrays["f"].min() < 0 or arrays["f"].max() >= vertices:
        raise ValueError(f"{shown(path)}: faces name vertices outside 0..{vertices - 1}")
    parents = arrays["kintree_table"][0, 1:].astype(np.int64)
    if tuple(parents.tolist()) != SMPL24.parents[1:]:
        raise ValueError(f"{shown(path)}: kintree_table is not the tree of SMPL's 24 joints")
    for key in ("weights", "J_regressor"):
        _sum_to_one(path, key, arrays[key], 1e-3)
    return SmplBody(arrays)


def read_h36m_regressor(path: Path, *, vertices: int = VERTICES) -> Float[Tensor, "17 vertices"]:
    """Read `J_regressor_h36m.npy`, in the order of H36M17: the file has the left leg first."""
    values = _numbers(path, "the regressor", read_npy(path))
    _expect(path, "the regressor", values, (17, vertices))
    _sum_to_one(path, "the regressor", values, 0.1)
    return _tensor(values)[list(H36M_FROM_SPIN)]


@dataclass(frozen=True)
class MeanParameters:
    """Where iterative regressors of SMPL start."""

    pose: Float[Tensor, " 144"]  # 24 x 6D; (3, 2) matrices, the first two *columns* of R
    betas: Float[Tensor, " 10"]
    camera: Float[Tensor, " 3"]  # weak perspective: scale, x, y


def read_mean_parameters(path: Path) -> MeanParameters:
    """Read `smpl_mean_params.npz`."""
    sizes = {"pose": 144, "shape": 10, "cam": 3}
    data = read_npz(path, sizes)
    for key, size in sizes.items():
        _expect(path, key, _numbers(path, key, data[key]), (size,))
    return MeanParameters(*(_tensor(data[key]) for key in sizes))


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


def _numbers(path: Path, key: str, value: object) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return value
    kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
    raise ValueError(f"{shown(path)}: {key} must hold numbers; got {kind}")


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
