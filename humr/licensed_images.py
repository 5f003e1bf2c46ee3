"""From photographs of licensed people to crops, features and batches, in several processes.

An example is a person and a crop of it. Which crop is decided by a number, the variant: the same
number gives the same crop, colours included, in any process and at any time.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from humr.annotations import Annotations, read_annotations, size_of, well_detected
from humr.crops import EVALUATION_SIZE, SIZE, crop, photograph, varied, window
from humr.datasets import Batch, pack_mask
from humr.licensed import LICENSED, SETS, data_set
from humr.licensed_people import (
    Looks,
    Persons,
    Rows,
    batch_of,
    persons_of,
    unlabelled_batch,
)
from humr.paper_config import Licensed
from humr.person_masks import evaluation_crop, read_mask, training_crop
from humr.photometric import changed
from humr.photos import RgbImage

AS_ANNOTATED = -1  # the variant of the annotated box, with nothing changed
VARIANTS = 2**31  # different crops of a person
MOST_WORKERS = 16
MARGIN = 16  # px beyond the crop that blurs and streaks reach


@dataclass(frozen=True)
class Crops(Rows):
    """Crops of people."""

    image: Float[Tensor, "people 3 224 224"]  # standardised
    box: Float[Tensor, "people 3"]
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, bit-packed
    image_size: Float[Tensor, "people 2"]  # of the photograph

    def looks(self, features: Float[Tensor, "people features"]) -> Looks:
        """Return the crops with features in place of pixels."""
        return Looks(self.box, self.mask, features.to(self.box.device))


@dataclass(frozen=True)
class Example:
    """People and a crop of each."""

    persons: Persons
    crops: Crops

    @classmethod
    def join(cls, parts: Sequence["Example"]) -> "Example":
        """Put people one after another."""
        persons, crops = [p.persons for p in parts], [p.crops for p in parts]
        return cls(Persons.join(persons), Crops.join(crops))


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
