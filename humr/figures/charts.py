"""Charts of comparisons: each function draws one table of `comparisons` into the axes it is given.

Rows of a chart are variants, from top to bottom in the order of the table. A filled mark has an
interval over images and over training again. A hollow one is of a single seed: its interval covers
the choice of test images only, and supports no conclusion. Figures, titles and what the rows are
called is the business of the caller. Of several test sets (`sets`) each has rows of
its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from torch import Tensor

from humr import metrics
from humr.experiments.statistics import DATASET, ONE_SEED, means
from humr.experiments.tables import metric as metric_of
from humr.experiments.tables import quantity

# Diagrams of samples and calibration: each function draws into the axes it is given.
#
# They neither create nor save nor title figures, and compute nothing but the reduction they
# draw. Pictures of people are in `figures`.


COLOURS = {  # one colour per role
    "target": "#555555",
    "predicted": "#0072B2",
    "wrong": "#D55E00",
    "good": "#009E73",
    "other": "#CC79A7",
    "person": "#E8DCC8",
}


def crop_axes(ax: Axes, *, limit: float = 1.0) -> Axes:
    """Crop coordinates: x right, y down, equal scales."""
    ax.set(xlim=(-limit, limit), ylim=(limit, -limit), aspect="equal")
    ax.set(xticks=[-limit, 0, limit], yticks=[-limit, 0, limit])
    ax.grid(visible=False)
    return ax


def cloud(
    ax: Axes, points: Float[Tensor, "points 2"], *, role: str, label: str | None = None
) -> Axes:
    """Draw a set of 2D points in the colour of its role."""
    x, y = points.detach().cpu().T
    ax.plot(x, y, "o", color=COLOURS[role], alpha=0.6, markeredgewidth=0, label=label)
    return ax


def forces(
    ax: Axes,
    points: Float[Tensor, "points 2"],
    gradient: Float[Tensor, "points 2"],
    *,
    length: float | None = None,
    role: str = "predicted",
) -> Axes:
    """Draw the steps a descent would take: arrows against the gradient.

    Arrows of `length` hide how steep the loss is; without it they are scaled together.
    """
    step = -gradient.detach().cpu()
    if length is not None:
        size = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        step = length * step / size.clamp_min(1e-12) * (size > 1e-9)
    (x, y), (u, v) = points.detach().cpu().T, step.T
    scale = None if length is None else 1
    ax.quiver(x, y, u, v, color=COLOURS[role], angles="xy", scale_units="xy", scale=scale)
    return ax


def mask_image(ax: Axes, mask: Bool[Tensor, "rows rows"]) -> AxesImage:
    """Fill the person's pixels, in crop coordinates."""
    inside = mask.cpu().numpy()[..., None]
    shade = np.where(inside, [*to_rgb(COLOURS["person"]), 1.0], 0.0)
    return ax.imshow(shade, extent=(-1, 1, 1, -1), zorder=0)


def best_of_curve(
    ax: Axes, errors: Mapping[str, Float[Tensor, "images hypotheses"]], counts: Sequence[int]
) -> Axes:
    """Draw the expected best-of-n error against n, one line per model."""
    for name, error in errors.items():
        curve = torch.stack([metrics.expected_best_of(error, n).mean() for n in counts])
        ax.plot(counts, curve.cpu(), marker="o", label=name)
    ax.set(xscale="log", xlabel="hypotheses $n$ (log scale)", ylabel="best-of-$n$ MPJPE (mm)")
    return ax


def coverage_curve(
    ax: Axes, regions: Mapping[str, Float[Tensor, " images"]], levels: Sequence[float]
) -> Axes:
    """Draw how often the truth lies in the region of each level; the diagonal is calibrated."""
    ax.plot([0, 1], [0, 1], color=COLOURS["target"], linewidth=1, linestyle=":")
    for name, smallest_region in regions.items():
        ax.plot(levels, metrics.coverage(smallest_region, levels).cpu(), label=name)
    ax.set(xlabel="region says", ylabel="truth inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return ax


def rank_deviation(
    ax: Axes,
    transformed: Mapping[str, Float[Tensor, " images"]],
    *,
    rng: np.random.Generator,
) -> Axes:
    """Draw the distribution of ranks minus the uniform one, with a simultaneous 95 % band.

    Values are `calibration.pit`s. First below and then above 0: too wide; the reverse: too
    narrow; on one side only: biased.
    """
    points = np.linspace(0.02, 0.98, 49)
    count = len(next(iter(transformed.values())))
    lower, upper = metrics.ecdf_band(count, points, rng=rng)
    ax.fill_between(points, lower - points, upper - points, color="0.9", label="95 % band")
    for name, values in transformed.items():
        share = (values.cpu().numpy()[:, None] <= points).mean(0)
        ax.plot(points, share - points, label=name)
    ax.set(xlabel="rank / samples", ylabel="share below, minus uniform", xlim=(0, 1))
    return ax


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
    arrow = way[metric_of(metric).direction] if "reference" in table else ""
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
    return COLOURS[role[int(metric_of(metric).direction * np.sign(line["estimate"]))]]


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


# ----------------------------------------------------------------------- tables and pictures


def means_by(rows: pd.DataFrame, column: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Means with intervals (`comparisons.means`) for each value of a column, e.g. n."""
    parts = []
    for value, part in rows.groupby(column, sort=True):
        defined = [name for name in metrics if len(part[name].dropna())]
        parts.append(means(part, defined).assign(**{column: value}))
    return pd.concat(parts, ignore_index=True)


def band(
    ax: Axes, table: pd.DataFrame, metric: str, *, x: str = "n", role: str, label: str
) -> Axes:
    """Draw one metric of one model against a column, with its interval as a band.

    Args:
        ax: axes, whose x axis becomes logarithmic.
        table: rows of `comparisons.means` with a column `x`, one per value of it.
        metric: a column of the rows that were averaged.
        x: what runs from left to right.
        role: colour, see `diagrams.COLOURS`.
        label: for the legend. Where there is a single seed the marks are hollow: the band is over
            the choice of test images only.
    """
    part = table.query("metric == @metric").sort_values(x)
    if part.empty or part[x].duplicated().any():
        raise ValueError(f"one row per {x} expected for {metric!r}; got {len(part)} rows: filter")
    colour, hollow = COLOURS[role], set(part["note"]) == {ONE_SEED}
    face = "white" if hollow else colour
    ax.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
    ax.plot(part[x], part["estimate"], "o-", color=colour, markerfacecolor=face, label=label)
    ax.set_xscale("log")
    return ax
