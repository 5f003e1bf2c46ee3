from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from humr.figures import posteriors
from humr.figures.charts import COLOURS


@pytest.fixture
def around(case):
    """Twenty points in a circle about the middle of the box, a tenth of its side away."""
    angle = torch.linspace(0, 6, 20)
    x, y, side = case.posterior.batch.box[0]
    return torch.stack([x + 0.1 * side * angle.cos(), y + 0.1 * side * angle.sin()], -1)


def test_the_window_holds_the_box_and_the_points(case, around):
    box = case.posterior.batch.box[0]
    near = posteriors.window_of(case.posterior, [around])
    assert float(near.crop.side / box[2]) == pytest.approx(1.1)
    far = posteriors.window_of(case.posterior, [around, around + 0.8 * box[2]])
    assert near.crop.side < far.crop.side <= 2.0 * box[2] * 1.001
    assert (far.crop.to_crop(around + 0.8 * box[2]).abs() <= 1).float().mean() > 0.9


def test_impossible_points_look_different(ax, case, around):
    window = posteriors.window_of(case.posterior, [around])
    possible = torch.arange(20) < 15
    posteriors.dots(ax, window, around, possible)
    blue, red = ax.collections
    assert (len(blue.get_offsets()), len(red.get_offsets())) == (15, 5)
    assert tuple(red.get_facecolor()[0][:3]) == mpl.colors.to_rgb(COLOURS["wrong"])
    np.testing.assert_allclose(red.get_offsets(), window.pixels(around)[15:], rtol=1e-5)


def test_the_share_in_the_title_is_of_hidden_joints_only(ax, case, around):
    window = posteriors.window_of(case.posterior, [around])
    share = posteriors.one_joint(ax, window, case, around, "wrist")
    expected = float(case.possible(around).float().mean()) if case.hidden else 1.0
    assert share == pytest.approx(expected)
    assert ("%" in ax.get_title("left") + ax.get_title()) == case.hidden


def test_the_mask_loss_pulls_what_is_off_the_mask(ax, case, around):
    window = posteriors.window_of(case.posterior, [around])
    batch = case.posterior.batch
    nobody, everybody = torch.zeros_like(batch.mask), torch.ones_like(batch.mask)
    size = batch.image_size[0]
    in_picture = int(((around >= 0) & (around < size)).all(-1).sum())
    for mask, expected in ((nobody, in_picture), (everybody, 0)):
        looked_at = replace(case.posterior, batch=replace(batch, mask=mask))
        other = replace(case, posterior=looked_at)
        assert posteriors.mask_pull(ax, window, other, around, around) == expected


def test_two_bodies_in_one_view_show_both_colours(case, body):
    bodies = [case.posterior.samples[i].vertices(body) for i in (0, 1)]
    tints = [posteriors.tinted(v, role) for v, role in zip(bodies, posteriors.PAIR, strict=True)]
    view = posteriors.side_by_side(bodies, tints, body).astype(int)
    blue = (view[..., 2] > view[..., 0] + 30).sum()
    red = (view[..., 0] > view[..., 2] + 30).sum()
    assert min(blue, red) > 100


def test_ends_are_about_the_hips_and_point_down(case, body):
    fig, (front, side) = plt.subplots(1, 2)
    posteriors.ends(front, side, case, body)
    assert front.get_ylim()[0] > front.get_ylim()[1]
    hips = posteriors.relative_to_hips(case.people.keypoints(body, "coco17"))[[11, 12]]
    torch.testing.assert_close(hips.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert len(front.collections) == len(posteriors.ENDS)
    plt.close(fig)


def test_rows_fill_their_axes(case, body):
    fig, axes = posteriors.grid(3, 5)
    posteriors.opposite(axes[0], case.posterior, body, case.joint)
    posteriors.hypotheses(axes[1], case.posterior, body, case.joint)
    posteriors.failure(axes[2], case, body)
    assert all(ax.images for ax in [*axes[0, :4], *axes[1, :4], *axes[2, :4]])
    posteriors.finding(fig, "what it shows")
    plt.close(fig)
