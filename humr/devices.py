"""Work on another device than the CPU: what must not be rounded there."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


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
