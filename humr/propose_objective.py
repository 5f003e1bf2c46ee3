r"""ProPose's objective: which loss is given what, and whose turn it is.

After Han, Kim and Lee (AAAI 2025), section "Method" and algorithm 1; see `propose_losses` for
each equation. [ours] marks what the paper leaves open.

Scheme "alternate" (algorithm 1): phase 1 trains $g_\phi, k_\xi$ with $L_{recon3D} + L_{Bi}$,
phase 2 trains $q_\omega, v_\tau, h_\psi, f_\theta$ with $L_{recon2D} + L_{NLL} + L_{m2m}$. The
algorithm leaves out $L_{disc}$ "for simplicity": the discriminator moves first, on $L_D$, and
$L_G$ and $L_{PT}$ belong to phase 1, for the paper applies them to the PILGD learner. The numbers
of batches per phase are not given; one each, with one learning rate for all [ours].

In phase 2, $w$ and $\mu_{3D}$ are constants. Where gradients pass ("end_to_end", Table 6), the
likelihood pays $g_\phi$ for making $\mu_{3D}$ a function of the 2D pose, which $f_\theta$ knows:
the latent forgets depth, down to the entropy of noise alone. End to end, $L_{Bi}$ reaches the flow
and its base as well; alternately it reaches $k_\xi$ alone, as no hypothesis depends on $g_\phi$.

Without $L_{NLL}$ (weight 0) the rest goes on as it is. Alternately $f_\theta$ then learns
$L_{m2m}$ only and $\sigma_{2D}$ nothing at all; the paper trained this row of Table 7 end to end,
where $L_{Bi}$ teaches both.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from humr import propose_losses as losses
from humr.lifting_config import ProposeRule, ProposeWeights
from humr.lifting_data import LiftingBatch
from humr.propose import DECIMETRES, Discriminator, Gaussian, Propose, normal_like
from humr.training import Player

PHASE1 = ("reconstruct3d", "divergence", "bidirectional", "generator", "pulling")
PHASE2 = ("reconstruct2d", "nll", "mode")
PLAYERS = {
    "alternate": {"discriminator": ("discriminator",), "instance": PHASE1, "adaptive": PHASE2},
    "end_to_end": {"discriminator": ("discriminator",), "model": PHASE1 + PHASE2},
}


class ProposeObjective(nn.Module):
    """All terms of ProPose's objective for one batch, by player and name.

    Terms are means over the batch of sums over joints (in decimetres) or latent dimensions, as
    the paper prints them. Terms of weight 0 are left out, and with them players that have none.
    "generator" ($L_G$) has the weight of "discriminator"; without a discriminator there is no
    "pulling" either. "divergence" exists for the variational control only.
    """

    def __init__(self, model: Propose, weights: ProposeWeights, rule: ProposeRule) -> None:
        super().__init__()
        self.model, self.rule = model, rule
        self.weights = term_weights(model, weights)
        self.discriminator = Discriminator(model.config) if weights.discriminator > 0 else None
        self.terms = {
            player: kept
            for player, names in PLAYERS[rule.scheme].items()
            if (kept := tuple(name for name in names if self.weights[name] > 0))
        }

    def players(self) -> dict[str, Player]:
        """Who moves, in order, and with which parameters."""
        model, adaptive = self.model, self.model.adaptive
        modules: dict[str, list[nn.Module | None]] = {
            "discriminator": [self.discriminator],
            "instance": [model.instance],
            "adaptive": [adaptive, model.flow],
            "model": [model],
        }
        return {
            name: Player(parameters=[p for m in modules[name] if m for p in m.parameters()])
            for name in self.terms
        }

    def forward(
        self, batch: LiftingBatch, *, generator: torch.Generator, player: str
    ) -> dict[str, Tensor]:
        """Return the terms of one player's turn, unweighted."""
        if player not in self.terms:
            raise ValueError(f"player must be one of {', '.join(self.terms)}; got {player!r}")
        noise = normal_like(
            batch.points, len(batch), 1, self.model.config.width, generator=generator
        )
        if player == "discriminator":
            return {player: self._discriminated(batch, noise).mean()}
        terms = {}
        if player != "adaptive":
            terms |= self._phase1(batch, noise, generator)
        if player != "instance":
            terms |= self._phase2(batch, noise)
        return {name: terms[name]().mean() for name in self.terms[player]}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of one player's terms, all of them."""
        if not any(terms.keys() == set(names) for names in self.terms.values()):
            raise ValueError(f"terms {sorted(terms)} are not those of a player: {self.terms}")
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def _phase1(
        self, batch: LiftingBatch, noise: Tensor, generator: torch.Generator
    ) -> dict[str, Callable[[], Tensor]]:
        posterior, made = self._made(batch, noise)
        terms = {
            "reconstruct3d": lambda: _pose_error(made, batch.pose),
            "divergence": lambda: losses.divergence(posterior),
            "bidirectional": lambda: self._bidirectional(batch, generator),
        }
        if self.discriminator is not None:
            energy, code = self.discriminator(made, batch.points)
            terms |= {
                "generator": lambda: energy,
                "pulling": lambda: losses.pulling_away(code),
            }
        return terms

    def _phase2(self, batch: LiftingBatch, noise: Tensor) -> dict[str, Callable[[], Tensor]]:
        model, points = self.model, batch.points
        target = self._target(batch)
        base, condition = model.base(points), model.flow.project(points.flatten(1))
        latents = torch.cat([target.at(noise), target.mean[:, None]], 1)
        image, log_det = model.flow.normalize(latents, condition)
        terms = {
            "nll": lambda: losses.latent_nll(image[:, :1], log_det[:, :1], base),
            "mode": lambda: losses.mode_to_mode(image[:, 1], base),
        }
        if model.adaptive is not None:
            adaptive = model.adaptive
            terms["reconstruct2d"] = lambda: losses.point_error(
                adaptive.reconstruct(points), points
            )
        return terms

    def _target(self, batch: LiftingBatch) -> Gaussian:
        """Instance Gaussian as the flow is shown it: a constant, unless all learn together."""
        if self.rule.scheme == "end_to_end":
            return self.model.latent(batch)
        with torch.no_grad():
            return self.model.latent(batch)

    def _made(
        self, batch: LiftingBatch, noise: Tensor
    ) -> tuple[Gaussian, Float[Tensor, "batch 16 3"]]:
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
        return losses.discriminator(real, fake, margin=self.rule.margin)

    def _bidirectional(self, batch: LiftingBatch, generator: torch.Generator) -> Tensor:
        """$L_{Bi}$ (Eq. 12-14); the coin is tossed per batch [ours].

        "Best" means least error of Eq. 13, and the random hypothesis is the first one [ours].
        All hypotheses are decoded, but only those that count once more with gradients.
        """
        own = generator if generator.device.type == "cpu" else None  # no waiting for a coin
        if torch.rand((), generator=own) < self.rule.share:
            return batch.pose.new_zeros(len(batch))
        shape = (len(batch), self.rule.hypotheses, self.model.config.width)
        noise = normal_like(batch.points, *shape, generator=generator)
        with torch.no_grad():
            latents = self.model.reach(noise, batch.points)
            drawn = self.model.instance.decode(latents, batch.points)
            best = losses.best_of_indices(
                _pose_error(drawn, batch.pose[:, None]), self.rule.best_of
            )
        chosen = torch.cat([torch.zeros_like(best[:, :1]), best], 1)
        few = self._reached(latents, noise, chosen, batch)
        poses = DECIMETRES * self.model.instance.decode(few, batch.points)
        target = DECIMETRES * batch.pose
        return losses.best_of_many(poses[:, 1:], target) + losses.joint_error(poses[:, 0], target)

    def _reached(
        self, latents: Tensor, noise: Tensor, chosen: Tensor, batch: LiftingBatch
    ) -> Float[Tensor, "batch chosen dim"]:
        """Latents of the chosen hypotheses: constants, unless all learn together."""
        if self.rule.scheme == "end_to_end":
            return self.model.reach(noise.take_along_dim(chosen[..., None], 1), batch.points)
        return latents.take_along_dim(chosen[..., None], 1)


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
    return losses.joint_error(DECIMETRES * predicted, DECIMETRES * target.expand_as(predicted))
