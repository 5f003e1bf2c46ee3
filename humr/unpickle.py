"""Pickles of data: arrays, numbers, texts and plain containers, and nothing else.

A pickle may call anything it can name. Here the names are few, and none does anything: each
becomes a record of what the file says of an object. Arrays are made from the records afterwards,
from bytes whose type and length were checked. Every other name is refused. Chumpy arrays and
sparse matrices, as in the files of SMPL, become plain arrays; neither package is needed.
"""

import pickle
import re
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np

from humr.licensed import existing, shown

# Of dtypes: truth values, numbers, texts, bytes, objects. Structured types are refused.
_CODE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|f16|[SU]\d+|O8?|[?bBhHiIlLqQefd])")
Readable = IO[bytes] | BufferedIOBase  # pyright knows one, beartype the other
_BROKEN = (
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
    except _BROKEN as error:
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
