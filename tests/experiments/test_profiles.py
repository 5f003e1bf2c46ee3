import pytest

from humr import files
from humr.config import World
from humr.experiments.ablations import variants
from humr.experiments.profiles import PROFILES, profile
from humr.lifting.config import LiftingWorld


def test_paper_profile_has_the_sizes_of_the_paper():
    run = profile("paper").run
    assert (run.model.blocks, run.model.hidden, run.training.batch) == (8, 1024, 64)
    assert run.model.features + run.model.pose_width + 3 == 979
    assert (run.training.steps, run.training.hypotheses) == (400_000, 25)


def test_profiles_have_the_names_that_the_front_door_knows():
    assert tuple(PROFILES) == files.PROFILES


def test_unknown_profiles_are_refused():
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        profile("huge")


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu"])
def test_a_study_differs_from_the_run_in_what_it_says(name):
    chosen = PROFILES[name]
    study, run = chosen.study, chosen.run
    assert study.world == run.world
    assert study.weights.mask == 0 < run.weights.mask
    assert study.supervision.poses is not None
    assert study.training.steps <= run.training.steps
    assert study.training.steps % study.training.validate_every == 0


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_an_open_world_to_show(name):
    chosen = PROFILES[name]
    assert isinstance(chosen.open.run.world, World)
    assert isinstance(chosen.open.lifting.world, LiftingWorld)
    assert (chosen.open is chosen) == (not chosen.beside)


def test_the_licensed_test_of_the_plumbing_reads_what_the_paper_reads():
    small, whole = PROFILES["paper-smoke"], PROFILES["paper"]
    assert small.run.world.train == whole.run.world.train
    assert small.run.world.test == whole.run.world.test
    assert small.lifting.world.poses == whole.lifting.world.poses
    assert small.propose.world.poses == whole.propose.world.poses
    assert small.run.model.features == whole.run.model.features
    assert small.run.training.steps < 10


def test_how_many_crops_are_kept_is_said_once_for_all_runs(monkeypatch):
    monkeypatch.setenv("HUMR_VARIANTS", "3")
    chosen = profile("paper")
    assert chosen.run.world.variants == chosen.study.world.variants == 3
    assert {item.run.world.variants for item in variants("components", "paper")} == {3}
    assert profile("laptop") is PROFILES["laptop"]
    monkeypatch.setenv("HUMR_VARIANTS", "many")
    with pytest.raises(ValueError, match=r"HUMR_VARIANTS must be a number .* got 'many'"):
        profile("paper")
    monkeypatch.setenv("HUMR_VARIANTS", "")
    assert profile("paper") is PROFILES["paper"]
