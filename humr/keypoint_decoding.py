r"""From ViTPose's heatmaps to places in the photograph: UDP's alignment, DARK's decoding.

The network sees the middle of a square crop: 256 x 256 px of the box (centre $c$, side $b$), less
32 px left and right. Its 48 x 64 cells are counted (column, row), whole numbers at their middles.

**Alignment.** Huang et al. (2020), *The Devil is in the Details*: lengths are counted between the
middles of the outermost pixels, not in numbers of pixels. So cell $u$ lies at pixel
$u\,(W - 1)/(w - 1)$ of the image, and the outermost cells lie on the border of the window:
$p = c + s\,(u/(w - 1) - 1/2)$ with the window's size $s$, $(\tfrac34 b, b)$. The crop itself is
cut by areas of pixels, as in the official code; between the two conventions lie at most half a
pixel of the crop, at its border.

**Decoding.** Zhang et al. (2020), *Distribution-Aware Coordinate Representation for Human Pose
Estimation*: smooth the heatmap $h$ with the Gaussian of its training, then one Newton step from
the highest cell $m$ on $P = \log h$, $\mu = m - \mathcal{D}''(m)^{-1} \mathcal{D}'(m)$, with
differences of neighbours for derivatives. It is exact where $h$ is a Gaussian.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CROP = 256  # px of the square crop
MARGIN = 32  # px that are cut off left and right
COLUMNS, ROWS = 48, 64
SHARE = (CROP - 2 * MARGIN) / CROP  # of the box's width that the network sees
KERNEL = 11  # cells
LOWEST, HIGHEST = 1e-3, 50.0  # of smoothed heatmaps, before the logarithm
FARTHEST = KERNEL // 2  # cells of a Newton step


def middle(
    crops: Float[Tensor, "*batch 3 256 256"],
) -> Float[Tensor, "*batch 3 256 192"]:
    """Cut the part that the network sees out of square crops."""
    return crops[..., MARGIN:-MARGIN]


def to_photograph(
    cells: Float[Tensor, "*batch points 2"], box: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map cells (column, row) to pixels of the photograph, given boxes (x, y, side)."""
    unit = cells / cells.new_tensor([COLUMNS - 1, ROWS - 1]) - 0.5
    return box[..., None, :2] + unit * _window(box)


def from_photograph(
    points: Float[Tensor, "*batch points 2"], box: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map pixels of the photograph to cells; inverts `to_photograph`."""
    unit = (points - box[..., None, :2]) / _window(box) + 0.5
    return unit * points.new_tensor([COLUMNS - 1, ROWS - 1])


def _window(box: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1 2"]:
    """Size of the part of boxes that the network sees."""
    return box[..., None, 2:] * box.new_tensor([SHARE, 1.0])


def to_crop(cells: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Map cells to pixels of the square crop, [0, 256]; the first pixel's middle is 0.5."""
    scale = cells.new_tensor([(CROP - 2 * MARGIN) / (COLUMNS - 1), CROP / (ROWS - 1)])
    return cells * scale + cells.new_tensor([MARGIN, 0])


def smooth(
    heatmaps: Float[Tensor, "*batch rows columns"], kernel: int = KERNEL
) -> Float[Tensor, "*batch rows columns"]:
    r"""Smooth with a Gaussian, $\sigma = 0.3\,((k - 1)/2 - 1) + 0.8$ (2 cells for 11).

    Beyond the border the heatmap is mirrored around its outermost cells.
    """
    if kernel < 1 or kernel % 2 == 0 or kernel // 2 >= min(heatmaps.shape[-2:]):
        raise ValueError(
            "kernel must be an odd number of cells, less than twice the heatmap's size; got "
            f"{kernel}"
        )
    radius = kernel // 2
    cells = torch.arange(-radius, radius + 1).to(heatmaps)
    sigma = 0.3 * (radius - 1) + 0.8
    weights = (-0.5 * (cells / sigma).square()).exp()
    weights = weights / weights.sum()
    maps = heatmaps.flatten(0, -3)[:, None]  # (maps, 1, rows, columns)
    maps = functional.pad(maps, (radius,) * 4, mode="reflect")
    maps = functional.conv2d(maps, weights[None, None, :, None])
    maps = functional.conv2d(maps, weights[None, None, None, :])
    return maps.view(heatmaps.shape)


def decode(
    heatmaps: Float[Tensor, "*batch rows columns"], kernel: int = KERNEL
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Return keypoints (cells: column, row) and the heights of the highest cells.

    The Newton step is left out where the smoothed heatmap is no hill around its highest cell
    (flat, a saddle), or where the step is longer than the kernel's radius.
    """
    peak, index = heatmaps.flatten(-2).max(-1)
    logs = smooth(heatmaps, kernel).clamp(LOWEST, HIGHEST).log()
    first, second = _derivatives(logs, index)
    step = _newton(first, second)
    hill = (second[..., 0] < 0) & (second[..., 0] * second[..., 2] > second[..., 1].square())
    good = hill & step.isfinite().all(-1) & (step.norm(dim=-1) <= FARTHEST)
    columns = heatmaps.shape[-1]
    top = torch.stack([index % columns, index.div(columns, rounding_mode="floor")], -1).to(step)
    return torch.where(good[..., None], top + step, top), peak


def _derivatives(
    logs: Float[Tensor, "*batch rows columns"], index: Tensor
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 3"]]:
    """First derivatives (x, y) and second ones (xx, xy, yy) at cells given by flat index.

    Beyond the border the outermost cells are repeated.
    """
    columns = logs.shape[-1]
    wide = functional.pad(logs.flatten(0, -3)[:, None], (1,) * 4, mode="replicate")
    wide = wide.view(*logs.shape[:-2], -1)
    width = columns + 2
    at = index + 2 * index.div(columns, rounding_mode="floor") + width + 1

    def value(x: int, y: int) -> Tensor:
        return wide.gather(-1, (at + x + y * width)[..., None])[..., 0]

    middle, right, left, below, above = (
        value(x, y) for x, y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    )
    first = torch.stack([right - left, below - above], -1) / 2
    mixed = value(1, 1) - right - below + 2 * middle - left - above + value(-1, -1)
    second = [right - 2 * middle + left, mixed / 2, below - 2 * middle + above]
    return first, torch.stack(second, -1)


def _newton(
    first: Float[Tensor, "*batch 2"], second: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 2"]:
    """Step from first and second derivatives; not finite where these are singular."""
    (x, y), (xx, xy, yy) = first.unbind(-1), second.unbind(-1)
    determinant = xx * yy - xy.square()
    return -torch.stack([yy * x - xy * y, xx * y - xy * x], -1) / determinant[..., None]
