"""HuMR's Tables 1, 2, 3, S1 and S2 on 3DPW and EMDB, beside the paper's numbers: `humr tables`.

Every finished run of the profile "paper" that is a row of these tables is evaluated, and every
checkpoint that the command line names: ``--checkpoint mask=data/licensed/ckpt/humr`` puts an
official one, once converted, beside the paper's full model. What has been evaluated is not
evaluated again. Tables are printed and written to ``runs/paper/tables``.

Rows hold a column `variant`, and `seed` if there are several, of which the mean is taken. Errors
are averaged over people; 2D errors, spread, PercIn and MinDist over all joints of the set, as the
official code does. What there are no rows for stays empty.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humr.experiments import runs
from humr.experiments.ablations import variants
from humr.experiments.profiles import profile
from humr.experiments.tables import METRICS, paper
from humr.files import RUNS, provenance, say, write_text
from humr.licensed.datasets import DATASETS, ON_MASK, TEST, Licensed
from humr.licensed.evaluation import FOCAL

HYPOTHESES = 100  # of the paper

JOINTS = {"3DPW": "3DPW (14)", "EMDB": "EMDB (24)"}
ACCURACY = tuple(
    f"{e}_{which}" for which in ("mode", "best") for e in ("mpjpe", "pa_mpjpe", "pve")
)
# Numbers of joints of an image that weigh its value.
WEIGHTS = {
    "pixels_mode": "visible", "pixels_samples": "visible",
    "spread_visible": "visible", "spread_hidden": "hidden",
    "percent_inside": "counted", "mask_distance": "counted",
}  # fmt: skip

# What stands in a table's rows, and what in its columns.
LAYOUT = {
    "1": (("best", "row"), ("joints", "label")),
    "2": (("dataset", "row"), ("label",)),
    "3": (("row",), ("label",)),
    "S1": (("row",), ("label",)),
    "S2": (("row",), ("joints", "label")),
}
_KEYS = ["variant", "seed", "data_set", "image"]


def averages(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers of every variant and data set, tidy: variant, dataset, metric, ours, people.

    `people` have the quantity. Metrics that nobody has are left out.
    """
    rows = rows if "seed" in rows else rows.assign(seed=0)
    _check(rows)
    found, groups = [], rows.groupby(["variant", "data_set"], sort=False)
    for (variant, data_set), part in groups:  # pyright: ignore[reportGeneralTypeIssues]
        for metric in _metrics(data_set, part):
            each = [_mean(run, metric) for _, run in part.groupby("seed", sort=False)]
            defined = [value for value, _ in each if np.isfinite(value)]
            if defined:
                people = max(count for _, count in each)
                line = {"variant": variant, "dataset": DATASETS[data_set], "metric": metric}
                found.append(line | {"ours": float(np.mean(defined)), "people": people})
    return pd.DataFrame(found, columns=["variant", "dataset", "metric", "ours", "people"])


def _check(rows: pd.DataFrame) -> None:
    missing = sorted({*_KEYS, "hypotheses"} - set(rows.columns))
    if missing:
        raise ValueError(
            f"rows lack {', '.join(missing)}; expected those of `licensed.evaluation.evaluate` "
            "with a column `variant` that says of which model"
        )
    unknown = sorted(set(rows["data_set"]) - set(DATASETS))
    if unknown:
        raise ValueError(f"no data set of the tables: {unknown}; they are {', '.join(DATASETS)}")
    if rows.duplicated(_KEYS).any():
        raise ValueError(
            "a person occurs twice in one variant, seed and data set. Usual cause: rows of two "
            "evaluations in one table; give them their own `variant` or `seed`"
        )


def _metrics(data_set: str, rows: pd.DataFrame) -> list[str]:
    """Metrics that the official code reports of a data set."""
    occluded = data_set == "emdb-p1-occl"
    every = (*ACCURACY, *WEIGHTS)
    return [name for name in every if name in rows and (name in ON_MASK) == occluded]


def _mean(run: pd.DataFrame, metric: str) -> tuple[float, int]:
    """Mean of one seed, by people or by joints, and how many people have the quantity."""
    value = run[metric].to_numpy(np.float64)
    weight = run[WEIGHTS[metric]].to_numpy(np.float64) if metric in WEIGHTS else np.ones(len(run))
    used = np.isfinite(value) & (weight > 0)
    if not used.any():
        return np.nan, 0
    return float(np.average(value[used], weights=weight[used])), int(used.sum())


def compare(
    name: str,
    rows: pd.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    hypotheses: int = HYPOTHESES,
) -> pd.DataFrame:
    """Return one table, tidy: row, dataset, best_of, column, metric, paper, ours, people.

    Args:
        name: "1", "2", "3", "S1" or "S2".
        rows: of any variants; those that the paper's table has (`variant` of `tables.paper`) are
            put beside its numbers.
        names: labels for other variants: a row of the paper, or a new one that follows.
        hypotheses: that the rows must be of.
    """
    if name not in LAYOUT:
        raise ValueError(f"table must be one of {', '.join(LAYOUT)}; got {name!r}")
    printed = paper(name).rename(columns={"value": "paper"})
    ours = averages(rows)
    got = sorted(set(rows["hypotheses"]))
    if got not in ([], [hypotheses]):
        raise ValueError(f"rows must be of {hypotheses} hypotheses, as the table; got {got}")
    known = printed.loc[printed["variant"] != "", ["variant", "row"]]
    labels = dict(known.itertuples(index=False, name=None)) | dict(names or {})
    ours = ours.query("variant in @labels")
    ours = ours.assign(row=[labels[name] for name in ours["variant"]]).drop(columns="variant")
    if ours.duplicated(["row", "dataset", "metric"]).any():
        raise ValueError(f"several variants are given the same row: {labels}")
    kinds = printed[["dataset", "best_of", "column", "metric"]].drop_duplicates()
    ours = ours.merge(kinds, on=["dataset", "metric"])
    keys = ["row", "dataset", "best_of", "column", "metric"]
    both = printed[[*keys, "paper"]].merge(ours, on=keys, how="left")
    others = ours.merge(printed[keys], on=keys, how="left", indicator=True)
    others = others.query("_merge == 'left_only'").drop(columns="_merge")
    return pd.concat([both, others], ignore_index=True)


def table(
    name: str,
    rows: pd.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    hypotheses: int = HYPOTHESES,
) -> pd.DataFrame:
    """Return one table in the paper's layout: "paper" and "ours" below every column, as text.

    Arguments as in `compare`. The head of our columns says if they are of another number of
    hypotheses than the paper's.
    """
    lines = compare(name, rows, names=names, hypotheses=hypotheses)
    head = "ours" if hypotheses == HYPOTHESES else f"ours, {hypotheses} hypotheses"
    down, across = LAYOUT[name]
    cells = {}
    for line in lines.to_dict("records"):
        known = METRICS[line["column"]]
        line |= {"joints": JOINTS[line["dataset"]], "label": known.printed or known.name}
        line["best"] = "" if np.isnan(line["best_of"]) else f"best of {line['best_of']:.0f}"
        place, column = (tuple(line[key] for key in keys) for keys in (down, across))
        for source, key in (("paper", "paper"), (head, "ours")):
            value = line[key]
            text = f"{value:.{known.digits}f}" if np.isfinite(value) else ""
            cells[place, (*column, source)] = text
    index = list(dict.fromkeys(place for place, _ in cells))
    if len(down) > 1:
        parts = list(dict.fromkeys(place[0] for place in index))
        index.sort(key=lambda place: parts.index(place[0]))
    columns = list(dict.fromkeys(column for _, column in cells))
    body = [[cells.get((place, column), "") for column in columns] for place in index]
    labels = [place[0] for place in index] if len(down) == 1 else pd.MultiIndex.from_tuples(index)
    return pd.DataFrame(body, index=labels, columns=pd.MultiIndex.from_tuples(columns))


# ------------------------------------------------------------------------ the command

ABLATIONS = ("components", "supervision")
PROFILE = "paper"


def rows_of_runs(**options: Any) -> list[pd.DataFrame]:  # noqa: ANN401
    """Rows of every finished run, one table each; options as of `rows_of`."""
    items = [item for study in ABLATIONS for item in variants(study, PROFILE)]
    jobs = {job.key: job for job in runs.seeded(items, PROFILE)}
    return [
        runs.described(job, _rows(runs.checkpoint(job), **options))
        for job in jobs.values()
        if runs.is_done(job)
    ]


def rows_of(checkpoints: Mapping[str, Path], **options: Any) -> list[pd.DataFrame]:  # noqa: ANN401
    """Rows of checkpoints, one table each, by the variant that they stand for or any other name.

    Options: data sets to `test`, `focal` ("diagonal", as in the official code, or "given"), and
    `hypotheses` per person (the profile's).
    """
    found = {name: _rows(stem, **options) for name, stem in checkpoints.items()}
    return [rows.assign(variant=name, seed=0) for name, rows in found.items()]


def _rows(
    stem: Path,
    *,
    test: Sequence[str] = TEST,
    focal: str = "diagonal",
    hypotheses: int | None = None,
) -> pd.DataFrame:
    return runs.evaluated(
        stem,
        Licensed(test=tuple(test)),
        "test",
        hypotheses=hypotheses or profile(PROFILE).hypotheses,
        default_focal=focal == "diagonal",
    )


def joined(named: Sequence[pd.DataFrame], finished: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of named checkpoints and of finished runs in one table, if no name is of both."""
    parts = [*named, *finished]
    names = [{str(n) for part in each for n in part["variant"]} for each in (named, finished)]
    if both := sorted(names[0] & names[1]):
        raise ValueError(
            f"--checkpoint {both[0]}=...: finished runs have that name as well, and two models "
            "must not share a row. Give the checkpoint another one, as in official=..."
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def write(rows: pd.DataFrame, folder: Path, *, hypotheses: int) -> dict[str, pd.DataFrame]:
    """Write rows, averages and all tables, and where they come from; returns the tables."""
    names = sorted(rows["variant"].unique())
    ours = {item.name for study in ABLATIONS for item in variants(study, PROFILE)}
    new = {name: name for name in names if name not in ours}  # rows of their own
    known = {name: table(name, rows, names=new, hypotheses=hypotheses) for name in LAYOUT}
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_rows(folder / "rows.parquet", rows)
    write_text(folder / "averages.csv", averages(rows).to_csv(index=False))
    for name, shown in known.items():
        write_text(folder / f"table_{name}.csv", shown.to_csv())
    people = rows[["data_set", "image"]].drop_duplicates()
    about = {**provenance(), "variants": names, "people": len(people)}
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")
    return known


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
