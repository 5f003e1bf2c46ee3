r"""Lifting as an inversion: 3D pose $\leftrightarrow$ [latent, 2D pose] (Wehrbein et al. 2021).

Sixteen joints in 3D are 48 numbers; their projection has 32. A normalizing flow takes the pose to
$(\hat z, \hat y) = f(x; c)$, where $\hat y$ is trained to be the 2D pose and $\hat z$, 16 numbers,
to be standard normal and independent of it: what the projection lost. Read backwards, noise and a
detected 2D pose become a hypothesis, $x = f^{-1}(z, y; c)$. The condition $c = h_\theta(\hat c)$
tells how sure the detector is of each joint.

Vectors are joint-major: $(x_0, y_0, z_0, x_1, \ldots)$; $z$ comes before $y$ (official code).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr.devices import unrounded
from humr.flows import Condition, ConditionalFlow, standard_normal_log_prob
from humr.lifting_config import LiftingModel
from humr.lifting_data import LiftingBatch, complete
from humr.skeletons import CONDITION13, H36M17, MPII16, POSE16

POSE = 3 * len(POSE16)
POINTS = 2 * len(MPII16)
LATENT = POSE - POINTS
GAUSSIANS = 6 * len(CONDITION13)
# Beside the bones proper: the three sides of the triangle that the pelvis leaves open.
TRIANGLE = (("right_hip", "left_hip"), ("right_hip", "spine"), ("left_hip", "spine"))
FIRST_STD = 0.1  # of the likelihood's 2D noise, in units of the normalised 2D pose
NOISE_GAIN = 10.0  # how much faster than the weights, under Adam, its logarithm moves


def normal(
    *shape: int, like: Tensor, generator: torch.Generator | None
) -> Float[Tensor, "*shape"]:
    """Draw standard normal noise on the generator's device and move it to that of `like`."""
    device = like.device if generator is None else generator.device
    drawn = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


class ConditionNet(nn.Sequential):
    r"""The network $h_\theta$: 13 Gaussians, 78 numbers, to the flow's context."""

    def __init__(self, hidden: int = 256, width: int = 56) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(GAUSSIANS, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )


class LiftingFlow(nn.Module):
    r"""The invertible network, its condition, and hypotheses from it.

    Subnets have two linear layers. Every parameter of the flow, biases included, starts as
    $\mathcal N(0, \text{init\_std}^2)$ (official code); those of $h_\theta$ start as in torch.

    With `noisy` the 2D pose is no exact part of the flow's output: $y = \hat y + \sigma \epsilon$
    with a learned $\sigma$ for each of the 32 numbers. Then, and only then, poses have a density
    (`log_prob`), and hypotheses draw the 2D noise too. This is the likelihood-trained control;
    the paper's model is the other one.
    """

    def __init__(self, config: LiftingModel, *, noisy: bool = False) -> None:
        super().__init__()
        self.encoder = None
        if config.condition:
            self.encoder = ConditionNet(config.condition_hidden, config.condition_width)
        self.flow = ConditionalFlow(
            POSE,
            config.condition_width if config.condition else 0,
            blocks=config.blocks,
            hidden=config.hidden,
            clamp=config.clamp,
            coupling=config.coupling,
            layers=2,
        )
        for parameter in self.flow.parameters():
            nn.init.normal_(parameter, std=config.init_std)
        scaled = torch.full((POINTS,), math.log(FIRST_STD) / NOISE_GAIN)
        self.scaled_log_std = nn.Parameter(scaled) if noisy else None

    @property
    def std(self) -> Float[Tensor, " points"]:
        """Standard deviation of the 2D noise, of `noisy` models."""
        if self.scaled_log_std is None:
            raise ValueError(
                "only a noisy model has a density: the 2D pose of the others is exact; "
                "build LiftingFlow(config, noisy=True)"
            )
        return (NOISE_GAIN * self.scaled_log_std).exp()

    def project(self, batch: LiftingBatch) -> Condition:
        """Apply everything that reads the Gaussians, once per image; for the other methods."""
        if self.encoder is None:
            return self.flow.project(batch.condition.new_zeros(len(batch), 0))
        if batch.condition.shape[1:] != (len(CONDITION13), 6):
            shape = tuple(batch.condition.shape)
            raise ValueError(f"condition must be batch x {len(CONDITION13)} x 6; got {shape}")
        return self.flow.project(self.encoder(batch.condition))

    def forward_pose(
        self, pose: Float[Tensor, "batch 16 3"], projected: Condition
    ) -> tuple[Float[Tensor, "batch 16"], Float[Tensor, "batch 16 2"]]:
        r"""Split a pose into latent and 2D pose, $(\hat z, \hat y) = f(x; c)$."""
        z, points, _ = self._split(pose, projected)
        return z, points

    def lift(
        self,
        z: Float[Tensor, "batch hypotheses 16"],
        points: Float[Tensor, "batch 16 2"],
        projected: Condition,
    ) -> Float[Tensor, "batch hypotheses 16 3"]:
        r"""Put latents and a 2D pose together, $x = f^{-1}(z, y; c)$; inverts `forward_pose`."""
        return self._join(z, points.flatten(1)[:, None].expand(-1, z.shape[1], -1), projected)

    def hypotheses(
        self,
        points: Float[Tensor, "batch 16 2"],
        projected: Condition,
        count: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch hypotheses 16 3"]:
        """Lift a 2D pose with random latents (and, if `noisy`, random 2D errors)."""
        z = normal(len(points), count, LATENT, like=points, generator=generator)
        if self.scaled_log_std is None:
            return self.lift(z, points, projected)
        error = normal(len(points), count, POINTS, like=points, generator=generator)
        return self._join(z, points.flatten(1)[:, None] + self.std * error, projected)

    @torch.no_grad()
    def sample(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hypotheses 17 3"]:
        """Draw hypotheses with the pelvis at the origin."""
        projected = self.project(batch)
        return complete(self.hypotheses(batch.points, projected, count, generator=generator))

    @torch.no_grad()
    def mode(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3"]:
        """The hypothesis of $z = 0$, pelvis at the origin."""
        z = batch.points.new_zeros(len(batch), 1, LATENT)
        return complete(self.lift(z, batch.points, self.project(batch))[:, 0])

    def log_prob(self, batch: LiftingBatch) -> Float[Tensor, " batch"]:
        r"""Exact log density of 3D poses given 2D poses, of a `noisy` model.

        $$\log p(x \mid y, c) = \log \mathcal N(\hat z; 0, I)
          + \log \mathcal N(\hat y; y, \operatorname{diag} \sigma^2)
          + \log |\det \partial f / \partial x|$$

        A density over 48 numbers. Centred poses fill 45 dimensions only: trained on these alone
        it would grow without bound, see `LiftingObjective`.
        """
        z, points, log_det = self._split(batch.pose, self.project(batch))
        std = self.std
        error = (points - batch.points).flatten(1) / std
        base = standard_normal_log_prob(z) + standard_normal_log_prob(error) - std.log().sum()
        return base + log_det

    def _split(self, pose: Tensor, projected: Condition) -> tuple[Tensor, Tensor, Tensor]:
        output, log_det = self.flow.normalize(pose.flatten(1)[:, None], projected)
        z, points = output[:, 0].split([LATENT, POINTS], -1)
        return z, points.unflatten(-1, (-1, 2)), log_det[:, 0]

    def _join(self, z: Tensor, points: Tensor, projected: Condition) -> Tensor:
        poses, _ = self.flow.generate(torch.cat([z, points], -1), projected)
        return poses.unflatten(-1, (-1, 3))


def bone_matrix() -> Float[Tensor, "joints bones"]:
    r"""The matrix $C$ of the Kinematic Chain Space: $X C$ has the bones of $X$ as columns.

    A bone is its start minus its end: first the bones of Human3.6M that do not touch the pelvis,
    which POSE16 lacks, limb after limb; then the sides of `TRIANGLE`.
    """
    pairs = [(H36M17.names[start], H36M17.names[end]) for start, end in H36M17.bones]
    bones = [pair for pair in pairs if "pelvis" not in pair] + list(TRIANGLE)
    matrix = torch.zeros(len(POSE16), len(bones))
    for column, (start, end) in enumerate(bones):
        matrix[POSE16.index(start), column] = 1
        matrix[POSE16.index(end), column] = -1
    return matrix


@unrounded
def kinematic_chain(
    pose: Float[Tensor, "*batch 16 3"], matrix: Float[Tensor, "16 bones"]
) -> Float[Tensor, "*batch bones bones"]:
    r"""Inner products of bones, $\Psi = B^\top B$ with $B = X C$ (Wandt and Rosenhahn 2019).

    Squared lengths on the diagonal, cosines times lengths elsewhere: blind to the pose's place and
    orientation.
    """
    bones = matrix.mT @ pose
    return bones @ bones.mT


class Critic(nn.Module):
    """The critic of poses: one path sees joints, the other lengths and angles of bones.

    From Wandt and Rosenhahn (2019), RepNet. Leaky rectifiers of slope 0.01; none after the last
    layer of a path; in both, the third layer adds the first one's output.

    Args:
        hidden: width of the path of joints, and after both paths.
        bones_hidden: width of the path of bones.
    """

    matrix: Tensor

    def __init__(self, *, hidden: int = 100, bones_hidden: int = 1000) -> None:
        super().__init__()
        self.register_buffer("matrix", bone_matrix())
        bones = self.matrix.shape[1]
        self.pose1 = nn.Linear(POSE, hidden)
        self.pose2 = nn.Linear(hidden, hidden)
        self.pose3 = nn.Linear(hidden, hidden)
        self.pose4 = nn.Linear(hidden, hidden)
        self.bones1 = nn.Linear(bones**2, bones_hidden)
        self.bones2 = nn.Linear(bones_hidden, bones_hidden)
        self.bones3 = nn.Linear(bones_hidden, bones_hidden)
        self.both1 = nn.Linear(hidden + bones_hidden, hidden)
        self.both2 = nn.Linear(hidden, 1)

    def forward(self, pose: Float[Tensor, "*batch 16 3"]) -> Float[Tensor, "*batch"]:
        """Score poses; higher for those that look real."""
        leaky = functional.leaky_relu
        first = leaky(self.pose1(pose.flatten(-2)))
        third = self.pose3(leaky(self.pose2(first))) + first
        joints = self.pose4(leaky(third))
        first = leaky(self.bones1(kinematic_chain(pose, self.matrix).flatten(-2)))
        bones = self.bones3(leaky(self.bones2(first))) + first
        both = leaky(self.both1(torch.cat([joints, bones], -1)))
        return self.both2(both).squeeze(-1)
