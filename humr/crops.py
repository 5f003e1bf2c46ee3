r"""Square crops of photographs for the official network, and how training varies them.

A box is (centre x, centre y, side $b$) in pixels of the photograph. Crops have whole-pixel
windows and are resampled as OpenCV does it in the official code: by areas when they shrink, by
bilinear interpolation when they grow.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from humr.licensed import LICENSED, data_set, image_path, shown
from humr.photos import RgbImage, load_image

SIZE = 224  # px of the network's input
EVALUATION_SIZE = 256  # px in which 2D errors and mask distances are measured
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB
DEVIATION = (0.229, 0.224, 0.225)

JITTER = 0.25  # standard deviation and limit of the box's relative size
HALF = 0.2  # probability of a crop of half the size
LEAST_SHARE = 1e-3  # px; OpenCV ignores smaller shares of a pixel
LEAST_OVERLAP = 10.0  # px of the photograph that a varied box must reach


def photograph(
    name: str, image: str, *, size: Float[Tensor, "2"] | None = None, root: Path = LICENSED
) -> RgbImage:
    """Read a photograph of a data set, upright, of the expected size.

    Args:
        name: of the data set.
        image: as in `Annotations.image`.
        size: width and height by the annotations, which counts where photographs differ, 3DPW.
        root: where the files lie.
    """
    described, path = data_set(name), image_path(name, image, root=root)
    pixels = load_image(path)
    pixels = np.rot90(pixels, -1) if described.rotated else pixels
    expected, got = described.image_size, pixels.shape[1::-1]
    if expected is None and size is not None:
        expected = tuple(size.int().tolist())
    if expected not in (None, got):
        raise ValueError(
            f"{shown(path)}: this photograph of {name} must have {expected} px (width, height), "
            f"upright; got {got}. Usual cause: another version of the data set, or photographs "
            "that somebody turned or made smaller"
        )
    return pixels


def window(box: Float[Tensor, "3"]) -> tuple[int, int, int, int]:
    """Return the corners x0, y0, x1, y1 of a box, truncated to whole pixels (official code)."""
    x, y, side = box.double().tolist()
    corners = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    x0, y0, x1, y1 = (int(corner) for corner in corners)
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box must be a pixel wide or more; got a side of {side:g} px")
    return x0, y0, x1, y1


def cut(
    image: np.ndarray, box: Float[Tensor, "3"], *, size: int = SIZE, outside: float = 0.0
) -> np.ndarray:
    """Resample a box of an image (height, width) or (height, width, channels) to float32.

    Args:
        image: numbers or truth values.
        box: what to cut.
        size: side of the result.
        outside: value beyond the image.
    """
    x0, y0, x1, y1 = window(box)
    part = np.full((y1 - y0, x1 - x0, *image.shape[2:]), outside, np.float32)
    left, right = np.clip([x0, x1], 0, image.shape[1])
    top, bottom = np.clip([y0, y1], 0, image.shape[0])
    part[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    columns = np.tensordot(part, _weights(x1 - x0, size), (1, 1))  # (rows, [channels,] size)
    rows = np.tensordot(_weights(y1 - y0, size), columns, (1, 0))
    return np.moveaxis(rows, -1, 1)


def _weights(length: int, size: int) -> np.ndarray:
    """Weights (size, length) of pixels: shares of area when shrinking, bilinear when growing."""
    step = length / size
    pixel = np.arange(length)
    edge = np.arange(size)[:, None] * step
    if length >= size:
        overlap = np.minimum(edge + step, pixel + 1) - np.maximum(edge, pixel)
        overlap[overlap < LEAST_SHARE] = 0
        return (overlap / step).astype(np.float32)
    position = (edge + 0.5 * step - 0.5).clip(0, length - 1)
    return (1 - abs(position - pixel)).clip(0).astype(np.float32)


def crop(
    image: np.ndarray, box: Float[Tensor, "3"], *, size: int = SIZE
) -> Float[Tensor, "3 {size} {size}"]:
    """Cut a box of a photograph (RGB, uint8) and standardise it with ImageNet's statistics."""
    pixels = cut(image, box, size=size) / 255
    standard = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(np.ascontiguousarray(standard.transpose(2, 0, 1)))


def to_crop(
    points: Float[Tensor, "*batch points 2"], box: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 2"]:
    r"""Express pixels of the photograph in a box: $u = 2(p - c)/b$, in [-1, 1] inside."""
    return 2 * (points - box[..., None, :2]) / box[..., None, 2:]


def quantised(
    points: Float[Tensor, "*batch points 2"], size: int = SIZE
) -> Float[Tensor, "*batch points 2"]:
    r"""Move crop coordinates to whole pixels as the official code does.

    $u \mapsto 2(\operatorname{trunc}(q) + 1)/s - 1$ with $q = (u + 1)s/2$: up to a pixel to the
    right and down, up to two for points left of or above the crop. It treats the condition and
    the true COCO joints so, but not the heatmap samples.
    """
    pixels = ((points.double() + 1) * (size / 2)).trunc() + 1
    return (2 * pixels / size - 1).to(points.dtype)


def varied(
    box: Float[Tensor, "3"], image_size: Float[Tensor, "2"], *, rng: np.random.Generator
) -> Float[Tensor, "3"]:
    r"""Draw another box for training: of another size, and sometimes only half of the person.

    The side is multiplied by $1 + 0.25\,n$, $n \sim N(0, 1)$, cut to 0.75..1.25. With probability
    0.2 the box is first halved: its middle in x, anywhere in y. A box that then reaches less than
    10 px into the photograph is replaced by the original one. No mirroring, no rotation.
    """
    factor = float(np.clip(1 + JITTER * rng.normal(), 1 - JITTER, 1 + JITTER))
    chance, place = rng.uniform(size=2)
    drawn = _half(box, place) if chance < HALF else box.clone()
    drawn[2] *= factor
    x0, y0, x1, y1 = window(drawn)
    width, height = image_size.tolist()
    reaches = x0 + LEAST_OVERLAP <= width and y0 + LEAST_OVERLAP <= height
    reaches = reaches and x1 >= LEAST_OVERLAP and y1 >= LEAST_OVERLAP
    return drawn if reaches else box.clone()


def _half(box: Float[Tensor, "3"], place: float) -> Float[Tensor, "3"]:
    """Half of a box in whole pixels; `place` from 0, its top, to 1, its bottom."""
    side = int(box[2])
    half = side // 2
    left, top = (int(centre - side / 2) for centre in box[:2].tolist())
    x, y = left + int((side - half) / 2), top + int((side - half) * place)
    return box.new_tensor([x + half / 2, y + half / 2, half])
