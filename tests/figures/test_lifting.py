import math

import numpy as np
import pytest
import torch
from matplotlib.patches import Ellipse

from humr.experiments.profiles import profile
from humr.figures import lifting
from humr.figures.lifting import SIZE
from humr.lifting import world
from humr.skeletons import COCO17, H36M17


@pytest.fixture(scope="module")
def shown():
    return lifting.render_example(profile("smoke").lifting.world, "test", 1)


def test_the_image_is_the_one_of_the_records(shown):
    """Rendered and detected again, it gives the same heatmaps as when the world was made."""
    assert shown.image.shape == (SIZE, SIZE, 3)
    peak = torch.as_tensor(shown.detection.heatmaps).flatten(1).amax(-1)
    assert torch.allclose(peak.float(), shown.records.peak[0], atol=1e-4)
    store = world.store(profile("smoke").lifting.world)
    assert torch.equal(shown.records.joints, store.load("test")[slice(1, 2)].joints)


def test_the_true_pose_is_projected_where_its_keypoints_are(shown):
    points = shown.projected(shown.records.batch().target)[0]
    truth = shown.pixels(shown.records.true_keypoints[0])
    for name in ("left_wrist", "right_knee", "left_ankle"):
        found = points[H36M17.index(name)]
        assert torch.allclose(found, truth[COCO17.index(name)], atol=4)


def test_detections_lie_where_the_heatmaps_peak(shown, ax):
    sure = int(shown.records.confidence[0].argmax())
    lifting.heatmap(ax, shown, sure)
    inner, outer = ax.patches
    joint = shown.pixels(shown.records.keypoints[0])[sure].numpy()
    assert np.linalg.norm(np.array(inner.center) - joint) < 12
    assert outer.width == pytest.approx(2 * inner.width)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5, 2.8])
def test_an_ellipse_has_the_axes_of_its_covariance(ax, angle):
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ torch.diag(torch.tensor([9.0, 4.0])) @ turn.T
    lifting.ellipses(ax, torch.tensor([1.0, 2.0]), covariance, colour="red", levels=(1.0,))
    (shape,) = ax.patches
    assert isinstance(shape, Ellipse)
    assert (shape.width, shape.height) == pytest.approx((6, 4), abs=1e-4)
    assert math.sin(math.radians(shape.angle) - angle) == pytest.approx(0, abs=1e-4)
    assert tuple(shape.center) == (1, 2)


def test_hypotheses_are_dots_and_few_of_them_sticks(shown, ax):
    samples = shown.records.batch().target.expand(7, 17, 3)
    lifting.hypotheses(ax, shown, samples, 16, few=2)
    assert len(ax.collections[0].get_segments()) == 2 * len(H36M17.bones)
    dots = ax.collections[1].get_offsets()
    assert len(dots) == 7
    np.testing.assert_allclose(dots[0], ax.lines[0].get_xydata()[0], atol=1e-2)
    assert ax.get_ylim() == (SIZE, 0)


def test_the_person_has_all_detected_joints(shown, ax):
    lifting.person(ax, shown, "photograph")
    assert len(ax.collections[0].get_offsets()) == 17
    assert "photograph" in (ax.get_title(), ax.get_title(loc="left"))  # where the style has it


# Poses as stick figures


@pytest.fixture
def poses(generator):
    return 0.3 * torch.randn(30, 17, 3, generator=generator)


def test_every_bone_is_drawn_once_where_it_is(ax, poses):
    lifting.stick_figures(ax, poses[:2], lifting.SIDE, colour="red")
    (lines,) = ax.collections
    segments = lines.get_segments()
    assert len(segments) == 2 * len(H36M17.bones)
    parent, child = H36M17.bones[0]
    expected = poses[0, [parent, child]][:, [2, 1]].numpy()
    assert segments[0] == pytest.approx(expected)


def test_hypotheses_mode_and_label(ax, poses):
    lifting.stick_hypotheses(ax, poses, poses[0], lifting.FRONT, mode=poses[1], limit=7)
    counts = [len(part.get_segments()) // len(H36M17.bones) for part in ax.collections]
    assert counts == [7, 1, 1]
    assert ax.get_xlim() == ax.get_ylim() == (-lifting.REACH, lifting.REACH)
    thin, mode, label = ax.collections
    assert thin.get_linewidth()[0] < mode.get_linewidth()[0]
    assert tuple(label.get_colors()[0][:3]) == (0, 0, 0)
