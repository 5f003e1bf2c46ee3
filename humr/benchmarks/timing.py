"""How long pieces of work take, side by side, and how fast this device could be at all.

A machine that others use is fast in one second and slow in the next. So tasks are run in turn,
one repeat of each after another, and medians and ratios are of repeats that were neighbours. Two
clocks: `wall` is what a person waits, `user` what the processor did for us (the steadier one).
"""

import ctypes
import gc
import json
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

from humr.experiments.runs import write_rows
from humr.files import DATA, write_text

Device = torch.device | str
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
SHORTEST = 0.02  # seconds: shorter tasks are run several times a repeat
# For the peak: side of the matrices that are multiplied, bytes that are copied. Smaller
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


def peak(device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Peak:
    """Measure what a device does at best, at one precision."""
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


# ---- what a task costs


def operations(task: Task) -> int:
    """Floating-point operations of the matrix products in a task; elementwise ones not counted."""
    with _Counter() as counter:
        task.run()
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


def timed(tasks: Sequence[Task], *, repeats: int, device: Device = "cpu") -> pd.DataFrame:
    """Return seconds of every task and repeat: columns name, form, count, repeat, wall, user."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")
    times = [_times(task, device) for task in tasks]
    rows = [
        {"name": task.name, "form": task.form, "count": task.count, "repeat": repeat}
        | _once(task, number, device)
        for repeat in range(repeats)
        for task, number in zip(tasks, times, strict=True)
    ]
    return pd.DataFrame(rows)


def _times(task: Task, device: Device) -> int:
    """How often a task is run in one repeat; the first run, which warms up, does not count."""
    task.run()
    return max(1, round(SHORTEST / max(_once(task, 1, device)["wall"], 1e-6)))


def _once(task: Task, number: int, device: Device) -> dict[str, float]:
    _wait(device)
    wall, user = time.perf_counter(), os.times().user
    for _ in range(number):
        task.run()
    _wait(device)
    return {
        "wall": (time.perf_counter() - wall) / number,
        "user": (os.times().user - user) / number,
    }


def _wait(device: Device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def compared(seconds: pd.DataFrame, *, form: str = "humr") -> pd.DataFrame:
    """Medians of each task in one form, and how many times longer every other form takes.

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


def costs(tasks: Sequence[Task], *, device: Device = "cpu") -> pd.DataFrame:
    """Operations and peak memory (MB beyond what was held) of every task, one row each."""
    rows = [
        {
            "name": task.name,
            "form": task.form,
            "operations": operations(task),
            "memory": peak_memory(task.run, device=device),
        }
        for task in tasks
    ]
    return pd.DataFrame(rows)


def peak_memory(task: Callable[[], object], *, device: Device = "cpu") -> float:
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


def table(seconds: pd.DataFrame, costs: pd.DataFrame, peak: Peak) -> pd.DataFrame:
    """One row per task in our form.

    Columns: `group`, `wall` and `user` (median seconds), `per second` (by wall), `of floor` (share
    of the wall time that the matrix products alone would take), `memory` (MB at the peak), and the
    same clocks and memory of the other forms as multiples of ours.
    """
    found = compared(seconds)
    by_form = costs.pivot(index="name", columns="form", values=["operations", "memory"])
    ours = by_form.loc[found.index]
    found.insert(0, "group", costs.groupby("name")["group"].first())
    found["per second"] = found["count"] / found["wall"]
    found["of floor"] = ours["operations", "humr"] / peak.flops / found["wall"]
    found["memory"] = ours["memory", "humr"]
    for form in by_form.columns.get_level_values("form").unique().drop("humr"):
        found[f"memory_{form}"] = ours["memory", form] / ours["memory", "humr"].clip(lower=1)
    return found.drop(columns="count")


def write(
    path: Path, seconds: pd.DataFrame, costs: pd.DataFrame, about: dict[str, object]
) -> None:
    """Keep all repeats and costs as Parquet, and beside them where they come from."""
    both = seconds.merge(costs, on=["group", "name", "form"], validate="many_to_one")
    write_rows(path, both)
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")


def read(path: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    """Read what `write` wrote: the table, and where it comes from."""
    about = json.loads(path.with_suffix(".json").read_text())
    both, peak = pd.read_parquet(path), Peak(**about["floor"])
    columns = ["group", "name", "form", "operations", "memory"]
    return table(both, pd.DataFrame(both, columns=columns).drop_duplicates(), peak), about


def published() -> dict[str, tuple[pd.DataFrame, dict[str, object]]]:
    """Read all committed tables, by device, threads and sizes: "cpu, 1 thread, paper sizes"."""
    found = {}
    for path in sorted((DATA / "results").glob("bench-*.parquet")):
        _, device, threads, size = path.stem.split("-")
        count = f"{threads} thread" + "s" * (threads != "1")
        found[f"{device}, {count}, {size} sizes"] = read(path)
    return found
