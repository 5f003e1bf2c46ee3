from dataclasses import replace

import pytest
import torch

from humr import evaluation, metrics
from humr.bodies import surface
from humr.evaluation import forecast
from humr.geometry import matrix_to_sixd
from humr.model import People
from humr.world.records import truth_of


@pytest.fixture
def truth(records, body, generator):
    return truth_of(records, records.batch(samples=1, generator=generator), body)


def around(truth, count, noise, generator, *, mode_noise=0.0):
    """Hypotheses about the truth: the first is the truth, the others have some pose noise."""
    sixd = matrix_to_sixd(truth.batch.rotations)[:, None].expand(-1, count, -1, -1)
    jitter = noise * torch.randn(sixd.shape, generator=generator)
    jitter[:, 0] = mode_noise
    return People(
        sixd + jitter,
        truth.batch.betas[:, None].expand(-1, count, -1),
        truth.batch.translation[:, None].expand(-1, count, -1),
    )


def test_a_perfect_forecast_has_no_error(truth, body, generator):
    drawn = forecast([around(truth, 3, 0.0, generator)], truth, body)
    for name, value in (
        evaluation.accuracy(drawn, truth) | evaluation.scores(drawn, truth)
    ).items():
        assert value.nan_to_num().abs().max() < 0.1, name  # mm; NaN where no joint is hidden
    consistency = evaluation.consistency(drawn, truth)
    assert consistency["pixels_mode"].nan_to_num().max() < 1e-2
    assert consistency["spread_hidden"].nan_to_num().max() < 1e-2


def test_pieces_add_up_to_the_whole(truth, body, generator):
    people = around(truth, 9, 0.2, generator)
    whole = forecast([people], truth, body)
    pieces = forecast([people[:, :2], people[:, 2:3], people[:, 3:]], truth, body)
    for name in ("joints", "coco17", "errors", "mean_vertices"):
        torch.testing.assert_close(
            getattr(pieces, name), getattr(whole, name), rtol=1e-5, atol=1e-6
        )


def test_errors_equal_those_of_whole_meshes(truth, body, generator):
    people = around(truth, 6, 0.3, generator, mode_noise=0.1)
    drawn = forecast([people], truth, body)
    target = body.vertices(truth.batch.rotations, truth.batch.betas)
    hips = list(evaluation.HIPS)

    def aligned(mesh):
        joints = body.regressor("common14") @ mesh
        root = joints[..., hips, :].mean(-2, keepdim=True)
        return mesh - root, joints - root

    (mesh, joints), (mesh0, joints0) = aligned(people.vertices(body)), aligned(target)
    area = surface.vertex_areas(body.template, body.faces)
    expected = torch.stack(
        [
            metrics.mpjpe(joints, joints0[:, None]),
            metrics.pa_mpjpe(joints, joints0[:, None]),
            metrics.pve(mesh, mesh0[:, None]),
            metrics.joint_distance(mesh, mesh0[:, None]) @ (area / area.sum()),
        ],
        -1,
    )
    torch.testing.assert_close(drawn.errors, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(drawn.mean_vertices, mesh.mean(1), atol=2e-5, rtol=0)
    columns = evaluation.accuracy(drawn, truth)
    mean = metrics.pve(mesh.mean(1), mesh0)
    torch.testing.assert_close(columns["pve_mean"], 1e3 * mean, atol=2e-2, rtol=0)
    torch.testing.assert_close(columns["pve_best"], 1e3 * drawn.errors[..., 2].amin(1))
    torch.testing.assert_close(columns["mpjpe_sample"], 1e3 * drawn.errors[:, 1:, 0].mean(1))
    middle = metrics.medoid(joints)
    chosen = drawn.errors[torch.arange(len(middle)), middle]
    torch.testing.assert_close(columns["pa_mpjpe_median"], 1e3 * chosen[:, 1])


def test_minima_are_independent_and_ordered(truth, body, generator):
    drawn = forecast([around(truth, 30, 0.3, generator, mode_noise=0.1)], truth, body)
    best = drawn.errors.argmin(1)
    assert (best[:, 0] != best[:, 2]).any(), "all errors pick one body: the test cannot tell"
    columns = evaluation.accuracy(drawn, truth)
    for error in ("mpjpe", "pa_mpjpe", "pve"):
        for which in ("mode", "sample", "median"):
            assert (columns[f"{error}_best"] <= columns[f"{error}_{which}"] + 1e-3).all()
            assert (columns[f"{error}_worst"] >= columns[f"{error}_{which}"] - 1e-3).all()


def test_the_score_rewards_truth_and_splits_by_visibility(truth, body, generator):
    tight = evaluation.scores(forecast([around(truth, 8, 0.02, generator)], truth, body), truth)
    wide = evaluation.scores(forecast([around(truth, 8, 0.2, generator)], truth, body), truth)
    for name in tight:
        assert tight[name].nanmean() < wide[name].nanmean()
    every = replace(truth, visible=truth.visible | True, hidden=truth.hidden & False)
    seen = evaluation.scores(forecast([around(truth, 8, 0.2, generator)], every, body), every)
    assert seen["energy_visible"].isfinite().all()
    assert seen["energy_hidden"].isnan().all()


def test_coverage_and_ranks_count_the_truth_among_its_own_samples(truth, body, generator):
    drawn = forecast([around(truth, 61, 0.1, generator)], truth, body)
    shares = evaluation.calibration(drawn, truth)
    assert shares["cover90_xy_visible"].nanmean() > 0.9
    assert (shares["cover50_z_hidden"] <= shares["cover90_z_hidden"] + 1e-6).nan_to_num(1).all()
    samples = metrics.centre(drawn.coco17[:, 1:], (11, 12))
    target = metrics.centre(truth.coco17, (11, 12))
    for name, joint in (("left_wrist", 9), ("right_ankle", 16)):
        below = (samples[:, :, joint, 2] < target[:, None, joint, 2]).sum(1)
        assert torch.equal(shares[f"rank_{name}_z"], below)
        assert 0 < below.float().mean() < 60


def test_the_papers_visibility_is_the_detectors_confidence(truth, body, generator):
    """Four images: 0, 1, 2 and 17 joints of which the detector is not confident."""
    drawn = forecast([around(truth, 5, 0.2, generator)], truth, body)
    keypoints = truth.batch.keypoints.clone()
    keypoints[..., 2] = 0.9
    for image, unsure in enumerate((0, 1, 2, 17)):
        keypoints[image, :unsure, 2] = 0.5  # not above
    truth = replace(truth, batch=replace(truth.batch, keypoints=keypoints))
    columns = evaluation.consistency(drawn, truth)
    names = ("pixels_mode", "pixels_samples", "spread_visible", "spread_hidden",
             "percent_inside", "mask_distance")  # fmt: skip
    missing = {name: columns[f"paper_{name}"][:4].isnan().tolist() for name in names}
    for name in names[:3]:
        assert missing[name] == [False, False, False, True]
    assert missing["spread_hidden"] == [True, False, False, False]
    assert columns["paper_hidden"][:4].tolist() == [0, 1, 2, 17]
    for name in names[4:]:
        assert missing[name] == [True, True, False, False]
    spread = 1e3 * metrics.spread(drawn.coco17[:, 1:])
    torch.testing.assert_close(columns["paper_spread_hidden"][2], spread[2, :2].mean())
    torch.testing.assert_close(columns["paper_spread_visible"][0], spread[0].mean())
    assert (columns["spread_visible"] != columns["paper_spread_visible"]).any()


def test_no_visible_or_no_hidden_joint_and_no_mask(truth, body, generator):
    drawn = forecast([around(truth, 4, 0.2, generator)], truth, body)
    none, every = truth.visible & False, truth.visible | True
    blank = truth.silhouette & False
    unseen = replace(truth, visible=none, hidden=every, covered=every, silhouette=blank)
    columns = evaluation.consistency(drawn, unseen) | evaluation.calibration(drawn, unseen)
    for name in ("pixels_mode", "pixels_samples", "spread_visible", "percent_inside",
                 "mask_distance", "cover50_z_visible"):  # fmt: skip
        assert columns[name].isnan().all(), name
    assert columns["spread_hidden"].isfinite().all()
    assert columns["paper_percent_inside"].isnan().all()
    seen = replace(truth, visible=every, hidden=none, covered=none)
    columns = evaluation.consistency(drawn, seen)
    assert columns["pixels_mode"].isfinite().all()
    for name in ("spread_hidden", "percent_inside", "mask_distance"):
        assert columns[name].isnan().all()


def test_hypotheses_of_one_image_share_shape_and_camera(truth, body, generator):
    people = around(truth, 3, 0.1, generator)
    betas = people.betas + torch.randn(people.betas.shape, generator=generator)
    with pytest.raises(ValueError, match="must share betas and translation"):
        forecast([People(people.sixd, betas, people.translation)], truth, body)
