from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from humr.lifting.config import ProposeModel
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.propose import (
    AdaptiveLearner,
    ConditionedMLP,
    Discriminator,
    Gaussian,
    InstanceLearner,
    Propose,
    residual_mlp,
)

SMALL = ProposeModel(width=6, hidden=20, critic_hidden=16, blocks=2, flow_hidden=12)
CONTROLS = {
    "full": SMALL,
    "instance": replace(SMALL, instance="normal"),
    "adaptive": replace(SMALL, adaptive="normal"),
}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fake_batch(count=3):
    pose = 0.3 * normal(count, 16, 3)
    pose = pose - pose.mean(1, keepdim=True)
    return LiftingBatch(
        pose, normal(count, 16, 2, seed=1), normal(count, 13, 6, seed=2), complete(pose)
    )


def propose(config=SMALL):
    torch.manual_seed(0)
    return Propose(config).double()


@pytest.fixture(params=CONTROLS.values(), ids=CONTROLS)
def model(request):
    return propose(request.param)


@pytest.fixture
def batch():
    return fake_batch()


def test_gaussians_have_the_density_and_the_samples_of_torchs(generator):
    mean, log_std = normal(2, 4), normal(2, 4, seed=1)
    ours, theirs = Gaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    x = normal(5, 2, 4, seed=2)
    torch.testing.assert_close(ours.log_prob(x.movedim(0, 1)).T, theirs.log_prob(x).sum(-1))
    samples = ours.at(torch.randn(2, 20_000, 4, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(samples.mean(1), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(1), log_std.exp(), atol=0.05, rtol=0.03)


def test_the_projected_first_layer_equals_concatenation():
    torch.manual_seed(0)
    net = ConditionedMLP(4, 3, context=5, hidden=8, layers=2).double()
    x, context = normal(2, 7, 4), normal(2, 5, seed=1)
    both = torch.cat([x, context[:, None].expand(2, 7, 5)], -1)
    torch.testing.assert_close(net(x, context), net.rest(net.first(both)))
    torch.testing.assert_close(net(x, context)[1, 3], net(x[1:, 3:4], context[1:])[0, 0])


def test_residual_networks_by_hand():
    torch.manual_seed(0)
    net = residual_mlp(3, 2, hidden=5, layers=1).double()
    x = normal(4, 3)
    kept = x.clone()
    hidden = functional.leaky_relu(net[0](x))
    hidden = hidden + functional.leaky_relu(net[2].linear(hidden))
    torch.testing.assert_close(net(x), net[3](hidden))
    assert (x == kept).all()


@pytest.mark.parametrize(("inputs", "context"), [(3, 5), (4, 4)])
def test_conditioned_networks_refuse_other_sizes(inputs, context):
    net = ConditionedMLP(4, 3, context=5, hidden=8, layers=1)
    with pytest.raises(ValueError, match=r"expected \(batch, hypotheses, 4\) and a context"):
        net(torch.zeros(2, 7, inputs), torch.zeros(2, context))


def test_latent_means_stay_within_the_soft_clamp(batch):
    instance, adaptive = InstanceLearner(SMALL).double(), AdaptiveLearner(SMALL).double()
    for parameter in (*instance.parameters(), *adaptive.parameters()):
        parameter.data.mul_(50)
    labelled, seen = instance.encode(batch.pose, batch.points), adaptive(batch.points)
    for gaussian in (labelled, seen):
        assert 0.9 * SMALL.limit < gaussian.mean.abs().max() < SMALL.limit
    assert 1.8 < seen.log_std.abs().max() < 2


def test_the_instance_gaussian_has_a_fixed_standard_deviation(batch):
    gaussian = propose(replace(SMALL, std=0.3)).latent(batch)
    torch.testing.assert_close(gaussian.log_std.exp(), torch.full_like(gaussian.mean, 0.3))
    assert gaussian.mean.std(0).min() > 0


def test_what_the_controls_replace(batch):
    instance, adaptive = propose(CONTROLS["instance"]), propose(CONTROLS["adaptive"])
    for standard in (instance.latent(batch), adaptive.base(batch.points)):
        assert standard.mean.shape == (3, SMALL.width)
        assert not standard.mean.any()
        assert not standard.log_std.any()  # standard deviation 1
    posterior = instance.instance.encode(batch.pose, batch.points)
    assert posterior.log_std.std() > 0  # learned
    assert instance.base(batch.points).mean.abs().min() > 0
    assert adaptive.adaptive is None
    assert not any("adaptive" in name for name in adaptive.state_dict())
    sizes = [sum(p.numel() for p in propose(c).parameters()) for c in CONTROLS.values()]
    assert sizes[1] == sizes[0] + SMALL.width * (SMALL.hidden + 1)
    assert sizes[2] < sizes[0]


def test_latent_density_against_the_jacobian(model, batch):
    latent = normal(3, 2, SMALL.width, seed=5)
    density = model.latent_log_prob(latent, batch.points)
    base, condition = model.base(batch.points), model.flow.project(batch.points.flatten(1))
    for i in range(3):

        def image(row, i=i):
            return model.flow.normalize(row[None, None], condition[i : i + 1])[0][0, 0]

        for j in range(2):
            jacobian = torch.autograd.functional.jacobian(image, latent[i, j])
            normal_density = torch.distributions.Normal(base.mean[i], base.log_std[i].exp())
            expected = normal_density.log_prob(image(latent[i, j])).sum()
            expected = expected + torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(density[i, j], expected)


def test_latent_density_integrates_to_one():
    model = propose(replace(SMALL, width=2))
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    with torch.no_grad():
        line = torch.linspace(-25, 25, 501, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)[None]
        density = model.latent_log_prob(grid, fake_batch(1).points).exp()
    assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_reach_inverts_the_flow(model, batch):
    noise = normal(3, 4, SMALL.width, seed=6)
    latent = model.reach(noise, batch.points)
    image, _ = model.flow.normalize(latent, model.flow.project(batch.points.flatten(1)))
    torch.testing.assert_close(image, model.base(batch.points).at(noise))


def test_samples_have_shapes_and_repeat_with_their_generator(model, batch):
    def seeded(seed=3):
        return torch.Generator().manual_seed(seed)

    samples = model.sample(batch, 5, generator=seeded())
    poses = model.hypotheses(batch, 5, generator=seeded()).detach()
    other = model.sample(batch, 5, generator=seeded(4))
    assert not samples.requires_grad
    assert not model.mode(batch).requires_grad
    assert samples.shape == (3, 5, 17, 3)
    assert poses.shape == (3, 5, 16, 3)
    assert poses.dtype == batch.points.dtype
    torch.testing.assert_close(samples, complete(poses), rtol=0, atol=0)
    assert not samples[..., 0, :].any()
    assert (samples - other).abs().max() > 1e-3
    assert poses.std(1).max() > 1e-3


def test_mode_decodes_the_mean_of_the_base(model, batch):
    mean = model.base(batch.points).mean[:, None]
    latent, _ = model.flow.generate(mean, model.flow.project(batch.points.flatten(1)))
    expected = complete(model.instance.decode(latent, batch.points))[:, 0]
    torch.testing.assert_close(model.mode(batch), expected)
    assert model.mode(batch).shape == (3, 17, 3)


def test_samples_and_mode_never_look_at_labels(model, batch):
    blind = replace(batch, pose=batch.pose + 1, target=batch.target - 1)
    first, second = (
        model.sample(b, 2, generator=torch.Generator().manual_seed(0)) for b in (batch, blind)
    )
    assert (first == second).all()
    assert (model.mode(batch) == model.mode(blind)).all()


def test_images_of_a_batch_do_not_see_each_other(model, batch):
    torch.testing.assert_close(model.mode(batch)[1:2], model.mode(batch[1:2]))
    assert model.sample(batch[:0], 2).shape == (0, 2, 17, 3)


def test_energy_is_the_mean_distance_to_the_reconstruction_in_decimetres(batch):
    critic = Discriminator(SMALL).double()
    energy, code = critic(batch.pose, batch.points)
    context = batch.points.flatten(1)
    again = critic.decoder(code[:, None], context).unflatten(-1, (16, 3))[:, 0]
    error = (again - 10 * batch.pose).square().sum(-1).sqrt().mean(-1)
    torch.testing.assert_close(energy, error)
    assert code.shape == (3, 16)
    other, _ = critic(batch.pose, batch.points + 1)
    assert (energy - other).abs().min() > 0  # conditional


def test_single_precision_by_default(batch):
    model = Propose(SMALL)
    single = LiftingBatch(**{name: value.float() for name, value in vars(batch).items()})
    assert model.sample(single, 2).dtype == torch.float32
    assert model.mode(single).isfinite().all()


def test_count_must_be_positive(model, batch):
    with pytest.raises(ValueError, match="count must be at least 1 hypothesis; got 0"):
        model.hypotheses(batch, 0)
