"""Poses of 17 joints as stick figures: many hypotheses of one image over each other.

Axes are those of lifting (x right, y up, z towards the camera), in metres. Every function draws
into the axes it is given.
"""

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from humr.diagrams import COLOURS
from humr.skeletons import H36M17

FRONT, SIDE = (
    (0, 1),
    (2, 1),
)  # coordinates that run right and up; from the side, the camera is right
REACH = 1.05  # metres around the pelvis that are shown


def sticks(
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


def hypotheses(
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
    sticks(ax, few, view, colour=COLOURS[role], alpha=alpha, width=0.8)
    if mode is not None:
        sticks(ax, mode[None], view, colour=COLOURS[role], width=1.6)
    sticks(ax, target[None], view, colour="black", width=1.3)
    return framed(ax)


def framed(ax: Axes) -> Axes:
    """Show a square around the pelvis, without ticks."""
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
    ax.grid(visible=False)
    ax.set_frame_on(False)
    return ax
