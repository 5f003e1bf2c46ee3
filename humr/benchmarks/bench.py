"""Time every part of the chain: ``python3 -m humr bench`` prints a table and keeps all repeats.

One row per piece of work: median seconds on two clocks, what that is per second, the share of the
device's floor (products of large matrices at their measured best), peak memory, and how many times
longer the plain form of the same equations takes. `stopwatch` says how things are timed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from humr.benchmarks import tasks, timing
from humr.benchmarks.loader import loader
from humr.benchmarks.tasks import SIZES, scaling
from humr.experiments.runs import write_rows
from humr.files import DATA, RUNS, provenance, say, write_text

GROUPS = tasks.GROUPS | {"scaling": scaling, "loader": loader}


def measure(
    groups: Sequence[str],
    size: str,
    *,
    repeats: int,
    device: str = "cpu",
    forms: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time some groups of works; returns all repeats, and what each work costs (see `table`).

    `forms`: of training and evaluation also these forms (`bench_switches.FORMS`).
    """
    seconds, costs = [], []
    for group in groups:
        say(f"{group}, {size} sizes: {repeats} repeats")
        works = GROUPS[group](SIZES[size], device)
        works += tasks.works(group, SIZES[size], device, forms)
        seconds.append(timing.timed(works, repeats=repeats, device=device).assign(group=group))
        costs.append(timing.costs(works, device=device).assign(group=group))
    return pd.concat(seconds, ignore_index=True), pd.concat(costs, ignore_index=True)


def table(seconds: pd.DataFrame, costs: pd.DataFrame, floor: timing.Peak) -> pd.DataFrame:
    """One row per work in our form.

    Columns: `group`, `wall` and `user` (median seconds), `per second` (by wall), `of floor` (share
    of the wall time that the matrix products alone would take), `memory` (MB at the peak), and the
    same clocks and memory of the other forms as multiples of ours.
    """
    found = timing.compared(seconds)
    by_form = costs.pivot(index="name", columns="form", values=["operations", "memory"])
    ours = by_form.loc[found.index]
    found.insert(0, "group", costs.groupby("name")["group"].first())
    found["per second"] = found["count"] / found["wall"]
    found["of floor"] = ours["operations", "humr"] / floor.flops / found["wall"]
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
    both, limit = pd.read_parquet(path), timing.Peak(**about["floor"])
    columns = ["group", "name", "form", "operations", "memory"]
    return table(both, pd.DataFrame(both, columns=columns).drop_duplicates(), limit), about


def published() -> dict[str, tuple[pd.DataFrame, dict[str, object]]]:
    """Read all committed tables, by device, threads and sizes: "cpu, 1 thread, paper sizes"."""
    found = {}
    for path in sorted((DATA / "results").glob("bench-*.parquet")):
        _, device, threads, size = path.stem.split("-")
        count = f"{threads} thread" + "s" * (threads != "1")
        found[f"{device}, {count}, {size} sizes"] = read(path)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `bench`."""
    parser = argparse.ArgumentParser(prog="humr bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], default=[])
    parser.add_argument("--size", choices=list(SIZES), default="laptop")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--forms", nargs="+", choices=tasks.FORMS, default=[])
    parser.add_argument("--publish", action="store_true", help="store in data/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    limit = timing.floor(options.device)
    groups = options.groups or list(GROUPS)
    seconds, costs = measure(
        groups,
        options.size,
        repeats=options.repeats,
        device=options.device,
        forms=options.forms,
    )
    about = {**provenance(options.device), "size": options.size, "floor": vars(limit)}
    folder = DATA / "results" if options.publish else RUNS / "bench"
    path = folder / f"bench-{options.device}-{options.threads}-{options.size}.parquet"
    write(path, seconds, costs, about)
    shown = table(seconds, costs, limit)
    say(shown.to_string(float_format=lambda x: f"{x:.3g}", na_rep=""))
    say(
        f"floor: {limit.flops / 1e9:.0f} GFLOP/s, {limit.bandwidth / 1e9:.0f} GB/s; "
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"code {about['git']}; kept in {path.name}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
