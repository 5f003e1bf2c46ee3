"""How long pieces of work take, side by side, and how fast this device could be at all.

A machine that others use is fast in one second and slow in the next. So the works are run in turn,
one repeat of each after another, and medians and ratios are of repeats that were neighbours. Two
clocks: `wall` is what a person waits, `user` what the processor did for us (the steadier one).
"""

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# How much memory a piece of work needs at its peak.


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

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


Device = torch.device | str
SHORTEST = 0.02  # seconds: shorter works are run several times a repeat
# Of the device's floor: side of the matrices that are multiplied, bytes that are copied. Smaller
# ones do not fill a GPU, whose cache holds 50 MB.
SIZES = {"cpu": (1024, 2**26), "cuda": (8192, 2**30)}
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work that can be done again and again."""

    name: str
    run: Callable[[], object]
    form: str = "humr"  # whose way of doing it: "humr", "plain", ...
    count: int = 1  # of what it makes, e.g. hypotheses


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a device does at best, measured: products of large matrices, copies of much memory."""

    flops: float  # operations per second
    bandwidth: float  # bytes per second, read and written


def floor(device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Peak:
    """Measure the floor of a device at one precision."""
    side, copied = SIZES[torch.device(device).type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    product = Task(name="product", run=lambda: a @ b)
    copy = Task(name="copy", run=lambda: target.copy_(source))
    found = timed([product, copy], repeats=7, device=device)
    fastest = {
        str(name): part["wall"].to_numpy().min().item() for name, part in found.groupby("name")
    }
    return Peak(flops=2 * side**3 / fastest["product"], bandwidth=2 * copied / fastest["copy"])


def operations(work: Task) -> int:
    """Floating-point operations of the matrix products in a work; elementwise ones not counted."""
    with _Counter() as counter:
        work.run()
    return counter.total


class _Counter(TorchDispatchMode):
    """Counts operations by torch's own formulas.

    `FlopCounterMode` does so by module as well, with hooks that gradients of gradients break.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func.has_kernel_for_dispatch_key(_COMPOSITE):
            with self:
                return func.decompose(*args, **kwargs)  # into products that have a formula
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def timed(works: Sequence[Task], *, repeats: int, device: Device = "cpu") -> pd.DataFrame:
    """Return seconds of every work and repeat: columns name, form, count, repeat, wall, user."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")
    times = [_times(work, device) for work in works]
    rows = [
        {"name": work.name, "form": work.form, "count": work.count, "repeat": repeat}
        | _once(work, number, device)
        for repeat in range(repeats)
        for work, number in zip(works, times, strict=True)
    ]
    return pd.DataFrame(rows)


def _times(work: Task, device: Device) -> int:
    """How often a work is run in one repeat; the first run, which warms up, does not count."""
    work.run()
    return max(1, round(SHORTEST / max(_once(work, 1, device)["wall"], 1e-6)))


def _once(work: Task, number: int, device: Device) -> dict[str, float]:
    _wait(device)
    wall, user = time.perf_counter(), os.times().user
    for _ in range(number):
        work.run()
    _wait(device)
    return {
        "wall": (time.perf_counter() - wall) / number,
        "user": (os.times().user - user) / number,
    }


def _wait(device: Device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def compared(seconds: pd.DataFrame, *, form: str = "humr") -> pd.DataFrame:
    """Medians of each work in one form, and how many times longer every other form takes.

    Returns one row per name: `wall`, `user` (median seconds), `count`, and `wall_<other>`,
    `user_<other>`: medians of the ratios other / form, repeat by repeat (NaN without that form).
    """
    tables = {}
    for name, part in seconds.groupby("name", sort=False):
        clocks = part.pivot(index="repeat", columns="form", values=["wall", "user"])
        if form not in part["form"].to_numpy():
            raise ValueError(f"{name!r} has no times of form {form!r}")
        row = {"count": part.loc[part["form"] == form, "count"].iloc[0]}
        for clock in ("wall", "user"):
            own = clocks[clock, form]
            row[clock] = own.median()
            for other in part["form"].unique():
                if other != form:
                    row[f"{clock}_{other}"] = (clocks[clock, other] / own).median()
        tables[name] = row
    return pd.DataFrame.from_dict(tables, orient="index").rename_axis("name")


def costs(works: Sequence[Task], *, device: Device = "cpu") -> pd.DataFrame:
    """Operations and peak memory (MB beyond what was held) of every work, one row each."""
    rows = [
        {
            "name": work.name,
            "form": work.form,
            "operations": operations(work),
            "memory": peak_memory(work.run, device=device),
        }
        for work in works
    ]
    return pd.DataFrame(rows)
