"""Tests of humr.experiments.statistics: rows of several test sets are never mixed."""

import pandas as pd
import pytest

from humr.experiments import statistics


@pytest.fixture
def rows(rng):
    """Two variants on 30 images of each of two sets, where the gain has another sign."""
    parts = [
        pd.DataFrame(
            {
                "variant": variant,
                "seed": seed,
                "image": range(first, first + 30),
                "dataset": name,
                "mpjpe_best": 50 + gain * (variant == "ours") + rng.normal(0, 0.1, 30),
            }
        )
        for variant in ("base", "ours")
        for name, first, gain in (("3DPW", 0, -5), ("EMDB", 100, 9))
        for seed in range(2)
    ]
    return pd.concat(parts, ignore_index=True)


def test_every_set_is_compared_by_itself(rows):
    table = statistics.differences(rows, "base", ["mpjpe_best"])
    assert table["dataset"].tolist() == ["3DPW", "EMDB"]
    assert table["estimate"].tolist() == pytest.approx([-5, 9], abs=0.2)
    assert table["images"].tolist() == [30, 30]
    means = statistics.means(rows, ["mpjpe_best"])
    assert list(zip(means["dataset"], means["variant"], strict=True)) == [
        ("3DPW", "base"), ("3DPW", "ours"), ("EMDB", "base"), ("EMDB", "ours")
    ]  # fmt: skip
    gain = statistics.gains(rows, {"gain": ("ours", "base")}, ["mpjpe_best"])
    assert gain.groupby("dataset")["mpjpe_best"].mean().round().tolist() == [-5, 9]


def test_a_claim_has_a_verdict_in_every_set(rows):
    claim = statistics.Claim("better", "us", "ours", "base", "mpjpe_best", "lower")
    table = statistics.verdicts(rows, [claim])
    assert table[["dataset", "verdict"]].to_numpy().tolist() == [
        ["3DPW", "reproduced"], ["EMDB", "not reproduced"]
    ]  # fmt: skip


def test_one_set_alone_is_as_without_a_name(rows):
    alone = statistics.select_dataset(rows, "EMDB")
    nameless = statistics.differences(alone.drop(columns="dataset"), "base", ["mpjpe_best"])
    named = statistics.differences(alone, "base", ["mpjpe_best"])
    pd.testing.assert_frame_equal(named.drop(columns="dataset"), nameless)
    assert "dataset" not in nameless


def test_rows_of_one_set(rows):
    assert set(statistics.select_dataset(rows, "3DPW")["image"]) == set(range(30))
    with pytest.raises(ValueError, match="no test set 'AGORA'; they are of 3DPW, EMDB"):
        statistics.select_dataset(rows, "AGORA")
    nameless = rows.drop(columns="dataset")
    assert statistics.select_dataset(nameless, "3DPW") is nameless


def test_where_rows_are_from(rows):
    assert statistics.dataset_phrase(statistics.select_dataset(rows, "EMDB")) == "on EMDB"
    assert statistics.dataset_phrase(rows.drop(columns="dataset")) == "in the open world"
