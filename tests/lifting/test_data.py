"""Tests of humr.lifting.data: conventions, derived joints, Gaussians, mirror images."""

import math

import pytest
import torch

from humr.bodies.body import load_body
from humr.geometry import Crop
from humr.heatmaps import GRID
from humr.lifting import data
from humr.lifting.data import Gaussians, complete, normalised
from humr.lifting.world import LiftingRecords
from humr.skeletons import COCO17, CONDITION13, H36M17, MPII16, POSE16


@pytest.fixture
def records(generator):
    return lifting_records(6, generator)


def lifting_records(count, generator):
    """People whose joints are noise; heatmaps with correlated Gaussians."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    joints = 0.3 * normal(count, 17, 3) + torch.tensor([0.0, 0.0, 4.0])
    joints[:, 0] = joints[:, H36M17.indices(["left_hip", "right_hip"])].mean(1)
    root = 1.5 * normal(count, 17, 2, 2) + 2 * torch.eye(2)
    spread = root @ root.mT
    fits = torch.cat(
        [torch.rand(count, 17, 1, generator=generator), 32 + 8 * normal(count, 17, 2),
         spread[..., 0, :], spread[..., 1, 1:]], -1,
    )  # fmt: skip
    return LiftingRecords(
        joints=joints,
        focal=torch.full((count,), 800.0),
        image_size=torch.tensor([640.0, 480.0]).expand(count, 2),
        box=torch.tensor([320.0, 240.0, 250.0]).expand(count, 3),
        window=torch.cat([320 + 9 * normal(count, 2), 280 + 9 * normal(count, 1),
                          0.2 * normal(count, 1)], -1),
        keypoints=torch.tensor([320.0, 240.0]) + 60 * normal(count, 17, 2),
        confidence=torch.ones(count, 17),
        peak=torch.ones(count, 17),
        fits=fits,
        rmse=torch.zeros(count, 17),
        converged=torch.ones(count, 17, dtype=torch.bool),
        moments=fits.clone(),
        template=torch.arange(count, dtype=torch.uint8),
        subject=torch.zeros(count, dtype=torch.uint8),
        true_keypoints=torch.zeros(count, 17, 2),
        visibility=torch.zeros(count, 17, dtype=torch.uint8),
    )  # fmt: skip


def test_a_batch_follows_the_conventions(records):
    batch = records.batch()
    assert batch.pose.mean(1).abs().max() < 1e-6
    assert torch.allclose(complete(batch.pose), batch.target, atol=1e-6)
    assert batch.target[:, 0].abs().max() == 0
    upright = records.joints[:, H36M17.index("head_top")] - records.joints[:, 0]
    head = batch.target[:, H36M17.index("head_top")]
    assert torch.allclose(head, upright * torch.tensor([1.0, -1.0, -1.0]))
    assert batch.points.mean(1).abs().max() < 1e-5
    assert batch.points.flatten(1).square().mean(1).sqrt().sub(1).abs().max() < 1e-5
    assert len(batch[2:4]) == 2


def test_a_2d_pose_does_not_know_where_and_how_large_it_is(generator):
    points = torch.randn(3, 16, 2, generator=generator)
    moved = 7 * points + torch.tensor([100.0, -3.0])
    assert torch.allclose(normalised(points), normalised(moved), atol=1e-5)
    up = normalised(torch.tensor([[0.0, 0.0], [0.0, 10.0]]))  # the second is lower on the screen
    assert up[0, 1] > up[1, 1]


def test_derived_joints_are_sums_of_detected_ones():
    weights = data.derivation()
    assert torch.allclose(weights.sum(1), torch.ones(16))
    knee = MPII16.index("left_knee")
    assert weights[knee].tolist() == [float(n == "left_knee") for n in COCO17.names]


def test_derived_joints_are_where_the_body_has_them():
    body = load_body("small")
    rest = torch.eye(3).expand(1, 22, 3, 3)
    shape = torch.zeros(1, 11)
    derived = data.derivation() @ body.keypoints(rest, shape, "coco17")[0]
    true = body.keypoints(rest, shape, "h36m17")[0, list(H36M17.indices(MPII16.names))]
    assert (derived - true)[:, :2].norm(dim=-1).max() < 0.01  # the spine lies behind, though


def test_covariances_turn_with_the_window():
    """A blob along the window's x axis, in a window that is turned by 30 degrees."""
    angle = math.radians(30)
    records = lifting_records(1, torch.Generator().manual_seed(0))
    records.window[0, 3] = angle
    records.fits[..., 3:] = torch.tensor([9.0, 0.0, 1.0])
    found = records.gaussians()
    along = torch.tensor([math.cos(angle), math.sin(angle)])
    scale = (data.SHARP_PIXELS / data.SHARP["fit"]) ** 2
    assert torch.allclose(found.covariance[0, 0] @ along, scale * 9 * along, atol=1e-4)
    window = Crop(records.window[:, :2], records.window[:, 2], records.window[:, 3])
    centre = window.to_image(GRID.to_crop(records.fits[..., 1:3]))
    assert torch.allclose(found.mean, centre)


def test_a_fit_that_ran_away_is_replaced_by_moments(records):
    """Four fits of the laptop profile's world did; one of them ended at 1e15 cells."""
    records.moments[..., 3:] = torch.tensor([4.0, 0.0, 4.0])
    records.fits[2, 5] = torch.tensor([math.inf, -1e15, 6e15, 4e10, -1e11, 5e11])
    records.converged[2, 5] = False
    found, moments = records.gaussians(), records.gaussians("moments")
    for name in ("amplitude", "mean", "covariance"):
        used, others = getattr(found, name), getattr(records[:2].gaussians(), name)
        assert torch.equal(used[2, 5], getattr(moments, name)[2, 5])
        assert torch.equal(used[:2], others)
    assert records.batch().condition.isfinite().all()


def test_means_stay_within_the_heatmap(records):
    records.fits[1, 3, 1:3] = torch.tensor([-200.0, 70.0])
    found = records.gaussians().mean[1, 3]
    window = Crop(records.window[1:2, :2], records.window[1:2, 2], records.window[1:2, 3])
    corner = window.to_image(GRID.to_crop(torch.tensor([[[0.0, 63.0]]])))[0, 0]
    assert torch.equal(found, corner)


def test_the_condition_has_y_up_and_the_papers_units():
    """An axis that points to the lower right of the screen has a negative covariance, y up."""
    mean = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(0))
    covariance = torch.tensor([[2.5, 1.5], [1.5, 2.5]]).expand(1, 16, 2, 2)  # axes 2 and 1 px
    amplitude = torch.full((1, 16), 2.0)
    plain = Gaussians(amplitude, mean, covariance).condition(doubled=False)
    assert plain.shape == (1, 13, 6)
    assert torch.allclose(plain[0, 0], torch.tensor(
        [1.2, *normalised(mean)[0, MPII16.index(CONDITION13.names[0])].tolist(),
         2.5 / 400, -1.5 / 400, 2.5 / 400]
    ))  # fmt: skip
    assert torch.allclose(plain, Gaussians(amplitude, mean, covariance).condition(doubled=True))


def test_wide_axes_are_cut_and_doubled():
    mean = torch.randn(1, 16, 2, generator=torch.Generator().manual_seed(0))
    covariance = torch.diag(torch.tensor([30.0**2, 3.0**2])).expand(1, 16, 2, 2)
    ones = torch.ones(1, 16)
    plain = Gaussians(ones, mean, covariance).condition(doubled=False)[0, 0]
    doubled = Gaussians(ones, mean, covariance).condition(doubled=True)[0, 0]
    assert plain[3:].tolist() == pytest.approx([0.5**2, 0, 0.15**2])
    assert doubled[3:].tolist() == pytest.approx([1.0, 0, 0.3**2])


def test_derived_gaussians_are_as_wide_as_their_sources():
    covariance = torch.eye(2).expand(1, 17, 2, 2).clone()
    covariance[0, COCO17.index("left_hip")] *= 9
    found = Gaussians(torch.ones(1, 17), torch.zeros(1, 17, 2), covariance).derived()
    assert torch.allclose(found.covariance[0, MPII16.index("pelvis")], 5 * torch.eye(2))
    assert torch.allclose(found.covariance[0, MPII16.index("head_top")], torch.eye(2))


def test_mirror_images(records):
    batch = records.batch()
    chosen = torch.tensor([True, False, True, False, False, False])
    mirrored = batch.mirrored(chosen)
    assert torch.equal(mirrored.pose[1], batch.pose[1])
    left, right = POSE16.index("left_wrist"), POSE16.index("right_wrist")
    expected = batch.pose[0, left] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(mirrored.pose[0, right], expected)
    left, right = CONDITION13.index("left_knee"), CONDITION13.index("right_knee")
    expected = batch.condition[0, left] * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    assert torch.equal(mirrored.condition[0, right], expected)
    again = mirrored.mirrored(chosen)
    for name in ("pose", "points", "condition", "target"):
        assert torch.equal(getattr(again, name), getattr(batch, name))


def test_one_wide_axis_makes_an_image_ambiguous(records):
    records.fits[..., 3:] = torch.tensor([1.0, 0.0, 1.0])
    records.fits[3, COCO17.index("left_wrist"), 3] = 5.1**2 * (1.4 / 2) ** 2
    assert records.ambiguous.tolist() == [False, False, False, True, False, False]


def test_drawn_with_mirror_images(records, generator):
    batch = records.batch(gaussians="moments", doubled=False)
    for mirror, low, high in ((True, 5, 35), (False, 40, 40)):
        drawn = batch.draw(40, generator=generator, mirror=mirror)
        same = (drawn.pose[:, None] == batch.pose).flatten(2).all(-1).any(1)
        assert low <= int(same.sum()) <= high


def test_images_are_drawn_where_they_are(records, generator):
    drawn = records.batch().to("meta").draw(5, generator=generator, mirror=True)
    assert {value.device.type for value in vars(drawn).values()} == {"meta"}
    assert len(drawn) == 5
