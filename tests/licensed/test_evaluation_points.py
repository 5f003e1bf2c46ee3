"""Tests of humr.licensed.evaluation against a slow reference (`smpl_world`), and of bad inputs."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import smpl_world as world
import torch
from formats import write_mask

from humr.bodies.body import load_body
from humr.geometry import matrix_to_sixd, rotvec_to_matrix
from humr.licensed import evaluation
from humr.licensed.evaluation import forecast, load_evaluator, truth_of
from humr.licensed.smpl import SMPL24
from humr.model import People
from humr.skeletons import H36M_FROM_SPIN

DOUBLE = torch.float64
KINDS = ("mpjpe", "pa_mpjpe", "pve")
SIZES = {"vertices": world.V, "smplx_vertices": world.X, "face": world.FACE}
SETS = {"3dpw-test-cam": "3DPW", "emdb-p1": "EMDB", "emdb-p1-occl": "EMDB"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return world.write(tmp_path_factory.mktemp("licensed"))


@pytest.fixture(scope="module")
def evaluator(root):
    return load_evaluator(root=root, dtype=DOUBLE, **SIZES)


def hypotheses(batch, each, generator, *, spread=0.4):
    """People about the middles of their boxes, all in one common pose and each in its own."""
    count = len(batch)
    shared = torch.randn(count, 1, 22, 3, generator=generator, dtype=DOUBLE)
    own = spread * torch.randn(count, each, 22, 3, generator=generator, dtype=DOUBLE)
    betas = torch.randn(count, 1, 11, generator=generator, dtype=DOUBLE)
    middle = (batch.box[:, :2] - batch.image_size / 2) / batch.focal[:, None]
    depth = 4 + torch.rand(count, 1, generator=generator, dtype=DOUBLE)
    place = depth * torch.nn.functional.pad(middle, (0, 1), value=1.0)
    rotations = rotvec_to_matrix(0.5 * shared + own)
    sixd, place = matrix_to_sixd(rotations), place[:, None].expand(-1, each, -1)
    return People(sixd, betas.expand(-1, each, -1), place)


def by_person(people, i):
    parts = zip(people.rotations[i], people.betas[i], people.translation[i], strict=True)
    return [tuple(x.numpy() for x in part) for part in parts]


def measured(name, evaluator, generator, *, count=3, each=5, cuts=(1, 2, 2)):
    """Columns of some people, and the reference of each."""
    batch, labels = world.people(name, count, dtype=DOUBLE)
    masks = world.mask(count)
    given = torch.from_numpy(masks) if name == "emdb-p1-occl" else None
    truth = truth_of(labels, batch, evaluator, given)
    people = hypotheses(batch, each, generator)
    starts = np.cumsum([0, *cuts])
    pieces = [people[:, a:b] for a, b in pairwise(starts)]
    drawn = forecast(pieces, truth, evaluator)
    columns = evaluation.accuracy(drawn, truth) | evaluation.consistency(drawn, truth)
    found = [world.reference(SETS[name], labels, batch, i, by_person(people, i))
             for i in range(count)]  # fmt: skip
    return columns, found, labels, masks


def close(got, expected, what=""):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=what)


# ------------------------------------------------------------------------ against the reference


@pytest.mark.parametrize("name", SETS)
def test_errors_equal_the_reference(name, evaluator, generator):
    columns, found, *_ = measured(name, evaluator, generator)
    for i, person in enumerate(found):
        for kind, errors in zip(KINDS, person["errors"].T, strict=True):
            close(columns[f"{kind}_mode"][i], errors[0], kind)
            close(columns[f"{kind}_best"][i], errors.min(), kind)
            close(columns[f"{kind}_worst"][i], errors.max(), kind)
            close(columns[f"{kind}_sample"][i], errors[1:].mean(), kind)
        mean = person["joints"].mean(0)
        true = person["true_joints"]
        close(columns["mpjpe_mean"][i], 1e3 * world.distance(mean, true).mean())
        close(columns["pa_mpjpe_mean"][i],
              1e3 * world.distance(world.aligned(mean, true), true).mean())  # fmt: skip
        surface = world.distance(person["meshes"].mean(0), person["true_mesh"]).mean()
        close(columns["pve_mean"][i], 1e3 * surface)
        sums = [world.distance(x, person["joints"]).mean(-1).sum() for x in person["joints"]]
        close(columns["pve_median"][i], person["errors"][np.argmin(sums), 2])
    best = np.array([person["errors"].argmin(0) for person in found])
    assert (best != best[:, :1]).any(), "all errors pick one body: the test cannot tell"


@pytest.mark.parametrize("name", SETS)
def test_consistency_equals_the_reference(name, evaluator, generator):
    columns, found, labels, masks = measured(name, evaluator, generator)
    for i, person in enumerate(found):
        seen = labels.keypoints[i, :, 2].numpy() > 0.5
        error = world.distance(person["pixels"], person["target"])
        close(columns["pixels_mode"][i], error[0, seen].mean())
        close(columns["pixels_samples"][i], error[1:][:, seen].mean())
        spread = 1e3 * world.distance(person["coco"], person["coco"].mean(0)).mean(0)
        close(columns["spread_visible"][i], spread[seen].mean())
        close(columns["spread_hidden"][i], spread[~seen].mean())
        assert [columns[k][i] for k in ("visible", "hidden")] == [seen.sum(), (~seen).sum()]
        judged = name == "emdb-p1-occl" and bool(labels.mask_valid[i])
        assert columns["counted"][i] == (~seen).sum() * judged
        if judged:
            distance = world.mask_distances(person["pixels"], masks[i])[:, ~seen]
            assert 0 < (distance == 0).mean() < 1
            close(columns["percent_inside"][i], 100 * (distance == 0).mean())
            close(columns["mask_distance"][i], distance.mean())
        else:
            assert columns["percent_inside"][i].isnan()
            assert columns["mask_distance"][i].isnan()


def test_pieces_and_images_do_not_matter(evaluator, generator):
    batch, labels = world.people("3dpw-test-cam", 2, dtype=DOUBLE)
    people = hypotheses(batch, 7, generator)
    truth = truth_of(labels, batch, evaluator)
    whole = forecast([people], truth, evaluator)
    cut = forecast([people[:, :1], people[:, 1:3], people[:, 3:]], truth, evaluator)
    for key in ("joints", "coco17", "errors", "mean_vertices"):
        torch.testing.assert_close(getattr(cut, key), getattr(whole, key))
    one = slice(1, 2)
    alone = forecast([people[one]], truth_of(labels[one], batch[one], evaluator), evaluator)
    torch.testing.assert_close(alone.errors[0], forecast([people], truth, evaluator).errors[1])


def test_folded_points_equal_points_of_the_mesh(evaluator, generator):
    people = hypotheses(world.people("emdb-p1", 2, dtype=DOUBLE)[0], 4, generator)
    mesh = evaluator.body.vertices(people.rotations, people.betas)
    transfer, h36m = (torch.from_numpy(x) for x in world.matrices())
    smpl = transfer @ mesh
    found = evaluator.body.regress(evaluator.points, people.rotations, people.betas)
    plain = h36m[list(H36M_FROM_SPIN)] @ smpl
    torch.testing.assert_close(found[..., evaluation.H36M, :], plain)
    neutral = evaluator.smpl.of("neutral").joint_regressor
    torch.testing.assert_close(found[..., evaluation.SMPL, :], neutral @ smpl)
    nose, left_ear = (found[..., evaluation.COCO, :][..., i, :] for i in (0, 3))
    torch.testing.assert_close(nose, smpl[..., world.FACE["nose"], :])
    torch.testing.assert_close(left_ear, smpl[..., world.FACE["left_ear"], :])


def test_orders_are_the_official_ones():
    spin = [H36M_FROM_SPIN[i] for i in evaluation.COMMON14_FROM_H36M]
    assert spin == world.J14
    assert evaluation.HIPS == (1, 2)
    assert list(evaluation.FACE.values()) == [332, 6260, 2800, 4071, 583]
    assert list(evaluation.FACE) == ["nose", "right_eye", "left_eye", "right_ear", "left_ear"]
    assert SMPL24.names[:3] == ("pelvis", "left_hip", "right_hip")


def test_single_precision_is_good_to_micrometres(root, evaluator, generator):
    batch, labels = world.people("emdb-p1", 2, dtype=DOUBLE)
    people = hypotheses(batch, 6, generator)
    exact = forecast([people], truth_of(labels, batch, evaluator), evaluator)
    single = load_evaluator(root=root, **SIZES)
    rough = forecast([people], truth_of(labels, batch, single), single)
    assert rough.errors.dtype == torch.float32
    torch.testing.assert_close(rough.errors.double(), exact.errors, atol=5e-6, rtol=0)


# ------------------------------------------------------------------------ at the edges


def columns_of(labels, batch, people, evaluator, masks=None):
    truth = truth_of(labels, batch, evaluator, masks)
    drawn = forecast([people], truth, evaluator)
    return evaluation.accuracy(drawn, truth) | evaluation.consistency(drawn, truth)


def test_no_visible_and_no_hidden_joint(evaluator, generator):
    batch, labels = world.people("emdb-p1-occl", 2, dtype=DOUBLE)
    keypoints = labels.keypoints.clone()
    keypoints[0, :, 2], keypoints[1, :, 2] = 0.5, 0.51  # not above, above
    labels = replace(labels, keypoints=keypoints, mask_valid=torch.tensor([True, True]))
    masks = torch.from_numpy(world.mask(2))
    columns = columns_of(labels, batch, hypotheses(batch, 4, generator), evaluator, masks)
    assert columns["visible"].tolist() == [0, 17]
    assert columns["counted"].tolist() == [17, 0]
    for name in ("pixels_mode", "pixels_samples", "spread_visible"):
        assert columns[name].isnan().tolist() == [True, False], name
    for name in ("spread_hidden", "percent_inside", "mask_distance"):
        assert columns[name].isnan().tolist() == [False, True], name


def test_one_hypothesis_and_a_batch_of_one(evaluator, generator):
    batch, labels = world.people("3dpw-test-cam", 1, dtype=DOUBLE)
    columns = columns_of(labels, batch, hypotheses(batch, 1, generator), evaluator)
    for kind in KINDS:
        values = {
            float(columns[f"{kind}_{which}"]) for which in ("mode", "best", "sample", "worst")
        }
        assert len(values) == 1
        assert np.isfinite(values.pop())
    assert columns["spread_hidden"].tolist() == [0]
    assert torch.equal(columns["pixels_mode"], columns["pixels_samples"])


def test_masks_are_read_for_those_who_have_one(tmp_path):
    labels = world.people("emdb-p1-occl", 4)[1]
    for i in (0, 2, 3):
        shape = np.zeros((1920, 1440), bool)
        x, y, side = (int(v) for v in labels.box[i])
        shape[y - 10 : y + 20, x : x + int(side / 4)] = True
        write_mask(tmp_path, labels.name, str(labels.image[i]), shape)
        one = labels[torch.tensor([i])]
        masks = evaluation.evaluation_masks(one, root=tmp_path)
        assert masks is not None
        assert masks[0, 128, 140]
        assert not masks[0, 128, :120].any()
    masks = evaluation.evaluation_masks(labels[torch.tensor([1, 3])], root=tmp_path)
    assert masks is not None
    assert masks.any(-1).any(-1).tolist() == [False, True]
    assert evaluation.evaluation_masks(labels[torch.tensor([1])], root=tmp_path) is None
    write_mask(tmp_path, labels.name, str(labels.image[0]), np.zeros((1920, 1440), bool))
    with pytest.raises(ValueError, match="holds nobody in the box of row 7 of emdb-p1-occl"):
        evaluation.evaluation_masks(labels, root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"00000.png; it is licensed"):
        evaluation.evaluation_masks(labels, root=tmp_path / "elsewhere")
    write_mask(tmp_path, labels.name, str(labels.image[0]), np.ones((960, 720), bool))
    with pytest.raises(
        ValueError, match=r"00000\.png must .*\(1440, 1920\) px .*got \(720, 960\)"
    ):
        evaluation.evaluation_masks(labels, root=tmp_path)


def test_bodies_that_do_not_fit_are_refused(root, evaluator):
    transfer, h36m = (torch.from_numpy(x) for x in world.matrices())
    smpl = evaluator.smpl
    with pytest.raises(
        ValueError, match=r"matrix .* \(30, 2011\), for body open_body_small .*open"
    ):
        evaluation.SmplEvaluator(load_body("small"), transfer.to_sparse(), smpl, h36m)
    with pytest.raises(ValueError, match=r"Human3.6M must have shape \(17, 30\).* got \(17, 29\)"):
        evaluation.SmplEvaluator(evaluator.body, transfer.to_sparse(), smpl, h36m[:, 1:])
    partial = root / "partial"
    partial.mkdir()
    (partial / "body_models").symlink_to(root / "body_models")
    with pytest.raises(FileNotFoundError, match=r"smplx2smpl.pkl; it is licensed"):
        load_evaluator(root=partial, **SIZES)


def test_hypotheses_of_one_image_share_shape_and_camera(evaluator, generator):
    batch, labels = world.people("emdb-p1", 2, dtype=DOUBLE)
    people = hypotheses(batch, 3, generator)
    other = People(people.sixd, people.betas * torch.arange(3).view(1, 3, 1), people.translation)
    with pytest.raises(ValueError, match="must share betas and translation"):
        forecast([other], truth_of(labels, batch, evaluator), evaluator)
