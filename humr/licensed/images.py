"""Photographs, crops, masks of persons, and changes of colour for training.

A box is (centre x, centre y, side $b$) in pixels of the photograph. Crops have whole-pixel
windows and are resampled as OpenCV does it in the official code: by areas when they shrink, by
bilinear interpolation when they grow.
"""

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFilter, ImageOps, UnidentifiedImageError
from scipy.ndimage import binary_dilation
from skimage.exposure import equalize_adapthist
from torch import Tensor

from humr.detector import RgbImage, load_image
from humr.files import existing, shown
from humr.licensed.datasets import LICENSED, data_set, image_path

SIZE = 224  # px of the network's input
EVALUATION_SIZE = 256  # px in which 2D errors and mask distances are measured
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB
DEVIATION = (0.229, 0.224, 0.225)

JITTER = 0.25  # standard deviation and limit of the box's relative size
HALF = 0.2  # probability of a crop of half the size
LEAST_SHARE = 1e-3  # px; OpenCV ignores smaller shares of a pixel
LEAST_OVERLAP = 10.0  # px of the photograph that a varied box must reach

# What a person is in the grey values of masks; 76 is the red around the persons of AGORA.
PERSON = {"BEDLAM": lambda v: v < 127.5, "AGORA": lambda v: v != 76, "EMDB": lambda v: v > 0}
DILATIONS = 3  # by 3 x 3 px, in the crop of training

Change = Callable[[RgbImage, np.random.Generator], RgbImage]
PROBABILITY = 0.3  # of each of the two groups of changes

# ----------------------------------------------------------------------------- crops


def photograph(
    name: str, image: str, *, size: Float[Tensor, "2"] | None = None, root: Path = LICENSED
) -> RgbImage:
    """Read a photograph of a data set (`Annotations.image`), upright, of the expected size.

    `size`, width and height by the annotations, counts where photographs differ, in 3DPW.
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


def crop_bounds(box: Float[Tensor, "3"]) -> tuple[int, int, int, int]:
    """Return the corners x0, y0, x1, y1 of a box, truncated to whole pixels (official code)."""
    x, y, side = box.double().tolist()
    corners = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    x0, y0, x1, y1 = (int(corner) for corner in corners)
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box must be a pixel wide or more; got a side of {side:g} px")
    return x0, y0, x1, y1


def resample_window(
    image: np.ndarray, box: Float[Tensor, "3"], *, size: int = SIZE, outside: float = 0.0
) -> np.ndarray:
    """Resample a box of an image (height, width[, channels]) to a square of float32.

    `outside` is the value beyond the image, whose values are numbers or truth values.
    """
    x0, y0, x1, y1 = crop_bounds(box)
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
    pixels = resample_window(image, box, size=size) / 255
    standard = (pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(np.ascontiguousarray(standard.transpose(2, 0, 1)))


def box_coordinates(
    points: Float[Tensor, "*batch points 2"], box: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 2"]:
    r"""Express pixels of the photograph in a box: $u = 2(p - c)/b$, in [-1, 1] inside."""
    return 2 * (points - box[..., None, :2]) / box[..., None, 2:]


def quantised(
    points: Float[Tensor, "*batch points 2"], size: int = SIZE
) -> Float[Tensor, "*batch points 2"]:
    r"""Move box coordinates to whole pixels as the official code does.

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
    chance, place = rng.uniform(size=2)  # the place from 0, the box's top, to 1, its bottom
    drawn = box.clone()
    if chance < HALF:  # in whole pixels
        side = int(box[2])
        half = side // 2
        left, top = (int(centre - side / 2) for centre in box[:2].tolist())
        x, y = left + int((side - half) / 2), top + int((side - half) * place)
        drawn = box.new_tensor([x + half / 2, y + half / 2, half])
    drawn[2] *= factor
    x0, y0, x1, y1 = crop_bounds(drawn)
    width, height = image_size.tolist()
    reaches = x0 + LEAST_OVERLAP <= width and y0 + LEAST_OVERLAP <= height
    reaches = reaches and x1 >= LEAST_OVERLAP and y1 >= LEAST_OVERLAP
    return drawn if reaches else box.clone()


# ----------------------------------------------------------------------------- masks


def mask_path(name: str, image: str, *, root: Path = LICENSED) -> Path:
    """Return where the mask of a photograph lies (`Annotations.image`), there or not."""
    described, photo = data_set(name), PurePosixPath(image)
    match described.source:
        case "BEDLAM":
            folder = root / "env_masks" / described.scene
            if not folder.is_dir():
                folder = folder.with_name(described.scene_at_6fps)
            return folder / photo.parent.name / f"{photo.stem}_env.png"
        case "AGORA":
            return root / "env_masks" / "images" / f"{photo.stem}_all_person.png"
        case "EMDB":
            parts = ["masks" if part == "images" else part for part in photo.parent.parts]
            return (root / described.images / "masks").joinpath(*parts, f"{photo.stem}.png")
    raise ValueError(f"{name} has no masks; BEDLAM, AGORA and EMDB have")


def has_mask(name: str, image: str, *, root: Path = LICENSED) -> bool:
    """Say whether a photograph has a mask."""
    return data_set(name).source != "3DPW" and mask_path(name, image, root=root).is_file()


def read_mask(name: str, image: str, *, root: Path = LICENSED) -> Bool[np.ndarray, "height width"]:
    """Read the mask of a whole photograph: True where there is a person, upright.

    Masks of BEDLAM and AGORA are rendered, those of EMDB were found by Mask R-CNN.
    """
    described = data_set(name)
    path = existing(mask_path(name, image, root=root))
    try:
        with Image.open(path) as file:
            grey = np.asarray(file.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{shown(path)} is no readable image: {error}. Usual cause: a partial download"
        ) from error
    person = PERSON[described.source](grey)
    person = np.rot90(person, -1) if described.rotated else person
    if person.shape[::-1] != described.image_size:
        raise ValueError(
            f"{shown(path)} must have the {described.image_size} px (width, height) of its "
            f"photograph, upright; got {person.shape[::-1]}. Usual cause: masks of another "
            "resolution, or that somebody turned"
        )
    return person


def training_crop(
    mask: Bool[np.ndarray, "height width"], box: Float[Tensor, "3"], *, size: int = SIZE
) -> Bool[np.ndarray, "{size} {size}"]:
    """Return where a joint can be in the crop of a box, for the mask loss.

    Pixels of which persons cover more than half, three times dilated by 3 x 3 px. Everything
    beyond the photograph counts as possible: the official code pads with 0, which means person.
    """
    covered = resample_window(mask, box, size=size, outside=1.0) > 0.5
    return binary_dilation(covered, np.ones((3, 3), bool), iterations=DILATIONS)


def evaluation_crop(
    mask: Bool[np.ndarray, "height width"], box: Float[Tensor, "3"], *, size: int = EVALUATION_SIZE
) -> Bool[np.ndarray, "{size} {size}"]:
    """Return the person in the crop of a box, for PercIn and MinDist.

    Pixels that the person touches; nothing beyond the photograph (official code).
    """
    return resample_window(mask, box, size=size) > 0


# ----------------------------------------------------------------- changes of colour
# What the official code takes from albumentations: the same kinds, ranges and odds, by other
# means (Pillow and NumPy), so pictures differ in detail. Where a change differs by more than
# rounding and the order of drawing, its docstring says so.


def changed(
    image: RgbImage, *, rng: np.random.Generator, probability: float = PROBABILITY
) -> RgbImage:
    """Apply one change of each group, `WEATHER` and `COLOURS`, each with the same probability."""
    for group in (WEATHER, COLOURS):
        weights = np.array(list(group.values()))
        chosen = rng.choice(len(group), p=weights / weights.sum())
        if rng.random() < probability:
            image = list(group)[chosen](image, rng)
    return image


def _bytes(values: np.ndarray) -> RgbImage:
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def downscale(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Shrink by 0.5 to 0.9 and grow again, nearest neighbours."""
    photo, factor = Image.fromarray(image), rng.uniform(0.5, 0.9)
    small = (max(1, int(photo.width * factor)), max(1, int(photo.height * factor)))
    nearest = Image.Resampling.NEAREST
    return np.asarray(photo.resize(small, nearest).resize(photo.size, nearest))


def compress(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Go through JPEG of quality 20 to 100."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(20, 101)))
    return np.asarray(Image.open(file))


def rain(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Draw grey streaks, 20 px long and equally slanted, blur by 4 px, darken to 0.7.

    The blur is 3 px wide, since Pillow's boxes are odd.
    """
    photo = Image.fromarray(image)
    slant, draw = int(rng.integers(-10, 11)), ImageDraw.Draw(photo)
    count = photo.width * photo.height // 600
    starts = rng.uniform([0, 0], photo.size, (count, 2))
    for x, y in starts.tolist():
        draw.line((x, y, x + slant, y + 20), fill=(200, 200, 200))
    return _bytes(0.7 * np.asarray(photo.filter(ImageFilter.BoxBlur(1)), np.float32))


def motion_blur(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Average along a straight line between two random cells of a square of 3 to 15 px."""
    size = 2 * int(rng.integers(1, 8)) + 1
    first, last = rng.integers(0, size, (2, 2)) - size // 2
    steps = int(abs(last - first).max())
    cells = np.rint(np.linspace(first, last, steps + 1)).astype(int)
    reach = size // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect").astype(np.float32)
    height, width = image.shape[:2]
    shifted = [padded[reach + y :, reach + x :][:height, :width] for x, y in cells.tolist()]
    return _bytes(np.mean(shifted, 0))


def blur(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Average over squares of 3, 5, 7 or 9 px."""
    filtered = Image.fromarray(image).filter(ImageFilter.BoxBlur(int(rng.integers(1, 5))))
    return np.asarray(filtered)


def snow(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Make dark parts 1.5 times lighter, in HLS, at the same hue and saturation."""
    values = image.astype(np.float32) / 255
    lightness = (values.max(-1, keepdims=True) + values.min(-1, keepdims=True)) / 2
    dark = lightness < rng.uniform(0.2, 0.4) / 2 + 1 / 3
    lighter = np.where(dark, 1.5 * lightness, lightness).clip(0, 1)
    # the largest chroma at a lightness; saturation is the chroma's share of it
    room, new_room = (np.maximum(1 - abs(2 * each - 1), 1e-6) for each in (lightness, lighter))
    return _bytes(255 * (lighter + (values - lightness) * new_room / room))


def local_contrast(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Equalise the brightness locally (CLAHE), in 10 by 10 tiles, clipped at 1 to 11.

    The brightness is that of YCbCr here, of Lab there.
    """
    y, cb, cr = Image.fromarray(image).convert("YCbCr").split()
    tile = tuple(max(1, side // 10) for side in image.shape[:2])
    equal = equalize_adapthist(
        np.asarray(y), kernel_size=tile, clip_limit=rng.uniform(1, 11) / 256
    )
    bands = (Image.fromarray(np.rint(255 * equal).astype(np.uint8)), cb, cr)
    return np.asarray(Image.merge("YCbCr", bands).convert("RGB"))


def grey(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Remove the colours."""
    return np.asarray(ImageOps.grayscale(Image.fromarray(image)).convert("RGB"))


def brightness_contrast(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Multiply by 0.8 to 1.2 and add up to a fifth of the range, either way."""
    factor, shift = rng.uniform(-0.2, 0.2, 2)
    return _bytes((1 + factor) * image.astype(np.float32) + 255 * shift)


def noise(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Multiply every value by 0.5 to 1.5."""
    return _bytes(image * rng.uniform(0.5, 1.5, image.shape).astype(np.float32))


def hue_saturation(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Turn the hue by up to 40 degrees, shift saturation by up to 30 and value by 20 of 255."""
    turn, saturation, value = rng.uniform(-1, 1, 3) * (256 * 40 / 360, 30, 20)
    hsv = np.asarray(Image.fromarray(image).convert("HSV"), np.float32)
    hue = (hsv[..., :1] + turn) % 256
    shifted = np.concatenate([np.floor(hue), hsv[..., 1:] + (saturation, value)], -1)
    return np.asarray(Image.fromarray(_bytes(shifted), "HSV").convert("RGB"))


def posterize(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Keep four bits."""
    return image & np.uint8(0xF0)


def gamma(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Raise to a power of 0.8 to 2."""
    return _bytes(255 * (image / np.float32(255)) ** rng.uniform(0.8, 2))


def equalise(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Equalise the histogram of each channel."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


# Odds inside the groups: those of the official code; snow has albumentations' default of 0.5.
WEATHER: dict[Change, float] = {
    downscale: 0.1, compress: 0.1, rain: 0.1, motion_blur: 0.2, blur: 0.1, snow: 0.5,
}  # fmt: skip
COLOURS: dict[Change, float] = {
    local_contrast: 0.2, grey: 0.2, brightness_contrast: 0.2, noise: 0.2, hue_saturation: 0.2,
    posterize: 0.1, gamma: 0.1, equalise: 0.1,
}  # fmt: skip
