"""Diagrams of samples and calibration: each function draws into the axes it is given.

They neither create nor save nor title figures, and compute nothing but the reduction they draw.
Pictures of people are in `figures`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage
from torch import Tensor

from humr import calibration, metrics

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
        ax.plot(levels, calibration.coverage(smallest_region, levels).cpu(), label=name)
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
    lower, upper = calibration.ecdf_band(count, points, rng=rng)
    ax.fill_between(points, lower - points, upper - points, color="0.9", label="95 % band")
    for name, values in transformed.items():
        share = (values.cpu().numpy()[:, None] <= points).mean(0)
        ax.plot(points, share - points, label=name)
    ax.set(xlabel="rank / samples", ylabel="share below, minus uniform", xlim=(0, 1))
    return ax
