"""ViTPose's keypoints of a data set in one file, written while a long run goes on.

`keypoints.npz` lies beside the samples of heatmaps. Its array `vitpose` (people, 17, 3) is the one
of HuMR's annotation files: y, x, confidence in pixels of the photograph, row by row; NaN where
nobody has looked yet. `settings` says how it was made, so that no run goes on with others.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.files import write_bytes
from humr.licensed import LICENSED, shown
from humr.npz_files import read_npz
from humr.skeletons import COCO17

NAME = "keypoints.npz"


def keypoints_path(name: str, *, root: Path = LICENSED) -> Path:
    """Return where the keypoints of a data set lie."""
    return root / "heatmap_samples" / name / NAME


class Keypoints:
    """Keypoints of all people of a data set, some of them perhaps still missing.

    Args:
        path: of the file; if it is there, it must be of as many people and equal settings.
        people: how many there are.
        settings: how the keypoints are made.
    """

    def __init__(self, path: Path, people: int, settings: Mapping[str, object]) -> None:
        self.path, self.settings = path, json.dumps(settings)
        self.values = np.full((people, len(COCO17), 3), np.nan, np.float32)
        self.unsaved = 0  # people
        if path.is_file():
            self._read()

    def _read(self) -> None:
        stored = read_npz(self.path, ("vitpose", "settings"))
        shape, settings = stored["vitpose"].shape, str(stored["settings"])
        if shape != self.values.shape or settings != self.settings:
            raise ValueError(
                f"{shown(self.path)}: to go on, expected {self.values.shape} and {self.settings}; "
                f"got {shape} and {settings}. Usual cause: other weights or options than before, "
                "or another annotation file; use the same, or move the folder away"
            )
        self.values = stored["vitpose"].astype(np.float32)

    def missing(self) -> Bool[np.ndarray, " people"]:
        """Say who has no keypoints."""
        return np.asarray(np.isnan(self.values).any((1, 2)))

    def put(
        self,
        row: Int[Tensor, " some"],
        points: Float[Tensor, "some 17 2"],
        confidence: Float[Tensor, "some 17"],
    ) -> None:
        """Take keypoints of some people: x, y in pixels of the photograph."""
        stored = torch.cat([points.flip(-1), confidence[..., None]], -1)
        self.values[row.numpy()] = stored.numpy()
        self.unsaved += len(row)

    def save(self) -> None:
        """Write the file, whole or not at all, if there is something new."""
        if not self.unsaved:
            return
        content = io.BytesIO()
        np.savez(content, vitpose=self.values, settings=np.array(self.settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, content.getvalue())
        self.unsaved = 0
