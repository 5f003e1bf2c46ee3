"""The open world for lifting: actions, subjects, a test set, and three groups for transfer.

The stand-in for Human3.6M has fifteen pose templates as actions. The stand-in for MPI-INF-3DHP
has the other five and other subjects, in three groups that are filmed otherwise as well:
"studio" before a plain background, "rooms" from above with things in the way, "outdoor" with
wide-angle lenses near the ground, and people cut by the photograph's borders.

For mesh recovery and lifting on the same images there are `shared_images`.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from humr import heatmaps
from humr.bodies.body import Body
from humr.config import World
from humr.geometry import Crop
from humr.heatmaps import GRID, fit_gaussian, packed_gaussian, unpacked_gaussian
from humr.lifting.config import GROUPS, LiftingWorld
from humr.lifting.data import (
    AMBIGUOUS,
    SHARP,
    SHARP_PIXELS,
    Gaussians,
    LiftingBatch,
    as_seen,
    derivation,
)
from humr.lifting.evaluation import Forecast
from humr.model import Humr
from humr.storage import Store, TensorRecord
from humr.world.generate import (
    detect,
    in_photograph,
    records_of,
    render_batches,
    stacked,
    world_assets,
)
from humr.world.poses import TEMPLATE_NAMES
from humr.world.records import Records
from humr.world.scenes import (
    Scenes,
    SceneSetting,
    Views,
    background_bank,
    draw_betas,
    draw_scenes,
    view,
)

DATA_VERSION = 1  # raise it whenever the same configuration would give other images
SPLITS = ("train", "validation", "test", *GROUPS)
HELD_OUT_ACTIONS = ("lunge", "reach_up", "star", "kick", "throw")
ACTIONS = tuple(name for name in TEMPLATE_NAMES if name not in HELD_OUT_ACTIONS)


@dataclass(frozen=True)
class LiftingRecords(TensorRecord):
    """One split of the lifting world, as it lies on disk."""

    joints: Float[Tensor, "images 17 3"]  # H36M17 in camera space, metres
    focal: Float[Tensor, " images"]
    image_size: Float[Tensor, "images 2"]
    box: Float[Tensor, "images 3"]
    window: Float[Tensor, "images 4"]  # of the detector: centre x, y, side, roll
    keypoints: Float[Tensor, "images 17 2"]  # of the detector, COCO17, pixels of the photograph
    confidence: Float[Tensor, "images 17"]
    peak: Float[Tensor, "images 17"]
    fits: Float[Tensor, "images 17 6"]  # Gaussians, cells: amplitude, mean, covariance xx, xy, yy
    rmse: Float[Tensor, "images 17"]
    converged: Bool[Tensor, "images 17"]
    moments: Float[Tensor, "images 17 6"]  # the same, of what exceeds a tenth of the peak
    template: UInt8[Tensor, " images"]  # the action
    subject: UInt8[Tensor, " images"]
    # for evaluation only
    true_keypoints: Float[Tensor, "images 17 2"]
    visibility: UInt8[Tensor, "images 17"]

    def gaussians(self, kind: str = "fit") -> Gaussians:
        """Gaussians of the COCO joints, by least squares ("fit") or from "moments".

        A fit that did not converge can be anywhere; its joint gets the Gaussian of the moments.
        Means stay within the heatmap (official code).
        """
        if kind not in SHARP:
            raise ValueError(f"kind must be one of {', '.join(SHARP)}; got {kind!r}")
        fitted = self.converged & (kind == "fit")
        values = torch.where(fitted[..., None], self.fits, self.moments)
        amplitude, mean, covariance = unpacked_gaussian(values)
        window = Crop(self.window[:, :2], self.window[:, 2], self.window[:, 3])
        cosine, sine = window.roll.cos(), window.roll.sin()
        turn = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (1, 2, 2))
        sharp = torch.where(fitted, SHARP["fit"], SHARP["moments"])
        cells = mean.clamp(0, GRID.width - 1)  # as high as wide
        return Gaussians(
            amplitude,
            window.to_image(GRID.to_crop(cells)),
            (SHARP_PIXELS / sharp).square()[..., None, None] * (turn @ covariance @ turn.mT),
        )

    @property
    def action(self) -> tuple[str, ...]:
        """Name of every image's action."""
        return tuple(TEMPLATE_NAMES[index] for index in self.template.tolist())

    @property
    def ambiguous(self) -> Bool[Tensor, " images"]:
        """Images with a joint that is wider than 5 px along an axis (the paper's rule)."""
        return (self.gaussians().derived().sigma[..., 1] > AMBIGUOUS).any(-1)

    def batch(self, *, gaussians: str = "fit", doubled: bool = True) -> LiftingBatch:
        """What lifting systems see of all these images."""
        found = self.gaussians(gaussians).derived()
        return as_seen(self.joints, derivation() @ self.keypoints, found, doubled=doubled)


def store(config: LiftingWorld) -> Store[LiftingRecords]:
    """Return the shards of a lifting world, made or not."""
    return Store(
        name="lifting world",
        config=config,
        sizes=config.sizes,
        shard=config.shard,
        recipe=DATA_VERSION,
        make=make_shard,
        kind=LiftingRecords,
        folder="lifting",
        command="world laptop --system lifting",
    )


# ---- how each split is filmed


@dataclass(frozen=True)
class SplitSetting:
    """How one split is filmed."""

    world: World  # occlusion, truncation, window
    setting: SceneSetting
    plain: bool = False  # backgrounds of one colour


@cache
def split_setting(config: LiftingWorld, split: str) -> SplitSetting:
    """Return who is filmed how in a split."""
    usual = World(
        window=config.window,
        backgrounds=config.backgrounds,
        occluded=config.occluded,
        truncated=config.truncated,
        odd=0.0,
    )
    shapes = _subjects(config, split)
    if split not in GROUPS:
        return SplitSetting(usual, SceneSetting(templates=ACTIONS, subjects=shapes))
    foreign = SceneSetting(templates=HELD_OUT_ACTIONS, subjects=shapes)
    if split == "studio":
        return SplitSetting(replace(usual, occluded=0.0, frontal=0.3), foreign, plain=True)
    if split == "rooms":
        return SplitSetting(replace(usual, occluded=0.5), replace(foreign, pitch=(15.0, 40.0)))
    cameras = replace(foreign, focal=(0.45, 0.7), pitch=(-25.0, -5.0))
    return SplitSetting(replace(usual, truncated=0.2), cameras)


def _subjects(config: LiftingWorld, split: str) -> torch.Tensor:
    """Body shapes of a split; every split has its own."""
    counts = [config.train_subjects if name == "train" else config.subjects for name in SPLITS]
    everybody = draw_betas(sum(counts), rng=np.random.default_rng([config.seed, 97, 1]))
    return everybody.split(counts)[SPLITS.index(split)]


# ---- one shard: draw, render, detect, fit


def make_shard(config: LiftingWorld, split: str, number: int) -> LiftingRecords:
    """Draw, render and detect one shard, and fit Gaussians to its heatmaps."""
    drawn, parts = scenes(config, split, number), []
    for start, stop in render_batches(len(drawn)):
        parts.append(_records(drawn[start:stop], views(config, split, number, start, stop)))
    return LiftingRecords.join(parts)


def _records(scene: Scenes, seen: Views) -> LiftingRecords:
    found = detect(scene, seen.images)
    window, keypoints = in_photograph(found, scene, seen.images.shape[1])
    maps = stacked(found, "heatmaps")
    fit = fit_gaussian(maps)
    joints = world_assets().body.keypoints(scene.rotations, scene.betas, "h36m17")
    return LiftingRecords(
        joints=joints + scene.translation[:, None],
        focal=scene.focal,
        image_size=scene.image_size,
        box=scene.box,
        window=window,
        keypoints=keypoints,
        confidence=stacked(found, "confidence").float(),
        peak=stacked(found, "peak").float(),
        fits=packed_gaussian(fit.amplitude, fit.mean, fit.covariance),
        rmse=fit.rmse.float(),
        converged=fit.converged,
        moments=heatmaps.moments(maps, whole=False),
        template=scene.template.to(torch.uint8),
        subject=scene.subject.to(torch.uint8),
        true_keypoints=seen.keypoints_image,
        visibility=seen.visibility.to(torch.uint8),
    )


def scenes(config: LiftingWorld, split: str, number: int) -> Scenes:
    """Draw the scenes of one shard."""
    count = store(config).length(split, number)
    rng = np.random.default_rng(_seed(config, split, number, 0, 0))
    filmed = split_setting(config, split)
    body = world_assets().body
    return draw_scenes(count, filmed.world, body, rng=rng, setting=filmed.setting)


def views(config: LiftingWorld, split: str, number: int, start: int, stop: int) -> Views:
    """Render images `start` to `stop` of a shard (the same whichever range they are part of)."""
    rngs = [np.random.default_rng(_seed(config, split, number, 1, i)) for i in range(start, stop)]
    chosen, bank = scenes(config, split, number)[start:stop], _backgrounds(config, split)
    assets = world_assets()
    filmed = split_setting(config, split).world
    return view(chosen, filmed, assets.body, assets.wardrobe, bank, rngs=rngs)


@cache
def _backgrounds(config: LiftingWorld, split: str) -> np.ndarray:
    rng = np.random.default_rng(_seed(config, split, 0, 2, 0))
    if split_setting(config, split).plain:
        colours = rng.integers(30, 225, (config.backgrounds, 1, 1, 3))
        return np.broadcast_to(colours, (config.backgrounds, 400, 400, 3)).astype(np.uint8)
    return background_bank(config.backgrounds, 400, rng=rng)


def _seed(config: LiftingWorld, split: str, number: int, *purpose: int) -> list[int]:
    """Name a stream of random numbers; never ends in 0, since NumPy pads seeds with zeros."""
    return [config.seed, 98, SPLITS.index(split), number, *purpose, 1]


# ---- the same images for mesh recovery


@dataclass(frozen=True)
class SharedImages(TensorRecord):
    """The first images of a split of the lifting world, as each kind of system sees them."""

    lifting: LiftingRecords
    mesh: Records
    pictures: UInt8[np.ndarray, "images size size 3"]  # the rendered windows


def shared_images(
    config: LiftingWorld, split: str, count: int, *, generator: torch.Generator
) -> SharedImages:
    """Make the first images of a split once more, for both kinds of systems.

    A mesh model reads records of the open world: features, masks and heatmap samples (drawn with
    `generator`), which the lifting world does not keep. So images of the first shard are made
    again, pixel by pixel the same, and given to the detector once more.
    """
    length = store(config).length(split, 0)
    if not 1 <= count <= length:
        raise ValueError(f"count must lie in 1..{length}, the images of a shard; got {count}")
    kept = store(config).make_and_load(split)[slice(0, count)]
    filmed = split_setting(config, split).world
    people, parts, pictures = scenes(config, split, 0), [], []
    for start, stop in render_batches(count):
        seen = views(config, split, 0, start, stop)
        parts.append(records_of(people[start:stop], seen, filmed, generator))
        pictures.append(seen.images)
    return SharedImages(kept, Records.join(parts), np.concatenate(pictures))


@torch.no_grad()
def of_mesh_model(
    model: Humr, body: Body, images: SharedImages, count: int, *, generator: torch.Generator
) -> Forecast:
    """Draw hypotheses of a mesh model as 17 joints; the target is the lifting systems'."""
    modes, samples = [], []
    device = next(model.parameters()).device
    for start, stop in render_batches(len(images)):
        some = images.mesh[slice(start, stop)]
        batch = some.batch(samples=max(1, model.heatmap_samples), generator=generator).to(device)
        drawn = model.sample(batch, count, generator=generator)
        modes.append(upright(drawn.mode.keypoints(body, "h36m17")).cpu())
        samples.append(upright(drawn.samples.keypoints(body, "h36m17")).cpu())
    target = images.lifting.batch().target
    return Forecast(torch.cat(modes), torch.cat(samples), target)


def upright(joints: Float[Tensor, "*batch 17 3"]) -> Float[Tensor, "*batch 17 3"]:
    """Turn H36M17 joints in camera space into lifting's axes, the pelvis at the origin."""
    turned = joints * joints.new_tensor([1, -1, -1])
    return turned - turned[..., :1, :]
