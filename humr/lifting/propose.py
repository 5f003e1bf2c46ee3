r"""ProPose: lifting through two latent Gaussians and a flow between them.

After Han, Kim and Lee, "ProPose: Probabilistic 3D Human Pose Estimation with Instance-Level
Distribution and Normalizing Flow" (AAAI 2025). The paper gives no sizes and its code was not
available: equations and their numbers are the paper's, [ours] marks what it leaves open. $d$ is
the width of all latents, $P_{3D}$ and $P_{2D}$ the poses, $c = P_{2D}$ the flow's condition.

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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr import losses
from humr.devices import normal
from humr.flows import ConditionalFlow, paper_clamp
from humr.lifting.config import ProposeModel, ProposeRule, ProposeWeights
from humr.lifting.data import Hypotheses, LiftingBatch, Points, Pose, complete
from humr.training import OptimizerGroup

JOINTS = 16
DECIMETRES = 10.0  # per metre
LOG_STD_LIMIT = 2.0  # of the adaptive Gaussian
POSTERIOR_LIMIT = 5.0  # the same of the autoencoder that replaces the instance Gaussian
CRITIC_CODE = 16  # one number per joint: what the 2D pose leaves open is about one depth each
PHASE1 = ("reconstruct3d", "divergence", "bidirectional", "generator", "pulling")
PHASE2 = ("reconstruct2d", "nll", "mode")
TERMS = {
    "alternate": {"discriminator": ("discriminator",), "instance": PHASE1, "adaptive": PHASE2},
    "end_to_end": {"discriminator": ("discriminator",), "model": PHASE1 + PHASE2},
}
Latents = Float[Tensor, "batch hypotheses dim"]


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions, a set of `dim` for every image."""

    mean: Float[Tensor, "batch dim"]
    log_std: Float[Tensor, "batch dim"]

    def at(self, noise: Latents) -> Latents:
        """Turn standard normal noise into samples, differentiably."""
        return self.mean[:, None] + self.log_std.exp()[:, None] * noise

    def log_prob(self, x: Latents) -> Float[Tensor, "batch hypotheses"]:
        r"""Log density $-\log \sigma - (x - \mu)^2 / 2 \sigma^2 - \frac12 \log 2 \pi$, summed."""
        z = (x - self.mean[:, None]) * (-self.log_std[:, None]).exp()
        constant = self.log_std.sum(-1, keepdim=True) + 0.5 * x.shape[-1] * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant


# ---- the system: two autoencoders, and a flow between their Gaussians


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

    def base(self, points: Points) -> Gaussian:
        r"""Return the flow's base: the adaptive Gaussian, or $\mathcal N(0, I)$ (Table 5)."""
        return self._standard(points) if self.adaptive is None else self.adaptive(points)

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
        self, latent: Latents, points: Points
    ) -> Float[Tensor, "batch hypotheses"]:
        """Exact log density of *latents* (Eq. 9), not of poses."""
        noise, log_det = self.flow.normalize(latent, self.flow.project(points.flatten(1)))
        return self.base(points).log_prob(noise) + log_det

    def reach(self, noise: Latents, points: Points) -> Latents:
        r"""Return latents $f_\theta^{-1}(\mu_{2D} + \sigma_{2D} z; c)$ of normal noise $z$."""
        condition = self.flow.project(points.flatten(1))
        return self.flow.generate(self.base(points).at(noise), condition)[0]

    def lift(self, noise: Latents, points: Points) -> Hypotheses:
        """Return the poses (metres) of normal noise."""
        return self.instance.decode(self.reach(noise, points), points)

    def hypotheses(
        self, batch: LiftingBatch, count: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch count 16 3"]:
        """Draw poses (metres, not centred exactly: nothing makes the decoder do so)."""
        if count < 1:
            raise ValueError(f"count must be at least 1 hypothesis; got {count}")
        shape = (len(batch), count, self.config.width)
        noise = normal(shape, batch.points, generator)
        return self.lift(noise, batch.points)

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
        return complete(self.lift(noise, batch.points))[:, 0]

    def _standard(self, points: Tensor) -> Gaussian:
        zeros = points.new_zeros(len(points), self.config.width)
        return Gaussian(zeros, zeros)


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

    def encode(self, pose: Pose, points: Points) -> Gaussian:
        """Return the Gaussian of a labelled pose (metres)."""
        flat = (DECIMETRES * pose).flatten(1)[:, None]
        raw = self.encoder(flat, points.flatten(1))[:, 0]
        if not self.variational:
            mean = paper_clamp(raw, self.limit)
            return Gaussian(mean, torch.full_like(mean, self.log_std))
        mean, log_std = raw.chunk(2, -1)
        return Gaussian(paper_clamp(mean, self.limit), paper_clamp(log_std, POSTERIOR_LIMIT))

    def decode(self, latent: Latents, points: Points) -> Hypotheses:
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

    def forward(self, points: Points) -> Gaussian:
        """Return the adaptive Gaussian."""
        raw = self.head(self.encoder(points.flatten(1))).to(points.dtype)
        mean, log_std = raw.chunk(2, -1)
        return Gaussian(paper_clamp(mean, self.limit), paper_clamp(log_std, LOG_STD_LIMIT))

    def reconstruct(self, points: Points) -> Points:
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
        sizes = {"context": 2 * JOINTS, "hidden": config.critic_hidden, "layers": config.layers}
        self.encoder = ConditionedMLP(3 * JOINTS, CRITIC_CODE, **sizes)
        self.decoder = ConditionedMLP(CRITIC_CODE, 3 * JOINTS, **sizes)

    def forward(
        self, pose: Pose, points: Points
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch code"]]:
        """Return energies (decimetres) and codes of poses (metres)."""
        pose, context = DECIMETRES * pose, points.flatten(1)
        code = self.encoder(pose.flatten(1)[:, None], context)
        again = self.decoder(code, context)[:, 0].unflatten(-1, (JOINTS, 3))
        return (again - pose).norm(dim=-1).mean(-1), code[:, 0]


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
        self, x: Float[Tensor, "batch hypotheses inputs"], context: Float[Tensor, "batch context"]
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


def residual_mlp(inputs: int, outputs: int, *, hidden: int, layers: int) -> nn.Sequential:
    """Linear layer, leaky ReLU, `layers` residual blocks, linear layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), *_after_first(hidden, outputs, layers))


def _after_first(hidden: int, outputs: int, layers: int) -> list[nn.Module]:
    blocks = (ResidualBlock(hidden) for _ in range(layers))
    return [nn.LeakyReLU(inplace=True), *blocks, nn.Linear(hidden, outputs)]


class ResidualBlock(nn.Module):
    r"""$h + \mathrm{lrelu}(W h + b)$."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """Add the change."""
        return hidden + functional.leaky_relu(self.linear(hidden), inplace=True)


# ---- losses: one value per batch element; poses may have any unit


def joint_error(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    r"""Sum of distances $\sum_j \|P^j - \hat P^j\|_2$ (Eq. 4 and 13).

    The text says "mean squared error"; the equations print norms that are not squared, and no
    mean. The equations count.
    """
    return (predicted - target).norm(dim=-1).sum(-1)


def point_error(
    predicted: Float[Tensor, "*batch joints 2"], target: Float[Tensor, "*batch joints 2"]
) -> Float[Tensor, "*batch"]:
    r"""Sum $\sum_j \|P_{2D}^j - \hat P_{2D}^j\|_1$ over joints and both coordinates (Eq. 6)."""
    return (predicted - target).abs().sum((-1, -2))


def latent_nll(
    noise: Latents, log_det: Float[Tensor, "batch hypotheses"], base: Gaussian
) -> Float[Tensor, " batch"]:
    r"""Negative log-likelihood of latents $w$ whose image is `noise` $= f_\theta(w; c)$ (Eq. 10).

    $$\sum_d \left[\log \sigma_d + \frac{(f_\theta(w; c)_d - \mu_d)^2}{2 \sigma_d^2}
      + \tfrac12 \log 2 \pi \right] - \log |\det \partial f_\theta / \partial w|$$

    The sum is not printed; the exact likelihood needs it. If $w \sim \mathcal N(\mu_{3D}, s^2 I)$
    the expectation is at least the entropy, $\frac d2 \log 2 \pi e s^2$. Mean over hypotheses.
    """
    return -(base.log_prob(noise) + log_det).mean(-1)


def latent_entropy(dim: int, std: float) -> float:
    r"""Entropy $\frac d2 \log 2 \pi e s^2$ of the instance Gaussian, below every `latent_nll`."""
    return dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))


def mode_to_mode(noise: Float[Tensor, "batch dim"], base: Gaussian) -> Float[Tensor, " batch"]:
    r"""Distance $\|f_\theta(\mu_{3D}; c) - \mu_{2D}\|_2$ of the modes (Eq. 15)."""
    return (noise - base.mean).norm(dim=-1)


def divergence(posterior: Gaussian) -> Float[Tensor, " batch"]:
    r"""Kullback-Leibler divergence $\frac12 \sum_d (\mu_d^2 + \sigma_d^2 - 1) - \log \sigma_d$.

    From $\mathcal N(\mu, \sigma)$ to $\mathcal N(0, I)$. Not printed in the paper, but part of any
    variational autoencoder, which its Table 4 compares with.
    """
    squares = posterior.mean.square() + (2 * posterior.log_std).exp() - 1
    return (0.5 * squares - posterior.log_std).sum(-1)


def best_of_many(
    best: Float[Tensor, "batch best joints 3"], target: Float[Tensor, "batch joints 3"]
) -> Float[Tensor, " batch"]:
    """Error of the mean of the best hypotheses (Eq. 12)."""
    return joint_error(best.mean(1), target)


def discriminator(
    real: Float[Tensor, " batch"], fake: Float[Tensor, " batch"], *, margin: float
) -> Float[Tensor, " batch"]:
    r"""Energies of labels and of made poses: $D(P) + [m - D(\hat P)]^+$ (Eq. 11).

    The generator's $L_G = D(\hat P)$ is the energy itself. Made poses beyond the margin do not
    count.
    """
    return real + (margin - fake).relu()


def pulling_away(code: Float[Tensor, "batch code"]) -> Float[Tensor, " batch"]:
    r"""Mean squared cosine of a code with all others of the batch (Eq. 11, $L_{PT}$).

    $$\frac{1}{N - 1} \sum_{j \ne i} \left(\frac{S_i^T S_j}{\|S_i\| \|S_j\|}\right)^2$$

    for every $i$, so that the mean over the batch is the paper's. 0 in a batch of one, where the
    paper's is 0 / 0: nothing is there to be pushed apart [ours].
    """
    direction = functional.normalize(code, dim=-1)
    squares = (direction @ direction.mT).square()
    others = squares.sum(-1) - squares.diagonal()
    return others / max(len(code) - 1, 1)


# ---- objective


class ProposeObjective(nn.Module):
    r"""All terms of ProPose's objective for one batch, by group and name.

    Terms are means over the batch of sums over joints (in decimetres) or latent dimensions, as
    the paper prints them. Terms of weight 0 are left out, and with them groups that have none.
    "generator" ($L_G$) has the weight of "discriminator"; without a discriminator there is no
    "pulling" either. "divergence" exists for the variational control only.

    Scheme "alternate" (algorithm 1): phase 1 trains $g_\phi, k_\xi$ with $L_{recon3D} + L_{Bi}$,
    phase 2 trains $q_\omega, v_\tau, h_\psi, f_\theta$ with $L_{recon2D} + L_{NLL} + L_{m2m}$.
    The algorithm leaves out $L_{disc}$ "for simplicity": the discriminator moves first, on $L_D$,
    and $L_G$ and $L_{PT}$ belong to phase 1, for the paper applies them to the PILGD learner. The
    numbers of batches per phase are not given; one each, with one learning rate for all [ours].

    In phase 2, $w$ and $\mu_{3D}$ are constants. Where gradients pass ("end_to_end", Table 6), the
    likelihood pays $g_\phi$ for making $\mu_{3D}$ a function of the 2D pose, which $f_\theta$
    knows: the latent forgets depth, down to the entropy of noise alone. End to end, $L_{Bi}$
    reaches the flow and its base as well; alternately it reaches $k_\xi$ alone, as no hypothesis
    depends on $g_\phi$.

    Without $L_{NLL}$ (weight 0) the rest goes on as it is. Alternately $f_\theta$ then learns
    $L_{m2m}$ only and $\sigma_{2D}$ nothing at all; the paper trained this row of Table 7 end to
    end, where $L_{Bi}$ teaches both.
    """

    def __init__(self, model: Propose, weights: ProposeWeights, rule: ProposeRule) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        self.together = rule.scheme == "end_to_end"
        self.weights = term_weights(model, weights)
        self.discriminator = Discriminator(model.config) if weights.discriminator > 0 else None
        self.terms = {
            group: kept
            for group, names in TERMS[rule.scheme].items()
            if (kept := tuple(name for name in names if self.weights[name] > 0))
        }

    def optimizer_groups(self) -> dict[str, OptimizerGroup]:
        """Who moves, in order, and with which parameters."""
        model, adaptive = self.model, self.model.adaptive
        modules: dict[str, list[nn.Module | None]] = {
            "discriminator": [self.discriminator],
            "instance": [model.instance],
            "adaptive": [adaptive, model.flow],
            "model": [model],
        }
        moved = {n: [p for m in modules[n] if m for p in m.parameters()] for n in self.terms}
        return {name: OptimizerGroup(parameters=parameters) for name, parameters in moved.items()}

    def forward(
        self, batch: LiftingBatch, *, generator: torch.Generator, group: str
    ) -> dict[str, Tensor]:
        """Return the terms of one group's turn, unweighted."""
        if group not in self.terms:
            raise ValueError(f"group must be one of {', '.join(self.terms)}; got {group!r}")
        shape = (len(batch), 1, self.model.config.width)
        noise = normal(shape, batch.points, generator)
        if group == "discriminator":
            return {group: self._discriminated(batch, noise).mean()}
        terms = {}
        if group != "adaptive":
            terms |= self._phase1(batch, noise, generator)
        if group != "instance":
            terms |= self._phase2(batch, noise)
        return {name: terms[name]().mean() for name in self.terms[group]}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of one group's terms, all of them."""
        if not any(terms.keys() == set(names) for names in self.terms.values()):
            raise ValueError(f"terms {sorted(terms)} are not those of a group: {self.terms}")
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def _phase1(
        self, batch: LiftingBatch, noise: Tensor, generator: torch.Generator
    ) -> dict[str, Callable[[], Tensor]]:
        posterior, made = self._made(batch, noise)
        terms = {
            "reconstruct3d": lambda: _pose_error(made, batch.pose),
            "divergence": lambda: divergence(posterior),
            "bidirectional": lambda: self._bidirectional(batch, generator),
        }
        if self.discriminator is not None:
            energy, code = self.discriminator(made, batch.points)
            terms |= {"generator": lambda: energy, "pulling": lambda: pulling_away(code)}
        return terms

    def _phase2(self, batch: LiftingBatch, noise: Tensor) -> dict[str, Callable[[], Tensor]]:
        model, points = self.model, batch.points
        with torch.set_grad_enabled(self.together and torch.is_grad_enabled()):
            target = model.latent(batch)
        base, condition = model.base(points), model.flow.project(points.flatten(1))
        latents = torch.cat([target.at(noise), target.mean[:, None]], 1)
        image, log_det = model.flow.normalize(latents, condition)
        terms = {
            "nll": lambda: latent_nll(image[:, :1], log_det[:, :1], base),
            "mode": lambda: mode_to_mode(image[:, 1], base),
        }
        if model.adaptive is not None:
            adaptive = model.adaptive
            terms["reconstruct2d"] = lambda: point_error(adaptive.reconstruct(points), points)
        return terms

    def _made(self, batch: LiftingBatch, noise: Tensor) -> tuple[Gaussian, Pose]:
        posterior = self.model.instance.encode(batch.pose, batch.points)
        made = self.model.instance.decode(posterior.at(noise), batch.points)
        return posterior, made[:, 0]

    def _discriminated(self, batch: LiftingBatch, noise: Tensor) -> Tensor:
        r"""$L_D$: labels against reconstructions, which the paper writes $\hat P_{3D}$."""
        assert self.discriminator is not None
        with torch.no_grad():
            _, made = self._made(batch, noise)
        real, _ = self.discriminator(batch.pose, batch.points)
        fake, _ = self.discriminator(made, batch.points)
        return discriminator(real, fake, margin=self.rule.margin)

    def _bidirectional(self, batch: LiftingBatch, generator: torch.Generator) -> Tensor:
        """$L_{Bi}$ (Eq. 12-14); the coin is tossed per batch [ours].

        "Best" means least error of Eq. 13, and the random hypothesis is the first one [ours].
        All hypotheses are decoded, but only those that count once more with gradients.
        """
        own = generator if generator.device.type == "cpu" else None  # no waiting for a coin
        if torch.rand((), generator=own) < self.rule.share:
            return batch.pose.new_zeros(len(batch))
        shape = (len(batch), self.rule.hypotheses, self.model.config.width)
        noise = normal(shape, batch.points, generator)
        with torch.no_grad():
            latents = self.model.reach(noise, batch.points)
            drawn = self.model.instance.decode(latents, batch.points)
            best = losses.best_of(_pose_error(drawn, batch.pose[:, None]), self.rule.best_of)
        chosen = torch.cat([torch.zeros_like(best[:, :1]), best], 1)[..., None]
        if self.together:
            latents = self.model.reach(noise.take_along_dim(chosen, 1), batch.points)
        else:
            latents = latents.take_along_dim(chosen, 1)
        poses = DECIMETRES * self.model.instance.decode(latents, batch.points)
        target = DECIMETRES * batch.pose
        return best_of_many(poses[:, 1:], target) + joint_error(poses[:, 0], target)


def term_weights(model: Propose, weights: ProposeWeights) -> dict[str, float]:
    """Weight of every term; 0 where the model has no part for it."""
    variational = model.instance.variational
    return {
        "reconstruct3d": weights.reconstruct3d,
        "divergence": weights.divergence if variational else 0.0,
        "bidirectional": weights.bidirectional,
        "generator": weights.discriminator,
        "pulling": weights.pulling if weights.discriminator > 0 else 0.0,
        "reconstruct2d": weights.reconstruct2d if model.adaptive is not None else 0.0,
        "nll": weights.nll,
        "mode": weights.mode,
        "discriminator": weights.discriminator,
    }


def _pose_error(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*#batch joints 3"]
) -> Float[Tensor, "*batch"]:
    """Sum of joints' distances, decimetres, of poses in metres."""
    return joint_error(DECIMETRES * predicted, DECIMETRES * target.expand_as(predicted))
