"""Splits of Human3.6M and MPI-INF-3DHP for lifting: what they need, read from licensed files.

Images are read from these files; only what is fitted to heatmaps, which takes long, is kept, in
`data/lifting`. `store` stands where that of the open world does. The groups "studio", "rooms" and
"outdoor" are GS, noGS and Outdoor of MPI-INF-3DHP.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse
import torch
from jaxtyping import Float, Int, UInt8
from scipy.io.matlab import MatReadError
from torch import Tensor

from humr.config import config_hash
from humr.files import code_digest, digest, find, shown
from humr.licensed import human36m, inventory, readers
from humr.licensed.datasets import LICENSED, THEIRS, Human36m, LiftingPaperRun, ProposePaperRun
from humr.licensed.human36m import LicensedLifting, checked, every, expect, read_table, sure
from humr.lifting.config import GROUPS as config_GROUPS
from humr.skeletons import H36M17, MPII16, SPIN17, Skeleton, index_map
from humr.storage import Store, TensorRecord

# MPI-INF-3DHP (Mehta et al. 2017): the test set in its three groups, and the training set.
#
# Joints are those of H36M17 under other names; here "thorax" is their neck, "nose" their head,
# and "head_top" their top of the head. Poses are `univ_annot3`: scaled to a person of universal
# size.


FOLDER = LICENSED / "mpi_inf_3dhp"
GROUPS = {"GS": ("TS1", "TS2"), "noGS": ("TS3", "TS4"), "Outdoor": ("TS5", "TS6")}
TEST_FOLDER = "mpi_inf_3dhp_test_set"
TRANSFER_HEATMAPS = "3DHP_dataset_h36m_hrnet.h5"  # of the detector that was trained on Human3.6M
ANNOTATIONS = ("univ_annot3", "annot3")
VIDEOS = (0, 1, 2, 4, 5, 6, 7, 8)  # of 14: those at chest height


def _sided(side: str, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts)


_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
_LONG_ARM, _LONG_LEG = ("clavicle", *_ARM, "hand"), (*_LEG, "foot", "toe")


def _skeleton(name: str, names: tuple[str, ...]) -> Skeleton:
    return Skeleton(name, names, (-1,) * len(names))


TEST17 = _skeleton(
    "mpi_inf_3dhp_test17",
    ("head_top", "thorax", *_sided("right", _ARM), *_sided("left", _ARM), *_sided("right", _LEG),
     *_sided("left", _LEG), "pelvis", "spine", "nose"),
)  # fmt: skip
TRAIN28 = _skeleton(
    "mpi_inf_3dhp_train28",
    ("spine3", "spine4", "spine2", "spine", "pelvis", "thorax", "nose", "head_top",
     *_sided("left", _LONG_ARM), *_sided("right", _LONG_ARM), *_sided("left", _LONG_LEG),
     *_sided("right", _LONG_LEG)),
)  # fmt: skip

H36M_FROM_TEST, H36M_FROM_TRAIN = index_map(TEST17, H36M17), index_map(TRAIN28, H36M17)
SPIN_FROM_TEST, SPIN_FROM_TRAIN = index_map(TEST17, SPIN17), index_map(TRAIN28, SPIN17)


def read_test(
    group: str, *, annotation: str = "univ_annot3", folder: Path = FOLDER
) -> LicensedLifting:
    """Read the valid frames of one group of the test set, with the annotated 2D poses.

    The action is the name of the sequence. Every joint gets the Gaussian of a sure detector.
    """
    _known("annotation", annotation, ANNOTATIONS)
    return LicensedLifting.join(
        [_test_sequence(name, annotation, folder) for name in _sequences(group)]
    )


def _test_sequence(name: str, annotation: str, folder: Path) -> LicensedLifting:
    path = find(folder / TEST_FOLDER / name, "annot_data.mat")
    arrays = readers.read_arrays(path, ("annot2", annotation, "valid_frame"))
    frames = len(arrays["annot2"])
    for key, shape in (("annot2", (1, 17, 2)), (annotation, (1, 17, 3)), ("valid_frame", (1,))):
        expect(path, key, arrays[key].shape, (frames, *shape))
    valid = arrays["valid_frame"][:, 0] == 1
    order = list(H36M_FROM_TEST)
    poses, points = (arrays[key][valid, 0][:, order] for key in (annotation, "annot2"))
    return _images(poses, points, [name] * len(poses), int(name[2:]), path)


def read_test_heatmaps(
    group: str, *, detector: str = "h36m", stride: int = 1, folder: Path = FOLDER
) -> LicensedLifting:
    """Read one group of the test set with heatmaps, `3DHP_dataset_h36m_hrnet.h5` (FMPose)."""
    path = find(folder, f"3DHP_dataset_{detector}_hrnet.h5")
    subjects = {name: int(name[2:]) for name in _sequences(group)}
    return read_table(path, "test", subjects, pose="gt_3d_uni", stride=stride)


def read_train(
    subject: int,
    sequence: int,
    *,
    videos: Sequence[int] = VIDEOS,
    annotation: str = "univ_annot3",
    stride: int = 10,
    folder: Path = FOLDER,
) -> LicensedLifting:
    """Read a sequence of the training set (subjects 1 to 8, sequences 1 and 2), all videos."""
    _known("annotation", annotation, ANNOTATIONS)
    path = find(folder / f"S{subject}" / f"Seq{sequence}", "annot.mat")
    try:
        arrays = scipy.io.loadmat(path, variable_names=["annot2", annotation])
        by_video = [(arrays["annot2"][v, 0], arrays[annotation][v, 0]) for v in videos]
    except (ValueError, TypeError, LookupError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            f"{shown(path)} is no annot.mat with annot2 and {annotation} of videos "
            f"{', '.join(map(str, videos))}: {error!r}"
        ) from error
    parts, order = [], list(H36M_FROM_TRAIN)
    for points, poses in by_video:
        expect(path, "annot2", points.shape, (len(points), 56))
        expect(path, annotation, poses.shape, (len(points), 84))
        poses, points = poses.reshape(-1, 28, 3)[:, order], points.reshape(-1, 28, 2)[:, order]
        chosen = every([""] * len(poses), stride).numpy()
        name = f"S{subject} Seq{sequence}"
        parts.append(_images(poses[chosen], points[chosen], [name] * len(chosen), subject, path))
    return LicensedLifting.join(parts)


def _images(
    poses: np.ndarray, points: np.ndarray, actions: Sequence[str], subject: int, path: Path
) -> LicensedLifting:
    """Poses of H36M17 in mm and its 2D points."""
    where = _tensor(points)[:, list(index_map(H36M17, MPII16))]
    images = LicensedLifting(
        joints=_tensor(poses) / 1000,
        points=where,
        fits=sure(where),
        moments=None,
        action=tuple(actions),
        subject=torch.full((len(where),), subject, dtype=torch.uint8),
    )
    return checked(images, path)


def _sequences(group: str) -> tuple[str, ...]:
    _known("group", group, tuple(GROUPS))
    return GROUPS[group]


def _known(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise ValueError(f"{what} must be one of {', '.join(names)}; got {name!r}")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


DATA_VERSION = 1  # raise it whenever the same files would give other images
ROOT = LICENSED  # where the files lie
HEATMAPS = "H36M_dataset_h36m_hrnet.h5"
TRANSFER = "mpi_inf_3dhp"
FILES_OF = {"train": "train", "validation": "train", "test": "test", "ambiguous": "test"}


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
    if split in config_GROUPS:
        if config.transfer_poses == "heatmaps":
            return {f"{TRANSFER}/{TRANSFER_HEATMAPS}"}
        folder = f"{TRANSFER}/{TEST_FOLDER}"
        return {f"{folder}/{name}/annot_data.mat" for name in GROUPS[THEIRS[split]]}
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
    if split in config_GROUPS:
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
