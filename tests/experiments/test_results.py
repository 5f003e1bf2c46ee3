"""Tests of humr.experiments.results."""

import json

import numpy as np
import pandas as pd
import pytest

from humr.experiments import results


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)


def table_of(seeds, rng):
    count = 50
    parts = [
        pd.DataFrame({"variant": "one", "seed": seed, "key": f"k{seed}", "seconds": 1.5,
                      "steps": 7, "image": range(count), "mpjpe": 100 * rng.random(count),
                      "nll": rng.normal(size=count), "truncated": False})
        for seed in seeds
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_rows_come_back_in_half_precision(rng, tmp_path):
    assert results.read("study", "laptop") is None
    table = table_of((0, 1), rng)
    paths = results.write("study", "laptop", table, {"runs": 2})
    assert [path.name for path in paths] == ["laptop-study-0.parquet", "laptop-study-1.parquet"]
    again = results.read("study", "laptop")
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-3)
    assert np.array_equal(again["nll"], table["nll"])
    assert again["mpjpe"].dtype == "float32"
    assert json.loads((tmp_path / "laptop-study.json").read_text()) == {"runs": 2}
    assert results.read("stud", "laptop") is None
    assert not list(tmp_path.glob("*.part"))


def test_the_file_of_a_seed_does_not_change_when_others_come(rng):
    table = table_of((0, 1, 2), rng)
    (first,) = results.write("study", "laptop", table[table.seed == 0], {})
    content = first.read_bytes()
    results.write("study", "laptop", table, {})
    assert first.read_bytes() == content
    assert len(results.read("study", "laptop")) == 150


def test_numbers_that_are_too_large_for_half_precision_stay(rng):
    """A lifting system's worst hypothesis may lie kilometres off (in millimetres)."""
    table = table_of((0, 1), rng)
    table.loc[3, "mpjpe"] = 1.1e8
    results.write("study", "laptop", table, {})
    again = results.read("study", "laptop")
    assert again["mpjpe"].max() == pytest.approx(1.1e8, rel=1e-3)
    assert again["mpjpe"][3] != np.float32(1.1e8)  # no more digits than the others
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-3)
