"""The same work for more and more of something: what `bench` times as the group "scaling"."""

from collections.abc import Sequence
from functools import partial
from types import ModuleType

import torch

from humr import mesh, streams, workloads
from humr.bench_parts import IMAGES, Step, plain_form
from humr.config import Run
from humr.flows import ConditionalFlow
from humr.stopwatch import Work
from humr.variant import changed

AXES = {
    "hypotheses": (1, 10, 100, 1_000, 10_000),  # of one image, to joints
    "images": (1, 4, 16, 64),  # of a training step
    "joints": (5, 11, 22, 55),  # of the flow, 100 hypotheses
    "context": (8, 128, 979, 4_096),  # of the flow, 100 hypotheses of 4 images
}


def scaling(size: Run, device: str) -> list[Work]:
    """The same work for more and more of something; works are named "axis: value"."""
    made = {"hypotheses": _hypotheses, "images": _images, "joints": _joints, "context": _context}
    return [work for axis, build in made.items() for work in build(size, device, AXES[axis])]


def _hypotheses(size: Run, device: str, counts: Sequence[int]) -> list[Work]:
    ours = workloads.evaluation(size.model, images=1, hypotheses=1, device=device)
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> None:
        streams.statistics(ours.model, ours.body, ours.batch, count, generator=generator)

    return [Work(name=f"hypotheses: {n}", run=partial(draw, n), count=n) for n in counts]


def _images(size: Run, device: str, counts: Sequence[int]) -> list[Work]:
    works = []
    for count in counts:
        ours = workloads.training(changed(size, training={"batch": count}), device=device)
        works.append(Work(name=f"images: {count}", run=ours.step, count=count))
    return works


def _joints(size: Run, device: str, counts: Sequence[int]) -> list[Work]:
    return [
        work
        for n in counts
        for work in _flow(size, device, f"joints: {n}", 6 * n, 979, plain=None)
    ]


def _context(size: Run, device: str, widths: Sequence[int]) -> list[Work]:
    plain = plain_form()
    return [
        work
        for width in widths
        for work in _flow(size, device, f"context: {width}", mesh.DIM, width, plain=plain)
    ]


def _flow(
    size: Run, device: str, name: str, dim: int, context: int, *, plain: ModuleType | None
) -> list[Work]:
    """Draw 100 hypotheses of four images from a flow of other sizes."""
    flow = ConditionalFlow(dim, context, blocks=size.model.blocks, hidden=size.model.hidden)
    flow = flow.to(device).requires_grad_(requires_grad=False)
    noise, seen = torch.randn(IMAGES, 100, dim), torch.randn(IMAGES, context)
    noise, seen = noise.to(device), seen.to(device)
    forms: dict[str, Step] = {"humr": lambda: flow.generate(noise, flow.project(seen))[0]}
    if plain is not None:
        forms["plain"] = lambda: plain.generate(flow, noise, seen)
    return [Work(name=name, run=run, form=form, count=400) for form, run in forms.items()]
