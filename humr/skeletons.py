"""Names, parents and index maps of every skeleton; maps are computed from names, never typed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of named joints with the parent of each (-1 for the root)."""

    name: str
    names: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.parents) or len(set(self.names)) != len(self.names):
            raise ValueError(f"{self.name}: need unique names and one parent for each")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the position of joint `name`."""
        if name not in self.names:
            raise ValueError(f"{self.name} has no joint {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def indices(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the positions of several joints."""
        return tuple(self.index(name) for name in names)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Index of the joint on the other side of the body, itself for joints in the middle."""
        return tuple(self.names.index(_other_side(name)) for name in self.names)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Pairs (parent, child)."""
        return tuple((p, c) for c, p in enumerate(self.parents) if p >= 0)


def _other_side(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name


def index_map(source: Skeleton, target: Skeleton) -> tuple[int, ...]:
    """For each joint of `target`, its position in `source` (all must be there, by name)."""
    return source.indices(target.names)


def _tree(name: str, joints: Sequence[tuple[str, str | None]]) -> Skeleton:
    names = tuple(joint for joint, _ in joints)
    parents = tuple(-1 if parent is None else names.index(parent) for _, parent in joints)
    return Skeleton(name, names, parents)


_BODY: tuple[tuple[str, str | None], ...] = (
    ("pelvis", None),
    ("left_hip", "pelvis"),
    ("right_hip", "pelvis"),
    ("spine1", "pelvis"),
    ("left_knee", "left_hip"),
    ("right_knee", "right_hip"),
    ("spine2", "spine1"),
    ("left_ankle", "left_knee"),
    ("right_ankle", "right_knee"),
    ("spine3", "spine2"),
    ("left_foot", "left_ankle"),
    ("right_foot", "right_ankle"),
    ("neck", "spine3"),
    ("left_collar", "spine3"),
    ("right_collar", "spine3"),
    ("head", "neck"),
    ("left_shoulder", "left_collar"),
    ("right_shoulder", "right_collar"),
    ("left_elbow", "left_shoulder"),
    ("right_elbow", "right_shoulder"),
    ("left_wrist", "left_elbow"),
    ("right_wrist", "right_elbow"),
)
_FACE = (("jaw", "head"), ("left_eye", "head"), ("right_eye", "head"))
_HANDS: tuple[tuple[str, str | None], ...] = tuple(
    (f"{side}_{finger}{i}", f"{side}_wrist" if i == 1 else f"{side}_{finger}{i - 1}")
    for side in ("left", "right")
    for finger in ("index", "middle", "pinky", "ring", "thumb")
    for i in (1, 2, 3)
)

BODY22 = _tree("body22", _BODY)
SMPLX55 = _tree("smplx55", _BODY + _FACE + _HANDS)

COCO17 = _tree(
    "coco17",
    (
        ("nose", None),
        ("left_eye", "nose"),
        ("right_eye", "nose"),
        ("left_ear", "left_eye"),
        ("right_ear", "right_eye"),
        ("left_shoulder", "left_ear"),
        ("right_shoulder", "right_ear"),
        ("left_elbow", "left_shoulder"),
        ("right_elbow", "right_shoulder"),
        ("left_wrist", "left_elbow"),
        ("right_wrist", "right_elbow"),
        ("left_hip", "left_shoulder"),
        ("right_hip", "right_shoulder"),
        ("left_knee", "left_hip"),
        ("right_knee", "right_hip"),
        ("left_ankle", "left_knee"),
        ("right_ankle", "right_knee"),
    ),
)

H36M17 = _tree(
    "h36m17",
    (
        ("pelvis", None),
        ("right_hip", "pelvis"),
        ("right_knee", "right_hip"),
        ("right_ankle", "right_knee"),
        ("left_hip", "pelvis"),
        ("left_knee", "left_hip"),
        ("left_ankle", "left_knee"),
        ("spine", "pelvis"),
        ("thorax", "spine"),
        ("nose", "thorax"),
        ("head_top", "nose"),
        ("left_shoulder", "thorax"),
        ("left_elbow", "left_shoulder"),
        ("left_wrist", "left_elbow"),
        ("right_shoulder", "thorax"),
        ("right_elbow", "right_shoulder"),
        ("right_wrist", "right_elbow"),
    ),
)

# Lifting (Wehrbein et al. 2021): the 3D pose without its root, the 2D pose of MPII, and the joints
# whose fitted Gaussians are the condition.
POSE16 = _tree(
    "pose16",
    tuple(
        (name, None if parent <= 0 else H36M17.names[parent])
        for name, parent in zip(H36M17.names[1:], H36M17.parents[1:], strict=True)
    ),
)
_MPII_PARENTS = {"thorax": "spine", "spine": "pelvis", "pelvis": None, "head_top": "thorax"}
MPII16 = _tree(
    "mpii16",
    tuple(
        (name, _MPII_PARENTS.get(name, H36M17.names[H36M17.parents[H36M17.index(name)]]))
        for name in (
            "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
            "pelvis", "spine", "thorax", "head_top", "right_wrist", "right_elbow",
            "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        )
    ),
)  # fmt: skip
_UNCONDITIONED = ("right_hip", "left_hip", "pelvis")
CONDITION13 = Skeleton(
    "condition13", tuple(n for n in MPII16.names if n not in _UNCONDITIONED), (-1,) * 13
)

# SPIN (Kolotouros et al. 2019) and its J_regressor_h36m.npy call this H36M, but the left leg is
# first.
SPIN17 = Skeleton(
    "spin17", ("pelvis", *H36M17.names[4:7], *H36M17.names[1:4], *H36M17.names[7:]), (-1,) * 17
)
H36M_FROM_SPIN = index_map(SPIN17, H36M17)

COMMON14 = _tree(
    "common14",
    (
        ("right_ankle", "right_knee"),
        ("right_knee", "right_hip"),
        ("right_hip", "neck"),
        ("left_hip", "neck"),
        ("left_knee", "left_hip"),
        ("left_ankle", "left_knee"),
        ("right_wrist", "right_elbow"),
        ("right_elbow", "right_shoulder"),
        ("right_shoulder", "neck"),
        ("left_shoulder", "neck"),
        ("left_elbow", "left_shoulder"),
        ("left_wrist", "left_elbow"),
        ("neck", None),
        ("head_top", "neck"),
    ),
)

_BLAZE_FACE = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye",
    "right_eye_outer", "left_ear", "right_ear", "mouth_left", "mouth_right",
)  # fmt: skip
_BLAZE_BODY = (
    "shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel",
    "foot_index",
)  # fmt: skip
BLAZEPOSE33 = Skeleton(
    "blazepose33",
    _BLAZE_FACE + tuple(f"{side}_{part}" for part in _BLAZE_BODY for side in ("left", "right")),
    (-1,) * 33,
)

COCO17_FROM_BLAZEPOSE = index_map(BLAZEPOSE33, COCO17)
_ALL = (BODY22, SMPLX55, COCO17, H36M17, MPII16, COMMON14, BLAZEPOSE33)
SKELETONS = {s.name: s for s in _ALL}

# Joints whose heatmaps supervise the hypotheses when the detector is unsure (HuMR, section 4.5).
_PARTS = ("elbow", "wrist", "knee", "ankle")
ARTICULATED = COCO17.indices([f"{side}_{part}" for part in _PARTS for side in ("left", "right")])
