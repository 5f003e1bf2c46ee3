"""Checkpoints: weights in safetensors, and beside them a JSON that says what they are."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from humr.files import in_place_of, write_text
from humr.provenance import provenance


def save_model(stem: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write `stem.safetensors` and, last, `stem.json`: weights, and what they are."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    with in_place_of(stem.with_suffix(".safetensors")) as part:
        save_file(tensors, part)
    write_text(stem.with_suffix(".json"), json.dumps({**provenance(), **about}, indent=1) + "\n")


def load_model(stem: Path, build: Callable[[dict[str, Any]], nn.Module]) -> tuple[Any, dict]:
    """Build a model from its JSON and load its weights strictly; returns (model, description)."""
    weights, text = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    for path in (weights, text):
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint {path.name} in {path.parent}")
    about = json.loads(text.read_text())
    model = build(about)
    try:
        tensors = {
            n: t.float() if t.is_floating_point() else t for n, t in load_file(weights).items()
        }
        model.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights.name} does not fit its description: {error}") from error
    return model.eval(), about
