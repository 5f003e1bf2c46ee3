"""HuMR's Tables 1, 2, 3, S1 and S2 on 3DPW and EMDB: ``python3 -m humr tables``.

Every finished run of the profile "paper" that is a row of these tables is evaluated, and every
checkpoint that the command line names: ``--checkpoint mask=data/licensed/ckpt/humr`` puts an
official one, once converted, beside the paper's full model. What has been evaluated is not
evaluated again. Tables are printed and written to ``runs/paper/tables``.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from humr import experiments, studies
from humr.environment import say
from humr.experiments import write_rows
from humr.files import write_text
from humr.licensed import TEST
from humr.official_evaluation import FOCAL
from humr.paper_config import Licensed
from humr.paper_tables import LAYOUT, averages, table
from humr.paths import RUNS
from humr.profiles import profile
from humr.provenance import provenance
from humr.variants import variants

ABLATIONS = ("components", "supervision")
PROFILE = "paper"


def rows_of_runs(*, focal: str = "diagonal") -> list[pd.DataFrame]:
    """Rows of every finished run, one table each."""
    items = [item for study in ABLATIONS for item in variants(study, PROFILE)]
    jobs = {job.key: job for job in studies.seeded(items, PROFILE)}
    jobs = [replace(job, default_focal=focal == "diagonal") for job in jobs.values()]
    return [studies.measured_as_is(job, PROFILE) for job in jobs if studies.is_done(job)]


def rows_of(
    checkpoints: Mapping[str, Path],
    *,
    test: Sequence[str] = TEST,
    focal: str = "diagonal",
    hypotheses: int | None = None,
) -> list[pd.DataFrame]:
    """Rows of checkpoints by name, one table each.

    Args:
        checkpoints: stems of files, by the variant that they stand for or any other name.
        test: data sets.
        focal: "diagonal", as in the official code, or "given".
        hypotheses: per person; default: the profile's.
    """
    sets = Licensed(test=tuple(test))
    count = hypotheses or profile(PROFILE).hypotheses
    found = []
    for name, stem in checkpoints.items():
        measured = experiments.evaluated(
            stem, sets, "test", hypotheses=count, default_focal=focal == "diagonal"
        )
        found.append(measured.assign(variant=name, seed=0))
    return found


def write(rows: pd.DataFrame, folder: Path, *, hypotheses: int) -> dict[str, pd.DataFrame]:
    """Write rows, averages and all tables, and where they come from; returns the tables."""
    names = {name: name for name in rows["variant"].unique()}
    known = {name: table(name, rows, names=_new(names), hypotheses=hypotheses) for name in LAYOUT}
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.parquet", rows)
    write_text(folder / "averages.csv", averages(rows).to_csv(index=False))
    for name, shown in known.items():
        write_text(folder / f"table_{name}.csv", shown.to_csv())
    about = {**provenance(), "variants": sorted(names), "people": int(rows["image"].size)}
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")
    return known


def _new(names: Mapping[str, str]) -> dict[str, str]:
    """Names that are no variant of ours: they become rows of their own."""
    ours = {item.name for study in ABLATIONS for item in variants(study, PROFILE)}
    return {name: label for name, label in names.items() if name not in ours}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `tables`."""
    parser = argparse.ArgumentParser(
        prog="humr tables", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="NAME=STEM", type=_pair)
    parser.add_argument("--test", nargs="+", default=list(TEST), choices=TEST, help="data sets")
    parser.add_argument("--focal", choices=FOCAL, default="diagonal", help="focal lengths")
    parser.add_argument("--hypotheses", type=int, default=profile(PROFILE).hypotheses)
    options = parser.parse_args(arguments)
    try:
        parts = rows_of(
            dict(options.checkpoint),
            test=options.test,
            focal=options.focal,
            hypotheses=options.hypotheses,
        )
        parts += rows_of_runs(focal=options.focal)
    except (FileNotFoundError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    if not parts:
        say(
            "humr: there is nothing to evaluate: no run of the profile paper is finished "
            "(python3 -m humr train paper), and no --checkpoint was given"
        )
        return 1
    folder = RUNS / PROFILE / "tables"
    for name, shown in write(pd.concat(parts), folder, hypotheses=options.hypotheses).items():
        say(f"\nTable {name} (mm, pixels, %)\n{shown.to_string()}")
    say(f"\nwritten to {folder.relative_to(RUNS.parent)}")
    return 0


def _pair(text: str) -> tuple[str, Path]:
    name, equals, stem = text.partition("=")
    if not (name and equals and stem):
        raise argparse.ArgumentTypeError(f"expected NAME=STEM; got {text!r}")
    return name, Path(stem)


if __name__ == "__main__":
    raise SystemExit(main())
