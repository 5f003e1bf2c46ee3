"""Files of other projects, read as data and never as code: pickles, .npz, HDF5, checkpoints.

Of a broken, foreign or crafted file nothing is run; one `ValueError` names it and says what is
wrong with it.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from humr.files import BROKEN, BrokenFile, existing, reading, shown
from humr.storage import Readable, npy_header, npz_size

_TOO_SHORT = (EOFError, IndexError, struct.error)
EXAMPLES = 5  # names in an error


# ------------------------------------------------------------------------ pickles
#
# A pickle may call anything that it can name. Here it can name little and calls nothing: every
# name becomes a record of what the file says of an object. Arrays are made from the records
# afterwards, from bytes whose type and length were checked. NumPy's own functions are not safe
# enough for that: a dtype believes a file that says which of its bytes are addresses of objects.
# Chumpy arrays and sparse matrices, as in the files of SMPL, become plain arrays.

_CORES = ("numpy.core", "numpy._core")
_BUILTINS = ("builtins", "__builtin__")
_NAMES: Mapping[str, Sequence[str]] = {  # kinds of records, and what files call them
    "array": [f"{core}.multiarray._reconstruct" for core in _CORES],
    "buffer": [f"{core}.numeric._frombuffer" for core in _CORES],
    "scalar": [f"{core}.multiarray.scalar" for core in _CORES],
    "dtype": ["numpy.dtype"],
    "class of arrays": ["numpy.ndarray"],
    "bytes": ["_codecs.encode", *(f"{module}.bytes" for module in _BUILTINS)],
    "set": [f"{module}.{name}" for module in _BUILTINS for name in ("set", "frozenset")],
    "class of objects": [f"{module}.object" for module in _BUILTINS],
    "rebuilt": [f"{module}._reconstructor" for module in ("copyreg", "copy_reg")],
    "chumpy": ["chumpy.ch.Ch"],
    "selection": ["chumpy.reordering.Select"],
    "sparse": [f"scipy.sparse{module}.csc_matrix" for module in ("", ".csc", "._csc")],
}
# Of dtypes: truth values, numbers, texts, bytes, objects. Structured types are refused.
_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|f16|[SU]\d+|O8?|[?bBhHiIlLqQefd])")


class _Record:
    """What a pickle says of one object: the arguments of its constructor, and its state."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "_Record":  # noqa: ANN401
        """Keep the arguments here, since most protocols skip `__init__`."""
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401
        self.state = state


_KNOWN: Mapping[tuple[str, ...], type] = {
    ("collections", "OrderedDict"): dict,
    **{
        tuple(name.rsplit(".", 1)): type("_Record", (_Record,), {"kind": kind})
        for kind, names in _NAMES.items()
        for name in names
    },
}


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
    hint = (
        "Expected a pickle of NumPy arrays and plain containers. Usual cause: a broken download, "
        "another file under this name, or one that somebody changed; get it again from its "
        "official site"
    )
    with reading(f"{name} cannot be read", hint):
        return _plain(_Unpickler(file, fix_imports=False, encoding="latin1").load(), {})


def read_pickle(path: Path) -> Any:  # noqa: ANN401
    """Read a pickle file."""
    with existing(path).open("rb") as file:
        return unpickle(file, shown(path))


def read_dictionary(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a pickle file that holds a dictionary with these keys and perhaps more."""
    content = read_pickle(path)
    got = content if isinstance(content, dict) else {}
    if missing := [key for key in keys if key not in got]:
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
        case _Record(kind="rebuilt", arguments=(type() as kind, *_)) if issubclass(kind, _Record):
            record = kind()
            record.state = value.state
            return _made(record, done)
        case _Record(kind=kind, arguments=arguments, state=state):
            used = () if kind == "array" else arguments  # which name a class
            return _value(kind, _plain(used, done), _plain(state, done))
    raise ValueError(f"it holds something that is no data ({type(value).__name__})")


def _value(kind: str, arguments: tuple[Any, ...], state: Any) -> Any:  # noqa: ANN401
    """Make what a record describes; its arguments and its state hold no records any more."""
    match kind, arguments, state:
        case "set", _, _:
            return set(*arguments)
        case "bytes", _, _:
            return _encoded(*arguments)
        case "dtype", (code, *_), _:
            return _dtype(code, state or (3, "|", None, None, None))
        case "scalar", (dtype, data), _:
            return _array(data, dtype, (), "C")[()]
        case "array", _, (_, shape, dtype, fortran, data):
            return _array(data, dtype, shape, "F" if fortran else "C")
        case "buffer", (data, dtype, shape, order), _:
            return _array(data, dtype, shape, order)
        case "chumpy", _, {"x": array}:
            return np.asarray(array)
        case "selection", _, {"a": source, "idxs": chosen, "preferred_shape": shape}:
            return np.asarray(source).ravel()[chosen].reshape(shape)
        case "sparse", _, dict():
            return _dense(state)
    raise ValueError(f"it holds something that is no data ({kind})")


def _encoded(text: Any = "", encoding: str = "latin1") -> bytes:  # noqa: ANN401
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "ascii"):
        raise ValueError(f"it holds bytes in the encoding {encoding!r}; latin1 is expected")
    return text.encode("latin1")


def _dtype(code: Any, state: tuple[Any, ...]) -> np.dtype:  # noqa: ANN401
    """Make a simple type; its state is (version, byte order, then None for want of parts, ...)."""
    if not isinstance(code, str) or not _CODE.fullmatch(code) or any(state[2:5]):
        raise ValueError(f"it holds an array of type {code!r}; numbers and texts are expected")
    return np.dtype(code).newbyteorder(">" if state[1] == ">" else "<")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:  # noqa: ANN401
    """Make an array; its bytes must have the length that type and shape ask for."""
    if not isinstance(dtype, np.dtype):
        raise ValueError("it holds an array without a type")
    if dtype.hasobject:
        return np.fromiter(data, object, len(data)).reshape(shape, order=order)
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order)


def _dense(state: Mapping[str, Any]) -> np.ndarray:
    """Return the dense form of a sparse matrix stored column after column (CSC)."""
    rows, columns = state["_shape"]
    dense = np.zeros((rows, columns), state["data"].dtype)
    column = np.repeat(np.arange(columns), np.diff(state["indptr"]))
    np.add.at(dense, (state["indices"], column), state["data"])
    return dense


# ------------------------------------------------------------------------ .npz and .npy


def read_npz(
    path: Path,
    keys: Iterable[str],
    *,
    optional: Iterable[str] = (),
    cause: str = "a file of another project with a similar name",
) -> dict[str, np.ndarray]:
    """Read some arrays of a .npz file: all of `keys`, and those of `optional` that are there.

    `cause` is what the error says about a missing one.
    """
    keys = tuple(keys)
    with _npz(path) as archive:
        names = _names(archive)
        if missing := [key for key in keys if key not in names]:
            raise BrokenFile(
                f"{shown(path)} lacks {', '.join(missing)}; it has {', '.join(names) or 'nothing'}"
                f". Usual cause: {cause}"
            )
        wanted = [*keys, *(key for key in optional if key in names)]
        return {key: _member(archive, key, f"{key} in {shown(path)}") for key in wanted}


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a .npz file without reading the arrays."""
    found = {}
    with _npz(path) as archive:
        for key in _names(archive):
            what = f"{key} in {shown(path)} cannot be read"
            with reading(what), archive.open(f"{key}.npy") as file:
                found[key], _ = npy_header(file, npz_size(archive, key))
    return found


def read_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers or texts."""
    what = f"{shown(path)} is no .npy file of numbers"
    with reading(what, "Usual cause: a broken download"), existing(path).open("rb") as file:
        npy_header(file, path.stat().st_size)
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


@contextmanager
def _npz(path: Path) -> Iterator[zipfile.ZipFile]:
    hint = "Usual cause: a partial download, or a page of a web site saved under this name"
    what = f"{shown(path)} is no .npz file"
    with reading(what, hint), zipfile.ZipFile(existing(path)) as archive:
        yield archive


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _member(archive: zipfile.ZipFile, key: str, name: str) -> np.ndarray:
    with reading(f"{name} cannot be read"), archive.open(f"{key}.npy") as file:
        _, dtype = npy_header(file, npz_size(archive, key))
        if not dtype.hasobject:
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
        content = unpickle(file, name)
    if not isinstance(content, np.ndarray):
        raise BrokenFile(f"{name} is no array but a {type(content).__name__}")
    return content


# ------------------------------------------------------------------------ HDF5
#
# Tables of PyTables, and MATLAB 7.3: arrays, columns and rows by name.


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read whole arrays. MATLAB counts axes from the other end, so that they come reversed."""
    with _hdf5(path) as file:
        return {name: _dataset(file, path, name)[()] for name in names}


def read_columns(path: Path, table: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read columns of a table, all rows."""
    with _hdf5(path) as file:
        rows = _dataset(file, path, table)
        present = rows.dtype.names or ()
        if missing := [name for name in names if name not in present]:
            raise BrokenFile(
                f"{shown(path)}: table {table} lacks {', '.join(missing)}; it has "
                f"{', '.join(present) or 'no columns'}"
            )
        values = rows.fields(list(names))[()]
        return {name: values[name] for name in names}


def read_rows(
    path: Path, table: str, column: str, rows: np.ndarray, *, batch: int = 256
) -> Iterator[np.ndarray]:
    """Read one column of chosen rows (ascending), some at a time: it may not fit the memory."""
    with _hdf5(path) as file:
        values = _dataset(file, path, table).fields(column)
        for start in range(0, len(rows), batch):
            yield values[rows[start : start + batch]]


def hdf5_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays, and of all columns of tables as "table/column"."""
    found = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = rows = item.shape or ()
            for column in item.dtype.names or ():
                found[f"{name}/{column}"] = rows + item.dtype[column].shape

    with _hdf5(path) as file:
        file.visititems(note)
    return found


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    hint = "Usual cause: a partial download, or another format under this name"
    what = f"{shown(path)} is no HDF5 file, or a broken one"
    with reading(what, hint), h5py.File(existing(path), "r") as file:
        yield file


def _dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise BrokenFile(
            f"{shown(path)} has no data set {name!r}; it has {', '.join(file) or 'nothing'}. "
            "Usual cause: another file of the same data set"
        )
    return found


# ------------------------------------------------------------------------ checkpoints
#
# Files of torch are pickles, too. Tensors, plain values and settings of the package yacs, which
# become dictionaries, are read; all else is refused by name. A state dict must have every tensor
# of the network, with its shape, and nothing else.


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
    except BROKEN as error:
        # without torch's own words, which advise to run what is in the file
        raise ValueError(f"{shown(path)} {_unreadable(error, required)}") from None
    parts = content if isinstance(content, Mapping) else {}
    if bare and parts and all(isinstance(value, Tensor) for value in parts.values()):
        return {required: content}
    if not isinstance(parts.get(required), Mapping) or parts.keys() - known - {required}:
        raise ValueError(
            f"{shown(path)}: expected {required!r} and at most {sorted(known - {required})} "
            f"beside it; got {sorted(map(str, parts))[:12] or type(content).__name__}. Usual "
            f"cause: a checkpoint of another project{'' if bare else ', or bare weights'}"
        )
    return dict(parts)


def _unreadable(error: Exception, required: str) -> str:
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"holds {found[1]} beside tensors and plain values; reading that could run code, so "
            "the file is refused. If you trust who made it: read it where its own project is "
            f"installed, and write the weights alone, torch.save({{{required!r}: ...}}, new)"
        )
    lines = [line for line in str(error).splitlines() if line and "weights_only" not in line]
    short = isinstance(error, _TOO_SHORT) or not lines
    reason = "it ends too early" if short else lines[0].split(". ")[0].rstrip(".")
    return (
        f"cannot be read as a file of torch: {reason}. Usual cause: a broken or partial "
        "download, or a page of a web site saved under this name; get it again"
    )


def check(name: str, state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that is not exactly the network's, or not finite; the error says where.

    `name` is that of the file; of `expected` only names and shapes count.
    """
    shared = [key for key in expected if key in state]
    shapes = {key: getattr(state[key], "shape", None) for key in shared}
    faults = {
        "missing": [key for key in expected if key not in state],
        "unknown": [str(key) for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(shapes[key] or ())}, expected {tuple(expected[key].shape)}"
            for key in shared
            if shapes[key] != expected[key].shape
        ],
    }
    if not any(faults.values()):
        perms = [key for key in shared if key.endswith(".perm")]
        faults["no permutation and its inverse"] = [k for k in perms if not _inverts(state, k)]
    if any(faults.values()):
        listed = [f"{len(keys)} {what} {_some(keys)}" for what, keys in faults.items() if keys]
        raise ValueError(
            f"{name} is not the network that was expected. Tensors: {'; '.join(listed)}. Usual "
            "cause: a checkpoint of another model, or of the same with other sizes"
        )
    if broken := [key for key in expected if not state[key].isfinite().all()]:
        raise ValueError(
            f"{name} must hold finite weights; got NaN or infinity in {len(broken)} of "
            f"{len(expected)} tensors {_some(broken)}. Usual cause: a training that diverged, or "
            "a damaged file"
        )


def _some(keys: list[str]) -> str:
    few = keys if len(keys) <= EXAMPLES else [*keys[:EXAMPLES], "..."]
    return f"({', '.join(few)})"


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
