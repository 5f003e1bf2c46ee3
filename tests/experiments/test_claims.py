import inspect

import numpy as np
import pandas as pd
import pytest

from humr import evaluation
from humr.experiments import claims
from humr.experiments.ablations import FLOW_STUDIES, PROPOSE_STUDIES, STUDIES, variants
from humr.experiments.statistics import Claim
from humr.files import DATA
from humr.lifting import evaluation as lifting_evaluation
from humr.skeletons import H36M17

ALL = [(topic, claim) for topic, found in claims.by_topic().items() for claim in found]
PEER = {"spread_gap", "spread_ratio", "over_detector", "over_mean", "pck_over_sample"}
PEER |= {"depth_over_x", "depth_over_y", "ends_over_rest"}
PAIRS = {"scarcity": {"few", "many"}, "systems": {"flow", "propose"}}  # topics of two studies
WITHOUT = {"propose_sizes"}  # studies that need no claims
LIFTS = {*FLOW_STUDIES, *PROPOSE_STUDIES}


def rows_of(study, rng, *, shift=None, seeds=3, images=20):
    """Rows with every metric that claims name; `shift` moves the metrics of some variants."""
    wanted = [claim.metric for _, claim in ALL] + ["spread_hidden", "spread_visible"]
    wanted += ["pa_limbs_mode", "pa_limbs_detector", "energy_score", "mpjpe_mean", "pck_sample"]
    wanted += [f"spread_{name}" for name in ("y", "z", *H36M17.names[1:])]
    wanted = sorted({m.replace("off90", "cover90") for m in wanted} - PEER)
    groups = np.array(["test", "rooms"])[np.arange(images) % 2]
    about = {"group": groups, "ambiguous": np.arange(images) % 4 < 2} if study in LIFTS else {}
    parts = []
    for item in variants(study, "smoke"):
        for seed in range(seeds):
            table = pd.DataFrame(80 + rng.normal(size=(images, len(wanted))), columns=wanted)
            cover = [name for name in wanted if name.startswith("cover")]
            table[cover] = 0.9 + 0.1 * rng.normal(size=(images, len(cover)))
            table = table + (shift or {}).get(item.name, 0.0)
            about |= {"variant": item.name, "seed": seed, "key": item.seeded(seed).key}
            parts.append(table.assign(**about, image=range(images)))
    return pd.concat(parts, ignore_index=True)


# ------------------------------------------------------------------------- the list


@pytest.mark.parametrize("topic", claims.by_topic())
def test_claims_name_variants_that_exist(topic):
    known = {item.name for item in variants(claims.study_of(topic), "laptop")}
    known = PAIRS.get(topic, known)
    for claim in claims.on(topic):
        assert {claim.variant, claim.reference} - {None} <= known
        assert claim.variant != claim.reference


def test_claims_name_metrics_that_are_measured():
    source = inspect.getsource(evaluation) + inspect.getsource(lifting_evaluation)
    for _, claim in ALL:
        name = claim.metric.removeprefix("paper_").replace("off90", "cover90")
        stems = {
            "mpjpe": "mpjpe", "pa_mpjpe": "pa_mpjpe", "pve": "pve", "energy": "energy_",
            "pixels": "pixels_", "spread_hidden": "spread_hidden", "cover90": "cover",
            "spread_visible": "spread_visible", "percent_inside": "percent_inside",
            "mask_distance": "mask_distance", "pck": '"pck"', "auc": '"auc"',
            "cps": "cps_best", "spread_x": "spread_",
        }  # fmt: skip
        if name in PEER or name == "nll":
            continue
        assert any(name.startswith(start) and stem in source for start, stem in stems.items())


def test_no_claim_is_there_twice():
    keys = [(topic, c.variant, c.reference, c.metric, c.direction) for topic, c in ALL]
    assert len(set(keys)) == len(keys)
    assert len(keys) > 80


def test_every_study_has_claims():
    tested = {claims.study_of(topic) for topic in claims.by_topic()}
    assert tested == set(STUDIES) - WITHOUT


def test_a_claim_with_a_margin_is_not_refuted_for_being_small():
    for _, claim in ALL:
        assert (claim.margin == 0) != (claim.smallest == 0)


def test_unknown_topics():
    with pytest.raises(ValueError, match="no claims on 'speed'; there are: accuracy, consistency"):
        claims.judge("speed", pd.DataFrame())


def test_switches_name_variants_that_exist():
    board = pd.read_csv(DATA / "switches.csv", keep_default_na=False)
    assert {"H1", "H1b", "H1c", "H1d", "H1e", "H2", "H3", "H4", "H5", "H6", "H7", "H8"} <= set(
        board["id"]
    )
    switched = board[board["study"] != ""]
    for line in switched.to_dict("records"):
        known = {item.name for item in variants(line["study"], "laptop")}
        assert {line["variant"], line["reference"]} <= known
    every = {item.name for item in variants("switches", "laptop")} - {"mmd"}
    assert every <= set(switched["variant"])


# ------------------------------------------------------------------------- their tests


def test_gains_are_reproduced_and_losses_are_not(rng):
    shift = {"mmd": -5.0, "mask": -5.0, "prohmr": 8.0, "box": 4.0}
    found = claims.judge("components", rows_of("components", rng, shift=shift))
    found = found.set_index("test")["verdict"]
    assert found["mpjpe_best: mmd - realnvp < 0"] == "reproduced"
    assert found["mpjpe_best: box - prohmr < 0"] == "reproduced"
    assert found["mpjpe_best: mask - mmd within ±2"] == "reproduced"
    assert found["mpjpe_best: realnvp - pose < 0"] != "reproduced"


def test_a_small_gain_counts_as_none(rng):
    rows = rows_of("components", rng, shift={"mmd": -0.1}, images=1000)
    found = claims.judge("components", rows).set_index("test")["verdict"]
    assert found["mpjpe_best: mmd - realnvp < 0"] == "not reproduced"


def test_one_seed_supports_no_verdict(rng):
    few, many = (rows_of(study, rng, seeds=1) for study in ("few", "many"))
    table = claims.judge("scarcity", claims.scarcity(few, many))
    assert set(table["verdict"]) == {"unclear"}


def test_gains_where_labels_are_scarce(rng):
    few = rows_of("few", rng, shift={"heatmaps": -9.0})
    many = rows_of("many", rng, shift={"heatmaps": -3.0})
    table = claims.judge("scarcity", claims.scarcity(few, many))
    assert set(table["verdict"]) == {"reproduced"}
    assert table["estimate"].between(-7, -5).all()


def test_all_topics_at_once(rng):
    table = claims.judge_all({study: rows_of(study, rng) for study in STUDIES})
    assert list(table["topic"].unique()) == list(claims.by_topic())
    assert len(table) == len(ALL)
    tally = claims.tally(table)
    assert list(tally) == ["reproduced", "not reproduced", "unclear"]
    assert sum(tally.values()) == len(ALL)


def test_lifting_topics_count_only_the_images_they_are_about(rng):
    rows = rows_of("propose", rng)
    rows.loc[(rows["group"] == "rooms") & (rows["variant"] == "full"), "pck_mode"] += 5
    assert set(claims.in_scope("propose", rows)["group"]) == {"test"}
    found = claims.judge("propose_transfer", rows).set_index("test")
    assert found.loc["pck_mode: full - adaptive > 0", "verdict"] == "reproduced"
    hard = claims.in_scope("lifting_ambiguous", rows)
    assert set(hard["group"]) == {"ambiguous"}
    assert hard["ambiguous"].all()
    meshes = rows_of("few", rng)
    assert claims.in_scope("few", meshes) is meshes


def test_a_split_of_ambiguous_images_counts_where_there_is_one():
    """As of Human3.6M: hard images of the test set are in both, and count once."""
    groups = ["test", "test", "ambiguous", "ambiguous", "studio", "rooms"]
    flags = [True, False, True, True, True, False]
    rows = pd.DataFrame({"group": groups, "ambiguous": flags, "image": range(6)})
    chosen = {
        topic: claims.in_scope(topic, rows)["image"].tolist()
        for topic in ("lifting", "lifting_ambiguous", "lifting_transfer")
    }
    assert chosen == {"lifting": [0, 1], "lifting_ambiguous": [2, 3], "lifting_transfer": [4, 5]}
    open_world = rows[rows["group"] != "ambiguous"]
    assert claims.ambiguous(open_world)["image"].tolist() == [0]
    more = claims.ambiguous(open_world, ["test", "studio"])
    assert more["image"].tolist() == [0, 4]
    assert claims.in_scope("lifting_ambiguous", more).equals(more)
    assert claims.ambiguous(open_world.assign(ambiguous=False)).empty


def test_two_systems(rng):
    flow, propose = rows_of("lifting", rng), rows_of("propose", rng, shift={"full": -5.0})
    both = claims.systems(flow, propose)
    assert both.groupby("variant").size().to_dict() == {"flow": 60, "propose": 60}
    assert set(claims.judge("systems", both)["verdict"]) == {"reproduced"}


def test_systems_share_images_only_if_these_show_the_same(rng):
    flow, propose = rows_of("lifting", rng), rows_of("propose", rng, shift={"full": -5.0})
    shown = [part.assign(action="walk", subject=9) for part in (flow, propose)]
    assert set(claims.judge("systems", claims.systems(*shown))["verdict"]) == {"reproduced"}
    shown[1].loc[shown[1]["image"] == 4, "subject"] = 11
    both = claims.systems(*shown)
    images = [set(part["image"]) for _, part in both.groupby("variant")]
    assert images[0].isdisjoint(images[1])
    assert list(map(len, images)) == [20, 20]
    table = claims.judge("systems", both)
    assert set(table["verdict"]) == {"unclear"}
    assert table["estimate"].isna().all()


def test_images_of_other_groups_may_differ_between_systems(rng):
    """Human3.6M's hard images are a group of the flow alone."""
    flow, propose = rows_of("lifting", rng), rows_of("propose", rng)
    flow.loc[(flow["group"] == "rooms"), "group"] = "ambiguous"
    both = claims.systems(flow, propose)
    images = [set(part["image"]) for _, part in both.groupby("variant")]
    assert images[0] == images[1]


# ------------------------------------------------------------------------- shared runs


def test_variants_that_share_runs_are_kept_apart(rng):
    rows = rows_of("switches", rng)
    alone = set(claims.independent(rows, "mmd", "focal")["variant"])
    assert alone == {"mmd", "focal"}
    others = set(claims.independent(rows, "mmd", "adam")["variant"])
    assert {"mmd", "adam", "official"} <= others
    assert not {"focal", "last"} & others
    assert "last" in set(claims.independent(rows, "last", "adam")["variant"])
    assert "mmd" not in set(claims.independent(rows, "last", "adam")["variant"])


def test_without_keys_every_variant_is_its_own_run(rng):
    rows = rows_of("switches", rng).drop(columns="key")
    assert claims.independent(rows, "mmd", "focal").equals(rows)


def test_effects_have_one_line_per_variant_and_metric(rng):
    rows = rows_of("switches", rng, shift={"official": 4.0})
    table = claims.effects(rows, "mmd", ["mpjpe_best", "energy_score"])
    assert len(table) == 2 * (rows["variant"].nunique() - 1)
    line = table.set_index(["variant", "metric"]).loc[("official", "mpjpe_best")]
    assert line["low"] < 4 < line["high"]
    assert line["seeds"] == 3


# ------------------------------------------------------------------------- derived columns


def test_derived_columns():
    rows = pd.DataFrame(
        {
            "spread_hidden": [200.0, 100.0],
            "spread_visible": [100.0, 100.0],
            "pa_limbs_mode": [90.0, 90.0],
            "pa_limbs_detector": [100.0, 80.0],
            "energy_score": [70.0, 70.0],
            "mpjpe_mean": [90.0, 60.0],
            "cover90_z_hidden": [1.0, np.nan],
        }
    )
    found = claims.derived(rows)
    assert list(found["spread_gap"]) == [100, 0]
    np.testing.assert_allclose(found["spread_ratio"], [np.log(2), 0])
    assert list(found["over_detector"]) == [-10, 10]
    assert list(found["over_mean"]) == [-20, 10]
    np.testing.assert_allclose(found["off90_z_hidden"], [0.1, np.nan])
    assert "off90_z_hidden" not in rows


def test_derived_columns_of_lifting():
    spread = {f"spread_{name}": [10.0] for name in H36M17.names[1:]}
    spread |= {f"spread_{side}_{end}": [30.0] for side in ("left", "right")
               for end in ("ankle", "elbow", "wrist")}  # fmt: skip
    rows = pd.DataFrame(spread | {"spread_x": [5.0], "spread_y": [6.0], "spread_z": [20.0]})
    found = claims.derived(rows)
    assert list(found["depth_over_x"]) == [15]
    assert list(found["depth_over_y"]) == [14]
    assert list(found["ends_over_rest"]) == [20]


def test_a_claim_about_one_variant():
    found = [c for c in claims.on("accuracy") if c.metric == "over_mean"]
    text = "a distribution says more than its mean pose"
    assert found == [
        Claim(text, "control", "mask", None, "over_mean", "lower", margin=0.0, smallest=0.5)
    ]


def test_the_least_difference_that_counts_depends_on_the_metric():
    least = {c.metric: c.smallest for _, c in ALL if not c.margin}
    assert least["paper_mask_distance"] == 0.02
    assert least["mpjpe_best"] == least["percent_inside"] == 0.5


# ------------------------------------------------------------------------- licensed rows


@pytest.fixture
def licensed(rng):
    rows = rows_of("components", rng, shift={"mask": -20.0})
    return rows.assign(dataset="EMDB")


def test_what_nobody_knows_of_photographs_is_not_judged(licensed):
    known = claims.judge("consistency", licensed)
    left = {claim.text for claim in claims.on("consistency")} - set(known["claim"])
    assert left == {"... at truly visible joints", "... of truly hidden joints"}
    assert set(known["dataset"]) == {"EMDB"}
    unknown = claims.judge("components", licensed.assign(nll=np.nan))
    tested = claims.judge("components", licensed)
    missing = set(tested["test"]) - set(unknown["test"])
    assert missing == {"nll: realnvp - pose < 0"}


def test_claims_on_absent_variants_are_left_out(licensed):
    some = licensed[licensed["variant"].isin(["mask", "mmd"])]
    found = claims.judge("components", some)
    errors = ("mpjpe_best", "pa_mpjpe_best", "pve_best")
    assert found["test"].tolist() == [f"{name}: mask - mmd within ±2" for name in errors]
    nobody = claims.judge("components", licensed[licensed["variant"] == "box"])
    assert nobody.empty
    assert "verdict" in nobody


def test_studies_of_different_worlds_are_not_compared(rng):
    few, many = (rows_of(name, rng, seeds=2) for name in ("few", "many"))
    assert "scarcity" in set(claims.judge_all({"few": few, "many": many})["topic"])
    mixed = claims.judge_all({"few": few, "many": many.assign(dataset="3DPW")})
    assert "scarcity" not in set(mixed["topic"])
    assert {"few", "many"} <= set(mixed["topic"])
