"""Body files: find, read and check `.npz` files in the layout of SMPL-X.

The open body of this repository has that layout too, and adds key-point regressors.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from humr.paths import DATA
from humr.skeletons import BODY22, SKELETONS, SMPLX55

OPEN_BODIES = ("small", "full")
BETAS = 11
# Columns of a file that holds 300 shape and 100 expression directions; shorter files have 10 + 10.
_LONG_FILE, _SHORT_FILE_BETAS = 400, 10
_DAMAGED = "Usual cause: a broken or partial download, or a file in another format"


def _body_ancestors() -> tuple[int, ...]:
    """For each of the 55 joints, the nearest of the 22 body joints at or above it."""
    found: list[int] = []
    for joint, parent in enumerate(SMPLX55.parents):
        found.append(joint if joint < len(BODY22) else found[parent])
    return tuple(found)


# The body joint that each of the 55 moves with while jaw, eyes and fingers stay at the identity.
ANCESTORS = _body_ancestors()


@dataclass(frozen=True)
class BodyParts:
    """The arrays of a body file that are used, as float64 tensors."""

    faces: Tensor  # (faces, 3) int64
    template: Tensor  # (V, 3)
    shape_directions: Tensor  # (V, 3, betas)
    pose_directions: Tensor | None  # (V, 3, 189); None when the file has no correctives
    weights: Tensor  # (V, 22): those of jaw, eyes and fingers added to their ancestors
    joint_regressor: Tensor  # (55, V)
    regressors: dict[str, Tensor]  # (K, V)
    part: Tensor  # (V,) int64: the joint of the 55 that moves the vertex most


def body_path(name_or_path: str | Path) -> Path:
    """Return the file of a body by its short name or path."""
    path = Path(name_or_path)
    if str(name_or_path) in OPEN_BODIES:
        path = DATA / f"open_body_{name_or_path}.npz"
    if path.suffix == ".pkl":
        raise ValueError(
            f"{path}: pickled body files run code when read and are refused; use the .npz of the "
            "same model (every SMPL-X download has both)"
        )
    if not path.is_file():
        raise ValueError(
            f"no body file {path}; expected {' or '.join(map(repr, OPEN_BODIES))} or the path of "
            "an SMPL-X .npz file. Usual cause: a licensed file that was not downloaded yet"
        )
    return path


def _parts(path: Path, data: NpzFile) -> BodyParts:
    """Check a body file and take from it what is used."""
    keys = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
    missing = [key for key in keys if key not in data.files]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; expected an SMPL-X body with "
            f"{', '.join(keys)}; got {', '.join(data.files[:12]) or 'nothing'}. "
            "Usual cause: a pose or parameter file instead of a model file"
        )
    template = data["v_template"]
    count = len(template)
    _expect(path, "v_template", template.shape, (count, 3))
    weights, regressor = data["weights"], data["J_regressor"]
    _expect(path, "weights", weights.shape, (count, len(SMPLX55)))
    _expect(path, "J_regressor", regressor.shape, (len(SMPLX55), count))
    _check_tree(path, data["kintree_table"])
    faces, shapes = data["f"], data["shapedirs"]
    _expect(path, "f", faces.shape, (len(faces), 3))
    if faces.max() >= count:
        raise ValueError(f"{path}: faces name vertex {faces.max()}, but there are only {count}")
    _expect(path, "shapedirs", shapes.shape, (count, 3, shapes.shape[-1]))
    betas = BETAS if shapes.shape[-1] >= _LONG_FILE else _SHORT_FILE_BETAS
    if shapes.shape[-1] < betas:
        raise ValueError(f"{path}: shapedirs has {shapes.shape[-1]} columns; expected >= {betas}")
    return BodyParts(
        faces=torch.from_numpy(faces.astype(np.int64)),
        template=_real(path, "v_template", template),
        shape_directions=_real(path, "shapedirs", shapes[..., :betas]),
        pose_directions=_pose_directions(path, data, count),
        weights=_folded(_real(path, "weights", weights)),
        joint_regressor=_real(path, "J_regressor", regressor),
        regressors=_regressors(path, data, count),
        part=torch.from_numpy(weights.argmax(1)),
    )


def _regressors(path: Path, data: NpzFile, count: int) -> dict[str, Tensor]:
    """Return the key-point regressors of an open body; none for an original SMPL-X file."""
    found = {}
    for key in (k for k in data.files if k.startswith("regressor_")):
        name, values = key.removeprefix("regressor_"), data[key]
        names = tuple(data[f"names_{name}"]) if f"names_{name}" in data.files else ()
        _expect(path, key, values.shape, (len(names), count))
        if name in SKELETONS and names != SKELETONS[name].names:
            raise ValueError(
                f"{path}: {key} must have the rows {', '.join(SKELETONS[name].names)}; got "
                f"{', '.join(names)}. Usual cause: a file of another version; get both again"
            )
        found[name] = _real(path, key, values)
    return found


def _pose_directions(path: Path, data: NpzFile, count: int) -> Tensor | None:
    """Return the correctives of the 21 body joints, None when all are zero."""
    if "format" in data.files and str(data["format"]) == "humr open body":
        return None  # all zero by construction; reading them would take longer than the rest
    directions = data["posedirs"]
    _expect(path, "posedirs", directions.shape, (count, 3, 9 * (len(SMPLX55) - 1)))
    body = directions[..., : 9 * (len(BODY22) - 1)]
    return _real(path, "posedirs", body) if body.any() else None


def _folded(weights: Tensor) -> Tensor:
    """Add the weights of jaw, eyes and fingers to the body joint that moves them."""
    folded = weights.new_zeros(len(weights), len(BODY22))
    return folded.index_add(1, torch.tensor(ANCESTORS), weights)


def _check_tree(path: Path, table: np.ndarray) -> None:
    parents = tuple(table[0, 1:].astype(np.int64)) if table.ndim == 2 else ()
    if parents != SMPLX55.parents[1:]:
        raise ValueError(
            f"{path}: kintree_table must be the SMPL-X tree of {len(SMPLX55)} joints; got shape "
            f"{table.shape}. Usual cause: a SMPL or SMPL-H file, which has other joints"
        )


def _expect(path: Path, key: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if got != wanted:
        raise ValueError(
            f"{path}: {key} must have shape {wanted}; got {got}. Usual cause: a file of another "
            "body model (SMPL has 24 joints, SMPL-H 52, SMPL-X 55)"
        )


def _real(path: Path, key: str, values: np.ndarray) -> Tensor:
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {key} holds values that are not finite; the file is damaged")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def read_body(path: Path) -> BodyParts:
    """Read and check a body file."""
    with path.open("rb") as file:
        try:
            data = np.load(file, allow_pickle=False)
        except (OSError, EOFError, ValueError, BadZipFile) as error:
            raise ValueError(f"{path} is no .npz body file: {error}. {_DAMAGED}") from error
        if not isinstance(data, NpzFile):
            raise ValueError(f"{path} is no .npz body file: it holds one bare array. {_DAMAGED}")
        try:
            return _parts(path, data)
        except (OSError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} cannot be read: {error}. {_DAMAGED}") from error
