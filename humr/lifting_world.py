"""The open world for lifting: actions, subjects, a test set, and three groups for transfer.

The stand-in for Human3.6M has fifteen pose templates as actions. The stand-in for MPI-INF-3DHP
has the other five and other subjects, in three groups that are filmed otherwise as well:
"studio" before a plain background, "rooms" from above with things in the way, "outdoor" with
wide-angle lenses near the ground, and people cut by the photograph's borders.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from humr import heatmaps, world
from humr.appearance import background_bank
from humr.config import World
from humr.gaussians import fit_gaussian
from humr.lifting_config import GROUPS, LiftingWorld
from humr.lifting_data import LiftingRecords
from humr.poses import TEMPLATE_NAMES
from humr.scenes import Scenes, Setting, Views, draw_betas, draw_scenes, view
from humr.shards import Store

RECIPE = 1  # raise it whenever the same configuration would give other images
SPLITS = ("train", "validation", "test", *GROUPS)
HELD_OUT_ACTIONS = ("lunge", "reach_up", "star", "kick", "throw")
ACTIONS = tuple(name for name in TEMPLATE_NAMES if name not in HELD_OUT_ACTIONS)
TENTH = 0.1  # of the peak: moments are of what lies above
_BATCH = 20


@dataclass(frozen=True)
class Scenery:
    """How one split is filmed."""

    world: World  # occlusion, truncation, window
    setting: Setting
    plain: bool = False  # backgrounds of one colour


@cache
def scenery(config: LiftingWorld, split: str) -> Scenery:
    """Return who is filmed how in a split."""
    usual = World(
        window=config.window,
        backgrounds=config.backgrounds,
        occluded=config.occluded,
        truncated=config.truncated,
        odd=0.0,
    )
    shapes = _subjects(config, split)
    own = Setting(templates=ACTIONS, subjects=shapes)
    foreign = {"templates": HELD_OUT_ACTIONS, "subjects": shapes}
    if split == "studio":
        return Scenery(replace(usual, occluded=0.0, frontal=0.3), Setting(**foreign), plain=True)
    if split == "rooms":
        return Scenery(replace(usual, occluded=0.5), Setting(**foreign, pitch=(15.0, 40.0)))
    if split == "outdoor":
        cameras = Setting(**foreign, focal=(0.45, 0.7), pitch=(-25.0, -5.0))
        return Scenery(replace(usual, truncated=0.2), cameras)
    return Scenery(usual, own)


def _subjects(config: LiftingWorld, split: str) -> torch.Tensor:
    """Body shapes of a split; every split has its own."""
    counts = [config.train_subjects if name == "train" else config.subjects for name in SPLITS]
    everybody = draw_betas(sum(counts), rng=np.random.default_rng([config.seed, 97, 1]))
    return everybody.split(counts)[SPLITS.index(split)]


def _seed(config: LiftingWorld, split: str, number: int, *purpose: int) -> list[int]:
    """Name a stream of random numbers; never ends in 0, since NumPy pads seeds with zeros."""
    return [config.seed, 98, SPLITS.index(split), number, *purpose, 1]


@cache
def _backgrounds(config: LiftingWorld, split: str) -> np.ndarray:
    rng = np.random.default_rng(_seed(config, split, 0, 2, 0))
    if scenery(config, split).plain:
        colours = rng.integers(30, 225, (config.backgrounds, 1, 1, 3))
        return np.broadcast_to(colours, (config.backgrounds, 400, 400, 3)).astype(np.uint8)
    return background_bank(config.backgrounds, 400, rng=rng)


def scenes(config: LiftingWorld, split: str, number: int) -> Scenes:
    """Draw the scenes of one shard."""
    count = store(config).length(split, number)
    rng = np.random.default_rng(_seed(config, split, number, 0, 0))
    filmed = scenery(config, split)
    body = world.studio().body
    return draw_scenes(count, filmed.world, body, rng=rng, setting=filmed.setting)


def views(config: LiftingWorld, split: str, number: int, start: int, stop: int) -> Views:
    """Render images `start` to `stop` of a shard (the same whichever range they are part of)."""
    rngs = [np.random.default_rng(_seed(config, split, number, 1, i)) for i in range(start, stop)]
    chosen, bank = scenes(config, split, number)[start:stop], _backgrounds(config, split)
    studio = world.studio()
    filmed = scenery(config, split).world
    return view(chosen, filmed, studio.body, studio.wardrobe, bank, rngs=rngs)


def make_shard(config: LiftingWorld, split: str, number: int) -> LiftingRecords:
    """Draw, render and detect one shard, and fit Gaussians to its heatmaps."""
    drawn, parts = scenes(config, split, number), []
    for start in range(0, len(drawn), _BATCH):
        stop = min(start + _BATCH, len(drawn))
        parts.append(_records(drawn[start:stop], views(config, split, number, start, stop)))
    return LiftingRecords.join(parts)


def _records(scene: Scenes, seen: Views) -> LiftingRecords:
    found = world.detect(scene, seen.images)
    window, keypoints = world.in_photograph(found, scene, seen.images.shape[1])
    maps = world.stacked(found, "heatmaps")
    fit = fit_gaussian(maps)
    joints = world.studio().body.keypoints(scene.rotations, scene.betas, "h36m17")
    return LiftingRecords(
        joints=joints + scene.translation[:, None],
        focal=scene.focal,
        image_size=scene.image_size,
        box=scene.box,
        window=window,
        keypoints=keypoints,
        confidence=world.stacked(found, "confidence").float(),
        peak=world.stacked(found, "peak").float(),
        fits=_values(fit.amplitude, fit.mean, fit.covariance),
        rmse=fit.rmse.float(),
        converged=fit.converged,
        moments=_moments(maps),
        template=scene.template.to(torch.uint8),
        subject=scene.subject.to(torch.uint8),
        true_keypoints=seen.keypoints_image,
        visibility=seen.visibility.to(torch.uint8),
    )


def _moments(maps: torch.Tensor) -> torch.Tensor:
    """Peak, mean and covariance of what exceeds a tenth of the peak."""
    peak = maps.amax((-2, -1))
    high = maps.where(maps >= TENTH * peak[..., None, None], 0)
    return _values(peak, heatmaps.expectation(high), heatmaps.covariance(high))


def _values(peak: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """One row per Gaussian: peak, mean x, y, covariance xx, xy, yy."""
    parts = [peak[..., None], mean, spread[..., 0, :], spread[..., 1, 1:]]
    return torch.cat(parts, -1).float()


def store(config: LiftingWorld) -> Store[LiftingRecords]:
    """Return the shards of a lifting world, made or not."""
    return Store(
        name="lifting world",
        config=config,
        sizes=config.sizes,
        shard=config.shard,
        recipe=RECIPE,
        make=make_shard,
        read=LiftingRecords.read,
        join=LiftingRecords.join,
        folder="lifting",
        command="world laptop --system lifting",
    )
