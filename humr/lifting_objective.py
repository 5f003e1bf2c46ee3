"""The lifting flow's objective: its terms, its critic, and who is updated by what."""

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from humr import lifting_losses as losses
from humr.flows import Condition
from humr.lifting import LATENT, POSE, Critic, LiftingFlow, normal
from humr.lifting_config import LiftingRule, LiftingWeights
from humr.lifting_data import LiftingBatch
from humr.losses import nll
from humr.training import Player

OFFSET = 0.1  # metres; standard deviation of the common offset that gives centred poses a density
ON_HYPOTHESES = ("heatmap", "best")  # terms that share the rule's hypotheses


class LiftingObjective(nn.Module):
    """All terms of the lifting flow and of its critic (Wehrbein et al. 2021, section 3.5).

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

    def players(self) -> dict[str, Player]:
        """The critic (if any), then the flow; of the latter h_theta's gradient is not clipped."""
        flow = list(self.model.flow.parameters())
        found = {"model": Player(parameters=list(self.model.parameters()), clipped=flow)}
        if self.critic is None:
            return found
        own = Player(parameters=list(self.critic.parameters()), updates=self.rule.critic_updates)
        return {"critic": own} | found

    def forward(
        self, batch: LiftingBatch, *, generator: torch.Generator, player: str
    ) -> dict[str, Tensor]:
        """Return the means of one player's terms, without weights."""
        if player == "model":
            return self._model_terms(batch, generator)
        if player == "critic" and self.critic is not None:
            return self._critic_terms(self.critic, batch, generator)
        raise ValueError(f"player must be one of {list(self.players())}; got {player!r}")

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum of one player's terms; every weight above 0 needs its term."""
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
        penalty = losses.gradient_penalty(critic, real, fake, share.to(real))
        return {"gap": losses.critic_gap(critic, real, fake).mean(), "penalty": penalty.mean()}

    def _model_terms(self, batch: LiftingBatch, generator: torch.Generator) -> dict[str, Tensor]:
        projected = self.model.project(batch)
        terms = self._forward_terms(batch, projected, generator)
        terms |= self._inverse_terms(batch, projected, generator)
        if self.weights.nll > 0:
            offset = OFFSET * normal(len(batch), 1, 3, like=batch.pose, generator=generator)
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
        z, points = self.model.forward_pose(batch.pose, projected)
        if weights.points > 0:
            terms["points"] = losses.mean_l1(points, batch.points).mean()
        if weights.mmd > 0:
            noise = normal(len(batch), LATENT, like=z, generator=generator)
            terms["mmd"] = losses.mmd_term(
                z, points, noise, batch.points, estimator=self.rule.estimator
            )
        if weights.deterministic > 0:
            back = self.model.lift(z.detach()[:, None], batch.points, projected)[:, 0]
            terms["deterministic"] = losses.mean_l1(back, batch.pose).mean()
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
            terms["heatmap"] = losses.heatmap_covariance(
                drawn, batch.condition, doubled=rule.doubled
            ).mean()
        if weights.best > 0:
            terms["best"] = losses.best_hypotheses(drawn, batch.pose, best_of=rule.best_of).mean()
        if self.critic is not None:
            terms["adversarial"] = losses.generator_score(self.critic, drawn[:, 0]).mean()
        return terms
