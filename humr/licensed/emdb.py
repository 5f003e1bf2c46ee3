"""EMDB's original sequences: one SMPL body in front of a moving telephone.

`P<n>/<sequence>/P<n>_<sequence>_data.pkl` beside `images/<frame>.jpg`. Part 1 (17 sequences) is
the one on which images are evaluated.
"""

from pathlib import Path

import numpy as np
import torch

from humr.files import shown
from humr.licensed.datasets import LICENSED
from humr.licensed.readers import read_dictionary
from humr.licensed.smpl_frames import BETAS, JOINTS, SmplFrames, into_camera, squares, tensor

_KEYS = ("gender", "name", "emdb1", "n_frames", "good_frames_mask", "camera", "smpl", "kp2d",
         "bboxes")  # fmt: skip
_INNER = {
    "camera": ("intrinsics", "extrinsics"),
    "smpl": ("poses_root", "poses_body", "trans", "betas"),
    "bboxes": ("bboxes", "invalid_idxs"),
}
_GENDERS = ("male", "female", "neutral")
_OTHER = "Usual cause: a file of another version, or one that was converted for another project"


def sequences(*, root: Path = LICENSED) -> list[Path]:
    """Return the files of all sequences, sorted by name."""
    return sorted((root / "test_images/EMDB").glob("P*/*/P*_data.pkl"))


def is_part_1(path: Path) -> bool:
    """Say whether a sequence belongs to EMDB 1."""
    stored = read_dictionary(path, ("emdb1",))["emdb1"]
    if not isinstance(stored, (bool, int, np.bool_)):
        got = type(stored).__name__
        raise ValueError(f"{shown(path)}: emdb1 must be True or False; got {got}. {_OTHER}")
    return bool(stored)


def read_emdb(path: Path, *, margin: float = 1.0) -> SmplFrames:
    """Read the good frames of one sequence.

    `keypoints` are SMPL's 24 joints, projected, all with confidence 1. Boxes are the file's, made
    square around the same middle, `margin` times as large, and NaN where the file calls them
    invalid.
    """
    file, data = shown(path), read_dictionary(path, _KEYS)
    for key, inner in _INNER.items():
        there = data[key] if isinstance(data[key], dict) else {}
        if missing := [name for name in inner if name not in there]:
            got = ", ".join(map(str, there)) or type(data[key]).__name__
            raise ValueError(
                f"{file}: {key} lacks {', '.join(missing)}; expected a dictionary with "
                f"{', '.join(inner)}; got {got}. {_OTHER}"
            )
    if not isinstance(data["gender"], str) or data["gender"] not in _GENDERS:
        raise ValueError(
            f"{file}: gender must be one of {', '.join(_GENDERS)}; got {data['gender']!r}"
        )
    if not isinstance(data["n_frames"], (int, np.integer)):
        raise ValueError(
            f"{file}: n_frames must be a whole number; got {data['n_frames']!r}. {_OTHER}"
        )
    count = int(data["n_frames"])

    good = tensor(data["good_frames_mask"], (count,), "good_frames_mask", file) == 1

    def get(outer: str, inner: str, *shape: int) -> torch.Tensor:
        return tensor(data[outer][inner], (count, *shape), f"{outer}.{inner}", file, good)

    pose = torch.cat([get("smpl", "poses_root", 3), get("smpl", "poses_body", 69)], 1)
    cameras = get("camera", "extrinsics", 4, 4)
    points = tensor(data["kp2d"], (count, JOINTS, 2), "kp2d", file, good)
    frames = torch.arange(count)[good]
    folder = f"{path.parent.parent.name}/{path.parent.name}/images"
    return SmplFrames(
        sequence=str(data["name"]),
        gender=str(data["gender"]),
        image=tuple(f"{folder}/{i:05d}.jpg" for i in frames.tolist()),
        frame=frames,
        rotvec=into_camera(pose.unflatten(-1, (JOINTS, 3)), cameras).float(),
        betas=tensor(data["smpl"]["betas"], (BETAS,), "smpl.betas", file).float(),
        translation_world=get("smpl", "trans", 3).float(),
        camera=cameras.float(),
        intrinsics=tensor(data["camera"]["intrinsics"], (3, 3), "camera.intrinsics", file).float(),
        keypoints=torch.cat([points, torch.ones_like(points[..., :1])], -1).float(),
        box=_boxes(file, data["bboxes"], good, margin).float(),
    )


def _boxes(file: str, stored: dict, good: torch.Tensor, margin: float) -> torch.Tensor:
    """Boxes of good frames; what lies in the file for invalid boxes is not looked at."""
    invalid, count = (
        tensor(stored["invalid_idxs"], (None,), "bboxes.invalid_idxs", file),
        len(good),
    )
    wrong = (invalid < 0) | (invalid >= count) | (invalid != invalid.round())
    if wrong.any():
        raise ValueError(
            f"{file}: bboxes.invalid_idxs must be frames, 0 to {count - 1}; got "
            f"{invalid[wrong][0]:g}. {_OTHER}"
        )
    counted = good.index_fill(0, invalid.long(), value=False)
    corners = tensor(stored["bboxes"], (count, 4), "bboxes.bboxes", file, counted)
    boxes = corners.new_full((count, 3), torch.nan)
    boxes[counted] = squares(corners, margin)
    return boxes[good]
