"""Human3.6M from the three kinds of files that people have, as lifting systems see it.

- `read_fits`: the pickles of Wehrbein et al. (2021), with 2D poses and fitted Gaussians; 3D poses
  are in them, or come from the .cdf files.
- `read_heatmaps`: tables with whole heatmaps (FMPose, DiffPose).
- `read_keypoints`: the .npz files of VideoPose3D (Pavllo et al. 2019), with 2D poses alone.

All read every fourth frame; `stride` thins that: 16 gives the test of the papers (every 64th
frame), 1 the set of which H36MA is the ambiguous part. Videos are named by subject ("S9"), action
("Directions"), subaction ("0" or "1") and camera ("54138969"), as in the pickles.

`LicensedLifting` stands where `lifting.world.LiftingRecords` does for the open world. Its detector
has the joints of MPII16 and was trained with Gaussians of 2 px, so nothing is derived or rescaled.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from humr import heatmaps
from humr.files import find, shown
from humr.geometry import rotvec_to_matrix
from humr.heatmaps import GaussianFit, fit_gaussian, packed_gaussian, unpacked_gaussian
from humr.licensed import readers
from humr.licensed.datasets import LICENSED
from humr.licensed.readers import read_npz, read_pickle
from humr.lifting.data import (
    AMBIGUOUS,
    SHARP_PIXELS,
    SIGMA_RANGE,
    Gaussians,
    LiftingBatch,
    as_seen,
    normalised,
)
from humr.skeletons import H36M17, MPII16, Skeleton, index_map
from humr.storage import TensorRecord

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
DETECTORS = {"gt": "gt", "cpn": "cpn_ft_h36m_dbb"}  # in the names of VideoPose3D's files

_ARM = ("neck", "shoulder", "elbow", "wrist", "thumb", "thumb_end", "hand", "hand_end")
_LEG = ("hip", "knee", "ankle", "foot", "toe")
# The 32 joints of the motion capture; some lie on others and do not move on their own.
H36M32 = Skeleton(
    "h36m32",
    (
        "pelvis",
        *(f"{side}_{part}" for side in ("right", "left") for part in _LEG),
        "pelvis_again", "spine", "thorax", "nose", "head_top",
        *(f"{side}_{part}" for side in ("left", "right") for part in _ARM),
    ),
    (-1,) * 32,
)  # fmt: skip
H36M17_FROM_32 = index_map(H36M32, H36M17)
MPII16_FROM_H36M = index_map(H36M17, MPII16)

CELLS = 64  # of a heatmap along each axis; a cell is the paper's pixel
PELVIS_TO_JOINT = (0.1, 1.2)  # metres, mean over the joints of a median pose
FAR = 0.5  # standard deviations of a 2D pose: the median joint lies nearer to its projection


@dataclass(frozen=True)
class LicensedLifting(TensorRecord):
    """Images of a licensed data set, in memory."""

    joints: Float[Tensor, "images 17 3"]  # H36M17 in camera space, metres
    points: Float[Tensor, "images 16 2"]  # of the detector, MPII16, y down; the unit is free
    fits: Float[Tensor, "images 16 6"]  # Gaussians, pixels of the heatmap: A, mean, xx, xy, yy
    moments: Float[Tensor, "images 16 6"] | None  # the same; None where no heatmap is at hand
    action: tuple[str, ...]
    subject: UInt8[Tensor, " images"]

    def gaussians(self, kind: str = "fit") -> Gaussians:
        """Gaussians of MPII16 by least squares ("fit") or from "moments" of the heatmaps.

        Means stay within the heatmap (official code).
        """
        if kind not in ("fit", "moments"):
            raise ValueError(f"kind must be fit or moments; got {kind!r}")
        values = self.fits if kind == "fit" else self.moments
        if values is None:
            raise ValueError(
                "there are no moments: the file these images come from holds no heatmaps. "
                "Use gaussians='fit', or a file with heatmaps (human36m.read_heatmaps)"
            )
        return Gaussians(*unpacked_gaussian(values))

    @property
    def ambiguous(self) -> Bool[Tensor, " images"]:
        """Images with a joint that is wider than 5 px along an axis: H36MA."""
        return (self.gaussians().sigma[..., 1] > AMBIGUOUS).any(-1)

    def batch(self, *, gaussians: str = "fit", doubled: bool = True) -> LiftingBatch:
        """What lifting systems see of all these images."""
        return as_seen(self.joints, self.points, self.gaussians(gaussians), doubled=doubled)


# ----------------------------------------------------------- names, frames and joints


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


# --------------------------------------------------------------- Wehrbein et al. 2021


def read_fits(split: str, *, stride: int = 1, folder: Path = FOLDER) -> LicensedLifting:
    """Read `trainset_h36m.pickle` or `testset_h36m.pickle`, with 3D poses or without."""
    path = find(folder, f"{split}set_h36m.pickle", f"{split}set_h36m_without_3d.pickle")
    found = read_pickle(path)
    parts = []
    for sequence in sequences(split):
        entry = _entry(found, sequence, path)
        if len(entry["imgpath"]):
            parts.append(_of_entry(entry, sequence, path, folder))
    return _thinned(parts, stride, path)


def _entry(found: Any, sequence: Video, path: Path) -> dict[str, Any]:  # noqa: ANN401
    for level, key in enumerate(sequence):
        if not isinstance(found, dict) or key not in found:
            raise ValueError(
                f"{shown(path)} has no {'/'.join(sequence[: level + 1])}; expected a dictionary "
                "[subject][action][subaction][camera]. Usual cause: the file of the other split"
            )
        found = found[key]
    if missing := [key for key in ("imgpath", "2d_hrnet", "gaussfit") if key not in found]:
        raise ValueError(
            f"{shown(path)}: {'/'.join(sequence)} lacks {', '.join(missing)}; it has "
            f"{', '.join(map(str, found))}"
        )
    return found


def _of_entry(entry: dict[str, Any], sequence: Video, path: Path, folder: Path) -> LicensedLifting:
    count, name = len(entry["imgpath"]), "/".join(sequence)
    poses = entry.get("3d_gt")
    if poses is None:
        files = cdf_files(sequence.subject, folder)
        if sequence not in files:
            raise FileNotFoundError(f"{shown(folder)} has no .cdf file of {name}")
        poses = read_cdf(files[sequence])[:count].swapaxes(1, 2).reshape(-1, 51)
    for key, values, width in (
        ("3d_gt", poses, 51),
        ("2d_hrnet", entry["2d_hrnet"], 32),
        ("gaussfit", entry["gaussfit"], 112),
    ):
        expect(path, f"{name} {key}", np.shape(values), (count, width))
    fits = np.array(entry["gaussfit"], dtype=np.float64)  # angles may be many turns
    return LicensedLifting(
        joints=tensor(poses).unflatten(1, (3, 17)).mT / 1000,
        points=tensor(entry["2d_hrnet"]).unflatten(1, (2, 16)).mT,
        fits=stored_fits(torch.from_numpy(fits).unflatten(1, (16, 7))),
        moments=None,
        **_named(sequence, count),
    )


def stored_fits(fits: Float[Tensor, "images 16 7"]) -> Float[Tensor, "images 16 6"]:
    r"""Turn the official fits (A, mean x, y, sigma x, theta, sigma y, error) into Gaussians.

    The official angle is counted towards *up*, so that $R(\theta)\,\mathrm{diag}(\sigma^2)
    R(\theta)^T$ is the covariance with y up; ours has y down, and `Gaussians.condition` turns it
    back. Widths are cut as in the official code, where a negative one becomes the smallest.
    """
    amplitude, x, y, sigma_x, theta, sigma_y, error = fits.unbind(-1)
    fit = GaussianFit(
        amplitude=amplitude,
        mean=torch.stack([x, y], -1).clamp(0, CELLS - 1),
        sigma=torch.stack([sigma_x, sigma_y], -1).clamp(*SIGMA_RANGE),
        theta=theta,
        rmse=error,
        converged=torch.ones_like(error, dtype=torch.bool),
    )
    return packed_gaussian(fit.amplitude, fit.mean, fit.covariance)


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


# -------------------------------------------------------------- tables with heatmaps


def read_heatmaps(split: str, *, stride: int = 1, folder: Path = FOLDER) -> LicensedLifting:
    """Read `H36M_dataset_h36m_hrnet.h5`, and fit Gaussians."""
    if split not in SUBJECTS:
        raise ValueError(f"split must be one of {', '.join(SUBJECTS)}; got {split!r}")
    path = find(folder, "H36M_dataset_h36m_hrnet.h5")
    return read_table(path, split, SUBJECTS[split], pose="gt_3d", stride=stride)


def read_table(
    path: Path, split: str, subjects: Mapping[str, int], *, pose: str, stride: int
) -> LicensedLifting:
    """Read a table of images with heatmaps, as FMPose (Le et al.) publishes them.

    Args:
        path: HDF5 with the tables /dataset/trainset and testset.
        split: train or test.
        subjects: who is read, with a number each.
        pose: the column of 3D poses, (3, 17) in mm.
        stride: every n-th image of each action is read.
    """
    table, names = f"dataset/{split}set", ("action", "subject", pose, "argmax_2d")
    columns = readers.read_columns(path, table, names)
    expect(path, pose, columns[pose].shape[1:], (3, 17))
    expect(path, "argmax_2d", columns["argmax_2d"].shape[1:], (2, 16))
    who = np.char.decode(columns["subject"])
    rows = np.flatnonzero(np.isin(who, list(subjects)))
    if not len(rows):
        raise ValueError(
            f"{shown(path)}: {table} has no image of {', '.join(subjects)}; it has "
            f"{', '.join(sorted(set(who))) or 'none'}"
        )
    actions = np.char.decode(columns["action"][rows]).tolist()
    chosen = every(actions, stride)
    rows = rows[chosen.numpy()]
    poses = torch.from_numpy(columns[pose][rows]).float().mT / 1000
    parts = []
    for maps in readers.read_rows(path, table, "heatmap", rows):
        expect(path, "heatmap", maps.shape[1:], (16, CELLS, CELLS))
        if not np.isfinite(maps).all():
            raise ValueError(f"{shown(path)}: heatmaps hold values that are not finite")
        parts.append(fitted(torch.from_numpy(maps.astype(np.float32))))
    images = LicensedLifting(
        joints=poses,
        points=torch.from_numpy(columns["argmax_2d"][rows]).float().mT.flip(-1) * CELLS,
        fits=torch.cat([fits for fits, _ in parts]),
        moments=torch.cat([moments for _, moments in parts]),
        action=tuple(actions[index] for index in chosen.tolist()),
        subject=torch.tensor([subjects[name] for name in who[rows]], dtype=torch.uint8),
    )
    return checked(images, path)


def fitted(
    maps: Float[Tensor, "images 16 64 64"],
) -> tuple[Float[Tensor, "images 16 6"], Float[Tensor, "images 16 6"]]:
    """Return the Gaussians of heatmaps, by least squares and from moments.

    A fit that did not converge is replaced by the moments, as in the open world. A map without
    heat says nothing and counts as flat.
    """
    maps = maps.clamp(0, 1)
    maps = maps.where(maps.amax((-2, -1), keepdim=True) > 0, 1e-3)
    moments = heatmaps.moments(maps, whole=True)
    fit = fit_gaussian(maps)
    fits = packed_gaussian(fit.amplitude, fit.mean.clamp(0, CELLS - 1), fit.covariance)
    return fits.where(fit.converged[..., None], moments), moments


# ----------------------------------------------------------------------- VideoPose3D


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


def read_keypoints(
    split: str, *, stride: int = 1, detector: str = "cpn", folder: Path = FOLDER
) -> LicensedLifting:
    """Read VideoPose3D's `data_3d_h36m.npz` and the 2D poses of a detector, "cpn" or "gt".

    The 3D poses are in world space; `metadata.xml` of Human3.6M has the cameras. There are no
    heatmaps: every joint gets the Gaussian of a detector that is sure.
    """
    if detector not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}; got {detector!r}")
    path = find(folder, "data_3d_h36m.npz")
    beside = find(folder, f"data_2d_h36m_{DETECTORS[detector]}.npz")
    positions, keypoints = _object(path, "positions_3d"), _object(beside, "positions_2d")
    cameras, parts = read_cameras(folder), []
    for sequence, name in _recordings(split, positions, path):
        of_cameras = keypoints.get(sequence.subject, {}).get(name, ())
        number = CAMERAS.index(sequence.camera)
        if len(of_cameras) != len(CAMERAS):
            raise ValueError(
                f"{shown(beside)} must have {len(CAMERAS)} cameras for {sequence.subject} {name}; "
                f"got {len(of_cameras)}. Usual cause: files of different versions"
            )
        world = positions[sequence.subject][name]
        camera = cameras[sequence.subject, sequence.camera]
        parts.append(_of_recording(world, of_cameras[number], camera, sequence, beside))
    return _thinned(parts, stride, path)


def _object(path: Path, key: str) -> dict[str, Any]:
    """What `np.savez(path, key=dictionary)` wrote."""
    array = read_npz(path, (key,))[key]
    value = array.item() if array.shape == () else array
    if not isinstance(value, dict):
        raise ValueError(
            f"{shown(path)}: {key} must be a dictionary by subject; got {array.dtype} of shape "
            f"{array.shape}. Usual cause: a file that was made by other code"
        )
    return value


def _recordings(
    split: str, positions: dict[str, dict[str, Any]], path: Path
) -> Iterator[tuple[Video, str]]:
    """Name the videos of VideoPose3D's actions ("Walking 1"), in the official order."""
    known = {}
    for subject in SUBJECTS.get(split, {}):
        if subject not in positions:
            raise ValueError(f"{shown(path)} lacks {subject}; it has {', '.join(positions)}")
        names = {name: split_name(name) for name in positions[subject]}
        for name, (action, number) in names.items():
            takes = subactions([other for one, other in names.values() if one == action])
            known[subject, action, takes[number]] = name
    for sequence in sequences(split):
        if sequence[:3] in known:
            yield sequence, known[sequence[:3]]


def _of_recording(
    world: np.ndarray, points: np.ndarray, camera: Camera, sequence: Video, path: Path
) -> LicensedLifting:
    """One video: mocap in metres, 2D poses, which may go on for some frames longer."""
    name, frames = "/".join(sequence), len(world)
    expect(path, f"{name} 3D", world.shape, (frames, 32, 3))
    expect(path, f"{name} 2D", points[:frames].shape, (frames, 17, 2))
    joints = camera.see(1000.0 * seventeen(stored(world.reshape(frames, 96)))) / 1000
    seen = stored(points[:frames])
    return without_heatmaps(tensor(joints), seen, **_named(sequence, len(seen)))


def without_heatmaps(
    joints: Float[Tensor, "images 17 3"],
    points: Float[np.ndarray, "images 17 2"],
    *,
    action: tuple[str, ...],
    subject: UInt8[Tensor, " images"],
) -> LicensedLifting:
    """Images with 2D poses of H36M17 alone: every joint gets the Gaussian of a sure detector."""
    seen = tensor(points)[:, list(MPII16_FROM_H36M)]
    return LicensedLifting(joints, seen, sure(seen), None, action, subject)


def sure(points: Float[Tensor, "images 16 2"]) -> Float[Tensor, "images 16 6"]:
    """Gaussians of a detector that is sure: amplitude 1, round, 2 px. For 2D poses alone."""
    ones = torch.ones_like(points[..., 0])
    spread = SHARP_PIXELS**2 * torch.eye(2).expand(*points.shape, 2)
    return packed_gaussian(ones, points, spread)


# ------------------------------------------------------------- choosing and checking


def every(actions: Sequence[str], stride: int) -> Int[Tensor, " chosen"]:
    """Return the indices of every `stride`-th image of each action, as the official code counts.

    It joins all sequences of an action and counts through, so that sequences do not start anew.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1; got {stride}")
    seen: dict[str, int] = {}
    chosen = []
    for index, action in enumerate(actions):
        seen[action] = seen.get(action, -1) + 1
        if seen[action] % stride == 0:
            chosen.append(index)
    return torch.tensor(chosen, dtype=torch.long)


def checked(images: LicensedLifting, path: Path) -> LicensedLifting:
    """Return images of a file if they can be people, in metres."""
    if not len(images):
        raise ValueError(
            f"{shown(path)} holds no image of these subjects. Usual cause: a file of another split"
        )
    for name in ("joints", "points", "fits"):
        if not getattr(images, name).isfinite().all():
            raise ValueError(
                f"{shown(path)}: {name} hold values that are not finite; the file is damaged"
            )
    reach = (images.joints[:, 1:] - images.joints[:, :1]).norm(dim=-1).mean(1).median().item()
    if not PELVIS_TO_JOINT[0] < reach < PELVIS_TO_JOINT[1]:
        raise ValueError(
            f"{shown(path)}: joints lie {reach:.3g} m from the pelvis in a median pose; expected "
            "{} to {} m. Usual cause: a file with another unit (mm, m)".format(*PELVIS_TO_JOINT)
        )
    _check_order(images, path)
    return images


def _check_order(images: LicensedLifting, path: Path) -> None:
    """Refuse 2D poses that look like the 3D poses, seen from far away, only in another order."""
    points = images.points
    by_joint = points.mT.reshape(points.shape)  # as if x0, y0, x1, ... had been stored
    orders = {
        "as they are": points,
        "with x and y exchanged": points.flip(-1),
        "read joint after joint": by_joint,
        "read joint after joint, y before x": by_joint.flip(-1),
    }
    true = normalised(images.joints[:, list(MPII16_FROM_H36M), :2])
    off = {  # poses without extent are not numbers, and do not count
        order: (normalised(each) - true).norm(dim=-1).nanmedian().item()
        for order, each in orders.items()
    }
    got, best = off["as they are"], min(off, key=lambda order: off[order])
    if got > FAR and off[best] < got / 2:
        raise ValueError(
            f"{shown(path)}: 2D poses must agree with the 3D poses; in a median pose joints are "
            f"{got:.2g} standard deviations off, but {off[best]:.2g} {best}. Usual cause: a file "
            "whose 2D poses were stored in another order"
        )


def expect(path: Path, name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if tuple(got) != wanted:
        raise ValueError(
            f"{shown(path)}: {name} must have shape {wanted}; got {tuple(got)}. Usual cause: a "
            "file with another set of joints, or one that was made by other code"
        )


def tensor(values: np.ndarray) -> Float[Tensor, "..."]:
    """Copy numbers to a tensor of float32."""
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _named(sequence: Video, count: int) -> dict[str, Any]:
    """Action and subject of the images of a video."""
    subject = torch.full((count,), int(sequence.subject[1:]), dtype=torch.uint8)
    return {"action": (sequence.action,) * count, "subject": subject}


def _thinned(parts: list[LicensedLifting], stride: int, path: Path) -> LicensedLifting:
    if not parts:
        raise ValueError(f"{shown(path)} holds no images of this split")
    images = checked(LicensedLifting.join(parts), path)
    return images[every(images.action, stride)]
