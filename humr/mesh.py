"""HuMR: a conditional flow over joint rotations, with shape and camera beside it (WACV 2025)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr import losses
from humr.bodies import Body
from humr.cameras import project, translation_to_weak, weak_to_translation
from humr.config import Model, Supervision, Weights
from humr.datasets import Batch, Pool
from humr.encoders import ContextEncoder, ShapeCameraHead
from humr.flows import ConditionalFlow
from humr.rotations import matrix_to_sixd, sixd_to_matrix
from humr.skeletons import ARTICULATED

JOINTS = 22
DIM = JOINTS * 6


@dataclass(frozen=True)
class People:
    """Bodies in front of a camera; any leading axes, `hypotheses` among them."""

    sixd: Float[Tensor, "*batch 22 6"]  # as the flow gives them, not yet orthonormal
    betas: Float[Tensor, "*batch 11"]
    translation: Float[Tensor, "*batch 3"]

    @property
    def rotations(self) -> Float[Tensor, "*batch 22 3 3"]:
        """Proper rotation matrices."""
        return sixd_to_matrix(self.sixd)

    def __getitem__(self, index: slice | int | tuple) -> "People":
        return People(*(getattr(self, f.name)[index] for f in fields(self)))

    def joints(self, body: Body) -> Float[Tensor, "*batch 55 3"]:
        """Joints in camera space."""
        return body.joints(self.rotations, self.betas) + self.translation[..., None, :]

    def keypoints(self, body: Body, skeleton: str) -> Float[Tensor, "*batch joints 3"]:
        """Keypoints of a skeleton ("coco17", "h36m17", "common14") in camera space."""
        return (
            body.keypoints(self.rotations, self.betas, skeleton) + self.translation[..., None, :]
        )

    def vertices(self, body: Body) -> Float[Tensor, "*batch vertices 3"]:
        """Mesh in camera space."""
        return body.vertices(self.rotations, self.betas) + self.translation[..., None, :]


@dataclass(frozen=True)
class Hypotheses:
    """The mode (noise 0) and random samples of the posterior."""

    mode: People  # (batch, ...)
    samples: People  # (batch, hypotheses, ...)


@dataclass(frozen=True)
class Observation:
    """What one look at the images gives; enough to draw any number of hypotheses."""

    condition: Tensor
    betas: Float[Tensor, "batch 11"]
    weak: Float[Tensor, "batch 3"]
    translation: Float[Tensor, "batch 3"]


class Humr(nn.Module):
    """Context encoder, conditional RealNVP over 22 x 6 numbers, shape and camera head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.normalise = model.normalise
        self.encoder = ContextEncoder(model)
        self.flow = ConditionalFlow(
            DIM,
            self.encoder.width,
            blocks=model.blocks,
            hidden=model.hidden,
            clamp=model.clamp,
            dropout=model.flow_dropout,
            zero_init=model.zero_init,
        )
        self.head = ShapeCameraHead(self.encoder.width, model)

    @torch.no_grad()
    def fit_statistics(self, pool: Pool) -> None:
        """Take means and deviations of features and rotations, and typical shape and camera.

        Does nothing if the configuration says `normalise=False` (the paper's form).
        """
        records = pool.records
        if not self.normalise:
            return
        self.encoder.standardise(records.features)
        labelled = records[pool.has_pose.nonzero().flatten()]
        generator = torch.Generator(labelled.focal.device).manual_seed(0)
        batch = labelled.batch(samples=1, generator=generator)
        self.flow.standardize(matrix_to_sixd(batch.rotations).flatten(1))
        weak = translation_to_weak(
            batch.translation, batch.box[:, :2], batch.box[:, 2], batch.focal, batch.image_size
        )
        self.head.start_at(batch.betas.mean(0), weak.median(0).values)

    def observe(self, batch: Batch) -> Observation:
        """Encode the images once: condition of the flow, shape, camera."""
        context = self.encoder(batch)
        betas, weak = self.head(context)
        betas, weak = betas.float(), weak.float()
        translation = weak_to_translation(
            weak, batch.box[:, :2], batch.box[:, 2], batch.focal, batch.image_size
        )
        return Observation(self.flow.project(context), betas, weak, translation)

    def people(
        self, observation: Observation, noise: Float[Tensor, "batch hypotheses dim"]
    ) -> People:
        """Turn noise into bodies; shape and camera are shared by an image's hypotheses."""
        sixd = self.flow.generate(noise, observation.condition)[0].float()
        count = noise.shape[1]
        return People(
            sixd.unflatten(-1, (JOINTS, 6)),
            observation.betas[:, None].expand(-1, count, -1),
            observation.translation[:, None].expand(-1, count, -1),
        )

    def noise(
        self, batch: int, count: int, generator: torch.Generator
    ) -> Float[Tensor, "batch hypotheses dim"]:
        """Draw standard normal noise on the generator's device and move it to the model's."""
        shape = (batch, count, DIM)
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.to(self.flow.mean.device)

    @torch.no_grad()
    def sample(self, batch: Batch, count: int, *, generator: torch.Generator) -> Hypotheses:
        """Draw the mode and `count` random hypotheses of every image."""
        observation = self.observe(batch)
        zero = torch.zeros(len(batch), 1, DIM, device=self.flow.mean.device)
        mode = self.people(observation, zero)[:, 0]
        return Hypotheses(mode, self.people(observation, self.noise(len(batch), count, generator)))

    @torch.no_grad()
    def stream(
        self, batch: Batch, count: int, *, generator: torch.Generator, chunk: int = 256
    ) -> Iterator[People]:
        """Draw `count` hypotheses in pieces of at most `chunk`: any number in bounded memory."""
        observation = self.observe(batch)
        for start in range(0, count, chunk):
            size = min(chunk, count - start)
            yield self.people(observation, self.noise(len(batch), size, generator))

    def log_prob(
        self, batch: Batch, sixd: Float[Tensor, "batch hypotheses 22 6"]
    ) -> Float[Tensor, "batch hypotheses"]:
        """Exact log density of 6D poses given the images (nats, over all 132 numbers)."""
        condition = self.observe(batch).condition
        return self.flow.log_prob(sixd.flatten(-2), condition)


def to_crop(
    points: Float[Tensor, "batch *shape 3"], batch: Batch
) -> Float[Tensor, "batch *shape 2"]:
    """Project points in camera space and express them in the box, [-1, 1]."""
    flat = points.flatten(1, -2)
    pixels = project(flat, batch.focal, batch.centre)
    return batch.crop.to_crop(pixels).unflatten(1, points.shape[1:-1])


class HumrObjective(nn.Module):
    """All terms of HuMR's objective for one batch, by name; see `losses` for each equation.

    Images without 3D labels have no likelihood and shape term; images without 2D labels have no
    keypoint term and follow the detector's own keypoints where it is certain.
    """

    def __init__(
        self, model: Humr, body: Body, weights: Weights, supervision: Supervision, hypotheses: int
    ) -> None:
        super().__init__()
        self.model = model
        self.body = body
        self.weights = weights
        self.supervision = supervision
        self.hypotheses = hypotheses

    def forward(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean of every term over the images that have it."""
        model = self.model
        observation = model.observe(batch)
        noise = model.noise(len(batch), self.hypotheses, generator)
        zero = torch.zeros_like(noise[:, :1])
        people = model.people(observation, torch.cat([zero, noise], 1))
        mode, samples = people[:, 0], people[:, 1:]
        targets = self._targets(batch)
        projected = to_crop(samples.keypoints(self.body, "coco17"), batch)
        target_valid = losses.inside_mask(targets.samples, batch.mask)
        every = torch.ones_like(batch.has_pose)
        terms = {
            "nll": (self._nll(batch, observation, generator), batch.has_pose),
            "shape": (losses.shape(observation.betas, batch.betas), batch.has_pose),
            "keypoints": (self._keypoints(mode, batch), batch.has_points),
            "orthonormal_mode": (losses.orthonormality(mode.sixd), every),
            "orthonormal_samples": (losses.orthonormality(samples.sixd).mean(-1), every),
            "heatmap": (losses.heatmap_mmd(projected, targets), every),
            "mask": (
                losses.mask_loss(
                    projected, batch.mask, targets.samples, target_valid, targets.invisible
                ),
                every,
            ),
            "camera": (losses.camera_scale(observation.weak[:, 0]), every),
        }
        return {name: _mean(*term) for name, term in terms.items()}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum; every term has a weight and every weight a term; 0 leaves a term out."""
        names = {f.name for f in fields(self.weights)}
        if terms.keys() != names:
            raise ValueError(f"terms {sorted(terms)} do not match weights {sorted(names)}")
        weights = {n: getattr(self.weights, n) for n in terms}
        return torch.stack([w * terms[n] for n, w in weights.items() if w > 0]).sum()

    def _nll(self, batch: Batch, observation: Observation, generator: torch.Generator) -> Tensor:
        """Negative log-likelihood per dimension of slightly blurred labels (official code)."""
        sixd = matrix_to_sixd(batch.rotations).flatten(1)
        blur = torch.randn(sixd.shape, generator=generator, device=generator.device)
        sixd = sixd + self.supervision.target_noise * blur.to(sixd.device)
        log_prob = self.model.flow.log_prob(sixd[:, None], observation.condition)
        return losses.nll(log_prob[:, 0].float(), DIM)

    def _keypoints(self, mode: People, batch: Batch) -> Tensor:
        """L1 distance of the mode's projected body joints to the labels'."""
        predicted = to_crop(mode.joints(self.body)[:, :JOINTS], batch)
        labels = self.body.joints(batch.rotations, batch.betas)[:, :JOINTS]
        target = to_crop(labels + batch.translation[:, None], batch)
        return losses.reprojection(predicted, target, torch.ones_like(target[..., 0]))

    @torch.no_grad()
    def _targets(self, batch: Batch) -> losses.Targets:
        labels = self.body.keypoints(batch.rotations, batch.betas, "coco17")
        truth = to_crop(labels + batch.translation[:, None], batch)
        points = torch.where(batch.has_points[:, None, None], truth, batch.keypoints[..., :2])
        articulated = torch.zeros(17, dtype=torch.bool, device=points.device)
        articulated[list(ARTICULATED)] = True
        targets = losses.supervision_targets(
            batch.samples,
            points,
            batch.keypoints[..., 2],
            articulated,
            certain_from=self.supervision.uncertain_below,
            visible_from=self.supervision.invisible_below,
        )
        trusted = batch.has_points & self._mask_holds(truth, batch)
        return replace(targets, invisible=targets.invisible & trusted[:, None])

    def _mask_holds(self, truth: Tensor, batch: Batch) -> Tensor:
        """Tell whether the mask holds the labelled person (batch,): not if an object hides a part.

        The paper leaves such images out of the mask loss, by the overlap of the projected body
        with the mask; here by the share of true keypoints in the crop that lie on it.
        """
        in_crop = (truth.abs() <= 1).all(-1)
        off = in_crop & ~losses.inside_mask(truth[:, None], batch.mask)[:, 0]
        return off.sum(-1) <= self.supervision.mask_misses * in_crop.sum(-1)


def _mean(values: Float[Tensor, " batch"], valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0).sum() / valid.sum().clamp_min(1)
