"""Builders of tiny files with the keys, types, shapes, orders and oddities of licensed files.

Contents are made up and asymmetric: no left equals its right, no x its y, no row another row.
"""

import contextlib
import pickle
import sys
import types

import numpy as np


@contextlib.contextmanager
def fake_chumpy():
    """Classes that pickle under chumpy's names: `Ch(x=...)`, `Select(a=..., idxs=..., ...)`."""

    def make(module, name):
        def fill(self, **state):
            self.__dict__.update(state)

        return type(name, (), {"__init__": fill, "__module__": module})

    ch, reordering = make("chumpy.ch", "Ch"), make("chumpy.reordering", "Select")
    modules = {"chumpy": {}, "chumpy.ch": {"Ch": ch}, "chumpy.reordering": {"Select": reordering}}
    for name, content in modules.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        yield ch, reordering
    finally:
        for name in modules:
            del sys.modules[name]


def python2_pickle(content):
    """Bytes of a pickle as Python 2 writes it: byte strings for texts and for arrays' data.

    Only dictionaries, lists, numbers, texts and arrays of floats; the protocol is 2.
    """
    out = [b"\x80\x02"]

    def put(value):
        if isinstance(value, dict):
            out.append(b"}")
            for key, item in value.items():
                put(key), put(item), out.append(b"s")
        elif isinstance(value, list):
            out.append(b"]")
            for item in value:
                put(item), out.append(b"a")
        elif isinstance(value, str):
            text(value.encode("latin1"))
        elif isinstance(value, np.ndarray):
            array(value)
        else:
            out.append(pickle.dumps(value, 2)[2:-1])

    def text(value):
        out.append(b"T" + len(value).to_bytes(4, "little") + value)

    def array(value):
        out.append(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85")
        text(b"b"), out.append(b"\x87R(K\x01")
        out.append(pickle.dumps(value.shape, 2)[2:-1])
        out.append(b"cnumpy\ndtype\n"), text(value.dtype.str[1:].encode())
        out.append(b"K\x00K\x01\x87R(K\x03"), text(value.dtype.str[:1].encode())
        out.append(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
        text(value.tobytes()), out.append(b"tb")

    put(content)
    return b"".join(out) + b"."
