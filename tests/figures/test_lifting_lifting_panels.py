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
def seen():
    return lifting.look(profile("smoke").lifting.world, "test", 1)


def test_the_image_is_the_one_of_the_records(seen):
    """Rendered and detected again, it gives the same heatmaps as when the world was made."""
    assert seen.image.shape == (SIZE, SIZE, 3)
    peak = torch.as_tensor(seen.detection.heatmaps).flatten(1).amax(-1)
    assert torch.allclose(peak.float(), seen.records.peak[0], atol=1e-4)
    store = world.store(profile("smoke").lifting.world)
    assert torch.equal(seen.records.joints, store.load("test")[slice(1, 2)].joints)


def test_the_true_pose_is_projected_where_its_keypoints_are(seen):
    points = seen.projected(seen.records.batch().target)[0]
    truth = seen.pixels(seen.records.true_keypoints[0])
    for name in ("left_wrist", "right_knee", "left_ankle"):
        found = points[H36M17.index(name)]
        assert torch.allclose(found, truth[COCO17.index(name)], atol=4)


def test_detections_lie_where_the_heatmaps_peak(seen, ax):
    sure = int(seen.records.confidence[0].argmax())
    lifting.heatmap(ax, seen, sure)
    inner, outer = ax.patches
    assert (
        np.hypot(*(np.array(inner.center) - seen.pixels(seen.records.keypoints[0])[sure].numpy()))
        < 12
    )
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


def test_hypotheses_are_dots_and_few_of_them_sticks(seen, ax):
    samples = seen.records.batch().target.expand(7, 17, 3)
    lifting.hypotheses(ax, seen, samples, 16, few=2)
    assert len(ax.collections[0].get_segments()) == 2 * len(H36M17.bones)
    dots = ax.collections[1].get_offsets()
    assert len(dots) == 7
    np.testing.assert_allclose(dots[0], ax.lines[0].get_xydata()[0], atol=1e-2)
    assert ax.get_ylim() == (SIZE, 0)


def test_the_person_has_all_detected_joints(seen, ax):
    lifting.person(ax, seen, "photograph")
    assert len(ax.collections[0].get_offsets()) == 17
    assert "photograph" in (ax.get_title(), ax.get_title(loc="left"))  # where the style has it


def test_widths_are_of_the_larger_axis(seen):
    wide = lifting.widest(seen.records)
    assert wide.shape == (1, 17)
    assert torch.equal(wide, seen.records.gaussians().sigma.amax(-1))
