"""Tensors on disk and in memory: records of rows, data sets in shards, checkpoints.

A data set lies in numbered files. A shard depends on the configuration, the split and its number
alone, so that any process can make any shard, in any order, again and again. A manifest names the
hash of each.
"""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import IO, Any, Generic, TypeVar
from zipfile import ZipFile

import numpy as np
import torch
from jaxtyping import jaxtyped
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from tqdm import tqdm

from humr.config import config_hash, from_dict, to_dict
from humr.files import (
    DATA,
    BrokenFile,
    digest,
    in_place_of,
    provenance,
    read_json,
    reading,
    shown,
    write_text,
)

WORTH_A_PROCESS = 150  # images; starting processes takes longer than making fewer
Readable = IO[bytes] | BufferedIOBase  # pyright knows one, beartype the other
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
        """Read one shard: just the tensors of the annotations, in their types and shapes."""
        expected = {f.name: f.type for f in fields(cls)}
        hint = "Delete it; the same command makes it again"
        with reading(f"{shown(path)} is not a readable shard", hint), jaxtyped("context"):
            tensors = read_tensors(path)
            if tensors.keys() != expected.keys():
                raise ValueError(
                    f"missing {sorted(expected.keys() - tensors.keys())}, unknown "
                    f"{sorted(tensors.keys() - expected.keys())}, as of another version of humr"
                )
            for name, kind in expected.items():
                got = tensors[name]
                if not isinstance(got, kind):  # pyright: ignore[reportArgumentType]
                    wanted = getattr(kind, "__name__", kind)
                    raise ValueError(f"{name} is {got.dtype}, {tuple(got.shape)}, not {wanted}")
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

    @property
    def manifest(self) -> Path:
        """Names the configuration and the hash of every shard."""
        return self.directory / "manifest.json"

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
        """Make every shard that is missing, in several processes, and write the manifest.

        The manifest says nothing of shards in the making, so that it never lies of any.
        """
        listed = self._listed()
        known = {n: h for n, h in (listed or {}).items() if (self.directory / n).exists()}
        if listed and known != listed:
            self._write_manifest(known)
        jobs = [
            (split, i)
            for split in (self.sizes if splits is None else splits)
            for i, path in enumerate(self.paths(split))
            if not path.exists()
        ]
        if jobs:
            small = sum(self.length(*job) for job in jobs) <= WORTH_A_PROCESS
            self._run(jobs, 1 if small else workers or self.workers or os.cpu_count() or 1)
        present = {p.name: p for split in self.sizes for p in self.paths(split) if p.exists()}
        if listed is None or known.keys() != present.keys():
            self._write_manifest({n: known.get(n) or digest(p) for n, p in present.items()})
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
        again = f"run: python3 -m humr {self.command}"
        expected, found = self._read_manifest(), []
        for number, path in enumerate(paths):
            if path.name not in expected:
                raise BrokenFile(f"{path.name} is not in the manifest yet; {again}")
            if digest(path) != expected[path.name]:
                raise BrokenFile(
                    f"{shown(path)} is not what the manifest says (damaged, or made by other "
                    f"code); delete it and {again}"
                )
            found.append(self.kind.read(path))
            if len(found[-1]) != self.length(split, number):
                rows = f"{len(found[-1])} rows, not {self.length(split, number)}"
                raise BrokenFile(f"{shown(path)} has {rows}; delete it and {again}")
        return found

    def _read_manifest(self) -> dict[str, str]:
        """Hashes of shards by name; the manifest must be of this configuration."""
        again = f"run: python3 -m humr {self.command}"
        found = read_json(self.manifest, f"To mend it {again}")
        what = f"{shown(self.manifest)} is of another configuration"
        with reading(what, f"Delete its folder and {again}"):
            made = config_hash(from_dict(type(self.config), found["world"])), found["recipe"]
            if made != (config_hash(self.config), self.recipe):
                raise ValueError(f"expected that of its folder, got {made}")
            return dict(found["shards"])

    def _listed(self) -> dict[str, str] | None:
        """What the manifest says; None if it is absent or cut."""
        try:
            read_json(self.manifest, "")
        except (FileNotFoundError, BrokenFile):
            return None
        return self._read_manifest()

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

    def _write_manifest(self, shards: Mapping[str, str]) -> None:
        manifest = {
            "world": to_dict(self.config),
            "recipe": self.recipe,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
            "shards": shards,
        }
        write_text(self.manifest, json.dumps(manifest, indent=1))


# ------------------------------------------------------------------------ checked, not believed


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, whose header was compared with its size, of finite real numbers."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    check_finite(tensors)
    return tensors


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse values that are not finite real numbers, and name the tensor that holds them."""
    for name, tensor in tensors.items():
        if tensor.is_complex() or not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite real numbers")


def npy_header(file: Readable, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type of a .npy file of `size` bytes; the file then stands at its data."""
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version} of the .npy format; 1.0 and 2.0 are expected")
    shape, _, dtype = read[version](file)
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if not dtype.hasobject and claimed != there:
        raise ValueError(f"its header claims {claimed} bytes; there are {there}")
    return shape, dtype


def npz_size(archive: ZipFile, key: str) -> int:
    """Bytes of an unpacked array; more than a thousandfold of the file is a trap."""
    size = archive.getinfo(f"{key}.npy").file_size
    if size > 1100 * archive.start_dir:
        raise ValueError(f"{key} claims {size} bytes; so many cannot be packed into this file")
    return size


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
    hint = "Get both files of the checkpoint again, or train it again"
    about = read_json(text, hint)
    with reading(f"{shown(weights)} cannot be read", hint):
        tensors = read_tensors(weights)
    with reading(f"{shown(weights)} does not fit its description", hint):
        with _limited(2 * sum(t.numel() for t in tensors.values())):
            model = build(about)
        for name, like in model.state_dict().items():
            if (got := tensors.get(name)) is None:
                continue  # reported with all others below
            kinds = got.dtype, like.dtype
            if kinds[0] != kinds[1] and not all(kind.is_floating_point for kind in kinds):
                raise ValueError(f"{name} is {got.dtype}; expected {like.dtype}")
            tensors[name] = got.to(torch.float32 if got.is_floating_point() else got.dtype)
        model.load_state_dict(tensors, strict=True)
    return model.eval(), about


@contextmanager
def _limited(elements: int) -> Iterator[None]:
    """Stop a network in the making that outgrows its file, before its parameters are filled."""
    left = elements

    def count(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise ValueError("it asks for a larger network than these weights fill")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
