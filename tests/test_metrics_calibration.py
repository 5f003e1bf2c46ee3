import numpy as np
import pytest
import torch
from scipy import stats

from humr import metrics


def randn(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_rank_and_pit_by_hand():
    samples = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert metrics.rank(samples, torch.tensor([[2.5]])).item() == 2
    assert metrics.pit(samples, torch.tensor([[2.5]])).item() == pytest.approx(2.5 / 4)
    assert metrics.rank(samples, torch.tensor([[9.0]])).item() == 3


def test_ranks_of_exact_posterior_samples_are_uniform(generator):
    ranks = metrics.rank(
        randn(4000, 9, 2, generator=generator), randn(4000, 2, generator=generator)
    )
    for column in ranks.T:
        assert stats.chisquare(np.bincount(column.numpy(), minlength=10)).pvalue > 0.001
    narrow = metrics.rank(
        0.5 * randn(4000, 9, generator=generator), randn(4000, generator=generator)
    )
    assert stats.chisquare(np.bincount(narrow.numpy(), minlength=10)).pvalue < 1e-6


def test_ranks_given_an_observation_are_uniform_only_under_the_exact_posterior(generator, rng):
    """Prior N(0, 1), observation with noise N(0, 1): the posterior is N(x / 2, 1 / 2)."""
    images, count = 3000, 19
    truth = randn(images, 1, generator=generator)
    observed = truth + randn(images, 1, generator=generator)
    noise = randn(images, count, 1, generator=generator)
    exact = observed[:, None] / 2 + 0.5**0.5 * noise
    shifted = exact + 0.15
    ignorant = noise  # the prior: its ranks are uniform as well, and it has learnt nothing
    points = np.arange(1, count + 1) / (count + 1)
    low, high = metrics.ecdf_band(images, points, rng=rng)
    for samples, uniform in ((exact, True), (shifted, False), (ignorant, True)):
        pit = metrics.pit(samples, truth)[:, 0].numpy()
        curve = (pit[:, None] <= points).mean(0)
        assert bool(((low <= curve) & (curve <= high)).all()) is uniform
    score = [metrics.energy_score(s[:, :, None], truth[:, None]).mean() for s in (exact, ignorant)]
    assert score[0] < 0.8 * score[1]


@pytest.mark.parametrize("dim", [1, 5])
def test_latent_pit_is_the_chi_square_cdf(dim, generator):
    z = randn(200, dim, generator=generator)
    expected = stats.chi2(dim).cdf(z.square().sum(-1).numpy())
    np.testing.assert_allclose(metrics.latent_pit(z).numpy(), expected)


@pytest.mark.parametrize("level", [0.0, 0.05, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("count", [1, 2, 19])
def test_quantile_equals_numpy_weibull(level, count, generator):
    samples = randn(3, count, 2, generator=generator)
    expected = np.quantile(samples.numpy(), level, axis=1, method="weibull")
    np.testing.assert_allclose(metrics.quantile(samples, level).numpy(), expected)


@pytest.mark.parametrize(("level", "count"), [(0.5, 3), (0.5, 20), (0.9, 19), (0.9, 60)])
def test_central_intervals_cover_as_often_as_they_say(level, count, generator):
    images = 20_000
    inside = metrics.inside_central_interval(
        randn(images, count, generator=generator), randn(images, generator=generator), level
    )
    error = (level * (1 - level) / images) ** 0.5
    assert inside.double().mean().item() == pytest.approx(level, abs=4 * error)


def test_narrow_samples_undercover(generator):
    inside = metrics.inside_central_interval(
        0.5 * randn(5000, 99, generator=generator), randn(5000, generator=generator), 0.9
    )
    expected = 1 - 2 * stats.norm.sf(0.5 * stats.norm.ppf(0.95))
    assert inside.double().mean().item() == pytest.approx(expected, abs=0.03)


def test_intervals_need_enough_samples_and_a_probability():
    with pytest.raises(ValueError, match="a 90% interval needs at least 19 samples; got 18"):
        metrics.inside_central_interval(torch.zeros(1, 18, 1), torch.zeros(1, 1), 0.9)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\).*got 90"):
        metrics.inside_central_interval(torch.zeros(1, 18, 1), torch.zeros(1, 1), 90.0)


def test_density_rank_and_coverage(generator):
    samples, truth = randn(4000, 50, 2, generator=generator), randn(4000, 2, generator=generator)
    ranks = metrics.density_rank(-samples.square().sum(-1), -truth.square().sum(-1))
    levels = [0.1, 0.5, 0.9]
    covered = metrics.coverage(ranks, levels)
    torch.testing.assert_close(covered, torch.tensor(levels).double(), atol=0.03, rtol=0)
    by_hand = metrics.density_rank(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([1.5]))
    assert by_hand.item() == 0.5


def test_calibration_error_of_right_narrow_and_point_forecasts(generator):
    truth = randn(1500, 5, 3, generator=generator)
    noise = randn(1500, 100, 5, 3, generator=generator)
    right, narrow, point = (
        metrics.expected_calibration_error(scale * noise, truth).item() for scale in (1, 0.5, 1e-6)
    )
    assert right < 0.03
    assert narrow > 0.2
    # never covered but at q = 1: the mean of q over 0, 0.05, ..., 0.95, and 0
    assert point == pytest.approx(np.linspace(0, 0.95, 20).sum() / 21)


def test_ecdf_band_holds_the_promised_share_of_curves(rng):
    points = np.linspace(0.05, 0.95, 19)
    lower, upper = metrics.ecdf_band(100, points, level=0.9, rng=rng)
    uniform = rng.random((2000, 100))
    curves = (uniform[:, :, None] <= points).mean(1)
    inside = ((curves >= lower) & (curves <= upper)).all(1).mean()
    assert 0.88 < inside < 0.95  # discrete: a little above the level
    narrower = metrics.ecdf_band(1000, points, level=0.9, rng=rng)
    assert (narrower[1] - narrower[0]).max() < (upper - lower).max() / 2
