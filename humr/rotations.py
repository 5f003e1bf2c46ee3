r"""Rotations: axis-angle vectors, matrices, the 6D representation, and similarity alignment.

The 6D representation of $R$ is its first two **rows**, row after row (Zhou et al. 2019 in the
layout of HuMR's official weights); ProHMR uses columns, so its numbers do not fit here.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def rotvec_to_matrix(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
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


def skew(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    r"""Return $[v]_\times$, the matrix with $[v]_\times w = v \times w$."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
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


def matrix_to_rotvec(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Return the axis-angle vector, with an angle in [0, pi]."""
    quaternion = matrix_to_quaternion(matrix)
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = vector.norm(dim=-1, keepdim=True)
    half_angle = torch.atan2(sine, w)
    small = sine < 1e-6
    scale = torch.where(small, 2 / w.clamp_min(0.5), 2 * half_angle / sine.clamp_min(1e-6))
    return scale * vector


def matrix_to_sixd(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """Return the first two rows of the matrix, row after row."""
    return matrix[..., :2, :].flatten(-2)


def sixd_to_matrix(sixd: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Orthonormalise two rows by Gram-Schmidt and complete them with their cross product."""
    first, second = sixd[..., :3], sixd[..., 3:]
    row1 = normalize(first, dim=-1)
    row2 = normalize(second - (row1 * second).sum(-1, keepdim=True) * row1, dim=-1)
    return torch.stack([row1, row2, torch.linalg.cross(row1, row2)], -2)


def geodesic_distance(
    a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
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
