r"""Official checkpoints become our networks: HuMR (WACV 2025) and the lifting flow (ICCV 2021).

Reading is strict and runs nothing that is in a file (`strict_weights`). What comes out is
`mesh.Humr` with its image backbone, or `lifting.LiftingFlow`; `convert_humr` and `convert_lifting`
(``python3 -m humr convert humr FILE STEM``) write them as checkpoints of ours, and from there on
nothing is special.

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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from humr.checkpoints import save_model
from humr.config import Model, to_dict
from humr.encoders import BETAS
from humr.environment import say
from humr.feature_cache import BACKBONE, read_backbone
from humr.files import digest
from humr.flows import FixedPermutation
from humr.hrnet import HRNet
from humr.inventory import SOURCES
from humr.licensed import LICENSED, shown
from humr.lifting import LATENT, POINTS, POSE, LiftingFlow
from humr.lifting_config import LiftingModel
from humr.lifting_paper_config import LiftingPaperRun
from humr.mesh import Humr
from humr.paper_config import PaperRun
from humr.strict_weights import check, fill, label, load

LIGHTNING = {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "optimizer_states",
             "lr_schedulers", "callbacks", "loops", "hyper_parameters"}  # fmt: skip
# Body models and joint regressors: no part of the network. A body file takes their place.
IGNORED = ("smplx.", "smpl_neutral.", "model.smpl.")
OURS_ALONE = ("encoder.feature_mean", "encoder.feature_std", "flow.mean", "flow.std")
CHANNELS = 15  # all four branches of the backbone, in widths of the finest
LIFTING = LiftingModel(hidden=1028)
SLOPE = 0.636  # FrEIA's 2 / pi
# Where the checkpoints are.
HUMR_SITE = SOURCES["HuMR weights"].site
LIFTING_SITE = "the repository of its authors (ICCV 2021), which links it"


# ------------------------------------------------------------------------------- HuMR


def read_humr(path: Path, model: Model | None = None) -> tuple[Humr, HRNet, Model]:
    """Read HuMR's Lightning checkpoint: network, image backbone, and configuration.

    The clamp leaves no trace in the weights; it comes from the file's own settings, if there are
    any (2 in the published configuration, 3 in the code's defaults).

    Args:
        path: the `.ckpt` file.
        model: sizes other than the paper's.
    """
    content = load(_found(path, HUMR_SITE), "state_dict", LIGHTNING)
    model = model or Model()
    settings = content.get("hyper_parameters") or {}
    model = replace(model, clamp=_clamp(path, settings, model.clamp))
    humr, backbone = humr_from_official(content["state_dict"], model, name=label(path))
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
        f"{label(path)}: hyper_parameters must be settings by name, of which FREIA_NF.CLAMP, if "
        f"it is there, is a number above 0; got {wrong!r:.60}. Usual cause: a file that somebody "
        "changed, or a checkpoint of another project"
    )


def humr_from_official(
    state: Mapping[str, Tensor], model: Model, *, name: str = "the state dict"
) -> tuple[Humr, HRNet]:
    """Build network and backbone from an official state dict; `name` is for errors."""
    humr, backbone = Humr(model), HRNet(model.features // CHANNELS)
    weights = {key: value for key, value in state.items() if not _ignored(str(key))}
    check(name, weights, humr_to_official(humr, backbone))
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    start = torch.cat([weights["head.init_shape"], weights["head.init_cam"]], -1)[0]
    own = {ours: weights[theirs] for ours, theirs in _humr_names(humr)}
    fill(humr, {**own, "head.start": start})
    parts = {
        k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")
    }
    fill(backbone, parts)
    return humr, backbone


def _ignored(key: str) -> bool:
    return key.startswith(IGNORED) or key == "J_regressor"


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

    `experiments.load(stem)` reads the first, `checkpoints.load_model` the second. Returns what
    `compared` says of the backbone.
    """
    humr, backbone, model = read_humr(path, model)
    about = {"name": "official", "official": label(path), "sha256": digest(path)}
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

    Args:
        path: the file.
        sizes: those of the official network.
        slope: 0.636 for the function that was trained; 2 / pi for the one that is printed, which
            has log-scales 0.1 % larger with the same weights.
    """
    net = load(_found(path, LIFTING_SITE), "net", {"net", "opt"})["net"]
    return lifting_from_official(net, sizes, slope=slope, name=label(path))


def lifting_from_official(
    state: Mapping[str, Tensor],
    sizes: LiftingModel = LIFTING,
    *,
    slope: float = SLOPE,
    name: str = "the state dict",
) -> tuple[LiftingFlow, LiftingModel]:
    """Build the network from an official state dict; `name` is for errors."""
    kappa = _kappa(slope)
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
    state = model.state_dict()
    return {
        theirs: _scaled(theirs, state[ours], 1 / _kappa(slope))
        for ours, theirs in _lifting_names(model)
    }


def convert_lifting(path: Path, stem: Path, sizes: LiftingModel = LIFTING) -> None:
    """Write the `model.pt` of ICCV 2021 as `stem.*`, which `experiments.load(stem)` reads."""
    model, config = read_lifting(path, sizes)
    about = {"name": "official", "official": label(path), "sha256": digest(path)}
    run = to_dict(LiftingPaperRun(model=config))
    save_model(stem, model, {**about, "system": "lifting_paper", "run": run})


def _kappa(slope: float) -> float:
    return slope * math.pi / 2


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
