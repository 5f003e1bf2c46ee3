"""Run a model over records and measure it: one row per image, lengths in mm, pixels of 256.

Hypotheses are drawn and measured in pieces, so that any number of them fits: what is kept of each
is its joints and errors (see `measures`). The mode is the first of the hypotheses, as in HuMR.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from tqdm import tqdm

from humr import metrics
from humr.batches import Batch
from humr.bodies.body import Body
from humr.bodies.surface import surface_errors, vertex_weights
from humr.files import in_place_of
from humr.geometry import matrix_to_sixd
from humr.metrics import quantile, rank
from humr.model import Humr, Hypotheses, Observation, People
from humr.skeletons import COCO17, COCO17_FROM_BLAZEPOSE, COMMON14

# What is measured of an image's hypotheses: every function returns columns, a value per image.
#
# The first hypothesis is the mode. Best, worst, mean and median are over all of them (HuMR
# counts the mode among its hundred); whatever describes the distribution (`sample`, scores,
# spread, coverage, ranks) is over the random ones. A single hypothesis, the mode, stands for
# both: a point forecast, whose energy score is its MPJPE, with spread 0 and intervals that hold
# nothing. Lengths are in millimetres, image errors in pixels of a box of 256.


PIXELS = 256  # side of the box in which image errors are counted (HuMR, supplement)
CERTAIN = 0.5  # a joint counts as visible in HuMR's tables above this confidence of the detector
PIECE = 128  # hypotheses whose image errors are computed at once
HIPS = COMMON14.indices(["left_hip", "right_hip"])
COCO_HIPS = COCO17.indices(["left_hip", "right_hip"])
LIMBS = tuple(range(5, 17))  # of COCO-17: what the detector's own 3D landmarks share with ours
RANKED = COCO17.indices([f"{side}_{part}" for part in ("wrist", "ankle")
                         for side in ("left", "right")])  # fmt: skip
KINDS: tuple[str, ...] = ("mpjpe", "pa_mpjpe", "pve", "wpve")


@dataclass(frozen=True)
class Truth:
    """Labels and evaluation-only facts of a batch."""

    batch: Batch
    seen: Batch  # what the network was shown: differs if it is not told the focal length
    common14: Float[Tensor, "batch 14 3"]  # about the middle of the hips
    coco17: Float[Tensor, "batch 17 3"]  # in camera space
    vertices: Float[Tensor, "batch vertices 3"]  # about the middle of the hips
    visible: Bool[Tensor, "batch 17"]
    hidden: Bool[Tensor, "batch 17"]  # by the body itself, by an object, or outside
    covered: Bool[Tensor, "batch 17"]  # hidden, but inside the photograph
    silhouette: Bool[Tensor, "batch rows columns"]  # person or object: where a joint may be
    landmarks: Float[Tensor, "batch 33 3"]  # the detector's own 3D joints
    facts: Mapping[str, Shaped[Tensor, " batch"]]  # columns that say what an image shows

    @property
    def certain(self) -> Bool[Tensor, "batch 17"]:
        """Joints that HuMR's tables call visible: the detector is confident of them."""
        return self.batch.keypoints[..., 2] > CERTAIN


@runtime_checkable
class Images(Protocol):
    """Images with labels, of whatever world: all that `evaluate` asks of them."""

    @property
    def features(self) -> Float[Tensor, "images features"]:
        """What the network sees of the pixels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> "Images": ...

    def truth(
        self, body: Body, *, samples: int, generator: torch.Generator, default_focal: bool = False
    ) -> Truth:
        """Return inputs and labels on the body's device; the network reads heatmap samples."""
        ...


@dataclass(frozen=True)
class Forecast:
    """What is kept of a batch's hypotheses, the mode first: joints and errors, never vertices."""

    common14: Float[Tensor, "batch hypotheses 14 3"]  # about the middle of the hips
    coco17: Float[Tensor, "batch hypotheses 17 3"]  # in camera space
    errors: Float[Tensor, "batch hypotheses 4"]  # `KINDS`, metres
    mean_vertices: Float[Tensor, "batch vertices 3"]  # over the hypotheses

    @property
    def random(self) -> slice:
        """The random hypotheses: all but the first, unless it is the only one."""
        return slice(min(1, self.errors.shape[1] - 1), None)


@torch.no_grad()
def forecast(pieces: Iterable[People], truth: Truth, body: Body) -> Forecast:
    """Measure hypotheses as they come, in pieces of any number; the first one is the mode."""
    weights = vertex_weights(body)
    common, coco, errors = [], [], []
    total = torch.zeros_like(truth.vertices)
    for people in pieces:
        betas, translation = of_image(people)
        rotations = people.rotations
        placed = translation[:, None, None]
        joints = body.keypoints(rotations, betas[:, None], "common14") + placed
        coco.append(body.keypoints(rotations, betas[:, None], "coco17") + placed)
        root = joints[..., list(HIPS), :].mean(-2)
        joints = joints - root[..., None, :]
        surface, added = surface_errors(
            body, rotations, betas, translation[:, None] - root, truth.vertices, weights
        )
        target = truth.common14[:, None]
        pose = [metrics.mpjpe(joints, target), metrics.pa_mpjpe(joints, target)]
        errors.append(torch.cat([torch.stack(pose, -1), surface], -1))
        common.append(joints)
        total += added
    whole = torch.cat(errors, 1)
    return Forecast(torch.cat(common, 1), torch.cat(coco, 1), whole, total / whole.shape[1])


def of_image(
    people: People,
) -> tuple[Float[Tensor, "batch betas"], Float[Tensor, "batch 3"]]:
    """Return shape and camera of every image, which its hypotheses must share."""
    betas, translation = people.betas[:, :1], people.translation[:, :1]
    if not ((people.betas == betas).all() and (people.translation == translation).all()):
        raise ValueError("the hypotheses of an image must share betas and translation; these vary")
    return betas[:, 0], translation[:, 0]


def accuracy(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE, PVE of the mode, of single hypotheses, and picked in hindsight.

    Joint errors are of the common 14 joints. The best and the worst are taken for each error by
    itself. The mean is of points, not of rotations; the median is the hypothesis that is nearest
    to all others (`metrics.medoid`). `wpve` weights the vertices by area.
    """
    errors = dict(zip(KINDS, (1e3 * drawn.errors).unbind(-1), strict=True))
    mean = mean_errors(
        drawn.common14, truth.common14, metrics.pve(drawn.mean_vertices, truth.vertices)
    )
    return summaries(errors, mean, metrics.medoid(drawn.common14), drawn.random)


def mean_errors(
    joints: Float[Tensor, "batch hypotheses joints 3"],
    target: Float[Tensor, "batch joints 3"],
    surface: Float[Tensor, " batch"],
) -> dict[str, Tensor]:
    """Errors of the mean of the hypotheses, mm; that of the mean surface is given in metres."""
    mean = metrics.mean_pose(joints)
    return {
        "mpjpe": 1e3 * metrics.mpjpe(mean, target),
        "pa_mpjpe": 1e3 * metrics.pa_mpjpe(mean, target),
        "pve": 1e3 * surface,
    }


def summaries(
    errors: dict[str, Tensor],
    mean: dict[str, Tensor],
    medoid: Int[Tensor, " batch"],
    random: slice,
) -> dict[str, Tensor]:
    """Columns of errors (batch, hypotheses), the mode first; all kinds of them where `mean` is."""
    middle = medoid[:, None]
    result = {f"{name}_mode": e[:, 0] for name, e in errors.items()}
    result |= {f"{name}_best": e.amin(-1) for name, e in errors.items()}
    for name, of_mean in mean.items():
        error = errors[name]
        result[f"{name}_sample"] = error[:, random].mean(-1)
        result[f"{name}_mean"] = of_mean
        result[f"{name}_median"] = error.gather(1, middle)[:, 0]
        result[f"{name}_worst"] = error.amax(-1)
    return result


def scores(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Energy scores: of the common 14 joints one by one, as a whole, and by visibility.

    The last two are of COCO-17 joints with the hips' middle at the origin, truly visible or
    hidden; NaN in images without such joints.
    """
    samples = drawn.common14[:, drawn.random]
    coco = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    by_joint = metrics.energy_score_by_joint(coco, metrics.centre(truth.coco17, COCO_HIPS))
    return {
        "energy_score": 1e3 * metrics.energy_score(samples, truth.common14),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(samples, truth.common14),
        "energy_visible": 1e3 * metrics.masked_mean(by_joint, truth.visible),
        "energy_hidden": 1e3 * metrics.masked_mean(by_joint, truth.hidden),
    }


def consistency(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """2D error on visible joints, spread, and how many hidden joints stay on the silhouette.

    Twice. By what the renderer knows: PercIn and MinDist are then of joints that are hidden inside
    the photograph, since one outside it cannot lie on the silhouette. And, named `paper_`, by
    HuMR's rule: visible is what the detector is confident of; PercIn and MinDist are of all
    others, wherever they are, in images that have at least two; `paper_hidden` counts them (HuMR
    averages over joints of all images, tables here over images). Distances up to 0.71 pixels of
    the stored mask count as 0. Joints are in camera space, as in HuMR.
    """
    projected = truth.seen.to_crop(drawn.coco17)
    target = truth.batch.to_crop(truth.coco17)
    error = PIXELS / 2 * metrics.joint_distance(projected, target[:, None])
    facts = {
        "mode": error[:, 0],
        "samples": error[:, drawn.random].mean(1),
        "spread": 1e3 * metrics.spread(drawn.coco17[:, drawn.random]),
        "distance": mask_distances(projected, truth.silhouette),
    }
    unsure = ~truth.certain
    counted = unsure & (unsure.sum(-1, keepdim=True) >= 2)
    paper = agreement(**facts, visible=truth.certain, hidden=unsure, counted=counted)
    ours = agreement(**facts, visible=truth.visible, hidden=truth.hidden, counted=truth.covered)
    paper["hidden"] = unsure.sum(-1)
    return ours | {f"paper_{name}": value for name, value in paper.items()}


def mask_distances(
    projected: Float[Tensor, "batch hypotheses joints 2"], mask: Bool[Tensor, "batch rows rows"]
) -> Float[Tensor, "batch hypotheses joints"]:
    """Distances to the mask in pixels of 256, a piece of the hypotheses at a time."""
    pieces = [metrics.mask_distance(piece, mask) for piece in projected.split(PIECE, 1)]
    return PIXELS / mask.shape[-1] * torch.cat(pieces, 1)


def agreement(
    *,
    mode: Float[Tensor, "batch joints"],
    samples: Float[Tensor, "batch joints"],
    spread: Float[Tensor, "batch joints"],
    distance: Float[Tensor, "batch hypotheses joints"],
    visible: Bool[Tensor, "batch joints"],
    hidden: Bool[Tensor, "batch joints"],
    counted: Bool[Tensor, "batch joints"],
) -> dict[str, Tensor]:
    """Columns of Table 2 of the paper, under one meaning of visible."""
    return {
        "pixels_mode": metrics.masked_mean(mode, visible),
        "pixels_samples": metrics.masked_mean(samples, visible),
        "spread_visible": metrics.masked_mean(spread, visible),
        "spread_hidden": metrics.masked_mean(spread, hidden),
        "percent_inside": metrics.percent_inside(distance, counted),
        "mask_distance": metrics.minimum_distance(distance, counted),
    }


def calibration(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Coverage and ranks of COCO-17 coordinates with the hips' middle at the origin.

    `cover`: share of joint coordinates inside the central 50 and 90 % of the samples (ideal: .5,
    .9). The 90 % need at least 19 samples; fewer cover less, however good they are.
    `rank`: number of samples below the truth, in camera axes (ideal: uniform over images).
    """
    samples = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    target = metrics.centre(truth.coco17, COCO_HIPS)
    return coverage(samples, target, truth.visible, truth.hidden) | ranks(samples, target)


def coverage(
    samples: Float[Tensor, "batch hypotheses 17 3"],
    target: Float[Tensor, "batch 17 3"],
    visible: Bool[Tensor, "batch 17"],
    hidden: Bool[Tensor, "batch 17"],
) -> dict[str, Tensor]:
    """Share of coordinates inside the central 50 and 90 % of the samples, by visibility."""
    result = {}
    for level in (50, 90):
        tail = (1 - level / 100) / 2
        low, high = quantile(samples, tail), quantile(samples, 1 - tail)
        inside = ((target >= low) & (target <= high)).to(samples.dtype)
        for name, axes in (("xy", slice(0, 2)), ("z", slice(2, 3))):
            share = inside[..., axes].mean(-1)
            result[f"cover{level}_{name}_visible"] = metrics.masked_mean(share, visible)
            result[f"cover{level}_{name}_hidden"] = metrics.masked_mean(share, hidden)
    return result


def ranks(
    samples: Float[Tensor, "batch hypotheses 17 3"], target: Float[Tensor, "batch 17 3"]
) -> dict[str, Tensor]:
    """Count the samples below the truth, of wrists and ankles, in camera axes."""
    found = rank(samples[:, :, list(RANKED)], target[:, list(RANKED)])
    return {
        f"rank_{COCO17.names[joint]}_{name}": found[:, place, axis]
        for place, joint in enumerate(RANKED)
        for axis, name in enumerate("xyz")
    }


def peer(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """PA-MPJPE over the 12 limb joints: our mode and the detector's own 3D landmarks."""
    chosen = [COCO17_FROM_BLAZEPOSE[i] for i in LIMBS]
    target = truth.coco17[:, list(LIMBS)]
    ours, theirs = drawn.coco17[:, 0, list(LIMBS)], truth.landmarks[:, chosen]
    return {
        "pa_limbs_mode": 1e3 * metrics.pa_mpjpe(ours, target),
        "pa_limbs_detector": 1e3 * metrics.pa_mpjpe(theirs, target),
    }


# A million hypotheses of one image: to statistics or to disk, in the memory of a few hundred.


STREAMED = 512  # hypotheses at a time


@dataclass
class Running:
    r"""Mean and covariance of points that come in pieces, in double precision.

    Two pieces with $n$ and $m$ samples, means $\mu$ and $\nu$ and scatter matrices $S$ and $T$
    have together the scatter $S + T + \frac{nm}{n + m} (\mu - \nu)(\mu - \nu)^\top$ (Chan, Golub
    and LeVeque 1979): nothing cancels, however many pieces there are.
    """

    count: int = 0
    mean: Float[Tensor, "joints 3"] = field(default_factory=lambda: torch.zeros(1, 3).double())
    scatter: Float[Tensor, "joints 3 3"] = field(
        default_factory=lambda: torch.zeros(1, 3, 3).double()
    )

    def add(self, points: Float[Tensor, "samples joints 3"]) -> None:
        """Take in more samples."""
        points, new = points.double(), len(points)
        mean = points.mean(0)
        centred = points - mean
        gap = mean - self.mean.to(mean)
        total = self.count + new
        outer = gap[..., None] * gap[..., None, :]
        inner = torch.einsum("njx,njy->jxy", centred, centred)
        self.scatter = self.scatter.to(mean) + inner + outer * (self.count * new / total)
        self.mean = self.mean.to(mean) + gap * (new / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "joints 3 3"]:
        """Unbiased covariance of every joint."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two or more samples; got {self.count}")
        return self.scatter / (self.count - 1)

    @property
    def deviation(self) -> Float[Tensor, " joints"]:
        """Root mean square distance of every joint to its mean."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()


def joints(
    model: Humr, body: Body, batch: Batch, count: int, *, generator: torch.Generator
) -> Iterator[Float[Tensor, "samples 55 3"]]:
    """Yield the joints of `count` random hypotheses of one image, camera space, in pieces."""
    if len(batch) != 1:
        raise ValueError(f"expected a batch of one image; got {len(batch)}")
    if count < 1:
        raise ValueError(f"count must be at least 1 hypothesis; got {count}")
    with tqdm(total=count, desc="hypotheses", unit="body", mininterval=2) as bar:
        for people in model.stream(batch, count, generator=generator, chunk=STREAMED):
            found = people[0].joints(body).detach()
            yield found
            bar.update(len(found))


def statistics(
    model: Humr, body: Body, batch: Batch, count: int, *, generator: torch.Generator
) -> Running:
    """Mean and covariance of every joint over any number of hypotheses of one image."""
    running = Running()
    for piece in joints(model, body, batch, count, generator=generator):
        running.add(piece)
    return running


def to_disk(
    path: Path, model: Humr, body: Body, batch: Batch, count: int, *, generator: torch.Generator
) -> Path:
    """Write the joints of `count` hypotheses of one image as (count, 55, 3) in an `.npy` file.

    Written piece by piece (660 bytes a hypothesis), and whole or not at all.
    """
    if path.suffix != ".npy":
        raise ValueError(f"expected a path that ends in .npy; got {path.name}")
    start, shape = 0, (count, 55, 3)
    with in_place_of(path) as part:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        for piece in joints(model, body, batch, count, generator=generator):
            array[start : start + len(piece)] = piece.float().cpu().numpy()
            start += len(piece)
        array.flush()
        del array
    return path


BODIES = 20 * PIECE  # hypotheses of all images that are held at once


@torch.no_grad()
def evaluate(
    model: Humr,
    body: Body,
    records: Images,
    *,
    hypotheses: int,
    seed: int = 0,
    batch: int = 20,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Measure the posterior of every image by `hypotheses` poses, the mode and random ones.

    With `default_focal` the model takes the photograph's diagonal for its focal length.
    """
    rows = []
    parts = _parts(model, body, records, hypotheses, seed, batch, default_focal=default_focal)
    for drawn, truth, observation in parts:
        columns = {
            **accuracy(drawn, truth),
            **scores(drawn, truth),
            **consistency(drawn, truth),
            **calibration(drawn, truth),
            **peer(drawn, truth),
            **density(model, observation, truth.batch),
        }
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        for name, value in truth.facts.items():
            frame[name] = value.cpu().numpy()
        frame["hidden"] = truth.hidden.sum(-1).cpu().numpy()
        rows.append(frame)
    return _join(rows)


@torch.no_grad()
def curve(
    model: Humr,
    body: Body,
    records: Images,
    counts: Sequence[int],
    *,
    seed: int = 0,
    batch: int = 20,
) -> pd.DataFrame:
    """Measure the best of n hypotheses for every n in `counts`: one row per image and n.

    `_best` is among the first n that are drawn, the mode and n - 1 random ones (HuMR, Fig. S1).
    `_expected` is its average over all choices of n - 1 among the random hypotheses: the same
    quantity without the luck of the order.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be positive numbers of hypotheses; got {list(counts)}")
    rows = []
    for drawn, *_ in _parts(model, body, records, max(counts), seed, batch):
        errors = 1e3 * drawn.errors.mT
        for n in counts:
            best = metrics.best_of_first(errors, n)
            of_any = expected(errors, n)
            columns = {f"{kind}_best": best[:, i] for i, kind in enumerate(KINDS)}
            columns |= {f"{k}_expected": of_any[:, i] for i, k in enumerate(KINDS)}
            frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
            frame.insert(0, "n", n)
            rows.append(frame)
    return _join(rows, repeats=len(counts))


def expected(errors: Tensor, n: int) -> Tensor:
    """Best of the mode and n - 1 others, over all choices; errors are (..., hypotheses)."""
    mode, others = errors[..., 0], errors[..., 1:]
    if n == 1:
        return mode
    return metrics.expected_best_of(torch.minimum(others, mode[..., None]), n - 1)


def _join(rows: list[pd.DataFrame], repeats: int = 1) -> pd.DataFrame:
    """Put the parts together and number their images; a part may repeat its images."""
    start = 0
    for place, frame in enumerate(rows):
        frame.insert(0, "image", range(start, start + len(frame)))
        if place % repeats == repeats - 1:
            start += len(frame)
    return pd.concat(rows, ignore_index=True)


def _parts(
    model: Humr,
    body: Body,
    records: Images,
    hypotheses: int,
    seed: int,
    batch: int,
    *,
    default_focal: bool = False,
) -> Iterator[tuple[Forecast, Truth, Observation]]:
    """Draw and measure a few images at a time, the fewer the more hypotheses each has."""
    _check(model, records, hypotheses)
    batch = min(batch, max(1, BODIES // hypotheses))
    generator = torch.Generator().manual_seed(seed)
    samples = max(1, model.heatmap_samples)  # some networks read samples, and a batch has some
    body = body.to(model.flow.mean.device)
    for start in tqdm(range(0, len(records), batch), desc="evaluation", mininterval=2):
        part = records[slice(start, start + batch)]
        truth = part.truth(body, samples=samples, generator=generator, default_focal=default_focal)
        observation = model.observe(truth.seen)
        pieces = stream(model, observation, hypotheses, generator)
        yield forecast(pieces, truth, body), truth, observation


def stream(
    model: Humr, observation: Observation, hypotheses: int, generator: torch.Generator
) -> Iterator[People]:
    """Draw the mode and random hypotheses, a bounded number at a time."""
    images = len(observation.betas)
    for start in range(0, hypotheses, PIECE):
        stop = min(start + PIECE, hypotheses)
        noise = model.noise(images, stop - max(start, 1), generator)
        if start == 0:
            noise = torch.cat([noise.new_zeros(images, 1, noise.shape[-1]), noise], 1)
        yield model.people(observation, noise)


def _check(model: Humr, records: Images, hypotheses: int) -> None:
    if hypotheses < 1:
        raise ValueError(f"hypotheses must be at least 1, the mode; got {hypotheses}")
    if not len(records):
        raise ValueError("there are no images to evaluate: the records are empty")
    expected, got = len(model.encoder.feature_mean), records.features.shape[1]
    if expected != got:
        raise ValueError(
            f"the network reads {expected} image features; these records hold {got}. They were "
            "made for another configuration"
        )


def density(model: Humr, observation: Observation, batch: Batch) -> dict[str, Tensor]:
    """Likelihood of the true pose, nats per dimension, and the flow's log-volume at the mode."""
    sixd = matrix_to_sixd(batch.rotations).flatten(1)[:, None]
    log_prob = model.flow.log_prob(sixd, observation.condition)[:, 0]
    return {"nll": -log_prob / model.flow.dim, "log_det": log_volume(model, observation)}


def log_volume(model: Humr, observation: Observation) -> Float[Tensor, " batch"]:
    """Logarithm of the factor by which the flow widens volumes at the mode."""
    mode = model.flow.mean.new_zeros(len(observation.betas), 1, model.flow.dim)
    return model.flow.generate(mode, observation.condition)[1][:, 0]


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over images; images without the quantity (NaN) are left out, and then quantities."""
    numeric = rows.drop(columns=["image", "template"]).astype(float)
    return {str(n): round(float(v), 4) for n, v in numeric.mean().dropna().items()}


def energy_of(
    drawn: Hypotheses, batch: Batch, body: Body
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Energy score and MPJPE of the mode in metres: the two numbers that validation watches."""
    target = body.keypoints(batch.rotations, batch.betas, "common14")
    target = metrics.centre(target, HIPS)
    samples = metrics.centre(drawn.samples.keypoints(body, "common14"), HIPS)
    mode = metrics.centre(drawn.mode.keypoints(body, "common14"), HIPS)
    return metrics.energy_score(samples, target), metrics.mpjpe(mode, target)
