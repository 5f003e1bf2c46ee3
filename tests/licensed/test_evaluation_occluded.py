"""Tests of humr.licensed.evaluation: EMDB's occluded people among all of EMDB."""

import numpy as np
import pandas as pd
import pytest

from humr.licensed.datasets import DATASETS, TEST
from humr.licensed.evaluation import merge_occluded

ON_MASK = ("percent_inside", "mask_distance", "paper_percent_inside", "paper_mask_distance")
MEASURED = ("mpjpe_mode", "energy_score", "log_det", "visible", "counted", "spread_hidden",
            "paper_spread_hidden", *ON_MASK)  # fmt: skip


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
            "dataset": [DATASETS[name] for name in np.repeat(TEST, 3)],
            "image": [0, 1, 2, 100_000, 100_001, 100_002, 200_000, 200_001, 200_002],
            "row": [0, 1, 2, 0, 1, 2, 0, 1, 2],
            "photograph": list("abcdefghi"),
            "hypotheses": 10,
        }
    )
    for place, name in enumerate(MEASURED):
        table[name] = 10.0 * place + np.arange(9)
    for name in ON_MASK:
        table.loc[table["data_set"] != "emdb-p1-occl", name] = np.nan
    return table


def test_occluded_people_count_for_the_mask_alone(rows):
    found = merge_occluded(rows)
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
    assert occluded["image"].tolist() == [200_000, 200_001, 200_002]
    assert set(occluded["variant"]) == {"mask"}
    assert set(occluded["steps"]) == {3}


def test_occluded_people_are_found_among_all_by_their_photographs(rows):
    """Two seeds; of three occluded people one is not among all of EMDB."""
    rows["photograph"] = [f"{row}.jpg" for row in rows["row"]]
    rows.loc[8, "photograph"] = "elsewhere.jpg"
    other = rows.assign(
        seed=2,
        percent_inside=rows["percent_inside"] + 100,
        paper_percent_inside=rows["paper_percent_inside"] + 100,
    )
    found = merge_occluded(pd.concat([rows, other], ignore_index=True))
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
    found = merge_occluded(rows)
    assert len(found) == len(rows)
    assert found["percent_inside"].tolist()[6:] == rows["percent_inside"].tolist()[6:]
