"""Tests of humr.lifting.world: who is filmed how, and one shard through renderer and detector."""

import pytest
import torch

from humr.geometry import project
from humr.lifting import world
from humr.lifting.config import GROUPS, LiftingWorld
from humr.lifting.data import CERTAIN, derivation
from humr.skeletons import H36M17, MPII16
from humr.world.poses import TEMPLATE_NAMES

WORLD = LiftingWorld(
    train=6, validation=6, test=6, transfer=6, shard=6, window=160, backgrounds=2,
    train_subjects=3, subjects=2, occluded=0.0,
)  # fmt: skip


def test_no_split_shares_a_subject_with_another():
    shapes = [world.split_setting(WORLD, s).setting.subjects for s in world.SPLITS]
    assert [len(s) for s in shapes] == [3, 2, 2, 2, 2, 2]
    everybody = torch.cat(shapes)
    assert len(everybody.unique(dim=0)) == len(everybody)


def test_transfer_has_other_actions_and_cameras():
    assert len(world.ACTIONS) == 15
    assert set(world.ACTIONS) | set(world.HELD_OUT_ACTIONS) == set(TEMPLATE_NAMES)
    usual = world.split_setting(WORLD, "test").setting
    for group in GROUPS:
        assert not set(world.split_setting(WORLD, group).setting.templates) & set(usual.templates)
    drawn = world.scenes(WORLD, "outdoor", 0)
    assert (drawn.focal / drawn.image_size.norm(dim=-1) <= 0.7).all()
    names = {TEMPLATE_NAMES[i] for i in drawn.template.tolist()}
    assert names <= set(world.HELD_OUT_ACTIONS)


@pytest.fixture(scope="module")
def shard():
    return world.make_shard(WORLD, "test", 0)


def test_a_shard_holds_what_the_detector_sees(shard):
    assert len(shard) == 6
    projected = project(shard.joints, shard.focal, shard.image_size / 2)
    true = projected[:, list(H36M17.indices(MPII16.names))]
    error = (derivation() @ shard.keypoints - true).norm(dim=-1) / shard.box[:, 2:]
    assert error.median() < 0.03
    mean = shard.gaussians().derived().mean
    assert ((mean - true).norm(dim=-1) / shard.box[:, 2:]).median() < 0.03
    assert shard.converged.float().mean() > 0.9
    names = {TEMPLATE_NAMES[i] for i in shard.template.tolist()}
    assert names <= set(world.ACTIONS)


def test_moments_and_fits_agree_where_the_detector_is_sure(shard):
    sure = shard.peak > 0.7
    fit, moments = (shard.gaussians(kind).sigma[sure] for kind in ("fit", "moments"))
    assert (fit / moments).median().item() == pytest.approx(1, abs=0.15)


def test_most_sure_joints_count_as_certain(shard):
    sure = shard.confidence >= 0.9
    longer = shard.gaussians().sigma[sure][:, 1]
    assert len(longer) >= 20
    assert (longer > CERTAIN).float().mean() < 0.4


def test_a_shard_repeats(shard):
    again = world.make_shard(WORLD, "test", 0)
    assert torch.equal(again.fits, shard.fits)
    assert torch.equal(again.joints, shard.joints)
