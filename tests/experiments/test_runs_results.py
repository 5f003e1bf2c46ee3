"""Committed results: rows in half precision, one file per product and seed."""

import numpy as np
import pandas as pd
import pytest

from humr.experiments import runs
from humr.files import BrokenFile


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)


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
    assert runs.read_results("study", "laptop") is None
    table = table_of((0, 1), rng)
    paths = runs.write_results("study", "laptop", table, {"runs": 2})
    assert [path.name for path in paths] == ["laptop-study-0.parquet", "laptop-study-1.parquet"]
    again = runs.read_results("study", "laptop")
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-3)
    assert np.array_equal(again["nll"], table["nll"])
    assert again["mpjpe"].dtype == "float32"
    assert runs.read_record("study", "laptop") == {"runs": 2}
    assert runs.read_results("stud", "laptop") is None
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"variant,seed", b"PAR1PAR1", b"PAR1" + bytes(99), None])
def test_broken_rows_are_named(rng, tmp_path, monkeypatch, content):
    (path,) = runs.write_results("study", "laptop", table_of((0,), rng), {})
    content = path.read_bytes()[:-20] if content is None else content
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match=r"laptop-study-0\.parquet.* cannot be read: .*checkout"):
        runs.read_results("study", "laptop")
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    runs.kept("rows", ["a"], lambda: table_of((0,), rng))
    (kept,) = (tmp_path / "evaluations").iterdir()
    kept.write_bytes(content)
    with pytest.raises(BrokenFile, match=r"rows-\w+\.parquet cannot be read: .* Delete it"):
        runs.kept("rows", ["a"], lambda: table_of((0,), rng))


def test_the_file_of_a_seed_does_not_change_when_others_come(rng):
    table = table_of((0, 1, 2), rng)
    (first,) = runs.write_results("study", "laptop", table[table.seed == 0], {})
    content = first.read_bytes()
    runs.write_results("study", "laptop", table, {})
    assert first.read_bytes() == content
    assert len(runs.read_results("study", "laptop")) == 150


def test_numbers_that_are_too_large_for_half_precision_stay(rng):
    """A lifting system's worst hypothesis may lie kilometres off (in millimetres)."""
    table = table_of((0, 1), rng)
    table.loc[3, "mpjpe"] = 1.1e8
    runs.write_results("study", "laptop", table, {})
    again = runs.read_results("study", "laptop")
    assert again["mpjpe"].max() == pytest.approx(1.1e8, rel=1e-3)
    assert again["mpjpe"][3] != np.float32(1.1e8)  # no more digits than the others
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-3)


def test_a_broken_file_is_one_line_of_the_command(monkeypatch, capsys):
    def broken(*_, **__):
        raise BrokenFile("state.pt is damaged: it is cut. Delete it to start this run again")

    monkeypatch.setattr(runs, "train", broken)
    assert runs.main(["train", "smoke"]) == 1
    assert capsys.readouterr().out.startswith("humr: state.pt is damaged: it is cut. Delete it")
