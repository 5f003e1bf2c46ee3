"""Body models: vertices, joints and key points of a skinned body from 22 rotations and betas.

Reads the open body and SMPL-X files alike. Only 22 joints move; jaw, eyes and fingers stay at the
identity: their weights fold onto the body joint above, and their pose correctives vanish.

Axes of the body: x to its left, y up, z to the front; metres. The first rotation turns it about
the pelvis, which is not the origin. No translation is added here.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.lib.format import MAGIC_PREFIX
from numpy.lib.npyio import NpzFile
from torch import Tensor, nn

from humr.devices import full_precision
from humr.files import DATA, BrokenFile, reading
from humr.skeletons import BODY22, COCO17, SKELETONS, SMPLX55
from humr.storage import npy_header, npz_size

if TYPE_CHECKING:
    from smplx import SMPLXLayer

OPEN_BODIES = ("small", "full")
BETAS = 11
# Columns of a file that holds 300 shape and 100 expression directions; shorter files have 10 + 10.
_LONG_FILE, _SHORT_FILE_BETAS = 400, 10
_DAMAGED = "Usual cause: a broken or partial download, or a file in another format"
# Vertices of nose, eyes and ears in the SMPL-X mesh (the numbers that `smplx` has built in).
_SMPLX_VERTICES = 10475
_SMPLX_FACE = {
    "nose": 9120, "right_eye": 9929, "left_eye": 9448, "right_ear": 616, "left_ear": 6,
}  # fmt: skip
# The body joint that each of the 55 moves with while jaw, eyes and fingers stay at the identity:
# the nearest of the 22 body joints at or above it.
ANCESTORS = tuple(range(len(BODY22)))
for _parent in SMPLX55.parents[len(BODY22) :]:
    ANCESTORS += (ANCESTORS[_parent],)


@dataclass(frozen=True)
class BodyParts:
    """The arrays of a body file that are used, as float64 tensors."""

    faces: Tensor  # (faces, 3) int64
    template: Tensor  # (V, 3)
    shape_directions: Tensor  # (V, 3, betas)
    pose_directions: Tensor | None  # (V, 3, 189); None when the file has no correctives
    weights: Tensor  # (V, 22): those of jaw, eyes and fingers added to their ancestors
    joint_regressor: Tensor  # (55, V)
    regressors: dict[str, Tensor]  # (K, V)
    part: Tensor  # (V,) int64: the joint of the 55 that moves the vertex most


class Body(nn.Module):
    """A skinned body with linear shape space; the tensors follow `.to(device, dtype)`."""

    name: str
    parents: tuple[int, ...]
    faces: Tensor
    template: Tensor
    shape_directions: Tensor
    pose_directions: Tensor | None
    weights: Tensor
    joint_template: Tensor
    joint_directions: Tensor
    part: Tensor
    ancestors: Tensor

    def __init__(self, name: str, parts: BodyParts) -> None:
        super().__init__()
        self.name, self.parents = name, SMPLX55.parents
        regressor = parts.joint_regressor
        for key in ("faces", "template", "shape_directions", "pose_directions", "weights", "part"):
            self.register_buffer(key, getattr(parts, key), persistent=False)
        directions = torch.einsum("jv,vck->jck", regressor, parts.shape_directions)
        self.register_buffer("joint_template", regressor @ parts.template, persistent=False)
        self.register_buffer("joint_directions", directions, persistent=False)
        self.register_buffer("ancestors", torch.tensor(ANCESTORS), persistent=False)
        self._regressors = {n: r.float() for n, r in parts.regressors.items()}
        self._folded = nn.ModuleDict({n: _fold(parts, r) for n, r in parts.regressors.items()})
        if not self._folded and len(parts.template) == _SMPLX_VERTICES:
            self._folded["coco17"] = _coco_of_smplx(parts, self.joint_template, directions)

    @property
    def betas(self) -> int:
        """Number of shape coefficients."""
        return self.shape_directions.shape[-1]

    @property
    def skeletons(self) -> tuple[str, ...]:
        """Names of the key-point sets that `keypoints` knows."""
        return tuple(self._folded)

    def regressor(self, skeleton_name: str) -> Float[Tensor, "outputs vertices"]:
        """Return the matrix that takes vertices to key points."""
        if skeleton_name not in self._regressors:
            raise ValueError(
                f"body {self.name} has no regressor for {skeleton_name!r}; it has "
                f"{', '.join(self._regressors) or 'none, as every original SMPL-X file'}"
            )
        return self._regressors[skeleton_name].to(self.template)

    def rest_vertices(self, betas: Float[Tensor, "*batch betas"]) -> Float[Tensor, "*batch v 3"]:
        """Return the vertices of shaped bodies in the T-pose: template + directions b."""
        self._check_betas(betas)
        return blend(self.template, self.shape_directions, betas)

    def rest_joints(self, betas: Float[Tensor, "*batch betas"]) -> Float[Tensor, "*batch 55 3"]:
        """Return the joints of shaped bodies in the T-pose; linear in the betas."""
        self._check_betas(betas)
        return blend(self.joint_template, self.joint_directions, betas)

    @full_precision
    def joints(
        self,
        rotations: Float[Tensor, "*#batch 22 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch 55 3"]:
        """Return the posed joints of the SMPL-X tree, without any vertices.

        A joint beyond the 22 moves rigidly with its nearest body joint. Batch axes broadcast: one
        shape `(batch, 1, 11)` for many poses `(batch, hypotheses, 22, 3, 3)` costs little.
        """
        rest = self.rest_joints(betas)
        turned, placed = forward_kinematics(rotations, rest[..., : len(BODY22), :])
        offsets = (rest - rest[..., self.ancestors, :])[..., len(BODY22) :, :]
        above = self.ancestors[len(BODY22) :]
        moved = (turned[..., above, :, :] @ offsets[..., None])[..., 0]
        return torch.cat([placed, placed[..., above, :] + moved], dim=-2)

    @full_precision
    def vertices(
        self,
        rotations: Float[Tensor, "*#batch 22 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch vertices 3"]:
        """Return the skinned vertices: v -> sum_k W_vk (A_k v + a_k)."""
        rest = self.rest_vertices(betas)
        if self.pose_directions is not None:
            rest = rest + combine(self.pose_directions, pose_features(rotations))
        return skin(rest, self.weights, *self.skinning_transforms(rotations, betas))

    def keypoints(
        self,
        rotations: Float[Tensor, "*#batch 22 3 3"],
        betas: Float[Tensor, "*#batch betas"],
        skeleton_name: str,
    ) -> Float[Tensor, "*batch outputs 3"]:
        """Return key points: equal to `regressor @ vertices`, but without any vertices."""
        if skeleton_name not in self._folded:
            raise ValueError(
                f"body {self.name} has no key points {skeleton_name!r}; it has "
                f"{', '.join(self.skeletons) or 'none'}. Original SMPL-X files hold no such "
                "regressors: use the open body, or joints()"
            )
        return self.regress(self._folded[skeleton_name], rotations, betas)

    def fold(self, regressor: Float[Tensor, "outputs vertices"]) -> "FoldedRegressor":
        """Fold any regressor of this body's vertices, for `regress`."""
        if regressor.shape[1] != len(self.template):
            raise ValueError(
                f"a regressor for body {self.name} must have {len(self.template)} columns, one "
                f"per vertex; got {regressor.shape[1]}. Usual cause: a file of another body model"
            )
        return _fold(self, regressor).to(self.template)

    @full_precision
    def regress(
        self,
        folded: nn.Module,
        rotations: Float[Tensor, "*#batch 22 3 3"],
        betas: Float[Tensor, "*#batch betas"],
    ) -> Float[Tensor, "*batch outputs 3"]:
        """Return what a regressor from `fold` takes from the vertices, without any vertices."""
        linear, shift = self.skinning_transforms(rotations, betas)
        features = None if self.pose_directions is None else pose_features(rotations)
        return folded(linear, shift, betas, features)

    def skinning_transforms(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transforms x -> linear x + shift of the 22 joints, (22, 3, 3) and (22, 3)."""
        return skinning_transforms(rotations, self.rest_joints(betas)[..., : len(BODY22), :])

    def _check_betas(self, betas: Tensor) -> None:
        if betas.shape[-1] != self.betas:
            raise ValueError(
                f"betas of body {self.name} must have {self.betas} columns; got "
                f"{betas.shape[-1]}. Betas belong to one body model and cannot be exchanged"
            )


class FoldedRegressor(nn.Module):
    """A vertex regressor folded with the skinning, so that no vertex is ever computed.

    For output o and joint k with w_ok = sum_v R_ov W_vk != 0 it holds
    m_ok(b, f) = sum_v R_ov W_vk (t_v + S_v b + P_v f); then

        x_o = sum_k A_k m_ok + w_ok a_k,

    where skinning moves vertex v to sum_k W_vk (A_k v + a_k). Equal to R @ vertices exactly.
    The pairs (o, k) are stored as a list, about three per output.
    """

    joints: Tensor  # (pairs,) the joint k of each pair
    outputs: Tensor  # (outputs, pairs) one where the pair belongs to the output
    template: Tensor  # (pairs, 3)
    directions: Tensor  # (pairs, 3, betas)
    correctives: Tensor | None  # (pairs, 3, 189)
    mass: Tensor  # (pairs,) w_ok

    def __init__(
        self,
        output: Int[Tensor, " pairs"],
        joints: Int[Tensor, " pairs"],
        template: Float[Tensor, "pairs 3"],
        directions: Float[Tensor, "pairs 3 betas"],
        correctives: Float[Tensor, "pairs 3 features"] | None,
        mass: Float[Tensor, " pairs"],
    ) -> None:
        super().__init__()
        outputs = nn.functional.one_hot(output).to(template.dtype).T.contiguous()
        tensors = {"joints": joints, "outputs": outputs, "template": template, "mass": mass}
        tensors |= {"directions": directions, "correctives": correctives}
        for key, tensor in tensors.items():
            self.register_buffer(key, tensor, persistent=False)

    def forward(
        self,
        linear: Float[Tensor, "*batch 22 3 3"],
        shift: Float[Tensor, "*batch 22 3"],
        betas: Float[Tensor, "*#batch betas"],
        features: Float[Tensor, "*#batch features"] | None,
    ) -> Float[Tensor, "*batch outputs 3"]:
        """Apply to the skinning transforms x -> linear x + shift of the 22 joints."""
        points = blend(self.template, self.directions, betas)
        if features is not None and self.correctives is not None:
            points = points + combine(self.correctives, features)
        moved = (linear[..., self.joints, :, :] @ points[..., None])[..., 0]
        moved = moved + self.mass[:, None] * shift[..., self.joints, :]
        return self.outputs @ moved


def _fold(
    parts: BodyParts | Body, regressor: Float[Tensor, "outputs vertices"]
) -> FoldedRegressor:
    """Sum a regressor times the skinning weights over the vertices (see `FoldedRegressor`)."""
    regressor, weights = regressor.double(), parts.weights.double()
    support = regressor.abs().sum(0).nonzero()[:, 0]
    coupling = torch.einsum("ov,vk->okv", regressor[:, support], weights[support])
    output, joints = coupling.abs().sum(-1).nonzero(as_tuple=True)
    pairs = coupling[output, joints]

    def gathered(field: Tensor) -> Tensor:
        return torch.tensordot(pairs, field[support].double(), dims=1)

    correctives = None if parts.pose_directions is None else gathered(parts.pose_directions)
    template, directions = gathered(parts.template), gathered(parts.shape_directions)
    return FoldedRegressor(output, joints, template, directions, correctives, pairs.sum(-1))


def _coco_of_smplx(parts: BodyParts, joints: Tensor, directions: Tensor) -> FoldedRegressor:
    """COCO key points of an original SMPL-X file: face vertices, and limbs from the joints."""
    limbs = [name for name in COCO17.names if name not in _SMPLX_FACE]
    limb_joints = torch.tensor(SMPLX55.indices(limbs))
    rows = parts.template.new_zeros(len(_SMPLX_FACE), len(parts.template))
    rows[torch.arange(len(rows)), torch.tensor(list(_SMPLX_FACE.values()))] = 1.0
    face = _fold(parts, rows)
    place = torch.tensor([COCO17.index(name) for name in _SMPLX_FACE])
    output = torch.cat([place[face.outputs.argmax(0)], torch.tensor(COCO17.indices(limbs))])
    correctives = face.correctives
    if correctives is not None:  # the joints have none
        still = correctives.new_zeros(len(limbs), *correctives.shape[1:])
        correctives = torch.cat([correctives, still])
    return FoldedRegressor(
        output,
        torch.cat([face.joints, limb_joints]),
        torch.cat([face.template, joints[limb_joints]]),
        torch.cat([face.directions, directions[limb_joints]]),
        correctives,
        torch.cat([face.mass, face.mass.new_ones(len(limbs))]),
    )


def load_body(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32) -> Body:
    """Load "small" or "full" (the open body) or any file in the layout of `SMPLX_NEUTRAL.npz`."""
    path = body_path(name_or_path)
    return Body(path.stem, read_body(path)).to(dtype)


def save_ply(
    path: str | Path,
    vertices: Float[Tensor, "vertices 3"] | Float[np.ndarray, "vertices 3"],
    faces: Int[Tensor, "faces 3"] | Int[np.ndarray, "faces 3"],
) -> None:
    """Write one mesh as binary PLY, in metres and in the axes of the vertices."""
    points, triangles = (
        x.detach().cpu().numpy() if isinstance(x, Tensor) else x for x in (vertices, faces)
    )
    import trimesh

    trimesh.Trimesh(points, triangles, process=False).export(Path(path), file_type="ply")


def smplx_layer(
    name_or_path: str | Path, *, betas: int = BETAS, dtype: torch.dtype = torch.float32
) -> "SMPLXLayer":
    """Return the file as a module of the package `smplx`, which is imported only here.

    That package reads 21 vertices by number, the highest 9929; the small open body says in its
    file which of its vertices stand for them.
    """
    path = body_path(name_or_path)
    import smplx

    layer = smplx.SMPLXLayer(str(path), num_betas=betas, dtype=dtype, use_pca=False)
    with np.load(path, allow_pickle=False) as data:
        if "named_vertices" in data.files:
            layer.vertex_joint_selector.extra_joints_idxs = torch.from_numpy(
                data["named_vertices"].astype(np.int64)
            )
    return layer


# ------------------------- forward kinematics and linear blend skinning of any tree of joints


def forward_kinematics(
    rotations: Float[Tensor, "*#batch joints 3 3"],
    rest_joints: Float[Tensor, "*#batch joints 3"],
    parents: tuple[int, ...] = BODY22.parents,
) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
    """Turn local rotations into world rotations and joint positions, one tree level at a time.

    R_j = R_parent L_j and p_j = p_parent + R_parent (J_j - J_parent); the root stays at J_0.
    """
    batch = torch.broadcast_shapes(rotations.shape[:-3], rest_joints.shape[:-2])
    turned = [rotations[..., :1, :, :].expand(*batch, 1, 3, 3)]
    placed = [rest_joints[..., :1, :].expand(*batch, 1, 3)]
    for here, over, among_parents in _steps(parents, rotations.device):
        parent_turned = turned[-1].index_select(-3, among_parents)
        parent_placed = placed[-1].index_select(-2, among_parents)
        offsets = rest_joints[..., here, :] - rest_joints.index_select(-2, over)
        turned.append(parent_turned @ rotations[..., here, :, :])
        placed.append(parent_placed + (parent_turned @ offsets[..., None])[..., 0])
    return torch.cat(turned, dim=-3), torch.cat(placed, dim=-2)


def skinning_transforms(
    rotations: Float[Tensor, "*#batch joints 3 3"],
    rest_joints: Float[Tensor, "*#batch joints 3"],
    parents: tuple[int, ...] = BODY22.parents,
) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
    """Return the transforms x -> A_k x + a_k of the joints: A_k and a_k = p_k - A_k J_k."""
    turned, placed = forward_kinematics(rotations, rest_joints, parents)
    return turned, placed - (turned @ rest_joints[..., None])[..., 0]


def skin(
    points: Float[Tensor, "*#batch points 3"],
    weights: Float[Tensor, "points joints"],
    linear: Float[Tensor, "*#batch joints 3 3"],
    shift: Float[Tensor, "*#batch joints 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Move points with the joints: v -> sum_k W_vk (A_k v + a_k)."""
    transforms = torch.cat([linear, shift[..., None]], dim=-1).flatten(-2)
    blended = (weights @ transforms).unflatten(-1, (3, 4))
    return (blended[..., :3] @ points[..., None])[..., 0] + blended[..., 3]


def pose_features(
    rotations: Float[Tensor, "*batch joints 3 3"],
) -> Float[Tensor, "*batch features"]:
    """Return R - I of the joints below the root, row by row: what pose correctives multiply."""
    eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return (rotations[..., 1:, :, :] - eye).flatten(-3)


def combine(
    directions: Float[Tensor, "points 3 columns"], values: Float[Tensor, "*batch columns"]
) -> Float[Tensor, "*batch points 3"]:
    """Return the sum of the directions, each times its value."""
    return (values @ directions.flatten(0, 1).T).unflatten(-1, directions.shape[:2])


def blend(
    template: Float[Tensor, "points 3"],
    directions: Float[Tensor, "points 3 betas"],
    betas: Float[Tensor, "*batch betas"],
) -> Float[Tensor, "*batch points 3"]:
    """Return the points of shaped bodies at rest: template + directions b."""
    return template + combine(directions, betas)


def _levels(parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Joints grouped by their distance from the root."""
    depth: list[int] = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    levels = tuple(
        tuple(j for j, d in enumerate(depth) if d == level) for level in range(max(depth) + 1)
    )
    if sum(levels, ()) != tuple(range(len(parents))):
        raise ValueError(f"joints must be numbered level by level, the root first; got {parents}")
    return levels


@cache
def _steps(
    parents: tuple[int, ...], device: torch.device
) -> tuple[tuple[slice, Tensor, Tensor], ...]:
    """For each tree level: its joints, their parents, and the parents' places in their level.

    Kept per device, so that no call copies indices to it.
    """
    steps = []
    with torch.inference_mode(mode=False):  # an inference tensor could not serve in training later
        for above, level in pairwise(_levels(parents)):
            over = [parents[j] for j in level]
            places = torch.tensor([above.index(p) for p in over], device=device)
            here = slice(level[0], level[-1] + 1)
            steps.append((here, torch.tensor(over, device=device), places))
    return tuple(steps)


# ----------------------------------------- body files: `.npz` files in the layout of SMPL-X


def body_path(name_or_path: str | Path) -> Path:
    """Return the file of a body by its short name or path."""
    path = Path(name_or_path)
    if str(name_or_path) in OPEN_BODIES:
        path = DATA / f"open_body_{name_or_path}.npz"
    if path.suffix == ".pkl":
        raise ValueError(
            f"{path}: pickled body files run code when read and are refused; use the .npz of the "
            "same model (every SMPL-X download has both)"
        )
    if not path.is_file():
        raise ValueError(
            f"no body file {path}; expected {' or '.join(map(repr, OPEN_BODIES))} or the path of "
            "an SMPL-X .npz file. Usual cause: a licensed file that was not downloaded yet"
        )
    return path


def read_body(path: Path) -> BodyParts:
    """Read and check a body file."""
    with path.open("rb") as file:
        with reading(f"{path} is no .npz body file", _DAMAGED):
            if file.peek(6).startswith(MAGIC_PREFIX):
                raise ValueError("it holds one bare array")
            data = np.load(file, allow_pickle=False)
        with reading(f"{path} cannot be read", _DAMAGED):
            for key in data.files:
                with data.zip.open(f"{key}.npy") as member:
                    npy_header(member, npz_size(data.zip, key))
            return _parts(path, data)


def _parts(path: Path, data: NpzFile) -> BodyParts:
    """Check a body file and take from it what is used."""
    keys = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
    missing = [key for key in keys if key not in data.files]
    if missing:
        raise BrokenFile(
            f"{path} lacks {', '.join(missing)}; expected an SMPL-X body with "
            f"{', '.join(keys)}; got {', '.join(data.files[:12]) or 'nothing'}. "
            "Usual cause: a pose or parameter file instead of a model file"
        )
    template, faces, shapes = (data[key] for key in keys[:3])
    regressor, tree, weights = (data[key] for key in keys[4:])
    count = len(template)
    _expect(path, "v_template", template.shape, (count, 3))
    _expect(path, "weights", weights.shape, (count, len(SMPLX55)))
    _expect(path, "J_regressor", regressor.shape, (len(SMPLX55), count))
    _expect(path, "f", faces.shape, (len(faces), 3))
    _expect(path, "shapedirs", shapes.shape, (count, 3, shapes.shape[-1]))
    whole = tree.ndim == 2 and tree.dtype.kind in "iu"
    parents = tuple(tree[0, 1:].astype(np.int64)) if whole else ()
    if parents != SMPLX55.parents[1:]:
        raise BrokenFile(
            f"{path}: kintree_table must be the SMPL-X tree of {len(SMPLX55)} joints; got "
            f"{tree.dtype} of shape {tree.shape}. Usual cause: a SMPL or SMPL-H file, "
            "which has other joints"
        )
    if faces.dtype.kind not in "iu" or faces.min() < 0 or faces.max() >= count:
        raise BrokenFile(
            f"{path}: faces name vertex {faces.max()}, but there are only {count}. {_DAMAGED}"
        )
    betas = BETAS if shapes.shape[-1] >= _LONG_FILE else _SHORT_FILE_BETAS
    if shapes.shape[-1] < betas:
        raise BrokenFile(f"{path}: shapedirs has {shapes.shape[-1]} columns; expected >= {betas}")
    height = np.ptp(_real(path, "v_template", template).numpy(), axis=0).max()
    if not 0.3 < height < 3:
        raise BrokenFile(
            f"{path}: v_template must be a person in metres; it is {height:.4g} long. {_DAMAGED}"
        )
    every = _real(path, "weights", weights)
    if every.min() < 0 or (every.sum(1) - 1).abs().max() > 1e-3:
        raise BrokenFile(
            f"{path}: weights must be shares that sum to 1 for every vertex. {_DAMAGED}"
        )
    # Those of jaw, eyes and fingers go to their ancestors.
    folded = every.new_zeros(count, len(BODY22)).index_add(1, torch.tensor(ANCESTORS), every)
    return BodyParts(
        faces=torch.from_numpy(faces.astype(np.int64)),
        template=_real(path, "v_template", template),
        shape_directions=_real(path, "shapedirs", shapes[..., :betas]),
        pose_directions=_pose_directions(path, data, count),
        weights=folded,
        joint_regressor=_real(path, "J_regressor", regressor),
        regressors=_regressors(path, data, count),
        part=torch.from_numpy(weights.argmax(1)),
    )


def _regressors(path: Path, data: NpzFile, count: int) -> dict[str, Tensor]:
    """Return the key-point regressors of an open body; none for an original SMPL-X file."""
    found = {}
    for key in (k for k in data.files if k.startswith("regressor_")):
        name, values = key.removeprefix("regressor_"), data[key]
        names = tuple(data[f"names_{name}"]) if f"names_{name}" in data.files else ()
        _expect(path, key, values.shape, (len(names), count))
        if name in SKELETONS and names != SKELETONS[name].names:
            raise BrokenFile(
                f"{path}: {key} must have the rows {', '.join(SKELETONS[name].names)}; got "
                f"{', '.join(names)}. Usual cause: a file of another version; get both again"
            )
        found[name] = _real(path, key, values)
    return found


def _pose_directions(path: Path, data: NpzFile, count: int) -> Tensor | None:
    """Return the correctives of the 21 body joints, None when all are zero."""
    if "format" in data.files and str(data["format"]) == "humr open body":
        return None  # all zero by construction; reading them would take longer than the rest
    directions = data["posedirs"]
    _expect(path, "posedirs", directions.shape, (count, 3, 9 * (len(SMPLX55) - 1)))
    body = _real(path, "posedirs", directions[..., : 9 * (len(BODY22) - 1)])
    return body if body.any() else None


def _expect(path: Path, key: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if got != wanted:
        raise BrokenFile(
            f"{path}: {key} must have shape {wanted}; got {got}. Usual cause: a file of another "
            "body model (SMPL has 24 joints, SMPL-H 52, SMPL-X 55)"
        )


def _real(path: Path, key: str, values: np.ndarray) -> Tensor:
    """Numbers of a body: real, and no length, share or derivative of one is beyond a thousand."""
    if values.dtype.kind not in "fiu":
        raise BrokenFile(f"{path}: {key} must hold real numbers, not {values.dtype}. {_DAMAGED}")
    real = np.ascontiguousarray(values, dtype=np.float64)
    if not np.isfinite(real).all():
        raise BrokenFile(f"{path}: {key} holds values that are not finite. {_DAMAGED}")
    if np.abs(real).max(initial=0) > 1000:
        raise BrokenFile(f"{path}: {key} holds values beyond 1000. {_DAMAGED}")
    return torch.from_numpy(real)
