import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from humr.bodies import body
from humr.bodies.body import ANCESTORS, body_path, load_body, save_ply, smplx_layer
from humr.files import DATA, ROOT, BrokenFile
from humr.geometry import rotvec_to_matrix
from humr.skeletons import BODY22, COCO17, COMMON14, H36M17, SMPLX55

DOUBLE = torch.float64
SETS = (COCO17.name, H36M17.name, COMMON14.name)


@pytest.fixture(scope="module")
def small():
    return load_body("small", dtype=DOUBLE)


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "open_body_small.npz") as data:
        return {key: data[key] for key in data.files}


@pytest.fixture(scope="module")
def corrected(arrays, tmp_path_factory):
    """A file as an original SMPL-X one: pose correctives, and none of the open body's own keys."""
    count = len(arrays["v_template"])
    wanted = ("v_template f shapedirs posedirs J_regressor kintree_table weights "
              "lmk_faces_idx lmk_bary_coords hands_componentsl hands_componentsr "
              "hands_meanl hands_meanr")  # fmt: skip
    data = {key: arrays[key] for key in wanted.split()}
    rng = np.random.default_rng(1)
    data["posedirs"] = 0.01 * rng.normal(size=(count, 3, 486)).astype(np.float32)
    path = tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"
    np.savez(path, **data)
    return path


def random_rotations(*shape, generator, spread=0.6):
    vectors = spread * torch.randn(*shape, 22, 3, generator=generator, dtype=DOUBLE)
    return rotvec_to_matrix(vectors)


def random_betas(*shape, generator, betas=11):
    return torch.randn(*shape, betas, generator=generator, dtype=DOUBLE)


def run_smplx(layer, rotations, betas):
    batch = len(rotations)
    eye = torch.eye(3).to(rotations)

    def still(joints):
        return eye.expand(batch, joints, 3, 3)

    return layer(
        betas=betas, global_orient=rotations[:, :1], body_pose=rotations[:, 1:],
        left_hand_pose=still(15), right_hand_pose=still(15), jaw_pose=still(1),
        leye_pose=still(1), reye_pose=still(1),
        expression=betas.new_zeros(batch, layer.num_expression_coeffs),
        transl=betas.new_zeros(batch, 3),
    )  # fmt: skip


# ------------------------------------------------------------------ parity with smplx


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["small", "full"])
def test_equals_smplx_layer(name, dtype, generator):
    rotations = random_rotations(4, generator=generator).to(dtype)
    betas = (2 * random_betas(4, generator=generator)).to(dtype)
    expected = run_smplx(smplx_layer(name, dtype=dtype), rotations, betas)
    body = load_body(name, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    vertices, joints = body.vertices(rotations, betas), body.joints(rotations, betas)
    assert vertices.dtype == joints.dtype == dtype
    torch.testing.assert_close(vertices, expected.vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(joints, expected.joints[:, :55], atol=tolerance, rtol=0)
    assert expected.joints.shape[1] == 127


def test_full_file_loads_in_unmodified_smplx_create(tmp_path, generator):
    smplx = pytest.importorskip("smplx")
    link = tmp_path / "SMPLX_NEUTRAL.npz"
    link.symlink_to(DATA / "open_body_full.npz")
    model = smplx.create(
        str(link), model_type="smplx", num_betas=11, batch_size=3, use_pca=False,
        use_face_contour=True, dtype=DOUBLE,
    )  # fmt: skip
    vectors = 0.5 * torch.randn(3, 22, 3, generator=generator, dtype=DOUBLE)
    betas = random_betas(3, generator=generator)
    output = model(betas=betas, global_orient=vectors[:, 0], body_pose=vectors[:, 1:].flatten(1))
    body = load_body(link, dtype=DOUBLE)
    rotations = rotvec_to_matrix(vectors)
    # smplx adds 1e-8 inside its Rodrigues formula, hence not to machine precision
    torch.testing.assert_close(output.vertices, body.vertices(rotations, betas), atol=1e-6, rtol=0)
    joints = body.joints(rotations, betas)
    torch.testing.assert_close(output.joints[:, :55], joints, atol=1e-6, rtol=0)
    assert output.joints.shape == (3, 144, 3)
    nose = body.keypoints(rotations, betas, "coco17")[:, 0]
    torch.testing.assert_close(output.joints[:, 55], nose, atol=1e-6, rtol=0)


def test_smplx_takes_the_outline_of_the_turned_head(tmp_path):
    smplx = pytest.importorskip("smplx")
    link = tmp_path / "SMPLX_NEUTRAL.npz"
    link.symlink_to(DATA / "open_body_full.npz")
    model = smplx.create(str(link), num_betas=11, use_pca=False, use_face_contour=True)
    pose = torch.zeros(1, 21, 3)
    pose[0, BODY22.index("neck") - 1, 1] = 0.6  # to its left
    joints = model(body_pose=pose.flatten(1)).joints[0]
    turn = rotvec_to_matrix(torch.tensor([0.0, 0.6, 0.0]))
    outline = (joints[-17:] - joints[BODY22.index("head")]) @ turn  # in the frame of the head
    right, left = outline[2:6], outline[11:15]
    assert right[:, 0].max() < 0 < left[:, 0].min()
    assert right[:, 2].mean() < left[:, 2].mean() - 0.02


def test_pose_correctives_equal_smplx(corrected, generator):
    rotations = random_rotations(3, generator=generator)
    betas = random_betas(3, generator=generator)
    layer = smplx_layer(corrected, dtype=DOUBLE)
    layer.vertex_joint_selector.extra_joints_idxs = torch.arange(21)
    body = load_body(corrected, dtype=DOUBLE)
    assert body.pose_directions is not None
    expected = run_smplx(layer, rotations, betas).vertices
    torch.testing.assert_close(body.vertices(rotations, betas), expected, atol=1e-12, rtol=0)


def test_works_without_smplx():
    code = (
        "import sys; sys.modules['smplx'] = None\n"
        "import torch; from humr.bodies.body import load_body\n"
        "body = load_body('small')\n"
        "x = torch.eye(3).expand(2, 22, 3, 3), torch.zeros(2, 11)\n"
        "assert body.vertices(*x).isfinite().all() and body.joints(*x).isfinite().all()\n"
        "assert body.keypoints(*x, 'coco17').shape == (2, 17, 3)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


# ------------------------------------------------------------------ key points


@pytest.mark.parametrize("name", SETS)
def test_keypoints_equal_regressor_times_vertices(small, name, generator):
    rotations = random_rotations(2, 3, generator=generator)
    betas = random_betas(2, 3, generator=generator)
    expected = small.regressor(name) @ small.vertices(rotations, betas)
    keypoints = small.keypoints(rotations, betas, name)
    torch.testing.assert_close(keypoints, expected, atol=1e-12, rtol=0)


def test_folding_includes_pose_correctives(arrays, corrected, tmp_path, generator):
    with np.load(corrected) as data:
        extended = {key: data[key] for key in data.files}
    extended |= {key: arrays[key] for key in ("regressor_h36m17", "names_h36m17")}
    np.savez(tmp_path / "extended.npz", **extended)
    body = load_body(tmp_path / "extended.npz", dtype=DOUBLE)
    rotations = random_rotations(2, 3, generator=generator)
    betas = random_betas(2, 1, generator=generator)
    expected = body.regressor("h36m17") @ body.vertices(rotations, betas)
    keypoints = body.keypoints(rotations, betas, "h36m17")
    torch.testing.assert_close(keypoints, expected, atol=1e-12, rtol=0)
    plain = load_body("small", dtype=DOUBLE).keypoints(rotations, betas, "h36m17")
    assert (plain - keypoints).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["small", "corrected"])
def test_any_regressor_can_be_folded(name, corrected, generator):
    body = load_body(corrected if name == "corrected" else "small", dtype=DOUBLE)
    count = len(body.template)
    rows = torch.rand(3, count, generator=generator, dtype=DOUBLE) - 0.3  # sums are not 1
    rows[1, : count // 2] = 0
    rotations = random_rotations(2, 3, generator=generator)
    betas = random_betas(2, 1, generator=generator)
    expected = rows @ body.vertices(rotations, betas)
    found = body.regress(body.fold(rows), rotations, betas)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-10)
    single = body.float().fold(rows.float())
    assert single.template.dtype == torch.float32
    with pytest.raises(ValueError, match=f"must have {count} columns, one per vertex; got 6890"):
        body.fold(torch.ones(2, 6890))


def test_original_smplx_file_gives_coco_from_joints_and_face_vertices(tmp_path, generator):
    count, rng = 10475, np.random.default_rng(0)
    with np.load(DATA / "open_body_full.npz") as data:
        source = rng.integers(0, len(data["v_template"]), count)
        regressor = rng.random((55, count))
        arrays = {
            "v_template": data["v_template"][source], "f": data["f"],
            "shapedirs": data["shapedirs"][source][..., :20], "weights": data["weights"][source],
            "posedirs": 0.01 * rng.normal(size=(count, 3, 486)).astype(np.float32),
            "J_regressor": regressor / regressor.sum(1, keepdims=True),
            "kintree_table": data["kintree_table"],
        }  # fmt: skip
    np.savez(tmp_path / "SMPLX_MALE.npz", **arrays)
    body = load_body(tmp_path / "SMPLX_MALE.npz", dtype=DOUBLE)
    assert body.betas == 10  # a short file: 10 shape and 10 expression columns
    assert body.skeletons == ("coco17",)
    rotations = random_rotations(2, generator=generator)
    betas = random_betas(2, betas=10, generator=generator)
    keypoints = body.keypoints(rotations, betas, "coco17")
    vertices, joints = body.vertices(rotations, betas), body.joints(rotations, betas)
    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(keypoints[:, :5], vertices[:, [9120, 9448, 9929, 6, 616]], **close)
    limbs = list(SMPLX55.indices(COCO17.names[5:]))
    torch.testing.assert_close(keypoints[:, 5:], joints[:, limbs], **close)
    with pytest.raises(ValueError, match="no key points 'h36m17'; it has coco17"):
        body.keypoints(rotations, betas, "h36m17")


# ------------------------------------------------------------------ properties


def test_identity_pose_is_the_template(small):
    eye, zero = torch.eye(3, dtype=DOUBLE).expand(22, 3, 3), torch.zeros(11, dtype=DOUBLE)
    # weights are stored as float32, so their sums are one to 1e-7
    torch.testing.assert_close(small.vertices(eye, zero), small.template, atol=1e-7, rtol=0)
    torch.testing.assert_close(small.joints(eye, zero), small.joint_template, atol=1e-14, rtol=0)


def test_root_rotation_turns_everything_about_the_pelvis(small, generator):
    rotations = random_rotations(generator=generator)
    betas = random_betas(generator=generator)
    turned = rotations.clone()
    turn = rotvec_to_matrix(torch.tensor([0.3, -1.1, 0.7], dtype=DOUBLE))
    turned[0] = turn @ rotations[0]
    pelvis = small.rest_joints(betas)[0]
    for function in (small.vertices, small.joints):
        expected = (function(rotations, betas) - pelvis) @ turn.T + pelvis
        torch.testing.assert_close(function(turned, betas), expected, atol=1e-7, rtol=0)


def test_one_shape_serves_many_poses(small, generator):
    rotations = random_rotations(2, 5, generator=generator)
    betas = random_betas(2, 1, generator=generator)
    spread = betas.expand(2, 5, 11)
    close = {"atol": 1e-13, "rtol": 0}
    for function in (small.vertices, small.joints):
        many = function(rotations, betas)
        torch.testing.assert_close(many, function(rotations, spread), **close)
        torch.testing.assert_close(many[1, 3], function(rotations[1, 3], betas[1, 0]), **close)
    keypoints = small.keypoints(rotations, betas, "common14")
    assert keypoints.shape == (2, 5, 14, 3)
    one = small.keypoints(rotations[0, 2], betas[0, 0], "common14")
    torch.testing.assert_close(keypoints[0, 2], one, **close)


def test_fingers_jaw_and_eyes_follow_their_body_joint(small, generator):
    assert [SMPLX55.names[a] for a in ANCESTORS[22:25]] == ["head"] * 3
    assert {SMPLX55.names[a] for a in ANCESTORS[25:40]} == {"left_wrist"}
    rotations = random_rotations(generator=generator)
    betas = random_betas(generator=generator)
    joints, rest = small.joints(rotations, betas), small.rest_joints(betas)
    wrist, tip = SMPLX55.indices(["left_wrist", "left_middle3"])
    before, after = rest[tip] - rest[wrist], joints[tip] - joints[wrist]
    torch.testing.assert_close(before.norm(), after.norm())


@pytest.mark.parametrize(
    ("joint", "vector", "moved", "axis", "sign"),
    [
        ("left_hip", (-1.2, 0, 0), "left_knee", 2, 1),  # the thigh swings to the front
        ("right_hip", (-1.2, 0, 0), "right_knee", 2, 1),
        ("left_knee", (1.2, 0, 0), "left_ankle", 2, -1),  # the shank swings to the back
        ("left_elbow", (0, -1.2, 0), "left_wrist", 2, 1),  # the forearm swings to the front
        ("right_elbow", (0, 1.2, 0), "right_wrist", 2, 1),
        ("left_shoulder", (0, 0, -1.2), "left_elbow", 1, -1),  # the arm goes down
        ("right_shoulder", (0, 0, 1.2), "right_elbow", 1, -1),
    ],
)
def test_limbs_move_to_the_right_side(small, joint, vector, moved, axis, sign):
    rotations = torch.eye(3, dtype=DOUBLE).repeat(22, 1, 1)
    betas = torch.zeros(11, dtype=DOUBLE)
    before, skin = small.joints(rotations, betas), small.vertices(rotations, betas)
    rotations[BODY22.index(joint)] = rotvec_to_matrix(torch.tensor(vector, dtype=DOUBLE))
    motion = small.joints(rotations, betas) - before
    assert sign * motion[SMPLX55.index(moved), axis] > 0.1
    other = moved.replace("left", "x").replace("right", "left").replace("x", "right")
    assert motion[SMPLX55.index(other)].norm() < 1e-12
    shift = (small.vertices(rotations, betas) - skin).norm(dim=-1)
    side = 1 if joint.startswith("left") else -1
    assert (side * small.template[shift > 0.1][:, 0] > 0).all()


def test_gradients(small, generator):
    vectors = (0.4 * torch.randn(22, 3, generator=generator, dtype=DOUBLE)).requires_grad_()
    betas = random_betas(generator=generator).requires_grad_()
    chosen = torch.randperm(len(small.template), generator=generator)[:5]

    def outputs(vectors, betas):
        rotations = rotvec_to_matrix(vectors)
        return (
            small.joints(rotations, betas)[[7, 15, 20, 40]],
            small.keypoints(rotations, betas, "coco17")[[0, 9, 16]],
            small.vertices(rotations, betas)[chosen],
        )

    assert torch.autograd.gradcheck(outputs, (vectors, betas))


def test_inference_first_does_not_spoil_training(small, generator):
    body._steps.cache_clear()
    rotations = random_rotations(2, generator=generator).requires_grad_()
    betas = random_betas(2, generator=generator)
    with torch.inference_mode():
        small.joints(rotations, betas)
    small.joints(rotations, betas).sum().backward()
    assert rotations.grad.isfinite().all()
    assert rotations.grad[:, 0].abs().max() > 0


@pytest.mark.parametrize("correctives", [False, True])
def test_autocast_rounds_nothing(corrected, correctives, device, generator):
    body = load_body(corrected if correctives else "small").to(device)
    rotations = random_rotations(3, generator=generator).to(device, torch.float32)
    betas = random_betas(3, generator=generator, betas=body.betas).to(device, torch.float32)
    folded = body.fold(torch.rand(5, len(body.template), generator=generator).to(device))

    def everything():
        points = body.regress(folded, rotations, betas)
        return body.joints(rotations, betas), body.vertices(rotations, betas), points

    expected = everything()
    with torch.autocast(device.type, torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(everything(), expected, strict=True))


def test_follows_device_and_dtype(device, generator):
    body = load_body("small").to(device)
    rotations = random_rotations(2, generator=generator).to(device, torch.float32)
    betas = random_betas(2, generator=generator).to(device, torch.float32)
    exact = load_body("small", dtype=DOUBLE)
    for name in ("vertices", "joints"):
        got = getattr(body, name)(rotations, betas)
        expected = getattr(exact, name)(rotations.cpu().double(), betas.cpu().double())
        assert got.device.type == device.type
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.cpu().double(), expected, atol=1e-5, rtol=0)


def test_ply_round_trip(small, tmp_path):
    import trimesh

    save_ply(tmp_path / "mode.ply", small.template, small.faces)
    mesh = trimesh.load(tmp_path / "mode.ply", process=False)
    np.testing.assert_allclose(mesh.vertices, small.template, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, small.faces)


# ------------------------------------------------------------------ bad inputs


def changed(arrays, tmp_path, **changes):
    path = tmp_path / "SMPLX_changed.npz"
    data = {k: changes.get(k, v) for k, v in arrays.items()}
    np.savez(path, **{k: v for k, v in data.items() if v is not None})
    return path


def with_nan(values):
    values = values.copy()
    values.flat[0] = np.nan
    return values


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("J_regressor", None, "lacks J_regressor"),
        ("J_regressor", lambda x: x[:24], r"must have shape \(55, 2011\); got \(24, 2011\)"),
        ("weights", lambda x: x[:, :52], "SMPL-H 52"),
        ("shapedirs", lambda x: x[:, :2], "shapedirs must have shape"),
        ("shapedirs", lambda x: x[..., :4], "4 columns; expected >= 10"),
        ("f", lambda x: x + 5, "faces name vertex 2015"),
        ("kintree_table", lambda x: x[:, ::-1], "SMPL-X tree"),
        ("v_template", with_nan, "v_template holds values that are not finite"),
        ("regressor_coco17", lambda x: x[:5], "regressor_coco17 must have shape"),
        ("names_coco17", lambda x: x[::-1], "must have the rows nose, left_eye"),
    ],
)
def test_refuses_wrong_files(arrays, tmp_path, key, change, message):
    value = None if change is None else change(arrays[key])
    with pytest.raises(ValueError, match=message):
        load_body(changed(arrays, tmp_path, **{key: value}))


def test_refuses_files_that_are_no_bodies(tmp_path):
    with pytest.raises(ValueError, match=r"no body file .*nowhere.npz; expected 'small' or"):
        load_body(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"pickled body files run code"):
        body_path("SMPLX_NEUTRAL.pkl")
    text = tmp_path / "text.npz"
    text.write_text("not found")
    with pytest.raises(ValueError, match=r"is no \.npz body file"):
        load_body(text)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="one bare array"):
        load_body(tmp_path / "array.npz")
    half = tmp_path / "half.npz"
    half.write_bytes((DATA / "open_body_small.npz").read_bytes()[:100_000])
    with pytest.raises(ValueError, match="partial download"):
        load_body(half)
    np.savez(tmp_path / "poses.npz", poses=np.zeros((4, 165)))
    with pytest.raises(ValueError, match="Usual cause: a pose or parameter file"):
        load_body(tmp_path / "poses.npz")


def test_refuses_corrupt_bytes(tmp_path):
    content = bytearray((DATA / "open_body_small.npz").read_bytes())
    content[20_000:20_050] = bytes(50)
    path = tmp_path / "corrupt.npz"
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="cannot be read"):
        load_body(path)


def scaled(rows):
    """Add 0.5 to the first columns of some rows."""

    def change(values):
        values = values.copy()
        values[rows, 0] += 0.5
        return values

    return change


NUMBERS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "regressor_coco17")


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(complex),
        lambda x: x.astype("U8"),
        lambda x: x > 0,
        lambda x: x.astype(object),
        lambda x: x * np.inf,
        lambda x: x.astype("M8[s]"),
        lambda x: np.full_like(x, 1e300, dtype=np.float64),
        lambda x: x[..., None],
        lambda x: x[:0],
        lambda _: np.float64(1.0),
    ],
    ids=["complex", "texts", "truths", "objects", "infinite", "times", "1e300", "axis", "empty",
         "scalar"],
)  # fmt: skip
def test_numbers_of_a_body_are_not_believed(arrays, tmp_path, key, change):
    kept = {name: value for name, value in arrays.items() if name != "format"}
    with np.errstate(invalid="ignore"):
        values = change(kept[key])
    np.savez(tmp_path / "SMPLX_changed.npz", allow_pickle=True, **(kept | {key: values}))
    with pytest.raises(BrokenFile, match=r"^\S*SMPLX_changed\.npz"):
        load_body(tmp_path / "SMPLX_changed.npz")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("v_template", lambda x: 1000 * x, "v_template"),
        ("v_template", lambda x: 100 * x, "must be a person in metres; it is 1"),
        ("v_template", lambda x: 0 * x, "must be a person in metres; it is 0 long"),
        ("weights", lambda x: x - 0.1, "must be shares"),
        ("weights", lambda x: 2 * x, "must be shares"),
        ("weights", lambda x: 0 * x, "must be shares"),
        ("weights", scaled([7]), "must be shares"),
        ("f", lambda x: x.astype(float), "faces"),
        ("f", lambda x: -x.astype(int), "faces"),
        ("f", lambda x: x[:0], "cannot be read"),
        ("kintree_table", lambda x: x.astype(complex), "cannot be read|SMPL-X tree"),
        ("kintree_table", lambda x: x[0, 0], "SMPL-X tree"),
    ],
)
def test_bodies_are_plausible(arrays, tmp_path, key, change, message):
    with pytest.raises(BrokenFile, match=rf"^\S*SMPLX_changed\.npz.*{message}"):
        load_body(changed(arrays, tmp_path, **{key: change(arrays[key])}))


def crafted(path, arrays, header, packing=zipfile.ZIP_STORED, body=b""):
    """Write a body whose template has another header, and those bytes."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for key, value in (arrays | {"v_template": None}).items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                if value is not None:
                    np.lib.format.write_array(file, value)
                    continue
                np.lib.format.write_array_header_1_0(file, header)
                file.write(body)


@pytest.mark.parametrize("shape", [(10**11, 1), (2011, 3), (2**62, 2**62), (-1, 3), (0, 3)])
def test_what_a_header_claims_is_compared_with_the_file(arrays, tmp_path, shape):
    path = tmp_path / "SMPLX_crafted.npz"
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    crafted(path, arrays, header, body=bytes(64))
    with pytest.raises(BrokenFile, match=r"^\S*SMPLX_crafted\.npz cannot be read: .*claims"):
        load_body(path)


def test_a_file_that_claims_to_unpack_without_end_is_refused(arrays, tmp_path):
    path = tmp_path / "SMPLX_crafted.npz"
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**11, 1)}
    crafted(path, {}, header, body=bytes(64))
    content = path.read_bytes()
    size = 64 + 128
    assert content.count(size.to_bytes(4, "little")) >= 2
    path.write_bytes(content.replace(size.to_bytes(4, "little"), b"\xf0\xff\xff\xff"))
    with pytest.raises(BrokenFile, match=r"^\S*SMPLX_crafted\.npz (cannot|is)"):
        load_body(path)


def test_refuses_wrong_betas_and_sets(small):
    eye = torch.eye(3, dtype=DOUBLE).expand(22, 3, 3)
    for function in (small.joints, small.vertices):
        with pytest.raises(ValueError, match="must have 11 columns; got 10"):
            function(eye, torch.zeros(10, dtype=DOUBLE))
    with pytest.raises(ValueError, match="no key points 'coco18'; it has coco17, h36m17"):
        small.keypoints(eye, torch.zeros(11, dtype=DOUBLE), "coco18")
    with pytest.raises(ValueError, match="no regressor for 'smpl'"):
        small.regressor("smpl")
