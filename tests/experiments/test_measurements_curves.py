import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from humr import evaluation, metrics, storage
from humr.experiments import ablations, measurements, runs
from humr.experiments.statistics import ONE_SEED, means
from humr.figures import charts
from humr.figures.charts import COLOURS

TINY = {"labelled": 6, "points": 2, "unlabelled": 2, "validation": 2, "test": 5, "shard": 6,
        "window": 96, "backgrounds": 1}  # fmt: skip


# ----------------------------------------------------------------------- energy scores


def test_energy_of_one_is_the_error_of_the_mode_and_of_many_does_not_depend_on_n(
    records, body, model
):
    some = records[slice(0, 12)]  # more than a batch
    table = measurements.mesh_curve(model, body, some, [1, 2, 5, 50, 200])
    rows = evaluation.evaluate(model, body, some, hypotheses=1)
    by_n = {n: part.set_index("image") for n, part in table.groupby("n")}
    np.testing.assert_allclose(by_n[1].energy_score, rows.mpjpe_mode, rtol=1e-4)
    assert by_n[2].energy_score.isna().all()
    assert all(list(part.index) == list(range(12)) for part in by_n.values())
    few, many = by_n[5].energy_score.mean(), by_n[200].energy_score.mean()
    assert few == pytest.approx(many, rel=0.1)
    assert by_n[200].mpjpe_best.mean() < 0.95 * by_n[5].mpjpe_best.mean()


def test_energy_is_that_of_the_first_random_hypotheses(records, body, model):
    one = records[slice(0, 3)]
    table = measurements.energy_by_count(model, body, one, [4], seed=3)
    generator = torch.Generator().manual_seed(3)
    batch = one.batch(samples=1, generator=generator)
    with torch.no_grad():
        drawn = model.sample(batch, 3, generator=generator)
    joints = metrics.centre(drawn.samples.keypoints(body, "common14"), evaluation.HIPS)
    target = body.keypoints(batch.rotations, batch.betas, "common14")
    expected = metrics.energy_score(joints, metrics.centre(target, evaluation.HIPS))
    np.testing.assert_allclose(table.energy_score, 1e3 * expected, rtol=1e-5)


def test_a_single_hypothesis_has_a_curve(records, body, model):
    table = measurements.mesh_curve(model, body, records[slice(0, 1)], [1])
    assert len(table) == 1
    assert np.isfinite(table.to_numpy()).all()


# ----------------------------------------------------------------------- stored rows


SMALL = {f"world.{name}": value for name, value in TINY.items()}
SMALL |= {"training.batch": 4, "training.hypotheses": 2}
ROWS = [
    (name, name, SMALL | {"weights.heatmap": weight})
    for name, weight in (("prohmr", 0.0), ("realnvp", 0.1), ("mask", 0.2), ("other", 0.3))
]


def test_rows_are_measured_once_published_and_read_where_there_are_no_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(measurements, "COUNTS", (1, 2, 5))
    monkeypatch.setitem(ablations.STUDIES, "components", ("study", ROWS))
    with pytest.raises(FileNotFoundError, match="no run of study 'curves' is finished"):
        measurements.CURVES.publish("smoke")

    rows = measurements.CURVES.rows("smoke")
    assert rows.groupby("variant").size().to_dict() == {"prohmr": 12, "realnvp": 12, "mask": 12}
    assert sorted(set(rows.n)) == [1, 2, 5]
    assert len(list((tmp_path / "runs" / "evaluations").glob("curves-*"))) == 3
    assert {"seed", "key", "seconds", "pve_best", "pve_expected", "energy_score"} <= set(rows)

    def fail(*_, **__):
        raise AssertionError("measured twice")

    monkeypatch.setattr(measurements, "mesh_curve", fail)
    assert measurements.main(["--measure", "curves", "--profile", "smoke"]) == 0
    about = json.loads((tmp_path / "results" / "smoke-curves.json").read_text())
    assert (about["study"], about["runs"], about["missing"]) == ("curves", 3, 0)
    monkeypatch.setattr(runs, "RUNS", tmp_path / "nowhere")
    again = measurements.CURVES.rows("smoke")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False, rtol=2e-3, atol=1e-2)
    assert not (tmp_path / "nowhere").exists()


# ----------------------------------------------------------------------- tables and pictures


def table_of(seeds, rng):
    parts = [
        pd.DataFrame({"variant": name, "seed": seed, "image": range(20), "n": n,
                      "error": 10 / n + rng.normal(size=20),
                      "late": rng.normal(size=20) if n > 1 else np.nan})
        for name in ("a", "b") for seed in range(seeds) for n in (1, 10)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_means_by_are_the_means_of_each_part(rng):
    rows = table_of(2, rng)
    table = charts.means_by(rows, "n", ["error", "late"])
    assert len(table) == 2 + 4  # nothing is said where nothing is defined
    for n in (1, 10):
        expected = means(rows[rows.n == n], ["error"])
        found = table[(table.n == n) & (table.metric == "error")].drop(columns="n")
        pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_band_is_at_the_estimates_and_hollow_with_one_seed(seeds, ax, rng):
    table = charts.means_by(table_of(seeds, rng), "n", ["error"]).query("variant == 'a'")
    charts.band(ax, table, "error", role="wrong", label="A")
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), table[["n", "estimate"]])
    low, high = (area := ax.collections[0].get_paths()[0].vertices[:, 1]).min(), area.max()
    assert (low, high) == pytest.approx((table.low.min(), table.high.max()))
    assert set(table.note) == ({ONE_SEED} if seeds == 1 else {""})
    face = "white" if seeds == 1 else COLOURS["wrong"]
    assert to_rgb(line.get_markerfacecolor()) == to_rgb(face)
    assert ax.get_xscale() == "log"


def test_a_band_refuses_several_models_at_once(ax, rng):
    table = charts.means_by(table_of(2, rng), "n", ["error"])
    with pytest.raises(ValueError, match=r"one row per n expected for 'error'; got 4 rows"):
        charts.band(ax, table, "error", role="wrong", label="A")
