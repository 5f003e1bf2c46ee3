"""What the switches of `acceleration`, and half precision, bring: further forms of timed works.

A form is first compared with the usual one, by its loss or its metrics; a difference beyond its
tolerance is an error.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from humr import workloads
from humr.acceleration import SWITCHES, compile_couplings, faster
from humr.bench_parts import IMAGES, agree
from humr.config import Run
from humr.stopwatch import Work

FORMS = (*SWITCHES, "bf16")
# Relative differences that are allowed to the usual form: half precision rounds, the rest does not
TOLERANCE = {"tf32": 1e-2, "bf16": 3e-2}
EXACT = 1e-3
COMPARED = ("mpjpe_mode", "pve_best", "energy_score")
Step = Callable[[], Any]


def works(group: str, size: Run, device: str, forms: Sequence[str]) -> list[Work]:
    """Return the works of a group in further forms; groups without such forms have none."""
    build = {"training": _training, "evaluation": _evaluation}.get(group)
    return [] if build is None else [build(size, device, form) for form in forms]


def _training(size: Run, device: str, form: str) -> Work:
    usual, ours = (workloads.training(size, device=device) for _ in range(2))
    changed = partial(_in_form, form, device, ours.objective.model.flow)
    for made in (usual, ours):
        made.objective.eval()  # the same loss needs the same dropout: none
    limit = TOLERANCE.get(form, EXACT)
    agree(f"training step, {form}", changed(ours.gradients)(), usual.gradients(), limit)
    ours.objective.train()
    return Work(name="training step", run=changed(ours.step), form=form, count=len(ours.batch))


def _evaluation(size: Run, device: str, form: str) -> Work:
    make = partial(workloads.evaluation, size.model, images=IMAGES, device=device)
    usual, ours = make(), make()
    run = _in_form(form, device, ours.model.flow, ours.run)
    expected, found = usual.run(), run()
    for name in COMPARED:
        limit = TOLERANCE.get(form, EXACT)
        agree(f"evaluation, {form}, {name}", found[name], expected[name], limit)
    count = ours.noise.shape[:2].numel()
    return Work(name="evaluation, 100 hypotheses", run=run, form=form, count=count)


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
