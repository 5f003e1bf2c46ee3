"""Looks at folders of photographs, masks and samples: is there what annotation files name?

Every folder is listed once, and no file but two samples is opened. Only where some are missing,
annotations are read as a whole: people who are badly detected are not trained on and need nothing,
and people whose mask does not count need no mask.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Bool
from torch import Tensor

from humr.annotations import (
    Annotations,
    annotation_path,
    read_annotations,
    read_images,
    well_detected,
)
from humr.file_checks import folder
from humr.heatmap_files import file_name, read_file
from humr.licensed import data_set, shown
from humr.npz_files import headers
from humr.person_masks import mask_path

ALONE = "not compared: no annotations"
SAMPLES = "*.npy.gz"
# Of a data set and a folder of its images: where files lie, and how an image's may be called.
Place = Callable[[str, str, Path], tuple[Path, Callable[[str], Sequence[str]]]]


def photographs(
    path: Path, *, below: str, names: Sequence[str], plain: Callable[[Path], str]
) -> str:
    """Photographs of some data sets.

    Args:
        path: the folder.
        below: the same, seen from the licensed folder.
        names: of the data sets.
        plain: the check for want of annotations.
    """
    cause = "an archive that was unpacked one level too high or too low, or not to its end"
    found = _compared(path, below, names, _photograph, "photographs", cause)
    return found or f"{plain(path)}; {ALONE}"


def masks(path: Path, *, below: str, names: Sequence[str], plain: Callable[[Path], str]) -> str:
    """Masks of people who need one; as `photographs`."""
    cause = "masks as they were downloaded, without the preparation of data/README.md"
    return _compared(path, below, names, _mask, "masks", cause) or f"{plain(path)}; {ALONE}"


def samples(path: Path) -> str:
    """Samples of a data set's heatmaps, one file per person, of which two are read."""
    name, root = path.name, path.parents[1]
    there = {file for file in _listed(path) if file.endswith(SAMPLES[1:])}
    if not there:
        return folder(path, pattern=SAMPLES)  # which says that there are none
    for file in {min(there), max(there)}:
        read_file(path / file)
    count = _rows(name, root)
    if count is None:
        return f"{len(there)} {SAMPLES}; {ALONE}"
    missing = [row for row in range(count) if file_name(row) not in there]
    people = _people(name, root) if missing else None
    chosen = None if people is None else _chosen(people)
    lost = [row for row in missing if chosen is None or chosen[row]]
    if lost:
        raise ValueError(
            f"{shown(path)} must hold {count} {SAMPLES}; {len(lost)} are missing, "
            f"{file_name(lost[0])} the first. Usual cause: an archive that was not unpacked to "
            f"its end; `python3 -m humr data samples {name}` makes what is missing"
        )
    return _remark(count, SAMPLES, len(missing), ())


def _photograph(name: str, inside: str, root: Path) -> tuple[Path, Callable[[str], Sequence[str]]]:
    where = root / data_set(name).images / inside
    return where, lambda file: (file, f"{_stem(file)}.jpg")  # as `licensed.image_path`


def _mask(name: str, inside: str, root: Path) -> tuple[Path, Callable[[str], Sequence[str]]]:
    like = mask_path(name, PurePosixPath(inside, "x.png").as_posix(), root=root)
    end = like.name.removeprefix("x")
    return like.parent, lambda file: (f"{_stem(file)}{end}",)


def _compared(
    path: Path, below: str, names: Sequence[str], place: Place, what: str, cause: str
) -> str | None:
    """Compare files with the images of data sets; None without any annotations."""
    root = path.parents[below.count("/")]
    known = {name: _images(name, root) for name in names}
    wanted = {image for images in known.values() for image in images or ()}
    missing: dict[str, Path] = {}
    lost: dict[str, Path] = {}
    for name, images in known.items():
        absent = _missing(name, dict.fromkeys(images or ()), place, root)
        missing |= absent
        lost |= _needed(name, absent, root, masked=what == "masks") if absent else {}
    if lost:
        raise ValueError(
            f"{shown(path)} must hold {len(wanted)} {what}; {len(lost)} are missing, "
            f"{shown(next(iter(lost.values())))} the first. Usual cause: {cause}"
        )
    alone = [name for name, images in known.items() if images is None]
    return _remark(len(wanted), what, len(missing), alone) if wanted else None


def _remark(wanted: int, what: str, spared: int, alone: Sequence[str]) -> str:
    text = f"{wanted - spared} {what}, as annotated"
    text += f" but for {spared} that nobody reads" if spared else ""
    return text + (f"; those of {', '.join(alone)} {ALONE}" if alone else "")


def _missing(name: str, images: Iterable[str], place: Place, root: Path) -> dict[str, Path]:
    """Return the images that lack their file, and where it should be."""
    folders: dict[str, list[str]] = {}
    for image in images:
        folders.setdefault(image.rpartition("/")[0], []).append(image)
    missing = {}
    for inside, here in folders.items():
        where, called = place(name, inside, root)
        there = _listed(where)
        for image in here:
            files = called(image.rpartition("/")[2])
            if there.isdisjoint(files):
                missing[image] = where / files[0]
    return missing


def _needed(
    name: str, missing: Mapping[str, Path], root: Path, *, masked: bool
) -> Mapping[str, Path]:
    """Return what is missing and belongs to somebody who is read."""
    people = _people(name, root)
    if people is None:
        return missing
    chosen = _chosen(people) & people.mask_valid if masked else _chosen(people)
    images = set(people[chosen].image.tolist())
    return {image: path for image, path in missing.items() if image in images}


def _people(name: str, root: Path) -> Annotations | None:
    """Read annotations; None if they are not whole, so that everybody counts."""
    try:
        return read_annotations(name, root=root)
    except ValueError:
        return None


def _chosen(people: Annotations) -> Bool[Tensor, " people"]:
    """Say who is read."""
    trained = data_set(people.name).split == "train"
    return well_detected(people) if trained else torch.ones(len(people), dtype=torch.bool)


def _rows(name: str, root: Path) -> int | None:
    """Count the rows; None without annotations, of which their own entry tells."""
    try:
        (count,) = headers(annotation_path(name, root=root))["imgname"].shape
    except (FileNotFoundError, KeyError, ValueError):
        return None
    return count


def _images(name: str, root: Path) -> list[str] | None:
    """Images of all rows; None without annotations."""
    try:
        return read_images(name, root=root).tolist()
    except (FileNotFoundError, ValueError):
        return None


def _listed(path: Path) -> set[str]:
    try:
        with os.scandir(path) as found:
            return {entry.name for entry in found}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _stem(file: str) -> str:
    return file.rpartition(".")[0]
