"""Official checkpoints in small: the same keys, orders, kinds and oddities, random values.

Written down name by name, and not derived from the networks that read them.
"""

import math
import sys
import types

import numpy as np
import torch

JOINTS, BETAS, DIM = 22, 11, 132


def _norm(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def _conv_norm(conv, norm, inputs, outputs, size=3):
    return {f"{conv}.weight": (outputs, inputs, size, size)} | _norm(norm, outputs)


def _exchange(name, widths):
    shapes = {}
    for b, w in enumerate(widths):
        for n in range(4):
            block = f"{name}.branches.{b}.{n}"
            shapes |= _conv_norm(f"{block}.conv1", f"{block}.bn1", w, w)
            shapes |= _conv_norm(f"{block}.conv2", f"{block}.bn2", w, w)
    for i, after in enumerate(widths):
        for j, before in enumerate(widths):
            fuse = f"{name}.fuse_layers.{i}.{j}"
            if j > i:
                shapes |= _conv_norm(f"{fuse}.0", f"{fuse}.1", before, after, 1)
            for k in range(i - j):
                out = after if k == i - j - 1 else before
                shapes |= _conv_norm(f"{fuse}.{k}.0", f"{fuse}.{k}.1", before, out)
    return shapes


def hrnet_shapes(width=48):
    """Shapes of the backbone's tensors by name."""
    w = [width, 2 * width, 4 * width, 8 * width]
    shapes = _conv_norm("conv1", "bn1", 3, 64) | _conv_norm("conv2", "bn2", 64, 64)
    for n in range(4):
        block, inputs = f"layer1.{n}", 256 if n else 64
        shapes |= _conv_norm(f"{block}.conv1", f"{block}.bn1", inputs, 64, 1)
        shapes |= _conv_norm(f"{block}.conv2", f"{block}.bn2", 64, 64)
        shapes |= _conv_norm(f"{block}.conv3", f"{block}.bn3", 64, 256, 1)
    shapes |= _conv_norm("layer1.0.downsample.0", "layer1.0.downsample.1", 64, 256, 1)
    shapes |= _conv_norm("transition1.0.0", "transition1.0.1", 256, w[0])
    shapes |= _conv_norm("transition1.1.0.0", "transition1.1.0.1", 256, w[1])
    shapes |= _conv_norm("transition2.2.0.0", "transition2.2.0.1", w[1], w[2])
    shapes |= _conv_norm("transition3.3.0.0", "transition3.3.0.1", w[2], w[3])
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        for m in range(modules):
            shapes |= _exchange(f"stage{stage}.{m}", w[:stage])
    for stage, halvings in ((1, 3), (2, 2), (3, 1)):
        for n in range(halvings):
            name, c = f"downsample_stage_{stage}", w[stage - 1]
            shapes |= _conv_norm(f"{name}.{3 * n}", f"{name}.{3 * n + 1}", c, c)
    return shapes | {"final_layer.weight": (24, width, 1, 1), "final_layer.bias": (24,)}


def _linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def humr_shapes(*, width=48, pose_hidden=512, pose=256, hidden=1024, head=1024, blocks=8):
    """Shapes of the tensors of HuMR's network by name, without the ignored buffers."""
    context = 15 * width + pose + 3
    shapes = {f"backbone.{key}": shape for key, shape in hrnet_shapes(width).items()}
    shapes |= {"head.init_shape": (1, BETAS), "head.init_cam": (1, 3)}
    shapes |= _linear("head.fc1", context + BETAS + 3, head) | _linear("head.fc2", head, head)
    shapes |= _linear("head.decshape", head, BETAS) | _linear("head.deccam", head, 3)
    shapes |= _linear("joints_enc.0", 51, pose_hidden) | _linear("joints_enc.2", pose_hidden, pose)
    for k in range(blocks):
        for net in ("subnet1", "subnet2"):
            name = f"flow.module_list.{2 * k}.{net}"
            shapes |= _linear(f"{name}.0", DIM // 2 + context, hidden)
            shapes |= _linear(f"{name}.3", hidden, hidden) | _linear(f"{name}.6", hidden, DIM)
        shapes |= {f"flow.module_list.{2 * k + 1}.{p}": (DIM,) for p in ("perm", "perm_inv")}
    return {f"model.{key}": shape for key, shape in shapes.items()}


def lifting_shapes(*, hidden=1028, condition_hidden=256, condition_width=56, blocks=8):
    """Shapes of the tensors of ICCV 2021's network by name."""
    shapes = {}
    for k in range(blocks):
        for net in ("s1", "s2"):
            name = f"inn.module_list.{2 * k + 1}.{net}"
            shapes |= _linear(f"{name}.0", 24 + condition_width, hidden)
            shapes |= _linear(f"{name}.2", hidden, 48)
    shapes |= _linear("cond_net.0", 78, condition_hidden)
    return shapes | _linear("cond_net.2", condition_hidden, condition_width)


def vitpose_shapes(*, width=1280, depth=32, filters=256, tokens=192):
    """Shapes of the tensors of ViTPose with its simple decoder by name."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.pos_embed": (1, tokens + 1, width)}
    shapes["backbone.patch_embed.proj.weight"] = (width, 3, 16, 16)
    shapes["backbone.patch_embed.proj.bias"] = (width,)
    for n in range(depth):
        block = f"backbone.blocks.{n}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        shapes |= _linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= _linear(f"{block}.mlp.fc2", 4 * width, width)
    shapes |= {f"backbone.last_norm.{part}": (width,) for part in ("weight", "bias")}
    for number, inputs in ((0, width), (3, filters)):
        deconvolution, norm = (f"keypoint_head.deconv_layers.{k}" for k in (number, number + 1))
        shapes[f"{deconvolution}.weight"] = (inputs, filters, 4, 4)
        shapes |= _norm(norm, filters)
    final = "keypoint_head.final_layer"
    return shapes | {f"{final}.weight": (17, filters, 1, 1), f"{final}.bias": (17,)}


def random_state(shapes, generator, dtype=torch.float32):
    """A state dict of random values of sensible size; permutations as FrEIA draws them."""
    state = {}
    for key, shape in shapes.items():
        block = [int(part) for part in key.split(".") if part.isdigit()][:1]
        if key.endswith((".perm", ".perm_inv")):
            order = torch.from_numpy(np.random.RandomState(block[0] // 2).permutation(shape[0]))
            state[key] = order if key.endswith(".perm") else order.argsort()
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1234)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(shape, generator=generator, dtype=dtype)
        elif key.endswith("weight") and len(shape) == 1:  # of a batch norm
            state[key] = 1 + 0.3 * torch.randn(shape, generator=generator, dtype=dtype)
        else:
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
            draw = torch.randn(shape, generator=generator, dtype=dtype)
            # eight couplings multiply their scales; the camera changes little in three steps
            mild = 0.4 if "module_list" in key else 0.05 if "deccam" in key else 1
            state[key] = mild * draw / math.sqrt(fan_in)
    if "model.head.init_cam" in state:
        state["model.head.init_cam"] = torch.tensor([[0.9, 0.05, -0.1]], dtype=dtype)
    return state


def settings_class():
    """A class that pickles like yacs' CfgNode: a dictionary with a few attributes."""

    class CfgNode(dict):
        def __init__(self, values):
            super().__init__(values)
            self.__dict__.update(
                __immutable__=False, __deprecated_keys__=set(), __renamed_keys__={}
            )

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    return CfgNode


def lightning(state, monkeypatch, *, clamp=2.0):
    """The content of HuMR's Lightning checkpoint; call `torch.save` while the patch lasts."""
    config = types.ModuleType("yacs.config")
    node = config.CfgNode = settings_class()
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", config)
    buffers = {
        "smplx.v_template": torch.ones(5, 3),
        "smplx.shapedirs": torch.ones(5, 3, 11),
        "smpl_neutral.J_regressor": torch.ones(24, 5),
        "J_regressor": torch.ones(17, 5),
    }
    later = {"model.smpl.smplx.v_template": torch.ones(5, 3)}
    return {
        "epoch": 29,
        "global_step": 400_000,
        "pytorch-lightning_version": "2.0.6",
        "state_dict": buffers | state | later,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 30}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'train_loss_epoch'}": {
                "best_model_score": torch.tensor(0.4), "dirpath": "logs", "best_k_models": {},
            }
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hyper_parameters": {
            "LOG_DIR": "logs",
            "FREIA_NF": node({"CLAMP": clamp, "N_BLOCKS": 8, "FC_SIZE": 1024, "DROPOUT": 0.0}),
            "MODEL": node({"BACKBONE": "hrnet_w48-conv"}),
        },
    }  # fmt: skip
