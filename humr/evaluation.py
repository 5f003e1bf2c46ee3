"""Run a model over records and measure it: one row per image, lengths in mm, pixels of 256."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from humr import metrics
from humr.bodies import Body
from humr.calibration import quantile
from humr.datasets import Batch, Records, unpack_mask
from humr.mesh import Humr, Hypotheses, People, to_crop
from humr.rotations import matrix_to_sixd
from humr.scenes import OUTSIDE, VISIBLE
from humr.skeletons import BLAZEPOSE33, COCO17, COCO17_FROM_BLAZEPOSE, COMMON14

PIXELS = 256  # side of the box in which image errors are counted (HuMR, supplement)
HIPS = COMMON14.indices(["left_hip", "right_hip"])
LIMBS = tuple(range(5, 17))  # of COCO-17: what the detector's own 3D landmarks share with ours


@dataclass(frozen=True)
class Truth:
    """Labels and evaluation-only facts of a batch."""

    batch: Batch
    people: People
    visible: Bool[Tensor, "batch 17"]
    hidden: Bool[Tensor, "batch 17"]  # by the body itself, by an object, or outside
    covered: Bool[Tensor, "batch 17"]  # hidden, but inside the photograph
    silhouette: Bool[Tensor, "batch rows columns"]  # person or object: where a joint may be


def truth_of(records: Records, batch: Batch) -> Truth:
    """Collect what the renderer knows."""
    people = People(matrix_to_sixd(batch.rotations), batch.betas, batch.translation)
    visible = records.visibility == VISIBLE
    covered = ~visible & (records.visibility != OUTSIDE)
    silhouette = unpack_mask(records.person) | unpack_mask(records.occluder)
    return Truth(batch, people, visible, ~visible, covered, silhouette)


def evaluate(
    model: Humr,
    body: Body,
    records: Records,
    *,
    hypotheses: int,
    seed: int = 0,
    batch: int = 20,
) -> pd.DataFrame:
    """Measure the posterior of every image; the mode is one of the `hypotheses` (as in HuMR)."""
    if hypotheses < 2:
        raise ValueError(f"hypotheses must be at least 2, the mode and a sample; got {hypotheses}")
    generator = torch.Generator().manual_seed(seed)
    device = model.flow.mean.device
    rows = []
    for start in tqdm(range(0, len(records), batch), desc="evaluation", mininterval=2):
        part = records[slice(start, start + batch)]
        inputs = part.batch(samples=1, generator=generator).to(device)
        drawn = model.sample(inputs, hypotheses - 1, generator=generator)
        truth = truth_of(part.to(device), inputs)
        columns = {
            **accuracy(drawn, truth, body),
            **consistency(drawn, truth, body),
            **calibration(drawn, truth, body),
            **peer(part.to(device), drawn, truth, body),
        }
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        frame.insert(0, "image", range(start, start + len(frame)))
        frame["template"], frame["truncated"] = part.template.numpy(), part.truncated.numpy()
        frame["hidden"] = truth.hidden.sum(-1).cpu().numpy()
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def _all(drawn: Hypotheses) -> People:
    """Mode first, then the samples, as one axis."""
    mode, samples = drawn.mode, drawn.samples
    return People(
        torch.cat([mode.sixd[:, None], samples.sixd], 1),
        torch.cat([mode.betas[:, None], samples.betas], 1),
        torch.cat([mode.translation[:, None], samples.translation], 1),
    )


def accuracy(drawn: Hypotheses, truth: Truth, body: Body) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE, PVE of the mode and the best of all; energy score (common 14 joints)."""
    everyone = _all(drawn)
    joints = everyone.keypoints(body, "common14")
    target = truth.people.keypoints(body, "common14")
    roots = joints[..., list(HIPS), :].mean(-2, keepdim=True)
    target_root = target[..., list(HIPS), :].mean(-2, keepdim=True)
    joints, target = joints - roots, target - target_root
    vertices = truth.people.vertices(body) - target_root
    count = joints.shape[1]
    errors = {
        "mpjpe": metrics.mpjpe(joints, target[:, None]),
        "pa_mpjpe": metrics.pa_mpjpe(joints, target[:, None]),
        "pve": torch.stack(
            [
                metrics.pve(everyone[:, i].vertices(body) - roots[:, i], vertices)
                for i in range(count)
            ],
            1,
        ),
    }
    result = {f"{name}_mode": 1e3 * e[:, 0] for name, e in errors.items()}
    result |= {f"{name}_best": 1e3 * e.amin(-1) for name, e in errors.items()}
    result |= {f"{name}_sample": 1e3 * e[:, 1:].mean(-1) for name, e in errors.items()}
    result["energy_score"] = 1e3 * metrics.energy_score(joints[:, 1:], target)
    return result


def consistency(drawn: Hypotheses, truth: Truth, body: Body) -> dict[str, Tensor]:
    """2D error on visible joints, spread, and how many hidden joints stay on the silhouette.

    The last (PercIn, MinDist) are of joints that are hidden inside the photograph: one outside it
    cannot lie on the silhouette. Distances up to 0.71 pixels of the stored mask count as 0.
    """
    everyone = _all(drawn)
    points = everyone.keypoints(body, "coco17")
    projected = to_crop(points, truth.batch)
    target = to_crop(truth.people.keypoints(body, "coco17")[:, None], truth.batch)[:, 0]
    error = PIXELS / 2 * torch.linalg.vector_norm(projected - target[:, None], dim=-1)
    spread = 1e3 * metrics.spread(points[:, 1:])
    scale = PIXELS / truth.silhouette.shape[-1]
    distance = scale * metrics.mask_distance(projected, truth.silhouette)
    return {
        "pixels_mode": metrics.masked_mean(error[:, 0], truth.visible),
        "pixels_samples": metrics.masked_mean(error[:, 1:].mean(1), truth.visible),
        "spread_visible": metrics.masked_mean(spread, truth.visible),
        "spread_hidden": metrics.masked_mean(spread, truth.hidden),
        "percent_inside": metrics.percent_inside(distance, truth.covered),
        "mask_distance": metrics.minimum_distance(distance, truth.covered),
    }


def calibration(drawn: Hypotheses, truth: Truth, body: Body) -> dict[str, Tensor]:
    """Share of joint coordinates inside the central 50 and 90 % of the samples (ideal: .5, .9).

    The 90 % need at least 19 samples; fewer cover less, however good they are.
    """
    samples = drawn.samples.keypoints(body, "coco17")
    target = truth.people.keypoints(body, "coco17")
    pelvis = list(COCO17.indices(["left_hip", "right_hip"]))
    samples = samples - samples[..., pelvis, :].mean(-2, keepdim=True)
    target = target - target[..., pelvis, :].mean(-2, keepdim=True)
    result = {}
    for level in (50, 90):
        tail = (1 - level / 100) / 2
        low, high = quantile(samples, tail), quantile(samples, 1 - tail)
        inside = ((target >= low) & (target <= high)).to(samples.dtype)
        for name, axes in (("xy", slice(0, 2)), ("z", slice(2, 3))):
            share = inside[..., axes].mean(-1)
            result[f"cover{level}_{name}_visible"] = metrics.masked_mean(share, truth.visible)
            result[f"cover{level}_{name}_hidden"] = metrics.masked_mean(share, truth.hidden)
    return result


def peer(records: Records, drawn: Hypotheses, truth: Truth, body: Body) -> dict[str, Tensor]:
    """PA-MPJPE over the 12 limb joints: our mode and the detector's own 3D landmarks."""
    chosen = [COCO17_FROM_BLAZEPOSE[i] for i in LIMBS]
    assert len(BLAZEPOSE33) == records.world_landmarks.shape[1]
    target = truth.people.keypoints(body, "coco17")[:, list(LIMBS)]
    ours = drawn.mode.keypoints(body, "coco17")[:, list(LIMBS)]
    theirs = records.world_landmarks[:, chosen]
    return {
        "pa_limbs_mode": 1e3 * metrics.pa_mpjpe(ours, target),
        "pa_limbs_detector": 1e3 * metrics.pa_mpjpe(theirs, target),
    }


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over images; images without the quantity (NaN) are left out."""
    numeric = rows.drop(columns=["image", "template"]).astype(float)
    return {str(name): round(float(value), 4) for name, value in numeric.mean().items()}


def energy_of(
    drawn: Hypotheses, batch: Batch, body: Body
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Energy score and MPJPE of the mode in metres: the two numbers that validation watches."""
    target = body.keypoints(batch.rotations, batch.betas, "common14")
    target = metrics.centre(target, HIPS)
    samples = metrics.centre(drawn.samples.keypoints(body, "common14"), HIPS)
    mode = metrics.centre(drawn.mode.keypoints(body, "common14"), HIPS)
    return metrics.energy_score(samples, target), metrics.mpjpe(mode, target)
