"""Tests of humr.licensed.checkpoints: official networks become ours and back, or are refused."""

import os
import re
from dataclasses import replace
from functools import cache, partial

import lifting_formats as formats
import numpy as np
import pytest
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, PermuteRandom
from official_layouts import humr_shapes, lifting_shapes, lightning, random_state
from torch import nn

from humr import storage
from humr.benchmarks import people
from humr.config import Model, from_dict
from humr.experiments import runs
from humr.files import DATA
from humr.licensed import checkpoints, lifting
from humr.licensed.checkpoints import HRNet
from humr.licensed.datasets import LiftingPaperRun
from humr.lifting.config import LiftingModel, LiftingRun
from humr.lifting.data import LiftingBatch, complete
from humr.model import Humr
from humr.storage import load_model

KINDS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
SMALL = Model(features=30, pose_hidden=12, pose_width=8, hidden=16, head_hidden=20)
SHRUNK = {"width": 2, "pose_hidden": 12, "pose": 8, "hidden": 16, "head": 20}
LIFTING = LiftingModel(hidden=28, condition_hidden=14, condition_width=6)
LIFTING_SHRUNK = {"hidden": 28, "condition_hidden": 14, "condition_width": 6}


@cache
def humr_state(dtype=torch.float32, **changes):
    generator = torch.Generator().manual_seed(3)
    return random_state(humr_shapes(**SHRUNK | changes), generator, dtype)


@cache
def lifting_state(dtype=torch.float32, **changes):
    generator = torch.Generator().manual_seed(4)
    return random_state(lifting_shapes(**LIFTING_SHRUNK | changes), generator, dtype)


def close(found, expected, tolerance):
    found = found.detach().numpy()
    assert found.dtype == expected.dtype
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance, rtol=0)


# ---------------------------------------------------- the official networks in NumPy


class Numpy:
    """Networks as functions of the official state dict."""

    def __init__(self, state):
        self.state = {key: value.numpy() for key, value in state.items()}

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def mlp(self, x, name, *numbers):
        for number in numbers[:-1]:
            x = np.maximum(self.linear(x, f"{name}.{number}"), 0)
        return self.linear(x, f"{name}.{numbers[-1]}")

    def flow(self, x, blocks, *, inverse):
        """Blocks of (function that gives log-scale and shift of half 1 or 2, permutation)."""
        half, log_det = x.shape[1] // 2, np.zeros(len(x), x.dtype)
        for coefficients, order in reversed(blocks) if inverse else blocks:
            if inverse:
                x = x[:, np.argsort(order)]
            first, second = x[:, :half], x[:, half:]
            if inverse:
                s, t = coefficients(1, first)
                second, log_det = (second - t) * np.exp(-s), log_det - s.sum(1)
                s, t = coefficients(2, second)
                first, log_det = (first - t) * np.exp(-s), log_det - s.sum(1)
            else:
                s, t = coefficients(2, second)
                first, log_det = first * np.exp(s) + t, log_det + s.sum(1)
                s, t = coefficients(1, first)
                second, log_det = second * np.exp(s) + t, log_det + s.sum(1)
            x = np.concatenate([first, second], 1)
            if not inverse:
                x = x[:, order]
        return x, log_det


class HumrReference(Numpy):
    """HuMR after its backbone, with the clamp of FrEIA 0.2."""

    def condition(self, features, keypoints, box_info):
        pose = self.mlp(keypoints.reshape(len(keypoints), 51), "model.joints_enc", 0, 2)
        return np.concatenate([features, pose, box_info], 1)

    def shape_camera(self, condition):
        shape = np.repeat(self.state["model.head.init_shape"], len(condition), 0)
        camera = np.repeat(self.state["model.head.init_cam"], len(condition), 0)
        for _ in range(3):
            x = self.linear(np.concatenate([condition, shape, camera], 1), "model.head.fc1")
            x = self.linear(x, "model.head.fc2")
            shape = shape + self.linear(x, "model.head.decshape")
            camera = camera + self.linear(x, "model.head.deccam")
        return shape, camera

    def run(self, x, condition, *, inverse, clamp=2.0):
        def block(k):
            def coefficients(net, half):
                name = f"model.flow.module_list.{2 * k}.subnet{net}"
                s, t = np.split(self.mlp(np.hstack([half, condition]), name, 0, 3, 6), 2, 1)
                return clamp * 0.636 * np.arctan(s), t

            return coefficients, self.state[f"model.flow.module_list.{2 * k + 1}.perm"]

        return self.flow(x, [block(k) for k in range(8)], inverse=inverse)


class LiftingReference(Numpy):
    """ICCV 2021, with the clamp of its FrEIA and vectors of all x, all y, all z."""

    def run(self, x, gaussians, *, inverse, slope=0.636):
        condition = self.mlp(gaussians.reshape(len(gaussians), 78), "cond_net", 0, 2)

        def block(k):
            def coefficients(net, half):
                name = f"inn.module_list.{2 * k + 1}.s{net}"
                s, t = np.split(self.mlp(np.hstack([half, condition]), name, 0, 2), 2, 1)
                return 2 * slope * np.arctan(s / 2), t

            return coefficients, np.random.RandomState(k).permutation(48)

        return self.flow(x, [block(k) for k in range(8)], inverse=inverse)


def axis_major(values):
    """Rows of 16 joints become x of all joints, y of all joints, and so on."""
    return values.numpy().transpose(0, 2, 1).reshape(len(values), -1)


def joint_major(values):
    return values.reshape(len(values), -1, 16).transpose(0, 2, 1)


# ------------------------------------------------------------------------------- HuMR


@pytest.fixture
def humr_batch(generator):
    records = people.records(5, generator, features=30)
    return records.batch(samples=1, generator=generator)


def as_dtype(batch, dtype):
    names = ("features", "keypoints", "box_info")
    return replace(batch, **{name: getattr(batch, name).to(dtype) for name in names})


@pytest.mark.parametrize(("dtype", "tolerance"), KINDS)
def test_humr_computes_what_the_official_equations_say(dtype, tolerance, humr_batch, generator):
    state = humr_state(dtype)
    humr, _ = checkpoints.humr_from_official(state, SMALL)
    reference, batch = HumrReference(state), as_dtype(humr_batch, dtype)
    inputs = (batch.features.numpy(), batch.keypoints.numpy(), batch.box_info.numpy())
    condition = reference.condition(*inputs)
    context = humr.encoder(batch)
    close(context, condition, tolerance)
    for found, expected in zip(humr.head(context), reference.shape_camera(condition), strict=True):
        close(found, expected, tolerance)
    noise = torch.randn(5, 132, generator=generator, dtype=dtype)
    projected = humr.flow.project(context)
    for inverse, ours in ((True, humr.flow.generate), (False, humr.flow.normalize)):
        expected, log_det = reference.run(noise.numpy(), condition, inverse=inverse)
        found, change = ours(noise[:, None], projected)
        assert np.abs(expected - noise.numpy()).std() > 0.3
        close(found[:, 0], expected, tolerance)
        close(change[:, 0], log_det, tolerance)


def test_humr_makes_bodies_as_the_official_code(humr_batch):
    """The mode: 6D numbers are two rows of a rotation; the camera is that of the crop."""
    state = humr_state()
    humr, _ = checkpoints.humr_from_official(state, SMALL)
    reference, batch = HumrReference(state), humr_batch
    condition = reference.condition(
        batch.features.numpy(), batch.keypoints.numpy(), batch.box_info.numpy()
    )
    shape, weak = reference.shape_camera(condition)
    sixd, _ = reference.run(np.zeros((5, 132), np.float32), condition, inverse=True)
    mode = humr.sample(batch, 2, generator=torch.Generator().manual_seed(0)).mode
    rows = sixd.reshape(5, 22, 2, 3)
    first = rows[:, :, 0] / np.linalg.norm(rows[:, :, 0], axis=-1, keepdims=True)
    second = rows[:, :, 1] - (first * rows[:, :, 1]).sum(-1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    matrices = np.stack([first, second, np.cross(first, second)], 2)
    close(mode.rotations, matrices, 2e-5)
    close(mode.betas, shape, 1e-5)
    box, focal = batch.box.numpy(), batch.focal.numpy()
    size = weak[:, 0] * box[:, 2]
    offset = 2 * (box[:, :2] - batch.image_size.numpy() / 2) / size[:, None]
    expected = np.column_stack([weak[:, 1:] + offset, 2 * focal / size])
    assert weak[:, 0].min() > 0.1
    close(mode.translation, expected, 1e-5)


def test_humr_equals_the_library_that_the_official_code_calls(generator):
    """FrEIA 0.2 with the same weights, its own permutations and its own concatenation."""

    def subnet(inputs, outputs):
        layers = [nn.Linear(inputs, 16), nn.Dropout(0), nn.ReLU(), nn.Linear(16, 16)]
        return nn.Sequential(*layers, nn.Dropout(0), nn.ReLU(), nn.Linear(16, outputs))

    peer = SequenceINN(132)
    for k in range(8):
        options = {"subnet_constructor": subnet, "clamp": 2.0}
        peer.append(GLOWCouplingBlock, cond=0, cond_shape=(41,), **options)
        peer.append(PermuteRandom, seed=k)  # seeds NumPy's global generator
    state = humr_state()
    prefix = "model.flow."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    assert {k: v.shape for k, v in peer.state_dict().items()} == {
        k: v.shape for k, v in own.items()
    }
    assert all(torch.equal(v, own[k]) for k, v in peer.state_dict().items() if "perm" in k)
    peer.load_state_dict(own)
    humr, _ = checkpoints.humr_from_official(state, SMALL)
    x = torch.randn(4, 132, generator=generator)
    context = torch.randn(4, 41, generator=generator)
    projected = humr.flow.project(context)
    for rev, ours in ((True, humr.flow.generate), (False, humr.flow.normalize)):
        expected, log_det = peer((x,), c=(context,), rev=rev)
        found, change = ours(x[:, None], projected)
        torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(change[:, 0], log_det, atol=1e-5, rtol=1e-5)


def test_humr_goes_back_bit_by_bit():
    state = humr_state()
    back = checkpoints.humr_to_official(*checkpoints.humr_from_official(state, SMALL))
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key], value), key


def test_humr_has_the_full_official_layout():
    with torch.device("meta"):
        backbone = HRNet()
    found = checkpoints.humr_to_official(Humr(Model()), backbone)
    assert {key: tuple(value.shape) for key, value in found.items()} == humr_shapes()
    assert len(humr_shapes()) == 1868 + 2 + 8 + 4 + 8 * 14
    flow = [v for k, v in found.items() if ".flow." in k and v.is_floating_point()]
    assert sum(v.numel() for v in flow) == pytest.approx(36.10e6, rel=1e-3)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "humr.ckpt"
    torch.save(lightning(humr_state(), monkeypatch), path)
    monkeypatch.undo()  # the reader does not have the class of the settings
    return path


def test_a_lightning_file_is_read_with_settings_and_without_their_code(checkpoint):
    allowed = set(torch.serialization.get_safe_globals())
    humr, backbone, model = checkpoints.read_humr(checkpoint, SMALL)
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert model == SMALL
    state = humr_state()
    assert torch.equal(backbone.conv1.weight, state["model.backbone.conv1.weight"])
    assert torch.equal(humr.head.fc1.weight, state["model.head.fc1.weight"])
    assert not humr.training


def test_the_clamp_comes_from_the_settings(tmp_path, monkeypatch, humr_batch):
    path = tmp_path / "humr.ckpt"
    torch.save(lightning(humr_state(), monkeypatch, clamp=3.0), path)
    humr, _, model = checkpoints.read_humr(path, SMALL)
    assert model.clamp == 3.0
    reference = HumrReference(humr_state())
    inputs = (humr_batch.features, humr_batch.keypoints, humr_batch.box_info)
    condition = reference.condition(*(value.numpy() for value in inputs))
    noise = np.zeros((5, 132), np.float32)
    expected, _ = reference.run(noise, condition, inverse=True, clamp=3.0)
    other, _ = reference.run(noise, condition, inverse=True)
    found = humr.flow.mode(humr.observe(humr_batch).condition)
    close(found, expected, 1e-5)
    assert np.abs(expected - other).max() > 0.01


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ([1, 2], r"\[1, 2\]"),
        (3.0, r"3\.0"),
        ({"FREIA_NF": ["CLAMP"]}, r"\['CLAMP'\]"),
        ({"FREIA_NF": 2.0}, r"2\.0"),
        ({"FREIA_NF": {"CLAMP": "two"}}, "'two'"),
        ({"FREIA_NF": {"CLAMP": 0}}, "0"),
        ({"FREIA_NF": {"CLAMP": float("nan")}}, "nan"),
        ({"FREIA_NF": {"CLAMP": None}}, "None"),
    ],
)
def test_settings_of_another_form_are_refused(tmp_path, settings, got):
    path = tmp_path / "humr.ckpt"
    torch.save({"state_dict": humr_state(), "hyper_parameters": settings}, path)
    with pytest.raises(
        ValueError, match=rf"humr\.ckpt: hyper_parameters must .*; got {got}\. Usual"
    ):
        checkpoints.read_humr(path, SMALL)


@pytest.mark.parametrize("settings", [{}, None, {"FREIA_NF": {}}, {"FREIA_NF": {"CLAMP": 2}}])
def test_settings_may_say_nothing(tmp_path, settings):
    path = tmp_path / "humr.ckpt"
    torch.save({"state_dict": humr_state(), "hyper_parameters": settings}, path)
    assert checkpoints.read_humr(path, SMALL)[2] == SMALL


def test_weights_alone_are_read_too(tmp_path):
    path = tmp_path / "stripped.ckpt"
    torch.save({"state_dict": humr_state()}, path)
    assert checkpoints.read_humr(path, SMALL)[2] == SMALL


def test_a_converted_humr_loads_like_any_checkpoint_of_ours(checkpoint, tmp_path, humr_batch):
    checkpoints.convert_humr(checkpoint, tmp_path / "converted", SMALL)
    model, about = runs.load(tmp_path / "converted")
    assert isinstance(model, Humr)
    assert about["official"] == "humr.ckpt"
    assert len(about["sha256"]) == 64
    expected, backbone, _ = checkpoints.read_humr(checkpoint, SMALL)
    mode = expected.flow.mode(expected.observe(humr_batch).condition)
    assert torch.equal(model.flow.mode(model.observe(humr_batch).condition), mode)
    stem = tmp_path / "converted-backbone"
    loaded, _ = load_model(stem, lambda about: HRNet(about["width"]))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(images), backbone(images))


# -------------------------------------------------------------------------- ICCV 2021


@pytest.fixture
def lifting_batch(generator):
    pose = 0.3 * torch.randn(4, 16, 3, generator=generator, dtype=torch.float64)
    points = torch.randn(4, 16, 2, generator=generator, dtype=torch.float64)
    condition = torch.rand(4, 13, 6, generator=generator, dtype=torch.float64)
    return LiftingBatch(pose, points, condition, complete(pose))


def as_kind(batch, dtype):
    values = (batch.pose, batch.points, batch.condition, batch.target)
    return LiftingBatch(*(value.to(dtype) for value in values))


@pytest.mark.parametrize("slope", [0.636, 2 / np.pi])
@pytest.mark.parametrize(("dtype", "tolerance"), KINDS)
def test_lifting_computes_what_the_official_equations_say(
    dtype, tolerance, slope, lifting_batch, generator
):
    state, batch = lifting_state(dtype), as_kind(lifting_batch, dtype)
    model, config = checkpoints.lifting_from_official(state, LIFTING, slope=slope)
    assert config.blocks == 9
    projected, reference = model.project(batch), LiftingReference(state)
    gaussians = batch.condition.numpy()

    output, log_det = reference.run(axis_major(batch.pose), gaussians, inverse=False, slope=slope)
    z, points, _ = model.forward_pose(batch.pose, projected)
    assert np.abs(output).std() > 0.3
    close(z, output[:, :16], tolerance)
    close(points, joint_major(output[:, 16:]), tolerance)
    change = model.flow.normalize(batch.pose.flatten(1)[:, None], projected)[1]
    close(change[:, 0], log_det, tolerance)

    z = torch.randn(4, 1, 16, generator=generator, dtype=dtype)
    vector = np.hstack([z[:, 0].numpy(), axis_major(batch.points)])
    poses, _ = reference.run(vector, gaussians, inverse=True, slope=slope)
    close(model.lift(z, batch.points, projected)[:, 0], joint_major(poses), tolerance)
    vector[:, :16] = 0
    mode = torch.from_numpy(
        joint_major(reference.run(vector, gaussians, inverse=True, slope=slope)[0])
    )
    close(model.mode(batch), complete(mode).numpy(), tolerance)


def test_the_two_constants_are_not_the_same_function(lifting_batch):
    """0.636 and 2 / pi differ by 0.1 %: more than rounding, so the official one is the rule."""
    state, batch = lifting_state(torch.float64), lifting_batch
    trained, config = checkpoints.lifting_from_official(state, LIFTING)
    printed, other = checkpoints.lifting_from_official(state, LIFTING, slope=2 / np.pi)
    assert config.clamp == pytest.approx(2 * 0.99903, rel=1e-5)
    assert other.clamp == 2
    difference = (trained.mode(batch) - printed.mode(batch)).abs().max()
    assert 1e-5 < difference < 0.1


def test_permutations_are_those_of_the_seeds():
    """The first numbers as published code prints them."""
    model, _ = checkpoints.lifting_from_official(lifting_state(), LIFTING)
    orders = [module.permutation for module in model.flow.module_list[1::2]]
    assert orders[0][:18].tolist() == [*range(0, 48, 3), 1, 4]
    assert orders[1][:5].tolist() == [29, 4, 26, 30, 32]
    assert orders[2][:5].tolist() == [33, 23, 38, 36, 2]
    last = np.random.RandomState(7).permutation(48)
    assert orders[8][:16].tolist() == last[:16].tolist()
    assert orders[8][16:20].tolist() == [last[16], last[32], last[17], last[33]]


def test_the_first_coupling_is_idle(lifting_batch):
    model, _ = checkpoints.lifting_from_official(lifting_state(torch.float64), LIFTING)
    x = lifting_batch.pose.flatten(1)
    projected = model.project(lifting_batch)
    (same,), log_det = model.flow.module_list[0]((x,), c=tuple(projected[:, :2].unbind(1)))
    assert torch.equal(same, x)
    assert torch.equal(log_det, torch.zeros(4).double())


def test_lifting_goes_back():
    """Bit by bit with 2 / pi; else the rows of the log-scales may differ in the last bit."""
    state = lifting_state()
    model, _ = checkpoints.lifting_from_official(state, LIFTING, slope=2 / np.pi)
    back = checkpoints.lifting_to_official(model, slope=2 / np.pi)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    model, _ = checkpoints.lifting_from_official(state, LIFTING)
    for key, value in checkpoints.lifting_to_official(model).items():
        torch.testing.assert_close(value, state[key], rtol=2.5e-7, atol=0)
        if ".s" not in key or ".0." in key:
            assert torch.equal(value, state[key])


def test_lifting_has_the_full_official_layout(tmp_path):
    shapes = lifting_shapes()
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 2_157_176
    path = tmp_path / "model.pt"
    state = random_state(shapes, torch.Generator().manual_seed(0))
    torch.save({"net": state | {"inn.tmp_var_3": torch.ones(2)}, "opt": {"state": {}}}, path)
    model, config = checkpoints.read_lifting(path)
    assert config.hidden == 1028
    found = checkpoints.lifting_to_official(model)
    assert {key: tuple(value.shape) for key, value in found.items()} == shapes


def test_a_converted_lifting_flow_loads_like_any_checkpoint_of_ours(tmp_path, lifting_batch):
    torch.save({"net": lifting_state()}, tmp_path / "model.pt")
    expected, _ = checkpoints.read_lifting(tmp_path / "model.pt", LIFTING)
    checkpoints.convert_lifting(tmp_path / "model.pt", tmp_path / "converted", LIFTING)
    model, _ = runs.load(tmp_path / "converted")
    batch = as_kind(lifting_batch, torch.float32)
    assert torch.equal(model.mode(batch), expected.mode(batch))


def test_a_converted_lifting_flow_is_measured_on_human36m(tmp_path, monkeypatch):
    """Its description is that of the paper's run, with the converted sizes."""
    torch.save({"net": lifting_state()}, tmp_path / "model.pt")
    checkpoints.convert_lifting(tmp_path / "model.pt", tmp_path / "converted", LIFTING)
    _, about = runs.load(tmp_path / "converted")
    run = from_dict(LiftingRun, about["run"])
    assert (about["system"], type(run)) == ("lifting_paper", LiftingPaperRun)
    assert run.model.blocks == LIFTING.blocks + 1

    formats.write_lifting_world(tmp_path / "licensed")
    monkeypatch.setattr(lifting, "ROOT", tmp_path / "licensed")
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    for split, images in (("test", 2), ("ambiguous", 3), ("outdoor", 4)):
        rows = runs.evaluated(tmp_path / "converted", run.world, split, hypotheses=3)
        assert len(rows) == images
        assert np.isfinite(rows["mpjpe_best"]).all()


# ------------------------------------------------------------------------ wrong files


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


def swapped(state, key, first, second):
    order = state[key].clone()
    order[first] = order[second]
    return state | {key: order}


BIAS, PERM = "model.head.fc1.bias", "model.flow.module_list.3.perm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, BIAS), r"1 missing \(model\.head\.fc1\.bias\)\. Usual cause"),
        (lambda s: s | {"model.extra": s[BIAS]}, r"1 unknown \(model\.extra\)"),
        (lambda s: s | {"loss.weight": s[BIAS]}, r"1 unknown \(loss\.weight\)"),
        (lambda s: s | {"J_regressor_extra": s[BIAS]}, "1 unknown"),
        (lambda s: s | {7: s[BIAS]}, r"1 unknown \(7\)"),
        (
            lambda s: s | {BIAS: s[BIAS][:7]},
            r"1 of another shape \(model\.head\.fc1\.bias \(7,\), expected \(20,\)\)",
        ),
        (lambda s: s | {BIAS: "text"}, r"1 of another shape \(model\.head\.fc1\.bias \(\)"),
        (lambda s: swapped(s, PERM, 5, 9), r"1 no permutation and its inverse \(.*\.3\.perm\)"),
        (lambda s: s | {f"{PERM}_inv": s[PERM]}, r"1 no permutation and its inverse"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.humr_from_official(change(humr_state()), SMALL)


def test_one_error_counts_everything_and_names_five():
    state = humr_state()
    flow = [key for key in state if ".flow." in key]
    with pytest.raises(ValueError, match="is not the network") as caught:
        checkpoints.humr_from_official(
            without(state | {"a": state[BIAS]}, *flow), SMALL, name="x.ckpt"
        )
    message = str(caught.value)
    assert message.startswith(
        "x.ckpt is not the network that was expected. Tensors: 112 missing ("
    )
    assert message.count("module_list") == 5
    assert ", ...); 1 unknown (a). Usual cause" in message


def test_other_sizes_of_lifting_are_refused():
    with pytest.raises(ValueError, match=r"16 missing|of another shape"):
        checkpoints.lifting_from_official(lifting_state(hidden=30), LIFTING)
    with pytest.raises(ValueError, match=r"8 missing \(inn\.module_list\.15\.s1\.0\.weight"):
        checkpoints.lifting_from_official(lifting_state(blocks=7), LIFTING)


def test_a_lightning_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"net.weight": torch.ones(2)}, "epoch": 1}, path)
    with pytest.raises(
        ValueError, match=r"other\.ckpt is not the network .* 1 unknown \(net\.wei"
    ):
        checkpoints.read_humr(path, SMALL)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {}},
        {"net": {}},
        {"state_dict": {}, "ema": {}},
        {"state_dict": [torch.ones(2)]},
        [1, 2],
        humr_state(),
    ],
    ids=["model", "net", "ema", "no_names", "list", "bare"],
)
def test_another_top_level_is_refused(content, tmp_path):
    path = tmp_path / "humr.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"humr\.ckpt: expected 'state_dict' and at most"):
        checkpoints.read_humr(path, SMALL)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*model\.pt; get it from the rep"):
        checkpoints.read_lifting(tmp_path / "model.pt")
    inside = DATA / "official" / "model.pt"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint official.model\.pt; get it"):
        checkpoints.read_lifting(inside)


@pytest.mark.parametrize(
    ("system", "site"), [("humr", r"cloud\.tnt\S+"), ("lifting", r"the repository \S+ its .*")]
)
def test_the_command_says_where_a_missing_file_is_from(system, site, monkeypatch, capsys):
    monkeypatch.chdir(DATA.parent)
    assert checkpoints.main([system, "data/licensed/ckpt/none.ckpt", "out"]) == 1
    said = "".join(capsys.readouterr())
    expected = (
        rf"humr: no checkpoint licensed/ckpt/none\.ckpt; get it from {site}\. data/README\.md"
    )
    assert re.search(expected, said)


@pytest.mark.parametrize("size", [0, 3, 500, 20_000])
def test_a_truncated_file_is_refused(size, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"net": lifting_state()}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.pt cannot be read .*partial download"):
        checkpoints.read_lifting(path, LIFTING)


def test_a_text_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("<html>Sign in to download</html>")
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as a file of torch"):
        checkpoints.read_lifting(path)


@pytest.mark.parametrize("content", [b"abc", b"<html>Sign in to download</html>", b"PK\x03\x04"])
def test_the_command_names_a_file_that_is_none_of_torch(content, tmp_path, capsys):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert checkpoints.main(["lifting", str(path), str(tmp_path / "ours")]) == 1
    said = "".join(capsys.readouterr())
    assert f"humr: {path} cannot be read as a file of torch" in said
    assert "weights_only" not in said


def test_weights_that_are_not_finite_are_refused(tmp_path):
    for name in ("cond_net.0.bias", "inn.module_list.3.s1.2.weight"):
        state = {key: value.clone() for key, value in lifting_state().items()}
        state[name][0] = torch.nan
        torch.save({"net": state}, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=rf"model\.pt must hold finite weights; .*\({name}\)"):
            checkpoints.read_lifting(tmp_path / "model.pt", LIFTING)
    state = {key: value.clone() for key, value in humr_state().items()}
    state["model.backbone.bn1.running_var"][0] = torch.inf
    with pytest.raises(
        ValueError, match=r"finite weights; .*\(model\.backbone\.bn1\.running_var\)"
    ):
        checkpoints.humr_from_official(state, SMALL)


class Trap:
    """Makes a folder when it is read by someone careless."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_named_and_not_run(legacy, tmp_path):
    path, folder = tmp_path / "humr.ckpt", tmp_path / "run"
    content = {"state_dict": {}, "hyper_parameters": {"x": Trap(folder)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"humr\.ckpt holds (posix|nt)\.mkdir beside tensors"):
        checkpoints.read_humr(path, SMALL)
    assert not folder.exists()


def test_settings_cannot_smuggle_a_call(tmp_path, monkeypatch):
    """The stand-in for the settings makes a dictionary, whatever arguments it is given."""
    path = tmp_path / "humr.ckpt"
    content = lightning(humr_state(), monkeypatch)
    node = type(content["hyper_parameters"]["MODEL"])
    content["hyper_parameters"]["MODEL"] = node({"x": Trap(tmp_path / "run")})
    torch.save(content, path)
    with pytest.raises(ValueError, match="could run code"):
        checkpoints.read_humr(path, SMALL)
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------- command line


def test_the_command_converts(checkpoint, tmp_path, monkeypatch, capsys):
    small = partial(checkpoints.convert_humr, model=SMALL)
    monkeypatch.setattr(checkpoints, "convert_humr", small)
    assert checkpoints.main(["humr", str(checkpoint), str(tmp_path / "ours")]) == 0
    model, about = runs.load(tmp_path / "ours")
    assert isinstance(model, Humr)
    assert about["run"]["world"]["test"] == ["3dpw-test-cam", "emdb-p1", "emdb-p1-occl"]
    assert checkpoints.main(["lifting", str(checkpoint), str(tmp_path / "other")]) == 1
    assert "expected 'net'" in "".join(capsys.readouterr())
    assert not (tmp_path / "other.safetensors").exists()


def test_another_backbone_than_the_one_that_is_evaluated_is_noticed(checkpoint, tmp_path):
    _, backbone, _ = checkpoints.read_humr(checkpoint, SMALL)
    assert checkpoints.compared(backbone, tmp_path)[0] == "unknown"
    path = tmp_path / checkpoints.BACKBONE
    path.parent.mkdir(parents=True)
    torch.save(backbone.state_dict(), path)
    assert checkpoints.compared(backbone, tmp_path)[0] == "same"
    changed = {key: value.clone() for key, value in backbone.state_dict().items()}
    changed["final_layer.weight"][0, 0] += 1
    torch.save(changed, path)
    known, text = checkpoints.compared(backbone, tmp_path)
    assert known == "another"
    assert f"1 of {len(changed)} tensors (final_layer.weight" in text
