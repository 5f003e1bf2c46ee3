from dataclasses import fields
from itertools import pairwise

import pytest

from humr.config import config_hash
from humr.experiments import ablations
from humr.experiments.ablations import STUDIES, differing, home, variant, variants
from humr.experiments.profiles import PROFILES
from humr.licensed.datasets import PaperRun


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu"])
def test_variants_of_a_study_have_their_own_names_and_configurations(study, profile):
    found = variants(study, profile)
    assert len({v.name for v in found}) == len(found)
    assert len({v.label for v in found}) == len(found)
    assert len({v.key for v in found}) == len(found)


def differences(first, second):
    return {
        f"{part.name}.{f.name}"
        for part in fields(first)
        for f in fields(getattr(first, part.name))
        if getattr(getattr(first, part.name), f.name)
        != getattr(getattr(second, part.name), f.name)
    }


def test_components_are_added_one_at_a_time():
    chain = [v.run for v in variants("components", "laptop")]
    steps = [differences(a, b) for a, b in pairwise(chain)]
    assert steps == [
        {"model.box", "model.window_info"},
        {"model.pose"},
        {"model.flow"},
        {"weights.heatmap", "weights.random_keypoints"},  # the first replaces the second
        {"weights.mask"},
    ]


@pytest.mark.parametrize(
    ("study", "reference", "parts"),
    [
        ("supervision", "mmd", {"weights", "supervision", "model"}),
        ("mask", "mask_0", {"weights", "supervision"}),
        ("many", "heatmaps", {"weights", "supervision", "training"}),
        ("few", "heatmaps", {"weights", "supervision"}),
        ("unlabelled", "heatmaps", {"weights", "supervision", "training"}),
    ],
)
def test_rows_of_a_table_differ_in_what_the_table_is_about(study, reference, parts):
    base = variant(study, reference, "laptop").run
    for row in variants(study, "laptop"):
        assert {d.split(".")[0] for d in differences(base, row.run)} <= parts, row.name


def test_rows_that_the_paper_shares_are_one_run():
    shared = [("components", "realnvp", "supervision", "all_1e-3"),
              ("components", "mmd", "supervision", "mmd"),
              ("components", "mask", "mask", "mask_0.01"),
              ("many", "none", "supervision", "none")]  # fmt: skip
    for study, name, other, twin in shared:
        first, second = variant(study, name, "laptop"), variant(other, twin, "laptop")
        assert config_hash(first.run) == config_hash(second.run)


def test_a_seed_changes_the_training_alone():
    first = variant("mask", "mask_0.1", "laptop")
    assert differences(first.run, first.seeded(2).run) == {"training.seed"}
    assert first.seeded(2).run.training.seed == 2


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown study 'colour'; expected one of components"):
        variants("colour", "smoke")
    with pytest.raises(ValueError, match="has no variant 'gold'; it has mask_0"):
        variant("mask", "gold", "smoke")


# ------------------------------------------------------------------------- licensed data


@pytest.mark.parametrize("profile", ["paper-smoke", "paper"])
@pytest.mark.parametrize("study", ablations.MESH_STUDIES)
def test_studies_of_licensed_people(study, profile):
    if study in ablations.OPEN_ONLY:
        assert home(study, profile) == PROFILES[profile].beside
        with pytest.raises(ValueError, match="all licensed images have their labels"):
            variants(study, profile)
        return
    assert home(study, profile) == profile
    found = variants(study, profile)
    assert len({v.key for v in found}) == len(found)
    assert all(isinstance(v.run, PaperRun) for v in found)
    assert {v.default_focal for v in found if v.name != "focal"} == {True}
    assert [v.default_focal for v in found if v.name == "focal"] == [False] * (study == "switches")
    known = {v.name for v in variants(study, "laptop")}
    assert known - {v.name for v in found} == ({"gaussian"} if study == "many" else set())


def test_the_mask_loss_weighs_what_it_does_in_the_paper():
    assert variant("components", "mask", "paper").run.weights.mask == 0.1
    assert variant("components", "mask", "laptop").run.weights.mask == 0.01
    assert home("few", "laptop") == home("components", "laptop") == "laptop"


def test_differing_fields_are_named():
    chain = {v.name: v.run for v in variants("components", "laptop")}
    assert differing(chain["pose"], chain["realnvp"]) == "model.flow: glow → realnvp"
    assert differing(chain["pose"], chain["pose"]) == ""  # fields that are None are equal
