"""Measure how fast each link of the chain is here: ``python -m scripts.throughput``.

Prints one row per link: what was counted, how many per second, device, threads. It reports and
asserts nothing; every figure is the best of three, so that a busy machine counts less.
"""

import argparse
import time
from collections.abc import Callable

import pandas as pd
import torch

from humr import objective
from humr.bodies import rendering
from humr.bodies.body import load_body
from humr.experiments import profiles, runs
from humr.files import provenance
from humr.model import Humr
from humr.world import generate
from humr.world.records import Pool


def rate(count: int, work: Callable[[], object], *, repeats: int = 3) -> float:
    """Return things per second, best of `repeats` after a warm-up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return count / best


def measure(images: int) -> dict[str, float]:
    """Measure every link once."""
    recipe = profiles.profile("laptop").run.world
    drawn = generate.scenes(recipe, "test", 0)[:images]
    seen = generate.views(recipe, "test", 0, 0, images)
    body, model = load_body("small"), runs.shipped()[0]
    vertices = body.vertices(drawn.rotations, drawn.betas) + drawn.translation[:, None]
    focal, centre = drawn.window_camera(recipe.window)
    size = recipe.window
    records = generate.make_shard(recipe, "test", 0)[:images]
    generator = torch.Generator().manual_seed(0)
    batch = records.batch(samples=25, generator=generator)
    run = profiles.profile("laptop").run
    training = objective.HumrObjective(
        Humr(run.model), body, run.weights, run.supervision, run.training.hypotheses
    )
    pool = Pool.of({"labelled": records})
    training.model.fit_statistics(pool)
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        drawn_batch = pool.draw(run.training.batch, samples=25, generator=generator)
        total = training.total(training(drawn_batch, generator=generator))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    def hypotheses() -> None:
        model.sample(batch[:4], 250, generator=generator).samples.joints(body)

    return {
        "rasterised bodies (2k vertices, 288 px)": rate(
            images,
            lambda: rendering.rasterise(vertices, body.faces, focal, centre, size, size),
        ),
        "world images (drawn, dressed, lit, photographed)": rate(
            images, lambda: generate.views(recipe, "test", 0, 0, images)
        ),
        "detections": rate(images, lambda: generate.detect(drawn, seen.images)),
        f"training steps (batch {run.training.batch}, {run.training.hypotheses} hypotheses)": rate(
            1, step
        ),
        "hypotheses (flow and 55 joints)": rate(1000, hypotheses),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    origin = provenance()
    table = pd.Series(measure(options.images), name="per second").round(1).to_frame()
    table["device"], table["threads"] = origin["device"], options.threads
    print(table.to_string())  # noqa: T201
    print(f"code {origin['git']}, torch {origin['torch']}, {origin['written']}")  # noqa: T201


if __name__ == "__main__":
    main()
