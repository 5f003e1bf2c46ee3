"""NumPy's .npz and .npy files, with arrays of objects that are read as data, never as code."""

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from humr.licensed import existing, shown
from humr.unpickle import Readable, unpickle

_BROKEN = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Header:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_npz(
    path: Path,
    keys: Iterable[str],
    *,
    optional: Iterable[str] = (),
    cause: str = "a file of another project with a similar name",
) -> dict:
    """Read some arrays of a .npz file: all of `keys`, and those of `optional` that are there.

    `cause` is what the error says about a missing one.
    """
    keys = tuple(keys)
    with _opened(path) as archive:
        names = _names(archive)
        missing = [key for key in keys if key not in names]
        if missing:
            raise ValueError(
                f"{shown(path)} lacks {', '.join(missing)}; it has {', '.join(names) or 'nothing'}"
                f". Usual cause: {cause}"
            )
        wanted = [*keys, *(key for key in optional if key in names)]
        return {key: _member(path, archive, key) for key in wanted}


def headers(path: Path) -> dict[str, Header]:
    """Return shapes and types of all arrays of a .npz file without reading the arrays."""
    with _opened(path) as archive:
        found = {}
        for key in _names(archive):
            try:
                with archive.open(f"{key}.npy") as file:
                    found[key] = _header(file)
            except _BROKEN as error:
                raise _damaged(path, key, error) from error
        return found


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers or texts."""
    try:
        with existing(path).open("rb") as file:
            return npy.read_array(file, allow_pickle=False)
    except _BROKEN as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{shown(path)} is no .npy file of numbers: {error}. Usual cause: a broken download"
        ) from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(existing(path))
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{shown(path)} is no .npz file: {error}. Usual cause: a partial download, or a page "
            "of a web site saved under this name"
        ) from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    try:
        with archive.open(f"{key}.npy") as file:
            if not _header(file).dtype.hasobject:
                file.seek(0)
                return npy.read_array(file, allow_pickle=False)
            content = unpickle(file, f"{key} in {shown(path)}")
    except _BROKEN as error:
        raise _damaged(path, key, error) from error
    if not isinstance(content, np.ndarray):
        raise ValueError(f"{key} in {shown(path)} is no array but a {type(content).__name__}")
    return content


def _header(file: Readable) -> Header:
    """Read the header of a .npy file; the file then stands at its data."""
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version} of the .npy format; 1.0 and 2.0 are expected")
    shape, _, dtype = read[version](file)
    return Header(shape, dtype)


def _damaged(path: Path, key: str, error: Exception) -> ValueError:
    return ValueError(
        f"{key} in {shown(path)} cannot be read: {error}. Usual cause: a partial download"
    )
