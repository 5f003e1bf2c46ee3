r"""HuMR: a conditional flow over joint rotations, with shape and camera beside it (WACV 2025).

A photograph's feature, 2D pose and box become a context $c$ (`ContextEncoder`). Under it a
normalizing flow $f$ gives poses $\theta = f(z; c)$, $z \sim N(0, I)$, 22 rotations as 6 numbers
each, and their exact likelihood; the mode is $\theta^* = f(0; c)$. Shape and camera are regressed
from $c$ (`ShapeCameraHead`) and shared by all hypotheses. `Humr` holds the three and turns noise
into bodies.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr.batches import Batch
from humr.bodies.body import Body
from humr.config import Model
from humr.devices import normal
from humr.flows import ConditionalFlow, ConstantVolumeFlow
from humr.geometry import matrix_to_sixd, sixd_to_matrix, translation_to_weak, weak_to_translation

JOINTS = 22
DIM = JOINTS * 6
BETAS = 11
WEAK = 3  # scale and offset of the weak-perspective camera
KEYPOINTS = 17
# Most inner features are 0 for most images; unbounded, a rare one would be hundreds of deviations.
OUTLIER = 5.0
SMALLEST_STD = 0.02
REACH = 1.25  # of the code, beyond the box's edge at 1: the detector's window is larger


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
        options: Any = {"blocks": model.blocks, "hidden": model.hidden,
                        "dropout": model.flow_dropout, "zero_init": model.zero_init}  # fmt: skip
        self.flow = (
            ConstantVolumeFlow(DIM, self.encoder.width, **options)
            if model.flow == "glow"
            else ConditionalFlow(DIM, self.encoder.width, clamp=model.clamp, **options)
        )
        self.head = ShapeCameraHead(self.encoder.width, model)

    def observe(
        self, batch: Batch, context: Float[Tensor, "batch context"] | None = None
    ) -> Observation:
        """Encode the images once, unless their `context` is given: condition, shape, camera."""
        seen: Tensor = self.encoder(batch) if context is None else context
        betas, weak = map(_full, self.head(seen))
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
        """Draw standard normal noise, the same numbers whatever the model's device and type."""
        return normal((batch, count, DIM), self.flow.mean.float(), generator)

    @torch.no_grad()
    def sample(self, batch: Batch, count: int, *, generator: torch.Generator) -> Hypotheses:
        """Draw the mode and `count` random hypotheses of every image."""
        observation = self.observe(batch)
        zero = torch.zeros(len(batch), 1, DIM, device=self.flow.mean.device)
        mode = self.people(observation, zero)[:, 0]
        return Hypotheses(mode, self.people(observation, self.noise(len(batch), count, generator)))

    @torch.no_grad()
    def stream(
        self,
        observation: Observation,
        count: int,
        generator: torch.Generator,
        *,
        mode: bool = True,
        piece: int = 128,
    ) -> Iterator[People]:
        """Draw `count` hypotheses in pieces: any number in bounded memory.

        The first one is the mode, unless `mode` is False: then all are random.
        """
        images = len(observation.betas)
        for start in range(0, count, piece):
            first = mode and start == 0
            noise = self.noise(images, min(piece, count - start) - first, generator)
            if first:
                noise = torch.cat([noise.new_zeros(images, 1, DIM), noise], 1)
            yield self.people(observation, noise)

    def log_prob(
        self, batch: Batch, sixd: Float[Tensor, "batch hypotheses 22 6"]
    ) -> Float[Tensor, "batch hypotheses"]:
        """Exact log density of 6D poses given the images (nats, over all 132 numbers)."""
        return self.flow.log_prob(sixd.flatten(-2), self.observe(batch).condition)

    @torch.no_grad()
    def fit_statistics(self, features: Float[Tensor, "images features"], batch: Batch) -> None:
        """Take means and deviations of features and rotations, and typical shape and camera.

        `features` are of all images that the model is trained on, `batch` holds those that show
        their 3D labels. Does nothing if the configuration says `normalise=False` (the paper's
        form).
        """
        if not self.normalise:
            return
        self.encoder.standardise(features)
        self.flow.standardize(matrix_to_sixd(batch.rotations).flatten(1))
        weak = translation_to_weak(
            batch.translation, batch.box[:, :2], batch.box[:, 2], batch.focal, batch.image_size
        )
        self.head.start_at(batch.betas.mean(0), weak.median(0).values)


class ContextEncoder(nn.Module):
    r"""Join image feature, 2D pose and box: $c = [c_I, c_P, c_B]$ (HuMR, section 4.1).

    $c_P$ is the 17 x (x, y, confidence) of the 2D pose through Linear, ReLU, Linear; $c_B$ is
    `geometry.box_info`. A detector that was not made for this task has a longer and raw feature
    vector; it is standardised, cut at 5 deviations and shortened first (`feature_width`; 720
    features of the paper's backbone enter as they are), and the network gets where the detector's
    window lies in the box (`window_info`).

    For the ablations `Model.box` and `Model.pose` leave $c_B$ and $c_P$ out, and
    `Model.embedding` adds `HeatmapEmbedding`, as wide as $c_P$.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        width = model.features if model.feature_width is None else model.feature_width
        self.window_info, self.box = model.window_info, model.box
        self.register_buffer("feature_mean", torch.zeros(model.features))
        self.register_buffer("feature_std", torch.ones(model.features))
        self.feature = nn.Identity() if model.feature_width is None else nn.Sequential(
            nn.Dropout(model.feature_dropout),
            nn.Linear(model.features, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip
        self.pose = nn.Sequential(
            nn.Linear(17 * 3, model.pose_hidden),
            nn.ReLU(),
            nn.Linear(model.pose_hidden, model.pose_width),
        ) if model.pose else None  # fmt: skip
        self.embedding = HeatmapEmbedding(
            model.pose_width, samples=model.embedding_samples
        ) if model.embedding else None  # fmt: skip
        branches = model.pose + model.embedding
        self.width = width + branches * model.pose_width + 3 * model.box + 5 * model.window_info

    def _feature(self, features: Float[Tensor, "batch features"]) -> Tensor:
        if isinstance(self.feature, nn.Identity):
            return features
        standard = (features - self.feature_mean) / self.feature_std
        return self.feature(standard.clamp(-OUTLIER, OUTLIER))

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "images features"]) -> None:
        """Remember mean and standard deviation of the features of the training images."""
        self.feature_mean.copy_(features.float().mean(0))
        self.feature_std.copy_(features.float().std(0).clamp_min(SMALLEST_STD))

    def forward(self, batch: Batch) -> Float[Tensor, "batch context"]:
        """Return the context of every image."""
        parts = [self._feature(batch.features)]
        if self.pose is not None:
            parts.append(self.pose(batch.keypoints.flatten(1)))
        if self.box:
            parts.append(batch.box_info)
        if self.window_info:
            parts.append(batch.window_info)
        if self.embedding is not None:
            parts.append(self.embedding(batch.samples, batch.density))
        return torch.cat(parts, -1)


class ShapeCameraHead(nn.Module):
    """Regress shape and weak-perspective camera in three refinements (HMR's head).

    As in the official code nothing non-linear stands between the layers, so that in evaluation
    the head is an affine map; what bends is in the encoder.
    """

    start: Tensor

    def __init__(self, context: int, model: Model) -> None:
        super().__init__()
        self.iterations = model.head_iterations
        self.fc1 = nn.Linear(context + BETAS + WEAK, model.head_hidden)
        self.fc2 = nn.Linear(model.head_hidden, model.head_hidden)
        self.drop = nn.Dropout(model.dropout)
        self.decshape = nn.Linear(model.head_hidden, BETAS)
        self.deccam = nn.Linear(model.head_hidden, WEAK)
        for layer in (self.decshape, self.deccam):
            nn.init.xavier_uniform_(layer.weight, gain=0.01)
        self.register_buffer("start", torch.tensor([0.0] * BETAS + [0.9, 0.0, 0.0]))

    @torch.no_grad()
    def start_at(self, betas: Float[Tensor, " betas"], weak: Float[Tensor, " 3"]) -> None:
        """Set where the refinement starts: what is usual among the training images."""
        self.start.copy_(torch.cat([betas, weak]))

    def forward(
        self, context: Float[Tensor, "batch context"]
    ) -> tuple[Float[Tensor, "batch betas"], Float[Tensor, "batch 3"]]:
        """Return betas and the weak-perspective camera (scale, offset)."""
        state = self.start.expand(len(context), -1)
        for _ in range(self.iterations):
            hidden = self.drop(self.fc1(torch.cat([context, state], -1)))
            hidden = self.drop(self.fc2(hidden))
            state = state + torch.cat([self.decshape(hidden), self.deccam(hidden)], -1)
        return state[:, :BETAS], state[:, BETAS:]


def _full(values: Tensor) -> Tensor:
    """At least single precision: geometry is not for half of it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


# ------------------------------------------ an ablation: DiffPose's condition


class HeatmapEmbedding(nn.Module):
    r"""DiffPose's embedding of heatmap samples: the detector's uncertainty as a condition.

    From Holmquist and Wandt, "DiffPose" (ICCV 2023), which HuMR compares its heatmap supervision
    with. Samples $u_{jn}$ of the heatmap of joint $j$, and its values $p_{jn}$ there, become

    $$e_j = W \sum_n p_{jn}\, [\phi(u^x_{jn}), \phi(u^y_{jn})] + v_j$$

    with a learned $v_j$ for every joint, pass a Transformer over the joints and one linear layer.
    A sum does not know the order of the samples.

    Defaults are DiffPose's sizes. DiffPose has 16 joints and keeps all 16 x 128 outputs; how HuMR
    shortened them is not published, here it is a linear layer to `outputs`. DiffPose's first
    sample is the argmax; here all are random, the first `samples` of each image. `dropout` also
    leaves out whole joints.
    """

    def __init__(
        self,
        outputs: int,
        *,
        samples: int = 32,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        feedforward: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1; got {samples}")
        if width % 2 or width % heads:
            raise ValueError(f"width must be even and a multiple of {heads} heads; got {width}")
        self.samples = samples
        self.code = ChannelCode(width // 2)
        self.project = nn.Linear(width, width)
        self.joints = nn.Embedding(KEYPOINTS, width)
        self.drop = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(KEYPOINTS * width, outputs)

    def forward(
        self,
        points: Float[Tensor, "batch samples 17 2"],
        density: Float[Tensor, "batch samples 17"],
    ) -> Float[Tensor, "batch outputs"]:
        """Embed samples in the crop, [-1, 1], with the heatmap's value at each of them, 0 to 1."""
        if points.shape[1] < self.samples:
            raise ValueError(
                f"the embedding reads {self.samples} heatmap samples per joint; the batch holds "
                f"{points.shape[1]}: draw it with samples={self.samples} or more"
            )
        points, density = points[:, : self.samples], density[:, : self.samples]
        codes = self.code(points).flatten(-2)
        tokens = self.project(torch.einsum("bsj,bsjc->bjc", density, codes))
        kept = self.drop(torch.ones_like(density[:, 0]))[..., None]
        return self.out(self.transformer(tokens * kept + self.joints.weight).flatten(1))


class ChannelCode(nn.Module):
    r"""A number as heights of overlapping bumps $\phi_k(u) = \cos^2(\pi (u - c_k) / 4 \Delta)$.

    The centres $c_k$ are evenly spaced by $\Delta$ and a bump ends $2\Delta$ from its centre, so
    that four bumps overlap and their heights sum to 2. One centre lies beyond each end of the
    range, which makes this hold throughout; numbers outside count as the nearest end.
    """

    def __init__(self, channels: int, *, reach: float = REACH) -> None:
        super().__init__()
        if channels < 4:
            raise ValueError(f"four bumps overlap, so channels must be at least 4; got {channels}")
        self.channels = channels
        self.reach = reach
        self.spacing = 2 * reach / (channels - 3)

    def forward(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch channels"]:
        """Return the heights of all bumps; only the four that are not 0 are computed."""
        place = (u.clamp(-self.reach, self.reach) + self.reach)[..., None] / self.spacing + 1
        first = (place.floor() - 1).clamp(0, self.channels - 4)
        near = first + torch.arange(4, device=u.device, dtype=u.dtype)
        heights = ((place - near) * math.pi / 4).cos().square()
        return heights.new_zeros(*u.shape, self.channels).scatter(-1, near.long(), heights)
