r"""Frames of one person with SMPL's parameters in the camera's frame, from original data sets.

3DPW and EMDB store bodies in a world frame, $x_w = B(\theta) + t$, where the body $B$ turns about
its rest pelvis $p$, and cameras $x_c = R\,x_w + T$. In the camera's frame the root rotation is
$R\,R_\text{root}$ and the translation $R(t + p) + T - p$.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.geometry import matrix_to_rotvec, rotvec_to_matrix

JOINTS = 24
BETAS = 10


@dataclass(frozen=True)
class SmplFrames:
    """One person in some frames of one sequence; only frames that count."""

    sequence: str
    gender: str  # "male", "female" or "neutral"
    image: tuple[str, ...]  # below the data set's image folder
    frame: Int[Tensor, " frames"]  # number in the sequence
    rotvec: Float[Tensor, "frames 24 3"]  # axis-angle, the root in the camera's frame
    betas: Float[Tensor, "10"]
    translation_world: Float[Tensor, "frames 3"]  # metres
    camera: Float[Tensor, "frames 4 4"]  # from world to camera
    intrinsics: Float[Tensor, "3 3"]
    keypoints: Float[Tensor, "frames points 3"]  # x, y in pixels, and confidence
    box: Float[Tensor, "frames 3"]  # centre x, y, side in pixels; NaN where nobody gave one

    def __len__(self) -> int:
        return len(self.frame)

    def translation(self, pelvis: Float[Tensor, "3"]) -> Float[Tensor, "frames 3"]:
        """Translation in the camera's frame, metres, given the rest pelvis of this body."""
        rotation, shift = self.camera[:, :3, :3], self.camera[:, :3, 3]
        moved = rotation @ (self.translation_world + pelvis)[..., None]
        return moved[..., 0] + shift - pelvis


def into_camera(
    rotvec: Float[Tensor, "frames 24 3"], camera: Float[Tensor, "frames 4 4"]
) -> Float[Tensor, "frames 24 3"]:
    """Turn the root of poses in the world's frame by the camera's rotation."""
    turned = camera[:, :3, :3] @ rotvec_to_matrix(rotvec[:, 0])
    return torch.cat([matrix_to_rotvec(turned)[:, None], rotvec[:, 1:]], 1)


def around(
    points: Float[Tensor, "frames points 2"],
    seen: Bool[Tensor, "frames points"],
    margin: float,
) -> Float[Tensor, "frames 3"]:
    """Square boxes around the seen points, `margin` times their longer extent; else NaN."""
    infinite = torch.full_like(points, torch.inf)
    low = torch.where(seen[..., None], points, infinite).amin(1)
    high = torch.where(seen[..., None], points, -infinite).amax(1)
    return squares(torch.cat([low, high], -1), margin)


def squares(corners: Float[Tensor, "frames 4"], margin: float) -> Float[Tensor, "frames 3"]:
    """Square boxes (centre, side) around x0, y0, x1, y1; NaN where a box is empty."""
    low, high = corners[:, :2], corners[:, 2:]
    side = margin * (high - low).amax(-1, keepdim=True)
    boxes = torch.cat([(low + high) / 2, side], -1)
    empty = ~boxes.isfinite().all(-1) | (side[:, 0] <= 0)
    return torch.where(empty[:, None], torch.nan, boxes)


def tensor(
    values: object,
    shape: tuple[int | None, ...],
    what: str,
    file: str,
    rows: Bool[Tensor, " rows"] | None = None,
) -> Tensor:
    """Return numbers as a double tensor, if they have the shape (None: any) and are finite.

    With `rows` only these are returned and must be finite: frames that do not count may hold NaN.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(())
    fits = array.ndim == len(shape) and all(
        n in (None, got) for n, got in zip(shape, array.shape, strict=True)
    )
    chosen = array if rows is None or not fits else array[rows.numpy()]
    if not fits or not np.isfinite(chosen).all():
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        got = array.shape if not fits else "values that are not finite"
        raise ValueError(
            f"{file}: {what} must be numbers of shape ({wanted}); got {got}. Usual cause: a file "
            "of another version, or one that was converted for another project"
        )
    return torch.from_numpy(chosen)
