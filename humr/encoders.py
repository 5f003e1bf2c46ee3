"""From observations to one context vector per image, and from there to shape and camera."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr.config import Model
from humr.datasets import Batch
from humr.embedding import HeatmapEmbedding

BETAS = 11
WEAK = 3  # scale and offset of the weak-perspective camera
# Most inner features are 0 for most images; unbounded, a rare one would be hundreds of deviations.
OUTLIER = 5.0
SMALLEST_STD = 0.02


class ContextEncoder(nn.Module):
    r"""Join image feature, 2D pose and box: $c = [c_I, c_P, c_B]$ (HuMR, section 4.1).

    $c_P$ is the 17 x (x, y, confidence) of the 2D pose through Linear, ReLU, Linear; $c_B$ is
    `cameras.box_info`. A detector that was not made for this task has a longer and raw feature
    vector; it is standardised, cut at 5 deviations and shortened first (`feature_width`; 720
    features of the paper's backbone enter as they are), and the network is told
    where the detector's window lies in the box (`window_info`).

    For the ablations `Model.box` and `Model.pose` leave $c_B$ and $c_P$ out, and
    `Model.embedding` adds samples of the heatmaps as `embedding.HeatmapEmbedding` sees them, as
    wide as $c_P$.
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
        self.embedding = (
            HeatmapEmbedding(model.pose_width, samples=model.embedding_samples)
            if model.embedding
            else None
        )
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
