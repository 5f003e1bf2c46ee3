"""Looks at licensed files: each function returns a remark, or says by `ValueError` what is wrong.

Arrays are not read where the headers of a file tell their shapes.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import scipy.io
from scipy.io.matlab import MatReadError

from humr import hdf5
from humr.licensed import shown
from humr.npz_files import headers, read_npy
from humr.unpickle import read_dictionary

Shape = tuple[int | None, ...]  # None stands for any length
Shapes = Mapping[str, Shape]


def npz_file(path: Path, *, shapes: Shapes) -> str:
    """An .npz file with these arrays and perhaps more."""
    found = {key: header.shape for key, header in headers(path).items()}
    contains(path, found, shapes)
    return f"{size(path)}, {len(found)} arrays"


def npy_file(path: Path, *, shape: Shape) -> str:
    """An .npy file."""
    _compare(path, "the array", read_npy(path).shape, shape)
    return size(path)


def pickle_file(path: Path, *, shapes: Shapes) -> str:
    """A pickle of a dictionary with these arrays and perhaps more."""
    content = read_dictionary(path, tuple(shapes))
    for key, shape in shapes.items():
        _compare(path, key, getattr(content[key], "shape", ()), shape)
    return size(path)


def hdf5_file(path: Path, *, shapes: Shapes) -> str:
    """An HDF5 file with these arrays, or columns of tables, and perhaps more."""
    contains(path, hdf5.shapes(path), shapes)
    return size(path)


def mat_file(path: Path, *, shapes: Shapes) -> str:
    """A MATLAB file, of a version before 7.3, with these arrays and perhaps more."""
    try:
        found = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    except (ValueError, TypeError, LookupError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            f"{shown(path)} is no MATLAB file: {error!r}. Usual cause: a partial download"
        ) from error
    contains(path, found, shapes)
    return size(path)


def large_pickle(path: Path, *, least: int) -> str:
    """A pickle that is not read here: `least` MB tell it from a page of a web site."""
    if path.stat().st_size < least * 2**20:
        raise ValueError(
            f"{shown(path)} must have {least} MB or more; got {size(path)}. Usual cause: a "
            "partial download, or a page of a web site saved under this name"
        )
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(-1, 2)
        last = file.read(1)
    if (first, last) != (pickle.PROTO, pickle.STOP):
        raise ValueError(
            f"{shown(path)} is no whole pickle: it must begin with {pickle.PROTO} and end with "
            f"{pickle.STOP}; got {first} and {last}. Usual cause: a partial download, or one that "
            "reserved its place and was not filled"
        )
    return size(path)


def folder(path: Path, *, pattern: str, least: int = 1) -> str:
    """A folder with at least so many of something."""
    count = sum(1 for _ in path.glob(pattern))
    if count < least:
        raise ValueError(
            f"{shown(path)} must hold {least} {pattern} or more; got {count}. Usual cause: an "
            "archive unpacked one level too high or too low, or not to its end"
        )
    return f"{count} {pattern}"


def size(path: Path) -> str:
    """The size of a file, as remarks give it."""
    return f"{path.stat().st_size / 2**20:.1f} MB"


def contains(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    """Refuse a file that lacks arrays, or has them with other shapes."""
    if missing := [key for key in shapes if key not in found]:
        there = ", ".join(list(found)[:40]) or "nothing"
        raise ValueError(f"{shown(path)} lacks {', '.join(missing)}; it has {there}")
    for key, shape in shapes.items():
        _compare(path, key, found[key], shape)


def _compare(path: Path, key: str, got: tuple[int, ...], wanted: Shape) -> None:
    fits = len(got) == len(wanted) and all(
        w in (None, g) for g, w in zip(got, wanted, strict=True)
    )
    if not fits:
        text = ", ".join("any" if n is None else str(n) for n in wanted)
        raise ValueError(f"{shown(path)}: {key} must have shape ({text}); got {got}")
