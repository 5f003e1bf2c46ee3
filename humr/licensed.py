"""Licensed data: where their files lie, and how messages name them.

Everything lies in `data/licensed` (ignored by git), which has the inner layout of the official
code's `data` folder, so that a folder made for that code serves as it is, by a move or a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from humr.paths import DATA

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
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of all photographs and masks, upright; None where they differ, 3DPW.

        That of EMDB holds for its first part, which is all that is used.
        """
        if self.source == "3DPW":
            return None
        if self.source == "EMDB":
            return (1440, 1920)
        return (720, 1280) if self.rotated else (1280, 720)


def _sets() -> dict[str, DataSet]:
    pw3d, emdb, agora = "test_images/3DPW", "test_images/EMDB", "training_images/images"
    sets = [
        DataSet("3dpw-train-smplx", "3DPW", "train", "3dpw_train_smplx_w_cam.npz", pw3d),
        DataSet("agora-bfh", "AGORA", "train", "agora-bfh.npz", agora),
        DataSet("agora-body", "AGORA", "train", "agora-body.npz", agora),
    ]
    for name, scene in _BEDLAM.items():
        folder = f"training_images/{scene}/png"
        sets.append(DataSet(name, "BEDLAM", "train", f"{scene}.npz", folder))
    sets += [
        DataSet("3dpw-test-cam", "3DPW", "test", "3dpw_test_w_cam.npz", pw3d),
        DataSet("emdb-p1", "EMDB", "test", "emdb_p1.npz", emdb),
        DataSet("emdb-p1-occl", "EMDB", "test", "emdb_p1_occl.npz", emdb),
    ]
    return {each.name: each for each in sets}


SETS = _sets()
TRAINING = tuple(name for name, each in SETS.items() if each.split == "train")
TEST = tuple(name for name, each in SETS.items() if each.split == "test")


def data_set(name: str) -> DataSet:
    """Return the description of a data set by its name."""
    if name not in SETS:
        raise ValueError(f"no data set {name!r}; HuMR's are {', '.join(SETS)}")
    return SETS[name]


def shown(path: Path) -> str:
    """Return the path relative to `data`, as messages show it; elsewhere it is as it was given."""
    whole = path.absolute()
    return whole.relative_to(DATA).as_posix() if whole.is_relative_to(DATA) else str(path)


def find(folder: Path, *names: str) -> Path:
    """Return the path of the first of some files that is there; say how to get it otherwise."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    expected = " or ".join(shown(folder / name) for name in names)
    raise FileNotFoundError(
        f"no file {expected}; it is licensed and not part of this repository. "
        "data/README.md says where to register and where files go"
    )


def existing(path: Path) -> Path:
    """Return the path of a file that is there; say how to get it otherwise."""
    return find(path.parent, path.name)


def image_path(name: str, image: str, *, root: Path = LICENSED) -> Path:
    """Return the path of a photograph; a missing .png is looked for as .jpg (official code)."""
    path = root / data_set(name).images / image
    return find(path.parent, *dict.fromkeys((path.name, path.with_suffix(".jpg").name)))
