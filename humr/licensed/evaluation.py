r"""HuMR on 3DPW and EMDB as the official code measures it: one row per person.

The network's bodies are SMPL-X, the labels SMPL. A matrix $T$ takes vertices of SMPL-X to SMPL's,
and every point is taken from that mesh: Human3.6M's joints (3DPW), SMPL's joints by the neutral
regressor (EMDB), COCO-17 for 2D errors and spread (SMPL's joints and five vertices of the face).
A regressor $R$ of them is one of SMPL-X, $R\,T$, which is folded with the skinning (`bodies`).

| | joints | about | labels |
|---|---|---|---|
| 3DPW | 14 of Human3.6M's | its pelvis | regressed from the labelled mesh |
| EMDB | SMPL's 24 | middle of the hips | the labelled body's posed joints |

Both meshes are moved by the same root for PVE. Errors are minimised one by one over hypotheses.

Rows have the columns of the open world's, so that notebooks read both alike:

- `dataset` names the test set, 3DPW or EMDB (`data_set`: its file; `merge_occluded`);
- `image` is a number that no other person of any set has (`row`: that in the annotations);
- visible are joints that the detector is confident of, under both names that a column has
  (`spread_hidden`, `paper_spread_hidden`): nobody knows which joints of a photograph are hidden;
- what is unknown is NaN: likelihoods of labels, which are poses of another body; errors weighted
  by area; the detector's own landmarks; template and truncation of rendered people.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from humr import evaluation, metrics
from humr.batches import Batch
from humr.bodies.body import Body, load_body
from humr.bodies.surface import transferred_errors
from humr.evaluation import (
    BODIES,
    Forecast,
    accuracy,
    best_of_n,
    calibration,
    largest_count,
    log_volume,
    scores,
    table,
)
from humr.files import existing, find
from humr.geometry import box_info, default_focal, rotvec_to_matrix
from humr.licensed.datasets import (
    DATASETS,
    FIRST,
    LICENSED,
    OCCLUDED,
    ON_MASK,
    SMPLX_BODY,
    TEST,
    WHOLE,
    data_set,
)
from humr.licensed.images import EVALUATION_SIZE, box_coordinates, evaluation_crop, read_mask
from humr.licensed.people import Annotations
from humr.licensed.smpl import (
    SMPL24,
    SMPLX_VERTICES,
    VERTICES,
    SmplBodies,
    SmplBody,
    load_bodies,
    read_h36m_regressor,
    read_transfer,
)
from humr.model import Humr, Observation, People
from humr.skeletons import COCO17, COMMON14, H36M17

FOCAL = ("diagonal", "given")
SAME = 1e-2  # px by which the boxes of a batch may differ from those of its annotations
# Columns of the open world's rows that photographs have not.
UNKNOWN = ("nll", "wpve_mode", "wpve_best", "pa_limbs_mode", "pa_limbs_detector", "template",
           "truncated")  # fmt: skip
_ABOUT = ("variant", "seed", "key", "seconds", "steps", "dataset", "data_set", "image", "row",
          "photograph", "hypotheses")  # fmt: skip
_ON_MASK = (*ON_MASK, *(f"paper_{name}" for name in ON_MASK))

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
HALF_PIXEL = 1 / EVALUATION_SIZE

# ------------------------------------------------------------------------- rows


@torch.no_grad()
def evaluate(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    evaluator: "SmplEvaluator",
    *,
    hypotheses: int = 100,
    seed: int = 0,
    focal: str = "diagonal",
    root: Path = LICENSED,
) -> pd.DataFrame:
    """Measure the posterior of every person of a test set.

    Args:
        model: in evaluation mode; everything happens on its device.
        pairs: what the network sees, and the labels of the same people.
        evaluator: from `load_evaluator`.
        hypotheses: among which the best is looked for, the mode first.
        seed: of the random hypotheses.
        focal: "diagonal" takes the photograph's diagonal whatever is known (official), "given"
            the batch's focal length.
        root: the licensed folder, for masks of people (`emdb-p1-occl`).
    """
    return table(
        {
            **_about(people),
            "hypotheses": hypotheses,
            **accuracy(drawn, truth),
            **consistency(drawn, truth),
            **scores(drawn, truth),
            **calibration(drawn, truth),
            "log_det": log_volume(model, observation),
            **dict.fromkeys(UNKNOWN, np.nan),
        }
        for drawn, truth, observation, people in _forecasts(
            model, pairs, evaluator, hypotheses, seed, focal, root
        )
    )


@torch.no_grad()
def curve(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    evaluator: "SmplEvaluator",
    counts: Sequence[int],
    *,
    seed: int = 0,
    focal: str = "diagonal",
    root: Path = LICENSED,
) -> pd.DataFrame:
    """Measure the best of n and the energy score for every n in `counts`: a row per person and n.

    The energy score is that of n hypotheses without the mode, which stands alone for n = 1.
    """
    parts = _forecasts(model, pairs, evaluator, largest_count(counts), seed, focal, root)
    return table(
        {
            **_about(people),
            **best_of_n(drawn, n),
            "energy_score": _energy(drawn, truth, n),
            "n": n,
        }
        for drawn, truth, _, people in parts
        for n in counts
    )


def _energy(drawn: Forecast, truth: "Truth", n: int) -> Tensor:
    if n == 1:
        return 1e3 * drawn.errors[:, 0, 0]
    if n == 2:
        return torch.full_like(drawn.errors[:, 0, 0], torch.nan)
    return 1e3 * metrics.energy_score(drawn.joints[:, 1:n], truth.joints)


def _about(people: Annotations) -> dict[str, Any]:
    """Columns that say who somebody is."""
    return {
        "data_set": people.name,
        "dataset": DATASETS[people.name],
        "image": people.row + FIRST * TEST.index(people.name),
        "row": people.row,
        "photograph": people.image,
    }


def merge_occluded(rows: pd.DataFrame) -> pd.DataFrame:
    """Count EMDB's occluded people among all of EMDB, where they have all other values.

    Their PercIn and MinDist move there, which all others lack. Those who are not among the people
    of EMDB that were tested keep a row of their own, and no other value. Rows have the columns
    `variant` and `seed`; photographs of EMDB show one annotated person each.
    """
    keys, on_mask = ["variant", "seed", "photograph"], list(_ON_MASK)
    occluded = rows["data_set"] == OCCLUDED
    whole = (rows["data_set"] == WHOLE) & ~rows.duplicated(["data_set", *keys], keep=False)
    theirs = rows.loc[occluded].drop_duplicates(keys).set_index(keys)[on_mask]
    places = pd.MultiIndex.from_arrays([rows[name] for name in keys], names=keys)
    known = whole & places.isin(theirs.index)
    merged = rows.copy()
    merged.loc[known, on_mask] = theirs.reindex(places[known]).to_numpy()
    gone = occluded & places.isin(places[known])
    merged = merged.loc[~gone].reset_index(drop=True)
    if WHOLE in set(merged["data_set"]):
        others = merged.columns.difference([*_ABOUT, *on_mask])
        merged[others] = merged[others].mask(merged["data_set"] == OCCLUDED)
    return merged


def _forecasts(
    model: Humr,
    pairs: Iterable[tuple[Batch, Annotations]],
    evaluator: "SmplEvaluator",
    hypotheses: int,
    seed: int,
    focal: str,
    root: Path,
) -> Iterator[tuple[Forecast, "Truth", Observation, Annotations]]:
    """Draw and measure the hypotheses of some people at a time, fewer if there are many."""
    if hypotheses < 1:
        raise ValueError(f"hypotheses must be at least 1; got {hypotheses}")
    if focal not in FOCAL:
        raise ValueError(f"focal must be one of {', '.join(FOCAL)}; got {focal!r}")
    if model.training:
        raise ValueError("the network is in training mode, its dropout is on: call model.eval()")
    device = model.flow.mean.device
    generator, evaluator = torch.Generator().manual_seed(seed), evaluator.to(device)
    size = max(1, BODIES // hypotheses)
    for batch, people in tqdm(pairs, desc="evaluation", mininterval=2):
        _check_pair(model, batch, people)
        for start in range(0, len(batch), size):
            here = slice(start, start + size)
            some, seen = people[here], batch[here]
            seen = (with_diagonal(seen) if focal == "diagonal" else seen).to(device)
            truth = truth_of(some, seen, evaluator, evaluation_masks(some, root=root))
            observation = model.observe(seen)
            pieces = model.stream(observation, hypotheses, generator, piece=evaluation.PIECE)
            yield forecast(pieces, truth, evaluator), truth, observation, some


def _check_pair(model: Humr, batch: Batch, people: Annotations) -> None:
    if len(batch) != len(people):
        raise ValueError(
            f"a batch and its annotations must be of the same people; got {len(batch)} and "
            f"{len(people)}"
        )
    if data_set(people.name).split != "test":
        raise ValueError(f"{people.name} is for training; only test sets have SMPL's labels")
    distance = (batch.box.cpu() - people.box).abs().max()
    if distance > SAME:
        raise ValueError(
            f"boxes of the batch and of its annotations must agree; they differ by {distance:.3g} "
            "px. Usual cause: boxes that were varied for training, or rows in another order"
        )
    expected, got = len(model.encoder.feature_mean), batch.features.shape[1]
    if expected != got:
        raise ValueError(f"the network reads {expected} image features; the batch holds {got}")


def with_diagonal(batch: Batch) -> Batch:
    """Show the network and the camera the photograph's diagonal as focal length."""
    focal, box = default_focal(batch.image_size), batch.box
    info = box_info(box[:, :2], box[:, 2], focal, batch.image_size)
    return replace(batch, focal=focal, box_info=info)


# ------------------------------------------------------------------------- bodies and points


class SmplEvaluator(nn.Module):
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


def load_evaluator(
    *,
    root: Path = LICENSED,
    dtype: torch.dtype = torch.float32,
    vertices: int = VERTICES,
    smplx_vertices: int = SMPLX_VERTICES,
    face: Mapping[str, int] = FACE,
) -> SmplEvaluator:
    """Read everything from the licensed folder (other sizes are for tests)."""
    body = load_body(find(root, *SMPLX_BODY), dtype=dtype)
    smpl = load_bodies(root=root, vertices=vertices, dtype=dtype)
    matrix = existing(root / "utils/smplx2smpl.pkl")
    transfer = read_transfer(matrix, vertices=vertices, smplx_vertices=smplx_vertices)
    regressor = existing(root / "utils/J_regressor_h36m.npy")
    h36m = read_h36m_regressor(regressor, vertices=vertices)
    return SmplEvaluator(body, transfer, smpl, h36m, face=face)


# ------------------------------------------------------------------------- labels


@dataclass(frozen=True, kw_only=True)
class Truth(evaluation.Truth):
    """Labels of some people; visible are joints that the detector is confident of."""

    source: str  # "3DPW" or "EMDB": which joints
    keypoints: Float[Tensor, "batch 17 2"]  # in the crop
    mask: Bool[Tensor, "batch rows rows"] | None  # of the person, in the crop
    counted: Bool[Tensor, "batch 17"]  # joints that should lie on the mask


def truth_of(
    people: Annotations,
    seen: Batch,
    evaluator: SmplEvaluator,
    mask: Bool[Tensor, "batch rows rows"] | None = None,
) -> Truth:
    """Collect the labels: SMPL's bodies of everybody's gender, 2D joints, visibility."""
    source, device = data_set(people.name).source, seen.box.device
    like = evaluator.h36m
    rotations = rotvec_to_matrix(people.pose.to(like))
    vertices, joints = evaluator.smpl.posed(people.gender, rotations, people.betas.to(like))
    points = torch.cat([evaluator.h36m @ vertices, joints], 1)
    joints, root = _about_root(points, source)
    visible = people.keypoints[..., 2].to(device) > evaluation.CERTAIN
    judged = people.mask_valid.to(device) if mask is not None else visible.new_zeros(len(people))
    return Truth(
        source=source,
        seen=seen,
        joints=joints,
        vertices=vertices - root,
        coco17=evaluator.coco17 @ vertices - root,
        keypoints=box_coordinates(people.true_keypoints, people.box).to(device),
        visible=visible,
        hidden=~visible,
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


@torch.no_grad()
def forecast(pieces: Iterable[People], truth: Truth, evaluator: SmplEvaluator) -> Forecast:
    """Measure hypotheses as they come, in pieces of any number; the first one is the mode."""
    parts, total, count = [], torch.zeros_like(truth.vertices), 0
    for people in pieces:
        *kept, added = _measured(people, truth, evaluator)
        parts.append(kept)
        total += added
        count += people.sixd.shape[1]
    joints, coco, errors = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Forecast(joints, coco, errors, total / count)


def _measured(
    people: People, truth: Truth, evaluator: SmplEvaluator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Joints, COCO-17 and errors of some hypotheses, and the sum of their surfaces."""
    body, like = evaluator.body, evaluator.h36m
    betas, translation = (each.to(like) for each in evaluation.of_image(people))
    rotations = people.rotations.to(like)
    points = body.regress(evaluator.points, rotations, betas[:, None])
    joints, root = _about_root(points, truth.source)
    surface, total = torch.empty_like(joints[..., 0, 0]), torch.empty_like(truth.vertices)
    for image, target in enumerate(truth.vertices):
        surface[image], total[image] = transferred_errors(
            body, evaluator.transfer, evaluator.chosen,
            rotations[image], betas[image], -root[image, :, 0], target,
        )  # fmt: skip
    target = truth.joints[:, None]
    errors = [metrics.mpjpe(joints, target), metrics.pa_mpjpe(joints, target), surface]
    coco = points[..., COCO, :] + translation[:, None, None]
    return joints, coco, torch.stack(errors, -1), total


def consistency(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """2D error, spread, PercIn and MinDist per image, with the numbers of joints behind them.

    2D errors (pixels of 256) are of joints that the detector is confident of, against the labels;
    "samples" leaves the mode out. The spread (mm) and the distances to the mask are of all
    hypotheses. `visible`, `hidden` and `counted` joints weigh an image in the official averages;
    `counted` are hidden joints of people with a good mask, wherever they project to.
    """
    pixels = truth.seen.to_crop(drawn.coco17)
    error = evaluation.PIXELS / 2 * metrics.joint_distance(pixels, truth.keypoints[:, None])
    distance = torch.full_like(pixels[..., 0], torch.nan)
    if truth.mask is not None:
        distance = evaluation.mask_distances(pixels + HALF_PIXEL, truth.mask)
    joints = {"visible": truth.visible, "hidden": truth.hidden, "counted": truth.counted}
    columns = evaluation.agreement(
        mode=error[:, 0],
        samples=error[:, drawn.random].mean(1),
        spread=1e3 * metrics.spread(drawn.coco17),
        distance=distance,
        **joints,
    )
    counts = {name: each.sum(-1) for name, each in joints.items()}
    twins = {f"paper_{name}": value for name, value in columns.items()}
    return columns | twins | counts | {"paper_hidden": counts["hidden"]}
