r"""Procedural poses: templates, correlated noise, anatomical limits, mirror images.

A pose is written as Euler angles in degrees, $R = R_x R_y R_z$ for each of the 22 body joints,
in the frame of the parent, about the T-pose (y up, facing +z, left arm along +x). Shoulders have
a fourth angle, the twist about the upper arm, applied first: $R_x R_y R_z R_x(\text{twist})$.
Right limbs are written as if they were left ones and mirrored by the code: $(x, -y, -z)$.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from humr.geometry import matrix_to_rotvec, rotvec_to_matrix
from humr.skeletons import BODY22

Angles = tuple[int, int, int]
Key = Mapping[str, tuple[int, ...]]

# Key poses of every template. "arm" = shoulder (swing, horizontal, raise, twist), "elbow" and
# "knee" = flexion, "hip" = (x, y, z); suffix _l or _r, none = both sides. "spine" is shared out.
TEMPLATES: dict[str, tuple[Key, ...]] = {
    "stand": (
        {"arm": (0, 0, -72, 0), "elbow": (12,)},
        {"arm": (8, 0, -64, 20), "elbow": (30,), "hip": (0, 6, 6)},
    ),
    "relaxed": (
        {"arm_l": (0, 0, -70, 0), "elbow_l": (15,), "arm_r": (10, 0, -45, 80), "elbow_r": (95,),
         "hip_l": (-8, 0, 4), "knee_l": (14,), "spine": (0, 0, 6)},
        {"arm": (12, 0, -48, 80), "elbow": (95,), "hip": (0, 8, 8)},
    ),
    "walk": (
        {"hip_l": (-28, 0, 0), "knee_l": (8,), "hip_r": (18, 0, 0), "knee_r": (28,),
         "arm_l": (24, 0, -72, 0), "elbow_l": (18,), "arm_r": (-24, 0, -72, 0), "elbow_r": (28,)},
        {"hip_l": (-8, 0, 0), "knee_l": (50,), "hip_r": (2, 0, 0), "knee_r": (6,),
         "arm": (0, 0, -72, 0), "elbow": (22,)},
    ),
    "run": (
        {"hip_l": (-62, 0, 0), "knee_l": (75,), "hip_r": (18, 0, 0), "knee_r": (45,),
         "arm_l": (40, 0, -66, 0), "elbow_l": (95,), "arm_r": (-38, 0, -66, 0), "elbow_r": (90,),
         "spine": (12, 0, 0)},
        {"hip_l": (-25, 0, 0), "knee_l": (100,), "hip_r": (-12, 0, 0), "knee_r": (25,),
         "arm": (5, 0, -66, 0), "elbow": (90,), "spine": (10, 0, 0)},
    ),
    "sit": (
        {"hip": (-84, 0, 8), "knee": (84,), "arm": (-22, 0, -70, 10), "elbow": (50,),
         "spine": (6, 0, 0)},
        {"hip_l": (-88, 10, 4), "knee_l": (95,), "hip_r": (-80, 20, 14), "knee_r": (60,),
         "arm": (-12, 0, -66, 40), "elbow": (75,), "spine": (-6, 0, 0)},
    ),
    "floor": (
        {"hip": (-92, 0, 14), "knee": (20,), "arm": (30, 0, -62, 0), "elbow": (8,),
         "spine": (-8, 0, 0)},
        {"hip": (-105, 10, 22), "knee": (95,), "arm": (-48, 0, -66, 20), "elbow": (35,),
         "spine": (18, 0, 0)},
    ),
    "squat": (
        {"hip": (-100, 0, 14), "knee": (112,), "ankle": (-22,), "arm": (-68, 0, -68, 0),
         "elbow": (18,), "spine": (22, 0, 0)},
        {"hip": (-62, 0, 10), "knee": (72,), "ankle": (-12,), "arm": (-40, 0, -66, 30),
         "elbow": (70,), "spine": (16, 0, 0)},
    ),
    "lunge": (
        {"hip_l": (-74, 0, 4), "knee_l": (84,), "hip_r": (14, 0, 4), "knee_r": (36,),
         "arm": (6, 0, -56, 70), "elbow": (85,)},
        {"hip_l": (-50, 0, 6), "knee_l": (60,), "hip_r": (22, 0, 4), "knee_r": (18,),
         "arm": (-30, 0, -10, 0), "elbow": (10,)},
    ),
    "kneel": (
        {"hip_l": (-82, 0, 6), "knee_l": (90,), "hip_r": (4, 0, 4), "knee_r": (92,),
         "arm": (-20, 0, -68, 10), "elbow": (45,)},
        {"hip": (-10, 0, 8), "knee": (100,), "arm": (-8, 0, -66, 10), "elbow": (35,)},
    ),
    "bend": (
        {"hip": (-52, 0, 4), "knee": (14,), "spine": (52, 0, 0), "arm": (-58, 0, -72, 0),
         "elbow": (12,)},
        {"hip": (-30, 0, 6), "knee": (24,), "spine": (36, 0, 0), "arm": (-38, 0, -66, 30),
         "elbow": (62,)},
    ),
    "reach_up": (
        {"arm": (-10, 0, 62, 0), "elbow": (14,), "spine": (-8, 0, 0)},
        {"arm_l": (-14, 0, 70, 0), "elbow_l": (10,), "arm_r": (0, 0, -66, 0), "elbow_r": (20,),
         "spine": (0, 0, -12)},
    ),
    "reach_front": (
        {"arm": (-84, 0, -66, 0), "elbow": (12,), "spine": (6, 0, 0)},
        {"arm_l": (-72, 0, -60, 0), "elbow_l": (8,), "arm_r": (10, 0, -66, 0), "elbow_r": (35,),
         "spine": (10, -16, 0), "hip_l": (-20, 0, 0)},
    ),
    "wave": (
        {"arm_l": (0, 0, 4, -84), "elbow_l": (92,), "arm_r": (0, 0, -70, 0), "elbow_r": (14,)},
        {"arm_l": (-16, 0, 38, -70), "elbow_l": (52,), "arm_r": (8, 0, -46, 80),
         "elbow_r": (92,)},
    ),
    "crossed": (
        {"arm": (-30, 0, -66, 68), "elbow": (108,)},
        {"arm": (-20, 0, -70, 58), "elbow": (92,), "hip": (0, 4, 6)},
    ),
    "phone": (
        {"arm_l": (-28, 0, -52, -30), "elbow_l": (138,), "arm_r": (0, 0, -70, 0),
         "elbow_r": (18,), "neck": (4, 0, 6)},
        {"arm": (-34, 0, -68, 18), "elbow": (108,), "neck": (24, 0, 0)},
    ),
    "star": (
        {"arm": (0, 0, 12, 0), "elbow": (8,), "hip": (0, 0, 22)},
        {"arm": (0, 0, -24, 0), "elbow": (16,), "hip": (0, 0, 10)},
    ),
    "kick": (
        {"hip_l": (-78, 0, 6), "knee_l": (18,), "knee_r": (10,), "arm_l": (18, 0, -34, 0),
         "elbow_l": (38,), "arm_r": (-52, 0, -46, 0), "elbow_r": (30,), "spine": (-6, 10, 0)},
        {"hip_l": (-34, 0, 44), "knee_l": (26,), "knee_r": (12,), "arm": (-20, 0, -40, 40),
         "elbow": (88,), "spine": (0, 0, -10)},
    ),
    "throw": (
        {"arm_l": (10, 20, 12, -80), "elbow_l": (94,), "arm_r": (-62, 0, -50, 0),
         "elbow_r": (20,), "spine": (-4, 22, 0), "hip_r": (-26, 0, 4), "knee_r": (20,)},
        {"arm_l": (-70, 0, -10, -20), "elbow_l": (30,), "arm_r": (20, 0, -60, 0),
         "elbow_r": (50,), "spine": (16, -22, 0), "hip_r": (-32, 0, 4), "knee_r": (36,)},
    ),
    "carry": (
        {"arm": (-16, 0, -74, 12), "elbow": (84,)},
        {"arm": (-44, 0, -70, 30), "elbow": (62,), "spine": (-6, 0, 0)},
    ),
    "jump": (
        {"hip": (-34, 0, 8), "knee": (62,), "arm": (-10, 0, 44, 0), "elbow": (24,),
         "ankle": (24,)},
        {"hip_l": (-56, 0, 8), "knee_l": (82,), "hip_r": (10, 0, 8), "knee_r": (44,),
         "arm": (-30, 0, 10, -30), "elbow": (52,), "ankle": (24,)},
    ),
}  # fmt: skip
TEMPLATE_NAMES = tuple(TEMPLATES)
COMMON_WEIGHT = {"stand": 3.0, "relaxed": 2.5, "walk": 3.0, "sit": 2.0, "carry": 1.5, "phone": 1.5}

# Limits in degrees (low, high) of x, y, z for left joints; others are symmetric.
LIMITS: dict[str, tuple[tuple[float, float], ...]] = {
    "hip": ((-125, 35), (-40, 45), (-25, 60)),
    "knee": ((0, 145), (-8, 8), (-6, 6)),
    "ankle": ((-30, 45), (-15, 15), (-20, 20)),
    "foot": ((-25, 25), (-5, 5), (-5, 5)),
    "spine1": ((-15, 35), (-18, 18), (-15, 15)),
    "spine2": ((-12, 30), (-18, 18), (-15, 15)),
    "spine3": ((-10, 25), (-15, 15), (-12, 12)),
    "neck": ((-25, 35), (-40, 40), (-22, 22)),
    "head": ((-20, 25), (-35, 35), (-18, 18)),
    "collar": ((-10, 10), (-15, 15), (-12, 25)),
    "shoulder": ((-130, 60), (-60, 40), (-88, 85)),
    "elbow": ((-8, 8), (-150, 2), (-8, 8)),
    "wrist": ((-50, 50), (-35, 35), (-60, 60)),
}
TWIST_LIMIT = (-100.0, 95.0)
# Standard deviation (degrees) of the independent noise of x, y, z.
NOISE: dict[str, Angles] = {
    "hip": (10, 8, 7), "knee": (11, 2, 2), "ankle": (8, 5, 5), "foot": (6, 1, 1),
    "spine1": (5, 4, 4), "spine2": (4, 4, 3), "spine3": (4, 4, 3), "neck": (7, 12, 6),
    "head": (6, 10, 5), "collar": (3, 4, 5), "shoulder": (13, 10, 12), "elbow": (2, 15, 2),
    "wrist": (12, 9, 14),
}  # fmt: skip
TWIST_NOISE = 16.0
FACTORS = 10
FACTOR_SCALE = 0.7  # of the independent noise


@dataclass(frozen=True)
class Poses:
    """A batch of body poses: axis-angle rotations (batch, 22, 3) and the template of each."""

    rotvec: Float[Tensor, "batch 22 3"]
    template: Int[Tensor, " batch"]


def sample_poses(
    count: int, *, rng: np.random.Generator, templates: Sequence[str] | None = None
) -> Poses:
    """Draw poses: template, point between its two keys, side, noise, limits.

    The root joint is left at identity: where the body faces is decided with the camera. Of given
    `templates` each is as probable as the others.
    """
    weights = np.array([COMMON_WEIGHT.get(name, 1.0) for name in TEMPLATE_NAMES])
    if templates is not None:
        if unknown := sorted(set(templates) - set(TEMPLATE_NAMES)):
            raise ValueError(f"no pose templates {unknown}; there are {', '.join(TEMPLATE_NAMES)}")
        weights = np.array([float(name in templates) for name in TEMPLATE_NAMES])
    template = rng.choice(len(TEMPLATE_NAMES), count, p=weights / weights.sum())
    keys = _key_table()[template]  # (count, 2, 22, 4)
    along = rng.beta(0.8, 0.8, (count, 1, 1))
    degrees = keys[:, 0] + along * (keys[:, 1] - keys[:, 0])
    degrees = degrees + _noise(count, rng)
    low, high = _limit_table()
    degrees = np.clip(degrees, low, high)
    degrees = np.where(rng.random((count, 1, 1)) < 0.5, mirror(degrees), degrees)
    degrees[:, 0] = 0
    return Poses(euler_to_rotvec(degrees), torch.from_numpy(template))


def euler_to_rotvec(degrees: np.ndarray) -> Float[Tensor, "*batch 22 3"]:
    """Turn (…, 22, 4) angles x, y, z, twist into axis-angle vectors."""
    radians = torch.from_numpy(np.deg2rad(degrees)).double()
    eye = torch.eye(3, dtype=torch.float64)
    x, y, z, twist = (
        rotvec_to_matrix(radians[..., i, None] * eye[axis]) for i, axis in enumerate((0, 1, 2, 0))
    )
    return matrix_to_rotvec(x @ y @ z @ twist).float()


def mirror(degrees: np.ndarray) -> np.ndarray:
    """Swap left and right: reflect every rotation in the plane x = 0."""
    return degrees[..., list(BODY22.mirrored), :] * np.array([1.0, -1.0, -1.0, 1.0])


def _noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Independent noise plus noise of ten factors shared by all joints, in degrees."""
    twist = {name: TWIST_NOISE for name in BODY22.names if name.endswith("shoulder")}
    rows = [(*_of(NOISE, name, (0.0, 0.0, 0.0)), twist.get(name, 0.0)) for name in BODY22.names]
    scale = np.array(rows)
    loadings = np.random.default_rng(1).normal(size=(FACTORS, *scale.shape)) / np.sqrt(FACTORS)
    shared = np.tensordot(rng.normal(size=(count, FACTORS)), loadings, 1) * FACTOR_SCALE
    return (rng.normal(size=(count, *scale.shape)) + shared) * scale


def _of(table: Mapping, name: str, default: tuple) -> tuple:
    return table.get(name.removeprefix("left_").removeprefix("right_"), default)


def _limit_table() -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits (22, 4) in degrees, those of right joints mirrored."""
    bounds = np.zeros((2, len(BODY22), 4))
    for j, name in enumerate(BODY22.names):
        low, high = np.array(_of(LIMITS, name, ((0.0, 0.0),) * 3)).T
        if name.startswith("right_"):
            turn = np.array([1.0, -1.0, -1.0])
            low, high = np.minimum(turn * low, turn * high), np.maximum(turn * low, turn * high)
        bounds[:, j, :3] = low, high
        if name.endswith("shoulder"):
            bounds[:, j, 3] = TWIST_LIMIT
    return bounds[0], bounds[1]


def _key_table() -> np.ndarray:
    """All key poses as (templates, 2, 22, 4) degrees."""
    return np.array([[_key_to_degrees(key) for key in keys] for keys in TEMPLATES.values()])


def _key_to_degrees(key: Key) -> np.ndarray:
    degrees = np.zeros((len(BODY22), 4))
    for name, share in (("spine1", 0.4), ("spine2", 0.3), ("spine3", 0.3)):
        degrees[BODY22.index(name), :3] = share * np.array(key.get("spine", (0, 0, 0)))
    degrees[BODY22.index("neck"), :3] = key.get("neck", (0, 0, 0))
    for side, sign in (("left", 1.0), ("right", -1.0)):
        limb = {
            part: key.get(f"{part}_{side[0]}", key.get(part, ()))
            for part in ("arm", "elbow", "hip", "knee", "ankle")
        }
        swing, horizontal, up, twist = limb["arm"] or (0, 0, -70, 0)
        hip = limb["hip"] or (0.0, 0.0, 3.0)
        degrees[BODY22.index(f"{side}_shoulder")] = (swing, sign * horizontal, sign * up, twist)
        degrees[BODY22.index(f"{side}_elbow"), 1] = -sign * (limb["elbow"] or (10.0,))[0]
        degrees[BODY22.index(f"{side}_hip"), :3] = (hip[0], sign * hip[1], sign * hip[2])
        degrees[BODY22.index(f"{side}_knee"), 0] = (limb["knee"] or (4.0,))[0]
        degrees[BODY22.index(f"{side}_ankle"), 0] = (limb["ankle"] or (0.0,))[0]
    return degrees
