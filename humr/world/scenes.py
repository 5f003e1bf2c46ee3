"""Scenes of the open world: who stands where, in front of which camera, and what it looks like.

A scene is a person in a large virtual photograph. Only a window around the person is rendered
(1.25 boxes wide); everything is stored in pixels of the whole photograph. Clothes, backgrounds,
occluders and sensor noise are procedural.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import normalize

from humr.batches import BOX_SCALE, OBJECT_OCCLUDED, OUTSIDE, SELF_OCCLUDED, VISIBLE
from humr.bodies import rendering
from humr.bodies.body import Body
from humr.config import World
from humr.geometry import Crop, pixel_centres, project, rotvec_to_matrix
from humr.skeletons import COCO17, SMPLX55
from humr.storage import TensorRecord
from humr.world.poses import sample_poses

Image = np.ndarray  # (height, width, 3) float32 in 0..1
Mask = np.ndarray  # (height, width) bool

IMAGE_SIZES = ((1280, 720), (720, 1280), (1024, 1024), (960, 1280), (1280, 960))
WINDOW_SCALE = 1.25  # window side / box side
# How far (metres) a joint may lie behind the visible surface and still count as seen.
_DEPTH_MARGIN = {"nose": 0.04, "eye": 0.05, "ear": 0.08, "shoulder": 0.14, "hip": 0.21,
                 "elbow": 0.09, "wrist": 0.07, "knee": 0.11, "ankle": 0.09}  # fmt: skip
_FACING = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # body y-up, facing +z -> camera
_SHIRT = ("spine1", "spine2", "spine3", "left_collar", "right_collar", "left_shoulder",
          "right_shoulder")  # fmt: skip
_FOREARM = ("left_elbow", "right_elbow")
_TROUSERS = ("pelvis", "left_hip", "right_hip")
_SHIN = ("left_knee", "right_knee")
_SHOE = ("left_ankle", "right_ankle", "left_foot", "right_foot")


@dataclass(frozen=True)
class Scenes(TensorRecord):
    """A batch of scenes; lengths in metres, positions in pixels of the whole photograph."""

    rotations: Float[Tensor, "batch 22 3 3"]  # root: body to camera
    betas: Float[Tensor, "batch 11"]
    translation: Float[Tensor, "batch 3"]
    focal: Float[Tensor, " batch"]
    image_size: Float[Tensor, "batch 2"]
    box: Float[Tensor, "batch 3"]  # centre x, y, side
    truncated: Bool[Tensor, " batch"]
    template: Int[Tensor, " batch"]
    subject: Int[Tensor, " batch"]  # among the setting's, or 0

    @property
    def window(self) -> Crop:
        """The square that is rendered."""
        return Crop.upright(self.box[:, :2], WINDOW_SCALE * self.box[:, 2])

    @property
    def window_corner(self) -> Float[Tensor, "batch 2"]:
        """Upper left corner of the window."""
        return self.window.centre - self.window.side[:, None] / 2

    def window_camera(self, size: int) -> tuple[Tensor, Tensor]:
        """Focal length (batch,) and principal point (batch, 2) in window pixels."""
        scale = size / self.window.side
        return self.focal * scale, (self.image_size / 2 - self.window_corner) * scale[:, None]


@dataclass(frozen=True, kw_only=True)
class SceneSetting:
    """Who does what in front of which cameras; by default anybody, anything, any usual camera."""

    templates: tuple[str, ...] | None = None
    subjects: Float[Tensor, "subjects 11"] | None = None  # body shapes
    focal: tuple[float, float] = (0.7, 1.6)  # of the photograph's diagonal
    pitch: tuple[float, float] = (-8.0, 22.0)  # degrees; positive: the camera looks down


def draw_scenes(
    count: int,
    world: World,
    body: Body,
    *,
    rng: np.random.Generator,
    setting: SceneSetting = SceneSetting(),
) -> Scenes:
    """Draw people, poses, cameras and boxes."""
    poses = sample_poses(count, rng=rng, templates=setting.templates)
    rotations = rotvec_to_matrix(poses.rotvec)
    rotations[:, 0] = _orientation(count, world, setting.pitch, rng)
    subject = torch.zeros(count, dtype=torch.long)
    if setting.subjects is None:
        betas = draw_betas(count, rng=rng)
    else:
        subject = torch.from_numpy(rng.integers(0, len(setting.subjects), count))
        betas = setting.subjects[subject]
    chosen = torch.from_numpy(rng.integers(0, len(IMAGE_SIZES), count))
    image_size = torch.tensor(IMAGE_SIZES, dtype=torch.float32)[chosen]
    nearest, farthest = np.log(setting.focal)
    ratio = torch.from_numpy(np.exp(rng.uniform(nearest, farthest, count))).float()
    focal = ratio * image_size.norm(dim=-1)
    truncated = torch.from_numpy(rng.random(count) < world.truncated)
    points = body.vertices(rotations, betas)[:, ::7]
    translation = _place(points, focal, image_size, truncated, rng)
    box = _box(points + translation[:, None], focal, image_size, rng)
    return Scenes(
        rotations, betas, translation, focal, image_size, box, truncated, poses.template, subject
    )  # fmt: skip


def draw_betas(count: int, *, rng: np.random.Generator) -> Float[Tensor, "{count} 11"]:
    """Draw body shapes."""
    return torch.from_numpy(np.clip(rng.standard_normal((count, 11)), -2.5, 2.5)).float()


def _orientation(
    count: int, world: World, pitches: tuple[float, float], rng: np.random.Generator
) -> Float[Tensor, "batch 3 3"]:
    """Mostly frontal and upright: yaw, tilt, camera pitch and roll; a few in any direction."""
    frontal = rng.random(count) < world.frontal
    yaw = np.where(frontal, rng.uniform(-60, 60, count), rng.uniform(-180, 180, count))
    tilt = rng.normal(0, 6, (count, 2))
    pitch = rng.uniform(*pitches, count)
    degrees = np.stack([pitch + tilt[:, 0], np.zeros(count), tilt[:, 1]], -1)
    axis = torch.from_numpy(np.deg2rad(degrees)).float()
    spin = torch.zeros(count, 3)
    spin[:, 1] = torch.from_numpy(np.deg2rad(yaw)).float()
    matrix = rotvec_to_matrix(axis) @ rotvec_to_matrix(spin)
    odd = torch.from_numpy(rng.random(count) < world.odd)
    turned = rotvec_to_matrix(torch.from_numpy(rng.normal(0, 1.6, (count, 3))).float())
    return _FACING @ torch.where(odd[:, None, None], turned, matrix)


def _place(
    points: Float[Tensor, "batch points 3"],
    focal: Float[Tensor, " batch"],
    image_size: Float[Tensor, "batch 2"],
    truncated: Bool[Tensor, " batch"],
    rng: np.random.Generator,
) -> Float[Tensor, "batch 3"]:
    """Choose a translation: the whole body inside the photograph, or cut by one of its borders."""
    count = len(focal)
    low, high = points[..., :2].amin(-2), points[..., :2].amax(-2)
    size = (high - low).amax(-1)
    share = torch.from_numpy(rng.uniform(0.25, 0.85, count)).float()
    share = torch.where(truncated, share + 0.5, share)
    depth = focal * size / (share * image_size.amin(-1))
    depth = torch.maximum(depth, 0.7 - points[..., 2].amin(-1) + 0.5 * size)
    scale = (focal / depth)[:, None]
    extent = high * scale - low * scale  # pixels
    room = image_size - extent
    slack = torch.from_numpy(rng.beta(2, 2, (count, 2))).float()
    corner = torch.where(room > 0, slack * room, room / 2)
    corner = torch.where(truncated[:, None], _cut(corner, extent, image_size, rng), corner)
    centre = corner - low * scale
    return torch.cat([(centre - image_size / 2) / scale, depth[:, None]], -1)


def _cut(corner: Tensor, extent: Tensor, image_size: Tensor, rng: np.random.Generator) -> Tensor:
    """Move the body's upper left corner so that a border hides 20 to 55 % of its height or width.

    The lower border cuts six times in ten: photographs end at the waist more often than elsewhere.
    """
    count = len(corner)
    side = torch.from_numpy(rng.choice(4, count, p=[0.6, 0.1, 0.15, 0.15]))
    hidden = torch.from_numpy(rng.uniform(0.2, 0.55, count)).float()[:, None] * extent
    after, before = image_size - extent + hidden, -hidden
    x, y = corner.unbind(-1)
    y = torch.where(side == 0, after[:, 1], torch.where(side == 1, before[:, 1], y))
    x = torch.where(side == 2, after[:, 0], torch.where(side == 3, before[:, 0], x))
    return torch.stack([x, y], -1)


def _box(
    points_camera: Tensor, focal: Tensor, image_size: Tensor, rng: np.random.Generator
) -> Float[Tensor, "batch 3"]:
    """A square box (centre, side) around the part inside the photograph, drawn a little off."""
    pixels = project(points_camera, focal, image_size / 2)
    inside = ((pixels >= 0) & (pixels <= image_size[:, None])).all(-1, keepdim=True)
    low = pixels.where(inside, torch.inf).amin(-2)
    high = pixels.where(inside, -torch.inf).amax(-2)
    nobody = ~inside.any(-2)  # cannot happen by the way people are placed; a box must exist
    low, high = low.where(~nobody, image_size * 0.4), high.where(~nobody, image_size * 0.6)
    side = (high - low).amax(-1).clamp_min(24)
    shift = torch.from_numpy(rng.normal(0, 0.03, (len(focal), 2))).float() * side[:, None]
    grow = torch.from_numpy(rng.uniform(0.92, 1.12, len(focal))).float()
    return torch.cat([(low + high) / 2 + shift, (BOX_SCALE * side * grow)[:, None]], -1)


# ---- what a camera sees of scenes


@dataclass(frozen=True)
class Views:
    """What a camera sees of a batch of scenes, in window pixels."""

    images: np.ndarray  # (batch, size, size, 3) uint8
    person: Bool[Tensor, "batch size size"]  # visible part of the person
    occluder: Bool[Tensor, "batch size size"]
    keypoints_image: Float[Tensor, "batch 17 2"]  # pixels of the photograph
    visibility: Int[Tensor, "batch 17"]


def view(
    scenes: Scenes,
    world: World,
    body: Body,
    wardrobe: "Wardrobe",
    bank: np.ndarray,
    *,
    rngs: list[np.random.Generator],
) -> Views:
    """Render scenes; each has its own generator, so any one of them can be drawn again alone."""
    size = world.window
    vertices = body.vertices(scenes.rotations, scenes.betas) + scenes.translation[:, None]
    focal, centre = scenes.window_camera(size)
    raster = rendering.rasterise(vertices, body.faces, focal, centre, size, size)
    colours = torch.from_numpy(np.stack([wardrobe.dress(rng) for rng in rngs]))
    shaded = _shade(raster, vertices, body.faces, colours, rngs)
    inside = _inside(scenes, size)
    occluded = np.array([rng.random() < world.occluded for rng in rngs])
    half = size / WINDOW_SCALE / BOX_SCALE / 2  # of the tight box
    low, high = np.full(2, size / 2 - half), np.full(2, size / 2 + half)
    images, occluders, body_mask = [], [], raster.mask
    for i, rng in enumerate(rngs):
        where, colour = np.zeros((size, size), bool), np.zeros((size, size, 3), np.float32)
        if occluded[i]:
            where, colour = draw_occluders(size, low, high, rng=rng)
        image = draw_background(bank, size, rng=rng)
        image = np.where(body_mask[i, ..., None].numpy(), shaded[i].numpy(), image)
        image = np.where(where[..., None], colour, image) * inside[i, ..., None].numpy()
        picture = photograph(image, rng=rng)
        images.append(picture * inside[i, ..., None].numpy())
        occluders.append(where)
    occluder = torch.from_numpy(np.stack(occluders)) & inside
    keypoints, visibility = _visibility(scenes, raster, body, occluder, size)
    person = body_mask & ~occluder & inside
    return Views(np.stack(images), person, occluder, keypoints, visibility)


def _inside(scenes: Scenes, size: int) -> Bool[Tensor, "batch size size"]:
    """Window pixels that lie inside the photograph."""
    centres = pixel_centres(size).flatten(0, 1).expand(len(scenes), -1, -1)
    pixels = scenes.window.to_image(centres)
    inside = ((pixels >= 0) & (pixels < scenes.image_size[:, None])).all(-1)
    return inside.unflatten(1, (size, size))


def _shade(
    raster: rendering.Raster,
    vertices: Tensor,
    faces: Tensor,
    colours: Tensor,
    rngs: list[np.random.Generator],
) -> Float[Tensor, "batch size size 3"]:
    """Light each body with an ambient and two coloured directional lights of its own."""
    normals = rendering.vertex_normals(vertices, faces)
    pixels = rendering.interpolate(raster, faces, torch.cat([normals, colours], -1))
    normal, colour = normalize(pixels[..., :3], dim=-1), pixels[..., 3:]
    ambient = torch.tensor([rng.uniform(0.25, 0.6) for rng in rngs])
    light = torch.zeros_like(colour) + ambient[:, None, None, None]
    for _ in range(2):
        direction = np.stack([rng.normal(size=3) + np.array([0, -0.6, -1.2]) for rng in rngs])
        tint = np.stack([rng.uniform(0.2, 0.65) * rng.uniform(0.8, 1.1, 3) for rng in rngs])
        towards = normalize(torch.from_numpy(direction).float(), dim=-1)
        cosine = torch.einsum("bhwc,bc->bhw", normal, towards).clamp_min(0)
        light += cosine[..., None] * torch.from_numpy(tint).float()[:, None, None]
    return colour * light


def _visibility(
    scenes: Scenes,
    raster: rendering.Raster,
    body: Body,
    occluder: Bool[Tensor, "batch size size"],
    size: int,
) -> tuple[Float[Tensor, "batch 17 2"], Int[Tensor, "batch 17"]]:
    """Project the COCO joints and say of each why it is seen or not (depth test at its pixel)."""
    joints = body.keypoints(scenes.rotations, scenes.betas, "coco17")
    joints = joints + scenes.translation[:, None]
    pixels = project(joints, scenes.focal, scenes.image_size / 2)
    window = scenes.window.to_crop(pixels)
    cell = ((window + 1) / 2 * size).floor().long().clamp(0, size - 1)
    row = torch.arange(len(scenes))[:, None]
    surface = raster.depth[row, cell[..., 1], cell[..., 0]]
    margin = joints.new_tensor([_DEPTH_MARGIN[name.split("_")[-1]] for name in COCO17.names])
    hidden = joints[..., 2] - surface > margin
    state = torch.where(hidden, SELF_OCCLUDED, VISIBLE)
    state = torch.where(occluder[row, cell[..., 1], cell[..., 0]], OBJECT_OCCLUDED, state)
    outside = (pixels < 0) | (pixels >= scenes.image_size[:, None]) | (window.abs() > 1)
    return pixels, torch.where(outside.any(-1), OUTSIDE, state)


# ---- looks: clothes, backgrounds, occluders, sensor noise


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
        above = _SHIRT + _FOREARM if rng.random() < 0.5 else _SHIRT
        below = _TROUSERS + _SHIN if rng.random() < 0.75 else _TROUSERS
        for names, cloth in ((above, shirt), (below, trousers)):
            where = self.on(*names)
            colours[where] = cloth[where]
        colours[self.on(*_SHOE)] = rng.uniform(0.05, 0.9, 3) * rng.uniform(0.3, 1)
        colours[self._hair(rng)] = np.array([0.5, 0.36, 0.25]) * rng.uniform(0.1, 1.4)
        colours[self.on("left_eye", "right_eye")] = 0.12
        return np.clip(colours, 0, 1)

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
        centre, extent = rng.uniform(0, 1, 2) * size, rng.uniform(0.08, 0.45) * size
        shape = _shape(size, centre, extent, rng)
        image[shape] = rng.uniform(0, 1, 3) + rng.uniform(0, 0.4) * (image[shape] - 0.5)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_background(bank: np.ndarray, size: int, *, rng: np.random.Generator) -> Image:
    """Cut a random, flipped, recoloured window of one bank image."""
    image = bank[rng.integers(len(bank))]
    row, column = rng.integers(0, image.shape[0] - size + 1, 2)
    window = image[row : row + size, column : column + size, rng.permutation(3)]
    window = window[:, :: rng.choice([-1, 1])].astype(np.float32) / 255
    return np.clip((window - 0.5) * rng.uniform(0.4, 1.2) + rng.uniform(0.3, 0.7), 0, 1)


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
    shape = _shape(size, centre, rng.uniform(0.2, 0.5) * extent, rng)
    if rng.random() < 0.33:
        y, x = np.mgrid[:size, :size]
        top = centre[1] + rng.uniform(0, 0.25) * extent
        half = rng.uniform(0.12, 0.6) * extent
        shape = (y > top) & (abs(x - centre[0]) < half)
    return shape


def _shape(size: int, centre: np.ndarray, extent: float, rng: np.random.Generator) -> Mask:
    """A turned rectangle or ellipse; `centre` is (x, y), `extent` its longer half axis times 2."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.35, 1)
    if rng.random() < 0.5:
        angle = rng.choice([0, np.pi / 2])
    u = (np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])) / (extent / 2)
    v = (np.cos(angle) * (y - centre[1]) - np.sin(angle) * (x - centre[0])) / (extent / 2 * aspect)
    return (u * u + v * v < 1) if rng.random() < 0.4 else (np.maximum(abs(u), abs(v)) < 1)


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
