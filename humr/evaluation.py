"""Measure a model over images: one row per image, lengths in mm, image errors in pixels of 256.

Hypotheses are drawn and measured in pieces, so that any number of them fits: what is kept of each
is its joints and errors. The first hypothesis is the mode. Best, worst, mean and median are over
all of them (HuMR counts the mode among its hundred); whatever describes the distribution
(`sample`, scores, spread, coverage, ranks) is over the random ones. A single hypothesis, the mode,
stands for both: a point forecast, whose energy score is its MPJPE, with spread 0 and intervals
that hold nothing. `Forecast` and `Truth` serve the open world and licensed photographs alike.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from tqdm import tqdm

from humr import metrics
from humr.batches import Batch
from humr.bodies.body import Body
from humr.bodies.surface import surface_errors, vertex_weights
from humr.geometry import matrix_to_sixd
from humr.metrics import quantile
from humr.model import Humr, Hypotheses, Observation, People
from humr.skeletons import COCO17, COCO17_FROM_BLAZEPOSE, COMMON14

PIXELS = 256  # side of the box in which image errors are counted (HuMR, supplement)
CERTAIN = 0.5  # a joint counts as visible in HuMR's tables above this confidence of the detector
PIECE = 128  # hypotheses of an image that are computed at once
BODIES = 20 * PIECE  # hypotheses of all images that are held at once
STREAMED = 512  # hypotheses at a time of which only statistics are kept
HIPS = COMMON14.indices(["left_hip", "right_hip"])
COCO_HIPS = COCO17.indices(["left_hip", "right_hip"])
LIMBS = tuple(range(5, 17))  # of COCO-17: what the detector's own 3D landmarks share with ours
RANKED = COCO17.indices([f"{side}_{part}" for part in ("wrist", "ankle")
                         for side in ("left", "right")])  # fmt: skip
KINDS: tuple[str, ...] = ("mpjpe", "pa_mpjpe", "pve", "wpve")
Columns = Mapping[str, Any]  # a value per image (tensor, array, list), or one for all of them


# ------------------------------------------------------------ what is compared with what


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Labels of a batch: what every measure needs."""

    seen: Batch  # what the network was shown
    joints: Float[Tensor, "batch joints 3"]  # about the root, here the middle of the hips
    vertices: Float[Tensor, "batch vertices 3"]  # about the root
    coco17: Float[Tensor, "batch 17 3"]
    visible: Bool[Tensor, "batch 17"]
    hidden: Bool[Tensor, "batch 17"]  # by the body itself, by an object, or outside


@dataclass(frozen=True, kw_only=True)
class RenderedTruth(Truth):
    """What the renderer of the open world knows beside them; `coco17` is in camera space."""

    batch: Batch  # with the labels; differs from `seen` if that lacks the focal length
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
    """Images with labels: all that `evaluate` asks of them."""

    @property
    def features(self) -> Float[Tensor, "images features"]:
        """What the network sees of the pixels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice) -> "Images": ...

    def truth(
        self, body: Body, *, samples: int, generator: torch.Generator, default_focal: bool = False
    ) -> RenderedTruth:
        """Return inputs and labels on the body's device; the network reads heatmap samples."""
        ...


@dataclass(frozen=True)
class Forecast:
    """What is kept of hypotheses, the mode first: joints and errors, never all meshes."""

    joints: Float[Tensor, "batch hypotheses joints 3"]  # those of `Truth.joints`
    coco17: Float[Tensor, "batch hypotheses 17 3"]  # in camera space
    errors: Float[Tensor, "batch hypotheses kinds"]  # `KINDS`, metres; of photographs no "wpve"
    mean_vertices: Float[Tensor, "batch vertices 3"]  # over all hypotheses

    @property
    def random(self) -> slice:
        """The random hypotheses: all but the first, unless it is the only one."""
        return slice(min(1, self.errors.shape[1] - 1), None)


# ------------------------------------------------------------------- a row per image


@torch.no_grad()
def evaluate(
    model: Humr,
    body: Body,
    images: Images,
    *,
    hypotheses: int,
    seed: int = 0,
    batch: int = 20,
    default_focal: bool = False,
) -> pd.DataFrame:
    """Measure the posterior of every image by `hypotheses` poses, the mode and random ones.

    With `default_focal` the model takes the photograph's diagonal for its focal length.
    """
    parts = _forecasts(model, body, images, hypotheses, seed, batch, default_focal=default_focal)
    return table(
        {
            "image": number,
            **accuracy(drawn, truth),
            **scores(drawn, truth),
            **consistency(drawn, truth),
            **calibration(drawn, truth),
            **peer(drawn, truth),
            **density(model, observation, truth.batch),
            **truth.facts,
            "hidden": truth.hidden.sum(-1),
        }
        for number, drawn, truth, observation in parts
    )


@torch.no_grad()
def curve(
    model: Humr,
    body: Body,
    images: Images,
    counts: Sequence[int],
    *,
    seed: int = 0,
    batch: int = 20,
) -> pd.DataFrame:
    """Measure the best of n hypotheses for every n in `counts`: one row per image and n."""
    parts = _forecasts(model, body, images, largest_count(counts), seed, batch)
    return table(
        {"image": number, "n": n, **best_of_n(drawn, n)}
        for number, drawn, *_ in parts
        for n in counts
    )


def _forecasts(
    model: Humr,
    body: Body,
    images: Images,
    hypotheses: int,
    seed: int,
    batch: int,
    *,
    default_focal: bool = False,
) -> Iterator[tuple[range, Forecast, RenderedTruth, Observation]]:
    """Draw and measure the hypotheses of a few images at a time."""
    expected, got = len(model.encoder.feature_mean), images.features.shape[1]
    if expected != got:
        raise ValueError(
            f"the network reads {expected} image features; these records hold {got}. They were "
            "made for another configuration"
        )
    generator = torch.Generator().manual_seed(seed)
    samples = max(1, model.heatmap_samples)  # some networks read samples, and a batch has some
    body = body.to(model.flow.mean.device)
    for here in parts_of(len(images), hypotheses, batch=batch, held=BODIES):
        some = images[slice(here.start, here.stop)]
        truth = some.truth(body, samples=samples, generator=generator, default_focal=default_focal)
        observation = model.observe(truth.seen)
        pieces = model.stream(observation, hypotheses, generator, piece=PIECE)
        yield here, forecast(pieces, truth, body), truth, observation


def parts_of(images: int, hypotheses: int, *, batch: int, held: int) -> Iterator[range]:
    """Number images, `batch` at a time, or fewer: at most `held` hypotheses of all of them."""
    if hypotheses < 1:
        raise ValueError(f"hypotheses must be at least 1; got {hypotheses}")
    batch = min(batch, max(1, held // hypotheses))
    for start in tqdm(range(0, images, batch), desc="evaluation", mininterval=2):
        yield range(start, min(start + batch, images))


def table(parts: Iterable[Columns]) -> pd.DataFrame:
    """Join what was measured of some images at a time."""
    frames = [
        pd.DataFrame({n: v.cpu().numpy() if isinstance(v, Tensor) else v for n, v in part.items()})
        for part in parts
    ]
    if not frames:
        raise ValueError("there are no images to evaluate")
    return pd.concat(frames, ignore_index=True)


def largest_count(counts: Sequence[int]) -> int:
    """Return the largest of some numbers of hypotheses, which must all be positive."""
    if not counts or min(counts) < 1:
        raise ValueError(f"counts must be positive numbers of hypotheses; got {list(counts)}")
    return max(counts)


def best_of_n(drawn: Forecast, n: int) -> dict[str, Tensor]:
    """Errors (mm) of the best of n hypotheses.

    `_best` is among the first n that are drawn, the mode and n - 1 random ones (HuMR, Fig. S1).
    `_expected` is its average over all choices of n - 1 among the random hypotheses: the same
    quantity without the luck of the order.
    """
    errors = _errors(drawn)
    best = {f"{kind}_best": metrics.best_of_first(error, n) for kind, error in errors.items()}
    return best | {f"{kind}_expected": expected(error, n) for kind, error in errors.items()}


def expected(errors: Float[Tensor, "*batch hypotheses"], n: int) -> Float[Tensor, "*batch"]:
    """Best of the mode and n - 1 others, over all choices."""
    mode, others = errors[..., 0], errors[..., 1:]
    if n == 1:
        return mode
    return metrics.expected_best_of(torch.minimum(others, mode[..., None]), n - 1)


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over images; images without the quantity (NaN) are left out, and then quantities."""
    numeric = rows.drop(columns=["image", "template"]).astype(float)
    return {str(n): round(float(v), 4) for n, v in numeric.mean().dropna().items()}


# ------------------------------------------------------------------ hypotheses measured


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
        target = truth.joints[:, None]
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


def energy_of(
    drawn: Hypotheses, batch: Batch, body: Body
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Energy score and MPJPE of the mode in metres: the two numbers that validation watches."""
    target = body.keypoints(batch.rotations, batch.betas, "common14")
    target = metrics.centre(target, HIPS)
    samples = metrics.centre(drawn.samples.keypoints(body, "common14"), HIPS)
    mode = metrics.centre(drawn.mode.keypoints(body, "common14"), HIPS)
    return metrics.energy_score(samples, target), metrics.mpjpe(mode, target)


# --------------------------------------------------- measures: columns of a value per image


def _errors(drawn: Forecast) -> dict[str, Float[Tensor, "batch hypotheses"]]:
    """All kinds of errors, mm."""
    return dict(zip(KINDS, (1e3 * drawn.errors).unbind(-1), strict=False))


def accuracy(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE, PVE of the mode, of single hypotheses, and picked in hindsight.

    The best and the worst are taken for each error by itself. The mean is of points, not of
    rotations; the median is the hypothesis that is nearest to all others (`metrics.medoid`).
    `wpve` weights the vertices by area.
    """
    errors = _errors(drawn)
    mean, middle = metrics.mean_pose(drawn.joints), metrics.medoid(drawn.joints)[:, None]
    of_mean = {
        "mpjpe": 1e3 * metrics.mpjpe(mean, truth.joints),
        "pa_mpjpe": 1e3 * metrics.pa_mpjpe(mean, truth.joints),
        "pve": 1e3 * metrics.pve(drawn.mean_vertices, truth.vertices),
    }
    result = {f"{name}_mode": error[:, 0] for name, error in errors.items()}
    result |= {f"{name}_best": error.amin(-1) for name, error in errors.items()}
    for name, value in of_mean.items():
        result[f"{name}_sample"] = errors[name][:, drawn.random].mean(-1)
        result[f"{name}_mean"] = value
        result[f"{name}_median"] = errors[name].gather(1, middle)[:, 0]
        result[f"{name}_worst"] = errors[name].amax(-1)
    return result


def scores(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Energy scores: of the joints one by one, as a whole, and by visibility.

    The last two are of COCO-17 joints with the hips' middle at the origin; NaN in images without
    such joints.
    """
    joints = drawn.joints[:, drawn.random]
    by_joint = metrics.energy_score_by_joint(*_centred(drawn, truth))
    return {
        "energy_score": 1e3 * metrics.energy_score(joints, truth.joints),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(joints, truth.joints),
        "energy_visible": 1e3 * metrics.masked_mean(by_joint, truth.visible),
        "energy_hidden": 1e3 * metrics.masked_mean(by_joint, truth.hidden),
    }


def calibration(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Coverage and ranks of COCO-17 coordinates with the hips' middle at the origin.

    `cover`: share of joint coordinates inside the central 50 and 90 % of the samples, by
    visibility (ideal: .5, .9). The 90 % need at least 19 samples; fewer cover less, however good
    they are. `rank`: number of samples below the truth, of wrists and ankles, in camera axes
    (ideal: uniform over images).
    """
    samples, target = _centred(drawn, truth)
    result = {}
    for level in (50, 90):
        tail = (1 - level / 100) / 2
        low, high = quantile(samples, tail), quantile(samples, 1 - tail)
        inside = ((target >= low) & (target <= high)).to(samples.dtype)
        for name, axes in (("xy", slice(0, 2)), ("z", slice(2, 3))):
            share = inside[..., axes].mean(-1)
            result[f"cover{level}_{name}_visible"] = metrics.masked_mean(share, truth.visible)
            result[f"cover{level}_{name}_hidden"] = metrics.masked_mean(share, truth.hidden)
    ranks = metrics.rank(samples[:, :, list(RANKED)], target[:, list(RANKED)])
    return result | {
        f"rank_{COCO17.names[joint]}_{name}": ranks[:, place, axis]
        for place, joint in enumerate(RANKED)
        for axis, name in enumerate("xyz")
    }


def _centred(
    drawn: Forecast, truth: Truth
) -> tuple[Float[Tensor, "batch hypotheses 17 3"], Float[Tensor, "batch 17 3"]]:
    """COCO-17 of the random hypotheses and of the labels, about the middle of the hips."""
    samples = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    return samples, metrics.centre(truth.coco17, COCO_HIPS)


def consistency(drawn: Forecast, truth: RenderedTruth) -> dict[str, Tensor]:
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


def peer(drawn: Forecast, truth: RenderedTruth) -> dict[str, Tensor]:
    """PA-MPJPE over the 12 limb joints: our mode and the detector's own 3D landmarks."""
    chosen = [COCO17_FROM_BLAZEPOSE[i] for i in LIMBS]
    target = truth.coco17[:, list(LIMBS)]
    ours, theirs = drawn.coco17[:, 0, list(LIMBS)], truth.landmarks[:, chosen]
    return {
        "pa_limbs_mode": 1e3 * metrics.pa_mpjpe(ours, target),
        "pa_limbs_detector": 1e3 * metrics.pa_mpjpe(theirs, target),
    }


def density(model: Humr, observation: Observation, batch: Batch) -> dict[str, Tensor]:
    """Likelihood of the true pose, nats per dimension, and the flow's log-volume at the mode."""
    sixd = matrix_to_sixd(batch.rotations).flatten(1)[:, None]
    log_prob = model.flow.log_prob(sixd, observation.condition)[:, 0]
    return {"nll": -log_prob / model.flow.dim, "log_det": log_volume(model, observation)}


def log_volume(model: Humr, observation: Observation) -> Float[Tensor, " batch"]:
    """Logarithm of the factor by which the flow widens volumes at the mode."""
    mode = model.flow.mean.new_zeros(len(observation.betas), 1, model.flow.dim)
    return model.flow.generate(mode, observation.condition)[1][:, 0]


# ---------------------------- a million hypotheses of one image, in the memory of a few hundred


@torch.no_grad()
def joints(
    model: Humr, body: Body, batch: Batch, count: int, *, generator: torch.Generator
) -> Iterator[Float[Tensor, "samples 55 3"]]:
    """Yield the joints of `count` random hypotheses of one image, camera space, in pieces."""
    if len(batch) != 1:
        raise ValueError(f"expected a batch of one image; got {len(batch)}")
    if count < 1:
        raise ValueError(f"count must be at least 1 hypothesis; got {count}")
    observation = model.observe(batch)
    pieces = model.stream(observation, count, generator, mode=False, piece=STREAMED)
    with tqdm(total=count, desc="hypotheses", unit="body", mininterval=2) as bar:
        for people in pieces:
            yield people[0].joints(body)
            bar.update(people.sixd.shape[1])


def statistics(
    model: Humr, body: Body, batch: Batch, count: int, *, generator: torch.Generator
) -> "Running":
    """Mean and covariance of every joint over any number of hypotheses of one image."""
    running = Running()
    for piece in joints(model, body, batch, count, generator=generator):
        running.add(piece)
    return running


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
