"""Tables for notebooks: the paper's numbers, ours beside them, and what they cost."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from humr.experiments.statistics import DATASET, ONE_SEED
from humr.files import DATA


@dataclass(frozen=True)
class Metric:
    """What is measured: the columns of rows begin with its key in `METRICS`."""

    name: str = ""  # in words; "": as the column is called
    unit: str = "mm"
    digits: int = 1  # decimals that tables show
    direction: int = 0  # -1: the lower the better, 1: the higher; 0: neither is good in itself
    least: float = 0.5  # smallest difference that counts in a claim
    printed: str = ""  # in HuMR's tables, if they call it otherwise


METRICS = {
    "mpjpe": Metric("MPJPE", direction=-1),
    "pa_mpjpe": Metric("PA-MPJPE", direction=-1),
    "pa_limbs": Metric(direction=-1),
    "pve": Metric("PVE", direction=-1),
    "wpve": Metric("PVE by area", direction=-1),
    "pck": Metric("correct joints", "%", direction=1),
    "auc": Metric("AUC of correct joints", "%", direction=1),
    "cps": Metric("CPS", direction=1),
    "cps_best_unaligned": Metric("CPS, not aligned, best of N", direction=1),
    "energy_score": Metric("energy score", direction=-1),
    "energy_visible": Metric("energy score, visible", direction=-1),
    "energy_hidden": Metric("energy score, hidden", direction=-1),
    "joint_energy_score": Metric("joint energy score", direction=-1),
    "nll": Metric("negative log-likelihood", "nats/dim", 2, -1, 0.01),
    "log_det": Metric(unit="nats"),
    "spread_visible": Metric("spread, visible", printed="3DKP visible"),
    "spread_hidden": Metric("spread, hidden", printed="3DKP invisible"),
    "spread_ratio": Metric(unit="", least=0.02),
    "cover": Metric(unit="", digits=2, least=0.005),
    "off": Metric(unit=""),
    "pixels_mode": Metric("2D error, mode", "px", 2, -1, 0.1, printed="2DKP mode"),
    "pixels_samples": Metric("2D error, samples", "px", 2, -1, 0.1, printed="2DKP samples"),
    "percent_inside": Metric("PercIn", "%", direction=1),
    "mask_distance": Metric("MinDist", "px", 3, -1, 0.02),
}
PICKED = {"best": "best of N", "mode": "mode", "sample": "single hypothesis", "mean": "mean pose"}


def metric(column: str) -> Metric:
    """Return what a column measures; `paper_` marks the paper's definition of the same.

    Example:
        >>> metric("paper_percent_inside").unit
        '%'
    """
    name = column.removeprefix("paper_")
    known = [key for key in METRICS if name.startswith(key)]
    return METRICS[max(known, key=len)] if known else Metric()


def quantity(column: str) -> str:
    """Name and unit of a column in words.

    Example:
        >>> quantity("pa_mpjpe_best")
        'PA-MPJPE, best of N (mm)'
        >>> quantity("cover90_xy_hidden")
        'truth in the 90 % interval, xy, hidden'
    """
    name, unit = column.removeprefix("paper_"), metric(column).unit
    head, _, tail = name.rpartition("_")
    if name in METRICS and METRICS[name].name:
        words = METRICS[name].name
    elif head in METRICS and METRICS[head].name:
        words = f"{METRICS[head].name}, {PICKED.get(tail, tail)}"
    elif name.startswith("cover"):
        level, *rest = name.removeprefix("cover").split("_")
        words = ", ".join([f"truth in the {level} % interval", *rest])
    else:
        words = name.replace("_", " ")
    return f"{words} ({unit})" if unit else words


# ----------------------------------------------------------------------- the paper's numbers


def paper(table: str, source: str = "humr") -> pd.DataFrame:
    """Numbers of one table of a paper, tidy: row, column, value, dataset, best_of, variant.

    Args:
        table: as printed: "1", "S2", "Fig. S1" (of figures only what the text says).
        source: file in `data/paper`: "humr", "propose" or "lifting".

    Returns:
        Also a column `metric`: the column of our rows that corresponds, e.g. "mpjpe_best".
    """
    path = DATA / "paper" / f"{source}.csv"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv")))
        raise ValueError(f"no numbers of a paper named {source!r}; there are: {known}")
    numbers = pd.read_csv(path, dtype=str, keep_default_na=False)
    found = numbers.query("table == @table").reset_index(drop=True)
    if found.empty:
        known = ", ".join(numbers["table"].unique())
        raise ValueError(f"{source} has no table {table!r}; there are: {known}")
    kind = {"": "", "1": "_mode"}
    pairs = zip(found["column"], found["best_of"], strict=True)
    return found.assign(
        value=found["value"].astype(float),
        best_of=pd.to_numeric(found["best_of"].replace("", None)),
        metric=[name + kind.get(count, "_best") for name, count in pairs],
    )


# ----------------------------------------------------------------------- presentation


def side_by_side(
    ours: pd.DataFrame,
    paper: pd.DataFrame | None = None,
    *,
    names: Mapping[str, str] | None = None,
    title: str = "ours, open world",
) -> pd.DataFrame:
    """Format estimates as "97.3 ±0.6" and put the paper's numbers beside them.

    Args:
        ours: from `means` or `differences`.
        paper: from `paper`; the metrics that ours has (by our definition or, `paper_`, by the
            paper's), matched by `variant`; other rows follow.
        names: row labels of our variants; default: the paper's, or else the variant's name.
        title: head of our columns; the name of a test set replaces "open world", or follows.
    """
    sign = "+" if "reference" in ours else ""
    cells = {}
    for line in ours.to_dict("records"):
        places, half = metric(line["metric"]).digits, (line["high"] - line["low"]) / 2
        text = f"{line['estimate']:{sign}.{places}f} ±{half:.{places}f}"
        defined = np.isfinite(line["estimate"])
        star = "*" if line["note"] == ONE_SEED else ""
        place = line["variant"], (_head(title, line), line["metric"])
        if place in cells:
            raise ValueError(
                f"one estimate per variant and metric expected; {place} is there twice"
            )
        cells[place] = text + star if defined else "–"
    labels, metrics = {}, {name.removeprefix("paper_") for name in ours["metric"]}
    if paper is not None:
        for line in paper.to_dict("records"):
            if line["metric"] not in metrics:
                continue
            label = line["variant"] or line["row"]
            known = label in set(ours["variant"])
            labels[label if known else line["row"]] = line["row"]
            column = (f"paper, {line['dataset']}", line["metric"])
            value = f"{line['value']:.{metric(line['metric']).digits}f}"
            cells[label if known else line["row"], column] = value
    labels = {v: labels.get(v, v) for v in ours["variant"]} | labels | dict(names or {})
    columns = pd.MultiIndex.from_tuples(list(dict.fromkeys(column for _, column in cells)))
    index = list(dict.fromkeys(row for row, _ in cells))
    body = [[cells.get((row, column), "–") for column in columns] for row in index]
    return pd.DataFrame(body, index=[labels[row] for row in index], columns=columns)


def _head(title: str, line: Mapping[str, str]) -> str:
    """Head of a column, with the name of the test set if it has one."""
    if DATASET not in line:
        return title
    place = line[DATASET]
    return title.replace("open world", place) if "open world" in title else f"{title}, {place}"


def show(table: pd.DataFrame, *, best: bool = False) -> "HtmlTable":
    """Render a table in a notebook, or as text; "not reproduced" is bold.

    Estimate, low and high become one column. With `best`, so is the best value of each column
    whose name is a metric with a good direction (a wide spread is neither good nor bad).
    """
    table = _with_intervals(table)
    text = table.map(_text)
    bold = text.eq("not reproduced")
    for i, column in enumerate(table.columns if best else []):
        worth = metric(str(column[-1] if isinstance(column, tuple) else column)).direction
        numbers = np.array([worth * _leading(cell) for cell in text.iloc[:, i]])
        if worth and np.isfinite(numbers).any():
            bold.iloc[:, i] |= numbers == np.nanmax(numbers)
    return HtmlTable(text, bold)


@dataclass(frozen=True)
class HtmlTable:
    """A table of strings; the same bytes every time, and bold without a style sheet."""

    text: pd.DataFrame
    bold: pd.DataFrame

    def _marked(self, text: pd.DataFrame, left: str, right: str) -> pd.DataFrame:
        return text.where(~self.bold, left + text + right)

    @property
    def _labelled(self) -> bool:
        return not isinstance(self.text.index, pd.RangeIndex)

    def _repr_html_(self) -> str:
        marked = self._marked(self.text.map(html.escape), "<b>", "</b>")
        marked.columns, marked.index = marked.columns.map(_escaped), marked.index.map(_escaped)
        with pd.option_context("display.max_colwidth", None):
            return marked.to_html(escape=False, border=0, index=self._labelled)

    def __repr__(self) -> str:
        return self._marked(self.text, "**", "**").to_string(index=self._labelled)


def _escaped(label: object) -> object:
    """Label of a row or column, of one level or of several, safe in HTML."""
    return tuple(map(_escaped, label)) if isinstance(label, tuple) else html.escape(str(label))


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Join estimate, low and high, if there, in one column of text."""
    if not {"estimate", "low", "high"} <= set(table.columns):
        return table
    metrics = table["metric"] if "metric" in table else [""] * len(table)
    numbers = zip(metrics, table["estimate"], table["low"], table["high"], strict=True)
    joined = [f"{_text(e, m)} [{_text(a, m)}, {_text(b, m)}]" for m, e, a, b in numbers]
    place = list(table.columns).index("estimate")
    table = table.drop(columns=["estimate", "low", "high"])
    table.insert(place, "estimate [interval]", joined)
    return table


def _leading(cell: str) -> float:
    """Number at the beginning of a cell."""
    found = re.match(r"[+-]?\d+\.?\d*", cell)
    return float(found[0]) if found else np.nan


def _text(value: object, column: str = "") -> str:
    """A cell: two decimals, or what suits the metric; a dash for nothing."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.{metric(column).digits if column else 2}f}"
    return str(value)


# ----------------------------------------------------------------------- effort


@dataclass(frozen=True)
class TrainingCost:
    """What training cost."""

    runs: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        hours, minutes = divmod(round(self.seconds / 60), 60)
        time = f"{hours} h {minutes} min" if self.seconds >= 3570 else f"{minutes} min"
        time = f"{self.seconds:.0f} s" if self.seconds < 120 else time
        return f"{self.runs} runs, {self.steps} steps, {time} of training"


def compute(rows: pd.DataFrame) -> TrainingCost:
    """Total of the columns `steps` and `seconds`, which hold one value per run.

    A run is a (configuration, seed), where `key` begins with the hash of the configuration, or a
    (variant, seed) in rows without `key`. One that serves several variants (another checkpoint)
    or, in joined rows, several studies, counts once.
    """
    name = rows["key"].str.partition("-")[0] if "key" in rows else rows["variant"]
    each = rows[~pd.DataFrame({"name": name, "seed": rows["seed"]}).duplicated()]
    return TrainingCost(len(each), int(np.sum(each["steps"])), float(np.sum(each["seconds"])))
