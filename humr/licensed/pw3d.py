"""3DPW's original sequences: SMPL bodies of one or two persons in front of a moving camera.

`sequenceFiles/{train,validation,test}/<sequence>.pkl`, pickles of Python 2, beside
`imageFiles/<sequence>/image_<frame>.jpg`.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool

from humr.files import shown
from humr.licensed.datasets import LICENSED
from humr.licensed.readers import read_dictionary
from humr.licensed.smpl_frames import BETAS, JOINTS, SmplFrames, around, into_camera, tensor

SPLITS = ("train", "validation", "test")
MARGIN = 1.2  # of boxes, relative to the extent of the detected points (SPIN)
_KEYS = ("sequence", "poses", "betas", "trans", "poses2d", "cam_poses", "cam_intrinsics",
         "genders", "campose_valid")  # fmt: skip
_GENDERS = {"m": "male", "f": "female"}
_CONVERTED = "Usual cause: a file that was converted for another project"


def sequences(split: str, *, root: Path = LICENSED) -> list[Path]:
    """Return the files of a split, sorted by name."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    return sorted((root / "test_images/3DPW/sequenceFiles" / split).glob("*.pkl"))


def read_3dpw(path: Path) -> list[SmplFrames]:
    """Read all persons of one sequence, in the frames whose camera is valid for them.

    `keypoints` are 18 points of OpenPose's COCO model; boxes surround those with a confidence
    above 0, and are NaN in frames without any.
    """
    data, file = read_dictionary(path, _KEYS), shown(path)
    per_person = ("poses", "betas", "trans", "poses2d", "genders", "campose_valid")
    return [_person(file, data, index) for index in range(_persons(file, data, per_person))]


def _persons(file: str, data: dict[str, Any], keys: tuple[str, ...]) -> int:
    """Return the number of persons, if each of these keys has an entry for everybody."""
    counts = []
    for key in keys:
        if not isinstance(data[key], (list, tuple)) and getattr(data[key], "ndim", 0) == 0:
            raise ValueError(
                f"{file}: {key} must be a list with an entry per person; got "
                f"{type(data[key]).__name__}. {_CONVERTED}"
            )
        counts.append(len(data[key]))
        if counts[-1] != counts[0]:
            raise ValueError(
                f"{file}: {key} has {counts[-1]} entries for {counts[0]} persons. {_CONVERTED}"
            )
    return counts[0]


def _valid(file: str, data: dict[str, Any], index: int) -> Bool[torch.Tensor, " frames"]:
    """Return in which frames the camera is valid for a person."""
    return tensor(data["campose_valid"][index], (None,), "campose_valid", file) == 1


def _person(file: str, data: dict[str, Any], index: int) -> SmplFrames:
    valid = _valid(file, data, index)
    count = len(valid)

    def get(key: str, *shape: int) -> torch.Tensor:
        return tensor(data[key][index], (count, *shape), f"{key}[{index}]", file, valid)

    pose = get("poses", 3 * JOINTS).unflatten(-1, (JOINTS, 3))
    cameras = tensor(data["cam_poses"], (count, 4, 4), "cam_poses", file, valid)
    points = get("poses2d", 3, 18).mT
    betas = tensor(data["betas"][index], (None,), "betas", file)
    frames = torch.arange(count)[valid]
    sequence = str(data["sequence"])
    return SmplFrames(
        sequence=sequence,
        gender=_gender(file, data["genders"][index]),
        image=tuple(f"imageFiles/{sequence}/image_{i:05d}.jpg" for i in frames.tolist()),
        frame=frames,
        rotvec=into_camera(pose, cameras).float(),
        betas=tensor(betas[:BETAS], (BETAS,), "betas", file).float(),
        translation_world=get("trans", 3).float(),
        camera=cameras.float(),
        intrinsics=tensor(data["cam_intrinsics"], (3, 3), "cam_intrinsics", file).float(),
        keypoints=points.float(),
        box=around(points[..., :2], points[..., 2] > 0, MARGIN).float(),
    )


def joints_in_camera(path: Path) -> list[torch.Tensor]:
    """Return SMPL's joints (frames, 24, 3) of all persons in the camera's frame, metres.

    For the same frames as `read_3dpw`, from the stored joint positions, without a body model.
    """
    data = read_dictionary(path, ("jointPositions", "cam_poses", "campose_valid"))
    file, found = shown(path), []
    for index in range(_persons(file, data, ("jointPositions", "campose_valid"))):
        valid = _valid(file, data, index)
        count, stored = len(valid), data["jointPositions"][index]
        cameras = tensor(data["cam_poses"], (count, 4, 4), "cam_poses", file, valid)
        what = f"jointPositions[{index}]"
        joints = tensor(stored, (count, 3 * JOINTS), what, file, valid).unflatten(-1, (JOINTS, 3))
        found.append((joints @ cameras[:, :3, :3].mT + cameras[:, None, :3, 3]).float())
    return found


def _gender(file: str, letter: object) -> str:
    if not isinstance(letter, str) or letter not in _GENDERS:
        raise ValueError(f"{file}: genders must be m or f; got {letter!r}")
    return _GENDERS[letter]
