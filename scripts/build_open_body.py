"""Build data/open_body_full.npz and data/open_body_small.npz from the CC0/Apache-2.0 body `anny`.

A build-time tool: the results are committed and nothing else in this repository needs `anny`.
Run it from the root of the repository, in an environment of its own:

    python3.11 -m venv build/anny && . build/anny/bin/activate
    pip install torch==2.13.0 anny==0.6.2 fast-simplification==0.2.0 scipy
    python -m scripts.build_open_body --out data

The first run takes some minutes and fills anny's cache (800 MB; `ANNY_CACHE_DIR` says where).

Steps: sample adults; bring each into a T-pose with anny's own 163 bones; drop tongue and mouth
cavity; decimate one half and mirror it; principal components as shape directions; merge the bones
to the 55 joints of the SMPL-X tree; fit non-negative joint regressors on rest and posed bodies;
resample everything for the small mesh. Axes: x to the body's left, y up, z to the front; metres.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import fast_simplification
import numpy as np
import torch
from scipy.optimize import nnls
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from humr.skeletons import COCO17, COMMON14, H36M17, SMPLX55

if TYPE_CHECKING:
    from anny import Anny

Array = np.ndarray
Vector = tuple[float, float, float]
log = logging.getLogger("build_open_body")
SEED = 20240
BETAS = 11
PELVIS = np.array(
    [0.0, -0.35, 0.01]
)  # of the mean body: deliberately not the origin, as in SMPL-X
MIRROR = np.array([-1.0, 1.0, 1.0])
FINGERS = {"index": 2, "middle": 3, "pinky": 5, "ring": 4, "thumb": 1}  # anny's finger numbers
LICENCE = (
    "Derived from MakeHuman/MPFB2 assets (CC0-1.0) and from anny 0.6.2, "
    "Copyright (C) 2025 NAVER Corp. (Apache-2.0); see data/README.md"
)
# Slots of named vertices in the SMPL-X mesh that the package `smplx` reads, in its order.
SLOTS = {
    "nose": 9120, "right_eye": 9929, "left_eye": 9448, "right_ear": 616, "left_ear": 6,
    "left_big_toe": 5770, "left_small_toe": 5780, "left_heel": 8846,
    "right_big_toe": 8463, "right_small_toe": 8474, "right_heel": 8635,
    "left_thumb": 5361, "left_index": 4933, "left_middle": 5058, "left_ring": 5169,
    "left_pinky": 5286, "right_thumb": 8079, "right_index": 7669, "right_middle": 7794,
    "right_ring": 7905, "right_pinky": 8022,
}  # fmt: skip


# ---------------------------------------------------------------- 1. sample adults


def sample_adults(model: "Anny", count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (n, V, 3) and bone heads (n, 163, 3) of random adults, anny's rest pose."""
    from anny.shape_distribution import SimpleShapeDistribution

    torch.manual_seed(SEED)
    ages = torch.distributions.Uniform(torch.tensor(18.0).double(), torch.tensor(75.0).double())
    _, kwargs = SimpleShapeDistribution(model, ages).sample(count)
    bell = torch.distributions.Beta(torch.tensor(4.0).double(), torch.tensor(4.0).double())
    kwargs |= {name: bell.sample((count,)) for name in ("cupsize", "firmness")}
    coefficients = model.get_phenotype_blendshape_coefficients(**kwargs)
    heads = model.template_bone_heads + torch.einsum(
        "nk,kbc->nbc", coefficients, model.bone_heads_blendshapes
    )
    return to_y_up(model.get_rest_vertices(coefficients).numpy()), to_y_up(heads.numpy())


def to_y_up(points: np.ndarray) -> np.ndarray:
    """Turn anny's axes (z up, facing -y) into ours (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def dense_weights(model: "Anny") -> np.ndarray:
    """Return anny's skinning weights as a matrix (V, 163) whose rows sum to one."""
    weights = np.zeros((len(model.template_vertices), len(model.bone_labels)))
    rows = np.arange(len(weights))[:, None]
    np.add.at(
        weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy()
    )
    return weights / weights.sum(1, keepdims=True)


# ---------------------------------------------------------------- 2. bones to joints


def joint_of_bones(labels: list[str], parents: list[int]) -> np.ndarray:
    """Return for each anny bone the SMPL-X joint that takes its weights."""
    named = {
        "root": "pelvis", "pelvis.L": "pelvis", "pelvis.R": "pelvis", "spine05": "pelvis",
        "spine04": "spine1", "spine03": "spine1", "spine02": "spine2", "spine01": "spine3",
        "breast.L": "spine3", "breast.R": "spine3", "neck01": "neck", "head": "head",
        "jaw": "jaw",
    }  # fmt: skip
    for letter, side in (("L", "left"), ("R", "right")):
        pairs = {
            "upperleg01": "hip", "lowerleg01": "knee", "foot": "ankle", "clavicle": "collar",
            "upperarm01": "shoulder", "lowerarm01": "elbow", "wrist": "wrist", "eye": "eye",
        } | {f"toe{i}-1": "foot" for i in range(1, 6)}  # fmt: skip
        pairs |= {f"finger{n}-{i}": f"{f}{i}" for f, n in FINGERS.items() for i in (1, 2, 3)}
        named |= {f"{bone}.{letter}": f"{side}_{joint}" for bone, joint in pairs.items()}
    found = np.full(len(labels), -1)
    for bone, label in enumerate(labels):  # parents come before their children
        found[bone] = SMPLX55.index(named[label]) if label in named else found[parents[bone]]
    return found


def joint_positions(heads: np.ndarray, labels: list[str]) -> np.ndarray:
    """Return the 55 joints (n, 55, 3) from the heads of T-posed bones (n, 163, 3)."""

    def at(name: str) -> np.ndarray:
        return heads[:, labels.index(name)]

    pivots = {"spine1": "spine04", "spine2": "spine02", "spine3": "spine01", "neck": "neck01"}
    pivots |= {"head": "head", "jaw": "jaw"}
    for letter, side in (("L", "left"), ("R", "right")):
        pairs = {"hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "eye": "eye"}
        pairs |= {"collar": "clavicle", "shoulder": "upperarm01", "elbow": "lowerarm01"}
        pairs |= {"wrist": "wrist"}
        pairs |= {f"{f}{i}": f"finger{n}-{i}" for f, n in FINGERS.items() for i in (1, 2, 3)}
        pivots |= {f"{side}_{joint}": f"{bone}.{letter}" for joint, bone in pairs.items()}
    joints = np.zeros((len(heads), 55, 3))
    for joint, bone in pivots.items():
        joints[:, SMPLX55.index(joint)] = at(bone)
    for letter, side in (("L", "left"), ("R", "right")):
        toes = [at(f"toe{i}-1.{letter}") for i in range(1, 6)]
        joints[:, SMPLX55.index(f"{side}_foot")] = np.mean(toes, axis=0)
    hips = (at("upperleg01.L") + at("upperleg01.R")) / 2
    joints[:, 0] = (hips + at("spine04")) / 2  # anny's root lies behind the back: not used
    return joints


# ---------------------------------------------------------------- 3. T-pose


def unit(v: np.ndarray) -> np.ndarray:
    """Normalise the last axis."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return rotations (n, 3, 3) with columns: first, the part of second normal to it, cross."""
    x = unit(first)
    y = unit(second - (second * x).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def frame_to_frame(
    first: Array, second: Array, target_first: Vector, target_second: Vector
) -> np.ndarray:
    """Return the rotation that takes one frame of two directions to another."""
    goal = frame(np.asarray(target_first, float)[None], np.asarray(target_second, float)[None])
    return goal @ frame(first, second).swapaxes(-1, -2)


def shortest_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotations (n, 3, 3) about cross(source, target) that take source to target."""
    source, target = unit(source), np.broadcast_to(unit(target), source.shape)
    axis = np.cross(source, target)
    angle = np.arctan2(np.linalg.norm(axis, axis=-1), (source * target).sum(-1))
    return Rotation.from_rotvec(unit(axis) * angle[:, None]).as_matrix()


def t_pose_rotations(heads: np.ndarray, labels: list[str], parents: list[int]) -> np.ndarray:
    """Return world rotations (n, 163, 3, 3) that bring anny's A-pose to a T-pose.

    Arms: (upper arm, elbow axis) to (sideways, cross(sideways, front)), which turns the palms
    down by itself. Legs: the shortest rotation to nearly vertical. Feet, head and fingers
    (relative to the hand) keep their orientation.
    """
    chosen: dict[int, np.ndarray] = {}
    for letter, s in (("L", 1.0), ("R", -1.0)):

        def at(name: str, letter: str = letter) -> np.ndarray:
            return heads[:, labels.index(f"{name}.{letter}")]

        def put(name: str, rotation: np.ndarray, letter: str = letter) -> None:
            chosen[labels.index(f"{name}.{letter}")] = rotation

        upper, lower = at("lowerarm01") - at("upperarm01"), at("wrist") - at("lowerarm01")
        axis, side, flexion = np.cross(upper, lower), (s, 0, 0), (0, -s, 0)
        raised = Rotation.from_euler("z", s * 12, degrees=True).as_matrix()
        put("clavicle", np.broadcast_to(raised, (len(heads), 3, 3)))
        put("upperarm01", frame_to_frame(upper, axis, side, flexion))
        put("lowerarm01", frame_to_frame(lower, axis, side, flexion))
        hand, across = at("finger3-1") - at("wrist"), at("finger2-1") - at("finger5-1")
        put("wrist", frame_to_frame(hand, across, side, (0, 0, 1)))
        thigh, shank = at("lowerleg01") - at("upperleg01"), at("foot") - at("lowerleg01")
        put("upperleg01", shortest_rotation(thigh, np.array([s * 0.05, -1, -0.02])))
        put("lowerleg01", shortest_rotation(shank, np.array([-s * 0.02, -1, -0.07])))
        put("foot", np.broadcast_to(np.eye(3), (len(heads), 3, 3)))
    rotations = np.broadcast_to(np.eye(3), (*heads.shape[:2], 3, 3)).copy()
    for bone, parent in enumerate(parents):
        if bone in chosen:
            rotations[:, bone] = chosen[bone]
        elif parent >= 0:
            rotations[:, bone] = rotations[:, parent]
    return rotations


def skin_t_pose(
    vertices: np.ndarray, heads: np.ndarray, weights: csr_matrix, labels: list, parents: list
) -> tuple[np.ndarray, np.ndarray]:
    """Skin with all bones; return T-posed vertices and bone heads."""
    rotations = t_pose_rotations(heads, labels, parents)
    posed_heads = heads.copy()
    for bone, parent in enumerate(parents):
        if parent >= 0:
            offset = heads[:, bone] - heads[:, parent]
            turned = np.einsum("nij,nj->ni", rotations[:, parent], offset)
            posed_heads[:, bone] = posed_heads[:, parent] + turned
    shifts = posed_heads - np.einsum("nbij,nbj->nbi", rotations, heads)
    posed = np.empty_like(vertices)
    for n in range(len(vertices)):
        blended = weights @ np.concatenate([rotations[n].reshape(-1, 9), shifts[n]], axis=1)
        turned = (blended[:, :9].reshape(-1, 3, 3) @ vertices[n][..., None])[..., 0]
        posed[n] = turned + blended[:, 9:]
    return posed, posed_heads


# ---------------------------------------------------------------- 4./5. mesh


def kept_faces(model: "Anny") -> np.ndarray:
    """Return faces without tongue, mouth cavity and the backs of the eyes."""
    from anny.face_segmentation import get_face_segmentation_mask

    inner = ["tongue", "mouth_cavity", "eye_back.L", "eye_back.R"]
    return model.faces.numpy()[~get_face_segmentation_mask(model, inner).numpy()]


def mirror_map(points: np.ndarray) -> np.ndarray:
    """Return for each vertex the index of its mirror image; must be its own inverse."""
    mirror = cKDTree(points).query(points * MIRROR)[1]
    if not np.array_equal(mirror[mirror], np.arange(len(points))):
        raise ValueError("the mesh is not symmetric: mirroring twice does not return each vertex")
    return mirror


def decimate_half(points: np.ndarray, faces: np.ndarray, target_faces: int) -> tuple:
    """Simplify a half mesh (x >= 0) by quadric edge collapse; return points and faces."""
    used, compact = np.unique(faces, return_inverse=True)
    half = points[used].copy()
    half[np.abs(half[:, 0]) < 2e-4, 0] = 0.0
    new, new_faces = fast_simplification.simplify(
        half, compact.reshape(-1, 3), target_count=target_faces, agg=3.0
    )
    new = np.asarray(new, float)
    new[np.abs(new[:, 0]) < 5e-4, 0] = 0.0
    return new, np.asarray(new_faces)


def weld_mirror(half: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join a half with its mirror image: all faces, source of the mirrored part, mirror map."""
    count, off_centre = len(half), np.flatnonzero(half[:, 0] != 0)
    partner = np.arange(count)
    partner[off_centre] = count + np.arange(len(off_centre))
    mirror = np.concatenate([partner, off_centre])
    return np.concatenate([faces, partner[faces][:, ::-1]]), off_centre, mirror


def components(faces: np.ndarray, count: int) -> np.ndarray:
    """Return a component number for each vertex."""
    a, b = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def closest_on_triangles(p: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return barycentrics (n, 3) of the nearest points of triangles (n, 3, 3) and distances."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    best, distance = np.zeros((len(p), 3)), np.full(len(p), np.inf)

    def consider(bary: np.ndarray) -> None:
        d = np.linalg.norm((bary[:, :, None] * triangles).sum(1) - p, axis=1)
        better = d < distance
        best[better], distance[better] = bary[better], d[better]

    for i, j in ((0, 1), (1, 2), (2, 0)):  # edges, which hold the corners too
        edge = triangles[:, j] - triangles[:, i]
        length = np.maximum((edge**2).sum(1), 1e-18)
        t = np.clip(((p - triangles[:, i]) * edge).sum(1) / length, 0, 1)
        bary = np.zeros((len(p), 3))
        bary[:, i], bary[:, j] = 1 - t, t
        consider(bary)
    normal = np.cross(b - a, c - a)
    area = np.maximum((normal**2).sum(1), 1e-24)
    v = (np.cross(p - a, c - a) * normal).sum(1) / area
    w = (np.cross(b - a, p - a) * normal).sum(1) / area
    inside = np.stack([1 - v - w, v, w], axis=1)
    inside[(inside < 0).any(1)] = np.array([1.0, 0, 0])
    consider(inside)
    return best, distance


def transfer_matrix(
    points: Array, groups: Array, source: Array, faces: Array, face_groups: Array
) -> tuple[csr_matrix, np.ndarray]:
    """Return the sparse matrix that carries per-vertex data of a source mesh to points on it."""
    rows, columns, values, far = [], [], [], np.zeros(len(points))
    for group in np.unique(groups):
        mine, theirs = np.flatnonzero(groups == group), faces[face_groups == group]
        tree = cKDTree(source[theirs].mean(1))
        near = tree.query(points[mine], k=min(40, len(theirs)))[1]
        best, bary, choice = (
            np.full(len(mine), np.inf),
            np.zeros((len(mine), 3)),
            near[:, 0].copy(),
        )
        for candidate in near.T:
            b, d = closest_on_triangles(points[mine], source[theirs[candidate]])
            better = d < best
            best[better], bary[better], choice[better] = d[better], b[better], candidate[better]
        rows.append(np.repeat(mine, 3))
        columns.append(theirs[choice].ravel())
        values.append(bary.ravel())
        far[mine] = best
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return coo_matrix(entries, shape=(len(points), len(source))).tocsr(), far


def simplified(points: Array, faces: Array, mirror: Array, target_faces: int) -> tuple:
    """Decimate symmetrically: faces, transfer matrix from the source, mirror map, distances."""
    half_faces = faces[(points[faces][..., 0] >= -2e-4).all(1)]
    half, new_faces = decimate_half(points, half_faces, target_faces // 2)
    source_group = components(half_faces, len(points))
    group_of = {g: i for i, g in enumerate(np.unique(source_group[half_faces]))}
    face_groups = np.array([group_of[g] for g in source_group[half_faces[:, 0]]])
    own = components(new_faces, len(half))
    trees = [
        cKDTree(points[half_faces[face_groups == g]].reshape(-1, 3)) for g in group_of.values()
    ]
    votes = [
        int(np.argmin([tree.query(half[own == g])[0].mean() for tree in trees]))
        for g in range(own.max() + 1)
    ]
    matrix, far = transfer_matrix(half, np.array(votes)[own], points, half_faces, face_groups)
    all_faces, off_centre, new_mirror = weld_mirror(half, new_faces)
    other = matrix[off_centre][:, mirror]  # column j of the mirrored row is the mirror of j
    both = csr_matrix(np.concatenate([matrix.toarray(), other.toarray()]))
    return all_faces, both, new_mirror, far


# ---------------------------------------------------------------- 6. shape space


def symmetric_field(field: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Average a vector field (V, 3, ...) with its mirror image."""
    shape = (1, 3) + (1,) * (field.ndim - 2)
    return (field + field[mirror] * MIRROR.reshape(shape)) / 2


def shape_space(samples: Array, mirror: Array, faces: Array) -> tuple[Array, Array, Array]:
    """Return mean (V, 3), directions (V, 3, 11) for betas of variance 1, explained variance."""
    mean = symmetric_field(samples.mean(0), mirror)
    flat = (samples - samples.mean(0)).reshape(len(samples), -1)
    gram = flat @ flat.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1][:, :BETAS]
    directions = (flat.T @ vectors) / np.sqrt(len(samples))  # component times its deviation
    directions = symmetric_field(directions.reshape(*mean.shape, BETAS), mirror)
    for k in range(BETAS):  # sign: taller first, then heavier
        d = directions[..., k]
        growth = np.ptp((mean + d)[:, 1]) - np.ptp(mean[:, 1])
        growth = growth if k == 0 else volume(mean + d, faces) - volume(mean, faces)
        directions[..., k] *= 1.0 if growth > 0 else -1.0
    return mean, directions, np.cumsum(values[:BETAS]) / values.sum()


def volume(points: np.ndarray, faces: np.ndarray) -> float:
    """Return the enclosed volume in cubic metres (up to the small open sockets)."""
    a, b, c = points[faces].swapaxes(0, 1)
    return float((np.cross(a, b) * c).sum() / 6)


def scores(samples: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return least-squares betas (n, 11) of sampled bodies."""
    basis = directions.reshape(-1, BETAS)
    flat = (samples - mean).reshape(len(samples), -1)
    return np.linalg.solve(basis.T @ basis, basis.T @ flat.T).T


# ---------------------------------------------------------------- 7. joint regressors


def random_poses(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return rotations (n, 55, 3, 3): wide but human ranges, knees and elbows bent."""
    spread = {"hip": 0.6, "shoulder": 0.8, "neck": 0.2, "head": 0.25, "ankle": 0.3, "wrist": 0.35}
    spread |= {"spine": 0.15, "collar": 0.15, "foot": 0.15, "eye": 0.1, "jaw": 0.05, "pelvis": 1.0}
    vectors = rng.normal(size=(count, 55, 3))
    for j, name in enumerate(SMPLX55.names):
        part = name.removeprefix("left_").removeprefix("right_").rstrip("123")
        vectors[:, j] *= spread.get(part, 0.12)
    for s, side in ((1, "left"), (-1, "right")):
        vectors[:, SMPLX55.index(f"{side}_knee"), 0] += rng.uniform(0, 2.0, count)
        vectors[:, SMPLX55.index(f"{side}_elbow"), 1] -= s * rng.uniform(0, 2.2, count)
        vectors[:, SMPLX55.index(f"{side}_shoulder"), 2] -= s * rng.uniform(0, 1.2, count)
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(count, 55, 3, 3)


def skin(rest: Array, joints: Array, weights: Array, rotations: Array) -> tuple[Array, Array]:
    """Linear blend skinning of bodies (n, V, 3); return vertices and posed joints (n, 55, 3)."""
    world, posed = rotations.copy(), joints.copy()
    for j, p in enumerate(SMPLX55.parents):
        if p >= 0:
            world[:, j] = world[:, p] @ rotations[:, j]
            offset = joints[:, j] - joints[:, p]
            posed[:, j] = posed[:, p] + np.einsum("nab,nb->na", world[:, p], offset)
    shifts = posed - np.einsum("njab,njb->nja", world, joints)
    out = np.empty_like(rest)
    for n in range(len(rest)):
        blended = weights @ np.concatenate([world[n].reshape(-1, 9), shifts[n]], axis=1)
        out[n] = (blended[:, :9].reshape(-1, 3, 3) @ rest[n][..., None])[..., 0] + blended[:, 9:]
    return out, posed


def spread_out(points: np.ndarray, count: int, first: int) -> np.ndarray:
    """Return indices of `count` points chosen by farthest-point sampling."""
    chosen, distance = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def candidates(
    j: int, template: np.ndarray, joints: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return vertices all around joint j that its own bone, its parent or its children move."""
    name, kin = SMPLX55.names[j], {j, SMPLX55.parents[j]} - {-1}
    kin |= {c for c, p in enumerate(SMPLX55.parents) if p == j}
    distance = np.linalg.norm(template - joints[j], axis=1)
    region = weights[:, sorted(kin)].sum(1) > 0.5
    if name in ("pelvis", "spine1", "spine2", "spine3"):  # a slab: near points lie on one side
        torso = SMPLX55.indices(
            [
                "pelvis",
                "left_hip",
                "right_hip",
                "spine1",
                "spine2",
                "spine3",
                "neck",
                "left_collar",
                "right_collar",
            ]
        )
        region = weights[:, torso].sum(1) > 0.5
        region &= np.abs(template[:, 1] - joints[j, 1]) < 0.07
    else:
        region &= distance < 1.8 * distance[region].min() + 0.015
    found = np.flatnonzero(region)
    return found[spread_out(template[found], 150, int(distance[found].argmin()))]


def fit_row(bodies: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Solve min |sum_v r_v (x_v - target)| with r >= 0, sum r = 1; return a row (V,).

    bodies (n, V, 3), targets (n, 3); a heavy row of the least-squares system holds the sum.
    """
    system = (bodies[:, chosen] - targets[:, None]).swapaxes(1, 2).reshape(-1, len(chosen))
    heavy = 100.0
    matrix = np.concatenate([system, np.full((1, len(chosen)), heavy)])
    answer, _ = nnls(matrix, np.append(np.zeros(len(system)), heavy))
    answer[answer < 1e-4 * answer.sum()] = 0.0
    row = np.zeros(bodies.shape[1])
    row[chosen] = answer / answer.sum()
    return row


def fit_joint_regressor(mesh: dict, bodies: Array, targets: Array, joints: Array) -> Array:
    """Fit the 55 rows; the right side is the mirror image of the left, the middle its own."""
    template, weights, mirror = mesh["template"], mesh["weights"], mesh["mirror"]
    regressor = np.zeros((55, len(template)))
    for j, other in enumerate(SMPLX55.mirrored):
        if SMPLX55.names[j].startswith("right_"):
            continue
        row = fit_row(bodies, targets[:, j], candidates(j, template, joints, weights))
        regressor[j] = row if other != j else (row + row[mirror]) / 2
        if other != j:
            regressor[other] = row[mirror]
    return regressor


def training_bodies(
    mesh: dict,
    rest: Array,
    rest_joints: Array,
    joint_model: tuple[Array, Array],
    rng: np.random.Generator,
    count: int = 150,
) -> tuple[Array, Array]:
    """Return bodies and joint targets: the given rest bodies, and posed bodies of the model."""
    b = rng.normal(size=(count, BETAS))
    shaped = mesh["template"] + np.einsum("vck,nk->nvc", mesh["directions"], b)
    joints = joint_model[0] + np.einsum("jck,nk->njc", joint_model[1], b)
    posed, posed_joints = skin(shaped, joints, mesh["weights"], random_poses(count, rng))
    return np.concatenate([rest, posed]), np.concatenate([rest_joints, posed_joints])


# ---------------------------------------------------------------- landmarks


def surface_point(template: np.ndarray, faces: np.ndarray, x: float, y: float) -> tuple:
    """Return (face, barycentrics) of the front-most surface point at (x, y), or the nearest one.

    There may be none exactly there: between the lips the mesh is open.
    """
    a, b, c = (template[faces[:, i]][:, :2] for i in range(3))
    p = np.array([x, y])

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        v, w = cross(p - a, c - a) / area, cross(b - a, p - a) / area
    bary = np.stack([1 - v - w, v, w], axis=1)
    hit = np.flatnonzero((bary >= -1e-9).all(1) & (np.abs(area) > 1e-14))
    if not len(hit):
        flat = template[faces] * np.array([1.0, 1.0, 0.0])
        nearest, distance = closest_on_triangles(np.tile([x, y, 0.0], (len(faces), 1)), flat)
        best = int(distance.argmin())
        return best, nearest[best]
    depth = (bary[hit] * template[faces[hit]][..., 2]).sum(1)
    best = hit[depth.argmax()]
    return int(best), np.clip(bary[best], 0, 1) / np.clip(bary[best], 0, 1).sum()


def face_targets(marks: dict[str, np.ndarray]) -> list[tuple[float, float]]:
    """Return (x, y) of the 51 inner face landmarks in the order of the 68-point scheme.

    Built from rings of the source mesh: lid margins, the line of the mouth, the tip of the nose.
    """

    def along(ring: Array, t: float, side: int) -> np.ndarray:
        x = ring[:, 0].min() + t * np.ptp(ring[:, 0])
        near = ring[np.abs(ring[:, 0] - x) < 0.17 * np.ptp(ring[:, 0])]
        level = side * (side * near[:, 1]).max()  # +1: upper rim, -1: lower rim
        return np.array([x, level])

    lid, mouth, tip, brow = marks["lid"], marks["mouth"], marks["tip"], marks["brow"]
    inner, outer = lid[lid[:, 0].argmin(), :2], lid[lid[:, 0].argmax(), :2]
    arch = [(0.012, -0.010), (0.022, -0.006), (0.032, -0.004), (0.042, -0.005), (0.052, -0.010)]
    left_brow = [np.array([x, brow[1] + dy]) for x, dy in arch]  # from the nose outwards
    left_eye = [inner, along(lid, 1 / 3, 1), along(lid, 2 / 3, 1), outer]
    left_eye += [along(lid, 2 / 3, -1), along(lid, 1 / 3, -1)]
    flip = np.array([-1.0, 1.0])
    points = [p * flip for p in left_brow[::-1]] + left_brow
    top = inner[1] + 0.002
    points += [np.array([0.0, top + (tip[1] - top) * t]) for t in (0, 1 / 3, 2 / 3, 1)]
    base = tip[1] - 0.012
    nose = [(-0.013, 0.004), (-0.006, 0.001), (0.0, 0.0), (0.006, 0.001), (0.013, 0.004)]
    points += [np.array([x, base + dy]) for x, dy in nose]
    order = (3, 2, 1, 0, 5, 4)  # right eye: from its outer corner over the top to the inner
    points += [left_eye[i] * flip for i in order] + left_eye
    width, line = mouth[:, 0].max(), float(np.median(mouth[:, 1]))
    upper = [(-1, 0), (-0.6, 0.006), (-0.22, 0.009), (0, 0.008), (0.22, 0.009), (0.6, 0.006)]
    lower = [(1, 0), (0.6, -0.007), (0.25, -0.010), (0, -0.011), (-0.25, -0.010), (-0.6, -0.007)]
    lips = [(-0.9, 0), (-0.4, 0.001), (0, 0.001), (0.4, 0.001), (0.9, 0)]
    lips += [(0.4, -0.001), (0, -0.001), (-0.4, -0.001)]
    points += [np.array([x * width, line + dy]) for x, dy in upper + lower + lips]
    return [(float(p[0]), float(p[1])) for p in points]


def contour_landmarks(
    template: Array, faces: Array, part: Array, ear_z: float, mouth_y: float
) -> tuple[Array, Array]:
    """Return (79, 17) faces and barycentrics of the jaw outline for head yaws of -39..39 degrees.

    Row i <= 39: head turned by -i degrees about y; row i > 39: by i - 39. In each view, the
    point of the lower face farthest out in each of 17 directions from right ear over chin to left.
    """
    head = [SMPLX55.index("head"), SMPLX55.index("jaw")]
    low, high = mouth_y - 0.065, mouth_y + 0.075
    region = np.isin(part, head) & (template[:, 2] > ear_z) & (template[:, 1] < high)
    region = np.flatnonzero(region & (template[:, 1] > low))
    face_of = np.zeros(len(template), dtype=int)
    for corner in range(3):
        face_of[faces[:, corner]] = np.arange(len(faces))
    angles = np.deg2rad(np.linspace(170, 370, 17))
    indices, bary = np.zeros((79, 17), dtype=np.int64), np.zeros((79, 17, 3))
    for row in range(79):
        yaw = np.deg2rad(-row if row <= 39 else row - 39)
        points = template[region]
        x = np.cos(yaw) * points[:, 0] + np.sin(yaw) * points[:, 2]
        x0 = (x.min() + x.max()) / 2
        offset = np.stack([x - x0, points[:, 1] - (mouth_y + 0.04)], axis=1)
        for k, angle in enumerate(angles):
            along = offset @ np.array([np.cos(angle), np.sin(angle)])
            across = np.abs(offset @ np.array([-np.sin(angle), np.cos(angle)]))
            best = region[(along - 3 * across).argmax()]
            indices[row, k] = face_of[best]
            bary[row, k] = faces[face_of[best]] == best
    return indices, bary


def face_marks(model: "Anny", template: np.ndarray) -> dict[str, np.ndarray]:
    """Return rings and points of the face on the source mesh (T-posed mean)."""
    from anny.face_segmentation import get_face_segmentation_mask

    faces = model.faces.numpy()

    def ring(label: str) -> np.ndarray:
        inside = get_face_segmentation_mask(model, [label]).numpy()
        rest = (
            ~inside
            & ~get_face_segmentation_mask(
                model, ["tongue", "eye_front.L", "eye_back.L", "mouth_cavity", "eye_cavity.L"]
            ).numpy()
        )
        return template[np.intersect1d(faces[inside], faces[rest])]

    head = template[np.abs(template[:, 0]) < 1e-3]
    tip = head[head[:, 2].argmax()]
    return {"lid": ring("eye_cavity.L"), "mouth": ring("mouth_cavity"), "tip": tip}


# ---------------------------------------------------------------- keypoints


def named_vertices(mesh: dict, joints: Array, labels: list[str], ear: Array) -> dict[str, int]:
    """Return vertices of nose, eyes, ears, finger tips, toes and heels (left and middle)."""
    template, part = mesh["template"], mesh["weights"].argmax(1)

    def best(mask: np.ndarray, value: np.ndarray) -> int:
        return int(np.flatnonzero(mask)[value[mask].argmax()])

    head = part == SMPLX55.index("head")
    x, y, z = template.T
    found = {
        "nose": best(head & (np.abs(x) < 1e-6), z),
        "left_eye": best(part == SMPLX55.index("left_eye"), z),
        "left_ear": best(head & (np.linalg.norm(template - ear, axis=1) < 0.03), x),
    }
    strongest = mesh["bone_weights"].argmax(1)
    for finger in FINGERS:
        i, j = (SMPLX55.index(f"left_{finger}{k}") for k in (2, 3))
        found[f"left_{finger}"] = best(part == j, (template - joints[j]) @ (joints[j] - joints[i]))
    for toe, bone in (("big", "toe1-2.L"), ("small", "toe5-3.L")):
        found[f"left_{toe}_toe"] = best(strongest == labels.index(bone), z)
    sole = (part == SMPLX55.index("left_ankle")) & (y < y.min() + 0.03)
    found["left_heel"] = best(sole, -z)
    return found


def keypoint_regressors(regressor: np.ndarray, points: dict[str, np.ndarray]) -> dict:
    """Return rows of each key-point set: limbs are the joints, the face lies on the skin."""

    def row(name: str) -> np.ndarray:
        return points[name] if name in points else regressor[SMPLX55.index(name)]

    def middle(a: str, b: str) -> np.ndarray:
        return (row(a) + row(b)) / 2

    face = {n: points[n] for n in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")}
    special = {
        "pelvis": middle("left_hip", "right_hip"),
        "spine": middle("spine2", "spine3"),
        "thorax": middle("left_shoulder", "right_shoulder"),
        "head_top": points["head_top"],
    } | face
    sets = {}
    for skeleton in (COCO17, H36M17, COMMON14):
        rows = [special[n] if n in special else row(n) for n in skeleton.names]
        sets[skeleton.name] = (np.stack(rows), skeleton.names)
    smpl_hands = [row(f"{side}_middle1") for side in ("left", "right")]
    names = (*SMPLX55.names[:22], "left_hand", "right_hand")
    sets["smpl24"] = (np.concatenate([regressor[:22], np.stack(smpl_hands)]), names)
    return sets


# ---------------------------------------------------------------- put together


def permuted(mesh: dict, named: dict[str, int]) -> dict:
    """Reorder vertices so that the named ones sit in the slots that the format fixes."""
    count = len(mesh["template"])
    order = np.full(count, -1)
    for name, slot in SLOTS.items():
        order[slot] = named[name]
    taken = {named[n] for n in SLOTS}
    order[order < 0] = [v for v in range(count) if v not in taken]
    new = np.empty(count, dtype=int)
    new[order] = np.arange(count)
    moved = {k: mesh[k][order] for k in ("template", "directions", "weights", "bone_weights")}
    moved |= {"faces": new[mesh["faces"]], "mirror": new[mesh["mirror"]][order]}
    return mesh | moved | {"samples": mesh["samples"][:, order]}


def write(path: Path, mesh: dict, regressor: np.ndarray, sets: dict, landmarks: dict) -> None:
    """Write one body in the layout of SMPL-X files, plus key-point regressors and part labels."""
    count = len(mesh["template"])
    shapedirs = np.zeros((count, 3, 400), np.float32)
    shapedirs[..., :BETAS] = np.round(mesh["directions"], 7)
    parents = np.array(SMPLX55.parents, dtype=np.int64)
    weights = mesh["weights"].astype(np.float32)
    data = {
        "v_template": mesh["template"].astype(np.float32),
        "f": mesh["faces"].astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": np.zeros((count, 3, 486), np.float32),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(55)]),
        "weights": weights,
        "part": weights.argmax(1).astype(np.uint8),
        "joint_names": np.array(SMPLX55.names),
        "named_vertices": np.asarray(mesh["named"], np.int64),
        "named_vertices_names": np.array(list(SLOTS)),
        "num_betas": np.array(BETAS),
        "format": np.array("humr open body"),
        "version": np.array(1),
        "licence": np.array(LICENCE),
    }
    for side in "lr":
        data[f"hands_components{side}"] = np.eye(45, dtype=np.float32)
        data[f"hands_mean{side}"] = np.zeros(45, np.float32)
    for name, (rows, names) in sets.items():
        data[f"regressor_{name}"] = rows.astype(np.float32)
        data[f"names_{name}"] = np.array(names)
    np.savez_compressed(path, **data, **landmarks)
    log.info("%s: %d vertices, %d faces, %d bytes", path.name, count, len(mesh["faces"]),
             path.stat().st_size)  # fmt: skip


def landmarks_of(mesh: dict, marks: dict, ear_z: float) -> dict:
    """Return the face landmarks of one mesh as arrays of the SMPL-X layout."""
    skin_part = mesh["weights"].argmax(1)
    eyes = np.isin(skin_part, SMPLX55.indices(["left_eye", "right_eye"]))
    in_front = (mesh["template"][:, 2] > marks["tip"][2] - 0.09) & ~eyes  # 9 cm: up to the ears
    in_front &= mesh["template"][:, 1] > marks["tip"][1] - 0.1
    skin_faces = np.flatnonzero(in_front[mesh["faces"]].all(1))
    hits = [
        surface_point(mesh["template"], mesh["faces"][skin_faces], *p) for p in face_targets(marks)
    ]
    dynamic, bary = contour_landmarks(
        mesh["template"], mesh["faces"], skin_part, ear_z, float(np.median(marks["mouth"][:, 1]))
    )
    return {
        "lmk_faces_idx": skin_faces[[f for f, _ in hits]].astype(np.int64),
        "lmk_bary_coords": np.stack([b for _, b in hits]),
        "dynamic_lmk_faces_idx": dynamic,
        "dynamic_lmk_bary_coords": bary,
    }


def moved_landmarks(landmarks: dict, source: dict, mesh: dict) -> dict:
    """Carry landmarks over to the nearest points of another mesh of the same body."""
    template, faces, moved = mesh["template"], mesh["faces"], {}
    for kind in ("lmk", "dynamic_lmk"):
        indices, bary = landmarks[f"{kind}_faces_idx"], landmarks[f"{kind}_bary_coords"]
        points = np.einsum("...kc,...k->...c", source["template"][source["faces"][indices]], bary)
        unique, inverse = np.unique(points.reshape(-1, 3), axis=0, return_inverse=True)
        near, coordinates = np.zeros(len(unique), np.int64), np.zeros((len(unique), 3))
        for n, point in enumerate(unique):
            found, distance = closest_on_triangles(
                np.broadcast_to(point, (len(faces), 3)), template[faces]
            )
            near[n], coordinates[n] = distance.argmin(), found[distance.argmin()]
        moved[f"{kind}_faces_idx"] = near[inverse].reshape(indices.shape)
        moved[f"{kind}_bary_coords"] = coordinates[inverse].reshape(bary.shape)
    return moved


def source_data(count: int) -> dict:
    """Run the steps that need anny; return T-posed samples and everything known per vertex."""
    import anny

    model = anny.Anny(rig="makehuman", topology="anny", phenotypes="all")
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    vertices, heads = sample_adults(model, count)
    bone_weights = dense_weights(model)
    vertices, heads = skin_t_pose(vertices, heads, csr_matrix(bone_weights), labels, parents)
    joints = joint_positions(heads, labels)
    vertices += PELVIS - joints[:, :1]  # pelvis-aligned; in place: it is a large array
    joints += PELVIS - joints[:, :1]
    merged = np.zeros((len(bone_weights), 55))
    np.add.at(merged.T, joint_of_bones(labels, parents), bone_weights.T)
    mean = vertices.mean(0)
    mirror = mirror_map(mean)
    mean = symmetric_field(mean, mirror)
    ear = torch.load(Path(anny.__file__).parent / "data/keypoints/coco.pth", weights_only=True)
    ear = ear["left_ear"][model.base_mesh_vertex_indices].numpy() @ mean
    marks = face_marks(model, mean)
    brow = heads[:, labels.index("oculi01.L")] - heads[:, labels.index("upperleg01.L")]
    hip = joints[:, SMPLX55.index("left_hip")]
    return {
        "samples": vertices, "joints": joints, "mean": mean, "mirror": mirror, "ear": ear,
        "faces": kept_faces(model), "bone_weights": bone_weights, "weights": merged,
        "marks": marks | {"brow": (brow + hip).mean(0)}, "labels": labels,
    }  # fmt: skip


def resampled(source: dict, target_faces: int, keys: tuple[str, ...]) -> dict:
    """Return a decimated mesh with the named per-vertex arrays of its source."""
    faces, matrix, mirror, far = simplified(
        source["template"], source["faces"], source["mirror"], target_faces
    )
    log.info("decimated to %d vertices; carried over from at most %.2f mm away",
             len(mirror), 1000 * far.max())  # fmt: skip
    mesh = {"faces": faces, "mirror": mirror}
    for key in keys:
        mesh[key] = (matrix @ source[key].reshape(matrix.shape[1], -1)).reshape(
            len(mirror), *source[key].shape[1:]
        )
    if "samples" in source:
        mesh["samples"] = np.stack([matrix @ body for body in source["samples"]])
    return mesh


def symmetric_weights(weights: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Average skinning weights (V, 55) with their mirror image; rows sum to one."""
    weights = (weights + weights[mirror][:, list(SMPLX55.mirrored)]) / 2
    weights[weights < 1e-4] = 0.0
    return weights / weights.sum(1, keepdims=True)


def point_rows(named: dict[str, int], mesh: dict) -> dict[str, np.ndarray]:
    """Return one-hot rows for named vertices and the mean of the highest vertices of the head."""
    rows = {name: np.eye(1, len(mesh["template"]), v)[0] for name, v in named.items()}
    height = mesh["template"][:, 1]
    crown = height > height.max() - 0.003
    rows["head_top"] = crown / crown.sum()
    return rows


def build_full(source: dict, faces: int, rng: np.random.Generator) -> tuple[dict, np.ndarray]:
    """Return the full mesh with named points, and its joint regressor."""
    mesh = resampled(source | {"template": source["mean"]}, faces, ("weights", "bone_weights"))
    mesh["template"], mesh["directions"], explained = shape_space(
        mesh["samples"], mesh["mirror"], mesh["faces"]
    )
    log.info("explained variance %s", np.round(100 * explained, 2))
    mesh["weights"] = symmetric_weights(mesh["weights"], mesh["mirror"])
    mean_joints = source["joints"].mean(0)
    named = named_vertices(mesh, mean_joints, source["labels"], source["ear"])
    named |= {
        n.replace("left_", "right_"): int(mesh["mirror"][v])
        for n, v in named.items()
        if n.startswith("left_")
    }
    mesh = permuted(mesh, named)
    mesh["points"] = point_rows(SLOTS, mesh)
    mesh["named"] = np.array(list(SLOTS.values()))
    betas = scores(mesh["samples"], mesh["template"], mesh["directions"])
    rest = mesh["template"] + np.einsum("vck,nk->nvc", mesh["directions"], betas[:200])
    error = 1000 * np.linalg.norm(rest - mesh["samples"][:200], axis=-1)
    log.info("residual of %d betas: mean %.2f, p99 %.2f, max %.1f mm", BETAS, error.mean(),
             np.percentile(error, 99), error.max())  # fmt: skip
    design = np.concatenate([np.ones((len(betas), 1)), betas], axis=1)
    solved = np.linalg.lstsq(design, source["joints"].reshape(len(betas), -1), rcond=None)[0]
    solved = solved.reshape(-1, 55, 3)
    joint_model = (solved[0], solved[1:].transpose(1, 2, 0))
    bodies, targets = training_bodies(
        mesh, mesh["samples"][:120], source["joints"][:120], joint_model, rng
    )
    regressor = fit_joint_regressor(mesh, bodies, targets, solved[0])
    return mesh, regressor


def build_small(
    full: dict, full_regressor: Array, faces: int, rng: np.random.Generator
) -> tuple[dict, np.ndarray]:
    """Return the small mesh, resampled from the full one, and a regressor of the same joints."""
    mesh = resampled(
        {k: full[k] for k in ("template", "faces", "mirror", "directions", "weights")},
        faces, ("template", "directions", "weights"),
    )  # fmt: skip
    for key in ("template", "directions"):
        mesh[key] = symmetric_field(mesh[key], mesh["mirror"])
    mesh["weights"] = symmetric_weights(mesh["weights"], mesh["mirror"])
    joint_model = (
        full_regressor @ full["template"],
        np.einsum("jv,vck->jck", full_regressor, full["directions"]),
    )
    betas = rng.normal(size=(150, BETAS))
    rest = mesh["template"] + np.einsum("vck,nk->nvc", mesh["directions"], betas)
    rest_joints = joint_model[0] + np.einsum("jck,nk->njc", joint_model[1], betas)
    bodies, targets = training_bodies(mesh, rest, rest_joints, joint_model, rng)
    regressor = fit_joint_regressor(mesh, bodies, targets, joint_model[0])
    full_rest = full["template"] + np.einsum("vck,nk->nvc", full["directions"], betas)
    mesh["named"] = cKDTree(mesh["template"]).query(full["template"][full["named"]])[1]
    mesh["points"] = {}
    for name in ("nose", "left_eye", "left_ear", "head_top"):
        target = np.einsum("v,nvc->nc", full["points"][name], full_rest)
        near = cKDTree(mesh["template"]).query(full["points"][name] @ full["template"], k=25)[1]
        row = fit_row(rest, target, near)
        middle = not name.startswith("left_")
        mesh["points"][name] = (row + row[mesh["mirror"]]) / 2 if middle else row
        if not middle:
            mesh["points"][name.replace("left_", "right_")] = row[mesh["mirror"]]
    return mesh, regressor


def check(name: str, mesh: dict, regressor: np.ndarray, reference: tuple) -> None:
    """Log the quality of a finished body on held-out shapes and poses."""
    rng = np.random.default_rng(SEED + 99)
    betas = rng.normal(size=(60, BETAS))
    shaped = mesh["template"] + np.einsum("vck,nk->nvc", mesh["directions"], betas)
    joints = regressor @ shaped
    posed, posed_joints = skin(shaped, joints, mesh["weights"], random_poses(60, rng))
    wanted = reference[0] + np.einsum("jck,nk->njc", reference[1], betas)
    rest_error = 1000 * np.linalg.norm(joints - wanted, axis=-1)[:, :22]
    error = 1000 * np.linalg.norm(regressor @ posed - posed_joints, axis=-1)[:, :22]
    log.info("%s: joints against their targets: rest mean %.2f, max %.1f mm", name,
             rest_error.mean(), rest_error.max())  # fmt: skip
    log.info("%s: regressor on posed vertices against FK: mean %.2f, p99 %.2f, max %.1f mm", name,
             error.mean(), np.percentile(error, 99), error.max())  # fmt: skip
    for label, e in (("rest", rest_error), ("posed", error)):
        worst = np.argsort(-e.mean(0))[:6]
        log.info("   %s, worst: %s", label,
                 ", ".join(f"{SMPLX55.names[j]} {e[:, j].mean():.1f}" for j in worst))  # fmt: skip
    log.info("   non-zeros per row: %s", (regressor > 0).sum(1)[:22])
    edges = mesh["faces"][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    length = np.linalg.norm(posed[:, edges[:, 0]] - posed[:, edges[:, 1]], axis=-1)
    rest_length = np.linalg.norm(shaped[:, edges[:, 0]] - shaped[:, edges[:, 1]], axis=-1)
    stretch = length / np.maximum(rest_length, 1e-9)
    log.info("   edge stretch: median %.2f, p99 %.2f, p99.9 %.2f, max %.1f",
             np.median(stretch), *np.percentile(stretch, [99, 99.9]), stretch.max())  # fmt: skip
    heights = np.ptp(shaped[..., 1], axis=1)
    log.info("   height of the mean body %.3f m (betas ~ N(0,1): %.2f +- %.2f), %.1f litres",
             np.ptp(mesh["template"][:, 1]), heights.mean(), heights.std(),
             1000 * volume(mesh["template"], mesh["faces"]))  # fmt: skip


def main() -> None:
    """Build both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--full-faces", type=int, default=20200)
    parser.add_argument("--small-faces", type=int, default=4000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rng = np.random.default_rng(SEED)
    source = source_data(args.samples)
    log.info("%d bodies in T-pose", len(source["samples"]))
    full, regressor = build_full(source, args.full_faces, rng)
    if not 9930 <= len(full["template"]) != 10475:
        raise ValueError(
            f"full mesh has {len(full['template'])} vertices; want >= 9930, not 10475"
        )
    wanted = (
        regressor @ full["template"],
        np.einsum("jv,vck->jck", regressor, full["directions"]),
    )
    small, small_regressor = build_small(full, regressor, args.small_faces, rng)
    anny_joints = 1000 * np.linalg.norm(wanted[0] - source["joints"].mean(0), axis=-1)
    log.info("mean body, joints against anny's bones: mean %.2f, max %.1f mm (%s)",
             anny_joints[:22].mean(), anny_joints[:22].max(),
             SMPLX55.names[int(anny_joints[:22].argmax())])  # fmt: skip
    args.out.mkdir(exist_ok=True)
    landmarks = landmarks_of(full, source["marks"], float(source["ear"][2]) + 0.01)
    small_landmarks = moved_landmarks(landmarks, full, small)
    bodies = ((full, regressor, landmarks), (small, small_regressor, small_landmarks))
    for name, (mesh, rows, marks) in zip(("full", "small"), bodies, strict=True):
        check(name, mesh, rows, wanted)
        sets = keypoint_regressors(rows, mesh["points"])
        write(args.out / f"open_body_{name}.npz", mesh, rows, sets, marks)


if __name__ == "__main__":
    main()
