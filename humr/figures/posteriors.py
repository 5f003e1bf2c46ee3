"""Pictures of one image and its posterior: bodies in the picture and from the side, projections.

Functions draw into the axes that they are given and compute nothing but what they draw. Blue is a
hypothesis, vermilion a hypothesis of a hidden joint that would be seen, the star is the truth, the
thin line the silhouette.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from humr import detector, metrics
from humr.bodies import rendering
from humr.bodies.body import Body
from humr.figures.charts import COLOURS, star
from humr.figures.gallery import Example
from humr.geometry import Crop, pixel_centres
from humr.heatmaps import GRID
from humr.model import People
from humr.posterior import Posterior
from humr.skeletons import COCO17, Skeleton

OUTSIDE = 245  # grey of what lies outside the photograph
SPREAD_MM = 200.0  # upper end of the colour scale for spreads
SIDE_COLOURS = {"left_": "tab:blue", "right_": "tab:orange"}
TITLE = 7.5  # points
WIDTH = 6.9  # inches, of all figures
TWO_LINES = 0.42  # inches, of a title
REACH = 0.95  # share of the projections that a window holds
PIXELS = 300  # side of a panel's picture

# ---- pictures, keypoints, bodies


def picture(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """Show an image without ticks."""
    ax.imshow(image, interpolation="antialiased")
    ax.set(xticks=[], yticks=[], frame_on=False)
    ax.grid(visible=False)
    ax.set_title(title, fontsize=9)
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
        ax.plot(*points[[parent, child]].T.numpy(), color=colour, linewidth=width)
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
        scale, corner = size / crop.side, crop.centre - crop.side / 2
        x, y = crop.to_image(pixel_centres(size).flatten(0, 1)).T.reshape(2, size, size)
        height, width = posterior.image.shape[:2]
        inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[..., None].numpy()
        image = np.where(
            inside, detector.resample_window(posterior.image, crop, size), np.uint8(OUTSIDE)
        )
        return cls(crop, image, posterior.focal * scale, (posterior.centre - corner) * scale)

    @classmethod
    def of_points(
        cls,
        posterior: Posterior,
        points_image: Sequence[Float[Tensor, "_ 2"]],
        *,
        widest: float = 2.0,
        size: int = PIXELS,
    ) -> "Window":
        """Cut out the box and nearly all points of every set (pixels of the photograph)."""
        crop = posterior.batch.crop
        reach = [crop.to_crop(p[None])[0].abs().amax(-1).quantile(REACH) for p in points_image]
        margin = float(torch.stack(reach).max().clamp(1.1, widest))
        return cls.around(posterior, size=size, margin=margin)

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

    def frame(self, ax: Axes) -> Axes:
        """Keep the view on the window whatever has been drawn beyond it."""
        size = self.image.shape[0]
        ax.set(xlim=(0, size), ylim=(size, 0))
        return ax


def detected(ax: Axes, window: Window, posterior: Posterior, title: str) -> Axes:
    """Show the picture with the detector's keypoints."""
    seen = posterior.detection
    picture(ax, window.image, title)
    confidences(ax, window.pixels(seen.keypoints_image), seen.confidence)
    return window.frame(ax)


def spread_of(samples: People, body: Body, *, limit: int = 100) -> Float[Tensor, " vertices"]:
    """Spread (metres) of every vertex over the first `limit` hypotheses, standing at one place."""
    some = samples[:limit]
    return metrics.spread(some.vertices(body) - some.translation[:, None])


def tinted(vertices: Float[Tensor, "vertices 3"], role: str) -> Float[Tensor, "vertices 3"]:
    """Give every vertex the colour of a role, lightened so that shading shows."""
    colour = vertices.new_tensor(to_rgb(COLOURS[role]))
    return (0.35 + 0.65 * colour).expand_as(vertices)


def side_by_side(bodies: Sequence[Tensor], tints: Sequence[Tensor], body: Body) -> np.ndarray:
    """Draw several bodies in one side view, where they are."""
    faces = torch.cat([body.faces + i * len(body.template) for i in range(len(bodies))])
    vertices, colours = torch.cat(list(bodies)), torch.cat(list(tints))
    return rendering.side_view(vertices, faces, colours, height=PIXELS, width=PIXELS)


# ---- one joint: its heatmap and its projections


def heatmap(ax: Axes, posterior: Posterior, window: Window, joint: int) -> Axes:
    """Lay the heatmap of one joint over a picture; its colours end at its own maximum."""
    detection, size = posterior.detection, window.image.shape[0]
    points = pixel_centres(size).flatten(0, 1)
    cells = GRID.from_crop(detection.crop.to_crop(window.crop.to_image(points)))
    where = ((cells + 0.5) / 32 - 1).reshape(1, size, size, 2)
    heat = detection.heatmaps[joint][None, None].to(where)
    values = torch.nn.functional.grid_sample(heat, where, align_corners=False)[0, 0].numpy()
    picture(ax, window.faded, f"heatmap: {COCO17.names[joint].replace('_', ' ')}")
    ax.imshow(values, cmap="inferno", alpha=np.clip(values / values.max(), 0, 1))
    return window.frame(ax)


def dots(
    ax: Axes,
    window: Window,
    points_image: Float[Tensor, "points 2"],
    possible: Bool[Tensor, " points"] | None = None,
) -> Axes:
    """Mark projections; triangles where a hidden joint would be seen."""
    if possible is None:
        possible = torch.ones(len(points_image), dtype=torch.bool)
    points = window.pixels(points_image)
    for chosen, role, marker in ((possible, "predicted", "o"), (~possible, "wrong", "^")):
        x, y = points[chosen].numpy().T
        ax.scatter(x, y, s=7, marker=marker, color=COLOURS[role], edgecolors="white",
                   linewidths=0.3, zorder=3)  # fmt: skip
    return window.frame(ax)


def projections(
    ax: Axes, posterior: Posterior, body: Body, window: Window, joint: int, *, limit: int = 100
) -> Axes:
    """Mark where the first hypotheses project one joint; the title says how many are in view."""
    points = posterior.projected(body, joint)[:limit]
    place, name = window.pixels(points), COCO17.names[joint].replace("_", " ")
    seen = int(((place >= 0) & (place < window.image.shape[0])).all(-1).sum())
    picture(ax, window.faded, f"{name}: {seen} of {len(points)} hypotheses")
    return dots(ax, window, points)


def one_joint(
    ax: Axes,
    window: Window,
    example: Example,
    points_image: Float[Tensor, "points 2"],
    title: str,
) -> float:
    """Show one set of projections with silhouette and truth; return the share that is possible.

    Of a visible joint nothing is said but where the hypotheses are.
    """
    possible = example.possible(points_image) if example.hidden else None
    share = 1.0 if possible is None else float(possible.float().mean())
    picture(ax, window.faded, title if possible is None else f"{title}\n{share:.0%} possible")
    size = example.silhouette.shape[0]
    diagonal = pixel_centres(size).diagonal().T
    x, y = window.pixels(example.window.to_image(diagonal)).numpy().T
    ax.contour(x, y, example.silhouette.numpy(), [0.5], colors="black", linewidths=0.6)
    dots(ax, window, points_image, possible)
    star(ax, window.pixels(example.target)[0])
    window.frame(ax)
    return share


# ---- figures of several panels


def grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Make a grid of square panels close to each other, with room for titles of two lines."""
    height = rows * (WIDTH / columns + TWO_LINES)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False)
    fig.set_layout_engine("constrained", w_pad=0.02, h_pad=0.05, wspace=0.01, hspace=0.01)
    return fig, axes


def finding(fig: Figure, text: str) -> None:
    """Write what a figure shows above it, and all titles below small enough for their panels."""
    fig.suptitle(text, x=0.01, ha="left", fontsize=9, fontweight="bold")
    for ax in fig.axes:
        ax.set_title(ax.get_title(plt.rcParams["axes.titlelocation"]), fontsize=TITLE)


def photo_panel(posterior: Posterior, body: Body) -> Figure:
    """Show one posterior: mode, spread, four hypotheses with side views, the vaguest joint."""
    window = Window.around(posterior)
    fig, axes = plt.subplots(3, 4, figsize=(10, 8.2), layout="constrained")
    mode = posterior.mode.vertices(body)
    colours = rendering.spread_colours(spread_of(posterior.samples, body), vmax_mm=SPREAD_MM)
    four = [posterior.samples[i].vertices(body) for i in range(4)]
    view = {"height": 420, "width": 420, "fit_to": torch.stack([mode, *four]).flatten(0, 1)}

    detected(axes[0, 0], window, posterior, "photograph, detected keypoints")
    picture(axes[0, 1], window.overlay(mode, body), "mode")
    picture(axes[0, 2], window.overlay(mode, body, colours), "spread of the hypotheses")
    side = rendering.side_view(mode, body.faces, colours, **view)
    picture(axes[0, 3], side, "mode from the side")
    scale = ScalarMappable(Normalize(0, SPREAD_MM), rendering.SPREAD_COLORMAP)
    fig.colorbar(scale, ax=axes[0, 3], label="spread (mm)", shrink=0.8)
    overlays = [axes[1, 0], axes[1, 2], axes[2, 0], axes[2, 1]]
    for number, (ax, vertices) in enumerate(zip(overlays, four, strict=True), 1):
        picture(ax, window.overlay(vertices, body), f"hypothesis {number}")
    for ax, vertices in zip(axes[1, 1::2], four, strict=False):
        picture(ax, rendering.side_view(vertices, body.faces, **view), "from the side")
    joint = posterior.most_uncertain(body)
    points = posterior.projected(body, joint)
    window = Window.of_points(posterior, [points], widest=4.0, size=420)
    heatmap(axes[2, 2], posterior, window, joint)
    projections(axes[2, 3], posterior, body, window, joint)
    return fig
