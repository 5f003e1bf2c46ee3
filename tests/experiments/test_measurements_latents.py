from dataclasses import replace

import numpy as np
import pytest
import torch

from humr import storage
from humr.config import to_dict
from humr.experiments import measurements, runs, systems
from humr.experiments.ablations import variants
from humr.experiments.profiles import profile
from humr.licensed import lifting
from humr.lifting.config import ProposeModel
from humr.lifting.propose import Propose
from humr.storage import save_model
from tests.lifting.test_data import lifting_records

SMALL = ProposeModel(width=6, hidden=16, flow_hidden=16, critic_hidden=8, blocks=2, layers=1)


def made_up(count, generator):
    records = lifting_records(count, generator)
    return replace(records, template=torch.zeros(count, dtype=torch.uint8))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Propose(SMALL).eval()


def test_no_flow_beats_the_entropy_of_the_noise(model, generator):
    found = measurements.latents(model, made_up(40, generator))
    assert len(found) == 40
    assert found["excess"].mean() > 0
    assert (found[["found", "spread", "rebuilt"]] > 0).all().all()


def test_a_latent_that_knows_nothing_is_found_at_once(model, generator):
    """A constant mean, a flow that is told so: only the noise is left, and nothing is rebuilt."""
    with torch.no_grad():
        for parameter in model.instance.encoder.parameters():
            parameter.zero_()
    records = made_up(40, generator)
    found = measurements.latents(model, records)
    assert found["spread"].max() < 1e-5
    reached = model.reach(torch.zeros(40, 1, 6), records.batch().points)[:, 0]
    expected = reached.detach().square().mean(-1).sqrt() / SMALL.std
    np.testing.assert_allclose(found["found"], expected, rtol=1e-4)


def test_excess_is_zero_where_the_base_is_the_instance_gaussian(model, generator):
    model = Propose(replace(SMALL, std=1.0, adaptive="normal")).eval()
    with torch.no_grad():
        for parameter in [*model.instance.encoder.parameters(), *model.flow.parameters()]:
            parameter.zero_()
    found = measurements.latents(model, made_up(200, generator))
    assert found["excess"].mean() == pytest.approx(0, abs=0.02)


def test_latents_of_licensed_images(model, licensed, tmp_path, monkeypatch):
    monkeypatch.setattr(lifting, "ROOT", licensed)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    item = variants("propose", "paper-smoke")[0]
    images = systems.records(item.run.world, "test")
    found = measurements.latents(model, images)
    assert found["action"].tolist() == list(images.action)
    assert set(found["action"]) == {"Directions", "Sitting"}
    assert np.isfinite(found[["excess", "found", "spread", "rebuilt"]]).all(axis=None)


def test_principal_components(generator):
    values = torch.randn(500, 5, generator=generator) * torch.tensor([0.1, 3.0, 0.2, 1.0, 0.1])
    scores, share = measurements.principal(values)
    assert share.sum().item() == pytest.approx(1, abs=1e-5)
    assert share[0] > 0.8
    centred = values - values.mean(0)
    torch.testing.assert_close(scores[:, 0], centred[:, 1], atol=0.5, rtol=0)
    again, _ = measurements.principal(-values)
    torch.testing.assert_close(again, -scores, atol=1e-4, rtol=1e-4)


@pytest.fixture
def one_run(tmp_path, monkeypatch):
    """Pretend that the study has a single variant, with a finished run of an untrained model."""
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    item = variants("propose", "smoke")[0]
    monkeypatch.setattr(measurements.Measurement, "variants", lambda *_: [item])
    records = made_up(5, torch.Generator().manual_seed(0))
    monkeypatch.setattr(systems, "records", lambda *_: records)
    run = item.seeded(0).run
    folder = runs.run_directory(run)
    model = Propose(profile("smoke").propose.model)
    about = {"system": "propose", "name": "full", "run": to_dict(run)}
    folder.mkdir(parents=True)
    save_model(folder / "best", model, about)
    done = '{"step": 9, "best_step": 6, "best": 123.5, "seconds": 2.0}'
    (folder / "done.json").write_text(done)
    return item


def test_rows_of_finished_runs(one_run):
    found = measurements.LATENTS.rows("smoke")
    assert list(found["variant"].unique()) == ["full"]
    assert len(found) == 5
    assert list(measurements.LATENTS.rows("smoke")["rebuilt"]) == list(found["rebuilt"])


def test_the_search_reads_validation_scores(one_run):
    found = measurements.VALIDATION_SCORES.rows("smoke")
    assert found[["score", "best_step", "steps"]].to_numpy().tolist() == [[123.5, 6, 9]]


def test_variational_controls_have_no_instance_gaussians():
    learned = {v.name for v in variants("propose", "smoke") if v.run.model.instance == "learned"}
    assert {item.name for item in measurements.LATENTS.variants("smoke")} == learned
    assert "instance" not in learned
