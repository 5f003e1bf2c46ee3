"""Records on disk or in memory, and the batches that models see.

A `Records` holds one split as tensors, in pixels of the whole photographs. A `Batch` is what a
network and its objective read: everything in crop coordinates, [-1, 1] across the box.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from humr import metrics
from humr.batches import OUTSIDE, SUPERVISION, VISIBLE, Batch, pack_mask, unpack_mask
from humr.bodies.body import Body
from humr.devices import normal
from humr.evaluation import HIPS, RenderedTruth
from humr.geometry import Crop, box_info, matrix_to_sixd, pixel_centres, rotvec_to_matrix
from humr.heatmaps import GRID
from humr.model import People
from humr.storage import TensorRecord


@dataclass(frozen=True)
class Records(TensorRecord):
    """One split of the open world in memory."""

    rotvec: Float[Tensor, "images 22 3"]
    betas: Float[Tensor, "images 11"]
    translation: Float[Tensor, "images 3"]
    focal: Float[Tensor, " images"]
    image_size: Float[Tensor, "images 2"]
    box: Float[Tensor, "images 3"]
    truncated: Bool[Tensor, " images"]
    template: UInt8[Tensor, " images"]
    window: Float[Tensor, "images 4"]  # of the detector: centre x, y, side, roll
    keypoints: Float[Tensor, "images 17 2"]  # of the detector
    confidence: Float[Tensor, "images 17"]
    peak: Float[Tensor, "images 17"]
    flag: Float[Tensor, " images"]
    world_landmarks: Float[Tensor, "images 33 3"]
    cells: Int[Tensor, "images samples 17"]
    density: Float[Tensor, "images samples 17"]  # calibrated heatmap there, of its maximum
    moments: Float[Tensor, "images 17 5"]  # calibrated heatmap, cells: mean x, y, cov xx, xy, yy
    features: Float[Tensor, "images features"]
    mask: UInt8[Tensor, "images bytes"]  # of the detector, in the box, bit-packed
    # for evaluation only: no network and no loss may read these
    true_keypoints: Float[Tensor, "images 17 2"]
    visibility: UInt8[Tensor, "images 17"]
    person: UInt8[Tensor, "images bytes"]
    occluder: UInt8[Tensor, "images bytes"]

    @property
    def crop(self) -> Crop:
        """The box as a window."""
        return Crop.upright(self.box[:, :2], self.box[:, 2])

    @property
    def detector_window(self) -> Crop:
        """Where heatmaps and features live."""
        return Crop(self.window[:, :2], self.window[:, 2], self.window[:, 3])

    def batch(
        self,
        *,
        samples: int,
        generator: torch.Generator,
        has_pose: Tensor | None = None,
        has_points: Tensor | None = None,
        mask: Tensor | None = None,
        gaussian: bool = False,
    ) -> Batch:
        """Turn records into a batch, with `samples` stored heatmap samples of every joint.

        `has_pose` and `has_points`: images that may show their 3D and 2D labels; default: all.
        `mask`: `possible_mask`, if it is known. `gaussian`: samples of Gaussians with the
        heatmaps' moments instead.
        """
        every = torch.ones(len(self), dtype=torch.bool, device=self.focal.device)
        crop, window = self.crop, self.detector_window
        cells, density = self._draw(samples, generator)
        if gaussian:
            cells = self._gaussian(samples, generator)
        points = window.to_image(cells.flatten(1, 2))
        return Batch(
            features=self.features.float(),
            keypoints=torch.cat([crop.to_crop(self.keypoints), self.confidence[..., None]], -1),
            box_info=box_info(self.box[:, :2], self.box[:, 2], self.focal, self.image_size),
            window_info=window.relative_to(crop),
            box=self.box,
            focal=self.focal,
            image_size=self.image_size,
            samples=crop.to_crop(points).unflatten(1, (samples, 17)),
            density=density,
            mask=self.possible_mask() if mask is None else mask,
            rotations=rotvec_to_matrix(self.rotvec),
            betas=self.betas,
            translation=self.translation,
            has_pose=every if has_pose is None else has_pose,
            has_points=every if has_points is None else has_points,
        )

    def possible_mask(self) -> Bool[Tensor, "images rows columns"]:
        """Return where the person may be, in the box: the mask of the mask loss.

        The detector's mask, a pixel wider, and everything that it cannot judge: pixels outside the
        photograph and outside its window. (The paper's masks hold every possible pixel as well.)
        """
        mask = unpack_mask(self.mask)
        side = mask.shape[-1]
        wider = max_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0] > 0
        centres = pixel_centres(side, mask.device).flatten(0, 1)
        pixels = self.crop.to_image(centres.expand(len(self), -1, -1))
        inside = ((pixels >= 0) & (pixels < self.image_size[:, None])).all(-1)
        judged = inside & (self.detector_window.to_crop(pixels).abs() <= 1).all(-1)
        return wider | ~judged.unflatten(1, (side, side))

    def _draw(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "b n 17 2"], Float[Tensor, "b n 17"]]:
        """Take stored heatmap samples: positions in the window, [-1, 1], and density."""
        stored = self.cells.shape[1]
        if not 1 <= count <= stored:
            raise ValueError(f"samples must lie in 1..{stored}, the stored ones; got {count}")
        start = int(torch.randint(stored, (), generator=generator))
        chosen = torch.arange(start, start + count, device=self.cells.device) % stored
        cells = GRID.cells_to_crop(self.cells[:, chosen].long(), generator=generator)
        return cells, self.density[:, chosen].float()

    def _gaussian(self, count: int, generator: torch.Generator) -> Float[Tensor, "b n 17 2"]:
        """Draw from Gaussians of the heatmaps' moments: positions in the detector's window."""
        mean, covariance = self.moments[..., :2], self.moments[..., [2, 3, 3, 4]]
        covariance = covariance.unflatten(-1, (2, 2))
        root = torch.linalg.cholesky(covariance + 1e-4 * torch.eye(2).to(covariance))
        noise = normal((len(self), count, 17, 2), root, generator)
        return GRID.to_crop(mean[:, None] + torch.einsum("bjxy,bnjy->bnjx", root, noise))

    def truth(
        self, body: Body, *, samples: int, generator: torch.Generator, default_focal: bool = False
    ) -> RenderedTruth:
        """Return inputs and labels on the body's device.

        With `default_focal` the network is shown the photograph's diagonal as focal length.
        """
        device = body.joint_template.device
        inputs = self.batch(samples=samples, generator=generator).to(device)
        seen = inputs
        if default_focal:
            blind = self.with_default_focal()
            seen = blind.batch(samples=samples, generator=generator).to(device)
        return truth_of(self.to(device), inputs, body, seen)

    def with_default_focal(self, images: Bool[Tensor, " images"] | None = None) -> "Records":
        """Return records whose focal length is the photograph's diagonal, as if not known."""
        diagonal = self.image_size.norm(dim=-1)
        focal = diagonal if images is None else diagonal.where(images, self.focal)
        return replace(self, focal=focal)


@dataclass(frozen=True)
class Pool(TensorRecord):
    """Training records of several splits, with what each image may teach.

    Images without 2D labels show nothing that only the renderer knows: their focal length is the
    photograph's diagonal. (Every image has its box, which stands for a person detector's.)
    """

    records: Records
    possible: UInt8[Tensor, "images bytes"]  # `possible_mask`, bit-packed
    has_pose: Bool[Tensor, " images"]
    has_points: Bool[Tensor, " images"]

    @classmethod
    def of(cls, splits: dict[str, Records]) -> "Pool":
        """Join splits by name; `SUPERVISION` says which labels a split has."""
        if unknown := sorted(splits.keys() - SUPERVISION.keys()):
            raise ValueError(f"cannot train on {unknown}; expected some of {sorted(SUPERVISION)}")
        flags = [torch.tensor([SUPERVISION[n]] * len(r)) for n, r in splits.items()]
        pose, points = torch.cat(flags).unbind(-1)
        records = Records.join(list(splits.values()))
        parts = [records[slice(i, i + 500)] for i in range(0, len(records), 500)]
        possible = torch.cat([pack_mask(part.possible_mask()) for part in parts])
        return cls(records, possible, pose, points)

    def showing(self, *, poses: int | None = None, points: int | None = None) -> "Pool":
        """Return the same images, of which the first so many show their 3D (2D) labels.

        None leaves it as their splits say.
        """
        order = torch.arange(len(self))
        has_pose = self.has_pose if poses is None else order < poses
        has_points = self.has_points if points is None else order < points
        if (has_pose & ~has_points).any():
            raise ValueError(f"images with 3D labels have 2D labels too; got {poses} and {points}")
        return replace(self, has_pose=has_pose, has_points=has_points)

    @cached_property
    def _posed(self) -> Int[Tensor, " posed"]:
        """Numbers of the images that show 3D labels, on the CPU, where images are drawn."""
        return self.has_pose.nonzero().flatten().cpu()

    def labelled(self) -> Batch:
        """Every image that shows its 3D labels, in one batch: what statistics are taken of."""
        chosen = self.records[self.has_pose]
        generator = torch.Generator(chosen.focal.device).manual_seed(0)
        return chosen.batch(samples=1, generator=generator)

    def draw(
        self,
        batch: int,
        *,
        samples: int,
        generator: torch.Generator,
        labelled: float = 0.0,
        gaussian: bool = False,
    ) -> Batch:
        """Draw a batch at random, with replacement between batches.

        `labelled` is the share that is drawn among images with 3D labels; the rest is drawn among
        all. No image is twice in either part. `gaussian` as in `Records.batch`.
        """
        certain = round(labelled * batch)
        chosen = torch.randperm(len(self), generator=generator)[: batch - certain]
        if certain:
            picked = torch.randperm(len(self._posed), generator=generator)[:certain]
            chosen = torch.cat([self._posed[picked], chosen])
        some = self[chosen.to(self.has_pose.device)]
        return some.records.with_default_focal(~some.has_points).batch(
            samples=samples,
            generator=generator,
            has_pose=some.has_pose,
            has_points=some.has_points,
            mask=unpack_mask(some.possible),
            gaussian=gaussian,
        )


def truth_of(
    records: Records, batch: Batch, body: Body, seen: Batch | None = None
) -> RenderedTruth:
    """Collect what the renderer knows."""
    people = People(matrix_to_sixd(batch.rotations), batch.betas, batch.translation)
    common = people.keypoints(body, "common14")
    visible = records.visibility == VISIBLE
    return RenderedTruth(
        batch=batch,
        seen=batch if seen is None else seen,
        joints=metrics.centre(common, HIPS),
        coco17=people.keypoints(body, "coco17"),
        vertices=people.vertices(body) - common[:, list(HIPS)].mean(1, keepdim=True),
        visible=visible,
        hidden=~visible,
        covered=~visible & (records.visibility != OUTSIDE),
        silhouette=unpack_mask(records.person) | unpack_mask(records.occluder),
        landmarks=records.world_landmarks,
        facts={"template": records.template, "truncated": records.truncated},
    )
