"""Body models: vertices, joints and key points of a skinned body from 22 rotations and betas.

Reads the open body and SMPL-X files alike. Only 22 joints move; jaw, eyes and fingers stay at the
identity: their weights fold onto the body joint above, and their pose correctives vanish.

Axes of the body: x to its left, y up, z to the front; metres. The first rotation turns it about
the pelvis, which is not the origin. No translation is added here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from humr.body_files import ANCESTORS, BETAS, BodyParts, body_path, read_body
from humr.devices import unrounded
from humr.skeletons import BODY22, COCO17, SMPLX55
from humr.skinning import (
    blend,
    combine,
    forward_kinematics,
    pose_features,
    skin,
    skinning_transforms,
)

if TYPE_CHECKING:
    from smplx import SMPLXLayer

# Vertices of nose, eyes and ears in the SMPL-X mesh (the numbers that `smplx` has built in).
_SMPLX_VERTICES = 10475
_SMPLX_FACE = {
    "nose": 9120, "right_eye": 9929, "left_eye": 9448, "right_ear": 616, "left_ear": 6,
}  # fmt: skip


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

    @unrounded
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

    @unrounded
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

    def fold(self, regressor: Float[Tensor, "outputs vertices"]) -> FoldedRegressor:
        """Fold any regressor of this body's vertices, for `regress`."""
        if regressor.shape[1] != len(self.template):
            raise ValueError(
                f"a regressor for body {self.name} must have {len(self.template)} columns, one "
                f"per vertex; got {regressor.shape[1]}. Usual cause: a file of another body model"
            )
        return _fold(self, regressor).to(self.template)

    @unrounded
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
    if correctives is not None:
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


def smplx_layer(
    name_or_path: str | Path, *, betas: int = BETAS, dtype: torch.dtype = torch.float32
) -> "SMPLXLayer":
    """Return the file as a module of the package `smplx`, which is imported only here.

    That package reads 21 vertices by number, the highest 9929; the small open body says in its
    file which of its vertices stand for them.
    """
    import smplx

    path = body_path(name_or_path)
    layer = smplx.SMPLXLayer(str(path), num_betas=betas, dtype=dtype, use_pca=False)
    with np.load(path, allow_pickle=False) as data:
        if "named_vertices" in data.files:
            layer.vertex_joint_selector.extra_joints_idxs = torch.from_numpy(
                data["named_vertices"].astype(np.int64)
            )
    return layer


def save_ply(
    path: str | Path,
    vertices: Float[Tensor, "vertices 3"] | Float[np.ndarray, "vertices 3"],
    faces: Int[Tensor, "faces 3"] | Int[np.ndarray, "faces 3"],
) -> None:
    """Write one mesh as binary PLY, in metres and in the axes of the vertices."""
    import trimesh

    points, triangles = (
        x.detach().cpu().numpy() if isinstance(x, Tensor) else x for x in (vertices, faces)
    )
    trimesh.Trimesh(points, triangles, process=False).export(Path(path), file_type="ply")
