"""MPI-INF-3DHP (Mehta et al. 2017): the test set in its three groups, and the training set.

Joints are those of H36M17 under other names; here "thorax" is their neck, "nose" their head, and
"head_top" their top of the head. Poses are `univ_annot3`: scaled to a person of universal size.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import torch
from scipy.io.matlab import MatReadError
from torch import Tensor

from humr import hdf5
from humr.licensed import LICENSED, find, shown
from humr.licensed_lifting import LicensedLifting, checked, every, expect, read_table, sure
from humr.skeletons import H36M17, MPII16, SPIN17, Skeleton, index_map

FOLDER = LICENSED / "mpi_inf_3dhp"
GROUPS = {"GS": ("TS1", "TS2"), "noGS": ("TS3", "TS4"), "Outdoor": ("TS5", "TS6")}
TEST_FOLDER = "mpi_inf_3dhp_test_set"
HEATMAPS = "3DHP_dataset_h36m_hrnet.h5"  # of the detector that was trained on Human3.6M
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
    arrays = hdf5.read_arrays(path, ("annot2", annotation, "valid_frame"))
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
