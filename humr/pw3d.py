"""3DPW's original sequences: SMPL bodies of one or two persons in front of a moving camera.

`sequenceFiles/{train,validation,test}/<sequence>.pkl`, pickles of Python 2, beside
`imageFiles/<sequence>/image_<frame>.jpg`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from humr.licensed import LICENSED, shown
from humr.smpl_frames import BETAS, JOINTS, SmplFrames, around, into_camera, tensor
from humr.unpickle import read_dictionary

SPLITS = ("train", "validation", "test")
MARGIN = 1.2  # of boxes, relative to the extent of the detected points (SPIN)
_KEYS = ("sequence", "poses", "betas", "trans", "poses2d", "cam_poses", "cam_intrinsics",
         "genders", "campose_valid")  # fmt: skip
_GENDERS = {"m": "male", "f": "female"}


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
    data = read_dictionary(path, _KEYS)
    persons = len(data["poses"])
    per_person = ("betas", "trans", "poses2d", "genders", "campose_valid")
    for key in per_person:
        if len(data[key]) != persons:
            raise ValueError(
                f"{shown(path)}: {key} has {len(data[key])} entries for {persons} persons. Usual "
                "cause: a file that was converted for another project"
            )
    return [_person(shown(path), data, index) for index in range(persons)]


def _person(file: str, data: dict[str, Any], index: int) -> SmplFrames:
    count = len(data["poses"][index])
    valid = tensor(data["campose_valid"][index], (count,), "campose_valid", file) == 1

    def get(key: str, *shape: int) -> torch.Tensor:
        return tensor(data[key][index], (count, *shape), f"{key}[{index}]", file, valid)

    pose = get("poses", 3 * JOINTS).unflatten(-1, (JOINTS, 3))
    cameras = tensor(data["cam_poses"], (count, 4, 4), "cam_poses", file, valid)
    points = get("poses2d", 3, 18).mT
    frames = torch.arange(count)[valid]
    sequence = str(data["sequence"])
    return SmplFrames(
        sequence=sequence,
        gender=_gender(file, data["genders"][index]),
        image=tuple(f"imageFiles/{sequence}/image_{i:05d}.jpg" for i in frames.tolist()),
        frame=frames,
        rotvec=into_camera(pose, cameras).float(),
        betas=tensor(np.asarray(data["betas"][index])[:BETAS], (BETAS,), "betas", file).float(),
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
    count = len(data["cam_poses"])
    for index, stored in enumerate(data["jointPositions"]):
        valid = tensor(data["campose_valid"][index], (count,), "campose_valid", file) == 1
        cameras = tensor(data["cam_poses"], (count, 4, 4), "cam_poses", file, valid)
        what = f"jointPositions[{index}]"
        joints = tensor(stored, (count, 3 * JOINTS), what, file, valid).unflatten(-1, (JOINTS, 3))
        found.append((joints @ cameras[:, :3, :3].mT + cameras[:, None, :3, 3]).float())
    return found


def _gender(file: str, letter: object) -> str:
    if letter not in _GENDERS:
        raise ValueError(f"{file}: genders must be m or f; got {letter!r}")
    return _GENDERS[str(letter)]
