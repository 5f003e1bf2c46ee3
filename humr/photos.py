"""Photographs as arrays: read them, check them and their boxes, cut square windows out of them.

Pixels are continuous: the image covers [0, W] x [0, H], the middle of the first pixel is 0.5.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from humr.cameras import Crop
from humr.licensed import shown

SMALLEST_IMAGE = 32  # px, shorter side
SMALLEST_BOX = 8.0  # px, longer side

RgbImage = UInt8[np.ndarray, "height width 3"]
Box = tuple[float, float, float, float]


def load_image(path: str | Path) -> RgbImage:
    """Read a photograph as RGB, turned upright by its EXIF entry, transparency on white."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {shown(path)}")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(white, image)
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{shown(path)} is not a readable image: {error}. Usual cause: a partial download, or "
            "another kind of file; get it again, or save it as PNG or JPEG"
        ) from error
    try:
        return check_image(pixels)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def check_image(image: Any) -> RgbImage:  # noqa: ANN401
    """Return `image` if it is RGB, uint8 and large enough; say what is wrong otherwise."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        got = getattr(image, "shape", type(image).__name__)
        raise ValueError(f"image must be an array (height, width, 3) in RGB; got {got}")
    if image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 with values 0..255; got {image.dtype}")
    if min(image.shape[:2]) < SMALLEST_IMAGE:
        raise ValueError(
            f"image must be at least {SMALLEST_IMAGE} px on each side; got "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    return image


def check_box(box: Any, image: RgbImage) -> Box:  # noqa: ANN401
    """Return the box (x0, y0, x1, y1) as floats if it is a usable part of the image."""
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = float("nan")
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise ValueError(f"box must be four finite numbers x0, y0, x1, y1 in pixels; got {box!r}")
    height, width = image.shape[:2]
    if x1 <= x0 or y1 <= y0 or max(x1 - x0, y1 - y0) < SMALLEST_BOX:
        raise ValueError(
            f"box must have x0 < x1, y0 < y1 and a side of {SMALLEST_BOX:g} px or more; got {box} "
            "(x, y, width, height instead of corners?)"
        )
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"box {box} lies outside the image of {width} x {height} px")
    return x0, y0, x1, y1


def square(box: Box, *, margin: float) -> Crop:
    """Return the upright square window around a box, `margin` times its longer side."""
    x0, y0, x1, y1 = box
    return window_at((x0 + x1) / 2, (y0 + y1) / 2, margin * max(x1 - x0, y1 - y0))


def window_at(x: float, y: float, side: float, roll: float = 0.0) -> Crop:
    """Return one square window (centre and side in pixels, roll in radians)."""
    return Crop(torch.tensor([x, y]), torch.tensor(side), torch.tensor(roll))


def cut(image: RgbImage, crop: Crop, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resample the window `crop` of an image to `size` px: bilinear, black outside.

    When the window shrinks more than twofold, whole blocks of pixels are averaged first.
    """
    (x, y), side, roll = crop.centre.tolist(), float(crop.side), float(crop.roll)
    step = side / size
    cosine, sine = step * np.cos(roll), step * np.sin(roll)
    reach = size / 2 * (abs(cosine) + abs(sine)) + step + 1  # half the upright box around it
    x0, x1 = (int(np.clip(v, 0, image.shape[1])) for v in (x - reach, x + reach + 1))
    y0, y1 = (int(np.clip(v, 0, image.shape[0])) for v in (y - reach, y + reach + 1))
    if x0 >= x1 or y0 >= y1:
        return np.zeros((size, size, 3), np.uint8)
    part = Image.fromarray(image[y0:y1, x0:x1])
    block = max(1, int(step))
    part = part.reduce(block) if block > 1 else part
    left = x - x0 - size / 2 * (cosine - sine)
    top = y - y0 - size / 2 * (sine + cosine)
    matrix = np.array([cosine, -sine, left, sine, cosine, top]) / block
    affine = Image.Transform.AFFINE
    return np.asarray(
        part.transform((size, size), affine, matrix.tolist(), Image.Resampling.BILINEAR)
    )
