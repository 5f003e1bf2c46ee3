r"""Lifting as an inversion: 3D pose $\leftrightarrow$ [latent, 2D pose] (Wehrbein et al. 2021).

Sixteen joints in 3D are 48 numbers; their projection has 32. A normalizing flow takes the pose to
$(\hat z, \hat y) = f(x; c)$, where $\hat y$ is trained to be the 2D pose and $\hat z$, 16 numbers,
to be standard normal and independent of it: what the projection lost. Read backwards, noise and a
detected 2D pose become a hypothesis, $x = f^{-1}(z, y; c)$. The condition $c = h_\theta(\hat c)$
tells how sure the detector is of each joint.

Vectors are joint-major: $(x_0, y_0, z_0, x_1, \ldots)$; $z$ comes before $y$ (official code).
Sections and equations are those of the ICCV paper. Where it has L1 norms, losses are means over
elements, as in the official code; the paper's weights belong to means.
"""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr import losses
from humr.devices import constant, full_precision, normal
from humr.flows import Condition, ConditionalFlow, standard_normal_log_prob
from humr.lifting.config import LiftingModel, LiftingRule, LiftingWeights
from humr.lifting.data import (
    CERTAIN,
    SIGMA_UNIT,
    Hypotheses,
    LiftingBatch,
    Points,
    Pose,
    complete,
)
from humr.losses import nll
from humr.metrics import centre, mpjpe
from humr.skeletons import CONDITION13, H36M17, MPII16, POSE16, index_map
from humr.training import OptimizerGroup

POSE = 3 * len(POSE16)
POINTS = 2 * len(MPII16)
LATENT = POSE - POINTS
GAUSSIANS = 6 * len(CONDITION13)
CONDITION_FROM_POSE = index_map(POSE16, CONDITION13)
POSE_HIPS = POSE16.indices(["right_hip", "left_hip"])
# Beside the bones proper: the three sides of the triangle that the pelvis leaves open.
TRIANGLE = (("right_hip", "left_hip"), ("right_hip", "spine"), ("left_hip", "spine"))
FIRST_STD = 0.1  # of the likelihood's 2D noise, in units of the normalised 2D pose
NOISE_GAIN = 10.0  # how much faster than the weights, under Adam, its logarithm moves
METRES_PER_PIXEL = 0.01  # of the detector's heatmap (section 4.2)
OFFSET = 0.1  # metres; standard deviation of the common offset that gives centred poses a density
ON_HYPOTHESES = ("heatmap", "best")  # terms that share the rule's hypotheses
ESTIMATORS = {"unbiased": losses.mmd, "biased": losses.mmd_biased}

Scores = Callable[[Pose], Float[Tensor, " batch"]]


# ---- the flow, and hypotheses from it


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
        self, pose: Pose, projected: Condition
    ) -> tuple[Float[Tensor, "batch 16"], Points, Float[Tensor, " batch"]]:
        r"""Split a pose into latent and 2D pose, $(\hat z, \hat y) = f(x; c)$.

        The third is $\log |\det \partial f / \partial x|$.
        """
        output, log_det = self.flow.normalize(pose.flatten(1)[:, None], projected)
        z, points = output[:, 0].split([LATENT, POINTS], -1)
        return z, points.unflatten(-1, (-1, 2)), log_det[:, 0]

    def lift(
        self, z: Float[Tensor, "batch hypotheses 16"], points: Points, projected: Condition
    ) -> Hypotheses:
        r"""Put latents and a 2D pose together, $x = f^{-1}(z, y; c)$; inverts `forward_pose`."""
        return self._join(z, points.flatten(1)[:, None].expand(-1, z.shape[1], -1), projected)

    def hypotheses(
        self,
        points: Points,
        projected: Condition,
        count: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Hypotheses:
        """Lift a 2D pose with random latents (and, if `noisy`, random 2D errors)."""
        z = normal((len(points), count, LATENT), points, generator)
        if self.scaled_log_std is None:
            return self.lift(z, points, projected)
        error = normal((len(points), count, POINTS), points, generator)
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
        z, points, log_det = self.forward_pose(batch.pose, self.project(batch))
        error = (points - batch.points).flatten(1) / self.std
        base = standard_normal_log_prob(z) + standard_normal_log_prob(error)
        return base - self.std.log().sum() + log_det

    def _join(self, z: Tensor, points: Tensor, projected: Condition) -> Tensor:
        poses, _ = self.flow.generate(torch.cat([z, points], -1), projected)
        return poses.unflatten(-1, (-1, 3))


class ConditionNet(nn.Sequential):
    r"""The network $h_\theta$: 13 Gaussians, 78 numbers, to the flow's context."""

    def __init__(self, hidden: int = 256, width: int = 56) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(GAUSSIANS, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )


# ---- the critic: a discriminator of Wasserstein type, from RepNet


class Critic(nn.Module):
    """The critic of poses: one path sees joints, the other lengths and angles of bones.

    From Wandt and Rosenhahn (2019), RepNet. Leaky rectifiers of slope 0.01; none after the last
    layer of a path; in both, the third layer adds the first one's output. The path of joints, and
    what follows both, is `hidden` wide.
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


@full_precision
def kinematic_chain(
    pose: Float[Tensor, "*batch 16 3"], matrix: Float[Tensor, "16 bones"]
) -> Float[Tensor, "*batch bones bones"]:
    r"""Inner products of bones, $\Psi = B^\top B$ with $B = X C$ (Wandt and Rosenhahn 2019).

    Squared lengths on the diagonal, cosines times lengths elsewhere: blind to the pose's place and
    orientation.
    """
    bones = matrix.mT @ pose
    return bones @ bones.mT


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


# ---- losses (section 3), one value per batch element, without weights


def mean_l1(
    predicted: Float[Tensor, " batch *axes"], target: Float[Tensor, " batch *axes"]
) -> Float[Tensor, " batch"]:
    r"""Mean absolute difference: $L_{2D}$ of 2D poses (eq. 5), $L_{det}$ of 3D poses (eq. 7)."""
    return (predicted - target).abs().flatten(1).mean(-1)


def mmd_term(
    z: Float[Tensor, "batch latent"],
    points: Float[Tensor, "batch joints 2"],
    noise: Float[Tensor, "batch latent"],
    target: Float[Tensor, "batch joints 2"],
    *,
    estimator: str = "unbiased",
) -> Float[Tensor, ""]:
    r"""Discrepancy of $[\hat z, \hat y]$ and $[z, y]$, $z \sim \mathcal N(0, I)$ (eq. 6).

    It asks for latents that are normal and independent of the 2D pose. No gradient flows to
    $\hat y$. "unbiased" is the paper's U-statistic: it leaves out pairs of a sample with itself,
    is 0 on average for equal distributions and needs a batch of two; "biased", the official
    code's, takes the mean over all pairs. In training, both sets hold the 2D poses of one batch
    (official code), so that the first is a little below 0 even for the perfect flow.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {sorted(ESTIMATORS)}; got {estimator!r}")
    found = torch.cat([z, points.detach().flatten(1)], -1)
    wanted = torch.cat([noise, target.flatten(1)], -1)
    return ESTIMATORS[estimator](found, wanted)


def heatmap_covariance(
    hypotheses: Hypotheses, condition: Float[Tensor, "batch 13 6"], *, doubled: bool = True
) -> Float[Tensor, " batch"]:
    r"""$L_{HM}$: uncertain joints must spread at least as far as their heatmaps (eq. 3, 4).

    $$\frac{1}{13} \sum_j m_j \sqrt{\max(0, \Sigma_{xx} - \hat\Sigma_{xx})^2
      + \max(0, \Sigma_{yy} - \hat\Sigma_{yy})^2 + (\Sigma_{xy} - \hat\Sigma_{xy})^2}$$

    $\hat\Sigma$ is the unbiased covariance over hypotheses of x and y, relative to the middle of
    the hips; $\Sigma$ is `target_covariance`. A joint counts ($m_j = 1$) if $\Sigma_{xx}$ or
    $\Sigma_{yy}$ belongs to more than 2.1 px *in the condition's own scale*, whichever `doubled`
    says: 2.1 px of 5 or of 10 mm. Axes that are doubled then have over 4.2, so that both rules
    choose the same joints, except for oblique Gaussians whose longer axis alone is wide: doubling
    lifts their projections above the threshold a little earlier.
    """
    if hypotheses.shape[1] < 2:
        raise ValueError(
            f"a covariance needs two or more hypotheses; got {hypotheses.shape[1]} "
            "(raise hypotheses, or set the weight of the heatmap term to 0)"
        )
    found = covariance(hypotheses)
    target = target_covariance(condition, doubled=doubled)
    least = (CERTAIN / SIGMA_UNIT) ** 2
    uncertain = (condition[..., 3] > least) | (condition[..., 5] > least)
    xx, xy, yy = (target - found).unbind(-1)
    missing = torch.stack([xx.relu(), xy, yy.relu()], -1).square().sum(-1)
    return ((missing + 1e-30).sqrt() * uncertain).mean(-1)  # 1e-30: gradient at 0


def target_covariance(
    condition: Float[Tensor, "*batch 13 6"], *, doubled: bool = True
) -> Float[Tensor, "*batch 13 3"]:
    r"""Covariance (xx, xy, yy) in square metres that a condition asks for; y up, like poses.

    The paper counts a pixel of the heatmap as 10 mm. The condition holds covariances in units of
    (20 px)^2, so that 1 means (0.2 m)^2 = 0.04. The official code counts 5 mm, so that 1 means
    0.01, but its conditions hold `doubled` axes: those wider than 2.1 px get the paper's 10 mm,
    sharper ones 5.
    """
    metres = METRES_PER_PIXEL / 2 if doubled else METRES_PER_PIXEL
    return (metres * SIGMA_UNIT) ** 2 * condition[..., 3:]


def covariance(hypotheses: Hypotheses) -> Float[Tensor, "batch 13 3"]:
    """Covariance (xx, xy, yy) over hypotheses of the condition's joints, relative to the hips."""
    points = centre(hypotheses[..., :2], POSE_HIPS)
    points = points[..., constant(CONDITION_FROM_POSE, points.device), :]
    x, y = (points - points.mean(1, keepdim=True)).unbind(-1)
    products = torch.stack([x * x, x * y, y * y], -1)
    return products.sum(1) / (points.shape[1] - 1)


def best_hypotheses(
    hypotheses: Hypotheses, pose: Pose, *, best_of: int = 5
) -> Float[Tensor, " batch"]:
    r"""$L_{MB}$: L1 distance of the label to the mean of the `best_of` best hypotheses (eq. 8).

    Best by mean joint error of 17 joints, pelvis inserted between the hips and put at the origin.
    With 1 this is the best-of-M loss.
    """
    hypotheses, target = complete(hypotheses), complete(pose)
    chosen = losses.best_of(mpjpe(hypotheses.detach(), target[:, None]), best_of)
    best = hypotheses.take_along_dim(chosen[..., None, None], 1)
    return mean_l1(best.mean(1), target)


def critic_gap(critic: Scores, real: Pose, fake: Pose) -> Float[Tensor, " batch"]:
    """What the critic minimises: scores of hypotheses minus scores of labels (WGAN)."""
    return critic(fake) - critic(real)


def gradient_penalty(
    critic: Scores, real: Pose, fake: Pose, share: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""$(\|\nabla D(\tilde x)\| - 1)^2$ at $\tilde x = u\,x + (1 - u)\,\hat x$ (Gulrajani 2017).

    The norm is that of all 48 numbers; `share` holds $u$, uniform in 0 to 1. Nothing flows back
    to the poses.
    """
    mixed = torch.lerp(fake.detach(), real.detach(), share[:, None, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=-1) - 1).square()


def generator_score(critic: Scores, fake: Pose) -> Float[Tensor, " batch"]:
    """$L_{gen}$: what the flow minimises, the negated score of its hypotheses."""
    return -critic(fake)


# ---- objective (section 3.5)


class LiftingObjective(nn.Module):
    """All terms of the lifting flow and of its critic, and which of the two is updated by what.

    Per step the critic is updated `rule.critic_updates` times, then the flow once. The official
    code calls `backward` three times before the flow's update (forward path, inverse path,
    critic); gradients add up, so one `backward` of the weighted sum is the same step. Where it
    draws separate noise for each term of the inverse path, the covariance, best-of-M and critic
    terms here see the same hypotheses; the critic the first of them.

    The critic compares the hypotheses of one image with the label of another, as in the official
    code, where both come from different batches; here they are neighbours in one batch.

    Terms of weight 0 are left out, and without the critic's term the critic does not play.

    The likelihood (our control) is that of poses moved as a whole by a random offset: labels are
    centred, and a density of 48 numbers that they only fill 45 dimensions of has no maximum. The
    offset fills the other three; it is independent of the pose, and hypotheses lose it again when
    their pelvis is put at the origin.
    """

    def __init__(
        self,
        model: LiftingFlow,
        weights: LiftingWeights,
        rule: LiftingRule,
        *,
        critic: Critic | None = None,
    ) -> None:
        super().__init__()
        if weights.adversarial > 0 and critic is None:
            raise ValueError("the adversarial term needs a critic; got None")
        if weights.nll > 0 and model.scaled_log_std is None:
            raise ValueError("the likelihood needs LiftingFlow(config, noisy=True)")
        self.model = model
        self.critic = critic if weights.adversarial > 0 else None
        self.weights = weights
        self.rule = rule

    def optimizer_groups(self) -> dict[str, OptimizerGroup]:
        """The critic (if any), then the flow; of the latter h_theta's gradient is not clipped."""
        own, clipped = list(self.model.parameters()), list(self.model.flow.parameters())
        found = {"model": OptimizerGroup(parameters=own, clipped=clipped)}
        if self.critic is None:
            return found
        critic, updates = list(self.critic.parameters()), self.rule.critic_updates
        return {"critic": OptimizerGroup(parameters=critic, updates=updates)} | found

    def forward(
        self, batch: LiftingBatch, *, generator: torch.Generator, group: str
    ) -> dict[str, Tensor]:
        """Return the means of one group's terms, without weights."""
        if group == "model":
            return self._model_terms(batch, generator)
        if group == "critic" and self.critic is not None:
            return self._critic_terms(self.critic, batch, generator)
        raise ValueError(f"group must be one of {list(self.optimizer_groups())}; got {group!r}")

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of one group's terms; every weight above 0 needs its term."""
        weights = {f.name: getattr(self.weights, f.name) for f in fields(self.weights)}
        own = {name: weight for name, weight in weights.items() if weight > 0}
        critic = {"gap": 1.0, "penalty": self.rule.penalty}
        for expected in (own, critic):
            if terms.keys() == expected.keys():
                return torch.stack([expected[name] * term for name, term in terms.items()]).sum()
        raise ValueError(
            f"terms {sorted(terms)} match neither weights {sorted(own)} nor {sorted(critic)}"
        )

    def _critic_terms(
        self, critic: Critic, batch: LiftingBatch, generator: torch.Generator
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            projected = self.model.project(batch)
            drawn = self.model.hypotheses(batch.points, projected, 1, generator=generator)
        real, fake = batch.pose, drawn[:, 0].roll(1, 0)
        share = torch.rand(len(batch), generator=generator, device=generator.device)
        penalty = gradient_penalty(critic, real, fake, share.to(real))
        return {"gap": critic_gap(critic, real, fake).mean(), "penalty": penalty.mean()}

    def _model_terms(self, batch: LiftingBatch, generator: torch.Generator) -> dict[str, Tensor]:
        projected = self.model.project(batch)
        terms = self._forward_terms(batch, projected, generator)
        terms |= self._inverse_terms(batch, projected, generator)
        if self.weights.nll > 0:
            offset = OFFSET * normal((len(batch), 1, 3), batch.pose, generator)
            moved = replace(batch, pose=batch.pose + offset)
            terms["nll"] = nll(self.model.log_prob(moved), POSE).mean()
        return terms

    def _forward_terms(
        self, batch: LiftingBatch, projected: Condition, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Terms of the path from 3D to 2D, and of the pose that comes back from it."""
        weights, terms = self.weights, {}
        if not max(weights.points, weights.mmd, weights.deterministic) > 0:
            return terms
        z, points, _ = self.model.forward_pose(batch.pose, projected)
        if weights.points > 0:
            terms["points"] = mean_l1(points, batch.points).mean()
        if weights.mmd > 0:
            noise = normal((len(batch), LATENT), z, generator)
            terms["mmd"] = mmd_term(z, points, noise, batch.points, estimator=self.rule.estimator)
        if weights.deterministic > 0:
            back = self.model.lift(z.detach()[:, None], batch.points, projected)[:, 0]
            terms["deterministic"] = mean_l1(back, batch.pose).mean()
        return terms

    def _inverse_terms(
        self, batch: LiftingBatch, projected: Condition, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Terms of random hypotheses."""
        weights, rule, terms = self.weights, self.rule, {}
        many = any(getattr(weights, name) > 0 for name in ON_HYPOTHESES)
        if not (many or self.critic):
            return terms
        count = rule.hypotheses if many else 1
        drawn = self.model.hypotheses(batch.points, projected, count, generator=generator)
        if weights.heatmap > 0:
            missing = heatmap_covariance(drawn, batch.condition, doubled=rule.doubled)
            terms["heatmap"] = missing.mean()
        if weights.best > 0:
            terms["best"] = best_hypotheses(drawn, batch.pose, best_of=rule.best_of).mean()
        if self.critic is not None:
            terms["adversarial"] = generator_score(self.critic, drawn[:, 0]).mean()
        return terms
