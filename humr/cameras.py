r"""Pinhole cameras, square crops, and the camera of HuMR (weak perspective made full).

Pixel coordinates are continuous: an image of width $W$ covers $[0, W]$, the centre of column $i$
is $i + 0.5$. Cameras follow OpenCV: x right, y down, z forward.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def project(
    points: Float[Tensor, "*batch points 3"],
    focal: Float[Tensor, "*#batch"],
    centre: Float[Tensor, "*#batch 2"],
) -> Float[Tensor, "*batch points 2"]:
    r"""Project points in camera space to pixels: $f\,(x/z, y/z) + c$.

    Depth is clamped at 1 cm, so that a point behind the camera gives a far, finite pixel and a
    finite gradient instead of a mirrored one.
    """
    depth = points[..., 2:].clamp_min(0.01)
    return focal[..., None, None] * points[..., :2] / depth + centre[..., None, :]


def default_focal(image_size: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    r"""Focal length for an uncalibrated photograph, $\sqrt{W^2 + H^2}$ px (CLIFF, section 3.2)."""
    return image_size.square().sum(-1).sqrt()


def box_info(
    centre: Float[Tensor, "*batch 2"],
    side: Float[Tensor, "*batch"],
    focal: Float[Tensor, "*batch"],
    image_size: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    r"""Where the box lies in the full image: $[(c_x - W/2)/f, (c_y - H/2)/f, b/f]$ (CLIFF)."""
    return torch.cat([centre - image_size / 2, side[..., None]], -1) / focal[..., None]


def weak_to_translation(
    weak: Float[Tensor, "*batch 3"],
    centre: Float[Tensor, "*batch 2"],
    side: Float[Tensor, "*batch"],
    focal: Float[Tensor, "*batch"],
    image_size: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    r"""Turn a weak-perspective camera of the crop into a translation in front of the full camera.

    $t = [t_x + 2(c_x - W/2)/(s b),\; t_y + 2(c_y - H/2)/(s b),\; 2f/(s b)]$ with
    weak $= (s, t_x, t_y)$, box centre $c$ and side $b$ (CLIFF Eq. 3; HuMR, supplement).
    """
    scale = weak[..., 0].clamp_min(1e-3) * side
    offset = 2 * (centre - image_size / 2) / scale[..., None]
    return torch.cat([weak[..., 1:] + offset, (2 * focal / scale)[..., None]], -1)


def translation_to_weak(
    translation: Float[Tensor, "*batch 3"],
    centre: Float[Tensor, "*batch 2"],
    side: Float[Tensor, "*batch"],
    focal: Float[Tensor, "*batch"],
    image_size: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    """Invert `weak_to_translation` (translations in front of the camera)."""
    scale = 2 * focal / (side * translation[..., 2])
    offset = 2 * (centre - image_size / 2) / (scale * side)[..., None]
    return torch.cat([scale[..., None], translation[..., :2] - offset], -1)


@dataclass(frozen=True)
class Crop:
    r"""A square window of an image, perhaps turned: $p = c + \tfrac{b}{2} R(\varphi)\,u$.

    $u \in [-1, 1]^2$ are crop coordinates (x right, y down), $p$ pixels of the full image,
    $R(\varphi)$ with rows $(\cos\varphi, -\sin\varphi)$ and $(\sin\varphi, \cos\varphi)$.
    """

    centre: Float[Tensor, "*batch 2"]
    side: Float[Tensor, "*batch"]
    roll: Float[Tensor, "*batch"]

    @classmethod
    def upright(cls, centre: Float[Tensor, "*batch 2"], side: Float[Tensor, "*batch"]) -> "Crop":
        """Return a window that is not turned."""
        return cls(centre, side, torch.zeros_like(side))

    def to_crop(
        self, points: Float[Tensor, "*batch points 2"]
    ) -> Float[Tensor, "*batch points 2"]:
        """Map pixels of the full image to crop coordinates."""
        relative = (points - self.centre[..., None, :]) * (2 / self.side[..., None, None])
        return _turn(relative, -self.roll)

    def to_image(
        self, points: Float[Tensor, "*batch points 2"]
    ) -> Float[Tensor, "*batch points 2"]:
        """Map crop coordinates to pixels of the full image."""
        scaled = points * (self.side[..., None, None] / 2)
        return _turn(scaled, self.roll) + self.centre[..., None, :]

    def relative_to(self, other: "Crop") -> Float[Tensor, "*batch 5"]:
        """Describe this window in another's frame: centre, log side ratio, cosine, sine of turn.

        Features live in the frame of the detector's window; a network that reads them needs to
        know how that window lies in the box.
        """
        centre = other.to_crop(self.centre[..., None, :])[..., 0, :]
        turn = self.roll - other.roll
        scale = (self.side / other.side).log()
        return torch.cat([centre, torch.stack([scale, turn.cos(), turn.sin()], -1)], -1)


def _turn(
    points: Float[Tensor, "*batch points 2"], angle: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch points 2"]:
    cosine, sine = angle.cos()[..., None], angle.sin()[..., None]
    x, y = points.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
