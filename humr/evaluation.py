"""Run a model over records and measure it: one row per image, lengths in mm, pixels of 256.

Hypotheses are drawn and measured in pieces, so that any number of them fits: what is kept of each
is its joints and errors (see `measures`). The mode is the first of the hypotheses, as in HuMR.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from humr import measures, metrics
from humr.bodies import Body
from humr.datasets import Batch, Records
from humr.measures import HIPS, PIECE, Forecast, Truth, forecast, truth_of
from humr.mesh import Humr, Hypotheses, Observation, People
from humr.rotations import matrix_to_sixd

BODIES = 20 * PIECE  # hypotheses of all images that are held at once


@torch.no_grad()
def evaluate(
    model: Humr,
    body: Body,
    records: Records,
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
            **measures.accuracy(drawn, truth),
            **measures.scores(drawn, truth),
            **measures.consistency(drawn, truth),
            **measures.calibration(drawn, truth),
            **measures.peer(drawn, truth),
            **density(model, observation, truth.batch),
        }
        frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        frame["template"] = truth.records.template.cpu().numpy()
        frame["truncated"] = truth.records.truncated.cpu().numpy()
        frame["hidden"] = truth.hidden.sum(-1).cpu().numpy()
        rows.append(frame)
    return _join(rows)


@torch.no_grad()
def curve(
    model: Humr,
    body: Body,
    records: Records,
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
            columns = {f"{kind}_best": best[:, i] for i, kind in enumerate(measures.KINDS)}
            columns |= {f"{k}_expected": of_any[:, i] for i, k in enumerate(measures.KINDS)}
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
    records: Records,
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
    device = model.flow.mean.device
    body = body.to(device)
    for start in tqdm(range(0, len(records), batch), desc="evaluation", mininterval=2):
        part = records[slice(start, start + batch)]
        inputs = part.batch(samples=samples, generator=generator).to(device)
        seen = inputs
        if default_focal:
            seen = part.with_default_focal().batch(samples=samples, generator=generator)
            seen = seen.to(device)
        truth = truth_of(part.to(device), inputs, body, seen)
        observation = model.observe(seen)
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


def _check(model: Humr, records: Records, hypotheses: int) -> None:
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
