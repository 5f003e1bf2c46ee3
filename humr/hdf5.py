"""HDF5 files (tables of PyTables, MATLAB 7.3): arrays, columns and rows by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from humr.licensed import shown


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{shown(path)} is no HDF5 file: {error}. Usual cause: a partial download, or another "
            "format under this name"
        ) from error
    with file:
        yield file


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(
            f"{shown(path)} has no data set {name!r}; it has {', '.join(file) or 'nothing'}. "
            "Usual cause: another file of the same data set"
        )
    return found


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read whole arrays. MATLAB counts axes from the other end, so that they come reversed."""
    with _opened(path) as file:
        return {name: _dataset(file, path, name)[()] for name in names}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays, and of all columns of tables as "table/column"."""
    found = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = rows = item.shape or ()
            for column in item.dtype.names or ():
                found[f"{name}/{column}"] = rows + item.dtype[column].shape

    with _opened(path) as file:
        file.visititems(note)
    return found


def read_columns(path: Path, table: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read columns of a table, all rows."""
    with _opened(path) as file:
        rows = _dataset(file, path, table)
        present = rows.dtype.names or ()
        if missing := [name for name in names if name not in present]:
            raise ValueError(
                f"{shown(path)}: table {table} lacks {', '.join(missing)}; it has "
                f"{', '.join(present) or 'no columns'}"
            )
        values = rows.fields(list(names))[()]
        return {name: values[name] for name in names}


def read_rows(
    path: Path, table: str, column: str, rows: np.ndarray, *, batch: int = 256
) -> Iterator[np.ndarray]:
    """Read one column of chosen rows (ascending), some at a time: it may not fit the memory."""
    with _opened(path) as file:
        values = _dataset(file, path, table).fields(column)
        for start in range(0, len(rows), batch):
            yield values[rows[start : start + batch]]
