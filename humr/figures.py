"""Functions that draw on given axes; they compute nothing but what they draw."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from humr import metrics, photos, rendering
from humr.bodies import Body
from humr.cameras import Crop
from humr.detectors import GRID
from humr.diagrams import COLOURS
from humr.mesh import People
from humr.posterior import Posterior
from humr.skeletons import COCO17, Skeleton

OUTSIDE = 245  # grey of what lies outside the photograph
SPREAD_MM = 200.0  # upper end of the colour scale for spreads
SIDE_COLOURS = {"left_": "tab:blue", "right_": "tab:orange"}


def picture(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """Show an image without ticks."""
    ax.imshow(image, interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.set_title(title, fontsize=9)
    ax.set_frame_on(False)
    return ax


def halved(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Average 2 x 2 pixels: a quarter of the bytes in a committed notebook, less noise."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return blocks.mean((1, 3)).astype(np.uint8)


def skeleton(
    ax: Axes, points: Float[Tensor, "joints 2"], kind: Skeleton = COCO17, *, width: float = 1.5
) -> Axes:
    """Draw 2D bones: left side blue, right side orange, middle grey."""
    for parent, child in kind.bones:
        name = kind.names[child]
        colour = next((c for side, c in SIDE_COLOURS.items() if name.startswith(side)), "grey")
        line = points[[parent, child]].numpy()
        ax.plot(line[:, 0], line[:, 1], color=colour, linewidth=width)
    return ax


def confidences(
    ax: Axes, points: Float[Tensor, "joints 2"], confidence: Float[Tensor, " joints"]
) -> Axes:
    """Mark keypoints: green where the detector is certain, yellow unsure, red not seen."""
    colour = np.where(confidence >= 0.7, "lime", np.where(confidence >= 0.5, "gold", "red"))
    x, y = points.numpy().T
    ax.scatter(x, y, c=colour.tolist(), s=16, edgecolors="black", linewidths=0.5, zorder=3)
    return ax


@dataclass(frozen=True)
class Window:
    """A square part of a photograph, scaled, with its own camera."""

    crop: Crop
    image: UInt8[np.ndarray, "size size 3"]
    focal: Float[Tensor, ""]
    centre: Float[Tensor, "2"]

    @classmethod
    def around(cls, posterior: Posterior, *, size: int = 420, margin: float = 1.15) -> "Window":
        """Cut out the person's box, a little wider."""
        box = posterior.batch.box[0]
        crop = Crop.upright(box[:2], margin * box[2])
        scale = size / crop.side
        corner = crop.centre - crop.side / 2
        inside = _inside(crop, size, posterior.image)[..., None]
        image = np.where(inside, photos.cut(posterior.image, crop, size), np.uint8(OUTSIDE))
        return cls(
            crop,
            image,
            posterior.focal * scale,
            (posterior.centre - corner) * scale,
        )

    @property
    def faded(self) -> UInt8[np.ndarray, "size size 3"]:
        """The image, half as strong, as a background for points."""
        return (self.image // 2 + 120).astype(np.uint8)

    def pixels(self, points_image: Float[Tensor, "points 2"]) -> Float[Tensor, "points 2"]:
        """Map pixels of the photograph to pixels of the window."""
        return (self.crop.to_crop(points_image) + 1) / 2 * self.image.shape[0]

    def overlay(
        self, vertices: Float[Tensor, "vertices 3"], body: Body, colours: Tensor | None = None
    ) -> np.ndarray:
        """Lay a body over the window."""
        return rendering.overlay(
            self.image, vertices, body.faces, self.focal, self.centre, colours
        )


def _inside(crop: Crop, size: int, image: np.ndarray) -> np.ndarray:
    """Pixels (size, size) of an upright window that lie inside the photograph."""
    ticks = ((torch.arange(size) + 0.5) / size * 2 - 1)[:, None].expand(-1, 2)
    x, y = crop.to_image(ticks).T
    columns, rows = (x >= 0) & (x < image.shape[1]), (y >= 0) & (y < image.shape[0])
    return (rows[:, None] & columns).numpy()


def spread_of(samples: People, body: Body, *, limit: int = 100) -> Float[Tensor, " vertices"]:
    """Spread (metres) of every vertex over the first `limit` hypotheses."""
    return metrics.spread(samples[:limit].vertices(body))


def photo_panel(posterior: Posterior, body: Body) -> Figure:
    """Show one posterior: mode, spread, four hypotheses with side views, the vaguest joint."""
    window = Window.around(posterior)
    fig, axes = plt.subplots(3, 4, figsize=(10, 8.2), layout="constrained")
    mode = posterior.mode.vertices(body)
    spread = spread_of(posterior.samples, body)
    colours = rendering.spread_colours(spread, vmax_mm=SPREAD_MM)
    four = [posterior.samples[i].vertices(body) for i in range(4)]
    everyone = torch.stack([mode, *four]).flatten(0, 1)

    picture(axes[0, 0], window.image, "photograph, detected keypoints")
    confidences(
        axes[0, 0],
        window.pixels(posterior.detection.keypoints_image),
        posterior.detection.confidence,
    )
    axes[0, 0].set(xlim=(0, window.image.shape[1]), ylim=(window.image.shape[0], 0))
    picture(axes[0, 1], window.overlay(mode, body), "mode")
    picture(axes[0, 2], window.overlay(mode, body, colours), "spread of the hypotheses")
    side = rendering.side_view(mode, body.faces, colours, height=420, width=420, fit_to=everyone)
    picture(axes[0, 3], side, "mode from the side")
    scale = ScalarMappable(Normalize(0, SPREAD_MM), rendering.SPREAD_COLORMAP)
    fig.colorbar(scale, ax=axes[0, 3], label="spread (mm)", shrink=0.8)
    for i, vertices in enumerate(four[:2]):
        picture(axes[1, 2 * i], window.overlay(vertices, body), f"hypothesis {i + 1}")
        view = rendering.side_view(vertices, body.faces, height=420, width=420, fit_to=everyone)
        picture(axes[1, 2 * i + 1], view, "from the side")
    for i, vertices in enumerate(four[2:]):
        picture(axes[2, i], window.overlay(vertices, body), f"hypothesis {i + 3}")
    joint = posterior.most_uncertain(body)
    heatmap_beside_projections(axes[2, 2], axes[2, 3], posterior, body, joint)
    return fig


def window_of_joint(posterior: Posterior, body: Body, joint: int) -> Window:
    """Return a window that holds the box and nearly all projections of one joint."""
    projected = posterior.pixels(posterior.keypoints(body))[:, joint]
    reach = posterior.batch.crop.to_crop(projected[None]).abs().amax(-1)
    return Window.around(posterior, margin=float(torch.quantile(reach, 0.95).clamp(1.15, 4.0)))


def heatmap_beside_projections(
    left: Axes, right: Axes, posterior: Posterior, body: Body, joint: int
) -> None:
    """Show the heatmap of one joint, and where 100 hypotheses project it."""
    window = window_of_joint(posterior, body, joint)
    heatmap(left, posterior, window, joint)
    projections(right, posterior, body, window, joint)


def heatmap(ax: Axes, posterior: Posterior, window: Window, joint: int) -> Axes:
    """Lay the heatmap of one joint over a picture; its colours end at its own maximum."""
    detection, size = posterior.detection, window.image.shape[0]
    grid = (torch.arange(size) + 0.5) / size * 2 - 1
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).flatten(0, 1)
    cells = GRID.from_crop(detection.crop.to_crop(window.crop.to_image(points)))
    where = ((cells + 0.5) / 32 - 1).reshape(1, size, size, 2)
    heat = detection.heatmaps[joint][None, None].to(where)
    values = torch.nn.functional.grid_sample(heat, where, align_corners=False)[0, 0].numpy()
    name = COCO17.names[joint].replace("_", " ")
    picture(ax, window.faded, f"heatmap: {name}")
    ax.imshow(values, cmap="inferno", alpha=np.clip(values / values.max(), 0, 1))
    ax.set(xlim=(0, size), ylim=(size, 0))
    return ax


def projections(
    ax: Axes, posterior: Posterior, body: Body, window: Window, joint: int, *, limit: int = 100
) -> Axes:
    """Mark where the first hypotheses project one joint; the title says how many are in view."""
    name = COCO17.names[joint].replace("_", " ")
    points = posterior.pixels(posterior.keypoints(body)[:limit])
    x, y = place = window.pixels(points[:, joint]).numpy().T
    seen = int(((place >= 0) & (place < window.image.shape[0])).all(0).sum())
    picture(ax, window.faded, f"{name}: {seen} of {len(points)} hypotheses")
    ax.scatter(x, y, s=7, color=COLOURS["predicted"], edgecolors="white", linewidths=0.3)
    size = window.image.shape[0]
    ax.set(xlim=(0, size), ylim=(size, 0))
    return ax
