"""What `bench` times: groups of works, in our form and, where there is one, in the plain form.

The plain form lives with the tests (`tests/plain.py`); without it there are no ratios. Results of
the two forms are compared before anything is timed: a difference is an error, a time never is.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from humr import losses, model, posterior
from humr.batches import Batch, pack_mask
from humr.benchmarks.timing import Task
from humr.bodies.body import Body, load_body
from humr.config import Model, Run, Supervision
from humr.devices import SWITCHES, compile_couplings, faster
from humr.evaluation import (
    PIECE,
    RenderedTruth,
    accuracy,
    calibration,
    consistency,
    forecast,
    scores,
    statistics,
)
from humr.experiments import runs
from humr.experiments.ablations import changed
from humr.experiments.profiles import profile
from humr.files import ROOT
from humr.flows import ConditionalFlow
from humr.geometry import sixd_to_matrix
from humr.heatmaps import fit_gaussian
from humr.lifting.config import LiftingRun, ProposeRun
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.flow import Critic, LiftingFlow, LiftingObjective
from humr.lifting.propose import Propose, ProposeObjective
from humr.model import DIM, Humr
from humr.objective import HumrObjective
from humr.skeletons import ARTICULATED
from humr.training import make_optimizer
from humr.world import generate
from humr.world.records import Records, truth_of

# Made-up people and ready-made pieces of work, for measuring and for tests: no data on disk.
#
# `training` and `evaluation` are the two entry points for whoever wants to time this code
# against another: a training step from contexts and a batch, and the evaluation of given
# latents.


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
    def truth(self) -> RenderedTruth:
        """Labels, computed once."""
        return truth_of(self.records, self.batch, self.body)

    @torch.no_grad()
    def run(self) -> dict[str, Tensor]:
        """All metrics of all images, a bounded number of hypotheses at a time."""
        observation = self.model.observe(self.batch, self.context)
        pieces = (self.model.people(observation, part) for part in self.noise.split(PIECE, 1))
        drawn = forecast(pieces, self.truth, self.body)
        return (
            accuracy(drawn, self.truth)
            | scores(drawn, self.truth)
            | consistency(drawn, self.truth)
            | calibration(drawn, self.truth)
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
    """Gradients of every group's updates in one training step."""
    for name, group in objective.optimizer_groups().items():
        for _ in range(group.updates):
            objective.zero_grad(set_to_none=True)
            objective.total(objective(batch, generator=generator, group=name)).backward()


PLAIN = ROOT / "tests" / "plain.py"
AGREE = 1e-4  # relative; sums of a million numbers in single precision
SIZES: dict[str, Run] = {
    "paper": replace(PAPER, supervision=OFFICIAL),
    "laptop": replace(profile("laptop").run, supervision=OFFICIAL),
}
IMAGES = 4  # of an evaluation
Step = Callable[[], Any]


def plain_form() -> ModuleType | None:
    """The plain form of the equations, if the tests are here."""
    spec = importlib.util.spec_from_file_location("plain", PLAIN)
    if spec is None or spec.loader is None or not PLAIN.exists():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(what: str, ours: Tensor, other: Tensor, limit: float = AGREE) -> None:
    """Refuse to time two things that are not the same."""
    error = ((ours - other).abs() / other.abs().clamp_min(1)).nan_to_num().max().item()
    if error > limit:
        raise ArithmeticError(f"{what}: the forms differ by {error:.1e} (> {limit:g})")


def _works(parts: dict[str, Step], form: str, count: int) -> list[Task]:
    return [Task(name=name, run=run, form=form, count=count) for name, run in parts.items()]


def _leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_()


# ----------------------------------------------------------------------- training


def training_works(size: Run, device: str) -> list[Task]:
    """A training step after the backbone, whole and by part; gradients included."""
    ours = training(size, device=device)
    images, noise = len(ours.batch), ours.noise()
    works = _works(_training_parts(ours, noise), "humr", images)
    plain = plain_form()
    if plain is not None:
        works += _works(_plain_training(plain, ours, noise), "plain", images)
    return works


def _training_parts(ours: Training, noise: Tensor) -> dict[str, Step]:
    batch, body, flow = ours.batch, ours.objective.body, ours.objective.model.flow
    points = _points(noise)
    keypoints, bends = batch.keypoints, torch.zeros(17, dtype=torch.bool, device=noise.device)
    bends[list(ARTICULATED)] = True
    targets = losses.supervision_targets(
        batch.samples, keypoints[..., :2], keypoints[..., 2], bends
    )
    condition = flow.project(ours.context).detach()
    sixd = flow.generate(noise, condition)[0].detach().unflatten(-1, (-1, 6))

    def sampling() -> None:
        flow.generate(noise, flow.project(ours.context))[0].sum().backward()

    def density() -> None:
        flow.log_prob(noise[:, 1:2], flow.project(ours.context)).sum().backward()

    def bodies() -> None:
        rotations = sixd_to_matrix(_leaf(sixd))
        body.keypoints(rotations, batch.betas[:, None], "coco17").sum().backward()

    def projection() -> None:
        placed = torch.nn.functional.pad(points, (0, 1), value=5.0)
        batch.to_crop(_leaf(placed)).sum().backward()

    def heatmaps() -> None:
        losses.heatmap_mmd_biased(_leaf(points), targets).sum().backward()

    def masks() -> None:
        valid = losses.inside_mask(targets.samples, batch.mask)
        invisible = targets.invisible
        given = _leaf(points), batch.mask, targets.samples, valid, invisible
        losses.mask_loss(*given, any_joint=True).sum().backward()

    ours.gradients()  # the optimiser needs some
    return {
        "flow, sampling": sampling,
        "flow, density": density,
        "body": bodies,
        "projection": projection,
        "heatmap loss": heatmaps,
        "mask loss": masks,
        "mask test": lambda: losses.inside_mask(points, batch.mask),
        "optimiser": ours.optimizer.step,
        "training step": ours.step,
    }


def _points(noise: Tensor) -> Tensor:
    """Keypoints of the random hypotheses, anywhere in the crop."""
    return 2 * torch.rand(*noise[:, 1:].shape[:2], 17, 2, device=noise.device) - 1


def _plain_training(plain: ModuleType, ours: Training, noise: Tensor) -> dict[str, Step]:
    model, batch, optimizer = ours.objective.model, ours.batch, ours.optimizer
    body = plain.Body("full", device=noise.device)
    count = ours.objective.supervision.heatmap_samples
    sixd = model.people(model.observe(batch, ours.context), noise).sixd.detach()

    def total(given: Tensor, blur: Tensor) -> Tensor:
        found = plain.terms(model, body, batch, given, blur, samples=count, context=ours.context)
        weights = ours.objective.weights
        return ours.objective.total({k: v for k, v in found.items() if getattr(weights, k) > 0})

    def step() -> None:
        loss = total(noise, torch.zeros_like(noise[:, 0]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def bodies() -> None:
        body.of(_leaf(sixd), batch.betas, batch.translation, "coco17").sum().backward()

    def sampling() -> None:
        plain.generate(model.flow, noise, ours.context).sum().backward()

    def test() -> Tensor:
        return plain.off_mask(points, batch.mask) <= plain.MASK_TOLERANCE

    points = _points(noise)
    agree("mask test", losses.inside_mask(points, batch.mask).float(), test().float())
    agree("training step", *_both_losses(ours, total))
    parts: dict[str, Step] = {"flow, sampling": sampling, "body": bodies, "mask test": test}
    return parts | {"training step": step}


def _both_losses(
    ours: Training, total: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The loss in both forms, with the same noise, the same body and no dropout."""
    objective, seed = ours.objective.eval(), torch.Generator().manual_seed(1)
    usual = objective.body
    objective.body = load_body("full").to(ours.context.device)
    with torch.no_grad():
        terms = objective(ours.batch, generator=seed, context=ours.context)
        seed.manual_seed(1)
        noise = objective.model.noise(len(ours.batch), objective.hypotheses, seed)
        blur = torch.randn(len(noise), noise.shape[-1], generator=seed).to(noise.device)
        pair = objective.total(terms), total(with_mode(noise), blur)
    objective.body = usual
    objective.train()
    return pair


# ----------------------------------------------------------------------- evaluation


def evaluation_works(size: Run, device: str) -> list[Task]:
    """All metrics of 100 and of 1000 hypotheses per image, from latents; full mesh."""
    works = []
    for hypotheses in (100, 1000):
        ours = evaluation(size.model, images=IMAGES, hypotheses=hypotheses, device=device)
        name, count = f"evaluation, {hypotheses} hypotheses", IMAGES * hypotheses
        works.append(Task(name=name, run=ours.run, count=count))
        plain = plain_form() if hypotheses == 100 else None
        if plain is not None:
            run = _plain_evaluation(plain, ours)
            works.append(Task(name=name, run=run, form="plain", count=count))
    return works


def _plain_evaluation(plain: ModuleType, ours: Evaluation) -> Step:
    body, truth = plain.Body("full", device=ours.noise.device), ours.truth

    @torch.no_grad()
    def run() -> dict[str, Tensor]:
        return plain.evaluate(
            ours.model,
            body,
            ours.batch,
            ours.noise,
            silhouette=truth.silhouette,
            visible=truth.visible,
            covered=truth.covered,
            context=ours.context,
        )

    fast = ours.run()
    for name, value in run().items():
        agree(f"evaluation, {name}", fast[name], value)
    return run


# ----------------------------------------------------------------------- the open chain


def photograph(size: Run, device: str) -> list[Task]:
    """From a photograph to 100 hypotheses, by stage; the shipped network."""
    from skimage import data

    del size
    image, detector, body = data.astronaut(), generate.world_assets().detector, load_body("full")
    body = body.to(device)
    model = runs.shipped()[0].to(device).eval()
    detection, generator = detector.detect(image), torch.Generator().manual_seed(0)
    height, width = image.shape[:2]

    def look() -> Batch:
        found = posterior.observation_batch(detection, width, height, None, generator)
        return found.to(device)

    batch = look()
    drawn = model.sample(batch, 100, generator=generator)
    parts: dict[str, Step] = {
        "photo, detector": lambda: detector.detect(image),
        "photo, observation": look,
        "photo, network": lambda: model.sample(batch, 100, generator=generator),
        "photo, joints": lambda: drawn.samples.joints(body),
        "photo, meshes": lambda: drawn.samples[:, :5].vertices(body),
    }
    return _works(parts, "humr", 1)


def open_world(size: Run, device: str) -> list[Task]:
    """The world's images, from nothing to heatmaps and their Gaussian fits (on the CPU)."""
    del device
    images = 8
    drawn = generate.scenes(size.world, "test", 0)[:images]
    seen = generate.views(size.world, "test", 0, 0, images)
    maps = generate.stacked(generate.detect(drawn, seen.images), "heatmaps")
    parts: dict[str, Step] = {
        "world, images": lambda: generate.views(size.world, "test", 0, 0, images),
        "world, detector": lambda: generate.detect(drawn, seen.images),
        "Gaussian fits of 17 maps": lambda: fit_gaussian(maps),
    }
    return _works(parts, "humr", images)


def lifting(size: Run, device: str) -> list[Task]:
    """A training step of the lifting systems, critic included, and 1000 hypotheses of an image."""
    del size
    sizes, generator = profile("laptop"), torch.Generator().manual_seed(0)
    batch = lifting_batch(sizes.lifting.training.batch, generator).to(device)
    works = []
    for name, run in (("lifting flow", sizes.lifting), ("ProPose", sizes.propose)):
        objective = lifting_objective(run).to(device)
        parts: dict[str, Step] = {
            f"{name}, step": partial(lifting_step, objective, batch, generator),
            f"{name}, 1000 hypotheses": partial(objective.model.sample, batch[:1], 1000),
        }
        works += _works(parts, "humr", 1)
    return works


GROUPS: dict[str, Callable[[Run, str], list[Task]]] = {
    "training": training_works,
    "evaluation": evaluation_works,
    "photo": photograph,
    "world": open_world,
    "lifting": lifting,
}


# The same work for more and more of something: what `bench` times as the group "scaling".


AXES = {
    "hypotheses": (1, 10, 100, 1_000, 10_000),  # of one image, to joints
    "images": (1, 4, 16, 64),  # of a training step
    "joints": (5, 11, 22, 55),  # of the flow, 100 hypotheses
    "context": (8, 128, 979, 4_096),  # of the flow, 100 hypotheses of 4 images
}


def scaling(size: Run, device: str) -> list[Task]:
    """The same work for more and more of something; works are named "axis: value"."""
    made = {"hypotheses": _hypotheses, "images": _images, "joints": _joints, "context": _context}
    return [work for axis, build in made.items() for work in build(size, device, AXES[axis])]


def _hypotheses(size: Run, device: str, counts: Sequence[int]) -> list[Task]:
    ours = evaluation(size.model, images=1, hypotheses=1, device=device)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> None:
        statistics(ours.model, ours.body, ours.batch, count, generator=generator)

    return [Task(name=f"hypotheses: {n}", run=partial(draw, n), count=n) for n in counts]


def _images(size: Run, device: str, counts: Sequence[int]) -> list[Task]:
    works = []
    for count in counts:
        ours = training(changed(size, training={"batch": count}), device=device)
        works.append(Task(name=f"images: {count}", run=ours.step, count=count))
    return works


def _joints(size: Run, device: str, counts: Sequence[int]) -> list[Task]:
    return [
        work
        for n in counts
        for work in _flow(size, device, f"joints: {n}", 6 * n, 979, plain=None)
    ]


def _context(size: Run, device: str, widths: Sequence[int]) -> list[Task]:
    plain = plain_form()
    return [
        work
        for width in widths
        for work in _flow(size, device, f"context: {width}", model.DIM, width, plain=plain)
    ]


def _flow(
    size: Run, device: str, name: str, dim: int, context: int, *, plain: ModuleType | None
) -> list[Task]:
    """Draw 100 hypotheses of four images from a flow of other sizes."""
    flow = ConditionalFlow(dim, context, blocks=size.model.blocks, hidden=size.model.hidden)
    flow = flow.to(device).requires_grad_(requires_grad=False)
    noise, seen = torch.randn(IMAGES, 100, dim), torch.randn(IMAGES, context)
    noise, seen = noise.to(device), seen.to(device)
    forms: dict[str, Step] = {"humr": lambda: flow.generate(noise, flow.project(seen))[0]}
    if plain is not None:
        forms["plain"] = lambda: plain.generate(flow, noise, seen)
    return [Task(name=name, run=run, form=form, count=400) for form, run in forms.items()]


# What the switches of `acceleration`, and half precision, bring: further forms of timed works.
#
# A form is first compared with the usual one, by its loss or its metrics; a difference beyond
# its tolerance is an error.


FORMS = (*SWITCHES, "bf16")
# Relative differences that are allowed to the usual form: half precision rounds, the rest does not
TOLERANCE = {"tf32": 1e-2, "bf16": 3e-2}
EXACT = 1e-3
COMPARED = ("mpjpe_mode", "pve_best", "energy_score")


def works(group: str, size: Run, device: str, forms: Sequence[str]) -> list[Task]:
    """Return the works of a group in further forms; groups without such forms have none."""
    build = {"training": _training, "evaluation": _evaluation}.get(group)
    return [] if build is None else [build(size, device, form) for form in forms]


def _training(size: Run, device: str, form: str) -> Task:
    usual, ours = (training(size, device=device) for _ in range(2))
    changed = partial(_in_form, form, device, ours.objective.model.flow)
    for made in (usual, ours):
        made.objective.eval()  # the same loss needs the same dropout: none
    limit = TOLERANCE.get(form, EXACT)
    agree(f"training step, {form}", changed(ours.gradients)(), usual.gradients(), limit)
    ours.objective.train()
    return Task(name="training step", run=changed(ours.step), form=form, count=len(ours.batch))


def _evaluation(size: Run, device: str, form: str) -> Task:
    make = partial(evaluation, size.model, images=IMAGES, device=device)
    usual, ours = make(), make()
    run = _in_form(form, device, ours.model.flow, ours.run)
    expected, found = usual.run(), run()
    for name in COMPARED:
        limit = TOLERANCE.get(form, EXACT)
        agree(f"evaluation, {form}, {name}", found[name], expected[name], limit)
    count = ours.noise.shape[:2].numel()
    return Task(name="evaluation, 100 hypotheses", run=run, form=form, count=count)


def _in_form(form: str, device: str, flow: nn.Module, run: Step) -> Step:
    """Return the work in another form. A flow that is compiled stays so."""
    match form:
        case "compiled" | "graphs":
            if "_transform" not in vars(flow):
                compile_couplings(flow, graphs=form == "graphs" and device == "cuda")
            return run
        case "bf16":
            return partial(_within, partial(torch.autocast, device, torch.bfloat16), run)
        case _:
            return partial(_within, partial(faster, [form], device), run)


def _within(context: Callable[[], AbstractContextManager[Any]], run: Step) -> Any:  # noqa: ANN401
    with context():
        return run()
