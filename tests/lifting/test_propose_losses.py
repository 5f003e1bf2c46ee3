import math

import pytest
import torch

from humr.lifting import propose
from humr.lifting.propose import Gaussian
from tests.lifting.test_propose import normal


def test_joint_error_is_a_sum_of_norms_that_are_not_squared():
    target = normal(2, 16, 3)
    moved = target + target.new_tensor([3, 4, 0])
    torch.testing.assert_close(propose.joint_error(moved, target), target.new_full((2,), 16 * 5))
    assert not propose.joint_error(target, target).any()


def test_point_error_is_a_sum_of_absolute_values():
    target = normal(2, 16, 2)
    moved = target + target.new_tensor([3, -4])
    torch.testing.assert_close(propose.point_error(moved, target), target.new_full((2,), 16 * 7))


def test_latent_nll_is_that_of_the_equation():
    noise, log_det, base = (
        normal(2, 3, 4),
        normal(2, 3, seed=1),
        Gaussian(normal(2, 4), normal(2, 4)),
    )
    mean, std = base.mean[:, None], base.log_std.exp()[:, None]
    summed = (std.log() + 0.5 * (noise - mean) ** 2 / std**2 + 0.5 * math.log(2 * math.pi)).sum(-1)
    torch.testing.assert_close(
        propose.latent_nll(noise, log_det, base), (summed - log_det).mean(-1)
    )


def test_latent_nll_is_bounded_by_the_entropy(generator):
    dim, std = 3, 0.1
    mean = normal(1, dim)
    samples = Gaussian(mean, torch.full_like(mean, math.log(std))).at(
        torch.randn(1, 100_000, dim, generator=generator, dtype=torch.float64)
    )
    entropy = propose.latent_entropy(dim, std)
    identity = samples.new_zeros(1, 100_000)
    reached = propose.latent_nll(
        samples, identity, Gaussian(mean, torch.full_like(mean, math.log(std)))
    )
    assert reached.item() == pytest.approx(entropy, abs=0.02)
    for shift, log_scale in ((0.05, 0.0), (0.0, 0.2), (0.0, -0.2)):
        base = Gaussian(mean + shift, torch.full_like(mean, math.log(std) + log_scale))
        assert propose.latent_nll(samples, identity, base).item() > entropy + 0.05
    # a flow that scales all by 7 pays for it with its determinant: the bound stays
    scaled = Gaussian(7 * mean, torch.full_like(mean, math.log(7 * std)))
    log_det = identity + dim * math.log(7)
    torch.testing.assert_close(propose.latent_nll(7 * samples, log_det, scaled), reached)


def test_entropy_is_that_of_torch():
    expected = torch.distributions.Normal(0.0, 0.3).entropy() * 5
    assert propose.latent_entropy(5, 0.3) == pytest.approx(expected.item(), rel=1e-6)


def test_mode_to_mode_vanishes_with_the_distance_and_so_does_its_gradient():
    base = Gaussian(normal(2, 4), normal(2, 4, seed=1))
    image = base.mean.clone().requires_grad_()
    loss = propose.mode_to_mode(image, base)
    assert not loss.any()
    assert not torch.autograd.grad(loss.sum(), image)[0].any()  # and is not NaN
    moved = base.mean + base.mean.new_tensor([3, 0, 4, 0])
    torch.testing.assert_close(propose.mode_to_mode(moved, base), moved.new_full((2,), 5))


def test_divergence_against_torch():
    mean, log_std = normal(2, 4), normal(2, 4, seed=1)
    posterior = torch.distributions.Normal(mean, log_std.exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(posterior, standard).sum(-1)
    torch.testing.assert_close(propose.divergence(Gaussian(mean, log_std)), expected)
    zeros = torch.zeros_like(mean)
    assert not propose.divergence(Gaussian(zeros, zeros)).any()


def test_best_of_many_takes_the_mean_before_the_distance():
    target = normal(2, 16, 3)
    shift = normal(2, 1, 16, 3, seed=1)
    both = torch.cat([target[:, None] + shift, target[:, None] - shift], 1)
    torch.testing.assert_close(propose.best_of_many(both, target), target.new_zeros(2))
    torch.testing.assert_close(
        propose.best_of_many(both[:, :1], target), propose.joint_error(both[:, 0], target)
    )


def test_discriminator_counts_made_poses_up_to_the_margin():
    real, fake = torch.tensor([0.2, 0.2, 0.2]), torch.tensor([0.0, 0.7, 1.5])
    loss = propose.discriminator(real, fake, margin=1.0)
    torch.testing.assert_close(loss, torch.tensor([1.2, 0.5, 0.2]))


def test_pulling_away_by_hand():
    code = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, -3.0]])
    # cosines: 1-2 sqrt(1/2), 1-3 0, 2-3 -sqrt(1/2)
    torch.testing.assert_close(propose.pulling_away(code), torch.tensor([0.25, 0.5, 0.25]))


def test_pulling_away_is_the_double_sum_of_the_paper():
    code = normal(5, 3)
    double_sum = sum(
        (code[i] @ code[j] / code[i].norm() / code[j].norm()) ** 2
        for i in range(5)
        for j in range(5)
        if i != j
    )
    torch.testing.assert_close(propose.pulling_away(code).mean(), double_sum / (5 * 4))
    torch.testing.assert_close(propose.pulling_away(7 * code), propose.pulling_away(code))


def test_pulling_away_of_one_pose_is_zero():
    code = normal(1, 3).requires_grad_()
    loss = propose.pulling_away(code)
    assert loss.tolist() == [0.0]
    assert not torch.autograd.grad(loss.sum(), code)[0].any()
