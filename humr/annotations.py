r"""HuMR's annotation files: boxes, poses, shapes, 2D joints and ViTPose's detections.

One .npz per data set, one row per person and image. Pixels are those of the whole photograph,
turned upright (`licensed.DataSet.rotated`). Two oddities of the files end here: detections are
stored as (y, x, confidence), and the side of a box is stored as `scale`, a 200th of it.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.licensed import LICENSED, DataSet, data_set, shown
from humr.npz_files import read_npz
from humr.skeletons import BODY22, COCO17, Skeleton, index_map

SCALE = 200.0  # px of box side per unit of `scale`
BETAS = {"train": 11, "test": 10}
JOINTS = {"train": len(BODY22), "test": 24}  # of the pose: SMPL-X body, SMPL
PROJECTED = 24  # joints of `gtkps` that are used: SMPL-X's body, jaw, left eye
OPENPOSE25 = Skeleton(
    "openpose25",
    ("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder",
     "left_elbow", "left_wrist", "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip",
     "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe",
     "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
    (-1,) * 25,
)  # fmt: skip
_COCO = index_map(OPENPOSE25, COCO17)
_KEYS = ("imgname", "center", "scale", "pose_cam", "shape", "gt_coco_25j", "vitpose")
_OPTIONAL = ("cam_int", "orig_shape", "gender")

# The filter of the official code.
LARGEST_ERROR = 13.0  # px per unit of `scale`: 6.5 % of the box side
COUNTED, SEEN = 0.2, 0.5  # confidence from which a detection counts, and from which it is seen
FEWEST_SEEN = 8  # more than these
BEYOND = 100.0  # px that detections may lie outside the photograph
FAR = 0.1  # of the box side: the median seen detection lies nearer to its label


@dataclass(frozen=True)
class Annotations:
    """Rows of one data set."""

    name: str
    image: np.ndarray  # (people,) names below the data set's image folder
    gender: np.ndarray  # (people,) "male", "female" or "unknown"
    row: Int[Tensor, " people"]  # in the file; it names the files of heatmap samples
    box: Float[Tensor, "people 3"]  # centre x, y, side
    keypoints: Float[Tensor, "people 17 3"]  # of ViTPose: x, y, confidence
    true_keypoints: Float[Tensor, "people 17 2"]
    pose: Float[Tensor, "people joints 3"]  # axis-angle in the camera's frame, root first
    betas: Float[Tensor, "people betas"]
    # The person's mask holds every place where its joints can be. Training: no object in front,
    # never in 3DPW. EMDB's occluded part: judged good by hand, 1760 people. Elsewhere False.
    mask_valid: Bool[Tensor, " people"]
    joints: Float[Tensor, "people 24 2"] | None  # 2D, training sets only
    intrinsics: Float[Tensor, "people 3 3"] | None
    image_size: Float[Tensor, "people 2"] | None  # width, height; None: see the photograph

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, index: slice | Tensor) -> "Annotations":
        """Choose rows: a slice, or a tensor of row numbers or of truth values."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, Tensor):
                values = values[index]
            elif isinstance(values, np.ndarray):
                values = values[index.numpy() if isinstance(index, Tensor) else index]
            chosen[field.name] = values
        return Annotations(**chosen)


def annotation_path(name: str, *, root: Path = LICENSED) -> Path:
    """Return where the annotation file of a data set lies, there or not."""
    return root / "annotations" / data_set(name).annotations


def read_annotations(name: str, *, root: Path = LICENSED) -> Annotations:
    """Read and check all rows of a data set."""
    described = data_set(name)
    path = annotation_path(name, root=root)
    keys = (*_KEYS, *_needed(described))
    arrays = read_npz(path, keys, optional=_OPTIONAL, cause=_ORIGINAL)
    count = len(arrays["imgname"])

    def tensor(key: str, *shape: int | None) -> Tensor:
        return _checked(path, key, arrays[key], (count, *shape))

    joints, betas = JOINTS[described.split], BETAS[described.split]
    pose = tensor("pose_cam", None)
    if pose.shape[1] < 3 * joints or (described.split == "test" and pose.shape[1] != 72):
        raise ValueError(
            f"{shown(path)}: pose_cam must have {3 * joints} columns; got {pose.shape[1]}. Usual "
            "cause: a file for training where one for the test is expected, or the reverse"
        )
    detected = tensor("vitpose", 17, 3)
    keypoints = torch.cat([detected[..., [1, 0]], detected[..., 2:].clamp(0, 1)], -1)
    labels = tensor("gt_coco_25j", 25, 2)[:, list(_COCO)]
    box = torch.cat([tensor("center", 2), _side(path, tensor("scale"))], -1)
    _check_order(path, keypoints, labels, box)
    return Annotations(
        name=name,
        image=_texts(arrays["imgname"]),
        gender=_genders(path, arrays.get("gender"), count),
        row=torch.arange(count),
        box=box,
        keypoints=keypoints,
        true_keypoints=labels,
        pose=pose[:, : 3 * joints].unflatten(-1, (joints, 3)),
        betas=tensor("shape", betas),
        mask_valid=_mask_valid(path, arrays, count),
        joints=_joints(path, arrays["gtkps"], count) if "gtkps" in arrays else None,
        intrinsics=tensor("cam_int", 3, 3) if "cam_int" in arrays else None,
        image_size=_sizes(path, arrays, described, count),
    )


def read_images(name: str, *, root: Path = LICENSED) -> np.ndarray:
    """Read the names of the photographs of all rows."""
    return _texts(read_npz(annotation_path(name, root=root), ("imgname",))["imgname"])


@dataclass(frozen=True)
class Boxes:
    """Where the people of one data set are; all that a 2D detector needs of an annotation file."""

    name: str
    image: np.ndarray  # (people,) as in `Annotations`, as the others
    box: Float[Tensor, "people 3"]
    mask_valid: Bool[Tensor, " people"]
    image_size: Float[Tensor, "people 2"] | None

    def __len__(self) -> int:
        return len(self.box)


def read_boxes(name: str, *, root: Path = LICENSED) -> Boxes:
    """Read the boxes of all rows; the file may lack detections, poses and labels."""
    described, path = data_set(name), annotation_path(name, root=root)
    optional = ("object_occlusion", "valid_emdb_mask", "orig_shape")
    arrays = read_npz(path, ("imgname", "center", "scale"), optional=optional)
    count = len(arrays["imgname"])
    centre = _checked(path, "center", arrays["center"], (count, 2))
    side = _side(path, _checked(path, "scale", arrays["scale"], (count,)))
    return Boxes(
        name, _texts(arrays["imgname"]), torch.cat([centre, side], -1),
        _mask_valid(path, arrays, count), _sizes(path, arrays, described, count),
    )  # fmt: skip


def size_of(people: Annotations | Boxes, index: int) -> Float[Tensor, "2"] | None:
    """Return width and height of a person's photograph, where they are known without it."""
    return None if people.image_size is None else people.image_size[index]


def well_detected(people: Annotations) -> Bool[Tensor, " people"]:
    r"""Say which people of a training set the official code keeps.

    $\frac{1}{17}\sum_k [c_k > 0.2]\,\|\hat p_k - p_k\| / \mathrm{scale} < 13$, more than 8
    confidences above 0.5, and, but for 3DPW, all detections within 100 px of the photograph.
    """
    described = data_set(people.name)
    if described.split != "train":
        raise ValueError(f"only training sets are filtered; {people.name} is for the test")
    points, confidence = people.keypoints[..., :2], people.keypoints[..., 2]
    distance = (people.true_keypoints - points).norm(dim=-1) * (confidence > COUNTED)
    near = distance.mean(-1) / (people.box[:, 2] / SCALE) < LARGEST_ERROR
    seen = (confidence > SEEN).sum(-1) > FEWEST_SEEN
    if described.source == "3DPW" or people.image_size is None:
        return near & seen
    size = people.image_size[:, None]
    inside = ((points >= -BEYOND) & (points <= size + BEYOND)).all(-1).all(-1)
    return near & seen & inside


def _needed(described: DataSet) -> tuple[str, ...]:
    """Keys that only some data sets have."""
    if described.split == "test":
        return ("valid_emdb_mask",) if described.name == "emdb-p1-occl" else ()
    extra = "orig_shape" if described.source == "3DPW" else "object_occlusion"
    return ("gtkps", extra)


def _checked(path: Path, key: str, values: np.ndarray, shape: tuple[int | None, ...]) -> Tensor:
    """Return an array as float32, if it has the shape (None: any) and is finite."""
    wanted = ", ".join("any" if n is None else str(n) for n in shape)
    fits = values.ndim == len(shape) and all(
        n in (None, got) for n, got in zip(shape, values.shape, strict=True)
    )
    if not fits or values.dtype.kind not in "bfiu":
        raise ValueError(
            f"{shown(path)}: {key} must be numbers of shape ({wanted}); got {values.dtype} of "
            f"{values.shape}. Usual cause: {_CAUSES.get(key, 'a file of another version')}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)}: {key} holds values that are not finite; it is damaged")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


_ORIGINAL = (
    "annotations of BEDLAM or AGORA themselves, without what HuMR's authors added to theirs"
)
_CAUSES = {
    "shape": "betas of SMPL-X padded to 11 are for training, the 10 of SMPL for the test",
}


def _side(path: Path, scale: Tensor) -> Tensor:
    if (scale <= 0).any():
        raise ValueError(
            f"{shown(path)}: scale must be above 0, the box side divided by {SCALE:g} px; got "
            f"{scale.min():g}. Usual cause: people without a box were not removed"
        )
    return SCALE * scale[:, None]


def _sizes(
    path: Path, arrays: dict[str, np.ndarray], described: DataSet, count: int
) -> Tensor | None:
    """Width and height of everybody's photograph; in files height and width, where they differ."""
    if described.image_size is not None:
        return torch.tensor(described.image_size, dtype=torch.float32).expand(count, 2)
    if "orig_shape" not in arrays:
        return None
    return _checked(path, "orig_shape", arrays["orig_shape"], (count, 2)).flip(-1)


def _check_order(path: Path, keypoints: Tensor, labels: Tensor, box: Tensor) -> None:
    """Refuse detections (x, y, confidence) that lie near their labels only if x and y change."""
    seen, points = keypoints[..., 2] > SEEN, keypoints[..., :2]
    if seen.sum() <= FEWEST_SEEN:
        return
    got, exchanged = (
        ((found - labels).norm(dim=-1) / box[:, 2:])[seen].median().item()
        for found in (points, points.flip(-1))
    )
    if got > FAR and exchanged < got / 2:
        raise ValueError(
            f"{shown(path)}: vitpose must hold (y, x, confidence) near gt_coco_25j, (x, y); got a "
            f"median distance of {got:.2g} box sides, and {exchanged:.2g} with x and y exchanged. "
            "Usual cause: detections that were stored as (x, y, confidence)"
        )


def _joints(path: Path, values: np.ndarray, count: int) -> Tensor:
    joints = _checked(path, "gtkps", values, (count, None, None))[:, :PROJECTED]
    if joints.shape[1] < PROJECTED or joints.shape[2] not in (2, 3):
        raise ValueError(
            f"{shown(path)}: gtkps must have {PROJECTED} joints or more with x and y; got "
            f"{values.shape}. Usual cause: a file of another version"
        )
    if (joints[..., 2:] != 1).any():
        raise ValueError(
            f"{shown(path)}: gtkps has joints whose confidence is not 1; expected labels for all. "
            "Usual cause: a data set that HuMR does not train on"
        )
    return joints[..., :2]


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()])


def _genders(path: Path, values: np.ndarray | None, count: int) -> np.ndarray:
    """Names by the first letter, m or f."""
    if values is None:
        return np.full(count, "unknown")
    names = {"m": "male", "f": "female"}
    letters = [text[:1] for text in _texts(values)]
    if len(letters) != count or not set(letters) <= set(names):
        raise ValueError(
            f"{shown(path)}: gender must be {count} texts that begin with m or f; got "
            f"{len(letters)}, beginning with {', '.join(sorted(set(letters)))}"
        )
    return np.array([names[letter] for letter in letters])


def _mask_valid(path: Path, arrays: dict[str, np.ndarray], count: int) -> Tensor:
    if "object_occlusion" in arrays:
        return _checked(path, "object_occlusion", arrays["object_occlusion"], (count,)) == 0
    if "valid_emdb_mask" in arrays:
        return _checked(path, "valid_emdb_mask", arrays["valid_emdb_mask"], (count,)) == 1
    return torch.zeros(count, dtype=torch.bool)
