"""What network and objective read: `Batch`, 2D labels, visibility, masks."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from humr.geometry import Crop, project
from humr.storage import TensorRecord

BOX_SCALE = 1.2  # box side / longer side of the person (CLIFF)
VISIBLE, SELF_OCCLUDED, OBJECT_OCCLUDED, OUTSIDE = range(4)
VISIBILITY_NAMES = ("visible", "self-occluded", "hidden by an object", "outside the image")

SUPERVISION = {"labelled": (True, True), "points": (False, True), "unlabelled": (False, False)}


@dataclass(frozen=True)
class Labels2D(TensorRecord):
    """Labels of photographs that come as 2D points, and what the official code knows beside.

    The open world knows where a person stands and projects its labels; licensed files have the
    projections instead. Points are in the crop.
    """

    keypoints: Float[Tensor, "batch 17 2"]  # true ones
    joints: Float[Tensor, "batch 24 2"]  # true ones of SMPL-X: the body's 22, jaw, left eye
    peak: Float[Tensor, "batch 17"]  # largest density of the heatmap among all stored samples
    in_window: Bool[Tensor, "batch 17"]  # true keypoint in the window that the detector saw
    on_mask: Bool[Tensor, "batch samples 17"]  # heatmap sample on a person
    mask_valid: Bool[Tensor, " batch"]  # the mask holds the whole person


@dataclass(frozen=True)
class Batch(TensorRecord):
    """Inputs, labels and evaluation-only facts of a batch of people."""

    # what the network sees
    features: Float[Tensor, "batch features"]
    keypoints: Float[Tensor, "batch 17 3"]  # x, y in the crop, confidence
    box_info: Float[Tensor, "batch 3"]
    window_info: Float[Tensor, "batch 5"]
    # geometry
    box: Float[Tensor, "batch 3"]  # centre x, y and side, pixels of the photograph
    focal: Float[Tensor, " batch"]
    image_size: Float[Tensor, "batch 2"]
    # what the detector says beyond its best guess: it supervises, and needs no label
    samples: Float[Tensor, "batch samples 17 2"]  # of the heatmaps, in the crop
    density: Float[Tensor, "batch samples 17"]  # of the heatmap there, 1 at its maximum
    mask: Bool[Tensor, "batch rows columns"]
    # labels
    rotations: Float[Tensor, "batch 22 3 3"]
    betas: Float[Tensor, "batch 11"]
    translation: Float[Tensor, "batch 3"]  # not read where `given` is there
    has_pose: Bool[Tensor, " batch"]
    has_points: Bool[Tensor, " batch"]
    given: Labels2D | None = None  # licensed data: 2D labels in place of projected ones

    @property
    def crop(self) -> Crop:
        """The box as a window."""
        return Crop.upright(self.box[:, :2], self.box[:, 2])

    @property
    def centre(self) -> Float[Tensor, "batch 2"]:
        """Principal point of the photograph."""
        return self.image_size / 2

    def to_crop(self, points: Float[Tensor, "batch *shape 3"]) -> Float[Tensor, "batch *shape 2"]:
        """Project points in camera space and express them in the box, [-1, 1]."""
        pixels = project(points.flatten(1, -2), self.focal, self.centre)
        return self.crop.to_crop(pixels).unflatten(1, points.shape[1:-1])


def pack_mask(mask: Bool[Tensor, "batch rows columns"]) -> UInt8[Tensor, "batch bytes"]:
    """Store a square mask as bits."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(len(mask), -1), axis=1))


def unpack_mask(packed: UInt8[Tensor, "batch bytes"]) -> Bool[Tensor, "batch rows columns"]:
    """Invert `pack_mask`, on any device (masks are square, with sides divisible by 4)."""
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    bits = (packed[..., None] >> shifts) & 1
    side = round((8 * packed.shape[-1]) ** 0.5)
    return bits.flatten(1).unflatten(1, (side, side)).bool()
