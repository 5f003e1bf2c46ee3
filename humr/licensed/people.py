r"""HuMR's annotation files: boxes, poses, shapes, 2D joints and ViTPose's detections.

One .npz per data set, one row per person and image. Pixels are those of the whole photograph,
turned upright (`licensed.DataSet.rotated`). Two oddities of the files end here: detections are
stored as (y, x, confidence), and the side of a box is stored as `scale`, a 200th of it.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from humr.batches import Batch, Labels2D, unpack_mask
from humr.files import existing, shown, write_bytes
from humr.geometry import box_info, rotvec_to_matrix
from humr.licensed.datasets import LICENSED, DataSet, data_set
from humr.licensed.images import quantised, to_crop
from humr.licensed.readers import read_npz
from humr.skeletons import BODY22, COCO17, Skeleton, index_map
from humr.storage import TensorRecord

# Samples of ViTPose's heatmaps, one file per person, as the authors of HuMR publish them.
#
# The script that drew them is not released. The paper discards confidences below 0.05; a sampler
# in the official code draws cells in proportion to the heatmap, with replacement.
# `heatmap_precompute` does so and writes the same files.


SHAPE = (150, 17, 4)  # samples, COCO joints; x, y, confidence, distance to the mask
OFF_MASK = 0.71  # beyond this a sample lies outside the mask; half a pixel's diagonal, it seems
LEVEL = 3  # of compression; 6 takes twice as long for 8 % less
_LARGEST_FILE = 2**20  # bytes, uncompressed; ten times what float64 needs
_BROKEN = (EOFError, OSError, ValueError, zlib.error)


@dataclass(frozen=True)
class HeatmapSamples:
    """Heatmap samples of some people."""

    points: Float[Tensor, "people samples 17 2"]  # pixels of the photograph, upright
    confidence: Float[Tensor, "people samples 17"]  # of the heatmap at the sample
    distance: Float[Tensor, "people samples 17"]  # to the mask of all persons, unit unknown

    @property
    def peak(self) -> Float[Tensor, "people 17"]:
        """Largest confidence among the samples, which the official code takes for the heatmap's.

        Take it from all stored samples, before `draw`.
        """
        return self.confidence.amax(1)

    def outside(self, mask_valid: Bool[Tensor, " people"]) -> Bool[Tensor, "people samples 17"]:
        """Which samples lie off the person's mask; all of them where the mask is not valid."""
        return (self.distance > OFF_MASK) | ~mask_valid[:, None, None]

    def draw(self, count: int, *, generator: torch.Generator) -> "HeatmapSamples":
        """Draw samples without replacement, all joints of one sample together (official code)."""
        people, stored = self.confidence.shape[:2]
        if not 1 <= count <= stored:
            raise ValueError(f"count must lie in 1..{stored}, the stored samples; got {count}")
        order = torch.rand(people, stored, generator=generator).argsort(1)[:, :count]
        each = torch.arange(people)[:, None]
        return HeatmapSamples(
            self.points[each, order], self.confidence[each, order], self.distance[each, order]
        )


def sample_path(name: str, row: int, *, root: Path = LICENSED) -> Path:
    """Return where the samples of a person lie: by its row in the unfiltered annotations."""
    return root / "heatmap_samples" / name / file_name(row)


def file_name(row: int) -> str:
    """Return what the file of a person's samples is called."""
    return f"{row:07d}.npy.gz"


def read_samples(
    name: str, rows: Int[Tensor, " people"], *, root: Path = LICENSED
) -> HeatmapSamples:
    """Read the samples of some people of a data set (`Annotations.row`)."""
    stacked = np.stack([read_file(sample_path(name, row, root=root)) for row in rows.tolist()])
    values = torch.from_numpy(stacked)
    return HeatmapSamples(values[..., :2], values[..., 2], values[..., 3])


def read_file(path: Path) -> np.ndarray:
    """Read and check one file: float32 of `SHAPE`."""
    try:
        with gzip.open(existing(path)) as file:
            values = np.load(io.BytesIO(file.read(_LARGEST_FILE)), allow_pickle=False)
    except _BROKEN as error:
        if isinstance(error, FileNotFoundError):
            raise
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
class Annotations(TensorRecord):
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


# Licensed people as tensors, and the batches that come of them.
#
# `Persons` holds what is known of people whichever crop shows them, in pixels of the
# photographs; `CropFeatures` what a look at a crop adds. Together they make a `Batch`.


WINDOW = (0.75, 1.0)  # half sides of what the detector saw of a box, 192 of 256 px wide
LEAST_PEAK = 1e-6


@dataclass(frozen=True)
class Persons(TensorRecord):
    """What is known of people whichever crop shows them."""

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
    """What a look at a crop of each person adds."""

    box: Float[Tensor, "people 3"]  # of the crop
    mask: UInt8[Tensor, "people bytes"]  # where joints can be, in the crop, bit-packed
    features: Float[Tensor, "people features"]


def persons_of(people: Annotations, *, samples: int, root: Path = LICENSED) -> Persons:
    """Turn rows of a training set into tensors, with their first `samples` heatmap samples."""
    described = data_set(people.name)
    if described.split != "train" or people.joints is None or people.image_size is None:
        raise ValueError(f"{people.name} has no labels for training")
    stored = read_samples(people.name, people.row, root=root)
    points = _samples_in(people.box, stored.points[:, :samples])
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
        points=points.half(),
        density=stored.confidence[:, :samples].half(),
        on_mask=on_mask,
        peak=stored.peak,
    )


def focal_of(
    people: Annotations, image_size: Float[Tensor, "people 2"], *, default: bool = False
) -> Float[Tensor, " people"]:
    """Focal length in pixels: that of the intrinsics in x, or by `default` the diagonal.

    Files without intrinsics have the diagonal in any case. The official code takes the true one
    in training and the diagonal in every test.
    """
    if people.intrinsics is None or default:
        return image_size.norm(dim=-1)
    return people.intrinsics[:, 0, 0]


def batch_of(
    persons: Persons, looks: CropFeatures, *, samples: int, generator: torch.Generator
) -> Batch:
    """Express everything in the crops, with `samples` of the stored heatmap samples.

    They are drawn without replacement, all joints of one sample together. Condition and true
    keypoints are moved to whole pixels, `crops.quantised`, as in the official code; heatmap
    samples and SMPL-X's joints are not.
    """
    box, count = looks.box, len(persons)
    points, density, on_mask = _drawn(persons, samples, generator)
    pixels = persons.box[:, None, None, :2] + persons.box[:, None, None, 2:] / 2 * points
    mask = unpack_mask(looks.mask)
    true = quantised(to_crop(persons.true_keypoints, box))
    every = torch.ones(count, dtype=torch.bool, device=box.device)
    detected = quantised(to_crop(persons.keypoints[..., :2], box))
    window = box.new_tensor(WINDOW)
    return Batch(
        features=looks.features.float(),
        keypoints=torch.cat([detected, persons.keypoints[..., 2:]], -1),
        box_info=box_info(box[:, :2], box[:, 2], persons.focal, persons.image_size),
        window_info=box.new_zeros(count, 5),
        box=box,
        focal=persons.focal,
        image_size=persons.image_size,
        samples=_samples_in(box, pixels),
        density=density / persons.peak[:, None].clamp_min(LEAST_PEAK),
        mask=mask,
        rotations=rotvec_to_matrix(persons.rotvec),
        betas=persons.betas,
        translation=box.new_zeros(count, 3),
        has_pose=every,
        has_points=every,
        given=Labels2D(
            keypoints=true,
            joints=to_crop(persons.joints, box),
            peak=persons.peak,
            in_window=in_window(persons, window),
            on_mask=on_mask,
            mask_valid=persons.mask_valid & mask.flatten(1).any(1),
        ),
    )


def in_window(persons: Persons, window: Float[Tensor, "2"]) -> Bool[Tensor, "people 17"]:
    """Which true keypoints lie in the part of the annotated box that the detector saw."""
    return (quantised(to_crop(persons.true_keypoints, persons.box)).abs() <= window).all(-1)


def _samples_in(box: Tensor, points: Tensor) -> Tensor:
    """Express samples (people, samples, joints, 2), pixels of the photograph, in boxes."""
    return to_crop(points.flatten(1, 2), box).unflatten(1, points.shape[1:3])


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


def unlabelled_batch(
    people: Annotations,
    looks: CropFeatures,
    image_size: Float[Tensor, "people 2"],
    *,
    default_focal: bool,
    stored: HeatmapSamples | None = None,
) -> Batch:
    """Batch of a test set: what the network sees, and no labels (those are of another body).

    Few networks read heatmap samples, whose density is in units of its largest stored value, as
    in training; without them, the detected keypoints stand for one.
    """
    box, count = looks.box, len(people)
    points, density = quantised(to_crop(people.keypoints[..., :2], box))[:, None], None
    if stored is not None:
        points = _samples_in(box, stored.points)
        density = stored.confidence / stored.peak[:, None].clamp_min(LEAST_PEAK)
    focal = focal_of(people, image_size, default=default_focal)
    detected = quantised(to_crop(people.keypoints[..., :2], box))
    none = torch.zeros(count, dtype=torch.bool)
    return Batch(
        features=looks.features.float(),
        keypoints=torch.cat([detected, people.keypoints[..., 2:]], -1),
        box_info=box_info(box[:, :2], box[:, 2], focal, image_size),
        window_info=box.new_zeros(count, 5),
        box=box,
        focal=focal,
        image_size=image_size,
        samples=points,
        density=torch.ones(count, 1, 17) if density is None else density,
        mask=unpack_mask(looks.mask),
        rotations=torch.eye(3).expand(count, len(BODY22), 3, 3),
        betas=torch.zeros(count, 11),
        translation=torch.zeros(count, 3),
        has_pose=none,
        has_points=none,
    )


assert len(BODY22) + 2 == PROJECTED  # what `Persons.joints` says
