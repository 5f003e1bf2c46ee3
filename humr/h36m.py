"""Human3.6M: who is in which split, names, joints, frames, .cdf files, cameras.

Sequences are named by subject ("S9"), action ("Directions"), subaction ("0" or "1") and camera
("54138969"), as in the pickles of Wehrbein et al. (2021).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped

from humr.licensed import LICENSED, find, shown
from humr.rotations import rotvec_to_matrix
from humr.skeletons import H36M17, Skeleton, index_map

FOLDER = LICENSED / "h36m"
SUBJECTS = {
    "train": {f"S{n}": n for n in (1, 5, 6, 7, 8)},
    "test": {f"S{n}": n for n in (9, 11)},
}
ACTIONS = (
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases",
    "Sitting", "SittingDown", "Smoking", "Waiting", "WalkDog", "WalkTogether", "Walking",
)  # fmt: skip
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
TEST_STRIDE = 16  # of the stored images: every 64th frame

_LEG = ("hip", "knee", "ankle", "foot", "toe")
_ARM = ("neck", "shoulder", "elbow", "wrist", "thumb", "thumb_end", "hand", "hand_end")


def _sided(side: str, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts)


# The 32 joints of the motion capture; some lie on others and do not move on their own.
H36M32 = Skeleton(
    "h36m32",
    (
        "pelvis",
        *_sided("right", _LEG),
        *_sided("left", _LEG),
        "pelvis_again", "spine", "thorax", "nose", "head_top",
        *_sided("left", _ARM),
        *_sided("right", _ARM),
    ),
    (-1,) * 32,
)  # fmt: skip
H36M17_FROM_32 = index_map(H36M32, H36M17)


class Video(NamedTuple):
    """One video."""

    subject: str
    action: str
    subaction: str
    camera: str


SKIPPED = (  # no such file, and a broken one
    Video("S11", "Directions", "0", "54138969"),
    Video("S5", "Waiting", "1", "55011271"),
)


def sequences(split: str) -> Iterator[Video]:
    """Name all videos of a split, in the official order."""
    if split not in SUBJECTS:
        raise ValueError(f"split must be one of {', '.join(SUBJECTS)}; got {split!r}")
    for subject in SUBJECTS[split]:
        for action in ACTIONS:
            for subaction in ("0", "1"):
                for camera in CAMERAS:
                    sequence = Video(subject, action, subaction, camera)
                    if sequence not in SKIPPED:
                        yield sequence


def split_name(name: str) -> tuple[str, str]:
    """Split "WalkingDog 1" into action and number, ("WalkDog", "1"); the number may be ""."""
    action, _, number = name.partition(" ")
    return RENAMED.get(action, action), number


def subactions(numbers: Sequence[str]) -> dict[str, str]:
    """Say which of the two takes of an action is subaction "0" and which is "1".

    Files number takes as ("", "1"), ("", "2"), ("", "3"), ("1", "2") or ("2", "3"), by subject
    and action. The official code lists twenty cases; they follow one rule: the take without a
    number is "0", and of two numbers the *larger* is.
    """
    takes = sorted(set(numbers), key=lambda number: -int(number or 10))
    if len(takes) == 1:
        return {takes[0]: "1" if takes[0] else "0"}
    if len(takes) != 2:
        raise ValueError(f"an action has two takes; got the numbers {takes}")
    return {takes[0]: "0", takes[1]: "1"}


def stored(frames: Shaped[np.ndarray, "frames ..."]) -> Shaped[np.ndarray, "images ..."]:
    """Keep frames 3, 7, 11, ... of a 50 Hz recording: the images 4.jpg, 8.jpg, ..."""
    return frames[3::4]


def seventeen(positions: Float[np.ndarray, "frames 96"]) -> Float[np.ndarray, "frames 17 3"]:
    """Take the joints of H36M17 from rows x, y, z of 32 joints."""
    return positions.reshape(-1, 32, 3)[:, list(H36M17_FROM_32)]


# ------------------------------------------------------------------------ cdf


def cdf_folder(subject: str, folder: Path = FOLDER) -> Path:
    """Name the folder of a subject's .cdf files."""
    return folder / subject / "MyPoseFeatures" / "D3_Positions_mono"


def cdf_files(subject: str, folder: Path = FOLDER) -> dict[Video, Path]:
    """Find the files "Directions 1.54138969.cdf" of a subject, by sequence."""
    inside = cdf_folder(subject, folder)
    found = [(*split_name(path.stem.rpartition(".")[0]), path) for path in inside.glob("*.cdf")]
    found = [(action, number, path) for action, number, path in found if action in ACTIONS]
    if not found:
        raise FileNotFoundError(
            f"no .cdf file in {shown(inside)}; Human3.6M has them in "
            f"Poses_D3_Positions_mono_{subject}.tgz (data/README.md)"
        )
    files = {}
    for action, number, path in found:
        takes = subactions([other for name, other, _ in found if name == action])
        camera = path.stem.rpartition(".")[2]
        files[Video(subject, action, takes[number], camera)] = path
    return {sequence: path for sequence, path in files.items() if sequence not in SKIPPED}


def read_cdf(path: Path) -> Float[np.ndarray, "images 17 3"]:
    """Read the poses of the stored images from a .cdf file: camera space, mm."""
    try:
        import cdflib  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{shown(path)}: .cdf files are read by the package cdflib, which is not installed; "
            "get it with: pip install cdflib"
        ) from error
    try:
        values = np.asarray(cdflib.CDF(path).varget("Pose"), dtype=np.float64)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{shown(path)} is no readable .cdf file with poses: {error}") from error
    if values.ndim != 3 or values.shape[0] != 1 or values.shape[2] != 96:
        raise ValueError(
            f"{shown(path)}: Pose must have shape (1, frames, 96); got {values.shape}. Usual "
            "cause: D2 positions (64 columns) or angles (78) instead of D3_Positions_mono"
        )
    return seventeen(stored(values[0]))


# ------------------------------------------------------------------------ cameras


class Camera(NamedTuple):
    """Where a camera stands: x_camera = rotation (x_world - position)."""

    rotation: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, " 3"]  # mm

    def see(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Turn world points (mm) into camera space."""
        return (points - self.position) @ self.rotation.T


def read_cameras(folder: Path = FOLDER) -> dict[tuple[str, str], Camera]:
    """Read the cameras by (subject, name) from `metadata.xml` of Human3.6M.

    Its field w0 holds 300 numbers: for each of 4 cameras and 11 subjects three angles, with
    R = R_x R_y R_z, and a position in mm; then nine intrinsics per camera.
    """
    path = find(folder, "metadata.xml")
    match = re.search(r"<w0>\s*\[(.*?)\]\s*</w0>", path.read_text(encoding="utf-8"), re.DOTALL)
    numbers = np.array(match.group(1).split() if match else [], dtype=np.float64)
    if numbers.size != 300:
        raise ValueError(
            f"{shown(path)}: <w0> must hold 300 numbers; got {numbers.size}. Usual cause: another "
            "file than metadata.xml of Human3.6M's visualisation code (Release v1.1)"
        )
    values = numbers[:264].reshape(4, 11, 6)
    found = {}
    for camera, of_subjects in zip(CAMERAS, values, strict=True):
        for number, row in enumerate(of_subjects, start=1):
            x, y, z = rotvec_to_matrix(torch.diag(torch.from_numpy(row[:3])))
            found[f"S{number}", camera] = Camera((x @ y @ z).numpy(), row[3:])
    return found
