"""From photographs to features: streams for training, caches for tests.

An example is a person and a crop of it. Which crop is decided by a number, the variant: the same
number gives the same crop, colours included, in any process and at any time.

Features that are computed once lie in `data/features`, so that training and tests need no
photographs. Of every training person the cache holds `Licensed.variants` crops: the backbone's
features in half precision, the box, and where joints can be (bit-packed); and once what `Persons`
says. People who are validated on have one crop each, the annotated box. Per person and without
the crops it takes 18 kB with all 150 heatmap samples, per crop 1.5 kB and the mask: 6.3 kB at 224
px, 0.4 kB at 56. Features of test sets are kept in single precision; every model of the same
backbone is evaluated on them.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import accumulate, count
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from humr.batches import Batch, pack_mask
from humr.config import hashed_if_changed
from humr.detector import RgbImage
from humr.devices import pick_device
from humr.files import digest, existing, shown, write_text
from humr.licensed.checkpoints import BACKBONE, HRNet, read_backbone
from humr.licensed.datasets import LICENSED, SETS, Licensed, data_set
from humr.licensed.images import (
    SIZE,
    changed,
    crop,
    crop_bounds,
    photograph,
    read_mask,
    training_crop,
    varied,
)
from humr.licensed.people import (
    Annotations,
    CropFeatures,
    Persons,
    annotation_path,
    batch_of,
    persons_of,
    read_annotations,
    read_samples,
    size_of,
    unlabelled_batch,
    well_detected,
)
from humr.storage import Store, TensorRecord

DATA_VERSION = 1  # raise it whenever the same configuration would give other crops or features
TEST_DATA_VERSION = 1  # raise it whenever the same test set would give other features
TRAIN, VALIDATION = "train", "validation"
AS_ANNOTATED = -1  # the variant of the annotated box, with nothing changed
VARIANTS = 2**31  # different crops of a person
MARGIN = 16  # px beyond the crop that blurs and streaks reach
MOST_WORKERS = 16
AT_ONCE = 64  # crops that the backbone sees
TESTED_SHARD = 500  # people per file
BATCH = 32  # people of a test set
ORIGIN = "origin.json"


def workers() -> int:
    """Processes that read photographs: HUMR_WORKERS, else one less than the cores, at most 16."""
    chosen = os.environ.get("HUMR_WORKERS")
    return int(chosen) if chosen else min(MOST_WORKERS, (os.cpu_count() or 1) - 1)


# ----------------------------------------------------------------------------- crops


@lru_cache(maxsize=1)
def people(config: Licensed, root: Path) -> tuple[list[Annotations], list[Annotations]]:
    """Read all training sets; returns well detected people to train on, and to validate on.

    The latter are spread evenly over the ends of all sets, which nobody is trained on: people of
    one sequence are neighbours in the files. The answer is kept, since reading takes a while.
    """
    shown, held = [], []
    for name in tqdm(config.train, desc="annotations", mininterval=2):
        found = read_annotations(name, root=root)
        found = found[well_detected(found)]
        kept = len(found) - max(1, round(config.held_out * len(found)))
        if kept < 1:
            raise ValueError(
                f"{name} has {len(found)} well detected people; expected at least two, to train "
                "and to validate on. Usual cause: detections of other photographs"
            )
        shown.append(found[:kept])
        held.append(found[kept:])
    total = sum(map(len, held))
    chosen = torch.linspace(0, total - 1, min(config.validation, total)).round().long()
    starts = accumulate(map(len, held), initial=0)
    parts = [
        part[chosen[(chosen >= start) & (chosen < start + len(part))] - start]
        for part, start in zip(held, starts, strict=False)
    ]
    return shown, [part for part in parts if len(part)]


@dataclass(frozen=True)
class Crops(TensorRecord):
    """Crops of people."""

    image: Float[Tensor, "people 3 224 224"]  # standardised
    box: Float[Tensor, "people 3"]
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, bit-packed
    image_size: Float[Tensor, "people 2"]  # of the photograph

    def encoded(self, features: Float[Tensor, "people features"]) -> CropFeatures:
        """Return the crops with features in place of pixels."""
        return CropFeatures(self.box, self.mask, features.to(self.box.device))


class LicensedImages(Dataset[tuple[Persons, Crops]]):
    """People of several data sets, one set after another; an item is a person and a variant.

    `config` says the seed of the variants, masks, heatmap samples.
    """

    def __init__(
        self, sets: Sequence[Annotations], config: Licensed, *, root: Path = LICENSED
    ) -> None:
        self.sets, self.config, self.root = list(sets), config, root
        self.ends = list(accumulate(map(len, self.sets)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, item: tuple[int, int]) -> tuple[Persons, Crops]:
        index, variant = item
        return self.persons(index), self.crops(index, variant)

    def person(self, index: int) -> Annotations:
        """Return the row of a person."""
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} people; got number {index}")
        place = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[place] - len(self.sets[place])
        return self.sets[place][slice(index - start, index - start + 1)]

    def persons(self, index: int) -> Persons:
        """Return what is known of a person whichever crop shows it."""
        return persons_of(self.person(index), samples=self.config.heatmap_samples, root=self.root)

    def crops(self, index: int, variant: int) -> Crops:
        """Return a crop: the box and the colours vary, but for `AS_ANNOTATED`."""
        person = self.person(index)
        photo = photograph(
            person.name, str(person.image[0]), size=size_of(person, 0), root=self.root
        )
        size, box = torch.tensor(photo.shape[1::-1]).float(), person.box[0]
        if variant == AS_ANNOTATED:
            image = crop(photo, box)
        else:
            names = [self.config.seed, list(SETS).index(person.name), int(person.row), variant]
            rng = np.random.default_rng([*names, 1])  # NumPy pads seeds with zeros
            box = varied(box, size, rng=rng)
            part, inside = surroundings(photo, box)
            image = crop(changed(part, rng=rng), inside)
        return Crops(image[None], box[None], self._mask(person, box), size[None])

    def _mask(self, person: Annotations, box: Tensor) -> Tensor:
        """Where joints can be in a crop; everywhere if there is no valid mask."""
        side = self.config.mask_side
        if not (self.config.masks and person.mask_valid.item()):
            return pack_mask(torch.ones(1, side, side, dtype=torch.bool))
        whole = read_mask(person.name, str(person.image[0]), root=self.root)
        mask = torch.from_numpy(training_crop(whole, box))
        blocks = mask.view(1, side, SIZE // side, side, SIZE // side)
        return pack_mask(blocks.any(4).any(2))


def surroundings(
    photo: RgbImage, box: Float[Tensor, "3"]
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Float[Tensor, "3"]]:
    """Cut the part of a photograph that a crop shows, and `MARGIN` around; the box in it.

    Colours are changed there only, which takes a fraction of the time (the official code changes
    whole photographs).
    """
    x0, y0, x1, y1 = crop_bounds(box)
    left, right = np.clip([x0 - MARGIN, x1 + MARGIN], 0, photo.shape[1]).tolist()
    top, bottom = np.clip([y0 - MARGIN, y1 + MARGIN], 0, photo.shape[0]).tolist()
    return photo[top:bottom, left:right], box - box.new_tensor([left, top, 0])


# -------------------------------------------------------------------------- backbone


@lru_cache(maxsize=1)
def backbone(root: Path, device: torch.device) -> HRNet:
    """Return the backbone on a device; kept, since every shard needs it."""
    return read_backbone(root / BACKBONE).to(device)


def device_of(number: int) -> torch.device:
    """Where a shard is computed: on the GPUs in turn, unless `pick_device` says the CPU."""
    chosen = pick_device()
    if chosen.type == "cuda":
        return torch.device("cuda", number % torch.cuda.device_count())
    return chosen


@torch.no_grad()
def features(
    network: nn.Module, images: Float[Tensor, "people 3 224 224"], *, precision: str = "float32"
) -> Float[Tensor, "people features"]:
    """Run the frozen backbone on crops, on its device; "bfloat16" for speed (see `Licensed`)."""
    device = next(network.parameters()).device
    half = precision == "bfloat16"
    layout = torch.channels_last if half else torch.preserve_format
    images = images.to(device, non_blocking=True).to(memory_format=layout)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        return network(images).float()


# ----------------------------------------------------------- training without a cache


def loaded(
    images: LicensedImages, keys: Iterable[list[tuple[int, int]]], processes: int
) -> Iterator[tuple[Persons, Crops]]:
    """Items in the order of their keys, one list after another, joined."""
    return iter(
        DataLoader(
            images,
            batch_sampler=keys,  # pyright: ignore[reportArgumentType] - any iterable will do
            num_workers=processes,
            collate_fn=_joined,
            generator=torch.Generator(),  # of seeds that nobody needs; else the global one moves
        )
    )


def _joined(examples: Sequence[tuple[Persons, Crops]]) -> tuple[Persons, Crops]:
    persons, crops = zip(*examples, strict=True)
    return Persons.join(persons), Crops.join(crops)


class ImageStream:
    """Batches whose photographs are read, cropped and encoded just then, some steps ahead.

    People and variants of a step depend on the seed, the process and the number of the step, so
    that a run which goes on sees what it would have seen. The process has the number `rank`; it
    lets `processes` others read photographs (0: itself).
    """

    def __init__(
        self,
        images: LicensedImages,
        network: nn.Module,
        *,
        batch: int,
        samples: int,
        rank: int = 0,
        processes: int = 0,
    ) -> None:
        self.images, self.network = images, network
        self.batch, self.samples, self.rank = batch, samples, rank
        self.processes = processes
        self._examples: Iterator[tuple[Persons, Crops]] | None = None

    def start(self, step: int) -> None:
        """Go to a step."""
        self._examples = loaded(self.images, map(self.keys, count(step)), self.processes)

    def keys(self, step: int) -> list[tuple[int, int]]:
        """Persons and variants of a step."""
        rng = np.random.default_rng([self.images.config.seed, self.rank, step, 2])
        drawn = rng.integers([len(self.images), VARIANTS], size=(self.batch, 2))
        return [(person, variant) for person, variant in drawn.tolist()]

    def __call__(self, generator: torch.Generator) -> Batch:
        """Make the next batch; the generator chooses among the heatmap samples."""
        if self._examples is None:
            self.start(0)
        assert self._examples is not None
        persons, crops = next(self._examples)
        found = features(self.network, crops.image, precision=self.images.config.precision)
        return batch_of(persons, crops.encoded(found), samples=self.samples, generator=generator)


# --------------------------------------------------------------- the cache of training


@dataclass(frozen=True)
class CachedFeatures(Persons):
    """People with some crops of each."""

    crop_box: Float[Tensor, "people variants 3"]
    mask: UInt8[Tensor, "people variants bytes"]
    features: Float[Tensor, "people variants features"]

    @property
    def persons(self) -> Persons:
        """What is known of the people whichever crop shows them."""
        return Persons(**{f.name: getattr(self, f.name) for f in fields(Persons)})

    def crops(self, variant: Tensor) -> CropFeatures:
        """Return one crop of each person."""
        each = torch.arange(len(self), device=self.box.device)
        chosen = each, variant.to(each.device)
        return CropFeatures(self.crop_box[chosen], self.mask[chosen], self.features[chosen])


def store(config: Licensed, root: Path) -> Store[CachedFeatures]:
    """Return the shards of a configuration, made or not: "validation", and "train" if it says so.

    Making them reads photographs in as many processes as training would (`workers`).
    """
    parts = zip((TRAIN, VALIDATION), people(config, root), strict=True)
    sizes = {split: sum(map(len, sets)) for split, sets in parts}
    if not config.variants:
        del sizes[TRAIN]
    return Store(
        name="features",
        config=config,
        sizes=sizes,
        shard=config.shard,
        recipe=DATA_VERSION,
        make=partial(make_shard, root=root),
        kind=CachedFeatures,
        folder="features",
        command="world paper",
        workers=max(1, workers()),
    )


def make_shard(config: Licensed, split: str, number: int, *, root: Path) -> CachedFeatures:
    """Read, crop and encode the people of one shard."""
    check_origin(config, root)
    images = LicensedImages(people(config, root)[split == VALIDATION], config, root=root)
    variants = range(config.variants) if split == TRAIN else (AS_ANNOTATED,)
    network, persons, crops = backbone(root, device_of(number)), [], []
    for index in range(len(images))[number * config.shard :][: config.shard]:
        shown = Crops.join([images.crops(index, variant) for variant in variants])
        parts = shown.image.split(AT_ONCE)
        found = [features(network, part, precision=config.precision) for part in parts]
        crops.append(shown.encoded(torch.cat(found)))
        persons.append(images.persons(index))
    known = Persons.join(persons)
    return CachedFeatures(
        **{f.name: getattr(known, f.name) for f in fields(Persons)},
        crop_box=torch.stack([each.box for each in crops]),
        mask=torch.stack([each.mask for each in crops]),
        features=torch.stack([each.features for each in crops]).half(),
    )


@lru_cache(maxsize=1)
def check_origin(config: Licensed, root: Path) -> None:
    """Refuse a cache that was made from another backbone or other annotations than now."""
    files = [root / BACKBONE, *(annotation_path(name, root=root) for name in config.train)]
    origin = {path.relative_to(root).as_posix(): digest(path) for path in files}
    path = store(config, root).directory / ORIGIN
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(origin, indent=1) + "\n")
    before = json.loads(path.read_text())
    if changes := [name for name in origin if origin[name] != before.get(name)]:
        raise ValueError(
            f"{', '.join(changes)} changed since {shown(path.parent)} was made; delete that "
            "folder to make it again"
        )


class CachedPool:
    """Training people of the cache, shard by shard; files stay on disk until they are read."""

    def __init__(self, parts: Sequence[CachedFeatures]) -> None:
        self.parts = list(parts)
        sizes = torch.tensor([len(part) for part in self.parts])
        self.ends = sizes.cumsum(0)
        self.starts = self.ends - sizes
        self.variants = self.parts[0].features.shape[1]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, index: Tensor) -> CachedFeatures:
        """Return some people, in order."""
        places = torch.searchsorted(self.ends, index, right=True)
        pairs = zip(places.tolist(), (index - self.starts[places]).tolist(), strict=True)
        return CachedFeatures.join([self.parts[place][slice(i, i + 1)] for place, i in pairs])

    def draw(self, batch: int, *, samples: int, generator: torch.Generator) -> Batch:
        """Draw people and a crop of each at random, with replacement."""
        index = torch.randint(len(self), (batch,), generator=generator)
        variant = torch.randint(self.variants, (batch,), generator=generator)
        rows = self.rows(index)
        return batch_of(rows.persons, rows.crops(variant), samples=samples, generator=generator)


# ----------------------------------------------------------------- the cache of tests


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """What decides the features of a test set."""

    __test__ = False  # not for pytest

    name: str
    annotations: str  # hash of the file
    backbone: str
    count: int = hashed_if_changed(0)  # people, evenly spread; 0: all


@dataclass(frozen=True)
class TestFeatures(TensorRecord):
    """People of a test set, in the boxes in which they are evaluated."""

    features: Float[Tensor, "people features"]
    image_size: Float[Tensor, "people 2"]  # of the photograph


def described(name: str, root: Path = LICENSED, count: int = 0) -> TestSet:
    """Say what decides the features of a test set, or of `count` people of it."""
    if data_set(name).split != "test":
        raise ValueError(f"{name} is for training; expected a test set")
    annotations = existing(annotation_path(name, root=root))
    hashes = {"annotations": digest(annotations), "backbone": digest(existing(root / BACKBONE))}
    return TestSet(name=name, **hashes, count=count)


def people_of_test(config: TestSet, root: Path = LICENSED) -> Annotations:
    """Read the annotations of a test set, or of the people of it that count."""
    everybody = read_annotations(config.name, root=root)
    if not 0 < config.count < len(everybody):
        return everybody
    return everybody[torch.linspace(0, len(everybody) - 1, config.count).round().long()]


def store_of_test(name: str, root: Path = LICENSED, count: int = 0) -> Store[TestFeatures]:
    """Return the shards of a test set, made or not."""
    config = described(name, root, count)
    return Store(
        name=name,
        config=config,
        sizes={"test": len(people_of_test(config, root))},
        shard=TESTED_SHARD,
        recipe=TEST_DATA_VERSION,
        make=partial(make_shard_of_test, root=root),
        kind=TestFeatures,
        folder="features",
        command="tables",
        workers=max(1, workers()),
    )


def make_shard_of_test(config: TestSet, split: str, number: int, *, root: Path) -> TestFeatures:
    """Read, crop and encode the people of one shard."""
    del split
    images = LicensedImages([people_of_test(config, root)], Licensed(masks=False), root=root)
    network, parts = backbone(root, device_of(number)), []
    chosen = range(len(images))[number * TESTED_SHARD :][:TESTED_SHARD]
    for start in range(0, len(chosen), AT_ONCE):
        here = chosen[start : start + AT_ONCE]
        crops = Crops.join([images.crops(index, AS_ANNOTATED) for index in here])
        parts.append(TestFeatures(features(network, crops.image).cpu(), crops.image_size))
    return TestFeatures.join(parts)


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
    chosen, found = _tested(name, root, count)
    for start in range(0, len(chosen), BATCH):
        part, there = chosen[start : start + BATCH], found[slice(start, start + BATCH)]
        everything = torch.full((len(part), 8), 255, dtype=torch.uint8)  # masks are read elsewhere
        crops = CropFeatures(part.box, everything, there.features)
        stored = read_samples(name, part.row, root=root) if samples else None
        yield unlabelled_batch(part, crops, there.image_size, stored=stored), part


def _tested(name: str, root: Path, count: int) -> tuple[Annotations, TestFeatures]:
    """Return people with their features; some are taken from among all, if these are there."""
    whole, some = store_of_test(name, root), store_of_test(name, root, count)
    chosen = people_of_test(some.config, root)
    if count and all(path.exists() for path in whole.paths("test")):
        return chosen, whole.load("test")[chosen.row]
    some.generate()
    return chosen, some.load("test")


def require_samples(name: str, root: Path = LICENSED) -> None:
    """Refuse to go on without samples of a test set's heatmaps, which nobody publishes."""
    folder = root / "heatmap_samples" / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{shown(folder)} is missing: this network reads samples of heatmaps, of test sets "
            f"too; to make them: python3 -m humr data samples {name}"
        )
