"""What to do when memory is too small: an error that names the size that would fit."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_CPU = "DefaultCPUAllocator"  # how torch's messages begin when the CPU's memory is too small


def is_memory_error(error: BaseException) -> bool:
    """Say whether an error means that memory is too small, on a CPU or on a CUDA device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _CPU in str(error)
    )


def largest_fitting(size: int, attempt: Callable[[int], object]) -> int:
    """Return the largest of size/2, size/4, ... for which the attempt has memory enough, or 0."""
    while size > 1:
        size //= 2
        if _fits(size, attempt):
            return size
    return 0


def _fits(size: int, attempt: Callable[[int], object]) -> bool:
    try:
        attempt(size)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        return False
    return True


def with_advice(
    work: Callable[[], T], *, what: str, size: int, attempt: Callable[[int], object]
) -> T:
    """Do some work; if memory is too small for it, say which smaller size would fit.

    Args:
        work: what is done.
        what: names its size in the error, with the place where it is set: "images of a step
            (training.batch)".
        size: the size that the work has.
        attempt: does the same with another size.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        reason = str(error).splitlines()[0]
    # Out of the handler: the traceback held what the failed work had allocated.
    fits = largest_fitting(size, attempt)
    advice = f"{fits} fit" if fits else "not even 1 fits"
    raise MemoryError(f"memory is too small for {size} {what}; {advice} ({reason})")
