"""Licensed files: what there is, what is missing, what is wrong, and where to get it.

``python3 -m humr data licensed`` prints it. `licensed.toml` is the table of the files; a check
here looks inside each kind of them and returns a remark, or says by `ValueError` what is wrong.
"""

import os
import pickle
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.serialization import config

from humr.files import say, shown
from humr.licensed import human36m, readers
from humr.licensed.datasets import LICENSED, SETS, data_set
from humr.licensed.images import mask_path
from humr.licensed.people import (
    file_name,
    read_annotations,
    read_file,
    read_images,
    well_detected,
)

Shapes = Mapping[str, Sequence[int | str]]  # "any" stands for any length
FEW = 1000  # numbers of a tensor that must not all be zero
HUGE = 50  # MB that a pickle of fits has at least
ALONE = "not compared: no annotations"
SAMPLES = "*.npy.gz"
_ZIP, _PICKLE = b"PK\x03\x04", pickle.PROTO  # files of torch begin with one or the other
_PAGE = "a page of a web site saved under this name"
_HOLES = "a download that reserved its place and was not filled"
_UNPACKED = "an archive that was unpacked one level too high or too low, or not to its end"
_PREPARED = "masks as they were downloaded, without the preparation of data/README.md"


# ------------------------------------------------------------------------ files


def arrays(path: Path, *, kind: str, shapes: Shapes) -> str:
    """A file of arrays: these with these shapes, and perhaps more.

    Arrays are not read where the headers of a file tell their shapes.
    """
    found = _SHAPES[kind](path)
    contains(path, found, shapes)
    return f"{size(path)}, {len(found)} arrays" if kind == "npz" else size(path)


def _pickle_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    content = readers.read_dictionary(path, ())
    return {str(key): getattr(value, "shape", ()) for key, value in content.items()}


_SHAPES: Mapping[str, Callable[[Path], dict[str, tuple[int, ...]]]] = {
    "npz": readers.npz_shapes,
    "npy": lambda path: {"the array": readers.read_npy(path).shape},
    "pickle": _pickle_shapes,
    "hdf5": readers.hdf5_shapes,
}


def checkpoint(
    path: Path,
    *,
    shapes: Shapes,
    weights: str = "state_dict",
    known: Sequence[str] = (),
    bare: bool = False,
) -> str:
    """An official checkpoint, told by names and shapes of some tensors and a few of their numbers.

    New files of torch are mapped, so that only what is looked at is read; those of versions
    before 1.6 are read as a whole. `weights` and `known` are keys of the top level; `bare` files
    have the tensors there.
    """
    with path.open("rb") as file:
        begin = file.read(len(_ZIP))
    if not begin.startswith((_ZIP, _PICKLE)):
        raise ValueError(
            f"{shown(path)} is no file of torch: it must begin with {_ZIP} or {_PICKLE}; got "
            f"{begin}. Usual cause: {_PAGE}, or {_HOLES}"
        )
    with config.patch("load.mmap", begin == _ZIP):  # pyright: ignore[reportAttributeAccessIssue]
        state = readers.load(path, weights, set(known), bare=bare)[weights]
    contains(path, {key: getattr(v, "shape", ()) for key, v in state.items()}, shapes)
    for key in shapes:
        if not state[key].flatten()[:FEW].any():
            raise ValueError(
                f"{shown(path)}: {key} must hold numbers; its first are all 0. Usual cause: "
                f"{_HOLES}"
            )
    return f"{size(path)}, {len(state)} tensors"


def fits(path: Path, *, split: str, least: int = HUGE) -> str:
    """A pickle of fits, of which both ends are read; 3D poses that it lacks must lie beside it."""
    if path.stat().st_size < least * 2**20:
        raise ValueError(
            f"{shown(path)} must have {least} MB or more; got {size(path)}. Usual cause: a "
            f"partial download, or {_PAGE}"
        )
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
    if (first, last) != (_PICKLE, pickle.STOP):
        raise ValueError(
            f"{shown(path)} is no whole pickle: it must begin with {_PICKLE} and end with "
            f"{pickle.STOP}; got {first} and {last}. Usual cause: a partial download, or {_HOLES}"
        )
    if not path.stem.endswith("_without_3d"):
        return size(path)
    for subject in human36m.SUBJECTS[split]:
        poses(human36m.cdf_folder(subject, path.parent))
    return f"{size(path)}, 3D poses beside it"


def poses(path: Path) -> str:
    """A subject's folder of .cdf files, which are not opened."""
    subject = path.parents[1].name
    found = human36m.cdf_files(subject, path.parents[2])
    every = [video for split in human36m.SUBJECTS for video in human36m.sequences(split)]
    wanted = [video for video in every if video.subject == subject]
    if missing := [video for video in wanted if video not in found]:
        raise ValueError(
            f"{shown(path)} must hold {len(wanted)} .cdf files; {len(missing)} are missing, that "
            f"of {'/'.join(missing[0])} the first. Usual cause: an archive that was not unpacked "
            "to its end"
        )
    return f"{len(wanted)} .cdf files"


def cameras(path: Path) -> str:
    """The cameras of Human3.6M."""
    return f"{len(human36m.read_cameras(path.parent))} positions of cameras"


def size(path: Path) -> str:
    """The size of a file, as remarks give it."""
    return f"{path.stat().st_size / 2**20:.1f} MB"


def contains(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    """Refuse a file that lacks arrays, or has them with other shapes."""
    if missing := [key for key in shapes if key not in found]:
        there = ", ".join(list(found)[:40]) or "nothing"
        raise ValueError(f"{shown(path)} lacks {', '.join(missing)}; it has {there}")
    for key, shape in shapes.items():
        got = found[key]
        same = len(got) == len(shape) and all(
            wanted in ("any", length) for wanted, length in zip(shape, got, strict=True)
        )
        if not same:
            text = ", ".join(map(str, shape))
            raise ValueError(f"{shown(path)}: {key} must have shape ({text}); got {tuple(got)}")


# ------------------------------------------------------------------------ folders
#
# Is there what annotation files name? Every folder is listed once, and no file but two samples is
# opened. Annotations are read as a whole only where something is missing: who is badly detected
# is not trained on and needs nothing, and whose mask does not count needs no mask.


def folder(path: Path, *, pattern: str, least: int = 1) -> str:
    """A folder with at least so many of something."""
    count = sum(1 for _ in path.glob(pattern))
    if count < least:
        raise ValueError(
            f"{shown(path)} must hold {least} {pattern} or more; got {count}. Usual cause: an "
            "archive unpacked one level too high or too low, or not to its end"
        )
    return f"{count} {pattern}"


def pictures(
    path: Path, *, kind: str, below: str, names: Sequence[str], pattern: str, least: int = 1
) -> str:
    """Photographs or masks of data sets, in a folder that is `below` the licensed one.

    `pattern` and `least` are for want of annotations.
    """
    root, masks = path.parents[below.count("/")], kind == "masks"
    images = {name: _images(name, root) for name in names}
    wanted = {image for found in images.values() if found is not None for image in found.tolist()}
    if not wanted:
        return f"{folder(path, pattern=pattern, least=least)}; {ALONE}"
    missing: dict[str, Path] = {}
    lost: dict[str, Path] = {}
    for name, found in images.items():
        absent = {} if found is None else _absent(name, found.tolist(), root, masks=masks)
        needed = _needed(name, root, masks=masks) if absent else None
        read = absent if found is None or needed is None else set(found[needed].tolist())
        missing |= absent
        lost |= {image: where for image, where in absent.items() if image in read}
    if lost:
        raise ValueError(
            f"{shown(path)} must hold {len(wanted)} {kind}; {len(lost)} are missing, "
            f"{shown(next(iter(lost.values())))} the first. Usual cause: "
            f"{_PREPARED if masks else _UNPACKED}"
        )
    remark = _whole(len(wanted), kind, len(missing))
    alone = [name for name, found in images.items() if found is None]
    return remark + (f"; those of {', '.join(alone)} {ALONE}" if alone else "")


def samples(path: Path) -> str:
    """Samples of a data set's heatmaps, one file per person, of which two are read."""
    name, root = path.name, path.parents[1]
    there = {file for file in _listed(path) if file.endswith(SAMPLES[1:])}
    if not there:
        return folder(path, pattern=SAMPLES)  # which says that there are none
    for file in {min(there), max(there)}:
        read_file(path / file)
    images = _images(name, root)
    if images is None:
        return f"{len(there)} {SAMPLES}; {ALONE}"
    missing = [row for row in range(len(images)) if file_name(row) not in there]
    needed = _needed(name, root) if missing else None
    if lost := [row for row in missing if needed is None or needed[row]]:
        raise ValueError(
            f"{shown(path)} must hold {len(images)} {SAMPLES}; {len(lost)} are missing, "
            f"{file_name(lost[0])} the first. Usual cause: an archive that was not unpacked to "
            f"its end; `python3 -m humr data samples {name}` makes what is missing"
        )
    return _whole(len(images), SAMPLES, len(missing))


def _whole(wanted: int, what: str, spared: int) -> str:
    but = f" but for {spared} that nobody reads" if spared else ""
    return f"{wanted - spared} {what}, as annotated{but}"


def _images(name: str, root: Path) -> np.ndarray | None:
    """Images of all rows; None without annotations, of which their own line tells."""
    try:
        return read_images(name, root=root)
    except (FileNotFoundError, ValueError):
        return None


def _absent(name: str, images: Iterable[str], root: Path, *, masks: bool) -> dict[str, Path]:
    """Return the images that lack their file, and where it should be."""
    listed, absent, photographs = cache(_listed), {}, root / data_set(name).images
    for image in images:
        where = mask_path(name, image, root=root) if masks else photographs / image
        names = {where.name} if masks else {where.name, f"{where.stem}.jpg"}  # as `image_path`
        if names.isdisjoint(listed(where.parent)):
            absent[image] = where
    return absent


def _needed(name: str, root: Path, *, masks: bool = False) -> np.ndarray | None:
    """Say which rows are read; None, for all, where annotations are not whole."""
    try:
        people = read_annotations(name, root=root)
    except ValueError:
        return None
    trained = data_set(name).split == "train"
    read = well_detected(people) if trained else torch.ones(len(people), dtype=torch.bool)
    return (read & people.mask_valid if masks else read).numpy()


def _listed(path: Path) -> set[str]:
    try:
        with os.scandir(path) as found:
            return {each.name for each in found}
    except (FileNotFoundError, NotADirectoryError):
        return set()


# ------------------------------------------------------------------------ the table

CHECKS: Mapping[str, Callable[..., str]] = {
    **{kind: partial(arrays, kind=kind) for kind in _SHAPES},
    **{kind: partial(pictures, kind=kind) for kind in ("photographs", "masks")},
    **{check.__name__: check for check in (checkpoint, fits, poses, cameras, samples)},
}


@dataclass(frozen=True)
class Publisher:
    """Where to register, and on which terms."""

    site: str
    licence: str


@dataclass(frozen=True)
class LicensedFile:
    """A file or folder that somebody may bring; `licensed.toml` says what the fields mean."""

    group: str
    publisher: str
    paths: tuple[str, ...]
    parts: tuple[str, ...]
    check: Callable[[Path], str]


_TABLE = tomllib.loads(Path(__file__).with_name("licensed.toml").read_text(encoding="utf-8"))
PARTS: Mapping[str, str] = _TABLE["parts"]
PUBLISHERS = {name: Publisher(**about) for name, about in _TABLE["publishers"].items()}


def _expanded(row: Mapping[str, Any]) -> Iterator[LicensedFile]:
    """Make the files that a row of the table stands for."""
    each = dict(row.get("each", {}))
    if "set" in each:
        known = [(s, (s.name, s.source, s.split)) for s in SETS.values()]
        each["set"] = [s for wanted in each["set"] for s, names in known if wanted in names]
    for values in product(*each.values()):
        places = dict(zip(each, values, strict=True))
        filled = {key: _filled(value, places) for key, value in row.items() if key != "each"}
        about = {key: filled.pop(key) for key in ("group", "publisher")}
        paths, parts = tuple(dict.fromkeys(filled.pop("paths"))), tuple(filled.pop("parts"))
        check = CHECKS[filled.pop("kind")]
        if "shapes" in filled:
            named = [_TABLE["shapes"][name] for name in filled["shapes"]]
            filled["shapes"] = {k: tuple(shape) for group in named for k, shape in group.items()}
        if "names" in filled:
            filled["below"] = paths[0]
        yield LicensedFile(**about, paths=paths, parts=parts, check=partial(check, **filled))


def _filled(value: Any, places: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_filled(each, places) for each in value]
    return value.format(**places) if isinstance(value, str) else value


FILES = tuple(file for row in _TABLE["files"] for file in _expanded(row))


# ------------------------------------------------------------------------ the report


@dataclass(frozen=True)
class Check:
    """What became of a licensed file."""

    file: LicensedFile
    path: Path
    state: str  # "ok", "missing" or "wrong"
    remark: str


def inspect(root: Path = LICENSED, *, files: Iterable[LicensedFile] = FILES) -> list[Check]:
    """Look for licensed files, and into those that are there."""
    return [_inspect(file, root) for file in files]


def _inspect(file: LicensedFile, root: Path) -> Check:
    there = [root / path for path in file.paths if (root / path).exists()]
    if not there:
        return Check(file, root / file.paths[0], "missing", "")
    try:
        return Check(file, there[0], "ok", file.check(there[0]))
    except (ValueError, OSError) as error:
        return Check(file, there[0], "wrong", str(error))
    except Exception as error:  # noqa: BLE001  # one broken file must not end the list
        return Check(file, there[0], "wrong", f"{shown(there[0])} cannot be read: {error!r}")


def lacking(checks: Iterable[Check], part: str) -> list[Check]:
    """Return what a part of the experiments still needs."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
    return [check for check in checks if check.state != "ok" and part in check.file.parts]


def refusal(lacking: Sequence[Check], *, named: int = 3) -> str:
    """Say in one sentence what training lacks, the first of it by name."""
    names = [check.remark or shown(check.path) for check in lacking[:named]]
    more = f" and {len(lacking) - named} more" if len(lacking) > named else ""
    return (
        f"training on licensed data needs {len(lacking)} files or folders that are missing or "
        f"wrong: {', '.join(names)}{more}. `python3 -m humr data licensed` lists them all, and "
        "where to register"
    )


def report(checks: Iterable[Check]) -> str:
    """Describe checks: groups with a line per file, then which parts are complete."""
    checks = list(checks)
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.file.group, []).append(check)
    lines = [line for group in groups.values() for line in _paragraph(group)]
    lines += ["", "parts of the papers' experiments:"]
    for part, meaning in PARTS.items():
        open_ = len(lacking(checks, part))
        lines.append(f"  {part}: {f'lacks {open_}' if open_ else 'complete'} ({meaning})")
    return "\n".join(lines) + "\n"


def _paragraph(group: list[Check]) -> list[str]:
    open_ = [check for check in group if check.state != "ok"]
    file = group[0].file
    width = max(len(shown(check.path)) for check in group)
    lines = [f"{file.group}: {len(group) - len(open_)} of {len(group)}"]
    lines += [_line(check, width) for check in group]
    if open_:
        parts = dict.fromkeys(part for check in open_ for part in check.file.parts)
        lines.append(f"  from     {PUBLISHERS[file.publisher].site}")
        lines.append(f"  licence  {PUBLISHERS[file.publisher].licence}")
        lines.append(f"  for      {', '.join(parts) or 'nothing else here'}")
    return lines


def _line(check: Check, width: int) -> str:
    """One file; what is said of a wrong one mostly begins with its name."""
    path = shown(check.path)
    if check.state == "wrong" and path in check.remark:
        return f"  wrong    {check.remark}"
    return f"  {check.state:<7}  {path:<{width}}  {check.remark}".rstrip()


def main() -> int:
    """Print what is here."""
    say(report(inspect()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
