import inspect
import math

import numpy as np
import pytest
import torch

from humr.flows import ConditionalFlow, Flow
from humr.glow import ConstantVolumeFlow, LinearLU

KINDS = [ConditionalFlow, ConstantVolumeFlow]
PUBLIC = ("project", "normalize", "generate", "log_prob", "sample", "mode", "standardize")


def small_flow(kind=ConstantVolumeFlow, dim=5, context=3, **options):
    """Build a flow far from the identity, with volume and statistics that are not 1."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"blocks": 3, "hidden": 16} | options
    flow = kind(dim, context, **sizes).double()
    for parameter in flow.parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        parameter.data.mul_(2).add_(0.2 * noise)
    flow.standardize(3 + 2 * torch.randn(50, dim, dtype=torch.float64, generator=generator))
    return flow


def batch(flow, generator, images=2, hypotheses=4):
    context = torch.randn(images, flow.context, dtype=torch.float64, generator=generator)
    x = 3 + 2 * torch.randn(images, hypotheses, flow.dim, dtype=torch.float64, generator=generator)
    return x, flow.project(context), context


def test_prohmrs_sizes_give_prohmrs_number_of_parameters():
    with torch.device("meta"):
        flow = ConstantVolumeFlow(144, 2048)  # its 24 joints and its context
    parameters = sum(p.numel() for p in flow.parameters())
    batch_norms = 4 * 2 * 2 * 2 * 1024  # that we leave out
    assert (parameters + batch_norms) / 1e6 == pytest.approx(42.7, abs=0.05)


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("dim", [2, 5, 132])
def test_generate_inverts_normalize(dim, blocks, generator):
    flow = small_flow(dim=dim, blocks=blocks)
    if dim > 10:  # random triangles of this size are ill-conditioned; real ones are not
        for layer in flow.layers:
            layer.linear.factors.data.mul_(0.2)
    x, condition, _ = batch(flow, generator)
    z, log_det = flow.normalize(x, condition)
    back, log_det_back = flow.generate(z, condition)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dim", [2, 5])
def test_log_determinant_is_that_of_the_jacobian(dim, generator):
    flow = small_flow(dim=dim)
    x, condition, _ = batch(flow, generator)
    _, log_det = flow.normalize(x, condition)
    _, log_det_back = flow.generate(x, condition)
    assert log_det.abs().min() > 0.1
    for i, j in np.ndindex(2, 4):
        for transform, expected in ((flow.normalize, log_det), (flow.generate, log_det_back)):

            def image(row, i=i, transform=transform):
                return transform(row[None, None], condition[i : i + 1])[0][0, 0]

            jacobian = torch.autograd.functional.jacobian(image, x[i, j])
            torch.testing.assert_close(expected[i, j], torch.linalg.slogdet(jacobian)[1])


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
    flow = small_flow()
    constant = log_dets(flow, generator)
    assert constant.max() - constant.min() < 1e-5
    assert constant[0, 0].item() == pytest.approx(flow.log_det().item())
    varying = log_dets(small_flow(ConditionalFlow), generator)
    assert varying.std() > 0.1
    assert varying.mean(1).std() > 0.1  # between images as well


def test_density_ranks_samples_by_the_norm_of_their_noise_and_the_mode_is_exact(generator):
    flow = small_flow()
    x, condition, _ = batch(flow, generator, 3, 50)
    z, _ = flow.normalize(x, condition)
    order = flow.log_prob(x, condition).argsort(-1, descending=True)
    assert torch.equal(order, z.norm(dim=-1).argsort(-1))
    peak = flow.log_prob(flow.mode(condition)[:, None], condition)
    assert (peak > flow.log_prob(x, condition)).all()
    expected = -0.5 * flow.dim * math.log(2 * math.pi) + flow.log_det()
    torch.testing.assert_close(peak, expected.expand(3, 1))


def test_training_changes_the_volume_and_keeps_it_constant(generator):
    flow = small_flow()
    x, _, context = batch(flow, generator, 5, 20)
    before = flow.log_det().item()
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    (-flow.log_prob(x, flow.project(context)).mean()).backward()
    optimizer.step()
    after = flow.normalize(x, flow.project(context))[1]
    assert abs(after[0, 0].item() - before) > 1e-4
    assert after.max() - after.min() < 1e-5


def test_every_parameter_and_the_context_get_a_gradient_from_both_directions(generator):
    for direction in ("normalize", "generate"):
        flow = small_flow()
        x, _, context = batch(flow, generator, 8, 8)
        context.requires_grad_()
        out, log_det = getattr(flow, direction)(x, flow.project(context))
        (out.square().sum() + log_det.sum()).backward()
        assert context.grad.abs().min() > 0
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_those_of_finite_differences(generator):
    flow = small_flow(dim=3, blocks=2, hidden=4)
    x, _, context = batch(flow, generator, 2, 2)
    x.requires_grad_()
    context.requires_grad_()
    factors = flow.layers[0].linear.factors

    def both(x, context, _factors):
        condition = flow.project(context)
        return flow.log_prob(x, condition), flow.generate(x, condition)[0]

    assert torch.autograd.gradcheck(both, (x, context, factors))


def test_starts_as_the_normal_density_of_the_data(generator):
    torch.manual_seed(0)
    flow = ConstantVolumeFlow(5, 3, blocks=3, hidden=16, zero_init=True).double()
    scales = torch.tensor([1, 2, 3, 4, 5.0])
    data = 7 + torch.randn(30, 5, dtype=torch.float64, generator=generator) * scales
    flow.standardize(data)
    x, condition, _ = batch(flow, generator)
    expected = torch.distributions.Normal(data.mean(0), data.std(0)).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x, condition), expected)
    torch.testing.assert_close(flow.mode(condition), data.mean(0).expand(2, 5))


def test_without_zero_init_standardised_data_stay_near_standard(generator):
    torch.manual_seed(0)
    flow = ConstantVolumeFlow(132, 20, hidden=64).double()
    data = -4 + 9 * torch.randn(500, 1, 132, dtype=torch.float64, generator=generator)
    flow.standardize(data[:, 0])
    context = torch.randn(500, 20, dtype=torch.float64, generator=generator)
    z, _ = flow.normalize(data, flow.project(context))
    assert 0.8 < z.std() < 1.3


def test_passing_data_changes_no_state(generator):
    flow = small_flow().train()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    x, condition, _ = batch(flow, generator)
    flow.log_prob(x, condition).sum().backward()
    flow.sample(condition, 3, generator=generator)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_images_do_not_see_each_other_even_in_training(generator):
    flow = small_flow().train()
    x, condition, context = batch(flow, generator, 4, 3)
    alone = flow.log_prob(x[2:3], flow.project(context[2:3]))
    torch.testing.assert_close(flow.log_prob(x, condition)[2:3], alone)
    torch.testing.assert_close(flow.log_prob(x[2:3], condition[2:3]), alone)
    single = flow.log_prob(x[:, 1:2], condition)
    torch.testing.assert_close(flow.log_prob(x, condition)[:, 1:2], single)


def test_the_context_is_read_once_per_image(generator, monkeypatch):
    flow = small_flow()
    x, condition, _ = batch(flow, generator)
    for layer in flow.layers:
        for block in layer.net.blocks:
            monkeypatch.delattr(block.gate, "weight")
    assert flow.log_prob(x, condition).shape == (2, 4)


def test_dropout_keeps_the_volume_and_acts_in_training_only(generator):
    flow = small_flow(dropout=0.5)
    x, condition, _ = batch(flow, generator)
    first, second = (flow.train().normalize(x, condition) for _ in "ab")
    assert not torch.allclose(first[0], second[0])
    assert torch.equal(first[1], second[1])
    flow.eval()
    assert torch.equal(flow.log_prob(x, condition), flow.log_prob(x, condition))


def test_learns_a_posterior_that_is_known(generator):
    """x ~ N(0, I), y = x_0 + x_1 + noise: Gaussian with one covariance, as this flow needs."""
    torch.manual_seed(0)
    flow = ConstantVolumeFlow(2, 1, blocks=3, hidden=16, depth=1, zero_init=True)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 300)
    mix, noise = torch.ones(1, 2), 0.3

    def draw(count):
        x = torch.randn(count, 2, generator=generator)
        return x, x @ mix.T + noise * torch.randn(count, 1, generator=generator)

    for _ in range(300):
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


# What follows holds for every flow.


@pytest.mark.parametrize("kind", KINDS)
def test_flows_share_one_interface(kind):
    assert issubclass(kind, Flow)
    for name in PUBLIC:
        assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(Flow, name))
    mine, theirs = ({n for n in vars(k) if n[0] != "_"} for k in (kind, ConditionalFlow))
    assert mine - theirs <= {"log_det"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("images", "hypotheses"), [(1, 1), (1, 4), (3, 1), (3, 0), (2, 5)])
def test_any_number_of_images_and_hypotheses(kind, images, hypotheses, generator):
    flow = small_flow(kind)
    x, condition, _ = batch(flow, generator, images, hypotheses)
    assert len(condition) == images
    z, log_det = flow.normalize(x, condition)
    assert z.shape == x.shape
    assert log_det.shape == flow.log_prob(x, condition).shape == (images, hypotheses)
    torch.testing.assert_close(flow.generate(z, condition)[0], x)
    drawn = flow.sample(condition, hypotheses, generator=generator)
    assert drawn.shape == x.shape
    assert drawn.dtype == flow.mode(condition).dtype == torch.float64
    assert flow.mode(condition).shape == (images, flow.dim)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_follows_the_generator(kind, generator):
    flow = small_flow(kind)
    _, condition, _ = batch(flow, generator)
    first, second = (
        flow.sample(condition, 3, generator=torch.Generator().manual_seed(4)) for _ in "ab"
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, flow.sample(condition, 3, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind, tmp_path, generator):
    flow, other = small_flow(kind), kind(5, 3, blocks=3, hidden=16).double()
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    x, _, context = batch(flow, generator)
    expected = flow.log_prob(x, flow.project(context))
    torch.testing.assert_close(other.log_prob(x, other.project(context)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_noise_and_volume_in_float32(kind, generator):
    flow = kind(12, 3, blocks=3, hidden=32)
    x, context = (torch.randn(*s, generator=generator) for s in ((2, 4, 12), (2, 3)))
    expected = flow.log_prob(x, flow.project(context))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        condition = flow.project(context)
        assert condition.dtype == torch.bfloat16
        actual = flow.log_prob(x, condition)
        generated, log_det = flow.generate(x, condition)
    assert actual.dtype == generated.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim must be at least 2; got 1"),
        ({"blocks": 0}, "blocks must be at least 1; got 0"),
        ({"hidden": 0}, "hidden must be at least 1; got 0"),
    ],
)
def test_bad_sizes_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        small_flow(kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_shapes_are_refused(kind, generator):
    flow = small_flow(kind)
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
