"""Changes of colours and sharpness for training: what the official code takes from albumentations.

The same kinds, ranges and odds, by other means (Pillow and NumPy), so pictures differ in detail.
Where a change differs by more than rounding and the order of drawing, its docstring says so.
All take and return RGB photographs (height, width, 3) of uint8.
"""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from skimage.exposure import equalize_adapthist

Photo = UInt8[np.ndarray, "height width 3"]
Change = Callable[[Photo, np.random.Generator], Photo]
PROBABILITY = 0.3  # of each of the two groups


def changed(image: Photo, *, rng: np.random.Generator, probability: float = PROBABILITY) -> Photo:
    """Apply one change of each group, `WEATHER` and `COLOURS`, each with the same probability."""
    for group in (WEATHER, COLOURS):
        weights = np.array(list(group.values()))
        chosen = rng.choice(len(group), p=weights / weights.sum())
        if rng.random() < probability:
            image = list(group)[chosen](image, rng)
    return image


def _bytes(values: np.ndarray) -> Photo:
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def downscale(image: Photo, rng: np.random.Generator) -> Photo:
    """Shrink by 0.5 to 0.9 and grow again, nearest neighbours."""
    photo, factor = Image.fromarray(image), rng.uniform(0.5, 0.9)
    small = (max(1, int(photo.width * factor)), max(1, int(photo.height * factor)))
    nearest = Image.Resampling.NEAREST
    return np.asarray(photo.resize(small, nearest).resize(photo.size, nearest))


def compress(image: Photo, rng: np.random.Generator) -> Photo:
    """Go through JPEG of quality 20 to 100."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(20, 101)))
    return np.asarray(Image.open(file))


def rain(image: Photo, rng: np.random.Generator) -> Photo:
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


def motion_blur(image: Photo, rng: np.random.Generator) -> Photo:
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


def blur(image: Photo, rng: np.random.Generator) -> Photo:
    """Average over squares of 3, 5, 7 or 9 px."""
    filtered = Image.fromarray(image).filter(ImageFilter.BoxBlur(int(rng.integers(1, 5))))
    return np.asarray(filtered)


def snow(image: Photo, rng: np.random.Generator) -> Photo:
    """Make dark parts 1.5 times lighter, in HLS, at the same hue and saturation."""
    values = image.astype(np.float32) / 255
    lightness = (values.max(-1, keepdims=True) + values.min(-1, keepdims=True)) / 2
    dark = lightness < rng.uniform(0.2, 0.4) / 2 + 1 / 3
    lighter = np.where(dark, 1.5 * lightness, lightness).clip(0, 1)
    # the largest chroma at a lightness; saturation is the chroma's share of it
    room, new_room = (np.maximum(1 - abs(2 * each - 1), 1e-6) for each in (lightness, lighter))
    return _bytes(255 * (lighter + (values - lightness) * new_room / room))


def local_contrast(image: Photo, rng: np.random.Generator) -> Photo:
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


def grey(image: Photo, rng: np.random.Generator) -> Photo:
    """Remove the colours."""
    return np.asarray(ImageOps.grayscale(Image.fromarray(image)).convert("RGB"))


def brightness_contrast(image: Photo, rng: np.random.Generator) -> Photo:
    """Multiply by 0.8 to 1.2 and add up to a fifth of the range, either way."""
    factor, shift = rng.uniform(-0.2, 0.2, 2)
    return _bytes((1 + factor) * image.astype(np.float32) + 255 * shift)


def noise(image: Photo, rng: np.random.Generator) -> Photo:
    """Multiply every value by 0.5 to 1.5."""
    return _bytes(image * rng.uniform(0.5, 1.5, image.shape).astype(np.float32))


def hue_saturation(image: Photo, rng: np.random.Generator) -> Photo:
    """Turn the hue by up to 40 degrees, shift saturation by up to 30 and value by 20 of 255."""
    turn, saturation, value = rng.uniform(-1, 1, 3) * (256 * 40 / 360, 30, 20)
    hsv = np.asarray(Image.fromarray(image).convert("HSV"), np.float32)
    hue = (hsv[..., :1] + turn) % 256
    shifted = np.concatenate([np.floor(hue), hsv[..., 1:] + (saturation, value)], -1)
    return np.asarray(Image.fromarray(_bytes(shifted), "HSV").convert("RGB"))


def posterize(image: Photo, rng: np.random.Generator) -> Photo:
    """Keep four bits."""
    return image & np.uint8(0xF0)


def gamma(image: Photo, rng: np.random.Generator) -> Photo:
    """Raise to a power of 0.8 to 2."""
    return _bytes(255 * (image / np.float32(255)) ** rng.uniform(0.8, 2))


def equalise(image: Photo, rng: np.random.Generator) -> Photo:
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
