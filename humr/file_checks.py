"""Looks at licensed files: each function returns a remark, or says by `ValueError` what is wrong.

Arrays are not read where the headers of a file tell their shapes.
"""

from collections.abc import Mapping
from pathlib import Path

import scipy.io
from scipy.io.matlab import MatReadError

from humr import hdf5
from humr.heatmap_files import read_file
from humr.licensed import shown
from humr.npz_files import headers, read_npy
from humr.unpickle import read_dictionary

Shape = tuple[int | None, ...]  # None stands for any length
Shapes = Mapping[str, Shape]


def npz_file(path: Path, *, shapes: Shapes) -> str:
    """An .npz file with these arrays and perhaps more."""
    found = {key: header.shape for key, header in headers(path).items()}
    _contains(path, found, shapes)
    return f"{_size(path)}, {len(found)} arrays"


def npy_file(path: Path, *, shape: Shape) -> str:
    """An .npy file."""
    _compare(path, "the array", read_npy(path).shape, shape)
    return _size(path)


def pickle_file(path: Path, *, shapes: Shapes) -> str:
    """A pickle of a dictionary with these arrays and perhaps more."""
    content = read_dictionary(path, tuple(shapes))
    for key, shape in shapes.items():
        _compare(path, key, getattr(content[key], "shape", ()), shape)
    return _size(path)


def hdf5_file(path: Path, *, shapes: Shapes) -> str:
    """An HDF5 file with these arrays, or columns of tables, and perhaps more."""
    _contains(path, hdf5.shapes(path), shapes)
    return _size(path)


def mat_file(path: Path, *, shapes: Shapes) -> str:
    """A MATLAB file, of a version before 7.3, with these arrays and perhaps more."""
    try:
        found = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    except (ValueError, TypeError, LookupError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            f"{shown(path)} is no MATLAB file: {error!r}. Usual cause: a partial download"
        ) from error
    _contains(path, found, shapes)
    return _size(path)


def large_file(path: Path, *, least: int) -> str:
    """A file that is not opened here; `least` MB tell it from a page of a web site."""
    if path.stat().st_size < least * 2**20:
        raise ValueError(
            f"{shown(path)} must have {least} MB or more; got {_size(path)}. Usual cause: a "
            "partial download, or a page of a web site saved under this name"
        )
    return _size(path)


def folder(path: Path, *, pattern: str, least: int = 1) -> str:
    """A folder with at least so many of something."""
    count = sum(1 for _ in path.glob(pattern))
    if count < least:
        raise ValueError(
            f"{shown(path)} must hold {least} {pattern} or more; got {count}. Usual cause: an "
            "archive unpacked one level too high or too low, or not to its end"
        )
    return f"{count} {pattern}"


def heatmap_samples(path: Path) -> str:
    """A folder with samples of heatmaps, of which one is read."""
    remark = folder(path, pattern="*.npy.gz")
    read_file(next(path.glob("*.npy.gz")))
    return remark


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MB"


def _contains(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
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
