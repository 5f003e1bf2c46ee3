"""Files that are fetched once and checked: the two networks of the 2D detector.

Both are cut out of one wheel of MediaPipe (Apache-2.0), which is downloaded without its
dependencies and never installed. Only the standard library is needed here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from humr.paths import DATA

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


def find(name: str, *, folder: Path = FOLDER) -> Path:
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
    return [find(name, folder=folder) for name in ASSETS]


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", *WHEEL_TARGET, f"--dest={scratch}", WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr or done.stdout).strip()[-2000:]
        raise RuntimeError(
            f"could not download {WHEEL} (no network, or no pip in {sys.executable}?):\n{reason}\n"
            "With the wheel from elsewhere: humr.assets.fetch(wheel=Path(...))"
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
