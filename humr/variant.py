"""A variant: one row of a table, made by changing a few fields of a run."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from humr.config import Run, config_hash, to_dict
from humr.lifting_config import LiftingRun, ProposeRun

R = TypeVar("R", bound=Run | LiftingRun | ProposeRun)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table."""

    name: str
    label: str
    run: Run | LiftingRun | ProposeRun
    checkpoint: str = "best"  # on validation images ("early stopping"), or "last"
    default_focal: bool = False  # evaluate without knowing the focal length

    def seeded(self, seed: int) -> "Variant":
        """Return the same variant with another seed of its training."""
        return replace(self, run=changed(self.run, training={"seed": seed}))

    @property
    def key(self) -> str:
        """Name everything that decides the result."""
        return f"{config_hash(self.run)}-{self.checkpoint}" + "-focal" * self.default_focal


def changed(run: R, **parts: dict[str, Any]) -> R:
    """Change fields of a run's parts.

    Example:
        >>> changed(Run(), weights={"mask": 0.0}).weights.mask
        0.0
    """
    return replace(run, **{name: replace(getattr(run, name), **v) for name, v in parts.items()})


def differing(before: Run, after: Run) -> str:
    """Name the fields in which two runs differ, with both values.

    Example:
        >>> differing(Run(), changed(Run(), weights={"mask": 0.0}))
        'weights.mask: 0.1 → 0.0'
    """
    old, new = (pd.json_normalize(to_dict(run)).iloc[0].map(str) for run in (before, after))
    return ", ".join(f"{name}: {old[name]} → {new[name]}" for name in old.index[old != new])
