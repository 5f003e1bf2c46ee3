"""The looks of the open world: clothes, backgrounds, occluders, sensor noise; all procedural."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from humr.skeletons import SMPLX55

Image = np.ndarray  # (height, width, 3) float32 in 0..1
Mask = np.ndarray  # (height, width) bool

_SHIRT = ("spine1", "spine2", "spine3", "left_collar", "right_collar", "left_shoulder",
          "right_shoulder")  # fmt: skip
_FOREARM = ("left_elbow", "right_elbow")
_TROUSERS = ("pelvis", "left_hip", "right_hip")
_SHIN, _SHOE = (
    ("left_knee", "right_knee"),
    ("left_ankle", "right_ankle", "left_foot", "right_foot"),
)


@dataclass(frozen=True)
class Wardrobe:
    """Where clothes lie on one body mesh: the joint that moves each vertex, and rest positions."""

    joint: np.ndarray  # (vertices,) index into SMPLX55
    position: np.ndarray  # (vertices, 3) rest position in metres

    @classmethod
    def of(cls, part: np.ndarray, template: np.ndarray) -> "Wardrobe":
        """Take the joint of every vertex and rest positions (vertices, 3); hands are wrists."""
        hand = part >= SMPLX55.index("left_index1")
        left = template[:, 0] > 0
        wrists = np.where(left, SMPLX55.index("left_wrist"), SMPLX55.index("right_wrist"))
        return cls(np.where(hand, wrists, part), template)

    def on(self, *names: str) -> np.ndarray:
        """Vertices (bool) that move with one of the joints."""
        return np.isin(self.joint, SMPLX55.indices(names))

    def dress(self, rng: np.random.Generator) -> np.ndarray:
        """Draw colours (vertices, 3): skin, hair, eyes, shirt, trousers or shorts, shoes."""
        colours = np.empty((len(self.joint), 3), np.float32)
        skin = np.array([0.95, 0.76, 0.62]) * rng.uniform(0.35, 1.05) * rng.uniform(0.95, 1.05, 3)
        colours[:] = skin
        shirt, trousers = self._cloth(rng), self._cloth(rng)
        self._put(colours, self.on(*_SHIRT), shirt)
        if rng.random() < 0.5:
            self._put(colours, self.on(*_FOREARM), shirt)
        self._put(colours, self.on(*_TROUSERS), trousers)
        if rng.random() < 0.75:
            self._put(colours, self.on(*_SHIN), trousers)
        colours[self.on(*_SHOE)] = rng.uniform(0.05, 0.9, 3) * rng.uniform(0.3, 1)
        colours[self._hair(rng)] = np.array([0.5, 0.36, 0.25]) * rng.uniform(0.1, 1.4)
        colours[self.on("left_eye", "right_eye")] = 0.12
        return np.clip(colours, 0, 1)

    def _put(self, colours: np.ndarray, where: np.ndarray, cloth: np.ndarray) -> None:
        colours[where] = cloth[where]

    def _cloth(self, rng: np.random.Generator) -> np.ndarray:
        """One colour, or two in stripes or checks of the rest position."""
        first, second = rng.uniform(0.03, 0.97, (2, 3))
        if rng.random() < 0.6:
            return np.broadcast_to(first, self.position.shape)
        wave = np.sin(self.position * rng.uniform(25, 90, 3) + rng.uniform(0, 6, 3))
        axes = rng.choice(3, rng.integers(1, 3), replace=False)
        pattern = wave[:, axes].prod(1, keepdims=True) > 0
        return np.where(pattern, first, second)

    def _hair(self, rng: np.random.Generator) -> np.ndarray:
        """Top and back of the head, sometimes down to the neck."""
        head = self.on("head")
        low, high = self.position[head].min(0), self.position[head].max(0)
        height = (self.position[:, 1] - low[1]) / (high[1] - low[1])
        front = (self.position[:, 2] - low[2]) / (high[2] - low[2])
        line = rng.uniform(0.62, 0.85)
        back = (front < rng.uniform(0.3, 0.5)) & (height > rng.uniform(-0.2, 0.6))
        return head & ((height > line) | back) if rng.random() < 0.93 else np.zeros_like(head)


def background_bank(count: int, size: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw backgrounds (count, size, size, 3) uint8: gradients, noise, rectangles, discs."""
    return np.stack([_background(size, rng) for _ in range(count)])


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    corners = rng.uniform(0, 1, (3, 3))
    image = corners[0] + x[..., None] * (corners[1] - corners[0])
    image = image + y[..., None] * (corners[2] - corners[0]) * 0.7
    for octave in (3, 6, 12, 24, 48):
        grid = rng.normal(size=(octave, octave, 3)).astype(np.float32) * rng.uniform(0, 0.22)
        grid = grid.mean(-1, keepdims=True) * 0.6 + grid * 0.4
        zoom = (size / octave, size / octave, 1)
        image = image + ndimage.zoom(grid, zoom, order=1)[:size, :size]
    if rng.random() < 0.4:  # a floor
        horizon = rng.uniform(0.45, 0.85)
        image[y > horizon] = image[y > horizon] * 0.4 + rng.uniform(0, 0.6, 3)
    for _ in range(rng.integers(0, 7)):
        shape = _shape(
            size, size, rng.uniform(0, 1, 2) * size, rng.uniform(0.08, 0.45) * size, rng
        )
        image[shape] = rng.uniform(0, 1, 3) + rng.uniform(0, 0.4) * (image[shape] - 0.5)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_background(bank: np.ndarray, size: int, *, rng: np.random.Generator) -> Image:
    """Cut a random, flipped, recoloured window of one bank image."""
    image = bank[rng.integers(len(bank))]
    row, column = rng.integers(0, image.shape[0] - size + 1, 2)
    window = image[row : row + size, column : column + size, rng.permutation(3)]
    window = window[:, :: rng.choice([-1, 1])].astype(np.float32) / 255
    return np.clip((window - 0.5) * rng.uniform(0.4, 1.2) + rng.uniform(0.3, 0.7), 0, 1)


def _shape(
    height: int, width: int, centre: np.ndarray, extent: float, rng: np.random.Generator
) -> Mask:
    """A turned rectangle or ellipse; `centre` is (x, y), `extent` its longer half axis times 2."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.35, 1)
    if rng.random() < 0.5:
        angle = rng.choice([0, np.pi / 2])
    u = (np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])) / (extent / 2)
    v = (np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])) / (extent / 2 * aspect)
    return (u * u + v * v < 1) if rng.random() < 0.4 else (np.maximum(abs(u), abs(v)) < 1)


def draw_occluders(
    size: int, low: np.ndarray, high: np.ndarray, *, rng: np.random.Generator
) -> tuple[Mask, Image]:
    """Draw one or two objects in front of the bounding box (low, high: x, y in window pixels).

    Returns where they are (size, size) and their colours (size, size, 3).
    """
    mask = np.zeros((size, size), bool)
    colour = np.zeros((size, size, 3), np.float32)
    extent = float(max(high - low))
    for _ in range(rng.choice([1, 2], p=[0.65, 0.35])):
        centre = low + rng.uniform(0.05, 0.95, 2) * (high - low)
        shape = _furniture(size, centre, extent, rng)
        texture = rng.uniform(0, 1, 3) + rng.uniform(0, 0.25) * _stripes(size, rng)
        colour[shape] = texture[shape]
        mask |= shape
    return mask, np.clip(colour, 0, 1)


def _furniture(size: int, centre: np.ndarray, extent: float, rng: np.random.Generator) -> Mask:
    """A box, a disc, or (one time in three) a table or wall that rises from below."""
    shape = _shape(size, size, centre, rng.uniform(0.2, 0.5) * extent, rng)
    if rng.random() < 0.33:
        y, x = np.mgrid[:size, :size]
        top = centre[1] + rng.uniform(0, 0.25) * extent
        half = rng.uniform(0.12, 0.6) * extent
        shape = (y > top) & (abs(x - centre[0]) < half)
    return shape


def _stripes(size: int, rng: np.random.Generator) -> Image:
    y, x = np.mgrid[:size, :size]
    wave = np.sin(x * rng.uniform(0, 0.4) + y * rng.uniform(0, 0.4) + rng.uniform(0, 6))
    return np.sign(wave)[..., None].astype(np.float32)


def photograph(image: Image, *, rng: np.random.Generator) -> np.ndarray:
    """Apply blur, gamma, gain and sensor noise; return uint8."""
    if rng.random() < 0.5:
        image = ndimage.gaussian_filter(image, (s := rng.uniform(0.2, 0.9), s, 0))
    image = np.clip(image, 0, 1) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.15)
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 0.035)
    return (np.clip(image + noise, 0, 1) * 255).astype(np.uint8)
