"""What the cells of a notebook call: a start, figures with a record of their origin, an end."""

import json
import os
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from humr.devices import pick_device
from humr.files import NOTEBOOKS, PROFILES, RUNS, device_name, git_hash, say
from humr.launch import environment, execution

T = TypeVar("T")

STYLE = Path(__file__).with_name("humr.mplstyle")
RECORDED = ("torch", "numpy", "FrEIA", "smplx", "matplotlib")  # versions kept beside results


@dataclass(frozen=True, kw_only=True)
class Context:
    """One execution of one notebook: its profile, device, generators and folders."""

    name: str
    profile: str
    seed: int
    device: torch.device
    generator: torch.Generator = field(repr=False)
    rng: np.random.Generator = field(repr=False)
    started: float = field(repr=False)

    @property
    def out(self) -> Path:
        """Folder for what this notebook writes; made on first use."""
        folder = RUNS / self.profile / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def figures(self) -> Path:
        """Folder for figures: inside runs/, unless the committed version is being made."""
        folder = Path(os.environ.get("HUMR_FIGURES") or RUNS / self.profile / "figures")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def code(self) -> str:
        """Hash of the notebook's code cells, as they are on disk."""
        return execution.code_hash(NOTEBOOKS / f"{self.name}.ipynb")

    def pick(self, **values: T) -> T:
        """Return the value for this profile, or for the next lower profile that has one.

        Example:
            >>> steps = run.pick(smoke=50, laptop=2000)  # doctest: +SKIP
        """
        if unknown := sorted(set(values) - set(PROFILES)):
            allowed = ", ".join(PROFILES)
            raise ValueError(f"profiles must be among {allowed}; got {', '.join(unknown)}")
        below = PROFILES[: PROFILES.index(self.profile) + 1]
        known = [name for name in below if name in values]
        if not known:
            raise ValueError(f"no value for profile {self.profile!r} or below; got {[*values]}")
        return values[known[-1]]

    def savefig(self, fig: Figure, name: str) -> None:
        """Write NAME.png and beside it NAME.json, which says where the picture comes from."""
        path = self.figures / f"{name}.png"
        fig.savefig(path, metadata={"Software": None})
        path.with_suffix(".json").write_text(json.dumps(self.origin(), indent=1) + "\n")

    def origin(self) -> dict[str, str | int | float]:
        """Where a result comes from."""
        return {
            "notebook": self.name,
            "code": self.code,
            "git": git_hash(),
            "profile": self.profile,
            "seed": self.seed,
            "device": device_name(self.device),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def finish(self) -> None:
        """Write provenance.json into `out` and print its stable part."""
        record = self.origin() | {
            "seconds": round(time.monotonic() - self.started, 1),
            "versions": {name: installed(name) for name in RECORDED},
        }
        (self.out / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
        say(f"{self.name}: profile {self.profile}, seed {self.seed}, code {self.code[:8]}")


def start(name: str, profile: str, seed: int) -> Context:
    """Begin a notebook: profile, seeds, threads, figure style.

    The environment variable `HUMR_PROFILE` can lower the profile (the tests use this), never
    raise it; `HUMR_DEVICE` and `HUMR_THREADS` replace the automatic choices.
    """
    if not (NOTEBOOKS / f"{name}.ipynb").exists():
        raise ValueError(f"name must be the notebook's file name without .ipynb; got {name!r}")
    actual = environment.lowered(profile)
    if actual != profile:
        say(f"profile {actual} (HUMR_PROFILE) instead of {profile}")
    torch.set_num_threads(threads())
    torch.manual_seed(seed)  # for layers' initial weights; all else takes a generator
    plt.style.use(STYLE)
    return Context(
        name=name,
        profile=actual,
        seed=seed,
        device=pick_device(),
        generator=torch.Generator().manual_seed(seed),
        rng=np.random.default_rng(seed),
        started=time.monotonic(),
    )


def threads() -> int:
    """Threads for torch: HUMR_THREADS, else the cores that this process may use, at most 8."""
    if chosen := os.environ.get("HUMR_THREADS"):
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 8)


def installed(name: str) -> str:
    """Version of a distribution, or 'absent'."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
