"""What is measured of an image's hypotheses: every function returns columns, a value per image.

The first hypothesis is the mode. Best, worst, mean and median are over all of them (HuMR counts
the mode among its hundred); whatever describes the distribution (`sample`, scores, spread,
coverage, ranks) is over the random ones. A single hypothesis, the mode, stands for both: a point
forecast, whose energy score is its MPJPE, with spread 0 and intervals that hold nothing.
Lengths are in millimetres, image errors in pixels of a box of 256.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr import metrics
from humr.bodies import Body
from humr.calibration import quantile, rank
from humr.datasets import Batch, Records, unpack_mask
from humr.mesh import People, to_crop
from humr.rotations import matrix_to_sixd
from humr.scenes import OUTSIDE, VISIBLE
from humr.skeletons import COCO17, COCO17_FROM_BLAZEPOSE, COMMON14
from humr.surface import surface_errors, vertex_weights

PIXELS = 256  # side of the box in which image errors are counted (HuMR, supplement)
CERTAIN = 0.5  # a joint counts as visible in HuMR's tables above this confidence of the detector
PIECE = 128  # hypotheses whose image errors are computed at once
HIPS = COMMON14.indices(["left_hip", "right_hip"])
COCO_HIPS = COCO17.indices(["left_hip", "right_hip"])
LIMBS = tuple(range(5, 17))  # of COCO-17: what the detector's own 3D landmarks share with ours
RANKED = COCO17.indices([f"{side}_{part}" for part in ("wrist", "ankle")
                         for side in ("left", "right")])  # fmt: skip
KINDS: tuple[str, ...] = ("mpjpe", "pa_mpjpe", "pve", "wpve")


@dataclass(frozen=True)
class Truth:
    """Labels and evaluation-only facts of a batch."""

    batch: Batch
    seen: Batch  # what the network was shown: differs if it is not told the focal length
    records: Records
    common14: Float[Tensor, "batch 14 3"]  # about the middle of the hips
    coco17: Float[Tensor, "batch 17 3"]  # in camera space
    vertices: Float[Tensor, "batch vertices 3"]  # about the middle of the hips
    visible: Bool[Tensor, "batch 17"]
    hidden: Bool[Tensor, "batch 17"]  # by the body itself, by an object, or outside
    covered: Bool[Tensor, "batch 17"]  # hidden, but inside the photograph
    silhouette: Bool[Tensor, "batch rows columns"]  # person or object: where a joint may be

    @property
    def certain(self) -> Bool[Tensor, "batch 17"]:
        """Joints that HuMR's tables call visible: the detector is confident of them."""
        return self.batch.keypoints[..., 2] > CERTAIN


def truth_of(records: Records, batch: Batch, body: Body, seen: Batch | None = None) -> Truth:
    """Collect what the renderer knows."""
    people = People(matrix_to_sixd(batch.rotations), batch.betas, batch.translation)
    common = people.keypoints(body, "common14")
    visible = records.visibility == VISIBLE
    return Truth(
        batch=batch,
        seen=batch if seen is None else seen,
        records=records,
        common14=metrics.centre(common, HIPS),
        coco17=people.keypoints(body, "coco17"),
        vertices=people.vertices(body) - common[:, list(HIPS)].mean(1, keepdim=True),
        visible=visible,
        hidden=~visible,
        covered=~visible & (records.visibility != OUTSIDE),
        silhouette=unpack_mask(records.person) | unpack_mask(records.occluder),
    )


@dataclass(frozen=True)
class Forecast:
    """What is kept of a batch's hypotheses, the mode first: joints and errors, never vertices."""

    common14: Float[Tensor, "batch hypotheses 14 3"]  # about the middle of the hips
    coco17: Float[Tensor, "batch hypotheses 17 3"]  # in camera space
    errors: Float[Tensor, "batch hypotheses 4"]  # `KINDS`, metres
    mean_vertices: Float[Tensor, "batch vertices 3"]  # over the hypotheses

    @property
    def random(self) -> slice:
        """The random hypotheses: all but the first, unless it is the only one."""
        return slice(min(1, self.errors.shape[1] - 1), None)


@torch.no_grad()
def forecast(pieces: Iterable[People], truth: Truth, body: Body) -> Forecast:
    """Measure hypotheses as they come, in pieces of any number; the first one is the mode."""
    weights = vertex_weights(body)
    common, coco, errors = [], [], []
    total = torch.zeros_like(truth.vertices)
    for people in pieces:
        betas, translation = of_image(people)
        rotations = people.rotations
        placed = translation[:, None, None]
        joints = body.keypoints(rotations, betas[:, None], "common14") + placed
        coco.append(body.keypoints(rotations, betas[:, None], "coco17") + placed)
        root = joints[..., list(HIPS), :].mean(-2)
        joints = joints - root[..., None, :]
        surface, added = surface_errors(
            body, rotations, betas, translation[:, None] - root, truth.vertices, weights
        )
        target = truth.common14[:, None]
        pose = [metrics.mpjpe(joints, target), metrics.pa_mpjpe(joints, target)]
        errors.append(torch.cat([torch.stack(pose, -1), surface], -1))
        common.append(joints)
        total += added
    whole = torch.cat(errors, 1)
    return Forecast(torch.cat(common, 1), torch.cat(coco, 1), whole, total / whole.shape[1])


def of_image(
    people: People,
) -> tuple[Float[Tensor, "batch betas"], Float[Tensor, "batch 3"]]:
    """Return shape and camera of every image, which its hypotheses must share."""
    betas, translation = people.betas[:, :1], people.translation[:, :1]
    if not ((people.betas == betas).all() and (people.translation == translation).all()):
        raise ValueError("the hypotheses of an image must share betas and translation; these vary")
    return betas[:, 0], translation[:, 0]


def accuracy(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE, PVE of the mode, of single hypotheses, and picked in hindsight.

    Joint errors are of the common 14 joints. The best and the worst are taken for each error by
    itself. The mean is of points, not of rotations; the median is the hypothesis that is nearest
    to all others (`metrics.medoid`). `wpve` weights the vertices by area.
    """
    errors = dict(zip(KINDS, (1e3 * drawn.errors).unbind(-1), strict=True))
    mean = mean_errors(
        drawn.common14, truth.common14, metrics.pve(drawn.mean_vertices, truth.vertices)
    )
    return summaries(errors, mean, metrics.medoid(drawn.common14), drawn.random)


def mean_errors(
    joints: Float[Tensor, "batch hypotheses joints 3"],
    target: Float[Tensor, "batch joints 3"],
    surface: Float[Tensor, " batch"],
) -> dict[str, Tensor]:
    """Errors of the mean of the hypotheses, mm; that of the mean surface is given in metres."""
    mean = metrics.mean_pose(joints)
    return {
        "mpjpe": 1e3 * metrics.mpjpe(mean, target),
        "pa_mpjpe": 1e3 * metrics.pa_mpjpe(mean, target),
        "pve": 1e3 * surface,
    }


def summaries(
    errors: dict[str, Tensor],
    mean: dict[str, Tensor],
    medoid: Int[Tensor, " batch"],
    random: slice,
) -> dict[str, Tensor]:
    """Columns of errors (batch, hypotheses), the mode first; all kinds of them where `mean` is."""
    middle = medoid[:, None]
    result = {f"{name}_mode": e[:, 0] for name, e in errors.items()}
    result |= {f"{name}_best": e.amin(-1) for name, e in errors.items()}
    for name, of_mean in mean.items():
        error = errors[name]
        result[f"{name}_sample"] = error[:, random].mean(-1)
        result[f"{name}_mean"] = of_mean
        result[f"{name}_median"] = error.gather(1, middle)[:, 0]
        result[f"{name}_worst"] = error.amax(-1)
    return result


def scores(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Energy scores: of the common 14 joints one by one, as a whole, and by visibility.

    The last two are of COCO-17 joints with the hips' middle at the origin, truly visible or
    hidden; NaN in images without such joints.
    """
    samples = drawn.common14[:, drawn.random]
    coco = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    by_joint = metrics.energy_score_by_joint(coco, metrics.centre(truth.coco17, COCO_HIPS))
    return {
        "energy_score": 1e3 * metrics.energy_score(samples, truth.common14),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(samples, truth.common14),
        "energy_visible": 1e3 * metrics.masked_mean(by_joint, truth.visible),
        "energy_hidden": 1e3 * metrics.masked_mean(by_joint, truth.hidden),
    }


def consistency(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """2D error on visible joints, spread, and how many hidden joints stay on the silhouette.

    Twice. By what the renderer knows: PercIn and MinDist are then of joints that are hidden inside
    the photograph, since one outside it cannot lie on the silhouette. And, named `paper_`, by
    HuMR's rule: visible is what the detector is confident of; PercIn and MinDist are of all
    others, wherever they are, in images that have at least two; `paper_hidden` counts them (HuMR
    averages over joints of all images, tables here over images). Distances up to 0.71 pixels of
    the stored mask count as 0. Joints are in camera space, as in HuMR.
    """
    projected = to_crop(drawn.coco17, truth.seen)
    target = to_crop(truth.coco17, truth.batch)
    error = PIXELS / 2 * metrics.joint_distance(projected, target[:, None])
    facts = {
        "mode": error[:, 0],
        "samples": error[:, drawn.random].mean(1),
        "spread": 1e3 * metrics.spread(drawn.coco17[:, drawn.random]),
        "distance": mask_distances(projected, truth.silhouette),
    }
    unsure = ~truth.certain
    counted = unsure & (unsure.sum(-1, keepdim=True) >= 2)
    paper = agreement(**facts, visible=truth.certain, hidden=unsure, counted=counted)
    ours = agreement(**facts, visible=truth.visible, hidden=truth.hidden, counted=truth.covered)
    paper["hidden"] = unsure.sum(-1)
    return ours | {f"paper_{name}": value for name, value in paper.items()}


def mask_distances(
    projected: Float[Tensor, "batch hypotheses joints 2"], mask: Bool[Tensor, "batch rows rows"]
) -> Float[Tensor, "batch hypotheses joints"]:
    """Distances to the mask in pixels of 256, a piece of the hypotheses at a time."""
    pieces = [metrics.mask_distance(piece, mask) for piece in projected.split(PIECE, 1)]
    return PIXELS / mask.shape[-1] * torch.cat(pieces, 1)


def agreement(
    *,
    mode: Float[Tensor, "batch joints"],
    samples: Float[Tensor, "batch joints"],
    spread: Float[Tensor, "batch joints"],
    distance: Float[Tensor, "batch hypotheses joints"],
    visible: Bool[Tensor, "batch joints"],
    hidden: Bool[Tensor, "batch joints"],
    counted: Bool[Tensor, "batch joints"],
) -> dict[str, Tensor]:
    """Columns of Table 2 of the paper, under one meaning of visible."""
    return {
        "pixels_mode": metrics.masked_mean(mode, visible),
        "pixels_samples": metrics.masked_mean(samples, visible),
        "spread_visible": metrics.masked_mean(spread, visible),
        "spread_hidden": metrics.masked_mean(spread, hidden),
        "percent_inside": metrics.percent_inside(distance, counted),
        "mask_distance": metrics.minimum_distance(distance, counted),
    }


def calibration(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Coverage and ranks of COCO-17 coordinates with the hips' middle at the origin.

    `cover`: share of joint coordinates inside the central 50 and 90 % of the samples (ideal: .5,
    .9). The 90 % need at least 19 samples; fewer cover less, however good they are.
    `rank`: number of samples below the truth, in camera axes (ideal: uniform over images).
    """
    samples = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    target = metrics.centre(truth.coco17, COCO_HIPS)
    return coverage(samples, target, truth.visible, truth.hidden) | ranks(samples, target)


def coverage(
    samples: Float[Tensor, "batch hypotheses 17 3"],
    target: Float[Tensor, "batch 17 3"],
    visible: Bool[Tensor, "batch 17"],
    hidden: Bool[Tensor, "batch 17"],
) -> dict[str, Tensor]:
    """Share of coordinates inside the central 50 and 90 % of the samples, by visibility."""
    result = {}
    for level in (50, 90):
        tail = (1 - level / 100) / 2
        low, high = quantile(samples, tail), quantile(samples, 1 - tail)
        inside = ((target >= low) & (target <= high)).to(samples.dtype)
        for name, axes in (("xy", slice(0, 2)), ("z", slice(2, 3))):
            share = inside[..., axes].mean(-1)
            result[f"cover{level}_{name}_visible"] = metrics.masked_mean(share, visible)
            result[f"cover{level}_{name}_hidden"] = metrics.masked_mean(share, hidden)
    return result


def ranks(
    samples: Float[Tensor, "batch hypotheses 17 3"], target: Float[Tensor, "batch 17 3"]
) -> dict[str, Tensor]:
    """Count the samples below the truth, of wrists and ankles, in camera axes."""
    found = rank(samples[:, :, list(RANKED)], target[:, list(RANKED)])
    return {
        f"rank_{COCO17.names[joint]}_{name}": found[:, place, axis]
        for place, joint in enumerate(RANKED)
        for axis, name in enumerate("xyz")
    }


def peer(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """PA-MPJPE over the 12 limb joints: our mode and the detector's own 3D landmarks."""
    chosen = [COCO17_FROM_BLAZEPOSE[i] for i in LIMBS]
    target = truth.coco17[:, list(LIMBS)]
    ours, theirs = drawn.coco17[:, 0, list(LIMBS)], truth.records.world_landmarks[:, chosen]
    return {
        "pa_limbs_mode": 1e3 * metrics.pa_mpjpe(ours, target),
        "pa_limbs_detector": 1e3 * metrics.pa_mpjpe(theirs, target),
    }
