"""Tests of humr.licensed.evaluation: licensed rows as notebooks read them."""

import numpy as np
import pandas as pd
import pytest

from humr.files import DATA
from humr.licensed.datasets import TEST
from humr.licensed.evaluation import BY_VISIBILITY, UNKNOWN, as_study, numbered

MEASURED = ("mpjpe_mode", "energy_score", "log_det", "visible", "counted", *BY_VISIBILITY)


@pytest.fixture
def rows():
    """Three people of every set; all values differ."""
    table = pd.DataFrame(
        {
            "variant": "mask",
            "seed": 1,
            "key": "k",
            "seconds": 2.0,
            "steps": 3,
            "data_set": np.repeat(TEST, 3),
            "image": [0, 1, 2, 0, 1, 2, 0, 1, 2],
            "photograph": list("abcdefghi"),
            "hypotheses": 10,
        }
    )
    for place, name in enumerate(MEASURED):
        table[name] = 10.0 * place + np.arange(9)
    for name in ("percent_inside", "mask_distance"):
        table.loc[table["data_set"] != "emdb-p1-occl", name] = np.nan
    return table


def test_people_have_numbers_of_their_own_and_sets_have_names(rows):
    found = as_study(rows)
    assert found["dataset"].tolist() == ["3DPW"] * 3 + ["EMDB"] * 6
    assert found["image"].is_unique
    assert found["row"].tolist() == rows["image"].tolist()
    again = numbered(rows.iloc[3:6])  # whatever else is in the table
    assert again["image"].tolist() == found["image"].iloc[3:6].tolist()


def test_occluded_people_count_for_the_mask_alone(rows):
    found = as_study(rows)
    occluded = found[found["data_set"] == "emdb-p1-occl"]
    others = found[found["data_set"] != "emdb-p1-occl"]
    assert (
        occluded[["mpjpe_mode", "energy_score", "spread_hidden", "log_det"]].isna().all(axis=None)
    )
    assert (
        others[["mpjpe_mode", "energy_score", "spread_hidden", "log_det"]].notna().all(axis=None)
    )
    for name in ("percent_inside", "mask_distance"):
        assert occluded[name].tolist() == rows[name].iloc[6:].tolist()
        assert others[name].isna().all()
    assert set(occluded["variant"]) == {"mask"}
    assert set(occluded["steps"]) == {3}


def test_visible_is_what_the_detector_is_sure_of(rows):
    found = as_study(rows)
    for name in BY_VISIBILITY:
        pd.testing.assert_series_equal(found[f"paper_{name}"], found[name], check_names=False)
    assert found["spread_hidden"].iloc[:3].tolist() == rows["spread_hidden"].iloc[:3].tolist()


def test_what_is_unknown_is_there_and_empty(rows):
    """That no column of the open world lacks is tested with a whole evaluation."""
    known = pd.read_parquet(DATA / "checkpoint" / "test_rows.parquet").columns
    assert set(UNKNOWN) <= set(known)
    assert as_study(rows)[list(UNKNOWN)].isna().all(axis=None)


def test_occluded_people_are_found_among_all_by_their_photographs(rows):
    """Two seeds; of three occluded people one is not among all of EMDB."""
    rows["photograph"] = [f"{image}.jpg" for image in rows["image"]]
    rows.loc[8, "photograph"] = "elsewhere.jpg"
    other = rows.assign(seed=2, percent_inside=rows["percent_inside"] + 100)
    found = as_study(pd.concat([rows, other], ignore_index=True))
    emdb = found[found["dataset"] == "EMDB"]
    for seed, more in ((1, 0), (2, 100)):
        part = emdb[emdb["seed"] == seed].set_index("photograph")["percent_inside"]
        expected = (rows["percent_inside"].iloc[6:] + more).tolist()
        assert part.reindex(["0.jpg", "1.jpg", "elsewhere.jpg"]).tolist() == expected
        assert np.isnan(part["2.jpg"])
    assert len(emdb) == 2 * 4
    assert (found["percent_inside"].isna() == found["paper_percent_inside"].isna()).all()
    alone = emdb[emdb["photograph"] == "elsewhere.jpg"]
    assert alone["mpjpe_mode"].isna().all()
    assert emdb[emdb["photograph"] != "elsewhere.jpg"]["mpjpe_mode"].notna().all()


def test_two_people_in_one_photograph_are_not_mixed_up(rows):
    rows["photograph"] = "the same.jpg"
    found = as_study(rows)
    assert len(found) == len(rows)
    assert found["percent_inside"].tolist()[6:] == rows["percent_inside"].tolist()[6:]
