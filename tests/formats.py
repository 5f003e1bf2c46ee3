"""Builders of tiny files with the keys, types, shapes, orders and oddities of licensed files.

Contents are made up and asymmetric: no left equals its right, no x its y, no row another row.
"""

import contextlib
import gzip
import pickle
import sys
import types

import numpy as np
from PIL import Image


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


def _points(rng, *shape):
    """Pixels (x, y) with x in 300..500 and y in 100..600."""
    return np.stack([rng.uniform(300, 500, shape), rng.uniform(100, 600, shape)], -1)


def annotation_arrays(name, count=5):
    """Arrays of one of HuMR's annotation files; person i differs from person j everywhere.

    Detections agree with the labels to a pixel, and all joints are seen.
    """
    rng = np.random.default_rng(count)
    train = name not in ("3dpw-test-cam", "emdb-p1", "emdb-p1-occl")
    truth = _points(rng, count, 25)
    coco = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]
    detected = truth[:, coco] + rng.uniform(-1, 1, (count, 17, 2))
    confidence = rng.uniform(0.6, 1.05, (count, 17, 1))
    images = {"3dpw": "imageFiles/downtown_x_00/image_{:05d}.jpg",
              "agora": "ag_x_{:05d}_1280x720.png",
              "emdb": "P1/14_outdoor_climb/images/{:05d}.jpg"}  # fmt: skip
    image = images.get(name.split("-")[0], "seq_000001/seq_000001_{:04d}.png")
    arrays = {
        "imgname": np.array([image.format(5 * i) for i in range(count)]),
        "center": _points(rng, count),
        "scale": rng.uniform(1.5, 2.5, count).astype(np.float32),
        "pose_cam": rng.normal(size=(count, 165 if train else 72)),
        "shape": rng.normal(size=(count, 11 if train else 10)),
        "gt_coco_25j": truth,
        "vitpose": np.concatenate([detected[..., ::-1], confidence], -1).astype(np.float32),
        "cam_int": np.tile([[900.0, 0, 640], [0, 910, 360], [0, 0, 1]], (count, 1, 1)),
    }
    if train:
        arrays["gtkps"] = _points(rng, count, 127)
    if "3dpw" in name:
        arrays["orig_shape"] = np.tile([1920, 1080], (count, 1))
    elif train:
        arrays["object_occlusion"] = np.arange(count) % 3 == 1
        arrays["gtkps"] = np.concatenate([arrays["gtkps"], np.ones((count, 127, 1))], -1)
        arrays["proj_verts"] = _points(rng, count, 437)
    if not train:
        arrays["gender"] = np.array((["m", "female", "f"] * count)[:count])
    if name == "emdb-p1-occl":
        arrays["valid_emdb_mask"] = np.arange(count) % 2 + np.arange(count) // 4  # 0, 1, 0, 1, 1
    return arrays


def write_annotations(root, name, *, count=5, objects=False, **changes):
    """Write an annotation file; changes replace arrays, None removes one.

    With `objects` texts are stored as arrays of Python objects, as some official files do.
    """
    from humr.licensed.datasets import data_set

    arrays = annotation_arrays(name, count) | changes
    arrays = {key: value for key, value in arrays.items() if value is not None}
    if objects:
        texts = {k: v.astype(object) for k, v in arrays.items() if v.dtype.kind == "U"}
        arrays |= texts
    path = root / "annotations" / data_set(name).annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def heatmap_samples(row):
    """Samples (150, 17, 4) of the person in this row: numbers say which sample, joint, value."""
    sample, joint = np.meshgrid(np.arange(150), np.arange(17), indexing="ij")
    x, y = 1000.0 * row + sample, 100.0 * joint + sample / 1000
    confidence = ((sample * 7 + joint) % 150) / 200 + joint / 1000
    return np.stack([x, y, confidence, (sample + joint) % 5 * 0.3], -1)


def write_heatmap_samples(root, name, row, *, dtype=np.float32):
    """Write the samples of one person as the official files hold them."""
    path = root / "heatmap_samples" / name / f"{row:07d}.npy.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = heatmap_samples(row).astype(dtype)
    with gzip.open(path, "wb") as file:
        np.save(file, values)
    return path


def person(height, width):
    """A lopsided figure (height, width): True in a block to the upper right, with a foot."""
    shape = np.zeros((height, width), bool)
    shape[height // 8 : height // 2, width // 2 : width - width // 8] = True
    shape[height // 2 : height - 2, width // 2 : width // 2 + 3] = True
    return shape


def write_mask(root, name, image, shape):
    """Write the mask of a photograph whose upright persons are `shape`, as its source does."""
    from humr.licensed.datasets import data_set
    from humr.licensed.images import mask_path

    path = mask_path(name, image, root=root)
    path.parent.mkdir(parents=True, exist_ok=True)
    match data_set(name).source:
        case "BEDLAM":
            stored = np.rot90(shape) if data_set(name).rotated else shape
            pixels = np.where(stored, 0, 255).astype(np.uint8)
        case "AGORA":
            pixels = np.tile(np.uint8([255, 0, 0]), (*shape.shape, 1))
            pixels[shape] = [0, 128, 255]
        case _:
            pixels = shape.astype(np.uint8) * 7
    Image.fromarray(pixels).save(path)
    return path
