import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree, procrustes
from scipy.spatial.transform import Rotation

from humr import metrics
from humr.bodies import surface
from humr.geometry import similarity_align


def randn(*shape, generator, scale=1.0):
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------- poses


def test_mpjpe_by_hand_and_centre():
    predicted = torch.tensor([[0.0, 0, 0], [3.0, 4, 0]])
    assert metrics.mpjpe(predicted, torch.zeros(2, 3)).item() == pytest.approx(2.5)
    moved = metrics.centre(predicted, [0, 1])
    torch.testing.assert_close(moved, torch.tensor([[-1.5, -2, 0], [1.5, 2, 0]]))
    assert torch.equal(metrics.centre(predicted + 7, [1])[1], torch.zeros(3))


def test_hypotheses_broadcast_against_one_target(generator):
    hypotheses = randn(4, 7, 5, 3, generator=generator)
    target = randn(4, 5, 3, generator=generator)
    for metric in (metrics.mpjpe, metrics.pa_mpjpe, metrics.pve, metrics.pck, metrics.auc):
        value = metric(hypotheses, target[:, None])
        assert value.shape == (4, 7)
        torch.testing.assert_close(value[2, 3], metric(hypotheses[2, 3], target[2]))


def procrustes_by_scipy(predicted, target):
    x, y = predicted - predicted.mean(0), target - target.mean(0)
    rotation = Rotation.align_vectors(y, x)[0].as_matrix()
    moved = x @ rotation.T
    scale = (moved * y).sum() / (x**2).sum()
    return np.linalg.norm(scale * moved - y, axis=-1).mean()


@pytest.mark.parametrize("mirror", [1, -1])
def test_pa_mpjpe_equals_scipy_also_for_reflections(mirror, generator):
    predicted = randn(20, 6, 3, generator=generator)
    target = predicted * torch.tensor([mirror, 1, 1]) + randn(
        20, 6, 3, generator=generator, scale=0.2
    )
    expected = [
        procrustes_by_scipy(*pair) for pair in zip(predicted.numpy(), target.numpy(), strict=True)
    ]
    torch.testing.assert_close(metrics.pa_mpjpe(predicted, target), torch.tensor(expected))


def test_alignment_equals_two_independent_procrustes_of_scipy(device, generator):
    """Those allow reflections; for a pose and a disturbed copy of it the best needs none."""
    target = randn(30, 9, 3, generator=generator)
    source = 1.7 * target + 0.3 * randn(30, 9, 3, generator=generator) + 2
    aligned = similarity_align(source.to(device), target.to(device)).cpu()
    for moved, x, y in zip(aligned.numpy(), source.numpy(), target.numpy(), strict=True):
        disparity = procrustes(y, x)[2]  # of the target with norm 1
        centred = y - y.mean(0)
        assert ((moved - y) ** 2).sum() == pytest.approx(disparity * (centred**2).sum())
        x = x - x.mean(0)
        rotation, scale = orthogonal_procrustes(x, centred)
        expected = x @ rotation * scale / (x**2).sum() + y.mean(0)
        np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_alignment_has_any_batch_axes_and_keeps_the_type(device, generator):
    source = torch.randn(2, 3, 5, 4, 3, generator=generator).to(device)
    target = torch.randn(2, 3, 5, 4, 3, generator=generator).to(device)
    aligned = similarity_align(source, target)
    assert aligned.dtype == torch.float32
    assert aligned.device == source.device
    one = similarity_align(source[1, 2, 3].double(), target[1, 2, 3].double())
    torch.testing.assert_close(aligned[1, 2, 3].double(), one, atol=1e-6, rtol=0)


def test_no_small_change_of_the_alignment_is_better(generator):
    """First-order optimality for a mirrored pose, where no rotation fits well."""
    target = randn(6, 3, generator=generator)
    source = target * torch.tensor([-1.0, 1, 1]) + 0.1 * randn(6, 3, generator=generator)
    aligned = similarity_align(source, target)
    error = (aligned - target).square().sum()
    centre = aligned.mean(0)
    for axis in torch.eye(3).double():
        for step in (1e-3, -1e-3):
            turn = torch.as_tensor(Rotation.from_rotvec((step * axis).numpy()).as_matrix())
            changes = [(aligned - centre) @ turn + centre, aligned + step * axis]
            changes += [(aligned - centre) * (1 + step) + centre]
            for changed in changes:
                assert (changed - target).square().sum() > error


def test_pa_mpjpe_of_equal_targets_is_their_distance_from_the_mean(generator):
    """A pose of one point: the best scale is 0, so nothing is left."""
    point = torch.ones(6, 3).double()
    source = randn(6, 3, generator=generator)
    assert metrics.pa_mpjpe(source, point).item() == pytest.approx(0, abs=1e-12)
    assert metrics.pa_mpjpe(point, source) == pytest.approx(
        metrics.mpjpe(source.mean(0).expand(6, 3), source).item()
    )


def test_pa_mpjpe_ignores_similarities_but_not_reflections(generator):
    target = randn(8, 3, generator=generator)
    rotation = torch.as_tensor(Rotation.from_rotvec([0.3, -2, 1]).as_matrix())
    assert metrics.pa_mpjpe(2.5 * target @ rotation.T + 4, target).item() < 1e-12
    assert metrics.pa_mpjpe(target * torch.tensor([-1, 1, 1]), target).item() > 0.1


@pytest.mark.parametrize("shape", ["point", "line", "plane"])
def test_pa_mpjpe_of_degenerate_poses(shape, generator):
    rank = {"point": 0, "line": 1, "plane": 2}[shape]
    flat = randn(6, 3, generator=generator)
    flat[:, rank:] = 0
    rotation = torch.as_tensor(Rotation.from_rotvec([1.0, 2, 0.5]).as_matrix())
    assert metrics.pa_mpjpe(flat @ rotation.T + 1, flat).item() < 1e-7
    target = randn(6, 3, generator=generator)
    value = metrics.pa_mpjpe(flat, target)
    assert value <= metrics.mpjpe(target, target.mean(0, keepdim=True).expand(6, 3)) + 1e-9


def test_areas_and_pve_of_a_cube_face():
    """A square of two triangles and a triangle four times as large, sharing an edge's vertex."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, -4, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 4, 1]])
    area = surface.vertex_areas(vertices, faces)
    expected = torch.tensor([0.5 + 0.5 + 2, 0.5 + 2, 0.5 + 0.5, 0.5, 2]) / 3
    torch.testing.assert_close(area, expected)
    assert area.sum().item() == pytest.approx(3)
    moved = vertices.clone()
    moved[4, 2] = 3
    assert metrics.pve(moved, vertices).item() == pytest.approx(3 / 5)


def test_pck_and_auc_by_hand():
    distances = [0.0, 0.049, 0.149, 0.2]
    predicted = torch.tensor([[d, 0, 0] for d in distances]).double()
    assert metrics.pck(predicted, torch.zeros(4, 3).double()).item() == 0.75
    # thresholds 0, 5, ..., 150 mm: a joint at 0 / 49 / 149 / 200 mm passes 31 / 21 / 1 / 0 of them
    value = metrics.auc(predicted, torch.zeros(4, 3).double()).item()
    assert value == pytest.approx((31 + 21 + 1) / (4 * 31))


# --------------------------------------------------------------------- selection


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7), st.data())
def test_expected_best_matches_enumeration(errors, data):
    n = data.draw(st.integers(1, len(errors)))
    subsets = list(combinations(errors, n))
    error = torch.tensor(errors, dtype=torch.float64)
    best = sum(map(min, subsets)) / len(subsets)
    assert metrics.expected_best_of(error, n).item() == pytest.approx(best)


def test_expected_best_of_many_equals_exact_fractions_and_simulation(rng):
    error = np.sort(rng.random(1000))
    tensor = torch.as_tensor(error)
    for n in (1, 10, 500, 1000):
        weights = [math.comb(999 - i, n - 1) / math.comb(1000, n) for i in range(1000)]
        expected = float(np.dot(error, weights))
        assert metrics.expected_best_of(tensor, n).item() == pytest.approx(expected, rel=1e-9)
    drawn = [rng.choice(error, 10, replace=False).min() for _ in range(4000)]
    spread = np.std(drawn) / len(drawn) ** 0.5
    assert metrics.expected_best_of(tensor, 10).item() == pytest.approx(
        np.mean(drawn), abs=4 * spread
    )


def test_expected_best_of_estimates_without_bias_and_falls_with_n(generator):
    """Uniform errors: the smallest of n is 1 / (n + 1) on average."""
    error = torch.rand(3000, 20, generator=generator, dtype=torch.float64)
    means = [metrics.expected_best_of(error, n) for n in (1, 2, 5, 20)]
    for n, value in zip((1, 2, 5, 20), means, strict=True):
        noise = value.std().item() / 3000**0.5
        assert value.mean().item() == pytest.approx(1 / (n + 1), abs=4 * noise)
    assert all((b <= a).all() for a, b in pairwise(means))


def test_best_of_first_and_its_limits():
    error = torch.tensor([[3.0, 1.0, 2.0]])
    assert [metrics.best_of_first(error, n).item() for n in (1, 2, 3)] == [3, 1, 1]
    for n in (0, 4):
        with pytest.raises(ValueError, match=rf"n must lie in 1..3, the number .*; got {n}"):
            metrics.best_of_first(error, n)
        with pytest.raises(ValueError, match=r"n must lie in 1..3"):
            metrics.expected_best_of(error, n)


def test_medoid_and_mean(generator):
    hypotheses = randn(3, 9, 4, 3, generator=generator)
    matrix = metrics.mpjpe(
        hypotheses[:, :, None].expand(3, 9, 9, 4, 3), hypotheses[:, None].expand(3, 9, 9, 4, 3)
    )
    assert torch.equal(metrics.medoid(hypotheses), matrix.mean(-1).argmin(-1))
    torch.testing.assert_close(metrics.mean_pose(hypotheses), hypotheses.mean(1))


# ----------------------------------------------------------------- distributions


def test_spread_by_hand_and_for_one_hypothesis():
    two = torch.tensor([[[0.0, 0, 0], [1, 1, 1]], [[0.0, 0, 2], [1, 1, 1]]])
    assert metrics.spread(two).tolist() == [1, 0]
    assert metrics.spread(two[:1]).tolist() == [0, 0]


def test_energy_score_matches_brute_force(generator):
    x, y = randn(2, 6, 4, 3, generator=generator), randn(2, 4, 3, generator=generator)
    for image in range(2):
        error = metrics.mpjpe(x[image], y[image][None]).mean()
        pairs = [metrics.mpjpe(x[image, i], x[image, j]) for i, j in combinations(range(6), 2)]
        expected = error - 0.5 * torch.stack(pairs).mean()
        torch.testing.assert_close(metrics.energy_score(x, y)[image], expected)


def test_energy_score_in_pieces_equals_the_whole(generator):
    x = torch.randn(1, 1500, 9, 3, generator=generator)  # 20 million distances: two pieces
    y = torch.randn(1, 9, 3, generator=generator)
    small = metrics.energy_score(x.double(), y.double())
    torch.testing.assert_close(metrics.energy_score(x, y).double(), small, rtol=1e-5, atol=1e-5)
    by_joint = [torch.pdist(x[0, :, j].double()).mean() for j in range(9)]
    expected = metrics.mpjpe(x, y[:, None]).mean().double() - 0.5 * torch.stack(by_joint).mean()
    torch.testing.assert_close(small[0], expected, rtol=1e-6, atol=1e-6)


def test_energy_score_of_a_point_forecast_is_mpjpe(generator):
    point, y = randn(3, 1, 5, 3, generator=generator), randn(3, 5, 3, generator=generator)
    expected = metrics.mpjpe(point[:, 0], y)
    torch.testing.assert_close(metrics.energy_score(point, y), expected)
    torch.testing.assert_close(metrics.energy_score(point.expand(3, 8, 5, 3), y), expected)
    norm = (point[:, 0] - y).flatten(1).norm(dim=1)
    torch.testing.assert_close(metrics.joint_energy_score(point, y), norm)


@pytest.mark.parametrize("pairs", [1, 50, 2**20])
def test_how_many_distances_are_held_does_not_matter(pairs, generator, monkeypatch):
    x, y = randn(2, 7, 3, 3, generator=generator), randn(2, 3, 3, generator=generator)
    expected, middle = metrics.energy_score_by_joint(x, y), metrics.medoid(x)
    mask = torch.rand(2, 12, 12, generator=generator) < 0.3
    distance = metrics.mask_distance(x[..., :2], mask)
    monkeypatch.setattr(metrics, "PAIRS", pairs)
    torch.testing.assert_close(metrics.energy_score_by_joint(x, y), expected)
    assert torch.equal(metrics.medoid(x), middle)
    torch.testing.assert_close(metrics.mask_distance(x[..., :2], mask), distance)


def test_energy_score_by_joint_is_that_of_each_joint(generator):
    x, y = randn(2, 6, 4, 3, generator=generator), randn(2, 4, 3, generator=generator)
    parts = metrics.energy_score_by_joint(x, y)
    torch.testing.assert_close(parts.mean(-1), metrics.energy_score(x, y))
    one = metrics.energy_score(x[:, :, 2:3], y[:, 2:3])
    torch.testing.assert_close(parts[:, 2], one)


def test_energy_score_does_not_depend_on_the_number_of_hypotheses(generator):
    """Mean over all pairs of hypotheses equals the score of all: an unbiased estimator."""
    x, y = randn(1, 6, 4, 3, generator=generator), randn(1, 4, 3, generator=generator)
    pairs = [metrics.energy_score(x[:, list(p)], y) for p in combinations(range(6), 2)]
    torch.testing.assert_close(torch.stack(pairs).mean(0), metrics.energy_score(x, y))


def test_energy_score_of_normal_forecasts_has_its_closed_form(generator):
    """Two 3D normals lie sqrt(8 / pi) times the root of their summed variances apart."""
    y = 50 * randn(4000, 4, 3, generator=generator)
    noise = 50 * randn(4000, 30, 4, 3, generator=generator)
    for kappa in (0.0, 0.4, 1.0, 1.5):
        value = metrics.energy_score(kappa * noise, y)
        expected = 100 * (2 / math.pi) ** 0.5 * (kappa**2 + 1) ** 0.5
        expected -= 100 * kappa / math.pi**0.5
        error = value.std().item() / len(value) ** 0.5
        assert value.mean().item() == pytest.approx(expected, abs=4 * error)


def test_energy_score_prefers_the_true_spread_and_best_of_does_not(generator):
    """Independent joints of 50 mm: best-of-100 rewards a forecast that is far too narrow.

    The true posterior loses even to a point: 85.9 against 79.8 mm; the winner has 73.3.
    """
    y = 50 * randn(300, 14, 3, generator=generator)
    noise = 50 * randn(300, 100, 14, 3, generator=generator)
    spreads = (0.0, 0.4, 1.0, 1.5)
    score = [metrics.energy_score(s * noise, y).mean().item() for s in spreads]
    best = [metrics.mpjpe(s * noise, y[:, None]).amin(1).mean().item() for s in spreads]
    assert min(score) == score[2]
    assert min(best) == best[1]
    assert best == pytest.approx([79.8, 73.3, 85.9, 106.6], abs=1.5)
    assert score == pytest.approx([79.8, 63.3, 56.4, 59.2], abs=1.5)


def test_joint_energy_score_sees_dependence(generator):
    """Two joints that move together: right marginals alone satisfy all but the full norm."""
    y = randn(600, 1, 3, generator=generator).expand(600, 2, 3)
    together = randn(600, 60, 1, 3, generator=generator).expand(600, 60, 2, 3)
    apart = randn(600, 60, 2, 3, generator=generator)
    seen = metrics.joint_energy_score(apart, y) - metrics.joint_energy_score(together, y)
    unseen = metrics.energy_score(apart, y) - metrics.energy_score(together, y)
    assert seen.mean() > 4 * seen.std() / 600**0.5
    assert abs(unseen.mean()) < 4 * unseen.std() / 600**0.5


# -------------------------------------------------------------------- image


@pytest.mark.parametrize("size", [9, 16])
def test_mask_distance_equals_a_kd_tree_over_all_pixels(size, generator):
    rows = torch.arange(size)
    disc = (rows[:, None] - size / 2) ** 2 + (rows - size / 3) ** 2 < (size / 3) ** 2
    mask = torch.stack((disc, torch.rand(size, size, generator=generator) < 0.3, ~disc))
    points = 3 * torch.rand(3, 40, 50, 2, generator=generator, dtype=torch.float64) - 1.5
    actual = metrics.mask_distance(points, mask)
    for image in range(3):
        centres = mask[image].nonzero().flip(-1).double() + 0.5
        expected = cKDTree(centres.numpy()).query(((points[image] + 1) * size / 2).numpy())[0]
        expected[expected <= 0.71] = 0
        np.testing.assert_allclose(actual[image].numpy(), expected, atol=1e-12)
    assert (actual == 0).any()


def test_percent_inside_and_minimum_distance_by_hand():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = True  # centre at (-0.75, -0.75); one mask pixel is 0.5 crop units
    points = torch.tensor([[[-0.75, -0.75], [0.0, 0.0]], [[0.25, -0.75], [0.0, 0.0]]])
    distance = metrics.mask_distance(torch.stack((points, points)), mask)
    assert distance[0, :, 0].tolist() == [0, 2]
    assert distance[1].isnan().all()  # empty mask
    invisible = torch.tensor([[True, False], [True, True]])
    assert metrics.percent_inside(distance, invisible)[0].item() == 50
    assert metrics.minimum_distance(distance, invisible)[0].item() == 1
    assert metrics.percent_inside(distance, invisible)[1].isnan()
    assert metrics.percent_inside(distance, invisible & False).isnan().all()
    assert math.isnan(metrics.minimum_distance(distance, invisible)[1].item())
