import numpy as np
import pandas as pd
import pytest
import torch

from humr import metrics
from humr.geometry import rotvec_to_matrix
from humr.lifting import evaluation
from humr.skeletons import H36M17


def randn(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_joint_sets_are_those_of_the_official_code():
    assert evaluation.PCK_JOINTS == (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)
    assert sorted({*range(17)} - {*evaluation.CPS_JOINTS}) == [7]
    assert len(evaluation.CPS_JOINTS) == 16


# ------------------------------------------------------------------------- correct poses


def score_by_hand(poses, target):
    """Share of images of which any hypothesis is correct, per threshold; then the area."""
    thresholds = np.arange(1, 301)
    curve = np.zeros(300)
    for hypotheses, truth in zip(poses.numpy(), target.numpy(), strict=True):
        for place, threshold in enumerate(thresholds):
            curve[place] += any(
                all(np.linalg.norm(p - t) * 1000 < threshold
                    for joint, (p, t) in enumerate(zip(pose, truth, strict=True)) if joint != 7)
                for pose in hypotheses
            )  # fmt: skip
    return np.trapezoid(curve / len(target), thresholds)


@pytest.mark.parametrize("align", [evaluation.aligned, lambda poses, _: poses])
def test_score_equals_the_official_order_of_work(align, generator):
    target = 0.4 * randn(3, 17, 3, generator=generator)
    poses = align(
        target[:, None] + 0.06 * randn(3, 5, 17, 3, generator=generator), target[:, None]
    )
    largest = evaluation.largest_error(poses, target[:, None]).amin(-1)
    found = 1000 * evaluation.correct_poses_score(largest).mean().item()
    assert found == pytest.approx(score_by_hand(poses, target))
    assert 100 < found < 280


def test_any_hypothesis_per_threshold_is_the_one_with_the_smallest_largest_error(generator):
    largest = 0.2 * torch.rand(4, 6, generator=generator, dtype=torch.float64)
    of_each = evaluation.correct_poses_score(largest)
    torch.testing.assert_close(of_each.amax(1), evaluation.correct_poses_score(largest.amin(1)))
    assert (evaluation.correct_poses_score(largest.amin(1))[:, None] >= of_each).all()


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0.0, 299.0), (0.0015, 298.5), (0.1005, 199.5), (0.2995, 0.5), (0.3005, 0.0), (9.0, 0.0)],
)
def test_score_of_one_error(largest, expected):
    error = torch.tensor(largest, dtype=torch.float64)
    assert 1000 * evaluation.correct_poses_score(error).item() == pytest.approx(expected)


def test_alignment_forgives_a_similarity_and_the_spine_is_free(generator):
    target = 0.4 * randn(17, 3, generator=generator)
    turned = 1.3 * target @ rotvec_to_matrix(torch.tensor([0.3, 2.0, 0.1]).double()).mT + 0.5
    assert evaluation.largest_error(turned, target) > 0.3
    assert evaluation.largest_error(evaluation.aligned(turned, target), target) < 1e-9
    bent = target.clone()
    bent[H36M17.index("spine")] += 1
    assert evaluation.largest_error(bent, target) == 0
    assert (
        evaluation.largest_error(evaluation.aligned(bent, target), target) > 0.01
    )  # counts there


# ------------------------------------------------------------------------- correct joints


def test_fourteen_joints_count(generator):
    target = randn(17, 3, generator=generator)
    for joint, name in enumerate(H36M17.names):
        moved = target.clone()
        moved[joint, 0] += 0.151
        expected = 1 if name in ("pelvis", "spine", "nose") else 13 / 14
        assert evaluation.pck14(moved, target).item() == pytest.approx(expected)
        moved[joint, 0] -= 0.002
        assert evaluation.pck14(moved, target).item() == 1


def test_area_is_the_mean_over_thresholds(generator):
    target = randn(2, 17, 3, generator=generator)
    poses = target[:, None] + 0.08 * randn(2, 3, 17, 3, generator=generator)
    error = (poses - target[:, None]).norm(dim=-1)[..., [1, 2, 3, 4, 5, 6, 8, *range(10, 17)]]
    expected = torch.stack([(error <= 0.005 * k).double().mean(-1) for k in range(31)]).mean(0)
    torch.testing.assert_close(evaluation.auc14(poses, target[:, None]), expected)


@pytest.mark.parametrize("measure", [evaluation.largest_error, evaluation.pck14, evaluation.auc14])
def test_other_skeletons_are_refused(measure):
    with pytest.raises(ValueError, match="17 joints of h36m17; got 16 predicted and 17 true ones"):
        measure(torch.zeros(2, 16, 3), torch.zeros(2, 17, 3))
    with pytest.raises(ValueError, match=r"got 14 predicted and 14 true.*lifting.data.complete"):
        measure(torch.zeros(14, 3), torch.zeros(14, 3))


# ------------------------------------------------------------------------- spread, calibration


def test_deviation_is_numpys_and_zero_for_a_point(generator):
    poses = randn(2, 7, 17, 3, generator=generator)
    expected = np.std(poses.numpy(), axis=1, ddof=1)
    np.testing.assert_allclose(evaluation.deviation(poses), expected)
    assert (evaluation.deviation(poses[:, :1]) == 0).all()


@pytest.mark.parametrize("count", [1, 20, 200])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_calibration_error_from_ranks_is_that_from_samples(count, scale, generator):
    samples = scale * torch.randn(50, count, 16, 3, generator=generator)
    truth = torch.randn(50, 16, 3, generator=generator)
    ranks = (metrics.distance_rank(samples, truth) * count).round().long()
    expected = metrics.expected_calibration_error(samples, truth).item()
    assert evaluation.calibration_error(ranks, count) == pytest.approx(expected, abs=1e-7)


def test_calibration_error_of_uniform_ranks_and_of_none():
    uniform = torch.arange(200)[:, None].expand(-1, 16)
    assert evaluation.calibration_error(uniform, 200) < 0.01
    with pytest.raises(ValueError, match=r"must hold images and joints; got shape \(0, 16\)"):
        evaluation.calibration_error(uniform[:0], 200)


def test_ece_wants_rows_of_one_evaluation():
    rows = pd.DataFrame({f"drank_{name}": [1, 3] for name in evaluation.BODY_JOINTS})
    with pytest.raises(ValueError, match="hypotheses is missing"):
        evaluation.ece(rows)
    with pytest.raises(ValueError, match="drank_nose is missing"):
        evaluation.ece(rows.drop(columns="drank_nose").assign(hypotheses=4))
    with pytest.raises(ValueError, match=r"one number of hypotheses.*got \[4, 8\]"):
        evaluation.ece(rows.assign(hypotheses=[4, 8]))
    with pytest.raises(ValueError, match=r"got \[\]: an empty selection"):
        evaluation.ece(rows.assign(hypotheses=4)[:0])
    ranks = torch.tensor([[1], [3]]).expand(2, 16)
    assert evaluation.ece(rows.assign(hypotheses=4)) == evaluation.calibration_error(ranks, 4)


def test_alignment_is_that_of_pa_mpjpe(generator):
    target = randn(2, 17, 3, generator=generator)
    poses = randn(2, 3, 17, 3, generator=generator)
    moved = evaluation.aligned(poses, target[:, None])
    expected = metrics.pa_mpjpe(poses, target[:, None])
    torch.testing.assert_close(metrics.mpjpe(moved, target[:, None]), expected)
