import math
from dataclasses import replace

import pytest
import torch

from humr.lifting.config import LiftingModel
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.flow import (
    GAUSSIANS,
    LATENT,
    POINTS,
    POSE,
    ConditionNet,
    Critic,
    LiftingFlow,
    bone_matrix,
    kinematic_chain,
)
from humr.skeletons import POSE16

SMALL = LiftingModel(blocks=3, hidden=24, condition_hidden=16, condition_width=8)


def fake_batch(count, generator, dtype=torch.float64):
    """Made-up poses, points that are roughly their projections, and Gaussians."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    pose = 0.3 * normal(count, 16, 3)
    pose = pose - pose.mean(1, keepdim=True)
    points = normal(count, 16, 2)
    points = points - points.mean(1, keepdim=True)
    points = points / points.flatten(1).std(1)[:, None, None]
    axes = 0.2 * normal(count, 13, 2, 2)
    covariance = axes @ axes.mT
    condition = torch.cat(
        [
            torch.rand(count, 13, 1, generator=generator, dtype=dtype),
            normal(count, 13, 2),
            covariance[..., :1, 0],
            covariance[..., :1, 1],
            covariance[..., 1:, 1],
        ],
        -1,
    )
    return LiftingBatch(pose, points, condition, complete(pose))


@pytest.fixture
def batch(generator):
    return fake_batch(3, generator)


def build(config=SMALL, **options):
    torch.manual_seed(0)
    return LiftingFlow(replace(config, init_std=0.2), **options).double()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ------------------------------------------------------------------------------ flow


def test_sizes_are_those_of_the_official_code():
    model = LiftingFlow(LiftingModel(hidden=1028))
    assert (POSE, LATENT, POINTS, GAUSSIANS) == (48, 16, 32, 78)
    assert count(model.flow) == 2_122_560
    assert isinstance(model.encoder, ConditionNet)
    assert count(model.encoder) == 34_616
    assert count(model) == 2_157_176
    assert count(Critic()) == 2_404_401


def test_all_parameters_of_the_flow_start_normal():
    torch.manual_seed(0)
    model = LiftingFlow(LiftingModel())
    for parameter in model.flow.parameters():
        assert parameter.std().item() == pytest.approx(0.05, rel=0.4)
    everything = torch.cat([p.flatten() for p in model.flow.parameters()])
    assert everything.std().item() == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("coupling", ["affine", "affine_paper_clamp"])
def test_lift_inverts_forward_pose(coupling, condition, batch):
    model = build(replace(SMALL, coupling=coupling, condition=condition))
    projected = model.project(batch)
    z, points, _ = model.forward_pose(batch.pose, projected)
    back = model.lift(z[:, None], points, projected)[:, 0]
    assert (points - batch.points).abs().max() > 0.1
    torch.testing.assert_close(back, batch.pose, atol=1e-10, rtol=0)
    z, points = z[:, None], batch.points
    poses = model.lift(z, points, projected)
    latent, projection, _ = model.forward_pose(poses[:, 0], projected)
    torch.testing.assert_close(latent, z[:, 0], atol=1e-10, rtol=0)
    torch.testing.assert_close(projection, points, atol=1e-10, rtol=0)


def test_lift_inverts_forward_pose_at_full_size_in_single_precision(generator):
    torch.manual_seed(0)
    model = LiftingFlow(LiftingModel())
    batch = fake_batch(8, generator, torch.float32)
    projected = model.project(batch)
    with torch.no_grad():
        z, points, _ = model.forward_pose(batch.pose, projected)
        back = model.lift(z[:, None], points, projected)[:, 0]
    assert (back - batch.pose).abs().max() < 1e-5


def test_hypotheses_of_an_image_keep_to_its_points_and_its_condition(batch, generator):
    model = build()
    projected = model.project(batch)
    z = torch.randn(3, 5, LATENT, generator=generator, dtype=torch.float64)
    poses = model.lift(z, batch.points, projected)
    for image in range(3):
        alone = model.lift(z[image : image + 1], batch.points[image : image + 1],
                           model.project(batch[image : image + 1]))  # fmt: skip
        torch.testing.assert_close(alone[0], poses[image])
        for hypothesis in range(5):
            own = projected[image : image + 1]
            latent, points, _ = model.forward_pose(poses[image, hypothesis][None], own)
            torch.testing.assert_close(points[0], batch.points[image])
            torch.testing.assert_close(latent[0], z[image, hypothesis])


def test_the_condition_matters_unless_switched_off(batch):
    other = replace(batch, condition=batch.condition.flip(0) + 1)
    with_condition, without = build(), build(replace(SMALL, condition=False))
    assert without.encoder is None
    assert not torch.allclose(with_condition.mode(batch), with_condition.mode(other))
    assert torch.equal(without.mode(batch), without.mode(other))


def test_vectors_are_joint_major_with_the_latent_first(batch):
    model = build()
    projected = model.project(batch)
    z, points, _ = model.forward_pose(batch.pose, projected)
    vector, _ = model.flow.normalize(batch.pose.reshape(3, 1, 48), projected)
    torch.testing.assert_close(vector[:, 0, :16], z)
    torch.testing.assert_close(vector[:, 0, 16:18], points[:, 0])


def test_sample_and_mode_have_the_pelvis_at_the_origin(batch, generator):
    model = build()
    samples = model.sample(batch, 7, generator=generator)
    assert samples.shape == (3, 7, 17, 3)
    assert not samples.requires_grad
    assert samples.std(1)[:, 1:].min() > 0
    hips = samples[:, :, [1, 4]].mean(2)
    torch.testing.assert_close(hips, torch.zeros_like(hips))
    z = torch.zeros(3, 1, LATENT, dtype=torch.float64)
    expected = complete(model.lift(z, batch.points, model.project(batch))[:, 0])
    torch.testing.assert_close(model.mode(batch), expected)
    again = model.sample(batch, 7, generator=torch.Generator().manual_seed(5))
    assert torch.equal(again, model.sample(batch, 7, generator=torch.Generator().manual_seed(5)))


def test_a_batch_of_one_and_of_none(batch, generator):
    model = build()
    assert model.sample(batch[:1], 1, generator=generator).shape == (1, 1, 17, 3)
    assert model.mode(batch[:0]).shape == (0, 17, 3)


def test_a_condition_of_other_joints_is_refused(batch):
    wrong = replace(batch)
    object.__setattr__(
        wrong, "condition", batch.condition[:, :12]
    )  # past the shape check of tests
    with pytest.raises(ValueError, match=r"condition must be batch x 13 x 6; got \(3, 12, 6\)"):
        build().project(wrong)


# ---------------------------------------------------------------------------- density


def test_log_prob_is_the_change_of_variables(batch):
    model = build(noisy=True)
    model.scaled_log_std.data.copy_(torch.linspace(-0.2, 0.1, 32))
    found = model.log_prob(batch)
    for i in range(3):
        one = batch[i : i + 1]
        projected = model.project(one)

        def output(flat, projected=projected):
            z, points, _ = model.forward_pose(flat.reshape(1, 16, 3), projected)
            return torch.cat([z.flatten(), points.flatten()])

        flat = one.pose.flatten()
        jacobian = torch.autograd.functional.jacobian(output, flat)
        mean = torch.cat([torch.zeros(16), one.points.flatten()])
        std = torch.cat([torch.ones(16), model.std])
        base = torch.distributions.Normal(mean.double(), std).log_prob(output(flat)).sum()
        torch.testing.assert_close(found[i], base + torch.linalg.slogdet(jacobian)[1])


def test_noisy_hypotheses_come_from_the_density(batch, generator):
    """Their latents are standard normal, their 2D poses normal around y with the learned width."""
    model = build(noisy=True)
    model.scaled_log_std.data.copy_(torch.linspace(-0.2, 0.1, 32))
    one = batch[:1]
    projected = model.project(one)
    poses = model.hypotheses(one.points, projected, 4000, generator=generator)
    vector, _ = model.flow.normalize(poses.flatten(2), projected)
    z, points = vector[0].split([16, 32], -1)
    std = torch.linspace(-2, 1, 32).double().exp()
    torch.testing.assert_close(z.std(0), torch.ones_like(z[0]), rtol=0.06, atol=0)
    error = (points - one.points.flatten()) / std
    torch.testing.assert_close(error.std(0), torch.ones_like(error[0]), rtol=0.06, atol=0)
    assert (error.mean(0).abs() < 0.08).all()


def test_noisy_models_start_narrow_and_others_have_no_density(batch):
    model = build(noisy=True)
    torch.testing.assert_close(model.std, torch.full((32,), 0.1).double())
    assert count(model) == count(build()) + 32
    with pytest.raises(ValueError, match="only a noisy model has a density"):
        build().log_prob(batch)


def test_density_gives_every_parameter_a_gradient(batch):
    model = build(noisy=True)
    model.log_prob(batch).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


# ----------------------------------------------------------------------------- critic


def chain():
    """A pose whose bones are easy: unit steps along known axes."""
    places = {
        "right_hip": (0, 0, 0), "right_knee": (0, -2, 0), "right_ankle": (0, -2, 3),
        "left_hip": (1, 0, 0), "left_knee": (1, -2, 0), "left_ankle": (1, -4, 0),
        "spine": (0.5, 2, 0), "thorax": (0.5, 4, 0), "nose": (0.5, 4, 1),
        "head_top": (0.5, 5, 1), "left_shoulder": (2.5, 4, 0), "left_elbow": (4.5, 4, 0),
        "left_wrist": (4.5, 4, 4), "right_shoulder": (-1.5, 4, 0),
        "right_elbow": (-1.5, 1, 0), "right_wrist": (-4.5, 1, 4),
    }  # fmt: skip
    return torch.tensor([places[name] for name in POSE16.names], dtype=torch.float64)


def test_bone_matrix_holds_the_published_columns():
    """Start and end of every column in the official code's order, the last three by hand."""
    published = [(0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (7, 10), (10, 11),
                 (11, 12), (7, 13), (13, 14), (14, 15), (0, 3), (0, 6), (3, 6)]  # fmt: skip
    matrix = bone_matrix()
    assert matrix.shape == (16, 16)
    for column, (start, end) in zip(matrix.T, published, strict=True):
        expected = torch.zeros(16)
        expected[start], expected[end] = 1, -1
        assert torch.equal(column, expected)


def test_kinematic_chain_holds_lengths_and_angles():
    psi = kinematic_chain(chain(), bone_matrix().double())
    lengths = psi.diagonal().sqrt()
    expected = [2, 3, 2, 2, 2, 1, 1, 2, 2, 4, 2, 3, 5]
    torch.testing.assert_close(lengths[:13], torch.tensor(expected).double())
    side = math.hypot(0.5, 2)
    torch.testing.assert_close(lengths[13:], torch.tensor([1, side, side]).double())
    cosine = psi / lengths[:, None] / lengths
    assert cosine[0, 1].item() == pytest.approx(0)  # right knee bent by 90 degrees
    assert cosine[2, 3].item() == pytest.approx(1)  # left knee straight
    assert cosine[7, 10].item() == pytest.approx(-1)  # shoulders opposite each other
    assert cosine[11, 12].item() == pytest.approx(0)  # right elbow
    hips_and_spine = cosine[13, 14].item()  # at the right hip, between left hip and spine
    assert hips_and_spine == pytest.approx(0.5 / side)


def test_kinematic_chain_is_blind_to_rigid_motion_and_mirrors(generator):
    pose = torch.randn(2, 16, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    matrix = bone_matrix().double()
    moved = pose @ turn.T + 5
    torch.testing.assert_close(kinematic_chain(moved, matrix), kinematic_chain(pose, matrix))
    assert not torch.allclose(kinematic_chain(2 * pose, matrix), kinematic_chain(pose, matrix))


def test_kinematic_chain_is_not_rounded_under_autocast(device, generator):
    pose, matrix = torch.randn(2, 16, 3, generator=generator).to(device), bone_matrix().to(device)
    with torch.autocast(device.type, torch.bfloat16):
        found = kinematic_chain(pose, matrix)
    assert torch.equal(found, kinematic_chain(pose, matrix))


def test_critic_scores_each_pose_by_itself(generator):
    torch.manual_seed(0)
    critic = Critic(hidden=12, bones_hidden=20).double()
    poses = torch.randn(2, 3, 16, 3, generator=generator, dtype=torch.float64)
    scores = critic(poses)
    assert scores.shape == (2, 3)
    torch.testing.assert_close(critic(poses[1, 2]), scores[1, 2])
    scores.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in critic.parameters())


def test_critic_paths_end_linear(generator):
    """Beyond the last rectifier of the path of joints, its last layer scales the score."""
    torch.manual_seed(0)
    critic = Critic(hidden=12, bones_hidden=20).double()
    pose = torch.randn(5, 16, 3, generator=generator, dtype=torch.float64)
    leaky = torch.nn.functional.leaky_relu
    one = leaky(critic.pose1(pose.flatten(1)), 0.01)
    joints = critic.pose4(leaky(critic.pose3(leaky(critic.pose2(one), 0.01)) + one, 0.01))
    psi = kinematic_chain(pose, critic.matrix).flatten(1)
    one = leaky(critic.bones1(psi), 0.01)
    bones = critic.bones3(leaky(critic.bones2(one), 0.01)) + one
    both = leaky(critic.both1(torch.cat([joints, bones], -1)), 0.01)
    torch.testing.assert_close(critic(pose), critic.both2(both)[:, 0])
