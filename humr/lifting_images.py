"""Images for lifting, of the open world or of licensed data sets: one way to ask for either."""

from dataclasses import replace
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from humr import h36m, lifting_paper_data, lifting_world
from humr.licensed_lifting import CELLS, LicensedLifting
from humr.lifting_config import GROUPS, LiftingWorld
from humr.lifting_data import LiftingRecords
from humr.lifting_paper_config import Human36m
from humr.shards import Store

World = LiftingWorld | Human36m
Images = LiftingRecords | LicensedLifting


def store(config: World) -> Store[LiftingRecords] | Store[LicensedLifting]:
    """Return the splits of a world."""
    if isinstance(config, Human36m):
        return lifting_paper_data.store(config)
    return lifting_world.store(config)


def evaluated_on(config: World) -> str:
    """Name the images that rows depend on."""
    if isinstance(config, Human36m):
        return lifting_paper_data.evaluated_on(config)
    return store(config).directory.name


def records(config: World, split: str) -> Images:
    """Read a split; the open world's is made if need be."""
    images = store(config)
    images.generate(splits=[split])
    return images.load(split)


def ambiguous(config: World) -> Images:
    """Read the ambiguous test images; there are none where only 2D poses are known."""
    images = records(config, config.hard)
    return images[images.ambiguous]


def true_points(config: World, split: str) -> Images:
    """Read a split with the true 2D poses in place of the detector's; Gaussians stay."""
    images = records(config, split)
    if isinstance(images, LiftingRecords):
        return replace(images, keypoints=images.true_keypoints)
    if isinstance(config, Human36m) and (split in GROUPS or config.poses == "gt"):
        return images  # they have no others
    raise ValueError(
        f"the true 2D poses of {split!r} are not in the files that it is read from; expected one "
        f"of {', '.join(GROUPS)}, or poses='gt'"
    )


# ----------------------------------------------------------------------- what is seen


def actions(config: World) -> tuple[str, ...]:
    """Names of the actions of training and test."""
    return h36m.ACTIONS if isinstance(config, Human36m) else lifting_world.ACTIONS


def people(config: World, split: str) -> set[tuple[object, ...]]:
    """Who is seen in a split: body shapes of the open world, or data set and number."""
    if isinstance(config, LiftingWorld):
        shapes = lifting_world.scenery(config, split).setting.subjects
        assert shapes is not None
        return {tuple(shape) for shape in shapes.tolist()}
    name = "MPI-INF-3DHP" if split in GROUPS else config.label
    return {(name, number) for number in records(config, split).subject.tolist()}


def widths(images: Images) -> Float[Tensor, "images 16"]:
    """Standard deviation along the larger axis of every Gaussian (MPII16), the paper's pixels."""
    gaussians = images.gaussians()
    if isinstance(images, LiftingRecords):
        gaussians = gaussians.derived()
    return gaussians.sigma[..., 1]


def facts(images: Images) -> dict[str, int | float]:
    """What a table says of some images; NaN where only the open world knows.

    Errors of 2D joints count cells of the heatmap.
    """
    seen: dict[str, int | float] = {
        "images": len(images),
        "ambiguous (%)": round(100 * images.ambiguous.float().mean().item()),
    }
    error, focal = nan, nan
    if isinstance(images, LiftingRecords):
        cells = images.window[:, 2, None] / CELLS
        off = torch.linalg.vector_norm(images.keypoints - images.true_keypoints, dim=-1) / cells
        error = round(off.median().item(), 2)
        focal = round((images.focal / images.image_size.amax(1)).mean().item(), 2)
    return seen | {"2D error, median (cells)": error, "focal / image side": focal}
