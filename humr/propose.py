r"""ProPose: lifting through two latent Gaussians and a flow between them.

After Han, Kim and Lee, "ProPose: Probabilistic 3D Human Pose Estimation with Instance-Level
Distribution and Normalizing Flow" (AAAI 2025). The paper gives no sizes and its code was not
available: equations are the paper's, [ours] marks what it leaves open. $d$ is the width of all
latents, $P_{3D}$ and $P_{2D}$ the poses, $c = P_{2D}$ the flow's condition.

- Eq. 1-2, instance Gaussian (PILGD): $S_{3D} = \mathcal N(\mu_{3D}, s I_d)$ with
  $\mu_{3D} = \sigma_\alpha(g_\phi(P_{3D}, P_{2D}))$ and a fixed $s$. The text calls $s$ the
  variance; Eq. 3 multiplies noise by it. Here it is the standard deviation, as in Eq. 3 [ours].
- Eq. 3: $\hat P_{3D} = k_\xi(\mu_{3D} + s z, P_{2D})$, $z \sim \mathcal N(0, I_d)$.
- Eq. 5, soft clamp: $\sigma_\alpha(t) = (2 \alpha / \pi) \arctan(t / \alpha)$, as in the flow.
- Eq. 7-8, adaptive Gaussian (PAGD): $\mu_{2D}, \sigma_{2D} = h_\psi(q_\omega(P_{2D}))$, clamped
  softly; $v_\tau$ decodes $q_\omega(P_{2D})$ back to $P_{2D}$. Whether $\sigma_{2D}$ is predicted
  directly is not said; $h_\psi$ gives $\log \sigma_{2D}$, clamped softly to (-2, 2) [ours].
- Eq. 9: $p(w; c) = \mathcal N(f_\theta(w; c); \mu_{2D}, \sigma_{2D}) |\det \partial f_\theta /
  \partial w|$. The density is that of the *latent* $w$. A pose has none that could be computed:
  $k_\xi$ cannot be inverted.
- Sampling (figure 2): $w_{2D} \sim \mathcal N(\mu_{2D}, \sigma_{2D})$, then
  $k_\xi(f_\theta^{-1}(w_{2D}; c), P_{2D})$. A single hypothesis takes $w_{2D} = \mu_{2D}$.
- Eq. 11, discriminator: an autoencoder of $P_{3D}$ under the condition $P_{2D}$.

[ours] All networks are a linear layer, a leaky ReLU, residual blocks and a linear layer, without
normalisation or dropout; $f_\theta$ is the flow of `flows`, like that of Wehrbein et al. (2021).
Poses enter and leave in metres; the networks see decimetres, so that numbers are of order 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr.flows import ConditionalFlow, paper_clamp
from humr.lifting_config import ProposeModel
from humr.lifting_data import LiftingBatch, complete

JOINTS = 16
DECIMETRES = 10.0  # per metre
LOG_STD_LIMIT = 2.0  # of the adaptive Gaussian
POSTERIOR_LIMIT = 5.0  # the same of the autoencoder that replaces the instance Gaussian
CRITIC_CODE = 16  # one number per joint: what the 2D pose leaves open is about one depth each


def normal_like(
    like: Tensor, *shape: int, generator: torch.Generator | None
) -> Float[Tensor, "..."]:
    """Draw standard normal noise on the generator's device; type and device become `like`'s."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions, a set of `dim` for every image."""

    mean: Float[Tensor, "batch dim"]
    log_std: Float[Tensor, "batch dim"]

    def at(
        self, noise: Float[Tensor, "batch hypotheses dim"]
    ) -> Float[Tensor, "batch hypotheses dim"]:
        """Turn standard normal noise into samples, differentiably."""
        return self.mean[:, None] + self.log_std.exp()[:, None] * noise

    def log_prob(
        self, x: Float[Tensor, "batch hypotheses dim"]
    ) -> Float[Tensor, "batch hypotheses"]:
        r"""Log density $-\log \sigma - (x - \mu)^2 / 2 \sigma^2 - \frac12 \log 2 \pi$, summed."""
        z = (x - self.mean[:, None]) * (-self.log_std[:, None]).exp()
        constant = self.log_std.sum(-1, keepdim=True) + 0.5 * x.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant


class ResidualBlock(nn.Module):
    r"""$h + \mathrm{lrelu}(W h + b)$."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """Add the change."""
        return hidden + functional.leaky_relu(self.linear(hidden), inplace=True)


def _after_first(hidden: int, outputs: int, layers: int) -> list[nn.Module]:
    blocks = (ResidualBlock(hidden) for _ in range(layers))
    return [nn.LeakyReLU(inplace=True), *blocks, nn.Linear(hidden, outputs)]


def residual_mlp(inputs: int, outputs: int, *, hidden: int, layers: int) -> nn.Sequential:
    """Linear layer, leaky ReLU, `layers` residual blocks, linear layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), *_after_first(hidden, outputs, layers))


class ConditionedMLP(nn.Module):
    """A `residual_mlp` of `[x, context]` where all hypotheses of an image share its context.

    The first weight is that of the concatenating form; its context's columns are applied once
    per image.
    """

    def __init__(
        self, inputs: int, outputs: int, *, context: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.first = nn.Linear(inputs + context, hidden)
        self.rest = nn.Sequential(*_after_first(hidden, outputs, layers))

    def forward(
        self,
        x: Float[Tensor, "batch hypotheses inputs"],
        context: Float[Tensor, "batch context"],
    ) -> Float[Tensor, "batch hypotheses outputs"]:
        """Map every hypothesis; the result has the type of `x` also under autocast."""
        expected = (self.inputs, self.first.in_features - self.inputs)
        if (x.shape[-1], context.shape[-1]) != expected or len(x) != len(context):
            raise ValueError(
                f"expected (batch, hypotheses, {expected[0]}) and a context (batch, {expected[1]})"
                f" of the same images; got {tuple(x.shape)} and {tuple(context.shape)}"
            )
        own, shared = self.first.weight.split(expected, dim=1)
        projected = functional.linear(context, shared, self.first.bias)
        hidden = functional.linear(x, own) + projected[:, None]
        return self.rest(hidden).to(x.dtype)


class InstanceLearner(nn.Module):
    r"""Conditional autoencoder of 3D poses with a Gaussian per pose (PILGD; Eq. 1-3).

    With `config.instance == "normal"` it is the paper's control (Table 4): "the PILGD learner is
    variational autoencoder". Of the Gaussian per pose nothing else is said; here [ours] $g_\phi$
    gives mean and standard deviation of an approximate posterior, which reconstruction samples
    and a divergence pulls to $\mathcal N(0, I)$. See `Propose.latent` for what the flow sees.
    """

    def __init__(self, config: ProposeModel) -> None:
        super().__init__()
        self.limit, self.variational = config.limit, config.instance == "normal"
        self.log_std = math.log(config.std)
        pose, points, width = 3 * JOINTS, 2 * JOINTS, config.width
        sizes = {"context": points, "hidden": config.hidden, "layers": config.layers}
        self.encoder = ConditionedMLP(pose, width * (1 + self.variational), **sizes)
        self.decoder = ConditionedMLP(width, pose, **sizes)

    def encode(
        self, pose: Float[Tensor, "batch 16 3"], points: Float[Tensor, "batch 16 2"]
    ) -> Gaussian:
        """Return the Gaussian of a labelled pose (metres)."""
        flat = (DECIMETRES * pose).flatten(1)[:, None]
        raw = self.encoder(flat, points.flatten(1))[:, 0]
        if not self.variational:
            mean = paper_clamp(raw, self.limit)
            return Gaussian(mean, torch.full_like(mean, self.log_std))
        mean, log_std = raw.chunk(2, -1)
        return Gaussian(paper_clamp(mean, self.limit), paper_clamp(log_std, POSTERIOR_LIMIT))

    def decode(
        self,
        latent: Float[Tensor, "batch hypotheses dim"],
        points: Float[Tensor, "batch 16 2"],
    ) -> Float[Tensor, "batch hypotheses 16 3"]:
        """Return poses in metres."""
        flat = self.decoder(latent, points.flatten(1))
        return flat.unflatten(-1, (JOINTS, 3)) / DECIMETRES


class AdaptiveLearner(nn.Module):
    """Autoencoder of 2D poses whose code also gives the flow's base (PAGD; Eq. 6-8).

    The code has half the hidden width [ours]: nothing narrows, since the input has 32 numbers.
    """

    def __init__(self, config: ProposeModel) -> None:
        super().__init__()
        points, hidden, code = 2 * JOINTS, config.hidden, (config.hidden + 1) // 2
        self.limit = config.limit
        self.encoder = residual_mlp(points, code, hidden=hidden, layers=config.layers)
        self.decoder = residual_mlp(code, points, hidden=hidden, layers=config.layers)
        self.head = nn.Linear(code, 2 * config.width)

    def forward(self, points: Float[Tensor, "batch 16 2"]) -> Gaussian:
        """Return the adaptive Gaussian."""
        raw = self.head(self.encoder(points.flatten(1))).to(points.dtype)
        mean, log_std = raw.chunk(2, -1)
        return Gaussian(paper_clamp(mean, self.limit), paper_clamp(log_std, LOG_STD_LIMIT))

    def reconstruct(self, points: Float[Tensor, "batch 16 2"]) -> Float[Tensor, "batch 16 2"]:
        """Encode and decode 2D poses."""
        flat = self.decoder(self.encoder(points.flatten(1)))
        return flat.unflatten(-1, (JOINTS, 2)).to(points.dtype)


class Discriminator(nn.Module):
    """Conditional autoencoder whose reconstruction error is an energy (EBGAN; Eq. 11).

    The paper says that EBGAN's is "slightly modified", by the condition. The error is the mean
    distance of a joint, in decimetres [ours]: EBGAN squares, but Eq. 4 does not.
    """

    def __init__(self, config: ProposeModel) -> None:
        super().__init__()
        sizes = {
            "context": 2 * JOINTS,
            "hidden": config.critic_hidden,
            "layers": config.layers,
        }
        self.encoder = ConditionedMLP(3 * JOINTS, CRITIC_CODE, **sizes)
        self.decoder = ConditionedMLP(CRITIC_CODE, 3 * JOINTS, **sizes)

    def forward(
        self, pose: Float[Tensor, "batch 16 3"], points: Float[Tensor, "batch 16 2"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch code"]]:
        """Return energies (decimetres) and codes of poses (metres)."""
        pose, context = DECIMETRES * pose, points.flatten(1)
        code = self.encoder(pose.flatten(1)[:, None], context)
        again = self.decoder(code, context)[:, 0].unflatten(-1, (JOINTS, 3))
        return (again - pose).norm(dim=-1).mean(-1), code[:, 0]


class Propose(nn.Module):
    """The whole system without its discriminator, which only training needs."""

    def __init__(self, config: ProposeModel) -> None:
        super().__init__()
        self.config = config
        self.instance = InstanceLearner(config)
        self.adaptive = AdaptiveLearner(config) if config.adaptive == "learned" else None
        self.flow = ConditionalFlow(
            config.width,
            2 * JOINTS,
            blocks=config.blocks,
            hidden=config.flow_hidden,
            clamp=config.clamp,
            coupling=config.coupling,
            layers=2,  # as in Wehrbein et al.
        )

    def base(self, points: Float[Tensor, "batch 16 2"]) -> Gaussian:
        r"""Return the flow's base: the adaptive Gaussian, or $\mathcal N(0, I)$ (Table 5)."""
        if self.adaptive is not None:
            return self.adaptive(points)
        return self._standard(points)

    def latent(self, batch: LiftingBatch) -> Gaussian:
        r"""Return $S_{3D}$, what the flow learns to reach: it reads the 3D label.

        With `instance == "normal"` it is $\mathcal N(0, I)$ for every pose, so that the flow maps
        between two distributions that know nothing of the label and all ambiguity is the
        decoder's, as in any conditional variational autoencoder. Samples of its posterior would
        be another reading; the table prints $\mathcal N(0, I)$.
        """
        if self.instance.variational:
            return self._standard(batch.points)
        return self.instance.encode(batch.pose, batch.points)

    def latent_log_prob(
        self,
        latent: Float[Tensor, "batch hypotheses dim"],
        points: Float[Tensor, "batch 16 2"],
    ) -> Float[Tensor, "batch hypotheses"]:
        """Exact log density of *latents* (Eq. 9), not of poses."""
        noise, log_det = self.flow.normalize(latent, self.flow.project(points.flatten(1)))
        return self.base(points).log_prob(noise) + log_det

    def reach(
        self,
        noise: Float[Tensor, "batch hypotheses dim"],
        points: Float[Tensor, "batch 16 2"],
    ) -> Float[Tensor, "batch hypotheses dim"]:
        r"""Return latents $f_\theta^{-1}(\mu_{2D} + \sigma_{2D} z; c)$ of normal noise $z$."""
        condition = self.flow.project(points.flatten(1))
        return self.flow.generate(self.base(points).at(noise), condition)[0]

    def hypotheses(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch count 16 3"]:
        """Draw poses (metres, not centred exactly: nothing makes the decoder do so)."""
        if count < 1:
            raise ValueError(f"count must be at least 1 hypothesis; got {count}")
        shape = (len(batch), count, self.config.width)
        noise = normal_like(batch.points, *shape, generator=generator)
        return self.instance.decode(self.reach(noise, batch.points), batch.points)

    @torch.no_grad()
    def sample(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch count 17 3"]:
        """Draw hypotheses with the pelvis, which is at 0."""
        return complete(self.hypotheses(batch, count, generator=generator))

    @torch.no_grad()
    def mode(self, batch: LiftingBatch) -> Float[Tensor, "batch 17 3"]:
        """Decode the base's mode: the paper's single hypothesis, not a mode over poses."""
        noise = batch.points.new_zeros(len(batch), 1, self.config.width)
        return complete(self.instance.decode(self.reach(noise, batch.points), batch.points))[:, 0]

    def _standard(self, points: Tensor) -> Gaussian:
        zeros = points.new_zeros(len(points), self.config.width)
        return Gaussian(zeros, zeros)
