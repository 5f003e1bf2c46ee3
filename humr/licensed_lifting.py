"""Licensed data as lifting systems see it: poses, 2D points, Gaussians, actions, subjects.

`LicensedLifting` stands where `lifting_data.LiftingRecords` does for the open world. Its detector
has the joints of MPII16 and was trained with Gaussians of 2 px, so nothing is derived or rescaled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from humr import hdf5, heatmaps
from humr.gaussians import GaussianFit, fit_gaussian
from humr.licensed import shown
from humr.lifting_data import (
    AMBIGUOUS,
    SHARP_PIXELS,
    SIGMA_RANGE,
    Gaussians,
    LiftingBatch,
    as_seen,
    normalised,
)
from humr.skeletons import H36M17, MPII16, index_map

CELLS = 64  # of a heatmap along each axis; a cell is the paper's pixel
LOW = 0.1  # of the peak: moments are of what lies above
# Variance of a Gaussian that is cut off there, per variance of the whole: 1 - t / (e^t - 1) with
# t = -log LOW.
KEPT = 1 + math.log(LOW) * LOW / (1 - LOW)
PELVIS_TO_JOINT = (0.1, 1.2)  # metres, mean over the joints of a median pose
FAR = 0.5  # standard deviations of a 2D pose: the median joint lies nearer to its projection


@dataclass(frozen=True)
class LicensedLifting:
    """Images of a licensed data set, in memory."""

    joints: Float[Tensor, "images 17 3"]  # H36M17 in camera space, metres
    points: Float[Tensor, "images 16 2"]  # of the detector, MPII16, y down; the unit is free
    fits: Float[Tensor, "images 16 6"]  # Gaussians, pixels of the heatmap: A, mean, xx, xy, yy
    moments: Float[Tensor, "images 16 6"] | None  # the same; None where no heatmap is at hand
    action: tuple[str, ...]
    subject: UInt8[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: slice | Tensor) -> "LicensedLifting":
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            chosen[field.name] = value[index] if isinstance(value, Tensor) else value
        kept = torch.arange(len(self))[index].tolist()
        return LicensedLifting(**{**chosen, "action": tuple(self.action[i] for i in kept)})

    @classmethod
    def join(cls, parts: Sequence["LicensedLifting"]) -> "LicensedLifting":
        """Put images of one kind of file one after another."""
        joined: dict[str, Any] = {"action": tuple(chain(*(part.action for part in parts)))}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if field.name != "action":
                joined[field.name] = None if values[0] is None else torch.cat(values)
        return cls(**joined)

    def gaussians(self, kind: str = "fit") -> Gaussians:
        """Gaussians of MPII16 by least squares ("fit") or from "moments" of the heatmaps.

        Means stay within the heatmap (official code).
        """
        if kind not in ("fit", "moments"):
            raise ValueError(f"kind must be fit or moments; got {kind!r}")
        values = self.fits if kind == "fit" else self.moments
        if values is None:
            raise ValueError(
                "there are no moments: the file these images come from holds no heatmaps. "
                "Use gaussians='fit', or a file with heatmaps (h36m_lifting.read_heatmaps)"
            )
        amplitude, x, y, xx, xy, yy = values.unbind(-1)
        covariance = torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))
        return Gaussians(amplitude, torch.stack([x, y], -1), covariance)

    @property
    def ambiguous(self) -> Bool[Tensor, " images"]:
        """Images with a joint that is wider than 5 px along an axis: H36MA."""
        return (self.gaussians().sigma[..., 1] > AMBIGUOUS).any(-1)

    def batch(self, *, gaussians: str = "fit", doubled: bool = True) -> LiftingBatch:
        """What lifting systems see of all these images."""
        return as_seen(self.joints, self.points, self.gaussians(gaussians), doubled=doubled)


# ------------------------------------------------------------------------ Gaussians


def stored_fits(fits: Float[Tensor, "images 16 7"]) -> Float[Tensor, "images 16 6"]:
    r"""Turn the official fits (A, mean x, y, sigma x, theta, sigma y, error) into Gaussians.

    The official angle is counted towards *up*, so that $R(\theta)\,\mathrm{diag}(\sigma^2)
    R(\theta)^T$ is the covariance with y up; ours has y down, and `Gaussians.condition` turns it
    back. Widths are cut as in the official code, where a negative one becomes the smallest.
    """
    amplitude, x, y, sigma_x, theta, sigma_y, error = fits.unbind(-1)
    fit = GaussianFit(
        amplitude=amplitude,
        mean=_within(torch.stack([x, y], -1)),
        sigma=torch.stack([sigma_x, sigma_y], -1).clamp(*SIGMA_RANGE),
        theta=theta,
        rmse=error,
        converged=torch.ones_like(error, dtype=torch.bool),
    )
    return _packed(fit.amplitude, fit.mean, fit.covariance)


def fitted(
    maps: Float[Tensor, "images 16 64 64"],
) -> tuple[Float[Tensor, "images 16 6"], Float[Tensor, "images 16 6"]]:
    """Return the Gaussians of heatmaps, by least squares and from moments.

    A fit that did not converge is replaced by the moments, as in the open world. A map without
    heat says nothing and counts as flat.
    """
    maps = maps.clamp(0, 1)
    maps = maps.where(maps.amax((-2, -1), keepdim=True) > 0, 1e-3)
    peak = maps.amax((-2, -1))
    high = maps.where(maps >= LOW * peak[..., None, None], 0)
    moments = _packed(peak, heatmaps.expectation(high), heatmaps.covariance(high) / KEPT)
    fit = fit_gaussian(maps)
    fits = _packed(fit.amplitude, _within(fit.mean), fit.covariance)
    return fits.where(fit.converged[..., None], moments), moments


def sure(points: Float[Tensor, "images 16 2"]) -> Float[Tensor, "images 16 6"]:
    """Gaussians of a detector that is sure: amplitude 1, round, 2 px. For 2D poses alone."""
    ones = torch.ones_like(points[..., 0])
    spread = SHARP_PIXELS**2 * torch.eye(2).expand(*points.shape, 2)
    return _packed(ones, points, spread)


def _within(mean: Tensor) -> Tensor:
    return mean.clamp(0, CELLS - 1)


def _packed(amplitude: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    parts = [amplitude[..., None], mean, covariance[..., 0, :], covariance[..., 1, 1:]]
    return torch.cat(parts, -1).float()


# ------------------------------------------------------------------------ choosing and checking


def every(actions: Sequence[str], stride: int) -> Int[Tensor, " chosen"]:
    """Return the indices of every `stride`-th image of each action, as the official code counts.

    It joins all sequences of an action and counts through, so that sequences do not start anew.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1; got {stride}")
    seen: dict[str, int] = {}
    chosen = []
    for index, action in enumerate(actions):
        seen[action] = seen.get(action, -1) + 1
        if seen[action] % stride == 0:
            chosen.append(index)
    return torch.tensor(chosen, dtype=torch.long)


def checked(images: LicensedLifting, path: Path) -> LicensedLifting:
    """Return images of a file if they can be people, in metres."""
    if not len(images):
        raise ValueError(
            f"{shown(path)} holds no image of these subjects. Usual cause: a file of another split"
        )
    for name in ("joints", "points", "fits"):
        if not getattr(images, name).isfinite().all():
            raise ValueError(
                f"{shown(path)}: {name} hold values that are not finite; the file is damaged"
            )
    reach = (images.joints[:, 1:] - images.joints[:, :1]).norm(dim=-1).mean(1).median().item()
    if not PELVIS_TO_JOINT[0] < reach < PELVIS_TO_JOINT[1]:
        raise ValueError(
            f"{shown(path)}: joints lie {reach:.3g} m from the pelvis in a median pose; expected "
            "{} to {} m. Usual cause: a file with another unit (mm, m)".format(*PELVIS_TO_JOINT)
        )
    _check_order(images, path)
    return images


def _check_order(images: LicensedLifting, path: Path) -> None:
    """Refuse 2D poses that look like the 3D poses, seen from far away, only in another order."""
    points = images.points
    by_joint = points.mT.reshape(points.shape)  # as if x0, y0, x1, ... had been stored
    orders = {
        "as they are": points,
        "with x and y exchanged": points.flip(-1),
        "read joint after joint": by_joint,
        "read joint after joint, y before x": by_joint.flip(-1),
    }
    true = normalised(images.joints[:, list(index_map(H36M17, MPII16)), :2])
    off = {  # poses without extent are not numbers, and do not count
        order: (normalised(each) - true).norm(dim=-1).nanmedian().item()
        for order, each in orders.items()
    }
    got, best = off["as they are"], min(off, key=lambda order: off[order])
    if got > FAR and off[best] < got / 2:
        raise ValueError(
            f"{shown(path)}: 2D poses must agree with the 3D poses; in a median pose joints are "
            f"{got:.2g} standard deviations off, but {off[best]:.2g} {best}. Usual cause: a file "
            "whose 2D poses were stored in another order"
        )


def expect(path: Path, name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if tuple(got) != wanted:
        raise ValueError(
            f"{shown(path)}: {name} must have shape {wanted}; got {tuple(got)}. Usual cause: a "
            "file with another set of joints, or one that was made by other code"
        )


# ------------------------------------------------------------------------ tables with heatmaps


def read_table(
    path: Path, split: str, subjects: Mapping[str, int], *, pose: str, stride: int
) -> LicensedLifting:
    """Read a table of images with heatmaps, as FMPose (Le et al.) publishes them.

    Args:
        path: HDF5 with the tables /dataset/trainset and testset.
        split: train or test.
        subjects: who is read, with a number each.
        pose: the column of 3D poses, (3, 17) in mm.
        stride: every how manieth image of each action.
    """
    table, names = f"dataset/{split}set", ("action", "subject", pose, "argmax_2d")
    columns = hdf5.read_columns(path, table, names)
    expect(path, pose, columns[pose].shape[1:], (3, 17))
    expect(path, "argmax_2d", columns["argmax_2d"].shape[1:], (2, 16))
    who = np.char.decode(columns["subject"])
    rows = np.flatnonzero(np.isin(who, list(subjects)))
    if not len(rows):
        raise ValueError(
            f"{shown(path)}: {table} has no image of {', '.join(subjects)}; it has "
            f"{', '.join(sorted(set(who))) or 'none'}"
        )
    actions = np.char.decode(columns["action"][rows]).tolist()
    chosen = every(actions, stride)
    rows = rows[chosen.numpy()]
    poses = torch.from_numpy(columns[pose][rows]).float().mT / 1000
    maps = hdf5.read_rows(path, table, "heatmap", rows)
    parts = [fitted(_maps(path, some)) for some in maps]
    images = LicensedLifting(
        joints=poses,
        points=torch.from_numpy(columns["argmax_2d"][rows]).float().mT.flip(-1) * CELLS,
        fits=torch.cat([fits for fits, _ in parts]),
        moments=torch.cat([moments for _, moments in parts]),
        action=tuple(actions[index] for index in chosen.tolist()),
        subject=torch.tensor([subjects[name] for name in who[rows]], dtype=torch.uint8),
    )
    return checked(images, path)


def _maps(path: Path, maps: np.ndarray) -> Float[Tensor, "images 16 64 64"]:
    expect(path, "heatmap", maps.shape[1:], (16, CELLS, CELLS))
    if not np.isfinite(maps).all():
        raise ValueError(f"{shown(path)}: heatmaps hold values that are not finite")
    return torch.from_numpy(maps.astype(np.float32))
