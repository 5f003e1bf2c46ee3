"""Tensors on disk and in memory: records of rows, data sets in shards, checkpoints.

A data set lies in numbered files. A shard depends on the configuration, the split and its number
alone, so that any process can make any shard, in any order, again and again. A manifest names the
hash of each.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from humr.config import config_hash, to_dict
from humr.files import DATA, digest, in_place_of, provenance, write_text

WORTH_A_PROCESS = 150  # images; starting processes takes longer than making fewer
R = TypeVar("R", bound="TensorRecord")


@dataclass(frozen=True)
class TensorRecord:
    """The base of dataclasses of tensors that share their first axis, one row per image.

    A field may also be a record, an array or a tuple of names, again one per row. Anything else
    (one name of all rows, None where something is not there) stays as it is.
    """

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: R, index: slice | Tensor) -> R:
        """Choose rows: a slice, or a tensor of row numbers or of truth values."""
        return replace(self, **{f.name: _rows(getattr(self, f.name), index) for f in fields(self)})

    def to(self: R, device: torch.device | str) -> R:
        """Move every tensor. Copies to CUDA devices are not waited for, those from them are."""
        ahead = torch.device(device).type == "cuda"  # a copy from one would be read too early
        there: dict[str, Any] = {}
        for field in fields(self):
            match getattr(self, field.name):
                case Tensor() as value:
                    there[field.name] = value.to(device, non_blocking=ahead)
                case TensorRecord() as value:
                    there[field.name] = value.to(device)
        return replace(self, **there)

    @classmethod
    def join(cls: type[R], parts: Sequence[R]) -> R:
        """Put the rows of all parts one after another."""
        names = [f.name for f in fields(cls)]
        return cls(**{name: _joined([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read one shard; every tensor must be there, and none beside them."""
        expected = {f.name for f in fields(cls)}
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path.name} is not a readable shard ({error}); delete it and run the world again"
            ) from error
        if tensors.keys() != expected:
            raise ValueError(
                f"{path.name}: missing {sorted(expected - tensors.keys())}, unknown "
                f"{sorted(tensors.keys() - expected)}; it comes from another version of humr: "
                "delete it and run the world again"
            )
        return cls(**tensors)

    def write(self, path: Path) -> None:
        """Write one shard, which is then either whole or absent."""
        with in_place_of(path) as part:
            save_file({f.name: getattr(self, f.name).contiguous() for f in fields(self)}, part)


def _rows(value: Any, index: slice | Tensor) -> Any:  # noqa: ANN401
    match value, index:
        case (Tensor() | TensorRecord(), _) | (np.ndarray() | tuple(), slice()):
            return value[index]
        case np.ndarray(), Tensor():
            return value[index.numpy()]
        case tuple(), Tensor():
            return tuple(np.array(value, object)[index.numpy()])
        case _:
            return value


def _joined(values: list[Any]) -> Any:  # noqa: ANN401
    match values[0]:
        case Tensor():
            return torch.cat(values)
        case TensorRecord() as first:
            return first.join(values)
        case np.ndarray():
            return np.concatenate(values)
        case tuple():
            return tuple(chain(*values))
        case first:
            return first


# ------------------------------------------------------------------------ shards


@dataclass(frozen=True, kw_only=True)
class Store(Generic[R]):
    """A data set of one configuration."""

    name: str  # of the progress bar
    config: Any  # decides the content, with `recipe`
    sizes: Mapping[str, int]  # images per split
    shard: int  # images per file
    recipe: int  # of the code: raised whenever the same configuration would give other images
    # One shard of (configuration, split, number); a function of a module, which other processes
    # can import.
    make: Callable[[Any, str, int], R]
    kind: type[R]  # what it makes
    folder: str = "world"  # in `data`
    command: str = "world"  # that makes it
    workers: int | None = None  # processes, unless the caller says; None: as many as cores

    @property
    def directory(self) -> Path:
        """Where the files live: one folder for each configuration and recipe."""
        return DATA / self.folder / f"{config_hash(self.config)}-{self.recipe}"

    def paths(self, split: str) -> list[Path]:
        """Paths of all shards of a split, made or not."""
        if split not in self.sizes:
            known = ", ".join(self.sizes)
            raise ValueError(f"unknown split {split!r}; expected one of {known}")
        count = -(-self.sizes[split] // self.shard)
        return [self.directory / f"{split}-{i:05d}.safetensors" for i in range(count)]

    def length(self, split: str, number: int) -> int:
        """Images in a shard."""
        return min(self.shard, self.sizes[split] - number * self.shard)

    def generate(self, *, splits: Iterable[str] | None = None, workers: int | None = None) -> Path:
        """Make every shard that is missing, in several processes, and write the manifest."""
        jobs = [
            (split, i)
            for split in (self.sizes if splits is None else splits)
            for i, path in enumerate(self.paths(split))
            if not path.exists()
        ]
        if jobs:
            small = sum(self.length(*job) for job in jobs) <= WORTH_A_PROCESS
            self._run(jobs, 1 if small else workers or self.workers or os.cpu_count() or 1)
        if jobs or not (self.directory / "manifest.json").exists():
            self._write_manifest()
        return self.directory

    def make_one(self, split: str, number: int) -> int:
        """Make and write one shard; returns its number of images."""
        self.make(self.config, split, number).write(self.paths(split)[number])
        return self.length(split, number)

    def load(self, split: str) -> R:
        """Read a split into memory, checking each shard against the manifest."""
        return self.kind.join(self.shards(split))

    def make_and_load(self, split: str) -> R:
        """Read a split into memory; shards that are missing are made first."""
        self.generate(splits=[split])
        return self.load(split)

    def shards(self, split: str) -> list[R]:
        """Read the shards of a split one by one, checking each against the manifest."""
        paths = self.paths(split)
        if missing := [p.name for p in paths if not p.exists()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} shards of {split!r} are not there yet "
                f"(first: {missing[0]}); make them with: python3 -m humr {self.command}"
            )
        expected = json.loads((self.directory / "manifest.json").read_text())["shards"]
        for path in paths:
            if digest(path) != expected.get(path.name):
                raise ValueError(
                    f"{path.name} is not what the manifest says (damaged, or made by other code); "
                    "delete it and manifest.json, and run the world again"
                )
        return [self.kind.read(path) for path in paths]

    def _run(self, jobs: list[tuple[str, int]], workers: int) -> None:
        total = sum(self.length(*job) for job in jobs)
        with tqdm(total=total, desc=self.name, unit="image", mininterval=2) as bar:
            if workers == 1:
                for job in jobs:
                    bar.update(self.make_one(*job))
                return
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
                futures = [pool.submit(self.make_one, *job) for job in jobs]
                for future in as_completed(futures):
                    bar.update(future.result())

    def _write_manifest(self) -> None:
        present = [p for split in self.sizes for p in self.paths(split) if p.exists()]
        manifest = {
            "world": to_dict(self.config),
            "recipe": self.recipe,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
            "shards": {p.name: digest(p) for p in present},
        }
        write_text(self.directory / "manifest.json", json.dumps(manifest, indent=1))


# ------------------------------------------------------------------------ checkpoints


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
