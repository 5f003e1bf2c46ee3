"""Rows of panels for one image each: hypotheses in the picture and from the side, projections.

Every function draws into the axes it is given. Blue is a hypothesis, vermilion a hypothesis of a
hidden joint that would be seen, the star is the truth, the thin line the silhouette.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import max_pool2d

from humr import figures, rendering
from humr.bodies import Body
from humr.cases import Case
from humr.diagrams import COLOURS
from humr.figures import Window
from humr.losses import inside_mask, mask_penalised
from humr.posterior import Posterior
from humr.skeletons import COCO17

Row = Sequence[Axes] | np.ndarray  # of axes
TITLE = 7.5  # points
WIDTH = 6.9  # inches, of all figures
TWO_LINES = 0.42  # inches, of a title
PAIR = ("predicted", "wrong")  # roles whose colours two hypotheses get
ENDS = ("left_wrist", "right_wrist", "left_ankle", "right_ankle")
END_COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00")
REACH = 0.95  # share of the projections that a window holds
PIXELS = 300  # side of a panel's picture
SPREAD_MM = 400.0  # upper end of the colours of spread


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


def outline(ax: Axes, window: Window, case: Case) -> Axes:
    """Draw the edge of person and objects: inside it a hidden joint may be."""
    size = case.silhouette.shape[0]
    ticks = ((torch.arange(size) + 0.5) / size * 2 - 1)[:, None].expand(-1, 2)
    x, y = window.pixels(case.window.to_image(ticks)).numpy().T
    ax.contour(x, y, case.silhouette.numpy(), [0.5], colors="black", linewidths=0.6)
    return fix(ax, window)


def one_joint(
    ax: Axes,
    window: Window,
    case: Case,
    points_image: Float[Tensor, "points 2"],
    title: str,
) -> float:
    """Show one set of projections with silhouette and truth; return the share that is possible.

    Of a visible joint nothing is said but where the hypotheses are.
    """
    possible = case.possible(points_image) if case.hidden else None
    figures.picture(ax, window.faded)
    outline(ax, window, case)
    dots(ax, window, points_image, possible)
    star(ax, window, case.truth[case.joint])
    share = 1.0 if possible is None else float(possible.float().mean())
    ax.set_title(title if possible is None else f"{title}\n{share:.0%} possible")
    return share


def detected(ax: Axes, window: Window, posterior: Posterior, title: str) -> Axes:
    """Show the picture with the detector's keypoints."""
    figures.picture(ax, window.image, title)
    seen = posterior.detection
    figures.confidences(ax, window.pixels(seen.keypoints_image), seen.confidence)
    return fix(ax, window)


def opposite(axes: Row, posterior: Posterior, body: Body, joint: int) -> Window:
    """Show a picture, two hypotheses that disagree on a joint, and both from the side."""
    window = window_of(posterior, [posterior.projected(body, joint)])
    detected(axes[0], window, posterior, "picture, keypoints")
    bodies = [posterior.samples[i].vertices(body) for i in posterior.apart(body, joint)]
    tints = [tinted(vertices, role) for vertices, role in zip(bodies, PAIR, strict=True)]
    for ax, vertices, tint, name in zip(axes[1:3], bodies, tints, "AB", strict=True):
        figures.picture(ax, window.overlay(vertices, body, tint), f"hypothesis {name}")
    figures.picture(axes[3], side_by_side(bodies, tints, body), "from the side")
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
        figures.picture(ax, window.overlay(vertices, body), f"hypothesis {i + 1}")
    return window


def failure(axes: Row, case: Case, body: Body) -> Window:
    """Show picture, mode coloured by spread, mode and truth (orange) from the side, one joint."""
    posterior = case.posterior
    points = posterior.projected(body, case.joint)
    window = window_of(posterior, [points, case.target])
    mode, truth = posterior.mode.vertices(body), case.people.vertices(body)
    spread = figures.spread_of(posterior.samples, body)
    colours = rendering.spread_colours(spread, vmax_mm=SPREAD_MM)
    detected(axes[0], window, posterior, "picture, keypoints")
    figures.picture(axes[1], window.overlay(mode, body, colours), "mode; red: 0.4 m spread")
    moved = truth + (posterior.mode.joints(body) - case.people.joints(body))[0]
    tints = [tinted(mode, "predicted"), tinted(truth, "wrong")]
    figures.picture(axes[2], side_by_side([mode, moved], tints, body), "mode; truth in orange")
    one_joint(axes[3], window, case, points, case.name)
    return window


def ends(front: Axes, side: Axes, case: Case, body: Body) -> None:
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
    ax: Axes, window: Window, case: Case, points_image: Float[Tensor, "points 2"], targets: Tensor
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
    figures.picture(ax, window.faded)
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
