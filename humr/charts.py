"""Charts of comparisons: each function draws one table of `comparisons` into the axes it is given.

Rows of a chart are variants, from top to bottom in the order of the table. A filled mark has an
interval over images and over training again. A hollow one is of a single seed: its interval covers
the choice of test images only, and supports no conclusion. Figures, titles and what the rows are
called is the business of the caller. Of several test sets (`sets`) each has rows of
its own.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from humr.comparisons import ONE_SEED
from humr.diagrams import COLOURS
from humr.sets import DATASET
from humr.tables import direction

NAMES = {
    "mpjpe": "MPJPE",
    "pa_mpjpe": "PA-MPJPE",
    "pve": "PVE",
    "wpve": "PVE by area",
    "energy_score": "energy score",
    "joint_energy_score": "joint energy score",
    "energy_visible": "energy score, visible",
    "energy_hidden": "energy score, hidden",
    "nll": "negative log-likelihood",
    "spread_visible": "spread, visible",
    "spread_hidden": "spread, hidden",
    "pixels_mode": "2D error, mode",
    "pixels_samples": "2D error, samples",
    "percent_inside": "PercIn",
    "mask_distance": "MinDist",
    "pck": "correct joints",
    "auc": "AUC of correct joints",
    "cps": "CPS",
    "cps_best_unaligned": "CPS, not aligned, best of N",
}
UNITS = {
    "pixels": "px",
    "mask_distance": "px",
    "percent": "%",
    "pck": "%",
    "auc": "%",
    "cover": "",
    "nll": "nats/dim",
    "log_det": "nats",
}  # others: mm
PICKED = {"best": "best of N", "mode": "mode", "sample": "single hypothesis", "mean": "mean pose"}


def quantity(metric: str) -> str:
    """Name and unit of a metric in words.

    Example:
        >>> quantity("pa_mpjpe_best")
        'PA-MPJPE, best of N (mm)'
        >>> quantity("cover90_xy_hidden")
        'truth in the 90 % interval, xy, hidden'
    """
    name = metric.removeprefix("paper_")
    unit = next((unit for start, unit in UNITS.items() if name.startswith(start)), "mm")
    head, _, tail = name.rpartition("_")
    if name in NAMES:
        words = NAMES[name]
    elif head in NAMES:
        words = f"{NAMES[head]}, {PICKED.get(tail, tail)}"
    elif name.startswith("cover"):
        level, *rest = name.removeprefix("cover").split("_")
        words = ", ".join([f"truth in the {level} % interval", *rest])
    else:
        words = name.replace("_", " ")
    return f"{words} ({unit})" if unit else words


def forest(
    ax: Axes,
    differences: pd.DataFrame,
    metric: str,
    *,
    labels: Mapping[str, str] | None = None,
    origin: float = 0.0,
) -> Axes:
    """Draw estimates with intervals, one row per variant, around a line at `origin`.

    Of `differences`, green means better than the reference with the whole interval, orange worse
    with the whole interval, grey that the interval holds 0; blue replaces green and orange where
    neither direction is good (spread). Of `means` everything is blue.

    Args:
        ax: axes of its own, or that share their rows (`plt.subplots(1, 3, sharey=True)`).
        differences: from `tables.differences` or `tables.means`; only rows of `metric` count,
            one per variant.
        metric: a column of the rows, e.g. "energy_score".
        labels: what to call the variants; default: their names.
        origin: where the line is; for coverages the level.
    """
    table = _of_metric(differences, metric)
    for row, line in enumerate(table.to_dict("records")):
        colour = _colour(line, metric) if "reference" in table else COLOURS["predicted"]
        _mark(ax, float(row), line, colour)
    ax.axvline(origin, color=COLOURS["target"], linewidth=1, zorder=0)
    way = {-1: "\n← better", 0: "", 1: "\nbetter →"}
    arrow = way[direction(metric)] if "reference" in table else ""
    ax.set_xlabel(quantity(metric) + arrow)
    return _name_rows(ax, table, labels)


def dumbbells(
    ax: Axes,
    means: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    labels: Mapping[str, str] | None = None,
) -> Axes:
    """Draw two or more metrics of every variant on one row, joined by a line, with intervals.

    Args:
        ax: axes; they get a legend above.
        means: from `tables.means`; one row per variant and metric.
        metrics: column of the rows -> what the legend calls it; all in the same unit.
        labels: what to call the variants; default: their names.
    """
    tables = [_of_metric(means, metric) for metric in metrics]
    names = _rows_of(tables[0])
    if any(_rows_of(table) != names for table in tables):
        raise ValueError(
            "the variants of all metrics must come in the same order; sort by variant"
        )
    values = np.array([table["estimate"] for table in tables], float)
    for row, (low, high) in enumerate(zip(values.min(0), values.max(0), strict=True)):
        ax.plot([low, high], [row, row], color="0.9", linewidth=6, zorder=1)
    colours = [COLOURS[role] for role in ("predicted", "other", "good", "target")]
    beside = 0.14 * (np.arange(len(tables)) - (len(tables) - 1) / 2)  # intervals may overlap
    for colour, table, shift in zip(colours, tables, beside, strict=False):
        for row, line in enumerate(table.to_dict("records")):
            _mark(ax, row + float(shift), line, colour)
    keys = [
        Line2D([], [], color=colour, marker="o", linewidth=0, label=label)
        for colour, label in zip(colours, metrics.values(), strict=False)
    ]
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(keys))
    return _name_rows(ax, tables[0], labels)


# ----------------------------------------------------------------------- parts


def _of_metric(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric, one per variant."""
    found = table.query("metric == @metric")
    if found.empty:
        known = ", ".join(table["metric"].unique())
        raise ValueError(f"the table has no metric {metric!r}; it has {known}")
    names = _rows_of(found)
    if len(set(names)) < len(names):
        raise ValueError(
            f"one row per variant expected for {metric!r}; some are there twice: differences to "
            "several references? Keep one for each variant"
        )
    return found


def _colour(line: Mapping, metric: str) -> str:
    """Colour of a difference: green better, orange worse, grey undecided, blue no matter."""
    if not (line["low"] > 0 or line["high"] < 0):
        return COLOURS["target"]
    role = {-1: "wrong", 0: "predicted", 1: "good"}
    return COLOURS[role[int(direction(metric) * np.sign(line["estimate"]))]]


def _mark(ax: Axes, row: float, line: Mapping, colour: str) -> None:
    """One estimate with its interval; hollow if a single seed is all there is."""
    ax.plot([line["low"], line["high"]], [row, row], color=colour, zorder=2)
    face = "white" if line.get("note") == ONE_SEED else colour
    ax.plot(line["estimate"], row, "o", color=colour, markerfacecolor=face, zorder=3)


def _rows_of(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """What the rows of a table are of: a variant, and a test set where there are several."""
    several = DATASET in table.columns and len(set(table[DATASET])) > 1
    keys = table[["variant", DATASET] if several else ["variant"]]
    return list(keys.itertuples(index=False, name=None))


def _name_rows(ax: Axes, table: pd.DataFrame, labels: Mapping[str, str] | None) -> Axes:
    texts = [", ".join([(labels or {}).get(v, v), *of]) for v, *of in _rows_of(table)]
    ax.set_yticks(range(len(texts)), texts)
    ax.set_ylim(len(texts) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax
