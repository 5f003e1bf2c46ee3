"""Human3.6M: who is in which split, names, joints, frames, cameras, and reading of its containers.

Sequences are named by subject ("S9"), action ("Directions"), subaction ("0" or "1") and camera
("54138969"), as in the pickles of Wehrbein et al. (2021).
"""

import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped

from humr.licensed_paths import LICENSED, find, shown
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


def cdf_files(subject: str, folder: Path = FOLDER) -> dict[Video, Path]:
    """Find the files "Directions 1.54138969.cdf" of a subject, by sequence."""
    inside = folder / subject / "MyPoseFeatures" / "D3_Positions_mono"
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


# ------------------------------------------------------------------------ pickles


class StandIn:
    """An object of a package that is not imported: the name of its class, and its state."""

    kind = ""
    state: Any = None

    def __init__(self, *_: Any) -> None:  # noqa: ANN401
        """Take any arguments; nobody looks at them."""

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        self.state = state


def _bytes(text: str, encoding: str) -> bytes:
    """Bytes as Python 2 pickled them; no other codec."""
    return text.encode({"latin1": "latin1"}[encoding])


def _bare(cls: type[StandIn], *_: Any) -> StandIn:  # noqa: ANN401
    """An object of an old protocol, whose state follows."""
    return StandIn.__new__(cls)


_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_PLAIN: dict[str, Any] = {
    "builtins.bytes": bytes,
    "builtins.set": set,
    "builtins.object": object,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _bytes,
    "copyreg._reconstructor": _bare,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}
# The functions that make arrays and numbers, as pickles of any NumPy name them.
for _core in ("numpy.core", "numpy._core"):
    _PLAIN[f"{_core}.multiarray._reconstruct"] = np.empty(0).__reduce__()[0]
    _PLAIN[f"{_core}.multiarray.scalar"] = np.float64(0).__reduce__()[0]
    _PLAIN[f"{_core}.numeric._frombuffer"] = np.empty(0).__reduce_ex__(5)[0]


class _Unpickler(pickle.Unpickler):
    """Knows plain containers and arrays by name, and imports nothing."""

    def __init__(self, file: BufferedIOBase, stand_ins: Sequence[str]) -> None:
        super().__init__(file, encoding="latin1")
        self.stand_ins = tuple(f"{package}." for package in stand_ins)

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        if full.startswith(self.stand_ins):
            return type(name, (StandIn,), {"kind": full})
        if full not in _PLAIN:
            raise pickle.UnpicklingError(f"it asks for {full}, which is no plain data")
        return _PLAIN[full]


def read_plain(path: Path, *, stand_ins: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """Read a pickle that holds arrays and plain containers; refuse any other, run nothing.

    Args:
        path: of the file.
        stand_ins: packages whose objects become a `StandIn`.
    """
    with path.open("rb") as file:
        return _unpickled(file, path, stand_ins)


def _unpickled(file: BufferedIOBase, path: Path, stand_ins: Sequence[str] = ()) -> Any:  # noqa: ANN401
    damage = (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, LookupError,
              AttributeError, zipfile.BadZipFile, zlib.error)  # fmt: skip
    try:
        return _Unpickler(file, stand_ins).load()
    except damage as error:
        raise ValueError(
            f"{shown(path)} is refused: {error}. Usual cause: a damaged file, or one that is not "
            "the official one (pickles can hold programs)"
        ) from error


def read_object(path: Path, name: str) -> Any:  # noqa: ANN401
    """Read what `np.savez(path, name=dictionary)` wrote, without trusting its pickle."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(member)
            if shape != () or not dtype.hasobject:
                raise ValueError(f"{name} must be one object; got {dtype} of shape {shape}")
            return _unpickled(cast(BufferedIOBase, member), path).item()
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{shown(path)} is no .npz file with {name}: {error}. Usual cause: a broken download"
        ) from error
