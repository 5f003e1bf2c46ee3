r"""Refinement of the shipped model: fit its constants on validation, measure it on test.

``python3 -m humr refine fit`` writes `data/checkpoint/humr_open_refine.json`; ``refine measure``
writes rows of the flow and of the refined hypotheses on the test images to `data/results`, which
``refine table`` shows. The first two read the open world of the profile that trained the shipped
model. Nothing is chosen on test.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from humr import evaluation, metrics, refine
from humr.batches import Batch
from humr.bodies.body import Body, load_body
from humr.bodies.surface import vertex_weights
from humr.config import World
from humr.evaluation import Forecast, RenderedTruth
from humr.experiments import runs
from humr.experiments.profiles import profile
from humr.experiments.statistics import differences
from humr.files import digest, provenance, say, shown
from humr.geometry import geodesic_distance, matrix_to_sixd, translation_to_weak
from humr.model import Humr, Hypotheses, Observation, People
from humr.refine import Constants
from humr.skeletons import COCO17
from humr.world.generate import store
from humr.world.records import Records

TEMPERATURES = (1.2, 1.3, 1.4, 1.5)
CALIBRATED = 0.02  # mean gap of coverage below which the energy score decides
SEARCHED = 200  # validation images on which temperatures are compared
NOISES = (0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04)
START_NOISE = 0.015
START_RATES = (0.9, 0.04, 0.03, 0.03)
LEAST_RATE = 0.005
LEVELS = (50, 90)
MIRROR = (-1.0, 1.0, 1.0)  # of an offset, for the bone on the other side
HYPOTHESES = 24  # beside the mode: 25 in all
SHOWN = (
    "energy_score", "energy_visible", "energy_hidden", "mpjpe_mode", "mpjpe_mean", "mpjpe_best",
    "pa_mpjpe_mode", "pa_mpjpe_mean", "pve_mode", "pixels_mode", "pixels_samples",
    "detected_mode", "detected_samples", "root_degrees", "depth_share",
    *(f"cover{level}_{axes}_{seen}" for level in LEVELS for axes in ("xy", "z")
      for seen in ("visible", "hidden")),
)  # fmt: skip
HEATMAP_SAMPLES = 80  # of every joint, all that are stored


# ---- constants, on validation images


def labels(batch: Batch) -> People:
    """Return the true bodies of a batch."""
    return People(matrix_to_sixd(batch.rotations), batch.betas, batch.translation)


def usable(batch: Batch) -> Bool[Tensor, "batch 17"]:
    """Joints that the detector is certain of and sees inside the photograph."""
    pixels = batch.crop.to_image(batch.keypoints[..., :2])
    inside = ((pixels > 0) & (pixels < batch.image_size[:, None])).all(-1)
    return (batch.keypoints[..., 2] >= refine.CERTAIN) & inside


def fit_shape(batch: Batch, observation: Observation) -> dict[str, Tensor]:
    r"""Regress true betas on the head's, one by one, and factor what remains: $a, k, L_b$.

    A slope of 0 leaves the mean of the population: what the head says of that beta is noise.
    """
    guess = observation.betas.clamp(-refine.LARGEST_SHAPE, refine.LARGEST_SHAPE)
    centred, target = guess - guess.mean(0), batch.betas - batch.betas.mean(0)
    slope = ((centred * target).sum(0) / centred.square().sum(0)).clamp(0, 1)
    mean = batch.betas.mean(0) - slope * guess.mean(0)
    return {
        "shape_mean": mean,
        "shape_slope": slope,
        "shape_factor": _factor(batch.betas - mean - slope * guess),
    }


def fit_camera(batch: Batch, observation: Observation) -> dict[str, Tensor]:
    """Mean and factor of the residuals of (log scale, offset) of the regressed camera."""
    true = translation_to_weak(
        batch.translation, batch.box[:, :2], batch.box[:, 2], batch.focal, batch.image_size
    )
    scale = (true[:, :1] / observation.weak[:, :1].clamp_min(0.05)).log()
    residual = torch.cat([scale, true[:, 1:] - observation.weak[:, 1:]], -1)
    mean = residual.mean(0)
    return {"camera_mean": mean, "camera_factor": _factor(residual - mean)}


def _factor(residual: Float[Tensor, "images dim"]) -> Float[Tensor, "dim dim"]:
    ridge = 1e-6 * torch.eye(residual.shape[1])
    return torch.linalg.cholesky(residual.T @ residual / len(residual) + ridge)


def fit_offsets(
    batch: Batch, body: Body, noise: float, *, steps: int = 300
) -> Float[Tensor, "17 3"]:
    """Fit where the detector sees each joint, in its bone's frame, the same on both sides.

    Robust (Student's t), so that joints on the wrong side of the body do not count.
    """
    evidence = refine.best_guess(batch, noise)
    evidence = replace(evidence, weight=usable(batch)[:, None].to(evidence.weight))
    people = labels(batch)
    joints = people.keypoints(body, "coco17")
    turned = body.skinning_transforms(people.rotations, people.betas)[0][:, list(refine.BONES)]

    def energy(offsets: Tensor) -> Tensor:
        moved = joints + (turned @ _both_sides(offsets)[..., None])[..., 0]
        return evidence.misfit(batch.to_crop(moved[:, None]))

    found = refine.descend(energy, torch.zeros(17, 3), steps=steps, rate=0.003)
    return _both_sides(found)


def _both_sides(offsets: Float[Tensor, "17 3"]) -> Float[Tensor, "17 3"]:
    return (offsets + offsets[list(COCO17.mirrored)] * offsets.new_tensor(MIRROR)) / 2


def fit_noise(batch: Batch, body: Body, offsets: Float[Tensor, "17 3"]) -> float:
    r"""Return the noise $s_0$ of `NOISES` under which the key points are likeliest."""
    place = batch.to_crop(refine.detected(labels(batch), body, offsets))[:, None]
    used = usable(batch)[:, None].to(place)

    def cost(noise: float) -> float:
        evidence = replace(refine.best_guess(batch, noise), weight=used)
        volume = 2 * (used * evidence.sigma.log()).sum(-1)
        return float((evidence.misfit(place) + volume).mean())

    return min(NOISES, key=cost)


def fit_rates(
    batch: Batch, body: Body, offsets: Float[Tensor, "17 3"], noise: float, *, rounds: int = 50
) -> Float[Tensor, " 4"]:
    """Return how often the detector exchanges left and right, by expectation-maximisation."""
    place = batch.to_crop(refine.detected(labels(batch), body, offsets))[:, None]
    evidence = refine.best_guess(batch, noise)
    orders = [order.expand(len(batch), 1, -1) for order in refine.PERMUTATIONS]
    cost = torch.stack([evidence.relabelled(o).misfit(place)[:, 0] for o in orders], -1)
    rates = torch.tensor(START_RATES)
    for _ in range(rounds):
        rates = (rates.log() - cost).softmax(-1).mean(0)
    rates = rates.clamp_min(LEAST_RATE)
    return rates / rates.sum()


@torch.no_grad()
def fit(model: Humr, body: Body, records: Records, *, seed: int = 0) -> Constants:
    """Fit all constants but the temperature, which stays 1."""
    generator = torch.Generator().manual_seed(seed)
    batch = records.batch(samples=HEATMAP_SAMPLES, generator=generator)
    observation = model.observe(batch)
    noise = fit_noise(batch, body, fit_offsets(batch, body, START_NOISE))
    offsets = fit_offsets(batch, body, noise)
    return Constants(
        temperature=1.0,
        noise=noise,
        rates=fit_rates(batch, body, offsets, noise),
        offsets=offsets,
        **fit_shape(batch, observation),
        **fit_camera(batch, observation),
    )


# ---- rows: one per variant and image

Draw = Callable[[Batch, torch.Generator], tuple[Hypotheses, dict[str, Tensor]]]


def flow_draw(model: Humr, temperature: float, count: int) -> Draw:
    """Draw from the flow, its noise scaled by the temperature."""

    def draw(batch: Batch, generator: torch.Generator) -> tuple[Hypotheses, dict[str, Tensor]]:
        observation = model.observe(batch)
        noise = temperature * model.noise(len(batch), count, generator)
        mode = model.people(observation, torch.zeros_like(noise[:, :1]))[:, 0]
        return Hypotheses(mode, model.people(observation, noise)), {}

    return draw


def refined_draw(model: Humr, body: Body, constants: Constants, count: int) -> Draw:
    """Draw from the flow and refine."""

    def draw(batch: Batch, generator: torch.Generator) -> tuple[Hypotheses, dict[str, Tensor]]:
        found = refine.refine(model, body, batch, constants, count, generator=generator)
        return found.hypotheses, {"turned": found.turned, "certain": found.certain}

    return draw


def forecast(drawn: Hypotheses, truth: RenderedTruth, body: Body) -> Forecast:
    """What `evaluation` measures, of hypotheses that each have their own shape and camera."""
    parts = zip(vars(drawn.mode).values(), vars(drawn.samples).values(), strict=True)
    people = People(*(torch.cat([mode[:, None], rest], 1) for mode, rest in parts))
    common = people.keypoints(body, "common14")
    root = common[..., list(evaluation.HIPS), :].mean(-2, keepdim=True)
    surface = people.vertices(body) - root
    distance = (surface - truth.vertices[:, None]).norm(dim=-1)
    target = truth.joints[:, None]
    pose = [metrics.mpjpe(common - root, target), metrics.pa_mpjpe(common - root, target)]
    errors = torch.cat([torch.stack(pose, -1), distance @ vertex_weights(body)], -1)
    coco = people.keypoints(body, "coco17")
    return Forecast(common - root, coco, errors, surface.mean(1))


def picture(drawn: Forecast, truth: RenderedTruth) -> dict[str, Tensor]:
    """Distances to the detector's certain joints, px of a 256 px box, and the share within .05."""
    projected = truth.batch.to_crop(drawn.coco17)
    target = truth.batch.keypoints[:, None, :, :2]
    error = evaluation.PIXELS / 2 * metrics.joint_distance(projected, target)
    sure = truth.batch.keypoints[..., 2] >= refine.CERTAIN
    near = (error < 0.05 * evaluation.PIXELS).to(error)
    columns = {}
    for name, values in (("detected", error), ("near", near)):
        columns[f"{name}_mode"] = metrics.masked_mean(values[:, 0], sure)
        columns[f"{name}_samples"] = metrics.masked_mean(values[:, drawn.random].mean(1), sure)
    return columns


def whole(mode: People, truth: RenderedTruth) -> dict[str, Tensor]:
    """Errors of the mode's root rotation (degrees) and depth (share), and of its betas."""
    batch = truth.batch
    root = geodesic_distance(mode.rotations[:, 0], batch.rotations[:, 0])
    depth = mode.translation[:, 2] / batch.translation[:, 2] - 1
    return {
        "root_degrees": root.rad2deg(),
        "depth_share": depth.abs(),
        "betas_square": (mode.betas - batch.betas).square().sum(-1),
    }


@torch.no_grad()
def measured(
    draw: Draw, body: Body, records: Records, *, seed: int = 0, batch: int = 20
) -> pd.DataFrame:
    """Return one row per image of hypotheses that `draw` makes."""
    generator = torch.Generator().manual_seed(seed)

    def parts() -> Iterator[evaluation.Columns]:
        for here in evaluation.parts_of(len(records), 1, batch=batch, held=batch):
            part = records[slice(here.start, here.stop)]
            truth = part.truth(body, samples=HEATMAP_SAMPLES, generator=generator)
            began = time.perf_counter()
            found, facts = draw(truth.batch, generator)
            seconds = (time.perf_counter() - began) / len(part)
            drawn = forecast(found, truth, body)
            yield {
                "image": here,
                "seconds": seconds,
                **evaluation.accuracy(drawn, truth),
                **evaluation.scores(drawn, truth),
                **evaluation.consistency(drawn, truth),
                **evaluation.calibration(drawn, truth),
                **picture(drawn, truth),
                **whole(found.mode, truth),
                **facts,
                "hidden": truth.hidden.sum(-1),
            }

    return evaluation.table(parts())


def miscalibration(rows: pd.DataFrame) -> float:
    """Mean distance of coverage to its level: 50 and 90 %, xy and z, visible and hidden."""
    gaps = [
        abs(rows[f"cover{level}_{axes}_{seen}"].mean() - level / 100)
        for level in LEVELS
        for axes in ("xy", "z")
        for seen in ("visible", "hidden")
    ]
    return float(np.mean(gaps))


def comparison(rows: pd.DataFrame, reference: str, columns: Sequence[str]) -> pd.DataFrame:
    """Means, a line per metric and a column per variant, with paired differences in brackets.

    The differences to the reference have 95 % intervals over the images ("image").
    """
    means: Any = rows.groupby("variant", sort=False)[list(columns)].mean()
    lines: Any = differences(rows, reference, columns).itertuples()
    brackets = {
        (i.variant, i.metric): f" ({i.estimate:+.3g}, {i.low:+.3g} to {i.high:+.3g})"
        for i in lines
    }
    return pd.DataFrame(
        {
            variant: {
                name: f"{means.at[variant, name]:.3g}" + brackets.get((variant, name), "")
                for name in columns
            }
            for variant in means.index
        }
    )


# ---- commands


def fit_shipped(profile_name: str) -> list[Path]:
    """Fit the constants of the shipped model on validation and store them beside it."""
    model, body, world = _shipped(profile_name)
    records = store(world).load("validation")
    constants = fit(model, body, records)
    tried = []
    for temperature in TEMPERATURES:
        hotter = replace(constants, temperature=temperature)
        draw = refined_draw(model, body, hotter, HYPOTHESES)
        rows = measured(draw, body, records[slice(0, SEARCHED)])
        score = round(float(np.mean(rows["energy_score"])), 2)
        line = {"temperature": temperature, "miscalibration": round(miscalibration(rows), 4)}
        tried.append(line | {"energy_score": score})
        say(str(tried[-1]))
    return [store_constants(constants, tried, len(records), profile_name)]


def choose_temperature(tried: Sequence[dict[str, float]]) -> float:
    """Take the lowest energy score among the well calibrated, else the best calibrated."""
    good = [line for line in tried if line["miscalibration"] < CALIBRATED]
    if good:
        return min(good, key=lambda line: line["energy_score"])["temperature"]
    return min(tried, key=lambda line: line["miscalibration"])["temperature"]


def store_constants(
    constants: Constants, tried: list[dict[str, float]], images: int, profile_name: str
) -> Path:
    """Store constants with the chosen temperature, and where they come from."""
    about = {
        **provenance(),
        "fitted on": f"{images} validation images, temperature on the first {SEARCHED}",
        "world": digest(store(profile(profile_name).run.world).directory / "manifest.json"),
        "temperatures": tried,
    }
    chosen = replace(constants, temperature=choose_temperature(tried))
    return chosen.write(runs.SHIPPED, about)


def measure_shipped(profile_name: str, images: int) -> list[Path]:
    """Measure flow and refinement on test images, and publish the rows."""
    model, body, world = _shipped(profile_name)
    constants = Constants.read(runs.SHIPPED)
    records = store(world).load("test")[slice(0, images)]
    hot = constants.temperature
    draws = {
        "flow": flow_draw(model, 1.0, HYPOTHESES),
        "flow_tempered": flow_draw(model, hot, HYPOTHESES),
        "refined": refined_draw(model, body, constants, HYPOTHESES),
    }
    parts = []
    for name, draw in draws.items():
        rows = measured(draw, body, records)
        rows.insert(0, "variant", name)
        parts.append(rows)
    about = {
        "images": len(records),
        "hypotheses": HYPOTHESES,
        "world": digest(store(world).directory / "manifest.json"),
    }
    return publish("refinement", profile_name, pd.concat(parts, ignore_index=True), about)


def publish(
    product: str, profile_name: str, rows: pd.DataFrame, about: dict[str, Any]
) -> list[Path]:
    """Store rows of the shipped model in `data/results` with where they come from."""
    weights = digest(runs.SHIPPED.with_suffix(".safetensors"))
    record = {
        **provenance(),
        **about,
        "checkpoint": weights,
        "constants": digest(refine.constants_path(runs.SHIPPED)),
    }
    front = {"seed": 0, "key": weights[:12], "steps": 0}
    whole = pd.concat([pd.DataFrame(front, index=rows.index), rows], axis=1)
    return runs.write_results(product, profile_name, whole, record)


def _shipped(profile_name: str) -> tuple[Humr, Body, World]:
    return runs.shipped()[0], load_body("small"), profile(profile_name).run.world


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `refine`."""
    parser = argparse.ArgumentParser(prog="humr refine", description=__doc__)
    parser.add_argument("action", choices=["fit", "measure", "table"])
    parser.add_argument("--profile", default="laptop", help="whose world is read")
    parser.add_argument("--images", type=int, default=400, help="test images that are measured")
    options = parser.parse_args(arguments)
    try:
        if options.action == "table":
            rows = runs.read_results("refinement", options.profile)
            say("no rows yet" if rows is None else comparison(rows, "flow", SHOWN).to_string())
            return 0
        if options.action == "fit":
            paths = fit_shipped(options.profile)
        else:
            paths = measure_shipped(options.profile, options.images)
    except (FileNotFoundError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    for path in paths:
        say(shown(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
