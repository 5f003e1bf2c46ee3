import math

import numpy as np
import pytest
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
from torch import nn

from humr import flows
from humr.flows import ConditionalFlow

KINDS = sorted(flows.COUPLINGS)


def small_flow(coupling="affine", dim=5, context=3, seed=0, **options):
    torch.manual_seed(1)
    sizes = {"blocks": 3, "hidden": 16} | options
    flow = ConditionalFlow(dim, context, coupling=coupling, seed=seed, **sizes).double()
    for parameter in flow.parameters():  # larger than torch's: far from the identity
        parameter.data.mul_(2)
    return flow


def batch(flow, generator, images=2, hypotheses=4):
    context = torch.randn(images, flow.context, dtype=torch.float64, generator=generator)
    x = torch.randn(images, hypotheses, flow.dim, dtype=torch.float64, generator=generator)
    return x, flow.project(context), context


@pytest.mark.parametrize("coupling", KINDS)
@pytest.mark.parametrize("dim", [2, 5, 6])
def test_generate_inverts_normalize(coupling, dim, generator):
    flow = small_flow(coupling, dim)
    flow.standardize(3 + 2 * torch.randn(50, dim, dtype=torch.float64, generator=generator))
    x, condition, _ = batch(flow, generator)
    z, log_det = flow.normalize(x, condition)
    back, log_det_back = flow.generate(z, condition)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-10, rtol=0)


@pytest.mark.parametrize("coupling", KINDS)
def test_log_determinant_is_that_of_the_jacobian(coupling, generator):
    flow = small_flow(coupling)
    flow.standardize(2 * torch.randn(50, 5, dtype=torch.float64, generator=generator))
    x, condition, _ = batch(flow, generator)
    _, log_det = flow.normalize(x, condition)
    for i, j in np.ndindex(2, 4):

        def image(row, i=i):
            return flow.normalize(row[None, None], condition[i : i + 1])[0][0, 0]

        jacobian = torch.autograd.functional.jacobian(image, x[i, j])
        torch.testing.assert_close(log_det[i, j], torch.linalg.slogdet(jacobian)[1])


def test_additive_coupling_has_constant_volume_and_affine_has_not(generator):
    additive, affine = small_flow("additive"), small_flow("affine")
    x, condition, _ = batch(additive, generator, 3, 20)
    assert additive.normalize(x, condition)[1].std() < 1e-12
    x, condition, _ = batch(affine, generator, 3, 20)
    assert affine.normalize(x, condition)[1].std() > 0.1


def freia_twin(flow):
    """The same network in FrEIA's own concatenating form, with copied weights."""

    def subnet(inputs, outputs):
        hidden = flow.module_list[0].subnet1[0].out_features
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.0)]
        if len(flow.module_list[0].subnet1) == 7:
            layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.0)]
        return nn.Sequential(*layers, nn.Linear(hidden, outputs))

    twin = SequenceINN(flow.dim)
    for _ in flow.module_list[::2]:
        shape = (flow.context,)
        twin.append(GLOWCouplingBlock, 0, shape, subnet_constructor=subnet, clamp=2.0)
        twin.append(PermuteRandom)
    twin.double()
    state = {
        name.replace("permutation", "perm").replace("inverse", "perm_inv"): value
        for name, value in flow.state_dict().items()
        if name not in ("mean", "std")
    }
    twin.load_state_dict(state)  # strict: the names are FrEIA's
    return twin


@pytest.mark.parametrize(("dim", "layers"), [(5, 3), (6, 3), (6, 2)])
def test_equals_freia_with_a_concatenated_condition(dim, layers, generator):
    flow = small_flow(dim=dim, layers=layers)
    twin = freia_twin(flow)
    x, condition, context = batch(flow, generator)
    repeated = context.repeat_interleave(4, 0)
    expected, expected_log_det = twin(x.flatten(0, 1), [repeated])
    z, log_det = flow.normalize(x, condition)
    torch.testing.assert_close(z.flatten(0, 1), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det.flatten(), expected_log_det, atol=1e-12, rtol=0)
    expected, expected_log_det = twin(x.flatten(0, 1), [repeated], rev=True)
    generated, log_det = flow.generate(x, condition)
    torch.testing.assert_close(generated.flatten(0, 1), expected)
    torch.testing.assert_close(log_det.flatten(), expected_log_det)


def test_without_a_context_every_image_has_the_same_density(generator):
    flow = small_flow(context=0)
    x, condition, context = batch(flow, generator, 3)
    assert context.shape == (3, 0)
    log_prob = flow.log_prob(x[:1].expand_as(x), condition)
    torch.testing.assert_close(log_prob, log_prob[:1].expand_as(log_prob))
    torch.testing.assert_close(flow.generate(flow.normalize(x, condition)[0], condition)[0], x)
    log_prob.sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_additive_coupling_is_that_of_nice(generator):
    """First half + F(second half), then second half + G(first half), context concatenated."""
    flow = small_flow("additive", blocks=1)
    x, condition, context = batch(flow, generator)
    coupling, permutation = flow.module_list
    first, second = x.split([2, 3], -1)
    repeated = context[:, None].expand(-1, 4, -1)

    def subnet(net, half):
        return nn.Sequential(*net)(torch.cat([half, repeated], -1))

    first = first + subnet(coupling.F, second)
    second = second + subnet(coupling.G, first)
    expected = torch.cat([first, second], -1)[..., permutation.permutation]
    torch.testing.assert_close(flow.normalize(x, condition)[0], expected)


def test_gradients_equal_those_of_the_concatenated_form(generator):
    flow = small_flow()
    twin = freia_twin(flow)
    x, _, context = batch(flow, generator)
    ours, theirs = (context.clone().requires_grad_() for _ in range(2))
    flow.log_prob(x, flow.project(ours)).sum().backward()
    z, log_det = twin(x.flatten(0, 1), [theirs.repeat_interleave(4, 0)])
    (flows.standard_normal_log_prob(z) + log_det).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    expected = dict(twin.named_parameters())
    for name, parameter in flow.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_clamps_have_the_documented_slopes_and_ranges():
    u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for clamp, slope in ((flows.official_clamp, 1.272), (flows.paper_clamp, 2 / math.pi)):
        (gradient,) = torch.autograd.grad(clamp(u, 2.0), u)
        assert gradient.item() == pytest.approx(slope)
        limit = clamp(torch.tensor([-1e9, 1e9], dtype=torch.float64), 2.0)
        torch.testing.assert_close(limit, torch.tensor([-2.0, 2.0]).double(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("coupling", KINDS)
def test_density_integrates_to_one(coupling, generator):
    flow = small_flow(coupling, dim=2)
    flow.standardize(torch.tensor([[-1.0, 2.0], [1.0, 5.0]], dtype=torch.float64))
    condition = flow.project(torch.randn(1, 3, dtype=torch.float64, generator=generator))
    with torch.no_grad():
        samples = flow.sample(condition, 2000, generator=generator)[0]
        low, high = samples.aminmax(dim=0)
        margin = 0.5 * (high - low)
        axes = [
            torch.linspace(a, b, 700).double()
            for a, b in zip(low - margin, high + margin, strict=True)
        ]
        grid = torch.cartesian_prod(*axes)[None]
        cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
        total = flow.log_prob(grid, condition).exp().sum() * cell
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_log_prob_of_the_identity_flow_is_the_normal_density(generator):
    flow = small_flow(zero_init=True)
    x, condition, _ = batch(flow, generator)
    data = torch.randn(30, 5, dtype=torch.float64, generator=generator) * torch.tensor(
        [1, 2, 3, 4, 5.0]
    )
    flow.standardize(data + 7)
    expected = torch.distributions.Normal((data + 7).mean(0), data.std(0)).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x, condition), expected)
    torch.testing.assert_close(flow.mode(condition), (data + 7).mean(0).expand(2, 5))


def test_log_prob_of_an_affine_coupling_is_a_transformed_distribution(generator):
    """With constant subnets every coupling is a diagonal affine map."""
    flow = small_flow(blocks=1)
    x, condition, _ = batch(flow, generator)
    scale_shift = []
    for net in (flow.module_list[0].subnet2, flow.module_list[0].subnet1):  # first half first
        net[-1].weight.data.zero_()
        u, shift = net[-1].bias.data.chunk(2)
        scale_shift.append((flows.official_clamp(u, 2.0).exp(), shift))
    scale, shift = (torch.cat(parts) for parts in zip(*scale_shift, strict=True))
    expected = torch.distributions.Normal(-shift / scale, 1 / scale).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x, condition), expected)


@pytest.mark.parametrize("coupling", KINDS)
def test_every_parameter_gets_a_gradient(coupling, generator):
    flow = small_flow(coupling)
    x, condition, _ = batch(flow, generator, 8, 8)
    flow.log_prob(x, condition).sum().backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_building_a_flow_leaves_numpy_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    ConditionalFlow(4, 2, blocks=2, hidden=8)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_permutations_follow_the_seed():
    def orders(seed):
        return [module.permutation for module in small_flow(dim=20, seed=seed).module_list[1::2]]

    assert all(torch.equal(a, b) for a, b in zip(orders(3), orders(3), strict=True))
    assert not torch.equal(orders(3)[0], orders(4)[0])
    assert not torch.equal(orders(3)[0], orders(3)[1])


def test_state_dict_round_trip(tmp_path, generator):
    flow = small_flow(seed=1)
    flow.standardize(torch.randn(9, 5, dtype=torch.float64, generator=generator))
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other = small_flow(seed=2)  # other permutations: they must come from the file
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    x, _, context = batch(flow, generator)
    expected = flow.log_prob(x, flow.project(context))
    torch.testing.assert_close(other.log_prob(x, other.project(context)), expected)


def test_images_do_not_see_each_other(generator):
    flow = small_flow()
    x, condition, context = batch(flow, generator, 4, 3)
    alone = flow.log_prob(x[2:3], flow.project(context[2:3]))
    torch.testing.assert_close(flow.log_prob(x, condition)[2:3], alone)
    torch.testing.assert_close(flow.log_prob(x[2:3], condition[2:3]), alone)


@torch.no_grad()
def test_sample_is_reproducible_and_follows_log_prob(generator):
    flow = small_flow(dim=2)
    condition = flow.project(torch.randn(1, 3, dtype=torch.float64, generator=generator))
    first, second = (
        flow.sample(condition, 20_000, generator=torch.Generator().manual_seed(5))[0] for _ in "ab"
    )
    assert torch.equal(first, second)
    low, high = first.quantile(torch.tensor([0.2, 0.7], dtype=torch.float64), dim=0)
    steps = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    grid = torch.cartesian_prod(steps, steps) * (high - low) + low
    mass = flow.log_prob(grid[None], condition).exp().mean() * (high - low).prod()
    share = ((first > low) & (first < high)).all(-1).double().mean()
    assert 0.1 < share < 0.5
    assert share.item() == pytest.approx(mass.item(), abs=0.012)


def test_autocast_keeps_scales_and_log_determinants_in_float32(generator):
    flow = small_flow(dim=12, hidden=32).float()
    x, _, context = (tensor.float() for tensor in batch(flow.double(), generator))
    flow.float()
    expected = flow.log_prob(x, flow.project(context))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        condition = flow.project(context)
        actual = flow.log_prob(x, condition)
        generated, log_det = flow.generate(x, condition)
    assert actual.dtype == generated.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.5)


def test_no_hypotheses_gives_an_empty_result(generator):
    flow = small_flow()
    x, condition, _ = batch(flow, generator, 2, 0)
    assert flow.log_prob(x, condition).shape == (2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": "cubic"}, "coupling must be one of .*'affine'.* got 'cubic'"),
        ({"dim": 1}, "dim must be at least 2; got 1"),
        ({"blocks": 0}, "blocks must be at least 1; got 0"),
        ({"layers": 1}, "layers must be at least 2; got 1"),
    ],
)
def test_bad_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_flow(**options)


def test_bad_shapes_are_refused(generator):
    flow = small_flow()
    x, condition, _ = batch(flow, generator)
    with pytest.raises(ValueError, match=r"context must have shape \(batch, 3\); got \(2, 4\)"):
        flow.project(torch.zeros(2, 4).double())
    with pytest.raises(ValueError, match=r"expected shape \(batch, hypotheses, 5\)"):
        flow.log_prob(x[..., :4], condition)
    with pytest.raises(ValueError, match=r"condition must come from project\(\) of the same 2"):
        flow.normalize(x, condition[:1])
    with pytest.raises(ValueError, match="data must have 5 columns; got 4"):
        flow.standardize(torch.zeros(3, 4).double())
    with pytest.raises(ValueError, match="finite"):
        flow.standardize(torch.full((3, 5), math.nan).double())


def test_learns_a_posterior_that_is_known(generator):
    """x ~ N(0, I), y = x_0 + x_1 + noise: the posterior of x given y is Gaussian."""
    torch.manual_seed(0)
    flow = ConditionalFlow(2, 1, blocks=4, hidden=32, zero_init=True)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 400)
    mix, noise = torch.ones(1, 2), 0.3

    def draw(count):
        x = torch.randn(count, 2, generator=generator)
        return x, x @ mix.T + noise * torch.randn(count, 1, generator=generator)

    for _ in range(400):
        x, y = draw(512)
        loss = -flow.log_prob(x[:, None], flow.project(y)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x, y = draw(20_000)
    covariance = torch.linalg.inv(torch.eye(2) + mix.T @ mix / noise**2)
    truth = torch.distributions.MultivariateNormal(y @ (mix / noise**2) @ covariance, covariance)
    with torch.no_grad():
        kl = (truth.log_prob(x) - flow.log_prob(x[:, None], flow.project(y))[:, 0]).mean()
    assert -0.01 < kl.item() < 0.05
