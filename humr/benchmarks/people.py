"""Made-up people, and what is done with them, for measuring and for tests: no data on disk.

`training` and `evaluation` are the entry points for whoever wants to time this code against
another: a training step from contexts and a batch, and the evaluation of given latents.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from humr.batches import Batch, pack_mask
from humr.benchmarks.timing import Device
from humr.bodies.body import Body, load_body
from humr.config import Model, Run, Supervision
from humr.evaluation import (
    PIECE,
    RenderedTruth,
    accuracy,
    calibration,
    consistency,
    forecast,
    scores,
)
from humr.licensed.datasets import Licensed, data_set
from humr.licensed.features import LicensedImages
from humr.licensed.images import mask_path
from humr.licensed.people import Annotations
from humr.lifting.config import LiftingRun, ProposeRun
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.flow import Critic, LiftingFlow, LiftingObjective
from humr.lifting.propose import Propose, ProposeObjective
from humr.model import DIM, Humr
from humr.objective import HumrObjective
from humr.training import make_optimizer
from humr.world.records import Records, truth_of

PAPER = Run()  # 8 blocks of 1024, context 979, 64 images, the mode and 25 samples
# All switches between paper and official code at "official": what the plain form computes.
OFFICIAL = Supervision(
    estimator="biased", first_is_point=True, mask_target="any", floor=0.15, confidence="samples"
)
IMAGES = 4  # of an evaluation
MASK = 112  # side of a stored mask
SET = "static-gym"  # of BEDLAM, whose photographs are imitated
PHOTOS = 8
SIDES = (250.0, 450.0)  # px, of the boxes: people of BEDLAM
DETAIL = 40  # px between the colours that are drawn


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
        count = self.objective.hypotheses
        return with_mode(self.objective.model.noise(len(self.batch), count, self.generator))

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


def training(run: Run = PAPER, *, body: Body | None = None, device: Device = "cpu") -> Training:
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
    def truth(self) -> RenderedTruth:
        """Labels, computed once."""
        return truth_of(self.records, self.batch, self.body)

    @torch.no_grad()
    def run(self) -> dict[str, Tensor]:
        """All metrics of all images, a bounded number of hypotheses at a time."""
        observation = self.model.observe(self.batch, self.context)
        pieces = (self.model.people(observation, part) for part in self.noise.split(PIECE, 1))
        drawn, truth = forecast(pieces, self.truth, self.body), self.truth
        both = accuracy(drawn, truth) | scores(drawn, truth)
        return both | consistency(drawn, truth) | calibration(drawn, truth)


def evaluation(
    model: Model = PAPER.model,
    *,
    images: int = IMAGES,
    hypotheses: int = 100,
    body: Body | None = None,
    device: Device = "cpu",
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


# ---- lifting


def lifting_batch(count: int, generator: torch.Generator) -> LiftingBatch:
    """Random poses, 2D poses and Gaussians."""
    normal = partial(torch.randn, generator=generator)
    pose = 0.3 * normal(count, 16, 3)
    upright = torch.tensor([0.1, 0.0, 0.1]).expand(count, 13, 3)
    gaussians = torch.cat([normal(count, 13, 3).abs(), upright], -1)
    pose = pose - pose.mean(1, keepdim=True)
    return LiftingBatch(pose, normal(count, 16, 2), gaussians, complete(pose))


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
    """Gradients of every group's updates in one training step."""
    for name, group in objective.optimizer_groups().items():
        for _ in range(group.updates):
            objective.zero_grad(set_to_none=True)
            objective.total(objective(batch, generator=generator, group=name)).backward()


# ---- photographs


def photographs(folder: Path, suffix: str) -> LicensedImages:
    """Write made-up photographs of the official size with masks, one person in each."""
    rng, described = np.random.default_rng(0), data_set(SET)
    if described.image_size is None:
        raise ValueError(f"photographs of {SET} have no common size")
    width, height = described.image_size
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 4 : -height // 4, width * 2 // 5 : width * 3 // 5] = 0  # the person
    names = [f"{i:04d}.png" for i in range(PHOTOS)]
    for name in names:
        picture, person = folder / described.images / name, mask_path(SET, name, root=folder)
        for path in (picture, person):
            path.parent.mkdir(parents=True, exist_ok=True)
        _picture(width, height, rng).save(picture.with_suffix(suffix), quality=90)
        Image.fromarray(mask).save(person)
    people = _people(names, torch.tensor([width, height]).float(), rng)
    return LicensedImages([people], Licensed(train=(SET,)), root=folder)


def _picture(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Smooth colours with a little noise: files of a usual size."""
    colours = rng.integers(0, 256, (height // DETAIL, width // DETAIL, 3), np.uint8)
    smooth = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.float32) + rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _people(names: list[str], image_size: Tensor, rng: np.random.Generator) -> Annotations:
    people = len(names)
    sides = torch.from_numpy(rng.uniform(*SIDES, (people, 1))).float()
    return Annotations(
        name=SET,
        image=np.array(names),
        gender=np.full(people, "unknown"),
        row=torch.arange(people),
        box=torch.cat([(image_size / 2).expand(people, 2), sides], -1),
        keypoints=torch.zeros(people, 17, 3),
        true_keypoints=torch.zeros(people, 17, 2),
        pose=torch.zeros(people, 22, 3),
        betas=torch.zeros(people, 11),
        mask_valid=torch.ones(people, dtype=torch.bool),
        joints=torch.zeros(people, 24, 2),
        intrinsics=None,
        image_size=image_size.expand(people, 2),
    )
