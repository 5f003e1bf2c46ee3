"""A small SMPL-X, three small SMPL bodies, and people; and what the official code makes of them.

The reference is NumPy, one image, hypothesis, vertex and joint after the other. Nothing is
symmetric, and no two joints, rows or genders are alike.
"""

import pickle

import lifting_formats
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from humr.batches import Batch
from humr.geometry import box_info
from humr.licensed.images import box_coordinates
from humr.licensed.people import Annotations
from humr.skeletons import SMPLX55

V, X = 30, 50  # vertices of SMPL and of SMPL-X
FACE = {"nose": 3, "right_eye": 11, "left_eye": 7, "right_ear": 29, "left_ear": 0}
GENDERS = ("neutral", "male", "female")
# The official numbers: COCO-17 among SMPL's 24 joints and 21 vertices of the package smplx, and
# the common joints in the order of J_regressor_h36m.npy.
COCO25 = [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, *range(25, 35)]
COCO17 = [COCO25[i] for i in [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]]
J14 = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]
FACE_ORDER = [FACE[n] for n in ("nose", "right_eye", "left_eye", "right_ear", "left_ear")]


def smpl_arrays(gender):
    """A body of sensible size: half a metre, mild shapes and correctives."""
    arrays = lifting_formats.smpl(V, seed=10 + GENDERS.index(gender))
    mild = {"v_template": 0.5, "shapedirs": 0.05, "posedirs": 0.02}
    return arrays | {key: factor * arrays[key] for key, factor in mild.items()}


def _rows(rng, count, columns, chosen):
    """Rows of `chosen` positive numbers, sums 1."""
    rows = np.zeros((count, columns))
    for row in rows:
        share = rng.random(chosen) + 0.1
        row[rng.choice(columns, chosen, replace=False)] = share / share.sum()
    return rows


def smplx_arrays():
    """Arrays of the SMPL-X file: 55 joints, 400 shape columns, of which 11 count."""
    rng = np.random.default_rng(31)
    return {
        "v_template": 0.5 * rng.normal(size=(X, 3)),
        "f": rng.integers(0, X, (60, 3)).astype(np.uint32),
        "shapedirs": 0.05 * rng.normal(size=(X, 3, 400)),
        "posedirs": 0.02 * rng.normal(size=(X, 3, 486)),
        "J_regressor": _rows(rng, 55, X, 6),
        "kintree_table": np.array([(2**32 - 1, *SMPLX55.parents[1:]), range(55)]),
        "weights": _rows(rng, X, 55, 4),
    }


def matrices():
    """The way from SMPL-X to SMPL, and J_regressor_h36m in the order of its file."""
    rng = np.random.default_rng(32)
    return _rows(rng, V, X, 3), _rows(rng, 17, V, 4)


def write(root):
    """Write everything below a licensed folder."""
    for folder in ("body_models/smpl", "body_models/smplx", "utils"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for gender in GENDERS:
        path = root / f"body_models/smpl/SMPL_{gender.upper()}.pkl"
        path.write_bytes(pickle.dumps(smpl_arrays(gender)))
    np.savez(root / "body_models/smplx/SMPLX_NEUTRAL.npz", **smplx_arrays())
    transfer, h36m = matrices()
    (root / "utils/smplx2smpl.pkl").write_bytes(pickle.dumps({"matrix": transfer}))
    np.save(root / "utils/J_regressor_h36m.npy", h36m)
    return root


def people(name, count=3, *, seed=0, dtype=torch.float32, features=720):
    """A batch and its annotations: boxes of 150 to 300 px in photographs of two sizes."""
    rng = np.random.default_rng([seed, 33])

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=dtype)

    size = tensor([[640, 480], [480, 640], [900, 500]] * count)[:count]
    box = tensor(np.c_[rng.uniform(200, 300, (count, 2)), rng.uniform(150, 300, count)])
    seen = tensor(rng.uniform(0.1, 0.95, (count, 17, 1)))
    points = box[:, None, :2] + tensor(rng.uniform(-90, 90, (count, 17, 2)))
    detected = torch.cat([points + tensor(rng.normal(size=points.shape)), seen], -1)
    annotations = Annotations(
        name=name,
        image=np.array([f"P1/x/images/{i // 2:05d}.jpg" for i in range(count)]),
        gender=np.array((["female", "male", "unknown"] * count)[:count]),
        row=torch.arange(7, 7 + count),
        box=box,
        keypoints=detected,
        true_keypoints=points,
        pose=tensor(0.5 * rng.normal(size=(count, 24, 3))),
        betas=tensor(rng.normal(size=(count, 10))),
        mask_valid=(torch.arange(count) % 3 != 1) & (name == "emdb-p1-occl"),
        joints=None, intrinsics=None, image_size=None,
    )  # fmt: skip
    focal = tensor(rng.uniform(500, 900, count))
    ones = torch.ones(count, dtype=torch.bool)
    batch = Batch(
        features=tensor(rng.normal(size=(count, features))),
        keypoints=torch.cat([box_coordinates(detected[..., :2], box), seen], -1),
        box_info=box_info(box[:, :2], box[:, 2], focal, size),
        window_info=tensor(np.zeros((count, 5))),
        box=box, focal=focal, image_size=size,
        samples=tensor(np.zeros((count, 1, 17, 2))), density=tensor(np.ones((count, 1, 17))),
        mask=torch.zeros(count, 4, 4, dtype=torch.bool),
        rotations=torch.eye(3, dtype=dtype).expand(count, 22, 3, 3).clone(),
        betas=tensor(np.zeros((count, 11))), translation=tensor(np.zeros((count, 3))),
        has_pose=ones, has_points=ones,
    )  # fmt: skip
    return batch, annotations


def mask(count, *, side=256, seed=0):
    """Lopsided masks: a block to the lower right, and many single pixels."""
    rng = np.random.default_rng([seed, 34])
    found = rng.random((count, side, side)) > 0.9
    found[:, side // 2 : side // 2 + 70, side // 3 : side // 3 + 90] = True
    return found


# ------------------------------------------------------------------------ reference


def skinned(arrays, rotations, betas):
    """Vertices and joints of one body, from the keys of its file; joints beyond do not move."""
    joints_count = arrays["J_regressor"].shape[0]
    local = list(rotations) + [np.eye(3)] * (joints_count - len(rotations))
    rest = arrays["v_template"].astype(np.float64).copy()
    for v in range(len(rest)):
        for i, b in enumerate(betas):
            rest[v] += b * arrays["shapedirs"][v, :, i]
    joints = np.array(
        [sum(w * p for w, p in zip(row, rest, strict=True)) for row in arrays["J_regressor"]]
    )
    features = np.concatenate([(r - np.eye(3)).ravel() for r in local[1:]])
    parents = [-1, *arrays["kintree_table"][0, 1:].astype(int)]
    world = []
    for j, parent in enumerate(parents):
        step = joints[j] - (joints[parent] if parent >= 0 else 0)
        turn, place = world[parent] if parent >= 0 else (np.eye(3), np.zeros(3))
        world.append((turn @ local[j], place + turn @ step))
    vertices = np.zeros_like(rest)
    for v in range(len(rest)):
        point = rest[v] + arrays["posedirs"][v] @ features
        for j in np.flatnonzero(arrays["weights"][v]):
            turn, place = world[j]
            vertices[v] += arrays["weights"][v, j] * (turn @ (point - joints[j]) + place)
    return vertices, np.array([place for _, place in world])


def aligned(x, y):
    """Best similarity of x onto y."""
    x0, y0 = x - x.mean(0), y - y.mean(0)
    u, s, vt = np.linalg.svd(x0.T @ y0)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return (s * flip.diagonal()).sum() / (x0**2).sum() * x0 @ u @ flip @ vt + y.mean(0)


def distance(x, y):
    return np.sqrt(((x - y) ** 2).sum(-1))


def reference(source, person, batch, i, hypotheses):
    """Errors (mm), COCO-17 in space and in pixels of 256, of one person's hypotheses.

    `hypotheses`: pairs of rotations (22, 3, 3), betas, and one translation.
    """
    transfer, h36m = matrices()
    neutral = smpl_arrays("neutral")
    gender = person.gender[i] if person.gender[i] != "unknown" else "neutral"
    pose = [Rotation.from_rotvec(r).as_matrix() for r in person.pose[i].double().numpy()]
    label, joints24 = skinned(smpl_arrays(gender), pose, person.betas[i].double().numpy())

    def posed(mesh, joints):
        if source == "3DPW":
            return (h36m @ mesh)[J14], (h36m @ mesh)[0]
        return joints, joints[[1, 2]].mean(0)

    true_joints, true_root = posed(label, joints24)
    width, height = batch.image_size[i].double().numpy()
    x, y, side = batch.box[i].double().numpy()
    target = (2 * (person.true_keypoints[i].double().numpy() - [x, y]) / side + 1) * 128
    found = {"errors": [], "joints": [], "meshes": [], "coco": [], "pixels": [], "target": target}
    for rotations, betas, translation in hypotheses:
        mesh = transfer @ skinned(smplx_arrays(), rotations, betas)[0]
        joints, root = posed(mesh, neutral["J_regressor"] @ mesh)
        a, b = joints - root, true_joints - true_root
        found["errors"].append([
            1e3 * distance(a, b).mean(),
            1e3 * distance(aligned(a, b), b).mean(),
            1e3 * distance(mesh - root, label - true_root).mean(),
        ])  # fmt: skip
        many = np.concatenate([neutral["J_regressor"] @ mesh, mesh[FACE_ORDER], np.zeros((16, 3))])
        coco = many[COCO17] + translation
        full = float(batch.focal[i]) * coco[:, :2] / coco[:, 2:] + [width / 2, height / 2]
        found["joints"].append(a)
        found["meshes"].append(mesh - root)
        found["coco"].append(coco)
        found["pixels"].append((2 * (full - [x, y]) / side + 1) * 128)
    found = {key: np.array(value) for key, value in found.items()}
    return found | {"true_joints": true_joints - true_root, "true_mesh": label - true_root}


def mask_distances(pixels, image):
    """Distances of points (..., 2) to whole numbers (x, y) of mask pixels, below 0.71 zero."""
    rows, columns = np.nonzero(image)
    places = np.stack([columns, rows], -1)
    found = np.array([distance(p, places).min() for p in pixels.reshape(-1, 2)])
    found[found < 0.71] = 0
    return found.reshape(pixels.shape[:-1])
