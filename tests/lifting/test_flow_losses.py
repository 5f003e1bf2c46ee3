import math

import pytest
import torch
from torch import nn

from humr.lifting import flow
from humr.lifting.data import complete
from humr.lifting.flow import Critic
from humr.metrics import mpjpe
from humr.skeletons import CONDITION13, POSE16

HIPS = list(POSE16.indices(["right_hip", "left_hip"]))


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_mean_l1_is_a_mean_over_elements(generator):
    x, y = normal(generator, 3, 16, 2), normal(generator, 3, 16, 2)
    expected = (x - y).abs().reshape(3, 32).sum(1) / 32
    torch.testing.assert_close(flow.mean_l1(x, y), expected)


# ------------------------------------------------------------------------------- MMD


def kernel(x, y):
    squared = ((x - y) ** 2).sum()
    return sum(b / (b + squared) for b in (0.0025, 0.04, 0.81))


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_mmd_term_is_the_double_sum_of_the_paper(estimator, generator):
    z, noise = 0.3 * normal(generator, 5, 16), 0.3 * normal(generator, 5, 16)
    points = 0.1 * normal(generator, 5, 16, 2)
    target = points + 0.1 * normal(generator, 5, 16, 2)
    found = torch.cat([z, points.reshape(5, 32)], -1)
    wanted = torch.cat([noise, target.reshape(5, 32)], -1)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            expected -= 2 / 25 * kernel(found[i], wanted[j])
            own = kernel(found[i], found[j]) + kernel(wanted[i], wanted[j])
            if estimator == "biased":
                expected += own / 25
            elif i != j:
                expected += own / 20
    value = flow.mmd_term(z, points, noise, target, estimator=estimator)
    torch.testing.assert_close(value, expected)


def test_mmd_term_stops_the_gradient_of_the_points(generator):
    z = normal(generator, 5, 16).requires_grad_()
    points = normal(generator, 5, 16, 2).requires_grad_()
    flow.mmd_term(z, points, normal(generator, 5, 16), points.detach()).backward()
    assert points.grad is None
    assert z.grad.abs().sum() > 0


def test_mmd_term_sees_latents_that_depend_on_the_points(generator):
    """Both marginals are right; only the joint distribution is not."""
    points, target = normal(generator, 300, 1, 2), normal(generator, 300, 1, 2)
    noise, z = normal(generator, 300, 2), normal(generator, 300, 2)
    independent = flow.mmd_term(z, points, noise, target)
    dependent = flow.mmd_term(points[:, 0], points, noise, target)
    assert dependent > 5 * independent.abs()


def test_mmd_term_refuses_one_image_and_unknown_estimators(generator):
    z, points = normal(generator, 1, 16), normal(generator, 1, 16, 2)
    with pytest.raises(ValueError, match="needs two or more samples; got 1"):
        flow.mmd_term(z, points, z, points)
    assert flow.mmd_term(z, points, z, points, estimator="biased").item() == pytest.approx(0)
    with pytest.raises(ValueError, match=r"estimator must be one of .* got 'v'"):
        flow.mmd_term(z, points, z, points, estimator="v")


# ------------------------------------------------------------------------- covariance


def rotated(angle, sigma):
    """Covariance of a Gaussian whose axes are turned counter-clockwise, y up."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor(sigma, dtype=torch.float64) ** 2) @ turn.T


def condition_of(covariance, images=1):
    """The same covariance, in square metres, at every joint (in the doubled scale)."""
    values = torch.tensor([covariance[0, 0], covariance[0, 1], covariance[1, 1]]) / 0.01
    rest = torch.zeros(3, dtype=torch.float64)
    return torch.cat([rest, values.double()]).expand(images, 13, 6)


def hypotheses_of(covariance, count, generator):
    """Poses whose joints, but not the hips, scatter with a covariance in x and y."""
    poses = normal(generator, 1, 1, 16, 3).repeat(1, count, 1, 1)
    offset = normal(generator, 1, count, 16, 2) @ torch.linalg.cholesky(covariance).T
    offset[:, :, HIPS] = 0
    poses[..., :2] += offset
    return poses


@pytest.mark.parametrize("angle", [0.4, 1.2, 2.0, 2.9])
def test_sign_of_the_covariance(angle, generator):
    """A right arm that scatters up and to the right is not one that scatters up and to the left.

    The fit's angle runs against the image's axes; with y up, in poses and condition alike, the
    cross term keeps its sign.
    """
    covariance = rotated(angle, (0.20, 0.05))
    hypotheses = hypotheses_of(covariance, 20_000, generator)
    matching = flow.heatmap_covariance(hypotheses, condition_of(covariance))
    mirrored = covariance * torch.tensor([[1, -1], [-1, 1]])
    crossed = flow.heatmap_covariance(hypotheses, condition_of(mirrored))
    assert matching.item() < 1e-3
    assert crossed.item() == pytest.approx(2 * abs(covariance[0, 1].item()), rel=0.1)
    assert crossed > 10 * matching


def test_heatmap_covariance_by_hand(generator):
    """One joint with two hypotheses: variance is half the squared difference."""
    hypotheses = torch.zeros(1, 2, 16, 3, dtype=torch.float64)
    wrist = POSE16.index("left_wrist")
    hypotheses[0, :, wrist, :2] = torch.tensor([[0.1, 0.0], [0.3, 0.6]])
    condition = torch.zeros(1, 13, 6, dtype=torch.float64)
    condition[0, CONDITION13.index("left_wrist"), 3:] = torch.tensor([5.0, 1.0, 6.0])
    # found 0.02, 0.06, 0.18 of targets 0.05, 0.01, 0.06: too narrow in x only
    expected = math.hypot(0.03, -0.05) / 13
    assert flow.heatmap_covariance(hypotheses, condition).item() == pytest.approx(expected)


def test_heatmap_covariance_is_relative_to_the_hips(generator):
    covariance = rotated(0.3, (0.2, 0.1))
    hypotheses = hypotheses_of(covariance, 50, generator)
    moved = hypotheses + normal(generator, 1, 50, 1, 3)
    condition = condition_of(covariance)
    torch.testing.assert_close(
        flow.heatmap_covariance(moved, condition),
        flow.heatmap_covariance(hypotheses, condition),
    )


def test_certain_joints_do_not_count(generator):
    """At 2.1 px and below, along x and along y; one wide direction is enough to count."""
    hypotheses = torch.zeros(1, 3, 16, 3, dtype=torch.float64)
    for sigma, counted in (((2.0, 2.0), False), ((2.0, 2.2), True), ((2.2, 0.2), True)):
        condition = condition_of(rotated(0.0, sigma) / 20**2 * 0.01)
        value = flow.heatmap_covariance(hypotheses, condition)
        assert (value > 0).item() == counted


def test_a_pixel_is_ten_millimetres_of_uncertain_joints():
    """Doubled conditions at 5 mm a pixel and plain ones at 10 mm ask for the same covariance."""
    wide, sharp = (5.0 / 20) ** 2, (1.0 / 20) ** 2
    plain = torch.tensor([0, 0, 0, wide, 0, sharp]).double().expand(13, 6)
    doubled = torch.tensor([0, 0, 0, 4 * wide, 0, sharp]).double().expand(13, 6)
    one = flow.target_covariance(plain, doubled=False)[0]
    other = flow.target_covariance(doubled)[0]
    torch.testing.assert_close(one, torch.tensor([0.05**2, 0, 0.010**2]).double())
    torch.testing.assert_close(other, torch.tensor([0.05**2, 0, 0.005**2]).double())


def test_gradient_of_the_covariance(generator):
    hypotheses = (0.02 * normal(generator, 2, 4, 16, 3)).requires_grad_()
    condition = condition_of(rotated(0.7, (0.2, 0.1)), 2)
    assert torch.autograd.gradcheck(
        lambda x: flow.heatmap_covariance(x, condition), hypotheses, fast_mode=True
    )
    collapsed = torch.zeros(1, 3, 16, 3, dtype=torch.float64, requires_grad=True)
    flow.heatmap_covariance(collapsed, torch.zeros(1, 13, 6).double()).sum().backward()
    assert collapsed.grad.isfinite().all()


def test_one_hypothesis_has_no_covariance():
    with pytest.raises(ValueError, match="needs two or more hypotheses; got 1"):
        flow.heatmap_covariance(torch.zeros(2, 1, 16, 3), torch.zeros(2, 13, 6))


# -------------------------------------------------------------------------- best of M


def test_best_of_one_is_the_best_hypothesis(generator):
    hypotheses, pose = normal(generator, 3, 9, 16, 3), normal(generator, 3, 16, 3)
    value = flow.best_hypotheses(hypotheses, pose, best_of=1)
    for image in range(3):
        error = mpjpe(complete(hypotheses[image]), complete(pose[image]))
        best = complete(hypotheses[image])[error.argmin()]
        expected = (best - complete(pose[image])).abs().sum() / 51
        torch.testing.assert_close(value[image], expected)


def test_best_of_all_is_the_mean_and_averages_before_it_measures(generator):
    hypotheses, pose = normal(generator, 3, 9, 16, 3), normal(generator, 3, 16, 3)
    value = flow.best_hypotheses(hypotheses, pose, best_of=9)
    expected = (complete(hypotheses.mean(1)) - complete(pose)).abs().flatten(1).mean(1)
    torch.testing.assert_close(value, expected)
    around = pose[:, None] + torch.stack([hypotheses[:, 0], -hypotheses[:, 0]], 1)
    value = flow.best_hypotheses(around, pose, best_of=2)
    torch.testing.assert_close(value, torch.zeros(3).double())


def test_only_the_best_are_moved(generator):
    hypotheses = normal(generator, 1, 6, 16, 3).requires_grad_()
    pose = normal(generator, 1, 16, 3)
    flow.best_hypotheses(hypotheses, pose, best_of=2).sum().backward()
    moved = (hypotheses.grad[0].abs().sum((1, 2)) > 0).nonzero()[:, 0]
    error = mpjpe(complete(hypotheses[0]), complete(pose))
    assert set(moved.tolist()) == set(error.argsort()[:2].tolist())


@pytest.mark.parametrize("best_of", [0, 4])
def test_more_best_than_hypotheses_is_refused(best_of):
    with pytest.raises(ValueError, match=rf"best_of must lie in 1\.\.3, .* got {best_of}"):
        flow.best_hypotheses(torch.zeros(1, 3, 16, 3), torch.zeros(1, 16, 3), best_of=best_of)


# ----------------------------------------------------------------------------- critic


class Plane(nn.Module):
    """A critic with a known gradient everywhere."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(slope)

    def forward(self, pose):
        return (pose * self.slope).sum((-1, -2))


def test_gradient_penalty_of_a_plane(generator):
    slope = normal(generator, 16, 3)
    real, fake = normal(generator, 4, 16, 3), normal(generator, 4, 16, 3)
    value = flow.gradient_penalty(Plane(slope), real, fake, torch.rand(4).double())
    torch.testing.assert_close(value, ((slope.norm() - 1) ** 2).expand(4))
    value = flow.gradient_penalty(Plane(slope / slope.norm()), real, fake, torch.rand(4).double())
    torch.testing.assert_close(value, torch.zeros(4).double())


def test_gradient_penalty_of_the_critic_against_autograd(generator):
    torch.manual_seed(0)
    critic = Critic(hidden=12, bones_hidden=20).double()
    real, fake = normal(generator, 3, 16, 3), normal(generator, 3, 16, 3).requires_grad_()
    share = torch.tensor([0.0, 0.3, 1.0]).double()
    value = flow.gradient_penalty(critic, real, fake, share)
    mixed = [fake[0].detach(), 0.3 * real[1] + 0.7 * fake[1].detach(), real[2]]
    expected = []
    for pose in mixed:
        jacobian = torch.autograd.functional.jacobian(critic, pose)
        expected.append((jacobian.flatten().norm() - 1) ** 2)
    torch.testing.assert_close(value, torch.stack(expected))
    value.sum().backward()
    assert fake.grad is None
    assert critic.bones1.weight.grad.abs().sum() > 0


def test_gradient_penalty_has_the_right_derivative_by_the_weights(generator):
    torch.manual_seed(0)
    critic = Critic(hidden=6, bones_hidden=8).double()
    real, fake = normal(generator, 3, 16, 3), normal(generator, 3, 16, 3)
    share = torch.rand(3, generator=generator).double()

    def penalty():
        return flow.gradient_penalty(critic, real, fake, share).sum()

    penalty().backward()
    weight, step = critic.both1.weight, 1e-6
    weight.data[0, 0] += step
    above = penalty().item()
    weight.data[0, 0] -= 2 * step
    below = penalty().item()
    assert weight.grad[0, 0].item() == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_critic_and_flow_pull_in_opposite_directions(generator):
    critic = Plane(normal(generator, 16, 3))
    real, fake = normal(generator, 4, 16, 3), normal(generator, 4, 16, 3)
    gap = flow.critic_gap(critic, real, fake)
    torch.testing.assert_close(gap, critic(fake) - critic(real))
    torch.testing.assert_close(flow.generator_score(critic, fake), -critic(fake))
