"""What `bench` times: groups of works, in our form and, where there is one, in the plain form.

The plain form lives with the tests (`tests/plain.py`); without it there are no ratios. Results of
the two forms are compared before anything is timed: a difference is an error, a time never is.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from humr import experiments, losses, mesh, posterior, workloads, world
from humr.bodies import load_body
from humr.config import Run
from humr.datasets import Batch
from humr.gaussians import fit_gaussian
from humr.paths import ROOT
from humr.profiles import profile
from humr.rotations import sixd_to_matrix
from humr.skeletons import ARTICULATED
from humr.stopwatch import Work

PLAIN = ROOT / "tests" / "plain.py"
AGREE = 1e-4  # relative; sums of a million numbers in single precision
SIZES: dict[str, Run] = {
    "paper": replace(workloads.PAPER, supervision=workloads.OFFICIAL),
    "laptop": replace(profile("laptop").run, supervision=workloads.OFFICIAL),
}
IMAGES = 4  # of an evaluation
Step = Callable[[], object]


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


def _works(parts: dict[str, Step], form: str, count: int) -> list[Work]:
    return [Work(name=name, run=run, form=form, count=count) for name, run in parts.items()]


def _leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_()


# ----------------------------------------------------------------------- training


def training(size: Run, device: str) -> list[Work]:
    """A training step after the backbone, whole and by part; gradients included."""
    ours = workloads.training(size, device=device)
    images, noise = len(ours.batch), ours.noise()
    works = _works(_training_parts(ours, noise), "humr", images)
    plain = plain_form()
    if plain is not None:
        works += _works(_plain_training(plain, ours, noise), "plain", images)
    return works


def _training_parts(ours: workloads.Training, noise: Tensor) -> dict[str, Step]:
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
        mesh.to_crop(_leaf(placed), batch).sum().backward()

    def heatmaps() -> None:
        losses.heatmap_mmd_biased(_leaf(points), targets).sum().backward()

    def masks() -> None:
        valid = losses.inside_mask(targets.samples, batch.mask)
        invisible = targets.invisible
        loss = losses.mask_loss_any_joint
        loss(_leaf(points), batch.mask, targets.samples, valid, invisible).sum().backward()

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


def _plain_training(plain: ModuleType, ours: workloads.Training, noise: Tensor) -> dict[str, Step]:
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
    ours: workloads.Training, total: Callable[[Tensor, Tensor], Tensor]
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
        pair = objective.total(terms), total(workloads.with_mode(noise), blur)
    objective.body = usual
    objective.train()
    return pair


# ----------------------------------------------------------------------- evaluation


def evaluation(size: Run, device: str) -> list[Work]:
    """All metrics of 100 and of 1000 hypotheses per image, from latents; full mesh."""
    works = []
    for hypotheses in (100, 1000):
        ours = workloads.evaluation(
            size.model, images=IMAGES, hypotheses=hypotheses, device=device
        )
        name, count = f"evaluation, {hypotheses} hypotheses", IMAGES * hypotheses
        works.append(Work(name=name, run=ours.run, count=count))
        plain = plain_form() if hypotheses == 100 else None
        if plain is not None:
            run = _plain_evaluation(plain, ours)
            works.append(Work(name=name, run=run, form="plain", count=count))
    return works


def _plain_evaluation(plain: ModuleType, ours: workloads.Evaluation) -> Step:
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


def photograph(size: Run, device: str) -> list[Work]:
    """From a photograph to 100 hypotheses, by stage; the shipped network."""
    from skimage import data

    del size
    image, detector, body = data.astronaut(), world.studio().detector, load_body("full")
    body = body.to(device)
    model = experiments.shipped()[0].to(device).eval()
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


def open_world(size: Run, device: str) -> list[Work]:
    """The world's images, from nothing to heatmaps and their Gaussian fits (on the CPU)."""
    del device
    images = 8
    drawn = world.scenes(size.world, "test", 0)[:images]
    seen = world.views(size.world, "test", 0, 0, images)
    maps = world.stacked(world.detect(drawn, seen.images), "heatmaps")
    parts: dict[str, Step] = {
        "world, images": lambda: world.views(size.world, "test", 0, 0, images),
        "world, detector": lambda: world.detect(drawn, seen.images),
        "Gaussian fits of 17 maps": lambda: fit_gaussian(maps),
    }
    return _works(parts, "humr", images)


def lifting(size: Run, device: str) -> list[Work]:
    """A training step of the lifting systems, critic included, and 1000 hypotheses of an image."""
    del size
    sizes, generator = profile("laptop"), torch.Generator().manual_seed(0)
    batch = workloads.lifting_batch(sizes.lifting.training.batch, generator).to(device)
    works = []
    for name, run in (("lifting flow", sizes.lifting), ("ProPose", sizes.propose)):
        objective = workloads.lifting_objective(run).to(device)
        parts: dict[str, Step] = {
            f"{name}, step": partial(workloads.lifting_step, objective, batch, generator),
            f"{name}, 1000 hypotheses": partial(objective.model.sample, batch[:1], 1000),
        }
        works += _works(parts, "humr", 1)
    return works


GROUPS: dict[str, Callable[[Run, str], list[Work]]] = {
    "training": training,
    "evaluation": evaluation,
    "photo": photograph,
    "world": open_world,
    "lifting": lifting,
}
