"""From photographs of licensed people to crops, features and batches, in several processes.

An example is a person and a crop of it. Which crop is decided by a number, the variant: the same
number gives the same crop, colours included, in any process and at any time.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
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
    EVALUATION_SIZE,
    SIZE,
    changed,
    crop,
    evaluation_crop,
    photograph,
    read_mask,
    training_crop,
    varied,
    window,
)
from humr.licensed.people import (
    Annotations,
    CropFeatures,
    Persons,
    batch_of,
    persons_of,
    read_annotations,
    read_samples,
    size_of,
    unlabelled_batch,
    well_detected,
)
from humr.storage import Store, TensorRecord

AS_ANNOTATED = -1  # the variant of the annotated box, with nothing changed
VARIANTS = 2**31  # different crops of a person
MOST_WORKERS = 16
MARGIN = 16  # px beyond the crop that blurs and streaks reach


@dataclass(frozen=True)
class Crops(TensorRecord):
    """Crops of people."""

    image: Float[Tensor, "people 3 224 224"]  # standardised
    box: Float[Tensor, "people 3"]
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, bit-packed
    image_size: Float[Tensor, "people 2"]  # of the photograph

    def looks(self, features: Float[Tensor, "people features"]) -> CropFeatures:
        """Return the crops with features in place of pixels."""
        return CropFeatures(self.box, self.mask, features.to(self.box.device))


@dataclass(frozen=True)
class Example(TensorRecord):
    """People and a crop of each."""

    persons: Persons
    crops: Crops


def workers() -> int:
    """Processes that read photographs: HUMR_WORKERS, else one less than the cores, at most 16."""
    chosen = os.environ.get("HUMR_WORKERS")
    return int(chosen) if chosen else min(MOST_WORKERS, (os.cpu_count() or 1) - 1)


def divided(
    config: Licensed, *, root: Path = LICENSED
) -> tuple[list[Annotations], list[Annotations]]:
    """Read all training sets; returns well detected people to train on, and to validate on.

    The latter are spread evenly over the ends of all sets, which nobody is trained on: people of
    one sequence are neighbours in the files.
    """
    shown, held = [], []
    for name in tqdm(config.train, desc="annotations", mininterval=2):
        people = read_annotations(name, root=root)
        people = people[well_detected(people)]
        kept = len(people) - max(1, round(config.held_out * len(people)))
        if kept < 1:
            raise ValueError(
                f"{name} has {len(people)} well detected people; expected at least two, to train "
                "and to validate on. Usual cause: detections of other photographs"
            )
        shown.append(people[:kept])
        held.append(people[kept:])
    total = sum(map(len, held))
    chosen = torch.linspace(0, total - 1, min(config.validation, total)).round().long()
    ends = list(accumulate(map(len, held)))
    parts = [
        people[chosen[(chosen >= end - len(people)) & (chosen < end)] - (end - len(people))]
        for people, end in zip(held, ends, strict=True)
    ]
    return shown, [people for people in parts if len(people)]


def surroundings(
    photo: RgbImage, box: Float[Tensor, "3"]
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Float[Tensor, "3"]]:
    """Cut the part of a photograph that a crop shows, and `MARGIN` around; the box in it.

    Colours are changed there only, which takes a fraction of the time (the official code changes
    whole photographs).
    """
    x0, y0, x1, y1 = window(box)
    left, right = np.clip([x0 - MARGIN, x1 + MARGIN], 0, photo.shape[1]).tolist()
    top, bottom = np.clip([y0 - MARGIN, y1 + MARGIN], 0, photo.shape[0]).tolist()
    return photo[top:bottom, left:right], box - box.new_tensor([left, top, 0])


class LicensedImages(Dataset[Example]):
    """People of several training sets, one set after another; an item is a person and a variant.

    Args:
        sets: rows of training sets.
        config: seed of the variants, masks, heatmap samples.
        root: where the files lie.
    """

    def __init__(
        self, sets: Sequence[Annotations], config: Licensed, *, root: Path = LICENSED
    ) -> None:
        self.sets, self.config, self.root = list(sets), config, root
        self.ends = list(accumulate(map(len, self.sets)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def person(self, index: int) -> Annotations:
        """Return the row of a person."""
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} people; got number {index}")
        place = int(np.searchsorted(self.ends, index, side="right"))
        start = self.ends[place] - len(self.sets[place])
        return self.sets[place][slice(index - start, index - start + 1)]

    def persons(self, index: int) -> Persons:
        """Return what is known of a person whichever crop shows it."""
        chosen, samples = self.person(index), self.config.heatmap_samples
        return persons_of(chosen, samples=samples, root=self.root)

    def crops(self, index: int, variant: int) -> Crops:
        """Return a crop: the box and the colours vary, but for `AS_ANNOTATED`."""
        person = self.person(index)
        image, given = str(person.image[0]), size_of(person, 0)
        photo = photograph(person.name, image, size=given, root=self.root)
        size, box = torch.tensor(photo.shape[1::-1]).float(), person.box[0]
        if variant != AS_ANNOTATED:
            names = [self.config.seed, list(SETS).index(person.name), int(person.row), variant]
            rng = np.random.default_rng([*names, 1])  # NumPy pads seeds with zeros
            box = varied(box, size, rng=rng)
            part, inside = surroundings(photo, box)
            image = crop(changed(part, rng=rng), inside)
        else:
            image = crop(photo, box)
        mask = torch.from_numpy(self.possible(person, box))
        return Crops(image[None], box[None], pack_mask(mask[None]), size[None])

    def possible(
        self, person: Annotations, box: Float[Tensor, "3"]
    ) -> Bool[np.ndarray, "side side"]:
        """Where joints can be in a crop; everywhere if there is no valid mask."""
        side = self.config.mask_side
        if not (self.config.masks and person.mask_valid.item()):
            return np.ones((side, side), bool)
        mask = training_crop(read_mask(person.name, str(person.image[0]), root=self.root), box)
        blocks = mask.reshape(side, SIZE // side, side, SIZE // side)
        return np.logical_or.reduce(blocks, axis=(1, 3))

    def __getitem__(self, item: tuple[int, int]) -> Example:
        index, variant = item
        return Example(self.persons(index), self.crops(index, variant))


class TestImages(Dataset[Crops]):
    """People of a test set, in the boxes in which they are evaluated.

    Masks have the 256 pixels of `crops.EVALUATION_SIZE`: the person where the file says that its
    mask is good, else everything.
    """

    __test__ = False  # not for pytest

    def __init__(self, people: Annotations, *, root: Path = LICENSED) -> None:
        if data_set(people.name).split != "test":
            raise ValueError(f"{people.name} is for training; expected a test set")
        self.people, self.root = people, root

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Crops:
        name, image = self.people.name, str(self.people.image[index])
        given, box = size_of(self.people, index), self.people.box[index]
        photo = photograph(name, image, size=given, root=self.root)
        mask = np.ones((EVALUATION_SIZE, EVALUATION_SIZE), bool)
        if self.people.mask_valid[index]:
            mask = evaluation_crop(read_mask(name, image, root=self.root), box)
        size = torch.tensor(photo.shape[1::-1]).float()
        packed = pack_mask(torch.from_numpy(mask)[None])
        return Crops(crop(photo, box)[None], box[None], packed, size[None])


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


def loaded(dataset: Dataset[Any], keys: Iterable[list[Any]], processes: int) -> Iterator[Any]:
    """Items of a data set in the order of their keys, one list after another, joined."""
    return iter(
        DataLoader(
            dataset,
            batch_sampler=keys,  # pyright: ignore[reportArgumentType] - any iterable will do
            num_workers=processes,
            collate_fn=_joined,
            generator=torch.Generator(),  # of seeds that nobody needs; else the global one moves
        )
    )


def _joined(parts: Sequence[Any]) -> Any:  # noqa: ANN401
    return type(parts[0]).join(parts)


class ImageStream:
    """Batches whose photographs are read, cropped and encoded just then, some steps ahead.

    People and variants of a step depend on the seed, the process and the number of the step, so
    that a run which goes on sees what it would have seen.

    Args:
        images: people.
        network: the backbone, on its device.
        batch: people per step.
        samples: heatmap samples per person.
        rank: number of the process.
        processes: that read photographs; 0: this one.
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
        self._examples: Iterator[Example] | None = None

    def start(self, step: int) -> None:
        """Go to a step."""
        keys = (self.keys(number) for number in count(step))
        self._examples = loaded(self.images, keys, self.processes)

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
        example = next(self._examples)
        precision = self.images.config.precision
        found = features(self.network, example.crops.image, precision=precision)
        looks = example.crops.looks(found)
        return batch_of(example.persons, looks, samples=self.samples, generator=generator)


def evaluation_batches(
    name: str,
    network: nn.Module,
    *,
    default_focal: bool,
    batch: int = 32,
    precision: str = "float32",
    processes: int = 0,
    root: Path = LICENSED,
) -> Iterator[tuple[Batch, Annotations]]:
    """Batches of a test set with their rows: annotated box, ViTPose's keypoints, nothing varied.

    Args:
        name: of the data set.
        network: the backbone, on its device, where features are computed; batches are on the CPU.
        default_focal: the photograph's diagonal in place of the given focal length, as in the
            official code.
        batch: people in each.
        precision: of the backbone.
        processes: that read photographs; 0: this one.
        root: where the files lie.
    """
    people = read_annotations(name, root=root)
    rows = [list(range(i, min(i + batch, len(people)))) for i in range(0, len(people), batch)]
    images = loaded(TestImages(people, root=root), rows, processes)
    for chosen, crops in zip(rows, images, strict=True):
        part = people[torch.tensor(chosen)]
        looks = crops.looks(features(network, crops.image, precision=precision))
        made = unlabelled_batch(part, looks, crops.image_size, default_focal=default_focal)
        yield made, part


# Features of licensed people, computed once: training then draws without photographs.
#
# Of every training person the cache holds `Licensed.variants` crops: the backbone's features in
# half precision, the box, and where joints can be (bit-packed); and once what `Persons` says.
# People who are validated on have one crop each, the annotated box. Per person and without the
# crops it takes 18 kB with all 150 heatmap samples, per crop 1.5 kB and the mask: 6.3 kB at 224
# px, 0.4 kB at 56.


DATA_VERSION = 1  # raise it whenever the same configuration would give other crops or features

TRAIN, VALIDATION = "train", "validation"
AT_ONCE = 64  # crops that the backbone sees
ORIGIN = "origin.json"


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

    def looks(self, variant: Tensor) -> CropFeatures:
        """Return one crop of each person."""
        each = torch.arange(len(self), device=self.box.device)
        chosen = each, variant.to(each.device)
        return CropFeatures(self.crop_box[chosen], self.mask[chosen], self.features[chosen])


@lru_cache(maxsize=1)
def people(config: Licensed, root: Path) -> tuple[list[Annotations], list[Annotations]]:
    """People to train on and to validate on; kept, since reading takes a while."""
    return divided(config, root=root)


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
        read=CachedFeatures.read,
        join=CachedFeatures.join,
        folder="features",
        command="world paper",
        workers=max(1, workers()),
    )


def make_shard(config: Licensed, split: str, number: int, *, root: Path) -> CachedFeatures:
    """Read, crop and encode the people of one shard."""
    check_origin(config, root)
    sets = people(config, root)[split == VALIDATION]
    images = LicensedImages(sets, config, root=root)
    start = number * config.shard
    chosen = range(start, min(start + config.shard, len(images)))
    variants = range(config.variants) if split == TRAIN else (AS_ANNOTATED,)
    network = backbone(root, device_of(number))
    parts = [_encoded(images, i, variants, network) for i in chosen]
    looks = [part for _, part in parts]
    known = Persons.join([part for part, _ in parts])
    return CachedFeatures(
        **{f.name: getattr(known, f.name) for f in fields(Persons)},
        crop_box=torch.stack([look.box for look in looks]),
        mask=torch.stack([look.mask for look in looks]),
        features=torch.stack([look.features for look in looks]).half(),
    )


def _encoded(
    images: LicensedImages, index: int, variants: Sequence[int], network: HRNet
) -> tuple[Persons, CropFeatures]:
    """Return a person, and its crops with their features."""
    crops = Crops.join([images.crops(index, variant) for variant in variants])
    precision = images.config.precision
    parts = [features(network, x, precision=precision) for x in crops.image.split(AT_ONCE)]
    return images.persons(index), crops.looks(torch.cat(parts))


@lru_cache(maxsize=1)
def check_origin(config: Licensed, root: Path) -> None:
    """Refuse a cache that was made from other files than those that are there now."""
    folder, origin = store(config, root).directory, origin_of(config, root)
    path = folder / ORIGIN
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(origin, indent=1) + "\n")
    before = json.loads(path.read_text())
    if changed := [name for name in origin if origin[name] != before.get(name)]:
        raise ValueError(
            f"{', '.join(changed)} changed since {shown(folder)} was made; delete that folder to "
            "make it again"
        )


def origin_of(config: Licensed, root: Path) -> dict[str, str]:
    """Hashes of the files that decide all features: the backbone's and the annotations."""
    names = [BACKBONE, *(f"annotations/{data_set(n).annotations}" for n in config.train)]
    return {name: digest(root / name) for name in names}


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
        chosen = self.rows(index)
        looks = chosen.looks(variant)
        return batch_of(chosen.persons, looks, samples=samples, generator=generator)


# Test sets of HuMR as the network sees them: features of the photographs, computed once.
#
# Every model of the same backbone is evaluated on them. They are kept in `data/features`, in
# single precision; a folder belongs to one backbone and one annotation file.


TEST_DATA_VERSION = 1  # raise it whenever the same files would give other features
TESTED_SHARD = 500  # people per file
BATCH = 32


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
    annotations = existing(root / "annotations" / data_set(name).annotations)
    network = existing(root / BACKBONE)
    hashes = {"annotations": digest(annotations), "backbone": digest(network)}
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
        read=TestFeatures.read,
        join=TestFeatures.join,
        folder="features",
        command="tables",
        workers=max(1, workers()),
    )


def make_shard_of_test(config: TestSet, split: str, number: int, *, root: Path) -> TestFeatures:
    """Read, crop and encode the people of one shard."""
    del split
    chosen = people_of_test(config, root)
    unmasked = replace(chosen, mask_valid=torch.zeros(len(chosen), dtype=torch.bool))
    start, stop = number * TESTED_SHARD, min((number + 1) * TESTED_SHARD, len(chosen))
    keys = [list(range(i, min(i + AT_ONCE, stop))) for i in range(start, stop, AT_ONCE)]
    network = backbone(root, device_of(number))
    parts = [
        TestFeatures(features(network, crops.image).cpu(), crops.image_size)
        for crops in loaded(TestImages(unmasked, root=root), keys, 0)
    ]
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
    chosen, seen = _seen(name, root, count)
    for start in range(0, len(chosen), BATCH):
        here = slice(start, start + BATCH)
        part, sight = chosen[here], seen[here]
        everything = torch.full((len(part), 8), 255, dtype=torch.uint8)  # masks are read elsewhere
        looks = CropFeatures(part.box, everything, sight.features)
        stored = read_samples(name, part.row, root=root) if samples else None
        yield (
            unlabelled_batch(part, looks, sight.image_size, default_focal=False, stored=stored),
            part,
        )


def _seen(name: str, root: Path, count: int) -> tuple[Annotations, TestFeatures]:
    """Return people with their features; some are taken from among all, if these are there."""
    whole, made = store_of_test(name, root), store_of_test(name, root, count)
    chosen = people_of_test(made.config, root)
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
