"""Licensed data: the data sets of HuMR, where files lie, and what runs on licensed data depend on.

Everything lies in `data/licensed` (ignored by git), which has the inner layout of the official
code's `data` folder, so that a folder made for that code serves as it is, by a move or a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from humr.config import Run, hashed_if_changed, one_of, require
from humr.files import DATA, find
from humr.lifting.config import GROUPS, LiftingRule, LiftingRun, ProposeRule, ProposeRun

LICENSED = DATA / "licensed"
# Names of ViTPose-H's weights in `ckpt`: HuMR's, then those of others; the first that is there.
VITPOSE = ("vitpose-h-multi-coco.pth", "vitpose-h-coco.pth", "vitpose-h.pth")
# BEDLAM's scenes by the names that HuMR's code gives them: folder of the images, which names the
# annotation file too.
_BEDLAM: Mapping[str, str] = {
    "static-hdri": "20221010_3_1000_batch01hand_6fps",
    "zoom-suburbd": "20221010_3-10_500_batch01hand_zoom_suburb_d_6fps",
    "closeup-suburba": "20221011_1_250_batch01hand_closeup_suburb_a_6fps",
    "closeup-suburbb": "20221011_1_250_batch01hand_closeup_suburb_b_6fps",
    "closeup-suburbc": "20221011_1_250_batch01hand_closeup_suburb_c_6fps",
    "closeup-suburbd": "20221011_1_250_batch01hand_closeup_suburb_d_6fps",
    "closeup-gym": "20221012_1_500_batch01hand_closeup_highSchoolGym_6fps",
    "zoom-gym": "20221012_3-10_500_batch01hand_zoom_highSchoolGym_6fps",
    "static-gym": "20221013_3-10_500_batch01hand_static_highSchoolGym_6fps",
    "static-office": "20221013_3_250_batch01hand_static_bigOffice_6fps",
    "orbit-office": "20221013_3_250_batch01hand_orbit_bigOffice_6fps",
    "orbit-archviz-15": "20221014_3_250_batch01hand_orbit_archVizUI3_time15_6fps",
    "orbit-archviz-10": "20221015_3_250_batch01hand_orbit_archVizUI3_time10_6fps",
    "orbit-archviz-12": "20221015_3_250_batch01hand_orbit_archVizUI3_time12_6fps",
    "orbit-archviz-19": "20221015_3_250_batch01hand_orbit_archVizUI3_time19_6fps",
    "static-hdri-zoomed": "20221017_3_1000_batch01hand_6fps",
    "pitchdown-stadium": "20221018_3-8_250_batch01hand_pitchDown52_stadium_6fps",
    "pitchup-stadium": "20221018_3-8_250_batch01hand_pitchUp52_stadium_6fps",
    "closeup-suburbb-bmi": "20221019_1_250_highbmihand_closeup_suburb_b_6fps",
    "closeup-suburbc-bmi": "20221019_1_250_highbmihand_closeup_suburb_c_6fps",
    "static-suburbd-bmi": "20221019_3-8_1000_highbmihand_static_suburb_d_6fps",
    "static-hdri-bmi": "20221019_3_250_highbmihand_6fps",
    "zoom-gym-bmi": "20221020-3-8_250_highbmihand_zoom_highSchoolGym_a_6fps",
    "static-office-hair": "20221022_3_250_batch01handhair_static_bigOffice_30fps",
    "zoom-suburbd-hair": "20221024_10_100_batch01handhair_zoom_suburb_d_30fps",
    "static-gym-hair": "20221024_3-10_100_batch01handhair_static_highSchoolGym_30fps",
}

_SMPL = "body_models/SMPL_python_v.1.1.0/smpl/models"
# Files of SMPL's bodies below the licensed folder: ours, and two of unpacked downloads.
SMPL_BODIES: Mapping[str, tuple[str, ...]] = {
    gender: (
        f"body_models/smpl/SMPL_{gender.upper()}.pkl",
        f"{_SMPL}/SMPL_{gender.upper()}.pkl",
        f"{_SMPL}/basicmodel_{short}_lbs_10_207_0_v1.1.0.pkl",
    )
    for gender, short in (("neutral", "neutral"), ("male", "m"), ("female", "f"))
}
SMPLX_BODY = tuple(f"body_models/smplx/{f}SMPLX_NEUTRAL.npz" for f in ("", "models/smplx/"))


@dataclass(frozen=True)
class DataSet:
    """One data set of HuMR: its files, below the licensed folder."""

    name: str
    source: str  # "BEDLAM", "AGORA", "3DPW" or "EMDB"
    split: str  # "train" or "test"
    annotations: str
    images: str  # folder that the names of the images start from

    @property
    def rotated(self) -> bool:
        """Whether photographs and masks lie on their side: turn them clockwise after reading."""
        return "closeup" in self.name

    @property
    def scene(self) -> str:
        """What BEDLAM calls the scene."""
        return self.images.split("/")[1]

    @property
    def scene_at_6fps(self) -> str:
        """The same for masks: their official preparation calls scenes of 30 Hz so, too."""
        return self.scene.replace("_30fps", "_6fps")

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of all photographs and masks, upright; None where they differ, 3DPW.

        That of EMDB holds for its first part, which is all that is used.
        """
        if self.source == "3DPW":
            return None
        if self.source == "EMDB":
            return (1440, 1920)
        return (720, 1280) if self.rotated else (1280, 720)


_PW3D, _EMDB, _AGORA = "test_images/3DPW", "test_images/EMDB", "training_images/images"
SETS = {
    each.name: each
    for each in (
        DataSet("3dpw-train-smplx", "3DPW", "train", "3dpw_train_smplx_w_cam.npz", _PW3D),
        DataSet("agora-bfh", "AGORA", "train", "agora-bfh.npz", _AGORA),
        DataSet("agora-body", "AGORA", "train", "agora-body.npz", _AGORA),
        *(
            DataSet(name, "BEDLAM", "train", f"{scene}.npz", f"training_images/{scene}/png")
            for name, scene in _BEDLAM.items()
        ),
        DataSet("3dpw-test-cam", "3DPW", "test", "3dpw_test_w_cam.npz", _PW3D),
        DataSet("emdb-p1", "EMDB", "test", "emdb_p1.npz", _EMDB),
        DataSet("emdb-p1-occl", "EMDB", "test", "emdb_p1_occl.npz", _EMDB),
    )
}
TRAINING = tuple(name for name, each in SETS.items() if each.split == "train")
TEST = tuple(name for name, each in SETS.items() if each.split == "test")
OCCLUDED, WHOLE = "emdb-p1-occl", "emdb-p1"  # the first is a part of the second
DATASETS = {name: SETS[name].source for name in TEST}  # what tables call the test sets
ON_MASK = ("percent_inside", "mask_distance")  # metrics of EMDB's occluded part alone
FIRST = 100_000  # number of the first person of the second test set, and so on


def data_set(name: str) -> DataSet:
    """Return the description of a data set by its name."""
    if name not in SETS:
        raise ValueError(f"no data set {name!r}; HuMR's are {', '.join(SETS)}")
    return SETS[name]


def image_path(name: str, image: str, *, root: Path = LICENSED) -> Path:
    """Return the path of a photograph; a missing .png is looked for as .jpg (official code)."""
    path = root / data_set(name).images / image
    return find(path.parent, *dict.fromkeys((path.name, path.with_suffix(".jpg").name)))


# ------------------------------------------------------------------------ runs of HuMR

STORED = 150  # heatmap samples per person in the official files
MASK_SIDES = (224, 112, 56)


@dataclass(frozen=True, kw_only=True)
class Licensed:
    """Licensed people that a run is trained and tested on; where their files lie is no part of it.

    Defaults are HuMR's: all training sets, every step sees new crops.
    """

    train: tuple[str, ...] = TRAINING
    test: tuple[str, ...] = TEST
    seed: int = 0  # of the crops
    # Crops per person whose features are computed once and kept; 0: images are read in every step.
    variants: int = 0
    heatmap_samples: int = STORED  # kept of the stored ones
    masks: bool = True  # read masks of persons; without them there is no mask loss
    mask_side: int = 224  # px; smaller ones take less room and are coarser
    precision: str = "float32"  # of the backbone, or "bfloat16"
    held_out: float = 0.01  # share at the end of every training set that is not trained on
    validation: int = 600  # people of these that are validated on, evenly spread
    tested: int = hashed_if_changed(0)  # people of every test set, evenly spread; 0: all
    shard: int = 500  # people per file

    def __post_init__(self) -> None:
        require(bool(self.train), "train must name at least one data set")
        for split in ("train", "test"):
            wrong = [n for n in getattr(self, split) if data_set(n).split != split]
            require(not wrong, f"no sets of the split {split!r}: {', '.join(wrong)}")
        require(self.variants >= 0, f"variants must not be negative; got {self.variants}")
        samples = self.heatmap_samples
        require(1 <= samples <= STORED, f"heatmap_samples must lie in 1..{STORED}; got {samples}")
        require(
            self.mask_side in MASK_SIDES,
            f"mask_side must be one of {', '.join(map(str, MASK_SIDES))}; got {self.mask_side}",
        )
        one_of("precision", self.precision, "float32", "bfloat16")
        require(0 < self.held_out < 1, f"held_out must lie between 0 and 1; got {self.held_out}")
        require(self.validation > 0 and self.shard > 0, "validation and shard must be positive")
        require(self.tested >= 0, f"tested must not be negative; got {self.tested}")


@dataclass(frozen=True, kw_only=True)
class PaperRun(Run):
    """One training run of HuMR on licensed people."""

    world: Licensed = field(default_factory=Licensed)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        rule, model = self.supervision, self.model
        require(
            self.world.masks or self.weights.mask == 0,
            "a mask loss needs masks; set world.masks, or weights.mask to 0",
        )
        require(
            rule.poses is None and rule.points is None,
            "all licensed images have their labels; supervision.poses and points must be None",
        )
        require(rule.heatmaps != "gaussian", "there are no moments of the heatmaps, only samples")
        require(
            not model.window_info and not model.normalise,
            "window_info and normalise belong to the open world's detector; set them to False",
        )
        require(model.features % 15 == 0, f"features must be 15 widths; got {model.features}")


# ------------------------------------------------------------------------ runs of lifting

SOURCES = ("fits", "heatmaps", "cpn", "gt")
WITH_GAUSSIANS = SOURCES[:2]
THEIRS = dict(zip(GROUPS, ("GS", "noGS", "Outdoor"), strict=True))  # as MPI-INF-3DHP calls them


@dataclass(frozen=True, kw_only=True)
class Human36m:
    """Human3.6M and, for transfer, MPI-INF-3DHP; where their files lie is no part of it.

    Trained on are S1, 5, 6, 7, 8, tested on S9, 11. The official code looks at the test set after
    every epoch and keeps the last weights. Here the best weights are chosen on whole actions of
    one training subject, which nobody is trained on: all takes and cameras, so that no moment is
    seen from another side. The last weights are kept beside them.
    """

    label: ClassVar[str] = "Human3.6M"  # what tables call this world
    where: ClassVar[str] = "On Human3.6M"  # the same, as a sentence begins

    # Where 2D poses come from: with Gaussians "fits" (Wehrbein et al.) or "heatmaps" (FMPose);
    # alone the detector "cpn" or the labels, "gt" (VideoPose3D).
    poses: str = "fits"
    stride: int = 1  # of training, in stored images; every fourth frame is stored
    test_stride: int = 16  # every 64th frame
    held_out_subject: int = 8
    held_out: tuple[str, ...] = ("Directions", "SittingDown", "Walking")  # 3 of 75
    validation: int = 2_000  # images of these that are validated on, evenly spread
    transfer: bool = True  # the test set of MPI-INF-3DHP
    # Its 2D poses: the labels, as both papers seem to do, or a detector's "heatmaps" (FMPose).
    transfer_poses: str = hashed_if_changed("labels")
    # Images of every split that models are measured on, evenly spread; 0: all.
    tested_images: int = hashed_if_changed(0)

    def __post_init__(self) -> None:
        one_of("poses", self.poses, *SOURCES)
        one_of("transfer_poses", self.transfer_poses, "labels", "heatmaps")
        require(
            self.transfer_poses == "labels" or self.poses in WITH_GAUSSIANS,
            f"heatmaps of the transfer set need Gaussians in training; poses is {self.poses!r}",
        )
        counts = (self.stride, self.test_stride, self.validation)
        require(min(counts) > 0, "stride, test_stride and validation must be positive")
        require(bool(self.held_out), "held_out must name at least one action")
        tested = self.tested_images
        require(tested >= 0, f"tested_images must not be negative; got {tested}")

    @property
    def tested(self) -> tuple[str, ...]:
        """Splits that models are measured on; "ambiguous" is H36MA, of all stored test images.

        2D poses alone know no ambiguity.
        """
        hard = ("ambiguous",) if self.poses in WITH_GAUSSIANS else ()
        return ("test", *hard, *(GROUPS if self.transfer else ()))

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits."""
        return ("train", "validation", *self.tested)

    @property
    def groups(self) -> dict[str, str]:
        """What tables call the groups of the transfer set, those of MPI-INF-3DHP."""
        return {ours: f"3DHP {theirs}" for ours, theirs in THEIRS.items() if self.transfer}

    @property
    def hard(self) -> str:
        """The split whose ambiguous images count as such."""
        return "ambiguous" if "ambiguous" in self.tested else "test"


@dataclass(frozen=True, kw_only=True)
class LiftingPaperRun(LiftingRun):
    """One training run of the lifting flow on Human3.6M; no paper mentions mirror images."""

    world: Human36m = field(default_factory=Human36m)  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: LiftingRule = field(default_factory=lambda: LiftingRule(mirror=False))

    def __post_init__(self) -> None:
        require(
            self.rule.gaussians == "fit" or self.world.poses == "heatmaps",
            f"moments need heatmaps; world.poses is {self.world.poses!r}",
        )


@dataclass(frozen=True, kw_only=True)
class ProposePaperRun(ProposeRun):
    """One training run of ProPose on Human3.6M; the paper does not say which detector it has."""

    world: Human36m = field(default_factory=lambda: Human36m(poses="cpn"))  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: ProposeRule = field(default_factory=lambda: ProposeRule(mirror=False))
