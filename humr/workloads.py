"""Made-up people and ready-made pieces of work, for measuring and for tests: no data on disk.

`training` and `evaluation` are the two entry points for whoever wants to time this code against
another: a training step from contexts and a batch, and the evaluation of given latents.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from humr import measures
from humr.bodies import Body, load_body
from humr.config import Model, Run, Supervision
from humr.datasets import Batch, Records, pack_mask
from humr.lifting import Critic, LiftingFlow
from humr.lifting_config import LiftingRun, ProposeRun
from humr.lifting_data import LiftingBatch, complete
from humr.lifting_objective import LiftingObjective
from humr.measures import PIECE
from humr.mesh import DIM, Humr
from humr.objective import HumrObjective
from humr.propose import Propose
from humr.propose_objective import ProposeObjective
from humr.training import make_optimizer

PAPER = Run()  # 8 blocks of 1024, context 979, 64 images, the mode and 25 samples
# All switches between paper and official code at "official": what the plain form computes.
OFFICIAL = Supervision(
    estimator="biased", first_is_point=True, mask_target="any", floor=0.15, confidence="samples"
)
MASK = 112  # side of a stored mask


def records(count: int, generator: torch.Generator, *, features: int = 2016) -> Records:
    """People with plausible geometry and otherwise random numbers: bodies near the T-pose."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(low: float | int, high: float | int, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    rotvec = 0.3 * normal(count, 22, 3)
    rotvec[:, 0] = torch.tensor([torch.pi, 0, 0]) + 0.1 * normal(count, 3)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, MASK)] * 2, indexing="ij"))
    disc = (grid.norm(dim=0) < 0.7).expand(count, MASK, MASK)
    box = [uniform(280, 360, count, 1), uniform(220, 260, count, 1), uniform(200, 300, count, 1)]
    box = torch.cat(box, -1)
    cells = torch.randint(0, 64 * 64, (count, 64, 17), generator=generator).to(torch.int16)
    keypoints = box[:, None, :2] + 0.3 * box[:, None, 2:] * normal(count, 17, 2).clamp(-1.5, 1.5)
    widths = torch.tensor([9.0, 3.0, 4.0]).expand(count, 17, 3)
    return Records(
        rotvec=rotvec,
        betas=normal(count, 11),
        translation=torch.cat([0.1 * normal(count, 2), uniform(4, 6, count, 1)], -1),
        focal=uniform(600, 900, count),
        image_size=torch.tensor([640.0, 480.0]).expand(count, 2),
        box=box,
        truncated=torch.zeros(count, dtype=torch.bool),
        template=torch.zeros(count, dtype=torch.uint8),
        window=torch.cat([box, 0.1 * normal(count, 1)], -1),
        keypoints=keypoints,
        confidence=uniform(0.2, 1, count, 17),
        peak=uniform(0.2, 0.9, count, 17),
        flag=torch.ones(count),
        world_landmarks=0.4 * normal(count, 33, 3),
        cells=cells,
        density=uniform(0, 1, count, 64, 17).half(),
        moments=torch.cat([uniform(10, 50, count, 17, 2), widths], -1),
        features=normal(count, features).half(),
        mask=pack_mask(disc),
        true_keypoints=keypoints.clone(),
        visibility=torch.randint(0, 4, (count, 17), generator=generator).to(torch.uint8),
        person=pack_mask(disc),
        occluder=pack_mask(torch.zeros_like(disc)),
    )


def network(model: Model) -> Humr:
    """Build a network of a size, with random weights and people who stand upright."""
    torch.manual_seed(0)
    made = Humr(model)
    upright = torch.eye(3)[:2].flatten().repeat(22)
    made.flow.standardize(upright + 0.3 * torch.randn(100, DIM))
    return made


def with_mode(noise: Tensor) -> Tensor:
    """Put the mode's latent, zeros, in front of the random ones."""
    return torch.cat([torch.zeros_like(noise[:, :1]), noise], 1)


@dataclass(frozen=True)
class Training:
    """Everything that a training step needs, after the backbone."""

    objective: HumrObjective
    batch: Batch
    context: Tensor
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def noise(self) -> Tensor:
        """Latents of one step, (images, hypotheses, 132): zeros first, the mode."""
        objective = self.objective
        drawn = objective.model.noise(len(self.batch), objective.hypotheses, self.generator)
        return with_mode(drawn)

    def gradients(self) -> Tensor:
        """Loss and gradients."""
        terms = self.objective(self.batch, generator=self.generator, context=self.context)
        total = self.objective.total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        return total.detach()

    def step(self) -> Tensor:
        """One step of training; returns the loss."""
        total = self.gradients()
        self.optimizer.step()
        return total


def training(
    run: Run = PAPER, *, body: Body | None = None, device: torch.device | str = "cpu"
) -> Training:
    """Make a training step of a run's sizes, on made-up people.

    Masks have 224 pixels a side, as in the paper. All images have all labels.
    """
    generator = torch.Generator().manual_seed(0)
    model = network(run.model).to(device)
    body = (load_body("small") if body is None else body).to(device)
    objective = HumrObjective(
        model, body, run.weights, run.supervision, run.training.hypotheses
    ).to(device)
    made = records(run.training.batch, generator, features=run.model.features)
    batch = made.batch(samples=run.supervision.heatmap_samples, generator=generator)
    wide = batch.mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    batch = replace(batch, mask=wide).to(device)
    context = model.encoder(batch).detach()
    optimizer = make_optimizer(model.parameters(), run.training)
    return Training(objective, batch, context, optimizer, generator)


@dataclass(frozen=True)
class Evaluation:
    """Latents of some images, and what their bodies are compared with."""

    model: Humr
    body: Body
    records: Records
    batch: Batch
    context: Tensor
    noise: Tensor  # (images, hypotheses, 132); zeros first: the mode

    @cached_property
    def truth(self) -> measures.Truth:
        """Labels, computed once."""
        return measures.truth_of(self.records, self.batch, self.body)

    @torch.no_grad()
    def run(self) -> dict[str, Tensor]:
        """All metrics of all images, a bounded number of hypotheses at a time."""
        observation = self.model.observe(self.batch, self.context)
        pieces = (self.model.people(observation, part) for part in self.noise.split(PIECE, 1))
        drawn = measures.forecast(pieces, self.truth, self.body)
        return (
            measures.accuracy(drawn, self.truth)
            | measures.scores(drawn, self.truth)
            | measures.consistency(drawn, self.truth)
            | measures.calibration(drawn, self.truth)
        )


def evaluation(
    model: Model = PAPER.model,
    *,
    images: int = 4,
    hypotheses: int = 100,
    body: Body | None = None,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Make the evaluation of random latents, on made-up people."""
    generator = torch.Generator().manual_seed(0)
    made = records(images, generator, features=model.features)
    batch = made.batch(samples=1, generator=generator).to(device)
    built = network(model).eval().to(device)
    body = (load_body("full") if body is None else body).to(device)
    with torch.no_grad():
        context = built.encoder(batch)
    noise = built.noise(images, hypotheses, generator)
    noise[:, 0] = 0
    return Evaluation(built, body, made.to(device), batch, context, noise)


# ----------------------------------------------------------------------- lifting


def lifting_batch(count: int, generator: torch.Generator) -> LiftingBatch:
    """Random poses, 2D poses and Gaussians."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    pose = 0.3 * normal(16, 3)
    gaussians = torch.cat(
        [normal(13, 3).abs(), torch.tensor([0.1, 0.0, 0.1]).expand(count, 13, 3)], -1
    )
    pose = pose - pose.mean(1, keepdim=True)
    return LiftingBatch(pose, normal(16, 2), gaussians, complete(pose))


def lifting_objective(run: LiftingRun | ProposeRun) -> LiftingObjective | ProposeObjective:
    """Build the objective of a lifting system, critic included, with random weights."""
    torch.manual_seed(0)
    if isinstance(run, ProposeRun):
        return ProposeObjective(Propose(run.model), run.weights, run.rule)
    critic = Critic(hidden=run.model.critic, bones_hidden=run.model.critic_bones)
    return LiftingObjective(LiftingFlow(run.model), run.weights, run.rule, critic=critic)


def lifting_step(
    objective: LiftingObjective | ProposeObjective, batch: LiftingBatch, generator: torch.Generator
) -> None:
    """Gradients of every player's updates in one training step."""
    for name, player in objective.players().items():
        for _ in range(player.updates):
            objective.zero_grad(set_to_none=True)
            objective.total(objective(batch, generator=generator, player=name)).backward()
