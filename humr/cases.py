"""Images of the open world, looked at again: as photographs, with the truth and a posterior."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from humr import metrics, world
from humr.bodies import Body
from humr.cameras import Crop
from humr.config import World
from humr.detectors import GRID, Detection
from humr.heatmaps import density_level
from humr.losses import inside_mask
from humr.measures import PIXELS
from humr.mesh import Humr, People, to_crop
from humr.posterior import Posterior, observation_batch
from humr.rotations import matrix_to_sixd
from humr.scenes import VISIBLE, Scenes
from humr.skeletons import COCO17

GREY = 245  # of what was not rendered


@dataclass(frozen=True)
class Case:
    """One image of the open world as a photograph, with the truth and a model's posterior."""

    image: int  # number in its split
    posterior: Posterior
    joint: int  # COCO index of what the figure is about
    people: People  # the truth (no leading axes)
    truth: Float[Tensor, "17 2"]  # keypoints, pixels of the photograph
    visibility: Int[Tensor, " 17"]
    window: Crop  # what was rendered
    silhouette: Bool[Tensor, "size size"]  # of person and objects in the window
    projections: dict[str, Float[Tensor, "hypotheses 2"]] = field(default_factory=dict)
    """Where other models project the joint, pixels of the photograph."""

    @property
    def name(self) -> str:
        """Name of the joint, for titles."""
        return COCO17.names[self.joint].replace("_", " ")

    @property
    def target(self) -> Float[Tensor, "1 2"]:
        """Where the joint is, in pixels of the photograph."""
        return self.truth[[self.joint]]

    @property
    def hidden(self) -> bool:
        """Whether the joint cannot be seen."""
        return int(self.visibility[self.joint]) != VISIBLE

    def to_image(self, points: Float[Tensor, "points 2"]) -> Float[Tensor, "points 2"]:
        """Map coordinates in the box to pixels of the photograph."""
        return self.posterior.batch.crop.to_image(points[None])[0]

    def possible(self, points_image: Float[Tensor, "points 2"]) -> Bool[Tensor, " points"]:
        """Tell where a hidden joint may be: on the person, behind an object, off the picture."""
        size = self.posterior.batch.image_size[0]
        in_photo = ((points_image >= 0) & (points_image < size)).all(-1)
        on = inside_mask(self.window.to_crop(points_image)[None], self.silhouette[None])[0]
        return on | ~in_photo

    def inside_heatmap(self, points_image: Float[Tensor, "points 2"], *, level: float) -> float:
        """Share of points in the smallest region of the joint's heatmap that holds `level`."""
        detection = self.posterior.detection
        cells = GRID.from_crop(detection.crop.to_crop(points_image))
        heatmap = detection.probabilities[self.joint].expand(len(cells), -1, -1)
        return float((density_level(heatmap, cells.to(heatmap)) <= level).float().mean())

    @torch.no_grad()
    def tempered(
        self, model: Humr, body: Body, count: int, *, noise: float, generator: torch.Generator
    ) -> Float[Tensor, "{count} 2"]:
        """Projections of the joint (pixels) by hypotheses whose noise is scaled by `noise`."""
        batch = self.posterior.batch
        drawn = noise * model.noise(1, count, generator)
        people = model.people(model.observe(batch), drawn)
        points = to_crop(people.keypoints(body, "coco17"), batch)[:, :, self.joint]
        return batch.crop.to_image(points)[0]

    def judge(self, points_image: Float[Tensor, "points 2"]) -> dict[str, float]:
        """Possible points (%), their spread and energy score (pixels of a box of 256)."""
        crop = self.posterior.batch.crop
        points = PIXELS / 2 * crop.to_crop(points_image[None])[0]
        truth = PIXELS / 2 * crop.to_crop(self.target[None])[0]
        return {
            "possible": 100 * float(self.possible(points_image).float().mean()),
            "spread": float(metrics.spread(points[:, None])),
            "energy": float(metrics.energy_score(points[:, None], truth)),
        }


def judge(sets: Iterable[tuple[Case, Float[Tensor, "points 2"]]]) -> dict[str, float]:
    """Mean of `Case.judge` over several cases, each with its own points."""
    judged = [case.judge(points) for case, points in sets]
    return {name: sum(one[name] for one in judged) / len(judged) for name in judged[0]}


def look(
    config: World,
    split: str,
    image: int,
    model: Humr,
    *,
    joint: int,
    hypotheses: int,
    generator: torch.Generator,
) -> Case:
    """Render an image of a split again, detect, and draw hypotheses."""
    shard, index = divmod(image, config.shard)
    scene = world.scenes(config, split, shard)[index : index + 1]
    seen = world.views(config, split, shard, index, index + 1)
    detection = in_photograph(world.detect(scene, seen.images)[0], scene, config.window)
    width, height = (int(v) for v in scene.image_size[0].tolist())
    batch = observation_batch(detection, width, height, float(scene.focal[0]), generator,
                              box=scene.box[0])  # fmt: skip
    drawn = model.sample(batch, hypotheses, generator=generator)
    photograph = paste(seen.images[0], scene)
    people = People(matrix_to_sixd(scene.rotations), scene.betas, scene.translation)[0]
    window = Crop.upright(scene.window.centre[0], scene.window.side[0])
    return Case(image, Posterior(photograph, detection, batch, drawn), joint, people,
                seen.keypoints_image[0], seen.visibility[0], window,
                (seen.person | seen.occluder)[0])  # fmt: skip


def in_photograph(detection: Detection, scene: Scenes, size: int) -> Detection:
    """Express a detection in the rendered window (`size` pixels) in pixels of the photograph."""
    scale = scene.window.side[0] / size
    corner = scene.window.centre[0] - scene.window.side[0] / 2
    crop = detection.crop
    return replace(
        detection,
        crop=Crop(crop.centre * scale + corner, crop.side * scale, crop.roll),
        keypoints_image=detection.keypoints_image * scale + corner,
        box=detection.box * scale + corner.repeat(2),
    )


def paste(window: np.ndarray, scene: Scenes) -> np.ndarray:
    """Put the rendered window into the photograph that it was cut from; the rest is grey."""
    scale = window.shape[0] / float(scene.window.side[0])
    left, top = (scene.window.centre[0] - scene.window.side[0] / 2).tolist()
    width, height = (int(v) for v in scene.image_size[0].tolist())
    matrix = (scale, 0, -left * scale, 0, scale, -top * scale)
    return np.asarray(
        Image.fromarray(window).transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR,
            fillcolor=(GREY,) * 3,
        )
    )  # fmt: skip
