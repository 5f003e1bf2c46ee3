"""What `humr bench` times: pieces of work, in our form and, where there are some, in others.

``python3 -m humr bench`` prints a table (`timing.table`) and keeps all repeats. The plain form of
the equations lives with the tests (`tests/plain.py`); without it there are no ratios. Results of
two forms are compared before anything is timed: a difference is an error, a time never is.
"""

import argparse
import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import count, repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from humr import losses, posterior
from humr.batches import Batch
from humr.benchmarks import people, timing
from humr.benchmarks.timing import Task
from humr.bodies.body import load_body
from humr.config import Run
from humr.detector import load_image
from humr.devices import SWITCHES, compile_couplings, faster
from humr.evaluation import statistics
from humr.experiments import runs
from humr.experiments.ablations import changed
from humr.experiments.profiles import profile
from humr.files import DATA, ROOT, RUNS, provenance, say
from humr.flows import ConditionalFlow
from humr.geometry import sixd_to_matrix
from humr.heatmaps import fit_gaussian
from humr.licensed.datasets import data_set
from humr.licensed.features import AS_ANNOTATED, LicensedImages
from humr.model import DIM
from humr.skeletons import ARTICULATED
from humr.world import generate

Step = Callable[[], Any]
PLAIN = ROOT / "tests" / "plain.py"
SIZES: dict[str, Run] = {
    "paper": replace(people.PAPER, supervision=people.OFFICIAL),
    "laptop": replace(profile("laptop").run, supervision=people.OFFICIAL),
}
AXES = {  # of the group "scaling"
    "hypotheses": (1, 10, 100, 1_000, 10_000),  # of one image, to joints
    "images": (1, 4, 16, 64),  # of a training step
    "joints": (5, 11, 22, 55),  # of the flow, 100 hypotheses
    "context": (8, 128, 979, 4_096),  # of the flow, 100 hypotheses of 4 images
}
FORMS = (*SWITCHES, "bf16")  # further ones, of training and evaluation
COMPARED = ("mpjpe_mode", "pve_best", "energy_score")
# Relative differences that forms may have to ours. Half precision rounds; of the plain form, sums
# of a million numbers in single precision.
AGREE = {"plain": 1e-4, "tf32": 1e-2, "bf16": 3e-2}
EXACT = 1e-3  # of all others
# ---- forms


def plain_form() -> ModuleType | None:
    """The plain form of the equations, if the tests are here."""
    spec = importlib.util.spec_from_file_location("plain", PLAIN)
    if spec is None or spec.loader is None or not PLAIN.exists():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(what: str, form: str, ours: Tensor, other: Tensor) -> None:
    """Refuse to time two things that are not the same."""
    limit = AGREE.get(form, EXACT)
    error = ((ours - other).abs() / other.abs().clamp_min(1)).nan_to_num().max().item()
    if error > limit:
        raise ArithmeticError(f"{what}: the forms differ by {error:.1e} (> {limit:g})")


def rows(count: int, **forms: dict[str, Step]) -> list[Task]:
    """Return one task for every form and part, each of `count` results."""
    return [
        Task(name=name, run=run, form=form, count=count)
        for form, parts in forms.items()
        for name, run in parts.items()
    ]


def in_form(form: str, device: str, flow: nn.Module, run: Step) -> Step:
    """Return a piece of work in another form. A flow that is compiled stays so."""
    if form in ("compiled", "graphs"):
        if "_transform" not in vars(flow):
            compile_couplings(flow, graphs=form == "graphs" and device == "cuda")
        return run
    half = partial(torch.autocast, device, torch.bfloat16)
    return partial(_within, half if form == "bf16" else partial(faster, [form], device), run)


def _within(context: Callable[[], AbstractContextManager[Any]], run: Step) -> Any:  # noqa: ANN401
    with context():
        return run()


# ---- a training step


def training_tasks(size: Run, device: str, forms: Sequence[str] = ()) -> list[Task]:
    """A training step after the backbone, whole and by part; gradients included."""
    ours = people.training(size, device=device)
    noise, plain = ours.noise(), plain_form()
    made = {"humr": _training_parts(ours, noise)}
    if plain is not None:
        made["plain"] = _plain_training(plain, ours, noise)
    for form in forms:
        made[form] = {"training step": _switched_training(size, device, form)}
    return rows(len(ours.batch), **made)


def _training_parts(ours: people.Training, noise: Tensor) -> dict[str, Step]:
    batch, body, flow = ours.batch, ours.objective.body, ours.objective.model.flow
    points, bends = _points(noise), torch.zeros(17, dtype=torch.bool, device=noise.device)
    bends[list(ARTICULATED)] = True
    targets = losses.supervision_targets(
        batch.samples, batch.keypoints[..., :2], batch.keypoints[..., 2], bends
    )
    sixd = flow.generate(noise, flow.project(ours.context).detach())[0].detach()
    sixd, placed = sixd.unflatten(-1, (-1, 6)), pad(points, (0, 1), value=5.0)

    def body_part() -> Tensor:
        return body.keypoints(sixd_to_matrix(_leaf(sixd)), batch.betas[:, None], "coco17")

    def mask_part() -> Tensor:
        valid = losses.inside_mask(targets.samples, batch.mask)
        given = _leaf(points), batch.mask, targets.samples, valid, targets.invisible
        return losses.mask_loss(*given, any_joint=True)

    def back(make: Callable[[], Tensor]) -> Step:
        return lambda: make().sum().backward()

    ours.gradients()  # the optimiser needs some
    return {
        "flow, sampling": back(lambda: flow.generate(noise, flow.project(ours.context))[0]),
        "flow, density": back(lambda: flow.log_prob(noise[:, 1:2], flow.project(ours.context))),
        "body": back(body_part),
        "projection": back(lambda: batch.to_crop(_leaf(placed))),
        "heatmap loss": back(lambda: losses.heatmap_mmd_biased(_leaf(points), targets)),
        "mask loss": back(mask_part),
        "mask test": lambda: losses.inside_mask(points, batch.mask),
        "optimiser": ours.optimizer.step,
        "training step": ours.step,
    }


def _leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_()


def _points(noise: Tensor) -> Tensor:
    """Keypoints of the random hypotheses, anywhere in the crop."""
    return 2 * torch.rand(*noise[:, 1:].shape[:2], 17, 2, device=noise.device) - 1


def _plain_training(plain: ModuleType, ours: people.Training, noise: Tensor) -> dict[str, Step]:
    model, batch, optimizer = ours.objective.model, ours.batch, ours.optimizer
    body, points = plain.Body("full", device=noise.device), _points(noise)
    samples = ours.objective.supervision.heatmap_samples
    sixd = model.people(model.observe(batch, ours.context), noise).sixd.detach()

    def total(given: Tensor, blur: Tensor) -> Tensor:
        found = plain.terms(model, body, batch, given, blur, samples=samples, context=ours.context)
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

    inside = losses.inside_mask(points, batch.mask)
    agree("mask test", "plain", inside.float(), test().float())
    agree("training step", "plain", *_both_losses(ours, total))
    return {"flow, sampling": sampling, "body": bodies, "mask test": test, "training step": step}


def _both_losses(
    ours: people.Training, total: Callable[[Tensor, Tensor], Tensor]
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
        pair = objective.total(terms), total(people.with_mode(noise), blur)
    objective.body = usual
    objective.train()
    return pair


def _switched_training(size: Run, device: str, form: str) -> Step:
    usual, ours = (people.training(size, device=device) for _ in range(2))
    switched = partial(in_form, form, device, ours.objective.model.flow)
    for made in (usual, ours):
        made.objective.eval()  # the same loss needs the same dropout: none
    agree(f"training step, {form}", form, switched(ours.gradients)(), usual.gradients())
    ours.objective.train()
    return switched(ours.step)


# ---- evaluation


def evaluation_tasks(size: Run, device: str, forms: Sequence[str] = ()) -> list[Task]:
    """All metrics of 100 and of 1000 hypotheses per image, from latents; full mesh."""
    made, plain = [], plain_form()
    for hypotheses in (100, 1000):
        make = partial(people.evaluation, size.model, hypotheses=hypotheses, device=device)
        steps: dict[str, Step] = {"humr": (ours := make()).run}
        if hypotheses == 100:
            if plain is not None:
                steps["plain"] = _plain_evaluation(plain, ours)
            for form in forms:
                steps[form] = _switched_evaluation(make(), ours, device, form)
        name = f"evaluation, {hypotheses} hypotheses"
        parts = {form: {name: run} for form, run in steps.items()}
        made += rows(people.IMAGES * hypotheses, **parts)
    return made


def _plain_evaluation(plain: ModuleType, ours: people.Evaluation) -> Step:
    body, truth = plain.Body("full", device=ours.noise.device), ours.truth
    known = {name: getattr(truth, name) for name in ("silhouette", "visible", "covered")}

    @torch.no_grad()
    def run() -> dict[str, Tensor]:
        given = ours.model, body, ours.batch, ours.noise
        return plain.evaluate(*given, context=ours.context, **known)

    fast = ours.run()
    for name, value in run().items():
        agree(f"evaluation, {name}", "plain", fast[name], value)
    return run


def _switched_evaluation(
    ours: people.Evaluation, usual: people.Evaluation, device: str, form: str
) -> Step:
    run = in_form(form, device, ours.model.flow, ours.run)
    expected, found = usual.run(), run()
    for name in COMPARED:
        agree(f"evaluation, {form}, {name}", form, found[name], expected[name])
    return run


# ---- the open chain, and lifting


def photo_tasks(size: Run, device: str) -> list[Task]:
    """From a photograph to 100 hypotheses, by stage; the shipped network."""
    from skimage import data

    del size
    image, detector = data.astronaut(), generate.world_assets().detector
    body, model = load_body("full").to(device), runs.shipped()[0].to(device).eval()
    detection, generator = detector.detect(image), torch.Generator().manual_seed(0)
    height, width = image.shape[:2]

    def observe() -> Batch:
        found = posterior.observation_batch(detection, width, height, None, generator)
        return found.to(device)

    draw = partial(model.sample, observe(), 100, generator=generator)
    samples = draw().samples
    parts: dict[str, Step] = {
        "photo, detector": partial(detector.detect, image),
        "photo, observation": observe,
        "photo, network": draw,
        "photo, joints": partial(samples.joints, body),
        "photo, meshes": lambda: samples[:, :5].vertices(body),
    }
    return rows(1, humr=parts)


def world_tasks(size: Run, device: str) -> list[Task]:
    """The world's images, from nothing to heatmaps and their Gaussian fits (on the CPU)."""
    del device
    images = 8
    drawn = generate.scenes(size.world, "test", 0)[:images]
    seen = generate.views(size.world, "test", 0, 0, images)
    maps = generate.stacked(generate.detect(drawn, seen.images), "heatmaps")
    parts: dict[str, Step] = {
        "world, images": partial(generate.views, size.world, "test", 0, 0, images),
        "world, detector": partial(generate.detect, drawn, seen.images),
        "Gaussian fits of 17 maps": partial(fit_gaussian, maps),
    }
    return rows(images, humr=parts)


def lifting_tasks(size: Run, device: str) -> list[Task]:
    """A training step of the lifting systems, critic included, and 1000 hypotheses of an image."""
    del size
    sizes, generator = profile("laptop"), torch.Generator().manual_seed(0)
    batch = people.lifting_batch(sizes.lifting.training.batch, generator).to(device)
    parts: dict[str, Step] = {}
    for name, run in (("lifting flow", sizes.lifting), ("ProPose", sizes.propose)):
        objective = people.lifting_objective(run).to(device)
        parts[f"{name}, step"] = partial(people.lifting_step, objective, batch, generator)
        parts[f"{name}, 1000 hypotheses"] = partial(objective.model.sample, batch[:1], 1000)
    return rows(1, humr=parts)


# ---- photographs to crops


def loader_tasks(size: Run, device: str) -> list[Task]:
    """Photographs to crops, as annotated and varied, of each kind of file; on the CPU.

    A file is read, decoded, varied or not, cropped and standardised, with the mask of persons.
    "Per second" is images per second and process.
    """
    del size, device
    parts: dict[str, Step] = {}
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG")):
        folder = Path(tempfile.mkdtemp())
        images = people.photographs(folder, suffix)
        weakref.finalize(images, shutil.rmtree, folder, ignore_errors=True)  # after the tasks
        parts |= {
            f"{kind}, decoded": partial(_decoded, images),
            f"{kind}, annotated crop": partial(_crops, images, repeat(AS_ANNOTATED)),
            f"{kind}, varied crop": partial(_crops, images, count()),  # each time another variant
        }
    return rows(people.PHOTOS, humr=parts)


def _decoded(images: LicensedImages) -> list[np.ndarray]:
    folder = images.root / data_set(people.SET).images
    return [load_image(path) for path in sorted(folder.iterdir())]


def _crops(images: LicensedImages, numbers: Iterator[int]) -> list[Any]:
    number = next(numbers)
    return [images.crops(i, number) for i in range(len(images))]


# ---- the same work for more and more of something


def scaling_tasks(size: Run, device: str) -> list[Task]:
    """Growing numbers of everything in `AXES`; tasks are named "axis: value"."""
    ours = people.evaluation(size.model, images=1, hypotheses=1, device=device)
    generator, plain, made = torch.Generator().manual_seed(0), plain_form(), []
    for n in AXES["hypotheses"]:
        draw = partial(statistics, ours.model, ours.body, ours.batch, n, generator=generator)
        made += rows(n, humr={f"hypotheses: {n}": draw})
    for n in AXES["images"]:
        step = people.training(changed(size, training={"batch": n}), device=device).step
        made += rows(n, humr={f"images: {n}": step})
    for n in AXES["joints"]:
        made += _flow(size, device, f"joints: {n}", 6 * n, 979, plain=None)
    for n in AXES["context"]:
        made += _flow(size, device, f"context: {n}", DIM, n, plain=plain)
    return made


def _flow(
    size: Run, device: str, name: str, dim: int, context: int, *, plain: ModuleType | None
) -> list[Task]:
    """Draw 100 hypotheses of four images from a flow of other sizes."""
    flow = ConditionalFlow(dim, context, blocks=size.model.blocks, hidden=size.model.hidden)
    flow = flow.to(device).requires_grad_(requires_grad=False)
    noise, seen = (torch.randn(people.IMAGES, *s).to(device) for s in ((100, dim), (context,)))
    forms: dict[str, dict[str, Step]] = {
        "humr": {name: lambda: flow.generate(noise, flow.project(seen))[0]}
    }
    if plain is not None:
        forms["plain"] = {name: partial(plain.generate, flow, noise, seen)}
    return rows(100 * people.IMAGES, **forms)


# ---- the command

GROUPS: dict[str, Callable[..., list[Task]]] = {
    "training": training_tasks,
    "evaluation": evaluation_tasks,
    "photo": photo_tasks,
    "world": world_tasks,
    "lifting": lifting_tasks,
    "scaling": scaling_tasks,
    "loader": loader_tasks,
}
SWITCHED = ("training", "evaluation")  # groups with further forms


def measure(
    groups: Sequence[str], size: str, *, repeats: int, device: str = "cpu",
    forms: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Time some groups of tasks, training and evaluation also in further `FORMS`.

    Returns all repeats, and what each task costs (see `timing.table`).
    """
    seconds, costs = [], []
    for group in groups:
        say(f"{group}, {size} sizes: {repeats} repeats")
        further = (forms,) if group in SWITCHED else ()
        tasks = GROUPS[group](SIZES[size], device, *further)
        seconds.append(timing.timed(tasks, repeats=repeats, device=device).assign(group=group))
        costs.append(timing.costs(tasks, device=device).assign(group=group))
    return pd.concat(seconds, ignore_index=True), pd.concat(costs, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `bench`."""
    parser = argparse.ArgumentParser(prog="humr bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], default=[])
    parser.add_argument("--size", choices=list(SIZES), default="laptop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=[])
    parser.add_argument("--publish", action="store_true", help="store in data/results")
    options = parser.parse_args(arguments)
    size, device = options.size, options.device
    torch.set_num_threads(options.threads)
    peak, groups = timing.peak(device), options.groups or list(GROUPS)
    seconds, costs = measure(
        groups, size, repeats=options.repeats, device=device, forms=options.forms
    )
    about = {**provenance(device), "size": size, "floor": vars(peak)}
    folder = DATA / "results" if options.publish else RUNS / "bench"
    path = folder / f"bench-{device}-{options.threads}-{size}.parquet"
    timing.write(path, seconds, costs, about)
    shown = timing.table(seconds, costs, peak)
    say(shown.to_string(float_format=lambda x: f"{x:.3g}", na_rep=""))
    say(
        f"floor: {peak.flops / 1e9:.0f} GFLOP/s, {peak.bandwidth / 1e9:.0f} GB/s; "
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"code {about['git']}; kept in {path.name}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
