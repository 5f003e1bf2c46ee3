"""The people in an image: what the person network's numbers mean, without running it.

For each of 2254 anchors the network gives a score, the box of a head and points of a circle around
the whole body (Bazarevsky et al. 2020), from which the window of the pose network follows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from humr.cameras import Crop
from humr.photos import Box, RgbImage, window_at

INPUT_PERSON = 224  # px
MARGIN = 1.25  # window = 1.25 boxes or body circles, as in the detector's own graph


@dataclass(frozen=True)
class Person:
    """Somebody in the image.

    Attributes:
        box: Upright square around the circle of the whole body, also of parts outside the image.
        window: Square window, `MARGIN` times the circle and turned with the body.
        score: Probability.
        head: Upright box of the head.
    """

    box: Box
    window: Crop
    score: float
    head: Box


def whole(image: RgbImage) -> list[Crop]:
    """Return windows of the whole image, without and with a margin (it helps cut-off people)."""
    height, width = image.shape[:2]
    return [window_at(width / 2, height / 2, f * max(width, height)) for f in (1.0, 1.5)]


def around(window: Crop) -> Box:
    """Return the upright square of the window's centre and side."""
    (x, y), half = window.centre.tolist(), float(window.side) / 2
    return x - half, y - half, x + half, y + half


def anchors() -> Float[np.ndarray, "2254 2"]:
    """Centres of the person network's cells in [0, 1]: 28 x 28 x 2, 14 x 14 x 2, 7 x 7 x 6."""
    grids = []
    for size, repeats in ((28, 2), (14, 2), (7, 6)):
        ticks = (np.arange(size) + 0.5) / size
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        grids.append(np.stack([x, y], -1).reshape(-1, 2).repeat(repeats, 0))
    return np.concatenate(grids)


def decode_people(
    raw: Float[np.ndarray, "2254 12"],
    logits: Float[np.ndarray, " 2254"],
    window: Crop,
    *,
    threshold: float = 0.5,
) -> list[Person]:
    """Turn the outputs of the person network on an upright window into people, surest first.

    Columns of `raw`: head box (middle, size), then points, in units of 224 px and relative to the
    anchor; point 0 is the middle of the hips, point 1 lies on the circle around the body, upwards.
    """
    score = 1 / (1 + np.exp(-np.clip(logits.astype(float), -100, 100)))
    order = np.flatnonzero(score > threshold)
    values = raw[order].astype(float) / INPUT_PERSON
    values[:, [0, 4, 6]] += anchors()[order, :1]
    values[:, [1, 5, 7]] += anchors()[order, 1:]
    corner = np.array(around(window)[:2])
    values[:, :2] = corner + float(window.side) * values[:, :2]
    values[:, 2:4] *= float(window.side)
    values[:, 4:8] = np.tile(corner, 2) + float(window.side) * values[:, 4:8]
    people = [_person(v, float(p)) for v, p in zip(values, score[order], strict=True)]
    return suppress_doubles(people)


def _person(values: Float[np.ndarray, "12"], score: float) -> Person:
    """Build a person from the head box (middle, size) and points in pixels of the image."""
    middle_x, middle_y, width, height, x, y, tip_x, tip_y = values[:8].tolist()
    radius = float(np.hypot(tip_x - x, tip_y - y))
    roll = float(np.arctan2(tip_x - x, y - tip_y))
    head = (
        middle_x - width / 2,
        middle_y - height / 2,
        middle_x + width / 2,
        middle_y + height / 2,
    )
    box = (x - radius, y - radius, x + radius, y + radius)
    return Person(box, window_at(x, y, 2 * MARGIN * radius, roll), score, head)


def suppress_doubles(people: list[Person], *, overlap: float = 0.3) -> list[Person]:
    """Keep the surest of people whose heads overlap (intersection over union), surest first."""
    kept: list[Person] = []
    for person in sorted(people, key=lambda p: -p.score):
        if all(_overlap(person.head, other.head) < overlap for other in kept):
            kept.append(person)
    return kept


def _overlap(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-12)
