"""How much memory a piece of work needs at its peak."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak_memory(task: Callable[[], object], *, device: torch.device | str = "cpu") -> float:
    """Run a task and return the most memory that it held beyond what was held before, in MB.

    On a CUDA device the tensors there are counted, on a CPU whatever the process holds, tensors
    and all else. Linux can forget an earlier peak; other systems only know the highest so far, so
    that there the result is too small if more was held earlier. Objects that only wait for
    Python's garbage collector are freed first: collected within the task, they would hide as
    much of what the task takes.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    forgot = _forget()
    before = _status("VmRSS") if forgot else _highest()
    task()
    return (_status("VmHWM") if forgot else _highest()) - before


def _forget() -> bool:
    """Give freed memory back and start a new peak, where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim  # of glibc: freed memory would be used silently
        trim(0)
    except (AttributeError, OSError):
        pass
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> float:
    line = next(row for row in _STATUS.read_text().splitlines() if row.startswith(name))
    return int(line.split()[1]) / 1024


def _highest() -> float:
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
