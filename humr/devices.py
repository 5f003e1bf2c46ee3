"""Which device computes, how tensors get there, and what must not be rounded there."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def pick_device() -> torch.device:
    """Return where to train and to evaluate: HUMR_DEVICE, else a CUDA device if there is one."""
    chosen = os.environ.get("HUMR_DEVICE") or "auto"
    if chosen not in ("auto", "cpu", "cuda"):
        raise ValueError(f"HUMR_DEVICE must be cpu, cuda or auto; got {chosen!r}")
    there = torch.cuda.is_available()
    if chosen == "cuda" and not there:
        raise ValueError(
            "HUMR_DEVICE is cuda, and torch finds no CUDA device. Usual cause: a CPU build of "
            "torch, or a driver that is too old; with HUMR_DEVICE=cpu it goes on without"
        )
    return torch.device("cpu" if chosen == "cpu" or not there else "cuda")


def moved(record: T, device: torch.device | str) -> T:
    """Move every tensor of a dataclass; what it lacks (None) it still lacks.

    Copies to CUDA devices are not waited for. Those from them must be, else they are read early.
    """
    ahead, given = torch.device(device).type == "cuda", cast("Any", record)
    values = {f.name: getattr(given, f.name) for f in fields(given)}
    there = {
        name: value.to(device, non_blocking=ahead)
        if isinstance(value, Tensor)
        else value.to(device)
        for name, value in values.items()
        if value is not None
    }
    return replace(given, **there)


@cache
def constant(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " numbers"]:
    """Return whole numbers, indices for example, as a tensor that a device keeps: copied once."""
    with torch.inference_mode(mode=False):  # an inference tensor could not serve in training later
        return torch.tensor(numbers, device=device)


def _widened(value: Any) -> Any:  # noqa: ANN401
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def unrounded(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of tensors compute in single precision or better, under autocast too.

    Networks may multiply in bfloat16, geometry may not: that moves joints by millimetres. What
    comes from a network in half precision is widened.
    """

    @wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> T:
        given, call = (*args, *kwargs.values()), cast("Any", function)
        device = next(value.device for value in given if isinstance(value, Tensor))
        wide = map(_widened, args)
        named = {name: _widened(value) for name, value in kwargs.items()}
        with torch.autocast(device.type, enabled=False):
            return call(*wide, **named)

    return precise
