import numpy as np
import torch

from humr.figures import charts


def test_crop_axes_point_down(ax):
    low, high = charts.crop_axes(ax).get_ylim()
    assert low > high


def test_forces_go_against_the_gradient(ax):
    gradient = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    (arrows,) = charts.forces(ax, torch.zeros(2, 2), gradient, length=0.1).collections
    np.testing.assert_allclose(arrows.U, [-0.1, 0], atol=1e-6)


def test_mask_is_opaque_on_the_person_only(ax):
    shade = charts.mask_image(ax, torch.tensor([[True, False], [False, False]])).get_array()
    assert shade[..., 3].tolist() == [[1, 0], [0, 0]]


def test_best_of_curve_draws_expected_minima(ax):
    charts.best_of_curve(ax, {"model": torch.tensor([[3.0, 1.0]])}, [1, 2])
    assert ax.lines[0].get_ydata().tolist() == [2, 1]


def test_coverage_curve_is_the_diagonal_for_uniform_regions(ax):
    levels = [0.25, 0.5, 0.75]
    charts.coverage_curve(ax, {"model": (torch.arange(100) + 0.5) / 100}, levels)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), levels)


def test_rank_deviation_draws_the_difference_from_uniform(ax, rng):
    low = torch.full((50,), 0.01)  # the truth below every sample
    charts.rank_deviation(ax, {"biased": low}, rng=rng)
    points, deviation = ax.lines[0].get_data()
    np.testing.assert_allclose(deviation, 1 - points)
