"""Mesh recovery and lifting on the same images, with the same measures.

A mesh model reads records of the open world: features, masks and heatmap samples, which the
lifting world does not keep. Its images are made again here, pixel by pixel the same, and given to
the detector once more. Poses of the mesh model are then brought into the axes of lifting: the 17
joints of Human3.6M, camera axes with y up and z towards the camera, pelvis at the origin.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from humr import lifting_measures as measures
from humr import lifting_world, world
from humr.bodies import Body
from humr.datasets import Records
from humr.lifting_config import LiftingWorld
from humr.lifting_data import LiftingBatch, LiftingRecords
from humr.lifting_evaluation import Lifter
from humr.lifting_measures import Forecast
from humr.mesh import Humr
from humr.poses import TEMPLATE_NAMES

MEASURED = (measures.accuracy, measures.scores, measures.spreads, measures.reliability)
_BATCH = 20  # images that are rendered, or whose hypotheses are held, at once


@dataclass(frozen=True)
class SharedImages:
    """The first images of a split of the lifting world, as each kind of system sees them."""

    lifting: LiftingRecords
    mesh: Records
    pictures: UInt8[np.ndarray, "images size size 3"]  # the rendered windows

    def __len__(self) -> int:
        return len(self.lifting)


def shared_images(
    config: LiftingWorld, split: str, count: int, *, generator: torch.Generator
) -> SharedImages:
    """Make the first images of a split once more, for both kinds of systems.

    Args:
        config: a lifting world; missing shards of the split are made.
        split: e.g. "test".
        count: images, at most those of the first shard.
        generator: for samples of the heatmaps, which a mesh model may read.
    """
    store = lifting_world.store(config)
    length = store.length(split, 0)
    if not 1 <= count <= length:
        raise ValueError(f"count must lie in 1..{length}, the images of a shard; got {count}")
    store.generate(splits=[split])
    filmed = lifting_world.scenery(config, split).world
    scenes, parts, pictures = lifting_world.scenes(config, split, 0), [], []
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        seen = lifting_world.views(config, split, 0, start, stop)
        parts.append(world.records_of(scenes[start:stop], seen, filmed, generator))
        pictures.append(seen.images)
    kept = store.load(split)[slice(0, count)]
    return SharedImages(kept, Records.join(parts), np.concatenate(pictures))


def upright(joints: Float[Tensor, "*batch 17 3"]) -> Float[Tensor, "*batch 17 3"]:
    """Turn H36M17 joints in camera space into lifting's axes, the pelvis at the origin."""
    turned = joints * joints.new_tensor([1, -1, -1])
    return turned - turned[..., :1, :]


@torch.no_grad()
def of_mesh_model(
    model: Humr, body: Body, images: SharedImages, count: int, *, generator: torch.Generator
) -> Forecast:
    """Draw hypotheses of a mesh model as 17 joints; the target is the lifting systems'."""
    modes, samples = [], []
    device = next(model.parameters()).device
    for start in range(0, len(images), _BATCH):
        some = images.mesh[slice(start, start + _BATCH)]
        batch = some.batch(samples=max(1, model.heatmap_samples), generator=generator).to(device)
        drawn = model.sample(batch, count, generator=generator)
        modes.append(upright(drawn.mode.keypoints(body, "h36m17")).cpu())
        samples.append(upright(drawn.samples.keypoints(body, "h36m17")).cpu())
    target = images.lifting.batch().target
    return Forecast(torch.cat(modes), torch.cat(samples), target)


@torch.no_grad()
def of_lifter(
    model: Lifter, batch: LiftingBatch, count: int, *, generator: torch.Generator
) -> Forecast:
    """Draw hypotheses of a lifting system; `batch` as the system was told to read heatmaps."""
    drawn = model.sample(batch, count, generator=generator)
    return Forecast(model.mode(batch), drawn, batch.target)


@torch.no_grad()
def measured(drawn: Forecast, images: SharedImages) -> pd.DataFrame:
    """One row per image with the columns of `lifting_evaluation.evaluate`, as far as all have."""
    columns = {name: value for part in MEASURED for name, value in part(drawn).items()}
    table = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
    template = images.lifting.template.int().tolist()
    table.insert(0, "action", [TEMPLATE_NAMES[index] for index in template])
    table.insert(0, "image", range(len(table)))
    return table
