"""Tests of experiments.paper_tables: official averages, layouts, what is missing stays empty."""

import numpy as np
import pandas as pd
import pytest

from humr.experiments import tables
from humr.experiments.paper_tables import LAYOUT, averages, compare, table

ALL = ("3dpw-test-cam", "emdb-p1", "emdb-p1-occl")
ERRORS = ("mpjpe", "pa_mpjpe", "pve")


def evaluated(variant, data_set, count=6, *, seed=0, hypotheses=100):
    """Rows as `licensed.evaluation.evaluate` gives them; two people lack visible joints."""
    rng = np.random.default_rng([seed, ALL.index(data_set), len(variant)])
    rows = {f"{e}_{w}": rng.uniform(30, 90, count) for e in ERRORS for w in ("mode", "best")}
    rows |= {"visible": rng.integers(1, 16, count), "counted": np.zeros(count, int)}
    rows["visible"][:2] = 0
    rows["hidden"] = 17 - rows["visible"]
    for name in ("pixels_mode", "pixels_samples", "spread_visible"):
        rows[name] = np.where(rows["visible"] > 0, rng.uniform(3, 9, count), np.nan)
    rows["spread_hidden"] = rng.uniform(60, 90, count)
    rows["percent_inside"] = rows["mask_distance"] = np.full(count, np.nan)
    if data_set == "emdb-p1-occl":
        rows["counted"] = rows["hidden"] * (np.arange(count) % 2)
        judged = rows["counted"] > 0
        rows["percent_inside"] = np.where(judged, rng.uniform(80, 95, count), np.nan)
        rows["mask_distance"] = np.where(judged, rng.uniform(0.5, 2, count), np.nan)
    about = {"variant": variant, "seed": seed, "data_set": data_set, "image": range(count)}
    return pd.DataFrame(about | {"hypotheses": hypotheses} | rows)


@pytest.fixture
def rows():
    variants = ("prohmr", "mmd", "mask", "vis_5e-3")
    return pd.concat([evaluated(v, name) for v in variants for name in ALL], ignore_index=True)


def ours(frame, variant, dataset, metric):
    chosen = frame.query("variant == @variant and dataset == @dataset and metric == @metric")
    return chosen["ours"].item()


# ------------------------------------------------------------------------ averages


def test_errors_are_means_over_people(rows):
    found = averages(rows)
    for name, dataset in (("3dpw-test-cam", "3DPW"), ("emdb-p1", "EMDB")):
        part = rows[(rows["variant"] == "mask") & (rows["data_set"] == name)]
        for metric in ("mpjpe_mode", "pve_best"):
            assert ours(found, "mask", dataset, metric) == pytest.approx(part[metric].mean())


def test_consistency_is_a_mean_over_joints(rows):
    found = averages(rows)
    part = rows.query("variant == 'mmd' and data_set == 'emdb-p1'")
    total, joints = 0.0, 0
    for line in part.to_dict("records"):
        if line["visible"]:
            total += line["visible"] * line["pixels_samples"]
            joints += line["visible"]
    assert ours(found, "mmd", "EMDB", "pixels_samples") == pytest.approx(total / joints)
    expected = np.average(part["spread_hidden"], weights=part["hidden"])
    assert ours(found, "mmd", "EMDB", "spread_hidden") == pytest.approx(expected)
    assert expected != pytest.approx(part["spread_hidden"].mean())
    assert found.query("metric == 'pixels_samples'")["people"].tolist() == [4] * 8


def test_only_the_occluded_part_says_who_is_on_the_mask(rows):
    found = averages(rows)
    part = rows.query("variant == 'mask' and data_set == 'emdb-p1-occl'")
    part = part.dropna(subset=["mask_distance"])
    expected = np.average(part["mask_distance"], weights=part["counted"])
    assert ours(found, "mask", "EMDB", "mask_distance") == pytest.approx(expected)
    on_mask = found.query("metric in ('percent_inside', 'mask_distance')")
    assert set(on_mask["dataset"]) == {"EMDB"}
    assert not found.duplicated(["variant", "dataset", "metric"]).any()


def test_seeds_count_the_same():
    runs = [evaluated("mask", "emdb-p1", 3, seed=0), evaluated("mask", "emdb-p1", 9, seed=1)]
    each = [ours(averages(run), "mask", "EMDB", "pixels_mode") for run in runs]
    both = ours(averages(pd.concat(runs)), "mask", "EMDB", "pixels_mode")
    assert both == pytest.approx(np.mean(each))
    assert set(averages(runs[1].drop(columns="seed"))["people"]) == {7, 9}


# ------------------------------------------------------------------------ tables


def test_every_number_of_the_paper_is_there(rows):
    for name in LAYOUT:
        found, printed = compare(name, rows), tables.paper(name)
        assert found["paper"].tolist() == printed["value"].tolist()
        cells = table(name, rows)
        text = cells.xs("paper", axis=1, level=-1).to_numpy().ravel()
        assert sorted(float(t) for t in text if t) == sorted(printed["value"])


def test_table_1(rows):
    found = table("1", rows)
    assert list(found.columns.get_level_values(0).unique()) == ["3DPW (14)", "EMDB (24)"]
    assert list(found.index.get_level_values(0).unique()) == ["best of 1", "best of 100"]
    line = found.loc[("best of 100", "Ours")]
    assert line["EMDB (24)", "PVE", "paper"] == "72.0"
    expected = rows.query("variant == 'mask' and data_set == 'emdb-p1'")["pve_best"].mean()
    assert line["EMDB (24)", "PVE", "ours"] == f"{expected:.1f}"
    expected = rows.query("variant == 'prohmr' and data_set == '3dpw-test-cam'")[
        "mpjpe_mode"
    ].mean()
    assert found.loc[("best of 1", "ProHMR†"), ("3DPW (14)", "MPJPE", "ours")] == f"{expected:.1f}"
    assert found.loc[("best of 1", "Biggs NeurIPS'20"), ("EMDB (24)", "PVE", "paper")] == ""
    others = found.drop(index=["Ours", "ProHMR†"], level=1).xs("ours", axis=1, level=-1)
    assert (others == "").all(axis=None)


def test_table_2(rows):
    found = table("2", rows)
    heads = ["2DKP mode", "2DKP samples", "3DKP visible", "3DKP invisible", "PercIn", "MinDist"]
    assert list(found.columns.get_level_values(0).unique()) == heads
    line = found.loc[("EMDB", "Ours w/ L_mask")]
    assert line["MinDist", "paper"] == "0.616"
    expected = ours(averages(rows), "mask", "EMDB", "mask_distance")
    assert line["MinDist", "ours"] == f"{expected:.3f}"
    assert (
        line["2DKP mode", "ours"] == f"{ours(averages(rows), 'mask', 'EMDB', 'pixels_mode'):.2f}"
    )
    assert found.loc[("3DPW", "Ours w/ L_mask"), ("PercIn", "ours")] == ""


def test_tables_of_components_and_supervision(rows):
    chain = table("3", rows)
    assert chain.index.tolist()[0] == "ProHMR†"
    assert chain.loc["+ bbox info", ("MPJPE", "ours")] == ""
    expected = rows.query("variant == 'mmd' and data_set == '3dpw-test-cam'")[
        "pa_mpjpe_best"
    ].mean()
    assert chain.loc["+ L_MMD", ("PA-MPJPE", "ours")] == f"{expected:.1f}"
    expected = rows.query("variant == 'mmd' and data_set == 'emdb-p1'")["pa_mpjpe_best"].mean()
    assert table("S1", rows).loc["+ L_MMD", ("PA-MPJPE", "ours")] == f"{expected:.1f}"
    weights = table("S2", rows)
    assert weights.loc["L2D-vis 5e-3", ("EMDB (24)", "PVE", "paper")] == "76.6"
    assert weights.loc["L2D-vis 5e-3", ("EMDB (24)", "PVE", "ours")] != ""
    assert weights.loc["L2D-vis 1e-2", ("EMDB (24)", "PVE", "ours")] == ""


def test_without_rows_only_the_paper_speaks(rows):
    found = table("1", rows[:0])
    assert (found.xs("ours", axis=1, level=-1) == "").all(axis=None)
    half = table("1", rows.query("data_set == '3dpw-test-cam'"))
    assert half.loc[("best of 1", "Ours"), ("3DPW (14)", "PVE", "ours")] != ""
    assert half.loc[("best of 1", "Ours"), ("EMDB (24)", "PVE", "ours")] == ""


def test_other_variants_may_have_rows_of_the_paper_or_their_own(rows):
    weights = evaluated("official", "emdb-p1")
    both = pd.concat([rows.query("variant != 'mask'"), weights])
    found = table("1", both, names={"official": "Ours"})
    expected = f"{weights['mpjpe_best'].mean():.1f}"
    assert found.loc[("best of 100", "Ours"), ("EMDB (24)", "MPJPE", "ours")] == expected
    found = table("1", both, names={"official": "official weights"})
    assert (
        found.loc[("best of 100", "official weights"), ("EMDB (24)", "MPJPE", "ours")] == expected
    )
    assert found.loc[("best of 100", "official weights"), ("EMDB (24)", "MPJPE", "paper")] == ""
    assert found.index[-1] == ("best of 100", "official weights")
    with pytest.raises(ValueError, match="several variants are given the same row"):
        table("1", pd.concat([rows, weights]), names={"official": "Ours"})


def test_another_number_of_hypotheses_is_said(rows):
    few = evaluated("mask", "emdb-p1", hypotheses=5)
    with pytest.raises(ValueError, match=r"must be of 100 hypotheses, as the table; got \[5\]"):
        table("1", few)
    found = table("1", few, hypotheses=5)
    assert set(found.columns.get_level_values(-1)) == {"paper", "ours, 5 hypotheses"}


def test_bad_rows_are_refused(rows):
    for wrong, message in (
        (pd.concat([rows, rows[:1]]), "a person occurs twice"),
        (rows.drop(columns=["variant", "image"]), "rows lack image, variant; expected those"),
        (rows.assign(data_set="agora-bfh"), r"no data set of the tables: \['agora-bfh'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            table("1", wrong)
    with pytest.raises(ValueError, match="one of 1, 2, 3, S1, S2; got '4'"):
        table("4", rows)
