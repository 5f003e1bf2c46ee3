"""Small files in the official formats of Human3.6M, MPI-INF-3DHP and SMPL, made by tests.

Keys, dtypes, shapes, orders and oddities are those of the official files. The person is asymmetric
and no two joints share a coordinate, so that swapped legs, arms, axes or signs show.
"""

import pickle

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from formats import fake_chumpy

from humr.licensed import human36m
from humr.licensed.datasets import Human36m
from humr.skeletons import BODY22, H36M17, MPII16

# Millimetres, camera axes (x right, y down, z away), relative to the middle of the hips: the right
# leg kicks forward, the left arm is up, the right hand at the side.
PERSON = {
    "pelvis": (0, 0, 0),
    "right_hip": (-130, 5, 20), "right_knee": (-160, 260, -390), "right_ankle": (-170, 610, -610),
    "left_hip": (130, -5, -20), "left_knee": (145, 440, 10), "left_ankle": (150, 890, 60),
    "spine": (10, -230, 15), "thorax": (20, -480, 25), "nose": (25, -590, -75),
    "head_top": (30, -700, -5),
    "left_shoulder": (170, -450, 40), "left_elbow": (260, -680, 55), "left_wrist": (210, -910, 70),
    "right_shoulder": (-140, -440, 35), "right_elbow": (-210, -170, 80),
    "right_wrist": (-230, 75, -50),
}  # fmt: skip
FITS = 7  # numbers per official Gaussian fit
WORLD = Human36m(test_stride=2)  # of `write_lifting_world`, with four test images


def people(count, *, seed=0):
    """Poses (count, 17, 3) in mm: the person at other places, stretched a little."""
    rng = np.random.default_rng([seed, 17])
    person = np.array([PERSON[name] for name in H36M17.names], dtype=np.float64)
    stretch = 1 + 0.1 * rng.random((count, 1, 3))
    where = np.array([300.0, -150.0, 4500.0]) + 200 * rng.random((count, 1, 3))
    return person * stretch + where


def seen(poses):
    """Where a camera sees points: pixels, y down."""
    return 1150 * poses[..., :2] / poses[..., 2:] + np.array([512.0, 515.0])


def mpii(values):
    """Joints of the detector from those of H36M17."""
    return values[:, [H36M17.names.index(name) for name in MPII16.names]]


def by_axis(values):
    """Write (N, J, D) as x0..xJ, y0..yJ, ..."""
    return values.swapaxes(1, 2).reshape(len(values), values.shape[1] * values.shape[2])


def official_fits(points, *, seed=0):
    """Fits (N, 16, 7) as the official optimiser leaves them, with what went wrong now and then."""
    rng = np.random.default_rng([seed, 18])
    shape = points.shape[:2]
    sigma_x, sigma_y = rng.uniform(1.5, 4.5, shape), rng.uniform(0.1, 3.5, shape)
    low, high = points.min((1, 2), keepdims=True), points.max((1, 2), keepdims=True)
    cells = 6 + 52 * (points - low) / (high - low)
    angle = rng.uniform(-4, 7, shape)
    fits = [rng.uniform(0.2, 1.1, shape), *np.moveaxis(cells, -1, 0), sigma_x, angle, sigma_y,
            rng.uniform(0, 0.1, shape)]  # fmt: skip
    return np.stack(fits, -1)


# ------------------------------------------------------------------------ Human3.6M


def videos(split, poses):
    """Which of `people` are in which video of a split: three full videos, the rest empty."""
    empty, subject = slice(0, 0), list(human36m.SUBJECTS[split])[-1]
    chosen = {
        (subject, "Directions", "1", "54138969"): slice(0, 3),
        (subject, "Sitting", "0", "60457274"): slice(3, 5),
        (next(iter(human36m.SUBJECTS[split])), "Directions", "0", "55011271"): slice(
            5, len(poses)
        ),
    }
    return {tuple(video): chosen.get(tuple(video), empty) for video in human36m.sequences(split)}


def write_pickle(folder, split, poses, *, with_3d=True, protocol=4, changes=()):
    """`{split}set_h36m.pickle` of ICCV 2021; returns the path."""
    found, points = {}, mpii(seen(poses))
    fits = official_fits(points)
    for (subject, action, subaction, camera), where in videos(split, poses).items():
        count = len(poses[where])
        entry = {
            "imgpath": [f"/{subject}/{action}.{camera}/{4 * i}.jpg" for i in range(1, count + 1)],
            "2d_hrnet": by_axis(points[where]),
            "gaussfit": fits[where].reshape(count, 16 * FITS),
        }
        if with_3d:
            entry["3d_gt"] = by_axis(poses[where])
        takes = found.setdefault(subject, {}).setdefault(action, {})
        takes.setdefault(subaction, {})[camera] = entry
    for change in changes:
        change(found)
    path = folder / f"{split}set_h36m{'' if with_3d else '_without_3d'}.pickle"
    path.write_bytes(pickle.dumps(found, protocol=protocol))
    return path


def mocap(poses):
    """The 32 joints of Human3.6M for poses of 17, absurd where no joint of the 17 is."""
    joints = np.full((len(poses), 32, 3), 1e5)
    joints[:, [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]] = poses
    return joints


def at_full_rate(poses):
    """Frames at 50 Hz of which every fourth, from the fourth on, is kept."""
    frames = np.full((4 * len(poses) + 2, *poses.shape[1:]), 7e4)
    frames[3::4] = poses
    return frames


def write_metadata(folder, *, numbers=300):
    """`metadata.xml` with made-up cameras; returns {(subject, camera): (rotation, position)}."""
    values = np.random.default_rng(19).uniform(-3, 3, 300)
    values[:264].reshape(4, 11, 6)[..., 3:] *= 1000
    text = " ".join(f"{value:.17g}" for value in values[:numbers])
    (folder / "metadata.xml").write_text(f"<db><w0>[{text}]</w0><mapping/></db>")
    found = {}
    for c, camera in enumerate(human36m.CAMERAS):
        for subject in range(1, 12):
            start = 6 * (c * 11 + subject - 1)
            (a, b, g), position = values[start : start + 3], values[start + 3 : start + 6]
            x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
            y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
            z = [[np.cos(g), -np.sin(g), 0], [np.sin(g), np.cos(g), 0], [0, 0, 1]]
            found[f"S{subject}", camera] = np.array(x) @ np.array(y) @ np.array(z), position
    return found


def write_videopose(folder, poses, *, detector="cpn_ft_h36m_dbb", scale=1e-3):
    """VideoPose3D's files for S9 and S11: `poses` are what camera 3 of S9 sees of "WalkDog 2"."""
    rotation, position = write_metadata(folder)["S9", "58860488"]
    world = at_full_rate(poses) @ rotation + position
    points = np.pad(seen(at_full_rate(poses)), ((0, 2), (0, 0), (0, 0))).astype(np.float32)
    cameras = [points * 0 + number for number in range(4)]
    cameras[2] = points
    positions = (scale * mocap(world)).astype(np.float32)
    actions = {
        "WalkDog": (positions[:3], [p[:3] for p in cameras]),
        "WalkDog 2": (positions, cameras),
    }
    three = {s: {name: value[0] for name, value in actions.items()} for s in ("S9", "S11")}
    two = {s: {name: value[1] for name, value in actions.items()} for s in ("S9", "S11")}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=three)
    metadata = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [[4], [1]]}
    np.savez_compressed(
        folder / f"data_2d_h36m_{detector}.npz", positions_2d=two, metadata=metadata
    )


def write_recordings(folder, poses, *, detector="cpn_ft_h36m_dbb"):
    """VideoPose3D's files, everybody in two actions: camera 3 sees `poses` in each."""
    cameras, three, two = write_metadata(folder), {}, {}
    for subject in (*human36m.SUBJECTS["train"], *human36m.SUBJECTS["test"]):
        rotation, position = cameras[subject, "58860488"]
        world = at_full_rate(poses) @ rotation + position
        seen_by = [(world - where) @ turn.T for turn, where in
                   (cameras[subject, camera] for camera in human36m.CAMERAS)]  # fmt: skip
        points = [joints[..., :2].astype(np.float32) for joints in seen_by]
        positions = (mocap(world) / 1000).astype(np.float32)
        three[subject] = dict.fromkeys(("Directions 1", "Sitting"), positions)
        two[subject] = dict.fromkeys(("Directions 1", "Sitting"), points)
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=three)
    np.savez_compressed(folder / f"data_2d_h36m_{detector}.npz", positions_2d=two, metadata={})


def write_table(path, table, rows, *, pose="gt_3d"):
    """A table of PyTables with heatmaps; `hardsubset` is a bit field of shape (1,)."""
    columns = [("action", "S16"), ("subject", "S3"), ("subaction", "S1"), ("cam", "S8"),
               ("frame_orig", "i4"), ("crop_size", "i4"), ("hardsubset", "u1", (1,)),
               (pose, "f4", (3, 17)), ("gt_2d", "f4", (2, 17)), ("argmax_2d", "f4", (2, 16)),
               ("heatmap", "f2", (16, 64, 64))]  # fmt: skip
    dtype = np.dtype(sorted(columns))
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, dtype.itemsize)
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]
        bits = h5py.h5t.array_create(h5py.h5t.NATIVE_B8, (1,))
        kind.insert(
            name.encode(), offset, bits if name == "hardsubset" else h5py.h5t.py_create(field)
        )
    values = np.zeros(len(rows["action"]), dtype)
    for name, column in rows.items():
        values[name] = column
    with h5py.File(path, "a") as file:
        group = file.require_group("dataset").id
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_chunk((2,))
        space = h5py.h5s.create_simple(values.shape, (h5py.h5s.UNLIMITED,))
        made = h5py.h5d.create(group, f"{table}".encode(), kind, space, dcpl=layout)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=kind)
    return path


def blobs(cells, covariance):
    """Heatmaps (N, 16, 64, 64) of Gaussians at cells (x, y), a little below zero far away."""
    rows, columns = np.mgrid[:64, :64]
    place = np.stack([columns, rows], -1) - cells[:, :, None, None]
    power = np.einsum("njhwk,kl,njhwl->njhw", place, np.linalg.inv(covariance), place)
    return (0.9 * np.exp(-power / 2) - 1e-4).astype(np.float16)


# ------------------------------------------------------------------------ MPI-INF-3DHP

# Their orders, written down: positions of H36M17's joints among the 17 and the 28.
TEST_ORDER = [14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]
TRAIN_ORDER = [4, 23, 24, 25, 18, 19, 20, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16]


def write_test_sequence(folder, name, poses, valid):
    """`annot_data.mat` of one test sequence: MATLAB 7.3, which h5py sees with axes reversed."""
    path = folder / "mpi_inf_3dhp_test_set" / name / "annot_data.mat"
    path.parent.mkdir(parents=True)
    theirs = np.empty_like(poses)
    theirs[:, TEST_ORDER] = poses
    with h5py.File(path, "w") as file:
        file["annot2"] = seen(theirs)[:, None]
        file["annot3"] = 1.13 * theirs[:, None]
        file["univ_annot3"] = theirs[:, None]
        file["valid_frame"] = np.array(valid, dtype=np.float64)[:, None]
        file["bb_crop"] = np.zeros((len(poses), 4))
    return path


def write_train_sequence(folder, subject, sequence, poses, **changes):
    """`annot.mat`: cells of 14 videos, (T, 28 * D) each; the person moves 1 m right per video."""
    path = folder / f"S{subject}" / f"Seq{sequence}" / "annot.mat"
    path.parent.mkdir(parents=True)
    cells = {key: np.empty((14, 1), dtype=object) for key in ("annot2", "annot3", "univ_annot3")}
    for video in range(14):
        theirs = np.full((len(poses), 28, 3), 9e4)
        theirs[:, TRAIN_ORDER] = poses + np.array([1000.0 * video, 0, 0])
        cells["annot2"][video, 0] = seen(theirs).reshape(len(poses), -1)
        cells["annot3"][video, 0] = 1.13 * theirs.reshape(len(poses), -1)
        cells["univ_annot3"][video, 0] = theirs.reshape(len(poses), -1)
    scipy.io.savemat(path, {**cells, "frames": np.arange(len(poses)), **changes})
    return path


def write_lifting_world(root):
    """Whole folders of Human3.6M (fits, 2D poses) and of MPI-INF-3DHP's test set, tiny.

    Of the test images three are ambiguous: all of S11 in "Directions".
    """

    def widen(found):
        found["S11"]["Directions"]["1"]["54138969"]["gaussfit"][:, 7 * 4 + 3] = 5.5

    folder = root / "h36m"
    folder.mkdir(parents=True)
    write_pickle(folder, "train", people(12, seed=1))
    write_pickle(folder, "test", people(8, seed=2), changes=[widen])
    write_recordings(folder, people(2, seed=3))
    for number in range(1, 7):
        poses = people(3, seed=3 + number)
        write_test_sequence(root / "mpi_inf_3dhp", f"TS{number}", poses, [1, 0, 1])


# ------------------------------------------------------------------------ SMPL


def smpl(vertices=30, *, seed=0):
    """Arrays of a small body with the keys of SMPL."""
    rng = np.random.default_rng([seed, 20])
    weights, regressor = rng.random((vertices, 24)), rng.random((24, vertices))
    regressor[regressor < 0.7] = 0
    parents = [2**32 - 1, *BODY22.parents[1:], 20, 21]
    return {
        "v_template": rng.normal(size=(vertices, 3)),
        "f": rng.integers(0, vertices, (50, 3)).astype(np.uint32),
        "shapedirs": rng.normal(size=(vertices, 3, 300)),
        "posedirs": rng.normal(size=(vertices, 3, 207)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([parents, range(24)], dtype=np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "J": rng.normal(size=(24, 3)),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write_smpl_pickle(path, arrays):
    """As SMPL's download has it: Python 2, chumpy objects, a sparse regressor, old NumPy names."""
    flat = arrays["v_template"].ravel()
    with fake_chumpy() as (ch, select):
        whole = ch(x=np.concatenate([[99.0], flat[::-1]]))
        arrays = arrays | {
            "shapedirs": ch(x=arrays["shapedirs"], _dirty_vars={"r"}, _itr=None),
            "v_template": select(
                a=whole, idxs=np.arange(len(flat), 0, -1), preferred_shape=(len(flat) // 3, 3)
            ),
            "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        }
        content = pickle.dumps(arrays, protocol=2)
    for new, old in (
        (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),
        (b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n"),
    ):
        assert new in content
        content = content.replace(new, old)
    path.write_bytes(content)
    return path
