"""Charts: points in a crop, calibration, and tables of variants with their intervals.

Every function draws into the axes that it is given and returns them; figures, titles and names of
rows are up to the caller. In charts of `statistics`, rows are variants in the order of the table,
of several test sets each with rows of its own. A filled mark has an interval over images and over
training again. A hollow one is of a single seed: its interval covers the choice of test images
only, and supports no conclusion. People are drawn in `posteriors` and `lifting`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
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

COLOURS = {  # one colour per role
    "target": "#555555",
    "predicted": "#0072B2",
    "wrong": "#D55E00",
    "good": "#009E73",
    "other": "#CC79A7",
    "person": "#E8DCC8",
}

# --------------------------------------------------------------- points in a crop


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


def star(ax: Axes, point: Float[Tensor, "2"]) -> Axes:
    """Mark the truth."""
    ax.plot(*point.tolist(), "*", color="gold", markersize=9, markeredgecolor="black",
            markeredgewidth=0.7, zorder=4)  # fmt: skip
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


# --------------------------------------------------------------- samples and calibration


def best_of_curve(
    ax: Axes, errors: Mapping[str, Float[Tensor, "images hypotheses"]], counts: Sequence[int]
) -> Axes:
    """Draw the expected best-of-n error against n, one line per model."""
    for name, error in errors.items():
        curve = torch.stack([metrics.expected_best_of(error, n).mean() for n in counts])
        ax.plot(counts, curve.cpu(), marker="o", label=name)
    ax.set(xscale="log", xlabel="hypotheses $n$ (log scale)", ylabel="best-of-$n$ MPJPE (mm)")
    return ax


def coverage_curve(ax: Axes, regions: Mapping[str, Float[Tensor, " images"]]) -> Axes:
    """Draw how often the truth lies in the region of each level; the diagonal is calibrated.

    Args:
        ax: axes.
        regions: level of the smallest region with the truth in it (`metrics.distance_rank`), of
            every image.
    """
    ax.plot([0, 1], [0, 1], color=COLOURS["target"], linewidth=1, linestyle=":")
    for name, smallest_region in regions.items():
        sns.ecdfplot(smallest_region.cpu().numpy(), label=name, ax=ax)
    ax.set(xlabel="region says", ylabel="truth inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return ax


def rank_deviation(
    ax: Axes, transformed: Mapping[str, Float[Tensor, " images"]], *, rng: np.random.Generator
) -> Axes:
    """Draw the distribution of ranks minus the uniform one, with a simultaneous 95 % band.

    Values are `metrics.pit`s. First below and then above 0: too wide; the reverse: too narrow; on
    one side only: biased.
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


# --------------------------------------------------------------- tables of variants


def forest(
    ax: Axes,
    differences: pd.DataFrame,
    metric: str,
    *,
    labels: Mapping[str, str] | None = None,
    origin: float = 0.0,
) -> Axes:
    """Draw estimates with intervals, one row per variant, around a line at `origin`.

    Of `statistics.differences`, green means better than the reference with the whole interval,
    orange worse with the whole interval, grey that the interval holds 0; blue replaces green and
    orange where neither direction is good (spread). Of `statistics.means` everything is blue.

    Args:
        ax: axes of its own, or that share their rows (`plt.subplots(1, 3, sharey=True)`).
        differences: only rows of `metric` count, one per variant.
        metric: a column of the rows, e.g. "energy_score".
        labels: what to call the variants; default: their names.
        origin: where the line is; for coverages the level.
    """
    table, name = _of_metric(differences, metric), quantity(metric)
    sign = metric_of(metric).direction
    roles = ["predicted"] * len(table)
    if "reference" in table:
        roles = [_verdict(line, sign) for line in table.to_dict("records")]
        name += {-1: "\n← better", 0: "", 1: "\nbetter →"}[sign]
    _intervals(ax, table.assign(role=roles, row=range(len(table))))
    ax.axvline(origin, color=COLOURS["target"], linewidth=1, zorder=0)
    ax.set_xlabel(name)
    return _name_rows(ax, table, labels)


def dumbbells(
    ax: Axes,
    means: pd.DataFrame,
    metrics: Mapping[str, str],
    *,
    labels: Mapping[str, str] | None = None,
) -> Axes:
    """Draw two to four metrics of every variant on one row, joined by a bar, with intervals.

    Args:
        ax: axes; they get a legend above.
        means: from `statistics.means`; one row per variant and metric.
        metrics: column of the rows -> what the legend calls it; all in the same unit.
        labels: what to call the variants; default: their names.
    """
    tables = [_of_metric(means, metric) for metric in metrics]
    if any(_rows_of(table) != _rows_of(tables[0]) for table in tables):
        raise ValueError(
            "the variants of all metrics must come in the same order; sort by variant"
        )
    roles = ["predicted", "other", "good", "target"][: len(tables)]
    beside = 0.14 * (np.arange(len(tables)) - (len(tables) - 1) / 2)  # intervals may overlap
    rows = np.arange(len(tables[0]))
    values = np.array([table["estimate"] for table in tables], float)
    ax.hlines(rows, values.min(0), values.max(0), color="0.9", linewidth=6, zorder=1)
    parts = zip(tables, roles, beside, strict=True)
    _intervals(ax, pd.concat([t.assign(role=r, row=rows + shift) for t, r, shift in parts]))
    ax.set_xlabel("")
    keys = [
        Line2D([], [], color=COLOURS[role], marker="o", linewidth=0, label=label)
        for role, label in zip(roles, metrics.values(), strict=True)
    ]
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(keys))
    return _name_rows(ax, tables[0], labels)


def means_by(rows: pd.DataFrame, column: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Means with intervals (`statistics.means`) for each value of a column, e.g. n."""
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
        table: rows of `means_by`: one per value of the column `x`.
        metric: a column of the rows that were averaged.
        x: what runs from left to right.
        role: colour, see `COLOURS`.
        label: for the legend.
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


def _verdict(line: Mapping, sign: int) -> str:
    """Role of a difference: better, worse, undecided, or no matter (`sign` 0)."""
    if not (line["low"] > 0 or line["high"] < 0):
        return "target"
    return {-1: "wrong", 0: "predicted", 1: "good"}[int(sign * np.sign(line["estimate"]))]


def _intervals(ax: Axes, table: pd.DataFrame) -> None:
    """Draw estimates with their intervals at each `row`, in the colour of the `role`."""
    table = table.assign(face=np.where(table["note"] == ONE_SEED, "white", "auto"))
    for face, part in table.groupby("face"):
        sns.pointplot(
            part.melt(["row", "role"], ["low", "estimate", "high"]), x="value", y="row",
            estimator="median", errorbar=("pi", 100),  # of low, estimate and high: these three
            hue="role", palette=COLOURS, orient="y", native_scale=True, legend=False, ax=ax,
            linestyle="none", markersize=4, markeredgewidth=1, markerfacecolor=face, zorder=3,
            err_kws={"linewidth": 1.6, "zorder": 2},
        )  # fmt: skip


def _rows_of(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """What the rows of a table are of: a variant, and a test set where there are several."""
    several = DATASET in table.columns and len(set(table[DATASET])) > 1
    keys = table[["variant", DATASET] if several else ["variant"]]
    return list(keys.itertuples(index=False, name=None))


def _name_rows(ax: Axes, table: pd.DataFrame, labels: Mapping[str, str] | None) -> Axes:
    texts = [", ".join([(labels or {}).get(v, v), *of]) for v, *of in _rows_of(table)]
    ax.set_yticks(range(len(texts)), texts)
    ax.set(ylim=(len(texts) - 0.5, -0.5), ylabel="")
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return ax
