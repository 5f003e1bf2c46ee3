"""Looks at official checkpoints: names and shapes of some tensors, and a few of their numbers.

Files of torch are mapped, so that only what is looked at is read; those of versions before 1.6 are
read as a whole. The readers (`official`, `feature_cache`, `vitpose`) compare everything.
"""

from dataclasses import dataclass
from pathlib import Path

from torch.utils.serialization import config

from humr.file_checks import Shapes, contains, size
from humr.licensed import shown
from humr.strict_weights import load
from humr.vitpose import KNOWN

FEW = 1000  # numbers of a tensor that must not all be zero
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # files of torch begin with one or the other


@dataclass(frozen=True)
class Network:
    """What tells an official network from others.

    Args:
        shapes: of some of its tensors.
        weights: the key that holds them.
        known: keys that may be beside it.
        bare: whether the file may be the weights alone.
    """

    shapes: Shapes
    weights: str = "state_dict"
    known: frozenset[str] = frozenset()
    bare: bool = False


BACKBONE = Network(  # HRNet-W48
    {
        "conv1.weight": (64, 3, 3, 3),
        "stage4.2.branches.3.3.conv2.weight": (384, 384, 3, 3),
        "downsample_stage_1.6.weight": (48, 48, 3, 3),
        "final_layer.weight": (24, 48, 1, 1),
    },
    bare=True,
)
HUMR = Network(
    {
        "model.backbone.conv1.weight": (64, 3, 3, 3),
        "model.joints_enc.0.weight": (512, 51),
        "model.head.fc1.weight": (1024, 993),
        "model.flow.module_list.0.subnet1.0.weight": (1024, 1045),
        "model.flow.module_list.14.subnet2.6.weight": (132, 1024),
        "model.flow.module_list.15.perm": (132,),
    },
    known=frozenset(
        {"epoch", "global_step", "pytorch-lightning_version", "optimizer_states",
         "lr_schedulers", "callbacks", "loops", "hyper_parameters"}
    ),
)  # fmt: skip
VITPOSE_H = Network(
    {
        "backbone.pos_embed": (1, 193, 1280),
        "backbone.blocks.31.attn.qkv.weight": (3840, 1280),
        "keypoint_head.deconv_layers.0.weight": (1280, 256, 4, 4),
        "keypoint_head.final_layer.weight": (17, 256, 1, 1),
    },
    known=frozenset(KNOWN),
    bare=True,
)
LIFTING_FLOW = Network(  # the flow of ICCV 2021
    {
        "inn.module_list.1.s1.0.weight": (1028, 80),
        "inn.module_list.15.s2.2.weight": (48, 1028),
        "cond_net.0.weight": (256, 78),
        "cond_net.2.weight": (56, 256),
    },
    weights="net",
    known=frozenset({"opt"}),
)


def checkpoint(path: Path, *, network: Network) -> str:
    """A checkpoint of this network, of the official sizes."""
    with path.open("rb") as file:
        begin = file.read(len(_ZIP))
    if not begin.startswith((_ZIP, _PICKLE)):
        raise ValueError(
            f"{shown(path)} is no file of torch: it must begin with {_ZIP} or {_PICKLE}; got "
            f"{begin}. Usual cause: a page of a web site saved under this name, or a download "
            "that reserved its place and was not filled"
        )
    with config.patch("load.mmap", begin == _ZIP):  # pyright: ignore[reportAttributeAccessIssue]
        content = load(path, network.weights, set(network.known), bare=network.bare)
    state = content[network.weights]
    contains(path, {key: getattr(v, "shape", ()) for key, v in state.items()}, network.shapes)
    for key in network.shapes:
        if not state[key].flatten()[:FEW].any():
            raise ValueError(
                f"{shown(path)}: {key} must hold numbers; its first are all 0. Usual cause: a "
                "download that reserved its place and was not filled"
            )
    return f"{size(path)}, {len(state)} tensors"
