"""Pickles of data: arrays, numbers, texts and plain containers, and nothing else.

A pickle may call anything it can name. Here the names are few, and none does anything: each
becomes a record of what the file says of an object. Arrays are made from the records afterwards,
from bytes whose type and length were checked. Every other name is refused. Chumpy arrays and
sparse matrices, as in the files of SMPL, become plain arrays; neither package is needed.
"""

import pickle
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError
from typing import IO, Any

import h5py
import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from humr.files import existing, shown

# Weights of other projects: read without running what is in a file, and taken only whole.
#
# Files of torch are pickles. Tensors, plain values and settings of the package yacs, which
# become dictionaries, are read; anything else is refused by name. A state dict must have every
# tensor of the network, with its shape, and nothing else.


EXAMPLES = 5  # names in an error
_ENDS = (EOFError, IndexError, StructError)  # of files that end too early
_BROKEN_WEIGHTS = (*_ENDS, UnpicklingError, RuntimeError, OSError, ValueError, KeyError, TypeError,
           AttributeError, AssertionError, OverflowError, MemoryError)  # fmt: skip


def load(path: Path, required: str, known: set[str], *, bare: bool = False) -> dict[str, Any]:
    """Read a file of torch without running what is in it, and check its top level.

    Args:
        path: the file.
        required: the key that holds the weights.
        known: the other keys that may be there.
        bare: whether weights without that key are taken too; they come back below it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {shown(path)}: download it and put it there")
    harmless: Any = [(OrderedDict, "yacs.config.CfgNode")]  # settings; only their values are read
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN_WEIGHTS as error:
        reason = "" if isinstance(error, _ENDS) else str(error)
        # without torch's own words, which advise to run what is in the file
        raise ValueError(_unreadable(path, reason, required)) from None
    if bare and _is_state(content):
        return {required: content}
    keys = set(content) if isinstance(content, Mapping) else set()
    if (
        required not in keys
        or keys - known - {required}
        or not isinstance(content[required], Mapping)
    ):
        hint = "" if bare else ", or bare weights"
        raise ValueError(
            f"{shown(path)}: expected {required!r} and at most {sorted(known - {required})} "
            f"beside it; got {sorted(map(str, keys))[:12] or type(content).__name__}. Usual "
            f"cause: a checkpoint of another project{hint}"
        )
    return dict(content)


def _is_state(content: object) -> bool:
    """Tell whether something is a state dict: names of tensors, and at least one."""
    tensors = isinstance(content, Mapping) and [isinstance(v, Tensor) for v in content.values()]
    return bool(tensors) and all(tensors)


def _unreadable(path: Path, reason: str, required: str) -> str:
    found = re.search(r"GLOBAL (\S+)", reason)
    if found is None:
        lines = [line for line in reason.splitlines() if line and "weights_only" not in line]
        first = lines[0].split(". ")[0].rstrip(".") if lines else "it ends too early"
        return (
            f"{shown(path)} cannot be read as a file of torch: {first}. Usual cause: a broken or "
            "partial download, or a page of a web site saved under this name; get it again"
        )
    return (
        f"{shown(path)} holds {found[1]} beside tensors and plain values; reading that could run "
        "code, so the file is refused. If you trust who made it: read it where its own project "
        f"is installed, and write the weights alone, torch.save({{{required!r}: ...}}, new)"
    )


def check(name: str, state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that is not exactly the network's, or not finite; the error says where.

    Args:
        name: of the file, for the error.
        state: what was read.
        expected: the network's; only names and shapes count.
    """
    shared = [key for key in expected if key in state]
    wrong = [
        f"{key} {tuple(getattr(state[key], 'shape', ()))}, expected {tuple(expected[key].shape)}"
        for key in shared
        if getattr(state[key], "shape", None) != expected[key].shape
    ]
    faults = {
        "missing": [key for key in expected if key not in state],
        "unknown": [str(key) for key in state if key not in expected],
        "of another shape": wrong,
    }
    if not any(faults.values()):
        perms = [key for key in shared if key.endswith(".perm")]
        faults["no permutation and its inverse"] = [k for k in perms if not _inverts(state, k)]
    if any(faults.values()):
        listed = "; ".join(
            f"{len(keys)} {what} {_some(keys)}" for what, keys in faults.items() if keys
        )
        raise ValueError(
            f"{name} is not the network that was expected. Tensors: {listed}. Usual cause: a "
            "checkpoint of another model, or of the same with other sizes"
        )
    if broken := [key for key in expected if not _finite(state[key])]:
        raise ValueError(
            f"{name} must hold finite weights; got NaN or infinity in {len(broken)} of "
            f"{len(expected)} tensors {_some(broken)}. Usual cause: a training that diverged, or "
            "a damaged file"
        )


def _some(keys: list[str]) -> str:
    return f"({', '.join(keys[:EXAMPLES])}{', ...' * (len(keys) > EXAMPLES)})"


def _finite(values: Tensor) -> bool:
    return not values.is_floating_point() or bool(values.isfinite().all())


def _inverts(state: Mapping[str, Tensor], key: str) -> bool:
    order, inverse = state[key], state[f"{key}_inv"]
    same = torch.equal(order.sort().values, torch.arange(len(order)).to(order))
    return same and torch.equal(order.argsort(), inverse)


def fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a model, in single precision or, if they have more, in double."""
    kinds = [v.dtype for v in values.values() if v.is_floating_point()]
    model.to(torch.promote_types(torch.float32, kinds[0]))
    model.load_state_dict({**model.state_dict(), **values})
    model.eval()


# HDF5 files (tables of PyTables, MATLAB 7.3): arrays, columns and rows by name.


@contextmanager
def _opened_hdf5(path: Path) -> Iterator[h5py.File]:
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
    with _opened_hdf5(path) as file:
        return {name: _dataset(file, path, name)[()] for name in names}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays, and of all columns of tables as "table/column"."""
    found = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = rows = item.shape or ()
            for column in item.dtype.names or ():
                found[f"{name}/{column}"] = rows + item.dtype[column].shape

    with _opened_hdf5(path) as file:
        file.visititems(note)
    return found


def read_columns(path: Path, table: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read columns of a table, all rows."""
    with _opened_hdf5(path) as file:
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
    with _opened_hdf5(path) as file:
        values = _dataset(file, path, table).fields(column)
        for start in range(0, len(rows), batch):
            yield values[rows[start : start + batch]]


# Of dtypes: truth values, numbers, texts, bytes, objects. Structured types are refused.
_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|f16|[SU]\d+|O8?|[?bBhHiIlLqQefd])")
Readable = IO[bytes] | BufferedIOBase  # pyright knows one, beartype the other
_BROKEN_PICKLE = (
    pickle.UnpicklingError, ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError,
    OverflowError, RecursionError, MemoryError,
)  # fmt: skip


class _Record:
    """What a pickle says of one object: the arguments of its constructor, and its state."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "_Record":  # noqa: ANN401
        """Keep the arguments here, since most protocols skip `__init__`."""
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        self.state = state


class _Array(_Record):
    """`_reconstruct(ndarray, (0,), b"b")` with the state (version, shape, dtype, order, data)."""


class _NumpyClass(_Record):
    """`numpy.ndarray`, which pickles only name."""


class _Buffer(_Record):
    """`_frombuffer(data, dtype, shape, order)`: arrays of protocol 5."""


class _Scalar(_Record):
    """`scalar(dtype, data)`."""


class _Dtype(_Record):
    """`dtype(code, align, copy)` with the state (version, byte order, ...)."""


class _Encoded(_Record):
    """`encode(text, "latin1")` and `bytes()`: bytes in pickles for Python 2."""


class _Set(_Record):
    """`set` and `frozenset`."""


class _Object(_Record):
    """`object`, which pickles only name."""


class _Rebuilt(_Record):
    """`copy_reg._reconstructor(class, object, None)`: protocols 0 and 1."""


class _Chumpy(_Record):
    """`chumpy.ch.Ch`: its array is `x`."""


class _Selection(_Record):
    """`chumpy.reordering.Select`: `a.ravel()[idxs]` in the shape `preferred_shape`."""


class _Sparse(_Record):
    """`scipy.sparse.csc_matrix`: data, indices (rows), indptr (columns), and shape."""


def _known() -> dict[tuple[str, str], type]:
    found: dict[tuple[str, str], type] = {
        ("numpy", "ndarray"): _NumpyClass,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encoded,
        ("collections", "OrderedDict"): dict,
        ("chumpy.ch", "Ch"): _Chumpy,
        ("chumpy.reordering", "Select"): _Selection,
    }
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _Array
        found[f"{core}.multiarray", "scalar"] = _Scalar
        found[f"{core}.numeric", "_frombuffer"] = _Buffer
    for builtin in ("builtins", "__builtin__"):
        found |= {(builtin, "set"): _Set, (builtin, "frozenset"): _Set}
        found |= {(builtin, "object"): _Object, (builtin, "bytes"): _Encoded}
    for module in ("copyreg", "copy_reg"):
        found[module, "_reconstructor"] = _Rebuilt
    for module in ("scipy.sparse", "scipy.sparse.csc", "scipy.sparse._csc"):
        found[module, "csc_matrix"] = _Sparse
    return found


_KNOWN = _known()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return _KNOWN[module, name]


def unpickle(file: Readable, name: str) -> Any:  # noqa: ANN401
    """Read one pickle from an open file; `name` is for messages.

    Texts of Python 2 are read as latin1. Arrays of numbers are new and writable; sparse matrices
    are dense; lists, tuples, sets and dictionaries stay what they are.
    """
    try:
        return _plain(_Unpickler(file, fix_imports=False, encoding="latin1").load(), {})
    except _BROKEN_PICKLE as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{name} cannot be read: {reason}. Expected a pickle of NumPy arrays and plain "
            "containers. Usual cause: a broken download, another file under this name, or one "
            "that somebody changed; get it again from its official site"
        ) from error


def read_pickle(path: Path) -> Any:  # noqa: ANN401
    """Read a pickle file."""
    with existing(path).open("rb") as file:
        return unpickle(file, shown(path))


def read_dictionary(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a pickle file that holds a dictionary with these keys and perhaps more."""
    content = read_pickle(path)
    got = content if isinstance(content, dict) else {}
    missing = [key for key in keys if key not in got]
    if missing:
        there = ", ".join(str(key) for key in list(got)[:12]) or type(content).__name__
        raise ValueError(
            f"{shown(path)} lacks {', '.join(missing)}; expected a dictionary with "
            f"{', '.join(keys)}; got {there}. Usual cause: another file under this name"
        )
    return got


def _plain(value: Any, done: dict[int, Any]) -> Any:  # noqa: ANN401
    """Replace the records in a value; `done` maps what was seen, so that shared things stay so."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) not in done:
        done[id(value)] = _made(value, done)
    return done[id(value)]


def _made(value: Any, done: dict[int, Any]) -> Any:  # noqa: ANN401
    match value:
        case dict():
            return {_plain(k, done): _plain(v, done) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return type(value)(_plain(v, done) for v in value)
        case bytearray():
            return bytes(value)
        case _Rebuilt(arguments=(type() as kind, *_)) if issubclass(kind, _Record):
            record = kind()
            record.state = value.state
            return _made(record, done)
        case _Set():
            return set(*_plain(value.arguments, done))
        case _Encoded():
            return _encoded(*value.arguments)
        case _Dtype():
            return _dtype(value)
        case _Scalar(arguments=(dtype, data)):
            return _from_bytes(data, _plain(dtype, done), (), "C", done)[()]
        case _Array(state=(_, shape, dtype, fortran, data)):
            order = "F" if fortran else "C"
            return _from_bytes(data, _plain(dtype, done), shape, order, done)
        case _Buffer(arguments=(data, dtype, shape, order)):
            return _from_bytes(data, _plain(dtype, done), shape, order, done)
        case _Chumpy(state={"x": array}):
            return np.asarray(_plain(array, done))
        case _Selection(state={"a": source, "idxs": chosen, "preferred_shape": shape}):
            picked = np.asarray(_plain(source, done)).ravel()[_plain(chosen, done)]
            return picked.reshape(_plain(shape, done))
        case _Sparse(state=dict() as state):
            return _dense(_plain(state, done))
    raise ValueError(f"it holds something that is no data ({type(value).__name__.strip('_')})")


def _encoded(text: Any = "", encoding: str = "latin1") -> bytes:  # noqa: ANN401
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "ascii"):
        raise ValueError(f"it holds bytes in the encoding {encoding!r}; latin1 is expected")
    return text.encode("latin1")


def _dtype(record: _Record) -> np.dtype:
    code = record.arguments[0] if record.arguments else None
    if isinstance(code, bytes):
        code = code.decode("latin1")
    state = record.state or (3, "|", None, None, None)
    if not isinstance(code, str) or not _CODE.fullmatch(code) or any(state[2:5]):
        raise ValueError(f"it holds an array of type {code!r}; numbers and texts are expected")
    return np.dtype(code).newbyteorder(">" if state[1] in (">", b">") else "<")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: str, done: dict[int, Any]) -> np.ndarray:  # noqa: ANN401
    """Make an array; its bytes must have the length that type and shape ask for."""
    if not isinstance(dtype, np.dtype) or order not in ("C", "F"):
        raise ValueError("it holds an array without a type")
    data = _plain(data, done)
    if dtype.hasobject:
        flat = np.empty(len(data), object)
        for index, value in enumerate(data):
            flat[index] = value
        return flat.reshape(shape, order=order)
    data = data.encode("latin1") if isinstance(data, str) else data
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order)


def _dense(state: Mapping[str, Any]) -> np.ndarray:
    """Return the dense form of a sparse matrix stored column after column (CSC)."""
    rows, columns = state["_shape"]
    dense = np.zeros((rows, columns), state["data"].dtype)
    column = np.repeat(np.arange(columns), np.diff(state["indptr"]))
    np.add.at(dense, (state["indices"], column), state["data"])
    return dense


# NumPy's .npz and .npy files, with arrays of objects that are read as data, never as code.


_BROKEN_NPZ = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)


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
    with _opened_npz(path) as archive:
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
    with _opened_npz(path) as archive:
        found = {}
        for key in _names(archive):
            try:
                with archive.open(f"{key}.npy") as file:
                    found[key] = _header(file)
            except _BROKEN_NPZ as error:
                raise _damaged(path, key, error) from error
        return found


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers or texts."""
    try:
        with existing(path).open("rb") as file:
            return npy.read_array(file, allow_pickle=False)
    except _BROKEN_NPZ as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{shown(path)} is no .npy file of numbers: {error}. Usual cause: a broken download"
        ) from error


def _opened_npz(path: Path) -> zipfile.ZipFile:
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
    except _BROKEN_NPZ as error:
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
