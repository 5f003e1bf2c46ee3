"""Tests of licensed.vitpose against the same network in NumPy, and of its names and strictness."""

import numpy as np
import pytest
import torch
from official_layouts import random_state, vitpose_shapes
from scipy.special import erf

from humr.licensed.vitpose import Sizes, ViTPose, read_vitpose
from humr.skeletons import COCO17

SMALL = Sizes(width=8, depth=2, heads=2, filters=5, height=48, breadth=32)
SHRUNK = {"width": 8, "depth": 2, "filters": 5, "tokens": 6}


@pytest.fixture(scope="module")
def state():
    return random_state(vitpose_shapes(**SHRUNK), torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def network(state):
    model = ViTPose(SMALL)
    model.load_state_dict(state, strict=True)
    return model


@pytest.fixture
def images(generator):
    return torch.randn(2, 3, 48, 32, generator=generator)


class Plain:
    """The network as functions of the state dict, in double precision and with loops."""

    def __init__(self, state, heads):
        self.state = {key: value.double().numpy() for key, value in state.items()}
        self.heads = heads

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def patches(self, image):
        """Tokens, row by row, of the image with 2 px of zeros around it."""
        weight, bias = (self.state[f"backbone.patch_embed.proj.{p}"] for p in ("weight", "bias"))
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        rows, columns = image.shape[1] // 16, image.shape[2] // 16
        return np.array([
            [(weight[c] * padded[:, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]).sum() + bias[c]
             for c in range(len(weight))]
            for i in range(rows) for j in range(columns)
        ])  # fmt: skip

    def attention(self, x, name):
        width = x.shape[1]
        q, k, v = np.split(self.linear(x, f"{name}.qkv"), 3, 1)
        size, heads = width // self.heads, []
        for h in range(self.heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(size))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        return self.linear(np.concatenate(heads, 1), f"{name}.proj")

    def block(self, x, name):
        x = x + self.attention(self.norm(x, f"{name}.norm1"), f"{name}.attn")
        hidden = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        return x + self.linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"{name}.mlp.fc2")

    def deconvolution(self, maps, number):
        """Every input pixel (i, j) adds 4 x 4 values from (2 i - 1, 2 j - 1) on."""
        weight = self.state[f"keypoint_head.deconv_layers.{number}.weight"]
        rows, columns = maps.shape[1:]
        out = np.zeros((weight.shape[1], 2 * rows + 2, 2 * columns + 2))
        for i in range(rows):
            for j in range(columns):
                value = np.einsum("c,cdxy->dxy", maps[:, i, j], weight)
                out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += value
        out, name = out[:, 1:-1, 1:-1], f"keypoint_head.deconv_layers.{number + 1}"
        mean, var, gain, bias = (
            self.state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((out - mean) / np.sqrt(var + 1e-5) * gain + bias, 0)

    def __call__(self, image):
        positions = self.state["backbone.pos_embed"][0]
        x = self.patches(image) + positions[1:] + positions[0]
        for n in range(sum(key.endswith("qkv.weight") for key in self.state)):
            x = self.block(x, f"backbone.blocks.{n}")
        x = self.norm(x, "backbone.last_norm")
        maps = x.T.reshape(-1, image.shape[1] // 16, image.shape[2] // 16)
        maps = self.deconvolution(self.deconvolution(maps, 0), 3)
        weight = self.state["keypoint_head.final_layer.weight"][:, :, 0, 0]
        bias = self.state["keypoint_head.final_layer.bias"]
        return np.einsum("jc,cxy->jxy", weight, maps) + bias[:, None, None]


def test_heatmaps_are_those_of_the_plain_network(network, state, images):
    got = network(images)
    assert got.shape == (2, 17, 12, 8)
    expected = np.stack([Plain(state, 2)(image) for image in images.double().numpy()])
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_every_weight_counts(state, images):
    """A tensor that were read and not used would be found here."""
    model = ViTPose(SMALL)
    model.load_state_dict(state)
    before = model(images)
    for name, parameter in model.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.5).add_(0.01 * torch.arange(parameter.shape[-1]))
        assert not torch.equal(model(images), before), name
        parameter.copy_(kept)


def test_mirror_images_give_the_mean_with_sides_exchanged(network, images):
    got = network.with_mirrored(images)
    straight, mirrored = network(images), network(images.flip(-1))
    left, right = COCO17.index("left_wrist"), COCO17.index("right_wrist")
    expected = (straight[:, left] + mirrored[:, right].flip(-1)) / 2
    torch.testing.assert_close(got[:, left], expected)
    turned = network.with_mirrored(images.flip(-1))
    torch.testing.assert_close(turned[:, right].flip(-1), got[:, left])


def test_names_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        model = ViTPose()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == vitpose_shapes()
    assert shapes["backbone.pos_embed"] == (1, 193, 1280)
    assert shapes["backbone.blocks.31.attn.qkv.weight"] == (3840, 1280)
    assert shapes["keypoint_head.deconv_layers.0.weight"] == (1280, 256, 4, 4)
    assert sum(p.numel() for p in model.parameters()) == 637_208_849


def test_it_stays_in_evaluation_mode_and_needs_no_gradient(network, images):
    assert not network.train().training
    assert not network.keypoint_head.deconv_layers[1].training
    assert not network(images).requires_grad


@pytest.mark.parametrize("extra", [None, {}, {"meta": {"epoch": 210}}, {"optimizer": {}}])
def test_official_files_are_read(tmp_path, state, network, images, extra):
    path = tmp_path / "vitpose.pth"
    torch.save(state if extra is None else {"state_dict": state, **extra}, path)
    read = read_vitpose(path, SMALL)
    assert torch.equal(read(images), network(images))
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_half_precision_is_read_as_single(tmp_path, state, network, images):
    path = tmp_path / "vitpose.pth"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(halves, path)
    got = read_vitpose(path, SMALL)(images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, network(images), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.last_norm.bias": None}, r"1 missing \(backbone\.last_norm\.bias\)"),
        ({"backbone.cls_token": torch.ones(1, 1, 8)}, r"1 unknown \(backbone\.cls_token\)"),
        ({"backbone.pos_embed": torch.ones(1, 8, 8)},
         r"shape \(backbone\.pos_embed \(1, 8, 8\), expected \(1, 7, 8\)\)"),
        ({"keypoint_head.final_layer.weight": torch.ones(14, 5, 1, 1)}, r"expected \(17, 5, 1"),
    ],
)  # fmt: skip
def test_other_networks_are_refused(tmp_path, state, change, message):
    path = tmp_path / "vitpose.pth"
    torch.save({k: v for k, v in (state | change).items() if v is not None}, path)
    with pytest.raises(ValueError, match=rf"vitpose\.pth is not the network .* {message}"):
        read_vitpose(path, SMALL)


def test_other_files_are_refused(tmp_path, state):
    path = tmp_path / "vitpose.pth"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*vitpose\.pth"):
        read_vitpose(path, SMALL)
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match=r"expected 'state_dict' and at most \['meta', 'optim"):
        read_vitpose(path, SMALL)
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"vitpose\.pth cannot be read as a file of torch"):
        read_vitpose(path, SMALL)


def test_square_crops_are_refused(network):
    with pytest.raises(ValueError, match=r"must have \(48, 32\) px .*; got \(48, 48\)\. .* 32 px"):
        network(torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "width must be a multiple of heads, both positive; got 1280, 3"),
        ({"height": 250}, "multiples of 16 px; got 250 and 192"),
        ({"breadth": 0}, "multiples of 16 px; got 256 and 0"),
    ],
)
def test_impossible_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**changes)
