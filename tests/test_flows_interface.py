"""What holds for every flow."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch

from humr.flows import COUPLINGS, ConditionalFlow, ConstantVolumeFlow, Flow

COUPLED = {name: partial(ConditionalFlow, coupling=name) for name in sorted(COUPLINGS)}
FLOWS = COUPLED | {"glow": ConstantVolumeFlow}
PUBLIC = ("project", "normalize", "generate", "log_prob", "sample", "mode", "standardize")
every_flow = pytest.mark.parametrize("name", FLOWS)


def build(name, dim=5, context=3, **options):
    """A flow with larger weights than torch's."""
    torch.manual_seed(1)
    flow = FLOWS[name](dim, context, **{"blocks": 3, "hidden": 16} | options).double()
    for parameter in flow.parameters():
        parameter.data.mul_(2)
    return flow


def small_flow(name, dim=5, context=3, **options):
    """A flow far from the identity, with volume and statistics that are not 1."""
    flow = build(name, dim, context, **options)
    generator = torch.Generator().manual_seed(1)
    for parameter in flow.parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        parameter.data.add_(noise, alpha=0.5 / dim**0.5)  # triangles stay well-conditioned
    flow.standardize(3 + 2 * torch.randn(50, dim, dtype=torch.float64, generator=generator))
    return flow


def batch(flow, generator, images=2, hypotheses=4):
    """Data with the statistics that the flow expects, a condition, and its context."""
    context = torch.randn(images, flow.context, dtype=torch.float64, generator=generator)
    x = torch.randn(images, hypotheses, flow.dim, dtype=torch.float64, generator=generator)
    return flow.mean + flow.std * x, flow.project(context), context


@pytest.mark.parametrize("kind", [ConditionalFlow, ConstantVolumeFlow])
def test_flows_share_one_interface(kind):
    assert issubclass(kind, Flow)
    for name in PUBLIC:
        assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(Flow, name))
    mine, theirs = ({n for n in vars(k) if n[0] != "_"} for k in (kind, ConditionalFlow))
    assert mine - theirs <= {"log_det"}


@every_flow
@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("dim", [2, 5, 6, 132])
def test_generate_inverts_normalize(name, dim, blocks, generator):
    flow = small_flow(name, dim=dim, blocks=blocks)
    x, condition, _ = batch(flow, generator)
    z, log_det = flow.normalize(x, condition)
    back, log_det_back = flow.generate(z, condition)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-8, rtol=0)


@every_flow
@pytest.mark.parametrize("dim", [2, 5])
def test_log_determinant_is_that_of_the_jacobian(name, dim, generator):
    flow = small_flow(name, dim=dim)
    x, condition, _ = batch(flow, generator)
    for transform in (flow.normalize, flow.generate):
        _, log_det = transform(x, condition)
        assert log_det.abs().max() > 0.1
        for i, j in np.ndindex(2, 4):

            def image(row, i=i, transform=transform):
                return transform(row[None, None], condition[i : i + 1])[0][0, 0]

            jacobian = torch.autograd.functional.jacobian(image, x[i, j])
            torch.testing.assert_close(log_det[i, j], torch.linalg.slogdet(jacobian)[1])


@every_flow
@pytest.mark.parametrize("direction", ["normalize", "generate"])
def test_every_parameter_and_the_context_get_a_gradient(name, direction, generator):
    flow = small_flow(name)
    x, _, context = batch(flow, generator, 8, 8)
    context.requires_grad_()
    out, log_det = getattr(flow, direction)(x, flow.project(context))
    (out.square().sum() + log_det.sum()).backward()
    assert context.grad.abs().min() > 0
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_flow
def test_starts_as_the_normal_density_of_the_data(name, generator):
    flow = build(name, zero_init=True)
    scales = torch.tensor([1, 2, 3, 4, 5.0])
    data = 7 + torch.randn(30, 5, dtype=torch.float64, generator=generator) * scales
    flow.standardize(data)
    x, condition, _ = batch(flow, generator)
    expected = torch.distributions.Normal(data.mean(0), data.std(0)).log_prob(x).sum(-1)
    torch.testing.assert_close(flow.log_prob(x, condition), expected)
    torch.testing.assert_close(flow.mode(condition), data.mean(0).expand(2, 5))


@every_flow
@pytest.mark.parametrize(("images", "hypotheses"), [(1, 1), (1, 4), (3, 1), (3, 0), (2, 5)])
def test_any_number_of_images_and_hypotheses(name, images, hypotheses, generator):
    flow = small_flow(name)
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


@every_flow
def test_sampling_follows_the_generator(name, generator):
    flow = small_flow(name)
    _, condition, _ = batch(flow, generator)
    first, second = (
        flow.sample(condition, 3, generator=torch.Generator().manual_seed(4)) for _ in "ab"
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, flow.sample(condition, 3, generator=generator))


@every_flow
def test_passing_data_changes_no_state(name, generator):
    flow = small_flow(name).train()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    x, condition, _ = batch(flow, generator)
    flow.log_prob(x, condition).sum().backward()
    flow.sample(condition, 3, generator=generator)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@every_flow
def test_images_do_not_see_each_other_even_in_training(name, generator):
    flow = small_flow(name).train()
    x, condition, context = batch(flow, generator, 4, 3)
    alone = flow.log_prob(x[2:3], flow.project(context[2:3]))
    torch.testing.assert_close(flow.log_prob(x, condition)[2:3], alone)
    torch.testing.assert_close(flow.log_prob(x[2:3], condition[2:3]), alone)
    single = flow.log_prob(x[:, 1:2], condition)
    torch.testing.assert_close(flow.log_prob(x, condition)[:, 1:2], single)


@every_flow
def test_state_dict_round_trip(name, tmp_path, generator):
    flow = small_flow(name)
    other = build(name, **({"seed": 2} if name in COUPLINGS else {}))  # other permutations
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    x, _, context = batch(flow, generator)
    expected = flow.log_prob(x, flow.project(context))
    torch.testing.assert_close(other.log_prob(x, other.project(context)), expected)


@every_flow
def test_autocast_keeps_noise_and_volume_in_float32(name, generator):
    flow = build(name, dim=12, hidden=32)
    x, _, context = (tensor.float() for tensor in batch(flow, generator))
    flow.float()
    expected = flow.log_prob(x, flow.project(context))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        condition = flow.project(context)
        assert condition.dtype == torch.bfloat16
        actual = flow.log_prob(x, condition)
        generated, log_det = flow.generate(x, condition)
    assert actual.dtype == generated.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.5)


@every_flow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim must be at least 2; got 1"),
        ({"blocks": 0}, "blocks must be at least 1; got 0"),
        ({"hidden": 0}, "hidden must be at least 1; got 0"),
    ],
)
def test_bad_sizes_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@every_flow
def test_bad_shapes_are_refused(name, generator):
    flow = small_flow(name)
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


@pytest.mark.parametrize(
    ("name", "options", "steps", "rate"),
    [
        ("affine", {"blocks": 4, "hidden": 32}, 400, 5e-3),
        ("glow", {"blocks": 3, "hidden": 16, "depth": 1}, 300, 1e-2),
    ],
)
def test_learns_a_posterior_that_is_known(name, options, steps, rate, generator):
    """x ~ N(0, I), y = x_0 + x_1 + noise: Gaussian, and with one covariance as glow needs."""
    torch.manual_seed(0)
    flow = FLOWS[name](2, 1, zero_init=True, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    mix, noise = torch.ones(1, 2), 0.3

    def draw(count):
        x = torch.randn(count, 2, generator=generator)
        return x, x @ mix.T + noise * torch.randn(count, 1, generator=generator)

    for _ in range(steps):
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
