r"""Official checkpoints become our networks: HuMR (WACV 2025) and the lifting flow (ICCV 2021).

Reading is strict: every tensor of the network must be there, with its shape, and nothing else.
What comes out is `mesh.Humr` with its image backbone, or `lifting.LiftingFlow`; `convert_humr`
and `convert_lifting` write them as checkpoints of ours, and from there on nothing is special.

Files are pickles. They are read without running anything that is in them: tensors, plain values,
and settings of the package yacs, which become dictionaries.

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

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from humr.checkpoints import save_model
from humr.config import Model, to_dict
from humr.encoders import BETAS
from humr.files import digest
from humr.flows import FixedPermutation
from humr.hrnet import HRNet
from humr.lifting import LATENT, POINTS, POSE, LiftingFlow
from humr.lifting_config import LiftingModel, LiftingRun
from humr.mesh import Humr
from humr.paths import DATA

LIGHTNING = {"state_dict", "epoch", "global_step", "pytorch-lightning_version", "optimizer_states",
             "lr_schedulers", "callbacks", "loops", "hyper_parameters"}  # fmt: skip
# Body models and joint regressors: no part of the network. A body file takes their place.
IGNORED = ("smplx.", "smpl_neutral.", "model.smpl.")
OURS_ALONE = ("encoder.feature_mean", "encoder.feature_std", "flow.mean", "flow.std")
CHANNELS = 15  # all four branches of the backbone, in widths of the finest
LIFTING = LiftingModel(hidden=1028)
SLOPE = 0.636  # FrEIA's 2 / pi
EXAMPLES = 5  # names in an error


# ------------------------------------------------------------------------------ files


def _shown(path: Path) -> str:
    return str(path.relative_to(DATA)) if path.is_relative_to(DATA) else path.name


def _load(path: Path, required: str, known: set[str]) -> dict[str, Any]:
    """Read a file of torch without running what is in it, and check its top level."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {_shown(path)}: download it and put it there")
    harmless: Any = [(OrderedDict, "yacs.config.CfgNode")]  # settings; only their values are read
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(_unreadable(path, str(error))) from error
    keys = set(content) if isinstance(content, Mapping) else set()
    if required not in keys or keys - known or not isinstance(content[required], Mapping):
        raise ValueError(
            f"{_shown(path)}: expected {required!r} and at most {sorted(known - {required})} "
            f"beside it; got {sorted(map(str, keys))[:12] or type(content).__name__}. Usual "
            "cause: a checkpoint of another project, or bare weights"
        )
    return dict(content)


def _unreadable(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL (\S+)", reason)
    if found is None:
        first = reason.splitlines()[0] if reason else "it ends too early"
        return (
            f"{_shown(path)} cannot be read as a file of torch: {first}. Usual cause: a broken or "
            "partial download; get it again"
        )
    return (
        f"{_shown(path)} holds {found[1]} beside tensors and plain values; reading that could run "
        "code, so the file is refused. If you trust who made it: read it where its own project "
        "is installed, and write the weights alone, torch.save({'state_dict': ...}, new) for "
        "HuMR and torch.save({'net': ...}, new) for ICCV 2021"
    )


def _check(name: str, state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that is not exactly the network's: one error names what is wrong."""
    shared = [key for key in expected if key in state]
    wrong = [
        f"{key} {tuple(getattr(state[key], 'shape', ()))}, expected {tuple(expected[key].shape)}"
        for key in shared
        if getattr(state[key], "shape", None) != expected[key].shape
    ]
    faults = {
        "missing": [key for key in expected if key not in state],
        "unknown": [str(key) for key in state if key not in expected],
        "of another shape": wrong,
    }
    if not any(faults.values()):
        perms = [key for key in shared if key.endswith(".perm")]
        faults["no permutation and its inverse"] = [k for k in perms if not _inverts(state, k)]
    if any(faults.values()):
        listed = "; ".join(
            f"{len(keys)} {what} ({', '.join(keys[:EXAMPLES])}{', ...' * (len(keys) > EXAMPLES)})"
            for what, keys in faults.items()
            if keys
        )
        raise ValueError(
            f"{name} is not the network that was expected. Tensors: {listed}. Usual cause: a "
            "checkpoint of another model, or of the same with other sizes"
        )


def _inverts(state: Mapping[str, Tensor], key: str) -> bool:
    order, inverse = state[key], state[f"{key}_inv"]
    same = torch.equal(order.sort().values, torch.arange(len(order)).to(order))
    return same and torch.equal(order.argsort(), inverse)


def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a model, in single precision or, if they have more, in double."""
    kinds = [v.dtype for v in values.values() if v.is_floating_point()]
    model.to(torch.promote_types(torch.float32, kinds[0]))
    model.load_state_dict({**model.state_dict(), **values})
    model.eval()


# ------------------------------------------------------------------------------- HuMR


def read_humr(path: Path, model: Model | None = None) -> tuple[Humr, HRNet, Model]:
    """Read HuMR's Lightning checkpoint: network, image backbone, and configuration.

    The clamp leaves no trace in the weights; it comes from the file's own settings, if there are
    any (2 in the published configuration, 3 in the code's defaults).

    Args:
        path: the `.ckpt` file.
        model: sizes other than the paper's.
    """
    content = _load(path, "state_dict", LIGHTNING)
    model = model or Model()
    settings = content.get("hyper_parameters") or {}
    clamp = settings.get("FREIA_NF", {}).get("CLAMP", model.clamp)
    model = replace(model, clamp=float(clamp))
    humr, backbone = humr_from_official(content["state_dict"], model, name=_shown(path))
    return humr, backbone, model


def humr_from_official(
    state: Mapping[str, Tensor], model: Model, *, name: str = "the state dict"
) -> tuple[Humr, HRNet]:
    """Build network and backbone from an official state dict; `name` is for errors."""
    humr, backbone = Humr(model), HRNet(model.features // CHANNELS)
    weights = {key: value for key, value in state.items() if not _ignored(str(key))}
    _check(name, weights, humr_to_official(humr, backbone))
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    start = torch.cat([weights["head.init_shape"], weights["head.init_cam"]], -1)[0]
    own = {ours: weights[theirs] for ours, theirs in _humr_names(humr)}
    _fill(humr, {**own, "head.start": start})
    parts = {
        k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")
    }
    _fill(backbone, parts)
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


def convert_humr(path: Path, stem: Path, model: Model | None = None) -> None:
    """Write HuMR's checkpoint as `stem.*` and its backbone as `stem-backbone.*`, in our form.

    `experiments.load(stem)` reads the first, `checkpoints.load_model` the second.
    """
    humr, backbone, model = read_humr(path, model)
    about = {"name": "official", "official": _shown(path), "sha256": digest(path)}
    width = {"system": "hrnet", "width": model.features // CHANNELS}
    save_model(stem.with_name(f"{stem.name}-backbone"), backbone, {**about, **width})
    save_model(stem, humr, {**about, "system": "humr", "run": {"model": to_dict(model)}})


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
    net = _load(path, "net", {"net", "opt"})["net"]
    return lifting_from_official(net, sizes, slope=slope, name=_shown(path))


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
    _check(name, weights, lifting_to_official(model))
    own = {ours: _scaled(theirs, weights[theirs], kappa) for ours, theirs in _lifting_names(model)}
    _fill(model, own)
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
    about = {"name": "official", "official": _shown(path), "sha256": digest(path)}
    run = to_dict(LiftingRun(model=config))
    save_model(stem, model, {**about, "system": "lifting", "run": run})


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
