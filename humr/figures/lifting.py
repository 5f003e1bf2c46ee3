"""Pictures of 17-joint poses, and of images for lifting with their heatmaps and Gaussians.

Images of a lifting world are not kept: `render_example` renders them again, the same ones. The
other functions draw into the axes that they are given. Stick figures have the axes of lifting (x
right, y up, z towards the camera), in metres. Hypotheses have no place in the photograph, since
lifting leaves it open: for the picture they are hung up at the true pelvis.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Ellipse
from torch import Tensor
from torch.nn.functional import pad

from humr import detector
from humr.detector import Detection
from humr.figures import posteriors
from humr.figures.charts import COLOURS, star
from humr.geometry import Crop, project
from humr.heatmaps import GRID
from humr.lifting import world
from humr.lifting.config import LiftingWorld
from humr.lifting.world import LiftingRecords
from humr.skeletons import COCO17, H36M17
from humr.world import generate

FRONT, SIDE = (0, 1), (2, 1)  # which axes run right and up; from the side, the camera is right
REACH = 1.05  # metres around the pelvis that are shown
SIZE = 160  # pixels of a picture's side
LEVELS = 16  # of grey: with the colours, most of the bytes in a committed notebook are left out
CELLS = 64  # of a heatmap's side

# ---- poses


def stick_figures(
    ax: Axes,
    poses: Float[Tensor, "hypotheses 17 3"],
    view: tuple[int, int],
    *,
    colour: str,
    alpha: float = 1.0,
    width: float = 1.0,
) -> Axes:
    """Draw poses seen along one axis."""
    bones = torch.tensor(H36M17.bones)
    lines = poses.detach().cpu()[:, bones][..., list(view)].flatten(0, 1).numpy()
    ax.add_collection(LineCollection(list(lines), colors=colour, alpha=alpha, linewidths=width))
    return ax


def stick_hypotheses(
    ax: Axes,
    samples: Float[Tensor, "hypotheses 17 3"],
    target: Float[Tensor, "17 3"],
    view: tuple[int, int],
    *,
    mode: Float[Tensor, "17 3"] | None = None,
    limit: int = 20,
    role: str = "predicted",
) -> Axes:
    """Draw the first hypotheses thin, the mode, and the label in black."""
    few = samples[:limit]
    alpha = max(0.15, min(1.0, 4 / len(few)))
    stick_figures(ax, few, view, colour=COLOURS[role], alpha=alpha, width=0.8)
    if mode is not None:
        stick_figures(ax, mode[None], view, colour=COLOURS[role], width=1.6)
    stick_figures(ax, target[None], view, colour="black", width=1.3)
    return square_axes(ax)


def square_axes(ax: Axes) -> Axes:
    """Show a square around the pelvis, without ticks."""
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
    ax.set_frame_on(False)
    ax.grid(visible=False)
    return ax


# ---- images


@dataclass(frozen=True)
class LiftingExample:
    """One image of a lifting world, as it is and as the detector sees it."""

    records: LiftingRecords  # one image
    detection: Detection
    image: UInt8[np.ndarray, "size size 3"]  # the detector's window

    def pixels(self, points_image: Float[Tensor, "points 2"]) -> Float[Tensor, "points 2"]:
        """Map pixels of the photograph to those of the picture."""
        centre, side, roll = self.records.window[0].split([2, 1, 1])
        return (Crop(centre, side[0], roll[0]).to_crop(points_image) + 1) / 2 * SIZE

    def projected(
        self, poses: Float[Tensor, "hypotheses 17 3"]
    ) -> Float[Tensor, "hypotheses 17 2"]:
        """Pixels of the picture where poses in lifting's axes lie, the pelvis at the true one."""
        camera = poses * poses.new_tensor([1, -1, -1]) + self.records.joints[0, 0]
        points = project(camera, self.records.focal[0], self.records.image_size[0] / 2)
        return self.pixels(points.flatten(0, 1)).unflatten(0, points.shape[:2])

    def show(self, ax: Axes, title: str = "", *, faded: bool = False) -> Axes:
        """Show the picture in grey, or in light grey, as a background for points and colours."""
        grey = self.image.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
        grey = (grey // 2 + 120 if faded else grey) // (256 // LEVELS) * (256 // LEVELS)
        posteriors.picture(ax, grey, title)
        ax.images[-1].set_interpolation("nearest")  # others would make new colours
        ax.set(xlim=(0, SIZE), ylim=(SIZE, 0), autoscale_on=False)
        return ax


def render_example(config: LiftingWorld, split: str, index: int) -> LiftingExample:
    """Render one image of a split again, and show it to the detector again."""
    store = world.store(config)
    store.generate(splits=[split])
    number, place = divmod(index, config.shard)
    scene = world.scenes(config, split, number)[place : place + 1]
    images = world.views(config, split, number, place, place + 1).images
    (detection,) = generate.detect(scene, images)
    records = store.load(split)[slice(index, index + 1)]
    image = detector.resample_window(images[0], detection.crop, SIZE)
    return LiftingExample(records, detection, image)


def person(ax: Axes, example: LiftingExample, title: str = "") -> Axes:
    """Show the picture in grey with the detected joints."""
    points = example.pixels(example.records.keypoints[0])
    return posteriors.confidences(example.show(ax, title), points, example.records.confidence[0])


def heatmap(ax: Axes, example: LiftingExample, joint: int) -> Axes:
    """Lay one heatmap (COCO joint) over the faded picture, and its Gaussian: 1 and 2 sigma."""
    example.show(ax, COCO17.names[joint].replace("_", " "), faded=True)
    heat = torch.as_tensor(example.detection.heatmaps[joint])
    values = (heat / heat.max()).numpy()
    ax.imshow(values, cmap="inferno", alpha=values, extent=(0, SIZE, SIZE, 0))
    _, x, y, xx, xy, yy = example.records.fits[0, joint].unbind()
    centre = (GRID.to_crop(torch.stack([x, y])) + 1) / 2 * SIZE
    covariance = torch.stack([xx, xy, xy, yy]).reshape(2, 2) * (SIZE / CELLS) ** 2
    return ellipses(ax, centre, covariance, colour="cyan")


def ellipses(
    ax: Axes,
    mean: Float[Tensor, "2"],
    covariance: Float[Tensor, "2 2"],
    *,
    colour: str,
    levels: tuple[float, ...] = (1.0, 2.0),
) -> Axes:
    """Draw curves of one and two standard deviations of a Gaussian, in the units of the axes."""
    variance, axes = torch.linalg.eigh(covariance)
    sigma = variance.clamp_min(0).sqrt()
    angle = float(torch.rad2deg(torch.atan2(axes[1, 1], axes[0, 1])))  # of the larger axis
    x, y = mean.tolist()
    for level in levels:
        height, width = (2 * level * sigma).tolist()
        shape = Ellipse((x, y), width, height, angle=angle, fill=False, edgecolor=colour)
        ax.add_patch(shape)
    return ax


def hypotheses(
    ax: Axes,
    example: LiftingExample,
    samples: Float[Tensor, "hypotheses 17 3"],
    joint: int,
    *,
    few: int = 3,
) -> Axes:
    """Show few hypotheses as sticks, one H36M17 joint of all as dots, the truth as a star."""
    example.show(ax, f"{len(samples)} hypotheses", faded=True)
    points = example.projected(samples)
    stick_figures(ax, pad(points[:few], (0, 1)), FRONT, colour=COLOURS["predicted"])
    x, y = points[:, joint].T.numpy()
    ax.scatter(x, y, s=6, color=COLOURS["wrong"], linewidths=0, alpha=0.6, zorder=3)
    return star(ax, example.projected(example.records.batch().target)[0, joint])
