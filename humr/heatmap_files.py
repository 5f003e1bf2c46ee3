"""Samples of ViTPose's heatmaps, one file per person, as the authors of HuMR publish them.

The script that drew them is not released. The paper discards confidences below 0.05; a sampler in
the official code draws cells in proportion to the heatmap, with replacement. `heatmap_precompute`
does so and writes the same files.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.files import write_bytes
from humr.licensed import LICENSED, existing, shown

SHAPE = (150, 17, 4)  # samples, COCO joints; x, y, confidence, distance to the mask
OFF_MASK = 0.71  # beyond this a sample lies outside the mask; half a pixel's diagonal, it seems
LEVEL = 3  # of compression; 6 takes twice as long for 8 % less
_LARGEST_FILE = 2**20  # bytes, uncompressed; ten times what float64 needs
_BROKEN = (EOFError, OSError, ValueError, zlib.error)


@dataclass(frozen=True)
class HeatmapSamples:
    """Heatmap samples of some people."""

    points: Float[Tensor, "people samples 17 2"]  # pixels of the photograph, upright
    confidence: Float[Tensor, "people samples 17"]  # of the heatmap at the sample
    distance: Float[Tensor, "people samples 17"]  # to the mask of all persons, unit unknown

    @property
    def peak(self) -> Float[Tensor, "people 17"]:
        """Largest confidence among the samples, which the official code takes for the heatmap's.

        Take it from all stored samples, before `draw`.
        """
        return self.confidence.amax(1)

    def outside(self, mask_valid: Bool[Tensor, " people"]) -> Bool[Tensor, "people samples 17"]:
        """Which samples lie off the person's mask; all of them where the mask is not valid."""
        return (self.distance > OFF_MASK) | ~mask_valid[:, None, None]

    def draw(self, count: int, *, generator: torch.Generator) -> "HeatmapSamples":
        """Draw samples without replacement, all joints of one sample together (official code)."""
        people, stored = self.confidence.shape[:2]
        if not 1 <= count <= stored:
            raise ValueError(f"count must lie in 1..{stored}, the stored samples; got {count}")
        order = torch.rand(people, stored, generator=generator).argsort(1)[:, :count]
        each = torch.arange(people)[:, None]
        return HeatmapSamples(
            self.points[each, order], self.confidence[each, order], self.distance[each, order]
        )


def sample_path(name: str, row: int, *, root: Path = LICENSED) -> Path:
    """Return where the samples of a person lie: by its row in the unfiltered annotations."""
    return root / "heatmap_samples" / name / file_name(row)


def file_name(row: int) -> str:
    """Return what the file of a person's samples is called."""
    return f"{row:07d}.npy.gz"


def read_samples(
    name: str, rows: Int[Tensor, " people"], *, root: Path = LICENSED
) -> HeatmapSamples:
    """Read the samples of some people of a data set (`Annotations.row`)."""
    stacked = np.stack([read_file(sample_path(name, row, root=root)) for row in rows.tolist()])
    values = torch.from_numpy(stacked)
    return HeatmapSamples(values[..., :2], values[..., 2], values[..., 3])


def read_file(path: Path) -> np.ndarray:
    """Read and check one file: float32 of `SHAPE`."""
    try:
        with gzip.open(existing(path)) as file:
            values = np.load(io.BytesIO(file.read(_LARGEST_FILE)), allow_pickle=False)
    except _BROKEN as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{shown(path)} cannot be read: {error}. Usual cause: a partial download; get the "
            "heatmap samples of this data set again"
        ) from error
    if not isinstance(values, np.ndarray) or values.shape != SHAPE or values.dtype.kind != "f":
        got = getattr(values, "shape", type(values).__name__)
        raise ValueError(
            f"{shown(path)}: expected {SHAPE} (samples, COCO joints, values) of floats; got "
            f"{got}. Usual cause: a file of another project, or whole heatmaps instead of samples"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)} holds values that are not finite; it is damaged")
    return values.astype(np.float32)


def write_file(path: Path, values: Float[np.ndarray, "150 17 4"]) -> None:
    """Write one file, whole or not at all; equal values give equal bytes."""
    if not np.isfinite(values).all():
        raise ValueError(f"{shown(path)}: samples must be finite numbers; got {values.min()}")
    content = io.BytesIO()
    np.save(content, values.astype(np.float32), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gzip.compress(content.getvalue(), LEVEL, mtime=0))
