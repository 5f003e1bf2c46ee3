import json

import lifting_formats as formats
import numpy as np
import pandas as pd
import pytest
import torch

from humr import storage
from humr.experiments import ablations, measurements, runs
from humr.licensed import lifting
from humr.lifting import evaluation
from humr.lifting.data import AMBIGUOUS, complete
from humr.lifting.world import LiftingRecords
from humr.metrics import mpjpe
from tests.lifting.test_data import lifting_records

WIDTH = (0.02, 0.03, 0.05)  # m
TINY = {"train": 8, "validation": 4, "test": 4, "transfer": 2, "shard": 8, "window": 96,
        "backgrounds": 1, "train_subjects": 2, "subjects": 1}  # fmt: skip


class Toy:
    """Knows the truth and spreads around it."""

    def mode(self, batch):
        return complete(batch.pose)

    def sample(self, batch, count, *, generator=None):
        noise = torch.randn(len(batch), count, 17, 3, generator=generator)
        noise[:, :, 0] = 0
        return self.mode(batch)[:, None] + noise * torch.tensor(WIDTH)


@pytest.fixture
def data(generator) -> LiftingRecords:
    """Images of which every other one is ambiguous."""
    records = lifting_records(8, generator)
    records.fits[:, :, 3:] = torch.tensor([1.0, 0, 1])
    records.fits[::2, 9, 3] = 1e3
    records.window[:, 3] = 0
    assert records.ambiguous.tolist() == [True, False] * 4, AMBIGUOUS
    return records


def test_rows_are_of_the_ambiguous_images_by_their_number_in_the_split(data):
    table = measurements.lifting_curve(Toy(), data, 20)
    assert set(table["image"]) == {0, 2, 4, 6}
    assert not table.duplicated(["image", "n"]).any()
    assert sorted(set(table["n"])) == [1, 2, 5, 10, 20]
    assert set(table.columns) == {
        "image", "n", "mpjpe_kmeans", "pa_mpjpe_kmeans", *measurements.LIFTED,
        *("noise_" + name for name in measurements.LIFTED),
    }  # fmt: skip
    clustered = table.groupby("n")["mpjpe_kmeans"].count()
    assert clustered.to_dict() == {1: 0, 2: 0, 5: 4, 10: 4, 20: 0}


def test_depth_spread_is_that_of_the_system(data):
    found = measurements.depth_spread(Toy(), data, hypotheses=400)
    assert found == pytest.approx(WIDTH[2], rel=0.02)


def test_the_baseline_has_the_noise_of_the_condition(data):
    """Its first draw errs by the distance to the truth that the condition's Gaussians make."""
    table = measurements.lifting_curve(Toy(), data, 5).query("n == 1")
    hard = data[data.ambiguous.nonzero()[:, 0]]
    depth = measurements.depth_spread(Toy(), hard, hypotheses=5)
    noise = evaluation.NoiseBaseline(Toy(), depth)
    seen, generator = hard.batch(), torch.Generator().manual_seed(0)
    drawn = noise.sample(seen, 5, generator=generator)
    expected = 1e3 * mpjpe(drawn[:, 0], seen.target)
    np.testing.assert_allclose(table["noise_mpjpe_best"], expected, rtol=1e-5)


def test_clusters_are_better_than_as_many_samples(data):
    table = measurements.lifting_curve(Toy(), data, 20).query("n == 5")
    assert (table["mpjpe_kmeans"] < table["mpjpe_expected"]).all()


def test_there_must_be_ambiguous_images(data):
    with pytest.raises(ValueError, match="none of the 4 images is ambiguous"):
        measurements.lifting_curve(Toy(), data[torch.tensor([1, 3, 5, 7])], 5)


def test_licensed_curves_are_of_all_hard_images(licensed, tmp_path, monkeypatch):
    """H36MA has three images, with numbers of its own."""
    monkeypatch.setattr(lifting, "ROOT", licensed)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "load", lambda *_: (Toy(), {}))
    monkeypatch.setattr(runs, "described", lambda job, rows: rows)
    weights = tmp_path / "best"
    weights.with_suffix(".safetensors").write_bytes(b"weights")
    weights.with_suffix(".json").write_text('{"system": "lifting_paper"}')
    monkeypatch.setattr(runs, "checkpoint", lambda job: weights)
    item = ablations.variant("lifting", "full", "paper-smoke")
    table = measurements.LIFTING_CURVES.measure(item, "paper-smoke")
    assert sorted(set(table["image"])) == [0, 1, 2]
    assert sorted(set(table["n"])) == [1, 2, 5, 10, 20]
    (kept,) = (tmp_path / "runs" / "evaluations").iterdir()
    assert measurements.LIFTING_CURVES.measure(item, "paper-smoke").equals(table)
    formats.write_lifting_world(tmp_path / "other")
    formats.write_pickle(tmp_path / "other" / "h36m", "test", formats.people(8, seed=9))
    monkeypatch.setattr(lifting, "ROOT", tmp_path / "other")
    with pytest.raises(ValueError, match="none of the 0 images is ambiguous"):
        measurements.LIFTING_CURVES.measure(item, "paper-smoke")  # other files are measured anew
    assert list(kept.parent.iterdir()) == [kept]


def empty(self, **_):
    """A world with a manifest and nothing else."""
    self.directory.mkdir(parents=True, exist_ok=True)
    (self.directory / "manifest.json").write_text("{}")


def test_rows_are_measured_once_published_and_read_where_there_are_no_runs(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(storage.Store, "generate", empty)
    monkeypatch.setattr(storage.Store, "load", lambda self, split: data)

    small = {f"world.{name}": value for name, value in TINY.items()}
    small |= {"rule.hypotheses": 2, "rule.best_of": 1}
    monkeypatch.setitem(ablations.STUDIES, "lifting", ("lifting", [("full", "full", small)]))
    with pytest.raises(FileNotFoundError, match="no run of study 'lifting_curves' is finished"):
        measurements.LIFTING_CURVES.publish("smoke")

    rows = measurements.LIFTING_CURVES.rows("smoke")
    assert len(rows) == 4 * 5
    assert {"variant", "seed", "key", "seconds"} <= set(rows)
    assert len(list((tmp_path / "runs" / "evaluations").glob("lifting_curves-*"))) == 1

    def fail(*_, **__):
        raise AssertionError("measured twice")

    monkeypatch.setattr(measurements, "lifting_curve", fail)
    assert measurements.main(["--measure", "lifting_curves", "--profile", "smoke"]) == 0
    about = json.loads((tmp_path / "results" / "smoke-lifting_curves.json").read_text())
    assert (about["study"], about["runs"], about["missing"]) == ("lifting_curves", 1, 0)
    monkeypatch.setattr(runs, "RUNS", tmp_path / "nowhere")
    again = measurements.LIFTING_CURVES.rows("smoke")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False, rtol=2e-3, atol=1e-2)
    assert not (tmp_path / "nowhere").exists()
