"""Licensed files: what there is, what is missing, what is wrong, and where to get it.

``python3 -m humr data licensed`` prints it.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import scipy.io
import scipy.sparse
import torch
from jaxtyping import Bool
from scipy.io.matlab import MatReadError
from torch import Tensor
from torch.utils.serialization import config

from humr.files import say, shown
from humr.licensed import readers
from humr.licensed.datasets import (
    LICENSED,
    SETS,
    SMPL_BODIES,
    SMPLX_BODY,
    TRAINING,
    VITPOSE,
    DataSet,
    data_set,
)
from humr.licensed.human36m import SUBJECTS, cdf_files, cdf_folder, read_cameras, sequences
from humr.licensed.images import mask_path
from humr.licensed.people import (
    BETAS,
    JOINTS,
    Annotations,
    annotation_path,
    file_name,
    read_annotations,
    read_file,
    read_images,
    well_detected,
)
from humr.licensed.readers import load, npz_shapes, read_dictionary, read_npy
from humr.licensed.vitpose import KNOWN

# Looks at licensed files: each function returns a remark, or says by `ValueError` what is wrong.
#
# Arrays are not read where the headers of a file tell their shapes.


Shape = tuple[int | None, ...]  # None stands for any length
Shapes = Mapping[str, Shape]


def npz_file(path: Path, *, shapes: Shapes) -> str:
    """An .npz file with these arrays and perhaps more."""
    found = npz_shapes(path)
    contains(path, found, shapes)
    return f"{size(path)}, {len(found)} arrays"


def npy_file(path: Path, *, shape: Shape) -> str:
    """An .npy file."""
    _compare(path, "the array", read_npy(path).shape, shape)
    return size(path)


def pickle_file(path: Path, *, shapes: Shapes) -> str:
    """A pickle of a dictionary with these arrays and perhaps more."""
    content = read_dictionary(path, tuple(shapes))
    for key, shape in shapes.items():
        _compare(path, key, getattr(content[key], "shape", ()), shape)
    return size(path)


def hdf5_file(path: Path, *, shapes: Shapes) -> str:
    """An HDF5 file with these arrays, or columns of tables, and perhaps more."""
    contains(path, readers.hdf5_shapes(path), shapes)
    return size(path)


def mat_file(path: Path, *, shapes: Shapes) -> str:
    """A MATLAB file, of a version before 7.3, with these arrays and perhaps more."""
    try:
        found = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    except (ValueError, TypeError, LookupError, NotImplementedError, MatReadError) as error:
        raise ValueError(
            f"{shown(path)} is no MATLAB file: {error!r}. Usual cause: a partial download"
        ) from error
    contains(path, found, shapes)
    return size(path)


def large_pickle(path: Path, *, least: int) -> str:
    """A pickle that is not read here: `least` MB tell it from a page of a web site."""
    if path.stat().st_size < least * 2**20:
        raise ValueError(
            f"{shown(path)} must have {least} MB or more; got {size(path)}. Usual cause: a "
            "partial download, or a page of a web site saved under this name"
        )
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(-1, 2)
        last = file.read(1)
    if (first, last) != (pickle.PROTO, pickle.STOP):
        raise ValueError(
            f"{shown(path)} is no whole pickle: it must begin with {pickle.PROTO} and end with "
            f"{pickle.STOP}; got {first} and {last}. Usual cause: a partial download, or one that "
            "reserved its place and was not filled"
        )
    return size(path)


def folder(path: Path, *, pattern: str, least: int = 1) -> str:
    """A folder with at least so many of something."""
    count = sum(1 for _ in path.glob(pattern))
    if count < least:
        raise ValueError(
            f"{shown(path)} must hold {least} {pattern} or more; got {count}. Usual cause: an "
            "archive unpacked one level too high or too low, or not to its end"
        )
    return f"{count} {pattern}"


def size(path: Path) -> str:
    """The size of a file, as remarks give it."""
    return f"{path.stat().st_size / 2**20:.1f} MB"


def contains(path: Path, found: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    """Refuse a file that lacks arrays, or has them with other shapes."""
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


# Looks at folders of photographs, masks and samples: is there what annotation files name?
#
# Every folder is listed once, and no file but two samples is opened. Only where some are
# missing, annotations are read as a whole: people who are badly detected are not trained on and
# need nothing, and people whose mask does not count need no mask.


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
        (count,) = npz_shapes(annotation_path(name, root=root))["imgname"]
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


# Looks at official checkpoints: names and shapes of some tensors, and a few of their numbers.
#
# Files of torch are mapped, so that only what is looked at is read; those of versions before 1.6
# are read as a whole. The readers (`official`, `feature_cache`, `vitpose`) compare everything.


FEW = 1000  # numbers of a tensor that must not all be zero
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # files of torch begin with one or the other


@dataclass(frozen=True)
class Network:
    """What tells an official network from others.

    Args:
        shapes: of some of its tensors.
        weights: the key that holds them.
        known: keys that may be beside it.
        bare: whether the file may be the weights alone.
    """

    shapes: Shapes
    weights: str = "state_dict"
    known: frozenset[str] = frozenset()
    bare: bool = False


BACKBONE = Network(  # HRNet-W48
    {
        "conv1.weight": (64, 3, 3, 3),
        "stage4.2.branches.3.3.conv2.weight": (384, 384, 3, 3),
        "downsample_stage_1.6.weight": (48, 48, 3, 3),
        "final_layer.weight": (24, 48, 1, 1),
    },
    bare=True,
)
HUMR = Network(
    {
        "model.backbone.conv1.weight": (64, 3, 3, 3),
        "model.joints_enc.0.weight": (512, 51),
        "model.head.fc1.weight": (1024, 993),
        "model.flow.module_list.0.subnet1.0.weight": (1024, 1045),
        "model.flow.module_list.14.subnet2.6.weight": (132, 1024),
        "model.flow.module_list.15.perm": (132,),
    },
    known=frozenset(
        {"epoch", "global_step", "pytorch-lightning_version", "optimizer_states",
         "lr_schedulers", "callbacks", "loops", "hyper_parameters"}
    ),
)  # fmt: skip
VITPOSE_H = Network(
    {
        "backbone.pos_embed": (1, 193, 1280),
        "backbone.blocks.31.attn.qkv.weight": (3840, 1280),
        "keypoint_head.deconv_layers.0.weight": (1280, 256, 4, 4),
        "keypoint_head.final_layer.weight": (17, 256, 1, 1),
    },
    known=frozenset(KNOWN),
    bare=True,
)
LIFTING_FLOW = Network(  # the flow of ICCV 2021
    {
        "inn.module_list.1.s1.0.weight": (1028, 80),
        "inn.module_list.15.s2.2.weight": (48, 1028),
        "cond_net.0.weight": (256, 78),
        "cond_net.2.weight": (56, 256),
    },
    weights="net",
    known=frozenset({"opt"}),
)


def checkpoint(path: Path, *, network: Network) -> str:
    """A checkpoint of this network, of the official sizes."""
    with path.open("rb") as file:
        begin = file.read(len(_ZIP))
    if not begin.startswith((_ZIP, _PICKLE)):
        raise ValueError(
            f"{shown(path)} is no file of torch: it must begin with {_ZIP} or {_PICKLE}; got "
            f"{begin}. Usual cause: a page of a web site saved under this name, or a download "
            "that reserved its place and was not filled"
        )
    with config.patch("load.mmap", begin == _ZIP):  # pyright: ignore[reportAttributeAccessIssue]
        content = load(path, network.weights, set(network.known), bare=network.bare)
    state = content[network.weights]
    contains(path, {key: getattr(v, "shape", ()) for key, v in state.items()}, network.shapes)
    for key in network.shapes:
        if not state[key].flatten()[:FEW].any():
            raise ValueError(
                f"{shown(path)}: {key} must hold numbers; its first are all 0. Usual cause: a "
                "download that reserved its place and was not filled"
            )
    return f"{size(path)}, {len(state)} tensors"


# Licensed files, one by one: where they lie, who publishes them, what looks inside.
#
# `inventory` looks for them. Nothing is fetched. Every entry names a file or folder below
# `data/licensed`, the site where one registers, its licence in a few words (its own text
# decides), and the parts that need it.


MESH = {
    "training": "training as in the paper",
    "masks": "the mask loss",
    "3DPW": "Tables 1 to 3 and S2, 3DPW",
    "EMDB": "Tables 1, 2, S1 and S2, EMDB",
    "plausibility": "PercIn and MinDist of Table 2",
    "weights": "the official weights",
}
LIFTING = {
    "lifting": "lifting, Human3.6M; of fits, heatmaps and 2D poses one kind is enough",
    "lifting transfer": "lifting, MPI-INF-3DHP",
    "transfer heatmaps": "lifting, MPI-INF-3DHP with a detector's heatmaps in place of labels",
    "lifting weights": "the official lifting flow",
}
PARTS = MESH | LIFTING
DETECTORS = ("h36m", "orig")  # of FMPose's tables: HRNet with and without training on Human3.6M
DETECTED: Shapes = {"argmax_2d": (None, 2, 16), "heatmap": (None, 16, 64, 64)}


@dataclass(frozen=True)
class Publisher:
    """Where to register, and on which terms."""

    site: str
    licence: str


_FREE = "own licence: research, not commercial"
_RESEARCH = f"{_FREE}; registration"
SOURCES = {
    "SMPL": Publisher("smpl.is.tue.mpg.de (version 1.1.0 for Python)", _RESEARCH),
    "SMPL-X": Publisher("smpl-x.is.tue.mpg.de (version 1.1)", _RESEARCH),
    "BEDLAM": Publisher("bedlam.is.tue.mpg.de", _RESEARCH),
    "AGORA": Publisher("agora.is.tue.mpg.de (Training Masks 1280x720)", _RESEARCH),
    "3DPW": Publisher("virtualhumans.mpi-inf.mpg.de/3DPW", _FREE),
    "EMDB": Publisher("eth-ait.github.io/emdb", _RESEARCH),
    "Human3.6M": Publisher("vision.imar.ro/human3.6m", _RESEARCH),
    "MPI-INF-3DHP": Publisher("vcai.mpi-inf.mpg.de/3dhp-dataset", _FREE),
    "ICCV 2021": Publisher(
        "github.com/twehrbein/Probabilistic-Monocular-3D-Human-Pose-Estimation-with-Normalizing-"
        "Flows (a link to the pickles; results/original_model/model.pt)",
        "MIT for its code; derived from Human3.6M, whose licence applies",
    ),
    "FMPose": Publisher(
        "github.com/cuongle1206/FMPose (data/H36M.py and data/3DHP.py write the files, with "
        "detectors of Zenodo record 20367108)",
        "none is named; derived from Human3.6M and MPI-INF-3DHP, whose licences apply",
    ),
    "VideoPose3D": Publisher(
        "github.com/facebookresearch/VideoPose3D (DATASETS.md: data/prepare_data_h36m.py makes "
        "the 3D poses and gt from .cdf files of Human3.6M; a link to the others)",
        "CC BY-NC 4.0; derived from Human3.6M, whose licence applies",
    ),
    "HuMR data": Publisher(
        "cloud.tnt.uni-hannover.de/index.php/s/jQjkkqFaiWdJrwL",
        "see HuMR's repository; derived from BEDLAM, AGORA, 3DPW, EMDB, whose licences apply",
    ),
    "HuMR weights": Publisher(
        "cloud.tnt.uni-hannover.de/index.php/s/WqZs5tLMJqcMj9f",
        "see HuMR's repository; trained on BEDLAM, AGORA and 3DPW",
    ),
}


@dataclass(frozen=True)
class LicensedFile:
    """A file or folder that somebody may bring.

    Args:
        group: entries of the same kind from the same source, one line of the report.
        source: key of `SOURCES`.
        paths: below the licensed folder; the first that is there counts. After ours come those
            of the official code and of unpacked downloads.
        check: looks inside and returns a remark; raises `ValueError` if something is wrong.
        parts: keys of `PARTS` that need it.
    """

    group: str
    source: str
    paths: tuple[str, ...]
    check: Callable[[Path], str]
    parts: tuple[str, ...] = field(default=tuple(MESH))


def _annotations(described: DataSet) -> LicensedFile:
    train = described.split == "train"
    shapes: dict[str, Shape] = {
        "imgname": (None,), "center": (None, 2), "scale": (None,), "cam_int": (None, 3, 3),
        "pose_cam": (None, None), "shape": (None, BETAS[described.split]),
        "gt_coco_25j": (None, 25, 2), "vitpose": (None, 17, 3),
    }  # fmt: skip
    if train:
        shapes["gtkps"] = (None, None, None)
    else:
        shapes["pose_cam"] = (None, 3 * JOINTS["test"])
    if described.source in ("BEDLAM", "AGORA"):
        shapes["object_occlusion"] = (None,)
    if described.name == "emdb-p1-occl":
        shapes["valid_emdb_mask"] = (None,)
    test = ("plausibility",) if described.name == "emdb-p1-occl" else (described.source,)
    return LicensedFile(
        f"annotations, {'training' if train else 'test'}", "HuMR data",
        (f"annotations/{described.annotations}",), partial(npz_file, shapes=shapes),
        ("training",) if train else test,
    )  # fmt: skip


def _body_models() -> list[LicensedFile]:
    shapes: dict[str, Shape] = {
        "v_template": (6890, 3), "J_regressor": (24, 6890), "weights": (6890, 24),
    }  # fmt: skip
    found = []
    for paths in SMPL_BODIES.values():
        # the neutral body and the regressors read what the network predicts
        parts = ("3DPW", "EMDB", "plausibility")
        found.append(
            LicensedFile("SMPL bodies", "SMPL", paths, partial(pickle_file, shapes=shapes), parts)
        )
    check = partial(npz_file, shapes={"v_template": (10475, 3), "J_regressor": (55, 10475)})
    return [*found, LicensedFile("SMPL-X body", "SMPL-X", SMPLX_BODY, check)]


def _helpers() -> list[LicensedFile]:
    def entry(name: str, check: Callable[[Path], str], *parts: str) -> LicensedFile:
        return LicensedFile(
            "regressors and means", "HuMR weights", (f"utils/{name}",), check, parts
        )

    evaluation = ("3DPW", "EMDB", "plausibility")
    mean: dict[str, Shape] = {"pose": (144,), "shape": (10,), "cam": (3,)}
    matrix: dict[str, Shape] = {"matrix": (6890, 10475)}
    return [
        entry("J_regressor_h36m.npy", partial(npy_file, shape=(17, 6890)), "3DPW"),
        entry("smplx2smpl.pkl", partial(pickle_file, shapes=matrix), *evaluation),
        entry("smpl_mean_params.npz", partial(npz_file, shapes=mean), "training"),
    ]


def _weights() -> list[LicensedFile]:
    def entry(names: tuple[str, ...], network: Network, *parts: str) -> LicensedFile:
        check, paths = partial(checkpoint, network=network), (f"ckpt/{n}" for n in names)
        lifting = network is LIFTING_FLOW
        group, source = (
            ("lifting weights", "ICCV 2021") if lifting else ("weights", "HuMR weights")
        )
        return LicensedFile(group, source, tuple(paths), check, parts)

    return [
        entry(("bedlam_cliff_3dpw_ft_backbone.pth",), BACKBONE, "training", "weights"),
        entry(("humr_best.ckpt",), HUMR, "weights"),
        entry(VITPOSE, VITPOSE_H, "weights"),  # and `data samples`
        entry(("model.pt",), LIFTING_FLOW, "lifting weights"),
    ]


def _photographs() -> list[LicensedFile]:
    def entry(
        source: str, origin: str, images: str, inside: str, pattern: str, least: int, *parts: str
    ) -> LicensedFile:
        below, plain = images + inside, partial(folder, pattern=pattern, least=least)
        names = tuple(name for name, each in SETS.items() if each.images == images)
        check = partial(photographs, below=below, names=names, plain=plain)
        return LicensedFile(f"photographs of {source}", origin, (below,), check, parts)

    found = []
    for images, source in {each.images: each.source for each in SETS.values()}.items():
        if source == "BEDLAM":
            found.append(entry(source, "BEDLAM", images, "", "seq_*", 1, "training"))
        elif source == "AGORA":
            found.append(entry(source, "BEDLAM", images, "", "*_1280x720.png", 1, "training"))
        elif source == "3DPW":
            parts = ("training", "3DPW")
            found.append(entry(source, source, images, "/imageFiles", "*", 60, *parts))
        else:
            parts = ("EMDB", "plausibility")
            found.append(entry(source, source, images, "", "P*/*/images", 17, *parts))
    return found


def _masks() -> list[LicensedFile]:
    def entry(
        source: str, origin: str, names: Sequence[str], folders: Iterable[str], pattern: str,
        part: str,
    ) -> LicensedFile:  # fmt: skip
        folders, plain = tuple(dict.fromkeys(folders)), partial(folder, pattern=pattern)
        check = partial(masks, below=folders[0], names=names, plain=plain)
        return LicensedFile(f"masks of {source}", origin, folders, check, (part,))

    found = []
    for name, each in SETS.items():
        if each.source == "BEDLAM":
            scene = f"env_masks/{each.images.split('/')[1]}"
            folders = (scene, scene.replace("_30fps", "_6fps"))
            found.append(entry("BEDLAM", "BEDLAM", (name,), folders, "seq_*", "masks"))
    agora = [name for name, each in SETS.items() if each.source == "AGORA"]
    return [
        *found,
        entry("AGORA", "AGORA", agora, ["env_masks/images"], "*_all_person.png", "masks"),
        entry("EMDB", "HuMR data", ["emdb-p1-occl"], ["test_images/EMDB/masks"],
              "P*/*/masks/*.png", "plausibility"),
    ]  # fmt: skip


def _human36m() -> list[LicensedFile]:
    def entry(
        group: str, source: str, name: str, check: Callable[[Path], str], *others: str
    ) -> LicensedFile:
        paths = tuple(f"h36m/{each}" for each in (name, *others))
        return LicensedFile(f"{group} of Human3.6M", source, paths, check, ("lifting",))

    tables = {
        f"dataset/{table}/{key}": shape
        for table in ("trainset", "testset")
        for key, shape in {"gt_3d": (None, 3, 17), **DETECTED}.items()
    }
    heatmaps = partial(hdf5_file, shapes=tables)
    three, two = (partial(npz_file, shapes={f"positions_{d}d": ()}) for d in (3, 2))
    return [
        *(entry("fits", "ICCV 2021", f"{split}set_h36m.pickle", partial(_fits, split=split),
                f"{split}set_h36m_without_3d.pickle") for split in SUBJECTS),
        *(entry("heatmaps", "FMPose", f"H36M_dataset_{detector}_hrnet.h5", heatmaps)
          for detector in DETECTORS),
        entry("2D poses", "VideoPose3D", "data_3d_h36m.npz", three),
        *(entry("2D poses", "VideoPose3D", f"data_2d_h36m_{detector}.npz", two)
          for detector in ("gt", "cpn_ft_h36m_dbb")),
        entry("cameras for 2D poses", "Human3.6M", "metadata.xml", _cameras),
        *(LicensedFile("3D poses of Human3.6M, for fits without them", "Human3.6M",
                (cdf_folder(subject, Path("h36m")).as_posix(),), _poses, ())
          for split in SUBJECTS for subject in SUBJECTS[split]),
    ]  # fmt: skip


def _fits(path: Path, *, split: str) -> str:
    """A pickle of fits; 3D poses that it lacks must lie beside it."""
    remark = large_pickle(path, least=50)
    if not path.stem.endswith("_without_3d"):
        return remark
    for subject in SUBJECTS[split]:
        _poses(cdf_folder(subject, path.parent))
    return f"{remark}, 3D poses beside it"


def _poses(path: Path) -> str:
    """A subject's folder of .cdf files, which are not opened."""
    subject = path.parents[1].name
    found = cdf_files(subject, path.parents[2])
    wanted = [each for split in SUBJECTS for each in sequences(split) if each.subject == subject]
    if missing := [each for each in wanted if each not in found]:
        raise ValueError(
            f"{shown(path)} must hold {len(wanted)} .cdf files; {len(missing)} are missing, that "
            f"of {'/'.join(missing[0])} the first. Usual cause: an archive that was not unpacked "
            "to its end"
        )
    return f"{len(wanted)} .cdf files"


def _cameras(path: Path) -> str:
    return f"{len(read_cameras(path.parent))} positions of cameras"


def _mpi_inf_3dhp() -> list[LicensedFile]:
    def entry(
        kind: str, place: str, check: Callable[[Path], str], *parts: str,
        source: str = "MPI-INF-3DHP",
    ) -> LicensedFile:  # fmt: skip
        path = f"mpi_inf_3dhp/{place}"
        return LicensedFile(f"{kind} of MPI-INF-3DHP", source, (path,), check, parts)

    shapes: dict[str, Shape] = {
        "annot2": (None, 1, 17, 2), "univ_annot3": (None, 1, 17, 3), "valid_frame": (None, 1),
    }  # fmt: skip
    tests, test = "mpi_inf_3dhp_test_set", partial(hdf5_file, shapes=shapes)
    train = partial(mat_file, shapes={"annot2": (14, 1), "univ_annot3": (14, 1)})
    columns: dict[str, Shape] = {"gt_3d_uni": (None, 3, 17), **DETECTED}
    tables = {f"dataset/testset/{key}": shape for key, shape in columns.items()}
    heatmaps = partial(hdf5_file, shapes=tables)
    return [
        *(entry("test set", f"{tests}/TS{n}/annot_data.mat", test, "lifting transfer")
          for n in range(1, 7)),
        *(entry("heatmaps", f"3DHP_dataset_{detector}_hrnet.h5", heatmaps, *parts, source="FMPose")
          for detector, parts in zip(DETECTORS, (("transfer heatmaps",), ()), strict=True)),
        *(entry("training set", f"S{subject}/Seq{sequence}/annot.mat", train)
          for subject in range(1, 9) for sequence in (1, 2)),
    ]  # fmt: skip


def _samples(name: str) -> LicensedFile:
    paths = (f"heatmap_samples/{name}",)
    return LicensedFile("heatmap samples", "HuMR data", paths, samples, ("training",))


def _entries() -> tuple[LicensedFile, ...]:
    annotations = [_annotations(each) for each in SETS.values()]
    heatmaps = [_samples(name) for name in TRAINING]
    return (*_body_models(), *_helpers(), *_weights(), *annotations, *heatmaps, *_photographs(),
            *_masks(), *_human36m(), *_mpi_inf_3dhp())  # fmt: skip


ENTRIES = _entries()


@dataclass(frozen=True)
class Check:
    """What became of an entry."""

    entry: LicensedFile
    path: Path
    state: str  # "ok", "missing" or "wrong"
    remark: str


def inspect(
    root: Path = LICENSED, *, entries: Iterable[LicensedFile] | None = None
) -> list[Check]:
    """Look for all entries, and into those that are there."""
    return [_inspect(entry, root) for entry in (ENTRIES if entries is None else entries)]


def _inspect(entry: LicensedFile, root: Path) -> Check:
    there = [root / path for path in entry.paths if (root / path).exists()]
    if not there:
        return Check(entry, root / entry.paths[0], "missing", "")
    try:
        return Check(entry, there[0], "ok", entry.check(there[0]))
    except (ValueError, OSError) as error:
        return Check(entry, there[0], "wrong", str(error))


def lacking(findings: Iterable[Check], part: str) -> list[Check]:
    """Return what a part of the experiments still needs."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
    return [each for each in findings if each.state != "ok" and part in each.entry.parts]


def refusal(lacking: Sequence[Check], *, named: int = 3) -> str:
    """Say in one sentence what training lacks, the first of it by name."""
    names = [each.remark or shown(each.path) for each in lacking[:named]]
    more = f" and {len(lacking) - named} more" if len(lacking) > named else ""
    return (
        f"training on licensed data needs {len(lacking)} files or folders that are missing or "
        f"wrong: {', '.join(names)}{more}. `python3 -m humr data licensed` lists them all, and "
        "where to register"
    )


def report(findings: Iterable[Check]) -> str:
    """Describe findings: groups with a line per entry, then which parts are complete."""
    findings = list(findings)
    groups: dict[str, list[Check]] = {}
    for each in findings:
        groups.setdefault(each.entry.group, []).append(each)
    lines = [line for group in groups.values() for line in _paragraph(group)]
    lines += ["", "parts of the papers' experiments:"]
    for part, meaning in PARTS.items():
        open_ = len(lacking(findings, part))
        lines.append(f"  {part}: {'complete' if not open_ else f'lacks {open_}'} ({meaning})")
    return "\n".join(lines) + "\n"


def _paragraph(group: list[Check]) -> list[str]:
    open_ = [each for each in group if each.state != "ok"]
    entry, source = group[0].entry, SOURCES[group[0].entry.source]
    width = max(len(shown(each.path)) for each in group)
    lines = [f"{entry.group}: {len(group) - len(open_)} of {len(group)}"]
    lines += [_line(each, width) for each in group]
    if open_:
        parts = dict.fromkeys(part for each in open_ for part in each.entry.parts)
        lines.append(f"  from     {source.site}")
        lines.append(f"  licence  {source.licence}")
        lines.append(f"  for      {', '.join(parts) or 'nothing else here'}")
    return lines


def _line(found: Check, width: int) -> str:
    """One entry; what is said of a wrong file mostly begins with its name."""
    path = shown(found.path)
    if found.state == "wrong" and path in found.remark:
        return f"  wrong    {found.remark}"
    return f"  {found.state:<7}  {path:<{width}}  {found.remark}".rstrip()


def main() -> int:
    """Print what is here."""
    say(report(inspect()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
