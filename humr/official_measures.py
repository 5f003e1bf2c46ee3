r"""What the official code measures of HuMR on 3DPW and EMDB: points, errors, columns.

The network's bodies are SMPL-X, the labels SMPL. A matrix $T$ takes vertices of SMPL-X to SMPL's,
and every point is taken from that mesh: Human3.6M's joints (3DPW), SMPL's joints by the neutral
regressor (EMDB), COCO-17 for 2D errors and spread (SMPL's joints and five vertices of the face).
A regressor $R$ of them is one of SMPL-X, $R\,T$, which is folded with the skinning (`bodies`).

| | joints | about | labels |
|---|---|---|---|
| 3DPW | 14 of Human3.6M's | its pelvis | regressed from the labelled mesh |
| EMDB | SMPL's 24 | middle of the hips | the labelled body's posed joints |

Both meshes are moved by the same root for PVE. Errors are minimised one by one over hypotheses.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from humr import measures, metrics
from humr.annotations import Annotations
from humr.bodies import Body, load_body
from humr.crops import EVALUATION_SIZE, to_crop
from humr.datasets import Batch
from humr.licensed import LICENSED, SMPLX_BODY, data_set, existing, find
from humr.mesh import People
from humr.mesh import to_crop as projected
from humr.person_masks import evaluation_crop, read_mask
from humr.rotations import rotvec_to_matrix
from humr.skeletons import COCO17, COMMON14, H36M17
from humr.smpl import SmplBodies, SmplBody, load_bodies
from humr.smpl_files import (
    SMPL24,
    SMPLX_VERTICES,
    VERTICES,
    read_h36m_regressor,
    read_transfer,
)
from humr.surface import transferred_errors

KINDS = ("mpjpe", "pa_mpjpe", "pve")
# Vertices of SMPL's mesh (the numbers that the package smplx has built in).
FACE: Mapping[str, int] = {
    "nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583,
}  # fmt: skip
COMMON14_FROM_H36M = H36M17.indices(["thorax" if n == "neck" else n for n in COMMON14.names])
HIPS = SMPL24.indices(["left_hip", "right_hip"])
# Rows of the points that are taken from a mesh.
H36M = slice(0, len(H36M17))
SMPL = slice(H36M.stop, H36M.stop + len(SMPL24))
COCO = slice(SMPL.stop, SMPL.stop + len(COCO17))
# Half a pixel of the mask, in units of the crop: the official code measures distances from points
# whose pixel 0 covers 0..1 to whole numbers, so that a mask lies half a pixel to the upper left.
_HALF = 1 / EVALUATION_SIZE


class Yardstick(nn.Module):
    """SMPL-X, SMPL, and the points that both are compared by; follows `.to(device, dtype)`."""

    transfer: Tensor  # sparse, (SMPL's vertices, `chosen`)
    chosen: Tensor  # vertices of SMPL-X that matter to SMPL's
    h36m: Tensor
    coco17: Tensor

    def __init__(
        self,
        body: Body,
        transfer: Float[Tensor, "vertices smplx_vertices"],
        smpl: SmplBodies,
        h36m: Float[Tensor, "17 columns"],
        *,
        face: Mapping[str, int] = FACE,
    ) -> None:
        super().__init__()
        neutral, like = smpl.of("neutral"), body.template
        _check_sizes(body, transfer, neutral, h36m)
        self.body, self.smpl = body, smpl
        transfer, h36m = transfer.to(like.device).double(), h36m.to(like.device).double()
        coco = _coco(neutral, face).to(h36m)
        rows = torch.cat([h36m, neutral.joint_regressor.to(h36m), coco])
        self.points = body.fold((transfer.T @ rows.T).T)
        transfer = transfer.coalesce()
        chosen, columns = transfer.indices()[1].unique(return_inverse=True)
        places, shape = torch.stack([transfer.indices()[0], columns]), (len(transfer), len(chosen))
        values = transfer.values().to(like.dtype)
        narrow = torch.sparse_coo_tensor(places, values, shape, check_invariants=True).coalesce()
        tensors = {"transfer": narrow, "chosen": chosen, "h36m": h36m, "coco17": coco}
        for key, tensor in tensors.items():
            tensor = tensor.to(like) if tensor.is_floating_point() else tensor
            self.register_buffer(key, tensor, persistent=False)


def _coco(neutral: SmplBody, face: Mapping[str, int]) -> Float[Tensor, "17 vertices"]:
    """Rows that take vertices of SMPL to COCO-17."""
    regressor = neutral.joint_regressor
    rows = regressor.new_zeros(len(COCO17), regressor.shape[1])
    for row, name in zip(rows, COCO17.names, strict=True):
        if name in face:
            row[face[name]] = 1
        else:
            row[:] = regressor[SMPL24.index(name)]
    return rows


def _check_sizes(body: Body, transfer: Tensor, neutral: SmplBody, h36m: Tensor) -> None:
    count, ours = len(neutral.template), len(body.template)
    expected = {"the matrix from SMPL-X": (count, ours), "the regressor of Human3.6M": (17, count)}
    for (what, shape), got in zip(expected.items(), (transfer, h36m), strict=True):
        if tuple(got.shape) != shape:
            raise ValueError(
                f"{what} must have shape {shape}, for body {body.name} and SMPL with {count} "
                f"vertices; got {tuple(got.shape)}. Usual cause: the open body, which has "
                "other vertices than SMPL-X"
            )


def load_yardstick(
    *,
    root: Path = LICENSED,
    dtype: torch.dtype = torch.float32,
    vertices: int = VERTICES,
    smplx_vertices: int = SMPLX_VERTICES,
    face: Mapping[str, int] = FACE,
) -> Yardstick:
    """Read everything from the licensed folder (other sizes are for tests)."""
    body = load_body(find(root, *SMPLX_BODY), dtype=dtype)
    smpl = load_bodies(root=root, vertices=vertices, dtype=dtype)
    matrix = existing(root / "utils/smplx2smpl.pkl")
    transfer = read_transfer(matrix, vertices=vertices, smplx_vertices=smplx_vertices)
    regressor = existing(root / "utils/J_regressor_h36m.npy")
    h36m = read_h36m_regressor(regressor, vertices=vertices)
    return Yardstick(body, transfer, smpl, h36m, face=face)


# ------------------------------------------------------------------------- labels


@dataclass(frozen=True)
class Truth:
    """Labels of some people."""

    source: str  # "3DPW" or "EMDB": which joints
    seen: Batch  # what the network was shown
    joints: Float[Tensor, "batch joints 3"]  # about the root
    vertices: Float[Tensor, "batch vertices 3"]  # of SMPL, about the root
    coco17: Float[Tensor, "batch 17 3"]  # about the root
    keypoints: Float[Tensor, "batch 17 2"]  # in the crop
    visible: Bool[Tensor, "batch 17"]  # the detector is confident
    mask: Bool[Tensor, "batch rows rows"] | None  # of the person, in the crop
    counted: Bool[Tensor, "batch 17"]  # joints that should lie on the mask


def truth_of(
    people: Annotations,
    seen: Batch,
    yardstick: Yardstick,
    mask: Bool[Tensor, "batch rows rows"] | None = None,
) -> Truth:
    """Collect the labels: SMPL's bodies of everybody's gender, 2D joints, visibility."""
    source, device = data_set(people.name).source, seen.box.device
    like = yardstick.h36m
    rotations = rotvec_to_matrix(people.pose.to(like))
    vertices, joints = yardstick.smpl.posed(people.gender, rotations, people.betas.to(like))
    points = torch.cat([yardstick.h36m @ vertices, joints], 1)
    joints, root = _about_root(points, source)
    visible = people.keypoints[..., 2].to(device) > measures.CERTAIN
    judged = people.mask_valid.to(device) if mask is not None else visible.new_zeros(len(people))
    return Truth(
        source=source,
        seen=seen,
        joints=joints,
        vertices=vertices - root,
        coco17=yardstick.coco17 @ vertices - root,
        keypoints=to_crop(people.true_keypoints, people.box).to(device),
        visible=visible,
        mask=None if mask is None else mask.to(device),
        counted=~visible & judged[:, None],
    )


def evaluation_masks(
    people: Annotations, *, root: Path = LICENSED
) -> Bool[Tensor, "people rows rows"] | None:
    """Read the masks of people whose mask was judged good, in their crops; None if nobody's was.

    The masks of the others are empty and not counted.
    """
    if not people.mask_valid.any():
        return None
    masks = np.zeros((len(people), EVALUATION_SIZE, EVALUATION_SIZE), bool)
    for place in people.mask_valid.nonzero()[:, 0].tolist():
        image = str(people.image[place])
        whole = read_mask(people.name, image, root=root)
        masks[place] = evaluation_crop(whole, people.box[place])
        if not masks[place].any():
            raise ValueError(
                f"the mask of {image} holds nobody in the box of row {int(people.row[place])} of "
                f"{people.name}. Usual cause: masks of another preparation"
            )
    return torch.from_numpy(masks)


def _about_root(points: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """Joints of a data set about their root, and the root, from Human3.6M's and SMPL's joints."""
    if source == "3DPW":
        root = points[..., H36M, :][..., :1, :]
        joints = points[..., H36M, :][..., list(COMMON14_FROM_H36M), :]
    else:
        joints = points[..., SMPL, :]
        root = joints[..., list(HIPS), :].mean(-2, keepdim=True)
    return joints - root, root


# ------------------------------------------------------------------------- hypotheses


@dataclass(frozen=True)
class Forecast:
    """What is kept of the hypotheses, the mode first: joints and errors, never all meshes."""

    joints: Float[Tensor, "batch hypotheses joints 3"]  # about the root
    coco17: Float[Tensor, "batch hypotheses 17 3"]  # in camera space
    errors: Float[Tensor, "batch hypotheses 3"]  # `KINDS`, metres
    mean_vertices: Float[Tensor, "batch vertices 3"]  # over the hypotheses that count
    include_z0: bool  # whether the mode counts as one of the hypotheses

    @property
    def counted(self) -> slice:
        """The hypotheses among which the best is looked for."""
        return slice(0 if self.include_z0 else 1, None)

    @property
    def random(self) -> slice:
        """The random hypotheses: all but the first, unless it is the only one."""
        return slice(min(1, self.errors.shape[1] - 1), None)


@torch.no_grad()
def forecast(
    pieces: Iterable[People], truth: Truth, yardstick: Yardstick, *, include_z0: bool = True
) -> Forecast:
    """Measure hypotheses as they come, in pieces of any number; the first one is the mode."""
    parts, total, counted = [], torch.zeros_like(truth.vertices), 0
    for people in pieces if include_z0 else _mode_apart(pieces):
        *kept, added = _measured(people, truth, yardstick)
        if include_z0 or parts:  # else it is the mode alone
            total += added
            counted += people.sixd.shape[1]
        parts.append(kept)
    joints, coco, errors = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Forecast(joints, coco, errors, total / counted, include_z0)


def _mode_apart(pieces: Iterable[People]) -> Iterator[People]:
    """Give the first hypothesis by itself."""
    for place, people in enumerate(pieces):
        if place == 0:
            yield people[:, :1]
        rest = people[:, 1:] if place == 0 else people
        if rest.sixd.shape[1]:
            yield rest


def _measured(
    people: People, truth: Truth, yardstick: Yardstick
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Joints, COCO-17 and errors of some hypotheses, and the sum of their surfaces."""
    body, like = yardstick.body, yardstick.h36m
    betas, translation = (each.to(like) for each in measures.of_image(people))
    rotations = people.rotations.to(like)
    points = body.regress(yardstick.points, rotations, betas[:, None])
    joints, root = _about_root(points, truth.source)
    surface, total = torch.empty_like(joints[..., 0, 0]), torch.empty_like(truth.vertices)
    for image, target in enumerate(truth.vertices):
        surface[image], total[image] = transferred_errors(
            body,
            yardstick.transfer,
            yardstick.chosen,
            rotations[image],
            betas[image],
            -root[image, :, 0],
            target,
        )
    target = truth.joints[:, None]
    errors = [metrics.mpjpe(joints, target), metrics.pa_mpjpe(joints, target), surface]
    coco = points[..., COCO, :] + translation[:, None, None]
    return joints, coco, torch.stack(errors, -1), total


# ------------------------------------------------------------------------- columns


def accuracy(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE and PVE in mm, picked as in `measures.accuracy`."""
    whole = dict(zip(KINDS, (1e3 * drawn.errors).unbind(-1), strict=True))
    errors = {name: error[:, drawn.counted] for name, error in whole.items()}
    joints = drawn.joints[:, drawn.counted]
    surface = metrics.pve(drawn.mean_vertices, truth.vertices)
    mean = measures.mean_errors(joints, truth.joints, surface)
    random = drawn.random if drawn.include_z0 else slice(None)
    columns = measures.summaries(errors, mean, metrics.medoid(joints), random)
    return columns | {f"{name}_mode": error[:, 0] for name, error in whole.items()}


def consistency(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """2D error, spread, PercIn and MinDist per image, with the numbers of joints behind them.

    2D errors (pixels of 256) are of joints that the detector is confident of, against the labels;
    "samples" leaves the mode out. The spread (mm) and the distances to the mask are of all
    hypotheses that count. `visible`, `hidden` and `counted` joints weigh an image in the official
    averages; `counted` are hidden joints of people with a good mask, wherever they project to.
    """
    pixels = projected(drawn.coco17, truth.seen)
    error = measures.PIXELS / 2 * metrics.joint_distance(pixels, truth.keypoints[:, None])
    hypotheses = pixels[:, drawn.counted]
    distance = torch.full_like(hypotheses[..., 0], torch.nan)
    if truth.mask is not None:
        distance = measures.mask_distances(hypotheses + _HALF, truth.mask)
    columns = measures.agreement(
        mode=error[:, 0],
        samples=error[:, drawn.random].mean(1),
        spread=1e3 * metrics.spread(drawn.coco17[:, drawn.counted]),
        distance=distance,
        visible=truth.visible,
        hidden=~truth.visible,
        counted=truth.counted,
    )
    numbers = {"visible": truth.visible, "hidden": ~truth.visible, "counted": truth.counted}
    return columns | {name: joints.sum(-1) for name, joints in numbers.items()}
