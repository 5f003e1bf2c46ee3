"""Which device computes, and what must not be rounded there."""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def pick_device() -> torch.device:
    """Return where to train and to evaluate: HUMR_DEVICE, else a CUDA device if there is one."""
    chosen = os.environ.get("HUMR_DEVICE") or "auto"
    if chosen not in ("auto", "cpu", "cuda"):
        raise ValueError(f"HUMR_DEVICE must be cpu, cuda or auto; got {chosen!r}")
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(chosen)


def unrounded(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of tensors compute in their own precision, under autocast too.

    Networks may multiply in bfloat16, geometry may not: that moves joints by millimetres.
    """

    @wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> T:
        given = (*args, *kwargs.values())
        device = next(value.device for value in given if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return precise
