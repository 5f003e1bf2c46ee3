r"""Annotated people, stored heatmap samples, and batches of them.

An annotation file of HuMR is one .npz per data set, one row per person and image: boxes, poses,
shapes, 2D joints and ViTPose's detections. Pixels are those of the whole photograph, upright
(`DataSet.rotated`). Two oddities of the files end here: detections are stored as (y, x,
confidence), and the side of a box as `scale`, a 200th of it.

Samples of ViTPose's heatmaps are one file per person, as the authors of HuMR publish them; the
script that drew them is not released, and `vitpose` writes the same files.
"""

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from humr.batches import Batch, Labels2D, unpack_mask
from humr.files import existing, shown, write_bytes
from humr.geometry import box_info, rotvec_to_matrix
from humr.licensed.datasets import LICENSED, data_set
from humr.licensed.images import box_coordinates, quantised
from humr.licensed.readers import read_npz
from humr.skeletons import BODY22, COCO17, Skeleton, index_map
from humr.storage import TensorRecord

SCALE = 200.0  # px of box side per unit of `scale`
BETAS = {"train": 11, "test": 10}
JOINTS = {"train": len(BODY22), "test": 24}  # of the pose: SMPL-X body, SMPL
PROJECTED = 24  # joints of `gtkps` that are used: SMPL-X's 22 of the body, jaw, left eye
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

# What is wrong with a file whose arrays are.
ORIGINAL = "annotations of BEDLAM or AGORA themselves, without what HuMR's authors added"
OTHER = "a file of another version"
PADDED = "betas of SMPL-X padded to 11 are for training, the 10 of SMPL for the test"

# The filter of the official code.
LARGEST_ERROR = 13.0  # px per unit of `scale`: 6.5 % of the box side
COUNTED, SEEN = 0.2, 0.5  # confidence from which a detection counts, and from which it is seen
FEWEST_SEEN = 8  # more than these
BEYOND = 100.0  # px that detections may lie outside the photograph
FAR = 0.1  # of the box side: the median seen detection lies nearer to its label

SHAPE = (150, 17, 4)  # of a file of samples: COCO joints; x, y, confidence, distance to the mask
OFF_MASK = 0.71  # beyond this a sample lies outside the mask; half a pixel's diagonal, it seems
LEVEL = 3  # of compression; 6 takes twice as long for 8 % less
LARGEST_FILE = 2**20  # bytes, uncompressed; ten times what float64 needs

WINDOW = (0.75, 1.0)  # half sides of what the detector saw of a box, 192 of 256 px wide
LEAST_PEAK = 1e-6

# ------------------------------------------------------------------------- annotations


@dataclass(frozen=True, kw_only=True)
class Boxes(TensorRecord):
    """Where the people of one data set are; all that a 2D detector needs of an annotation file."""

    box: Float[Tensor, "people 3"]  # centre x, y, side
    image: np.ndarray  # (people,) names below the data set's image folder
    name: str  # of the data set
    # The person's mask holds every place where its joints can be. Training: no object in front,
    # never in 3DPW. EMDB's occluded part: judged good by hand, 1760 people. Elsewhere False.
    mask_valid: Bool[Tensor, " people"]
    image_size: Float[Tensor, "people 2"] | None  # width, height; None: see the photograph


@dataclass(frozen=True, kw_only=True)
class Annotations(Boxes):
    """Rows of one data set."""

    gender: np.ndarray  # (people,) "male", "female" or "unknown"
    row: Int[Tensor, " people"]  # in the file; it names the files of heatmap samples
    keypoints: Float[Tensor, "people 17 3"]  # of ViTPose: x, y, confidence
    true_keypoints: Float[Tensor, "people 17 2"]
    pose: Float[Tensor, "people joints 3"]  # axis-angle in the camera's frame, root first
    betas: Float[Tensor, "people betas"]
    joints: Float[Tensor, "people 24 2"] | None  # 2D, training sets only
    intrinsics: Float[Tensor, "people 3 3"] | None


def annotation_path(name: str, *, root: Path = LICENSED) -> Path:
    """Return where the annotation file of a data set lies, there or not."""
    return root / "annotations" / data_set(name).annotations


def read_images(name: str, *, root: Path = LICENSED) -> np.ndarray:
    """Read the names of the photographs of all rows."""
    return _texts(read_npz(annotation_path(name, root=root), ("imgname",))["imgname"])


def read_boxes(name: str, *, root: Path = LICENSED) -> Boxes:
    """Read the boxes of all rows; the file may lack detections, poses and labels."""
    optional = ("object_occlusion", "valid_emdb_mask", "orig_shape")
    return Boxes(**_File(name, root, ("imgname", "center", "scale"), optional).boxes())


def read_annotations(name: str, *, root: Path = LICENSED) -> Annotations:
    """Read and check all rows of a data set."""
    described, own = data_set(name), ()
    if described.split == "train":
        own = ("gtkps", "orig_shape" if described.source == "3DPW" else "object_occlusion")
    elif name == "emdb-p1-occl":
        own = ("valid_emdb_mask",)
    file = _File(name, root, (*_KEYS, *own), ("cam_int", "orig_shape", "gender"))
    pose = file.numbers("pose_cam", None)
    joints = JOINTS[described.split]
    if pose.shape[1] < 3 * joints or (described.split == "test" and pose.shape[1] != 72):
        file.refuse(
            f"pose_cam must have {3 * joints} columns; got {pose.shape[1]}",
            "a file for training where one for the test is expected, or the reverse",
        )
    detected = file.numbers("vitpose", 17, 3)
    people = Annotations(
        **file.boxes(),
        gender=file.genders(),
        row=torch.arange(file.count),
        keypoints=torch.cat([detected[..., [1, 0]], detected[..., 2:].clamp(0, 1)], -1),
        true_keypoints=file.numbers("gt_coco_25j", 25, 2)[:, list(_COCO)],
        pose=pose[:, : 3 * joints].unflatten(-1, (joints, 3)),
        betas=file.numbers("shape", BETAS[described.split]),
        joints=file.joints() if "gtkps" in file.arrays else None,
        intrinsics=file.numbers("cam_int", 3, 3) if "cam_int" in file.arrays else None,
    )
    _check_order(people, file)
    return people


def size_of(people: Boxes, index: int) -> Float[Tensor, "2"] | None:
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


class _File:
    """Some arrays of an annotation file, checked when they are taken."""

    def __init__(
        self, name: str, root: Path, keys: Sequence[str], optional: Sequence[str]
    ) -> None:
        self.described, self.path = data_set(name), annotation_path(name, root=root)
        self.arrays = read_npz(self.path, keys, optional=optional, cause=ORIGINAL)
        self.count = len(self.arrays["imgname"])

    def refuse(self, fault: str, cause: str = OTHER) -> NoReturn:
        raise ValueError(f"{shown(self.path)}: {fault}. Usual cause: {cause}")

    def numbers(self, key: str, *shape: int | None) -> Tensor:
        """Return an array as float32, one row per person of the shape (None: any), all finite."""
        values = self.arrays[key]
        fits = values.ndim == 1 + len(shape) and len(values) == self.count
        fits = fits and all(n in (None, m) for n, m in zip(shape, values.shape[1:], strict=True))
        if not fits or values.dtype.kind not in "bfiu":
            wanted = ", ".join("any" if n is None else str(n) for n in (self.count, *shape))
            fault = (
                f"{key} must be numbers of shape ({wanted}); got {values.dtype} of {values.shape}"
            )
            self.refuse(fault, PADDED if key == "shape" else OTHER)
        if not np.isfinite(values).all():
            self.refuse(f"{key} holds values that are not finite", "a damaged file")
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def boxes(self) -> dict[str, Any]:
        """Return the fields of `Boxes`."""
        scale = self.numbers("scale")
        if (scale <= 0).any():
            self.refuse(
                f"scale must be above 0, the box side divided by {SCALE:g} px; got "
                f"{scale.min():g}",
                "people without a box were not removed",
            )
        return {
            "name": self.described.name,
            "image": _texts(self.arrays["imgname"]),
            "box": torch.cat([self.numbers("center", 2), SCALE * scale[:, None]], -1),
            "mask_valid": self.mask_valid(),
            "image_size": self.image_size(),
        }

    def mask_valid(self) -> Tensor:
        for key, good in (("object_occlusion", 0), ("valid_emdb_mask", 1)):
            if key in self.arrays:
                return self.numbers(key) == good
        return torch.zeros(self.count, dtype=torch.bool)

    def image_size(self) -> Tensor | None:
        """Width and height of photographs; files say height and width, where they differ."""
        if self.described.image_size is not None:
            return torch.tensor(self.described.image_size).float().expand(self.count, 2)
        return self.numbers("orig_shape", 2).flip(-1) if "orig_shape" in self.arrays else None

    def joints(self) -> Tensor:
        joints = self.numbers("gtkps", None, None)[:, :PROJECTED]
        if joints.shape[1] < PROJECTED or joints.shape[2] not in (2, 3):
            got = self.arrays["gtkps"].shape
            self.refuse(f"gtkps must have {PROJECTED} joints or more with x and y; got {got}")
        if (joints[..., 2:] != 1).any():
            self.refuse(
                "gtkps has joints whose confidence is not 1; expected labels for all",
                "a data set that HuMR does not train on",
            )
        return joints[..., :2]

    def genders(self) -> np.ndarray:
        """Return names by the first letter, m or f."""
        if "gender" not in self.arrays:
            return np.full(self.count, "unknown")
        names = {"m": "male", "f": "female"}
        letters = [text[:1] for text in _texts(self.arrays["gender"])]
        if len(letters) != self.count or not set(letters) <= set(names):
            self.refuse(
                f"gender must be {self.count} texts that begin with m or f; got {len(letters)}, "
                f"beginning with {', '.join(sorted(set(letters)))}"
            )
        return np.array([names[letter] for letter in letters])


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()])


def _check_order(people: Annotations, file: _File) -> None:
    """Refuse detections (x, y, confidence) that lie near their labels only if x and y change."""
    seen, points = people.keypoints[..., 2] > SEEN, people.keypoints[..., :2]
    if seen.sum() <= FEWEST_SEEN:
        return
    got, exchanged = (
        ((found - people.true_keypoints).norm(dim=-1) / people.box[:, 2:])[seen].median().item()
        for found in (points, points.flip(-1))
    )
    if got > FAR and exchanged < got / 2:
        file.refuse(
            "vitpose must hold (y, x, confidence) near gt_coco_25j, (x, y); got a median distance "
            f"of {got:.2g} box sides, and {exchanged:.2g} with x and y exchanged",
            "detections that were stored as (x, y, confidence)",
        )


# --------------------------------------------------------- stored samples of heatmaps


@dataclass(frozen=True)
class HeatmapSamples:
    """Heatmap samples of some people."""

    points: Float[Tensor, "people samples 17 2"]  # pixels of the photograph, upright
    confidence: Float[Tensor, "people samples 17"]  # of the heatmap at the sample
    distance: Float[Tensor, "people samples 17"]  # to the mask of all persons, unit unknown

    @property
    def peak(self) -> Float[Tensor, "people 17"]:
        """Largest of all stored samples; the official code takes it for the heatmap's."""
        return self.confidence.amax(1)


def file_name(row: int) -> str:
    """Return what the file of a person's samples is called."""
    return f"{row:07d}.npy.gz"


def sample_path(name: str, row: int, *, root: Path = LICENSED) -> Path:
    """Return where the samples of a person lie: by its row in the unfiltered annotations."""
    return root / "heatmap_samples" / name / file_name(row)


def read_samples(
    name: str, rows: Int[Tensor, " people"], *, root: Path = LICENSED
) -> HeatmapSamples:
    """Read the samples of some people of a data set (`Annotations.row`)."""
    stacked = np.stack([read_file(sample_path(name, row, root=root)) for row in rows.tolist()])
    values = torch.from_numpy(stacked)
    return HeatmapSamples(values[..., :2], values[..., 2], values[..., 3])


def read_file(path: Path) -> np.ndarray:
    """Read and check one file: float32 of `SHAPE`."""
    path = existing(path)
    try:
        with gzip.open(path) as file:
            values = np.load(io.BytesIO(file.read(LARGEST_FILE)), allow_pickle=False)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{shown(path)} cannot be read: {error}. Usual cause: a partial download; get the "
            "heatmap samples of this data set again"
        ) from error
    if not isinstance(values, np.ndarray) or values.shape != SHAPE or values.dtype.kind != "f":
        got = getattr(values, "shape", type(values).__name__)
        raise ValueError(
            f"{shown(path)}: expected {SHAPE} (samples, COCO joints, values) of floats; got "
            f"{got}. Usual cause: a file of another project, or whole heatmaps instead of samples"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)} holds values that are not finite; it is damaged")
    return values.astype(np.float32)


def write_file(path: Path, values: Float[np.ndarray, "150 17 4"]) -> None:
    """Write one file, whole or not at all; equal values give equal bytes."""
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)}: samples must be finite numbers; got {values.min()}")
    content = io.BytesIO()
    np.save(content, values.astype(np.float32), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gzip.compress(content.getvalue(), LEVEL, mtime=0))


# ------------------------------------------------------------------- people and crops


@dataclass(frozen=True)
class Persons(TensorRecord):
    """What is known of people whichever crop shows them, in pixels of the photographs."""

    box: Float[Tensor, "people 3"]  # as annotated: centre x, y, side
    keypoints: Float[Tensor, "people 17 3"]  # of ViTPose: x, y, confidence
    true_keypoints: Float[Tensor, "people 17 2"]
    joints: Float[Tensor, "people 24 2"]  # true ones of SMPL-X, 2D
    rotvec: Float[Tensor, "people 22 3"]
    betas: Float[Tensor, "people 11"]
    focal: Float[Tensor, " people"]
    image_size: Float[Tensor, "people 2"]
    mask_valid: Bool[Tensor, " people"]
    # stored samples of the heatmaps; points in the annotated box, half precision
    points: Float[Tensor, "people samples 17 2"]
    density: Float[Tensor, "people samples 17"]
    on_mask: Bool[Tensor, "people samples 17"]
    peak: Float[Tensor, "people 17"]  # largest density among all 150 stored samples


@dataclass(frozen=True)
class CropFeatures(TensorRecord):
    """What a crop of each person adds; with `Persons` it makes a `Batch`."""

    box: Float[Tensor, "people 3"]  # of the crop
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, in the crop, bit-packed
    features: Float[Tensor, "people features"]


def persons_of(people: Annotations, *, samples: int, root: Path = LICENSED) -> Persons:
    """Turn rows of a training set into tensors, with their first `samples` heatmap samples."""
    described = data_set(people.name)
    if described.split != "train" or people.joints is None or people.image_size is None:
        raise ValueError(f"{people.name} has no labels for training")
    stored = read_samples(people.name, people.row, root=root)
    on_mask = (stored.distance[:, :samples] <= OFF_MASK) & people.mask_valid[:, None, None]
    return Persons(
        box=people.box,
        keypoints=people.keypoints,
        true_keypoints=people.true_keypoints,
        joints=people.joints,
        rotvec=people.pose,
        betas=people.betas,
        focal=focal_of(people, people.image_size),
        image_size=people.image_size,
        mask_valid=people.mask_valid,
        points=_samples_in(people.box, stored.points[:, :samples]).half(),
        density=stored.confidence[:, :samples].half(),
        on_mask=on_mask,
        peak=stored.peak,
    )


def focal_of(
    people: Annotations, image_size: Float[Tensor, "people 2"]
) -> Float[Tensor, " people"]:
    """Focal length in pixels: that of the intrinsics in x, without them the diagonal.

    The official code takes the true one in training and the diagonal in every test
    (`evaluation.with_diagonal`).
    """
    return image_size.norm(dim=-1) if people.intrinsics is None else people.intrinsics[:, 0, 0]


def batch_of(
    persons: Persons, crops: CropFeatures, *, samples: int, generator: torch.Generator
) -> Batch:
    """Express everything in the crops, with `samples` of the stored heatmap samples.

    They are drawn without replacement, all joints of one sample together. Condition and true
    keypoints are moved to whole pixels, `images.quantised`, as in the official code; heatmap
    samples and SMPL-X's joints are not.
    """
    box = crops.box
    points, density, on_mask = _drawn(persons, samples, generator)
    pixels = persons.box[:, None, None, :2] + persons.box[:, None, None, 2:] / 2 * points
    mask = unpack_mask(crops.mask)
    every = torch.ones(len(persons), dtype=torch.bool, device=box.device)
    in_annotated_box = quantised(box_coordinates(persons.true_keypoints, persons.box))
    return Batch(
        **_seen(persons.keypoints, crops, persons.focal, persons.image_size),
        samples=_samples_in(box, pixels),
        density=density / persons.peak[:, None].clamp_min(LEAST_PEAK),
        mask=mask,
        rotations=rotvec_to_matrix(persons.rotvec),
        betas=persons.betas,
        has_pose=every,
        has_points=every,
        given=Labels2D(
            keypoints=quantised(box_coordinates(persons.true_keypoints, box)),
            joints=box_coordinates(persons.joints, box),
            peak=persons.peak,
            in_window=(in_annotated_box.abs() <= box.new_tensor(WINDOW)).all(-1),
            on_mask=on_mask,
            mask_valid=persons.mask_valid & mask.flatten(1).any(1),
        ),
    )


def unlabelled_batch(
    people: Annotations,
    crops: CropFeatures,
    image_size: Float[Tensor, "people 2"],
    *,
    stored: HeatmapSamples | None = None,
) -> Batch:
    """Batch of a test set: what the network sees, and no labels (those are of another body).

    Few networks read heatmap samples, whose density is in units of its largest stored value, as
    in training; without them, the detected keypoints stand for one.
    """
    count, seen = (
        len(people),
        _seen(people.keypoints, crops, focal_of(people, image_size), image_size),
    )
    points, density = seen["keypoints"][:, None, :, :2], torch.ones(count, 1, 17)
    if stored is not None:
        points = _samples_in(crops.box, stored.points)
        density = stored.confidence / stored.peak[:, None].clamp_min(LEAST_PEAK)
    none = torch.zeros(count, dtype=torch.bool)
    return Batch(
        **seen,
        samples=points,
        density=density,
        mask=unpack_mask(crops.mask),
        rotations=torch.eye(3).expand(count, len(BODY22), 3, 3),
        betas=torch.zeros(count, 11),
        has_pose=none,
        has_points=none,
        given=None,
    )


def _seen(
    keypoints: Tensor, crops: CropFeatures, focal: Tensor, image_size: Tensor
) -> dict[str, Tensor]:
    """What the network is shown, whether there are labels or not."""
    box = crops.box
    detected = quantised(box_coordinates(keypoints[..., :2], box))
    return {
        "features": crops.features.float(),
        "keypoints": torch.cat([detected, keypoints[..., 2:]], -1),
        "box_info": box_info(box[:, :2], box[:, 2], focal, image_size),
        "window_info": box.new_zeros(len(box), 5),
        "box": box,
        "focal": focal,
        "image_size": image_size,
        "translation": box.new_zeros(len(box), 3),
    }


def _samples_in(box: Tensor, points: Tensor) -> Tensor:
    """Express samples (people, samples, joints, 2), pixels of the photograph, in boxes."""
    return box_coordinates(points.flatten(1, 2), box).unflatten(1, points.shape[1:3])


def _drawn(
    persons: Persons, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw heatmap samples: points in the annotated box, density, whether on the mask."""
    people, stored = persons.density.shape[:2]
    if not 1 <= count <= stored:
        raise ValueError(f"samples must lie in 1..{stored}, the stored ones; got {count}")
    drawn = torch.rand(people, stored, generator=generator, device=generator.device)
    order = drawn.argsort(1)[:, :count].to(persons.density.device)
    each = torch.arange(people, device=order.device)[:, None]
    points, density = persons.points[each, order], persons.density[each, order]
    return points.float(), density.float(), persons.on_mask[each, order]
