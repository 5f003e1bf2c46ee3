"""Make the environment that everything runs in, with nothing but Python installed.

Only the standard library may be imported here: this module runs before anything is installed.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from humr.files import PROFILES, ROOT, say

VENV = ROOT / ".venv"
STAMP = VENV / "humr-stamp"
CONSTRAINTS = ROOT / "constraints.txt"


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def lowered(profile: str) -> str:
    """Return the smaller of `profile` and the environment variable `HUMR_PROFILE`."""
    ceiling = os.environ.get("HUMR_PROFILE") or profile
    for name in (profile, ceiling):
        if name not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}; got {name!r}")
    return min(profile, ceiling, key=PROFILES.index)


def ensure() -> str:
    """Return an interpreter that has everything; the first call makes .venv (a minute or two)."""
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if not inside and not missing():
        return sys.executable
    with locked(ROOT / ".venv.lock", "another humr command is making the environment; waiting"):
        if not stamped():
            make()
    return str(venv_python())


def venv_python() -> Path:
    """Where the interpreter of .venv is."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def variables(python: str, **extra: str) -> dict[str, str]:
    """Environment of a child process: the interpreter's tools and this checkout come first."""
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    roots = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(roots), **extra}


# ---- what is needed


def project() -> dict[str, Any]:
    """The part of pyproject.toml that decides what is installed."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return content["project"] | content["tool"]["setuptools"]


def requirements() -> list[str]:
    """Names of the distributions that pyproject.toml asks for."""
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in project()["dependencies"]]


def missing() -> list[str]:
    """Names of the required distributions that the running interpreter lacks."""
    absent = []
    for name in requirements():
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    return absent


def fingerprint() -> str:
    """Hash of what decides the content of the environment."""
    text = json.dumps(project(), sort_keys=True) + CONSTRAINTS.read_text()
    return hashlib.sha256(text.encode()).hexdigest()


def stamped() -> bool:
    """Tell whether .venv is complete and belongs to the present pyproject and constraints."""
    return STAMP.exists() and STAMP.read_text() == fingerprint() and venv_python().exists()


# ---- making it


def make() -> None:
    """Make or complete .venv."""
    start = time.monotonic()
    say(f"Setting up {VENV.name} with Python {sys.version.split()[0]}, once; a minute or more")
    clear_broken()
    if not VENV.exists():
        create()
    STAMP.write_text("installing")
    index = os.environ.get("HUMR_TORCH_INDEX")
    install("torch", ["torch", *(["--index-url", index] if index else [])])
    install("the other packages", ["-e", str(ROOT)])
    STAMP.write_text(fingerprint())
    say(f"Environment ready after {time.monotonic() - start:.0f} s")


def clear_broken() -> None:
    """Remove a half-made .venv; refuse to touch a folder that is not a virtual environment."""
    if not VENV.exists():
        return
    if not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()) and not STAMP.exists():
        raise SetupError(f"{VENV} is not a virtual environment. Move it away and start again.")
    half = STAMP.exists() and STAMP.read_text() == "installing"
    if half or not works():
        say(f"{VENV.name} is half made or broken; making it anew")
        shutil.rmtree(VENV)


def works() -> bool:
    """Tell whether .venv has a Python that is new enough and has pip."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        result = subprocess.run([venv_python(), "-c", check], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def create() -> None:
    """Create .venv with pip in it, by whatever means this Python has."""
    makers = {  # a module that may be there: what can be run then
        "ensurepip": [["venv", VENV]],
        "virtualenv": [["virtualenv", VENV]],
        "pip": [
            ["venv", "--without-pip", VENV],
            ["pip", "--python", venv_python(), "install", "-q", "pip"],
        ],
    }
    for needed, commands in makers.items():
        if importlib.util.find_spec(needed) is None:
            continue
        for words in commands:
            subprocess.run([sys.executable, "-m", *words], capture_output=True)
        if works():
            return
        shutil.rmtree(VENV, ignore_errors=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise SetupError(
        "This Python cannot make virtual environments (no ensurepip). On Debian and Ubuntu:\n"
        f"    sudo apt install python{version}-venv\n"
        "then run the same command again; or make any environment with `pip` and run\n"
        "    pip install -c constraints.txt -e ."
    )


def install(title: str, arguments: list[str]) -> None:
    """Run one pip installation under the constraints; pip shows what it is doing.

    Modules are compiled when they are first imported: half the time, a fifth less disk.
    """
    command = [str(venv_python()), "-m", "pip", "install", "--no-compile", "--retries", "2"]
    command += ["--disable-pip-version-check", "--no-input", "-c", str(CONSTRAINTS), *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SetupError(
            f"pip could not install {title}: its last lines above say why. If it cannot reach the "
            "package index, check the network, or pip's own settings. Then run the same command "
            "again."
        )


@contextlib.contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold an exclusive lock that the system releases if this process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(message)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
