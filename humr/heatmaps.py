"""Heatmaps as distributions: calibrate, sample, moments, regions, Gaussians by least squares.

Cells are counted by flat index (row by row) or by cell coordinates (column, row), where whole
numbers are the middles of cells. `HeatmapGrid` ties cell coordinates to crop coordinates.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

# Exponent of `calibrate`: fitted per bin of the peak by likelihood on renders. The floor is wider
# where a peak of .4 to .5 is confident and sometimes wrong (decisions.md, detector).
SHARPENING = ((0.4, 0.85), (1.0, 3.0))
FLOOR = ((0.35, 0.4, 0.5, 0.55), (0.02, 0.075, 0.075, 0.02))
Heatmaps = Float[Tensor, "*batch height width"]
Points = Float[Tensor, "*batch 2"]


@dataclass(frozen=True)
class HeatmapGrid:
    r"""How cells lie in the crop: $u = 2\,(\mathrm{cell} + \mathrm{offset}) / \mathrm{size} - 1$.

    The defaults are those of our detector, whose cell i means pixel 4 i of its 256 (measured, see
    `decisions.md`); `offset` is 0.5 where the middle of a cell is meant.
    """

    width: int = 64
    height: int = 64
    offset: float = 0.0

    def to_crop(self, cells: Points) -> Points:
        """Map cell coordinates (column, row) to crop coordinates in [-1, 1]."""
        return (cells + self.offset) * (2 / self._size(cells)) - 1

    def from_crop(self, points: Points) -> Points:
        """Map crop coordinates to cell coordinates (column, row)."""
        return (points + 1) * (self._size(points) / 2) - self.offset

    def cells_to_crop(
        self, cells: Int[Tensor, "*batch"], *, generator: torch.Generator | None = None
    ) -> Points:
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


GRID = HeatmapGrid()


def mass(heatmaps: Heatmaps) -> Float[Tensor, "*batch"]:
    """Return the sum of each heatmap; refuse what is no heatmap."""
    total = heatmaps.sum((-2, -1))
    if not bool((total > 0).all() & total.isfinite().all() & (heatmaps.amin((-2, -1)) >= 0).all()):
        raise ValueError(
            "a heatmap must be finite, non-negative and not all zero; "
            f"got sums from {total.min():g} to {total.max():g}, lowest value {heatmaps.min():g} "
            "(logits instead of sigmoid values?)"
        )
    return total


def normalise(heatmaps: Heatmaps) -> Heatmaps:
    """Divide by the sum, so that the cells of each heatmap are probabilities."""
    return heatmaps / mass(heatmaps)[..., None, None]


def calibrate(heatmaps: Heatmaps) -> Heatmaps:
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


def decode(heatmaps: Heatmaps, *, radius: int = 2) -> tuple[Points, Float[Tensor, "*batch"]]:
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


def _cell_coordinates(like: Heatmaps) -> Float[Tensor, "cells 2"]:
    height, width = like.shape[-2:]
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([column, row], -1).flatten(0, 1)


def sample_cells(
    probabilities: Heatmaps, n: int, *, generator: torch.Generator
) -> Int[Tensor, "*batch {n}"]:
    """Draw `n` flat cell indices per heatmap, with replacement (inverse cumulative sum)."""
    if n < 1:
        raise ValueError(f"n must be at least 1, the number of samples per heatmap; got {n}")
    cumulative = normalise(probabilities).flatten(-2).double().cumsum(-1)
    shape, device = (*cumulative.shape[:-1], n), cumulative.device
    draws = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
    draws = draws * cumulative[..., -1:]
    last = (cumulative < cumulative[..., -1:]).sum(-1, keepdim=True)  # last cell with probability
    return torch.searchsorted(cumulative, draws, right=True).minimum(last)


def expectation(probabilities: Heatmaps) -> Points:
    """Return the mean (cell coordinates) of each heatmap; it may lie between two modes."""
    weights = normalise(probabilities).flatten(-2)
    return weights @ _cell_coordinates(probabilities)


def covariance(probabilities: Heatmaps) -> Float[Tensor, "*batch 2 2"]:
    """Return the covariance in cells squared, image axes (x right, y down)."""
    weights = normalise(probabilities).flatten(-2)
    cells = _cell_coordinates(probabilities)
    centred = cells - (weights @ cells)[..., None, :]
    return torch.einsum("...k,...ki,...kj->...ij", weights, centred, centred)


CUT_OFF = 0.1  # of the peak; `moments` are of what lies above
# Variance of a Gaussian that is cut off there, per variance of the whole: 1 - t / (e^t - 1) with
# t = -log CUT_OFF.
KEPT = 1 + math.log(CUT_OFF) * CUT_OFF / (1 - CUT_OFF)


def moments(maps: Heatmaps, *, whole: bool) -> Float[Tensor, "*batch 6"]:
    """Peak, mean and covariance of what exceeds a tenth of the peak, as `packed_gaussian`.

    With `whole` the covariance is that of the Gaussian of which this is the part.
    """
    peak = maps.amax((-2, -1))
    high = maps.where(maps >= CUT_OFF * peak[..., None, None], 0)
    spread = covariance(high)
    return packed_gaussian(peak, expectation(high), spread / KEPT if whole else spread)


def packed_gaussian(
    amplitude: Float[Tensor, "*batch"], mean: Points, spread: Float[Tensor, "*batch 2 2"]
) -> Float[Tensor, "*batch 6"]:
    """Six numbers of a Gaussian: amplitude, mean x, y, covariance xx, xy, yy."""
    parts = [amplitude[..., None], mean, spread[..., 0, :], spread[..., 1, 1:]]
    return torch.cat(parts, -1).float()


def unpacked_gaussian(
    packed: Float[Tensor, "*batch 6"],
) -> tuple[Float[Tensor, "*batch"], Points, Float[Tensor, "*batch 2 2"]]:
    """Amplitude, mean and covariance of `packed_gaussian`."""
    return packed[..., 0], packed[..., 1:3], packed[..., [3, 4, 4, 5]].unflatten(-1, (2, 2))


def highest_density_region(
    probabilities: Heatmaps, level: float
) -> Bool[Tensor, "*batch height width"]:
    """Mark the smallest set of cells whose probability reaches `level` (ties: first cell)."""
    if not 0 < level <= 1:
        raise ValueError(f"level must lie in (0, 1], the probability of the region; got {level}")
    return (_mass_above(normalise(probabilities)) < level).unflatten(-1, probabilities.shape[-2:])


def density_level(
    probabilities: Heatmaps, points: Points, *, generator: torch.Generator | None = None
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


def _mass_above(probabilities: Heatmaps) -> Float[Tensor, "*batch cells"]:
    """For each cell, the probability of all cells that come before it when sorted downwards."""
    values, order = probabilities.flatten(-2).sort(dim=-1, descending=True, stable=True)
    above = (values.cumsum(-1) - values).clamp_min(0)
    return torch.empty_like(above).scatter(-1, order, above)


# ------------------------------------------------------------------------ Gaussian fits

# A Gaussian is the exponential of a parabola, f = exp(theta . phi) with phi = (1, x, y, x^2, xy,
# y^2): its derivatives by theta are f phi and f phi phi^T. With heat h, half the squared error has
# gradient sum f (f - h) phi and Hessian sum f (2f - h) phi phi^T. These are moments of images
# (sums of monomials up to the fourth degree), one matrix product for a whole batch; no Jacobian is
# ever built. Cells with h > 2f are left out of the Hessian until the fit is near, which keeps it
# positive and the steps short.
#
# Where f vanishes a cell adds a constant to the error and nothing to its derivatives. So each map
# is looked at through a small window, and through a larger one when a step would bring the
# Gaussian within `REACH` standard deviations of the window's edge. Larger windows begin on blocks
# of cells.
#
# Below, `theta` is (batch, 6), and a state (batch, 28) holds theta, its squared error, and of half
# that error the gradient (6) and the moments of the Hessian (15).

WINDOWS = (16, 32)  # cells; after these the whole map
REACH = 4.0  # standard deviations that the window must hold
TOLERANCE = 1e-5  # a settled step changes the Gaussian by less than this part of its norm
_POOL = 4096  # maps at a time: bounds the memory
_CACHE = 2**16  # cells at a time: they stay in the cache
_POWERS = tuple((d - j, j) for d in range(5) for j in range(d + 1))  # of x and y; the first 6: phi
_PRODUCT = [_POWERS.index((a + c, b + d)) for a, b in _POWERS[:6] for c, d in _POWERS[:6]]


@dataclass(frozen=True)
class GaussianFit:
    r"""Least-squares Gaussians, $h(p) \approx A \exp(-(a\,dx^2 + 2b\,dx\,dy + c\,dy^2))$.

    `mean` in cell coordinates; `sigma` in cells, larger first; `theta` in $[0, \pi)$ is the angle
    of the larger axis from x, counted towards **up** on the screen: in image axes (y down) that
    axis is $(\cos\theta, -\sin\theta)$. This is the sign of the formula of ICCV 2021, so
    $R(\theta)\,\mathrm{diag}(\sigma^2)R(\theta)^T$ is the covariance with y *up*; `covariance`
    is the one in image axes.
    """

    amplitude: Float[Tensor, "*batch"]
    mean: Points
    sigma: Points
    theta: Float[Tensor, "*batch"]
    rmse: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]

    @property
    def covariance(self) -> Float[Tensor, "*batch 2 2"]:
        """Covariance in cells squared, image axes (x right, y down)."""
        cosine, sine = self.theta.cos(), self.theta.sin()
        axes = torch.stack([cosine, sine, -sine, cosine], -1).unflatten(-1, (2, 2))
        return axes * self.sigma.square()[..., None, :] @ axes.mT


@torch.no_grad()
def fit_gaussian(heatmaps: Heatmaps, *, iterations: int = 100) -> GaussianFit:
    r"""Fit one Gaussian to each heatmap by least squares (Wehrbein et al. 2021, section 3.4).

    Damped Newton steps in float64 from the parabola through the logarithm of the heat around the
    peak; where that is no peak, from the highest value and $\sigma = 2$ cells. A fit that does not
    settle within `iterations` steps in one window starts again from the moments of the map; if
    that does not settle either, the better state is kept, and `converged` says so.
    """
    mass(heatmaps)  # refuse NaN, all zero, logits
    batch, shape = heatmaps.shape[:-2], heatmaps.shape[-2:]
    parts = [_fit(maps, iterations) for maps in heatmaps.reshape(-1, *shape).split(_POOL)]
    fit = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return GaussianFit(**{k: v.reshape(batch + v.shape[1:]) for k, v in fit.items()})


def _fit(maps: Tensor, iterations: int) -> dict[str, Tensor]:
    """Fit each map in ever larger windows, the larger ones on blocks of 2 x 2 cells first."""
    maps = maps.clamp(max=1) if len(maps) and maps.amax() > 1 else maps
    theta = _start(maps)
    zero = torch.zeros_like(theta[:, 0])
    fits = _Fits(theta, zero, zero > 0, zero > 0)
    side = max(maps.shape[1:])
    pending = torch.arange(len(maps), device=maps.device)
    for size in [n for n in WINDOWS if n < side] + [side]:
        escaped = []
        for stride in (2, 1) if size > WINDOWS[0] else (1,):
            if len(pending):
                fits.improve(maps, pending, size, stride, iterations)
            escaped.append(pending[fits.escaped[pending]])
            pending = pending[~fits.escaped[pending]]
        pending = torch.cat(escaped).sort()[0]
    if not fits.converged.all():
        fits.retry(maps, (~fits.converged).nonzero()[:, 0], iterations)
    power = torch.cat([m.double().square().sum((1, 2)) for m in maps.split(64)])
    rmse = ((power + fits.excess).clamp_min(0) / (maps.shape[1] * maps.shape[2])).sqrt()
    return {**_describe(fits.theta), "rmse": rmse, "converged": fits.converged}


@dataclass
class _Fits:
    """Where the fits of all maps stand."""

    theta: Float[Tensor, "batch 6"]  # in cell coordinates
    excess: Float[Tensor, " batch"]  # squared error less the map's sum of squares
    converged: Bool[Tensor, " batch"]
    escaped: Bool[Tensor, " batch"]  # the next step would not fit into the window

    def improve(self, maps: Tensor, chosen: Tensor, size: int, stride: int, steps: int) -> None:
        """Descend within windows of `size` cells, taken in blocks of `stride` x `stride`."""
        theta = self.theta[chosen]
        maps = maps[chosen] if len(chosen) < len(maps) else maps
        window = _Window.around(maps, _shape(theta)[0], size, stride)
        state, settled, escaped = _descend(_shift(theta, window.centre), window, steps)
        self.theta[chosen] = _shift(state[:, :6], -window.centre)
        self.excess[chosen] = state[:, 6] - window.values.square().sum(-1)
        self.converged[chosen], self.escaped[chosen] = settled & (stride == 1), escaped

    def retry(self, maps: Tensor, chosen: Tensor, steps: int) -> None:
        """Start again, as wide as the whole map, and keep what is better."""
        theta, excess = self.theta[chosen], self.excess[chosen]
        self.theta[chosen] = _wide(maps[chosen])
        for stride in (2, 1):
            self.improve(maps, chosen, max(maps.shape[1:]), stride, steps)
        worse = ~(self.excess[chosen] < excess)
        self.theta[chosen[worse]], self.excess[chosen[worse]] = theta[worse], excess[worse]
        self.converged[chosen[worse]] = False


def _start(maps: Tensor) -> Tensor:
    """Return a first parabola in cell coordinates: as the logarithm of the peak, or round."""
    peak, index = maps.flatten(1).max(-1)
    width = maps.shape[-1]
    top = torch.stack([index % width, index.div(width, rounding_mode="floor")], -1).double()
    window = _Window.around(maps, top, 5)
    weight = window.values.square()
    target = (weight * window.values.clamp_min(1e-6).log()) @ window.basis[:6].T
    local, wrong = torch.linalg.solve_ex(_matrix(weight @ window.basis.T), target)
    _, variance, proper = _shape(local)
    plausible = ((variance > 0.25) & (variance < 64)).all(-1) & proper & (wrong == 0)
    flat = torch.zeros_like(local)
    flat[:, 0], flat[:, 3], flat[:, 5] = peak.double().log(), -1 / 8, -1 / 8
    return torch.where(plausible[:, None], _shift(local, -window.centre), _shift(flat, -top))


def _wide(maps: Tensor) -> Tensor:
    """Return the parabola with the moments of the map."""
    maps = maps.double()
    (xx, xy), (_, yy) = (row.unbind(-1) for row in covariance(maps).unbind(-2))
    determinant = (xx * yy - xy * xy).clamp_min(1e-3)
    shape = torch.stack([-yy / 2, xy, -xx / 2], -1) / determinant[:, None]
    height, zero = maps.amax((1, 2)).log()[:, None], torch.zeros_like(shape[:, :2])
    return _shift(torch.cat([height, zero, shape], -1), -expectation(maps))


def _shape(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance along x and y, and whether the parabola opens downwards."""
    axx, axy, ayy = theta[:, 3:].unbind(-1)
    variance = torch.stack([ayy, axx], -1) * -2
    determinant = 4 * axx * ayy - axy * axy
    slope = theta[:, 1:3]
    mean = (slope * variance + axy[:, None] * slope.flip(-1)) / determinant[:, None]
    return mean, variance / determinant[:, None], (determinant > 0) & (axx < 0)


def _shift(theta: Tensor, origin: Tensor) -> Tensor:
    """Write the parabola in coordinates counted from `origin`."""
    c, bx, by, axx, axy, ayy = theta.unbind(-1)
    x, y = origin.unbind(-1)
    moved = [c + bx * x + by * y + axx * x * x + axy * x * y + ayy * y * y]
    moved += [bx + 2 * axx * x + axy * y, by + axy * x + 2 * ayy * y]
    return torch.stack([*moved, axx, axy, ayy], -1)


class _Window(NamedTuple):
    """Cut-outs of maps: where they lie, what they hold, and the monomials of their cells."""

    values: Float[Tensor, "batch cells"]
    centre: Float[Tensor, "batch 2"]
    edges: Float[Tensor, "2 batch 2"]  # low, high, from the centre; infinite at the map's border
    basis: Float[Tensor, "15 cells"]
    tolerance: float
    floor: float  # of 2 f - h in the Hessian

    @classmethod
    def around(cls, maps: Tensor, mean: Tensor, size: int, stride: int = 1) -> "_Window":
        """Cut out `size` cells along each axis, averaged in blocks of `stride` by `stride`."""
        if stride > 1:
            maps = avg_pool2d(maps[:, None], stride, ceil_mode=True)[:, 0]
        width = maps.shape[2]
        whole = torch.tensor([width, maps.shape[1]], device=maps.device)
        extent = whole.clamp(max=-(-size // stride))
        offset = (stride - 1) / 2  # from the first cell of a block to its middle
        corner = (((mean - offset) / stride).nan_to_num() - (extent - 1) / 2).round().long()
        corner = corner.clamp(min=torch.zeros_like(whole), max=whole - extent)
        columns = torch.arange(int(extent[0]), device=maps.device)
        rows = torch.arange(int(extent[1]), device=maps.device)
        index = ((corner[:, 1:] + rows) * width)[:, :, None] + (corner[:, :1] + columns)[:, None]
        half = (extent - 1).double() / 2
        low = torch.where(corner == 0, -torch.inf, -half * stride)
        high = torch.where(corner == whole - extent, torch.inf, half * stride)
        return cls(
            maps.flatten(1).gather(1, index.flatten(1)).double(),
            (corner + half) * stride + offset,
            torch.stack([low, high]),
            _monomials((columns - half[0]) * stride, (rows - half[1]) * stride),
            TOLERANCE if stride == 1 else 1e-2,
            -torch.inf if stride == 1 and size > WINDOWS[0] else 0.0,
        )

    def select(self, chosen: Tensor) -> "_Window":
        values, edges = self.values.index_select(0, chosen), self.edges.index_select(1, chosen)
        return self._replace(values=values, edges=edges)


def _monomials(x: Tensor, y: Tensor) -> Tensor:
    exponents = torch.arange(5, device=x.device)[:, None]
    i, j = torch.tensor(_POWERS, device=x.device).T
    return ((y**exponents)[j, :, None] * (x**exponents)[i, None, :]).flatten(1)


def _descend(theta: Tensor, window: _Window, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step until each fit has settled or wants to leave its window; say which of the two."""
    best = _look(theta, window)
    escaped = ~_fits(theta, window)[1]
    settled = torch.zeros_like(escaped)
    active = (~escaped).nonzero()[:, 0]
    window, state = window.select(active), best.index_select(0, active)
    damping = torch.full_like(state[:, 0], 1e-3)
    for _ in range(iterations if len(active) else 0):
        step, gain = _step(state, damping)
        trial = _look(state[:, :6] + step, window)
        proper, inside = _fits(trial[:, :6], window)
        better = (trial[:, 6] <= state[:, 6]) & proper
        leaves = better & ~inside
        better = better & inside
        small = (gain <= window.tolerance**2 * state[:, 13]) & (gain >= 0) & (damping < 0.01)
        finished = leaves | small
        state = torch.where(better[:, None], trial, state)
        damping = torch.where(better, damping / 10, damping * 10)
        if finished.any():
            best.index_copy_(0, active, state)
            escaped[active], settled[active] = leaves, small & ~leaves
            going = (~finished).nonzero()[:, 0]
            active, damping = active[going], damping[going]
            window, state = window.select(going), state.index_select(0, going)
            if not len(active):
                break
    return best.index_copy_(0, active, state), settled, escaped


def _look(theta: Tensor, window: _Window) -> Tensor:
    """Return the state of a parabola in its window."""
    piece, states = max(_CACHE // window.values.shape[1], 1), []
    for part, values in zip(theta.split(piece), window.values.split(piece), strict=True):
        predicted = (part @ window.basis[:6]).exp_()
        residual = predicted - values
        cost = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).square_()
        weight = (predicted + residual).clamp_min_(window.floor).mul_(predicted)
        gradient = residual.mul_(predicted) @ window.basis[:6].T
        states.append(torch.cat([part, cost, gradient, weight @ window.basis.T], -1))
    return torch.cat(states)


def _fits(theta: Tensor, window: _Window) -> tuple[Tensor, Tensor]:
    """Say whether this is a Gaussian, and whether it has faded before the window ends."""
    mean, variance, proper = _shape(theta)
    reach = REACH * variance.sqrt()
    inside = (mean - reach >= window.edges[0]) & (mean + reach <= window.edges[1])
    return proper, inside.all(-1)


def _step(state: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped step and twice the gain that it promises."""
    gradient, curvature = state[:, 7:13], _matrix(state[:, 13:])
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    diagonal += damping[:, None] * diagonal.abs()
    step = torch.linalg.solve_ex(curvature, gradient)[0]
    return -step, (gradient * step).sum(-1)


def _matrix(moments: Tensor) -> Tensor:
    """Sort the moments of monomials into those of products of two of phi."""
    index = torch.tensor(_PRODUCT, device=moments.device)
    return moments.index_select(1, index).unflatten(1, (6, 6))


def _describe(theta: Tensor) -> dict[str, Tensor]:
    """Turn a parabola into amplitude, mean, sigma and angle."""
    mean = _shape(theta)[0]
    half = torch.stack([-theta[:, 3], -theta[:, 4] / 2, -theta[:, 4] / 2, -theta[:, 5]], -1)
    precision, axes = torch.linalg.eigh(half.unflatten(-1, (2, 2)))  # ascending
    return {
        "amplitude": _shift(theta, mean)[:, 0].exp(),
        "mean": mean,
        "sigma": (2 * precision.clamp_min(1e-12)).rsqrt(),
        "theta": torch.atan2(-axes[:, 1, 0], axes[:, 0, 0]).remainder(torch.pi),
    }
