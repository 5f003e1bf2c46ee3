"""The open world: shards of rendered people and of what a real detector says about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humr import heatmaps
from humr.batches import BOX_SCALE, pack_mask
from humr.bodies.body import Body, load_body
from humr.config import World
from humr.detector import Detection, Detector
from humr.geometry import Crop, matrix_to_rotvec, pixel_centres
from humr.storage import Store
from humr.world.records import Records
from humr.world.scenes import Scenes, Views, Wardrobe, background_bank, draw_scenes, view

DATA_VERSION = 2  # raise it whenever the same configuration would give other images
SPLITS = ("labelled", "points", "unlabelled", "validation", "test")
HELD_OUT = ("validation", "test")  # they have backgrounds of their own
FEATURES = 1152 + 864  # of two inner layers of the detector
RENDER_BATCH = 20


def store(world: World) -> Store[Records]:
    """Return the shards of a world, made or not."""
    return Store(
        name="open world",
        config=world,
        sizes=world.sizes,
        shard=world.shard,
        recipe=DATA_VERSION,
        make=make_shard,
        kind=Records,
    )


@dataclass(frozen=True)
class WorldAssets:
    """What is loaded once per process."""

    body: Body
    detector: Detector
    wardrobe: Wardrobe


@cache
def world_assets() -> WorldAssets:
    """Load body and detector."""
    body = load_body("small")
    wardrobe = Wardrobe.of(body.part.numpy(), body.template.numpy())
    return WorldAssets(body, Detector.load(), wardrobe)


# ---- one shard: draw, render, detect


def make_shard(world: World, split: str, shard: int) -> Records:
    """Draw, render and detect one shard."""
    drawn = scenes(world, split, shard)
    seeds = np.random.default_rng(_seed(world, split, shard, 2, 0))
    generator = torch.Generator().manual_seed(int(seeds.integers(2**62)))
    parts = []
    for start, stop in render_batches(len(drawn)):
        seen = views(world, split, shard, start, stop)
        parts.append(records_of(drawn[start:stop], seen, world, generator))
    return Records.join(parts)


def scenes(world: World, split: str, shard: int) -> Scenes:
    """Draw the scenes of one shard."""
    rng = np.random.default_rng(_seed(world, split, shard, 0, 0))
    return draw_scenes(store(world).length(split, shard), world, world_assets().body, rng=rng)


def views(world: World, split: str, shard: int, start: int, stop: int) -> Views:
    """Render images `start` to `stop` of a shard (the same whichever range they are part of)."""
    rngs = [np.random.default_rng(_seed(world, split, shard, 1, i)) for i in range(start, stop)]
    chosen, assets = scenes(world, split, shard)[start:stop], world_assets()
    bank = backgrounds(world.backgrounds, world.seed, held_out=split in HELD_OUT)
    return view(chosen, world, assets.body, assets.wardrobe, bank, rngs=rngs)


@cache
def backgrounds(count: int, seed: int, *, held_out: bool) -> np.ndarray:
    """Paint the backgrounds, the same in every process; held-out images share none with others."""
    rng = np.random.default_rng([seed, len(SPLITS), int(held_out), 1])
    return background_bank(count, 400, rng=rng)


def _seed(world: World, split: str, shard: int, *purpose: int) -> list[int]:
    """Name a stream of random numbers; never ends in 0, since NumPy pads seeds with zeros."""
    return [world.seed, SPLITS.index(split), shard, *purpose, 1]


def render_batches(count: int) -> Iterator[tuple[int, int]]:
    """Start and end of the pieces in which images are rendered."""
    for start in range(0, count, RENDER_BATCH):
        yield start, min(start + RENDER_BATCH, count)


# ---- what the detector says about rendered scenes


def records_of(scene: Scenes, seen: Views, world: World, generator: torch.Generator) -> Records:
    """Run the detector on rendered scenes, and keep what networks see and what is true."""
    found = detect(scene, seen.images)
    stack = partial(stacked, found)
    maps = heatmaps.calibrate(stack("heatmaps"))
    cells = heatmaps.sample_cells(maps, world.heatmap_samples, generator=generator)
    density = maps.flatten(-2) / maps.amax((-2, -1))[..., None]
    mean, spread = heatmaps.expectation(maps), heatmaps.covariance(maps)
    size, resolution = seen.images.shape[1], world.mask_resolution
    window, keypoints = in_photograph(found, scene, size)
    box = _box_in_window(scene, size)
    masks = [
        torch.as_tensor(d.mask_in(Crop.upright(centre, side), resolution=resolution))
        for d, centre, side in zip(found, box.centre, box.side, strict=True)
    ]
    return Records(
        rotvec=matrix_to_rotvec(scene.rotations),
        betas=scene.betas,
        translation=scene.translation,
        focal=scene.focal,
        image_size=scene.image_size,
        box=scene.box,
        truncated=scene.truncated,
        template=scene.template.to(torch.uint8),
        window=window,
        keypoints=keypoints,
        confidence=stack("confidence").float(),
        peak=stack("peak").float(),
        flag=torch.tensor([float(d.flag) for d in found]),
        world_landmarks=stack("world_landmarks").float(),
        cells=cells.mT.to(torch.int16).contiguous(),
        density=density.gather(-1, cells).mT.half().contiguous(),
        moments=heatmaps.packed_gaussian(stack("peak"), mean, spread)[..., 1:],
        features=torch.cat([stack("features"), stack("features_mid")], -1).half(),
        mask=pack_mask(torch.stack(masks)),
        true_keypoints=seen.keypoints_image,
        visibility=seen.visibility.to(torch.uint8),
        person=pack_mask(_resample(seen.person, box, resolution)),
        occluder=pack_mask(_resample(seen.occluder, box, resolution)),
    )


def detect(scene: Scenes, images: np.ndarray) -> list[Detection]:
    """Run the detector on rendered windows, with the scenes' boxes."""
    half = scene.box[:, 2:] / BOX_SCALE / 2  # the detector wants the tight box
    corners = torch.stack([scene.box[:, :2] - half, scene.box[:, :2] + half], 1)
    window = (scene.window.to_crop(corners) + 1) / 2 * images.shape[1]
    detector = world_assets().detector
    boxes = window.flatten(1).tolist()
    return [detector.detect(i, tuple(b)) for i, b in zip(images, boxes, strict=True)]


def stacked(found: Sequence[Detection], name: str) -> torch.Tensor:
    """Join a field of several detections."""
    return torch.stack([torch.as_tensor(getattr(d, name)) for d in found])


def in_photograph(
    found: Sequence[Detection], scene: Scenes, size: int
) -> tuple[Float[Tensor, "batch 4"], Float[Tensor, "batch 17 2"]]:
    """Detector's windows (centre x, y, side, roll) and keypoints in pixels of the photograph."""
    scale, corner = scene.window.side / size, scene.window_corner
    centre, side, roll = (
        torch.stack([getattr(d.crop, name) for d in found]) for name in ("centre", "side", "roll")
    )
    centre = centre * scale[:, None] + corner
    keypoints = stacked(found, "keypoints_image") * scale[:, None, None] + corner[:, None]
    window = torch.cat([centre, (side * scale)[:, None], roll[:, None]], -1)
    return window.float(), keypoints.float()


def _box_in_window(scene: Scenes, size: int) -> Crop:
    """The scenes' boxes in window pixels."""
    scale = scene.window.side / size
    centre = (scene.box[:, :2] - scene.window_corner) / scale[:, None]
    return Crop.upright(centre, scene.box[:, 2] / scale)


def _resample(
    mask: Bool[Tensor, "batch size size"], box: Crop, resolution: int
) -> Bool[Tensor, "batch resolution resolution"]:
    """Read window masks at the pixel centres of each box; nothing is outside the window."""
    count, size = len(mask), mask.shape[1]
    points = pixel_centres(resolution).flatten(0, 1)
    pixel = box.to_image(points.expand(count, -1, -1)).floor().long()
    inside = ((pixel >= 0) & (pixel < size)).all(-1)
    pixel = pixel.clamp(0, size - 1)
    values = mask[torch.arange(count)[:, None], pixel[..., 1], pixel[..., 0]] & inside
    return values.unflatten(1, (resolution, resolution))
