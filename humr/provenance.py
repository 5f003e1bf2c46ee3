"""Where a result comes from: commit, library, device, time."""

import subprocess
import time
from functools import cache
from typing import Any

import torch

from humr.paths import ROOT


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Say which code, library and device made a result, and when."""
    return {
        "git": git_hash(),
        "torch": torch.__version__,
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def device_name(device: torch.device) -> str:
    """Name of a device for records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def git_hash() -> str:
    """Return the commit, with a plus sign if files differ from it; "unknown" outside git.

    Notebooks and figures do not count: they are what is being made, and records name a notebook's
    code by its own hash. Asked once: what a process then writes is not the code that it runs.
    """
    others = (".", ":(exclude)notebooks", ":(exclude)figures")
    try:
        commit = _git("describe", "--always", "--abbrev=12")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *others)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * bool(changed)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
