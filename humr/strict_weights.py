"""Weights of other projects: read without running what is in a file, and taken only whole.

Files of torch are pickles. Tensors, plain values and settings of the package yacs, which become
dictionaries, are read; anything else is refused by name. A state dict must have every tensor of
the network, with its shape, and nothing else.
"""

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import Any

import torch
from torch import Tensor, nn

from humr.paths import DATA, ROOT

EXAMPLES = 5  # names in an error
_ENDS = (EOFError, IndexError, StructError)  # of files that end too early
_BROKEN = (*_ENDS, UnpicklingError, RuntimeError, OSError, ValueError, KeyError, TypeError,
           AttributeError, AssertionError, OverflowError, MemoryError)  # fmt: skip


def label(path: Path) -> str:
    """Return the path relative to `data` or to the project, else its name.

    Messages and descriptions show it: they say nothing of folders elsewhere.
    """
    for whole in (path.resolve(), path.absolute()):  # folders of `data` may be links
        for folder in (DATA, ROOT):
            if whole.is_relative_to(folder):
                return whole.relative_to(folder).as_posix()
    return path.name


def load(path: Path, required: str, known: set[str], *, bare: bool = False) -> dict[str, Any]:
    """Read a file of torch without running what is in it, and check its top level.

    Args:
        path: the file.
        required: the key that holds the weights.
        known: the other keys that may be there.
        bare: whether weights without that key are taken too; they come back below it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {label(path)}: download it and put it there")
    harmless: Any = [(OrderedDict, "yacs.config.CfgNode")]  # settings; only their values are read
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = "" if isinstance(error, _ENDS) else str(error)
        # without torch's own words, which advise to run what is in the file
        raise ValueError(_unreadable(path, reason, required)) from None
    if bare and _is_state(content):
        return {required: content}
    keys = set(content) if isinstance(content, Mapping) else set()
    if (
        required not in keys
        or keys - known - {required}
        or not isinstance(content[required], Mapping)
    ):
        hint = "" if bare else ", or bare weights"
        raise ValueError(
            f"{label(path)}: expected {required!r} and at most {sorted(known - {required})} "
            f"beside it; got {sorted(map(str, keys))[:12] or type(content).__name__}. Usual "
            f"cause: a checkpoint of another project{hint}"
        )
    return dict(content)


def _is_state(content: object) -> bool:
    """Tell whether something is a state dict: names of tensors, and at least one."""
    tensors = isinstance(content, Mapping) and [isinstance(v, Tensor) for v in content.values()]
    return bool(tensors) and all(tensors)


def _unreadable(path: Path, reason: str, required: str) -> str:
    found = re.search(r"GLOBAL (\S+)", reason)
    if found is None:
        lines = [line for line in reason.splitlines() if line and "weights_only" not in line]
        first = lines[0].split(". ")[0].rstrip(".") if lines else "it ends too early"
        return (
            f"{label(path)} cannot be read as a file of torch: {first}. Usual cause: a broken or "
            "partial download, or a page of a web site saved under this name; get it again"
        )
    return (
        f"{label(path)} holds {found[1]} beside tensors and plain values; reading that could run "
        "code, so the file is refused. If you trust who made it: read it where its own project "
        f"is installed, and write the weights alone, torch.save({{{required!r}: ...}}, new)"
    )


def check(name: str, state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that is not exactly the network's, or not finite; the error says where.

    Args:
        name: of the file, for the error.
        state: what was read.
        expected: the network's; only names and shapes count.
    """
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
            f"{len(keys)} {what} {_some(keys)}" for what, keys in faults.items() if keys
        )
        raise ValueError(
            f"{name} is not the network that was expected. Tensors: {listed}. Usual cause: a "
            "checkpoint of another model, or of the same with other sizes"
        )
    if broken := [key for key in expected if not _finite(state[key])]:
        raise ValueError(
            f"{name} must hold finite weights; got NaN or infinity in {len(broken)} of "
            f"{len(expected)} tensors {_some(broken)}. Usual cause: a training that diverged, or "
            "a damaged file"
        )


def _some(keys: list[str]) -> str:
    return f"({', '.join(keys[:EXAMPLES])}{', ...' * (len(keys) > EXAMPLES)})"


def _finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(values.isfinite().all())


def _inverts(state: Mapping[str, Tensor], key: str) -> bool:
    order, inverse = state[key], state[f"{key}_inv"]
    same = torch.equal(order.sort().values, torch.arange(len(order)).to(order))
    return same and torch.equal(order.argsort(), inverse)


def fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a model, in single precision or, if they have more, in double."""
    kinds = [v.dtype for v in values.values() if v.is_floating_point()]
    model.to(torch.promote_types(torch.float32, kinds[0]))
    model.load_state_dict({**model.state_dict(), **values})
    model.eval()
