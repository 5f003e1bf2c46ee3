import pytest
import torch

from humr.model import REACH, ChannelCode, HeatmapEmbedding


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    sizes = {"samples": 6, "width": 16, "layers": 2, "heads": 2, "feedforward": 24}
    return HeatmapEmbedding(10, **sizes).double().eval()


@pytest.fixture
def samples(generator):
    points = 0.4 * torch.randn(3, 6, 17, 2, dtype=torch.float64, generator=generator)
    return points, torch.rand(3, 6, 17, dtype=torch.float64, generator=generator)


def bumps(u, channels):
    """Every bump from its formula."""
    spacing = 2 * REACH / (channels - 3)
    centres = -REACH - spacing + spacing * torch.arange(channels, dtype=u.dtype)
    distance = (u[..., None] - centres) / spacing
    return torch.where(distance.abs() < 2, (distance * torch.pi / 4).cos().square(), 0)


@pytest.mark.parametrize("channels", [4, 9, 64])
def test_code_is_made_of_bumps_that_sum_to_two(channels):
    u = torch.linspace(-REACH, REACH, 502, dtype=torch.float64).view(2, 251)
    heights = ChannelCode(channels)(u)
    torch.testing.assert_close(heights, bumps(u, channels))
    torch.testing.assert_close(heights.sum(-1), torch.full_like(u, 2))


def test_numbers_out_of_reach_count_as_the_nearest_end():
    ends, beyond = torch.tensor([-REACH, REACH]), torch.tensor([-9.0, 1.001 * REACH])
    torch.testing.assert_close(ChannelCode(8)(beyond), ChannelCode(8)(ends))


def test_code_has_the_gradient_of_the_bumps():
    u = torch.tensor([-1.2, -0.3, 0.017, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ChannelCode(16), u)


def test_code_tells_numbers_apart():
    u = torch.linspace(-REACH, REACH, 300)
    distances = torch.cdist(*[ChannelCode(64)(u)] * 2) + 9 * torch.eye(300)
    assert distances.min() > 0.05


def test_the_order_of_the_samples_does_not_matter(embedding, samples, generator):
    points, density = samples
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(
        embedding(points[:, order], density[:, order]), embedding(points, density)
    )
    assert not torch.allclose(embedding(points[:, order], density), embedding(points, density))


def test_likelihoods_count_and_samples_without_any_do_not(embedding, samples):
    points, density = samples
    assert not torch.allclose(embedding(points, 0.5 * density), embedding(points, density))
    density[:, 2] = 0
    moved = points.clone()
    moved[:, 2] += 0.3
    torch.testing.assert_close(embedding(moved, density), embedding(points, density))


def test_joints_are_told_apart(embedding, samples, generator):
    points, density = samples
    order = torch.randperm(17, generator=generator)
    swapped = embedding(points[:, :, order], density[:, :, order])
    assert not torch.allclose(swapped, embedding(points, density))


def test_images_do_not_see_each_other(embedding, samples):
    points, density = samples
    alone = embedding(points[1:2], density[1:2])
    torch.testing.assert_close(embedding(points, density)[1:2], alone)


def test_only_the_first_samples_are_read(embedding, samples):
    points, density = samples
    more = torch.cat([points, points + 0.2], 1), torch.cat([density, density], 1)
    torch.testing.assert_close(embedding(*more), embedding(points, density))


def test_joints_are_dropped_in_training_only(embedding, samples):
    points, density = samples
    torch.testing.assert_close(embedding(points, density), embedding(points, density))
    embedding.drop.p = 0.5
    embedding.drop.train()
    assert not torch.allclose(embedding(points, density), embedding(points, density))
    embedding.drop.p = 1.0  # every joint: nothing of the samples is left
    torch.testing.assert_close(embedding(points + 0.1, density), embedding(points, density))


def test_every_parameter_gets_a_gradient(embedding, samples):
    embedding.train()(*samples).square().sum().backward()
    for name, parameter in embedding.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_bad_sizes_are_refused(embedding, samples):
    points, density = samples
    with pytest.raises(ValueError, match="reads 6 heatmap samples per joint; the batch holds 5"):
        embedding(points[:, :5], density[:, :5])
    with pytest.raises(ValueError, match="width must be even and a multiple of 4 heads; got 18"):
        HeatmapEmbedding(10, width=18)
    with pytest.raises(ValueError, match="samples must be at least 1; got 0"):
        HeatmapEmbedding(10, samples=0)
    with pytest.raises(ValueError, match="channels must be at least 4; got 3"):
        ChannelCode(3)
