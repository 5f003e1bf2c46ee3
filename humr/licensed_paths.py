"""Licensed files: where they lie, and what to say when one is not there."""

from pathlib import Path

from humr.paths import DATA

LICENSED = DATA / "licensed"  # ignored by git; data/README.md says what comes from where


def shown(path: Path) -> str:
    """Return how messages name a file: its path in data/, or the end of it elsewhere."""
    return str(path.relative_to(DATA) if path.is_relative_to(DATA) else Path(*path.parts[-2:]))


def find(folder: Path, *names: str) -> Path:
    """Return the first of some files that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = " or ".join(shown(folder / name) for name in names)
    raise FileNotFoundError(
        f"no file {expected}. It is licensed and never fetched: data/README.md says where to "
        "register and what to put there"
    )
