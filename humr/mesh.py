"""HuMR: a conditional flow over joint rotations, with shape and camera beside it (WACV 2025)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr.bodies import Body
from humr.cameras import project, translation_to_weak, weak_to_translation
from humr.config import Model
from humr.datasets import Batch, Pool
from humr.encoders import ContextEncoder, ShapeCameraHead
from humr.flows import ConditionalFlow
from humr.glow import ConstantVolumeFlow
from humr.rotations import matrix_to_sixd, sixd_to_matrix

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
    """Context encoder, conditional flow over 22 x 6 numbers, shape and camera head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.normalise = model.normalise
        self.heatmap_samples = model.heatmap_samples  # that the encoder wants to see
        self.encoder = ContextEncoder(model)
        self.flow = _flow(model, self.encoder.width)
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

    def observe(
        self, batch: Batch, context: Float[Tensor, "batch context"] | None = None
    ) -> Observation:
        """Encode the images once, unless their `context` is given: condition, shape, camera."""
        seen: Tensor = self.encoder(batch) if context is None else context
        betas, weak = self.head(seen)
        betas, weak = _full(betas), _full(weak)
        translation = weak_to_translation(
            weak, batch.box[:, :2], batch.box[:, 2], batch.focal, batch.image_size
        )
        return Observation(self.flow.project(seen), betas, weak, translation)

    def people(
        self, observation: Observation, noise: Float[Tensor, "batch hypotheses dim"]
    ) -> People:
        """Turn noise into bodies; shape and camera are shared by an image's hypotheses."""
        sixd = _full(self.flow.generate(noise, observation.condition)[0])
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


def _full(values: Tensor) -> Tensor:
    """At least single precision: geometry is not for half of it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _flow(model: Model, context: int) -> ConditionalFlow | ConstantVolumeFlow:
    if model.flow == "glow":
        return ConstantVolumeFlow(
            DIM,
            context,
            blocks=model.blocks,
            hidden=model.hidden,
            dropout=model.flow_dropout,
            zero_init=model.zero_init,
        )
    return ConditionalFlow(
        DIM,
        context,
        blocks=model.blocks,
        hidden=model.hidden,
        clamp=model.clamp,
        dropout=model.flow_dropout,
        zero_init=model.zero_init,
    )


def to_crop(
    points: Float[Tensor, "batch *shape 3"], batch: Batch
) -> Float[Tensor, "batch *shape 2"]:
    """Project points in camera space and express them in the box, [-1, 1]."""
    flat = points.flatten(1, -2)
    pixels = project(flat, batch.focal, batch.centre)
    return batch.crop.to_crop(pixels).unflatten(1, points.shape[1:-1])
