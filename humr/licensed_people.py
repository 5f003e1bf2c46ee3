"""Licensed people as tensors, and the batches that come of them.

`Persons` holds what is known of people whichever crop shows them, in pixels of the photographs;
`Looks` what a look at a crop adds. Together they make a `Batch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from humr.annotations import PROJECTED, Annotations
from humr.cameras import box_info
from humr.crops import quantised, to_crop
from humr.datasets import Batch, Given, unpack_mask
from humr.heatmap_files import OFF_MASK, HeatmapSamples, read_samples
from humr.licensed import LICENSED, data_set
from humr.rotations import rotvec_to_matrix
from humr.skeletons import BODY22

WINDOW = (0.75, 1.0)  # half sides of what the detector saw of a box, 192 of 256 px wide
LEAST_PEAK = 1e-6
R = TypeVar("R", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Tensors of the same people, one field each."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: R, index: slice | Tensor) -> R:
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def join(cls: type[R], parts: Sequence[R]) -> R:
        """Put people one after another."""
        names = [f.name for f in fields(cls)]
        return cls(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


@dataclass(frozen=True)
class Persons(Rows):
    """What is known of people whichever crop shows them."""

    box: Float[Tensor, "people 3"]  # as annotated: centre x, y, side
    keypoints: Float[Tensor, "people 17 3"]  # of ViTPose: x, y, confidence
    true_keypoints: Float[Tensor, "people 17 2"]
    joints: Float[Tensor, "people 24 2"]  # true ones of SMPL-X, 2D
    rotvec: Float[Tensor, "people 22 3"]
    betas: Float[Tensor, "people 11"]
    focal: Float[Tensor, " people"]
    image_size: Float[Tensor, "people 2"]
    mask_valid: Bool[Tensor, " people"]
    # stored samples of the heatmaps; points in the annotated box, half precision
    points: Float[Tensor, "people samples 17 2"]
    density: Float[Tensor, "people samples 17"]
    on_mask: Bool[Tensor, "people samples 17"]
    peak: Float[Tensor, "people 17"]  # largest density among all 150 stored samples


@dataclass(frozen=True)
class Looks(Rows):
    """What a look at a crop of each person adds."""

    box: Float[Tensor, "people 3"]  # of the crop
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, in the crop, bit-packed
    features: Float[Tensor, "people features"]


def persons_of(people: Annotations, *, samples: int, root: Path = LICENSED) -> Persons:
    """Turn rows of a training set into tensors, with their first `samples` heatmap samples."""
    described = data_set(people.name)
    if described.split != "train" or people.joints is None or people.image_size is None:
        raise ValueError(f"{people.name} has no labels for training")
    stored = read_samples(people.name, people.row, root=root)
    points = _samples_in(people.box, stored.points[:, :samples])
    on_mask = (stored.distance[:, :samples] <= OFF_MASK) & people.mask_valid[:, None, None]
    return Persons(
        box=people.box,
        keypoints=people.keypoints,
        true_keypoints=people.true_keypoints,
        joints=people.joints,
        rotvec=people.pose,
        betas=people.betas,
        focal=focal_of(people, people.image_size),
        image_size=people.image_size,
        mask_valid=people.mask_valid,
        points=points.half(),
        density=stored.confidence[:, :samples].half(),
        on_mask=on_mask,
        peak=stored.peak,
    )


def focal_of(
    people: Annotations, image_size: Float[Tensor, "people 2"], *, default: bool = False
) -> Float[Tensor, " people"]:
    """Focal length in pixels: that of the intrinsics in x, or by `default` the diagonal.

    Files without intrinsics have the diagonal in any case. The official code takes the true one
    in training and the diagonal in every test.
    """
    if people.intrinsics is None or default:
        return image_size.norm(dim=-1)
    return people.intrinsics[:, 0, 0]


def batch_of(persons: Persons, looks: Looks, *, samples: int, generator: torch.Generator) -> Batch:
    """Express everything in the crops, with `samples` of the stored heatmap samples.

    They are drawn without replacement, all joints of one sample together. Condition and true
    keypoints are moved to whole pixels, `crops.quantised`, as in the official code; heatmap
    samples and SMPL-X's joints are not.
    """
    box, count = looks.box, len(persons)
    points, density, on_mask = _drawn(persons, samples, generator)
    pixels = persons.box[:, None, None, :2] + persons.box[:, None, None, 2:] / 2 * points
    mask = unpack_mask(looks.mask)
    true = quantised(to_crop(persons.true_keypoints, box))
    every = torch.ones(count, dtype=torch.bool, device=box.device)
    detected = quantised(to_crop(persons.keypoints[..., :2], box))
    window = box.new_tensor(WINDOW)
    return Batch(
        features=looks.features.float(),
        keypoints=torch.cat([detected, persons.keypoints[..., 2:]], -1),
        box_info=box_info(box[:, :2], box[:, 2], persons.focal, persons.image_size),
        window_info=box.new_zeros(count, 5),
        box=box,
        focal=persons.focal,
        image_size=persons.image_size,
        samples=_samples_in(box, pixels),
        density=density / persons.peak[:, None].clamp_min(LEAST_PEAK),
        mask=mask,
        rotations=rotvec_to_matrix(persons.rotvec),
        betas=persons.betas,
        translation=box.new_zeros(count, 3),
        has_pose=every,
        has_points=every,
        given=Given(
            keypoints=true,
            joints=to_crop(persons.joints, box),
            peak=persons.peak,
            in_window=in_window(persons, window),
            on_mask=on_mask,
            mask_valid=persons.mask_valid & mask.flatten(1).any(1),
        ),
    )


def in_window(persons: Persons, window: Float[Tensor, "2"]) -> Bool[Tensor, "people 17"]:
    """Which true keypoints lie in the part of the annotated box that the detector saw."""
    return (quantised(to_crop(persons.true_keypoints, persons.box)).abs() <= window).all(-1)


def _samples_in(box: Tensor, points: Tensor) -> Tensor:
    """Express samples (people, samples, joints, 2), pixels of the photograph, in boxes."""
    return to_crop(points.flatten(1, 2), box).unflatten(1, points.shape[1:3])


def _drawn(
    persons: Persons, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw heatmap samples: points in the annotated box, density, whether on the mask."""
    people, stored = persons.density.shape[:2]
    if not 1 <= count <= stored:
        raise ValueError(f"samples must lie in 1..{stored}, the stored ones; got {count}")
    drawn = torch.rand(people, stored, generator=generator, device=generator.device)
    order = drawn.argsort(1)[:, :count].to(persons.density.device)
    each = torch.arange(people, device=order.device)[:, None]
    points, density = persons.points[each, order], persons.density[each, order]
    return points.float(), density.float(), persons.on_mask[each, order]


def unlabelled_batch(
    people: Annotations,
    looks: Looks,
    image_size: Float[Tensor, "people 2"],
    *,
    default_focal: bool,
    stored: HeatmapSamples | None = None,
) -> Batch:
    """Batch of a test set: what the network sees, and no labels (those are of another body).

    Few networks read heatmap samples, whose density is in units of its largest stored value, as
    in training; without them, the detected keypoints stand for one.
    """
    box, count = looks.box, len(people)
    points, density = quantised(to_crop(people.keypoints[..., :2], box))[:, None], None
    if stored is not None:
        points = _samples_in(box, stored.points)
        density = stored.confidence / stored.peak[:, None].clamp_min(LEAST_PEAK)
    focal = focal_of(people, image_size, default=default_focal)
    detected = quantised(to_crop(people.keypoints[..., :2], box))
    none = torch.zeros(count, dtype=torch.bool)
    return Batch(
        features=looks.features.float(),
        keypoints=torch.cat([detected, people.keypoints[..., 2:]], -1),
        box_info=box_info(box[:, :2], box[:, 2], focal, image_size),
        window_info=box.new_zeros(count, 5),
        box=box,
        focal=focal,
        image_size=image_size,
        samples=points,
        density=torch.ones(count, 1, 17) if density is None else density,
        mask=unpack_mask(looks.mask),
        rotations=torch.eye(3).expand(count, len(BODY22), 3, 3),
        betas=torch.zeros(count, 11),
        translation=torch.zeros(count, 3),
        has_pose=none,
        has_points=none,
    )


assert len(BODY22) + 2 == PROJECTED  # what `Persons.joints` says
