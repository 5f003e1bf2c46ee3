"""Tests of humr.licensed.datasets: runs of the lifting systems on Human3.6M."""

import json
from dataclasses import replace

import pytest

from humr.config import config_hash, from_dict, to_dict
from humr.experiments.ablations import FLOW_STUDIES, PROPOSE_STUDIES, changed, variants
from humr.experiments.profiles import profile
from humr.licensed import lifting
from humr.licensed.datasets import THEIRS, Human36m, LiftingPaperRun, ProposePaperRun
from humr.licensed.human36m import ACTIONS, SUBJECTS
from humr.lifting.config import GROUPS, LiftingRule, LiftingRun, LiftingWorld, ProposeRun

RUNS = {LiftingRun: LiftingPaperRun, ProposeRun: ProposePaperRun}


def test_defaults_are_the_papers():
    flow, propose = profile("paper").lifting, profile("paper").propose
    assert isinstance(flow, LiftingPaperRun)
    assert isinstance(propose, ProposePaperRun)
    assert (flow.world.poses, propose.world.poses) == ("fits", "cpn")
    assert 4 * flow.world.test_stride == 64
    assert flow.world.stride == 1
    assert (flow.model.blocks, flow.model.hidden, flow.rule.hypotheses) == (8, 1024, 200)
    assert (flow.training.steps, flow.training.batch) == (155 * 482, 64)
    assert (flow.rule.best_of, flow.weights.mmd, flow.weights.heatmap) == (5, 10.0, 750.0)
    assert not flow.model.normalise
    assert not flow.rule.mirror
    assert not propose.rule.mirror
    # sizes and schedules are those that the classes of the open world have
    assert (flow.model, flow.training) == (LiftingRun().model, LiftingRun().training)
    assert (propose.model, propose.training) == (ProposeRun().model, ProposeRun().training)


def test_what_is_held_out_are_whole_actions_of_a_training_subject():
    world = Human36m()
    assert set(world.held_out) < set(ACTIONS)
    assert world.held_out_subject in SUBJECTS["train"].values()
    assert world.held_out_subject not in SUBJECTS["test"].values()


@pytest.mark.parametrize("run", [*RUNS.values()])
def test_descriptions_become_the_run_that_they_are_of(run):
    made = run(world=Human36m(poses="gt", held_out=("Eating", "Photo"), transfer=False))
    text = json.loads(json.dumps(to_dict(made)))
    (base,) = (open_ for open_, paper in RUNS.items() if paper is run)
    assert from_dict(base, text) == from_dict(run, text) == made
    assert type(from_dict(base, to_dict(base()))) is base
    with pytest.raises(ValueError, match="has no field"):
        from_dict(base, {"world": {"frames": 3}})


def test_splits():
    assert Human36m().tested == ("test", "ambiguous", *GROUPS)
    assert Human36m(poses="heatmaps").tested == Human36m().tested
    assert Human36m(poses="cpn").tested == ("test", *GROUPS)
    assert Human36m(poses="gt", transfer=False).splits == ("train", "validation", "test")
    assert LiftingWorld().tested == ("test", *GROUPS)


def test_ambiguous_images_are_a_split_where_there_are_heatmaps():
    hard = {poses: Human36m(poses=poses).hard for poses in ("fits", "heatmaps", "cpn", "gt")}
    assert hard == {"fits": "ambiguous", "heatmaps": "ambiguous", "cpn": "test", "gt": "test"}
    assert LiftingWorld().hard == "test"


def test_worlds_say_what_tables_call_them():
    """Titles of tables in the open world are those of the committed notebooks."""
    assert (LiftingWorld().label, LiftingWorld().where) == ("open world", "In the open world")
    assert (Human36m().label, Human36m().where) == ("Human3.6M", "On Human3.6M")
    assert list(LiftingWorld().groups.items()) == [(name, name) for name in GROUPS]
    assert list(Human36m().groups.values()) == ["3DHP GS", "3DHP noGS", "3DHP Outdoor"]
    assert Human36m(transfer=False).groups == {}
    assert tuple(THEIRS) == GROUPS
    assert list(THEIRS.values()) == list(lifting.SEQUENCES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": "hrnet"}, "poses must be one of fits, heatmaps, cpn, gt; got 'hrnet'"),
        ({"stride": 0}, "must be positive"),
        ({"test_stride": -1}, "must be positive"),
        ({"validation": 0}, "must be positive"),
        ({"held_out": ()}, "held_out must name at least one action"),
        ({"tested_images": -1}, "tested_images must not be negative; got -1"),
        ({"transfer_poses": "cpn"}, "transfer_poses must be one of labels, heatmaps; got 'cpn'"),
        (
            {"poses": "cpn", "transfer_poses": "heatmaps"},
            "heatmaps of the transfer set need Gaussians in training; poses is 'cpn'",
        ),
    ],
)
def test_worlds_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Human36m(**change)


def test_moments_need_heatmaps():
    moments = LiftingRule(gaussians="moments", mirror=False)
    with pytest.raises(ValueError, match=r"moments need heatmaps; world.poses is 'fits'"):
        LiftingPaperRun(rule=moments)
    run = LiftingPaperRun(rule=moments, world=Human36m(poses="heatmaps"))
    assert run.rule.gaussians == "moments"


def test_the_papers_ablations_are_made_of_the_papers_runs():
    rows = {v.name: v.run for v in variants("lifting", "paper")}
    assert type(rows["no_condition"]) is LiftingPaperRun
    assert rows["no_condition"].world == Human36m()
    assert {v.name for v in variants("lifting_switches", "laptop")} >= {"moments", "raw"}
    assert "moments" not in {v.name for v in variants("lifting_switches", "paper")}
    names = {type(v.run) for v in variants("propose", "paper")}
    assert names == {ProposePaperRun}


@pytest.mark.parametrize("name", ["paper", "paper-smoke"])
@pytest.mark.parametrize("study", [*FLOW_STUDIES, *PROPOSE_STUDIES])
def test_no_two_variants_are_the_same_run(study, name):
    """In particular mirror images: the papers' runs go without, so that they are the variant."""
    found = variants(study, name)
    assert len({v.key for v in found}) == len({v.name for v in found}) == len(found)
    mirrors = {v.name: v.run.rule.mirror for v in found}
    assert {name for name, mirror in mirrors.items() if mirror} <= {"mirrored"}
    assert ("mirrored" in mirrors) == (study == "lifting_switches")


def test_the_smallest_licensed_profile_reads_few_images():
    small = profile("paper-smoke")
    for run, poses in ((small.lifting, "fits"), (small.propose, "cpn")):
        assert isinstance(run.world, Human36m)
        assert (run.world.poses, run.world.tested_images) == (poses, 8)


def test_the_open_worlds_runs_keep_their_names():
    """Hashes that name folders and committed rows, from before this module existed."""
    laptop = profile("laptop")
    assert config_hash(laptop.lifting) == "e84e8bcd8210"
    assert config_hash(laptop.propose) == "f736fc7c4bfa"
    paper = LiftingPaperRun()
    assert config_hash(paper) != config_hash(LiftingRun())
    assert config_hash(changed(paper, world={"stride": 2})) != config_hash(paper)
    assert config_hash(replace(paper)) == config_hash(paper)
