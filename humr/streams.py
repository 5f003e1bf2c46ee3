"""A million hypotheses of one image: to statistics or to disk, in the memory of a few hundred."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from humr.bodies import Body
from humr.datasets import Batch
from humr.files import in_place_of
from humr.mesh import Humr

PIECE = 512  # hypotheses at a time


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
        for people in model.stream(batch, count, generator=generator, chunk=PIECE):
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
