"""HuMR's Tables 1, 2, 3, S1 and S2 on 3DPW and EMDB: ``python3 -m humr tables``.

Every finished run of the profile "paper" that is a row of these tables is evaluated, and every
checkpoint that the command line names: ``--checkpoint mask=data/licensed/ckpt/humr`` puts an
official one, once converted, beside the paper's full model. What has been evaluated is not
evaluated again. Tables are printed and written to ``runs/paper/tables``.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
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


def rows_of_runs(
    *, test: Sequence[str] = TEST, focal: str = "diagonal", hypotheses: int | None = None
) -> list[pd.DataFrame]:
    """Rows of every finished run, one table each; arguments as of `rows_of`."""
    items = [item for study in ABLATIONS for item in variants(study, PROFILE)]
    jobs = {job.key: job for job in studies.seeded(items, PROFILE)}
    return [
        studies.described(job, _rows(studies.checkpoint(job), test, focal, hypotheses))
        for job in jobs.values()
        if studies.is_done(job)
    ]


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
    return [
        _rows(stem, test, focal, hypotheses).assign(variant=name, seed=0)
        for name, stem in checkpoints.items()
    ]


def _rows(stem: Path, test: Sequence[str], focal: str, hypotheses: int | None) -> pd.DataFrame:
    return experiments.evaluated(
        stem,
        Licensed(test=tuple(test)),
        "test",
        hypotheses=hypotheses or profile(PROFILE).hypotheses,
        default_focal=focal == "diagonal",
    )


def joined(named: Sequence[pd.DataFrame], runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of named checkpoints and of finished runs in one table, if no name is of both."""
    parts = [*named, *runs]
    names = [{str(name) for part in each for name in part["variant"]} for each in (named, runs)]
    if both := sorted(names[0] & names[1]):
        raise ValueError(
            f"--checkpoint {both[0]}=...: finished runs have that name as well, and two models "
            "must not share a row. Give the checkpoint another one, as in official=..."
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def write(rows: pd.DataFrame, folder: Path, *, hypotheses: int) -> dict[str, pd.DataFrame]:
    """Write rows, averages and all tables, and where they come from; returns the tables."""
    names = {name: name for name in rows["variant"].unique()}
    known = {name: table(name, rows, names=_new(names), hypotheses=hypotheses) for name in LAYOUT}
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.parquet", rows)
    write_text(folder / "averages.csv", averages(rows).to_csv(index=False))
    for name, shown in known.items():
        write_text(folder / f"table_{name}.csv", shown.to_csv())
    people = rows[["data_set", "image"]].drop_duplicates()
    about = {**provenance(), "variants": sorted(names), "people": len(people)}
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
    parser.add_argument("--hypotheses", type=int, help="per person; default: the profile's")
    options = parser.parse_args(arguments)
    try:
        count = options.hypotheses or profile(PROFILE).hypotheses
        chosen = {"test": options.test, "focal": options.focal, "hypotheses": count}
        rows = joined(rows_of(dict(options.checkpoint), **chosen), rows_of_runs(**chosen))
    except (FileNotFoundError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    if rows.empty:
        say(
            "humr: there is nothing to evaluate: no run of the profile paper is finished "
            "(python3 -m humr train paper), and no --checkpoint was given"
        )
        return 1
    folder = RUNS / PROFILE / "tables"
    for name, shown in write(rows, folder, hypotheses=count).items():
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
