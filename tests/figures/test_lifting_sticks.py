import pytest
import torch

from humr.figures import lifting
from humr.skeletons import H36M17


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
