r"""The 2D detector on a photograph or a render: person, keypoints, heatmaps, mask, features.

Two networks of BlazePose (Bazarevsky et al. 2020, Apache-2.0; see `humr.files`) run on
`ai-edge-litert`: one finds people in an image, the other looks at a square window around one of
them. Pixels are continuous: the image covers $[0, W] \times [0, H]$, the middle of the first pixel
is 0.5.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import grid_sample

from humr import files, heatmaps
from humr.files import shown
from humr.geometry import Crop
from humr.heatmaps import GRID
from humr.skeletons import COCO17_FROM_BLAZEPOSE

RgbImage = UInt8[np.ndarray, "height width 3"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1

SMALLEST_IMAGE = 32  # px, shorter side
SMALLEST_BOX = 8.0  # px, longer side
INPUT_PERSON, INPUT_POSE = 224, 256  # px
INNER = ((1, 2, 2, 288), (1, 8, 8, 864))  # shapes of inner layers that serve as features
MARGIN = 1.25  # window = 1.25 boxes or body circles, as in the detector's own graph
WIDE = 1.6  # boxes, where the first looks are unsure
SEARCH = 1.8  # boxes, the window in which the person network looks for the person in a box
SURE = 0.7  # score from which one look is enough; about what clear people have
MOST_PEOPLE = 6  # are looked at to find the largest
# 90 % quantiles of the peaks of visible joints on renders, in COCO order.
USUAL_PEAK = (
    0.95, 0.97, 0.97, 0.93, 0.93, 0.87, 0.87, 0.90, 0.90, 0.91, 0.91, 0.82, 0.82, 0.86, 0.86,
    0.88, 0.88,
)  # fmt: skip


class PersonNotFoundError(ValueError):
    """No person in the image (or none that the detector can see)."""


@dataclass(frozen=True)
class Person:
    """Somebody in the image."""

    box: Box  # upright square around the circle of the whole body, inside the image or not
    window: Crop  # square, `MARGIN` times the circle and turned with the body
    score: float  # probability
    head: Box


@dataclass(frozen=True)
class Detection:
    """What the detector says about one person; heatmaps, mask and features live in `crop`."""

    crop: Crop  # the window that was chosen (it may be turned)
    box: Float[Tensor, "4"]  # the given box, or the bounds of the mask
    keypoints_image: Float[Tensor, "17 2"]  # COCO, pixels of the image
    # Peak over the usual peak of a visible joint, at most 1. Below 0.7 a joint counts as
    # uncertain, below 0.5 as invisible.
    confidence: Float[Tensor, "17"]
    peak: Float[Tensor, "17"]  # highest value of each heatmap
    heatmaps: Float[Tensor, "17 64 64"]  # sigmoid values, not normalised
    mask_probability: Float[Tensor, "256 256"]  # of the person, on the pixels of the window
    features: Float[Tensor, "1152"]  # last layer of the pose network, all positions
    features_mid: Float[Tensor, "864"]  # middle layer, mean over positions
    flag: float  # probability that there is a person in the window
    world_landmarks: Float[
        Tensor, "33 3"
    ]  # the detector's own guess: metres about the hips, y down
    # Everybody found, largest first; with the box of the visible part, except around a given box.
    people: tuple[Person, ...] = ()

    @property
    def score(self) -> float:
        """Quality of the window: flag times mean peak; decides between windows."""
        return self.flag * float(self.peak.mean())

    @property
    def mask(self) -> Bool[Tensor, "256 256"]:
        """Where the person is, on the pixels of the window."""
        return self.mask_probability > 0.5

    @property
    def probabilities(self) -> Float[Tensor, "17 64 64"]:
        """Heatmaps as calibrated probabilities."""
        return heatmaps.calibrate(self.heatmaps)

    def sample_cells(self, n: int, *, generator: torch.Generator) -> Int[Tensor, "{n} 17"]:
        """Draw flat cell indices from the calibrated heatmaps (they fit into uint16)."""
        return heatmaps.sample_cells(self.probabilities, n, generator=generator).mT

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "{n} 17 2"]:
        """Draw 2D positions from the calibrated heatmaps, in pixels of the image."""
        cells = self.sample_cells(n, generator=generator)
        points = GRID.cells_to_crop(cells, generator=generator)
        return self.crop.to_image(points.flatten(0, 1)).unflatten(0, (n, 17))

    def mask_in(
        self, crop: Crop, *, resolution: int = 112
    ) -> Bool[Tensor, "{resolution} {resolution}"]:
        """Return the mask on the pixels of another window; nobody outside the detector's own."""
        ticks = (torch.arange(resolution) + 0.5) * (2 / resolution) - 1
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        points = crop.to_image(torch.stack([x, y], -1).flatten(0, 1))
        points = self.crop.to_crop(points).reshape(1, resolution, resolution, 2)
        looked_up = grid_sample(self.mask_probability[None, None], points, align_corners=False)
        return looked_up[0, 0] > 0.5


class Detector:
    """Both networks, ready to run; make it with `Detector.load()`, one per process."""

    def __init__(self, person_network: "Network", pose_network: "Network") -> None:
        self.person_network, self.pose_network = person_network, pose_network

    @classmethod
    def load(cls, *, folder: Path = files.DETECTOR_FOLDER, threads: int = 1) -> "Detector":
        """Load the networks from the checked files (`humr.files.fetch_detector` brings them)."""
        person = Network(files.detector_file("pose_detection", folder=folder), threads=threads)
        pose = Network(
            files.detector_file("pose_landmark", folder=folder), threads=threads, inner=True
        )
        return cls(person, pose)

    def find_people(self, image: np.ndarray, *, window: Crop | None = None) -> list[Person]:
        """Find everybody in the image or in an upright window of it, largest first."""
        check_image(image)
        return _distinct(self._people_in(image, [window] if window else whole(image)))

    def _people_in(self, image: RgbImage, windows: Sequence[Crop]) -> list[Person]:
        found: list[Person] = []
        for window in windows:
            pixels = resample_window(image, window, INPUT_PERSON)
            outputs = self.person_network(pixels / np.float32(127.5) - 1)
            found += decode_people(outputs[(2254, 12)], outputs[(2254, 1)][:, 0], window)
        return found

    def detect(self, image: np.ndarray, box: Any = None) -> Detection:  # noqa: ANN401
        """Detect one person: the one in the box, else the largest that is found.

        A look at the upright window around the box is enough if it is sure (score of `SURE`).
        Else two more windows compete: one aligned with the body, for turned people, and a wide
        one, for people who are cut off and reach beyond their box. Without a box the mask of a
        first look gives one, and the first look competes as well.
        """
        check_image(image)
        if box is None:
            return self._detect_largest(image)
        box = check_box(box, image)
        best, people = self.look(image, square(box, margin=MARGIN)), []
        if best.score < SURE:
            people = self.find_people(image, window=square(box, margin=SEARCH))
            aligned = [person.window for person in people if _inside(person.window.centre, box)]
            other = self._best_look(image, [square(box, margin=WIDE), *aligned[:1]])
            best = max(best, other, key=lambda d: d.score)
        return replace(best, box=torch.tensor(box), people=tuple(people))

    def _detect_largest(self, image: RgbImage) -> Detection:
        found = self._people_in(image, whole(image))
        people = _distinct(found)
        if not people:
            raise PersonNotFoundError(
                "found no person in the image; people who are small or far from upright are "
                "missed: give box=(x0, y0, x1, y1) in pixels"
            )
        firsts = [self._first_look(image, person, found) for person in people[:MOST_PEOPLE]]
        largest = max(firsts, key=lambda d: _area(d.box.tolist()))
        box = tuple(largest.box.tolist())
        best = max(largest, self.detect(image, box), key=lambda d: d.score)
        people = [
            replace(person, box=tuple(first.box.tolist()))
            for person, first in zip(people, firsts, strict=False)
        ]
        people.sort(key=lambda p: -_area(p.box))
        return replace(best, box=largest.box, people=tuple(people))

    def _first_look(self, image: RgbImage, person: Person, found: list[Person]) -> Detection:
        """Look at all windows of one person; the box becomes that of the mask."""
        same = [other for other in found if len(suppress_doubles([person, other])) == 1]
        windows = [w for p in same for w in (square(p.box, margin=MARGIN), p.window)]
        best = self._best_look(image, windows)
        box = bounds(best, image) or check_box(person.box, image)
        return replace(best, box=torch.tensor(box))

    def _best_look(self, image: RgbImage, windows: list[Crop]) -> Detection:
        return max((self.look(image, window) for window in windows), key=lambda d: d.score)

    def look(self, image: RgbImage, window: Crop) -> Detection:
        """Run the pose network on one window, whatever it shows."""
        outputs = self.pose_network(resample_window(image, window, INPUT_POSE) / np.float32(255))
        logits = torch.from_numpy(outputs[(64, 64, 39)]).permute(2, 0, 1)
        maps = logits[list(COCO17_FROM_BLAZEPOSE)].sigmoid()
        cells, peak = heatmaps.decode(maps)
        world = torch.from_numpy(outputs[(117,)]).reshape(39, 3)[:33]
        turn = Crop(torch.zeros(2), torch.tensor(2.0), window.roll)
        return Detection(
            crop=window,
            box=torch.tensor(around(window)),
            keypoints_image=window.to_image(GRID.to_crop(cells)),
            confidence=(peak / torch.tensor(USUAL_PEAK)).clamp_max(1),
            peak=peak,
            heatmaps=maps,
            mask_probability=torch.from_numpy(outputs[(256, 256, 1)][..., 0]).sigmoid(),
            features=torch.from_numpy(outputs[(2, 2, 288)]).flatten(),
            features_mid=torch.from_numpy(outputs[(8, 8, 864)]).mean((0, 1)),
            flag=float(outputs[(1,)][0]),
            world_landmarks=torch.cat([turn.to_image(world[:, :2]), world[:, 2:]], -1),
        )


def _area(box: Sequence[float]) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def _distinct(found: list[Person]) -> list[Person]:
    """Everybody once, largest first."""
    return sorted(suppress_doubles(found), key=lambda p: -float(p.window.side))


def _inside(point: Float[Tensor, "2"], box: Box) -> bool:
    x, y = point.tolist()
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def bounds(detection: Detection, image: RgbImage) -> Box | None:
    """Return the upright box of the mask within the image; None if there is no mask.

    Thin specks do not count, nor what is far from the keypoints: masks may hold two people.
    """
    probability = detection.mask_probability
    solid = -torch.nn.functional.max_pool2d(-probability[None], 3, 1, 1)[0] > 0.5
    rows, columns = solid.nonzero(as_tuple=True)
    points = (torch.stack([columns, rows], -1) + 0.5) * (2 / len(probability)) - 1
    points = detection.crop.to_image(points)
    low, high = _reach(detection)
    points = points[((points > low) & (points < high)).all(-1)]
    if len(points) == 0:
        return None
    spread = float(detection.crop.side) / len(probability) * 1.5  # what the pooling took away
    limit = torch.tensor([image.shape[1], image.shape[0]])
    low, high = (points.amin(0) - spread).clamp_min(0), (points.amax(0) + spread).minimum(limit)
    x0, y0, x1, y1 = torch.cat([low, high]).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _reach(detection: Detection) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Corners of the box of the keypoints that may be visible, with a quarter around it."""
    seen = detection.confidence >= 0.5
    if not seen.any():
        return torch.full((2,), -torch.inf), torch.full((2,), torch.inf)
    points = detection.keypoints_image[seen]
    low, high = points.amin(0), points.amax(0)
    margin = 0.25 * (high - low).max()
    return low - margin, high + margin


# ------------------------------------------------------------------------ people

# For each of 2254 anchors the person network gives a score, the box of a head and points of a
# circle around the whole body, from which the window of the pose network follows.


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
    values = raw[order, :8].astype(float) / INPUT_PERSON
    for axis, corner in enumerate(around(window)[:2]):
        points = [axis, 4 + axis, 6 + axis]
        values[:, points] += anchors()[order, axis : axis + 1]
        values[:, points] = corner + float(window.side) * values[:, points]
    values[:, 2:4] *= float(window.side)
    people = [_person(v, float(p)) for v, p in zip(values, score[order], strict=True)]
    return suppress_doubles(people)


def _person(values: Float[np.ndarray, "8"], score: float) -> Person:
    """Build a person from the head box (middle, size) and points in pixels of the image."""
    middle_x, middle_y, width, height, x, y, tip_x, tip_y = values.tolist()
    radius = float(np.hypot(tip_x - x, tip_y - y))
    roll = float(np.arctan2(tip_x - x, y - tip_y))
    left, top = middle_x - width / 2, middle_y - height / 2
    head = (left, top, middle_x + width / 2, middle_y + height / 2)
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
    return width * height / max(_area(a) + _area(b) - width * height, 1e-12)


# ------------------------------------------------------------------------ photographs


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


def resample_window(
    image: RgbImage, crop: Crop, size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
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


# ------------------------------------------------------------------------ networks


class Network:
    """One TensorFlow Lite network: an image in, outputs by shape (without the batch axis).

    With `inner` the inner layers can be read as well; where several have one shape, the last
    counts, which makes (2, 2, 288) the common input of the pose heads.
    """

    def __init__(self, path: Path, *, threads: int, inner: bool = False) -> None:
        with _quiet():
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter: Any = Interpreter(
                str(path), num_threads=threads, experimental_preserve_all_tensors=inner
            )
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = self._interpreter.get_output_details()
        tensors = self._interpreter.get_tensor_details() if inner else []
        heads = min(t["index"] for t in outputs if len(t["shape"]) == 2) if inner else 0
        last = {  # constants come after the heads and must not count
            tuple(t["shape"]): t["index"]
            for t in sorted(tensors, key=lambda t: t["index"])
            if t["index"] < heads
        }
        self._outputs = {shape[1:]: last[shape] for shape in INNER if shape in last}
        self._outputs |= {tuple(int(n) for n in t["shape"][1:]): t["index"] for t in outputs}

    def __call__(
        self, pixels: Float[np.ndarray, "size size 3"]
    ) -> dict[tuple[int, ...], np.ndarray]:
        """Run the network on one image."""
        self._interpreter.set_tensor(self._input, pixels[None])
        self._interpreter.invoke()
        return {s: self._interpreter.get_tensor(i)[0] for s, i in self._outputs.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runtime's notices (delegate created, inner tensors kept) off standard error."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
