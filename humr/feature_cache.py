"""Features of licensed people, computed once: training then draws without photographs.

Of every training person the cache holds `Licensed.variants` crops: the backbone's features in half
precision, the box, and where joints can be (bit-packed); and once what `Persons` says. People who
are validated on have one crop each, the annotated box. Per person and without the crops it takes
18 kB with all 150 heatmap samples, per crop 1.5 kB and the mask: 6.3 kB at 224 px, 0.4 kB at 56.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from humr import strict_weights
from humr.annotations import Annotations
from humr.datasets import Batch
from humr.devices import pick_device
from humr.files import digest, write_text
from humr.hrnet import HRNet
from humr.licensed import data_set, existing, shown
from humr.licensed_images import (
    AS_ANNOTATED,
    Crops,
    LicensedImages,
    divided,
    features,
    workers,
)
from humr.licensed_people import Looks, Persons, batch_of
from humr.paper_config import Licensed
from humr.shards import Store, read_tensors

RECIPE = 1  # raise it whenever the same configuration would give other crops or features
WEIGHTS = "state_dict"  # the key, where a file has one
BACKBONE = "ckpt/bedlam_cliff_3dpw_ft_backbone.pth"
TRAIN, VALIDATION = "train", "validation"
AT_ONCE = 64  # crops that the backbone sees
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Cached(Persons):
    """People with some crops of each."""

    crop_box: Float[Tensor, "people variants 3"]
    mask: UInt8[Tensor, "people variants bytes"]
    features: Float[Tensor, "people variants features"]

    @classmethod
    def read(cls, path: Path) -> "Cached":
        """Read one shard."""
        return cls(**read_tensors(path, {f.name for f in fields(cls)}))

    @property
    def persons(self) -> Persons:
        """What is known of the people whichever crop shows them."""
        return Persons(**{f.name: getattr(self, f.name) for f in fields(Persons)})

    def looks(self, variant: Tensor) -> Looks:
        """Return one crop of each person."""
        each = torch.arange(len(self), device=self.box.device)
        chosen = each, variant.to(each.device)
        return Looks(self.crop_box[chosen], self.mask[chosen], self.features[chosen])


@lru_cache(maxsize=1)
def people(config: Licensed, root: Path) -> tuple[list[Annotations], list[Annotations]]:
    """People to train on and to validate on; kept, since reading takes a while."""
    return divided(config, root=root)


def read_backbone(path: Path) -> HRNet:
    """Read the frozen backbone, bare weights under the names of `HRNet`; any width."""
    state = strict_weights.load(existing(path), WEIGHTS, set(), bare=True)[WEIGHTS]
    last = state.get("final_layer.weight")
    if getattr(last, "ndim", None) != 4:
        raise ValueError(
            f"{shown(path)}: expected the weights of HRNet by name, final_layer.weight among them."
            " Usual cause: a checkpoint of a whole network, or of another backbone"
        )
    network = HRNet(last.shape[1])
    strict_weights.check(shown(path), state, network.state_dict())
    network.load_state_dict(state)
    return network


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


def store(config: Licensed, root: Path) -> Store[Cached]:
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
        recipe=RECIPE,
        make=partial(make_shard, root=root),
        read=Cached.read,
        join=Cached.join,
        folder="features",
        command="world paper",
        workers=max(1, workers()),
    )


def make_shard(config: Licensed, split: str, number: int, *, root: Path) -> Cached:
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
    return Cached(
        **{f.name: getattr(known, f.name) for f in fields(Persons)},
        crop_box=torch.stack([look.box for look in looks]),
        mask=torch.stack([look.mask for look in looks]),
        features=torch.stack([look.features for look in looks]).half(),
    )


def _encoded(
    images: LicensedImages, index: int, variants: Sequence[int], network: HRNet
) -> tuple[Persons, Looks]:
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

    def __init__(self, parts: Sequence[Cached]) -> None:
        self.parts = list(parts)
        sizes = torch.tensor([len(part) for part in self.parts])
        self.ends = sizes.cumsum(0)
        self.starts = self.ends - sizes
        self.variants = self.parts[0].features.shape[1]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, index: Tensor) -> Cached:
        """Return some people, in order."""
        places = torch.searchsorted(self.ends, index, right=True)
        pairs = zip(places.tolist(), (index - self.starts[places]).tolist(), strict=True)
        return Cached.join([self.parts[place][slice(i, i + 1)] for place, i in pairs])

    def draw(self, batch: int, *, samples: int, generator: torch.Generator) -> Batch:
        """Draw people and a crop of each at random, with replacement."""
        index = torch.randint(len(self), (batch,), generator=generator)
        variant = torch.randint(self.variants, (batch,), generator=generator)
        chosen = self.rows(index)
        looks = chosen.looks(variant)
        return batch_of(chosen.persons, looks, samples=samples, generator=generator)
