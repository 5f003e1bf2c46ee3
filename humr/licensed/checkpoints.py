r"""Official checkpoints become our networks: HuMR (WACV 2025) and the lifting flow (ICCV 2021).

Reading is strict and runs nothing that is in a file (`readers`). What comes out is `Humr` with its
image backbone `HRNet`, or `LiftingFlow`; ``python3 -m humr convert humr FILE STEM`` writes them as
checkpoints of ours, and from there on nothing is special.

**Lifting.** The official vectors are $(x_0 \ldots x_{15}, y_0 \ldots, z_0 \ldots)$, ours are joint
after joint, and the first coupling's halves differ as sets: no reordering of weights can help.
Hence a leading block whose coupling is idle (all its weights are 0) and whose permutation brings
our order into the official one; the last permutation brings the 2D pose back. The official
permutations are not stored, but drawn again from their seeds.

FrEIA at the commit that ICCV 2021 used has the log-scale $0.636\,\alpha \arctan(u / \alpha)$;
`flows.paper_clamp`, $(2 \alpha' / \pi) \arctan(u' / \alpha')$, is the same function of $u$ if
$\alpha' = \kappa \alpha$ and $u' = \kappa u$ with $\kappa = 0.636\,\pi / 2 = 0.99903$. So the
limit and the rows that predict $u$ are multiplied by $\kappa$.
"""

import argparse
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr.config import Model, to_dict
from humr.files import digest, existing, say, shown
from humr.flows import FixedPermutation
from humr.licensed.datasets import LICENSED, LiftingPaperRun, PaperRun
from humr.licensed.inventory import PUBLISHERS
from humr.licensed.readers import check, fill, load
from humr.lifting.config import LiftingModel
from humr.lifting.flow import LATENT, POINTS, POSE, LiftingFlow
from humr.model import BETAS, Humr
from humr.storage import save_model

# Top level of HuMR's Lightning file.
LIGHTNING = {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "optimizer_states",
             "lr_schedulers", "callbacks", "loops", "hyper_parameters"}  # fmt: skip
# Body models and joint regressors: no part of the network. A body file takes their place.
IGNORED = ("smplx.", "smpl_neutral.", "model.smpl.")
OURS_ALONE = ("encoder.feature_mean", "encoder.feature_std", "flow.mean", "flow.std")
BACKBONE = "ckpt/bedlam_cliff_3dpw_ft_backbone.pth"
CHANNELS = 15  # all four branches of the backbone, in widths of the finest
LIFTING = LiftingModel(hidden=1028)
SLOPE = 0.636  # FrEIA's 2 / pi
HUMR_SITE = PUBLISHERS["HuMR weights"].site
LIFTING_SITE = "the repository of its authors (ICCV 2021), which links it"

# ------------------------------------------------------------------------------- HRNet
#
# HRNet-W48 as HuMR's image backbone: a 224 x 224 crop to 720 numbers. Four branches at strides 4,
# 8, 16 and 32 work side by side and exchange what they found (Sun et al. 2019, *Deep
# High-Resolution Representation Learning*). At the end, strided convolutions bring the three
# finer branches down to the coarsest; side by side they have 48 + 96 + 192 + 384 channels, whose
# means over the image are the feature (BEDLAM-CLIFF, HuMR). Names of parameters are the official.

MODULES = (1, 4, 3)  # of stages 2, 3 and 4, which have as many branches as their number
STEM, WIDE = 64, 256  # channels before and after stage 1
JOINTS = 24  # of the layer that estimated heatmaps once
STRIDE = 32  # of the coarsest branch


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _normed(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, size, stride), nn.BatchNorm2d(outputs))


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    """Half the resolution."""
    return _normed(inputs, outputs, stride=2).append(nn.ReLU())


class Residual(nn.Module):
    r"""Convolutions around which the input is added, $\mathrm{relu}(f(x) + P x)$.

    $P$ is the identity, or a 1 x 1 convolution where the number of channels changes.
    """

    def __init__(self, inputs: int, widths: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(widths)
        steps = zip(pairwise([inputs, *widths]), sizes, strict=True)
        for number, ((before, after), size) in enumerate(steps, 1):
            self.add_module(f"conv{number}", _conv(before, after, size))
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
        same = inputs == widths[-1]
        self.downsample = nn.Identity() if same else _normed(inputs, widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        change = x
        for number in range(1, self.depth + 1):
            change = functional.relu(change) if number > 1 else change
            change = self.get_submodule(f"conv{number}")(change)
            change = self.get_submodule(f"bn{number}")(change)
        return functional.relu(change + self.downsample(x))


class Exchange(nn.Module):
    """Four basic blocks per branch; then every branch receives the sum of all, resampled."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Residual(width, (width, width), (3, 3)) for _ in range(4)))
            for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_resampling(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Refine the maps of all branches."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for row in self.fuse_layers:
            assert isinstance(row, nn.ModuleList)
            total = sum(layer(x) for layer, x in zip(row, maps, strict=True))
            fused.append(functional.relu(torch.as_tensor(total)))
        return fused


def _resampling(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch's channels and resolution to another's."""
    inputs, outputs, steps = widths[source], widths[target], target - source
    if steps == 0:
        return nn.Identity()
    if steps < 0:
        return _normed(inputs, outputs, 1).append(nn.Upsample(scale_factor=2**-steps))
    middle = [_halving(inputs, inputs) for _ in range(steps - 1)]
    return nn.Sequential(*middle, _normed(inputs, outputs, stride=2))


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Layers before a stage; the last one opens a branch of half the resolution."""
    old = [
        nn.Identity() if i == o else _normed(i, o).append(nn.ReLU())
        for i, o in zip(before, after[:-1], strict=True)
    ]
    return nn.ModuleList([*old, nn.Sequential(_halving(before[-1], after[-1]))])


class HRNet(nn.Module):
    """The backbone; random weights until official ones are loaded.

    It is frozen: nothing in it needs a gradient, and it stays in evaluation mode whatever is asked
    of it. `final_layer` belongs to the weights and is not used.

    Args:
        width: channels of the finest branch; each coarser one has twice as many. 48 in HuMR.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive; got {width}")
        widths = [width * 2**branch for branch in range(4)]
        self.conv1, self.bn1 = _conv(3, STEM, stride=2), nn.BatchNorm2d(STEM)
        self.conv2, self.bn2 = _conv(STEM, STEM, stride=2), nn.BatchNorm2d(STEM)
        self.layer1 = nn.Sequential(
            *(Residual(inputs, (STEM, STEM, WIDE), (1, 3, 1)) for inputs in (STEM, *[WIDE] * 3))
        )
        before = [WIDE]
        for number, modules in enumerate(MODULES, 1):
            now = widths[: number + 1]
            self.add_module(f"transition{number}", _transition(before, now))
            stage = nn.Sequential(*(Exchange(now) for _ in range(modules)))
            self.add_module(f"stage{number + 1}", stage)
            before = now
        for number, channels in enumerate(widths[:3], 1):
            halvings = (_halving(channels, channels) for _ in range(4 - number))
            layers = [layer for halving in halvings for layer in halving]
            self.add_module(f"downsample_stage_{number}", nn.Sequential(*layers))
        self.final_layer = nn.Conv2d(width, JOINTS, 1)
        self.features = sum(widths)
        self.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> "HRNet":  # noqa: FBT001, FBT002
        """Stay in evaluation mode: the statistics of the batch norms are part of the weights."""
        del mode
        return super().train(mode=False)

    def branches(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch channels rows columns"]]:
        """Maps of the four branches, of strides 4, 8, 16 and 32, finest first."""
        if images.shape[-1] % STRIDE or images.shape[-2] % STRIDE:
            size = tuple(images.shape[-2:])
            raise ValueError(f"height and width must be multiples of {STRIDE} px; got {size}")
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for number in (1, 2, 3):
            transition = self.get_submodule(f"transition{number}")
            assert isinstance(transition, nn.ModuleList)
            sources = [*maps, maps[-1]]  # the new branch starts from the coarsest
            maps = [layer(source) for layer, source in zip(transition, sources, strict=True)]
            maps = self.get_submodule(f"stage{number + 1}")(maps)
        return maps

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Features of RGB crops with ImageNet's mean and deviation, 224 x 224 pixels in HuMR."""
        *finer, coarsest = self.branches(images)
        down = [self.get_submodule(f"downsample_stage_{n}")(m) for n, m in enumerate(finer, 1)]
        return torch.cat([*down, coarsest], 1).mean((2, 3))


def read_backbone(path: Path) -> HRNet:
    """Read the frozen backbone, bare weights under the names of `HRNet`; any width."""
    state = load(existing(path), "state_dict", set(), bare=True)["state_dict"]
    last = state.get("final_layer.weight")
    if getattr(last, "ndim", None) != 4:
        raise ValueError(
            f"{shown(path)}: expected the weights of HRNet by name, final_layer.weight among them."
            " Usual cause: a checkpoint of a whole network, or of another backbone"
        )
    network = HRNet(last.shape[1])
    check(shown(path), state, network.state_dict())
    network.load_state_dict(state)
    return network


# ------------------------------------------------------------------------------- HuMR


def read_humr(path: Path, model: Model | None = None) -> tuple[Humr, HRNet, Model]:
    """Read HuMR's Lightning checkpoint: network, image backbone, and configuration.

    The clamp leaves no trace in the weights; it comes from the file's own settings, if there are
    any (2 in the published configuration, 3 in the code's defaults). `model` has sizes other than
    the paper's.
    """
    content = load(_found(path, HUMR_SITE), "state_dict", LIGHTNING)
    model = model or Model()
    settings = content.get("hyper_parameters") or {}
    model = replace(model, clamp=_clamp(path, settings, model.clamp))
    humr, backbone = humr_from_official(content["state_dict"], model, name=shown(path))
    return humr, backbone, model


def _found(path: Path, site: str) -> Path:
    """Return the path of a checkpoint that is there; say how to get it otherwise."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint {shown(path)}; get it from {site}. data/README.md says where files go"
        )
    return path


def _clamp(path: Path, settings: object, default: float) -> float:
    """Return the clamp of a file's settings, or the default where these have none."""
    flow = settings.get("FREIA_NF", {}) if isinstance(settings, Mapping) else None
    clamp = flow.get("CLAMP", default) if isinstance(flow, Mapping) else None
    if isinstance(clamp, (int, float)) and 0 < clamp < math.inf:
        return float(clamp)
    wrong = next((each for each in (settings, flow) if not isinstance(each, Mapping)), clamp)
    raise ValueError(
        f"{shown(path)}: hyper_parameters must be settings by name, of which FREIA_NF.CLAMP, if "
        f"it is there, is a number above 0; got {wrong!r:.60}. Usual cause: a file that somebody "
        "changed, or a checkpoint of another project"
    )


def humr_from_official(
    state: Mapping[str, Tensor], model: Model, *, name: str = "the state dict"
) -> tuple[Humr, HRNet]:
    """Build network and backbone from an official state dict; `name` is for errors."""
    humr, backbone = Humr(model), HRNet(model.features // CHANNELS)
    weights = {
        key: value
        for key, value in state.items()
        if not str(key).startswith(IGNORED) and key != "J_regressor"
    }
    check(name, weights, humr_to_official(humr, backbone))
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    start = torch.cat([weights["head.init_shape"], weights["head.init_cam"]], -1)[0]
    own = {ours: weights[theirs] for ours, theirs in _humr_names(humr)}
    fill(humr, {**own, "head.start": start})
    fill(backbone, {key: weights[f"backbone.{key}"] for key in backbone.state_dict()})
    return humr, backbone


def humr_to_official(humr: Humr, backbone: HRNet) -> dict[str, Tensor]:
    """Return the official state dict, less the ignored buffers; inverts `humr_from_official`."""
    state = humr.state_dict()
    start = state["head.start"][None]
    head = {"head.init_shape": start[:, :BETAS], "head.init_cam": start[:, BETAS:]}
    own = {theirs: state[ours] for ours, theirs in _humr_names(humr)}
    parts = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    return {f"model.{key}": value for key, value in (parts | own | head).items()}


def _humr_names(humr: Humr) -> Iterator[tuple[str, str]]:
    """Our name and the official one of every tensor that both have."""
    for ours in humr.state_dict():
        if ours not in (*OURS_ALONE, "head.start"):
            theirs = ours.replace("encoder.pose.", "joints_enc.")
            yield ours, theirs.replace(".permutation", ".perm").replace(".inverse", ".perm_inv")


def convert_humr(path: Path, stem: Path, model: Model | None = None) -> str:
    """Write HuMR's checkpoint as `stem.*` and its backbone as `stem-backbone.*`, in our form.

    `experiments.runs.load(stem)` reads the first, `storage.load_model` the second. Returns what
    `compared` says of the backbone.
    """
    humr, backbone, model = read_humr(path, model)
    about = {"name": "official", "official": path.name, "sha256": digest(path)}
    width = {"system": "hrnet", "width": model.features // CHANNELS}
    save_model(stem.with_name(f"{stem.name}-backbone"), backbone, {**about, **width})
    known, remark = compared(backbone)
    run = {"system": "paper", "run": to_dict(PaperRun(model=model)), "backbone": known}
    save_model(stem, humr, {**about, **run})
    return remark


def compared(backbone: HRNet, root: Path = LICENSED) -> tuple[str, str]:
    """Compare a backbone with the one whose features are read: same, another or unknown; and why.

    Evaluation refuses a checkpoint with another one.
    """
    path = root / BACKBONE
    if not path.exists():
        return "unknown", f"{shown(path)} is not there to be compared with its backbone"
    ours, theirs = backbone.state_dict(), read_backbone(path).state_dict()
    wrong = [k for k in ours if ours[k].shape != theirs[k].shape or not ours[k].equal(theirs[k])]
    if not wrong:
        return "same", f"its backbone is that of {shown(path)}, whose features are evaluated"
    return "another", (
        f"but its backbone differs from {shown(path)}, whose features are evaluated, in "
        f"{len(wrong)} of {len(ours)} tensors ({wrong[0]}, ...): evaluation will refuse it. "
        "Usual cause: a backbone without the fine-tuning on 3DPW"
    )


# -------------------------------------------------------------------------- ICCV 2021


def read_lifting(
    path: Path, sizes: LiftingModel = LIFTING, *, slope: float = SLOPE
) -> tuple[LiftingFlow, LiftingModel]:
    """Read the `model.pt` of ICCV 2021: network and configuration.

    `sizes` are those of the official network. `slope` is 0.636 for the function that was trained;
    2 / pi for the one that is printed, which has log-scales 0.1 % larger with the same weights.
    """
    net = load(_found(path, LIFTING_SITE), "net", {"net", "opt"})["net"]
    return lifting_from_official(net, sizes, slope=slope, name=shown(path))


def lifting_from_official(
    state: Mapping[str, Tensor],
    sizes: LiftingModel = LIFTING,
    *,
    slope: float = SLOPE,
    name: str = "the state dict",
) -> tuple[LiftingFlow, LiftingModel]:
    """Build the network from an official state dict; `name` is for errors."""
    kappa = slope * math.pi / 2
    config = replace(
        sizes, blocks=sizes.blocks + 1, coupling="affine_paper_clamp", clamp=kappa * sizes.clamp
    )
    model = LiftingFlow(config)
    weights = {key: value for key, value in state.items() if "tmp_var" not in str(key)}
    check(name, weights, lifting_to_official(model))
    own = {ours: _scaled(theirs, weights[theirs], kappa) for ours, theirs in _lifting_names(model)}
    fill(model, own)
    for parameter in model.flow.module_list[0].parameters():
        nn.init.zeros_(parameter)
    permutations = [m for m in model.flow.module_list if isinstance(m, FixedPermutation)]
    for module, order in zip(permutations, _orders(sizes.blocks), strict=True):
        module.permutation.copy_(order)
        module.inverse.copy_(order.argsort())
    return model, config


def lifting_to_official(model: LiftingFlow, *, slope: float = SLOPE) -> dict[str, Tensor]:
    """Return the official state dict; inverts `lifting_from_official` up to rounding.

    Exactly, if `slope` is 2 / pi; else the rows that predict log-scales were rounded.
    """
    state, kappa = model.state_dict(), slope * math.pi / 2
    return {
        theirs: _scaled(theirs, state[ours], 1 / kappa) for ours, theirs in _lifting_names(model)
    }


def convert_lifting(path: Path, stem: Path, sizes: LiftingModel = LIFTING) -> None:
    """Write the `model.pt` of ICCV 2021 as `stem.*`, which `experiments.runs.load` reads."""
    model, config = read_lifting(path, sizes)
    about = {"name": "official", "official": path.name, "sha256": digest(path)}
    run = to_dict(LiftingPaperRun(model=config))
    save_model(stem, model, {**about, "system": "lifting_paper", "run": run})


def _lifting_names(model: LiftingFlow) -> Iterator[tuple[str, str]]:
    """Our name and the official one of every tensor that both have: all but the first block's."""
    pairs = [("encoder.1", "cond_net.0"), ("encoder.3", "cond_net.2")]
    couplings = len(model.flow.module_list) // 2
    for k in range(1, couplings):  # official: input node, coupling, permutation, coupling, ...
        for net in (1, 2):
            ours, theirs = f"flow.module_list.{2 * k}.subnet{net}", f"inn.module_list.{2 * k - 1}"
            pairs += [(f"{ours}.0", f"{theirs}.s{net}.0"), (f"{ours}.3", f"{theirs}.s{net}.2")]
    for ours, theirs in pairs:
        for part in ("weight", "bias"):
            yield f"{ours}.{part}", f"{theirs}.{part}"


def _scaled(official: str, values: Tensor, factor: float) -> Tensor:
    """Multiply the rows that predict log-scales: the first half of a subnet's last layer."""
    if not re.search(r"\.s[12]\.2\.", official) or factor == 1:
        return values
    scales, shifts = values.chunk(2)
    return torch.cat([scales * factor, shifts])


def _orders(blocks: int) -> list[Tensor]:
    """Permutations of the converted flow: ours to official, the official ones, back to ours."""
    first = torch.arange(POSE).view(-1, 3).T.flatten()  # official element 16 a + j is ours 3 j + a
    drawn = [np.random.RandomState(k).permutation(POSE) for k in range(blocks)]
    *others, last = [torch.from_numpy(order) for order in drawn]
    points = LATENT + torch.arange(POINTS).view(2, -1).T.flatten()
    return [first, *others, last[torch.cat([torch.arange(LATENT), points])]]


# ----------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `convert`."""
    parser = argparse.ArgumentParser(prog="humr convert", description="Official checkpoints.")
    parser.add_argument("system", choices=("humr", "lifting"), help="WACV 2025 or ICCV 2021")
    parser.add_argument("file", type=Path, help="the official checkpoint")
    parser.add_argument("stem", type=Path, help="where ours goes: stem.safetensors, stem.json")
    options = parser.parse_args(arguments)
    convert = {"humr": convert_humr, "lifting": convert_lifting}[options.system]
    try:
        remark = convert(options.file, options.stem)
    except (OSError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    say(f"written: {options.stem}.safetensors and .json{f'; {remark}' if remark else ''}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
