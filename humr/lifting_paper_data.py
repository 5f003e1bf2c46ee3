"""Splits of Human3.6M and MPI-INF-3DHP for lifting: what they need, read from licensed files.

Images are read from these files; only what is fitted to heatmaps, which takes long, is kept, in
`data/lifting`. `store` stands where that of the open world does. The groups "studio", "rooms" and
"outdoor" are GS, noGS and Outdoor of MPI-INF-3DHP.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from humr import h36m, h36m_lifting, inventory, mpi3dhp
from humr.config import config_hash
from humr.files import digest
from humr.licensed import LICENSED, find, shown
from humr.licensed_lifting import LicensedLifting
from humr.lifting_config import GROUPS
from humr.lifting_paper_config import THEIRS, Human36m, LiftingPaperRun, ProposePaperRun
from humr.paths import ROOT as HOUSE
from humr.shards import Store, read_tensors, write

RECIPE = 1  # raise it whenever the same files would give other images
ROOT = LICENSED  # where the files lie
HEATMAPS = "H36M_dataset_h36m_hrnet.h5"
TRANSFER = "mpi_inf_3dhp"
FILES_OF = {"train": "train", "validation": "train", "test": "test", "ambiguous": "test"}
READING = ("lifting_paper_data", "licensed_lifting", "h36m_lifting", "h36m", "mpi3dhp",
           "gaussians", "heatmaps")  # fmt: skip

# --------------------------------------------------------------------- what is needed


def check(run: LiftingPaperRun | ProposePaperRun) -> None:
    """Refuse to train without the files of training and test: one error names the first."""
    entries = needed(run.world, ("train", "test"))
    found = inventory.inspect(ROOT, entries=entries)
    if lacking := [each for each in found if each.state != "ok"]:
        raise FileNotFoundError(inventory.refusal(lacking))


def needed(config: Human36m, splits: Iterable[str]) -> list[inventory.Entry]:
    """Entries of the inventory that splits are read from."""
    names = set().union(*(_files(config, split) for split in splits))
    return [entry for entry in inventory.ENTRIES if entry.paths[0] in names]


def _files(config: Human36m, split: str) -> set[str]:
    """Where the inventory looks first for what a split is read from."""
    if split in GROUPS:
        if config.transfer_poses == "heatmaps":
            return {f"{TRANSFER}/{mpi3dhp.HEATMAPS}"}
        folder = f"{TRANSFER}/{mpi3dhp.TEST_FOLDER}"
        return {f"{folder}/{name}/annot_data.mat" for name in mpi3dhp.GROUPS[THEIRS[split]]}
    if config.poses == "fits":
        names = {f"{FILES_OF[split]}set_h36m.pickle"}
    elif config.poses == "heatmaps":
        names = {HEATMAPS}
    else:
        detector = h36m_lifting.DETECTORS[config.poses]
        names = {"data_3d_h36m.npz", f"data_2d_h36m_{detector}.npz", "metadata.xml"}
    return {f"h36m/{name}" for name in names}


def digests(config: Human36m, splits: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files that splits are read from, of those that are there."""
    found = {}
    for entry in needed(config, splits):
        path = next((ROOT / name for name in entry.paths if (ROOT / name).is_file()), None)
        if path is not None:
            for each in [path, *_beside(path)]:
                about = each.stat()
                found[shown(each)] = _digest(each, about.st_size, about.st_mtime_ns)
    return found


def _beside(path: Path) -> list[Path]:
    """The .cdf files that hold the 3D poses of a pickle without any."""
    split = path.name.partition("set_h36m_without_3d")[0]
    subjects = h36m.SUBJECTS.get(split, {})
    return sorted(
        file for name in subjects for file in h36m.cdf_folder(name, path.parent).glob("*.cdf")
    )


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Hash a file once, as long as it does not change."""
    del size, changed
    return digest(path)


def evaluated_on(config: Human36m) -> str:
    """Name what rows depend on beside the model and the code that measures."""
    code = [digest(HOUSE / "humr" / f"{name}.py") for name in READING]
    files = sorted(digests(config, config.tested).values())
    return "-".join([config_hash(config), *map(config_hash, (files, code))])


# ---------------------------------------------------------------------------- reading


def records(config: Human36m, split: str) -> LicensedLifting:
    """Read a split; those of training are kept, since both come from the same file."""
    if split not in config.splits:
        raise ValueError(f"split must be one of {', '.join(config.splits)}; got {split!r}")
    if split not in config.tested:
        return _divided(config, ROOT)[split]
    images = _tested(config, split)
    return images[_spread(len(images), config.tested_images or len(images))]


def _tested(config: Human36m, split: str) -> LicensedLifting:
    if split in GROUPS:
        return _group(config, THEIRS[split], ROOT / TRANSFER)
    if split == "test":
        return _read(config, "test", config.test_stride, ROOT)
    images = _read(config, "test", 1, ROOT)
    return images[images.ambiguous]


def _group(config: Human36m, group: str, folder: Path) -> LicensedLifting:
    if config.transfer_poses == "labels":
        return mpi3dhp.read_test(group, folder=folder)
    table, kept = find(folder, mpi3dhp.HEATMAPS), store(config).directory.parent
    return _fitted(table, group, 1, kept, lambda: mpi3dhp.read_test_heatmaps(group, folder=folder))


def _spread(count: int, most: int) -> Int[Tensor, " chosen"]:
    """Return at most so many indices of `count` images, evenly spread."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def _read(config: Human36m, split: str, stride: int, root: Path) -> LicensedLifting:
    folder = root / "h36m"
    if config.poses == "fits":
        return h36m_lifting.read_fits(split, stride=stride, folder=folder)
    if config.poses == "heatmaps":
        table, kept = find(folder, HEATMAPS), store(config).directory.parent
        return _fitted(
            table, split, stride, kept,
            lambda: h36m_lifting.read_heatmaps(split, stride=stride, folder=folder),
        )  # fmt: skip
    return h36m_lifting.read_keypoints(split, stride=stride, detector=config.poses, folder=folder)


@lru_cache(maxsize=1)
def _divided(config: Human36m, root: Path) -> dict[str, LicensedLifting]:
    """Split the training images by what is held out."""
    images = _read(config, "train", config.stride, root)
    theirs = torch.tensor([action in config.held_out for action in images.action])
    held = (images.subject == config.held_out_subject) & theirs
    if not held.any() or held.all():
        raise ValueError(
            f"{int(held.sum())} of {len(images)} training images are held out; expected some and "
            f"not all. Held out are {', '.join(config.held_out)} of S{config.held_out_subject}; "
            f"the actions are {', '.join(sorted(set(images.action)))}"
        )
    chosen = _spread(int(held.sum()), config.validation)
    return {"train": images[~held], "validation": images[held][chosen]}


# ------------------------------------------------------------------- fits of heatmaps


@dataclass(frozen=True)
class Fitted:
    """Images with heatmaps, without the heatmaps, as they are kept on disk."""

    joints: Float[Tensor, "images 17 3"]
    points: Float[Tensor, "images 16 2"]
    fits: Float[Tensor, "images 16 6"]
    moments: Float[Tensor, "images 16 6"]
    subject: UInt8[Tensor, " images"]
    action: UInt8[Tensor, " images"]  # its number among the names
    names: UInt8[Tensor, " bytes"]  # JSON


def _fitted(
    table: Path, split: str, stride: int, kept: Path, read: Callable[[], LicensedLifting]
) -> LicensedLifting:
    """Read heatmaps and keep what is fitted to them, as long as their file does not change."""
    about = table.stat()
    origin = config_hash([RECIPE, split, stride, about.st_size, about.st_mtime_ns])
    path = kept / f"heatmaps-{origin}.safetensors"
    if not path.exists():
        write(path, _packed(read()))
    tensors = read_tensors(path, {f.name for f in fields(Fitted)})
    names = json.loads(bytes(tensors.pop("names").tolist()))
    action = tuple(names[number] for number in tensors.pop("action").tolist())
    return LicensedLifting(**tensors, action=action)


def _packed(images: LicensedLifting) -> Fitted:
    tensors = {f.name: getattr(images, f.name) for f in fields(images) if f.name != "action"}
    names = sorted(set(images.action))
    number = {name: index for index, name in enumerate(names)}
    return Fitted(
        **tensors,
        action=torch.tensor([number[name] for name in images.action], dtype=torch.uint8),
        names=torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8),
    )


# ------------------------------------------------------------------------------ store


@dataclass(frozen=True, kw_only=True)
class InPlace(Store[LicensedLifting]):
    """Splits that are read from licensed files: there is nothing to make beforehand."""

    def generate(self, *, splits: Iterable[str] | None = None, workers: int | None = None) -> Path:
        """Write the manifest, which names the configuration."""
        del splits
        self.directory.mkdir(parents=True, exist_ok=True)
        return super().generate(workers=workers)

    def load(self, split: str) -> LicensedLifting:
        """Read a split."""
        return records(self.config, split)


def store(config: Human36m) -> InPlace:
    """Return the splits of a configuration."""
    return InPlace(
        name="Human3.6M",
        config=config,
        sizes={},
        shard=1,
        recipe=RECIPE,
        make=_made,
        read=_made,
        join=LicensedLifting.join,
        folder="lifting",
        command="data licensed",
    )


def _made(*_: object) -> LicensedLifting:
    raise ValueError("licensed images are read from their own files; there are no shards of them")
