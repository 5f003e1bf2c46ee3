r"""SMPL bodies: vertices and joints from 24 rotations and 10 betas, one gender or a mixture.

The equations are those of `bodies`, with SMPL's own tree and pose correctives:
$v = \sum_k W_{vk} (A_k (t_v + S_v \beta + P_v f) + a_k)$, $f$ the entries of $R - I$ of 23 joints.
Axes as there: x to the left, y up, z to the front; metres; no translation is added.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr.licensed import LICENSED, SMPL_BODIES, find
from humr.skinning import blend, combine, forward_kinematics, pose_features, skin
from humr.skinning import skinning_transforms as transforms
from humr.smpl_files import SHAPES, SMPL24, VERTICES, Smpl, read_smpl

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
