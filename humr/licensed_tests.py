"""Test sets of HuMR as the network sees them: features of the photographs, computed once.

Every model of the same backbone is evaluated on them. They are kept in `data/features`, in single
precision; a folder belongs to one backbone and one annotation file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from humr.annotations import Annotations, read_annotations
from humr.config import later
from humr.datasets import Batch
from humr.feature_cache import AT_ONCE, BACKBONE, backbone, device_of
from humr.files import digest
from humr.heatmap_files import read_samples
from humr.licensed import LICENSED, data_set, existing, shown
from humr.licensed_images import TestImages, features, loaded, workers
from humr.licensed_people import Looks, Rows, unlabelled_batch
from humr.shards import Store, read_tensors

RECIPE = 1  # raise it whenever the same files would give other features
SHARD = 500  # people per file
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """What decides the features of a test set."""

    __test__ = False  # not for pytest

    name: str
    annotations: str  # hash of the file
    backbone: str
    count: int = later(0)  # people, evenly spread; 0: all


@dataclass(frozen=True)
class Seen(Rows):
    """People of a test set, in the boxes in which they are evaluated."""

    features: Float[Tensor, "people features"]
    image_size: Float[Tensor, "people 2"]  # of the photograph

    @classmethod
    def read(cls, path: Path) -> "Seen":
        """Read one shard."""
        return cls(**read_tensors(path, {"features", "image_size"}))


def described(name: str, root: Path = LICENSED, count: int = 0) -> TestSet:
    """Say what decides the features of a test set, or of `count` people of it."""
    annotations = existing(root / "annotations" / data_set(name).annotations)
    network = existing(root / BACKBONE)
    hashes = {"annotations": digest(annotations), "backbone": digest(network)}
    return TestSet(name=name, **hashes, count=count)


def people(config: TestSet, root: Path = LICENSED) -> Annotations:
    """Read the annotations of a test set, or of the people of it that count."""
    everybody = read_annotations(config.name, root=root)
    if not 0 < config.count < len(everybody):
        return everybody
    return everybody[torch.linspace(0, len(everybody) - 1, config.count).round().long()]


def store(name: str, root: Path = LICENSED, count: int = 0) -> Store[Seen]:
    """Return the shards of a test set, made or not."""
    config = described(name, root, count)
    return Store(
        name=name,
        config=config,
        sizes={"test": len(people(config, root))},
        shard=SHARD,
        recipe=RECIPE,
        make=partial(make_shard, root=root),
        read=Seen.read,
        join=Seen.join,
        folder="features",
        command="tables",
        workers=max(1, workers()),
    )


def make_shard(config: TestSet, split: str, number: int, *, root: Path) -> Seen:
    """Read, crop and encode the people of one shard."""
    del split
    chosen = people(config, root)
    unmasked = replace(chosen, mask_valid=torch.zeros(len(chosen), dtype=torch.bool))
    start, stop = number * SHARD, min((number + 1) * SHARD, len(chosen))
    keys = [list(range(i, min(i + AT_ONCE, stop))) for i in range(start, stop, AT_ONCE)]
    network = backbone(root, device_of(number))
    parts = [
        Seen(features(network, crops.image).cpu(), crops.image_size)
        for crops in loaded(TestImages(unmasked, root=root), keys, 0)
    ]
    return Seen.join(parts)


def batches(
    name: str, root: Path = LICENSED, count: int = 0, *, samples: bool = False
) -> Iterator[tuple[Batch, Annotations]]:
    """Yield a test set in batches, with the rows of its annotations; focal lengths as given.

    Args:
        name: of the test set.
        root: the licensed folder.
        count: people, evenly spread; 0: all.
        samples: whether the network reads the stored samples of heatmaps.
    """
    if samples:
        require_samples(name, root)
    chosen, seen = _seen(name, root, count)
    for start in range(0, len(chosen), BATCH):
        here = slice(start, start + BATCH)
        part, sight = chosen[here], seen[here]
        everything = torch.full((len(part), 8), 255, dtype=torch.uint8)  # masks are read elsewhere
        looks = Looks(part.box, everything, sight.features)
        stored = read_samples(name, part.row, root=root) if samples else None
        yield (
            unlabelled_batch(part, looks, sight.image_size, default_focal=False, stored=stored),
            part,
        )


def _seen(name: str, root: Path, count: int) -> tuple[Annotations, Seen]:
    """Return people with their features; some are taken from among all, if these are there."""
    whole, made = store(name, root), store(name, root, count)
    chosen = people(made.config, root)
    if count and all(path.exists() for path in whole.paths("test")):
        return chosen, whole.load("test")[chosen.row]
    made.generate()
    return chosen, made.load("test")


def require_samples(name: str, root: Path = LICENSED) -> None:
    """Refuse to go on without samples of a test set's heatmaps, which nobody publishes."""
    folder = root / "heatmap_samples" / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{shown(folder)} is missing: this network reads samples of heatmaps, of test sets "
            f"too; to make them: python3 -m humr data samples {name}"
        )
