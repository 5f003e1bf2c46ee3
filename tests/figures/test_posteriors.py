import matplotlib as mpl
import numpy as np
import pytest
import torch

from humr.figures import posteriors
from humr.figures.charts import COLOURS
from humr.figures.posteriors import Window


def test_the_window_holds_the_box_and_the_points(example, around):
    box = example.posterior.batch.box[0]
    near = Window.of_points(example.posterior, [around])
    assert float(near.crop.side / box[2]) == pytest.approx(1.1)
    far = Window.of_points(example.posterior, [around, around + 0.8 * box[2]])
    assert near.crop.side < far.crop.side <= 2.0 * box[2] * 1.001
    assert (far.crop.to_crop(around + 0.8 * box[2]).abs() <= 1).float().mean() > 0.9


def test_impossible_points_look_different(ax, example, around):
    window = Window.of_points(example.posterior, [around])
    possible = torch.arange(20) < 15
    posteriors.dots(ax, window, around, possible)
    blue, red = ax.collections
    assert (len(blue.get_offsets()), len(red.get_offsets())) == (15, 5)
    assert tuple(red.get_facecolor()[0][:3]) == mpl.colors.to_rgb(COLOURS["wrong"])
    np.testing.assert_allclose(red.get_offsets(), window.pixels(around)[15:], rtol=1e-5)


def test_the_share_in_the_title_is_of_hidden_joints_only(ax, example, around):
    window = Window.of_points(example.posterior, [around])
    share = posteriors.one_joint(ax, window, example, around, "wrist")
    expected = float(example.possible(around).float().mean()) if example.hidden else 1.0
    assert share == pytest.approx(expected)
    assert ("%" in ax.get_title("left") + ax.get_title()) == example.hidden


def test_two_bodies_in_one_view_show_both_colours(example, body):
    bodies = [example.posterior.samples[i].vertices(body) for i in (0, 1)]
    tints = [
        posteriors.tinted(v, role) for v, role in zip(bodies, ("predicted", "wrong"), strict=True)
    ]
    view = posteriors.side_by_side(bodies, tints, body).astype(int)
    blue = (view[..., 2] > view[..., 0] + 30).sum()
    red = (view[..., 0] > view[..., 2] + 30).sum()
    assert min(blue, red) > 100
