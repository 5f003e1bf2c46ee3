import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from humr import heatmaps
from humr.heatmaps import HeatmapGrid

ROWS, COLUMNS = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")


def gaussian(amplitude, mean_x, mean_y, sigma_x, theta, sigma_y, *, x=COLUMNS, y=ROWS):
    """The formula of ICCV 2021, term by term."""
    cosine, sine, double = math.cos(theta) ** 2, math.sin(theta) ** 2, math.sin(2 * theta)
    a = cosine / (2 * sigma_x**2) + sine / (2 * sigma_y**2)
    b = -double / (4 * sigma_x**2) + double / (4 * sigma_y**2)
    c = sine / (2 * sigma_x**2) + cosine / (2 * sigma_y**2)
    dx, dy = x - mean_x, y - mean_y
    exponent = a * dx**2 + 2 * b * dx * dy + c * dy**2
    return amplitude * (np.exp(-exponent) if isinstance(x, np.ndarray) else torch.exp(-exponent))


@pytest.fixture
def random_maps(generator):
    return torch.rand(3, 2, 6, 8, dtype=torch.float64, generator=generator) ** 4


# ---------------------------------------------------------------- grid


def test_grid_by_hand():
    grid = HeatmapGrid(4, 8, offset=0.5)
    corners = torch.tensor([[-0.5, -0.5], [3.5, 7.5], [1.5, 3.5]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(grid.to_crop(corners), expected)


def test_grid_round_trip(generator):
    grid = HeatmapGrid(64, 48, offset=0.3)
    points = torch.rand(5, 7, 2, dtype=torch.float64, generator=generator) * 2 - 1
    torch.testing.assert_close(grid.to_crop(grid.from_crop(points)), points)


def test_detector_grid_means_every_fourth_pixel():
    pixel = (HeatmapGrid().to_crop(torch.tensor([10.0, 20.0])) + 1) * 128
    torch.testing.assert_close(pixel, torch.tensor([40.0, 80.0]))


def test_cells_to_crop_is_row_major_and_jitters_within_the_cell(generator):
    grid = HeatmapGrid(5, 4, offset=0.5)
    cells = torch.arange(20).reshape(4, 5)
    middle = grid.cells_to_crop(cells)
    torch.testing.assert_close(middle[2, 3], torch.tensor([(3.5) / 2.5 - 1, 2.5 / 2 - 1]))
    many = grid.cells_to_crop(cells.expand(2000, 4, 5), generator=generator)
    distance = (grid.from_crop(many) - grid.from_crop(middle)).abs()
    assert distance.max() <= 0.5 + 1e-5
    torch.testing.assert_close(many.mean(0), middle, atol=0.03, rtol=0)
    assert distance.mean() == pytest.approx(0.25, abs=0.01)


def test_jitter_is_drawn_where_the_generator_is_and_moved_to_the_cells(generator):
    cells = torch.zeros(3, dtype=torch.long, device="meta")
    assert HeatmapGrid().cells_to_crop(cells, generator=generator).device.type == "meta"


# ---------------------------------------------------------------- calibration


def test_normalise(random_maps):
    total = heatmaps.normalise(random_maps).sum((-2, -1))
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(4, 4), torch.full((4, 4), float("nan")), torch.full((4, 4), float("inf")),
     torch.tensor([[5.0, -1.0], [1.0, 1.0]])],
)  # fmt: skip
@pytest.mark.parametrize(
    "function",
    [
        heatmaps.normalise,
        heatmaps.calibrate,
        heatmaps.expectation,
        heatmaps.covariance,
        heatmaps.mass,
        lambda h: heatmaps.highest_density_region(h, 0.5),
        lambda h: heatmaps.sample_cells(h, 3, generator=torch.Generator()),
    ],
)
def test_bad_heatmaps_are_refused(function, bad):
    with pytest.raises(ValueError, match="finite, non-negative and not all zero"):
        function(torch.stack([torch.ones_like(bad), bad]))


@pytest.mark.parametrize(
    ("peak", "exponent", "floor"),
    [(0.2, 1, 0.02), (0.45, 1 + 2 / 9, 0.075), (0.625, 2, 0.02), (0.95, 3, 0.02)],
)
def test_calibrate_by_hand(peak, exponent, floor):
    heatmap = torch.tensor([[peak, peak / 2, 0.0, 0.0]], dtype=torch.float64)
    powered = torch.tensor([1, 0.5**exponent, 0, 0], dtype=torch.float64)
    expected = (1 - floor) * powered / powered.sum() + floor / 4
    torch.testing.assert_close(heatmaps.calibrate(heatmap)[0], expected)


def test_calibrate_sharpens_only_sure_maps():
    sure, unsure = gaussian(0.9, 30, 30, 3, 0, 3), gaussian(0.3, 30, 30, 3, 0, 3)
    before = heatmaps.covariance(torch.stack([sure, unsure])).diagonal(dim1=-2, dim2=-1)
    inner = heatmaps.calibrate(torch.stack([sure, unsure])) - 0.02 / 4096
    after = heatmaps.covariance(inner.clamp_min(0)).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(after[0], before[0] / 3, rtol=1e-3, atol=0)
    torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=0)


# ---------------------------------------------------------------- keypoints and moments


@pytest.mark.parametrize("x", [20.0, 20.3, 20.49])
def test_decode_finds_the_middle_between_cells(x):
    """The 5 x 5 window cuts a wide peak off, so half of a sub-cell shift is the least it finds."""
    exact, peak = heatmaps.decode(gaussian(0.8, x, 41.0, 0.8, 0, 0.8))
    torch.testing.assert_close(exact, torch.tensor([x, 41.0]), atol=0.03, rtol=0)
    assert peak == pytest.approx(0.8 * math.exp(-((x - 20) ** 2) / 2 / 0.64), rel=1e-5)


def test_decode_ignores_the_second_mode_and_works_at_the_border():
    two = gaussian(0.9, 0, 63, 1, 0, 1) + gaussian(0.8, 50, 20, 3, 0, 3)
    point, peak = heatmaps.decode(two)
    assert (point - torch.tensor([0.0, 63.0])).abs().max() < 1
    assert peak == pytest.approx(0.9, abs=1e-3)


def test_moments_of_a_gaussian():
    heatmap = gaussian(0.7, 30.2, 33.6, 5.0, 0.6, 2.0)
    torch.testing.assert_close(heatmaps.expectation(heatmap), torch.tensor([30.2, 33.6]))
    direction = torch.tensor([math.cos(0.6), -math.sin(0.6)])  # y is down
    across = torch.tensor([math.sin(0.6), math.cos(0.6)])
    expected = 25 * direction.outer(direction) + 4 * across.outer(across)
    torch.testing.assert_close(heatmaps.covariance(heatmap), expected, rtol=1e-4, atol=1e-4)


def test_moments_of_what_is_cut_off_are_those_of_the_whole():
    mean, covariance = torch.tensor([30.0, 20.0]), torch.tensor([[16.0, 6.0], [6.0, 9.0]])
    rows = torch.arange(64.0)
    cells = torch.stack(torch.meshgrid(rows, rows, indexing="xy"), -1) - mean
    maps = 0.7 * (-0.5 * (cells @ covariance.inverse() * cells).sum(-1)).exp()
    expected = heatmaps.packed_gaussian(torch.tensor(0.7), mean, covariance)
    torch.testing.assert_close(heatmaps.moments(maps, whole=True), expected, rtol=0.02, atol=0.02)
    assert (heatmaps.moments(maps, whole=False)[3:] < 0.8 * expected[3:]).all()
    for got, put in zip(
        heatmaps.unpacked_gaussian(expected), (torch.tensor(0.7), mean, covariance), strict=True
    ):
        torch.testing.assert_close(got, put)


def test_moments_of_two_cells():
    heatmap = torch.zeros(5, 5)
    heatmap[1, 0], heatmap[1, 4] = 0.3, 0.1
    torch.testing.assert_close(heatmaps.expectation(heatmap), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(
        heatmaps.covariance(heatmap), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    )


# ---------------------------------------------------------------- samples


def test_sample_cells_follows_the_probabilities(generator):
    probabilities = heatmaps.normalise(torch.arange(24, dtype=torch.float64).reshape(2, 3, 4))
    cells = heatmaps.sample_cells(probabilities, 20_000, generator=generator)
    assert cells.shape == (2, 20_000)
    for counts, expected in zip(cells, probabilities.flatten(-2), strict=True):
        positive = expected > 0
        observed = counts.bincount(minlength=12)
        assert observed[~positive].sum() == 0
        test = chisquare(observed[positive].numpy(), 20_000 * expected[positive].numpy())
        assert test.pvalue > 0.01


def test_sample_cells_never_draws_an_empty_cell(generator):
    heatmap = torch.zeros(3, 4, 4)
    heatmap[0, 1, 2] = heatmap[1, 0, 0] = heatmap[2, 3, 3] = 1e-6
    cells = heatmaps.sample_cells(heatmap, 500, generator=generator)
    assert cells.unique(dim=1).flatten().tolist() == [6, 0, 15]


def test_sample_cells_repeats_with_the_seed():
    heatmap = torch.ones(64, 64)
    first, second = (
        heatmaps.sample_cells(heatmap, 50, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_sample_cells_wants_a_number(generator):
    with pytest.raises(ValueError, match="n must be at least 1"):
        heatmaps.sample_cells(torch.ones(4, 4), 0, generator=generator)


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 1.0])
def test_region_is_the_smallest_of_all(level, random_maps):
    probabilities = heatmaps.normalise(random_maps)
    region = heatmaps.highest_density_region(random_maps, level)
    for p, chosen in zip(probabilities.flatten(0, 1), region.flatten(0, 1), strict=True):
        largest = p.flatten().sort(descending=True).values.cumsum(0)
        fewest = int((largest < level - 1e-12).sum()) + 1
        assert int(chosen.sum()) == min(fewest, p.numel())
        assert p[chosen].sum() >= level - 1e-12
        if not chosen.all():
            assert p[chosen].min() >= p[~chosen].max()


def test_region_by_hand():
    heatmap = torch.tensor([[4.0, 3.0], [1.0, 2.0]])
    region = heatmaps.highest_density_region(heatmap, 0.6)
    assert region.tolist() == [[True, True], [False, False]]


def test_region_level_is_checked():
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\]"):
        heatmaps.highest_density_region(torch.ones(3, 3), 90.0)


def test_density_level_agrees_with_the_region(random_maps):
    points = torch.tensor([[3.2, 2.4], [0.0, 5.0]], dtype=torch.float64).expand(3, 2, 2)
    levels = heatmaps.density_level(random_maps, points)
    for level in (0.2, 0.5, 0.8):
        region = heatmaps.highest_density_region(random_maps, level)
        inside = torch.stack([region[:, 0, 2, 3], region[:, 1, 5, 0]], 1)
        assert torch.equal(inside, levels < level)


def test_density_level_outside_the_grid_is_one():
    points = torch.tensor([[-1.0, 2.0], [8.0, 2.0], [2.0, -0.6], [2.0, 2.0]])
    levels = heatmaps.density_level(torch.ones(4, 8, 8), points)
    assert levels[:3].tolist() == [1, 1, 1]
    assert levels[3] < 1


def test_density_level_of_own_samples_is_uniform(generator):
    """The mean of a uniform number is 1/2 and its variance 1/12; without the draw it is biased."""
    heatmap = gaussian(0.9, 20, 30, 1.5, 0.5, 1.0)[22:38, 12:28].double()
    cells = heatmaps.sample_cells(heatmap, 4000, generator=generator)
    points = torch.stack([cells % 16, cells // 16], -1).double()
    many = heatmap.expand(4000, 16, 16)
    levels = heatmaps.density_level(many, points, generator=generator)
    assert levels.mean() == pytest.approx(0.5, abs=0.015)
    assert levels.var() == pytest.approx(1 / 12, abs=0.004)
    assert heatmaps.density_level(many, points).mean() < 0.485
