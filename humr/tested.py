"""People of a profile's test set as its networks see them, whatever world they are of."""

from dataclasses import dataclass, fields, replace

import torch

from humr import licensed_tests, paper_runs, world
from humr.config import Run
from humr.datasets import Batch
from humr.licensed import TEST
from humr.official_evaluation import with_diagonal
from humr.paper_config import PaperRun
from humr.paper_rows import FIRST, OCCLUDED
from humr.paper_tables import DATASETS


@dataclass(frozen=True)
class Tested:
    """Some people, and which rows of results are theirs."""

    image: list[int]  # as in `studies.rows`
    batch: Batch


def some(run: Run, count: int, *, dataset: str, generator: torch.Generator) -> Tested:
    """Return at most `count` people: the first of the open world, or evenly spread licensed ones.

    Args:
        run: of the profile.
        count: of people.
        dataset: licensed ones are of this test set, as in `sets.only`. Their focal length is the
            photograph's diagonal (`mesh_variants`).
        generator: for the draws of heatmap samples.
    """
    if isinstance(run, PaperRun):
        return _licensed(run, count, dataset)
    world.generate(run.world, splits=["test"])
    records = world.load(run.world, "test")[slice(0, count)]
    samples = max(1, run.model.heatmap_samples)
    return Tested(list(range(len(records))), records.batch(samples=samples, generator=generator))


def _licensed(run: PaperRun, count: int, dataset: str) -> Tested:
    known = {DATASETS[name]: name for name in run.world.test if name != OCCLUDED}
    if dataset not in known:
        raise ValueError(f"dataset must be one of {', '.join(known)}; got {dataset!r}")
    name = known[dataset]
    count = min(count, run.world.tested or count)
    image, parts = [], []
    reads = run.model.heatmap_samples > 0
    for batch, people in licensed_tests.batches(name, paper_runs.ROOT, count, samples=reads):
        image += (people.row + FIRST * TEST.index(name)).tolist()
        parts.append(with_diagonal(batch))
    names = [f.name for f in fields(Batch) if f.name != "given"]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Tested(image, replace(parts[0], **joined))
