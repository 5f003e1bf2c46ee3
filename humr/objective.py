r"""HuMR's objective: which loss gets what; every switch between paper and official code.

$$L = w_\text{nll} L_\text{nll} + w_\text{shape} L_\text{shape} + w_\text{2D} L_\text{2D}
  + w_\text{orth} L_\text{orth} + w_\text{heatmap} L_\text{heatmap} + w_\text{mask} L_\text{mask}$$

Each $L$ is a function of `losses`. The first four are of the mode and the labels; heatmap and mask
loss are of random hypotheses and of what the detector saw.
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from humr import losses
from humr.batches import Batch
from humr.bodies.body import Body
from humr.config import Supervision, Weights
from humr.devices import normal
from humr.geometry import matrix_to_sixd
from humr.model import DIM, JOINTS, Humr, Observation, People
from humr.skeletons import ARTICULATED


@dataclass(frozen=True)
class Step:
    """What one step draws, and what it is compared with."""

    batch: Batch
    observation: Observation
    mode: People
    samples: People
    projected: Float[Tensor, "batch hypotheses 17 2"]  # in the crop
    truth: Float[Tensor, "batch 17 2"]
    targets: losses.Targets
    blur: Float[Tensor, "batch 132"]


class HumrObjective(nn.Module):
    """All terms of HuMR's objective for one batch, by name; see `losses` for each equation.

    Images without 3D labels have no likelihood and shape term; images without 2D labels have no
    keypoint term and follow the detector's own keypoints where it is certain. Terms of weight 0
    are left out.
    """

    articulated: Bool[Tensor, "17"]

    def __init__(
        self, model: Humr, body: Body, weights: Weights, supervision: Supervision, hypotheses: int
    ) -> None:
        super().__init__()
        self.model = model
        self.body = body
        self.weights = weights
        self.supervision = supervision
        self.hypotheses = hypotheses
        articulated = torch.tensor([joint in ARTICULATED for joint in range(17)])
        self.register_buffer("articulated", articulated, persistent=False)

    def forward(
        self,
        batch: Batch,
        *,
        generator: torch.Generator,
        context: Float[Tensor, "batch context"] | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean of every term over the images that have it.

        With a `context` the encoder is left out, and the batch's features are not read.
        """
        drawn = self._drawn(batch, generator, context)
        every = torch.ones_like(batch.has_pose)
        terms = {
            "nll": (self._nll, batch.has_pose),
            "shape": (lambda d: losses.shape(d.observation.betas, batch.betas), batch.has_pose),
            "keypoints": (self._keypoints, batch.has_points),
            "orthonormal_mode": (lambda d: losses.orthonormality(d.mode.sixd), every),
            "orthonormal_samples": (
                lambda d: losses.orthonormality(d.samples.sixd).mean(-1),
                every,
            ),
            "heatmap": (self._heatmap, every),
            "mask": (self._mask, every),
            "camera": (lambda d: losses.camera_scale(d.observation.weak[:, 0]), every),
            "random_keypoints": (self._random_keypoints, batch.has_points),
        }
        return {
            name: torch.where(valid, term(drawn), 0).sum() / valid.sum().clamp_min(1)
            for name, (term, valid) in terms.items()
            if getattr(self.weights, name) > 0
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighted sum; every weight above 0 needs its term."""
        weights = {f.name: getattr(self.weights, f.name) for f in fields(self.weights)}
        expected = {name for name, weight in weights.items() if weight > 0}
        if terms.keys() != expected:
            raise ValueError(f"terms {sorted(terms)} do not match weights {sorted(expected)}")
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def _drawn(self, batch: Batch, generator: torch.Generator, context: Tensor | None) -> Step:
        model = self.model
        observation = model.observe(batch, context)
        noise = model.noise(len(batch), self.hypotheses, generator)
        people = model.people(observation, torch.cat([torch.zeros_like(noise[:, :1]), noise], 1))
        samples, truth = people[:, 1:], self._truth(batch)
        return Step(
            batch=batch,
            observation=observation,
            mode=people[:, 0],
            samples=samples,
            projected=batch.to_crop(samples.keypoints(self.body, "coco17")),
            truth=truth,
            targets=self._targets(batch, truth),
            blur=normal((len(batch), DIM), truth.float(), generator),
        )

    def _truth(self, batch: Batch) -> Tensor:
        """Return the true COCO keypoints in the crop: as given, or of the labelled body."""
        if batch.given is not None:
            return batch.given.keypoints
        labels = self.body.keypoints(batch.rotations, batch.betas, "coco17")
        return batch.to_crop(labels + batch.translation[:, None])

    def _nll(self, drawn: Step) -> Tensor:
        """Negative log-likelihood per dimension of slightly blurred labels (official code)."""
        sixd = matrix_to_sixd(drawn.batch.rotations).flatten(1)
        sixd = sixd + self.supervision.target_noise * drawn.blur
        log_prob = self.model.flow.log_prob(sixd[:, None], drawn.observation.condition)
        return losses.nll(log_prob[:, 0], DIM)

    def _keypoints(self, drawn: Step) -> Tensor:
        """L1 distance of the mode's projected body joints to the labels'.

        Given labels have jaw and left eye beside the 22 (official code).
        """
        batch, given = drawn.batch, drawn.batch.given
        count = JOINTS if given is None else given.joints.shape[1]
        predicted = batch.to_crop(drawn.mode.joints(self.body)[:, :count])
        if given is not None:
            target = given.joints
        else:
            labels = self.body.joints(batch.rotations, batch.betas)[:, :count]
            target = batch.to_crop(labels + batch.translation[:, None])
        return losses.reprojection(predicted, target, torch.ones_like(target[..., 0]))

    def _random_keypoints(self, drawn: Step) -> Tensor:
        """L1 distance of the samples' keypoints to the labels', mean over samples (ProHMR)."""
        weight = torch.ones_like(drawn.truth[..., 0])
        if self.supervision.random_visible:
            weight = (drawn.batch.keypoints[..., 2] >= self.supervision.invisible_below).float()
        target = drawn.truth[:, None].expand_as(drawn.projected)
        weight = weight[:, None].expand(target.shape[:-1])
        return losses.reprojection(drawn.projected, target, weight).mean(-1)

    def _heatmap(self, drawn: Step) -> Tensor:
        if self.supervision.estimator == "unbiased":
            return losses.heatmap_mmd(drawn.projected, drawn.targets)
        return losses.heatmap_mmd_biased(
            drawn.projected, drawn.targets, first_is_point=self.supervision.first_is_point
        )

    def _mask(self, drawn: Step) -> Tensor:
        """Mask loss: to samples of the joint itself, or (official) to any sample or label."""
        batch, invisible = drawn.batch, drawn.targets.invisible
        samples, rule = drawn.targets.samples, self.supervision
        gate = {"beyond": rule.mask_beyond, "whole": rule.mask_whole}
        valid = self._on_mask(samples, batch)
        if rule.mask_target == "own":
            return losses.mask_loss(drawn.projected, batch.mask, samples, valid, invisible, **gate)
        samples = torch.cat([samples, drawn.truth[:, None]], 1)
        valid = torch.cat([valid, batch.has_points[:, None, None].expand_as(valid[:, :1])], 1)
        return losses.mask_loss(
            drawn.projected, batch.mask, samples, valid, invisible, any_joint=True, **gate
        )

    def _on_mask(self, samples: Tensor, batch: Batch) -> Tensor:
        """Which heatmap samples lie on a person: as given (official code), or by the mask."""
        if batch.given is None or self.supervision.heatmaps == "shuffled":
            return losses.inside_mask(samples, batch.mask)
        return batch.given.on_mask[:, : self.supervision.heatmap_samples]

    @torch.no_grad()
    def _targets(self, batch: Batch, truth: Tensor) -> losses.Targets:
        rule = self.supervision
        points = torch.where(batch.has_points[:, None, None], truth, batch.keypoints[..., :2])
        samples = batch.samples[:, : rule.heatmap_samples]
        targets = losses.supervision_targets(
            samples.roll(1, 0) if rule.heatmaps == "shuffled" else samples,
            points,
            self._confidence(batch),
            self.articulated,
            certain_from=rule.uncertain_below,
            visible_from=rule.invisible_below,
            floor=rule.floor,
        )
        trusted = batch.has_points & self._mask_holds(truth, batch)
        targets = replace(targets, invisible=targets.invisible & trusted[:, None])
        if rule.window:
            if batch.given is None:
                raise ValueError(
                    "supervision.window needs given 2D labels; the open world has none"
                )
            targets = replace(targets, uncertain=targets.uncertain & batch.given.in_window)
        return supervision_variant(targets, rule.follow, batch.has_points)

    def _confidence(self, batch: Batch) -> Tensor:
        """Confidence of every joint: the maximum of its heatmap, or among samples of it."""
        confidence = batch.keypoints[..., 2]
        if self.supervision.confidence != "samples":
            return confidence
        if batch.given is not None:
            return batch.given.peak
        return confidence * batch.density[:, : self.supervision.heatmap_samples].amax(1)

    def _mask_holds(self, truth: Tensor, batch: Batch) -> Tensor:
        """Tell whether the mask holds the labelled person (batch,): not if an object hides a part.

        The paper leaves such images out of the mask loss, by the overlap of the projected body
        with the mask. Licensed files say it; else the share of true keypoints in the crop that
        lie on the mask does.
        """
        if batch.given is not None:
            return batch.given.mask_valid
        in_crop = (truth.abs() <= 1).all(-1)
        off = in_crop & ~losses.inside_mask(truth[:, None], batch.mask)[:, 0]
        return off.sum(-1) <= self.supervision.mask_misses * in_crop.sum(-1)


def supervision_variant(
    targets: losses.Targets, follow: str, has_points: Bool[Tensor, " batch"]
) -> losses.Targets:
    """Replace the paper's rule by one of the controls of `config.Supervision.follow`."""
    if follow == "heatmaps":
        return targets
    uncertain, valid = targets.uncertain, targets.valid
    inside = (targets.points.abs() <= 1).all(-1)
    labelled = has_points[:, None]
    if follow in ("labelled", "sure", "guess"):
        alone = {"labelled": valid & False, "sure": valid & ~uncertain, "guess": inside}[follow]
        return replace(
            targets, uncertain=uncertain & labelled, valid=torch.where(labelled, valid, alone)
        )
    valid = {
        "certain": valid & ~uncertain & labelled,
        "articulated": valid & labelled,
        "all": inside & labelled,
    }[follow]
    return replace(targets, uncertain=torch.zeros_like(uncertain), valid=valid)
