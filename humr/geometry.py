r"""Cameras, crops, rotations, and alignment by similarity.

Pixel coordinates are continuous: an image of width $W$ covers $[0, W]$, the centre of column $i$
is $i + 0.5$. Cameras are pinholes and follow OpenCV: x right, y down, z forward. HuMR's network
predicts a weak-perspective camera of the crop, which is made a full one (CLIFF).

The 6D representation of a rotation $R$ is its first two **rows**, row after row (Zhou et al. 2019
in the layout of HuMR's official weights); ProHMR uses columns, so its numbers do not fit here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

Points2D = Float[Tensor, "*batch points 2"]
Scalars = Float[Tensor, "*batch"]
Vectors2 = Float[Tensor, "*batch 2"]
Vectors3 = Float[Tensor, "*batch 3"]
Matrices = Float[Tensor, "*batch 3 3"]

# ------------------------------------------------------------------------ cameras and crops


def project(
    points: Float[Tensor, "*batch points 3"],
    focal: Float[Tensor, "*#batch"],
    centre: Float[Tensor, "*#batch 2"],
) -> Points2D:
    r"""Project points in camera space to pixels: $f\,(x/z, y/z) + c$.

    Depth is clamped at 1 cm, so that a point behind the camera gives a far, finite pixel and a
    finite gradient instead of a mirrored one.
    """
    depth = points[..., 2:].clamp_min(0.01)
    return focal[..., None, None] * points[..., :2] / depth + centre[..., None, :]


def default_focal(image_size: Vectors2) -> Scalars:
    r"""Focal length for an uncalibrated photograph, $\sqrt{W^2 + H^2}$ px (CLIFF, section 3.2)."""
    return image_size.square().sum(-1).sqrt()


def box_info(centre: Vectors2, side: Scalars, focal: Scalars, image_size: Vectors2) -> Vectors3:
    r"""Where the box lies in the full image: $[(c_x - W/2)/f, (c_y - H/2)/f, b/f]$ (CLIFF)."""
    return torch.cat([centre - image_size / 2, side[..., None]], -1) / focal[..., None]


def weak_to_translation(
    weak: Vectors3, centre: Vectors2, side: Scalars, focal: Scalars, image_size: Vectors2
) -> Vectors3:
    r"""Turn a weak-perspective camera of the crop into a translation in front of the full camera.

    $t = [t_x + 2(c_x - W/2)/(s b),\; t_y + 2(c_y - H/2)/(s b),\; 2f/(s b)]$ with
    weak $= (s, t_x, t_y)$, box centre $c$ and side $b$ (CLIFF Eq. 3; HuMR, supplement).
    """
    scale = weak[..., 0].clamp_min(1e-3) * side
    offset = 2 * (centre - image_size / 2) / scale[..., None]
    return torch.cat([weak[..., 1:] + offset, (2 * focal / scale)[..., None]], -1)


def translation_to_weak(
    translation: Vectors3, centre: Vectors2, side: Scalars, focal: Scalars, image_size: Vectors2
) -> Vectors3:
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

    centre: Vectors2
    side: Scalars
    roll: Scalars

    @classmethod
    def upright(cls, centre: Vectors2, side: Scalars) -> "Crop":
        """Return a window that is not turned."""
        return cls(centre, side, torch.zeros_like(side))

    def to_crop(self, points: Points2D) -> Points2D:
        """Map pixels of the full image to crop coordinates."""
        relative = (points - self.centre[..., None, :]) * (2 / self.side[..., None, None])
        return _turn(relative, -self.roll)

    def to_image(self, points: Points2D) -> Points2D:
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


def pixel_centres(
    resolution: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "rows columns 2"]:
    """Crop coordinates of the middle of every pixel of a square image."""
    ticks = (torch.arange(resolution, device=device) + 0.5) / resolution * 2 - 1
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)


def _turn(points: Points2D, angle: Scalars) -> Points2D:
    cosine, sine = angle.cos()[..., None], angle.sin()[..., None]
    x, y = points.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


# ------------------------------------------------------------------------ rotations


def rotvec_to_matrix(rotvec: Vectors3) -> Matrices:
    r"""Return $\exp([v]_\times) = I + a\,[v]_\times + b\,[v]_\times^2$ (Rodrigues).

    $a = \sin\theta/\theta$ and $b = (1 - \cos\theta)/\theta^2$ turn into their Taylor series
    below 0.01 rad, so value and gradient are right at zero.
    """
    squared = rotvec.square().sum(-1)[..., None, None]
    small = squared < 1e-4
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - squared / 6 + squared.square() / 120, angle.sin() / angle)
    b = torch.where(small, 0.5 - squared / 24 + squared.square() / 720, (1 - angle.cos()) / safe)
    cross = skew(rotvec)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return eye + a * cross + b * cross @ cross


def skew(vector: Vectors3) -> Matrices:
    r"""Return $[v]_\times$, the matrix with $[v]_\times w = v \times w$."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Matrices) -> Float[Tensor, "*batch 4"]:
    """Return the unit quaternion (w, x, y, z) with w >= 0 (Shepperd's method: best pivot)."""
    m00, m11, m22 = matrix.diagonal(dim1=-2, dim2=-1).unbind(-1)
    m = matrix
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m[..., 2, 1] - m[..., 1, 2],
                         m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1),
            torch.stack([m[..., 2, 1] - m[..., 1, 2], 1 + m00 - m11 - m22,
                         m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0]], -1),
            torch.stack([m[..., 0, 2] - m[..., 2, 0], m[..., 0, 1] + m[..., 1, 0],
                         1 - m00 + m11 - m22, m[..., 1, 2] + m[..., 2, 1]], -1),
            torch.stack([m[..., 1, 0] - m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0],
                         m[..., 1, 2] + m[..., 2, 1], 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )  # fmt: skip
    pivot = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    best = torch.take_along_dim(candidates, pivot[..., None, None], -2).squeeze(-2)
    best = normalize(best, dim=-1)
    return torch.where(best[..., :1] < 0, -best, best)


def matrix_to_rotvec(matrix: Matrices) -> Vectors3:
    """Return the axis-angle vector, with an angle in [0, pi]."""
    quaternion = matrix_to_quaternion(matrix)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = vector.norm(dim=-1, keepdim=True)
    half_angle = torch.atan2(sine, w)
    small = sine < 1e-6
    scale = torch.where(small, 2 / w.clamp_min(0.5), 2 * half_angle / sine.clamp_min(1e-6))
    return scale * vector


def matrix_to_sixd(matrix: Matrices) -> Float[Tensor, "*batch 6"]:
    """Return the first two rows of the matrix, row after row."""
    return matrix[..., :2, :].flatten(-2)


def sixd_to_matrix(sixd: Float[Tensor, "*batch 6"]) -> Matrices:
    """Orthonormalise two rows by Gram-Schmidt and complete them with their cross product.

    Any finite input gives a rotation. Rows that are too short, too long or within 1e-3 radians of
    parallel for that in single precision are rescued, and get no gradient.
    """
    rows = sixd.unflatten(-1, (2, 3))
    size = rows.detach().abs().amax(-1, keepdim=True)
    usual = (size > 1e-4) & (size < 1e15)
    scaled = rows.detach() / size.clamp_min(torch.finfo(sixd.dtype).tiny)
    first, second = torch.where(usual, rows, scaled).unbind(-2)
    axes = torch.eye(3, dtype=sixd.dtype, device=sixd.device)
    row1 = normalize(torch.where(size[..., 0, :] > 0, first, axes[0]), dim=-1)
    rest = second - (row1 * second).sum(-1, keepdim=True) * row1
    sine = (rest.norm(dim=-1, keepdim=True) / second.norm(dim=-1, keepdim=True)).detach()
    other = torch.where(sine > 1e-6, normalize(rest, dim=-1), axes[row1.abs().argmin(-1)]).detach()
    again = other - (row1 * other).sum(-1, keepdim=True) * row1
    row2 = normalize(torch.where(sine > 1e-3, rest, again), dim=-1)
    return torch.stack([row1, row2, torch.linalg.cross(row1, row2)], -2)


def geodesic_distance(a: Matrices, b: Matrices) -> Scalars:
    r"""Return the angle of $A^\top B$ in radians, exact for small and for large angles.

    With $C = A^\top B$: $\operatorname{atan2}(\|\operatorname{vee}(C - C^\top)\| / 2,
    (\operatorname{tr} C - 1) / 2)$.
    """
    c = a.mT @ b
    vee = torch.stack(
        [c[..., 2, 1] - c[..., 1, 2], c[..., 0, 2] - c[..., 2, 0], c[..., 1, 0] - c[..., 0, 1]], -1
    )
    cosine = (c.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(vee.norm(dim=-1) / 2, cosine)


# ------------------------------------------------------------------------ alignment


def similarity_align(
    source: Float[Tensor, "*batch points 3"], target: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    r"""Move `source` onto `target` by the best similarity (Procrustes, Umeyama 1991).

    Minimises $\sum_i \|s R x_i + t - y_i\|^2$ over $s \ge 0$, $\det R = 1$, $t$. Works in float64
    inside; a source whose points coincide is moved to the mean of the target.
    """
    x, y = source.double(), target.double()
    mean_x, mean_y = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    x0, y0 = x - mean_x, y - mean_y
    u, singular, vt = torch.linalg.svd(x0.mT @ y0)
    sign = torch.linalg.det(u @ vt).sign()
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    rotation = (u * flip[..., None, :]) @ vt  # acts on row vectors: x0 @ rotation
    variance = x0.square().sum((-2, -1))
    scale = (singular * flip).sum(-1) / variance.clamp_min(1e-30)
    aligned = scale[..., None, None] * x0 @ rotation + mean_y
    return aligned.to(source.dtype)
