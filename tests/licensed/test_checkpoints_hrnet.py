"""Tests of humr.licensed.checkpoints: HRNet, the image backbone."""

import pytest
import torch
from official_layouts import hrnet_shapes, random_state
from torch.nn import functional

from humr.licensed.checkpoints import HRNet


def count(shapes, *prefixes):
    kinds = ("weight", "bias")
    numbers = [
        torch.Size(shape).numel()
        for key, shape in shapes.items()
        if key.endswith(kinds) and key.startswith(prefixes)
    ]
    return sum(numbers)


@pytest.fixture(scope="module")
def state():
    return random_state(hrnet_shapes(2), torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone(state):
    model = HRNet(2)
    model.load_state_dict(state, strict=True)
    return model


@pytest.fixture
def images(generator):
    return torch.randn(2, 3, 64, 96, generator=generator)


@pytest.mark.parametrize("width", [48, 32])
def test_names_and_shapes_are_the_official_ones(width):
    with torch.device("meta"):
        found = HRNet(width).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == hrnet_shapes(width)


def test_size_is_65_9_million_parameters():
    shapes = hrnet_shapes()
    with torch.device("meta"):
        model = HRNet()
    assert sum(p.numel() for p in model.parameters()) == count(shapes, "") == 65_887_224
    # the pose network itself; beside it the way down to 7 x 7, and a layer that is not used
    assert count(shapes, "downsample_stage") == 560_928
    assert count(shapes, "final_layer") == 1_176
    assert model.features == 720


def test_multiplications_of_one_crop():
    """16.3 billion for 224 x 224 pixels, 49 times those of 32 x 32."""
    model = HRNet()
    total = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda layer, _, output: total.append(output.numel() * layer.weight[0].numel())
            )
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 720)
    assert 49 * sum(total) / 1e9 == pytest.approx(16.27, abs=0.01)


class Plain:
    """The same network as functions of the state dict, layer by layer."""

    def __init__(self, state):
        self.state = state

    def layer(self, x, conv, norm, stride=1, *, relu=True):
        weight = self.state[f"{conv}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gain, bias = (
            self.state[f"{norm}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * gain + bias
        return x.clamp(min=0) if relu else x

    def pair(self, x, name, stride=1, *, relu=True):
        return self.layer(x, f"{name}.0", f"{name}.1", stride, relu=relu)

    def block(self, x, name, depth):
        y = x
        for n in range(1, depth + 1):
            y = self.layer(y, f"{name}.conv{n}", f"{name}.bn{n}", relu=n < depth)
        if f"{name}.downsample.0.weight" in self.state:
            x = self.pair(x, f"{name}.downsample", relu=False)
        return (x + y).clamp(min=0)

    def exchange(self, maps, name):
        for b in range(len(maps)):
            for n in range(4):
                maps[b] = self.block(maps[b], f"{name}.branches.{b}.{n}", 2)
        fused = []
        for i in range(len(maps)):
            total = 0
            for j, x in enumerate(maps):
                fuse = f"{name}.fuse_layers.{i}.{j}"
                if j > i:
                    x = self.pair(x, fuse, relu=False)
                    x = x.repeat_interleave(2 ** (j - i), 2).repeat_interleave(2 ** (j - i), 3)
                for k in range(i - j):
                    x = self.pair(x, f"{fuse}.{k}", 2, relu=k < i - j - 1)
                total = total + x
            fused.append(total.clamp(min=0))
        return fused

    def branches(self, images):
        x = self.layer(self.layer(images, "conv1", "bn1", 2), "conv2", "bn2", 2)
        for n in range(4):
            x = self.block(x, f"layer1.{n}", 3)
        maps = [self.pair(x, "transition1.0"), self.pair(x, "transition1.1.0", 2)]
        maps = self.exchange(maps, "stage2.0")
        maps.append(self.pair(maps[-1], "transition2.2.0", 2))
        for m in range(4):
            maps = self.exchange(maps, f"stage3.{m}")
        maps.append(self.pair(maps[-1], "transition3.3.0", 2))
        for m in range(3):
            maps = self.exchange(maps, f"stage4.{m}")
        return maps

    def __call__(self, images):
        maps = self.branches(images)
        for stage, halvings in ((1, 3), (2, 2), (3, 1)):
            for n in range(halvings):
                name = f"downsample_stage_{stage}"
                x = maps[stage - 1]
                maps[stage - 1] = self.layer(x, f"{name}.{3 * n}", f"{name}.{3 * n + 1}", 2)
        return torch.cat(maps, 1).mean((2, 3))


def test_equals_the_network_written_as_functions(state, images):
    model = HRNet(2).double()
    double = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(double)
    plain, images = Plain(double), images.double()
    maps = plain.branches(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(2, 16, 24), (4, 8, 12), (8, 4, 6), (16, 2, 3)]
    assert all(m.std((2, 3)).amax() > 0.1 for m in maps)
    for found, expected in zip(model.branches(images), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-10, atol=1e-10)


def test_stays_frozen_in_evaluation_mode(backbone, images):
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    parent = torch.nn.Sequential(backbone).train()
    parent(images)
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_images_do_not_see_each_other(backbone, images):
    together = backbone(images)
    assert together.shape == (2, 30)
    torch.testing.assert_close(backbone(images[1:])[0], together[1], rtol=1e-3, atol=1e-5)


def test_sizes_that_do_not_halve_are_refused(backbone):
    with pytest.raises(ValueError, match=r"multiples of 32 px; got \(64, 80\)"):
        backbone(torch.zeros(1, 3, 64, 80))
    with pytest.raises(ValueError, match="width must be positive; got 0"):
        HRNet(0)


def test_branches_equal_those_of_timm(images):
    timm = pytest.importorskip("timm")
    model, peer = HRNet(), timm.create_model("hrnet_w48").eval()
    weights = peer.state_dict()
    own = ("downsample_stage", "final_layer")
    assert all(key in weights or key.startswith(own) for key in model.state_dict())
    model.load_state_dict(
        {k: v if k.startswith(own) else weights[k] for k, v in model.state_dict().items()}
    )
    with torch.no_grad():
        x = peer.act2(peer.bn2(peer.conv2(peer.act1(peer.bn1(peer.conv1(images))))))
        for found, expected in zip(model.branches(images), peer.stages(x), strict=True):
            torch.testing.assert_close(found, expected)
