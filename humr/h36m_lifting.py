"""Human3.6M as lifting systems see it, from the three kinds of files that people have.

- `read_fits`: the pickles of Wehrbein et al. (2021), with 2D poses and fitted Gaussians; 3D poses
  are in them, or come from the .cdf files.
- `read_heatmaps`: tables with whole heatmaps (FMPose, DiffPose).
- `read_keypoints`: the .npz files of VideoPose3D (Pavllo et al. 2019), with 2D poses alone.

All read every fourth frame; `stride` thins that: 16 gives the test of the papers (every 64th
frame), 1 the set of which H36MA is the ambiguous part.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from humr.h36m import (
    CAMERAS,
    FOLDER,
    SUBJECTS,
    Camera,
    Video,
    cdf_files,
    read_cameras,
    read_cdf,
    sequences,
    seventeen,
    split_name,
    stored,
    subactions,
)
from humr.licensed import find, shown
from humr.licensed_lifting import (
    LicensedLifting,
    checked,
    every,
    expect,
    read_table,
    stored_fits,
    sure,
)
from humr.npz_files import read_npz
from humr.skeletons import H36M17, MPII16, index_map
from humr.unpickle import read_pickle

DETECTORS = {"gt": "gt", "cpn": "cpn_ft_h36m_dbb"}
_ENTRY = ("imgpath", "2d_hrnet", "gaussfit")


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
    if missing := [key for key in _ENTRY if key not in found]:
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
        joints=_tensor(poses).unflatten(1, (3, 17)).mT / 1000,
        points=_tensor(entry["2d_hrnet"]).unflatten(1, (2, 16)).mT,
        fits=stored_fits(torch.from_numpy(fits).unflatten(1, (16, 7))),
        moments=None,
        action=(sequence.action,) * count,
        subject=_subject(sequence.subject, count),
    )


def read_heatmaps(
    split: str, *, stride: int = 1, detector: str = "h36m", folder: Path = FOLDER
) -> LicensedLifting:
    """Read `H36M_dataset_h36m_hrnet.h5`, or that of the detector "orig", and fit Gaussians."""
    if split not in SUBJECTS:
        raise ValueError(f"split must be one of {', '.join(SUBJECTS)}; got {split!r}")
    path = find(folder, f"H36M_dataset_{detector}_hrnet.h5")
    return read_table(path, split, SUBJECTS[split], pose="gt_3d", stride=stride)


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
    split: str,
    positions: dict[str, dict[str, Any]],
    path: Path,
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
    where = _tensor(stored(points[:frames]))[:, list(index_map(H36M17, MPII16))]
    return LicensedLifting(
        joints=_tensor(joints),
        points=where,
        fits=sure(where),
        moments=None,
        action=(sequence.action,) * len(where),
        subject=_subject(sequence.subject, len(where)),
    )


def _thinned(parts: list[LicensedLifting], stride: int, path: Path) -> LicensedLifting:
    if not parts:
        raise ValueError(f"{shown(path)} holds no images of this split")
    images = checked(LicensedLifting.join(parts), path)
    return images[every(images.action, stride)]


def _tensor(values: np.ndarray) -> Float[Tensor, "..."]:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _subject(name: str, count: int) -> Tensor:
    return torch.full((count,), int(name[1:]), dtype=torch.uint8)
