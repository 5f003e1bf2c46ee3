r"""Data of the lifting systems: 2D poses and Gaussians from a detector, 3D poses as labels.

Coordinates are those of Wehrbein et al. (2021): camera axes with y up and z towards the camera
(y and z negated); 2D poses with y up, centred, divided by their standard deviation.

The detector has no pelvis, spine, thorax and no top of the head. They are derived: each is a
weighted sum of detected joints (`DERIVED`, the proportions of the open body at rest). Errors of
neighbouring joints go together, since whatever hides one hides the other, so that a derived joint
gets the mean covariance of its sources, not the smaller one of independent errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humr.devices import constant
from humr.skeletons import COCO17, CONDITION13, H36M17, MPII16, POSE16, Skeleton
from humr.storage import TensorRecord

DERIVED: Mapping[str, Mapping[str, float]] = {
    "pelvis": {"left_hip": 0.5, "right_hip": 0.5},
    "thorax": {"left_shoulder": 0.5, "right_shoulder": 0.5},
    "spine": {"left_hip": 0.185, "right_hip": 0.185, "left_shoulder": 0.315,
              "right_shoulder": 0.315},
    "head_top": {"left_ear": 0.79, "right_ear": 0.79, "left_shoulder": -0.29,
                 "right_shoulder": -0.29},
}  # fmt: skip
# Width in cells, by Gaussian fit and by moments, that stands for the 2 px with which the paper's
# detector was trained: most peaks of joints that ours is sure of are sharper (decisions.md, 31).
SHARP = {"fit": 1.4, "moments": 1.2}
SHARP_PIXELS = 2.0
CERTAIN = 1.05 * SHARP_PIXELS  # px; wider axes are uncertain, and doubled in the condition
AMBIGUOUS = 5.0  # px; one wider axis makes an image part of the ambiguous subset
SIGMA_RANGE = (0.2, 10.0)  # px
SIGMA_UNIT = 10 * SHARP_PIXELS  # px; what 1 means in the condition
# Skeleton of each field of a batch, and the signs of its numbers in a mirror.
MIRROR: Mapping[str, tuple[Skeleton, tuple[int, ...]]] = {
    "pose": (POSE16, (-1, 1, 1)),
    "points": (MPII16, (-1, 1)),
    "condition": (CONDITION13, (1, -1, 1, 1, -1, 1)),
    "target": (H36M17, (-1, 1, 1)),
}

Pose = Float[Tensor, "batch 16 3"]  # POSE16, metres, centred on its mean
Points = Float[Tensor, "batch 16 2"]  # MPII16, normalised
Hypotheses = Float[Tensor, "batch hypotheses 16 3"]  # many a pose of the same image


@dataclass(frozen=True)
class LiftingBatch(TensorRecord):
    """What lifting systems see and learn from."""

    pose: Pose  # label
    points: Points  # of the detector
    condition: Float[Tensor, "batch 13 6"]  # amplitude, mean x, y, covariance xx, xy, yy
    target: Float[Tensor, "batch 17 3"]  # label: H36M17, metres, pelvis at 0; for metrics

    def draw(self, count: int, *, generator: torch.Generator, mirror: bool) -> "LiftingBatch":
        """Draw images at random; with `mirror` every other one is swapped left for right."""
        device = self.pose.device
        chosen = self[torch.randint(len(self), (count,), generator=generator).to(device)]
        if not mirror:
            return chosen
        return chosen.mirrored((torch.rand(count, generator=generator) < 0.5).to(device))

    def mirrored(self, chosen: Bool[Tensor, " batch"]) -> "LiftingBatch":
        """Swap left and right in the chosen images."""
        device, swapped = self.pose.device, {}
        for name, (skeleton, signs) in MIRROR.items():
            values = getattr(self, name)
            other = values[:, constant(skeleton.mirrored, device)] * constant(signs, device)
            swapped[name] = torch.where(chosen[:, None, None], other, values)
        return LiftingBatch(**swapped)


def complete(pose: Float[Tensor, "*batch 16 3"]) -> Float[Tensor, "*batch 17 3"]:
    """Put the pelvis, the middle of the hips, in front, and move it to the origin."""
    hips = POSE16.indices(["right_hip", "left_hip"])
    pelvis = pose[..., constant(hips, pose.device), :].mean(-2, keepdim=True)
    return torch.cat([torch.zeros_like(pelvis), pose - pelvis], -2)


def normalised(points: Float[Tensor, "*batch joints 2"]) -> Float[Tensor, "*batch joints 2"]:
    """Turn image points (y down) into a 2D pose: y up, mean 0, standard deviation 1 over all."""
    centred = (points - points.mean(-2, keepdim=True)) * points.new_tensor([1, -1])
    return centred / centred.flatten(-2).std(-1, correction=0)[..., None, None]


@cache
def derivation() -> Float[Tensor, "16 17"]:
    """Weights of the detector's COCO joints in every joint of MPII16."""
    rows = torch.zeros(len(MPII16), len(COCO17))
    for row, name in zip(rows, MPII16.names, strict=True):
        for source, weight in DERIVED.get(name, {name: 1.0}).items():
            row[COCO17.index(source)] = weight
    return rows


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian per joint, in the photograph's axes (y down); widths in the paper's pixels."""

    amplitude: Float[Tensor, "images joints"]
    mean: Float[Tensor, "images joints 2"]  # pixels of the photograph
    covariance: Float[Tensor, "images joints 2 2"]

    @property
    def sigma(self) -> Float[Tensor, "images joints 2"]:
        """Standard deviation along both axes, smaller first."""
        return torch.linalg.eigvalsh(self.covariance).clamp_min(0).sqrt()

    def derived(self) -> "Gaussians":
        """Gaussians of MPII16 from those of COCO17."""
        weights = derivation().to(self.mean)
        shares = weights.abs() / weights.abs().sum(-1, keepdim=True)
        return Gaussians(
            self.amplitude @ shares.T,
            weights @ self.mean,
            torch.einsum("mc,nckl->nmkl", shares, self.covariance),
        )

    def condition(self, *, doubled: bool) -> Float[Tensor, "images 13 6"]:
        """Condition of the lifting flow from MPII16's Gaussians (official code, and section 3.4).

        Amplitude cut to 0..1.2, means normalised like a 2D pose, and the covariance with y up, in
        units of `SIGMA_UNIT`, its axes cut to `SIGMA_RANGE`, and those wider than `CERTAIN`
        `doubled` (official code, not in the paper).
        """
        variance, axes = torch.linalg.eigh(self.covariance)
        sigma = variance.clamp_min(0).sqrt().clamp(*SIGMA_RANGE)
        if doubled:
            sigma = torch.where(sigma > CERTAIN, 2 * sigma, sigma)
        matrix = axes * (sigma / SIGMA_UNIT).square()[..., None, :] @ axes.mT
        values = [self.amplitude.clamp(0, 1.2)[..., None], normalised(self.mean)]
        values += [matrix[..., :1, 0], -matrix[..., :1, 1], matrix[..., 1:, 1]]
        kept = list(MPII16.indices(CONDITION13.names))
        return torch.cat(values, -1)[:, kept].float()


def as_seen(
    joints: Float[Tensor, "images 17 3"],
    points: Float[Tensor, "images 16 2"],
    gaussians: Gaussians,
    *,
    doubled: bool,
) -> LiftingBatch:
    """What lifting systems see of people (H36M17, camera axes with y down) and their 2D poses."""
    upright = joints * joints.new_tensor([1, -1, -1])
    pose = upright[:, 1:]
    return LiftingBatch(
        pose=pose - pose.mean(1, keepdim=True),
        points=normalised(points),
        condition=gaussians.condition(doubled=doubled),
        target=upright - upright[:, :1],
    )
