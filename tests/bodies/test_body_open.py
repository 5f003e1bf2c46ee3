"""The committed body files: sizes, symmetry, joints, regressors, and full against small."""

import numpy as np
import pytest
import torch

from humr.bodies.body import load_body
from humr.files import DATA
from humr.geometry import rotvec_to_matrix
from humr.skeletons import BODY22, COCO17, COMMON14, H36M17, SMPLX55

DOUBLE = torch.float64
NAMES = ("small", "full")
MIRROR = torch.tensor([-1.0, 1, 1], dtype=DOUBLE)


@pytest.fixture(scope="module")
def bodies():
    return {name: load_body(name, dtype=DOUBLE) for name in NAMES}


@pytest.fixture(scope="module")
def files():
    return {name: np.load(DATA / f"open_body_{name}.npz") for name in NAMES}


def human_rotations(count, generator):
    """Random poses with bent knees and elbows and lowered arms, as people have them."""
    vectors = 0.25 * torch.randn(count, 22, 3, generator=generator, dtype=DOUBLE)
    for side, sign in (("left", 1), ("right", -1)):
        bends = torch.rand(3, count, generator=generator, dtype=DOUBLE)
        vectors[:, BODY22.index(f"{side}_knee"), 0] += 1.5 * bends[0]
        vectors[:, BODY22.index(f"{side}_elbow"), 1] -= sign * 1.8 * bends[1]
        vectors[:, BODY22.index(f"{side}_shoulder"), 2] -= sign * 1.2 * bends[2]
    return rotvec_to_matrix(vectors)


def sample(count, generator):
    betas = torch.randn(count, 11, generator=generator, dtype=DOUBLE)
    return human_rotations(count, generator), betas


def edges_of(faces):
    return torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def volume(vertices, faces):
    a, b, c = vertices[..., faces, :].unbind(-2)
    return (torch.linalg.cross(a, b) * c).sum((-1, -2)) / 6


def mirror_of(points):
    """Index of each vertex's mirror image, and how far away the nearest vertex is."""
    distance, index = torch.cdist(points * MIRROR, points).min(dim=1)
    return index, distance.max().item()


def test_sizes(bodies):
    assert (DATA / "open_body_full.npz").stat().st_size < 2_000_000
    assert (DATA / "open_body_small.npz").stat().st_size < 500_000
    assert 9930 <= len(bodies["full"].template) < 11_000
    assert len(bodies["full"].template) != 10475  # the count of the licensed mesh
    assert 1800 <= len(bodies["small"].template) <= 2200


@pytest.mark.parametrize("name", NAMES)
def test_is_an_upright_adult_in_a_t_pose(bodies, name):
    body = bodies[name]
    low, high = body.template.amin(0), body.template.amax(0)
    assert 1.6 < high[1] - low[1] < 1.8
    assert 1.5 < high[0] - low[0] < 1.9
    assert 0.060 < volume(body.template, body.faces) < 0.075  # cubic metres; outward faces
    at = dict(zip(SMPLX55.names, body.joint_template, strict=True))
    assert at["left_wrist"][0] > 0.5
    assert at["head"][1] > at["neck"][1] > at["pelvis"][1] > at["left_knee"][1]
    assert at["left_foot"][2] > at["left_ankle"][2] + 0.05  # toes to the front
    assert (at["left_wrist"] - at["left_shoulder"])[1].abs() < 0.03
    nose = body.regressor("coco17")[COCO17.index("nose")] @ body.template
    assert nose[2] > at["head"][2] + 0.08


@pytest.mark.parametrize("name", NAMES)
def test_is_symmetric_in_every_field(bodies, name):
    body = bodies[name]
    mirror, distance = mirror_of(body.template)
    assert distance < 1e-6
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    directions = body.shape_directions[mirror] * MIRROR[:, None]
    torch.testing.assert_close(directions, body.shape_directions, atol=1e-6, rtol=0)
    weights = body.weights[mirror][:, list(BODY22.mirrored)]
    torch.testing.assert_close(weights, body.weights, atol=1e-5, rtol=0)
    joints = body.joint_template[list(SMPLX55.mirrored)] * MIRROR
    torch.testing.assert_close(joints, body.joint_template, atol=1e-5, rtol=0)
    for skeleton in (COCO17, H36M17, COMMON14):
        regressor = body.regressor(skeleton.name)
        other = regressor[list(skeleton.mirrored)][:, mirror]
        torch.testing.assert_close(other, regressor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_regressors_and_weights_are_convex(bodies, files, name):
    body, data = bodies[name], files[name]
    for key in ("J_regressor", "weights", "regressor_coco17", "regressor_h36m17",
                "regressor_common14", "regressor_smpl24"):  # fmt: skip
        values = data[key]
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
    for skeleton in (COCO17, H36M17, COMMON14):
        assert tuple(data[f"names_{skeleton.name}"]) == skeleton.names
        assert body.regressor(skeleton.name).shape == (len(skeleton), len(body.template))
    assert tuple(data["joint_names"]) == SMPLX55.names
    np.testing.assert_array_equal(data["part"], body.part)
    assert not data["posedirs"].any()  # what the loader takes for granted
    assert not data["shapedirs"][..., 11:].any()
    assert not data["hands_meanl"].any()
    assert "Apache-2.0" in str(data["licence"])
    assert "CC0" in str(data["licence"])


def test_joints_lie_inside_the_body(bodies, generator):
    """Winding number: the solid angles of all faces seen from a point inside sum to 4 pi."""
    body = bodies["small"]
    betas = torch.randn(5, 11, generator=generator, dtype=DOUBLE)
    for vertices, joints in zip(body.rest_vertices(betas), body.rest_joints(betas), strict=True):
        a, b, c = (vertices[body.faces][None] - joints[:, None, None]).unbind(-2)
        la, lb, lc = (x.norm(dim=-1) for x in (a, b, c))
        triple = (a * torch.linalg.cross(b, c)).sum(-1)
        below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        winding = 2 * torch.atan2(triple, below).sum(-1) / (4 * torch.pi)
        eyes = SMPLX55.indices(["left_eye", "right_eye"])  # in open sockets
        solid = [j for j in range(55) if j not in eyes]
        assert winding[solid].min() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_limb_keypoints_stay_near_the_joints_when_posed(bodies, name, generator):
    body = bodies[name]
    rotations, betas = sample(30, generator)
    joints = body.joints(rotations, betas)[:, list(SMPLX55.indices(COCO17.names[5:]))]
    error = (body.keypoints(rotations, betas, "coco17")[:, 5:] - joints).norm(dim=-1)
    hips = [name.endswith("hip") for name in COCO17.names[5:]]  # skin around them bends the most
    others = [not hip for hip in hips]
    assert error[:, others].mean() < 0.003
    assert error[:, others].max() < 0.018
    assert error[:, hips].mean() < 0.009
    assert error[:, hips].max() < 0.025


def test_small_and_full_are_the_same_person(bodies, generator):
    small, full = bodies["small"], bodies["full"]
    rotations, betas = sample(30, generator)
    joints = (small.joints(rotations, betas) - full.joints(rotations, betas))[:, :22].norm(dim=-1)
    assert joints.mean() < 0.002
    assert joints.max() < 0.010
    for skeleton in (COCO17, H36M17, COMMON14):
        sets = (b.keypoints(rotations, betas, skeleton.name) for b in (small, full))
        difference = torch.sub(*sets).norm(dim=-1)
        assert difference.mean() < 0.003
        assert difference.max() < 0.015
    rest = [body.rest_vertices(betas) for body in (small, full)]
    heights = [r[..., 1].amax(-1) - r[..., 1].amin(-1) for r in rest]
    torch.testing.assert_close(*heights, atol=0.005, rtol=0)
    nearest = torch.cdist(rest[0][0], rest[1][0]).min(dim=1).values
    assert nearest.median() < 0.006  # full edges are about a centimetre


@pytest.mark.parametrize("name", NAMES)
def test_shapes_stay_human(bodies, name):
    body = bodies[name]
    eye = torch.eye(11, dtype=DOUBLE)
    for betas in (3 * eye, -3 * eye):
        rest = body.rest_vertices(betas)
        height = rest[..., 1].amax(-1) - rest[..., 1].amin(-1)
        assert (height > 1.2).all()
        assert (height < 2.2).all()
        litres = 1000 * volume(rest, body.faces)
        assert (litres > 25).all()
        assert (litres < 160).all()
    tall, short = body.rest_vertices(torch.stack([eye[0], -eye[0]]))
    assert tall[:, 1].max() - tall[:, 1].min() > short[:, 1].max() - short[:, 1].min() + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_skinning_does_not_tear(bodies, name, generator):
    body = bodies[name]
    rotations, betas = sample(10, generator)
    edges = edges_of(body.faces)

    def lengths(vertices):
        return (vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]]).norm(dim=-1)

    posed, rest = lengths(body.vertices(rotations, betas)), lengths(body.rest_vertices(betas))
    stretch = (posed / rest.clamp_min(1e-4)).flatten()
    assert 0.95 < stretch.median() < 1.05
    assert stretch.kthvalue(int(0.99 * len(stretch))).values < 1.7
    assert posed.max() < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_mesh_is_clean(bodies, name):
    faces, count = bodies[name].faces, len(bodies[name].template)
    assert torch.equal(faces.unique(), torch.arange(count))  # no unused vertex
    corners = faces.sort(dim=1).values
    assert (corners[:, 1:] != corners[:, :-1]).all()
    directed = edges_of(faces)
    codes = directed[:, 0] * count + directed[:, 1]
    assert (codes.unique(return_counts=True)[1] == 1).float().mean() > 0.999  # one orientation
    open_edges = ~torch.isin(directed[:, 1] * count + directed[:, 0], codes)
    assert open_edges.float().mean() < 0.02  # mouth and eyes only


@pytest.mark.parametrize("name", NAMES)
def test_face_landmarks_lie_on_the_face(bodies, files, name):
    body, data = bodies[name], files[name]
    triangles = body.template[body.faces[torch.from_numpy(data["lmk_faces_idx"])]]
    bary = torch.from_numpy(data["lmk_bary_coords"])
    points = (triangles * bary[..., None]).sum(1)
    assert points.shape == (51, 3)
    assert (bary >= 0).all()
    torch.testing.assert_close(bary.sum(1), torch.ones(51, dtype=DOUBLE))
    # symmetric order of the 68-point scheme, first ten: right brow, left brow
    brow = points[:10]
    torch.testing.assert_close(brow.flip(0) * MIRROR, brow, atol=0.006, rtol=0)
    assert (brow[:5, 0] < 0).all()
    eyes = [points[19:25].mean(0), points[25:31].mean(0)]
    for eye, joint in zip(eyes, ("right_eye", "left_eye"), strict=True):
        assert (eye - body.joint_template[SMPLX55.index(joint)]).norm() < 0.025
    mouth, nose = points[31:51].mean(0), points[13]
    assert brow[:, 1].mean() > eyes[0][1] > nose[1] > mouth[1]
    assert (torch.cdist(points, points) > 0.001).float().mean() > 0.95  # spread, not one place
    indices = torch.from_numpy(data["dynamic_lmk_faces_idx"])
    outline = body.template[body.faces[indices]]
    outline = (outline * torch.from_numpy(data["dynamic_lmk_bary_coords"])[..., None]).sum(2)
    assert outline.shape == (79, 17, 3)
    assert outline[0, 0, 0] < -0.05 < 0.05 < outline[0, 16, 0]  # from the right ear to the left
    assert outline[0, 8, 1] < mouth[1]  # over the chin
    # rows 39 and 78 are opposite turns, hence mirror images of each other
    torch.testing.assert_close(outline[78].flip(0) * MIRROR, outline[39], atol=0.012, rtol=0)
    # turned to its left (row 78): the outline runs far back on the right, near the nose left
    assert outline[78, 2:6, 2].mean() < outline[78, 11:15, 2].mean() - 0.02
