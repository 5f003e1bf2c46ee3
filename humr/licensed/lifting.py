"""Splits of Human3.6M and MPI-INF-3DHP for lifting: what they need, read from licensed files.

Images are read from these files; only what is fitted to heatmaps, which takes long, is kept, in
`data/lifting`. `store` stands where that of the open world does. The groups "studio", "rooms" and
"outdoor" are GS, noGS and Outdoor of the test set of MPI-INF-3DHP (Mehta et al. 2017). Its joints
are those of H36M17 under other names; here "thorax" is their neck, "nose" their head, and
"head_top" their top of the head. Poses are `univ_annot3`: scaled to a person of universal size.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from humr.config import config_hash
from humr.files import code_digest, digest, find, shown
from humr.licensed import human36m, inventory, readers
from humr.licensed.datasets import LICENSED, THEIRS, Human36m, LiftingPaperRun, ProposePaperRun
from humr.licensed.human36m import LicensedLifting, checked, expect, read_table, tensor
from humr.lifting.config import GROUPS
from humr.skeletons import H36M17, Skeleton, index_map
from humr.storage import Store, TensorRecord

DATA_VERSION = 1  # raise it whenever the same files would give other images
ROOT = LICENSED  # where the files lie
HEATMAPS = "H36M_dataset_h36m_hrnet.h5"
FILES_OF = {"train": "train", "validation": "train", "test": "test", "ambiguous": "test"}

TRANSFER = "mpi_inf_3dhp"
TEST_FOLDER = "mpi_inf_3dhp_test_set"
TRANSFER_HEATMAPS = "3DHP_dataset_h36m_hrnet.h5"  # of the detector that was trained on Human3.6M
SEQUENCES = {"GS": ("TS1", "TS2"), "noGS": ("TS3", "TS4"), "Outdoor": ("TS5", "TS6")}
_LIMBS = (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
TEST17 = Skeleton(
    "mpi_inf_3dhp_test17",
    (
        "head_top", "thorax",
        *(f"{side}_{part}" for limb in _LIMBS for side in ("right", "left") for part in limb),
        "pelvis", "spine", "nose",
    ),
    (-1,) * 17,
)  # fmt: skip
H36M_FROM_TEST = index_map(TEST17, H36M17)

# --------------------------------------------------------------------- what is needed


def check(run: LiftingPaperRun | ProposePaperRun) -> None:
    """Refuse to train without the files of training and test: one error names the first."""
    files = needed(run.world, ("train", "test"))
    found = inventory.inspect(ROOT, files=files)
    if lacking := [each for each in found if each.state != "ok"]:
        raise FileNotFoundError(inventory.refusal(lacking))


def needed(config: Human36m, splits: Iterable[str]) -> list[inventory.LicensedFile]:
    """Files of the inventory that splits are read from."""
    names = set().union(*(_files(config, split) for split in splits))
    return [file for file in inventory.FILES if file.paths[0] in names]


def _files(config: Human36m, split: str) -> set[str]:
    """Where the inventory looks first for what a split is read from."""
    if split in GROUPS:
        if config.transfer_poses == "heatmaps":
            return {f"{TRANSFER}/{TRANSFER_HEATMAPS}"}
        folder = f"{TRANSFER}/{TEST_FOLDER}"
        return {f"{folder}/{name}/annot_data.mat" for name in SEQUENCES[THEIRS[split]]}
    if config.poses == "fits":
        names = {f"{FILES_OF[split]}set_h36m.pickle"}
    elif config.poses == "heatmaps":
        names = {HEATMAPS}
    else:
        detector = human36m.DETECTORS[config.poses]
        names = {"data_3d_h36m.npz", f"data_2d_h36m_{detector}.npz", "metadata.xml"}
    return {f"h36m/{name}" for name in names}


def digests(config: Human36m, splits: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files that splits are read from, of those that are there."""
    found = {}
    for file in needed(config, splits):
        path = next((ROOT / name for name in file.paths if (ROOT / name).is_file()), None)
        if path is not None:
            for each in [path, *_beside(path)]:
                about = each.stat()
                found[shown(each)] = _digest(each, about.st_size, about.st_mtime_ns)
    return found


def _beside(path: Path) -> list[Path]:
    """The .cdf files that hold the 3D poses of a pickle without any."""
    split = path.name.partition("set_h36m_without_3d")[0]
    subjects = human36m.SUBJECTS.get(split, {})
    return sorted(
        file for name in subjects for file in human36m.cdf_folder(name, path.parent).glob("*.cdf")
    )


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Hash a file once, as long as it does not change."""
    del size, changed
    return digest(path)


def evaluated_on(config: Human36m) -> str:
    """Name what rows depend on beside the model and the code that measures."""
    code = [code_digest("humr/licensed/lifting.py")]
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
        return read_test(group, folder=folder)
    table, kept = find(folder, TRANSFER_HEATMAPS), store(config).directory.parent
    return _fitted(table, group, 1, kept, lambda: read_test_heatmaps(group, folder=folder))


def _spread(count: int, most: int) -> Int[Tensor, " chosen"]:
    """Return at most so many indices of `count` images, evenly spread."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def _read(config: Human36m, split: str, stride: int, root: Path) -> LicensedLifting:
    folder = root / "h36m"
    if config.poses == "fits":
        return human36m.read_fits(split, stride=stride, folder=folder)
    if config.poses == "heatmaps":
        table, kept = find(folder, HEATMAPS), store(config).directory.parent
        return _fitted(
            table, split, stride, kept,
            lambda: human36m.read_heatmaps(split, stride=stride, folder=folder),
        )  # fmt: skip
    return human36m.read_keypoints(split, stride=stride, detector=config.poses, folder=folder)


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


def read_test(group: str, *, folder: Path = LICENSED / TRANSFER) -> LicensedLifting:
    """Read the valid frames of one group of MPI-INF-3DHP, with the annotated 2D poses.

    The action is the name of the sequence. Every joint gets the Gaussian of a sure detector.
    """
    parts = []
    for name in _sequences(group):
        path = find(folder / TEST_FOLDER / name, "annot_data.mat")
        arrays = readers.read_arrays(path, ("annot2", "univ_annot3", "valid_frame"))
        frames = len(arrays["annot2"])
        expect(path, "annot2", arrays["annot2"].shape, (frames, 1, 17, 2))
        expect(path, "univ_annot3", arrays["univ_annot3"].shape, (frames, 1, 17, 3))
        expect(path, "valid_frame", arrays["valid_frame"].shape, (frames, 1))
        valid, order = arrays["valid_frame"][:, 0] == 1, list(H36M_FROM_TEST)
        poses, points = (arrays[key][valid, 0][:, order] for key in ("univ_annot3", "annot2"))
        subject = torch.full((len(points),), int(name[2:]), dtype=torch.uint8)
        images = human36m.without_heatmaps(
            tensor(poses) / 1000, points, action=(name,) * len(points), subject=subject
        )
        parts.append(checked(images, path))
    return LicensedLifting.join(parts)


def read_test_heatmaps(group: str, *, folder: Path = LICENSED / TRANSFER) -> LicensedLifting:
    """Read one group of MPI-INF-3DHP with heatmaps, as FMPose publishes them."""
    path = find(folder, TRANSFER_HEATMAPS)
    subjects = {name: int(name[2:]) for name in _sequences(group)}
    return read_table(path, "test", subjects, pose="gt_3d_uni", stride=1)


def _sequences(group: str) -> tuple[str, ...]:
    if group not in SEQUENCES:
        raise ValueError(f"group must be one of {', '.join(SEQUENCES)}; got {group!r}")
    return SEQUENCES[group]


# ------------------------------------------------------------------- fits of heatmaps


@dataclass(frozen=True)
class FittedHeatmaps(TensorRecord):
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
    origin = config_hash([DATA_VERSION, split, stride, about.st_size, about.st_mtime_ns])
    path = kept / f"heatmaps-{origin}.safetensors"
    if not path.exists():
        _packed(read()).write(path)
    tensors = dict(vars(FittedHeatmaps.read(path)))
    names = json.loads(bytes(tensors.pop("names").tolist()))
    action = tuple(names[number] for number in tensors.pop("action").tolist())
    return LicensedLifting(**tensors, action=action)


def _packed(images: LicensedLifting) -> FittedHeatmaps:
    tensors = {f.name: getattr(images, f.name) for f in fields(images) if f.name != "action"}
    names = sorted(set(images.action))
    number = {name: index for index, name in enumerate(names)}
    return FittedHeatmaps(
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
        recipe=DATA_VERSION,
        make=_made,
        kind=LicensedLifting,
        folder="lifting",
        command="data licensed",
    )


def _made(*_: object) -> LicensedLifting:
    raise ValueError("licensed images are read from their own files; there are no shards of them")
