import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from humr import losses
from humr.losses import BANDWIDTHS

ARTICULATED = torch.tensor([False, True, True])


def randn(*shape, generator, scale=1.0):
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------ simple terms


def test_nll_is_per_dimension():
    normal = torch.distributions.Normal(torch.zeros(132).double(), 1.0)
    value = losses.nll(normal.log_prob(torch.zeros(1, 132).double()).sum(-1), 132)
    assert value.item() == pytest.approx(0.5 * math.log(2 * math.pi))


def test_shape_by_hand():
    predicted = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert losses.shape(predicted, torch.tensor([[0.0, 4.0], [0.0, 0.0]])).tolist() == [5, 0]


def test_reprojection_by_hand_and_ignores_weightless_joints():
    projected = torch.tensor([[[0.1, 0.2], [0.5, 0.5]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0.0, 0.5], [math.nan, 0.0]]], dtype=torch.float64)
    value = losses.reprojection(projected, target, torch.tensor([[2.0, 0.0]]).double())
    assert value.item() == pytest.approx(2 * (0.1 + 0.3))
    (gradient,) = torch.autograd.grad(value.sum(), projected)
    torch.testing.assert_close(gradient, torch.tensor([[[2.0, -2.0], [0.0, 0.0]]]).double())


def test_orthonormality_is_zero_for_rotations_only(generator):
    rotation = torch.linalg.qr(randn(2, 4, 3, 3, generator=generator))[0]
    sixd = rotation[..., :2, :].flatten(-2)
    torch.testing.assert_close(losses.orthonormality(sixd), torch.zeros(2).double())
    # rows (1, 0, 0), (1, 0, 0): the gram matrix is all ones, two of four entries are off by 1
    parallel = torch.tensor([[[1.0, 0, 0, 1, 0, 0]]])
    assert losses.orthonormality(parallel).item() == pytest.approx(0.5)
    assert losses.orthonormality(torch.zeros(1, 1, 6)).item() == pytest.approx(0.5)
    assert gradcheck(losses.orthonormality, randn(1, 2, 6, generator=generator).requires_grad_())


def test_orthonormality_is_not_rounded_under_autocast(device, generator):
    sixd = torch.randn(2, 4, 6, generator=generator).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        found = losses.orthonormality(sixd)
    assert torch.equal(found, losses.orthonormality(sixd))


def test_camera_scale_by_hand():
    value = losses.camera_scale(torch.tensor([0.0, 0.1]).double())
    torch.testing.assert_close(value, torch.tensor([1.0, math.exp(-2)]).double())


# --------------------------------------------------------------------------- MMD


@pytest.mark.parametrize("distance", [0.0, 0.1, 2.0])
def test_biased_mmd_of_two_points_matches_the_formula(distance):
    x, y = torch.zeros(1, 1, 2).double(), torch.tensor([[[distance, 0.0]]]).double()
    expected = sum(2 - 2 * a**2 / (a**2 + distance**2) for a in BANDWIDTHS)
    assert losses.mmd_biased(x, y).item() == pytest.approx(expected)


def brute_force_mmd(x, y):
    def k(a, b):
        return sum(s**2 / (s**2 + float((a - b).square().sum())) for s in BANDWIDTHS)

    def within(z):
        pairs = [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_mmd_matches_brute_force_with_unequal_counts(generator):
    x, y = randn(3, 4, 2, generator=generator), randn(3, 6, 2, generator=generator)
    expected = torch.tensor([brute_force_mmd(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(losses.mmd(x, y), expected.double())


def test_mmd_ignores_order_translation_and_is_symmetric(generator):
    x, y = randn(2, 5, 2, generator=generator), randn(2, 7, 2, generator=generator)
    shuffled = x[:, torch.randperm(5, generator=generator)]
    for estimator in (losses.mmd, losses.mmd_biased):
        torch.testing.assert_close(estimator(shuffled + 3, y + 3), estimator(x, y))
        torch.testing.assert_close(estimator(y, x), estimator(x, y))


def test_estimators_differ_by_the_predicted_bias(generator):
    """Equal distributions: U-statistic 0 on average, V-statistic (k(0) - E k)(1/n + 1/m)."""
    x, y = (randn(4000, n, 2, generator=generator, scale=0.15) for n in (5, 10))
    unbiased, biased = losses.mmd(x, y), losses.mmd_biased(x, y)
    error = unbiased.std() / len(unbiased) ** 0.5
    assert abs(unbiased.mean()) < 3 * error
    assert unbiased.min() < 0 <= biased.min()
    pairs = randn(2, 200_000, 2, generator=generator, scale=0.15)
    expected_kernel = losses.kernel((pairs[0] - pairs[1]).square().sum(-1)).mean()
    predicted = (len(BANDWIDTHS) - expected_kernel) * (1 / 5 + 1 / 10)
    torch.testing.assert_close(biased.mean(), predicted, rtol=0.02, atol=0)


def test_mmd_to_a_point_in_three_forms(generator):
    x, point = randn(2, 6, 2, generator=generator), randn(2, 2, generator=generator)
    expected = losses.mmd(x, point[:, None].expand(2, 6, 2))  # copies
    torch.testing.assert_close(losses.mmd_to_point(x, point), expected)
    torch.testing.assert_close(losses.mmd(x, point[:, None]), expected)  # one sample
    exact = point[:, None].expand(2, 6, 2)
    torch.testing.assert_close(losses.mmd_to_point(exact, point), torch.zeros(2).double())


def test_mmd_needs_two_predictions():
    with pytest.raises(ValueError, match="two or more samples; got 1"):
        losses.mmd(torch.zeros(1, 1, 2), torch.zeros(1, 4, 2))


def test_mmd_gradients(generator):
    x = randn(2, 3, 2, generator=generator, scale=0.3).requires_grad_()
    y = randn(2, 4, 2, generator=generator, scale=0.3)
    for estimator in (losses.mmd, losses.mmd_biased):
        assert gradcheck(lambda x, f=estimator: f(x, y), x)
    assert gradcheck(lambda x: losses.mmd_to_point(x, y[:, 0]), x)


# ------------------------------------------------------------------------- rules


def targets_for(points, confidence, **options):
    points = torch.tensor(points).double()[None]
    samples = points[:, None].expand(1, 4, -1, 2)
    confidence = torch.tensor([confidence], dtype=torch.float64)
    return losses.supervision_targets(samples, points, confidence, ARTICULATED, **options)


@pytest.mark.parametrize(
    ("confidence", "uncertain", "valid", "invisible"),
    [
        (0.9, [0, 0, 0], [1, 1, 1], [0, 0, 0]),
        (0.6, [0, 1, 1], [1, 1, 1], [0, 0, 0]),  # only articulated joints follow the heatmap
        (0.3, [0, 1, 1], [0, 1, 1], [1, 1, 1]),  # the others are skipped when not visible
    ],
)
def test_rules_by_confidence(confidence, uncertain, valid, invisible):
    targets = targets_for([[0.0, 0.0]] * 3, [confidence] * 3)
    assert targets.uncertain[0].tolist() == [bool(x) for x in uncertain]
    assert targets.valid[0].tolist() == [bool(x) for x in valid]
    assert targets.invisible[0].tolist() == [bool(x) for x in invisible]


def test_points_outside_the_crop_are_skipped_and_invisible():
    targets = targets_for([[1.2, 0.0], [0.0, -1.1], [math.nan, 0.0]], [0.9, 0.6, 0.6])
    assert not targets.valid.any()
    assert not targets.uncertain.any()
    assert targets.invisible.all()


def test_floor_of_the_official_code_sends_hopeless_joints_back_to_the_point():
    confidence = [0.1] * 3
    assert targets_for([[0.0, 0.0]] * 3, confidence).uncertain[0].tolist() == [False, True, True]
    official = targets_for([[0.0, 0.0]] * 3, confidence, floor=0.15)
    assert not official.uncertain.any()
    assert official.valid[0].tolist() == [False, True, True]


def mixed_targets(generator):
    """Joint 0 skipped or certain, 1 and 2 uncertain or certain."""
    points = randn(4, 3, 2, generator=generator, scale=0.3)
    samples = points[:, None] + randn(4, 6, 3, 2, generator=generator, scale=0.1)
    confidence = torch.tensor([[0.9, 0.9, 0.2], [0.3, 0.6, 0.6], [0.3, 0.9, 0.9], [0.3, 0.2, 0.8]])
    return losses.supervision_targets(samples, points, confidence.double(), ARTICULATED)


def test_heatmap_mmd_is_the_mean_over_all_joints(generator):
    targets = mixed_targets(generator)
    projected = randn(4, 5, 3, 2, generator=generator, scale=0.3)
    expected = torch.zeros(4, 3).double()
    for image in range(4):
        for joint in range(3):
            x = projected[image, :, joint]
            if targets.valid[image, joint]:
                y = targets.points[image, joint].expand(6, 2)
                if targets.uncertain[image, joint]:
                    y = targets.samples[image, :, joint]
                expected[image, joint] = losses.mmd(x, y)
    assert (expected == 0).sum() == 3
    torch.testing.assert_close(losses.heatmap_mmd(projected, targets), expected.mean(-1))


def test_heatmap_mmd_biased_replaces_the_first_sample(generator):
    targets = mixed_targets(generator)
    projected = randn(4, 5, 3, 2, generator=generator, scale=0.3)
    plain = losses.heatmap_mmd_biased(projected, targets, first_is_point=False)
    official = losses.heatmap_mmd_biased(projected, targets)
    image, joint = 1, 2
    samples = targets.samples[image, :, joint].clone()
    before = losses.mmd_biased(projected[image, :, joint], samples)
    samples[0] = targets.points[image, joint]
    after = losses.mmd_biased(projected[image, :, joint], samples)
    other = torch.stack(
        [
            losses.mmd_biased(
                projected[image, :, 1], torch.cat((first, targets.samples[image, 1:, 1]))
            )
            for first in (targets.samples[image, :1, 1], targets.points[image, 1][None])
        ]
    )
    torch.testing.assert_close(plain[image], (before + other[0]) / 3)
    torch.testing.assert_close(official[image], (after + other[1]) / 3)


def test_heatmap_mmd_gradient_and_undefined_targets(generator):
    targets = mixed_targets(generator)
    projected = randn(4, 3, 3, 2, generator=generator, scale=0.3).requires_grad_()
    assert gradcheck(lambda x: losses.heatmap_mmd(x, targets), projected)
    assert gradcheck(lambda x: losses.heatmap_mmd_biased(x, targets), projected)
    nothing = targets_for([[math.nan, 0.0]] * 3, [0.9] * 3)
    value = losses.heatmap_mmd(projected[:1], nothing)
    (gradient,) = torch.autograd.grad(value.sum(), projected)
    assert value.item() == 0
    assert not gradient.any()


# -------------------------------------------------------------------------- mask


def distance_to_mask(points, mask):
    """Brute force, in mask pixels: distance to the nearest centre of a mask pixel."""
    size = mask.shape[-1]
    distances = []
    for own, inside in zip((points + 1) * size / 2, mask, strict=True):
        row, column = inside.nonzero(as_tuple=True)
        centres = torch.stack((column, row), -1).to(points.dtype) + 0.5
        difference = own[..., None, :] - centres
        distances.append(difference.norm(dim=-1).amin(-1))
    return torch.stack(distances)


@pytest.mark.parametrize("size", [8, 13])
def test_look_up_equals_the_full_distance(size, generator):
    mask = torch.rand(3, size, size, generator=generator) < 0.2
    points = 2.6 * torch.rand(3, 4000, 2, generator=generator, dtype=torch.float64) - 1.3
    distance = distance_to_mask(points, mask)
    assert ((distance - 0.71).abs() > 1e-9).all()
    expected = distance <= losses.MASK_TOLERANCE
    assert 0.1 < expected.double().mean() < 0.7
    assert torch.equal(losses.inside_mask(points, mask), expected)
    half = distance_to_mask(points + 1 / size, mask)  # as if every pixel began at its middle
    assert torch.equal(losses.inside_mask(points, mask, whole=True), half <= losses.MASK_TOLERANCE)


def test_look_up_uses_x_before_y_and_pixel_centres():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 3] = True  # top row, right column: centre at (0.75, -0.75)
    points = torch.tensor(
        [[[0.75, -0.75], [-0.75, 0.75], [0.75, -0.40], [0.75, -0.39], [9e9, 0.0]]]
    )
    assert losses.inside_mask(points, mask)[0].tolist() == [True, False, True, False, False]
    undefined = torch.tensor([[[math.nan, 0.0], [math.inf, -math.inf]]])
    assert not losses.inside_mask(undefined, torch.ones(1, 4, 4, dtype=torch.bool)).any()


def person():
    """One image: the left half of the crop belongs to the person; two joints, three targets."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    targets = torch.tensor([[[[-0.5, 0.0], [-0.1, 0.6]], [[-0.9, 0.0], [-0.5, 0.5]]]]).double()
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    return mask, targets, valid


def test_mask_loss_by_hand():
    mask, targets, valid = person()
    invisible = torch.tensor([[True, False]])
    # joint 0: off the person, on the person, outside the crop; joint 1 is visible
    projected = torch.tensor(
        [[[[0.5, 0.25], [0.9, 0.9]], [[-0.5, 0.3], [0.9, 0.9]], [[1.5, 0.0], [0.9, 0.9]]]]
    ).double()
    value = losses.mask_loss(projected, mask, targets, valid, invisible)
    assert value.item() == pytest.approx((1.0 + 0.25) / 3)
    valid[0, 0, 0] = False  # the nearer sample is not on the mask
    targets[0, 0, 0] = math.nan
    value = losses.mask_loss(projected, mask, targets, valid, invisible)
    assert value.item() == pytest.approx((1.4 + 0.25) / 3)
    valid[0, :, 0] = False  # nothing to go to
    assert losses.mask_loss(projected, mask, targets, valid, invisible).item() == 0


def test_any_joint_takes_the_closest_target_of_all_joints():
    mask, targets, valid = person()
    projected = torch.tensor([[[[0.5, 0.25], [0.9, 0.9]]]]).double()
    invisible = torch.tensor([[True, False]])
    value = losses.mask_loss(projected, mask, targets, valid, invisible, any_joint=True)
    assert value.item() == pytest.approx(0.6 + 0.35)  # to (-0.1, 0.6), which is joint 1's


def test_mask_loss_matches_brute_force(generator):
    images, hypotheses, joints, samples = 3, 7, 4, 5
    mask = torch.rand(images, 9, 9, generator=generator) < 0.3
    projected = 1.3 * (
        2 * torch.rand(images, hypotheses, joints, 2, generator=generator).double() - 1
    )
    targets = 2 * torch.rand(images, samples, joints, 2, generator=generator).double() - 1
    valid = losses.inside_mask(targets, mask)
    invisible = torch.rand(images, joints, generator=generator) < 0.6
    off = distance_to_mask(projected, mask) > losses.MASK_TOLERANCE
    gate = off & (projected.abs() <= 1).all(-1) & invisible[:, None]
    assert 5 < gate.sum() < gate.numel() / 2
    every = torch.cdist(projected.flatten(1, 2), targets.flatten(1, 2), p=1)
    every = every.masked_fill(~valid.flatten(1)[:, None], torch.inf)
    every = every.view(images, hypotheses, joints, samples, joints)
    own = torch.stack([every[:, :, j, :, j].amin(-1) for j in range(joints)], -1)
    for loss, nearest in (
        (losses.mask_loss, own),
        (partial(losses.mask_loss, any_joint=True), every.amin((-2, -1))),
    ):
        nearest = nearest.masked_fill(nearest.isinf(), 0)
        expected = (nearest * gate).sum(-1).mean(-1)
        torch.testing.assert_close(loss(projected, mask, targets, valid, invisible), expected)


def test_mask_loss_gradient_points_to_the_target_and_vanishes_on_the_person(generator):
    mask, targets, valid = person()
    invisible = torch.ones(1, 2, dtype=torch.bool)
    projected = torch.tensor([[[[0.5, 0.25], [-0.5, 0.5]]]]).double().requires_grad_()
    assert gradcheck(lambda x: losses.mask_loss(x, mask, targets, valid, invisible), projected)
    value = losses.mask_loss(projected, mask, targets, valid, invisible)
    (gradient,) = torch.autograd.grad(value.sum(), projected)
    torch.testing.assert_close(gradient, torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]).double())


def test_mask_loss_without_anything_to_penalise_keeps_the_graph():
    mask, targets, valid = person()
    projected = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    value = losses.mask_loss(projected, mask | True, targets, valid, torch.ones(1, 2) > 0)
    value.sum().backward()
    assert value.item() == 0
    assert not projected.grad.any()


def test_mask_loss_needs_targets():
    mask, targets, valid = person()
    with pytest.raises(ValueError, match="at least one target sample"):
        losses.mask_loss(
            torch.zeros(1, 1, 2, 2).double(), mask, targets[:, :0], valid[:, :0], valid[:, 0]
        )


def test_joints_outside_the_crop_are_punished_only_if_asked():
    projected = torch.tensor([[[[1.5, 0.0], [0.5, 0.5], [0.0, 0.0]]]])
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True  # the left half
    invisible = torch.tensor([[True, True, False]])
    inside = losses.mask_penalised(projected, mask, invisible)
    beyond = losses.mask_penalised(projected, mask, invisible, beyond=True)
    assert inside[0, 0].tolist() == [False, True, False]
    assert beyond[0, 0].tolist() == [True, True, False]
    targets = torch.tensor([[[[-0.5, 0.0]] * 3]])
    args = projected, mask, targets, torch.ones(1, 1, 3, dtype=torch.bool), invisible
    for any_joint in (False, True):
        loss = partial(losses.mask_loss, *args, any_joint=any_joint)
        assert loss().item() == pytest.approx(1.5)
        assert loss(beyond=True).item() == pytest.approx(1.5 + 2.0)


def test_with_whole_pixels_the_crop_ends_at_the_last_one():
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[0, 100, 100] = True
    pixels = torch.tensor(
        [[0.0, 0], [222.9, 222.9], [223.4, 5], [-0.1, 5], [100, 100.7], [100, 100.8]]
    )
    projected = (pixels / 112 - 1)[None, None]
    invisible = torch.ones(1, len(pixels), dtype=torch.bool)
    pays = losses.mask_penalised(projected, mask, invisible, whole=True)[0, 0].tolist()
    assert pays == [True, True, False, False, False, True]
    assert losses.mask_penalised(projected, mask, invisible)[0, 0].tolist()[
        2
    ]  # 0.6 px from the end


# ---------------------------------------------------------------------------- best of many


def test_best_of_by_sorting(generator):
    errors = torch.randn(3, 9, generator=generator)
    kept = errors.gather(1, losses.best_of(errors, 4)).sort(1).values
    torch.testing.assert_close(kept, errors.sort(1).values[:, :4])


@pytest.mark.parametrize("count", [0, 10])
def test_best_of_must_fit_the_hypotheses(count, generator):
    with pytest.raises(ValueError, match=rf"best_of must lie in 1..9, .*; got {count}"):
        losses.best_of(torch.randn(3, 9, generator=generator), count)
