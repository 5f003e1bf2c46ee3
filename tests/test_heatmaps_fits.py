"""Tests of humr.heatmaps: Gaussians by least squares, against SciPy's."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit

from humr import heatmaps
from humr.experiments import profiles
from humr.heatmaps import fit_gaussian
from humr.world import generate
from tests.test_heatmaps import COLUMNS, ROWS, gaussian

CASES = [
    (0.7, 20.3, 31.2, 5.0, 0.6, 2.0),
    (0.9, 40.0, 10.0, 1.2, 0.0, 1.2),
    (0.4, 30.5, 30.1, 9.0, 2.2, 3.0),
    (0.5, 32.0, 32.0, 4.0, math.pi / 4, 2.0),  # where a round start in theta is a saddle
    (0.6, 62.0, 1.0, 3.0, 1.4, 2.0),
]


def test_fit_recovers_exact_gaussians():
    fit = fit_gaussian(torch.stack([gaussian(*case) for case in CASES]).double())
    assert fit.converged.all()
    assert fit.rmse.max() < 1e-6
    for i, (amplitude, x, y, sigma_x, theta, sigma_y) in enumerate(CASES):
        assert fit.amplitude[i] == pytest.approx(amplitude, rel=1e-4)
        np.testing.assert_allclose(fit.mean[i], [x, y], atol=1e-4)
        np.testing.assert_allclose(fit.sigma[i], [sigma_x, sigma_y], rtol=1e-4)
        if sigma_x > sigma_y:
            assert fit.theta[i] == pytest.approx(theta, abs=1e-4)


def test_fit_covariance_is_in_image_axes():
    heatmap = gaussian(0.7, 30.2, 33.6, 5.0, 0.6, 2.0)
    fit = fit_gaussian(heatmap)
    torch.testing.assert_close(
        fit.covariance.float(), heatmaps.covariance(heatmap), rtol=1e-3, atol=1e-3
    )
    assert fit.covariance[0, 1] < 0  # theta > 0 leans up to the right, and y is down


def curve_fit_gaussian(heatmap, x, y, *, start):
    """What ICCV 2021 does; returns its root mean square error as well."""
    y_grid, x_grid = np.mgrid[0 : heatmap.shape[0], 0 : heatmap.shape[1]].astype(float)

    def model(_, *p):
        return gaussian(*p, x=x_grid, y=y_grid).ravel()

    p0 = (heatmap.max(), x, y, 2.0, start, 2.0)
    best, _ = curve_fit(model, None, heatmap.ravel(), p0=p0, ftol=1e-10, xtol=1e-10)
    return best, np.sqrt(np.mean((model(None, *best) - heatmap.ravel()) ** 2))


def test_fit_equals_curve_fit_on_noisy_maps(rng):
    y, x = np.mgrid[0:64, 0:64].astype(float)
    clean = np.stack([gaussian(*case, x=x, y=y) for case in CASES])
    noisy = (clean + 0.05 * rng.random(clean.shape) + 0.02).clip(0, 1)
    fit = fit_gaussian(torch.from_numpy(noisy))
    assert fit.converged.all()
    for i, case in enumerate(CASES):
        best, theirs = curve_fit_gaussian(noisy[i], case[1], case[2], start=0.1)
        assert fit.rmse[i] == pytest.approx(theirs, rel=1e-5)
        assert fit.amplitude[i] == pytest.approx(best[0], rel=1e-3)
        np.testing.assert_allclose(fit.mean[i], best[1:3], atol=1e-3)
        np.testing.assert_allclose(sorted(fit.sigma[i]), sorted(abs(best[[3, 5]])), rtol=1e-3)


@pytest.fixture(scope="module")
def real_maps():
    """Of the detector, on six renders: sharp, wide and two-fold ones."""
    recipe = replace(profiles.profile("laptop").run.world, backgrounds=2)
    images = generate.views(recipe, "test", 0, 0, 6).images
    found = generate.detect(generate.scenes(recipe, "test", 0)[:6], images)
    return torch.stack([torch.as_tensor(one.heatmaps) for one in found]).flatten(0, 1)


def test_fit_equals_curve_fit_on_real_maps(real_maps):
    fit = fit_gaussian(real_maps)
    assert fit.converged.all()
    same = []
    for i, heatmap in enumerate(real_maps.double().numpy()):
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        best, theirs = curve_fit_gaussian(heatmap, x, y, start=0.1)
        assert fit.rmse[i] < theirs * 1.05  # where there are two optima, not a much worse one
        same.append(np.abs(fit.mean[i].numpy() - best[1:3]).max() < 1e-3)
    assert np.mean(same) >= 0.98


def full_gradient(heatmap, fit, i):
    """Derivatives of half the squared error over all cells: none is left at the optimum."""
    shape = [fit.amplitude[i], *fit.mean[i], fit.sigma[i, 0], fit.theta[i], fit.sigma[i, 1]]
    p = torch.stack(shape).double().requires_grad_()
    a, b, c = p[4].cos(), p[4].sin(), torch.stack([ROWS, COLUMNS]).double()
    dx, dy = c[1] - p[1], c[0] - p[2]
    along, across = (a * dx - b * dy) / p[3], (b * dx + a * dy) / p[5]
    predicted = p[0] * (-(along**2 + across**2) / 2).exp()
    error = (predicted - heatmap.double()).square().sum() / 2
    (gradient,) = torch.autograd.grad(error, p)
    return gradient, predicted.detach().square().sum()


def test_windows_leave_no_gradient_on_the_whole_map(real_maps):
    fit = fit_gaussian(real_maps)
    for i in range(0, len(real_maps), 5):
        gradient, power = full_gradient(real_maps[i], fit, i)
        scale = fit.sigma[i].prod().sqrt()  # a step of one sigma changes f by its norm
        assert (gradient[1:3].abs() * scale < 1e-3 * power).all()
        assert gradient[0].abs() * fit.amplitude[i] < 1e-3 * power


def test_fit_does_not_depend_on_the_batch(real_maps):
    together = fit_gaussian(real_maps[:34])
    alone = [fit_gaussian(heatmap) for heatmap in real_maps[:34]]
    torch.testing.assert_close(together.mean, torch.stack([a.mean for a in alone]))
    torch.testing.assert_close(together.rmse, torch.stack([a.rmse for a in alone]))


@pytest.mark.parametrize("shape", [(6, 8), (20, 17), (35, 35), (48, 80)])
def test_fit_on_maps_of_any_size(shape):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    height, width = shape
    truth = (0.8, width * 0.6, height * 0.4, width / 8, 0.3, height / 8)
    fit = fit_gaussian(torch.from_numpy(gaussian(*truth, x=x, y=y)))
    assert fit.converged
    np.testing.assert_allclose(fit.mean, truth[1:3], atol=1e-4)


def test_fit_of_no_map():
    assert fit_gaussian(torch.zeros(0, 17, 64, 64)).mean.shape == (0, 17, 2)


def test_fit_of_a_constant_map_is_flat():
    fit = fit_gaussian(torch.full((64, 64), 0.5))
    assert fit.rmse < 1e-6
    assert fit.sigma.min() > 1000


def test_fit_of_noise_is_no_worse_than_a_constant(generator):
    maps = torch.rand(8, 64, 64, generator=generator)
    fit = fit_gaussian(maps)
    assert (fit.rmse < maps.std((-2, -1)) * 1.001).all()


@pytest.mark.parametrize(
    "bad", [torch.zeros(9, 9), torch.full((9, 9), torch.nan), torch.linspace(-1, 1, 81).view(9, 9)]
)
def test_bad_heatmaps_are_refused(bad):
    with pytest.raises(ValueError, match="finite, non-negative and not all zero"):
        fit_gaussian(torch.stack([torch.ones(9, 9), bad]))


def test_fit_keeps_leading_axes():
    maps = torch.stack([gaussian(*case) for case in CASES[:4]]).reshape(2, 2, 64, 64)
    fit = fit_gaussian(maps)
    assert fit.amplitude.shape == (2, 2)
    assert fit.covariance.shape == (2, 2, 2, 2)
    assert fit_gaussian(maps[0, 0]).mean.shape == (2,)


def test_fit_says_when_it_did_not_settle():
    other = gaussian(0.3, 34, 30, 4, 1, 2)
    maps = torch.stack([gaussian(*CASES[0]) + other, gaussian(*CASES[2]) + other])
    short, full = fit_gaussian(maps, iterations=1), fit_gaussian(maps)
    assert full.converged.all()
    assert not short.converged.any()
    assert (short.rmse > full.rmse).all()
