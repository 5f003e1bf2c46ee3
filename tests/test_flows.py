import math

import numpy as np
import pytest
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
from torch import nn

from humr import flows
from humr.flows import ConditionalFlow
from tests.test_flows_interface import COUPLED, batch, build


def test_additive_coupling_has_constant_volume_and_affine_has_not(generator):
    additive, affine = build("additive"), build("affine")
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
    flow = build("affine", dim=dim, layers=layers)
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
    flow = build("affine", context=0)
    x, condition, context = batch(flow, generator, 3)
    assert context.shape == (3, 0)
    log_prob = flow.log_prob(x[:1].expand_as(x), condition)
    torch.testing.assert_close(log_prob, log_prob[:1].expand_as(log_prob))
    torch.testing.assert_close(flow.generate(flow.normalize(x, condition)[0], condition)[0], x)
    log_prob.sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_additive_coupling_is_that_of_nice(generator):
    """First half + F(second half), then second half + G(first half), context concatenated."""
    flow = build("additive", blocks=1)
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
    flow = build("affine")
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


@pytest.mark.parametrize("coupling", COUPLED)
def test_density_integrates_to_one(coupling, generator):
    flow = build(coupling, dim=2)
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


def test_log_prob_of_an_affine_coupling_is_a_transformed_distribution(generator):
    """With constant subnets every coupling is a diagonal affine map."""
    flow = build("affine", blocks=1)
    x, condition, _ = batch(flow, generator)
    scale_shift = []
    for net in (flow.module_list[0].subnet2, flow.module_list[0].subnet1):  # first half first
        net[-1].weight.data.zero_()
        u, shift = net[-1].bias.data.chunk(2)
        scale_shift.append((flows.official_clamp(u, 2.0).exp(), shift))
    scale, shift = (torch.cat(parts) for parts in zip(*scale_shift, strict=True))
    expected = torch.distributions.Normal(-shift / scale, 1 / scale).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x, condition), expected)


def test_building_a_flow_leaves_numpy_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    ConditionalFlow(4, 2, blocks=2, hidden=8)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_permutations_follow_the_seed():
    def orders(seed):
        flow = build("affine", dim=20, seed=seed)
        return [module.permutation for module in flow.module_list[1::2]]

    assert all(torch.equal(a, b) for a, b in zip(orders(3), orders(3), strict=True))
    assert not torch.equal(orders(3)[0], orders(4)[0])
    assert not torch.equal(orders(3)[0], orders(3)[1])


@torch.no_grad()
def test_samples_follow_log_prob(generator):
    flow = build("affine", dim=2)
    condition = flow.project(torch.randn(1, 3, dtype=torch.float64, generator=generator))
    drawn = flow.sample(condition, 20_000, generator=generator)[0]
    low, high = drawn.quantile(torch.tensor([0.2, 0.7], dtype=torch.float64), dim=0)
    steps = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    grid = torch.cartesian_prod(steps, steps) * (high - low) + low
    mass = flow.log_prob(grid[None], condition).exp().mean() * (high - low).prod()
    share = ((drawn > low) & (drawn < high)).all(-1).double().mean()
    assert 0.1 < share < 0.5
    assert share.item() == pytest.approx(mass.item(), abs=0.012)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling": "cubic"}, "coupling must be one of .*'affine'.* got 'cubic'"),
        ({"layers": 1}, "layers must be at least 2; got 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConditionalFlow(5, 3, **options)
