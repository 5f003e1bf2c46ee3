import math

import numpy as np
import pytest
import torch

from humr.flows import ConstantVolumeFlow, LinearLU
from tests.test_flows_interface import batch, small_flow


def test_prohmrs_sizes_give_prohmrs_number_of_parameters():
    with torch.device("meta"):
        flow = ConstantVolumeFlow(144, 2048)  # its 24 joints and its context
    parameters = sum(p.numel() for p in flow.parameters())
    batch_norms = 4 * 2 * 2 * 2 * 1024  # that we leave out
    assert (parameters + batch_norms) / 1e6 == pytest.approx(42.7, abs=0.05)


def test_the_linear_map_is_actnorm_then_the_product_of_its_triangles(generator):
    layer = LinearLU(4).double()
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    shift, log_scale, packed, bias = (p.detach().numpy() for p in layer.parameters())
    lower = np.tril(packed, -1) + np.eye(4)
    upper = np.triu(packed, 1) + np.diag(np.exp(np.diag(packed)))
    x = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    expected = (np.exp(log_scale) * (x.numpy() + shift)) @ (lower @ upper).T + bias
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(expected))
    torch.testing.assert_close(layer.inverse(layer(x)), x)


def log_dets(flow, generator):
    x, condition, _ = batch(flow, generator, 5, 20)
    return flow.normalize(x, condition)[1].detach()


def test_volume_is_one_constant_and_that_of_realnvp_is_not(generator):
    flow = small_flow("glow")
    constant = log_dets(flow, generator)
    assert constant.max() - constant.min() < 1e-5
    assert constant[0, 0].item() == pytest.approx(flow.log_det().item())
    varying = log_dets(small_flow("affine"), generator)
    assert varying.std() > 0.1
    assert varying.mean(1).std() > 0.1  # between images as well


def test_density_ranks_samples_by_the_norm_of_their_noise_and_the_mode_is_exact(generator):
    flow = small_flow("glow")
    x, condition, _ = batch(flow, generator, 3, 50)
    z, _ = flow.normalize(x, condition)
    order = flow.log_prob(x, condition).argsort(-1, descending=True)
    assert torch.equal(order, z.norm(dim=-1).argsort(-1))
    peak = flow.log_prob(flow.mode(condition)[:, None], condition)
    assert (peak > flow.log_prob(x, condition)).all()
    expected = -0.5 * flow.dim * math.log(2 * math.pi) + flow.log_det()
    torch.testing.assert_close(peak, expected.expand(3, 1))


def test_training_changes_the_volume_and_keeps_it_constant(generator):
    flow = small_flow("glow")
    x, _, context = batch(flow, generator, 5, 20)
    before = flow.log_det().item()
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    (-flow.log_prob(x, flow.project(context)).mean()).backward()
    optimizer.step()
    after = flow.normalize(x, flow.project(context))[1]
    assert abs(after[0, 0].item() - before) > 1e-4
    assert after.max() - after.min() < 1e-5


def test_gradients_are_those_of_finite_differences(generator):
    flow = small_flow("glow", dim=3, blocks=2, hidden=4)
    x, _, context = batch(flow, generator, 2, 2)
    x.requires_grad_()
    context.requires_grad_()
    factors = flow.layers[0].linear.factors

    def both(x, context, _factors):
        condition = flow.project(context)
        return flow.log_prob(x, condition), flow.generate(x, condition)[0]

    assert torch.autograd.gradcheck(both, (x, context, factors))


def test_without_zero_init_standardised_data_stay_near_standard(generator):
    torch.manual_seed(0)
    flow = ConstantVolumeFlow(132, 20, hidden=64).double()
    data = -4 + 9 * torch.randn(500, 1, 132, dtype=torch.float64, generator=generator)
    flow.standardize(data[:, 0])
    context = torch.randn(500, 20, dtype=torch.float64, generator=generator)
    z, _ = flow.normalize(data, flow.project(context))
    assert 0.8 < z.std() < 1.3


def test_the_context_is_read_once_per_image(generator, monkeypatch):
    flow = small_flow("glow")
    x, condition, _ = batch(flow, generator)
    for layer in flow.layers:
        for block in layer.net.blocks:
            monkeypatch.delattr(block.gate, "weight")
    assert flow.log_prob(x, condition).shape == (2, 4)


def test_dropout_keeps_the_volume_and_acts_in_training_only(generator):
    flow = small_flow("glow", dropout=0.5)
    x, condition, _ = batch(flow, generator)
    first, second = (flow.train().normalize(x, condition) for _ in "ab")
    assert not torch.allclose(first[0], second[0])
    assert torch.equal(first[1], second[1])
    flow.eval()
    assert torch.equal(flow.log_prob(x, condition), flow.log_prob(x, condition))
