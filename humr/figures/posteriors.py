"""Rows of panels for one image each: hypotheses in the picture and from the side, projections.

Every function draws into the axes it is given. Blue is a hypothesis, vermilion a hypothesis of a
hidden joint that would be seen, the star is the truth, the thin line the silhouette.
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
from torch.nn.functional import max_pool2d

from humr import detector, metrics
from humr.bodies import rendering
from humr.bodies.body import Body
from humr.figures.charts import COLOURS
from humr.figures.gallery import Example
from humr.geometry import Crop, pixel_centres
from humr.heatmaps import GRID
from humr.losses import inside_mask, mask_penalised
from humr.model import People
from humr.posterior import Posterior
from humr.skeletons import COCO17, Skeleton

# Functions that draw on given axes; they compute nothing but what they draw.


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
        image = np.where(inside, detector.cut(posterior.image, crop, size), np.uint8(OUTSIDE))
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
    points = pixel_centres(size).flatten(0, 1)
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


Row = Sequence[Axes] | np.ndarray  # of axes
TITLE = 7.5  # points
WIDTH = 6.9  # inches, of all figures
TWO_LINES = 0.42  # inches, of a title
PAIR = ("predicted", "wrong")  # roles whose colours two hypotheses get
ENDS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")
END_COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00")
REACH = 0.95  # share of the projections that a window holds
PIXELS = 300  # side of a panel's picture
WIDEST_MM = 400.0  # upper end of the colours of spread


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


def window_of(
    posterior: Posterior, points_image: Sequence[Float[Tensor, "_ 2"]], *, widest: float = 2.0
) -> Window:
    """Return a window that holds the box and nearly all points of every set."""
    crop = posterior.batch.crop
    reach = [crop.to_crop(p[None])[0].abs().amax(-1).quantile(REACH) for p in points_image]
    margin = float(torch.stack(reach).max().clamp(1.1, widest))
    return Window.around(posterior, size=PIXELS, margin=margin)


def fix(ax: Axes, window: Window) -> Axes:
    """Keep the view on the window whatever has been drawn beyond it."""
    size = window.image.shape[0]
    ax.set(xlim=(0, size), ylim=(size, 0))
    return ax


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
    return fix(ax, window)


def star(ax: Axes, window: Window, point_image: Float[Tensor, "2"]) -> Axes:
    """Mark the truth."""
    x, y = window.pixels(point_image[None])[0].tolist()
    ax.plot(x, y, "*", color="gold", markersize=9, markeredgecolor="black", markeredgewidth=0.7,
            zorder=4)  # fmt: skip
    return fix(ax, window)


def outline(ax: Axes, window: Window, case: Example) -> Axes:
    """Draw the edge of person and objects: inside it a hidden joint may be."""
    size = case.silhouette.shape[0]
    ticks = ((torch.arange(size) + 0.5) / size * 2 - 1)[:, None].expand(-1, 2)
    x, y = window.pixels(case.window.to_image(ticks)).numpy().T
    ax.contour(x, y, case.silhouette.numpy(), [0.5], colors="black", linewidths=0.6)
    return fix(ax, window)


def one_joint(
    ax: Axes,
    window: Window,
    case: Example,
    points_image: Float[Tensor, "points 2"],
    title: str,
) -> float:
    """Show one set of projections with silhouette and truth; return the share that is possible.

    Of a visible joint nothing is said but where the hypotheses are.
    """
    possible = case.possible(points_image) if case.hidden else None
    picture(ax, window.faded)
    outline(ax, window, case)
    dots(ax, window, points_image, possible)
    star(ax, window, case.truth[case.joint])
    share = 1.0 if possible is None else float(possible.float().mean())
    ax.set_title(title if possible is None else f"{title}\n{share:.0%} possible")
    return share


def detected(ax: Axes, window: Window, posterior: Posterior, title: str) -> Axes:
    """Show the picture with the detector's keypoints."""
    picture(ax, window.image, title)
    seen = posterior.detection
    confidences(ax, window.pixels(seen.keypoints_image), seen.confidence)
    return fix(ax, window)


def opposite(axes: Row, posterior: Posterior, body: Body, joint: int) -> Window:
    """Show a picture, two hypotheses that disagree on a joint, and both from the side."""
    window = window_of(posterior, [posterior.projected(body, joint)])
    detected(axes[0], window, posterior, "picture, keypoints")
    bodies = [posterior.samples[i].vertices(body) for i in posterior.apart(body, joint)]
    tints = [tinted(vertices, role) for vertices, role in zip(bodies, PAIR, strict=True)]
    for ax, vertices, tint, name in zip(axes[1:3], bodies, tints, "AB", strict=True):
        picture(ax, window.overlay(vertices, body, tint), f"hypothesis {name}")
    picture(axes[3], side_by_side(bodies, tints, body), "from the side")
    return window


def tinted(vertices: Float[Tensor, "vertices 3"], role: str) -> Float[Tensor, "vertices 3"]:
    """Give every vertex the colour of a role, lightened so that shading shows."""
    colour = vertices.new_tensor(to_rgb(COLOURS[role]))
    return (0.35 + 0.65 * colour).expand_as(vertices)


def side_by_side(bodies: Sequence[Tensor], tints: Sequence[Tensor], body: Body) -> np.ndarray:
    """Draw several bodies in one side view, where they are."""
    count = len(body.template)
    faces = torch.cat([body.faces + i * count for i in range(len(bodies))])
    return rendering.side_view(
        torch.cat(list(bodies)), faces, torch.cat(list(tints)),
        height=PIXELS, width=PIXELS,
    )  # fmt: skip


def hypotheses(
    axes: Row,
    posterior: Posterior,
    body: Body,
    joint: int,
    *,
    truth: Float[Tensor, "1 2"] | None = None,
) -> Window:
    """Show a picture and, in the other axes but the last, one hypothesis each."""
    points = [posterior.projected(body, joint)]
    window = window_of(posterior, points if truth is None else [*points, truth])
    detected(axes[0], window, posterior, "picture, keypoints")
    for i, ax in enumerate(axes[1:-1]):
        vertices = posterior.samples[i].vertices(body)
        picture(ax, window.overlay(vertices, body), f"hypothesis {i + 1}")
    return window


def failure(axes: Row, case: Example, body: Body) -> Window:
    """Show picture, mode coloured by spread, mode and truth (orange) from the side, one joint."""
    posterior = case.posterior
    points = posterior.projected(body, case.joint)
    window = window_of(posterior, [points, case.target])
    mode, truth = posterior.mode.vertices(body), case.people.vertices(body)
    spread = spread_of(posterior.samples, body)
    colours = rendering.spread_colours(spread, vmax_mm=WIDEST_MM)
    detected(axes[0], window, posterior, "picture, keypoints")
    picture(axes[1], window.overlay(mode, body, colours), "mode; red: 0.4 m spread")
    moved = truth + (posterior.mode.joints(body) - case.people.joints(body))[0]
    tints = [tinted(mode, "predicted"), tinted(truth, "wrong")]
    picture(axes[2], side_by_side([mode, moved], tints, body), "mode; truth in orange")
    one_joint(axes[3], window, case, points, case.name)
    return window


def ends(front: Axes, side: Axes, case: Example, body: Body) -> None:
    """Show the samples of wrists and ankles in metres about the pelvis: front and side view."""
    posterior = case.posterior
    samples = relative_to_hips(posterior.keypoints(body))
    mode = relative_to_hips(posterior.mode.keypoints(body, "coco17"))
    truth = relative_to_hips(case.people.keypoints(body, "coco17"))
    for ax, axis, label in ((front, 0, "right (m)"), (side, 2, "away from the camera (m)")):
        for parent, child in COCO17.bones:
            line = mode[[parent, child]].numpy()
            ax.plot(line[:, axis], line[:, 1], color="0.75", linewidth=1.2, zorder=1)
        for name, colour in zip(ENDS, END_COLOURS, strict=True):
            joint = COCO17.index(name)
            cloud = samples[:, joint].numpy()
            ax.scatter(cloud[:, axis], cloud[:, 1], s=5, color=colour, linewidths=0, alpha=0.7,
                       label=name.replace("_", " "))  # fmt: skip
            x, y = truth[joint, [axis, 1]].tolist()
            ax.plot(x, y, "*", color="gold", markersize=9, markeredgecolor="black",
                    markeredgewidth=0.6, zorder=4)  # fmt: skip
        ax.set(xlabel=label, aspect="equal", xlim=(-0.95, 0.95), ylim=(1.1, -0.95))
    front.set_ylabel("down (m)")


def relative_to_hips(points: Float[Tensor, "*batch 17 3"]) -> Float[Tensor, "*batch 17 3"]:
    """Put the middle of the hips at the origin."""
    hips = points[..., list(COCO17.indices(["left_hip", "right_hip"])), :]
    return points - hips.mean(-2, keepdim=True)


def mask_pull(
    ax: Axes,
    window: Window,
    case: Example,
    points_image: Float[Tensor, "points 2"],
    targets: Tensor,
) -> int:
    """Show which hypotheses the mask loss moves, and to which heatmap sample (HuMR, figure 4).

    Green dots pay nothing; vermilion triangles lie off the mask and are pulled along the grey
    lines to the nearest (L1) blue square, a sample (points 2; pixels) of the heatmap on the mask.
    Returns how many are pulled.
    """
    batch = case.posterior.batch
    mask = max_pool2d(batch.mask[:, None].float(), 3, 1, 1)[:, 0] > 0  # as in training
    points, samples = (batch.crop.to_crop(p[None]) for p in (points_image, targets))
    hidden = torch.ones(1, 1, dtype=torch.bool)
    in_photo = ((points_image >= 0) & (points_image < batch.image_size)).all(-1)
    pays = in_photo & mask_penalised(points[:, :, None], mask, hidden)[0, :, 0]
    kept = targets[inside_mask(samples, mask)[0]]
    picture(ax, window.faded)
    x, y = window.pixels(kept).numpy().T
    ax.scatter(x, y, s=7, marker="s", color=COLOURS["predicted"], linewidths=0, alpha=0.6)
    for chosen, role, marker in ((~pays, "good", "o"), (pays, "wrong", "^")):
        x, y = window.pixels(points_image[chosen]).numpy().T
        ax.scatter(x, y, s=10, marker=marker, color=COLOURS[role], edgecolors="white",
                   linewidths=0.3, zorder=3)  # fmt: skip
    if len(kept) and pays.any():
        nearest = (points_image[pays][:, None] - kept).abs().sum(-1).argmin(-1)
        start, stop = window.pixels(points_image[pays]), window.pixels(kept[nearest])
        ax.plot(*torch.stack([start, stop]).permute(2, 0, 1).numpy(), color="0.35", linewidth=0.5)
    fix(ax, window)
    return int(pays.sum())
