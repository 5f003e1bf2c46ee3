"""Heatmaps as distributions: calibrate, sample, summarise, find regions.

Cells are counted by flat index (row by row) or by cell coordinates (column, row), where whole
numbers are the middles of cells. `HeatmapGrid` ties cell coordinates to crop coordinates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Exponent of `calibrate`: fitted per bin of the peak by likelihood on renders. The floor is wider
# where a peak of .4 to .5 is confident and sometimes wrong (decisions.md, detector).
SHARPENING = ((0.4, 0.85), (1.0, 3.0))
FLOOR = ((0.35, 0.4, 0.5, 0.55), (0.02, 0.075, 0.075, 0.02))


@dataclass(frozen=True)
class HeatmapGrid:
    r"""How cells lie in the crop: $u = 2\,(\mathrm{cell} + \mathrm{offset}) / \mathrm{size} - 1$.

    The defaults are those of our detector, whose cell i means pixel 4 i of its 256 (measured, see
    `decisions.md`); `offset` is 0.5 where the middle of a cell is meant.
    """

    width: int = 64
    height: int = 64
    offset: float = 0.0

    def to_crop(self, cells: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Map cell coordinates (column, row) to crop coordinates in [-1, 1]."""
        return (cells + self.offset) * (2 / self._size(cells)) - 1

    def from_crop(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Map crop coordinates to cell coordinates (column, row)."""
        return (points + 1) * (self._size(points) / 2) - self.offset

    def cells_to_crop(
        self, cells: Int[Tensor, "*batch"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch 2"]:
        """Map flat indices to crop coordinates; uniform in the cell if a generator is given."""
        columns, rows = cells % self.width, cells.div(self.width, rounding_mode="floor")
        points = torch.stack([columns, rows], -1).to(torch.get_default_dtype())
        if generator is not None:
            jitter = torch.rand(
                points.shape, dtype=points.dtype, device=generator.device, generator=generator
            )
            points = points + jitter.to(points.device) - 0.5
        return self.to_crop(points)

    def _size(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.width, self.height])


def mass(heatmaps: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch"]:
    """Return the sum of each heatmap; refuse what is no heatmap."""
    total = heatmaps.sum((-2, -1))
    if not bool((total > 0).all() & total.isfinite().all() & (heatmaps.amin((-2, -1)) >= 0).all()):
        raise ValueError(
            "a heatmap must be finite, non-negative and not all zero; "
            f"got sums from {total.min():g} to {total.max():g}, lowest value {heatmaps.min():g} "
            "(logits instead of sigmoid values?)"
        )
    return total


def normalise(
    heatmaps: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """Divide by the sum, so that the cells of each heatmap are probabilities."""
    return heatmaps / mass(heatmaps)[..., None, None]


def calibrate(
    heatmaps: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    r"""Turn sigmoid heatmaps into calibrated probabilities.

    $p = (1-\epsilon)\, h^g / \sum h^g + \epsilon / HW$: detectors are trained on blurred targets,
    so sharp peaks are too wide ($g$ rises from 1 to 3 with the peak), and wrong with a small
    probability anywhere (floor $\epsilon$). Flat maps of hidden joints are not sharpened.
    """
    peak = heatmaps.amax((-2, -1), keepdim=True)
    floor = _interpolate(peak, *FLOOR)
    powered = normalise(normalise(heatmaps) ** _interpolate(peak, *SHARPENING))
    return (1 - floor) * powered + floor / (heatmaps.shape[-1] * heatmaps.shape[-2])


def _interpolate(x: Tensor, knots: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Piecewise linear function through the knots, constant outside."""
    result = torch.full_like(x, values[0])
    for i in range(len(knots) - 1):
        slope = (values[i + 1] - values[i]) / (knots[i + 1] - knots[i])
        result = result + slope * (x.clamp(knots[i], knots[i + 1]) - knots[i])
    return result


def decode(
    heatmaps: Float[Tensor, "*batch height width"], *, radius: int = 2
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Return the keypoint (cell coordinates) and the height of the highest peak.

    The keypoint is the mean of the (2 radius + 1)^2 cells around the peak, weighted by their
    values: half a cell more exact than the peak itself.
    """
    width = heatmaps.shape[-1]
    peak, index = heatmaps.flatten(-2).max(-1)
    top = torch.stack([index % width, index.div(width, rounding_mode="floor")], -1)
    cells = _cell_coordinates(heatmaps)
    near = (cells - top[..., None, :]).abs().amax(-1) <= radius
    weights = torch.where(near, heatmaps.flatten(-2), 0)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights[..., None] * cells).sum(-2), peak


def _cell_coordinates(like: Float[Tensor, "*batch height width"]) -> Float[Tensor, "cells 2"]:
    height, width = like.shape[-2:]
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([column, row], -1).flatten(0, 1)


def sample_cells(
    probabilities: Float[Tensor, "*batch height width"], n: int, *, generator: torch.Generator
) -> Int[Tensor, "*batch {n}"]:
    """Draw `n` flat cell indices per heatmap, with replacement (inverse cumulative sum)."""
    if n < 1:
        raise ValueError(f"n must be at least 1, the number of samples per heatmap; got {n}")
    cumulative = normalise(probabilities).flatten(-2).double().cumsum(-1)
    draws = torch.rand(
        *cumulative.shape[:-1],
        n,
        dtype=cumulative.dtype,
        device=cumulative.device,
        generator=generator,
    )
    draws = draws * cumulative[..., -1:]
    last = (cumulative < cumulative[..., -1:]).sum(-1, keepdim=True)  # last cell with probability
    return torch.searchsorted(cumulative, draws, right=True).minimum(last)


def expectation(
    probabilities: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch 2"]:
    """Return the mean (cell coordinates) of each heatmap; it may lie between two modes."""
    weights = normalise(probabilities).flatten(-2)
    return weights @ _cell_coordinates(probabilities)


def covariance(
    probabilities: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch 2 2"]:
    """Return the covariance in cells squared, image axes (x right, y down)."""
    weights = normalise(probabilities).flatten(-2)
    centred = (
        _cell_coordinates(probabilities)
        - (weights @ _cell_coordinates(probabilities))[..., None, :]
    )
    return torch.einsum("...k,...ki,...kj->...ij", weights, centred, centred)


def highest_density_region(
    probabilities: Float[Tensor, "*batch height width"], level: float
) -> Bool[Tensor, "*batch height width"]:
    """Mark the smallest set of cells whose probability reaches `level` (ties: first cell)."""
    if not 0 < level <= 1:
        raise ValueError(f"level must lie in (0, 1], the probability of the region; got {level}")
    return (_mass_above(normalise(probabilities)) < level).unflatten(-1, probabilities.shape[-2:])


def density_level(
    probabilities: Float[Tensor, "*batch height width"],
    points: Float[Tensor, "*batch 2"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the level above which the highest-density region holds the point (cell coordinates).

    For a calibrated heatmap the share of true points with a level below q is q. Cells are coarse,
    so without a generator the level is the lowest possible, which counts a few points too many;
    with one it is drawn within the point's cell and then exactly uniform. Outside the grid: 1.
    """
    weights = normalise(probabilities)
    height, width = weights.shape[-2:]
    column, row = points.round().long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1))[..., None]
    level = _mass_above(weights).gather(-1, index)[..., 0]
    if generator is not None:
        draws = torch.rand(
            level.shape, dtype=level.dtype, device=level.device, generator=generator
        )
        level = level + draws * weights.flatten(-2).gather(-1, index)[..., 0]
    return torch.where(inside, level, 1.0)


def _mass_above(
    probabilities: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch cells"]:
    """For each cell, the probability of all cells that come before it when sorted downwards."""
    values, order = probabilities.flatten(-2).sort(dim=-1, descending=True, stable=True)
    above = (values.cumsum(-1) - values).clamp_min(0)
    return torch.empty_like(above).scatter(-1, order, above)
