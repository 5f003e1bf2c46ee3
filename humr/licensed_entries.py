"""Licensed files, one by one: where they lie, who publishes them, what looks inside.

`inventory` looks for them. Nothing is fetched. Every entry names a file or folder below
`data/licensed`, the site where one registers, its licence in a few words (its own text decides),
and the parts that need it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from humr import file_checks as checks
from humr.annotations import BETAS, JOINTS
from humr.file_checks import Shape, Shapes
from humr.folder_checks import masks, photographs, samples
from humr.h36m import SUBJECTS, cdf_files, cdf_folder, read_cameras, sequences
from humr.licensed import SETS, SMPL_BODIES, SMPLX_BODY, TRAINING, VITPOSE, DataSet, shown
from humr.weight_checks import BACKBONE, HUMR, LIFTING_FLOW, VITPOSE_H, Network, checkpoint

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
class Source:
    """Where to register, and on which terms."""

    site: str
    licence: str


_FREE = "own licence: research, not commercial"
_RESEARCH = f"{_FREE}; registration"
SOURCES = {
    "SMPL": Source("smpl.is.tue.mpg.de (version 1.1.0 for Python)", _RESEARCH),
    "SMPL-X": Source("smpl-x.is.tue.mpg.de (version 1.1)", _RESEARCH),
    "BEDLAM": Source("bedlam.is.tue.mpg.de", _RESEARCH),
    "AGORA": Source("agora.is.tue.mpg.de (Training Masks 1280x720)", _RESEARCH),
    "3DPW": Source("virtualhumans.mpi-inf.mpg.de/3DPW", _FREE),
    "EMDB": Source("eth-ait.github.io/emdb", _RESEARCH),
    "Human3.6M": Source("vision.imar.ro/human3.6m", _RESEARCH),
    "MPI-INF-3DHP": Source("vcai.mpi-inf.mpg.de/3dhp-dataset", _FREE),
    "ICCV 2021": Source(
        "github.com/twehrbein/Probabilistic-Monocular-3D-Human-Pose-Estimation-with-Normalizing-"
        "Flows (a link to the pickles; results/original_model/model.pt)",
        "MIT for its code; derived from Human3.6M, whose licence applies",
    ),
    "FMPose": Source(
        "github.com/cuongle1206/FMPose (data/H36M.py and data/3DHP.py write the files, with "
        "detectors of Zenodo record 20367108)",
        "none is named; derived from Human3.6M and MPI-INF-3DHP, whose licences apply",
    ),
    "VideoPose3D": Source(
        "github.com/facebookresearch/VideoPose3D (DATASETS.md: data/prepare_data_h36m.py makes "
        "the 3D poses and gt from .cdf files of Human3.6M; a link to the others)",
        "CC BY-NC 4.0; derived from Human3.6M, whose licence applies",
    ),
    "HuMR data": Source(
        "cloud.tnt.uni-hannover.de/index.php/s/jQjkkqFaiWdJrwL",
        "see HuMR's repository; derived from BEDLAM, AGORA, 3DPW, EMDB, whose licences apply",
    ),
    "HuMR weights": Source(
        "cloud.tnt.uni-hannover.de/index.php/s/WqZs5tLMJqcMj9f",
        "see HuMR's repository; trained on BEDLAM, AGORA and 3DPW",
    ),
}


@dataclass(frozen=True)
class Entry:
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


def _annotations(described: DataSet) -> Entry:
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
    return Entry(
        f"annotations, {'training' if train else 'test'}", "HuMR data",
        (f"annotations/{described.annotations}",), partial(checks.npz_file, shapes=shapes),
        ("training",) if train else test,
    )  # fmt: skip


def _body_models() -> list[Entry]:
    shapes: dict[str, Shape] = {
        "v_template": (6890, 3), "J_regressor": (24, 6890), "weights": (6890, 24),
    }  # fmt: skip
    found = []
    for paths in SMPL_BODIES.values():
        # the neutral body and the regressors read what the network predicts
        parts = ("3DPW", "EMDB", "plausibility")
        found.append(
            Entry("SMPL bodies", "SMPL", paths, partial(checks.pickle_file, shapes=shapes), parts)
        )
    check = partial(checks.npz_file, shapes={"v_template": (10475, 3), "J_regressor": (55, 10475)})
    return [*found, Entry("SMPL-X body", "SMPL-X", SMPLX_BODY, check)]


def _helpers() -> list[Entry]:
    def entry(name: str, check: Callable[[Path], str], *parts: str) -> Entry:
        return Entry("regressors and means", "HuMR weights", (f"utils/{name}",), check, parts)

    evaluation = ("3DPW", "EMDB", "plausibility")
    mean: dict[str, Shape] = {"pose": (144,), "shape": (10,), "cam": (3,)}
    matrix: dict[str, Shape] = {"matrix": (6890, 10475)}
    return [
        entry("J_regressor_h36m.npy", partial(checks.npy_file, shape=(17, 6890)), "3DPW"),
        entry("smplx2smpl.pkl", partial(checks.pickle_file, shapes=matrix), *evaluation),
        entry("smpl_mean_params.npz", partial(checks.npz_file, shapes=mean), "training"),
    ]


def _weights() -> list[Entry]:
    def entry(names: tuple[str, ...], network: Network, *parts: str) -> Entry:
        check, paths = partial(checkpoint, network=network), (f"ckpt/{n}" for n in names)
        lifting = network is LIFTING_FLOW
        group, source = (
            ("lifting weights", "ICCV 2021") if lifting else ("weights", "HuMR weights")
        )
        return Entry(group, source, tuple(paths), check, parts)

    return [
        entry(("bedlam_cliff_3dpw_ft_backbone.pth",), BACKBONE, "training", "weights"),
        entry(("humr_best.ckpt",), HUMR, "weights"),
        entry(VITPOSE, VITPOSE_H, "weights"),  # and `data samples`
        entry(("model.pt",), LIFTING_FLOW, "lifting weights"),
    ]


def _photographs() -> list[Entry]:
    def entry(
        source: str, origin: str, images: str, inside: str, pattern: str, least: int, *parts: str
    ) -> Entry:
        folder, plain = images + inside, partial(checks.folder, pattern=pattern, least=least)
        names = tuple(name for name, each in SETS.items() if each.images == images)
        check = partial(photographs, below=folder, names=names, plain=plain)
        return Entry(f"photographs of {source}", origin, (folder,), check, parts)

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


def _masks() -> list[Entry]:
    def entry(
        source: str, origin: str, names: Sequence[str], folders: Iterable[str], pattern: str,
        part: str,
    ) -> Entry:  # fmt: skip
        folders, plain = tuple(dict.fromkeys(folders)), partial(checks.folder, pattern=pattern)
        check = partial(masks, below=folders[0], names=names, plain=plain)
        return Entry(f"masks of {source}", origin, folders, check, (part,))

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


def _originals() -> list[Entry]:
    found = []
    for split, count in (("train", 24), ("validation", 12), ("test", 24)):
        paths = (f"test_images/3DPW/sequenceFiles/{split}",)
        check = partial(checks.folder, pattern="*.pkl", least=count)
        found.append(Entry("sequences of 3DPW", "3DPW", paths, check, ()))
    check = partial(checks.folder, pattern="P*/*/P*_data.pkl", least=17)
    return [*found, Entry("sequences of EMDB", "EMDB", ("test_images/EMDB",), check, ())]


def _human36m() -> list[Entry]:
    def entry(
        group: str, source: str, name: str, check: Callable[[Path], str], *others: str
    ) -> Entry:
        paths = tuple(f"h36m/{each}" for each in (name, *others))
        return Entry(f"{group} of Human3.6M", source, paths, check, ("lifting",))

    tables = {
        f"dataset/{table}/{key}": shape
        for table in ("trainset", "testset")
        for key, shape in {"gt_3d": (None, 3, 17), **DETECTED}.items()
    }
    heatmaps = partial(checks.hdf5_file, shapes=tables)
    three, two = (partial(checks.npz_file, shapes={f"positions_{d}d": ()}) for d in (3, 2))
    return [
        *(entry("fits", "ICCV 2021", f"{split}set_h36m.pickle", partial(_fits, split=split),
                f"{split}set_h36m_without_3d.pickle") for split in SUBJECTS),
        *(entry("heatmaps", "FMPose", f"H36M_dataset_{detector}_hrnet.h5", heatmaps)
          for detector in DETECTORS),
        entry("2D poses", "VideoPose3D", "data_3d_h36m.npz", three),
        *(entry("2D poses", "VideoPose3D", f"data_2d_h36m_{detector}.npz", two)
          for detector in ("gt", "cpn_ft_h36m_dbb")),
        entry("cameras for 2D poses", "Human3.6M", "metadata.xml", _cameras),
        *(Entry("3D poses of Human3.6M, for fits without them", "Human3.6M",
                (cdf_folder(subject, Path("h36m")).as_posix(),), _poses, ())
          for split in SUBJECTS for subject in SUBJECTS[split]),
    ]  # fmt: skip


def _fits(path: Path, *, split: str) -> str:
    """A pickle of fits; 3D poses that it lacks must lie beside it."""
    remark = checks.large_pickle(path, least=50)
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


def _mpi_inf_3dhp() -> list[Entry]:
    def entry(
        kind: str, place: str, check: Callable[[Path], str], *parts: str,
        source: str = "MPI-INF-3DHP",
    ) -> Entry:  # fmt: skip
        path = f"mpi_inf_3dhp/{place}"
        return Entry(f"{kind} of MPI-INF-3DHP", source, (path,), check, parts)

    shapes: dict[str, Shape] = {
        "annot2": (None, 1, 17, 2), "univ_annot3": (None, 1, 17, 3), "valid_frame": (None, 1),
    }  # fmt: skip
    tests, test = "mpi_inf_3dhp_test_set", partial(checks.hdf5_file, shapes=shapes)
    train = partial(checks.mat_file, shapes={"annot2": (14, 1), "univ_annot3": (14, 1)})
    columns: dict[str, Shape] = {"gt_3d_uni": (None, 3, 17), **DETECTED}
    tables = {f"dataset/testset/{key}": shape for key, shape in columns.items()}
    heatmaps = partial(checks.hdf5_file, shapes=tables)
    return [
        *(entry("test set", f"{tests}/TS{n}/annot_data.mat", test, "lifting transfer")
          for n in range(1, 7)),
        *(entry("heatmaps", f"3DHP_dataset_{detector}_hrnet.h5", heatmaps, *parts, source="FMPose")
          for detector, parts in zip(DETECTORS, (("transfer heatmaps",), ()), strict=True)),
        *(entry("training set", f"S{subject}/Seq{sequence}/annot.mat", train)
          for subject in range(1, 9) for sequence in (1, 2)),
    ]  # fmt: skip


def _samples(name: str) -> Entry:
    paths = (f"heatmap_samples/{name}",)
    return Entry("heatmap samples", "HuMR data", paths, samples, ("training",))


def _entries() -> tuple[Entry, ...]:
    annotations = [_annotations(each) for each in SETS.values()]
    heatmaps = [_samples(name) for name in TRAINING]
    return (*_body_models(), *_helpers(), *_weights(), *annotations, *heatmaps, *_photographs(),
            *_masks(), *_originals(), *_human36m(), *_mpi_inf_3dhp())  # fmt: skip


ENTRIES = _entries()
