"""Tests of licensed.smpl: the equations vertex by vertex, the package smplx, mixed genders."""

import types
from copy import deepcopy

import lifting_formats as formats
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from smpl_world import skinned

from humr.geometry import rotvec_to_matrix
from humr.licensed.smpl import SMPL24, SmplBodies, load_bodies, read_smpl
from humr.skeletons import BODY22

DOUBLE = torch.float64
V = 30


def smpl_of(folder, seed):
    path = folder / f"SMPL_{seed}.npz"
    np.savez(path, **formats.smpl(V, seed=seed))
    return read_smpl(path, vertices=V)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three bodies that share nothing."""
    return [smpl_of(tmp_path_factory.mktemp("smpl"), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def body(models):
    return models[0]


def people(count, generator):
    rotvec = 0.7 * torch.randn(count, 24, 3, generator=generator, dtype=DOUBLE)
    return rotvec, torch.randn(count, 10, generator=generator, dtype=DOUBLE)


def by_loops(seed, rotvec, betas):
    """Vertices and joints of one person by NumPy, one vertex and one joint after the other."""
    matrices = [Rotation.from_rotvec(r).as_matrix() for r in rotvec.numpy()]
    return skinned(formats.smpl(V, seed=seed), matrices, betas.numpy())


def test_equals_the_equations_vertex_by_vertex(body, generator):
    rotvec, betas = people(3, generator)
    vertices = body.vertices(rotvec_to_matrix(rotvec), betas)
    joints = body.joints(rotvec_to_matrix(rotvec), betas)
    for i in range(3):
        expected = by_loops(0, rotvec[i], betas[i])
        np.testing.assert_allclose(vertices[i], expected[0], atol=1e-10)
        np.testing.assert_allclose(joints[i], expected[1], atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_equals_the_package_smplx(models, dtype, generator):
    smplx = pytest.importorskip("smplx")
    arrays = formats.smpl(V, seed=0)
    layer = smplx.SMPL("nowhere", data_struct=types.SimpleNamespace(**arrays), dtype=dtype,
                       create_transl=False, num_betas=10, batch_size=4)  # fmt: skip
    layer.vertex_joint_selector.extra_joints_idxs = torch.arange(21)
    rotvec, betas = (x.to(dtype) for x in people(4, generator))
    expected = layer(betas=betas, global_orient=rotvec[:, 0], body_pose=rotvec[:, 1:].flatten(1))
    body = deepcopy(models[0]).to(dtype)
    rotations = rotvec_to_matrix(rotvec)
    # smplx adds 1e-8 inside its Rodrigues formula; these bodies are tens of metres large
    atol = 1e-5 if dtype == DOUBLE else 2e-4
    vertices, joints = body.vertices(rotations, betas), body.joints(rotations, betas)
    torch.testing.assert_close(vertices, expected.vertices, atol=atol, rtol=1e-5)
    torch.testing.assert_close(joints, expected.joints[:, :24], atol=atol, rtol=1e-5)


def test_one_shape_serves_many_poses(body, generator):
    rotvec, betas = people(6, generator)
    rotations, shape = rotvec_to_matrix(rotvec).unflatten(0, (2, 3)), betas[:2, None]
    for function in (body.vertices, body.joints):
        many = function(rotations, shape)
        assert many.shape[:2] == (2, 3)
        torch.testing.assert_close(many[1, 2], function(rotations[1, 2], shape[1, 0]))


def test_the_joint_regressor_holds_at_rest_alone(body, generator):
    rotvec, betas = people(2, generator)
    rotations = rotvec_to_matrix(rotvec)
    posed = body.joint_regressor @ body.vertices(rotations, betas)
    assert (posed - body.joints(rotations, betas)).abs().max() > 0.01
    still = torch.eye(3, dtype=DOUBLE).expand(24, 3, 3)
    at_rest = body.joint_regressor @ body.vertices(still, betas[0])
    torch.testing.assert_close(at_rest, body.joints(still, betas[0]))


def test_hands_hang_on_wrists(body, generator):
    rotations = torch.eye(3, dtype=DOUBLE).repeat(24, 1, 1)
    betas = people(1, generator)[1][0]
    before = body.joints(rotations, betas)
    rotations[BODY22.index("left_wrist")] = rotvec_to_matrix(torch.tensor([0, 1.0, 0]).double())
    moved = (body.joints(rotations, betas) - before).norm(dim=-1) > 1e-9
    assert [SMPL24.names[j] for j in moved.nonzero()[:, 0].tolist()] == ["left_hand"]


# ------------------------------------------------------------------------ genders


def test_everybody_gets_their_own_body(models, generator):
    bodies = SmplBodies(*models)
    rotvec, betas = people(5, generator)
    rotations = rotvec_to_matrix(rotvec)
    gender = np.array(["female", "unknown", "male", "female", "neutral"])
    vertices, joints = bodies.posed(gender, rotations, betas)
    for i, place in enumerate((2, 0, 1, 2, 0)):
        expected = by_loops(place, rotvec[i], betas[i])
        np.testing.assert_allclose(vertices[i], expected[0], atol=1e-10)
        np.testing.assert_allclose(joints[i], expected[1], atol=1e-10)


def test_follows_device_and_dtype(models, device, generator):
    bodies = SmplBodies(*deepcopy(models)).to(device, torch.float32)
    rotvec, betas = people(2, generator)
    given = rotvec_to_matrix(rotvec).to(device).float(), betas.to(device).float()
    vertices, joints = bodies.posed(np.array(["male", "female"]), *given)
    assert vertices.dtype == joints.dtype == torch.float32
    assert vertices.device.type == joints.device.type == device.type
    exact = models[1].vertices(rotvec_to_matrix(rotvec[0]), betas[0])
    torch.testing.assert_close(vertices[0].cpu().double(), exact, atol=1e-3, rtol=1e-5)


def test_all_files_of_the_licensed_folder(tmp_path, models):
    folder = tmp_path / "body_models/smpl"
    folder.mkdir(parents=True)
    downloaded = tmp_path / "body_models/SMPL_python_v.1.1.0/smpl/models"
    downloaded.mkdir(parents=True)
    formats.write_smpl_pickle(folder / "SMPL_NEUTRAL.pkl", formats.smpl(V, seed=0))
    name = "basicmodel_f_lbs_10_207_0_v1.1.0.pkl"
    formats.write_smpl_pickle(downloaded / name, formats.smpl(V, seed=2))
    with pytest.raises(FileNotFoundError, match=r"SMPL_MALE.pkl or .*basicmodel_m_lbs.*licensed"):
        load_bodies(root=tmp_path, vertices=V)
    formats.write_smpl_pickle(folder / "SMPL_MALE.pkl", formats.smpl(V, seed=1))
    found = load_bodies(root=tmp_path, vertices=V, dtype=DOUBLE)
    for place, gender in enumerate(("neutral", "male", "female")):
        assert torch.equal(found.of(gender).template, models[place].template)


# ------------------------------------------------------------------------ bad inputs


def test_bad_inputs(models, body, tmp_path):
    still, betas = torch.eye(3, dtype=DOUBLE).expand(24, 3, 3), torch.zeros(11, dtype=DOUBLE)
    for function in (body.vertices, body.joints):
        with pytest.raises(ValueError, match="must have 10 columns; got 11"):
            function(still, betas)
    bodies = SmplBodies(*models)
    with pytest.raises(ValueError, match="one of neutral, male, female; got 'm'"):
        bodies.of("m")
    with pytest.raises(ValueError, match="a gender for each of 1 people; got 2"):
        bodies.posed(np.array(["male", "male"]), still[None], betas[None, :10])
    np.savez(tmp_path / "SMPL.npz", **formats.smpl(V + 1))
    other = read_smpl(tmp_path / "SMPL.npz", vertices=V + 1)
    with pytest.raises(ValueError, match=r"same number of vertices; got \[30, 31, 30\]"):
        SmplBodies(models[0], other, models[2])
